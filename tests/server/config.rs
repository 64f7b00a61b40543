//! The configuration file of the `ringback` binary, and what it writes of its options.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use clap::builder::PossibleValue;
use clap::{Arg, ArgAction};
use ringback::proto::frame::OpCode;
use ringback::{cli, documents};

use crate::common::{self, Server, command};

/// Values of which every option takes one that is not its default; the first that it takes is tried. They go together.
const CANDIDATES: [&str; 9] =
    ["unix:/other", "127.0.0.1:7", "/other", "2", "100", "3s", "32KiB", "1MiB", "http://other.example"];

#[test]
fn a_default_gives_way_to_the_file_then_the_environment_then_the_command_line() {
    let file = Scratch::file(
        "order",
        "drain-timeout = '1s'\nno-pin = true\nallowed-origin = ['http://a', 'http://b']\nlisten = ['127.0.0.1:1']\n",
    );
    for (name, variable, default, of_file, environment, of_environment, argument, of_argument) in [
        (
            "drain-timeout",
            "RINGBACK_DRAIN_TIMEOUT",
            r#""10s""#,
            r#""1s""#,
            "2s",
            r#""2s""#,
            "--drain-timeout=3s",
            r#""3s""#,
        ),
        ("no-pin", "RINGBACK_NO_PIN", "false", "true", "no", "false", "--no-pin", "true"),
        (
            "listen",
            "RINGBACK_LISTEN",
            r#"["127.0.0.1:9001"]"#,
            r#"["127.0.0.1:1"]"#,
            "127.0.0.1:2,127.0.0.1:3",
            r#"["127.0.0.1:2", "127.0.0.1:3"]"#,
            "--listen=127.0.0.1:4",
            r#"["127.0.0.1:4"]"#,
        ),
        (
            "allowed-origin",
            "RINGBACK_ALLOWED_ORIGIN",
            "",
            r#"["http://a", "http://b"]"#,
            "http://c",
            r#"["http://c"]"#,
            "--allowed-origin=http://d",
            r#"["http://d"]"#,
        ),
    ] {
        let line = printed(&mut command(&[]), name);
        if default.is_empty() {
            assert_eq!(line, format!("# {name} = any # default"));
        } else {
            assert_eq!(line, format!("# {name} = {default} # default"));
        }

        let line = printed(command(&[]).arg("--config").arg(&file.path), name);
        assert!(
            line.starts_with(&format!("{name} = {of_file} # file {}, line ", file.path.display())),
            "{line}"
        );

        let from_environment = format!("{name} = {of_environment} # environment {variable}");
        let line = printed(command(&[]).env("RINGBACK_CONFIG", &file.path).env(variable, environment), name);
        assert_eq!(line, from_environment);

        let from_command_line = format!("{name} = {of_argument} # command line");
        let mut all = command(&[argument]);
        let line = printed(all.arg("--config").arg(&file.path).env(variable, environment), name);
        assert_eq!(line, from_command_line);
        let line = printed(command(&[argument]).arg("--config").arg(&file.path), name);
        assert_eq!(line, from_command_line);
    }
}

