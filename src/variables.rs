//! Environment variables that are no options. An empty one is unset.

use std::env;
use std::ffi::OsString;

use crate::mask::Kernel;

/// Which lines are logged.
pub const LOG: &str = "RUST_LOG";

/// Where a service manager is told that the server is ready, and that it stops (sd_notify(3)).
pub const NOTIFY: &str = "NOTIFY_SOCKET";

/// More sockets than systemd hands over to one service.
const HANDED_OVER_MAX: usize = 1024;

/// A variable whose value cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{name}={value:?}: {why}")]
pub struct BadVariable {
    name: &'static str,
    value: String,
    why: String,
}

impl BadVariable {
    pub(crate) fn new(name: &'static str, value: impl Into<String>, why: impl Into<String>) -> Self {
        Self { name, value: value.into(), why: why.into() }
    }
}

/// Reads a variable; `None` if it is unset or empty.
///
/// # Errors
///
/// When its value is not UTF-8.
pub fn read(name: &'static str) -> Result<Option<String>, BadVariable> {
    let Some(value) = env::var_os(name).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let not_utf8 = |value: OsString| BadVariable::new(name, value.to_string_lossy(), "is not UTF-8");
    value.into_string().map(Some).map_err(not_utf8)
}

/// Reads which masking kernel is asked for.
///
/// # Errors
///
/// When there is none of that name, or not on this CPU.
pub fn mask() -> Result<Option<Kernel>, BadVariable> {
    let name = read(Kernel::VARIABLE)?;
    Kernel::requested()
        .map_err(|error| BadVariable::new(Kernel::VARIABLE, name.unwrap_or_default(), error.to_string()))
}

/// How many sockets a service manager hands over: those of `LISTEN_FDS`, when `LISTEN_PID` says that they are for this
/// process (sd_listen_fds(3)).
///
/// # Errors
///
/// When one of the two is no such number.
pub fn handed_over() -> Result<usize, BadVariable> {
    let Some(process) = read("LISTEN_PID")? else {
        return Ok(0);
    };
    let Ok(number) = process.parse::<u32>() else {
        let why = "is no number of a process; unset it, or start the server by a .socket unit";
        return Err(BadVariable::new("LISTEN_PID", process, why));
    };
    if number != std::process::id() {
        return Ok(0);
    }
    let Some(count) = read("LISTEN_FDS")? else {
        return Ok(0);
    };
    match count.parse() {
        Ok(number @ ..=HANDED_OVER_MAX) => Ok(number),
        _ => {
            let why = format!("is no number of sockets, 0 to {HANDED_OVER_MAX}");
            Err(BadVariable::new("LISTEN_FDS", count, why))
        }
    }
}

/// Whether a service manager wants to be told how the server is.
///
/// # Errors
///
/// When `NOTIFY_SOCKET` is no address of a socket.
pub fn has_manager() -> Result<bool, BadVariable> {
    let Some(socket) = read(NOTIFY)? else {
        return Ok(false);
    };
    if socket.starts_with(['/', '@']) && (2..=107).contains(&socket.len()) {
        return Ok(true);
    }
    let why = "is no unix socket: give a path from / on, or @ and a name, of 107 bytes at most; or unset it";
    Err(BadVariable::new(NOTIFY, socket, why))
}

/// Whether it is one of those that Kubernetes, and Docker's links before, make in each container for a service whose name
/// begins with ours: `RINGBACK_SERVICE_HOST`, `RINGBACK_PORT=tcp://…`, `RINGBACK_PORT_9001_TCP_ADDR`.
#[must_use]
pub fn is_of_a_service(name: &str, value: &str) -> bool {
    let has_number = |rest: &str| rest.starts_with(|first: char| first.is_ascii_digit());
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && value.contains("://"))
        || name.split("_PORT_").skip(1).any(has_number)
}
