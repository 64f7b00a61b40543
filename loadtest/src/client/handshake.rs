//! The client's side of the opening handshake (RFC 6455 §4.1): its key, and the answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

use crate::client::fault::Fault;
use crate::client::greeting::Greeting;
use crate::client::refused::Refused;
use crate::client::request::Request;
use crate::client::stranger;

/// A handshake whose answer is awaited.
pub(crate) struct Handshake {
    accept: String,
    subprotocols: Vec<String>,
    greetings: u32,
    head: Vec<u8>,
    /// Interim answers (1xx) that were read over.
    interim: u32,
    /// The answer is a refusal, of whose body more may come.
    refused: Option<Refused>,
}

/// What a complete head amounts to.
enum Answer {
    /// A valid 101.
    Switched,
    /// Another 1xx: the answer proper is still to come (RFC 9110 §15.2).
    Interim,
    /// Any other status.
    Refused(Refused),
}

impl Handshake {
    /// A handshake with a key of its own, and the bytes that begin it.
    pub(crate) fn new(request: &Request, random: &mut fastrand::Rng) -> (Self, Vec<u8>) {
        let mut nonce = [0; 16];
        random.fill(&mut nonce);
        let key = STANDARD.encode(nonce);
        let bytes = request.with_key(&key);
        (Self::awaiting(accept_for(&key), request.subprotocols.clone(), request.greetings), bytes)
    }

    const fn awaiting(accept: String, subprotocols: Vec<String>, greetings: u32) -> Self {
        Self { accept, subprotocols, greetings, head: Vec::new(), interim: 0, refused: None }
    }

    /// What the server sends before the first echo, if anything.
    pub(crate) fn greeting(&self) -> Option<Greeting> {
        (self.greetings > 0).then(|| Greeting::new(self.greetings))
    }

    /// Takes bytes of the answer up to its end and says how many those were; `None` when more are needed, all of
    /// `bytes` having been taken. Bytes behind the end are frames.
    ///
    /// # Errors
    ///
    /// An answer that is not a valid 101, a head longer than [`HEAD_MAX`], or more than [`INTERIM_MAX`] interim answers.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        let mut taken = 0;
        loop {
            let bytes = &bytes[taken..];
            if let Some(refused) = &mut self.refused {
                return if refused.is_complete_with(bytes) { Err(refused.fault()) } else { Ok(None) };
            }
            let had = self.head.len();
            let room = HEAD_MAX - had;
            self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
            if !is_http(&self.head) {
                let is_telling = self.head.len() >= stranger::TELLING_LEN || self.head.contains(&b'\n');
                return if is_telling { Err(stranger::fault(&self.head)) } else { Ok(None) };
            }
            let from = had.saturating_sub(END.len() - 1);
            let Some(at) = self.head[from..].windows(END.len()).position(|window| window == END) else {
                if self.head.len() == HEAD_MAX {
                    return Err(Fault::HandshakeInvalid("its head is longer than 16 KiB"));
                }
                return Ok(None);
            };
            let end = from + at + END.len();
            taken += end - had;
            match judge(&self.head[..end], &self.accept, &self.subprotocols)? {
                Answer::Switched => return Ok(Some(taken)),
                Answer::Interim if self.interim == INTERIM_MAX => {
                    return Err(Fault::HandshakeInvalid("more than 16 interim answers (1xx) came before it"));
                }
                Answer::Interim => {
                    self.interim += 1;
                    self.head.clear();
                }
                Answer::Refused(refused) => self.refused = Some(refused),
            }
        }
    }

    /// What is wrong with the answer, though not all of it has come.
    pub(crate) fn known_fault(&self) -> Option<Fault> {
        let stranger = || (!is_http(&self.head)).then(|| stranger::fault(&self.head));
        self.refused.as_ref().map(Refused::fault).or_else(stranger)
    }
}

/// The most bytes of an answer's head.
const HEAD_MAX: usize = 16 << 10;

/// The most headers of an answer.
const HEADERS_MAX: usize = 64;

/// The most interim answers before the answer proper.
const INTERIM_MAX: u32 = 16;

/// How every answer begins.
const BEGINNING: &[u8] = b"HTTP/";

const END: &[u8] = b"\r\n\r\n";

/// Whether an answer that begins so may be HTTP.
fn is_http(bytes: &[u8]) -> bool {
    bytes.iter().zip(BEGINNING).all(|(a, b)| a == b)
}

