//! Workers: one thread each with an engine, listeners, connections and counters of its own.

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

use super::{StartError, capacity, wanted};
use crate::config::{Config, CpuList, EngineChoice};
use crate::counters::WorkerCounters;
use crate::engine::epoll::{self, EpollDriver};
use crate::engine::ring::{self, RingDriver};
use crate::engine::{self, Engine, Hindrance, Listener, Phase, PhaseCell, Server, tokio_uring};
use crate::session::{ProcessWide, REFUSALS_MAX, Serving, WorkerWide};

/// What a worker is made of.
pub(super) struct Setup {
    pub(super) index: usize,
    /// The CPUs that it is kept on; empty where the kernel decides.
    pub(super) cpus: Vec<usize>,
    pub(super) engine: Engine,
    pub(super) listeners: Vec<Listener>,
    pub(super) shared: Arc<ProcessWide>,
    pub(super) stats: Arc<WorkerCounters>,
    pub(super) phase: Arc<PhaseCell>,
    /// An eventfd(2) that is written to when the phase changes.
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
    phase: Arc<PhaseCell>,
    has_failed: bool,
}

impl Ended {
    fn new(setup: &Setup) -> Self {
        Self {
            count: setup.ended.clone(),
            stats: Arc::clone(&setup.stats),
            phase: Arc::clone(&setup.phase),
            has_failed: false,
        }
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let is_untold = self.phase.phase() == Phase::Running;
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
                Ok(mut worker) => {
                    // With O_NONBLOCK an accept takes two operations. The next worker may share the socket and not be of
                    // this engine: it has it otherwise then.
                    for listener in &setup.listeners {
                        listener.set_nonblocking(false)?;
                    }
                    worker.listen(setup.listeners)?;
                    // Whoever waits for it may have given up.
                    let _ = ready.send(Ok(Engine::Ring));
                    return worker.run();
                }
                Err(error) => error,
            },
            Engine::TokioUring => match tokio_uring::Runtime::new() {
                Ok(runtime) => {
                    let context = setup.context(true);
                    let (common, service) = (Rc::clone(&context.common), setup.service(context));
                    let on_ready = || drop(ready.send(Ok(Engine::TokioUring)));
                    return runtime.serve(common, service, setup.listeners, setup.wake, on_ready);
                }
                Err(error) => error,
            },
            Engine::Epoll => {
                let mut server = epoll(&setup)?;
                server.listen(setup.listeners)?;
                let _ = ready.send(Ok(Engine::Epoll));
                return server.run();
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

impl Setup {
    /// What its connections share; with `receives_singly` on an engine that receives one buffer at a time.
    fn context(&self, receives_singly: bool) -> Rc<WorkerWide> {
        Rc::new(WorkerWide::new(&self.shared, Arc::clone(&self.stats), receives_singly))
    }

    fn service(&self, context: Rc<WorkerWide>) -> Serving {
        Serving::new(context, Arc::clone(&self.phase))
    }
}

/// A worker of the ring engine.
fn ring(setup: &Setup) -> io::Result<Server<RingDriver, Serving>> {
    let context = setup.context(false);
    let config = &setup.shared.config;
    // Accepts that wait for an address keep a place each, on idle listeners too.
    let is_counted = setup.shared.limits.counts_holders();
    let waiting = if is_counted { setup.listeners.len() * ring::WITH_PEER } else { 0 };
    let places = (setup.connections_max + REFUSALS_MAX + waiting).min(capacity::files_max());
    let sizes = ring_sizes(config, places);
    let common = Rc::clone(&context.common);
    ring::server(&sizes, common, setup.service(context), Arc::clone(&setup.wake))
}

/// A worker of the epoll engine. The limits of all workers bound its connections.
fn epoll(setup: &Setup) -> io::Result<Server<EpollDriver, Serving>> {
    let context = setup.context(false);
    let places = setup.shared.limits.max().saturating_add(REFUSALS_MAX);
    let common = Rc::clone(&context.common);
    epoll::server(places, common, setup.service(context), Arc::clone(&setup.wake))
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