#[test]
fn what_is_printed_reads_back_as_the_same() {
    let everything = Scratch::file("every", &every_option());
    let printed = |command: &mut Command| {
        let output = run(command.arg("--print-config"));
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    // Every option from each origin.
    let word = |option: &Arg| other_value(option).trim_matches(['[', ']', '"']).to_owned();
    // It contradicts another option: the last case has it.
    let together = || options().filter(|option| option.get_long() != Some("no-pin"));
    let arguments: Vec<_> = together()
        .map(|option| {
            let name = option.get_long().expect("a long name").to_owned();
            if is_flag(&option) { format!("--{name}") } else { format!("--{name}={}", word(&option)) }
        })
        .collect();
    let variables: Vec<_> =
        together().map(|option| (option.get_env().expect("a variable").to_owned(), word(&option))).collect();
    for first in [
        printed(&mut command(&[])),
        printed(command(&[]).args(&arguments)),
        printed(command(&[]).envs(variables)),
        printed(command(&[]).arg("--config").arg(&everything.path)),
        printed(
            command(&["--workers=007", "--path=/'\"\\", "--congestion-control=5", "--no-pin"])
                .env("RINGBACK_UNSENT_LIMIT", "1MiB"),
        ),
    ] {
        let file = Scratch::file("back", &first);
        let second = printed(command(&[]).arg("--config").arg(&file.path));
        assert_eq!(values(&second), values(&first));
        let without_source = |text: &str| -> Vec<String> {
            text.lines().map(|line| line.rsplit_once(" # ").expect("a source").0.to_owned()).collect()
        };
        assert_eq!(without_source(&second), without_source(&first), "the defaults too, as comments");
        let from_file = |line: &&str| !line.ends_with("# default");
        assert!(second.lines().filter(from_file).all(|line| line.contains(&file.name())), "{second}");
    }
}

#[test]
fn every_option_may_stand_in_the_file() {
    let text = every_option();
    let file = Scratch::file("all", &text);
    let output = run(command(&["--print-config"]).arg("--config").arg(&file.path));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(values(&stdout(&output)), values(&text));
    let sources = stdout(&output).lines().filter(|line| line.contains(&file.name())).count();
    assert_eq!(sources, options().count());
}

#[test]
fn a_mistake_is_one_line_and_ends_with_64() {
    let gone = Path::new(env!("CARGO_TARGET_TMPDIR")).join("there-is-none.toml");
    expect_refusal(&gone, &[], &format!("{}: ", gone.display()));
    expect_refusal(Path::new(env!("CARGO_TARGET_TMPDIR")), &[], "directory");
    for (text, said) in [
        (
            "workers = 1\nmax-conections = 5\n",
            ":2: unknown key \"max-conections\"; the nearest option is max-connections",
        ),
        ("drain_timeout = '5s'", ":1: unknown key \"drain_timeout\"; the nearest option is drain-timeout"),
        ("[server]\nworkers = 1\n", ":1: unknown key \"server\""),
        ("workers = 'four'", ":1: workers: expected N, found 'four': a number is 1 to 1024"),
        ("\nhandshake-timeout = 5", ":2: handshake-timeout: expected TIME, found 5: "),
        (
            "receive-buffer-size = 10",
            ":1: receive-buffer-size: expected SIZE, found 10: a size is 1KiB to 16MiB",
        ),
        (
            "engine = 'kqueue'",
            ":1: engine: expected \"auto\" or \"ring\" or \"tokio-uring\" or \"epoll\", found 'kqueue'",
        ),
        ("listen = ['[::1]:1',\n'localhost:1']", ":2: listen: expected an array of "),
        ("congestion-control = 5", ":1: congestion-control: expected NAME as a string, found 5"),
        ("no-pin = 1", ":1: no-pin: expected true or false, found 1"),
        ("workers = 1\nworkers = 2\n", ":2: duplicate key: workers = 2"),
        (
            "workers = 1\n  unsent-limit = 64KiB\n",
            ":2: string values must be quoted, expected literal string: unsent-limit = 64KiB",
        ),
        ("config = 'other.toml'", ":1: config is for the command line"),
        ("print-config = true", ":1: print-config is for the command line"),
    ] {
        let file = Scratch::file("mistake", text);
        // What stands above the file does not excuse it.
        expect_refusal(
            &file.path,
            &["--workers=2", "--engine=epoll"],
            &format!("{}{said}", file.path.display()),
        );
        expect_refusal(&file.path, &["doctor"], said);
    }
    let file = Scratch::file("text", "");
    fs::write(&file.path, b"path = '/\xFF'").expect("a file");
    expect_refusal(&file.path, &[], "UTF-8");
}

/// A slip there would otherwise be a default that nobody asked for.
#[test]
fn a_variable_that_no_option_has_is_a_mistake() {
    for arguments in [&[][..], &["--print-config"], &["doctor"]] {
        let output = run(command(arguments).env("RINGBACK_WORKRES", "1"));
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(64), ""));
        let said =
            "ringback: RINGBACK_WORKRES: no option has this variable; the nearest is RINGBACK_WORKERS\n";
        assert_eq!(stderr(&output), said);
    }
    let mut command = command(&["--print-config"]);
    command.env("RINGBACK_MASK", "scalar").env("RINGBACK_PORT", "tcp://10.0.0.1:9001");
    assert_eq!(run(&mut command).status.code(), Some(0));
}

