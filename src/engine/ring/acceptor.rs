//! Accepting, as long as there are places.
//!
//! Connections are accepted into the ring's table of files. Where that is full, the kernel would accept a connection
//! and destroy it: so an operation that accepts any number is under way only while more places are free than
//! connections can be waiting, and else one accept at a time, each with a place kept for it. So it is where workers share
//! a socket, too: the kernel wakes the one that has waited longest, and an operation that goes on waits at the head for
//! ever.

use std::io;
use std::os::fd::AsFd as _;
use std::rc::Rc;

use rustix::io::Errno;

use super::super::driver::Accepting;
use super::super::listener::{Listener, is_the_peers};
use super::event::AcceptKind;
use super::queues::Queues;
use super::ring::{Descriptor, Ring};

/// How many accepts are under way on a listener at once where each has to ask for its peer's address, which the one that
/// accepts any number does not give.
pub(crate) const WITH_PEER: usize = 8;

/// The listeners of a worker.
#[derive(Debug, Default)]
pub(super) struct Acceptors {
    listeners: Vec<Acceptor>,
    /// The addresses of peers are asked for: each listener is there [`WITH_PEER`] times, and accepts one at a time.
    has_peers: bool,
}

#[derive(Debug)]
struct Acceptor {
    /// Nothing once what was queued at the end has been taken.
    socket: Option<Rc<Listener>>,
    /// There is another one of the same socket, which takes what is queued at the end.
    is_further: bool,
    state: State,
    /// An accept of it did not wait: somebody who shares the socket has set O_NONBLOCK.
    is_nonblocking: bool,
    /// How many of those that were queued when the drain began were taken.
    last_ones: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Single,
    Multi,
    /// Its last completion is awaited.
    Cancelled,
    /// One of those that were queued when the drain began.
    Last,
}

impl Acceptors {
    /// Those of a worker; with `has_peers` they ask for the addresses of peers.
    pub(super) fn new(sockets: Vec<Listener>, has_peers: bool) -> io::Result<Self> {
        let mut listeners = Vec::new();
        for socket in sockets {
            if !socket.is_shared() {
                // With O_NONBLOCK an accept takes two operations.
                socket.set_nonblocking(false)?;
            }
            let socket = Rc::new(socket);
            for further in 0..if has_peers { WITH_PEER } else { 1 } {
                let socket = Some(Rc::clone(&socket));
                let is_further = further > 0;
                let state = State::Idle;
                listeners.push(Acceptor { socket, is_further, state, is_nonblocking: false, last_ones: 0 });
            }
        }
        Ok(Self { listeners, has_peers })
    }

    /// Whether nothing more will be accepted.
    pub(super) fn are_done(&self) -> bool {
        self.listeners.iter().all(|listener| listener.socket.is_none())
    }

    /// Begins and ends accepting, as the worker has it.
    pub(super) fn manage<Q: Queues>(&mut self, ring: &mut Ring<Q>, accepting: Accepting) {
        let Accepting { places, is_paused, are_last } = accepting;
        let under_way = self.listeners.iter().filter(|listener| listener.state != State::Idle).count();
        let mut unclaimed = places.saturating_sub(under_way);
        let one = if self.has_peers { AcceptKind::OneWithPeer } else { AcceptKind::One };
        let sockets = self.listeners.iter().filter_map(|listener| listener.socket.as_ref());
        // Before the places are counted again, the kernel may accept whatever is queued and as many that come meanwhile. It
        // has one more in a queue than it was told. A shared listener has one accept at a time.
        let accepted_max: usize =
            sockets.map(|own| if own.is_shared() { 1 } else { 2 * (own.queue_max() + 1) }).sum();
        for (index, listener) in (0..).zip(&mut self.listeners) {
            let Some(socket) = &listener.socket else {
                continue;
            };
            match listener.state {
                State::Single | State::Multi if are_last => {
                    listener.state = State::Cancelled;
                    ring.cancel_accept(index);
                }
                State::Multi if places < accepted_max => {
                    listener.state = State::Cancelled;
                    ring.cancel_accept(index);
                }
                State::Idle if is_paused => {}
                // What is queued is taken: closing a listener would reset it, unless it is open elsewhere.
                State::Idle if are_last => {
                    let is_done = listener.is_further
                        || socket.is_inherited()
                        || listener.last_ones > socket.queue_max();
                    if is_done || !ring.is_queued(socket.as_fd()) {
                        listener.socket = None;
                    } else if unclaimed > 0 {
                        unclaimed -= 1;
                        listener.state = State::Last;
                        ring.accept(index, socket.as_fd(), one);
                        // Another worker may take the connection first, and then there is nothing to wait for. Some
                        // kernels wait even if the listener does not block.
                        ring.cancel_accept(index);
                    }
                }
                State::Idle
                    if places >= accepted_max
                        && !(socket.is_shared() || self.has_peers || listener.is_nonblocking) =>
                {
                    listener.state = State::Multi;
                    ring.accept(index, socket.as_fd(), AcceptKind::Many);
                }
                State::Idle if unclaimed > 0 => {
                    unclaimed -= 1;
                    listener.state = State::Single;
                    if listener.is_nonblocking {
                        ring.accept_when_ready(index, socket.as_fd(), one);
                    } else {
                        ring.accept(index, socket.as_fd(), one);
                    }
                }
                _ => {}
            }
        }
    }

    /// A completion of an accept. Gives the connection, or why accepting has to pause.
    pub(super) fn on_accepted(
        &mut self,
        listener: u32,
        result: io::Result<Descriptor>,
        is_last: bool,
    ) -> Option<io::Result<Descriptor>> {
        let listener = self.listeners.get_mut(listener as usize)?;
        let was = listener.state;
        if is_last {
            listener.state = State::Idle;
        }
        match result.map_err(|error| (Errno::from_io_error(&error), error)) {
            Ok(descriptor) => {
                listener.last_ones += usize::from(was == State::Last);
                return Some(Ok(descriptor));
            }
            Err((Some(Errno::CANCELED), _)) => {}
            Err((_, error)) if is_the_peers(&error) => {}
            Err((Some(Errno::AGAIN), _)) if was == State::Last => listener.socket = None,
            // Another worker was first, or nobody waits: a worker of another engine or another process has made it so.
            Err((Some(Errno::AGAIN), _)) => listener.is_nonblocking = true,
            Err((_, error)) => {
                if was == State::Last {
                    listener.socket = None;
                }
                return Some(Err(error));
            }
        }
        None
    }
}
