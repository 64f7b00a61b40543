//! The header fields of a request (RFC 9110 §5, RFC 9112 §5), and what they say about a handshake.

use super::super::fields::{Expectation, accepts_html, expectation, has_token, is_authority, is_token_byte};
use super::HEADERS_MAX;
use super::refusal::{Refusal, Refused};
use super::target::{RequestLine, parse_request_line};

/// A head that is HTTP/1 throughout.
pub(super) struct Request<'a> {
    pub(super) method: &'a [u8],
    /// The path without the query, or `*`.
    pub(super) path: &'a [u8],
    pub(super) is_1_0: bool,
    pub(super) upgrade: bool,
    pub(super) connection: bool,
    /// `Accept` has `text/html` by name.
    pub(super) html: bool,
    /// The client waits for `100 Continue`.
    pub(super) expects_continue: bool,
    pub(super) versions: Occurrences<'a>,
    pub(super) keys: Occurrences<'a>,
    pub(super) origins: Occurrences<'a>,
    /// The lists of sub-protocols that are offered, one a line.
    pub(super) offers: Vec<&'a [u8]>,
}

/// A header field that may appear once.
#[derive(Clone, Copy, Default)]
pub(super) struct Occurrences<'a> {
    pub(super) count: usize,
    pub(super) value: &'a [u8],
}

impl<'a> Occurrences<'a> {
    fn add(&mut self, value: &'a [u8]) {
        self.count += 1;
        self.value = value;
    }
}

/// Takes a complete head apart. The header fields are left to httparse, once.
pub(super) fn parse(head: &[u8], fields_max: usize) -> Result<Request<'_>, Refused> {
    let line_end = memchr::memchr(b'\r', head).ok_or(Refusal::Malformed)?;
    let (line, fields) = head.split_at_checked(line_end).ok_or(Refusal::Malformed)?;
    let Some(fields) = fields.strip_prefix(b"\r\n") else {
        let why = format!(
            "the byte 0x0D at position {} is not followed by 0x0A: end each line with CR LF",
            line_end + 1
        );
        return Err(Refusal::Malformed.because(why));
    };
    let RequestLine { method, path, is_1_0 } = parse_request_line(line)?;

    let mut few = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut many = Vec::new();
    let storage = storage(&mut few, &mut many, fields, fields_max);
    let headers = match httparse::parse_headers(fields, storage) {
        Ok(httparse::Status::Complete((consumed, headers))) if consumed == fields.len() => headers,
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal::TooManyHeaders.because(format!(
                "the request has more than {fields_max} header fields: send fewer, or raise --max-head-fields"
            )));
        }
        _ => return Err(fault_of_fields(fields)),
    };
    let mut hosts = Occurrences::default();
    let mut lengths = Occurrences::default();
    let mut is_encoded = false;
    let mut expects_other = false;
    let mut request = Request {
        method,
        path,
        is_1_0,
        upgrade: false,
        connection: false,
        html: false,
        expects_continue: false,
        versions: Occurrences::default(),
        keys: Occurrences::default(),
        origins: Occurrences::default(),
        offers: Vec::new(),
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
        } else if name.eq_ignore_ascii_case("sec-websocket-protocol") {
            request.offers.push(header.value);
        } else if name.eq_ignore_ascii_case("origin") {
            request.origins.add(header.value);
        } else if name.eq_ignore_ascii_case("accept") {
            request.html |= accepts_html(header.value);
        } else if name.eq_ignore_ascii_case("content-length") {
            lengths.add(header.value);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            is_encoded = true;
        } else if name.eq_ignore_ascii_case("expect") {
            match expectation(header.value) {
                Expectation::None => {}
                Expectation::Continue => request.expects_continue = true,
                Expectation::Other => expects_other = true,
            }
        }
    }
    check_host(hosts, is_1_0)?;
    check_body(lengths, is_encoded)?;
    // An expectation in HTTP/1.0 is ignored (RFC 9110 §10.1.1); one of 100 is of no use there, where no upgrade is.
    if expects_other && !is_1_0 {
        return Err(Refusal::Expectation.into());
    }
    Ok(request)
}

/// Room for `max` fields, on the heap where it is more than most requests have; no more than there are lines.
fn storage<'s, 'h>(
    few: &'s mut [httparse::Header<'h>],
    many: &'s mut Vec<httparse::Header<'h>>,
    fields: &[u8],
    max: usize,
) -> &'s mut [httparse::Header<'h>] {
    if max > few.len() {
        let lines = memchr::memchr_iter(b'\n', fields).count().min(max);
        if lines > few.len() {
            many.resize(lines, httparse::EMPTY_HEADER);
            return many;
        }
    }
    let len = few.len().min(max);
    few.get_mut(..len).unwrap_or_default()
}

