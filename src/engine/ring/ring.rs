//! A ring behind a safe surface: operations go in, events come out, and memory that the kernel may use is owned here.
//!
//! What the kernel may read or write stays where it is until the kernel has said that it is done: bytes to send are
//! moved into a table, and receives take buffers of a registered group. The other operations name no memory.
//!
//! A reply is first sent with MSG_DONTWAIT and without a completion on success (IOSQE_CQE_SKIP_SUCCESS). Such a send
//! is over when the enter that submits it returns: either a completion says how far it came, or there is none and all
//! of it has gone out. It costs no completion, and never makes the wait for the next receive return early. Whoever
//! does not take its bytes at once is sent the rest with a send that waits, and has a completion.
#![expect(unsafe_code, reason = "submissions name memory")]

mod accept;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use rustix::fd::BorrowedFd;
use rustix::net::SendFlags;
use socket2::SockAddr;

use super::super::buffers::{Class, Group};
use super::super::outgoing::{Manner, Outgoing, Pieces};
use super::super::slots::{Id, Slots};
use super::Sizes;
use super::event::{RingEvent, Wait};
use super::gather::Gather;
use super::peer::PeerAddress;
use super::queues::{Completion, LINKED_MAX, Operation, Queues, Uring, Verb};
use super::token::{Op, Token};
use crate::engine::EngineCounters;

/// How many small buffers the kernel takes turns with at first.
const SMALL_WINDOW: u32 = 64;

/// How many big buffers the kernel takes turns with at least.
const BIG_WINDOW_MIN: u32 = 4;

/// How long [`Ring::cancel_all`] waits for what is under way.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);

/// A connected socket in the ring's own table of files. Packed, it leaves a place of the worker's table smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(Rust, packed(2))]
pub(super) struct Descriptor(u32);

/// Bytes that the kernel reads.
#[derive(Debug)]
struct UnderWay {
    owner: Id,
    pieces: Pieces,
}

/// Whom a connection is made to. The kernel may read the address until it is made.
#[derive(Debug)]
struct Connecting {
    owner: Id,
    #[expect(dead_code, reason = "it is the kernel's to read")]
    address: Arc<SockAddr>,
}

/// A ring of this thread.
pub(super) struct Ring<Q: Queues = Uring> {
    queues: Q,
    small: Group,
    big: Group,
    /// What is being sent. An entry is moved, but not the bytes: they lie in buffers and on the heap.
    sends: Slots<UnderWay>,
    /// The same for sends that wait for their peers, by their connections.
    waiting: HashMap<Id, Pieces>,
    connects: Slots<Connecting>,
    /// Where the kernel writes the address of the peer that a listener accepts, by the listener's number.
    peers: Vec<PeerAddress>,
    /// Sends that are over when the kernel has taken all submissions, unless a completion has said so before.
    at_once: Vec<Id>,
    /// How many of them the kernel has taken, and how many of those were said to be over.
    taken: usize,
    concluded: usize,
    /// The kernel has not taken all of them: it took only some of the submissions.
    has_delayed_sends: bool,
    /// How many small and big buffers they hold.
    held: [u32; 2],
    /// Scatter lists of sends not submitted yet.
    gathers: Vec<Gather>,
    spare_gathers: Vec<Gather>,
    /// Operations that the full queue had no room for.
    backlog: VecDeque<Operation>,
    stats: Arc<EngineCounters>,
}

impl<Q: Queues> Ring<Q> {
    /// A ring over these queues.
    ///
    /// # Errors
    ///
    /// What the kernel says to the first thing that it refuses.
    pub(super) fn over(mut queues: Q, sizes: &Sizes, stats: Arc<EngineCounters>) -> io::Result<Self> {
        queues.register(sizes.files, [sizes.small_count, sizes.big_count])?;
        let small = Group::new(sizes.plan(Class::Small, SMALL_WINDOW, Q::FAULTS))?;
        let big = Group::new(sizes.plan(Class::Big, BIG_WINDOW_MIN, Q::FAULTS))?;
        Ok(Self {
            queues,
            small,
            big,
            sends: Slots::new(),
            waiting: HashMap::new(),
            connects: Slots::new(),
            peers: Vec::new(),
            at_once: Vec::new(),
            taken: 0,
            concluded: 0,
            has_delayed_sends: false,
            held: [0; 2],
            gathers: Vec::new(),
            spare_gathers: Vec::new(),
            backlog: VecDeque::new(),
            stats,
        })
    }

