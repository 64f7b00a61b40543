//! What is sent and how connections are made, as the servers see it; and what is found wrong in it.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use ringback::proto::frame::OpCode;
use tungstenite::handshake::server::{Request, Response};

use crate::support::{
    Peer, Ran, Received, frame, good_answer, load, load_ws, loadtest, serve, serve_bytes, serve_tungstenite,
};

/// Echoes whole messages, answers pings with what `pong` makes of them, and shows each frame.
fn echo_messages(
    peer: &mut Peer,
    mut show: impl FnMut(&Received),
    mut pong: impl FnMut(&[u8]) -> Vec<u8>,
) -> std::io::Result<()> {
    let (mut first, mut message) = (OpCode::Text, Vec::new());
    loop {
        let received = peer.receive()?;
        show(&received);
        let Received { fin, opcode, payload, .. } = received;
        match opcode {
            OpCode::Close => return peer.send(&frame(true, opcode, &payload)),
            OpCode::Ping => peer.send(&pong(&payload))?,
            OpCode::Pong => {}
            _ => {
                if opcode != OpCode::Continuation {
                    first = opcode;
                }
                message.extend(payload);
                if fin {
                    peer.send(&frame(true, first, &message))?;
                    message.clear();
                }
            }
        }
    }
}

fn good_pong(payload: &[u8]) -> Vec<u8> {
    frame(true, OpCode::Pong, payload)
}

/// What connections have shown, one list for each.
type Shown<T> = Arc<Mutex<Vec<Vec<T>>>>;

/// A server that echoes and notes something of each frame.
fn serve_noting<T: Send + 'static>(note: fn(&Received) -> T) -> (SocketAddr, Shown<T>) {
    let shown = Shown::default();
    let notes = Arc::clone(&shown);
    let address = serve(move |stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        let mut own = Vec::new();
        let ended = echo_messages(&mut peer, |frame| own.push(note(frame)), good_pong);
        // Before the stream is closed, for which the program waits.
        notes.lock().unwrap_or_else(PoisonError::into_inner).push(own);
        ended.expect("the client closes");
    });
    (address, shown)
}

fn assert_fine(ran: &Ran) {
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.echoes() > 0, "{}", ran.stdout);
}

const EVERYTHING: &[&str] =
    &["--kind", "mixed", "--sizes", "0-200:8,1k-3k:1,100k:1", "--fragments", "1-4", "--ping-every", "3"];

#[test]
fn all_traffic_is_echoed_by_another_implementation() {
    let address = serve_tungstenite();
    for args in [
        &["--kind", "mixed"][..],
        &["--sizes", "64:80,1k:15,64k:5", "--kind", "binary"],
        &["--fragments", "3", "--size", "100", "--kind", "utf8"],
        &["--fragments", "5", "--size", "2"],
        &["--ping-every", "10"],
        &["--ping-every", "1", "--fragments", "2"],
        &["--kind", "ping", "--sizes", "0-125"],
        EVERYTHING,
    ] {
        assert_fine(&load_ws(address, &[&["-c", "3", "--depth", "4"], args].concat()));
    }
}

#[test]
fn all_traffic_is_echoed_as_bytes() {
    let url = format!("tcp://{}", serve_bytes());
    for args in [&["--kind", "ping"][..], &["--ping-every", "1"], EVERYTHING] {
        assert_fine(&load(&url, &[&["-c", "3", "--depth", "4"], args].concat()));
    }
}

#[test]
fn the_report_says_what_was_sent() {
    let address = serve_tungstenite();
    let ran = load_ws(address, &["--kind", "mixed", "--sizes", "50:1,150:1", "-c", "3"]);
    assert_fine(&ran);
    let json = ran.json();
    assert_eq!((&json["kind"], &json["sizes"]), (&"mixed".into(), &"50:1,150:1".into()));
    assert!(json["size_bytes"].is_null());
    let number = |name: &str| json[name].as_f64().expect("a number");
    let mean = number("payload_bytes_per_second") / number("messages_per_second");
    assert!((99.0..101.0).contains(&mean), "{mean}");
    let ran = load_ws(address, &["--sizes", "1k", "-c", "1"]);
    assert_eq!((&ran.json()["sizes"], &ran.json()["size_bytes"]), (&"1k".into(), &1000.into()));
    let url = format!("ws://{address}/");
    let ran = loadtest(&[&url, "-d", "100ms", "--warmup", "0s", "--sizes", "50,150", "--fragments", "2"]);
    assert!(ran.stdout.contains("text of 50,150 bytes (100 on average) in 2 frames"), "{}", ran.stdout);
}

