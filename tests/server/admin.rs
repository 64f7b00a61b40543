//! What the admin listener says: health, readiness, and every number.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::thread;

use openmetrics_parser::{MetricFamily, openmetrics, prometheus};
use ringback::proto::frame::OpCode;
use rustix::process::Signal;
use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};
use serde_json::Value;

use crate::common::{
    self,
    admin::{ask, get, start},
};
use crate::common::{
    DEADLINE, Server, close_payload, command, counter_in, filter, frame, handshake, read_some, wait_until,
};
use crate::on_each_engine;

on_each_engine! {
    every_number_is_exact,
    ready_until_the_drain_begins_and_healthy_to_the_end,
    answers_while_a_worker_is_busy,
    those_who_say_nonsense_or_nothing_stop_nobody,
    what_waits_for_a_slow_client_is_seen,
}

fn every_number_is_exact(engine: &str) {
    let (server, admin) = start(engine, &["--workers", "2", "--no-pin", "--allowed-origin", "http://good"]);
    let speak = |frames: &[(OpCode, &[u8])]| {
        let mut client = server.connect();
        for &(opcode, payload) in frames {
            client.send(opcode, payload);
            if opcode != OpCode::Pong {
                client.read_frame().expect("an answer");
            }
        }
        client
    };
    // 3 texts of 5 + 7 + 4 bytes, 2 binaries of 300 + 2, 2 pings, a pong.
    for code in [&close_payload(1000, "bye")[..], &close_payload(1001, ""), &close_payload(4000, ""), b""] {
        speak(&[(OpCode::Close, code)]).expect_end();
    }
    speak(&[(OpCode::Text, b"hello"), (OpCode::Ping, b"?"), (OpCode::Binary, &[7; 300])]);
    speak(&[(OpCode::Text, "sch\u{F6}n!".as_bytes()), (OpCode::Pong, b""), (OpCode::Binary, b"12")]);
    speak(&[(OpCode::Ping, b""), (OpCode::Close, &close_payload(4999, ""))]).expect_end();
    // A text in pieces: all of it is copied.
    let mut slow = server.connect();
    let bytes = frame(true, OpCode::Text, b"slow");
    let received = total(admin, "receives");
    slow.send_bytes(&bytes[..8]);
    wait_until(|| total(admin, "receives") > received);
    slow.send_bytes(&bytes[8..]);
    slow.read_message();
    drop(slow);
    for (request, status) in [
        (handshake("/nowhere", ""), 404),
        (handshake("/ws", "Origin: http://bad\r\n"), 403),
        (handshake("/ws", "").replace("Version: 13", "Version: 12"), 426),
        (handshake("/ws", "").replace("Upgrade: websocket", "Upgrade: other"), 426),
        (handshake("/ws", "").replace("Host: localhost\r\n", ""), 400),
        (handshake("/ws", "").replace("dGhl", "...."), 400),
        ("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".into(), 200),
    ] {
        let mut client = server.connect_raw();
        client.send_bytes(request.as_bytes());
        assert!(client.read_head().starts_with(&format!("HTTP/1.1 {status} ")), "{request}");
    }
    for (bytes, code) in [
        (&b"\x81\x01a"[..], 1002),
        (b"\xC1\x80\0\0\0\0", 1002),
        (b"\x83\x80\0\0\0\0", 1002),
        (&frame(true, OpCode::Text, b"\xFF"), 1007),
        (&frame(true, OpCode::Close, &close_payload(1005, "")), 1002),
    ] {
        let mut client = server.connect();
        client.send_bytes(bytes);
        assert_eq!(client.read_close(), code);
    }
    // 4 + 3 + 1 + 7 + 5 connections, of which one stays.
    let stays = server.connect();
    wait_until(|| total(admin, "ended") == 20);

    let expected = [
        ("connections", "", 1),
        ("connections_accepted_total", "", 21),
        ("connections_ended_total", "", 20),
        ("handshakes_total", "status=101", 14),
        ("handshakes_total", "status=200", 1),
        ("handshakes_total", "status=400", 2),
        ("handshakes_total", "status=403", 1),
        ("handshakes_total", "status=404", 1),
        ("handshakes_total", "status=426", 2),
        ("refusals_total", "cause=not_found", 1),
        ("refusals_total", "cause=origin", 1),
        ("refusals_total", "cause=version", 1),
        ("refusals_total", "cause=not_upgrade", 1),
        ("refusals_total", "cause=host", 1),
        ("refusals_total", "cause=key", 1),
        ("messages_total", "type=text", 3),
        ("messages_total", "type=binary", 2),
        ("payload_bytes_total", "type=text", 16),
        ("payload_bytes_total", "type=binary", 302),
        ("gathered_bytes_total", "", 4),
        ("control_frames_total", "opcode=ping", 2),
        ("control_frames_total", "opcode=pong", 1),
        ("control_frames_total", "opcode=close", 5),
        // 5 data frames, 2 pings, a pong, 5 Closes.
        ("frames_total", "", 13),
        ("closes_received_total", "code=none", 1),
        ("closes_received_total", "code=1000", 1),
        ("closes_received_total", "code=1001", 1),
        ("closes_received_total", "code=4xxx", 2),
        ("closes_sent_total", "code=none", 1),
        ("closes_sent_total", "code=1000", 1),
        ("closes_sent_total", "code=1001", 1),
        ("closes_sent_total", "code=4xxx", 2),
        ("closes_sent_total", "code=1002", 4),
        ("closes_sent_total", "code=1007", 1),
        ("protocol_errors_total", "kind=unmasked", 1),
        ("protocol_errors_total", "kind=reserved_bits", 1),
        ("protocol_errors_total", "kind=reserved_opcode", 1),
        ("protocol_errors_total", "kind=invalid_utf8", 1),
        ("protocol_errors_total", "kind=close_code", 1),
        ("worker_up", &format!("engine={engine}"), 2),
    ]
    .map(|(name, labels, count)| ((format!("ringback_{name}"), labels.to_owned()), f64::from(count)));
    let expected = BTreeMap::from(expected);
    let families: BTreeSet<_> = expected.keys().map(|(name, _)| name.clone()).collect();
    for format in [Format::Prometheus, Format::OpenMetrics] {
        let mut sums = BTreeMap::new();
        for Family { name, samples, .. } in scrape(admin, format) {
            for (mut labels, value) in samples {
                if labels.remove("worker").is_some() && families.contains(&name) && value != 0.0 {
                    let labels = labels.iter().map(|(name, value)| format!("{name}={value}"));
                    *sums.entry((name.clone(), labels.collect::<Vec<_>>().join(","))).or_insert(0.0) += value;
                }
            }
        }
        assert_eq!(sums, expected);
    }
    let stats = stats(admin);
    assert_eq!(stats["total"]["refusals"], 6, "the page is none");
    assert_eq!(stats["total"]["payload_bytes"], 318);
    assert_eq!(stats["total"]["refusals_by_cause"]["key"], 1);
    assert_eq!(stats["total"]["closes_sent_by_code"]["1007"], 1);
    assert_eq!((server.counter("texts"), server.counter("payload_bytes")), (3, 318));
    drop(stays);
}

