//! Every masking kernel against the two lines that say what masking is.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringback::mask::fuzz::fuzz_mask(data));
