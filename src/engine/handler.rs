//! What an engine drives: one [`Handler`] a connection.

use std::io;
use std::net::IpAddr;

use super::Phase;
use super::buffers::{Buffer, Class};
use super::outgoing::Outgoing;

/// What a receive brought: a buffer and how many bytes are in it, or nothing at the end of the stream.
pub type Received = io::Result<Option<(Buffer, usize)>>;

/// One connection: told what has come and what was sent, asked what to send and whether to go on.
pub trait Handler {
    /// Bytes have come, or their end, or an error. Gives how many frames they were.
    fn on_received(&mut self, received: Received) -> usize;

    /// Whether to receive.
    fn may_receive(&mut self) -> bool;

    /// Whether a receive is to bring one buffer at most: asked when it is begun.
    fn receives_singly(&self) -> bool {
        false
    }

    /// Into what.
    fn class(&self) -> Class;

    /// The connection that was asked for is there, or will not be. Nothing else happens before.
    fn on_connected(&mut self, result: io::Result<()>) {
        debug_assert!(result.is_ok(), "an accepted connection is there from its beginning");
    }

    /// What to send next.
    fn next_outgoing(&mut self) -> Option<Outgoing>;

    /// A piece was sent, all of it, or never will be.
    fn on_sent(&mut self, result: io::Result<()>, outgoing: Outgoing);

    /// Of a piece only `sent` bytes went out, 0 perhaps: the rest is what is sent next. `must_spill` when its receive
    /// buffer is needed for others.
    fn on_sent_in_part(&mut self, outgoing: Outgoing, sent: usize, must_spill: bool);

    /// What is queued has begun to wait for the peer: it should hold few buffers.
    fn on_behind(&mut self);

    /// Whether there is something to do as soon as what is under way is sent.
    fn awaits_sent(&self) -> bool;

    /// Whether everything is sent that ever will be, and the write side is to be shut: asked until it is.
    fn ends_writing(&mut self) -> bool;

    /// It was acted on: what it did not send now waits, perhaps for long. A buffer that it keeps for that is one that
    /// others, and it itself, cannot receive into.
    fn on_acted(&mut self) {}

    /// When [`Self::on_deadline`] is due, if at all: milliseconds on the clock of the worker.
    fn deadline(&self) -> Option<u64>;

    /// The deadline has passed. `peer` gives the address of the socket's peer, where the engine can tell: by a system call,
    /// so it is asked only where it is of use.
    fn on_deadline(&mut self, peer: impl FnOnce() -> Option<IpAddr>);

    /// Whether [`Self::on_untaken`] is to be told just before [`Self::on_deadline`].
    fn asks_untaken(&self) -> bool {
        false
    }

    /// How many bytes of what was sent the peer has not confirmed; nothing where the kernel cannot tell (before 6.7, and of unix sockets).
    fn on_untaken(&mut self, _: Option<u32>) {}

    /// The server is at something else.
    fn on_phase(&mut self, phase: Phase);

    /// Whether the socket can be given up.
    fn is_over(&self) -> bool;

    /// Whether it is then closed without having been shut first.
    fn ends_abruptly(&self) -> bool {
        false
    }
}
