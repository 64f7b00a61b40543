//! Masking by NEON, which every 64-bit ARM CPU that runs Linux has.
#![expect(unsafe_code, reason = "vendor intrinsics, and loads and stores through raw pointers")]

use std::arch::aarch64::*;

use super::scalar::{self, SHORT_LEN};
use super::vector::{Job, Vector, mask_lines};
use super::{Kernel, Key};

/// Whether this CPU runs `kernel`.
pub(super) fn is_available(kernel: Kernel) -> bool {
    matches!(kernel, Kernel::Scalar | Kernel::Neon)
}

/// The fastest kernel of this CPU.
pub(super) fn best() -> Kernel {
    Kernel::Neon
}

/// Masks any number of bytes by `kernel`.
///
/// # Safety
///
/// `kernel` is available.
#[inline]
pub(super) unsafe fn run<const TEXT: bool>(kernel: Kernel, job: Job<'_>) -> bool {
    match kernel {
        Kernel::Neon => neon::<TEXT>(job),
        _ => scalar::words::<TEXT>(job),
    }
}

/// Masks up to [`SHORT_LEN`] bytes by NEON.
#[inline(always)]
pub(super) fn short<const TEXT: bool>(job: Job<'_>) -> bool {
    // SAFETY: NEON is part of the target.
    unsafe { scalar::short::<uint8x16_t, TEXT>(job) }
}

/// Masks any number of bytes by NEON.
fn neon<const TEXT: bool>(job: Job<'_>) -> bool {
    match job.len() {
        ..=SHORT_LEN => short::<TEXT>(job),
        // SAFETY: NEON is part of the target.
        _ => unsafe { mask_lines::<uint8x16_t, 4, TEXT>(job) },
    }
}

// SAFETY: `vld1q_u8` and `vst1q_u8` are of 16 bytes at any address.
unsafe impl Vector for uint8x16_t {
    const LEN: usize = 16;

    #[inline(always)]
    unsafe fn repeat(key: Key) -> Self {
        // SAFETY: NEON is part of the target.
        unsafe { vreinterpretq_u8_u32(vdupq_n_u32(u32::from_ne_bytes(key.to_bytes()))) }
    }

    #[inline(always)]
    unsafe fn load(source: *const u8) -> Self {
        // SAFETY: NEON is part of the target; the caller vouches for the bytes.
        unsafe { vld1q_u8(source) }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut u8) {
        // SAFETY: NEON is part of the target; the caller vouches for the bytes.
        unsafe { vst1q_u8(target, self) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: NEON is part of the target.
        unsafe { veorq_u8(self, other) }
    }

    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        // SAFETY: NEON is part of the target.
        unsafe { vorrq_u8(self, other) }
    }

    #[inline(always)]
    unsafe fn has_high_bit(self) -> bool {
        // SAFETY: NEON is part of the target.
        unsafe { vmaxvq_u8(self) >= 0x80 }
    }
}
