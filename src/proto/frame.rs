//! Frame headers (RFC 6455 §5.2).

use super::ProtocolError;
use crate::mask::Key;

/// The longest header: two bytes, a 64-bit length, a masking key.
pub const HEADER_MAX: usize = 14;

/// The longest payload of a control frame (RFC 6455 §5.5).
pub const CONTROL_PAYLOAD_MAX: usize = 125;

/// What a frame is (RFC 6455 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OpCode {
    /// A further fragment of the message under way.
    Continuation = 0x0,
    /// Text, or its first fragment.
    Text = 0x1,
    /// Binary data, or its first fragment.
    Binary = 0x2,
    /// The sender's last frame.
    Close = 0x8,
    /// A ping, to be answered with a pong of the same payload.
    Ping = 0x9,
    /// A pong.
    Pong = 0xA,
}

impl OpCode {
    /// The opcode with these four bits, `None` where they are reserved.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }

    /// The four bits of this opcode.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }

    /// Whether this is a control frame: close, ping or pong (RFC 6455 §5.5).
    #[must_use]
    pub const fn is_control(self) -> bool {
        self.bits() & 0x8 != 0
    }
}

/// Who sent a frame: a client masks each, a server none (RFC 6455 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The frame must be masked.
    Client,
    /// The frame must not be masked.
    Server,
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether this is the last fragment of its message.
    pub fin: bool,
    /// What the frame is.
    pub opcode: OpCode,
    /// How many bytes of payload follow, at most 2^63-1.
    pub payload_len: u64,
    /// The masking key: `Some` exactly in a client's frame.
    pub key: Option<Key>,
}

impl Header {
    /// Reads a header at the front of `bytes`: the header and its own length, or `None` when more bytes are needed.
    ///
    /// Each rule is judged as soon as its byte is there, so a wrong first byte is an error even alone.
    ///
    /// # Errors
    ///
    /// Reserved bits and opcodes, a fragmented or long control frame, a mask where none belongs or the lack of one,
    /// a length that is not in its shortest form or has its top bit set (RFC 6455 §5.1, §5.2, §5.5).
    #[inline]
    pub fn parse(bytes: &[u8], sender: Sender) -> Result<Option<(Self, usize)>, ProtocolError> {
        let Some(&first) = bytes.first() else {
            return Ok(None);
        };
        if first & 0x70 != 0 {
            return Err(ProtocolError::ReservedBits);
        }
        let fin = first & 0x80 != 0;
        let Some(opcode) = OpCode::from_bits(first & 0x0F) else {
            return Err(ProtocolError::ReservedOpcode(first & 0x0F));
        };
        if opcode.is_control() && !fin {
            return Err(ProtocolError::ControlFragmented);
        }
        let Some((&[_, second], rest)) = bytes.split_first_chunk::<2>() else {
            return Ok(None);
        };
        match (sender, second & 0x80 != 0) {
            (Sender::Client, false) => return Err(ProtocolError::Unmasked),
            (Sender::Server, true) => return Err(ProtocolError::Masked),
            _ => {}
        }
        let short = second & 0x7F;
        if short < 126 {
            return Ok(Self::finish(fin, opcode, u64::from(short), 2, rest, sender));
        }
        if opcode.is_control() {
            return Err(ProtocolError::ControlTooLong);
        }
        Self::parse_extended(fin, opcode, short, rest, sender)
    }

    /// Writes the header to the front of `to` and says how long it is. The length takes its shortest form.
    #[inline]
    pub fn encode(&self, to: &mut [u8; HEADER_MAX]) -> usize {
        let first = (u8::from(self.fin) << 7) | self.opcode.bits();
        let mask_bit = u8::from(self.key.is_some()) << 7;
        let [a, b, rest @ ..] = to;
        *a = first;
        let extended = match u8::try_from(self.payload_len) {
            Ok(short @ 0..=125) => {
                *b = mask_bit | short;
                0
            }
            _ => match u16::try_from(self.payload_len) {
                Ok(medium) => {
                    *b = mask_bit | 126;
                    if let Some(to) = rest.first_chunk_mut::<2>() {
                        *to = medium.to_be_bytes();
                    }
                    2
                }
                Err(_) => {
                    *b = mask_bit | 127;
                    if let Some(to) = rest.first_chunk_mut::<8>() {
                        *to = self.payload_len.to_be_bytes();
                    }
                    8
                }
            },
        };
        let Some(key) = self.key else {
            return 2 + extended;
        };
        if let Some(to) = rest.get_mut(extended..).and_then(|rest| rest.first_chunk_mut::<4>()) {
            *to = key.to_bytes();
        }
        2 + extended + 4
    }

    /// How long the header of an unmasked frame with this payload is: 2, 4 or 10 bytes.
    #[inline]
    #[must_use]
    pub const fn unmasked_len(payload_len: u64) -> usize {
        if payload_len <= 125 {
            2
        } else if payload_len <= 0xFFFF {
            4
        } else {
            10
        }
    }

    fn parse_extended(
        fin: bool,
        opcode: OpCode,
        short: u8,
        rest: &[u8],
        sender: Sender,
    ) -> Result<Option<(Self, usize)>, ProtocolError> {
        if short == 126 {
            let Some((length, rest)) = rest.split_first_chunk::<2>() else {
                return Ok(None);
            };
            let length = u16::from_be_bytes(*length);
            if length < 126 {
                return Err(ProtocolError::LengthNotMinimal);
            }
            return Ok(Self::finish(fin, opcode, u64::from(length), 4, rest, sender));
        }
        if rest.first().is_some_and(|&top| top & 0x80 != 0) {
            return Err(ProtocolError::LengthTopBit);
        }
        if rest.starts_with(&[0; 6]) {
            // At most 0xFFFF, whatever the last two bytes are.
            return Err(ProtocolError::LengthNotMinimal);
        }
        let Some((length, rest)) = rest.split_first_chunk::<8>() else {
            return Ok(None);
        };
        Ok(Self::finish(fin, opcode, u64::from_be_bytes(*length), 10, rest, sender))
    }

    #[inline]
    fn finish(
        fin: bool,
        opcode: OpCode,
        payload_len: u64,
        before_key: usize,
        rest: &[u8],
        sender: Sender,
    ) -> Option<(Self, usize)> {
        match sender {
            Sender::Server => Some((Self { fin, opcode, payload_len, key: None }, before_key)),
            Sender::Client => {
                let key = Some(Key::new(*rest.first_chunk::<4>()?));
                Some((Self { fin, opcode, payload_len, key }, before_key + 4))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_64_bit_length_that_fits_16_bits_is_refused_at_its_sixth_byte() {
        let start = [0x82, 0xFF, 0, 0, 0, 0, 0, 0];
        for len in 0..start.len() {
            assert_eq!(Header::parse(&start[..len], Sender::Client), Ok(None), "{len} bytes");
        }
        assert_eq!(Header::parse(&start, Sender::Client), Err(ProtocolError::LengthNotMinimal));
    }
}
