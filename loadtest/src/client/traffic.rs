//! What is sent: payloads that differ from message to message, and what the frames of each look like.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::{Range, RangeInclusive};

use ringback::mask::Key;
use ringback::proto::frame::{HEADER_MAX, Header, OpCode};

use crate::client::file::FileMessages;
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
    /// How many different messages a connection sends before it begins again, at least 1.
    period: usize,
    /// Whether the messages are random, and connections begin with different ones.
    is_random: bool,
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
    /// Where in the block the window of the first variant would begin. Of a file's messages it may lie before the block: it
    /// is counted modulo 2^64.
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
    /// The variant that a connection begins with that sends random messages: neighbours differ, so a reply to the wrong connection shows.
    ///
    /// Each [`VARIANTS`] connections in a row begin with all of them, in an order that is shifted at random from row to
    /// row: in a churn the connections of a place follow one another in steps, and in no step do all begin alike.
    fn of_connection(index: usize) -> Self {
        let row = (index / VARIANTS) as u64;
        let shift = fastrand::Rng::with_seed(row).usize(..VARIANTS);
        Self((index % VARIANTS * 37 + shift) % VARIANTS)
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
        Self { settings, block, shape, shapes, plain, period: VARIANTS, is_random: true }
    }

    /// The messages of a file: every connection sends them in their order, from the first one on, again and again.
    pub(crate) fn of_file(
        messages: FileMessages,
        fragments: &RangeInclusive<u32>,
        ping_every: Option<NonZeroU32>,
        seed: u64,
    ) -> Self {
        let FileMessages { kind, block, ranges } = messages;
        let mut random = fastrand::Rng::with_seed(seed);
        let sizes = || ranges.iter().map(Range::len);
        let (first, last) = (sizes().min().unwrap_or_default(), sizes().max().unwrap_or_default());
        let opcode = kind.turns()[0].0;
        let shapes: Vec<_> = ranges
            .iter()
            .enumerate()
            .map(|(variant, range)| {
                // Such that the window of this variant begins where the message does.
                let start = range.start.wrapping_sub(variant * UNIT);
                Shape { opcode, size: range.len(), fragments: random.u32(fragments.clone()), start }
            })
            .collect();
        let shape = shapes[0];
        let is_varied = shapes.len() > 1 || fragments.start() < fragments.end();
        let is_plain = !is_varied && shape.fragments == 1 && ping_every.is_none();
        let plain = is_plain.then(|| Head::new(true, opcode, shape.size, Key::new([0; KEY_LEN])));
        let settings =
            Settings { kind, sizes: Sizes::between(first, last), fragments: fragments.clone(), ping_every };
        let (period, shapes) = (shapes.len(), if is_varied { shapes.into() } else { Box::default() });
        Self { settings, block, shape, shapes, plain, period, is_random: false }
    }

    /// The variant that the connection with this index begins with.
    pub(crate) fn first(&self, index: usize) -> Variant {
        if self.is_random { Variant::of_connection(index) } else { Variant(0) }
    }

    /// The variant of the next message.
    #[inline]
    pub(crate) const fn next(&self, variant: Variant) -> Variant {
        Variant(if variant.0 + 1 == self.period { 0 } else { variant.0 + 1 })
    }

    /// The variant `ahead` messages later.
    pub(crate) const fn plus(&self, variant: Variant, ahead: usize) -> Variant {
        Variant((variant.0 + ahead) % self.period)
    }

    /// The variant `behind` messages earlier.
    pub(crate) const fn minus(&self, variant: Variant, behind: usize) -> Variant {
        Variant((variant.0 + self.period - behind % self.period) % self.period)
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
        let total: f64 = (0..self.period).map(|variant| self.shape(Variant(variant)).size as f64).sum();
        total / self.period as f64
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
        let start = start.wrapping_add(variant.0 * UNIT);
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
        (0..self.period).any(|variant| {
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
        let name = match (self.0.is_random, self.0.period) {
            (true, _) => kind.name().to_owned(),
            (false, 1) => format!("a {} message of a file", kind.name()),
            (false, lines) => format!("{lines} {} messages of a file", kind.name()),
        };
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
#[path = "traffic_tests.rs"]
mod tests;
