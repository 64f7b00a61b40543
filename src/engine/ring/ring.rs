//! A ring behind a safe surface: operations go in, events come out, and memory that the kernel may use is owned here.
//!
//! What the kernel may read or write stays where it is until the kernel has said that it is done: bytes to send are
//! moved into a table, and receives take leased buffers of a registered group. The other operations name no memory.
//!
//! A reply is first sent with MSG_DONTWAIT and without a completion on success (IOSQE_CQE_SKIP_SUCCESS). Such a send
//! is over when the enter that submits it returns: either a completion says how far it came, or there is none and all
//! of it has gone out. It costs no completion, and never makes the wait for the next receive return early. Whoever
//! does not take its bytes at once is sent the rest with a send that waits, and has a completion.
#![expect(unsafe_code, reason = "submissions name memory")]

mod accept;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::iter;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use rustix::event::PollFlags;
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::net::SendFlags;
use socket2::SockAddr;

use super::buffers::Group;
use super::event::{Event, Manner, Pieces, Wait};
use super::gather::Gather;
use super::peer::PeerAddress;
use super::setup::set_up;
use super::slots::Slots;
use super::token::{Key, Op, Token};
use super::{Class, Outgoing, Sizes};
use crate::engine::EngineCounters;
use crate::engine::unconfirmed::SOCKET_SIOCOUTQ;

/// How many small buffers the kernel takes turns with at first.
const SMALL_WINDOW: u16 = 64;

/// How many big buffers the kernel takes turns with at least.
const BIG_WINDOW_MIN: u16 = 4;

/// How long [`Ring::cancel_all`] waits for what is under way.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);

/// A connected socket in the ring's own table of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor(u32);

/// Bytes that the kernel reads.
#[derive(Debug)]
struct UnderWay {
    owner: Key,
    pieces: Pieces,
}

/// Whom a connection is made to. The kernel may read the address until it is made.
#[derive(Debug)]
struct Connecting {
    owner: Key,
    #[expect(dead_code, reason = "it is the kernel's to read")]
    address: Arc<SockAddr>,
}

/// A ring of this thread.
pub(super) struct Ring {
    uring: IoUring,
    small: Group,
    big: Group,
    /// What is being sent. An entry is moved, but not the bytes: they lie in leases and on the heap.
    sends: Slots<UnderWay>,
    /// The same for sends that wait for their peers, by their connections.
    waiting: HashMap<Key, Pieces>,
    connects: Slots<Connecting>,
    /// Where the kernel writes the address of the peer that a listener accepts, by the listener's number.
    peers: Vec<PeerAddress>,
    /// Sends that are over when the kernel has taken all submissions, unless a completion has said so before.
    at_once: Vec<Key>,
    /// How many of them the kernel has taken, and how many of those were said to be over.
    taken: usize,
    concluded: usize,
    /// How many small and big buffers they hold.
    held: [u16; 2],
    /// Scatter lists of sends not submitted yet.
    gathers: Vec<Gather>,
    spare_gathers: Vec<Gather>,
    /// The time of the last alarm, which the kernel reads when it is submitted.
    alarm: Box<Timespec>,
    /// Submissions that the full queue had no room for.
    backlog: VecDeque<squeue::Entry>,
    stats: Arc<EngineCounters>,
}

impl Ring {
    /// Sets a ring up.
    ///
    /// # Errors
    ///
    /// What the kernel says to the first thing that it refuses.
    pub(super) fn new(sizes: &Sizes, stats: Arc<EngineCounters>) -> io::Result<Self> {
        let (uring, _) = set_up(sizes.submissions, sizes.completions, sizes.patience)?;
        Self::over(uring, sizes, stats)
    }

    /// As [`Self::new`], over what [`set_up`] has set up.
    ///
    /// # Errors
    ///
    /// As there.
    pub(super) fn over(uring: IoUring, sizes: &Sizes, stats: Arc<EngineCounters>) -> io::Result<Self> {
        let submitter = uring.submitter();
        submitter.register_files_sparse(sizes.files)?;
        let (small, big) = (Class::Small as u16, Class::Big as u16);
        // SAFETY: either the group becomes part of `Self`, whose fields are dropped in their order, `uring` before it, or
        // no receive is begun.
        let small =
            unsafe { Group::register(&submitter, small, sizes.small_count, sizes.small_size, SMALL_WINDOW)? };
        // SAFETY: as above.
        let big =
            unsafe { Group::register(&submitter, big, sizes.big_count, sizes.big_size, BIG_WINDOW_MIN)? };
        Ok(Self {
            uring,
            small,
            big,
            sends: Slots::new(),
            waiting: HashMap::new(),
            connects: Slots::new(),
            peers: Vec::new(),
            at_once: Vec::new(),
            taken: 0,
            concluded: 0,
            held: [0; 2],
            gathers: Vec::new(),
            spare_gathers: Vec::new(),
            alarm: Box::default(),
            backlog: VecDeque::new(),
            stats,
        })
    }

