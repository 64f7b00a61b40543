//! Two connections on one budget, with pings and Closes in between.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringback::proto::fuzz::operations(data));
