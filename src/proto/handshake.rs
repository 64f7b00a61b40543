//! The opening handshake (RFC 6455 §4.2), and the refusal of everything else that HTTP lets through.
//!
//! The order of calls: [`Handshake::receive`] with what has arrived until it gives a [`Step`] other than `More`.

mod answer;
mod head;
mod refusal;
mod target;

use std::ops::RangeInclusive;
use std::rc::Rc;

use super::fields::is_token_byte;
pub use super::page::{Document, Page, options_response, page_response};
use crate::memory::{Budget, Charge};
pub use answer::accept_key;
use answer::{Answer, accept_response, answer};
pub use refusal::{Refusal, Refused};

/// The longest head by default, in bytes, up to and with its empty line.
pub const HEAD_MAX: usize = 8 << 10;

/// What [`Rules::head_max`] may be.
pub const HEAD_MAX_RANGE: RangeInclusive<usize> = 1 << 10..=64 << 10;

/// The most header fields of a head by default.
pub const HEADERS_MAX: usize = 64;

/// What [`Rules::fields_max`] may be.
pub const HEADERS_MAX_RANGE: RangeInclusive<usize> = 16..=512;

/// Stands for any path in [`Rules::paths`], and for any name in [`Rules::subprotocols`].
pub const ANY: &str = "*";

/// What a server takes.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The paths on which WebSocket is spoken, without the query; [`ANY`] for all. Equivalent paths are the same
    /// (RFC 3986 §6.2.2).
    pub paths: Vec<String>,
    /// The sub-protocols that are agreed to, the preferred one first: tokens, compared byte for byte; [`ANY`] for the first
    /// one that a client offers.
    pub subprotocols: Vec<String>,
    /// What `GET /` answers.
    pub page: Page,
    /// The origins that a browser's page may have, compared byte for byte; empty for any (RFC 6455 §10.2).
    pub allowed_origins: Vec<String>,
    /// The longest head, in bytes, up to and with its empty line.
    pub head_max: usize,
    /// The most header fields of a head.
    pub fields_max: usize,
}

impl Default for Rules {
    /// WebSocket on `/ws`, for any origin, without sub-protocols, and an empty page.
    fn default() -> Self {
        Self {
            paths: vec!["/ws".into()],
            subprotocols: Vec::new(),
            page: Page::default(),
            allowed_origins: Vec::new(),
            head_max: HEAD_MAX,
            fields_max: HEADERS_MAX,
        }
    }
}

impl Rules {
    fn is_socket(&self, path: &[u8]) -> bool {
        self.paths.iter().any(|ours| ours == ANY || target::is_same_path(ours.as_bytes(), path))
    }
}

/// The server's side of one handshake.
#[derive(Debug, Default)]
pub struct Handshake {
    /// The head so far, where it comes in pieces.
    unfinished: Option<Box<Unfinished>>,
    /// How many bytes were looked at in search of the end; for tests.
    #[cfg(test)]
    looked_at: usize,
}

/// A head that is not complete: there is no end in it.
#[derive(Debug)]
struct Unfinished {
    bytes: Vec<u8>,
    charge: Charge,
}

/// What came of the bytes so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The head is not complete.
    More,
    /// A good handshake: send `response`; then the first frames begin behind the `consumed` bytes of the last piece.
    Accepted {
        /// The 101 response, with `100 Continue` before it where the client waits for that.
        response: Vec<u8>,
        /// How many bytes of the last piece belong to the head.
        consumed: usize,
    },
    /// A request for the page: send [`page_response`], then end the connection.
    Page {
        /// Whether it is a browser's, and so answered by [`Page::html`].
        html: bool,
        /// The request is HEAD: its response has no content.
        is_head: bool,
    },
    /// A question for the methods that are served: send [`options_response`], then end the connection.
    Options,
    /// Not a handshake: send [`Refused::response`], then end the connection. Nothing behind it is parsed.
    Refused(Refused),
}

