//! Handshakes that never come to their end.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval};

use crate::common::{Server, handshake, volume};
use crate::{MIB, beside_echoes, connections, on_each_engine, percentile, wait_until_open};

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
            wait_until_open(&server, 1);
            server.resident()
        })
    });
    echoes.sort_unstable();
    println!("{engine}: {} echoes meanwhile took at most {:?}", echoes.len(), echoes.last());
    assert!(echoes.len() > 100, "{} echoes beside slow handshakes", echoes.len());
    assert_eq!(server.counter("refusals"), 2 * count as u64);
    assert_eq!(server.counter("handshakes"), 1);
    wait_until_open(&server, 0);
    assert_eq!(server.descriptors(), descriptors);
    let [once, twice] = residents;
    println!("{engine}: resident {} KiB after once, {} KiB after twice", once / 1024, twice / 1024);
    assert!(twice < once + 2 * MIB, "memory grows from {once} to {twice} bytes");
}

/// How long each of `count` slow clients was listened to before it got 408 and the end.
fn slow_handshakes(address: SocketAddr, count: usize) -> Vec<Duration> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut clients = Vec::new();
        for _ in 0..count {
            let stream = TcpStream::connect(address).await.expect("the server listens");
            clients.push(tokio::spawn(slow_handshake(stream)));
        }
        let mut took = Vec::new();
        for client in clients {
            took.push(client.await.expect("it is answered"));
        }
        took
    })
}

async fn slow_handshake(mut stream: TcpStream) -> Duration {
    let began = Instant::now();
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
