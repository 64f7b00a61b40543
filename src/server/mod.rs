//! The server: listeners, one worker a CPU, and how it ends.

mod activation;
pub mod admin;
mod announcer;
mod capacity;
mod listeners;
mod occupied;
mod page;
mod socket_file;
mod workers;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::io::Errno;
use tokio::sync::watch;

use crate::config::{Address, Config, CpuList, EngineChoice};
use crate::counters::{Life, Snapshot, WorkerCounters};
use crate::engine::{self, Engine, Hindrance, Phase};
use crate::limits::Limits;
use crate::memory::Total;
use crate::proto::handshake::Rules;
use crate::session::ProcessWide;
use crate::variables::BadVariable;

use announcer::Announcer;
use listeners::Bound;
use socket_file::SocketFile;

pub use activation::{Inherited, inherited};
pub use capacity::check_resources;
pub(crate) use capacity::{Descriptors, direct_connections_max};
pub(crate) use listeners::bind as bind_listeners;
pub(crate) use workers::Placement;

/// A server that runs in threads of its own.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<Address>,
    client_addresses: Vec<Address>,
    cpus: Option<CpuList>,
    engines: Vec<Engine>,
    phase: Announcer,
    shared: Arc<ProcessWide>,
    stats: Vec<Arc<WorkerCounters>>,
    /// Those that were not waited for yet.
    workers: Mutex<Vec<JoinHandle<io::Result<()>>>>,
    /// How many workers have ended.
    ended: watch::Sender<usize>,
    is_leaving: AtomicBool,
    /// The bytes of memory that a request may take.
    request_max: usize,
    /// Removed when the workers have ended.
    #[expect(dead_code, reason = "it is there to be dropped")]
    files: Vec<SocketFile>,
}

/// A worker, seen from outside.
#[derive(Clone, Debug)]
pub struct WorkerView {
    /// How it moves bytes.
    pub engine: Engine,
    /// Whether it lives.
    pub life: Life,
    /// Its counters.
    pub stats: Snapshot,
}

