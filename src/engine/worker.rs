//! A worker: a driver, the connections that it moves bytes for, and the order in which things happen.
//!
//! A turn has three steps. The worker acts on each connection that had an event. It waits once. Then it hands out the new
//! events. So a connection that got bytes in several buffers sends them in one go, and everything that a turn asks for goes to
//! the kernel together. A driver that answers at once has each reply sent before the next receive.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockAddr;

use super::Common;
use super::clock::Moment;
use super::connection::Connection;
use super::driver::{Driver, Event, Sent, Sockets};
use super::handler::{Handler, Received};
use super::outgoing::Pieces;
use super::phase::Phase;
use super::serve::Arrival;
use super::slots::{Id, Slots};
use super::wheel::{TICK, Wheel};
use super::wire::{Context, Wire};

/// Costs are counted in so many bytes.
const COST_UNIT: usize = 16;

/// What one connection may cost in a turn: 1 MiB. What it has received beyond that waits for the next one. The simulation
/// gets there too.
const TURN_COST: u16 = if cfg!(test) { 32 } else { u16::MAX - 1 };

/// What a frame costs: 128 bytes.
const FRAME_COST: usize = 8;

/// For how many connections the table has room at its beginning. It grows beyond.
const ROOM_MAX: usize = 64 << 10;

/// How many sends of one connection may end within a turn.
const SENDS_MAX: usize = 4;

/// The connections of a thread.
pub struct Worker<D: Driver, H: Handler> {
    pub(super) driver: D,
    pub(super) common: Rc<Common>,
    pub(super) places: Slots<Place<H, D::Socket>>,
    /// How many connections there is room for.
    room: usize,
    /// Those to act on.
    touched: Vec<Id>,
    /// What was accepted in this turn.
    pub(super) arrivals: Vec<Arrival<D::Socket>>,
    /// Slots without generations. The connection in the slot knows by its tick whether the entry is its own.
    wheel: Wheel<u32>,
    /// The tick at which the driver wakes the worker for its deadlines.
    alarm: Option<u64>,
    /// That tick has come.
    has_elapsed: bool,
    /// Somebody wrote to the eventfd.
    is_woken: bool,
    /// A place became free since the turn began. Whoever accepts above wants to know before the worker sleeps.
    has_freed: bool,
    /// The number of the turn, modulo 2^14.
    turn: u16,
}

/// A connection, its socket, and what the worker knows of it.
pub(super) struct Place<H, S> {
    connection: Connection<H>,
    socket: S,
    /// Where it is in the wheel: the first tick, modulo 2^16. The wheel has fewer ticks.
    wheel_tick: u16,
    /// What it has cost in the turn whose number stands in the upper bits of `marks`.
    cost: u16,
    marks: u16,
}

/// Marks: it is on the list of those to act on.
const TOUCHED: u16 = 1;
/// It is in the wheel.
const IN_WHEEL: u16 = 2;
/// The number of a turn is shifted by so many bits.
const TURN_SHIFT: u32 = 2;

impl<H, S> Sockets<S> for Slots<Place<H, S>> {
    #[inline]
    fn socket(&mut self, id: Id) -> Option<&mut S> {
        self.get_mut(id).map(|place| &mut place.socket)
    }
}

impl<D: Driver, H: Handler> Worker<D, H> {
    /// What an idle connection takes in a worker's table, in bytes.
    pub(crate) const PLACE: usize = Slots::<Place<H, D::Socket>>::PLACE;

    /// A worker with room for so many connections. It is woken by `wake`, an eventfd(2).
    ///
    /// # Errors
    ///
    /// What the kernel says to the eventfd.
    pub(super) fn over(
        mut driver: D,
        common: Rc<Common>,
        room: usize,
        wake: Arc<OwnedFd>,
    ) -> io::Result<Self> {
        driver.watch(wake)?;
        Ok(Self {
            driver,
            common,
            places: Slots::with_room(room.min(ROOM_MAX)),
            room,
            touched: Vec::new(),
            arrivals: Vec::new(),
            wheel: Wheel::new(),
            alarm: None,
            has_elapsed: false,
            is_woken: false,
            has_freed: false,
            turn: 0,
        })
    }

