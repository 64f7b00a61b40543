//! Runs that are ended by hand, in each of their modes and phases.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use ringback::proto::frame::OpCode;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{ENGINES, Peer, frame, serve};

const PATIENCE: Duration = Duration::from_secs(60);

/// An echo server that says when it has received a message.
fn serve_telling() -> (SocketAddr, Receiver<()>) {
    let (to, told) = mpsc::channel();
    let to = Mutex::new(to);
    let address = serve(move |stream| {
        let to = to.lock().expect("nobody panics").clone();
        let Ok(mut peer) = Peer::accept(stream) else { return };
        while let Ok((opcode, payload)) = peer.frame() {
            // The test may be over.
            let _ = to.send(());
            let reply = if opcode == OpCode::Ping { OpCode::Pong } else { opcode };
            if peer.send(&frame(true, reply, &payload)).is_err() || opcode == OpCode::Close {
                break;
            }
        }
    });
    (address, told)
}

fn start(args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it is built")
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("it runs");
}

/// The exit code, and the JSON object.
fn finish(child: Child) -> (Option<i32>, Value) {
    let Output { status, stdout, stderr } = child.wait_with_output().expect("it ends");
    let stdout = String::from_utf8(stdout).expect("text");
    let json = serde_json::from_str(&stdout)
        .unwrap_or_else(|error| panic!("{error}: {status}: {stdout}{}", String::from_utf8_lossy(&stderr)));
    (status.code(), json)
}

/// Whether this process was started with the signal ignored: what it starts inherits that.
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("proc is there");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a mask");
    u64::from_str_radix(mask.trim(), 16).expect("hexadecimal") & (1 << (signal.as_raw() - 1)) != 0
}

#[test]
fn a_signal_ends_the_window_and_what_there_is_gets_told() {
    for (signal, name, code) in [
        (Signal::INT, "SIGINT", 130),
        (Signal::TERM, "SIGTERM", 143),
        (Signal::QUIT, "SIGQUIT", 131),
        (Signal::HUP, "SIGHUP", 129),
    ] {
        if is_ignored(signal) {
            println!("SKIPPED: {name} is ignored by whoever started the tests, and so by all");
            continue;
        }
        for engine in ENGINES {
            let folder = tempfile::tempdir().expect("a folder");
            let [hdr, html] = ["a.hdr", "a.html"].map(|name| folder.path().join(name));
            let (address, told) = serve_telling();
            let url = format!("ws://{address}/");
            let files = [hdr.to_str().expect("text"), html.to_str().expect("text")];
            let child = start(&[
                &url,
                "-c",
                "2",
                "--threads",
                "2",
                "-d",
                "1h",
                "--warmup",
                "0s",
                "--json",
                "--engine",
                engine,
                "--grace",
                "60s",
                "--hdr",
                files[0],
                "--html",
                files[1],
            ]);
            for _ in 0..100 {
                told.recv_timeout(PATIENCE).expect("a message");
            }
            send(&child, signal);
            let (ended, json) = finish(child);
            assert_eq!((ended, &json["ended_by_signal"]), (Some(code), &Value::from(name)), "{json}");
            assert_eq!(
                (&json["errors_total"], &json["duration_planned_seconds"]),
                (&0.into(), &3600.0.into()),
                "{json}"
            );
            let (messages, seconds) = (json["messages"].as_u64(), json["duration_seconds"].as_f64());
            assert!(messages >= Some(90) && seconds.is_some_and(|it| it > 0.0 && it < 600.0), "{json}");
            let rate = json["messages_per_second"].as_f64().expect("a rate") * seconds.expect("a time");
            assert!((rate - messages.expect("a count") as f64).abs() < 1e-3 * rate, "{json}");
            assert!(fs::read_to_string(&hdr).expect("a log").contains("[StartTime"));
            assert!(
                fs::read_to_string(&html)
                    .expect("a page")
                    .contains(&format!("{name} ended the window after"))
            );
        }
    }
}

