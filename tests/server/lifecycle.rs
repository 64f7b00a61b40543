//! How a server starts, refuses to start, and ends.

use std::io::Read as _;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ringback::config::{Config, EngineChoice, ListeningConfig};
use ringback::proto::frame::OpCode;
use rustix::process::Signal;

use crate::common::{
    self, Server, close_payload, command, filter, frame, handshake, pattern, read_some, restart,
};
use crate::on_each_engine;

on_each_engine! {
    a_drain_echoes_what_was_received_then_says_1001,
    a_drain_says_1001_to_a_client_that_never_pauses,
    a_drain_does_not_wait_for_ever,
    a_drain_ends_a_client_whose_bytes_never_cease,
    a_second_signal_ends_at_once,
    before_a_delayed_drain_everything_goes_on,
    a_second_signal_ends_a_delay_at_once,
    a_hangup_and_a_broken_pipe_change_nothing,
    no_signal_ends_a_server_by_accident,
    the_last_line_sums_up,
    handshakes_under_way_get_503_at_a_drain,
    silent_connections_get_nothing_at_a_drain,
    started_twice_on_one_port,
    ipv6_and_several_listeners,
    several_workers_share_a_port,
    killed_under_load_it_starts_again_at_its_address,
}

fn a_drain_echoes_what_was_received_then_says_1001(engine: &str) {
    for signal in [Signal::TERM, Signal::INT] {
        let server = Server::start(engine, &[]);
        let mut clients: Vec<_> = (0..50).map(|_| server.connect()).collect();
        // Bytes that are in the server's socket when the signal comes.
        server.signal(Signal::STOP);
        for client in &mut clients {
            for size in [10, 1000, 100_000] {
                client.send(OpCode::Binary, &pattern(size));
            }
        }
        server.signal(signal);
        server.signal(Signal::CONT);
        for client in &mut clients {
            for size in [10, 1000, 100_000] {
                assert!(client.read_message() == (OpCode::Binary, pattern(size)), "{size} bytes come back");
            }
            assert_eq!(client.read_close(), 1001);
            client.send(OpCode::Close, &close_payload(1001, ""));
            client.expect_end();
        }
        drop(clients);
        let (status, log) = server.wait();
        assert_eq!(status.code(), Some(0), "{log:?}");
        let summary = common::last_counters(&log);
        assert_eq!(common::counter_in(summary, "binaries"), 150);
        assert_eq!(common::counter_in(summary, "accepted"), common::counter_in(summary, "ended"));
    }
}

fn a_drain_says_1001_to_a_client_that_never_pauses(engine: &str) {
    let server = Server::start(engine, &[]);
    let mut client = server.connect();
    let mut echoed = 0;
    client.echo(OpCode::Text, b"before");
    server.signal(Signal::TERM);
    loop {
        client.send(OpCode::Text, b"and on");
        let answer = client.read_frame().expect("an echo, then a Close");
        if answer.opcode == OpCode::Close {
            assert_eq!(answer.payload, close_payload(1001, ""));
            break;
        }
        assert_eq!(answer.payload, b"and on");
        echoed += 1;
    }
    assert!(echoed > 0, "what was on its way is echoed");
    client.send(OpCode::Close, &close_payload(1001, ""));
    client.expect_end();
    drop(client);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log:?}");
    let summary = common::last_counters(&log);
    assert_eq!(common::counter_in(summary, "cuts"), 0);
}

fn a_drain_does_not_wait_for_ever(engine: &str) {
    let server = Server::start(engine, &["--drain-timeout", "3s"]);
    let mut silent = server.connect();
    let mut stuck = server.connect();
    stuck.stream.set_write_timeout(Some(Duration::from_millis(200))).expect("a duration");
    let bytes = frame(true, OpCode::Binary, &pattern(60_000));
    while std::io::Write::write_all(&mut stuck.stream, &bytes).is_ok() {}
    let began = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(silent.read_close(), 1001);
    let (status, _) = server.wait();
    assert_eq!(status.code(), Some(0));
    assert!(began.elapsed() >= Duration::from_millis(2990), "they are waited for");
}

