//! Whether the ring engine can run here. Everything that it needs is tried, by the code that it runs on; nothing is
//! concluded from a version.

use std::io::{self, Read as _, Write as _};
use std::iter;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use io_uring::{IoUring, Probe, opcode};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use socket2::{Domain, SockRef, Socket, Type};

use super::super::buffers::{Class, SMALL};
use super::super::outgoing::Outgoing;
use super::super::outgoing::{Manner, Pieces};
use super::super::slots::Id;
use super::Sizes;
use super::event::{AcceptKind, RingEvent, Wait};
use super::obstacle::{LOOPBACK, Obstacle};
use super::queues::Uring;
use super::ring::{Descriptor, Ring};
use super::setup::set_up;
use crate::memory::{Budget, Charged, HEADROOM, Total};

/// What the ring engine uses where it is there, and does without where it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Support {
    /// `IORING_SETUP_NO_SQARRAY`: entries are taken in order, without an array of indices (Linux 6.6).
    pub(crate) no_sqarray: bool,
    /// `IORING_FEAT_NO_IOWAIT`: the kernel can be asked not to count a wait as one for a disk (Linux 6.15).
    pub(crate) no_iowait: bool,
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
    let sizes = sizes();
    let (uring, no_sqarray) = steps.pass(
        "io_uring_setup(2) with SINGLE_ISSUER, DEFER_TASKRUN, TASKRUN_FLAG, SUBMIT_ALL and CQSIZE",
        set_up(sizes.submissions, sizes.completions, sizes.patience),
    )?;
    steps.pass("the features NODROP, SUBMIT_STABLE, EXT_ARG and CQE_SKIP", features(&uring))?;
    let no_iowait = uring.params().is_feature_no_iowait();
    let opcodes = opcodes(&uring);
    steps.pass(
        "the opcodes ACCEPT, RECV, SEND, SENDMSG, ASYNC_CANCEL, SHUTDOWN, CLOSE and POLL_ADD",
        opcodes,
    )?;
    let ring = Ring::over(Uring::over(uring), &sizes, Arc::default());
    let ring = steps.pass("a sparse table of direct descriptors, and rings of provided buffers", ring)?;
    converse(ring, &mut steps)?;
    Ok(Support { no_sqarray, no_iowait })
}

