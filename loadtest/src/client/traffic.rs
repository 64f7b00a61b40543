//! What is sent: payloads that differ from message to message, and what the frames of each look like.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::{Range, RangeInclusive};

use ringback::mask::Key;
use ringback::proto::frame::{HEADER_MAX, Header, OpCode};

use crate::client::sizes::Sizes;

/// What a message is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Text messages of printable ASCII.
    Text,
    /// Text messages of code points of 1, 2, 3 and 4 bytes in turn.
    Utf8,
    /// Binary messages of random bytes.
    Binary,
    /// In turn a message of each of these kinds.
    Mixed,
    /// Pings of random bytes, whose echoes are pongs.
    Ping,
}

/// What the bytes of a payload are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Ascii,
    Utf8,
    Random,
}

impl Kind {
    /// The kind's name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Utf8 => "utf8",
            Self::Binary => "binary",
            Self::Mixed => "mixed",
            Self::Ping => "ping",
        }
    }

    /// What its messages are, in turn.
    const fn turns(self) -> &'static [(OpCode, Content)] {
        match self {
            Self::Text => &[(OpCode::Text, Content::Ascii)],
            Self::Utf8 => &[(OpCode::Text, Content::Utf8)],
            Self::Binary => &[(OpCode::Binary, Content::Random)],
            Self::Mixed => &[
                (OpCode::Text, Content::Ascii),
                (OpCode::Text, Content::Utf8),
                (OpCode::Binary, Content::Random),
            ],
            Self::Ping => &[(OpCode::Ping, Content::Random)],
        }
    }
}

/// What the user wants to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// What the messages are made of.
    pub(crate) kind: Kind,
    /// How long they are.
    pub(crate) sizes: Sizes,
    /// In how many frames each is sent; for [`Kind::Ping`] in one, since a control frame has no fragments.
    pub(crate) fragments: RangeInclusive<u32>,
    /// After how many messages of a connection a ping is sent.
    pub(crate) ping_every: Option<NonZeroU32>,
}

/// The messages of a run: one random block, of which each message is a window.
///
/// A connection's windows rotate through [`VARIANTS`] places, so an echo of another message in flight, or of one
/// long gone, has other bytes. That costs no work a message, and the block of small messages stays in the cache. The
/// place says as well how long the message is, what it is made of and how it is cut: who knows where a connection is
/// knows what comes next on it, what came before, and what a connection with another place sends.
pub(crate) struct Traffic {
    settings: Settings,
    block: Vec<u8>,
    /// What the messages look like where they are alike, and else what one of them does.
    shape: Shape,
    /// What they look like, by variant; empty where they are alike.
    shapes: Box<[Shape]>,
    /// The header of every frame where all are alike, its key still to be put in.
    plain: Option<Head>,
}

/// What a message looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The opcode of its first frame.
    pub(crate) opcode: OpCode,
    /// Its payload, in bytes.
    pub(crate) size: usize,
    /// Its frames, at least 1.
    pub(crate) fragments: u32,
    /// Where in the block the window of the first variant begins.
    start: usize,
}

impl Shape {
    /// Which part of the payload is in this fragment; all are about as long.
    pub(crate) fn fragment(&self, index: u32) -> Range<usize> {
        let bound = |index: u32| self.size * index as usize / self.fragments as usize;
        bound(index)..bound(index + 1)
    }
}

/// The header of a client's frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    /// The first `len` count.
    pub(crate) bytes: [u8; HEADER_MAX],
    /// At most [`HEADER_MAX`].
    pub(crate) len: usize,
}

impl Head {
    /// The header of a frame.
    pub(crate) fn new(fin: bool, opcode: OpCode, payload_len: usize, key: Key) -> Self {
        let mut bytes = [0; HEADER_MAX];
        let len = Header { fin, opcode, payload_len: payload_len as u64, key: Some(key) }.encode(&mut bytes);
        Self { bytes, len }
    }

    /// The same with another key.
    #[inline]
    pub(crate) fn with_key(mut self, key: Key) -> Self {
        self.bytes[self.len - KEY_LEN..self.len].copy_from_slice(&key.to_bytes());
        self
    }
}

/// Which window of the block a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Variant(usize);

impl Variant {
    /// The variant that a connection begins with: neighbours differ, so a reply to the wrong connection shows.
    ///
    /// Each [`VARIANTS`] connections in a row begin with all of them, in an order that is shifted at random from row to
    /// row: in a churn the connections of a place follow one another in steps, and in no step do all begin alike.
    pub(crate) fn of_connection(index: usize) -> Self {
        let row = (index / VARIANTS) as u64;
        let shift = fastrand::Rng::with_seed(row).usize(..VARIANTS);
        Self((index % VARIANTS * 37 + shift) % VARIANTS)
    }

