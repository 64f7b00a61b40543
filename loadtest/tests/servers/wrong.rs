//! Servers that are wrong: each fault is found, named and told by the exit code.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::support::{
    ENGINES, Peer, Ran, frame, good_answer, load, load_ws, loadtest, serve, serve_tungstenite,
};
use ringback::proto::frame::OpCode;

/// The message at which the servers go wrong: few enough come before it for the slowest machine.
const FAULTY: usize = 5;

/// A server that echoes, but for one message of each connection, the one with the index [`FAULTY`].
fn serve_fault(reply: impl Fn(OpCode, &[u8]) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    serve(move |stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        let _ = peer.echo(|count, opcode, payload| (count == FAULTY).then(|| reply(opcode, payload)));
    })
}

/// Asserts that this kind of error was found on both connections, and no other.
fn assert_found(ran: &Ran, kind: &str, count: u64) {
    assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.errors(kind), count, "{}", ran.stdout);
    assert_eq!(ran.json()["errors_total"], count, "{}", ran.stdout);
}

#[test]
fn a_flipped_bit() {
    for at in [0, 77, 999] {
        let address = serve_fault(move |opcode, payload| {
            let mut payload = payload.to_vec();
            payload[at] ^= 1;
            frame(true, opcode, &payload)
        });
        let ran = load_ws(address, &["-c", "2", "--size", "1000"]);
        assert_found(&ran, "wrong_bytes", 2);
        let example = &ran.json()["error_examples"][0];
        let end = format!("message {FAULTY}: byte {at} of the echo is wrong");
        assert!(example.as_str().is_some_and(|example| example.ends_with(&end)), "{example}");
    }
}

#[test]
fn a_swapped_order() {
    let address = serve(|stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        let mut late = Vec::new();
        let _ = peer.echo(|count, opcode, payload| match count {
            FAULTY => {
                late = frame(true, opcode, payload);
                Some(Vec::new())
            }
            6 => Some([frame(true, opcode, payload), std::mem::take(&mut late)].concat()),
            _ => None,
        });
    });
    assert_found(&load_ws(address, &["-c", "2", "--depth", "4"]), "wrong_order", 2);
}

#[test]
fn a_stale_echo() {
    let address = serve(|stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        let mut stale = Vec::new();
        let _ = peer.echo(|count, opcode, payload| match count {
            0 => {
                stale = frame(true, opcode, payload);
                None
            }
            FAULTY => Some(stale.clone()),
            _ => None,
        });
    });
    assert_found(&load_ws(address, &["-c", "2"]), "wrong_order", 2);
}

#[test]
fn a_wrong_opcode() {
    let address = serve_fault(|_, payload| frame(true, OpCode::Binary, payload));
    assert_found(&load_ws(address, &["-c", "2"]), "wrong_opcode", 2);
}

#[test]
fn a_wrong_length() {
    let address = serve_fault(|opcode, payload| frame(true, opcode, &payload[1..]));
    assert_found(&load_ws(address, &["-c", "2"]), "wrong_length", 2);
    let address = serve_fault(|opcode, payload| {
        [frame(false, opcode, payload), frame(true, OpCode::Continuation, b"more")].concat()
    });
    assert_found(&load_ws(address, &["-c", "2"]), "wrong_length", 2);
}

#[test]
fn a_masked_reply() {
    let address = serve_fault(|opcode, payload| {
        let mut bytes = frame(true, opcode, payload);
        bytes[1] |= 0x80;
        bytes.splice(2..2, [0; 4]);
        bytes
    });
    assert_found(&load_ws(address, &["-c", "2"]), "masked_reply", 2);
}

#[test]
fn a_reserved_bit() {
    let address = serve_fault(|opcode, payload| {
        let mut bytes = frame(true, opcode, payload);
        bytes[0] |= 0x10;
        bytes
    });
    assert_found(&load_ws(address, &["-c", "2"]), "protocol_error", 2);
}

