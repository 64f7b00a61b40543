//! A connection between its socket and the protocol: what to read, what to send, when to end. It does no I/O.
//!
//! How a connection ends (RFC 6455 §7.1.1): the last bytes are sent, then the write side is shut, then what still
//! comes is read and dropped until the peer ends too. Closing at once would make the kernel answer unread bytes with
//! RST, and the peer would lose our Close.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{self, Poll};
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use tokio::time::{Sleep, sleep};

use super::Context;
use super::context::Presence;
use super::pool::{Buffer, Class, SMALL};
use crate::proto::budget::Charge;
use crate::proto::handshake::{Handshake, Refusal, Step, page_response};
use crate::proto::{Connection, Gathered, HEADROOM, Progress, Standing, close};
use crate::server::{Admission, Phase};

/// How long each of the last writes may take: a peer that goes on reading gets everything.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// How long, and how many bytes long, the peer's end is waited for after ours.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 4 << 20;

/// At a drain, what arrives within this time of the last bytes counts as received before.
const DRAIN_QUIET: Duration = Duration::from_millis(50);

/// At a drain, how long a peer that never pauses is echoed: no longer than half of the drain's timeout. From then on
/// its Close is due at the next end of a message.
const DRAIN_BUSY: Duration = Duration::from_secs(1);

/// At a drain, how long the rest of a message that has begun is waited for: no longer than a quarter of its timeout.
const DRAIN_MESSAGE: Duration = Duration::from_secs(1);

/// How many received buffers may wait to be sent; further replies are copied to the heap.
const BUFFERS_SHARE: usize = 4;

/// How many bytes of replies are put together on the heap.
const SPILL_CHUNK: usize = 64 << 10;

/// After so many receives of less than a small buffer in a row, small buffers do again.
const SHORT_RECEIVES: u8 = 16;

/// How a connection begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// With the client's handshake.
    Handshake,
    /// With a refusal, whatever the client asks for.
    Refuse(Refusal),
}

/// Bytes to send.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// A reply in the buffer that its request was received into.
    Received { buffer: Buffer, range: Range<usize>, charge: Charge },
    /// Bytes of our own.
    Heap { bytes: BytesMut, charge: Charge },
}

impl Outgoing {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Received { buffer, range, .. } => &buffer.bytes[range.clone()],
            Self::Heap { bytes, .. } => bytes,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Received { range, .. } => range.len(),
            Self::Heap { bytes, .. } => bytes.len(),
        }
    }
}

/// One connection.
pub(super) struct Session {
    /// Its place among the connections of the worker, and what they share.
    presence: Presence,
    stage: Stage,
    /// What is sent next, and what comes behind it. The queue owns heap only while a peer is slow.
    next: Option<Outgoing>,
    #[expect(clippy::box_collection, reason = "an idle connection holds 8 bytes for it instead of 32")]
    queue: Option<Box<VecDeque<Outgoing>>>,
    /// Bytes in the queue and under way.
    unsent: usize,
    /// Bytes under way; `in_flight <= unsent`.
    in_flight: usize,
    /// Of the handshake, of the next step of a farewell, of a last write, or of lingering: as the stage has it.
    deadline: Option<Pin<Box<Sleep>>>,
    class: Class,
    short_receives: u8,
    /// How many buffers are in the queue.
    queued_buffers: u8,
    /// The peer has ended its side.
    end_of_stream: bool,
    is_paused: bool,
    farewell: Farewell,
}

enum Stage {
    /// The client's request is awaited.
    Handshake(Handshake),
    /// WebSocket.
    Open(Connection),
    /// What is queued is sent, then the write side is shut.
    Flushing { discarded: usize },
    /// The write side is shut, and the peer's end is awaited.
    Lingering { discarded: usize },
    /// There is nothing more to do.
    Over,
}

/// What an open connection waits for before its Close(1001).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    /// Nothing: there is no drain, or the Close is given out.
    NotDue,
    /// That nothing comes for a while.
    Quiet,
    /// The rest of a message.
    Message,
}

impl Session {
    /// A connection that was just accepted.
    pub(super) fn new(start: Start, context: &Rc<Context>, admission: Option<Admission>) -> Self {
        let timeout = context.shared.config.handshake_timeout;
        let mut session = Self {
            presence: context.enter(admission),
            stage: Stage::Handshake(Handshake::new()),
            next: None,
            queue: None,
            unsent: 0,
            in_flight: 0,
            deadline: Some(Box::pin(sleep(timeout))),
            class: Class::Small,
            short_receives: 0,
            queued_buffers: 0,
            end_of_stream: false,
            is_paused: false,
            farewell: Farewell::NotDue,
        };
        if let Start::Refuse(refusal) = start {
            session.refuse(refusal);
        }
        session
    }

