//! The command line.

mod connection;
mod environment;
mod output;
mod pace;
mod run;
mod traffic;
pub(crate) mod value;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use crate::failure::{EXIT_USAGE, error_json};
use crate::run::{Failure, Plan};
use crate::target::Target;
use crate::{compare, demo, merge};
use connection::ConnectionArgs;
pub(crate) use environment::check_environment;
use output::OutputArgs;
use pace::PaceArgs;
pub(crate) use pace::{DEPTH_MAX, parse_rate};
use run::RunArgs;
use traffic::TrafficArgs;

/// Load a WebSocket server that echoes, and check every byte of every echo.
///
/// Without --rate in a closed loop: each connection keeps as many messages in flight as --depth says. A tcp:// target gets
/// the same frames and has to send the same bytes back: the cost of the network alone.
///
/// Exit status: 0 all is well, 1 an echo or a connection was wrong or a condition of --fail-if is so, 64 usage, 69 the
/// server cannot be reached, 71 the system refuses a thread, a file or memory, 74 a result cannot be written; 129, 130, 131,
/// 143 or 152 where SIGHUP, SIGINT, SIGQUIT, SIGTERM or SIGXCPU has ended the run.
///
/// Signals: the first of these ends the window early, and the program reports what it has; a second one, but SIGXCPU, ends it at
/// once. The others that would end it are ignored, such as SIGUSR1, SIGUSR2 and SIGALRM.
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

/// The load and its options.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// `ws://HOST[:PORT][/PATH]` or `unix:SOCKET[:/PATH]` for a WebSocket server, `tcp://HOST:PORT` for one that
    /// echoes bytes
    #[arg(required = true)]
    url: Option<Target>,

    /// Connections at a time, over all threads, 1 to 16777216
    #[arg(short, long, value_name = "COUNT", default_value_t = 64, allow_hyphen_values = true,
        value_parser = value::count(CONNECTIONS_MAX))]
    connections: u32,

    #[command(flatten)]
    pace: PaceArgs,

    #[command(flatten)]
    traffic: TrafficArgs,

    #[command(flatten)]
    connection: ConnectionArgs,

    #[command(flatten)]
    run: RunArgs,

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
            let told = one_line(&error.to_string());
            say!("loadtest: {told} (--help tells more)");
            if asks_for_json(std::env::args_os()) {
                // Nobody is left to tell when it cannot be printed.
                let _ = crate::print(&error_json(&told, EXIT_USAGE));
            }
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
        let run = &self.run;
        run.check(self.connections)?;
        let engine = run.engine()?;
        run.allow_files(engine, self.connections)?;
        run.check_memory(self.connections, self.traffic.bytes())?;
        let server = run.server()?;
        // Nothing but a subcommand makes do without one.
        let target = self.url.clone().ok_or_else(|| Failure::Usage("there is no target".into()))?;
        let found = target
            .resolve()
            .map_err(|error| Failure::Unavailable(format!("cannot resolve {target}: {error}")))?;
        let addresses = self.connection.addresses(&target, found)?;
        let pace = self.pace.pace();
        let seed = fastrand::u64(..);
        Ok(Plan {
            sources: self.connection.sources(&addresses, self.connections as usize)?,
            request: self.connection.request(&target, pace.is_churn())?,
            congestion: run.congestion(addresses.get(0))?,
            reconnect: self.connection.reconnect,
            file: self.traffic.file(),
            target,
            addresses,
            traffic: if self.pace.idle { TrafficArgs::pings(seed) } else { self.traffic.traffic(seed)? },
            pace,
            ramp: self.pace.ramp,
            engine,
            connections: self.connections as usize,
            threads: run.threads(self.connections) as usize,
            cores: run.pin.clone(),
            spin: run.spin,
            warmup: run.warmup,
            duration: run.duration,
            grace: run.grace,
            connect_timeout: run.connect_timeout,
            server,
            seed,
        })
    }
}

#[cfg(test)]
impl Args {
    /// Those of a load with this command line.
    pub(crate) fn of(line: &[&str]) -> Self {
        let line = ["loadtest"].iter().chain(line);
        let Command::Load(args) = CommandLine::try_parse_from(line).expect("it is right").what() else {
            panic!("another command");
        };
        *args
    }
}

/// Whether a command line that cannot be read asks for JSON on standard output.
fn asks_for_json(words: impl Iterator<Item = OsString>) -> bool {
    let mut words = words.skip(1).take_while(|word| word != "--").peekable();
    // There, it is a file's.
    let has_file = words.peek().is_some_and(|word| word == "compare");
    !has_file && words.any(|word| word == "--json")
}

/// The most connections: 2^24, more than any machine has ports and memory for.
const CONNECTIONS_MAX: u32 = 1 << 24;

/// A message of clap without its usage, and with its hint if it has one.
fn one_line(message: &str) -> String {
    let lines: Vec<_> = message.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let hint = message.lines().find_map(|line| line.trim().strip_prefix("tip: "));
    let hint = hint.map_or_else(String::new, |hint| format!("; {hint}"));
    format!("{}{hint}", lines.join(" ").trim_start_matches("error: "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn who_asks_for_json_gets_errors_so() {
        let asks = |line: &str| asks_for_json(line.split(' ').map(OsString::from));
        assert!(asks("loadtest ws://h/ --json -c 0") && asks("loadtest merge --json"));
        for line in ["loadtest ws://h/ -c 0", "loadtest compare --json x", "loadtest -- --json"] {
            assert!(!asks(line), "{line}");
        }
    }

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
        let error = CommandLine::try_parse_from(["loadtest", "ws://h/", "--dpeth", "1"]).expect_err("a slip");
        let told = one_line(&error.to_string());
        assert_eq!(told, "unexpected argument '--dpeth' found; a similar argument exists: '--depth'");
    }
}
