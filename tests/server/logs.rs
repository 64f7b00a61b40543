//! What the log says, and that nobody who reads it, or does not, holds the server up.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::net::{Shutdown, SocketAddr};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use ringback::proto::frame::OpCode;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::{Client, DEADLINE, Server, announced, command, frame, handshake, header};
use crate::on_each_engine;

on_each_engine! {
    every_line_of_a_session_has_the_fields_that_are_documented,
    what_peers_send_is_never_written_raw,
    a_cause_is_logged_once_in_ten_seconds,
    a_log_that_nobody_reads_stops_nobody,
    a_log_that_is_closed_stops_nobody,
}

/// The events that programs may rely on, as docs/LOGS.md has them: level, message, and fields, of which those behind the bar
/// are not in every line.
const EVENTS: [(&str, &str, &str); 9] = [
    ("INFO", "started", "version engine workers"),
    ("INFO", "listening", "address path"),
    ("INFO", "request refused", "cause error status | peer request origin suppressed"),
    ("WARN", "request refused", "cause error status | peer request suppressed"),
    ("WARN", "connection dropped", "cause | peer suppressed"),
    ("WARN", "PROXY header refused", "cause error | peer suppressed"),
    ("INFO", "protocol broken", "cause close_code error | suppressed"),
    ("INFO", "draining", "connections timeout"),
    (
        "INFO",
        "ended",
        "uptime_ms connections handshakes refusals proxy_errors protocol_errors messages payload_bytes drained cut",
    ),
];

/// Bytes that would be a line, a colour, or the end of a value of their own.
const WILD_LINE: &[u8] =
    b"GET /\x1b[31m\x07\"\\ \x7f\xC2\x9B\xE2\x80\xAE\xFF level=ERROR HTTP/1.1\r\nHost: a\r\n\r\n";

fn every_line_of_a_session_has_the_fields_that_are_documented(engine: &str) {
    let mut lines = Vec::new();
    let options =
        ["--log-format", "json", "--max-connections-per-ip", "2", "--allowed-origin", "https://a.example"];
    let server = Server::start(engine, &options);
    // Each from an address of its own: the one before may not have ended yet.
    let requests = [
        WILD_LINE.to_vec(),
        handshake("/other", "").into_bytes(),
        handshake("/ws", "Origin: https://b.example/\"\r\n").into_bytes(),
    ];
    for (request, last) in requests.iter().zip(10..) {
        let mut client = Client::connect_raw_from([127, 0, 0, last], server.address);
        client.send_bytes(request);
        assert!(client.read_head().starts_with("HTTP/1.1 4"));
    }
    let mut broken = Client::connect_raw_from([127, 0, 0, 9], server.address);
    broken.send_bytes(handshake("/ws", "").as_bytes());
    assert!(broken.read_head().starts_with("HTTP/1.1 101 "));
    broken.send_bytes(&header(true, OpCode::Pong, 126));
    assert_eq!(broken.read_close(), 1002);
    let mut clients: Vec<_> = (0..2).map(|_| server.connect()).collect();
    clients[0].echo(OpCode::Text, b"hello");
    let held: Vec<_> = (0..30).map(|_| server.connect_raw()).collect();
    lines.extend(server.log_until("connection dropped"));
    drop(held);
    server.signal(Signal::TERM);
    drop(clients);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0));
    lines.extend(log);

    let server = Server::start(engine, &["--log-format", "json", "--proxy-protocol", "v1"]);
    let mut client = server.connect_raw();
    client.send_bytes(b"PROXY TCP4 \x1b[31m\n");
    let _ = std::io::Read::read_to_end(&mut client.stream, &mut Vec::new());
    server.signal(Signal::TERM);
    lines.extend(server.wait().1);

    let documents =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/LOGS.md")).expect("a document");
    let mut seen: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for line in &lines {
        let Value::Object(object) =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
        else {
            panic!("{line}")
        };
        assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{line:?}");
        let text =
            |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_else(|| panic!("{name}: {line}"));
        let (level, message) = (text("level"), text("message"));
        // What is for people: SIGUSR1, and causes that this test has nothing to do with.
        if message.starts_with("counters: ") || message == "lines were suppressed" {
            continue;
        }
        let event = EVENTS.iter().find(|event| (event.0, event.1) == (level, message));
        let (_, _, fields) = event.unwrap_or_else(|| panic!("an event that is not documented: {line}"));
        let (always, sometimes) = fields.split_once('|').unwrap_or((fields, ""));
        let names: BTreeSet<_> = object.keys().map(String::as_str).collect();
        let always: BTreeSet<_> =
            always.split_whitespace().chain(["timestamp", "level", "message"]).collect();
        let all: BTreeSet<_> = always.iter().copied().chain(sometimes.split_whitespace()).collect();
        assert!(names.is_superset(&always) && names.is_subset(&all), "{names:?} in {line}");
        if message == "ended" {
            let are_numbers = fields.split_whitespace().all(|name| object[name].is_u64());
            assert!(are_numbers, "a total that is no number: {line}");
        }
        for name in &names {
            assert!(documents.contains(&format!("`{name}`")), "{name} in docs/LOGS.md");
        }
        assert!(documents.contains(&format!("| `{message}` |")), "{message} in docs/LOGS.md");
        seen.entry((level.to_owned(), message.to_owned()))
            .or_default()
            .extend(names.into_iter().map(str::to_owned));
    }
    assert_eq!(seen.len(), EVENTS.len(), "each event has happened: {:?}", seen.keys());
    let refused = &seen[&("INFO".to_owned(), "request refused".to_owned())];
    assert!(refused.contains("request") && refused.contains("origin"), "{refused:?}");
}

