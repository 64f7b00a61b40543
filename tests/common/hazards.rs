//! What goes wrong with io_uring where it goes wrong at all, each as a function of how much of it there is: `ring.rs`
//! has a little of each, the volume tests have much.
//!
//! A ring of very few entries, buffers or places runs out of them all the time: what it has run out of is in the
//! counters, and nothing may be lost by it.

use std::io::{ErrorKind, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use ringback::proto::frame::OpCode;
use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, SockRef, Socket, Type};

use crate::common::{
    Client, DEADLINE, Server, close_payload, command, counter_in, frame, handshake, limited, pattern,
    read_some,
};

/// An echo that takes longer has waited for something else than its turn.
const ECHO_MAX: Duration = Duration::from_secs(3);

/// A server of one worker on a ring that is sized by `options`.
pub(crate) fn ring(options: &[&str]) -> Server {
    Server::start("ring", options)
}

/// `bytes` to a client that takes 1 to 1000 at a time, through a small window, after each hundred messages that it has sent.
/// The server's socket takes them in parts; what comes back is compared byte by byte.
pub(crate) fn replies_taken_in_small_pieces(engine: &str, bytes: usize) {
    const MESSAGE: usize = 30_000;
    const BATCH: usize = 100;
    let server = Server::start(engine, &[]);
    let mut client = server.connect_over(small_window());
    let (mut sent, mut expected, mut random) =
        (Payloads::new(MESSAGE), Payloads::new(MESSAGE), Rng::with_seed(1));
    let mut reply = vec![0; 4 + MESSAGE];
    let batches = bytes.div_ceil(BATCH * MESSAGE);
    for batch in 0..batches {
        for _ in 0..BATCH {
            client.send(OpCode::Binary, sent.next());
        }
        for number in 0..BATCH {
            let mut filled = 0;
            while filled < reply.len() {
                let end = reply.len().min(filled + random.usize(1..=1000));
                let read =
                    read_some(&mut client.stream, &mut reply[filled..end]).expect("the server answers");
                assert!(read > 0, "the server ends within reply {number} of batch {batch}");
                filled += read;
            }
            assert!(
                reply[4..] == *expected.next(),
                "message {number} of batch {batch} comes back in its order"
            );
        }
    }
    let short_sends = server.counter("short_sends");
    println!("{short_sends} short sends in {batches} batches");
    assert!(short_sends > 0, "no reply was taken in parts");
}

/// Random bytes, each time others: a byte out of its place shows.
struct Payloads {
    random: Rng,
    bytes: Vec<u8>,
}

impl Payloads {
    fn new(size: usize) -> Self {
        Self { random: Rng::with_seed(0), bytes: vec![0; size] }
    }

    fn next(&mut self) -> &[u8] {
        self.random.fill(&mut self.bytes);
        &self.bytes
    }
}

/// So many connections, one after the other on each of eight threads, over a table of 64 places: some end as they
/// should, some are reset while a reply is under way. Each is sent what it said itself and nothing else.
pub(crate) fn places_used_again_and_again(engine: &str, count: usize) {
    const THREADS: usize = 8;
    let server = Server::start(engine, &["--ring-files", "64"]);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let address = server.address;
            scope.spawn(move || {
                for number in 0..count / THREADS {
                    let nonce = format!("{thread} {number} {}", fastrand::u64(..));
                    visit(address, &nonce, number);
                }
            });
        }
    });
    server.wait_until_open(0);
    let (accepted, stale) = (server.counter("accepted"), server.counter("stale_completions"));
    println!("{accepted} connections over 64 places");
    assert_eq!(stale, 0, "a connection stays until nothing is under way");
    assert_eq!(accepted, (count / THREADS * THREADS) as u64, "every place came back");
    server.connect().echo(OpCode::Text, b"served as ever");
}

