//! The request line (RFC 9112 §3). It is read by hand: httparse takes more than a strict server may, and less than browsers
//! send.

use std::iter;

use super::super::fields::{is_authority, is_token_byte};
use super::answer::{METHODS, unknown_method};
use super::refusal::{Refusal, Refused};

/// What a request line says.
pub(super) struct RequestLine<'a> {
    pub(super) method: &'a [u8],
    /// The path without the query; `*` where the target is the asterisk form of OPTIONS.
    pub(super) path: &'a [u8],
    /// The request is HTTP/1.0, which has no upgrade and needs no Host.
    pub(super) is_1_0: bool,
}

/// Takes `method SP request-target SP HTTP-version` apart.
pub(super) fn parse_request_line(line: &[u8]) -> Result<RequestLine<'_>, Refused> {
    let (method, rest) = split_at_space(line);
    if method == b"PROXY" {
        let why = "a header of the PROXY protocol stands before the request: start the server with --proxy-protocol v1";
        return Err(Refusal::Malformed.because(why));
    }
    if let Some(at) = method.iter().position(|&byte| !is_token_byte(byte)) {
        return Err(bad_byte(method, at, "method", "a method is letters, and one space (0x20) follows it"));
    }
    let Some(rest) = rest else {
        let why = "the request line is one word: send a method, a target and HTTP/1.1, one space (0x20) between them";
        return Err(Refusal::Malformed.because(why));
    };
    let (target, version) = split_at_space(rest);
    let Some(version) = version else {
        if version_number(target).is_some() {
            let why = "the request line has no target: send a path, such as /ws, between the method and the version";
            return Err(Refusal::Malformed.because(why));
        }
        let why = "the request line has no version, as in HTTP/0.9: it has to end in HTTP/1.1";
        return Err(Refusal::Malformed.because(why));
    };
    if target.is_empty() || version.contains(&b' ') {
        let spaces = line.iter().filter(|&&byte| byte == b' ').count();
        let why = format!(
            "the request line has {spaces} spaces (0x20) and not 2: send one before and one behind the target, and a space \
             within it as %20"
        );
        return Err(Refusal::Malformed.because(why));
    }
    let is_1_0 = parse_version(version)?;
    Ok(RequestLine { method, path: parse_target(method, target)?, is_1_0 })
}

/// Whether two paths identify the same resource: bytes other than reserved ones are equivalent to their percent-encoded
/// form (RFC 9110 §4.2.3, RFC 3986 §6.2.2).
pub(super) fn is_same_path(a: &[u8], b: &[u8]) -> bool {
    a == b || octets(a).eq(octets(b))
}

/// Whether the version is HTTP/1.0. A minor version above 1 is treated as 1 (RFC 9110 §2.5).
fn parse_version(version: &[u8]) -> Result<bool, Refused> {
    match version {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => return Ok(false),
        b"HTTP/1.0" => return Ok(true),
        _ => {}
    }
    let Some(number) = version_number(version) else {
        let why = "the request line does not end in an HTTP version: send HTTP/1.1";
        return Err(Refusal::Malformed.because(why));
    };
    if !version.starts_with(b"HTTP/") {
        let why = format!("the version HTTP/{number} is written with small letters: send HTTP/1.1");
        return Err(Refusal::Malformed.because(why));
    }
    Err(match number.as_bytes() {
        [b'0' | b'2'..=b'9', b'.', b'0'..=b'9'] => Refusal::HttpVersion.because(format!(
            "HTTP/{number} is not spoken here: use HTTP/1.1, and let a proxy translate for clients of other versions"
        )),
        _ => Refusal::Malformed.because(format!(
            "HTTP/{number} is not a version of HTTP, which has one digit, a dot and one digit: send HTTP/1.1"
        )),
    })
}

