//! Frames in pieces: gathered or streamed as fragments, with the budget at its end, and with our own Close and pings
//! in between.

use std::rc::Rc;

use ringback::memory::{Budget, HEADROOM, Total};
use ringback::proto::frame::OpCode;
use ringback::proto::{Connection, ProtocolError, Settings, Standing};

use crate::support::client::{
    BINARY, CLOSE, CONT, FIN, PING, PONG, TEXT, close, frame, header, masked, text,
};
use crate::support::model::{check, check_everywhere};
use crate::support::pair::{Cuts, Pair, default_settings, feed, settings, settings_of};
use crate::support::replies::{self, Event, Reply};
use crate::support::stress_rounds;

/// Code points of one to four octets, 60 octets in all.
const MIXED: &str = "a\u{E4}\u{20AC}\u{1D11E}bb\u{1F44B}\u{20AC}\u{E4}z\u{1D11E}\u{1D11E}\u{20AC}xy\u{7FF}\u{10FFFF}\
                     \u{FFFD}\u{800}q\u{80}\u{10000}";

/// A message in two long frames whose border lies inside a code point, pings in between, and a short message.
fn streamed_text() -> Vec<u8> {
    let (a, b) = MIXED.as_bytes().split_at(MIXED.find('\u{10FFFF}').unwrap() + 2);
    [
        frame(FIN | PING, b"before"),
        frame(TEXT, a),
        frame(FIN | PING, b"between"),
        frame(FIN | CONT, b),
        text("short"),
        frame(FIN | BINARY, MIXED.as_bytes()),
    ]
    .concat()
}

#[test]
fn text_streams_in_fragments_that_are_text_themselves() {
    for whole_frame_max in [0, 1, 5, 16] {
        let settings = settings(whole_frame_max, 0, 1 << 20);
        check_everywhere(&settings, &streamed_text());
        for len in 4..30 {
            check(&settings, &streamed_text(), &Cuts::Every(len), true);
            check(&settings, &streamed_text(), &Cuts::Lengths(vec![1, len, 2, 1, 1]), true);
        }
    }
}

#[test]
fn a_frame_of_many_short_fragments_of_the_clients() {
    // Each code point's octets lie in frames of their own: what they complete was sent long ago.
    let octets = MIXED.as_bytes();
    for len in [1, 2, 3, 5] {
        let chunks: Vec<&[u8]> = octets.chunks(len).collect();
        let mut stream = Vec::new();
        for (i, chunk) in chunks.iter().enumerate() {
            let fin = if i + 1 == chunks.len() { FIN } else { 0 };
            stream.extend(frame(fin | if i == 0 { TEXT } else { CONT }, chunk));
        }
        for whole_frame_max in [0, 1, 2, 4] {
            check_everywhere(&settings(whole_frame_max, 0, 1 << 20), &stream);
        }
    }
}

#[test]
fn a_streamed_frame_leaves_at_once_and_its_last_fragment_has_its_fin() {
    for fin in [0, FIN] {
        let mut pair = Pair::new(&settings(16, 0, 1 << 20));
        let stream = frame(fin | BINARY, &[7; 40]);
        pair.give(&stream[..6]);
        assert_eq!(pair.sent, b"", "a header alone is not answered");
        pair.give(&stream[6..7]);
        assert_eq!(pair.sent, [BINARY, 1, 7]);
        pair.give(&stream[7..45]);
        pair.give(&stream[45..]);
        let fragment = |fin, opcode, len| Reply { fin, opcode, payload: vec![7; len] };
        let expected = [
            fragment(false, OpCode::Binary, 1),
            fragment(false, OpCode::Continuation, 38),
            fragment(fin == FIN, OpCode::Continuation, 1),
        ];
        assert_eq!(pair.replies(), expected);
        assert_eq!(pair.counts.fragments_streamed, 3);
        assert_eq!((pair.counts.bytes_gathered, pair.counts.payload_bytes), (0, 40));
    }
}

