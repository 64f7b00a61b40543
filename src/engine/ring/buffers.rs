//! Receive buffers that the kernel picks from by itself.
//!
//! A buffer is the kernel's until a completion names it; then it is a [`Lease`], and ours alone, until that is dropped.
//! A dropped lease only puts its buffer on a list. The ring gives the kernel the buffers of that list before each
//! io_uring_enter(2): the kernel takes buffers in that call alone, so it misses none.
#![expect(unsafe_code, reason = "memory that is shared with the kernel")]

use std::cell::{Cell, RefCell};
use std::io;
use std::ptr::{self, NonNull};
use std::rc::Rc;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::quarantine::Quarantine;
use super::{Class, ReceiveBuffer};
use crate::memory::{Budget, HEADROOM};

/// A group of equal buffers.
#[derive(Debug)]
pub(super) struct Group(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    id: u16,
    /// A power of two.
    count: u16,
    /// The size of a buffer in bytes, its headroom included.
    size: usize,
    /// What lies between the beginnings of two buffers, in bytes.
    stride: usize,
    /// How many buffers the kernel may fill, or has filled and not told of yet.
    available: Cell<u16>,
    /// How many of them it has at most. It takes them in turn: the fewer, the warmer they are.
    window: Cell<u16>,
    /// The buffers that neither the kernel nor a lease has. The last one was used last and goes first.
    returned: RefCell<Vec<u16>>,
    quarantine: Quarantine,
    memory: Mapping,
}

impl Group {
    /// `count` buffers of `size` bytes, headroom included, as group `id`. The kernel takes turns with `window` of them at
    /// first. In a debug build returned buffers go into quarantine first, if `has_quarantine`.
    ///
    /// # Errors
    ///
    /// When there is no memory.
    ///
    /// # Panics
    ///
    /// When `count` is not a power of two.
    pub(super) fn new(
        id: u16,
        count: u16,
        size: usize,
        window: u16,
        has_quarantine: bool,
    ) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "a ring has a power of two of entries");
        assert!(size > HEADROOM);
        let stride = Quarantine::stride(size);
        Ok(Self(Rc::new(Inner {
            id,
            count,
            size,
            stride,
            available: Cell::new(0),
            window: Cell::new(window.min(count)),
            // The first one is the next to go.
            returned: RefCell::new((0..count).rev().collect()),
            quarantine: Quarantine::new(if has_quarantine { count } else { 0 }),
            memory: Mapping::new(usize::from(count) * stride)?,
        })))
    }

    pub(super) fn id(&self) -> u16 {
        self.0.id
    }

    /// How many buffers the kernel can fill once it has what [`Self::provide`] gives.
    #[inline]
    pub(super) fn available(&self) -> u16 {
        self.0.available.get() + self.0.due()
    }

    /// How many buffers the kernel has.
    #[cfg(test)]
    pub(super) fn given(&self) -> u16 {
        self.0.available.get()
    }

    /// How many buffers there are.
    pub(super) fn count(&self) -> usize {
        self.0.count.into()
    }

    /// How many of them no lease holds.
    pub(super) fn free(&self) -> usize {
        self.0.free() + self.0.quarantine.len()
    }

    /// Has the kernel take turns with `window` buffers, as long as these are enough.
    pub(super) fn set_window(&self, window: u16) {
        self.0.window.set(window.min(self.0.count));
    }

    /// Has the kernel take turns with twice as many buffers once more than half of them are in use. A buffer that was
    /// never used takes no memory.
    pub(super) fn widen(&self) {
        let window = self.0.window.get();
        if window < self.0.count && self.available() < window / 2 {
            self.set_window(window.saturating_mul(2));
        }
    }

    /// Has `give` give the kernel the buffers that it may have and has not: by index, start and length.
    #[inline]
    pub(super) fn provide(&self, give: impl FnMut(u16, NonNull<u8>, u32)) {
        let due = self.0.due();
        if due > 0 {
            self.0.give(due, give);
        }
    }

    /// Keeps the memory for good: the kernel may still write to it.
    pub(super) fn leak(&self) {
        std::mem::forget(Rc::clone(&self.0));
    }

    /// The buffer that a completion names.
    ///
    /// # Safety
    ///
    /// The kernel has just handed out buffer `index` of this group: each of its completions is asked about once.
    #[inline]
    pub(super) unsafe fn lease(&self, index: u16) -> Lease {
        assert!(index < self.0.count, "the kernel names a buffer that it was never given");
        self.0.available.set(self.0.available.get() - 1);
        Lease { group: Rc::clone(&self.0), index }
    }
}

impl Inner {
    /// How many the kernel has or may have.
    #[inline]
    fn free(&self) -> usize {
        usize::from(self.available.get()) + self.returned.borrow().len()
    }

    /// How many buffers the kernel may have and has not.
    #[inline]
    fn due(&self) -> u16 {
        let missing = self.window.get().saturating_sub(self.available.get());
        u16::try_from(self.returned.borrow().len()).map_or(missing, |returned| missing.min(returned))
    }

    /// Takes a buffer back from a lease.
    #[inline]
    fn take_back(&self, index: u16) {
        let released = self.quarantine.enter(index, self.buffer(index), self.stride).unwrap_or(Some(index));
        if let Some(released) = released {
            self.returned.borrow_mut().push(released);
        }
    }

