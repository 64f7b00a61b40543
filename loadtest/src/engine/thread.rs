//! A thread's load: what is due when, and which connections are opened, given up and opened again.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ringback::engine::{Driver, Id, Worker};

use super::link::Link;
use super::load::{Attempt, Load, Next, Over};
use super::peer::Peer;
use super::timers::{Timer, Timers};
use super::{Context, Engine, RunStage, nanos};
use crate::client::fault::Fault;
use crate::connect;
use crate::cpu::ThreadUsage;
use crate::pace::{Arrivals, Pace, Schedule};
use crate::run::{Failure, Plan, Word};

/// A thread's load, from its first connection to its last.
pub(super) struct Thread<'a, D: Driver> {
    worker: Worker<D, Peer>,
    context: &'a Context,
    load: &'a Rc<Load>,
    /// The connections, each in its place.
    places: Vec<Option<Id>>,
    /// When messages are due, or connections of a churn, that have times of their own.
    schedule: Option<Schedule>,
    /// The place whose turn it is.
    turn: usize,
    /// Connections of a churn that are due and have no room yet: since when, and the index.
    waiting: VecDeque<(u64, usize)>,
    /// Places that have no connection.
    free: Vec<usize>,
    /// The index of the next connection that is not one of the first ones.
    next_index: usize,
    /// What is to be done later: connections that are opened again, and those that may take too long.
    timers: Timers<Id>,
    /// For pauses that differ.
    random: fastrand::Rng,
}

impl<'a, D: Driver> Thread<'a, D> {
    /// The load of this thread.
    pub(super) fn new(worker: Worker<D, Peer>, context: &'a Context, load: &'a Rc<Load>) -> Self {
        Self {
            worker,
            context,
            load,
            places: vec![None; context.connections.len()],
            schedule: None,
            turn: 0,
            waiting: VecDeque::new(),
            free: Vec::new(),
            next_index: context.plan.connections + context.thread,
            timers: Timers::default(),
            random: fastrand::Rng::with_seed(context.plan.seed ^ context.thread as u64),
        }
    }

    /// Runs it to its end.
    ///
    /// # Errors
    ///
    /// The run cannot be made.
    pub(super) fn run(mut self) -> Result<(), Failure> {
        let all = self.places.len();
        let first = match self.context.plan.pace {
            Pace::Idle => Plan::opened_first(all),
            // Whether there is a server shows by one; the others come at their times.
            Pace::Churn { rate: Some(_) } => 1,
            _ => all,
        };
        let ramp = |part: usize| self.context.plan.ramp.mul_f64(part as f64 / all as f64);
        self.open(0..first, ramp(first))?;
        let orders = Arc::clone(&self.context.orders);
        if self.context.plan.pace == Pace::Idle {
            self.say_opened();
            self.turn_until(None, |_| orders.rest.get().is_some())?;
            self.open(first..all, ramp(all - first))?;
        }
        if self.context.plan.pace.is_churn() {
            self.free.extend((first..all).rev());
        }
        self.say_opened();
        self.turn_until(None, |_| orders.window.get().is_some())?;
        if let Some(window) = orders.window.get() {
            self.send(window.clone())?;
            self.end()?;
        }
        Ok(())
    }

    fn say_opened(&self) {
        // The receiver lives as long as this thread, unless the run was given up.
        let _ = self.context.words.send(Word::Opened(Ok(())));
    }

    /// Opens the connections of these places, evenly over `ramp`, not too many at once. When the run is stopped, the others
    /// are left out.
    fn open(&mut self, places: Range<usize>, ramp: Duration) -> Result<(), Failure> {
        let context = self.context;
        let plan = &*context.plan;
        let began = self.load.now();
        let count = places.len();
        let deadline = began + nanos(ramp) + nanos(plan.connect_timeout);
        let is_off = |load: &Load| load.failure.borrow().is_some() || context.orders.stop.get().is_some();
        let mut left = count;
        for (at, place) in places.enumerate() {
            let due_at = began + nanos(ramp.mul_f64(at as f64 / count as f64));
            self.turn_until(Some(due_at), |load| is_off(load))?;
            self.turn_until(Some(deadline), |load| load.opening.get() < OPENING_MAX || is_off(load))?;
            if is_off(self.load) || self.load.now() >= deadline {
                break;
            }
            self.begin(self.load.first_attempt(place, context.connections.start + place, None));
            left -= 1;
        }
        self.turn_until(Some(deadline), |load| load.opening.get() == 0 || is_off(load))?;
        if let Some(failure) = self.load.failure.take() {
            return Err(failure);
        }
        if context.orders.stop.get().is_some() {
            self.look_at_all(|link| {
                if link.client.is_opening() || !link.is_connected() {
                    link.leave();
                }
            });
            return Ok(());
        }
        self.give_up_opening(left, count)
    }

