//! How many connections there are from each address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZero;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// An address as it is counted, in eight bytes: of IPv6 its first 64 bits, since whoever has one address has all that
/// begin so; of IPv4, also of one mapped into IPv6, all 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Holder(NonZero<u64>);

impl Holder {
    /// Nobody's: a connection that is not counted. Like those below it lies within 0000::/8, of which nobody is given
    /// addresses (RFC 4291 §2.4), so it is not the prefix of any.
    pub(super) const NONE: Self = Self(NonZero::new(0x00FE_u64 << 48).expect("not 0"));

    /// Stands for `::/64`, the prefix of `::1`.
    const ZERO: NonZero<u64> = NonZero::new(0x00FD_u64 << 48).expect("not 0");

    /// Behind it stands an IPv4 address.
    const V4: u64 = 0x00FF << 48;

    /// That of an address.
    #[must_use]
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => NonZero::new(Self::V4 | u64::from(v4.to_bits())).unwrap_or(Self::ZERO),
            IpAddr::V6(v6) => {
                let prefix = u64::try_from(v6.to_bits() >> 64).unwrap_or_default();
                NonZero::new(prefix).unwrap_or(Self::ZERO)
            }
        })
    }

    /// The address, of IPv6 the first one that begins so; `None` for [`Self::NONE`].
    pub(crate) fn address(self) -> Option<IpAddr> {
        let bits = self.0.get();
        if self == Self::NONE {
            return None;
        }
        let v4 = u32::try_from(bits ^ Self::V4).ok();
        let prefix = if self.0 == Self::ZERO { 0 } else { u128::from(bits) << 64 };
        Some(v4.map_or_else(|| IpAddr::from(prefix.to_be_bytes()), |v4| IpAddr::from(v4.to_be_bytes())))
    }
}

/// The connections of each address, counted over all workers. It is looked at when a connection begins and when it ends,
/// and only where there is a limit.
#[derive(Debug)]
pub(super) struct Holders {
    max: usize,
    /// None is 0.
    counts: Mutex<HashMap<Holder, usize>>,
}

impl Holders {
    /// At most `max` connections of each address; 0 for any number.
    pub(super) fn new(max: usize) -> Self {
        Self { max, counts: Mutex::new(HashMap::new()) }
    }

    /// Whether addresses are counted at all.
    pub(super) const fn are_limited(&self) -> bool {
        self.max > 0
    }

    /// Counts a connection, unless there are as many as may be.
    pub(super) fn enter(&self, holder: Holder) -> bool {
        let mut counts = self.counts();
        let count = counts.entry(holder).or_insert(0);
        let has_room = *count < self.max;
        if has_room {
            *count += 1;
        }
        has_room
    }

    /// A connection that was counted has ended.
    pub(super) fn leave(&self, holder: Holder) {
        let mut counts = self.counts();
        if let Some(count) = counts.get_mut(&holder) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&holder);
                // What a crowd has left behind does not stay for ever.
                if counts.capacity() > 1024 && counts.len() < counts.capacity() / 8 {
                    let few = counts.len() * 2;
                    counts.shrink_to(few);
                }
            }
        } else {
            debug_assert!(holder == Holder::NONE, "what leaves has entered");
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Holder, usize>> {
        // Each count is right at every moment, whoever may have panicked.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn holder(address: &str) -> Holder {
        Holder::of(address.parse().expect("an address"))
    }

    #[test]
    fn addresses_are_told_apart_as_far_as_their_owners_are() {
        for (one, other, are_one) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("0.0.0.0", "::", false),
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::1", "::2", true),
            ("::1", "127.0.0.1", false),
        ] {
            assert_eq!(holder(one) == holder(other), are_one, "{one} {other}");
            assert_ne!(holder(one), Holder::NONE);
        }
        for (counted, address) in
            [("192.0.2.1", "192.0.2.1"), ("0.0.0.0", "0.0.0.0"), ("2001:db8::1", "2001:db8::"), ("::1", "::")]
        {
            assert_eq!(holder(counted).address(), address.parse().ok(), "{counted}");
        }
        assert_eq!(Holder::NONE.address(), None);
        assert_eq!(size_of::<Option<Holder>>(), 8);
    }

    #[test]
    fn counts_hold_over_threads_and_vanish() {
        let holders = Holders::new(3);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        if holders.enter(holder("192.0.2.1")) {
                            assert!(holders.counts()[&holder("192.0.2.1")] <= 3);
                            holders.leave(holder("192.0.2.1"));
                        }
                    }
                });
            }
        });
        assert!(holders.counts().is_empty());
        let crowd: Vec<_> = (0..50_000_u32).map(|n| Holder::of(IpAddr::from(n.to_be_bytes()))).collect();
        assert!(crowd.iter().all(|&holder| holders.enter(holder)));
        for &holder in &crowd {
            holders.leave(holder);
        }
        let counts = holders.counts();
        assert!(counts.is_empty() && counts.capacity() <= 1024, "{} places", counts.capacity());
    }

    #[test]
    fn one_more_is_too_many() {
        let holders = Holders::new(2);
        assert!(holders.enter(holder("::1")) && holders.enter(holder("::1")));
        assert!(!holders.enter(holder("::1")));
        assert!(holders.enter(holder("::ffff:1.2.3.4")));
        holders.leave(holder("::1"));
        assert!(holders.enter(holder("::1")));
    }
}