    /// One turn: does what is to be done, waits until something has come, no longer than `at_most`, and hands it out.
    ///
    /// # Errors
    ///
    /// When the driver is of no more use.
    pub fn turn(&mut self, at_most: Option<Duration>) -> io::Result<()> {
        self.has_freed = false;
        self.nudge();
        self.act();
        self.set_alarm();
        self.turn = (self.turn + 1) % (1 << (u16::BITS - TURN_SHIFT));
        let is_done = self.touched.is_empty() && self.common.nudged.borrow().is_empty() && !self.has_freed;
        let at_most = if is_done { at_most } else { Some(Duration::ZERO) };
        self.driver.enter(&mut self.places, at_most)?;
        while let Some(event) = self.driver.next_event(&mut self.places)? {
            self.on_event(event);
        }
        self.on_deadlines();
        Ok(())
    }

    /// Begins to make a connection over this socket. The handler hears what comes of it.
    ///
    /// # Errors
    ///
    /// What the kernel says to the socket.
    ///
    /// # Panics
    ///
    /// When [`Self::free_places`] are 0.
    pub fn connect(&mut self, handler: H, socket: OwnedFd, address: Arc<SockAddr>) -> io::Result<Id> {
        assert!(self.free_places() > 0, "each connection has a place");
        let socket = self.driver.connect(self.places.next_id(), socket, address)?;
        Ok(self.insert(handler, socket, false))
    }

    /// How many further connections there is room for.
    pub fn free_places(&self) -> usize {
        self.room - self.places.len()
    }

