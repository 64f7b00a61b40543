//! How long, by what, and from where.

use std::time::Duration;

use clap::ValueEnum as _;
use ringback::engine;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::value;
use crate::cpu;
use crate::engine::{Engine, places};
use crate::procfs::Process;
use crate::run::{Failure, NO_CONGESTION};

/// The options of a run, whatever it sends.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Run")]
pub(crate) struct RunArgs {
    /// Threads, 1 to 1024, at most one a connection [default: one for each core of --pin, else 1]
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true, value_parser = value::count(THREADS_MAX))]
    threads: Option<u32>,

    /// How long messages are counted, for example 10s or 500ms; this and other times are at most 365days
    #[arg(short, long, value_name = "TIME", default_value = "10s", allow_hyphen_values = true,
        value_parser = value::time_above_zero)]
    pub(super) duration: Duration,

    /// Load before that: checked, not counted
    #[arg(long, value_name = "TIME", default_value = "1s", allow_hyphen_values = true, value_parser = value::time)]
    pub(super) warmup: Duration,

    /// How long all connections together may take to open; with --churn, the first ones; 1ms or more
    #[arg(long, value_name = "TIME", default_value = "10s", allow_hyphen_values = true,
        value_parser = value::time_above_zero)]
    pub(super) connect_timeout: Duration,

    /// How long the last echoes may take, and after them the close handshakes; 1ms or more
    #[arg(long, value_name = "TIME", default_value = "2s", allow_hyphen_values = true,
        value_parser = value::time_above_zero)]
    pub(super) grace: Duration,

    /// The server's process: its CPU time and memory are reported
    #[arg(long, value_name = "PID", allow_hyphen_values = true, value_parser = value::count(PID_MAX))]
    server_pid: Option<u32>,

    /// Cores for the threads, in turn
    #[arg(long, value_name = "CORE", value_delimiter = ',')]
    pub(super) pin: Vec<usize>,

    /// How bytes are moved [env: LOADTEST_ENGINE] [default: auto]
    #[arg(long, value_enum)]
    engine: Option<EngineChoice>,

    /// Look for echoes without ever sleeping: no wake-up of the generator is in the latency, and its cores are busy
    #[arg(long)]
    pub(super) spin: bool,

    /// TCP congestion control of the connections [default: cubic where there is, since BBR paces on loopback too]
    #[arg(long, visible_alias = "congestion-control", value_name = "NAME")]
    congestion: Option<String>,
}

/// How bytes are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum EngineChoice {
    /// By io_uring where it can be used, else by epoll
    Auto,
    /// By io_uring, as ringback's own engine does
    Ring,
    /// By epoll
    Epoll,
}

impl RunArgs {
    /// Whether it can be at all, with so many connections.
    ///
    /// # Errors
    ///
    /// That it cannot, in one line; as all below.
    pub(super) fn check(&self, connections: u32) -> Result<(), Failure> {
        if let Some(threads) = self.threads.filter(|&threads| threads > connections) {
            let told = format!("--threads {threads} is more than --connections {connections}");
            return Err(Failure::Usage(told));
        }
        for &core in &self.pin {
            match cpu::may_run_on(core) {
                Ok(true) => {}
                Ok(false) => {
                    return Err(Failure::Usage(format!("--pin {core}: there is no such core for us")));
                }
                Err(error) => return Err(Failure::Usage(format!("--pin {core}: {error}"))),
            }
        }
        Ok(())
    }

    /// How many threads there are.
    pub(super) fn threads(&self, connections: u32) -> u32 {
        let cores = u32::try_from(self.pin.len()).unwrap_or(u32::MAX);
        self.threads.unwrap_or_else(|| cores.clamp(1, connections))
    }

    /// The server's process, where it is named.
    pub(super) fn server(&self) -> Result<Option<Process>, Failure> {
        let Some(pid) = self.server_pid else {
            return Ok(None);
        };
        Process::new(pid)
            .and_then(|process| process.usage().map(|_| Some(process)))
            .map_err(|error| Failure::Usage(format!("--server-pid {pid}: {error}")))
    }

    /// How bytes are moved: as asked for, or as it can be.
    pub(super) fn engine(&self) -> Result<Engine, Failure> {
        let choice = self.engine.map_or_else(engine_of_environment, Ok)?;
        if choice == EngineChoice::Epoll {
            return Ok(Engine::Epoll);
        }
        match engine::ring::check() {
            Ok(()) => Ok(Engine::Ring),
            Err(why) if choice == EngineChoice::Ring => {
                Err(Failure::Unavailable(format!("--engine ring: {why}")))
            }
            Err(why) => {
                say!("loadtest: the ring engine is not used: {why}");
                Ok(Engine::Epoll)
            }
        }
    }