    /// Puts a socket into the place of the table of files that `id` names, where it lives on without its descriptor. A ring
    /// that accepts connections leaves the places to the kernel and must not do so.
    ///
    /// # Errors
    ///
    /// Those of io_uring_register(2).
    pub(super) fn install(&mut self, id: Id, socket: BorrowedFd<'_>) -> io::Result<Descriptor> {
        self.queues.install(id.slot, socket)?;
        Ok(Descriptor(id.slot))
    }

    /// connect(2).
    pub(super) fn connect(&mut self, id: Id, descriptor: Descriptor, address: Arc<SockAddr>) {
        let verb = Verb::Connect { file: descriptor.0, address: address.as_ptr().cast(), len: address.len() };
        let connect = self.connects.insert(|_| Connecting { owner: id, address });
        // SAFETY: the address lies on the heap, where `connects` keeps it until the operation is over.
        unsafe { self.push(Token { op: Op::Connect, id: connect }, verb) };
    }

    /// Ends what [`Self::connect`] began on this socket; its event says so.
    pub(super) fn cancel_connect(&mut self, descriptor: Descriptor) {
        let token = Token { op: Op::Cancel, id: Id { slot: 0, generation: 0 } };
        // SAFETY: the operation names no memory.
        unsafe { self.push(token, Verb::CancelFile { file: descriptor.0 }) };
    }

    /// Receives into a buffer of this class; again and again, unless `is_single`.
    pub(super) fn receive(&mut self, id: Id, descriptor: Descriptor, class: Class, is_single: bool) {
        let group = class as u16;
        let verb = Verb::Receive { file: descriptor.0, group, is_multi: !is_single };
        // SAFETY: the kernel takes memory from the group, which outlives the ring's descriptor.
        unsafe { self.push(Token { op: Op::receive(class), id }, verb) };
    }

    /// Ends what [`Self::receive`] began; its last event says so.
    pub(super) fn cancel_receive(&mut self, id: Id, class: Class) {
        self.cancel(Token { op: Op::receive(class), id });
    }

    /// How many buffers of this class the kernel can receive into in the next enter.
    pub(super) fn available(&self, class: Class) -> u32 {
        self.small.widen();
        self.group(class).available()
    }

    /// How many connections receive into big buffers: they take turns with so many.
    pub(super) fn set_bulk(&self, connections: u32) {
        self.big.set_window(connections.max(BIG_WINDOW_MIN));
    }

    /// Sends `pieces`.
    ///
    /// Only one send may be under way on a socket: the bytes of two would mingle.
    pub(super) fn send(&mut self, id: Id, descriptor: Descriptor, pieces: Pieces, manner: Manner) {
        debug_assert!(
            self.sends.values().all(|send| send.owner != id) && !self.waiting.contains_key(&id),
            "the bytes of two sends would mingle"
        );
        debug_assert!(pieces.more.len() < Pieces::MAX, "a scatter list has no room for more");
        let mut flags = SendFlags::NOSIGNAL | WAITALL;
        if manner != Manner::Waiting {
            flags |= SendFlags::DONTWAIT;
        }
        let (file, is_silent) = (descriptor.0, manner == Manner::AtOnce { tells: false });
        let verb = if pieces.more.is_empty() {
            let bytes = pieces.first.bytes();
            let len = u32::try_from(bytes.len()).expect("a piece is shorter than 4 GiB");
            Verb::Send { file, bytes: bytes.as_ptr(), len, flags, is_silent }
        } else {
            let mut gather = self.spare_gathers.pop().unwrap_or_default();
            gather.fill(pieces.iter().map(Outgoing::bytes));
            let message = gather.message();
            self.gathers.push(gather);
            Verb::SendMessage { file, message, flags, is_silent }
        };
        if manner == Manner::Waiting {
            self.waiting.insert(id, pieces);
            // SAFETY: as below; `waiting` owns the bytes until the completion.
            return unsafe { self.push(Token { op: Op::SendWaiting, id }, verb) };
        }
        let buffers = pieces.buffers();
        let send = self.sends.insert(|_| UnderWay { owner: id, pieces });
        if is_silent {
            self.at_once.push(send);
            for (held, count) in self.held.iter_mut().zip(buffers) {
                *held += count;
            }
        }
        // SAFETY: the bytes are owned by `sends` from here on and lie still there, until a completion, or for want of
        // one the enter that submits it, has said that the kernel is done with them. The scatter list is read when
        // the entry is submitted (IORING_FEAT_SUBMIT_STABLE) and kept until then.
        unsafe { self.push(Token { op: Op::Send, id: send }, verb) };
    }

