//! What real clients, proxies and monitors send, over each engine and real sockets.

use std::io::Write as _;
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use ringback::proto::frame::OpCode;
use rustix::process::Signal;
use serde_json::Value;

use crate::common::{Client, DEADLINE, Server, admin, counter_in, frame, handshake, last_counters};
use crate::on_each_engine;

on_each_engine! {
    requests_of_real_clients_are_accepted,
    an_expectation_is_met_before_the_upgrade_and_frames_may_follow_at_once,
    checks_of_proxies_and_monitors_get_an_answer,
    a_refusal_is_one_response_that_names_what_was_wrong,
    the_log_names_it_too,
    those_who_say_nothing_end_in_silence,
    heads_that_break_off_are_counted,
    long_heads_where_they_are_allowed,
    unfinished_heads_are_counted_against_the_total,
    a_page_that_has_no_room_is_not_sent,
    any_path_and_any_sub_protocol,
}

fn requests_of_real_clients_are_accepted(engine: &str) {
    let server = Server::start(engine, &["--path", "/ws", "--path", "/gr\u{FC}n"]);
    let rows: [(&[u8], &str); 6] = [
        (b"/ws", "Content-Length: 0\r\n"),
        (b"/ws?[]{}|\\^`'", ""),
        (b"/ws?\xC3\xBC\xFF", ""),
        (b"/%77s", ""),
        ("/gr\u{FC}n".as_bytes(), ""),
        (b"/gr%C3%BCn", ""),
    ];
    for (target, line) in rows {
        let request = handshake("@", line);
        let (before, behind) = request.split_once('@').expect("a mark");
        let mut client = server.connect_raw();
        client.send_bytes(&[before.as_bytes(), target, behind.as_bytes()].concat());
        let head = client.read_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{}: {head}", target.escape_ascii());
        client.echo(OpCode::Text, b"hello");
    }
}

fn an_expectation_is_met_before_the_upgrade_and_frames_may_follow_at_once(engine: &str) {
    let server = Server::start(engine, &[]);
    let mut client = server.connect_raw();
    let request = handshake("/ws", "Expect: 100-continue\r\n");
    client.send_bytes(
        &[request.as_bytes(), &frame(true, OpCode::Text, b"one"), &frame(true, OpCode::Text, b"two")]
            .concat(),
    );
    assert_eq!(client.read_head(), "HTTP/1.1 100 Continue\r\n\r\n");
    assert!(client.read_head().starts_with("HTTP/1.1 101 "));
    for text in ["one", "two"] {
        assert_eq!(client.read_message(), (OpCode::Text, text.into()));
    }
    assert_eq!((server.counter("handshakes"), server.counter("refusals")), (1, 0));
}

fn checks_of_proxies_and_monitors_get_an_answer(engine: &str) {
    let server = Server::start(engine, &[]);
    let old = handshake("/ws", "").replace("HTTP/1.1", "HTTP/1.0");
    for (request, status, contains) in [
        ("OPTIONS / HTTP/1.0\r\n\r\n", "204 No Content", "\r\nAllow: GET, HEAD, OPTIONS\r\n"),
        ("GET / HTTP/1.0\r\nUser-Agent: check_http/v2.4\r\nConnection: close\r\n\r\n", "200 OK", "websocat"),
        ("HEAD / HTTP/1.0\r\n\r\n", "200 OK", "\r\nContent-Length: "),
        ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "200 OK", "\r\nContent-Length: "),
        (&old, "426 Upgrade Required", "HTTP/1.0: nginx needs `proxy_http_version 1.1;`"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 HTTP Version Not Supported", "HTTP/2.0"),
    ] {
        let answer = ask(&server, request.as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request}\n{answer}");
        assert!(answer.contains(contains), "{request}\n{answer}");
    }
}

