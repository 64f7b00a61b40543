//! Where a server listens, and what its sockets are like.

use std::net::{Ipv4Addr, SocketAddr};

use super::address::Address;
use super::values;

/// Where to listen, and with what sockets.
#[derive(Clone, Debug, clap::Args)]
pub struct ListeningConfig {
    /// Address to listen at, or unix:/PATH, unix:@NAME; repeatable (comma-separated in the environment); port 0 takes a
    /// free port
    #[arg(
        id = "listen",
        long = "listen",
        env = "RINGBACK_LISTEN",
        value_name = "IP:PORT",
        value_delimiter = ',',
        default_value = "127.0.0.1:9001",
        value_parser = values::parse_address
    )]
    pub addresses: Vec<Address>,

    /// Whether somebody has said so: then they are listened at beside sockets that the server is handed, else only where
    /// it is handed none.
    #[arg(skip)]
    pub is_asked_for: bool,

    /// Mode of the files of unix sockets, in octal, such as 0660 [default: by the umask]
    #[arg(
        id = "unix_mode",
        long = "unix-mode",
        env = "RINGBACK_UNIX_MODE",
        value_name = "MODE",
        value_parser = values::parse_mode
    )]
    pub unix_mode: Option<u32>,

    /// Connections that may wait to be accepted, on each worker, 1 to 65535; the kernel cuts it to net.core.somaxconn
    #[arg(
        id = "backlog",
        long = "backlog",
        env = "RINGBACK_BACKLOG",
        value_name = "N",
        default_value = "4096",
        value_parser = values::count::<i32>(1..=65_535)
    )]
    pub backlog: i32,

    /// Send buffer of a TCP connection, 4KiB to 512MiB: what a slow reader holds in the kernel [default: as the kernel tunes it]
    #[arg(
        id = "socket_send_buffer",
        long = "socket-send-buffer",
        env = "RINGBACK_SOCKET_SEND_BUFFER",
        value_name = "SIZE",
        value_parser = values::memory(4 * values::KIB..=512 * values::MIB)
    )]
    pub send_buffer: Option<usize>,

    /// TCP congestion control of the connections, such as cubic [default: the system's]
    #[arg(
        id = "congestion_control",
        long = "congestion-control",
        env = "RINGBACK_CONGESTION_CONTROL",
        value_name = "NAME"
    )]
    pub congestion_control: Option<String>,
}

impl ListeningConfig {
    /// At these addresses, and else as by default.
    #[must_use]
    pub fn at(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { addresses: addresses.into_iter().map(Address::Ip).collect(), ..Self::default() }
    }
}

impl Default for ListeningConfig {
    fn default() -> Self {
        Self {
            addresses: vec![Address::Ip(SocketAddr::from((Ipv4Addr::LOCALHOST, 9001)))],
            is_asked_for: false,
            unix_mode: None,
            backlog: 4096,
            send_buffer: None,
            congestion_control: None,
        }
    }
}
