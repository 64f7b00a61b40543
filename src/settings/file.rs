//! The configuration file: TOML whose keys are the long names of options.

use std::any::TypeId;
use std::error::Error as _;
use std::ffi::OsString;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command, Id};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{CONFIG, PRINT_CONFIG, blank, is_flag, is_list, key, nearest, options};

/// A file whose values are good, each by itself.
pub(super) struct File {
    /// Its path, for people.
    pub(super) name: String,
    /// In the order of their lines.
    pub(super) entries: Vec<Entry>,
}

/// What a file says of one option.
pub(super) struct Entry {
    pub(super) id: Id,
    /// From 1.
    pub(super) line: usize,
    /// One or, of a list, more; in the words of the command line.
    pub(super) values: Vec<String>,
}

/// What is wrong with a file or a variable, in one line that says where.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {what}")]
pub(crate) struct Mistake {
    /// The file, and the line if it is in one; or the variable.
    place: String,
    what: String,
}

impl Mistake {
    /// `what` is wrong at `place`, neither of more than one line.
    pub(super) fn new(place: String, what: String) -> Self {
        Self { place, what }
    }
}

impl File {
    /// Reads a file whose keys are options of `command`.
    pub(super) fn read(path: &Path, command: &Command) -> Result<Self, Mistake> {
        let name = path.display().to_string().replace(char::is_control, "?");
        match fs::read(path) {
            Ok(bytes) => match str::from_utf8(&bytes) {
                Ok(text) => Self::parse(name, text, command),
                Err(error) => Err(not_utf8(&name, &bytes, error.valid_up_to())),
            },
            Err(error) => Err(Mistake {
                what: format!(
                    "the configuration file cannot be read: {error}; --config or RINGBACK_CONFIG names it"
                ),
                place: name,
            }),
        }
    }

    fn parse(name: String, text: &str, command: &Command) -> Result<Self, Mistake> {
        let line = |at: Range<usize>| 1 + text.bytes().take(at.start).filter(|byte| *byte == b'\n').count();
        let mistake = |at: Range<usize>, what: String| {
            // Some parsers explain themselves in several lines, and what is no TOML may be anything.
            let what = what.replace(char::is_control, " ");
            Mistake { place: format!("{name}:{}", line(at)), what }
        };
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().unwrap_or_default();
            // The line itself has the key, which a parser does not know.
            let found = text.lines().nth(line(at.clone()) - 1).unwrap_or_default().trim();
            mistake(at, format!("{}: {found}", error.message()))
        })?;
        // The map has an order of its own; the first mistake of the file is to be the one that is told.
        let mut pairs: Vec<_> = table.get_ref().iter().collect();
        pairs.sort_by_key(|(key, _)| key.span().start);
        let mut entries = Vec::new();
        for (word, value) in pairs {
            let (at, word) = (word.span(), word.get_ref());
            let Some(argument) = options(command).find(|argument| key(argument) == word) else {
                return Err(mistake(at, unknown(word, command)));
            };
            let values =
                words(argument, value, text).map_err(|(at, what)| mistake(at, format!("{word}: {what}")))?;
            entries.push(Entry { id: argument.get_id().clone(), line: line(at), values });
        }
        Ok(Self { name, entries })
    }

    /// What the file says of an option.
    pub(super) fn entry(&self, id: &Id) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id == *id)
    }
}

/// The byte at `at` is where a file stops to be UTF-8. Lines and positions are told from 1 on.
fn not_utf8(name: &str, bytes: &[u8], at: usize) -> Mistake {
    let before = bytes.get(..at).unwrap_or_default();
    let (line, position) = before.iter().fold((1, 1), |(line, position), byte| match byte {
        b'\n' => (line + 1, 1),
        _ => (line, position + 1),
    });
    let byte = bytes.get(at).copied().unwrap_or_default();
    Mistake {
        place: format!("{name}:{line}"),
        what: format!("the byte 0x{byte:02X} at position {position} is not UTF-8, which a file has to be"),
    }
}

/// The text that a file has for a key, however wrong the file is otherwise. A pipe can be read only once, and is not.
pub(crate) fn peek(path: &Path, key: &str) -> Option<String> {
    let text = fs::metadata(path).ok().filter(fs::Metadata::is_file).and_then(|_| fs::read(path).ok())?;
    let text = String::from_utf8_lossy(&text);
    let (table, _mistakes) = DeTable::parse_recoverable(&text);
    Some(table.get_ref().get(key)?.get_ref().as_str()?.to_owned())
}

