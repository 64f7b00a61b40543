//! The connections of a thread on a ring of ringback's own engine: its worker, its buffers and its turns.
//!
//! What is sent is made in the very buffer that the last echo came in, once that is compared.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use ringback::engine::ring::{Key, Service, Sizes, Worker};
use ringback::engine::{Buffer, Class, EngineCounters, Handler, Outgoing, Phase, Received};
use ringback::memory::{Budget, Charged, HEADROOM, Total};

use super::Mover;
use super::link::Link;
use super::load::{Attempt, Load};
use crate::connect;

/// The ring of a thread.
pub(super) struct Ring {
    worker: Worker<Connecting>,
    heap: Rc<Heap>,
    load: Rc<Load>,
}

impl Ring {
    /// A ring for so many connections at a time, which is woken by `wake`.
    ///
    /// # Errors
    ///
    /// When it cannot be set up.
    pub(super) fn new(load: &Rc<Load>, connections: usize, wake: Arc<OwnedFd>) -> io::Result<Self> {
        let mut sizes = Sizes::new(RECEIVE_BUFFER, places(connections));
        if load.plan.spin {
            sizes.busy_poll = Duration::MAX;
        }
        let mut worker = Worker::new(&sizes, Connecting, wake, Arc::new(EngineCounters::default()))?;
        worker.watch()?;
        Ok(Self { worker, heap: Heap::new(), load: Rc::clone(load) })
    }
}

impl Mover for Ring {
    type Id = Key;

    fn has_room(&self) -> bool {
        self.worker.free_places() > 0
    }

    fn begin(&mut self, attempt: Attempt) -> io::Result<Key> {
        let plan = &self.load.plan;
        let address = Arc::clone(plan.addresses.get(attempt.address));
        let socket = connect::socket(plan, attempt.index, &address)?;
        let peer = Peer::new(Link::new(&self.load, attempt), Rc::clone(&self.heap));
        self.worker.connect(peer, socket.as_fd(), address)
    }

    fn with<R>(&mut self, id: Key, look: impl FnOnce(&mut Link) -> R) -> Option<R> {
        self.worker.with(id, |peer| look(&mut peer.link))
    }

    fn turn(&mut self, at_most: Option<Duration>) -> io::Result<()> {
        self.worker.turn(at_most)
    }
}

/// How many places the ring's table of files has for so many connections at a time: some of a churn are being closed while
/// their successors connect.
pub(crate) const fn places(connections: usize) -> usize {
    connections + connections / 8 + SPARE_PLACES
}

/// A service that accepts nothing.
struct Connecting;

impl Service for Connecting {
    type Handler = Peer;

    fn accepted(&mut self, _: Option<IpAddr>) -> Peer {
        unreachable!("nobody listens")
    }

    fn may_accept(&self) -> bool {
        false
    }

    fn on_accept_paused(&mut self, _: Option<&io::Error>) {}

    fn phase(&mut self) -> Phase {
        Phase::Running
    }

    fn now(&self) -> u64 {
        0
    }
}

/// A connection: what moves between its protocol and its socket.
struct Peer {
    link: Link,
    heap: Rc<Heap>,
    /// The buffer of the last receive, compared and free to be sent from in the same turn.
    spare: Option<Buffer>,
    /// What the socket did not take at once, before anything new.
    unsent: VecDeque<Outgoing>,
    /// The socket takes no more. What the server sent before it went tells more than that it went.
    is_mute: bool,
    class: Class,
    /// How many receives in a row a small buffer could have held.
    short_receives: u8,
}

impl Peer {
    const fn new(link: Link, heap: Rc<Heap>) -> Self {
        Self {
            link,
            heap,
            spare: None,
            unsent: VecDeque::new(),
            is_mute: false,
            class: Class::Small,
            short_receives: 0,
        }
    }

    /// Bulk is received into big buffers, as the server does.
    #[inline]
    fn choose_class(&mut self, room: usize, len: usize) {
        if len == room {
            self.class = Class::Big;
        }
        self.short_receives =
            if len < SHORT && len < room { self.short_receives.saturating_add(1) } else { 0 };
        if self.short_receives >= SHORT_RECEIVES {
            self.class = Class::Small;
        }
    }
}

impl Handler for Peer {
    fn on_connected(&mut self, result: io::Result<()>) {
        self.link.on_connected(result);
    }

    #[inline]
    fn on_received(&mut self, received: Received) -> usize {
        match received {
            Ok(Some((mut buffer, len))) => {
                let bytes = buffer.bytes_mut();
                self.choose_class(bytes.len() - HEADROOM, len);
                self.link.on_bytes(&mut bytes[HEADROOM..HEADROOM + len]);
                self.spare = self.link.has_output().then_some(buffer);
            }
            Ok(None) => self.link.on_end(),
            Err(error) => self.link.on_error(error.kind()),
        }
        1
    }

