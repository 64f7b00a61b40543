//! The tokio-uring engine: io_uring by the crate of that name, a task for each connection.
//!
//! `serve` accepts, and has a `task` for each connection; `alarms` wake tasks at their deadlines, by their places among the
//! `waiters`; `pool` has the buffers that they receive into.
#![expect(unsafe_code, reason = "the crate has to be told that our memory stays where it is")]

mod alarms;
mod pool;
mod serve;
mod task;
mod waiters;

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use tokio_uring::buf::{IoBuf, IoBufMut};

use super::Common;
use super::buffers::Buffer;
use super::listener::Listener;
use super::outgoing::Outgoing;
use super::serve::Service;
use super::shortage::wait_for_memory;
#[cfg(test)]
pub(crate) use serve::task_size;

/// The entries of a submission queue; the completion queue has twice as many.
const ENTRIES: u32 = 256;

/// How long to ask for a ring again for which there is no memory.
const PATIENCE: Duration = Duration::from_millis(50);

/// Whether a ring can be set up at all. It is tried in a thread of its own: a runtime cannot be dropped within another.
pub(super) fn probe() -> io::Result<()> {
    let probe = || runtime().map(drop);
    thread::scope(|scope| {
        thread::Builder::new()
            .spawn_scoped(scope, probe)?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the probe panicked")))
    })
}

/// What runs the tasks of a worker, on the thread that made it.
pub(crate) struct Runtime(tokio_uring::Runtime);

impl Runtime {
    /// A runtime; where there is no memory for it, one that is asked for again for a while: the kernel counts the locked
    /// memory of a ring that is gone, such as the probe's, some time longer.
    ///
    /// # Errors
    ///
    /// Those of io_uring_setup(2).
    pub(crate) fn new() -> io::Result<Self> {
        wait_for_memory(PATIENCE, runtime).map(Self)
    }

    /// Serves the connections that come to `listeners`, until the phase says to end. It asks for the phase whenever `wake`,
    /// an eventfd(2), is written to, and calls `on_ready` once nothing can keep it from accepting.
    ///
    /// # Errors
    ///
    /// When the runtime can watch no descriptors.
    pub(crate) fn serve<S>(
        &self,
        common: Rc<Common>,
        service: S,
        listeners: Vec<Listener>,
        wake: Arc<OwnedFd>,
        on_ready: impl FnOnce(),
    ) -> io::Result<()>
    where
        S: Service + 'static,
        S::Handler: 'static,
    {
        self.0.block_on(serve::serve(common, service, listeners, wake, on_ready))
    }
}

/// A runtime with task work run by the thread itself. Kernels before 5.19 do not know these flags and say EINVAL.
///
/// Not DEFER_TASKRUN: tokio-uring waits by epoll and never enters the ring to reap, so it would stall.
fn runtime() -> io::Result<tokio_uring::Runtime> {
    let mut uring = tokio_uring::uring_builder();
    uring.setup_coop_taskrun().setup_taskrun_flag();
    let mut builder = tokio_uring::builder();
    builder.entries(ENTRIES).uring_builder(&uring);
    match tokio_uring::Runtime::new(&builder) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
            tokio_uring::Runtime::new(tokio_uring::builder().entries(ENTRIES))
        }
        result => result,
    }
}

// SAFETY: the bytes lie in the mapping of the buffer's group, which stays in its place as long as the buffer lives.
unsafe impl IoBuf for Buffer {
    fn stable_ptr(&self) -> *const u8 {
        self.bytes().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.bytes().len()
    }

    fn bytes_total(&self) -> usize {
        self.bytes().len()
    }
}

// SAFETY: as above. Every byte of a buffer is initialised from the beginning on.
unsafe impl IoBufMut for Buffer {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.bytes_mut().as_mut_ptr()
    }

    unsafe fn set_init(&mut self, _: usize) {}
}

// SAFETY: the bytes lie in a buffer, or in an allocation that nobody changes while they are to be sent.
unsafe impl IoBuf for Outgoing {
    fn stable_ptr(&self) -> *const u8 {
        self.bytes().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }

    fn bytes_total(&self) -> usize {
        self.len()
    }
}
