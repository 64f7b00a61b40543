//! The figures of one thread, handed over second by second and merged once.

use std::ops::Range;
use std::sync::mpsc;

use hdrhistogram::Histogram;

use crate::client::fault::{Fault, Faults};
use crate::cpu::ThreadUsage;
use crate::pace::Pace;
use crate::packed::Packed;
use crate::run::Word;

/// What one thread counts.
pub(crate) struct Tally {
    thread: usize,
    /// Whether a message belongs to the window by when it was due, and not by when it came back.
    is_by_due: bool,
    /// When messages are counted, in nanoseconds of the run's clock; empty until it is known.
    window: Range<u64>,
    /// The end of the second under way.
    second_end: u64,
    current: Interval,
    to: mpsc::Sender<Word>,
    /// The rest is told at the end.
    pub(crate) totals: Totals,
}

/// What is told once, at the end.
#[derive(Default)]
pub(crate) struct Totals {
    /// Messages that came back whole and right at any time of the run.
    pub(crate) checked: u64,
    /// Latencies beyond the histogram's bounds; they count in it as its greatest.
    pub(crate) unrecorded: u64,
    /// Messages, or connections of a churn, that were due in the window at a rate.
    pub(crate) due: u64,
    /// For each of the addresses.
    pub(crate) addresses: Vec<Reached>,
    /// Connections that were opened again.
    pub(crate) reconnects: u64,
    /// Why they had ended, and why others were not taken.
    pub(crate) reconnect_causes: Faults,
    /// Everything that was wrong, in the window or not.
    pub(crate) faults: Faults,
    /// What each thread had of the CPU in the window.
    pub(crate) threads: Vec<ThreadUsage>,
    /// By how much they were late when they were taken, in nanoseconds.
    pub(crate) lateness: Option<Histogram<u64>>,
}

/// What has become of the attempts to reach an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    /// Connections that were made.
    pub(crate) connections: u64,
    /// Attempts that failed.
    pub(crate) failures: u64,
}

/// One second of the window, of a thread or of all.
#[derive(Clone)]
pub(crate) struct Interval<L = Histogram<u64>> {
    /// Whole seconds of the window before it.
    pub(crate) second: u64,
    /// Messages that came back.
    pub(crate) messages: u64,
    /// Everything that was wrong.
    pub(crate) errors: u64,
    /// From when a message was due to when its echo was read, in nanoseconds. At an arrival rate it is of the messages
    /// that were due in the window, and what comes behind its end is in the last second.
    pub(crate) latency: L,
}

impl Tally {
    /// Nothing is counted before [`Self::measure`].
    pub(crate) fn new(thread: usize, pace: Pace, addresses: usize, to: mpsc::Sender<Word>) -> Self {
        let is_by_due = pace.rate().is_some() || pace == Pace::Idle;
        Self {
            thread,
            is_by_due,
            window: 0..0,
            second_end: u64::MAX,
            current: Interval::new(0),
            to,
            totals: Totals {
                lateness: is_by_due.then(histogram),
                addresses: vec![Reached::default(); addresses],
                ..Totals::default()
            },
        }
    }

    /// Counts messages from now on, those of `window`.
    pub(crate) fn measure(&mut self, window: Range<u64>) {
        self.second_end = window.start + SECOND;
        self.window = window;
    }

    /// The window ends at `end`, if not before: nothing behind that is counted.
    pub(crate) fn measure_until(&mut self, end: u64) {
        self.window.end = self.window.end.min(end).max(self.window.start);
        if self.window.is_empty() {
            self.second_end = u64::MAX;
        }
    }

    /// A message that was due at `due_at` has come back at `now`.
    #[inline]
    pub(crate) fn echo(&mut self, due_at: u64, now: u64) {
        self.totals.checked += 1;
        let is_here = self.window.contains(&now);
        let counts = if self.is_by_due { self.window.contains(&due_at) } else { is_here };
        if !is_here && !counts {
            return;
        }
        self.pass(now);
        self.current.messages += u64::from(is_here);
        if counts {
            self.totals.unrecorded += u64::from(now - due_at > LATENCY_MAX_NS);
            self.current.latency.saturating_record(now - due_at);
        }
    }

    /// What was due at `due_at`, at a rate, is taken at `now`, whatever becomes of it.
    #[inline]
    pub(crate) fn hand_over(&mut self, due_at: u64, now: u64) {
        if let Some(lateness) = &mut self.totals.lateness
            && self.window.contains(&due_at)
        {
            self.totals.due += 1;
            lateness.saturating_record(now - due_at);
        }
    }

