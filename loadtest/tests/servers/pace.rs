//! When what is sent is due: rates, ramps, connections that come and go or are held.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringback::proto::frame::OpCode;
use serde_json::Value;

use crate::support::{Peer, Ran, frame, load, load_ws, loadtest, serve, serve_bytes};

/// What a server saw: for each connection when it came, and the opcodes of what it got.
type Seen = Arc<Mutex<Vec<(Instant, Vec<OpCode>)>>>;

/// A server that echoes, answers pings, and takes notes.
fn serve_with_notes() -> (SocketAddr, Seen) {
    let seen = Seen::default();
    let notes = Arc::clone(&seen);
    let address = serve(move |stream| {
        let connection = {
            let mut notes = notes.lock().expect("no panic");
            notes.push((Instant::now(), Vec::new()));
            notes.len() - 1
        };
        let mut peer = Peer::accept(stream).expect("a handshake");
        while let Ok((opcode, payload)) = peer.frame() {
            notes.lock().expect("no panic")[connection].1.push(opcode);
            let answer = if opcode == OpCode::Ping { OpCode::Pong } else { opcode };
            if peer.send(&frame(true, answer, &payload)).is_err() || opcode == OpCode::Close {
                break;
            }
        }
    });
    (address, seen)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn assert_fine(ran: &Ran) -> Value {
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    ran.json()
}

#[test]
fn what_is_due_at_a_rate_is_sent_and_connections_take_turns() {
    for arrivals in ["constant", "poisson"] {
        let (address, seen) = serve_with_notes();
        let args = ["-c", "8", "--threads", "2", "--rate", "2k", "--arrivals", arrivals, "-d", "1s"];
        let json = assert_fine(&load_ws(address, &args));
        // 2,000 in the window, of which those that are on their way at its edges count elsewhere; 200 in the warm-up.
        let messages = number(&json["messages"]);
        assert!((1_600.0..2_400.0).contains(&messages), "{json}");
        assert_eq!((&json["pace"], &json["arrivals"]), (&"open".into(), &arrivals.into()));
        assert_eq!((number(&json["rate_target"]), &json["depth"]), (2_000.0, &Value::Null));
        assert!(number(&json["lateness_us"]["p50"]) >= 0.0, "{json}");
        let seen = seen.lock().expect("no panic");
        let texts: Vec<_> = seen
            .iter()
            .map(|(_, got)| got.iter().filter(|&&opcode| opcode == OpCode::Text).count())
            .collect();
        assert_eq!(
            (texts.len(), texts.iter().sum::<usize>() as u64),
            (8, json["echoes_checked"].as_u64().expect("a count"))
        );
        if arrivals == "constant" {
            let (least, most) = (texts.iter().min().expect("eight"), texts.iter().max().expect("eight"));
            assert!(most - least <= 3, "{texts:?}");
        }
    }
}

#[test]
fn a_rate_does_not_wait_for_echoes() {
    // It takes each message and answers none before the end.
    let address = serve(|stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        let mut held = Vec::new();
        let begun = Instant::now();
        while let Ok((opcode, payload)) = peer.frame() {
            held.extend(frame(true, opcode, &payload));
            let is_over = begun.elapsed() > Duration::from_millis(800);
            if is_over && (peer.send(&std::mem::take(&mut held)).is_err() || opcode == OpCode::Close) {
                break;
            }
        }
    });
    let args = ["-c", "1", "--rate", "500", "-d", "1s", "--warmup", "0s"];
    let json = assert_fine(&load_ws(address, &args));
    // Those that were due in 0.8 s came back together, the first of them after all that time.
    assert!(number(&json["latency_us"]["max"]) > 700_000.0, "{json}");
    assert!(number(&json["latency_us"]["p50"]) > 200_000.0, "{json}");
    assert!(number(&json["echoes_checked"]) >= 495.0, "{json}");
}

#[test]
fn connections_come_at_a_rate() {
    let (address, seen) = serve_with_notes();
    let args = ["--churn", "-c", "50", "--rate", "200", "-d", "1s", "--warmup", "0s"];
    let json = assert_fine(&load_ws(address, &args));
    assert_eq!((&json["pace"], number(&json["rate_target"])), (&"churn".into(), 200.0));
    let seen = seen.lock().expect("no panic");
    // One more shows first that there is a server.
    assert!((195..=202).contains(&seen.len()), "{} connections", seen.len());
    assert!(seen.iter().all(|(_, got)| got[..] == [OpCode::Text]), "each is for one message");
}

#[test]
fn a_connection_that_is_due_and_finds_no_room_is_told() {
    // Nobody is ever answered, so the two places stay taken.
    let address = serve(|stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        while peer.frame().is_ok() {}
    });
    let args = ["--churn", "-c", "2", "--rate", "100", "-d", "300ms", "--warmup", "0s", "--grace", "300ms"];
    let ran = load_ws(address, &args);
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    assert_eq!(ran.errors("missing_echo"), 2, "{}", ran.stdout);
    assert!((25..=30).contains(&ran.errors("not_begun")), "{}", ran.stdout);
}

