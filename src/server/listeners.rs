//! Listening sockets, one or more a worker: a TCP port is shared by SO_REUSEPORT, any other socket by duplicates.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::StartError;
use super::activation::Inherited;
use super::occupied::bind_in_time;
use super::socket_file::{self, SocketFile};
use crate::config::{Address, ListeningConfig};
use crate::engine::{Lent, Listener};
use crate::system;

/// Who asks for what is listened at.
const OPTION: &str = "--listen";

/// All that is listened at.
#[derive(Debug, Default)]
pub(crate) struct Bound {
    /// The listeners of each worker.
    pub(super) per_worker: Vec<Vec<Listener>>,
    /// Where, with the real ports.
    pub(crate) addresses: Vec<Address>,
    /// For each of them one that a client on this machine can connect to.
    pub(super) client_addresses: Vec<Address>,
    /// To be kept until the end of the server.
    pub(super) files: Vec<SocketFile>,
}

/// Listens at each address, and at what was inherited. Addresses that nobody has asked for give way to that.
///
/// # Errors
///
/// [`StartError::Bind`] when an address is in use, not this machine's, or not allowed;
/// [`StartError::CongestionControl`] when the kernel does not have the one asked for.
pub(crate) fn bind(
    config: &ListeningConfig,
    inherited: Vec<Inherited>,
    workers: usize,
) -> Result<Bound, StartError> {
    let mut bound = Bound { per_worker: (0..workers).map(|_| Vec::new()).collect(), ..Bound::default() };
    let somaxconn = system::somaxconn();
    let queue_max = somaxconn.min(config.backlog.unsigned_abs() as usize);
    let is_default_wanted = inherited.is_empty() || config.is_asked_for;
    let mut all: Vec<_> = inherited.iter().map(|Inherited { address, .. }| address.clone()).collect();
    all.extend(config.addresses.iter().filter(|_| is_default_wanted).cloned());
    for Inherited { socket, address } in inherited {
        set_tcp_options(&socket, &address, config)?;
        let fail = |source| StartError::Bind { address: address.clone(), option: OPTION, source };
        let takes_ipv4 = !socket.only_v6().unwrap_or(true);
        let lent = Lent::new(&socket).map_err(fail)?;
        bound.share_out(socket, somaxconn, Some(&lent)).map_err(fail)?;
        bound.add(address, takes_ipv4);
    }
    for asked in config.addresses.iter().filter(|_| is_default_wanted) {
        let fail = |source| StartError::Bind { address: asked.clone(), option: OPTION, source };
        let address = match asked {
            Address::Ip(address) => {
                let only_v6 = !takes_ipv4(*address, &all);
                Address::Ip(bound.take_port(*address, only_v6, queue_max, config)?)
            }
            Address::Path(path) => {
                let listen = || socket_file::listen(path, config.unix_mode, config.backlog).map_err(fail);
                let (socket, file) = bind_in_time(asked, listen)?;
                bound.files.push(file);
                bound.share_out(socket, queue_max, None).map_err(fail)?;
                asked.clone()
            }
            Address::Abstract(name) => {
                let socket = bind_in_time(asked, || listen_abstract(name, config.backlog).map_err(fail))?;
                bound.share_out(socket, queue_max, None).map_err(fail)?;
                asked.clone()
            }
        };
        bound.add(address, asked.ip().is_some_and(|asked| takes_ipv4(asked, &all)));
    }
    Ok(bound)
}

/// Whether a listener at `address` takes IPv4 connections too: `[::]` does, unless `all` have an IPv4 address with the same
/// port. Two free ports are different ones. The sysctl net.ipv6.bindv6only changes nothing.
fn takes_ipv4(address: SocketAddr, all: &[Address]) -> bool {
    let has_ipv4 = || {
        all.iter()
            .filter_map(Address::ip)
            .any(|ip| ip.is_ipv4() && ip.port() == address.port() && ip.port() != 0)
    };
    address.is_ipv6() && address.ip().is_unspecified() && !has_ipv4()
}

/// One of this machine's addresses at which a client reaches a listener at `address`.
fn client_address(address: &Address, takes_ipv4: bool) -> Address {
    match address.ip() {
        Some(listening) if listening.ip().is_unspecified() => {
            let ipv4 = IpAddr::from(Ipv4Addr::LOCALHOST);
            let is_ipv4 = listening.is_ipv4() || takes_ipv4;
            let ip = if is_ipv4 { ipv4 } else { Ipv6Addr::LOCALHOST.into() };
            Address::Ip(SocketAddr::new(ip, listening.port()))
        }
        _ => address.clone(),
    }
}

impl Bound {
    fn add(&mut self, address: Address, takes_ipv4: bool) {
        self.client_addresses.push(client_address(&address, takes_ipv4));
        self.addresses.push(address);
    }

