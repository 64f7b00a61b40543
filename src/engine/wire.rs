//! What a handler may ask of its connection.

use std::net::IpAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use rustix::fd::BorrowedFd;

use super::Common;
use super::buffers::Buffer;
use super::clock::Moment;
use super::line::{Line, Pause, Signs, Silence};
use super::outgoing::Pieces;
use super::slots::Id;
use super::unconfirmed::peer;
use crate::memory::{Budget, Charged};

/// Where a connection is: its worker, its name there, and its socket where that has a descriptor.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) common: &'a Common,
    pub(super) id: Id,
    pub(super) socket: Option<BorrowedFd<'a>>,
}

/// A connection, as its handler has it: what the handler asks for here is done once its method has returned.
pub struct Wire<'a> {
    line: &'a mut Line,
    context: Context<'a>,
}

impl<'a> Wire<'a> {
    #[inline]
    pub(super) const fn new(line: &'a mut Line, context: Context<'a>) -> Self {
        Self { line, context }
    }

    /// The name of this connection among those of its worker.
    #[must_use]
    pub const fn id(&self) -> Id {
        self.context.id
    }

    /// Has [`Handler::on_nudged`](super::Handler::on_nudged) be called of another connection of this worker, if it is still
    /// there.
    pub fn nudge(&self, id: Id) {
        self.context.common.nudged.borrow_mut().push(id);
    }

    /// Sends these bytes of a buffer, from where they are. With an empty range the buffer is free again.
    ///
    /// # Panics
    ///
    /// When the range does not lie in the buffer.
    #[inline]
    pub fn send(&mut self, buffer: Buffer, range: Range<usize>) {
        assert!(range.end <= buffer.bytes().len(), "the bytes lie in the buffer");
        self.line.outbox.push_received(buffer, range, self.context.common);
    }

    /// Sends bytes on the heap, from where they are.
    pub fn send_bytes(&mut self, bytes: BytesMut) {
        let charge = self.context.common.budget.charge(bytes.capacity());
        self.send_charged(Box::new(Charged { bytes, charge }));
    }

    /// The same of bytes that are charged to the budget already.
    #[inline(never)]
    pub fn send_charged(&mut self, bytes: Box<Charged>) {
        self.line.outbox.push_charged(bytes, self.context.common);
    }

    /// Sends a copy of these bytes.
    #[inline(never)]
    pub fn send_copy(&mut self, bytes: &[u8]) {
        self.line.outbox.push_bytes(bytes, self.context.common);
    }

    /// What memory that is held for this peer is charged to.
    #[must_use]
    pub fn budget(&self) -> &'a Rc<Budget> {
        &self.context.common.budget
    }

    /// How many pieces can be queued until they are more than one send takes.
    #[must_use]
    pub fn room(&self) -> usize {
        Pieces::MAX.saturating_sub(self.line.outbox.len())
    }

    /// A buffer to make bytes in, which [`Self::send`] sends. While 64 of them are out there is none, and bytes are made on the
    /// heap: so no connection waits for another.
    #[must_use]
    pub fn scratch(&self) -> Option<Buffer> {
        self.context.common.scratch()
    }

    /// Whether what is unsent waits for the peer: more would have to be kept for it.
    #[must_use]
    pub const fn is_behind(&self) -> bool {
        self.line.outbox.must_wait()
    }

    /// How many bytes are queued or being sent.
    #[must_use]
    pub const fn unsent(&self) -> usize {
        self.line.outbox.unsent()
    }

    /// What the peer has done since this was last asked.
    pub const fn signs(&mut self) -> Signs {
        self.line.take_signs()
    }

    /// Since when the peer gives no sign of life. The handler says what a sign is, until it finishes.
    pub(crate) const fn silence(&mut self) -> &mut Silence {
        &mut self.line.silence
    }

    /// Has the kernel be asked, just before the next deadline, whether the peer confirms what it was sent. Without this the
    /// kernel is asked only where something is unsent. The answer is among [`Self::signs`].
    pub const fn ask_unconfirmed(&mut self) {
        self.line.ask_unconfirmed();
    }

    /// Forgets what the peer has confirmed until now: what is sent next is no sign of the peer by itself.
    pub fn forget_unconfirmed(&mut self) {
        self.line.outbox.on_unconfirmed(None);
    }

    /// When [`Handler::on_deadline`](super::Handler::on_deadline) is called next, if at all. The engine rounds it up to 8 ms.
    pub(crate) fn set_deadline(&mut self, at: Option<Moment>) {
        self.line.set_deadline(at);
    }

    /// Has [`Handler::on_deadline`](super::Handler::on_deadline) be called after this time, and not before. It does nothing after
    /// [`Self::await_answer`] and [`Self::finish`]: the engine has deadlines of its own then.
    pub fn wake_after(&mut self, time: Duration) {
        self.line.set_deadline(Some(self.context.common.clock.after(time)));
    }

    /// The deadline that is set.
    pub(crate) const fn deadline(&self) -> Option<Moment> {
        self.line.deadline
    }

    /// Why the peer is not received from now, if so. `held` is what
    /// [`Handler::held`](super::Handler::held) gives.
    pub(crate) fn pause(&self, held: usize) -> Option<Pause> {
        self.line.pause(held, self.context.common)
    }

    /// The address of the socket's peer, where the engine can tell: it costs a system call.
    #[must_use]
    pub fn peer(&self) -> Option<IpAddr> {
        self.context.socket.and_then(peer)
    }

    /// The last bytes are queued, and the peer's answer is awaited. From now on the peer is received from however much it is
    /// owed. With `is_timed` the connection is cut when the peer takes nothing for the flush timeout, or when it has taken
    /// everything and does not answer within two seconds.
    pub fn await_answer(&mut self, is_timed: bool) {
        self.line.await_answer(is_timed, self.context.common);
    }

    /// Ends the connection well: what is queued is sent, then the write side is shut, then what still comes is read and
    /// dropped until the peer ends too. Closing at once would make the kernel answer unread bytes with RST, and the peer
    /// would lose what it was sent last. The handler is not called any more, but for
    /// [`Handler::on_cut`](super::Handler::on_cut).
    pub fn finish(&mut self) {
        self.line.finish(self.context.common);
    }

    /// Ends the connection at once. Nobody is left to tell.
    pub const fn end(&mut self) {
        self.line.end();
    }

    /// Closes the socket without shutting it first: what that does is up to SO_LINGER (socket(7)).
    pub const fn reset(&mut self) {
        self.line.reset();
    }

    /// Shuts the write side once everything queued has gone out, and goes on to receive.
    pub const fn shut_write(&mut self) {
        self.line.shut_write();
    }

    /// Has a failed send not end the connection: what the peer sent before it went is received first.
    pub const fn receive_to_the_end(&mut self) {
        self.line.receive_to_the_end();
    }
}
