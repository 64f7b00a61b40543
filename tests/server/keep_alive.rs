//! Peers that say nothing: pinged, and given up when they do not answer; and those that take nothing.

use std::io::{ErrorKind, Read as _, Write as _};
use std::thread;
use std::time::{Duration, Instant};

use ringback::proto::frame::OpCode;
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::common::{self, Client, Server, close_payload, frame, pattern};
use crate::on_each_engine;

on_each_engine! {
    silence,
}

/// All at once, for most of it is waiting. A thread that panics says its name.
fn silence(engine: &str) {
    type Test = (&'static str, fn(&str));
    let tests: [Test; 8] = [
        ("who_answers_pings_lives_on", who_answers_pings_lives_on),
        ("who_does_not_gets_1001_and_the_end", who_does_not_gets_1001_and_the_end),
        ("a_busy_client_is_never_pinged", a_busy_client_is_never_pinged),
        ("messages_around_pings_come_back", messages_around_pings_come_back),
        ("who_takes_nothing_is_given_up", who_takes_nothing_is_given_up),
        ("who_reads_slowly_is_not", who_reads_slowly_is_not),
        ("pongs_do_not_keep_an_idle_client", pongs_do_not_keep_an_idle_client),
        ("a_drain_says_1001_once", a_drain_says_1001_once),
    ];
    thread::scope(|scope| {
        for (name, test) in tests {
            let thread = thread::Builder::new().name(name.into());
            thread.spawn_scoped(scope, move || test(engine)).expect("a thread");
        }
    });
}

/// Times so short, and a deadline long enough for a busy machine where nothing is to be given up.
const SHORT: [&str; 4] = ["--keep-alive-interval", "200ms", "--keep-alive-timeout", "200ms"];
const PATIENT: [&str; 4] = ["--keep-alive-interval", "100ms", "--keep-alive-timeout", "60s"];

impl Client {
    /// Reads up to the server's Close(1001), before which there are pings alone, and answers these; gives how many.
    fn answer_pings_until_1001(&mut self) -> usize {
        let mut pings = 0;
        loop {
            let said = self.read_frame().expect("a Close");
            if said.opcode == OpCode::Close {
                assert_eq!(said.payload, close_payload(1001, ""));
                return pings;
            }
            assert_eq!(said.opcode, OpCode::Ping);
            pings += 1;
            self.send(OpCode::Pong, b"");
        }
    }

    /// Reads a ping.
    fn read_ping(&mut self) {
        let ping = self.read_frame().expect("a ping");
        assert!(ping.opcode == OpCode::Ping && ping.fin && ping.payload.is_empty(), "{ping:?}");
    }
}

fn who_answers_pings_lives_on(engine: &str) {
    let server = Server::start(engine, &PATIENT);
    let mut client = server.connect();
    let began = Instant::now();
    for _ in 0..5 {
        client.read_ping();
        client.send(OpCode::Pong, b"");
    }
    assert!(began.elapsed() >= Duration::from_millis(499), "each after 100 ms of silence");
    client.echo(OpCode::Text, b"still here");
    assert!(server.counter("pings_sent") >= 5 && server.counter("pongs") == 5);
    assert_eq!(server.counter("keep_alive_timeouts"), 0);
}

fn who_does_not_gets_1001_and_the_end(engine: &str) {
    let server = Server::start(engine, &SHORT);
    let mut client = server.connect();
    let began = Instant::now();
    client.read_ping();
    assert_eq!(client.read_close(), 1001);
    assert!(began.elapsed() >= Duration::from_millis(399), "both times have passed");
    // Its answer is waited for, but not for ever.
    client.expect_end();
    server.wait_for_counter("ended", 1);
    assert_eq!((server.counter("keep_alive_timeouts"), server.counter("cuts")), (1, 1));

    let mut client = server.connect();
    client.read_ping();
    assert_eq!(client.read_close(), 1001);
    client.send(OpCode::Close, &close_payload(1001, ""));
    client.expect_end();
    drop(client);
    server.wait_for_counter("ended", 2);
    assert_eq!((server.counter("keep_alive_timeouts"), server.counter("cuts")), (2, 1));
}

fn a_busy_client_is_never_pinged(engine: &str) {
    let interval = Duration::from_millis(800);
    let server = Server::start(engine, &["--keep-alive-interval", "800ms"]);
    let mut client = server.connect();
    let (began, mut last, mut gap) = (Instant::now(), Instant::now(), Duration::ZERO);
    while began.elapsed() < 2 * interval {
        client.echo(OpCode::Text, b"busy");
        gap = gap.max(last.elapsed());
        last = Instant::now();
        thread::sleep(Duration::from_millis(10));
    }
    if gap >= interval {
        return println!("SKIPPED: this machine was too busy for a client to be: {gap:?}");
    }
    assert_eq!(server.counter("pings_sent"), 0);
}

/// A read that is given up with a timer would swallow what comes next (tokio-uring).
fn messages_around_pings_come_back(engine: &str) {
    let server = Server::start(engine, &["--keep-alive-interval", "10ms", "--keep-alive-timeout", "60s"]);
    let mut client = server.connect();
    for round in 0..20 {
        client.read_ping();
        let payload = pattern([1, 5000, 100_000][round % 3]);
        client.send(OpCode::Binary, &payload);
        let (mut echoed, mut ended) = (Vec::new(), false);
        while !ended {
            let part = client.read_frame().expect("the echo");
            if part.opcode == OpCode::Ping {
                continue;
            }
            echoed.extend_from_slice(&part.payload);
            ended = part.fin;
        }
        assert!(echoed == payload, "{} bytes come back", payload.len());
    }
}

/// A client whose socket takes little: segments as on an Ethernet and a small buffer.
fn narrow(server: &Server) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_tcp_mss(1460).expect("a TCP option");
    socket.set_recv_buffer_size(16 << 10).expect("a size");
    let client = server.connect_over(socket);
    client.stream.set_nonblocking(true).expect("a socket");
    client
}

