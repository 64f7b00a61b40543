//! Requests, good and bad: each row alone, with bytes behind it, cut at every byte and byte by byte.

use ringback::memory::{Budget, Total};
use ringback::proto::handshake::{HEAD_MAX, Handshake, Refusal, Rules, Step, accept_key};

use crate::support::handshakes::Outcome::{self, Accepted, HeadOfPage, HtmlPage, Options, Page, Refused};
use crate::support::handshakes::{
    CONNECTION, DATE, HOST, KEY, KEY_LINE, UPGRADE, VERSION, accepting, check_row, feed, head, of_length, on,
    plus, read_response, rules, with, with_fields, without,
};

fn rules_with_origins() -> Rules {
    let allowed_origins = vec!["https://example.com".into(), "https://other.example:8443".into()];
    Rules { allowed_origins, ..rules() }
}

fn request_lines() -> Vec<(Vec<u8>, Outcome)> {
    vec![
        (on("GET /ws HTTP/1.1"), Accepted),
        (on("GET /ws?zqxj=1&b=%20 HTTP/1.1"), Accepted),
        (on("GET /ws? HTTP/1.1"), Accepted),
        (on("GET /ws HTTP/1.2"), Accepted),
        (on("GET http://example.com/ws HTTP/1.1"), Accepted),
        (on("GET ws://example.com:80/ws?zqxj HTTP/1.1"), Accepted),
        (on("GET WSS://[::1]/ws HTTP/1.1"), Accepted),
        (on("GET http://example.com HTTP/1.1"), Page),
        (on("GET http://example.com?query HTTP/1.1"), Page),
        (on("GET / HTTP/1.1"), Page),
        (head("GET / HTTP/1.1", &[HOST]), Page),
        (on("GET /?/ws HTTP/1.1"), Page),
        (accepting("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"), HtmlPage),
        (accepting("application/json, Text/HTML ;q=0.1"), HtmlPage),
        (head("GET / HTTP/1.1", &[HOST, "Accept: */*", "accept: text/html"]), HtmlPage),
        (accepting("*/*"), Page),
        (accepting("text/*, text/html5, xtext/html"), Page),
        (accepting("text/html;q=0"), Page),
        (accepting("text/html; level=1; q=0.000, */*"), Page),
        (accepting(""), Page),
        (on("GET /zqxj HTTP/1.1"), Refused(Refusal::NotFound)),
        (on("GET /ws/ HTTP/1.1"), Refused(Refusal::NotFound)),
        (on("GET /WS HTTP/1.1"), Refused(Refusal::NotFound)),
        // The same resource as /ws (RFC 3986 §6.2.2.2, RFC 9110 §4.2.3); it was 404.
        (on("GET /%77s HTTP/1.1"), Accepted),
        (on("GET /ws%2F HTTP/1.1"), Refused(Refusal::NotFound)),
        (on("GET %2Fws HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("GET //ws HTTP/1.1"), Refused(Refusal::NotFound)),
        (on("GET /x/../ws HTTP/1.1"), Refused(Refusal::NotFound)),
        (on("POST /ws HTTP/1.1"), Refused(Refusal::Method)),
        // HEAD is answered as GET without content (RFC 9110 §9.3.2), OPTIONS by what is served (§9.3.7); both were 405.
        (on("HEAD / HTTP/1.1"), HeadOfPage),
        (on("HEAD /ws HTTP/1.1"), Refused(Refusal::NotUpgrade)),
        (on("HEAD /zqxj HTTP/1.1"), Refused(Refusal::NotFound)),
        (on("OPTIONS / HTTP/1.1"), Options),
        (on("OPTIONS /ws HTTP/1.1"), Options),
        (on("OPTIONS /zqxj HTTP/1.1"), Refused(Refusal::NotFound)),
        (on("get /ws HTTP/1.1"), Refused(Refusal::Method)),
        (on("ZQXJ /zqxj HTTP/1.1"), Refused(Refusal::Method)),
        // A proxy's mistake in most cases: the answer names HTTP/1.0 (RFC 9110 §7.8); it was 400.
        (on("GET /ws HTTP/1.0"), Refused(Refusal::Http10)),
        (on("GET /ws HTTP/2.0"), Refused(Refusal::HttpVersion)),
        (on("PRI * HTTP/2.0"), Refused(Refusal::HttpVersion)),
        (on("GET /ws HTTP/0.9"), Refused(Refusal::HttpVersion)),
        (on("GET /ws HTTP/3"), Refused(Refusal::Malformed)),
        (on("GET /ws HTTP/1.10"), Refused(Refusal::Malformed)),
        (on("GET /ws HTTP/11.1"), Refused(Refusal::Malformed)),
        (on("GET /ws http/1.1"), Refused(Refusal::Malformed)),
        (on("GET /ws ICY/1.1"), Refused(Refusal::Malformed)),
        (on("GET /ws"), Refused(Refusal::Malformed)),
        (on("GET"), Refused(Refusal::Malformed)),
        (on("GET  /ws HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("GET /ws  HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("GET /ws HTTP/1.1 "), Refused(Refusal::Malformed)),
        (on(" GET /ws HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("GET\t/ws\tHTTP/1.1"), Refused(Refusal::Malformed)),
        (on("G(T /ws HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("GET ws HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("GET * HTTP/1.1"), Refused(Refusal::Malformed)),
        // A form of the target that OPTIONS has (RFC 9112 §3.2.4); it was 400.
        (on("OPTIONS * HTTP/1.1"), Options),
        (on("HEAD * HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("CONNECT example.com:80 HTTP/1.1"), Refused(Refusal::Method)),
        (on("GET /ws#zqxj HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("GET http:///ws HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("GET http:/ws HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("GET ftp://example.com/ws HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("GET http://user@example.com/ws HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("GET http://example.com:99999/ws HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("GET http://[zqxj]/ws HTTP/1.1"), Refused(Refusal::Malformed)),
        // Old clients send UTF-8 as it is; it was 400.
        (on("GET /ws\u{E4} HTTP/1.1"), Refused(Refusal::NotFound)),
        (on("GET /ws\" HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("GET /ws\\ HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("GET /w\0s HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("\r\nGET /ws HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("\nGET /ws HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("GET /ws HTTP/1.1\n"), Refused(Refusal::Malformed)),
        (on("GET /ws HTTP/1.1\r"), Refused(Refusal::Malformed)),
        (on("GET /ws\rHTTP/1.1"), Refused(Refusal::Malformed)),
        (on("\u{16}\u{3}\u{1}"), Refused(Refusal::Malformed)),
    ]
}

fn hosts_and_bodies() -> Vec<(Vec<u8>, Outcome)> {
    vec![
        (head("GET /ws HTTP/1.1", &[]), Refused(Refusal::Host)),
        (without(HOST), Refused(Refusal::Host)),
        (with(HOST, "Host:"), Refused(Refusal::Host)),
        (with(HOST, "Host: a b"), Refused(Refusal::Host)),
        (with(HOST, "Host: zqxj/ws"), Refused(Refusal::Host)),
        (with(HOST, "Host: user@zqxj"), Refused(Refusal::Host)),
        (with(HOST, "Host: zqxj:port"), Refused(Refusal::Host)),
        (with(HOST, "Host: zqxj:65536"), Refused(Refusal::Host)),
        (with(HOST, "Host: zqxj:+80"), Refused(Refusal::Host)),
        (with(HOST, "Host: [::1"), Refused(Refusal::Host)),
        (with(HOST, "Host: ::1"), Refused(Refusal::Host)),
        (with(HOST, "Host: %zz"), Refused(Refusal::Host)),
        (with(HOST, "Host: :80"), Refused(Refusal::Host)),
        (with(HOST, "Host: a, b"), Refused(Refusal::Host)),
        (with(HOST, "Host: example.com:65535"), Accepted),
        (with(HOST, "Host: example.com:"), Accepted),
        (with(HOST, "Host: [2001:db8::1]:8080"), Accepted),
        (with(HOST, "hOST:\t127.0.0.1 \t"), Accepted),
        (with(HOST, "Host: a%20b_c"), Accepted),
        (plus(&["Host: example.com"]), Refused(Refusal::Host)),
        (plus(&["host: zqxj"]), Refused(Refusal::Host)),
        (plus(&["Content-Length: 5"]), Refused(Refusal::Body)),
        // A body of no bytes is none: Java's HttpClient cannot leave it out; it was 400.
        (plus(&["Content-Length: 0"]), Accepted),
        (plus(&["Transfer-Encoding: chunked"]), Refused(Refusal::Body)),
        (plus(&["transfer-encoding: zqxj"]), Refused(Refusal::Body)),
        (plus(&["Content-Length: 5", "Transfer-Encoding: chunked"]), Refused(Refusal::Body)),
        (plus(&["Content-Length: 5", "Content-Length: 6"]), Refused(Refusal::Body)),
    ]
}

fn upgrades() -> Vec<(Vec<u8>, Outcome)> {
    vec![
        (without(UPGRADE), Refused(Refusal::NotUpgrade)),
        (with(UPGRADE, "Upgrade: h2c"), Refused(Refusal::NotUpgrade)),
        (with(UPGRADE, "Upgrade: websockets"), Refused(Refusal::NotUpgrade)),
        (with(UPGRADE, "Upgrade: web socket"), Refused(Refusal::NotUpgrade)),
        (with(UPGRADE, "Upgrade: websocket/13"), Refused(Refusal::NotUpgrade)),
        (with(UPGRADE, "Upgrade: WebSocket"), Accepted),
        (with(UPGRADE, "UPGRADE: zqxj , wEBSOCKET,h2c"), Accepted),
        (with(UPGRADE, "Upgrade: zqxj\r\nUpgrade: websocket"), Accepted),
        (with(UPGRADE, "Upgrade: ,websocket,"), Accepted),
        (without(CONNECTION), Refused(Refusal::Connection)),
        (with(CONNECTION, "Connection: keep-alive"), Refused(Refusal::Connection)),
        (with(CONNECTION, "Connection: \"Upgrade\""), Refused(Refusal::Connection)),
        (with(CONNECTION, "connection: zqxj, UPGRADE"), Accepted),
        (with(CONNECTION, "Connection: keep-alive\r\nConnection: upgrade"), Accepted),
        (without(VERSION), Refused(Refusal::Version)),
        (with(VERSION, "Sec-WebSocket-Version: 8"), Refused(Refusal::Version)),
        (with(VERSION, "Sec-WebSocket-Version: 013"), Refused(Refusal::Version)),
        (with(VERSION, "Sec-WebSocket-Version: 13, 8"), Refused(Refusal::Version)),
        (plus(&[VERSION]), Refused(Refusal::DoubleVersion)),
        (plus(&["Sec-WebSocket-Version: 8"]), Refused(Refusal::DoubleVersion)),
        (plus(&["Sec-WebSocket-Protocol: zqxj, chat"]), Accepted),
        (plus(&["Sec-WebSocket-Protocol: zqxj", "sec-websocket-protocol:chat\t,\tsuperchat"]), Accepted),
        (plus(&["Sec-WebSocket-Protocol:"]), Refused(Refusal::Subprotocol)),
        (plus(&["Sec-WebSocket-Protocol: ,zqxj,,chat,"]), Accepted),
        (plus(&["Sec-WebSocket-Protocol: zqxj chat"]), Refused(Refusal::Subprotocol)),
        (plus(&["Sec-WebSocket-Protocol: \"zqxj\""]), Refused(Refusal::Subprotocol)),
        (plus(&["Sec-WebSocket-Protocol: zq\u{E4}xj"]), Refused(Refusal::Subprotocol)),
        (plus(&["Sec-WebSocket-Protocol: zqxj, chat, zqxj"]), Refused(Refusal::Subprotocol)),
        (
            plus(&["Sec-WebSocket-Protocol: zqxj", "Sec-WebSocket-Protocol: zqxj"]),
            Refused(Refusal::Subprotocol),
        ),
        (head("GET / HTTP/1.1", &[HOST, "Sec-WebSocket-Protocol: zqxj,"]), Page),
        (plus(&["Sec-WebSocket-Extensions: permessage-deflate; zqxj"]), Accepted),
        (plus(&["Origin: null"]), Accepted),
        (plus(&["Cookie: zqxj", "X-Empty:", "X-Obs-Text: \u{E4}\u{FF}", "x!#$%&'*+-.^_`|~9: y"]), Accepted),
    ]
}

fn keys() -> Vec<(Vec<u8>, Outcome)> {
    let key = |key: &str| with(KEY_LINE, &format!("Sec-WebSocket-Key: {key}"));
    vec![
        (without(KEY_LINE), Refused(Refusal::Key)),
        (plus(&[KEY_LINE]), Refused(Refusal::Key)),
        (plus(&["sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA=="]), Refused(Refusal::Key)),
        (key(""), Refused(Refusal::Key)),
        (key("AAAAAAAAAAAAAAAAAAAAAA=="), Accepted),
        (key("//////////////////////w=="), Refused(Refusal::Key)),
        (key("/////////////////////w=="), Accepted),
        (key("+++++++++++++++++++++g=="), Accepted),
        (key("dGhlIHNhbXBsZSBub25jZQ="), Refused(Refusal::Key)),
        (key("dGhlIHNhbXBsZSBub25jZQ"), Refused(Refusal::Key)),
        (key("dGhlIHNhbXBsZSBub25jZQ==="), Refused(Refusal::Key)),
        (key("dGhlIHNhbXBsZSBub25jZSE="), Refused(Refusal::Key)),
        (key("dGhlIHNhbXBsZSBub25jZSEh"), Refused(Refusal::Key)),
        (key("dGhlIHNhbXBsZSBub25jZR=="), Refused(Refusal::Key)),
        (key("-_______________________"), Refused(Refusal::Key)),
        (key("_____________________w=="), Refused(Refusal::Key)),
        (key("dGhlIHNhbXBs ZSBub25jZQ=="), Refused(Refusal::Key)),
        (key("dGhlIHNhbXBsZSBub25j\u{E4}=="), Refused(Refusal::Key)),
        (key("dGhlIHNhbXBsZSBub25jZQ==,"), Refused(Refusal::Key)),
        (key(" \t dGhlIHNhbXBsZSBub25jZQ== \t "), Accepted),
    ]
}

fn fields() -> Vec<(Vec<u8>, Outcome)> {
    let malformed = Refused(Refusal::Malformed);
    vec![
        (plus(&["X: a", " folded"]), malformed),
        (plus(&["X: a", "\tfolded: b"]), malformed),
        (with(HOST, " Host: example.com"), malformed),
        (with(HOST, "Host : example.com"), malformed),
        (with(HOST, "Host\t: example.com"), malformed),
        (plus(&["no colon"]), malformed),
        (plus(&[": no name"]), malformed),
        (plus(&["X(: a"]), malformed),
        (plus(&["X\u{E4}: a"]), malformed),
        (plus(&["X: a\u{7F}"]), malformed),
        (plus(&["X: a\u{1}"]), malformed),
        (plus(&["\r"]), malformed),
        (plus(&["X: a\r"]), malformed),
        (with_fields(64), Accepted),
        (with_fields(65), Refused(Refusal::TooManyHeaders)),
        (with_fields(200), Refused(Refusal::TooManyHeaders)),
        (of_length(HEAD_MAX - 1), Accepted),
        (of_length(HEAD_MAX), Accepted),
        (of_length(HEAD_MAX + 1), Refused(Refusal::HeadTooLong)),
        (of_length(3 * HEAD_MAX), Refused(Refusal::HeadTooLong)),
        ([b'x'; 2 * HEAD_MAX].to_vec(), Refused(Refusal::HeadTooLong)),
        // Nothing behind the limit matters.
        ([&[b'x'; HEAD_MAX][..], b"\n\r\n\r\n"].concat(), Refused(Refusal::HeadTooLong)),
        ([&[b'x'; HEAD_MAX - 1][..], b"\n"].concat(), malformed),
    ]
}

#[test]
fn every_row_has_one_outcome_alone_followed_and_cut_anywhere() {
    let rows = [request_lines(), hosts_and_bodies(), upgrades(), keys(), fields()].concat();
    assert!(rows.len() >= 60);
    for (row, outcome) in &rows {
        check_row(row, &rules(), *outcome);
    }
}

#[test]
fn cr_lf_and_nul_in_every_header() {
    let lines = [HOST, UPGRADE, CONNECTION, KEY_LINE, VERSION, "Origin: zqxj", "X-Other: zqxj"];
    for (spoilt, line) in lines.into_iter().enumerate() {
        let value = line.find(": ").unwrap() + 2;
        for inserted in ["\r", "\n", "\0", "\r\n", "\n ", "\r\n ", "\r\n\t", "\r\r\n", "\n\n"] {
            for at in [0, 1, value - 2, value - 1, value, value + 1, line.len() - 1, line.len()] {
                let is_end_of_head =
                    inserted.starts_with("\r\n") && at == 0 || inserted == "\r\n" && at == line.len();
                if is_end_of_head {
                    continue;
                }
                let (a, b) = line.split_at(at);
                let torn = format!("{a}{inserted}{b}");
                let mut lines = lines;
                lines[spoilt] = &torn;
                check_row(&head("GET /ws HTTP/1.1", &lines), &rules(), Refused(Refusal::Malformed));
            }
        }
    }
}

#[test]
fn origins() {
    let origin = |lines: &[&str]| plus(lines);
    let refused = Refused(Refusal::Origin);
    let rows = [
        (origin(&[]), Accepted),
        (origin(&["Origin: https://example.com"]), Accepted),
        (origin(&["oRIGIN:https://other.example:8443"]), Accepted),
        (origin(&["Origin: https://Example.com"]), refused),
        (origin(&["Origin: HTTPS://example.com"]), refused),
        (origin(&["Origin: http://example.com"]), refused),
        (origin(&["Origin: https://example.com:443"]), refused),
        (origin(&["Origin: https://example.com/"]), refused),
        (origin(&["Origin: https://example.com.zqxj"]), refused),
        (origin(&["Origin: https://zqxj.example.com"]), refused),
        (origin(&["Origin: https://example.co"]), refused),
        (origin(&["Origin: null"]), refused),
        (origin(&["Origin:"]), refused),
        (origin(&["Origin: https://example.com", "Origin: https://example.com"]), refused),
        (origin(&["Origin: https://example.com https://zqxj"]), refused),
    ];
    for (row, outcome) in &rows {
        check_row(row, &rules_with_origins(), *outcome);
    }
    // The page is anybody's.
    check_row(&head("GET / HTTP/1.1", &[HOST, "Origin: null"]), &rules_with_origins(), Page);
}

#[test]
fn a_socket_at_the_root_leaves_the_page_to_plain_requests() {
    let rules = Rules { paths: vec!["/".into()], ..rules() };
    check_row(&on("GET / HTTP/1.1"), &rules, Accepted);
    check_row(&on("GET http://example.com HTTP/1.1"), &rules, Accepted);
    check_row(&head("GET / HTTP/1.1", &[HOST]), &rules, Page);
    check_row(&head("GET / HTTP/1.1", &[HOST, UPGRADE]), &rules, Refused(Refusal::Connection));
    check_row(&on("GET /ws HTTP/1.1"), &rules, Refused(Refusal::NotFound));
}

#[test]
fn a_line_without_cr_is_refused_before_the_end_is_found() {
    let mut handshake = Handshake::new();
    let budget = Budget::new(Total::new(1 << 20));
    let cause = |step| match step {
        Step::Refused(refused) => refused.cause(),
        step => panic!("{step:?}"),
    };
    assert_eq!(handshake.receive(b"GET /ws HTTP/1.1", &rules(), &budget), Step::More);
    assert_eq!(cause(handshake.receive(b"\n", &rules(), &budget)), Refusal::Malformed);
    assert_eq!(cause(Handshake::new().receive(b"\r", &rules(), &budget)), Refusal::Malformed);
}

#[test]
fn request_and_three_frames_in_one_write() {
    let head = on("GET /ws HTTP/1.1");
    let frames = b"\x81\x81abcd\x00\x82\x80abcd\x89\x80\r\n\r\n";
    let stream = [&head[..], frames].concat();
    let budget = Budget::new(Total::new(1 << 20));
    for before in 0..head.len() {
        let mut handshake = Handshake::new();
        if before > 0 {
            assert_eq!(handshake.receive(&stream[..before], &rules(), &budget), Step::More);
        }
        let Step::Accepted { consumed, .. } = handshake.receive(&stream[before..], &rules(), &budget) else {
            panic!("cut at {before}")
        };
        assert_eq!(&stream[before + consumed..], frames, "cut at {before}");
    }
}

#[test]
fn accepted_responses_have_exactly_what_the_rfc_asks_for() {
    let (step, ..) = feed(&on("GET /ws HTTP/1.1"), &rules(), |_| usize::MAX);
    let Step::Accepted { response, .. } = step else { panic!("{step:?}") };
    let expected = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept_key(KEY.as_bytes())
    );
    assert_eq!(response, expected.as_bytes());
    assert_eq!(accept_key(KEY.as_bytes()), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[test]
fn the_first_of_our_sub_protocols_that_is_offered_is_agreed_to() {
    let subprotocols = vec!["chat".into(), "v2.example.org".into(), "v1.example.org".into()];
    let rules = Rules { subprotocols, ..rules() };
    for (offers, agreed) in [
        (&[][..], None),
        (&["Sec-WebSocket-Protocol: v1.example.org, v2.example.org"], Some("v2.example.org")),
        (&["Sec-WebSocket-Protocol: v1.example.org, zqxj", "Sec-WebSocket-Protocol: chat"], Some("chat")),
        (&["SEC-WEBSOCKET-PROTOCOL:zqxj,v1.example.org"], Some("v1.example.org")),
        // Names are compared byte for byte.
        (&["Sec-WebSocket-Protocol: Chat, zqxj, v1.example.orgs"], None),
    ] {
        let row = plus(offers);
        check_row(&row, &rules, Accepted);
        let (step, ..) = feed(&row, &rules, |_| usize::MAX);
        let Step::Accepted { response, .. } = step else { panic!("{step:?}") };
        let (_, headers) = read_response(&response);
        let answered: Vec<_> = headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("Sec-WebSocket-Protocol"))
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(answered, agreed.into_iter().collect::<Vec<_>>(), "{offers:?}");
    }
}

#[test]
fn thousands_of_offers_are_judged_at_once() {
    let names: Vec<_> = (0..1500).map(|name| format!("{name}")).collect();
    check_row(&plus(&[&format!("Sec-WebSocket-Protocol: {}", names.join(","))]), &rules(), Accepted);
}

#[test]
fn a_socket_may_have_several_paths() {
    let rules = Rules { paths: vec!["/ws".into(), "/echo".into()], ..rules() };
    check_row(&on("GET /ws HTTP/1.1"), &rules, Accepted);
    check_row(&on("GET /echo?zqxj HTTP/1.1"), &rules, Accepted);
    check_row(&on("GET /echo/ HTTP/1.1"), &rules, Refused(Refusal::NotFound));
    check_row(&on("GET /ws,/echo HTTP/1.1"), &rules, Refused(Refusal::NotFound));
    check_row(&head("GET /echo HTTP/1.1", &[HOST]), &rules, Refused(Refusal::NotUpgrade));
}

type Fields<'a> = &'a [(&'a str, &'a str)];

#[test]
fn refusals_say_their_status_and_what_it_asks_for() {
    use Refusal::{
        Body, Connection, DoubleVersion, Draining, Expectation, Full, HeadTooLong, Host, Http10, HttpVersion,
        Key, Malformed, Memory, Method, NotFound, NotUpgrade, Origin, Subprotocol, Timeout,
        TooManyFromAddress, TooManyHeaders, Version,
    };
    let upgrade =
        [("Upgrade", "websocket"), ("Connection", "Upgrade, close"), ("Sec-WebSocket-Version", "13")];
    let close = [("Connection", "close")];
    let table: [(Refusal, u16, Fields<'_>); 22] = [
        (Malformed, 400, &close),
        (Host, 400, &close),
        (Body, 400, &close),
        (Connection, 400, &close),
        (Key, 400, &close),
        (DoubleVersion, 400, &close),
        (Subprotocol, 400, &close),
        (Origin, 403, &close),
        (NotFound, 404, &close),
        (Method, 405, &[("Connection", "close"), ("Allow", "GET, HEAD, OPTIONS")]),
        (Timeout, 408, &close),
        (Expectation, 417, &close),
        (NotUpgrade, 426, &upgrade),
        (Version, 426, &upgrade),
        (Http10, 426, &upgrade),
        (HeadTooLong, 431, &close),
        (TooManyHeaders, 431, &close),
        (Full, 503, &[("Connection", "close"), ("Retry-After", "1")]),
        (TooManyFromAddress, 503, &[("Connection", "close"), ("Retry-After", "1")]),
        (Memory, 503, &[("Connection", "close"), ("Retry-After", "1")]),
        (Draining, 503, &[("Connection", "close"), ("Retry-After", "1")]),
        (HttpVersion, 505, &close),
    ];
    for (refusal, status, expected) in table {
        assert_eq!(refusal.status(), status);
        let response = refusal.of(b"").response(DATE);
        let (parsed_status, headers) = read_response(&response);
        assert_eq!(parsed_status, status);
        for (name, value) in expected {
            let values: Vec<_> = headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect();
            assert_eq!(values, [*value], "{refusal:?}: {name}");
        }
        let dates: Vec<_> =
            headers.iter().filter(|(name, _)| name == "Date").map(|(_, v)| v.as_str()).collect();
        assert_eq!(dates, [DATE], "{refusal:?}");
        let known = ["Connection", "Content-Length", "Content-Type", "Date"];
        for (name, _) in &headers {
            let is_expected = expected.iter().any(|(expected, _)| expected == name);
            assert!(is_expected || known.contains(&name.as_str()), "{refusal:?}: {name}");
        }
    }
}