/// Whoever starts the server by a unit or a manifest has written no option.
#[test]
fn a_bad_value_of_a_variable_names_it() {
    for (variable, value, option) in [
        ("RINGBACK_WORKERS", "x", "--workers <N>"),
        ("RINGBACK_LISTEN", "127.0.0.1:1,localhost:1", "--listen <IP:PORT>"),
        ("RINGBACK_NO_PIN", "perhaps", "--no-pin"),
        ("RINGBACK_ENGINE", "kqueue", "--engine <ENGINE>"),
    ] {
        let output = run(command(&["--drain-timeout", "1s"]).env(variable, value));
        assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
        let said = stderr(&output);
        assert!(said.starts_with(&format!("ringback: {variable}: ")) && said.contains(option), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    // The one that is told is the one that is wrong.
    for arguments in [&["--workers", "0"][..], &["--workers=0"]] {
        let said = stderr(&run(command(arguments).env("RINGBACK_WORKERS", "1")));
        assert!(said.starts_with("ringback: invalid value '0' for '--workers <N>'"), "{said}");
    }
}

#[test]
fn an_option_behind_a_subcommand_is_told_its_place() {
    for arguments in [
        &["doctor", "--listen", "127.0.0.1:0"][..],
        &["doctor", "--listen=127.0.0.1:0"],
        &["man", "--no-pin"],
    ] {
        let said = stderr(&run(&mut command(arguments)));
        assert!(said.contains(arguments[1].split('=').next().expect("a word")), "{said}");
        assert!(
            said.contains("; options stand before the subcommand (") && said.lines().count() == 1,
            "{said}"
        );
    }
    for arguments in [&["doctor", "--lisen=1"][..], &["--lisen", "1", "doctor"]] {
        let said = stderr(&run(&mut command(arguments)));
        assert!(said.contains("--lisen") && !said.contains("before the subcommand"), "{said}");
    }
}

/// The file may have anything else wrong, before the line and behind it.
#[test]
fn a_mistake_is_json_where_the_file_asks_for_it() {
    for (text, said) in [
        ("log-format = 'json'\nworkers = 'x'\n", ":2: workers: "),
        ("workers = 'x'\n\"log-format\" = \"json\" # lines\n", ":1: workers: "),
        ("log-format = 'json'\nworkers\n", ":2: "),
        ("workers = = 1\nlog-format = 'json'\n", ":1: "),
        ("log-format = 'json'\nfoo = 1\n", ":2: unknown key"),
        ("log-format = 'json'\npath = 'a\u{FF}'\n", ":2: the byte 0xFF at position 10 is not UTF-8"),
        ("log-format = 'json'\nunsent-total = '64KiB'\n", "--unsent-total"),
    ] {
        let file = Scratch::file("json", "");
        let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(c).expect("a byte")).collect();
        fs::write(&file.path, bytes).expect("a file");
        let by_option = run(command(&["--config"]).arg(&file.path));
        let by_variable = run(command(&[]).env("RINGBACK_CONFIG", &file.path));
        let of_command_line = run(command(&["--wrokers", "1", "--config"]).arg(&file.path));
        for (output, said) in [(by_option, said), (by_variable, said), (of_command_line, "--wrokers")] {
            let line = stderr(&output);
            let object: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
            assert_eq!((output.status.code(), &object["exit_code"]), (Some(64), &64.into()), "{line}");
            assert!(object["message"].as_str().is_some_and(|message| message.contains(said)), "{line}");
        }
        // The command line and the environment stand above it.
        let text = stderr(&run(command(&["--log-format=text", "--config"]).arg(&file.path)));
        assert!(text.starts_with("ringback: "), "{text}");
    }
}

#[test]
fn what_is_found_at_run_time_is_printed_as_a_comment() {
    let text = stdout(&run(&mut command(&["--print-config"])));
    for line in [
        "# workers = one for each CPU that the process may use # default",
        "# congestion-control = the system's # default",
        "# allowed-origin = any # default",
    ] {
        assert!(text.lines().any(|printed| printed == line), "{line} in {text}");
    }
    assert!(!text.contains("not set"), "{text}");
}

/// What no option can say by itself is judged when all are known.
#[test]
fn a_rule_of_several_options_holds_across_their_sources() {
    let file = Scratch::file("rule", "ring-submissions = 16");
    let output = run(command(&["--ring-completions=8", "--print-config"]).arg("--config").arg(&file.path));
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("--ring-completions is no less than"), "{}", stderr(&output));
}

#[test]
fn the_server_runs_by_its_file() {
    let file = Scratch::file(
        "serve",
        "listen = ['127.0.0.1:0']\nworkers = 1\nengine = 'epoll'\nmax-connections = 1\n",
    );
    let mut server = command(&[]);
    server.arg("--config").arg(&file.path);
    let server = Server::spawn(server);
    assert!(server.announcement.contains("(engine epoll, 1 workers)"), "{}", server.announcement);
    let mut client = server.connect();
    client.echo(OpCode::Text, b"by the file");
    let mut second = server.connect_raw();
    second.send_bytes(common::handshake("/ws", "").as_bytes());
    assert!(second.read_head().starts_with("HTTP/1.1 503 "));

    let empty = Scratch::file("empty", "");
    let mut server = command(&["--listen=127.0.0.1:0", "--workers=1"]);
    server.env("RINGBACK_CONFIG", &empty.path);
    Server::spawn(server).connect().echo(OpCode::Text, b"by the defaults");
}