impl Server {
    /// Starts a server; when this returns it accepts connections.
    ///
    /// # Errors
    ///
    /// When the engine asked for cannot run, an address cannot be listened at, or there are too few descriptors.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        Self::start_with(config, Vec::new())
    }

    /// As [`Self::start`], with sockets that the process was handed in place of the addresses of the configuration, or
    /// beside those that somebody has asked for.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn start_with(config: &Config, inherited: Vec<Inherited>) -> Result<Self, StartError> {
        let mut engine = engine::choose(wanted(config.engine))?;
        let placement = Placement::find(config)?;
        let descriptors = Descriptors { workers: placement.workers, inherited: inherited.len() };
        let (connections_max, per_worker) = match engine {
            Engine::Ring => direct_connections_max(config.max_connections, placement.workers)?,
            Engine::TokioUring | Engine::Epoll => {
                let max = descriptors.connections_max(config)?;
                (max, max)
            }
        };
        let Bound { per_worker: listeners, addresses, client_addresses, files } =
            listeners::bind(&config.listening, inherited, placement.workers)?;
        let shared = Arc::new(ProcessWide {
            rules: rules(config),
            limits: Limits::new(connections_max, config.access.max_connections_per_ip),
            unsent: Total::new(config.unsent_total),
            config: config.clone(),
        });
        let mut workers = Vec::new();
        let mut server = Self {
            addresses,
            client_addresses,
            cpus: None,
            engines: Vec::new(),
            phase: Announcer::new(),
            shared: Arc::clone(&shared),
            stats: Vec::new(),
            workers: Mutex::default(),
            ended: watch::channel(0).0,
            is_leaving: AtomicBool::new(false),
            request_max: capacity::request_max(&shared.rules),
            files,
        };
        for (index, listeners) in listeners.into_iter().enumerate() {
            let stats = Arc::new(WorkerCounters::default());
            server.stats.push(Arc::clone(&stats));
            let setup = workers::Setup {
                index,
                cpus: placement.cpus_of(index),
                engine,
                listeners,
                shared: Arc::clone(&shared),
                stats,
                phase: server.phase.cell(),
                wake: server
                    .phase
                    .waker()
                    .map_err(StartError::refused(format!("an eventfd for worker {index}")))?,
                connections_max: per_worker,
                descriptors,
                ended: server.ended.clone(),
            };
            // What one worker could not have, the next ones need not ask for.
            let (worker, taken) = workers::spawn(setup)?;
            engine = taken;
            server.engines.push(engine);
            workers.push(worker);
        }
        server.workers = Mutex::new(workers);
        server.cpus = placement.into_cpus();
        Ok(server)
    }

    /// Where it listens, with real ports.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// For each of [`Self::addresses`] one that a client on this machine can connect to.
    #[must_use]
    pub fn client_addresses(&self) -> &[Address] {
        &self.client_addresses
    }

    /// The CPUs that the workers are kept on; `None` where the kernel decides.
    #[must_use]
    pub const fn cpus(&self) -> Option<&CpuList> {
        self.cpus.as_ref()
    }

    /// How each worker moves bytes.
    #[must_use]
    pub fn engines(&self) -> &[Engine] {
        &self.engines
    }

    /// The counters of all workers.
    #[must_use]
    pub fn stats(&self) -> Snapshot {
        Snapshot::sum(self.stats.iter().map(AsRef::as_ref))
    }

    /// Whether further connections should be sent here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.readiness().is_ok()
    }

    /// Whether further connections should be sent here, and would be served.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn readiness(&self) -> Result<(), Unready> {
        if self.phase.phase() > Phase::Running {
            Err(Unready::Draining)
        } else if self.is_leaving.load(Ordering::Relaxed) {
            Err(Unready::Leaving)
        } else if *self.ended.borrow() > 0 {
            Err(Unready::WorkerEnded)
        } else if self.shared.limits.is_full() {
            Err(Unready::Full)
        } else if self.stats.iter().any(|stats| stats.gauges.accept_paused.value() > 0) {
            Err(Unready::AcceptPaused)
        } else if !self.shared.unsent.has_room_for(self.request_max) {
            Err(Unready::Memory)
        } else {
            Ok(())
        }
    }

    /// Says by [`Self::is_ready`] that the end is near. Everything goes on until then.
    pub fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
    }

    /// Each worker as it is now.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerView> {
        let view = |(stats, &engine): (&Arc<WorkerCounters>, _)| WorkerView {
            engine,
            life: stats.life.life(),
            stats: Snapshot::sum([stats.as_ref()]),
        };
        self.stats.iter().zip(&self.engines).map(view).collect()
    }

    /// The most connections that there may be.
    #[must_use]
    pub fn connections_max(&self) -> usize {
        self.shared.limits.max()
    }

    /// The most bytes that may wait to be sent.
    #[must_use]
    pub fn unsent_max(&self) -> usize {
        self.shared.config.unsent_total
    }

    /// Stops accepting; what was received is echoed, then every connection gets Close(1001).
    pub fn drain(&self) {
        self.leave();
        self.phase.announce(Phase::Draining);
    }

    /// Cuts whatever is left.
    pub fn stop(&self) {
        self.phase.announce(Phase::Stopping);
    }

    /// Resolves once a worker has ended: while the server runs, that is a failure, which [`Self::join`] names.
    pub async fn any_ended(&self) {
        self.until_ended(1).await;
    }

    /// Resolves once all workers have ended.
    pub async fn all_ended(&self) {
        self.until_ended(self.stats.len()).await;
    }

    /// Waits until all workers have ended, and gives the last counters.
    ///
    /// # Errors
    ///
    /// When a worker failed or panicked.
    pub fn join(&self) -> io::Result<Snapshot> {
        let workers = std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        for worker in workers {
            worker.join().map_err(|_| io::Error::other("a worker panicked"))??;
        }
        Ok(Snapshot::sum(self.stats.iter().map(AsRef::as_ref)))
    }

    async fn until_ended(&self, workers: usize) {
        // The sender is here, so it is not dropped meanwhile.
        let _ = self.ended.subscribe().wait_for(|&ended| ended >= workers).await;
    }
}