/// Its message never ends, and the next read is ready at once.
fn a_drain_ends_a_client_whose_bytes_never_cease(engine: &str) {
    let flood: Vec<u8> = (0..100_000).flat_map(|_| frame(false, OpCode::Continuation, b"")).collect();
    let server = Server::start(engine, &["--drain-timeout", "30s"]);
    let mut client = server.connect();
    client.send_bytes(&frame(false, OpCode::Binary, b""));
    let mut sender = client.stream.try_clone().expect("a second handle");
    thread::scope(|scope| {
        scope.spawn(move || while std::io::Write::write_all(&mut sender, &flood).is_ok() {});
        scope.spawn(move || {
            let close = [&[0x88, 2][..], &close_payload(1001, "")].concat();
            let mut chunk = vec![0; 1 << 20];
            let mut end = Vec::new();
            while !end.ends_with(&close) {
                let read = read_some(&mut client.stream, &mut chunk).expect("a Close before the end");
                assert_ne!(read, 0, "a Close before the end");
                end.extend_from_slice(&chunk[..read]);
                end.drain(..end.len().saturating_sub(close.len()));
            }
            client.stream.shutdown(std::net::Shutdown::Both).expect("a connected socket");
        });
        thread::sleep(Duration::from_millis(300));
        server.signal(Signal::TERM);
    });
    assert_eq!(server.wait().0.code(), Some(0));
}

fn a_second_signal_ends_at_once(engine: &str) {
    let server = Server::start(engine, &["--drain-timeout", "1h"]);
    let mut silent = server.connect();
    server.signal(Signal::TERM);
    assert_eq!(silent.read_close(), 1001);
    // One that comes right behind the first is the same one.
    thread::sleep(Duration::from_millis(400));
    server.signal(Signal::TERM);
    let (status, _) = server.wait();
    assert_eq!(status.code(), Some(0));
}

fn before_a_delayed_drain_everything_goes_on(engine: &str) {
    let server = Server::start(engine, &["--drain-delay", "700ms"]);
    let mut before = server.connect();
    let began = Instant::now();
    server.signal(Signal::TERM);
    // What is a second signal without it.
    thread::sleep(Duration::from_millis(250));
    let mut after = server.connect();
    after.echo(OpCode::Text, b"accepted and echoed after the signal");
    before.echo(OpCode::Text, b"echoed after the signal");
    for client in [&mut before, &mut after] {
        assert_eq!(client.read_close(), 1001);
        assert!(began.elapsed() >= Duration::from_millis(700), "the drain begins with the delay's end");
        client.send(OpCode::Close, &close_payload(1001, ""));
        client.expect_end();
    }
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log:?}");
    assert!(log.iter().any(|line| line.contains("the drain begins later")), "{log:?}");
}

fn a_second_signal_ends_a_delay_at_once(engine: &str) {
    let server = Server::start(engine, &["--drain-delay", "1h"]);
    let mut client = server.connect();
    server.signal(Signal::TERM);
    thread::sleep(Duration::from_millis(250));
    client.echo(OpCode::Text, b"there is no drain yet");
    server.signal(Signal::INT);
    client.expect_end();
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log:?}");
    let summary = log.last().expect("a summary");
    assert_eq!((common::counter_in(summary, "drained"), common::counter_in(summary, "cut")), (0, 1));
}

fn a_hangup_and_a_broken_pipe_change_nothing(engine: &str) {
    let server = Server::start(engine, &[]);
    let mut client = server.connect();
    for signal in [Signal::HUP, Signal::PIPE, Signal::HUP] {
        server.signal(signal);
        client.echo(OpCode::Text, b"as ever");
    }
    server.connect().echo(OpCode::Text, b"accepted as ever");
    drop(client);
    server.signal(Signal::TERM);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log:?}");
    // Two that come at once may be one.
    let said = log.iter().filter(|line| line.contains("nothing to reload")).count();
    assert!((1..=2).contains(&said), "{log:?}");
}