    /// The variant `ahead` messages later.
    pub(crate) const fn plus(self, ahead: usize) -> Self {
        Self((self.0 + ahead) % VARIANTS)
    }

    /// The variant `behind` messages earlier, at most [`VARIANTS`].
    pub(crate) const fn minus(self, behind: usize) -> Self {
        Self((self.0 + VARIANTS - behind) % VARIANTS)
    }

    /// The variant of the next message.
    #[inline]
    pub(crate) const fn next(self) -> Self {
        Self(if self.0 + 1 == VARIANTS { 0 } else { self.0 + 1 })
    }
}

impl Traffic {
    /// The messages that the settings ask for, all that is random in them following from `seed`.
    pub(crate) fn new(settings: Settings, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let turns = settings.kind.turns();
        let units = settings.sizes.max() / UNIT + 2 + VARIANTS;
        let mut block = Vec::with_capacity(turns.len() * units * UNIT);
        for &(_, content) in turns {
            for _ in 0..units {
                push_unit(&mut block, content, &mut random);
            }
        }
        let shape = |variant: usize, size, fragments| {
            let turn = variant % turns.len();
            Shape { opcode: turns[turn].0, size, fragments, start: turn * units * UNIT + phase(size) }
        };
        let fragments = settings.fragments.clone();
        let is_varied =
            settings.sizes.size().is_none() || turns.len() > 1 || fragments.start() < fragments.end();
        let shapes: Box<[_]> = if is_varied {
            let sizes = settings.sizes.draw(VARIANTS, &mut random).into_iter().enumerate();
            sizes.map(|(variant, size)| shape(variant, size, random.u32(fragments.clone()))).collect()
        } else {
            Box::default()
        };
        let shape = shape(0, settings.sizes.max(), *fragments.start());
        let is_plain = !is_varied && shape.fragments == 1 && settings.ping_every.is_none();
        let plain = is_plain.then(|| Head::new(true, shape.opcode, shape.size, Key::new([0; KEY_LEN])));
        Self { settings, block, shape, shapes, plain }
    }

    /// What the messages are made of.
    pub(crate) const fn kind(&self) -> Kind {
        self.settings.kind
    }

    /// The payload of every message, in bytes, where they have the same.
    pub(crate) fn size(&self) -> Option<usize> {
        self.settings.sizes.size()
    }

    /// The payloads of the messages, as the user wrote them.
    pub(crate) const fn sizes(&self) -> &Sizes {
        &self.settings.sizes
    }

    /// The mean payload of a message, in bytes.
    pub(crate) fn mean_size(&self) -> f64 {
        let total: f64 = (0..VARIANTS).map(|variant| self.shape(Variant(variant)).size as f64).sum();
        total / VARIANTS as f64
    }

    /// After how many messages of a connection a ping is sent.
    pub(crate) const fn ping_every(&self) -> Option<NonZeroU32> {
        self.settings.ping_every
    }

    /// What is sent, in words.
    pub(crate) fn describe(&self) -> String {
        Description(self).to_string()
    }

    /// Whether messages may look different.
    #[inline]
    pub(crate) const fn is_varied(&self) -> bool {
        !self.shapes.is_empty()
    }

    /// What the message with this variant looks like.
    #[inline]
    pub(crate) fn shape(&self, variant: Variant) -> &Shape {
        if self.is_varied() { &self.shapes[variant.0] } else { &self.shape }
    }

    /// The payload of the message with this variant.
    #[inline]
    pub(crate) fn payload(&self, variant: Variant) -> &[u8] {
        let &Shape { size, start, .. } = self.shape(variant);
        let start = start + variant.0 * UNIT;
        &self.block[start..start + size]
    }

    /// Whether one of the messages begins or ends as these bytes do, by enough of them that it is no accident. So does
    /// each of 8 bytes and more of which one is wrong.
    #[cold]
    pub(crate) fn has_like(&self, bytes: &[u8]) -> bool {
        let (Some(first), Some(last)) =
            (bytes.first_chunk::<TELLING_LEN>(), bytes.last_chunk::<TELLING_LEN>())
        else {
            return false;
        };
        (0..VARIANTS).any(|variant| {
            let payload = self.payload(Variant(variant));
            payload.starts_with(first) || payload.ends_with(last)
        })
    }

    /// The header of every frame, but for its key, where each message is a frame like any other.
    #[inline]
    pub(crate) const fn plain(&self) -> Option<&Head> {
        self.plain.as_ref()
    }
}

struct Description<'a>(&'a Traffic);