/// The number of what looks like an HTTP version in any case: some digits and dots, and so safe to repeat.
fn version_number(version: &[u8]) -> Option<&str> {
    let (name, number) = version.split_at_checked(5)?;
    let is_number =
        (1..=5).contains(&number.len()) && number.iter().all(|&byte| byte.is_ascii_digit() || byte == b'.');
    (name.eq_ignore_ascii_case(b"HTTP/") && is_number).then(|| str::from_utf8(number).ok())?
}

/// The path of a target (RFC 9112 §3.2): in origin form, in absolute form, or `*` for OPTIONS.
fn parse_target<'a>(method: &[u8], target: &'a [u8]) -> Result<&'a [u8], Refused> {
    let mut start = 0;
    if target.first() != Some(&b'/') {
        if target == b"*" && method == b"OPTIONS" {
            return Ok(target);
        }
        // Other methods have forms of their own, as CONNECT has.
        if !METHODS.contains(&method) {
            return Err(unknown_method(method));
        }
        start = parse_scheme_and_authority(target)?;
    }
    let origin_form = target.get(start..).unwrap_or_default();
    let path_end = origin_form.iter().position(|&byte| !is_path_byte(byte)).unwrap_or(origin_form.len());
    let (path, rest) = origin_form.split_at_checked(path_end).unwrap_or_default();
    if rest.first().is_some_and(|&byte| byte != b'?') {
        return Err(bad_target_byte(target, start + path_end));
    }
    if let Some(at) = rest.iter().position(|&byte| !is_query_byte(byte)) {
        return Err(bad_target_byte(target, start + path_end + at));
    }
    // "If the path is empty, the client sends `/`" (RFC 9112 §3.2.1).
    Ok(if path.is_empty() { b"/" } else { path })
}

/// Where path or query begin in a target in absolute form (RFC 9112 §3.2.2).
fn parse_scheme_and_authority(target: &[u8]) -> Result<usize, Refused> {
    if let Some(at) = target.iter().position(|&byte| !is_query_byte(byte)) {
        return Err(bad_target_byte(target, at));
    }
    let colon = memchr::memmem::find(target, b"://");
    let (scheme, rest) = colon.and_then(|colon| target.split_at_checked(colon)).ok_or_else(|| {
        let first = target.first().copied().unwrap_or_default();
        Refusal::Malformed.because(format!(
            "the target begins with the byte 0x{first:02X}, and neither with / (0x2F) nor with http:// or ws://: send the path"
        ))
    })?;
    if ![&b"http"[..], b"https", b"ws", b"wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        let why = "the scheme of the target is not http, https, ws or wss: send the path alone, from its / (0x2F) on";
        return Err(Refusal::Malformed.because(why));
    }
    let behind = rest.strip_prefix(b"://").unwrap_or_default();
    let end = behind.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(behind.len());
    if !behind.get(..end).is_some_and(is_authority) {
        let why =
            "the target names no valid host: send a name or an address, and a port up to 65535, without user";
        return Err(Refusal::Malformed.because(why));
    }
    Ok(scheme.len() + 3 + end)
}

fn bad_target_byte(target: &[u8], at: usize) -> Refused {
    match target.get(at) {
        Some(b'#') => bad_byte(target, at, "target", "a client keeps a fragment, from # on, to itself"),
        Some(byte) => bad_byte(target, at, "target", format!("send it percent-encoded, as %{byte:02X}")),
        None => Refusal::Malformed.into(),
    }
}

/// The byte at `at` may not stand there. Positions are told from 1 on.
fn bad_byte(bytes: &[u8], at: usize, place: &str, cure: impl AsRef<str>) -> Refused {
    let byte = bytes.get(at).copied().unwrap_or_default();
    let cure = cure.as_ref();
    Refusal::Malformed
        .because(format!("the {place} has the byte 0x{byte:02X} at position {}: {cure}", at + 1))
}

