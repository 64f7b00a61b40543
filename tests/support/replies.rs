//! What a server sent, read as a strict client reads it.

use ringback::proto::frame::{Header, OpCode, Sender};

/// A frame from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) fin: bool,
    pub(crate) opcode: OpCode,
    pub(crate) payload: Vec<u8>,
}

impl Reply {
    /// The frame as a server must write it.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let first = (u8::from(self.fin) << 7) | self.opcode.bits();
        let len = self.payload.len().to_be_bytes();
        let mut bytes = match self.payload.len() {
            0..=125 => vec![first, len[7]],
            126..=0xFFFF => vec![first, 126, len[6], len[7]],
            _ => [&[first, 127], &len[..]].concat(),
        };
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

/// Reads frames until `bytes` are used up.
///
/// # Panics
///
/// When a frame is not whole or breaks a rule, when fragments are out of order, when a finished text is not UTF-8,
/// and when anything follows a Close.
pub(crate) fn parse(bytes: &[u8]) -> Vec<Reply> {
    let mut replies: Vec<Reply> = Vec::new();
    let mut rest = bytes;
    let mut message: Option<(OpCode, Vec<u8>)> = None;
    while !rest.is_empty() {
        let closed = replies.last().is_some_and(|reply| reply.opcode == OpCode::Close);
        assert!(!closed, "{} bytes follow the server's Close", rest.len());
        let (header, header_len) = Header::parse(rest, Sender::Server)
            .expect("the server keeps the rules")
            .expect("the server sends whole frames");
        let len = usize::try_from(header.payload_len).unwrap();
        let payload = rest[header_len..].get(..len).expect("the server sends whole frames").to_vec();
        rest = &rest[header_len + len..];
        match header.opcode {
            OpCode::Text | OpCode::Binary => {
                assert!(message.is_none(), "a new message inside a fragmented one");
                message = Some((header.opcode, payload.clone()));
            }
            OpCode::Continuation => {
                let (_, so_far) = message.as_mut().expect("a continuation has something to continue");
                so_far.extend_from_slice(&payload);
            }
            OpCode::Close | OpCode::Ping | OpCode::Pong => {}
        }
        if header.fin && !header.opcode.is_control() {
            let (opcode, whole) = message.take().unwrap();
            assert!(opcode != OpCode::Text || str::from_utf8(&whole).is_ok(), "text is UTF-8");
        }
        replies.push(Reply { fin: header.fin, opcode: header.opcode, payload });
    }
    replies
}

/// What a client's user sees, wherever the server has cut its frames: runs of data between control frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Consecutive fragments of one message; `opcode` is `Continuation` when a control frame came before them.
    Data { opcode: OpCode, payload: Vec<u8>, ends: bool },
    /// A control frame.
    Control { opcode: OpCode, payload: Vec<u8> },
}

pub(crate) fn events(replies: &[Reply]) -> Vec<Event> {
    let mut events = Vec::new();
    for Reply { fin, opcode, payload } in replies {
        if opcode.is_control() {
            events.push(Event::Control { opcode: *opcode, payload: payload.clone() });
            continue;
        }
        match events.last_mut() {
            Some(Event::Data { payload: run, ends: ends @ false, .. }) => {
                run.extend_from_slice(payload);
                *ends = *fin;
            }
            _ => events.push(Event::Data { opcode: *opcode, payload: payload.clone(), ends: *fin }),
        }
    }
    events
}
