//! One thread of the generator: it opens its connections, sends what is due, and ends them.
//!
//! What is the same whatever moves the bytes stands in `driver`, `load` and `link`: `ring` and `epoll` are two
//! [`Mover`]s.

mod driver;
mod epoll;
mod link;
mod load;
mod ring;
mod timers;

use std::fmt;
use std::io;
use std::num::NonZero;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::cpu;
use crate::run::{Failure, Orders, Plan, Word};
use crate::tally::{Tally, Totals};
pub(crate) use ring::places;

use driver::Driver;
use link::Link;
use load::{Attempt, Load};

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
    pub(crate) orders: Arc<Orders>,
    /// What it tells.
    pub(crate) words: mpsc::Sender<Word>,
    /// An eventfd(2), written to when there is a new order.
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
    fn begin(&mut self, attempt: Attempt) -> io::Result<Self::Id>;

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
    let _ended = SaysEnded(context);
    let plan = Arc::clone(&context.plan);
    let tally = Tally::new(context.thread, plan.pace, plan.addresses.count(), context.words.clone());
    let load = Rc::new(Load::new(plan, context.origin, tally));
    let result = begin(context, &load);
    if let Err(failure) = result {
        // The receiver lives as long as this thread, unless the run was given up.
        let _ = context.words.send(Word::Opened(Err(failure)));
    }
    let load = Rc::into_inner(load).expect("the connections are gone with their engine");
    load.tally.into_inner().finish()
}

/// Says that the thread has ended, even if it panics.
struct SaysEnded<'a>(&'a Context);

impl Drop for SaysEnded<'_> {
    fn drop(&mut self) {
        let _ = self.0.words.send(Word::Ended(self.0.thread));
    }
}

fn begin(context: &Context, load: &Rc<Load>) -> Result<(), Failure> {
    if let Some(core) = context.core {
        cpu::pin(core).map_err(|error| Failure::Usage(format!("--pin {core}: {error}")))?;
    }
    // Messages are due to the microsecond; where that is refused, they are some tens of them late.
    let _ = rustix::thread::set_current_timer_slack(NonZero::new(TIMER_SLACK_NS));
    let places = context.connections.len();
    match context.plan.engine {
        Engine::Ring => {
            let ring = ring::Ring::new(load, places, Arc::clone(&context.wake)).map_err(|error| {
                Failure::refused("set up a ring", &error, "--engine epoll does without one")
            })?;
            Driver::new(ring, context, load).run()
        }
        Engine::Epoll => {
            let epoll = epoll::Epoll::new(load, places, Arc::clone(&context.wake)).map_err(|error| {
                Failure::refused("set up epoll", &error, "raise the limit of open files (ulimit -n)")
            })?;
            Driver::new(epoll, context, load).run()
        }
    }
}

/// Whole nanoseconds; 2^64 of them are 584 years.
#[inline]
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// By how much a sleep may take longer than it should, for the kernel's convenience.
const TIMER_SLACK_NS: u64 = 1_000;
