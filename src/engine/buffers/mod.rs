//! What connections receive into: groups of equal buffers, for every engine.
//!
//! A buffer is lent to a connection, which sends its reply out of it. Dropped, it goes on a list, and the one that was used
//! last is lent next. A ring gives the buffers of that list to the kernel before each io_uring_enter(2): the kernel takes
//! buffers in that call alone, so it misses none. Then a completion names the buffer that is lent.
#![expect(unsafe_code, reason = "memory that is lent in pieces, and shared with the kernel")]

mod mapping;
mod quarantine;

use std::cell::{Cell, RefCell};
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

pub(super) use mapping::Mapping;
use quarantine::Quarantine;

use super::EngineCounters;
use super::counters::{Buffers, Gauge};
use crate::memory::HEADROOM;

/// The size in bytes of a small buffer, its headroom included: what a connection begins with.
pub(crate) const SMALL: usize = 4 << 10;

/// Which of the two sizes of buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// What a connection begins with.
    Small,
    /// For bulk.
    Big,
}

/// A group of equal buffers.
#[derive(Debug)]
pub(super) struct Group(Rc<Inner>);

/// What a group is to be.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Of which size its buffers are.
    pub(super) class: Class,
    /// How many there are.
    pub(super) count: u32,
    /// The size of a buffer in bytes, its headroom included.
    pub(super) size: usize,
    /// How many the kernel of a ring takes turns with at first.
    pub(super) window: u32,
    /// With fewer that are not lent, no buffer should wait for a slow peer.
    pub(super) reserve: u32,
    /// How many that are not lent keep their memory. The memory of others goes back to the system.
    pub(super) kept: u32,
    /// Whether returned buffers go into quarantine first, in a debug build.
    pub(super) has_quarantine: bool,
    /// Where a pool counts its buffers.
    pub(super) pooled: Option<Arc<EngineCounters>>,
}

#[derive(Debug)]
struct Inner {
    plan: Plan,
    /// What lies between the beginnings of two buffers, in bytes.
    stride: usize,
    /// Where the first buffer begins, so that bulk is received into the beginning of a line of the cache: the kernel copies it
    /// faster.
    shift: usize,
    /// How many buffers the kernel may fill, or has filled and not told of yet.
    available: Cell<u32>,
    /// How many of them it has at most. It takes them in turn: the fewer, the warmer they are.
    window: Cell<u32>,
    /// The buffers that neither the kernel nor a connection has. The last one was used last and goes first.
    returned: RefCell<Vec<u32>>,
    /// Those whose memory went back to the system.
    cold: RefCell<Vec<u32>>,
    /// The first one that was never used; all behind it were not either.
    fresh: Cell<u32>,
    quarantine: Quarantine,
    memory: Mapping,
}

impl Group {
    /// The group that `plan` says.
    ///
    /// # Errors
    ///
    /// When there is no memory.
    pub(super) fn new(plan: Plan) -> io::Result<Self> {
        assert!(plan.size > HEADROOM);
        let stride = Quarantine::stride(plan.size);
        let shift = if plan.class == Class::Big { Quarantine::SHIFT } else { 0 };
        Ok(Self(Rc::new(Inner {
            stride,
            shift,
            available: Cell::new(0),
            window: Cell::new(plan.window.min(plan.count)),
            returned: RefCell::default(),
            cold: RefCell::default(),
            fresh: Cell::new(0),
            quarantine: Quarantine::new(if plan.has_quarantine { plan.count } else { 0 }),
            memory: Mapping::new(plan.count as usize * stride + shift)?,
            plan,
        })))
    }

    /// Of which size its buffers are.
    pub(super) fn class(&self) -> Class {
        self.0.plan.class
    }

    /// How many buffers there are.
    pub(super) fn count(&self) -> usize {
        self.0.plan.count as usize
    }

    /// How many buffers the kernel has.
    #[cfg(test)]
    pub(super) fn given(&self) -> usize {
        self.0.available.get() as usize
    }

    /// How many of them are lent.
    #[cfg(test)]
    pub(super) fn lent(&self) -> usize {
        (self.0.plan.count - self.0.free()) as usize
    }

    /// How many buffers the kernel can fill once it has what [`Self::provide`] gives.
    #[inline]
    pub(super) fn available(&self) -> u32 {
        self.0.available.get() + self.0.due()
    }

    /// How many bytes a receive into one of its buffers brings at most.
    pub(super) fn room(&self) -> usize {
        self.0.plan.size - HEADROOM
    }

