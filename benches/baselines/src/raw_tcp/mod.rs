//! An echo of raw bytes: what the kernel's TCP costs, whatever the protocol above it.

pub mod epoll;
pub mod ring;
