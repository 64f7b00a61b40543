//! Every counter after a script of known events: in /metrics, in /stats.json and in the log, which agree. Each event happens
//! another number of times, so that no two counters can be taken for each other.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ringback::proto::frame::OpCode;
use rustix::process::Signal;
use serde_json::Value;

use crate::common::{
    Client, Server, admin, close_payload, counter_in, frame, handshake, header, last_counters, wait_until,
};
use crate::on_each_engine;

on_each_engine! {
    each_event_is_counted_once_and_everywhere,
    who_finds_no_place_is_told_so_and_not_counted_among_connections,
    who_stays_behind_is_cut_and_who_is_asked_to_go_is_drained,
    ready_is_what_a_newcomer_finds,
}

/// Counters of how bytes were moved: they depend on how TCP cut the stream, and on the engine.
const OF_THE_WAY: [&str; 9] = [
    "receives",
    "enters",
    "sq_full",
    "cq_overflows",
    "stale_completions",
    "buffers_exhausted",
    "short_sends",
    "rearms",
    "bytes_spilled",
];

/// What becomes of a connection: one of these.
const OUTCOMES: [&str; 8] =
    ["handshakes", "refusals", "pages", "options", "silent", "abandoned", "proxy_errors", "dropped"];

/// Names of /metrics that are not `ringback_NAME_total` of the counter's own name; sums over a label.
const RENAMED: [(&str, &str); 18] = [
    ("accepted", "connections_accepted_total"),
    ("ended", "connections_ended_total"),
    ("handshakes", "handshakes_total{status=\"101\"}"),
    ("pages", "handshakes_total{status=\"200\"}"),
    ("options", "handshakes_total{status=\"204\"}"),
    ("texts", "messages_total{type=\"text\"}"),
    ("binaries", "messages_total{type=\"binary\"}"),
    ("text_bytes", "payload_bytes_total{type=\"text\"}"),
    ("binary_bytes", "payload_bytes_total{type=\"binary\"}"),
    ("pings", "control_frames_total{opcode=\"ping\"}"),
    ("pongs", "control_frames_total{opcode=\"pong\"}"),
    ("closes", "control_frames_total{opcode=\"close\"}"),
    ("bytes_gathered", "gathered_bytes_total"),
    ("bytes_spilled", "spilled_bytes_total"),
    ("enters", "ring_enters_total"),
    ("rearms", "ring_rearms_total"),
    ("short_sends", "ring_short_sends_total"),
    ("payload_bytes", "payload_bytes_total"),
];

