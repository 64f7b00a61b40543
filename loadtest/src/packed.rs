//! A histogram in few bytes: that of a second has some thousand counts that are not 0, and places for 27,000.

use std::fmt;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2Serializer};

/// A histogram that is not looked at for a while.
#[derive(Clone)]
pub(crate) struct Packed(Box<[u8]>);

impl Packed {
    /// Packs a histogram.
    pub(crate) fn new(histogram: &Histogram<u64>) -> Self {
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(histogram, &mut bytes).expect("memory takes it");
        Self(bytes.into())
    }

    /// The histogram. It grows where that is asked of it.
    pub(crate) fn unpack(&self) -> Histogram<u64> {
        Deserializer::new().deserialize(&mut &self.0[..]).expect("it is what was packed")
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packed({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::histogram;

    #[test]
    fn what_is_packed_comes_back_and_takes_little() {
        let mut full = histogram();
        for value in (0..200_000_u64).map(|count| 20_000 + count * 7 % 180_000) {
            full.record(value).expect("it is in its bounds");
        }
        for histogram in [histogram(), full] {
            let packed = Packed::new(&histogram);
            assert_eq!(packed.unpack(), histogram);
            assert!(packed.0.len() < 20_000, "{packed:?}");
        }
    }
}