fn ready_until_the_drain_begins_and_healthy_to_the_end(engine: &str) {
    let (server, admin) = start(engine, &["--drain-timeout", "1h"]);
    let [mut client, mut other] = [server.connect(), server.connect()];
    assert_eq!(get(admin, "/readyz").status_and_body(), (200, "ready\n"));
    server.signal(Signal::TERM);
    for client in [&mut client, &mut other] {
        assert_eq!(client.read_close(), 1001);
    }
    assert_eq!(get(admin, "/readyz").status_and_body(), (503, "not ready: the server drains\n"));
    assert_eq!(get(admin, "/healthz").status_and_body(), (200, "ok\n"));
    let ready = scrape(admin, Format::Prometheus).into_iter().find(|family| family.name == "ringback_ready");
    assert_eq!(ready.expect("a gauge").samples, [(BTreeMap::new(), 0.0)]);
    assert_eq!(stats(admin)["total"]["closes_sent_by_code"]["1001"], 2);
    // An answer is taken, and not answered.
    client.send(OpCode::Close, &close_payload(3000, ""));
    client.expect_end();
    let stats = stats(admin);
    assert_eq!(stats["total"]["closes_received_by_code"]["3xxx"], 1);
    assert_eq!(stats["total"]["closes_sent_by_code"]["3xxx"], 0);
    other.send(OpCode::Close, &close_payload(1001, ""));
    other.expect_end();
    drop((client, other));
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0));
    let summary = common::last_counters(&log);
    assert_eq!(counter_in(summary, "closes"), 2);
    assert!(TcpStream::connect(admin).is_err(), "it listens no longer than the process lives");
}