fn what_peers_send_is_never_written_raw(engine: &str) {
    for format in ["text", "json"] {
        let server =
            Server::start(engine, &["--log-format", format, "--allowed-origin", "https://a.example"]);
        let origin = [b"Origin: \xC2\x9Bx\"\\\t\xFF".as_slice(), &[b'o'; 4000], b"\r\n"].concat();
        let origin =
            handshake("/ws", "").replacen("\r\n\r\n", "\r\n", 1).into_bytes().into_iter().chain(origin);
        for request in [WILD_LINE.to_vec(), origin.chain(*b"\r\n").collect(), vec![b'G'; 9000]] {
            let mut client = server.connect_raw();
            client.send_bytes(&request);
            assert!(client.read_head().starts_with("HTTP/1.1 4"));
        }
        server.signal(Signal::TERM);
        let (_, log) = server.wait();
        let refused: Vec<_> = log.iter().filter(|line| line.contains("request refused")).collect();
        assert_eq!(refused.len(), 3, "{log:?}");
        for line in &log {
            assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')) && line.len() < 1500, "{line:?}");
        }
        assert!(
            refused[0].contains("GET /%1B[31m%07%22%5C %7F%C2%9B%E2%80%AE%FF level=ERROR"),
            "{refused:?}"
        );
        assert!(refused[1].contains("%C2%9Bx%22%5C%09%FFooo"), "{refused:?}");
    }
}

fn a_cause_is_logged_once_in_ten_seconds(engine: &str) {
    let server = Server::start(engine, &[]);
    let began = Instant::now();
    for _ in 0..40 {
        let mut client = server.connect_raw();
        client.send_bytes(handshake("/other", "").as_bytes());
        assert!(client.read_head().starts_with("HTTP/1.1 404 "));
    }
    let mut client = server.connect_raw();
    client.send_bytes(b"POST /ws HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.read_head().starts_with("HTTP/1.1 405 "));
    drop(client);
    server.signal(Signal::TERM);
    let (_, log) = server.wait();
    if began.elapsed() > Duration::from_secs(9) {
        return println!("SKIPPED: this machine is so slow that there may be two");
    }
    let lines = |cause: &str| {
        log.iter().filter(|line| line.contains(&format!("cause=\"{cause}\""))).collect::<Vec<_>>()
    };
    let not_found = lines("not_found");
    assert_eq!(not_found.len(), 2, "{log:?}");
    assert!(not_found[0].contains("request refused"), "{not_found:?}");
    assert!(not_found[1].contains("suppressed=39"), "{not_found:?}");
    assert_eq!(lines("method").len(), 1, "another cause has a line of its own: {log:?}");
}

/// A server whose standard error nobody reads, and what it writes there.
fn unread(engine: &str) -> (Child, SocketAddr) {
    let mut command = command(&["--listen", "127.0.0.1:0", "--workers", "1", "--engine", engine]);
    command.env("RUST_LOG", "debug");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("it listens");
    (child, announced(&line).expect("a port"))
}

/// More lines than a pipe, of 64 KiB, and the queue before it have room for; then the server is told to end.
fn flood(child: &mut Child, address: SocketAddr) {
    let mut first = Client::connect(address);
    for _ in 0..1500 {
        let mut client = Client::connect(address);
        client.send_bytes(&frame(true, OpCode::Text, b"\xFF"));
        assert_eq!(client.read_close(), 1007);
        client.stream.shutdown(Shutdown::Both).expect("connected");
    }
    first.echo(OpCode::Text, b"still here");
    drop(first);
    kill_process(Pid::from_child(child), Signal::TERM).expect("it runs");
    let deadline = Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(status.code(), Some(0));
}

fn a_log_that_nobody_reads_stops_nobody(engine: &str) {
    let (mut child, address) = unread(engine);
    let stderr = child.stderr.take().expect("piped");
    flood(&mut child, address);
    let written = BufReader::new(stderr).lines().map_while(Result::ok).count();
    assert!((100..3000).contains(&written), "the pipe is full, and no more: {written} lines");
}

fn a_log_that_is_closed_stops_nobody(engine: &str) {
    let (mut child, address) = unread(engine);
    drop(child.stderr.take());
    flood(&mut child, address);
}
