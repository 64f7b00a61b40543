//! How a [`Ring`] accepts connections into its table of files.

use std::os::fd::AsRawFd as _;

use io_uring::types::{DestinationSlot, Fd};
use io_uring::{EnterFlags, opcode, squeue};
use rustix::event::PollFlags;
use rustix::fd::BorrowedFd;

use super::super::event::Accepting;
use super::super::peer::PeerAddress;
use super::super::token::Token;
use super::Ring;

/// EPOLLEXCLUSIVE: of those who wait for a socket one is woken.
const ONE_IS_WOKEN: u32 = 1 << 28;

/// How many operations an accept takes that a poll is linked to.
const LINKED: usize = 2;

impl Ring {
    /// Accepts into the table of files. Only one accept may be under way for a number of a listener.
    pub(in super::super) fn accept(&mut self, listener: u32, socket: BorrowedFd<'_>, how: Accepting) {
        let fd = Fd(socket.as_raw_fd());
        let (name, len) = match how {
            Accepting::One | Accepting::Many => (std::ptr::null_mut(), std::ptr::null_mut()),
            Accepting::OneWithPeer => {
                while self.peers.len() <= listener as usize {
                    self.peers.push(PeerAddress::new());
                }
                // SAFETY: no accept is under way for this number.
                unsafe { self.peers[listener as usize].prepare() }
            }
        };
        let entry = match how {
            Accepting::Many => opcode::AcceptMulti::new(fd).allocate_file_index(true).build(),
            Accepting::One | Accepting::OneWithPeer => {
                opcode::Accept::new(fd, name, len).file_index(Some(DestinationSlot::auto_target())).build()
            }
        };
        // SAFETY: either no address is asked for, and the operation names no memory; or it lies on the heap, where
        // `peers` keeps it as long as the ring lives.
        unsafe { self.push(&entry.user_data(Token::accept(listener).to_bits())) };
    }

    /// As [`Self::accept`], of a socket with O_NONBLOCK, whose accepts do not wait: a poll is linked before the accept. One
    /// completion speaks of both: if the first one fails, it is that one's.
    ///
    /// Gives `false`, and begins nothing, if the kernel takes no submissions before its completions are seen. Linked
    /// operations have to be submitted together: a poll that was left alone would swallow a wake-up.
    pub(in super::super) fn accept_when_ready(
        &mut self,
        listener: u32,
        socket: BorrowedFd<'_>,
        how: Accepting,
    ) -> bool {
        if !self.has_room_for(LINKED) {
            // An error comes again at the next enter.
            let _ = self.enter_with(0, None, EnterFlags::empty());
            if !self.has_room_for(LINKED) {
                return false;
            }
        }
        let poll =
            opcode::PollAdd::new(Fd(socket.as_raw_fd()), ONE_IS_WOKEN | u32::from(PollFlags::IN.bits()));
        let entry = poll.build().flags(squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS);
        // SAFETY: the operation names no memory.
        unsafe { self.push(&entry.user_data(Token::accept(listener).to_bits())) };
        self.accept(listener, socket, how);
        true
    }

    /// Whether so many operations go into the submission queue as it is.
    fn has_room_for(&mut self, operations: usize) -> bool {
        let submission = self.uring.submission();
        self.backlog.is_empty() && submission.capacity() - submission.len() >= operations
    }

    /// Ends what [`Self::accept`] began; its last event says so.
    pub(in super::super) fn cancel_accept(&mut self, listener: u32) {
        self.cancel(Token::accept(listener));
    }
}
