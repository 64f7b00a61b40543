//! The contract between the engine and what a connection does: one [`Handler`] for each connection.
//!
//! The engine receives, sends, waits and closes. It tells the handler what has come, and the handler asks for what is to be
//! done through its [`Wire`].

use std::io;
use std::ops::Range;

use super::buffers::Buffer;
use super::wire::Wire;

/// What a receive brought.
#[derive(Debug)]
pub enum Received {
    /// These bytes of the buffer. At least [`HEADROOM`](crate::memory::HEADROOM) bytes lie before them and may be written.
    /// Dropping the buffer gives it back.
    Bytes(Buffer, Range<usize>),
    /// The peer has ended its side. Nothing follows.
    End,
    /// The connection is broken. Nothing follows, and the engine closes the socket.
    Failed(io::Error),
}

/// One connection. The engine calls every method on the worker's thread, one at a time.
pub trait Handler {
    /// The connection is there: it was accepted, or connected. An error says that it could not be made; it is then over.
    /// This comes once, before anything else.
    fn on_begun(&mut self, _wire: &mut Wire<'_>, _result: io::Result<()>) {}

    /// Bytes have come, or the end, or an error. Returns how many frames this was: a frame is charged 128 bytes of the
    /// connection's share of a turn.
    fn on_received(&mut self, wire: &mut Wire<'_>, received: Received) -> u32;

    /// The time set by [`Wire::wake_after`] has passed, and everything that came before it was handed over.
    fn on_deadline(&mut self, _wire: &mut Wire<'_>) {}

    /// The worker begins to drain: it accepts no more, and waits for its connections to end.
    fn on_drain(&mut self, _wire: &mut Wire<'_>) {}

    /// Another connection of the worker has something for this one: it has called [`Wire::nudge`].
    fn on_nudged(&mut self, _wire: &mut Wire<'_>) {}

    /// A send is about to be made that has room for more, and [`Self::has_more`] is true: up to [`Wire::room`] pieces may be
    /// queued.
    fn on_room(&mut self, _wire: &mut Wire<'_>) {}

    /// Whether there is more to send than is queued, for a handler that makes what it sends.
    fn has_more(&self) -> bool {
        false
    }

    /// How many bytes of memory are held for this peer beside what is queued, such as a message that is not complete. They
    /// count against the limit of unsent bytes.
    fn held(&self) -> usize {
        0
    }

    /// The engine gives the connection up: the worker stops, or after [`Wire::finish`] or [`Wire::await_answer`] the peer
    /// took nothing for too long or sent too much. Nothing follows.
    fn on_cut(&mut self) {}
}
