//! More connections than one address has ports.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use ringback::config::{Config, EngineChoice, ListeningConfig};
use ringback::engine::{self, Engine};
use ringback::server::Server;
use rustix::process::{Resource, getrlimit};

use crate::support::loadtest;
use crate::volume;

/// Each worker, and each thread of the program, has a table of files of its own, which the limit of open files bounds.
const WORKERS: usize = 4;

/// Set for the process that is the server.
const IS_SERVER: &str = "RINGBACK_TEST_IS_CROWD_SERVER";

#[test]
#[ignore = "volume: 60,000 connections, 30 s"]
fn sixty_thousand_connections_from_several_addresses() {
    if let Err(error) = engine::choose(Some(Engine::Ring)) {
        println!("SKIPPED: {error}");
        return;
    }
    let wanted = volume(60_000).max(WORKERS);
    let count = wanted.min(allowed());
    if count < wanted {
        println!("SCALED DOWN: {count} connections instead of {wanted}, for the limit of open files");
    }
    let server = Crowd::start();
    let url = format!("ws://{}/ws", server.address);
    let load = format!(
        "{url} --engine ring --source 127.0.0.0/29 --connections {count} --threads {WORKERS} --duration 5s \
         --connect-timeout 2m --grace 2m --server-pid {} --json",
        server.child.id()
    );
    let ran = loadtest(&load.split(' ').collect::<Vec<_>>());
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    let json = ran.json();
    assert_eq!((&json["errors_total"], &json["connections"]), (&0.into(), &count.into()), "{json}");
    // Every connection has at least the echo that it waited for at the end.
    assert!(ran.echoes() >= count as u64, "{json}");
    assert_eq!(server.end(), count as u64, "connections that the server has accepted");
    println!(
        "{count} connections, {} echoes, {} messages a second, server's memory {} KiB",
        ran.echoes(),
        json["messages_per_second"],
        json["server"]["rss_bytes"].as_u64().unwrap_or(0) / 1024
    );
}

/// No test of its own: the server of the one above, in a process of its own, since descriptors are counted by process.
#[test]
fn serve_when_told_to() {
    if std::env::var_os(IS_SERVER).is_none() {
        return;
    }
    let server = Server::start(&Config {
        listening: ListeningConfig::at([SocketAddr::from(([127, 0, 0, 1], 0))]),
        engine: EngineChoice::Ring,
        workers: Some(WORKERS),
        // A crowd that comes at once keeps each other waiting.
        handshake_timeout: Duration::from_secs(120),
        ..Config::default()
    })
    .expect("a server of the ring engine");
    // Standard output has the words of the test harness.
    eprintln!("{LISTENING}{}", server.addresses()[0]);
    // Ends with the process that it serves.
    drop(std::io::stdin().read_to_end(&mut Vec::new()));
    eprintln!("{ACCEPTED}{}", server.stats().accepted);
}

const LISTENING: &str = "listening on ";
const ACCEPTED: &str = "accepted ";

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many connections both sides have room for.
fn allowed() -> usize {
    let files = getrlimit(Resource::Nofile).maximum.and_then(|limit| usize::try_from(limit).ok());
    // What else has a place in the tables is a few hundred; and the kernel spreads connections over workers by chance: with
    // 15,000 for each, none has 500 more.
    files.map_or(usize::MAX, |files| files.saturating_sub(1500).saturating_mul(WORKERS))
}

/// The server that the program is loaded on, a child process.
struct Crowd {
    child: Child,
    /// It runs until this is closed.
    stdin: Option<ChildStdin>,
    words: Receiver<String>,
    address: SocketAddr,
}

impl Crowd {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "--nocapture", "crowd::serve_when_told_to"])
            .env(IS_SERVER, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs again");
        let (to, words) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                eprintln!("server: {line}");
                // Nobody may listen any more.
                let _ = to.send(line);
            }
        });
        let stdin = child.stdin.take();
        let mut crowd = Self { child, stdin, words, address: SocketAddr::from(([0; 4], 0)) };
        crowd.address = crowd.await_word(LISTENING).parse().expect("an address");
        crowd
    }

    /// Ends it; gives how many connections it has accepted.
    fn end(mut self) -> u64 {
        drop(self.stdin.take());
        self.await_word(ACCEPTED).parse().expect("a count")
    }

    /// What follows `start` in the next line that begins so.
    fn await_word(&self, start: &str) -> String {
        loop {
            let line = self.words.recv_timeout(PATIENCE).expect("the server says what it is asked");
            if let Some(rest) = line.strip_prefix(start) {
                return rest.to_owned();
            }
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // Both fail if it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
