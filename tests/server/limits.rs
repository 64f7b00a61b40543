//! What a peer can make grow is bounded, and one peer does not stop the others.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringback::proto::frame::OpCode;

use crate::common::{self, DEADLINE, Server, frame, handshake, header, pattern, read_some};
use crate::on_each_engine;

const MIB: u64 = 1 << 20;

on_each_engine! {
    urgent_data_holds_no_deadline_up,
    sixteen_mebibytes_are_sent_before_any_is_read,
    a_client_that_never_reads_is_not_read_from,
    an_endless_frame_streams_in_flat_memory,
    announced_lengths_take_no_memory,
    a_slow_handshake_gets_408,
    slow_readers_share_the_total,
    too_many_connections_get_503,
    accepting_goes_on_after_descriptors_ran_out,
    idle_connections_are_small,
    connections_that_fell_silent_after_bulk_are_small,
    a_flooder_does_not_stop_the_others,
}

fn sixteen_mebibytes_are_sent_before_any_is_read(engine: &str) {
    let server = Server::start(engine, &[]);
    let mut client = server.connect();
    let payload = pattern(16 << 20);
    client.send(OpCode::Binary, &payload);
    let (opcode, echo) = client.read_message();
    assert_eq!(opcode, OpCode::Binary);
    assert!(echo == payload, "the same bytes come back");
}

/// Sends `frame` again and again until the server takes nothing more. `sent` is how many bytes it has taken so far: the
/// next call goes on in the middle of a frame.
fn send_until_stuck(client: &mut common::Client, frame: &[u8], sent: &mut usize) {
    client.stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a duration");
    while *sent < 256 << 20 {
        match client.stream.write(&frame[*sent % frame.len()..]) {
            Ok(written) => *sent += written,
            Err(_) => return,
        }
    }
    panic!("the server takes {sent} bytes of a client that never reads");
}

fn a_client_that_never_reads_is_not_read_from(engine: &str) {
    let server = Server::start(engine, &["--unsent-limit", "1MiB"]);
    let mut other = server.connect();
    let mut stuck = server.connect();
    let before = server.resident();
    let bytes = frame(true, OpCode::Binary, &pattern(60_000));
    let mut sent = 0;
    send_until_stuck(&mut stuck, &bytes, &mut sent);
    while server.counter("read_pauses") == 0 {
        // It was slow and not paused: on.
        send_until_stuck(&mut stuck, &bytes, &mut sent);
    }
    let grown = server.resident().saturating_sub(before);
    assert!(grown < 8 * MIB, "{grown} bytes for one client that never reads");
    other.echo(OpCode::Text, b"meanwhile");
}

fn an_endless_frame_streams_in_flat_memory(engine: &str) {
    let server = Server::start(engine, &[]);
    let mut client = server.connect();
    let mut reader = client.stream.try_clone().expect("a second handle");
    let volume = 64 * MIB;
    let reading = thread::spawn(move || {
        let mut chunk = vec![0; 1 << 20];
        let mut read = 0;
        while read < volume {
            read += read_some(&mut reader, &mut chunk).expect("the frame comes back") as u64;
        }
    });
    client.send_bytes(&header(false, OpCode::Binary, 1 << 40));
    let chunk = pattern(1 << 20);
    client.send_bytes(&chunk);
    thread::sleep(Duration::from_millis(100));
    let before = server.resident();
    for _ in 1..volume / MIB {
        client.send_bytes(&chunk);
    }
    reading.join().expect("64 MiB came back");
    let grown = server.resident().saturating_sub(before);
    assert!(grown < 8 * MIB, "{grown} bytes for a stream");
    assert_eq!(server.counter("bytes_gathered"), 0);
}

/// RUSTSEC-2022-0035 and its like: memory is for bytes that came.
fn announced_lengths_take_no_memory(engine: &str) {
    let server = Server::start(engine, &["--whole-frame-max", "2GiB", "--unsent-total", "2GiB"]);
    let connections = 500;
    let mut clients: Vec<_> = (0..connections).map(|_| server.connect()).collect();
    let before = server.resident();
    for client in &mut clients {
        let mut bytes = header(true, OpCode::Binary, 1 << 30);
        bytes.push(0);
        client.send_bytes(&bytes);
    }
    server.wait_for_counter("bytes_gathered", connections);
    let grown = server.resident().saturating_sub(before);
    // A read of tokio-uring holds a buffer, which takes memory once something is in it.
    let most = if engine == "tokio-uring" { 4096 + 1024 } else { 1024 };
    assert!(grown / connections <= most, "{} bytes for one that came", grown / connections);
}

fn a_slow_handshake_gets_408(engine: &str) {
    let server = Server::start(engine, &["--handshake-timeout", "300ms"]);
    let mut slow = server.connect_raw();
    let began = Instant::now();
    for byte in handshake("/ws", "").bytes().take(20) {
        // The answer may be there before the last byte is sent.
        if slow.stream.write_all(&[byte]).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(30));
    }
    let head = slow.read_head();
    assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
    assert!(began.elapsed() >= Duration::from_millis(290));
    drop(slow);
    server.wait_for_counter("ended", 1);
    assert_eq!((server.counter("refusals"), server.counter("silent")), (1, 0));
}

