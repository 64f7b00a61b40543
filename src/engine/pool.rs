//! Receive buffers of two sizes, shared by the connections of a worker.

use std::cell::RefCell;

use crate::proto::HEADROOM;

/// The size in bytes of a small buffer, its headroom included: what a connection begins with.
pub(super) const SMALL: usize = 4 << 10;

/// How many free buffers of a size are kept.
const FREE_MAX: usize = 64;

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
        if free.len() < FREE_MAX {
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
