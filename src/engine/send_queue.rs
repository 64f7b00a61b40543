//! What a connection has to send: in order, one write at a time, and no more memory than the peer is worth.

use std::collections::VecDeque;
use std::num::NonZero;
use std::ops::Range;

use bytes::BytesMut;

use super::Common;
use super::buffers::{Buffer, SMALL};
use super::outgoing::Outgoing;
use crate::memory::Charged;

/// How many received buffers may wait to be sent, with those under way; further replies are copied to the heap.
pub(crate) const BUFFERS_SHARE: u16 = 4;

/// How many bytes of a gathered frame are sent at once: a send(2) takes less than 2 GiB, and io_uring counts in 32 bits.
const PIECE_MAX: usize = 1 << 30;

/// What a connection has to send.
#[derive(Debug)]
pub(crate) struct SendQueue {
    /// What is sent next, and what comes behind it. The queue owns heap only while a peer is slow.
    next: Option<Outgoing>,
    #[expect(clippy::box_collection, reason = "an idle connection holds 8 bytes for it instead of 32")]
    behind: Option<Box<VecDeque<Outgoing>>>,
    /// Bytes in the queue and under way.
    unsent: usize,
    /// How many buffers are in the queue and under way.
    buffers: u16,
    /// How many pieces are under way: in one write, for the bytes of two would mingle.
    under_way: u8,
    /// How much of what it was sent the peer had not confirmed when that was last asked, and one more.
    untaken: Option<NonZero<u32>>,
    /// What is unsent waits for the peer: else it goes out with the next write.
    is_slow: bool,
}

impl SendQueue {
    pub(crate) const fn new() -> Self {
        Self { next: None, behind: None, unsent: 0, buffers: 0, under_way: 0, untaken: None, is_slow: true }
    }

    /// Whether the peer takes its bytes more slowly than they come. What an engine does not say holds for any peer that
    /// is owed something.
    #[inline]
    pub(crate) const fn set_slow(&mut self, is_slow: bool) {
        self.is_slow = is_slow;
    }

    /// What the peer has not confirmed now. Gives whether that differs from what it was when it was last asked; `None` is
    /// no answer, and as if it was never asked.
    pub(crate) fn on_untaken(&mut self, untaken: Option<u32>) -> bool {
        let untaken = untaken.map(|bytes| NonZero::<u32>::MIN.saturating_add(bytes));
        let before = std::mem::replace(&mut self.untaken, untaken);
        before.is_some_and(|before| untaken.is_some_and(|untaken| untaken != before))
    }

    /// How many bytes of what was sent the peer had not confirmed when that was last asked, if the kernel could tell.
    pub(crate) fn untaken(&self) -> Option<u32> {
        self.untaken.map(|untaken| untaken.get() - 1)
    }

    /// How many bytes are in the queue and under way.
    pub(crate) const fn unsent(&self) -> usize {
        self.unsent
    }

    /// Whether there is anything to send next.
    pub(crate) const fn has_next(&self) -> bool {
        self.next.is_some()
    }

    /// What to send next. It is under way until [`Self::on_sent`] or [`Self::on_sent_in_part`].
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Outgoing> {
        let outgoing = self.next.take()?;
        if let Some(behind) = &mut self.behind {
            self.next = behind.pop_front();
            if behind.is_empty() {
                self.behind = None;
            }
        }
        self.under_way += 1;
        Some(outgoing)
    }

    /// What was under way is sent, or never will be.
    #[inline]
    pub(crate) fn on_sent(&mut self, outgoing: &Outgoing) {
        self.under_way -= 1;
        self.buffers -= u16::from(outgoing.holds_buffer());
        self.unsent -= outgoing.len();
    }

    /// Of what was under way the first `sent` bytes went out: the rest is next. With `spill` it is copied to the heap,
    /// so that its buffer is free again.
    pub(crate) fn on_sent_in_part(&mut self, outgoing: Outgoing, sent: usize, spill: bool, common: &Common) {
        self.under_way -= 1;
        self.buffers -= u16::from(outgoing.holds_buffer());
        self.unsent -= sent;
        let Some(mut rest) = outgoing.without(sent) else {
            return;
        };
        if spill && rest.holds_buffer() {
            common.counters.bytes_spilled.add(rest.len() as u64);
            let Some(copy) = copy(rest.bytes(), common) else {
                return;
            };
            rest = copy;
        }
        self.buffers += u16::from(rest.holds_buffer());
        if let Some(second) = self.next.replace(rest) {
            self.behind.get_or_insert_default().push_front(second);
        }
    }

