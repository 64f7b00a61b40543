//! Masking (RFC 6455 §5.3): XOR with a 32-bit key, in place or moved left, with SIMD.

#[doc(hidden)]
pub mod fuzz;
mod kernel;
mod scalar;
mod vector;

// What this architecture has beside words.
#[cfg(all(target_arch = "aarch64", not(any(miri, ringback_force_scalar))))]
#[path = "aarch64.rs"]
mod native;
#[cfg(all(target_arch = "x86_64", not(any(miri, ringback_force_scalar))))]
#[path = "x86_64.rs"]
mod native;
#[cfg(any(miri, ringback_force_scalar, not(any(target_arch = "aarch64", target_arch = "x86_64"))))]
#[path = "portable.rs"]
mod native;

use std::ops::Range;

pub use kernel::{Kernel, NotAvailable};
use vector::Job;

/// A masking key at the phase at which its next byte is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key([u8; 4]);

impl Key {
    /// The key as it stands in a frame's header, at phase 0.
    #[inline]
    #[must_use]
    pub const fn new(bytes: [u8; 4]) -> Self {
        Self(bytes)
    }

    /// The key's bytes, beginning with the one that is used next.
    #[inline]
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 4] {
        self.0
    }

    /// The key after `count` bytes of payload: masking may go on from there in another piece.
    #[inline]
    #[must_use]
    pub fn advanced(self, count: usize) -> Self {
        let [bits, ..] = (8 * (count % 4)).to_le_bytes();
        Self(u32::from_le_bytes(self.0).rotate_right(bits.into()).to_le_bytes())
    }
}

/// XORs `bytes` with `key` where they lie.
#[inline]
pub fn apply(bytes: &mut [u8], key: Key) {
    let len = bytes.len();
    apply_shifted(bytes, 0..len, 0, key);
}

/// As [`apply`], and says whether any byte of the result has its high bit set, that is, whether it is not ASCII.
#[inline]
#[must_use]
pub fn apply_text(bytes: &mut [u8], key: Key) -> bool {
    let len = bytes.len();
    apply_shifted_text(bytes, 0..len, 0, key)
}

/// XORs `buffer[from]` with `key` and stores the result at `to`, at or before where it was.
///
/// Bytes outside `to..to + from.len()` are not changed.
///
/// # Panics
///
/// When `from` is not within `buffer` or `to > from.start`.
#[inline]
pub fn apply_shifted(buffer: &mut [u8], from: Range<usize>, to: usize, key: Key) {
    kernel::mask::<false>(Job::new(buffer, from, to, key));
}

/// As [`apply_shifted`], and says whether any byte of the result has its high bit set.
///
/// # Panics
///
/// When `from` is not within `buffer` or `to > from.start`.
#[inline]
#[must_use]
pub fn apply_shifted_text(buffer: &mut [u8], from: Range<usize>, to: usize, key: Key) -> bool {
    kernel::mask::<true>(Job::new(buffer, from, to, key))
}

#[cfg(test)]
mod tests;
