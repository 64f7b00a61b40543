//! The ring engine: raw io_uring (io_uring(7)), one ring a worker.
//!
//! From the outside in: [`Worker`] is the loop, [`Handler`] what it drives; `acceptor` decides when to accept; `ring` is the
//! safe surface over the kernel's queues, which lie below it in `queues`, with `slots`, the tables that completions are found
//! in, and `token`, how they are. `probe` finds out whether all of it can run here, and `obstacle` what would help where it
//! cannot.

/// Whether a test has planted this fault in the code (see `sim::Fault`): in a server never.
#[cfg(test)]
macro_rules! planted {
    ($fault:ident) => {
        $crate::engine::ring::sim::is_planted($crate::engine::ring::sim::Fault::$fault)
    };
}
#[cfg(not(test))]
macro_rules! planted {
    ($fault:ident) => {
        false
    };
}

mod acceptor;
mod connection;
mod event;
mod gather;
pub(crate) mod obstacle;
mod peer;
pub(crate) mod probe;
mod queues;
#[expect(clippy::module_inception, reason = "the engine is named after its ring")]
mod ring;
mod setup;
#[cfg(test)]
mod sim;
mod slots;
mod token;
mod worker;

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Handler;
use super::buffers::{Class, Plan, SMALL};
use crate::memory::HEADROOM;

pub(crate) use acceptor::WITH_PEER;
pub(crate) use setup::set_up;
pub use token::Key;
pub use worker::{Service, Worker};

/// Tries everything that the ring engine needs, for a few milliseconds.
///
/// # Errors
///
/// What stands in the way, and what would help, in one line.
pub fn check() -> Result<(), String> {
    probe::probe().map(drop).map_err(|obstacle| obstacle.to_string())
}

/// What an idle connection takes in a worker's table, in bytes.
pub(crate) const fn place_size<H: Handler>() -> usize {
    slots::Slots::<connection::Connection<H>>::PLACE
}

/// How many entries a queue of submissions has: as many connections as can be answered in one turn without a further
/// system call. The completions have four times as many.
pub(crate) const SUBMISSIONS: u32 = 1024;

/// How many small buffers there are: more than one batch of receives.
const SMALL_COUNT: u16 = 512;

/// How many bytes the big buffers take together, about as much as a second-level cache holds, and how many there are at
/// least and at most.
const BIG_BYTES: usize = 1 << 20;
const BIG_COUNT: RangeInclusive<usize> = 4..=256;

/// How long to ask for a ring again for which there is no memory: a process that has just ended holds some so long.
pub(crate) const PATIENCE: Duration = Duration::from_millis(60);

/// How large a worker's ring is.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Entries of the submission queue.
    pub submissions: u32,
    /// Entries of the completion queue.
    pub completions: u32,
    /// How many small buffers there are; a power of two.
    pub small_count: u16,
    /// The size of a small buffer in bytes, its headroom included.
    pub small_size: usize,
    /// How many big buffers there are; a power of two.
    pub big_count: u16,
    /// The size of a big buffer in bytes, its headroom included.
    pub big_size: usize,
    /// How many sockets the ring's table of files has room for.
    pub files: u32,
    /// How long to look for completions before going to sleep.
    pub busy_poll: Duration,
    /// How long to ask for a ring again for which there is no memory.
    pub patience: Duration,
}

impl Sizes {
    /// A ring for so many connections, whose big buffers receive `receive_buffer_size` bytes.
    #[must_use]
    pub fn new(receive_buffer_size: usize, connections: usize) -> Self {
        let big_size = receive_buffer_size + HEADROOM;
        let big_count = (BIG_BYTES / receive_buffer_size).clamp(*BIG_COUNT.start(), *BIG_COUNT.end());
        Self {
            submissions: SUBMISSIONS,
            completions: 4 * SUBMISSIONS,
            small_count: SMALL_COUNT,
            small_size: SMALL.min(big_size),
            big_count: u16::try_from(big_count.next_power_of_two()).unwrap_or(u16::MAX),
            big_size,
            files: u32::try_from(connections).unwrap_or(u32::MAX),
            busy_poll: Duration::ZERO,
            patience: PATIENCE,
        }
    }

    /// The group of this class.
    fn plan(&self, class: Class, window: u32, has_quarantine: bool) -> Plan {
        let (count, size) = match class {
            Class::Small => (self.small_count.into(), self.small_size),
            Class::Big => (self.big_count.into(), self.big_size),
        };
        Plan { class, count, size, window, reserve: count / 4, kept: count, has_quarantine, pooled: None }
    }
}
