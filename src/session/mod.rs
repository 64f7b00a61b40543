//! A connection between its socket and the protocol: what to read, what to send, when to end. It does no I/O.

mod ending;
mod farewell;
mod keep_alive;
mod notices;
mod peer;
mod process_wide;
mod service;
mod worker_wide;

use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use crate::engine::{Buffer, Class, Moment, Outgoing, Phase, SMALL, SendQueue};
use crate::limits::Admission;
use crate::memory::HEADROOM;
use crate::proto::close::GOING_AWAY;
use crate::proto::handshake::{Handshake, Refusal, Refused, Step, options_response, page_response};
use crate::proto::proxy::{self, ProxyError};
use crate::proto::{Connection, Progress, Standing};
use ending::DISCARD_MAX;
use farewell::Farewell;
use keep_alive::Watch;
use peer::Peer;
use worker_wide::Presence;

pub(crate) use process_wide::ProcessWide;
pub(crate) use service::{LOG_INTERVAL, Serving};
pub(crate) use worker_wide::{REFUSALS_MAX, WorkerWide};

/// After so many receives of less than a small buffer in a row, small buffers do again.
const SHORT_RECEIVES: u8 = 16;

/// How a connection begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// With the client's handshake.
    Handshake {
        /// Whose it is, where that is known.
        peer: Option<IpAddr>,
    },
    /// With the header of a proxy.
    Proxied {
        /// The proxy, where that is known.
        peer: Option<IpAddr>,
    },
    /// With a refusal, whatever the client asks for.
    Refuse {
        /// Why.
        refusal: Refusal,
        /// Whose it is, where that is known.
        peer: Option<IpAddr>,
    },
    /// Not at all: it ends at once, and its peer is not told that its address has too many.
    Drop {
        /// Whose it is, where that is known.
        peer: Option<IpAddr>,
    },
}

/// One connection.
pub(crate) struct Session {
    /// Its place among the connections of the worker, and what they share.
    presence: Presence,
    stage: Stage,
    queue: SendQueue,
    /// Of the handshake, of the next look at an open connection or at its end, or of a step of its farewell: as the stage
    /// has it.
    deadline: Option<Moment>,
    class: Class,
    short_receives: u8,
    /// The peer has ended its side.
    end_of_stream: bool,
    is_paused: bool,
    is_careful: bool,
    /// The handshake has succeeded.
    was_open: bool,
    farewell: Farewell,
    watch: Watch,
}

enum Stage {
    /// What a proxy says of its client is awaited; nothing is said before, not even that the client is refused.
    Proxied(proxy::Header, Peer),
    /// The client's request is awaited.
    Handshake(Handshake, Peer),
    /// WebSocket.
    Open(Connection),
    /// What is queued is sent, then the write side is shut.
    Flushing { discarded: usize },
    /// The write side is shut, and the peer's end is awaited.
    Lingering { discarded: usize },
    /// There is nothing more to do.
    Over,
}

impl Session {
    /// A connection that was just accepted.
    pub(crate) fn new(start: Start, context: &Rc<WorkerWide>, admission: Option<Admission>) -> Self {
        let mut session = Self {
            presence: context.enter(admission),
            stage: Stage::Over,
            queue: SendQueue::new(),
            deadline: Some(context.common.clock.after(context.shared.config.handshake_timeout)),
            class: Class::Small,
            short_receives: 0,
            end_of_stream: false,
            is_paused: false,
            is_careful: context.receives_singly,
            was_open: false,
            farewell: Farewell::NotDue,
            watch: Watch::new(),
        };
        // Each reply is tried at once, and more received meanwhile, unless that may be too much.
        session.queue.set_slow(session.is_careful);
        match start {
            Start::Handshake { peer } => session.stage = Stage::Handshake(Handshake::new(), Peer::new(peer)),
            Start::Proxied { peer } => {
                let versions = context.shared.config.access.proxy_protocol.versions();
                let versions = versions.expect("a connection begins so where there are some");
                session.stage = Stage::Proxied(proxy::Header::new(versions), Peer::new(peer));
                session.hasten_beginning();
            }
            Start::Refuse { refusal, peer } => {
                session.stage = Stage::Handshake(Handshake::new(), Peer::new(peer));
                session.refuse(refusal);
            }
            Start::Drop { peer } => session.drop_untold(Peer::new(peer)),
        }
        session
    }

