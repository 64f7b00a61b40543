//! Handshakes that never come to their end.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use ringback::proto::frame::OpCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval};

use crate::common::{Server, handshake, volume};
use crate::{MIB, beside_echoes, connections, on_each_engine, percentile};

on_each_engine! {
    #[ignore = "volume: 2 × 15,000 slow handshakes, 20 s"]
    slow_handshakes_are_cut_in_time_and_leave_nothing,
}

/// Slowloris: a byte a second on as many connections as there may be.
fn slow_handshakes_are_cut_in_time_and_leave_nothing(engine: &str) {
    let count = connections(volume(15_000));
    let server = Server::start(engine, &[]);
    let descriptors = server.descriptors();
    let (residents, mut echoes) = beside_echoes(&server, || {
        [(); 2].map(|()| {
            let mut took = slow_handshakes(server.address, count);
            took.sort_unstable();
            let (first, last) = (took[0], took[count - 1]);
            let most = percentile(&took, 99);
            println!(
                "{engine}: {count} slow handshakes took {first:?}, 99 % under {most:?}, at most {last:?}"
            );
            assert!(first >= Duration::from_millis(4500), "cut early, after {first:?}");
            assert!(most <= Duration::from_millis(5500), "cut late, after {most:?}");
            server.wait_until_open(1);
            resident_at_rest(&server)
        })
    });
    echoes.sort_unstable();
    assert!(echoes.len() > 100, "{} echoes beside slow handshakes", echoes.len());
    let most = percentile(&echoes, 99);
    println!(
        "{engine}: of {} echoes meanwhile 99 % took {most:?} at most, all {:?}",
        echoes.len(),
        echoes.last()
    );
    assert!(most <= Duration::from_millis(50), "an honest client's echoes take {most:?}");
    assert_eq!(server.counter("refusals"), 2 * count as u64);
    assert_eq!(server.counter("handshakes"), 1 + 2 * PROBES);
    server.wait_until_open(0);
    assert_eq!(server.descriptors(), descriptors);
    let [once, twice] = residents;
    println!("{engine}: resident {} KiB after once, {} KiB after twice", once / 1024, twice / 1024);
    assert!(twice < once + 2 * MIB, "memory grows from {once} to {twice} bytes");
}

/// Visits while memory is looked at.
const PROBES: u64 = 10;

/// The least resident memory within the next second. The allocator gives pages back a while after they are free, and only
/// when it is asked for others: what is resident right behind a wave is as much as it has not come to yet, which may be
/// twice what is in use and more after the one wave than after the other.
fn resident_at_rest(server: &Server) -> u64 {
    let residents = (0..PROBES).map(|_| {
        server.connect().echo(OpCode::Text, b"so that it allocates");
        thread::sleep(Duration::from_millis(100));
        server.resident()
    });
    residents.min().expect("there are some")
}

/// How long each of `count` slow clients was listened to before it got 408 and the end.
fn slow_handshakes(address: SocketAddr, count: usize) -> Vec<Duration> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut clients = Vec::new();
        for _ in 0..count {
            // Before the server can have begun to count, whenever this thread comes to look at the clock again.
            let began = Instant::now();
            let stream = TcpStream::connect(address).await.expect("the server listens");
            clients.push(tokio::spawn(slow_handshake(stream, began)));
        }
        let mut took = Vec::new();
        for client in clients {
            took.push(client.await.expect("it is answered"));
        }
        took
    })
}

async fn slow_handshake(mut stream: TcpStream, began: Instant) -> Duration {
    let mut beat = interval(Duration::from_secs(1));
    beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let request = handshake("/ws", "");
    let mut request = request.bytes();
    let mut answer = Vec::new();
    let mut answered = None;
    loop {
        tokio::select! {
            read = stream.read_buf(&mut answer) => match read.expect("an answer, not a reset") {
                0 => break,
                _ => answered = answered.or(Some(began.elapsed())),
            },
            _ = beat.tick() => {
                assert!(began.elapsed() < Duration::from_secs(20), "a slow handshake is not cut");
                let byte = request.next().expect("it is cut long before its end");
                // The answer may be on its way.
                let _ = stream.write_all(&[byte]).await;
            }
        }
    }
    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", answer.escape_ascii());
    answered.expect("there is an answer")
}
