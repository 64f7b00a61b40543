//! Requests, good and bad: each row alone, with bytes behind it, cut at every byte and byte by byte.

use ringback::proto::handshake::{
    Document, HEAD_MAX, Handshake, Page as Forms, Refusal, Rules, Step, accept_key, page_response,
};

/// What a row of the table must lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Accepted,
    /// In plain text.
    Page,
    /// In HTML.
    HtmlPage,
    Refused(Refusal),
}
const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

use Outcome::{Accepted, HtmlPage, Page, Refused};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const HOST: &str = "Host: example.com";
const UPGRADE: &str = "Upgrade: websocket";
const CONNECTION: &str = "Connection: Upgrade";
const KEY_LINE: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
const VERSION: &str = "Sec-WebSocket-Version: 13";

/// Stands in many requests and in no response: nothing of the client's is echoed.
const MARK: &str = "zqxj";

fn rules() -> Rules {
    let form =
        |content_type, body: &str| Document { content_type, headers: String::new(), body: body.into() };
    let page = Forms { html: form("text/html", "<p>the page\n"), text: form("text/plain", "the page\n") };
    Rules { paths: vec!["/ws".into()], subprotocols: Vec::new(), page, allowed_origins: Vec::new() }
}

fn rules_with_origins() -> Rules {
    let allowed_origins = vec!["https://example.com".into(), "https://other.example:8443".into()];
    Rules { allowed_origins, ..rules() }
}

