//! The time of a worker, in eight bytes.

#[cfg(test)]
use std::cell::Cell;
use std::num::NonZero;
use std::time::{Duration, Instant};

/// A moment by a worker's [`Clock`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(
    /// Microseconds since the clock was made, and one more: an `Option` of it takes no more room.
    NonZero<u64>,
);

impl Moment {
    const fn at(elapsed_us: u64) -> Self {
        Self(NonZero::<u64>::MIN.saturating_add(elapsed_us))
    }

    /// Milliseconds since the clock was made, rounded up: when [`Clock::elapsed_millis`] says so, it has surely come.
    pub(super) const fn millis(self) -> u64 {
        (self.0.get() - 1).div_ceil(1000)
    }

    const fn elapsed(self) -> Duration {
        Duration::from_micros(self.0.get() - 1)
    }
}

/// Where a worker's deadlines are counted from. It is read when a deadline is set or looked for: not for a message.
#[derive(Debug)]
pub(super) struct Clock {
    made: Instant,
    /// In a test: how far the test has moved it, which nothing else does.
    #[cfg(test)]
    moved: Option<Cell<Duration>>,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self {
            made: Instant::now(),
            #[cfg(test)]
            moved: None,
        }
    }

    #[cfg(test)]
    pub(super) fn now(&self) -> Moment {
        self.after(Duration::ZERO)
    }

    /// Whole milliseconds since the clock was made.
    pub(super) fn elapsed_millis(&self) -> u64 {
        u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// `timeout` from now.
    pub(super) fn after(&self, timeout: Duration) -> Moment {
        let elapsed = self.elapsed().saturating_add(timeout);
        Moment::at(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX))
    }

    /// The same moment by the system's clock; `None` for one so far away that the system cannot say it.
    pub(super) fn instant(&self, moment: Moment) -> Option<Instant> {
        self.made.checked_add(moment.elapsed())
    }

    fn elapsed(&self) -> Duration {
        #[cfg(test)]
        if let Some(moved) = &self.moved {
            return moved.get();
        }
        self.made.elapsed()
    }
}

#[cfg(test)]
impl Clock {
    /// A clock that only [`Self::advance`] moves.
    pub(super) fn still() -> Self {
        Self { made: Instant::now(), moved: Some(Cell::default()) }
    }

    pub(super) fn advance(&self, by: Duration) {
        let moved = self.moved.as_ref().expect("a still clock");
        moved.set(moved.get() + by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_found_again_on_the_clock_of_the_system() {
        let clock = Clock::still();
        clock.advance(Duration::from_secs(1));
        let (now, soon) = (clock.now(), clock.after(Duration::from_millis(50)));
        let (now_instant, soon_instant) =
            (clock.instant(now).expect("near"), clock.instant(soon).expect("near"));
        assert!(now < soon);
        assert_eq!(now_instant - clock.made, Duration::from_secs(1));
        assert_eq!(soon_instant - now_instant, Duration::from_millis(50));
        clock.advance(Duration::from_millis(50));
        assert_eq!(clock.now(), soon);
        assert!(clock.after(Duration::MAX) > soon, "a timeout without end does not overflow");
        assert_eq!(size_of::<Option<Moment>>(), 8);
    }
}
