//! What ringback does with a connection: it reads a proxy's header and the handshake, echoes, and ends well. It does no I/O.

mod channel;
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

use crate::engine::{Buffer, Handler, Pause, Phase, Received, Wire};
use crate::limits::Admission;
use crate::memory::Charged;
use crate::proto::close::{GOING_AWAY, POLICY_VIOLATION};
use crate::proto::handshake::{Handshake, Refusal, Refused, Step, options_response, page_response};
use crate::proto::proxy::{self, ProxyError};
use crate::proto::{Progress, Standing};
use channel::{Cause, Channel, Next, Outlook, drain_message};
use keep_alive::Sight;
use peer::Peer;
use worker_wide::Presence;

pub(crate) use process_wide::ProcessWide;
pub(crate) use service::Serving;
pub(crate) use worker_wide::{REFUSALS_MAX, WorkerWide};

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
    /// Not at all: it ends at once and without an answer, for its address has too many.
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
}

enum Stage {
    /// Nothing has happened yet.
    New(Start),
    /// The header of a proxy is awaited. The session says nothing before it, not even a refusal.
    Proxied(proxy::Header, Peer),
    /// The client's request is awaited.
    Handshake(Handshake, Peer),
    /// WebSocket.
    Open(Channel),
    /// There is nothing more to say.
    Ended {
        /// The handshake had succeeded.
        was_open: bool,
    },
}

/// What a session sends.
enum Output<'a> {
    /// Bytes of the buffer that they were received into.
    InPlace(Buffer, Range<usize>),
    /// A frame that was gathered.
    Gathered(Box<Charged>),
    /// Anything else.
    Copy(&'a [u8]),
}

/// Sends something. Everything that a session says goes this way.
#[inline]
fn say(wire: &mut Wire<'_>, output: Output<'_>) {
    match output {
        Output::InPlace(buffer, range) => wire.send(buffer, range),
        Output::Gathered(frame) => wire.send_charged(frame),
        Output::Copy(bytes) => wire.send_copy(bytes),
    }
}

impl Handler for Session {
    fn on_begun(&mut self, wire: &mut Wire<'_>, _: io::Result<()>) {
        let Stage::New(start) = self.stage else {
            return;
        };
        wire.wake_after(self.presence.context.shared.config.handshake_timeout);
        match start {
            Start::Handshake { peer } => self.stage = Stage::Handshake(Handshake::new(), Peer::new(peer)),
            Start::Proxied { peer } => {
                let versions = self.presence.context.shared.config.access.proxy_protocol.versions();
                let versions = versions.expect("a connection begins so where there are some");
                self.stage = Stage::Proxied(proxy::Header::new(versions), Peer::new(peer));
                self.hasten_beginning(wire);
            }
            Start::Refuse { refusal, peer } => {
                self.stage = Stage::Handshake(Handshake::new(), Peer::new(peer));
                self.refuse(refusal, wire);
            }
            Start::Drop { peer } => self.drop_untold(Peer::new(peer), wire),
        }
    }

    #[inline]
    fn on_received(&mut self, wire: &mut Wire<'_>, received: Received) -> u32 {
        match received {
            Received::Bytes(buffer, filled) => {
                if matches!(self.stage, Stage::Open(_)) {
                    return self.receive(wire, buffer, filled);
                }
                self.receive_unopened(wire, buffer, filled);
            }
            Received::End if matches!(self.stage, Stage::Open(_)) => self.finish(wire),
            Received::End | Received::Failed(_) => self.on_peer_gone(wire),
        }
        0
    }

    fn on_deadline(&mut self, wire: &mut Wire<'_>) {
        match &mut self.stage {
            Stage::Proxied(header, _) if !header.is_empty() => self.fail_proxy(ProxyError::Timeout, wire),
            Stage::Handshake(handshake, _) if !handshake.is_empty() => self.refuse(Refusal::Timeout, wire),
            Stage::Proxied(..) | Stage::Handshake(..) => self.end(wire),
            Stage::Open(channel) => {
                let context = &*self.presence.context;
                let pause = wire.pause(channel.gathered());
                let (signs, is_owed) = (wire.signs(), wire.unsent() > 0);
                let now = context.common.clock.now().millis_modulo();
                let sight = Sight { now, signs, silence: wire.silence(), is_owed };
                let next = channel.on_deadline(Outlook { sight, pause }, context);
                if channel.is_pinged() {
                    wire.ask_unconfirmed();
                }
                self.go_on(next, wire);
            }
            Stage::New(_) | Stage::Ended { .. } => {}
        }
    }

