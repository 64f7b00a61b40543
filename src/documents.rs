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

    let man = Man::new(command).manual("User Commands");
    man.render_title(to)?;
    man.render_name_section(to)?;
    man.render_synopsis_section(to)?;
    man.render_description_section(to)?;
    man.render_options_section(to)?;
    subcommands.to_writer(to)?;
    file.to_writer(to)?;
    man.render_version_section(to)
}

const CONFIGURATION_FILE: &str = "\
The file of --config is TOML. Its keys are the long names of the options without their dashes, and its values are those \
of the command line: strings, or bare numbers, true and false. An option that can be repeated has an array. A default \
gives way to the file, the file to the environment, and the environment to the command line; a list is replaced, not \
added to. A key that is not known is a mistake, and so is a value that the command line would not take: the server says \
the line, and ends with 64.";
