//! One thread of the generator: it opens its connections, sends what is due, and ends them.
//!
//! What is the same whatever moves the bytes stands here, in [`load`] and in [`link`]: `ring` and `epoll` are two
//! [`Mover`]s.

mod epoll;
mod link;
mod load;
mod ring;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::num::NonZero;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::client::fault::Fault;
use crate::cpu::{self, ThreadUsage};
use crate::pace::{Arrivals, Pace, Schedule};
use crate::run::{Failure, Plan, Signals, Word};
use crate::tally::{Tally, Totals};
pub(crate) use ring::places;

use link::Link;
use load::{Load, Over};

/// How bytes are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// By io_uring, as ringback's own engine does.
    Ring,
    /// By readiness.
    Epoll,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ring => "ring",
            Self::Epoll => "epoll",
        })
    }
}

/// What a thread needs to know of the run it is part of.
pub(crate) struct Context {
    /// What to do.
    pub(crate) plan: Arc<Plan>,
    /// Nanoseconds are counted from here, by every thread.
    pub(crate) origin: Instant,
    /// What the thread is told while it runs.
    pub(crate) signals: Arc<Signals>,
    /// What it tells.
    pub(crate) words: mpsc::Sender<Word>,
    /// An eventfd(2), written to when there is a new signal.
    pub(crate) wake: Arc<OwnedFd>,
    /// Which thread it is.
    pub(crate) thread: usize,
    /// The core to stay on.
    pub(crate) core: Option<usize>,
    /// The indices of its connections.
    pub(crate) connections: Range<usize>,
}

/// What a thread does with its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Connections are opened.
    Opening,
    /// Messages are sent as the pace says.
    Sending,
    /// No more are sent; a connection whose last echo has come is closed. A churn's connections go on to their end, and
    /// no more begin.
    Ending,
}

/// Moves the bytes of a thread's connections.
trait Mover {
    /// Names a connection until it is over.
    type Id: Copy;

    /// Whether there is room for a further connection.
    fn has_room(&self) -> bool;

    /// Begins to connect.
    ///
    /// # Errors
    ///
    /// As [`crate::connect::socket`], and what the kernel says to the rest.
    fn begin(&mut self, place: usize, index: usize, begun_at: Option<u64>) -> io::Result<Self::Id>;

    /// Looks at a connection, and sends what it then has to send; `None` when it is gone.
    fn with<R>(&mut self, id: Self::Id, look: impl FnOnce(&mut Link) -> R) -> Option<R>;

    /// Waits until something comes, no longer than that, and moves it.
    ///
    /// # Errors
    ///
    /// When the engine is of no more use.
    fn turn(&mut self, at_most: Option<Duration>) -> io::Result<()>;
}

/// Runs a thread to its end.
pub(crate) fn run(context: &Context) -> Totals {
    let plan = Arc::clone(&context.plan);
    let tally = Tally::new(context.thread, plan.pace, context.words.clone());
    let load = Rc::new(Load::new(plan, context.origin, tally));
    let result = begin(context, &load);
    if let Err(failure) = result {
        // The receiver lives as long as this thread, unless the run was given up.
        let _ = context.words.send(Word::Opened(Err(failure)));
    }
    let load = Rc::into_inner(load).expect("the connections are gone with their engine");
    let totals = load.tally.into_inner().finish();
    let _ = context.words.send(Word::Ended(context.thread));
    totals
}

fn begin(context: &Context, load: &Rc<Load>) -> Result<(), Failure> {
    if let Some(core) = context.core {
        cpu::pin(core).map_err(|error| Failure::Usage(format!("cannot pin to core {core}: {error}")))?;
    }
    // Messages are due to the microsecond; where that is refused, they are some tens of them late.
    let _ = rustix::thread::set_current_timer_slack(NonZero::new(TIMER_SLACK_NS));
    let cannot_start = |error: io::Error| Failure::Unavailable(format!("cannot start: {error}"));
    let places = context.connections.len();
    match context.plan.engine {
        Engine::Ring => {
            let ring = ring::Ring::new(load, places, Arc::clone(&context.wake)).map_err(|error| {
                Failure::Unavailable(format!("cannot set up a ring: {error}; --engine epoll does without"))
            })?;
            Driver::new(ring, context, load).run()
        }
        Engine::Epoll => {
            let epoll = epoll::Epoll::new(load, places, Arc::clone(&context.wake)).map_err(cannot_start)?;
            Driver::new(epoll, context, load).run()
        }
    }
}

/// A thread's load, from its first connection to its last.
struct Driver<'a, M: Mover> {
    mover: M,
    context: &'a Context,
    load: &'a Rc<Load>,
    /// The connections, each in its place.
    places: Vec<Option<M::Id>>,
    /// When messages are due, or connections of a churn, that have times of their own.
    schedule: Option<Schedule>,
    /// The place whose turn it is.
    turn: usize,
    /// Connections of a churn that are due and have no room yet: since when, and the index.
    waiting: VecDeque<(u64, usize)>,
    /// Places that have no connection.
    free: Vec<usize>,
    /// The index of the next connection of a churn at a rate.
    next_index: usize,
}

