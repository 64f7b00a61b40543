//! Requests, and what comes of them: each row alone, with bytes behind it, cut at every byte and byte by byte.

use ringback::memory::{Budget, Total};
use ringback::proto::handshake::{
    Document, Handshake, Page as Forms, Refusal, Rules, Step, options_response, page_response,
};

use Outcome::{Accepted, Continued, HeadOfPage, HtmlPage, Options, Page, Refused};

/// What a row of the table must lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Accepted,
    /// The same, behind `100 Continue`.
    Continued,
    /// In plain text.
    Page,
    /// In HTML.
    HtmlPage,
    /// Either, without its content.
    HeadOfPage,
    /// The methods that are served.
    Options,
    Refused(Refusal),
}

pub(crate) const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const HOST: &str = "Host: example.com";
pub(crate) const UPGRADE: &str = "Upgrade: websocket";
pub(crate) const CONNECTION: &str = "Connection: Upgrade";
pub(crate) const KEY_LINE: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const VERSION: &str = "Sec-WebSocket-Version: 13";

/// Stands in many requests and in no response: nothing of the client's is echoed.
pub(crate) const MARK: &str = "zqxj";

pub(crate) fn rules() -> Rules {
    let form =
        |content_type, body: &str| Document { content_type, headers: String::new(), body: body.into() };
    let page = Forms { html: form("text/html", "<p>the page\n"), text: form("text/plain", "the page\n") };
    Rules { page, ..Rules::default() }
}