/// What breaks the protocol, the answer, and the kind.
fn breaches() -> Vec<(Vec<u8>, u16, &'static str)> {
    let reserved_bits = vec![0xC1, 0x80, 0, 0, 0, 0];
    vec![
        (vec![0x81, 0x01, b'a'], 1002, "unmasked"),
        (reserved_bits, 1002, "reserved_bits"),
        (vec![0x83, 0x80, 0, 0, 0, 0], 1002, "reserved_opcode"),
        (frame(false, OpCode::Ping, b""), 1002, "control_fragmented"),
        (header(true, OpCode::Pong, 126), 1002, "control_too_long"),
        (vec![0x82, 0xFE, 0, 125, 0, 0, 0, 0], 1002, "length_not_minimal"),
        (vec![0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1002, "length_top_bit"),
        (frame(true, OpCode::Continuation, b"a"), 1002, "unexpected_continuation"),
        (
            [frame(false, OpCode::Text, b"a"), frame(true, OpCode::Text, b"b")].concat(),
            1002,
            "expected_continuation",
        ),
        (frame(true, OpCode::Close, b"a"), 1002, "close_truncated"),
        (frame(true, OpCode::Close, &close_payload(1005, "")), 1002, "close_code"),
        (frame(true, OpCode::Text, b"\xFF"), 1007, "invalid_utf8"),
        (header(true, OpCode::Binary, 1_000_001), 1009, "message_too_big"),
    ]
}

/// Requests that are refused, the status, and the cause.
fn refusals() -> Vec<(String, u16, &'static str)> {
    let good = handshake("/ws", "");
    vec![
        (good.replace("Host: localhost\r\n", ""), 400, "host"),
        (good.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"), 400, "key"),
        (good.replace("Connection: Upgrade", "Connection: close"), 400, "connection"),
        (handshake("/ws", "Origin: https://b.example\r\n"), 403, "origin"),
        (handshake("/other", ""), 404, "not_found"),
        (good.replace("Version: 13", "Version: 8"), 426, "version"),
        (good.replace("Upgrade: websocket\r\n", ""), 426, "not_upgrade"),
        (good.replace("HTTP/1.1", "HTTP/2.0"), 505, "http_version"),
    ]
}

fn each_event_is_counted_once_and_everywhere(engine: &str) {
    let options = ["--max-message-size", "1000000", "--allowed-origin", "https://a.example"];
    let (server, admin) = admin::start(engine, &options);
    let mut expected = Expected::default();

    // One that says a little of everything, with a message that streams back in pieces.
    let mut client = connect(&server, &mut expected);
    for text in ["a", "bb", "ccc"] {
        client.echo(OpCode::Text, text.as_bytes());
    }
    client.echo(OpCode::Binary, &[7; 300]);
    client.send_bytes(&frame(false, OpCode::Text, b"dddd"));
    client.send_bytes(&frame(true, OpCode::Continuation, b"eeeee"));
    assert_eq!(client.read_message(), (OpCode::Text, b"ddddeeeee".to_vec()));
    for _ in 0..7 {
        client.send(OpCode::Ping, b"ping");
        assert_eq!(client.read_frame().expect("a pong").opcode, OpCode::Pong);
    }
    (0..5).for_each(|_| client.send(OpCode::Pong, b""));
    expected.add("texts", 4).add("text_bytes", 15).add("binaries", 1).add("binary_bytes", 300);
    expected.add("payload_bytes", 315).add("pings", 7).add("pongs", 5).add("frames", 6 + 7 + 5);
    end(client, 1000, "1000", &mut expected);

    for (count, (code, label)) in (2..).zip([(1001, "1001"), (3000, "3xxx"), (4999, "4xxx")]) {
        for _ in 0..count {
            end(connect(&server, &mut expected), code, label, &mut expected);
        }
    }
    for (count, (bytes, code, kind)) in (1..).zip(breaches()) {
        for _ in 0..count {
            let mut client = connect(&server, &mut expected);
            client.send_bytes(&bytes);
            while client.read_frame().is_some_and(|frame| frame.opcode != OpCode::Close) {}
            client.expect_end();
            expected.add("protocol_errors", 1).of("protocol_errors_by_kind", kind);
            expected.of("closes_sent_by_code", &code.to_string());
        }
        if kind == "expected_continuation" {
            // The first fragment was taken, and is no message.
            expected.add("frames", count).add("text_bytes", count).add("payload_bytes", count);
        }
    }
    for (count, (request, status, cause)) in (1..).zip(refusals()) {
        for _ in 0..count {
            let head = ask(&server, &request, &mut expected);
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{cause}: {head}");
            expected.add("refusals", 1).of("refusals_by_cause", cause);
        }
    }
    for _ in 0..9 {
        let head = ask(&server, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", &mut expected);
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        expected.add("pages", 1);
    }
    for _ in 0..4 {
        let head = ask(&server, "OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n", &mut expected);
        assert!(head.starts_with("HTTP/1.1 204 "), "{head}");
        expected.add("options", 1);
    }
    // One that goes without a word, once it has a connection and once it has none.
    drop(connect(&server, &mut expected));
    drop(server.connect_raw());
    expected.add("accepted", 1).add("silent", 1);
    for _ in 0..6 {
        let mut client = server.connect_raw();
        client.send_bytes(b"GET /ws HTTP/1.1\r\n");
    }
    expected.add("accepted", 6).add("abandoned", 6);
    let ended = expected.0["accepted"];
    expected.add("ended", ended);
    check(&server, admin, &expected);

    server.signal(Signal::TERM);
    let (_, log) = server.wait();
    let last = log.last().expect("a last line");
    for (name, counter) in [
        ("connections", "accepted"),
        ("handshakes", "handshakes"),
        ("refusals", "refusals"),
        ("protocol_errors", "protocol_errors"),
        ("payload_bytes", "payload_bytes"),
    ] {
        assert_eq!(counter_in(last, name), expected.0[counter], "{name} in {last}");
    }
    assert_eq!(counter_in(last_counters(&log), "accepted"), ended);
}

fn who_finds_no_place_is_told_so_and_not_counted_among_connections(engine: &str) {
    let (server, admin) = admin::start(engine, &["--max-connections", "2"]);
    let mut expected = Expected::default();
    let clients = [connect(&server, &mut expected), connect(&server, &mut expected)];
    // They do not end their side, so they are there for a while.
    let refused: Vec<_> = (0..5)
        .map(|_| {
            let mut client = server.connect_raw();
            client.send_bytes(handshake("/ws", "").as_bytes());
            assert!(client.read_head().starts_with("HTTP/1.1 503 "));
            client
        })
        .collect();
    let stats = total(admin);
    assert_eq!((&stats["connections"], &stats["connections_refused"]), (&2.into(), &5.into()));
    expected.add("accepted", 5).add("refusals", 5);
    expected.0.insert("refusals_by_cause.full".into(), 5);
    drop(refused);
    wait_until(|| total(admin)["connections_refused"] == 0);
    drop(clients);
    expected.add("ended", 7);
    check(&server, admin, &expected);
}

/// Those who were refused and do not end their side are cut too: that is no loss, and not counted.
fn who_stays_behind_is_cut_and_who_is_asked_to_go_is_drained(engine: &str) {
    let server = Server::start(engine, &["--drain-timeout", "1s"]);
    let mut clients: Vec<_> = (0..3).map(|_| server.connect()).collect();
    let mut refused = server.connect_raw();
    refused.send_bytes(handshake("/other", "").as_bytes());
    assert!(refused.read_head().starts_with("HTTP/1.1 404 "));
    let (mut half, mut polite) = (server.connect_raw(), clients.pop().expect("three"));
    half.send_bytes(b"GET /ws HTTP/1.1\r\n");
    server.wait_for_counter("accepted", 5);
    server.signal(Signal::TERM);
    assert_eq!(polite.read_close(), 1001);
    polite.send(OpCode::Close, &close_payload(1001, ""));
    polite.expect_end();
    drop(polite);
    let (_, log) = server.wait();
    let (counters, last) = (last_counters(&log), log.last().expect("a last line"));
    let counted = ["drained", "cuts", "handshakes", "refusals", "accepted", "ended"];
    assert_eq!(counted.map(|name| counter_in(counters, name)), [3, 2, 3, 2, 5, 5], "{counters}");
    assert_eq!(["drained", "cut"].map(|name| counter_in(last, name)), [3, 2], "{last}");
}

/// One source for both: what /readyz says and what a newcomer gets.
fn ready_is_what_a_newcomer_finds(engine: &str) {
    let (server, admin) = admin::start(engine, &["--max-connections", "1", "--drain-delay", "1h"]);
    let ready = || {
        let answer = admin::get(admin, "/readyz");
        let gauge = metrics(admin)["ringback_ready"];
        assert_eq!((gauge == 1, answer.status == 200), (answer.status == 200, gauge == 1));
        (answer.status, answer.body)
    };
    let newcomer = || {
        let mut client = server.connect_raw();
        client.send_bytes(handshake("/ws", "").as_bytes());
        client.read_head()[9..12].to_owned()
    };
    assert_eq!(ready(), (200, "ready\n".into()));
    let client = server.connect();
    let full = "not ready: there are as many connections as --max-connections allows\n";
    assert_eq!((ready(), newcomer().as_str()), ((503, full.into()), "503"));
    drop(client);
    wait_until(|| total(admin)["connections"] == 0 && total(admin)["connections_refused"] == 0);
    assert_eq!((ready(), newcomer().as_str()), ((200, "ready\n".into()), "101"));
    wait_until(|| total(admin)["connections"] == 0);
    // The load balancer is told before the clients.
    server.signal(Signal::TERM);
    wait_until(|| ready().0 == 503);
    assert_eq!((ready(), newcomer().as_str()), ((503, "not ready: a drain begins soon\n".into()), "101"));
}

/// Counters by name, those of a label as `family.label`. What is not there is 0.
#[derive(Default)]
struct Expected(BTreeMap<String, u64>);

impl Expected {
    fn add(&mut self, name: &str, count: u64) -> &mut Self {
        *self.0.entry(name.to_owned()).or_default() += count;
        self
    }

    fn of(&mut self, family: &str, label: &str) -> &mut Self {
        self.add(&format!("{family}.{label}"), 1)
    }
}

fn connect(server: &Server, expected: &mut Expected) -> Client {
    expected.add("accepted", 1).add("handshakes", 1);
    server.connect()
}

/// A request that gets no connection; gives the head of the answer.
fn ask(server: &Server, request: &str, expected: &mut Expected) -> String {
    expected.add("accepted", 1);
    let mut client = server.connect_raw();
    client.send_bytes(request.as_bytes());
    client.read_head()
}

/// A proper end.
fn end(mut client: Client, code: u16, label: &str, expected: &mut Expected) {
    client.send(OpCode::Close, &close_payload(code, ""));
    assert_eq!(client.read_close(), code);
    client.expect_end();
    expected.add("closes", 1).add("frames", 1);
    expected.of("closes_received_by_code", label).of("closes_sent_by_code", label);
}

/// Waits until everybody has gone, then looks at every counter there is, in each form.
#[track_caller]
fn check(server: &Server, admin: SocketAddr, expected: &Expected) {
    wait_until(|| total(admin)["ended"].as_u64() == expected.0.get("ended").copied());
    let stats = total(admin);
    let mut counted = BTreeMap::new();
    for (name, value) in stats.as_object().expect("an object") {
        match value {
            Value::Object(labels) if name.contains("_by_") => {
                for (label, count) in labels {
                    counted.insert(format!("{name}.{label}"), count.as_u64().expect("a count"));
                }
            }
            Value::Number(count) if !OF_THE_WAY.contains(&name.as_str()) && name != "bytes_gathered" => {
                counted.insert(name.clone(), count.as_u64().expect("a count"));
            }
            _ => {}
        }
    }
    counted.retain(|_, count| *count != 0);
    assert_eq!(
        total_of(&stats, OUTCOMES),
        stats["accepted"].as_u64(),
        "each connection has one outcome: {stats}"
    );
    let (is, should) = (format!("{counted:#?}"), format!("{:#?}", expected.0));
    assert!(counted == expected.0, "{is}\nshould be\n{should}");
    assert!(stats["receives"].as_u64() >= stats["handshakes"].as_u64(), "{stats}");

    // The log and the metrics say the same.
    server.signal(Signal::USR1);
    let log = server.log_until("counters: ");
    let line = last_counters(&log).split_once("counters: ").expect("it has them").1;
    let metrics = metrics(admin);
    for word in line.split_whitespace() {
        let (name, count) = word.trim_matches('"').split_once('=').expect("a counter");
        let count: u64 = count.parse().expect("a number");
        // Moving bytes goes on while somebody asks.
        if ["enters", "rearms"].contains(&name) {
            continue;
        }
        assert_eq!(stats[name].as_u64(), Some(count), "{name} in the log");
        let renamed = RENAMED.iter().find(|(from, _)| *from == name).map(|(_, to)| (*to).to_owned());
        let metric = format!("ringback_{}", renamed.unwrap_or_else(|| format!("{name}_total")));
        let ring = metric.replacen("ringback_", "ringback_ring_", 1);
        let exported = metrics.get(&metric).or_else(|| metrics.get(&ring));
        assert_eq!(exported, Some(&count), "{name} as {metric}");
    }
    for (family, label) in [
        ("refusals_by_cause", "ringback_refusals_total{cause="),
        ("proxy_errors_by_cause", "ringback_proxy_errors_total{cause="),
        ("protocol_errors_by_kind", "ringback_protocol_errors_total{kind="),
        ("closes_received_by_code", "ringback_closes_received_total{code="),
        ("closes_sent_by_code", "ringback_closes_sent_total{code="),
    ] {
        for (value, count) in stats[family].as_object().expect("an object") {
            assert_eq!(
                metrics.get(&format!("{label}\"{value}\"}}")).copied(),
                count.as_u64(),
                "{family} {value}"
            );
        }
    }
}

fn total_of(stats: &Value, names: [&str; 8]) -> Option<u64> {
    names.iter().map(|name| stats[name].as_u64()).sum()
}

fn total(admin: SocketAddr) -> Value {
    let stats: Value = serde_json::from_str(&admin::get(admin, "/stats.json").body).expect("JSON");
    stats["total"].clone()
}

/// Every whole number of /metrics, without the worker's label, and the sums over all labels.
fn metrics(admin: SocketAddr) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for line in admin::get(admin, "/metrics").body.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let Ok(value) = value.trim_end_matches(".0").parse::<u64>() else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels: Vec<_> = labels
            .trim_end_matches('}')
            .split(',')
            .filter(|label| !label.is_empty() && !label.starts_with("worker="))
            .collect();
        *sums.entry(name.to_owned()).or_default() += value;
        if !labels.is_empty() {
            *sums.entry(format!("{name}{{{}}}", labels.join(","))).or_default() += value;
        }
    }
    sums
}