fn a_refusal_is_one_response_that_names_what_was_wrong(engine: &str) {
    let server = Server::start(engine, &[]);
    let next = handshake("/ws", "");
    for (request, named) in [
        (handshake("/ws\"", ""), "0x22 at position 4"),
        (handshake("/ws", "Content-Length: 00\r\n"), "Content-Length"),
        (handshake("/ws", "Expect: x\r\n"), "Expect"),
        (handshake("/ws", "X: \0\r\n"), "header field 6 has the byte 0x00"),
        (handshake("/ws", "").replace("HTTP/1.1", "HTTP/1.0"), "HTTP/1.0"),
        (handshake("/ws", "").replace("HTTP/1.1", "http/1.1"), "is written with small letters"),
        (format!("\r\n{next}"), "0x0D"),
        ("\r\n\r\n".into(), "0x0D"),
    ] {
        for cut in [request.len(), 1, request.len() - 1] {
            let mut client = server.connect_raw();
            client.send_bytes(&request.as_bytes()[..cut]);
            // The answer may be there already, and the connection over.
            let _ = client
                .stream
                .write_all(&[&request.as_bytes()[cut..], next.as_bytes(), b"\x81\x80abcd"].concat());
            let answer = String::from_utf8(client.read_to_end()).expect("text");
            assert_eq!(answer.matches("HTTP/1.1 4").count(), 1, "{request}\n{answer}");
            assert!(answer.contains(named) && !answer.contains(" 101 "), "{request}\n{answer}");
        }
    }
    assert_eq!((server.counter("handshakes"), server.counter("refusals")), (0, 24));
}

fn the_log_names_it_too(engine: &str) {
    let server = Server::start(engine, &["--log-format", "json"]);
    for request in [handshake("/w<s", ""), handshake("/ws", "").replace("HTTP/1.1", "HTTP/1.0")] {
        ask(&server, request.as_bytes());
    }
    server.signal(Signal::TERM);
    let lines: Vec<Value> =
        server.wait().1.iter().map(|line| serde_json::from_str(line).expect("an object")).collect();
    let refused: Vec<_> = lines.iter().filter(|line| line["message"] == "request refused").collect();
    for (line, (cause, named)) in
        refused.iter().zip([("malformed", "0x3C at position 3"), ("http10", "HTTP/1.0")])
    {
        assert!(
            line["cause"] == cause && line["error"].as_str().is_some_and(|error| error.contains(named)),
            "{line}"
        );
    }
    assert_eq!(refused.len(), 2, "{lines:?}");
}

fn those_who_say_nothing_end_in_silence(engine: &str) {
    let (server, admin) = admin::start(engine, &["--handshake-timeout", "500ms"]);
    // Spare ones of a browser, at the deadline.
    let mut spare = [server.connect_raw(), server.connect_raw()];
    // Checks of a port: one that closes, one that ends its side, one that resets.
    drop(server.connect_raw());
    let mut half = server.connect_raw();
    half.stream.shutdown(Shutdown::Write).expect("connected");
    half.expect_end();
    let reset = server.connect_raw();
    socket2::SockRef::from(&reset.stream).set_linger(Some(Duration::ZERO)).expect("a TCP socket");
    drop(reset);
    for client in &mut spare {
        client.expect_end();
    }
    // Not by SIGUSR1, since that reads the log.
    let counters = |names: &[&str]| names.iter().map(|name| total(admin, name)).collect::<Vec<_>>();
    wait_for(admin, "ended", 5);
    assert_eq!(counters(&["silent", "refusals", "cuts"]), [5, 0, 0]);
    // Who has begun to say something is told.
    let mut slow = server.connect_raw();
    slow.send_bytes(b"G");
    assert!(slow.read_head().starts_with("HTTP/1.1 408 "));
    let mut empty = server.connect_raw();
    empty.send_bytes(b"\r\n");
    assert!(empty.read_head().starts_with("HTTP/1.1 400 "));
    drop((slow, empty));
    wait_for(admin, "ended", 7);
    assert_eq!(counters(&["silent", "refusals"]), [5, 2]);
    let metrics = admin::get(admin, "/metrics").body;
    assert!(metrics.contains("\nringback_silent_total{worker=\"0\"} 5\n"), "{metrics}");
    server.signal(Signal::TERM);
    let (_, log) = server.wait();
    let refused: Vec<_> = log.iter().filter(|line| line.contains("request refused")).collect();
    assert_eq!(refused.len(), 2, "{log:?}");
}

