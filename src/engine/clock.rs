//! The time of a worker, in eight bytes.

#[cfg(test)]
use std::cell::Cell;
use std::num::NonZero;
#[cfg(test)]
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

/// A moment by a worker's [`Clock`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(
    /// Microseconds since the clock was made, and one more: an `Option` of it takes no more room.
    NonZero<u64>,
);

impl Moment {
    const fn at(elapsed_us: u64) -> Self {
        Self(NonZero::<u64>::MIN.saturating_add(elapsed_us))
    }

    /// So many milliseconds since the clock was made.
    pub(crate) const fn at_millis(millis: u64) -> Self {
        Self::at(millis.saturating_mul(1000))
    }

    /// Milliseconds since the clock was made, rounded up: when [`Clock::elapsed_millis`] says so, it has surely come.
    pub(crate) const fn millis(self) -> u64 {
        (self.0.get() - 1).div_ceil(1000)
    }

    /// Whole milliseconds since the clock was made.
    pub(crate) const fn whole_millis(self) -> u64 {
        (self.0.get() - 1) / 1000
    }

    /// The same modulo 2^32.
    #[expect(clippy::cast_possible_truncation, reason = "the upper bits are cut off on purpose")]
    pub(crate) const fn millis_modulo(self) -> u32 {
        self.whole_millis() as u32
    }

    /// `timeout` later.
    pub(crate) fn after(self, timeout: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX)))
    }

    /// How long it is until then, or no time at all.
    pub(crate) const fn until(self, then: Self) -> Duration {
        Duration::from_micros(then.0.get().saturating_sub(self.0.get()))
    }
}

/// Where a worker's deadlines are counted from. It is read when a deadline is set or looked for: not for a message.
#[derive(Debug)]
pub(crate) struct Clock {
    made: Instant,
    /// In a test: how far the test has moved it, which nothing else does.
    #[cfg(test)]
    moved: Option<Rc<Cell<Duration>>>,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            made: Instant::now(),
            #[cfg(test)]
            moved: None,
        }
    }

    /// The present moment.
    pub(crate) fn now(&self) -> Moment {
        Moment::at(u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Whole milliseconds since the clock was made.
    pub(crate) fn elapsed_millis(&self) -> u64 {
        u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// `timeout` from now.
    pub(crate) fn after(&self, timeout: Duration) -> Moment {
        self.now().after(timeout)
    }

    /// The date.
    pub(crate) fn date(&self) -> SystemTime {
        #[cfg(test)]
        if let Some(moved) = &self.moved {
            return SystemTime::UNIX_EPOCH + moved.get();
        }
        SystemTime::now()
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
    pub(crate) fn still() -> Self {
        Self::showing(Rc::default())
    }

    /// A clock that shows how much time has passed in a simulation.
    pub(crate) fn showing(elapsed: Rc<Cell<Duration>>) -> Self {
        Self { made: Instant::now(), moved: Some(elapsed) }
    }

    pub(crate) fn advance(&self, by: Duration) {
        let moved = self.moved.as_ref().expect("a still clock");
        moved.set(moved.get() + by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_comes_when_its_time_has_passed() {
        let clock = Clock::still();
        clock.advance(Duration::from_micros(1_000_001));
        let (now, soon) = (clock.now(), clock.after(Duration::from_millis(50)));
        assert!(now < soon && now.after(Duration::from_millis(50)) == soon);
        assert_eq!((now.until(soon), soon.until(now)), (Duration::from_millis(50), Duration::ZERO));
        assert_eq!((soon.millis(), soon.millis_modulo()), (1051, 1050), "rounded up, and down");
        clock.advance(Duration::from_millis(50));
        assert_eq!(clock.now(), soon);
        assert!(clock.after(Duration::MAX) > soon, "a timeout without end does not overflow");
        assert_eq!(size_of::<Option<Moment>>(), 8);
    }
}
