//! Anonymous memory (mmap(2)).

use std::io;
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Memory of our own, zeroed and aligned to a page.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// So many bytes.
    ///
    /// # Errors
    ///
    /// Those of mmap(2).
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: without a place asked for, no other mapping is touched.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), len, access, flags)? };
        Ok(Self { start: NonNull::new(start.cast()).expect("no mapping is at 0"), len })
    }

    /// Gives the whole pages among `len` bytes from `offset` on back to the system: the next look finds zeros there.
    ///
    /// # Safety
    ///
    /// Nobody borrows from these bytes, and no kernel reads or writes them.
    pub(super) unsafe fn forget(&self, offset: usize, len: usize) {
        let page = rustix::param::page_size();
        let (first, end) = (offset.next_multiple_of(page), (offset + len) / page * page);
        if first < end && end <= self.len {
            // SAFETY: the pages are part of the mapping, and nobody borrows from them, as the caller says.
            let told =
                unsafe { madvise(self.start.add(first).as_ptr().cast(), end - first, Advice::LinuxDontNeed) };
            debug_assert!(told.is_ok());
        }
    }

    /// Its first byte.
    #[inline]
    pub(crate) const fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is our own, and nothing that borrows from it outlives what holds it.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok());
    }
}
