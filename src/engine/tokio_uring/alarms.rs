//! What wakes the tasks of a worker at their deadlines: one wheel and one timerfd(2) for all of them.
//!
//! Not a timer of the runtime for each: it takes 128 bytes, and while there is any the runtime reads the clock, and has the
//! kernel set a timer, each time it waits. Here that is done only when the first deadline changes.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::os::fd::OwnedFd;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::super::clock::{Clock, Moment};
use super::super::wheel::{TICK, Wheel};
use super::serve::Shared;

/// The deadlines of a worker's tasks.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    /// Of tasks, by their keys among the waiters. A stale key wakes another task, which finds nothing to do.
    wheel: RefCell<Wheel<usize>>,
    /// Whoever had a deadline up to this moment has been woken.
    passed: Cell<Option<Moment>>,
    /// The tick at which the timer is due.
    armed: Cell<Option<u64>>,
    timer: OnceCell<AsyncFd<OwnedFd>>,
}

impl Alarms {
    /// Whether this deadline has passed: known once [`Self::run`] has seen it. It does not look at the clock.
    #[inline]
    pub(super) fn have_passed(&self, deadline: Option<Moment>) -> bool {
        deadline.is_some_and(|deadline| self.passed.get().is_some_and(|passed| deadline <= passed))
    }

    /// Sees to it that the task is woken at `deadline`, or before. `entered` is when it will be already, and after the call
    /// when it will be now.
    #[inline]
    pub(super) fn enter(
        &self,
        entered: &mut Option<Moment>,
        key: usize,
        deadline: Option<Moment>,
        clock: &Clock,
    ) {
        if let Some(deadline) = deadline
            && entered.is_none_or(|entered| deadline < entered || self.have_passed(Some(entered)))
        {
            *entered = Some(self.insert(key, deadline, clock));
        }
    }

    #[cold]
    fn insert(&self, key: usize, deadline: Moment, clock: &Clock) -> Moment {
        let tick = self.wheel.borrow_mut().insert(deadline.millis().div_ceil(TICK), key);
        if self.armed.get().is_none_or(|armed| tick < armed) {
            self.arm(tick, clock);
        }
        Moment::at_millis(tick * TICK)
    }

    /// Has the timer expire at `tick`.
    fn arm(&self, tick: u64, clock: &Clock) {
        let after = clock.now().until(Moment::at_millis(tick * TICK));
        // No time at all would stop the timer.
        let after = after.max(std::time::Duration::from_nanos(1));
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec::try_from(after).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 }),
        };
        if let Some(timer) = self.timer.get() {
            let set = timerfd_settime(timer, TimerfdTimerFlags::empty(), &once);
            debug_assert!(set.is_ok(), "a timer takes any time");
        }
        self.armed.set(Some(tick));
    }

    /// Makes the timer. It has to be called within the runtime, once.
    ///
    /// # Errors
    ///
    /// Those of timerfd_create(2).
    pub(super) fn begin(&self) -> io::Result<()> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        #[expect(
            deprecated,
            reason = "unsound for what may change its descriptor; an `OwnedFd` keeps the one it has"
        )]
        let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
        assert!(self.timer.set(timer).is_ok(), "it is watched once");
        Ok(())
    }

    /// Wakes tasks whenever the timer expires, until the runtime ends.
    pub(super) async fn run(&self, shared: &Shared) {
        let Some(timer) = self.timer.get() else {
            return;
        };
        // An error says that the runtime ends.
        while let Ok(mut ready) = timer.readable().await {
            let expired = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut [0_u8; 8])?));
            if expired.is_ok() {
                self.sweep(shared);
            }
        }
    }

    /// Wakes those whose deadlines have passed, or are to be looked at again.
    fn sweep(&self, shared: &Shared) {
        let clock = &shared.common.clock;
        let now = clock.now();
        self.passed.set(Some(now));
        self.armed.set(None);
        let mut wheel = self.wheel.borrow_mut();
        while let Some((_, keys)) = wheel.take_due(now.whole_millis() / TICK) {
            for key in keys {
                shared.waiters.wake(key);
            }
        }
        if let Some(tick) = wheel.next() {
            self.arm(tick, clock);
        }
    }
}
