//! Receive buffers of two sizes, shared by the connections of a worker.

use std::cell::RefCell;

use crate::proto::HEADROOM;

/// The size in bytes of a small buffer, its headroom included: what a connection begins with.
pub(super) const SMALL: usize = 4 << 10;

/// How many free buffers of a size are kept, and how many bytes of them; one is kept whatever its size.
const FREE_MAX: usize = 64;
const FREE_BYTES_MAX: usize = 8 << 20;

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
    free: [RefCell<Vec<Vec<u8>>>; 2],
}

impl Pool {
    /// A pool whose big buffers receive up to `big` bytes.
    pub(super) fn new(big: usize) -> Self {
        Self { big: big + HEADROOM, free: Default::default() }
    }

    /// A buffer of this class.
    pub(super) fn take(&self, class: Class) -> Buffer {
        let size = match class {
            Class::Small => SMALL.min(self.big),
            Class::Big => self.big,
        };
        let bytes = self.free(class).borrow_mut().pop().unwrap_or_else(|| vec![0; size]);
        Buffer { bytes, class }
    }

    /// Takes a buffer back.
    pub(super) fn give(&self, buffer: Buffer) {
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
        for (big, kept) in [(1 << 10, FREE_MAX), (64 << 10, FREE_MAX), (1 << 20, 7), (16 << 20, 1)] {
            let pool = Pool::new(big);
            let taken: Vec<_> = (0..100).map(|_| pool.take(Class::Big)).collect();
            for buffer in taken {
                pool.give(buffer);
            }
            assert_eq!(pool.free(Class::Big).borrow().len(), kept, "{big} bytes");
        }
    }
}
