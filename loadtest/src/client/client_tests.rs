//! Tests of [`Client`]: it is fed by hand, whole and cut at every byte.

use std::num::NonZeroU32;

use base64::Engine as _;
use ringback::mask;
use ringback::proto::ProtocolError;
use ringback::proto::frame::{HEADER_MAX, Header, OpCode, Sender};
use sha1::{Digest as _, Sha1};

use super::*;
use crate::client::fault::Words;
use crate::client::request::{Headers, Wishes};
use crate::client::traffic::{Kind, Settings};

#[path = "first_tests.rs"]
mod first;

const SIZE: usize = 40;
const EOF: Fault = Fault::ConnectionLost(std::io::ErrorKind::UnexpectedEof);

/// The opcode of a message, and its payload.
type Message = (OpCode, Vec<u8>);

/// A client, what it has sent so far, and which echoes it has taken.
struct Harness {
    client: Client,
    traffic: Traffic,
    sent: Vec<u8>,
    echoes: Vec<u64>,
}

impl Harness {
    fn new(url: &str, settings: Settings) -> Self {
        Self::with(url, settings, &Wishes::default())
    }

    fn with(url: &str, settings: Settings, wishes: &Wishes) -> Self {
        let target = url.parse().expect("a valid URL");
        let request = Request::new(&target, Headers::Required, wishes);
        let traffic = Traffic::new(settings, 5);
        let client = Client::new(&target, &request, &traffic, 3, 11, 8);
        Self { client, traffic, sent: Vec::new(), echoes: Vec::new() }
    }

    /// A WebSocket client that sends text.
    fn text() -> Self {
        Self::new("ws://h/ws", Settings::fixed(Kind::Text, SIZE))
    }

    /// A WebSocket client with three messages in flight, due at 100, 101 and 102.
    fn in_flight() -> Self {
        Self::in_flight_of(Settings::fixed(Kind::Text, SIZE))
    }

    fn in_flight_of(settings: Settings) -> Self {
        let mut harness = Self::new("ws://h/ws", settings);
        harness.send();
        let accept = harness.accept();
        harness.receive(&accept).expect("a valid answer");
        assert!(harness.client.is_open());
        harness.push_three();
        harness
    }

    fn push_three(&mut self) {
        for now in 100..103 {
            self.client.push(1, now);
        }
        self.send();
        assert_eq!(self.client.in_flight(), 3);
    }

    /// Sends what is to be sent and forgets what was sent before.
    fn send(&mut self) {
        self.sent.clear();
        let mut buffer = [0; 64];
        while self.client.has_output() {
            let filled = self.client.fill(&self.traffic, &mut buffer);
            self.sent.extend_from_slice(&buffer[..filled.len]);
            let written = filled.len;
            self.client.wrote(filled, written, &self.traffic);
        }
    }

    fn accept(&self) -> Vec<u8> {
        let request = String::from_utf8(self.sent.clone()).expect("text");
        let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
        let digest = Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
        let accept = base64::engine::general_purpose::STANDARD.encode(digest);
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        )
        .into_bytes()
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let mut bytes = bytes.to_vec();
        self.client.receive(&mut bytes, &self.traffic, |due_at| self.echoes.push(due_at))
    }

    /// The frames in what was sent: opcode and payload without its mask.
    fn frames(&self) -> Vec<Message> {
        let mut rest = &self.sent[..];
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let (header, len) = Header::parse(rest, Sender::Client).expect("valid").expect("whole");
            let end = len + usize::try_from(header.payload_len).expect("short");
            let mut payload = rest[len..end].to_vec();
            mask::apply(&mut payload, header.key.expect("masked"));
            frames.push((header.opcode, payload));
            rest = &rest[end..];
        }
        frames
    }

    /// The messages in what was sent, their fragments put together, and the payloads of the pings in between.
    fn messages(&self) -> (Vec<Message>, Vec<Vec<u8>>) {
        let (mut messages, mut pings) = (Vec::<Message>::new(), Vec::new());
        for (opcode, payload) in self.frames() {
            match opcode {
                OpCode::Ping => pings.push(payload),
                OpCode::Continuation => messages.last_mut().expect("a first fragment").1.extend(payload),
                opcode => messages.push((opcode, payload)),
            }
        }
        (messages, pings)
    }

    fn payload(&self, message: usize) -> Vec<u8> {
        self.frames()[message].1.clone()
    }
}