#[test]
fn the_server_sees_each_size_as_often_as_its_weight_says() {
    let (address, shown) = serve_noting(|frame| (frame.opcode, frame.payload.len()));
    let url = format!("ws://{address}/");
    let args =
        ["-c", "1", "--depth", "64", "--sizes", "20:80,1k-2k:20", "-d", "2s", "--grace", "60s", "--json"];
    let ran = loadtest(&[&[url.as_str()], &args[..]].concat());
    assert_fine(&ran);
    let shown = shown.lock().expect("no panic");
    let sizes: Vec<_> =
        shown[0].iter().filter(|frame| frame.0 == OpCode::Text).map(|frame| frame.1).collect();
    assert_eq!(sizes.len() as u64, ran.echoes());
    // Whole rounds have them exactly.
    let rounds = sizes.chunks_exact(1021);
    assert!(rounds.len() > 0, "{} messages", sizes.len());
    for round in rounds {
        assert_eq!(round.iter().filter(|&&size| size == 20).count(), 817);
        assert!(round.iter().all(|size| *size == 20 || (1000..=2000).contains(size)));
    }
}

#[test]
fn the_server_sees_kinds_in_turn_fragments_and_a_ping_between_them() {
    let (address, shown) = serve_noting(|frame| (frame.fin, frame.opcode, frame.payload.clone()));
    let args = ["-c", "2", "--kind", "mixed", "--size", "31", "--fragments", "3", "--ping-every", "4"];
    assert_fine(&load_ws(address, &args));
    let shown = shown.lock().expect("no panic");
    let mut pings = HashMap::new();
    for (connection, frames) in shown.iter().enumerate() {
        let (last, frames) = frames.split_last().expect("frames");
        assert_eq!((last.1, &last.2[..]), (OpCode::Close, &[0x03, 0xE8][..]));
        let mut rest = frames;
        let (mut kinds, mut message) = (Vec::new(), 0_usize);
        while !rest.is_empty() {
            message += 1;
            let count = 3 + usize::from(message % 4 == 0);
            let (mut whole, behind) = (rest[..count].to_vec(), &rest[count..]);
            rest = behind;
            if count == 4 {
                let (fin, opcode, payload) = whole.remove(1);
                assert_eq!((fin, opcode), (true, OpCode::Ping));
                assert_eq!(pings.insert(payload, connection), None, "each ping has a payload of its own");
            }
            assert_eq!([whole[0].0, whole[1].0, whole[2].0], [false, false, true]);
            assert_eq!([whole[1].1, whole[2].1], [OpCode::Continuation; 2]);
            let payload = whole.iter().flat_map(|frame| frame.2.clone()).collect::<Vec<_>>();
            assert_eq!(payload.len(), 31);
            kinds.push(match whole[0].1 {
                OpCode::Binary => 'b',
                _ if payload.is_ascii() => 't',
                _ => std::str::from_utf8(&payload).map(|_| 'u').expect("text"),
            });
        }
        let kinds: String = kinds.into_iter().take(30).collect();
        assert!("tubtubtubtubtubtubtubtubtubtubtubtub".contains(&kinds), "{kinds}");
    }
    assert!(!pings.is_empty());
}

#[test]
fn every_frame_has_a_fresh_random_key() {
    let (address, shown) = serve_noting(|frame| frame.key.to_bytes());
    assert_fine(&load_ws(address, &["-c", "2", "--depth", "8", "--fragments", "2", "--ping-every", "5"]));
    let shown = shown.lock().expect("no panic");
    let mut counts = BTreeMap::<_, usize>::new();
    let mut ones = 0;
    for key in shown.iter().flatten().take(20_000) {
        *counts.entry(key).or_default() += 1;
        ones += key.iter().map(|byte| byte.count_ones()).sum::<u32>();
    }
    let keys: usize = counts.values().sum();
    // Of 20,000 random keys some 0.05 pairs are alike; ten would be no accident.
    assert!(keys > 100 && keys - counts.len() < 10, "{} of {keys}", counts.len());
    let share = f64::from(ones) / (32 * keys) as f64;
    assert!((0.4..0.6).contains(&share), "{share} of the bits are ones");
}

