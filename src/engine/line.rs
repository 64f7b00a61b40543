//! What a connection has to send, whether it receives, and how it ends: all but what it says. It does no I/O.
//!
//! # How a connection ends
//!
//! The last bytes are sent, then the write side is shut, then what still comes is read and dropped until the peer ends
//! too (RFC 6455 §7.1.1 has the same order). Closing at once would make the kernel answer unread bytes with RST, and the
//! peer would lose the last bytes.
//!
//! A peer that takes its last bytes slowly gets all of them. Now and then the line looks at what the peer has taken since
//! the last time: bytes that it has confirmed, where the kernel can tell, or sends that went out. Only a peer that has taken
//! nothing for the flush timeout is cut.

use std::time::Duration;

use super::Common;
use super::buffers::{Class, SMALL};
use super::clock::Moment;
use super::outbox::Outbox;

/// How long the peer's answer is awaited once it has taken everything: its end of the stream after ours, or what
/// [`Wire::await_answer`](super::Wire::await_answer) waits for.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How many bytes are read and dropped before our write side is shut, and after.
pub(crate) const DISCARD_MAX: u32 = 4 << 20;

/// How often the line looks at a peer within the time that its end may take.
const LOOKS: u32 = 4;

/// After so many receives of less than a small buffer in a row, small buffers do again.
const SHORT_RECEIVES: u8 = 16;

/// What a connection has to send, and what it is at.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) outbox: Outbox,
    /// When the handler is to be called, or the line is to look at the end.
    pub(super) deadline: Option<Moment>,
    pub(super) silence: Silence,
    /// How many bytes were read and dropped in this stage.
    discarded: u32,
    stage: Stage,
    pub(super) sending: Sending,
    class: Class,
    short_receives: u8,
    signs: Signs,
    marks: u8,
}

/// Where a connection is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The handler hears everything.
    Open,
    /// The handler has said all and hears everything still. The peer has any time to answer.
    Answer,
    /// The same, but the peer has the time that an end may take.
    TimedAnswer,
    /// What is queued is sent, then the write side is shut.
    Flushing,
    /// The write side is shut, and the peer's end is awaited.
    Lingering,
    /// The socket can be given up.
    Over,
    /// The same, without shutting it first.
    Reset,
}

/// The send of a connection; there is never more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// There is no connection yet.
    NotYet,
    Idle,
    /// One that ends without waiting for the peer.
    AtOnce,
    /// One that waits for the peer.
    Waiting,
    /// The peer did not take all at once: the next one waits for it.
    Behind,
}

/// Marks: the peer has ended its side.
const END_OF_STREAM: u8 = 1;
/// It is not received from for now, and that was counted.
const PAUSED: u8 = 2;
/// The kernel is to be asked what the peer has confirmed, before the next deadline.
const ASKS: u8 = 4;
/// The write side is to be shut once everything has gone out.
const SHUT_DUE: u8 = 8;
/// A send that fails does not end the connection.
const TO_THE_END: u8 = 16;
/// A send has failed.
const MUTE: u8 = 32;

/// Why a peer is not received from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// It has as much unsent as one connection may have.
    UnsentLimit,
    /// All connections together have as much unsent as they may.
    UnsentTotal,
}

/// What a peer has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs(u8);

impl Signs {
    const HEARD: u8 = 1;
    const TAKEN: u8 = 2;
    const CONFIRMED: u8 = 4;

    /// Bytes have come from it.
    #[must_use]
    pub const fn has_heard(self) -> bool {
        self.0 & Self::HEARD != 0
    }

    /// Its socket has taken something that was queued.
    #[must_use]
    pub const fn has_taken(self) -> bool {
        self.0 & Self::TAKEN != 0
    }

    /// It has confirmed something that it was sent.
    #[must_use]
    pub const fn has_confirmed(self) -> bool {
        self.0 & Self::CONFIRMED != 0
    }

    #[cfg(test)]
    pub(crate) const fn of(has_heard: bool, has_taken: bool, has_confirmed: bool) -> Self {
        Self(has_heard as u8 | (has_taken as u8) << 1 | (has_confirmed as u8) << 2)
    }
}

/// Since when a peer gives no sign: milliseconds of the worker's clock, modulo 2^32.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Silence(u32);

impl Silence {
    /// It begins now.
    pub(crate) const fn begin(&mut self, now: u32) {
        self.0 = now;
    }

    /// For how many milliseconds it has lasted.
    pub(crate) const fn lasts(self, now: u32) -> u32 {
        now.wrapping_sub(self.0)
    }
}

impl Line {
    pub(super) const fn new(common: &Common) -> Self {
        Self {
            outbox: Outbox::new(common.is_careful),
            deadline: None,
            silence: Silence(0),
            discarded: 0,
            stage: Stage::Open,
            sending: Sending::NotYet,
            class: Class::Small,
            short_receives: 0,
            signs: Signs(0),
            marks: 0,
        }
    }