    /// A socket for each worker that share the port. Gives the address with its real port.
    fn take_port(
        &mut self,
        asked: SocketAddr,
        only_v6: bool,
        queue_max: usize,
        config: &ListeningConfig,
    ) -> Result<SocketAddr, StartError> {
        let fail = |source| StartError::Bind { address: Address::Ip(asked), option: OPTION, source };
        let mut address = asked;
        for (worker, listeners) in self.per_worker.iter_mut().enumerate() {
            let bind = || {
                let socket = socket(address, only_v6).map_err(fail)?;
                set_tcp_options(&socket, &Address::Ip(asked), config)?;
                // The first one takes the port, the others share it.
                let bound = if worker == 0 { take } else { share }(&socket, address, config.backlog);
                bound.map(|()| socket).map_err(fail)
            };
            let socket = if worker == 0 { bind_in_time(&Address::Ip(asked), bind) } else { bind() }?;
            address = TcpListener::from(socket.try_clone().map_err(fail)?).local_addr().map_err(fail)?;
            listeners.push(Listener::new(socket, queue_max, false, None));
        }
        Ok(address)
    }

    /// Gives each worker a duplicate of one socket.
    fn share_out(&mut self, socket: Socket, queue_max: usize, lent: Option<&Arc<Lent>>) -> io::Result<()> {
        let is_shared = self.per_worker.len() > 1;
        for listeners in self.per_worker.iter_mut().skip(1) {
            let socket = socket.try_clone()?;
            listeners.push(Listener::new(socket, queue_max, is_shared, lent.cloned()));
        }
        if let Some(listeners) = self.per_worker.first_mut() {
            listeners.push(Listener::new(socket, queue_max, is_shared, lent.cloned()));
        }
        Ok(())
    }
}

/// A listener at a name of the abstract namespace.
fn listen_abstract(name: &str, backlog: i32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(Path::new(&format!("\0{name}")))?)?;
    socket.listen(backlog)?;
    Ok(socket)
}

/// The first listener at `address`, with the port to itself until it listens: SO_REUSEPORT from the start would let a
/// second server of the same user join silently and take half of the connections of the first.
fn take(socket: &Socket, address: SocketAddr, backlog: i32) -> io::Result<()> {
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    // From now on it can be joined, by those who ask for it before they bind.
    socket.set_reuse_port(true)
}

/// A further listener, to share the port with.
fn share(socket: &Socket, address: SocketAddr, backlog: i32) -> io::Result<()> {
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)
}

fn socket(address: SocketAddr, only_v6: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier process in TIME_WAIT are no obstacle.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    Ok(socket)
}

/// What accepted sockets inherit. Those of the unix family do not.
fn set_tcp_options(socket: &Socket, address: &Address, config: &ListeningConfig) -> Result<(), StartError> {
    if address.ip().is_none() {
        return Ok(());
    }
    let fail = |source| StartError::Bind { address: address.clone(), option: OPTION, source };
    socket.set_tcp_nodelay(true).map_err(fail)?;
    if let Some(size) = config.send_buffer {
        socket.set_send_buffer_size(size).map_err(fail)?;
        // The kernel doubles it, for what it needs itself (socket(7)).
        let has = socket.send_buffer_size().map_err(fail)? / 2;
        if has < size {
            tracing::warn!(asked = size, has, "net.core.wmem_max cuts --socket-send-buffer");
        }
    }
    if let Some(name) = &config.congestion_control {
        socket
            .set_tcp_congestion(name.as_bytes())
            .map_err(|source| StartError::CongestionControl { name: name.clone(), source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::thread;

    use super::*;

    fn config(address: &str) -> ListeningConfig {
        ListeningConfig {
            addresses: vec![address.parse().expect("an address")],
            ..ListeningConfig::default()
        }
    }

    #[test]
    fn the_kernel_spreads_connections_over_the_workers() {
        let bound = bind(&config("127.0.0.1:0"), Vec::new(), 3).unwrap();
        let address = bound.addresses[0].ip().expect("a port");
        let _clients: Vec<_> = (0..200).map(|_| TcpStream::connect(address).unwrap()).collect();
        for listeners in &bound.per_worker {
            listeners[0].set_nonblocking(true).unwrap();
            assert!(listeners[0].accept().is_ok(), "each worker gets some of 200");
        }
    }

    #[test]
    fn of_servers_that_start_at_the_same_moment_one_has_the_port() {
        for _ in 0..200 {
            let free = bind(&config("127.0.0.1:0"), Vec::new(), 1).unwrap().addresses[0].to_string();
            let started: Vec<_> = thread::scope(|scope| {
                let starts: Vec<_> =
                    (0..4).map(|_| scope.spawn(|| bind(&config(&free), Vec::new(), 1))).collect();
                starts.into_iter().filter_map(|start| start.join().unwrap().ok()).collect()
            });
            assert_eq!(started.len(), 1, "one has the port");
        }
    }
}