#[test]
fn connections_come_from_the_sources_in_turn() {
    let seen = Arc::new(Mutex::new(Vec::<IpAddr>::new()));
    let noted = Arc::clone(&seen);
    let address = serve(move |stream| {
        noted.lock().expect("no panic").push(stream.peer_addr().expect("connected").ip());
        let mut peer = Peer::accept(stream).expect("a handshake");
        let _ = peer.echo(|_, _, _| None);
    });
    for (sources, expected) in [
        ("127.0.0.1,127.0.0.2", "127.0.0.1 127.0.0.1 127.0.0.1 127.0.0.2 127.0.0.2"),
        ("127.0.0.8/30", "127.0.0.10 127.0.0.10 127.0.0.9 127.0.0.9 127.0.0.9"),
    ] {
        assert_fine(&load_ws(address, &["-c", "5", "--source", sources]));
        let mut seen: Vec<_> = seen.lock().expect("no panic").drain(..).map(|ip| ip.to_string()).collect();
        seen.sort_unstable();
        assert_eq!(seen.join(" "), expected);
    }
    assert_fine(&load_ws(address, &["--churn", "-c", "1", "--source", "127.0.0.0/24"]));
    let seen = seen.lock().expect("no panic");
    let distinct: std::collections::BTreeSet<_> = seen.iter().collect();
    assert_eq!(distinct.len(), seen.len().min(254), "each of its own, then round again");
}

#[test]
fn a_server_behind_a_socket_of_the_file_system() {
    let path = std::env::temp_dir().join(format!("loadtest-{}-{}", std::process::id(), line!()));
    let listener = UnixListener::bind(&path).expect("a free name");
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let seen = Arc::clone(&seen);
            thread::spawn(move || {
                #[expect(clippy::result_large_err, reason = "the type that tungstenite asks for")]
                let note = |request: &Request, response: Response| {
                    let host = request.headers()["host"].to_str().expect("text").to_owned();
                    seen.lock().expect("no panic").push((request.uri().to_string(), host));
                    Ok(response)
                };
                let mut socket = tungstenite::accept_hdr(stream, note).expect("a good handshake");
                while let Ok(message) = socket.read() {
                    if (message.is_text() || message.is_binary()) && socket.send(message).is_err() {
                        break;
                    }
                }
            });
        }
    });
    let socket = path.to_str().expect("text");
    let ran = load(&format!("unix:{socket}:/ws?x"), &[&["-c", "5", "--depth", "4"], EVERYTHING].concat());
    assert_fine(&ran);
    assert_eq!(ran.json()["target"], format!("unix:{socket}:/ws?x"));
    assert_fine(&load(&format!("unix:{socket}"), &["-c", "1"]));
    assert_fine(&load(&format!("unix:{socket}"), &["-c", "2", "--churn"]));
    let requests = requests.lock().expect("no panic");
    assert!(requests[..5].iter().all(|request| *request == ("/ws?x".into(), "localhost".into())));
    assert_eq!(requests[5], ("/".into(), "localhost".into()));
    assert!(requests.len() > 8, "those of the churn");

    std::fs::remove_file(&path).expect("it is ours");
    let ran = load(&format!("unix:{socket}"), &["-c", "1"]);
    assert_eq!((ran.code, ran.stderr.lines().count()), (69, 1), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("cannot connect to unix:{socket}: No such file")), "{}", ran.stderr);
}

/// A server that answers a handshake with this header more, and notes the requests.
fn serve_selecting(header: &'static str) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    let address = serve(move |stream| {
        let answer = |accept: &str| good_answer(accept).replacen("\r\n", &format!("\r\n{header}"), 1);
        let mut peer = Peer::handshake(stream, answer).expect("a handshake");
        seen.lock().expect("no panic").push(peer.request.clone());
        let _ = peer.echo(|_, _, _| None);
    });
    (address, requests)
}

const WISHES: [&str; 10] = [
    "--header",
    "Authorization: Bearer a:b",
    "--header",
    "X-Trace:1",
    "--origin",
    "https://example.org",
    "--subprotocol",
    "v2.chat",
    "--subprotocol",
    "v1.chat",
];

#[test]
fn the_server_sees_headers_origin_and_subprotocols() {
    let (address, requests) = serve_selecting("Sec-WebSocket-Protocol: v1.chat\r\n");
    for more in [&[][..], &["--churn"]] {
        assert_fine(&load_ws(address, &[&WISHES[..], &["-c", "2"], more].concat()));
        for request in requests.lock().expect("no panic").drain(..) {
            for line in [
                "Authorization: Bearer a:b",
                "X-Trace: 1",
                "Origin: https://example.org",
                "Sec-WebSocket-Protocol: v2.chat, v1.chat",
            ] {
                assert_eq!(request.matches(&format!("\r\n{line}\r\n")).count(), 1, "{line} in {request}");
            }
            assert_eq!(request.matches("Origin:").count(), 1, "{request}");
        }
    }
    let (address, _) = serve_selecting("");
    assert_fine(&load_ws(address, &[&WISHES[..], &["-c", "2"]].concat()));
}

