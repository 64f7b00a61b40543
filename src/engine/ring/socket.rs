//! A socket of the ring: what is under way on it, and what comes next.

use std::net::Shutdown;

use super::super::slots::Id;
use super::Class;
use super::queues::Queues;
use super::ring::{Descriptor, Ring};
use crate::engine::EngineCounters;

/// A socket in the ring's table of files.
#[derive(Debug)]
pub struct Socket {
    pub(super) descriptor: Descriptor,
    /// What the worker wants: to receive into buffers of this class, or not to receive.
    pub(super) wanted: Option<Class>,
    pub(super) receive: Receive,
    pub(super) send: Send,
    pub(super) ending: Ending,
    /// How many shutdowns are under way.
    pub(super) shutdowns: u8,
    marks: u8,
}

/// A place of the worker's table has room for so much.
const _: () = assert!(size_of::<Socket>() <= 10);

/// Marks: it receives into big buffers.
const BULK: u8 = 1;
/// What it has received waits for the next turn.
const RESTS: u8 = 2;
/// It is given up without being shut first.
const ABRUPT: u8 = 4;
/// It waits for a big buffer, if it waits for one.
const STARVES_FOR_BIG: u8 = 8;

/// The receive of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receive {
    /// Not before there is a connection.
    Not,
    Idle,
    Armed(Class),
    /// Its last completion is awaited.
    Cancelled,
    /// There was no buffer: it is on the list of those who wait for one.
    Starved,
    /// The stream has ended, or failed.
    Ended,
}

/// The send of a socket; there is never more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Send {
    /// The connection is being made.
    Connecting,
    Idle,
    /// One that is over with the next enter.
    AtOnce,
    /// One that waits for the peer.
    Waiting,
}

/// How far a socket that is given up has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    No,
    /// It is to be given up.
    Due,
    /// It is shut, and what is under way is awaited.
    ShutDown,
    Closing,
}

impl Socket {
    /// One that was just accepted.
    pub(super) const fn new(descriptor: Descriptor) -> Self {
        Self {
            descriptor,
            wanted: None,
            receive: Receive::Idle,
            send: Send::Idle,
            ending: Ending::No,
            shutdowns: 0,
            marks: 0,
        }
    }

    /// One whose connection is being made.
    pub(super) const fn connecting(descriptor: Descriptor) -> Self {
        Self { receive: Receive::Not, send: Send::Connecting, ..Self::new(descriptor) }
    }

    /// Begins to receive, or stops, as the worker wants it.
    #[inline]
    pub(super) fn update_receive<Q: Queues>(
        &mut self,
        id: Id,
        ring: &mut Ring<Q>,
        is_single: bool,
        counters: &EngineCounters,
    ) {
        match (self.receive, self.wanted) {
            (Receive::Idle, Some(class)) => {
                counters.rearms.add(1);
                self.receive = Receive::Armed(class);
                ring.receive(id, self.descriptor, class, is_single);
            }
            (Receive::Armed(armed), wanted) if wanted != Some(armed) => self.cancel_receive(id, armed, ring),
            _ => {}
        }
    }

    /// There was no buffer of this class.
    pub(super) fn starve(&mut self, class: Class) {
        self.receive = Receive::Starved;
        match class {
            Class::Small => self.marks &= !STARVES_FOR_BIG,
            Class::Big => self.marks |= STARVES_FOR_BIG,
        }
    }

    /// Whether it waits for a buffer of this class.
    pub(super) fn starves_for(&self, class: Class) -> bool {
        self.receive == Receive::Starved && (self.marks & STARVES_FOR_BIG != 0) == (class == Class::Big)
    }

    fn cancel_receive<Q: Queues>(&mut self, id: Id, armed: Class, ring: &mut Ring<Q>) {
        self.receive = Receive::Cancelled;
        ring.cancel_receive(id, armed);
    }

    pub(super) const fn is_given_up(&self) -> bool {
        !matches!(self.ending, Ending::No)
    }

    /// The worker has given it up.
    pub(super) fn give_up(&mut self, is_abrupt: bool) {
        if self.ending == Ending::No {
            self.ending = Ending::Due;
            self.marks |= if is_abrupt { ABRUPT } else { 0 };
        }
    }

    /// Goes on to end what was given up: shut, then cancelled, then, when nothing is under way any more, closed. A socket that
    /// is closed while it receives sends no FIN, and lives on.
    ///
    /// One that ends abruptly is not shut: what closing it does is then up to its options.
    pub(super) fn update_ending<Q: Queues>(&mut self, id: Id, ring: &mut Ring<Q>) {
        if self.send == Send::Connecting {
            if self.ending == Ending::Due {
                self.ending = Ending::ShutDown;
                ring.cancel_connect(self.descriptor);
            }
            return;
        }
        let is_receiving = matches!(self.receive, Receive::Armed(_) | Receive::Cancelled);
        let is_sending = matches!(self.send, Send::AtOnce | Send::Waiting);
        if !is_receiving && !is_sending && (self.shutdowns == 0 || planted!(ShutdownsAreNotCounted)) {
            if self.ending != Ending::Closing {
                self.ending = Ending::Closing;
                ring.close(id, self.descriptor);
            }
        } else if self.ending == Ending::Due && (is_receiving || is_sending) {
            self.ending = Ending::ShutDown;
            if is_sending || self.marks & ABRUPT == 0 {
                self.shut(id, Shutdown::Both, ring);
            }
            if let Receive::Armed(armed) = self.receive {
                self.cancel_receive(id, armed, ring);
            }
        }
    }

    pub(super) fn shut<Q: Queues>(&mut self, id: Id, how: Shutdown, ring: &mut Ring<Q>) {
        self.shutdowns += 1;
        ring.shut_down(id, self.descriptor, how);
    }

    pub(super) const fn rests(&self) -> bool {
        self.marks & RESTS != 0
    }

    pub(super) const fn set_rests(&mut self, rests: bool) {
        self.marks = if rests { self.marks | RESTS } else { self.marks & !RESTS };
    }

    /// Whether it receives into big buffers from now on. Gives whether that is new.
    #[inline]
    pub(super) const fn set_bulk(&mut self, is_bulk: bool) -> bool {
        let is_new = is_bulk != (self.marks & BULK != 0);
        if is_new {
            self.marks ^= BULK;
        }
        is_new
    }
}
