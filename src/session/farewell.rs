//! How an open connection is looked after, and how it is told that the server ends it: by Close(1001).

use std::net::IpAddr;
use std::time::Duration;

use super::keep_alive::{Finding, Sight};
use super::peer::Peer;
use super::{Session, Stage};
use crate::engine::Phase;
use crate::proto::Standing;
use crate::proto::close::{GOING_AWAY, POLICY_VIOLATION};

/// At a drain, what arrives within this time of the last bytes counts as received before.
const DRAIN_QUIET: Duration = Duration::from_millis(50);

/// At a drain, how long a peer that never pauses is echoed: no longer than half of the drain's timeout. From then on
/// its Close is due at the next end of a message.
const DRAIN_BUSY: Duration = Duration::from_secs(1);

/// At a drain, how long the rest of a message that has begun, or the header of a proxy, is waited for: no longer than a
/// quarter of its timeout.
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

impl Session {
    /// Looks whether the peer of an open connection is still there.
    ///
    /// `address` is asked for the peer's address where that is to be logged.
    pub(super) fn look(&mut self, address: impl FnOnce() -> Option<IpAddr>) {
        let is_unread = !self.may_read();
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
            Finding::Gone | Finding::Idle if is_unread && sight.is_owed => {
                let is_alone = self.queue.unsent() + connection.gathered() >= self.unread_from();
                let cause = if is_alone { "unsent_limit" } else { "unsent_total" };
                let peer = Peer::new(self.presence.address(address));
                context.log_unread(cause, self.queue.unsent(), peer);
                context.stats.unread_timeouts.add(1);
                self.dismiss(POLICY_VIOLATION);
            }
            Finding::Gone => {
                tracing::debug!("a peer neither answers a ping nor takes anything");
                context.stats.keep_alive_timeouts.add(1);
                self.dismiss(GOING_AWAY);
            }
            Finding::Idle => {
                tracing::debug!("a peer has nothing to say");
                context.stats.idle_timeouts.add(1);
                self.dismiss(GOING_AWAY);
            }
        }
    }

    /// At a drain a connection that has not begun begins soon or not at all.
    pub(super) fn hasten_beginning(&mut self) {
        let context = &self.presence.context;
        if context.common.drain.phase() == Phase::Running {
            return;
        }
        let soon = context.common.clock.after(DRAIN_MESSAGE.min(context.shared.config.drain.timeout / 4));
        self.deadline = self.deadline.map(|deadline| deadline.min(soon));
    }

    /// Gives out a Close outside of a drain.
    fn dismiss(&mut self, code: u16) {
        self.say_farewell(code);
        if matches!(self.stage, Stage::Open(_)) {
            self.begin_end();
        }
    }

    pub(super) fn approach_farewell(&mut self) {
        let Stage::Open(connection) = &self.stage else {
            return;
        };
        let context = &self.presence.context;
        let is_busy =
            context.common.phase_elapsed() > DRAIN_BUSY.min(context.shared.config.drain.timeout / 2);
        match (self.farewell, connection.is_mid_message()) {
            (Farewell::NotDue | Farewell::Said, _) | (Farewell::Message, true) => {}
            (Farewell::Quiet, true) if is_busy => self.await_message(),
            (Farewell::Quiet | Farewell::Message, false) if is_busy => self.say_farewell(GOING_AWAY),
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

    /// Gives out a Close. From then on the peer's is awaited, at a drain as long as that lasts.
    pub(super) fn say_farewell(&mut self, code: u16) {
        self.farewell = Farewell::Said;
        self.deadline = None;
        let Stage::Open(connection) = &mut self.stage else {
            return;
        };
        let frame = connection.close(code);
        let is_closed = connection.standing() == Standing::Closed;
        if let Some(frame) = frame {
            let context = &self.presence.context;
            context.stats.drained.add((context.common.drain.phase() > Phase::Running).into());
            context.stats.on_close_sent(code);
            self.queue.push_bytes(&frame, &context.common);
        }
        if is_closed {
            self.flush();
        }
    }
}
