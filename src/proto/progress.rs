//! What came of the bytes that a [`Connection`](super::Connection) was fed.

use std::ops::Range;

use super::ProtocolError;
use super::frame::{CONTROL_PAYLOAD_MAX, HEADER_MAX, Header, OpCode};
use crate::memory::Charged;

/// What [`Connection::receive`](super::Connection::receive) made of its bytes.
///
/// To be sent, in this order: `head`, `body`, `tail`.
#[derive(Debug, Default)]
pub struct Progress {
    /// A frame that came in pieces and was gathered, moved out: it is kept until it has been sent.
    pub head: Option<Box<Charged>>,
    /// The range of the caller's buffer to send; it may begin in the headroom. Empty when there is nothing.
    pub body: Range<usize>,
    /// A Close of our own.
    pub tail: Option<CloseFrame>,
    /// How the connection stands now.
    pub standing: Standing,
    /// What happened.
    pub counts: Counts,
}

/// A close frame with a code and no reason, as it goes out.
pub type CloseFrame = [u8; 4];

/// How a connection stands (RFC 6455 §7.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Messages are echoed.
    #[default]
    Open,
    /// Our Close was given out first: what comes is read and dropped, up to the peer's Close.
    Closing,
    /// Both Closes were given out and taken: the connection ends once everything is sent.
    Closed,
    /// The peer broke the protocol; the Close that says so was given out. The error stays.
    Failed(ProtocolError),
}

impl Standing {
    /// Whether further bytes from the peer can still matter.
    #[inline]
    #[must_use]
    pub const fn reads(self) -> bool {
        matches!(self, Self::Open | Self::Closing)
    }
}

/// What happened during one [`Connection::receive`](super::Connection::receive), for the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames taken whole, control frames among them.
    pub frames: u32,
    /// Text messages completed.
    pub texts: u32,
    /// Binary messages completed.
    pub binaries: u32,
    /// Pings answered.
    pub pings: u32,
    /// Pongs taken.
    pub pongs: u32,
    /// Payload bytes of data frames echoed.
    pub payload_bytes: u64,
    /// Those of them that are of text messages.
    pub text_bytes: u64,
    /// Payload bytes that were copied, since their frame came in pieces.
    pub bytes_gathered: u64,
    /// Fragments sent of frames that were too long to be echoed whole.
    pub fragments_streamed: u32,
    /// The code of the peer's Close: `Some(None)` when it gave none.
    pub close: Option<Option<u16>>,
    /// The peer's Close answers ours, and is not answered again. What stands in it is not judged (RFC 6455 §5.5.1), so its
    /// code may be any number, and 0 where it came in pieces.
    pub is_answer: bool,
}

impl Counts {
    /// Counts payload that is echoed.
    #[inline]
    pub(super) fn add_payload(&mut self, len: usize, is_text: bool) {
        self.payload_bytes += widen(len);
        self.text_bytes += if is_text { widen(len) } else { 0 };
    }
}

/// A control frame of our own, as it goes out.
#[derive(Clone, Copy, Debug)]
pub struct ControlFrame {
    bytes: [u8; 2 + CONTROL_PAYLOAD_MAX],
    len: usize,
}

impl ControlFrame {
    /// An unmasked control frame; a payload beyond 125 bytes is cut there.
    pub(super) fn new(opcode: OpCode, payload: &[u8]) -> Self {
        let payload = payload.get(..CONTROL_PAYLOAD_MAX).unwrap_or(payload);
        let mut header = [0; HEADER_MAX];
        let payload_len = payload.len();
        let header_len =
            Header { fin: true, opcode, payload_len: widen(payload_len), key: None }.encode(&mut header);
        let mut bytes = [0; 2 + CONTROL_PAYLOAD_MAX];
        for (to, from) in bytes.iter_mut().zip(header.iter().take(header_len).chain(payload)) {
            *to = *from;
        }
        Self { bytes, len: header_len + payload_len }
    }
}

impl AsRef<[u8]> for ControlFrame {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// The close frame with this code and no reason.
pub(super) const fn close_frame(code: u16) -> CloseFrame {
    let [high, low] = code.to_be_bytes();
    [0x80 | OpCode::Close.bits(), 2, high, low]
}

/// A length as the protocol counts it. `usize` has at most 64 bits on every Linux.
#[inline]
pub(super) fn widen(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
