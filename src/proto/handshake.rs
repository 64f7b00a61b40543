//! The opening handshake (RFC 6455 §4.2), and the refusal of everything else that HTTP lets through.
//!
//! The order of calls: [`Handshake::receive`] with what has arrived until it gives a [`Step`] other than `More`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

pub use super::page::{Document, Page, page_response};
use super::page::{accepts_html, whole_response};

/// The longest head, in bytes, up to and with its empty line.
pub const HEAD_MAX: usize = 8 << 10;

/// The most header fields of a head.
pub const HEADERS_MAX: usize = 64;

/// The one protocol version that there is (RFC 6455 §4.1).
const VERSION: &str = "13";

/// What a server takes.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The path on which WebSocket is spoken: compared byte for byte, without the query.
    pub path: String,
    /// What `GET /` answers.
    pub page: Page,
    /// The origins that a browser's page may have, compared byte for byte; empty for any (RFC 6455 §10.2).
    pub allowed_origins: Vec<String>,
}

/// The server's side of one handshake.
#[derive(Debug, Default)]
pub struct Handshake {
    /// The head so far, where it comes in pieces. Its first `scanned` bytes have no end in them.
    head: Vec<u8>,
    scanned: usize,
    /// How many bytes were looked at in search of the end; for tests.
    #[cfg(test)]
    looked_at: usize,
}

/// What came of the bytes so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The head is not complete.
    More,
    /// A good handshake: send `response`; then the first frames begin behind the `consumed` bytes of the last piece.
    Accepted {
        /// The 101 response.
        response: Vec<u8>,
        /// How many bytes of the last piece belong to the head.
        consumed: usize,
    },
    /// A request for the page: send [`page_response`], then end the connection.
    Page {
        /// Whether it is a browser's, and so answered by [`Page::html`].
        html: bool,
    },
    /// Not a handshake: send [`Refusal::response`], then end the connection. Nothing behind it is parsed.
    Refused(Refusal),
}

/// Why a request was refused, and so the status that answers it. Counters are kept by these names in snake case.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::VariantArray, thiserror::Error,
)]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum Refusal {
    /// The head is not HTTP/1.1 as RFC 9112 has it.
    #[error("the request is malformed")]
    Malformed,
    /// `Host` is missing, doubled, or not a host (RFC 9112 §3.2).
    #[error("there is not exactly one valid Host header")]
    Host,
    /// The request has, or may have, a body.
    #[error("a handshake has no body: Content-Length and Transfer-Encoding are refused")]
    Body,
    /// `Connection` does not contain `upgrade` (RFC 6455 §4.2.1).
    #[error("the Connection header does not contain \"upgrade\"")]
    Connection,
    /// `Sec-WebSocket-Key` is missing, doubled, or not the base64 of 16 bytes (RFC 6455 §4.2.1).
    #[error("there is not exactly one Sec-WebSocket-Key of 16 bytes in base64")]
    Key,
    /// `Sec-WebSocket-Version` appears more than once (RFC 6455 §11.3.5).
    #[error("there is more than one Sec-WebSocket-Version header")]
    DoubleVersion,
    /// `Origin` is none of those allowed (RFC 6455 §4.2.2, §10.2).
    #[error("this origin is not allowed")]
    Origin,
    /// Nothing is served at this path.
    #[error("nothing is served at this path")]
    NotFound,
    /// The method is not GET.
    #[error("the method is not GET")]
    Method,
    /// The method is HEAD, whose response has no content (RFC 9110 §9.3.2).
    #[error("the method is HEAD and not GET")]
    Head,
    /// The deadline of the handshake has passed.
    #[error("the request did not arrive in time")]
    Timeout,
    /// The request does not ask for `websocket`.
    #[error("this path speaks WebSocket: the Upgrade header does not contain \"websocket\"")]
    NotUpgrade,
    /// `Sec-WebSocket-Version` is not 13 (RFC 6455 §4.2.2).
    #[error("the Sec-WebSocket-Version is not 13")]
    Version,
    /// The head is longer than [`HEAD_MAX`].
    #[error("the request head is longer than 8 KiB")]
    HeadTooLong,
    /// The head has more than [`HEADERS_MAX`] fields.
    #[error("the request has more than 64 header fields")]
    TooManyHeaders,
    /// There are as many connections as are allowed.
    #[error("there are too many connections, try again later")]
    Full,
    /// The server is about to stop.
    #[error("the server is going away")]
    Draining,
    /// The major version of HTTP is not 1 (RFC 9110 §15.6.6).
    #[error("the HTTP version is not 1.1")]
    HttpVersion,
}

