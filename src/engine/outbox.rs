//! What a connection has to send: in order, one send at a time, and in no more memory than the peer is worth.

use std::collections::VecDeque;
use std::num::NonZero;
use std::ops::Range;

use bytes::BytesMut;

use super::Common;
use super::buffers::{Buffer, SMALL};
use super::outgoing::Outgoing;
use crate::memory::Charged;

/// How many buffers of a connection may wait to be sent, with those that are being sent. Further replies are copied to the
/// heap.
pub(super) const BUFFERS_SHARE: u16 = 4;

/// How many bytes on the heap are sent at once: a send(2) takes less than 2 GiB, and io_uring counts in 32 bits.
const PIECE_MAX: usize = 1 << 30;

/// What a connection has to send.
#[derive(Debug)]
pub(super) struct Outbox {
    /// What is sent next, and what comes behind it. The outbox owns heap only while a peer is slow.
    next: Option<Outgoing>,
    #[expect(clippy::box_collection, reason = "an idle connection holds 8 bytes for it instead of 32")]
    behind: Option<Box<VecDeque<Outgoing>>>,
    /// Bytes that are queued or being sent.
    unsent: usize,
    /// How many bytes the peer had not confirmed when the kernel was last asked, and one more.
    unconfirmed: Option<NonZero<u32>>,
    /// How many buffers are queued or being sent.
    buffers: u16,
    /// What is unsent waits for the peer; otherwise the next send takes it.
    is_slow: bool,
}

impl Outbox {
    pub(super) const fn new(is_slow: bool) -> Self {
        Self { next: None, behind: None, unsent: 0, unconfirmed: None, buffers: 0, is_slow }
    }

    /// Whether the peer takes its bytes more slowly than they come.
    #[inline]
    pub(super) const fn set_slow(&mut self, is_slow: bool) {
        self.is_slow = is_slow;
    }

    /// What the peer has not confirmed now. Gives whether that differs from the answer before; `None` is no answer, and as
    /// if the kernel was never asked.
    pub(super) fn on_unconfirmed(&mut self, bytes: Option<u32>) -> bool {
        let bytes = bytes.map(|bytes| NonZero::<u32>::MIN.saturating_add(bytes));
        let before = std::mem::replace(&mut self.unconfirmed, bytes);
        before.is_some_and(|before| bytes.is_some_and(|bytes| bytes != before))
    }

    /// How many bytes the peer had not confirmed when the kernel was last asked, if it could tell.
    pub(super) fn unconfirmed(&self) -> Option<u32> {
        self.unconfirmed.map(|bytes| bytes.get() - 1)
    }

    /// How many bytes are queued or being sent.
    #[inline]
    pub(super) const fn unsent(&self) -> usize {
        self.unsent
    }

    /// Whether there is anything to send next.
    pub(super) const fn has_next(&self) -> bool {
        self.next.is_some()
    }

    /// The bytes that are queued, where they are one piece.
    #[inline]
    pub(super) fn only(&self) -> Option<&[u8]> {
        if self.behind.is_some() { None } else { self.next.as_ref().map(Outgoing::bytes) }
    }

    /// The one piece that was queued went out.
    #[inline]
    pub(super) fn drop_only(&mut self) {
        self.next = None;
        (self.unsent, self.buffers) = (0, 0);
    }

    /// What to send next. It is being sent until [`Self::on_sent`] or [`Self::on_sent_in_part`].
    #[inline]
    pub(super) fn pop(&mut self) -> Option<Outgoing> {
        let outgoing = self.next.take()?;
        if let Some(behind) = &mut self.behind {
            self.next = behind.pop_front();
            if behind.is_empty() {
                self.behind = None;
            }
        }
        Some(outgoing)
    }

    /// This was sent, or never will be.
    #[inline]
    pub(super) fn on_sent(&mut self, outgoing: &Outgoing) {
        self.buffers -= u16::from(outgoing.holds_buffer());
        self.unsent -= outgoing.len();
    }

