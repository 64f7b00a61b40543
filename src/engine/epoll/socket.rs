//! What the driver knows of a socket. An edge is told once, so it is remembered here.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};
use socket2::SockRef;

use super::super::outgoing::{Outgoing, Pieces};

/// A socket that does not block.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    marks: u16,
}

/// Each connection holds one.
const _: () = assert!(size_of::<Socket>() <= 8);

/// The socket may have something to receive.
pub(super) const READABLE: u16 = 1;
/// It may have room for something to send.
pub(super) const WRITABLE: u16 = 2;
/// The peer has ended its side, or there is an error: a receive that does not fill its buffer is not the last one.
pub(super) const HUNG_UP: u16 = 4;
/// The worker wants to receive.
pub(super) const WANTED: u16 = 8;
/// The stream has ended, or failed.
pub(super) const ENDED: u16 = 16;
/// Nothing more is received in this turn.
pub(super) const RESTS: u16 = 32;
/// It is on the list of those with more to do.
pub(super) const AGAIN: u16 = 64;
/// A send waits for the peer.
pub(super) const WAITING: u16 = 128;
/// The connection is being made.
pub(super) const CONNECTING: u16 = 256;

impl Socket {
    pub(super) const fn new(fd: OwnedFd) -> Self {
        Self { fd, marks: 0 }
    }

    #[inline]
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether all of these marks are set.
    #[inline]
    pub(super) const fn has(&self, marks: u16) -> bool {
        self.marks & marks == marks
    }

    /// Whether there is something to receive for a worker that wants it.
    #[inline]
    pub(super) const fn can_receive(&self) -> bool {
        self.marks & (READABLE | WANTED | ENDED | CONNECTING) == READABLE | WANTED
    }

    #[inline]
    pub(super) const fn set(&mut self, marks: u16) {
        self.marks |= marks;
    }

    #[inline]
    pub(super) const fn clear(&mut self, marks: u16) {
        self.marks &= !marks;
    }

    /// Whether there is nothing to receive: poll(2) says so where no edge has said otherwise.
    pub(super) fn is_empty(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut polled = [PollFd::new(&self.fd, PollFlags::IN | PollFlags::RDHUP)];
        !self.has(READABLE) && poll(&mut polled, Some(&now)) == Ok(0)
    }

    /// Receives into `room`: how many bytes, 0 at the end of the stream.
    ///
    /// # Errors
    ///
    /// Those of recv(2), but for EINTR.
    #[inline]
    pub(super) fn receive(&mut self, room: &mut [u8]) -> Result<usize, Errno> {
        let len = room.len();
        loop {
            match recv(&self.fd, &mut *room, RecvFlags::empty()) {
                Ok((received, _)) => {
                    // It is empty now (epoll(7)); what comes later is an edge of its own.
                    if received < len && !self.has(HUNG_UP) {
                        self.clear(READABLE);
                    }
                    return Ok(received);
                }
                Err(Errno::INTR) => {}
                Err(error) => {
                    if error == Errno::AGAIN {
                        self.clear(READABLE);
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Sends what the socket takes of these bytes, unless that fails or the socket is full.
    #[inline]
    pub(super) fn send_piece(&mut self, bytes: &[u8]) -> Option<usize> {
        if !self.has(WRITABLE) {
            return None;
        }
        let sent = send(&self.fd, bytes, SendFlags::NOSIGNAL).ok()?;
        if sent < bytes.len() {
            // It is full now; that it has room is an edge.
            self.clear(WRITABLE);
        }
        Some(sent)
    }

    /// Sends what the socket takes of these pieces, but for the first `from` bytes. Gives how far it came.
    ///
    /// # Errors
    ///
    /// Those of send(2), but for EINTR and those that say that nothing can be sent at the moment.
    pub(super) fn send(&mut self, pieces: &Pieces, from: usize) -> io::Result<usize> {
        if !self.has(WRITABLE) {
            return Ok(from);
        }
        let sent = loop {
            let sent = if pieces.more.is_empty() {
                send(&self.fd, &pieces.first.bytes()[from..], SendFlags::NOSIGNAL)
            } else {
                self.send_all(pieces, from)
            };
            match sent {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break 0,
                // It has room, and the kernel has no memory: it is tried again.
                Err(Errno::NOBUFS | Errno::NOMEM) => return Ok(from),
                sent => break sent?,
            }
        };
        if from + sent < pieces.len() {
            // It is full now; that it has room is an edge.
            self.clear(WRITABLE);
        }
        Ok(from + sent)
    }

    fn send_all(&self, pieces: &Pieces, mut from: usize) -> Result<usize, Errno> {
        let mut list = [io::IoSlice::new(&[]); Pieces::MAX];
        let mut count = 0;
        for bytes in pieces.iter().map(Outgoing::bytes) {
            let skipped = from.min(bytes.len());
            from -= skipped;
            if skipped < bytes.len() {
                list[count] = io::IoSlice::new(&bytes[skipped..]);
                count += 1;
            }
        }
        sendmsg(&self.fd, &list[..count], &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
    }

    /// What came of making the connection.
    ///
    /// # Errors
    ///
    /// What stands in SO_ERROR.
    pub(super) fn connected(&self) -> io::Result<()> {
        SockRef::from(&self.fd).take_error()?.map_or(Ok(()), Err)
    }
}
