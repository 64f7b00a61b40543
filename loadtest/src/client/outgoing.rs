//! The sending half of a connection, as a value: which bytes come next.
//!
//! No frame is kept. A frame is a function of the traffic, its variant and its key, and the keys of a connection are
//! a random sequence that can be run again; so bytes are made straight into the buffer that is written, however
//! many messages are due, and those that the socket did not take are made again when it takes more.

use ringback::mask::{self, Key};
use ringback::proto::frame::{HEADER_MAX, Header, OpCode};

use crate::client::traffic::{Traffic, Variant};

/// The frames of one connection.
pub(crate) struct Outgoing {
    place: Place,
    /// Whole frames to be sent between messages: pongs and the close frame; before them, a handshake's request.
    /// `place.control_sent <= control.len()`.
    control: Vec<u8>,
}

/// How far the sending has come.
#[derive(Clone)]
pub(crate) struct Place {
    keys: fastrand::Rng,
    variant: Variant,
    /// Messages that are due and not sent to their end.
    due: usize,
    /// Bytes sent of the first of them.
    offset: usize,
    /// Bytes sent of `control`.
    control_sent: usize,
}

/// Bytes that [`Outgoing::fill`] has made.
pub(crate) struct Filled {
    /// How many.
    pub(crate) len: usize,
    end: Place,
}

impl Outgoing {
    /// Nothing is due. `first` goes out before the first message.
    pub(crate) fn new(keys: fastrand::Rng, variant: Variant, first: Vec<u8>) -> Self {
        Self { place: Place { keys, variant, due: 0, offset: 0, control_sent: 0 }, control: first }
    }

    /// So many further messages are due.
    #[inline]
    pub(crate) fn push(&mut self, messages: usize) {
        self.place.due += messages;
    }

    /// Queues a control frame: it goes out before the next message begins.
    ///
    /// Of several pings only the last needs a pong (RFC 6455 §5.5.3); a server that sends them faster than it reads
    /// gets only that.
    pub(crate) fn push_control(&mut self, opcode: OpCode, payload: &[u8], random: &mut fastrand::Rng) {
        if self.control.len() > CONTROL_MAX {
            let first_len = if self.place.control_sent == 0 { 0 } else { self.control_sent_to() };
            self.control.truncate(first_len);
        }
        let key = Key::new(random.u32(..).to_ne_bytes());
        let mut header = [0; HEADER_MAX];
        let header_len = Header { fin: true, opcode, payload_len: payload.len() as u64, key: Some(key) }
            .encode(&mut header);
        self.control.extend_from_slice(&header[..header_len]);
        let from = self.control.len();
        self.control.extend_from_slice(payload);
        mask::apply(&mut self.control[from..], key);
    }

    /// Whether there is anything to send.
    #[inline]
    pub(crate) fn is_pending(&self) -> bool {
        self.place.due > 0 || self.place.control_sent < self.control.len()
    }

    /// Makes the next bytes, as many as there are and `to` takes.
    #[inline]
    pub(crate) fn fill(&self, traffic: &Traffic, to: &mut [u8]) -> Filled {
        let mut end = self.place.clone();
        let mut len = 0;
        while len < to.len() {
            let room = &mut to[len..];
            let control = &self.control[end.control_sent..];
            if end.offset == 0 && !control.is_empty() {
                let step = control.len().min(room.len());
                room[..step].copy_from_slice(&control[..step]);
                end.control_sent += step;
                len += step;
            } else if end.due > 0 {
                len += end.put(traffic, room);
            } else {
                break;
            }
        }
        Filled { len, end }
    }

    /// The first `written` of the bytes that [`Self::fill`] made are sent.
    #[inline]
    pub(crate) fn wrote(&mut self, filled: Filled, written: usize, traffic: &Traffic) {
        if written == filled.len {
            self.place = filled.end;
        } else {
            self.place.skip(written, self.control.len(), traffic);
        }
        if self.place.control_sent == self.control.len() {
            self.control.clear();
            self.place.control_sent = 0;
        }
    }

    /// Where in `control` the frame that is partly sent ends. The queue holds frames from its front on once the
    /// handshake is done, all of them with short lengths.
    fn control_sent_to(&self) -> usize {
        let mut end = 0;
        while end < self.place.control_sent {
            end += CONTROL_HEADER_LEN + usize::from(self.control[end + 1] & 0x7F);
        }
        end
    }
}

impl Place {
    /// Makes the next bytes of the message under way and says how many.
    #[inline]
    fn put(&mut self, traffic: &Traffic, room: &mut [u8]) -> usize {
        let header_len = traffic.header_len();
        let key = self.key();
        let mut len = 0;
        if self.offset < header_len {
            let header = traffic.header(key);
            let rest = &header[self.offset..header_len];
            len = rest.len().min(room.len());
            room[..len].copy_from_slice(&rest[..len]);
        }
        if len < room.len() {
            let from = self.offset + len - header_len;
            let rest = &traffic.payload(self.variant)[from..];
            let step = rest.len().min(room.len() - len);
            let piece = &mut room[len..len + step];
            piece.copy_from_slice(&rest[..step]);
            mask::apply(piece, key.advanced(from));
            len += step;
        }
        self.advance(len, traffic);
        len
    }