impl<'a, M: Mover> Driver<'a, M> {
    fn new(mover: M, context: &'a Context, load: &'a Rc<Load>) -> Self {
        Self {
            mover,
            context,
            load,
            places: vec![None; context.connections.len()],
            schedule: None,
            turn: 0,
            waiting: VecDeque::new(),
            free: Vec::new(),
            next_index: context.plan.connections + context.thread,
        }
    }

    fn run(mut self) -> Result<(), Failure> {
        let all = self.places.len();
        let first = match self.context.plan.pace {
            Pace::Idle => Plan::opened_first(all),
            // Whether there is a server shows by one; the others come at their times.
            Pace::Churn { rate: Some(_) } => 1,
            _ => all,
        };
        let ramp = |part: usize| self.context.plan.ramp.mul_f64(part as f64 / all as f64);
        self.open(0..first, ramp(first))?;
        let signals = Arc::clone(&self.context.signals);
        if self.context.plan.pace == Pace::Idle {
            self.say_opened();
            self.turn_until(None, |_| signals.rest.get().is_some())?;
            self.open(first..all, ramp(all - first))?;
        }
        if self.context.plan.pace.is_churn() {
            self.free.extend((first..all).rev());
        }
        self.say_opened();
        self.turn_until(None, |_| signals.window.get().is_some())?;
        if let Some(window) = signals.window.get() {
            self.send(window.clone())?;
            self.end()?;
        }
        Ok(())
    }

    fn say_opened(&self) {
        // The receiver lives as long as this thread, unless the run was given up.
        let _ = self.context.words.send(Word::Opened(Ok(())));
    }

    /// Opens the connections of these places, evenly over `ramp`, not too many at once.
    fn open(&mut self, places: Range<usize>, ramp: Duration) -> Result<(), Failure> {
        let plan = &*self.context.plan;
        let began = self.load.now();
        let count = places.len();
        let deadline = began + nanos(ramp) + nanos(plan.connect_timeout);
        let is_failed = |load: &Load| load.failure.borrow().is_some();
        let mut left = count;
        for (at, place) in places.enumerate() {
            let due_at = began + nanos(ramp.mul_f64(at as f64 / count as f64));
            self.turn_until(Some(due_at), |load| is_failed(load))?;
            self.turn_until(Some(deadline), |load| load.opening.get() < OPENING_MAX || is_failed(load))?;
            if is_failed(self.load) || self.load.now() >= deadline {
                break;
            }
            let index = self.context.connections.start + place;
            let id = self.mover.begin(place, index, None).map_err(|error| {
                Failure::Unavailable(format!("cannot connect to {}: {error}", plan.target))
            })?;
            self.places[place] = Some(id);
            left -= 1;
        }
        self.turn_until(Some(deadline), |load| load.opening.get() == 0 || is_failed(load))?;
        if let Some(failure) = self.load.failure.take() {
            return Err(failure);
        }
        self.give_up_opening(left, count)
    }

    /// Sends what is due, and counts what comes back in the window.
    fn send(&mut self, window: Range<u64>) -> Result<(), Failure> {
        let plan = &*self.context.plan;
        self.load.tally.borrow_mut().measure(window.clone());
        self.enter(Stage::Sending);
        if plan.pace == (Pace::Churn { rate: None }) {
            // Whose first connection was not taken goes on with the next.
            for _ in 0..self.free.len() {
                self.succeed();
            }
            self.begin_waiting();
        }
        let share = self.places.len() as f64 / plan.connections as f64;
        let offset = self.context.thread as f64 / plan.threads as f64;
        let seed = plan.seed ^ self.context.thread as u64;
        let rate = match plan.pace {
            // The window has room for one ping on each.
            Pace::Idle => Some((plan.connections as f64 / plan.duration.as_secs_f64(), Arrivals::Constant)),
            pace => pace.rate(),
        };
        // The same on every thread, so that they take turns.
        let lead = if plan.pace == Pace::Idle { 0 } else { nanos(plan.warmup) };
        let from = window.start.saturating_sub(lead);
        self.schedule = rate.map(|rate| Schedule::new(rate, share, offset, from, seed));
        let is_done = |load: &Load| load.live.get() + load.waiting.get() == 0 && plan.pace.rate().is_none();
        self.turn_until(Some(window.start), is_done)?;
        let before = ThreadUsage::now();
        self.turn_until(Some(window.end), is_done)?;
        self.load.tally.borrow_mut().totals.threads.push(ThreadUsage::now().since(before));
        self.arrive(window.end - 1);
        self.give_up_arrivals(window.end - 1);
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
        self.enter(Stage::Ending);
        let grace = self.load.now() + nanos(plan.grace);
        self.turn_until(Some(grace), |load| !load.is_awaiting_echoes())?;
        for (_, index) in std::mem::take(&mut self.waiting) {
            let now = self.load.now();
            self.load.tally.borrow_mut().fault(Fault::NotBegun, 1, index, 0, now);
        }
        self.load.waiting.set(0);
        self.give_up(|link| plan.pace.is_churn() || link.client.in_flight() > 0);
        let grace = self.load.now() + nanos(plan.grace);
        self.turn_until(Some(grace), |load| load.live.get() == 0)?;
        self.give_up(|_| true);
        Ok(())
    }