    /// Says how many buffers are lent and how many are not.
    pub(super) fn gauge(&self, gauges: &Buffers<Gauge>) {
        let class = self.class() as usize;
        let free = self.0.free();
        gauges.free[class].set(free as usize);
        gauges.used[class].set((self.0.plan.count - free) as usize);
    }

    /// Has the kernel take turns with `window` buffers, as long as these are enough.
    pub(super) fn set_window(&self, window: u32) {
        self.0.window.set(window.min(self.0.plan.count));
    }

    /// Has the kernel take turns with twice as many buffers once more than half of them are in use. A buffer that was
    /// never used takes no memory.
    pub(super) fn widen(&self) {
        let window = self.0.window.get();
        if window < self.0.plan.count && self.available() < window / 2 {
            self.set_window(window.saturating_mul(2));
        }
    }

    /// Has `give` give the kernel the buffers that it may have and has not: by index, start and length.
    #[inline]
    pub(super) fn provide(&self, mut give: impl FnMut(u32, NonNull<u8>, usize)) {
        for _ in 0..self.0.due() {
            let Some(index) = self.0.take() else {
                return;
            };
            // SAFETY: a buffer is longer than its headroom.
            let start = unsafe { self.0.buffer(index).add(HEADROOM) };
            give(index, start, self.room());
            self.0.available.set(self.0.available.get() + 1);
        }
    }

    /// Keeps the memory for good: the kernel may still write to it.
    pub(super) fn leak(&self) {
        std::mem::forget(Rc::clone(&self.0));
    }

    /// Lends a buffer, if there is one that neither the kernel nor a connection has.
    #[inline]
    pub(super) fn lend(&self) -> Option<Buffer> {
        let index = self.0.take()?;
        self.0.count_pooled(true);
        Some(Buffer { group: Rc::clone(&self.0), index })
    }

    /// Lends the buffer that a completion names.
    ///
    /// # Safety
    ///
    /// The kernel has just handed out buffer `index` of this group: each of its completions is asked about once.
    #[inline]
    pub(super) unsafe fn lend_filled(&self, index: u32) -> Buffer {
        assert!(index < self.0.plan.count, "the kernel names a buffer that it was never given");
        self.0.available.set(self.0.available.get() - 1);
        Buffer { group: Rc::clone(&self.0), index }
    }
}

impl Inner {
    /// How many buffers are not lent.
    #[inline]
    fn free(&self) -> u32 {
        self.available.get() + self.idle() + self.quarantine.len()
    }

    /// How many neither the kernel nor a connection nor the quarantine has.
    #[inline]
    fn idle(&self) -> u32 {
        let listed = self.returned.borrow().len() + self.cold.borrow().len();
        u32::try_from(listed).unwrap_or(u32::MAX) + (self.plan.count - self.fresh.get())
    }

    /// How many buffers the kernel may have and has not.
    #[inline]
    fn due(&self) -> u32 {
        let missing = self.window.get().saturating_sub(self.available.get());
        if missing == 0 { 0 } else { missing.min(self.idle()) }
    }

    /// A buffer that nobody has.
    #[inline]
    fn take(&self) -> Option<u32> {
        let listed = self.returned.borrow_mut().pop();
        listed.or_else(|| self.cold.borrow_mut().pop()).or_else(|| {
            let index = self.fresh.get();
            (index < self.plan.count).then(|| self.fresh.replace(index + 1))
        })
    }

    /// Counts a buffer of a pool that is lent, or is so no more.
    #[inline]
    fn count_pooled(&self, is_lent: bool) {
        if let Some(counters) = &self.plan.pooled {
            let Buffers { free, used } = &counters.pooled_buffers;
            let (more, less) = if is_lent { (used, free) } else { (free, used) };
            let class = self.plan.class as usize;
            more[class].set(more[class].value() + 1);
            less[class].set(less[class].value() - 1);
        }
    }

    /// Takes a buffer back.
    #[inline]
    fn take_back(&self, index: u32) {
        let released = self.quarantine.enter(index, self.buffer(index), self.stride).unwrap_or(Some(index));
        let Some(index) = released else {
            return;
        };
        let mut returned = self.returned.borrow_mut();
        if returned.len() < self.plan.kept as usize {
            returned.push(index);
        } else {
            // SAFETY: the buffer is lent to nobody, and the kernel does not have it.
            unsafe { self.memory.forget(self.shift + index as usize * self.stride, self.stride) };
            self.cold.borrow_mut().push(index);
        }
    }