    /// Sends what is due, and counts what comes back in the window, which ends when the run is stopped.
    fn send(&mut self, window: Range<u64>) -> Result<(), Failure> {
        let context = self.context;
        let plan = &*context.plan;
        self.load.tally.borrow_mut().measure(window.clone());
        self.enter(RunStage::Sending);
        let stop = &context.orders.stop;
        if plan.pace == (Pace::Churn { rate: None }) && stop.get().is_none() {
            // Whose first connection was not taken goes on with the next.
            for _ in 0..self.free.len() {
                self.succeed();
            }
            self.begin_waiting();
        }
        let share = self.places.len() as f64 / plan.connections as f64;
        let offset = context.thread as f64 / plan.threads as f64;
        let seed = plan.seed ^ context.thread as u64;
        let rate = match plan.pace {
            // The window has room for one ping on each.
            Pace::Idle => Some((plan.connections as f64 / plan.duration.as_secs_f64(), Arrivals::Constant)),
            pace => pace.rate(),
        };
        // The same on every thread, so that they take turns.
        let lead = if plan.pace == Pace::Idle { 0 } else { nanos(plan.warmup) };
        let from = window.start.saturating_sub(lead);
        self.schedule = rate.map(|rate| Schedule::new(rate, share, offset, from, seed));
        let is_idle = |load: &Load| load.is_without_connections() && plan.pace.rate().is_none();
        self.turn_until(Some(window.start), |load| is_idle(load) || stop.get().is_some())?;
        let before = ThreadUsage::now();
        self.turn_until(Some(window.end), |load| is_idle(load) || stop.get().is_some())?;
        let end = stop.get().map_or(window.end, |&stop| stop.min(window.end));
        self.load.tally.borrow_mut().measure_until(end);
        self.turn_until(Some(end), is_idle)?;
        self.load.tally.borrow_mut().totals.threads.push(ThreadUsage::now().since(before));
        self.arrive(end.saturating_sub(1));
        self.give_up_arrivals(end.saturating_sub(1));
        Ok(())
    }

    /// Waits for the last echoes, then closes what is open.
    fn end(&mut self) -> Result<(), Failure> {
        let plan = &*self.context.plan;
        if plan.pace == (Pace::Churn { rate: None }) {
            // None of them was due but for the end of another.
            self.waiting.clear();
            self.load.waiting.set(0);
        }
        self.enter(RunStage::Ending);
        self.timers.forget_reopening();
        // No message is due on connections that are still being opened again.
        self.look_at_all(Link::leave_if_reopening);
        let grace = self.load.now() + nanos(plan.grace);
        self.turn_until(Some(grace), |load| !load.is_awaiting_echoes())?;
        for (_, index) in std::mem::take(&mut self.waiting) {
            let now = self.load.now();
            self.load.tally.borrow_mut().fault(&Fault::NotBegun, 1, index, 0, now);
        }
        self.load.waiting.set(0);
        self.give_up(|link| plan.pace.is_churn() || link.client.in_flight() > 0);
        let grace = self.load.now() + nanos(plan.grace);
        self.turn_until(Some(grace), |load| load.live.get() == 0)?;
        self.give_up(|_| true);
        Ok(())
    }

    fn enter(&mut self, stage: RunStage) {
        self.load.stage.set(stage);
        for id in self.places.iter().flatten() {
            look_at(&mut self.worker, *id, |link| link.advance(None));
        }
    }

    /// Goes on until then, or as long as it takes.
    fn turn_until(&mut self, until: Option<u64>, is_done: impl Fn(&Load) -> bool) -> Result<(), Failure> {
        let plan = &*self.context.plan;
        while !is_done(self.load) {
            let now = self.load.now();
            if until.is_some_and(|until| now >= until) {
                break;
            }
            self.arrive(now);
            if !self.timers.is_empty() {
                self.on_time(now);
            }
            let mut at_most = self.patience(until);
            // The ring polls by itself.
            if plan.spin && plan.engine == Engine::Epoll && at_most.is_some() {
                at_most = Some(Duration::ZERO);
            }
            self.worker.turn(at_most).map_err(|error| {
                Failure::Unavailable(format!("the {} engine: {error}", self.context.plan.engine))
            })?;
            self.load.tally.borrow_mut().pass(self.load.now());
            self.take_over();
        }
        Ok(())
    }

