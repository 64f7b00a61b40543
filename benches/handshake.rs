//! Answering the opening handshake (RFC 6455 §4.2) without a socket.

#[path = "support/memory.rs"]
mod memory;

use std::hint::black_box;

use criterion::Criterion;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Throughput};
use memory::Memory;
use ringback::memory::{Budget, Total};
use ringback::proto::handshake::{Handshake, Rules, Step};
use tokio_tungstenite::tungstenite::accept;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("handshake");
    group.throughput(Throughput::Elements(1));
    ringback(&mut group);
    tungstenite(&mut group);
    group.finish();
    criterion.final_summary();
}

/// What a browser sends, with the key of RFC 6455 §1.3.
const REQUEST: &str = "GET /ws HTTP/1.1\r\n\
    Host: echo.example.org\r\n\
    Connection: Upgrade\r\n\
    Pragma: no-cache\r\n\
    Cache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36\r\n\
    Upgrade: websocket\r\n\
    Origin: https://echo.example.org\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
    \r\n";

/// The answer to that key, by the same section.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn ringback(group: &mut BenchmarkGroup<WallTime>) {
    let rules = Rules::default();
    let budget = Budget::new(Total::new(1 << 20));
    let handshake = || Handshake::new().receive(black_box(REQUEST.as_bytes()), &rules, &budget);
    group.bench_function("ringback", |bencher| bencher.iter(handshake));
    match handshake() {
        Step::Accepted { response, consumed } if consumed == REQUEST.len() => assert_accepted(&response),
        step => panic!("{step:?}"),
    }
}

/// The connection that `accept` makes is part of it: there is no other way to answer a request.
fn tungstenite(group: &mut BenchmarkGroup<WallTime>) {
    let mut stream = Memory::new(REQUEST.into());
    let mut handshake = || {
        stream.rewind();
        drop(accept(&mut stream).expect("the request is valid"));
    };
    handshake();
    group.bench_function("tungstenite", |bencher| bencher.iter(&mut handshake));
    assert_accepted(&stream.outgoing);
}

/// Checks that `response` accepts the request.
fn assert_accepted(response: &[u8]) {
    let response = str::from_utf8(response).expect("a head is ASCII here");
    assert!(response.starts_with("HTTP/1.1 101 "), "{response}");
    assert!(response.contains(ACCEPT), "{response}");
}