    /// Whether the socket can be given up.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// What to send next. At most one write is under way.
    pub(super) fn next_outgoing(&mut self) -> Option<Outgoing> {
        debug_assert_eq!(self.in_flight, 0, "one write at a time");
        let outgoing = self.next.take()?;
        if let Some(queue) = &mut self.queue {
            self.next = queue.pop_front();
            if queue.is_empty() {
                self.queue = None;
            }
        }
        self.queued_buffers -= u8::from(matches!(outgoing, Outgoing::Received { .. }));
        self.in_flight = outgoing.len();
        Some(outgoing)
    }

    /// Whether there is anything to send next.
    pub(super) const fn has_outgoing(&self) -> bool {
        self.next.is_some()
    }

    /// Whether everything is sent that ever will be.
    pub(super) fn should_end_writing(&self) -> bool {
        matches!(self.stage, Stage::Flushing { .. }) && self.unsent == 0
    }

    /// The write side is shut.
    pub(super) fn on_writing_ended(&mut self) {
        if matches!(self.stage, Stage::Flushing { .. }) {
            self.stage = if self.end_of_stream { Stage::Over } else { Stage::Lingering { discarded: 0 } };
            self.deadline = Some(Box::pin(sleep(LINGER_TIMEOUT)));
        }
    }

    /// Whether to read: not beyond what may be unsent. A connection that owes nothing may always read, so that those
    /// who use the budget up do not stop the others.
    pub(super) fn may_read(&self) -> bool {
        let config = &self.presence.context.shared.config;
        let budget = &self.presence.context.settings.budget;
        match self.stage {
            _ if self.end_of_stream => false,
            Stage::Over => false,
            Stage::Flushing { discarded } => discarded <= LINGER_BYTES,
            Stage::Open(_) if self.unsent > 0 => {
                self.unsent < config.unsent_limit && !budget.is_exhausted_for(config.receive_buffer_size)
            }
            _ => true,
        }
    }

    /// It is not read from for now: counted once, until it is again.
    pub(super) fn on_not_read(&mut self) {
        if !self.is_paused && !self.end_of_stream {
            self.is_paused = true;
            self.presence.context.stats.read_pauses.add(1);
        }
    }

    /// The buffer that the next read takes.
    pub(super) const fn class(&self) -> Class {
        self.class
    }

    /// Resolves when [`Self::on_deadline`] is due.
    pub(super) fn poll_deadline(&mut self, task: &mut task::Context<'_>) -> Poll<()> {
        self.deadline.as_mut().map_or(Poll::Pending, |sleep| sleep.as_mut().poll(task))
    }