    /// Puts a socket into the place of the table of files that `key` names, where it lives on without its descriptor. A ring
    /// that accepts connections leaves the places to the kernel and must not do so.
    ///
    /// # Errors
    ///
    /// Those of io_uring_register(2).
    pub(super) fn install(&mut self, key: Key, socket: BorrowedFd<'_>) -> io::Result<Descriptor> {
        let updated = self.uring.submitter().register_files_update(key.slot, &[socket.as_raw_fd()])?;
        debug_assert_eq!(updated, 1, "there is one place");
        Ok(Descriptor(key.slot))
    }

    /// connect(2).
    pub(super) fn connect(&mut self, key: Key, descriptor: Descriptor, address: Arc<SockAddr>) {
        let (name, len) = (address.as_ptr(), address.len());
        let connect = self.connects.insert(|_| Connecting { owner: key, address });
        let entry = opcode::Connect::new(Fixed(descriptor.0), name.cast(), len).build();
        let token = Token { op: Op::Connect, key: connect };
        // SAFETY: the address lies on the heap, where `connects` keeps it until the operation is over.
        unsafe { self.push(&entry.user_data(token.to_bits())) };
    }

    /// Ends what [`Self::connect`] began on this socket; its event says so.
    pub(super) fn cancel_connect(&mut self, descriptor: Descriptor) {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::fd(Fixed(descriptor.0)).all()).build();
        let token = Token { op: Op::Cancel, key: Key { slot: 0, generation: 0 } };
        // SAFETY: the operation names no memory.
        unsafe { self.push(&entry.user_data(token.to_bits())) };
    }

    /// Receives into a buffer of this class; again and again, unless `is_single`.
    pub(super) fn receive(&mut self, key: Key, descriptor: Descriptor, class: Class, is_single: bool) {
        let group = self.group(class).id();
        let fd = Fixed(descriptor.0);
        let entry = if is_single {
            let recv = opcode::Recv::new(fd, std::ptr::null_mut(), 0).buf_group(group).build();
            recv.flags(squeue::Flags::BUFFER_SELECT)
        } else {
            opcode::RecvMulti::new(fd, group).build()
        };
        let token = Token { op: Op::receive(class), key };
        // SAFETY: the kernel takes memory from the registered group, which outlives the ring's descriptor.
        unsafe { self.push(&entry.user_data(token.to_bits())) };
    }

    /// Ends what [`Self::receive`] began; its last event says so.
    pub(super) fn cancel_receive(&mut self, key: Key, class: Class) {
        self.cancel(Token { op: Op::receive(class), key });
    }

    /// How many buffers of this class the kernel can receive into in the next enter.
    pub(super) fn available(&self, class: Class) -> u16 {
        self.small.widen();
        self.group(class).available()
    }

    /// How many connections receive into big buffers: they take turns with so many.
    pub(super) fn set_bulk(&self, connections: u32) {
        self.big.set_window(u16::try_from(connections).unwrap_or(u16::MAX).max(BIG_WINDOW_MIN));
    }

    /// Sends `pieces`.
    ///
    /// Only one send may be under way on a socket: the bytes of two would mingle.
    pub(super) fn send(&mut self, key: Key, descriptor: Descriptor, pieces: Pieces, manner: Manner) {
        debug_assert!(
            self.sends.values().all(|send| send.owner != key) && !self.waiting.contains_key(&key),
            "the bytes of two sends would mingle"
        );
        debug_assert!(pieces.more.len() < Pieces::MAX, "a scatter list has no room for more");
        let mut flags = SendFlags::NOSIGNAL | WAITALL;
        if manner != Manner::Waiting {
            flags |= SendFlags::DONTWAIT;
        }
        let flags = flags.bits().cast_signed();
        let entry = if pieces.more.is_empty() {
            let bytes = pieces.first.bytes();
            let len = u32::try_from(bytes.len()).expect("a piece is shorter than 4 GiB");
            opcode::Send::new(Fixed(descriptor.0), bytes.as_ptr(), len).flags(flags).build()
        } else {
            let mut gather = self.spare_gathers.pop().unwrap_or_default();
            gather.fill(iter::once(&pieces.first).chain(&pieces.more).map(Outgoing::bytes));
            let entry =
                opcode::SendMsg::new(Fixed(descriptor.0), gather.message()).flags(flags.cast_unsigned());
            self.gathers.push(gather);
            entry.build()
        };
        if manner == Manner::Waiting {
            self.waiting.insert(key, pieces);
            let entry = entry.user_data(Token { op: Op::SendWaiting, key }.to_bits());
            // SAFETY: as below; `waiting` owns the bytes until the completion.
            return unsafe { self.push(&entry) };
        }
        let buffers = pieces.buffers();
        let send = self.sends.insert(|_| UnderWay { owner: key, pieces });
        let mut entry = entry.user_data(Token { op: Op::Send, key: send }.to_bits());
        if manner == Manner::AtOnceSilently {
            entry = entry.flags(squeue::Flags::SKIP_SUCCESS);
            self.at_once.push(send);
            for (held, count) in self.held.iter_mut().zip(buffers) {
                *held += count;
            }
        }
        // SAFETY: the bytes are owned by `sends` from here on and lie still there, until a completion, or for want of
        // one the enter that submits it, has said that the kernel is done with them. The scatter list is read when
        // the entry is submitted (IORING_FEAT_SUBMIT_STABLE) and kept until then.
        unsafe { self.push(&entry) };
    }

    /// Ends a send that waits for the peer; its event says how much of it went out.
    pub(super) fn cancel_send(&mut self, key: Key) {
        self.cancel(Token { op: Op::SendWaiting, key });
    }

    /// shutdown(2). The kernel hands it to a thread that looks the socket up only then: before the event has come, the
    /// place must not be freed, or whoever has it next would be shut.
    pub(super) fn shut_down(&mut self, key: Key, descriptor: Descriptor, how: std::net::Shutdown) {
        let how = match how {
            std::net::Shutdown::Read => 0,
            std::net::Shutdown::Write => 1,
            std::net::Shutdown::Both => 2,
        };
        let entry = opcode::Shutdown::new(Fixed(descriptor.0), how).build();
        // SAFETY: the operation names no memory.
        unsafe { self.push(&entry.user_data(Token { op: Op::Shutdown, key }.to_bits())) };
    }

    /// Has [`Event::Untaken`] come, with what SIOCOUTQ says of the socket.
    pub(super) fn ask_untaken(&mut self, key: Key, descriptor: Descriptor) {
        let entry = opcode::UringCmd16::new(Fixed(descriptor.0), SOCKET_SIOCOUTQ).build();
        // SAFETY: the operation names no memory.
        unsafe { self.push(&entry.user_data(Token { op: Op::Untaken, key }.to_bits())) };
    }

    /// Closes the socket and frees its place. Nothing may be under way on it.
    pub(super) fn close(&mut self, key: Key, descriptor: Descriptor) {
        let entry = opcode::Close::new(Fixed(descriptor.0)).build();
        // SAFETY: the operation names no memory.
        unsafe { self.push(&entry.user_data(Token { op: Op::Close, key }.to_bits())) };
    }

    /// Has [`Event::Woken`] come whenever `eventfd` is written to.
    pub(super) fn watch(&mut self, eventfd: BorrowedFd<'_>) {
        let events = u32::from(PollFlags::IN.bits());
        let entry = opcode::PollAdd::new(Fd(eventfd.as_raw_fd()), events).multi(true).build();
        let token = Token { op: Op::Wake, key: Key { slot: 0, generation: 0 } };
        // SAFETY: the operation names no memory.
        unsafe { self.push(&entry.user_data(token.to_bits())) };
    }

    /// Has [`Event::Elapsed`] come after so long. Of several alarms the last one counts; those before it come at whatever time.
    pub(super) fn set_alarm(&mut self, number: u32, after: Duration) {
        *self.alarm = Timespec::from(after);
        let entry = opcode::Timeout::new(&raw const *self.alarm).build();
        let token = Token { op: Op::Alarm, key: Key { slot: number, generation: 0 } };
        // SAFETY: the time lies on the heap as long as the ring, and is read when the entry is submitted
        // (IORING_FEAT_SUBMIT_STABLE).
        unsafe { self.push(&entry.user_data(token.to_bits())) };
    }

    /// Submits what there is and waits for an event: one io_uring_enter(2). A signal ends the wait.
    ///
    /// # Errors
    ///
    /// When the ring is of no more use.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        self.submit_backlog()?;
        self.small.widen();
        let (want, timeout, flags) = match wait {
            Wait::SubmitOnly => (0, None, EnterFlags::empty()),
            Wait::No => (0, None, EnterFlags::GETEVENTS),
            Wait::AtMost(duration) => (1, Some(Timespec::from(duration)), EnterFlags::GETEVENTS),
            Wait::Forever => (1, None, EnterFlags::GETEVENTS),
        };
        self.enter_with(want, timeout.as_ref(), flags)?;
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
        let timeout = Timespec::from(CANCEL_TIMEOUT);
        match self.uring.submitter().register_sync_cancel(Some(timeout), CancelBuilder::any()) {
            // There was nothing.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => Ok(()),
            result => result,
        }
    }

    /// Whether completions wait, here or in the kernel. It asks no one: the kernel keeps flags in shared memory.
    pub(super) fn has_completions(&mut self) -> bool {
        self.uring.submission().taskrun() || !self.uring.completion().is_empty()
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

    /// Whether there is anything to submit.
    pub(super) fn has_submissions(&mut self) -> bool {
        !self.uring.submission().is_empty() || !self.backlog.is_empty()
    }

    /// Whether completions wait in the kernel: a call of [`Self::enter`] makes them.
    pub(super) fn is_task_work_due(&mut self) -> bool {
        self.uring.submission().taskrun()
    }

    /// The next event; `None` when there are no more before the next [`Self::enter`].
    ///
    /// # Errors
    ///
    /// When the ring is of no more use.
    pub(super) fn next_event(&mut self) -> io::Result<Option<Event>> {
        loop {
            let completion = self.uring.completion().next();
            if let Some(completion) = completion {
                if let Some(event) = self.event(&completion) {
                    return Ok(Some(event));
                }
                continue;
            }
            if !self.uring.submission().cq_overflow() {
                return Ok(self.next_concluded());
            }
            // More completions wait in the kernel than the queue holds: it hands them over now that there is room.
            self.stats.cq_overflows.add(1);
            self.enter_with(0, None, EnterFlags::GETEVENTS)?;
        }
    }

    /// A silent send that no completion has spoken of, once all of them are known.
    fn next_concluded(&mut self) -> Option<Event> {
        while self.concluded < self.taken {
            let key = self.at_once[self.concluded];
            self.concluded += 1;
            if let Some(UnderWay { owner, pieces }) = self.sends.remove(key) {
                return Some(Event::Sent { key: owner, result: Ok(pieces.len()), pieces });
            }
        }
        if self.taken > 0 {
            self.at_once.drain(..self.taken);
            (self.taken, self.concluded) = (0, 0);
            if self.at_once.is_empty() {
                self.held = [0; 2];
            }
        }
        None
    }

    /// What a completion says; nothing where nobody waits for it.
    fn event(&mut self, completion: &cqueue::Entry) -> Option<Event> {
        let Some(Token { op, key }) = Token::from_bits(completion.user_data()) else {
            self.stats.stale_completions.add(1);
            return None;
        };
        let is_last = !cqueue::more(completion.flags());
        let result = outcome(completion.result());
        match op {
            Op::ReceiveSmall => Some(self.received(key, Class::Small, completion, result, is_last)),
            Op::ReceiveBig => Some(self.received(key, Class::Big, completion, result, is_last)),
            Op::Send => {
                let Some(UnderWay { owner, pieces }) = self.sends.remove(key) else {
                    self.stats.stale_completions.add(1);
                    return None;
                };
                let result = result.map(|sent| sent as usize);
                Some(Event::Sent { key: owner, result, pieces })
            }
            Op::SendWaiting => {
                let pieces = self.waiting.remove(&key)?;
                Some(Event::Sent { key, result: result.map(|sent| sent as usize), pieces })
            }
            Op::Connect => {
                let Connecting { owner, .. } = self.connects.remove(key)?;
                Some(Event::Connected { key: owner, result: result.map(drop) })
            }
            Op::Accept => {
                let peer = self.peers.get(key.slot as usize).filter(|_| result.is_ok());
                // SAFETY: the accept that it was for is over, and there is one at a time.
                let peer = peer.and_then(|peer| unsafe { peer.get() });
                Some(Event::Accepted { listener: key.slot, result: result.map(Descriptor), is_last, peer })
            }
            Op::Close => {
                debug_assert!(result.is_ok(), "the place was taken");
                Some(Event::Closed { key })
            }
            Op::Untaken => Some(Event::Untaken { key, result }),
            Op::Alarm => Some(Event::Elapsed { number: key.slot }),
            Op::Wake => Some(Event::Woken { is_last }),
            Op::Shutdown => Some(Event::ShutDown { key }),
            Op::Cancel => None,
        }
    }

    fn received(
        &self,
        key: Key,
        class: Class,
        completion: &cqueue::Entry,
        result: io::Result<u32>,
        is_last: bool,
    ) -> Event {
        let group = self.group(class);
        // SAFETY: the completion is of a receive from this group and is looked at once.
        let lease = cqueue::buffer_select(completion.flags()).map(|index| unsafe { group.lease(index) });
        // At the end of the stream there may be a buffer with nothing in it.
        let result = result.map(|len| lease.filter(|_| len > 0).map(|lease| (lease, len as usize)));
        Event::Received { key, result, is_last }
    }

    fn cancel(&mut self, token: Token) {
        let entry = opcode::AsyncCancel::new(token.to_bits()).build();
        let token = Token { op: Op::Cancel, key: token.key };
        // SAFETY: the operation names no memory.
        unsafe { self.push(&entry.user_data(token.to_bits())) };
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
    /// The memory that `entry` names is good until its last completion.
    unsafe fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: as the caller says.
        if self.backlog.is_empty() && unsafe { self.uring.submission().push(entry) }.is_ok() {
            return;
        }
        self.stats.sq_full.add(1);
        self.backlog.push_back(entry.clone());
        // An error comes again at the next enter.
        let _ = self.submit_backlog();
    }

    /// Makes room in the submission queue, as often as there are more entries than it holds.
    fn submit_backlog(&mut self) -> io::Result<()> {
        while !self.backlog.is_empty() {
            self.enter_with(0, None, EnterFlags::empty())?;
            let mut submission = self.uring.submission();
            let before = self.backlog.len();
            while let Some(entry) = self.backlog.front() {
                // SAFETY: whoever put it into the backlog has answered for it.
                if unsafe { submission.push(entry) }.is_err() {
                    break;
                }
                self.backlog.pop_front();
            }
            if self.backlog.len() == before {
                // The kernel takes nothing before its completions are seen.
                break;
            }
        }
        Ok(())
    }

    fn enter_with(&mut self, want: u32, timeout: Option<&Timespec>, flags: EnterFlags) -> io::Result<()> {
        self.stats.enters.add(1);
        self.small.provide();
        self.big.provide();
        let gauges = &self.stats.ring_buffers;
        for (class, group) in [&self.small, &self.big].into_iter().enumerate() {
            let free = group.free();
            gauges.free[class].set(free);
            gauges.used[class].set(group.count() - free);
        }
        let submissions = u32::try_from(self.uring.submission().len()).expect("a queue of a u32");
        let mut args = SubmitArgs::new();
        if let Some(timeout) = timeout {
            args = args.timespec(timeout);
        }
        let mut flags = flags | EnterFlags::EXT_ARG;
        // A worker that waits for clients does not wait for a disk.
        flags.set(EnterFlags::NO_IOWAIT, self.uring.params().is_feature_no_iowait());
        // SAFETY: with EXT_ARG the argument is a `SubmitArgs`; the timespec that it points at outlives the call.
        let entered = unsafe { self.uring.submitter().enter(submissions, want, flags.bits(), Some(&args)) };
        match entered.map_err(|error| (Errno::from_io_error(&error), error)) {
            // A signal, the timeout, or completions that have to be seen first.
            Ok(_) | Err((Some(Errno::INTR | Errno::TIME | Errno::BUSY | Errno::AGAIN), _)) => Ok(()),
            Err((_, error)) => Err(error),
        }
    }

    fn release_gathers(&mut self) {
        if !self.gathers.is_empty() && self.backlog.is_empty() && self.uring.submission().is_empty() {
            self.spare_gathers.append(&mut self.gathers);
        }
    }
}

impl Drop for Ring {
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

/// MSG_WAITALL: of a stream socket's send, all of it.
const WAITALL: SendFlags = SendFlags::from_bits_retain(0x100);

/// The result of a completion: a negative one is an errno.
fn outcome(result: i32) -> io::Result<u32> {
    u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