/// The accept value for a key (RFC 6455 §4.2.2). Not the one in `ringback`: a judge does not share the code of the judged.
fn accept_for(key: &str) -> String {
    let digest =
        Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    STANDARD.encode(digest)
}

/// Judges a complete head (RFC 6455 §4.1, the numbered list of what the client validates).
fn judge(head: &[u8], accept: &str, subprotocols: &[String]) -> Result<Answer, Fault> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    // Of an answer with too many headers the status is known, which tells more where it is a refusal.
    let has_all = match response.parse(head) {
        Ok(httparse::Status::Complete(_)) => true,
        Err(httparse::Error::TooManyHeaders) => false,
        Ok(httparse::Status::Partial) => return Err(stranger::malformed(head, httparse::Error::Status)),
        Err(error) => return Err(stranger::malformed(head, error)),
    };
    match response.code {
        Some(101) => {}
        Some(100..200) => return Ok(Answer::Interim),
        Some(status) => return Ok(Answer::Refused(Refused::new(status, &response))),
        None => return Err(Fault::HandshakeInvalid("it has no status")),
    }
    if !has_all {
        return Err(Fault::HandshakeInvalid("it has more than 64 headers"));
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
        return Err(Fault::HandshakeInvalid("an extension that was not offered"));
    }
    let mut selected = values(response.headers, "sec-websocket-protocol").map(<[u8]>::trim_ascii);
    match (selected.next(), selected.next()) {
        (None, _) => Ok(Answer::Switched),
        (Some(_), Some(_)) => Err(Fault::HandshakeInvalid("more than one sub-protocol")),
        (Some(one), None) if subprotocols.iter().any(|offered| offered.as_bytes() == one) => {
            Ok(Answer::Switched)
        }
        (Some(_), None) => Err(Fault::HandshakeInvalid("a sub-protocol that was not offered")),
    }
}

