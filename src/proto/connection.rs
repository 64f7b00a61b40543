//! An open WebSocket connection of an echo server, as a value.
//!
//! The order of calls: [`Connection::receive`] with what has arrived, again and again, sending each time what
//! [`Progress`] says; [`Connection::ping`] and [`Connection::close`] at any time in between.

use std::ops::Range;
use std::rc::Rc;
use std::slice;

use super::ProtocolError;
use super::close;
use super::frame::{CONTROL_PAYLOAD_MAX, HEADER_MAX, Header, OpCode, Sender};
use super::progress::{CloseFrame, ControlFrame, Counts, Progress, Standing, close_frame, widen};
use super::utf8::Validator;
use crate::mask::{self, Key};
use crate::memory::{Budget, Charged, HEADROOM};

/// How much text is unmasked before it is validated: both passes stay within the first-level cache.
const TEXT_BLOCK: usize = 16 << 10;

/// What all connections of a worker share.
#[derive(Debug)]
pub struct Settings {
    /// The longest payload, in bytes, that is gathered if need be, to be echoed as one frame. A longer one goes out as
    /// fragments, each as it arrives.
    pub whole_frame_max: u64,
    /// The longest message, in bytes, over all its fragments; 0 for no limit.
    pub max_message_size: u64,
    /// What gathered frames are charged to.
    pub budget: Rc<Budget>,
}

/// The echo side of one WebSocket connection after its handshake.
///
/// Idle it owns no heap. The worker's [`Settings`] are shared.
#[derive(Debug)]
pub struct Connection {
    pub(super) settings: Rc<Settings>,
    pub(super) expected: Expected,
    /// The frame under way, if it is being gathered: room for a header, then the unmasked payload so far.
    pub(super) gathered: Option<Box<Charged>>,
    /// Payload bytes that the headers of the message under way have announced.
    message_len: u64,
    pub(super) message: Message,
    /// The text of the message under way.
    pub(super) text: Validator,
    standing: Standing,
}

const _: () = assert!(size_of::<Connection>() <= 96);

/// What comes next in the stream of frames.
#[derive(Debug)]
pub(super) enum Expected {
    /// In a header, of which `bytes[..len]` are here; `len < HEADER_MAX`. Between frames `len` is 0.
    Header { bytes: [u8; HEADER_MAX], len: u8 },
    /// In a payload.
    Payload(Frame),
}

impl Expected {
    pub(super) const NEW_FRAME: Self = Self::Header { bytes: [0; HEADER_MAX], len: 0 };
}

/// A frame whose payload is not wholly here yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    /// Payload bytes to come; more than 0.
    pub(super) remaining: u64,
    /// At the phase of the next byte.
    pub(super) key: Key,
    pub(super) opcode: OpCode,
    pub(super) fin: bool,
    pub(super) route: Route,
}

/// What becomes of a frame's payload.
#[derive(Clone, Copy, Debug)]
pub(super) enum Route {
    /// It is echoed whole, gathered if it comes in pieces.
    Whole,
    /// Each piece goes out as a fragment. `held` bytes (0..=3) of an unfinished code point were not sent yet: they
    /// are the last ones that the validator has pending.
    Stream { begun: bool, held: u8 },
    /// It is read and dropped.
    Discard,
}

/// The message under way (RFC 6455 §5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// None: the next data frame must begin one.
    None,
    Text,
    Binary,
}

/// One call of [`Connection::receive`].
pub(super) struct Turn<'a> {
    pub(super) buffer: &'a mut [u8],
    /// `buffer[at..end]` is not looked at yet.
    pub(super) at: usize,
    pub(super) end: usize,
    /// The reply so far. `out.end` plus the header of the next reply is never past that reply's payload.
    pub(super) out: Range<usize>,
    pub(super) head: Option<Box<Charged>>,
    pub(super) counts: Counts,
}

impl Connection {
    /// A connection whose handshake has just been answered.
    #[must_use]
    pub const fn new(settings: Rc<Settings>) -> Self {
        Self {
            settings,
            expected: Expected::NEW_FRAME,
            gathered: None,
            message_len: 0,
            message: Message::None,
            text: Validator::new(),
            standing: Standing::Open,
        }
    }

