//! The WebSocket protocol (RFC 6455) as a value: it is fed bytes and says which bytes to send.
//!
//! Nothing here opens, reads, writes, sleeps or looks at a clock; whoever owns the socket does. Nothing a peer
//! sends may panic, so indexing, unwrapping and lossy casts are refused by lints and there is no `unsafe`.
#![forbid(unsafe_code)]
#![deny(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

pub mod close;
pub mod error;
pub mod frame;

pub use error::ProtocolError;
