//! How a connection ends (RFC 6455 §7.1.1).
//!
//! The last bytes are sent, then the write side is shut, then what still comes is read and dropped until the peer ends
//! too. Closing at once would make the kernel answer unread bytes with RST, and the peer would lose our Close.
//!
//! A peer that takes its last bytes slowly gets all of them. Now and then the session looks at what the peer has taken
//! since the last time: bytes that it has confirmed, where the kernel can tell, or sends that went out. Only a peer that
//! has taken nothing for `--flush-timeout` is cut.

use std::time::Duration;

use super::keep_alive::{LOOKS, millis};
use super::{Session, Stage};

/// How long the peer's answer is awaited once it has taken everything: its Close after our Close(1001), its end of TCP
/// after ours.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How many bytes are read and dropped before our write side is shut, and after.
pub(super) const DISCARD_MAX: usize = 4 << 20;

impl Session {
    /// Whether everything is sent that ever will be.
    pub(super) const fn should_end_writing(&self) -> bool {
        matches!(self.stage, Stage::Flushing { .. }) && self.queue.unsent() == 0
    }

    /// The write side is shut.
    pub(super) fn on_writing_ended(&mut self) {
        if matches!(self.stage, Stage::Flushing { .. }) {
            self.stage = if self.end_of_stream { Stage::Over } else { Stage::Lingering { discarded: 0 } };
            self.begin_end();
        }
    }

    /// Nothing more is to be said: send what is queued, then end.
    pub(super) fn flush(&mut self) {
        if !matches!(self.stage, Stage::Flushing { .. }) {
            self.stage = Stage::Flushing { discarded: 0 };
            self.begin_end();
        }
    }

    /// Begins to look at how the peer takes the last bytes.
    pub(super) fn begin_end(&mut self) {
        self.watch.begin_end(self.presence.context.common.clock.now().millis_modulo());
        self.queue.on_untaken(None);
        self.expire_after(self.end_step(matches!(self.stage, Stage::Flushing { .. })));
    }

    /// Looks at what the peer has taken, and cuts it when that was nothing for too long.
    pub(super) fn look_at_end(&mut self) {
        let context = &*self.presence.context;
        let now = context.common.clock.now().millis_modulo();
        let idle = Duration::from_millis(self.watch.look_at_end(now).into());
        let is_owed = self.is_owed_at_end();
        let step = self.end_step(is_owed);
        let can_tell = self.queue.untaken().is_some();
        let patience = match (is_owed, can_tell, context.shared.config.flush_timeout) {
            (false, true, _) => ANSWER_TIMEOUT,
            // All is in the kernel, which may still have much of it.
            (false, false, timeout) => timeout.max(ANSWER_TIMEOUT),
            (true, _, Duration::ZERO) => Duration::MAX,
            (true, true, timeout) => timeout,
            // What a send of this moment shows is known at the next look.
            (true, false, timeout) => timeout + step,
        };
        if idle >= patience {
            return self.cut();
        }
        self.expire_after(step.min(patience - idle));
    }

    /// Ends the connection at once.
    pub(super) fn cut(&mut self) {
        self.presence.context.stats.cuts.add(self.was_open.into());
        self.end();
    }

    /// Whether there is something that the peer has not taken.
    fn is_owed_at_end(&self) -> bool {
        let is_flushing = matches!(self.stage, Stage::Flushing { .. });
        is_flushing || self.queue.unsent() > 0 || self.queue.untaken() > Some(0)
    }

    /// The time from one look to the next.
    fn end_step(&self, is_owed: bool) -> Duration {
        let flush_timeout = self.presence.context.shared.config.flush_timeout;
        let timeout = if is_owed && !flush_timeout.is_zero() { flush_timeout } else { ANSWER_TIMEOUT };
        Duration::from_millis((millis(timeout) / LOOKS).max(1).into())
    }
}
