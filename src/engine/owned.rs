//! The life of a connection over any stream that takes and gives back owned buffers.
//!
//! One loop: it keeps at most one read and one write under way, at the same time, and hands what comes of them to the
//! [`Handler`]. Reading goes on while a write is pending, for a client may send much before it reads.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Shutdown};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use rustix::io::Errno;

use super::buffers::{Buffer, Class};
use super::clock::Moment;
use super::handler::Received;
use super::listener::PAUSE;
use super::outgoing::Outgoing;
use super::{Common, Handler, Phase};

/// How many events a connection handles before others have their turn, when it never has to wait.
const TURN: u8 = 4;

/// A connected socket. Buffers are moved in and come back with the result, for the kernel may own them meanwhile.
pub(super) trait Stream {
    /// Resolves when a read need not wait, where the engine can tell; else at once.
    async fn readable(&self) -> io::Result<()>;

    /// Reads into `buffer`, behind its headroom; 0 is the end of the stream.
    async fn read(&self, buffer: Buffer) -> (io::Result<usize>, Buffer);

    /// Resolves once what had come before is known to a read that is under way: a busy worker hears of it late.
    async fn settle(&self);

    /// Writes what the socket takes without waiting, where the engine can; else nothing.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Writes all of `outgoing` but its first `sent` bytes.
    async fn write_rest(&self, outgoing: Outgoing, sent: usize) -> Sent;

    /// How much of what was written the peer has not confirmed: [`unconfirmed`](super::unconfirmed::unconfirmed).
    fn untaken(&self) -> io::Result<u32>;

    /// The address of the peer, where it has one.
    fn peer(&self) -> Option<IpAddr>;

    /// shutdown(2).
    fn shutdown(&self, how: Shutdown) -> io::Result<()>;
}

/// What comes of a write.
pub(super) type Sent = (io::Result<()>, Outgoing);

/// What the loop waits for.
enum Event {
    Received(Received),
    Sent(io::Result<()>, Outgoing),
    Deadline,
    /// The deadline, and bytes that never cease.
    Overdue,
    Phase(Phase),
}