impl Handshake {
    /// A handshake of which nothing has arrived.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the request, and whatever is behind it. What has to be kept until more comes is charged to
    /// `budget`.
    pub fn receive(&mut self, piece: &[u8], rules: &Rules, budget: &Rc<Budget>) -> Step {
        let before = self.unfinished.as_ref().map_or(0, |unfinished| unfinished.bytes.len());
        // What lies behind the limit is not looked at, so that it does not matter how much has come at once.
        let room = rules.head_max.saturating_sub(before).min(piece.len());
        let within = piece.get(..room).unwrap_or_default();
        let all = match &mut self.unfinished {
            None => within,
            Some(unfinished) => {
                if !unfinished.extend(within, rules.head_max) {
                    return Step::Refused(Refusal::Memory.of(&unfinished.bytes));
                }
                &unfinished.bytes
            }
        };
        let searched = find_end(all, before);
        #[cfg(test)]
        {
            self.looked_at += all.len() - before;
        }
        let refused = match searched {
            Ok(Some(end)) => match judge(all.get(..end).unwrap_or_default(), rules, end - before) {
                Ok(step) => {
                    self.unfinished = None;
                    return step;
                }
                Err(refused) => refused,
            },
            Ok(None) if all.len() < rules.head_max => {
                if before == 0 {
                    self.unfinished = Unfinished::begin(within, budget);
                    if self.unfinished.is_none() {
                        return Step::Refused(Refusal::Memory.of(within));
                    }
                }
                return Step::More;
            }
            Ok(None) => Refusal::HeadTooLong.because(format!(
                "the request head is longer than {} bytes: send less, such as fewer cookies, or raise --max-head-size",
                rules.head_max
            )),
            Err(refused) => refused,
        };
        Step::Refused(refused.of(all))
    }

    /// The most bytes that a handshake is charged for, where a head has `head_max` bytes at most.
    #[must_use]
    pub const fn held_max(head_max: usize) -> usize {
        size_of::<Unfinished>() + head_max
    }

    /// Whether nothing has come of the request.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unfinished.is_none()
    }

    /// What has come of the head, where `piece` is what came last: for whoever logs a refusal.
    #[must_use]
    pub fn seen<'a>(&'a self, piece: &'a [u8]) -> &'a [u8] {
        self.unfinished.as_ref().map_or(piece, |unfinished| &unfinished.bytes)
    }
}

impl Unfinished {
    /// `None` when the budget has no room for it.
    fn begin(bytes: &[u8], budget: &Rc<Budget>) -> Option<Box<Self>> {
        let charge = budget.try_charge(size_of::<Self>() + bytes.len())?;
        Some(Box::new(Self { bytes: bytes.to_vec(), charge }))
    }

    /// Adds what has come. `false` when the budget has no room for it.
    fn extend(&mut self, more: &[u8], max: usize) -> bool {
        let needed = self.bytes.len() + more.len();
        let capacity = self.bytes.capacity();
        if needed > capacity {
            // Twice as much each time, so that little is copied.
            let grown = needed.max(2 * capacity).min(max);
            if !self.charge.try_grow(grown.saturating_sub(capacity)) {
                return false;
            }
            self.bytes.reserve_exact(grown.saturating_sub(self.bytes.len()));
        }
        self.bytes.extend_from_slice(more);
        true
    }
}

/// Where the head ends, if it does; its first `scanned` bytes were searched before. A line that does not end in CR LF
/// and an empty first line are refused as soon as they are seen.
fn find_end(bytes: &[u8], scanned: usize) -> Result<Option<usize>, Refused> {
    if scanned == 0
        && let Some(&first) = bytes.first().filter(|&&first| !is_token_byte(first))
    {
        return Err(bad_beginning(first));
    }
    let unseen = bytes.get(scanned..).unwrap_or_default();
    for newline in memchr::memchr_iter(b'\n', unseen) {
        let line = bytes.get(..scanned + newline).unwrap_or_default();
        match line {
            [.., b'\n', b'\r'] => return Ok(Some(line.len() + 1)),
            [.., b'\r'] => {}
            _ => return Err(bare_newline(line)),
        }
    }
    Ok(None)
}

#[cold]
fn bad_beginning(first: u8) -> Refused {
    Refusal::Malformed.because(match first {
        // The answer does not wait for more, so that it is the same however the bytes are cut.
        b'\r' => "an empty line (the byte 0x0D) stands before the request: begin with the method, or start the server with \
                  --proxy-protocol v2 if this is a PROXY header"
            .to_owned(),
        b'\n' => "an empty line (the byte 0x0A) stands before the request: begin with the method".to_owned(),
        0x16 => "the connection begins with the byte 0x16, as TLS does: use ws:// and http:// here, or a proxy that ends TLS"
            .to_owned(),
        _ => format!("the request begins with the byte 0x{first:02X}: begin with the method, such as GET"),
    })
}

/// `before` is what comes before a LF that has no CR.
#[cold]
fn bare_newline(before: &[u8]) -> Refused {
    let number = memchr::memchr_iter(b'\n', before).count() + 1;
    Refusal::Malformed.because(format!(
        "line {number} of the request ends in the byte 0x0A alone: end each line with 0x0D 0x0A"
    ))
}