/// A server's frame.
fn frame(fin: bool, opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; HEADER_MAX];
    let len = Header { fin, opcode, payload_len: payload.len() as u64, key: None }.encode(&mut header);
    [&header[..len], payload].concat()
}

fn text(payload: &[u8]) -> Vec<u8> {
    frame(true, OpCode::Text, payload)
}

/// Runs `check` for the bytes in one piece, in two at every cut, and byte by byte.
fn at_every_cut(bytes: &[u8], mut check: impl FnMut(&[&[u8]])) {
    check(&[bytes]);
    for cut in 1..bytes.len() {
        check(&[&bytes[..cut], &bytes[cut..]]);
    }
    check(&bytes.chunks(1).collect::<Vec<_>>());
}

#[test]
fn echoes_are_taken_at_every_cut_and_timed_in_order() {
    let harness = Harness::in_flight();
    let [a, b, c] = [0, 1, 2].map(|message| harness.payload(message));
    assert!(a != b && b != c && a.len() == SIZE);
    let replies = [
        text(&a),
        frame(false, OpCode::Text, &b[..7]),
        frame(true, OpCode::Ping, b"are you there?"),
        frame(false, OpCode::Continuation, b""),
        frame(true, OpCode::Pong, b"unasked"),
        frame(false, OpCode::Continuation, &b[7..]),
        frame(true, OpCode::Continuation, b""),
        frame(true, OpCode::Ping, b""),
        frame(false, OpCode::Text, &c[..1]),
        frame(true, OpCode::Continuation, &c[1..]),
    ]
    .concat();
    at_every_cut(&replies, |pieces| {
        let mut harness = Harness::in_flight();
        for piece in pieces {
            harness.receive(piece).expect("all right");
        }
        assert_eq!(harness.echoes, [100, 101, 102]);
        assert_eq!((harness.client.in_flight(), harness.client.echoed()), (0, 3));
        harness.send();
        let pongs = [(OpCode::Pong, b"are you there?".to_vec()), (OpCode::Pong, Vec::new())];
        assert_eq!(harness.frames(), pongs);
    });
}

