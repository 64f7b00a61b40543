//! Who may connect: limits by address, and what a proxy says of its clients.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use ringback::proto::frame::OpCode;
use rustix::process::Signal;

use crate::common::{self, Client, DEADLINE, Server, command, handshake};
use crate::on_each_engine;

on_each_engine! {
    an_address_has_so_many_connections_and_others_have_theirs,
    addresses_of_ipv6_are_counted_too,
    those_of_one_address_do_not_stop_accepting,
    addresses_that_come_and_go_are_counted_right,
    a_limit_of_addresses_keeps_to_the_limit_of_all,
    what_is_queued_at_a_drain_is_answered_and_nothing_else_awaited,
    clients_behind_a_proxy,
    without_a_header_there_is_no_answer,
    a_header_comes_within_the_time_of_a_handshake,
    addresses_behind_a_proxy_are_counted,
    those_of_one_address_behind_a_proxy_do_not_stop_accepting,
    each_of_several_listeners_reaches_the_limit,
    over_the_limit_there_is_no_answer_before_the_header,
    a_drain_answers_once_the_header_has_come,
}

const HOME: [u8; 4] = [127, 0, 0, 1];
const OTHER: [u8; 4] = [127, 0, 0, 2];

/// Does the handshake behind `before`, whatever comes of it; gives the status line.
fn ask(client: &mut Client, before: &[u8]) -> String {
    client.send_bytes(&[before, handshake("/ws", "").as_bytes()].concat());
    let head = client.read_head();
    head.lines().next().unwrap_or_default().to_owned()
}

fn open(server: &Server, source: [u8; 4]) -> Client {
    let mut client = server.connect_raw_from(source);
    assert!(ask(&mut client, b"").starts_with("HTTP/1.1 101 "), "{source:?}");
    client
}

fn expect_503(client: &mut Client) {
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nRetry-After: 1\r\n"), "{head}");
    let body = String::from_utf8(client.read_to_end()).expect("text");
    assert!(body.contains("from your address"), "{body}");
}

fn an_address_has_so_many_connections_and_others_have_theirs(engine: &str) {
    let options = ["--max-connections-per-ip", "3", "--workers", "2", "--no-pin"];
    let server = Server::start(engine, &options);
    let mut clients: Vec<_> = (0..3).map(|_| open(&server, HOME)).collect();
    // Whichever worker they come to.
    for _ in 0..6 {
        expect_503(&mut server.connect_raw_from(HOME));
    }
    let mut others: Vec<_> = (0..3).map(|_| open(&server, OTHER)).collect();
    expect_503(&mut server.connect_raw_from(OTHER));
    drop(clients.pop());
    server.wait_until_open(5);
    clients.push(open(&server, HOME));
    expect_503(&mut server.connect_raw_from(HOME));
    for client in clients.iter_mut().chain(&mut others) {
        client.echo(OpCode::Text, b"as ever");
    }
    server.signal(Signal::TERM);
    drop((clients, others));
    assert_eq!(server.wait().0.code(), Some(0));
}

fn addresses_of_ipv6_are_counted_too(engine: &str) {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return println!("SKIPPED: IPv6, which this machine does not have");
    }
    let options = ["--listen", "[::1]:0", "--engine", engine, "--max-connections-per-ip", "2"];
    let server = Server::spawn(command(&options));
    let mut clients = [server.connect(), server.connect()];
    expect_503(&mut server.connect_raw());
    for client in &mut clients {
        client.echo(OpCode::Text, b"over IPv6");
    }
}

/// More than are told so at once, none of which goes away.
fn those_of_one_address_do_not_stop_accepting(engine: &str) {
    let server = Server::start(engine, &["--max-connections-per-ip", "1"]);
    let mut first = open(&server, HOME);
    let _held: Vec<_> = (0..100).map(|_| server.connect_raw_from(HOME)).collect();
    for last in 2..20 {
        open(&server, [127, 0, 0, last]).echo(OpCode::Text, b"let in");
    }
    first.echo(OpCode::Text, b"still here");
    server.wait_for_counter("dropped", 50);
}

