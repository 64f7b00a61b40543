//! Bytes to send, and the memory they lie in.

use std::num::NonZero;
use std::ops::Range;

use bytes::BytesMut;

use super::buffers::Buffer;
use crate::memory::Charged;

/// How many bytes of replies are put together on the heap.
const SPILL_CHUNK: usize = 64 << 10;

/// Bytes to send, at least one. It takes 24 bytes, and so does an `Option` of it.
#[derive(Debug)]
pub struct Outgoing {
    pub(super) memory: Memory,
    /// `memory[start..start + len]` is to be sent: on the heap, all from `start` on.
    start: u32,
    len: NonZero<u32>,
}

/// Where bytes to send lie.
#[derive(Debug)]
pub(super) enum Memory {
    /// In the buffer that their request was received into.
    Received(Buffer),
    /// On the heap, charged to the budget.
    Heap(Box<Charged>),
}

impl Outgoing {
    /// A reply in the buffer of its request; an empty one is none, and its buffer is free again.
    ///
    /// # Panics
    ///
    /// When a buffer is longer than 4 GiB. The longest that can be asked for has 16 MiB.
    #[must_use]
    pub fn received(buffer: Buffer, range: Range<usize>) -> Option<Self> {
        Self::new(Memory::Received(buffer), range)
    }

    /// Bytes of our own, all of them.
    ///
    /// # Panics
    ///
    /// When they are more than 4 GiB: a send(2) takes less than 2 GiB.
    #[must_use]
    pub fn heap(gathered: Box<Charged>) -> Option<Self> {
        let range = 0..gathered.bytes.len();
        Self::new(Memory::Heap(gathered), range)
    }

    /// The bytes.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        let all = match &self.memory {
            Memory::Received(buffer) => buffer.bytes(),
            Memory::Heap(gathered) => &gathered.bytes,
        };
        &all[self.range()]
    }

    pub(crate) const fn len(&self) -> usize {
        self.len.get() as usize
    }

    /// Where in its memory it lies.
    pub(super) const fn range(&self) -> Range<usize> {
        let start = self.start as usize;
        start..start + self.len()
    }

    /// The receive buffer that it lies in.
    pub(super) const fn buffer(&self) -> Option<&Buffer> {
        match &self.memory {
            Memory::Received(buffer) => Some(buffer),
            Memory::Heap(_) => None,
        }
    }

    /// Its memory, where that is on the heap: for whoever makes bytes again and again.
    #[must_use]
    pub fn into_heap(self) -> Option<Box<Charged>> {
        match self.memory {
            Memory::Received(_) => None,
            Memory::Heap(gathered) => Some(gathered),
        }
    }

    /// Whether it holds a receive buffer that others will need.
    pub(super) fn is_scarce(&self) -> bool {
        match &self.memory {
            Memory::Received(buffer) => buffer.is_scarce(),
            Memory::Heap(_) => false,
        }
    }

    /// Whether it holds a receive buffer.
    pub(super) const fn holds_buffer(&self) -> bool {
        matches!(self.memory, Memory::Received(_))
    }

    /// What is left of it once its first `sent` bytes have gone out.
    #[must_use]
    pub fn without(self, sent: usize) -> Option<Self> {
        let Range { start, end } = self.range();
        debug_assert!(start + sent <= end, "no more is sent than was given");
        Self::new(self.memory, start + sent..end)
    }

    /// Puts `more` behind it, where it lies on the heap and has room.
    pub(super) fn try_append(&mut self, more: &[u8]) -> bool {
        let Memory::Heap(gathered) = &mut self.memory else {
            return false;
        };
        let Charged { bytes, charge } = &mut **gathered;
        let Some(end) = bytes.len().checked_add(more.len()).filter(|&end| end <= SPILL_CHUNK) else {
            return false;
        };
        let before = bytes.capacity();
        if end > before {
            // Four times as much: what is given up on the way to a whole chunk stays with the allocator for a while.
            let mut larger = BytesMut::with_capacity(end.max(before.saturating_mul(4)).min(SPILL_CHUNK));
            larger.extend_from_slice(bytes);
            *bytes = larger;
        }
        bytes.extend_from_slice(more);
        charge.grow(bytes.capacity().saturating_sub(before));
        self.len = length(self.start as usize..end).unwrap_or(self.len);
        true
    }

    fn new(memory: Memory, range: Range<usize>) -> Option<Self> {
        let start = u32::try_from(range.start).expect("buffers are shorter than 4 GiB");
        Some(Self { memory, start, len: length(range)? })
    }
}

/// How many bytes there are, if any.
fn length(range: Range<usize>) -> Option<NonZero<u32>> {
    NonZero::new(u32::try_from(range.len()).expect("buffers are shorter than 4 GiB"))
}
