//! The command line.

mod connection;
mod output;
mod pace;
mod traffic;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use ringback::engine;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::EXIT_USAGE;
use crate::cpu;
use crate::engine::{Engine, places};
use crate::procfs::Process;
use crate::run::{Failure, NO_CONGESTION, Plan};
use crate::target::Target;
use crate::{compare, demo, merge};
use connection::ConnectionArgs;
use output::OutputArgs;
use pace::PaceArgs;
use traffic::TrafficArgs;

/// Load a WebSocket server that echoes, and check every byte of every echo.
///
/// Closed loop: each connection keeps as many messages in flight as --depth says, or, with --churn, makes room for the
/// next one after a single message. A tcp:// target gets the same frames
/// and has to send the same bytes back: the cost of the network alone.
///
/// Exit status: 0 all is well, 1 an echo or a connection was wrong or a condition of --fail-if is so, 64 usage, 69 the
/// server cannot be reached, 74 a result cannot be written.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    load: Args,
}

/// What is to be done.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Load one server; that is what is done without a word
    #[command(skip)]
    Load(Box<Args>),
    /// Start servers, visit them in turn, and tell what a message costs each of them
    Compare(Box<compare::Args>),
    /// Compare ringback with a common server for 20 seconds
    Demo(demo::Args),
    /// Put the histograms of several runs together
    Merge(merge::Args),
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

/// The load and its options.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// `ws://HOST[:PORT][/PATH]` or `unix:SOCKET[:/PATH]` for a WebSocket server, `tcp://HOST:PORT` for one that
    /// echoes bytes
    #[arg(required = true)]
    url: Option<Target>,

    /// Connections at a time, over all threads
    #[arg(short, long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,

    #[command(flatten)]
    pace: PaceArgs,

    #[command(flatten)]
    traffic: TrafficArgs,

    #[command(flatten)]
    connection: ConnectionArgs,

    /// Threads, at most one a connection
    #[arg(long, help_heading = "Run", value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,

    /// How long messages are counted, for example 10s or 500ms
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,

    /// Load before that: checked, not counted
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    warmup: Duration,

    /// How long all connections together may take to open; with --churn, the first ones
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    connect_timeout: Duration,

    /// How long the last echoes may take, and after them the close handshakes
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    grace: Duration,

    /// The server's process: its CPU time and memory are reported
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,

    /// Cores for the threads, in turn
    #[arg(long, value_name = "CORE", value_delimiter = ',')]
    pin: Vec<usize>,

    /// How bytes are moved
    #[arg(long, value_enum, default_value_t = EngineChoice::Auto, env = "LOADTEST_ENGINE")]
    engine: EngineChoice,

    /// Look for echoes without ever sleeping: no wake-up of the generator is in the latency, and its cores are busy
    #[arg(long)]
    spin: bool,

    /// TCP congestion control of the connections [default: cubic where there is, since BBR paces on loopback too]
    #[arg(long, value_name = "NAME")]
    congestion: Option<String>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl Command {
    /// Reads the command line. On a mistake, which is told in one line, or after the help: the exit code.
    pub(crate) fn read() -> Result<Self, ExitCode> {
        CommandLine::try_parse().map(CommandLine::what).map_err(|error| {
            if !error.use_stderr() {
                // The help or the version; nobody is left to tell when stdout is closed.
                let _ = error.print();
                return ExitCode::SUCCESS;
            }
            eprintln!("loadtest: {} (--help tells more)", one_line(&error.to_string()));
            ExitCode::from(EXIT_USAGE)
        })
    }
}

impl CommandLine {
    /// What is to be done: without a word for it, a load.
    fn what(self) -> Command {
        self.command.unwrap_or_else(|| Command::Load(Box::new(self.load)))
    }
}

