//! Connections that come and go: at a drain, and where there is no room for them.

use std::io::Write as _;
use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringback::proto::frame::OpCode;
use rustix::process::{Resource, Rlimit, Signal, prlimit};

use crate::common::{
    Client, Server, close_payload, command, counter_in, frame, handshake, limited, pattern, volume,
};
use crate::{connections, on_each_engine};

on_each_engine! {
    #[ignore = "volume: a drain of 10,000 busy connections, 15 s"]
    a_drain_loses_no_message_that_was_sent_before,
    #[ignore = "volume: 200 connections where 64 files may be open, 5 s"]
    connections_beyond_the_limit_of_files_wait_or_get_503,
    #[ignore = "volume: no file more may be opened, 3 s"]
    without_a_free_file_accepting_waits,
}

/// How long after the signal a server is gone whose clients answer its Close at once.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// Some threads send on their connections in turn. In the midst of it the server is stopped, so that what they send from
/// then on waits in its sockets, of which there are many, when it learns of the signal. Then they answer its Close.
fn a_drain_loses_no_message_that_was_sent_before(engine: &str) {
    const THREADS: usize = 4;
    let count = connections(volume(10_000)).max(THREADS);
    let server = Server::start(engine, &["--drain-timeout", "50s", "--keep-alive-interval", "12s"]);
    let mut clients: Vec<_> = (0..count).map(|_| Sender::connect(&server)).collect();
    // Each has been looked at before: that deadline must not be taken for the drain's.
    thread::sleep(Duration::from_millis(3200));
    thread::scope(|scope| {
        for share in clients.chunks(count.div_ceil(THREADS)) {
            scope.spawn(|| send_in_turn(share));
        }
        while clients[count - 1].sent() < 2 {
            thread::sleep(Duration::from_millis(1));
        }
        server.signal(Signal::STOP);
    });
    // Each was sent before the signal: its bytes were taken by the kernel.
    let before: Vec<_> = clients.iter().map(Sender::sent).collect();
    server.signal(Signal::TERM);
    let signalled = Instant::now();
    server.signal(Signal::CONT);
    let (sent, echoed): (u64, u64) = thread::scope(|scope| {
        let shares = clients.chunks_mut(count.div_ceil(THREADS)).zip(before.chunks(count.div_ceil(THREADS)));
        let reading: Vec<_> =
            shares.map(|(share, before)| scope.spawn(|| read_in_turn(share, before))).collect();
        let counts: Vec<_> = reading.into_iter().map(|reading| reading.join().expect("echoes")).collect();
        (before.iter().sum(), counts.iter().sum())
    });
    drop(clients);
    let (status, log) = server.wait();
    let took = signalled.elapsed();
    println!(
        "{engine}: of {count} connections {sent} messages were sent before the signal, {echoed} echoed; \
         the server ended {took:?} after it"
    );
    assert_eq!(status.code(), Some(0), "{log:?}");
    assert!(!log.iter().any(|line| line.contains("timeout has passed")), "{log:?}");
    let summary = log.last().expect("a summary");
    assert_eq!((counter_in(summary, "drained"), counter_in(summary, "cut")), (count as u64, 0));
    assert!(took <= DRAIN_MAX, "the server is there for {took:?} after the signal");
}

/// Reads the echoes of each connection and answers its Close, and then waits for the end of each. Gives how many echoes
/// there were.
fn read_in_turn(clients: &mut [Sender], before: &[u64]) -> u64 {
    let mut echoed = 0;
    for (client, &before) in clients.iter_mut().zip(before) {
        let echoes = client.read_to_close();
        assert_eq!(echoes, before, "all messages come back that were sent before the signal");
        echoed += echoes;
    }
    for Sender { client, .. } in clients {
        client.expect_end();
        // The server waits for that.
        client.stream.shutdown(Shutdown::Write).expect("a connected socket");
    }
    echoed
}

/// A client that sends numbered messages.
struct Sender {
    client: Client,
    /// How many messages were sent to their last byte.
    sent: AtomicU64,
}

impl Sender {
    /// Their sizes, in turn.
    const SIZES: [usize; 3] = [10, 1000, 6000];

