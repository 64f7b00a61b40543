//! What is sent: payloads that differ from message to message, and the frames around them.

use std::ops::Range;

use ringback::mask::Key;
use ringback::proto::frame::{HEADER_MAX, Header, OpCode};

/// What a message is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Text messages of printable ASCII.
    Text,
    /// Text messages of code points of 1, 2, 3 and 4 bytes in turn.
    Utf8,
    /// Binary messages of random bytes.
    Binary,
}

impl Kind {
    /// The opcode of a message of this kind.
    pub(crate) const fn opcode(self) -> OpCode {
        match self {
            Self::Text | Self::Utf8 => OpCode::Text,
            Self::Binary => OpCode::Binary,
        }
    }

    /// The kind's name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Utf8 => "utf8",
            Self::Binary => "binary",
        }
    }
}

/// The messages of a run: one random block, of which each message is a window.
///
/// A connection's windows rotate through [`VARIANTS`] places, so an echo of another message in flight, or of one
/// long gone, has other bytes. That costs no work a message, and the block of small messages stays in the cache.
pub(crate) struct Traffic {
    kind: Kind,
    size: usize,
    block: Vec<u8>,
    /// Where in a [`UNIT`] every window begins.
    phase: usize,
    /// A frame's header, its key still to be put in.
    header: [u8; HEADER_MAX],
    header_len: usize,
}

/// Which window of the block a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Variant(usize);

impl Variant {
    /// The variant that a connection begins with: neighbours differ, so a reply to the wrong connection shows.
    pub(crate) const fn of_connection(index: usize) -> Self {
        Self(index.wrapping_mul(37) % VARIANTS)
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
    /// Messages of `size` bytes.
    pub(crate) fn new(kind: Kind, size: usize, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let units = size / UNIT + 2 + VARIANTS;
        let mut block = Vec::with_capacity(units * UNIT);
        for _ in 0..units {
            push_unit(&mut block, kind, &mut random);
        }
        let (phase, _) = BOUNDARIES
            .iter()
            .flat_map(|&from| BOUNDARIES.iter().map(move |&to| (from, to)))
            .find(|(from, to)| (from + size) % UNIT == *to)
            .expect("any two places of a unit are some pair of boundaries apart");
        let mut header = [0; HEADER_MAX];
        let header_len = Header {
            fin: true,
            opcode: kind.opcode(),
            payload_len: size as u64,
            key: Some(Key::new([0; 4])),
        }
        .encode(&mut header);
        Self { kind, size, block, phase, header, header_len }
    }

    /// What the messages are made of.
    pub(crate) const fn kind(&self) -> Kind {
        self.kind
    }

    /// The payload of a message, in bytes.
    pub(crate) const fn size(&self) -> usize {
        self.size
    }

    /// The payload of the message with this variant.
    #[inline]
    pub(crate) fn payload(&self, variant: Variant) -> &[u8] {
        let Range { start, end } = self.window(variant);
        &self.block[start..end]
    }

    /// The header of a frame with this key; so many of its bytes, [`Self::header_len`], count.
    #[inline]
    pub(crate) fn header(&self, key: Key) -> [u8; HEADER_MAX] {
        let mut header = self.header;
        header[self.header_len - 4..self.header_len].copy_from_slice(&key.to_bytes());
        header
    }

    /// The length of a client's header, key included.
    #[inline]
    pub(crate) const fn header_len(&self) -> usize {
        self.header_len
    }

    /// The length of a client's frame.
    #[inline]
    pub(crate) const fn frame_len(&self) -> usize {
        self.header_len + self.size
    }

    #[inline]
    const fn window(&self, variant: Variant) -> Range<usize> {
        let start = self.phase + variant.0 * UNIT;
        start..start + self.size
    }
}

/// How many different messages a connection sends before it begins again. Prime: a server that hands out a stale
/// buffer hands it out some round number of messages late.
pub(crate) const VARIANTS: usize = 1021;

/// The block's period: one code point each of 1, 2, 3 and 4 bytes.
const UNIT: usize = 10;

/// Where the code points of a unit begin. Every number of bytes modulo [`UNIT`] is a difference of two of these, so
/// a window of any size can begin and end between code points.
const BOUNDARIES: [usize; 4] = [0, 1, 3, 6];

fn push_unit(block: &mut Vec<u8>, kind: Kind, random: &mut fastrand::Rng) {
    match kind {
        Kind::Text => block.extend((0..UNIT).map(|_| random.u8(b' '..=b'~'))),
        Kind::Binary => block.extend((0..UNIT).map(|_| random.u8(..))),
        Kind::Utf8 => {
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
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn payloads_have_the_size_and_the_kind() {
        for size in (0..=300).chain([4095, 4096, 4097, 65_535, 65_536]) {
            for kind in [Kind::Text, Kind::Utf8, Kind::Binary] {
                let traffic = Traffic::new(kind, size, 7);
                for ahead in (0..VARIANTS).step_by(if size > 300 { 97 } else { 5 }) {
                    let payload = traffic.payload(Variant(0).plus(ahead));
                    assert_eq!(payload.len(), size);
                    match kind {
                        Kind::Text => assert!(payload.iter().all(|byte| (b' '..=b'~').contains(byte))),
                        Kind::Utf8 => assert!(std::str::from_utf8(payload).is_ok(), "{size} {ahead}"),
                        Kind::Binary => {}
                    }
                }
            }
        }
    }

    #[test]
    fn multibyte_text_has_code_points_of_every_length() {
        let traffic = Traffic::new(Kind::Utf8, 1000, 7);
        let text = std::str::from_utf8(traffic.payload(Variant(3))).expect("valid");
        for len in 1..=4 {
            let count = text.chars().filter(|c| c.len_utf8() == len).count();
            assert!((99..=101).contains(&count), "{count} code points of {len} bytes");
        }
    }

    #[test]
    fn the_messages_of_a_round_all_differ() {
        for kind in [Kind::Text, Kind::Utf8, Kind::Binary] {
            let traffic = Traffic::new(kind, 16, 7);
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
    fn headers_are_those_of_a_client() {
        for (size, len) in [(0, 6), (125, 6), (126, 8), (65_535, 8), (65_536, 14)] {
            let traffic = Traffic::new(Kind::Binary, size, 7);
            let key = Key::new([1, 2, 3, 4]);
            let header = traffic.header(key);
            let parsed =
                Header::parse(&header[..traffic.header_len()], ringback::proto::frame::Sender::Client);
            let expected =
                Header { fin: true, opcode: OpCode::Binary, payload_len: size as u64, key: Some(key) };
            assert_eq!(parsed, Ok(Some((expected, len))));
        }
    }
}
