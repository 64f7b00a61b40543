//! The sending half of a connection, as a value: which bytes come next.
//!
//! Bytes are made straight into the buffer that is written, however many messages are due, and those that the socket
//! did not take are made again when it takes more. Between making bytes and learning how many were taken, anything may
//! become due: an owner that hands its buffer to the kernel need not wait.

use ringback::mask::{self, Key};
use ringback::proto::frame::{HEADER_MAX, Header, OpCode};

use crate::client::cursor::Cursor;
use crate::client::traffic::Traffic;

/// The frames of one connection.
pub(crate) struct Outgoing {
    /// Messages that were ever due. `place.cursor.messages() <= due`
    due: u64,
    place: Place,
    /// Whole frames to be sent between those of messages: pongs and the close frame; before them, a handshake's
    /// request. It grows until all of it is sent: `place.control_sent <= control.len()`
    control: Vec<u8>,
    /// The payload of a pong for which `control` had no room.
    last_pong: Option<Vec<u8>>,
}

/// How far the sending has come.
#[derive(Clone)]
struct Place {
    cursor: Cursor,
    /// Bytes sent of `control`.
    control_sent: usize,
}

/// Bytes that [`Outgoing::fill`] has made.
pub(crate) struct Filled {
    /// How many.
    pub(crate) len: usize,
    end: Place,
    /// The length of `control` when they were made.
    control_len: usize,
}

impl Outgoing {
    /// Nothing is due. `first` goes out before the first message.
    pub(crate) const fn new(cursor: Cursor, first: Vec<u8>) -> Self {
        Self { due: 0, place: Place { cursor, control_sent: 0 }, control: first, last_pong: None }
    }

    /// So many further messages are due.
    #[inline]
    pub(crate) fn push(&mut self, messages: usize) {
        self.due += messages as u64;
    }

    /// Queues a pong: it goes out before the next frame begins.
    ///
    /// Of several pings only the last needs one (RFC 6455 §5.5.3); a server that sends them faster than it reads gets
    /// the first few pongs and that.
    pub(crate) fn push_pong(&mut self, payload: Vec<u8>, random: &mut fastrand::Rng) {
        if self.control.len() > CONTROL_MAX {
            self.last_pong = Some(payload);
        } else {
            self.push_control(OpCode::Pong, &payload, random);
        }
    }

    /// Queues the close frame, behind all pongs; nothing may be pushed after it.
    pub(crate) fn push_close(&mut self, payload: &[u8], random: &mut fastrand::Rng) {
        self.push_last_pong(random);
        self.push_control(OpCode::Close, payload, random);
    }

    /// Whether there is anything to send.
    #[inline]
    pub(crate) fn is_pending(&self) -> bool {
        self.place.cursor.messages() < self.due || self.place.control_sent < self.control.len()
    }

    /// Makes the next bytes, as many as there are and `to` takes.
    #[inline]
    pub(crate) fn fill(&self, traffic: &Traffic, to: &mut [u8]) -> Filled {
        let mut end = self.place.clone();
        let mut len = 0;
        while len < to.len() {
            let room = &mut to[len..];
            let control = &self.control[end.control_sent..];
            if end.cursor.is_between_frames() && !control.is_empty() {
                let step = control.len().min(room.len());
                room[..step].copy_from_slice(&control[..step]);
                end.control_sent += step;
                len += step;
            } else if end.cursor.messages() < self.due {
                len += end.cursor.put(traffic, room);
            } else {
                break;
            }
        }
        Filled { len, end, control_len: self.control.len() }
    }

    /// The first `written` of the bytes that [`Self::fill`] made last are sent.
    #[inline]
    pub(crate) fn wrote(
        &mut self,
        filled: Filled,
        written: usize,
        traffic: &Traffic,
        random: &mut fastrand::Rng,
    ) {
        if written == filled.len {
            self.place = filled.end;
        } else {
            self.place.skip(written, filled.control_len, traffic);
        }
        if self.place.control_sent > 0 && self.place.control_sent == self.control.len() {
            self.control.clear();
            self.place.control_sent = 0;
            self.push_last_pong(random);
        }
    }

    fn push_last_pong(&mut self, random: &mut fastrand::Rng) {
        if let Some(payload) = self.last_pong.take() {
            self.push_control(OpCode::Pong, &payload, random);
        }
    }

    fn push_control(&mut self, opcode: OpCode, payload: &[u8], random: &mut fastrand::Rng) {
        let key = Key::new(random.u32(..).to_ne_bytes());
        let mut header = [0; HEADER_MAX];
        let header_len = Header { fin: true, opcode, payload_len: payload.len() as u64, key: Some(key) }
            .encode(&mut header);
        self.control.extend_from_slice(&header[..header_len]);
        let from = self.control.len();
        self.control.extend_from_slice(payload);
        mask::apply(&mut self.control[from..], key);
    }
}

impl Place {
    /// Goes over `count` bytes that were sent, made when `control` had so many.
    fn skip(&mut self, mut count: usize, control_len: usize, traffic: &Traffic) {
        while count > 0 {
            if self.cursor.is_between_frames() && self.control_sent < control_len {
                let step = count.min(control_len - self.control_sent);
                self.control_sent += step;
                count -= step;
            } else {
                count -= self.cursor.skip(traffic, count);
            }
        }
    }
}