    #[inline]
    fn buffer(&self, index: u32) -> NonNull<u8> {
        debug_assert!(index < self.plan.count);
        // SAFETY: `index < count`, and the mapping holds `shift + count * stride` bytes.
        unsafe { self.memory.start().add(self.shift + index as usize * self.stride) }
    }
}

/// A buffer that is ours until it is dropped: then another receive may fill it.
///
/// A connection holds up to five of them for a slow peer, and its protocol's state lies beside one: it has 16 bytes.
#[derive(Debug)]
pub struct Buffer {
    group: Rc<Inner>,
    index: u32,
}

impl Buffer {
    /// The whole buffer: what was received begins at [`HEADROOM`].
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        let bytes = NonNull::slice_from_raw_parts(self.group.buffer(self.index), self.group.plan.size);
        // SAFETY: the buffer lies in the mapping, which lives as long as the group and was zeroed when it was mapped.
        // From being lent to `drop` nobody else writes there, the kernel included, and it is lent once at a time.
        unsafe { bytes.as_ref() }
    }

    /// As [`Self::bytes`], to be changed.
    #[must_use]
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let mut bytes = NonNull::slice_from_raw_parts(self.group.buffer(self.index), self.group.plan.size);
        // SAFETY: as in `bytes`; and the buffer is borrowed exclusively.
        unsafe { bytes.as_mut() }
    }

    /// How many bytes a receive into it brings at most.
    #[inline]
    pub(super) fn room(&self) -> usize {
        self.group.plan.size - HEADROOM
    }

    /// Of which size it is.
    #[must_use]
    pub fn class(&self) -> Class {
        self.group.plan.class
    }

    /// Whether so few buffers like it are left that none of them should wait for a slow peer.
    #[must_use]
    #[inline]
    pub fn is_scarce(&self) -> bool {
        self.group.free() < self.group.plan.reserve
    }
}

impl Drop for Buffer {
    #[inline]
    fn drop(&mut self) {
        self.group.count_pooled(false);
        self.group.take_back(self.index);
    }
}

const _: () = assert!(size_of::<Buffer>() == 16);

/// Small buffers for tests of those who hold some.
#[cfg(test)]
pub(crate) struct Lender(Group);

#[cfg(test)]
impl Lender {
    /// Buffers that are scarce once fewer than `reserve` are left.
    pub(crate) fn new(reserve: u32) -> Self {
        Self::of(Class::Small, SMALL, reserve)
    }

    /// The same of this class and size.
    pub(crate) fn of(class: Class, size: usize, reserve: u32) -> Self {
        let (count, has_quarantine) = (64, true);
        let plan = Plan { class, count, size, window: 0, reserve, kept: count, has_quarantine, pooled: None };
        Self(Group::new(plan).expect("memory for 64 buffers"))
    }

    pub(crate) fn lend(&self) -> Buffer {
        self.0.lend().expect("there are enough")
    }

    /// How many are lent.
    pub(crate) fn lent(&self) -> usize {
        self.0.lent()
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;

    use rustix::io::Errno;

    use super::*;

    const PLAN: Plan = Plan {
        class: Class::Small,
        count: 16,
        size: 2048,
        window: 16,
        reserve: 0,
        kept: u32::MAX,
        has_quarantine: true,
        pooled: None,
    };

    /// What read(2) and write(2) say to the kernel's access is what they would say to a late send or receive.
    #[test]
    fn a_returned_buffer_is_out_of_reach_and_comes_back_without_its_content() {
        const SECRET: &[u8] = b"what somebody has said";
        let group = Group::new(PLAN).expect("memory for 16 buffers");
        group.provide(|_, _, _| ());
        // SAFETY: the kernel has none of them.
        let lend = |index| unsafe { group.lend_filled(index) };
        let (reader, mut writer) = io::pipe().expect("a pipe");

        let mut buffer = lend(0);
        buffer.bytes_mut()[100..][..SECRET.len()].copy_from_slice(SECRET);
        let place: *mut u8 = buffer.bytes_mut()[100..].as_mut_ptr();
        writer.write_all(buffer.bytes()).expect("a live buffer can be read");
        drop(buffer);
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
        let buffer = lend(0);
        assert!(buffer.bytes()[100..][..SECRET.len()].iter().all(|&byte| byte == 0xDB));
        drop(buffer);
    }
}