fn answers_while_a_worker_is_busy(engine: &str) {
    let (server, admin) = start(engine, &[]);
    let client = server.connect();
    let mut sending = client.stream.try_clone().expect("a second handle");
    let flood = frame(true, OpCode::Binary, b"and on").repeat(10_000);
    thread::scope(|scope| {
        scope.spawn(move || while sending.write_all(&flood).is_ok() {});
        let reading = client.stream.try_clone().expect("a second handle");
        scope.spawn(move || std::io::copy(&mut &reading, &mut std::io::sink()));
        let mut last = 0;
        for _ in 0..5 {
            wait_until(|| total(admin, "binaries") > last);
            last = total(admin, "binaries");
            assert_eq!(get(admin, "/healthz").status, 200);
        }
        client.stream.shutdown(std::net::Shutdown::Both).expect("a connected socket");
    });
}

fn those_who_say_nonsense_or_nothing_stop_nobody(engine: &str) {
    let (server, admin) = start(engine, &[]);
    let connect = || {
        let stream = TcpStream::connect(admin).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a duration");
        stream
    };
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    for nonsense in [&b"\0\xFF\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\n\n\n", long.as_bytes()]
    {
        let mut stream = connect();
        // It may be cut off before it has said all.
        let _ = stream.write_all(nonsense);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert_eq!(get(admin, "/healthz").status, 200);

    // As many as are let in, with half a request each: the one that has asked for nothing for longest gives way.
    let mut silent: Vec<_> = (0..64).map(|_| connect()).collect();
    for stream in &mut silent {
        stream.write_all(b"GET /metrics HT").expect("it listens");
    }
    let mut next = connect();
    next.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("it listens");
    server.connect().echo(OpCode::Text, b"none of it is for the workers");
    let mut answer = String::new();
    next.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!matches!(read_some(&mut silent[0], &mut [0]), Ok(1..)), "the first one was closed");
    drop(silent);
    assert_eq!(server.counter("accepted"), 1);
}

fn what_waits_for_a_slow_client_is_seen(engine: &str) {
    let (server, admin) = start(engine, &["--unsent-limit", "1MiB"]);
    let used = |stats: &Value| {
        let kind = if engine == "ring" { "ring_buffers" } else { "pooled_buffers" };
        let count = |size: &str| stats["total"][kind][size]["used"].as_u64().expect("a number");
        count("small") + count("big")
    };
    let client = server.connect();
    let mut sending = client.stream.try_clone().expect("a second handle");
    let flood = frame(true, OpCode::Binary, &[7; 60_000]);
    thread::scope(|scope| {
        scope.spawn(move || while sending.write_all(&flood).is_ok() {});
        wait_until(|| total(admin, "read_pauses") > 0);
        let stats = stats(admin);
        let unsent = stats["total"]["unsent_bytes"].as_u64().expect("a number");
        assert!((500_000..10_000_000).contains(&unsent), "{unsent} bytes wait");
        assert!(used(&stats) > 0, "some of them in the buffers that they were received into");
        client.stream.shutdown(std::net::Shutdown::Both).expect("a connected socket");
    });
    drop(client);
    wait_until(|| total(admin, "ended") == 1);
    wait_until(|| total(admin, "unsent_bytes") == 0 && used(&stats(admin)) == 0);
}

