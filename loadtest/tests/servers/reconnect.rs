//! Servers that end connections, and connections that are opened again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ringback::proto::frame::OpCode;
use serde_json::Value;

use crate::support::{ENGINES, Peer, frame, load_ws, loadtest, serve};

/// A server that ends each connection behind its fifth echo, in the same write, and counts the connections.
fn serve_five(end: impl Fn() -> Vec<u8> + Send + Sync + 'static) -> (SocketAddr, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let address = serve(move |stream| {
        counted.fetch_add(1, Ordering::Relaxed);
        let mut peer = Peer::accept(stream).expect("a handshake");
        for at in 1..=5 {
            let Ok((opcode, payload)) = peer.frame() else { return };
            let more = if at == 5 { end() } else { Vec::new() };
            if opcode == OpCode::Close || peer.send(&[frame(true, opcode, &payload), more].concat()).is_err()
            {
                let _ = peer.send(&frame(true, OpCode::Close, &payload));
                return;
            }
        }
        let _ = peer.frame();
    });
    (address, count)
}

fn close() -> Vec<u8> {
    frame(true, OpCode::Close, &1001_u16.to_be_bytes())
}

#[test]
fn the_number_of_connections_is_kept_up() {
    for engine in ENGINES {
        let (address, count) = serve_five(close);
        let ran = load_ws(address, &["-c", "3", "--reconnect", "--engine", engine, "-d", "1s"]);
        let json = ran.json();
        let reconnects = json["reconnects"].as_u64().expect("a count");
        assert_eq!((ran.code, &json["errors_total"]), (0, &Value::from(0)), "{}", ran.stdout);
        assert!(reconnects > 6, "{json}");
        // Those that were not open in time are not counted.
        let made = count.load(Ordering::Relaxed);
        assert!((reconnects + 3..=reconnects + 6).contains(&made), "{made} connections: {json}");
        let ended = json["reconnect_causes"]["unexpected_close_1001"].as_u64().expect("a count");
        assert!((reconnects..=reconnects + 3).contains(&ended), "{json}");
        assert_eq!(json["addresses"][0]["connections"], made, "{json}");
        assert!(ran.echoes() > 5 * reconnects, "{json}");
    }
}

#[test]
fn without_it_a_connection_that_ends_is_an_error_and_gone() {
    let (address, count) = serve_five(close);
    let ran = load_ws(address, &["-c", "3"]);
    let json = ran.json();
    assert_eq!((ran.code, ran.errors("unexpected_close_1001"), ran.echoes()), (1, 3, 15), "{json}");
    assert_eq!((&json["reconnects"], count.load(Ordering::Relaxed)), (&Value::Null, 3));
}

#[test]
fn messages_that_went_with_a_connection_are_missing() {
    let address = serve(|stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        // Two messages are in flight: one is answered, both are read.
        let (opcode, payload) = peer.frame().expect("a message");
        peer.frame().expect("another one");
        let _ = peer.send(&[frame(true, opcode, &payload), close()].concat());
        let _ = peer.frame();
    });
    let ran = load_ws(address, &["-c", "1", "--depth", "2", "--reconnect", "-d", "1s"]);
    let json = ran.json();
    let ended = json["reconnect_causes"]["unexpected_close_1001"].as_u64().expect("a count");
    assert_eq!((ran.code, ran.errors("missing_echo")), (1, ended), "{json}");
    assert!(ended > 2, "{json}");
}

#[test]
fn wrong_echoes_are_not_hidden() {
    let address = serve(|stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        let _ = peer.echo(|count, opcode, payload| {
            (count == 2)
                .then(|| frame(true, opcode, &payload.iter().map(|byte| byte ^ 1).collect::<Vec<_>>()))
        });
    });
    let ran = load_ws(address, &["-c", "1", "--reconnect", "-d", "1s"]);
    let json = ran.json();
    let reconnects = json["reconnects"].as_u64().expect("a count");
    let wrong = ran.errors("wrong_bytes");
    assert_eq!((ran.code, json["errors_total"].as_u64()), (1, Some(wrong)), "{json}");
    assert!(wrong > 2 && (reconnects..=reconnects + 1).contains(&wrong), "{json}");
    assert_eq!(json["reconnect_causes"], serde_json::json!({}));
}

#[test]
fn a_server_that_refuses_for_a_while_is_tried_again() {
    let count = AtomicU64::new(0);
    let address = serve(move |stream| {
        // The first is good and ends, three are refused, and then all is well.
        match count.fetch_add(1, Ordering::Relaxed) {
            0 => {
                let mut peer = Peer::accept(stream).expect("a handshake");
                let (opcode, payload) = peer.frame().expect("a message");
                let _ = peer.send(&[frame(true, opcode, &payload), close()].concat());
                let _ = peer.frame();
            }
            1..=3 => drop(Peer::handshake(stream, |_| "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".into())),
            _ => drop(Peer::accept(stream).and_then(|mut peer| peer.echo(|_, _, _| None))),
        }
    });
    let url = format!("ws://{address}/");
    let ran = loadtest(&[&url, "-c", "1", "--reconnect", "-d", "2s", "--warmup", "0s", "--grace", "60s"]);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    for line in
        ["reconnects 1\n", " 3 handshake_refused_503\n", " 1 unexpected_close_1001\n", "errors     none"]
    {
        assert!(ran.stdout.contains(line), "{line} in {}", ran.stdout);
    }
}

#[test]
fn connections_that_are_held_are_opened_again() {
    let count = AtomicU64::new(0);
    let address = serve(move |stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        if count.fetch_add(1, Ordering::Relaxed) < 4 {
            // Not in the same breath as the handshake: it is open before it ends.
            std::thread::sleep(std::time::Duration::from_millis(100));
            let _ = peer.send(&close());
            let _ = peer.frame();
            return;
        }
        while let Ok((opcode, payload)) = peer.frame() {
            let reply = if opcode == OpCode::Ping { OpCode::Pong } else { opcode };
            if peer.send(&frame(true, reply, &payload)).is_err() || opcode == OpCode::Close {
                break;
            }
        }
    });
    let ran = load_ws(address, &["-c", "4", "--idle", "--reconnect", "-d", "1s", "--warmup", "2s"]);
    let json = ran.json();
    assert_eq!((ran.code, &json["reconnects"]), (0, &Value::from(4)), "{json}");
    assert_eq!(json["reconnect_causes"]["unexpected_close_1001"], 4, "{json}");
}