/// What requests are judged by.
fn rules(config: &Config) -> Rules {
    Rules {
        paths: config.access.paths.clone(),
        subprotocols: config.access.subprotocols.clone(),
        page: page::page(config.access.first_path()),
        allowed_origins: config.access.allowed_origins.clone(),
        head_max: config.head.max_size,
        fields_max: config.head.max_fields,
    }
}

/// The engine that was asked for by name.
pub(crate) const fn wanted(choice: EngineChoice) -> Option<Engine> {
    match choice {
        EngineChoice::Auto => None,
        EngineChoice::Ring => Some(Engine::Ring),
        EngineChoice::TokioUring => Some(Engine::TokioUring),
        EngineChoice::Epoll => Some(Engine::Epoll),
    }
}

/// Why further connections should go elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unready {
    /// A drain is announced; until it begins everything goes on.
    #[error("a drain begins soon")]
    Leaving,
    /// New connections get 503, or are not accepted.
    #[error("the server drains")]
    Draining,
    /// A worker has ended, so that the others drain.
    #[error("a worker has ended")]
    WorkerEnded,
    /// New connections get 503.
    #[error("there are as many connections as --max-connections allows")]
    Full,
    /// New connections wait: no descriptors, no memory, or no place on a worker.
    #[error("accepting pauses")]
    AcceptPaused,
    /// A request that comes in pieces, or one for the page, gets 503.
    #[error("--unsent-total is used up")]
    Memory,
}

