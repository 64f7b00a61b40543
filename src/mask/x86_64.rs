//! Masking by SSE2, which every x86-64 CPU has, by AVX2 and by AVX-512.
#![expect(unsafe_code, reason = "vendor intrinsics, and loads and stores through raw pointers")]

use std::arch::x86_64::*;

use super::scalar::{self, SHORT_LEN};
use super::vector::{Job, LINE, Vector, mask_lines};
use super::{Kernel, Key};

/// Whether this CPU runs `kernel`.
pub(super) fn is_available(kernel: Kernel) -> bool {
    match kernel {
        Kernel::Scalar | Kernel::Sse2 => true,
        Kernel::Avx2 => is_x86_feature_detected!("avx2"),
        Kernel::Avx512 => is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("bmi2"),
        Kernel::Neon => false,
    }
}

/// The fastest kernel of this CPU.
pub(super) fn best() -> Kernel {
    // CPUs with AVX-512 but without VBMI2 (before Ice Lake) lower their clock when they use 512 bits.
    if is_available(Kernel::Avx512) && is_x86_feature_detected!("avx512vbmi2") {
        Kernel::Avx512
    } else if is_available(Kernel::Avx2) {
        Kernel::Avx2
    } else {
        Kernel::Sse2
    }
}

/// Masks any number of bytes by `kernel`.
///
/// Says whether a byte of the result has its high bit set, if `TEXT`; otherwise `false`. So do the others here.
///
/// # Safety
///
/// `kernel` is available.
#[inline]
pub(super) unsafe fn run<const TEXT: bool>(kernel: Kernel, job: Job<'_>) -> bool {
    match kernel {
        Kernel::Scalar | Kernel::Neon => scalar::words::<TEXT>(job),
        Kernel::Sse2 => sse2::<TEXT>(job),
        // SAFETY: it is available, so the CPU has AVX2.
        Kernel::Avx2 => unsafe { avx2::<TEXT>(job) },
        Kernel::Avx512 => {
            let (source, target, len, key) = job.into_parts();
            // SAFETY: it is available, so the CPU has AVX-512BW and BMI2. The arguments are the parts of a job.
            unsafe { avx512::<TEXT>(source, target, len, key) }
        }
    }
}

/// Masks 0..=[`SHORT_LEN`] bytes by what every x86-64 CPU has.
#[inline(always)]
pub(super) fn short<const TEXT: bool>(job: Job<'_>) -> bool {
    // SAFETY: every x86-64 CPU has SSE2.
    unsafe { scalar::short::<__m128i, TEXT>(job) }
}

/// Masks any number of bytes by SSE2.
fn sse2<const TEXT: bool>(job: Job<'_>) -> bool {
    match job.len() {
        ..=SHORT_LEN => short::<TEXT>(job),
        // SAFETY: every x86-64 CPU has SSE2.
        _ => unsafe { mask_lines::<__m128i, 4, TEXT>(job) },
    }
}

/// Masks any number of bytes by AVX2.
#[target_feature(enable = "avx2")]
fn avx2<const TEXT: bool>(job: Job<'_>) -> bool {
    match job.len() {
        ..LINE => short::<TEXT>(job),
        // SAFETY: who calls this has AVX2.
        _ => unsafe { mask_lines::<__m256i, 2, TEXT>(job) },
    }
}