/// Those that would end a process which does not take them, while it serves, in the delay, and in the drain.
fn no_signal_ends_a_server_by_accident(engine: &str) {
    let server = Server::start(engine, &["--drain-delay", "700ms", "--drain-timeout", "1h"]);
    let stray = || {
        for signal in [
            Signal::HUP,
            Signal::USR1,
            Signal::USR2,
            Signal::ALARM,
            Signal::VTALARM,
            Signal::PROF,
            Signal::IO,
            Signal::POWER,
            Signal::STKFLT,
            Signal::XFSZ,
            Signal::PIPE,
        ] {
            server.signal(signal);
        }
        let pid = server.pid().as_raw_nonzero().to_string();
        let sent = Command::new("kill").args(["-s", "RTMIN", &pid]).status();
        assert!(sent.expect("kill(1)").success());
    };
    let mut client = server.connect();
    stray();
    client.echo(OpCode::Text, b"serving");
    server.signal(Signal::TERM);
    stray();
    client.echo(OpCode::Text, b"in the delay");
    assert_eq!(client.read_close(), 1001);
    stray();
    server.wait_for_counter("drained", 1);
    // The client does not answer, and the drain lasts; this ends it.
    server.signal(Signal::QUIT);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log:?}");

    let server = Server::start(engine, &["--drain-timeout", "1h"]);
    let _client = server.connect();
    server.signal(Signal::QUIT);
    assert_eq!(server.wait().0.code(), Some(0), "at once, without a drain");
}

fn the_last_line_sums_up(engine: &str) {
    let server = Server::start(engine, &["--drain-timeout", "1s"]);
    let mut clients: Vec<_> = (0..3).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.echo(OpCode::Text, b"12345");
        client.echo(OpCode::Binary, &[0; 1000]);
    }
    let mut done = clients.pop().expect("three");
    done.send(OpCode::Close, &close_payload(1000, ""));
    assert_eq!(done.read_close(), 1000);
    done.expect_end();
    drop(done);
    server.signal(Signal::TERM);
    for client in &mut clients {
        assert_eq!(client.read_close(), 1001);
    }
    // The other one does not answer.
    let mut polite = clients.remove(0);
    polite.send(OpCode::Close, &close_payload(1001, ""));
    polite.expect_end();
    drop(polite);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log:?}");
    let summary = log.last().expect("a summary");
    assert!(summary.contains(" ended uptime_ms="), "{summary}");
    for (name, count) in
        [("connections", 3), ("messages", 6), ("payload_bytes", 3 * 1005), ("drained", 2), ("cut", 1)]
    {
        assert_eq!(common::counter_in(summary, name), count, "{summary}");
    }
}

fn handshakes_under_way_get_503_at_a_drain(engine: &str) {
    let server = Server::start(engine, &[]);
    let mut half = server.connect_raw();
    half.send_bytes(b"GET /ws HTTP/1.1\r\n");
    server.wait_for_counter("accepted", 1);
    server.signal(Signal::STOP);
    let mut queued = server.connect_raw();
    queued.send_bytes(handshake("/ws", "").as_bytes());
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    let head = half.read_head();
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    // Accepted before the drain was seen, or refused because of it: it gets an answer, not a reset.
    let head = queued.read_head();
    assert!(head.starts_with("HTTP/1.1 503 ") || head.starts_with("HTTP/1.1 101 "), "{head}");
    drop((half, queued));
    assert_eq!(server.wait().0.code(), Some(0));
}

/// A browser's spare connection is no request. One that becomes a request in time is answered as such.
fn silent_connections_get_nothing_at_a_drain(engine: &str) {
    let server = Server::start(engine, &[]);
    let mut silent = server.connect_raw();
    let mut late = server.connect_raw();
    server.wait_for_counter("accepted", 2);
    // It keeps the server there.
    let mut open = server.connect();
    server.signal(Signal::TERM);
    assert_eq!(open.read_close(), 1001);
    late.send_bytes(handshake("/ws", "").as_bytes());
    let head = late.read_head();
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!(silent.read_to_end(), b"", "a client that said nothing was answered");
    server.wait_for_counter("silent", 1);
    assert_eq!(server.counter("refusals"), 1);
    drop((late, open));
    assert_eq!(server.wait().0.code(), Some(0));
}