    /// Ends a send that waits for the peer; its event says how much of it went out.
    pub(super) fn cancel_send(&mut self, id: Id) {
        self.cancel(Token { op: Op::SendWaiting, id });
    }

    /// shutdown(2). The kernel hands it to a thread that looks the socket up only then: before the event has come, the
    /// place must not be freed, or whoever has it next would be shut.
    pub(super) fn shut_down(&mut self, id: Id, descriptor: Descriptor, how: std::net::Shutdown) {
        // SAFETY: the operation names no memory.
        unsafe { self.push(Token { op: Op::Shutdown, id }, Verb::Shutdown { file: descriptor.0, how }) };
    }

    /// Has [`RingEvent::Unconfirmed`] come, with what SIOCOUTQ says of the socket.
    pub(super) fn ask_unconfirmed(&mut self, id: Id, descriptor: Descriptor) {
        // SAFETY: the operation names no memory.
        unsafe { self.push(Token { op: Op::Unconfirmed, id }, Verb::AskUnconfirmed { file: descriptor.0 }) };
    }

    /// Closes the socket and frees its place. Nothing may be under way on it.
    pub(super) fn close(&mut self, id: Id, descriptor: Descriptor) {
        // SAFETY: the operation names no memory.
        unsafe { self.push(Token { op: Op::Close, id }, Verb::Close { file: descriptor.0 }) };
    }

    /// Has [`RingEvent::Woken`] come whenever `eventfd` is written to.
    pub(super) fn watch(&mut self, eventfd: BorrowedFd<'_>) {
        let token = Token { op: Op::Wake, id: Id { slot: 0, generation: 0 } };
        // SAFETY: the operation names no memory.
        unsafe { self.push(token, Verb::Watch { eventfd: eventfd.as_raw_fd() }) };
    }

    /// Has [`RingEvent::Elapsed`] come after so long. Of several alarms the last one counts; those before it come at whatever time.
    pub(super) fn set_alarm(&mut self, number: u32, after: Duration) {
        let token = Token { op: Op::Alarm, id: Id { slot: number, generation: 0 } };
        // SAFETY: the operation names no memory.
        unsafe { self.push(token, Verb::Alarm { after }) };
    }

