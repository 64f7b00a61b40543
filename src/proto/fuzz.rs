//! The bodies of the fuzz targets, as plain functions: each panics when the core breaks a promise. `fuzz/` drives
//! them with libFuzzer, the unit tests below with seeds and random bytes.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use super::frame::{HEADER_MAX, Header, OpCode, Sender};
use super::handshake::{
    ANY, Document, HEAD_MAX, Handshake, Page, Rules, Step, options_response, page_response,
};
use super::proxy::{self, ProxyError, V2_BODY_MAX, Versions};
use super::utf8::Validator;
use super::{Connection, Counts, Settings, Standing};
use crate::mask::{self, Key};
use crate::memory::{Budget, Charged, HEADROOM, Total, Usage};

/// Any time will do.
const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// Beside the room that a connection may write to.
const GUARD: usize = 8;
const GUARD_BYTE: u8 = 0xA5;

/// A request, whole and in pieces: the same outcome, and always exactly one response.
pub fn handshake(data: &[u8]) {
    let mut input = Input(data);
    let options = input.byte();
    let allowed_origins = if options & 1 == 0 { Vec::new() } else { vec!["https://a.example".into()] };
    let any = |bit: u8| if options & bit == 0 { Vec::new() } else { vec![ANY.into()] };
    let form =
        |body: &str| Document { content_type: "text/plain", headers: String::new(), body: body.into() };
    let page = Page { html: form("<p>page\n"), text: form("page\n") };
    let rules = Rules {
        paths: [vec!["/ws".into(), "/echo".into()], any(2)].concat(),
        subprotocols: [vec!["b".into(), "chat".into()], any(4)].concat(),
        page,
        allowed_origins,
        head_max: if options & 8 == 0 { HEAD_MAX } else { 300 },
        fields_max: if options & 16 == 0 { 200 } else { 6 },
    };
    let cuts = input.cuts();
    let stream = input.rest();
    let whole = shake_hands(stream, &rules, &[stream.len().max(1)]);
    assert_eq!(shake_hands(stream, &rules, &cuts), whole, "in pieces of {cuts:?}");
    assert_eq!(shake_hands(stream, &rules, &[1]), whole, "byte by byte");
    if let (Step::Accepted { consumed, .. }, _) = &whole {
        // Nothing behind the head has a say.
        let (again, _) = shake_hands(&stream[..*consumed], &rules, &[stream.len()]);
        assert_eq!(again, whole.0);
    }
}

/// What a proxy sends first, whole and in pieces: the same outcome, and nothing behind the header has a say.
pub fn proxy_header(data: &[u8]) {
    let mut input = Input(data);
    let taken = input.byte();
    let versions = Versions { v1: taken & 1 == 0, v2: taken & 2 == 0 };
    let cuts = input.cuts();
    let stream = input.rest();
    let feed = |stream: &[u8], cuts: &[usize]| {
        let mut header = proxy::Header::new(versions);
        let mut before = 0;
        for piece in pieces(stream, cuts) {
            match header.receive(piece) {
                proxy::Step::More => before += piece.len(),
                proxy::Step::Done { source, consumed } => {
                    assert!((1..=piece.len()).contains(&consumed));
                    return proxy::Step::Done { source, consumed: before + consumed };
                }
                refused @ proxy::Step::Refused(_) => return refused,
            }
        }
        assert!(before < 16 + V2_BODY_MAX, "a header has an end");
        proxy::Step::More
    };
    let whole = feed(stream, &[stream.len().max(1)]);
    assert_eq!(feed(stream, &cuts), whole, "in pieces of {cuts:?}");
    assert_eq!(feed(stream, &[1]), whole, "byte by byte");
    match whole {
        proxy::Step::Done { consumed, .. } => {
            assert_eq!(feed(&stream[..consumed], &[consumed]), whole);
            assert_eq!(feed(&stream[..consumed - 1], &[consumed]), proxy::Step::More);
        }
        proxy::Step::Refused(error) => {
            assert!(!matches!(error, ProxyError::Truncated | ProxyError::Timeout), "only the owner knows");
        }
        proxy::Step::More => {}
    }
}

