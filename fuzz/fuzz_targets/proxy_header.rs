//! What a proxy sends first, whole and in pieces.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringback::proto::fuzz::proxy_header(data));
