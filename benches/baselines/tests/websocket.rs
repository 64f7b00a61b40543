//! The WebSocket servers as their clients see them.

mod support;

use std::net::TcpStream;

use rustix::process::Signal;
use support::{PATIENCE, Server};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket, client};

/// Programs and their arguments.
const SERVERS: &[(&str, &[&str])] = &[
    (env!("CARGO_BIN_EXE_tungstenite-echo"), &[]),
    (env!("CARGO_BIN_EXE_tungstenite-echo"), &["--batch"]),
    #[cfg(feature = "peers")]
    (env!("CARGO_BIN_EXE_fastwebsockets-echo"), &[]),
    #[cfg(feature = "peers")]
    (env!("CARGO_BIN_EXE_tokio-websockets-echo"), &[]),
];

#[test]
fn messages_come_back_in_order() {
    on_each(|server, name| {
        let mut socket = connect(server);
        let messages = [
            Message::text("héllo"),
            Message::binary(vec![0, 255, 128]),
            Message::text(""),
            Message::binary(vec![]),
            Message::text("字".repeat(100_000)),
            Message::binary(vec![42; 1 << 20]),
            Message::text("t".repeat(1 << 20)),
        ];
        for message in &messages {
            socket.send(message.clone()).unwrap();
            assert!(socket.read().unwrap() == *message, "{name}");
        }
        // All written before any is read: small enough for the kernel's buffers.
        let burst: Vec<_> = (0..500).map(|number| Message::text(format!("number {number}"))).collect();
        for message in &burst {
            socket.write(message.clone()).unwrap();
        }
        socket.flush().unwrap();
        for message in &burst {
            assert_eq!(socket.read().unwrap(), *message, "{name}");
        }
    });
}

#[test]
fn echoes_go_to_whom_they_belong() {
    on_each(|server, name| {
        let mut sockets: Vec<_> = (0..50).map(|_| connect(server)).collect();
        for round in 0..3 {
            let message = |number| Message::text(format!("round {round}, client {number}"));
            for (number, socket) in sockets.iter_mut().enumerate() {
                socket.send(message(number)).unwrap();
            }
            for (number, socket) in sockets.iter_mut().enumerate() {
                assert_eq!(socket.read().unwrap(), message(number), "{name}");
            }
        }
    });
}

#[test]
fn a_ping_is_answered_and_not_echoed() {
    on_each(|server, name| {
        let mut socket = connect(server);
        socket.send(Message::Ping("are you there".into())).unwrap();
        socket.send(Message::text("next")).unwrap();
        assert_eq!(socket.read().unwrap(), Message::Pong("are you there".into()), "{name}");
        assert_eq!(socket.read().unwrap(), Message::text("next"), "{name}");
    });
}

#[test]
fn a_close_is_answered() {
    let with_code = CloseFrame { code: CloseCode::Away, reason: "".into() };
    for frame in [None, Some(with_code)] {
        on_each(|server, name| {
            let mut socket = connect(server);
            socket.send(Message::text("last")).unwrap();
            socket.close(frame.clone()).unwrap();
            assert_eq!(socket.read().unwrap(), Message::text("last"), "{name}");
            assert_eq!(socket.read().unwrap(), Message::Close(frame.clone()), "{name}");
            assert!(matches!(socket.read(), Err(Error::ConnectionClosed)), "{name}");
        });
    }
}

#[test]
fn signals_end_it_with_status_0() {
    for (program, arguments) in SERVERS {
        for signal in [Signal::TERM, Signal::INT] {
            let server = Server::start(program, arguments);
            let _socket = connect(&server);
            assert_eq!(server.end_by(signal).code(), Some(0), "{program} {arguments:?}, {signal:?}");
        }
    }
}

/// Runs `test` on each server, of whose name it is told.
fn on_each(test: impl Fn(&Server, &str)) {
    for (program, arguments) in SERVERS {
        test(&Server::start(program, arguments), &[&[*program], *arguments].concat().join(" "));
    }
}

fn connect(server: &Server) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    client(format!("ws://{}/ws", server.address), stream).unwrap().0
}
