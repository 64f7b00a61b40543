//! The [`Driver`] on io_uring: it keeps receives under way, ends sockets step by step, and shares the buffers out.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use socket2::SockAddr;

use super::super::Common;
use super::super::driver::{Accepting, Driver, Event, Sent, Sockets};
use super::super::handler::Received;
use super::super::listener::Listener;
use super::super::outgoing::{Manner, Pieces};
use super::super::slots::Id;
use super::acceptor::Acceptors;
use super::event::RingEvent;
use super::queues::{Queues, Uring};
use super::ring::Ring;
use super::socket::{Receive, Send, Socket};
use super::{Class, Sizes};
use crate::engine::EngineCounters;
use crate::engine::shortage::is_momentary;
use crate::memory::HEADROOM;

/// How many buffers a connection is reckoned to take at once.
const BUFFERS_A_RECEIVE: u32 = 4;

/// The driver of a worker on the ring engine.
pub struct RingDriver<Q: Queues = Uring> {
    pub(super) ring: Ring<Q>,
    acceptors: Acceptors,
    /// What was received beyond what may be handled in a turn, in order.
    pub(super) late: VecDeque<(Id, Received)>,
    /// How many of those are handed out in this turn.
    late_due: usize,
    /// Those that rest in this turn.
    resting: Vec<Id>,
    /// Those to look at before the next enter: a receive of theirs has ended, or something that their end waits for.
    to_look: Vec<Id>,
    /// Those who wait for a small buffer, and for a big one: first come, first served.
    pub(super) starved: [VecDeque<Id>; 2],
    /// Some wait for a buffer though there are some.
    pub(super) has_more_to_feed: bool,
    /// How many connections receive into big buffers.
    bulk: u32,
    /// The last enter did not ask for completions.
    pub(super) has_only_submitted: bool,
    pub(super) busy_poll: Duration,
    /// How many alarms were set, modulo 2^32.
    alarms: u32,
    wake: Option<Arc<OwnedFd>>,
    /// A receive brings one buffer.
    is_single: bool,
    counters: Arc<EngineCounters>,
}

impl RingDriver {
    /// A ring of this thread.
    ///
    /// # Errors
    ///
    /// When the ring cannot be set up.
    pub(super) fn new(sizes: &Sizes, common: &Common) -> io::Result<Self> {
        Self::over(Uring::set_up(sizes)?, sizes, common)
    }
}

impl<Q: Queues> RingDriver<Q> {
    /// As [`RingDriver::new`], over these queues.
    pub(super) fn over(queues: Q, sizes: &Sizes, common: &Common) -> io::Result<Self> {
        let counters = Arc::clone(&common.counters);
        Ok(Self {
            ring: Ring::over(queues, sizes, Arc::clone(&counters))?,
            acceptors: Acceptors::default(),
            late: VecDeque::new(),
            late_due: 0,
            resting: Vec::new(),
            to_look: Vec::new(),
            starved: [const { VecDeque::new() }; 2],
            has_more_to_feed: false,
            bulk: 0,
            has_only_submitted: false,
            busy_poll: sizes.busy_poll,
            alarms: 0,
            wake: None,
            is_single: common.is_careful,
            counters,
        })
    }

    /// The next of what was left from the turn before.
    fn next_late(&mut self, sockets: &mut impl Sockets<Socket>) -> Option<Event<Socket>> {
        while self.late_due > 0 {
            self.late_due -= 1;
            let next = if planted!(LateIsReversed) { self.late.pop_back() } else { self.late.pop_front() };
            let (id, received) = next?;
            match sockets.socket(id) {
                Some(socket) if socket.rests() => self.late.push_back((id, received)),
                Some(_) => return Some(Event::Received { id, received }),
                // Its buffer goes back.
                None => {}
            }
        }
        None
    }

