//! Masking over whatever a kernel calls a vector: a word of the CPU or a register of its vector unit.
//!
//! **Moving left is safe front to back.** With `target <= source`, a store ends at or before the place of the next load,
//! as long as each piece is loaded before it is stored. Vectors at the two ends that overlap their neighbours are loaded
//! before anything is stored and stored after everything else is; what an overlap stores twice is the same byte. So no
//! byte past either end is ever written, and nothing is left over for a loop by the byte.
#![expect(unsafe_code, reason = "loads and stores through raw pointers, which source and target share")]

use std::array;
use std::marker::PhantomData;
use std::ops::Range;

use super::Key;

/// What a kernel is given: `len` bytes at `source` go to `target`, XORed with `key`.
///
/// To have one is to know that both ranges lie in a buffer that is borrowed exclusively, and that `target <= source`.
#[derive(Clone, Copy)]
pub(super) struct Job<'b> {
    source: *const u8,
    target: *mut u8,
    len: usize,
    key: Key,
    buffer: PhantomData<&'b mut [u8]>,
}

impl<'b> Job<'b> {
    /// # Panics
    ///
    /// When `from` is not within `buffer` or `to > from.start`.
    #[inline(always)]
    pub(super) fn new(buffer: &'b mut [u8], from: Range<usize>, to: usize, key: Key) -> Self {
        let fits = from.start <= from.end && from.end <= buffer.len() && to <= from.start;
        assert!(fits, "masking {from:?} to {to} in a buffer of {}", buffer.len());
        let start = buffer.as_mut_ptr();
        Self {
            source: start.wrapping_add(from.start),
            target: start.wrapping_add(to),
            len: from.len(),
            key,
            buffer: PhantomData,
        }
    }

    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// `source`, `target`, `len` and `key`: as arguments these travel in registers, a `Job` would in memory.
    #[inline(always)]
    pub(super) fn into_parts(self) -> (*const u8, *mut u8, usize, Key) {
        (self.source, self.target, self.len, self.key)
    }
}

/// A register full of bytes.
///
/// # Safety
///
/// `load` reads, and `store` writes, the `LEN` bytes from the pointer and no others, whatever its alignment.
pub(super) unsafe trait Vector: Copy {
    /// How many bytes it holds: a power of two.
    const LEN: usize;

    /// The key over and over.
    ///
    /// # Safety
    ///
    /// The CPU has the instructions of this vector.
    unsafe fn repeat(key: Key) -> Self;

    /// # Safety
    ///
    /// The CPU has the instructions of this vector; `LEN` bytes from `source` may be read.
    unsafe fn load(source: *const u8) -> Self;

    /// # Safety
    ///
    /// The CPU has the instructions of this vector; `LEN` bytes from `target` may be written.
    unsafe fn store(self, target: *mut u8);

    /// # Safety
    ///
    /// The CPU has the instructions of this vector.
    unsafe fn xor(self, other: Self) -> Self;

    /// # Safety
    ///
    /// The CPU has the instructions of this vector.
    unsafe fn or(self, other: Self) -> Self;

    /// Whether any byte has its high bit set.
    ///
    /// # Safety
    ///
    /// The CPU has the instructions of this vector.
    unsafe fn has_high_bit(self) -> bool;
}

/// What is peeled to, in bytes: a line of the cache, which CPUs store whole, or by halves or quarters in one go.
pub(super) const LINE: usize = 64;

