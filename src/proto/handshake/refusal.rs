//! Why a request was refused, and how that is answered.

use std::borrow::Cow;

use super::super::page::{Content, METHODS, whole_response};

/// Why a request was refused, and so the status that answers it. Counters are kept by these names in snake case. The text
/// of each is what is said where there is nothing more particular to say.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::VariantArray, thiserror::Error,
)]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum Refusal {
    /// The head is not HTTP/1.1 as RFC 9112 has it.
    #[error("the request is malformed")]
    Malformed,
    /// `Host` is missing, doubled, or not a host (RFC 9112 §3.2).
    #[error("there is not exactly one valid Host field")]
    Host,
    /// The request has, or may have, a body.
    #[error("a request to this server has no body")]
    Body,
    /// `Connection` does not contain `upgrade` (RFC 6455 §4.2.1).
    #[error(
        "the Connection field does not contain \"upgrade\": send `Connection: Upgrade`; a proxy in front has to pass it on"
    )]
    Connection,
    /// `Sec-WebSocket-Key` is missing, doubled, or not the base64 of 16 bytes (RFC 6455 §4.2.1).
    #[error("there is not exactly one Sec-WebSocket-Key of 16 bytes in base64")]
    Key,
    /// `Sec-WebSocket-Version` appears more than once (RFC 6455 §11.3.5).
    #[error("there is more than one Sec-WebSocket-Version field: send one, with the value 13")]
    DoubleVersion,
    /// What `Sec-WebSocket-Protocol` offers is not a list of different tokens (RFC 6455 §4.1, item 10).
    #[error("Sec-WebSocket-Protocol is not a list of tokens, each of them once")]
    Subprotocol,
    /// `Origin` is none of those allowed (RFC 6455 §4.2.2, §10.2).
    #[error("this Origin is not allowed: --allowed-origin lists those that are")]
    Origin,
    /// Nothing is served at this path.
    #[error("nothing is served at this path: / has a page that names the path of the socket")]
    NotFound,
    /// The method is not served.
    #[error("the method is not GET, HEAD or OPTIONS")]
    Method,
    /// The deadline of the handshake has passed.
    #[error("the request did not arrive in time: --handshake-timeout says how long it may take")]
    Timeout,
    /// The client expects something other than `100-continue` (RFC 9110 §10.1.1).
    #[error("the Expect field asks for something other than 100-continue: leave it out")]
    Expectation,
    /// The request does not ask for `websocket`.
    #[error(
        "this path speaks WebSocket, and the Upgrade field does not contain \"websocket\": connect with a WebSocket client; a \
         proxy in front has to pass Upgrade and Connection on"
    )]
    NotUpgrade,
    /// `Sec-WebSocket-Version` is not 13 (RFC 6455 §4.2.2).
    #[error("the Sec-WebSocket-Version is not 13")]
    Version,
    /// An upgrade is asked for in HTTP/1.0, where there is none (RFC 9110 §7.8).
    #[error(
        "this path speaks WebSocket, which needs HTTP/1.1, and the request is HTTP/1.0: nginx needs `proxy_http_version 1.1;` \
         and has to pass Upgrade and Connection on; a health check asks for / instead"
    )]
    Http10,
    /// The head is longer than [`Rules::head_max`](super::Rules::head_max).
    #[error("the request head is too long")]
    HeadTooLong,
    /// The head has more than [`Rules::fields_max`](super::Rules::fields_max) fields.
    #[error("the request has too many header fields")]
    TooManyHeaders,
    /// There are as many connections as are allowed.
    #[error("there are too many connections, try again later")]
    Full,
    /// There are as many connections of this address as are allowed.
    #[error("there are too many connections from your address, try again later")]
    TooManyFromAddress,
    /// The budget of the process has no room for an unfinished head, or for the page.
    #[error(
        "the memory for unsent bytes and unfinished requests (--unsent-total) is used up, try again later"
    )]
    Memory,
    /// The server is about to stop.
    #[error("the server is going away")]
    Draining,
    /// The major version of HTTP is not 1 (RFC 9110 §15.6.6).
    #[error("the HTTP version is not 1.1")]
    HttpVersion,
}

/// A refusal of a request, in particular.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    cause: Refusal,
    why: Cow<'static, str>,
    is_head: bool,
}

impl Refusal {
    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed
            | Self::Host
            | Self::Body
            | Self::Connection
            | Self::Key
            | Self::DoubleVersion
            | Self::Subprotocol => 400,
            Self::Origin => 403,
            Self::NotFound => 404,
            Self::Method => 405,
            Self::Timeout => 408,
            Self::Expectation => 417,
            Self::NotUpgrade | Self::Version | Self::Http10 => 426,
            Self::HeadTooLong | Self::TooManyHeaders => 431,
            Self::Full | Self::TooManyFromAddress | Self::Memory | Self::Draining => 503,
            Self::HttpVersion => 505,
        }
    }

    /// The refusal of a request of which `head` has come so far.
    #[must_use]
    pub fn of(self, head: &[u8]) -> Refused {
        Refused::from(self).of(head)
    }

    /// The refusal, with one sentence as [`Refused::why`] gives it.
    pub(super) fn because(self, why: impl Into<Cow<'static, str>>) -> Refused {
        Refused { cause: self, why: why.into(), is_head: false }
    }
}

impl From<Refusal> for Refused {
    fn from(cause: Refusal) -> Self {
        cause.because(cause.to_string())
    }
}

impl Refused {
    /// Why.
    #[must_use]
    pub const fn cause(&self) -> Refusal {
        self.cause
    }

    /// What is wrong and what to do about it: one line of ASCII, which holds nothing that the client wrote but digits of a
    /// version.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }

    /// The same, of a request of which `head` has come: a response to HEAD has no content (RFC 9110 §9.3.2).
    pub(super) fn of(self, head: &[u8]) -> Self {
        Self { is_head: head.starts_with(b"HEAD "), ..self }
    }

    /// The whole HTTP response: the status, one line of text that says why, and `Connection: close`.
    ///
    /// `date` is the present time as RFC 9110 §5.6.7 writes it; a server with a clock has to say it (§6.6.1).
    #[must_use]
    pub fn response(&self, date: &str) -> Vec<u8> {
        let status = self.cause.status();
        let allow = format!("Allow: {METHODS}\r\n");
        let (reason, headers) = match status {
            403 => ("Forbidden", ""),
            404 => ("Not Found", ""),
            405 => ("Method Not Allowed", &*allow),
            408 => ("Request Timeout", ""),
            417 => ("Expectation Failed", ""),
            426 => ("Upgrade Required", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"),
            431 => ("Request Header Fields Too Large", ""),
            503 => ("Service Unavailable", "Retry-After: 1\r\n"),
            505 => ("HTTP Version Not Supported", ""),
            _ => ("Bad Request", ""),
        };
        let connection = if status == 426 { "Upgrade, close" } else { "close" };
        let content = Content {
            content_type: "text/plain; charset=utf-8",
            headers,
            body: &format!("{}\n", self.why),
            is_head: self.is_head,
        };
        whole_response(&format!("{status} {reason}"), connection, &content, date)
    }
}