#[test]
fn a_bad_octet_in_mid_stream_is_answered_after_what_was_good() {
    let mut payload = MIXED.as_bytes().to_vec();
    payload[30] = 0xFF;
    let good = str::from_utf8(&payload).unwrap_err().valid_up_to();
    let stream = frame(FIN | TEXT, &payload);
    let settings = settings(16, 0, 1 << 20);
    check_everywhere(&settings, &stream);
    let pair = feed(&settings, &stream, &Cuts::Every(1));
    let events = replies::events(&pair.replies());
    let [Event::Data { opcode: OpCode::Text, payload: sent, ends: false }, Event::Control { .. }] =
        &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(sent, &payload[..good]);
    assert!(pair.sent.ends_with(b"\x88\x02\x03\xEF"), "Close(1007)");
    assert_eq!(pair.server.standing(), Standing::Failed(ProtocolError::InvalidUtf8));
}

#[test]
fn out_of_budget_frames_stream_instead_whatever_was_gathered() {
    let stream = [streamed_text(), frame(FIN | PING, &[b'p'; 125]), close(1000, b"bye")].concat();
    for limit in (0..40).chain([60, 64, 70, 75, 80, 100, 1000]) {
        let settings = settings(64 << 10, 0, limit);
        for cuts in (1..40).map(Cuts::Every).chain([Cuts::Whole]) {
            check(&settings, &stream, &cuts, false);
        }
        for at in 0..stream.len() {
            check(&settings, &stream, &Cuts::At(at), false);
            check(&settings, &stream, &Cuts::Lengths(vec![at + 1, 1, 2]), false);
        }
        assert!(!settings.budget.is_exhausted_for(limit), "all was given back");
    }
}

#[test]
fn a_frame_goes_on_being_gathered_only_while_there_is_room() {
    let total = Total::new(200);
    let settings = settings_of(&total, 64 << 10, 0);
    let stream = frame(FIN | BINARY, &[1; 100]);
    let mut pair = Pair::new(&settings);
    pair.give(&stream[..20]);
    assert_eq!(pair.sent, b"", "gathered");
    let rest = settings.budget.charge(190);
    pair.give(&stream[20..60]);
    assert_eq!(pair.last.head, Some(2 + 14), "what was gathered goes first");
    assert_eq!(pair.last.body, 2 + 40);
    drop(rest);
    // Once begun it cannot become one frame again.
    pair.give(&stream[60..90]);
    pair.give(&stream[90..]);
    let lens: Vec<_> = pair.replies().iter().map(|reply| (reply.fin, reply.payload.len())).collect();
    assert_eq!(lens, [(false, 14), (false, 40), (false, 30), (true, 16)]);
    assert_eq!((pair.counts.bytes_gathered, pair.counts.fragments_streamed), (14, 4));
    drop(pair);
    drop(settings);
    assert_eq!(total.taken(), 0);
}

#[test]
fn a_code_point_that_was_gathered_half_is_not_cut_when_the_frame_streams() {
    let settings = settings(64 << 10, 0, 100);
    for cut in 1..4 {
        let stream = frame(FIN | TEXT, "ab\u{1D11E}cd".as_bytes());
        let mut pair = Pair::new(&settings);
        pair.give(&stream[..6 + 2 + cut]);
        let rest = settings.budget.charge(100);
        pair.give(&stream[6 + 2 + cut..][..1]);
        assert_eq!(replies::parse(&pair.sent)[0].payload, b"ab", "cut after {cut}");
        pair.give(&stream[6 + 3 + cut..]);
        drop(rest);
        assert!(pair.replies().iter().all(|reply| str::from_utf8(&reply.payload).is_ok()));
        let whole = Event::Data { opcode: OpCode::Text, payload: "ab\u{1D11E}cd".into(), ends: true };
        assert_eq!(replies::events(&pair.replies()), [whole]);
    }
}

#[test]
fn control_frames_in_pieces_are_answered_without_any_budget() {
    let settings = settings(64 << 10, 0, 0);
    let stream =
        [frame(FIN | PING, &[b'p'; 125]), frame(FIN | PONG, &[b'q'; 125]), close(4000, &[b'r'; 123])];
    for cuts in [Cuts::Every(1), Cuts::Every(50), Cuts::At(70)] {
        let pair = check(&settings, &stream.concat(), &cuts, false);
        assert_eq!(pair.server.standing(), Standing::Closed);
        assert_eq!(pair.replies().len(), 2);
    }
}

