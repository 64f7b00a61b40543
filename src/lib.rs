//! A strict, fast WebSocket (RFC 6455) echo server for Linux.
//!
//! The parts, from the wire inwards:
//!
//! * [`proto`] is the protocol as a value: bytes in, bytes out, no I/O, no clock and no `unsafe`.
//! * [`mask`] removes the client's masking with SIMD.

pub mod mask;
pub mod proto;
