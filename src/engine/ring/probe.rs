//! Whether the ring engine can run here. Everything that it needs is tried; nothing is concluded from a version.

#![expect(
    unsafe_code,
    reason = "the kernel uses by address what is queued, and the memory of provided buffers"
)]

use std::alloc::{self, Layout};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use io_uring::types::{BufRingEntry, CancelBuilder, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::obstacle::{LOOPBACK, Obstacle};
use super::ring::set_up;

/// The entries of the ring that is tried.
const ENTRIES: u32 = 8;
/// The completion queue has so many times the entries of the submission queue: most operations complete many times.
const COMPLETIONS_PER_ENTRY: u32 = 4;

/// What the ring engine uses where it is there, and does without where it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Support {
    /// `IORING_SETUP_NO_SQARRAY`: entries are taken in order, without an array of indices (Linux 6.6).
    pub(crate) no_sqarray: bool,
}

/// Tries everything that the ring engine needs, in a small ring that is gone afterwards. It takes a few milliseconds;
/// where there is no memory for a ring, some more.
///
/// # Errors
///
/// The first thing that does not work.
pub(crate) fn probe() -> Result<Support, Obstacle> {
    probe_aloud(&mut |_| {})
}

/// As [`probe`], and tells of everything that works as soon as it has been seen to work.
///
/// # Errors
///
/// The first thing that does not work.
pub(crate) fn probe_aloud(works: &mut dyn FnMut(&'static str)) -> Result<Support, Obstacle> {
    let mut steps = Steps { works };
    let (mut ring, no_sqarray) = steps.pass(
        "io_uring_setup(2) with SINGLE_ISSUER, DEFER_TASKRUN, TASKRUN_FLAG, SUBMIT_ALL and CQSIZE",
        set_up(ENTRIES, COMPLETIONS_PER_ENTRY * ENTRIES, super::PATIENCE),
    )?;
    steps.pass("the features NODROP, SUBMIT_STABLE, EXT_ARG and CQE_SKIP", features(&ring))?;
    let opcodes = opcodes(&ring);
    steps.pass(
        "the opcodes ACCEPT, RECV, SEND, SENDMSG, ASYNC_CANCEL, SHUTDOWN, CLOSE and POLL_ADD",
        opcodes,
    )?;
    let files = ring.submitter().register_files_sparse(FILES);
    steps.pass("a sparse table of direct descriptors", files)?;
    converse(&mut ring, &mut steps)?;
    Ok(Support { no_sqarray })
}

/// Names what passes, and makes an obstacle of what does not.
struct Steps<'a> {
    works: &'a mut dyn FnMut(&'static str),
}

impl Steps<'_> {
    fn pass<T>(&mut self, what: &'static str, result: io::Result<T>) -> Result<T, Obstacle> {
        let value = result.map_err(|source| Obstacle::new(what, source))?;
        (self.works)(what);
        Ok(value)
    }
}

fn features(ring: &IoUring) -> io::Result<()> {
    let params = ring.params();
    missing(&[
        ("NODROP", params.is_feature_nodrop()),
        ("SUBMIT_STABLE", params.is_feature_submit_stable()),
        ("EXT_ARG", params.is_feature_ext_arg()),
        ("CQE_SKIP", params.is_feature_skip_cqe_on_success()),
    ])
}

fn opcodes(ring: &IoUring) -> io::Result<()> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    missing(&[
        ("ACCEPT", probe.is_supported(opcode::AcceptMulti::CODE)),
        ("RECV", probe.is_supported(opcode::RecvMulti::CODE)),
        ("SEND", probe.is_supported(opcode::Send::CODE)),
        ("SENDMSG", probe.is_supported(opcode::SendMsg::CODE)),
        ("ASYNC_CANCEL", probe.is_supported(opcode::AsyncCancel::CODE)),
        ("SHUTDOWN", probe.is_supported(opcode::Shutdown::CODE)),
        ("CLOSE", probe.is_supported(opcode::Close::CODE)),
        ("POLL_ADD", probe.is_supported(opcode::PollAdd::CODE)),
    ])
}