#[test]
fn control_frames_of_our_own() {
    let mut pair = Pair::new(&default_settings());
    let ping = pair.server.ping(b"are you there").expect("open");
    assert_eq!(ping.as_ref(), b"\x89\x0Dare you there");
    assert_eq!(pair.server.ping(b"").expect("open").as_ref(), b"\x89\x00");
    let long = pair.server.ping(&[b'x'; 126]).expect("open");
    assert_eq!(long.as_ref(), [&[0x89, 125][..], &[b'x'; 125]].concat());
    assert_eq!(pair.server.close(1001), Some([0x88, 2, 0x03, 0xE9]));
    assert_eq!(pair.server.standing(), Standing::Closing);
    assert_eq!(pair.server.close(1000), None, "one Close is enough");
    assert!(pair.server.ping(b"").is_none());
}

/// Our Close before each octet of `stream`: what comes after is dropped until the peer's Close.
fn close_anywhere(settings: &Rc<Settings>, stream: &[u8]) {
    for at in 0..=stream.len() {
        for then in [1, 5, 1000] {
            let mut pair = Pair::new(settings);
            pair.give(&stream[..at]);
            if pair.server.standing() != Standing::Open {
                continue;
            }
            let before = pair.sent.len();
            pair.close(1001);
            for piece in stream[at..].chunks(then) {
                pair.give(piece);
            }
            assert_eq!(pair.sent[before..], [0x88, 2, 0x03, 0xE9], "at {at} in pieces of {then}");
            assert_eq!(
                pair.server.standing(),
                Standing::Closed,
                "at {at} in pieces of {then}: {stream:02x?}"
            );
            pair.replies();
        }
    }
}

#[test]
fn our_close_in_mid_stream_or_mid_gather_drops_data_until_the_peers() {
    let message = MIXED.as_bytes();
    let stream = [
        frame(TEXT, message),
        frame(FIN | PING, b"not answered any more"),
        frame(CONT, b"\xFF not even judged"),
        frame(FIN | CONT, b""),
        frame(BINARY, &[0; 200]),
        frame(FIN | PONG, b"pong"),
        close(1001, b"the answer"),
        text("behind it"),
    ]
    .concat();
    // As long as nothing was wrong before our Close.
    let good = frame(TEXT, message).len() + frame(FIN | PING, b"not answered any more").len();
    for settings in [settings(16, 0, 1 << 20), default_settings(), settings(64 << 10, 0, 0)] {
        let mut pair = Pair::new(&settings);
        pair.give(&stream[..good]);
        pair.close(1001);
        pair.give(&stream[good..]);
        assert_eq!(pair.server.standing(), Standing::Closed);
        let valid = [
            frame(TEXT, message),
            frame(FIN | PING, b"ping"),
            frame(FIN | CONT, b""),
            frame(FIN | BINARY, &[0; 200]),
            frame(FIN | PONG, b"pong"),
            close(1001, b"the answer"),
        ];
        close_anywhere(&settings, &valid.concat());
        // What stands in the peer's Close does not matter then.
        let mut odd = Pair::new(&settings);
        odd.close(1001);
        odd.give(&frame(FIN | CLOSE, b"?"));
        assert_eq!(odd.server.standing(), Standing::Closed);
    }
}

#[test]
fn the_rules_of_frames_hold_after_our_close_but_no_second_close_is_sent() {
    let stream = [0xFF];
    let mut pair = Pair::new(&default_settings());
    pair.close(1001);
    let before = pair.sent.len();
    pair.give(&stream);
    assert_eq!(pair.server.standing(), Standing::Failed(ProtocolError::ReservedBits));
    assert_eq!(pair.sent.len(), before);
}

#[test]
fn client_and_server_talk_until_the_close_is_answered() {
    for piece in [1, 3, 10, 1000] {
        let mut pair = Pair::new(&settings(16, 0, 1 << 20));
        pair.queue(&streamed_text());
        pair.drive(piece);
        pair.ping(b"keep-alive");
        pair.queue(&text("still here"));
        pair.drive(piece);
        assert_eq!(pair.counts.pongs, 1);
        assert!(pair.sent.ends_with(b"\x81\x0Astill here"));
        pair.queue(&frame(FIN | BINARY, &[9; 50])[..30]);
        pair.drive(piece);
        pair.close(1001);
        pair.queue(&frame(FIN | BINARY, &[9; 50])[30..]);
        pair.drive(piece);
        assert_eq!(pair.server.standing(), Standing::Closed, "the client has answered the Close");
    }
}

