//! The command line, the environment and the configuration file.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr as _;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory as _, FromArgMatches as _, Parser, ValueEnum as _};

use crate::config::{
    AccessConfig, AdminConfig, Config, CpuList, DrainConfig, EngineChoice, HeadConfig, KeepAliveConfig,
    ListeningConfig, RingConfig, values,
};
use crate::documents::Document;
use crate::logging::{self, LogFormat, complain};
use crate::settings::{self, Refusal, Settings};
use crate::variables::{self, BadVariable};

/// `EX_USAGE` of sysexits.h: the exit code after a mistake of the user.
pub const USAGE: u8 = 64;
/// `EX_IOERR` of sysexits.h: the exit code where what was asked for cannot be written.
const UNWRITTEN: u8 = 74;

/// A strict, fast WebSocket echo server.
///
/// It answers every message with the same message. Each option can also be given as an environment variable or in a
/// configuration file.
#[derive(Debug, Parser)]
#[command(name = "ringback", version, max_term_width = 110, args_override_self = true)]
struct Arguments {
    #[command(subcommand)]
    task: Option<Task>,

    /// TOML file of options under these names; the environment and the command line stand above it
    #[arg(long, env = "RINGBACK_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Show the options in force, in the form of that file, with where each comes from, and end
    #[arg(long)]
    print_config: bool,

    #[command(flatten)]
    listening: ListeningConfig,

    #[command(flatten)]
    access: AccessConfig,

    #[command(flatten)]
    head: HeadConfig,

    /// How bytes are moved; `auto` takes the best one that the kernel allows
    #[arg(long, env = "RINGBACK_ENGINE", value_enum, default_value_t)]
    engine: EngineChoice,

    /// Time that a worker of the ring engine looks for work before it sleeps, 1us to 1m: less latency for a busy CPU;
    /// 0s to sleep at once
    #[arg(
        long,
        env = "RINGBACK_BUSY_POLL",
        value_name = "TIME",
        default_value = "0s",
        value_parser = values::time_or_zero(Duration::from_micros(1)..=values::MINUTE, "to sleep at once")
    )]
    busy_poll: Duration,

    /// Number of worker threads, 1 to 1024 [default: one for each CPU that the process may use]
    #[arg(long, env = "RINGBACK_WORKERS", value_name = "N", value_parser = values::count::<usize>(1..=1024))]
    workers: Option<usize>,

    /// CPUs for the workers, such as 0,2-3; one worker on each, or all on all with another number of --workers [default: those
    /// of the process]
    #[arg(long, env = "RINGBACK_CPUS", value_name = "LIST", value_parser = CpuList::from_str)]
    cpus: Option<CpuList>,

    /// Leave it to the kernel on which CPU a worker runs
    #[arg(long, env = "RINGBACK_NO_PIN", value_parser = values::parse_flag)]
    no_pin: bool,

    /// Size of the buffer that bulk is received into, 1KiB to 16MiB; on epoll it is 256KiB at least
    #[arg(
        long,
        env = "RINGBACK_RECEIVE_BUFFER_SIZE",
        value_name = "SIZE",
        default_value = "64KiB",
        value_parser = values::memory(values::KIB..=16 * values::MIB)
    )]
    receive_buffer_size: usize,

    /// Longest frame that is put together to be echoed as one, 1 to 1TiB; a longer one that comes in pieces goes back in
    /// fragments; 0 to put none together
    #[arg(
        long,
        env = "RINGBACK_WHOLE_FRAME_MAX",
        value_name = "SIZE",
        default_value = "64KiB",
        value_parser = values::size_or_zero(1..=values::TIB, "to put none together")
    )]
    whole_frame_max: u64,

    /// Longest message, 1 to 1EiB; a longer one gets Close(1009); 0 for no limit
    #[arg(
        long,
        env = "RINGBACK_MAX_MESSAGE_SIZE",
        value_name = "SIZE",
        default_value = "0",
        value_parser = values::size_or_zero(1..=values::EIB, "for no limit")
    )]
    max_message_size: u64,

    /// Most connections of the process, 1 to 2147483647; further ones get 503 [default: what `ulimit -n` allows; on the ring engine, where
    /// they take no descriptor, that many for each worker, 65,520 at most]
    #[arg(long, env = "RINGBACK_MAX_CONNECTIONS", value_name = "N", value_parser = values::count::<usize>(1..=values::CONNECTIONS_MAX))]
    max_connections: Option<usize>,

    /// Time that a handshake may take, 1ms to 1h; a slower one gets 408
    #[arg(
        long,
        env = "RINGBACK_HANDSHAKE_TIMEOUT",
        value_name = "TIME",
        default_value = "5s",
        value_parser = values::time(values::MILLISECOND..=values::HOUR)
    )]
    handshake_timeout: Duration,

    /// Bytes that may wait to be sent on one connection before it is no longer read from, 1KiB to 1TiB
    #[arg(
        long,
        env = "RINGBACK_UNSENT_LIMIT",
        value_name = "SIZE",
        default_value = "16MiB",
        value_parser = values::memory(values::KIB..=values::TIB)
    )]
    unsent_limit: usize,

    /// Bytes that may wait to be sent in the whole process, 64KiB to 1TiB
    #[arg(
        long,
        env = "RINGBACK_UNSENT_TOTAL",
        value_name = "SIZE",
        default_value = "256MiB",
        value_parser = values::memory(64 * values::KIB..=values::TIB)
    )]
    unsent_total: usize,

    /// Time that a client may take nothing of the last bytes it is sent, before it is cut, 10ms to 7days; 0s for ever
    #[arg(
        long,
        env = "RINGBACK_FLUSH_TIMEOUT",
        value_name = "TIME",
        default_value = "10s",
        value_parser = values::time_or_zero(values::SILENCE, "for ever")
    )]
    flush_timeout: Duration,

    #[command(flatten)]
    drain: DrainConfig,

    /// Form of the log on standard error; RUST_LOG sets what is logged
    #[arg(long, env = "RINGBACK_LOG_FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,

    #[command(flatten)]
    admin: AdminConfig,

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
    /// Say whether the best engine can run here with these options, and what would cure it; ends with the code of the server's start, or with 69
    /// where the ring engine cannot run and no other is asked for
    Doctor,
    /// Write something for people or shells to read, and end
    #[command(flatten)]
    Write(Document),
}