    fn enter(&mut self, stage: Stage) {
        self.load.stage.set(stage);
        for id in self.places.iter().flatten() {
            self.mover.with(*id, |link| link.advance(None));
        }
    }

    /// Goes on until then, or as long as it takes.
    fn turn_until(&mut self, until: Option<u64>, is_done: impl Fn(&Load) -> bool) -> Result<(), Failure> {
        while !is_done(self.load) {
            let now = self.load.now();
            if until.is_some_and(|until| now >= until) {
                break;
            }
            self.arrive(now);
            let at_most = self.patience(until);
            self.mover.turn(at_most).map_err(|error| {
                Failure::Unavailable(format!("the {} engine: {error}", self.context.plan.engine))
            })?;
            self.load.tally.borrow_mut().pass(self.load.now());
            self.take_over();
        }
        Ok(())
    }

    /// How long nothing has to be done that nobody tells of.
    fn patience(&self, until: Option<u64>) -> Option<Duration> {
        let next = self.schedule.as_ref().map(Schedule::next);
        let second = Some(self.load.tally.borrow().next()).filter(|&next| next != u64::MAX);
        let next = [until, next, second].into_iter().flatten().min()?;
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
                self.load.tally.borrow_mut().fault(Fault::NotBegun, 1, first, 0, now);
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
            tally.fault(Fault::NotBegun, left, self.context.connections.start, 0, now);
        }
    }

    /// A message is due at `due_at`, on the next connection whose turn it is and that is there.
    fn push(&mut self, due_at: u64) -> bool {
        let candidates = if self.load.live.get() > 0 { self.places.len() } else { 0 };
        for _ in 0..candidates {
            let place = self.turn;
            self.turn = if place + 1 == self.places.len() { 0 } else { place + 1 };
            if let Some(id) = self.places[place]
                && self.mover.with(id, |link| link.push_due(due_at)) == Some(true)
            {
                return true;
            }
        }
        false
    }

    /// Looks at the connections that are over: in a churn others follow.
    fn take_over(&mut self) {
        if self.load.over.borrow().is_empty() {
            return;
        }
        let is_followed =
            self.context.plan.pace == (Pace::Churn { rate: None }) && self.load.stage.get() == Stage::Sending;
        for Over { place, was_reached } in self.load.over.take() {
            self.places[place] = None;
            self.free.push(place);
            // Who is not there will not be there in a moment either.
            if is_followed && was_reached {
                self.succeed();
            }
        }
        self.begin_waiting();
    }

    /// In a churn without a rate the next connection is due, now that another is over.
    fn succeed(&mut self) {
        self.waiting.push_back((self.load.now(), self.next_index));
        self.next_index += self.context.plan.threads;
    }

    /// Begins the connections of a churn for which there is room.
    fn begin_waiting(&mut self) {
        while !self.waiting.is_empty() && self.mover.has_room() {
            let Some(place) = self.free.pop() else {
                break;
            };
            let Some((due_at, index)) = self.waiting.pop_front() else {
                break;
            };
            match self.mover.begin(place, index, Some(due_at)) {
                Ok(id) => self.places[place] = Some(id),
                Err(error) => {
                    self.free.push(place);
                    let (fault, now) = (Fault::ConnectFailed(error.kind()), self.load.now());
                    self.load.tally.borrow_mut().fault(fault, 1, index, 0, now);
                }
            }
        }
        self.load.waiting.set(self.waiting.len());
    }

    /// Gives up the connections that are not open in time.
    fn give_up_opening(&mut self, not_begun: usize, of: usize) -> Result<(), Failure> {
        let plan = &*self.context.plan;
        let mut late = not_begun;
        for id in self.places.iter().flatten() {
            late += usize::from(self.mover.with(*id, |link| !link.is_connected()) == Some(true));
        }
        if late > 0 {
            let timeout = humantime::format_duration(plan.connect_timeout);
            return Err(Failure::Unavailable(format!(
                "cannot connect to {}: {late} of {of} connections had no answer within {timeout}",
                plan.target,
            )));
        }
        self.give_up(|link| link.client.is_opening());
        Ok(())
    }

    /// Gives up the connections of which this is true: their time is over.
    fn give_up(&mut self, is_late: impl Fn(&Link) -> bool) {
        for id in self.places.iter().flatten() {
            self.mover.with(*id, |link| {
                if is_late(link) {
                    link.give_up();
                }
            });
        }
        self.take_over();
    }
}

/// Whole nanoseconds; 2^64 of them are 584 years.
#[inline]
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The most arrivals between two looks at what has come: a rate that cannot be kept up with must not stop everything else.
const ARRIVALS_MAX: usize = 1 << 12;

/// The most connections of a thread that are being opened at once: fewer than a listener's queue has room for.
const OPENING_MAX: usize = 512;

/// By how much a sleep may take longer than it should, for the kernel's convenience.
const TIMER_SLACK_NS: u64 = 1_000;
