//! Servers that are right: everything is counted, nothing is found wrong.

use crate::support::{Patient, Peer, frame, load, load_ws, loadtest, serve, serve_bytes, serve_tungstenite};
use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringback::config::{Address, Config, EngineChoice, ListeningConfig};
use ringback::proto::frame::OpCode;
use ringback::server::Server;
use serde_json::Value;
use socket2::SockRef;

#[test]
fn every_kind_and_size_is_echoed() {
    let address = serve_tungstenite();
    for (kind, size) in [
        ("text", "0"),
        ("text", "1"),
        ("text", "125"),
        ("utf8", "126"),
        ("utf8", "16KiB"),
        ("binary", "65535"),
        ("binary", "65536"),
        ("binary", "3MiB"),
    ] {
        let ran = load_ws(address, &["-c", "3", "--depth", "4", "--kind", kind, "--size", size]);
        assert_eq!(ran.code, 0, "{kind} {size}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.echoes() > 0, "{kind} {size}: {}", ran.stdout);
    }
}

#[test]
fn the_json_object_has_its_fields() {
    let address = serve_tungstenite();
    let pid = std::process::id().to_string();
    let ran = load_ws(address, &["-c", "5", "--threads", "2", "--depth", "2", "--server-pid", &pid]);
    assert_eq!(ran.code, 0, "{}", ran.stdout);
    assert_eq!(ran.stdout.lines().count(), 1);
    let json = ran.json();
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} in {json}"));
    let messages = number(&json["messages"]);
    assert!(messages > 0.0);
    assert!((number(&json["messages_per_second"]) * 0.4 - messages).abs() < 1e-3 * messages);
    assert!((number(&json["payload_bytes_per_second"]) * 0.4 - 64.0 * messages).abs() < 0.064 * messages);
    let quantiles =
        ["p50", "p90", "p99", "p999", "p9999", "max"].map(|name| number(&json["latency_us"][name]));
    assert!(quantiles[0] >= 1.0 && quantiles.is_sorted(), "{quantiles:?}");
    assert!(number(&json["server_cpu_us_per_message"]) > 0.0);
    assert!(number(&json["client_cpu_us_per_message"]) > 0.0);
    assert!(number(&json["server"]["rss_bytes"]) > 100_000.0);
    assert_eq!(json["client"]["threads_busy"].as_array().map(Vec::len), Some(2));
    assert_eq!(json["errors"], serde_json::json!({}));
    assert_eq!(json["errors_total"], 0);
    assert_eq!(json["connections"], 5);
    assert_eq!(json["depth"], 2);
    assert_eq!(json["size_bytes"], 64);
    assert_eq!(json["kind"], "text");
    assert_eq!(json["scheme"], "ws");
    assert_eq!(json["command_line"][1], format!("ws://{address}/ws"));
    assert!(json["machine"]["kernel"].as_str().expect("a name").contains('.'));
    assert!(!json["congestion"].as_str().expect("a name").is_empty());
}

#[test]
fn the_text_says_what_the_json_says() {
    let address = serve_tungstenite();
    let ran = loadtest(&[&format!("ws://{address}/"), "-c", "2", "-d", "200ms", "--warmup", "0s"]);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    for part in ["2 connections × 1 in flight, text of 64 bytes", "p99.99", "errors     none"] {
        assert!(ran.stdout.contains(part), "{part} in {}", ran.stdout);
    }
}