/// Reads the command line, the environment and the configuration file. `Err` has been said already: help, a document, the
/// options themselves, or a mistake.
///
/// # Errors
///
/// The exit code: 0 after what was asked for has been written, 64 after a mistake, 74 where it cannot be written.
pub fn parse() -> Result<(Task, Config, LogFormat), ExitCode> {
    let refuse = |refusal| refuse(refusal, asked_log_format());
    let settings = Settings::read(command(), std::env::args_os()).map_err(refuse)?;
    let mut arguments =
        Arguments::from_arg_matches(settings.matches()).map_err(|error| refuse(error.into()))?;
    arguments.listening.is_asked_for = settings.is_given("listen");
    let (is_shown, task, log_format) = (arguments.print_config, arguments.task, arguments.log_format);
    let config = Config::from(arguments);
    let checked = config.check(|name| settings.is_given(name));
    checked.map_err(|contradiction| self::refuse(settings.refuse(contradiction), log_format))?;
    if is_shown {
        if let Err(bad) = check_variables() {
            complain(log_format, USAGE, bad);
            return Err(ExitCode::from(USAGE));
        }
        return Err(written(write!(io::stdout().lock(), "{settings}"), log_format));
    }
    match task.unwrap_or(Task::Serve) {
        Task::Write(document) => {
            Err(written(document.write(command(), &mut io::stdout().lock()), log_format))
        }
        task => Ok((task, config, log_format)),
    }
}

/// Judges the variables that are no options, as the start of a server does.
fn check_variables() -> Result<(), BadVariable> {
    variables::mask()?;
    variables::has_manager()?;
    variables::handed_over()?;
    logging::filter().map(drop)
}

/// The definition of the options.
#[must_use]
pub fn command() -> Command {
    Arguments::command()
}

/// The form of log lines that the command line, else the environment, else the file asks for, however wrong they are
/// otherwise.
fn asked_log_format() -> LogFormat {
    let words: Vec<_> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let on_command_line = |option: &str| {
        let behind_a_sign = words.iter().filter_map(|word| word.strip_prefix(option)?.strip_prefix('='));
        let behind_a_blank = words.windows(2).filter(|pair| pair[0] == option).map(|pair| &*pair[1]);
        behind_a_sign.chain(behind_a_blank).last().map(str::to_owned)
    };
    let of_variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let path = on_command_line("--config").or_else(|| of_variable("RINGBACK_CONFIG"));
    let of_file = || settings::peek(Path::new(&path?), "log-format");
    let asked = [on_command_line("--log-format"), of_variable("RINGBACK_LOG_FORMAT"), of_file()];
    let mut good = asked.into_iter().flatten().filter_map(|word| LogFormat::from_str(&word, false).ok());
    good.next().unwrap_or_default()
}