    /// Something was wrong at `now`: `count` times, first with message `message` of `connection`.
    pub(crate) fn fault(&mut self, fault: &Fault, count: u64, connection: usize, message: u64, now: u64) {
        self.totals.faults.add(fault, count, connection, message);
        if self.window.start <= now && !self.window.is_empty() {
            self.pass(now);
            self.current.errors += count;
        }
    }

    /// `connection` has ended before its message `message`, or was not taken, and is opened again: no fault by itself.
    pub(crate) fn ended(&mut self, fault: &Fault, connection: usize, message: u64) {
        self.totals.reconnect_causes.add(fault, 1, connection, message);
    }

    /// When a second ends next that has to be told of.
    pub(crate) const fn next(&self) -> u64 {
        self.second_end
    }

    /// It is `now`: tells of the seconds that are over.
    #[inline]
    pub(crate) fn pass(&mut self, now: u64) {
        if now >= self.second_end {
            self.hand_in(now);
        }
    }

    /// The rest of it; the thread is over.
    pub(crate) fn finish(mut self) -> Totals {
        if !self.window.is_empty() {
            let _ = self.to.send(Word::Second(self.thread, self.current));
        }
        self.totals.lateness = self.totals.lateness.take().filter(|lateness| !lateness.is_empty());
        self.totals
    }

    #[cold]
    fn hand_in(&mut self, now: u64) {
        let second = now.min(self.window.end - 1).saturating_sub(self.window.start) / SECOND;
        if second == self.current.second {
            // Behind the window's end everything is of its last second.
            self.second_end = u64::MAX;
            return;
        }
        let over = std::mem::replace(&mut self.current, Interval::new(second));
        self.second_end = self.window.start + (second + 1) * SECOND;
        // The receiver lives as long as this thread, unless the run was given up.
        let _ = self.to.send(Word::Second(self.thread, over));
    }
}

impl Interval {
    pub(crate) fn new(second: u64) -> Self {
        Self { second, messages: 0, errors: 0, latency: histogram() }
    }

    /// In few bytes: a run may have many seconds.
    pub(crate) fn pack(self) -> Interval<Packed> {
        let Self { second, messages, errors, latency } = self;
        Interval { second, messages, errors, latency: Packed::new(&latency) }
    }

    /// Adds those of another thread, or of another second.
    pub(crate) fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.errors += other.errors;
        self.latency.add(&other.latency).expect("all have the same bounds");
    }
}

impl Totals {
    /// Adds those of another thread.
    pub(crate) fn merge(&mut self, other: Self) {
        self.checked += other.checked;
        self.unrecorded += other.unrecorded;
        self.reconnects += other.reconnects;
        self.reconnect_causes.merge(other.reconnect_causes);
        if self.addresses.is_empty() {
            self.addresses = other.addresses;
        } else {
            for (sum, of) in self.addresses.iter_mut().zip(other.addresses) {
                sum.connections += of.connections;
                sum.failures += of.failures;
            }
        }
        self.due += other.due;
        self.faults.merge(other.faults);
        self.threads.extend(other.threads);
        match (&mut self.lateness, other.lateness) {
            (Some(lateness), Some(other)) => lateness.add(other).expect("all have the same bounds"),
            (lateness, other) => *lateness = lateness.take().or(other),
        }
    }
}

/// A histogram of nanoseconds, empty.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_MIN_NS, LATENCY_MAX_NS, LATENCY_DIGITS)
        .expect("the bounds are constants that it takes")
}

const SECOND: u64 = 1_000_000_000;