    /// Goes over `count` bytes that were sent.
    fn skip(&mut self, mut count: usize, control_len: usize, traffic: &Traffic) {
        while count > 0 {
            if self.offset == 0 && self.control_sent < control_len {
                let step = count.min(control_len - self.control_sent);
                self.control_sent += step;
                count -= step;
            } else {
                let step = count.min(traffic.frame_len() - self.offset);
                self.advance(step, traffic);
                count -= step;
            }
        }
    }

    /// Goes over `count` bytes, at most to the end of the message under way.
    #[inline]
    fn advance(&mut self, count: usize, traffic: &Traffic) {
        self.offset += count;
        debug_assert!(self.offset <= traffic.frame_len());
        if self.offset == traffic.frame_len() {
            self.keys.u32(..);
            self.variant = self.variant.next();
            self.due -= 1;
            self.offset = 0;
        }
    }

    #[inline]
    fn key(&self) -> Key {
        Key::new(self.keys.clone().u32(..).to_ne_bytes())
    }
}

/// The most bytes of pongs in the queue.
const CONTROL_MAX: usize = 4096;

/// A client's header of a control frame.
const CONTROL_HEADER_LEN: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::traffic::Kind;

    fn outgoing() -> Outgoing {
        let mut outgoing =
            Outgoing::new(fastrand::Rng::with_seed(3), Variant::of_connection(0), b"GET".to_vec());
        outgoing.push(3);
        outgoing
    }

    fn all(outgoing: &mut Outgoing, traffic: &Traffic, room: usize, written_max: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut buffer = vec![0; room];
        while outgoing.is_pending() {
            let filled = outgoing.fill(traffic, &mut buffer);
            let written = filled.len.min(written_max);
            assert!(written > 0);
            bytes.extend_from_slice(&buffer[..written]);
            outgoing.wrote(filled, written, traffic);
        }
        bytes
    }

    #[test]
    fn the_bytes_are_the_same_however_the_socket_takes_them() {
        for size in [0, 1, 5, 125, 126, 70_000] {
            let traffic = Traffic::new(Kind::Binary, size, 1);
            let whole = all(&mut outgoing(), &traffic, 1 << 20, 1 << 20);
            assert_eq!(whole.len(), 3 + 3 * traffic.frame_len());
            let steps: &[usize] = if size < 1000 { &[1, 2, 3, 7, 64] } else { &[997, 65_536] };
            for &room in steps {
                for &written in steps {
                    assert_eq!(
                        all(&mut outgoing(), &traffic, room, written),
                        whole,
                        "{size} {room} {written}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_control_frame_waits_for_the_end_of_the_message_under_way() {
        let traffic = Traffic::new(Kind::Binary, 10, 1);
        let mut random = fastrand::Rng::with_seed(9);
        let plain = all(&mut outgoing(), &traffic, 1000, 1000);
        for cut in 1..plain.len() {
            let mut outgoing = outgoing();
            let mut buffer = vec![0; cut];
            let filled = outgoing.fill(&traffic, &mut buffer);
            outgoing.wrote(filled, cut, &traffic);
            outgoing.push_control(OpCode::Pong, b"ab", &mut random);
            let rest = all(&mut outgoing, &traffic, 1000, 1000);
            let frame = traffic.frame_len();
            let boundary = if cut <= 3 { 3 } else { 3 + (cut - 3).div_ceil(frame) * frame };
            let (before, after) = rest.split_at(boundary - cut);
            assert_eq!(before, &plain[cut..boundary], "cut at {cut}");
            assert_eq!(after[..2], [0x8A, 0x82]);
            assert_eq!(after[8..], plain[boundary..]);
        }
    }

    #[test]
    fn a_flood_of_pings_leaves_the_last_pong_and_the_one_half_sent() {
        let traffic = Traffic::new(Kind::Binary, 10, 1);
        let mut random = fastrand::Rng::with_seed(9);
        for sent in [0, 1, 8, 9] {
            let mut outgoing =
                Outgoing::new(fastrand::Rng::with_seed(3), Variant::of_connection(0), Vec::new());
            outgoing.push_control(OpCode::Pong, b"first!", &mut random);
            let mut buffer = vec![0; sent];
            let filled = outgoing.fill(&traffic, &mut buffer);
            outgoing.wrote(filled, sent, &traffic);
            for _ in 0..100_000 {
                outgoing.push_control(OpCode::Pong, b"ping", &mut random);
                assert!(outgoing.control.len() <= CONTROL_MAX + 2 * 131);
            }
            let mut bytes = buffer;
            bytes.extend(all(&mut outgoing, &traffic, 1 << 20, 1 << 20));
            let mut at = 0;
            while at < bytes.len() {
                assert_eq!(bytes[at], 0x8A, "sent {sent}");
                at += CONTROL_HEADER_LEN + usize::from(bytes[at + 1] & 0x7F);
            }
            assert_eq!(at, bytes.len());
            assert_eq!(bytes[1] & 0x7F, if sent == 0 { 4 } else { 6 });
        }
    }
}
