//! One thread of the generator: its connections and their event loop.

use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Interest, Poll, Registry, Token};

use super::epoll_connection::{Connection, Stage, nanos};
use crate::client::Client;
use crate::client::fault::Fault;
use crate::cpu::{self, ThreadUsage};
use crate::pace::Pace;
use crate::run::{Failure, Plan, Schedule};
use crate::tally::Tally;

/// What a thread needs to know of the run it is part of.
pub(crate) struct Context {
    /// What to do.
    pub(crate) plan: Arc<Plan>,
    /// Nanoseconds are counted from here, by every thread.
    pub(crate) origin: Instant,
    /// When the load begins and ends: set, and the thread woken, when every thread has opened its connections.
    pub(crate) schedule: Arc<OnceLock<Schedule>>,
    /// Gets one word when the connections are open or failed; its end is the thread's end.
    pub(crate) opened: mpsc::Sender<Result<(), Failure>>,
    /// The core to stay on.
    pub(crate) core: Option<usize>,
    /// The indices of the thread's connections.
    pub(crate) connections: Range<usize>,
}

/// Opens the connections, sends the load, and ends them.
pub(crate) fn run(context: &Context, poll: Poll) -> Tally {
    let registry = poll.registry().try_clone().expect("a second descriptor of the poll");
    let mut worker = Worker {
        poll,
        events: Events::with_capacity(EVENTS_MAX),
        load: Load {
            context,
            registry,
            connections: Vec::with_capacity(context.connections.len()),
            stage: Stage::Opening,
            live: 0,
            opening: 0,
            failure: None,
            again: Vec::with_capacity(context.connections.len()),
            buffer: vec![0; BUFFER_LEN].into_boxed_slice(),
            tally: Tally::new(),
        },
    };
    let opened = worker.open();
    let is_open = opened.is_ok();
    // The receiver lives as long as this thread, unless the run was given up.
    let _ = context.opened.send(opened);
    if is_open {
        worker.load();
        worker.end();
    }
    worker.load.tally
}

struct Worker<'a> {
    poll: Poll,
    events: Events,
    load: Load<'a>,
}

struct Load<'a> {
    context: &'a Context,
    /// That of the worker's poll.
    registry: Registry,
    /// By token; `None` when a connection is over and has no successor.
    connections: Vec<Option<Connection>>,
    stage: Stage,
    /// Connections that are not over.
    live: usize,
    /// Those of them that are not open yet.
    opening: usize,
    /// Why the run cannot be made at all.
    failure: Option<Failure>,
    /// Connections that have more to do than a turn allows, though the poll will not name them again.
    again: Vec<usize>,
    /// What is read and what is written, a connection at a time.
    buffer: Box<[u8]>,
    tally: Tally,
}