#[test]
fn messages_that_are_due_when_nobody_is_left_are_told() {
    let address = serve(|stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        let _ = peer.frame();
    });
    let ran = load_ws(address, &["-c", "2", "--rate", "100", "-d", "500ms", "--warmup", "0s"]);
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    assert_eq!(ran.errors("connection_lost"), 2, "{}", ran.stdout);
    assert!(ran.errors("not_begun") > 10, "{}", ran.stdout);
}

#[test]
fn a_ramp_spreads_the_connections() {
    let (address, seen) = serve_with_notes();
    let args = ["-c", "10", "--ramp", "500ms"];
    assert_fine(&load_ws(address, &args));
    let seen = seen.lock().expect("no panic");
    let times: Vec<_> = seen.iter().map(|(at, _)| *at).collect();
    let took = *times.iter().max().expect("ten") - *times.iter().min().expect("ten");
    assert!((Duration::from_millis(430)..Duration::from_secs(20)).contains(&took), "{took:?}");
    let early = times.iter().filter(|&&at| at - times[0] < Duration::from_millis(200)).count();
    assert!(early < 8, "{early} of ten at once");
}

#[test]
fn connections_that_are_held_are_pinged_once_and_their_memory_is_told() {
    let (address, seen) = serve_with_notes();
    let pid = std::process::id().to_string();
    let json = assert_fine(&load_ws(address, &["-c", "40", "--idle", "--server-pid", &pid]));
    assert_eq!((&json["pace"], &json["kind"]), (&"idle".into(), &"ping".into()));
    assert_eq!(json["echoes_checked"], 40, "{json}");
    // This process has other tests and their memory in it.
    number(&json["server_bytes_per_connection"]);
    let mut counts = BTreeMap::<_, usize>::new();
    for (_, got) in seen.lock().expect("no panic").iter() {
        *counts.entry(format!("{got:?}")).or_default() += 1;
    }
    assert_eq!(counts, [("[Ping, Close]".to_owned(), 40)].into());
}

/// A server with keep-alive, in each pace: those that are held say nothing else meanwhile.
#[test]
fn a_servers_pings_are_answered_at_any_pace() {
    for engine in ["epoll", "auto"] {
        for pace in [&["--idle"][..], &["--rate", "100"], &["--depth", "2"], &["--churn"]] {
            let pongs = Arc::new(AtomicUsize::new(0));
            let seen = Arc::clone(&pongs);
            let address = serve(move |stream| {
                let mut peer = Peer::accept(stream).expect("a handshake");
                let mut is_held = peer.send(&frame(true, OpCode::Ping, b"there?")).is_ok();
                while is_held && let Ok((opcode, payload)) = peer.frame() {
                    let answer = match opcode {
                        OpCode::Pong => {
                            assert_eq!(payload, b"there?");
                            seen.fetch_add(1, Ordering::Relaxed);
                            continue;
                        }
                        OpCode::Ping => OpCode::Pong,
                        opcode => opcode,
                    };
                    is_held = peer.send(&frame(true, answer, &payload)).is_ok() && opcode != OpCode::Close;
                }
            });
            let pid = std::process::id().to_string();
            let mut args = vec!["-c", "10", "--engine", engine, "--server-pid", &pid];
            args.extend(pace);
            assert_fine(&load_ws(address, &args));
            let pongs = pongs.load(Ordering::Relaxed);
            // A connection that comes and goes may have gone before it looked.
            assert!(
                pongs == 10 || (pace[0] == "--churn" && pongs > 0),
                "{pace:?} on {engine}: {pongs} pongs"
            );
        }
    }
}

/// What is due at a rate comes back or is told of: nothing is lost with its connection.
#[test]
fn messages_that_go_with_their_connection_are_told() {
    let address = serve(|stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(300) && peer.frame().is_ok() {}
    });
    let ran = load_ws(address, &["-c", "1", "--rate", "500", "-d", "1s", "--warmup", "0s"]);
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    assert_eq!(ran.errors("connection_lost"), 1, "{}", ran.stdout);
    assert!(ran.errors("missing_echo") > 50, "{}", ran.stdout);
    assert_eq!(ran.errors("missing_echo") + ran.errors("not_begun"), 500, "{}", ran.stdout);
}

/// The figures of a window that nobody is left in are of the time that it lasted.
#[test]
fn a_window_that_ends_early_is_as_long_as_it_was() {
    let address = serve(|stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        let begun = Instant::now();
        let _ = peer.echo(|_, _, _| {
            (begun.elapsed() > Duration::from_millis(300)).then(|| frame(true, OpCode::Close, b""))
        });
    });
    let pid = std::process::id().to_string();
    let args = ["-c", "1", "-d", "1h", "--warmup", "0s", "--server-pid", &pid];
    let ran = load_ws(address, &args);
    assert_eq!((ran.code, ran.errors("unexpected_close")), (1, 1), "{}", ran.stdout);
    let json = ran.json();
    let seconds = number(&json["duration_seconds"]);
    assert!((0.2..60.0).contains(&seconds), "{json}");
    assert_eq!(number(&json["duration_planned_seconds"]), 3600.0);
    let rate = number(&json["messages"]) / seconds;
    assert!((number(&json["messages_per_second"]) - rate).abs() < 1e-3 * rate, "{json}");
    // An echo takes this process some microseconds, and not the hours of the others.
    assert!(number(&json["server_cpu_us_per_message"]) < 100_000.0, "{json}");
    assert!(json["series"].as_array().is_some_and(|series| series.len() < 60), "{json}");
}