/// Says what is wrong, or the help that was asked for, and how to end.
fn refuse(refusal: Refusal, log_format: LogFormat) -> ExitCode {
    let message = match refusal {
        // The help or the version.
        Refusal::CommandLine(error) if !error.use_stderr() => return written(error.print(), log_format),
        Refusal::CommandLine(error) => one_line(&error, &std::env::args_os().collect::<Vec<_>>()),
        Refusal::Variable(error) => one_line(&error, &[]),
        other => other.to_string(),
    };
    complain(log_format, USAGE, message);
    ExitCode::from(USAGE)
}

/// A message of clap about `arguments` and the environment in one line, without its usage, and with the variable that a bad
/// value came from.
fn one_line(error: &clap::Error, arguments: &[OsString]) -> String {
    const MORE: &str = " (`ringback --help` tells more)";
    if error.kind() == ErrorKind::InvalidUtf8 {
        return not_utf8(arguments) + MORE;
    }
    let message = error.render().to_string();
    let lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<_> = lines.take_while(|line| !line.starts_with("Usage: ")).collect();
    let lines = lines.into_iter().filter(|line| !line.starts_with("For more information"));
    let told = lines.collect::<Vec<_>>().join(" ").replace(" tip: ", "; ");
    let mut told = told.trim_start_matches("error: ").to_owned();
    if let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue) {
        told.push_str(settings::blank(value));
    }
    if error.kind() == ErrorKind::UnknownArgument
        && let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg)
        && is_misplaced(unknown, arguments)
    {
        told.push_str("; options stand before the subcommand");
    }
    told.push_str(MORE);
    match variable_of(error, arguments) {
        Some(variable) => format!("{variable}: {told}"),
        None => told,
    }
}

/// Whether a word that clap does not know is an option which stands behind a subcommand.
fn is_misplaced(word: &str, arguments: &[OsString]) -> bool {
    let command = command();
    let is_option = |argument: &Arg| argument.get_long() == word.trim_start_matches('-').split('=').next();
    let subcommand = arguments
        .iter()
        .position(|argument| command.get_subcommands().any(|one| *argument == one.get_name()));
    let place = arguments.iter().rposition(|argument| argument.to_string_lossy().starts_with(word));
    command.get_arguments().any(is_option) && subcommand.is_some() && subcommand < place
}

/// What is said where clap only says that something is not UTF-8.
fn not_utf8(arguments: &[OsString]) -> String {
    let argument = arguments.iter().find(|argument| argument.to_str().is_none());
    let command = command();
    let variable = command.get_arguments().filter_map(Arg::get_env).find_map(|name| {
        let value = std::env::var_os(name).filter(|value| value.to_str().is_none())?;
        Some(format!("{}={:?}", name.display(), value.to_string_lossy()))
    });
    let what = argument.map(|argument| format!("{:?}", argument.to_string_lossy())).or(variable);
    format!("{} is not UTF-8", what.unwrap_or_default())
}

/// The variable that a bad value came from: that of its option, where the option is not on the command line.
fn variable_of(error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    // As `--workers <N>`.
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else { return None };
    let name = option.split_whitespace().next()?;
    let command = command();
    let argument = command.get_arguments().find(|argument| argument.get_long() == name.strip_prefix("--"))?;
    let is_said = |word: &OsString| word.to_string_lossy().split('=').next() == Some(name);
    let variable = argument
        .get_env()
        .filter(|variable| std::env::var_os(variable).is_some_and(|value| !value.is_empty()))?;
    (!arguments.iter().any(is_said)).then(|| variable.to_string_lossy().into_owned())
}

/// How to end after writing to standard output.
#[must_use]
pub fn written(result: io::Result<()>, log_format: LogFormat) -> ExitCode {
    match result.and_then(|()| io::stdout().flush()) {
        // Whoever reads only the beginning has what was asked for.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(log_format, UNWRITTEN, format_args!("standard output: {error}"));
            ExitCode::from(UNWRITTEN)
        }
        _ => ExitCode::SUCCESS,
    }
}