impl Worker<'_> {
    fn open(&mut self) -> Result<(), Failure> {
        let context = self.load.context;
        let plan = &*context.plan;
        if let Some(core) = context.core {
            cpu::pin(core).map_err(|error| Failure::Usage(format!("cannot pin to core {core}: {error}")))?;
        }
        for index in context.connections.clone() {
            self.load.connections.push(None);
            self.load.begin(self.load.connections.len() - 1, index, None).map_err(|error| {
                Failure::Unavailable(format!("cannot connect to {}: {error}", plan.target))
            })?;
        }
        let deadline = self.load.now() + nanos(plan.connect_timeout);
        while self.load.opening > 0 && self.load.failure.is_none() && self.load.now() < deadline {
            self.turn(Some(deadline));
        }
        self.load.give_up_opening();
        self.load.failure.take().map_or(Ok(()), Err)
    }

    fn load(&mut self) {
        let Schedule { from, to } = loop {
            match self.load.context.schedule.get() {
                Some(schedule) => break *schedule,
                None => self.turn(None),
            }
        };
        self.load.tally.measure(from..to);
        self.load.enter(Stage::Sending);
        self.turn_until(from, |load| load.live == 0);
        let before = ThreadUsage::now();
        self.turn_until(to, |load| load.live == 0);
        self.load.tally.threads.push(ThreadUsage::now().since(before));
    }

    fn end(&mut self) {
        let plan = &*self.load.context.plan;
        self.load.enter(Stage::Ending);
        let grace = self.load.now() + nanos(plan.grace);
        self.turn_until(grace, |load| !load.is_awaiting_echoes());
        self.load.give_up(|client| client.in_flight() > 0 || plan.pace == Pace::Churn);
        let grace = self.load.now() + nanos(plan.grace);
        self.turn_until(grace, |load| load.live == 0);
        self.load.give_up(|_| true);
    }

    fn turn_until(&mut self, until: u64, is_done: impl Fn(&Load<'_>) -> bool) {
        while !is_done(&self.load) && self.load.now() < until {
            self.turn(Some(until));
        }
    }

    /// Waits for something to do, until then at most, and does it.
    fn turn(&mut self, until: Option<u64>) {
        let timeout = if self.load.again.is_empty() && !(self.load.context.plan.spin && until.is_some()) {
            until.map(|until| Duration::from_nanos(until.saturating_sub(self.load.now())))
        } else {
            Some(Duration::ZERO)
        };
        if let Err(error) = self.poll.poll(&mut self.events, timeout) {
            // An interrupted wait is an empty one (epoll_wait(2)); no other error can come of what we pass.
            assert!(error.kind() == io::ErrorKind::Interrupted, "the poll failed: {error}");
            return;
        }
        self.load.pump_again();
        for event in &self.events {
            self.load.on_event(event);
        }
    }
}

