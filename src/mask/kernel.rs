//! The kernels, and the choice of one of them: made once, by the first payload that is worth it.
#![expect(unsafe_code, reason = "runs functions that need instructions which not every CPU has")]

use std::env;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};

use super::scalar::SHORT_LEN;
use super::vector::Job;
use super::{Key, native};

/// One way of masking. All give the same result; they differ in what they ask of the CPU, and in speed.
///
/// [`apply`](super::apply) and its kin use the one that is [chosen](Kernel::chosen). Tests and benchmarks name theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Words of 64 bits, on any CPU.
    Scalar,
    /// 16 bytes at a time, on any x86-64 CPU.
    Sse2,
    /// 32 bytes at a time, on x86-64.
    Avx2,
    /// 64 bytes at a time, on x86-64 (AVX-512F).
    Avx512,
    /// 16 bytes at a time, on 64-bit ARM.
    Neon,
}

impl Kernel {
    /// All of them, whether or not they run here.
    pub const ALL: [Self; 5] = [Self::Scalar, Self::Sse2, Self::Avx2, Self::Avx512, Self::Neon];

    /// The environment variable that chooses, by [name](Self::name), in place of the CPU.
    pub const VARIABLE: &str = "RINGBACK_MASK";

    /// The kernel in use: the one that [`requested`](Self::requested) gives, or else the best of this CPU.
    ///
    /// A request that cannot be met is passed over here; a program that cares asks `requested` when it starts.
    #[inline]
    pub fn chosen() -> Self {
        Self::ALL.get(usize::from(CHOSEN.load(Relaxed))).copied().unwrap_or_else(choose)
    }

    /// What the environment asks for, if anything. An empty variable is unset.
    ///
    /// # Errors
    ///
    /// When [`VARIABLE`](Self::VARIABLE) names something that is not available.
    pub fn requested() -> Result<Option<Self>, NotAvailable> {
        let Some(name) = env::var_os(Self::VARIABLE).filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        name.to_string_lossy().parse().map(Some)
    }

    /// Those that run here.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|kernel| kernel.is_available())
    }

    /// Whether this binary has it and this CPU runs it.
    #[must_use]
    pub fn is_available(self) -> bool {
        native::is_available(self)
    }

    /// The name in lower case, as [`VARIABLE`](Self::VARIABLE) takes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Sse2 => "sse2",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        }
    }

    /// As [`apply_shifted`](super::apply_shifted), by this kernel.
    ///
    /// # Panics
    ///
    /// When the kernel is not available, `from` is not within `buffer` or `to > from.start`.
    pub fn apply_shifted(self, buffer: &mut [u8], from: Range<usize>, to: usize, key: Key) {
        self.run::<false>(Job::new(buffer, from, to, key));
    }

    /// As [`apply_shifted_text`](super::apply_shifted_text), by this kernel.
    ///
    /// # Panics
    ///
    /// When the kernel is not available, `from` is not within `buffer` or `to > from.start`.
    #[must_use]
    pub fn apply_shifted_text(self, buffer: &mut [u8], from: Range<usize>, to: usize, key: Key) -> bool {
        self.run::<true>(Job::new(buffer, from, to, key))
    }

    fn run<const TEXT: bool>(self, job: Job<'_>) -> bool {
        assert!(self.is_available(), "the CPU or the build lacks {self}");
        // SAFETY: it is available.
        unsafe { native::run::<TEXT>(self, job) }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kernel {
    type Err = NotAvailable;

    /// The available kernel of that name.
    fn from_str(name: &str) -> Result<Self, NotAvailable> {
        Self::available()
            .find(|kernel| kernel.name() == name)
            .ok_or_else(|| NotAvailable { name: name.to_owned() })
    }
}

/// A kernel was asked for that this CPU or this build lacks, or that does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAvailable {
    name: String,
}

impl fmt::Display for NotAvailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "masking kernel {:?} is not available; available:", self.name)?;
        Kernel::available().try_for_each(|kernel| write!(f, " {kernel}"))
    }
}

impl std::error::Error for NotAvailable {}

/// Masks with the kernel in use; what is short takes a way that any CPU of the architecture can go, without a call.
#[inline]
pub(super) fn mask<const TEXT: bool>(job: Job<'_>) -> bool {
    if job.len() <= SHORT_MAX.load(Relaxed) { native::short::<TEXT>(job) } else { long::<TEXT>(job) }
}

#[inline]
fn long<const TEXT: bool>(job: Job<'_>) -> bool {
    // SAFETY: only an available kernel is ever chosen.
    unsafe { native::run::<TEXT>(Kernel::chosen(), job) }
}

/// The place of the kernel in use in [`Kernel::ALL`]; beyond its end until one has been chosen.
static CHOSEN: AtomicU8 = AtomicU8::new(u8::MAX);

/// The longest payload that is masked without asking which kernel is in use: 0 until one has been chosen, and if it
/// was the environment that chose. Either static is right whatever the other says, so their order is free.
static SHORT_MAX: AtomicUsize = AtomicUsize::new(0);

#[cold]
fn choose() -> Kernel {
    let requested = Kernel::requested().ok().flatten();
    let kernel = requested.unwrap_or_else(native::best);
    CHOSEN.store(kernel as u8, Relaxed);
    SHORT_MAX.store(if requested.is_some() { 0 } else { SHORT_LEN }, Relaxed);
    kernel
}
