//! A WebSocket load generator that checks every echoed byte.

fn main() {}