/// The values of the headers with this name.
pub(super) fn values<'h>(
    headers: &'h [httparse::Header<'h>],
    name: &'h str,
) -> impl Iterator<Item = &'h [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// Whether a header with this name lists the token.
pub(super) fn has_token(headers: &[httparse::Header<'_>], name: &str, token: &str) -> bool {
    values(headers, name)
        .flat_map(|value| value.split(|&byte| byte == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::fault::Refusal;

    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    fn answer(lines: &[&str]) -> Vec<u8> {
        let mut head = lines.join("\r\n").into_bytes();
        head.extend_from_slice(END);
        head
    }

    fn receive(bytes: &[u8]) -> Result<Option<usize>, Fault> {
        handshake(&[]).receive(bytes)
    }

    fn handshake(subprotocols: &[&str]) -> Handshake {
        let subprotocols = subprotocols.iter().copied().map(Into::into).collect();
        Handshake::awaiting(ACCEPT.into(), subprotocols, 0)
    }

    fn refused(told: &str) -> Fault {
        Fault::HandshakeRefused(Box::new(Refusal { status: 503, told: told.into() }))
    }

    #[test]
    fn interim_answers_are_read_over_at_every_cut_and_are_not_endless() {
        let good = answer(&[
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        ]);
        let hints = answer(&["HTTP/1.1 103 Early Hints", "Link: </style.css>; rel=preload"]);
        let interim = [answer(&["HTTP/1.1 100 Continue"]), hints.clone(), hints].concat();
        let bytes = [&interim[..], &good, b"\x89\x00"].concat();
        let end = interim.len() + good.len();
        assert_eq!(receive(&bytes), Ok(Some(end)));
        for cut in 0..end {
            let mut handshake = handshake(&[]);
            assert_eq!(handshake.receive(&bytes[..cut]), Ok(None), "cut at {cut}");
            assert_eq!(handshake.receive(&bytes[cut..]), Ok(Some(end - cut)), "cut at {cut}");
        }
        let mut by_byte = handshake(&[]);
        let taken = bytes.iter().position(|&byte| by_byte.receive(&[byte]) == Ok(Some(1)));
        assert_eq!(taken, Some(end - 1));
        let refusal = [&interim[..], &answer(&["HTTP/1.1 503 No"])].concat();
        assert_eq!(receive(&refusal), Err(refused("")));
        for (count, is_good) in [(INTERIM_MAX, true), (INTERIM_MAX + 1, false)] {
            let many = answer(&["HTTP/1.1 100 Continue"]).repeat(count as usize);
            assert_eq!(receive(&[&many[..], &good].concat()).is_ok(), is_good, "{count}");
        }
    }

    #[test]
    fn the_accept_value_of_the_rfc() {
        assert_eq!(accept_for("dGhlIHNhbXBsZSBub25jZQ=="), ACCEPT);
    }

    #[test]
    fn a_subprotocol_is_one_of_those_offered_or_none() {
        const NOT_OFFERED: Fault = Fault::HandshakeInvalid("a sub-protocol that was not offered");
        for (selected, judged) in [
            (&[][..], Ok(())),
            (&["Sec-WebSocket-Protocol: b"], Ok(())),
            (&["sec-websocket-protocol:  a "], Ok(())),
            (&["Sec-WebSocket-Protocol: B"], Err(NOT_OFFERED)),
            (&["Sec-WebSocket-Protocol: c"], Err(NOT_OFFERED)),
            (&["Sec-WebSocket-Protocol: a, b"], Err(NOT_OFFERED)),
            (&["Sec-WebSocket-Protocol:"], Err(NOT_OFFERED)),
            (
                &["Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: b"],
                Err(Fault::HandshakeInvalid("more than one sub-protocol")),
            ),
        ] {
            let good = [
                "HTTP/1.1 101 Switching Protocols",
                "Upgrade: websocket",
                "Connection: Upgrade",
                "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
            ];
            let bytes = answer(&[&good[..], selected].concat());
            let found = handshake(&["a", "b"]).receive(&bytes).map(|_| ());
            assert_eq!(found, judged, "{selected:?}");
        }
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
            let mut handshake = handshake(&[]);
            assert_eq!(handshake.receive(&bytes[..cut]), Ok(None), "cut at {cut}");
            assert_eq!(handshake.receive(&bytes[cut..]), Ok(Some(head.len() - cut)), "cut at {cut}");
        }
    }

    #[test]
    fn an_answer_that_is_no_http_is_told_once_its_first_bytes_have_come() {
        let alert = b"\x15\x03\x01\x00\x02\x02\x46";
        for cut in 0..alert.len() {
            let mut handshake = handshake(&[]);
            assert_eq!(handshake.receive(&alert[..cut]), Ok(None), "cut at {cut}");
            // The connection may end here.
            let known = (cut > 0).then(|| stranger::fault(&alert[..cut]));
            assert_eq!(handshake.known_fault(), known, "cut at {cut}");
            assert_eq!(handshake.receive(&alert[cut..]), Err(stranger::fault(alert)), "cut at {cut}");
        }
        assert_eq!(receive(b"x\n"), Err(stranger::fault(b"x\n")));
    }

    #[test]
    fn bad_answers_are_told_apart() {
        const STATUS: &str = "HTTP/1.1 101 Switching Protocols";
        const UPGRADE: &str = "Upgrade: websocket";
        const CONNECTION: &str = "Connection: Upgrade";
        const KEY: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        for (lines, fault) in [
            (&["HTTP/1.1 503 No", "Retry-After: 1"][..], refused(" (Retry-After: 1)")),
            (&["SSH-2.0-OpenSSH_9"], stranger::fault(b"SSH-2.0-OpenSSH_9")),
            (&["HTTP/1.1 1"], stranger::malformed(b"HTTP/1.1 1", httparse::Error::Status)),
            (&[STATUS, "a b: c"], stranger::malformed(STATUS.as_bytes(), httparse::Error::HeaderName)),
            (&["nonsense"], stranger::fault(b"nonsense")),
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
                Fault::HandshakeInvalid("an extension that was not offered"),
            ),
            (
                &[STATUS, UPGRADE, CONNECTION, KEY, "Sec-WebSocket-Protocol: chat"],
                Fault::HandshakeInvalid("a sub-protocol that was not offered"),
            ),
        ] {
            assert_eq!(receive(&answer(lines)), Err(fault), "{lines:?}");
        }
        let many = |status, count| {
            let good = [status, UPGRADE, CONNECTION, KEY];
            answer(&[&good[..], &vec!["X-More: 1"; count - 3]].concat())
        };
        assert!(matches!(receive(&many(STATUS, HEADERS_MAX)), Ok(Some(_))));
        let too_many = Fault::HandshakeInvalid("it has more than 64 headers");
        assert_eq!(receive(&many(STATUS, HEADERS_MAX + 1)), Err(too_many));
        assert_eq!(receive(&many("HTTP/1.1 503 No", HEADERS_MAX + 1)), Err(refused("")));
        let endless = [&b"HTTP/"[..], &[b'a'; HEAD_MAX]].concat();
        assert_eq!(receive(&endless), Err(Fault::HandshakeInvalid("its head is longer than 16 KiB")));
    }
}
