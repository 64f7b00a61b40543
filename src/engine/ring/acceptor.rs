//! Accepting, as long as there are places.
//!
//! Connections are accepted into the ring's table of files. Where that is full, the kernel would accept a connection
//! and destroy it: so an operation that accepts any number is under way only while more places are free than
//! connections can be waiting, and else one accept at a time, each with a place kept for it.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd as _;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::super::wheel::TICK;
use super::ring::{Descriptor, Ring};
use super::worker::Service;
use crate::server::Phase;
use crate::server::accept::is_the_peers;
use crate::server::listeners::BACKLOG;

/// For how many ticks accepting pauses when the process or the kernel has run out of something.
const PAUSE: u64 = 50 / TICK;

/// The listeners of a worker.
#[derive(Debug, Default)]
pub(super) struct Acceptors {
    listeners: Vec<Acceptor>,
    /// The tick before which nothing is accepted.
    paused_until: Option<u64>,
    /// It was said that no more may be accepted.
    is_held: bool,
}

#[derive(Debug)]
struct Acceptor {
    /// Nothing once what was queued at the end has been taken.
    socket: Option<TcpListener>,
    state: State,
    /// How many of those that were queued when the drain began were taken.
    last_ones: i32,
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

/// Whether a connection waits to be accepted.
fn is_queued(listener: &TcpListener) -> bool {
    let mut descriptors = [PollFd::new(listener, PollFlags::IN)];
    poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

impl Acceptors {
    pub(super) fn new(sockets: Vec<TcpListener>) -> io::Result<Self> {
        let mut listeners = Vec::new();
        for socket in sockets {
            // With O_NONBLOCK the kernel answers EAGAIN instead of waiting.
            socket.set_nonblocking(false)?;
            listeners.push(Acceptor { socket: Some(socket), state: State::Idle, last_ones: 0 });
        }
        Ok(Self { listeners, paused_until: None, is_held: false })
    }

    /// Whether nothing more will be accepted.
    pub(super) fn are_done(&self) -> bool {
        self.listeners.iter().all(|listener| listener.socket.is_none())
    }

    /// The tick at which to go on.
    pub(super) const fn paused_until(&self) -> Option<u64> {
        self.paused_until
    }

    /// Begins and ends accepting, as the phase and the `free` places have it.
    pub(super) fn manage(&mut self, ring: &mut Ring, service: &mut impl Service, phase: Phase, free: usize) {
        if self.are_done() {
            return;
        }
        let is_paused = self.paused_until.is_some_and(|tick| service.now() / TICK < tick);
        if !is_paused {
            self.paused_until = None;
        }
        let may_accept = phase > Phase::Running || service.may_accept();
        let is_held = !may_accept || free == 0;
        if is_held && !self.is_held {
            service.on_accept_paused(None);
        }
        self.is_held = is_held;
        let under_way = self.listeners.iter().filter(|listener| listener.state != State::Idle).count();
        let mut unclaimed = free.saturating_sub(under_way);
        let queued_max = usize::try_from(BACKLOG).unwrap_or(usize::MAX) * self.listeners.len();
        for (index, listener) in (0..).zip(&mut self.listeners) {
            let Some(socket) = &listener.socket else {
                continue;
            };
            match listener.state {
                State::Single | State::Multi if phase > Phase::Running => {
                    listener.state = State::Cancelled;
                    ring.cancel_accept(index);
                }
                State::Multi if !may_accept || free <= queued_max => {
                    listener.state = State::Cancelled;
                    ring.cancel_accept(index);
                }
                State::Idle if is_paused => {}
                // What is queued is taken: closing a listener would reset it.
                State::Idle if phase > Phase::Running => {
                    if listener.last_ones == BACKLOG || !is_queued(socket) {
                        listener.socket = None;
                    } else if unclaimed > 0 {
                        unclaimed -= 1;
                        listener.state = State::Last;
                        listener.last_ones += 1;
                        ring.accept(index, socket.as_fd(), false);
                    }
                }
                State::Idle if may_accept && free > queued_max => {
                    listener.state = State::Multi;
                    ring.accept(index, socket.as_fd(), true);
                }
                State::Idle if may_accept && unclaimed > 0 => {
                    unclaimed -= 1;
                    listener.state = State::Single;
                    ring.accept(index, socket.as_fd(), false);
                }
                _ => {}
            }
        }
    }

    /// A completion of an accept. Gives the connection, if that is what came.
    pub(super) fn on_accepted(
        &mut self,
        listener: u32,
        result: io::Result<Descriptor>,
        is_last: bool,
        service: &mut impl Service,
    ) -> Option<Descriptor> {
        let listener = self.listeners.get_mut(listener as usize)?;
        let was = listener.state;
        if is_last {
            listener.state = State::Idle;
        }
        match result.map_err(|error| (Errno::from_io_error(&error), error)) {
            Ok(descriptor) => return Some(descriptor),
            Err((Some(Errno::CANCELED), _)) => {}
            Err((_, error)) if is_the_peers(&error) => {}
            Err((_, error)) if was == State::Last => {
                service.on_accept_paused(Some(&error));
                listener.socket = None;
            }
            Err((_, error)) => {
                // Running out of something is waited out.
                service.on_accept_paused(Some(&error));
                self.paused_until = Some(service.now() / TICK + PAUSE);
            }
        }
        None
    }
}
