//! What real clients, proxies and monitors send, and what they are told: each row as in `proto_handshake`.

use ringback::proto::handshake::{Refusal, Rules, Step, accept_key, options_response, page_response};

use crate::support::handshakes::Outcome::{
    self, Accepted, Continued, HeadOfPage, HtmlPage, Options, Page, Refused,
};
use crate::support::handshakes::{
    CONNECTION, CONTINUE, DATE, GOOD_LINES, HOST, KEY, KEY_LINE, UPGRADE, VERSION, check_row, feed, head, on,
    plus, read_response, read_response_to, rules, why, with, with_fields, without,
};

fn check_all(rules: &Rules, rows: &[(Vec<u8>, Outcome)]) {
    for (row, outcome) in rows {
        check_row(row, rules, *outcome);
    }
}

/// What the answer to each of these rows has to name, however its bytes are cut.
fn check_sentences(rules: &Rules, rows: &[(Vec<u8>, &[&str])]) {
    for (row, named) in rows {
        let (step, ..) = feed(row, rules, |_| usize::MAX);
        let Step::Refused(refused) = &step else { panic!("{step:?} for {}", row.escape_ascii()) };
        check_row(row, rules, Refused(refused.cause()));
        let sentence = why(row, rules);
        for name in *named {
            assert!(sentence.contains(name), "{name} in {sentence:?} for {}", row.escape_ascii());
        }
    }
}

/// A request for the page.
fn page(lines: &[&str]) -> Vec<u8> {
    head("GET / HTTP/1.1", &[&[HOST], lines].concat())
}

/// Java's HttpClient of 11 and 17, chargers and old Envoys send it with every GET.
#[test]
fn content_length_of_zero() {
    let refused = Refused(Refusal::Body);
    check_all(
        &rules(),
        &[
            (plus(&["Content-Length: 0"]), Accepted),
            (plus(&["content-length:0"]), Accepted),
            (plus(&["CONTENT-LENGTH: \t0 \t"]), Accepted),
            (page(&["Content-Length: 0"]), Page),
            (head("HEAD / HTTP/1.1", &[HOST, "Content-Length: 0"]), HeadOfPage),
            (head("OPTIONS / HTTP/1.1", &[HOST, "Content-Length: 0"]), Options),
            (head("GET / HTTP/1.0", &["Content-Length: 0"]), Page),
            (plus(&["Content-Length: 0", "Content-Length: 0"]), refused),
            (plus(&["Content-Length: 0", "Content-Length: 5"]), refused),
            (plus(&["Content-Length: 0, 0"]), refused),
            (plus(&["Content-Length: 0,"]), refused),
            (plus(&["Content-Length: 00"]), refused),
            (plus(&["Content-Length: +0"]), refused),
            (plus(&["Content-Length: -0"]), refused),
            (plus(&["Content-Length: 0x0"]), refused),
            (plus(&["Content-Length: 0.0"]), refused),
            (plus(&["Content-Length: 0;a"]), refused),
            (plus(&["Content-Length: \"0\""]), refused),
            (plus(&["Content-Length:"]), refused),
            (plus(&["Content-Length: 1"]), refused),
            (plus(&["Content-Length: 18446744073709551616"]), refused),
            (plus(&["Content-Length: \u{FF10}"]), refused),
            (page(&["Content-Length: 00"]), refused),
            (page(&["Content-Length: 1"]), refused),
            (plus(&["Content-Length: 0", "Transfer-Encoding: chunked"]), refused),
            (plus(&["Transfer-Encoding: identity", "Content-Length: 0"]), refused),
            (page(&["Content-Length: 0", "Transfer-Encoding:"]), refused),
            (plus(&["Content-Length : 0"]), Refused(Refusal::Malformed)),
            (plus(&["Content-Length: 0\u{1}"]), Refused(Refusal::Malformed)),
        ],
    );
    check_sentences(
        &rules(),
        &[
            (plus(&["Content-Length: 00"]), &["Content-Length", "not exactly 0"]),
            (plus(&["Content-Length: 0", "Content-Length: 0"]), &["more than one Content-Length"]),
            (plus(&["Content-Length: 0", "Transfer-Encoding: chunked"]), &["Transfer-Encoding"]),
        ],
    );
}