fn slow_readers_share_the_total(engine: &str) {
    let server = Server::start(engine, &["--unsent-total", "8MiB"]);
    let mut other = server.connect();
    other.echo(OpCode::Binary, &pattern(60_000));
    let before = server.resident();
    let mut stuck: Vec<_> = (0..16).map(|_| server.connect()).collect();
    let bytes = frame(true, OpCode::Binary, &pattern(60_000));
    thread::scope(|scope| {
        for client in &mut stuck {
            scope.spawn(|| send_until_stuck(client, &bytes, &mut 0));
        }
    });
    let grown = server.resident().saturating_sub(before);
    // The total, and for each connection the buffer that it had begun to fill and what an allocator rounds up.
    assert!(grown < 24 * MIB, "{grown} bytes for 16 slow readers that share 8 MiB");
    other.echo(OpCode::Binary, &pattern(60_000));
    drop(stuck);
    server.wait_for_counter("ended", 16);
}

fn too_many_connections_get_503(engine: &str) {
    let server = Server::start(engine, &["--max-connections", "2"]);
    let mut first = server.connect();
    let second = server.connect();
    let mut third = server.connect_raw();
    let head = third.read_head();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("Retry-After:"), "{head}");
    drop(second);
    server.wait_for_counter("ended", 1);
    drop(third);
    server.wait_for_counter("ended", 2);
    server.connect().echo(OpCode::Text, b"room again");
    first.echo(OpCode::Text, b"still here");
}

fn accepting_goes_on_after_descriptors_ran_out(engine: &str) {
    use rustix::process::{Resource, Rlimit, Signal, prlimit};
    let server = Server::start(engine, &[]);
    let few = Rlimit { current: Some(40), maximum: Some(40) };
    prlimit(Some(server.pid()), Resource::Nofile, few).expect("a child may be limited");
    let mut clients: Vec<_> = (0..60).map(|_| server.connect_raw()).collect();
    // Long enough for several attempts, short enough for the handshakes' deadline.
    thread::sleep(Duration::from_secs(1));
    clients.truncate(1);
    server.connect().echo(OpCode::Text, b"room again");
    drop(clients);
    server.signal(Signal::TERM);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0));
    let summary = common::last_counters(&log);
    let pauses = common::counter_in(summary, "accept_pauses");
    let said = log.iter().filter(|line| line.contains("accepting pauses")).count();
    if engine == "ring" {
        // Its connections are no descriptors of the process.
        assert_eq!((pauses, said, common::counter_in(summary, "accepted")), (0, 0, 61), "{log:?}");
    } else {
        assert!(pauses > 2, "{summary}");
        assert_eq!(said, 1, "it is said once, not at each attempt: {log:?}");
    }
}

fn idle_connections_are_small(engine: &str) {
    let server = Server::start(engine, &[]);
    // What the first connections allocate is there for the later ones, each buffer of the ring among it.
    let _warm: Vec<_> = (0..700).map(|_| server.connect()).collect();
    let before = server.resident();
    let connections = 4000;
    let _idle: Vec<_> = (0..connections).map(|_| server.connect()).collect();
    let each = server.resident().saturating_sub(before) / connections;
    println!("{engine}: {each} bytes of resident memory an idle connection");
    let bound = match engine {
        // Its place in the worker's table, and pages that are not full yet.
        "ring" | "epoll" => 256,
        // The kernel owns a small receive buffer for each.
        _ => 4096 + 1536,
    };
    assert!(each <= bound, "{each} bytes an idle connection");
}

fn connections_that_fell_silent_after_bulk_are_small(engine: &str) {
    // On a busy machine the first are silent for so long that they would be sent a ping.
    let server = Server::start(engine, &["--keep-alive-interval", "0s"]);
    let before = server.resident();
    let connections = 1000;
    let mut idle: Vec<_> = (0..connections).map(|_| server.connect()).collect();
    for client in &mut idle {
        // The first is gathered, and then two buffers take turns: the kernel keeps one that was written to.
        for _ in 0..3 {
            client.echo(OpCode::Binary, &pattern(60_000));
        }
    }
    let grown = server.resident().saturating_sub(before);
    println!("{engine}: {} bytes of resident memory a connection", grown / connections);
    // What is kept for bulk does not depend on how many there are.
    assert!(grown < 40 * MIB, "{grown} bytes");
}

fn a_flooder_does_not_stop_the_others(engine: &str) {
    let server = Server::start(engine, &[]);
    let mut flooder = server.connect();
    let mut other = server.connect();
    let ends = AtomicBool::new(false);
    let mut flood = Vec::new();
    while flood.len() < 1 << 20 {
        flood.extend(frame(true, OpCode::Binary, b""));
    }
    let mut drain = flooder.stream.try_clone().expect("a second handle");
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                if flooder.stream.write_all(&flood).is_err() {
                    break;
                }
            }
        });
        scope.spawn(move || {
            let mut chunk = vec![0; 1 << 20];
            while read_some(&mut drain, &mut chunk).is_ok_and(|read| read > 0) {}
        });
        let deadline = Instant::now() + DEADLINE;
        for _ in 0..100 {
            other.echo(OpCode::Text, b"my turn");
            assert!(Instant::now() < deadline, "an echo takes long beside a flooder");
        }
        ends.store(true, Ordering::Relaxed);
        server.signal(rustix::process::Signal::KILL);
    });
}

/// A receive ends at the mark of urgent data (tcp(7)), and no event tells of what lies behind.
fn urgent_data_holds_no_deadline_up(engine: &str) {
    let server = Server::start(engine, &["--handshake-timeout", "500ms"]);
    let mut client = server.connect_raw();
    client.send_bytes(b"G");
    let urgent = rustix::net::SendFlags::OOB;
    rustix::net::send(&client.stream, b"!", urgent).expect("it is connected");
    client.send_bytes(b"ET /ws HTTP/1.1\r\n");
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
    // All of the head that has come was read.
    server.wait_until_open(1);
}
