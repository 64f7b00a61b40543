//! Frames whose payload arrives in pieces: short ones are gathered, long ones stream as fragments.

use bytes::BytesMut;

use super::ProtocolError;
use super::connection::{Connection, Expected, Frame, Message, Route, Turn, put_header};
use super::frame::{Header, OpCode};
use super::progress::widen;
use crate::mask;
use crate::memory::Charged;

/// The longest header of a frame that a server sends.
const REPLY_HEADER_MAX: usize = 10;

impl Connection {
    /// Takes what is here of a payload that is in pieces.
    pub(super) fn take_piece(&mut self, turn: &mut Turn<'_>, frame: Frame) -> Result<(), ProtocolError> {
        let here = turn.end - turn.at;
        let len = usize::try_from(frame.remaining).map_or(here, |remaining| remaining.min(here));
        let remaining = frame.remaining - widen(len);
        self.expected = if remaining == 0 {
            Expected::NEW_FRAME
        } else {
            Expected::Payload(Frame { remaining, key: frame.key.advanced(len), ..frame })
        };
        match frame.route {
            Route::Whole if remaining == 0 && self.gathered.is_none() => self.echo_whole(turn, frame, len),
            Route::Whole if self.make_room(frame, len) => self.gather_piece(turn, frame, len, remaining == 0),
            Route::Whole => {
                let (begun, held) = self.flush_gathered(turn, frame.opcode);
                self.stream_piece(turn, frame, len, begun, held)
            }
            Route::Stream { begun, held } => self.stream_piece(turn, frame, len, begun, usize::from(held)),
            Route::Discard => {
                turn.at += len;
                if remaining == 0 {
                    self.skip_frame(frame);
                }
                Ok(())
            }
        }
    }

    /// Makes room to gather `len` more bytes. The buffer grows by what has come, not by what was announced.
    ///
    /// `false` when the budget is used up. A control frame is at most 125 bytes and is never refused.
    fn make_room(&mut self, frame: Frame, len: usize) -> bool {
        let gathered = self.gathered.get_or_insert_with(|| {
            let charge = self.settings.budget.charge(0);
            Box::new(Charged { bytes: BytesMut::new(), charge })
        });
        let capacity = gathered.bytes.capacity();
        let used = gathered.bytes.len().max(REPLY_HEADER_MAX);
        let needed = used + len;
        if capacity < needed {
            let announced =
                usize::try_from(frame.remaining).map_or(usize::MAX, |rest| used.saturating_add(rest));
            let target = needed.max(capacity.saturating_mul(2)).min(announced);
            let lacking = target - capacity;
            if frame.opcode.is_control() {
                gathered.charge.grow(lacking);
            } else if !gathered.charge.try_grow(lacking) {
                return false;
            }
            let mut bytes = BytesMut::with_capacity(target);
            bytes.extend_from_slice(&gathered.bytes);
            gathered.bytes = bytes;
        }
        if gathered.bytes.is_empty() {
            gathered.bytes.resize(REPLY_HEADER_MAX, 0);
        }
        true
    }

    /// Adds a piece to the gathered frame, for which there is room.
    fn gather_piece(
        &mut self,
        turn: &mut Turn<'_>,
        frame: Frame,
        len: usize,
        is_last: bool,
    ) -> Result<(), ProtocolError> {
        let piece = turn.at..turn.at + len;
        if self.message == Message::Text && !frame.opcode.is_control() {
            self.unmask_text(turn.buffer, piece.clone(), piece.start, frame.key)?;
        } else {
            mask::apply_shifted(turn.buffer, piece.clone(), piece.start, frame.key);
        }
        turn.at = piece.end;
        let Some(mut gathered) = self.gathered.take() else {
            return Ok(());
        };
        gathered.bytes.extend_from_slice(turn.buffer.get(piece).unwrap_or_default());
        turn.counts.bytes_gathered += widen(len);
        if !is_last {
            self.gathered = Some(gathered);
            return Ok(());
        }
        let payload = gathered.bytes.get(REPLY_HEADER_MAX..).unwrap_or_default();
        let opcode = match frame.opcode {
            OpCode::Ping => OpCode::Pong,
            OpCode::Pong => return self.end_frame(turn, frame),
            OpCode::Close => {
                self.judge_close(payload, &mut turn.counts)?;
                OpCode::Close
            }
            data => data,
        };
        let payload_len = payload.len();
        let is_text = self.message == Message::Text;
        self.end_frame(turn, frame)?;
        if !opcode.is_control() {
            turn.counts.add_payload(payload_len, is_text);
        }
        finish_gathered(&mut gathered.bytes, frame.fin, opcode);
        turn.head = Some(gathered);
        Ok(())
    }

