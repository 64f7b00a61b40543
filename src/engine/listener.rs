//! A socket that listens, and what comes of accepting.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
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
    is_inherited: bool,
}

impl Listener {
    /// A socket that listens. See [`Self::queue_max`], [`Self::is_shared`] and [`Self::is_inherited`].
    pub(crate) const fn new(socket: Socket, queue_max: usize, is_shared: bool, is_inherited: bool) -> Self {
        Self { socket, queue_max, is_shared, is_inherited }
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
        self.is_inherited
    }

    /// Whether accepting gives [`io::ErrorKind::WouldBlock`] instead of waiting. All who share the socket have it so.
    pub(crate) fn set_nonblocking(&self, is_nonblocking: bool) -> io::Result<()> {
        self.socket.set_nonblocking(is_nonblocking)
    }

    /// accept4(2), of a socket that does not block. What is accepted is a `TcpStream` in name only when the listener is
    /// of the unix family: to read, write and shut it is the same. Its peer has no IP address then.
    pub(crate) fn accept(&self) -> io::Result<(TcpStream, Option<IpAddr>)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (socket, peer) = acceptfrom_with(&self.socket, flags)?;
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).map(|peer| peer.ip());
        Ok((socket.into(), peer))
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self {
            socket: listener.into(),
            queue_max: system::somaxconn(),
            is_shared: false,
            is_inherited: false,
        }
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