impl Refusal {
    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed
            | Self::Host
            | Self::Body
            | Self::Connection
            | Self::Key
            | Self::DoubleVersion => 400,
            Self::Origin => 403,
            Self::NotFound => 404,
            Self::Method | Self::Head => 405,
            Self::Timeout => 408,
            Self::NotUpgrade | Self::Version => 426,
            Self::HeadTooLong | Self::TooManyHeaders => 431,
            Self::Full | Self::Draining => 503,
            Self::HttpVersion => 505,
        }
    }

    /// The whole HTTP response: the status, one line of text that says why, and `Connection: close`.
    ///
    /// `date` is the present time as RFC 9110 §5.6.7 writes it; a server with a clock has to say it (§6.6.1).
    #[must_use]
    pub fn response(self, date: &str) -> Vec<u8> {
        let (reason, extra) = match self.status() {
            403 => ("Forbidden", ""),
            404 => ("Not Found", ""),
            405 => ("Method Not Allowed", "Allow: GET\r\n"),
            408 => ("Request Timeout", ""),
            426 => ("Upgrade Required", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"),
            431 => ("Request Header Fields Too Large", ""),
            503 => ("Service Unavailable", "Retry-After: 1\r\n"),
            505 => ("HTTP Version Not Supported", ""),
            _ => ("Bad Request", ""),
        };
        let connection = if self.status() == 426 { "Upgrade, close" } else { "close" };
        let status = format!("{} {reason}", self.status());
        let mut response = whole_response(
            &status,
            connection,
            "text/plain; charset=utf-8",
            extra,
            date,
            &format!("{self}\n"),
        );
        if self == Self::Head {
            let end = memchr::memmem::find(&response, b"\r\n\r\n").map_or(response.len(), |at| at + 4);
            response.truncate(end);
        }
        response
    }
}

impl Handshake {
    /// A handshake of which nothing has arrived.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the request, and whatever is behind it.
    pub fn receive(&mut self, piece: &[u8], rules: &Rules) -> Step {
        let before = self.head.len();
        // What lies behind the limit is not looked at, so that it does not matter how much has come at once.
        let room = (HEAD_MAX - before).min(piece.len());
        let within = piece.get(..room).unwrap_or_default();
        let all = if before == 0 {
            within
        } else {
            self.head.extend_from_slice(within);
            &self.head
        };
        let searched = find_end(all, self.scanned);
        #[cfg(test)]
        {
            self.looked_at += all.len() - self.scanned;
        }
        match searched {
            Ok(Some(end)) => {
                let step = judge(all.get(..end).unwrap_or_default(), rules, end - before);
                self.head = Vec::new();
                step
            }
            Ok(None) if all.len() < HEAD_MAX => {
                self.scanned = all.len();
                if before == 0 {
                    self.head.extend_from_slice(within);
                }
                Step::More
            }
            Ok(None) => Step::Refused(Refusal::HeadTooLong),
            Err(refusal) => Step::Refused(refusal),
        }
    }
}