/// Why a server did not start or did not go on. Each message says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The engine asked for cannot run here.
    #[error("the engine {engine} cannot run here: {reason}; `--engine epoll` runs everywhere")]
    Engine {
        /// Which.
        engine: Engine,
        /// Why not, and what would cure it.
        reason: String,
    },
    /// An address cannot be listened at.
    #[error("cannot listen at {address}: {source}{}", bind_cure(address, source, option))]
    Bind {
        /// Where.
        address: Address,
        /// The option that asks for it.
        option: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// What the process was handed to listen at cannot be used.
    #[error("{what} {why}; a .socket unit that starts ringback has ListenStream= and Accept=no")]
    Inherited {
        /// Which descriptor or variable.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The kernel does not have this congestion control, or does not allow it.
    #[error(
        "cannot use the congestion control {name:?}: {source}; see /proc/sys/net/ipv4/tcp_allowed_congestion_control"
    )]
    CongestionControl {
        /// Which.
        name: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The process may not use a CPU that a worker is to run on.
    #[error("--cpus: CPU {cpu} is not there or not in the affinity mask; this process may use {usable}")]
    Cpu {
        /// Which.
        cpu: usize,
        /// Those that it may use.
        usable: CpuList,
    },
    /// The process may not open enough descriptors.
    #[error(
        "the limit of {limit} open files is too low: {needed} are needed{}; raise it with `ulimit -n {needed}` \
         (LimitNOFILE= under systemd){}",
        wanted.map(|wanted| format!(" for {wanted} connections")).unwrap_or_default(),
        if wanted.is_some() { " or lower --max-connections" } else { "" }
    )]
    Descriptors {
        /// RLIMIT_NOFILE.
        limit: usize,
        /// What would do.
        needed: usize,
        /// How many connections were asked for.
        wanted: Option<usize>,
    },
    /// The system refuses something that a server needs.
    #[error("cannot have {what}: {source}{}", refusal_cure(source))]
    Refused {
        /// What.
        what: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// A worker could not be set up, or failed later.
    #[error("a worker failed: {why}{cure}", why = .0, cure = refusal_cure(.0))]
    Worker(#[source] io::Error),
    /// A variable that is no option has a value that cannot be used.
    #[error(transparent)]
    Variable(#[from] BadVariable),
}

impl StartError {
    /// `what` a server needs, and why there is none.
    pub fn refused(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Refused { what: what.into(), source }
    }

    /// The exit code by `sysexits.h`.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        const USAGE: u8 = 64;
        const UNAVAILABLE: u8 = 69;
        const OS_ERROR: u8 = 71;
        const NO_PERMISSION: u8 = 77;
        match self {
            Self::Bind { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => NO_PERMISSION,
            Self::Bind { source, .. } if !refusal_cure(source).is_empty() => OS_ERROR,
            Self::Inherited { .. } | Self::Variable(_) | Self::Cpu { .. } => USAGE,
            Self::Engine { .. } | Self::Bind { .. } | Self::CongestionControl { .. } => UNAVAILABLE,
            Self::Descriptors { .. } | Self::Refused { .. } | Self::Worker(_) => OS_ERROR,
        }
    }
}

/// What to do where the system refuses a thread, a descriptor, memory or a system call.
fn refusal_cure(source: &io::Error) -> &'static str {
    match Errno::from_io_error(source) {
        Some(Errno::MFILE | Errno::NFILE) => {
            "; raise the limit of open files with `ulimit -n` (LimitNOFILE= under systemd)"
        }
        Some(Errno::AGAIN) => {
            "; raise the limit of threads with `ulimit -u` (TasksMax= under systemd, --pids-limit of a container) \
             or that of memory with `ulimit -v`, or take fewer --workers"
        }
        Some(Errno::NOMEM) => {
            "; raise the limit of memory with `ulimit -v` and `ulimit -l` (MemoryMax=, LimitMEMLOCK= under systemd), \
             or take fewer --workers"
        }
        Some(Errno::NOSPC) => "; raise fs.epoll.max_user_watches with `sysctl -w`",
        Some(Errno::PERM | Errno::NOSYS | Errno::ACCESS) => {
            "; a seccomp profile or a security module refuses it: allow it there"
        }
        _ => "",
    }
}

impl From<Hindrance> for StartError {
    fn from(Hindrance { engine, reason, .. }: Hindrance) -> Self {
        Self::Engine { engine, reason }
    }
}

fn bind_cure(address: &Address, source: &io::Error, option: &str) -> String {
    match (source.kind(), address) {
        (io::ErrorKind::AddrInUse, Address::Ip(_)) => {
            format!("; stop the server that has the port, or choose another with {option}")
        }
        (io::ErrorKind::AddrInUse, _) => {
            format!("; stop the server that has the socket, or choose another with {option}")
        }
        (io::ErrorKind::AlreadyExists, _) => {
            format!("; it is left alone: choose another path with {option}")
        }
        (io::ErrorKind::AddrNotAvailable, _) => {
            format!("; {option} takes an address of this machine, 0.0.0.0 or [::] for all")
        }
        (io::ErrorKind::PermissionDenied, Address::Ip(_)) => {
            "; ports under 1024 need CAP_NET_BIND_SERVICE, choose a higher one".into()
        }
        (io::ErrorKind::PermissionDenied, _) => "; choose a directory that the server may write to".into(),
        (io::ErrorKind::NotFound, _) => "; its directory has to be there".into(),
        _ => match (Errno::from_io_error(source), refusal_cure(source)) {
            (Some(Errno::NODEV), _) => "; `ip link` shows the interfaces and their numbers".into(),
            (Some(Errno::AFNOSUPPORT), _) => {
                format!("; the system has no IPv6: {option} takes an IPv4 address")
            }
            (_, "") => format!("; choose another address with {option}"),
            (_, cure) => cure.into(),
        },
    }
}
