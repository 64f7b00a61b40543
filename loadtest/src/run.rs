//! A run: the threads, its phases, and what they found.

use std::ops::Range;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use socket2::SockAddr;

use crate::client::handshake::Request;
use crate::client::traffic::Traffic;
use crate::engine::{self, Context, Engine, nanos};
use crate::pace::Pace;
use crate::packed::Packed;
use crate::procfs::{Memory, Process, Usage};
use crate::series::Series;
use crate::source::Sources;
use crate::tally::{Interval, Totals};
use crate::target::Target;

/// What a run does, settled before it begins.
pub(crate) struct Plan {
    /// Where the load goes.
    pub(crate) target: Target,
    /// Its address.
    pub(crate) address: SockAddr,
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
pub(crate) struct Signals {
    /// The connections that are opened beforehand are accounted for: the others may follow.
    pub(crate) rest: OnceLock<()>,
    /// When messages are counted, in nanoseconds of the run's clock: known when every thread has opened its connections.
    pub(crate) window: OnceLock<Range<u64>>,
}

/// What a thread tells.
pub(crate) enum Word {
    /// The connections that were asked for are open, or why the run cannot be made.
    Opened(Result<(), Failure>),
    /// What the thread with this index counted in one second of the window. It will not speak of that second again.
    Second(usize, Interval),
    /// The thread has ended.
    Ended(usize),
}

/// Why there was no run, or none that could be told of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The user asked for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// The server cannot be reached.
    #[error("{0}")]
    Unavailable(String),
    /// There was one, and what it found cannot be written.
    #[error("{0}")]
    Output(String),
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
    /// How long it was: less than was planned where no connection was left.
    pub(crate) elapsed: Duration,
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
pub(crate) fn run(plan: &Arc<Plan>, mut on_second: impl FnMut(&Interval)) -> Result<Outcome, Failure> {
    let origin = Instant::now();
    let signals = Arc::<Signals>::default();
    let (to, words) = mpsc::channel();
    let mut wakes = Vec::new();
    let mut threads = Vec::new();
    for index in 0..plan.threads {
        let wake =
            Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(cannot_start)?);
        let context = Context {
            plan: Arc::clone(plan),
            origin,
            signals: Arc::clone(&signals),
            words: to.clone(),
            wake: Arc::clone(&wake),
            thread: index,
            core: plan.cores.get(index % plan.cores.len().max(1)).copied(),
            connections: plan.share(index),
        };
        wakes.push(wake);
        let thread =
            thread::Builder::new().name(format!("load-{index}")).spawn(move || engine::run(&context));
        threads.push(thread.map_err(|error| Failure::Unavailable(format!("cannot start: {error}")))?);
    }
    drop(to);
    let wake_all = || {
        wakes
            .iter()
            .try_for_each(|wake| rustix::io::write(wake, &1_u64.to_ne_bytes()).map(drop))
            .map_err(cannot_start)
    };
    let mut seconds = Vec::new();
    let on_second = |interval: Interval| {
        on_second(&interval);
        seconds.push(interval.pack());
    };
    let mut words = Words { words, series: Series::new(plan.threads, on_second), failure: None };
    let memory = || plan.server.as_ref().and_then(|process| process.memory().ok());

    let mut held = None;
    if plan.pace == Pace::Idle {
        words.await_opened()?;
        held = memory().map(|memory| memory.resident);
        signals.rest.get_or_init(|| ());
        wake_all()?;
    }
    words.await_opened()?;

    let from = Instant::now() + plan.warmup;
    let to = from + plan.duration;
    let began = SystemTime::now() + plan.warmup;
    signals.window.get_or_init(|| nanos(from - origin)..nanos(to - origin));
    wake_all()?;
    let usage = || plan.server.as_ref().and_then(|process| process.usage().ok());
    let mut server = None;
    let mut elapsed = plan.duration;
    if words.listen_until(from) {
        let before = usage();
        words.listen_until(to);
        elapsed = from.elapsed().min(plan.duration);
        server = before
            .zip(usage())
            .zip(memory())
            .map(|((before, after), memory)| server_usage(before, after, memory));
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
    Ok(Outcome { window, series: seconds, totals, server, held, began, elapsed })
}

/// What the threads say.
struct Words<F> {
    words: mpsc::Receiver<Word>,
    series: Series<F>,
    /// Why the run is not to be believed, though it had begun.
    failure: Option<Failure>,
}

impl<F: FnMut(Interval)> Words<F> {
    /// Waits for the connections of each thread.
    fn await_opened(&mut self) -> Result<(), Failure> {
        let mut left = self.series.threads();
        while left > 0 {
            match self.words.recv() {
                Ok(Word::Opened(result)) => {
                    result?;
                    left -= 1;
                }
                Ok(word) => self.take(word),
                // A thread that cannot open says so or panics; the process then ends, and the others with it.
                Err(mpsc::RecvError) => return Err(Failure::Unavailable("a thread has panicked".into())),
            }
        }
        Ok(())
    }

    /// Listens until then; whether any thread is left that could say more.
    fn listen_until(&mut self, at: Instant) -> bool {
        loop {
            match self.words.recv_timeout(at.saturating_duration_since(Instant::now())) {
                Ok(word) => self.take(word),
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    fn listen_to_the_end(&mut self) {
        while let Ok(word) = self.words.recv() {
            self.take(word);
        }
    }

    fn take(&mut self, word: Word) {
        match word {
            Word::Second(thread, interval) => self.series.add(thread, &interval),
            Word::Ended(thread) => self.series.end(thread),
            Word::Opened(Ok(())) => {}
            Word::Opened(Err(failure)) => drop(self.failure.get_or_insert(failure)),
        }
    }
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
    Failure::Unavailable(format!("cannot start: {error}"))
}

/// Ticks, of mostly 10 ms, below which the shares of user and system time are not told.
const SHARE_TICKS_MIN: u64 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// What a run listens to, when its threads have said this.
    fn heard(said: Vec<Word>) -> Words<impl FnMut(Interval)> {
        let (to, words) = mpsc::channel();
        for word in said {
            to.send(word).expect("somebody listens");
        }
        Words { words, series: Series::new(2, |_| {}), failure: None }
    }

    #[test]
    fn a_thread_that_fails_in_the_middle_is_no_good_run() {
        let failure = Failure::Unavailable("the engine has ended".into());
        let second = Word::Second(0, Interval::new(0));
        let mut words = heard(vec![
            Word::Opened(Ok(())),
            Word::Opened(Ok(())),
            second,
            Word::Opened(Err(failure.clone())),
        ]);
        assert_eq!(words.await_opened(), Ok(()));
        assert!(!words.listen_until(Instant::now() + Duration::from_secs(20)), "nobody is left");
        words.listen_to_the_end();
        assert_eq!(words.failure, Some(failure));
    }

    #[test]
    fn a_thread_that_cannot_open_ends_the_run_at_once() {
        let failure = Failure::Unavailable("refused".into());
        let mut words = heard(vec![Word::Opened(Ok(())), Word::Opened(Err(failure.clone()))]);
        assert_eq!(words.await_opened(), Err(failure));
    }
}
