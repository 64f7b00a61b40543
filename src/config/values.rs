//! The values of options, read strictly. Each error says what a value looks like.

use bytesize::ByteSize;

use super::address::Address;

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
