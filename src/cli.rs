//! The command line, the environment and the configuration file.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::error::ErrorKind;
use clap::{Command, CommandFactory as _, FromArgMatches as _, Parser};

use crate::config::{Config, EngineChoice, KeepAliveConfig, RingConfig, values};
use crate::documents::Document;
use crate::settings::{Refusal, Settings};

/// `EX_USAGE` of sysexits.h: the exit code after a mistake of the user.
pub const USAGE: u8 = 64;
/// `EX_IOERR` of sysexits.h: the exit code where what was asked for cannot be written.
const UNWRITTEN: u8 = 74;

/// A strict, fast WebSocket echo server.
///
/// It answers every message with the same message. Each option can also be given as an environment variable or in a
/// configuration file.
#[derive(Debug, Parser)]
#[command(
    name = "ringback",
    version,
    max_term_width = 110,
    args_override_self = true,
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    task: Option<Task>,

    /// TOML file of options under these names; the environment and the command line stand above it
    #[arg(long, env = "RINGBACK_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Show the options in force, in the form of that file, with where each comes from, and end
    #[arg(long)]
    print_config: bool,

    /// Address to listen at; repeatable (comma-separated in the environment); port 0 takes a free port
    #[arg(
        long,
        env = "RINGBACK_LISTEN",
        value_name = "IP:PORT",
        value_delimiter = ',',
        default_value = "127.0.0.1:9001"
    )]
    listen: Vec<SocketAddr>,

    /// TCP congestion control of the connections, such as cubic [default: the system's]
    #[arg(long, env = "RINGBACK_CONGESTION_CONTROL", value_name = "NAME")]
    congestion_control: Option<String>,

    /// Path on which WebSocket is spoken
    #[arg(long, env = "RINGBACK_PATH", default_value = "/ws", value_parser = values::parse_path)]
    path: String,

    /// Origin that a browser's page may have, compared exactly; repeatable; others get 403 [default: any]
    #[arg(long, env = "RINGBACK_ALLOWED_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    allowed_origin: Vec<String>,

    /// How bytes are moved; `auto` takes the best one that the kernel allows
    #[arg(long, env = "RINGBACK_ENGINE", value_enum, default_value_t)]
    engine: EngineChoice,

    /// Time that a worker of the ring engine looks for work before it sleeps: less latency for a busy CPU
    #[arg(
        long,
        env = "RINGBACK_BUSY_POLL",
        value_name = "TIME",
        default_value = "0s",
        value_parser = humantime::parse_duration
    )]
    busy_poll: Duration,

    /// Number of worker threads [default: as many as the process may use CPUs]
    #[arg(long, env = "RINGBACK_WORKERS", value_name = "N", value_parser = values::parse_workers)]
    workers: Option<usize>,

    /// Leave it to the kernel on which CPU a worker runs
    #[arg(long, env = "RINGBACK_NO_PIN", value_parser = BoolishValueParser::new())]
    no_pin: bool,

    /// Size of the buffer that bulk is received into
    #[arg(
        long,
        env = "RINGBACK_RECEIVE_BUFFER_SIZE",
        value_name = "SIZE",
        default_value = "64KiB",
        value_parser = values::parse_receive_buffer_size
    )]
    receive_buffer_size: usize,

    /// Longest frame that is sure to come back as one; longer ones come back in fragments, as they arrive
    #[arg(
        long,
        env = "RINGBACK_WHOLE_FRAME_MAX",
        value_name = "SIZE",
        default_value = "64KiB",
        value_parser = values::parse_size
    )]
    whole_frame_max: u64,

    /// Longest message; a longer one gets Close(1009); 0 for no limit
    #[arg(
        long,
        env = "RINGBACK_MAX_MESSAGE_SIZE",
        value_name = "SIZE",
        default_value = "0",
        value_parser = values::parse_size
    )]
    max_message_size: u64,

    /// Most connections; further ones get 503 [default: what the limit of open files allows]
    #[arg(long, env = "RINGBACK_MAX_CONNECTIONS", value_name = "N", value_parser = values::parse_connections)]
    max_connections: Option<usize>,

    /// Time that a handshake may take; a slower one gets 408
    #[arg(
        long,
        env = "RINGBACK_HANDSHAKE_TIMEOUT",
        value_name = "TIME",
        default_value = "5s",
        value_parser = humantime::parse_duration
    )]
    handshake_timeout: Duration,

    /// Bytes that may wait to be sent on one connection before it is no longer read from
    #[arg(
        long,
        env = "RINGBACK_UNSENT_LIMIT",
        value_name = "SIZE",
        default_value = "16MiB",
        value_parser = values::parse_memory
    )]
    unsent_limit: usize,

    /// Bytes that may wait to be sent in the whole process
    #[arg(
        long,
        env = "RINGBACK_UNSENT_TOTAL",
        value_name = "SIZE",
        default_value = "256MiB",
        value_parser = values::parse_memory
    )]
    unsent_total: usize,

    /// Time that open connections have to end after SIGTERM or SIGINT
    #[arg(
        long,
        env = "RINGBACK_DRAIN_TIMEOUT",
        value_name = "TIME",
        default_value = "10s",
        value_parser = humantime::parse_duration
    )]
    drain_timeout: Duration,

    /// Form of the log on standard error; RUST_LOG sets what is logged
    #[arg(long, env = "RINGBACK_LOG_FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,

    #[command(flatten)]
    keep_alive: KeepAliveConfig,

    #[command(flatten)]
    ring: RingConfig,
}

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Task {
    /// Serve; what is done without a subcommand
    #[command(skip)]
    Serve,
    /// Say whether the best engine can run here with these options, and what would cure it; ends with 0 or 69
    Doctor,
    /// Write something for people or shells to read, and end
    #[command(flatten)]
    Write(Document),
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Reads the command line, the environment and the configuration file. `Err` has been said already: help, a document, the
/// options themselves, or a mistake.
///
/// # Errors
///
/// The exit code: 0 after what was asked for has been written, 64 after a mistake, 74 where it cannot be written.
pub fn parse() -> Result<(Task, Config, LogFormat), ExitCode> {
    let settings = Settings::read(command(), std::env::args_os()).map_err(refuse)?;
    let arguments = Arguments::from_arg_matches(settings.matches())
        .and_then(Arguments::checked)
        .map_err(|error| refuse(error.into()))?;
    if arguments.print_config {
        return Err(written(write!(io::stdout().lock(), "{settings}")));
    }
    match arguments.task.unwrap_or(Task::Serve) {
        Task::Write(document) => Err(written(document.write(command(), &mut io::stdout().lock()))),
        task => {
            let log_format = arguments.log_format;
            Ok((task, arguments.into(), log_format))
        }
    }
}

/// The definition of the options.
#[must_use]
pub fn command() -> Command {
    Arguments::command()
}

/// Says what is wrong, or the help that was asked for, and how to end.
fn refuse(refusal: Refusal) -> ExitCode {
    match refusal {
        Refusal::CommandLine(error) => {
            // Nothing can be done where standard error is closed.
            let _ = error.print();
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(USAGE),
            }
        }
        Refusal::File(mistake) => {
            eprintln!("ringback: {mistake}");
            ExitCode::from(USAGE)
        }
    }
}