    #[inline]
    pub(super) const fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether the socket can be given up.
    #[inline]
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over | Stage::Reset)
    }

    /// Whether the handler hears what comes.
    #[inline]
    pub(super) const fn is_heard(&self) -> bool {
        matches!(self.stage, Stage::Open | Stage::Answer | Stage::TimedAnswer)
    }

    /// Whether the last bytes are on their way, and nothing is asked of the handler any more.
    #[inline]
    pub(super) const fn is_finishing(&self) -> bool {
        matches!(self.stage, Stage::Flushing | Stage::Lingering)
    }

    /// Whether a send has failed.
    pub(super) const fn is_mute(&self) -> bool {
        self.marks & MUTE != 0
    }

    /// The buffer that the next receive takes.
    #[inline]
    pub(super) const fn class(&self) -> Class {
        self.class
    }

    pub(super) const fn take_signs(&mut self) -> Signs {
        std::mem::replace(&mut self.signs, Signs(0))
    }

    /// Whether to receive now; a pause is counted once, until something comes again.
    #[inline]
    pub(super) fn may_receive(&mut self, held: impl FnOnce() -> usize, common: &Common) -> bool {
        let may = match self.stage {
            _ if self.marks & END_OF_STREAM != 0 => return false,
            Stage::Over | Stage::Reset => return false,
            Stage::Flushing => self.discarded <= DISCARD_MAX,
            // A line that owes nothing is always received from, so that those who use the budget up do not stop the others.
            Stage::Open if self.outbox.must_wait() => self.pause(held(), common).is_none(),
            Stage::Open | Stage::Answer | Stage::TimedAnswer | Stage::Lingering => true,
        };
        if !may && self.marks & PAUSED == 0 {
            self.marks |= PAUSED;
            common.counters.read_pauses.add(1);
        }
        may
    }

    /// Why the peer is not received from: too much is unsent. After a pause half of it has to be gone.
    pub(super) fn pause(&self, held: usize, common: &Common) -> Option<Pause> {
        if self.stage != Stage::Open || !self.outbox.must_wait() {
            return None;
        }
        let limit = common.bounds.unsent_limit;
        let limit = if self.marks & PAUSED == 0 { limit } else { limit / 2 };
        if self.outbox.unsent() + held >= limit {
            return Some(Pause::UnsentLimit);
        }
        let is_exhausted = common.budget.is_exhausted_for(common.receive_size.get());
        is_exhausted.then_some(Pause::UnsentTotal)
    }

    /// Bytes have come, as many as this, into a buffer that has room for `room`.
    #[inline]
    pub(super) fn on_bytes(&mut self, received: usize, room: usize, common: &Common) {
        common.counters.receives.add(1);
        self.marks &= !PAUSED;
        self.signs.0 |= Signs::HEARD;
        self.adapt_class(received, room);
    }

    /// Counts bytes that are dropped. Gives whether they are too many.
    #[cold]
    pub(super) fn discard(&mut self, received: usize) -> bool {
        // While the peer has bytes to confirm, a cut would reset the connection, and lose them. So these do not count.
        let counts = self.stage == Stage::Flushing || self.outbox.unconfirmed() == Some(0);
        if counts {
            self.discarded = self.discarded.saturating_add(u32::try_from(received).unwrap_or(u32::MAX));
        }
        self.stage == Stage::Lingering && self.discarded > DISCARD_MAX
    }

    /// The peer has ended its side.
    pub(super) const fn on_end_of_stream(&mut self) {
        self.marks |= END_OF_STREAM;
    }

    /// Some of what was queued went out. With everything gone, the peer is slow no more.
    #[inline]
    pub(super) const fn on_taken(&mut self, common: &Common) {
        self.signs.0 |= Signs::TAKEN;
        if self.outbox.unsent() == 0 {
            self.outbox.set_slow(common.is_careful);
        }
    }

    /// A send has failed: nothing more is sent. Gives whether that ends the connection.
    pub(super) fn on_send_failed(&mut self) -> bool {
        self.marks |= MUTE;
        self.outbox.clear();
        self.marks & TO_THE_END == 0 || self.is_finishing()
    }

    /// Whether the kernel is to be asked what the peer has not confirmed, before the deadline is acted on. It is where a look
    /// may find that the peer is gone.
    pub(super) const fn asks_unconfirmed(&self) -> bool {
        match self.stage {
            Stage::Open => self.marks & ASKS != 0 || self.outbox.unsent() > 0,
            Stage::TimedAnswer | Stage::Flushing | Stage::Lingering => true,
            Stage::Answer | Stage::Over | Stage::Reset => false,
        }
    }

    /// How many bytes of what was sent the peer has not confirmed, where the kernel can tell: the peer takes something as
    /// long as that changes. Else only sends show it.
    pub(super) fn on_unconfirmed(&mut self, bytes: Option<u32>) {
        if self.outbox.on_unconfirmed(bytes) {
            self.signs.0 |= Signs::CONFIRMED;
        }
    }

    /// When the handler is to be called. Once it has said all, the line has deadlines of its own.
    pub(super) fn set_deadline(&mut self, at: Option<Moment>) {
        if self.stage == Stage::Open {
            self.deadline = at;
        }
    }

    /// The deadline is acted on: whoever wants the kernel to be asked before the next one says so anew.
    pub(super) const fn take_deadline(&mut self) {
        self.deadline = None;
        self.marks &= !ASKS;
    }

    pub(super) const fn ask_unconfirmed(&mut self) {
        self.marks |= ASKS;
    }

    pub(super) const fn shut_write(&mut self) {
        self.marks |= SHUT_DUE;
    }

    pub(super) const fn receive_to_the_end(&mut self) {
        self.marks |= TO_THE_END;
    }

    pub(super) fn await_answer(&mut self, is_timed: bool, common: &Common) {
        if self.is_heard() {
            self.stage = if is_timed { Stage::TimedAnswer } else { Stage::Answer };
            self.deadline = None;
            if is_timed {
                self.begin_looks(common);
            }
        }
    }

    /// Nothing more is to be said: send what is queued, then end.
    pub(super) fn finish(&mut self, common: &Common) {
        if self.is_heard() {
            (self.stage, self.discarded) = (Stage::Flushing, 0);
            self.begin_looks(common);
        }
    }

    pub(super) const fn end(&mut self) {
        if !self.is_over() {
            self.stage = Stage::Over;
        }
    }

    pub(super) const fn reset(&mut self) {
        if !self.is_over() {
            self.stage = Stage::Reset;
        }
    }

    /// Whether the write side is to be shut once everything has gone out.
    pub(super) const fn is_shut_due(&self) -> bool {
        self.marks & SHUT_DUE != 0
    }

    /// Whether the write side is to be shut now: true once.
    pub(super) fn takes_shut_write(&mut self, common: &Common) -> bool {
        if self.outbox.unsent() > 0 {
            return false;
        }
        if self.stage == Stage::Flushing {
            let is_ended = self.marks & END_OF_STREAM != 0;
            (self.stage, self.discarded) = (if is_ended { Stage::Over } else { Stage::Lingering }, 0);
            self.begin_looks(common);
            return true;
        }
        let is_due = self.is_shut_due();
        self.marks &= !SHUT_DUE;
        is_due
    }

    /// Looks at what the peer has taken. Gives whether that was nothing for too long.
    pub(super) fn look_at_end(&mut self, common: &Common) -> bool {
        let now = common.clock.now().millis_modulo();
        let signs = self.take_signs();
        if signs.has_taken() || signs.has_confirmed() {
            self.silence.begin(now);
        }
        let silent = Duration::from_millis(self.silence.lasts(now).into());
        let is_owed = self.is_owed_at_end();
        let step = Self::step(is_owed, common);
        let can_tell = self.outbox.unconfirmed().is_some();
        let patience = match (is_owed, can_tell, common.bounds.flush_timeout) {
            (false, true, _) => ANSWER_TIMEOUT,
            // All is in the kernel, which may still have much of it.
            (false, false, timeout) => timeout.max(ANSWER_TIMEOUT),
            (true, _, Duration::ZERO) => Duration::MAX,
            (true, true, timeout) => timeout,
            // A send that is made now shows at the next look.
            (true, false, timeout) => timeout + step,
        };
        if silent >= patience {
            return true;
        }
        self.deadline = Some(common.clock.after(step.min(patience - silent)));
        false
    }

    /// Begins to look at how the peer takes the last bytes.
    fn begin_looks(&mut self, common: &Common) {
        self.silence.begin(common.clock.now().millis_modulo());
        self.signs = Signs(0);
        self.outbox.on_unconfirmed(None);
        let step = Self::step(self.stage == Stage::Flushing, common);
        self.deadline = Some(common.clock.after(step));
    }

    /// Whether there is something that the peer has not taken.
    fn is_owed_at_end(&self) -> bool {
        self.stage == Stage::Flushing || self.outbox.unsent() > 0 || self.outbox.unconfirmed() > Some(0)
    }

    /// The time from one look to the next.
    fn step(is_owed: bool, common: &Common) -> Duration {
        let flush_timeout = common.bounds.flush_timeout;
        let timeout = if is_owed && !flush_timeout.is_zero() { flush_timeout } else { ANSWER_TIMEOUT };
        (timeout / LOOKS).max(Duration::from_millis(1))
    }

    /// Big buffers once a small one was filled, small ones after some short receives.
    #[inline]
    fn adapt_class(&mut self, received: usize, room: usize) {
        if received == room {
            self.class = Class::Big;
        }
        let is_short = received < SMALL && received < room;
        self.short_receives = if is_short { self.short_receives + 1 } else { 0 };
        if self.short_receives == SHORT_RECEIVES {
            self.short_receives = 0;
            self.class = Class::Small;
        }
    }
}
