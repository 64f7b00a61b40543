//! What is said to a [`Ring`](super::ring::Ring), and what it says.

use std::io;
use std::iter;
use std::net::IpAddr;
use std::time::Duration;

use super::gather::Gather;
use super::ring::Descriptor;
use super::token::Key;
use super::{Outgoing, Received};

/// What has come to its end, or has come so far.
#[derive(Debug)]
pub(super) enum Event {
    /// A connection came to this listener. `is_last` when the operation accepts no more. Its peer's address, where it
    /// was asked for and there is one.
    Accepted { listener: u32, result: io::Result<Descriptor>, is_last: bool, peer: Option<IpAddr> },
    /// Bytes came, or with none the end of the stream. `is_last` when the operation receives no more.
    Received { key: Key, result: Received, is_last: bool },
    /// A send is over: how many bytes of the pieces went out, from the first on.
    Sent { key: Key, result: io::Result<usize>, pieces: Pieces },
    /// A connection that was asked for is there, or will not be.
    Connected { key: Key, result: io::Result<()> },
    /// A shutdown is over.
    ShutDown { key: Key },
    /// The connection's place in the table of files is free again.
    Closed { key: Key },
    /// How many bytes the peer has not confirmed; an error where the kernel cannot tell.
    Untaken { key: Key, result: io::Result<u32> },
    /// The time of the alarm of this number has passed.
    Elapsed { number: u32 },
    /// Somebody wrote to the eventfd.
    Woken { is_last: bool },
}

/// How long to wait for the first event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all, and nothing is received meanwhile: silent sends end, and their buffers come back.
    SubmitOnly,
    /// Not at all.
    No,
    /// No longer than this.
    AtMost(Duration),
    /// Until there is one.
    Forever,
}

impl Wait {
    /// The same, but no longer than that.
    pub(super) fn at_most(self, longest: Option<Duration>) -> Self {
        match (self, longest) {
            (Self::AtMost(duration), Some(longest)) => Self::AtMost(duration.min(longest)),
            (Self::Forever, Some(longest)) => Self::AtMost(longest),
            _ => self,
        }
    }
}

/// How an accept goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepting {
    /// One connection.
    One,
    /// One connection, whose peer's address is asked for.
    OneWithPeer,
    /// One after the other, until it is cancelled. The kernel gives no addresses then.
    Many,
}

/// How a send goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// As far as the socket takes the bytes at once. That all of them were taken is known after the next enter, which
    /// does not return for it.
    AtOnceSilently,
    /// As far as the socket takes the bytes at once; the next enter returns for it.
    AtOnce,
    /// All of them, whatever time that takes.
    Waiting,
}

/// What one send sends: in order, at least one piece and at most [`Pieces::MAX`].
#[derive(Debug)]
pub(super) struct Pieces {
    pub(super) first: Outgoing,
    /// Mostly empty, and then without heap.
    pub(super) more: Vec<Outgoing>,
}

impl Pieces {
    /// How many pieces go out at once at most.
    pub(super) const MAX: usize = Gather::MAX;

    /// How many small and big buffers they lie in.
    pub(super) fn buffers(&self) -> [u16; 2] {
        let mut buffers = [0; 2];
        for piece in iter::once(&self.first).chain(&self.more) {
            if let Some(lease) = piece.buffer() {
                buffers[lease.class() as usize] += 1;
            }
        }
        buffers
    }

    pub(super) fn len(&self) -> usize {
        self.first.bytes().len() + self.more.iter().map(|piece| piece.bytes().len()).sum::<usize>()
    }
}
