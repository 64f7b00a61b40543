//! Where a server listens: a TCP port, or a unix socket with or without a file.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// The longest path of a socket in bytes: `sun_path` has one more for the NUL behind it (unix(7)).
const UNIX_PATH_MAX: usize = 107;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP port of an address of this machine; port 0 is any free one.
    Ip(SocketAddr),
    /// A unix socket in the file system.
    Path(PathBuf),
    /// A unix socket of this name in the abstract namespace (unix(7)), which has neither file nor mode.
    Abstract(String),
}

impl Address {
    /// The address and port, where it has them.
    #[must_use]
    pub const fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Path(_) | Self::Abstract(_) => None,
        }
    }

    /// Where WebSocket is spoken on `path`, as the load generator takes it: `ws://127.0.0.1:9001/ws`,
    /// `unix:/run/a.sock:/ws`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        match self {
            Self::Ip(address) => format!("ws://{address}{path}"),
            Self::Path(_) | Self::Abstract(_) => format!("{self}:{path}"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Path(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

impl FromStr for Address {
    /// What is missing or wrong, and what would do.
    type Err = String;

    fn from_str(address: &str) -> Result<Self, String> {
        if let Some(socket) = address.strip_prefix("unix:") {
            return unix(socket);
        }
        let parsed: SocketAddr = address.parse().map_err(|_| cure(address))?;
        no_listener(parsed).map_or(Ok(Self::Ip(parsed)), Err)
    }
}

/// Why nothing can listen on an address, and what to give instead; `None` if the machine decides.
fn no_listener(address: SocketAddr) -> Option<String> {
    let (ip, port) = (address.ip(), address.port());
    let is_broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    match address {
        _ if ip.is_multicast() || is_broadcast => {
            Some("TCP has no multicast and no broadcast: give an address of this machine".into())
        }
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0 => {
            Some(format!("a link-local address needs the number of its interface: [{ip}%2]:{port}"))
        }
        SocketAddr::V6(v6) => {
            v6.ip().to_ipv4_mapped().map(|ipv4| format!("give the IPv4 address itself: {ipv4}:{port}"))
        }
        SocketAddr::V4(_) => None,
    }
}

fn unix(socket: &str) -> Result<Address, String> {
    let name = socket.strip_prefix('@');
    match socket {
        // An abstract name stands behind a NUL in place of the `@`.
        _ if socket.len() > UNIX_PATH_MAX => {
            Err(format!("the path of a unix socket has {UNIX_PATH_MAX} bytes at most"))
        }
        _ if socket.is_empty() || socket.ends_with('/') || name == Some("") || socket.contains('\0') => {
            Err("a unix socket has a path, `unix:/run/ringback.sock`, or a name, `unix:@ringback`".into())
        }
        _ => Ok(name.map_or_else(|| Address::Path(socket.into()), |name| Address::Abstract(name.into()))),
    }
}

/// What to give in place of something that is no address.
fn cure(address: &str) -> String {
    if let Ok(ip) = address.parse::<IpAddr>() {
        // The end of an IPv6 address may be meant for a port.
        let meant = address.rsplit_once(':').filter(|(host, _)| host.parse::<Ipv6Addr>().is_ok());
        return match meant.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?))) {
            Some((host, port)) => {
                format!("an IPv6 address stands in brackets: [{host}]:{port}, or [{ip}]:9001")
            }
            None => format!("give a port too, such as {}", SocketAddr::new(ip, 9001)),
        };
    }
    if address.starts_with('[')
        && let Some((ip, rest)) = address.split_once('%')
    {
        let port = rest.rsplit_once("]:").map_or("9001", |(_, port)| port);
        return format!("give the interface by its number, as `ip link` shows it: {ip}%2]:{port}");
    }
    if address.starts_with(['/', '.', '@']) {
        return format!("a unix socket stands behind `unix:`: unix:{address}");
    }
    match address.rsplit_once(':').map_or(("", address), |(host, port)| (host, port)) {
        (host, port) if port.parse::<u16>().is_err() => {
            let host = if host.parse::<IpAddr>().is_ok() { host } else { "127.0.0.1" };
            format!("give an IP address and a port of 0 to 65535, such as {host}:9001, or unix:/PATH")
        }
        ("", port) => {
            format!("give the IP address too, such as 127.0.0.1:{port}, or 0.0.0.0:{port} for all")
        }
        (host, port) if host.parse::<Ipv6Addr>().is_ok() => {
            format!("an IPv6 address stands in brackets: [{host}]:{port}")
        }
        ("localhost", port) => {
            format!("names are not looked up: give 127.0.0.1:{port}, [::1]:{port}, or both")
        }
        (_, port) => format!("give an IP address, such as 127.0.0.1:{port}: names are not looked up"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_as_they_are_given() {
        for (text, url) in [
            ("127.0.0.1:9001", "ws://127.0.0.1:9001/ws"),
            ("0.0.0.0:0", "ws://0.0.0.0:0/ws"),
            ("[::1]:9001", "ws://[::1]:9001/ws"),
            ("[fe80::1%2]:9001", "ws://[fe80::1%2]:9001/ws"),
            ("unix:/run/a b.sock", "unix:/run/a b.sock:/ws"),
            ("unix:a.sock", "unix:a.sock:/ws"),
            ("unix:@ringback", "unix:@ringback:/ws"),
        ] {
            let address: Address = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((address.to_string().as_str(), address.url("/ws").as_str()), (text, url));
            assert_eq!(address.ip().is_some(), !text.starts_with("unix:"));
        }
    }

    #[test]
    fn a_mistake_is_told_what_would_do() {
        let long = format!("unix:/{}", "x".repeat(107));
        for (text, cure) in [
            ("localhost:9001", "names are not looked up: give 127.0.0.1:9001, [::1]:9001, or both"),
            ("echo:9001", "give an IP address, such as 127.0.0.1:9001:"),
            (":9001", "such as 127.0.0.1:9001, or 0.0.0.0:9001 for all"),
            ("9001", "such as 127.0.0.1:9001, or 0.0.0.0:9001 for all"),
            ("10.0.0.1", "give a port too, such as 10.0.0.1:9001"),
            ("::1", "give a port too, such as [::1]:9001"),
            ("fe80::1", "give a port too, such as [fe80::1]:9001"),
            ("::1:9001", "brackets: [::1]:9001, or [::1:9001]:9001"),
            ("2001:db8::1:9002", "brackets: [2001:db8::1]:9002, or [2001:db8::1:9002]:9001"),
            ("[fe80::1]:9001", "the number of its interface: [fe80::1%2]:9001"),
            ("[fe80::1%eth0]:9002", "by its number, as `ip link` shows it: [fe80::1%2]:9002"),
            ("[::ffff:192.0.2.1]:9001", "give the IPv4 address itself: 192.0.2.1:9001"),
            ("[ff02::1%2]:9001", "no multicast"),
            ("224.0.0.1:9001", "no multicast"),
            ("255.255.255.255:9001", "no broadcast"),
            ("10.0.0.1:65536", "a port of 0 to 65535, such as 10.0.0.1:9001"),
            ("10.0.0.1:http", "a port of 0 to 65535, such as 10.0.0.1:9001"),
            ("localhost", "give an IP address and a port"),
            ("", "give an IP address and a port"),
            ("1:2:3:4:5:6:7:8:9001", "brackets: [1:2:3:4:5:6:7:8]:9001"),
            ("/run/a.sock", "behind `unix:`: unix:/run/a.sock"),
            ("unix:", "unix:/run/ringback.sock"),
            ("unix:@", "unix:/run/ringback.sock"),
            ("unix:/run/", "unix:/run/ringback.sock"),
            (&long, "107 bytes at most"),
        ] {
            let said = text.parse::<Address>().expect_err(text);
            assert!(said.contains(cure), "{text}: {said}");
        }
        long[..long.len() - 1].parse::<Address>().expect("as long as may be");
    }
}