#[test]
fn is_mid_message_tells_a_good_moment_from_a_bad_one() {
    let stream = [frame(TEXT, b"ab"), frame(FIN | PING, b""), frame(FIN | CONT, b"c")].concat();
    for at in 0..=stream.len() {
        let mut pair = Pair::new(&default_settings());
        assert!(!pair.server.is_mid_message());
        pair.give(&stream[..at]);
        assert_eq!(pair.server.is_mid_message(), at != 0 && at != stream.len(), "at {at}");
    }
}

#[test]
fn ten_thousand_headers_of_1_gib_and_a_byte() {
    let opening = [header(FIN | BINARY, 1 << 30), vec![0x55]].concat();
    for (whole_frame_max, is_gathered) in [(64 << 10, false), (u64::MAX, true)] {
        let total = Total::new(256 << 20);
        let settings = settings_of(&total, whole_frame_max, 0);
        let connections: Vec<Connection> = (0..10_000)
            .map(|_| {
                let mut pair = Pair::new(&settings);
                pair.give(&opening);
                assert_eq!(pair.sent.is_empty(), is_gathered);
                assert_eq!(pair.server.standing(), Standing::Open);
                pair.server
            })
            .collect();
        assert!(total.taken() <= 10_000 << 10, "{} bytes for a byte each", total.taken());
        // What is charged is what is allocated: 10 bytes of room for the header, one of payload.
        let free = (256 << 20) - 10_000 * 11;
        assert_eq!(settings.budget.is_exhausted_for(free + 1), is_gathered);
        assert!(!settings.budget.is_exhausted_for(free));
        drop(connections);
        assert!(!settings.budget.is_exhausted_for(256 << 20));
    }
}

#[test]
fn a_frame_of_2_pow_40_streams_with_nothing_kept() {
    for announced in [1 << 40, i64::MAX.unsigned_abs()] {
        let total = Total::new(64 << 20);
        let settings = settings_of(&total, 64 << 10, 0);
        let mut connection = Connection::new(Rc::clone(&settings));
        let opening = header(FIN | BINARY, announced);
        let key: [u8; 4] = opening[opening.len() - 4..].try_into().unwrap();
        let mut buffer = [&[0; HEADROOM], &opening[..]].concat();
        let filled = HEADROOM..buffer.len();
        assert!(connection.receive(&mut buffer, filled).body.is_empty());
        let (mut octets, mut first, mut echoed) = (0, BINARY, 0);
        for len in [1, 4095, 65_536, 65_537, 100_001, 3].into_iter().cycle().take(120) {
            let payload: Vec<u8> = (octets..octets + len).map(|i| u8::try_from(i % 253).unwrap()).collect();
            let phase = [0, 1, 2, 3].map(|i| key[(octets + i) % 4]);
            let mut buffer = [vec![0; HEADROOM], masked(&payload, phase)].concat();
            let filled = HEADROOM..buffer.len();
            let progress = connection.receive(&mut buffer, filled);
            let opcode = OpCode::from_bits(first).unwrap();
            let fragment = Reply { fin: false, opcode, payload };
            assert!(buffer[progress.body] == fragment.bytes(), "{len} octets after {octets}");
            assert!(progress.head.is_none() && progress.tail.is_none());
            assert_eq!(progress.standing, Standing::Open);
            assert_eq!(total.taken(), 0);
            octets += len;
            echoed += progress.counts.payload_bytes;
            first = CONT;
        }
        assert_eq!(echoed, octets as u64);
        assert!(octets > 4 << 20);
    }
}

