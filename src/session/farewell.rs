//! How an open connection is looked after, and how it is told that the server ends it: by Close(1001).

use std::time::Duration;

use super::keep_alive::{Finding, Sight};
use super::{Session, Stage};
use crate::engine::{Phase, ReceiveBuffer};
use crate::proto::{Standing, close};

/// How long the peer's answer to our Close is waited for; at a drain, as long as that lasts.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// At a drain, what arrives within this time of the last bytes counts as received before.
const DRAIN_QUIET: Duration = Duration::from_millis(50);

/// At a drain, how long a peer that never pauses is echoed: no longer than half of the drain's timeout. From then on
/// its Close is due at the next end of a message.
const DRAIN_BUSY: Duration = Duration::from_secs(1);

/// At a drain, how long the rest of a message that has begun is waited for: no longer than a quarter of its timeout.
const DRAIN_MESSAGE: Duration = Duration::from_secs(1);

/// What an open connection waits for before its Close(1001).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// Nothing: there is no reason for it.
    NotDue,
    /// That nothing comes for a while.
    Quiet,
    /// The rest of a message.
    Message,
    /// It is given out, and the peer's is awaited.
    Said,
}

impl<B: ReceiveBuffer> Session<B> {
    /// Looks whether the peer of an open connection is still there.
    pub(super) fn look(&mut self) {
        let Stage::Open(connection) = &self.stage else {
            return;
        };
        let context = &*self.presence.context;
        let now = context.common.clock.now();
        let sight = Sight {
            now: now.millis_modulo(),
            is_owed: self.queue.unsent() > 0,
            is_mid_message: connection.is_mid_message(),
        };
        match self.watch.look(sight, &context.terms) {
            Finding::Fine(next) => self.deadline = Some(now.after(next)),
            Finding::Silent(next) => {
                self.deadline = Some(now.after(next));
                if let Some(ping) = connection.ping(b"") {
                    context.stats.pings_sent.add(1);
                    self.queue.on_untaken(None);
                    self.queue.push_bytes(ping.as_ref(), &context.common);
                }
            }
            Finding::Gone => {
                tracing::debug!("a peer neither answers a ping nor takes anything");
                context.stats.keep_alive_timeouts.add(1);
                self.dismiss();
            }
            Finding::Idle => {
                tracing::debug!("a peer has nothing to say");
                context.stats.idle_timeouts.add(1);
                self.dismiss();
            }
        }
    }

    /// Gives out Close(1001) outside of a drain.
    fn dismiss(&mut self) {
        self.say_farewell();
        if matches!(self.stage, Stage::Open(_)) {
            self.expire_after(CLOSE_TIMEOUT);
        }
    }

    pub(super) fn approach_farewell(&mut self) {
        let Stage::Open(connection) = &self.stage else {
            return;
        };
        let context = &self.presence.context;
        let is_busy =
            context.common.drain.elapsed() > DRAIN_BUSY.min(context.shared.config.drain.timeout / 2);
        match (self.farewell, connection.is_mid_message()) {
            (Farewell::NotDue | Farewell::Said, _) | (Farewell::Message, true) => {}
            (Farewell::Quiet, true) if is_busy => self.await_message(),
            (Farewell::Quiet | Farewell::Message, false) if is_busy => self.say_farewell(),
            (Farewell::Quiet, _) | (Farewell::Message, false) => {
                self.farewell = Farewell::Quiet;
                self.expire_after(DRAIN_QUIET);
            }
        }
    }

    pub(super) fn await_message(&mut self) {
        self.farewell = Farewell::Message;
        self.expire_after(DRAIN_MESSAGE.min(self.presence.context.shared.config.drain.timeout / 4));
    }

    /// Gives out Close(1001). From then on the peer's is awaited, as long as the drain lasts.
    pub(super) fn say_farewell(&mut self) {
        self.farewell = Farewell::Said;
        self.deadline = None;
        let Stage::Open(connection) = &mut self.stage else {
            return;
        };
        let frame = connection.close(close::GOING_AWAY);
        let is_closed = connection.standing() == Standing::Closed;
        if let Some(frame) = frame {
            let context = &self.presence.context;
            context.stats.drained.add((context.common.drain.phase() > Phase::Running).into());
            context.stats.on_close_sent(close::GOING_AWAY);
            self.queue.push_bytes(&frame, &context.common);
        }
        if is_closed {
            self.flush();
        }
    }
}