#[test]
fn faults_are_found_at_every_cut() {
    let harness = Harness::in_flight();
    let [a, b, c] = [0, 1, 2].map(|message| harness.payload(message));
    let mut flipped = a.clone();
    flipped[31] ^= 0x20;
    let mut longer = a.clone();
    longer.push(b'x');
    let mut masked = text(&a);
    masked[1] |= 0x80;
    let mut reserved = text(&a);
    reserved[0] |= 0x40;
    let all = [text(&a), text(&b), text(&c)].concat();
    for (name, bytes, fault) in [
        ("flipped byte", text(&flipped), Fault::WrongBytes { at: 31 }),
        ("swapped", [text(&b), text(&a)].concat(), Fault::WrongOrder),
        ("twice", [text(&a), text(&a)].concat(), Fault::WrongOrder),
        ("other opcode", frame(true, OpCode::Binary, &a), Fault::WrongOpcode),
        ("longer", text(&longer), Fault::WrongLength),
        ("shorter", text(&a[..SIZE - 1]), Fault::WrongLength),
        (
            "longer by a fragment",
            [frame(false, OpCode::Text, &a), frame(true, OpCode::Continuation, b"x")].concat(),
            Fault::WrongLength,
        ),
        (
            "shorter by a fragment",
            [frame(false, OpCode::Text, &a[..9]), frame(true, OpCode::Continuation, &a[9..20])].concat(),
            Fault::WrongLength,
        ),
        ("masked", masked, Fault::MaskedReply),
        ("reserved bit", reserved, Fault::Protocol(ProtocolError::ReservedBits)),
        (
            "lone continuation",
            frame(true, OpCode::Continuation, &a),
            Fault::Protocol(ProtocolError::UnexpectedContinuation),
        ),
        (
            "message in a message",
            [frame(false, OpCode::Text, &a[..4]), text(&a)].concat(),
            Fault::Protocol(ProtocolError::ExpectedContinuation),
        ),
        ("one too many", [all, text(&a)].concat(), unasked_text(&a)),
        ("close", frame(true, OpCode::Close, b"\x03\xF1too big"), closed(Some(1009), "too big")),
        ("empty close", frame(true, OpCode::Close, b""), closed(None, "")),
        (
            "a reason for terminals",
            frame(true, OpCode::Close, b"\x0F\xA0\x1b[2J\"no\"\r\n"),
            closed(Some(4000), "\\u{1b}[2J\"no\"\\r\\n"),
        ),
        (
            "bad close",
            frame(true, OpCode::Close, b"\x03\xED"),
            Fault::Protocol(ProtocolError::CloseCode(1005)),
        ),
    ] {
        at_every_cut(&bytes, |pieces| {
            let mut harness = Harness::in_flight();
            let found = pieces.iter().try_for_each(|piece| harness.receive(piece)).expect_err(name);
            // A piece of a byte or two may be wrong where it was in order by chance.
            match (&found, &fault) {
                (Fault::WrongBytes { at }, Fault::WrongOrder) => assert!(*at < SIZE, "{name}"),
                (Fault::WrongOrder, Fault::WrongBytes { .. }) => {}
                _ => assert_eq!(found, fault, "{name}"),
            }
            assert!(harness.client.is_done());
        });
        let mut harness = Harness::in_flight();
        assert_eq!(harness.receive(&bytes), Err(fault), "{name}, whole");
    }
}

fn closed(code: Option<u16>, reason: &str) -> Fault {
    Fault::UnexpectedClose(code, Box::new(Words(reason.into())))
}

/// What is told of a text message that answers nothing.
fn unasked_text(payload: &[u8]) -> Fault {
    let text = String::from_utf8_lossy(payload);
    Fault::Unasked(Some(Box::new(Words(format!(
        "a text message came that answers nothing, {} bytes: \"{text}\"; of a server that greets, --skip N reads the first \
         N messages over",
        payload.len()
    )))))
}

#[test]
fn frames_behind_the_handshake_count() {
    let mut harness = Harness::text();
    harness.send();
    let bytes = [harness.accept(), frame(true, OpCode::Ping, b"early")].concat();
    at_every_cut(&bytes, |pieces| {
        let mut harness = Harness::text();
        harness.send();
        for piece in pieces {
            harness.receive(piece).expect("all right");
        }
        harness.send();
        assert_eq!(harness.frames(), [(OpCode::Pong, b"early".to_vec())]);
    });
}

#[test]
fn an_answer_before_the_request_is_refused() {
    let mut harness = Harness::text();
    harness.send();
    let accept = harness.accept();
    let mut early = Harness::text();
    assert_eq!(early.receive(&accept), Err(Fault::HandshakeInvalid("it came before the request was sent")));
}

