//! The page without a browser.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::common::Server;
use crate::on_each_engine;

on_each_engine! {
    a_browser_gets_html_that_its_policy_allows,
    a_shell_gets_text,
    a_path_is_data,
    a_page_is_not_for_other_methods,
    head_is_answered_as_get_without_the_content,
    options_says_what_is_served,
}

fn a_browser_gets_html_that_its_policy_allows(engine: &str) {
    let server = Server::start(engine, &[]);
    let (head, body) =
        get(&server, "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    for (name, value) in [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Length", &body.len().to_string()),
        ("Cache-Control", "no-cache"),
        ("Connection", "close"),
        ("Cross-Origin-Embedder-Policy", "require-corp"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Referrer-Policy", "no-referrer"),
        ("Vary", "Accept"),
        ("X-Content-Type-Options", "nosniff"),
    ] {
        assert_eq!(header(&head, name), value, "{name}");
    }
    let directives: Vec<_> = header(&head, "Content-Security-Policy").split("; ").collect();
    assert_eq!(
        directives,
        [
            "default-src 'none'",
            &format!("script-src {}", source_of(between(&body, "<script type=\"module\">", "</script>"))),
            &format!("style-src {}", source_of(between(&body, "<style>", "</style>"))),
            "img-src data:",
            "connect-src ws: wss:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    );
}

fn a_shell_gets_text(engine: &str) {
    let server = Server::start(engine, &["--path", "/echo"]);
    for accept in ["Accept: */*", "X: y"] {
        let (head, body) = get(&server, accept);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert_eq!(header(&head, "Content-Type"), "text/plain; charset=utf-8");
        assert_eq!(header(&head, "Vary"), "Accept");
        assert!(body.contains("websocat ws://HOST:PORT/echo\n"), "{body}");
        assert!(!body.contains("<html"), "{body}");
    }
}

fn a_path_is_data(engine: &str) {
    let server = Server::start(engine, &["--path", "/\"><script>alert('&')</script>@script@"]);
    let (head, body) = get(&server, "Accept: text/html");
    assert_eq!(header(&head, "Content-Length"), body.len().to_string());
    let escaped = "/&quot;&gt;&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;@script@";
    assert!(body.contains(&format!("<meta name=\"socket-path\" content=\"{escaped}\">")), "{body}");
    assert_eq!(body.matches("<script").count(), 1);
}

fn a_page_is_not_for_other_methods(engine: &str) {
    let server = Server::start(engine, &[]);
    for method in ["POST", "PUT", "TRACE"] {
        let (head, body) =
            ask(&server, &format!("{method} / HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n"));
        assert!(head.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{head}");
        assert_eq!(header(&head, "Allow"), "GET, HEAD, OPTIONS");
        assert!(!body.is_empty());
    }
}

fn head_is_answered_as_get_without_the_content(engine: &str) {
    let server = Server::start(engine, &[]);
    for line in ["Accept: text/html", "Accept: */*"] {
        for version in ["1.1", "1.0"] {
            let request = |method: &str| format!("{method} / HTTP/{version}\r\nHost: a\r\n{line}\r\n\r\n");
            let (of_get, body) = ask(&server, &request("GET"));
            let (of_head, nothing) = ask(&server, &request("HEAD"));
            let without_date = |head: &str| head.replace(header(head, "Date"), "");
            assert_eq!(without_date(&of_head), without_date(&of_get));
            assert_eq!((header(&of_head, "Content-Length"), &*nothing), (&*body.len().to_string(), ""));
        }
    }
    assert_eq!(server.counter("pages"), 8);
}

fn options_says_what_is_served(engine: &str) {
    let server = Server::start(engine, &[]);
    let probe = "Host: a\r\nOrigin: https://a.example\r\nAccess-Control-Request-Method: GET\r\n";
    for request in ["/ HTTP/1.1", "/ws HTTP/1.1", "* HTTP/1.1", "/ HTTP/1.0", "/ws HTTP/1.0"] {
        let (head, body) = ask(&server, &format!("OPTIONS {request}\r\n{probe}\r\n"));
        assert!(head.starts_with("HTTP/1.1 204 No Content\r\n"), "{head}");
        assert_eq!((header(&head, "Allow"), &*body), ("GET, HEAD, OPTIONS", ""));
        assert!(!head.contains("Content-Length") && !head.contains("Access-Control-"), "{head}");
    }
    assert_eq!((server.counter("options"), server.counter("refusals")), (5, 0));
}

/// Head and body of the answer to a request for the page with this line.
fn get(server: &Server, line: &str) -> (String, String) {
    ask(server, &format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n"))
}

fn ask(server: &Server, request: &str) -> (String, String) {
    let mut client = server.connect_raw();
    client.send_bytes(request.as_bytes());
    let answer = String::from_utf8(client.read_to_end()).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an empty line");
    (format!("{head}\r\n"), body.to_owned())
}

/// The value of a header that is there once.
fn header<'a>(head: &'a str, name: &str) -> &'a str {
    between(head, &format!("\r\n{name}: "), "\r\n")
}

/// What stands between `begin`, which is there once, and the next `end`.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    assert_eq!(text.matches(begin).count(), 1, "{begin} in {text}");
    let (_, behind) = text.split_once(begin).expect("counted");
    behind.split_once(end).expect("an end").0
}

fn source_of(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)))
}