fn addresses_that_come_and_go_are_counted_right(engine: &str) {
    let options = ["--max-connections-per-ip", "8", "--workers", "2", "--no-pin"];
    let server = Server::start(engine, &options);
    let rounds = 20;
    thread::scope(|scope| {
        for last in 1..5 {
            let address = server.address;
            scope.spawn(move || {
                for round in 0..rounds {
                    let mut client = Client::connect_raw_from([127, 0, 1, last], address);
                    // The one before it may not have ended yet, but seven more have room.
                    let answer = ask(&mut client, b"");
                    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
                    client.echo(OpCode::Binary, &[last; 100]);
                    client.send(OpCode::Close, &[]);
                    client.read_to_end();
                    if round % 2 == 0 {
                        client.stream.shutdown(Shutdown::Both).expect("connected");
                    }
                }
            });
        }
    });
    server.wait_for_counter("ended", 4 * rounds);
    let _full: Vec<_> = (0..8).map(|_| open(&server, [127, 0, 1, 1])).collect();
    expect_503(&mut server.connect_raw_from([127, 0, 1, 1]));
}

fn a_limit_of_addresses_keeps_to_the_limit_of_all(engine: &str) {
    let server = Server::start(engine, &["--max-connections-per-ip", "2", "--max-connections", "3"]);
    let mut clients = vec![open(&server, HOME), open(&server, HOME), open(&server, OTHER)];
    let mut fourth = server.connect_raw_from(OTHER);
    let head = fourth.read_head();
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(!String::from_utf8(fourth.read_to_end()).expect("text").contains("your address"));
    drop(fourth);
    drop(clients.remove(0));
    server.wait_until_open(2);
    clients.push(open(&server, OTHER));
    for client in &mut clients {
        client.echo(OpCode::Text, b"one of three");
    }
}

/// Accepting pauses where too many are being told that there is no room. Of several accepts on one listener only one may wait
/// for what is queued at the end.
fn what_is_queued_at_a_drain_is_answered_and_nothing_else_awaited(engine: &str) {
    let options = ["--max-connections-per-ip", "100", "--max-connections", "1", "--drain-timeout", "1h"];
    let server = Server::start(engine, &options);
    let only = open(&server, HOME);
    let queued: Vec<_> = (0..60).map(|_| server.connect_raw_from(OTHER)).collect();
    server.wait_for_counter("accepted", 17);
    server.signal(Signal::TERM);
    for mut client in queued {
        let head = client.read_head();
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    }
    drop(only);
    assert_eq!(server.wait().0.code(), Some(0));
}

fn line(address: &str) -> Vec<u8> {
    format!("PROXY TCP4 {address} 198.51.100.2 56324 443\r\n").into_bytes()
}

/// A binary header; without an address it is of the proxy itself.
fn binary(address: Option<[u8; 4]>) -> Vec<u8> {
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    match address {
        Some(address) => {
            [&signature[..], b"\x21\x11\0\x0C", &address, &[198, 51, 100, 2, 1, 2, 3, 4]].concat()
        }
        None => [&signature[..], b"\x20\0\0\0"].concat(),
    }
}

fn clients_behind_a_proxy(engine: &str) {
    let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
    for (versions, headers) in [
        ("v1", vec![line("192.0.2.1"), b"PROXY UNKNOWN\r\n".to_vec(), longest.into_bytes()]),
        ("v2", vec![binary(Some([192, 0, 2, 1])), binary(None)]),
        ("any", vec![line("192.0.2.1"), binary(Some([192, 0, 2, 1]))]),
    ] {
        let server = Server::start(engine, &["--proxy-protocol", versions]);
        for header in headers {
            let shown = header.escape_ascii().to_string();
            // At once, and then in pieces that come one after the other.
            let mut client = server.connect_raw();
            assert!(ask(&mut client, &header).starts_with("HTTP/1.1 101 "), "{versions} {shown}");
            client.echo(OpCode::Text, b"behind a proxy");
            let mut client = server.connect_raw();
            for byte in &header {
                client.send_bytes(std::slice::from_ref(byte));
            }
            assert!(ask(&mut client, b"").starts_with("HTTP/1.1 101 "), "{versions} {shown}");
            client.echo(OpCode::Binary, &common::pattern(100_000));
        }
        assert_eq!(server.counter("proxy_errors"), 0);
    }
}