fn missing(needed: &[(&str, bool)]) -> io::Result<()> {
    let missing: Vec<_> = needed.iter().filter(|(_, is_there)| !is_there).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::Unsupported, format!("the kernel has no {}", missing.join(", "))))
}

/// One connection over loopback as the engine serves it: accepted, received from, sent to, cancelled and closed by one
/// ring, and a wake-up from another thread.
fn converse(ring: &mut IoUring, steps: &mut Steps<'_>) -> Result<(), Obstacle> {
    let buffers = steps.pass("a ring of provided buffers", Buffers::register(ring))?;
    let mut trial = Trial { ring, early: Vec::new(), deadline: Instant::now() + DEADLINE };

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let (listener, mut client) = steps.pass(LOOPBACK, listener.and_then(connect))?;

    let slot = trial.accept(&listener);
    let slot = steps.pass("multishot ACCEPT into a direct descriptor of the kernel's choice", slot)?;
    let received = trial.receive(slot, &mut client, &buffers);
    steps.pass("multishot RECV into provided buffers", received)?;
    steps.pass("SEND with MSG_WAITALL, MSG_DONTWAIT and CQE_SKIP_SUCCESS", trial.send(slot, &mut client))?;
    let cancelled = trial.cancel(RECEIVE).and_then(|()| trial.cancel(ACCEPT));
    steps.pass("ASYNC_CANCEL of multishot operations", cancelled)?;
    steps.pass("SHUTDOWN and CLOSE of a direct descriptor", trial.close(slot, &mut client))?;
    steps.pass("multishot POLL_ADD of an eventfd", trial.wake())?;

    steps.pass("cancelling of whatever is left, synchronously", cancel_what_is_left(ring))?;
    // No receive is armed any more, so the kernel is done with the buffers.
    steps.pass("taking the provided buffers back", buffers.unregister(ring))
}

/// The last thing that a ring is asked.
fn cancel_what_is_left(ring: &IoUring) -> io::Result<()> {
    match ring.submitter().register_sync_cancel(Some(Timespec::from(DEADLINE)), CancelBuilder::any()) {
        Err(error) if Errno::from_io_error(&error) != Some(Errno::NOENT) => Err(error),
        _ => Ok(()),
    }
}

/// A connection that was made over loopback proves that the machine, not the ring, can do so.
fn connect(listener: TcpListener) -> io::Result<(TcpListener, TcpStream)> {
    let client = TcpStream::connect(listener.local_addr()?)?;
    client.set_read_timeout(Some(DEADLINE))?;
    Ok((listener, client))
}

/// How long the whole conversation may take.
const DEADLINE: Duration = Duration::from_secs(1);
/// Direct descriptors that are tried.
const FILES: u32 = 8;

// What completions are known by.
const ACCEPT: u64 = 1;
const RECEIVE: u64 = 2;
const SEND: u64 = 3;
const SHUTDOWN: u64 = 4;
const CLOSE: u64 = 5;
const POLL: u64 = 6;
const CANCEL: u64 = 7;

/// Operations in a ring, one after the other.
struct Trial<'a> {
    ring: &'a mut IoUring,
    /// Completions that came before they were asked for.
    early: Vec<cqueue::Entry>,
    deadline: Instant,
}