#[test]
fn every_mode_tells_what_there_is() {
    for mode in [
        &["--rate", "500"][..],
        &["--rate", "500", "--arrivals", "poisson"],
        &["--churn"],
        &["--churn", "--rate", "200"],
        &["--idle"],
        &["--kind", "ping"],
        &["--reconnect"],
        &["--spin"],
        &["--find-max", "p99<60s"],
    ] {
        let (address, told) = serve_telling();
        let url = format!("ws://{address}/");
        let child = start(
            &[&[&url, "-c", "4", "-d", "10s", "--warmup", "0s", "--json", "--grace", "60s"], mode].concat(),
        );
        for _ in 0..3 {
            told.recv_timeout(PATIENCE).expect("a message");
        }
        send(&child, Signal::TERM);
        let (code, json) = finish(child);
        assert_eq!((code, &json["ended_by_signal"]), (Some(143), &"SIGTERM".into()), "{mode:?}: {json}");
        assert_eq!(json["errors_total"], 0, "{mode:?}: {json}");
        assert!(json["echoes_checked"].as_u64() > Some(0), "{mode:?}: {json}");
        if let Some(due) = json["due"].as_u64() {
            // What was due just before the window may have come back in it, and what was due at its end behind it.
            let messages = json["messages"].as_u64().expect("a count");
            assert!(messages.abs_diff(due) <= 4 + due / 2, "{mode:?}: {json}");
        }
    }
}

#[test]
fn the_report_rounds_its_times_and_rates() {
    let (address, told) = serve_telling();
    let url = format!("ws://{address}/");
    let folder = tempfile::tempdir().expect("a folder");
    let html = folder.path().join("a.html");
    let html = html.to_str().expect("text");
    let child = start(&[
        &url,
        "-c",
        "1",
        "-d",
        "1h",
        "--warmup",
        "1234567ns",
        "--rate",
        "2.5",
        "--grace",
        "60s",
        "--html",
        html,
    ]);
    for _ in 0..3 {
        told.recv_timeout(PATIENCE).expect("a message");
    }
    send(&child, Signal::TERM);
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(143), "{text}");
    let page = fs::read_to_string(html).expect("a page");
    for part in [" s after 0.001235 s of warm-up", " s of 3600 s"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(page.contains(" s after 0.001235 s of warm-up"), "{page}");
    assert!(text.contains(" 2.5 a second were due"), "{text}");
    assert!(page.contains(", 2.5 a second, "), "{page}");
    // No time has more than three digits behind its point, unless it would be 0.
    for line in text.lines().filter(|line| line.starts_with("window ") || line.contains("ended the window")) {
        let times: Vec<_> = line.split(' ').filter(|word| word.parse::<f64>().is_ok()).collect();
        let digits = |time: &str| time.split_once('.').map_or(0, |(_, digits)| digits.len());
        assert!(
            times.len() >= 2 && times.iter().all(|time| *time == "0.001235" || digits(time) <= 3),
            "{line}"
        );
    }
}

#[test]
fn other_signals_end_nothing() {
    let signals = "USR1 USR2 ALRM VTALRM PROF IO PWR STKFLT XFSZ RTMIN RTMIN+7 RTMAX";
    for engine in ENGINES {
        for mode in [&[][..], &["--rate", "500"], &["--churn"], &["--reconnect", "--threads", "2"]] {
            let (address, told) = serve_telling();
            let url = format!("ws://{address}/");
            let args = [&url, "-c", "2", "-d", "1h", "--json", "--grace", "60s", "--engine", engine];
            let child = start(&[&args, mode].concat());
            told.recv_timeout(PATIENCE).expect("a message");
            let script = format!("for signal in {signals}; do kill -s $signal $0 || exit; done");
            let status = Command::new("bash").args(["-c", &script, &child.id().to_string()]).status();
            assert!(status.expect("a shell").success());
            for _ in 0..100 {
                told.recv_timeout(PATIENCE).expect("it goes on");
            }
            send(&child, Signal::TERM);
            let (code, json) = finish(child);
            assert_eq!((code, &json["ended_by_signal"]), (Some(143), &"SIGTERM".into()), "{mode:?}: {json}");
            assert_eq!(json["errors_total"], 0, "{mode:?}: {json}");
        }
    }
}

#[test]
fn limits_of_the_shell_leave_a_report() {
    let (address, _told) = serve_telling();
    let under = |limit: &str, args: &str| {
        let script = format!("ulimit {limit} && exec \"$0\" ws://{address}/ -c 1 --json --grace 60s {args}");
        let mut command = Command::new("bash");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_loadtest")]);
        finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a shell"))
    };
    // A thread that spins has had its second of CPU time in a second or two.
    let (code, json) = under("-St 1", "-d 1h --spin");
    assert_eq!((code, &json["ended_by_signal"]), (Some(152), &"SIGXCPU".into()), "{json}");
    assert_eq!(json["errors_total"], 0, "{json}");
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("a.hdr");
    let (code, json) = under("-f 0", &format!("-d 200ms --warmup 0s --hdr {}", log.display()));
    assert_eq!((code, &json["errors_total"]), (Some(74), &0.into()), "{json}");
}