#[test]
fn an_echo_too_many() {
    let address = serve_fault(|opcode, payload| frame(true, opcode, payload).repeat(2));
    let ran = load_ws(address, &["-c", "2"]);
    // Whether the second comes before or after the next message was due is a race.
    assert_eq!(
        (ran.code, ran.errors("unasked_message") + ran.errors("wrong_order")),
        (1, 2),
        "{}",
        ran.stdout
    );
}

#[test]
fn a_lost_message() {
    let address = serve_fault(|_, _| Vec::new());
    // Alone in flight, it is missing at the end.
    assert_found(&load_ws(address, &["-c", "2", "--grace", "1s"]), "missing_echo", 2);
    // With others behind it, the next comes in its place.
    assert_found(&load_ws(address, &["-c", "2", "--depth", "4"]), "wrong_order", 2);
}

#[test]
fn a_connection_that_is_cut() {
    for len in [0, 1, 30] {
        let address = serve(move |stream| {
            let mut peer = Peer::accept(stream).expect("a handshake");
            for _ in 0..FAULTY {
                let (opcode, payload) = peer.frame().expect("a frame");
                peer.send(&frame(true, opcode, &payload)).expect("sent");
            }
            let (opcode, payload) = peer.frame().expect("a frame");
            peer.send(&frame(true, opcode, &payload)[..len]).expect("sent");
        });
        assert_found(&load_ws(address, &["-c", "2"]), "connection_lost", 2);
    }
}

#[test]
fn a_close_that_nobody_asked_for() {
    let address = serve_fault(|_, _| frame(true, OpCode::Close, &1001_u16.to_be_bytes()));
    assert_found(&load_ws(address, &["-c", "2"]), "unexpected_close_1001", 2);
}

/// A Close with this code, and a reason as long as one may be, with what a terminal would not show.
fn close_with_a_reason(code: u16) -> Vec<u8> {
    let reason = format!("go away \"please\"\x1b[2J{}", "é".repeat(51));
    frame(true, OpCode::Close, &[&code.to_be_bytes()[..], reason.as_bytes()].concat())
}

#[test]
fn the_reason_of_a_close_is_told_wherever_it_comes() {
    let told = |code: u16| {
        format!("the server closed with code {code}: \"go away \"please\"\\u{{1b}}[2J{}\"", "é".repeat(51))
    };
    let at_once = serve(|stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        let _ = peer.send(&close_with_a_reason(1011)).and_then(|()| peer.frame());
    });
    let later = serve_fault(|_, _| close_with_a_reason(4000));
    let at_the_end = serve(|stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        while let Ok((opcode, payload)) = peer.frame() {
            let is_close = opcode == OpCode::Close;
            let reply = if is_close { close_with_a_reason(1012) } else { frame(true, opcode, &payload) };
            if peer.send(&reply).is_err() || is_close {
                break;
            }
        }
    });
    for (address, code) in [(at_once, 1011), (later, 4000), (at_the_end, 1012)] {
        for engine in ENGINES {
            let ran = load_ws(address, &["-c", "1", "--engine", engine]);
            assert_found(&ran, &format!("unexpected_close_{code}"), 1);
            let examples = &ran.json()["error_examples"];
            assert!(examples[0].as_str().is_some_and(|it| it.ends_with(&told(code))), "{examples}");
        }
    }
    for (address, code) in [(at_once, 1011), (later, 4000)] {
        // There it is no error, and the reason is wanted as much.
        let ran = load_ws(address, &["-c", "1", "--reconnect"]);
        let (kind, json) = (format!("unexpected_close_{code}"), ran.json());
        assert!(json["reconnect_causes"][&kind].as_u64() > Some(0), "{json}");
        let examples = &json["reconnect_examples"];
        assert!(examples[0].as_str().is_some_and(|it| it.ends_with(&told(code))), "{examples}");
        assert!(examples.as_array().is_some_and(|it| it.len() <= 5), "{examples}");
    }
    let ran = load_ws(at_once, &["-c", "1", "--skip", "1"]);
    assert!(ran.stdout.contains("code 1011: \\\"go away"), "{}", ran.stdout);
}

