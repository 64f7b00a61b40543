//! A worker: one ring, the connections that it drives, and the order in which things happen.
//!
//! A turn is one io_uring_enter(2). What has come is handed to the connections first ("reap"), then each connection
//! that anything happened to is looked at once, and what it wants next is submitted with the next one ("act"). So a connection that got
//! bytes in several buffers sends them in one go, and all that a turn submits goes to the kernel together.
//!
//! What a connection says, and when it ends, is its [`Handler`]'s business; where handlers come from is the
//! [`Service`]'s.

mod waiting;

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use socket2::SockAddr;

use super::super::buffers::Class;
use super::super::handler::{Handler, Received};
use super::super::wheel::{TICK, Wheel};
use super::Sizes;
use super::acceptor::Acceptors;
use super::connection::{Connection, Driver, Receiving, is_momentary};
use super::event::{Event, Pieces};
use super::queues::{Queues, Uring};
use super::ring::{Descriptor, Ring};
use super::slots::Slots;
use super::token::Key;
use crate::engine::{EngineCounters, Listener, Phase};

/// What one connection may cost in a turn; what it has received beyond that waits for the next one. The simulation gets
/// there too.
const TURN_COST: usize = if cfg!(test) { 512 } else { 1 << 20 };

/// What a frame costs, in bytes.
const FRAME_COST: usize = 128;

/// How many buffers a connection is reckoned to take at once.
const BUFFERS_A_RECEIVE: u32 = 4;

/// How long connections that were cut may take to give their places back.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

/// Where connections come from, and what the worker is to do.
pub trait Service {
    /// What drives a connection.
    type Handler: Handler;

    /// A connection was accepted; its peer's address, where [`Self::asks_for_peers`] says so and there is one.
    fn accepted(&mut self, peer: Option<IpAddr>) -> Self::Handler;

    /// Whether the addresses of peers are worth what they cost: connections are accepted one by one then.
    fn asks_for_peers(&self) -> bool {
        false
    }

    /// Whether to accept further ones now.
    fn may_accept(&self) -> bool;

    /// Accepting pauses: for want of something, or because [`Self::may_accept`] says so.
    fn on_accept_paused(&mut self, error: Option<&io::Error>);

    /// Whether nothing is accepted now has changed.
    fn on_accepting_changed(&mut self, _is_paused: bool) {}

    /// What the server is at, asked when the worker was woken.
    fn phase(&mut self) -> Phase;

    /// Milliseconds on the clock that deadlines are given by.
    fn now(&self) -> u64;
}

/// The thread's ring and its connections.
pub struct Worker<S: Service, Q: Queues = Uring> {
    service: S,
    driver: Driver<Q>,
    connections: Slots<Connection<S::Handler>>,
    /// Those to act on.
    touched: Vec<Key>,
    /// What was received beyond what may be handled in a turn, in order.
    late: VecDeque<(Key, Received)>,
    /// Those who wait for a buffer, first come first served.
    starved_small: VecDeque<Key>,
    starved_big: VecDeque<Key>,
    acceptors: Acceptors,
    /// How many places the ring's table of files has.
    files: usize,
    wake: Arc<OwnedFd>,
    phase: Phase,
    /// When connections were cut, by [`Ring::time`].
    cut_at: Option<Duration>,
    turn: u32,
    /// The tick at which the kernel wakes the worker for its deadlines, and how many such alarms were set, modulo 2^32.
    alarm: Option<u64>,
    alarms: u32,
    /// That tick has come.
    has_elapsed: bool,
    /// Some wait for a buffer though there are some.
    has_more_to_feed: bool,
    /// The last enter did not ask for completions.
    has_only_submitted: bool,
    busy_poll: Duration,
}

impl<S: Service> Worker<S> {
    /// A worker that looks at the phase whenever `wake`, an eventfd(2), is written to. It has to be made on the thread
    /// that runs it.
    ///
    /// # Errors
    ///
    /// When the ring cannot be set up.
    pub fn new(
        sizes: &Sizes,
        service: S,
        wake: Arc<OwnedFd>,
        stats: Arc<EngineCounters>,
    ) -> io::Result<Self> {
        Self::over(Uring::set_up(sizes)?, sizes, service, wake, stats)
    }
}