/// Sends until the server does not read any more.
fn fill(server: &Server, client: &mut Client) -> usize {
    let bytes = frame(true, OpCode::Binary, &pattern(60_000));
    let mut sent = 0;
    while server.counter("read_pauses") == 0 {
        match client.stream.write(&bytes[sent % bytes.len()..]) {
            Ok(written) => sent += written,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }
    sent
}

/// Its TCP confirms that its window is closed, for ever.
fn who_takes_nothing_is_given_up(engine: &str) {
    let mut options = vec!["--unsent-limit", "128KiB"];
    options.extend(["--keep-alive-interval", "500ms", "--keep-alive-timeout", "500ms"]);
    options.extend(["--flush-timeout", "500ms"]);
    let server = Server::start(engine, &options);
    let mut stuck = narrow(&server);
    fill(&server, &mut stuck);
    server.wait_for_counter("unread_timeouts", 1);
    server.wait_for_counter("ended", 1);
    assert_eq!((server.counter("keep_alive_timeouts"), server.counter("cuts")), (0, 1));
    server.connect().echo(OpCode::Text, b"meanwhile");
}

/// While it is not read from, its pong would lie in the server's socket.
fn who_reads_slowly_is_not(engine: &str) {
    let patience = Duration::from_secs(1);
    let mut options = vec!["--unsent-limit", "128KiB"];
    options.extend(["--keep-alive-interval", "500ms", "--keep-alive-timeout", "500ms"]);
    let server = Server::start(engine, &options);
    let mut slow = narrow(&server);
    let mut sent = fill(&server, &mut slow);
    let bytes = frame(true, OpCode::Binary, &pattern(60_000));
    let (began, mut last, mut gap) = (Instant::now(), Instant::now(), Duration::ZERO);
    let (mut read, mut chunk) = (0, vec![0; 1 << 10]);
    while began.elapsed() < 3 * patience {
        let results = [slow.stream.read(&mut chunk), slow.stream.write(&bytes[sent % bytes.len()..])];
        gap = gap.max(last.elapsed());
        last = Instant::now();
        for (result, count) in results.into_iter().zip([&mut read, &mut sent]) {
            match result {
                Ok(len) => *count += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) if gap > patience / 2 => {
                    return println!("SKIPPED: this machine was too busy for a client to read: {gap:?}");
                }
                Err(error) => panic!("a client that reads is not cut: {error}"),
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
    assert!(0 < read && read < sent, "{read} of {sent} bytes: it was slow");
    let counters = ["unread_timeouts", "keep_alive_timeouts", "pings_sent"].map(|name| server.counter(name));
    assert_eq!(counters, [0; 3]);
}

fn pongs_do_not_keep_an_idle_client(engine: &str) {
    let mut options = PATIENT.to_vec();
    options.extend(["--idle-timeout", "600ms"]);
    let server = Server::start(engine, &options);
    let mut client = server.connect();
    let began = Instant::now();
    client.echo(OpCode::Text, b"a message");
    let pings = client.answer_pings_until_1001();
    assert!(pings > 0 && began.elapsed() >= Duration::from_millis(599));
    client.send(OpCode::Close, &close_payload(1001, ""));
    client.expect_end();
    assert_eq!((server.counter("idle_timeouts"), server.counter("keep_alive_timeouts")), (1, 0));
}

fn a_drain_says_1001_once(engine: &str) {
    let server = Server::start(engine, &["--keep-alive-interval", "10ms", "--keep-alive-timeout", "60s"]);
    let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.read_ping();
    }
    server.signal(Signal::TERM);
    for client in &mut clients {
        client.answer_pings_until_1001();
        client.send(OpCode::Close, &close_payload(1001, ""));
        client.expect_end();
    }
    drop(clients);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log:?}");
    let summary = common::last_counters(&log);
    assert_eq!(common::counter_in(summary, "cuts"), 0);
}
