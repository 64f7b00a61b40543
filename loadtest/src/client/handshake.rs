//! The client's side of the opening handshake (RFC 6455 §4.1).

use std::str::FromStr;

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
    /// Those that a browser sends, in its order, but for the offer of permessage-deflate (RFC 7692): a server may take it
    /// up, and what it then sends cannot be read here.
    Browser,
}

/// What the user wants in a request beside what must be there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    /// The value of `Origin`.
    pub(crate) origin: Option<String>,
    /// The sub-protocols offered, no two alike.
    pub(crate) subprotocols: Vec<String>,
    /// Further headers, in their order.
    pub(crate) headers: Vec<ExtraHeader>,
}

/// A header of the user's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExtraHeader {
    name: String,
    value: String,
}

/// Why a text is not an [`ExtraHeader`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    /// No colon.
    #[error("it must look like 'Name: value'")]
    Form,
    /// Not a token (RFC 9110 §5.6.2).
    #[error("{0:?} is no name of a header")]
    Name(String),
    /// A control character: above all CR and LF, which would end the header.
    #[error("its value has a control character in it")]
    Value,
    /// The handshake has one of its own.
    #[error("{name} is not yours to set: {why}")]
    Taken {
        /// As the user wrote it.
        name: String,
        /// Who sets it.
        why: &'static str,
    },
}

impl FromStr for ExtraHeader {
    type Err = HeaderError;

    fn from_str(text: &str) -> Result<Self, HeaderError> {
        let (name, value) = text.split_once(':').ok_or(HeaderError::Form)?;
        if !is_token(name) {
            return Err(HeaderError::Name(name.into()));
        }
        let value = value.trim_matches([' ', '\t']);
        if value.chars().any(|c| c.is_ascii_control() && c != '\t') {
            return Err(HeaderError::Value);
        }
        match TAKEN.into_iter().find(|(taken, _)| begins_with(name, taken)) {
            Some((_, why)) => Err(HeaderError::Taken { name: name.into(), why }),
            None => Ok(Self { name: name.into(), value: value.into() }),
        }
    }
}

/// The request of every connection, but for its key.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    before_key: String,
    behind_key: String,
    subprotocols: Vec<String>,
}

impl Request {
    /// The request for this target.
    pub(crate) fn new(target: &Target, headers: Headers, wishes: &Wishes) -> Self {
        let host = target.authority();
        let default_origin = format!("http://{host}");
        let origin = wishes.origin.as_deref();
        let offer = wishes.subprotocols.join(", ");
        let offer = (!offer.is_empty()).then_some(offer.as_str());
        let mut text = format!("GET {} HTTP/1.1\r\n", target.path);
        let mut put = |name: &str, value: Option<&str>| {
            if let Some(value) = value.filter(|_| !wishes.headers.iter().any(|header| header.is(name))) {
                text.extend([name, ": ", value, "\r\n"]);
            }
        };
        match headers {
            Headers::Required => {
                put("Host", Some(&host));
                put("Upgrade", Some("websocket"));
                put("Connection", Some("Upgrade"));
                put("Origin", origin);
                put("Sec-WebSocket-Version", Some("13"));
                put("Sec-WebSocket-Protocol", offer);
            }
            Headers::Browser => {
                put("Host", Some(&host));
                put("Connection", Some("Upgrade"));
                put("Pragma", Some("no-cache"));
                put("Cache-Control", Some("no-cache"));
                put("User-Agent", Some(USER_AGENT));
                put("Upgrade", Some("websocket"));
                put("Origin", origin.or(Some(&default_origin)));
                put("Sec-WebSocket-Version", Some("13"));
                put("Accept-Encoding", Some("gzip, deflate, br, zstd"));
                put("Accept-Language", Some("en-US,en;q=0.9"));
            }
        }
        text.push_str("Sec-WebSocket-Key: ");
        let mut behind_key = String::from("\r\n");
        // As a browser does: behind the key.
        if let (Headers::Browser, Some(offer)) = (headers, offer) {
            behind_key.extend(["Sec-WebSocket-Protocol: ", offer, "\r\n"]);
        }
        for ExtraHeader { name, value } in &wishes.headers {
            behind_key.extend([name, ": ", value, "\r\n"]);
        }
        behind_key.push_str("\r\n");
        Self { before_key: text, behind_key, subprotocols: wishes.subprotocols.clone() }
    }
}

