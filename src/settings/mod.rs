//! The options as they are in the end: defaults beneath the configuration file, the environment and the command line.
//!
//! Nothing here knows an option by name: clap's definition says which there are. A value of the file takes the place of
//! the default of its option before the command line is parsed, so that the environment and the command line stand above
//! it, and a list of theirs replaces the file's.

mod environment;
mod example;
mod file;

pub(crate) use example::example;

use std::ffi::OsString;
use std::fmt;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use toml::Value;

use crate::config::Contradiction;
use file::{File, Mistake};

/// The id of the option that names the file.
const CONFIG: &str = "config";
/// The id of the option that asks for the result.
const PRINT_CONFIG: &str = "print_config";

/// Where the value of an option comes from that nobody has chosen.
const DEFAULT: &str = "default";

/// The values of all options, and where they came from. It displays as a configuration file that says so.
pub(crate) struct Settings {
    command: Command,
    matches: ArgMatches,
    file: Option<File>,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// A mistake on the command line or in the environment, or help was asked for.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    /// The file is not there, or has a mistake; or a variable is no option's.
    #[error(transparent)]
    Mistake(#[from] Mistake),
    /// Options do not go together, with where each comes from.
    #[error("{0}")]
    Contradiction(String),
}

impl Settings {
    /// Reads the command line, the environment and the file that either of them names.
    ///
    /// Options that ask for or exclude others do not see the file: such rules belong where all values are known.
    pub(crate) fn read(
        command: Command,
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, Refusal> {
        let arguments: Vec<_> = arguments.into_iter().collect();
        let parsed = environment::without_empty(command.clone());
        let matches = parsed.clone().try_get_matches_from(&arguments).map_err(|error| {
            // The help names the empty variables too.
            let is_help = error.kind() == ErrorKind::DisplayHelp;
            let help = command.clone().try_get_matches_from(&arguments).err().filter(|_| is_help);
            help.unwrap_or(error)
        })?;
        environment::check(&command, std::env::vars_os())?;
        let Some(path) = matches.get_one::<std::path::PathBuf>(CONFIG) else {
            return Ok(Self { command, matches, file: None });
        };
        let file = File::read(path, &command)?;
        let beneath = file.entries.iter().fold(parsed, |command, entry| {
            command.mut_arg(&entry.id, |argument| argument.default_values(&entry.values))
        });
        let matches = beneath.try_get_matches_from(&arguments)?;
        Ok(Self { command, matches, file: Some(file) })
    }

    /// What clap has made of it all.
    pub(crate) fn matches(&self) -> &ArgMatches {
        &self.matches
    }

    /// Whether the option of this long name has a value from anywhere but its definition.
    pub(crate) fn is_given(&self, name: &str) -> bool {
        self.option(name).is_some_and(|option| self.source(option) != DEFAULT)
    }

    /// Says of options that do not go together where each comes from.
    pub(crate) fn refuse(&self, Contradiction { options, what }: Contradiction) -> Refusal {
        let sources = options
            .iter()
            .filter_map(|name| self.option(name))
            .map(|option| format!("--{} from {}", key(option), self.source(option)));
        Refusal::Contradiction(format!("{what} ({})", sources.collect::<Vec<_>>().join(", ")))
    }

    fn option(&self, name: &str) -> Option<&Arg> {
        options(&self.command).find(|option| key(option) == name)
    }

    /// The value of an option as a file would have it, or what is so where it has none.
    fn value(&self, argument: &Arg) -> Result<String, String> {
        let id = argument.get_id().as_str();
        if is_flag(argument) {
            return Ok(self.matches.get_flag(id).to_string());
        }
        let words = self.matches.get_raw(id).ok_or_else(|| found_at_run_time(argument))?;
        let words: Option<Vec<_>> = words.map(|word| word.to_str().map(str::to_owned)).collect();
        Ok(toml_value(argument, words.ok_or("what is not UTF-8, which a file has to be")?))
    }

    fn source(&self, argument: &Arg) -> String {
        let id = argument.get_id();
        match self.matches.value_source(id.as_str()) {
            Some(ValueSource::CommandLine) => "command line".into(),
            Some(ValueSource::EnvVariable) => {
                format!("environment {}", argument.get_env().unwrap_or_default().display())
            }
            _ => match self.file.as_ref().and_then(|file| Some((file, file.entry(id)?))) {
                Some((file, entry)) => format!("file {}, line {}", file.name, entry.line),
                None => DEFAULT.into(),
            },
        }
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for argument in options(&self.command) {
            let (key, source) = (key(argument), self.source(argument));
            // What is not for everybody is said only where somebody has set it.
            match self.value(argument) {
                _ if argument.is_hide_set() && source == DEFAULT => {}
                // Nobody chose it: the server treats a chosen address otherwise than a default.
                Ok(value) if source == DEFAULT => writeln!(f, "# {key} = {value} # {source}")?,
                Ok(value) => writeln!(f, "{key} = {value} # {source}")?,
                Err(instead) => writeln!(f, "# {key} = {instead} # {source}")?,
            }
        }
        Ok(())
    }
}

/// The options that may stand in the file: all but those that name or show it. Hidden ones are among them.
pub(crate) fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|argument| {
        let asks = matches!(
            argument.get_action(),
            ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
        );
        argument.get_long().is_some()
            && !asks
            && ![CONFIG, PRINT_CONFIG].contains(&argument.get_id().as_str())
    })
}

