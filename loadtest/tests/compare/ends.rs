//! Ways in which a comparison fails: each says why, and leaves no server behind.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Bench, loadtest};

pub(crate) fn any_error_of_an_echo_fails_the_run() {
    let bench = Bench::new();
    let ran = bench.compare("", &[], &[("ERRORS", "2")]);
    assert_eq!(ran.code(), 1);
    for told in ["errors: 2, {\"mismatch\":2}", "byte 3 is 4", "fake-loadtest", "--json", "text:3:64:1"] {
        assert!(ran.stderr.contains(told), "{told} in {}", ran.stderr);
    }
    assert_eq!(ran.stdout, "");
}

pub(crate) fn wrong_echoes_are_found_by_the_generator_itself() {
    let bench = Bench::new();
    let mut command = loadtest();
    command.args(["compare", "--slice=200ms", "--warmup=0s", "--rounds=1", "--cells=text:1:64:1"]);
    command.arg(format!("bad=tcp:{}", bench.server("wrong"))).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ran = bench.finish(command.spawn().expect("it is built"));
    assert_eq!((ran.code(), ran.started), (1, 1), "{}", ran.stderr);
    assert!(ran.stderr.contains("bad, text:1:64:1: ") && ran.stderr.contains("errors: "), "{}", ran.stderr);
    assert_eq!(ran.stdout, "");
}

pub(crate) fn what_is_not_a_report_fails_the_run() {
    let bench = Bench::new();
    let ran = bench.compare("", &[], &[("GARBLED", "")]);
    assert_eq!((ran.code(), ran.stdout.as_str()), (69, ""));
    for told in ["its JSON does not fit", "not a report"] {
        assert!(ran.stderr.contains(told), "{told} in {}", ran.stderr);
    }
}

pub(crate) fn a_slice_without_a_message_fails_the_run() {
    let bench = Bench::new();
    let ran = bench.compare("", &[], &[("STILL", "")]);
    assert_eq!((ran.code(), ran.stdout.as_str()), (69, ""));
    let told = "no message came back within the slice of 1s 500ms, and 4 before and after it";
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
}

pub(crate) fn a_server_that_ends_fails_the_run() {
    let bench = Bench::new();
    let ran = bench.compare("dies", &[], &[]);
    assert_eq!((ran.code(), ran.stdout.as_str()), (69, ""));
    for told in ["ours has ended: exit status: 3", "\n    the server's last words"] {
        assert!(ran.stderr.contains(told), "{told} in {}", ran.stderr);
    }
}

pub(crate) fn a_server_that_cannot_start_stops_the_others() {
    let bench = Bench::new();
    let ran = bench.compare("", &["third=/nonexistent {port}"], &[]);
    assert_eq!((ran.code(), ran.started), (69, 2));
    let told = "third does not start: /nonexistent: No such file or directory (os error 2); is it built?";
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
}

pub(crate) fn a_server_that_never_listens_fails_the_run() {
    let bench = Bench::new();
    let ran = bench.compare("deaf", &[], &[]);
    assert_eq!((ran.code(), ran.started), (69, 1));
    for told in ["ours does not listen on port ", "\n    why listen?"] {
        assert!(ran.stderr.contains(told), "{told} in {}", ran.stderr);
    }
}

pub(crate) fn servers_that_do_not_end_are_killed_at_the_same_time() {
    let bench = Bench::new();
    let wrapped = format!("wrapped=sh -c '{}; true'", bench.server("stubborn"));
    let other = format!("other={}", bench.server("stubborn"));
    let child = bench.start("stubborn", &[&wrapped, &other, "--rounds=1"], &[]);
    let began = Instant::now();
    let ran = bench.finish(child);
    assert_eq!((ran.code(), ran.started), (0, 4), "{}", ran.stderr);
    for name in ["ours", "wrapped", "other"] {
        let told = format!("{name} does not end on SIGTERM: killed");
        assert!(ran.stderr.contains(&told), "{told} in {}", ran.stderr);
    }
    assert!(!ran.stderr.contains("raw does not end"), "{}", ran.stderr);
    // One after the other they would have 10 s each.
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
}

pub(crate) fn what_a_wrapper_starts_is_stopped_with_it() {
    let bench = Bench::new();
    let wrapped = format!("wrapped=tcp:sh -c '{}; true'", bench.server(""));
    let ran = bench.compare("", &[&wrapped, "--rounds=1"], &[]);
    assert_eq!((ran.code(), ran.started), (0, 3), "{}", ran.stderr);
    assert!(!ran.stderr.contains("SIGTERM"), "{}", ran.stderr);
}

