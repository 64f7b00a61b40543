//! Text in pieces against core::str.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringback::proto::fuzz::utf8(data));
