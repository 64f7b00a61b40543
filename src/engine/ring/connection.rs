//! A connection of a worker: what is under way on it, and what it asks of the ring next.

use std::io;
use std::iter;
use std::net::{IpAddr, Shutdown};
use std::sync::Arc;

use rustix::io::Errno;

use super::super::handler::Handler;
use super::super::send_queue::BUFFERS_SHARE;
use super::super::wheel::{TICK, Wheel};
use super::Class;
use super::event::{Manner, Pieces};
use super::queues::Queues;
use super::ring::{Descriptor, Ring};
use super::token::Key;
use crate::engine::EngineCounters;

/// The ring, and what goes with it.
pub(super) struct Driver<Q: Queues> {
    pub(super) ring: Ring<Q>,
    /// Of places, without their generations: whoever has the place then knows whether it is meant.
    pub(super) wheel: Wheel<u32>,
    /// How many connections receive into big buffers.
    pub(super) bulk: u32,
    pub(super) stats: Arc<EngineCounters>,
}

impl<Q: Queues> Driver<Q> {
    fn count_bulk(&mut self, is_more: bool) {
        self.bulk = if is_more { self.bulk + 1 } else { self.bulk - 1 };
        self.ring.set_bulk(self.bulk);
    }
}

/// A connection and what is under way on it.
pub(super) struct Connection<H> {
    pub(super) handler: H,
    descriptor: Descriptor,
    pub(super) receiving: Receiving,
    sending: Sending,
    ending: Ending,
    /// How many shutdowns are under way.
    pub(super) shutdowns: u8,
    /// It is on the list of those to act on.
    pub(super) is_touched: bool,
    /// What it received waits in the worker's `late`.
    pub(super) is_late: bool,
    /// [`BULK`] and [`IN_WHEEL`]: a byte of its own for each would make every connection larger by eight.
    marks: u8,
    /// Where it is in the wheel: the first tick, modulo 2^32.
    wheel_tick: u32,
    /// What it has cost in the turn whose number this is, modulo 2^32.
    pub(super) turn: u32,
    pub(super) cost: u32,
}

/// Marks: it receives into big buffers.
const BULK: u8 = 1;
/// It is in the wheel.
const IN_WHEEL: u8 = 2;

/// The receive of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    /// Not before there is a connection.
    Not,
    Idle,
    Armed(Class),
    /// Its last completion is awaited.
    Cancelled,
    /// There was no buffer: it is on the list of those who wait for one of this class.
    Starved(Class),
    /// The stream has ended, or failed.
    Ended,
}

/// The send of a connection; there is never more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// The connection is being made.
    Connecting,
    Idle,
    /// One that is over with the next enter.
    AtOnce,
    /// One that waits for the peer.
    Waiting,
    /// The peer did not take all at once: the next one waits for it.
    Behind,
}

/// How far a connection that is over has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    No,
    /// The socket is shut, and what is under way is awaited.
    ShutDown,
    Closing,
}

impl<H: Handler> Connection<H> {
    /// A connection that is being made.
    pub(super) fn connecting(handler: H, descriptor: Descriptor) -> Self {
        let (receiving, sending) = (Receiving::Not, Sending::Connecting);
        Self { receiving, sending, is_touched: false, ..Self::new(handler, descriptor) }
    }

    /// A connection that was just accepted. It is to be acted on.
    pub(super) const fn new(handler: H, descriptor: Descriptor) -> Self {
        Self {
            handler,
            descriptor,
            receiving: Receiving::Idle,
            sending: Sending::Idle,
            ending: Ending::No,
            shutdowns: 0,
            is_touched: true,
            is_late: false,
            marks: 0,
            wheel_tick: 0,
            turn: 0,
            cost: 0,
        }
    }

    /// Submits what the connection wants next.
    pub(super) fn act<Q: Queues>(&mut self, key: Key, driver: &mut Driver<Q>) {
        self.is_touched = false;
        let is_bulk = self.handler.class() == Class::Big && !self.handler.is_over();
        if is_bulk != (self.marks & BULK != 0) {
            self.marks ^= BULK;
            driver.count_bulk(is_bulk);
        }
        if !self.handler.is_over() && matches!(self.sending, Sending::Idle | Sending::Behind) {
            self.send(key, &mut driver.ring);
        }
        if self.handler.is_over() {
            return self.end(key, &mut driver.ring);
        }
        self.receive(key, driver);
        self.handler.on_acted();
        if let Some(deadline) = self.handler.deadline() {
            self.enter_deadline(key, deadline, &mut driver.wheel);
        }
    }