/// SO_REUSEPORT would let the second one bind silently and take half of the connections.
fn started_twice_on_one_port(engine: &str) {
    let server = Server::start(engine, &[]);
    let second = run(&["--engine", engine, "--listen", &server.address.to_string()]);
    assert_eq!(second.status.code(), Some(69));
    let message = stderr(&second);
    assert!(message.contains(&server.address.to_string()) && message.contains("--listen"), "{message}");
    server.connect().echo(OpCode::Text, b"the first one serves on");
}

fn ipv6_and_several_listeners(engine: &str) {
    let mut command = command(&["--engine", engine, "--workers", "1", "--listen", "127.0.0.1:0"]);
    let has_ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    if has_ipv6 {
        command.args(["--listen", "[::1]:0"]);
    } else {
        println!("SKIPPED: IPv6, which this machine does not have");
    }
    let mut server = Server::spawn(command);
    server.connect().echo(OpCode::Text, b"over IPv4");
    if has_ipv6 {
        server.address = server.next_address();
        assert!(server.address.is_ipv6() && server.address.port() != 0);
        server.connect().echo(OpCode::Text, b"over IPv6");
    }
}

fn several_workers_share_a_port(engine: &str) {
    let server = Server::start(engine, &["--workers", "3", "--no-pin"]);
    let mut clients: Vec<_> = (0..30).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.echo(OpCode::Text, b"whichever worker has me");
    }
    assert_eq!(server.counter("texts"), 30);
    server.signal(Signal::TERM);
    for client in &mut clients {
        assert_eq!(client.read_close(), 1001);
        client.send(OpCode::Close, &close_payload(1001, ""));
        client.expect_end();
    }
    assert_eq!(server.wait().0.code(), Some(0));
}

/// For whoever asks where to send connections; nothing else changes yet.
#[test]
fn a_server_that_leaves_is_not_ready_and_goes_on() {
    let server = ringback::server::Server::start(&Config {
        listening: ListeningConfig::at([SocketAddr::from(([127, 0, 0, 1], 0))]),
        engine: EngineChoice::Epoll,
        workers: Some(1),
        ..Config::default()
    })
    .expect("a server");
    assert!(server.is_ready());
    server.leave();
    assert!(!server.is_ready());
    let address = server.addresses()[0].ip().expect("a port");
    common::Client::connect(address).echo(OpCode::Text, b"accepted as ever");
    server.drain();
    assert!(!server.is_ready());
    server.stop();
    assert_eq!(server.join().expect("its workers end").texts, 1);
}