    fn on_drain(&mut self, wire: &mut Wire<'_>) {
        match &mut self.stage {
            Stage::Handshake(handshake, _) if !handshake.is_empty() => self.refuse(Refusal::Draining, wire),
            Stage::Handshake(..) | Stage::Proxied(..) => self.hasten_beginning(wire),
            Stage::Open(channel) => {
                let next = channel.on_drain(&self.presence.context);
                self.go_on(next, wire);
            }
            Stage::New(_) | Stage::Ended { .. } => {}
        }
    }

    fn held(&self) -> usize {
        match &self.stage {
            Stage::Open(channel) => channel.gathered(),
            _ => 0,
        }
    }

    fn on_cut(&mut self) {
        let was_open = matches!(self.stage, Stage::Open(_) | Stage::Ended { was_open: true });
        self.presence.context.stats.cuts.add(was_open.into());
        self.count_unanswered();
    }
}

impl Session {
    /// A connection that was just accepted.
    pub(crate) fn new(start: Start, context: &Rc<WorkerWide>, admission: Option<Admission>) -> Self {
        Self { presence: context.enter(admission), stage: Stage::New(start) }
    }

    /// Feeds the protocol and sends its reply. Gives how many frames were taken.
    #[inline]
    fn receive(&mut self, wire: &mut Wire<'_>, mut buffer: Buffer, filled: Range<usize>) -> u32 {
        let Stage::Open(channel) = &mut self.stage else {
            return 0;
        };
        let context = &*self.presence.context;
        let Progress { head, mut body, tail, standing, counts } =
            channel.receive(buffer.bytes_mut(), filled, context);
        if let Some(head) = head {
            say(wire, Output::Gathered(head));
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
        say(wire, Output::InPlace(buffer, body));
        if let Some(frame) = tail {
            say(wire, Output::Copy(frame));
        }
        match standing {
            Standing::Open | Standing::Closing => {
                let next = channel.after_receive(context);
                if !matches!(next, Next::Nothing) {
                    self.go_on(next, wire);
                }
            }
            Standing::Closed => self.finish(wire),
            Standing::Failed(error) => {
                context.log_protocol_error(error);
                context.stats.on_protocol_error(error, is_told);
                self.finish(wire);
            }
        }
        counts.frames
    }

    /// Does what its channel asks for.
    #[cold]
    fn go_on(&mut self, next: Next, wire: &mut Wire<'_>) {
        match next {
            Next::Nothing => {}
            Next::Look(after) => wire.wake_after(after),
            Next::Ping(after) => {
                wire.wake_after(after);
                self.ping(wire);
            }
            Next::Farewell => self.say_close(GOING_AWAY, wire),
            Next::GiveUp(cause) => self.give_up(cause, wire),
        }
    }

    fn ping(&self, wire: &mut Wire<'_>) {
        if let Stage::Open(channel) = &self.stage
            && let Some(ping) = channel.ping()
        {
            self.presence.context.stats.pings_sent.add(1);
            // What the peer confirms from now on is the ping.
            wire.forget_unconfirmed();
            say(wire, Output::Copy(ping.as_ref()));
        }
    }

    /// Gives out a Close outside of a drain.
    #[cold]
    fn give_up(&mut self, cause: Cause, wire: &mut Wire<'_>) {
        let context = &*self.presence.context;
        let code = match cause {
            Cause::Unread(pause) => {
                let cause = match pause {
                    Pause::UnsentLimit => "unsent_limit",
                    Pause::UnsentTotal => "unsent_total",
                };
                let peer = Peer::new(self.presence.address(|| wire.peer()));
                context.log_unread(cause, wire.unsent(), peer);
                context.stats.unread_timeouts.add(1);
                POLICY_VIOLATION
            }
            Cause::Gone => {
                tracing::debug!("a peer neither answers a ping nor takes anything");
                context.stats.keep_alive_timeouts.add(1);
                GOING_AWAY
            }
            Cause::Idle => {
                tracing::debug!("a peer has nothing to say");
                context.stats.idle_timeouts.add(1);
                GOING_AWAY
            }
        };
        self.say_close(code, wire);
        if matches!(self.stage, Stage::Open(_)) {
            wire.await_answer(true);
        }
    }

    /// Gives out a Close. From then on the peer's is awaited, at a drain as long as that lasts.
    #[cold]
    fn say_close(&mut self, code: u16, wire: &mut Wire<'_>) {
        let Stage::Open(channel) = &mut self.stage else {
            return;
        };
        let (frame, is_closed) = channel.close(code);
        if let Some(frame) = frame {
            let context = &self.presence.context;
            context.stats.drained.add((context.common.phase() > Phase::Running).into());
            context.stats.on_close_sent(code);
            say(wire, Output::Copy(&frame));
        }
        if is_closed {
            self.finish(wire);
        } else {
            wire.await_answer(false);
        }
    }

    /// What is received before the connection is open.
    #[cold]
    fn receive_unopened(&mut self, wire: &mut Wire<'_>, buffer: Buffer, filled: Range<usize>) {
        match &mut self.stage {
            Stage::Proxied(header, peer) => {
                let (step, peer) = (header.receive(&buffer.bytes()[filled.clone()]), *peer);
                self.on_proxy_header(step, peer, wire, buffer, filled);
            }
            // It had sent nothing when the drain began.
            Stage::Handshake(..) if self.presence.context.common.phase() > Phase::Running => {
                let piece = &buffer.bytes()[filled];
                self.refuse_request(&Refusal::Draining.of(piece), piece, wire);
            }
            Stage::Handshake(handshake, _) => {
                let WorkerWide { shared, settings, .. } = &*self.presence.context;
                let piece = &buffer.bytes()[filled.clone()];
                let step = handshake.receive(piece, &shared.rules, &settings.budget);
                self.on_handshake(step, wire, buffer, filled);
            }
            Stage::New(_) | Stage::Open(_) | Stage::Ended { .. } => {}
        }
    }

    /// What a proxy has said of its client. Whoever says nothing, as when it looks whether the server is well, counts by
    /// its own address.
    fn on_proxy_header(
        &mut self,
        step: proxy::Step,
        peer: Peer,
        wire: &mut Wire<'_>,
        buffer: Buffer,
        filled: Range<usize>,
    ) {
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
                    return self.refuse(refusal, wire);
                }
                if address.is_some_and(|address| !self.presence.count(address)) {
                    if self.presence.give_place_back() {
                        return self.refuse(Refusal::TooManyFromAddress, wire);
                    }
                    return self.drop_untold(Peer::new(address), wire);
                }
                let request = filled.start + consumed..filled.end;
                if !request.is_empty() {
                    self.receive_unopened(wire, buffer, request);
                }
            }
            proxy::Step::Refused(error) => self.fail_proxy(error, wire),
        }
    }

    /// Ends a connection without an answer: enough others of addresses with too many are being told so.
    fn drop_untold(&mut self, peer: Peer, wire: &mut Wire<'_>) {
        let context = &self.presence.context;
        context.stats.dropped.add(1);
        context.log_drop(peer);
        self.stage = Stage::Ended { was_open: false };
        wire.end();
    }

    /// A connection without a valid header ends without an answer: nobody knows whom that would reach.
    fn fail_proxy(&mut self, error: ProxyError, wire: &mut Wire<'_>) {
        if let Stage::Proxied(_, peer) = &self.stage {
            self.presence.context.log_proxy_error(error, *peer);
        }
        self.presence.context.stats.on_proxy_error(error);
        self.stage = Stage::Ended { was_open: false };
        wire.end();
    }

    fn on_handshake(&mut self, step: Step, wire: &mut Wire<'_>, buffer: Buffer, filled: Range<usize>) {
        let context = &self.presence.context;
        match step {
            Step::More => {}
            Step::Accepted { response, consumed } => {
                context.stats.handshakes.add(1);
                tracing::debug!("connection open");
                wire.set_deadline(context.terms.first_look().map(|after| context.common.clock.after(after)));
                say(wire, Output::Copy(&response));
                self.stage = Stage::Open(Channel::new(context));
                let frames = filled.start + consumed..filled.end;
                if !frames.is_empty() {
                    self.receive(wire, buffer, frames);
                }
            }
            Step::Page { html, is_head } => {
                let page = page_response(&context.shared.rules.page, html, is_head, &date(context));
                if context.settings.budget.is_exhausted_for(page.len()) {
                    let method: &[u8] = if is_head { b"HEAD " } else { b"GET " };
                    return self.refuse_request(&Refusal::Memory.of(method), &buffer.bytes()[filled], wire);
                }
                context.stats.pages.add(1);
                say(wire, Output::Copy(&page));
                self.finish(wire);
            }
            Step::Options => {
                context.stats.options.add(1);
                say(wire, Output::Copy(&options_response(&date(context))));
                self.finish(wire);
            }
            Step::Refused(refused) => self.refuse_request(&refused, &buffer.bytes()[filled], wire),
        }
    }

    /// At a drain, the time for a handshake is short.
    fn hasten_beginning(&self, wire: &mut Wire<'_>) {
        let context = &self.presence.context;
        if context.common.phase() > Phase::Running {
            let soon = context.common.clock.after(drain_message(context));
            wire.set_deadline(wire.deadline().map(|deadline| deadline.min(soon)));
        }
    }

    fn refuse(&mut self, refusal: Refusal, wire: &mut Wire<'_>) {
        let head = match &self.stage {
            Stage::Handshake(handshake, _) => handshake.seen(&[]),
            _ => &[],
        };
        self.refuse_request(&refusal.of(head), &[], wire);
    }

    /// Refuses a request of which `piece` has come last.
    fn refuse_request(&mut self, refused: &Refused, piece: &[u8], wire: &mut Wire<'_>) {
        let context = &self.presence.context;
        if let Stage::Handshake(handshake, peer) = &self.stage {
            context.log_refusal(refused, handshake.seen(piece), *peer);
        }
        context.stats.on_refusal(refused.cause());
        say(wire, Output::Copy(&refused.response(&date(context))));
        self.finish(wire);
    }

    /// Nothing more is to be said: what is queued is sent, then the connection ends.
    #[cold]
    fn finish(&mut self, wire: &mut Wire<'_>) {
        self.stage = Stage::Ended { was_open: matches!(self.stage, Stage::Open(_)) };
        wire.finish();
    }

    /// Ends a connection whose peer sends nothing more and takes nothing more.
    #[cold]
    fn on_peer_gone(&mut self, wire: &mut Wire<'_>) {
        match &self.stage {
            Stage::Proxied(header, _) if !header.is_empty() => self.fail_proxy(ProxyError::Truncated, wire),
            _ => self.end(wire),
        }
    }

    /// Ends the connection at once.
    fn end(&mut self, wire: &mut Wire<'_>) {
        self.count_unanswered();
        self.stage = Stage::Ended { was_open: matches!(self.stage, Stage::Open(_)) };
        wire.end();
    }

    /// Counts a connection that ends without a complete request. A client that has sent nothing looks whether the port is open,
    /// or holds a spare connection.
    fn count_unanswered(&self) {
        let stats = &self.presence.context.stats;
        match &self.stage {
            Stage::Proxied(header, _) if header.is_empty() => stats.silent.add(1),
            Stage::Handshake(handshake, _) if handshake.is_empty() => stats.silent.add(1),
            Stage::Proxied(..) | Stage::Handshake(..) => stats.abandoned.add(1),
            Stage::New(_) | Stage::Open(_) | Stage::Ended { .. } => {}
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
