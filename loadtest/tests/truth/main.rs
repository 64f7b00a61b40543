//! What the program says is held against servers that do something known: they stall, they are late by so much, they flip
//! one byte, they are ours and hold a crowd.

mod crowd;
mod delay;
mod flip;
mod stall;
#[expect(dead_code, reason = "a part of it is for other servers")]
#[path = "../servers/support.rs"]
mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use support::{Ran, loadtest};

/// By how much a latency may differ from what was measured: the histogram has three digits.
const PRECISION: f64 = 0.001;

/// How much of the work of a volume test is asked for: `full`, or the part that RINGBACK_STRESS_PERCENT says.
fn volume(full: usize) -> usize {
    let percent = std::env::var("RINGBACK_STRESS_PERCENT").ok().and_then(|percent| percent.parse().ok());
    (full * percent.unwrap_or(100) / 100).max(1)
}

/// A run that went well, and all of its latencies.
struct Measured {
    ran: Ran,
    /// In nanoseconds.
    latencies: Histogram<u64>,
}

impl Measured {
    /// Loads the server; `name` is that of a file, and of no other test's.
    fn new(name: &str, server: SocketAddr, args: &[&str]) -> Self {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name).with_extension("hdr");
        let url = format!("ws://{server}/ws");
        let common =
            [&url, "--json", "--warmup", "200ms", "--grace", "60s", "--hdr", file.to_str().expect("text")];
        let ran = loadtest(&[&common, args].concat());
        assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
        let latencies = sum_of_log(&fs::read(&file).expect("--hdr has written it"));
        Self { ran, latencies }
    }

    /// A field of `latency_us`.
    fn latency(&self, name: &str) -> Duration {
        let json = self.ran.json();
        let us = json["latency_us"][name].as_f64().unwrap_or_else(|| panic!("no {name} in {json}"));
        Duration::from_secs_f64(us / 1e6)
    }

    /// The shortest latency.
    fn min(&self) -> Duration {
        Duration::from_nanos(self.latencies.min())
    }

    /// How many latencies are that long or longer.
    fn count_from(&self, latency: Duration) -> u64 {
        let nanos = u64::try_from(latency.as_nanos()).expect("not that long");
        self.latencies.count_between(nanos, self.latencies.high())
    }
}

/// All histograms of an interval log together.
fn sum_of_log(log: &[u8]) -> Histogram<u64> {
    let mut sum = Histogram::new(3).expect("three digits");
    for entry in IntervalLogIterator::new(log) {
        let LogEntry::Interval(interval) = entry.expect("a line of an interval log") else { continue };
        let bytes = STANDARD.decode(interval.encoded_histogram()).expect("base64");
        let histogram = Deserializer::new().deserialize::<u64, _>(&mut &bytes[..]).expect("a histogram");
        sum.add(histogram).expect("it grows");
    }
    sum
}

/// Asserts that a latency is that of the server and not much more. Where it says less, the program is wrong; more it may
/// be by what the way there and back takes on a busy machine.
#[track_caller]
fn assert_is(what: &str, told: Duration, actual: Duration, allowance: Duration) {
    let least = actual.mul_f64(1.0 - PRECISION);
    assert!(
        (least..=actual + allowance).contains(&told),
        "{what} is {told:?}, the server's delay {actual:?}"
    );
}
