//! The values of options, read strictly. Each error says what a value looks like.

use std::time::Duration;

use bytesize::ByteSize;

pub(crate) fn parse_path(path: &str) -> Result<String, String> {
    if path.starts_with('/') && !path.contains(['?', '#']) && path.bytes().all(|byte| byte.is_ascii_graphic())
    {
        Ok(path.to_owned())
    } else {
        Err("a path begins with `/` and has no query, fragment, space or non-ASCII character".into())
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
