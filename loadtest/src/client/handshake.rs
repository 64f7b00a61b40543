//! The client's side of the opening handshake (RFC 6455 §4.1).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

use crate::client::fault::Fault;
use crate::target::Target;

/// Which headers a request has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Headers {
    /// Those that RFC 6455 §4.1 asks for.
    Required,
    /// Those that a browser sends, in its order, permessage-deflate (RFC 7692) among them.
    Browser,
}

/// A handshake whose answer is awaited.
pub(crate) struct Handshake {
    accept: String,
    head: Vec<u8>,
}

impl Handshake {
    /// A handshake with a key of its own, and the request that begins it.
    pub(crate) fn new(target: &Target, headers: Headers, random: &mut fastrand::Rng) -> (Self, Vec<u8>) {
        let mut nonce = [0; 16];
        random.fill(&mut nonce);
        let key = STANDARD.encode(nonce);
        let (path, host) = (&target.path, target.authority());
        let request = match headers {
            Headers::Required => format!(
                "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n",
            ),
            Headers::Browser => format!(
                "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nPragma: no-cache\r\n\
                 Cache-Control: no-cache\r\nUser-Agent: {USER_AGENT}\r\nUpgrade: websocket\r\n\
                 Origin: http://{host}\r\nSec-WebSocket-Version: 13\r\n\
                 Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n\
                 Sec-WebSocket-Key: {key}\r\n\
                 Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n",
            ),
        };
        let handshake = Self { accept: accept_for(&key), head: Vec::new() };
        (handshake, request.into_bytes())
    }

    /// Takes bytes of the answer up to its end and says how many those were; `None` when more are needed, all of
    /// `bytes` having been taken. Bytes behind the end are frames.
    ///
    /// # Errors
    ///
    /// An answer that is not a valid 101, or longer than [`HEAD_MAX`].
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        let had = self.head.len();
        let room = HEAD_MAX - had;
        self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let from = had.saturating_sub(END.len() - 1);
        if let Some(at) = self.head[from..].windows(END.len()).position(|window| window == END) {
            let end = from + at + END.len();
            judge(&self.head[..end], &self.accept)?;
            return Ok(Some(end - had));
        }
        if self.head.len() == HEAD_MAX {
            return Err(Fault::HandshakeInvalid("its head is longer than 16 KiB"));
        }
        Ok(None)
    }
}

/// The most bytes of an answer's head.
const HEAD_MAX: usize = 16 << 10;

/// The most headers of an answer.
const HEADERS_MAX: usize = 64;

const END: &[u8] = b"\r\n\r\n";

/// Chrome on Linux.
const USER_AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                          Chrome/138.0.0.0 Safari/537.36";

/// The accept value for a key (RFC 6455 §4.2.2). Not the one in `ringback`: a judge does not share the code of the judged.
fn accept_for(key: &str) -> String {
    let digest =
        Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    STANDARD.encode(digest)
}

/// Judges a complete head (RFC 6455 §4.1, the numbered list of what the client validates).
fn judge(head: &[u8], accept: &str) -> Result<(), Fault> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    if !matches!(response.parse(head), Ok(httparse::Status::Complete(_))) {
        return Err(Fault::HandshakeInvalid("it is not HTTP"));
    }
    match response.code {
        Some(101) => {}
        Some(status) => return Err(Fault::HandshakeRefused(status)),
        None => return Err(Fault::HandshakeInvalid("it has no status")),
    }
    if !has_token(response.headers, "upgrade", "websocket") {
        return Err(Fault::HandshakeInvalid("no Upgrade: websocket"));
    }
    if !has_token(response.headers, "connection", "upgrade") {
        return Err(Fault::HandshakeInvalid("no Connection: Upgrade"));
    }
    let mut accepts = values(response.headers, "sec-websocket-accept");
    if accepts.next().map(<[u8]>::trim_ascii) != Some(accept.as_bytes()) || accepts.next().is_some() {
        return Err(Fault::HandshakeInvalid("Sec-WebSocket-Accept is wrong or missing"));
    }
    if values(response.headers, "sec-websocket-extensions").next().is_some() {
        return Err(Fault::HandshakeInvalid("an extension, and loadtest speaks none"));
    }
    if values(response.headers, "sec-websocket-protocol").next().is_some() {
        return Err(Fault::HandshakeInvalid("a sub-protocol that was not offered"));
    }
    Ok(())
}

fn values<'h>(headers: &'h [httparse::Header<'h>], name: &'h str) -> impl Iterator<Item = &'h [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