#[test]
fn the_close_handshake() {
    let closing = || {
        let mut harness = Harness::in_flight();
        for message in 0..3 {
            let payload = harness.payload(message);
            harness.receive(&text(&payload)).expect("right");
        }
        harness.client.close();
        harness.send();
        assert_eq!(harness.frames(), [(OpCode::Close, vec![0x03, 0xE8])]);
        harness
    };
    let reply = frame(true, OpCode::Close, &[0x03, 0xE8]);

    let mut harness = closing();
    harness.receive(&reply).expect("the answer");
    assert!(!harness.client.is_done());
    assert_eq!(harness.client.receive_end(), Ok(()));
    assert!(harness.client.is_done());
    assert_eq!(harness.client.give_up(), None);

    let mut harness = closing();
    harness.receive(&frame(true, OpCode::Ping, b"late")).expect("crossing pings are allowed");
    harness.send();
    assert!(harness.sent.is_empty(), "nothing follows a close frame");
    assert_eq!(harness.client.give_up(), Some((Fault::CloseMissing, 1)));

    let reset = std::io::ErrorKind::ConnectionReset;
    let mut harness = closing();
    harness.receive(&reply).expect("the answer");
    assert_eq!(harness.client.receive_error(reset), Ok(()), "a clean end is no must");
    assert!(harness.client.is_done());
    assert_eq!(harness.client.receive_error(reset), Ok(()), "it was over");

    let mut harness = closing();
    assert_eq!(harness.client.receive_error(reset), Err(Fault::ConnectionLost(reset)));
    assert!(harness.client.is_done());
    let mut harness = Harness::in_flight();
    assert_eq!(harness.client.receive_error(reset), Err(Fault::ConnectionLost(reset)));

    let mut harness = closing();
    assert_eq!(harness.client.receive_end(), Err(EOF));

    let mut harness = closing();
    harness.receive(&reply).expect("the answer");
    let told = "bytes behind the close frame came that answers nothing, 2 bytes: \"\u{fffd}\\0\"";
    assert_eq!(harness.receive(b"\x81\x00"), Err(Fault::Unasked(Some(Box::new(Words(told.into()))))));

    let mut harness = closing();
    harness.receive(&reply).expect("the answer");
    assert_eq!(harness.client.give_up(), Some((Fault::NotEnded, 1)));

    let mut harness = closing();
    let wrong = frame(true, OpCode::Close, &[0x03, 0xEA]);
    assert_eq!(harness.receive(&wrong), Err(closed(Some(1002), "")));
}

#[test]
fn what_is_missing_at_the_end_is_counted() {
    let mut harness = Harness::in_flight();
    let payload = harness.payload(0);
    harness.receive(&text(&payload)).expect("right");
    assert_eq!(harness.client.give_up(), Some((Fault::Missing, 2)));
    let mut harness = Harness::in_flight();
    assert_eq!(harness.client.receive_end(), Err(EOF));
    assert_eq!(harness.client.give_up(), None, "a fault is told once");
    let mut harness = Harness::text();
    assert_eq!(harness.client.give_up(), Some((Fault::HandshakeTimeout, 1)));
}

#[test]
fn bytes_are_compared_as_they_were_sent() {
    let in_flight = || {
        let mut harness = Harness::new("tcp://h:1", Settings::fixed(Kind::Binary, SIZE));
        harness.push_three();
        harness
    };
    let sent = in_flight().sent;
    assert_eq!(sent.len(), 3 * (6 + SIZE));
    at_every_cut(&sent, |pieces| {
        let mut harness = in_flight();
        for piece in pieces {
            harness.receive(piece).expect("all right");
        }
        assert_eq!(harness.echoes, [100, 101, 102]);
        harness.client.close();
        assert!(!harness.client.has_output());
        assert_eq!(harness.client.receive_end(), Ok(()));
    });
    for at in 0..sent.len() {
        let mut wrong = sent.clone();
        wrong[at] ^= 1;
        assert_eq!(in_flight().receive(&wrong), Err(Fault::WrongBytes { at: at % (6 + SIZE) }));
    }
    let mut harness = in_flight();
    harness.receive(&sent).expect("all right");
    let told = "bytes came that answers nothing, 1 bytes: \"x\"";
    assert_eq!(harness.receive(b"x"), Err(Fault::Unasked(Some(Box::new(Words(told.into()))))));
}

/// Messages of every kind and several sizes in fragments, with a ping in the second of three.
fn varied() -> Settings {
    Settings {
        kind: Kind::Mixed,
        sizes: "17:1,40:1,200:1".parse().expect("valid"),
        fragments: 2..=3,
        ping_every: NonZeroU32::new(2),
    }
}

fn pong(payload: &[u8]) -> Vec<u8> {
    frame(true, OpCode::Pong, payload)
}