/// Masks any number of bytes by AVX-512: line by line, the first and the last under masks that leave out what is not
/// of the payload. (Two overlapping lines, as the other kernels have them, cost 16 % at 16 KiB: they lie across lines.)
///
/// # Safety
///
/// The arguments are the parts of a [`Job`].
#[target_feature(enable = "avx512bw,bmi2")]
unsafe fn avx512<const TEXT: bool>(source: *const u8, target: *mut u8, len: usize, key: Key) -> bool {
    // Places are counted from the beginning of the target's first line: the payload is `skip..end`.
    let skip = target.addr() % LINE;
    let end = skip + len;
    let mut source = source.wrapping_sub(skip);
    let mut target = target.wrapping_sub(skip);
    let keys = _mm512_set1_epi32(i32::from_ne_bytes(key.advanced(skip.wrapping_neg()).to_bytes()));
    let first = u64::MAX << skip;
    // SAFETY: the caller vouches for the bytes of `skip..end`. What is under a mask is accessed only there, and every
    // whole line ends at or before `end`. No piece overlaps another, so going front to back is right.
    unsafe {
        if end < LINE {
            let seen = masked_line(source, target, first & !(u64::MAX << end), keys);
            return TEXT && has_high_bit(seen);
        }
        let mut seen = masked_line(source, target, first, keys);
        source = source.wrapping_add(LINE);
        target = target.wrapping_add(LINE);
        let lines = end / LINE - 1;
        for _ in 0..lines / 4 {
            let a = line(source, keys);
            let b = line(source.wrapping_add(LINE), keys);
            let c = line(source.wrapping_add(2 * LINE), keys);
            let d = line(source.wrapping_add(3 * LINE), keys);
            _mm512_store_si512(target.cast(), a);
            _mm512_store_si512(target.wrapping_add(LINE).cast(), b);
            _mm512_store_si512(target.wrapping_add(2 * LINE).cast(), c);
            _mm512_store_si512(target.wrapping_add(3 * LINE).cast(), d);
            if TEXT {
                seen = _mm512_or_si512(seen, _mm512_or_si512(a, b));
                seen = _mm512_or_si512(seen, _mm512_or_si512(c, d));
            }
            source = source.wrapping_add(4 * LINE);
            target = target.wrapping_add(4 * LINE);
        }
        for _ in 0..lines % 4 {
            let a = line(source, keys);
            _mm512_store_si512(target.cast(), a);
            if TEXT {
                seen = _mm512_or_si512(seen, a);
            }
            source = source.wrapping_add(LINE);
            target = target.wrapping_add(LINE);
        }
        let rest = end % LINE;
        if rest != 0 {
            let mask = !(u64::MAX << rest);
            let last = masked_line(source, target, mask, keys);
            if TEXT {
                seen = _mm512_or_si512(seen, last);
            }
        }
        TEXT && has_high_bit(seen)
    }
}

/// # Safety
///
/// [`LINE`] bytes from `source` may be read.
#[inline]
#[target_feature(enable = "avx512bw")]
unsafe fn line(source: *const u8, keys: __m512i) -> __m512i {
    // SAFETY: the caller vouches for the bytes.
    _mm512_xor_si512(unsafe { _mm512_loadu_si512(source.cast()) }, keys)
}

/// Masks those bytes of a line that `mask` has bits for, and gives them; others are 0 in what it gives.
///
/// # Safety
///
/// The bytes that `mask` has bits for may be read from `source` and written to `target`.
#[inline]
#[target_feature(enable = "avx512bw")]
unsafe fn masked_line(source: *const u8, target: *mut u8, mask: u64, keys: __m512i) -> __m512i {
    // SAFETY: the caller vouches for the bytes of the mask; no others are accessed.
    unsafe {
        let bytes = _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, source.cast()), keys);
        _mm512_mask_storeu_epi8(target.cast(), mask, bytes);
        _mm512_maskz_mov_epi8(mask, bytes)
    }
}

#[inline]
#[target_feature(enable = "avx512bw")]
fn has_high_bit(bytes: __m512i) -> bool {
    _mm512_movepi8_mask(bytes) != 0
}

/// Implements [`Vector`] for a type of `std::arch`.
macro_rules! vector {
    ($vector:ty, $repeat:ident, $load:ident, $store:ident, $xor:ident, $or:ident, $high_bits:ident) => {
        // SAFETY: the unaligned load and store of a register are of its own bytes.
        unsafe impl Vector for $vector {
            const LEN: usize = size_of::<$vector>();

            #[inline(always)]
            unsafe fn repeat(key: Key) -> Self {
                // SAFETY: the caller vouches for the CPU.
                unsafe { $repeat(i32::from_ne_bytes(key.to_bytes())) }
            }

            #[inline(always)]
            unsafe fn load(source: *const u8) -> Self {
                // SAFETY: the caller vouches for the CPU and for the bytes.
                unsafe { $load(source.cast()) }
            }

            #[inline(always)]
            unsafe fn store(self, target: *mut u8) {
                // SAFETY: the caller vouches for the CPU and for the bytes.
                unsafe { $store(target.cast(), self) }
            }

            #[inline(always)]
            unsafe fn xor(self, other: Self) -> Self {
                // SAFETY: the caller vouches for the CPU.
                unsafe { $xor(self, other) }
            }

            #[inline(always)]
            unsafe fn or(self, other: Self) -> Self {
                // SAFETY: the caller vouches for the CPU.
                unsafe { $or(self, other) }
            }

            #[inline(always)]
            unsafe fn has_high_bit(self) -> bool {
                // SAFETY: the caller vouches for the CPU.
                unsafe { $high_bits(self) != 0 }
            }
        }
    };
}

#[rustfmt::skip]
vector!(
    __m128i, _mm_set1_epi32, _mm_loadu_si128, _mm_storeu_si128, _mm_xor_si128, _mm_or_si128,
    _mm_movemask_epi8
);
#[rustfmt::skip]
vector!(
    __m256i, _mm256_set1_epi32, _mm256_loadu_si256, _mm256_storeu_si256, _mm256_xor_si256, _mm256_or_si256,
    _mm256_movemask_epi8
);
