//! The life of a connection over any stream that takes and gives back owned buffers.
//!
//! One loop: it keeps at most one read and one write under way, at the same time, and hands what comes of them to the
//! [`Session`]. Reading goes on while a write is pending, for a client may send much before it reads.

use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use tokio::time::{Instant, Sleep, sleep_until};

use super::Context;
use super::pool::{Buffer, Class};
use super::session::{Outgoing, Session, Start};
use crate::server::{Admission, Phase};

/// How many events a connection handles before others have their turn, when it never has to wait.
const TURN: usize = 32;

/// A connected socket. Buffers are moved in and come back with the result, for the kernel may own them meanwhile.
pub(super) trait Stream {
    /// Resolves when a read need not wait, where the engine can tell; else at once.
    async fn readable(&self) -> io::Result<()>;

    /// Reads into `buffer`, behind its headroom; 0 is the end of the stream.
    async fn read(&self, buffer: Buffer) -> (io::Result<usize>, Buffer);

    /// Writes all of `outgoing`.
    async fn write_all(&self, outgoing: Outgoing) -> (io::Result<()>, Outgoing);

    /// shutdown(2).
    fn shutdown(&self, how: Shutdown) -> io::Result<()>;
}

/// What the loop waits for.
enum Event {
    Received(io::Result<usize>, Option<Buffer>),
    Sent(io::Result<()>, Outgoing),
    Deadline,
    Phase(Phase),
}

/// Serves a connection to its end.
pub(super) async fn serve<S: Stream>(
    stream: S,
    start: Start,
    context: Rc<Context>,
    admission: Option<Admission>,
) {
    let _presence = context.enter(admission.is_none());
    let mut session = Session::new(start, Rc::clone(&context));
    let mut reading = pin!(None);
    let mut writing = pin!(None);
    let mut timer = Timer::default();
    let mut listener = None;
    let mut heard = Phase::Running;
    let mut is_settled = false;
    let mut turn = 0;
    while !session.is_over() {
        if writing.is_none() {
            if let Some(outgoing) = session.next_outgoing() {
                writing.set(Some(stream.write_all(outgoing)));
            } else if session.should_end_writing() {
                // The peer may be gone already.
                let _ = stream.shutdown(Shutdown::Write);
                session.on_writing_ended();
                continue;
            }
        }
        if reading.is_none() && session.may_read() {
            reading.set(Some(receive(&stream, &context, session.class())));
        }
        timer.set(session.deadline());

        let mut waited = false;
        let event = poll_fn(|task| {
            if let Some(write) = writing.as_mut().as_pin_mut()
                && let Poll::Ready((result, outgoing)) = write.poll(task)
            {
                return Poll::Ready(Event::Sent(result, outgoing));
            }
            if let Some(read) = reading.as_mut().as_pin_mut()
                && let Poll::Ready((result, buffer)) = read.poll(task)
            {
                return Poll::Ready(Event::Received(result, buffer));
            }
            if timer.poll(task).is_ready() {
                return Poll::Ready(Event::Deadline);
            }
            if context.drain.phase() != heard {
                return Poll::Ready(Event::Phase(context.drain.phase()));
            }
            listener.get_or_insert_with(|| context.drain.listen(task.waker().clone()));
            waited = true;
            Poll::Pending
        })
        .await;

        match event {
            Event::Sent(result, outgoing) => {
                writing.set(None);
                session.on_sent(&result, outgoing);
            }
            Event::Received(result, buffer) => {
                reading.set(None);
                session.on_received(result, buffer);
                is_settled = false;
            }
            Event::Deadline => session.on_deadline(),
            Event::Phase(Phase::Draining) if !is_settled => {
                // What has arrived by now is received first: let the reactor look.
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
                is_settled = true;
            }
            Event::Phase(phase) => {
                heard = phase;
                session.on_phase(phase);
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
    if let Some(write) = writing.as_mut().as_pin_mut() {
        let (result, outgoing) = write.await;
        session.on_sent(&result, outgoing);
    }
    if let Some(read) = reading.as_mut().as_pin_mut()
        && let (_, Some(buffer)) = read.await
    {
        context.pool.give(buffer);
    }
}

/// One read. The buffer is taken only once there is something to read.
async fn receive<S: Stream>(
    stream: &S,
    context: &Context,
    class: Class,
) -> (io::Result<usize>, Option<Buffer>) {
    if let Err(error) = stream.readable().await {
        return (Err(error), None);
    }
    let (result, buffer) = stream.read(context.pool.take(class)).await;
    (result, Some(buffer))
}

/// A deadline that moves. It owns heap only while there is one.
#[derive(Default)]
struct Timer {
    at: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    fn set(&mut self, at: Option<Instant>) {
        if self.at != at {
            self.at = at;
            self.sleep = at.map(|at| Box::pin(sleep_until(at)));
        }
    }

    fn poll(&mut self, task: &mut std::task::Context<'_>) -> Poll<()> {
        self.sleep.as_mut().map_or(Poll::Pending, |sleep| sleep.as_mut().poll(task))
    }
}
