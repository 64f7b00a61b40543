//! A refused handshake: what its answer says of why, and of what to do.

use crate::client::fault::{Fault, Refusal};
use crate::client::handshake::{has_token, values};
use crate::client::words::excerpt;

/// The answer to a handshake that has another status than 101, of whose body the beginning is read.
pub(crate) struct Refused {
    status: u16,
    /// The headers that say what to do, in words.
    advice: Vec<String>,
    length: Length,
    /// The body is compressed: its bytes are no words.
    is_encoded: bool,
    body: Vec<u8>,
}

/// How long the body is.
enum Length {
    /// Nothing says so: whatever has come with the head is taken.
    Unknown,
    /// To the end of the connection.
    ToTheEnd,
    /// In bytes.
    Known(u64),
    /// In chunks (RFC 9112 §7.1).
    Chunked,
}

impl Refused {
    /// A refusal with this head.
    pub(crate) fn new(status: u16, head: &httparse::Response<'_, '_>) -> Self {
        let headers = &*head.headers;
        let advice =
            ADVICE.into_iter().filter(|&(_, of)| of.is_none_or(|of| of == status)).flat_map(|(name, _)| {
                values(headers, name)
                    .map(move |value| format!("{name}: {}", excerpt(value.trim_ascii(), VALUE_CHARS)))
            });
        let content_length = values(headers, "content-length")
            .next()
            .and_then(|value| std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok()));
        let length = match content_length {
            _ if matches!(status, 204 | 304) => Length::Known(0),
            _ if has_token(headers, "transfer-encoding", "chunked") => Length::Chunked,
            Some(length) => Length::Known(length),
            None if head.version == Some(0) || has_token(headers, "connection", "close") => Length::ToTheEnd,
            None => Length::Unknown,
        };
        let is_encoded = values(headers, "content-encoding")
            .any(|value| !value.trim_ascii().eq_ignore_ascii_case(b"identity"));
        Self { status, advice: advice.take(ADVICE_MAX).collect(), length, is_encoded, body: Vec::new() }
    }

    /// Takes further bytes of the body; whether enough has come.
    pub(crate) fn is_complete_with(&mut self, bytes: &[u8]) -> bool {
        let room = BODY_MAX - self.body.len();
        self.body.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let is_whole = match self.length {
            Length::Unknown => true,
            Length::ToTheEnd => false,
            Length::Known(length) => self.body.len() as u64 >= length,
            Length::Chunked => self.body.ends_with(LAST_CHUNK),
        };
        is_whole
            || self.is_encoded
            || self.body.len() == BODY_MAX
            || self.first_line().is_some_and(|(_, ends)| ends)
    }

    /// What it amounts to.
    pub(crate) fn fault(&self) -> Fault {
        let mut told = self.advice.clone();
        if let Some((line, _)) = self.first_line() {
            told.push(format!("\"{}\"", excerpt(line.as_bytes(), LINE_CHARS)));
        }
        let told = if told.is_empty() { String::new() } else { format!(" ({})", told.join("; ")) };
        Fault::HandshakeRefused(Box::new(Refusal { status: self.status, told }))
    }

    /// The first line of the body that has words in it, and whether its end has come. Of HTML without the tags.
    fn first_line(&self) -> Option<(String, bool)> {
        if self.is_encoded {
            return None;
        }
        let bytes = if matches!(self.length, Length::Chunked) {
            without_chunks(&self.body)
        } else {
            self.body.clone()
        };
        let text = String::from_utf8_lossy(&bytes);
        let text = if text.trim_start().starts_with('<') { without_tags(&text) } else { text.into_owned() };
        let mut lines = text.split_inclusive('\n').filter(|line| !line.trim().is_empty());
        lines.next().map(|line| (line.trim().to_owned(), line.ends_with('\n')))
    }
}

/// The data in the chunks, as far as they have come.
fn without_chunks(mut bytes: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    while let Some(at) = bytes.windows(2).position(|window| window == b"\r\n") {
        let size = bytes[..at].split(|&byte| byte == b';').next().unwrap_or_default();
        let size =
            std::str::from_utf8(size).ok().and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
        let Some(size @ 1..) = size else { break };
        let chunk = &bytes[at + 2..];
        data.extend_from_slice(&chunk[..chunk.len().min(size)]);
        bytes = chunk.get(size.saturating_add(2)..).unwrap_or_default();
    }
    data
}

/// The text between tags, each of which becomes the end of a line.
fn without_tags(html: &str) -> String {
    let mut text = String::new();
    let mut is_in_tag = false;
    for c in html.chars() {
        match c {
            '<' => {
                is_in_tag = true;
                text.push('\n');
            }
            '>' => is_in_tag = false,
            _ if is_in_tag => {}
            _ => text.push(c),
        }
    }
    text
}