    /// A read has ended.
    pub(super) fn on_received(&mut self, result: io::Result<usize>, buffer: Option<Buffer>) {
        let received = match result {
            Ok(received) => received,
            Err(error) => {
                if let Some(buffer) = buffer {
                    self.presence.context.pool.give(buffer);
                }
                if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
                    // Reset by the peer: nobody is left to send to.
                    self.stage = Stage::Over;
                }
                return;
            }
        };
        let Some(buffer) = buffer else {
            return;
        };
        if received == 0 {
            self.presence.context.pool.give(buffer);
            self.on_end_of_stream();
            return;
        }
        self.is_paused = false;
        self.adapt_class(received, buffer.room());
        match &mut self.stage {
            Stage::Open(_) => {
                self.receive(buffer, HEADROOM..HEADROOM + received);
                self.await_farewell();
            }
            Stage::Handshake(handshake) => {
                let filled = HEADROOM..HEADROOM + received;
                let step =
                    handshake.receive(&buffer.bytes[filled.clone()], &self.presence.context.shared.rules);
                self.on_handshake(step, buffer, filled);
            }
            // What we owe is sent first, however much comes; past the limit it is not read.
            Stage::Flushing { discarded } => {
                *discarded += received;
                self.presence.context.pool.give(buffer);
            }
            Stage::Lingering { discarded } => {
                *discarded += received;
                let too_much = *discarded > LINGER_BYTES;
                self.presence.context.pool.give(buffer);
                if too_much {
                    self.cut();
                }
            }
            Stage::Over => self.presence.context.pool.give(buffer),
        }
    }

    /// A write has ended.
    pub(super) fn on_sent(&mut self, result: &io::Result<()>, outgoing: Outgoing) {
        self.unsent -= self.in_flight;
        self.in_flight = 0;
        if let Outgoing::Received { buffer, .. } = outgoing {
            self.presence.context.pool.give(buffer);
        }
        if result.is_err() {
            self.stage = Stage::Over;
        }
        if matches!(self.stage, Stage::Flushing { .. }) {
            self.deadline = Some(Box::pin(sleep(FLUSH_TIMEOUT)));
        }
    }

    /// The deadline has passed.
    pub(super) fn on_deadline(&mut self) {
        self.deadline = None;
        match &mut self.stage {
            Stage::Handshake(_) => self.refuse(Refusal::Timeout),
            Stage::Open(connection) => {
                if self.farewell == Farewell::Quiet && connection.is_mid_message() {
                    self.await_message();
                } else {
                    self.say_farewell();
                }
            }
            Stage::Flushing { .. } | Stage::Lingering { .. } => self.cut(),
            Stage::Over => {}
        }
    }

    /// The phase of the server has changed.
    pub(super) fn on_phase(&mut self, phase: Phase) {
        match (phase, &self.stage) {
            (Phase::Stopping, _) => self.cut(),
            (Phase::Draining, Stage::Handshake(_)) => self.refuse(Refusal::Draining),
            (Phase::Draining, Stage::Open(_)) => {
                self.farewell = Farewell::Quiet;
                self.await_farewell();
            }
            _ => {}
        }
    }

    /// At a drain, the Close is due once nothing more comes and no message is unfinished. A peer that never pauses
    /// gets it at the end of a message.
    fn await_farewell(&mut self) {
        let Stage::Open(connection) = &self.stage else {
            return;
        };
        let context = &self.presence.context;
        let is_busy = context.drain.elapsed() > DRAIN_BUSY.min(context.shared.config.drain_timeout / 2);
        match (self.farewell, connection.is_mid_message()) {
            (Farewell::NotDue, _) | (Farewell::Message, true) => {}
            (Farewell::Quiet, true) if is_busy => self.await_message(),
            (Farewell::Quiet | Farewell::Message, false) if is_busy => self.say_farewell(),
            (Farewell::Quiet, _) | (Farewell::Message, false) => {
                self.farewell = Farewell::Quiet;
                self.deadline = Some(Box::pin(sleep(DRAIN_QUIET)));
            }
        }
    }

    fn await_message(&mut self) {
        self.farewell = Farewell::Message;
        let timeout = self.presence.context.shared.config.drain_timeout / 4;
        self.deadline = Some(Box::pin(sleep(DRAIN_MESSAGE.min(timeout))));
    }

    /// Gives out Close(1001). From then on the peer's is awaited, as long as the drain lasts.
    fn say_farewell(&mut self) {
        self.farewell = Farewell::NotDue;
        self.deadline = None;
        let Stage::Open(connection) = &mut self.stage else {
            return;
        };
        let frame = connection.close(close::GOING_AWAY);
        let is_closed = connection.standing() == Standing::Closed;
        if let Some(frame) = frame {
            self.push_bytes(&frame);
        }
        if is_closed {
            self.flush();
        }
    }

    fn on_handshake(&mut self, step: Step, buffer: Buffer, filled: Range<usize>) {
        match step {
            Step::More => {}
            Step::Accepted { response, consumed } => {
                self.presence.context.stats.handshakes.add(1);
                self.deadline = None;
                self.push_bytes(&response);
                self.stage = Stage::Open(Connection::new(Rc::clone(&self.presence.context.settings)));
                let frames = filled.start + consumed..filled.end;
                if !frames.is_empty() {
                    return self.receive(buffer, frames);
                }
            }
            Step::Page => {
                self.presence.context.stats.refusals.add(1);
                self.push_bytes(&page_response(&self.presence.context.shared.rules.page, &date()));
                self.flush();
            }
            Step::Refused(refusal) => self.refuse(refusal),
        }
        self.presence.context.pool.give(buffer);
    }

    /// Feeds the protocol and queues its reply.
    fn receive(&mut self, mut buffer: Buffer, filled: Range<usize>) {
        let Stage::Open(connection) = &mut self.stage else {
            return self.presence.context.pool.give(buffer);
        };
        let Progress { head, mut body, tail, standing, counts } =
            connection.receive(&mut buffer.bytes, filled);
        self.presence.context.stats.add(&counts);
        if let Some(head) = head {
            self.push_gathered(*head);
        }
        let mut tail = tail.as_ref().map(<[u8; 4]>::as_slice);
        if let Some(frame) = tail
            && let Some(behind) = buffer.bytes.get_mut(body.end..body.end + frame.len())
            && !body.is_empty()
        {
            behind.copy_from_slice(frame);
            body.end += frame.len();
            tail = None;
        }
        self.push_received(buffer, body);
        if let Some(frame) = tail {
            self.push_bytes(frame);
        }
        match standing {
            Standing::Open | Standing::Closing => {}
            Standing::Closed => self.flush(),
            Standing::Failed(error) => {
                tracing::debug!(%error, "a peer broke the protocol");
                self.presence.context.stats.protocol_errors.add(1);
                self.flush();
            }
        }
    }

    fn on_end_of_stream(&mut self) {
        self.end_of_stream = true;
        match self.stage {
            Stage::Open(_) | Stage::Flushing { .. } => self.flush(),
            Stage::Handshake(_) | Stage::Lingering { .. } | Stage::Over => self.stage = Stage::Over,
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        tracing::debug!(reason = %refusal, "a request was refused");
        self.presence.context.stats.refusals.add(1);
        self.push_bytes(&refusal.response(&date()));
        self.flush();
    }

    /// Nothing more is to be said: send what is queued, then end.
    fn flush(&mut self) {
        if !matches!(self.stage, Stage::Flushing { .. }) {
            self.stage = Stage::Flushing { discarded: 0 };
            self.deadline = Some(Box::pin(sleep(FLUSH_TIMEOUT)));
        }
    }

    fn cut(&mut self) {
        self.presence.context.stats.cuts.add(1);
        self.stage = Stage::Over;
    }

    /// Big buffers once a small one was filled, small ones after some short receives.
    fn adapt_class(&mut self, received: usize, room: usize) {
        if received == room {
            self.class = Class::Big;
        }
        self.short_receives = if received < SMALL { self.short_receives + 1 } else { 0 };
        if self.short_receives == SHORT_RECEIVES {
            self.short_receives = 0;
            self.class = Class::Small;
        }
    }

    /// Queues a reply that lies in a receive buffer. Behind a peer that is slow to take them, replies much smaller
    /// than their buffer, and those beyond the connection's share of buffers, are copied to the heap.
    fn push_received(&mut self, buffer: Buffer, range: Range<usize>) {
        if range.is_empty() {
            return self.presence.context.pool.give(buffer);
        }
        let must_wait = self.unsent > 0;
        let is_worth_a_buffer = range.len() >= buffer.bytes.len() / 4;
        if must_wait && (!is_worth_a_buffer || usize::from(self.queued_buffers) >= BUFFERS_SHARE) {
            self.presence.context.stats.bytes_spilled.add(range.len() as u64);
            self.push_bytes(&buffer.bytes[range]);
            return self.presence.context.pool.give(buffer);
        }
        let charge = self.presence.context.settings.budget.charge(buffer.bytes.len());
        self.push(Outgoing::Received { buffer, range, charge });
    }

    /// Queues a gathered frame. Behind a peer that is slow to take them, short ones are put together: each for itself
    /// takes more memory than it has bytes.
    fn push_gathered(&mut self, gathered: Gathered) {
        let Gathered { bytes, charge } = gathered;
        if self.unsent > 0 && bytes.len() < SMALL {
            self.presence.context.stats.bytes_spilled.add(bytes.len() as u64);
            self.push_bytes(&bytes);
        } else {
            self.push(Outgoing::Heap { bytes, charge });
        }
    }

    /// Queues bytes that are copied to the heap, behind others there if it has room.
    fn push_bytes(&mut self, more: &[u8]) {
        if let Some(Outgoing::Heap { bytes, charge }) =
            self.queue.as_mut().and_then(|queue| queue.back_mut()).or(self.next.as_mut())
            && bytes.len() + more.len() <= SPILL_CHUNK
        {
            let before = bytes.capacity();
            bytes.extend_from_slice(more);
            charge.grow(bytes.capacity().saturating_sub(before));
            self.unsent += more.len();
            return;
        }
        let bytes = BytesMut::from(more);
        let charge = self.presence.context.settings.budget.charge(bytes.capacity());
        self.push(Outgoing::Heap { bytes, charge });
    }

    fn push(&mut self, outgoing: Outgoing) {
        self.unsent += outgoing.len();
        self.queued_buffers += u8::from(matches!(outgoing, Outgoing::Received { .. }));
        if self.next.is_none() {
            self.next = Some(outgoing);
        } else {
            self.queue.get_or_insert_default().push_back(outgoing);
        }
    }
}

/// The present time as HTTP writes it.
fn date() -> String {
    httpdate::fmt_http_date(SystemTime::now())
}

impl Drop for Session {
    fn drop(&mut self) {
        for outgoing in
            self.next.take().into_iter().chain(self.queue.take().into_iter().flat_map(|queue| *queue))
        {
            if let Outgoing::Received { buffer, .. } = outgoing {
                self.presence.context.pool.give(buffer);
            }
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