impl Trial<'_> {
    fn accept(&mut self, listener: &TcpListener) -> io::Result<Fixed> {
        let accept = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).allocate_file_index(true).build();
        self.submit(&accept.user_data(ACCEPT))?;
        let slot = self.completion(ACCEPT)?;
        expect(cqueue::more(slot.flags()), "it came without F_MORE")?;
        Ok(Fixed(slot.result().cast_unsigned()))
    }

    /// Twice, for the second one shows that the first did not end it.
    fn receive(&mut self, slot: Fixed, client: &mut TcpStream, buffers: &Buffers) -> io::Result<()> {
        self.submit(&opcode::RecvMulti::new(slot, GROUP).build().user_data(RECEIVE))?;
        for message in [b"first", b"again"] {
            client.write_all(message)?;
            let received = self.completion(RECEIVE)?;
            let buffer = cqueue::buffer_select(received.flags()).unwrap_or(u16::MAX);
            let filled = buffers.filled(buffer, received.result());
            expect(filled.as_deref() == Some(message), "other bytes came than were sent")?;
            expect(cqueue::more(received.flags()), "it came without F_MORE")?;
        }
        Ok(())
    }

    fn send(&mut self, slot: Fixed, client: &mut TcpStream) -> io::Result<()> {
        static MESSAGE: [u8; 4] = *b"echo";
        let send = opcode::Send::new(slot, MESSAGE.as_ptr(), 4)
            .flags(libc::MSG_WAITALL | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
            .build();
        self.submit(&send.flags(squeue::Flags::SKIP_SUCCESS).user_data(SEND))?;
        let mut arrived = [0; MESSAGE.len()];
        client.read_exact(&mut arrived)?;
        expect(arrived == MESSAGE, "other bytes came than were sent")?;
        self.early.extend(self.ring.completion());
        expect(self.early.iter().all(|other| other.user_data() != SEND), "its success was not skipped")
    }

    fn cancel(&mut self, token: u64) -> io::Result<()> {
        self.submit(&opcode::AsyncCancel::new(token).build().user_data(CANCEL))?;
        self.completion(CANCEL)?;
        match self.completion(token) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::CANCELED) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(io::Error::other("it went on")),
        }
    }

    fn close(&mut self, slot: Fixed, client: &mut TcpStream) -> io::Result<()> {
        self.submit(&opcode::Shutdown::new(slot, libc::SHUT_RDWR).build().user_data(SHUTDOWN))?;
        self.completion(SHUTDOWN)?;
        expect(client.read(&mut [0])? == 0, "the client saw no end")?;
        self.submit(&opcode::Close::new(slot).build().user_data(CLOSE))?;
        self.completion(CLOSE).map(drop)
    }

    fn wake(&mut self) -> io::Result<()> {
        let waker = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let events = u32::from(libc::POLLIN.cast_unsigned());
        let poll = opcode::PollAdd::new(Fd(waker.as_raw_fd()), events).multi(true).build();
        self.submit(&poll.user_data(POLL))?;
        ring_the_bell(&waker)?;
        let woken = self.completion(POLL)?;
        expect(cqueue::more(woken.flags()), "it came without F_MORE")?;
        self.cancel(POLL)
    }

    /// Queues an operation, and enters the ring.
    fn submit(&mut self, operation: &squeue::Entry) -> io::Result<()> {
        // SAFETY: the operations above point at nothing, but for the send, which points at a static. Descriptors are
        // open when the kernel takes them, which it does in `submit`. What the receive writes to belongs to `Buffers`,
        // which are not freed before they are taken back from the kernel.
        unsafe { self.ring.submission().push(operation) }.map_err(io::Error::other)?;
        self.ring.submit().map(drop)
    }

    /// Waits for the completion of an operation; gives its error if it failed.
    fn completion(&mut self, token: u64) -> io::Result<cqueue::Entry> {
        loop {
            self.early.extend(self.ring.completion());
            if let Some(at) = self.early.iter().position(|completion| completion.user_data() == token) {
                let completion = self.early.remove(at);
                return match completion.result() {
                    error @ ..0 => Err(io::Error::from_raw_os_error(-error)),
                    _ => Ok(completion),
                };
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            expect(!left.is_zero(), "it did not complete")?;
            match self
                .ring
                .submitter()
                .submit_with_args(1, &SubmitArgs::new().timespec(&Timespec::from(left)))
            {
                Err(error) if !is_passing(&error) => return Err(error),
                _ => {}
            }
        }
    }
}

/// Whether a wait ended by a signal or by its deadline.
fn is_passing(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INTR | Errno::TIME))
}

fn ring_the_bell(waker: &OwnedFd) -> io::Result<()> {
    rustix::io::write(waker.as_fd(), &1_u64.to_ne_bytes())?;
    Ok(())
}

fn expect(is_so: bool, otherwise: &'static str) -> io::Result<()> {
    if is_so { Ok(()) } else { Err(io::Error::other(otherwise)) }
}

