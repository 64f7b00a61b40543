//! A handler and its line: what a connection sends, whether it receives, and when it is over. It does no I/O.
//!
//! Whatever moves the bytes says what has come and what was sent, and asks what to do next.

use std::io;
use std::iter;

use rustix::io::Errno;

use super::clock::Moment;
use super::handler::{Handler, Received};
use super::line::{Line, Sending, Stage};
use super::outbox::BUFFERS_SHARE;
use super::outgoing::{Manner, Pieces};
use super::phase::Phase;
use super::shortage::is_momentary;
use super::wire::{Context, Wire};
use super::{Class, Common};

/// A connection without its socket.
#[derive(Debug)]
pub(super) struct Connection<H> {
    pub(super) handler: H,
    line: Line,
}

impl<H: Handler> Connection<H> {
    /// A connection that has not begun.
    pub(super) const fn new(handler: H, common: &Common) -> Self {
        Self { handler, line: Line::new(common) }
    }

    /// It is there, or will not be.
    pub(super) fn begin(&mut self, result: io::Result<()>, context: Context<'_>) {
        let has_failed = result.is_err();
        self.line.sending = Sending::Idle;
        self.handler.on_begun(&mut Wire::new(&mut self.line, context), result);
        if has_failed {
            self.line.end();
        }
    }

    /// Something has come. Gives how many frames it was.
    #[inline]
    pub(super) fn received(&mut self, received: Received, context: Context<'_>) -> u32 {
        match &received {
            Received::Bytes(buffer, range) => {
                self.line.on_bytes(range.len(), buffer.room(), context.common);
                if self.line.is_heard() {
                    return self.handler.on_received(&mut Wire::new(&mut self.line, context), received);
                }
                if self.line.discard(range.len()) {
                    self.cut();
                }
            }
            Received::End => self.on_end_of_stream(context),
            Received::Failed(error) if is_momentary(error) => {}
            Received::Failed(_) => self.on_broken(received, context),
        }
        0
    }

    /// The bytes to send next, where they are one piece and all that there is.
    #[inline]
    pub(super) fn only_piece(&self) -> Option<&[u8]> {
        let Line { sending, .. } = self.line;
        let can_send = sending == Sending::Idle && !self.line.is_over() && !self.line.is_mute();
        if can_send && !self.has_more() { self.line.outbox.only() } else { None }
    }

    /// So many bytes of the only piece went out.
    #[inline]
    pub(super) fn sent_only_piece(&mut self, sent: usize, context: Context<'_>) {
        if sent == self.line.outbox.unsent() {
            self.line.outbox.drop_only();
            self.line.on_taken(context.common);
        } else if let Some(piece) = self.line.outbox.pop() {
            self.sent_in_part(sent, Pieces::one(piece), false, context);
        }
    }

    /// What to send next, of at most so many pieces. Nothing while a send is under way.
    #[inline]
    pub(super) fn next_send(&mut self, pieces_max: usize, context: Context<'_>) -> Option<(Pieces, Manner)> {
        if !matches!(self.line.sending, Sending::Idle | Sending::Behind) || self.line.is_over() {
            return None;
        }
        if self.line.is_mute() {
            self.line.outbox.clear();
            return None;
        }
        if self.has_more() && self.line.sending == Sending::Idle && self.line.outbox.len() < pieces_max {
            self.handler.on_room(&mut Wire::new(&mut self.line, context));
        }
        if self.line.is_over() {
            return None;
        }
        let Some(first) = self.line.outbox.pop() else {
            self.line.sending = Sending::Idle;
            return None;
        };
        let mut pieces = Pieces::one(first);
        while pieces.more.len() + 1 < pieces_max
            && let Some(piece) = self.line.outbox.pop()
        {
            pieces.more.push(piece);
        }
        let manner = if self.line.sending == Sending::Behind {
            self.line.sending = Sending::Waiting;
            Manner::Waiting
        } else {
            self.line.sending = Sending::AtOnce;
            Manner::AtOnce { tells: self.awaits_sent() }
        };
        Some((pieces, manner))
    }

    /// A send is over: so many bytes of the pieces went out, from the first one on.
    #[inline]
    pub(super) fn sent(&mut self, result: io::Result<usize>, pieces: Pieces, context: Context<'_>) {
        let was_waiting = self.line.sending == Sending::Waiting;
        self.line.sending = Sending::Idle;
        let sent = match result {
            Ok(sent) => sent,
            // Nothing went out: where something did, the kernel says how much, after a cancel too.
            Err(error) if is_momentary(&error) || (was_waiting && is_cancelled(&error)) => 0,
            Err(error) => return self.on_send_failed(error, pieces, context),
        };
        let outbox = &mut self.line.outbox;
        if pieces.more.is_empty() && pieces.first.len() == sent {
            outbox.on_sent(&pieces.first);
            drop(pieces);
            return self.line.on_taken(context.common);
        }
        self.sent_in_part(sent, pieces, was_waiting, context);
    }

    #[cold]
    fn on_send_failed(&mut self, error: io::Error, pieces: Pieces, context: Context<'_>) {
        for piece in iter::once(pieces.first).chain(pieces.more) {
            self.line.outbox.on_sent(&piece);
        }
        if self.line.on_send_failed() {
            self.on_broken(Received::Failed(error), context);
        }
    }

