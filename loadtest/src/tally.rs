//! The figures of one thread, merged at the end.

use std::ops::Range;

use hdrhistogram::Histogram;

use crate::client::fault::Faults;
use crate::cpu::ThreadUsage;

/// What one thread, or all together, counted in the measured window.
pub(crate) struct Tally {
    /// When that is, in nanoseconds of the run's clock; empty until it is known.
    window: Range<u64>,
    /// Messages that came back whole and right at any time of the run.
    pub(crate) checked: u64,
    /// Those of them in the window.
    pub(crate) messages: u64,
    /// From when a message was due to when its echo was read, in nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// Latencies beyond the histogram's bounds.
    pub(crate) unrecorded: u64,
    /// Everything that was wrong, in the window or not.
    pub(crate) faults: Faults,
    /// What each thread had of the CPU in the window.
    pub(crate) threads: Vec<ThreadUsage>,
}

/// One second of the window, over all threads. Its latencies are those of the echoes that came in it.
pub(crate) struct Interval {
    /// Whole seconds of the window before it.
    pub(crate) second: u64,
    /// Messages that came back.
    pub(crate) messages: u64,
    /// Everything that was wrong.
    pub(crate) errors: u64,
    /// In nanoseconds.
    pub(crate) latency: Histogram<u64>,
}

impl Tally {
    /// Nothing is counted before [`Self::measure`].
    pub(crate) fn new() -> Self {
        let latency = Histogram::new_with_bounds(LATENCY_MIN_NS, LATENCY_MAX_NS, LATENCY_DIGITS)
            .expect("the bounds are constants that it takes");
        Self {
            window: 0..0,
            checked: 0,
            messages: 0,
            latency,
            unrecorded: 0,
            faults: Faults::default(),
            threads: Vec::new(),
        }
    }

    /// Counts messages from now on, those that come back in `window`.
    pub(crate) fn measure(&mut self, window: Range<u64>) {
        self.window = window;
    }

    /// A message that was due at `due_at` has come back at `now`.
    #[inline]
    pub(crate) fn echo(&mut self, due_at: u64, now: u64) {
        self.checked += 1;
        if self.window.contains(&now) {
            self.messages += 1;
            self.unrecorded += u64::from(self.latency.record(now - due_at).is_err());
        }
    }

    /// Adds those of another thread.
    pub(crate) fn merge(&mut self, other: Self) {
        self.checked += other.checked;
        self.messages += other.messages;
        self.latency.add(&other.latency).expect("all have the same bounds");
        self.unrecorded += other.unrecorded;
        self.faults.merge(other.faults);
        self.threads.extend(other.threads);
    }
}

const LATENCY_MIN_NS: u64 = 1_000;
const LATENCY_MAX_NS: u64 = 60_000_000_000;
const LATENCY_DIGITS: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_window_counts_and_what_is_too_slow_is_not_lost() {
        let mut tally = Tally::new();
        tally.echo(0, 5);
        tally.measure(1_000_000..2_000_000_000_000);
        tally.echo(0, 999_999);
        tally.echo(0, 1_000_000);
        tally.echo(0, 1_999_999_999_999);
        tally.echo(0, 2_000_000_000_000);
        assert_eq!((tally.messages, tally.latency.len(), tally.unrecorded), (2, 1, 1));
        assert_eq!(tally.checked, 5);
        let mut sum = Tally::new();
        sum.merge(tally);
        assert_eq!(sum.checked, 5);
        assert_eq!((sum.messages, sum.latency.len(), sum.unrecorded), (2, 1, 1));
        assert!((999_000..=1_001_000).contains(&sum.latency.max()));
    }
}
