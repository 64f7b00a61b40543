//! What masking means, in two lines, and a check of every kernel against it that a fuzzer can drive.

use std::ops::Range;

use super::{Kernel, Key, apply_shifted, apply_shifted_text};

/// Takes a key (4 bytes), an offset (1), a shift (2) and a payload from `data`, and compares every available kernel, and
/// the one that is chosen, with [`naive`].
///
/// # Panics
///
/// When one of them differs.
pub fn fuzz_mask(data: &[u8]) {
    let Some((&[k0, k1, k2, k3, offset, low, high], payload)) = data.split_first_chunk() else {
        return;
    };
    let to = usize::from(offset);
    let start = to + usize::from(u16::from_le_bytes([low, high]) % 1024);
    let from = start..start + payload.len();
    // What lies around the payload differs from byte to byte and is not masked.
    let mut buffer: Vec<u8> = (0..=u8::MAX).rev().cycle().take(from.end + GUARD).collect();
    buffer[from.clone()].copy_from_slice(payload);
    check(&buffer, from, to, Key::new([k0, k1, k2, k3]));
}

/// Compares every available kernel, and the one that is chosen, with [`naive`], on copies of `buffer`.
///
/// # Panics
///
/// When one of them differs.
pub fn check(buffer: &[u8], from: Range<usize>, to: usize, key: Key) {
    let mut expected = buffer.to_vec();
    let has_high_bit = naive(&mut expected, from.clone(), to, key);
    // An allocation begins where it likes: this one begins a line, so that the caller's places decide on alignment.
    let mut room = vec![0; buffer.len() + 63];
    let aligned = room.as_ptr().align_offset(64).min(63);
    let copy = &mut room[aligned..][..buffer.len()];
    for kernel in [None].into_iter().chain(Kernel::available().map(Some)) {
        let case = || {
            let name = kernel.map_or("chosen", Kernel::name);
            format!("{name}: {from:?} to {to} with {key:?}")
        };
        copy.copy_from_slice(buffer);
        match kernel {
            None => apply_shifted(copy, from.clone(), to, key),
            Some(kernel) => kernel.apply_shifted(copy, from.clone(), to, key),
        }
        assert!(*copy == expected, "{}", case());
        copy.copy_from_slice(buffer);
        let reported = match kernel {
            None => apply_shifted_text(copy, from.clone(), to, key),
            Some(kernel) => kernel.apply_shifted_text(copy, from.clone(), to, key),
        };
        assert!(*copy == expected, "{}, text", case());
        assert_eq!(reported, has_high_bit, "{}, high bit", case());
    }
}

/// The meaning of [`apply_shifted_text`].
pub fn naive(buffer: &mut [u8], from: Range<usize>, to: usize, key: Key) -> bool {
    let masked: Vec<u8> =
        buffer[from].iter().zip(key.to_bytes().iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    buffer[to..to + masked.len()].copy_from_slice(&masked);
    !masked.is_ascii()
}

/// Bytes behind the payload that must stay as they are.
const GUARD: usize = 128;
