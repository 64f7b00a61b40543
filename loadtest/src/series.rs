//! The seconds of a window, put together from those of its threads.

use std::collections::VecDeque;
use std::time::Duration;

use crate::tally::Interval;

/// Seconds that are not known from every thread yet, and the sum of all.
pub(crate) struct Series<F> {
    /// For each thread, the first second that it has not spoken of.
    next: Vec<u64>,
    /// The seconds from `told` on, as far as any thread has spoken of them.
    /// In many of them there was nothing.
    pending: VecDeque<Option<Interval>>,
    /// The first second that was not told.
    told: u64,
    window: Interval,
    on_second: F,
}

impl<F: FnMut(Interval)> Series<F> {
    /// The series of so many threads. `on_second` is told of one second after the other, none left out.
    pub(crate) fn new(threads: usize, on_second: F) -> Self {
        Self {
            next: vec![0; threads],
            pending: VecDeque::new(),
            told: 0,
            window: Interval::new(0),
            on_second,
        }
    }

    /// How many threads there are.
    pub(crate) const fn threads(&self) -> usize {
        self.next.len()
    }

    /// Adds what one thread counted. Threads speak of their seconds in order, and leave out those without anything.
    pub(crate) fn add(&mut self, thread: usize, interval: &Interval) {
        debug_assert!(interval.second >= self.told, "that second was told");
        self.fill(interval.second + 1);
        if let Some(at) = interval.second.checked_sub(self.told).and_then(|at| usize::try_from(at).ok()) {
            let second = self.pending[at].get_or_insert_with(|| Interval::new(interval.second));
            second.add(interval);
        }
        self.next[thread] = interval.second + 1;
        self.tell(self.known());
    }

    /// A thread has ended: it will speak of no second any more.
    pub(crate) fn end(&mut self, thread: usize) {
        self.next[thread] = u64::MAX;
        self.tell(self.known());
    }

    /// All threads have ended: tells the rest of a window that was this long, and gives the sum.
    pub(crate) fn finish(mut self, length: Duration) -> Interval {
        let seconds = seconds(length);
        self.fill(seconds);
        self.tell(seconds);
        self.window
    }

    /// The first second that not every thread has spoken of.
    fn known(&self) -> u64 {
        self.next.iter().copied().min().unwrap_or_default()
    }

    /// Has seconds before this one be there.
    fn fill(&mut self, end: u64) {
        let first = self.told + self.pending.len() as u64;
        self.pending.extend((first..end).map(|_| None));
    }

    fn tell(&mut self, end: u64) {
        while self.told < end
            && let Some(interval) = self.pending.pop_front()
        {
            let interval = interval.unwrap_or_else(|| Interval::new(self.told));
            self.window.add(&interval);
            self.told += 1;
            (self.on_second)(interval);
        }
    }
}

/// How many seconds a window of this length has; the last may be shorter.
pub(crate) fn seconds(length: Duration) -> u64 {
    length.as_secs() + u64::from(length.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(second: u64, messages: u64) -> Interval {
        Interval { messages, ..Interval::new(second) }
    }

    #[test]
    fn a_second_is_told_when_all_threads_have_spoken_of_it_and_none_is_left_out() {
        let mut told = Vec::new();
        let mut series = Series::new(2, |interval: Interval| told.push((interval.second, interval.messages)));
        series.add(0, &interval(0, 1));
        series.add(0, &interval(2, 2));
        series.add(1, &interval(1, 4));
        series.add(1, &interval(4, 8));
        let sum = series.finish(Duration::from_millis(5_001));
        assert_eq!(sum.messages, 15);
        assert_eq!(told, [(0, 1), (1, 4), (2, 2), (3, 0), (4, 8), (5, 0)]);
    }

    #[test]
    fn a_second_is_not_told_early() {
        let told = std::cell::Cell::new(0);
        let mut series = Series::new(2, |_: Interval| told.set(told.get() + 1));
        series.add(0, &interval(7, 1));
        assert_eq!(told.get(), 0);
        series.add(1, &interval(3, 1));
        assert_eq!(told.get(), 4);
        // Who has ended keeps nobody waiting.
        series.end(1);
        assert_eq!(told.get(), 8);
        series.finish(Duration::from_secs(9));
        assert_eq!(told.get(), 9);
    }
}