    #[inline]
    fn may_receive(&mut self) -> bool {
        true
    }

    #[inline]
    fn class(&self) -> Class {
        self.class
    }

    #[inline]
    fn next_outgoing(&mut self) -> Option<Outgoing> {
        if let Some(unsent) = self.unsent.pop_front() {
            return Some(unsent);
        }
        if self.is_mute || !self.link.has_output() {
            return None;
        }
        let traffic = &self.link.load.plan.traffic;
        let client = &mut self.link.client;
        if let Some(mut buffer) = self.spare.take() {
            let filled = client.fill(traffic, buffer.bytes_mut());
            let len = filled.len;
            client.wrote(filled, len, traffic);
            return Outgoing::received(buffer, 0..len);
        }
        self.heap.outgoing(|room| {
            let filled = client.fill(traffic, room);
            let len = filled.len;
            client.wrote(filled, len, traffic);
            len
        })
    }

    #[inline]
    fn on_sent(&mut self, result: io::Result<()>, outgoing: Outgoing) {
        self.heap.give(outgoing);
        if result.is_err() {
            self.is_mute = true;
            self.unsent.clear();
        }
    }

    fn on_sent_in_part(&mut self, outgoing: Outgoing, sent: usize, must_spill: bool) {
        let rest =
            if must_spill { self.heap.copy(&outgoing.bytes()[sent..]) } else { outgoing.without(sent) };
        if let Some(rest) = rest {
            self.unsent.push_front(rest);
        }
    }

    fn on_behind(&mut self) {}

    #[inline]
    fn on_acted(&mut self) {
        self.spare = None;
    }

    #[inline]
    fn awaits_sent(&self) -> bool {
        !self.unsent.is_empty() || (!self.is_mute && self.link.has_output())
    }

    #[inline]
    fn ends_writing(&mut self) -> bool {
        self.link.take_shut()
    }

    #[inline]
    fn deadline(&self) -> Option<u64> {
        None
    }

    fn on_deadline(&mut self, _: impl FnOnce() -> Option<IpAddr>) {}

    fn on_phase(&mut self, _: Phase) {}

    #[inline]
    fn is_over(&self) -> bool {
        self.link.is_over()
    }

    fn ends_abruptly(&self) -> bool {
        self.link.load.plan.pace.is_churn()
    }
}

/// Bytes to send for which there is no buffer.
struct Heap {
    budget: Rc<Budget>,
    /// Pieces of [`HEAP_PIECE`] bytes, to be used again.
    #[expect(clippy::vec_box, reason = "a piece goes out in its box")]
    pool: RefCell<Vec<Box<Charged>>>,
}

impl Heap {
    fn new() -> Rc<Self> {
        Rc::new(Self { budget: Budget::new(Total::new(usize::MAX)), pool: RefCell::default() })
    }

    /// What `fill` makes; it says how many bytes that were.
    fn outgoing(&self, fill: impl FnOnce(&mut [u8]) -> usize) -> Option<Outgoing> {
        let pooled = self.pool.borrow_mut().pop();
        let mut piece = pooled.unwrap_or_else(|| {
            Box::new(Charged { bytes: BytesMut::zeroed(HEAP_PIECE), charge: self.budget.charge(0) })
        });
        let len = fill(&mut piece.bytes);
        if len > COPIED_MAX {
            piece.bytes.truncate(len);
            return Outgoing::heap(piece);
        }
        let copy = self.copy(&piece.bytes[..len]);
        self.pool.borrow_mut().push(piece);
        copy
    }

    fn copy(&self, bytes: &[u8]) -> Option<Outgoing> {
        Outgoing::heap(Box::new(Charged { bytes: bytes.into(), charge: self.budget.charge(0) }))
    }

    /// Takes back what was sent.
    fn give(&self, outgoing: Outgoing) {
        let Some(mut piece) = outgoing.into_heap().filter(|piece| piece.bytes.capacity() >= HEAP_PIECE)
        else {
            return;
        };
        let mut pool = self.pool.borrow_mut();
        if pool.len() < POOLED_MAX {
            piece.bytes.resize(HEAP_PIECE, 0);
            pool.push(piece);
        }
    }
}

/// What bulk is received into, and how many bytes of our own are made at once.
const RECEIVE_BUFFER: usize = 64 << 10;
const HEAP_PIECE: usize = 64 << 10;

/// So many bytes are rather copied than sent from a piece of that size.
const COPIED_MAX: usize = 4 << 10;

/// How many pieces are kept: as many as one send has, for a few connections.
const POOLED_MAX: usize = 64;

/// Places beyond a part of the connections.
const SPARE_PLACES: usize = 64;

/// After so many receives in a row that a small buffer could have held, small buffers do again.
const SHORT_RECEIVES: u8 = 16;
const SHORT: usize = 4 << 10;
