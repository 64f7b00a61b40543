//! The PROXY protocol, versions 1 and 2: what a proxy says of its client before anything else is sent
//! ([specification](https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt), whose sections are named below).
//!
//! Strict, since what it says decides who is let in: a header is there from the first byte on and is valid throughout,
//! or the connection is of no use. Nothing is ever answered to one that is not (§2: "the receiver must not try to
//! guess").

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

/// The longest header of version 1, in bytes, its CR LF included (§2.1).
pub const V1_MAX: usize = 107;

/// The longest body of version 2 that is taken, in bytes: addresses and type-length-values. The specification allows for
/// 65,535; what proxies send has some hundred.
pub const V2_BODY_MAX: usize = 4 << 10;

/// With what each header of version 2 begins (§2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The signature, the version and command, the family, the length.
const V2_HEAD: usize = 16;

/// With what each header of version 1 begins.
const V1_PREFIX: &[u8; 6] = b"PROXY ";

/// Which versions are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The line of text.
    pub v1: bool,
    /// The binary header.
    pub v2: bool,
}

/// Whom a connection is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The proxy itself, or somebody that it says nothing of (LOCAL, UNKNOWN, UNSPEC): the address of the socket counts.
    Peer,
    /// The client that the proxy names.
    Client(IpAddr),
    /// A client of a Unix-domain socket, which has no address.
    Unix,
}

/// The header of one connection, as far as it has come.
#[derive(Debug)]
pub struct Header {
    versions: Versions,
    /// What has come before, where it comes in pieces.
    bytes: Vec<u8>,
}

/// What came of the bytes so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The header is not complete.
    More,
    /// A good header; the client's own bytes begin behind the `consumed` bytes of the last piece.
    Done {
        /// Whom the connection is from.
        source: Source,
        /// How many bytes of the last piece belong to the header.
        consumed: usize,
    },
    /// Not a header: the connection ends, without an answer.
    Refused(ProxyError),
}

/// What is wrong with a header. Logs have these names in snake case.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::VariantArray, thiserror::Error,
)]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum ProxyError {
    /// The connection begins with something else, such as a request.
    #[error("the connection does not begin with a PROXY header")]
    NotProxy,
    /// The header is of the version that is not taken.
    #[error("the PROXY header is of another version than --proxy-protocol says")]
    OtherVersion,
    /// The line of version 1 is not as §2.1 has it.
    #[error("the PROXY line is malformed")]
    Line,
    /// The line is longer than [`V1_MAX`], or the body than [`V2_BODY_MAX`].
    #[error("the PROXY header is too long")]
    TooLong,
    /// The version of a binary header is not 2, or its command neither LOCAL nor PROXY (§2.2).
    #[error("the PROXY header has an unknown version or command")]
    Command,
    /// The family or the transport is none of those that there are (§2.2).
    #[error("the PROXY header has an unknown address family")]
    Family,
    /// The body is shorter than its addresses (§2.2).
    #[error("the PROXY header is shorter than its addresses")]
    Addresses,
    /// A type-length-value reaches beyond the body (§2.2.6).
    #[error("a field of the PROXY header reaches beyond its end")]
    Field,
    /// The CRC32c is not that of the header (§2.2.6, PP2_TYPE_CRC32C).
    #[error("the checksum of the PROXY header is wrong")]
    Checksum,
    /// The connection has ended within the header.
    #[error("the connection ended before the end of its PROXY header")]
    Truncated,
    /// The header did not come in time.
    #[error("the PROXY header did not arrive in time")]
    Timeout,
}

impl Header {
    /// A header of which nothing has come.
    #[must_use]
    pub const fn new(versions: Versions) -> Self {
        Self { versions, bytes: Vec::new() }
    }

    /// Whether nothing has come yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes the next bytes of the header, and whatever is behind it. What is wrong is refused as soon as it is seen, but
    /// for a line, which is judged when it is complete.
    pub fn receive(&mut self, piece: &[u8]) -> Step {
        let before = self.bytes.len();
        let parsed = if before == 0 {
            parse(piece, self.versions)
        } else {
            // No header is longer, so that what lies behind has no say.
            let room = (V2_HEAD + V2_BODY_MAX).saturating_sub(before).min(piece.len());
            self.bytes.extend_from_slice(piece.get(..room).unwrap_or_default());
            parse(&self.bytes, self.versions)
        };
        match parsed {
            Ok(Some((source, len))) => {
                self.bytes = Vec::new();
                Step::Done { source, consumed: len.saturating_sub(before) }
            }
            Ok(None) => {
                if before == 0 {
                    self.bytes.extend_from_slice(piece);
                }
                Step::More
            }
            Err(error) => Step::Refused(error),
        }
    }
}

/// The source and the length of the header that `bytes` begin with; `None` where it goes on behind them.
fn parse(bytes: &[u8], versions: Versions) -> Result<Option<(Source, usize)>, ProxyError> {
    let (prefix, is_taken, parse): (&[u8], _, fn(&[u8]) -> _) = match bytes.first() {
        None => return Ok(None),
        Some(b'P') => (V1_PREFIX, versions.v1, parse_v1),
        Some(_) => (SIGNATURE, versions.v2, parse_v2),
    };
    if !begins_like(bytes, prefix) {
        return Err(ProxyError::NotProxy);
    }
    if !is_taken && bytes.len() >= prefix.len() {
        return Err(ProxyError::OtherVersion);
    }
    parse(bytes)
}

/// Whether `bytes` may be those of something that begins with `prefix`, as far as they have come.
fn begins_like(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.iter().zip(prefix).all(|(byte, expected)| byte == expected)
}