/// Whether any text may be a value of the option, so that a number would be a slip.
pub(super) fn is_text(argument: &Arg) -> bool {
    let of = argument.get_value_parser().type_id();
    [TypeId::of::<String>(), TypeId::of::<OsString>(), TypeId::of::<PathBuf>()].iter().any(|text| of == *text)
}

/// What is said of a key that is no option's.
fn unknown(word: &str, command: &Command) -> String {
    let is_outside = |argument: &&Arg| [CONFIG, PRINT_CONFIG].contains(&argument.get_id().as_str());
    if command.get_arguments().filter(is_outside).any(|argument| argument.get_long() == Some(word)) {
        return format!("{word} is for the command line, not for the file");
    }
    match nearest(word, options(command).map(key)) {
        Some(nearest) => format!("unknown key {word:?}; the nearest option is {nearest}"),
        None => format!("unknown key {word:?}; `ringback example-config` has all options"),
    }
}

/// What the command line would have for a value of the file; where it is wrong, and what would be right.
fn words(
    argument: &Arg,
    value: &Spanned<DeValue<'_>>,
    text: &str,
) -> Result<Vec<String>, (Range<usize>, String)> {
    match value.get_ref() {
        DeValue::Array(array) if is_list(argument) => {
            if array.is_empty() {
                let what = "an empty array; leave the line out to have the default";
                return Err((value.span(), what.into()));
            }
            array.iter().map(|element| word(argument, element, text)).collect()
        }
        _ => Ok(vec![word(argument, value, text)?]),
    }
}

fn word(argument: &Arg, value: &Spanned<DeValue<'_>>, text: &str) -> Result<String, (Range<usize>, String)> {
    let is_bool = argument.get_value_parser().type_id() == TypeId::of::<bool>();
    let word = match value.get_ref() {
        DeValue::String(word) => Some(word.to_string()),
        DeValue::Boolean(word) if is_bool => Some(word.to_string()),
        DeValue::Integer(word) if !is_bool && !is_text(argument) => Some(word.to_string()),
        DeValue::Float(word) if !is_bool && !is_text(argument) => Some(word.to_string()),
        _ => None,
    };
    let refused = match (&word, value.get_ref()) {
        (Some(word), _) => refusal(argument, word).map(|why| (text[value.span()].to_owned(), why)),
        // Those of some lines have no text to quote.
        (None, DeValue::Array(_)) => Some(("an array".into(), String::new())),
        (None, DeValue::Table(_)) => Some(("a table".into(), String::new())),
        (None, _) => Some((text[value.span()].to_owned(), String::new())),
    };
    match refused {
        None => Ok(word.unwrap_or_default()),
        Some((found, why)) => {
            Err((value.span(), format!("expected {}, found {found}{why}", expected(argument))))
        }
    }
}

/// Why the option does not take the word, behind a colon, or nothing where that is clear; `None` if it does.
fn refusal(argument: &Arg, word: &str) -> Option<String> {
    // By itself: without its variable and whatever it asks of others.
    let mut alone = Arg::new("value")
        .long("value")
        .action(ArgAction::Append)
        .value_parser(argument.get_value_parser().clone());
    if let Some(delimiter) = argument.get_value_delimiter() {
        alone = alone.value_delimiter(delimiter);
    }
    let command = Command::new("file").no_binary_name(true).arg(alone);
    let error = command.try_get_matches_from([format!("--value={word}")]).err()?;
    let why = error.source().map_or_else(String::new, |why| format!(": {why}"));
    Some(why + blank(word))
}

/// What a value of the option is.
fn expected(argument: &Arg) -> String {
    if is_flag(argument) {
        return "true or false".into();
    }
    let possible = argument.get_possible_values();
    let names: Vec<_> = possible.iter().map(|value| format!("{:?}", value.get_name())).collect();
    let one = if !names.is_empty() {
        names.join(" or ")
    } else {
        let name = argument.get_value_names().unwrap_or_default().join(" ");
        if is_text(argument) && !is_list(argument) { format!("{name} as a string") } else { name }
    };
    if is_list(argument) { format!("an array of {one}") } else { one }
}

#[cfg(test)]
mod tests {
    use clap::builder::{BoolishValueParser, PossibleValuesParser};
    use clap::value_parser;

    use super::*;

