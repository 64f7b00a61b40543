//! The program is run against servers that others wrote, in Rust, Python and JavaScript: what it sends is understood, and
//! none of their right echoes is called wrong.
//!
//! Those that no Rust crate has are run when RINGBACK_FOREIGN names the folder in which `prepare` has installed them.

#[expect(dead_code, reason = "a part of it is for faulty servers")]
#[path = "../servers/support.rs"]
mod support;

use std::convert::Infallible;
use std::io::{self, BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use baselines::tungstenite_echo::{self, Flush};
use baselines::{fastwebsockets_echo, tokio_websockets_echo};
use support::load_ws;

#[test]
fn tungstenite() {
    load_all(serve(|listener| tungstenite_echo::serve(listener, Flush::EachMessage)));
}

#[test]
fn tungstenite_in_batches() {
    load_all(serve(|listener| tungstenite_echo::serve(listener, Flush::WhenIdle)));
}

#[test]
fn fastwebsockets() {
    load_all(serve(fastwebsockets_echo::serve));
}

#[test]
fn tokio_websockets() {
    load_all(serve(tokio_websockets_echo::serve));
}

#[test]
fn websockets_of_python() {
    let Some(folder) = prepared("python/bin/python") else { return };
    let mut command = Command::new(folder.join("python/bin/python"));
    command.arg(script("websockets_echo.py"));
    load_all(Program::start(command).address);
}

#[test]
fn ws_of_npm() {
    let Some(folder) = prepared("node_modules/ws") else { return };
    let mut command = Command::new("node");
    command.arg(script("ws_echo.mjs")).arg(folder);
    load_all(Program::start(command).address);
}

/// Loads the server with messages of each kind and length form, several in flight; in fragments with pings in between;
/// and with connections that come and go, or are held.
fn load_all(server: SocketAddr) {
    for kind in ["text", "utf8", "binary"] {
        for size in ["0", "125", "64KiB", "1MiB"] {
            let ran = load_ws(server, &["-c", "2", "--depth", "8", "--kind", kind, "--size", size]);
            assert_eq!(ran.code, 0, "{kind} {size}: {}{}", ran.stdout, ran.stderr);
            assert_eq!(ran.json()["errors_total"], 0, "{kind} {size}: {}", ran.stdout);
            // What is in flight at the end is waited for: all were filled at least once.
            assert!(ran.echoes() >= 2 * 8, "{kind} {size}: {}", ran.stdout);
        }
    }
    for args in [
        &["--ping-every", "3", "--fragments", "1-3", "--depth", "8"][..],
        &["--kind", "ping", "--depth", "8"],
        &["--idle"],
        &["--churn"],
    ] {
        let ran = load_ws(server, &[args, &["-c", "3"]].concat());
        assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.stdout, ran.stderr);
        assert_eq!(ran.json()["errors_total"], 0, "{args:?}: {}", ran.stdout);
        assert!(ran.echoes() >= 3, "{args:?}: {}", ran.stdout);
    }
}

/// Lets a server of the baselines run for as long as the tests do.
fn serve(server: impl FnOnce(TcpListener) -> io::Result<Infallible> + Send + 'static) -> SocketAddr {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = baselines::listen(any_port, None).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || match server(listener).expect("accepting goes on") {});
    address
}

/// The folder of the installed servers; says why when there is none with this file in it.
fn prepared(file: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("RINGBACK_FOREIGN") else {
        println!("SKIPPED: RINGBACK_FOREIGN is not set; loadtest/tests/foreign/prepare says what it is for");
        return None;
    };
    // Whoever set it stood in the root of the repository; the tests run in the package's folder.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    if !folder.join(file).exists() {
        println!("SKIPPED: there is no {}", folder.join(file).display());
        return None;
    }
    Some(folder)
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign").join(name)
}

/// A server that is a process; it ends when this is dropped, or when the tests end, for it reads its standard input.
struct Program {
    child: Child,
    address: SocketAddr,
}

impl Program {
    /// Starts it and waits until it says where it listens.
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("text");
        let address = line.trim_end().strip_prefix("listening on ").and_then(|address| address.parse().ok());
        let address = address.unwrap_or_else(|| panic!("{command:?} says {line:?}, not where it listens"));
        Self { child, address }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail if it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
