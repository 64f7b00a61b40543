//! The raw echo on ringback's ring engine: the same ring, buffers, worker and turns, and nothing of WebSocket.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;

use anyhow::Context;
use ringback::engine::ring::{Service, Sizes, Worker};
use ringback::engine::{Buffer, Class, EngineCounters, Handler, Outgoing, Phase, Received};
use ringback::memory::HEADROOM;
use rustix::event::{EventfdFlags, eventfd};

/// How many pieces a peer is owed at most before it is no longer received from.
const PIECES_MAX: usize = 64;

/// After so many receives in a row that a small buffer could have held, small buffers do again; as in ringback.
const SHORT_RECEIVES: u8 = 16;
const SHORT: usize = 4 << 10;

/// How many connections there is room for; the limit of descriptors bounds it further.
const CONNECTIONS_MAX: usize = 16 << 10;

/// Accepts from `listener` and sends back what comes, from the buffer that it came into.
///
/// # Errors
///
/// The ring cannot be set up, or is of no more use.
pub fn serve(listener: TcpListener, buffer_size: usize) -> anyhow::Result<Infallible> {
    let sizes = Sizes::new(buffer_size, CONNECTIONS_MAX);
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
    let worker = Worker::new(&sizes, RawTcp, wake, Arc::new(EngineCounters::default()))
        .context("the ring cannot be set up")?;
    worker.run(vec![listener.into()])?;
    anyhow::bail!("the worker has ended")
}

struct RawTcp;

impl Service for RawTcp {
    type Handler = Echo;

    fn accepted(&mut self, _: Option<IpAddr>) -> Echo {
        Echo { next: None, behind: VecDeque::new(), class: Class::Small, short_receives: 0, is_over: false }
    }

    fn may_accept(&self) -> bool {
        true
    }

    fn on_accept_paused(&mut self, error: Option<&io::Error>) {
        eprintln!("accepting pauses: {error:?}");
    }

    fn phase(&mut self) -> Phase {
        Phase::Running
    }

    fn now(&self) -> u64 {
        0
    }
}

struct Echo {
    next: Option<Outgoing>,
    behind: VecDeque<Outgoing>,
    class: Class,
    short_receives: u8,
    is_over: bool,
}

impl Echo {
    fn received(&mut self, buffer: Buffer, len: usize) {
        let is_full = len == buffer.bytes().len() - HEADROOM;
        if is_full {
            self.class = Class::Big;
        }
        self.short_receives = if len < SHORT && !is_full { self.short_receives + 1 } else { 0 };
        if self.short_receives == SHORT_RECEIVES {
            (self.short_receives, self.class) = (0, Class::Small);
        }
        let outgoing = Outgoing::received(buffer, HEADROOM..HEADROOM + len);
        if self.next.is_none() {
            self.next = outgoing;
        } else {
            self.behind.extend(outgoing);
        }
    }
}

impl Handler for Echo {
    fn on_received(&mut self, received: Received) -> usize {
        match received {
            Ok(Some((buffer, len))) => self.received(buffer, len),
            Ok(None) | Err(_) => self.is_over = true,
        }
        0
    }

    fn may_receive(&mut self) -> bool {
        self.behind.len() < PIECES_MAX
    }

    fn class(&self) -> Class {
        self.class
    }

    fn next_outgoing(&mut self) -> Option<Outgoing> {
        let next = self.next.take();
        self.next = self.behind.pop_front();
        next
    }

    fn on_sent(&mut self, result: io::Result<()>, outgoing: Outgoing) {
        drop(outgoing);
        self.is_over |= result.is_err();
    }

    fn on_sent_in_part(&mut self, outgoing: Outgoing, sent: usize, _must_spill: bool) {
        if let Some(second) = self.next.take() {
            self.behind.push_front(second);
        }
        self.next = outgoing.without(sent);
    }

    fn on_behind(&mut self) {}

    fn awaits_sent(&self) -> bool {
        self.next.is_some()
    }

    fn ends_writing(&mut self) -> bool {
        false
    }

    fn deadline(&self) -> Option<u64> {
        None
    }

    fn on_deadline(&mut self, _: impl FnOnce() -> Option<IpAddr>) {}

    fn on_phase(&mut self, _phase: Phase) {}

    fn is_over(&self) -> bool {
        self.is_over
    }
}