impl<S: Service, Q: Queues> Worker<S, Q> {
    /// As [`Worker::new`], over these queues.
    pub(super) fn over(
        queues: Q,
        sizes: &Sizes,
        service: S,
        wake: Arc<OwnedFd>,
        stats: Arc<EngineCounters>,
    ) -> io::Result<Self> {
        let files = sizes.files as usize;
        Ok(Self {
            service,
            driver: Driver {
                ring: Ring::over(queues, sizes, Arc::clone(&stats))?,
                wheel: Wheel::new(),
                bulk: 0,
                stats,
            },
            connections: Slots::with_room(files),
            touched: Vec::new(),
            late: VecDeque::new(),
            starved_small: VecDeque::new(),
            starved_big: VecDeque::new(),
            acceptors: Acceptors::default(),
            files,
            wake,
            phase: Phase::Running,
            cut_at: None,
            turn: 0,
            alarm: None,
            alarms: 0,
            has_elapsed: false,
            has_more_to_feed: false,
            has_only_submitted: false,
            busy_poll: sizes.busy_poll,
        })
    }

    /// Serves the connections that come to `listeners`, until the phase says to end.
    ///
    /// # Errors
    ///
    /// When the ring is of no more use.
    pub fn run(mut self, listeners: Vec<Listener>) -> io::Result<()> {
        self.listen(listeners)?;
        while self.goes_on() {
            self.turn(None)?;
        }
        Ok(())
    }

    pub(super) fn listen(&mut self, listeners: Vec<Listener>) -> io::Result<()> {
        self.acceptors = Acceptors::new(listeners, self.service.asks_for_peers())?;
        self.watch()
    }

    /// Begins and ends accepting, and says whether there is more to do.
    pub(super) fn goes_on(&mut self) -> bool {
        self.acceptors.manage(
            &mut self.driver.ring,
            &mut self.service,
            self.phase,
            self.files - self.connections.len(),
        );
        if self.phase > Phase::Running && self.acceptors.are_done() && self.connections.len() == 0 {
            return false;
        }
        if self.phase == Phase::Stopping {
            let now = self.driver.ring.time();
            return now.saturating_sub(*self.cut_at.get_or_insert(now)) <= CUT_TIMEOUT;
        }
        true
    }