    /// What an event of the ring is to the worker; nothing where it concerns the driver alone.
    #[inline]
    fn event(&mut self, event: RingEvent, sockets: &mut impl Sockets<Socket>) -> Option<Event<Socket>> {
        match event {
            RingEvent::Received { id, result, is_last } => {
                let Some(socket) = sockets.socket(id) else {
                    // Its buffer goes back.
                    self.counters.stale_completions.add(1);
                    return None;
                };
                if is_last && self.ends_receive(id, socket, &result) {
                    return None;
                }
                let received = match result {
                    Ok(Some((buffer, len))) => Received::Bytes(buffer, HEADROOM..HEADROOM + len),
                    Ok(None) => Received::End,
                    Err(error) => Received::Failed(error),
                };
                if socket.rests() {
                    self.late.push_back((id, received));
                    return None;
                }
                Some(Event::Received { id, received })
            }
            RingEvent::Sent { id, result, pieces } => {
                if let Some(socket) = sockets.socket(id) {
                    socket.send = Send::Idle;
                    self.look_at_end(id, socket);
                }
                Some(Event::Sent { id, sent: Sent { result, pieces } })
            }
            RingEvent::Connected { id, result } => {
                if let Some(socket) = sockets.socket(id) {
                    socket.send = Send::Idle;
                    socket.receive = if result.is_ok() { Receive::Idle } else { Receive::Ended };
                    self.look_at_end(id, socket);
                }
                Some(Event::Begun { id, result })
            }
            RingEvent::Accepted { listener, result, is_last, peer } => {
                match self.acceptors.on_accepted(listener, result, is_last) {
                    Some(Ok(descriptor)) => Some(Event::Accepted { socket: Socket::new(descriptor), peer }),
                    Some(Err(error)) => Some(Event::AcceptFailed(error)),
                    None => None,
                }
            }
            RingEvent::ShutDown { id } => {
                if let Some(socket) = sockets.socket(id) {
                    socket.shutdowns -= 1;
                    self.look_at_end(id, socket);
                }
                None
            }
            RingEvent::Closed { id } => {
                if sockets.socket(id).is_some_and(|socket| socket.rests()) {
                    self.late.retain(|(of, _)| *of != id);
                }
                Some(Event::Closed { id })
            }
            RingEvent::Unconfirmed { id, result } => {
                let bytes = result.ok();
                // Where the kernel cannot tell, a send that waits is tried anew: it waits until a third of the socket's buffer
                // is free or more, and a slow peer may take longer for that than it is given. One that does not wait takes
                // what room there is.
                if bytes.is_none() && sockets.socket(id).is_some_and(|socket| socket.send == Send::Waiting) {
                    self.ring.cancel_send(id);
                }
                Some(Event::Unconfirmed { id, bytes })
            }
            // Any other was set before an earlier one took its place.
            RingEvent::Elapsed { number } => (number == self.alarms).then_some(Event::Elapsed),
            RingEvent::Woken { is_last } => {
                if let Some(wake) = &self.wake {
                    if is_last {
                        self.ring.watch(wake.as_fd());
                    }
                    self.ring.empty(wake.as_fd());
                }
                Some(Event::Woken)
            }
        }
    }

    /// A receive has ended. Gives whether that is all that it says.
    fn ends_receive<T>(&mut self, id: Id, socket: &mut Socket, result: &io::Result<T>) -> bool {
        let armed = std::mem::replace(&mut socket.receive, Receive::Idle);
        self.to_look.push(id);
        let Err(error) = result else {
            return false;
        };
        match Errno::from_io_error(error) {
            Some(Errno::NOBUFS) => {
                self.counters.buffers_exhausted.add(1);
                if let Receive::Armed(class) = armed {
                    socket.starve(class);
                    if class != Class::Small || !planted!(StarvedAreForgotten) {
                        self.starved[class as usize].push_back(id);
                    }
                }
                true
            }
            // It is begun again.
            Some(Errno::CANCELED) => true,
            _ if is_momentary(error) => true,
            _ => {
                socket.receive = Receive::Ended;
                false
            }
        }
    }

    /// Something that the end of a socket may wait for is over.
    fn look_at_end(&mut self, id: Id, socket: &Socket) {
        if socket.is_given_up() {
            self.to_look.push(id);
        }
    }

    /// Begins receives anew, and goes on with ends.
    fn look(&mut self, sockets: &mut impl Sockets<Socket>) {
        let mut to_look = std::mem::take(&mut self.to_look);
        for id in to_look.drain(..) {
            if let Some(socket) = sockets.socket(id) {
                self.update(id, socket);
            }
        }
        self.to_look = to_look;
    }

    fn update(&mut self, id: Id, socket: &mut Socket) {
        if socket.is_given_up() {
            socket.update_ending(id, &mut self.ring);
        } else {
            socket.update_receive(id, &mut self.ring, self.is_single, &self.counters);
        }
    }

    /// Lets some of those who wait for a buffer receive. Each may take several buffers at once, and whoever then finds none
    /// has been begun in vain: so it is not as many as there are buffers.
    fn feed_starved(&mut self, sockets: &mut impl Sockets<Socket>) {
        self.has_more_to_feed = false;
        for class in [Class::Small, Class::Big] {
            if self.starved[class as usize].is_empty() {
                continue;
            }
            let available = self.ring.available(class);
            for _ in 0..available.div_ceil(BUFFERS_A_RECEIVE) {
                let Some(id) = self.starved[class as usize].pop_front() else {
                    break;
                };
                if let Some(socket) = sockets.socket(id)
                    && socket.starves_for(class)
                {
                    socket.receive = Receive::Idle;
                    self.update(id, socket);
                }
            }
            self.has_more_to_feed |= available > 0 && !self.starved[class as usize].is_empty();
        }
    }