fn visit(address: SocketAddr, nonce: &str, number: usize) {
    let mut client = Client::connect(address);
    if number % 8 == 7 {
        // As much as is surely under way when the reset comes.
        client.send(OpCode::Text, nonce.repeat(1000).as_bytes());
        return reset(&client);
    }
    client.echo(OpCode::Text, nonce.as_bytes());
    if number % 8 == 3 {
        return reset(&client);
    }
    client.send(OpCode::Close, &close_payload(1000, nonce));
    let close = client.read_frame().expect("a Close");
    assert_eq!((close.opcode, close.payload), (OpCode::Close, close_payload(1000, nonce)));
    // The server is the first to end TCP.
    client.expect_end();
}

/// So many clients break the protocol and then neither end nor say anything: the server does not wait for them, and when
/// they do say something they are told that nobody is there. A socket that is closed while a receive is under way would
/// live on, and take what they say into nowhere.
pub(crate) fn connections_that_are_cut_end(engine: &str, count: usize) {
    const AT_ONCE: usize = 50;
    let server = Server::start(engine, &["--ring-files", "64"]);
    for round in 0..count.div_ceil(AT_ONCE) {
        let mut clients: Vec<_> = (0..AT_ONCE).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.send(OpCode::Continuation, b"of nothing");
            assert_eq!(client.read_close(), 1002);
        }
        server.wait_until_open(0);
        assert_eq!(server.counter("cuts"), ((round + 1) * AT_ONCE) as u64);
        for client in &mut clients {
            // What this is answered with, the next one is told.
            client.send_bytes(b"is anybody there?");
        }
        thread::sleep(Duration::from_millis(100));
        for client in &mut clients {
            let error = client.stream.write_all(b"hello?").expect_err("the server's socket lives on");
            let is_cut = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
            assert!(is_cut, "{error}");
        }
    }
    assert_eq!(server.counter("stale_completions"), 0, "a connection stays until nothing is under way");
}

/// Sends that wait for so many peers who never read end with their connections, and their places are free again.
pub(crate) fn sends_that_wait_for_ever_are_cut(engine: &str, clients: usize) {
    let server = Server::start(engine, &[]);
    let mut clients: Vec<_> = (0..clients).map(|_| server.connect_over(small_window())).collect();
    for client in &mut clients {
        // More than the sockets take, and less than the server stops reading at.
        for _ in 0..150 {
            client.send(OpCode::Binary, &pattern(60_000));
        }
        client.send(OpCode::Continuation, b"of nothing");
    }
    server.wait_for_counter("protocol_errors", clients.len() as u64);
    assert_eq!(server.counter("ended"), 0, "they have time to read their Close");
    server.wait_until_open(0);
    assert_eq!((server.counter("cuts"), server.counter("stale_completions")), (clients.len() as u64, 0));
}

/// A socket that is sent little at a time.
fn small_window() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4 << 10).expect("a size");
    // Several segments to a window: with one, each would wait for a delayed acknowledgement.
    socket.set_tcp_mss(536).expect("a TCP option");
    socket
}

/// Closing sends RST, whatever is unsent or unread (socket(7)).
fn reset(client: &Client) {
    SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).expect("a socket");
}

/// What so many clients sent while the server was stopped is echoed by a completion queue of 16 entries.
pub(crate) fn completions_beyond_the_queue(clients: usize) {
    let server = ring(&["--ring-submissions", "4", "--ring-completions", "16"]);
    burst(&server, clients, 3, 1000);
    println!("{} overflows for {clients} clients", server.counter("cq_overflows"));
    assert!(server.counter("cq_overflows") > 0, "16 completions were enough");
}

/// As above, of a submission queue of 4.
pub(crate) fn submissions_beyond_the_queue(clients: usize) {
    let server = ring(&["--ring-submissions", "4"]);
    burst(&server, clients, 3, 1000);
    println!("full {} times for {clients} clients", server.counter("sq_full"));
    assert!(server.counter("sq_full") > 0, "4 submissions were enough");
}

