//! What an engine sees of the server: a [`Session`] is what it drives, [`Serving`] where it gets them.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{REFUSALS_MAX, Session, WorkerWide};
use crate::engine::ring::RingDriver;
use crate::engine::{PAUSE, Phase, PhaseCell, Service, Worker};

/// The least time between two such lines of the log: a client that uses the descriptors up could fill the log too.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What an idle connection takes, in bytes, all of it in its place of the worker's table: the protocol's state, with the
/// session around it, and what is under way.
const _: () = {
    let protocol = size_of::<crate::proto::Connection>();
    let session = size_of::<Session>() - protocol;
    let place = Worker::<RingDriver, Session>::PLACE;
    assert!(protocol <= 64 && session <= 32);
    assert!(place <= 176);
};

/// A worker of the server.
pub(crate) struct Serving {
    context: Rc<WorkerWide>,
    phase: Arc<PhaseCell>,
    /// When it was last logged that accepting pauses.
    logged: Option<Instant>,
}

impl Serving {
    pub(crate) const fn new(context: Rc<WorkerWide>, phase: Arc<PhaseCell>) -> Self {
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
        self.phase.phase()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tokio_uring::task_size;

    /// tokio adds some 110 bytes to it.
    #[test]
    fn an_idle_connection_is_small() {
        let size = task_size::<Session>();
        assert!(size <= 544, "{size} bytes");
    }
}
