//! The servers that ringback is measured against, and what they share: one pinned thread, one listener, the same
//! allocator and release profile as ringback.

mod accept;
#[cfg(feature = "peers")]
pub mod fastwebsockets_echo;
pub mod raw_tcp;
#[cfg(feature = "peers")]
pub mod tokio_websockets_echo;
pub mod tungstenite_echo;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_shutdown;
use socket2::{Domain, Protocol, Socket, Type};

/// The options of every baseline server.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 takes any free port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9003")]
    pub listen: SocketAddr,

    /// The core to run on [default: the first that the affinity mask allows]
    #[arg(long, value_name = "N")]
    pub core: Option<usize>,

    /// TCP congestion control, such as cubic [default: the system's]
    #[arg(long, value_name = "NAME")]
    pub congestion: Option<String>,
}

impl Options {
    /// Makes the calling thread the server's only one, on its core and ended by signals, and opens its listener.
    ///
    /// # Errors
    ///
    /// The core is not there or not allowed, the address is taken, the congestion control is unknown.
    pub fn prepare(&self) -> anyhow::Result<TcpListener> {
        exit_on_signals().context("cannot handle signals")?;
        // A thread that runs has a core to run on.
        let core = self.core.map_or_else(|| allowed_cores().map(|cores| cores[0]), Ok)?;
        pin(core).with_context(|| format!("cannot run on core {core}"))?;
        let listener = listen(self.listen, self.congestion.as_deref())?;
        println!("listening on {}", listener.local_addr()?);
        Ok(listener)
    }
}

/// Opens a listener whose accepted sockets inherit TCP_NODELAY and, if given, the congestion control.
///
/// # Errors
///
/// The address cannot be bound, or the kernel has no such congestion control.
pub fn listen(address: SocketAddr, congestion: Option<&str>) -> anyhow::Result<TcpListener> {
    /// Connections that may wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
    const BACKLOG: i32 = 4096;

    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(name) = congestion {
        socket
            .set_tcp_congestion(name.as_bytes())
            .with_context(|| format!("no congestion control {name}"))?;
    }
    socket.bind(&address.into()).with_context(|| format!("cannot bind {address}"))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The cores that the calling thread may run on, in order.
///
/// # Errors
///
/// The machine has more cores than the mask has places.
pub fn allowed_cores() -> io::Result<Vec<usize>> {
    let allowed = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect())
}

/// Lets the calling thread run on `core` only.
///
/// # Errors
///
/// `core` does not exist or is not allowed.
pub fn pin(core: usize) -> io::Result<()> {
    if core >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut only = CpuSet::new();
    only.set(core);
    Ok(sched_setaffinity(None, &only)?)
}

/// Lets SIGTERM and SIGINT end the process at once with exit status 0: a baseline has nothing to save.
fn exit_on_signals() -> io::Result<()> {
    for signal in [SIGTERM, SIGINT] {
        register_conditional_shutdown(signal, 0, Arc::new(AtomicBool::new(true)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, TcpStream};
    use std::thread;

    use socket2::SockRef;

    use super::*;

    const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn accepted_sockets_inherit_the_options_of_the_listener() {
        // Always built into the kernel, and the default nowhere.
        let listener = listen(ANY_PORT, Some("reno")).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(accepted.nodelay().unwrap());
        let congestion = SockRef::from(&accepted).tcp_congestion().unwrap();
        assert!(congestion.starts_with(b"reno"), "{congestion:?}");
    }

    #[test]
    fn an_unknown_congestion_control_is_an_error() {
        let error = listen(ANY_PORT, Some("no-such-control")).unwrap_err();
        assert!(error.to_string().contains("no-such-control"), "{error:#}");
    }

    #[test]
    fn a_pinned_thread_may_run_on_its_core_only() {
        thread::spawn(|| {
            let last = *allowed_cores().unwrap().last().unwrap();
            pin(last).unwrap();
            assert_eq!(allowed_cores().unwrap(), [last]);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_core_beyond_all_machines_is_an_error() {
        assert!(pin(CpuSet::MAX_CPU).is_err());
    }
}
