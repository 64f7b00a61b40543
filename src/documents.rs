//! What a packager puts beside the binary: the manual page, the completions of shells, a configuration file.

use std::io;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::settings;

/// What the binary says of itself, made from the definition of its options. It goes to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Document {
    /// Write the manual page
    Man,
    /// Write the completions of a shell
    Completions {
        /// The shell that completes
        shell: Shell,
    },
    /// Write a configuration file with every option in it, commented out
    ExampleConfig,
}

impl Document {
    /// Writes it for a command.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub(crate) fn write(self, command: Command, to: &mut dyn io::Write) -> io::Result<()> {
        match self {
            Self::Man => write_man(command, to),
            Self::Completions { shell } => {
                // It takes no error for an answer from a writer that can have one.
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut visible(&command), command.get_name(), &mut script);
                to.write_all(&script)
            }
            Self::ExampleConfig => to.write_all(settings::example(&command).as_bytes()),
        }
    }
}

/// The command without what `--help` does not tell, which the completions would.
fn visible(command: &Command) -> Command {
    Command::new(command.get_name().to_owned())
        .version(command.get_version().unwrap_or_default().to_owned())
        .args(command.get_arguments().filter(|argument| !argument.is_hide_set()))
        .subcommands(command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()))
}

/// The sections of clap_mangen, but for the subcommands: it names pages of their own, which there are not.
fn write_man(command: Command, to: &mut dyn io::Write) -> io::Result<()> {
    let mut subcommands = Roff::new();
    subcommands.control("SH", ["SUBCOMMANDS"]);
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        subcommands.control("TP", []);
        subcommands.text([bold(subcommand.get_name())]);
        subcommands.text([roman(subcommand.get_about().map(ToString::to_string).unwrap_or_default())]);
    }
    let mut file = Roff::new();
    file.control("SH", ["CONFIGURATION FILE"]);
    file.text([roman(CONFIGURATION_FILE)]);

    let environment = environment(&command);
    let man = Man::new(command).manual("User Commands");
    man.render_title(to)?;
    man.render_name_section(to)?;
    man.render_synopsis_section(to)?;
    man.render_description_section(to)?;
    man.render_options_section(to)?;
    subcommands.to_writer(to)?;
    file.to_writer(to)?;
    environment.to_writer(to)?;
    list("EXIT STATUS", &EXIT_STATUS).to_writer(to)?;
    list("SIGNALS", &SIGNALS).to_writer(to)?;
    list("FILES", &FILES).to_writer(to)?;
    list("EXAMPLES", &EXAMPLES).to_writer(to)?;
    man.render_version_section(to)
}

/// The variables of options, and the others.
fn environment(command: &Command) -> Roff {
    let mut section = list("ENVIRONMENT", &ENVIRONMENT);
    section.control("TP", []);
    let of_options = command.get_arguments().filter(|argument| !argument.is_hide_set());
    let names = of_options.filter_map(|argument| argument.get_env()?.to_str());
    section.text([bold(names.collect::<Vec<_>>().join(", "))]);
    section.text([roman("The options of these names. An empty variable is unset.")]);
    section
}

/// A section with a paragraph for each term.
fn list(heading: &str, terms: &[(&str, &str)]) -> Roff {
    let mut section = Roff::new();
    section.control("SH", [heading]);
    for (term, meaning) in terms {
        section.control("TP", []);
        section.text([bold(*term)]);
        section.text([roman(*meaning)]);
    }
    section
}

/// Variables that are no options; docs/OPERATION.md has this table too, and the next two.
pub const ENVIRONMENT: [(&str, &str); 6] = [
    (
        "RUST_LOG",
        "What is logged: error, warn, info, debug, trace or off, or a list of PART=LEVEL; info by default.",
    ),
    (
        "RINGBACK_MASK",
        "The masking kernel: scalar, sse2, avx2, avx512 or neon; the best of the CPU by default.",
    ),
    ("NOTIFY_SOCKET", "Where a service manager is told that the server is ready, and that it stops."),
    (
        "LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES",
        "Sockets that a service manager hands over, served in place of the default address.",
    ),
    ("NO_COLOR", "Not empty: the log has no colours on a terminal."),
    ("RINGBACK_NO_PIN", "As every flag: true, yes, on or 1, or false, no, off or 0."),
];

/// How the process ends.
pub const EXIT_STATUS: [(&str, &str); 7] = [
    ("0", "The server was told to end, or what was asked for is written."),
    ("64", "An option, a variable, the configuration file or a socket that was handed over has a mistake."),
    (
        "69",
        "The engine, an address or the congestion control that was asked for cannot be had, or `doctor` says that the ring engine cannot run.",
    ),
    ("70", "A bug: the line says where."),
    ("71", "The system refuses a thread, a descriptor or memory, or a worker has failed."),
    ("74", "Standard output cannot be written."),
    ("77", "The port or the directory of a socket needs a permission."),
];

/// What each signal does.
pub const SIGNALS: [(&str, &str); 5] = [
    (
        "SIGTERM, SIGINT",
        "Drain, once --drain-delay is over; a second one, 200 ms later or more, cuts what is left. At the start: drain as soon as the server runs. Ends `doctor`.",
    ),
    ("SIGQUIT", "Cut all connections and end, in a drain too. Ends `doctor`."),
    ("SIGUSR1", "Log all counters."),
    ("SIGHUP", "Nothing: options are read at the start only."),
    (
        "SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGPWR, SIGSTKFLT, SIGXFSZ, SIGPIPE, real-time signals",
        "Nothing.",
    ),
];

const FILES: [(&str, &str); 2] = [
    (
        "FILE of --config",
        "The options, in TOML; `ringback example-config` writes one with every option in it.",
    ),
    ("/PATH of --listen unix:/PATH", "A socket, made at the start and removed at the end."),
];

const EXAMPLES: [(&str, &str); 4] = [
    (
        "ringback --listen 0.0.0.0:9001 --admin 127.0.0.1:9002",
        "Listen on all addresses, with health checks and metrics.",
    ),
    (
        "ringback --config ringback.toml --print-config",
        "Show which options are in force, and where each comes from.",
    ),
    ("ringback --workers 8 doctor", "Say what stands in the way of a server of eight workers."),
    ("RUST_LOG=warn ringback --log-format json", "Log what may ask for somebody, a JSON object a line."),
];

const CONFIGURATION_FILE: &str = "\
The file of --config is TOML. Its keys are the long names of the options without their dashes, and its values are those \
of the command line: strings, or bare numbers, true and false. An option that can be repeated has an array. A default \
gives way to the file, the file to the environment, and the environment to the command line; a list is replaced, not \
added to. A key that is not known is a mistake, and so is a value that the command line would not take: the server says \
the line, and ends with 64.";
