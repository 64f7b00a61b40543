//! Workers: one thread each with a runtime, listeners, connections and counters of its own.

use std::io;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::sync::watch;

use super::{StartError, accept, capacity, wanted};
use crate::config::{Config, CpuList, EngineChoice};
use crate::counters::WorkerCounters;
use crate::engine::{self, Engine, Hindrance, Listener, Phase, Runtime, Spawner, ring};
use crate::session::{ProcessWide, REFUSALS_MAX, Serving, WorkerWide};

/// How long connections that were cut may take to give their buffers back.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

/// What a worker is made of.
pub(super) struct Setup {
    pub(super) index: usize,
    /// The CPUs that it is kept on; empty where the kernel decides.
    pub(super) cpus: Vec<usize>,
    pub(super) engine: Engine,
    pub(super) listeners: Vec<Listener>,
    pub(super) shared: Arc<ProcessWide>,
    pub(super) stats: Arc<WorkerCounters>,
    pub(super) phase: watch::Receiver<Phase>,
    /// An eventfd(2) that is written to when the phase changes: for the engine that cannot await.
    pub(super) wake: Arc<OwnedFd>,
    /// How many connections it may have on the ring engine.
    pub(super) connections_max: usize,
    /// How many there may be on the other engines.
    pub(super) descriptors: capacity::Descriptors,
    /// Counts the workers that have ended.
    pub(super) ended: watch::Sender<usize>,
}

/// Where a worker says which engine it took, or why none.
type Ready = mpsc::SyncSender<Result<Engine, StartError>>;

/// Counts its worker among those that have ended, in whatever way.
struct Ended {
    count: watch::Sender<usize>,
    stats: Arc<WorkerCounters>,
    phase: watch::Receiver<Phase>,
    has_failed: bool,
}

impl Ended {
    fn new(setup: &Setup) -> Self {
        Self {
            count: setup.ended.clone(),
            stats: Arc::clone(&setup.stats),
            phase: setup.phase.clone(),
            has_failed: false,
        }
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let is_untold = *self.phase.borrow() == Phase::Running;
        self.stats.life.end(self.has_failed || is_untold || thread::panicking());
        self.count.send_modify(|ended| *ended += 1);
    }
}

/// How many workers there are, and on which CPUs.
pub(crate) struct Placement {
    pub(crate) workers: usize,
    /// The CPUs that they are kept on: one each where there are as many, else all for all of them. None: the kernel decides.
    cpus: Option<CpuList>,
}

impl Placement {
    /// With `--cpus` the workers are kept on those: by default one on each. Otherwise there are as many workers as the process
    /// may use CPUs, and each is pinned to one where they fill the affinity mask. Fewer are not, for a second process would pin
    /// its own to the same CPUs; and under a quota (cgroup) of less than the mask, pinning would only hinder the scheduler.
    ///
    /// # Errors
    ///
    /// [`StartError::Cpu`] when the process may not use one that is asked for.
    pub(crate) fn find(config: &Config) -> Result<Self, StartError> {
        let mask = affinity();
        if let Some(cpus) = &config.cpus {
            if let Some(&cpu) = cpus.iter().find(|cpu| !mask.contains(cpu)) {
                return Err(StartError::Cpu { cpu, usable: CpuList::from_iter(mask) });
            }
            return Ok(Self { workers: config.workers.unwrap_or(cpus.len()), cpus: Some(cpus.clone()) });
        }
        let available = available_cpus();
        let workers = config.workers.unwrap_or(available);
        let fills_mask = available == mask.len() && workers == mask.len();
        let cpus = (config.pin && fills_mask).then(|| CpuList::from_iter(mask));
        Ok(Self { workers, cpus })
    }

    /// The CPUs that a worker is kept on; empty where the kernel decides.
    pub(super) fn cpus_of(&self, worker: usize) -> Vec<usize> {
        match &self.cpus {
            Some(cpus) if cpus.len() == self.workers => vec![cpus[worker]],
            Some(cpus) => cpus.to_vec(),
            None => Vec::new(),
        }
    }

    /// The CPUs that all workers are kept on.
    pub(super) fn into_cpus(self) -> Option<CpuList> {
        self.cpus
    }
}

/// How many CPUs the process may use: the smaller of its affinity mask and its cgroup's quota.
fn available_cpus() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// The CPUs of the affinity mask.
fn affinity() -> Vec<usize> {
    let Ok(mask) = sched_getaffinity(None) else {
        return Vec::new();
    };
    (0..CpuSet::MAX_CPU).filter(|&cpu| mask.is_set(cpu)).collect()
}

/// Starts a worker's thread, and waits until it accepts. Gives the engine that it took.
pub(super) fn spawn(setup: Setup) -> Result<(JoinHandle<io::Result<()>>, Engine), StartError> {
    let index = setup.index;
    let (ready, is_ready) = mpsc::sync_channel(1);
    let handle = thread::Builder::new()
        .name(format!("ringback-{index}"))
        .spawn(move || run(setup, &ready))
        .map_err(StartError::refused(format!("a thread for worker {index}")))?;
    match is_ready.recv() {
        Ok(Ok(engine)) => Ok((handle, engine)),
        Ok(Err(error)) => Err(error),
        Err(mpsc::RecvError) => Err(StartError::Worker(match handle.join() {
            Ok(Err(error)) => error,
            _ => io::Error::other("its thread ended"),
        })),
    }
}