    /// Submits what there is and waits for an event: one io_uring_enter(2). A signal ends the wait.
    ///
    /// # Errors
    ///
    /// When the ring is of no more use.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        self.submit_backlog()?;
        self.small.widen();
        // The kernel may take now what it had no memory for before. The queue has room for the backlog then, and no event
        // says so.
        let must_not_wait = !self.backlog.is_empty() && wait != Wait::SubmitOnly;
        self.enter_once(if must_not_wait { Wait::No } else { wait })?;
        if !self.has_submissions() {
            self.taken = self.at_once.len();
        }
        self.release_gathers();
        Ok(())
    }

    /// Ends whatever is under way, and waits for that: none of it uses any memory then.
    ///
    /// # Errors
    ///
    /// When it does not end in time, or the kernel refuses to do so (before 6.0).
    pub(super) fn cancel_all(&self) -> io::Result<()> {
        self.queues.cancel_all(CANCEL_TIMEOUT)
    }

    /// Whether completions wait, here or in the kernel. It asks no one: the kernel keeps flags in shared memory.
    pub(super) fn has_completions(&mut self) -> bool {
        self.queues.is_task_work_due() || self.queues.has_completions()
    }

    /// Whether silent sends hold more buffers of a class than the kernel has left: it may run out of them before they are
    /// over.
    pub(super) fn is_short_of_buffers(&self) -> bool {
        let [small, big] = self.held;
        small > self.small.available() || big > self.big.available()
    }

    /// Whether there are silent sends that were not said to be over.
    pub(super) const fn has_silent_sends(&self) -> bool {
        !self.at_once.is_empty()
    }

    /// Whether the kernel had not taken all silent sends when it was last entered. There may be more to send behind them by
    /// now, and nobody says when they are over.
    pub(super) const fn has_delayed_sends(&self) -> bool {
        self.has_delayed_sends
    }

    /// Whether there is anything to submit.
    pub(super) fn has_submissions(&mut self) -> bool {
        self.queues.has_submissions() || !self.backlog.is_empty()
    }

    /// Whether completions wait in the kernel: a call of [`Self::enter`] makes them.
    pub(super) fn is_task_work_due(&mut self) -> bool {
        self.queues.is_task_work_due()
    }

    /// Whether a connection waits to be accepted.
    pub(super) fn is_queued(&self, listener: BorrowedFd<'_>) -> bool {
        self.queues.is_queued(listener)
    }

    /// Takes from an eventfd that does not block whatever was written to it.
    pub(super) fn empty(&self, eventfd: BorrowedFd<'_>) {
        self.queues.empty(eventfd);
    }

    /// The time by a clock that never goes back.
    pub(super) fn time(&self) -> Duration {
        self.queues.time()
    }

    /// The next event; `None` when there are no more before the next [`Self::enter`].
    ///
    /// # Errors
    ///
    /// When the ring is of no more use.
    pub(super) fn next_event(&mut self) -> io::Result<Option<RingEvent>> {
        loop {
            if let Some(completion) = self.queues.next() {
                if let Some(event) = self.event(&completion) {
                    return Ok(Some(event));
                }
                continue;
            }
            if !self.queues.has_overflowed() {
                return Ok(self.next_concluded());
            }
            // More completions wait in the kernel than the queue holds: it hands them over now that there is room.
            self.stats.cq_overflows.add(1);
            self.enter_once(Wait::No)?;
        }
    }

    /// A silent send that no completion has spoken of, once all of them are known.
    fn next_concluded(&mut self) -> Option<RingEvent> {
        while self.concluded < self.taken {
            let id = self.at_once[self.concluded];
            self.concluded += 1;
            if let Some(UnderWay { owner, pieces }) = self.sends.remove(id) {
                return Some(RingEvent::Sent { id: owner, result: Ok(pieces.len()), pieces });
            }
        }
        if self.taken > 0 {
            self.at_once.drain(..self.taken);
            (self.taken, self.concluded) = (0, 0);
            if self.at_once.is_empty() {
                self.held = [0; 2];
            }
        }
        self.has_delayed_sends = !self.at_once.is_empty();
        None
    }

    /// What a completion says; nothing where nobody waits for it.
    fn event(&mut self, completion: &Completion) -> Option<RingEvent> {
        let Some(Token { op, id }) = completion.token else {
            self.stats.stale_completions.add(1);
            return None;
        };
        let is_last = completion.is_last;
        let result = outcome(completion.result);
        match op {
            Op::ReceiveSmall => Some(self.received(id, Class::Small, completion, result)),
            Op::ReceiveBig => Some(self.received(id, Class::Big, completion, result)),
            Op::Send => {
                let Some(UnderWay { owner, pieces }) = self.sends.remove(id) else {
                    self.stats.stale_completions.add(1);
                    return None;
                };
                let result = result.map(|sent| sent as usize);
                Some(RingEvent::Sent { id: owner, result, pieces })
            }
            Op::SendWaiting => {
                let pieces = self.waiting.remove(&id)?;
                Some(RingEvent::Sent { id, result: result.map(|sent| sent as usize), pieces })
            }
            Op::Connect => {
                let Connecting { owner, .. } = self.connects.remove(id)?;
                Some(RingEvent::Connected { id: owner, result: result.map(drop) })
            }
            Op::Accept => {
                let peer = self.peers.get(id.slot as usize).filter(|_| result.is_ok());
                // SAFETY: the accept that it was for is over, and there is one at a time.
                let peer = peer.and_then(|peer| unsafe { peer.get() });
                Some(RingEvent::Accepted { listener: id.slot, result: result.map(Descriptor), is_last, peer })
            }
            Op::Close => {
                debug_assert!(result.is_ok(), "the place was taken");
                Some(RingEvent::Closed { id })
            }
            Op::Unconfirmed => Some(RingEvent::Unconfirmed { id, result }),
            Op::Alarm => Some(RingEvent::Elapsed { number: id.slot }),
            Op::Wake => Some(RingEvent::Woken { is_last }),
            Op::Shutdown => Some(RingEvent::ShutDown { id }),
            Op::Cancel => None,
        }
    }

    fn received(&self, id: Id, class: Class, completion: &Completion, result: io::Result<u32>) -> RingEvent {
        let group = self.group(class);
        if planted!(BufferLeaks) && class == Class::Big {
            std::mem::forget(group.lend());
        }
        // SAFETY: the completion is of a receive from this group and is looked at once.
        let buffer = completion.buffer.map(|index| unsafe { group.lend_filled(index.into()) });
        // At the end of the stream there may be a buffer with nothing in it.
        let result = result.map(|len| buffer.filter(|_| len > 0).map(|buffer| (buffer, len as usize)));
        RingEvent::Received { id, result, is_last: completion.is_last }
    }

    fn cancel(&mut self, token: Token) {
        // SAFETY: the operation names no memory.
        unsafe { self.push(Token { op: Op::Cancel, id: token.id }, Verb::Cancel { token }) };
    }

    const fn group(&self, class: Class) -> &Group {
        match class {
            Class::Small => &self.small,
            Class::Big => &self.big,
        }
    }

    /// Queues an operation. Where the queue is full, what is in it is submitted.
    ///
    /// # Safety
    ///
    /// The memory that `verb` names is good until its last completion.
    #[inline]
    unsafe fn push(&mut self, token: Token, verb: Verb) {
        let operation = Operation { token, verb };
        // SAFETY: as the caller says.
        if self.backlog.is_empty() && unsafe { put(&mut self.queues, &operation) } {
            return;
        }
        self.keep(operation);
    }

    #[cold]
    fn keep(&mut self, operation: Operation) {
        self.stats.sq_full.add(1);
        self.backlog.push_back(operation);
        // An error comes again at the next enter.
        let _ = self.submit_backlog();
    }

    /// Makes room in the submission queue, as often as there are more entries than it holds.
    fn submit_backlog(&mut self) -> io::Result<()> {
        while !self.backlog.is_empty() {
            self.enter_once(Wait::SubmitOnly)?;
            let before = self.backlog.len();
            while let Some(operation) = self.backlog.front() {
                // SAFETY: whoever put it into the backlog has answered for it.
                if !unsafe { put(&mut self.queues, operation) } {
                    break;
                }
                self.backlog.pop_front();
            }
            if self.backlog.len() == before {
                // The kernel takes nothing before its completions are seen, or has no memory.
                break;
            }
        }
        Ok(())
    }

    /// One io_uring_enter(2). The kernel gets the returned buffers first: it takes buffers only in there.
    fn enter_once(&mut self, wait: Wait) -> io::Result<()> {
        self.stats.enters.add(1);
        let gauges = &self.stats.ring_buffers;
        for group in [&self.small, &self.big] {
            let id = group.class() as u16;
            group.provide(|index, start, len| {
                let index = u16::try_from(index).expect("a group of a ring has an index of 16 bits");
                let len = u32::try_from(len).expect("buffers are smaller than 4 GiB");
                // SAFETY: the buffer is lent to nobody, and the group outlives the queues.
                unsafe { self.queues.provide(id, index, start, len) }
            });
            group.gauge(gauges);
        }
        self.queues.enter(wait)
    }

    fn release_gathers(&mut self) {
        if !self.gathers.is_empty() && !self.has_submissions() {
            self.spare_gathers.append(&mut self.gathers);
        }
    }
}

