//! Every counter against a script in which each event happens a known number of times.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ringback::proto::frame::OpCode;
use serde_json::{Value, json};

use crate::support::{Peer, frame, good_answer, load_ws, loadtest, serve};

/// The kinds of events, and how many connections meet each. The last echo well until the end.
const SCRIPT: [(&str, usize); 14] = [
    ("wrong_bytes", 1),
    ("wrong_length", 2),
    ("wrong_opcode", 3),
    ("wrong_order", 1),
    ("masked_reply", 2),
    ("protocol_error", 1),
    ("connection_lost", 2),
    ("missing_echo", 1),
    ("unexpected_close", 1),
    ("unexpected_close_1001", 2),
    ("unexpected_close_4000", 1),
    ("handshake_refused_503", 2),
    ("handshake_invalid", 1),
    ("", 3),
];

/// Echoes before each event.
const GOOD: usize = 4;

/// A server that gives the events of the script to its connections, one after the other, again for each run.
fn serve_script() -> (SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let all: Vec<_> = SCRIPT.iter().flat_map(|&(kind, times)| vec![kind; times]).collect();
    let address = serve(move |stream| {
        let kind = all[counted.fetch_add(1, Ordering::SeqCst) % all.len()];
        let answer = |accept: &str| match kind {
            "handshake_refused_503" => "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_owned(),
            "handshake_invalid" => good_answer("none"),
            _ => good_answer(accept),
        };
        let mut peer = Peer::handshake(stream, answer).expect("a handshake");
        if kind == "connection_lost" {
            for _ in 0..GOOD {
                let (opcode, payload) = peer.frame().expect("a message");
                peer.send(&frame(true, opcode, &payload)).expect("it is awaited");
            }
            // The last is read, and not echoed.
            drop(peer.frame());
            return;
        }
        let mut stale = Vec::new();
        let _ = peer.echo(|count, opcode, payload| {
            if count == 0 {
                stale = payload.to_vec();
            }
            let close = |code: &[u8]| Some(frame(true, OpCode::Close, code));
            match kind {
                _ if count != GOOD => None,
                "wrong_bytes" => {
                    Some(frame(true, opcode, &payload.iter().map(|byte| byte ^ 1).collect::<Vec<_>>()))
                }
                "wrong_length" => Some(frame(true, opcode, &payload[1..])),
                "wrong_opcode" => Some(frame(true, OpCode::Binary, payload)),
                "wrong_order" => Some(frame(true, opcode, &stale)),
                "masked_reply" => Some([&[0x81, 0x80 | 64, 0, 0, 0, 0][..], payload].concat()),
                "protocol_error" => Some(vec![0xC1, 0]),
                "missing_echo" => Some(Vec::new()),
                "unexpected_close" => close(&[]),
                "unexpected_close_1001" => close(&1001_u16.to_be_bytes()),
                "unexpected_close_4000" => close(&4000_u16.to_be_bytes()),
                _ => None,
            }
        });
    });
    (address, count)
}

fn connections() -> usize {
    SCRIPT.iter().map(|(_, times)| times).sum()
}

/// How many errors of each kind there are in a run.
fn expected() -> Vec<(&'static str, usize)> {
    let mut kinds: Vec<_> = SCRIPT.into_iter().filter(|(kind, _)| !kind.is_empty()).collect();
    kinds.sort_unstable();
    kinds
}

#[test]
fn every_error_is_counted_once_in_json_and_in_text() {
    let (address, count) = serve_script();
    let total: usize = expected().iter().map(|(_, times)| times).sum();
    let args = ["-c", &connections().to_string(), "--grace", "2s", "--threads", "3"];
    let json = load_ws(address, &args).json();
    let errors: serde_json::Map<_, _> =
        expected().into_iter().map(|(kind, times)| (kind.to_owned(), Value::from(times))).collect();
    assert_eq!(json["errors"], Value::from(errors), "{json}");
    assert_eq!(json["errors_total"], total);
    assert_eq!(json["error_examples"].as_array().map(Vec::len), Some(5), "{json}");
    assert_eq!((&json["connections"], &json["threads"]), (&connections().into(), &3.into()));
    assert_eq!(
        json["addresses"],
        json!([{ "address": address.to_string(), "connections": connections(), "failures": 0 }])
    );
    assert_eq!((&json["reconnects"], &json["reconnect_causes"]), (&Value::Null, &json!({})));

    let url = format!("ws://{address}/");
    let ran = loadtest(&[&[url.as_str(), "-d", "400ms", "--warmup", "100ms"], &args[..]].concat());
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    let lines: Vec<_> = ran.stdout.lines().map(str::trim).collect();
    assert!(lines.contains(&format!("errors     {total}").as_str()), "{}", ran.stdout);
    for (kind, times) in expected() {
        assert!(lines.contains(&format!("{times} {kind}").as_str()), "{times} {kind} in {}", ran.stdout);
    }
    assert_eq!(count.load(Ordering::SeqCst), 2 * connections());
}

/// Without a warm-up, and with a window behind which nothing more is sent, every echo is in it.
#[test]
fn messages_are_counted_as_the_server_counts_them() {
    let echoes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&echoes);
    let address = serve(move |stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        let _ = peer.echo(|_, _, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            None
        });
    });
    for (args, has_due) in [(&["--depth", "3"][..], false), (&["--rate", "300"], true)] {
        echoes.store(0, Ordering::SeqCst);
        let json = load_ws(address, &[&["-c", "4", "--warmup", "0s", "-d", "1s"], args].concat()).json();
        let all = echoes.load(Ordering::SeqCst);
        assert_eq!(json["echoes_checked"], all, "{json}");
        let (messages, series) =
            (json["messages"].as_u64().expect("a count"), json["series"].as_array().expect("a list"));
        assert!(messages <= all as u64 && all as u64 - messages <= 12 + messages / 2, "{all}: {json}");
        let counted: f64 =
            series.iter().map(|second| second["messages_per_second"].as_f64().expect("a rate")).sum();
        assert!((counted - messages as f64).abs() < 0.5, "a window of one second: {json}");
        assert_eq!(
            json["payload_bytes_per_second"].as_f64(),
            json["messages_per_second"].as_f64().map(|it| it * 64.0)
        );
        assert_eq!((&json["latency_unrecorded"], &json["errors_total"]), (&0.into(), &0.into()));
        if has_due {
            assert_eq!(json["due"], all, "each that was due was sent, once: {json}");
            assert_eq!(all, 300);
        }
    }
}
