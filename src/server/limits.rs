//! How many connections there may be.

use std::io;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::StartError;
use super::accept::REFUSALS_MAX;
use super::admin;
use super::sources::{Source, Sources};
use crate::config::Config;

/// Descriptors that are not connections: standard streams, listeners, what each worker's runtime opens, and those who
/// are told that there is no room.
const DESCRIPTORS_FIXED: usize = 16;
const DESCRIPTORS_PER_WORKER: usize = 12 + REFUSALS_MAX;

/// Memory that a server may need at its start, in bytes, most of it addresses: of stacks, and what the allocator reserves.
/// With less, whatever comes last fails, and not all of that can be answered.
const MEMORY_MIN: usize = 96 << 20;

/// The places of a ring's table of files at most: the kernel allocates them all at the start.
const FILES_MAX: usize = 64 << 10;

/// The connections of the process, counted.
#[derive(Debug)]
pub struct Limits {
    connections_max: AtomicUsize,
    connections: AtomicUsize,
    sources: Sources,
}

impl Limits {
    /// At most `connections_max` connections, and `per_source_max` of each address; 0 for any number of these.
    #[must_use]
    pub fn new(connections_max: usize, per_source_max: usize) -> Arc<Self> {
        let sources = Sources::new(per_source_max);
        let connections_max = AtomicUsize::new(connections_max);
        Arc::new(Self { connections_max, connections: AtomicUsize::new(0), sources })
    }

    /// The most connections.
    pub(super) fn max(&self) -> usize {
        self.connections_max.load(Ordering::Relaxed)
    }

    /// Allows no more than `connections_max` from now on.
    pub(super) fn lower(&self, connections_max: usize) {
        self.connections_max.fetch_min(connections_max, Ordering::Relaxed);
    }

    /// Whether a further connection would be refused.
    pub(super) fn is_full(&self) -> bool {
        self.connections.load(Ordering::Relaxed) >= self.max()
    }

    /// Admits one connection more, until the admission is dropped; `None` when there are as many as may be.
    #[must_use]
    pub fn admit(self: &Arc<Self>) -> Option<Admission> {
        let admitted = self.connections.fetch_add(1, Ordering::Relaxed);
        let admission = Admission { limits: Some(Arc::clone(self)), source: Source::NONE };
        (admitted < self.max()).then_some(admission)
    }

    /// Whether connections are counted by their addresses.
    #[must_use]
    pub const fn counts_sources(&self) -> bool {
        self.sources.are_limited()
    }

    /// Counts an admitted connection among those of an address: what to [`Self::leave`] with; `None` when there are as
    /// many as may be.
    pub(crate) fn count(&self, address: IpAddr) -> Option<Source> {
        if !self.counts_sources() {
            return Some(Source::NONE);
        }
        let source = Source::of(address);
        self.sources.enter(source).then_some(source)
    }

    /// A connection that was admitted has ended.
    pub(crate) fn leave(&self, source: Source) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
        if source != Source::NONE {
            self.sources.leave(source);
        }
    }
}

/// A place among the connections of the process.
#[derive(Debug)]
pub struct Admission {
    /// `None` once somebody else answers for it.
    limits: Option<Arc<Limits>>,
    /// Among whose connections it was counted.
    source: Source,
}

impl Admission {
    /// As [`Limits::count`]: whether there is room.
    pub(crate) fn count(&mut self, address: IpAddr) -> bool {
        let counted = self.limits.as_ref().and_then(|limits| limits.count(address));
        self.source = counted.unwrap_or(self.source);
        counted.is_some()
    }

    /// Gives the place away: whoever has it says [`Limits::leave`].
    pub(crate) fn into_source(mut self) -> Source {
        self.limits = None;
        self.source
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(limits) = &self.limits {
            limits.leave(self.source);
        }
    }
}