/// The group that the buffers are known by.
const GROUP: u16 = 0;
const BUFFERS: u16 = 4;
const BUFFER_LEN: u16 = 64;
/// The ring begins on a page, of which none is larger; the buffers stand in the second half, `BUFFER_LEN` each.
const MEMORY: Layout = match Layout::from_size_align(1 << 16, 1 << 16) {
    Ok(layout) => layout,
    Err(_) => unreachable!(),
};
const BUFFERS_OFFSET: usize = 1 << 15;

/// A ring of provided buffers with its memory, which is freed by [`Buffers::unregister`] only: where the conversation
/// ended early, a receive may still be armed, and this much is never given back.
struct Buffers(NonNull<u8>);

impl Buffers {
    fn register(ring: &IoUring) -> io::Result<Self> {
        // SAFETY: the layout has a size.
        let memory = unsafe { alloc::alloc_zeroed(MEMORY) };
        let base = NonNull::new(memory).ok_or(io::ErrorKind::OutOfMemory)?;
        let address = base.as_ptr().expose_provenance() as u64;
        // SAFETY: the memory is page-aligned, longer than its entries, and outlives their registration.
        let registered = unsafe { ring.submitter().register_buf_ring_with_flags(address, BUFFERS, GROUP, 0) };
        if let Err(error) = registered {
            // SAFETY: allocated above with this layout, and the kernel did not take it.
            unsafe { alloc::dealloc(base.as_ptr(), MEMORY) };
            return Err(error);
        }
        let first = base.cast::<BufRingEntry>();
        for index in 0..BUFFERS {
            // SAFETY: `BUFFERS` entries, zeroed and so valid, fit before `BUFFERS_OFFSET`; the kernel reads none of
            // them before the tail says so.
            let entry = unsafe { first.add(usize::from(index)).as_mut() };
            entry.set_addr(address + (BUFFERS_OFFSET + offset(index)) as u64);
            entry.set_len(u32::from(BUFFER_LEN));
            entry.set_bid(index);
        }
        // SAFETY: the first entry is initialized, and the tail in it is aligned, written by nobody else, and lives as
        // long as the memory.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(first.as_ptr()).cast_mut()) };
        tail.store(BUFFERS, Ordering::Release);
        Ok(Self(base))
    }

    /// What the kernel has put into a buffer.
    fn filled(&self, buffer: u16, len: i32) -> Option<Vec<u8>> {
        let len = usize::try_from(len).ok().filter(|&len| len <= usize::from(BUFFER_LEN))?;
        if buffer >= BUFFERS {
            return None;
        }
        // SAFETY: `buffer` is one of those behind `BUFFERS_OFFSET`, `len` is no longer than it, the memory was zeroed,
        // and the kernel has completed its write and takes another buffer for the next one.
        let bytes = unsafe {
            let start = self.0.add(BUFFERS_OFFSET + offset(buffer));
            std::slice::from_raw_parts(start.as_ptr(), len)
        };
        Some(bytes.to_vec())
    }

    /// Takes the buffers back, of which no operation may be in the ring any more, and frees them.
    fn unregister(self, ring: &IoUring) -> io::Result<()> {
        ring.submitter().unregister_buf_ring(GROUP)?;
        // SAFETY: allocated in `register` with this layout; the kernel knows the memory no more.
        unsafe { alloc::dealloc(self.0.as_ptr(), MEMORY) };
        Ok(())
    }
}

fn offset(buffer: u16) -> usize {
    usize::from(buffer) * usize::from(BUFFER_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        missing(&[("A", true)]).expect("nothing is missing");
        let error = missing(&[("A", true), ("B", false), ("C", false)]).unwrap_err();
        assert_eq!(error.to_string(), "the kernel has no B, C");
    }

    #[test]
    fn a_probe_leaves_nothing_behind() {
        let mut steps = Vec::new();
        let support = match probe_aloud(&mut |step| steps.push(step)) {
            Ok(support) => support,
            Err(obstacle) => return println!("SKIPPED: the ring engine cannot run here: {obstacle}"),
        };
        assert_eq!(steps.len(), 14, "{steps:?}");
        // A ring that stays behind in a table of the thread would use its descriptors up.
        for _ in 0..50 {
            assert_eq!(probe().expect("as before"), support);
        }
    }
}