/// Serves a connection to its end.
///
/// What an idle connection costs is the size of this future: what is rare lives in boxes, and nothing large is held
/// over an `await` or is an argument of an `async fn`, which would keep it twice.
#[expect(clippy::manual_async_fn, reason = "an async fn would keep its arguments twice")]
pub(super) fn serve<S: Stream, H: Handler>(
    stream: S,
    mut handler: H,
    common: Rc<Common>,
) -> impl Future<Output = ()> {
    async move {
        let mut reading = pin!(None);
        let mut writing = None;
        let mut alarm = None;
        let mut listener = None;
        let mut heard = Phase::Running;
        let mut turn = 0_u8;
        let mut is_settled = false;
        while !handler.is_over() {
            if writing.is_none() {
                let has_more;
                (writing, has_more) = write(&stream, &mut handler);
                if handler.is_over() {
                    // The peer was found gone. With no read under way nothing else would say so.
                    break;
                }
                if has_more {
                    tokio::task::yield_now().await;
                    continue;
                }
                if writing.is_none() && handler.ends_writing() {
                    // The peer may be gone already.
                    let _ = stream.shutdown(Shutdown::Write);
                    continue;
                }
            }
            if reading.is_none() && handler.may_receive() {
                reading.set(Some(receive(&stream, &common, handler.class())));
            }

            let mut waited = false;
            let event = {
                // By value where that is smaller than a pointer: an idle connection holds the closure.
                let is_last = turn == TURN - 1;
                let (common, handler, writing, alarm) = (&*common, &handler, &mut writing, &mut alarm);
                let (listener, waited, mut reading) = (&mut listener, &mut waited, reading.as_mut());
                poll_fn(move |task| {
                    let key = listener.get_or_insert_with(|| common.drain.listen(task.waker().clone())).key();
                    let deadline = handler.deadline().map(Moment::at_millis);
                    common.alarms.enter(alarm, key, deadline, &common.clock);
                    if let Some(write) = writing
                        && let Poll::Ready((result, outgoing)) = write.as_mut().poll(task)
                    {
                        return Poll::Ready(Event::Sent(result, outgoing));
                    }
                    if common.drain.phase() != heard {
                        return Poll::Ready(Event::Phase(common.drain.phase()));
                    }
                    // A read comes before a deadline, for what is here came in time. But a peer whose bytes never cease
                    // does not put the deadline off for ever.
                    if is_last && common.alarms.have_passed(deadline) {
                        return Poll::Ready(Event::Overdue);
                    }
                    if let Some(read) = reading.as_mut().as_pin_mut()
                        && let Poll::Ready(received) = read.poll(task)
                    {
                        return Poll::Ready(Event::Received(received));
                    }
                    if common.alarms.have_passed(deadline) {
                        return Poll::Ready(Event::Deadline);
                    }
                    *waited = true;
                    Poll::Pending
                })
            };
            match event.await {
                Event::Sent(result, outgoing) => {
                    writing = None;
                    handler.on_sent(result, outgoing);
                }
                Event::Received(received) => {
                    reading.set(None);
                    is_settled = false;
                    handler.on_received(received);
                }
                // What is here came in time: it is looked for once before the deadline is held against the peer.
                Event::Deadline if !is_settled => {
                    is_settled = true;
                    Box::pin(stream.settle()).await;
                }
                Event::Deadline | Event::Overdue => {
                    is_settled = false;
                    if handler.asks_untaken() {
                        handler.on_untaken(stream.untaken().ok());
                    }
                    handler.on_deadline(|| stream.peer());
                }
                Event::Phase(phase) => {
                    heard = phase;
                    handler.on_phase(phase);
                }
            }
            turn = if waited { 0 } else { turn + 1 };
            if turn == TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
        // The kernel may own buffers still: end what is under way, and have them back.
        let _ = stream.shutdown(Shutdown::Both);
        if let Some(write) = writing {
            let (result, outgoing) = write.await;
            handler.on_sent(result, outgoing);
        }
        if let Some(read) = reading.as_mut().as_pin_mut() {
            drop(read.await);
        }
    }
}

/// Writes what is due as far as the socket takes it. What has to be waited for is the future that comes back: rare on
/// epoll, and so in a box. The second value is true if others should have their turn before the rest is written.
fn write<'a, S: Stream, H: Handler>(
    stream: &'a S,
    handler: &mut H,
) -> (Option<Pin<Box<impl Future<Output = Sent> + use<'a, S, H>>>>, bool) {
    for _ in 0..TURN {
        let Some(outgoing) = handler.next_outgoing() else {
            return (None, false);
        };
        let sent = match stream.try_write(outgoing.bytes()) {
            Ok(sent) if sent == outgoing.bytes().len() => {
                handler.on_sent(Ok(()), outgoing);
                continue;
            }
            Ok(sent) => sent,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
                    || is_for_want_of_memory(&error) =>
            {
                0
            }
            Err(error) => {
                handler.on_sent(Err(error), outgoing);
                continue;
            }
        };
        return (Some(Box::pin(stream.write_rest(outgoing, sent))), false);
    }
    (None, true)
}

/// One read. The buffer is taken only once there is something to read.
#[expect(clippy::manual_async_fn, reason = "an async fn would keep its arguments twice")]
fn receive<S: Stream>(stream: &S, common: &Common, class: Class) -> impl Future<Output = Received> {
    async move {
        loop {
            stream.readable().await?;
            let Ok(buffer) = common.pool.take(class) else {
                pause_for_memory().await;
                continue;
            };
            let (result, buffer) = stream.read(buffer).await;
            if !result.as_ref().is_err_and(is_for_want_of_memory) {
                return result.map(|len| (len > 0).then_some((buffer, len)));
            }
            drop((result, buffer));
            pause_for_memory().await;
        }
    }
}

/// Whether the kernel had no memory for an operation at the moment: it is begun again.
pub(super) fn is_for_want_of_memory(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOBUFS | Errno::NOMEM))
}

/// Waits before that. In a box, so that no idle connection holds the timer.
pub(super) fn pause_for_memory() -> Pin<Box<impl Future<Output = ()>>> {
    Box::pin(tokio::time::sleep(PAUSE))
}