/// A worker fails when its ring does. The filter lets little be submitted at once, and one worker gets much to send.
#[test]
fn unhealthy_once_a_worker_has_failed() {
    if !common::is_runnable("ring") {
        return;
    }
    let submits_many = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Ge, 20);
    let rule = SeccompRule::new(vec![submits_many.expect("a condition")]).expect("a rule");
    let rules = [(libc::SYS_io_uring_enter, vec![rule])].into();
    let refusal = filter::filter(rules, SeccompAction::Allow, filter::error(libc::EPERM));
    let options = ["--workers", "2", "--no-pin", "--drain-timeout", "1h"];
    let (server, admin) = filter::under(vec![refusal], move || start("ring", &options));

    // 40 connections of the first worker, known by the number that grows, and one of the second.
    let mut clients: [Vec<_>; 2] = Default::default();
    let connections =
        |worker: usize| stats(admin)["workers"][worker]["connections"].as_u64().expect("a number");
    while clients[0].len() < 40 || clients[1].is_empty() {
        let [first, second] = [clients[0].len() as u64, clients[1].len() as u64];
        let client = server.connect();
        wait_until(|| connections(0) + connections(1) == first + second + 1);
        let worker = usize::from(connections(0) == first);
        if worker == 0 || second == 0 {
            clients[worker].push(client);
        } else {
            drop(client);
            wait_until(|| connections(1) == second);
        }
    }
    assert_eq!(get(admin, "/healthz").status, 200);
    server.signal(Signal::STOP);
    for client in &mut clients[0] {
        client.send(OpCode::Text, b"all at once");
    }
    server.signal(Signal::CONT);
    wait_until(|| get(admin, "/healthz").status == 503);
    assert_eq!(get(admin, "/healthz").body, "worker 0 has ended\n");
    assert_eq!(clients[1][0].read_close(), 1001, "the others drain");
    assert_eq!(get(admin, "/readyz").status, 503);
    let stats = stats(admin);
    assert_eq!((&stats["workers"][0]["up"], &stats["workers"][1]["up"]), (&false.into(), &true.into()));
}