/// So many clients send 64 KiB each, all at once, and 16 small buffers and 4 big ones are all there is.
pub(crate) fn messages_beyond_the_buffers(engine: &str, clients: usize) {
    let server = Server::start(
        engine,
        &["--ring-buffers", "16", "--ring-buffer-size", "2KiB", "--ring-big-buffers", "4"],
    );
    burst(&server, clients, 1, 64 << 10);
    println!("exhausted {} times by {clients} clients", server.counter("buffers_exhausted"));
    assert!(engine != "ring" || server.counter("buffers_exhausted") > 0, "there were buffers for all");
}

/// Everybody sends while the server is stopped; it finds all of it at once, and again while it runs.
fn burst(server: &Server, clients: usize, messages: usize, size: usize) {
    let mut clients: Vec<_> = (0..clients).map(|_| server.connect()).collect();
    for is_stopped in [true, false] {
        if is_stopped {
            server.signal(Signal::STOP);
        }
        for (number, client) in clients.iter_mut().enumerate() {
            for message in 0..messages {
                // The socket takes no more than it has room for while the server is stopped: the rest behind.
                client.send(OpCode::Binary, &payload(number, message, size));
            }
        }
        if is_stopped {
            server.signal(Signal::CONT);
        }
        for (number, client) in clients.iter_mut().enumerate() {
            for message in 0..messages {
                let (opcode, echo) = client.read_message();
                let is_same = echo == payload(number, message, size);
                assert!(opcode == OpCode::Binary && is_same, "message {message} of client {number}");
            }
        }
    }
}

/// Bytes that tell whose they are.
fn payload(client: usize, message: usize, size: usize) -> Vec<u8> {
    let mut payload = pattern(size);
    payload[..16].copy_from_slice(&[client.to_be_bytes(), message.to_be_bytes()].concat());
    payload
}

/// Each time `at_once` clients come to 256 places, all of them are served in the end, none is accepted and then
/// reset, and while the table is full the server does next to nothing.
pub(crate) fn connections_beyond_the_table(rounds: usize, at_once: usize) {
    let server = ring(&["--ring-files", "256"]);
    let request = handshake("/ws", "");
    for round in 0..rounds {
        let clients: Vec<_> = (0..at_once)
            .map(|_| {
                let mut client = server.connect_raw();
                client.send_bytes(request.as_bytes());
                client
            })
            .collect();
        let served = (round * at_once) as u64;
        server.wait_for_counter("handshakes", served + 256);
        let (before, began) = (server.processor_time(), Instant::now());
        thread::sleep(Duration::from_secs(1));
        let (used, time) = (server.processor_time() - before, began.elapsed());
        assert!(used <= time / 20 + Duration::from_millis(30), "{used:?} of {time:?} with a full table");
        assert_eq!(server.counter("handshakes"), served + 256, "there is room for 256");
        // Each that leaves makes room for the one that has waited longest.
        for mut client in clients {
            let head = client.read_head();
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            client.echo(OpCode::Text, b"there was room for me");
        }
    }
    println!("{} pauses for {} connections", server.counter("accept_pauses"), rounds * at_once);
    assert!(server.counter("accept_pauses") > 0);
    server.wait_until_open(0);
    assert_eq!(server.counter("accepted"), (rounds * at_once) as u64);
}

/// More connections than the process may open files, on two workers: in a ring's table they are no files of it.
pub(crate) fn connections_beyond_the_limit_of_files(limit: usize, connections: usize) {
    let command = command(&["--listen", "127.0.0.1:0", "--workers", "2", "--no-pin", "--engine", "ring"]);
    let server = Server::spawn(limited(&format!("ulimit -n {limit}"), &command));
    let mut clients: Vec<_> = (0..connections).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.echo(OpCode::Text, b"I am no file");
    }
    let files = server.descriptors();
    println!("{connections} connections, {files} files of {limit}");
    assert!(connections > limit && files < 64, "{files} files are open");
}