#[test]
fn what_browsers_leave_unencoded_in_a_query() {
    for byte in 0..=u8::MAX {
        let row = on([b"GET /ws?a=".as_slice(), &[byte], b" HTTP/1.1"].concat());
        let is_refused = matches!(byte, 0..=b' ' | 0x7F | b'"' | b'#' | b'<' | b'>');
        check_row(&row, &rules(), if is_refused { Refused(Refusal::Malformed) } else { Accepted });
    }
    check_all(
        &rules(),
        &[
            (on("GET /ws?[]{}|\\^`'!$&()*+,;=:@/?%zz% HTTP/1.1"), Accepted),
            (on("GET ws://example.com/ws?q={\u{E4}|'} HTTP/1.1"), Accepted),
            (on("GET ws://example.com?q={|} HTTP/1.1"), Page),
            (on(b"GET /ws?\x80\xC3\xFF\xFE HTTP/1.1"), Accepted),
            (head(b"GET /?\xE4 HTTP/1.1", &[HOST]), Page),
        ],
    );
}

#[test]
fn what_browsers_leave_unencoded_in_a_path() {
    let any = Rules { paths: vec!["*".into()], ..rules() };
    for byte in 0..=u8::MAX {
        let row = on([b"GET /a".as_slice(), &[byte], b" HTTP/1.1"].concat());
        let is_refused =
            matches!(byte, 0..=b' ' | 0x7F | b'"' | b'#' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'}');
        check_row(&row, &any, if is_refused { Refused(Refusal::Malformed) } else { Accepted });
    }
    let greeting =
        Rules { paths: vec!["/gr\u{FC}\u{DF}e".into(), "/a%20b".into(), "/{x}".into()], ..rules() };
    check_all(
        &greeting,
        &[
            (on("GET /gr\u{FC}\u{DF}e?x HTTP/1.1"), Accepted),
            (on("GET /gr%C3%BC%c3%9fe HTTP/1.1"), Accepted),
            (on(b"GET /gr\xFC\xDFe HTTP/1.1"), Refused(Refusal::NotFound)),
            (on("GET /a%20b HTTP/1.1"), Accepted),
            (on("GET /%61%20%62 HTTP/1.1"), Accepted),
            (on("GET /a b HTTP/1.1"), Refused(Refusal::Malformed)),
            (on("GET /%7Bx%7D HTTP/1.1"), Accepted),
            (on("GET /{x} HTTP/1.1"), Refused(Refusal::Malformed)),
        ],
    );
}

/// A path is compared as RFC 3986 §6.2.2 has it, without the removal of dot segments, which is for clients.
#[test]
fn paths_that_are_written_in_another_way() {
    let not_found = Refused(Refusal::NotFound);
    check_all(
        &rules(),
        &[
            (on("GET /%77s HTTP/1.1"), Accepted),
            (on("GET /%77%73?x HTTP/1.1"), Accepted),
            (on("GET http://example.com/%77s HTTP/1.1"), Accepted),
            (on("GET //ws HTTP/1.1"), not_found),
            (on("GET /ws// HTTP/1.1"), not_found),
            (on("GET /%2Fws HTTP/1.1"), not_found),
            (on("GET /%57S HTTP/1.1"), not_found),
            (on("GET /./ws HTTP/1.1"), not_found),
            (on("GET /x/../ws HTTP/1.1"), not_found),
            (on("GET /%2577s HTTP/1.1"), not_found),
            (on("GET /ws;a=b HTTP/1.1"), not_found),
            (on("GET http://example.com//ws HTTP/1.1"), not_found),
            (on("GET HTTP://EXAMPLE.COM:9001/ws HTTP/1.1"), Accepted),
            (on("OPTIONS http://example.com HTTP/1.1"), Options),
            (on("GET http://ex\u{E4}mple.com/ws HTTP/1.1"), Refused(Refusal::Malformed)),
            (on("GET http://a\\b/ws HTTP/1.1"), Refused(Refusal::Malformed)),
            (on("GET http://?/ws HTTP/1.1"), Refused(Refusal::Malformed)),
            (on("GET ://example.com/ws HTTP/1.1"), Refused(Refusal::Malformed)),
            (on("GET \\ws HTTP/1.1"), Refused(Refusal::Malformed)),
            (on("GET ?ws HTTP/1.1"), Refused(Refusal::Malformed)),
            (on("OPTIONS ** HTTP/1.1"), Refused(Refusal::Malformed)),
            (on("OPTIONS *? HTTP/1.1"), Refused(Refusal::Malformed)),
        ],
    );
}