/// How to end after writing to standard output.
fn written(result: io::Result<()>) -> ExitCode {
    match result.and_then(|()| io::stdout().flush()) {
        // Whoever reads only the beginning has what was asked for.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("ringback: standard output: {error}");
            ExitCode::from(UNWRITTEN)
        }
        _ => ExitCode::SUCCESS,
    }
}

impl Arguments {
    /// Checks what no option can say by itself.
    fn checked(self) -> Result<Self, clap::Error> {
        match (self.ring.submissions, self.ring.completions) {
            (Some(submissions), Some(completions)) if completions < submissions => {
                let message = "--ring-completions is no less than --ring-submissions";
                Err(Self::command().error(ErrorKind::ValueValidation, message))
            }
            _ => Ok(self),
        }
    }
}

impl From<Arguments> for Config {
    fn from(arguments: Arguments) -> Self {
        Self {
            listen: arguments.listen,
            congestion_control: arguments.congestion_control,
            path: arguments.path,
            allowed_origins: arguments.allowed_origin,
            engine: arguments.engine,
            busy_poll: arguments.busy_poll,
            workers: arguments.workers,
            pin: !arguments.no_pin,
            receive_buffer_size: arguments.receive_buffer_size,
            whole_frame_max: arguments.whole_frame_max,
            max_message_size: arguments.max_message_size,
            max_connections: arguments.max_connections,
            handshake_timeout: arguments.handshake_timeout,
            unsent_limit: arguments.unsent_limit,
            unsent_total: arguments.unsent_total,
            drain_timeout: arguments.drain_timeout,
            keep_alive: arguments.keep_alive,
            ring: arguments.ring,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_of_help_are_those_of_the_config() {
        let config = Config::from(Arguments::parse_from(["ringback"]));
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn every_option_has_its_variable() {
        let command = Arguments::command();
        // To ask for the result is for the command line.
        for argument in command.get_arguments().filter(|argument| *argument.get_id() != "print_config") {
            let name = argument.get_long().unwrap();
            let variable = format!("RINGBACK_{}", name.replace('-', "_").to_uppercase());
            assert_eq!(argument.get_env(), Some(variable.as_ref()), "--{name}");
        }
    }

    #[test]
    fn bad_values_are_refused() {
        for bad in [
            "--listen=localhost:9001",
            "--path=ws",
            "--path=/a?b",
            "--workers=0",
            "--receive-buffer-size=10",
            "--receive-buffer-size=1TiB",
            "--whole-frame-max=big",
            "--handshake-timeout=5",
            "--max-connections=0",
            "--engine=kqueue",
            "--ring-submissions=3",
            "--ring-completions=0",
            "--ring-buffers=65536",
            "--ring-buffer-size=10",
            "--ring-big-buffers=many",
            "--ring-files=0",
            "--keep-alive-interval=25",
            "--keep-alive-timeout=1ms",
            "--idle-timeout=1year",
        ] {
            assert!(Arguments::try_parse_from(["ringback", bad]).is_err(), "{bad}");
        }
        let too_few = ["ringback", "--ring-submissions=16", "--ring-completions=8"];
        assert!(Arguments::parse_from(too_few).checked().is_err());
        let good =
            Arguments::parse_from(["ringback", "--whole-frame-max=1MiB", "--listen=[::1]:0,127.0.0.1:0"]);
        assert_eq!((good.whole_frame_max, good.listen.len()), (1 << 20, 2));
    }

    #[test]
    fn options_stand_before_the_task() {
        let parse = |arguments: &[&str]| Arguments::try_parse_from([&["ringback"], arguments].concat());
        assert_eq!(parse(&["--workers=3"]).unwrap().task, None);
        let doctor = parse(&["--workers=3", "doctor"]).unwrap();
        assert_eq!((doctor.task, doctor.workers), (Some(Task::Doctor), Some(3)));
        for bad in [&["doctor", "--workers=3"][..], &["surgeon"], &["serve"], &["help"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