    /// Whether there is room for a further connection.
    fn has_room(&self) -> bool {
        self.worker.free_places() > 0
    }

    /// Begins to connect.
    fn connect(&mut self, attempt: Attempt) -> io::Result<Id> {
        let plan = &*self.context.plan;
        let address = Arc::clone(plan.addresses.get(attempt.address));
        let socket = connect::socket(plan, attempt.index, &address)?;
        self.worker.connect(Peer::new(Link::new(self.load, attempt)), socket.into(), address)
    }

    /// The time until the next timer, message or report.
    fn patience(&self, until: Option<u64>) -> Option<Duration> {
        let next = self.schedule.as_ref().map(Schedule::next);
        let second = Some(self.load.tally.borrow().next()).filter(|&next| next != u64::MAX);
        let next = [until, next, second, self.timers.next()].into_iter().flatten().min()?;
        Some(Duration::from_nanos(next.saturating_sub(self.load.now())))
    }

    /// Takes what is due by then, or a portion of it.
    fn arrive(&mut self, by: u64) {
        for _ in 0..ARRIVALS_MAX {
            let Some(due_at) = self.schedule.as_mut().and_then(|schedule| schedule.take(by)) else {
                break;
            };
            let now = self.load.now();
            self.load.tally.borrow_mut().hand_over(due_at, now);
            if self.context.plan.pace.is_churn() {
                self.waiting.push_back((due_at, self.next_index));
                self.next_index += self.context.plan.threads;
            } else if !self.push(due_at) {
                // Nobody is left who could send it.
                let first = self.context.connections.start;
                self.load.tally.borrow_mut().fault(&Fault::NotBegun, 1, first, 0, now);
            }
        }
        self.begin_waiting();
    }

    /// What is due by then and was not taken never will be: the rate is beyond what this program can do.
    fn give_up_arrivals(&mut self, by: u64) {
        let Some(mut schedule) = self.schedule.take() else {
            return;
        };
        let mut left = 0;
        let now = self.load.now();
        let mut tally = self.load.tally.borrow_mut();
        while let Some(due_at) = schedule.take(by) {
            tally.hand_over(due_at, now);
            left += 1;
        }
        if left > 0 {
            tally.fault(&Fault::NotBegun, left, self.context.connections.start, 0, now);
        }
    }

    /// A message is due at `due_at`, on the next connection whose turn it is and that is there.
    fn push(&mut self, due_at: u64) -> bool {
        let candidates = if self.load.live.get() > 0 { self.places.len() } else { 0 };
        for _ in 0..candidates {
            let place = self.turn;
            self.turn = if place + 1 == self.places.len() { 0 } else { place + 1 };
            if let Some(id) = self.places[place]
                && look_at(&mut self.worker, id, |link| link.push_due(due_at)) == Some(true)
            {
                return true;
            }
        }
        false
    }

    /// Looks at the connections that are over: others follow in a churn, or where they are to be opened again.
    fn take_over(&mut self) {
        if self.load.over.borrow().is_empty() {
            return;
        }
        let is_followed = self.context.plan.pace == (Pace::Churn { rate: None })
            && self.load.stage.get() == RunStage::Sending;
        for Over { place, was_reached, next } in self.load.over.take() {
            self.places[place] = None;
            match next {
                Some(Next::Address(attempt)) => self.begin(attempt),
                Some(Next::Again(attempt)) => self.begin_again(attempt),
                None => {
                    self.free.push(place);
                    // The server did not answer: an attempt at once would fail too.
                    if is_followed && was_reached {
                        self.succeed();
                    }
                }
            }
        }
        self.begin_waiting();
    }

    /// Begins a connection, at the first of its addresses that takes the attempt. Without room it waits.
    fn begin(&mut self, mut attempt: Attempt) {
        loop {
            if !self.has_room() {
                self.load.put_off(attempt);
                self.timers.push(self.load.now() + ROOM_PAUSE_NS, Timer::Begin(attempt));
                return;
            }
            match self.connect(attempt) {
                Ok(id) => {
                    self.places[attempt.place] = Some(id);
                    self.watch(id, attempt);
                    return;
                }
                Err(error) => match self.load.not_reached(attempt, &error.to_string()) {
                    Some(Next::Address(next)) => attempt = next,
                    Some(Next::Again(next)) => return self.begin_again(next),
                    None => return self.free.push(attempt.place),
                },
            }
        }
    }

