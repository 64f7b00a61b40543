//! One thread of the generator: it opens its connections, sends what is due, and ends them.
//!
//! The bytes are moved by a worker of ringback's own engine, on the ring or on epoll. `thread` says what is due, `load` keeps
//! count, and a `peer` is a connection: a handler around its `link`.

mod link;
mod load;
mod peer;
mod thread;
mod timers;

use std::fmt;
use std::num::NonZero;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ringback::engine::{Bounds, Common, epoll, ring};

use crate::cpu;
use crate::run::{Failure, Orders, Plan, Word};
use crate::tally::{Tally, Totals};
use load::Load;
use peer::BUFFER;
use thread::Thread;

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
pub(crate) enum RunStage {
    /// Connections are opened.
    Opening,
    /// Messages are sent as the pace says.
    Sending,
    /// No more are sent; a connection whose last echo has come is closed. A churn's connections go on to their end, and
    /// no more begin.
    Ending,
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
    let (places, wake) = (places(context.connections.len()), Arc::clone(&context.wake));
    let bounds = Bounds { receive_buffer_size: BUFFER, unsent_limit: usize::MAX, ..Bounds::default() };
    let common = Rc::new(Common::new(bounds, Arc::default()));
    match context.plan.engine {
        Engine::Ring => {
            let mut sizes = ring::Sizes::new(BUFFER, places);
            if context.plan.spin {
                sizes.busy_poll = Duration::MAX;
            }
            let worker = ring::worker(&sizes, common, wake).map_err(|error| {
                Failure::refused("set up a ring", &error, "--engine epoll does without one")
            })?;
            Thread::new(worker, context, load).run()
        }
        Engine::Epoll => {
            let worker = epoll::worker(places, common, wake).map_err(|error| {
                Failure::refused("set up epoll", &error, "raise the limit of open files (ulimit -n)")
            })?;
            Thread::new(worker, context, load).run()
        }
    }
}

/// How many places an engine has for so many connections at a time: some of a churn are being closed while their successors
/// connect.
pub(crate) const fn places(connections: usize) -> usize {
    connections + connections / 8 + SPARE_PLACES
}

/// Whole nanoseconds; 2^64 of them are 584 years.
#[inline]
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// By how much a sleep may take longer than it should, for the kernel's convenience.
const TIMER_SLACK_NS: u64 = 1_000;

/// Places beyond a part of the connections.
const SPARE_PLACES: usize = 64;