/// Tries what could not be refused later without a panic: memory, and what a runtime of tokio opens for signals.
///
/// # Errors
///
/// When the limit of descriptors is too low for any server, or the system refuses something.
pub fn check_resources() -> Result<(), StartError> {
    let out_of_memory = |_| io::Error::from(Errno::NOMEM);
    Vec::<u8>::new()
        .try_reserve_exact(MEMORY_MIN)
        .map_err(out_of_memory)
        .map_err(StartError::refused(format!("{} MiB of memory", MEMORY_MIN >> 20)))?;
    let limit = descriptors();
    if limit <= DESCRIPTORS_FIXED {
        return Err(StartError::Descriptors { limit, needed: DESCRIPTORS_FIXED + 1, wanted: None });
    }
    let open = || {
        let (socket, _other) = UnixStream::pair()?;
        let more: io::Result<Vec<_>> = (0..4).map(|_| socket.try_clone()).collect();
        more.map(drop)
    };
    open().map_err(StartError::refused("the sockets that signals need"))
}

/// What takes descriptors beside connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptors {
    pub(crate) workers: usize,
    /// How many sockets were inherited.
    pub(crate) inherited: usize,
}

impl Descriptors {
    /// How many connections the limit of descriptors allows, once the soft limit is as high as the hard one.
    ///
    /// # Errors
    ///
    /// [`StartError::Descriptors`] when that is fewer than asked for, or none at all.
    pub(crate) fn connections_max(self, config: &Config) -> Result<usize, StartError> {
        let Self { workers, inherited } = self;
        let wanted = config.max_connections;
        let descriptors = descriptors();
        let fixed = DESCRIPTORS_FIXED
            + config.admin.address.map_or(0, |_| admin::DESCRIPTORS_MAX)
            + workers * (DESCRIPTORS_PER_WORKER + config.listening.addresses.len() + inherited);
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
}

/// As [`Descriptors::connections_max`], for connections that take no descriptor of the process: how many there may be, and how many
/// on one worker. The table of files of each ring is bounded by the limit of descriptors all the same.
///
/// # Errors
///
/// [`StartError::Descriptors`] when there is room for fewer than `wanted`, or none at all.
pub(crate) fn direct_connections_max(
    wanted: Option<usize>,
    workers: usize,
) -> Result<(usize, usize), StartError> {
    let per_worker = files_max().saturating_sub(REFUSALS_MAX);
    let allowed = per_worker.saturating_mul(workers);
    let wanted_or_one = wanted.unwrap_or(1);
    if allowed < wanted_or_one {
        return Err(StartError::Descriptors {
            limit: descriptors(),
            needed: wanted_or_one.div_ceil(workers).saturating_add(REFUSALS_MAX),
            wanted,
        });
    }
    Ok((wanted.unwrap_or(allowed), per_worker.min(wanted.unwrap_or(allowed))))
}

/// How many places the table of files of a ring may have.
pub(super) fn files_max() -> usize {
    descriptors().min(FILES_MAX)
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
        let source = first.into_source();
        assert!(limits.count(address).is_none(), "it counts on");
        limits.leave(source);
        assert!(limits.admit().expect("room").count(address));
        assert!(limits.admit().expect("room").count(address), "and once more");
        assert_eq!(limits.connections.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn more_connections_than_descriptors_are_refused() {
        let of_two = Descriptors { workers: 2, inherited: 0 };
        for wanted in [usize::MAX / 2, usize::MAX] {
            let config = Config { max_connections: Some(wanted), ..Config::default() };
            let error = of_two.connections_max(&config).unwrap_err();
            assert!(error.to_string().contains("ulimit -n"), "{error}");
        }
        let mut config = Config::default();
        let without = of_two.connections_max(&config).unwrap();
        config.admin.address = Some(([127, 0, 0, 1], 0).into());
        let with = of_two.connections_max(&config).unwrap();
        assert!(with > 0 && without == with + admin::DESCRIPTORS_MAX, "{without} and {with}");
    }
}