/// The volume tests say how fast.
fn killed_under_load_it_starts_again_at_its_address(engine: &str) {
    let took = restart::first_echoes_after_kills(engine, 3);
    println!("{engine}: the first echoes came {took:?} after the starts");
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output().expect("the binary runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("messages are UTF-8")
}

#[test]
fn mistakes_end_with_what_to_do() {
    for (arguments, code, says) in [
        (&["--engine", "kqueue"][..], 64, "tokio-uring"),
        (&["--listen", "somewhere"], 64, "--listen"),
        (&["--listen", "localhost:9001"], 64, "give 127.0.0.1:9001, [::1]:9001, or both"),
        (&["--unix-mode", "0999"], 64, "in octal"),
        (&["--path", "ws"], 64, "begins with `/`"),
        (&["--allowed-origin", "https://a.example/"], 64, "https://a.example is what browsers send"),
        (&["--subprotocol", "a b"], 64, "--subprotocol"),
        (&["--subprotocol", "a", "--subprotocol", "a"], 64, "--subprotocol a is given twice"),
        (&["--handshake-timeout", "soon"], 64, "--handshake-timeout"),
        (&["--no-such-option"], 64, "--no-such-option"),
        (&["--lisen", "127.0.0.1:0"], 64, "'--listen'"),
        (&["--path", "echo"], 64, "begins with `/`"),
        (&["doktor"], 64, "doctor"),
        (&["--listen", "192.0.2.1:0", "--engine", "epoll"], 69, "an address of this machine"),
        (&["--congestion-control", "none", "--listen", "127.0.0.1:0"], 69, "tcp_allowed_congestion_control"),
        (&["--max-connections", "2000000000", "--listen", "127.0.0.1:0"], 71, "ulimit -n"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(says), "{arguments:?}: {}", stderr(&output));
        let is_one_line = stderr(&output).starts_with("ringback: ") && stderr(&output).lines().count() == 1;
        assert!(is_one_line, "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_masking_kernel_that_is_not_there_is_a_mistake() {
    let mut command = command(&["--listen", "127.0.0.1:0"]);
    let output = command.env("RINGBACK_MASK", "mmx").output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("\"mmx\"") && stderr(&output).contains("scalar"), "{}", stderr(&output));
}

#[test]
fn help_and_version() {
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8(help.stdout).expect("UTF-8");
    for said in ["--listen", "127.0.0.1:9001", "--whole-frame-max", "64KiB", "RINGBACK_DRAIN_TIMEOUT", "10s"]
    {
        assert!(text.contains(said), "{said} in {text}");
    }
    for word in ["doctor", "man", "completions", "example-config", "help"] {
        assert!(text.lines().any(|line| line.split_whitespace().next() == Some(word)), "{word} in {text}");
    }
    let same = run(&["help"]);
    assert_eq!((same.status.code(), same.stdout), (Some(0), text.into_bytes()));
    let version = run(&["--version"]);
    assert_eq!(
        String::from_utf8(version.stdout).expect("UTF-8"),
        format!("ringback {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn options_come_from_the_environment_too() {
    let mut command = command(&[]);
    command
        .env("RINGBACK_LISTEN", "127.0.0.1:0")
        .env("RINGBACK_PATH", "/from-env")
        .env("RINGBACK_ENGINE", "epoll");
    command.env("RINGBACK_NO_PIN", "1");
    let server = Server::spawn(command);
    let mut client = server.connect_raw();
    client.send_bytes(handshake("/from-env", "").as_bytes());
    assert!(client.read_head().starts_with("HTTP/1.1 101 "));
}

#[test]
fn the_log_can_be_json() {
    let mut child = command(&["--listen", "127.0.0.1:0", "--engine", "epoll", "--log-format", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut first = [0; 1];
    child.stdout.as_mut().expect("piped").read_exact(&mut first).expect("it listens");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).expect("it runs");
    let output = child.wait_with_output().expect("it ends");
    let log = stderr(&output);
    assert!(!log.is_empty());
    for line in log.lines() {
        assert!(line.starts_with('{') && line.ends_with('}') && line.contains("\"level\":"), "{line}");
    }
}

/// How long a server may take to find out which engine it can have.
const START_MAX: Duration = Duration::from_secs(10);

/// Docker's seccomp profile answers EPERM, gVisor and old kernels ENOSYS, a low limit of locked memory ENOMEM.
#[test]
fn where_io_uring_is_refused_auto_takes_epoll_and_a_named_engine_says_why() {
    for (errno, says) in [(libc::EPERM, "seccomp"), (libc::ENOSYS, "seccomp"), (libc::ENOMEM, "ulimit -l")] {
        let refusal = vec![filter::refuse(libc::SYS_io_uring_setup, errno)];
        let (named, auto, took) = filter::under(refusal, || {
            let named =
                ["ring", "tokio-uring"].map(|engine| run(&["--engine", engine, "--listen", "127.0.0.1:0"]));
            let began = Instant::now();
            let auto =
                Server::spawn(command(&["--engine", "auto", "--listen", "127.0.0.1:0", "--workers", "4"]));
            (named, auto, began.elapsed())
        });
        for named in named {
            assert_eq!(named.status.code(), Some(69));
            assert!(stderr(&named).contains(says), "{}", stderr(&named));
            assert_eq!(stderr(&named).lines().count(), 1, "{}", stderr(&named));
        }
        assert!(took < START_MAX, "falling back takes {took:?}");
        assert!(auto.announcement.contains("(engine epoll, "), "{}", auto.announcement);
        auto.connect().echo(OpCode::Text, b"over epoll");
        auto.signal(Signal::TERM);
        let (status, log) = auto.wait();
        assert_eq!(status.code(), Some(0));
        let lines: Vec<_> = log.iter().filter(|line| line.contains("is not used")).collect();
        assert_eq!(lines.len(), 1, "one line says why: {log:?}");
        assert!(lines[0].contains(says) && lines[0].contains("epoll"), "{}", lines[0]);
    }
}

/// Linux before 5.19 has no buffer rings, and says EINVAL. The tokio-uring engine needs none, and is taken by name only.
#[test]
fn where_a_kernel_is_too_old_for_the_ring_auto_takes_epoll() {
    let server = filter::under(vec![filter::refuse(libc::SYS_io_uring_register, libc::EINVAL)], || {
        Server::spawn(command(&["--engine", "auto", "--listen", "127.0.0.1:0", "--workers", "2"]))
    });
    assert!(server.announcement.contains("(engine epoll, "), "{}", server.announcement);
    server.connect().echo(OpCode::Text, b"over epoll");
    server.signal(Signal::TERM);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0));
    assert_eq!(log.iter().filter(|line| line.contains("the ring engine is not used")).count(), 1, "{log:?}");
}

/// Rings are made of locked memory, of which a user without privileges may have little: none for any worker, or for the
/// first ones only. A server that may choose serves all the same, and one that may not says what would help.
#[test]
fn where_locked_memory_is_short_a_server_serves_or_says_why() {
    let attempt = with_locked_memory(0, &["true"]).output();
    if !attempt.as_ref().is_ok_and(|output| output.status.success()) {
        return println!("SKIPPED: memory cannot be made short: {attempt:?}");
    }
    for limit in [0, 64 << 10, 256 << 10, 512 << 10, 1 << 20, 8 << 20] {
        for engine in ["ring", "tokio-uring", "auto"] {
            let began = Instant::now();
            let server =
                [env!("CARGO_BIN_EXE_ringback"), "--listen=127.0.0.1:0", "--workers=4", "--engine", engine];
            let started = Server::try_spawn(with_locked_memory(limit, &server));
            let took = began.elapsed();
            match started {
                Err((status, log)) => {
                    println!("{engine} with {limit} bytes of locked memory: {log:?}");
                    assert_ne!(engine, "auto", "{log:?}");
                    assert_eq!(status.code(), Some(69), "{log:?}");
                    assert!(log.len() == 1 && log[0].contains("ulimit -l"), "{log:?}");
                }
                Ok(server) => {
                    println!("{engine} with {limit} bytes of locked memory: {}", server.announcement);
                    let has_fallen_back = server.announcement.contains("epoll");
                    for _ in 0..8 {
                        server.connect().echo(OpCode::Text, b"on whichever worker and engine");
                    }
                    server.signal(Signal::TERM);
                    let (status, log) = server.wait();
                    assert_eq!(status.code(), Some(0), "{log:?}");
                    let reasons: Vec<_> = log.iter().filter(|line| line.contains("is not used")).collect();
                    assert_eq!(reasons.len(), usize::from(has_fallen_back), "{log:?}");
                    assert!(reasons.iter().all(|line| line.contains("ulimit -l")), "{log:?}");
                    assert!(engine == "auto" || !has_fallen_back);
                }
            }
            assert!(took < START_MAX, "{engine} takes {took:?} with {limit} bytes of locked memory");
        }
    }
}

/// A command that may lock so many bytes, without the privilege that lifts the limit.
fn with_locked_memory(limit: usize, command: &[&str]) -> Command {
    let mut limited = if rustix::process::getuid().is_root() {
        let mut unprivileged = Command::new("setpriv");
        unprivileged.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--bounding-set=-all",
            "prlimit",
        ]);
        unprivileged
    } else {
        Command::new("prlimit")
    };
    limited.arg(format!("--memlock={limit}")).args(command);
    limited
}
