//! A place in the frames that a connection sends: who sends them walks with one, and who compares their echo byte for
//! byte with another.
//!
//! No frame is kept. A frame is a function of the traffic, its variant and its key, and the keys of a connection are
//! a random sequence that can be run again.

use ringback::mask::{self, Key};
use ringback::proto::frame::{HEADER_MAX, OpCode};

use crate::client::fault::Fault;
use crate::client::ping;
use crate::client::traffic::{Head, KEY_LEN, Traffic, Variant};

/// How far one has come.
#[derive(Clone)]
pub(crate) struct Cursor {
    /// Gives the key of the frame under way next.
    keys: fastrand::Rng,
    /// The variant of the message under way.
    variant: Variant,
    /// The connection's index.
    connection: u64,
    /// Messages gone over.
    messages: u64,
    /// Frames of the message under way that are gone over. The ping that follows a message comes behind its first
    /// frame: where there are more, in between.
    frames: u32,
    /// Bytes gone over of the frame under way.
    offset: usize,
}

/// The frame under way.
struct Frame<'t> {
    head: Head,
    /// Not masked yet.
    payload: &'t [u8],
    key: Key,
}

impl Cursor {
    /// The first byte of the connection with this index, whose first message this is.
    pub(crate) const fn new(keys: fastrand::Rng, variant: Variant, index: usize) -> Self {
        Self { keys, variant, connection: index as u64, messages: 0, frames: 0, offset: 0 }
    }

    /// How many messages are gone over to their end.
    #[inline]
    pub(crate) const fn messages(&self) -> u64 {
        self.messages
    }

    /// Whether a frame may be put in here.
    #[inline]
    pub(crate) const fn is_between_frames(&self) -> bool {
        self.offset == 0
    }

    /// Makes the next bytes, at most to the end of the frame under way, and says how many.
    #[inline]
    pub(crate) fn put(&mut self, traffic: &Traffic, room: &mut [u8]) -> usize {
        match traffic.plain() {
            Some(head)
                if self.offset == 0 && room.len() >= HEADER_MAX + traffic.payload(self.variant).len() =>
            {
                self.put_plain(head, traffic, room)
            }
            _ => self.put_part(traffic, room),
        }
    }

    /// Compares the next bytes, at most to the end of the frame under way, and says how many; it unmasks them where
    /// they lie.
    ///
    /// # Errors
    ///
    /// The first byte that differs, as an offset in its frame.
    #[inline]
    pub(crate) fn check(&mut self, traffic: &Traffic, bytes: &mut [u8]) -> Result<usize, Fault> {
        match traffic.plain() {
            Some(head)
                if self.offset == 0 && bytes.len() >= head.len + traffic.payload(self.variant).len() =>
            {
                self.check_plain(head, traffic, bytes)
            }
            _ => self.check_part(traffic, bytes),
        }
    }

    /// A whole frame, like all others, in room enough for the longest header: what is done millions of times a second.
    #[inline]
    fn put_plain(&mut self, head: &Head, traffic: &Traffic, room: &mut [u8]) -> usize {
        let key = Key::new(self.keys.u32(..).to_ne_bytes());
        let payload = traffic.payload(self.variant);
        let end = head.len + payload.len();
        room[..HEADER_MAX].copy_from_slice(&head.bytes);
        room[head.len - KEY_LEN..head.len].copy_from_slice(&key.to_bytes());
        let piece = &mut room[head.len..end];
        piece.copy_from_slice(payload);
        mask::apply(piece, key);
        self.variant = traffic.next(self.variant);
        self.messages += 1;
        end
    }