    /// Tries to allocate about as much memory as the run takes. An allocation that fails later aborts the process.
    pub(super) fn check_memory(&self, connections: u32, messages: usize) -> Result<(), Failure> {
        let threads = usize::try_from(self.threads(connections)).unwrap_or(usize::MAX);
        let connections = usize::try_from(connections).unwrap_or(usize::MAX);
        let needed =
            [threads.saturating_mul(MEMORY_PER_THREAD), connections.saturating_mul(MEMORY_PER_CONNECTION)]
                .into_iter()
                .fold(messages.saturating_add(MEMORY_ELSE), usize::saturating_add);
        Vec::<u8>::new().try_reserve_exact(needed).map_err(|_| {
            Failure::System(format!(
                "the system has no {} of memory for us: raise the limit (ulimit -v), or use fewer --connections, fewer \
                 --threads or a smaller --size",
                bytesize::ByteSize(needed as u64)
            ))
        })
    }

    /// Raises the limit of open files as far as it is needed. On a ring connections are no files of the process, but the
    /// limit bounds the table of each.
    pub(super) fn allow_files(&self, engine: Engine, connections: u32) -> Result<(), Failure> {
        let (connections, threads) = (u64::from(connections), u64::from(self.threads(connections)));
        let (needed, cure) = match engine {
            Engine::Ring => {
                let places =
                    places(usize::try_from(connections.div_ceil(threads)).unwrap_or(usize::MAX)) as u64;
                (
                    places.max(threads * FILES_PER_THREAD + FILES_ELSE),
                    " (ulimit -Hn) for the table of each thread: use fewer --connections, more --threads",
                )
            }
            Engine::Epoll => (
                connections + threads * FILES_PER_THREAD + FILES_ELSE,
                " (ulimit -Hn): use fewer --connections",
            ),
        };
        let limit = getrlimit(Resource::Nofile);
        if limit.current.is_none_or(|current| current >= needed) {
            return Ok(());
        }
        if let Some(maximum) = limit.maximum
            && maximum < needed
        {
            return Err(Failure::System(format!(
                "{needed} files would be open and the limit is {maximum}{cure}, or raise it"
            )));
        }
        let raised = Rlimit { current: Some(needed), maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).map_err(|error| {
            Failure::System(format!(
                "cannot raise the limit of open files to {needed}: {error}; raise it (ulimit -n)"
            ))
        })
    }

    /// The congestion control to set: the one that was asked for, tried on a socket, or cubic where it can be set, or
    /// what the system sets; none where there is no TCP.
    pub(super) fn congestion(&self, address: &SockAddr) -> Result<String, Failure> {
        let asked = self.congestion.as_deref();
        if address.is_unix() {
            return match asked {
                None => Ok(NO_CONGESTION.into()),
                Some(_) => Err(Failure::Usage(
                    "--congestion is for TCP, and a unix: target is not reached by it".into(),
                )),
            };
        }
        let probe = |name: Option<&str>| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            name.map_or(Ok(()), |name| socket.set_tcp_congestion(name.as_bytes()))?;
            socket.tcp_congestion()
        };
        let name = match asked {
            Some(name) => {
                let cannot =
                    |error| Failure::Usage(format!("--congestion {name}: {error}; {CONGESTION_CURE}"));
                probe(asked).map_err(cannot)?
            }
            None => probe(Some(CUBIC))
                .or_else(|_| probe(None))
                .map_err(|error| Failure::refused("make a socket", &error, "are sockets allowed here?"))?,
        };
        Ok(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
    }
}

/// In bytes, roughly: buffers and histograms, what a connection keeps, and all else.
const MEMORY_PER_THREAD: usize = 8 << 20;
const MEMORY_PER_CONNECTION: usize = 1 << 10;
const MEMORY_ELSE: usize = 8 << 20;

/// What waits for events, what wakes it, and a socket on its way.
const FILES_PER_THREAD: u64 = 4;

/// The standard streams, and what reads /proc.
const FILES_ELSE: u64 = 16;

/// What the environment says of the engine; an empty variable says nothing.
pub(super) fn engine_of_environment() -> Result<EngineChoice, Failure> {
    match std::env::var_os(ENGINE_VARIABLE).filter(|value| !value.is_empty()) {
        None => Ok(EngineChoice::Auto),
        Some(value) => {
            value.to_str().and_then(|value| EngineChoice::from_str(value, false).ok()).ok_or_else(|| {
                let value = value.to_string_lossy();
                Failure::Usage(format!(
                    "{ENGINE_VARIABLE}={value}: auto, ring or epoll is needed, or nothing"
                ))
            })
        }
    }
}

/// The variable of `--engine`.
pub(super) const ENGINE_VARIABLE: &str = "LOADTEST_ENGINE";

const THREADS_MAX: u32 = 1024;

/// Linux has no greater ones (PID_MAX_LIMIT).
const PID_MAX: u32 = 1 << 22;

const CUBIC: &str = "cubic";

const CONGESTION_CURE: &str = "`sysctl net.ipv4.tcp_available_congestion_control` has the names, tcp_allowed_congestion_control those for users";
