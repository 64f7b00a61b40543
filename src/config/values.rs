//! The values of options, read strictly. Each error says what a value looks like.

use std::time::Duration;

use bytesize::ByteSize;

use super::address::Address;
use crate::proto::fields::is_token;
use crate::proto::handshake::{ANY, HEAD_MAX_RANGE, HEADERS_MAX_RANGE};

pub(crate) fn parse_path(path: &str) -> Result<String, String> {
    let is_bad = |c: char| matches!(c, '?' | '#') || c.is_control() || c.is_whitespace();
    if path == ANY || path.starts_with('/') && !path.contains(is_bad) {
        Ok(path.to_owned())
    } else {
        Err("a path begins with `/` and has no query, fragment or white space (send a space as %20); a comma ends it; \
             `*` stands for any path"
            .into())
    }
}

pub(crate) fn parse_subprotocol(name: &str) -> Result<String, String> {
    if is_token(name.as_bytes()) {
        Ok(name.to_owned())
    } else {
        Err("the name of a sub-protocol is letters, digits and !#$%&'*+-.^_`|~".into())
    }
}

/// An origin as browsers send it (RFC 6454 §6.2): it is compared byte for byte, so that another form of it would never
/// match.
pub(crate) fn parse_origin(origin: &str) -> Result<String, String> {
    if origin == "null" {
        return Ok(origin.to_owned());
    }
    let Some((scheme, rest)) = origin.split_once("://") else {
        return Err("an origin is like https://example.com or http://localhost:3000, or null; \
                    for any origin leave the option out"
            .into());
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority != rest {
        return Err(format!(
            "an origin has no path and no slash at its end: {scheme}://{authority} is what browsers send"
        ));
    }
    if !origin.bytes().all(|byte| byte.is_ascii_graphic()) || origin.contains(['@', '*', '\\', '"']) {
        return Err(
            "an origin has no user, wildcard, space or non-ASCII character (browsers send xn--...)".into()
        );
    }
    if origin.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(format!("browsers send an origin in lower case: {}", origin.to_ascii_lowercase()));
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    // Some programs send `file://` for a page that they have read from a file.
    if host.is_empty() && (scheme != "file" || port.is_some()) {
        return Err("an origin has a host: https://example.com".into());
    }
    match port {
        None => Ok(origin.to_owned()),
        Some("80") if scheme == "http" => Err(format!("browsers leave port 80 of http out: http://{host}")),
        Some("443") if scheme == "https" => {
            Err(format!("browsers leave port 443 of https out: https://{host}"))
        }
        Some(port) if port.parse::<u16>().is_ok_and(|number| number.to_string() == port) => {
            Ok(origin.to_owned())
        }
        Some(_) => Err("the port of an origin is a number up to 65535, without leading zeros".into()),
    }
}

pub(crate) fn parse_workers(count: &str) -> Result<usize, String> {
    match count.parse() {
        Ok(count @ 1..=1024) => Ok(count),
        _ => Err("a number of workers is 1 to 1024".into()),
    }
}

pub(crate) fn parse_connections(count: &str) -> Result<usize, String> {
    match count.parse() {
        Ok(count @ 1..) => Ok(count),
        _ => Err("a number of connections is 1 or more".into()),
    }
}

pub(crate) fn parse_connections_per_ip(count: &str) -> Result<usize, String> {
    count.parse().map_err(|_| "a number of connections is 0, for no limit, or more".into())
}

pub(crate) fn parse_size(size: &str) -> Result<u64, String> {
    match size.parse::<ByteSize>() {
        Ok(size) => Ok(size.as_u64()),
        Err(_) => Err("a size is a number of bytes, or like 64KiB, 1MiB".into()),
    }
}

pub(crate) fn parse_memory(size: &str) -> Result<usize, String> {
    usize::try_from(parse_size(size)?).map_err(|_| "this is more memory than can be addressed".into())
}

pub(crate) fn parse_receive_buffer_size(size: &str) -> Result<usize, String> {
    match parse_memory(size)? {
        size @ 1024..=0x0100_0000 => Ok(size),
        _ => Err("a receive buffer is 1KiB to 16MiB".into()),
    }
}

/// What a silence is at least, and at most: two of them are counted together, in milliseconds modulo 2^32, which is
/// 49 days.
const SILENCE_MIN: Duration = Duration::from_millis(10);
const SILENCE_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

pub(crate) fn parse_silence(time: &str) -> Result<Duration, String> {
    match humantime::parse_duration(time) {
        Ok(time) if time.is_zero() || (SILENCE_MIN..=SILENCE_MAX).contains(&time) => Ok(time),
        _ => Err("a time is 10ms to 7days, like 25s or 2min, or 0s to turn it off".into()),
    }
}

pub(crate) fn parse_head_size(size: &str) -> Result<usize, String> {
    let size = parse_memory(size)?;
    if HEAD_MAX_RANGE.contains(&size) { Ok(size) } else { Err("a head is 1KiB to 64KiB".into()) }
}

pub(crate) fn parse_head_fields(count: &str) -> Result<usize, String> {
    let count = count.parse().ok().filter(|count| HEADERS_MAX_RANGE.contains(count));
    count.ok_or_else(|| "a number of header fields is 16 to 512".into())
}

pub(crate) fn parse_ring_buffer_size(size: &str) -> Result<usize, String> {
    match parse_memory(size)? {
        size @ 128..=0x10_0000 => Ok(size),
        _ => Err("a small receive buffer is 128B to 1MiB".into()),
    }
}

pub(crate) fn parse_power_of_two(count: &str) -> Result<u16, String> {
    match count.parse::<u16>() {
        Ok(count) if count.is_power_of_two() => Ok(count),
        _ => Err("a ring has a power of two of entries, 1 to 32768".into()),
    }
}

pub(crate) fn parse_address(address: &str) -> Result<Address, String> {
    address.parse()
}

/// In octal, with or without zeros before it or the `0o` of TOML.
pub(crate) fn parse_mode(mode: &str) -> Result<u32, String> {
    let digits = mode.strip_prefix("0o").unwrap_or(mode);
    match u32::from_str_radix(digits, 8) {
        Ok(mode @ 0..=0o777) if !digits.starts_with('+') => Ok(mode),
        _ => Err("a mode is 0000 to 0777, in octal".into()),
    }
}

pub(crate) fn parse_socket_buffer_size(size: &str) -> Result<usize, String> {
    match parse_memory(size)? {
        // The kernel doubles it, and has it in an int.
        size @ 4096..=0x3fff_ffff => Ok(size),
        _ => Err("a socket's buffer is 4KiB to 1GiB - 1".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_of_any_characters_that_can_stand_in_one() {
        for good in ["/", "/ws", "*", "/gr\u{FC}\u{DF}e/\u{8A9E}", "/a%20b", "/*", "/{a}|\\"] {
            assert_eq!(parse_path(good).as_deref(), Ok(good));
        }
        for bad in
            ["", "ws", "/a?b", "/a#b", "/a b", "/a\u{A0}b", "/a\tb", "/a\u{7F}", "/a\u{85}", "**", "*/ws"]
        {
            assert!(parse_path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn origins_are_those_that_browsers_send() {
        for good in [
            "null",
            "https://example.com",
            "https://example.com:8443",
            "http://localhost:3000",
            "http://127.0.0.1",
            "http://[::1]:8080",
            "http://[::1]",
            "https://xn--bcher-kva.example",
            "chrome-extension://abcdefgh",
            "tauri://localhost",
            "file://",
        ] {
            assert_eq!(parse_origin(good).as_deref(), Ok(good));
        }
        for (bad, said) in [
            ("*", "leave the option out"),
            ("example.com", "like https://example.com"),
            ("", "like https://example.com"),
            ("https://a.example/", "https://a.example is what browsers send"),
            ("https://a.example:8443/chat?x", "https://a.example:8443 is what browsers send"),
            ("https://a.example#x", "https://a.example is what browsers send"),
            ("https://", "a host"),
            ("https://:8443", "a host"),
            ("https://user@a.example", "no user"),
            ("https://*.example", "wildcard"),
            ("https://b\u{FC}cher.example", "xn--"),
            ("https://a.example ", "space"),
            ("HTTPS://A.example", "lower case: https://a.example"),
            ("https://a.example:443", "https://a.example"),
            ("http://a.example:80", "http://a.example"),
            ("http://a.example:080", "leading zeros"),
            ("http://a.example:65536", "65535"),
            ("http://a.example:", "65535"),
        ] {
            let error = parse_origin(bad).expect_err(bad);
            assert!(error.contains(said), "{bad}: {error}");
        }
    }
}
