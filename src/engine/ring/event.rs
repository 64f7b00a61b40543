//! What is said to a [`Ring`](super::ring::Ring), and what it says.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::super::buffers::Buffer;
use super::super::outgoing::Pieces;
use super::super::slots::Id;
use super::ring::Descriptor;

/// What has come to its end, or has come so far.
#[derive(Debug)]
pub(super) enum RingEvent {
    /// A connection came to this listener. `is_last` when the operation accepts no more. Its peer's address, where it
    /// was asked for and there is one.
    Accepted { listener: u32, result: io::Result<Descriptor>, is_last: bool, peer: Option<IpAddr> },
    /// So many bytes came into a buffer, or with none the end of the stream. `is_last` when the operation receives no more.
    Received { id: Id, result: io::Result<Option<(Buffer, usize)>>, is_last: bool },
    /// A send is over: how many bytes of the pieces went out, from the first on.
    Sent { id: Id, result: io::Result<usize>, pieces: Pieces },
    /// A connection that was asked for is there, or will not be.
    Connected { id: Id, result: io::Result<()> },
    /// A shutdown is over.
    ShutDown { id: Id },
    /// The connection's place in the table of files is free again.
    Closed { id: Id },
    /// How many bytes the peer has not confirmed; an error where the kernel cannot tell.
    Unconfirmed { id: Id, result: io::Result<u32> },
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
pub(super) enum AcceptKind {
    /// One connection.
    One,
    /// One connection, whose peer's address is asked for.
    OneWithPeer,
    /// One after the other, until it is cancelled. The kernel gives no addresses then.
    Many,
}