/// A head of this request line and these lines.
pub(crate) fn head(request_line: impl AsRef<[u8]>, lines: &[&str]) -> Vec<u8> {
    let mut head = [request_line.as_ref(), b"\r\n"].concat();
    for line in lines {
        head.extend_from_slice(line.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

pub(crate) const GOOD_LINES: [&str; 5] = [HOST, UPGRADE, CONNECTION, KEY_LINE, VERSION];

/// A good request on another request line.
pub(crate) fn on(request_line: impl AsRef<[u8]>) -> Vec<u8> {
    head(request_line, &GOOD_LINES)
}

/// A request for the page with this `Accept`.
pub(crate) fn accepting(list: &str) -> Vec<u8> {
    head("GET / HTTP/1.1", &[HOST, &format!("Accept: {list}")])
}

/// A good request with `line` in the place of `instead_of`.
pub(crate) fn with(instead_of: &str, line: &str) -> Vec<u8> {
    let lines = GOOD_LINES.map(|good| if good == instead_of { line } else { good });
    head("GET /ws HTTP/1.1", &lines)
}

/// A good request without `line`.
pub(crate) fn without(line: &str) -> Vec<u8> {
    let lines: Vec<&str> = GOOD_LINES.into_iter().filter(|&good| good != line).collect();
    head("GET /ws HTTP/1.1", &lines)
}

/// A good request and further lines behind it.
pub(crate) fn plus(lines: &[&str]) -> Vec<u8> {
    head("GET /ws HTTP/1.1", &[&GOOD_LINES[..], lines].concat())
}

/// A good request with so many fields in all.
pub(crate) fn with_fields(count: usize) -> Vec<u8> {
    let more: Vec<String> = (GOOD_LINES.len()..count).map(|i| format!("X-{i}: {MARK}")).collect();
    plus(&more.iter().map(String::as_str).collect::<Vec<_>>())
}

/// A good request that is so long.
pub(crate) fn of_length(len: usize) -> Vec<u8> {
    let filler = "x".repeat(len - plus(&["X: "]).len());
    plus(&[&format!("X: {filler}")])
}

/// Feeds a stream in pieces, the next being as long as `piece_len` says of what was fed, up to the first step that
/// is not `More`. Gives that step, how much was fed before its piece, and the length of that piece.
pub(crate) fn feed(stream: &[u8], rules: &Rules, piece_len: impl Fn(usize) -> usize) -> (Step, usize, usize) {
    let budget = Budget::new(Total::new(1 << 20));
    let mut handshake = Handshake::new();
    let mut at = 0;
    while at < stream.len() {
        let len = piece_len(at).min(stream.len() - at);
        match handshake.receive(&stream[at..at + len], rules, &budget) {
            Step::More => at += len,
            step => return (step, at, len),
        }
    }
    (Step::More, at, 0)
}

pub(crate) fn outcome_of(step: &Step) -> Option<Outcome> {
    match step {
        Step::More => None,
        Step::Accepted { response, .. } if response.starts_with(CONTINUE) => Some(Continued),
        Step::Accepted { .. } => Some(Accepted),
        Step::Page { is_head: true, .. } => Some(HeadOfPage),
        Step::Page { html: false, .. } => Some(Page),
        Step::Page { html: true, .. } => Some(HtmlPage),
        Step::Options => Some(Options),
        Step::Refused(refused) => Some(Refused(refused.cause())),
    }
}

pub(crate) fn check_row(row: &[u8], rules: &Rules, expected: Outcome) {
    let behind = [&b"\x81\x81abcd\x00"[..], b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n", &[b'z'; 300]].concat();
    let followed = [row, &behind].concat();
    // The long rows are cut at some places only: each byte of them is looked at for each cut.
    let stride = if row.len() > 1000 { 131 } else { 1 };
    for stream in [row, &followed] {
        check_fed(stream, row.len(), rules, expected, |_| usize::MAX);
        for len in [1, 2, 3, 100] {
            check_fed(stream, row.len(), rules, expected, |_| len);
        }
        for cut in (1..row.len()).step_by(stride).chain(row.len().saturating_sub(6)..row.len()) {
            check_fed(stream, row.len(), rules, expected, |at| if at < cut { cut - at } else { usize::MAX });
        }
    }
}

pub(crate) fn check_fed(
    stream: &[u8],
    row_len: usize,
    rules: &Rules,
    expected: Outcome,
    piece_len: impl Fn(usize) -> usize,
) {
    let row = || String::from_utf8_lossy(&stream[..row_len.min(300)]).into_owned();
    let (step, before, piece) = feed(stream, rules, piece_len);
    assert_eq!(outcome_of(&step), Some(expected), "{:?} in a piece of {piece} at {before}", row());
    let (mut response, status) = match step {
        Step::Accepted { response, consumed } => {
            assert_eq!(before + consumed, row_len, "{:?}", row());
            (response, 101)
        }
        Step::Page { html, is_head } => (page_response(&rules.page, html, is_head, DATE), 200),
        Step::Options => (options_response(DATE), 204),
        Step::Refused(refused) => {
            let (Step::Refused(uncut), ..) = feed(&stream[..row_len], rules, |_| usize::MAX) else {
                panic!("{:?} is refused as soon as it is cut", row());
            };
            assert_eq!(refused.why(), uncut.why(), "{:?} in a piece of {piece} at {before}", row());
            check_sentence(refused.why());
            (refused.response(DATE), refused.cause().status())
        }
        Step::More => unreachable!("compared above"),
    };
    if expected == Continued {
        response.drain(..CONTINUE.len());
    }
    let (parsed, headers) = read_response_to(&response, stream.starts_with(b"HEAD "));
    assert_eq!(parsed, status);
    let connection: Vec<_> = headers.iter().filter(|(name, _)| name == "Connection").collect();
    assert_eq!(connection.len(), 1);
    assert_eq!(connection[0].1.contains("close"), status != 101);
    assert!(!String::from_utf8_lossy(&response).contains(MARK), "{:?} is echoed", row());
}

/// What the client waits for that sends `Expect: 100-continue`.
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// One line of printable ASCII, so that it can stand in a log too.
fn check_sentence(why: &str) {
    assert!(!why.is_empty() && why.len() < 300, "{why}");
    assert!(why.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{why}");
}

/// The status and headers of a response that is exactly one HTTP response and nothing more.
pub(crate) fn read_response(bytes: &[u8]) -> (u16, Vec<(String, String)>) {
    read_response_to(bytes, false)
}

/// As [`read_response`]; a response to HEAD has no content.
pub(crate) fn read_response_to(bytes: &[u8], is_head: bool) -> (u16, Vec<(String, String)>) {
    let mut storage = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut storage);
    let Ok(httparse::Status::Complete(head_len)) = response.parse(bytes) else {
        panic!("{:?} is no response", String::from_utf8_lossy(bytes))
    };
    assert_eq!(response.version, Some(1));
    let headers: Vec<(String, String)> = response
        .headers
        .iter()
        .map(|header| (header.name.to_owned(), String::from_utf8(header.value.to_vec()).unwrap()))
        .collect();
    let status = response.code.unwrap();
    let lengths: Vec<_> = headers.iter().filter(|(name, _)| name == "Content-Length").collect();
    if matches!(status, 101 | 204) {
        assert!(lengths.is_empty(), "a 101 or 204 has no body (RFC 9110 §8.6)");
        assert_eq!(head_len, bytes.len());
    } else {
        assert_eq!(lengths.len(), 1);
        if is_head {
            assert_eq!(head_len, bytes.len(), "a response to HEAD has no content");
        } else {
            assert_eq!(lengths[0].1, (bytes.len() - head_len).to_string());
        }
    }
    (status, headers)
}

/// The sentence that a refusal of this request answers.
pub(crate) fn why(row: &[u8], rules: &Rules) -> String {
    match feed(row, rules, |_| usize::MAX).0 {
        Step::Refused(refused) => refused.why().to_owned(),
        step => panic!("{step:?}"),
    }
}
