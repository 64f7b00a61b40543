//! A run: the threads, its phases, and what they found.

use std::ops::Range;
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use crate::address::Addresses;
use crate::client::request::Request;
use crate::client::traffic::Traffic;
use crate::control::{Control, Words};
use crate::engine::{self, Context, Engine, nanos};
pub(crate) use crate::failure::Failure;
use crate::pace::Pace;
use crate::packed::Packed;
use crate::procfs::{Memory, Process, Usage};
use crate::series::Series;
use crate::signals::Interrupts;
use crate::source::Sources;
use crate::tally::{Interval, Totals};
use crate::target::Target;

/// What a run does, settled before it begins.
pub(crate) struct Plan {
    /// Where the load goes.
    pub(crate) target: Target,
    /// Its addresses.
    pub(crate) addresses: Addresses,
    /// Whether a connection that has ended is opened again.
    pub(crate) reconnect: bool,
    /// The file that the messages are from, as the user wrote it.
    pub(crate) file: Option<String>,
    /// The addresses its connections come from, where the system does not choose.
    pub(crate) sources: Option<Sources>,
    /// How they ask for the upgrade.
    pub(crate) request: Request,
    /// What is sent.
    pub(crate) traffic: Traffic,
    /// When it is sent.
    pub(crate) pace: Pace,
    /// At least `threads`.
    pub(crate) connections: usize,
    /// At least 1.
    pub(crate) threads: usize,
    /// Cores for the threads, in turn; empty to leave them to the scheduler.
    pub(crate) cores: Vec<usize>,
    /// Whether a thread never sleeps while messages are counted.
    pub(crate) spin: bool,
    /// Load that is checked and not counted, before the window.
    pub(crate) warmup: Duration,
    /// The window in which messages are counted.
    pub(crate) duration: Duration,
    /// How long the last echoes may take, and after them the close handshakes.
    pub(crate) grace: Duration,
    /// How long the connections may take to be open.
    pub(crate) connect_timeout: Duration,
    /// The TCP congestion control of the connections, [`NO_CONGESTION`] where they are not TCP.
    pub(crate) congestion: String,
    /// The server's process, where it is known.
    pub(crate) server: Option<Process>,
    /// What all that is random follows from.
    pub(crate) seed: u64,
    /// Over what time the connections are opened, evenly.
    pub(crate) ramp: Duration,
    /// How bytes are moved.
    pub(crate) engine: Engine,
}

impl Plan {
    /// How many of a thread's connections are opened before the others where memory is measured: the server is to have what
    /// it needs once, and once for so many.
    pub(crate) const fn opened_first(connections: usize) -> usize {
        connections.div_ceil(10)
    }

    /// The indices of a thread's connections.
    fn share(&self, thread: usize) -> Range<usize> {
        let from = |thread| self.connections * thread / self.threads;
        from(thread)..from(thread + 1)
    }
}

/// What stands for a congestion control where there is none.
pub(crate) const NO_CONGESTION: &str = "none";

/// What the threads are told, and woken for.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    /// The connections that are opened beforehand are accounted for: the others may follow.
    pub(crate) rest: OnceLock<()>,
    /// When messages are counted, in nanoseconds of the run's clock: known when every thread has opened its connections.
    pub(crate) window: OnceLock<Range<u64>>,
    /// The run is ended by hand: when the window ends, if not before, in nanoseconds of the run's clock.
    pub(crate) stop: OnceLock<u64>,
}

/// What a thread tells.
pub(crate) enum Word {
    /// The connections that were asked for are open, or why the run cannot be made.
    Opened(Result<(), Failure>),
    /// What the thread with this index counted in one second of the window. It will not speak of that second again.
    Second(usize, Interval),
    /// The thread has ended.
    Ended(usize),
    /// The run is to end early: no thread's word, but that of a signal.
    Stop,
}

/// What a run found.
pub(crate) struct Outcome {
    /// Messages that came back in the window, what was wrong meanwhile, and how long all of them took.
    pub(crate) window: Interval,
    /// The window, second by second; the last one may be shorter.
    pub(crate) series: Vec<Interval<Packed>>,
    /// What all threads count beyond that.
    pub(crate) totals: Totals,
    /// What the server used in the window, unless it is unknown or went away.
    pub(crate) server: Option<ServerUsage>,
    /// What connections that are held cost the server's memory.
    pub(crate) held: Option<Held>,
    /// When the window began.
    pub(crate) began: SystemTime,
    /// How long it was: less than was planned where no connection was left, or where a signal has ended it.
    pub(crate) elapsed: Duration,
    /// The signal that has come meanwhile.
    pub(crate) signal: Option<i32>,
}

/// The memory of a server that holds connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    /// Resident before they came, in bytes; others were there already, so that it has what it needs once.
    pub(crate) before_bytes: u64,
    /// Resident with them, after each was pinged.
    pub(crate) after_bytes: u64,
    /// How many they are.
    pub(crate) connections: usize,
}

