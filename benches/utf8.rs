//! Validating UTF-8, over texts of each length of code point.

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use ringback::proto::utf8::Validator;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for (script, sample) in SCRIPTS {
        let mut group = criterion.benchmark_group(format!("utf8/{script}"));
        for len in LENGTHS {
            let text = text(sample, len);
            group.throughput(Throughput::Bytes(len as u64));
            ringback(&mut group, &text);
            std(&mut group, &text);
            simdutf8(&mut group, &text);
        }
        group.finish();
    }
    criterion.final_summary();
}

/// Texts to repeat, of code points of one, two, three and four bytes.
const SCRIPTS: [(&str, &str); 4] = [
    ("ascii", "The quick brown fox."),
    ("two-byte", "Съешьжеещё"),
    ("cjk", "視野無限廣窗外有藍天"),
    ("emoji", "🦊🐶🚀🎉"),
];

/// Payload lengths in bytes.
const LENGTHS: [usize; 4] = [64, 1 << 10, 16 << 10, 1 << 20];

/// As a text in one piece, which must be complete at its end.
fn ringback(group: &mut BenchmarkGroup<WallTime>, text: &[u8]) {
    let is_valid = |text: &[u8]| {
        let mut validator = Validator::new();
        validator.push(text).is_ok() && validator.is_complete()
    };
    assert!(is_valid(text));
    group.bench_with_input(BenchmarkId::new("ringback", text.len()), text, |bencher, text| {
        bencher.iter(|| is_valid(black_box(text)));
    });
}

fn std(group: &mut BenchmarkGroup<WallTime>, text: &[u8]) {
    assert!(std::str::from_utf8(text).is_ok());
    group.bench_with_input(BenchmarkId::new("std", text.len()), text, |bencher, text| {
        bencher.iter(|| std::str::from_utf8(black_box(text)).is_ok());
    });
}

fn simdutf8(group: &mut BenchmarkGroup<WallTime>, text: &[u8]) {
    assert!(simdutf8::basic::from_utf8(text).is_ok());
    group.bench_with_input(BenchmarkId::new("simdutf8", text.len()), text, |bencher, text| {
        bencher.iter(|| simdutf8::basic::from_utf8(black_box(text)).is_ok());
    });
}

/// `sample` again and again in exactly `len` bytes, ended with spaces where no whole code point fits.
fn text(sample: &str, len: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(len);
    for character in sample.chars().cycle() {
        let start = text.len();
        if start + character.len_utf8() > len {
            break;
        }
        text.resize(start + character.len_utf8(), 0);
        character.encode_utf8(&mut text[start..]);
    }
    text.resize(len, b' ');
    text
}