/// A word more on a bad value: in a list of the environment a blank behind a comma is easily overlooked.
pub(crate) fn blank(value: &str) -> &'static str {
    if value.trim() == value { "" } else { "; leave out the blank at its beginning or end" }
}

/// What its help says of a default that clap does not know, for it is found at run time: `[default: the system's]`.
fn found_at_run_time(argument: &Arg) -> String {
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let (_, default) = help.rsplit_once("[default: ").unwrap_or_default();
    if default.is_empty() { "not set".into() } else { default.trim_end_matches(']').into() }
}

/// The name that is most like the word.
fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |name: &str| strsim::normalized_damerau_levenshtein(word, name);
    names.max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}

/// The key of an option in the file: its name on the command line.
fn key(argument: &Arg) -> &str {
    argument.get_long().expect("`options` are those with a long name")
}

/// Whether an option is there or not, and takes no value on the command line.
fn is_flag(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::SetTrue | ArgAction::SetFalse)
}

fn is_list(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Append)
}

/// The words of the command line as a value of TOML.
fn toml_value(argument: &Arg, words: impl IntoIterator<Item = String>) -> String {
    let values = words.into_iter().map(|word| match word.parse::<i64>() {
        Ok(number) if !file::is_text(argument) && number.to_string() == word => Value::Integer(number),
        _ => Value::String(word),
    });
    if is_list(argument) {
        Value::Array(values.collect()).to_string()
    } else {
        // clap lets the last one win.
        values.last().map_or_else(String::new, |value| value.to_string())
    }
}

#[cfg(test)]
mod tests {
    use crate::cli;

    /// clap does not count what stands in the file when it looks at such rules: they would hold for half of the sources.
    #[test]
    fn options_do_not_exclude_each_other_by_clap() {
        let command = cli::command();
        for option in super::options(&command) {
            assert!(command.get_arg_conflicts_with(option).is_empty(), "{option}: see Arguments::checked");
            assert!(!option.is_required_set(), "{option} would be missing before the file is read");
        }
    }

    /// `--print-config` has no other word for it.
    #[test]
    fn a_default_that_is_found_at_run_time_is_told_by_the_help() {
        let command = cli::command();
        for option in super::options(&command).filter(|option| !option.is_hide_set()) {
            let has_default = super::is_flag(option) || !option.get_default_values().is_empty();
            let help = option.get_help().expect("a meaning").to_string();
            let is_told = help.contains("[default: ") && help.ends_with(']');
            assert_eq!(is_told, !has_default, "{option}: {help}");
        }
    }
}
