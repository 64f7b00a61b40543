//! The demo, with two servers that are not the real ones beside the program.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::process::{Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Bench, without_cargo};

pub(crate) fn it_compares_the_two_servers_beside_it() {
    let bench = Bench::new();
    for name in ["ringback", "tungstenite-echo"] {
        symlink(std::env::current_exe().expect("a path"), bench.path(name)).expect("a link");
    }
    let (code, stdout, stderr) = demo(&bench, &["--duration=6s"]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    for told in [
        "for about 6s: 3 loads, 2 rounds\n",
        "Every byte of every echo is compared.",
        "sixteen messages in flight",
        "█",
        " compare --baseline tungstenite ",
        "2 rounds are too few to tell servers apart: a longer --duration",
    ] {
        assert!(stdout.contains(told), "{told} in {stdout}");
    }
    let lines = |name: &str| stdout.lines().filter(|line| line.starts_with(&format!("  {name} "))).count();
    assert_eq!((lines("ringback"), lines("tungstenite")), (3, 3), "{stdout}");
    let told = |part: &str| stdout.matches(part).count();
    assert_eq!(told(" to 1; 2 rounds are too few to tell servers apart.\n"), 3, "{stdout}");
    for claim in ["costs ringback", "cannot be told apart", "95 %"] {
        assert_eq!(told(claim), 0, "{stdout}");
    }
    assert!(stderr.contains("round 2 of 2, utf8:16:16KiB:1"), "{stderr}");
}

pub(crate) fn a_signal_ends_it_and_stops_the_servers() {
    let bench = Bench::new();
    for name in ["ringback", "tungstenite-echo"] {
        symlink(std::env::current_exe().expect("a path"), bench.path(name)).expect("a link");
    }
    let other = bench.path("loadtest");
    fs::hard_link(env!("CARGO_BIN_EXE_loadtest"), &other).expect("it is built");
    let mut command = without_cargo(&other);
    command.args(["demo", "--duration=60s"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    let mut lines = lines.map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("round 2 of ")), "it goes on");
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    assert!(lines.any(|line| line.contains("the servers are stopped")));
    let output = child.wait_with_output().expect("it ends");
    let stdout = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(143), "{stdout}");
    assert!(stdout.contains("SIGTERM ended the comparison after 1 of "), "{stdout}");
    assert!(stdout.contains("1 round is too few to tell servers apart"), "{stdout}");
}

pub(crate) fn missing_servers_are_told_in_one_line() {
    let bench = Bench::new();
    let (code, stdout, stderr) = demo(&bench, &[]);
    assert_eq!((code, stdout.as_str()), (Some(69), ""));
    assert!(stderr.contains("there is no ") && stderr.contains("cargo run --release"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

pub(crate) fn too_short_a_time_is_refused() {
    let (code, _, stderr) = demo(&Bench::new(), &["--duration=1s"]);
    assert_eq!(code, Some(64));
    assert!(stderr.contains("--duration must be 3s or more"), "{stderr}");
}

/// Runs the demo of the program by another name of it, beside which only what the test has put there lies. Not of a copy:
/// as long as another thread's child, not yet another program, has that open to write, it cannot be run (ETXTBSY).
fn demo(bench: &Bench, arguments: &[&str]) -> (Option<i32>, String, String) {
    let other = bench.path("loadtest");
    fs::hard_link(env!("CARGO_BIN_EXE_loadtest"), &other).expect("it is built");
    let Output { status, stdout, stderr } =
        without_cargo(&other).arg("demo").args(arguments).output().expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}
