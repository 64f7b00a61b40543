//! How a server ends: a phase that only moves on, and the connections of a worker that want to hear of it.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use slab::Slab;
use tokio::sync::watch;

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

/// Tells all workers of the phase. When it is dropped, they stop.
#[derive(Debug)]
pub(super) struct Announcer {
    phase: watch::Sender<Phase>,
    wakers: Vec<Arc<OwnedFd>>,
}

impl Announcer {
    pub(super) fn new() -> Self {
        Self { phase: watch::channel(Phase::Running).0, wakers: Vec::new() }
    }

    /// Where a worker reads the phase.
    pub(super) fn subscribe(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// An eventfd(2) that is written to at each change.
    pub(super) fn waker(&mut self) -> io::Result<Arc<OwnedFd>> {
        let waker = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        self.wakers.push(Arc::clone(&waker));
        Ok(waker)
    }

    /// The phase.
    pub(super) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Moves on to `phase`, if it is a later one.
    pub(super) fn announce(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let later = phase > *current;
            *current = phase.max(*current);
            later
        });
        for waker in &self.wakers {
            // It only fails when 2^64 - 2 of them were not read.
            let _ = rustix::io::write(waker, &1_u64.to_ne_bytes());
        }
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.announce(Phase::Stopping);
    }
}

/// A worker's view of the phase, and whom to wake when it changes. It never leaves its thread.
#[derive(Debug, Default)]
pub struct Drain {
    phase: Cell<Phase>,
    /// When the phase was last changed.
    since: Cell<Option<Instant>>,
    waiting: RefCell<Slab<Waker>>,
}

impl Drain {
    /// The phase.
    #[inline]
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// For how long it has been the phase; no time at all while the first one lasts.
    pub fn elapsed(&self) -> Duration {
        self.since.get().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Moves on to `phase` and wakes everyone who listens.
    pub fn enter(&self, phase: Phase) {
        debug_assert!(phase >= self.phase.get(), "a phase is never gone back to");
        self.phase.set(phase);
        self.since.set(Some(Instant::now()));
        for (_, waker) in self.waiting.borrow().iter() {
            waker.wake_by_ref();
        }
    }

    /// Wakes one of those who listen; nobody, if it does so no more.
    pub fn wake(&self, key: usize) {
        if let Some(waker) = self.waiting.borrow().get(key) {
            waker.wake_by_ref();
        }
    }

    /// Has `waker` woken at each change, until the listener is dropped.
    pub fn listen(&self, waker: Waker) -> Listener<'_> {
        Listener { drain: self, key: self.waiting.borrow_mut().insert(waker) }
    }
}

/// A place among those who are woken.
#[derive(Debug)]
pub struct Listener<'a> {
    drain: &'a Drain,
    key: usize,
}

impl Listener<'_> {
    /// By which [`Drain::wake`] finds it.
    pub const fn key(&self) -> usize {
        self.key
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        self.drain.waiting.borrow_mut().remove(self.key);
    }
}