#[test]
fn bytes_are_echoed() {
    let address = serve_bytes();
    for (size, depth) in [("0", "1"), ("64", "16"), ("1MiB", "2")] {
        let ran = load(&format!("tcp://{address}"), &["-c", "3", "--size", size, "--depth", depth]);
        assert_eq!(ran.code, 0, "{size}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.echoes() > 0, "{}", ran.stdout);
        assert_eq!(ran.json()["server_cpu_us_per_message"], Value::Null);
    }
}

#[test]
fn each_connection_of_a_churn_upgrades_as_a_browser_sends_one_message_and_is_reset() {
    let ends = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&ends);
    let address = serve(move |stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        let (opcode, payload) = peer.frame().expect("a message");
        peer.send(&frame(true, opcode, &payload)).expect("it is awaited");
        let end = peer.frame().expect_err("no second message").kind();
        seen.lock().expect("no panic").push((peer.request, payload, end));
    });
    let pid = std::process::id().to_string();
    let ran = load_ws(address, &["--churn", "-c", "5", "--threads", "2", "--server-pid", &pid]);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    let json = ran.json();
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} in {json}"));
    let per_second = number(&json["connections_per_second"]);
    assert!((per_second * 0.4 - number(&json["messages"])).abs() < 1e-3 * per_second, "{json}");
    assert!(number(&json["server_cpu_us_per_connection"]) > 0.0);
    assert!(number(&json["latency_us"]["p50"]) > 0.0);
    assert_eq!((&json["pace"], &json["depth"]), (&"churn".into(), &1.into()));

    // The last of them are told a moment after the program has ended.
    let deadline = Instant::now() + Duration::from_secs(20);
    while (ends.lock().expect("no panic").len() as u64) < ran.echoes() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let ends = ends.lock().expect("no panic");
    assert_eq!(ends.len() as u64, ran.echoes());
    assert!(ends.len() > 5, "{} connections in all, of 5 at a time", ends.len());
    let payloads: HashSet<_> = ends.iter().map(|(_, payload, _)| payload).collect();
    assert!(payloads.len() > 5, "{} different messages", payloads.len());
    for (request, _, end) in ends.iter() {
        assert!(request.contains("\r\nOrigin: http://127.0.0.1:"), "{request}");
        assert!(request.contains("\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"), "{request}");
        // A server that took it up would send what the program cannot read.
        assert!(!request.contains("Sec-WebSocket-Extensions"), "{request}");
        assert_eq!(*end, std::io::ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_server_may_reset_the_connection_behind_the_close_frames() {
    let address = serve(|stream| {
        // Its end is a reset, whatever was received and sent.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an open connection");
        let mut peer = Peer::accept(stream).expect("a handshake");
        while let Ok((opcode, payload)) = peer.frame() {
            if peer.send(&frame(true, opcode, &payload)).is_err() || opcode == OpCode::Close {
                break;
            }
        }
    });
    for engine in ["ring", "epoll"] {
        let ran = load_ws(address, &["-c", "4", "--engine", engine]);
        if ran.code == 69 && ran.stderr.contains("--engine ring") {
            println!("SKIPPED: {}", ran.stderr.trim_end());
            continue;
        }
        assert_eq!((ran.code, ran.json()["errors_total"].as_u64()), (0, Some(0)), "{engine}: {}", ran.stdout);
        assert!(ran.echoes() > 0, "{engine}: {}", ran.stdout);
    }
}

#[test]
fn a_churn_of_bytes() {
    let ran = load(&format!("tcp://{}", serve_bytes()), &["--churn", "-c", "3", "--size", "100KiB"]);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.echoes() > 3, "{}", ran.stdout);
    assert_eq!(ran.json()["server_cpu_us_per_connection"], Value::Null);
}

#[test]
fn a_server_that_reads_late_makes_writes_short() {
    let address = serve(|mut stream| {
        std::thread::sleep(Duration::from_millis(200));
        let mut buffer = vec![0; 5 << 20];
        while let Ok(len @ 1..) = Patient(&stream).read(&mut buffer) {
            if stream.write_all(&buffer[..len]).is_err() {
                break;
            }
        }
    });
    // 12 MiB: more than the send buffer (tcp_wmem: 4 MiB at most) and a receive buffer that nobody has read from.
    let args = ["-c", "1", "--size", "3MiB", "--depth", "4", "--kind", "binary"];
    let ran = load(&format!("tcp://{address}"), &args);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.echoes() >= 4, "{}", ran.stdout);
}

#[test]
fn an_echo_may_come_in_fragments_with_pings_in_between() {
    let address = serve(|stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        let _ = peer.echo(|_, opcode, payload| {
            let (first, rest) = payload.split_at(1000);
            let (second, third) = rest.split_at(1);
            Some(
                [
                    frame(false, opcode, first),
                    frame(true, OpCode::Ping, b"between"),
                    frame(false, OpCode::Continuation, second),
                    frame(false, OpCode::Continuation, b""),
                    frame(true, OpCode::Continuation, third),
                ]
                .concat(),
            )
        });
    });
    let ran = load_ws(address, &["-c", "2", "--depth", "3", "--kind", "utf8", "--size", "100KiB"]);
    assert_eq!(ran.code, 0, "{}", ran.stdout);
    assert!(ran.echoes() > 0, "{}", ran.stdout);
}

#[test]
fn pings_are_answered() {
    let address = serve(|stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        for count in 0..200_u8 {
            peer.send(&frame(true, OpCode::Ping, &[count])).expect("sent");
            loop {
                match peer.frame().expect("a frame") {
                    (OpCode::Pong, payload) => {
                        assert_eq!(payload, [count]);
                        break;
                    }
                    (opcode, payload) => peer.send(&frame(true, opcode, &payload)).expect("sent"),
                }
            }
        }
        // Only who got every pong goes on to echo: without them the connection is lost.
        let _ = peer.echo(|_, _, _| None);
    });
    let ran = load_ws(address, &["-c", "2"]);
    assert_eq!(ran.code, 0, "{}", ran.stdout);
}

/// The addresses are those that ringback says it listens at.
#[test]
fn ringback_is_loaded_over_unix_sockets() {
    let name = format!("ringback-loadtest-{}", std::process::id());
    let path = std::env::temp_dir().join(format!("{name}.sock"));
    for engine in [EngineChoice::Ring, EngineChoice::TokioUring, EngineChoice::Epoll] {
        let addresses = vec![Address::Path(path.clone()), Address::Abstract(name.clone())];
        let started = Server::start(&Config {
            listening: ListeningConfig { addresses, ..ListeningConfig::default() },
            engine,
            workers: Some(2),
            ..Config::default()
        });
        let server = match started {
            Ok(server) => server,
            Err(error) => {
                println!("SKIPPED: {error}");
                continue;
            }
        };
        for url in server.addresses().iter().map(|address| address.url("/ws")) {
            for more in [&["--depth", "4", "--sizes", "10:1,5KiB:1,200KiB:1"][..], &["--churn"]] {
                let ran = load(&url, &[&["-c", "8"], more].concat());
                assert_eq!(ran.code, 0, "{url} {more:?}: {}{}", ran.stdout, ran.stderr);
                assert!(ran.echoes() > 0, "{url} {more:?}: {}", ran.stdout);
            }
        }
    }
    assert!(!path.exists());
}
