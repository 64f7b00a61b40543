//! A strict, fast WebSocket (RFC 6455) echo server for Linux.
//!
//! The path of a byte: `main` → [`cli`] → [`server::Server`] → `engine::*` → `session` → [`proto::Connection`] → [`mask`],
//! and back out of the buffer that it was received into.
//!
//! * [`proto`] is the protocol as a value: bytes in, bytes out, no I/O, no clock and no `unsafe`.
//! * [`mask`] removes the client's masking with SIMD.
//! * [`memory`] bounds what waits to be sent.
//! * [`allocator`] keeps the allocator from huge pages.
//! * [`engine`] moves bytes between sockets and handlers.
//! * `session` is what ringback does with a connection: a handler that feeds `proto`.
//! * [`counters`] are what workers count.
//! * [`server`] owns listeners and workers.
//! * [`documents`] is what the binary writes of itself: the manual page, completions, a configuration file.
//! * [`variables`] are those of the environment that are no options.
//! * [`doctor`] says whether the best engine can run here, and what would cure it.

pub mod allocator;
pub mod cli;
pub mod config;
pub mod counters;
pub mod doctor;
pub mod documents;
pub mod engine;
mod limits;
pub mod logging;
pub mod mask;
pub mod memory;
pub mod proto;
pub mod server;
mod session;
mod settings;
pub mod system;
pub mod variables;