/// Masks [`LINE`] bytes or more, `N` vectors to a line: whole lines of the target in the middle, at either end a line's
/// worth that overlaps them.
///
/// Says whether a byte of the result has its high bit set, if `TEXT`; otherwise `false`.
///
/// # Safety
///
/// The CPU has the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn mask_lines<V: Vector, const N: usize, const TEXT: bool>(job: Job<'_>) -> bool {
    const { assert!(N * V::LEN == LINE) };
    let Job { source, target, len, key, .. } = job;
    assert!(len >= LINE);
    let last = len - LINE;
    // The first line of the target that begins behind its first byte, 1..=LINE bytes in: the head covers what is before.
    let mut done = LINE - target.addr() % LINE;
    // SAFETY: the caller vouches for the instructions, `Job` for the two ranges of `len` bytes. Every access is of
    // LINE bytes at 0, at `last`, or at a place of which the loop's condition says that so much is there.
    unsafe {
        let head = Vectors::<V, N>::load(source, key);
        let tail = Vectors::<V, N>::load(source.add(last), key.advanced(last));
        let key = key.advanced(done);
        let mut seen = head.any::<TEXT>().or(tail.any::<TEXT>());
        while done + 2 * LINE <= len {
            let a = Vectors::<V, N>::load(source.add(done), key);
            a.store(target.add(done));
            let b = Vectors::<V, N>::load(source.add(done + LINE), key);
            b.store(target.add(done + LINE));
            seen = seen.or(a.any::<TEXT>().or(b.any::<TEXT>()));
            done += 2 * LINE;
        }
        if done + LINE <= len {
            let a = Vectors::<V, N>::load(source.add(done), key);
            a.store(target.add(done));
            seen = seen.or(a.any::<TEXT>());
        }
        head.store(target);
        tail.store(target.add(last));
        TEXT && seen.has_high_bit()
    }
}

/// Masks `N` vectors from the front and `N` from the back, which meet or overlap: no loop, no alignment.
///
/// Says whether a byte of the result has its high bit set, if `TEXT`; otherwise `false`.
///
/// # Safety
///
/// The CPU has the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn mask_ends<V: Vector, const N: usize, const TEXT: bool>(job: Job<'_>) -> bool {
    let Job { source, target, len, key, .. } = job;
    assert!(N * V::LEN <= len && len <= 2 * N * V::LEN);
    let last = len - N * V::LEN;
    // SAFETY: the caller vouches for the instructions, `Job` for the two ranges of `len` bytes. Every access is of
    // N vectors at 0 or at `last`, which end at `len`.
    unsafe {
        let head = Vectors::<V, N>::load(source, key);
        let tail = Vectors::<V, N>::load(source.add(last), key.advanced(last));
        head.store(target);
        tail.store(target.add(last));
        TEXT && head.any::<TEXT>().or(tail.any::<TEXT>()).has_high_bit()
    }
}

/// `N` vectors that lie in a row.
struct Vectors<V, const N: usize>([V; N]);

impl<V: Vector, const N: usize> Vectors<V, N> {
    /// What lies at `source`, masked with `key`.
    ///
    /// # Safety
    ///
    /// The CPU has the instructions of `V`; `N * V::LEN` bytes from `source` may be read.
    #[inline(always)]
    unsafe fn load(source: *const u8, key: Key) -> Self {
        // SAFETY: the caller vouches for the instructions and the bytes, of which this takes the `i`th vector, `i < N`.
        Self(array::from_fn(|i| unsafe { V::load(source.add(i * V::LEN)).xor(V::repeat(key)) }))
    }

    /// # Safety
    ///
    /// The CPU has the instructions of `V`; `N * V::LEN` bytes from `target` may be written.
    #[inline(always)]
    unsafe fn store(&self, target: *mut u8) {
        for (i, vector) in self.0.iter().enumerate() {
            // SAFETY: the caller vouches for the instructions and the bytes, of which this is the `i`th vector, `i < N`.
            unsafe { vector.store(target.add(i * V::LEN)) };
        }
    }

    /// All of them ORed together, if `TEXT`; otherwise something that cost nothing.
    ///
    /// # Safety
    ///
    /// The CPU has the instructions of `V`.
    #[inline(always)]
    unsafe fn any<const TEXT: bool>(&self) -> V {
        let mut any = self.0[0];
        for vector in self.0.iter().skip(1).filter(|_| TEXT) {
            // SAFETY: the caller vouches for the instructions.
            any = unsafe { any.or(*vector) };
        }
        any
    }
}

/// Masks 0..=3 bytes. Says whether a byte of the result has its high bit set, if `TEXT`; otherwise `false`.
#[inline(always)]
pub(super) fn mask_bytes<const TEXT: bool>(job: Job<'_>) -> bool {
    let (source, target, len, key) = job.into_parts();
    assert!(len < 4);
    let mut seen = 0;
    for (i, key) in key.to_bytes().into_iter().enumerate().take(len) {
        // SAFETY: `i < len`, and `Job` vouches for the two ranges of so many bytes.
        unsafe {
            let byte = source.add(i).read() ^ key;
            target.add(i).write(byte);
            seen |= byte;
        }
    }
    TEXT && seen & 0x80 != 0
}