/// Sends `rounds` continuations of this payload, many to a receive and cut anywhere, and gives the greatest growth
/// of the process's memory meanwhile, in bytes.
fn continuations(payload: &[u8], rounds: u64) -> u64 {
    let total = Total::new(1 << 20);
    let settings = settings_of(&total, 64 << 10, 0);
    let mut connection = Connection::new(Rc::clone(&settings));
    let mut stream = frame(TEXT, b"");
    let (mut left, mut frames, mut highest) = (rounds, 0, 0);
    let before = resident_bytes();
    let mut buffer = vec![0; HEADROOM + 4093];
    while left > 0 || !stream.is_empty() {
        while stream.len() < 4093 && left > 0 {
            stream.extend(frame(CONT, payload));
            left -= 1;
        }
        let len = stream.len().min(4093);
        buffer[HEADROOM..HEADROOM + len].copy_from_slice(&stream[..len]);
        stream.drain(..len);
        let progress = connection.receive(&mut buffer, HEADROOM..HEADROOM + len);
        assert_eq!(progress.standing, Standing::Open);
        assert!(progress.head.is_none());
        frames += u64::from(progress.counts.frames);
        assert_eq!(total.taken(), 0, "nothing is kept for a fragment");
        highest = highest.max(resident_bytes());
    }
    assert_eq!(frames, rounds + 1);
    highest.saturating_sub(before)
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn empty_and_one_byte_continuations_keep_nothing() {
    continuations(b"", 10_000);
    continuations(b"a", 10_000);
}

#[test]
#[ignore = "volume: a million fragments of each kind"]
fn a_million_empty_and_one_byte_continuations_keep_nothing() {
    for payload in [&b""[..], b"a"] {
        let growth = continuations(payload, stress_rounds(1_000_000));
        assert!(growth <= 8 << 20, "resident memory grew by {growth} bytes");
    }
}

/// Frames of all lengths up to 300, each whole in one receive, alone or several together.
fn whole_frames(rounds: u64) {
    let settings = default_settings();
    let mut connection = Connection::new(Rc::clone(&settings));
    let payload = [b'x'; 300];
    let (mut sent, mut frames) = (0, 0);
    while (sent as u64) < rounds {
        let together = 1 + sent % 4;
        let mut buffer = vec![0; HEADROOM];
        for i in 0..together {
            let first = FIN | [TEXT, BINARY, PING][(sent + i) % 3];
            let len = (sent + i) % 301;
            buffer.extend(frame(first, &payload[..if first == FIN | PING { len.min(125) } else { len }]));
        }
        let filled = HEADROOM..buffer.len();
        let progress = connection.receive(&mut buffer, filled.clone());
        assert!(progress.head.is_none() && progress.tail.is_none());
        // Each frame loses its key and nothing else; the reply lies where the frames lay.
        assert_eq!(progress.body.len(), filled.len() - 4 * together);
        assert!(filled.start <= progress.body.start && progress.body.end <= filled.end);
        assert_eq!(progress.counts.bytes_gathered, 0);
        assert!(!settings.budget.is_exhausted_for(256 << 20));
        frames += progress.counts.frames as usize;
        sent += together;
    }
    assert_eq!(frames, sent);
}

#[test]
fn frames_that_arrive_whole_are_not_copied() {
    whole_frames(10_000);
}

#[test]
#[ignore = "volume: a million frames"]
fn a_million_frames_that_arrive_whole_are_not_copied() {
    whole_frames(stress_rounds(1_000_000));
}

#[test]
fn bytes_gathered_are_the_bytes_of_the_pieces() {
    for opcode in [TEXT, BINARY, PING, PONG] {
        let stream = [text("before"), frame(FIN | opcode, &[b'x'; 100]), text("behind")].concat();
        let payload = 12 + 6..12 + 6 + 100;
        for at in 0..stream.len() {
            let pair = feed(&default_settings(), &stream, &Cuts::At(at));
            let is_cut =
                payload.start < at && at < payload.end || (6 < at && at < 12) || (124 < at && at < 130);
            let expected = match at {
                _ if !is_cut => 0,
                13..118 => 100,
                _ => 6,
            };
            assert_eq!(pair.counts.bytes_gathered, expected, "cut at {at}");
        }
    }
}

#[test]
fn a_budget_of_several_connections_is_theirs_together() {
    let total = Total::new(64);
    let budget = Budget::new(std::sync::Arc::clone(&total));
    let settings = Rc::new(Settings { whole_frame_max: 1000, max_message_size: 0, budget });
    let stream = frame(FIN | BINARY, &[1; 50]);
    let mut first = Pair::new(&settings);
    let mut second = Pair::new(&settings);
    first.give(&stream[..36]);
    assert_eq!(first.sent, b"", "the first has room");
    second.give(&stream[..36]);
    assert_eq!(second.sent.len(), 2 + 30, "the second streams");
    first.close(1001);
    let mut third = Pair::new(&settings);
    third.give(&stream[..36]);
    assert_eq!(third.sent, b"", "a Close has given the room back");
    third.give(&stream[36..]);
    assert_eq!(third.sent.len(), 2 + 50);
}