    /// As [`Self::put_plain`].
    #[inline]
    fn check_plain(&mut self, head: &Head, traffic: &Traffic, bytes: &mut [u8]) -> Result<usize, Fault> {
        let key = Key::new(self.keys.u32(..).to_ne_bytes());
        let payload = traffic.payload(self.variant);
        let end = head.len + payload.len();
        let (header, piece) = bytes[..end].split_at_mut(head.len);
        let (beginning, masking_key) = header.split_at(head.len - KEY_LEN);
        compare(beginning, &head.bytes[..head.len - KEY_LEN], 0)?;
        compare(masking_key, &key.to_bytes(), head.len - KEY_LEN)?;
        mask::apply(piece, key);
        compare(piece, payload, head.len)?;
        self.variant = traffic.next(self.variant);
        self.messages += 1;
        Ok(end)
    }

    fn put_part(&mut self, traffic: &Traffic, room: &mut [u8]) -> usize {
        let frame = self.frame(traffic);
        let mut len = 0;
        if self.offset < frame.head.len {
            let rest = &frame.head.bytes[self.offset..frame.head.len];
            len = rest.len().min(room.len());
            room[..len].copy_from_slice(&rest[..len]);
        }
        if len < room.len() {
            let from = self.offset + len - frame.head.len;
            let rest = &frame.payload[from..];
            let step = rest.len().min(room.len() - len);
            let piece = &mut room[len..len + step];
            piece.copy_from_slice(&rest[..step]);
            mask::apply(piece, frame.key.advanced(from));
            len += step;
        }
        self.advance(len, frame.len(), traffic);
        len
    }

    fn check_part(&mut self, traffic: &Traffic, bytes: &mut [u8]) -> Result<usize, Fault> {
        let frame = self.frame(traffic);
        let mut len = 0;
        if self.offset < frame.head.len {
            let rest = &frame.head.bytes[self.offset..frame.head.len];
            len = rest.len().min(bytes.len());
            compare(&bytes[..len], &rest[..len], self.offset)?;
        }
        if len < bytes.len() {
            let from = self.offset + len - frame.head.len;
            let rest = &frame.payload[from..];
            let step = rest.len().min(bytes.len() - len);
            let piece = &mut bytes[len..len + step];
            mask::apply(piece, frame.key.advanced(from));
            compare(piece, &rest[..step], self.offset + len)?;
            len += step;
        }
        self.advance(len, frame.len(), traffic);
        Ok(len)
    }

    /// Goes over bytes, at most `count` and to the end of the frame under way, and says how many.
    pub(crate) fn skip(&mut self, traffic: &Traffic, count: usize) -> usize {
        let frame_len = self.frame(traffic).len();
        let step = count.min(frame_len - self.offset);
        self.advance(step, frame_len, traffic);
        step
    }

    fn advance(&mut self, count: usize, frame_len: usize, traffic: &Traffic) {
        self.offset += count;
        debug_assert!(self.offset <= frame_len);
        if self.offset < frame_len {
            return;
        }
        self.keys.u32(..);
        self.offset = 0;
        if traffic.plain().is_none() {
            self.frames += 1;
            let of = traffic.shape(self.variant).fragments + u32::from(self.is_pinging(traffic));
            if self.frames < of {
                return;
            }
            self.frames = 0;
        }
        self.variant = traffic.next(self.variant);
        self.messages += 1;
    }

