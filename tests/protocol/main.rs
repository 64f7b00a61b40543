//! The protocol core without sockets, and the examples that use it.
//!
//! `cargo test --test protocol proto_frames::` runs a file alone.

#[path = "../support/mod.rs"]
mod support;

mod examples;
mod proto_clients;
mod proto_frames;
mod proto_handshake;
mod proto_random;
mod proto_streaming;
