//! How long the messages are: one size, a range, or several of them with weights.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use bytesize::ByteSize;

/// Payload sizes in bytes, and how often each comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// As it was written.
    text: String,
    /// At least one.
    entries: Vec<Entry>,
}

/// A size, or all sizes of a range alike.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    range: RangeInclusive<usize>,
    /// At least 1.
    weight: u32,
}

/// Why a text is not [`Sizes`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SizesError {
    /// Not a number of bytes.
    #[error("{0:?} is no size from 0 to 1GiB, such as 64, 1k or 16KiB")]
    Size(String),
    /// Over [`SIZE_MAX`].
    #[error("at most 1GiB")]
    TooLarge,
    /// A range that ends before it begins.
    #[error("{0} ends before it begins")]
    Range(String),
    /// Not a whole number from 1 on.
    #[error("{0:?} is no weight: a whole number from 1 on")]
    Weight(String),
    /// So small a share that it would never be sent.
    #[error("{entry} is less than one message in {of}: give it more weight")]
    Rare {
        /// As it was written.
        entry: String,
        /// How many messages there are until the sizes come again.
        of: usize,
    },
}

impl Sizes {
    /// Every message has this size.
    pub(crate) fn fixed(size: usize) -> Self {
        Self { text: size.to_string(), entries: vec![Entry { range: size..=size, weight: 1 }] }
    }

    /// Sizes from `first` to `last`.
    pub(crate) fn between(first: usize, last: usize) -> Self {
        let text = if first == last { first.to_string() } else { format!("{first}-{last}") };
        Self { text, entries: vec![Entry { range: first..=last, weight: 1 }] }
    }

    /// The size of every message, where they have the same.
    pub(crate) fn size(&self) -> Option<usize> {
        let size = self.max();
        self.entries.iter().all(|entry| *entry.range.start() == size).then_some(size)
    }

    /// The largest.
    pub(crate) fn max(&self) -> usize {
        self.entries.iter().map(|entry| *entry.range.end()).max().unwrap_or(0)
    }

    /// The sizes of `count` messages in random order, each with its share of them to within one message, and those of
    /// a range spread evenly over it.
    pub(crate) fn draw(&self, count: usize, random: &mut fastrand::Rng) -> Vec<usize> {
        let mut sizes = Vec::with_capacity(count);
        for (entry, share) in self.entries.iter().zip(self.shares(count)) {
            let (first, last) = (*entry.range.start(), *entry.range.end());
            let width = last - first + 1;
            sizes.extend((0..share).map(|at| {
                // A random one of each of `share` equal parts.
                let (from, to) = (width * at / share, width * (at + 1) / share);
                first + if from < to { random.usize(from..to) } else { from }
            }));
        }
        random.shuffle(&mut sizes);
        sizes
    }