/// The ring that is tried: a few of everything, of the sizes that connections begin with.
fn sizes() -> Sizes {
    const ENTRIES: u32 = 8;
    const BUFFERS: u16 = 4;
    const FILES: usize = 8;
    Sizes {
        submissions: ENTRIES,
        completions: 4 * ENTRIES,
        small_count: BUFFERS,
        big_count: BUFFERS,
        ..Sizes::new(SMALL, FILES)
    }
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

fn features(uring: &IoUring) -> io::Result<()> {
    let params = uring.params();
    missing(&[
        ("NODROP", params.is_feature_nodrop()),
        ("SUBMIT_STABLE", params.is_feature_submit_stable()),
        ("EXT_ARG", params.is_feature_ext_arg()),
        ("CQE_SKIP", params.is_feature_skip_cqe_on_success()),
    ])
}

fn opcodes(uring: &IoUring) -> io::Result<()> {
    let mut probe = Probe::new();
    uring.submitter().register_probe(&mut probe)?;
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
/// ring; and a wake-up, as by another thread.
fn converse(ring: Ring, steps: &mut Steps<'_>) -> Result<(), Obstacle> {
    let (listener, client) = steps.pass(LOOPBACK, connect())?;
    let mut trial = Trial { ring, client, deadline: Instant::now() + DEADLINE };

    let accepted = trial.accept(&listener);
    let socket = steps.pass("multishot ACCEPT into a direct descriptor of the kernel's choice", accepted)?;
    let received = trial.receive(socket);
    let [first, second, third] = steps.pass("multishot RECV into provided buffers", received)?;
    let one = Pieces::one(first);
    let sent = trial.send(socket, one, Manner::AtOnce { tells: false });
    steps.pass("SEND with MSG_WAITALL, MSG_DONTWAIT and CQE_SKIP_SUCCESS", sent)?;
    let two = Pieces { first: second, more: vec![third] };
    steps.pass("SENDMSG of several buffers", trial.send(socket, two, Manner::AtOnce { tells: true }))?;
    steps.pass(
        "a silent SEND that says how far it came where there is little room",
        trial.send_in_part(socket),
    )?;
    steps.pass("ASYNC_CANCEL of multishot operations", trial.cancel())?;
    steps.pass("SHUTDOWN and CLOSE of a direct descriptor", trial.close(socket))?;
    steps.pass("multishot POLL_ADD of an eventfd", trial.wake())?;
    steps.pass("cancelling of whatever is left, synchronously", trial.ring.cancel_all())
}

/// A connection that was made over loopback proves that the machine, not the ring, can do so.
fn connect() -> io::Result<(TcpListener, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    // Little room on both sides, whatever the system's defaults are.
    SockRef::from(&listener).set_send_buffer_size(LITTLE)?;
    let client = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    client.set_recv_buffer_size(LITTLE)?;
    client.connect(&listener.local_addr()?.into())?;
    client.set_read_timeout(Some(DEADLINE))?;
    Ok((listener, client.into()))
}

/// The sockets' buffers, in bytes, and what surely is more than they take.
const LITTLE: usize = 16 << 10;
const MUCH: usize = 1 << 20;

/// How long the whole conversation may take.
const DEADLINE: Duration = Duration::from_secs(1);

// What events are known by.
const LISTENER: u32 = 0;
const ID: Id = Id { slot: 0, generation: 0 };

/// A ring and the peer of its one connection.
struct Trial {
    ring: Ring,
    client: TcpStream,
    deadline: Instant,
}

impl Trial {
    fn accept(&mut self, listener: &TcpListener) -> io::Result<Descriptor> {
        self.ring.accept(LISTENER, listener.as_fd(), AcceptKind::Many);
        match self.next_event()? {
            RingEvent::Accepted { listener: LISTENER, result, is_last, .. } => {
                let socket = result?;
                expect(!is_last, NO_MORE)?;
                Ok(socket)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Several times, for the second one shows that the first did not end it.
    fn receive(&mut self, socket: Descriptor) -> io::Result<[Outgoing; 3]> {
        self.ring.receive(ID, socket, Class::Small, false);
        Ok([self.received(b"first")?, self.received(b"second")?, self.received(b"third")?])
    }

    fn received(&mut self, message: &[u8]) -> io::Result<Outgoing> {
        self.client.write_all(message)?;
        match self.next_event()? {
            RingEvent::Received { id: ID, result, is_last } => {
                let received = result?
                    .and_then(|(buffer, len)| Outgoing::received(buffer, HEADROOM..HEADROOM + len))
                    .filter(|received| received.bytes() == message)
                    .ok_or_else(|| io::Error::other(OTHER_BYTES))?;
                expect(!is_last, NO_MORE)?;
                Ok(received)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// An echo, from the buffers that were received into. It is known to be over once it is submitted, without a
    /// completion if it goes out silently.
    fn send(&mut self, socket: Descriptor, pieces: Pieces, manner: Manner) -> io::Result<()> {
        let all = iter::once(&pieces.first).chain(&pieces.more);
        let echo: Vec<_> = all.flat_map(Outgoing::bytes).copied().collect();
        self.ring.send(ID, socket, pieces, manner);
        self.ring.enter(Wait::No)?;
        let is_silent = !self.ring.has_completions();
        match self.next_event()? {
            RingEvent::Sent { id: ID, result, .. } => {
                expect(result? == echo.len(), "not all of it was sent")?;
            }
            other => return Err(unexpected(&other)),
        }
        expect(is_silent || manner != Manner::AtOnce { tells: false }, "its success was not skipped")?;
        let mut arrived = vec![0; echo.len()];
        self.client.read_exact(&mut arrived)?;
        expect(arrived == echo, OTHER_BYTES)
    }

    /// A send that cannot go out as a whole completes at once all the same, and is not silent about it.
    fn send_in_part(&mut self, socket: Descriptor) -> io::Result<()> {
        let bytes = BytesMut::zeroed(MUCH);
        let charge = Budget::new(Total::new(MUCH)).charge(MUCH);
        let first = Outgoing::heap(Box::new(Charged { bytes, charge }));
        let first = first.ok_or_else(|| io::Error::other(OTHER_BYTES))?;
        self.ring.send(ID, socket, Pieces::one(first), Manner::AtOnce { tells: false });
        self.ring.enter(Wait::No)?;
        match self.next_event()? {
            RingEvent::Sent { id: ID, result, .. } => {
                let sent = result?;
                expect(0 < sent && sent < MUCH, "it is said to have gone out as a whole")?;
                self.client.read_exact(&mut vec![0; sent])
            }
            other => Err(unexpected(&other)),
        }
    }

    fn cancel(&mut self) -> io::Result<()> {
        self.ring.cancel_receive(ID, Class::Small);
        match self.next_event()? {
            RingEvent::Received { id: ID, result, is_last: true } => expect_cancelled(result)?,
            other => return Err(unexpected(&other)),
        }
        self.ring.cancel_accept(LISTENER);
        match self.next_event()? {
            RingEvent::Accepted { listener: LISTENER, result, is_last: true, .. } => expect_cancelled(result),
            other => Err(unexpected(&other)),
        }
    }

    fn close(&mut self, socket: Descriptor) -> io::Result<()> {
        self.ring.shut_down(ID, socket, Shutdown::Both);
        match self.next_event()? {
            RingEvent::ShutDown { id: ID } => {}
            other => return Err(unexpected(&other)),
        }
        expect(self.client.read(&mut [0])? == 0, "the client saw no end")?;
        self.ring.close(ID, socket);
        match self.next_event()? {
            RingEvent::Closed { id: ID } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn wake(&mut self) -> io::Result<()> {
        let waker = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        self.ring.watch(waker.as_fd());
        self.ring.enter(Wait::No)?;
        rustix::io::write(&waker, &1_u64.to_ne_bytes())?;
        match self.next_event()? {
            RingEvent::Woken { is_last } => expect(!is_last, NO_MORE),
            other => Err(unexpected(&other)),
        }
    }

    fn next_event(&mut self) -> io::Result<RingEvent> {
        next_event(&mut self.ring, self.deadline)
    }
}

/// The next event of a ring, submitted and waited for until `deadline`.
///
/// # Errors
///
/// When nothing comes until then, or the ring is of no use.
pub(super) fn next_event(ring: &mut Ring, deadline: Instant) -> io::Result<RingEvent> {
    loop {
        if let Some(event) = ring.next_event()? {
            return Ok(event);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        expect(!left.is_zero(), "nothing came of it in time")?;
        // No wait ends for what is sent silently, but it is over once it is submitted.
        let wait = if ring.has_submissions() { Wait::No } else { Wait::AtMost(left) };
        ring.enter(wait)?;
    }
}

const NO_MORE: &str = "it came without F_MORE";
const OTHER_BYTES: &str = "other bytes came than were sent";

fn expect(is_so: bool, otherwise: &'static str) -> io::Result<()> {
    if is_so { Ok(()) } else { Err(io::Error::other(otherwise)) }
}

fn expect_cancelled<T>(result: io::Result<T>) -> io::Result<()> {
    match result {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::CANCELED) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other("it went on")),
    }
}

fn unexpected(event: &RingEvent) -> io::Error {
    io::Error::other(format!("something else happened: {event:?}"))
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
