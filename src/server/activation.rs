//! Listening sockets that whoever started the process has opened for it: systemd's socket activation
//! (sd_listen_fds(3)).

use std::os::fd::OwnedFd;

use listenfd::ListenFd;
use socket2::{Domain, Socket};

use super::StartError;
use crate::config::Address;
use crate::variables;

/// Where the descriptors begin: behind the standard streams.
const FIRST: usize = 3;

/// A listening socket that was handed over, and where it listens.
#[derive(Debug)]
pub struct Inherited {
    pub(super) socket: Socket,
    pub(super) address: Address,
}

/// Takes the sockets that `LISTEN_FDS` speaks of, when `LISTEN_PID` says that they are for this process; none
/// otherwise. They are closed at an exec(3) from then on, and the two variables are gone.
///
/// It has to be called before there are threads, and once.
///
/// # Errors
///
/// [`StartError::Inherited`] when one is no listening stream socket of TCP or the unix family.
pub fn inherited() -> Result<Vec<Inherited>, StartError> {
    if variables::handed_over()? == 0 {
        return Ok(Vec::new());
    }
    let names = variables::read("LISTEN_FDNAMES")?.unwrap_or_default();
    let mut names = names.split(':').filter(|name| !name.is_empty());
    let mut descriptors = ListenFd::from_env();
    (0..descriptors.len())
        .map(|index| {
            let name = names.next().map(|name| format!(" ({name:?})")).unwrap_or_default();
            take(&mut descriptors, index).map_err(|why| StartError::Inherited {
                what: format!("the socket of descriptor {}{name}", FIRST + index),
                why,
            })
        })
        .collect()
}

fn take(descriptors: &mut ListenFd, index: usize) -> Result<Inherited, String> {
    let tcp = descriptors.take_tcp_listener(index).ok().flatten().map(OwnedFd::from);
    let unix = || descriptors.take_unix_listener(index).ok().flatten().map(OwnedFd::from);
    let socket = Socket::from(tcp.or_else(unix).ok_or("is no stream socket of TCP or the unix family")?);
    if !socket.is_listener().is_ok_and(|is_listener| is_listener) {
        return Err("does not listen: set Accept=no in its unit".into());
    }
    let address = socket.local_addr().map_err(|error| error.to_string())?;
    let is_unix = socket.domain().is_ok_and(|domain| domain == Domain::UNIX);
    let address = match (address.as_socket(), address.as_pathname(), address.as_abstract_namespace()) {
        (Some(address), ..) => Address::Ip(address),
        (_, Some(path), _) => Address::Path(path.to_owned()),
        (.., Some(name)) if is_unix => Address::Abstract(String::from_utf8_lossy(name).into_owned()),
        _ => return Err("has no address".into()),
    };
    Ok(Inherited { socket, address })
}