/// A stream from a client, whole and in pieces, on its way to one connection: what the client sees is the same.
pub fn frames(data: &[u8]) {
    let mut input = Input(data);
    let whole_frame_max = input.pick(&[64 << 10, 0, 1, 3, 16, 125, 126, 1000]);
    let max_message_size = input.pick(&[0, 0, 0, 0, 10, 300]);
    let limit = input.pick(&[1 << 20, 1 << 20, 0, 10, 20, 50, 100, 1000]);
    let cuts = input.cuts();
    let stream = if input.byte() & 3 == 0 { input.rest().to_vec() } else { written_frames(&mut input) };

    let run = |cuts: &[usize]| {
        let total = Total::new(limit);
        let budget = Budget::new(Arc::clone(&total));
        let settings = Rc::new(Settings { whole_frame_max, max_message_size, budget });
        let mut peer = Peer::new(&settings);
        for piece in pieces(&stream, cuts) {
            peer.receive(piece, None);
        }
        // Where the connection has ended this changes nothing more.
        peer.receive(&[0x81, 0x80, 0, 0, 0, 0, 0xFF, 0xFF], None);
        let seen = peer.seen();
        drop((peer, settings));
        assert_eq!(total.taken(), 0, "everything is given back");
        seen
    };
    let whole = run(&[stream.len().max(1)]);
    for cuts in [&cuts[..], &[1]] {
        let cut = run(cuts);
        whole.assert_like(&cut);
        if whole.counts.fragments_streamed + cut.counts.fragments_streamed == 0 {
            assert_eq!(whole.sent, cut.sent, "frame for frame, in pieces of {cuts:?}");
        }
    }
}

/// Two connections that share a small budget, with frames in pieces, pings and our own Close in any order.
pub fn operations(data: &[u8]) {
    let mut input = Input(data);
    let whole_frame_max = input.pick(&[64 << 10, 16, 0]);
    let total = Total::new(input.pick(&[1 << 20, 0, 40, 200, 2000]));
    let budget = Budget::new(Arc::clone(&total));
    let settings = Rc::new(Settings { whole_frame_max, max_message_size: 0, budget });
    let mut peers = [Peer::new(&settings), Peer::new(&settings)];
    let mut unsent = Vec::new();
    while !input.0.is_empty() {
        let operation = input.byte();
        let peer = &mut peers[usize::from(operation >> 7)];
        match operation & 7 {
            0..=2 => {
                let frame = input.frame();
                peer.queued.extend(frame);
            }
            3..=4 => {
                let len = usize::from(input.byte()).min(peer.queued.len());
                let piece: Vec<u8> = peer.queued.drain(..len).collect();
                peer.receive(&piece, Some(&mut unsent));
            }
            5 => {
                let payload = vec![b'p'; usize::from(input.byte())];
                peer.ping(&payload);
            }
            6 => peer.close(),
            _ => unsent.clear(),
        }
    }
    for peer in peers {
        let seen = peer.seen();
        if !peer.has_closed {
            // Neither the budget nor our pings change what the peer sees of its own messages.
            let mut again = Peer::new(&settings);
            again.receive(&peer.given, None);
            again.seen().assert_like(&seen);
        }
    }
    drop((unsent, settings));
    assert_eq!(total.taken(), 0, "everything is given back");
}

/// Bytes in pieces, against `core::str` over all that came so far.
pub fn utf8(data: &[u8]) {
    let mut input = Input(data);
    let cuts = input.cuts();
    let text = input.rest();
    let mut validator = Validator::new();
    let mut end = 0;
    for piece in pieces(text, &cuts) {
        end += piece.len();
        let pushed = if piece.is_ascii() { validator.push_ascii(piece) } else { validator.push(piece) };
        match str::from_utf8(&text[..end]) {
            Ok(_) => assert!(pushed.is_ok() && validator.is_complete()),
            Err(error) if error.error_len().is_none() => {
                assert!(pushed.is_ok() && !validator.is_complete());
                assert_eq!(validator.pending(), &text[error.valid_up_to()..end]);
            }
            Err(_) => {
                assert!(pushed.is_err());
                return;
            }
        }
    }
}

/// The fuzzer's bytes, taken from the front; zeros where there are none left.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn rest(&mut self) -> &'a [u8] {
        self.take(self.0.len())
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }

    /// The lengths of pieces, to be used over and over.
    fn cuts(&mut self) -> [usize; 3] {
        [0; 3].map(|_| 1 + usize::from(self.byte()))
    }

    /// A frame: its first byte, its length, and whether its payload is made text; now and then a header that lies.
    fn frame(&mut self) -> Vec<u8> {
        let (first, len, style) = (self.byte(), usize::from(self.byte()), self.byte());
        let len = if style & 0x40 == 0 { len } else { len * 8 };
        let mut payload = self.take(len).to_vec();
        if style & 1 == 0 {
            payload = String::from_utf8_lossy(&payload).into_owned().into_bytes();
        }
        let opcode = OpCode::from_bits(first & 0x0F).unwrap_or(OpCode::Text);
        let fin = first & 0x80 != 0 || opcode.is_control();
        if opcode.is_control() {
            payload.truncate(125);
        }
        let announced = if style & 0x3E == 0x3E { u64::from(first) << 30 } else { len_of(&payload) };
        let key = Key::new([first, style, 0x5A, first ^ style]);
        let mut header = [0; HEADER_MAX];
        let header_len = Header { fin, opcode, payload_len: announced, key: Some(key) }.encode(&mut header);
        mask::apply(&mut payload, key);
        [&header[..header_len], &payload].concat()
    }
}

