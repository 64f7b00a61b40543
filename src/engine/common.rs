//! What the connections of a worker share, whatever they say.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::EngineCounters;
use super::alarms::Alarms;
use super::clock::{Clock, Moment};
use super::drain::{Drain, Phase};
use super::pool::Pool;
use crate::memory::Budget;

/// What the connections of a worker share. It never leaves the worker's thread.
pub(crate) struct Common {
    pub(crate) clock: Clock,
    pub(crate) drain: Drain,
    /// When the phase last changed.
    phase_since: Cell<Option<Moment>>,
    /// What may wait to be sent is charged to it.
    pub(crate) budget: Rc<Budget>,
    pub(crate) counters: Arc<EngineCounters>,
    /// What wakes the tasks of connections, on the engines that have such.
    pub(super) alarms: Alarms,
    /// What the tasks receive into.
    pub(crate) pool: Pool,
}

impl Common {
    /// That of a worker without connections, whose big buffers receive up to `receive_buffer_size` bytes.
    pub(crate) fn new(receive_buffer_size: usize, budget: Rc<Budget>, counters: Arc<EngineCounters>) -> Self {
        Self {
            clock: Clock::new(),
            drain: Drain::default(),
            phase_since: Cell::new(None),
            budget,
            alarms: Alarms::default(),
            pool: Pool::new(receive_buffer_size, Arc::clone(&counters)),
            counters,
        }
    }

    /// Moves on to `phase` and wakes everyone who listens.
    pub(crate) fn enter_phase(&self, phase: Phase) {
        self.phase_since.set(Some(self.clock.now()));
        self.drain.enter(phase);
    }

    /// For how long the server has been in its phase; no time at all while the first one lasts.
    pub(crate) fn phase_elapsed(&self) -> Duration {
        self.phase_since.get().map_or(Duration::ZERO, |since| since.until(self.clock.now()))
    }

    /// What wakes the tasks of this worker, to be run beside them. It has to be called within the runtime, once.
    ///
    /// # Errors
    ///
    /// Those of timerfd_create(2).
    pub(crate) fn watch_alarms(self: Rc<Self>) -> io::Result<impl Future<Output = ()>> {
        self.alarms.begin()?;
        Ok(async move { self.alarms.run(&self.clock, &self.drain).await })
    }
}
