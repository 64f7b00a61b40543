//! What a plain GET of `/` is answered by, and how any answer but a 101 is written.

use std::fmt::Write as _;

/// What `GET /` answers, in two forms.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// For a browser: whoever accepts `text/html` by name.
    pub html: Document,
    /// For everybody else.
    pub text: Document,
}

/// One form of the page.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// The value of `Content-Type`.
    pub content_type: &'static str,
    /// Further header lines, each with its CR LF.
    pub headers: String,
    /// The content.
    pub body: String,
}

/// The whole HTTP response with the page, as [`Step::Page`](super::handshake::Step::Page) asks for it; `date` as in
/// [`Refusal::response`](super::handshake::Refusal::response).
#[must_use]
pub fn page_response(page: &Page, html: bool, date: &str) -> Vec<u8> {
    let Document { content_type, headers, body } = if html { &page.html } else { &page.text };
    whole_response("200 OK", "close", content_type, headers, date, body)
}

/// A whole response after which the connection ends; `headers` are further lines, each with its CR LF.
pub(super) fn whole_response(
    status: &str,
    connection: &str,
    content_type: &str,
    headers: &str,
    date: &str,
    body: &str,
) -> Vec<u8> {
    let mut response = String::with_capacity(256 + headers.len() + body.len());
    let written = write!(
        response,
        "HTTP/1.1 {status}\r\nDate: {date}\r\nConnection: {connection}\r\nContent-Length: {}\r\n\
         Content-Type: {content_type}\r\n{headers}\r\n{body}",
        body.len()
    );
    debug_assert!(written.is_ok(), "writing to a String does not fail");
    response.into_bytes()
}

/// Whether an `Accept` names `text/html`, with a weight other than 0 (RFC 9110 §12.5.1). `*/*` is what a client sends that
/// would show it as it is.
pub(super) fn accepts_html(list: &[u8]) -> bool {
    list.split(|&byte| byte == b',').any(|range| {
        let mut parts = range.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
        let is_html = parts.next().is_some_and(|range| range.eq_ignore_ascii_case(b"text/html"));
        let is_refused = |part: &[u8]| match part {
            [b'q' | b'Q', b'=', weight @ ..] => weight.iter().all(|byte| matches!(byte, b'0' | b'.')),
            _ => false,
        };
        is_html && !parts.any(is_refused)
    })
}