impl From<Arguments> for Config {
    fn from(arguments: Arguments) -> Self {
        Self {
            listening: arguments.listening,
            access: arguments.access,
            head: arguments.head,
            engine: arguments.engine,
            busy_poll: arguments.busy_poll,
            workers: arguments.workers,
            cpus: arguments.cpus,
            pin: !arguments.no_pin,
            receive_buffer_size: arguments.receive_buffer_size,
            whole_frame_max: arguments.whole_frame_max,
            max_message_size: arguments.max_message_size,
            max_connections: arguments.max_connections,
            handshake_timeout: arguments.handshake_timeout,
            unsent_limit: arguments.unsent_limit,
            unsent_total: arguments.unsent_total,
            flush_timeout: arguments.flush_timeout,
            drain: arguments.drain,
            admin: arguments.admin,
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
            "--listen=unix:",
            "--unix-mode=0680",
            "--unix-mode=1777",
            "--backlog=0",
            "--socket-send-buffer=1KiB",
            "--drain-delay=1",
            "--admin=9002",
            "--path=ws",
            "--path=/a?b",
            "--path=/a,b",
            "--path=**",
            "--max-head-size=1023",
            "--max-head-size=65KiB",
            "--max-head-fields=15",
            "--max-head-fields=513",
            "--subprotocol=",
            "--subprotocol=a b",
            "--subprotocol=a,,b",
            "--allowed-origin=https://a.example/",
            "--workers=0",
            "--cpus=1-",
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
            "--flush-timeout=10",
            "--flush-timeout=9ms",
            "--flush-timeout=8days",
        ] {
            assert!(Arguments::try_parse_from(["ringback", bad]).is_err(), "{bad}");
        }
        let names = Arguments::parse_from(["ringback", "--subprotocol=a,A", "--subprotocol=b"]);
        assert_eq!(names.access.subprotocols, ["a", "A", "b"]);
        let good =
            Arguments::parse_from(["ringback", "--whole-frame-max=1MiB", "--listen=[::1]:0,127.0.0.1:0"]);
        assert_eq!((good.whole_frame_max, good.listening.addresses.len()), (1 << 20, 2));
    }

    #[test]
    fn the_help_of_an_option_has_its_bounds() {
        let command = Arguments::command();
        let visible = command.get_arguments().filter(|argument| !argument.is_hide_set());
        for argument in visible.filter(|argument| {
            let name = argument.get_value_names().unwrap_or_default().concat();
            ["TIME", "SIZE", "N"].contains(&name.as_str())
        }) {
            let (name, help) = (argument.get_long().unwrap(), argument.get_help().unwrap().to_string());
            for bad in ["x", "-1", "999999999999y", "18446744073709551615", "1e3", "99999999EiB"] {
                let error = Arguments::try_parse_from(["ringback", &format!("--{name}={bad}")]).unwrap_err();
                let error = one_line(&error, &[]);
                let told = error.split_once(&format!("'{bad}' for '--{name} <")).expect("value and option").1;
                let bounds = told.split_once(" is ").expect("bounds").1.split([',', ' ']).take(3);
                let bounds = bounds.collect::<Vec<_>>().join(" ");
                assert!(bounds.contains(" to ") && help.contains(&bounds), "--{name}: {bounds} in {help}");
            }
            // Nothing becomes 0 that was not written so.
            for zero in ["0", "0s"] {
                let taken = Arguments::try_parse_from(["ringback", &format!("--{name}={zero}")]).is_ok();
                assert!(!taken || help.contains("; 0"), "--{name}={zero} in {help}");
            }
        }
    }

    #[test]
    fn options_stand_before_the_task() {
        let parse = |arguments: &[&str]| Arguments::try_parse_from([&["ringback"], arguments].concat());
        assert_eq!(parse(&["--workers=3"]).unwrap().task, None);
        let doctor = parse(&["--workers=3", "doctor"]).unwrap();
        assert_eq!((doctor.task, doctor.workers), (Some(Task::Doctor), Some(3)));
        for bad in [&["doctor", "--workers=3"][..], &["surgeon"], &["serve"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parse(&["help"]).unwrap_err().kind(), ErrorKind::DisplayHelp);
    }
}
