//! One WebSocket conversation: its protocol, whether its peer is still there, and how the peer is told that the server ends
//! it. A channel touches no socket: it says what to send, and when to look at it again.

use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use super::WorkerWide;
use super::keep_alive::{Finding, Sight, Watch};
use crate::engine::Pause;
use crate::proto::{CloseFrame, Connection, ControlFrame, Progress, Standing};

/// At a drain, Close(1001) waits until the peer has sent nothing for this long.
const DRAIN_QUIET: Duration = Duration::from_millis(50);

/// At a drain, how long a peer that never pauses is echoed: no longer than half of the drain's timeout. From then on
/// its Close is due at the next end of a message.
const DRAIN_BUSY: Duration = Duration::from_secs(1);

/// At a drain, how long the rest of a message that has begun, or the header of a proxy, is waited for: no longer than a
/// quarter of its timeout.
const DRAIN_MESSAGE: Duration = Duration::from_secs(1);

/// A WebSocket conversation.
pub(super) struct Channel {
    connection: Connection,
    watch: Watch,
    farewell: Farewell,
}

/// What an open channel waits for before its Close(1001).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    /// Nothing: there is no reason for it.
    NotDue,
    /// That nothing comes for a while.
    Quiet,
    /// The rest of a message.
    Message,
    /// It is given out, and the peer's is awaited.
    Said,
}

/// What is to be done for a channel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Next {
    Nothing,
    /// To call [`Channel::on_deadline`] after this time.
    Look(Duration),
    /// To send a [`Channel::ping`], and to look at it again after this time.
    Ping(Duration),
    /// To send Close(1001): the server drains.
    Farewell,
    /// To close the conversation for this cause.
    GiveUp(Cause),
}

/// Why a peer is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It is not received from, and takes nothing of what it is sent.
    Unread(Pause),
    /// It neither answers a ping nor takes anything.
    Gone,
    /// It has nothing to say.
    Idle,
}

/// What a channel does not know itself when it is looked at.
pub(super) struct Outlook<'a> {
    /// What the peer has done, and since when it gives no sign.
    pub(super) sight: Sight<'a>,
    /// Why it is not received from, if so.
    pub(super) pause: Option<Pause>,
}

impl Channel {
    /// A conversation that has just been opened.
    pub(super) fn new(context: &WorkerWide) -> Self {
        Self {
            connection: Connection::new(Rc::clone(&context.settings)),
            watch: Watch::new(),
            farewell: Farewell::NotDue,
        }
    }

    /// Takes what has come. See [`Connection::receive`].
    #[inline]
    pub(super) fn receive(
        &mut self,
        buffer: &mut [u8],
        filled: Range<usize>,
        context: &WorkerWide,
    ) -> Progress {
        let progress = self.connection.receive(buffer, filled);
        let counts = &progress.counts;
        context.stats.add(counts);
        self.watch.hear_data(counts.texts | counts.binaries != 0 || counts.payload_bytes != 0);
        progress
    }

    /// How many bytes are held of a frame that is not complete.
    pub(super) fn gathered(&self) -> usize {
        self.connection.gathered()
    }

    /// The peer is in the middle of a message.
    pub(super) const fn is_mid_message(&self) -> bool {
        self.connection.is_mid_message()
    }

    /// A ping for a peer that is silent, unless a Close was given out.
    pub(super) fn ping(&self) -> Option<ControlFrame> {
        self.connection.ping(b"")
    }

    /// The kernel is to be asked before the next look: a ping has gone out, and nothing has come since.
    pub(super) const fn is_pinged(&self) -> bool {
        self.watch.is_pinged()
    }

    /// The time to look at it has come.
    pub(super) fn on_deadline(&mut self, outlook: Outlook<'_>, context: &WorkerWide) -> Next {
        match self.farewell {
            Farewell::NotDue => self.look(outlook, context),
            Farewell::Quiet if self.is_mid_message() => self.await_message(context),
            Farewell::Quiet | Farewell::Message => Next::Farewell,
            Farewell::Said => Next::Nothing,
        }
    }

    /// The server drains.
    pub(super) fn on_drain(&mut self, context: &WorkerWide) -> Next {
        if self.farewell == Farewell::Said {
            return Next::Nothing;
        }
        self.farewell = Farewell::Quiet;
        self.approach_farewell(context)
    }

    /// Something has come. At a drain, the Close is due once nothing more comes and no message is unfinished. A peer that
    /// never pauses gets it at the end of a message.
    #[inline]
    pub(super) fn after_receive(&mut self, context: &WorkerWide) -> Next {
        match self.farewell {
            Farewell::NotDue => Next::Nothing,
            _ => self.approach_farewell(context),
        }
    }

    /// Makes a Close, unless one was made before. The flag says whether both sides have closed.
    pub(super) fn close(&mut self, code: u16) -> (Option<CloseFrame>, bool) {
        self.farewell = Farewell::Said;
        let frame = self.connection.close(code);
        (frame, self.connection.standing() == Standing::Closed)
    }

    /// Looks whether the peer is still there.
    fn look(&mut self, outlook: Outlook<'_>, context: &WorkerWide) -> Next {
        let is_owed = outlook.sight.is_owed;
        match self.watch.look(outlook.sight, self.connection.is_mid_message(), &context.terms) {
            Finding::Fine(next) => Next::Look(next),
            Finding::Silent(next) => Next::Ping(next),
            found => Next::GiveUp(match (outlook.pause, found) {
                (Some(pause), _) if is_owed => Cause::Unread(pause),
                (_, Finding::Idle) => Cause::Idle,
                _ => Cause::Gone,
            }),
        }
    }

    fn approach_farewell(&mut self, context: &WorkerWide) -> Next {
        let is_busy =
            context.common.phase_elapsed() > DRAIN_BUSY.min(context.shared.config.drain.timeout / 2);
        match (self.farewell, self.is_mid_message()) {
            (Farewell::NotDue | Farewell::Said, _) | (Farewell::Message, true) => Next::Nothing,
            (Farewell::Quiet, true) if is_busy => self.await_message(context),
            (Farewell::Quiet | Farewell::Message, false) if is_busy => Next::Farewell,
            (Farewell::Quiet, _) | (Farewell::Message, false) => {
                self.farewell = Farewell::Quiet;
                Next::Look(DRAIN_QUIET)
            }
        }
    }

    fn await_message(&mut self, context: &WorkerWide) -> Next {
        self.farewell = Farewell::Message;
        Next::Look(drain_message(context))
    }
}

/// How long the rest of something that has begun is waited for at a drain.
pub(super) fn drain_message(context: &WorkerWide) -> Duration {
    DRAIN_MESSAGE.min(context.shared.config.drain.timeout / 4)
}