    /// Has a handler look at its connection, which is acted on in the next turn; `None` when it is gone.
    pub fn with<R>(&mut self, id: Id, look: impl FnOnce(&mut H, &mut Wire<'_>) -> R) -> Option<R> {
        let place = self.places.get_mut(id)?;
        place.touch(id, &mut self.touched);
        let context = context::<D>(&self.common, id, &place.socket);
        Some(place.connection.with(context, look))
    }

    /// Whether no connection is left.
    pub(super) const fn is_empty(&self) -> bool {
        self.places.len() == 0
    }

    /// Whether somebody wrote to the eventfd since this was last asked.
    pub(super) const fn takes_woken(&mut self) -> bool {
        std::mem::replace(&mut self.is_woken, false)
    }

    /// A connection was accepted. It is acted on in the next turn.
    ///
    /// # Errors
    ///
    /// When the driver cannot take it over; it is closed.
    pub(super) fn adopt(&mut self, handler: H, socket: D::Socket, phase: Phase) -> io::Result<()> {
        let id = self.insert(handler, socket, true);
        let Some(place) = self.places.get_mut(id) else {
            return Ok(());
        };
        if let Err(error) = self.driver.adopt(id, &mut place.socket) {
            self.places.remove(id);
            return Err(error);
        }
        let context = context::<D>(&self.common, id, &place.socket);
        place.connection.begin(Ok(()), context);
        // The others were told so before.
        place.connection.on_phase(phase, context);
        Ok(())
    }

    /// Tells all connections of the phase.
    pub(super) fn enter_phase(&mut self, phase: Phase) {
        let ids: Vec<Id> = self.places.ids().collect();
        for id in ids {
            if let Some(place) = self.places.get_mut(id) {
                let context = context::<D>(&self.common, id, &place.socket);
                place.connection.on_phase(phase, context);
                place.touch(id, &mut self.touched);
            }
        }
    }

    fn insert(&mut self, handler: H, socket: D::Socket, is_touched: bool) -> Id {
        let connection = Connection::new(handler, &self.common);
        let id = self.places.insert(|_| Place {
            connection,
            socket,
            wheel_tick: 0,
            cost: 0,
            marks: if is_touched { TOUCHED } else { 0 },
        });
        if is_touched {
            self.touched.push(id);
        }
        id
    }

    /// Has the driver wake the worker when the first deadline is to be looked at. So neither is the clock read nor a timer set
    /// in a turn in which there is nothing to look at.
    fn set_alarm(&mut self) {
        if let Some(tick) = self.wheel.next()
            && self.alarm.is_none_or(|alarm| tick < alarm)
        {
            let after = (tick * TICK).saturating_sub(self.common.clock.elapsed_millis());
            self.driver.set_alarm(Duration::from_millis(after));
            self.alarm = Some(tick);
        }
    }

    #[inline]
    fn on_event(&mut self, event: Event<D::Socket>) {
        match event {
            Event::Received { id, received } => self.on_received(id, received),
            Event::Sent { id, sent } => self.on_sent(id, sent),
            Event::Accepted { socket, peer } => self.arrivals.push(Arrival::Connection(socket, peer)),
            Event::AcceptFailed(error) => self.arrivals.push(Arrival::Failure(error)),
            Event::Begun { id, result } => self.on_begun(id, result),
            Event::Unconfirmed { id, bytes } => self.on_unconfirmed(id, bytes),
            Event::Closed { id } => drop(self.places.remove(id)),
            Event::Elapsed => {
                self.alarm = None;
                self.has_elapsed = true;
            }
            Event::Woken => self.is_woken = true,
        }
    }

    /// Hands a connection what it received. Once that was its share of the turn, it rests.
    #[inline]
    fn on_received(&mut self, id: Id, received: Received) {
        let Some(place) = self.places.get_mut(id) else {
            // Its buffer goes back.
            self.common.counters.stale_completions.add(1);
            return;
        };
        place.enter_turn(self.turn);
        let len = match &received {
            Received::Bytes(_, range) => range.len(),
            Received::End | Received::Failed(_) => 0,
        };
        let context = context::<D>(&self.common, id, &place.socket);
        let frames = place.connection.received(received, context);
        let cost = len.div_ceil(COST_UNIT).saturating_add((frames as usize).saturating_mul(FRAME_COST));
        place.cost = place.cost.saturating_add(u16::try_from(cost).unwrap_or(u16::MAX));
        if place.cost >= TURN_COST {
            self.driver.rest(id, &mut place.socket);
        }
        if D::ANSWERS_AT_ONCE {
            self.act_on(id);
        } else {
            place.touch(id, &mut self.touched);
        }
    }

    fn on_begun(&mut self, id: Id, result: io::Result<()>) {
        if let Some(place) = self.places.get_mut(id) {
            let context = context::<D>(&self.common, id, &place.socket);
            place.connection.begin(result, context);
            place.touch(id, &mut self.touched);
        }
    }

    #[inline]
    fn on_sent(&mut self, id: Id, sent: Sent) {
        let Some(place) = self.places.get_mut(id) else {
            debug_assert!(false, "a connection stays until its send is over");
            return;
        };
        place.touch(id, &mut self.touched);
        let context = context::<D>(&self.common, id, &place.socket);
        place.connection.sent(sent.result, sent.pieces, context);
    }

    fn on_unconfirmed(&mut self, id: Id, bytes: Option<u32>) {
        if let Some(place) = self.places.get_mut(id) {
            let now = self.common.clock.elapsed_millis();
            let context = context::<D>(&self.common, id, &place.socket);
            place.connection.on_unconfirmed(bytes);
            if is_due(place.connection.deadline(), now) {
                place.connection.on_deadline(context);
            }
            place.touch(id, &mut self.touched);
        }
    }

    fn on_deadlines(&mut self) {
        if !std::mem::take(&mut self.has_elapsed) {
            return;
        }
        let now = self.common.clock.elapsed_millis();
        while let Some((tick, slots)) = self.wheel.take_due(now / TICK) {
            for slot in slots {
                self.on_wheel(slot, tick, now);
            }
        }
    }

    /// The wheel comes to this place at this tick.
    fn on_wheel(&mut self, slot: u32, tick: u64, now: u64) {
        let Some((id, place)) = self.places.at_mut(slot) else {
            return;
        };
        if !place.leaves_wheel(tick) {
            // The entry is stale: the connection has moved to an earlier tick, or another connection has the place.
            return;
        }
        place.touch(id, &mut self.touched);
        // Bytes in the socket came in time, so the deadline waits until the connection has received them. A connection that
        // received something in this turn gets no such delay: a flood would put its deadline off for ever.
        let was_handed = place.marks >> TURN_SHIFT == self.turn && place.cost > 0;
        if !is_due(place.connection.deadline(), now)
            || !(was_handed || self.driver.has_heard(id, &mut place.socket))
        {
            return;
        }
        if place.connection.asks_unconfirmed() {
            let Some(bytes) = self.driver.ask_unconfirmed(id, &mut place.socket) else {
                return;
            };
            place.connection.on_unconfirmed(bytes);
        }
        let context = context::<D>(&self.common, id, &place.socket);
        place.connection.on_deadline(context);
    }

    /// Tells those that others have nudged.
    fn nudge(&mut self) {
        if self.common.nudged.borrow().is_empty() {
            return;
        }
        for id in self.common.nudged.take() {
            if let Some(place) = self.places.get_mut(id) {
                place.connection.on_nudged(context::<D>(&self.common, id, &place.socket));
                place.touch(id, &mut self.touched);
            }
        }
    }

    /// Acts on each touched connection.
    fn act(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        for &id in &touched {
            self.act_on(id);
        }
        touched.clear();
        // A connection that was touched in this loop has used its share, and goes on in the next turn.
        touched.append(&mut self.touched);
        self.touched = touched;
    }

    /// Does what a connection wants next.
    #[inline]
    fn act_on(&mut self, id: Id) {
        let Some(place) = self.places.get_mut(id) else {
            return;
        };
        place.marks &= !TOUCHED;
        let Place { connection, socket, .. } = place;
        let common = &*self.common;
        if D::ANSWERS_AT_ONCE
            && let Some(bytes) = connection.only_piece()
            && let Some(sent) = self.driver.send_now(socket, bytes)
        {
            connection.sent_only_piece(sent, context::<D>(common, id, socket));
        }
        let mut sends = 0;
        while let Some((pieces, manner)) = connection.next_send(Pieces::MAX, context::<D>(common, id, socket))
        {
            let Some(Sent { result, pieces }) = self.driver.send(id, socket, pieces, manner) else {
                break;
            };
            connection.sent(result, pieces, context::<D>(common, id, socket));
            sends += 1;
            if sends == SENDS_MAX {
                place.touch(id, &mut self.touched);
                break;
            }
        }
        let Place { connection, socket, .. } = place;
        if !connection.is_over() && connection.takes_shut_write(common) && !connection.is_over() {
            self.driver.shut_write(id, socket);
        }
        if connection.is_over() {
            if self.driver.give_up(id, socket, connection.ends_abruptly()) {
                self.places.remove(id);
                self.has_freed = true;
            }
            return;
        }
        self.driver.set_receiving(id, socket, connection.receiving(common));
        if let Some(deadline) = connection.deadline() {
            place.enter_wheel(id, deadline, &mut self.wheel);
        }
    }
}

impl<H, S> Place<H, S> {
    /// Has the connection acted on.
    #[inline]
    fn touch(&mut self, id: Id, touched: &mut Vec<Id>) {
        if self.marks & TOUCHED == 0 {
            self.marks |= TOUCHED;
            touched.push(id);
        }
    }

