//! The life of a connection as a task: at most one read and one write under way, at the same time. Reading goes on while a
//! write is pending, for a client may send much before it reads.
//!
//! Dropping a read of tokio-uring 0.5 does not cancel it: the bytes that come next would be swallowed. So the task keeps its
//! read until it has ended, and ends it by shutdown(2).

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::task::Poll;

use tokio_uring::buf::BoundedBuf as _;
use tokio_uring::net::TcpStream;

use super::super::Class;
use super::super::connection::Connection;
use super::super::handler::{Handler, Received};
use super::super::listener::PAUSE;
use super::super::outgoing::{Outgoing, Pieces};
use super::super::phase::Phase;
use super::super::shortage::{is_for_want_of_memory, is_momentary};
use super::super::slots::Id;
use super::super::unconfirmed::{descriptor, unconfirmed};
use super::super::wire::Context;
use super::serve::{Counted, Shared};
use crate::memory::HEADROOM;

/// How many events a connection handles before others have their turn, when it never has to wait.
const TURN: u8 = 4;

/// What comes of a write.
type Written = (io::Result<()>, Outgoing);

/// What the task waits for.
enum Event {
    Received(Received),
    Written(Written),
    Deadline,
    /// The deadline, and bytes that never cease.
    Overdue,
    Phase(Phase),
    Nudged,
}

