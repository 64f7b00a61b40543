//! What a request that is well-formed gets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use super::super::fields::parse_subprotocols;
use super::head::{Occurrences, Request};
use super::refusal::{Refusal, Refused};
use super::{ANY, Rules};

/// The one protocol version that there is (RFC 6455 §4.1).
const VERSION: &str = "13";

/// The longest version of a client that is repeated to it, in bytes.
const VERSION_SHOWN_MAX: usize = 32;

/// The methods that are served.
pub(super) const METHODS: [&[u8]; 3] = [b"GET", b"HEAD", b"OPTIONS"];

pub(super) enum Answer<'a> {
    Accept {
        /// The client's.
        key: &'a [u8],
        /// The one that is agreed to, a token.
        subprotocol: Option<&'a str>,
        /// The client waits for `100 Continue`.
        expects_continue: bool,
    },
    Page {
        html: bool,
        is_head: bool,
    },
    Options,
}

/// Decides over a well-formed request, the more general reason first.
pub(super) fn answer<'a>(request: &Request<'a>, rules: &'a Rules) -> Result<Answer<'a>, Refused> {
    let is_head = match request.method {
        b"GET" | b"OPTIONS" => false,
        b"HEAD" => true,
        other => return Err(unknown_method(other)),
    };
    let is_root = request.path == b"/";
    let is_socket = rules.is_socket(request.path);
    if request.method == b"OPTIONS" {
        // `*` is the server as a whole (RFC 9110 §9.3.7).
        let is_served = is_root || is_socket || request.path == b"*";
        return if is_served { Ok(Answer::Options) } else { Err(Refusal::NotFound.into()) };
    }
    // HEAD is answered as a GET that asks for no upgrade.
    let asks = !is_head && request.upgrade;
    if is_root && !(is_socket && asks) {
        return Ok(Answer::Page { html: request.html, is_head });
    }
    if !is_socket {
        return Err(Refusal::NotFound.into());
    }
    if request.is_1_0 {
        // A proxy that speaks HTTP/1.0 drops Upgrade: whether it was there does not matter.
        return Err(Refusal::Http10.into());
    }
    if !asks {
        return Err(Refusal::NotUpgrade.into());
    }
    accept(request, rules)
}

/// Judges what RFC 6455 §4.2.1 asks of a request for an upgrade.
fn accept<'a>(request: &Request<'a>, rules: &'a Rules) -> Result<Answer<'a>, Refused> {
    if !request.connection {
        return Err(Refusal::Connection.into());
    }
    if request.versions.count > 1 {
        return Err(Refusal::DoubleVersion.into());
    }
    if request.versions.value != VERSION.as_bytes() {
        return Err(other_version(request.versions));
    }
    let key = request.keys.value;
    let mut nonce = [0; 18];
    let decoded = STANDARD.decode_slice(key, &mut nonce);
    if request.keys.count != 1 || decoded != Ok(16) {
        return Err(bad_key(request.keys));
    }
    let offered =
        parse_subprotocols(&request.offers).map_err(|fault| Refusal::Subprotocol.because(fault.why()))?;
    if !is_allowed(request.origins, &rules.allowed_origins) {
        return Err(Refusal::Origin.into());
    }
    // Where there is none in common the client decides whether to go on (RFC 6455 §4.2.2, item 5.5).
    let subprotocol = rules.subprotocols.iter().find_map(|ours| match ours.as_str() {
        ANY => offered.first(),
        ours => offered.has(ours).then_some(ours),
    });
    Ok(Answer::Accept { key, subprotocol, expects_continue: request.expects_continue })
}

#[cold]
pub(super) fn unknown_method(method: &[u8]) -> Refused {
    if METHODS.iter().any(|known| method.eq_ignore_ascii_case(known)) {
        return Refusal::Method.because("the method is not in capitals, and methods have case: send GET");
    }
    Refusal::Method.because("the method is not GET, HEAD or OPTIONS: a WebSocket handshake is a GET")
}

#[cold]
fn other_version(versions: Occurrences<'_>) -> Refused {
    let value = versions.value;
    let bad = value.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b',' | b' '));
    Refusal::Version.because(match (versions.count, bad.and_then(|at| Some((at, value.get(at)?)))) {
        (0, _) => "the Sec-WebSocket-Version field is missing: send 13".to_owned(),
        (_, Some((at, byte))) => {
            format!("the Sec-WebSocket-Version has the byte 0x{byte:02X} at position {}: send 13", at + 1)
        }
        // Digits, commas and spaces are safe to repeat.
        _ => match str::from_utf8(value) {
            Ok("") => "the Sec-WebSocket-Version is empty: send 13".to_owned(),
            Ok(shown) if shown.len() <= VERSION_SHOWN_MAX => {
                format!("the Sec-WebSocket-Version is {shown}: send 13 alone, as RFC 6455 has it")
            }
            _ => format!("the Sec-WebSocket-Version has {} characters: send 13", value.len()),
        },
    })
}

#[cold]
fn bad_key(keys: Occurrences<'_>) -> Refused {
    let form = "send 16 random bytes in base64: 24 characters, the last two `==`";
    Refusal::Key.because(match (keys.count, keys.value.len()) {
        (0, _) => format!("the Sec-WebSocket-Key field is missing: {form}"),
        (1, 24) => format!("the Sec-WebSocket-Key is not the canonical base64 of 16 bytes: {form}"),
        (1, len) => format!("the Sec-WebSocket-Key has {len} characters: {form}"),
        (count, _) => format!("there are {count} Sec-WebSocket-Key fields: send exactly one"),
    })
}

/// Whoever sends no `Origin` is not a browser and needs no permission.
fn is_allowed(origins: Occurrences<'_>, allowed: &[String]) -> bool {
    let is_listed = || allowed.iter().any(|allowed| allowed.as_bytes() == origins.value);
    allowed.is_empty() || origins.count == 0 || origins.count == 1 && is_listed()
}

/// The value of `Sec-WebSocket-Accept` for a key: both in base64 (RFC 6455 §4.2.2).
#[must_use]
pub fn accept_key(key: &[u8]) -> String {
    let mut sha1 = Sha1::new();
    sha1.update(key);
    sha1.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(sha1.finalize())
}

/// The 101 response. A client that waits for it gets `100 Continue` first (RFC 9110 §7.8).
pub(super) fn accept_response(key: &[u8], subprotocol: Option<&str>, expects_continue: bool) -> Vec<u8> {
    let accept = accept_key(key);
    let first = if expects_continue { "HTTP/1.1 100 Continue\r\n\r\n" } else { "" };
    let (before, name, after) =
        subprotocol.map_or(("", "", ""), |name| ("Sec-WebSocket-Protocol: ", name, "\r\n"));
    format!(
        "{first}HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{before}{name}{after}\r\n"
    )
    .into_bytes()
}
