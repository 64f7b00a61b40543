//! What a thread does later.

use std::collections::BTreeMap;

use super::load::Attempt;

/// Something to be done at its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer<I> {
    /// A connection is begun.
    Begin(Attempt),
    /// A connection has another address to try, unless it is there by now.
    Connect(I, Attempt),
    /// A connection is given up, unless it is open by now.
    Open(I, Attempt),
}

/// All that is to be done later. Times are nanoseconds of the run's clock.
pub(super) struct Timers<I> {
    /// By time, and of the same time in the order in which they were set.
    set: BTreeMap<(u64, u64), Timer<I>>,
    count: u64,
}

impl<I> Default for Timers<I> {
    fn default() -> Self {
        Self { set: BTreeMap::new(), count: 0 }
    }
}

impl<I> Timers<I> {
    /// Whether there is none: nothing else is looked at while a load runs as it should.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// The time of the first.
    #[inline]
    pub(super) fn next(&self) -> Option<u64> {
        self.set.first_key_value().map(|((at, _), _)| *at)
    }

    /// Sets one.
    pub(super) fn push(&mut self, at: u64, timer: Timer<I>) {
        self.set.insert((at, self.count), timer);
        self.count += 1;
    }

    /// Takes the first, if its time has come.
    pub(super) fn pop(&mut self, now: u64) -> Option<Timer<I>> {
        let first = self.set.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// Forgets all connections that are to be opened again.
    pub(super) fn forget_reopening(&mut self) {
        self.set.retain(|_, timer| !matches!(timer, Timer::Begin(attempt) if attempt.is_reopened));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_come_at_their_time_and_in_their_order() {
        let attempt = |index| Attempt { index, ..Attempt::default() };
        let mut timers = Timers::<usize>::default();
        assert!(timers.is_empty() && timers.next().is_none() && timers.pop(u64::MAX).is_none());
        timers.push(20, Timer::Begin(attempt(3)));
        timers.push(10, Timer::Open(1, attempt(1)));
        timers.push(10, Timer::Connect(1, attempt(2)));
        assert_eq!((timers.next(), timers.pop(9)), (Some(10), None));
        assert_eq!(timers.pop(10), Some(Timer::Open(1, attempt(1))));
        assert_eq!(timers.pop(15), Some(Timer::Connect(1, attempt(2))));
        assert_eq!((timers.pop(15), timers.pop(20)), (None, Some(Timer::Begin(attempt(3)))));
    }
}