#[test]
fn a_subprotocol_that_was_not_offered() {
    let (address, _) = serve_selecting("Sec-WebSocket-Protocol: v3.chat\r\n");
    for args in [&WISHES[..], &[]] {
        let ran = load_ws(address, &[args, &["-c", "2"]].concat());
        assert_found(&ran, "handshake_invalid", 2);
        assert!(ran.stdout.contains("a sub-protocol that was not offered"), "{}", ran.stdout);
    }
}

/// A server that answers pings with what this makes of them; it is told how many came before on the connection.
fn serve_pongs(pong: fn(usize, &[u8]) -> Vec<u8>) -> SocketAddr {
    serve(move |stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        let mut count = 0;
        let _ = echo_messages(
            &mut peer,
            |_| {},
            |payload| {
                count += 1;
                pong(count - 1, payload)
            },
        );
    })
}

fn assert_found(ran: &Ran, kind: &str, count: u64) {
    assert_eq!((ran.code, ran.errors(kind)), (1, count), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.json()["errors_total"], count, "{}", ran.stdout);
}

#[test]
fn a_wrong_pong() {
    let flipped = |count: usize, payload: &[u8]| {
        let mut payload = payload.to_vec();
        payload[7] ^= u8::from(count == 5);
        good_pong(&payload)
    };
    for pong in [
        flipped as fn(_, &_) -> _,
        |count, payload: &[u8]| good_pong(&payload[..if count == 5 { 6 } else { payload.len() }]),
        |count, payload| good_pong(payload).repeat(1 + usize::from(count == 5)),
    ] {
        let address = serve_pongs(pong);
        assert_found(&load_ws(address, &["-c", "2", "--ping-every", "3"]), "wrong_pong", 2);
        assert_found(&load_ws(address, &["-c", "2", "--kind", "ping"]), "wrong_pong", 2);
    }
}

/// The pongs of a server that sends some of its own as well, of each length that a heartbeat may have.
fn among_heartbeats(count: usize, payload: &[u8]) -> Vec<u8> {
    let counter = (count as u64).to_be_bytes();
    [good_pong(b""), good_pong(&counter), good_pong(payload), good_pong(b"heartbeat")].concat()
}

#[test]
fn pongs_that_nobody_asked_for() {
    let address = serve_pongs(among_heartbeats);
    for args in [&["--ping-every", "3"][..], &["--kind", "ping"], &["--idle"]] {
        let ran = load_ws(address, &[args, &["-c", "3"]].concat());
        assert_fine(&ran);
        assert_eq!(ran.json()["errors_total"], 0, "{args:?}: {}", ran.stdout);
    }
}

#[test]
fn a_missing_pong() {
    // The tenth ping is the first that is not answered; how many follow depends on the machine.
    missing_from_the_tenth(|count, payload| if count < 9 { good_pong(payload) } else { Vec::new() });
    // A pong without its payload is none of that ping's.
    missing_from_the_tenth(|count, payload| good_pong(if count < 9 { payload } else { b"" }));
}

fn missing_from_the_tenth(pong: fn(usize, &[u8]) -> Vec<u8>) {
    let address = serve_pongs(pong);
    let ran = load_ws(address, &["-c", "2", "--ping-every", "3", "--grace", "1s"]);
    let missing = ran.errors("missing_pong");
    assert!(missing >= 2, "{}", ran.stdout);
    assert_found(&ran, "missing_pong", missing);
    // Where the ping is the message.
    let ran = load_ws(address, &["-c", "2", "--kind", "ping", "--grace", "1s"]);
    assert_found(&ran, "missing_echo", 2);
    assert_eq!(ran.echoes(), 18);
}

#[test]
fn a_pong_answers_earlier_pings_as_well() {
    let address = serve_pongs(|count, payload| if count % 2 == 1 { good_pong(payload) } else { Vec::new() });
    // The last ping of a run may be one that is left out: then it is missing, and nothing else is wrong.
    let ran = load_ws(address, &["-c", "2", "--ping-every", "1", "--grace", "1s"]);
    let missing = ran.errors("missing_pong");
    assert!(missing <= 2 && ran.echoes() > 4, "{}", ran.stdout);
    assert_eq!(ran.json()["errors_total"], missing, "{}", ran.stdout);
}