    fn connect(server: &Server) -> Self {
        Self { client: server.connect(), sent: AtomicU64::new(0) }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    fn message(number: u64) -> Vec<u8> {
        let size = Self::SIZES[usize::try_from(number % 3).expect("under 3")];
        let mut payload = pattern(size);
        payload[..8].copy_from_slice(&number.to_be_bytes());
        payload
    }

    /// Sends the next one.
    fn send(&self) {
        let bytes = frame(true, OpCode::Binary, &Self::message(self.sent()));
        (&self.client.stream).write_all(&bytes).expect("the kernel takes it");
        self.sent.fetch_add(1, Ordering::SeqCst);
    }

    /// Reads echoes in their order up to the server's Close(1001), and answers it; gives how many.
    fn read_to_close(&mut self) -> u64 {
        for number in 0.. {
            let reply = self.client.read_frame().expect("a Close before the end");
            if reply.opcode == OpCode::Close {
                assert_eq!(reply.payload, close_payload(1001, ""));
                self.client.send(OpCode::Close, &reply.payload);
                return number;
            }
            assert!(reply.payload == Self::message(number), "message {number} comes back in its place");
        }
        unreachable!("there are not that many")
    }
}

/// Sends a message on each of these connections, again and again: no more than are taken without being read.
fn send_in_turn(clients: &[Sender]) {
    for _ in 0..4 {
        for client in clients {
            client.send();
        }
    }
}

/// Some are admitted, others are told that there is no room, and further ones wait for a file to be free.
fn connections_beyond_the_limit_of_files_wait_or_get_503(engine: &str) {
    let command = command(&["--listen", "127.0.0.1:0", "--workers", "1", "--engine", engine]);
    let server = Server::spawn(limited("ulimit -n 64", &command));
    let mut all: Vec<_> = (0..200)
        .map(|_| {
            let mut client = server.connect_raw();
            client.send_bytes(handshake("/ws", "").as_bytes());
            client
        })
        .collect();
    server.wait_for_counter("accept_pauses", 1);
    // The first is told that there is no room before the last of those with room is answered.
    server.wait_for_counter("handshakes", 10);
    let mut answered = 0;
    while answered < server.counter("handshakes") {
        answered = server.counter("handshakes");
        thread::sleep(Duration::from_millis(200));
    }
    let admitted = usize::try_from(server.counter("handshakes")).expect("a few");
    assert!((10..64).contains(&admitted), "{admitted} connections of 64 files");
    let mut others = all.split_off(admitted);
    for client in &mut all {
        assert!(client.read_head().starts_with("HTTP/1.1 101 "));
        client.echo(OpCode::Text, b"there is room for me");
    }
    expect_rest(engine, &server);
    let refused = server.counter("refusals");
    for client in others.drain(..) {
        let mut client = client;
        let head = client.read_head();
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    }
    println!(
        "{engine}: {admitted} admitted, {refused} refused in 2 s, {} in the end",
        server.counter("refusals")
    );
    for client in &mut all {
        client.echo(OpCode::Text, b"still there");
    }
    drop(all.split_off(admitted / 2));
    server.wait_until_open(admitted as u64 / 2);
    server.connect().echo(OpCode::Text, b"room again");
}

/// The limit may be lowered under a running server, or the whole system run out of files.
fn without_a_free_file_accepting_waits(engine: &str) {
    let server = Server::start(engine, &[]);
    let mut first: Vec<_> = (0..20).map(|_| server.connect()).collect();
    let open = server.descriptors() as u64;
    let limit = Rlimit { current: Some(open), maximum: Some(open) };
    prlimit(Some(server.pid()), Resource::Nofile, limit).expect("a limit may be lowered");
    let mut waiting: Vec<_> = (0..50).map(|_| server.connect_raw()).collect();
    for client in &mut waiting {
        client.send_bytes(handshake("/ws", "").as_bytes());
    }
    if engine == "ring" {
        // Its connections are no files of the process: they need no number below the limit.
        for client in &mut waiting {
            let head = client.read_head();
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            client.echo(OpCode::Text, b"did not wait");
        }
        return assert_eq!(server.counter("accept_pauses"), 0);
    }
    server.wait_for_counter("accept_pauses", 1);
    // A number below the limit may have been free.
    let accepted = server.counter("accepted");
    assert!(accepted < 30, "{accepted} connections are accepted of 20 for which there are files");
    expect_rest(engine, &server);
    assert_eq!(server.counter("accepted"), accepted);
    for client in &mut first {
        client.echo(OpCode::Text, b"meanwhile");
    }
    // Each that leaves makes room for one that waits.
    for mut client in waiting {
        drop(first.pop());
        let head = client.read_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        client.echo(OpCode::Text, b"waited");
        if first.is_empty() {
            first.push(client);
        }
    }
}

/// That the server does next to nothing for two seconds.
fn expect_rest(engine: &str, server: &Server) {
    let (before, began) = (server.processor_time(), Instant::now());
    thread::sleep(Duration::from_secs(2));
    let (used, time) = (server.processor_time() - before, began.elapsed());
    println!("{engine}: {used:?} of processor time in {time:?} without a free file");
    assert!(used <= time / 20 + Duration::from_millis(50), "{used:?} of {time:?} are spent on accepting");
}