/// Where the head ends, if it does; its first `scanned` bytes were searched before. A line that does not end in CR LF
/// and an empty first line are refused as soon as they are seen.
fn find_end(bytes: &[u8], scanned: usize) -> Result<Option<usize>, Refusal> {
    if scanned == 0 && bytes.first().is_some_and(|&first| !is_token_byte(first)) {
        return Err(Refusal::Malformed);
    }
    let unseen = bytes.get(scanned..).unwrap_or_default();
    for newline in memchr::memchr_iter(b'\n', unseen) {
        let line = bytes.get(..scanned + newline).unwrap_or_default();
        match line {
            [.., b'\n', b'\r'] => return Ok(Some(line.len() + 1)),
            [.., b'\r'] => {}
            _ => return Err(Refusal::Malformed),
        }
    }
    Ok(None)
}

/// Judges a complete head of which the last `consumed` bytes were in the last piece.
fn judge(head: &[u8], rules: &Rules, consumed: usize) -> Step {
    match parse(head).and_then(|request| answer(&request, rules)) {
        Ok(Answer::Accept(key)) => Step::Accepted { response: accept_response(key), consumed },
        Ok(Answer::Page { html }) => Step::Page { html },
        Err(refusal) => Step::Refused(refusal),
    }
}

enum Answer<'a> {
    /// With the client's key.
    Accept(&'a [u8]),
    Page {
        html: bool,
    },
}

/// A head that is HTTP/1.1 throughout.
struct Request<'a> {
    method: &'a str,
    /// Without the query.
    path: &'a str,
    upgrade: bool,
    connection: bool,
    /// Whether `text/html` is accepted by name.
    html: bool,
    versions: Occurrences<'a>,
    keys: Occurrences<'a>,
    origins: Occurrences<'a>,
}

/// A header field that may appear once.
#[derive(Clone, Copy, Default)]
struct Occurrences<'a> {
    count: usize,
    value: &'a [u8],
}

impl<'a> Occurrences<'a> {
    fn add(&mut self, value: &'a [u8]) {
        self.count += 1;
        self.value = value;
    }
}

/// Takes a head apart. The request line is read by hand, for it has to be stricter than httparse; the header fields
/// are left to httparse, once.
fn parse(head: &[u8]) -> Result<Request<'_>, Refusal> {
    let line_end = memchr::memchr(b'\r', head).ok_or(Refusal::Malformed)?;
    let (line, fields) = head.split_at_checked(line_end).ok_or(Refusal::Malformed)?;
    let fields = fields.strip_prefix(b"\r\n").ok_or(Refusal::Malformed)?;
    let (method, path) = parse_request_line(line)?;

    let mut storage = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let headers = match httparse::parse_headers(fields, &mut storage) {
        Ok(httparse::Status::Complete((consumed, headers))) if consumed == fields.len() => headers,
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TooManyHeaders),
        _ => return Err(Refusal::Malformed),
    };
    let mut hosts = Occurrences::default();
    let mut has_body = false;
    let mut request = Request {
        method,
        path,
        upgrade: false,
        connection: false,
        html: false,
        versions: Occurrences::default(),
        keys: Occurrences::default(),
        origins: Occurrences::default(),
    };
    for header in headers {
        let name = header.name;
        if name.eq_ignore_ascii_case("host") {
            hosts.add(header.value);
        } else if name.eq_ignore_ascii_case("upgrade") {
            request.upgrade |= has_token(header.value, "websocket");
        } else if name.eq_ignore_ascii_case("connection") {
            request.connection |= has_token(header.value, "upgrade");
        } else if name.eq_ignore_ascii_case("sec-websocket-key") {
            request.keys.add(header.value);
        } else if name.eq_ignore_ascii_case("sec-websocket-version") {
            request.versions.add(header.value);
        } else if name.eq_ignore_ascii_case("origin") {
            request.origins.add(header.value);
        } else if name.eq_ignore_ascii_case("accept") {
            request.html |= accepts_html(header.value);
        } else if name.eq_ignore_ascii_case("content-length")
            || name.eq_ignore_ascii_case("transfer-encoding")
        {
            has_body = true;
        }
    }
    if hosts.count != 1 || !is_authority(hosts.value) {
        return Err(Refusal::Host);
    }
    if has_body {
        return Err(Refusal::Body);
    }
    Ok(request)
}