/// A thousand signals a second reach the thread that waits for completions, and nothing is lost by it.
pub(crate) fn signals_under_load(time: Duration) {
    let server = ring(&[]);
    let worker = server.thread("ringback-0");
    let before = server.counter("enters");
    let began = Instant::now();
    // Idle at first: what it wakes up for are the signals.
    let signals = signal_until(worker, || began.elapsed() > time / 2);
    server.forget_log();
    let woken = server.counter("enters") - before;
    println!("{woken} enters for {signals} signals");
    assert!(woken > signals / 2, "{signals} signals, but {woken} enters");

    let ends = AtomicBool::new(false);
    let echoes: usize = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let mut client = server.connect();
                let ends = &ends;
                scope.spawn(move || {
                    let mut echoes = 0;
                    while !ends.load(Ordering::Relaxed) {
                        client.echo(OpCode::Binary, &payload(echoes, 0, 16 + echoes % 10_000));
                        echoes += 1;
                    }
                    echoes
                })
            })
            .collect();
        let began = Instant::now();
        signal_until(worker, || began.elapsed() > time / 2);
        ends.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().expect("every echo comes back")).sum()
    });
    server.signal(Signal::TERM);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0));
    let summary = crate::common::last_counters(&log);
    assert_eq!(counter_in(summary, "binaries"), echoes as u64);
}

/// SIGUSR1 to this thread every millisecond; gives how many.
fn signal_until(thread: Pid, is_over: impl Fn() -> bool) -> u64 {
    let mut signals = 0;
    while !is_over() {
        // The kernel prefers the thread whose number is given (kill(2) takes it as the process's).
        kill_process(thread, Signal::USR1).expect("it runs");
        signals += 1;
        thread::sleep(Duration::from_millis(1));
    }
    signals
}

/// The echoes of 64 lively clients go on beside one that sent a lot and does not read. Gives the time that 99 % of them
/// do not exceed, beside it and without it.
pub(crate) fn lively_clients_beside_a_blocked_reader(engine: &str, rounds: usize) -> (Duration, Duration) {
    let server = Server::start(engine, &[]);
    let mut clients: Vec<_> = (0..64).map(|_| server.connect()).collect();
    let alone = p99_of_echoes(&mut clients, rounds);
    let mut blocked_reader = server.connect();
    flood_until_stuck(&mut blocked_reader);
    assert!(server.counter("short_sends") > 0, "its replies were all taken");
    let beside = p99_of_echoes(&mut clients, rounds);
    assert_eq!(server.counter("texts"), (2 * rounds * clients.len()) as u64);
    println!("p99 {beside:?} beside a blocked reader, {alone:?} without");
    (beside, alone)
}

fn p99_of_echoes(clients: &mut [Client], rounds: usize) -> Duration {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let began: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                let began = Instant::now();
                client.send(OpCode::Text, b"lively");
                began
            })
            .collect();
        for (client, began) in clients.iter_mut().zip(began) {
            assert_eq!(client.read_message(), (OpCode::Text, b"lively".to_vec()));
            let took = began.elapsed();
            assert!(took < ECHO_MAX, "an echo takes {took:?}");
            times.push(took);
        }
    }
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

/// Sends bulk and reads nothing, until the server takes no more for a while.
fn flood_until_stuck(client: &mut Client) {
    client.stream.set_write_timeout(Some(Duration::from_millis(300))).expect("a duration");
    let bytes = frame(true, OpCode::Binary, &pattern(60_000));
    let (mut offset, deadline) = (0, Instant::now() + DEADLINE);
    while let Ok(written) = client.stream.write(&bytes[offset..]) {
        offset = (offset + written) % bytes.len();
        assert!(Instant::now() < deadline, "the server reads on from a client that never reads");
    }
}

