//! Listening sockets: one a worker for each address, sharing the port by SO_REUSEPORT.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::StartError;
use crate::config::Config;

/// The accept queue asked for; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Binds each address once a worker. Gives the listeners of each worker, and the addresses with their real ports.
///
/// # Errors
///
/// [`StartError::Bind`] when an address is in use, not this machine's, or not allowed;
/// [`StartError::CongestionControl`] when the kernel does not have the one asked for.
pub(super) fn bind(
    config: &Config,
    workers: usize,
) -> Result<(Vec<Vec<TcpListener>>, Vec<SocketAddr>), StartError> {
    let mut per_worker: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
    let mut bound = Vec::new();
    for &asked in &config.listen {
        let fail = |source| StartError::Bind { address: asked, source };
        if asked.port() != 0 {
            probe(asked).map_err(fail)?;
        }
        let mut address = asked;
        for listeners in &mut per_worker {
            let listener = listen(address).map_err(fail)?;
            if let Some(name) = &config.congestion_control {
                // Accepted sockets inherit it.
                SockRef::from(&listener)
                    .set_tcp_congestion(name.as_bytes())
                    .map_err(|source| StartError::CongestionControl { name: name.clone(), source })?;
            }
            // The first one takes the port, the others share it.
            address = listener.local_addr().map_err(fail)?;
            listeners.push(listener);
        }
        bound.push(address);
    }
    Ok((per_worker, bound))
}

/// Finds out whether anybody listens at `address`: SO_REUSEPORT would let a second server of the same user join
/// silently and take half of the connections of the first.
fn probe(address: SocketAddr) -> io::Result<()> {
    let socket = socket(address)?;
    socket.bind(&address.into())
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address)?;
    socket.set_reuse_port(true)?;
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier process in TIME_WAIT are no obstacle.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // [::] and 0.0.0.0 can be listened at beside each other.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}