    /// What it costs is counted for this turn.
    #[inline]
    const fn enter_turn(&mut self, turn: u16) {
        if self.marks >> TURN_SHIFT != turn {
            self.marks = turn << TURN_SHIFT | self.marks & (TOUCHED | IN_WHEEL);
            self.cost = 0;
        }
    }

    /// Whether the wheel's tick is the one that it has this connection at; then it has it no more.
    const fn leaves_wheel(&mut self, tick: u64) -> bool {
        let leaves = self.marks & IN_WHEEL != 0 && self.wheel_tick == low(tick);
        if leaves {
            self.marks &= !IN_WHEEL;
        }
        leaves
    }

    /// Puts the deadline into the wheel, unless it is there or something earlier is.
    #[inline]
    fn enter_wheel(&mut self, id: Id, deadline: Moment, wheel: &mut Wheel<u32>) {
        let tick = deadline.millis().div_ceil(TICK);
        let entered_in = self.wheel_tick.wrapping_sub(low(wheel.now()));
        if self.marks & IN_WHEEL == 0 || tick < wheel.now() + u64::from(entered_in) {
            self.wheel_tick = low(wheel.insert(tick, id.slot));
            self.marks |= IN_WHEEL;
        }
    }
}

/// Where a connection of a worker is.
#[inline]
fn context<'a, D: Driver>(common: &'a Common, id: Id, socket: &'a D::Socket) -> Context<'a> {
    Context { common, id, socket: D::descriptor(socket) }
}

/// Whether a deadline has come, `now` milliseconds after the clock was made.
fn is_due(deadline: Option<Moment>, now: u64) -> bool {
    deadline.is_some_and(|deadline| deadline.millis() <= now)
}

/// A tick modulo 2^16.
#[expect(clippy::cast_possible_truncation, reason = "the upper bits are cut off on purpose")]
const fn low(tick: u64) -> u16 {
    tick as u16
}

#[cfg(test)]
#[path = "worker_tests.rs"]
pub(super) mod tests;
