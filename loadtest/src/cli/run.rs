//! How long, by what, and from where.

use std::time::Duration;

use ringback::engine;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::cpu;
use crate::engine::{Engine, places};
use crate::procfs::Process;
use crate::run::{Failure, NO_CONGESTION};

/// The options of a run, whatever it sends.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Run")]
pub(crate) struct RunArgs {
    /// Threads, at most one a connection [default: one for each core of --pin, else 1]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,

    /// How long messages are counted, for example 10s or 500ms
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    pub(super) duration: Duration,

    /// Load before that: checked, not counted
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_time)]
    pub(super) warmup: Duration,

    /// How long all connections together may take to open; with --churn, the first ones
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    pub(super) connect_timeout: Duration,

    /// How long the last echoes may take, and after them the close handshakes
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_time)]
    pub(super) grace: Duration,

    /// The server's process: its CPU time and memory are reported
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,

    /// Cores for the threads, in turn
    #[arg(long, value_name = "CORE", value_delimiter = ',')]
    pub(super) pin: Vec<usize>,

    /// How bytes are moved
    #[arg(long, value_enum, default_value_t = EngineChoice::Auto, env = "LOADTEST_ENGINE")]
    engine: EngineChoice,

    /// Look for echoes without ever sleeping: no wake-up of the generator is in the latency, and its cores are busy
    #[arg(long)]
    pub(super) spin: bool,

    /// TCP congestion control of the connections [default: cubic where there is, since BBR paces on loopback too]
    #[arg(long, visible_alias = "congestion-control", value_name = "NAME")]
    congestion: Option<String>,
}

/// How bytes are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum EngineChoice {
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
        if self.duration.is_zero() {
            return Err(Failure::Usage("--duration must be longer than 0".into()));
        }
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
        if self.engine == EngineChoice::Epoll {
            return Ok(Engine::Epoll);
        }
        match engine::ring::check() {
            Ok(()) => Ok(Engine::Ring),
            Err(why) if self.engine == EngineChoice::Ring => {
                Err(Failure::Unavailable(format!("--engine ring: {why}")))
            }
            Err(why) => {
                eprintln!("loadtest: the ring engine is not used: {why}");
                Ok(Engine::Epoll)
            }
        }
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
                    " (ulimit -Hn) for the table of each thread: use more --threads",
                )
            }
            Engine::Epoll => (connections + threads * FILES_PER_THREAD + FILES_ELSE, " (ulimit -Hn)"),
        };
        let limit = getrlimit(Resource::Nofile);
        if limit.current.is_none_or(|current| current >= needed) {
            return Ok(());
        }
        if let Some(maximum) = limit.maximum
            && maximum < needed
        {
            return Err(Failure::Usage(format!(
                "{needed} files would be open and the limit is {maximum}{cure}"
            )));
        }
        let raised = Rlimit { current: Some(needed), maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).map_err(|error| {
            Failure::Usage(format!("cannot raise the limit of open files to {needed}: {error}"))
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
                .map_err(|error| Failure::Unavailable(format!("cannot make a socket: {error}")))?,
        };
        Ok(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
    }
}

/// What waits for events, what wakes it, and a socket on its way.
const FILES_PER_THREAD: u64 = 4;

/// The standard streams, and what reads /proc.
const FILES_ELSE: u64 = 16;

/// Reads a time, a year at most: nobody waits longer, and times can be added.
pub(super) fn parse_time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time <= TIME_MAX => Ok(time),
        Ok(_) => Err("at most a year".into()),
        Err(error) => Err(error.to_string()),
    }
}

const TIME_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

const CUBIC: &str = "cubic";

const CONGESTION_CURE: &str = "`sysctl net.ipv4.tcp_available_congestion_control` has the names, tcp_allowed_congestion_control those for users";