/// The headers that say what to do, and the only status with which they do, if there is one.
const ADVICE: [(&str, Option<u16>); 7] = [
    ("Location", None),
    ("WWW-Authenticate", None),
    ("Proxy-Authenticate", None),
    ("Retry-After", None),
    ("Allow", Some(405)),
    ("Upgrade", Some(426)),
    ("Sec-WebSocket-Version", None),
];

/// The most headers that are told.
const ADVICE_MAX: usize = 4;

/// The most characters told of a header's value, and of the body.
const VALUE_CHARS: usize = 200;
const LINE_CHARS: usize = 100;

/// The most bytes of a body that are looked at.
const BODY_MAX: usize = 1024;

const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of an answer, fed in two pieces, cut at `cut`; `None` where more is awaited.
    fn told(answer: &str, cut: usize) -> Option<String> {
        let end = answer.find("\r\n\r\n").expect("a head") + 4;
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut head = httparse::Response::new(&mut headers);
        head.parse(&answer.as_bytes()[..end]).expect("a head");
        let mut refused = Refused::new(head.code.expect("a status"), &head);
        let body = &answer.as_bytes()[end..];
        let (first, second) = body.split_at(cut.min(body.len()));
        let is_complete = refused.is_complete_with(first) || refused.is_complete_with(second);
        let Fault::HandshakeRefused(refusal) = refused.fault() else { panic!("another fault") };
        is_complete.then_some(refusal.told)
    }

    #[test]
    fn what_an_answer_says_is_told_at_every_cut() {
        for (answer, expected) in [
            ("301 X\r\nLocation: https://h/ws\r\nContent-Length: 0\r\n\r\n", " (Location: https://h/ws)"),
            (
                "401 X\r\nwww-authenticate: Basic realm=\"a\"\r\nContent-Length: 0\r\n\r\n",
                " (WWW-Authenticate: Basic realm=\"a\")",
            ),
            (
                "407 X\r\nProxy-Authenticate: Digest\r\nContent-Length: 0\r\n\r\n",
                " (Proxy-Authenticate: Digest)",
            ),
            (
                "426 X\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13, 8\r\nContent-Length: 0\r\n\r\n",
                " (Upgrade: websocket; Sec-WebSocket-Version: 13, 8)",
            ),
            (
                "503 X\r\nRetry-After: 30\r\nContent-Length: 9\r\n\r\nfull up\r\n",
                " (Retry-After: 30; \"full up\")",
            ),
            ("500 X\r\nContent-Length: 13\r\n\r\nno line's end", " (\"no line's end\")"),
            (
                "500 X\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nd\n\r\n0\r\n\r\n",
                " (\"abcd\")",
            ),
            (
                "502 X\r\nContent-Length: 70\r\n\r\n<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>...</body></html>",
                " (\"502 Bad Gateway\")",
            ),
            ("500 X\r\nContent-Length: 12\r\n\r\na\x1b[31m\u{202e}b\r\n", " (\"a\\u{1b}[31m\\u{202e}b\")"),
            ("500 X\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\nabcdefghi", ""),
            ("204 X\r\n\r\n", ""),
        ] {
            for cut in 0..60 {
                let told = told(&format!("HTTP/1.1 {answer}"), cut).unwrap_or_else(|| panic!("{answer}"));
                assert!(told.starts_with(expected.trim_end_matches(')')), "{answer}: {told}");
            }
        }
    }

    #[test]
    fn a_body_without_a_length_is_awaited_where_the_connection_ends_it() {
        assert_eq!(told("HTTP/1.1 500 X\r\nConnection: close\r\n\r\nno end", 2), None);
        assert_eq!(told("HTTP/1.0 500 X\r\n\r\nno end", 2), None);
        assert_eq!(
            told("HTTP/1.1 500 X\r\nConnection: close\r\n\r\nan end\n", 2).as_deref(),
            Some(" (\"an end\")")
        );
        assert_eq!(told("HTTP/1.1 500 X\r\n\r\nwith the head", 99).as_deref(), Some(" (\"with the head\")"));
    }

    #[test]
    fn what_is_told_is_bounded() {
        let long = format!(
            "HTTP/1.1 302 X\r\nLocation: {}\r\nContent-Length: 9999\r\n\r\n{}",
            "x".repeat(5000),
            "y".repeat(5000)
        );
        let told = told(&long, 10).expect("enough has come");
        assert!(told.len() < 400 && told.contains("xxx…; ") && told.contains("yyy…"), "{told}");
    }
}