/// Judges a complete head of which the last `consumed` bytes were in the last piece.
fn judge(head: &[u8], rules: &Rules, consumed: usize) -> Result<Step, Refused> {
    let request = head::parse(head, rules.fields_max)?;
    Ok(match answer(&request, rules)? {
        Answer::Accept { key, subprotocol, expects_continue } => {
            Step::Accepted { response: accept_response(key, subprotocol, expects_continue), consumed }
        }
        Answer::Page { html, is_head } => Step::Page { html, is_head },
        Answer::Options => Step::Options,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::{Total, Usage};

    fn budget() -> Rc<Budget> {
        Budget::new(Total::new(1 << 20))
    }

    const GOOD: &str = "GET /ws HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

    #[test]
    fn the_sample_of_the_rfc_is_accepted() {
        let step = Handshake::new().receive(GOOD.as_bytes(), &Rules::default(), &budget());
        let Step::Accepted { response, consumed } = step else { panic!("{step:?}") };
        assert_eq!(consumed, GOOD.len());
        let response = String::from_utf8(response).unwrap();
        assert!(response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{response}");
    }

    #[test]
    fn fed_byte_by_byte_each_byte_is_looked_at_once() {
        let (rules, budget) = (Rules::default(), budget());
        let mut handshake = Handshake::new();
        let (last, rest) = GOOD.as_bytes().split_last().unwrap();
        for byte in rest {
            assert_eq!(handshake.receive(std::slice::from_ref(byte), &rules, &budget), Step::More);
        }
        let step = handshake.receive(&[*last, 0x81], &rules, &budget);
        assert!(matches!(step, Step::Accepted { consumed: 1, .. }), "{step:?}");
        assert!(handshake.looked_at <= 2 * GOOD.len(), "{} bytes", handshake.looked_at);
    }

    #[test]
    fn a_head_of_exactly_the_limit_is_taken_and_one_byte_more_is_not() {
        let budget = budget();
        for (head_max, over, accepted) in [
            (HEAD_MAX, 0, true),
            (HEAD_MAX, 1, false),
            (1 << 10, 0, true),
            (64 << 10, 0, true),
            (64 << 10, 1, false),
        ] {
            let rules = Rules { head_max, ..Rules::default() };
            let filler = "x".repeat(head_max + over - GOOD.len() - "X: \r\n".len());
            let head = GOOD.replacen("Host", &format!("X: {filler}\r\nHost"), 1);
            let whole = Handshake::new().receive(head.as_bytes(), &rules, &budget);
            assert_eq!(matches!(whole, Step::Accepted { .. }), accepted);
            let mut handshake = Handshake::new();
            let mut step = Step::More;
            for byte in head.as_bytes() {
                step = handshake.receive(std::slice::from_ref(byte), &rules, &budget);
                if step != Step::More {
                    break;
                }
            }
            assert!(handshake.looked_at <= 2 * head.len(), "{} bytes", handshake.looked_at);
            assert_eq!(matches!(step, Step::Accepted { .. }), accepted);
            if let Step::Refused(refused) = step {
                assert_eq!(refused.cause(), Refusal::HeadTooLong);
                assert!(refused.why().contains(&format!(" {head_max} bytes")), "{}", refused.why());
                assert!(refused.why().contains("--max-head-size"), "{}", refused.why());
            }
        }
    }

    #[test]
    fn an_unfinished_head_is_charged_as_it_grows_and_refused_where_there_is_no_room() {
        let (total, usage) = (Total::new(1000), Arc::<Usage>::default());
        let budget = Budget::told(Arc::clone(&total), Arc::clone(&usage));
        let rules = Rules { head_max: 64 << 10, ..Rules::default() };
        let mut first = Handshake::new();
        for come in 1..=250 {
            assert_eq!(first.receive(b"x", &rules, &budget), Step::More);
            assert!((come..=64 + 2 * come).contains(&usage.get()), "{} bytes for {come}", usage.get());
        }
        let mut second = Handshake::new();
        assert_eq!(second.receive(b"HEAD ", &rules, &budget), Step::More);
        let Step::Refused(refused) = second.receive(&[b'x'; 800], &rules, &budget) else {
            panic!("it has no room")
        };
        assert_eq!((refused.cause(), refused.cause().status()), (Refusal::Memory, 503));
        assert!(refused.response("").ends_with(b"\r\n\r\n"), "a response to HEAD has no content");
        let step = Handshake::new().receive(&[b'x'; 800], &rules, &budget);
        assert!(matches!(&step, Step::Refused(refused) if refused.cause() == Refusal::Memory), "{step:?}");
        // A head that comes whole takes none.
        let step = Handshake::new().receive(GOOD.as_bytes(), &rules, &budget);
        assert!(matches!(step, Step::Accepted { .. }), "{step:?}");
        drop((first, second));
        assert_eq!(usage.get(), 0);
    }
}