/// A server that refuses the first handshakes, as one does that is just starting.
fn serve_after_refusals(refusals: usize) -> SocketAddr {
    let came = Arc::new(AtomicUsize::new(0));
    serve(move |stream| {
        if came.fetch_add(1, Ordering::Relaxed) < refusals {
            let _ = Peer::handshake(stream, |_| "HTTP/1.1 503 Busy\r\n\r\n".into());
            return;
        }
        let mut peer = Peer::accept(stream).expect("a handshake");
        let _ = peer.echo(|_, _, _| None);
    })
}

#[test]
fn a_churn_goes_on_when_its_first_connections_are_refused() {
    for rate in [&[][..], &["--rate", "50"]] {
        // With the second one, nobody is left when the load begins.
        for connections in ["2", "1"] {
            let common = ["--churn", "-c", connections, "--warmup", "0s"];
            let ran = load_ws(serve_after_refusals(1), &[&common, rate].concat());
            assert_eq!((ran.code, ran.errors("handshake_refused_503")), (1, 1), "{}", ran.stdout);
            assert_eq!(ran.json()["errors_total"], 1, "{}", ran.stdout);
            assert!(ran.echoes() > 5, "{}", ran.stdout);
        }
    }
}

/// Many more end at once than the ring's table has spare places for.
#[test]
fn the_end_of_a_churn_is_no_fault() {
    let (address, _) = serve_with_notes();
    let json = assert_fine(&load_ws(address, &["--churn", "-c", "300", "-d", "600ms"]));
    assert!(number(&json["messages"]) > 0.0, "{json}");
}

#[test]
fn a_slow_server_does_not_make_the_generator_late() {
    let address = serve(|stream| {
        std::thread::sleep(Duration::from_millis(100));
        let mut peer = Peer::accept(stream).expect("a handshake");
        let _ = peer.echo(|_, _, _| None);
    });
    // Twice what five at a time can do: half of them wait for room, and that is in their latency.
    let args = ["--churn", "-c", "5", "--rate", "100", "-d", "1s", "--warmup", "0s"];
    let json = assert_fine(&load_ws(address, &args));
    assert!(number(&json["latency_us"]["p99"]) > 500_000.0, "{json}");
    assert!(number(&json["lateness_us"]["p50"]) < 100_000.0, "{json}");
}

#[test]
fn connections_at_a_rate_come_from_all_addresses() {
    let came = Arc::new(Mutex::new(BTreeMap::<_, usize>::new()));
    let notes = Arc::clone(&came);
    let address = serve(move |stream| {
        *notes.lock().expect("no panic").entry(stream.peer_addr().expect("connected").ip()).or_default() += 1;
        let mut peer = Peer::accept(stream).expect("a handshake");
        let _ = peer.echo(|_, _, _| None);
    });
    let sources = "127.0.0.1,127.0.0.2";
    assert_fine(&load_ws(address, &["--churn", "-c", "4", "--rate", "100", "--source", sources]));
    let came = came.lock().expect("no panic");
    assert_eq!(came.len(), 2, "{came:?}");
    assert!(came.values().all(|&count| count >= 10), "{came:?}");
}

/// More connections with bulk than the ring has buffers for it: whoever has to wait for one must not hold one.
#[test]
fn bulk_on_many_connections() {
    let args = ["-c", "64", "--size", "1MiB", "--kind", "binary", "--connect-timeout", "60s"];
    let ran = load(&format!("tcp://{}", serve_bytes()), &args);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.echoes() >= 64, "{}", ran.stdout);
}

#[test]
fn what_does_not_go_together_is_told() {
    for args in [
        &["--rate", "10", "--depth", "2"][..],
        &["--idle", "--rate", "10"],
        &["--idle", "--churn"],
        &["--idle", "--size", "10"],
        &["--arrivals", "poisson"],
        &["--find-max", "p99<5ms", "--idle"],
        &["--find-max", "p99<5ms", "--depth", "2"],
        &["--rate", "0"],
        &["--rate", "fast"],
        &["--threads", "65"],
        &["--grace", "600y"],
        &["-d", "9300000000000000000s"],
    ] {
        let ran = loadtest(&[&["ws://127.0.0.1:1/"], args].concat());
        assert_eq!((ran.code, ran.stderr.lines().count()), (64, 1), "{args:?}: {}", ran.stderr);
    }
}