    /// Takes all of `buffer[filled]`, the next bytes from the peer, and turns them into the reply where they lie.
    ///
    /// The reply is one range of `buffer`, which may begin up to [`HEADROOM`] bytes before `filled`; what else is to
    /// be sent stands in [`Progress`]. Together it is whole frames, so a ping may follow. `filled` may be empty. Bytes after the peer's Close or an error are ignored.
    ///
    /// # Panics
    ///
    /// When `filled` does not lie in `buffer` or leaves less than [`HEADROOM`] before it.
    #[inline]
    pub fn receive(&mut self, buffer: &mut [u8], filled: Range<usize>) -> Progress {
        assert!(HEADROOM <= filled.start && filled.start <= filled.end && filled.end <= buffer.len());
        let mut turn = Turn {
            buffer,
            at: filled.start,
            end: filled.end,
            out: filled.start..filled.start,
            head: None,
            counts: Counts::default(),
        };
        let tail = match self.run(&mut turn) {
            Ok(()) => None,
            Err(error) => self.fail(error),
        };
        Progress { head: turn.head, body: turn.out, tail, standing: self.standing, counts: turn.counts }
    }

    /// Begins to close the connection from our side: the Close to send, or `None` when one was given out before.
    ///
    /// Data frames are read and dropped from then on (RFC 6455 §5.5.1). In the middle of the peer's own Close the
    /// connection is closed at once.
    pub fn close(&mut self, code: u16) -> Option<CloseFrame> {
        if self.standing != Standing::Open {
            return None;
        }
        self.standing = match &mut self.expected {
            // The peer's Close is under way: it sends no other, and what stands in this one no longer matters.
            Expected::Payload(Frame { opcode: OpCode::Close, .. }) => Standing::Closed,
            Expected::Payload(frame) => {
                frame.route = Route::Discard;
                Standing::Closing
            }
            Expected::Header { .. } => Standing::Closing,
        };
        self.gathered = None;
        Some(close_frame(code))
    }

    /// A ping to send between frames, or `None` once the connection is no longer open.
    ///
    /// A payload beyond 125 bytes is cut there (RFC 6455 §5.5).
    #[must_use]
    pub fn ping(&self, payload: &[u8]) -> Option<ControlFrame> {
        (self.standing == Standing::Open).then(|| ControlFrame::new(OpCode::Ping, payload))
    }