    /// The deadline of its handler has passed.
    pub(super) fn on_deadline<Q: Queues>(&mut self, key: Key, ring: &mut Ring<Q>) {
        if self.handler.asks_untaken() {
            ring.ask_untaken(key, self.descriptor);
        } else {
            self.handler.on_deadline(no_peer);
        }
    }

    /// The kernel has said what the peer has not confirmed, for a deadline that has passed by `now`. Where the kernel cannot
    /// tell, a send that waits is tried anew: it waits until a third of the socket's buffer is free or more, and a slow
    /// peer may take longer for that than it is given. One that does not wait takes what room there is.
    pub(super) fn on_untaken<Q: Queues>(
        &mut self,
        key: Key,
        untaken: Option<u32>,
        now: u64,
        ring: &mut Ring<Q>,
    ) {
        if untaken.is_none() && self.sending == Sending::Waiting {
            ring.cancel_send(key);
        }
        self.handler.on_untaken(untaken);
        if self.handler.deadline().is_some_and(|deadline| deadline <= now) {
            self.handler.on_deadline(no_peer);
        }
    }

    /// The connection is made, or will not be.
    pub(super) fn on_connected(&mut self, result: io::Result<()>) {
        self.sending = Sending::Idle;
        self.receiving = if result.is_ok() { Receiving::Idle } else { Receiving::Ended };
        self.handler.on_connected(result);
    }

    /// A send is over.
    pub(super) fn on_sent(&mut self, result: io::Result<usize>, pieces: Pieces, stats: &EngineCounters) {
        let was_waiting = self.sending == Sending::Waiting;
        self.sending = Sending::Idle;
        let Pieces { first, more } = pieces;
        let mut sent = match result.map_err(|error| (Errno::from_io_error(&error), error)) {
            Ok(sent) => sent,
            // Nothing went out: where something did, the kernel says how much, after a cancel too.
            Err((Some(errno), _)) if is_momentary(errno) || (was_waiting && errno == Errno::CANCELED) => 0,
            Err((_, error)) => {
                let kind = error.kind();
                self.handler.on_sent(Err(error), first);
                for piece in more {
                    self.handler.on_sent(Err(kind.into()), piece);
                }
                return;
            }
        };
        let mut unsent = Vec::new();
        for piece in iter::once(first).chain(more) {
            let len = piece.bytes().len();
            if sent >= len {
                sent -= len;
                self.handler.on_sent(Ok(()), piece);
            } else {
                unsent.push((piece, std::mem::take(&mut sent)));
            }
        }
        if unsent.is_empty() {
            return;
        }
        stats.short_sends.add(1);
        // After one that was cancelled comes one that does not wait.
        self.sending = if was_waiting { Sending::Idle } else { Sending::Behind };
        if planted!(UnsentIsReversed) {
            unsent.reverse();
        }
        // Each goes before those that are there: the last one first.
        for (position, (piece, sent)) in unsent.into_iter().enumerate().rev() {
            let must_spill = position >= usize::from(BUFFERS_SHARE) || piece.is_scarce();
            self.handler.on_sent_in_part(piece, sent, must_spill);
        }
        self.handler.on_behind();
    }

    /// Sends what there is to send, in one go.
    fn send<Q: Queues>(&mut self, key: Key, ring: &mut Ring<Q>) {
        if let Some(first) = self.handler.next_outgoing() {
            let mut pieces = Pieces { first, more: Vec::new() };
            while pieces.more.len() + 1 < Pieces::MAX
                && let Some(piece) = self.handler.next_outgoing()
            {
                pieces.more.push(piece);
            }
            let (sending, manner) = match self.sending {
                Sending::Behind => (Sending::Waiting, Manner::Waiting),
                _ if self.handler.awaits_sent() => (Sending::AtOnce, Manner::AtOnce),
                _ => (Sending::AtOnce, Manner::AtOnceSilently),
            };
            self.sending = sending;
            ring.send(key, self.descriptor, pieces, manner);
        } else {
            self.sending = Sending::Idle;
            if self.handler.ends_writing() && !self.handler.is_over() {
                self.shut_down(key, Shutdown::Write, ring);
            }
        }
    }

