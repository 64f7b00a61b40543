//! The local addresses that connections come from: an address has some 28,000 ports for connections to one server
//! (`net.ipv4.ip_local_port_range`), and more addresses have more.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses of one family, in the order in which connections take them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sources {
    /// At least one.
    blocks: Vec<Block>,
    is_ipv4: bool,
    /// As they were written.
    text: String,
}

/// Addresses that follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    first: u128,
    /// At least 1.
    count: u128,
}

/// Why a text is not [`Sources`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SourcesError {
    /// Neither an address nor a network.
    #[error("{0:?} is no address, and no network like 127.0.0.0/24")]
    Address(String),
    /// More bits than an address has.
    #[error("{0}: the prefix of a network has at most {1} bits")]
    Prefix(String, u32),
    /// IPv4 and IPv6 together.
    #[error("IPv4 and IPv6 addresses together reach no server")]
    Mixed,
}

impl Sources {
    /// The address of the connection with this index: one after the other, and round again.
    pub(crate) fn address(&self, index: usize) -> IpAddr {
        let mut at = index as u128 % self.count();
        for block in &self.blocks {
            if at < block.count {
                return self.to_address(block.first + at);
            }
            at -= block.count;
        }
        unreachable!("it is less than the sum of the counts")
    }

    /// How many addresses there are.
    pub(crate) fn count(&self) -> u128 {
        self.blocks.iter().fold(0, |sum, block| sum.saturating_add(block.count))
    }

    /// Whether they are IPv4 addresses.
    pub(crate) const fn is_ipv4(&self) -> bool {
        self.is_ipv4
    }

    #[expect(clippy::cast_possible_truncation, reason = "an IPv4 address was made from 32 bits")]
    const fn to_address(&self, bits: u128) -> IpAddr {
        if self.is_ipv4 {
            IpAddr::V4(Ipv4Addr::from_bits(bits as u32))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
    }
}

impl FromStr for Sources {
    type Err = SourcesError;

    /// Parses a list with commas in between: addresses, and networks, which stand for the addresses of their hosts.
    fn from_str(text: &str) -> Result<Self, SourcesError> {
        let parsed = text.split(',').map(|item| parse(item.trim())).collect::<Result<Vec<_>, _>>()?;
        let is_ipv4 = parsed.first().is_some_and(|(_, is_ipv4)| *is_ipv4);
        if parsed.iter().any(|(_, other)| *other != is_ipv4) {
            return Err(SourcesError::Mixed);
        }
        let blocks = parsed.into_iter().map(|(block, _)| block).collect();
        Ok(Self { blocks, is_ipv4, text: text.to_owned() })
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// An address or a network, and whether it is IPv4.
fn parse(item: &str) -> Result<(Block, bool), SourcesError> {
    let no_address = || SourcesError::Address(item.into());
    let (address, prefix) = match item.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (item, None),
    };
    let (bits, width) = match address.parse().map_err(|_| no_address())? {
        IpAddr::V4(address) => (u128::from(address.to_bits()), Ipv4Addr::BITS),
        IpAddr::V6(address) => (address.to_bits(), Ipv6Addr::BITS),
    };
    let is_ipv4 = width == Ipv4Addr::BITS;
    let prefix = prefix.map_or(Ok(width), |prefix| prefix.parse().map_err(|_| no_address()))?;
    if prefix > width {
        return Err(SourcesError::Prefix(item.into(), width));
    }
    // All bits of the host set, at most 128.
    let last = u128::MAX.checked_shr(Ipv6Addr::BITS - (width - prefix)).unwrap_or(0);
    let network = bits & !last;
    let block = match (last, is_ipv4) {
        // One address, or a link between two (RFC 3021, RFC 6164).
        (0 | 1, _) => Block { first: network, count: last + 1 },
        // Without the network's address and the broadcast address.
        (_, true) => Block { first: network + 1, count: last - 1 },
        // Without the address of its routers (RFC 4291 §2.6.1).
        (_, false) => Block { first: network + 1, count: last },
    };
    Ok((block, is_ipv4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str, count: usize) -> String {
        let sources: Sources = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        (0..count).map(|index| sources.address(index).to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn addresses_are_taken_in_turn() {
        for (text, expected) in [
            ("127.0.0.1", "127.0.0.1 127.0.0.1 127.0.0.1 127.0.0.1 127.0.0.1"),
            ("127.0.0.2, 127.0.0.1", "127.0.0.2 127.0.0.1 127.0.0.2 127.0.0.1 127.0.0.2"),
            ("10.0.0.0/30", "10.0.0.1 10.0.0.2 10.0.0.1 10.0.0.2 10.0.0.1"),
            ("10.0.0.7/30,1.1.1.1", "10.0.0.5 10.0.0.6 1.1.1.1 10.0.0.5 10.0.0.6"),
            ("10.0.0.2/31", "10.0.0.2 10.0.0.3 10.0.0.2 10.0.0.3 10.0.0.2"),
            ("10.0.0.2/32,10.0.0.9", "10.0.0.2 10.0.0.9 10.0.0.2 10.0.0.9 10.0.0.2"),
            ("::1,fd00::/126", "::1 fd00::1 fd00::2 fd00::3 ::1"),
            ("fd00::5/127,fd00::9/128", "fd00::4 fd00::5 fd00::9 fd00::4 fd00::5"),
        ] {
            assert_eq!(addresses(text, 5), expected, "{text}");
        }
    }

    #[test]
    fn a_network_has_its_hosts_and_is_never_written_out() {
        for (text, count, last) in [
            ("127.0.0.0/24", 254, "127.0.0.254"),
            ("127.0.0.0/8", (1 << 24) - 2, "127.255.255.254"),
            ("0.0.0.0/0", (1 << 32) - 2, "255.255.255.254"),
            ("fd00::/64", u128::from(u64::MAX), "fd00::ffff:ffff:ffff:ffff"),
        ] {
            let sources: Sources = text.parse().expect("valid");
            assert_eq!(sources.count(), count, "{text}");
            let at = usize::try_from(count - 1).expect("64 bits");
            assert_eq!(sources.address(at).to_string(), last);
        }
        let all: Sources = "::/0,::/0".parse().expect("valid");
        assert_eq!((all.count(), all.address(0)), (u128::MAX, IpAddr::V6(Ipv6Addr::LOCALHOST)));
    }

    #[test]
    fn what_is_refused() {
        let no_address = |item: &str| SourcesError::Address(item.into());
        for (text, error) in [
            ("", no_address("")),
            ("localhost", no_address("localhost")),
            ("127.0.0.1,", no_address("")),
            ("127.0.0.1:80", no_address("127.0.0.1:80")),
            ("127.0.0.0/x", no_address("127.0.0.0/x")),
            ("127.0.0.0/33", SourcesError::Prefix("127.0.0.0/33".into(), 32)),
            ("::/129", SourcesError::Prefix("::/129".into(), 128)),
            ("127.0.0.1,::1", SourcesError::Mixed),
        ] {
            assert_eq!(text.parse::<Sources>(), Err(error), "{text}");
        }
    }
}
