//! What takes the place of an architecture's kernels where there are none, or where none are wanted: words only.
#![expect(unsafe_code, reason = "has the signatures of its namesakes")]

use super::Kernel;
use super::scalar;
use super::vector::Job;

/// Whether `kernel` runs here.
pub(super) fn is_available(kernel: Kernel) -> bool {
    kernel == Kernel::Scalar
}

/// The fastest kernel here.
pub(super) fn best() -> Kernel {
    Kernel::Scalar
}

/// Masks any number of bytes.
///
/// # Safety
///
/// `kernel` is available.
#[inline]
pub(super) unsafe fn run<const TEXT: bool>(_kernel: Kernel, job: Job<'_>) -> bool {
    scalar::words::<TEXT>(job)
}

/// Masks 0..=[`SHORT_LEN`](scalar::SHORT_LEN) bytes.
#[inline(always)]
pub(super) fn short<const TEXT: bool>(job: Job<'_>) -> bool {
    // SAFETY: words need no instructions that a CPU may lack.
    unsafe { scalar::short::<u128, TEXT>(job) }
}