    fn frame<'t>(&self, traffic: &'t Traffic) -> Frame<'t> {
        let key = Key::new(self.keys.clone().u32(..).to_ne_bytes());
        match traffic.plain() {
            Some(head) => Frame { head: head.with_key(key), payload: traffic.payload(self.variant), key },
            None => self.frame_of_many(traffic, key),
        }
    }

    /// The frame under way, where they are not all alike.
    fn frame_of_many<'t>(&self, traffic: &'t Traffic, key: Key) -> Frame<'t> {
        let is_pinging = self.is_pinging(traffic);
        if is_pinging && self.frames == 1 {
            return self.ping(traffic, key);
        }
        let shape = traffic.shape(self.variant);
        let fragment = self.frames - u32::from(is_pinging && self.frames > 1);
        let range = shape.fragment(fragment);
        let opcode = if fragment == 0 { shape.opcode } else { OpCode::Continuation };
        let head = Head::new(fragment + 1 == shape.fragments, opcode, range.len(), key);
        Frame { head, payload: &traffic.payload(self.variant)[range], key }
    }

    /// The ping of the message under way; its payload goes with the header, masked already.
    fn ping<'t>(&self, traffic: &Traffic, key: Key) -> Frame<'t> {
        let every = traffic.ping_every().map_or(u64::MAX, |every| every.get().into());
        let mut head = Head::new(true, OpCode::Ping, ping::PAYLOAD_LEN, key);
        let payload = &mut head.bytes[head.len..head.len + ping::PAYLOAD_LEN];
        payload.copy_from_slice(&ping::payload(self.connection, (self.messages + 1) / every));
        mask::apply(payload, key);
        head.len += ping::PAYLOAD_LEN;
        Frame { head, payload: &[], key }
    }

    /// Whether a ping goes with the message under way.
    fn is_pinging(&self, traffic: &Traffic) -> bool {
        traffic.ping_every().is_some_and(|every| (self.messages + 1).is_multiple_of(every.get().into()))
    }
}

impl Frame<'_> {
    const fn len(&self) -> usize {
        self.head.len + self.payload.len()
    }
}

#[inline]
fn compare(piece: &[u8], expected: &[u8], at: usize) -> Result<(), Fault> {
    if piece == expected { Ok(()) } else { Err(difference(piece, expected, at)) }
}