fn heads_that_break_off_are_counted(engine: &str) {
    let ends: [fn(Client); 3] = [
        drop,
        |mut client| {
            client.stream.shutdown(Shutdown::Write).expect("connected");
            client.expect_end();
        },
        |client| {
            socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).expect("a TCP socket");
        },
    ];
    let server = Server::start(engine, &[]);
    let mut count = 0;
    for begun in ["G", "GET /ws HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a\r\n"] {
        for end in ends {
            let mut client = server.connect_raw();
            client.send_bytes(begun.as_bytes());
            // A reset may overtake what was sent before.
            server.wait_for_counter("receives", count + 1);
            end(client);
            count += 1;
            server.wait_for_counter("ended", count);
        }
    }
    assert_eq!(["abandoned", "silent", "refusals"].map(|name| server.counter(name)), [count, 0, 0]);

    // Behind a proxy its header is the first to break off.
    let server = Server::start(engine, &["--proxy-protocol", "v1"]);
    for (begun, count) in [("PROXY", 1), ("PROXY UNKNOWN\r\nGET /", 2)] {
        let mut client = server.connect_raw();
        client.send_bytes(begun.as_bytes());
        server.wait_for_counter("receives", count);
        ends[2](client);
        server.wait_for_counter("ended", count);
    }
    assert_eq!(["abandoned", "proxy_errors"].map(|name| server.counter(name)), [1, 1]);

    // The server's own end leaves nobody out.
    let server = Server::start(engine, &[]);
    let (mut begun, _silent) = (server.connect_raw(), server.connect_raw());
    begun.send_bytes(b"GET");
    server.wait_for_counter("accepted", 2);
    server.wait_for_counter("receives", 1);
    server.signal(Signal::QUIT);
    let (_, log) = server.wait();
    let counters = last_counters(&log);
    assert_eq!(["abandoned", "silent"].map(|name| counter_in(counters, name)), [1, 1], "{counters}");
}