    fn command() -> Command {
        let option = |name: &'static str| Arg::new(name).long(name).value_name("VALUE");
        Command::new("test").args([
            option(CONFIG),
            option("some-text").value_parser(value_parser!(String)),
            option("a-number").value_name("N").value_parser(value_parser!(u16).range(1..)).hide(true),
            option("share").value_parser(value_parser!(f64)),
            option("the-list").value_parser(value_parser!(u8)).action(ArgAction::Append).value_delimiter(','),
            option("one-of").value_parser(PossibleValuesParser::new(["this", "that"])),
            Arg::new("no-flag")
                .long("no-flag")
                .value_parser(BoolishValueParser::new())
                .action(ArgAction::SetTrue),
        ])
    }

    fn parse(text: &str) -> Result<File, Mistake> {
        File::parse("a.toml".into(), text, &command())
    }

    #[test]
    fn values_become_words_of_the_command_line() {
        for (text, words) in [
            ("some-text = 'as it is'", &["as it is"][..]),
            ("a-number = 5", &["5"]),
            ("a-number = '5'", &["5"]),
            ("a-number = 1_000", &["1000"]),
            ("share = 0.5", &["0.5"]),
            ("the-list = [1, '2']", &["1", "2"]),
            ("the-list = '1,2'", &["1,2"]),
            ("one-of = 'that'", &["that"]),
            ("no-flag = true", &["true"]),
            ("no-flag = 'off'", &["off"]),
            ("\u{feff}# behind a mark\r\n\r\n'some-text' = ''", &[""]),
        ] {
            let file = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(file.entries.len(), 1, "{text}");
            assert_eq!(file.entries[0].values, words, "{text}");
        }
        assert!(parse("").expect("an empty file").entries.is_empty());
        let lines: Vec<_> = parse("share = 1\n\n# then\na-number = 2").expect("two").entries;
        assert_eq!(lines.iter().map(|entry| entry.line).collect::<Vec<_>>(), [1, 4]);
    }

    #[test]
    fn a_mistake_says_where_it_is_and_what_would_be_right() {
        for (text, said) in [
            ("some-txt = 1", "1: unknown key \"some-txt\"; the nearest option is some-text"),
            ("\na_number = 1", "2: unknown key \"a_number\"; the nearest option is a-number"),
            ("[the_lists]\nthe-list = []", "1: unknown key \"the_lists\"; the nearest option is the-list"),
            ("foo = 1", "1: unknown key \"foo\"; `ringback example-config` has all options"),
            ("config = 'b.toml'", "1: config is for the command line, not for the file"),
            ("some-text = 5", "1: some-text: expected VALUE as a string, found 5"),
            ("some-text = [\n'a',\n]", "1: some-text: expected VALUE as a string, found an array"),
            ("[some-text]", "1: some-text: expected VALUE as a string, found a table"),
            ("a-number = true", "1: a-number: expected N, found true"),
            ("a-number = 2026-11-24", "1: a-number: expected N, found 2026-11-24"),
            ("share = 1\na-number = 0", "2: a-number: expected N, found 0: 0 is not in 1..=65535"),
            ("a-number = 'many'", "1: a-number: expected N, found 'many': invalid digit found in string"),
            (
                "the-list = [\n1,\n256]",
                "3: the-list: expected an array of VALUE, found 256: 256 is not in 0..=255",
            ),
            ("the-list = []", "1: the-list: an empty array; leave the line out to have the default"),
            ("one-of = 'those'", "1: one-of: expected \"this\" or \"that\", found 'those'"),
            ("no-flag = 1", "1: no-flag: expected true or false, found 1"),
            ("no-flag = 'perhaps'", "1: no-flag: expected true or false, found 'perhaps'"),
            ("no-flag = 1\nunknown = 1", "1: no-flag: expected true or false, found 1"),
        ] {
            let mistake = parse(text).err().unwrap_or_else(|| panic!("{text:?} is taken"));
            assert!(mistake.to_string().starts_with(&format!("a.toml:{said}")), "{text:?}: {mistake}");
            assert_eq!(mistake.to_string().lines().count(), 1, "{mistake}");
        }
    }

    #[test]
    fn what_is_no_toml_says_its_line() {
        for text in [
            "share = 1\nshare = 2",
            "share = 1\na-number = 64KiB",
            "\nshare",
            "\n= 5",
            "share = 1\n\"",
            "\n[[[[",
        ] {
            let mistake = parse(text).err().unwrap_or_else(|| panic!("{text:?} is taken")).to_string();
            assert!(mistake.starts_with("a.toml:2: ") && mistake.lines().count() == 1, "{text:?}: {mistake}");
        }
    }
}
