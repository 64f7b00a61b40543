//! How many connections the limits of the system leave room for, and whether they leave room for a server at all.

use std::io;
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::StartError;
use super::admin;
use crate::config::Config;
use crate::proto::handshake::{Handshake, Rules, page_response};
use crate::session::REFUSALS_MAX;

/// Descriptors that are not connections: standard streams, listeners, what each worker's engine opens, and those who
/// are told that there is no room.
const DESCRIPTORS_FIXED: usize = 16;
const DESCRIPTORS_PER_WORKER: usize = 12 + REFUSALS_MAX;

/// Memory that a server may need at its start, in bytes, most of it addresses: of stacks, and what the allocator reserves.
/// With less, whatever comes last fails, and not all of that can be answered.
const MEMORY_MIN: usize = 96 << 20;

/// A date as HTTP writes it: all are of one length.
const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// The places of a ring's table of files at most: the kernel allocates them all at the start.
const FILES_MAX: usize = 64 << 10;

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

/// The bytes of memory that one request may take before its connection is open: its head in pieces, or the longer form of
/// the page.
pub(super) fn request_max(rules: &Rules) -> usize {
    let page = page_response(&rules.page, true, false, DATE);
    Handshake::held_max(rules.head_max).max(page.len())
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

    /// `/readyz` would never say otherwise.
    #[test]
    fn the_least_total_has_room_for_a_request() {
        for path in ["/ws".to_owned(), format!("/{}", "\"".repeat(10_000)), "/\u{FC}".repeat(5_000)] {
            for (max_size, receive_buffer_size) in [(1 << 10, 1 << 10), (64 << 10, 64 << 10)] {
                let mut config = Config { receive_buffer_size, ..Config::default() };
                (config.head.max_size, config.access.paths) = (max_size, vec![path.clone()]);
                let rules = crate::server::rules(&config);
                let page = page_response(&rules.page, true, false, DATE).len();
                let needed = Handshake::held_max(max_size) + page + receive_buffer_size;
                assert!(config.unsent_total_min() >= needed, "{needed} bytes, a path of {}", path.len());
                assert!(config.unsent_total_min() >= request_max(&rules));
            }
        }
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