/// What a server does instead of echoing a message, given how many came before on the connection; it may hold bytes.
type Reply = fn(usize, OpCode, &[u8], &mut Vec<u8>) -> Option<Vec<u8>>;

#[test]
fn order_and_opcode_among_messages_that_differ() {
    for (reply, kind) in [
        (swap_two as Reply, "wrong_order"),
        (|count, _, _, _| (count == 5).then(Vec::new), "wrong_order"),
        (
            |count, opcode, payload, _| (count == 5).then(|| frame(true, other(opcode), payload)),
            "wrong_opcode",
        ),
        (
            |count, opcode, payload, _| (count == 5).then(|| frame(true, opcode, &payload[1..])),
            "wrong_length",
        ),
    ] {
        let address = serve(move |stream| {
            let mut peer = Peer::accept(stream).expect("a handshake");
            let mut held = Vec::new();
            let _ = peer.echo(|count, opcode, payload| reply(count, opcode, payload, &mut held));
        });
        let args = ["-c", "2", "--depth", "4", "--kind", "mixed", "--sizes", "30,300"];
        assert_found(&load_ws(address, &args), kind, 2);
    }
}

fn swap_two(count: usize, opcode: OpCode, payload: &[u8], held: &mut Vec<u8>) -> Option<Vec<u8>> {
    match count {
        5 => {
            *held = frame(true, opcode, payload);
            Some(Vec::new())
        }
        6 => Some([frame(true, opcode, payload), std::mem::take(held)].concat()),
        _ => None,
    }
}

fn other(opcode: OpCode) -> OpCode {
    if opcode == OpCode::Text { OpCode::Binary } else { OpCode::Text }
}

#[test]
fn mistakes_are_told() {
    let url = format!("ws://{}/", serve_tungstenite());
    for (args, part) in [
        (&["--size", "1", "--sizes", "2"][..], "'--size <BYTES>' cannot be used with '--sizes <LIST>'"),
        (&["--sizes", "64:0"], "is no weight"),
        (&["--sizes", "64:10000,1k:1"], "1k:1 is less than one message in 1021"),
        (&["--sizes", "2-1"], "ends before it begins"),
        (&["--sizes", "2GiB"], "at most 1GiB"),
        (&["--fragments", "0"], "a number of frames like 3"),
        (&["--ping-every", "0"], "--ping-every"),
        (&["--kind", "ping", "--size", "126"], "at most 125 bytes"),
        (&["--kind", "ping", "--fragments", "2"], "a ping has no fragments"),
        (&["--kind", "ping", "--ping-every", "2"], "leave --ping-every out"),
        (&["--header", "Cookie"], "it must look like 'Name: value'"),
        (&["--header", "A: b\r\nC: d"], "control character"),
        (&["--header", "Sec-WebSocket-Key: x"], "the handshake has its own"),
        (&["--origin", "https://a/b"], "an origin is like https://example.org"),
        (&["--subprotocol", "a b"], "the name of a sub-protocol"),
        (&["--subprotocol", "a", "--subprotocol", "a"], "--subprotocol a is there twice"),
        (&["--source", "localhost"], "is no address"),
        (&["--source", "127.0.0.0/33"], "at most 32 bits"),
        (&["--source", "::1"], "--source has IPv6 addresses and the target is 127.0.0.1"),
        // TEST-NET-1 (RFC 5737) is nobody's.
        (&["--source", "127.0.0.1,192.0.2.1"], "--source: 192.0.2.1 is no address of this machine"),
    ] {
        assert_refused(&[&[url.as_str(), "-c", "2"], args].concat(), part);
    }
    for (args, part) in [
        (&["--source", "127.0.0.1"], "--source is for TCP"),
        (&["--congestion", "cubic"], "--congestion is for TCP"),
    ] {
        assert_refused(&[&["unix:/none"], &args[..]].concat(), part);
    }
    for wish in [["--header", "A: b"], ["--origin", "https://a"], ["--subprotocol", "a"]] {
        let part = format!("{} is for WebSocket, and a tcp:// target has none of it", wish[0]);
        assert_refused(&[&["tcp://127.0.0.1:1"], &wish[..]].concat(), &part);
    }
}

fn assert_refused(args: &[&str], part: &str) {
    let ran = loadtest(args);
    assert_eq!((ran.code, ran.stdout.as_str()), (64, ""), "{args:?}: {}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    assert!(ran.stderr.contains(part), "{part} in {}", ran.stderr);
}