/// `PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 CR LF` (§2.1).
fn parse_v1(bytes: &[u8]) -> Result<Option<(Source, usize)>, ProxyError> {
    let within = bytes.get(..V1_MAX).unwrap_or(bytes);
    let Some(end) = memchr::memchr2(b'\r', b'\n', within) else {
        return if within.len() < V1_MAX { Ok(None) } else { Err(ProxyError::TooLong) };
    };
    match within.get(end..) {
        Some([b'\r', b'\n', ..]) => {}
        Some([b'\r']) if within.len() < V1_MAX => return Ok(None),
        Some([b'\r']) => return Err(ProxyError::TooLong),
        _ => return Err(ProxyError::Line),
    }
    let line = within.get(V1_PREFIX.len()..end).ok_or(ProxyError::Line)?;
    let source = parse_line(line).ok_or(ProxyError::Line)?;
    Ok(Some((source, end + 2)))
}

/// What stands between `PROXY ` and CR LF.
fn parse_line(line: &[u8]) -> Option<Source> {
    if let Some(rest) = line.strip_prefix(b"UNKNOWN") {
        // "The receiver must ignore anything presented before the CRLF is found."
        return (rest.is_empty() || rest.starts_with(b" ")).then_some(Source::Peer);
    }
    let line = str::from_utf8(line).ok()?;
    let mut words = line.split(' ');
    let parse_address = match words.next()? {
        "TCP4" => |word: &str| word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        // Groups of hexadecimal digits only: no dotted quad at the end.
        "TCP6" => |word: &str| word.parse::<Ipv6Addr>().ok().filter(|_| !word.contains('.')).map(IpAddr::V6),
        _ => return None,
    };
    let source = parse_address(words.next()?)?;
    parse_address(words.next()?)?;
    for _ in 0..2 {
        let word = words.next()?;
        // "Heading zeroes are not permitted", and no sign either.
        word.parse::<u16>().ok().filter(|port| port.to_string() == word)?;
    }
    words.next().is_none().then_some(Source::Client(source))
}

/// The binary header (§2.2).
fn parse_v2(bytes: &[u8]) -> Result<Option<(Source, usize)>, ProxyError> {
    let is_local = match bytes.get(12) {
        None => return Ok(None),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Err(ProxyError::Command),
    };
    let family = match bytes.get(13) {
        None => return Ok(None),
        // For LOCAL, "the receiver must [...] discard the protocol block including the family".
        Some(_) if is_local => Family::Unspecified,
        Some(0x00) => Family::Unspecified,
        // A stream, or datagrams: those of QUIC, which a proxy makes a stream of.
        Some(0x11 | 0x12) => Family::V4,
        Some(0x21 | 0x22) => Family::V6,
        Some(0x31 | 0x32) => Family::Unix,
        Some(_) => return Err(ProxyError::Family),
    };
    let Some(&[high, low]) = bytes.get(14..V2_HEAD).and_then(<[u8]>::first_chunk) else {
        return Ok(None);
    };
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len > V2_BODY_MAX {
        return Err(ProxyError::TooLong);
    }
    if len < family.len() {
        return Err(ProxyError::Addresses);
    }
    let Some(header) = bytes.get(..V2_HEAD + len) else {
        return Ok(None);
    };
    let body = header.get(V2_HEAD..).unwrap_or_default();
    let source = match (family, body) {
        (Family::Unspecified, _) => Source::Peer,
        (Family::V4, [a, b, c, d, ..]) => Source::Client(IpAddr::from([*a, *b, *c, *d])),
        (Family::V6, body) => {
            Source::Client(IpAddr::from(*body.first_chunk::<16>().ok_or(ProxyError::Addresses)?))
        }
        (Family::Unix, _) => Source::Unix,
        _ => return Err(ProxyError::Addresses),
    };
    if !is_local {
        check_fields(header, V2_HEAD + family.len())?;
    }
    Ok(Some((source, header.len())))
}

#[derive(Clone, Copy)]
enum Family {
    Unspecified,
    V4,
    V6,
    Unix,
}

impl Family {
    /// How long its addresses and ports are, in bytes (§2.2).
    const fn len(self) -> usize {
        match self {
            Self::Unspecified => 0,
            Self::V4 => 12,
            Self::V6 => 36,
            Self::Unix => 216,
        }
    }
}

/// The type of a checksum (§2.2.6).
const CRC32C: u8 = 0x03;

/// Goes through the type-length-values of `header` from `start` on: each lies within it, and a checksum is right. What
/// the others say is not looked at.
fn check_fields(header: &[u8], start: usize) -> Result<(), ProxyError> {
    let mut at = start;
    let mut has_checksum = false;
    while let Some(field) = header.get(at..).filter(|rest| !rest.is_empty()) {
        let [kind, high, low, rest @ ..] = field else {
            return Err(ProxyError::Field);
        };
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let value = rest.get(..len).ok_or(ProxyError::Field)?;
        if *kind == CRC32C {
            let stated: [u8; 4] = value.try_into().map_err(|_| ProxyError::Checksum)?;
            if has_checksum || u32::from_be_bytes(stated) != checksum(header, at + 3) {
                return Err(ProxyError::Checksum);
            }
            has_checksum = true;
        }
        at += 3 + len;
    }
    Ok(())
}

/// The CRC32c of a header whose four bytes at `place` count as zeros.
fn checksum(header: &[u8], place: usize) -> u32 {
    let before = header.get(..place).unwrap_or_default();
    let after = header.get(place + 4..).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]), after)
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
