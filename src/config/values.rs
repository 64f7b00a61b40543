//! The values of options, read strictly. Each error says what a value looks like.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytesize::ByteSize;

use super::address::Address;
use crate::proto::fields::is_token;
use crate::proto::handshake::ANY;

/// The bounds of sizes, in bytes.
pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const TIB: u64 = 1 << 40;
pub(crate) const EIB: u64 = 1 << 60;

/// The bounds of times.
pub(crate) const MILLISECOND: Duration = Duration::from_millis(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(60 * 60);
pub(crate) const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The bounds of a silence: two of them are counted together, in milliseconds modulo 2^32, which is 49 days.
pub(crate) const SILENCE: RangeInclusive<Duration> = Duration::from_millis(10)..=WEEK;

/// The most connections that an option takes: the kernel counts files in an int.
pub(crate) const CONNECTIONS_MAX: u64 = i32::MAX as u64;

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

/// Reads a time within `range`.
pub(crate) fn time(range: RangeInclusive<Duration>) -> impl Parser<Duration> {
    bounded(TIME, range, None)
}

/// As [`time`], or 0, which does what `zero` says.
pub(crate) fn time_or_zero(range: RangeInclusive<Duration>, zero: &'static str) -> impl Parser<Duration> {
    bounded(TIME, range, Some(zero))
}

/// Reads a size in bytes within `range`.
pub(crate) fn size(range: RangeInclusive<u64>) -> impl Parser<u64> {
    bounded(SIZE, range, None)
}

/// As [`size`], or 0, which does what `zero` says.
pub(crate) fn size_or_zero(range: RangeInclusive<u64>, zero: &'static str) -> impl Parser<u64> {
    bounded(SIZE, range, Some(zero))
}

/// As [`size`], of what has to fit into memory.
pub(crate) fn memory(range: RangeInclusive<u64>) -> impl Parser<usize> {
    let size = size(range);
    move |text: &str| fit(size(text)?)
}

/// Reads a number within `range`.
pub(crate) fn count<N: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Parser<N> {
    let count = bounded(COUNT, range, None);
    move |text: &str| fit(count(text)?)
}

/// As [`count`], or 0, which does what `zero` says.
pub(crate) fn count_or_zero<N: TryFrom<u64>>(
    range: RangeInclusive<u64>,
    zero: &'static str,
) -> impl Parser<N> {
    let count = bounded(COUNT, range, Some(zero));
    move |text: &str| fit(count(text)?)
}

/// What clap takes for a parser of values.
pub(crate) trait Parser<T>: Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {}

impl<T, F: Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static> Parser<T> for F {}

/// A kind of value that has bounds.
#[derive(Clone, Copy)]
struct Kind<T> {
    name: &'static str,
    parse: fn(&str) -> Option<T>,
    show: fn(&T) -> String,
    zero: &'static str,
    example: &'static str,
}

const TIME: Kind<Duration> = Kind {
    name: "a time",
    parse: |text| humantime::parse_duration(text).ok(),
    show: |time| humantime::format_duration(*time).to_string(),
    zero: "0s",
    example: ", such as 5s, 250ms or 2min",
};

const SIZE: Kind<u64> = Kind {
    name: "a size",
    parse: parse_size,
    show: show_size,
    zero: "0",
    example: ", such as 64KiB or 65536",
};

const COUNT: Kind<u64> = Kind {
    name: "a number",
    parse: |text| text.parse().ok(),
    show: ToString::to_string,
    zero: "0",
    example: "",
};

/// Reads a value of this kind within `range`. With `zero`, the value 0 is taken too.
fn bounded<T: Copy + Default + PartialOrd + Send + Sync + 'static>(
    kind: Kind<T>,
    range: RangeInclusive<T>,
    zero: Option<&'static str>,
) -> impl Parser<T> {
    move |text: &str| match (kind.parse)(text) {
        Some(value) if range.contains(&value) => Ok(value),
        // A fraction of the unit must not become 0.
        Some(value)
            if zero.is_some() && value == T::default() && !text.contains(|c| matches!(c, '1'..='9')) =>
        {
            Ok(value)
        }
        _ => {
            let (min, max) = ((kind.show)(range.start()), (kind.show)(range.end()));
            let zero = zero.map(|meaning| format!(", or {} {meaning}", kind.zero)).unwrap_or_default();
            Err(format!("{} is {min} to {max}{}{zero}", kind.name, kind.example))
        }
    }
}

fn fit<N: TryFrom<u64>>(value: u64) -> Result<N, String> {
    N::try_from(value).map_err(|_| format!("{value} is more than this machine can count"))
}

