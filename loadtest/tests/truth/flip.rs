//! A server that flips one bit, of the last of very many echoes.

use std::net::SocketAddr;

use crate::support::{Peer, frame, loadtest, serve};

const ECHOES: usize = 1_000_000;

#[test]
fn one_byte_in_a_million_echoes() {
    let url = format!("ws://{}/ws", serve_flip(ECHOES - 1));
    // It ends its connection, which is the only one, and so the run.
    let args = ["-c", "1", "--depth", "64", "--warmup", "0s", "--duration", "10m", "--json"];
    let ran = loadtest(&[&[url.as_str()], &args[..]].concat());
    assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
    assert_eq!(
        (ran.errors("wrong_bytes"), ran.json()["errors_total"].as_u64()),
        (1, Some(1)),
        "{}",
        ran.stdout
    );
    assert_eq!(ran.echoes(), ECHOES as u64 - 1, "{}", ran.stdout);
    let told = format!("connection 0, message {}: byte 41 of the echo is wrong", ECHOES - 1);
    assert_eq!(ran.json()["error_examples"], serde_json::json!([told]));
}

/// Echoes, with a bit flipped in the message that `before` come before.
fn serve_flip(before: usize) -> SocketAddr {
    serve(move |stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        // The program leaves where it finds the fault.
        let _ = peer.echo(|count, opcode, payload| {
            (count == before).then(|| {
                let mut payload = payload.to_vec();
                payload[41] ^= 1;
                frame(true, opcode, &payload)
            })
        });
    })
}
