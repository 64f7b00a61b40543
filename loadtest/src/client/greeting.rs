//! The messages that a server sends first, unasked: they are read over.

use ringback::proto::ProtocolError;
use ringback::proto::frame::{Header, OpCode, Sender};

use crate::client::fault::Fault;
use crate::client::incoming::{Event, close_event, control_len};

/// Messages of a server that are awaited before anything is sent, whatever they say.
pub(crate) struct Greeting {
    /// How many there are.
    count: u32,
    /// How many have come.
    came: u32,
    /// Whether a fragment of the next one has come.
    is_begun: bool,
    /// Whether the frame under way is its message's last.
    fin: bool,
    /// Bytes that are still to come of the data frame under way.
    frame_left: u64,
    /// The beginning of a header or a control frame that was cut.
    held: Vec<u8>,
}

impl Greeting {
    /// So many messages, at least 1.
    pub(crate) const fn new(count: u32) -> Self {
        Self { count, came: 0, is_begun: false, fin: false, frame_left: 0, held: Vec::new() }
    }

    /// Whether all have come.
    pub(crate) const fn is_over(&self) -> bool {
        self.came == self.count
    }

    /// That some have not come.
    pub(crate) const fn missing(&self) -> Fault {
        Fault::GreetingMissing { came: self.came, of: self.count }
    }

    /// Takes bytes from the front of `bytes`, up to the end of the last message or to a control frame's, and says how many.
    ///
    /// # Errors
    ///
    /// A frame that no server may send.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<(usize, Option<Event>), Fault> {
        let mut taken = 0;
        while taken < bytes.len() && !self.is_over() {
            if self.frame_left > 0 {
                let step = usize::try_from(self.frame_left).unwrap_or(usize::MAX).min(bytes.len() - taken);
                self.frame_left -= step as u64;
                taken += step;
                self.end_frame();
                continue;
            }
            self.held.push(bytes[taken]);
            taken += 1;
            let Some((header, len)) = Header::parse(&self.held, Sender::Server)? else {
                continue;
            };
            if header.opcode.is_control() {
                let Some(payload) = self.held.get(len..len + control_len(&header)) else {
                    continue;
                };
                let event = match header.opcode {
                    OpCode::Ping => Some(Event::Ping(payload.to_vec())),
                    OpCode::Close => Some(close_event(payload)?),
                    _ => None,
                };
                self.held.clear();
                if event.is_some() {
                    return Ok((taken, event));
                }
                continue;
            }
            match (header.opcode == OpCode::Continuation, self.is_begun) {
                (true, false) => return Err(ProtocolError::UnexpectedContinuation.into()),
                (false, true) => return Err(ProtocolError::ExpectedContinuation.into()),
                _ => {}
            }
            self.held.clear();
            (self.is_begun, self.fin, self.frame_left) = (true, header.fin, header.payload_len);
            self.end_frame();
        }
        Ok((taken, None))
    }

    fn end_frame(&mut self) {
        if self.frame_left == 0 && self.fin {
            self.is_begun = false;
            self.came += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two messages, the second of three frames with a ping and an empty pong in between, and what follows.
    const BYTES: &[u8] = b"\x81\x02hi\x02\x01a\x89\x01p\x80\x01b";

    #[test]
    fn messages_are_read_over_at_every_cut() {
        let mut bytes = BYTES.to_vec();
        bytes.extend_from_slice(b"\x81\x04echo");
        for cut in 0..=bytes.len() {
            let mut greeting = Greeting::new(2);
            let (mut pings, mut taken) = (0, 0);
            for piece in [&bytes[..cut], &bytes[cut..]] {
                let mut rest = piece;
                while !rest.is_empty() && !greeting.is_over() {
                    let (step, event) = greeting.receive(rest).expect("all is well");
                    pings += u32::from(event == Some(Event::Ping(b"p".to_vec())));
                    taken += step;
                    rest = &rest[step..];
                }
            }
            assert_eq!((greeting.is_over(), pings, taken), (true, 1, BYTES.len()), "cut at {cut}");
        }
    }

    #[test]
    fn what_no_server_may_send_is_found() {
        for (bytes, fault) in [
            (&b"\x80\x01a"[..], ProtocolError::UnexpectedContinuation.into()),
            (b"\x01\x01a\x81\x01b", ProtocolError::ExpectedContinuation.into()),
            (b"\x81\x81abcde", Fault::MaskedReply),
        ] {
            assert_eq!(Greeting::new(3).receive(bytes), Err(fault));
        }
        let mut greeting = Greeting::new(3);
        assert_eq!(greeting.receive(BYTES), Ok((10, Some(Event::Ping(b"p".to_vec())))));
        assert_eq!(greeting.missing(), Fault::GreetingMissing { came: 1, of: 3 });
    }
}