impl fmt::Display for Description<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { kind, sizes, fragments, ping_every } = &self.0.settings;
        let name = kind.name();
        match sizes.size() {
            Some(size) => write!(f, "{name} of {size} bytes")?,
            None => write!(f, "{name} of {sizes} bytes ({:.0} on average)", self.0.mean_size())?,
        }
        match (fragments.start(), fragments.end()) {
            (1, 1) => {}
            (first, last) if first == last => write!(f, " in {first} frames")?,
            (first, last) => write!(f, " in {first} to {last} frames")?,
        }
        match ping_every.map(NonZeroU32::get) {
            None => Ok(()),
            Some(1) => f.write_str(", a ping with each"),
            Some(every) => write!(f, ", a ping every {every}"),
        }
    }
}

/// How many different messages a connection sends before it begins again. Prime: a server that hands out a stale
/// buffer hands it out some round number of messages late.
pub(crate) const VARIANTS: usize = 1021;

/// How many random bytes are no accident: of a billion strange ones some 500 begin or end as one of [`VARIANTS`] does.
const TELLING_LEN: usize = 4;

/// A masking key, in bytes.
pub(crate) const KEY_LEN: usize = 4;

/// The block's period: one code point each of 1, 2, 3 and 4 bytes.
const UNIT: usize = 10;

/// Where the code points of a unit begin. Every number of bytes modulo [`UNIT`] is a difference of two of these, so
/// a window of any size can begin and end between code points.
const BOUNDARIES: [usize; 4] = [0, 1, 3, 6];

/// Where in a [`UNIT`] a window of this size begins, so that it ends where a code point ends.
fn phase(size: usize) -> usize {
    BOUNDARIES
        .into_iter()
        .find(|from| BOUNDARIES.contains(&((from + size) % UNIT)))
        .expect("any two places of a unit are some pair of boundaries apart")
}

fn push_unit(block: &mut Vec<u8>, content: Content, random: &mut fastrand::Rng) {
    match content {
        Content::Ascii => block.extend((0..UNIT).map(|_| random.u8(b' '..=b'~'))),
        Content::Random => block.extend((0..UNIT).map(|_| random.u8(..))),
        Content::Utf8 => {
            let mut encoded = [0; 4];
            for code_point in [
                random.char(' '..='~'),
                random.char('\u{80}'..='\u{7FF}'),
                random.char('\u{800}'..='\u{FFFD}'),
                random.char('\u{10000}'..='\u{10FFFF}'),
            ] {
                block.extend_from_slice(code_point.encode_utf8(&mut encoded).as_bytes());
            }
        }
    }
}

