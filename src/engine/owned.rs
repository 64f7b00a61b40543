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

use super::Context;
use super::buffer::Class;
use super::outgoing::Outgoing;
use super::pool::PooledBuffer;
use super::session::{Session, Start};
use crate::engine::Phase;
use crate::limits::Admission;

/// How many events a connection handles before others have their turn, when it never has to wait.
const TURN: u8 = 4;

/// A connected socket. Buffers are moved in and come back with the result, for the kernel may own them meanwhile.
pub(super) trait Stream {
    /// Resolves when a read need not wait, where the engine can tell; else at once.
    async fn readable(&self) -> io::Result<()>;

    /// Reads into `buffer`, behind its headroom; 0 is the end of the stream.
    async fn read(&self, buffer: PooledBuffer) -> (io::Result<usize>, PooledBuffer);

    /// Resolves once what had come before is known to a read that is under way: a busy worker hears of it late.
    async fn settle(&self);

    /// Writes what the socket takes without waiting, where the engine can; else nothing.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Writes all of `outgoing` but its first `sent` bytes.
    async fn write_rest(&self, outgoing: Outgoing<PooledBuffer>, sent: usize) -> Sent;

    /// How much of what was written the peer has not confirmed: [`unconfirmed`](super::unconfirmed::unconfirmed).
    fn untaken(&self) -> io::Result<u32>;

    /// shutdown(2).
    fn shutdown(&self, how: Shutdown) -> io::Result<()>;
}

/// What comes of a write.
pub(super) type Sent = (io::Result<()>, Outgoing<PooledBuffer>);

/// What the loop waits for.
enum Event {
    Received(io::Result<usize>, Option<PooledBuffer>),
    Sent(io::Result<()>, Outgoing<PooledBuffer>),
    Deadline,
    /// The deadline, and bytes that never cease.
    Overdue,
    Phase(Phase),
}

/// Serves a connection to its end.
///
/// What an idle connection costs is the size of this future: what is rare lives in boxes, and nothing large is held
/// over an `await` or is an argument of an `async fn`, which would keep it twice.
pub(super) fn serve<S: Stream>(
    stream: S,
    start: Start,
    context: Rc<Context>,
    admission: Option<Admission>,
) -> impl Future<Output = ()> {
    let mut session = Session::new(start, &context, admission);
    async move {
        let mut reading = pin!(None);
        let mut writing = None;
        let mut alarm = None;
        let mut listener = None;
        let mut heard = Phase::Running;
        let mut turn = 0_u8;
        let mut is_settled = false;
        while !session.is_over() {
            if writing.is_none() {
                writing = write(&stream, &mut session);
                if session.is_over() {
                    // The peer was found gone. With no read under way nothing else would say so.
                    break;
                }
                if writing.is_none() && session.has_outgoing() {
                    tokio::task::yield_now().await;
                    continue;
                }
                if writing.is_none() && session.should_end_writing() {
                    // The peer may be gone already.
                    let _ = stream.shutdown(Shutdown::Write);
                    session.on_writing_ended();
                    continue;
                }
            }
            if reading.is_none() {
                if session.may_read() {
                    reading.set(Some(receive(&stream, &context, session.class())));
                } else {
                    session.on_not_read();
                }
            }

            let mut waited = false;
            let event = {
                // By value where that is smaller than a pointer: an idle connection holds the closure.
                let is_last = turn == TURN - 1;
                let (context, session, writing, alarm) = (&*context, &mut session, &mut writing, &mut alarm);
                let (listener, waited, mut reading) = (&mut listener, &mut waited, reading.as_mut());
                poll_fn(move |task| {
                    let key =
                        listener.get_or_insert_with(|| context.drain.listen(task.waker().clone())).key();
                    let deadline = session.deadline();
                    context.alarms.enter(alarm, key, deadline, &context.clock);
                    if let Some(write) = writing
                        && let Poll::Ready((result, outgoing)) = write.as_mut().poll(task)
                    {
                        return Poll::Ready(Event::Sent(result, outgoing));
                    }
                    if context.drain.phase() != heard {
                        return Poll::Ready(Event::Phase(context.drain.phase()));
                    }
                    // A read comes before a deadline, for what is here came in time. But a peer whose bytes never cease
                    // does not put the deadline off for ever.
                    if is_last && context.alarms.have_passed(deadline) {
                        return Poll::Ready(Event::Overdue);
                    }
                    if let Some(read) = reading.as_mut().as_pin_mut()
                        && let Poll::Ready((result, buffer)) = read.poll(task)
                    {
                        return Poll::Ready(Event::Received(result, buffer));
                    }
                    if context.alarms.have_passed(deadline) {
                        return Poll::Ready(Event::Deadline);
                    }
                    *waited = true;
                    Poll::Pending
                })
            };
            match event.await {
                Event::Sent(result, outgoing) => {
                    writing = None;
                    session.on_sent(&result, outgoing);
                }
                Event::Received(result, buffer) => {
                    reading.set(None);
                    is_settled = false;
                    session.on_received(result, buffer);
                }
                // What is here came in time: it is looked for once before the deadline is held against the peer.
                Event::Deadline if !is_settled => {
                    is_settled = true;
                    Box::pin(stream.settle()).await;
                }
                Event::Deadline | Event::Overdue => {
                    is_settled = false;
                    if session.asks_untaken() {
                        session.on_untaken(stream.untaken().ok());
                    }
                    session.on_deadline();
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
        if let Some(write) = writing {
            let (result, outgoing) = write.await;
            session.on_sent(&result, outgoing);
        }
        if let Some(read) = reading.as_mut().as_pin_mut() {
            drop(read.await);
        }
    }
}

/// Writes what is due as far as the socket takes it. What has to be waited for is the future that comes back: rare on
/// epoll, and so in a box.
fn write<'a, S: Stream>(
    stream: &'a S,
    session: &mut Session<PooledBuffer>,
) -> Option<Pin<Box<impl Future<Output = Sent> + use<'a, S>>>> {
    for _ in 0..TURN {
        let outgoing = session.next_outgoing()?;
        match stream.try_write(outgoing.bytes()) {
            Ok(sent) if sent == outgoing.bytes().len() => session.on_sent(&Ok(()), outgoing),
            Ok(sent) => return Some(Box::pin(stream.write_rest(outgoing, sent))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Some(Box::pin(stream.write_rest(outgoing, 0)));
            }
            Err(error) => session.on_sent(&Err(error), outgoing),
        }
    }
    None
}

/// One read. The buffer is taken only once there is something to read.
#[expect(clippy::manual_async_fn, reason = "an async fn would keep its arguments twice")]
fn receive<S: Stream>(
    stream: &S,
    context: &Context,
    class: Class,
) -> impl Future<Output = (io::Result<usize>, Option<PooledBuffer>)> {
    async move {
        if let Err(error) = stream.readable().await {
            return (Err(error), None);
        }
        let (result, buffer) = stream.read(context.pool.take(class)).await;
        (result, Some(buffer))
    }
}

#[cfg(test)]
mod tests {
    use super::super::epoll::EpollStream;
    use super::*;

    /// With what tokio adds to it (some 110 bytes) a task takes 512 bytes, and its socket's registration 256.
    #[test]
    fn an_idle_connection_is_small() {
        fn size_of_output<F>(
            _: impl FnOnce(EpollStream, Start, Rc<Context>, Option<Admission>) -> F,
        ) -> usize {
            size_of::<F>()
        }
        let size = size_of_output(serve::<EpollStream>);

        assert!(size <= 400, "{size} bytes");
    }
}
