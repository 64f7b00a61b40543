//! What is told while the load runs: something on a terminal, nothing elsewhere.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::support::{loadtest, serve_tungstenite};

#[test]
fn progress_is_shown_on_a_terminal() {
    let url = format!("ws://{}/", serve_tungstenite());
    let shown = on_terminal(&[&url, "-c", "2", "-d", "1200ms", "--warmup", "0s"]);
    for part in ["connecting and warming up", "/s  p50 ", "p99 ", "errors 0", "/2 s"] {
        assert!(shown.contains(part), "{part} in {shown:?}");
    }
    assert_eq!(on_terminal(&[&url, "-c", "2", "-d", "300ms", "--warmup", "0s", "--quiet"]), "");
}

#[test]
fn nothing_is_shown_where_nobody_looks() {
    let url = format!("ws://{}/", serve_tungstenite());
    let ran = loadtest(&[&url, "-c", "2", "-d", "300ms", "--warmup", "0s"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
}

/// What a run writes to its standard error when that is a terminal.
fn on_terminal(args: &[&str]) -> String {
    let mut terminal = File::from(openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal"));
    grantpt(&terminal).expect("ours");
    unlockpt(&terminal).expect("ours");
    let name = ptsname(&terminal, Vec::new()).expect("a name").into_string().expect("text");
    let other_end = OpenOptions::new().read(true).write(true).open(name).expect("it is there");
    let mut child = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(args)
        .env("TERM", "xterm")
        .stdout(Stdio::null())
        .stderr(other_end)
        .spawn()
        .expect("it is built");
    let mut shown = Vec::new();
    // Reading ends with EIO when nobody has the other end open any more.
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = terminal.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..len]);
    }
    assert!(child.wait().expect("ours").success());
    String::from_utf8_lossy(&shown).into_owned()
}
