//! Tells the workers how far the end of the server has come.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::engine::{Phase, PhaseCell};
use rustix::event::{EventfdFlags, eventfd};

/// Tells all workers of the phase. When it is dropped, they stop.
#[derive(Debug)]
pub(super) struct Announcer {
    phase: Arc<PhaseCell>,
    wakers: Vec<Arc<OwnedFd>>,
}

impl Announcer {
    pub(super) fn new() -> Self {
        Self { phase: Arc::default(), wakers: Vec::new() }
    }

    /// Where a worker reads the phase.
    pub(super) fn cell(&self) -> Arc<PhaseCell> {
        Arc::clone(&self.phase)
    }

    /// An eventfd(2) that is written to at each change.
    pub(super) fn waker(&mut self) -> io::Result<Arc<OwnedFd>> {
        let waker = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        self.wakers.push(Arc::clone(&waker));
        Ok(waker)
    }

    /// The phase.
    pub(super) fn phase(&self) -> Phase {
        self.phase.phase()
    }

    /// Moves on to `phase`, if it is a later one.
    pub(super) fn announce(&self, phase: Phase) {
        self.phase.enter(phase);
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