/// Every nanosecond counts: a round trip without sleeping takes some ten thousand of them.
const LATENCY_MIN_NS: u64 = 1;
const LATENCY_MAX_NS: u64 = 60_000_000_000;
/// Values that differ by less than one part in a thousand may be told as one.
const LATENCY_DIGITS: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pace::Arrivals;

    const CLOSED: Pace = Pace::Closed { depth: 1 };
    const OPEN: Pace = Pace::Open { rate: 1.0, arrivals: Arrivals::Constant };

    /// What a tally hands in that `count` has filled: its seconds and the rest.
    fn tally(pace: Pace, count: impl FnOnce(&mut Tally)) -> (Vec<Interval>, Totals) {
        let (to, words) = mpsc::channel();
        let mut tally = Tally::new(3, pace, 1, to);
        count(&mut tally);
        let totals = tally.finish();
        let seconds = words.into_iter().map(|word| match word {
            Word::Second(3, interval) => interval,
            _ => panic!("a tally tells of its seconds only"),
        });
        (seconds.collect(), totals)
    }

    fn rows(seconds: &[Interval]) -> Vec<(u64, u64, u64, u64)> {
        let row = |it: &Interval| (it.second, it.messages, it.latency.len(), it.errors);
        seconds.iter().map(row).collect()
    }

    #[test]
    fn only_the_window_counts_and_what_is_too_slow_is_not_lost() {
        let (seconds, totals) = tally(CLOSED, |tally| {
            tally.echo(0, 5);
            tally.measure(1_000_000..200 * SECOND);
            tally.echo(0, 999_999);
            tally.echo(0, 1_000_000);
            tally.echo(0, 200 * SECOND - 1);
            tally.echo(0, 200 * SECOND);
        });
        assert_eq!(rows(&seconds), [(0, 1, 1, 0), (199, 1, 1, 0)]);
        assert!(seconds[1].latency.max() >= LATENCY_MAX_NS, "it counts as the greatest");
        assert_eq!((totals.checked, totals.unrecorded), (5, 1));
        assert!((999_000..=1_001_000).contains(&seconds[0].latency.max()));
    }

    #[test]
    fn behind_a_window_that_is_ended_early_nothing_counts() {
        for (end, expected) in
            [(2 * SECOND, vec![(1, 1, 1, 0)]), (SECOND / 2, vec![(0, 0, 0, 0)]), (0, vec![])]
        {
            let (seconds, totals) = tally(CLOSED, |tally| {
                tally.measure(0..9 * SECOND);
                if end > SECOND {
                    tally.echo(0, SECOND);
                }
                tally.measure_until(end);
                tally.echo(0, end);
                tally.echo(0, 3 * SECOND);
            });
            let rows = rows(&seconds).into_iter().skip_while(|row| end > SECOND && row.0 == 0);
            assert_eq!((rows.collect::<Vec<_>>(), totals.checked > 1), (expected, true), "{end}");
        }
    }

    #[test]
    fn every_second_is_told_and_a_fault_is_in_its_own() {
        let (seconds, totals) = tally(CLOSED, |tally| {
            tally.measure(100..100 + 3 * SECOND + SECOND / 2);
            assert_eq!(tally.next(), 100 + SECOND);
            tally.echo(0, 100);
            tally.echo(0, 99 + SECOND);
            tally.echo(0, 100 + SECOND);
            tally.fault(&Fault::Missing, 2, 0, 0, 100 + 2 * SECOND);
            tally.pass(50 + 3 * SECOND);
            tally.echo(0, 100 + 3 * SECOND);
            tally.fault(&Fault::Missing, 1, 0, 0, 9 * SECOND);
        });
        assert_eq!(rows(&seconds), [(0, 2, 2, 0), (1, 1, 1, 0), (2, 0, 0, 2), (3, 1, 1, 1)]);
        assert_eq!(totals.faults.total(), 3);
    }

    #[test]
    fn at_a_rate_latencies_are_of_the_messages_that_were_due_in_the_window() {
        let (seconds, totals) = tally(OPEN, |tally| {
            tally.measure(SECOND..3 * SECOND);
            // Due before, back in the window; due in it, back in it; due in it, back behind its end; due behind it.
            tally.echo(SECOND - 1, SECOND);
            tally.echo(SECOND, SECOND + 5_000);
            tally.echo(3 * SECOND - 1, 9 * SECOND);
            tally.echo(3 * SECOND, 9 * SECOND);
            tally.hand_over(SECOND - 1, SECOND);
            tally.hand_over(SECOND, SECOND + 7_000);
        });
        assert_eq!(rows(&seconds), [(0, 2, 1, 0), (1, 0, 1, 0)]);
        assert_eq!((totals.checked, totals.due), (4, 1));
        let lateness = totals.lateness.expect("at a rate there is one");
        assert_eq!((lateness.len(), lateness.max()), (1, lateness.highest_equivalent(7_000)));
    }

    #[test]
    fn the_histogram_is_as_precise_as_it_says() {
        for exact in (0..46).map(|power| 1_000 * 3_u64.pow(power / 3) + 1_000 * u64::from(power)) {
            let exact = exact.min(LATENCY_MAX_NS);
            let mut histogram = histogram();
            histogram.record(exact).expect("it is in its bounds");
            let told = histogram.value_at_quantile(0.5);
            assert!(told.abs_diff(exact) * 1_000 <= exact, "{exact} is told as {told}");
        }
    }
}
