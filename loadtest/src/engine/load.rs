//! What the connections of a thread have in common.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Instant;

use super::{Stage, nanos};
use crate::run::{Failure, Plan};
use crate::tally::Tally;

/// The state of a thread's load. Its connections share it, and never leave the thread.
pub(crate) struct Load {
    pub(super) plan: Arc<Plan>,
    /// Nanoseconds are counted from here, by every thread.
    origin: Instant,
    pub(super) stage: Cell<Stage>,
    pub(super) tally: RefCell<Tally>,
    /// Connections that are not over.
    pub(super) live: Cell<usize>,
    /// Those of them that are not open yet.
    pub(super) opening: Cell<usize>,
    /// Messages that are due or sent and have not come back, on all of them.
    pub(super) in_flight: Cell<usize>,
    /// Connections of a churn that are due and for which there is no room.
    pub(super) waiting: Cell<usize>,
    /// The places whose connections are over, since somebody looked last.
    pub(super) over: RefCell<Vec<Over>>,
    /// Why the run cannot be made at all.
    pub(super) failure: RefCell<Option<Failure>>,
}

/// A place whose connection is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Over {
    /// Which of the thread's places.
    pub(super) place: usize,
    /// Whether the next one can be expected to fare better.
    pub(super) was_reached: bool,
}

impl Load {
    pub(super) fn new(plan: Arc<Plan>, origin: Instant, tally: Tally) -> Self {
        Self {
            plan,
            origin,
            stage: Cell::new(Stage::Opening),
            tally: RefCell::new(tally),
            live: Cell::new(0),
            opening: Cell::new(0),
            in_flight: Cell::new(0),
            waiting: Cell::new(0),
            over: RefCell::default(),
            failure: RefCell::default(),
        }
    }

    /// Nanoseconds of the run's clock.
    #[inline]
    pub(super) fn now(&self) -> u64 {
        nanos(self.origin.elapsed())
    }

    /// Whether an echo is still to come, or in a churn a connection to begin or to end.
    pub(super) fn is_awaiting_echoes(&self) -> bool {
        if self.plan.pace.is_churn() {
            self.live.get() + self.waiting.get() > 0
        } else {
            self.in_flight.get() > 0
        }
    }
}
