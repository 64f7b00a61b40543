//! How a [`Ring`] accepts connections into its table of files.

use std::os::fd::AsRawFd as _;
use std::ptr;

use rustix::fd::BorrowedFd;

use super::super::event::AcceptKind;
use super::super::peer::PeerAddress;
use super::super::queues::{Queues, Verb};
use super::super::token::Token;
use super::Ring;

impl<Q: Queues> Ring<Q> {
    /// Accepts into the table of files. Only one accept may be under way for a number of a listener.
    pub(in super::super) fn accept(&mut self, listener: u32, socket: BorrowedFd<'_>, how: AcceptKind) {
        let (peer, len) = match how {
            AcceptKind::One | AcceptKind::Many => (ptr::null_mut(), ptr::null_mut()),
            AcceptKind::OneWithPeer => {
                while self.peers.len() <= listener as usize {
                    self.peers.push(PeerAddress::new());
                }
                // SAFETY: no accept is under way for this number.
                unsafe { self.peers[listener as usize].prepare() }
            }
        };
        let is_multi = how == AcceptKind::Many;
        let verb = Verb::Accept { listener: socket.as_raw_fd(), is_multi, peer, len };
        // SAFETY: either no address is asked for, and the operation names no memory; or it lies on the heap, where
        // `peers` keeps it as long as the ring lives.
        unsafe { self.push(Token::accept(listener), verb) };
    }

    /// As [`Self::accept`], of a socket with O_NONBLOCK, whose accepts do not wait: a poll is linked before the accept. One
    /// completion speaks of both: if the first one fails, it is that one's.
    pub(in super::super) fn accept_when_ready(
        &mut self,
        listener: u32,
        socket: BorrowedFd<'_>,
        how: AcceptKind,
    ) {
        // SAFETY: the operation names no memory.
        unsafe { self.push(Token::accept(listener), Verb::AwaitQueued { listener: socket.as_raw_fd() }) };
        self.accept(listener, socket, how);
    }

    /// Ends what [`Self::accept`] began; its last event says so.
    pub(in super::super) fn cancel_accept(&mut self, listener: u32) {
        self.cancel(Token::accept(listener));
    }
}
