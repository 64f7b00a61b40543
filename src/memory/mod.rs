//! Memory that waits to be sent, and the limit on it. It knows no socket and no protocol.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

mod budget;

use bytes::BytesMut;

pub use budget::{Budget, Charge, Total, Usage};

/// The room, in bytes, that must lie before received bytes: a header that the client did not send and a code point
/// that was held back are put there.
pub const HEADROOM: usize = 16;

/// Bytes on the heap that are to be sent, and what they are charged to.
#[derive(Debug)]
pub struct Charged {
    /// The bytes to send.
    pub bytes: BytesMut,
    /// Given back to the budget when dropped.
    pub charge: Charge,
}
