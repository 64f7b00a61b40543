//! A run: the threads, its phases, and what they found.

use std::net::SocketAddr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;
use mio::{Poll, Token, Waker};

use crate::client::traffic::Traffic;
use crate::engine::{self, Context};
use crate::pace::Pace;
use crate::procfs::{Memory, Process, Usage};
use crate::tally::{Interval, Tally};
use crate::target::Target;

/// What a run does, settled before it begins.
pub(crate) struct Plan {
    /// Where the load goes.
    pub(crate) target: Target,
    /// Its address.
    pub(crate) address: SocketAddr,
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
    /// The TCP congestion control of the connections.
    pub(crate) congestion: String,
    /// The server's process, where it is known.
    pub(crate) server: Option<Process>,
    /// What all that is random follows from.
    pub(crate) seed: u64,
}

/// When the load is counted, in nanoseconds of the run's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// The window's first.
    pub(crate) from: u64,
    /// The first behind the window.
    pub(crate) to: u64,
}

/// Why there was no run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The user asked for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// The server cannot be reached.
    #[error("{0}")]
    Unavailable(String),
}

/// What a run found.
pub(crate) struct Outcome {
    /// The figures of all threads.
    pub(crate) tally: Tally,
    /// What the server used in the window, unless it is unknown or went away.
    pub(crate) server: Option<ServerUsage>,
    /// When the window began.
    pub(crate) began: SystemTime,
    /// The window, second by second; the last one may be shorter.
    pub(crate) series: Vec<Interval>,
    /// By how much the generator itself was late: from when a message was due to when it was handed to its connection,
    /// in nanoseconds. Without an arrival rate no message is due at a time of its own.
    pub(crate) lateness: Option<Histogram<u64>>,
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
pub(crate) fn run(plan: &Arc<Plan>, _on_second: impl FnMut(&Interval)) -> Result<Outcome, Failure> {
    let origin = Instant::now();
    let schedule = Arc::new(OnceLock::new());
    let (opened, all_opened) = mpsc::channel();
    let (running, all_ended) = mpsc::channel::<()>();
    let mut wakers = Vec::new();
    let mut threads = Vec::new();
    for index in 0..plan.threads {
        let poll = Poll::new().map_err(cannot_start)?;
        wakers.push(Waker::new(poll.registry(), Token(usize::MAX)).map_err(cannot_start)?);
        let share = |index| plan.connections * index / plan.threads;
        let context = Context {
            plan: Arc::clone(plan),
            origin,
            schedule: Arc::clone(&schedule),
            opened: opened.clone(),
            core: plan.cores.get(index % plan.cores.len().max(1)).copied(),
            connections: share(index)..share(index + 1),
        };
        let running = running.clone();
        let thread = thread::Builder::new().name(format!("load-{index}")).spawn(move || {
            let tally = engine::run(&context, poll);
            drop(running);
            tally
        });
        threads.push(thread.map_err(cannot_start)?);
    }
    drop((opened, running));
    for _ in 0..plan.threads {
        // A thread that cannot open says so or panics; the process then ends, and the others with it.
        all_opened.recv().map_err(|_| Failure::Unavailable("a thread has panicked".into()))??;
    }

    let from = Instant::now() + plan.warmup;
    let to = from + plan.duration;
    let since_origin = |at: Instant| u64::try_from((at - origin).as_nanos()).unwrap_or(u64::MAX);
    let window = Schedule { from: since_origin(from), to: since_origin(to) };
    schedule.get_or_init(|| window);
    for waker in &wakers {
        waker.wake().map_err(cannot_start)?;
    }
    let wait_until = |at: Instant| {
        let left = at.saturating_duration_since(Instant::now());
        all_ended.recv_timeout(left) == Err(RecvTimeoutError::Timeout)
    };
    let usage = |process: &Process| process.usage().ok();
    let server = if wait_until(from) {
        let before = plan.server.as_ref().and_then(usage);
        wait_until(to);
        let after = plan.server.as_ref().and_then(usage);
        let memory = plan.server.as_ref().and_then(|process| process.memory().ok());
        before.zip(after).zip(memory).map(|((before, after), memory)| server_usage(before, after, memory))
    } else {
        None
    };

    let mut tally = Tally::new();
    for thread in threads {
        match thread.join() {
            Ok(part) => tally.merge(part),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    Ok(Outcome { tally, server, began: SystemTime::now(), series: Vec::new(), lateness: None })
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

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
fn cannot_start(error: std::io::Error) -> Failure {
    Failure::Unavailable(format!("cannot start: {error}"))
}

/// Ticks, of mostly 10 ms, below which the shares of user and system time are not told.
const SHARE_TICKS_MIN: u64 = 20;
