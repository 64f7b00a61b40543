//! The receiving half of a connection, as a value: every byte is compared with what was sent.

use ringback::mask::{self, Key};
use ringback::proto::close;
use ringback::proto::frame::{CONTROL_PAYLOAD_MAX, Header, OpCode, Sender};

use crate::client::fault::Fault;
use crate::client::traffic::{Traffic, Variant};

/// What the bytes that came amount to, one thing at a time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A message came back whole and right.
    Echo,
    /// A ping with this payload.
    Ping(Vec<u8>),
    /// A close frame with this code.
    Close(Option<u16>),
}

/// What has come back on a connection.
pub(crate) enum Incoming {
    /// Messages are echoed (RFC 6455).
    Messages(Messages),
    /// Bytes are echoed.
    Bytes(Bytes),
}

impl Incoming {
    /// Takes bytes from the front of `bytes` up to the next event, or all of them, and says how many those were.
    ///
    /// `in_flight` is how many messages are due or sent and have not come back. The bytes may be changed.
    ///
    /// # Errors
    ///
    /// The first fault; nothing after it may be received.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        bytes: &mut [u8],
        in_flight: usize,
        traffic: &Traffic,
    ) -> Result<(usize, Option<Event>), Fault> {
        match self {
            Self::Messages(messages) => messages.receive(bytes, in_flight, traffic),
            Self::Bytes(echo) => echo.receive(bytes, in_flight, traffic),
        }
    }
}

/// The frames of a WebSocket server. Messages are compared, not frames: an echo may come in fragments.
pub(crate) struct Messages {
    /// The variant of the next message to come back.
    variant: Variant,
    /// Bytes that have come of it.
    got: usize,
    /// Whether a fragment of it has come.
    is_begun: bool,
    /// Bytes that are still to come of the data frame under way. `got + frame_left <= traffic.size()`
    frame_left: usize,
    /// Whether that frame is its message's last.
    fin: bool,
    /// The beginning of a header or a control frame that was cut.
    held: Vec<u8>,
}

impl Messages {
    /// Nothing has come.
    pub(crate) const fn new(variant: Variant) -> Self {
        Self { variant, got: 0, is_begun: false, frame_left: 0, fin: false, held: Vec::new() }
    }

    #[inline]
    fn receive(
        &mut self,
        bytes: &[u8],
        in_flight: usize,
        traffic: &Traffic,
    ) -> Result<(usize, Option<Event>), Fault> {
        let mut taken = 0;
        while taken < bytes.len() {
            let rest = &bytes[taken..];
            if self.frame_left == 0 {
                let (step, event) = self.next_frame(rest, in_flight, traffic)?;
                taken += step;
                if event.is_some() {
                    return Ok((taken, event));
                }
            } else {
                let piece = &rest[..rest.len().min(self.frame_left)];
                self.compare(piece, in_flight, traffic)?;
                taken += piece.len();
                if self.frame_left == 0 && self.fin {
                    self.finish();
                    return Ok((taken, Some(Event::Echo)));
                }
            }
        }
        Ok((taken, None))
    }

    /// Takes a header, or a whole control frame, or holds what there is of it.
    #[inline]
    fn next_frame(
        &mut self,
        bytes: &[u8],
        in_flight: usize,
        traffic: &Traffic,
    ) -> Result<(usize, Option<Event>), Fault> {
        if !self.held.is_empty() {
            return self.next_held_frame(bytes, in_flight, traffic);
        }
        let Some((header, len)) = Header::parse(bytes, Sender::Server)? else {
            self.held.extend_from_slice(bytes);
            return Ok((bytes.len(), None));
        };
        if !header.opcode.is_control() {
            return Ok((len, self.begin(&header, in_flight, traffic)?));
        }
        let end = len + control_len(&header);
        let Some(payload) = bytes.get(len..end) else {
            self.held.extend_from_slice(bytes);
            return Ok((bytes.len(), None));
        };
        Ok((end, control(header.opcode, payload)?))
    }

    /// As [`Self::next_frame`], for a frame of which a part was held: byte by byte, since there are few.
    #[cold]
    fn next_held_frame(
        &mut self,
        bytes: &[u8],
        in_flight: usize,
        traffic: &Traffic,
    ) -> Result<(usize, Option<Event>), Fault> {
        let mut held = std::mem::take(&mut self.held);
        for (at, &byte) in bytes.iter().enumerate() {
            held.push(byte);
            let Some((header, len)) = Header::parse(&held, Sender::Server)? else {
                continue;
            };
            if header.opcode.is_control() && held.len() < len + control_len(&header) {
                continue;
            }
            let event = if header.opcode.is_control() {
                control(header.opcode, &held[len..])?
            } else {
                self.begin(&header, in_flight, traffic)?
            };
            held.clear();
            self.held = held;
            return Ok((at + 1, event));
        }
        self.held = held;
        Ok((bytes.len(), None))
    }

