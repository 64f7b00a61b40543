//! What the connections of a worker share, whatever they say.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::EngineCounters;
use super::buffers::{Buffer, Class, Group, Plan};
use super::clock::{Clock, Moment};
use super::phase::Phase;
use super::slots::Id;
use crate::memory::{Budget, HEADROOM, Total};

/// How much a connection may receive before anything of it is sent, on an engine that receives without being asked each
/// time.
const BURST_MAX: usize = 4 << 20;

/// What the connections of a worker are held to.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// How many bytes a receive of bulk has room for. On epoll it is 256 KiB at least.
    pub receive_buffer_size: usize,
    /// A peer with so many bytes unsent is not received from.
    pub unsent_limit: usize,
    /// How long a peer may take nothing of its last bytes; zero for any time.
    pub flush_timeout: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { receive_buffer_size: 64 << 10, unsent_limit: 16 << 20, flush_timeout: Duration::from_secs(10) }
    }
}

/// What the connections of a worker share. It never leaves the worker's thread.
pub struct Common {
    pub(super) bounds: Bounds,
    /// A connection is received from one buffer at a time, and what is unsent waits for the peer: the engine has it so, or
    /// little may be unsent.
    pub(super) is_careful: bool,
    pub(crate) clock: Clock,
    phase: Cell<Phase>,
    /// When the phase last changed.
    phase_since: Cell<Option<Moment>>,
    /// How many bytes a receive brings at most, by this engine.
    pub(super) receive_size: Cell<usize>,
    /// What may wait to be sent is charged to it.
    pub(crate) budget: Rc<Budget>,
    pub(crate) counters: Arc<EngineCounters>,
    /// Connections that others have something for.
    pub(super) nudged: RefCell<Vec<Id>>,
    /// What handlers make bytes in, once the first one does.
    scratch: OnceCell<Option<Group>>,
}

/// How many buffers handlers make bytes in, a worker.
const SCRATCH_COUNT: u32 = 64;

impl Common {
    /// That of a worker without connections, with a budget of its own without a limit.
    #[must_use]
    pub fn new(bounds: Bounds, counters: Arc<EngineCounters>) -> Self {
        Self::with_budget(bounds, Budget::new(Total::new(usize::MAX)), counters)
    }

    /// As [`Self::new`], with this budget.
    pub(crate) fn with_budget(bounds: Bounds, budget: Rc<Budget>, counters: Arc<EngineCounters>) -> Self {
        Self {
            is_careful: bounds.unsent_limit < BURST_MAX,
            clock: Clock::new(),
            phase: Cell::default(),
            receive_size: Cell::new(bounds.receive_buffer_size),
            phase_since: Cell::new(None),
            budget,
            nudged: RefCell::default(),
            scratch: OnceCell::new(),
            counters,
            bounds,
        }
    }

    /// A buffer to make bytes in, if there is one.
    pub(super) fn scratch(&self) -> Option<Buffer> {
        let group = self.scratch.get_or_init(|| {
            let plan = Plan {
                class: Class::Big,
                count: SCRATCH_COUNT,
                size: self.bounds.receive_buffer_size + HEADROOM,
                window: 0,
                reserve: 0,
                kept: SCRATCH_COUNT,
                has_quarantine: true,
                pooled: None,
            };
            Group::new(plan).ok()
        });
        group.as_ref()?.lend()
    }

    /// Has each connection be received from one buffer at a time.
    pub(crate) const fn receive_singly(&mut self) {
        self.is_careful = true;
    }

    /// What the server is at.
    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Moves on to `phase`.
    pub(crate) fn enter_phase(&self, phase: Phase) {
        debug_assert!(phase >= self.phase.get(), "a phase is never gone back to");
        self.phase_since.set(Some(self.clock.now()));
        self.phase.set(phase);
    }

    /// For how long the server has been in its phase; no time at all while the first one lasts.
    pub(crate) fn phase_elapsed(&self) -> Duration {
        self.phase_since.get().map_or(Duration::ZERO, |since| since.until(self.clock.now()))
    }
}