    /// Has a connection be opened again after its pause, as a new one: its messages are others.
    fn begin_again(&mut self, mut attempt: Attempt) {
        attempt.index = self.next_index;
        self.next_index += self.context.plan.threads;
        let pause = REOPEN_PAUSE_MIN_NS.saturating_mul(1 << attempt.retries.min(REOPEN_DOUBLINGS));
        // Connections that ended together do not come back together.
        let pause = pause / 2 + self.random.u64(..=pause / 2);
        self.load.put_off(attempt);
        self.timers.push(self.load.now() + pause, Timer::Begin(attempt));
    }

    /// Sets the timers of a connection that is being opened.
    fn watch(&mut self, id: Id, attempt: Attempt) {
        let plan = &*self.context.plan;
        let now = self.load.now();
        if attempt.tried + 1 < plan.addresses.count() {
            let patience = nanos(plan.addresses.patience(plan.connect_timeout));
            self.timers.push(now + patience, Timer::Connect(id, attempt));
        }
        if attempt.is_reopened {
            self.timers.push(now + nanos(plan.connect_timeout), Timer::Open(id, attempt));
        }
    }

    /// Does what is to be done by now.
    fn on_time(&mut self, now: u64) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Begin(attempt) => {
                    self.load.take_up(attempt);
                    self.begin(attempt);
                }
                // In its place there may be another one by now.
                Timer::Connect(id, attempt) => {
                    look_at(&mut self.worker, id, |link| {
                        if link.is_attempt(attempt) && !link.is_connected() {
                            link.on_silence();
                        }
                    });
                }
                Timer::Open(id, attempt) => {
                    look_at(&mut self.worker, id, |link| {
                        if link.is_attempt(attempt) && (!link.is_connected() || link.client.is_opening()) {
                            link.give_up();
                        }
                    });
                }
            }
        }
        self.take_over();
    }

    /// In a churn without a rate the next connection is due, now that another is over.
    fn succeed(&mut self) {
        self.waiting.push_back((self.load.now(), self.next_index));
        self.next_index += self.context.plan.threads;
    }

    /// Begins the connections of a churn for which there is room.
    fn begin_waiting(&mut self) {
        while !self.waiting.is_empty() && self.has_room() {
            let Some(place) = self.free.pop() else {
                break;
            };
            let Some((due_at, index)) = self.waiting.pop_front() else {
                break;
            };
            self.begin(self.load.first_attempt(place, index, Some(due_at)));
        }
        self.load.waiting.set(self.waiting.len());
    }

    /// Gives up the connections that are not open in time.
    fn give_up_opening(&mut self, not_begun: usize, of: usize) -> Result<(), Failure> {
        let plan = &*self.context.plan;
        let mut late = not_begun;
        for id in self.places.iter().flatten() {
            late += usize::from(look_at(&mut self.worker, *id, |link| link.is_first_in_need()) == Some(true));
        }
        if late > 0 {
            let timeout = humantime::format_duration(plan.connect_timeout);
            let tried = self.load.tried();
            return Err(Failure::Unavailable(format!(
                "cannot connect to {}: {late} of {of} connections had no answer within {timeout}{tried}; \
                 --connect-timeout gives them longer",
                plan.target,
            )));
        }
        self.give_up(|link| link.client.is_opening());
        Ok(())
    }

    /// Gives up the connections of which this is true: their time is over.
    fn give_up(&mut self, is_late: impl Fn(&Link) -> bool) {
        self.look_at_all(|link| {
            if is_late(link) {
                link.give_up();
            }
        });
    }

    fn look_at_all(&mut self, look: impl Fn(&mut Link)) {
        for id in self.places.iter().flatten() {
            look_at(&mut self.worker, *id, &look);
        }
        self.take_over();
    }
}

/// The most arrivals between two looks at what has come: a rate that cannot be kept up with must not stop everything else.
const ARRIVALS_MAX: usize = 1 << 12;

/// The most connections of a thread that are being opened at once: fewer than a listener's queue has room for.
const OPENING_MAX: usize = 512;

/// How long a connection waits for room, in nanoseconds.
const ROOM_PAUSE_NS: u64 = 1_000_000;

/// The pause before a connection is opened again, half of it at random: so long at first, doubled each time that no echo
/// came, so many times at most. In nanoseconds.
const REOPEN_PAUSE_MIN_NS: u64 = 10_000_000;
const REOPEN_DOUBLINGS: u32 = 7;

/// Looks at a connection, and sends what it then has to send; `None` when it is gone.
fn look_at<D: Driver, R>(
    worker: &mut Worker<D, Peer>,
    id: Id,
    look: impl FnOnce(&mut Link) -> R,
) -> Option<R> {
    worker.with(id, |peer, wire| peer.look(wire, look))
}