/// The byte, its position from 1 on, the field or the version.
#[test]
fn what_was_wrong_is_named() {
    check_sentences(
        &rules(),
        &[
            (on("GET /ws\" HTTP/1.1"), &["the target", "0x22", "position 4", "%22"]),
            (on("GET /ws?a=<b> HTTP/1.1"), &["the target", "0x3C", "position 7", "%3C"]),
            (on("GET /ws#a HTTP/1.1"), &["the target", "0x23", "position 4", "fragment"]),
            (on("GET /w\0s HTTP/1.1"), &["the target", "0x00", "position 3", "%00"]),
            (on("GET /ws\u{7F} HTTP/1.1"), &["0x7F"]),
            (on("GET /ws\\ HTTP/1.1"), &["0x5C", "%5C"]),
            (on("GET ws://a/{ HTTP/1.1"), &["0x7B", "position 8"]),
            (on("GET ws://a/?\t HTTP/1.1"), &["0x09", "position 9"]),
            (on("GET /w s HTTP/1.1"), &["3 spaces", "0x20", "%20"]),
            (on("GET  /ws HTTP/1.1"), &["3 spaces", "0x20"]),
            (on("GET\t/ws\tHTTP/1.1"), &["the method", "0x09", "position 4"]),
            (on("G(T /ws HTTP/1.1"), &["the method", "0x28", "position 2"]),
            (on("GET ws HTTP/1.1"), &["begins with the byte 0x77", "0x2F"]),
            (on("GET ftp://example.com/ws HTTP/1.1"), &["scheme"]),
            (on("GET http://user@example.com/ws HTTP/1.1"), &["host", "without user"]),
            (on("GET /ws\rHTTP/1.1"), &["0x0D", "position 8"]),
            (on("GET"), &["one word"]),
            (on("GET /ws"), &["HTTP/0.9", "HTTP/1.1"]),
            (on("GET /ws http/1.1"), &["HTTP/1.1 is written with small letters"]),
            (on("GET HTTP/1.1"), &["no target"]),
            (on("PROXY TCP4 192.0.2.1 192.0.2.2 1 2"), &["--proxy-protocol"]),
            (on("GET /ws HTTP/3"), &["HTTP/3 is not"]),
            (on("GET /ws HTTP/1.10"), &["HTTP/1.10 is not"]),
            (on("GET /ws ICY/1.1"), &["not end in an HTTP version"]),
            (on("\u{16}\u{3}\u{1}"), &["0x16", "TLS"]),
            (on("\r\nGET /ws HTTP/1.1"), &["empty line", "0x0D"]),
            ("\r\n\r\n\0\r\nQUIT\n\u{21}\u{11}".into(), &["empty line", "PROXY", "--proxy-protocol v2"]),
            ("\r".into(), &["empty line", "0x0D", "--proxy-protocol v2"]),
            ("\n".into(), &["empty line", "0x0A"]),
            (on(" GET /ws HTTP/1.1"), &["0x20"]),
            (plus(&["X: a\nY: b"]), &["line 7", "0x0A"]),
            (plus(&["X: a", " folded"]), &["header field 7", "0x20", "folded"]),
            (with(HOST, "Host : example.com"), &["header field 1 (Host)", "0x20", "its name", "position 5"]),
            (
                with(UPGRADE, "Upgrade: a\u{7F}"),
                &["header field 2 (Upgrade)", "0x7F", "its value", "position 11"],
            ),
            (plus(&["no colon"]), &["header field 6", "no colon"]),
            (plus(&[": no name"]), &["header field 6", "no name"]),
            (plus(&["X\u{E4}: a"]), &["header field 6", "0xC3", "position 2"]),
            (plus(&["X: a\r"]), &["header field 6", "0x0D", "position 5"]),
            (without(HOST), &["Host", "missing"]),
            (plus(&[HOST]), &["2 Host fields"]),
            (with(HOST, "Host: a b"), &["Host", "0x20", "position 2"]),
            (with(HOST, "Host: a:99999"), &["Host", "65535"]),
            (without(VERSION), &["Sec-WebSocket-Version", "missing", "13"]),
            (with(VERSION, "Sec-WebSocket-Version: 8"), &["Sec-WebSocket-Version is 8", "13"]),
            (
                with(VERSION, "Sec-WebSocket-Version: 13, 8"),
                &["Sec-WebSocket-Version is 13, 8: send 13 alone"],
            ),
            (with(VERSION, "Sec-WebSocket-Version: 8,13"), &["Sec-WebSocket-Version is 8,13: send 13 alone"]),
            (with(VERSION, "Sec-WebSocket-Version: 013"), &["Sec-WebSocket-Version is 013"]),
            (with(VERSION, "Sec-WebSocket-Version:"), &["Sec-WebSocket-Version is empty"]),
            (with(VERSION, "Sec-WebSocket-Version: 1<3"), &["Sec-WebSocket-Version", "0x3C at position 2"]),
            (with(VERSION, "Sec-WebSocket-Version: 13\u{E4}"), &["0xC3 at position 3"]),
            (with(VERSION, &format!("Sec-WebSocket-Version: {}", "1".repeat(33))), &["has 33 characters"]),
            (without(KEY_LINE), &["Sec-WebSocket-Key", "missing"]),
            (with(KEY_LINE, "Sec-WebSocket-Key: abc"), &["Sec-WebSocket-Key", "3 characters", "24"]),
            (plus(&[KEY_LINE]), &["2 Sec-WebSocket-Key"]),
            (without(CONNECTION), &["Connection", "proxy"]),
            (without(UPGRADE), &["Upgrade", "proxy"]),
            (plus(&["Sec-WebSocket-Protocol: a b"]), &["Sec-WebSocket-Protocol", "0x20"]),
            (plus(&["Sec-WebSocket-Protocol: a, a"]), &["Sec-WebSocket-Protocol", "twice"]),
            (plus(&["Sec-WebSocket-Protocol:"]), &["Sec-WebSocket-Protocol", "leave it out"]),
            (on("get /ws HTTP/1.1"), &["the method", "capitals"]),
            (on("POST /ws HTTP/1.1"), &["the method", "GET, HEAD or OPTIONS"]),
            (with_fields(65), &["64", "--max-head-fields"]),
            ([b'x'; 9000].to_vec(), &["8192", "--max-head-size"]),
        ],
    );
    check_sentences(
        &Rules { allowed_origins: vec!["https://a.example".into()], ..rules() },
        &[(plus(&["Origin: https://b.example"]), &["Origin", "--allowed-origin"])],
    );
    // The sentence is the content of the response.
    let row = on("GET /ws\" HTTP/1.1");
    let Step::Refused(refused) = feed(&row, &rules(), |_| usize::MAX).0 else { panic!("refused") };
    assert!(refused.response(DATE).ends_with(format!("\r\n\r\n{}\n", refused.why()).as_bytes()));
}

