//! The WebSocket protocol (RFC 6455) as a value: it is fed bytes and says which bytes to send.
//!
//! Nothing here opens, reads, writes, sleeps or looks at a clock; whoever owns the socket does. Nothing a peer
//! sends may panic, so indexing, unwrapping and lossy casts are refused by lints and there is no `unsafe`.
//!
//! First, behind some proxies, a [`proxy`] header; then a [`handshake`], then a [`Connection`]. `examples/blocking.rs` goes
//! through the last two with a blocking socket.
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

pub mod close;
mod connection;
mod error;
pub mod excerpt;
pub(crate) mod fields;
pub mod frame;
#[doc(hidden)]
#[cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        clippy::panic,
        reason = "a fuzz body tells what it has found by a panic; no peer's bytes come here"
    )
)]
pub mod fuzz;
pub mod handshake;
mod page;
mod pieces;
mod progress;
pub mod proxy;
pub mod utf8;

pub use connection::{Connection, Settings};
pub use error::{ProtocolError, ProtocolErrorKind};
pub use progress::{CloseFrame, ControlFrame, Counts, Progress, Standing};