/// Serves a connection to its end. The socket is in blocking mode.
///
/// What an idle connection costs is the size of this future: what is rare lives in boxes, and nothing large is held
/// over an `await` or is an argument of an `async fn`, which would keep it twice.
pub(super) fn serve<H: Handler>(stream: TcpStream, handler: H, counted: Counted) -> impl Future<Output = ()> {
    let mut connection = Connection::new(handler, &counted.shared().common);
    async move {
        let shared = counted.shared();
        let waiter = shared.waiters.enter(poll_fn(|task| Poll::Ready(task.waker().clone())).await);
        let id = shared.name(waiter.key());
        connection.begin(Ok(()), context(shared, id, &stream));
        let mut reading = pin!(None);
        let mut writing = None;
        let mut alarm = None;
        let mut heard = Phase::Running;
        let mut turn = 0_u8;
        let mut is_settled = false;
        while !connection.is_over() {
            if writing.is_none() {
                if let Some((Pieces { first, .. }, _)) = connection.next_send(1, context(shared, id, &stream))
                {
                    writing = Some(Box::pin(write(&stream, first)));
                } else if connection.takes_shut_write(&shared.common) {
                    // The peer may be gone already.
                    let _ = stream.shutdown(Shutdown::Write);
                    continue;
                }
            }
            if connection.is_over() {
                break;
            }
            if reading.is_none() && connection.may_receive(&shared.common) {
                reading.set(Some(receive(&stream, shared, connection.class())));
            }

            shared.pass_nudges();
            let mut waited = false;
            let event = {
                // By value where that is smaller than a pointer: an idle connection holds the closure.
                let is_last = turn == TURN - 1;
                let (connection, writing, alarm) = (&connection, &mut writing, &mut alarm);
                let (waited, mut reading) = (&mut waited, reading.as_mut());
                poll_fn(move |task| {
                    let deadline = connection.deadline();
                    shared.alarms.enter(alarm, id.slot as usize, deadline, &shared.common.clock);
                    if shared.takes_nudge(id) {
                        return Poll::Ready(Event::Nudged);
                    }
                    if let Some(write) = writing
                        && let Poll::Ready(written) = Pin::as_mut(write).poll(task)
                    {
                        return Poll::Ready(Event::Written(written));
                    }
                    if shared.common.phase() != heard {
                        return Poll::Ready(Event::Phase(shared.common.phase()));
                    }
                    // The task reads before it looks at the deadline, for these bytes came in time. After some events it looks at
                    // the deadline first: a flood does not put it off for ever.
                    if is_last && shared.alarms.have_passed(deadline) {
                        return Poll::Ready(Event::Overdue);
                    }
                    if let Some(read) = reading.as_mut().as_pin_mut()
                        && let Poll::Ready(received) = read.poll(task)
                    {
                        return Poll::Ready(Event::Received(received));
                    }
                    if shared.alarms.have_passed(deadline) {
                        return Poll::Ready(Event::Deadline);
                    }
                    *waited = true;
                    Poll::Pending
                })
            };
            match event.await {
                Event::Written(written) => {
                    writing = None;
                    wrote(&mut connection, written, context(shared, id, &stream));
                }
                Event::Received(received) => {
                    reading.set(None);
                    is_settled = false;
                    connection.received(received, context(shared, id, &stream));
                }
                // What is here came in time: it is looked for once before the deadline is held against the peer.
                Event::Deadline if !is_settled => {
                    is_settled = true;
                    Box::pin(settle()).await;
                }
                Event::Deadline | Event::Overdue => {
                    is_settled = false;
                    if connection.asks_unconfirmed() {
                        connection.on_unconfirmed(unconfirmed(&stream).ok());
                    }
                    connection.on_deadline(context(shared, id, &stream));
                }
                Event::Phase(phase) => {
                    heard = phase;
                    connection.on_phase(phase, context(shared, id, &stream));
                }
                Event::Nudged => connection.on_nudged(context(shared, id, &stream)),
            }
            turn = if waited { 0 } else { turn + 1 };
            if turn == TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
        shared.pass_nudges();
        shared.forget(id);
        // The kernel may own buffers still: end what is under way, and have them back. To shut the read side alone sends
        // nothing, so that closing is up to SO_LINGER.
        let is_abrupt = connection.ends_abruptly() && writing.is_none();
        let _ = stream.shutdown(if is_abrupt { Shutdown::Read } else { Shutdown::Both });
        if let Some(write) = writing {
            let written = write.await;
            wrote(&mut connection, written, context(shared, id, &stream));
        }
        if let Some(read) = reading.as_mut().as_pin_mut() {
            drop(read.await);
        }
    }
}

fn context<'a>(shared: &'a Shared, id: Id, stream: &'a TcpStream) -> Context<'a> {
    Context { common: &shared.common, id, socket: Some(descriptor(stream)) }
}

fn wrote<H: Handler>(connection: &mut Connection<H>, (result, outgoing): Written, context: Context<'_>) {
    connection.sent(result.map(|()| outgoing.len()), Pieces::one(outgoing), context);
}

/// One read into a buffer of this class, behind its headroom.
#[expect(clippy::manual_async_fn, reason = "an async fn would keep its arguments twice")]
fn receive(stream: &TcpStream, shared: &Shared, class: Class) -> impl Future<Output = Received> {
    async move {
        loop {
            let Ok(buffer) = shared.pool.take(class) else {
                pause_for_memory().await;
                continue;
            };
            let (result, room) = stream.read(buffer.slice(HEADROOM..)).await;
            match result {
                Ok(0) => return Received::End,
                Ok(len) => return Received::Bytes(room.into_inner(), HEADROOM..HEADROOM + len),
                Err(error) if !is_for_want_of_memory(&error) => return Received::Failed(error),
                Err(_) => drop(room),
            }
            pause_for_memory().await;
        }
    }
}

/// Writes all of it. Not by `write_all` of the crate: after an error it does not say how much went out, and it ends at EINTR.
async fn write(stream: &TcpStream, mut outgoing: Outgoing) -> Written {
    let mut sent = 0;
    while sent < outgoing.len() {
        let (result, slice) = stream.write(outgoing.slice(sent..)).submit().await;
        outgoing = slice.into_inner();
        match result {
            Ok(0) => return (Err(ErrorKind::WriteZero.into()), outgoing),
            Ok(more) => sent += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if is_momentary(&error) => pause_for_memory().await,
            Err(error) => return (Err(error), outgoing),
        }
    }
    (Ok(()), outgoing)
}

/// Waits until the read that is under way has seen everything that came before: a busy worker hears of it late.
async fn settle() {
    // Completions come in order. What had come when the first one was submitted completes before the second one is.
    for _ in 0..2 {
        let _ = tokio_uring::no_op().await;
    }
}

/// Waits until the kernel may have memory. In a box, so that no idle connection holds the timer.
fn pause_for_memory() -> Pin<Box<impl Future<Output = ()>>> {
    Box::pin(tokio::time::sleep(PAUSE))
}
