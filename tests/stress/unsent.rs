//! Replies that their clients do not take.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use ringback::proto::frame::OpCode;
use socket2::{Domain, Socket, Type};

use crate::common::{Server, frame, pattern, volume};
use crate::{KIB, MIB, beside_echoes, connections, on_each_engine, percentile};

on_each_engine! {
    #[ignore = "volume: 1,000 slow readers for 60 s"]
    slow_readers_take_bounded_memory,
    #[ignore = "volume: 20 × 16 MiB sent before they are read"]
    what_was_sent_before_reading_comes_back_whole,
}

/// What a connection may hold: replies up to `--unsent-limit`, and the receive that goes beyond it.
const EACH_MAX: u64 = (64 + 64) * KIB;

/// What does not depend on how many there are: receive buffers, and what the allocator keeps.
const FIXED_MAX: u64 = 16 * MIB;

/// Of few readers that, and not what each holds, is the larger part.
const FIXED_MAX_OF_FEW: u64 = 64 * MIB;

/// How much longer than twice its time an honest client's echo may take for want of a core: the slow ones are served by
/// the same machine.
const NOISE: Duration = Duration::from_millis(10);

fn slow_readers_take_bounded_memory(engine: &str) {
    let is_whole = volume(100) == 100;
    let count = connections(volume(1000).max(50));
    let time = Duration::from_millis(600 * volume(100) as u64).max(Duration::from_secs(2));
    // Nobody is given up. One never reads; and where both directions of a connection are full, TCP may miss that a window has
    // opened, and find it out by a probe minutes later.
    let server = Server::start(engine, &["--unsent-limit", "64KiB", "--keep-alive-timeout", "0s"]);
    let mut never = Slow::connect(&server);
    let mut slow: Vec<_> = (0..count).map(|_| Slow::connect(&server)).collect();
    let bytes = frame(true, OpCode::Binary, &pattern(60_000));
    let idle = server.resident();
    let ((), mut before) = beside_echoes(&server, || thread::sleep(time / 6));
    let (most, mut echoes) = beside_echoes(&server, || {
        let (began, mut most) = (Instant::now(), 0);
        while began.elapsed() < time {
            never.send(&bytes);
            for client in &mut slow {
                client.send(&bytes);
                client.read(1000);
            }
            most = server.resident().max(most);
            thread::sleep(Duration::from_millis(100));
        }
        most
    });
    let (grown, last) = (most.saturating_sub(idle), server.resident().saturating_sub(idle));
    before.sort_unstable();
    echoes.sort_unstable();
    let (p99_before, p99) = (percentile(&before, 99), percentile(&echoes, 99));
    println!(
        "{engine}: {count} slow readers for {time:?}: at most {} KiB each and {} MiB together, {} MiB in the end; {} \
         echoes meanwhile took at most {:?}, 99 % of them {p99:?}; before, {p99_before:?}",
        grown / KIB / count as u64,
        grown / MIB,
        last / MIB,
        echoes.len(),
        echoes.last()
    );
    assert!(server.counter("read_pauses") >= count as u64, "each has been slow");
    assert!(echoes.len() > 10, "{} echoes beside slow readers", echoes.len());
    // Of seconds of a debug build beside other tests nothing can be said of 99 %.
    let is_in_time = !is_whole || p99 <= 2 * p99_before + NOISE;
    assert!(is_in_time, "99 % of the echoes took {p99:?}, and {p99_before:?} before");
    let fixed_max = if is_whole { FIXED_MAX } else { FIXED_MAX_OF_FEW };
    assert!(grown <= (count as u64 + 1) * EACH_MAX + fixed_max, "{grown} bytes for {count} slow readers");
    // Who leaves with data on its way may leave the kernel probing a closed window for minutes: they read it first.
    while slow.iter_mut().chain([&mut never]).map(|client| client.read(1 << 20)).sum::<usize>() > 0 {
        thread::sleep(Duration::from_millis(20));
    }
    drop((slow, never));
    server.wait_until_open(0);
    server.connect().echo(OpCode::Binary, &pattern(60_000));
}

/// A client that sends all it can and reads little.
struct Slow {
    stream: TcpStream,
    /// How much of a frame was sent.
    offset: usize,
}

impl Slow {
    fn connect(server: &Server) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        // Segments as on an Ethernet: with those of the loopback the kernel would hold megabytes for each.
        socket.set_tcp_mss(1460).expect("a TCP option");
        socket.set_recv_buffer_size(16 << 10).expect("a size");
        let client = server.connect_over(socket);
        client.stream.set_nonblocking(true).expect("a socket");
        Self { stream: client.stream, offset: 0 }
    }

    fn send(&mut self, frame: &[u8]) {
        // So that the others have their turn, however much the server takes.
        for _ in 0..16 {
            match self.stream.write(&frame[self.offset..]) {
                Ok(sent) => self.offset = (self.offset + sent) % frame.len(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("a slow reader is not cut: {error}"),
            }
        }
    }

    /// Reads what is there; gives how much.
    fn read(&mut self, at_most: usize) -> usize {
        match self.stream.read(&mut vec![0; at_most]) {
            Ok(0) => panic!("the server ends"),
            Ok(read) => read,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                0
            }
        }
    }
}

fn what_was_sent_before_reading_comes_back_whole(engine: &str) {
    let server = Server::start(engine, &[]);
    let payload = pattern(16 << 20);
    let bytes = frame(true, OpCode::Binary, &payload);
    let mut client = server.connect();
    for _ in 0..volume(20) {
        client.send_bytes(&bytes);
        assert!(client.read_message() == (OpCode::Binary, payload.clone()), "the same bytes come back");
    }
    println!("{engine}: {} bytes were spilled", server.counter("bytes_spilled"));
}