/// RFC 9110 §7.8: the 100 comes before the 101. §10.1.1: HTTP/1.0 has no expectations; 417 for any other.
#[test]
fn an_expectation_of_100_continue() {
    let expects = "Expect: 100-continue";
    let refused = Refused(Refusal::Expectation);
    check_all(
        &rules(),
        &[
            (plus(&[expects]), Continued),
            (plus(&["eXPECT: 100-Continue"]), Continued),
            (plus(&[expects, expects]), Continued),
            (plus(&[expects, "Content-Length: 0"]), Continued),
            (plus(&["Expect:"]), Accepted),
            (plus(&["Expect: zqxj"]), refused),
            (plus(&["Expect: 100-continue, zqxj=1"]), refused),
            (plus(&["Expect: zqxj", expects]), refused),
            (plus(&["Expect: 100-continues"]), refused),
            (page(&["Expect: zqxj"]), refused),
            // No 100 for those who get a final answer at once.
            (page(&[expects]), Page),
            (head("OPTIONS / HTTP/1.1", &[HOST, expects]), Options),
            (with(VERSION, "Sec-WebSocket-Version: 8\r\nExpect: 100-continue"), Refused(Refusal::Version)),
            (head("GET / HTTP/1.0", &[expects]), Page),
            (head("GET / HTTP/1.0", &["Expect: zqxj"]), Page),
            (head("GET /ws HTTP/1.0", &[&GOOD_LINES[..], &[expects]].concat()), Refused(Refusal::Http10)),
        ],
    );
    check_sentences(&rules(), &[(plus(&["Expect: zqxj"]), &["Expect", "100-continue"])]);
    let (step, ..) = feed(&plus(&[expects]), &rules(), |_| usize::MAX);
    let Step::Accepted { response, .. } = step else { panic!("{step:?}") };
    let (status, _) = read_response(response.strip_prefix(CONTINUE).expect("100 first"));
    assert_eq!(status, 101);
}

