//! Whose the memory is that the kernel may touch, and what lies in it.
#![expect(unsafe_code, reason = "operations name memory")]

use std::collections::VecDeque;
use std::ptr::NonNull;
use std::slice;

use super::super::queues::Verb;

/// The bytes of a send.
#[derive(Clone, Debug)]
pub(super) struct Sending {
    ranges: Vec<(*const u8, usize)>,
    hash: u32,
    pub(super) len: usize,
}

impl Sending {
    /// What a send is to send.
    ///
    /// # Safety
    ///
    /// The memory that `verb` names is good.
    pub(super) unsafe fn of(verb: &Verb) -> Option<Self> {
        let ranges = match *verb {
            Verb::Send { bytes, len, .. } => vec![(bytes, len as usize)],
            Verb::SendMessage { message, .. } => {
                // SAFETY: as the caller says.
                let list = unsafe { slice::from_raw_parts((*message).msg_iov, (*message).msg_iovlen) };
                list.iter().map(|piece| (piece.iov_base.cast_const().cast(), piece.iov_len)).collect()
            }
            _ => return None,
        };
        let len = ranges.iter().map(|(_, len)| len).sum();
        let mut sending = Self { ranges, hash: 0, len };
        // SAFETY: as the caller says.
        sending.hash = unsafe { sending.hash_now() };
        Some(sending)
    }

    /// Whether the bytes are what they were.
    ///
    /// # Safety
    ///
    /// The memory is good.
    pub(super) unsafe fn is_unchanged(&self) -> bool {
        // SAFETY: as the caller says.
        self.hash == unsafe { self.hash_now() }
    }

    /// Whether both list the same memory.
    pub(super) fn is_of_same(&self, other: &Self) -> bool {
        self.ranges == other.ranges
    }

    /// `count` bytes from the `from`th on.
    ///
    /// # Safety
    ///
    /// The memory is good.
    pub(super) unsafe fn bytes(&self, from: usize, count: usize) -> Vec<u8> {
        // SAFETY: as the caller says.
        let all = self.ranges.iter().flat_map(|&(start, len)| unsafe { slice::from_raw_parts(start, len) });
        all.skip(from).take(count).copied().collect()
    }

    /// Whether any of the bytes lie in this memory.
    pub(super) fn touches(&self, start: usize, len: usize) -> bool {
        self.ranges.iter().any(|&(own, own_len)| own.addr() < start + len && start < own.addr() + own_len)
    }

    unsafe fn hash_now(&self) -> u32 {
        self.ranges.iter().fold(0, |hash, &(start, len)| {
            // SAFETY: as the caller says.
            crc32c::crc32c_append(hash, unsafe { slice::from_raw_parts(start, len) })
        })
    }
}

/// A group of buffers, as the kernel sees it.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// Those that it may fill, first given first.
    given: VecDeque<Given>,
    /// Which of all are the kernel's.
    is_given: Vec<bool>,
}

#[derive(Clone, Copy, Debug)]
struct Given {
    index: u16,
    start: NonNull<u8>,
    len: u32,
    hash: u32,
}

impl Buffers {
    pub(super) fn new(count: u16) -> Self {
        Self { given: VecDeque::new(), is_given: vec![false; usize::from(count)] }
    }

    /// How many the kernel has.
    pub(super) fn len(&self) -> usize {
        self.given.len()
    }

    /// Takes a buffer.
    ///
    /// # Errors
    ///
    /// What is wrong with that.
    ///
    /// # Safety
    ///
    /// The memory is good.
    pub(super) unsafe fn give(&mut self, index: u16, start: NonNull<u8>, len: u32) -> Result<(), String> {
        let is_given =
            self.is_given.get_mut(usize::from(index)).ok_or("a buffer that is not of the group")?;
        if std::mem::replace(is_given, true) {
            return Err(format!("buffer {index} is given twice"));
        }
        let mut given = Given { index, start, len, hash: 0 };
        // SAFETY: as the caller says.
        given.hash = crc32c::crc32c(unsafe { given.bytes() });
        self.given.push_back(given);
        Ok(())
    }

    /// Has `fill` fill the next buffer, which is no longer the kernel's; `None` if there is none.
    ///
    /// # Errors
    ///
    /// When somebody has written to it.
    ///
    /// # Safety
    ///
    /// The memory is good, and nobody uses it.
    pub(super) unsafe fn take<R>(
        &mut self,
        fill: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<Option<(u16, R)>, String> {
        let Some(given) = self.given.pop_front() else {
            return Ok(None);
        };
        self.is_given[usize::from(given.index)] = false;
        // SAFETY: as the caller says.
        if crc32c::crc32c(unsafe { given.bytes() }) != given.hash {
            return Err(format!("buffer {} was changed while it was the kernel's", given.index));
        }
        // SAFETY: as the caller says.
        let filled = fill(unsafe { NonNull::slice_from_raw_parts(given.start, given.len as usize).as_mut() });
        Ok(Some((given.index, filled)))
    }
}

impl Given {
    unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: as the caller says.
        unsafe { NonNull::slice_from_raw_parts(self.start, self.len as usize).as_ref() }
    }
}
