//! What `GET /` answers: to a browser a page to talk to the server with, to others a text that says how to connect.
//!
//! The page is one document that asks for nothing else: style and script stand in it, and its Content-Security-Policy
//! allows these two by their hashes and nothing beside them. They are the same for every server; its path is in an
//! attribute.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::proto::handshake::{Document, Page};

/// Both forms, for a server that speaks WebSocket at `path`.
#[must_use]
pub(super) fn page(path: &str) -> Page {
    Page { html: html(path), text: text(path) }
}

fn html(path: &str) -> Document {
    // The path comes last, so that nothing in it is taken for one of the other marks.
    let body = PAGE
        .replace("@style@", STYLE)
        .replace("@script@", SCRIPT)
        .replace("@version@", env!("CARGO_PKG_VERSION"))
        .replace("@path@", &escaped(path));
    let policy = format!(
        "default-src 'none'; script-src {script}; style-src {style}; img-src data:; connect-src ws: wss:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'",
        script = source_of(SCRIPT),
        style = source_of(STYLE),
    );
    Document {
        content_type: "text/html; charset=utf-8",
        headers: format!("Content-Security-Policy: {policy}\r\n{ISOLATION}{COMMON}"),
        body,
    }
}

fn text(path: &str) -> Document {
    let body = format!(
        "ringback {version}: a WebSocket echo server.\n\
         \n\
         It answers every message with the same message. Connect to the path {path} of this address, for instance\n\
         \n\
         \x20 from a browser: open this address\n\
         \n\
         \x20 from a shell:\n\
         \x20   websocat ws://HOST:PORT{path}\n",
        version = env!("CARGO_PKG_VERSION"),
    );
    Document { content_type: "text/plain; charset=utf-8", headers: COMMON.into(), body }
}

/// A text as HTML has it, in an attribute or between tags.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The source expression that allows an element with this text and no other (CSP Level 3 §2.3.1).
fn source_of(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)))
}

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = concat!(include_str!("page/connection.js"), include_str!("page/log.js"));

/// A page that shares its process with no other may look at a clock of 5 µs instead of 100: it measures round trips. Over
/// plain HTTP from another machine a browser ignores these and says so in its console.
const ISOLATION: &str =
    "Cross-Origin-Opener-Policy: same-origin\r\nCross-Origin-Embedder-Policy: require-corp\r\n";

/// The next version of the server has another page, and what is accepted decides about its form.
const COMMON: &str = "Cache-Control: no-cache\r\nReferrer-Policy: no-referrer\r\nVary: Accept\r\n\
                      X-Content-Type-Options: nosniff\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands between two marks, each of which is there once.
    fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
        assert_eq!((text.matches(begin).count(), text.matches(end).count()), (1, 1), "{begin} {end}");
        let (_, behind) = text.split_once(begin).expect("counted");
        behind.split_once(end).expect("counted").0
    }

    #[test]
    fn the_policy_allows_the_style_and_the_script_of_the_page() {
        let Document { headers, body, .. } = html("/ws");
        let policy = between(&headers, "Content-Security-Policy: ", "; img-src");
        for (directive, begin, end) in
            [("style-src", "<style>", "</style>"), ("script-src", "<script type=\"module\">", "</script>")]
        {
            let hash = STANDARD.encode(Sha256::digest(between(&body, begin, end)));
            assert!(policy.contains(&format!("{directive} 'sha256-{hash}'")), "{policy}");
        }
        assert!(!headers.contains("unsafe"), "{headers}");
    }

    #[test]
    fn the_page_asks_for_nothing_else() {
        let Document { body, .. } = html("/ws");
        for outside in ["src=", "http-equiv", "@import", "url(", "//cdn", "fetch(", "XMLHttpRequest"] {
            assert!(!body.contains(outside), "{outside}");
        }
        assert_eq!(body.matches("href=").count(), 1, "the icon, which is in its link");
        assert!(body.contains("href=\"data:image/svg+xml,"), "the icon, which is in its link");
    }

    #[test]
    fn the_script_makes_no_html_of_strings() {
        for sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("] {
            assert!(!SCRIPT.contains(sink), "{sink}");
        }
    }

    #[test]
    fn a_path_does_not_break_out() {
        let path = "/\"><script>alert('&')</script>@script@@style@@version@";
        let Document { body, .. } = html(path);
        let shown = "/&quot;&gt;&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;@script@@style@@version@";
        assert_eq!(body.matches(shown).count(), 2, "once as an attribute, once as text");
        assert_eq!(body.matches("<script").count(), 1);
        assert_eq!(between(&body, "<script type=\"module\">", "</script>"), SCRIPT);
        for mark in ["@path@", "@style@", "@script@", "@version@"] {
            assert!(!html("/ws").body.contains(mark), "{mark} is replaced");
        }
        assert!(text("/a<b").body.contains("ws://HOST:PORT/a<b\n"), "plain text needs no escapes");
    }
}
