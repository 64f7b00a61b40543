//! What the system and the environment say no to, and how that is told.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output};

use crate::support::{Ran, load_ws, serve_tungstenite};

/// Runs the program with JSON under a limit of the shell, if that can be set.
fn under(limit: &str, args: &str) -> Ran {
    let script = format!("ulimit {limit} && exec \"$0\" {args} --json");
    let Output { status, stdout, stderr } =
        Command::new("bash").args(["-c", &script, env!("CARGO_BIN_EXE_loadtest")]).output().expect("a shell");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ran { code: status.code().expect("no signal"), stdout: text(stdout), stderr: text(stderr) }
}

fn assert_told(ran: &Ran, code: i32, part: &str) {
    assert_eq!(ran.code, code, "{}{}", ran.stdout, ran.stderr);
    let last = ran.stderr.lines().last().expect("a line");
    assert!(last.starts_with("loadtest: ") && last.contains(part), "{part} in {}", ran.stderr);
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    assert_eq!(ran.json()["error"]["exit_code"], code);
    assert_eq!(ran.json()["error"]["message"], last["loadtest: ".len()..]);
}

#[test]
fn few_files_are_told_with_the_cure() {
    for (limit, args) in [
        ("-n 6", "ws://127.0.0.1:1/ -c 2"),
        ("-n 8", "ws://127.0.0.1:1/ -c 2 --engine epoll"),
        ("-n 13", "ws://127.0.0.1:1/ -c 2 --engine epoll"),
        ("-n 40", "ws://127.0.0.1:1/ -c 2000 --engine epoll"),
        ("-n 100", "ws://127.0.0.1:1/ -c 2000"),
    ] {
        assert_told(&under(limit, args), 71, "ulimit -");
    }
}

#[test]
fn little_memory_is_told_with_the_cure() {
    assert_told(&under("-v 400000", "ws://127.0.0.1:1/ --size 1GiB"), 71, "ulimit -v");
    assert_told(&under("-v 2000000", "ws://127.0.0.1:1/ --threads 1024 -c 2000"), 71, "ulimit -v");
    assert_told(&under("-v 2000000", "ws://127.0.0.1:1/ --sizes 64,1GiB --kind mixed"), 71, "ulimit -v");
}

#[test]
fn a_wrong_environment_is_told_with_its_name_and_an_empty_one_is_none() {
    let address = serve_tungstenite();
    let run = |value: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
        command.args([
            &format!("ws://{address}/"),
            "-c",
            "1",
            "-d",
            "50ms",
            "--warmup",
            "0s",
            "--grace",
            "60s",
        ]);
        command.env("LOADTEST_ENGINE", value).output().expect("it is built")
    };
    let wrong = run("foo");
    let told = String::from_utf8(wrong.stderr).expect("text");
    assert_eq!(
        (wrong.status.code(), told.as_str()),
        (Some(64), "loadtest: LOADTEST_ENGINE=foo: auto, ring or epoll is needed, or nothing\n",)
    );
    for value in ["", "epoll", "auto"] {
        let ran = run(value);
        assert_eq!(ran.status.code(), Some(0), "{value}: {}", String::from_utf8_lossy(&ran.stderr));
    }
    assert_eq!(load_ws(address, &["-c", "1", "--engine", "epoll"]).json()["engine"], "epoll");
}

/// Runs the program with these variables, and without a server.
fn with(variables: &[(&str, &str)], args: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    let Output { status, stdout, stderr } =
        command.args(args).envs(variables.iter().copied()).output().expect("it is built");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ran { code: status.code().expect("no signal"), stdout: text(stdout), stderr: text(stderr) }
}

#[test]
fn a_wrong_variable_is_told_whatever_the_command_line_says() {
    let load = &["ws://127.0.0.1:1/", "-c", "1", "--json", "--engine", "epoll"][..];
    for (name, value, told) in [
        ("LOADTEST_ENGINE", "x", "LOADTEST_ENGINE=x: auto, ring or epoll is needed, or nothing"),
        (
            "LOADTEST_ENGIN",
            "ring",
            "LOADTEST_ENGIN: no option has this variable; the only one is LOADTEST_ENGINE",
        ),
        ("LOADTEST_CONNECTIONS", "", "LOADTEST_CONNECTIONS: no option has this variable"),
        ("RINGBACK_MASK", "mmx", "RINGBACK_MASK=\"mmx\": "),
    ] {
        assert_told(&with(&[(name, value)], load), 64, told);
        assert_told(&with(&[(name, value)], &["merge", "--json", "/nonexistent.hdr"]), 64, told);
        for command in [&["compare", "a=b {port}"][..], &["demo"]] {
            let ran = with(&[(name, value)], command);
            assert!(ran.code == 64 && ran.stderr.contains(told), "{name}, {command:?}: {}", ran.stderr);
        }
    }
    // Nobody listens there: it gets that far.
    for (name, value) in
        [("LOADTEST_SERVICE_HOST", "10.0.0.1"), ("LOADTEST_ENGINE", ""), ("RINGBACK_MASK", "")]
    {
        assert_eq!(with(&[(name, value)], load).code, 69, "{name}");
    }
}

/// The numbers in a text that may be exit codes.
fn numbers(text: &str) -> BTreeSet<u8> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn the_exit_codes_are_in_one_table_and_the_help_agrees() {
    let file = |name: &str| {
        fs::read_to_string(format!("{}/../{name}", env!("CARGO_MANIFEST_DIR"))).expect("it is there")
    };
    let manual = file("docs/LOADTEST.md");
    let (_, section) = manual.split_once("\n## Exit codes\n").expect("a section");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    let codes: BTreeSet<_> = rows.flat_map(|(codes, _)| numbers(codes)).collect();
    assert!(codes.len() > 6, "{codes:?}");
    for command in [&["--help"][..], &["compare", "--help"]] {
        let ran = with(&[], command);
        assert_eq!(ran.code, 0);
        let (_, status) = ran.stdout.split_once("Exit status:").expect("it is told");
        let status = status.split("\n\n").next().unwrap_or_default();
        assert_eq!(numbers(status), codes, "{command:?}");
    }
    let read_me = file("README.md");
    assert!(read_me.contains("](docs/LOADTEST.md#exit-codes)") && !read_me.contains("`loadtest` ends with"));
}
