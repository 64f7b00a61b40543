//! Messages from files.

use std::sync::{Arc, Mutex};

use ringback::proto::frame::OpCode;

use crate::support::{ENGINES, Peer, load, load_ws, serve, serve_bytes};

/// What each connection has received.
type Received = Arc<Mutex<Vec<Vec<(OpCode, Vec<u8>)>>>>;

/// An echo server that keeps what it receives.
fn serve_keeping() -> (std::net::SocketAddr, Received) {
    let received = Received::default();
    let to = Arc::clone(&received);
    let address = serve(move |stream| {
        let mut messages = Vec::new();
        let mut peer = Peer::accept(stream).expect("a handshake");
        let _ = peer.echo(|_, opcode, payload| {
            messages.push((opcode, payload.to_vec()));
            None
        });
        to.lock().expect("nobody panics").push(messages);
    });
    (address, received)
}

#[test]
fn the_lines_of_a_file_are_sent_in_their_order_on_every_connection() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lines");
    std::fs::write(&path, "first\r\n\nthird, longer: äöü\nlast").expect("space");
    let path = path.to_str().expect("text");
    for engine in ENGINES {
        let (address, received) = serve_keeping();
        let ran = load_ws(address, &["-c", "3", "--depth", "5", "--messages", path, "--engine", engine]);
        let json = ran.json();
        assert_eq!(
            (ran.code, json["file"].as_str(), json["kind"].as_str()),
            (0, Some(path), Some("text")),
            "{json}"
        );
        assert_eq!(json["sizes"], "0-21");
        drop(ran);
        let lines = ["first", "", "third, longer: äöü", "last"];
        let received = received.lock().expect("nobody panics");
        assert!(received.iter().any(|messages| messages.len() > 8));
        for messages in &*received {
            for ((opcode, payload), line) in messages.iter().zip(lines.iter().cycle()) {
                assert_eq!((*opcode, &payload[..]), (OpCode::Text, line.as_bytes()));
            }
        }
    }
}

#[test]
fn a_file_is_one_binary_message() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("payload");
    let payload: Vec<u8> = (0..=255).cycle().take(70_001).collect();
    std::fs::write(&path, &payload).expect("space");
    let path = path.to_str().expect("text");
    let (address, received) = serve_keeping();
    let ran = load_ws(address, &["-c", "2", "--payload", path]);
    assert_eq!((ran.code, ran.json()["size_bytes"].as_u64()), (0, Some(70_001)), "{}", ran.stdout);
    let received = received.lock().expect("nobody panics");
    assert!(received.iter().flatten().all(|(opcode, got)| *opcode == OpCode::Binary && *got == payload));
    for args in [&["--payload", path][..], &["--payload", path, "--fragments", "1-3", "--ping-every", "2"]] {
        let ran = load(&format!("tcp://{}", serve_bytes()), &[&["-c", "2"], args].concat());
        assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    }
}

#[test]
fn a_wrong_echo_of_a_files_message_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lines");
    std::fs::write(&path, "one\ntwo\nsix\n").expect("space");
    let address = serve(|stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        let _ =
            peer.echo(|count, opcode, _| (count == 4).then(|| crate::support::frame(true, opcode, b"six")));
    });
    let ran = load_ws(address, &["-c", "1", "--messages", path.to_str().expect("text")]);
    assert_eq!((ran.code, ran.errors("wrong_order")), (1, 1), "{}", ran.stdout);
}

#[test]
fn a_line_that_is_no_text_is_told_with_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lines");
    std::fs::write(&path, b"good\nbad \xff\n").expect("space");
    let path = path.to_str().expect("text");
    let ran = load("ws://127.0.0.1:1/", &["--messages", path]);
    let told = format!("--messages {path}: line 2: byte 5 of it is not UTF-8");
    assert!(ran.code == 64 && ran.stderr.contains(&told), "{}", ran.stderr);
    assert_eq!(ran.json()["error"]["exit_code"], 64);
}