    /// Judges the header of a data frame against the message that is expected.
    #[inline]
    fn begin(
        &mut self,
        header: &Header,
        in_flight: usize,
        traffic: &Traffic,
    ) -> Result<Option<Event>, Fault> {
        match (header.opcode == OpCode::Continuation, self.is_begun) {
            (true, false) => return Err(ringback::proto::ProtocolError::UnexpectedContinuation.into()),
            (false, true) => return Err(ringback::proto::ProtocolError::ExpectedContinuation.into()),
            (true, true) => {}
            (false, false) => {
                if in_flight == 0 {
                    return Err(Fault::Unasked);
                }
                if header.opcode != traffic.kind().opcode() {
                    return Err(Fault::WrongOpcode);
                }
            }
        }
        let missing = traffic.size() - self.got;
        match usize::try_from(header.payload_len) {
            Ok(len) if len == missing || (len < missing && !header.fin) => {
                self.frame_left = len;
                self.fin = header.fin;
                self.is_begun = true;
            }
            _ => return Err(Fault::WrongLength),
        }
        if self.frame_left == 0 && self.fin {
            self.finish();
            return Ok(Some(Event::Echo));
        }
        Ok(None)
    }

    #[inline]
    fn compare(&mut self, piece: &[u8], in_flight: usize, traffic: &Traffic) -> Result<(), Fault> {
        let expected = &traffic.payload(self.variant)[self.got..self.got + piece.len()];
        if piece != expected {
            return Err(self.diagnose(piece, expected, in_flight, traffic));
        }
        self.got += piece.len();
        self.frame_left -= piece.len();
        Ok(())
    }

    /// Whether a wrong piece belongs to another message, one in flight or one of the last few.
    #[cold]
    fn diagnose(&self, piece: &[u8], expected: &[u8], in_flight: usize, traffic: &Traffic) -> Fault {
        let later = (1..in_flight).map(|ahead| self.variant.plus(ahead));
        let earlier = (1..=STALE_MAX).map(|behind| self.variant.minus(behind));
        let is_other =
            |variant| traffic.payload(variant).get(self.got..self.got + piece.len()) == Some(piece);
        if later.chain(earlier).any(is_other) {
            return Fault::WrongOrder;
        }
        let same = piece.iter().zip(expected).take_while(|(a, b)| a == b).count();
        Fault::WrongBytes { at: self.got + same }
    }

    #[inline]
    fn finish(&mut self) {
        self.variant = self.variant.next();
        self.got = 0;
        self.is_begun = false;
    }
}

/// The frames that were sent, come back byte for byte.
pub(crate) struct Bytes {
    /// The same sequence of keys as the sender's.
    keys: fastrand::Rng,
    /// The variant and the key of the frame that comes back.
    variant: Variant,
    key: Key,
    /// Bytes that have come of it.
    got: usize,
}

impl Bytes {
    /// Nothing has come. `keys` is what the sender was made with.
    pub(crate) fn new(mut keys: fastrand::Rng, variant: Variant) -> Self {
        let key = Key::new(keys.u32(..).to_ne_bytes());
        Self { keys, variant, key, got: 0 }
    }

    #[inline]
    fn receive(
        &mut self,
        bytes: &mut [u8],
        in_flight: usize,
        traffic: &Traffic,
    ) -> Result<(usize, Option<Event>), Fault> {
        if in_flight == 0 && !bytes.is_empty() {
            return Err(Fault::Unasked);
        }
        let mut taken = 0;
        if self.got < traffic.header_len() {
            let header = traffic.header(self.key);
            let rest = &header[self.got..traffic.header_len()];
            let step = rest.len().min(bytes.len());
            check(&bytes[..step], &rest[..step], self.got)?;
            self.got += step;
            taken = step;
        }
        if self.got >= traffic.header_len() {
            let from = self.got - traffic.header_len();
            let rest = &traffic.payload(self.variant)[from..];
            let step = rest.len().min(bytes.len() - taken);
            let piece = &mut bytes[taken..taken + step];
            mask::apply(piece, self.key.advanced(from));
            check(piece, &rest[..step], self.got)?;
            self.got += step;
            taken += step;
        }
        if self.got < traffic.frame_len() {
            return Ok((taken, None));
        }
        self.got = 0;
        self.variant = self.variant.next();
        self.key = Key::new(self.keys.u32(..).to_ne_bytes());
        Ok((taken, Some(Event::Echo)))
    }
}

/// How many messages back a wrong echo is looked for.
const STALE_MAX: usize = 256;

/// The payload of a control frame, whose length the header's parser has judged.
fn control_len(header: &Header) -> usize {
    usize::try_from(header.payload_len).map_or(CONTROL_PAYLOAD_MAX, |len| len.min(CONTROL_PAYLOAD_MAX))
}

fn control(opcode: OpCode, payload: &[u8]) -> Result<Option<Event>, Fault> {
    Ok(match opcode {
        OpCode::Ping => Some(Event::Ping(payload.to_vec())),
        OpCode::Close => Some(Event::Close(close::parse(payload)?)),
        // A pong that nobody asked for is allowed (RFC 6455 §5.5.3).
        _ => None,
    })
}

#[inline]
fn check(piece: &[u8], expected: &[u8], at: usize) -> Result<(), Fault> {
    if piece == expected {
        return Ok(());
    }
    let same = piece.iter().zip(expected).take_while(|(a, b)| a == b).count();
    Err(Fault::WrongBytes { at: at + same })
}