impl<Q: Queues> Drop for Ring<Q> {
    fn drop(&mut self) {
        if self.cancel_all().is_err() {
            tracing::warn!("a ring has ended with operations under way; their memory is not used again");
            std::mem::forget(std::mem::replace(&mut self.sends, Slots::new()));
            std::mem::forget(std::mem::take(&mut self.waiting));
            std::mem::forget(std::mem::replace(&mut self.connects, Slots::new()));
            std::mem::forget(std::mem::take(&mut self.gathers));
            std::mem::forget(std::mem::take(&mut self.peers));
            self.small.leak();
            self.big.leak();
        }
    }
}

/// Puts an operation into the queue, unless there is no room for it and for what is linked to it. The kernel has to take
/// both together: a poll without its accept would swallow a wake-up.
///
/// # Safety
///
/// As for [`Queues::push`].
#[inline]
unsafe fn put<Q: Queues>(queues: &mut Q, operation: &Operation) -> bool {
    let has_room =
        !matches!(operation.verb, Verb::AwaitQueued { .. }) || queues.room() >= LINKED_MAX as usize;
    // SAFETY: as the caller says.
    has_room && unsafe { queues.push(operation) }
}

/// MSG_WAITALL: of a stream socket's send, all of it.
const WAITALL: SendFlags = SendFlags::from_bits_retain(0x100);

/// The result of a completion: a negative one is an errno.
fn outcome(result: i32) -> io::Result<u32> {
    u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