    /// Gives out what was gathered, but for a code point that is cut at its end, as the first fragment of a frame that
    /// streams from here on. Says whether there was anything to send, and how many bytes are held back.
    fn flush_gathered(&mut self, turn: &mut Turn<'_>, opcode: OpCode) -> (bool, usize) {
        let Some(mut gathered) = self.gathered.take() else {
            return (false, 0);
        };
        let payload_len = gathered.bytes.len().saturating_sub(REPLY_HEADER_MAX);
        let held = self.text.pending().len().min(payload_len);
        let fragment_len = payload_len - held;
        if fragment_len == 0 {
            return (false, held);
        }
        gathered.bytes.truncate(REPLY_HEADER_MAX + fragment_len);
        turn.counts.add_payload(fragment_len, self.message == Message::Text);
        turn.counts.fragments_streamed += 1;
        finish_gathered(&mut gathered.bytes, false, opcode);
        turn.head = Some(gathered);
        (true, held)
    }

    /// Sends the `len` bytes at `turn.at` as a fragment of its own, but for a code point that is cut at its end.
    fn stream_piece(
        &mut self,
        turn: &mut Turn<'_>,
        frame: Frame,
        len: usize,
        begun: bool,
        held: usize,
    ) -> Result<(), ProtocolError> {
        let piece = turn.at..turn.at + len;
        let is_last = frame.remaining == widen(len);
        let before = self.text;
        let is_text = self.message == Message::Text;
        if is_text {
            self.unmask_text(turn.buffer, piece.clone(), piece.start, frame.key)?;
        } else {
            mask::apply_shifted(turn.buffer, piece.clone(), piece.start, frame.key);
        }
        turn.at = piece.end;
        let hold = if is_last { 0 } else { self.text.pending().len().min(held + len) };
        let fragment_len = held + len - hold;
        if is_last {
            self.end_frame(turn, frame)?;
        } else if let Expected::Payload(next) = &mut self.expected {
            // `hold` is at most 3.
            let held = u8::try_from(hold).unwrap_or(0);
            next.route = Route::Stream { begun: begun || fragment_len > 0, held };
        }
        if fragment_len == 0 {
            return Ok(());
        }
        let opcode = if begun { OpCode::Continuation } else { frame.opcode };
        let header_len = Header::unmasked_len(widen(fragment_len));
        let start = if turn.out.is_empty() {
            // Nothing was sent from this buffer: the fragment stays where it is, behind what was held back.
            let start = piece.start - held - header_len;
            let unsent = before.pending();
            let unsent = unsent.get(unsent.len() - held..).unwrap_or_default();
            for (to, from) in turn.buffer.iter_mut().skip(start + header_len).zip(unsent) {
                *to = *from;
            }
            turn.out.start = start;
            start
        } else {
            // The first piece of a frame, behind other replies: nothing can be held back yet.
            turn.buffer.copy_within(piece.start..piece.start + fragment_len, turn.out.end + header_len);
            turn.out.end
        };
        put_header(turn.buffer, start, frame.fin && is_last, opcode, fragment_len);
        turn.out.end = start + header_len + fragment_len;
        turn.counts.add_payload(fragment_len, is_text);
        turn.counts.fragments_streamed += 1;
        Ok(())
    }
}

/// Puts the header right before the payload of a gathered frame and drops what room is left before it.
fn finish_gathered(bytes: &mut BytesMut, fin: bool, opcode: OpCode) {
    let payload_len = bytes.len() - REPLY_HEADER_MAX;
    let start = REPLY_HEADER_MAX - Header::unmasked_len(widen(payload_len));
    put_header(bytes, start, fin, opcode, payload_len);
    let _ = bytes.split_to(start);
}