fn written_frames(input: &mut Input<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while !input.0.is_empty() {
        stream.extend(input.frame());
    }
    stream
}

/// `stream` in pieces of these lengths, over and over.
fn pieces<'a>(stream: &'a [u8], lengths: &[usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = stream;
    let mut lengths = lengths.iter().cycle();
    std::iter::from_fn(move || {
        let (piece, after) = rest.split_at((*lengths.next()?).min(rest.len()));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

fn len_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// The first step other than `More`, with `consumed` counted from the beginning, and its response.
fn shake_hands(stream: &[u8], rules: &Rules, cuts: &[usize]) -> (Step, Vec<u8>) {
    let total = Total::new(1 << 20);
    let kept = Arc::<Usage>::default();
    let budget = Budget::told(total, Arc::clone(&kept));
    let mut handshake = Handshake::new();
    let mut before = 0;
    for piece in pieces(stream, cuts) {
        let mut step = handshake.receive(piece, rules, &budget);
        assert!(kept.get() <= 64 + rules.head_max, "no more is kept than the longest head");
        let response = match &mut step {
            Step::More => {
                before += piece.len();
                continue;
            }
            Step::Accepted { response, consumed } => {
                assert!((1..=piece.len()).contains(consumed));
                *consumed += before;
                response.clone()
            }
            Step::Page { html, is_head } => page_response(&rules.page, *html, *is_head, DATE),
            Step::Options => options_response(DATE),
            Step::Refused(refused) => {
                assert!(refused.why().bytes().all(|byte| matches!(byte, b' '..=b'~')), "{}", refused.why());
                refused.response(DATE)
            }
        };
        assert_is_one_response(&response, stream.starts_with(b"HEAD "));
        return (step, response);
    }
    (Step::More, Vec::new())
}

fn assert_is_one_response(bytes: &[u8], is_head: bool) {
    let bytes = bytes.strip_prefix(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(bytes);
    let mut storage = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut storage);
    let parsed = response.parse(bytes);
    let Ok(httparse::Status::Complete(head_len)) = parsed else { panic!("{parsed:?}") };
    let length = response.headers.iter().find(|header| header.name == "Content-Length");
    let body_len = length.map_or("0", |header| str::from_utf8(header.value).unwrap_or_default());
    if is_head {
        assert_eq!(bytes.len(), head_len, "a response to HEAD has no content");
    } else {
        assert_eq!(body_len, (bytes.len() - head_len).to_string());
    }
    assert_eq!(length.is_none(), matches!(response.code, Some(101 | 204)));
}

/// A connection and what came of it.
struct Peer {
    connection: Connection,
    /// Bytes that the client has yet to send.
    queued: VecDeque<u8>,
    /// Everything that it has sent.
    given: Vec<u8>,
    /// Everything that it has got.
    sent: Vec<u8>,
    counts: Counts,
    has_closed: bool,
}

impl Peer {
    fn new(settings: &Rc<Settings>) -> Self {
        Self {
            connection: Connection::new(Rc::clone(settings)),
            queued: VecDeque::new(),
            given: Vec::new(),
            sent: Vec::new(),
            counts: Counts::default(),
            has_closed: false,
        }
    }

    /// Gives one piece to the connection. A gathered frame goes to `unsent`, where it goes on being charged.
    #[expect(clippy::vec_box, reason = "the connection gives out boxes")]
    fn receive(&mut self, piece: &[u8], unsent: Option<&mut Vec<Box<Charged>>>) {
        let before = self.connection.standing();
        let start = GUARD + HEADROOM;
        let filled = start..start + piece.len();
        let mut buffer = vec![GUARD_BYTE; filled.end + GUARD];
        buffer[filled.clone()].copy_from_slice(piece);
        let progress = self.connection.receive(&mut buffer, filled.clone());
        assert!(buffer[..GUARD].iter().chain(&buffer[filled.end..]).all(|&byte| byte == GUARD_BYTE));
        assert!(GUARD <= progress.body.start && progress.body.end <= filled.end);
        assert_eq!(progress.standing, self.connection.standing());
        match (before, progress.standing) {
            (Standing::Open, _) | (Standing::Closing, Standing::Closed | Standing::Failed(_)) => {}
            (before, after) => assert_eq!(before, after),
        }
        let was_sent = self.sent.len();
        if let Some(head) = progress.head {
            assert!(head.charge.bytes() >= head.bytes.len());
            self.sent.extend_from_slice(&head.bytes);
            if let Some(unsent) = unsent {
                unsent.push(head);
            }
        }
        self.sent.extend_from_slice(&buffer[progress.body]);
        self.sent.extend_from_slice(progress.tail.as_ref().map_or(&[][..], |tail| tail));
        assert!(before == Standing::Open || self.sent.len() == was_sent, "sent while {before:?}");
        self.given.extend_from_slice(piece);
        let Counts { frames, texts, binaries, pings, pongs, payload_bytes, text_bytes, .. } = progress.counts;
        self.counts.frames += frames;
        self.counts.texts += texts;
        self.counts.binaries += binaries;
        self.counts.pings += pings;
        self.counts.pongs += pongs;
        self.counts.payload_bytes += payload_bytes;
        self.counts.text_bytes += text_bytes;
        self.counts.fragments_streamed += progress.counts.fragments_streamed;
        // What stands in an answer is not judged, and not waited for.
        let is_answer = progress.counts.is_answer;
        let close = progress.counts.close.map(|code| code.filter(|_| !is_answer));
        self.counts.close = self.counts.close.or(close);
    }

    fn ping(&mut self, payload: &[u8]) {
        let ping = self.connection.ping(payload);
        assert_eq!(ping.is_some(), self.connection.standing() == Standing::Open);
        self.sent.extend_from_slice(ping.as_ref().map_or(&[][..], AsRef::as_ref));
    }

    fn close(&mut self) {
        let was_open = self.connection.standing() == Standing::Open;
        let close = self.connection.close(1001);
        assert_eq!(close.is_some(), was_open);
        self.has_closed |= was_open;
        self.sent.extend_from_slice(close.as_ref().map_or(&[][..], |close| close));
    }

    /// What the client has got, read strictly.
    fn seen(&self) -> Seen {
        let mut events = Vec::new();
        let mut rest = &self.sent[..];
        let (mut in_message, mut is_closed, mut payload_bytes) = (false, false, 0);
        let (mut in_text, mut text_bytes) = (false, 0);
        while !rest.is_empty() {
            assert!(!is_closed, "nothing follows a Close");
            let Ok(Some((header, header_len))) = Header::parse(rest, Sender::Server) else {
                panic!("{rest:02x?}")
            };
            let payload_len = usize::try_from(header.payload_len).unwrap_or(usize::MAX);
            assert!(rest.len() - header_len >= payload_len, "only whole frames are sent");
            let (frame, after) = rest.split_at(header_len + payload_len);
            let payload = frame[header_len..].to_vec();
            rest = after;
            is_closed = header.opcode == OpCode::Close;
            match header.opcode {
                OpCode::Ping => {}
                opcode @ (OpCode::Pong | OpCode::Close) => events.push(Event::Control { opcode, payload }),
                opcode => {
                    assert_eq!(in_message, opcode == OpCode::Continuation);
                    in_message = !header.fin;
                    payload_bytes += header.payload_len;
                    in_text = opcode == OpCode::Text || in_text && opcode == OpCode::Continuation;
                    text_bytes += if in_text { header.payload_len } else { 0 };
                    match events.last_mut() {
                        Some(Event::Data { payload: run, ends: ends @ false, .. }) => {
                            run.extend(payload);
                            *ends = header.fin;
                        }
                        _ => events.push(Event::Data { opcode, payload, ends: header.fin }),
                    }
                }
            }
        }
        assert_eq!(payload_bytes, self.counts.payload_bytes);
        assert_eq!(text_bytes, self.counts.text_bytes);
        let standing = self.connection.standing();
        Seen { standing, events, sent: self.sent.clone(), counts: self.counts }
    }
}

/// What a client sees of a connection.
#[derive(Debug)]
struct Seen {
    standing: Standing,
    events: Vec<Event>,
    sent: Vec<u8>,
    counts: Counts,
}

/// A run of data between control frames, or one of these. Our own pings are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Data { opcode: OpCode, payload: Vec<u8>, ends: bool },
    Control { opcode: OpCode, payload: Vec<u8> },
}

impl Seen {
    /// The same, but for the borders of fragments and for how much of an unfinished frame has been echoed.
    fn assert_like(&self, other: &Self) {
        assert_eq!(self.standing, other.standing);
        let countable = |counts: &Counts| {
            let &Counts { frames, texts, binaries, pings, pongs, close, .. } = counts;
            (frames, texts, binaries, pings, pongs, close)
        };
        assert_eq!(countable(&self.counts), countable(&other.counts));
        let ((events, unfinished), (other_events, other_unfinished)) = (self.split(), other.split());
        assert_eq!(events, other_events);
        let one_begins_the_other =
            unfinished.starts_with(&other_unfinished) || other_unfinished.starts_with(&unfinished);
        assert!(one_begins_the_other, "{unfinished:02x?} {other_unfinished:02x?}");
    }

    /// All events but the data of a message that is not finished, and that.
    fn split(&self) -> (Vec<Event>, Vec<u8>) {
        let mut events = self.events.clone();
        let close = match (self.standing, events.last()) {
            (Standing::Failed(_), Some(Event::Control { opcode: OpCode::Close, .. })) => events.pop(),
            _ => None,
        };
        let unfinished = match events.pop() {
            Some(Event::Data { payload, ends: false, .. }) => payload,
            last => {
                events.extend(last);
                Vec::new()
            }
        };
        events.extend(close);
        (events, unfinished)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a body on its seeds, on the seeds with some bytes replaced, and on random bytes; always the same ones.
    fn drive(body: fn(&[u8]), seeds: &[&[u8]], rounds: u32) {
        for seed in seeds {
            body(seed);
        }
        let mut random = fastrand::Rng::with_seed(0x6455);
        for round in 0..rounds {
            let mut data = match random.choice(seeds) {
                Some(seed) if round % 2 == 0 => seed.to_vec(),
                _ => (0..random.usize(..600)).map(|_| random.u8(..)).collect(),
            };
            for _ in 0..random.usize(..4) {
                if let Some(byte) = random.choice(&mut data) {
                    *byte = random.u8(..);
                }
            }
            body(&data);
        }
    }

    #[test]
    fn handshake_in_pieces() {
        let good =
            b"\0\x05\x10\x01GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n\x81\x80abcd";
        let offer =
            b"\0\x05\x10\x01GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Protocol: a, chat\r\nSec-WebSocket-Protocol: b\r\n\r\n\x81\x80abcd";
        let page = b"\x01\x01\x02\x03GET / HTTP/1.1\r\nHost: a\r\nOrigin: null\r\n\r\n";
        let any =
            b"\x06\x05\x10\x01GET /a%2Fb\xFF?{|}[\\]^` HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nExpect: 100-continue\r\nContent-Length: 0\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: x, chat\r\n\r\n\x81\x80abcd";
        let head = b"\x1E\x01\x02\x03HEAD http://a?b HTTP/1.0\r\nAccept: text/html\r\nX: y\r\n\r\n";
        let options = b"\x00\x01\x02\x03OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n";
        drive(handshake, &[good, offer, page, any, head, options, b""], 6000);
    }

    #[test]
    fn proxy_headers_in_pieces() {
        let line = b"\0\x05\x10\x01PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\nGET / HTTP/1.1\r\n";
        let unknown = b"\0\x01\x01\x20PROXY UNKNOWN ffff::1 ::\r\n\x81";
        let binary =
            b"\0\x03\x02\x10\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x15\xC0\0\x02\x01\xC6\x33\x64\x02\xDC\x04\x01\xBB\
            \x04\0\x03abc\x05\0\0GET / HTTP/1.1\r\n";
        drive(proxy_header, &[line, unknown, binary, b""], 6000);
    }

    #[test]
    fn frames_in_pieces() {
        let text = b"\x03\0\0\x02\x07\x01\x01\x01\x0A\0a\xC3\xA4\xE2\x82\xAC\xF0\x9D\x84\x9E\x80\x04\0done";
        let raw = b"\0\0\0\x01\x02\x03\0\x81\x85\x01\x02\x03\x04igohn\x88\x82\0\0\0\0\x03\xE8";
        drive(frames, &[text, raw, b""], 6000);
    }

    #[test]
    fn operations_in_any_order() {
        let seed =
            b"\0\x02\0\x81\x20\0some text or other, 32 bytes long\x03\x10\x05\x04\x80\x02\x09\x01ping data\
            \x83\x05\x03\xFF\x07\x83\xFF\x06\x03\xFF";
        drive(operations, &[seed, b""], 6000);
    }

    #[test]
    fn utf8_in_pieces() {
        let mixed =
            "\u{1}\u{2}\u{3}a\u{E4}\u{20AC}\u{1D11E}\u{10FFFF}plain ascii, long enough for a vector or two";
        drive(utf8, &[mixed.as_bytes(), b""], 20_000);
    }
}