#[test]
fn the_doctor_looks_at_the_file_too() {
    let file = Scratch::file("doctor", "congestion-control = 'no-such-control'");
    let output = run(command(&["--config"]).arg(&file.path).arg("doctor"));
    assert!(stdout(&output).contains("no-such-control"), "{}", stdout(&output));
}

#[test]
fn the_example_has_every_option_at_its_default() {
    let example = stdout(&run(&mut command(&["example-config"])));
    let kept = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/ringback.toml"));
    assert!(
        kept.expect("deploy/ringback.toml") == example,
        "`cargo run -- example-config > deploy/ringback.toml` brings it up to date"
    );
    for option in options().filter(|option| !option.is_hide_set()) {
        let name = option.get_long().expect("a long name");
        assert!(example.contains(&format!("\n#{name} = ")), "{name} in {example}");
        let help = option.get_help().expect("a meaning").to_string();
        assert!(example.contains(&format!("\n# {help}\n")), "{help} in {example}");
    }

    // With the marks taken away from the lines that have a default it says what is so anyway.
    let is_default = |name: &str| {
        options().any(|option| {
            option.get_long() == Some(name) && (is_flag(&option) || !option.get_default_values().is_empty())
        })
    };
    let lines = example.lines().filter_map(|line| line.strip_prefix('#'));
    let lines: Vec<_> =
        lines.filter(|line| line.split_once(" = ").is_some_and(|(name, _)| is_default(name))).collect();
    assert!(lines.len() > 10, "{lines:?}");
    let file = Scratch::file("example", &lines.join("\n"));
    let with = stdout(&run(command(&["--print-config"]).arg("--config").arg(&file.path)));
    let without = stdout(&run(&mut command(&["--print-config"])));
    let of_defaults = without.lines().map(|line| line.trim_start_matches("# "));
    let is_set = |line: &&str| values(&with).contains_key(line.split(" = ").next().unwrap_or_default());
    let of_defaults: Vec<_> = of_defaults.filter(is_set).collect();
    assert_eq!(values(&with), values(&of_defaults.join("\n")));
    let file = Scratch::file("comments", &example);
    let unchanged = stdout(&run(command(&["--print-config"]).arg("--config").arg(&file.path)));
    assert_eq!(unchanged, without, "as it comes it sets nothing");
}

#[test]
fn the_completions_and_the_manual_page_have_every_visible_option() {
    let man = stdout(&run(&mut command(&["man"]))).replace("\\-", "-");
    let mut documents = vec![("man".to_owned(), man)];
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = run(&mut command(&["completions", shell]));
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        documents.push((shell.to_owned(), stdout(&output)));
    }
    let visible: Vec<_> = options().filter(|option| !option.is_hide_set()).collect();
    let names = visible.iter().map(|option| option.get_long().expect("a long name"));
    for name in names.chain(["config", "print-config", "help", "version", "doctor"]) {
        for (document, text) in &documents {
            assert!(text.contains(name), "{name} in {document}");
        }
    }
    for option in options().filter(Arg::is_hide_set) {
        let name = option.get_long().expect("a long name");
        for (document, text) in &documents {
            assert!(!text.contains(name), "{name} in {document}");
        }
    }
    let unknown = run(&mut command(&["completions", "cmd"]));
    assert_eq!(unknown.status.code(), Some(64));
}

/// By the programs that will read them, where they are.
#[test]
fn the_completions_and_the_manual_page_are_well_formed() {
    for (program, arguments, document) in [
        ("bash", &["-n"][..], &["completions", "bash"][..]),
        ("zsh", &["-n"], &["completions", "zsh"]),
        ("fish", &["--no-execute"], &["completions", "fish"]),
        ("groff", &["-man", "-Tutf8", "-ww", "-z"], &["man"]),
    ] {
        let file = Scratch::file(program, &stdout(&run(&mut command(document))));
        match Command::new(program).args(arguments).arg(&file.path).stdin(Stdio::null()).output() {
            Ok(output) => {
                assert!(
                    output.status.success() && output.stderr.is_empty(),
                    "{program}: {}",
                    stderr(&output)
                );
            }
            Err(error) => println!("SKIPPED: {program}: {error}"),
        }
    }
}