impl ExtraHeader {
    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// A handshake whose answer is awaited.
pub(crate) struct Handshake {
    accept: String,
    subprotocols: Vec<String>,
    head: Vec<u8>,
}

impl Handshake {
    /// A handshake with a key of its own, and the bytes that begin it.
    pub(crate) fn new(request: &Request, random: &mut fastrand::Rng) -> (Self, Vec<u8>) {
        let mut nonce = [0; 16];
        random.fill(&mut nonce);
        let key = STANDARD.encode(nonce);
        let bytes = [&request.before_key, key.as_str(), &request.behind_key].concat().into_bytes();
        let subprotocols = request.subprotocols.clone();
        (Self { accept: accept_for(&key), subprotocols, head: Vec::new() }, bytes)
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
            judge(&self.head[..end], &self.accept, &self.subprotocols)?;
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

/// Names, and beginnings of names, that a user cannot set, and why.
const TAKEN: [(&str, &str); 8] = [
    ("Host", "it follows from the target"),
    ("Upgrade", "the handshake has it"),
    ("Connection", "the handshake has it"),
    ("Origin", "that is what --origin is for"),
    ("Sec-WebSocket-Protocol", "that is what --subprotocol is for"),
    ("Sec-WebSocket-", "the handshake has its own"),
    ("Content-Length", "a handshake has no body"),
    ("Transfer-Encoding", "a handshake has no body"),
];

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
fn judge(head: &[u8], accept: &str, subprotocols: &[String]) -> Result<(), Fault> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    // Of an answer with too many headers the status is known, which tells more where it is a refusal.
    let has_all = match response.parse(head) {
        Ok(httparse::Status::Complete(_)) => true,
        Err(httparse::Error::TooManyHeaders) => false,
        Ok(httparse::Status::Partial) | Err(_) => return Err(Fault::HandshakeInvalid("it is not HTTP")),
    };
    match response.code {
        Some(101) => {}
        Some(status) => return Err(Fault::HandshakeRefused(status)),
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
        (None, _) => Ok(()),
        (Some(_), Some(_)) => Err(Fault::HandshakeInvalid("more than one sub-protocol")),
        (Some(one), None) if subprotocols.iter().any(|offered| offered.as_bytes() == one) => Ok(()),
        (Some(_), None) => Err(Fault::HandshakeInvalid("a sub-protocol that was not offered")),
    }
}

fn values<'h>(headers: &'h [httparse::Header<'h>], name: &'h str) -> impl Iterator<Item = &'h [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// Whether a text is a token (RFC 9110 §5.6.2).
pub(crate) fn is_token(text: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_tchar)
}

/// Whether a header's name is this one, or, where this ends with `-`, begins with it.
fn begins_with(name: &str, taken: &str) -> bool {
    match name.get(..taken.len()) {
        Some(beginning) if taken.ends_with('-') => beginning.eq_ignore_ascii_case(taken),
        _ => name.eq_ignore_ascii_case(taken),
    }
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
        handshake(&[]).receive(bytes)
    }

    fn handshake(subprotocols: &[&str]) -> Handshake {
        let subprotocols = subprotocols.iter().copied().map(Into::into).collect();
        Handshake { accept: ACCEPT.into(), subprotocols, head: Vec::new() }
    }

    /// Two requests of the same run.
    fn requests(url: &str, headers: Headers, wishes: &Wishes) -> [String; 2] {
        let request = Request::new(&url.parse().expect("valid"), headers, wishes);
        let mut random = fastrand::Rng::with_seed(1);
        [(); 2].map(|()| String::from_utf8(Handshake::new(&request, &mut random).1).expect("text"))
    }

