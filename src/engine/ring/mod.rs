//! The ring engine: raw io_uring (io_uring(7)), one ring a worker.
//!
//! From the outside in: `driver` is what the worker drives, with `socket`, what is under way on one, `acceptor`, when to
//! accept, and `waiting`, when to sleep; `ring` is the safe surface over the kernel's queues, which lie below it in `queues`,
//! with `token`, by which completions are found. `probe` finds out whether all of it can run here, and `obstacle` what would
//! help where it cannot.

mod acceptor;
mod driver;
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
mod socket;
mod token;
mod waiting;

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::buffers::{Class, Plan, SMALL};
use super::serve::{Server, Service};
use super::worker::Worker;
use super::{Common, Handler};
use crate::memory::HEADROOM;

pub(crate) use acceptor::WITH_PEER;
pub use driver::RingDriver;
pub(crate) use setup::set_up;

/// Tries everything that the ring engine needs, for a few milliseconds.
///
/// # Errors
///
/// What stands in the way, and what would help, in one line.
pub fn check() -> Result<(), String> {
    probe::probe().map(drop).map_err(|obstacle| obstacle.to_string())
}

/// A worker on a ring of this thread, which makes connections. It is woken by `wake`, an eventfd(2).
///
/// # Errors
///
/// When the ring cannot be set up.
pub fn worker<H: Handler>(
    sizes: &Sizes,
    common: Rc<Common>,
    wake: Arc<OwnedFd>,
) -> io::Result<Worker<RingDriver, H>> {
    let driver = RingDriver::new(sizes, &common)?;
    Worker::over(driver, common, sizes.files as usize, wake)
}

/// A server on a ring of this thread. It asks for the phase whenever `wake`, an eventfd(2), is written to.
///
/// # Errors
///
/// When the ring cannot be set up.
pub fn server<S: Service>(
    sizes: &Sizes,
    common: Rc<Common>,
    service: S,
    wake: Arc<OwnedFd>,
) -> io::Result<Server<RingDriver, S>> {
    let driver = RingDriver::new(sizes, &common)?;
    Server::over(driver, common, sizes.files as usize, service, wake)
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