    /// Of this only the first `sent` bytes went out: the rest is sent next. With `spill` it is copied to the heap, so that
    /// its buffer is free again.
    pub(super) fn on_sent_in_part(&mut self, outgoing: Outgoing, sent: usize, spill: bool, common: &Common) {
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
    pub(super) fn give_up_buffers(&mut self, common: &Common) {
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
    pub(super) fn push_received(&mut self, buffer: Buffer, range: Range<usize>, common: &Common) {
        if self.must_wait() && !range.is_empty() {
            let is_worth_a_buffer = range.len() >= buffer.bytes().len() / 4;
            if !is_worth_a_buffer || self.buffers >= BUFFERS_SHARE || buffer.is_scarce() {
                common.counters.bytes_spilled.add(range.len() as u64);
                return self.push_bytes(&buffer.bytes()[range], common);
            }
        }
        self.push(Outgoing::received(buffer, range));
    }

    /// Queues bytes on the heap, such as a gathered frame. Behind a peer that is slow to take them, short ones are put
    /// together: each for itself takes more memory than it has bytes.
    pub(super) fn push_charged(&mut self, charged: Box<Charged>, common: &Common) {
        if self.must_wait() && charged.bytes.len() < SMALL {
            common.counters.bytes_spilled.add(charged.bytes.len() as u64);
            self.push_bytes(&charged.bytes, common);
        } else {
            self.push_in_pieces(charged, PIECE_MAX, common);
        }
    }

    /// Queues bytes that are copied to the heap, behind others there if it has room.
    pub(super) fn push_bytes(&mut self, more: &[u8], common: &Common) {
        let last = self.behind.as_mut().and_then(|behind| behind.back_mut()).or(self.next.as_mut());
        if last.is_some_and(|last| last.try_append(more)) {
            self.unsent += more.len();
        } else {
            self.push(copy(more, common));
        }
    }

    /// How much memory they take is charged to the last piece, which outlives the others.
    fn push_in_pieces(&mut self, mut gathered: Box<Charged>, piece_max: usize, common: &Common) {
        while gathered.bytes.len() > piece_max {
            let bytes = gathered.bytes.split_to(piece_max);
            let charge = common.budget.charge(0);
            self.push(Outgoing::heap(Box::new(Charged { bytes, charge })));
        }
        self.push(Outgoing::heap(gathered));
    }

    /// Whether a further reply would wait for the peer.
    #[inline]
    pub(super) const fn must_wait(&self) -> bool {
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

    /// Drops everything that is queued.
    pub(super) fn clear(&mut self) {
        (self.next, self.behind) = (None, None);
        (self.unsent, self.buffers) = (0, 0);
    }

    /// How many pieces are queued.
    pub(super) fn len(&self) -> usize {
        usize::from(self.next.is_some()) + self.behind.as_ref().map_or(0, |behind| behind.len())
    }
}

/// A copy on the heap, charged to the budget.
fn copy(bytes: &[u8], common: &Common) -> Option<Outgoing> {
    let bytes = BytesMut::from(bytes);
    let charge = common.budget.charge(bytes.capacity());
    Outgoing::heap(Box::new(Charged { bytes, charge }))
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;

    use super::*;
    use crate::engine::Bounds;
    use crate::memory::{Budget, Total};

    #[test]
    fn bytes_that_are_too_many_for_one_send_go_out_in_pieces() {
        const ALL: usize = 1 << 20;
        let budget = Budget::new(Total::new(ALL));
        let common = Common::with_budget(Bounds::default(), Rc::clone(&budget), Arc::default());
        let mut outbox = Outbox::new(true);
        let bytes: BytesMut = (0..=255).collect();
        let charge = budget.charge(bytes.len());
        outbox.push_in_pieces(Box::new(Charged { bytes, charge }), 100, &common);
        assert_eq!((outbox.len(), outbox.unsent()), (3, 256));
        let mut sent = Vec::new();
        while let Some(outgoing) = outbox.pop() {
            assert!(outgoing.len() <= 100 && budget.is_exhausted_for(ALL));
            sent.extend_from_slice(outgoing.bytes());
            outbox.on_sent(&outgoing);
        }
        assert!(sent == (0..=255).collect::<Vec<u8>>() && !budget.is_exhausted_for(ALL));
    }
}
