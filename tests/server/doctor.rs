//! `ringback doctor`: what it finds, and how it ends.

use std::process::Output;

use crate::common::{self, filter};

/// What the ring engine needs, in words that stand in the findings.
const NEEDS: [&str; 11] = [
    "DEFER_TASKRUN",
    "EXT_ARG",
    "ASYNC_CANCEL",
    "sparse table",
    "provided buffers",
    "multishot ACCEPT",
    "multishot RECV",
    "MSG_WAITALL",
    "SHUTDOWN and CLOSE",
    "multishot POLL_ADD",
    "locked memory",
];

#[test]
fn where_the_ring_engine_can_run_it_says_so() {
    if !common::is_runnable("tokio-uring") || !is_linux_6_1() {
        return println!("SKIPPED: the ring engine cannot run here");
    }
    let doctor = doctor(&["--workers", "2"]);
    assert_eq!(doctor.status.code(), Some(0), "{}", text(&doctor));
    let text = text(&doctor);
    for need in NEEDS {
        assert!(text.lines().any(|line| line.starts_with("ok") && line.contains(need)), "{need} in {text}");
    }
    assert!(!text.contains("FAIL"), "{text}");
    for looked_at in ["kernel:", "sysctl:", "seccomp:", "open files:", "accept queue:", "congestion control:"]
    {
        assert!(text.contains(looked_at), "{looked_at} in {text}");
    }
    assert!(text.contains("`--engine auto` takes "), "{text}");
    assert!(text.ends_with("The ring engine can run here.\n"), "{text}");
    assert!(doctor.stderr.is_empty());
}

/// Docker's profile answers EPERM; gVisor and kernels without io_uring, ENOSYS; a low limit of locked memory, ENOMEM.
#[test]
fn each_refusal_of_a_ring_ends_with_its_cure() {
    for (errno, cure) in [
        (libc::EPERM, "seccomp"),
        (libc::ENOSYS, "seccomp"),
        (libc::ENOMEM, "ulimit -l"),
        (libc::EINVAL, "6.1"),
    ] {
        expect_refusal(libc::SYS_io_uring_setup, errno, "io_uring_setup(2)", cure);
    }
}

/// A profile may allow some of the three system calls only.
#[test]
fn each_system_call_of_io_uring_is_tried() {
    expect_refusal(libc::SYS_io_uring_register, libc::EPERM, "opcodes", "io_uring_register");
    expect_refusal(libc::SYS_io_uring_enter, libc::EPERM, "ACCEPT", "io_uring_enter");
}

#[track_caller]
fn expect_refusal(system_call: i64, errno: i32, what: &str, cure: &str) {
    let refused = filter::under(vec![filter::refuse(system_call, errno)], || doctor(&[]));
    assert_eq!(refused.status.code(), Some(69), "{}", text(&refused));
    let text = text(&refused);
    let lines: Vec<_> = text.lines().collect();
    let failed = lines.iter().position(|line| line.starts_with("FAIL")).expect("a failure");
    assert!(lines[failed].contains(what), "{what} in {text}");
    assert!(lines[failed + 1].starts_with("      cure: ") && lines[failed + 1].contains(cure), "{text}");
    assert!(text.contains("`--engine auto` takes "), "{text}");
    assert!(text.ends_with("The ring engine cannot run here.\n"), "{text}");
}

/// More rings than there is locked memory for; root has no such limit.
#[test]
fn rings_that_do_not_fit_are_a_failure() {
    let is_root = rustix::process::getuid().is_root();
    let program = if is_root { "setpriv" } else { "prlimit" };
    let no_privileges =
        ["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "prlimit"];
    let limited = std::process::Command::new(program)
        .args(if is_root { &no_privileges[..] } else { &[] })
        .args(["--memlock=65536", env!("CARGO_BIN_EXE_ringback"), "--workers=20", "doctor"])
        .output();
    let limited = match limited {
        Ok(limited) if !limited.stdout.is_empty() => limited,
        other => return println!("SKIPPED: memory cannot be made short by {program}: {other:?}"),
    };
    assert_eq!(limited.status.code(), Some(69), "{}", text(&limited));
    assert!(text(&limited).contains("ulimit -l"), "{}", text(&limited));
}

fn doctor(options: &[&str]) -> Output {
    common::command(&["--listen=127.0.0.1:0"]).args(options).arg("doctor").output().expect("the binary runs")
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("findings are UTF-8")
}

fn is_linux_6_1() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(1))
}

/// What ends a server at its start ends the doctor with the same code, and the same cure.
#[test]
fn the_doctor_ends_as_the_server_would() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = listener.local_addr().expect("it is bound").to_string();
    for (options, cure) in [
        (&["--listen", &taken][..], "choose another with --listen"),
        (&["--admin", &taken], "choose another with --admin"),
        (&["--listen", "192.0.2.1:0"], "an address of this machine"),
        (&["--listen", "unix:/there/is/none.sock"], "its directory has to be there"),
        (&["--listen", "unix:/dev/null"], "choose another path"),
        (&["--congestion-control", "no-such-control"], "tcp_allowed_congestion_control"),
        (&["--engine", "epoll", "--max-connections", "2000000000"], "lower --max-connections"),
        (&["--cpus", "1000"], "--cpus"),
        (&["--workers", "1", "--max-connections", "2000000000"], "lower --max-connections"),
        (&["--listen", "[fe80::1%4000000000]:0"], "`ip link`"),
    ] {
        if options[1].starts_with('[') && std::net::TcpListener::bind("[::1]:0").is_err() {
            println!("SKIPPED: {options:?}: there is no IPv6");
            continue;
        }
        let options = [&["--listen", "127.0.0.1:0"], options].concat();
        let server = common::command(&options).output().expect("the binary runs");
        let said = String::from_utf8_lossy(&server.stderr).into_owned();
        assert!(server.status.code() != Some(0) && said.contains(cure), "{options:?}: {said}");
        let doctor = common::command(&options).arg("doctor").output().expect("the binary runs");
        let findings = text(&doctor);
        assert_eq!(doctor.status.code(), server.status.code(), "{options:?}: {findings}");
        assert!(findings.contains("FAIL") && findings.contains(cure), "{options:?}: {findings}");
        assert!(findings.contains("A server cannot start with these options.\n"), "{findings}");
    }
    // Too few descriptors for so many connections are no obstacle for the ring engine.
    if common::is_runnable("ring") {
        let findings = text(&doctor(&["--workers", "1", "--max-connections", "65536"]));
        assert!(
            findings.ends_with("start with these options.\nThe ring engine can run here.\n"),
            "{findings}"
        );
    }
    drop(listener);
    let fine = doctor(&["--engine", "epoll", "--admin", "127.0.0.1:0"]);
    assert_eq!(fine.status.code(), Some(0), "{}", text(&fine));
    assert!(text(&fine).contains("A server can start with these options.\n"), "{}", text(&fine));
    // Where another engine is asked for, nobody needs a ring.
    let refused = filter::under(vec![filter::refuse(libc::SYS_io_uring_setup, libc::EPERM)], || {
        doctor(&["--engine", "epoll"])
    });
    assert_eq!(refused.status.code(), Some(0), "{}", text(&refused));
}