#[test]
fn get_and_head_and_nothing_else() {
    let (_server, admin) = start("epoll", &[]);
    for (path, kind) in [
        ("/healthz", "text/plain; charset=utf-8"),
        ("/readyz?verbose", "text/plain; charset=utf-8"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/stats.json", "application/json"),
    ] {
        let got = get(admin, path);
        assert_eq!(
            (got.status, got.field("content-type"), got.field("cache-control")),
            (200, kind, "no-store")
        );
        assert_eq!(got.field("content-length"), got.body.len().to_string());
        let head = ask(admin, "HEAD", path, "");
        assert_eq!((head.status, &*head.body, head.field("content-type")), (200, "", kind));
        let post = ask(admin, "POST", path, "Content-Length: 0\r\n");
        assert_eq!((post.status, post.field("allow")), (405, "GET, HEAD"));
    }
    for method in ["GET", "HEAD", "POST"] {
        assert_eq!(ask(admin, method, "/metrics/", "").status, 404);
        assert_eq!(ask(admin, method, "/", "").status, 404);
    }
    for (accept, is_open) in [
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1", true),
        ("text/plain, application/openmetrics-text;q=0", false),
        ("*/*", false),
    ] {
        let got = ask(admin, "GET", "/metrics", &format!("Accept: {accept}\r\n"));
        assert_eq!(got.field("content-type").contains("openmetrics"), is_open, "{accept}");
        assert_eq!(got.body.ends_with("# EOF\n"), is_open, "{accept}");
    }
    // Two on one connection.
    let mut stream = TcpStream::connect(admin).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a duration");
    let request = "GET /healthz HTTP/1.1\r\nHost: a\r\n";
    write!(stream, "{request}\r\n{request}Connection: close\r\n\r\n").expect("it listens");
    let mut both = String::new();
    stream.read_to_string(&mut both).expect("two answers");
    assert_eq!(both.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{both}");
}

/// The object has the numbers that the log has and those by label that /metrics has, for each worker and summed.
#[test]
fn the_object_has_what_the_log_and_the_metrics_have() {
    let (server, admin) = start("epoll", &["--workers", "3", "--no-pin"]);
    for _ in 0..20 {
        server.connect().echo(OpCode::Text, b"whichever worker has me");
    }
    wait_until(|| total(admin, "ended") == 20);
    let stats = stats(admin);
    let names = |object: &Value| -> BTreeSet<String> {
        object.as_object().expect("an object").keys().cloned().collect()
    };
    let own = |names: &[&str]| -> BTreeSet<String> { names.iter().map(|&name| name.to_owned()).collect() };
    assert_eq!(
        names(&stats),
        own(&["version", "ready", "connections_max", "unsent_max_bytes", "process", "total", "workers"])
    );
    let process =
        "cpu_seconds resident_memory_bytes virtual_memory_bytes open_fds max_fds start_time_seconds";
    assert_eq!(names(&stats["process"]), own(&process.split(' ').collect::<Vec<_>>()));
    assert!(stats["process"].as_object().expect("an object").values().all(Value::is_number));

    server.signal(Signal::TERM);
    let (_, log) = server.wait();
    let line = common::last_counters(&log).split_once("counters: ").expect("it has them").1;
    let mut numbers: BTreeSet<_> =
        line.split_whitespace().map(|word| word.split_once('=').expect("a counter").0.to_owned()).collect();
    numbers.extend(own(&[
        "connections",
        "connections_refused",
        "accept_paused",
        "unsent_bytes",
        "refusals_by_cause",
        "proxy_errors_by_cause",
        "protocol_errors_by_kind",
        "closes_received_by_code",
        "closes_sent_by_code",
        "ring_buffers",
        "pooled_buffers",
    ]));
    assert_eq!(names(&stats["total"]), numbers);
    numbers.extend(own(&["worker", "engine", "up"]));
    let workers = stats["workers"].as_array().expect("an array");
    assert_eq!(workers.len(), 3);
    for (index, worker) in workers.iter().enumerate() {
        assert_eq!(names(worker), numbers);
        assert_eq!((&worker["worker"], &worker["engine"]), (&index.into(), &"epoll".into()));
    }
    check_sums(&stats["total"], workers);
}

/// Every number of the total is the sum over the workers.
fn check_sums(total: &Value, workers: &[Value]) {
    for (name, value) in total.as_object().expect("an object") {
        let of_workers: Vec<_> = workers.iter().map(|worker| worker[name].clone()).collect();
        if value.is_object() {
            check_sums(value, &of_workers);
        } else {
            let sum: u64 = of_workers.iter().map(|value| value.as_u64().expect("a count")).sum();
            assert_eq!(value.as_u64(), Some(sum), "{name}");
        }
    }
}

/// And every value of a label, but for those of this very server.
#[test]
fn the_document_has_every_metric() {
    let (_server, admin) = start("epoll", &[]);
    let exported = scrape(admin, Format::Prometheus);
    let rows: BTreeSet<_> = exported.iter().map(Family::row).collect();
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/METRICS.md");
    let document = fs::read_to_string(document).expect("docs/METRICS.md");
    let is_row = |line: &&str| line.starts_with("| `ringback_") || line.starts_with("| `process_");
    let documented: BTreeSet<_> = document.lines().filter(is_row).map(str::to_owned).collect();
    let missing: Vec<_> = rows.difference(&documented).map(String::as_str).collect();
    assert!(missing.is_empty(), "docs/METRICS.md lacks these rows:\n{}", missing.join("\n"));
    let gone: Vec<_> = documented.difference(&rows).collect();
    assert!(gone.is_empty(), "docs/METRICS.md has what is not exported: {gone:#?}");
    for (labels, _) in exported.iter().flat_map(|family| &family.samples) {
        for (name, value) in labels.iter().filter(|(name, _)| !["worker", "version"].contains(&name.as_str()))
        {
            assert!(document.contains(&format!("`{value}`")), "docs/METRICS.md lacks {name}=`{value}`");
        }
    }
}

#[test]
fn nothing_listens_unless_it_is_asked_for() {
    let without = Server::start("epoll", &[]);
    let (with, _) = start("epoll", &[]);
    assert_eq!((listening(&without), listening(&with)), (1, 2));
}

#[test]
fn mistakes_end_with_what_to_do() {
    let (_server, admin) = start("epoll", &[]);
    for (address, code, says) in [
        (admin.to_string(), 69, "choose another with --admin"),
        ("192.0.2.1:0".into(), 69, "--admin takes an address of this machine"),
        ("9002".into(), 64, "--admin"),
    ] {
        let mut command = command(&["--listen", "127.0.0.1:0", "--admin", &address]);
        let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().expect("the binary runs");
        let said = String::from_utf8(output.stderr).expect("messages are UTF-8");
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(says) && output.stdout.is_empty(), "{said}");
    }
}

fn stats(admin: SocketAddr) -> Value {
    serde_json::from_str(&get(admin, "/stats.json").body).expect("JSON")
}

/// A counter, summed over the workers.
fn total(admin: SocketAddr, name: &str) -> u64 {
    stats(admin)["total"][name].as_u64().unwrap_or_else(|| panic!("no {name}"))
}

#[derive(Clone, Copy)]
enum Format {
    Prometheus,
    OpenMetrics,
}

/// A metric with all its series; the name is as in Prometheus' own form, where a counter's ends in `_total`.
struct Family {
    name: String,
    kind: &'static str,
    help: String,
    label_names: Vec<String>,
    samples: Vec<(BTreeMap<String, String>, f64)>,
}

impl Family {
    /// Its row in the document.
    fn row(&self) -> String {
        let labels: Vec<_> = self.label_names.iter().map(|name| format!("`{name}`")).collect();
        let labels = if labels.is_empty() { "none".into() } else { labels.join(", ") };
        format!("| `{}` | {} | {labels} | {} |", self.name, self.kind, self.help)
    }
}

/// All metrics, in the order of their names, by parsers that refuse what is not well formed.
fn scrape(admin: SocketAddr, format: Format) -> Vec<Family> {
    let mut families: Vec<_> = match format {
        Format::Prometheus => {
            let text = get(admin, "/metrics").body;
            let parsed =
                prometheus::parse_prometheus(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
            let number = |value: &_| match value {
                openmetrics_parser::PrometheusValue::Counter(counter) => ("counter", counter.value.as_f64()),
                openmetrics_parser::PrometheusValue::Gauge(value) => ("gauge", value.as_f64()),
                other => panic!("neither a counter nor a gauge: {other:?}"),
            };
            parsed.families.values().map(|family| read(family, "", number)).collect()
        }
        Format::OpenMetrics => {
            let text = ask(admin, "GET", "/metrics", "Accept: application/openmetrics-text\r\n").body;
            let parsed =
                openmetrics::parse_openmetrics(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
            let number = |value: &_| match value {
                openmetrics_parser::OpenMetricsValue::Counter(counter) => ("counter", counter.value.as_f64()),
                openmetrics_parser::OpenMetricsValue::Gauge(value) => ("gauge", value.as_f64()),
                other => panic!("neither a counter nor a gauge: {other:?}"),
            };
            parsed.families.values().map(|family| read(family, "_total", number)).collect()
        }
    };
    families.sort_by(|a, b| a.name.cmp(&b.name));
    families
}

fn read<T, V: openmetrics_parser::RenderableMetricValue + Clone>(
    family: &MetricFamily<T, V>,
    suffix: &str,
    number: impl Fn(&V) -> (&'static str, f64),
) -> Family
where
    T: Clone,
{
    let label_names = family.get_label_names().to_vec();
    let mut kind = "";
    let samples: Vec<_> = family
        .iter_samples()
        .map(|sample| {
            let value;
            (kind, value) = number(&sample.value);
            let labels = sample.get_labelset().expect("labels");
            (labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect(), value)
        })
        .collect();
    let suffix = if kind == "counter" { suffix } else { "" };
    Family {
        name: format!("{}{suffix}", family.family_name),
        kind,
        help: family.help.clone(),
        label_names,
        samples,
    }
}

/// How many sockets of the server listen.
fn listening(server: &Server) -> usize {
    let process = format!("/proc/{}", server.pid().as_raw_nonzero());
    let sockets: BTreeSet<_> = fs::read_dir(format!("{process}/fd"))
        .expect("it runs")
        .filter_map(|fd| fs::read_link(fd.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    // State, field 4, is 0A for a socket that listens; the inode is field 10.
    let table = fs::read_to_string(format!("{process}/net/tcp")).expect("IPv4");
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.get(3) == Some(&"0A") && sockets.contains(fields[9]))
        .count()
}