fn has_token(headers: &[httparse::Header<'_>], name: &str, token: &str) -> bool {
    values(headers, name)
        .flat_map(|value| value.split(|&byte| byte == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    fn answer(lines: &[&str]) -> Vec<u8> {
        let mut head = lines.join("\r\n").into_bytes();
        head.extend_from_slice(END);
        head
    }

    fn receive(bytes: &[u8]) -> Result<Option<usize>, Fault> {
        Handshake { accept: ACCEPT.into(), head: Vec::new() }.receive(bytes)
    }

    #[test]
    fn the_accept_value_of_the_rfc() {
        assert_eq!(accept_for("dGhlIHNhbXBsZSBub25jZQ=="), ACCEPT);
    }

    #[test]
    fn requests_have_keys_of_their_own() {
        let target: Target = "ws://h:9001/ws?x".parse().expect("valid");
        let mut random = fastrand::Rng::with_seed(1);
        for headers in [Headers::Required, Headers::Browser] {
            let (_, first) = Handshake::new(&target, headers, &mut random);
            let (_, second) = Handshake::new(&target, headers, &mut random);
            assert_ne!(first, second);
            let first = String::from_utf8(first).expect("text");
            assert!(first.starts_with("GET /ws?x HTTP/1.1\r\nHost: h:9001\r\n"), "{first}");
        }
    }

    #[test]
    fn a_browsers_request_is_valid_http_with_a_browsers_headers() {
        let target: Target = "ws://h/".parse().expect("valid");
        let (_, request) = Handshake::new(&target, Headers::Browser, &mut fastrand::Rng::with_seed(1));
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut headers);
        assert_eq!(parsed.parse(&request), Ok(httparse::Status::Complete(request.len())));
        let names: Vec<_> = parsed.headers.iter().map(|header| header.name).collect();
        let expected = "Host Connection Pragma Cache-Control User-Agent Upgrade Origin Sec-WebSocket-Version \
                        Accept-Encoding Accept-Language Sec-WebSocket-Key Sec-WebSocket-Extensions";
        assert_eq!(names.join(" "), expected);
        assert!(has_token(parsed.headers, "upgrade", "websocket"));
        assert!(values(parsed.headers, "origin").eq([b"http://h"]));
    }

    #[test]
    fn a_good_answer_is_taken_at_every_cut_and_frames_behind_it_are_left() {
        let head = answer(&[
            "HTTP/1.1 101 Switching Protocols",
            "upgrade: WebSocket",
            "CONNECTION: keep-alive, Upgrade",
            "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        ]);
        let mut bytes = head.clone();
        bytes.extend_from_slice(b"\x89\x00frames");
        assert_eq!(receive(&bytes), Ok(Some(head.len())));
        for cut in 0..head.len() {
            let mut handshake = Handshake { accept: ACCEPT.into(), head: Vec::new() };
            assert_eq!(handshake.receive(&bytes[..cut]), Ok(None), "cut at {cut}");
            assert_eq!(handshake.receive(&bytes[cut..]), Ok(Some(head.len() - cut)), "cut at {cut}");
        }
    }

    #[test]
    fn bad_answers_are_told_apart() {
        const STATUS: &str = "HTTP/1.1 101 Switching Protocols";
        const UPGRADE: &str = "Upgrade: websocket";
        const CONNECTION: &str = "Connection: Upgrade";
        const KEY: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        for (lines, fault) in [
            (&["HTTP/1.1 503 No", "Retry-After: 1"][..], Fault::HandshakeRefused(503)),
            (&["nonsense"], Fault::HandshakeInvalid("it is not HTTP")),
            (&[STATUS, CONNECTION, KEY], Fault::HandshakeInvalid("no Upgrade: websocket")),
            (&[STATUS, UPGRADE, KEY], Fault::HandshakeInvalid("no Connection: Upgrade")),
            (
                &[STATUS, UPGRADE, CONNECTION],
                Fault::HandshakeInvalid("Sec-WebSocket-Accept is wrong or missing"),
            ),
            (
                &[STATUS, UPGRADE, CONNECTION, "Sec-WebSocket-Accept: S3pPLMBiTxaQ9kYGzzhZRbK+xOo="],
                Fault::HandshakeInvalid("Sec-WebSocket-Accept is wrong or missing"),
            ),
            (
                &[STATUS, UPGRADE, CONNECTION, KEY, KEY],
                Fault::HandshakeInvalid("Sec-WebSocket-Accept is wrong or missing"),
            ),
            (
                &[STATUS, UPGRADE, CONNECTION, KEY, "Sec-WebSocket-Extensions: permessage-deflate"],
                Fault::HandshakeInvalid("an extension, and loadtest speaks none"),
            ),
            (
                &[STATUS, UPGRADE, CONNECTION, KEY, "Sec-WebSocket-Protocol: chat"],
                Fault::HandshakeInvalid("a sub-protocol that was not offered"),
            ),
        ] {
            assert_eq!(receive(&answer(lines)), Err(fault), "{lines:?}");
        }
        let endless = vec![b'a'; HEAD_MAX];
        assert_eq!(receive(&endless), Err(Fault::HandshakeInvalid("its head is longer than 16 KiB")));
    }
}