fn without_a_header_there_is_no_answer(engine: &str) {
    let bad_checksum =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13\xC0\0\x02\x01\xC6\x33\x64\x02\xDC\x04\x01\xBB\x03\0\x04abcd"
            .to_vec();
    let cases = [
        ("any", handshake("/ws", "").into_bytes()),
        ("any", b"PROXY TCP4 192.0.2.01 198.51.100.2 1 2\r\n".to_vec()),
        ("any", bad_checksum),
        ("v1", binary(Some([192, 0, 2, 1]))),
        ("v2", line("192.0.2.1")),
    ];
    for versions in ["v1", "v2", "any"] {
        let server = Server::start(engine, &["--proxy-protocol", versions, "--handshake-timeout", "1h"]);
        let mut errors = 0;
        for (_, bytes) in cases.iter().filter(|(of, _)| *of == versions) {
            let mut client = server.connect_raw();
            client.send_bytes(bytes);
            // A reset is an end too.
            let mut rest = Vec::new();
            let _ = std::io::Read::read_to_end(&mut client.stream, &mut rest);
            assert_eq!(rest, b"", "{versions} {}", bytes.escape_ascii());
            errors += 1;
            assert_eq!(server.counter("proxy_errors"), errors);
        }
        // Somebody who only looks whether the port is open has done nothing wrong; one that stops half-way has.
        drop(server.connect_raw());
        server.wait_for_counter("ended", errors + 1);
        assert_eq!((server.counter("proxy_errors"), server.counter("silent")), (errors, 1));
        let mut client = server.connect_raw();
        client.send_bytes(if versions == "v2" { b"\r\n\r" } else { b"PROXY" });
        client.stream.shutdown(Shutdown::Write).expect("connected");
        client.expect_end();
        server.wait_for_counter("ended", errors + 2);
        assert_eq!(server.counter("proxy_errors"), errors + 1);
        assert_eq!(server.counter("refusals"), 0);
    }
}

fn a_header_comes_within_the_time_of_a_handshake(engine: &str) {
    let server = Server::start(engine, &["--proxy-protocol", "v1", "--handshake-timeout", "300ms"]);
    let mut silent = server.connect_raw();
    let mut slow = server.connect_raw();
    slow.send_bytes(b"PROXY TCP4 192.0.2.1");
    let mut later = server.connect_raw();
    later.send_bytes(&[&line("192.0.2.1")[..], b"GET /"].concat());
    // A proxy that checks the server, or holds a spare connection: its client has said nothing.
    let mut spare = server.connect_raw();
    spare.send_bytes(&line("192.0.2.1"));
    silent.expect_end();
    slow.expect_end();
    spare.expect_end();
    assert!(later.read_head().starts_with("HTTP/1.1 408 "));
    assert_eq!((server.counter("proxy_errors"), server.counter("refusals")), (1, 1));
    assert_eq!(server.counter("silent"), 2);
}

