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

/// The methods that are served, on each path and by `OPTIONS *`: the value of `Allow` (RFC 9110 §10.2.1).
pub(super) const METHODS: &str = "GET, HEAD, OPTIONS";

/// The whole HTTP response with the page, as [`Step::Page`](super::handshake::Step::Page) asks for it; `date` as in
/// [`Refused::response`](super::handshake::Refused::response). For HEAD it has no content (RFC 9110 §9.3.2).
#[must_use]
pub fn page_response(page: &Page, html: bool, is_head: bool, date: &str) -> Vec<u8> {
    let Document { content_type, headers, body } = if html { &page.html } else { &page.text };
    whole_response("200 OK", "close", &Content { content_type, headers, body, is_head }, date)
}

/// The whole answer to OPTIONS (RFC 9110 §9.3.7). It allows no other origin to read anything: a WebSocket needs no
/// permission by CORS, and there is nothing else to read.
#[must_use]
pub fn options_response(date: &str) -> Vec<u8> {
    format!("HTTP/1.1 204 No Content\r\nDate: {date}\r\nConnection: close\r\nAllow: {METHODS}\r\n\r\n")
        .into_bytes()
}

/// What a response holds.
pub(super) struct Content<'a> {
    pub(super) content_type: &'a str,
    /// Further lines, each with its CR LF.
    pub(super) headers: &'a str,
    pub(super) body: &'a str,
    /// The response has the headers only.
    pub(super) is_head: bool,
}

/// A whole response after which the connection ends.
pub(super) fn whole_response(status: &str, connection: &str, content: &Content<'_>, date: &str) -> Vec<u8> {
    let &Content { content_type, headers, body, is_head } = content;
    let sent = if is_head { "" } else { body };
    let mut response = String::with_capacity(256 + headers.len() + sent.len());
    let written = write!(
        response,
        "HTTP/1.1 {status}\r\nDate: {date}\r\nConnection: {connection}\r\nContent-Length: {}\r\n\
         Content-Type: {content_type}\r\n{headers}\r\n{sent}",
        body.len()
    );
    debug_assert!(written.is_ok(), "writing to a String does not fail");
    response.into_bytes()
}
