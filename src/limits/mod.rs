//! How many connections there may be: of the process, and of an address. It knows no socket.

mod holders;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use holders::Holders;

pub(crate) use holders::Holder;

/// The connections of the process, counted.
#[derive(Debug)]
pub(crate) struct Limits {
    connections_max: AtomicUsize,
    connections: AtomicUsize,
    holders: Holders,
}

impl Limits {
    /// At most `connections_max` connections, and `per_holder_max` of each address; 0 for any number of these.
    #[must_use]
    pub(crate) fn new(connections_max: usize, per_holder_max: usize) -> Arc<Self> {
        let holders = Holders::new(per_holder_max);
        let connections_max = AtomicUsize::new(connections_max);
        Arc::new(Self { connections_max, connections: AtomicUsize::new(0), holders })
    }

    /// The most connections.
    pub(crate) fn max(&self) -> usize {
        self.connections_max.load(Ordering::Relaxed)
    }

    /// Allows no more than `connections_max` from now on.
    pub(crate) fn lower(&self, connections_max: usize) {
        self.connections_max.fetch_min(connections_max, Ordering::Relaxed);
    }

    /// Whether a further connection would be refused.
    pub(crate) fn is_full(&self) -> bool {
        self.connections.load(Ordering::Relaxed) >= self.max()
    }

    /// Admits one connection more, until the admission is dropped; `None` when there are as many as may be.
    #[must_use]
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Admission> {
        let admitted = self.connections.fetch_add(1, Ordering::Relaxed);
        let admission = Admission { limits: Some(Arc::clone(self)), holder: Holder::NONE };
        (admitted < self.max()).then_some(admission)
    }

    /// Whether connections are counted by their addresses.
    #[must_use]
    pub(crate) const fn counts_holders(&self) -> bool {
        self.holders.are_limited()
    }

    /// Counts an admitted connection among those of an address: what to [`Self::leave`] with; `None` when there are as
    /// many as may be.
    pub(crate) fn count(&self, address: IpAddr) -> Option<Holder> {
        if !self.counts_holders() {
            return Some(Holder::NONE);
        }
        let holder = Holder::of(address);
        self.holders.enter(holder).then_some(holder)
    }

    /// A connection that was admitted has ended.
    pub(crate) fn leave(&self, holder: Holder) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
        if holder != Holder::NONE {
            self.holders.leave(holder);
        }
    }
}

/// A place among the connections of the process.
#[derive(Debug)]
pub(crate) struct Admission {
    /// `None` once somebody else answers for it.
    limits: Option<Arc<Limits>>,
    /// Among whose connections it was counted.
    holder: Holder,
}

impl Admission {
    /// As [`Limits::count`]: whether there is room.
    pub(crate) fn count(&mut self, address: IpAddr) -> bool {
        let counted = self.limits.as_ref().and_then(|limits| limits.count(address));
        self.holder = counted.unwrap_or(self.holder);
        counted.is_some()
    }

    /// Gives the place away: whoever has it says [`Limits::leave`].
    pub(crate) fn into_holder(mut self) -> Holder {
        self.limits = None;
        self.holder
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(limits) = &self.limits {
            limits.leave(self.holder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admissions_are_given_back() {
        let limits = Limits::new(2, 0);
        let first = limits.admit().expect("room");
        let _second = limits.admit().expect("room");
        assert!(limits.admit().is_none());
        drop(first);
        assert!(limits.admit().is_some());
    }

    #[test]
    fn an_address_is_given_back_with_its_admission() {
        let limits = Limits::new(10, 1);
        let address = IpAddr::from([192, 0, 2, 1]);
        let mut first = limits.admit().expect("room");
        assert!(first.count(address));
        let mut second = limits.admit().expect("room");
        assert!(!second.count(address));
        drop(second);
        let holder = first.into_holder();
        assert!(limits.count(address).is_none(), "it counts on");
        limits.leave(holder);
        assert!(limits.admit().expect("room").count(address));
        assert!(limits.admit().expect("room").count(address), "and once more");
        assert_eq!(limits.connections.load(Ordering::Relaxed), 0);
    }
}
