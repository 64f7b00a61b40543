//! The ring engine: raw io_uring (io_uring(7)), one ring a worker.
//!
//! From the outside in: [`Worker`] is the loop, [`Handler`] what it drives; `acceptor` decides when to accept and
//! `wheel` keeps deadlines; `ring` is the safe surface over the kernel's queues, with `buffers`, which the kernel
//! receives into, `slots`, the tables that completions are found in, and `token`, how they are.

mod acceptor;
mod buffers;
mod gather;
mod quarantine;
#[expect(clippy::module_inception, reason = "the engine is named after its ring")]
mod ring;
mod serve;
mod slots;
mod token;
mod wheel;
mod worker;

use std::time::Duration;

pub use super::buffer::{Class, ReceiveBuffer};
pub use buffers::Lease;
pub(crate) use serve::{Serving, probe, sizes};
pub use worker::{Handler, Service, Worker};

/// A piece of a reply: in the buffer that it was received into, or on the heap.
pub type Outgoing = super::outgoing::Outgoing<Lease>;

/// What a receive brought: a buffer and how many bytes are in it, or nothing at the end of the stream.
pub type Received = std::io::Result<Option<(Lease, usize)>>;

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
}
