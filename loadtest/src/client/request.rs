//! The request of the opening handshake (RFC 6455 §4.1), but for its key.

use std::str::FromStr;

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
    /// Further headers, in their order. One that has the name of a header below replaces it.
    pub(crate) headers: Vec<ExtraHeader>,
    /// Messages that the server sends first, unasked, on each connection.
    pub(crate) greetings: u32,
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
    /// What was offered.
    pub(super) subprotocols: Vec<String>,
    /// As in [`Wishes`].
    pub(super) greetings: u32,
}

impl Request {
    /// The request for this target.
    pub(crate) fn new(target: &Target, headers: Headers, wishes: &Wishes) -> Self {
        let own_host = wishes.headers.iter().find(|header| header.is(HOST));
        let host = own_host.map_or_else(|| target.authority(), |header| header.value.clone());
        let default_origin = format!("http://{host}");
        let origin = wishes.origin.as_deref();
        let offer = wishes.subprotocols.join(", ");
        let offer = (!offer.is_empty()).then_some(offer.as_str());
        let mut text = format!("GET {} HTTP/1.1\r\n", target.path);
        let mut put = |name: &str, value: Option<&str>| {
            let is_replaced = name != HOST && wishes.headers.iter().any(|header| header.is(name));
            if let Some(value) = value.filter(|_| !is_replaced) {
                text.extend([name, ": ", value, "\r\n"]);
            }
        };
        match headers {
            Headers::Required => {
                put(HOST, Some(&host));
                put("Upgrade", Some("websocket"));
                put("Connection", Some("Upgrade"));
                put("Origin", origin);
                put("Sec-WebSocket-Version", Some("13"));
                put("Sec-WebSocket-Protocol", offer);
            }
            Headers::Browser => {
                put(HOST, Some(&host));
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
        for ExtraHeader { name, value } in wishes.headers.iter().filter(|header| !header.is(HOST)) {
            behind_key.extend([name, ": ", value, "\r\n"]);
        }
        behind_key.push_str("\r\n");
        Self {
            before_key: text,
            behind_key,
            subprotocols: wishes.subprotocols.clone(),
            greetings: wishes.greetings,
        }
    }

    /// The bytes of the request with this key.
    pub(super) fn with_key(&self, key: &str) -> Vec<u8> {
        [&self.before_key, key, &self.behind_key].concat().into_bytes()
    }
}

impl ExtraHeader {
    /// Whether it has this name.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// The header that is first in every request.
pub(crate) const HOST: &str = "Host";

/// Names, and beginnings of names, that a user cannot set, and why.
const TAKEN: [(&str, &str); 8] = [
    ("Upgrade", "the handshake has it"),
    ("Connection", "the handshake has it"),
    ("Origin", "that is what --origin is for"),
    ("Sec-WebSocket-Protocol", "that is what --subprotocol is for"),
    ("Sec-WebSocket-Extensions", "loadtest reads no extension"),
    ("Sec-WebSocket-", "the handshake has its own"),
    ("Content-Length", "a handshake has no body"),
    ("Transfer-Encoding", "a handshake has no body"),
];

/// Chrome on Linux.
const USER_AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                          Chrome/138.0.0.0 Safari/537.36";

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::handshake::Handshake;

    /// Two requests of the same run.
    fn requests(url: &str, headers: Headers, wishes: &Wishes) -> [String; 2] {
        let request = Request::new(&url.parse().expect("valid"), headers, wishes);
        let mut random = fastrand::Rng::with_seed(1);
        [(); 2].map(|()| String::from_utf8(Handshake::new(&request, &mut random).1).expect("text"))
    }

    /// The headers of a request, which must be valid HTTP.
    fn headers_of(request: &str) -> Vec<(String, String)> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
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
            greetings: 0,
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
            ("Upgrade: h2c", taken("Upgrade", "the handshake has it")),
            ("CONNECTION: close", taken("CONNECTION", "the handshake has it")),
            (
                "Sec-WebSocket-Extensions: permessage-deflate",
                taken("Sec-WebSocket-Extensions", "loadtest reads no extension"),
            ),
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
    fn a_host_of_the_users_own_is_the_only_one_and_first() {
        let wishes =
            Wishes { headers: vec!["hOST: virtual:8080".parse().expect("valid")], ..Wishes::default() };
        for (kind, origin) in [(Headers::Required, None), (Headers::Browser, Some("http://virtual:8080"))] {
            let [request, _] = requests("ws://127.0.0.1:9001/", kind, &wishes);
            let sent = headers_of(&request);
            assert_eq!(sent[0], ("Host".into(), "virtual:8080".into()));
            assert_eq!(
                (value(&sent, "Host"), value(&sent, "Origin").first().copied()),
                (vec!["virtual:8080"], origin)
            );
        }
    }
}
