//! What servers answer that is not a plain 101, and what they say first.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use ringback::proto::frame::OpCode;

use crate::support::{ENGINES, Peer, Ran, frame, good_answer, load_ws, serve, serve_bytes};

/// A server that answers the handshake with this, and echoes if the connection goes on.
fn serve_answer(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> SocketAddr {
    serve(move |stream| {
        let _ = Peer::handshake(stream, &answer).and_then(|mut peer| peer.echo(|_, _, _| None));
    })
}

fn assert_good(ran: &Ran) {
    assert_eq!((ran.code, ran.json()["errors_total"].as_u64()), (0, Some(0)), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.echoes() > 0);
}

#[test]
fn interim_answers_come_before_the_answer() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";
    let address = serve_answer(move |accept| {
        format!("HTTP/1.1 100 Continue\r\n\r\n{hints}{hints}{}", good_answer(accept))
    });
    for engine in ENGINES {
        assert_good(&load_ws(address, &["-c", "2", "--engine", engine, "--header", "Expect: 100-continue"]));
    }
    let endless = serve_answer(|_| "HTTP/1.1 100 Continue\r\n\r\n".repeat(20));
    let ran = load_ws(endless, &["-c", "2"]);
    assert_eq!((ran.code, ran.errors("handshake_invalid")), (1, 2), "{}", ran.stdout);
    assert!(ran.stdout.contains("more than 16 interim answers"), "{}", ran.stdout);
}

#[test]
fn a_refusal_is_told_with_what_it_says() {
    for (answer, kind, told) in [
        (
            "302 Found\r\nLocation: https://h/login\r\nContent-Length: 0\r\n\r\n",
            "302",
            "(Location: https://h/login): it is elsewhere, and a redirect is not followed",
        ),
        (
            "401 Unauthorized\r\nWWW-Authenticate: Bearer realm=x\r\nContent-Length: 0\r\n\r\n",
            "401",
            "(WWW-Authenticate: Bearer realm=x): it may ask for --origin or --header",
        ),
        (
            "407 No\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
            "407",
            "(Proxy-Authenticate: Basic): it may ask for --origin or --header",
        ),
        (
            "426 Upgrade Required\r\nSec-WebSocket-Version: 8\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
            "426",
            "(Upgrade: websocket; Sec-WebSocket-Version: 8)",
        ),
        (
            "503 No\r\nRetry-After: 120\r\nContent-Length: 6\r\n\r\ndrain\n",
            "503",
            "(Retry-After: 120; \"drain\"): there may be too many connections",
        ),
        ("500 No\r\nConnection: close\r\n\r\n<html><title>Bad \x07day</title>", "500", "(\"Bad \\u{7}day\")"),
    ] {
        let address = serve(move |stream| {
            // It is gone behind its answer.
            drop(Peer::handshake(stream, |_| format!("HTTP/1.1 {answer}")));
        });
        let ran = load_ws(address, &["-c", "2"]);
        assert_eq!((ran.code, ran.errors(&format!("handshake_refused_{kind}"))), (1, 2), "{}", ran.stdout);
        let example = ran.json()["error_examples"][0].as_str().expect("words").to_owned();
        assert!(example.ends_with(&format!("refused with status {kind} {told}")), "{example}");
    }
}

