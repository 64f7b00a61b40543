//! The environment of the `ringback` binary: an empty variable is unset, a wrong one ends with 64, its name and its value.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt as _;
use std::process::{Command, Output};

use ringback::cli;
use ringback::proto::frame::OpCode;

use crate::common::{Server, command};

/// Those that are no options.
const OTHERS: [&str; 7] =
    ["RUST_LOG", "RINGBACK_MASK", "NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NO_COLOR"];

#[test]
fn an_empty_variable_is_unset() {
    let printed = |command: &mut Command| {
        let output = command.arg("--print-config").output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let unset = printed(&mut command(&[]));
    let names: Vec<_> = variables().collect();
    assert!(names.len() > 30);
    for name in &names {
        assert_eq!(printed(command(&[]).env(name, "")), unset, "{name}");
    }
    assert_eq!(printed(command(&[]).envs(names.iter().map(|name| (name, "")))), unset);
    // The help names it all the same.
    let help = command(&["--help"]).env("RINGBACK_WORKERS", "").output().expect("the binary runs");
    assert!(String::from_utf8_lossy(&help.stdout).contains("RINGBACK_WORKERS"));

    let mut server = command(&["--listen", "127.0.0.1:0"]);
    server.envs(names.iter().map(|name| (name, ""))).envs(OTHERS.map(|name| (name, "")));
    let server = Server::spawn(server);
    server.connect().echo(OpCode::Text, b"by the defaults");
    server.log_until("started");
}

#[test]
fn a_wrong_variable_ends_with_its_name_and_its_value() {
    for (name, value, why) in [
        ("RUST_LOG", "inof", "\"inof\" is no level"),
        ("RUST_LOG", "info,ringback=loud", ": \"ringback=loud\" is no PART=LEVEL: give error, warn, info"),
        ("RUST_LOG", "foo=bar,info", ": \"foo=bar\" is no PART=LEVEL: give error"),
        ("RUST_LOG", "a=b=c", ": \"a=b=c\" is no PART=LEVEL: give error"),
        ("RUST_LOG", "a[b=info", ": \"a[b=info\" is no PART=LEVEL: give error"),
        ("RINGBACK_MASK", "avx9", "available: "),
        ("RINGBACK_MASK", if cfg!(target_arch = "x86_64") { "neon" } else { "avx2" }, "available: "),
        ("NOTIFY_SOCKET", "run/notify", "no unix socket"),
        ("NOTIFY_SOCKET", "/", "no unix socket"),
        ("LISTEN_PID", "this", "no number of a process"),
        ("LISTEN_PID", "-1", "no number of a process"),
    ] {
        for arguments in
            [&["--listen=127.0.0.1:0"][..], &["--listen=127.0.0.1:0", "doctor"], &["--print-config"]]
        {
            let said = refused(command(arguments).env(name, value));
            assert!(said.starts_with(&format!("ringback: {name}={value:?}: ")), "{said}");
            assert!(said.contains(why), "{said}");
        }
    }
    // Which controls there are the kernel knows.
    for name in variables().filter(|name| name != "RINGBACK_CONGESTION_CONTROL") {
        let said = refused(command(&[]).env(&name, "\u{1}\u{1}x"));
        let of_file = name == "RINGBACK_CONFIG" && said.contains("--config or RINGBACK_CONFIG names it");
        assert!(said.starts_with(&format!("ringback: {name}: ")) || of_file, "{name}: {said}");
    }
}

/// The command line stands above the environment, and does not hide a mistake there.
#[test]
fn a_wrong_variable_of_an_option_on_the_command_line_is_told() {
    let bad = OsString::from_vec(b"/\xFF".to_vec());
    let printed = command(&["--print-config"]).output().expect("the binary runs").stdout;
    let printed = String::from_utf8(printed).expect("UTF-8");
    let mut seen = 0;
    // Each with its default, as `# name = value # default` has it.
    for line in printed.lines().filter(|line| line.ends_with(" # default")) {
        let (name, value) = line.trim_start_matches("# ").split_once(" = ").expect("an option");
        let value = value.trim_end_matches(" # default").trim_matches(['[', ']']).trim_matches('"');
        let (option, variable) =
            (format!("--{name}={value}"), format!("RINGBACK_{}", name.replace('-', "_").to_uppercase()));
        let takes = |option: &str| cli::command().try_get_matches_from(["ringback", option]).is_ok();
        if !takes(&option) || name == "congestion-control" {
            continue;
        }
        seen += 1;
        let said = refused(command(&[&option]).env(&variable, "\u{1}\u{1}x"));
        assert!(said.starts_with(&format!("ringback: {variable}: ")), "{option}: {said}");
        let said = refused(command(&[&option]).env(&variable, &bad));
        assert!(said.contains(&variable), "{option}: {said}");
    }
    assert!(seen > 20, "{seen} of {printed}");
    for (option, variable, value) in [
        ("--workers=1", "RINGBACK_WORKERS", "x"),
        ("--handshake-timeout=1s", "RINGBACK_HANDSHAKE_TIMEOUT", "0s"),
        ("--listen=127.0.0.1:0", "RINGBACK_LISTEN", " 127.0.0.1:0"),
        ("--no-pin", "RINGBACK_NO_PIN", "2"),
    ] {
        let said = refused(command(&[option, "doctor"]).env(variable, value));
        assert!(said.starts_with(&format!("ringback: {variable}: invalid value '{value}'")), "{said}");
    }
}

#[test]
fn what_is_not_utf_8_is_named() {
    let bad = OsString::from_vec(b"/\xFF".to_vec());
    for name in OTHERS.into_iter().filter(|name| !["LISTEN_FDS", "LISTEN_FDNAMES", "NO_COLOR"].contains(name))
    {
        let said = refused(command(&["--listen=127.0.0.1:0"]).env(name, &bad));
        assert!(said.starts_with(&format!("ringback: {name}=")), "{said}");
    }
    for name in variables().filter(|name| name != "RINGBACK_CONFIG") {
        let said = refused(command(&[]).env(&name, &bad));
        assert!(said.contains(&name), "{name}: {said}");
    }
    let said = refused(command(&["--path"]).arg(&bad));
    assert!(said.contains("\"/\u{FFFD}\" is not UTF-8"), "{said}");
}

#[test]
fn a_flag_is_yes_or_no() {
    for (value, line) in [
        ("yes", "no-pin = true # environment RINGBACK_NO_PIN"),
        ("TRUE", "no-pin = true # environment RINGBACK_NO_PIN"),
        ("1", "no-pin = true # environment RINGBACK_NO_PIN"),
        ("on", "no-pin = true # environment RINGBACK_NO_PIN"),
        ("0", "no-pin = false # environment RINGBACK_NO_PIN"),
        ("no", "no-pin = false # environment RINGBACK_NO_PIN"),
        ("false", "no-pin = false # environment RINGBACK_NO_PIN"),
        ("off", "no-pin = false # environment RINGBACK_NO_PIN"),
        ("", "# no-pin = false # default"),
    ] {
        let output = command(&["--print-config"]).env("RINGBACK_NO_PIN", value).output().expect("it runs");
        let printed = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(printed.lines().any(|printed| printed == line), "{value}: {printed}");
    }
    let said = refused(command(&[]).env("RINGBACK_NO_PIN", "2"));
    assert!(
        said.contains("RINGBACK_NO_PIN") && said.contains("'2'") && said.contains("yes, on or 1"),
        "{said}"
    );
}

#[test]
fn a_blank_in_a_list_is_named() {
    for (name, value) in [
        ("RINGBACK_LISTEN", "127.0.0.1:1, 127.0.0.1:2"),
        ("RINGBACK_PATH", "/a ,/b"),
        ("RINGBACK_SUBPROTOCOL", "a, b"),
        ("RINGBACK_ALLOWED_ORIGIN", "null, http://a"),
        ("RINGBACK_WORKERS", " 2"),
    ] {
        let said = refused(command(&[]).env(name, value));
        assert!(said.contains(name) && said.contains("leave out the blank"), "{said}");
    }
}

/// The message of a command that ends with 64: one line.
#[track_caller]
fn refused(command: &mut Command) -> String {
    let output = command.output().expect("the binary runs");
    let said = stderr(&output);
    assert_eq!((output.status.code(), said.lines().count()), (Some(64), 1), "{said}");
    assert!(output.stdout.is_empty());
    said
}

/// Those of options.
fn variables() -> impl Iterator<Item = String> {
    let command = cli::command();
    let names: Vec<_> =
        command.get_arguments().filter_map(|argument| argument.get_env().and_then(OsStr::to_str)).collect();
    names.into_iter().map(str::to_owned).collect::<Vec<_>>().into_iter()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