/// What comes before the first space, and what behind it if there is one.
fn split_at_space(bytes: &[u8]) -> (&[u8], Option<&[u8]>) {
    let Some((before, rest)) = memchr::memchr(b' ', bytes).and_then(|at| bytes.split_at_checked(at)) else {
        return (bytes, None);
    };
    (before, rest.get(1..))
}

/// What a query may hold: everything that browsers do not encode there (query percent-encode set of the WHATWG URL
/// Standard, §1.3). That is more than RFC 3986 has.
const fn is_query_byte(byte: u8) -> bool {
    !matches!(byte, 0..=b' ' | 0x7F | b'"' | b'#' | b'<' | b'>')
}

/// What a path may hold, by the path percent-encode set. Browsers turn a backslash into a slash.
const fn is_path_byte(byte: u8) -> bool {
    is_query_byte(byte) && !matches!(byte, b'?' | b'\\' | b'^' | b'`' | b'{' | b'}')
}

/// The bytes of a path, each with whether it has to stay percent-encoded: a reserved byte (RFC 3986 §2.2) or `%`.
fn octets(path: &[u8]) -> impl Iterator<Item = (u8, bool)> {
    let mut rest = path;
    iter::from_fn(move || {
        let (octet, behind) = match rest {
            [b'%', high, low, behind @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let octet = hex(*high) << 4 | hex(*low);
                ((octet, octet == b'%' || b":/?#[]@!$&'()*+,;=".contains(&octet)), behind)
            }
            [octet, behind @ ..] => ((*octet, false), behind),
            [] => return None,
        };
        rest = behind;
        Some(octet)
    })
}

const fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equivalent_paths_are_the_same() {
        for (a, b, same) in [
            ("/ws", "/ws", true),
            ("/ws", "/%77s", true),
            ("/%77%73", "/ws", true),
            ("/ws", "/WS", false),
            ("/ws", "//ws", false),
            ("/ws", "/ws/", false),
            ("/ws", "/%57s", false),
            ("/gr\u{FC}n", "/gr%C3%BCn", true),
            ("/gr%c3%bcn", "/gr%C3%BCn", true),
            ("/gr\u{FC}n", "/gr%FCn", false),
            ("/a%20b", "/a%20b", true),
            ("/a|b", "/a%7Cb", true),
            ("/{a}", "/%7Ba%7D", true),
            // Reserved bytes are not their encoded forms (RFC 3986 §2.2).
            ("/a/b", "/a%2Fb", false),
            ("/a%2fb", "/a%2Fb", true),
            ("/a;b", "/a%3Bb", false),
            ("/%77", "/%2577", false),
            ("/a%zz", "/a%zz", true),
            ("/a%7", "/a%7", true),
        ] {
            assert_eq!(is_same_path(a.as_bytes(), b.as_bytes()), same, "{a} {b}");
            assert_eq!(is_same_path(b.as_bytes(), a.as_bytes()), same, "{b} {a}");
        }
    }

    #[test]
    fn each_byte_of_a_target_passes_or_is_named() {
        for byte in 0..=u8::MAX {
            let in_path = [b"GET /a".as_slice(), &[byte], b"b HTTP/1.1"].concat();
            let in_query = [b"GET /a?".as_slice(), &[byte], b"b HTTP/1.1"].concat();
            let never = matches!(byte, 0..=b' ' | 0x7F | b'"' | b'#' | b'<' | b'>');
            for (line, position, refused) in
                [(in_path, 3, never || b"\\^`{}".contains(&byte)), (in_query, 4, never)]
            {
                match parse_request_line(&line) {
                    Ok(_) => assert!(!refused, "0x{byte:02X} at {position}"),
                    Err(error) => {
                        assert!(refused && error.why().contains(&format!("0x{byte:02X}")), "{}", error.why());
                        let named = error.why().contains(&format!("at position {position}:"));
                        assert!(named || byte == b' ', "{}", error.why());
                    }
                }
            }
        }
    }
}
