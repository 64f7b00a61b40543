//! What an engine sees of the server: a [`Session`] is what it drives, [`Serving`] where the ring's worker gets them.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::{REFUSALS_MAX, Session, WorkerWide};
use crate::engine::ring::{self, Service};
use crate::engine::{Class, Handler, Moment, Outgoing, PAUSE, Phase, Received};

/// How often the log says so at most: whoever can use up the descriptors could fill the log too.
pub(crate) const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What an idle connection takes, in bytes, all of it in its place of the worker's table: the protocol's state, with the
/// session around it, and what is under way.
const _: () = {
    let protocol = size_of::<crate::proto::Connection>();
    let session = size_of::<Session>() - protocol;
    let place = ring::place_size::<Session>();
    let under_way = place - session - protocol;
    assert!(protocol <= 64 && session <= 88 && under_way <= 40);
    assert!(protocol + session + under_way <= 184);
};

/// A worker of the server.
pub(crate) struct Serving {
    context: Rc<WorkerWide>,
    phase: watch::Receiver<Phase>,
    /// When it was last logged that accepting pauses.
    logged: Option<Instant>,
}

impl Serving {
    pub(crate) const fn new(context: Rc<WorkerWide>, phase: watch::Receiver<Phase>) -> Self {
        Self { context, phase, logged: None }
    }
}

impl Service for Serving {
    type Handler = Session;

    fn accepted(&mut self, peer: Option<IpAddr>) -> Session {
        let context = &self.context;
        let (start, admission) = context.receive(peer);
        Session::new(start, context, admission)
    }

    fn asks_for_peers(&self) -> bool {
        self.context.shared.limits.counts_holders()
    }

    fn may_accept(&self) -> bool {
        self.context.refusals_under_way() < REFUSALS_MAX
    }

    fn on_accept_paused(&mut self, error: Option<&io::Error>) {
        self.context.stats.accept_pauses.add(1);
        if let Some(error) = error
            && self.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL)
        {
            self.logged = Some(Instant::now());
            tracing::warn!(%error, pause = ?PAUSE, "accepting pauses");
        }
    }

    fn on_accepting_changed(&mut self, is_paused: bool) {
        self.context.stats.gauges.accept_paused.set(is_paused.into());
    }

    fn phase(&mut self) -> Phase {
        // A server that was dropped is stopping.
        let phase = if self.phase.has_changed().is_err() { Phase::Stopping } else { *self.phase.borrow() };
        if phase > self.context.common.drain.phase() {
            self.context.common.enter_phase(phase);
        }
        phase
    }

    fn now(&self) -> u64 {
        self.context.common.clock.elapsed_millis()
    }
}

impl Handler for Session {
    #[inline]
    fn on_received(&mut self, received: Received) -> usize {
        let (result, buffer) = match received {
            Ok(Some((buffer, len))) => (Ok(len), Some(buffer)),
            Ok(None) => (Ok(0), None),
            Err(error) => (Err(error), None),
        };
        self.on_received(result, buffer) as usize
    }

    #[inline]
    fn may_receive(&mut self) -> bool {
        let may = self.may_read();
        if !may {
            self.on_not_read();
        }
        may
    }

    fn receives_singly(&self) -> bool {
        self.is_careful()
    }

    #[inline]
    fn class(&self) -> Class {
        self.class()
    }

    #[inline]
    fn next_outgoing(&mut self) -> Option<Outgoing> {
        self.next_outgoing()
    }

    #[inline]
    fn on_sent(&mut self, result: io::Result<()>, outgoing: Outgoing) {
        self.on_sent(&result, outgoing);
        if self.unsent() == 0 {
            self.set_slow(self.is_careful());
        }
    }

    fn on_sent_in_part(&mut self, outgoing: Outgoing, sent: usize, must_spill: bool) {
        self.set_slow(true);
        self.on_sent_in_part(outgoing, sent, must_spill);
    }

    fn on_behind(&mut self) {
        self.give_up_buffers();
    }

    #[inline]
    fn awaits_sent(&self) -> bool {
        self.awaits_sent()
    }

    fn ends_writing(&mut self) -> bool {
        let ends = self.should_end_writing();
        if ends {
            self.on_writing_ended();
        }
        ends
    }

    #[inline]
    fn deadline(&self) -> Option<u64> {
        self.deadline().map(Moment::millis)
    }

    fn on_deadline(&mut self, peer: impl FnOnce() -> Option<IpAddr>) {
        self.on_deadline(peer);
    }

    fn asks_untaken(&self) -> bool {
        self.asks_untaken()
    }

    fn on_untaken(&mut self, untaken: Option<u32>) {
        self.on_untaken(untaken);
    }

    fn on_phase(&mut self, phase: Phase) {
        self.on_phase(phase);
    }

    #[inline]
    fn is_over(&self) -> bool {
        self.is_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::task_size;

    /// With what tokio adds to it (some 110 bytes) a task takes 512 bytes, and its socket's registration 256.
    #[test]
    fn an_idle_connection_is_small() {
        let size = task_size::<Session>();
        assert!(size <= 400, "{size} bytes");
    }
}