    fn count_bulk(&mut self, is_more: bool) {
        self.bulk = if is_more { self.bulk + 1 } else { self.bulk - 1 };
        self.ring.set_bulk(self.bulk);
    }
}

impl<Q: Queues> Driver for RingDriver<Q> {
    type Socket = Socket;

    /// Replies of a turn go to the kernel together.
    const ANSWERS_AT_ONCE: bool = false;

    fn listen(&mut self, listeners: Vec<Listener>, asks_for_peers: bool) -> io::Result<()> {
        self.acceptors = Acceptors::new(listeners, asks_for_peers)?;
        Ok(())
    }

    fn set_accepting(&mut self, accepting: Accepting) {
        self.acceptors.manage(&mut self.ring, accepting);
    }

    fn is_listening(&self) -> bool {
        !self.acceptors.are_done()
    }

    /// The socket is in blocking mode. It lives on in the ring's table of files, without its descriptor. A ring either
    /// connects or accepts: the kernel chooses the places of accepted connections.
    fn connect(&mut self, id: Id, socket: OwnedFd, to: Arc<SockAddr>) -> io::Result<Socket> {
        let descriptor = self.ring.install(id, socket.as_fd())?;
        self.ring.connect(id, descriptor, to);
        Ok(Socket::connecting(descriptor))
    }

    fn adopt(&mut self, _: Id, _: &mut Socket) -> io::Result<()> {
        Ok(())
    }

    #[inline]
    fn set_receiving(&mut self, id: Id, socket: &mut Socket, class: Option<Class>) {
        if let Some(class) = class {
            let is_bulk = class == Class::Big;
            if socket.set_bulk(is_bulk) {
                self.count_bulk(is_bulk);
            }
        }
        socket.wanted = class;
        socket.update_receive(id, &mut self.ring, self.is_single, &self.counters);
    }

    fn rest(&mut self, id: Id, socket: &mut Socket) {
        if !socket.rests() {
            socket.set_rests(true);
            self.resting.push(id);
        }
    }

    #[inline]
    fn send(&mut self, id: Id, socket: &mut Socket, pieces: Pieces, manner: Manner) -> Option<Sent> {
        socket.send = if manner == Manner::Waiting { Send::Waiting } else { Send::AtOnce };
        self.ring.send(id, socket.descriptor, pieces, manner);
        None
    }

    fn shut_write(&mut self, id: Id, socket: &mut Socket) {
        socket.shut(id, Shutdown::Write, &mut self.ring);
    }

    fn ask_unconfirmed(&mut self, id: Id, socket: &mut Socket) -> Option<Option<u32>> {
        self.ring.ask_unconfirmed(id, socket.descriptor);
        None
    }

    fn has_heard(&mut self, _: Id, socket: &mut Socket) -> bool {
        !matches!(socket.receive, Receive::Cancelled | Receive::Starved)
    }

    fn give_up(&mut self, id: Id, socket: &mut Socket, is_abrupt: bool) -> bool {
        if socket.set_bulk(false) {
            self.count_bulk(false);
        }
        socket.give_up(is_abrupt);
        socket.update_ending(id, &mut self.ring);
        false
    }

    /// A socket of the ring has none.
    #[inline]
    fn descriptor(_: &Socket) -> Option<BorrowedFd<'_>> {
        None
    }

    fn watch(&mut self, eventfd: Arc<OwnedFd>) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&eventfd, true)?;
        self.ring.watch(eventfd.as_fd());
        self.wake = Some(eventfd);
        Ok(())
    }

    fn set_alarm(&mut self, after: Duration) {
        self.alarms = self.alarms.wrapping_add(1);
        self.ring.set_alarm(self.alarms, after);
    }

    fn enter(&mut self, sockets: &mut impl Sockets<Socket>, at_most: Option<Duration>) -> io::Result<()> {
        while let Some(id) = self.resting.pop() {
            if let Some(socket) = sockets.socket(id) {
                socket.set_rests(false);
            }
        }
        self.look(sockets);
        self.feed_starved(sockets);
        self.late_due = self.late.len();
        self.wait(at_most)
    }

    #[inline]
    fn next_event(&mut self, sockets: &mut impl Sockets<Socket>) -> io::Result<Option<Event<Socket>>> {
        if self.late_due > 0
            && let Some(late) = self.next_late(sockets)
        {
            return Ok(Some(late));
        }
        while let Some(event) = self.ring.next_event()? {
            if let Some(event) = self.event(event, sockets) {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
