//! Connections that their clients reset, at every stage of a connection's life.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use ringback::proto::frame::OpCode;
use rustix::process::Signal;
use socket2::{Domain, SockRef, Socket, Type};

use crate::common::{Client, DEADLINE, Server, close_payload, frame, handshake, header, pattern, volume};
use crate::{MIB, on_each_engine};

on_each_engine! {
    resets_with_unread_echoes_end,
    #[ignore = "volume: 10,000 resets at each of 14 stages, 40 s"]
    resets_at_every_stage_leave_nothing,
    #[ignore = "volume: 100 resets at each of 12 stages while the server drains, 1 s"]
    resets_in_a_drain_end_it,
}

/// When a client resets its connection, in the order of a connection's life.
const STAGES: [fn(&Server) -> Client; 14] = [
    silent,
    mid_request,
    refused_and_unread,
    page_being_sent,
    open,
    mid_header,
    mid_gathered_frame,
    mid_streaming_frame,
    mid_message,
    with_unread_echoes,
    with_echoes_that_wait,
    with_an_unread_pong,
    after_our_close,
    after_their_close,
];

/// Those at which nothing is waited for from the server, which may be about to say its Close.
const STAGES_OF_A_DRAIN: usize = 12;

/// The most connections of the server, and how many it may not have ended yet when further ones are begun.
const CONNECTIONS_MAX: usize = 256;

fn silent(server: &Server) -> Client {
    server.connect_raw()
}

fn mid_request(server: &Server) -> Client {
    let mut client = server.connect_raw();
    client.send_bytes(b"GET /ws HTTP/1.1\r\nHost: loc");
    client
}

/// It gets 404.
fn refused_and_unread(server: &Server) -> Client {
    let mut client = server.connect_raw();
    client.send_bytes(handshake("/elsewhere", "").as_bytes());
    client
}

