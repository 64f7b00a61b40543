//! What a client gets back, over each engine and real sockets.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use ringback::proto::frame::OpCode;
use tokio_tungstenite::tungstenite::Message;

use crate::common::{self, Received, Server, close_payload, frame, handshake, multibyte, pattern};
use crate::on_each_engine;

on_each_engine! {
    messages_of_all_sizes_come_back,
    tungstenite_talks_to_it,
    frames_behind_the_request_are_the_first_frames,
    fragments_come_back_as_fragments,
    bytes_one_by_one,
    the_close_handshake_ends_tcp,
    the_promised_close_arrives_while_the_client_sends,
    the_refusal_arrives_while_the_client_sends,
    the_page_and_other_paths,
    a_client_may_end_its_side_first,
    a_reset_behind_a_message_ends_the_connection,
    frames_that_arrive_whole_are_not_copied,
    long_messages_are_cut_off,
    only_allowed_origins,
    sub_protocols_and_paths,
    a_plain_get_on_the_socket_is_told_to_upgrade,
}

fn messages_of_all_sizes_come_back(engine: &str) {
    let server = Server::start(engine, &[]);
    let mut client = server.connect();
    for size in [0, 1, 125, 126, 4079, 4080, 4081, 65_535, 65_536, 65_537, 1 << 20] {
        client.echo(OpCode::Binary, &pattern(size));
        client.echo(OpCode::Text, multibyte(size).as_bytes());
    }
    client.send(OpCode::Ping, b"are you there?");
    let pong = Received { fin: true, opcode: OpCode::Pong, payload: b"are you there?".to_vec() };
    assert_eq!(client.read_frame(), Some(pong));
    assert_eq!(server.counter("binaries"), 11);
    assert_eq!(server.counter("texts"), 11);
    assert_eq!(server.counter("pings"), 1);
}

fn tungstenite_talks_to_it(engine: &str) {
    let server = Server::start(engine, &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let url = format!("ws://{}/ws", server.address);
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("a handshake");
        let messages = [
            Message::text("hello"),
            Message::text(multibyte(100_000)),
            Message::binary(pattern(300_000)),
            Message::binary(Vec::new()),
        ];
        for message in messages {
            socket.send(message.clone()).await.expect("sent");
            assert_eq!(socket.next().await.expect("a message").expect("a good one"), message);
        }
        socket.close(None).await.expect("sent");
        while let Some(message) = socket.next().await {
            assert!(message.expect("a clean end").is_close());
        }
    });
}

fn frames_behind_the_request_are_the_first_frames(engine: &str) {
    let server = Server::start(engine, &[]);
    let mut client = server.connect_raw();
    let mut bytes = handshake("/ws?a=b", "").into_bytes();
    for text in ["one", "two", "three"] {
        bytes.extend(frame(true, OpCode::Text, text.as_bytes()));
    }
    client.send_bytes(&bytes);
    assert!(client.read_head().starts_with("HTTP/1.1 101 "));
    for text in ["one", "two", "three"] {
        assert_eq!(client.read_message(), (OpCode::Text, text.as_bytes().to_vec()));
    }
}

fn fragments_come_back_as_fragments(engine: &str) {
    let server = Server::start(engine, &[]);
    let mut client = server.connect();
    let sent = [
        (false, OpCode::Text, "a"),
        (true, OpCode::Ping, "p"),
        (false, OpCode::Continuation, ""),
        (true, OpCode::Continuation, "b"),
    ];
    for (fin, opcode, payload) in sent {
        client.send_bytes(&frame(fin, opcode, payload.as_bytes()));
    }
    for (fin, opcode, payload) in sent {
        let opcode = if opcode == OpCode::Ping { OpCode::Pong } else { opcode };
        assert_eq!(client.read_frame(), Some(Received { fin, opcode, payload: payload.into() }));
    }
}