/// Method and path of `method SP request-target SP HTTP-version` (RFC 9112 §3).
fn parse_request_line(line: &[u8]) -> Result<(&str, &str), Refusal> {
    let line = str::from_utf8(line).map_err(|_| Refusal::Malformed)?;
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Refusal::Malformed);
    };
    if method.is_empty() || !method.bytes().all(is_token_byte) {
        return Err(Refusal::Malformed);
    }
    match version.strip_prefix("HTTP/").map(str::as_bytes) {
        // A minor version above 1 is treated as 1 (RFC 9110 §2.5); HTTP/1.0 knows no Upgrade (RFC 6455 §4.1).
        Some([b'1', b'.', b'1'..=b'9']) => {}
        Some([b'0' | b'2'..=b'9', b'.', b'0'..=b'9']) => return Err(Refusal::HttpVersion),
        _ => return Err(Refusal::Malformed),
    }
    Ok((method, parse_path(target)?))
}

/// The path of a target in origin form, or in absolute form (RFC 9112 §3.2). Bytes that no URI may contain are refused.
fn parse_path(target: &str) -> Result<&str, Refusal> {
    let is_uri_byte = |byte: u8| byte.is_ascii_graphic() && !b"\"#<>\\^`{|}".contains(&byte);
    if !target.bytes().all(is_uri_byte) {
        return Err(Refusal::Malformed);
    }
    let path_and_query = if target.starts_with('/') {
        target
    } else {
        let (scheme, rest) = target.split_once("://").ok_or(Refusal::Malformed)?;
        if !["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return Err(Refusal::Malformed);
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path_and_query) = rest.split_at_checked(end).ok_or(Refusal::Malformed)?;
        if !is_authority(authority.as_bytes()) {
            return Err(Refusal::Malformed);
        }
        path_and_query
    };
    let path = path_and_query.split('?').next().unwrap_or_default();
    // "If the path is empty, the client sends `/`" (RFC 9112 §3.2.1).
    Ok(if path.is_empty() { "/" } else { path })
}

/// Decides over a well-formed request, the more general reason first.
fn answer<'a>(request: &Request<'a>, rules: &Rules) -> Result<Answer<'a>, Refusal> {
    let is_socket = request.path == rules.path;
    match request.method {
        "GET" => {}
        "HEAD" => return Err(Refusal::Head),
        _ => return Err(Refusal::Method),
    }
    let page = Answer::Page { html: request.html };
    if !is_socket {
        return if request.path == "/" { Ok(page) } else { Err(Refusal::NotFound) };
    }
    if !request.upgrade {
        // A plain GET on the socket's path, or on `/` where that is the page's too.
        return if request.path == "/" { Ok(page) } else { Err(Refusal::NotUpgrade) };
    }
    if !request.connection {
        return Err(Refusal::Connection);
    }
    if request.versions.count > 1 {
        return Err(Refusal::DoubleVersion);
    }
    if request.versions.value != VERSION.as_bytes() {
        return Err(Refusal::Version);
    }
    let key = request.keys.value;
    let mut nonce = [0; 18];
    let decoded = STANDARD.decode_slice(key, &mut nonce);
    if request.keys.count != 1 || decoded != Ok(16) {
        return Err(Refusal::Key);
    }
    if !is_allowed(request.origins, &rules.allowed_origins) {
        return Err(Refusal::Origin);
    }
    Ok(Answer::Accept(key))
}

/// Whoever sends no `Origin` is not a browser and needs no permission.
fn is_allowed(origins: Occurrences<'_>, allowed: &[String]) -> bool {
    let is_listed = || allowed.iter().any(|allowed| allowed.as_bytes() == origins.value);
    allowed.is_empty() || origins.count == 0 || origins.count == 1 && is_listed()
}

/// The value of `Sec-WebSocket-Accept` for a key: both in base64 (RFC 6455 §4.2.2).
#[must_use]
pub fn accept_key(key: &[u8]) -> String {
    let mut sha1 = Sha1::new();
    sha1.update(key);
    sha1.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(sha1.finalize())
}

