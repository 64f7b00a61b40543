//! The sockets of the connections, ready to connect.

use std::io;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::run::Plan;

/// A socket in blocking mode, with its options set, for the connection with this index.
///
/// # Errors
///
/// What socket(2) and its options say.
pub(crate) fn socket(plan: &Plan, _index: usize) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(plan.address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_congestion(plan.congestion.as_bytes())?;
    if plan.pace.is_churn() {
        // To close it is then to reset it, and no TIME_WAIT uses the ports up.
        socket.set_linger(Some(Duration::ZERO))?;
    }
    Ok(socket)
}