    /// Begins to look at the eventfd, for whoever takes the turns himself.
    ///
    /// # Errors
    ///
    /// Those of ioctl(2).
    pub fn watch(&mut self) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&self.wake, true)?;
        self.driver.ring.watch(self.wake.as_fd());
        // What was said before the eventfd was watched.
        self.on_woken();
        Ok(())
    }

    /// One turn: submits what is to be done, waits until something has come, no longer than `at_most`, and hands it out.
    ///
    /// # Errors
    ///
    /// When the ring is of no more use.
    pub fn turn(&mut self, at_most: Option<Duration>) -> io::Result<()> {
        self.act();
        self.feed_starved();
        self.set_alarm();
        self.enter(at_most)?;
        self.reap()?;
        self.on_deadlines();
        Ok(())
    }

    /// Begins to make a connection over this socket, which is in blocking mode and lives on without its descriptor. A
    /// worker either connects or accepts.
    ///
    /// # Errors
    ///
    /// Those of io_uring_register(2).
    ///
    /// # Panics
    ///
    /// When [`Self::free_places`] are 0.
    pub fn connect(
        &mut self,
        handler: S::Handler,
        socket: BorrowedFd<'_>,
        address: Arc<SockAddr>,
    ) -> io::Result<Key> {
        assert!(self.free_places() > 0, "each connection has a place in the table of files");
        debug_assert!(self.acceptors.are_done(), "the kernel chooses the places of accepted connections");
        let ring = &mut self.driver.ring;
        let descriptor = ring.install(self.connections.next_key(), socket)?;
        let key = self.connections.insert(|_| Connection::connecting(handler, descriptor));
        ring.connect(key, descriptor, address);
        Ok(key)
    }

    /// How many further connections there is room for.
    pub fn free_places(&self) -> usize {
        self.files - self.connections.len()
    }

    /// Looks at a connection, which is acted on in the next turn; `None` when it is gone.
    pub fn with<R>(&mut self, key: Key, look: impl FnOnce(&mut S::Handler) -> R) -> Option<R> {
        let connection = self.connections.get_mut(key)?;
        touch(&mut self.touched, connection, key);
        Some(look(&mut connection.handler))
    }

    /// Has the kernel say when the first deadline is to be looked at. So neither is the clock read nor a timer set in a turn
    /// in which there is nothing to look at.
    fn set_alarm(&mut self) {
        if let Some(tick) = self.driver.wheel.next()
            && self.alarm.is_none_or(|alarm| tick < alarm)
        {
            let after = (tick * TICK).saturating_sub(self.service.now());
            self.alarms = self.alarms.wrapping_add(1);
            self.driver.ring.set_alarm(self.alarms, Duration::from_millis(after));
            self.alarm = Some(tick);
        }
    }

    /// Hands out what has come.
    fn reap(&mut self) -> io::Result<()> {
        for _ in 0..self.late.len() {
            let next = if planted!(LateIsReversed) { self.late.pop_back() } else { self.late.pop_front() };
            if let Some((key, received)) = next {
                if let Some(connection) = self.connections.get_mut(key) {
                    connection.is_late = false;
                }
                self.on_received(key, received);
            }
        }
        while let Some(event) = self.driver.ring.next_event()? {
            match event {
                Event::Received { key, result, is_last } => self.on_receive(key, result, is_last),
                Event::Sent { key, result, pieces } => self.on_sent(key, result, pieces),
                Event::Connected { key, result } => {
                    if let Some(connection) = self.connections.get_mut(key) {
                        connection.on_connected(result);
                        touch(&mut self.touched, connection, key);
                    }
                }
                Event::Accepted { listener, result, is_last, peer } => {
                    if let Some(descriptor) =
                        self.acceptors.on_accepted(listener, result, is_last, &mut self.service)
                    {
                        self.on_accepted(descriptor, peer);
                    }
                }
                Event::ShutDown { key } => {
                    if let Some(connection) = self.connections.get_mut(key) {
                        connection.shutdowns -= 1;
                        touch(&mut self.touched, connection, key);
                    }
                }
                Event::Closed { key } => drop(self.connections.remove(key)),
                Event::Untaken { key, result } => {
                    if let Some(connection) = self.connections.get_mut(key) {
                        connection.on_untaken(key, result.ok(), self.service.now(), &mut self.driver.ring);
                        touch(&mut self.touched, connection, key);
                    }
                }
                Event::Elapsed { number } => {
                    // Any other was set before an earlier one took its place.
                    if number == self.alarms {
                        self.alarm = None;
                        self.has_elapsed = true;
                    }
                }
                Event::Woken { is_last } => {
                    if is_last {
                        self.driver.ring.watch(self.wake.as_fd());
                    }
                    self.on_woken();
                }
            }
        }
        Ok(())
    }

    fn on_accepted(&mut self, descriptor: Descriptor, peer: Option<IpAddr>) {
        let mut handler = self.service.accepted(peer);
        if self.phase == Phase::Stopping {
            // The others were told so before.
            handler.on_phase(self.phase);
        }
        let key = self.connections.insert(|_| Connection::new(handler, descriptor));
        self.touched.push(key);
    }

    /// A completion of a receive: first what it means for the operation, then what it brought.
    fn on_receive(&mut self, key: Key, result: Received, is_last: bool) {
        let Some(connection) = self.connections.get_mut(key) else {
            // Its buffer goes back.
            self.driver.stats.stale_completions.add(1);
            return;
        };
        if is_last {
            let armed = std::mem::replace(&mut connection.receiving, Receiving::Idle);
            touch(&mut self.touched, connection, key);
            match result.as_ref().map_err(Errno::from_io_error) {
                Ok(Some(_)) => {}
                Err(Some(Errno::NOBUFS)) => {
                    self.driver.stats.buffers_exhausted.add(1);
                    if let Receiving::Armed(class) = armed {
                        connection.receiving = Receiving::Starved(class);
                        match class {
                            Class::Small if planted!(StarvedAreForgotten) => {}
                            Class::Small => self.starved_small.push_back(key),
                            Class::Big => self.starved_big.push_back(key),
                        }
                    }
                    return;
                }
                // It is begun again.
                Err(Some(errno)) if errno == Errno::CANCELED || is_momentary(errno) => return,
                Ok(None) | Err(_) => connection.receiving = Receiving::Ended,
            }
        }
        if connection.is_late {
            self.late.push_back((key, result));
        } else {
            self.on_received(key, result);
        }
    }

    /// Hands a connection what it received, unless that would be more than its share of the turn.
    fn on_received(&mut self, key: Key, received: Received) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.turn != self.turn {
            (connection.turn, connection.cost) = (self.turn, 0);
        }
        if connection.is_late || connection.cost as usize > TURN_COST {
            connection.is_late = true;
            self.late.push_back((key, received));
            return;
        }
        let len = received.as_ref().map_or(0, |received| received.as_ref().map_or(0, |(_, len)| *len));
        let frames = connection.handler.on_received(received);
        let cost = len.saturating_add(frames.saturating_mul(FRAME_COST));
        connection.cost = connection.cost.saturating_add(u32::try_from(cost).unwrap_or(u32::MAX));
        touch(&mut self.touched, connection, key);
    }

    fn on_sent(&mut self, key: Key, result: io::Result<usize>, pieces: Pieces) {
        let Some(connection) = self.connections.get_mut(key) else {
            debug_assert!(false, "a connection stays until its send is over");
            return;
        };
        touch(&mut self.touched, connection, key);
        connection.on_sent(result, pieces, &self.driver.stats);
    }

    fn on_woken(&mut self) {
        self.driver.ring.empty(self.wake.as_fd());
        let phase = self.service.phase();
        if phase == self.phase {
            return;
        }
        self.phase = phase;
        let keys: Vec<Key> = self.connections.keys().collect();
        for key in keys {
            if let Some(connection) = self.connections.get_mut(key) {
                connection.handler.on_phase(phase);
                touch(&mut self.touched, connection, key);
            }
        }
    }

    fn on_deadlines(&mut self) {
        if !std::mem::take(&mut self.has_elapsed) {
            return;
        }
        let now = self.service.now();
        let mut due = Vec::new();
        while let Some((tick, slots)) = self.driver.wheel.take_due(now / TICK) {
            due.push((tick, slots));
        }
        for (tick, slots) in due {
            for slot in slots {
                let Some((key, connection)) = self.connections.at_mut(slot) else {
                    continue;
                };
                if !connection.leaves_wheel(tick) {
                    // An earlier tick was entered since, or the place is somebody else's now.
                    continue;
                }
                // What lies in the socket came in time: whoever could not receive it yet is not held to the deadline,
                // unless it was handed something in this very turn: one that floods the server would never be.
                let cannot_look =
                    matches!(connection.receiving, Receiving::Cancelled | Receiving::Starved(_));
                let has_looked = !cannot_look || connection.turn == self.turn;
                if has_looked && connection.handler.deadline().is_some_and(|deadline| deadline <= now) {
                    connection.on_deadline(key, &mut self.driver.ring);
                }
                touch(&mut self.touched, connection, key);
            }
        }
    }

    /// Submits what each connection that something happened to wants next.
    fn act(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        for key in touched.drain(..) {
            if let Some(connection) = self.connections.get_mut(key) {
                connection.act(key, &mut self.driver);
            }
        }
        self.touched = touched;
    }

    /// Lets some of those who wait for a buffer receive. Each may take several buffers at once, and whoever then finds
    /// none has been begun in vain: so it is not as many as there are buffers.
    fn feed_starved(&mut self) {
        self.has_more_to_feed = false;
        for class in [Class::Small, Class::Big] {
            let starved = match class {
                Class::Small => &mut self.starved_small,
                Class::Big => &mut self.starved_big,
            };
            if starved.is_empty() {
                continue;
            }
            let available = self.driver.ring.available(class);
            for _ in 0..available.div_ceil(BUFFERS_A_RECEIVE) {
                let Some(key) = starved.pop_front() else {
                    break;
                };
                if let Some(connection) = self.connections.get_mut(key)
                    && connection.receiving == Receiving::Starved(class)
                {
                    connection.receiving = Receiving::Idle;
                    connection.act(key, &mut self.driver);
                }
            }
            self.has_more_to_feed |= available > 0 && !starved.is_empty();
        }
    }
}

/// Has a connection acted on in this turn.
#[inline]
fn touch<H>(touched: &mut Vec<Key>, connection: &mut Connection<H>, key: Key) {
    if !connection.is_touched {
        connection.is_touched = true;
        touched.push(key);
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
