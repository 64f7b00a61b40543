//! How a server ends: a phase that only moves on, and the connections of a worker that want to hear of it.

use std::cell::{Cell, RefCell};
use std::task::Waker;

use slab::Slab;

/// What a server is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Connections are accepted and echoed.
    #[default]
    Running,
    /// No more are accepted; what was received is echoed, then Close(1001).
    Draining,
    /// Whatever is left is cut.
    Stopping,
}

/// A worker's view of the phase, and whom to wake when it changes. It never leaves its thread.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    phase: Cell<Phase>,
    waiting: RefCell<Slab<Waker>>,
}

impl Drain {
    /// The phase.
    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Moves on to `phase` and wakes everyone who listens.
    pub(crate) fn enter(&self, phase: Phase) {
        debug_assert!(phase >= self.phase.get(), "a phase is never gone back to");
        self.phase.set(phase);
        for (_, waker) in self.waiting.borrow().iter() {
            waker.wake_by_ref();
        }
    }

    /// Wakes one of those who listen; nobody, if it does so no more.
    pub(crate) fn wake(&self, key: usize) {
        if let Some(waker) = self.waiting.borrow().get(key) {
            waker.wake_by_ref();
        }
    }

    /// Has `waker` woken at each change, until the listener is dropped.
    pub(crate) fn listen(&self, waker: Waker) -> Waiter<'_> {
        Waiter { drain: self, key: self.waiting.borrow_mut().insert(waker) }
    }
}

/// A place among those who are woken.
#[derive(Debug)]
pub(crate) struct Waiter<'a> {
    drain: &'a Drain,
    key: usize,
}

impl Waiter<'_> {
    /// By which [`Drain::wake`] finds it.
    pub(crate) const fn key(&self) -> usize {
        self.key
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.drain.waiting.borrow_mut().remove(self.key);
    }
}
