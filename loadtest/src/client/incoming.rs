//! The receiving half of a connection, as a value: every byte is compared with what was sent.

use ringback::proto::ProtocolError;
use ringback::proto::close;
use ringback::proto::frame::{CONTROL_PAYLOAD_MAX, Header, OpCode, Sender};

use crate::client::cursor::Cursor;
use crate::client::fault::{Fault, Words};
use crate::client::traffic::{Kind, Traffic, Variant};
use crate::client::words::excerpt;

/// What the bytes that came amount to, one thing at a time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A message came back whole and right.
    Echo,
    /// So many messages came back: a pong answers the pings before its own as well (RFC 6455 §5.5.3).
    Echoes(usize),
    /// A pong with this payload, which answers no message.
    Pong(Vec<u8>),
    /// A ping with this payload.
    Ping(Vec<u8>),
    /// A close frame with this code, and this reason as the report shows it.
    Close(Option<u16>, Box<Words>),
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

impl Incoming {
    /// The fault that is known, where its connection ends before all of it has come.
    pub(crate) fn pending_fault(&self) -> Option<Fault> {
        match self {
            Self::Messages(messages) => messages.pending_fault(),
            Self::Bytes(_) => None,
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
    /// Bytes that are still to come of the data frame under way. `got + frame_left` is at most the message's size.
    frame_left: usize,
    /// Whether that frame is its message's last.
    fin: bool,
    /// The beginning of a header or a control frame that was cut.
    held: Vec<u8>,
    /// What is held answers nothing: some of its words are still to come.
    is_unasked: bool,
}

impl Messages {
    /// Nothing has come.
    pub(crate) const fn new(variant: Variant) -> Self {
        Self {
            variant,
            got: 0,
            is_begun: false,
            frame_left: 0,
            fin: false,
            held: Vec::new(),
            is_unasked: false,
        }
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
                    self.finish(traffic);
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
        if self.held.is_empty()
            && let Some((header, len)) = Header::parse(bytes, Sender::Server)?
            && !header.opcode.is_control()
            && let Ok(event) = self.begin(&header, in_flight, traffic)
        {
            return Ok((len, event));
        }
        self.next_rare_frame(bytes, in_flight, traffic)
    }

    /// As [`Self::next_frame`], for what is not the whole header of a good data frame.
    #[cold]
    fn next_rare_frame(
        &mut self,
        bytes: &[u8],
        in_flight: usize,
        traffic: &Traffic,
    ) -> Result<(usize, Option<Event>), Fault> {
        if !self.held.is_empty() {
            return self.next_held_frame(bytes, in_flight, traffic);
        }
        if let Some(taken) = self.take_frame(bytes, in_flight, traffic)? {
            return Ok(taken);
        }
        self.held.extend_from_slice(bytes);
        Ok((bytes.len(), None))
    }

    /// As [`Self::next_frame`], for a frame of which a part was held: byte by byte, since there are few.
    fn next_held_frame(
        &mut self,
        bytes: &[u8],
        in_flight: usize,
        traffic: &Traffic,
    ) -> Result<(usize, Option<Event>), Fault> {
        let mut held = std::mem::take(&mut self.held);
        for (at, &byte) in bytes.iter().enumerate() {
            held.push(byte);
            if let Some((_, event)) = self.take_frame(&held, in_flight, traffic)? {
                held.clear();
                self.held = held;
                return Ok((at + 1, event));
            }
        }
        self.held = held;
        Ok((bytes.len(), None))
    }

    /// Takes a header, or a whole control frame, and says how many bytes it has; `None` when more are needed.
    fn take_frame(
        &mut self,
        bytes: &[u8],
        in_flight: usize,
        traffic: &Traffic,
    ) -> Result<Option<(usize, Option<Event>)>, Fault> {
        let Some((header, len)) = Header::parse(bytes, Sender::Server)? else {
            return Ok(None);
        };
        if header.opcode.is_control() {
            let end = len + control_len(&header);
            let Some(payload) = bytes.get(len..end) else {
                return Ok(None);
            };
            return Ok(Some((end, self.control(header.opcode, payload, in_flight, traffic)?)));
        }
        if self.is_unasked {
            return self.unasked(&header, &bytes[len..]);
        }
        match self.begin(&header, in_flight, traffic) {
            Ok(event) => Ok(Some((len, event))),
            Err(Fault::Unasked(_)) => self.unasked(&header, &bytes[len..]),
            Err(fault) => self.explain(fault, &header, &bytes[len..], in_flight, traffic),
        }
    }

    fn control(
        &mut self,
        opcode: OpCode,
        payload: &[u8],
        in_flight: usize,
        traffic: &Traffic,
    ) -> Result<Option<Event>, Fault> {
        Ok(match opcode {
            OpCode::Pong if traffic.kind() == Kind::Ping => {
                let answered = (0..in_flight)
                    .position(|ahead| traffic.payload(traffic.plus(self.variant, ahead)) == payload);
                match answered {
                    Some(answered) => {
                        self.variant = traffic.plus(self.variant, answered + 1);
                        Some(Event::Echoes(answered + 1))
                    }
                    None if traffic.has_like(payload) => return Err(Fault::WrongPong),
                    // The server's own, which nobody asked for and which is allowed (RFC 6455 §5.5.3).
                    None => None,
                }
            }
            OpCode::Pong => Some(Event::Pong(payload.to_vec())),
            OpCode::Ping => Some(Event::Ping(payload.to_vec())),
            OpCode::Close => Some(close_event(payload)?),
            _ => None,
        })
    }

    /// Judges the header of a data frame against the message that is expected.
    #[inline]
    fn begin(
        &mut self,
        header: &Header,
        in_flight: usize,
        traffic: &Traffic,
    ) -> Result<Option<Event>, Fault> {
        let shape = traffic.shape(self.variant);
        match (header.opcode == OpCode::Continuation, self.is_begun) {
            (true, false) => return Err(ProtocolError::UnexpectedContinuation.into()),
            (false, true) => return Err(ProtocolError::ExpectedContinuation.into()),
            (true, true) => {}
            (false, false) => {
                if in_flight == 0 {
                    return Err(Fault::Unasked(None));
                }
                if header.opcode != shape.opcode {
                    return Err(Fault::WrongOpcode);
                }
            }
        }
        let missing = shape.size - self.got;
        match usize::try_from(header.payload_len) {
            Ok(len) if len == missing || (len < missing && !header.fin) => {
                self.frame_left = len;
                self.fin = header.fin;
                self.is_begun = true;
            }
            _ => return Err(Fault::WrongLength),
        }
        if self.frame_left == 0 && self.fin {
            self.finish(traffic);
            return Ok(Some(Event::Echo));
        }
        Ok(None)
    }

    /// Says what a message says that answers nothing; `Ok(None)` when more of it is needed for that.
    fn unasked(&mut self, header: &Header, bytes: &[u8]) -> Result<Option<(usize, Option<Event>)>, Fault> {
        let len = header.payload_len;
        if (bytes.len() as u64) < len.min(EXCERPT_BYTES) {
            self.is_unasked = true;
            return Ok(None);
        }
        Err(self.unasked_fault(header, bytes))
    }

    fn unasked_fault(&self, header: &Header, bytes: &[u8]) -> Fault {
        let len = header.payload_len;
        let what = match header.opcode {
            OpCode::Text => "a text message",
            OpCode::Binary => "a binary message",
            _ => "a fragment",
        };
        let bytes = &bytes[..bytes.len().min(usize::try_from(len).unwrap_or(usize::MAX))];
        match unasked(what, len, bytes) {
            Fault::Unasked(Some(mut told)) => {
                told.0.push_str("; of a server that greets, --skip N reads the first N messages over");
                Fault::Unasked(Some(told))
            }
            fault => fault,
        }
    }

    /// The fault that is known, though not all of its words have come.
    fn pending_fault(&self) -> Option<Fault> {
        let (header, len) = self.is_unasked.then(|| Header::parse(&self.held, Sender::Server))?.ok()??;
        Some(self.unasked_fault(&header, &self.held[len..]))
    }

    /// Tells a header that is wrong for the message that is expected and right for another one from one that is wrong
    /// for all of them: by the first bytes behind it, `bytes`. `Ok(None)` when more are needed for that.
    fn explain(
        &self,
        fault: Fault,
        header: &Header,
        bytes: &[u8],
        in_flight: usize,
        traffic: &Traffic,
    ) -> Result<Option<(usize, Option<Event>)>, Fault> {
        let is_of_others = matches!(fault, Fault::WrongOpcode | Fault::WrongLength);
        if self.is_begun || !is_of_others || !traffic.is_varied() {
            return Err(fault);
        }
        let len = usize::try_from(header.payload_len).unwrap_or(usize::MAX);
        let Some(beginning) = bytes.get(..len.min(BEGINNING_LEN)) else {
            return Ok(None);
        };
        let is_other = self.others(in_flight, traffic).any(|variant| {
            let shape = traffic.shape(variant);
            shape.opcode == header.opcode
                && (if header.fin { shape.size == len } else { shape.size >= len })
                && traffic.payload(variant).starts_with(beginning)
        });
        Err(if is_other { Fault::WrongOrder } else { fault })
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
        let is_other =
            |variant| traffic.payload(variant).get(self.got..self.got + piece.len()) == Some(piece);
        if self.others(in_flight, traffic).any(is_other) {
            return Fault::WrongOrder;
        }
        let same = piece.iter().zip(expected).take_while(|(a, b)| a == b).count();
        Fault::WrongBytes { at: self.got + same }
    }

    /// The messages whose echo may have come instead: those in flight behind the expected one, and the last few.
    fn others(&self, in_flight: usize, traffic: &Traffic) -> impl Iterator<Item = Variant> {
        let variant = self.variant;
        let later = (1..in_flight).map(move |ahead| traffic.plus(variant, ahead));
        later.chain((1..=STALE_MAX).map(move |behind| traffic.minus(variant, behind)))
    }

    #[inline]
    fn finish(&mut self, traffic: &Traffic) {
        self.variant = traffic.next(self.variant);
        self.got = 0;
        self.is_begun = false;
    }
}

/// The frames that were sent, come back byte for byte.
pub(crate) struct Bytes(Cursor);

impl Bytes {
    /// Nothing has come. `cursor` is what the sender was made with.
    pub(crate) const fn new(cursor: Cursor) -> Self {
        Self(cursor)
    }

    #[inline]
    fn receive(
        &mut self,
        bytes: &mut [u8],
        in_flight: usize,
        traffic: &Traffic,
    ) -> Result<(usize, Option<Event>), Fault> {
        if in_flight == 0 && !bytes.is_empty() {
            return Err(unasked("bytes", bytes.len() as u64, bytes));
        }
        let messages = self.0.messages();
        let taken = self.0.check(traffic, bytes)?;
        Ok((taken, (self.0.messages() != messages).then_some(Event::Echo)))
    }
}

/// What a close frame with this payload is.
pub(super) fn close_event(payload: &[u8]) -> Result<Event, ProtocolError> {
    let code = close::parse(payload)?;
    let reason = excerpt(payload.get(size_of::<u16>()..).unwrap_or_default(), CONTROL_PAYLOAD_MAX);
    Ok(Event::Close(code, Box::new(Words(reason))))
}

/// That this came, of so many bytes, and answers nothing; `beginning` has the first of them.
pub(super) fn unasked(what: &str, len: u64, beginning: &[u8]) -> Fault {
    let words = excerpt(beginning, EXCERPT_CHARS);
    let more = if (beginning.len() as u64) < len && !words.ends_with('…') { "…" } else { "" };
    let told = format!("{what} came that answers nothing, {len} bytes: \"{words}{more}\"");
    Fault::Unasked(Some(Box::new(Words(told))))
}

/// How much is told of what answers nothing, and awaited for it.
const EXCERPT_CHARS: usize = 80;
const EXCERPT_BYTES: u64 = 4 * EXCERPT_CHARS as u64;

/// How many messages back a wrong echo is looked for.
const STALE_MAX: usize = 256;

/// How many bytes tell the beginning of a message from that of another.
const BEGINNING_LEN: usize = 16;

/// The payload of a control frame, whose length the header's parser has judged.
pub(super) fn control_len(header: &Header) -> usize {
    usize::try_from(header.payload_len).map_or(CONTROL_PAYLOAD_MAX, |len| len.min(CONTROL_PAYLOAD_MAX))
}
