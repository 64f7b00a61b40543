//! Sockets on their way to the target: made, set up and bound, for any engine to connect.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::engine::Engine;
use crate::run::{Failure, Plan};
use crate::source::Sources;

/// A socket for the connection with this index to this address, not connected yet, which is blocking.
///
/// # Errors
///
/// What socket(2), its options and bind(2) say.
pub(crate) fn socket(plan: &Plan, index: usize, address: &SockAddr) -> io::Result<Socket> {
    let domain = address.domain();
    if domain == Domain::UNIX {
        let socket = Socket::new(domain, Type::STREAM, None)?;
        if plan.engine == Engine::Epoll {
            // It waits as long as the server's queue is full.
            socket.set_write_timeout(Some(plan.connect_timeout))?;
        }
        return Ok(socket);
    }
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_congestion(plan.congestion.as_bytes())?;
    if plan.pace.is_churn() {
        // To close it is then to reset it, and no TIME_WAIT uses the ports up.
        socket.set_linger(Some(Duration::ZERO))?;
    }
    if let Some(sources) = &plan.sources {
        bind(&socket, sources, index)?;
    }
    Ok(socket)
}

/// Says what can be done about an error of connect(2), where its own words do not.
pub(crate) fn explain(error: io::Error, address: &SockAddr) -> io::Error {
    match error.kind() {
        // That is how connect(2) says that no port is left.
        io::ErrorKind::AddrNotAvailable if address.as_socket().is_some() => {
            io::Error::new(error.kind(), "no local port is free: --source takes more addresses")
        }
        io::ErrorKind::WouldBlock if address.is_unix() => {
            io::Error::new(error.kind(), "the server has accepted none for too long")
        }
        _ => error,
    }
}

/// Sees to it that each of the connections can come from its address.
///
/// # Errors
///
/// That one cannot, in one line.
pub(crate) fn check_sources(
    sources: &Sources,
    target: SocketAddr,
    connections: usize,
) -> Result<(), Failure> {
    let distinct = usize::try_from(sources.count()).unwrap_or(usize::MAX);
    for index in 0..connections.min(distinct) {
        Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))
            .and_then(|socket| bind(&socket, sources, index))
            .map_err(|error| {
                let address = sources.address(index);
                Failure::Usage(match error.kind() {
                    io::ErrorKind::AddrNotAvailable => {
                        format!("--source: {address} is no address of this machine")
                    }
                    _ => format!("--source: cannot use {address}: {error}"),
                })
            })?;
    }
    Ok(())
}

/// Binds to the address of the connection with this index.
fn bind(socket: &Socket, sources: &Sources, index: usize) -> io::Result<()> {
    // The port is chosen by connect(2) then, which knows where to: one in use for another server will do.
    setsockopt(socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::new(sources.address(index), 0).into())
}
