//! Masking by machine words: for every CPU, and for what is shorter than a vector.
#![expect(unsafe_code, reason = "loads and stores through raw pointers")]

use super::Key;
use super::vector::{Job, LINE, Vector, mask_bytes, mask_ends, mask_lines};

/// Masks any number of bytes, by the word.
///
/// Says whether a byte of the result has its high bit set, if `TEXT`; otherwise `false`. So do the others here.
pub(super) fn words<const TEXT: bool>(job: Job<'_>) -> bool {
    // SAFETY: words need no instructions that a CPU may lack.
    unsafe {
        match job.len() {
            ..16 => under_16::<TEXT>(job),
            16..=32 => mask_ends::<u64, 2, TEXT>(job),
            33..LINE => mask_ends::<u64, 4, TEXT>(job),
            LINE.. => mask_lines::<u64, 8, TEXT>(job),
        }
    }
}

/// Masks 0..=[`SHORT_LEN`] bytes: two words, or 2, 4 or 8 vectors of 16 bytes. No loop, so that it can be inlined.
///
/// # Safety
///
/// The CPU has the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn short<V: Vector, const TEXT: bool>(job: Job<'_>) -> bool {
    const { assert!(V::LEN == 16) };
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        match job.len() {
            ..16 => under_16::<TEXT>(job),
            16..=32 => mask_ends::<V, 1, TEXT>(job),
            33..=64 => mask_ends::<V, 2, TEXT>(job),
            _ => mask_ends::<V, 4, TEXT>(job),
        }
    }
}

/// The longest that [`short`] takes.
pub(super) const SHORT_LEN: usize = 128;

/// Masks 0..=15 bytes.
#[inline(always)]
fn under_16<const TEXT: bool>(job: Job<'_>) -> bool {
    // SAFETY: words need no instructions that a CPU may lack.
    unsafe {
        match job.len() {
            ..4 => mask_bytes::<TEXT>(job),
            4..=8 => mask_ends::<u32, 1, TEXT>(job),
            _ => mask_ends::<u64, 1, TEXT>(job),
        }
    }
}

/// Implements [`Vector`] for an unsigned integer.
macro_rules! word {
    ($word:ty) => {
        // SAFETY: an unaligned read or write of a word is of its own bytes.
        unsafe impl Vector for $word {
            const LEN: usize = size_of::<$word>();

            #[inline(always)]
            unsafe fn repeat(key: Key) -> Self {
                // A word of the key in each word of 32 bits.
                Self::from(u32::from_ne_bytes(key.to_bytes())) * (Self::MAX / Self::from(u32::MAX))
            }

            #[inline(always)]
            unsafe fn load(source: *const u8) -> Self {
                // SAFETY: the caller vouches for the bytes.
                unsafe { source.cast::<Self>().read_unaligned() }
            }

            #[inline(always)]
            unsafe fn store(self, target: *mut u8) {
                // SAFETY: the caller vouches for the bytes.
                unsafe { target.cast::<Self>().write_unaligned(self) }
            }

            #[inline(always)]
            unsafe fn xor(self, other: Self) -> Self {
                self ^ other
            }

            #[inline(always)]
            unsafe fn or(self, other: Self) -> Self {
                self | other
            }

            #[inline(always)]
            unsafe fn has_high_bit(self) -> bool {
                self & Self::from_ne_bytes([0x80; size_of::<Self>()]) != 0
            }
        }
    };
}

word!(u32);
word!(u64);
// For the portable `short`, in place of a vector.
word!(u128);
