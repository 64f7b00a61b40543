//! How masking compares with `memcpy` and with plain loops, as ratios.
//!
//! `cargo bench --bench mask_ratio [-- ROUNDS]` prints a table. In each round the two contenders of a line get a short
//! slice of time each, in random order, and the ratio is of that round: what disturbs a shared machine disturbs both.
//! Every contender has buffers of its own. What masks does so over and over, alternating between masked and not.

#![expect(clippy::cast_precision_loss, reason = "times and sizes here are far below 2^52")]

use std::env;
use std::hint::black_box;
use std::time::Instant;

use ringback::mask::{self, Kernel, Key};

fn main() {
    // Cargo adds `--bench`, but not in `cargo test`: there it is enough to see that it runs.
    let default = if env::args().any(|word| word == "--bench") { ROUNDS } else { 1 };
    let rounds = env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(default);
    println!("kernel in use: {}; medians of {rounds} rounds, quartiles of the ratio", Kernel::chosen());
    println!("   bytes offset  {:<12} {:>20}   {:<12} {:>20}   ratio of speeds", "A", "", "B", "");
    for offset in [0, 8, 14] {
        compare(rounds, 16 << 10, offset, Contender::Apply, Contender::Memcpy);
        compare(rounds, 16 << 10, offset, Contender::ApplyText, Contender::Memcpy);
    }
    compare(rounds, 16 << 10, 8, Contender::ApplyShifted, Contender::Memcpy);
    for kernel in Kernel::available() {
        compare(rounds, 16 << 10, 8, Contender::By(kernel), Contender::Memcpy);
    }
    for len in [1, 3, 8, 14, 20, 40, 64, 100, 125, 200, 300, 1024] {
        compare(rounds, len, 8, Contender::Apply, Contender::Bytewise);
    }
    for len in [1, 3, 8, 14, 20, 40, 64, 100, 125, 200, 300, 1024] {
        compare(rounds, len, 8, Contender::Apply, Contender::By(Kernel::Scalar));
    }
}

const ROUNDS: usize = 400;
const KEY: Key = Key::new([0x37, 0xfa, 0x21, 0x3d]);

#[derive(Clone, Copy)]
enum Contender {
    Apply,
    ApplyText,
    /// Moved left by 4.
    ApplyShifted,
    By(Kernel),
    /// The loop that everybody would write first.
    Bytewise,
    /// Between two buffers, at the same offset in both.
    Memcpy,
}

impl Contender {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::ApplyText => "apply_text",
            Self::ApplyShifted => "left by 4",
            Self::By(kernel) => kernel.name(),
            Self::Bytewise => "by the byte",
            Self::Memcpy => "memcpy",
        }
    }

    /// Nanoseconds that it takes for `len` bytes at `offset`: the mean of a slice of some 20 µs.
    fn time(self, buffers: &mut Buffers, offset: usize, len: usize) -> f64 {
        // The match is outside of the loops, which are compiled for each contender.
        let Buffers { here, there } = buffers;
        let (here, there) = (&mut here.0, &there.0);
        let key = black_box(KEY);
        match self {
            Self::Apply => slice(offset, len, |at| {
                mask::apply(&mut here[at..at + len], key);
            }),
            Self::ApplyText => slice(offset, len, |at| {
                black_box(mask::apply_text(&mut here[at..at + len], key));
            }),
            Self::ApplyShifted => slice(offset, len, |at| {
                mask::apply_shifted(here, at..at + len, at - 4, key);
            }),
            Self::By(kernel) => slice(offset, len, |at| {
                kernel.apply_shifted(here, at..at + len, at, key);
            }),
            Self::Bytewise => slice(offset, len, |at| {
                let key = key.to_bytes();
                for (i, byte) in here[at..at + len].iter_mut().enumerate() {
                    *byte ^= key[i % 4];
                }
            }),
            Self::Memcpy => slice(offset, len, |at| {
                here[at..at + len].copy_from_slice(&black_box(there)[at..at + len]);
            }),
        }
    }
}

fn compare(rounds: usize, len: usize, offset: usize, a: Contender, b: Contender) {
    let (mut a_buffers, mut b_buffers) = (Buffers::new(), Buffers::new());
    let (mut a_times, mut b_times, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (a_time, b_time);
        if fastrand::bool() {
            a_time = a.time(&mut a_buffers, offset, len);
            b_time = b.time(&mut b_buffers, offset, len);
        } else {
            b_time = b.time(&mut b_buffers, offset, len);
            a_time = a.time(&mut a_buffers, offset, len);
        }
        a_times.push(a_time);
        b_times.push(b_time);
        ratios.push(b_time / a_time);
    }
    let speed = |times| {
        let [_, ns, _] = quartiles(times);
        format!("{ns:.2} ns {:5.1} GB/s", len as f64 / ns)
    };
    let [low, ratio, high] = quartiles(ratios);
    let (a, b, a_speed, b_speed) = (a.name(), b.name(), speed(a_times), speed(b_times));
    println!(
        "{len:8} {offset:6}  {a:<12} {a_speed:>20}   {b:<12} {b_speed:>20}   {ratio:.2} ({low:.2} to {high:.2})"
    );
}

/// The mean time of `run`, in nanoseconds, called with the place of a payload of `len` bytes.
///
/// Short payloads lie in turn at different places, each at `offset` in a line of the cache, as they do in a server. In
/// one place a call would wait for what the last one has just stored.
fn slice(offset: usize, len: usize, mut run: impl FnMut(usize)) -> f64 {
    let stride = (len + 64).next_multiple_of(64);
    let places = (BUFFER_LEN / stride).clamp(1, 32).next_power_of_two() / if len > 4096 { 1 } else { 2 };
    let calls = (6000 / (1 + len / 64)).max(64);
    let mut time = 0.0;
    // The first pass brings caches and predictors up.
    for calls in [calls / 4, calls] {
        let start = Instant::now();
        for i in 0..calls {
            run(black_box(offset + (i & (places - 1)) * stride));
        }
        time = start.elapsed().as_nanos() as f64 / calls as f64;
    }
    time
}

fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[quarter * (values.len() - 1) / 4])
}

struct Buffers {
    here: Box<Buffer>,
    there: Box<Buffer>,
}

/// Aligned as a receive buffer is.
#[repr(align(4096))]
struct Buffer([u8; BUFFER_LEN]);

/// Bytes: the longest payload and its offset.
const BUFFER_LEN: usize = (16 << 10) + 64;

impl Buffers {
    fn new() -> Self {
        let new = || Box::new(Buffer([b'a'; BUFFER_LEN]));
        Self { here: new(), there: new() }
    }
}