fn addresses_behind_a_proxy_are_counted(engine: &str) {
    let server = Server::start(
        engine,
        &["--proxy-protocol", "any", "--max-connections-per-ip", "2", "--workers", "2", "--no-pin"],
    );
    let connect = |header: &[u8]| {
        let mut client = server.connect_raw();
        let answer = ask(&mut client, header);
        (answer, client)
    };
    let of = |last: u8| [line(&format!("192.0.2.{last}")), binary(Some([192, 0, 2, last]))];
    let mut held = Vec::new();
    for last in 1..4 {
        for header in of(last) {
            let (answer, client) = connect(&header);
            assert!(answer.starts_with("HTTP/1.1 101 "), "{last}: {answer}");
            held.push(client);
        }
        for header in of(last) {
            let (answer, _) = connect(&header);
            assert!(answer.starts_with("HTTP/1.1 503 "), "{last}: {answer}");
        }
    }
    // The proxy's own are counted by its address, whose clients' are not.
    for expected in ["101", "101", "503"] {
        let (answer, client) = connect(&binary(None));
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{answer}");
        if expected == "101" {
            held.push(client);
        }
    }
    // A Unix-domain client has no address.
    let unix = [b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xD8", &[0; 216][..]].concat();
    for _ in 0..4 {
        let (answer, client) = connect(&unix);
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        held.push(client);
    }
    drop(held.remove(0));
    server.wait_until_open(held.len() as u64);
    assert!(connect(&line("192.0.2.1")).0.starts_with("HTTP/1.1 101 "), "room again");
}

/// Those of one address that come through a proxy: only some are told, and none keeps a place from others.
fn those_of_one_address_behind_a_proxy_do_not_stop_accepting(engine: &str) {
    let options = ["--proxy-protocol", "v1", "--max-connections-per-ip", "1", "--max-connections", "40"];
    let server = Server::start(engine, &options);
    let mut first = server.connect_raw();
    assert!(ask(&mut first, &line("192.0.2.1")).starts_with("HTTP/1.1 101 "));
    let _held: Vec<_> = (0..100)
        .map(|_| {
            let mut client = server.connect_raw();
            client.send_bytes(&line("192.0.2.1"));
            client
        })
        .collect();
    server.wait_for_counter("dropped", 50);
    for last in 2..20 {
        let mut client = server.connect_raw();
        let answer = ask(&mut client, &line(&format!("192.0.2.{last}")));
        assert!(answer.starts_with("HTTP/1.1 101 "), "{last}: {answer}");
        client.echo(OpCode::Text, b"let in");
    }
    first.echo(OpCode::Text, b"still here");
}

/// Idle listeners wait for connections too, and keep nothing from the one where all come.
fn each_of_several_listeners_reaches_the_limit(engine: &str) {
    let mut command = command(&["--engine", engine, "--workers", "1"]);
    command.args(["--listen", "127.0.0.1:0,127.0.0.1:0,127.0.0.1:0,127.0.0.1:0"]);
    command.args(["--max-connections", "20", "--max-connections-per-ip", "100"]);
    let mut server = Server::spawn(command);
    for _ in 0..3 {
        server.address = server.next_address();
    }
    let held: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for _ in 0..3 {
        let head = server.connect_raw().read_head();
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    }
    drop(held);
}

/// Whoever reads what comes before the header takes it for the greeting of what lies behind the proxy.
fn expect_silence(client: &Client) {
    client.stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a duration");
    let error = loop {
        match client.stream.peek(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => break result.expect_err("nothing is said"),
        }
    };
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    client.stream.set_read_timeout(Some(DEADLINE)).expect("a duration");
}

fn over_the_limit_there_is_no_answer_before_the_header(engine: &str) {
    let options = ["--proxy-protocol", "any", "--max-connections", "1", "--handshake-timeout", "4s"];
    let server = Server::start(engine, &[&options[..], &["--max-connections-per-ip", "5"]].concat());
    let mut only = server.connect_raw();
    assert!(ask(&mut only, &line("192.0.2.1")).starts_with("HTTP/1.1 101 "));
    let (mut told, mut silent, mut wrong) =
        (server.connect_raw(), server.connect_raw(), server.connect_raw());
    server.wait_for_counter("accepted", 4);
    expect_silence(&told);
    let header = binary(Some([192, 0, 2, 2]));
    let (first, last) = header.split_at(20);
    told.send_bytes(first);
    expect_silence(&told);
    told.send_bytes(last);
    // Its request is not awaited.
    let head = told.read_head();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nRetry-After: "), "{head}");
    wrong.send_bytes(b"GET /ws HTTP/1.1\r\n");
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut wrong.stream, &mut rest);
    assert_eq!(rest, b"", "no header, no answer");
    silent.expect_end();
    // One that says nothing breaks no rule.
    let counted = ["refusals", "proxy_errors", "silent"].map(|name| server.counter(name));
    assert_eq!(counted, [1, 1, 1]);
    drop((told, silent, wrong, only));
    server.wait_for_counter("ended", 4);
    let mut next = server.connect_raw();
    assert!(ask(&mut next, &line("192.0.2.1")).starts_with("HTTP/1.1 101 "), "the place is free again");
}

fn a_drain_answers_once_the_header_has_come(engine: &str) {
    let server = Server::start(engine, &["--proxy-protocol", "v1", "--drain-timeout", "20s"]);
    let (mut silent, mut begun, mut told) =
        (server.connect_raw(), server.connect_raw(), server.connect_raw());
    begun.send_bytes(b"PROXY TCP4");
    told.send_bytes(b"PROXY TCP4 192.0.2.1");
    server.wait_for_counter("accepted", 3);
    server.signal(Signal::TERM);
    expect_silence(&told);
    told.send_bytes(b" 198.51.100.2 56324 443\r\n");
    let head = told.read_head();
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    silent.expect_end();
    begun.expect_end();
    drop((silent, begun, told));
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0));
    let summary = common::last_counters(&log);
    assert_eq!(
        (common::counter_in(summary, "refusals"), common::counter_in(summary, "proxy_errors")),
        (1, 1)
    );
}
