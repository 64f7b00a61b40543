//! A socket that listens, and what comes of accepting.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::Socket;

use crate::system;

/// How long accepting pauses when the process or the kernel has run out of something.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

/// A listening socket of a worker.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    queue_max: usize,
    is_shared: bool,
    /// What other processes share with this one, in the case of an inherited socket.
    lent: Option<Arc<Lent>>,
}

impl Listener {
    /// A socket that listens. See [`Self::queue_max`], [`Self::is_shared`] and [`Self::is_inherited`].
    pub(crate) const fn new(
        socket: Socket,
        queue_max: usize,
        is_shared: bool,
        lent: Option<Arc<Lent>>,
    ) -> Self {
        Self { socket, queue_max, is_shared, lent }
    }

    /// How many connections can wait in its queue.
    pub(crate) const fn queue_max(&self) -> usize {
        self.queue_max
    }

    /// Whether other workers accept from the same queue: what is there now may be gone in a moment.
    pub(crate) const fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Whether it is somebody else's, who will hand it to the next server: with what is queued then.
    pub(crate) const fn is_inherited(&self) -> bool {
        self.lent.is_some()
    }

    /// Sets whether accepting gives [`io::ErrorKind::WouldBlock`] instead of waiting, for everybody who shares the socket.
    /// An inherited socket is never made to wait: other processes may rely on its O_NONBLOCK.
    pub(crate) fn set_nonblocking(&self, is_nonblocking: bool) -> io::Result<()> {
        match &self.lent {
            None => self.socket.set_nonblocking(is_nonblocking),
            Some(lent) if is_nonblocking => lent.set_nonblocking(),
            Some(_) => Ok(()),
        }
    }

    /// accept4(2), of a socket that does not block. What is accepted is a `TcpStream` in name only when the listener is
    /// of the unix family: to read, write and shut it is the same. Its peer has no IP address then.
    pub(crate) fn accept(&self) -> io::Result<(TcpStream, Option<IpAddr>)> {
        if let Some(lent) = &self.lent {
            // Another server that shares the socket may have ended, and put the flag back.
            lent.set_nonblocking()?;
        }
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (socket, peer) = acceptfrom_with(&self.socket, flags)?;
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).map(|peer| peer.ip());
        Ok((socket.into(), peer))
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::new(listener.into(), system::somaxconn(), false, None)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// The O_NONBLOCK of an inherited socket. Every process that has the socket has the same flag: it is put back when the last
/// worker has ended.
#[derive(Debug)]
pub(crate) struct Lent {
    socket: Socket,
    is_changed: AtomicBool,
}

impl Lent {
    pub(crate) fn new(socket: &Socket) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { socket: socket.try_clone()?, is_changed: AtomicBool::new(false) }))
    }

    /// Sets the flag, for engines that cannot do without.
    fn set_nonblocking(&self) -> io::Result<()> {
        if !self.socket.nonblocking()? {
            self.is_changed.store(true, Ordering::Relaxed);
            self.socket.set_nonblocking(true)?;
        }
        Ok(())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if *self.is_changed.get_mut()
            && let Err(error) = self.socket.set_nonblocking(false)
        {
            tracing::warn!(%error, "the O_NONBLOCK of an inherited socket cannot be put back");
        }
    }
}

/// Errors of the connection that was about to be accepted (accept(2), "Error handling"). Not EPERM: a filter or a
/// security module that says so leaves the connection in the queue, and says it again.
pub(crate) fn is_the_peers(error: &io::Error) -> bool {
    let peers = [
        Errno::CONNABORTED,
        Errno::INTR,
        Errno::PROTO,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::OPNOTSUPP,
        Errno::TIMEDOUT,
    ];
    Errno::from_io_error(error).is_some_and(|errno| peers.contains(&errno))
}
