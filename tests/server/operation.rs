//! What operators meet: where a server runs, what it looks like to the system, and its limits.

use std::fs;
use std::process::{Output, Stdio};

use ringback::proto::frame::OpCode;
use rustix::thread::{CpuSet, sched_getaffinity};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition as Condition, SeccompRule,
};

use crate::common::{self, Server, command, filter, handshake};
use crate::on_each_engine;

on_each_engine! {
    a_wait_for_clients_is_none_for_a_disk,
    huge_pages_are_off_unless_they_are_asked_for,
}

/// From linux/io_uring.h.
const ENTER_NO_IOWAIT: u64 = 1 << 7;

/// Every io_uring_enter(2) that waits without the flag is answered by an error, which ends a worker.
fn a_wait_for_clients_is_none_for_a_disk(engine: &str) {
    let doctor = command(&["doctor"]).output().expect("the binary runs");
    if !String::from_utf8_lossy(&doctor.stdout).contains("ok    ring, optional: NO_IOWAIT") {
        return println!("SKIPPED: IORING_ENTER_NO_IOWAIT, which this kernel does not have");
    }
    let waits = Condition::new(2, Len::Dword, Op::Ge, 1).expect("a condition");
    let as_for_a_disk = Condition::new(3, Len::Dword, Op::MaskedEq(ENTER_NO_IOWAIT), 0).expect("a condition");
    let rule = SeccompRule::new(vec![waits, as_for_a_disk]).expect("conditions");
    let rules = [(libc::SYS_io_uring_enter, vec![rule])].into();
    let refusal = filter::filter(rules, SeccompAction::Allow, filter::error(libc::EPERM));
    let engine = engine.to_owned();
    let server = filter::under(vec![refusal], move || Server::start(&engine, &[]));
    for _ in 0..3 {
        std::thread::sleep(std::time::Duration::from_millis(100));
        server.connect().echo(OpCode::Text, b"after a rest");
    }
}

/// proc_pid_status(5), proc_pid_smaps(5).
fn huge_pages_are_off_unless_they_are_asked_for(engine: &str) {
    let read = |server: &Server, file: &str, name: &str| {
        let path = format!("/proc/{}/{file}", server.pid().as_raw_nonzero());
        let text = fs::read_to_string(path).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned())
    };
    let server = Server::start(engine, &[]);
    server.connect().echo(OpCode::Binary, &common::pattern(1 << 20));
    let Some(enabled) = read(&server, "status", "THP_enabled") else {
        return println!("SKIPPED: huge pages, of which this kernel says nothing");
    };
    assert_eq!(enabled, "0");
    let system = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    if !system.contains("[always]") {
        assert_eq!(read(&server, "smaps_rollup", "AnonHugePages").as_deref(), Some("0 kB"));
    }
    let mut command = command(&["--listen", "127.0.0.1:0", "--workers", "1", "--engine", engine]);
    command.env("MIMALLOC_ALLOW_THP", "1");
    assert_eq!(read(&Server::spawn(command), "status", "THP_enabled").as_deref(), Some("1"));
}

/// The CPUs that this process may use.
fn cpus() -> Vec<usize> {
    let mask = sched_getaffinity(None).expect("the kernel says");
    (0..CpuSet::MAX_CPU).filter(|&cpu| mask.is_set(cpu)).collect()
}

/// The CPUs that a thread of the server may use, as the kernel writes them.
fn cpus_of(server: &Server, thread: &str) -> String {
    let path = format!("/proc/{}/status", server.thread(thread).as_raw_nonzero());
    let status = fs::read_to_string(path).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("a line");
    line.trim().to_owned()
}

/// Of two servers with one worker each both would sit on the first CPU.
#[test]
fn workers_that_do_not_fill_the_mask_are_not_pinned() {
    let all = cpus();
    let pinned = |more: &[&str]| {
        let mut command = command(&["--listen", "127.0.0.1:0", "--engine", "epoll"]);
        command.args(more);
        let server = Server::spawn(command);
        let started = server.log_until("started").pop().expect("a line");
        let said = server
            .announcement
            .split_once(" on CPUs ")
            .map(|(_, cpus)| cpus.trim_end_matches(')').to_owned());
        assert_eq!(started.contains("cpus="), said.is_some(), "{started}");
        (cpus_of(&server, "ringback-0"), cpus_of(&server, "ringback"), said)
    };
    let (worker, main, said) = pinned(&["--workers", "1"]);
    if all.len() > 1 {
        assert_eq!((&worker, said), (&main, None));
    } else {
        println!("SKIPPED: several CPUs, which this machine does not have");
    }
    let (worker, main, said) = pinned(&["--workers", &all.len().to_string(), "--no-pin"]);
    assert_eq!((&worker, said), (&main, None));
    let last = all.last().expect("one").to_string();
    let (worker, _, said) = pinned(&["--cpus", &last]);
    assert_eq!((worker, said), (last.clone(), Some(last)));
}