    /// Copies to the heap what lies in buffers beyond the connection's share, or in scarce ones.
    pub(crate) fn give_up_buffers(&mut self, common: &Common) {
        let mut kept = 0;
        for outgoing in
            self.next.iter_mut().chain(self.behind.iter_mut().flat_map(|behind| behind.iter_mut()))
        {
            if !outgoing.holds_buffer() {
                continue;
            }
            if kept < BUFFERS_SHARE && !outgoing.is_scarce() {
                kept += 1;
                continue;
            }
            common.counters.bytes_spilled.add(outgoing.len() as u64);
            if let Some(copy) = copy(outgoing.bytes(), common) {
                *outgoing = copy;
                self.buffers -= 1;
            }
        }
    }

    /// Queues a reply that lies in a receive buffer. Behind a peer that is slow to take them, replies much smaller
    /// than their buffer, those beyond the connection's share of buffers, and those in buffers that are scarce are
    /// copied to the heap.
    #[inline]
    pub(crate) fn push_received(&mut self, buffer: Buffer, range: Range<usize>, common: &Common) {
        if self.must_wait() && !range.is_empty() {
            let is_worth_a_buffer = range.len() >= buffer.bytes().len() / 4;
            if !is_worth_a_buffer || self.buffers >= BUFFERS_SHARE || buffer.is_scarce() {
                common.counters.bytes_spilled.add(range.len() as u64);
                return self.push_bytes(&buffer.bytes()[range], common);
            }
        }
        self.push(Outgoing::received(buffer, range));
    }

    /// Queues a gathered frame. Behind a peer that is slow to take them, short ones are put together: each for itself
    /// takes more memory than it has bytes.
    pub(crate) fn push_gathered(&mut self, gathered: Box<Charged>, common: &Common) {
        if self.must_wait() && gathered.bytes.len() < SMALL {
            common.counters.bytes_spilled.add(gathered.bytes.len() as u64);
            self.push_bytes(&gathered.bytes, common);
        } else {
            self.push_in_pieces(gathered, PIECE_MAX, common);
        }
    }

    /// Queues bytes that are copied to the heap, behind others there if it has room.
    pub(crate) fn push_bytes(&mut self, more: &[u8], common: &Common) {
        let last = self.behind.as_mut().and_then(|behind| behind.back_mut()).or(self.next.as_mut());
        if last.is_some_and(|last| last.try_append(more)) {
            self.unsent += more.len();
        } else {
            self.push(copy(more, common));
        }
    }

    /// How much memory they take is charged to the last piece, which outlives the others.
    pub(crate) fn push_in_pieces(&mut self, mut gathered: Box<Charged>, piece_max: usize, common: &Common) {
        while gathered.bytes.len() > piece_max {
            let bytes = gathered.bytes.split_to(piece_max);
            let charge = common.budget.charge(0);
            self.push(Outgoing::heap(Box::new(Charged { bytes, charge })));
        }
        self.push(Outgoing::heap(gathered));
    }

    /// Whether a further reply would wait for the peer.
    #[inline]
    pub(crate) const fn must_wait(&self) -> bool {
        self.is_slow && self.unsent > 0
    }

    #[inline]
    fn push(&mut self, outgoing: Option<Outgoing>) {
        let Some(outgoing) = outgoing else {
            return;
        };
        self.unsent += outgoing.len();
        self.buffers += u16::from(outgoing.holds_buffer());
        if self.next.is_none() {
            self.next = Some(outgoing);
        } else {
            self.behind.get_or_insert_default().push_back(outgoing);
        }
    }

    /// How many pieces are queued.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        usize::from(self.next.is_some()) + self.behind.as_ref().map_or(0, |behind| behind.len())
    }
}

/// A copy on the heap, charged to the budget.
fn copy(bytes: &[u8], common: &Common) -> Option<Outgoing> {
    let bytes = BytesMut::from(bytes);
    let charge = common.budget.charge(bytes.capacity());
    Outgoing::heap(Box::new(Charged { bytes, charge }))
}