/// What the server used in the window.
pub(crate) struct ServerUsage {
    /// CPU time of all its threads.
    pub(crate) cpu: Duration,
    /// The time in which it was used: the window, but for the clock's reader being late.
    pub(crate) elapsed: Duration,
    /// The part of `cpu` that was in user mode, 0 to 1; `None` where it was too short to tell.
    pub(crate) user_share: Option<f64>,
    /// Its memory at the end of the window.
    pub(crate) memory: Memory,
}

/// Runs the plan to its end, and tells of each second of the window when it is over.
///
/// # Errors
///
/// No load could be made. What goes wrong in the load is in the outcome.
pub(crate) fn run(
    plan: &Arc<Plan>,
    interrupts: &Interrupts,
    mut on_second: impl FnMut(&Interval),
) -> Result<Outcome, Failure> {
    let origin = Instant::now();
    let orders = Arc::<Orders>::default();
    let (to, words) = mpsc::channel();
    // Before any connection is made: from then on a signal has to lead to a report.
    interrupts.begin(to.clone());
    let mut wakes = Vec::new();
    let mut threads = Vec::new();
    for index in 0..plan.threads {
        let wake =
            Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(cannot_start)?);
        let context = Context {
            plan: Arc::clone(plan),
            origin,
            orders: Arc::clone(&orders),
            words: to.clone(),
            wake: Arc::clone(&wake),
            thread: index,
            core: plan.cores.get(index % plan.cores.len().max(1)).copied(),
            connections: plan.share(index),
        };
        wakes.push(wake);
        let thread =
            thread::Builder::new().name(format!("load-{index}")).spawn(move || engine::run(&context));
        threads.push(thread.map_err(|error| {
            Failure::refused(
                "start a thread",
                &error,
                "raise the limit of processes (ulimit -u) or use fewer --threads",
            )
        })?);
    }
    drop(to);
    let control = Control { orders, wakes, origin };
    let mut seconds = Vec::new();
    let on_second = |interval: Interval| {
        on_second(&interval);
        seconds.push(interval.pack());
    };
    let mut words = Words::new(words, Series::new(plan.threads, on_second), &control);
    let memory = || plan.server.as_ref().and_then(|process| process.memory().ok());

    let mut held = None;
    if plan.pace == Pace::Idle {
        words.await_opened()?;
        held = memory().map(|memory| memory.resident);
        control.orders.rest.get_or_init(|| ());
        control.wake_all()?;
    }
    words.await_opened()?;

    let from = Instant::now() + plan.warmup;
    let to = from + plan.duration;
    let began = SystemTime::now() + plan.warmup;
    control.orders.window.get_or_init(|| nanos(from - origin)..nanos(to - origin));
    control.wake_all()?;
    let usage = || plan.server.as_ref().and_then(|process| process.usage().ok());
    let mut server = None;
    let mut elapsed = plan.duration;
    if words.listen_until(from) {
        let before = usage();
        words.listen_until(to);
        elapsed = words.since(from).min(plan.duration);
        server = before
            .zip(usage())
            .zip(memory())
            .map(|((before, after), memory)| server_usage(before, after, memory));
    } else if words.is_stopped() {
        elapsed = Duration::ZERO;
    }
    let first: usize = (0..plan.threads).map(|thread| Plan::opened_first(plan.share(thread).len())).sum();
    let connections = plan.connections - first;
    let held = held.zip(server.as_ref()).filter(|_| connections > 0).map(|(before, server)| Held {
        before_bytes: before,
        after_bytes: server.memory.resident,
        connections,
    });

    words.listen_to_the_end();
    if let Some(failure) = words.failure {
        return Err(failure);
    }
    let window = words.series.finish(elapsed);
    let mut totals = Totals::default();
    for thread in threads {
        match thread.join() {
            Ok(part) => totals.merge(part),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    Ok(Outcome { window, series: seconds, totals, server, held, began, elapsed, signal: interrupts.signal() })
}

fn server_usage(before: Usage, after: Usage, memory: Memory) -> ServerUsage {
    let user = after.user_ticks.saturating_sub(before.user_ticks);
    let ticks = user + after.system_ticks.saturating_sub(before.system_ticks);
    ServerUsage {
        cpu: after.cpu.saturating_sub(before.cpu),
        elapsed: after.at - before.at,
        user_share: (ticks >= SHARE_TICKS_MIN).then(|| user as f64 / ticks as f64),
        memory,
    }
}

fn cannot_start(error: Errno) -> Failure {
    Failure::refused("start", &error.into(), "raise the limit of open files (ulimit -n)")
}

/// Ticks, of mostly 10 ms, below which the shares of user and system time are not told.
const SHARE_TICKS_MIN: u64 = 20;

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
