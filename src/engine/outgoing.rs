//! Bytes to send, and the memory they lie in.

use std::iter;
use std::num::NonZero;
use std::ops::Range;

use bytes::BytesMut;

use super::buffers::Buffer;
use crate::memory::Charged;

/// How many bytes of replies are put together on the heap.
const SPILL_CHUNK: usize = 64 << 10;

/// Each connection holds one.
const _: () = assert!(size_of::<Option<Outgoing>>() == 24);

/// Bytes to send, at least one.
#[derive(Debug)]
pub(super) struct Outgoing {
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
    pub(super) fn received(buffer: Buffer, range: Range<usize>) -> Option<Self> {
        Self::new(Memory::Received(buffer), range)
    }

    /// Bytes of our own, all of them.
    ///
    /// # Panics
    ///
    /// When they are more than 4 GiB: a send(2) takes less than 2 GiB.
    pub(super) fn heap(gathered: Box<Charged>) -> Option<Self> {
        let range = 0..gathered.bytes.len();
        Self::new(Memory::Heap(gathered), range)
    }

    /// The bytes.
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        let all = match &self.memory {
            Memory::Received(buffer) => buffer.bytes(),
            Memory::Heap(gathered) => &gathered.bytes,
        };
        &all[self.range()]
    }

    pub(super) const fn len(&self) -> usize {
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
    pub(super) fn without(self, sent: usize) -> Option<Self> {
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

/// How a send goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As far as the socket takes the bytes at once. With `tells` there is more to do once that is known; otherwise nobody
    /// waits to hear that all of them were taken.
    AtOnce {
        /// There is more to do once it is known how the send ended.
        tells: bool,
    },
    /// All of them, whatever time that takes.
    Waiting,
}

/// What one send sends: in order, at least one piece and at most [`Pieces::MAX`].
#[derive(Debug)]
pub struct Pieces {
    pub(super) first: Outgoing,
    /// Mostly empty, and then without heap.
    pub(super) more: Vec<Outgoing>,
}

impl Pieces {
    /// How many pieces go out at once at most.
    pub(super) const MAX: usize = 16;

    pub(super) const fn one(first: Outgoing) -> Self {
        Self { first, more: Vec::new() }
    }

    /// The pieces, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Outgoing> {
        iter::once(&self.first).chain(&self.more)
    }

    /// How many small and big buffers they lie in.
    pub(super) fn buffers(&self) -> [u32; 2] {
        let mut buffers = [0; 2];
        for buffer in self.iter().filter_map(Outgoing::buffer) {
            buffers[buffer.class() as usize] += 1;
        }
        buffers
    }

    /// How many bytes they are.
    pub(super) fn len(&self) -> usize {
        self.iter().map(Outgoing::len).sum()
    }
}

/// How many bytes there are, if any.
fn length(range: Range<usize>) -> Option<NonZero<u32>> {
    NonZero::new(u32::try_from(range.len()).expect("buffers are shorter than 4 GiB"))
}