    /// Whether the socket can be given up.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// What to send next. At most one write is under way, until [`Self::on_sent`] or [`Self::on_sent_in_part`].
    #[inline]
    pub(super) fn next_outgoing(&mut self) -> Option<Outgoing> {
        self.queue.pop()
    }

    /// Whether there is something to do once what is under way is sent: more to send, a peer to read from again, the end.
    #[inline]
    pub(super) const fn awaits_sent(&self) -> bool {
        self.queue.has_next()
            || self.queue.must_wait()
            || !matches!(self.stage, Stage::Open(_) | Stage::Handshake(..) | Stage::Proxied(..))
    }

    /// Whether the peer takes its bytes more slowly than they come: for an engine that can tell. Any other leaves it at
    /// yes, and then it goes for every peer that is owed something.
    pub(super) const fn set_slow(&mut self, is_slow: bool) {
        self.queue.set_slow(is_slow);
    }

    /// What is queued has begun to wait for the peer: buffers beyond its share, and scarce ones, are given up.
    pub(super) fn give_up_buffers(&mut self) {
        self.queue.give_up_buffers(&self.presence.context.common);
    }

    /// How many bytes are queued and under way.
    pub(super) const fn unsent(&self) -> usize {
        self.queue.unsent()
    }

    /// Whether to read: not beyond what may be unsent, and then not before half of it is gone. A connection that owes
    /// nothing may always read, so that those who use the budget up do not stop the others.
    #[inline]
    pub(super) fn may_read(&self) -> bool {
        match self.stage {
            _ if self.end_of_stream => false,
            Stage::Over => false,
            Stage::Flushing { discarded } => discarded <= DISCARD_MAX,
            // Once our Close is given out, what comes is dropped: a client that sends first may get to its end and read.
            Stage::Open(ref connection)
                if self.queue.must_wait() && connection.standing() == Standing::Open =>
            {
                let WorkerWide { shared, settings, .. } = &*self.presence.context;
                self.queue.unsent() + connection.gathered() < self.unread_from()
                    && !settings.budget.is_exhausted_for(shared.config.receive_buffer_size)
            }
            _ => true,
        }
    }

    /// From how many unsent bytes on an open connection is not read from.
    fn unread_from(&self) -> usize {
        let limit = self.presence.context.shared.config.unsent_limit;
        if self.is_paused { limit / 2 } else { limit }
    }

    /// It is not read from for now: counted once, until it is again.
    pub(super) fn on_not_read(&mut self) {
        if !self.is_paused && !self.end_of_stream {
            self.is_paused = true;
            self.presence.context.stats.read_pauses.add(1);
        }
    }

    /// Whether one buffer is received at a time, and what is unsent waits for the peer: the engine has it so, or little
    /// may be unsent.
    #[inline]
    pub(super) const fn is_careful(&self) -> bool {
        self.is_careful
    }

    /// The buffer that the next read takes.
    pub(super) const fn class(&self) -> Class {
        self.class
    }

    /// When [`Self::on_deadline`] is due, by the worker's clock. Any other call may change it.
    pub(super) const fn deadline(&self) -> Option<Moment> {
        self.deadline
    }