#[test]
fn varied_messages_and_pongs_are_taken_at_every_cut() {
    let (messages, pings) = Harness::in_flight_of(varied()).messages();
    let [(first, a), (second, b), (third, c)] = &messages[..] else { panic!("{messages:?}") };
    let [ping] = &pings[..] else { panic!("{pings:?}") };
    let replies = [
        frame(true, *first, a),
        frame(false, *second, &b[..1]),
        pong(ping),
        frame(true, OpCode::Continuation, &b[1..]),
        frame(true, *third, c),
    ]
    .concat();
    at_every_cut(&replies, |pieces| {
        let mut harness = Harness::in_flight_of(varied());
        for piece in pieces {
            harness.receive(piece).expect("all right");
        }
        assert_eq!(harness.echoes, [100, 101, 102]);
        assert_eq!(harness.client.missing_pongs(), 0);
        harness.client.close();
        assert!(harness.client.has_output());
    });
}

#[test]
fn faults_in_varied_messages_are_told_apart_at_every_cut() {
    let settings = || Settings { ping_every: None, ..varied() };
    let (messages, _) = Harness::in_flight_of(settings()).messages();
    let lens: std::collections::BTreeSet<_> = messages.iter().map(|(_, payload)| payload.len()).collect();
    assert!(lens.len() > 1 && messages.iter().any(|(opcode, _)| *opcode == OpCode::Binary), "{messages:?}");
    let whole = |message: usize| frame(true, messages[message].0, &messages[message].1);
    let (opcode, a) = &messages[0];
    let other = if *opcode == OpCode::Text { OpCode::Binary } else { OpCode::Text };
    let mut longer = a.clone();
    longer.push(b'x');
    for (name, bytes, fault) in [
        ("the second first", whole(1), Fault::WrongOrder),
        ("the third first", whole(2), Fault::WrongOrder),
        ("the third first, begun", frame(false, messages[2].0, &messages[2].1[..16]), Fault::WrongOrder),
        ("the third second", [whole(0), whole(2)].concat(), Fault::WrongOrder),
        ("other opcode", frame(true, other, a), Fault::WrongOpcode),
        ("shorter", frame(true, *opcode, &a[1..]), Fault::WrongLength),
        ("longer", frame(true, *opcode, &longer), Fault::WrongLength),
        ("empty", frame(true, *opcode, b""), Fault::WrongLength),
    ] {
        at_every_cut(&bytes, |pieces| {
            let mut harness = Harness::in_flight_of(settings());
            let found = pieces.iter().try_for_each(|piece| harness.receive(piece)).expect_err(name);
            // As above: where lengths and opcodes are alike, a first byte or two may be right by chance.
            match (&found, &fault) {
                (Fault::WrongBytes { at }, Fault::WrongOrder) => assert!(*at < 16, "{name}"),
                _ => assert_eq!(found, fault, "{name}"),
            }
        });
        let mut harness = Harness::in_flight_of(settings());
        assert_eq!(harness.receive(&bytes), Err(fault), "{name}, whole");
    }
}