#[test]
fn workers_are_kept_on_the_cpus_that_were_asked_for() {
    let all = cpus();
    let [first, second, ..] = all[..] else {
        return println!("SKIPPED: several CPUs, which this machine does not have");
    };
    let list = format!("{second},{first}");
    let start = |more: &[&str]| {
        let mut command = command(&["--listen", "127.0.0.1:0", "--engine", "epoll"]);
        command.args(more).env("RINGBACK_CPUS", &list);
        let server = Server::spawn(command);
        assert!(
            server.announcement.contains(&format!(" workers on CPUs {list})")),
            "{}",
            server.announcement
        );
        server
    };
    let server = start(&[]);
    assert_eq!(cpus_of(&server, "ringback-0"), second.to_string());
    assert_eq!(cpus_of(&server, "ringback-1"), first.to_string());
    // As many as are not one on each share them.
    let both = if first + 1 == second { format!("{first}-{second}") } else { format!("{first},{second}") };
    for workers in ["1", "3"] {
        assert_eq!(cpus_of(&start(&["--workers", workers]), "ringback-0"), both);
    }
}

#[test]
fn cpus_that_cannot_be_had_are_named() {
    let last = *cpus().last().expect("one");
    let there_is_none = format!("{}", last + 1);
    for (arguments, says) in [
        (
            &["--cpus", &there_is_none][..],
            format!("--cpus: CPU {there_is_none} is not there or not in the affinity mask"),
        ),
        (&["--cpus", "0", "--no-pin"], "--no-pin leaves that to the kernel: give one of the two".into()),
        (&["--cpus", "0-1,1"], "CPU 1 is in it twice".into()),
        (&["--cpus", "x"], "a list is like 0,2-3".into()),
        (&["--cpus", &there_is_none, "doctor"], "FAIL  --cpus: CPU".into()),
    ] {
        let is_doctor = arguments.contains(&"doctor");
        let Output { status, stdout, stderr } = command(arguments)
            .args(if is_doctor { &[][..] } else { &["--listen", "127.0.0.1:0"] })
            .stdout(Stdio::piped())
            .output()
            .expect("the binary runs");
        let said = String::from_utf8_lossy(if is_doctor { &stdout } else { &stderr }).into_owned();
        assert_eq!(status.code(), Some(64), "{said}");
        assert!(said.contains(&says), "{said}");
        assert!(is_doctor || said.lines().count() == 1, "{said}");
    }
}

/// Connections take descriptors on the engine that is taken in the end, though the one that was chosen first needs none.
#[test]
fn the_limit_of_connections_is_that_of_the_engine_that_runs() {
    if !common::is_runnable("ring") {
        return;
    }
    // A probe makes do with 8 entries, a worker does not.
    let large = Condition::new(0, Len::Dword, Op::Gt, 8).expect("a condition");
    let rule = SeccompRule::new(vec![large]).expect("a condition");
    let refusal = filter::filter(
        [(libc::SYS_io_uring_setup, vec![rule])].into(),
        SeccompAction::Allow,
        filter::error(libc::ENOMEM),
    );
    let server = filter::under(vec![refusal], || {
        let command = command(&["--listen", "127.0.0.1:0", "--workers", "2", "--no-pin"]);
        Server::spawn(common::limited("ulimit -n 120", &command))
    });
    assert!(server.announcement.contains("(engine epoll, "), "{}", server.announcement);
    let mut clients = Vec::new();
    let refused = loop {
        assert!(clients.len() < 120, "there are more connections than descriptors");
        let mut client = server.connect_raw();
        client.send_bytes(handshake("/ws", "").as_bytes());
        let head = client.read_head();
        if !head.starts_with("HTTP/1.1 101 ") {
            break head;
        }
        clients.push(client);
    };
    println!("after {} connections: {refused}", clients.len());
    assert!(refused.starts_with("HTTP/1.1 503 ") && clients.len() > 10, "{refused}");
    // To be out of descriptors is another thing.
    server.signal(rustix::process::Signal::USR1);
    let log = server.log_until("counters: ");
    assert!(!log.iter().any(|line| line.contains("accepting pauses")), "{log:?}");
}
