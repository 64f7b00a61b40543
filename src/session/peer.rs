//! Whose a connection is, as long as that is of interest.

use std::net::{IpAddr, Ipv6Addr};

/// The address of a peer, or that there is none, in 16 bytes: each connection has room for it beside its handshake.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(
    /// One of IPv4 is mapped. `::` is nobody's (RFC 4291 §2.5.2).
    Ipv6Addr,
);

impl Peer {
    pub(super) const fn new(address: Option<IpAddr>) -> Self {
        Self(match address {
            Some(IpAddr::V4(v4)) => v4.to_ipv6_mapped(),
            Some(IpAddr::V6(v6)) => v6,
            None => Ipv6Addr::UNSPECIFIED,
        })
    }

    /// The address, where it is known.
    pub(super) fn address(self) -> Option<IpAddr> {
        (!self.0.is_unspecified()).then(|| IpAddr::V6(self.0).to_canonical())
    }
}