    #[inline(never)]
    fn sent_in_part(&mut self, mut sent: usize, pieces: Pieces, was_waiting: bool, context: Context<'_>) {
        let common = context.common;
        let has_taken = sent > 0;
        let outbox = &mut self.line.outbox;
        let mut unsent = Vec::new();
        for piece in iter::once(pieces.first).chain(pieces.more) {
            let len = piece.len();
            if sent >= len {
                sent -= len;
                outbox.on_sent(&piece);
            } else {
                unsent.push((piece, std::mem::take(&mut sent)));
            }
        }
        if has_taken {
            self.line.on_taken(common);
        }
        if unsent.is_empty() {
            return;
        }
        let outbox = &mut self.line.outbox;
        common.counters.short_sends.add(1);
        // After one that was cancelled comes one that does not wait.
        self.line.sending = if was_waiting { Sending::Idle } else { Sending::Behind };
        outbox.set_slow(true);
        if planted!(UnsentIsReversed) {
            unsent.reverse();
        }
        // Each piece goes to the front of the outbox, so the last piece goes first.
        for (position, (piece, sent)) in unsent.into_iter().enumerate().rev() {
            let must_spill = position >= usize::from(BUFFERS_SHARE) || piece.is_scarce();
            outbox.on_sent_in_part(piece, sent, must_spill, common);
        }
        outbox.give_up_buffers(common);
    }

    /// Whether to receive.
    #[inline]
    pub(super) fn may_receive(&mut self, common: &Common) -> bool {
        self.line.may_receive(|| self.handler.held(), common)
    }

    /// Into what to receive, or not to receive.
    #[inline]
    pub(super) fn receiving(&mut self, common: &Common) -> Option<Class> {
        self.may_receive(common).then(|| self.class())
    }

    /// Into what to receive.
    #[inline]
    pub(super) const fn class(&self) -> Class {
        self.line.class()
    }

    /// Whether everything is sent that was to be, and the write side is to be shut: true once.
    pub(super) fn takes_shut_write(&mut self, common: &Common) -> bool {
        self.line.takes_shut_write(common)
    }

    /// When [`Self::on_deadline`] is due, if at all.
    #[inline]
    pub(super) const fn deadline(&self) -> Option<Moment> {
        self.line.deadline
    }

    /// Whether [`Self::on_unconfirmed`] is to be told before [`Self::on_deadline`].
    pub(super) const fn asks_unconfirmed(&self) -> bool {
        self.line.asks_unconfirmed()
    }

    /// How many bytes of what was sent the peer has not confirmed; nothing where the kernel cannot tell.
    pub(super) fn on_unconfirmed(&mut self, bytes: Option<u32>) {
        self.line.on_unconfirmed(bytes);
    }

    /// The deadline has passed.
    pub(super) fn on_deadline(&mut self, context: Context<'_>) {
        self.line.take_deadline();
        match self.line.stage() {
            Stage::Open => self.handler.on_deadline(&mut Wire::new(&mut self.line, context)),
            Stage::TimedAnswer | Stage::Flushing | Stage::Lingering => {
                if self.line.look_at_end(context.common) {
                    self.cut();
                }
            }
            Stage::Answer | Stage::Over | Stage::Reset => {}
        }
    }

    /// The phase of the worker has changed.
    pub(super) fn on_phase(&mut self, phase: Phase, context: Context<'_>) {
        match phase {
            Phase::Running => {}
            Phase::Draining if self.line.is_heard() => {
                self.handler.on_drain(&mut Wire::new(&mut self.line, context));
            }
            Phase::Draining => {}
            Phase::Stopping => self.cut(),
        }
    }

    /// Another connection has nudged this one.
    pub(super) fn on_nudged(&mut self, context: Context<'_>) {
        if self.line.is_heard() {
            self.handler.on_nudged(&mut Wire::new(&mut self.line, context));
        }
    }

    /// Has the handler look at its connection.
    pub(super) fn with<R>(
        &mut self,
        context: Context<'_>,
        look: impl FnOnce(&mut H, &mut Wire<'_>) -> R,
    ) -> R {
        look(&mut self.handler, &mut Wire::new(&mut self.line, context))
    }

    /// Whether the socket can be given up.
    #[inline]
    pub(super) const fn is_over(&self) -> bool {
        self.line.is_over()
    }

    /// Whether it is then closed without having been shut first.
    pub(super) fn ends_abruptly(&self) -> bool {
        self.line.stage() == Stage::Reset
    }

    /// Whether there is something to do as soon as what is under way is sent: more to send, a peer to receive from again,
    /// the end.
    #[inline]
    fn awaits_sent(&self) -> bool {
        let Line { outbox, .. } = &self.line;
        let ends = self.line.is_finishing() || self.line.is_shut_due();
        outbox.has_next() || outbox.must_wait() || ends || self.has_more()
    }

    #[inline]
    fn has_more(&self) -> bool {
        self.line.is_heard() && !self.line.is_mute() && self.handler.has_more()
    }

    #[cold]
    fn on_end_of_stream(&mut self, context: Context<'_>) {
        self.line.on_end_of_stream();
        if self.line.is_heard() {
            self.handler.on_received(&mut Wire::new(&mut self.line, context), Received::End);
        } else if self.line.stage() == Stage::Lingering {
            self.line.end();
        }
    }

    /// The connection is broken: nobody is left to send to.
    #[cold]
    fn on_broken(&mut self, received: Received, context: Context<'_>) {
        if self.line.is_heard() {
            self.handler.on_received(&mut Wire::new(&mut self.line, context), received);
        }
        self.line.end();
    }

    /// Gives the connection up.
    #[cold]
    fn cut(&mut self) {
        if !self.line.is_over() {
            self.line.end();
            self.handler.on_cut();
        }
    }
}

fn is_cancelled(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::CANCELED)
}

#[cfg(test)]
#[path = "connection_tests.rs"]
pub(crate) mod tests;