/// The most bytes in the queue of control frames, but for two.
const CONTROL_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::traffic::{Kind, Settings};

    fn outgoing() -> Outgoing {
        let mut outgoing =
            Outgoing::new(Cursor::new(fastrand::Rng::with_seed(3), binary(0).first(0), 0), b"GET".to_vec());
        outgoing.push(3);
        outgoing
    }

    fn binary(size: usize) -> Traffic {
        Traffic::new(Settings::fixed(Kind::Binary, size), 1)
    }

    fn fragmented() -> Traffic {
        Traffic::new(Settings { fragments: 2..=2, ..Settings::fixed(Kind::Text, 10) }, 1)
    }

    fn random() -> fastrand::Rng {
        fastrand::Rng::with_seed(9)
    }

    fn all(outgoing: &mut Outgoing, traffic: &Traffic, room: usize, written_max: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut buffer = vec![0; room];
        while outgoing.is_pending() {
            let filled = outgoing.fill(traffic, &mut buffer);
            let written = filled.len.min(written_max);
            assert!(written > 0);
            bytes.extend_from_slice(&buffer[..written]);
            outgoing.wrote(filled, written, traffic, &mut random());
        }
        bytes
    }

    #[test]
    fn the_bytes_are_the_same_however_the_socket_takes_them() {
        for size in [0, 1, 5, 125, 126, 70_000] {
            let traffic = binary(size);
            let whole = all(&mut outgoing(), &traffic, 1 << 20, 1 << 20);
            assert_eq!(whole.len(), 3 + 3 * (Header::unmasked_len(size as u64) + 4 + size));
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
    fn a_control_frame_waits_for_the_end_of_the_frame_under_way() {
        for (traffic, frame) in [(binary(10), 16), (fragmented(), 11)] {
            let plain = all(&mut outgoing(), &traffic, 1000, 1000);
            for cut in 1..plain.len() {
                let mut outgoing = outgoing();
                let mut buffer = vec![0; cut];
                let filled = outgoing.fill(&traffic, &mut buffer);
                outgoing.wrote(filled, cut, &traffic, &mut random());
                outgoing.push_pong(b"ab".to_vec(), &mut random());
                let rest = all(&mut outgoing, &traffic, 1000, 1000);
                let boundary = if cut <= 3 { 3 } else { 3 + (cut - 3).div_ceil(frame) * frame };
                let (before, after) = rest.split_at(boundary - cut);
                assert_eq!(before, &plain[cut..boundary], "cut at {cut}");
                assert_eq!(after[..2], [0x8A, 0x82]);
                assert_eq!(after[8..], plain[boundary..]);
            }
        }
    }

    #[test]
    fn what_becomes_due_while_bytes_are_on_their_way_follows_them() {
        let traffic = fragmented();
        let mut twice = outgoing();
        twice.push(3);
        let plain = all(&mut twice, &traffic, 1000, 1000);
        let sent_before = 3 + 3 * 22;
        for written in 0..=sent_before {
            let mut outgoing = outgoing();
            let mut buffer = [0; 1000];
            let filled = outgoing.fill(&traffic, &mut buffer);
            assert_eq!(filled.len, sent_before);
            outgoing.push(3);
            outgoing.push_pong(b"ab".to_vec(), &mut random());
            outgoing.wrote(filled, written, &traffic, &mut random());
            let rest = all(&mut outgoing, &traffic, 1000, 1000);
            let boundary = if written <= 3 { 3 } else { 3 + (written - 3).div_ceil(11) * 11 };
            let (before, after) = rest.split_at(boundary - written);
            assert_eq!(before, &plain[written..boundary], "{written} written");
            assert_eq!(after[..2], [0x8A, 0x82]);
            assert_eq!(after[8..], plain[boundary..]);
        }
    }

    /// What a flood of pings may leave of its pongs: the first few, one that is half sent among them, and the last.
    #[test]
    fn a_flood_of_pings_leaves_the_first_pongs_and_the_last() {
        let traffic = binary(10);
        for (sent, is_closed) in [(0, false), (1, true), (8, false), (9, false), (13, true)] {
            let mut outgoing =
                Outgoing::new(Cursor::new(fastrand::Rng::with_seed(3), binary(0).first(0), 0), Vec::new());
            outgoing.push_pong(b"first!".to_vec(), &mut random());
            let mut buffer = vec![0; sent];
            let filled = outgoing.fill(&traffic, &mut buffer);
            for count in 0..100_000_u32 {
                outgoing.push_pong(count.to_be_bytes().to_vec(), &mut random());
                assert!(outgoing.control.len() <= CONTROL_MAX + 131);
            }
            let len = filled.len;
            outgoing.wrote(filled, len, &traffic, &mut random());
            if is_closed {
                outgoing.push_close(b"", &mut random());
            }
            let mut bytes = buffer[..len].to_vec();
            bytes.extend(all(&mut outgoing, &traffic, 1 << 20, 1 << 20));
            let mut payloads = Vec::new();
            let mut rest = &mut bytes[..];
            while let [first, second, ..] = *rest {
                let payload_len = usize::from(second & 0x7F);
                let (frame, behind) = rest.split_at_mut(6 + payload_len);
                let key = Key::new(frame[2..6].try_into().expect("four"));
                mask::apply(&mut frame[6..], key);
                payloads.push((first, frame[6..].to_vec()));
                rest = behind;
            }
            let close = is_closed.then(|| payloads.pop());
            assert!(close.is_none_or(|close| close == Some((0x88, Vec::new()))));
            assert_eq!(payloads[0], (0x8A, b"first!".to_vec()));
            assert_eq!(payloads[1], (0x8A, 0_u32.to_be_bytes().to_vec()));
            assert_eq!(payloads.pop(), Some((0x8A, 99_999_u32.to_be_bytes().to_vec())), "{sent} sent");
            assert!(payloads.len() < 500);
        }
    }
}
