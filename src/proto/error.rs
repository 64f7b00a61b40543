//! What a peer can do wrong, and which close code answers it.

use super::close;

/// A violation of RFC 6455 by the peer, or a limit of ours that it ran into.
///
/// Small and `Copy`: a connection that failed keeps its error and repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::EnumDiscriminants, thiserror::Error)]
#[strum_discriminants(name(ProtocolErrorKind), derive(strum::IntoStaticStr, strum::VariantArray))]
#[strum_discriminants(strum(serialize_all = "snake_case"))]
#[strum_discriminants(
    doc = "A [`ProtocolError`] without what it says of the bytes; its name is in snake case."
)]
#[non_exhaustive]
pub enum ProtocolError {
    /// One of RSV1–3 is set and no extension was negotiated (RFC 6455 §5.2).
    #[error("a reserved bit is set")]
    ReservedBits,
    /// An opcode of 0x3–0x7 or 0xB–0xF (RFC 6455 §5.2).
    #[error("opcode {0:#x} is reserved")]
    ReservedOpcode(u8),
    /// A client's frame without a mask (RFC 6455 §5.1).
    #[error("a client's frame is not masked")]
    Unmasked,
    /// A server's frame with a mask (RFC 6455 §5.1).
    #[error("a server's frame is masked")]
    Masked,
    /// A control frame without FIN (RFC 6455 §5.5).
    #[error("a control frame is fragmented")]
    ControlFragmented,
    /// A control frame of more than 125 bytes (RFC 6455 §5.5).
    #[error("a control frame is longer than 125 bytes")]
    ControlTooLong,
    /// A length in a longer form than it needs (RFC 6455 §5.2, "the minimal number of bytes MUST be used").
    #[error("a payload length is not in its shortest form")]
    LengthNotMinimal,
    /// A 64-bit length with its top bit set (RFC 6455 §5.2).
    #[error("the top bit of a 64-bit payload length is set")]
    LengthTopBit,
    /// A continuation frame with nothing to continue (RFC 6455 §5.4).
    #[error("a continuation frame outside a message")]
    UnexpectedContinuation,
    /// A new data frame before the fragmented message is finished (RFC 6455 §5.4).
    #[error("a new message begins inside a fragmented one")]
    ExpectedContinuation,
    /// Text or a close reason that is not UTF-8 (RFC 6455 §8.1).
    #[error("text is not valid UTF-8")]
    InvalidUtf8,
    /// A close frame with one byte of payload (RFC 6455 §5.5.1).
    #[error("a close frame has a payload of one byte")]
    CloseTruncated,
    /// A close code that must not be on the wire (RFC 6455 §7.4).
    #[error("close code {0} must not be sent")]
    CloseCode(u16),
    /// A message that is longer than this endpoint takes (RFC 6455 §7.4.1, 1009).
    #[error("a message is longer than the limit")]
    MessageTooBig,
}

impl ProtocolError {
    /// The close code that tells the peer about it (RFC 6455 §7.4.1).
    #[must_use]
    pub const fn close_code(self) -> u16 {
        match self {
            Self::ReservedBits
            | Self::ReservedOpcode(_)
            | Self::Unmasked
            | Self::Masked
            | Self::ControlFragmented
            | Self::ControlTooLong
            | Self::LengthNotMinimal
            | Self::LengthTopBit
            | Self::UnexpectedContinuation
            | Self::ExpectedContinuation
            | Self::CloseTruncated
            | Self::CloseCode(_) => close::PROTOCOL_ERROR,
            Self::InvalidUtf8 => close::INVALID_PAYLOAD,
            Self::MessageTooBig => close::MESSAGE_TOO_BIG,
        }
    }
}