    /// The headers of a request, which must be valid HTTP.
    fn headers_of(request: &str) -> Vec<(String, String)> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut headers);
        assert_eq!(parsed.parse(request.as_bytes()), Ok(httparse::Status::Complete(request.len())));
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).expect("text");
        parsed.headers.iter().map(|header| (header.name.into(), text(header.value))).collect()
    }

    fn names(headers: &[(String, String)]) -> String {
        headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ")
    }

    fn value<'h>(headers: &'h [(String, String)], name: &str) -> Vec<&'h str> {
        let named = headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    #[test]
    fn the_accept_value_of_the_rfc() {
        assert_eq!(accept_for("dGhlIHNhbXBsZSBub25jZQ=="), ACCEPT);
    }

    #[test]
    fn requests_have_keys_of_their_own() {
        for headers in [Headers::Required, Headers::Browser] {
            let [first, second] = requests("ws://h:9001/ws?x", headers, &Wishes::default());
            assert_ne!(first, second);
            assert!(first.starts_with("GET /ws?x HTTP/1.1\r\nHost: h:9001\r\n"), "{first}");
        }
    }

    #[test]
    fn a_browsers_request_is_valid_http_with_a_browsers_headers() {
        let [request, _] = requests("ws://h/", Headers::Browser, &Wishes::default());
        let headers = headers_of(&request);
        let expected = "Host Connection Pragma Cache-Control User-Agent Upgrade Origin Sec-WebSocket-Version \
                        Accept-Encoding Accept-Language Sec-WebSocket-Key";
        assert_eq!(names(&headers), expected);
        assert_eq!(value(&headers, "upgrade"), ["websocket"]);
        assert_eq!(value(&headers, "origin"), ["http://h"]);
    }

    #[test]
    fn wishes_are_in_the_request() {
        let wishes = Wishes {
            origin: Some("https://example.org".into()),
            subprotocols: vec!["chat".into(), "superchat".into()],
            headers: ["Cookie: a=b; c", "user-agent:me", "X-Empty:"]
                .map(|text| text.parse().expect("valid"))
                .into(),
        };
        for (headers, expected) in [
            (
                Headers::Required,
                "Host Upgrade Connection Origin Sec-WebSocket-Version Sec-WebSocket-Protocol Sec-WebSocket-Key \
                 Cookie user-agent X-Empty",
            ),
            (
                Headers::Browser,
                "Host Connection Pragma Cache-Control Upgrade Origin Sec-WebSocket-Version Accept-Encoding \
                 Accept-Language Sec-WebSocket-Key Sec-WebSocket-Protocol Cookie user-agent X-Empty",
            ),
        ] {
            let [request, _] = requests("ws://h/", headers, &wishes);
            let sent = headers_of(&request);
            assert_eq!(names(&sent), expected);
            assert_eq!(value(&sent, "Origin"), ["https://example.org"]);
            assert_eq!(value(&sent, "Sec-WebSocket-Protocol"), ["chat, superchat"]);
            assert_eq!(value(&sent, "Cookie"), ["a=b; c"]);
            assert_eq!(value(&sent, "User-Agent"), ["me"]);
            assert_eq!(value(&sent, "X-Empty"), [""]);
        }
    }

    #[test]
    fn headers_that_are_refused() {
        let taken = |name: &str, why| HeaderError::Taken { name: name.into(), why };
        for (text, error) in [
            ("Cookie", HeaderError::Form),
            (": a", HeaderError::Name("".into())),
            ("X Y: a", HeaderError::Name("X Y".into())),
            ("X\r\nEvil: a", HeaderError::Name("X\r\nEvil".into())),
            ("X: a\r\nEvil: b", HeaderError::Value),
            ("X: a\nEvil: b", HeaderError::Value),
            ("X: \0", HeaderError::Value),
            ("host: h", taken("host", "it follows from the target")),
            ("Upgrade: h2c", taken("Upgrade", "the handshake has it")),
            ("CONNECTION: close", taken("CONNECTION", "the handshake has it")),
            ("Sec-WebSocket-Key: x", taken("Sec-WebSocket-Key", "the handshake has its own")),
            (
                "sec-websocket-protocol: x",
                taken("sec-websocket-protocol", "that is what --subprotocol is for"),
            ),
            ("Origin: x", taken("Origin", "that is what --origin is for")),
            ("Content-Length: 5", taken("Content-Length", "a handshake has no body")),
        ] {
            assert_eq!(text.parse::<ExtraHeader>(), Err(error), "{text}");
        }
        assert!("Sec-Fetch-Mode: websocket".parse::<ExtraHeader>().is_ok());
        assert!("Hostess: Zoë".parse::<ExtraHeader>().is_ok());
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
        let refused = Fault::HandshakeRefused(503);
        assert_eq!(receive(&many("HTTP/1.1 503 No", HEADERS_MAX + 1)), Err(refused));
        let endless = vec![b'a'; HEAD_MAX];
        assert_eq!(receive(&endless), Err(Fault::HandshakeInvalid("its head is longer than 16 KiB")));
    }
}