/// A number of bytes with or without a unit. A fraction needs a unit.
fn parse_size(text: &str) -> Option<u64> {
    let has_unit = text.ends_with(|last: char| last.is_ascii_alphabetic());
    let size = text.parse::<ByteSize>().ok().filter(|_| has_unit || !text.contains('.'))?;
    Some(size.as_u64())
}

/// A size in the largest unit that it is a multiple of.
fn show_size(size: &u64) -> String {
    let units = ["", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (size.trailing_zeros() as usize / 10).min(units.len() - 1);
    format!("{}{}", size >> (10 * unit), units[unit])
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

/// An address of a port, for what does not listen on unix sockets.
pub(crate) fn parse_ip_address(address: &str) -> Result<SocketAddr, String> {
    let of_port = |address: Address| {
        address.ip().ok_or_else(|| "give an IP address and a port, such as 127.0.0.1:9002".into())
    };
    parse_address(address).and_then(of_port)
}

/// The value of a flag, where it has one: in the environment and the file.
pub(crate) fn parse_flag(flag: &str) -> Result<bool, String> {
    match flag.to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "on" | "1" => Ok(true),
        "false" | "f" | "no" | "n" | "off" | "0" => Ok(false),
        _ => Err("a flag is true, yes, on or 1, or false, no, off or 0".into()),
    }
}

/// In octal, with or without zeros before it or the `0o` of TOML.
pub(crate) fn parse_mode(mode: &str) -> Result<u32, String> {
    let digits = mode.strip_prefix("0o").unwrap_or(mode);
    match u32::from_str_radix(digits, 8) {
        Ok(mode @ 0..=0o777) if !digits.starts_with('+') => Ok(mode),
        _ => Err("a mode is 0000 to 0777, in octal".into()),
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
    fn a_bounded_value_is_taken_within_its_bounds_only() {
        let time = time_or_zero(MILLISECOND..=WEEK, "for none");
        for (text, value) in [
            ("1ms", Ok(1)),
            ("1.5s", Ok(1500)),
            ("7days", Ok(604_800_000)),
            ("0s", Ok(0)),
            ("0ms", Ok(0)),
            ("1ns", Err(())),
            ("999us", Err(())),
            ("7days 1ms", Err(())),
            ("999999999999y", Err(())),
            ("18446744073709551615", Err(())),
            ("18446744073709551616s", Err(())),
            ("5", Err(())),
            ("-5s", Err(())),
            ("5 parsecs", Err(())),
            ("1e3", Err(())),
            ("", Err(())),
        ] {
            let read = time(text).map(|time| time.as_millis());
            let said = "a time is 1ms to 7days, such as 5s, 250ms or 2min, or 0s for none";
            assert_eq!(read, value.map_err(|()| said.to_owned()), "{text}");
        }
        assert!(super::time(MILLISECOND..=HOUR)("0s").is_err());
        assert!(super::time(MILLISECOND..=HOUR)("1h").is_ok());

        let size = size_or_zero(1..=MIB, "for no limit");
        for (text, value) in [
            ("1", Ok(1)),
            ("1MiB", Ok(MIB)),
            ("0.5MiB", Ok(MIB / 2)),
            ("1 KiB", Ok(KIB)),
            ("0", Ok(0)),
            ("0.4", Err(())),
            ("0.0001KiB", Err(())),
            ("1.5", Err(())),
            ("1048577", Err(())),
            ("18446744073709551615", Err(())),
            ("18446744073709551616", Err(())),
            ("999999999999EiB", Err(())),
            ("-1", Err(())),
            ("1e3", Err(())),
            ("64KB/s", Err(())),
            ("NaN", Err(())),
            ("", Err(())),
        ] {
            let said = "a size is 1 to 1MiB, such as 64KiB or 65536, or 0 for no limit";
            assert_eq!(size(text), value.map_err(|()| said.to_owned()), "{text}");
        }
        assert!(super::size(1..=MIB)("0").is_err());
        assert!(memory(KIB..=TIB)("1TiB").is_ok_and(|size| size == 1 << 40));

        let count = count::<u16>(1..=1024);
        for bad in ["0", "1025", "-1", "1.5", "1e3", "", "18446744073709551616", "x"] {
            assert_eq!(count(bad), Err("a number is 1 to 1024".to_owned()), "{bad}");
        }
        assert_eq!(count("007"), Ok(7));
        assert_eq!(count_or_zero::<usize>(1..=5, "for no limit")("0"), Ok(0));
    }

    #[test]
    fn a_size_is_shown_as_it_is_written() {
        let shown = [(1, "1"), (1025, "1025"), (KIB, "1KiB"), (512 * MIB, "512MiB"), (1 << 60, "1EiB")];
        for (size, text) in shown {
            assert_eq!(show_size(&size), text);
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