#[test]
fn pongs_are_checked_and_the_close_frame_waits_for_them() {
    let settings = || Settings { ping_every: NonZeroU32::new(1), ..Settings::fixed(Kind::Text, SIZE) };
    let (messages, pings) = Harness::in_flight_of(settings()).messages();
    assert_eq!((messages.len(), pings.len()), (3, 3));
    let echoed = || {
        let mut harness = Harness::in_flight_of(settings());
        messages.iter().for_each(|(_, payload)| harness.receive(&text(payload)).expect("right"));
        harness
    };

    let mut flipped = pings[1].clone();
    flipped[5] ^= 1;
    for wrong in [&flipped, &pings[1][..7]] {
        assert_eq!(echoed().receive(&pong(wrong)), Err(Fault::WrongPong), "{wrong:?}");
    }
    let mut harness = echoed();
    for own in [&b"unasked"[..], b"", &[0; 8]] {
        harness.receive(&pong(own)).expect("nobody asked for it, and it is allowed");
        assert_eq!(harness.client.missing_pongs(), 3);
    }
    harness.receive(&pong(&pings[1])).expect("it answers the first as well");
    assert_eq!(harness.receive(&pong(&pings[0])), Err(Fault::WrongPong));

    let mut harness = echoed();
    harness.receive(&pong(&pings[0])).expect("right");
    harness.client.close();
    harness.send();
    assert!(harness.sent.is_empty(), "two pongs are still to come");
    assert!(!harness.client.is_open() && !harness.client.is_done());
    harness.receive(&frame(true, OpCode::Ping, b"you?")).expect("allowed");
    harness.receive(&pong(&pings[2])).expect("right");
    harness.send();
    assert_eq!(harness.frames(), [(OpCode::Pong, b"you?".to_vec()), (OpCode::Close, vec![0x03, 0xE8])]);

    let mut harness = echoed();
    harness.client.close();
    assert_eq!(harness.client.give_up(), Some((Fault::MissingPong, 3)));
    let mut harness = echoed();
    harness.client.close();
    let close = frame(true, OpCode::Close, &[0x03, 0xE8]);
    assert_eq!(harness.receive(&close), Err(closed(Some(1000), "")));
    let mut harness = echoed();
    harness.receive(&pong(&pings[1])).expect("right");
    assert_eq!(harness.client.give_up(), Some((Fault::MissingPong, 1)), "open, though nothing is in flight");
}

#[test]
fn pings_may_be_the_messages() {
    let in_flight = || Harness::in_flight_of(Settings::fixed(Kind::Ping, SIZE));
    let frames = in_flight().frames();
    let [(OpCode::Ping, a), (OpCode::Ping, b), (OpCode::Ping, c)] = &frames[..] else { panic!("{frames:?}") };
    let replies = [pong(a), pong(b), pong(c)].concat();
    at_every_cut(&replies, |pieces| {
        let mut harness = in_flight();
        for piece in pieces {
            harness.receive(piece).expect("all right");
        }
        assert_eq!((&harness.echoes[..], harness.client.echoed()), (&[100, 101, 102][..], 3));
    });
    let mut harness = in_flight();
    harness.receive(&pong(b)).expect("it answers the first as well");
    assert_eq!((&harness.echoes[..], harness.client.in_flight()), (&[100, 101][..], 1));
    assert_eq!(harness.receive(&pong(a)), Err(Fault::WrongPong));
    let mut flipped = a.clone();
    flipped[7] ^= 1;
    assert_eq!(in_flight().receive(&pong(&flipped)), Err(Fault::WrongPong));
    assert_eq!(in_flight().receive(&text(a)), Err(Fault::WrongOpcode));
    assert_eq!(in_flight().receive(&[replies, pong(c)].concat()), Err(Fault::WrongPong));

    // Those that nobody asked for answer none.
    let strange =
        [pong(b""), pong(a), pong(b"heartbeat"), pong(&[0; 8]), pong(b), pong(c), pong(b"")].concat();
    at_every_cut(&strange, |pieces| {
        let mut harness = in_flight();
        for piece in pieces {
            harness.receive(piece).expect("all right");
        }
        assert_eq!((&harness.echoes[..], harness.client.in_flight()), (&[100, 101, 102][..], 0));
    });
}

#[test]
fn bytes_of_varied_traffic_are_compared_as_they_were_sent() {
    let in_flight = || {
        let mut harness = Harness::new("tcp://h:1", varied());
        harness.push_three();
        harness
    };
    let sent = in_flight().sent;
    at_every_cut(&sent, |pieces| {
        let mut harness = in_flight();
        for piece in pieces {
            harness.receive(piece).expect("all right");
        }
        assert_eq!(harness.echoes, [100, 101, 102]);
        harness.client.close();
        assert_eq!(harness.client.receive_end(), Ok(()));
    });
    for at in 0..sent.len() {
        let mut wrong = sent.clone();
        wrong[at] ^= 1;
        let found = in_flight().receive(&wrong);
        assert!(matches!(found, Err(Fault::WrongBytes { .. })), "{at}: {found:?}");
    }
}