fn long_heads_where_they_are_allowed(engine: &str) {
    let server = Server::start(engine, &["--max-head-size", "16KiB", "--max-head-fields", "100"]);
    let of_length = |len: usize| {
        let filler = "x".repeat(len - handshake("/ws", "Cookie: \r\n").len());
        handshake("/ws", &format!("Cookie: {filler}\r\n"))
    };
    let of_fields = |count: usize| handshake("/ws", &"X: y\r\n".repeat(count - 5));
    for request in [of_length(16 << 10), of_fields(100)] {
        let mut client = server.connect_raw();
        let (first, second) = request.split_at(request.len() / 2);
        client.send_bytes(first.as_bytes());
        client.send_bytes(second.as_bytes());
        assert!(client.read_head().starts_with("HTTP/1.1 101 "));
        client.echo(OpCode::Text, b"hello");
    }
    for (request, named) in [
        (
            of_length((16 << 10) + 1),
            "16384 bytes: send less, such as fewer cookies, or raise --max-head-size",
        ),
        (of_fields(101), "100 header fields: send fewer, or raise --max-head-fields"),
    ] {
        let answer = ask(&server, request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 431 ") && answer.contains(named), "{answer}");
    }
}

fn unfinished_heads_are_counted_against_the_total(engine: &str) {
    let (server, admin) = admin::start(
        engine,
        &["--max-head-size", "64KiB", "--unsent-total", "1MiB", "--handshake-timeout", "60s"],
    );
    let unsent = || total(admin, "unsent_bytes");
    let begun = [b"GET /ws HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 50_000]].concat();
    // What has come is counted, whatever may come.
    let mut small = server.connect_raw();
    small.send_bytes(&begun[..1000]);
    wait_for(admin, "unsent_bytes", 1000);
    assert!(unsent() < 5000, "{} bytes", unsent());
    let mut clients: Vec<_> = (0..40).map(|_| server.connect_raw()).collect();
    for client in &mut clients {
        let _ = client.stream.write_all(&begun);
    }
    server.wait_for_counter("refusals", 15);
    assert!(unsent() < (1 << 20) + 64 * 1024, "{} bytes", unsent());
    let stats = stats(admin);
    assert_eq!(stats["total"]["refusals_by_cause"]["memory"], stats["total"]["refusals"]);
    // Any of them: a ring may have read of the last one first.
    let began = Instant::now();
    let refused = loop {
        assert!(began.elapsed() < DEADLINE, "none is answered");
        if let Some(at) = clients.iter().position(has_answer) {
            break &mut clients[at];
        }
        thread::sleep(Duration::from_millis(5));
    };
    let answer = String::from_utf8(refused.read_to_end()).expect("text");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("\r\nRetry-After: 1\r\n") && answer.contains("--unsent-total"), "{answer}");
    // A head that comes whole needs no memory.
    server.connect().echo(OpCode::Text, b"hello");
    drop(clients);
    server.wait_for_counter("ended", 41);
    small.send_bytes(b"\r\n\r\n");
    assert!(small.read_head().starts_with("HTTP/1.1 400 "), "no Host");
    drop(small);
    server.wait_for_counter("ended", 42);
    assert_eq!(unsent(), 0);
}

fn has_answer(client: &Client) -> bool {
    client.stream.set_nonblocking(true).expect("a socket");
    let peeked = client.stream.peek(&mut [0]);
    client.stream.set_nonblocking(false).expect("a socket");
    matches!(peeked, Ok(1..))
}

fn a_page_that_has_no_room_is_not_sent(engine: &str) {
    // Little room, so that some heads fill it.
    let (server, admin) = admin::start(engine, &["--unsent-total", "128KiB", "--handshake-timeout", "60s"]);
    let for_a_browser = b"GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n";
    let ready = || admin::get(admin, "/readyz").status;
    assert!(ask(&server, for_a_browser).starts_with("HTTP/1.1 200 "));
    assert_eq!(ready(), 200);
    let mut clients = Vec::new();
    while ready() == 200 {
        let mut client = server.connect_raw();
        client.send_bytes(&[b"GET /ws HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 6000]].concat());
        clients.push(client);
        wait_for(admin, "unsent_bytes", clients.len() as u64 * 6000);
    }
    let html = ask(&server, for_a_browser);
    assert!(html.starts_with("HTTP/1.1 503 ") && html.contains("--unsent-total"), "{html}");
    // Those who balance load are told the same as newcomers.
    let unready = admin::get(admin, "/readyz");
    assert_eq!((unready.status, &*unready.body), (503, "not ready: --unsent-total is used up\n"));
    assert!(ask(&server, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 200 "));
    assert_eq!((server.counter("pages"), server.counter("refusals")), (2, 1));
    let ended = clients.len() as u64;
    drop(clients);
    wait_for(admin, "ended", ended + 3);
    assert_eq!(ready(), 200);
    assert!(ask(&server, for_a_browser).starts_with("HTTP/1.1 200 "));
}

fn any_path_and_any_sub_protocol(engine: &str) {
    let server = Server::start(engine, &["--path", "*", "--subprotocol", "b", "--subprotocol", "*"]);
    assert!(server.announcement.contains("/ws (any path, engine "), "{}", server.announcement);
    let log = server.log_until(" listening ");
    assert!(log.last().is_some_and(|line| line.contains("path=\"*\"")), "{log:?}");
    for (path, offer, agreed) in [
        ("/", "a, c", "a"),
        ("/any/path?q", "a, b", "b"),
        ("/ws", "graphql-transport-ws", "graphql-transport-ws"),
    ] {
        let mut client = server.connect_raw();
        client.send_bytes(handshake(path, &format!("Sec-WebSocket-Protocol: {offer}\r\n")).as_bytes());
        let head = client.read_head();
        assert!(head.contains(&format!("\r\nSec-WebSocket-Protocol: {agreed}\r\n")), "{path}: {head}");
        client.echo(OpCode::Text, b"hello");
    }
    let answer = ask(&server, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("ws://HOST:PORT/ws"), "{answer}");
    assert!(ask(&server, b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 426 "));
    let injection = handshake("/", "Sec-WebSocket-Protocol: a\tb\r\n");
    assert!(ask(&server, injection.as_bytes()).starts_with("HTTP/1.1 400 "));
}

fn stats(admin: SocketAddr) -> Value {
    serde_json::from_str(&admin::get(admin, "/stats.json").body).expect("an object")
}

fn total(admin: SocketAddr, name: &str) -> u64 {
    stats(admin)["total"][name].as_u64().expect("a number")
}

/// Waits until a number has reached a value.
fn wait_for(admin: SocketAddr, name: &str, at_least: u64) {
    let deadline = Instant::now() + DEADLINE;
    while total(admin, name) < at_least {
        assert!(Instant::now() < deadline, "{name} does not reach {at_least}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The whole answer to a request behind which the connection ends.
fn ask(server: &Server, request: &[u8]) -> String {
    let mut client = server.connect_raw();
    client.send_bytes(request);
    String::from_utf8(client.read_to_end()).expect("text")
}