    fn give(&self, count: u16, mut give: impl FnMut(u16, NonNull<u8>, u32)) {
        let mut returned = self.returned.borrow_mut();
        let room = u32::try_from(self.size - HEADROOM).expect("buffers are smaller than 4 GiB");
        let kept = returned.len() - usize::from(count);
        for index in returned.drain(kept..).rev() {
            // SAFETY: a buffer is longer than its headroom.
            let start = unsafe { self.buffer(index).add(HEADROOM) };
            give(index, start, room);
        }
        self.available.set(self.available.get() + count);
    }

    #[inline]
    fn buffer(&self, index: u16) -> NonNull<u8> {
        debug_assert!(index < self.count);
        // SAFETY: `index < count`, and the mapping holds `count * stride` bytes.
        unsafe { self.memory.start.add(usize::from(index) * self.stride) }
    }
}

/// A buffer that is ours until it is dropped: then the kernel may fill it again.
#[derive(Debug)]
pub struct Lease {
    group: Rc<Inner>,
    index: u16,
}

impl Lease {
    /// The whole buffer: what was received begins at [`HEADROOM`].
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the buffer lies in the mapping, which lives as long as the group and was zeroed when it was mapped.
        // Between the completion that named it and `drop` the kernel writes nothing there, and there is one lease.
        unsafe { NonNull::slice_from_raw_parts(self.group.buffer(self.index), self.group.size).as_ref() }
    }

    /// As [`Self::bytes`], to be changed.
    #[must_use]
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; and the lease is borrowed exclusively.
        unsafe { NonNull::slice_from_raw_parts(self.group.buffer(self.index), self.group.size).as_mut() }
    }

    /// Which group it is of.
    #[must_use]
    pub fn class(&self) -> Class {
        if self.group.id == Class::Small as u16 { Class::Small } else { Class::Big }
    }

    /// Whether so few buffers like it are left to the kernel that none of them should wait for a slow peer.
    #[must_use]
    #[inline]
    pub fn is_scarce(&self) -> bool {
        self.group.free() < usize::from(self.group.count / 4)
    }
}

impl Drop for Lease {
    #[inline]
    fn drop(&mut self) {
        if planted!(BufferLeaks) && self.class() == Class::Big {
            return;
        }
        self.group.take_back(self.index);
    }
}

impl ReceiveBuffer for Lease {
    #[inline]
    fn bytes(&self) -> &[u8] {
        self.bytes()
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes_mut()
    }

    fn charge(&mut self, _: &Rc<Budget>) {}

    fn is_scarce(&self) -> bool {
        self.is_scarce()
    }
}

/// Memory of our own, zeroed and aligned to a page.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// So many bytes.
    ///
    /// # Errors
    ///
    /// Those of mmap(2).
    pub(super) fn new(len: usize) -> io::Result<Self> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: without a place asked for, no other mapping is touched.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), len, access, flags)? };
        Ok(Self { start: NonNull::new(start.cast()).expect("no mapping is at 0"), len })
    }

    /// Its first byte.
    #[inline]
    pub(super) const fn start(&self) -> NonNull<u8> {
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

#[cfg(all(test, debug_assertions))]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;

    use rustix::io::Errno;

    use super::*;

    /// What read(2) and write(2) say to the kernel's access is what they would say to a late send or receive.
    #[test]
    fn a_returned_buffer_is_out_of_reach_and_comes_back_without_its_content() {
        const SECRET: &[u8] = b"what somebody has said";
        let group = Group::new(0, 16, 2048, 16, true).expect("memory for 16 buffers");
        group.provide(|_, _, _| ());
        // SAFETY: the kernel has none of them.
        let lend = |index| unsafe { group.lease(index) };
        let (reader, mut writer) = io::pipe().expect("a pipe");

        let mut lease = lend(0);
        lease.bytes_mut()[100..][..SECRET.len()].copy_from_slice(SECRET);
        let place: *mut u8 = lease.bytes_mut()[100..].as_mut_ptr();
        writer.write_all(lease.bytes()).expect("a live buffer can be read");
        drop(lease);
        assert_eq!(group.available(), 15, "it is not the kernel's yet");
        // SAFETY: the kernel looks at the memory itself, and refuses what is out of reach.
        let written = unsafe { libc::write(writer.as_raw_fd(), place.cast(), SECRET.len()) };
        assert_eq!((written, Errno::from_io_error(&io::Error::last_os_error())), (-1, Some(Errno::FAULT)));
        // SAFETY: as above.
        let read = unsafe { libc::read(reader.as_raw_fd(), place.cast(), SECRET.len()) };
        assert_eq!((read, Errno::from_io_error(&io::Error::last_os_error())), (-1, Some(Errno::FAULT)));

        // Those that are returned later push it out of the quarantine.
        drop((lend(1), lend(2)));
        assert_eq!(group.available(), 14);
        group.provide(|_, _, _| ());
        let lease = lend(0);
        assert!(lease.bytes()[100..][..SECRET.len()].iter().all(|&byte| byte == 0xDB));
        drop(lease);
    }
}
