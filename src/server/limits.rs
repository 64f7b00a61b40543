//! How many connections there may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::StartError;
use super::accept::REFUSALS_MAX;

/// Descriptors that are not connections: standard streams, listeners, what each worker's runtime opens, and those who
/// are told that there is no room.
const DESCRIPTORS_FIXED: usize = 16;
const DESCRIPTORS_PER_WORKER: usize = 12 + REFUSALS_MAX;

/// The connections of the process, counted.
#[derive(Debug)]
pub struct Limits {
    connections_max: usize,
    connections: AtomicUsize,
}

impl Limits {
    /// At most `connections_max` connections.
    #[must_use]
    pub fn new(connections_max: usize) -> Arc<Self> {
        Arc::new(Self { connections_max, connections: AtomicUsize::new(0) })
    }

    /// Admits one connection more, until the admission is dropped; `None` when there are as many as may be.
    #[must_use]
    pub fn admit(self: &Arc<Self>) -> Option<Admission> {
        let admitted = self.connections.fetch_add(1, Ordering::Relaxed);
        let admission = Admission(Arc::clone(self));
        (admitted < self.connections_max).then_some(admission)
    }
}

/// A place among the connections of the process.
#[derive(Debug)]
pub struct Admission(Arc<Limits>);

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many connections the limit of descriptors allows, once the soft limit is as high as the hard one.
///
/// # Errors
///
/// [`StartError::Descriptors`] when that is fewer than `wanted`, or none at all.
pub(super) fn connections_max(
    wanted: Option<usize>,
    workers: usize,
    listeners: usize,
) -> Result<usize, StartError> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Raising the soft limit to the hard one needs no privilege; a failure leaves it as it was.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    let descriptors = getrlimit(Resource::Nofile)
        .current
        .map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let fixed = DESCRIPTORS_FIXED + workers * (DESCRIPTORS_PER_WORKER + listeners);
    let allowed = descriptors.saturating_sub(fixed);
    let wanted_or_one = wanted.unwrap_or(1);
    if allowed < wanted_or_one {
        return Err(StartError::Descriptors {
            limit: descriptors,
            needed: fixed.saturating_add(wanted_or_one),
            wanted,
        });
    }
    Ok(wanted.unwrap_or(allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admissions_are_given_back() {
        let limits = Limits::new(2);
        let first = limits.admit().expect("room");
        let _second = limits.admit().expect("room");
        assert!(limits.admit().is_none());
        drop(first);
        assert!(limits.admit().is_some());
    }

    #[test]
    fn more_connections_than_descriptors_are_refused() {
        for wanted in [usize::MAX / 2, usize::MAX] {
            let error = connections_max(Some(wanted), 2, 1).unwrap_err();
            assert!(error.to_string().contains("ulimit -n"), "{error}");
        }
        assert!(connections_max(None, 2, 1).unwrap() > 0);
    }
}