/// A request of HTTP/1.1 has exactly one `Host`, one of HTTP/1.0 at most one (RFC 9112 §3.2).
fn check_host(hosts: Occurrences<'_>, is_1_0: bool) -> Result<(), Refused> {
    let why = match hosts.count {
        0 if is_1_0 => return Ok(()),
        1 if is_authority(hosts.value) => return Ok(()),
        0 => "the Host field is missing: HTTP/1.1 needs exactly one".to_owned(),
        1 => {
            let is_bad = |byte: u8| !byte.is_ascii_alphanumeric() && !b"-._~!$&'()*+,;=%:[]".contains(&byte);
            let cure = "send a name or an address, and a port up to 65535";
            match hosts
                .value
                .iter()
                .position(|&byte| is_bad(byte))
                .and_then(|at| hosts.value.get(at).zip(Some(at)))
            {
                Some((byte, at)) => {
                    format!("the Host field has the byte 0x{byte:02X} at position {}: {cure}", at + 1)
                }
                None => format!("the Host field holds no valid host: {cure}; an IPv6 address has brackets"),
            }
        }
        count => format!("there are {count} Host fields: send exactly one"),
    };
    Err(Refusal::Host.because(why))
}

/// No request here has a body. `Content-Length: 0` says just that; any other form of it is what proxies disagree about
/// (RFC 9112 §6, §11.2).
fn check_body(lengths: Occurrences<'_>, is_encoded: bool) -> Result<(), Refused> {
    let why = match (is_encoded, lengths.count, lengths.value) {
        (false, 0, _) | (false, 1, b"0") => return Ok(()),
        (true, ..) => {
            "the Transfer-Encoding field announces a body, and a request to this server has none: leave it out"
        }
        (false, 1, _) => {
            "the Content-Length field is not exactly 0, and a request to this server has no body: leave it out"
        }
        _ => {
            "there is more than one Content-Length field, and a request to this server has no body: leave them out"
        }
    };
    Err(Refusal::Body.because(why))
}

/// What is wrong with the lines that httparse has refused: the first of them, by its number from 1 on.
#[cold]
fn fault_of_fields(fields: &[u8]) -> Refused {
    let lines = fields.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let fault = lines.zip(1_usize..).find_map(|(line, number)| {
        let why = fault_of_field(line)?;
        let name = known_name(line).map(|name| format!(" ({name})")).unwrap_or_default();
        Some(format!("header field {number}{name} {why}"))
    });
    fault.map_or_else(|| Refusal::Malformed.into(), |why| Refusal::Malformed.because(why))
}

fn fault_of_field(line: &[u8]) -> Option<String> {
    let is_blank = |byte: u8| matches!(byte, b' ' | b'\t');
    match line.first() {
        None => return None,
        Some(&first) if is_blank(first) => {
            return Some(format!(
                "begins with the byte 0x{first:02X}, as a folded line does: put each field on one line, from its name on"
            ));
        }
        Some(_) => {}
    }
    let Some(colon) = memchr::memchr(b':', line) else {
        return Some("has no colon (0x3A) behind its name".into());
    };
    if colon == 0 {
        return Some("has no name before its colon (0x3A)".into());
    }
    let is_bad = |(at, byte): (usize, u8)| match at < colon {
        true => !is_token_byte(byte),
        false => byte == 0x7F || byte < b' ' && byte != b'\t',
    };
    let (at, byte) = line.iter().copied().enumerate().find(|&place| is_bad(place))?;
    let (place, cure) = if at < colon {
        ("its name", "a name is a token, and its colon follows at once")
    } else {
        ("its value", "a value has no control characters")
    };
    Some(format!("has the byte 0x{byte:02X} in {place}, at position {} of the line: {cure}", at + 1))
}

/// The name of a field, where it is one that this server reads: no other is repeated to the client.
fn known_name(line: &[u8]) -> Option<&'static str> {
    const KNOWN: [&str; 11] = [
        "Host",
        "Upgrade",
        "Connection",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Version",
        "Sec-WebSocket-Protocol",
        "Origin",
        "Accept",
        "Content-Length",
        "Transfer-Encoding",
        "Expect",
    ];
    let name = line.split(|&byte| byte == b':').next().unwrap_or_default().trim_ascii();
    KNOWN.into_iter().find(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}