/// Whoever comes while four peers send bulk and read nothing is answered in a second, of few buffers too.
pub(crate) fn newcomers_beside_stalled_peers(engine: &str, newcomers: usize) {
    for options in
        [&[][..], &["--ring-buffers", "16", "--ring-buffer-size", "2KiB", "--ring-big-buffers", "4"]]
    {
        let server = Server::start(engine, options);
        let ends = AtomicBool::new(false);
        let mut stalled: Vec<_> = (0..4).map(|_| server.connect()).collect();
        let bulk = frame(true, OpCode::Binary, &pattern(60_000)).repeat(16);
        thread::scope(|scope| {
            let floods: Vec<_> =
                stalled.iter_mut().map(|client| client.stream.try_clone().expect("a handle")).collect();
            for mut stream in floods {
                // Whoever is stuck for so long has stalled.
                stream.set_write_timeout(Some(Duration::from_secs(5))).expect("a duration");
                let (bulk, ends) = (&bulk, &ends);
                scope.spawn(move || while !ends.load(Ordering::Relaxed) && stream.write_all(bulk).is_ok() {});
            }
            server.wait_for_counter("short_sends", 4);
            let mut slowest = Duration::ZERO;
            for _ in 0..newcomers {
                let began = Instant::now();
                server.connect().echo(OpCode::Text, b"new here");
                slowest = slowest.max(began.elapsed());
            }
            println!("a newcomer's echo took at most {slowest:?} with {options:?}");
            ends.store(true, Ordering::Relaxed);
            for client in &stalled {
                client.stream.shutdown(Shutdown::Both).expect("it is connected");
            }
            assert!(slowest < Duration::from_secs(1), "{slowest:?} for a newcomer's echo");
        });
    }
}

/// A client that sends more than may be unsent, and only then reads, with nobody else there to wake the worker: each time
/// that it is not read from, what it has not sent yet waits for the last of the replies to have gone out.
pub(crate) fn paused_peers_alone(engine: &str, rounds: usize) {
    const PAYLOAD: usize = 60_000;
    let message = frame(true, OpCode::Binary, &pattern(PAYLOAD));
    for limit in ["256KiB", "1MiB"].iter().cycle().take(rounds) {
        // No deadline wakes the worker either, for the first 8 s: the wheel of deadlines goes round then.
        let server = Server::start(engine, &["--unsent-limit", limit, "--handshake-timeout", "1h"]);
        let mut client = server.connect();
        client.stream.set_nonblocking(true).expect("a socket");
        let (mut sent, mut stuck_since) = (0, Instant::now());
        while stuck_since.elapsed() < Duration::from_millis(300) {
            match client.stream.write(&message[sent % message.len()..]) {
                Ok(written) => (sent, stuck_since) = (sent + written, Instant::now()),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
        client.stream.set_nonblocking(false).expect("a socket");
        client.stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a duration");
        let mut left = sent / message.len() * (4 + PAYLOAD);
        let mut chunk = vec![0; 1 << 16];
        while left > 0 {
            let read = read_some(&mut client.stream, &mut chunk).expect("the rest of the replies");
            assert!(read > 0, "the server ends with {left} bytes unsent");
            left = left.saturating_sub(read);
        }
        assert!(server.counter("read_pauses") > 0, "it was not read from for a while");
    }
}

/// One system call an echo, whatever a peer that does not read holds.
pub(crate) fn enters_beside_a_stalled_peer(echoes: u64) {
    let server = ring(&[]);
    let mut stalled = server.connect();
    stalled.stream.set_write_timeout(Some(Duration::from_millis(300))).expect("a duration");
    let bulk = frame(true, OpCode::Binary, &pattern(60_000));
    while stalled.stream.write_all(&bulk).is_ok() {}
    let mut client = server.connect();
    client.echo(OpCode::Text, b"here");
    let before = server.counter("enters");
    for _ in 0..echoes {
        client.echo(OpCode::Text, b"one more");
    }
    let enters = server.counter("enters") - before;
    assert!(enters <= echoes + echoes / 4, "{enters} system calls for {echoes} echoes");
}

/// A worker that does not sleep looks at its deadlines all the same.
pub(crate) fn deadlines_while_polling() {
    let server = ring(&["--busy-poll", "20s", "--handshake-timeout", "100ms"]);
    let began = Instant::now();
    // A client that says nothing would get no answer.
    let mut slow = server.connect_raw();
    slow.send_bytes(b"G");
    let head = slow.read_head();
    assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    server.connect().echo(OpCode::Text, b"and without a pause");
}