/// The page is longer than what the client has room for.
fn page_being_sent(server: &Server) -> Client {
    let mut client = Client::by(small_window(), server.address);
    client.send_bytes(b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n");
    client
}

fn open(server: &Server) -> Client {
    server.connect()
}

fn mid_header(server: &Server) -> Client {
    let mut client = server.connect();
    client.send_bytes(&header(true, OpCode::Binary, 100_000)[..7]);
    client
}

fn mid_gathered_frame(server: &Server) -> Client {
    let mut client = server.connect();
    client.send_bytes(&header(true, OpCode::Binary, 30_000));
    client.send_bytes(&[0; 20_000]);
    client
}

fn mid_streaming_frame(server: &Server) -> Client {
    let mut client = server.connect();
    client.send_bytes(&header(true, OpCode::Binary, 1 << 20));
    client.send_bytes(&[0; 20_000]);
    client
}

/// Its first fragments are there, and have been echoed.
fn mid_message(server: &Server) -> Client {
    let mut client = server.connect();
    client.send_bytes(&frame(false, OpCode::Text, b"to be"));
    client.send_bytes(&frame(false, OpCode::Continuation, b" continued"));
    client
}

fn with_unread_echoes(server: &Server) -> Client {
    let mut client = server.connect();
    client.send_bytes(&frame(false, OpCode::Binary, &[0; 3000]));
    client.send_bytes(&frame(false, OpCode::Continuation, &[0; 3000]).repeat(10));
    client
}

/// More than the client has room for, so that a send of the server is under way.
fn with_echoes_that_wait(server: &Server) -> Client {
    let mut client = server.connect_over(small_window());
    client.send_bytes(&frame(true, OpCode::Binary, &pattern(60_000)));
    client
}

fn with_an_unread_pong(server: &Server) -> Client {
    let mut client = server.connect();
    client.send(OpCode::Ping, b"is anybody there");
    client
}

/// The server has failed the connection and waits for the client's end.
fn after_our_close(server: &Server) -> Client {
    let mut client = server.connect();
    client.send(OpCode::Continuation, b"of nothing");
    assert_eq!(client.read_close(), 1002);
    client
}

/// The client's Close has been answered, and the server has ended its side.
fn after_their_close(server: &Server) -> Client {
    let mut client = server.connect();
    client.send(OpCode::Close, &close_payload(1000, ""));
    assert_eq!(client.read_close(), 1000);
    client
}

fn resets_at_every_stage_leave_nothing(engine: &str) {
    let most = CONNECTIONS_MAX.to_string();
    // Of so few buffers none would be left if one in a thousand resets kept its own.
    let few = ["--ring-buffers", "16", "--ring-buffer-size", "4KiB", "--ring-big-buffers", "4"];
    let server = Server::start(engine, &[&["--max-connections", &most], &few[..]].concat());
    let (descriptors, places) = (server.descriptors(), places_taken(&server));
    if places.is_none() && engine == "ring" {
        println!("SKIPPED: the places of the table of files, which this kernel does not tell");
    }
    let resets = |count: usize| {
        for number in 0..count {
            for stage in STAGES {
                reset(stage(&server));
            }
            if number % (CONNECTIONS_MAX / STAGES.len() / 2) == 0 {
                server.wait_until_open(0);
            }
        }
        server.wait_until_open(0);
        server.resident()
    };
    let count = volume(10_000);
    // What the first ones allocate is there for the later ones.
    let before = resets(500.min(count));
    let after = resets(count);
    println!(
        "{engine}: resident {} KiB, and {} KiB after {count} resets at each stage",
        before / 1024,
        after / 1024
    );
    assert!(after < before + 2 * MIB, "memory grows from {before} to {after} bytes");
    assert_eq!(server.descriptors(), descriptors);
    assert_eq!(server.counter("accepted"), server.counter("ended"));
    wait_for_places(&server, places);
    // As many as ever are admitted, and no more.
    let mut all: Vec<_> = (0..CONNECTIONS_MAX).map(|_| server.connect()).collect();
    for client in &mut all {
        client.echo(OpCode::Binary, &pattern(5000));
    }
    let mut beyond = server.connect_raw();
    beyond.send_bytes(handshake("/ws", "").as_bytes());
    let head = beyond.read_head();
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    if engine == "ring" {
        drop(beyond);
        wait_for_places(&server, places.map(|places| places + CONNECTIONS_MAX));
    }
}

fn resets_in_a_drain_end_it(engine: &str) {
    let server = Server::start(engine, &["--drain-timeout", "50s"]);
    let count = volume(100);
    let connect = || STAGES[..STAGES_OF_A_DRAIN].iter().map(|stage| stage(&server));
    let (at_once, later): (Vec<_>, Vec<_>) =
        (0..count).map(|_| (connect().collect::<Vec<_>>(), connect().collect::<Vec<_>>())).unzip();
    let mut told = server.connect();
    server.signal(Signal::TERM);
    at_once.into_iter().flatten().for_each(reset);
    assert_eq!(told.read_close(), 1001);
    reset(told);
    later.into_iter().flatten().for_each(reset);
    let began = Instant::now();
    let (status, log) = server.wait();
    println!("{engine}: it ends {:?} after the last reset", began.elapsed());
    assert_eq!(status.code(), Some(0), "{log:?}");
    assert!(!log.iter().any(|line| line.contains("timeout has passed")), "{log:?}");
    let summary = crate::common::last_counters(&log);
    let counter = |name| crate::common::counter_in(summary, name);
    assert_eq!(counter("accepted"), counter("ended"));
}

/// On epoll the write of an echo fails before the reset is read: the connection must end by that too.
fn resets_with_unread_echoes_end(engine: &str) {
    let server = Server::start(engine, &[]);
    for _ in 0..100 {
        reset(with_unread_echoes(&server));
    }
    server.wait_until_open(0);
}

/// Closing sends RST, whatever is unsent or unread (socket(7)).
#[expect(clippy::needless_pass_by_value, reason = "the client is closed")]
fn reset(client: Client) {
    SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).expect("a socket");
}

/// A socket whose peer can send little before it is read.
fn small_window() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a size");
    socket
}

/// How many places of its tables of files the server has filled: those of its connections on the ring engine, which are
/// no descriptors. `None` where it has no ring, or the kernel does not tell.
fn places_taken(server: &Server) -> Option<usize> {
    // The kernel leaves the table out where the ring is busy at that moment.
    (0..100).find_map(|_| {
        let folder = format!("/proc/{}/fdinfo", server.pid().as_raw_nonzero());
        let entries = fs::read_dir(folder).expect("it runs").map(|entry| entry.expect("an entry").path());
        let rings = entries.filter_map(|path| files_of_ring(&fs::read_to_string(path).ok()?));
        rings.reduce(|sum, files| sum + files)
    })
}

/// How many files are in the table of a ring, by what the kernel says of its descriptor (proc_pid_fdinfo(5)).
fn files_of_ring(fdinfo: &str) -> Option<usize> {
    let (_, table) = fdinfo.split_once("UserFiles:")?;
    Some(table.lines().skip(1).take_while(|line| !line.starts_with("UserBufs")).count())
}

/// Waits until so many places are taken: the kernel may not yet be done with the socket of a connection that has ended.
fn wait_for_places(server: &Server, expected: Option<usize>) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let taken = places_taken(server);
        if taken == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{taken:?} places are taken instead of {expected:?}");
        thread::sleep(Duration::from_millis(10));
    }
}