/// A head of this request line and these lines.
fn head(request_line: &str, lines: &[&str]) -> Vec<u8> {
    let mut head = format!("{request_line}\r\n");
    for line in lines {
        head.push_str(line);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

const GOOD_LINES: [&str; 5] = [HOST, UPGRADE, CONNECTION, KEY_LINE, VERSION];

/// A good request on another request line.
fn on(request_line: &str) -> Vec<u8> {
    head(request_line, &GOOD_LINES)
}

/// A request for the page with this `Accept`.
fn accepting(list: &str) -> Vec<u8> {
    head("GET / HTTP/1.1", &[HOST, &format!("Accept: {list}")])
}

/// A good request with `line` in the place of `instead_of`.
fn with(instead_of: &str, line: &str) -> Vec<u8> {
    let lines = GOOD_LINES.map(|good| if good == instead_of { line } else { good });
    head("GET /ws HTTP/1.1", &lines)
}

/// A good request without `line`.
fn without(line: &str) -> Vec<u8> {
    let lines: Vec<&str> = GOOD_LINES.into_iter().filter(|&good| good != line).collect();
    head("GET /ws HTTP/1.1", &lines)
}

/// A good request and further lines behind it.
fn plus(lines: &[&str]) -> Vec<u8> {
    head("GET /ws HTTP/1.1", &[&GOOD_LINES[..], lines].concat())
}

/// A good request with so many fields in all.
fn with_fields(count: usize) -> Vec<u8> {
    let more: Vec<String> = (GOOD_LINES.len()..count).map(|i| format!("X-{i}: {MARK}")).collect();
    plus(&more.iter().map(String::as_str).collect::<Vec<_>>())
}

/// A good request that is so long.
fn of_length(len: usize) -> Vec<u8> {
    let filler = "x".repeat(len - plus(&["X: "]).len());
    plus(&[&format!("X: {filler}")])
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
        (on("GET /%77s HTTP/1.1"), Refused(Refusal::NotFound)),
        (on("GET //ws HTTP/1.1"), Refused(Refusal::NotFound)),
        (on("GET /x/../ws HTTP/1.1"), Refused(Refusal::NotFound)),
        (on("POST /ws HTTP/1.1"), Refused(Refusal::Method)),
        (on("HEAD / HTTP/1.1"), Refused(Refusal::Head)),
        (on("get /ws HTTP/1.1"), Refused(Refusal::Method)),
        (on("ZQXJ /zqxj HTTP/1.1"), Refused(Refusal::Method)),
        (on("GET /ws HTTP/1.0"), Refused(Refusal::Malformed)),
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
        (on("OPTIONS * HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("CONNECT example.com:80 HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("GET /ws#zqxj HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("GET http:///ws HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("GET http:/ws HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("GET ftp://example.com/ws HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("GET http://user@example.com/ws HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("GET http://example.com:99999/ws HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("GET http://[zqxj]/ws HTTP/1.1"), Refused(Refusal::Malformed)),
        (on("GET /ws\u{E4} HTTP/1.1"), Refused(Refusal::Malformed)),
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
        (plus(&["Content-Length: 0"]), Refused(Refusal::Body)),
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
    assert_eq!(handshake.receive(b"GET /ws HTTP/1.1", &rules()), Step::More);
    assert_eq!(handshake.receive(b"\n", &rules()), Step::Refused(Refusal::Malformed));
    assert_eq!(Handshake::new().receive(b"\r", &rules()), Step::Refused(Refusal::Malformed));
}

#[test]
fn request_and_three_frames_in_one_write() {
    let head = on("GET /ws HTTP/1.1");
    let frames = b"\x81\x81abcd\x00\x82\x80abcd\x89\x80\r\n\r\n";
    let stream = [&head[..], frames].concat();
    for before in 0..head.len() {
        let mut handshake = Handshake::new();
        if before > 0 {
            assert_eq!(handshake.receive(&stream[..before], &rules()), Step::More);
        }
        let Step::Accepted { consumed, .. } = handshake.receive(&stream[before..], &rules()) else {
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
        Body, Connection, DoubleVersion, Draining, Full, HeadTooLong, Host, HttpVersion, Key, Malformed,
        Method, NotFound, NotUpgrade, Origin, Subprotocol, Timeout, TooManyFromAddress, TooManyHeaders,
        Version,
    };
    let upgrade =
        [("Upgrade", "websocket"), ("Connection", "Upgrade, close"), ("Sec-WebSocket-Version", "13")];
    let close = [("Connection", "close")];
    let table: [(Refusal, u16, Fields<'_>); 19] = [
        (Malformed, 400, &close),
        (Host, 400, &close),
        (Body, 400, &close),
        (Connection, 400, &close),
        (Key, 400, &close),
        (DoubleVersion, 400, &close),
        (Subprotocol, 400, &close),
        (Origin, 403, &close),
        (NotFound, 404, &close),
        (Method, 405, &[("Connection", "close"), ("Allow", "GET")]),
        (Timeout, 408, &close),
        (NotUpgrade, 426, &upgrade),
        (Version, 426, &upgrade),
        (HeadTooLong, 431, &close),
        (TooManyHeaders, 431, &close),
        (Full, 503, &[("Connection", "close"), ("Retry-After", "1")]),
        (TooManyFromAddress, 503, &[("Connection", "close"), ("Retry-After", "1")]),
        (Draining, 503, &[("Connection", "close"), ("Retry-After", "1")]),
        (HttpVersion, 505, &close),
    ];
    for (refusal, status, expected) in table {
        assert_eq!(refusal.status(), status);
        let response = refusal.response(DATE);
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

/// Feeds a stream in pieces, the next being as long as `piece_len` says of what was fed, up to the first step that
/// is not `More`. Gives that step, how much was fed before its piece, and the length of that piece.
fn feed(stream: &[u8], rules: &Rules, piece_len: impl Fn(usize) -> usize) -> (Step, usize, usize) {
    let mut handshake = Handshake::new();
    let mut at = 0;
    while at < stream.len() {
        let len = piece_len(at).min(stream.len() - at);
        match handshake.receive(&stream[at..at + len], rules) {
            Step::More => at += len,
            step => return (step, at, len),
        }
    }
    (Step::More, at, 0)
}

fn outcome_of(step: &Step) -> Option<Outcome> {
    match step {
        Step::More => None,
        Step::Accepted { .. } => Some(Accepted),
        Step::Page { html: false } => Some(Page),
        Step::Page { html: true } => Some(HtmlPage),
        Step::Refused(refusal) => Some(Refused(*refusal)),
    }
}

fn check_row(row: &[u8], rules: &Rules, expected: Outcome) {
    let behind = [&b"\x81\x81abcd\x00"[..], b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n", &[b'z'; 300]].concat();
    let followed = [row, &behind].concat();
    // The long rows are cut at some places only: each byte of them is looked at for each cut.
    let stride = if row.len() > 1000 { 131 } else { 1 };
    for stream in [row, &followed] {
        check_fed(stream, row.len(), rules, expected, |_| usize::MAX);
        for len in [1, 2, 3, 100] {
            check_fed(stream, row.len(), rules, expected, |_| len);
        }
        for cut in (1..row.len()).step_by(stride).chain(row.len().saturating_sub(6)..row.len()) {
            check_fed(stream, row.len(), rules, expected, |at| if at < cut { cut - at } else { usize::MAX });
        }
    }
}

fn check_fed(
    stream: &[u8],
    row_len: usize,
    rules: &Rules,
    expected: Outcome,
    piece_len: impl Fn(usize) -> usize,
) {
    let row = || String::from_utf8_lossy(&stream[..row_len.min(300)]).into_owned();
    let (step, before, piece) = feed(stream, rules, piece_len);
    assert_eq!(outcome_of(&step), Some(expected), "{:?} in a piece of {piece} at {before}", row());
    let (response, status) = match step {
        Step::Accepted { response, consumed } => {
            assert_eq!(before + consumed, row_len, "{:?}", row());
            (response, 101)
        }
        Step::Page { html } => (page_response(&rules.page, html, DATE), 200),
        Step::Refused(refusal) => (refusal.response(DATE), refusal.status()),
        Step::More => unreachable!("compared above"),
    };
    let (parsed, headers) = read_response(&response);
    assert_eq!(parsed, status);
    let connection: Vec<_> = headers.iter().filter(|(name, _)| name == "Connection").collect();
    assert_eq!(connection.len(), 1);
    assert_eq!(connection[0].1.contains("close"), status != 101);
    assert!(!String::from_utf8_lossy(&response).contains(MARK), "{:?} is echoed", row());
}

#[test]
fn the_answer_to_head_has_no_content() {
    let get = Refusal::Method.response(DATE);
    let head = Refusal::Head.response(DATE);
    assert!(head.starts_with(b"HTTP/1.1 405 ") && head.ends_with(b"\r\n\r\n"));
    assert!(!get.ends_with(b"\r\n\r\n"));
}

/// The status and headers of a response that is exactly one HTTP response and nothing more.
fn read_response(bytes: &[u8]) -> (u16, Vec<(String, String)>) {
    let mut storage = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut storage);
    let Ok(httparse::Status::Complete(head_len)) = response.parse(bytes) else {
        panic!("{:?} is no response", String::from_utf8_lossy(bytes))
    };
    assert_eq!(response.version, Some(1));
    let headers: Vec<(String, String)> = response
        .headers
        .iter()
        .map(|header| (header.name.to_owned(), String::from_utf8(header.value.to_vec()).unwrap()))
        .collect();
    let status = response.code.unwrap();
    let lengths: Vec<_> = headers.iter().filter(|(name, _)| name == "Content-Length").collect();
    if status == 101 {
        assert!(lengths.is_empty(), "a 101 has no body (RFC 9110 §8.6)");
        assert_eq!(head_len, bytes.len());
    } else {
        assert_eq!(lengths.len(), 1);
        if bytes != Refusal::Head.response(DATE) {
            assert_eq!(lengths[0].1, (bytes.len() - head_len).to_string());
        }
    }
    (status, headers)
}
