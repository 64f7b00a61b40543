//! Echoing frames without a socket: a buffer full of a client's frames in, the server's frames out.

#[path = "support/frames.rs"]
mod frames;
#[path = "support/memory.rs"]
mod memory;

use std::hint::black_box;
use std::rc::Rc;
use std::time::Instant;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use memory::Memory;
use ringback::memory::{Budget, HEADROOM, Total};
use ringback::proto::{Connection, Settings};
use tokio_tungstenite::tungstenite::WebSocket;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::Data;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for (name, kind) in [("text", Data::Text), ("binary", Data::Binary)] {
        let mut group = criterion.benchmark_group(format!("frame/{name}"));
        for payload_len in PAYLOAD_LENGTHS {
            let load = Load::new(kind, payload_len);
            group.throughput(Throughput::ElementsAndBytes {
                elements: load.count as u64,
                bytes: (load.count * payload_len) as u64,
            });
            ringback(&mut group, &load);
            tungstenite(&mut group, &load);
        }
        group.finish();
    }
    criterion.final_summary();
}

/// In bytes.
const PAYLOAD_LENGTHS: [usize; 3] = [64, 1 << 10, 16 << 10];

/// The payload of all frames of a load, in bytes.
const LOAD_LEN: usize = 64 << 10;

/// Equal frames, and their echoes.
struct Load {
    payload_len: usize,
    /// How many frames there are.
    count: usize,
    /// The frames, one behind the other, as the client sends them.
    received: Vec<u8>,
    /// What the server answers.
    reply: Vec<u8>,
}

impl Load {
    fn new(kind: Data, payload_len: usize) -> Self {
        let payload: Vec<u8> = (b'a'..=b'z').cycle().take(payload_len).collect();
        let count = LOAD_LEN / payload_len;
        Self {
            payload_len,
            count,
            received: frames::from_client(kind, &payload).repeat(count),
            reply: frames::from_server(kind, &payload).repeat(count),
        }
    }
}

/// The reply takes the place of what was received, so the buffer is filled again before each call, outside of what is
/// timed.
fn ringback(group: &mut BenchmarkGroup<WallTime>, load: &Load) {
    let budget = Budget::new(Total::new(0));
    let settings = Rc::new(Settings { whole_frame_max: 64 << 10, max_message_size: 0, budget });
    let mut connection = Connection::new(settings);
    let filled = HEADROOM..HEADROOM + load.received.len();
    let mut buffer = vec![0; filled.end];
    let mut echo_all = || {
        buffer[filled.clone()].copy_from_slice(&load.received);
        let start = Instant::now();
        let progress = connection.receive(black_box(&mut buffer), filled.clone());
        let elapsed = start.elapsed();
        assert_eq!(progress.body.len(), load.reply.len());
        assert_eq!(progress.counts.bytes_gathered, 0);
        (elapsed, progress.body)
    };
    group.bench_function(BenchmarkId::new("ringback", load.payload_len), |bencher| {
        bencher.iter_custom(|iterations| (0..iterations).map(|_| echo_all().0).sum());
    });
    let (_, body) = echo_all();
    assert!(buffer[body] == load.reply, "the echoes differ");
}

/// Each message is sent and flushed on its own, as most people write it.
fn tungstenite(group: &mut BenchmarkGroup<WallTime>, load: &Load) {
    let mut socket = WebSocket::from_raw_socket(Memory::new(load.received.clone()), Role::Server, None);
    let mut echo_all = || {
        socket.get_mut().rewind();
        for _ in 0..load.count {
            let message = socket.read().expect("the frames are valid");
            socket.send(message).expect("memory takes all bytes");
        }
        assert_eq!(socket.get_ref().outgoing.len(), load.reply.len());
    };
    echo_all();
    group.bench_function(BenchmarkId::new("tungstenite", load.payload_len), |bencher| {
        bencher.iter(&mut echo_all);
    });
    assert!(socket.get_ref().outgoing == load.reply, "the echoes differ");
}