fn bytes_one_by_one(engine: &str) {
    let server = Server::start(engine, &[]);
    let mut client = server.connect_raw();
    let mut bytes = handshake("/ws", "").into_bytes();
    bytes.extend(frame(true, OpCode::Text, "grüße".as_bytes()));
    bytes.extend(frame(true, OpCode::Binary, &pattern(200)));
    bytes.extend(frame(true, OpCode::Close, &close_payload(1000, "bye")));
    for byte in bytes {
        client.send_bytes(&[byte]);
    }
    client.read_head();
    assert_eq!(client.read_message(), (OpCode::Text, "grüße".into()));
    assert_eq!(client.read_message(), (OpCode::Binary, pattern(200)));
    let close = Received { fin: true, opcode: OpCode::Close, payload: close_payload(1000, "bye") };
    assert_eq!(client.read_frame(), Some(close));
    client.expect_end();
}

fn the_close_handshake_ends_tcp(engine: &str) {
    let server = Server::start(engine, &[]);
    for (payload, answer) in [
        (Vec::new(), Vec::new()),
        (close_payload(1000, "done"), close_payload(1000, "done")),
        (close_payload(1005, ""), close_payload(1002, "")),
        (vec![3], close_payload(1002, "")),
    ] {
        let mut client = server.connect();
        client.send(OpCode::Close, &payload);
        let close = Received { fin: true, opcode: OpCode::Close, payload: answer };
        assert_eq!(client.read_frame(), Some(close));
        // The server ends TCP first: this returns at once and not when the client ends.
        client.expect_end();
    }
    server.wait_for_counter("ended", 4);
}

/// A server that closes at once makes the kernel answer the rest with RST, and the client loses the Close.
fn the_promised_close_arrives_while_the_client_sends(engine: &str) {
    let server = Server::start(engine, &["--max-message-size", "1MiB"]);
    let unmasked = vec![0x82, 0x05, 1, 2, 3, 4, 5];
    for (bad, code) in [(common::header(true, OpCode::Binary, 20 << 20), 1009), (unmasked, 1002)] {
        for _ in 0..5 {
            let mut client = server.connect();
            client.send_bytes(&bad);
            let mut sender = client.stream.try_clone().expect("a second handle");
            let sending = std::thread::spawn(move || {
                let chunk = vec![0; 1 << 20];
                // The server stops listening after 4 MiB.
                (0..20).take_while(|_| std::io::Write::write_all(&mut sender, &chunk).is_ok()).count()
            });
            assert_eq!(client.read_close(), code);
            drop(client);
            sending.join().expect("no panic");
        }
    }
}

fn the_refusal_arrives_while_the_client_sends(engine: &str) {
    let server = Server::start(engine, &[]);
    for _ in 0..5 {
        let mut client = server.connect_raw();
        let mut sender = client.stream.try_clone().expect("a second handle");
        let sending = std::thread::spawn(move || {
            let chunk = vec![b'x'; 1 << 20];
            let _ = std::io::Write::write_all(&mut sender, b"GET /ws HTTP/1.1\r\nX: ");
            (0..20).take_while(|_| std::io::Write::write_all(&mut sender, &chunk).is_ok()).count()
        });
        let head = client.read_head();
        assert!(head.starts_with("HTTP/1.1 431 "), "{head}");
        drop(client);
        sending.join().expect("no panic");
    }
}

fn the_page_and_other_paths(engine: &str) {
    let server = Server::start(engine, &["--path", "/echo"]);
    for (request, status, contains) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "200 OK", "/echo"),
        ("GET /favicon.ico HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "404 Not Found", "nothing"),
        ("POST / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "405 Method Not Allowed", "Allow: GET"),
        (
            "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            "426 Upgrade Required",
            "Sec-WebSocket-Version: 13",
        ),
        (handshake("/ws", ""), "404 Not Found", "close"),
        (
            handshake("/echo", ""),
            "101 Switching Protocols",
            "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        ),
    ] {
        let mut client = server.connect_raw();
        client.send_bytes(request.as_bytes());
        let is_upgrade = status.starts_with("101");
        let answer = if is_upgrade {
            client.read_head()
        } else {
            String::from_utf8(client.read_to_end()).expect("text")
        };
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request}\n{answer}");
        assert!(answer.contains(contains), "{request}\n{answer}");
    }
}

fn a_client_may_end_its_side_first(engine: &str) {
    let server = Server::start(engine, &[]);
    let mut client = server.connect();
    client.send(OpCode::Text, b"last words");
    client.stream.shutdown(std::net::Shutdown::Write).expect("a connected socket");
    assert_eq!(client.read_message(), (OpCode::Text, b"last words".to_vec()));
    client.expect_end();
    server.wait_for_counter("ended", 1);
}

