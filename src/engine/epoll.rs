//! The epoll engine: the owned-buffer loop over tokio's sockets, for places where io_uring is refused.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Shutdown};

use tokio::io::Interest;
use tokio::net::TcpStream;

use super::buffers::Buffer;
use super::outgoing::Outgoing;
use super::owned::{Sent, Stream, is_for_want_of_memory, pause_for_memory};
use super::unconfirmed::{peer, unconfirmed};
use crate::memory::HEADROOM;

/// A runtime for one thread, whose tasks never leave it.
pub(crate) struct Runtime(tokio::runtime::Runtime);

impl Runtime {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(tokio::runtime::Builder::new_current_thread().enable_all().build()?))
    }

    /// Runs `future`, and what it spawns.
    pub(super) fn block_on<F: Future>(&self, future: F) -> F::Output {
        tokio::task::LocalSet::new().block_on(&self.0, future)
    }
}

/// The stream of an accepted socket.
pub(super) const fn stream(socket: TcpStream) -> EpollStream {
    EpollStream(socket)
}

/// A socket that is waited for by readiness. A buffer is never owned by the kernel here.
pub(super) struct EpollStream(TcpStream);

impl Stream for EpollStream {
    async fn readable(&self) -> io::Result<()> {
        // Not `TcpStream::readable`: its future is five times as large, and each idle connection holds one.
        poll_fn(|task| self.0.poll_read_ready(task)).await
    }

    async fn read(&self, mut buffer: Buffer) -> (io::Result<usize>, Buffer) {
        let room = &mut buffer.bytes_mut()[HEADROOM..];
        let mut read = Err(ErrorKind::WouldBlock.into());
        // A short read has emptied the socket. To say so here saves the read that would only find it empty; what
        // arrives meanwhile is a new edge and sets the readiness again.
        let told = self.0.try_io(Interest::READABLE, || {
            read = rustix::net::recv(&self.0, &mut *room, rustix::net::RecvFlags::empty())
                .map(|(received, _)| received)
                .map_err(io::Error::from);
            match &read {
                Ok(0) => Ok(()),
                Ok(received) if *received < room.len() => Err(ErrorKind::WouldBlock.into()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::WouldBlock.into()),
                _ => Ok(()),
            }
        });
        drop(told);
        (read, buffer)
    }

    async fn settle(&self) {
        if rustix::io::ioctl_fionread(&self.0).is_ok_and(|unread| unread > 0) {
            // The reactor hears of so many sockets at a time. It is not an error that matters here.
            let _ = self.readable().await;
        } else {
            // Nor does it say that there is an end.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    async fn write_rest(&self, outgoing: Outgoing, mut sent: usize) -> Sent {
        while sent < outgoing.bytes().len() {
            match self.0.try_write(&outgoing.bytes()[sent..]) {
                Ok(written) => sent += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if let Err(error) = self.0.writable().await {
                        return (Err(error), outgoing);
                    }
                }
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
        socket2::SockRef::from(&self.0).shutdown(how)
    }
}

/// How many bytes a connection's task takes, without what tokio adds to it.
#[cfg(test)]
pub(crate) fn task_size<H: super::Handler>() -> usize {
    fn size_of_output<S, H, F>(_: impl FnOnce(S, H, std::rc::Rc<super::Common>) -> F) -> usize {
        size_of::<F>()
    }
    size_of_output(super::owned::serve::<EpollStream, H>)
}