/// nginx' default before 1.29.7, HAProxy's and Nagios' checks.
#[test]
fn http_1_0() {
    let row = |line: &str, lines: &[&str]| head(line, lines);
    let old = Refused(Refusal::Http10);
    check_all(
        &rules(),
        &[
            (row("GET / HTTP/1.0", &[]), Page),
            (row("GET / HTTP/1.0", &["User-Agent: check_http/v2.4", "Connection: close"]), Page),
            (row("GET / HTTP/1.0", &[HOST, "Accept: text/html"]), HtmlPage),
            (row("HEAD / HTTP/1.0", &[]), HeadOfPage),
            (row("OPTIONS / HTTP/1.0", &[]), Options),
            (row("OPTIONS * HTTP/1.0", &[]), Options),
            (row("OPTIONS /ws HTTP/1.0", &[]), Options),
            (row("GET http://example.com HTTP/1.0", &[]), Page),
            (row("GET / HTTP/1.0", &["Host: a b"]), Refused(Refusal::Host)),
            (row("GET / HTTP/1.0", &["Host:"]), Refused(Refusal::Host)),
            (row("GET / HTTP/1.0", &[HOST, HOST]), Refused(Refusal::Host)),
            (row("GET / HTTP/1.0", &["Transfer-Encoding: chunked"]), Refused(Refusal::Body)),
            (row("POST / HTTP/1.0", &[]), Refused(Refusal::Method)),
            (row("GET /zqxj HTTP/1.0", &[]), Refused(Refusal::NotFound)),
            (row("GET /ws HTTP/1.0", &GOOD_LINES), old),
            // What is left of a handshake behind such a proxy: it has dropped Upgrade.
            (row("GET /ws HTTP/1.0", &[HOST, "Connection: close", KEY_LINE, VERSION]), old),
            (row("HEAD /ws HTTP/1.0", &[]), old),
            // As in HTTP/1.1, a page is a page for those who ask for an upgrade there.
            (row("GET / HTTP/1.0", &GOOD_LINES), Page),
            (row("GET /ws HTTP/1.00", &GOOD_LINES), Refused(Refusal::Malformed)),
            (row("GET / HTTP/1.1", &[]), Refused(Refusal::Host)),
        ],
    );
    let at_the_root = Rules { paths: vec!["/".into()], ..rules() };
    check_row(&row("GET / HTTP/1.0", &GOOD_LINES), &at_the_root, old);
    check_row(&row("GET / HTTP/1.0", &[]), &at_the_root, Page);
    check_sentences(
        &rules(),
        &[(row("GET /ws HTTP/1.0", &GOOD_LINES), &["HTTP/1.0", "proxy_http_version 1.1;", "health check"])],
    );
}

