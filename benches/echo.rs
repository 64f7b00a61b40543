//! Round trips over loopback TCP: each iteration sends one message on every connection and waits for every echo.
//!
//! Says what a round trip takes with nothing else to do; `loadtest compare` says what a server costs under load.

#[path = "support/frames.rs"]
mod frames;

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use baselines::tungstenite_echo::{self, Flush};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use socket2::SockRef;
use tokio_tungstenite::tungstenite::protocol::frame::coding::Data;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let cores = baselines::allowed_cores().expect("the affinity mask can be read");
    let core = cores[0];
    // Servers take their core from the thread that starts them.
    baselines::pin(core).expect("the core is allowed");
    let mut ringbacks = Vec::new();
    let mut servers = vec![("tungstenite", start_tungstenite(core))];
    for (name, engine) in
        [("ringback-ring", "ring"), ("ringback-tokio-uring", "tokio-uring"), ("ringback-epoll", "epoll")]
    {
        let server = Ringback::start(engine);
        match server.address {
            Some(address) => {
                servers.push((name, address));
                ringbacks.push(server);
            }
            None => println!("SKIPPED: the {engine} engine cannot run here"),
        }
    }
    // A core of its own, if there is a second one.
    baselines::pin(cores[cores.len() - 1]).expect("the core is allowed");
    let mut group = criterion.benchmark_group("echo/text-64");
    for connections in [1, 64] {
        group.throughput(Throughput::Elements(connections));
        for &(name, address) in &servers {
            round_trips(&mut group, name, address, connections);
        }
    }
    group.finish();
    criterion.final_summary();
    drop(ringbacks);
}

/// In bytes.
const PAYLOAD_LEN: usize = 64;

/// BBR, some systems' default, paces with timers on loopback too.
const CONGESTION: &str = "cubic";

/// A server of one worker, which is killed when it is dropped.
struct Ringback {
    process: Child,
    /// Where it listens, if it runs.
    address: Option<SocketAddr>,
}

impl Ringback {
    fn start(engine: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringback"));
        command.args(["--listen", "127.0.0.1:0", "--workers", "1", "--engine", engine]);
        command.args(["--congestion-control", CONGESTION]).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the program starts");
        let mut line = String::new();
        let output = process.stdout.as_mut().expect("a pipe");
        BufReader::new(output).read_line(&mut line).expect("text");
        let url = line.split(' ').find_map(|word| word.strip_prefix("ws://"));
        let address = url.and_then(|url| url.split('/').next()?.parse().ok());
        Self { process, address }
    }
}

impl Drop for Ringback {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Serves on `core` until the process ends.
fn start_tungstenite(core: usize) -> SocketAddr {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = baselines::listen(any_port, Some(CONGESTION)).expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        baselines::pin(core).expect("the core is allowed");
        match tungstenite_echo::serve(listener, Flush::EachMessage).expect("accepting goes on") {}
    });
    address
}

fn round_trips(group: &mut BenchmarkGroup<WallTime>, name: &str, server: SocketAddr, connections: u64) {
    let payload = [b'e'; PAYLOAD_LEN];
    let message = frames::from_client(Data::Text, &payload);
    let expected = frames::from_server(Data::Text, &payload);
    let mut echo = vec![0; expected.len()];
    let mut clients: Vec<TcpStream> = (0..connections).map(|_| connect(server)).collect();
    group.bench_function(BenchmarkId::new(name, connections), |bencher| {
        bencher.iter(|| {
            for client in &mut clients {
                client.write_all(&message).expect("the server reads");
            }
            for client in &mut clients {
                client.read_exact(&mut echo).expect("the server answers");
                assert!(echo == expected, "the echo differs");
            }
        });
    });
}

/// A connection past its handshake.
fn connect(server: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(server).expect("the server listens");
    SockRef::from(&client).set_tcp_congestion(CONGESTION.as_bytes()).expect("the listener has it too");
    client.set_nodelay(true).expect("it is a TCP socket");
    client.set_read_timeout(Some(Duration::from_secs(10))).expect("the time is not zero");
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {server}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    client.write_all(request.as_bytes()).expect("the server reads");
    // By the byte, so as to stop at the end of the head.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).expect("the server answers");
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", head.escape_ascii());
    client
}