impl Args {
    /// As [`Self::plan`], with so many messages due in a second.
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) fn plan_at(&self, rate: f64) -> Result<Plan, Failure> {
        let mut args = self.clone();
        args.pace.rate = Some(rate);
        args.plan()
    }

    /// Settles what the run does: looks up names and processes, tries options on the system.
    ///
    /// # Errors
    ///
    /// What cannot be, in one line.
    pub(crate) fn plan(&self) -> Result<Plan, Failure> {
        if self.duration.is_zero() {
            return Err(Failure::Usage("--duration must be longer than 0".into()));
        }
        if self.threads > self.connections {
            return Err(Failure::Usage(format!(
                "--threads {} is more than --connections {}",
                self.threads, self.connections
            )));
        }
        check_cores(&self.pin)?;
        let engine = self.engine()?;
        self.allow_files(engine)?;
        let server = match self.server_pid {
            None => None,
            Some(pid) => Some(
                Process::new(pid)
                    .and_then(|process| process.usage().map(|_| process))
                    .map_err(|error| Failure::Usage(format!("--server-pid {pid}: {error}")))?,
            ),
        };
        // Nothing but a subcommand makes do without one.
        let target = self.url.clone().ok_or_else(|| Failure::Usage("there is no target".into()))?;
        let address = target
            .resolve()
            .map_err(|error| Failure::Unavailable(format!("cannot resolve {target}: {error}")))?;
        let seed = fastrand::u64(..);
        Ok(Plan {
            sources: self.connection.sources(&address, self.connections as usize)?,
            request: self.connection.request(&target, self.pace.pace().is_churn())?,
            congestion: congestion(self.congestion.as_deref(), &address)?,
            target,
            address,
            traffic: if self.pace.idle { TrafficArgs::pings(seed) } else { self.traffic.traffic(seed)? },
            pace: self.pace.pace(),
            ramp: self.pace.ramp,
            engine,
            connections: self.connections as usize,
            threads: self.threads as usize,
            cores: self.pin.clone(),
            spin: self.spin,
            warmup: self.warmup,
            duration: self.duration,
            grace: self.grace,
            connect_timeout: self.connect_timeout,
            server,
            seed,
        })
    }
}

impl Args {
    /// How bytes are moved: as asked for, or as it can be.
    fn engine(&self) -> Result<Engine, Failure> {
        match (self.engine, engine::ring::check()) {
            (EngineChoice::Epoll, _) => Ok(Engine::Epoll),
            (_, Ok(())) => Ok(Engine::Ring),
            (EngineChoice::Ring, Err(why)) => Err(Failure::Unavailable(format!("--engine ring: {why}"))),
            (EngineChoice::Auto, Err(why)) => {
                eprintln!("loadtest: the ring engine is not used: {why}");
                Ok(Engine::Epoll)
            }
        }
    }

    /// Raises the limit of open files as far as it is needed. On a ring connections are no files of the process, but the
    /// limit bounds the table of each.
    fn allow_files(&self, engine: Engine) -> Result<(), Failure> {
        let (connections, threads) = (u64::from(self.connections), u64::from(self.threads));
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
}

/// What waits for events, what wakes it, and a socket on its way.
const FILES_PER_THREAD: u64 = 4;

/// The standard streams, and what reads /proc.
const FILES_ELSE: u64 = 16;

/// A message of clap without its usage and hints.
fn one_line(message: &str) -> String {
    let lines: Vec<_> = message.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    lines.join(" ").trim_start_matches("error: ").to_owned()
}

fn check_cores(cores: &[usize]) -> Result<(), Failure> {
    for &core in cores {
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

/// The congestion control to set: the one that was asked for, tried on a socket, or cubic where it can be set, or
/// what the system sets; none where there is no TCP.
fn congestion(asked: Option<&str>, address: &SockAddr) -> Result<String, Failure> {
    if address.is_unix() {
        return match asked {
            None => Ok(NO_CONGESTION.into()),
            Some(_) => {
                Err(Failure::Usage("--congestion is for TCP, and a unix: target is not reached by it".into()))
            }
        };
    }
    let probe = |name: Option<&str>| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        name.map_or(Ok(()), |name| socket.set_tcp_congestion(name.as_bytes()))?;
        socket.tcp_congestion()
    };
    let name = match asked {
        Some(name) => {
            probe(asked).map_err(|error| Failure::Usage(format!("--congestion {name}: {error}")))?
        }
        None => probe(Some(CUBIC))
            .or_else(|_| probe(None))
            .map_err(|error| Failure::Unavailable(format!("cannot make a socket: {error}")))?,
    };
    Ok(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
}

const CUBIC: &str = "cubic";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn mistakes_are_told_in_one_line() {
        for line in [
            &["loadtest"][..],
            &["loadtest", "http://h/"],
            &["loadtest", "ws://h/", "-c", "0"],
            &["loadtest", "ws://h/", "--size", "x"],
            &["loadtest", "ws://h/", "-d", "10"],
            &["loadtest", "ws://h/", "--kind", "json"],
            &["loadtest", "ws://h/", "--dpeth", "1"],
        ] {
            let error = CommandLine::try_parse_from(line).expect_err("a mistake").to_string();
            let told = one_line(&error);
            assert!(told.len() > 20 && !told.contains('\n') && !told.starts_with("error"), "{told}");
        }
    }
}
