//! What a server is at: a phase that only moves on.

use std::sync::atomic::{AtomicU8, Ordering};

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

/// Where a server says what it is at. A worker looks here when it is woken.
#[derive(Debug, Default)]
pub(crate) struct PhaseCell(AtomicU8);

impl PhaseCell {
    /// The phase.
    pub(crate) fn phase(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::Draining,
            _ => Phase::Stopping,
        }
    }

    /// Moves on to `phase`, if that is a later one.
    pub(crate) fn enter(&self, phase: Phase) {
        self.0.fetch_max(phase as u8, Ordering::AcqRel);
    }
}
