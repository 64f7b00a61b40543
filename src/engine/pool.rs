//! Receive buffers of two sizes, shared by the connections of a worker.

use std::cell::{Cell, RefCell};

use crate::proto::HEADROOM;

/// The size in bytes of a small buffer, its headroom included: what a connection begins with.
pub(super) const SMALL: usize = 4 << 10;

/// How many free buffers of a size are kept, and how many bytes of them; one is kept whatever its size.
const FREE_MAX: usize = 64;
const FREE_BYTES_MAX: usize = 8 << 20;

/// How many bytes of big buffers are out at once; beyond them the small ones have to do. Where the kernel owns a buffer
/// for each read, it keeps a big one for every peer that sent bulk and then fell silent.
const BIG_BYTES_MAX: usize = 16 << 20;

/// Which of the two sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Small,
    Big,
}

/// A buffer to receive into, at [`HEADROOM`]. Its length is its size: every byte is initialised.
#[derive(Debug)]
pub(super) struct Buffer {
    pub(super) bytes: Vec<u8>,
    class: Class,
}

impl Buffer {
    /// How many bytes can be received into it.
    pub(super) fn room(&self) -> usize {
        self.bytes.len() - HEADROOM
    }
}

/// The free buffers of a worker, last used first: these are in the cache.
#[derive(Debug)]
pub(super) struct Pool {
    big: usize,
    /// How many big buffers are out.
    big_out: Cell<usize>,
    free: [RefCell<Vec<Vec<u8>>>; 2],
}

impl Pool {
    /// A pool whose big buffers receive up to `big` bytes.
    pub(super) fn new(big: usize) -> Self {
        Self { big: big + HEADROOM, big_out: Cell::new(0), free: Default::default() }
    }

    /// A buffer of this class, or a small one when as many big ones as may be are out.
    pub(super) fn take(&self, mut class: Class) -> Buffer {
        if class == Class::Big {
            if (self.big_out.get() + 1) * self.big <= BIG_BYTES_MAX.max(self.big) {
                self.big_out.set(self.big_out.get() + 1);
            } else {
                class = Class::Small;
            }
        }
        let size = match class {
            Class::Small => SMALL.min(self.big),
            Class::Big => self.big,
        };
        let bytes = self.free(class).borrow_mut().pop().unwrap_or_else(|| vec![0; size]);
        Buffer { bytes, class }
    }

    /// Takes a buffer back.
    pub(super) fn give(&self, buffer: Buffer) {
        if buffer.class == Class::Big {
            self.big_out.set(self.big_out.get() - 1);
        }
        let mut free = self.free(buffer.class).borrow_mut();
        if free.len() < (FREE_BYTES_MAX / buffer.bytes.len()).clamp(1, FREE_MAX) {
            free.push(buffer.bytes);
        }
    }

    fn free(&self, class: Class) -> &RefCell<Vec<Vec<u8>>> {
        let [small, big] = &self.free;
        match class {
            Class::Small => small,
            Class::Big => big,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_whatever_the_size() {
        for (big, out, kept) in
            [(1 << 10, 1000, FREE_MAX), (64 << 10, 255, FREE_MAX), (1 << 20, 15, 7), (16 << 20, 1, 1)]
        {
            let pool = Pool::new(big);
            for _ in 0..2 {
                let taken: Vec<_> = (0..1000).map(|_| pool.take(Class::Big)).collect();
                assert_eq!(taken.iter().filter(|buffer| buffer.class == Class::Big).count(), out);
                for buffer in taken {
                    pool.give(buffer);
                }
                assert_eq!(pool.free(Class::Big).borrow().len(), kept, "{big} bytes");
            }
        }
    }
}