/// A closed pipe is no mistake; a full disk is.
#[test]
fn what_cannot_be_written_is_said() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a device of Linux");
    let output = command(&["man"]).stdout(full).stderr(Stdio::piped()).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(74));
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
}

/// A file that sets every option to what is not its default.
fn every_option() -> String {
    options()
        .map(|option| format!("{} = {}\n", option.get_long().expect("a long name"), other_value(&option)))
        .collect()
}

fn other_value(option: &Arg) -> String {
    let name = option.get_long().expect("a long name");
    if is_flag(option) {
        // It contradicts --cpus, which is another one of them.
        return (name != "no-pin").to_string();
    }
    let defaults: Vec<_> = option.get_default_values().iter().map(|value| value.to_str()).collect();
    let takes = |word: &&str| {
        let argument = format!("--{name}={word}");
        !defaults.contains(&Some(*word))
            && cli::command().try_get_matches_from(["ringback", &argument]).is_ok()
    };
    let possible = option.get_possible_values();
    let words = possible.iter().map(PossibleValue::get_name).chain(CANDIDATES);
    let word = words.into_iter().find(takes).unwrap_or_else(|| panic!("no candidate for --{name}"));
    if matches!(option.get_action(), ArgAction::Append) { format!("[{word:?}]") } else { format!("{word:?}") }
}

/// The options that a file may have, by the definition of the command line.
fn options() -> impl Iterator<Item = Arg> {
    let arguments: Vec<_> = cli::command().get_arguments().cloned().collect();
    arguments.into_iter().filter(|option| !["config", "print_config"].contains(&option.get_id().as_str()))
}

fn is_flag(option: &Arg) -> bool {
    matches!(option.get_action(), ArgAction::SetTrue | ArgAction::SetFalse)
}

/// The line of one option that `--print-config` prints.
fn printed(command: &mut Command, name: &str) -> String {
    let output = run(command.arg("--print-config"));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    let mut lines =
        text.lines().filter(|line| line.trim_start_matches("# ").starts_with(&format!("{name} ")));
    let line = lines.next().unwrap_or_else(|| panic!("no {name} in {text}")).to_owned();
    assert_eq!(lines.next(), None, "{name} is there once");
    line
}

/// What a file sets, whatever the form of its numbers, and without where it came from.
fn values(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let pair = |line: &str| {
        let (name, value) = line.split_once(" = ").unwrap_or_else(|| panic!("{line}"));
        let value = value.split(" # ").next().unwrap_or_default();
        let is_number = value.trim_matches('"').bytes().all(|byte| byte.is_ascii_digit());
        (name.to_owned(), if is_number { value.trim_matches('"') } else { value }.to_owned())
    };
    lines.map(pair).collect()
}

#[track_caller]
fn expect_refusal(file: &Path, arguments: &[&str], said: &str) {
    let output = run(command(&["--config"]).arg(file).args(arguments));
    assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
    let line = stderr(&output);
    assert!(line.starts_with("ringback: ") && line.contains(said), "{said} in {line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(output.stdout.is_empty());
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A file of one test, in the end gone.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn file(name: &str, text: &str) -> Self {
        let name = format!("config-{name}-{}.toml", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&path, text).expect("a file");
        Self { path }
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The tables of the document are those of the manual page.
#[test]
fn the_manual_page_has_the_tables_of_the_document() {
    let man = stdout(&run(&mut command(&["man"]))).replace("\\-", "-").replace("\\&", "");
    for section in ["ENVIRONMENT", "EXIT STATUS", "SIGNALS", "FILES", "EXAMPLES"] {
        assert!(man.contains(section), "{section} in {man}");
    }
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/OPERATION.md");
    let document = fs::read_to_string(document).expect("docs/OPERATION.md");
    let (_, tables) = document.split_once("\n## Environment\n").expect("a section");
    let documented: Vec<_> = tables
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "))
        .filter(|(term, _)| !["variable", "code", "signal"].contains(term))
        .collect();
    let tables = [&documents::ENVIRONMENT[..], &documents::EXIT_STATUS, &documents::SIGNALS].concat();
    assert_eq!(documented, tables, "docs/OPERATION.md has the tables of src/documents.rs");
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for (term, _) in tables {
        assert!(plain(&man).contains(term), "{term} in {man}");
    }
}