pub(crate) fn what_a_wrapper_leaves_is_stopped_too() {
    let bench = Bench::new();
    // It listens, and its wrapper is gone.
    let wrapped = format!("wrapped=tcp:sh -c '{} & sleep 1; exit 5'", bench.server(""));
    let ran = bench.compare("", &[&wrapped, "--rounds=1000"], &[]);
    assert_eq!((ran.code(), ran.started), (69, 3), "{}", ran.stderr);
    assert!(ran.stderr.contains("wrapped has ended: exit status: 5"), "{}", ran.stderr);
}

pub(crate) fn a_server_that_counts_nothing_fails_the_run() {
    let bench = Bench::new();
    let ran = bench.compare("", &["--counters=ours"], &[]);
    assert_eq!((ran.code(), ran.stdout.as_str()), (69, ""));
    // What SIGUSR1 does to who does not handle it.
    assert!(ran.stderr.contains("ours has ended: signal: 10"), "{}", ran.stderr);
}

pub(crate) fn signals_stop_the_servers() {
    for signal in [Signal::INT, Signal::TERM, Signal::QUIT, Signal::HUP] {
        if is_ignored(signal) {
            println!(
                "SKIPPED: signal {} is ignored by whoever started the tests, and so by all",
                signal.as_raw()
            );
            continue;
        }
        let bench = Bench::new();
        let child = bench.start("", &["--rounds=1000"], &[("SLEEP_MS", "2000")]);
        bench.await_servers(2);
        // Those that ask for nothing end nothing.
        for signal in [Signal::USR1, Signal::USR2, Signal::ALARM, signal] {
            kill_process(Pid::from_child(&child), signal).expect("it runs");
        }
        let ran = bench.finish(child);
        assert_eq!(ran.code(), 128 + signal.as_raw(), "{}", ran.stderr);
        assert!(ran.stderr.contains("the servers are stopped"), "{}", ran.stderr);
        assert!(
            ran.stdout.contains("before a round of 1000 was complete: there is nothing to tell"),
            "{}",
            ran.stdout
        );
    }
}

pub(crate) fn the_rounds_that_are_complete_are_told_in_every_form() {
    let bench = Bench::new();
    let files = [
        ("--json", "report.json"),
        ("--markdown", "report.md"),
        ("--html", "report.html"),
        ("--svg", "charts"),
    ];
    let mut arguments: Vec<_> = files.iter().map(|(option, name)| bench.option(option, name)).collect();
    arguments.push("--rounds=1000".into());
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let mut child = bench.start("", &arguments, &[]);
    let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    let mut lines = lines.map_while(Result::ok);
    // Two of them are complete, and the third is not.
    assert!(lines.any(|line| line.starts_with("round 3 of 1000, utf8")), "it goes on");
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    assert!(lines.any(|line| line.contains("ended by SIGTERM; the servers are stopped")));
    let ran = bench.finish(child);
    assert_eq!((ran.code(), ran.started), (143, 2));
    let json = bench.json("report.json");
    assert_eq!((&json["ended_by_signal"], &json["rounds"]), (&"SIGTERM".into(), &1000.into()), "{json}");
    for cell in json["cells"].as_array().expect("a list") {
        let rounds = cell["rounds"].as_array().expect("a list");
        assert!((2..1000).contains(&rounds.len()), "{cell}");
        assert!(
            rounds.iter().all(|round| round["visits"].as_object().is_some_and(|visits| visits.len() == 2))
        );
    }
    for text in [ran.stdout, bench.text("report.md"), bench.text("report.html")] {
        assert!(text.contains("SIGTERM ended the comparison after "), "{text}");
        assert!(text.contains("too few to tell servers apart") || text.contains("95 %"), "{text}");
    }
    assert_eq!(fs::read_dir(bench.path("charts")).expect("a folder").count(), 2);
}

pub(crate) fn a_second_signal_kills_the_servers_at_once() {
    let bench = Bench::new();
    let mut child = bench.start("stubborn", &["--rounds=1000"], &[("SLEEP_MS", "60000")]);
    bench.await_servers(2);
    // Closed from there on: nothing that is told must hold it up.
    let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.starts_with("round 1 of 1000")), "it goes on");
    let began = Instant::now();
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    std::thread::sleep(Duration::from_millis(500));
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it waits for the server that does not end");
    let ran = bench.finish(child);
    assert_eq!((ran.code(), ran.stdout.as_str()), (143, ""));
    // A server has 10 s to end.
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
}

pub(crate) fn an_error_is_in_the_json_file_too() {
    let bench = Bench::new();
    let ran = bench.compare("dies", &[&bench.option("--json", "report.json")], &[]);
    assert_eq!(ran.code(), 69);
    let error = &bench.json("report.json")["error"];
    assert_eq!(error["exit_code"], 69);
    assert!(error["message"].as_str().expect("words").contains("ours has ended"), "{error}");
}

