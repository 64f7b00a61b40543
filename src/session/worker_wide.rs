//! What all connections of a worker share. It never leaves the worker's thread.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::keep_alive::Terms;
use super::notices::Notices;
use super::{ProcessWide, Start};
use crate::counters::WorkerCounters;
use crate::engine::{Bounds, Common, Phase};
use crate::limits::{Admission, Holder};
use crate::memory::Budget;
use crate::proto::Settings;
use crate::proto::handshake::Refusal;

/// How many connections beyond the limit are being told so, per worker; further ones wait in the backlog.
pub(crate) const REFUSALS_MAX: usize = 16;

/// How many of those who are being told that there is no room may be told so for their address.
const ADDRESS_REFUSALS_MAX: usize = REFUSALS_MAX / 2;

/// What all connections of a worker share.
pub(crate) struct WorkerWide {
    pub(crate) shared: Arc<ProcessWide>,
    pub(crate) stats: Arc<WorkerCounters>,
    pub(crate) common: Rc<Common>,
    pub(super) terms: Terms,
    pub(super) settings: Rc<Settings>,
    /// What was logged lately.
    pub(super) notices: Notices,
    connections: Cell<usize>,
    refusals: Cell<usize>,
}

impl WorkerWide {
    /// The context of a worker that has no connections yet, and whose engine receives one buffer at a time if it
    /// `receives_singly`.
    pub(crate) fn new(shared: &Arc<ProcessWide>, stats: Arc<WorkerCounters>, receives_singly: bool) -> Self {
        let config = &shared.config;
        let budget = Budget::told(Arc::clone(&shared.unsent), Arc::clone(&stats.gauges.unsent_bytes));
        let bounds = Bounds {
            receive_buffer_size: config.receive_buffer_size,
            unsent_limit: config.unsent_limit,
            flush_timeout: config.flush_timeout,
        };
        let mut common = Common::with_budget(bounds, Rc::clone(&budget), Arc::clone(&stats.engine));
        if receives_singly {
            common.receive_singly();
        }
        Self {
            common: Rc::new(common),
            shared: Arc::clone(shared),
            stats,
            terms: Terms::new(&config.keep_alive),
            settings: Rc::new(Settings {
                whole_frame_max: config.whole_frame_max,
                max_message_size: config.max_message_size,
                budget,
            }),
            notices: Notices::default(),
            connections: Cell::new(0),
            refusals: Cell::new(0),
        }
    }

    /// How many connections are being told that there is no room for them.
    pub(crate) fn refusals_under_way(&self) -> usize {
        self.refusals.get()
    }

    /// How a connection that was just accepted begins, and whether it has a place. `peer` is its address, where it has one
    /// and that is known.
    pub(crate) fn receive(&self, peer: Option<IpAddr>) -> (Start, Option<Admission>) {
        let shared = &*self.shared;
        self.stats.accepted.add(1);
        tracing::debug!(peer = peer.map(tracing::field::display), "connection accepted");
        // Behind a proxy, whose address it is, even a refusal waits for the header.
        let is_proxied = shared.config.access.proxy_protocol.versions().is_some();
        let proxied = is_proxied.then_some(Start::Proxied { peer });
        if self.common.phase() != Phase::Running {
            return (proxied.unwrap_or(Start::Refuse { refusal: Refusal::Draining, peer }), None);
        }
        let Some(mut admission) = shared.limits.admit() else {
            return (proxied.unwrap_or(Start::Refuse { refusal: Refusal::Full, peer }), None);
        };
        if let Some(proxied) = proxied {
            return (proxied, Some(admission));
        }
        match peer {
            Some(peer) if !admission.count(peer) => {
                // A connection that is refused waits for its peer to end. One address must not use all refusals up.
                let is_told = self.refusals_under_way() < ADDRESS_REFUSALS_MAX;
                let (refusal, peer) = (Refusal::TooManyFromAddress, Some(peer));
                (if is_told { Start::Refuse { refusal, peer } } else { Start::Drop { peer } }, None)
            }
            peer => (Start::Handshake { peer }, Some(admission)),
        }
    }

    /// Says how many connections have a place, and how many are told that there is none.
    fn gauge_connections(&self) {
        let refusals = self.refusals.get();
        self.stats.gauges.connections.set(self.connections.get() - refusals);
        self.stats.gauges.refusals.set(refusals);
    }

    /// Counts a connection until the presence is dropped. One that was not admitted is about to be refused.
    pub(super) fn enter(self: &Rc<Self>, admission: Option<Admission>) -> Presence {
        self.connections.set(self.connections.get() + 1);
        self.refusals.set(self.refusals.get() + usize::from(admission.is_none()));
        self.gauge_connections();
        Presence { context: Rc::clone(self), admission: admission.map(Admission::into_holder) }
    }
}

/// A connection of this worker.
pub(super) struct Presence {
    pub(super) context: Rc<WorkerWide>,
    /// Among whose connections it was admitted.
    admission: Option<Holder>,
}

impl Presence {
    /// The address of its peer, as far as that is known: the one that it is counted by, else the socket's, which behind a
    /// proxy is not its own.
    pub(super) fn address(&self, of_socket: impl FnOnce() -> Option<IpAddr>) -> Option<IpAddr> {
        let counted = self.admission.and_then(Holder::address);
        let is_proxied = self.context.shared.config.access.proxy_protocol.versions().is_some();
        counted.or_else(|| of_socket().filter(|_| !is_proxied))
    }

    /// With what its request is refused, whatever it may ask for.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        match (self.context.common.phase(), self.admission) {
            (Phase::Running, Some(_)) => None,
            (Phase::Running, None) => Some(Refusal::Full),
            _ => Some(Refusal::Draining),
        }
    }

    /// Counts it among the connections of an address, once that is known. `false` when there are as many as may be.
    pub(super) fn count(&mut self, address: IpAddr) -> bool {
        let counted = self.context.shared.limits.count(address);
        if counted.is_some() && self.admission.is_some() {
            self.admission = counted;
        }
        counted.is_some()
    }

    /// It is about to be refused, though it was admitted: its place is for others. `false` when as many are being refused for
    /// their address as may be told so.
    pub(super) fn give_place_back(&mut self) -> bool {
        let context = &self.context;
        if let Some(holder) = self.admission.take() {
            context.shared.limits.leave(holder);
            context.refusals.set(context.refusals.get() + 1);
            context.gauge_connections();
        }
        context.refusals_under_way() <= ADDRESS_REFUSALS_MAX
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let context = &self.context;
        context.stats.ended.add(1);
        tracing::debug!("connection ended");
        if let Some(holder) = self.admission {
            context.shared.limits.leave(holder);
        }
        context.refusals.set(context.refusals.get() - usize::from(self.admission.is_none()));
        context.connections.set(context.connections.get() - 1);
        context.gauge_connections();
    }
}