    /// Begins to receive, or stops.
    fn receive<Q: Queues>(&mut self, key: Key, Driver { ring, stats, .. }: &mut Driver<Q>) {
        let class = self.handler.class();
        match self.receiving {
            Receiving::Idle if self.handler.may_receive() => {
                stats.rearms.add(1);
                self.receiving = Receiving::Armed(class);
                ring.receive(key, self.descriptor, class, self.handler.receives_singly());
            }
            Receiving::Armed(armed) if armed != class || !self.handler.may_receive() => {
                self.receiving = Receiving::Cancelled;
                ring.cancel_receive(key, armed);
            }
            _ => {}
        }
    }

    /// Gives the socket up: shut, then cancelled, then, when nothing is under way any more, closed. A socket that is
    /// closed while it receives sends no FIN, and lives on.
    ///
    /// A handler that ends abruptly leaves the first step out: what closing the socket does is then up to its options.
    fn end<Q: Queues>(&mut self, key: Key, ring: &mut Ring<Q>) {
        if self.sending == Sending::Connecting {
            if self.ending == Ending::No {
                self.ending = Ending::ShutDown;
                ring.cancel_connect(self.descriptor);
            }
            return;
        }
        let is_receiving = matches!(self.receiving, Receiving::Armed(_) | Receiving::Cancelled);
        let is_sending = matches!(self.sending, Sending::AtOnce | Sending::Waiting);
        if !is_receiving && !is_sending && (self.shutdowns == 0 || planted!(ShutdownsAreNotCounted)) {
            if self.ending != Ending::Closing {
                self.ending = Ending::Closing;
                ring.close(key, self.descriptor);
            }
        } else if self.ending == Ending::No && (is_receiving || is_sending) {
            self.ending = Ending::ShutDown;
            if is_sending || !self.handler.ends_abruptly() {
                self.shut_down(key, Shutdown::Both, ring);
            }
            if let Receiving::Armed(class) = self.receiving {
                self.receiving = Receiving::Cancelled;
                ring.cancel_receive(key, class);
            }
        }
    }

    fn shut_down<Q: Queues>(&mut self, key: Key, how: Shutdown, ring: &mut Ring<Q>) {
        self.shutdowns += 1;
        ring.shut_down(key, self.descriptor, how);
    }

    /// Whether the wheel's tick is the one that it has this connection at; then it has it no more.
    pub(super) fn leaves_wheel(&mut self, tick: u64) -> bool {
        let leaves = self.marks & IN_WHEEL != 0 && self.wheel_tick == low(tick);
        if leaves {
            self.marks &= !IN_WHEEL;
        }
        leaves
    }

    /// Puts the deadline into the wheel, unless it is there or something earlier is.
    fn enter_deadline(&mut self, key: Key, deadline: u64, wheel: &mut Wheel<u32>) {
        let tick = deadline.div_ceil(TICK);
        let is_earlier = low(tick).wrapping_sub(self.wheel_tick).cast_signed() < 0;
        if self.marks & IN_WHEEL == 0 || is_earlier {
            self.wheel_tick = low(wheel.insert(tick, key.slot));
            self.marks |= IN_WHEEL;
        }
    }
}

/// The address of a peer: a socket of the ring has no descriptor to ask.
const fn no_peer() -> Option<IpAddr> {
    None
}

/// Whether an operation that failed so may succeed when it is begun again: a signal, or memory that the kernel had not at
/// the moment.
pub(super) const fn is_momentary(errno: Errno) -> bool {
    matches!(errno, Errno::INTR | Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM)
}

/// A tick modulo 2^32, which is 397 days.
#[expect(clippy::cast_possible_truncation, reason = "the upper bits are cut off on purpose")]
const fn low(tick: u64) -> u32 {
    tick as u32
}