#[test]
fn an_answer_that_is_no_http_is_told_with_its_first_bytes() {
    const TLS: &str = "the bytes 15 03 01 00 02 02 46; this is TLS, which loadtest does not speak";
    for (answer, told) in [
        (&b"SSH-2.0-OpenSSH_9.6\r\n"[..], "\"SSH-2.0-OpenSSH_9.6\"; an SSH server listens there"),
        (b"\x15\x03\x01\x00\x02\x02\x46", TLS),
        (b"220 mail ESMTP\x1b[2J\r\n", "the bytes 32 32 30 20"),
        (b"-ERR unknown command\r\n", "\"-ERR unknown command\""),
        // It is gone before more of it has come.
        (b"\x15\x03", "the bytes 15 03; this is TLS"),
        (b"no", "\"no\""),
    ] {
        for engine in ENGINES {
            let address = serve(move |stream| {
                drop(Peer::handshake(stream, |_| String::new()).and_then(|mut peer| peer.send(answer)));
            });
            let ran = load_ws(address, &["-c", "2", "--engine", engine]);
            assert_eq!((ran.code, ran.errors("handshake_invalid")), (1, 2), "{}", ran.stdout);
            let example = ran.json()["error_examples"][0].as_str().expect("words").to_owned();
            let told = format!("the handshake's answer is not HTTP: it begins with {told}");
            assert!(example.contains(&told), "{told} in {example}");
        }
    }
    let ran = load_ws(serve_bytes(), &["-c", "1"]);
    assert!(ran.stdout.contains("if it echoes bytes, give tcp://HOST:PORT"), "{}", ran.stdout);
    // It stays, and says no more.
    let silent = serve(|stream| {
        let _ = Peer::handshake(stream, |_| "SSH-".into()).and_then(|mut peer| peer.frame());
    });
    let ran = load_ws(silent, &["-c", "1", "--connect-timeout", "500ms"]);
    assert_eq!((ran.code, ran.errors("handshake_invalid")), (1, 1), "{}", ran.stdout);
    assert!(ran.stdout.contains("an SSH server listens there"), "{}", ran.stdout);
}

/// A server that says this first, and echoes then.
fn serve_greeting(greetings: &'static [&'static str]) -> SocketAddr {
    serve(move |stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        for greeting in greetings {
            peer.send(&frame(true, OpCode::Text, greeting.as_bytes())).expect("it is awaited");
        }
        let _ = peer.echo(|_, _, _| None);
    })
}

#[test]
fn a_server_that_greets_is_listened_to_first() {
    let address = serve_greeting(&["hello", "{\"you\":\"are 7\"}"]);
    for engine in ENGINES {
        for mode in [&["--depth", "3"][..], &["--rate", "200"], &["--churn"]] {
            assert_good(&load_ws(address, &[&["-c", "2", "--engine", engine, "--skip", "2"], mode].concat()));
        }
    }
}

#[test]
fn greetings_that_are_too_many_or_too_few_are_told() {
    let address = serve_greeting(&["hello", "you\x1b[2J"]);
    let ran = load_ws(address, &["-c", "2", "--warmup", "1s", "--skip", "1"]);
    assert_eq!((ran.code, ran.json()["errors_total"].as_u64()), (1, Some(2)), "{}", ran.stdout);
    // Unless a message of ours was due already: then it is no echo of that.
    if ran.errors("unasked_message") > 0 {
        let told = "a text message came that answers nothing, 7 bytes: \"you\\u{1b}[2J\"; of a server that greets, --skip N";
        assert!(ran.json()["error_examples"].to_string().contains("--skip N"), "{told} in {}", ran.stdout);
    }
    let ran = load_ws(address, &["-c", "2", "--skip", "3", "--connect-timeout", "500ms"]);
    assert_eq!((ran.code, ran.errors("greeting_missing")), (1, 2), "{}", ran.stdout);
    assert!(ran.stdout.contains("2 of the 3 messages of --skip came"), "{}", ran.stdout);
}

#[test]
fn a_host_of_the_users_own_is_sent_once() {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    let address = serve(move |stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        seen.lock().expect("nobody panics").push(peer.request.clone());
        let _ = peer.echo(|_, _, _| None);
    });
    for mode in [&[][..], &["--churn"]] {
        let args =
            [&["-c", "1", "--header", "Host: virtual.example", "--header", "User-Agent: me"], mode].concat();
        assert_good(&load_ws(address, &args));
    }
    for request in &*requests.lock().expect("nobody panics") {
        let named = |name: &str| {
            let name = format!("{name}:");
            request.lines().filter(|line| line.to_ascii_lowercase().starts_with(&name)).collect::<Vec<_>>()
        };
        assert_eq!(
            (named("host"), named("user-agent")),
            (vec!["Host: virtual.example"], vec!["User-Agent: me"])
        );
    }
}
