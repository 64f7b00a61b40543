//! A configuration file to begin with: every option, commented out.

use std::fmt::Write as _;

use clap::{Arg, Command};

use super::{is_flag, is_list, key, options, toml_value};

/// The file, made from the definition of the options. Hidden ones are not in it.
pub(crate) fn example(command: &Command) -> String {
    let mut text = HEAD.to_owned();
    for argument in options(command).filter(|argument| !argument.is_hide_set()) {
        text.push('\n');
        for line in meaning(argument).lines() {
            let _ = writeln!(text, "{}", format!("# {line}").trim_end());
        }
        let _ = writeln!(text, "#{} = {}", key(argument), value(argument));
    }
    text
}

/// What `--help` says of an option.
fn meaning(argument: &Arg) -> String {
    let help = argument.get_long_help().or(argument.get_help());
    let mut meaning = help.map(ToString::to_string).unwrap_or_default();
    let possible = argument.get_possible_values();
    if !is_flag(argument) && !possible.is_empty() {
        let names: Vec<_> = possible.iter().map(|value| format!("{:?}", value.get_name())).collect();
        let _ = write!(meaning, "\nOne of {}.", names.join(", "));
    }
    meaning
}

/// The default, or the name of the value where there is none.
fn value(argument: &Arg) -> String {
    let defaults = argument.get_default_values();
    if is_flag(argument) {
        "false".into()
    } else if defaults.is_empty() {
        let name = argument.get_value_names().unwrap_or_default().join(" ");
        if is_list(argument) { format!("[{name:?}]") } else { format!("{name:?}") }
    } else {
        toml_value(argument, defaults.iter().map(|word| word.to_string_lossy().into_owned()))
    }
}

const HEAD: &str = "\
# Options of ringback: `ringback --config ringback.toml`, or RINGBACK_CONFIG=ringback.toml.
#
# The names are those of the command line, and so are the values: strings, or bare numbers, true and false. What repeats
# there is an array here. The environment and then the command line stand above this file; a list of theirs replaces the
# list here. `ringback --print-config` shows the result, and where each value came from.
#
# Below is every option, commented out, with its default; one that has none shows what to put there.
";
