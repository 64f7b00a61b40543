//! The tasks of a worker that want to be woken: when the phase changes, at a deadline, at the end of the last of them.

use std::cell::RefCell;
use std::task::Waker;

use slab::Slab;

/// Whom to wake. It never leaves its thread.
#[derive(Debug, Default)]
pub(super) struct Waiters(RefCell<Slab<Waker>>);

impl Waiters {
    /// Wakes all of them.
    pub(super) fn wake_all(&self) {
        for (_, waker) in self.0.borrow().iter() {
            waker.wake_by_ref();
        }
    }

    /// Wakes the one of this key; nobody, if it has gone.
    pub(super) fn wake(&self, key: usize) {
        if let Some(waker) = self.0.borrow().get(key) {
            waker.wake_by_ref();
        }
    }

    /// Has `waker` woken until the place is dropped.
    pub(super) fn enter(&self, waker: Waker) -> Waiter<'_> {
        Waiter { waiters: self, key: self.0.borrow_mut().insert(waker) }
    }
}

/// A place among those who are woken.
#[derive(Debug)]
pub(super) struct Waiter<'a> {
    waiters: &'a Waiters,
    key: usize,
}

impl Waiter<'_> {
    /// By which [`Waiters::wake`] finds it.
    pub(super) const fn key(&self) -> usize {
        self.key
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.waiters.0.borrow_mut().remove(self.key);
    }
}