#[cold]
fn difference(piece: &[u8], expected: &[u8], at: usize) -> Fault {
    let same = piece.iter().zip(expected).take_while(|(a, b)| a == b).count();
    Fault::WrongBytes { at: at + same }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::num::NonZeroU32;

    use ringback::proto::frame::{Header, Sender};

    use crate::client::traffic::{Kind, Settings};

    fn traffic(kind: Kind, sizes: &str, fragments: u32, ping_every: u32) -> Traffic {
        let sizes = sizes.parse().expect("valid");
        let ping_every = NonZeroU32::new(ping_every);
        Traffic::new(Settings { kind, sizes, fragments: fragments..=fragments, ping_every }, 5)
    }

    /// The bytes of so many messages, made in portions of at most so many.
    fn bytes(traffic: &Traffic, messages: u64, portion: usize) -> Vec<u8> {
        let mut cursor = Cursor::new(fastrand::Rng::with_seed(3), traffic.first(2), 2);
        let mut bytes = Vec::new();
        let mut room = vec![0; portion];
        while cursor.messages() < messages {
            let len = cursor.put(traffic, &mut room);
            assert!(len > 0);
            bytes.extend_from_slice(&room[..len]);
        }
        bytes
    }

    /// The frames in these bytes: whether they are last ones, their opcodes, their payloads without the mask, their keys.
    fn frames(mut bytes: &[u8]) -> Vec<(bool, OpCode, Vec<u8>, [u8; 4])> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let (header, len) = Header::parse(bytes, Sender::Client).expect("valid").expect("whole");
            let end = len + usize::try_from(header.payload_len).expect("short");
            let key = header.key.expect("masked");
            let mut payload = bytes[len..end].to_vec();
            mask::apply(&mut payload, key);
            frames.push((header.fin, header.opcode, payload, key.to_bytes()));
            bytes = &bytes[end..];
        }
        frames
    }

    const ALL: [(Kind, &str, u32, u32); 8] = [
        (Kind::Binary, "10", 1, 0),
        (Kind::Text, "0", 1, 0),
        (Kind::Utf8, "130", 1, 1),
        (Kind::Text, "10", 3, 2),
        (Kind::Text, "2", 4, 1),
        (Kind::Mixed, "10", 1, 0),
        (Kind::Mixed, "0-40:2,200:1", 2, 3),
        (Kind::Ping, "0-125", 1, 0),
    ];

    #[test]
    fn bytes_are_the_same_in_any_portions_and_are_found_right() {
        for (kind, sizes, fragments, ping_every) in ALL {
            let traffic = traffic(kind, sizes, fragments, ping_every);
            let whole = bytes(&traffic, 7, 1 << 16);
            for portion in 1..=whole.len() {
                assert_eq!(bytes(&traffic, 7, portion), whole, "{kind:?} {sizes} {portion}");
                let mut cursor = Cursor::new(fastrand::Rng::with_seed(3), traffic.first(2), 2);
                let mut skipping = cursor.clone();
                for piece in whole.clone().chunks_mut(portion) {
                    let mut from = 0;
                    while from < piece.len() {
                        let len = cursor.check(&traffic, &mut piece[from..]).expect("right");
                        assert_eq!(skipping.skip(&traffic, piece.len() - from), len);
                        from += len;
                    }
                }
                assert_eq!((cursor.messages(), skipping.messages()), (7, 7));
            }
        }
    }

    #[test]
    fn every_wrong_byte_is_found() {
        for (kind, sizes, fragments, ping_every) in ALL {
            let traffic = traffic(kind, sizes, fragments, ping_every);
            let whole = bytes(&traffic, 4, 1 << 16);
            for at in 0..whole.len() {
                let mut wrong = whole.clone();
                wrong[at] ^= 0x40;
                let mut cursor = Cursor::new(fastrand::Rng::with_seed(3), traffic.first(2), 2);
                let mut from = 0;
                let found = loop {
                    match cursor.check(&traffic, &mut wrong[from..]) {
                        Ok(len) => from += len,
                        Err(found) => break found,
                    }
                };
                assert_eq!(found, Fault::WrongBytes { at: at - from }, "{kind:?} {sizes}");
            }
        }
    }

    #[test]
    fn fragments_make_the_message_and_pings_are_in_between() {
        let traffic = traffic(Kind::Text, "10", 3, 2);
        let sent = frames(&bytes(&traffic, 4, 1000));
        let shape: Vec<_> =
            sent.iter().map(|(fin, opcode, payload, _)| (*fin, *opcode, payload.len())).collect();
        let plain =
            [(false, OpCode::Text, 3), (false, OpCode::Continuation, 3), (true, OpCode::Continuation, 4)];
        let pinging = [&plain[..1], &[(true, OpCode::Ping, 8)], &plain[1..]].concat();
        assert_eq!(shape, [&plain[..], &pinging, &plain, &pinging].concat());
        let pings = sent.iter().filter(|frame| frame.1 == OpCode::Ping).map(|frame| &frame.2[..]);
        assert_eq!(pings.collect::<Vec<_>>(), [ping::payload(2, 1), ping::payload(2, 2)]);
        let message: Vec<_> = sent[..3].iter().flat_map(|frame| frame.2.clone()).collect();
        assert_eq!(message, traffic.payload(traffic.first(2)));
    }

    #[test]
    fn a_ping_follows_a_message_of_one_frame() {
        let sent = frames(&bytes(&traffic(Kind::Binary, "10", 1, 3), 6, 1000));
        let opcodes: Vec<_> = sent.iter().map(|frame| frame.1).collect();
        let round = [OpCode::Binary, OpCode::Binary, OpCode::Binary, OpCode::Ping];
        assert_eq!(opcodes, [round, round].concat());
    }

    #[test]
    fn every_frame_has_a_key_of_its_own() {
        for (kind, fragments, ping_every) in [(Kind::Text, 1, 0), (Kind::Mixed, 4, 2)] {
            let sent = frames(&bytes(&traffic(kind, "10", fragments, ping_every), 300, 1000));
            let keys: HashSet<_> = sent.iter().map(|frame| frame.3).collect();
            // Of 2^32 keys, two alike among 1,350 have a chance of 1 in 4,700; the seed is fixed.
            assert_eq!(keys.len(), sent.len());
            assert!(sent.len() >= 300);
        }
    }
}