impl Load<'_> {
    #[inline]
    fn now(&self) -> u64 {
        nanos(self.context.origin.elapsed())
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        for slot in 0..self.connections.len() {
            self.pump(slot);
        }
    }

    fn is_awaiting_echoes(&self) -> bool {
        if self.context.plan.pace == Pace::Churn {
            return self.live > 0;
        }
        self.connections.iter().flatten().any(|connection| connection.client.in_flight() > 0)
    }

    fn on_event(&mut self, event: &Event) {
        let slot = event.token().0;
        // The waker has a token of its own and nothing else to say.
        let Some(Some(connection)) = self.connections.get_mut(slot) else {
            return;
        };
        connection.can_read |= event.is_readable() || event.is_error();
        connection.can_write |= event.is_writable();
        connection.is_read_closed |= event.is_read_closed() || event.is_error();
        match connection.check_connect() {
            Ok(()) => self.pump(slot),
            Err(error) if self.stage == Stage::Opening => {
                let target = &self.context.plan.target;
                self.failure = Some(Failure::Unavailable(format!("cannot connect to {target}: {error}")));
            }
            // Who is not there will not be there in a moment either: no successor.
            Err(error) => {
                self.tally.faults.add(Fault::ConnectFailed(error.kind()), 1, connection.index, 0);
                self.remove(slot);
            }
        }
    }

    /// Goes over the connections that the last turn has left with more to do.
    fn pump_again(&mut self) {
        let count = self.again.len();
        for at in 0..count {
            let slot = self.again[at];
            if let Some(Some(connection)) = self.connections.get_mut(slot) {
                connection.is_again = false;
            }
            self.pump(slot);
        }
        self.again.drain(..count);
    }

    /// Reads what there is, then sends what is due: both in bounded portions, and neither waits for the other.
    fn pump(&mut self, slot: usize) {
        let Some(Some(connection)) = self.connections.get_mut(slot) else {
            return;
        };
        let plan = &*self.context.plan;
        let origin = self.context.origin;
        let mut read = connection.read(&mut self.buffer, &plan.traffic, origin, &mut self.tally);
        if read.is_ok() && plan.pace.is_over(connection.client.echoed()) {
            return self.succeed(slot);
        }
        if read.is_ok() && !connection.client.is_done() {
            if !connection.is_open && connection.is_connected && !connection.client.is_opening() {
                connection.is_open = true;
                self.opening -= 1;
            }
            connection.advance(self.stage, plan, origin);
            if let Err(error) = connection.write(&mut self.buffer, &plan.traffic) {
                // What the server sent before it went tells more than that it went.
                connection.can_read = true;
                connection.is_read_closed = true;
                while read.is_ok() && connection.can_read && !connection.client.is_done() {
                    read = connection.read(&mut self.buffer, &plan.traffic, origin, &mut self.tally);
                }
                read = read.and(Err(Fault::ConnectionLost(error.kind())));
            }
        }
        if let Err(fault) = read {
            let message = connection.client.echoed();
            self.tally.faults.add(fault, 1, connection.index, message);
            self.succeed(slot);
        } else if connection.client.is_done() {
            self.remove(slot);
        } else if connection.has_more() && !connection.is_again {
            connection.is_again = true;
            self.again.push(slot);
        }
    }

    /// Begins a connection in an empty slot.
    ///
    /// # Errors
    ///
    /// As [`Connection::begin`], and what epoll_ctl(2) says.
    fn begin(&mut self, slot: usize, index: usize, begun_at: Option<u64>) -> io::Result<()> {
        debug_assert!(self.connections[slot].is_none());
        let mut connection = Connection::begin(&self.context.plan, index, begun_at)?;
        // Both once and for all: edge-triggered, an event for WRITABLE alone comes only after a short write.
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.registry.register(&mut connection.socket, Token(slot), interest)?;
        self.connections[slot] = Some(connection);
        self.live += 1;
        self.opening += 1;
        Ok(())
    }

    /// Ends the slot's connection; in a churn the next one follows, as long as messages are sent.
    ///
    /// Its predecessor's events in the same batch make it look for what is not there yet, and nothing else.
    fn succeed(&mut self, slot: usize) {
        let index = self.connections[slot].as_ref().map(|connection| connection.index);
        self.remove(slot);
        if let (Some(index), Pace::Churn, Stage::Sending) = (index, self.context.plan.pace, self.stage) {
            let index = index + self.context.plan.connections;
            if let Err(error) = self.begin(slot, index, Some(self.now())) {
                self.tally.faults.add(Fault::ConnectFailed(error.kind()), 1, index, 0);
            }
        }
    }

    fn remove(&mut self, slot: usize) {
        if let Some(connection) = self.connections[slot].take() {
            self.live -= 1;
            self.opening -= usize::from(!connection.is_open);
        }
    }

    /// Gives up the connections that are not open in time.
    fn give_up_opening(&mut self) {
        let late = self.connections.iter().flatten().filter(|connection| !connection.is_connected).count();
        if late > 0 && self.failure.is_none() {
            let plan = &self.context.plan;
            let timeout = humantime::format_duration(plan.connect_timeout);
            let of = self.connections.len();
            self.failure = Some(Failure::Unavailable(format!(
                "cannot connect to {}: {late} of {of} connections had no answer within {timeout}",
                plan.target,
            )));
        }
        self.give_up(Client::is_opening);
    }

    /// Gives up the connections of which this is true: their time is over.
    fn give_up(&mut self, is_late: impl Fn(&Client) -> bool) {
        for slot in 0..self.connections.len() {
            let Some(connection) = self.connections[slot].as_mut().filter(|it| is_late(&it.client)) else {
                continue;
            };
            let message = connection.client.echoed();
            let missing = match connection.is_connected {
                true => connection.client.give_up(),
                false => Some((Fault::ConnectTimeout, 1)),
            };
            if let Some((fault, count)) = missing {
                self.tally.faults.add(fault, count, connection.index, message);
            }
            self.remove(slot);
        }
    }
}

/// What one read or write takes at most. It and the block of small messages stay in the second-level cache.
const BUFFER_LEN: usize = 256 << 10;

/// Events of one poll.
const EVENTS_MAX: usize = 1024;