#[test]
fn a_search_tells_the_best_that_it_has_found() {
    let (address, _told) = serve_telling();
    let url = format!("ws://{address}/");
    let search = ["-c", "2", "-d", "300ms", "--warmup", "0s", "--json", "--grace", "60s"];
    let condition = ["--find-max", "p99<60s", "--rate", "1"];
    // On a busy machine the generator may be late itself: then the search ends early, and says so.
    for _ in 0..10 {
        let child = start(&[&[&*url][..], &search, &condition].concat());
        // Some of its rates: there are 32.
        std::thread::sleep(Duration::from_millis(1500));
        send(&child, Signal::TERM);
        let (code, json) = finish(child);
        if code == Some(0) || json["find_max"]["rate"].is_null() {
            println!("again: {}", json["find_max"]);
            continue;
        }
        assert_eq!((code, &json["ended_by_signal"]), (Some(143), &"SIGTERM".into()), "{json}");
        assert!(json["find_max"]["rate"].as_f64() >= Some(1.0), "{json}");
        assert_eq!(json["rate_target"], json["find_max"]["rate"]);
        return;
    }
    panic!("the search never comes to its second rate");
}

#[test]
fn in_the_warm_up_there_is_nothing_but_that() {
    let (address, told) = serve_telling();
    let url = format!("ws://{address}/");
    let child = start(&[&url, "-c", "2", "-d", "1h", "--warmup", "1h", "--json", "--grace", "60s"]);
    told.recv_timeout(PATIENCE).expect("a message");
    send(&child, Signal::TERM);
    let (code, json) = finish(child);
    assert_eq!((code, &json["messages"], &json["errors_total"]), (Some(143), &0.into(), &0.into()), "{json}");
    assert!(json["echoes_checked"].as_u64() > Some(0) && json["latency_us"].is_null(), "{json}");
}

#[test]
fn connections_that_are_not_open_yet_are_left() {
    for engine in ENGINES {
        for mode in [&[][..], &["--ramp", "1h"], &["--idle"], &["--churn"]] {
            // Whoever comes waits for the answer to the handshake for ever.
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let address = listener.local_addr().expect("it is bound");
            let url = format!("ws://{address}/");
            let args = [&url, "-c", "30", "--json", "--connect-timeout", "1h", "--engine", engine];
            let child = start(&[&args, mode].concat());
            let stream = listener.accept().expect("a connection");
            send(&child, Signal::TERM);
            let (code, json) = finish(child);
            assert_eq!(
                (code, &json["messages"], &json["errors_total"]),
                (Some(143), &0.into(), &0.into()),
                "{json}"
            );
            drop(stream);
        }
    }
}

#[test]
fn in_the_pause_before_a_connection_is_opened_again() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let url = format!("ws://{address}/");
    let child =
        start(&[&url, "-c", "1", "--json", "-d", "1h", "--warmup", "0s", "--reconnect", "--grace", "60s"]);
    let (stream, _) = listener.accept().expect("a connection");
    let mut peer = Peer::accept(stream).expect("a handshake");
    let (opcode, payload) = peer.frame().expect("a message");
    // Nobody is there any more.
    drop(listener);
    let close = frame(true, OpCode::Close, &1001_u16.to_be_bytes());
    peer.send(&[frame(true, opcode, &payload), close].concat()).expect("it is awaited");
    drop(peer);
    std::thread::sleep(Duration::from_millis(500));
    send(&child, Signal::TERM);
    let (code, json) = finish(child);
    assert_eq!((code, &json["messages"], &json["errors_total"]), (Some(143), &1.into(), &0.into()), "{json}");
    assert!(json["reconnect_causes"]["connect_failed"].as_u64() > Some(0), "{json}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (to, told) = mpsc::channel();
    let to = Mutex::new(to);
    let address = serve(move |stream| {
        let to = to.lock().expect("nobody panics").clone();
        let mut peer = Peer::accept(stream).expect("a handshake");
        while peer.frame().is_ok() {
            // It echoes nothing.
            let _ = to.send(());
        }
    });
    let url = format!("ws://{address}/");
    let child = start(&[&url, "-c", "1", "--json", "-d", "1h", "--warmup", "0s", "--grace", "1h"]);
    told.recv_timeout(PATIENCE).expect("a message");
    send(&child, Signal::TERM);
    // It waits for the echo now.
    std::thread::sleep(Duration::from_millis(500));
    send(&child, Signal::TERM);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(143), 0));
}