#[test]
fn a_close_that_is_not_answered() {
    let address = serve(|stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        while let Ok((opcode, payload)) = peer.frame() {
            if opcode != OpCode::Close && peer.send(&frame(true, opcode, &payload)).is_err() {
                break;
            }
        }
    });
    assert_found(&load_ws(address, &["-c", "2", "--grace", "1s"]), "close_missing", 2);
}

#[test]
fn a_connection_that_is_not_ended() {
    let address = serve(|stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        while let Ok((opcode, payload)) = peer.frame() {
            if peer.send(&frame(true, opcode, &payload)).is_err() {
                break;
            }
        }
    });
    assert_found(&load_ws(address, &["-c", "2", "--grace", "1s"]), "connection_not_ended", 2);
}

#[test]
fn a_bad_accept_key() {
    let address = serve(|stream| {
        let swap = |accept: &str| good_answer(&accept.chars().rev().collect::<String>());
        let _ = Peer::handshake(stream, swap).and_then(|mut peer| peer.frame());
    });
    assert_found(&load_ws(address, &["-c", "2"]), "handshake_invalid", 2);
}

#[test]
fn a_refused_handshake() {
    for (status, cure) in
        [("503 Service Unavailable", "too many connections"), ("200 OK", "another path, such as /ws?")]
    {
        let address = serve(move |stream| {
            let refuse = |_: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            let _ = Peer::handshake(stream, refuse).and_then(|mut peer| peer.frame());
        });
        let ran = load_ws(address, &["-c", "2"]);
        assert_found(&ran, &format!("handshake_refused_{}", &status[..3]), 2);
        assert!(ran.stdout.contains(cure), "{}", ran.stdout);
    }
}

#[test]
fn a_handshake_without_an_answer() {
    let address = serve(|stream| {
        let _ = Peer::handshake(stream, |_| String::new()).and_then(|mut peer| peer.frame());
    });
    let ran = load_ws(address, &["-c", "2", "--connect-timeout", "300ms"]);
    assert_found(&ran, "handshake_timeout", 2);
}

#[test]
fn a_wrong_byte_of_a_raw_echo() {
    use std::io::{Read as _, Write as _};
    let address = serve(|mut stream| {
        let mut buffer = [0; 70];
        for count in 0_usize.. {
            if stream.read_exact(&mut buffer).is_err() {
                break;
            }
            buffer[69] ^= u8::from(count == FAULTY);
            if stream.write_all(&buffer).is_err() {
                break;
            }
        }
    });
    assert_found(&load(&format!("tcp://{address}"), &["-c", "2"]), "wrong_bytes", 2);
}

#[test]
fn one_bad_connection_does_not_stop_the_others() {
    let first = AtomicBool::new(true);
    let address = serve(move |stream| {
        let is_bad = first.swap(false, Ordering::Relaxed);
        let mut peer = Peer::accept(stream).expect("a handshake");
        let _ = peer.echo(|count, _, _| (is_bad && count == 3).then(|| frame(true, OpCode::Close, b"")));
    });
    let ran = load_ws(address, &["-c", "4"]);
    assert_found(&ran, "unexpected_close", 1);
    assert!(ran.echoes() > 0);
}

/// A server that does as `wrong` says for every third connection, and echoes for the others.
fn serve_every_third(wrong: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let count = AtomicU64::new(0);
    serve(move |stream| {
        if count.fetch_add(1, Ordering::Relaxed) % 3 == 2 {
            wrong(stream);
        } else if let Ok(mut peer) = Peer::accept(stream) {
            let _ = peer.echo(|_, _, _| None);
        }
    })
}

