//! Masking in absolute figures; `mask_ratio` has the comparisons that hold on a machine with other work.
//!
//! `cargo bench --bench mask -- --quick` takes about a minute. What is masked in place stays there: every second call
//! makes payload of it again.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringback::mask::{self, Kernel, Key};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};

fn masking(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mask");
    for len in [0, 8, 20, 64, 125, 1 << 10, 16 << 10, 64 << 10, 1 << 20] {
        let key = black_box(Key::new([0x37, 0xfa, 0x21, 0x3d]));
        let mut buffer = vec![b'a'; OFFSET + len + 64];
        let aligned = buffer.as_ptr().align_offset(64);
        let buffer = &mut buffer[aligned.min(63)..];
        let payload = OFFSET..OFFSET + len;
        group.throughput(Throughput::Bytes(len as u64));

        group.bench_function(BenchmarkId::new("in place", len), |bencher| {
            bencher.iter(|| mask::apply(&mut black_box(&mut *buffer)[payload.clone()], key));
        });
        group.bench_function(BenchmarkId::new("in place, text", len), |bencher| {
            bencher.iter(|| mask::apply_text(&mut black_box(&mut *buffer)[payload.clone()], key));
        });
        group.bench_function(BenchmarkId::new("left by 4", len), |bencher| {
            bencher.iter(|| mask::apply_shifted(black_box(&mut *buffer), payload.clone(), OFFSET - 4, key));
        });
        for kernel in Kernel::available() {
            group.bench_function(BenchmarkId::new(kernel.name(), len), |bencher| {
                bencher.iter(|| kernel.apply_shifted(black_box(&mut *buffer), payload.clone(), OFFSET, key));
            });
        }
        group.bench_function(BenchmarkId::new("by the byte", len), |bencher| {
            let key = key.to_bytes();
            bencher.iter(|| {
                let payload = &mut black_box(&mut *buffer)[payload.clone()];
                payload.iter_mut().enumerate().for_each(|(i, byte)| *byte ^= key[i % 4]);
            });
        });
        group.bench_function(BenchmarkId::new("memcpy", len), |bencher| {
            let other = vec![b'a'; buffer.len()];
            bencher.iter(|| {
                black_box(&mut *buffer)[payload.clone()].copy_from_slice(&black_box(&other)[payload.clone()]);
            });
        });
        // tungstenite's function is private. `Frame::format` is what leads to it: it also writes the header and copies
        // the payload once, into memory that is there, and `Bytes` comes and goes with each frame.
        group.bench_function(BenchmarkId::new("tungstenite, formatting a masked frame", len), |bencher| {
            let header = FrameHeader {
                opcode: OpCode::Data(Data::Binary),
                mask: Some(key.to_bytes()),
                ..FrameHeader::default()
            };
            let mut output = Vec::with_capacity(len + 16);
            bencher.iter_batched(
                || Frame::from_payload(header.clone(), Bytes::from(vec![b'a'; len])),
                |frame| {
                    output.clear();
                    frame.format(&mut output)
                },
                criterion::BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// Where a payload lies behind the header and the key of a frame of 126 bytes or more, from the start of a line.
const OFFSET: usize = 8;

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = masking
}
criterion_main!(benches);
