//! A server that cannot start, and what it says: one line with the cure, by whatever path, in the form of the log.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::process::{Command, Output, Stdio};

use ringback::proto::frame::OpCode;
use rustix::process::Signal;
use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};
use serde_json::Value;

use crate::common::{self, DEADLINE, Server, command, filter, limited};
use crate::on_each_engine;

on_each_engine! {
    a_refused_system_call_ends_with_one_line,
    a_refused_thread_ends_with_one_line,
    few_descriptors_end_with_one_line,
    little_memory_ends_with_one_line,
    standard_streams_that_cannot_be_used_stop_nobody,
}

/// Of clone(2).
const CLONE_THREAD: u64 = 0x1_0000;

fn options(engine: &str) -> [&str; 9] {
    [
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--workers",
        "2",
        "--log-format=json",
        "--engine",
        engine,
    ]
}

/// Refused from the first instruction on: the loader itself needs none of them.
fn a_refused_system_call_ends_with_one_line(engine: &str) {
    for (calls, errno, is_always_fatal) in [
        (&[libc::SYS_eventfd2][..], libc::EMFILE, true),
        (&[libc::SYS_epoll_create1], libc::EMFILE, true),
        (&[libc::SYS_epoll_ctl], libc::ENOSPC, true),
        (&[libc::SYS_socketpair], libc::EPERM, true),
        (&[libc::SYS_socket], libc::EACCES, true),
        (&[libc::SYS_bind], libc::EACCES, true),
        (&[libc::SYS_listen], libc::EACCES, true),
        // Each is needed by some engines only.
        (&[libc::SYS_timerfd_create], libc::EMFILE, false),
        (&[libc::SYS_sched_setaffinity], libc::EPERM, false),
        (&[libc::SYS_io_uring_setup], libc::ENOMEM, false),
        (&[libc::SYS_io_uring_register], libc::EPERM, false),
    ] {
        let rules = calls.iter().map(|&call| (call, Vec::new())).collect();
        let refusal = filter::filter(rules, SeccompAction::Allow, filter::error(errno));
        let owned = engine.to_owned();
        let started =
            filter::under(vec![refusal], move || Server::try_spawn(command(&options(&owned))).map(drop));
        match started {
            Err((status, log)) => {
                let code = status.code().unwrap_or_else(|| panic!("{calls:?}: {status} {log:?}"));
                assert!([69, 71, 77].contains(&code), "{calls:?}: {status} {log:?}");
                expect_cure(&log, code);
            }
            Ok(()) => assert!(!is_always_fatal, "{calls:?} are needed"),
        }
    }
}

/// Threads alone: a process is made by the same call without the flag, and clone3 hides its flags from a filter.
fn a_refused_thread_ends_with_one_line(engine: &str) {
    let of_threads =
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(CLONE_THREAD), CLONE_THREAD);
    let rule = SeccompRule::new(vec![of_threads.expect("a condition")]).expect("a rule");
    for errno in [libc::EAGAIN, libc::EPERM] {
        let rules = [(libc::SYS_clone, vec![rule.clone()])].into();
        let threads = filter::filter(rules, SeccompAction::Allow, filter::error(errno));
        let owned = engine.to_owned();
        let output =
            filter::under(vec![filter::refuse(libc::SYS_clone3, libc::ENOSYS), threads], move || {
                command(&options(&owned)).output().expect("the binary runs")
            });
        let log: Vec<_> = String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect();
        assert_eq!(output.status.code(), Some(71), "{log:?}");
        expect_cure(&log, 71);
    }
}

fn few_descriptors_end_with_one_line(engine: &str) {
    for limit in [4, 8, 12, 16, 24, 32, 48, 64, 96] {
        let mut server = command(&options(engine));
        server.env("RUST_BACKTRACE", "0");
        let limited = limited(&format!("ulimit -n {limit}"), &server);
        if let Err((status, log)) = Server::try_spawn(limited) {
            assert_eq!(status.code(), Some(71), "{limit}: {log:?}");
            expect_cure(&log, 71);
            assert!(log.last().is_some_and(|line| line.contains("ulimit -n")), "{limit}: {log:?}");
        } else {
            assert!(limit > 16, "{limit} are too few");
        }
    }
}

fn little_memory_ends_with_one_line(engine: &str) {
    for mebibytes in [24, 32, 48, 64, 96, 128, 160, 192, 256, 288] {
        let limited = limited(&format!("ulimit -v {}", mebibytes << 10), &command(&options(engine)));
        if let Err((status, log)) = Server::try_spawn(limited) {
            assert_eq!(status.code(), Some(71), "{mebibytes} MiB: {log:?}");
            expect_cure(&log, 71);
            assert!(log.last().is_some_and(|line| line.contains("ulimit -v")), "{log:?}");
        }
    }
}

/// The last line is JSON, says which code it ends with, and what to do.
#[track_caller]
fn expect_cure(log: &[String], code: i32) {
    let lines: Vec<Value> = log
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let last = lines.last().expect("a line");
    assert_eq!((&last["level"], &last["exit_code"]), (&"ERROR".into(), &code.into()), "{last}");
    let message = last["message"].as_str().expect("a message");
    assert!(message.contains("; ") && !message.contains('\n'), "no cure in {message}");
    let ends = lines.iter().filter(|line| line["exit_code"].is_number()).count();
    assert_eq!(ends, 1, "{lines:?}");
}

