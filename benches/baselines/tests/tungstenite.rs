//! `tungstenite-echo` as its clients see it, in both ways to flush.

mod support;

use std::net::TcpStream;

use rustix::process::Signal;
use support::{PATIENCE, Server};
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket, client};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tungstenite-echo");

const WAYS: [&[&str]; 2] = [&[], &["--batch"]];

#[test]
fn messages_come_back_in_order() {
    for way in WAYS {
        let server = Server::start(PROGRAM, way);
        let mut socket = connect(&server);
        let messages = [
            Message::text("héllo"),
            Message::binary(vec![0, 255, 128]),
            Message::text(""),
            Message::binary(vec![]),
            Message::text("字".repeat(100_000)),
            Message::binary(vec![42; 1 << 20]),
        ];
        for message in &messages {
            socket.send(message.clone()).unwrap();
            assert!(socket.read().unwrap() == *message, "{way:?}");
        }
        // All written before any is read: small enough for the kernel's buffers.
        let burst: Vec<_> = (0..500).map(|number| Message::text(format!("number {number}"))).collect();
        for message in &burst {
            socket.write(message.clone()).unwrap();
        }
        socket.flush().unwrap();
        for message in &burst {
            assert_eq!(socket.read().unwrap(), *message, "{way:?}");
        }
    }
}

#[test]
fn a_ping_is_answered_and_not_echoed() {
    for way in WAYS {
        let server = Server::start(PROGRAM, way);
        let mut socket = connect(&server);
        socket.send(Message::Ping("are you there".into())).unwrap();
        socket.send(Message::text("next")).unwrap();
        assert_eq!(socket.read().unwrap(), Message::Pong("are you there".into()), "{way:?}");
        assert_eq!(socket.read().unwrap(), Message::text("next"), "{way:?}");
    }
}

#[test]
fn a_close_is_answered() {
    for way in WAYS {
        let server = Server::start(PROGRAM, way);
        let mut socket = connect(&server);
        socket.send(Message::text("last")).unwrap();
        socket.close(None).unwrap();
        assert_eq!(socket.read().unwrap(), Message::text("last"), "{way:?}");
        assert_eq!(socket.read().unwrap(), Message::Close(None), "{way:?}");
        assert!(matches!(socket.read(), Err(Error::ConnectionClosed)), "{way:?}");
    }
}

#[test]
fn signals_end_it_with_status_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let server = Server::start(PROGRAM, &[]);
        let _socket = connect(&server);
        assert_eq!(server.end_by(signal).code(), Some(0), "{signal:?}");
    }
}

fn connect(server: &Server) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    client(format!("ws://{}/ws", server.address), stream).unwrap().0
}