    /// A read has ended: with so many bytes in the buffer, at its [`HEADROOM`]; with none at the end of the stream.
    /// Gives how many frames it was.
    #[inline]
    pub(super) fn on_received(&mut self, result: io::Result<usize>, buffer: Option<Buffer>) -> u32 {
        match (result, buffer) {
            (Ok(0), _) => self.on_end_of_stream(),
            (Ok(received), Some(buffer)) => {
                self.is_paused = false;
                self.presence.context.stats.receives.add(1);
                self.adapt_class(received, buffer.bytes().len() - HEADROOM);
                let filled = HEADROOM..HEADROOM + received;
                if matches!(self.stage, Stage::Open(_)) {
                    self.watch.hear();
                    let frames = self.receive(buffer, filled);
                    self.await_farewell();
                    return frames;
                }
                self.receive_unopened(buffer, filled);
            }
            (Ok(_), None) => {}
            (Err(error), _) => {
                if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
                    // Reset by the peer: nobody is left to send to.
                    self.on_peer_gone();
                }
            }
        }
        0
    }

    /// A write has ended: all of `outgoing` is sent, or nothing more will be.
    #[inline]
    pub(super) fn on_sent(&mut self, result: &io::Result<()>, outgoing: Outgoing) {
        self.queue.on_sent(&outgoing);
        drop(outgoing);
        self.watch.take();
        if result.is_err() {
            self.stage = Stage::Over;
        }
    }

    /// Whether [`Self::on_untaken`] should be told, just before [`Self::on_deadline`]: where a look may find that the peer
    /// is gone.
    pub(super) fn asks_untaken(&self) -> bool {
        match self.stage {
            Stage::Open(_) => match self.farewell {
                Farewell::NotDue => self.queue.unsent() > 0 || self.watch.is_pinged(),
                Farewell::Said => true,
                Farewell::Quiet | Farewell::Message => false,
            },
            Stage::Flushing { .. } | Stage::Lingering { .. } => true,
            Stage::Proxied(..) | Stage::Handshake(..) | Stage::Over => false,
        }
    }

    /// How many bytes of what was sent the peer has not confirmed, where the kernel can tell: it takes something as long
    /// as that changes. Else only sends show it.
    pub(super) fn on_untaken(&mut self, untaken: Option<u32>) {
        if self.queue.on_untaken(untaken) {
            self.watch.deliver();
        }
    }

    /// Of `outgoing` only the first `sent` bytes went out: the rest is what is sent next. With `spill` it is copied to
    /// the heap, so that its receive buffer is free again.
    pub(super) fn on_sent_in_part(&mut self, outgoing: Outgoing, sent: usize, spill: bool) {
        if sent > 0 {
            self.watch.take();
        }
        self.queue.on_sent_in_part(outgoing, sent, spill, &self.presence.context.common);
    }

    /// The deadline has passed. `address` is asked for that of the socket's peer, where the engine can tell and it is to be
    /// logged.
    pub(super) fn on_deadline(&mut self, address: impl FnOnce() -> Option<IpAddr>) {
        self.deadline = None;
        match &self.stage {
            _ if self.is_silent() => self.end(),
            Stage::Proxied(..) => self.fail_proxy(ProxyError::Timeout),
            Stage::Handshake(..) => self.refuse(Refusal::Timeout),
            Stage::Open(connection) => match self.farewell {
                Farewell::Quiet if connection.is_mid_message() => self.await_message(),
                Farewell::Quiet | Farewell::Message => self.say_farewell(GOING_AWAY),
                Farewell::Said => self.look_at_end(),
                Farewell::NotDue => self.look(address),
            },
            Stage::Flushing { .. } | Stage::Lingering { .. } => self.look_at_end(),
            Stage::Over => {}
        }
    }

    /// The phase of the server has changed.
    pub(super) fn on_phase(&mut self, phase: Phase) {
        match (phase, &self.stage) {
            (_, Stage::Over) => {}
            (Phase::Stopping, _) => self.cut(),
            (Phase::Draining, Stage::Handshake(handshake, _)) if !handshake.is_empty() => {
                self.refuse(Refusal::Draining);
            }
            (Phase::Draining, Stage::Handshake(..) | Stage::Proxied(..)) => self.hasten_beginning(),
            (Phase::Draining, Stage::Open(_)) if self.farewell != Farewell::Said => {
                self.farewell = Farewell::Quiet;
                self.await_farewell();
            }
            _ => {}
        }
    }

    /// What is received before the connection is open, and after.
    #[cold]
    fn receive_unopened(&mut self, buffer: Buffer, filled: Range<usize>) {
        match &mut self.stage {
            Stage::Proxied(header, peer) => {
                let (step, peer) = (header.receive(&buffer.bytes()[filled.clone()]), *peer);
                self.on_proxy_header(step, peer, buffer, filled);
            }
            // It had sent nothing when the drain began.
            Stage::Handshake(..) if self.presence.context.common.drain.phase() > Phase::Running => {
                let piece = &buffer.bytes()[filled];
                self.refuse_request(&Refusal::Draining.of(piece), piece);
            }
            Stage::Handshake(handshake, _) => {
                let WorkerWide { shared, settings, .. } = &*self.presence.context;
                let piece = &buffer.bytes()[filled.clone()];
                let step = handshake.receive(piece, &shared.rules, &settings.budget);
                self.on_handshake(step, buffer, filled);
            }
            // What we owe is sent first, however much comes; past the limit it is not read.
            Stage::Flushing { discarded } => *discarded += filled.len(),
            // Bytes that the peer has yet to take hold the connection: a cut would reset it, and drop them.
            Stage::Lingering { discarded } if self.queue.untaken() == Some(0) => {
                *discarded += filled.len();
                if *discarded > DISCARD_MAX {
                    self.cut();
                }
            }
            Stage::Lingering { .. } => {}
            Stage::Open(_) | Stage::Over => {}
        }
    }

    /// What a proxy has said of its client. Whoever says nothing, as when it looks whether the server is well, counts by
    /// its own address.
    fn on_proxy_header(&mut self, step: proxy::Step, peer: Peer, buffer: Buffer, filled: Range<usize>) {
        match step {
            proxy::Step::More => {}
            proxy::Step::Done { source, consumed } => {
                let address = match source {
                    proxy::Source::Client(address) => Some(address),
                    proxy::Source::Peer => peer.address(),
                    proxy::Source::Unix => None,
                };
                self.stage = Stage::Handshake(Handshake::new(), Peer::new(address));
                if let Some(refusal) = self.presence.refusal() {
                    return self.refuse(refusal);
                }
                if address.is_some_and(|address| !self.presence.count(address)) {
                    if self.presence.give_place_back() {
                        return self.refuse(Refusal::TooManyFromAddress);
                    }
                    return self.drop_untold(Peer::new(address));
                }
                let request = filled.start + consumed..filled.end;
                if !request.is_empty() {
                    self.receive_unopened(buffer, request);
                }
            }
            proxy::Step::Refused(error) => self.fail_proxy(error),
        }
    }

    /// Ends a connection of an address that has too many, where as many are told so as may be.
    fn drop_untold(&mut self, peer: Peer) {
        let context = &self.presence.context;
        context.stats.dropped.add(1);
        context.log_drop(peer);
        self.stage = Stage::Over;
    }

    /// A connection without a valid header ends without an answer: nobody knows whom that would reach.
    fn fail_proxy(&mut self, error: ProxyError) {
        if let Stage::Proxied(_, peer) = &self.stage {
            self.presence.context.log_proxy_error(error, *peer);
        }
        self.presence.context.stats.on_proxy_error(error);
        self.stage = Stage::Over;
    }

    fn on_handshake(&mut self, step: Step, buffer: Buffer, filled: Range<usize>) {
        let context = &self.presence.context;
        match step {
            Step::More => {}
            Step::Accepted { response, consumed } => {
                context.stats.handshakes.add(1);
                self.was_open = true;
                tracing::debug!("connection open");
                self.deadline = context.terms.first_look().map(|after| context.common.clock.after(after));
                self.queue.push_bytes(&response, &context.common);
                self.stage = Stage::Open(Connection::new(Rc::clone(&context.settings)));
                let frames = filled.start + consumed..filled.end;
                if !frames.is_empty() {
                    self.receive(buffer, frames);
                }
            }
            Step::Page { html, is_head } => {
                let page = page_response(&context.shared.rules.page, html, is_head, &date(context));
                if context.settings.budget.is_exhausted_for(page.len()) {
                    let method: &[u8] = if is_head { b"HEAD " } else { b"GET " };
                    return self.refuse_request(&Refusal::Memory.of(method), &buffer.bytes()[filled]);
                }
                context.stats.pages.add(1);
                self.queue.push_bytes(&page, &context.common);
                self.flush();
            }
            Step::Options => {
                context.stats.options.add(1);
                self.queue.push_bytes(&options_response(&date(context)), &context.common);
                self.flush();
            }
            Step::Refused(refused) => self.refuse_request(&refused, &buffer.bytes()[filled]),
        }
    }

    /// Feeds the protocol and queues its reply. Gives how many frames were taken.
    #[inline]
    fn receive(&mut self, mut buffer: Buffer, filled: Range<usize>) -> u32 {
        let Stage::Open(connection) = &mut self.stage else {
            return 0;
        };
        let context = &*self.presence.context;
        let Progress { head, mut body, tail, standing, counts } =
            connection.receive(buffer.bytes_mut(), filled);
        context.stats.add(&counts);
        self.watch.hear_data(counts.texts | counts.binaries != 0 || counts.payload_bytes != 0);
        if let Some(head) = head {
            self.queue.push_gathered(head, &context.common);
        }
        let is_told = tail.is_some();
        let mut tail = tail.as_ref().map(<[u8; 4]>::as_slice);
        if let Some(frame) = tail
            && let Some(behind) = buffer.bytes_mut().get_mut(body.end..body.end + frame.len())
            && !body.is_empty()
        {
            behind.copy_from_slice(frame);
            body.end += frame.len();
            tail = None;
        }
        self.queue.push_received(buffer, body, &context.common);
        if let Some(frame) = tail {
            self.queue.push_bytes(frame, &context.common);
        }
        match standing {
            Standing::Open | Standing::Closing => {}
            Standing::Closed => self.flush(),
            Standing::Failed(error) => {
                context.log_protocol_error(error);
                context.stats.on_protocol_error(error, is_told);
                self.flush();
            }
        }
        counts.frames
    }

    #[cold]
    fn on_end_of_stream(&mut self) {
        self.end_of_stream = true;
        match self.stage {
            Stage::Open(_) | Stage::Flushing { .. } => self.flush(),
            _ => self.on_peer_gone(),
        }
    }

    /// Ends a connection whose peer sends nothing more and takes nothing more.
    fn on_peer_gone(&mut self) {
        match &self.stage {
            Stage::Proxied(header, _) if !header.is_empty() => self.fail_proxy(ProxyError::Truncated),
            _ => self.end(),
        }
    }

    /// Ends the connection. One whose request is not complete has no other outcome, and is counted here.
    fn end(&mut self) {
        let stats = &self.presence.context.stats;
        match &self.stage {
            _ if self.is_silent() => stats.silent.add(1),
            Stage::Proxied(..) | Stage::Handshake(..) => stats.abandoned.add(1),
            _ => {}
        }
        self.stage = Stage::Over;
    }

    /// Whether the client has not sent anything. Such a client looks whether the port is open, or holds a spare connection:
    /// it has asked for nothing and gets no answer.
    fn is_silent(&self) -> bool {
        match &self.stage {
            Stage::Proxied(header, _) => header.is_empty(),
            Stage::Handshake(handshake, _) => handshake.is_empty(),
            _ => false,
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        let head = match &self.stage {
            Stage::Handshake(handshake, _) => handshake.seen(&[]),
            _ => &[],
        };
        self.refuse_request(&refusal.of(head), &[]);
    }

    /// Refuses a request of which `piece` has come last.
    fn refuse_request(&mut self, refused: &Refused, piece: &[u8]) {
        let context = &self.presence.context;
        if let Stage::Handshake(handshake, peer) = &self.stage {
            context.log_refusal(refused, handshake.seen(piece), *peer);
        }
        context.stats.on_refusal(refused.cause());
        self.queue.push_bytes(&refused.response(&date(context)), &context.common);
        self.flush();
    }

    fn expire_after(&mut self, timeout: Duration) {
        self.deadline = Some(self.presence.context.common.clock.after(timeout));
    }

    /// Big buffers once a small one was filled, small ones after some short receives.
    #[inline]
    fn adapt_class(&mut self, received: usize, room: usize) {
        if received == room {
            self.class = Class::Big;
        }
        let is_short = received < SMALL && received < room;
        self.short_receives = if is_short { self.short_receives + 1 } else { 0 };
        if self.short_receives == SHORT_RECEIVES {
            self.short_receives = 0;
            self.class = Class::Small;
        }
    }

    /// At a drain, the Close is due once nothing more comes and no message is unfinished. A peer that never pauses
    /// gets it at the end of a message.
    #[inline]
    fn await_farewell(&mut self) {
        if self.farewell != Farewell::NotDue {
            self.approach_farewell();
        }
    }
}

/// The present time as HTTP writes it.
fn date(context: &WorkerWide) -> String {
    httpdate::fmt_http_date(context.common.clock.date())
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