#[test]
fn other_versions_are_named() {
    let other = Refused(Refusal::HttpVersion);
    check_all(
        &rules(),
        &[
            (b"PRI * HTTP/2.0\r\n\r\n".to_vec(), other),
            (on("GET /ws HTTP/0.9"), other),
            (on("GET /ws HTTP/2.0"), other),
            (on("GET /ws HTTP/3.0"), other),
            (on("GET /ws HTTP/1.2"), Accepted),
            (on("GET /ws HTTP/1.9"), Accepted),
            (on("GET /ws http/1.1"), Refused(Refusal::Malformed)),
            (on("GET /ws Http/2.0"), Refused(Refusal::Malformed)),
            (on("GET /ws HTTP/2"), Refused(Refusal::Malformed)),
            (on("GET /ws HTTP/ 1.1"), Refused(Refusal::Malformed)),
            (on("GET /ws HTTP/1,1"), Refused(Refusal::Malformed)),
            (on("GET /ws HTTP/-1.1"), Refused(Refusal::Malformed)),
            (on("GET /ws HTTP/1.1\u{B9}"), Refused(Refusal::Malformed)),
        ],
    );
    check_sentences(
        &rules(),
        &[
            (b"PRI * HTTP/2.0\r\n\r\n".to_vec(), &["HTTP/2.0", "HTTP/1.1"]),
            (on("GET /ws HTTP/0.9"), &["HTTP/0.9"]),
            (on("GET /ws HTTP/3.0"), &["HTTP/3.0"]),
            (on("GET /ws HTTP/2"), &["HTTP/2 "]),
            (on("GET /ws http/1.0"), &["HTTP/1.0", "small letters"]),
        ],
    );
}

