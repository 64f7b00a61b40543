//! Where the load goes: `ws://host[:port][/path]`, `unix:/socket[:/path]` or `tcp://host:port`.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use socket2::SockAddr;

/// What the server is expected to do with the bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Echo messages as a WebSocket server (RFC 6455).
    WebSocket,
    /// Echo bytes: the yardstick. It gets the frames that a WebSocket server would get, mask and all.
    Raw,
}

impl Scheme {
    /// The scheme as it is written in a URL.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "ws",
            Self::Raw => "tcp",
        }
    }
}

/// A parsed URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// What the server echoes.
    pub(crate) scheme: Scheme,
    /// Where it listens.
    pub(crate) place: Place,
    /// The request target of the handshake, query included; it begins with `/`.
    pub(crate) path: String,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A TCP port.
    Tcp {
        /// A name or an address; an IPv6 address without its brackets.
        host: String,
        /// Not 0.
        port: u16,
    },
    /// A unix socket (unix(7)): its path, or `@` and its name in the abstract namespace.
    Unix(String),
}

/// Why a text is not a [`Target`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    /// Another scheme than `ws`, `unix` and `tcp`.
    #[error("it must begin with ws://, unix: or tcp://")]
    Scheme,
    /// TLS.
    #[error("wss:// is not supported: measure the server itself, without TLS")]
    Tls,
    /// Nothing where the host belongs, or something that cannot be in a host.
    #[error("it has no valid host")]
    Host,
    /// Not a port of 1–65535, or none for `tcp://`.
    #[error("it needs a port of 1 to 65535")]
    Port,
    /// A name and password, which nothing would use.
    #[error("user names are not supported")]
    User,
    /// No path of a socket behind `unix:`.
    #[error("it needs the path of a socket, or @ and its name")]
    Socket,
    /// A path or query on `tcp://`, a fragment (RFC 6455 §3), or a byte that cannot stand in a request line.
    #[error("its path is not valid here")]
    Path,
}

