//! Listening sockets: one a worker for each address, sharing the port by SO_REUSEPORT.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::StartError;
use crate::config::Config;

/// The accept queue asked for; the kernel cuts it to `net.core.somaxconn`.
pub(crate) const BACKLOG: i32 = 4096;

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
        let fail = |source| StartError::Bind { address: asked, option: "--listen", source };
        let mut address = asked;
        for (worker, listeners) in per_worker.iter_mut().enumerate() {
            let listener = if worker == 0 { take(address) } else { share(address) }.map_err(fail)?;
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

/// The first listener at `address`, with the port to itself until it listens: SO_REUSEPORT from the start would let a
/// second server of the same user join silently and take half of the connections of the first.
fn take(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    // From now on it can be joined, by those who ask for it before they bind.
    socket.set_reuse_port(true)?;
    Ok(socket.into())
}

/// A further listener, to share the port with.
fn share(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
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
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::thread;

    use super::*;

    fn config(address: &str) -> Config {
        Config { listen: vec![address.parse().expect("an address")], ..Config::default() }
    }

    #[test]
    fn the_kernel_spreads_connections_over_the_workers() {
        let (workers, addresses) = bind(&config("127.0.0.1:0"), 3).unwrap();
        let _clients: Vec<_> = (0..200).map(|_| TcpStream::connect(addresses[0]).unwrap()).collect();
        for listeners in &workers {
            assert!(listeners[0].accept().is_ok(), "each worker gets some of 200");
        }
    }

    #[test]
    fn of_servers_that_start_at_the_same_moment_one_has_the_port() {
        for _ in 0..200 {
            let free = bind(&config("127.0.0.1:0"), 1).unwrap().1[0].to_string();
            let started: Vec<_> = thread::scope(|scope| {
                let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| bind(&config(&free), 1))).collect();
                starts.into_iter().filter_map(|start| start.join().unwrap().ok()).collect()
            });
            assert_eq!(started.len(), 1, "one has the port");
        }
    }
}
