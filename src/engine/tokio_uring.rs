//! The tokio-uring engine: the owned-buffer loop over `tokio_uring::net::TcpStream`.
//!
//! Dropping a read of tokio-uring 0.5 does not cancel it: the bytes that come next would be swallowed. So the loop
//! keeps its read until it has ended, and ends it by shutdown(2).
#![expect(unsafe_code, reason = "the crate has to be told that our memory stays where it is")]

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Shutdown};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use tokio_uring::Runtime;
use tokio_uring::buf::{BoundedBuf as _, IoBuf, IoBufMut};
use tokio_uring::net::TcpStream;

use super::buffers::Buffer;
use super::outgoing::Outgoing;
use super::owned::{Sent, Stream, is_for_want_of_memory, pause_for_memory};
use super::shortage::wait_for_memory;
use super::unconfirmed::{peer, unconfirmed};
use crate::memory::HEADROOM;

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

/// A runtime; where there is no memory for it, one that is asked for again for a while: the kernel counts the locked
/// memory of a ring that is gone, such as the probe's, some time longer.
pub(super) fn runtime_in_time() -> io::Result<Runtime> {
    wait_for_memory(PATIENCE, runtime)
}

/// The stream of an accepted socket, made a blocking one: with O_NONBLOCK the kernel answers EAGAIN instead of waiting.
pub(super) fn stream(socket: tokio::net::TcpStream) -> io::Result<UringStream> {
    let socket = socket.into_std()?;
    socket.set_nonblocking(false)?;
    Ok(UringStream(TcpStream::from_std(socket)))
}

/// A runtime with task work run by the thread itself. Kernels before 5.19 do not know these flags and say EINVAL.
///
/// Not DEFER_TASKRUN: tokio-uring waits by epoll and never enters the ring to reap, so it would stall.
fn runtime() -> io::Result<Runtime> {
    let mut uring = tokio_uring::uring_builder();
    uring.setup_coop_taskrun().setup_taskrun_flag();
    let mut builder = tokio_uring::builder();
    builder.entries(ENTRIES).uring_builder(&uring);
    match Runtime::new(&builder) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
            Runtime::new(tokio_uring::builder().entries(ENTRIES))
        }
        result => result,
    }
}

/// A socket whose reads and writes are operations of the ring.
pub(super) struct UringStream(TcpStream);

impl Stream for UringStream {
    async fn readable(&self) -> io::Result<()> {
        Ok(())
    }

    async fn read(&self, buffer: Buffer) -> (io::Result<usize>, Buffer) {
        let (result, room) = self.0.read(buffer.slice(HEADROOM..)).await;
        (result, room.into_inner())
    }

    async fn settle(&self) {
        // Completions come in order. What had come when the first one was submitted completes before the second one is.
        for _ in 0..2 {
            let _ = tokio_uring::no_op().await;
        }
    }

    fn try_write(&self, _: &[u8]) -> io::Result<usize> {
        Ok(0)
    }

    /// Not by `write_all` of the crate: after an error it does not say how much went out, and it ends at EINTR.
    async fn write_rest(&self, mut outgoing: Outgoing, mut sent: usize) -> Sent {
        while sent < outgoing.len() {
            let (result, slice) = self.0.write(outgoing.slice(sent..)).submit().await;
            outgoing = slice.into_inner();
            match result {
                Ok(0) => return (Err(ErrorKind::WriteZero.into()), outgoing),
                Ok(more) => sent += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_for_want_of_memory(&error) => pause_for_memory().await,
                Err(error) => return (Err(error), outgoing),
            }
        }
        (Ok(()), outgoing)
    }

    fn untaken(&self) -> io::Result<u32> {
        unconfirmed(&self.0)
    }

    fn peer(&self) -> Option<IpAddr> {
        peer(&self.0)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.0.shutdown(how)
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