#[test]
fn a_churn_goes_on_after_faults_and_counts_them() {
    let address = serve_every_third(|stream| {
        let refuse = |_: &str| "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_owned();
        let _ = Peer::handshake(stream, refuse).and_then(|mut peer| peer.frame());
    });
    // The first two are good, so that it begins.
    let ran = load_ws(address, &["--churn", "-c", "2"]);
    let faults = ran.errors("handshake_refused_503");
    assert_found(&ran, "handshake_refused_503", faults);
    let echoes = ran.echoes();
    assert!(faults > 2, "{}", ran.stdout);
    assert!(echoes.abs_diff(2 * faults) <= 4, "{echoes} echoes, {faults} refused");
}

#[test]
fn a_churn_checks_its_echoes() {
    let address = serve_every_third(|stream| {
        let swap = |_, opcode, payload: &[u8]| Some(frame(true, opcode, &payload.to_ascii_uppercase()));
        let _ = Peer::accept(stream).and_then(|mut peer| peer.echo(swap));
    });
    let ran = load_ws(address, &["--churn", "-c", "2"]);
    let faults = ran.errors("wrong_bytes");
    assert!(faults > 2, "{}", ran.stdout);
    assert_found(&ran, "wrong_bytes", faults);
}

#[test]
fn a_churn_tells_who_was_never_answered() {
    let address = serve_every_third(|stream| {
        let _ = Peer::handshake(stream, |_| String::new()).and_then(|mut peer| peer.frame());
    });
    let ran = load_ws(address, &["--churn", "-c", "2", "--grace", "100ms"]);
    // Both got stuck, each at its own third.
    assert_found(&ran, "handshake_timeout", 2);
    assert_eq!(ran.echoes(), 4);
}

#[test]
fn a_churn_whose_server_goes_away() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for _ in 0..20 {
            let (stream, _) = listener.accept().expect("a connection");
            let mut peer = Peer::accept(stream).expect("a handshake");
            let (opcode, payload) = peer.frame().expect("a message");
            peer.send(&frame(true, opcode, &payload)).expect("it is awaited");
            peer.frame().expect_err("it is reset");
        }
    });
    let url = format!("ws://{address}/");
    let ran = loadtest(&[&url, "--churn", "-c", "1", "-d", "60s", "--warmup", "0s", "--json"]);
    assert_eq!((ran.code, ran.echoes()), (1, 20), "{}", ran.stdout);
    // The last may have been in the queue of the listener that ended.
    let lost = ran.errors("connect_failed") + ran.errors("connection_lost");
    assert!(ran.errors("connect_failed") == 1 && lost <= 2, "{}", ran.stdout);
}

