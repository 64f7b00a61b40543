//! Counters that are kept by a label, such as the cause of a refusal: none of them on the path of a message.

use std::marker::PhantomData;

use strum::VariantArray as _;

use crate::engine::Counter;
use crate::proto::ProtocolErrorKind;
use crate::proto::close::is_valid_code;
use crate::proto::handshake::Refusal;
use crate::proto::proxy::ProxyError;

/// What counters are kept by.
pub trait Label: Copy + 'static {
    /// Every value; each stands at its [`Self::index`].
    const ALL: &'static [Self];

    /// The name, which stays as it is.
    fn name(self) -> &'static str;

    /// Its place.
    fn index(self) -> usize;
}

/// Counters with one writer, one for each value of a label.
#[derive(Debug)]
pub struct Family<L>(Box<[Counter]>, PhantomData<L>);

impl<L: Label> Default for Family<L> {
    fn default() -> Self {
        Self(L::ALL.iter().map(|_| Counter::default()).collect(), PhantomData)
    }
}

impl<L: Label> Family<L> {
    /// Adds `n` at `label`; only the worker that owns the counters may.
    pub fn add(&self, label: L, n: u64) {
        self.0[label.index()].add(n);
    }
}

/// The counts of a [`Family`] at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally<L>(Box<[u64]>, PhantomData<L>);

impl<L: Label> Default for Tally<L> {
    fn default() -> Self {
        Self(vec![0; L::ALL.len()].into(), PhantomData)
    }
}

impl<L: Label> Tally<L> {
    /// Adds the counts of one worker.
    pub(super) fn add(&mut self, family: &Family<L>) {
        for (sum, counter) in self.0.iter_mut().zip(&family.0) {
            *sum = sum.wrapping_add(counter.count());
        }
    }

    /// Each value with its count.
    pub fn iter(&self) -> impl Iterator<Item = (L, u64)> {
        L::ALL.iter().copied().zip(self.0.iter().copied())
    }
}

macro_rules! label {
    ($($label:ty,)+) => {
        $(impl Label for $label {
            const ALL: &'static [Self] = Self::VARIANTS;

            fn name(self) -> &'static str {
                self.into()
            }

            fn index(self) -> usize {
                self as usize
            }
        })+
    };
}

label! {
    Refusal,
    ProtocolErrorKind,
    ProxyError,
}

/// The code of a Close: each registered one by itself (RFC 6455 §7.4.1), those for libraries and for private use (§7.4.2)
/// as two groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseCode(usize);

/// Those of Closes without a code, and of such as must not be sent or were not looked at, stand at the ends.
const CLOSE_CODES: [&str; 16] = [
    "none", "1000", "1001", "1002", "1003", "1007", "1008", "1009", "1010", "1011", "1012", "1013", "1014",
    "3xxx", "4xxx", "other",
];

impl Label for CloseCode {
    const ALL: &'static [Self] = &{
        let mut all = [Self(0); CLOSE_CODES.len()];
        let mut index = 0;
        while index < all.len() {
            all[index] = Self(index);
            index += 1;
        }
        all
    };

    fn name(self) -> &'static str {
        CLOSE_CODES[self.0]
    }

    fn index(self) -> usize {
        self.0
    }
}

impl From<Option<u16>> for CloseCode {
    fn from(code: Option<u16>) -> Self {
        let index = match code {
            None => 0,
            Some(code @ 1000..=1003) => 1 + usize::from(code - 1000),
            Some(code @ 1007..=1014) => 5 + usize::from(code - 1007),
            Some(3000..=3999) => 13,
            Some(4000..=4999) => 14,
            Some(code) => {
                debug_assert!(!is_valid_code(code), "a valid code has a name");
                15
            }
        };
        Self(index)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn check<L: Label>() {
        for (index, label) in L::ALL.iter().enumerate() {
            assert_eq!(label.index(), index, "{}", label.name());
        }
        let names: HashSet<_> = L::ALL.iter().map(|label| label.name()).collect();
        assert_eq!(names.len(), L::ALL.len(), "the names differ");
    }

    #[test]
    fn each_label_has_a_place_and_a_name_of_its_own() {
        check::<Refusal>();
        check::<ProtocolErrorKind>();
        check::<CloseCode>();
        assert_eq!(Refusal::NotFound.name(), "not_found");
        assert_eq!(ProtocolErrorKind::InvalidUtf8.name(), "invalid_utf8");
    }

    #[test]
    fn a_close_is_counted_by_its_code_or_its_group() {
        for code in 0..=u16::MAX {
            let name = CloseCode::from(Some(code)).name();
            match code {
                3000..=3999 => assert_eq!(name, "3xxx"),
                4000..=4999 => assert_eq!(name, "4xxx"),
                _ if is_valid_code(code) => assert_eq!(name, code.to_string()),
                _ => assert_eq!(name, "other"),
            }
        }
        assert_eq!(CloseCode::from(None).name(), "none");
    }

    #[test]
    fn a_family_is_summed_label_by_label() {
        let family = Family::default();
        family.add(Refusal::NotFound, 2);
        family.add(Refusal::Full, 1);
        let mut sum = Tally::default();
        sum.add(&family);
        sum.add(&family);
        let some: Vec<_> = sum.iter().filter(|&(_, count)| count != 0).collect();
        assert_eq!(some, [(Refusal::NotFound, 4), (Refusal::Full, 2)]);
    }
}