impl Target {
    /// The value of the handshake's `Host` header (RFC 6455 §4.1): without the port where it is the default.
    pub(crate) fn authority(&self) -> String {
        let Place::Tcp { host, port } = &self.place else {
            return LOCALHOST.into();
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        if self.scheme == Scheme::WebSocket && *port == WS_PORT { host } else { format!("{host}:{port}") }
    }

    /// The addresses of the host in the order of the resolver, none of them twice, or that of the socket.
    ///
    /// # Errors
    ///
    /// What the resolver says, that the name has no address, or that the path is too long.
    pub(crate) fn resolve(&self) -> io::Result<Vec<SockAddr>> {
        match &self.place {
            Place::Unix(path) => match path.strip_prefix('@') {
                Some(name) => SockAddr::unix(format!("\0{name}")),
                None => SockAddr::unix(path),
            }
            .map(|address| vec![address]),
            Place::Tcp { host, port } => {
                let mut addresses: Vec<SocketAddr> = Vec::new();
                for address in (host.as_str(), *port).to_socket_addrs()? {
                    if !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
                if addresses.is_empty() {
                    return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
                }
                Ok(addresses.into_iter().map(SockAddr::from).collect())
            }
        }
    }

    /// The name that was looked up; `None` of an address or a unix socket.
    pub(crate) fn name(&self) -> Option<&str> {
        match &self.place {
            Place::Tcp { host, .. } => Some(host.as_str()).filter(|host| host.parse::<IpAddr>().is_err()),
            Place::Unix(_) => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.scheme, &self.place) {
            (_, Place::Unix(socket)) if self.path == "/" => write!(f, "unix:{socket}"),
            (_, Place::Unix(socket)) => write!(f, "unix:{socket}:{}", self.path),
            (Scheme::WebSocket, _) => write!(f, "ws://{}{}", self.authority(), self.path),
            (Scheme::Raw, _) => write!(f, "tcp://{}", self.authority()),
        }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(url: &str) -> Result<Self, TargetError> {
        if let Some(rest) = url.strip_prefix("unix:") {
            return unix(rest);
        }
        let (scheme, rest) = url.split_once("://").ok_or(TargetError::Scheme)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "ws" => Scheme::WebSocket,
            "tcp" => Scheme::Raw,
            "wss" => return Err(TargetError::Tls),
            _ => return Err(TargetError::Scheme),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(TargetError::User);
        }
        let (host, port) = split_port(authority)?;
        let port = match (port, scheme) {
            (Some(port), _) => port.parse().ok().filter(|&port| port != 0).ok_or(TargetError::Port)?,
            (None, Scheme::WebSocket) => WS_PORT,
            (None, Scheme::Raw) => return Err(TargetError::Port),
        };
        if !is_request_target(path) || (scheme == Scheme::Raw && !matches!(path, "" | "/")) {
            return Err(TargetError::Path);
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { scheme, place: Place::Tcp { host: host.to_owned(), port }, path })
    }
}

/// The port of a `ws` URL that names none (RFC 6455 §3).
const WS_PORT: u16 = 80;

/// What a server behind a socket of the file system is called, as everywhere.
const LOCALHOST: &str = "localhost";

/// What follows `unix:`: the path of the socket and, behind a second colon, the request target.
fn unix(rest: &str) -> Result<Target, TargetError> {
    let (socket, path) = match rest.find(":/") {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => (rest, "/"),
    };
    if socket.is_empty() || socket.contains('\0') {
        return Err(TargetError::Socket);
    }
    if !is_request_target(path) {
        return Err(TargetError::Path);
    }
    Ok(Target { scheme: Scheme::WebSocket, place: Place::Unix(socket.to_owned()), path: path.to_owned() })
}

/// Whether this can stand in a request line, and is no fragment's (RFC 6455 §3).
fn is_request_target(path: &str) -> bool {
    path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), TargetError> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or(TargetError::Host)?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| TargetError::Host)?;
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err(TargetError::Host),
        }
    } else {
        match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    let host_is_valid = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte));
    if host.is_empty() || !host_is_valid {
        return Err(TargetError::Host);
    }
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_are_taken() {
        for (url, scheme, host, port, path, shown) in [
            ("ws://127.0.0.1:9001/ws", Scheme::WebSocket, "127.0.0.1", 9001, "/ws", "ws://127.0.0.1:9001/ws"),
            ("WS://localhost", Scheme::WebSocket, "localhost", 80, "/", "ws://localhost/"),
            ("ws://h:80/", Scheme::WebSocket, "h", 80, "/", "ws://h/"),
            ("ws://h?a=b", Scheme::WebSocket, "h", 80, "/?a=b", "ws://h/?a=b"),
            ("ws://[::1]:9001/a/b?c", Scheme::WebSocket, "::1", 9001, "/a/b?c", "ws://[::1]:9001/a/b?c"),
            ("ws://[::1]", Scheme::WebSocket, "::1", 80, "/", "ws://[::1]/"),
            ("tcp://10.0.0.1:7", Scheme::Raw, "10.0.0.1", 7, "/", "tcp://10.0.0.1:7"),
            ("tcp://h:80/", Scheme::Raw, "h", 80, "/", "tcp://h:80"),
        ] {
            let target: Target = url.parse().unwrap_or_else(|error| panic!("{url}: {error}"));
            let place = Place::Tcp { host: host.into(), port };
            let expected = Target { scheme, place, path: path.into() };
            assert_eq!(target, expected, "{url}");
            assert_eq!(target.to_string(), shown);
        }
    }

    #[test]
    fn sockets_in_the_file_system() {
        for (url, socket, path, shown) in [
            ("unix:/run/x.sock", "/run/x.sock", "/", "unix:/run/x.sock"),
            ("unix:/run/x.sock:/ws?a:/b", "/run/x.sock", "/ws?a:/b", "unix:/run/x.sock:/ws?a:/b"),
            ("unix:/run/x.sock:/", "/run/x.sock", "/", "unix:/run/x.sock"),
            ("unix:/run/a b:c", "/run/a b:c", "/", "unix:/run/a b:c"),
            ("unix:x.sock", "x.sock", "/", "unix:x.sock"),
            ("unix:@name:/ws", "@name", "/ws", "unix:@name:/ws"),
        ] {
            let target: Target = url.parse().unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!((&target.place, target.path.as_str()), (&Place::Unix(socket.into()), path), "{url}");
            assert_eq!((target.to_string().as_str(), target.authority().as_str()), (shown, "localhost"));
            assert!(target.resolve().expect("short enough")[0].is_unix());
        }
        let abstract_one: Target = "unix:@name".parse().expect("valid");
        let address = abstract_one.resolve().expect("short enough");
        assert_eq!(address[0].as_abstract_namespace(), Some(&b"name"[..]));
        let long: Target = format!("unix:/{}", "x".repeat(200)).parse().expect("valid");
        long.resolve().expect_err("sun_path has 108 bytes");
    }

    #[test]
    fn urls_that_are_refused() {
        for (url, error) in [
            ("unix:", TargetError::Socket),
            ("unix::/ws", TargetError::Socket),
            ("unix:/run/x.sock:/a b", TargetError::Path),
            ("127.0.0.1:9001", TargetError::Scheme),
            ("http://h/", TargetError::Scheme),
            ("wss://h/", TargetError::Tls),
            ("ws://", TargetError::Host),
            ("ws:///ws", TargetError::Host),
            ("ws://a b/", TargetError::Host),
            ("ws://[::1/", TargetError::Host),
            ("ws://[::1]9/", TargetError::Host),
            ("ws://[zz]/", TargetError::Host),
            ("ws://h:0/", TargetError::Port),
            ("ws://h:/", TargetError::Port),
            ("ws://h:65536/", TargetError::Port),
            ("ws://::1/", TargetError::Host),
            ("tcp://h", TargetError::Port),
            ("tcp://h:1/ws", TargetError::Path),
            ("ws://me@h/", TargetError::User),
            ("ws://h/#top", TargetError::Path),
            ("ws://h/a b", TargetError::Path),
            ("ws://h/\r\nEvil: 1", TargetError::Path),
        ] {
            assert_eq!(url.parse::<Target>(), Err(error), "{url}");
        }
    }
}