/// Whether this process was started with the signal ignored, as by nohup(1) or in the background of a script: what it
/// starts inherits that (proc_pid_status(5)).
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("proc is there");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a mask");
    let mask = u64::from_str_radix(mask.trim(), 16).expect("hexadecimal");
    mask & (1 << (signal.as_raw() - 1)) != 0
}

pub(crate) fn a_hangup_that_is_ignored_ends_nothing() {
    let bench = Bench::new();
    let child = bench.start_under(&["nohup"], "", &["--rounds=1"], &[("SLEEP_MS", "300")]);
    bench.await_servers(2);
    kill_process(Pid::from_child(&child), Signal::HUP).expect("it runs");
    let ran = bench.finish(child);
    assert_eq!(ran.code(), 0, "{}", ran.stderr);
}

pub(crate) fn mistakes_are_told_in_one_line_and_start_nothing() {
    for (argument, why) in [
        ("third=program", "the command of third has no {port}"),
        ("third", "it is not NAME=COMMAND"),
        ("raw=program {port}", "two servers are named raw"),
        ("--cells=json:1:64:1", "'json' is none of text"),
        ("--cells=open:1:64:20x", "the rate '20x': "),
        ("--cells=text:1:2GiB:1", "the size '2GiB': at most 1GiB"),
        ("--slice=500us", "a time from 1ms to 365days is needed"),
        ("--rounds=0", "a whole number from 1 to 1000000 is needed"),
        ("--slice=-1s", "a time from 1ms to 365days is needed"),
        ("--also-to=none", "--also-to none is none of ours, raw"),
        ("--counters=raw,none", "--counters none is none of ours, raw"),
        ("--client-core=99999", "core 99999 is none of those"),
    ] {
        let bench = Bench::new();
        let ran = bench.compare("", &[argument], &[]);
        assert_eq!((ran.code(), ran.started, ran.stdout.as_str()), (64, 0, ""), "{}", ran.stderr);
        assert!(ran.stderr.contains(why) && ran.stderr.lines().count() == 1, "{argument}: {}", ran.stderr);
    }
}

pub(crate) fn files_that_cannot_be_written_are_told_before_anything_is_measured() {
    let bench = Bench::new();
    for option in ["--json", "--markdown", "--html"] {
        let ran = bench.compare("", &[&bench.option(option, "no/such/folder/file")], &[]);
        assert_eq!((ran.code(), ran.started), (64, 0), "{}", ran.stderr);
        assert!(ran.stderr.contains("cannot write "), "{}", ran.stderr);
    }
    // The folder is there, and a chart cannot be.
    fs::create_dir_all(bench.path("charts/utf8-3-16KiB-2.svg")).expect("a folder");
    let ran = bench.compare("", &[&bench.option("--svg", "charts")], &[]);
    assert_eq!((ran.code(), ran.started), (64, 0), "{}", ran.stderr);
    assert!(ran.stderr.contains("cannot write ") && ran.stderr.contains(".svg: "), "{}", ran.stderr);
    assert_eq!(fs::read_dir(bench.path("charts")).expect("a folder").count(), 1, "what was tried is gone");
}

pub(crate) fn a_disk_that_is_full_is_not_the_servers_fault() {
    let bench = Bench::new();
    for option in ["--json", "--markdown", "--html"] {
        let ran = bench.compare("", &[&format!("{option}=/dev/full"), "--rounds=1"], &[]);
        assert_eq!(ran.code(), 74, "{}", ran.stderr);
        assert!(ran.stderr.contains("cannot write /dev/full: "), "{}", ran.stderr);
        assert!(ran.stdout.contains("| ours |"), "{}", ran.stdout);
    }
}

pub(crate) fn a_wrapper_is_no_server() {
    let bench = Bench::new();
    let mut command = loadtest();
    command.args(["compare", "--slice=100ms", "--warmup=0s", "--rounds=1", "--cells=text:1:64:1"]);
    command.arg(format!("w=tcp:sh -c '{}; true'", bench.server(""))).stdout(Stdio::piped());
    let ran = bench.finish(command.stderr(Stdio::piped()).spawn().expect("it is built"));
    assert_eq!((ran.code(), ran.started), (69, 1), "{}", ran.stderr);
    let lines: Vec<_> = ran.stderr.lines().filter(|line| line.starts_with("loadtest: ")).collect();
    let told = |part: &str| lines.last().is_some_and(|line| line.contains(part));
    assert!(told("loadtest: w, text:1:64:1: its pid ") && told("a wrapper that starts"), "{}", ran.stderr);
    assert!(!ran.stderr.contains('{'), "{}", ran.stderr);
}