/// Uptime monitors, and browsers before a request to another origin.
#[test]
fn head_and_options() {
    let probe = ["Origin: https://a.example", "Access-Control-Request-Method: GET"];
    let with_host = |lines: &[&'static str]| [&[HOST], lines].concat();
    check_all(
        &rules(),
        &[
            (head("HEAD / HTTP/1.1", &[HOST, "Accept: text/html"]), HeadOfPage),
            (head("HEAD / HTTP/1.1", &GOOD_LINES), HeadOfPage),
            (head("HEAD /ws HTTP/1.1", &[HOST]), Refused(Refusal::NotUpgrade)),
            (head("HEAD /ws HTTP/1.1", &GOOD_LINES), Refused(Refusal::NotUpgrade)),
            (head("HEAD / HTTP/1.1", &[]), Refused(Refusal::Host)),
            (head("HEAD / HTTP/2.0", &[HOST]), Refused(Refusal::HttpVersion)),
            (head("OPTIONS / HTTP/1.1", &with_host(&probe)), Options),
            (head("OPTIONS /ws HTTP/1.1", &with_host(&probe)), Options),
            (head("OPTIONS /ws HTTP/1.1", &GOOD_LINES), Options),
            (head("OPTIONS /%77s HTTP/1.1", &[HOST]), Options),
            (head("OPTIONS * HTTP/1.1", &[]), Refused(Refusal::Host)),
            (head("OPTIONS * HTTP/1.1", &[HOST, "Content-Length: 2"]), Refused(Refusal::Body)),
            (head("POST * HTTP/1.1", &[HOST]), Refused(Refusal::Method)),
            (head("TRACE / HTTP/1.1", &[HOST]), Refused(Refusal::Method)),
            (head("DELETE /ws HTTP/1.1", &[HOST]), Refused(Refusal::Method)),
            (head("options / HTTP/1.1", &[HOST]), Refused(Refusal::Method)),
        ],
    );
    // The same headers as for GET, and the length of its content.
    for html in [false, true] {
        let get = page_response(&rules().page, html, false, DATE);
        let head = page_response(&rules().page, html, true, DATE);
        assert_eq!(read_response(&get), read_response_to(&head, true));
        assert!(get.starts_with(&head) && get.len() > head.len());
    }
    for path in ["/ws", "/nowhere"] {
        let answer = |method: &str| {
            let row = head(format!("{method} {path} HTTP/1.1"), &[HOST]);
            let Step::Refused(refused) = feed(&row, &rules(), |_| usize::MAX).0 else { panic!("refused") };
            refused.response(DATE)
        };
        assert_eq!(read_response(&answer("GET")), read_response_to(&answer("HEAD"), true));
    }
    let late = Refusal::Timeout.of(b"HEAD /").response(DATE);
    assert_eq!(read_response_to(&late, true).0, 408);
    let (status, headers) = read_response(&options_response(DATE));
    let allow: Vec<_> =
        headers.iter().filter(|(name, _)| name == "Allow").map(|(_, value)| &**value).collect();
    assert_eq!((status, &*allow), (204, &["GET, HEAD, OPTIONS"][..]));
    assert!(!headers.iter().any(|(name, _)| name.starts_with("Access-Control-")), "{headers:?}");
}

/// Heads of 12 to 16 KiB and 100 fields: cookies behind a proxy that authenticates.
#[test]
fn limits_of_a_head_that_are_set() {
    let wide = Rules { head_max: 16 << 10, fields_max: 100, ..rules() };
    let of_length = crate::support::handshakes::of_length;
    check_all(
        &wide,
        &[
            (of_length(16 << 10), Accepted),
            (of_length((16 << 10) + 1), Refused(Refusal::HeadTooLong)),
            (with_fields(100), Accepted),
            (with_fields(101), Refused(Refusal::TooManyHeaders)),
            (with_fields(400), Refused(Refusal::TooManyHeaders)),
        ],
    );
    check_sentences(
        &wide,
        &[
            (of_length((16 << 10) + 1), &["16384 bytes", "--max-head-size"]),
            (with_fields(101), &["100 header fields", "--max-head-fields"]),
        ],
    );
    let most = Rules { head_max: 64 << 10, fields_max: 512, ..rules() };
    check_all(&most, &[(with_fields(512), Accepted), (with_fields(513), Refused(Refusal::TooManyHeaders))]);
    let least = Rules { head_max: 1 << 10, fields_max: 16, ..rules() };
    check_all(
        &least,
        &[
            (of_length(1 << 10), Accepted),
            (of_length((1 << 10) + 1), Refused(Refusal::HeadTooLong)),
            (with_fields(16), Accepted),
            (with_fields(17), Refused(Refusal::TooManyHeaders)),
            // A fault behind the last field that is allowed has no say.
            (
                [&with_fields(17)[..with_fields(17).len() - 2], b": \r\n\r\n"].concat(),
                Refused(Refusal::TooManyHeaders),
            ),
        ],
    );
}

#[test]
fn any_path_is_a_socket_where_that_is_asked_for() {
    let any = Rules { paths: vec!["*".into(), "/echo".into()], ..rules() };
    check_all(
        &any,
        &[
            (on("GET /ws HTTP/1.1"), Accepted),
            (on("GET /some/other%2Fpath?q HTTP/1.1"), Accepted),
            (on("GET //ws HTTP/1.1"), Accepted),
            (on("GET / HTTP/1.1"), Accepted),
            (on("GET http://example.com HTTP/1.1"), Accepted),
            (page(&[]), Page),
            (page(&["Upgrade: h2c"]), Page),
            (head("GET / HTTP/1.1", &[HOST, UPGRADE]), Refused(Refusal::Connection)),
            (head("GET /favicon.ico HTTP/1.1", &[HOST]), Refused(Refusal::NotUpgrade)),
            (head("HEAD /x HTTP/1.1", &[HOST]), Refused(Refusal::NotUpgrade)),
            (head("OPTIONS /x HTTP/1.1", &[HOST]), Options),
            (head("GET /x HTTP/1.0", &GOOD_LINES), Refused(Refusal::Http10)),
            (head("GET / HTTP/1.0", &GOOD_LINES), Refused(Refusal::Http10)),
            (on("GET * HTTP/1.1"), Refused(Refusal::Malformed)),
            (on("GET /x\" HTTP/1.1"), Refused(Refusal::Malformed)),
            (on("POST /x HTTP/1.1"), Refused(Refusal::Method)),
        ],
    );
    // A path is not a pattern.
    let star = Rules { paths: vec!["/*".into()], ..rules() };
    check_all(
        &star,
        &[(on("GET /x HTTP/1.1"), Refused(Refusal::NotFound)), (on("GET /* HTTP/1.1"), Accepted)],
    );
}

#[test]
fn the_first_offer_is_agreed_to_where_any_is() {
    let agreed = |ours: &[&str], lines: &[&str]| {
        let rules = Rules { subprotocols: ours.iter().map(|&name| name.into()).collect(), ..rules() };
        let row = plus(lines);
        check_row(&row, &rules, Accepted);
        let Step::Accepted { response, .. } = feed(&row, &rules, |_| usize::MAX).0 else {
            panic!("accepted")
        };
        let (_, headers) = read_response(&response);
        let all: Vec<_> = headers
            .into_iter()
            .filter(|(name, _)| name == "Sec-WebSocket-Protocol")
            .map(|(_, value)| value)
            .collect();
        assert!(all.len() < 2, "{all:?}");
        all.into_iter().next()
    };
    for (ours, lines, expected) in [
        (&["*"][..], &["Sec-WebSocket-Protocol: v2, v1"][..], Some("v2")),
        (&["*"], &["Sec-WebSocket-Protocol: , ,v1", "Sec-WebSocket-Protocol: a"], Some("v1")),
        (&["*"], &["Sec-WebSocket-Protocol: *"], Some("*")),
        (&["*"], &["Sec-WebSocket-Protocol: !#$%&'*+-.^_`|~09azAZ"], Some("!#$%&'*+-.^_`|~09azAZ")),
        (&["*"], &[], None),
        (&["b", "*"], &["Sec-WebSocket-Protocol: a, b"], Some("b")),
        (&["b", "*"], &["Sec-WebSocket-Protocol: c, a"], Some("c")),
    ] {
        assert_eq!(agreed(ours, lines).as_deref(), expected, "{lines:?}");
    }
    // Nothing but a token is repeated.
    let any = Rules { subprotocols: vec!["*".into()], ..rules() };
    for byte in 0..=u8::MAX {
        let line = [b"Sec-WebSocket-Protocol: a".as_slice(), &[byte], b"b\r\n\r\n"].concat();
        let row = [&plus(&[])[..plus(&[]).len() - 2], &line].concat();
        let step = feed(&row, &any, |_| usize::MAX).0;
        let is_token = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        match step {
            Step::Accepted { response, .. } if byte == b',' => {
                assert!(memchr::memmem::find(&response, b"Protocol: a\r\n").is_some());
            }
            Step::Accepted { .. } => assert!(is_token, "0x{byte:02X}"),
            _ => assert!(!is_token, "0x{byte:02X}"),
        }
    }
    assert_eq!(accept_key(KEY.as_bytes()), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}