/// The message can be read still, but its reply cannot be sent: what says so is the write alone.
fn a_reset_behind_a_message_ends_the_connection(engine: &str) {
    let server = Server::start(engine, &[]);
    let clients: Vec<_> = (0..10).map(|_| server.connect()).collect();
    server.signal(rustix::process::Signal::STOP);
    for mut client in clients {
        client.send(OpCode::Text, b"and gone");
        socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).expect("a TCP socket");
    }
    server.signal(rustix::process::Signal::CONT);
    server.wait_for_counter("ended", 10);
}

fn frames_that_arrive_whole_are_not_copied(engine: &str) {
    let server = Server::start(engine, &[]);
    let mut client = server.connect();
    for _ in 0..1000 {
        client.echo(OpCode::Text, &[b'x'; 64]);
    }
    assert_eq!(server.counter("bytes_gathered"), 0);
    assert_eq!(server.counter("bytes_spilled"), 0);
    assert_eq!(server.counter("payload_bytes"), 64_000);
}

fn long_messages_are_cut_off(engine: &str) {
    let server = Server::start(engine, &["--max-message-size", "1000"]);
    let mut client = server.connect();
    client.echo(OpCode::Binary, &pattern(1000));
    client.send_bytes(&frame(false, OpCode::Text, &[b'a'; 600]));
    client.send_bytes(&frame(true, OpCode::Continuation, &[b'a'; 401]));
    assert_eq!(client.read_frame().map(|frame| frame.payload.len()), Some(600));
    assert_eq!(client.read_close(), 1009);
    client.expect_end();
}

fn only_allowed_origins(engine: &str) {
    let server =
        Server::start(engine, &["--allowed-origin", "https://a.example", "--handshake-timeout", "60s"]);
    for (headers, status) in [
        ("", "101"),
        ("Origin: https://a.example\r\n", "101"),
        ("Origin: https://A.example\r\n", "403"),
        ("Origin: null\r\n", "403"),
    ] {
        let began = Instant::now();
        let mut client = server.connect_raw();
        client.send_bytes(handshake("/ws", headers).as_bytes());
        let head = client.read_head();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{headers}: {head}");
        assert!(began.elapsed() < Duration::from_secs(50), "answered, not timed out");
    }
}

fn sub_protocols_and_paths(engine: &str) {
    let server = Server::start(
        engine,
        &["--subprotocol", "b,a", "--path", "/ws", "--path", "/echo", "--workers", "2"],
    );
    assert!(server.announcement.contains("/ws (engine "), "{}", server.announcement);
    let no_answer = "Sec-WebSocket-Protocol";
    for (path, headers, status, answer) in [
        ("/ws", "", "101", None),
        ("/echo", "Sec-WebSocket-Protocol: a, b\r\n", "101", Some("b")),
        ("/ws", "Sec-WebSocket-Protocol: c\r\nSec-WebSocket-Protocol: a\r\n", "101", Some("a")),
        ("/echo", "Sec-WebSocket-Protocol: c\r\n", "101", None),
        ("/echo", "Sec-WebSocket-Protocol: a, a\r\n", "400", None),
        ("/other", "Sec-WebSocket-Protocol: a\r\n", "404", None),
    ] {
        let mut client = server.connect_raw();
        client.send_bytes(handshake(path, headers).as_bytes());
        let head = client.read_head();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {headers}: {head}");
        match answer {
            Some(name) => {
                assert!(
                    head.contains(&format!("\r\nSec-WebSocket-Protocol: {name}\r\n")),
                    "{headers}: {head}"
                );
            }
            None => assert!(!head.contains(no_answer), "{headers}: {head}"),
        }
        if status == "101" {
            client.echo(OpCode::Text, b"on either path, with and without");
        }
    }
}

fn a_plain_get_on_the_socket_is_told_to_upgrade(engine: &str) {
    let server = Server::start(engine, &[]);
    let mut client = server.connect_raw();
    client.send_bytes(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n");
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 426 Upgrade Required\r\n"), "{head}");
    for line in ["Upgrade: websocket", "Connection: Upgrade, close", "Sec-WebSocket-Version: 13"] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
    }
}
