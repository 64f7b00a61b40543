//! What the connections of a thread have in common.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Instant;

use super::{RunStage, nanos};
use crate::client::fault::{Fault, Words};
use crate::run::{Failure, Plan};
use crate::tally::Tally;

/// The state of a thread's load. Its connections share it, and never leave the thread.
pub(crate) struct Load {
    pub(super) plan: Arc<Plan>,
    /// Nanoseconds are counted from here, by every thread.
    origin: Instant,
    pub(super) stage: Cell<RunStage>,
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
    /// Connections that are to be opened again.
    reopening: Cell<usize>,
    /// The address that was reached last.
    preferred: Cell<usize>,
    /// Why each address was not reached, the last time.
    refusals: RefCell<Vec<Option<String>>>,
}

/// A place whose connection is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Over {
    /// Which of the thread's places.
    pub(super) place: usize,
    /// Whether the next one can be expected to fare better.
    pub(super) was_reached: bool,
    /// What follows in the place by itself.
    pub(super) next: Option<Next>,
}

/// An attempt that follows another one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Next {
    /// The same connection at another address, at once.
    Address(Attempt),
    /// A connection in the place of one that has ended, after a pause.
    Again(Attempt),
}

/// An attempt to open a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attempt {
    /// Which of the thread's places it has.
    pub(super) place: usize,
    /// The connection's index in the run.
    pub(super) index: usize,
    /// When the connection was due, where that is part of what is measured.
    pub(super) begun_at: Option<u64>,
    /// Which of the addresses it goes to.
    pub(super) address: usize,
    /// How many addresses were tried before.
    pub(super) tried: usize,
    /// Whether the connection is in the place of one that has ended.
    pub(super) is_reopened: bool,
    /// How many in a row have ended in this place without an echo.
    pub(super) retries: u32,
}

impl Load {
    /// Of a thread that has counted nothing yet.
    pub(super) fn new(plan: Arc<Plan>, origin: Instant, tally: Tally) -> Self {
        let addresses = plan.addresses.count();
        Self {
            plan,
            origin,
            stage: Cell::new(RunStage::Opening),
            tally: RefCell::new(tally),
            live: Cell::new(0),
            opening: Cell::new(0),
            in_flight: Cell::new(0),
            waiting: Cell::new(0),
            over: RefCell::default(),
            failure: RefCell::default(),
            reopening: Cell::new(0),
            preferred: Cell::new(0),
            refusals: RefCell::new(vec![None; addresses]),
        }
    }

    /// The first attempt to open a connection.
    pub(super) fn first_attempt(&self, place: usize, index: usize, begun_at: Option<u64>) -> Attempt {
        let address = self.plan.addresses.begin_with(index, self.preferred.get());
        Attempt { place, index, begun_at, address, ..Attempt::default() }
    }

    /// An attempt in the place of a connection that has ended; `None` where none is to follow.
    pub(super) fn attempt_again(&self, attempt: Attempt, was_good: bool) -> Option<Next> {
        if !self.plan.reconnect || self.stage.get() == RunStage::Ending {
            return None;
        }
        let retries = if was_good { 0 } else { attempt.retries.saturating_add(1) };
        let first = self.first_attempt(attempt.place, attempt.index, None);
        Some(Next::Again(Attempt { is_reopened: true, retries, ..first }))
    }

    /// An attempt waits: it counts as one that is opening, or as a connection that will be there again.
    pub(super) fn put_off(&self, attempt: Attempt) {
        self.put_off_counter(attempt).update(|count| count + 1);
    }

    /// It waits no more.
    pub(super) fn take_up(&self, attempt: Attempt) {
        self.put_off_counter(attempt).update(|count| count - 1);
    }

    const fn put_off_counter(&self, attempt: Attempt) -> &Cell<usize> {
        if attempt.is_reopened { &self.reopening } else { &self.opening }
    }

    /// A connection is made.
    pub(super) fn reached(&self, address: usize) {
        self.preferred.set(address);
        self.tally.borrow_mut().totals.addresses[address].connections += 1;
    }

    /// An attempt has not reached its address: what follows. The last address tells of all of them.
    pub(super) fn not_reached(&self, attempt: Attempt, why: &str) -> Option<Next> {
        let addresses = &self.plan.addresses;
        self.tally.borrow_mut().totals.addresses[attempt.address].failures += 1;
        self.refusals.borrow_mut()[attempt.address] = Some(why.to_owned());
        if attempt.tried + 1 < addresses.count() {
            let address = (attempt.address + 1) % addresses.count();
            return Some(Next::Address(Attempt { address, tried: attempt.tried + 1, ..attempt }));
        }
        if self.stage.get() == RunStage::Opening && !attempt.is_reopened {
            let why = if addresses.is_literal() { why.to_owned() } else { self.tried_in_words() };
            let told = format!("cannot connect to {}: {why}", self.plan.target);
            self.failure.borrow_mut().get_or_insert(Failure::Unavailable(told));
            return None;
        }
        let told = format!("{}: {why}", addresses.shown_with_name(attempt.address));
        let fault = Fault::ConnectFailed(Box::new(Words(told)));
        let now = self.now();
        let mut tally = self.tally.borrow_mut();
        if attempt.is_reopened {
            tally.ended(&fault, attempt.index, 0);
        } else {
            tally.fault(&fault, 1, attempt.index, 0, now);
        }
        drop(tally);
        self.attempt_again(attempt, false)
    }

    /// Which addresses were not reached, and why, to follow a sentence; empty where the target itself says the address.
    pub(super) fn tried(&self) -> String {
        let told = self.tried_in_words();
        if told.is_empty() || self.plan.addresses.is_literal() { String::new() } else { format!(" ({told})") }
    }

    fn tried_in_words(&self) -> String {
        let refusals = self.refusals.borrow();
        let told = refusals.iter().enumerate().filter_map(|(number, why)| {
            Some(format!("{}: {}", self.plan.addresses.shown(number), why.as_ref()?))
        });
        told.collect::<Vec<_>>().join("; ")
    }

    /// Whether there is no connection, and none will be there again.
    #[inline]
    pub(super) fn is_without_connections(&self) -> bool {
        self.live.get() + self.waiting.get() + self.reopening.get() == 0
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