#[test]
fn a_server_that_is_not_there() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    for url in [format!("ws://{address}/"), format!("tcp://{address}")] {
        let ran = load(&url, &["-c", "2"]);
        assert_eq!(ran.code, 69);
        let error = &ran.json()["error"];
        assert_eq!(error["exit_code"], 69);
        assert_eq!(format!("loadtest: {}\n", error["message"].as_str().expect("words")), ran.stderr);
        assert!(
            ran.stderr.contains(&format!("cannot connect to {url}: Connection refused")),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn mistakes_on_the_command_line() {
    let address = serve_tungstenite();
    let url = format!("ws://{address}/");
    for (args, part) in [
        (&[][..], "<URL>"),
        (&["wss://h/"], "wss:// is not supported"),
        (&[&url, "--threads", "2", "-c", "1"], "--threads 2 is more than --connections 1"),
        (&[&url, "--server-pid", "4194304"], "--server-pid 4194304: No such process"),
        (&[&url, "--churn", "--depth", "2"], "'--churn' cannot be used with '--depth"),
        (&[&url, "--pin", "9999"], "--pin 9999"),
        (&[&url, "--congestion", "none-such"], "--congestion none-such: No such file"),
        // As the server calls it.
        (&[&url, "--congestion-control", "none-such"], "tcp_available_congestion_control"),
        (&[&url, "--conections", "2"], "'--connections'"),
        (&[&url, "-d", "0s"], "--duration"),
        (&[&url, "-d", "10"], "it has no time unit"),
        (&[&url, "--size", "3GiB"], "at most 1GiB"),
        (&[&url, "-c", "1000000000"], "a whole number from 1 to 16777216"),
        (&[&url, "-c", "0"], "'--connections <COUNT>': a whole number from 1 to 16777216"),
        (&[&url, "--depth", "0"], "'--depth <COUNT>': a whole number from 1 to 65536"),
        (&[&url, "--ping-every", "0"], "'--ping-every <COUNT>': a whole number from 1 to 1000000000"),
        (&[&url, "--ping-every", "-1"], "'--ping-every <COUNT>': a whole number from 1"),
        (&[&url, "--threads", "x"], "'--threads <COUNT>': a whole number from 1 to 1024"),
        (&[&url, "--skip", "0"], "'--skip <N>': a whole number from 1 to 1000000"),
        (&[&url, "--server-pid", "0"], "'--server-pid <PID>': a whole number from 1 to 4194304"),
        (&[&url, "--rate", "0"], "'--rate <RATE>': a number from 0.001 to 10M"),
        (&[&url, "--rate", "-5"], "'--rate <RATE>': a number from 0.001 to 10M"),
        (&[&url, "-d", "1ns"], "'--duration <TIME>': a time from 1ms to 365days"),
        (&[&url, "-d", "-5s"], "'--duration <TIME>': a time from 1ms to 365days"),
        (&[&url, "-d", "10000years"], "'--duration <TIME>': a time from 1ms to 365days"),
        (&[&url, "--grace", "0s"], "'--grace <TIME>': a time from 1ms to 365days"),
        (&[&url, "--connect-timeout", "0s"], "'--connect-timeout <TIME>': a time from 1ms"),
        (&[&url, "--warmup", "-1s"], "'--warmup <TIME>': a time from 0s to 365days"),
        (&[&url, "--size", "5x"], "no size from 0 to 1GiB"),
        (&[&url, "--size", "-5"], "no size from 0 to 1GiB"),
        (&[&url, "--sizes", "9-5"], "'--sizes <LIST>': 9-5 ends before it begins"),
        (&[&url, "--fragments", "0"], "'--fragments <COUNT>': a number of frames"),
        (&[&url, "--all-addresses", "--churn", "--reconnect"], "'--churn' cannot be used with '--reconnect'"),
        (&["unix:/run/x", "--all-addresses"], "--all-addresses is for TCP"),
        (&["tcp://127.0.0.1:1", "--skip", "1"], "--skip is for WebSocket"),
        (
            &[&url, "--messages", "/x", "--kind", "text"],
            "'--messages <FILE>' cannot be used with '--kind <KIND>'",
        ),
        (
            &[&url, "--payload", "/x", "--size", "5"],
            "'--payload <FILE>' cannot be used with '--size <BYTES>'",
        ),
        (&[&url, "--payload", "/x", "--messages", "/y"], "cannot be used with"),
        (&[&url, "--messages", "/x", "--idle"], "cannot be used with"),
        (&[&url, "--messages", "/nowhere"], "--messages /nowhere: No such file or directory"),
        (&[&url, "--messages", "/dev/null"], "--messages /dev/null: it is empty: a message is a line"),
        (&[&url, "--payload", "/"], "--payload /: Is a directory"),
        (&[&url, "--header", "Host: a", "--header", "host: b"], "--header Host is there twice"),
        (&[&url, "--header", "X: a\r\nEvil: b"], "control character"),
        (&[&url, "--header", "Upgrade: h2c"], "Upgrade is not yours to set"),
    ] {
        let ran = loadtest(args);
        assert_eq!((ran.code, ran.stdout.as_str()), (64, ""), "{args:?}: {}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        assert!(ran.stderr.contains(part), "{part} in {}", ran.stderr);
    }
}

#[test]
fn help_is_no_mistake() {
    let ran = loadtest(&["--help"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert!(ran.stdout.contains("[default: 64]") && ran.stdout.contains("--server-pid"), "{}", ran.stdout);
}