    /// How the connection stands.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        self.standing
    }

    /// Whether the peer is in the middle of a frame or of a message.
    #[must_use]
    pub const fn is_mid_message(&self) -> bool {
        !matches!((&self.message, &self.expected), (Message::None, Expected::Header { len: 0, .. }))
    }

    /// How many bytes of memory a frame takes that is being gathered.
    #[must_use]
    pub fn gathered(&self) -> usize {
        self.gathered.as_ref().map_or(0, |gathered| gathered.bytes.capacity())
    }

    fn run(&mut self, turn: &mut Turn<'_>) -> Result<(), ProtocolError> {
        while turn.at < turn.end && self.standing.reads() {
            match self.expected {
                Expected::Header { len: 0, .. } => {
                    self.echo_short_messages(turn)?;
                    let bytes = turn.buffer.get(turn.at..turn.end).unwrap_or_default();
                    if let Some((header, len)) = self.parse_header(bytes)? {
                        turn.at += len;
                        self.begin(turn, header)?;
                    } else {
                        self.keep_header(bytes);
                        turn.at = turn.end;
                    }
                }
                Expected::Header { mut bytes, len } => {
                    let filled = usize::from(len);
                    let arrived = turn.buffer.get(turn.at..turn.end).unwrap_or_default();
                    for (to, from) in bytes.iter_mut().skip(filled).zip(arrived) {
                        *to = *from;
                    }
                    let together = bytes.get(..HEADER_MAX.min(filled + arrived.len())).unwrap_or_default();
                    if let Some((header, header_len)) = self.parse_header(together)? {
                        self.expected = Expected::NEW_FRAME;
                        turn.at += header_len - filled;
                        self.begin(turn, header)?;
                    } else {
                        self.keep_header(together);
                        turn.at = turn.end;
                    }
                }
                Expected::Payload(frame) => self.take_piece(turn, frame)?,
            }
        }
        Ok(())
    }

    /// Echoes messages of the commonest kind while one follows on the other: a single frame of at most 125 bytes, all of
    /// it here. The first that is of another kind, or breaks a rule of headers, is left to the general way.
    ///
    /// It does nothing that the general way would not do, in a third of the instructions.
    #[inline]
    fn echo_short_messages(&mut self, turn: &mut Turn<'_>) -> Result<(), ProtocolError> {
        if self.message != Message::None || self.standing != Standing::Open {
            return Ok(());
        }
        let len_max = match self.settings.max_message_size {
            0 => CONTROL_PAYLOAD_MAX,
            max => usize::try_from(max).map_or(CONTROL_PAYLOAD_MAX, |max| max.min(CONTROL_PAYLOAD_MAX)),
        };
        let (mut at, mut out) = (turn.at, turn.out.clone());
        let out_before = out.end - out.start;
        let (mut texts, mut binaries, mut text_bytes) = (0, 0, 0);
        let mut result = Ok(());
        while let Some(&[first, second, a, b, c, d]) =
            turn.buffer.get(at..turn.end).and_then(|bytes| bytes.first_chunk::<6>())
        {
            let is_text = first == 0x80 | OpCode::Text.bits();
            let is_binary = first == 0x80 | OpCode::Binary.bits();
            // Without the mask bit this is more than 125 too.
            let len = usize::from(second ^ 0x80);
            let payload = at + 6..at + 6 + len;
            if !(is_text || is_binary) || len > len_max || payload.end > turn.end {
                break;
            }
            if out.is_empty() {
                out = at + 4..at + 4;
            }
            let to = out.end + 2;
            let beyond_ascii =
                mask::apply_shifted_text(turn.buffer, payload.clone(), to, Key::new([a, b, c, d]));
            if is_text && beyond_ascii {
                let text = turn.buffer.get(to..to + len).unwrap_or_default();
                if simdutf8::basic::from_utf8(text).is_err() {
                    result = Err(ProtocolError::InvalidUtf8);
                    break;
                }
            }
            if let Some(header) = turn.buffer.get_mut(out.end..to).and_then(|to| to.first_chunk_mut::<2>()) {
                *header = [first, second ^ 0x80];
            }
            out.end = to + len;
            at = payload.end;
            texts += u32::from(is_text);
            binaries += u32::from(is_binary);
            text_bytes += len * usize::from(is_text);
        }
        turn.counts.frames += texts + binaries;
        turn.counts.texts += texts;
        turn.counts.binaries += binaries;
        // What the reply has grown by, without the header of each frame.
        let headers = u64::from(2 * (texts + binaries));
        turn.counts.payload_bytes += widen(out.end - out.start - out_before) - headers;
        turn.counts.text_bytes += widen(text_bytes);
        (turn.at, turn.out) = (at, out);
        result
    }

    /// Reads a header and judges all that can be judged of it, even when it is not complete.
    #[inline]
    fn parse_header(&self, bytes: &[u8]) -> Result<Option<(Header, usize)>, ProtocolError> {
        let parsed =
            Header::parse(bytes, Sender::Client).map_err(|error| self.earliest_fault(bytes, error))?;
        let opcode = match (&parsed, bytes.first()) {
            (Some((header, _)), _) => header.opcode,
            (None, Some(first)) => OpCode::from_bits(first & 0x0F).unwrap_or(OpCode::Pong),
            (None, None) => return Ok(None),
        };
        match (opcode, self.message) {
            (OpCode::Continuation, Message::None) => return Err(ProtocolError::UnexpectedContinuation),
            (OpCode::Text | OpCode::Binary, Message::Text | Message::Binary) => {
                return Err(ProtocolError::ExpectedContinuation);
            }
            _ => {}
        }
        Ok(parsed)
    }

    /// Of several faults the first byte's, so that it does not matter whether more of them have come.
    #[cold]
    fn earliest_fault(&self, bytes: &[u8], error: ProtocolError) -> ProtocolError {
        match bytes {
            [first, _, ..] => self.parse_header(slice::from_ref(first)).err().unwrap_or(error),
            _ => error,
        }
    }

    fn keep_header(&mut self, so_far: &[u8]) {
        let mut bytes = [0; HEADER_MAX];
        let mut len = 0;
        for (to, from) in bytes.iter_mut().zip(so_far) {
            *to = *from;
            len += 1;
        }
        self.expected = Expected::Header { bytes, len };
    }

    /// Goes on behind a complete header: its rules over the message are judged before any payload is taken.
    #[inline]
    fn begin(&mut self, turn: &mut Turn<'_>, header: Header) -> Result<(), ProtocolError> {
        let Header { fin, opcode, payload_len, key: Some(key) } = header else {
            return Err(ProtocolError::Unmasked);
        };
        if !opcode.is_control() {
            self.begin_data(opcode, payload_len)?;
        }
        let frame = Frame { remaining: payload_len, key, opcode, fin, route: Route::Whole };
        if self.standing == Standing::Closing {
            self.begin_while_closing(turn, frame);
            return Ok(());
        }
        if payload_len <= widen(turn.end - turn.at) {
            let len = usize::try_from(payload_len).unwrap_or(usize::MAX);
            return self.echo_whole(turn, frame, len);
        }
        let route = if opcode.is_control() || payload_len <= self.settings.whole_frame_max {
            Route::Whole
        } else {
            Route::Stream { begun: false, held: 0 }
        };
        self.expected = Expected::Payload(Frame { route, ..frame });
        Ok(())
    }

    #[inline]
    fn begin_data(&mut self, opcode: OpCode, payload_len: u64) -> Result<(), ProtocolError> {
        match opcode {
            OpCode::Text => (self.message, self.message_len) = (Message::Text, 0),
            OpCode::Binary => (self.message, self.message_len) = (Message::Binary, 0),
            _ => {}
        }
        self.message_len = self.message_len.saturating_add(payload_len);
        let max = self.settings.max_message_size;
        if max != 0 && self.message_len > max && self.standing == Standing::Open {
            return Err(ProtocolError::MessageTooBig);
        }
        Ok(())
    }

    /// After our Close only the peer's matters (RFC 6455 §5.5.1); what stands in it does not.
    fn begin_while_closing(&mut self, turn: &mut Turn<'_>, frame: Frame) {
        if frame.opcode == OpCode::Close {
            turn.counts.close = Some(code_in_answer(turn, frame));
            turn.counts.is_answer = true;
            turn.at = turn.end;
            self.standing = Standing::Closed;
        } else if frame.remaining > 0 {
            self.expected = Expected::Payload(Frame { route: Route::Discard, ..frame });
        } else {
            self.skip_frame(frame);
        }
    }

    /// Ends a frame that was dropped.
    pub(super) fn skip_frame(&mut self, frame: Frame) {
        if frame.fin && !frame.opcode.is_control() {
            self.message = Message::None;
        }
    }

    /// Echoes a frame of which all `len` bytes of payload lie at `turn.at`.
    #[inline]
    pub(super) fn echo_whole(
        &mut self,
        turn: &mut Turn<'_>,
        frame: Frame,
        len: usize,
    ) -> Result<(), ProtocolError> {
        let payload = turn.at..turn.at + len;
        let header_len = Header::unmasked_len(widen(len));
        let start = if turn.out.is_empty() { payload.start - header_len } else { turn.out.end };
        let to = start + header_len;
        let mut opcode = frame.opcode;
        turn.at = payload.end;
        match frame.opcode {
            OpCode::Text | OpCode::Binary | OpCode::Continuation => {
                if self.message == Message::Text {
                    self.unmask_text(turn.buffer, payload, to, frame.key)?;
                } else {
                    mask::apply_shifted(turn.buffer, payload, to, frame.key);
                }
            }
            OpCode::Pong => return self.end_frame(turn, frame),
            OpCode::Ping => {
                mask::apply_shifted(turn.buffer, payload, to, frame.key);
                opcode = OpCode::Pong;
            }
            OpCode::Close => {
                mask::apply_shifted(turn.buffer, payload, to, frame.key);
                self.judge_close(turn.buffer.get(to..to + len).unwrap_or_default(), &mut turn.counts)?;
            }
        }
        let is_text = self.message == Message::Text;
        self.end_frame(turn, frame)?;
        if !opcode.is_control() {
            turn.counts.add_payload(len, is_text);
        }
        put_header(turn.buffer, start, frame.fin, opcode, len);
        if turn.out.is_empty() {
            turn.out.start = start;
        }
        turn.out.end = to + len;
        Ok(())
    }

    /// What a frame's end means for its message.
    #[inline]
    pub(super) fn end_frame(&mut self, turn: &mut Turn<'_>, frame: Frame) -> Result<(), ProtocolError> {
        match frame.opcode {
            OpCode::Ping => turn.counts.pings += 1,
            OpCode::Pong => turn.counts.pongs += 1,
            OpCode::Close => {}
            OpCode::Text | OpCode::Binary | OpCode::Continuation if frame.fin => {
                if !self.text.is_complete() {
                    return Err(ProtocolError::InvalidUtf8);
                }
                match self.message {
                    Message::Text => turn.counts.texts += 1,
                    Message::Binary | Message::None => turn.counts.binaries += 1,
                }
                self.message = Message::None;
            }
            OpCode::Text | OpCode::Binary | OpCode::Continuation => {}
        }
        turn.counts.frames += 1;
        Ok(())
    }

    pub(super) fn judge_close(&mut self, payload: &[u8], counts: &mut Counts) -> Result<(), ProtocolError> {
        counts.close = Some(close::parse(payload)?);
        self.standing = Standing::Closed;
        Ok(())
    }

    /// Unmasks a piece of text to `to` and validates it.
    #[inline]
    pub(super) fn unmask_text(
        &mut self,
        buffer: &mut [u8],
        from: Range<usize>,
        to: usize,
        key: Key,
    ) -> Result<(), ProtocolError> {
        let (mut from, mut to, mut key) = (from, to, key);
        loop {
            let len = from.len().min(TEXT_BLOCK);
            let block = from.start..from.start + len;
            let beyond_ascii = mask::apply_shifted_text(buffer, block.clone(), to, key);
            let text = buffer.get(to..to + len).unwrap_or_default();
            let valid = if beyond_ascii { self.text.push(text) } else { self.text.push_ascii(text) };
            valid.map_err(|_| ProtocolError::InvalidUtf8)?;
            if block.end == from.end {
                return Ok(());
            }
            key = key.advanced(len);
            to += len;
            from.start = block.end;
        }
    }

    /// Ends the connection over `error`: the Close that says so, unless one was given out before.
    #[cold]
    fn fail(&mut self, error: ProtocolError) -> Option<CloseFrame> {
        let tail = (self.standing == Standing::Open).then(|| close_frame(error.close_code()));
        self.standing = Standing::Failed(error);
        self.expected = Expected::NEW_FRAME;
        self.gathered = None;
        tail
    }
}

