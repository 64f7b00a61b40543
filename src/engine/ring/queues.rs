//! The seam between the ring and the kernel: operations go down as plain values, completions come up.
//!
//! [`Uring`] is io_uring itself. The tests put a simulated kernel in its place. Everything that the ring engine wants of
//! the outside goes through here: sockets, listeners, the eventfd and the clock by which it waits.
#![expect(unsafe_code, reason = "operations name memory")]

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd as _, RawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use io_uring::types::{BufRingEntry, CancelBuilder, DestinationSlot, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use rustix::event::{PollFd, PollFlags, Timespec as PollTimespec, poll};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::net::SendFlags;

use super::super::buffers::Mapping;
use super::super::unconfirmed::SOCKET_SIOCOUTQ;
use super::Sizes;
use super::event::Wait;
use super::setup::set_up;
use super::token::Token;

/// How many operations are linked at most. The queue of submissions has room for so many: the kernel takes them together.
pub(super) const LINKED_MAX: u32 = 2;

/// What the ring asks of the kernel. `Uring` in the server.
pub trait Queues: Sized {
    /// Whether the kernel answers EFAULT where it finds memory out of reach. A debug build takes returned buffers out of
    /// reach only then.
    const FAULTS: bool;

    /// Makes the table of files and the groups of buffers: `groups` gives how many buffers the group of that index has.
    ///
    /// # Errors
    ///
    /// What the kernel says to the first thing that it refuses.
    ///
    /// # Panics
    ///
    /// When the number of buffers is not a power of two.
    fn register(&mut self, files: u32, groups: [u16; 2]) -> io::Result<()>;

    /// Queues an operation; `false` if the queue is full.
    ///
    /// # Safety
    ///
    /// The memory that the operation names is good until its last completion. Without one it is good until the `enter`
    /// that submits it has returned.
    unsafe fn push(&mut self, operation: &Operation) -> bool;

    /// How many more operations the queue has room for.
    fn room(&mut self) -> usize;

    /// Whether operations are queued that the kernel has not taken.
    fn has_submissions(&mut self) -> bool;

    /// Submits the queued operations and waits for a completion: one io_uring_enter(2). A signal ends the wait.
    ///
    /// # Errors
    ///
    /// When the queues are of no more use.
    fn enter(&mut self, wait: Wait) -> io::Result<()>;

    /// The next completion.
    fn next(&mut self) -> Option<Completion>;

    /// Whether completions are queued.
    fn has_completions(&mut self) -> bool;

    /// Whether the kernel holds completions that the full queue has no room for.
    fn has_overflowed(&mut self) -> bool;

    /// Whether the kernel has work to do that makes completions: the next `enter` does it.
    fn is_task_work_due(&mut self) -> bool;

    /// Gives the kernel buffer `index` of a group: `len` bytes from `start`. It has the buffer from the next `enter` on.
    ///
    /// # Safety
    ///
    /// The memory is the kernel's until a completion names the buffer.
    unsafe fn provide(&mut self, group: u16, index: u16, start: NonNull<u8>, len: u32);

    /// Puts a socket into the table of files, where it lives on without its descriptor.
    ///
    /// # Errors
    ///
    /// Those of io_uring_register(2).
    fn install(&self, file: u32, socket: BorrowedFd<'_>) -> io::Result<()>;

    /// Ends all operations and waits for that, at most this long.
    ///
    /// # Errors
    ///
    /// When they do not end in time, or the kernel refuses to do so (before 6.0).
    fn cancel_all(&self, at_most: Duration) -> io::Result<()>;

    /// Whether a connection waits to be accepted.
    fn is_queued(&self, listener: BorrowedFd<'_>) -> bool;

    /// Takes from an eventfd that does not block whatever was written to it.
    fn empty(&self, eventfd: BorrowedFd<'_>);

    /// The time by a clock that never goes back.
    fn time(&self) -> Duration;
}

/// An operation to submit.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// What its completions are known by.
    pub token: Token,
    /// What to do.
    pub verb: Verb,
}

/// What to do. A `file` is a place in the table of files.
#[derive(Clone, Copy, Debug)]
pub enum Verb {
    /// accept(2) into a free place of the table of files; again and again if `is_multi`. The kernel writes the peer's
    /// address to `peer` and its length to `len`, if they are not null.
    Accept {
        /// The listener.
        listener: RawFd,
        /// Whether it goes on after the first connection.
        is_multi: bool,
        /// Where the peer's address goes.
        peer: *mut libc::sockaddr,
        /// How long that is.
        len: *mut libc::socklen_t,
    },
    /// poll(2) until a connection waits to be accepted. The next operation, an accept, begins then; unless the poll fails,
    /// only that one has a completion.
    AwaitQueued {
        /// The listener.
        listener: RawFd,
    },
    /// connect(2).
    Connect {
        /// The socket.
        file: u32,
        /// To whom.
        address: *const libc::sockaddr,
        /// How long the address is.
        len: libc::socklen_t,
    },
    /// recv(2) into buffers that the kernel takes from the group; again and again if `is_multi`.
    Receive {
        /// The socket.
        file: u32,
        /// The group of buffers.
        group: u16,
        /// Whether it goes on after the first bytes.
        is_multi: bool,
    },
    /// send(2).
    Send {
        /// The socket.
        file: u32,
        /// The bytes.
        bytes: *const u8,
        /// How many they are.
        len: u32,
        /// How to send them.
        flags: SendFlags,
        /// Whether there is no completion if all of them are sent.
        is_silent: bool,
    },
    /// sendmsg(2).
    SendMessage {
        /// The socket.
        file: u32,
        /// The list of bytes, which the kernel reads when the operation is submitted.
        message: *const libc::msghdr,
        /// How to send them.
        flags: SendFlags,
        /// Whether there is no completion if all of them are sent.
        is_silent: bool,
    },
    /// shutdown(2), by a thread of the kernel that looks the socket up late.
    Shutdown {
        /// The socket.
        file: u32,
        /// Which sides.
        how: Shutdown,
    },
    /// SIOCOUTQ of ioctl(2): how many bytes the peer has not confirmed.
    AskUnconfirmed {
        /// The socket.
        file: u32,
    },
    /// close(2); the place is free again.
    Close {
        /// The socket.
        file: u32,
    },
    /// poll(2) for reading, again and again.
    Watch {
        /// The eventfd.
        eventfd: RawFd,
    },
    /// A completion after this time. The time of an alarm that was not submitted yet changes to that of the next one.
    Alarm {
        /// From its submission on.
        after: Duration,
    },
    /// Ends the operation with this token.
    Cancel {
        /// The operation's.
        token: Token,
    },
    /// Ends all operations on this socket.
    CancelFile {
        /// The socket.
        file: u32,
    },
}

/// What the kernel says of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The token of its operation, if it is of this ring.
    pub token: Option<Token>,
    /// A count, or an errno below 0.
    pub result: i32,
    /// Whether the operation goes on (IORING_CQE_F_MORE).
    pub is_last: bool,
    /// The buffer that it has filled.
    pub buffer: Option<u16>,
}

/// io_uring.
pub struct Uring {
    uring: IoUring,
    /// Dropped after `uring`: the kernel looks at their entries as long as that lives.
    groups: [Entries; 2],
    /// The time of the last alarm, which the kernel reads when it is submitted.
    alarm: Box<Timespec>,
    made: Instant,
}

impl Uring {
    /// Queues of at most these sizes, but with room for operations that are linked.
    ///
    /// # Errors
    ///
    /// Those of [`set_up`].
    pub(super) fn set_up(sizes: &Sizes) -> io::Result<Self> {
        let [submissions, completions] =
            [sizes.submissions, sizes.completions].map(|size| size.max(LINKED_MAX));
        set_up(submissions, completions, sizes.patience).map(|(uring, _)| Self::over(uring))
    }

    /// The queues of this ring.
    pub(super) fn over(uring: IoUring) -> Self {
        let groups = [Entries::default(), Entries::default()];
        Self { uring, groups, alarm: Box::default(), made: Instant::now() }
    }
}

impl Queues for Uring {
    const FAULTS: bool = true;

    fn register(&mut self, files: u32, groups: [u16; 2]) -> io::Result<()> {
        let submitter = self.uring.submitter();
        submitter.register_files_sparse(files)?;
        for (id, (group, count)) in (0..).zip(self.groups.iter_mut().zip(groups)) {
            *group = Entries::new(count)?;
            let entries = group.start().as_ptr().addr() as u64;
            // SAFETY: the mapping holds `count` entries and is dropped after the ring.
            unsafe { submitter.register_buf_ring_with_flags(entries, count, id, 0)? };
        }
        Ok(())
    }

    #[inline]
    unsafe fn push(&mut self, operation: &Operation) -> bool {
        if let Verb::Alarm { after } = operation.verb {
            *self.alarm = Timespec::from(after);
        }
        let entry = entry(operation, &self.alarm);
        // SAFETY: as the caller says. The alarm's time lies on the heap as long as the ring, and the kernel reads it when
        // it is submitted (IORING_FEAT_SUBMIT_STABLE).
        unsafe { self.uring.submission().push(&entry) }.is_ok()
    }

    fn room(&mut self) -> usize {
        let submission = self.uring.submission();
        submission.capacity() - submission.len()
    }

    #[inline]
    fn has_submissions(&mut self) -> bool {
        !self.uring.submission().is_empty()
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        for group in &mut self.groups {
            group.publish();
        }
        let (want, timeout, flags) = match wait {
            Wait::SubmitOnly => (0, None, EnterFlags::empty()),
            Wait::No => (0, None, EnterFlags::GETEVENTS),
            Wait::AtMost(duration) => (1, Some(Timespec::from(duration)), EnterFlags::GETEVENTS),
            Wait::Forever => (1, None, EnterFlags::GETEVENTS),
        };
        let submissions = u32::try_from(self.uring.submission().len()).expect("a queue of a u32");
        let mut args = SubmitArgs::new();
        if let Some(timeout) = &timeout {
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

    #[inline]
    fn next(&mut self) -> Option<Completion> {
        let entry = self.uring.completion().next()?;
        Some(Completion {
            token: Token::from_bits(entry.user_data()),
            result: entry.result(),
            is_last: !cqueue::more(entry.flags()),
            buffer: cqueue::buffer_select(entry.flags()),
        })
    }

    fn has_completions(&mut self) -> bool {
        !self.uring.completion().is_empty()
    }

    #[inline]
    fn has_overflowed(&mut self) -> bool {
        self.uring.submission().cq_overflow()
    }

    fn is_task_work_due(&mut self) -> bool {
        self.uring.submission().taskrun()
    }

    #[inline]
    unsafe fn provide(&mut self, group: u16, index: u16, start: NonNull<u8>, len: u32) {
        self.groups[usize::from(group)].add(index, start, len);
    }

    fn install(&self, file: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let updated = self.uring.submitter().register_files_update(file, &[socket.as_raw_fd()])?;
        debug_assert_eq!(updated, 1, "there is one place");
        Ok(())
    }

    fn cancel_all(&self, at_most: Duration) -> io::Result<()> {
        let timeout = Timespec::from(at_most);
        match self.uring.submitter().register_sync_cancel(Some(timeout), CancelBuilder::any()) {
            // There was nothing.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => Ok(()),
            result => result,
        }
    }

    fn is_queued(&self, listener: BorrowedFd<'_>) -> bool {
        let mut descriptors = [PollFd::new(&listener, PollFlags::IN)];
        poll(&mut descriptors, Some(&PollTimespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }

    fn empty(&self, eventfd: BorrowedFd<'_>) {
        // Without a byte to read somebody else has read it.
        let _ = rustix::io::read(eventfd, &mut [0_u8; 8]);
    }

    fn time(&self) -> Duration {
        self.made.elapsed()
    }
}

/// The submission of an operation. Where the verb is known, nothing is left of the choice.
#[inline(always)]
#[expect(clippy::inline_always, reason = "every caller knows its verb")]
fn entry(operation: &Operation, alarm: &Timespec) -> squeue::Entry {
    let entry = match operation.verb {
        Verb::Accept { listener, is_multi: true, .. } => {
            opcode::AcceptMulti::new(Fd(listener)).allocate_file_index(true).build()
        }
        Verb::Accept { listener, is_multi: false, peer, len } => opcode::Accept::new(Fd(listener), peer, len)
            .file_index(Some(DestinationSlot::auto_target()))
            .build(),
        Verb::AwaitQueued { listener } => {
            let events = ONE_IS_WOKEN | u32::from(PollFlags::IN.bits());
            let poll = opcode::PollAdd::new(Fd(listener), events).build();
            poll.flags(squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS)
        }
        Verb::Connect { file, address, len } => opcode::Connect::new(Fixed(file), address, len).build(),
        Verb::Receive { file, group, is_multi: true } => opcode::RecvMulti::new(Fixed(file), group).build(),
        Verb::Receive { file, group, is_multi: false } => {
            let entry = opcode::Recv::new(Fixed(file), ptr::null_mut(), 0).buf_group(group).build();
            entry.flags(squeue::Flags::BUFFER_SELECT)
        }
        Verb::Send { file, bytes, len, flags, is_silent } => {
            let flags = flags.bits().cast_signed();
            silent(opcode::Send::new(Fixed(file), bytes, len).flags(flags).build(), is_silent)
        }
        Verb::SendMessage { file, message, flags, is_silent } => {
            silent(opcode::SendMsg::new(Fixed(file), message).flags(flags.bits()).build(), is_silent)
        }
        Verb::Shutdown { file, how } => {
            let how = match how {
                Shutdown::Read => 0,
                Shutdown::Write => 1,
                Shutdown::Both => 2,
            };
            opcode::Shutdown::new(Fixed(file), how).build()
        }
        Verb::AskUnconfirmed { file } => opcode::UringCmd16::new(Fixed(file), SOCKET_SIOCOUTQ).build(),
        Verb::Close { file } => opcode::Close::new(Fixed(file)).build(),
        Verb::Watch { eventfd } => {
            let events = u32::from(PollFlags::IN.bits());
            opcode::PollAdd::new(Fd(eventfd), events).multi(true).build()
        }
        Verb::Alarm { .. } => opcode::Timeout::new(alarm).build(),
        Verb::Cancel { token } => opcode::AsyncCancel::new(token.to_bits()).build(),
        Verb::CancelFile { file } => opcode::AsyncCancel2::new(CancelBuilder::fd(Fixed(file)).all()).build(),
    };
    entry.user_data(operation.token.to_bits())
}

#[inline]
fn silent(entry: squeue::Entry, is_silent: bool) -> squeue::Entry {
    if is_silent { entry.flags(squeue::Flags::SKIP_SUCCESS) } else { entry }
}

/// EPOLLEXCLUSIVE: of those who wait for a socket one is woken.
const ONE_IS_WOKEN: u32 = 1 << 28;

/// The entries of a group of provided buffers (io_uring_register_buf_ring(3)).
#[derive(Debug, Default)]
struct Entries {
    /// A power of two; 0 before there is a mapping.
    count: u16,
    /// How many buffers were ever given, modulo 2^16: the next one stands there.
    tail: u16,
    /// The tail that the kernel sees.
    published: u16,
    mapping: Option<Mapping>,
}

impl Entries {
    fn new(count: u16) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "a ring has a power of two of entries");
        let mapping = Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?;
        Ok(Self { count, mapping: Some(mapping), ..Self::default() })
    }

    #[inline]
    fn start(&self) -> NonNull<BufRingEntry> {
        self.mapping.as_ref().expect("a group that is registered").start().cast()
    }

    #[inline]
    fn add(&mut self, index: u16, start: NonNull<u8>, len: u32) {
        let at = self.tail & (self.count - 1);
        // SAFETY: `at < count`, so the entry lies in the mapping; the kernel reads it only once the tail says so.
        let entry = unsafe { self.start().add(usize::from(at)).as_mut() };
        entry.set_addr(start.as_ptr().addr() as u64);
        entry.set_len(len);
        entry.set_bid(index);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel the entries that were added, with one store.
    #[inline]
    fn publish(&mut self) {
        if self.tail == self.published {
            return;
        }
        // SAFETY: the tail is a field of the first entry, which lies in the mapping; no setter of an entry writes it.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.start().as_ptr()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
        self.published = self.tail;
    }
}
