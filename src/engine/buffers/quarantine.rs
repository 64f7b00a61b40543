//! Where returned buffers wait, in a debug build, before the kernel may have them again.
//!
//! A buffer in quarantine is filled and made inaccessible: whoever uses it after it was dropped faults, and a
//! kernel that still writes to it, or reads a reply from it, answers -EFAULT. A release build has no quarantine.
#![cfg_attr(debug_assertions, expect(unsafe_code, reason = "memory that is shared with the kernel"))]

use std::ptr::NonNull;

use crate::memory::HEADROOM;

/// What buffers begin at in a release build: a line of the cache.
#[cfg(not(debug_assertions))]
const ALIGNMENT: usize = 64;

/// In a debug build a page, so that each can be made inaccessible by itself.
#[cfg(debug_assertions)]
const ALIGNMENT: usize = 4096;

/// The buffers of a group that were given back and are not given on yet.
#[derive(Debug)]
pub(super) struct Quarantine {
    #[cfg(debug_assertions)]
    inside: std::cell::RefCell<std::collections::VecDeque<(u32, NonNull<u8>)>>,
    /// A part of the group small enough that the others keep it going.
    #[cfg(debug_assertions)]
    len_max: usize,
}

impl Quarantine {
    /// How far behind a multiple of the alignment a buffer begins, so that what is received into it, behind the headroom, begins
    /// at one. In quarantine it has to begin with a page.
    pub(super) const SHIFT: usize = if cfg!(debug_assertions) { 0 } else { ALIGNMENT - HEADROOM };

    /// What lies between the beginnings of two buffers of `size` bytes.
    pub(super) const fn stride(size: usize) -> usize {
        size.next_multiple_of(ALIGNMENT)
    }
}

#[cfg(not(debug_assertions))]
impl Quarantine {
    pub(super) const fn new(_count: u32) -> Self {
        Self {}
    }

    #[inline]
    pub(super) const fn enter(
        &self,
        _index: u32,
        _start: NonNull<u8>,
        _stride: usize,
    ) -> Option<Option<u32>> {
        None
    }

    #[inline]
    pub(super) const fn len(&self) -> u32 {
        0
    }
}

#[cfg(debug_assertions)]
impl Quarantine {
    /// What a buffer is filled with: a reply that is made of it is nobody's.
    const FILLING: u8 = 0xDB;

    pub(super) fn new(count: u32) -> Self {
        Self { inside: std::cell::RefCell::default(), len_max: count as usize / 8 }
    }

    /// Takes in a buffer that was dropped. `Some` of who leaves for it, if anybody; `None` when there is no
    /// quarantine and the buffer is given on at once.
    pub(super) fn enter(&self, index: u32, start: NonNull<u8>, stride: usize) -> Option<Option<u32>> {
        use rustix::mm::{MprotectFlags, mprotect};
        if self.len_max == 0 {
            return None;
        }
        // SAFETY: the buffer is `stride` bytes of whole pages of a live mapping, and nobody borrows from it: it is lent to nobody.
        unsafe {
            start.write_bytes(Self::FILLING, stride);
            mprotect(start.as_ptr().cast(), stride, MprotectFlags::empty()).expect("pages of our own");
        }
        let mut inside = self.inside.borrow_mut();
        inside.push_back((index, start));
        if inside.len() <= self.len_max {
            return Some(None);
        }
        let (released, start) = inside.pop_front().expect("there are more than none");
        // SAFETY: as above.
        unsafe {
            let access = MprotectFlags::READ | MprotectFlags::WRITE;
            mprotect(start.as_ptr().cast(), stride, access).expect("pages of our own");
        }
        Some(Some(released))
    }

    /// How many are inside.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.inside.borrow().len()).unwrap_or(u32::MAX)
    }
}