/// The code of a Close that answers ours, as far as it is here: none where the payload is empty, else 0 at worst.
fn code_in_answer(turn: &mut Turn<'_>, frame: Frame) -> Option<u16> {
    if frame.remaining == 0 {
        return None;
    }
    let code = turn.at..turn.at + 2;
    if frame.remaining == 1 || code.end > turn.end {
        return Some(0);
    }
    mask::apply_shifted(turn.buffer, code.clone(), code.start, frame.key);
    turn.buffer.get(code).and_then(<[u8]>::first_chunk).map(|code| u16::from_be_bytes(*code))
}

/// Writes the header of an unmasked frame at `start`.
#[inline]
pub(super) fn put_header(buffer: &mut [u8], start: usize, fin: bool, opcode: OpCode, payload_len: usize) {
    let first = (u8::from(fin) << 7) | opcode.bits();
    let Some(to) = buffer.get_mut(start..) else {
        return;
    };
    if let (Ok(short @ 0..=125), Some(to)) = (u8::try_from(payload_len), to.first_chunk_mut::<2>()) {
        *to = [first, short];
        return;
    }
    let mut header = [0; HEADER_MAX];
    let len = Header { fin, opcode, payload_len: widen(payload_len), key: None }.encode(&mut header);
    for (to, from) in to.iter_mut().zip(header.iter().take(len)) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Total;

    fn connection() -> Connection {
        let budget = Budget::new(Total::new(1 << 20));
        Connection::new(Rc::new(Settings { whole_frame_max: 64 << 10, max_message_size: 0, budget }))
    }

    fn receive(connection: &mut Connection, bytes: &[u8]) -> Standing {
        let mut buffer = [&[0; HEADROOM], bytes].concat();
        let end = buffer.len();
        connection.receive(&mut buffer, HEADROOM..end).standing
    }

    #[test]
    fn of_several_faults_the_first_byte_decides_however_many_have_come() {
        // A continuation of nothing, which is not masked either.
        let bytes = [0x80, 0x01, b'a'];
        for cut in 1..=bytes.len() {
            let standing = receive(&mut connection(), &bytes[..cut]);
            assert_eq!(standing, Standing::Failed(ProtocolError::UnexpectedContinuation), "{cut} bytes");
        }
    }
}