/// A worker's thread.
fn run(setup: Setup, ready: &Ready) -> io::Result<()> {
    let mut ended = Ended::new(&setup);
    let result = run_pinned(setup, ready);
    ended.has_failed = result.is_err();
    result
}

fn run_pinned(mut setup: Setup, ready: &Ready) -> io::Result<()> {
    if !setup.cpus.is_empty() {
        let mut only = CpuSet::new();
        setup.cpus.iter().for_each(|&cpu| only.set(cpu));
        if let Err(error) = sched_setaffinity(None, &only) {
            tracing::warn!(worker = setup.index, cpus = ?setup.cpus, %error, "not pinned");
        }
    }
    loop {
        let error = match setup.engine {
            Engine::Ring => match ring(&setup) {
                Ok(worker) => {
                    // With O_NONBLOCK an accept takes two operations. The next worker may share the socket and not be of
                    // this engine: it has it otherwise then.
                    for listener in &setup.listeners {
                        listener.set_nonblocking(false)?;
                    }
                    // Whoever waits for it may have given up.
                    let _ = ready.send(Ok(Engine::Ring));
                    return worker.run(setup.listeners);
                }
                Err(error) => error,
            },
            Engine::TokioUring => match Runtime::tokio_uring() {
                Ok(runtime) => return runtime.block_on(serve(runtime.spawner(), setup, ready)),
                Err(error) => error,
            },
            Engine::Epoll => {
                let runtime = Runtime::epoll()?;
                return runtime.block_on(serve(runtime.spawner(), setup, ready));
            }
        };
        let hindrance = Hindrance::of_setup(setup.engine, error);
        match engine::fall_back(wanted(setup.shared.config.engine), hindrance) {
            Ok(engine) => {
                setup.engine = engine;
                // Connections take descriptors from now on.
                match setup.descriptors.connections_max(&setup.shared.config) {
                    Ok(max) => setup.shared.limits.lower(max),
                    Err(error) => {
                        let _ = ready.send(Err(error));
                        return Ok(());
                    }
                }
            }
            Err(hindrance) => {
                let _ = ready.send(Err(hindrance.into()));
                return Ok(());
            }
        }
    }
}

/// A worker of the ring engine.
fn ring(setup: &Setup) -> io::Result<ring::Worker<Serving>> {
    let context = Rc::new(WorkerWide::new(&setup.shared, Arc::clone(&setup.stats), false));
    let config = &setup.shared.config;
    // Accepts that wait for an address keep a place each, on idle listeners too.
    let is_counted = setup.shared.limits.counts_holders();
    let waiting = if is_counted { setup.listeners.len() * ring::WITH_PEER } else { 0 };
    let places = (setup.connections_max + REFUSALS_MAX + waiting).min(capacity::files_max());
    let sizes = ring_sizes(config, places);
    let service = Serving::new(context, setup.phase.clone());
    ring::Worker::new(&sizes, service, Arc::clone(&setup.wake), Arc::clone(&setup.stats.engine))
}

/// How large its ring is: as suits so many places, unless the options say otherwise.
fn ring_sizes(config: &Config, places: usize) -> ring::Sizes {
    let mut sizes = ring::Sizes::new(config.receive_buffer_size, places);
    let wanted = &config.ring;
    // Of the two queues the one follows the other.
    match (wanted.submissions.map(u32::from), wanted.completions.map(u32::from)) {
        (Some(submissions), completions) => {
            (sizes.submissions, sizes.completions) = (submissions, completions.unwrap_or(4 * submissions));
        }
        (None, Some(completions)) => {
            (sizes.submissions, sizes.completions) = ((completions / 4).max(1), completions);
        }
        (None, None) => {}
    }
    sizes.small_count = wanted.buffers.unwrap_or(sizes.small_count);
    sizes.small_size = wanted.buffer_size.unwrap_or(sizes.small_size);
    sizes.big_count = wanted.big_buffers.unwrap_or(sizes.big_count);
    sizes.files = wanted.files.unwrap_or(sizes.files);
    sizes.busy_poll = config.busy_poll;
    if config.engine == EngineChoice::Ring {
        // No other engine takes its place.
        sizes.patience = Duration::from_secs(1);
    }
    sizes
}

/// Accepts and serves connections in tasks, until the phase says to end.
async fn serve(spawner: Spawner, setup: Setup, ready: &Ready) -> io::Result<()> {
    let context = Rc::new(WorkerWide::new(&setup.shared, setup.stats, true));
    tokio::task::spawn_local(Rc::clone(&context.common).watch_alarms()?);
    let mut acceptors = Vec::new();
    for listener in setup.listeners {
        let acceptor = accept::accept(accept::watch(listener)?, spawner, Rc::clone(&context));
        acceptors.push(tokio::task::spawn_local(acceptor));
    }
    let _ = ready.send(Ok(setup.engine));
    let mut phase = setup.phase;
    follow(&mut phase, &context, Phase::Draining).await;
    for acceptor in acceptors {
        acceptor.await.map_err(io::Error::other)??;
    }
    tokio::select! {
        () = context.all_ended() => {}
        () = follow(&mut phase, &context, Phase::Stopping) => {
            let _ = tokio::time::timeout(CUT_TIMEOUT, context.all_ended()).await;
        }
    }
    Ok(())
}

/// Waits until the phase is at least `until`. A server that was dropped is stopping.
async fn follow(phase: &mut watch::Receiver<Phase>, context: &WorkerWide, until: Phase) {
    let reached = phase.wait_for(|&phase| phase >= until).await.map_or(Phase::Stopping, |phase| *phase);
    context.common.enter_phase(reached);
}