fn standard_streams_that_cannot_be_used_stop_nobody(engine: &str) {
    // With no line to read, the server is known by its socket.
    let name = format!("ringback-start-{}-{engine}", std::process::id());
    let listen = format!("unix:@{name}");
    let address =
        <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name);
    let address = address.expect("a name");
    let full_device = || Stdio::from(OpenOptions::new().write(true).open("/dev/full").expect("a device"));
    let (_reader, full_pipe) = full_pipe();
    let pipe = || Stdio::from(full_pipe.try_clone().expect("a descriptor"));
    let streams: [(&str, [Stdio; 2]); 5] = [
        ("", [full_device(), full_device()]),
        ("", [pipe(), pipe()]),
        ("exec >&-", [Stdio::null(), Stdio::null()]),
        ("exec 2>&-", [Stdio::null(), Stdio::null()]),
        ("exec <&- >&- 2>&-", [Stdio::null(), Stdio::null()]),
    ];
    for (before, [stdout, stderr]) in streams {
        let before = if before.is_empty() { "true" } else { before };
        let mut server = limited(before, &command(&["--listen", &listen, "--engine", engine]));
        let mut child = server.stdout(stdout).stderr(stderr).spawn().expect("the binary runs");
        let began = std::time::Instant::now();
        while std::os::unix::net::UnixStream::connect_addr(&address).is_err() {
            assert!(began.elapsed() < DEADLINE, "{before}: it does not listen");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        common::Client::connect_unix(&address).echo(OpCode::Text, b"all the same");
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM)
            .expect("it runs");
        let code = loop {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                break status.code();
            }
            if began.elapsed() > DEADLINE {
                let _ = child.kill();
                panic!("{before}: it does not end");
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        assert_eq!(code, Some(0), "{before}");
    }
}

/// What is asked for on standard output and cannot be written has a code of its own; a mistake keeps its code.
#[test]
fn what_cannot_be_said_changes_no_other_code() {
    let full = || OpenOptions::new().write(true).open("/dev/full").expect("a device of Linux");
    for (arguments, code) in [
        (&["--help"][..], 74),
        (&["--version"], 74),
        (&["man"], 74),
        (&["completions", "bash"], 74),
        (&["example-config"], 74),
        (&["--print-config"], 74),
        (&["--listen=127.0.0.1:0", "doctor"], 74),
        (&["--workers", "0"], 64),
        (&["--listen", "192.0.2.1:0"], 69),
    ] {
        let output = command(arguments).stdout(full()).stderr(full()).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        let mut nowhere = limited("exec >&- 2>&-", &command(arguments));
        let code = if code == 74 { 0 } else { code };
        let got = nowhere.output().expect("the binary runs").status.code();
        assert!(got == Some(code) || got == Some(69), "{arguments:?}: {got:?}");
        let (_reader, pipe) = full_pipe();
        if code == 64 || code == 69 {
            let status = command(arguments).stderr(Stdio::from(pipe)).status().expect("the binary runs");
            assert_eq!(status.code(), Some(code), "{arguments:?}: nobody reads, and nobody waits");
        }
    }
}

/// What another program set up before holds for subcommands too.
#[test]
fn few_threads_end_with_one_line_and_the_doctor_says_so_before() {
    if !rustix::process::getuid().is_root() {
        return println!("SKIPPED: threads cannot be counted for a user of their own");
    }
    let binary = env!("CARGO_BIN_EXE_ringback");
    let of_user = |limit: u32, arguments: &[&str]| -> Option<Output> {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65531", "--regid=65531", "--clear-groups", "prlimit"]);
        command.arg(format!("--nproc={limit}")).arg(binary).args(arguments).stdin(Stdio::null());
        let output = command.output().ok()?;
        (output.status.code() != Some(127)).then_some(output)
    };
    for limit in 0..4 {
        let options = ["--listen=127.0.0.1:0", "--workers=3", "--engine=epoll"];
        let Some(server) = of_user(limit, &options) else {
            return println!("SKIPPED: there is no setpriv or prlimit");
        };
        let said = String::from_utf8_lossy(&server.stderr).into_owned();
        assert_eq!(server.status.code(), Some(71), "{said}");
        assert!(said.lines().last().is_some_and(|line| line.contains("ulimit -u")), "{said}");
        let doctor = of_user(limit, &[&options[..], &["doctor"]].concat()).expect("it is there");
        let findings = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert_eq!(doctor.status.code(), Some(71), "{findings}");
        assert!(findings.contains("FAIL") && findings.contains("ulimit -u"), "{findings}");
        assert_eq!(of_user(limit, &["man"]).expect("it is there").status.code(), Some(0));
    }
}

/// A pipe that takes nothing more, and its other end.
fn full_pipe() -> (std::io::PipeReader, OwnedFd) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    // The size of a pipe (pipe(7)), unless there are very many of them.
    std::io::Write::write_all(&mut &writer, &[b' '; 64 << 10]).expect("as much as it takes");
    (reader, writer.into())
}