fn accept_response(key: &[u8]) -> Vec<u8> {
    let accept = accept_key(key);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
    .into_bytes()
}

/// Whether a comma-separated list of tokens contains `token`, in any case (RFC 9110 §5.6.1).
fn has_token(list: &[u8], token: &str) -> bool {
    list.split(|&byte| byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// `tchar` (RFC 9110 §5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// `uri-host [ ":" port ]` with a host that is not empty (RFC 9110 §7.2, RFC 3986 §3.2.2).
fn is_authority(value: &[u8]) -> bool {
    let Ok(value) = str::from_utf8(value) else {
        return false;
    };
    let (is_host, port) = if let Some(bracketed) = value.strip_prefix('[') {
        let Some((address, port)) = bracketed.split_once(']') else {
            return false;
        };
        (address.parse::<std::net::Ipv6Addr>().is_ok(), port)
    } else {
        let (host, port) = value.split_at(value.find(':').unwrap_or(value.len()));
        (is_reg_name(host), port)
    };
    let is_port = match port.strip_prefix(':') {
        Some(digits) => {
            digits.is_empty() || digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok()
        }
        None => port.is_empty(),
    };
    is_host && is_port
}

/// `reg-name`, not empty: unreserved, sub-delims and percent-encoded bytes.
fn is_reg_name(host: &str) -> bool {
    let mut bytes = host.bytes();
    while let Some(byte) = bytes.next() {
        let good = match byte {
            b'%' => {
                let is_hex = |digit: Option<u8>| digit.is_some_and(|digit| digit.is_ascii_hexdigit());
                is_hex(bytes.next()) && is_hex(bytes.next())
            }
            _ => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte),
        };
        if !good {
            return false;
        }
    }
    !host.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules { path: "/ws".into(), page: Page::default(), allowed_origins: Vec::new() }
    }

    const GOOD: &str = "GET /ws HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

    #[test]
    fn the_sample_of_the_rfc_is_accepted() {
        let step = Handshake::new().receive(GOOD.as_bytes(), &rules());
        let Step::Accepted { response, consumed } = step else { panic!("{step:?}") };
        assert_eq!(consumed, GOOD.len());
        let response = String::from_utf8(response).unwrap();
        assert!(response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{response}");
    }

    #[test]
    fn fed_byte_by_byte_each_byte_is_looked_at_once() {
        let mut handshake = Handshake::new();
        let (last, rest) = GOOD.as_bytes().split_last().unwrap();
        for byte in rest {
            assert_eq!(handshake.receive(std::slice::from_ref(byte), &rules()), Step::More);
        }
        let step = handshake.receive(&[*last, 0x81], &rules());
        assert!(matches!(step, Step::Accepted { consumed: 1, .. }), "{step:?}");
        assert!(handshake.looked_at <= 2 * GOOD.len(), "{} bytes", handshake.looked_at);
    }

    #[test]
    fn a_head_of_exactly_the_limit_is_taken_and_one_byte_more_is_not() {
        for (len, accepted) in [(HEAD_MAX, true), (HEAD_MAX + 1, false)] {
            let filler = "x".repeat(len - GOOD.len() - "X: \r\n".len());
            let head = GOOD.replacen("Host", &format!("X: {filler}\r\nHost"), 1);
            assert_eq!(head.len(), len);
            let whole = Handshake::new().receive(head.as_bytes(), &rules());
            assert_eq!(matches!(whole, Step::Accepted { .. }), accepted);
            let mut handshake = Handshake::new();
            let mut step = Step::More;
            for byte in head.as_bytes() {
                step = handshake.receive(std::slice::from_ref(byte), &rules());
                if step != Step::More {
                    break;
                }
            }
            assert_eq!(matches!(step, Step::Accepted { .. }), accepted);
            if !accepted {
                assert_eq!(step, Step::Refused(Refusal::HeadTooLong));
            }
        }
    }
}