    /// How many of `count` messages each entry gets: what is left by rounding down goes to those that lost most.
    fn shares(&self, count: usize) -> Vec<usize> {
        let total: usize = self.entries.iter().map(|entry| entry.weight as usize).sum();
        let exact = || self.entries.iter().map(|entry| entry.weight as usize * count);
        let mut shares: Vec<_> = exact().map(|exact| exact / total).collect();
        let mut by_loss: Vec<_> = exact().map(|exact| exact % total).enumerate().collect();
        by_loss.sort_by_key(|&(_, lost)| std::cmp::Reverse(lost));
        let left = count - shares.iter().sum::<usize>();
        for &(at, _) in by_loss.iter().take(left) {
            shares[at] += 1;
        }
        shares
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Sizes {
    type Err = SizesError;

    fn from_str(text: &str) -> Result<Self, SizesError> {
        let entries = text.split(',').map(str::parse).collect::<Result<Vec<Entry>, _>>()?;
        let total: u64 = entries.iter().map(|entry| u64::from(entry.weight)).sum();
        for (entry, text) in entries.iter().zip(text.split(',')) {
            if u64::from(entry.weight) * (super::traffic::VARIANTS as u64) < total {
                return Err(SizesError::Rare { entry: text.into(), of: super::traffic::VARIANTS });
            }
        }
        Ok(Self { text: text.to_owned(), entries })
    }
}

impl FromStr for Entry {
    type Err = SizesError;

    fn from_str(text: &str) -> Result<Self, SizesError> {
        let (range, weight) = match text.rsplit_once(':') {
            None => (text, 1),
            Some((range, weight)) => {
                let parsed = weight.trim().parse().ok().filter(|&weight| weight > 0);
                (range, parsed.ok_or_else(|| SizesError::Weight(weight.into()))?)
            }
        };
        let range = match range.split_once('-') {
            None => {
                let size = parse_size(range)?;
                size..=size
            }
            Some((first, last)) => parse_size(first)?..=parse_size(last)?,
        };
        if range.is_empty() {
            return Err(SizesError::Range(text.into()));
        }
        Ok(Self { range, weight })
    }
}

/// Parses one size: `64`, `1k` (1,000), `16KiB` (16,384).
pub(crate) fn parse_size(text: &str) -> Result<usize, SizesError> {
    let ByteSize(size) = text.trim().parse().map_err(|_| SizesError::Size(text.into()))?;
    usize::try_from(size).ok().filter(|&size| size <= SIZE_MAX).ok_or(SizesError::TooLarge)
}

/// The largest message: the block it is cut from lies in memory.
pub(super) const SIZE_MAX: usize = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(text: &str, count: usize) -> Vec<usize> {
        let sizes: Sizes = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        let mut drawn = sizes.draw(count, &mut fastrand::Rng::with_seed(7));
        assert_eq!(drawn.len(), count);
        assert!(drawn.iter().max() <= Some(&sizes.max()));
        drawn.sort_unstable();
        drawn
    }

    #[test]
    fn one_size() {
        for (text, size) in [
            ("0", 0),
            ("64", 64),
            ("1k", 1000),
            ("64kB", 64_000),
            ("16KiB", 16_384),
            ("1MiB", 1 << 20),
            ("1GiB", 1 << 30),
        ] {
            assert_eq!(parse_size(text), Ok(size));
            let sizes: Sizes = text.parse().expect("valid");
            assert_eq!((sizes.size(), sizes.max(), sizes.to_string().as_str()), (Some(size), size, text));
        }
        assert_eq!(Sizes::fixed(64).to_string(), "64");
        assert_eq!("64:3,64-64".parse::<Sizes>().expect("valid").size(), Some(64));
        assert_eq!("64,65".parse::<Sizes>().expect("valid").size(), None);
    }

    #[test]
    fn weights_are_kept_to_within_one_message() {
        let drawn = draw("64:80,1k:15,64k:5", 1021);
        let count = |size| drawn.iter().filter(|&&other| other == size).count();
        assert_eq!([count(64), count(1000), count(64_000)], [817, 153, 51]);
        let drawn = draw("1,2,3", 1021);
        assert!(drawn.chunk_by(PartialEq::eq).all(|alike| (340..=341).contains(&alike.len())));
    }

    #[test]
    fn a_range_is_covered_evenly() {
        let drawn = draw("64-4KiB", 1021);
        assert!(drawn[0] < 64 + 5 && drawn[1020] > 4096 - 5);
        assert!(drawn.windows(2).all(|pair| pair[1] - pair[0] <= 8));
        let drawn = draw("10-19", 1021);
        assert!(drawn.chunk_by(PartialEq::eq).all(|alike| (102..=103).contains(&alike.len())));
        assert_eq!(drawn.chunk_by(PartialEq::eq).count(), 10);
        let drawn = draw("100-200:3,1MiB:1", 1021);
        assert_eq!(drawn.iter().filter(|&&size| size == 1 << 20).count(), 255);
    }

    #[test]
    fn the_order_is_random_and_follows_from_the_seed() {
        let sizes: Sizes = "1:50,2:50".parse().expect("valid");
        let draw = |seed| sizes.draw(1021, &mut fastrand::Rng::with_seed(seed));
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!(draw(1).chunk_by(PartialEq::eq).all(|alike| alike.len() < 30));
    }

    #[test]
    fn what_is_refused() {
        for (text, error) in [
            ("", SizesError::Size("".into())),
            ("many", SizesError::Size("many".into())),
            ("64,", SizesError::Size("".into())),
            ("-5", SizesError::Size("".into())),
            ("2GiB", SizesError::TooLarge),
            ("1-2GiB", SizesError::TooLarge),
            ("9-8", SizesError::Range("9-8".into())),
            ("64:0", SizesError::Weight("0".into())),
            ("64:x", SizesError::Weight("x".into())),
            ("64:2000,1MiB:1", SizesError::Rare { entry: "1MiB:1".into(), of: 1021 }),
        ] {
            assert_eq!(text.parse::<Sizes>(), Err(error), "{text}");
        }
    }
}
