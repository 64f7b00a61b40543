//! How many connections there may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::StartError;
use super::accept::REFUSALS_MAX;
use super::admin;
use crate::config::Config;

/// Descriptors that are not connections: standard streams, listeners, what each worker's runtime opens, and those who
/// are told that there is no room.
const DESCRIPTORS_FIXED: usize = 16;
const DESCRIPTORS_PER_WORKER: usize = 12 + REFUSALS_MAX;

/// The places of a ring's table of files at most: the kernel allocates them all at the start.
const FILES_MAX: usize = 64 << 10;

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

    /// The most connections.
    pub(super) const fn max(&self) -> usize {
        self.connections_max
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
/// [`StartError::Descriptors`] when that is fewer than asked for, or none at all.
pub(crate) fn connections_max(config: &Config, workers: usize) -> Result<usize, StartError> {
    let wanted = config.max_connections;
    let descriptors = descriptors();
    let fixed = DESCRIPTORS_FIXED
        + config.admin.address.map_or(0, |_| admin::DESCRIPTORS_MAX)
        + workers * (DESCRIPTORS_PER_WORKER + config.listen.len());
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

/// As [`connections_max`], for connections that take no descriptor of the process: how many there may be, and how many
/// on one worker. The table of files of each ring is bounded by the limit of descriptors all the same.
///
/// # Errors
///
/// [`StartError::Descriptors`] when there is room for fewer than `wanted`, or none at all.
pub(crate) fn direct_connections_max(
    wanted: Option<usize>,
    workers: usize,
) -> Result<(usize, usize), StartError> {
    let descriptors = descriptors();
    let per_worker = descriptors.min(FILES_MAX).saturating_sub(REFUSALS_MAX);
    let allowed = per_worker.saturating_mul(workers);
    let wanted_or_one = wanted.unwrap_or(1);
    if allowed < wanted_or_one {
        return Err(StartError::Descriptors {
            limit: descriptors,
            needed: wanted_or_one.div_ceil(workers).saturating_add(REFUSALS_MAX),
            wanted,
        });
    }
    Ok((wanted.unwrap_or(allowed), per_worker.min(wanted.unwrap_or(allowed))))
}

/// The limit of descriptors, once the soft limit is as high as the hard one.
fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Raising the soft limit to the hard one needs no privilege; a failure leaves it as it was.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    getrlimit(Resource::Nofile)
        .current
        .map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
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
            let config = Config { max_connections: Some(wanted), ..Config::default() };
            let error = connections_max(&config, 2).unwrap_err();
            assert!(error.to_string().contains("ulimit -n"), "{error}");
        }
        let mut config = Config::default();
        let without = connections_max(&config, 2).unwrap();
        config.admin.address = Some(([127, 0, 0, 1], 0).into());
        let with = connections_max(&config, 2).unwrap();
        assert!(with > 0 && without == with + admin::DESCRIPTORS_MAX, "{without} and {with}");
    }
}