#[cfg(test)]
impl Settings {
    /// Messages alike, each a frame.
    pub(crate) fn fixed(kind: Kind, size: usize) -> Self {
        Self { kind, sizes: Sizes::fixed(size), fragments: 1..=1, ping_every: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const KINDS: [Kind; 5] = [Kind::Text, Kind::Utf8, Kind::Binary, Kind::Mixed, Kind::Ping];

    fn traffic(kind: Kind, size: usize) -> Traffic {
        Traffic::new(Settings::fixed(kind, size), 7)
    }

    #[test]
    fn payloads_have_the_size_and_the_kind() {
        for size in (0..=300).chain([4095, 4096, 4097, 65_535, 65_536]) {
            for kind in KINDS {
                let traffic = traffic(kind, size);
                for ahead in (0..VARIANTS).step_by(if size > 300 { 97 } else { 5 }) {
                    let payload = traffic.payload(Variant(0).plus(ahead));
                    assert_eq!(payload.len(), size);
                    match kind {
                        Kind::Text => assert!(payload.iter().all(|byte| (b' '..=b'~').contains(byte))),
                        Kind::Utf8 => assert!(std::str::from_utf8(payload).is_ok(), "{size} {ahead}"),
                        Kind::Mixed if ahead % 3 == 0 => assert!(payload.is_ascii()),
                        Kind::Mixed if ahead % 3 == 1 => assert!(std::str::from_utf8(payload).is_ok()),
                        Kind::Binary | Kind::Mixed | Kind::Ping => {}
                    }
                }
            }
        }
    }

    #[test]
    fn multibyte_text_has_code_points_of_every_length() {
        let traffic = traffic(Kind::Utf8, 1000);
        let text = std::str::from_utf8(traffic.payload(Variant(3))).expect("valid");
        for len in 1..=4 {
            let count = text.chars().filter(|c| c.len_utf8() == len).count();
            assert!((99..=101).contains(&count), "{count} code points of {len} bytes");
        }
    }

    #[test]
    fn the_messages_of_a_round_all_differ() {
        for kind in KINDS {
            let traffic = traffic(kind, 16);
            let mut variant = Variant::of_connection(5);
            let mut seen = HashSet::new();
            for ahead in 0..VARIANTS {
                assert_eq!(variant, Variant::of_connection(5).plus(ahead));
                assert!(seen.insert(traffic.payload(variant).to_vec()));
                variant = variant.next();
            }
            assert_eq!(variant, Variant::of_connection(5));
        }
    }

    #[test]
    fn connections_begin_differently_next_to_each_other_and_in_steps() {
        for index in 0..VARIANTS - 1 {
            assert_ne!(Variant::of_connection(index), Variant::of_connection(index + 1));
        }
        for step in [1, 64, VARIANTS - 1, VARIANTS, VARIANTS + 1, 2 * VARIANTS, VARIANTS * VARIANTS] {
            let variants: Vec<_> =
                (0..1000).map(|count| Variant::of_connection(5 + count * step).0).collect();
            let alike = variants.windows(2).filter(|two| two[0] == two[1]).count();
            let different = variants.iter().collect::<HashSet<_>>().len();
            // Drawn at random, some 620 are different, and one in 1,021 is like the one before it.
            assert!(
                alike < 10 && different > 500,
                "in steps of {step}: {alike} alike, {different} different"
            );
        }
    }

    #[test]
    fn kinds_and_sizes_vary_within_a_round_and_text_stays_valid() {
        let sizes = "0-40:9,1k:1".parse().expect("valid");
        let settings = Settings { kind: Kind::Mixed, sizes, fragments: 1..=4, ping_every: None };
        let traffic = Traffic::new(settings, 7);
        assert!(traffic.is_varied() && traffic.plain().is_none() && traffic.size().is_none());
        let mut total = 0;
        for variant in (0..VARIANTS).map(Variant) {
            let shape = traffic.shape(variant);
            let payload = traffic.payload(variant);
            assert_eq!(payload.len(), shape.size);
            assert!(shape.size <= 40 || shape.size == 1000);
            assert!((1..=4).contains(&shape.fragments));
            match shape.opcode {
                OpCode::Text => assert!(std::str::from_utf8(payload).is_ok()),
                opcode => assert_eq!((opcode, variant.0 % 3), (OpCode::Binary, 2)),
            }
            total += shape.size;
        }
        assert!((traffic.mean_size() - total as f64 / VARIANTS as f64).abs() < 1e-6);
        assert!((traffic.mean_size() - 118.0).abs() < 2.0, "{}", traffic.mean_size());
        for fragments in 1..=4 {
            assert!((0..VARIANTS).any(|variant| traffic.shape(Variant(variant)).fragments == fragments));
        }
    }

    #[test]
    fn a_message_of_which_one_byte_is_wrong_is_like_one() {
        let traffic = traffic(Kind::Ping, 8);
        let right = traffic.payload(Variant(700));
        for at in 0..right.len() {
            let mut wrong = right.to_vec();
            wrong[at] ^= 1;
            assert!(traffic.has_like(&wrong), "{at}");
        }
        assert!(traffic.has_like(right) && traffic.has_like(&right[..4]) && traffic.has_like(&right[4..]));
        for other in ["", "abc", "heartbeat", "12345678"] {
            assert!(!traffic.has_like(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn fragments_are_about_as_long_and_leave_nothing_out() {
        for (size, fragments) in [(0, 1), (0, 3), (2, 3), (10, 3), (1 << 30, 65_536)] {
            let shape = Shape { opcode: OpCode::Text, size, fragments, start: 0 };
            let mut end = 0;
            for index in 0..fragments {
                let range = shape.fragment(index);
                assert_eq!(range.start, end);
                assert!(range.len().abs_diff(size / fragments as usize) <= 1);
                end = range.end;
            }
            assert_eq!(end, size);
        }
    }

    #[test]
    fn traffic_is_described() {
        let described = |kind, sizes: &str, fragments, every| {
            let sizes = sizes.parse().expect("valid");
            let ping_every = NonZeroU32::new(every);
            Traffic::new(Settings { kind, sizes, fragments, ping_every }, 7).describe()
        };
        assert_eq!(described(Kind::Text, "64", 1..=1, 0), "text of 64 bytes");
        assert_eq!(described(Kind::Utf8, "1k", 3..=3, 1), "utf8 of 1000 bytes in 3 frames, a ping with each");
        assert_eq!(
            described(Kind::Mixed, "0:1,200:1", 1..=4, 100),
            "mixed of 0:1,200:1 bytes (100 on average) in 1 to 4 frames, a ping every 100"
        );
    }

    #[test]
    fn headers_are_those_of_a_client() {
        for (size, len) in [(0, 6), (125, 6), (126, 8), (65_535, 8), (65_536, 14)] {
            let key = Key::new([1, 2, 3, 4]);
            let head = traffic(Kind::Binary, size).plain().expect("all alike").with_key(key);
            let parsed = Header::parse(&head.bytes[..head.len], ringback::proto::frame::Sender::Client);
            let expected =
                Header { fin: true, opcode: OpCode::Binary, payload_len: size as u64, key: Some(key) };
            assert_eq!(parsed, Ok(Some((expected, len))));
        }
    }
}
