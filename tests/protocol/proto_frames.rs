//! The rules of RFC 6455 for frames, each by name: every stream whole, cut at every octet and octet by octet, against
//! the model.

use std::rc::Rc;

use ringback::proto::frame::OpCode;
use ringback::proto::{ProtocolError, Settings, Standing};

use crate::support::client::{
    BINARY, CLOSE, CONT, FIN, OPCODES, PING, PONG, TEXT, close, frame, header, header_with_length, text,
};
use crate::support::model::{check, check_everywhere};
use crate::support::pair::{Cuts, Pair, default_settings, feed, settings};
use crate::support::replies::Reply;

/// Everything is echoed whole, or nearly everything streams.
fn both() -> [Rc<Settings>; 2] {
    [default_settings(), settings(16, 0, 1 << 20)]
}

/// The stream fails with `error` at the last of its octets and not before, wherever it is cut.
fn refused(stream: &[u8], error: ProtocolError) {
    for settings in both() {
        check_everywhere(&settings, stream);
        let mut pair = Pair::new(&settings);
        pair.give(&stream[..stream.len() - 1]);
        assert_eq!(pair.server.standing(), Standing::Open, "{stream:02x?} is judged too early");
        pair.give(&stream[stream.len() - 1..]);
        assert_eq!(pair.server.standing(), Standing::Failed(error), "{stream:02x?}");
        let followed = [stream, &text("not read any more"), &[0xFF; 40]].concat();
        check_everywhere(&settings, &followed);
    }
}

fn taken(stream: &[u8]) {
    for settings in both() {
        check_everywhere(&settings, stream);
        let pair = feed(&settings, stream, &Cuts::Whole);
        assert!(!matches!(pair.server.standing(), Standing::Failed(_)), "{stream:02x?}");
    }
}

#[test]
fn each_frame_comes_back_as_it_was() {
    let payload: Vec<u8> = (0..70_000_u32).map(|i| (i % 251) as u8).collect();
    for len in [0, 1, 2, 3, 4, 5, 124, 125, 126, 127, 128, 255, 256, 65_534, 65_535, 65_536, 65_537, 70_000] {
        let settings = settings(70_000, 0, 1 << 20);
        let stream = frame(FIN | BINARY, &payload[..len]);
        let reply = Reply { fin: true, opcode: OpCode::Binary, payload: payload[..len].to_vec() };
        let header_len = stream.len() - len;
        for cut in [0, 1, header_len - 1, header_len, header_len + len / 2, stream.len() - 1] {
            let pair = feed(&settings, &stream, &Cuts::At(cut));
            assert!(pair.sent == reply.bytes(), "{len} octets cut at {cut}");
            assert_eq!(pair.counts.binaries, 1);
            assert_eq!(pair.counts.payload_bytes, len as u64);
        }
    }
}

#[test]
fn long_text_behind_other_frames() {
    // Longer than what is unmasked at a time, with code points across each place where that may end.
    for shift in 0..4 {
        let text = "x".repeat(shift) + &"\u{1D11E}".repeat(10_000);
        let stream =
            [frame(FIN | PING, b"moves all to the left"), frame(FIN | TEXT, text.as_bytes())].concat();
        let pair = feed(&default_settings(), &stream, &Cuts::Whole);
        let replies = pair.replies();
        assert!(replies[1].payload == text.as_bytes(), "shift {shift}");
        let mut spoilt = text.into_bytes();
        spoilt[39_000] = b'x';
        let pair = feed(&default_settings(), &frame(FIN | TEXT, &spoilt), &Cuts::Whole);
        assert_eq!(pair.server.standing(), Standing::Failed(ProtocolError::InvalidUtf8));
        assert_eq!(pair.sent.len(), 4, "nothing but the Close");
    }
}

#[test]
fn length_2_pow_63_and_2_pow_64_minus_1() {
    for first in [FIN | TEXT, BINARY] {
        for length in [1 << 63, u64::MAX] {
            let stream = header_with_length(first, 0x80, &[&[127], &length.to_be_bytes()[..]].concat());
            refused(&stream[..3], ProtocolError::LengthTopBit);
            for settings in both() {
                check_everywhere(&settings, &stream);
            }
        }
        taken(&header(first, i64::MAX.unsigned_abs()));
    }
}

#[test]
fn lengths_at_the_limit_and_one_off() {
    let at_limit = |limit, stream: &[u8], standing| {
        for whole_frame_max in [64 << 10, 16] {
            let settings = settings(whole_frame_max, limit, 1 << 20);
            check_everywhere(&settings, stream);
            assert_eq!(feed(&settings, stream, &Cuts::Whole).server.standing(), standing);
        }
    };
    let too_big = Standing::Failed(ProtocolError::MessageTooBig);
    at_limit(200, &frame(FIN | BINARY, &[7; 199]), Standing::Open);
    at_limit(200, &frame(FIN | BINARY, &[7; 200]), Standing::Open);
    // Judged at the header: no payload is needed, nor taken.
    at_limit(200, &header(FIN | BINARY, 201), too_big);
    at_limit(200, &frame(FIN | TEXT, &[b'7'; 201]), too_big);
    // Over all fragments, pings not among them.
    let first = [frame(TEXT, &[b'a'; 120]), frame(FIN | PING, &[b'p'; 100])].concat();
    at_limit(200, &[&first[..], &frame(FIN | CONT, &[b'b'; 80])].concat(), Standing::Open);
    at_limit(200, &[&first[..], &header(FIN | CONT, 81)].concat(), too_big);
    at_limit(200, &[&first[..], &header(CONT, i64::MAX.unsigned_abs())].concat(), too_big);
    // Each message on its own.
    at_limit(200, &frame(FIN | BINARY, &[7; 200]).repeat(3), Standing::Open);
    let longest = i64::MAX.unsigned_abs();
    at_limit(longest - 1, &header(FIN | BINARY, longest), too_big);
    at_limit(longest, &header(FIN | BINARY, longest), Standing::Open);
}

#[test]
fn continuation_order_all_20736_sequences_of_four_frames() {
    let settings = default_settings();
    let kinds: Vec<Vec<u8>> = OPCODES
        .iter()
        .flat_map(|&opcode| [opcode, FIN | opcode])
        .map(|first| match first & 0x0F {
            CLOSE => frame(first, &1000_u16.to_be_bytes()),
            _ => frame(first, &[b'a' + (first & 0x0F)]),
        })
        .collect();
    let mut sequences = 0;
    for a in &kinds {
        for b in &kinds {
            for c in &kinds {
                for d in &kinds {
                    let stream = [&a[..], b, c, d].concat();
                    check(&settings, &stream, &Cuts::Whole, true);
                    check(&settings, &stream, &Cuts::Every(1), true);
                    check(&settings, &stream, &Cuts::Every(5), true);
                    sequences += 1;
                }
            }
        }
    }
    assert_eq!(sequences, 20_736);
}

#[test]
fn data_frame_inside_a_message_and_continuation_outside() {
    for opening in [TEXT, BINARY] {
        for inner in [TEXT, BINARY, FIN | TEXT, FIN | BINARY] {
            refused(&[&frame(opening, b"a")[..], &[inner]].concat(), ProtocolError::ExpectedContinuation);
            let after_ping = [&frame(opening, b"")[..], &frame(FIN | PING, b"p"), &[inner]].concat();
            refused(&after_ping, ProtocolError::ExpectedContinuation);
        }
    }
    for first in [CONT, FIN | CONT] {
        refused(&[first], ProtocolError::UnexpectedContinuation);
        refused(&[&text("whole")[..], &[first]].concat(), ProtocolError::UnexpectedContinuation);
        let finished = [&frame(TEXT, b"a")[..], &frame(FIN | CONT, b"b"), &[first]].concat();
        refused(&finished, ProtocolError::UnexpectedContinuation);
    }
}

#[test]
fn of_several_faults_the_first_octet_decides() {
    // A continuation outside a message, not masked either: wherever the octets are cut.
    let stream = [CONT, 0x05, 1, 2, 3, 4, 5];
    for cuts in [Cuts::Whole, Cuts::Every(1)] {
        let pair = feed(&default_settings(), &stream, &cuts);
        let standing = Standing::Failed(ProtocolError::UnexpectedContinuation);
        assert_eq!(pair.server.standing(), standing, "{cuts:?}");
    }
}

#[test]
fn reserved_bits() {
    for opcode in 0..16 {
        for rsv in 1..8 {
            for fin in [0, FIN] {
                refused(&[fin | (rsv << 4) | opcode], ProtocolError::ReservedBits);
            }
        }
    }
    refused(&[&frame(TEXT, b"a")[..], &[0xC0]].concat(), ProtocolError::ReservedBits);
}

#[test]
fn reserved_opcodes() {
    for opcode in (3..8).chain(0xB..16) {
        for fin in [0, FIN] {
            refused(&[fin | opcode], ProtocolError::ReservedOpcode(opcode));
        }
    }
}

#[test]
fn control_frames_fragmented_or_long() {
    for opcode in [CLOSE, PING, PONG] {
        refused(&[opcode], ProtocolError::ControlFragmented);
        for length in [126, 127] {
            refused(&[FIN | opcode, 0x80 | length], ProtocolError::ControlTooLong);
            refused(
                &[&frame(TEXT, b"a")[..], &[FIN | opcode, 0x80 | length]].concat(),
                ProtocolError::ControlTooLong,
            );
        }
    }
    taken(
        &[frame(FIN | PING, &[0xFF; 125]), frame(FIN | PONG, &[0xFF; 125]), frame(FIN | PING, b"")].concat(),
    );
}

#[test]
fn unmasked_client_frame_of_each_opcode() {
    for opcode in OPCODES {
        for length in [0, 1, 125] {
            let mut stream = Vec::new();
            if opcode == CONT {
                stream = frame(TEXT, b"a");
            }
            stream.extend(header_with_length(FIN | opcode, 0, &[length]));
            refused(&stream, ProtocolError::Unmasked);
        }
    }
    for length in [126, 127] {
        refused(&[FIN | TEXT, length], ProtocolError::Unmasked);
    }
}

#[test]
fn non_minimal_length() {
    for length in 0..126_u16 {
        let field = [&[126], &length.to_be_bytes()[..]].concat();
        refused(&header_with_length(FIN | BINARY, 0x80, &field), ProtocolError::LengthNotMinimal);
    }
    // Six zeros of eight are enough to know.
    refused(&[FIN | TEXT, 0xFF, 0, 0, 0, 0, 0, 0], ProtocolError::LengthNotMinimal);
    for length in [0, 1, 125, 126, 0xFFFF_u64] {
        let field = [&[127], &length.to_be_bytes()[..]].concat();
        for settings in both() {
            let stream = header_with_length(FIN | BINARY, 0x80, &field);
            check_everywhere(&settings, &[stream, vec![0; 9]].concat());
        }
    }
    for length in [126, 127, 0xFFFF, 0x1_0000, 0x1_0000_0000] {
        taken(&header(FIN | BINARY, length));
    }
}

#[test]
fn all_65536_close_codes() {
    let settings = default_settings();
    let mut valid = 0;
    for code in 0..=u16::MAX {
        let stream = close(code, b"");
        let pair = check(&settings, &stream, &Cuts::Whole, true);
        check(&settings, &stream, &Cuts::Every(1), true);
        valid += usize::from(pair.server.standing() == Standing::Closed);
        assert_eq!(pair.counts.close.is_some(), pair.server.standing() == Standing::Closed);
        if let Some(given) = pair.counts.close {
            assert_eq!(given, Some(code));
        }
    }
    assert_eq!(valid, 4 + 8 + 2000);
}

#[test]
fn close_of_length_one() {
    for octet in 0..=u8::MAX {
        refused(&frame(FIN | CLOSE, &[octet]), ProtocolError::CloseTruncated);
    }
}

#[test]
fn close_reasons() {
    taken(&frame(FIN | CLOSE, b""));
    for reason in ["", "bye", "ciao \u{1F44B}", &"\u{20AC}".repeat(41)] {
        taken(&close(1000, reason.as_bytes()));
        taken(&close(4999, reason.as_bytes()));
    }
    let mut long = [b'x'; 123];
    taken(&close(1001, &long));
    long[122] = 0xC3;
    refused(&close(1001, &long), ProtocolError::InvalidUtf8);
    for bad in [&b"\xFF"[..], b"abc\xC3", b"\xE2\x82", b"\xED\xA0\x80", b"\xC0\x80", b"\xF4\x90\x80\x80"] {
        refused(&close(1000, bad), ProtocolError::InvalidUtf8);
    }
    // The code is judged before the reason.
    refused(&close(1005, b"\xFF"), ProtocolError::CloseCode(1005));
}

#[test]
fn message_that_ends_inside_a_code_point() {
    for cut in [&b"\xC3"[..], b"\xE2", b"\xE2\x82", b"\xF0", b"\xF0\x9D", b"\xF0\x9D\x84"] {
        let whole = [b"abc", cut].concat();
        refused(&frame(FIN | TEXT, &whole), ProtocolError::InvalidUtf8);
        refused(&[frame(TEXT, b"abc"), frame(FIN | CONT, cut)].concat(), ProtocolError::InvalidUtf8);
        refused(&[frame(TEXT, &whole), frame(FIN | CONT, b"")].concat(), ProtocolError::InvalidUtf8);
        let long = [&[b'x'; 40], cut].concat();
        refused(&frame(FIN | TEXT, &long), ProtocolError::InvalidUtf8);
        // The next message's text begins anew.
        taken(&[frame(FIN | BINARY, &whole), text("abc")].concat());
    }
}

#[test]
fn utf8_across_borders() {
    let samples = ["\u{7F}\u{80}\u{7FF}\u{800}", "\u{D7FF}\u{E000}\u{FFFD}\u{FFFF}", "\u{10000}\u{10FFFF}"];
    for sample in samples {
        let octets = sample.as_bytes();
        for cut in 0..=octets.len() {
            let (a, b) = octets.split_at(cut);
            taken(&[frame(TEXT, a), frame(FIN | PING, b"\xFF"), frame(FIN | CONT, b)].concat());
            for second_cut in 0..=b.len() {
                let (b, c) = b.split_at(second_cut);
                let stream = [frame(TEXT, a), frame(CONT, b), frame(FIN | CONT, c), text("next")].concat();
                check(&default_settings(), &stream, &Cuts::Whole, true);
                check(&settings(1, 0, 1 << 20), &stream, &Cuts::Every(1), true);
            }
        }
    }
}

#[test]
fn bad_text_fails_at_its_first_bad_octet() {
    // Each ends with the first octet that no further one could mend.
    let bad: [&[u8]; 14] = [
        b"\x80",
        b"a\xBF",
        b"\xC0",
        b"\xC1",
        b"\xF5",
        b"\xFF",
        b"\xC3a",
        b"\xE0\x9F",
        b"\xED\xA0",
        b"\xE2\x82a",
        b"\xF0\x8F",
        b"\xF4\x90",
        b"\xF0\x9D\x84a",
        b"\xE2\xE2",
    ];
    for octets in bad {
        let behind = 30;
        // In one frame, of which the rest is still to come.
        let whole = frame(FIN | TEXT, &[octets, &[b'x'; 30]].concat());
        refused(&whole[..whole.len() - behind], ProtocolError::InvalidUtf8);
        // Cut by the client's own borders.
        for cut in 0..octets.len() {
            let (a, b) = octets.split_at(cut);
            refused(&[frame(TEXT, a), frame(CONT, b)].concat(), ProtocolError::InvalidUtf8);
        }
    }
    // Control frames between fragments, and binary, are not text.
    taken(&[frame(TEXT, b"\xC3"), frame(FIN | PING, b"\xFF\xC3"), frame(FIN | CONT, b"\xA4")].concat());
    taken(&[frame(BINARY, b"\xFF"), frame(FIN | CONT, b"\xC3")].concat());
}

#[test]
fn ping_and_pong() {
    let stream = [frame(FIN | PING, b"a"), frame(FIN | PONG, b"unasked"), frame(FIN | PING, b"")].concat();
    taken(&stream);
    let pair = feed(&default_settings(), &stream, &Cuts::Whole);
    assert_eq!(pair.sent, b"\x8A\x01a\x8A\x00");
    assert_eq!((pair.counts.pings, pair.counts.pongs, pair.counts.frames), (2, 1, 3));
    assert_eq!(pair.counts.payload_bytes, 0);
}

#[test]
fn nothing_after_the_peers_close_is_read() {
    let stream = [text("a"), close(3000, b"done"), text("b"), vec![0xFF; 20]].concat();
    taken(&stream);
    let pair = feed(&default_settings(), &stream, &Cuts::Whole);
    assert_eq!(pair.server.standing(), Standing::Closed);
    assert_eq!(pair.sent, b"\x81\x01a\x88\x06\x0B\xB8done");
}

#[test]
fn counts_are_the_same_however_it_is_cut() {
    let stream = [
        text("one"),
        frame(TEXT, b"tw"),
        frame(FIN | PING, b"?"),
        frame(FIN | CONT, b"o"),
        frame(FIN | BINARY, &[3; 300]),
        frame(FIN | PONG, b"!"),
        close(1000, b""),
    ]
    .concat();
    let whole = feed(&default_settings(), &stream, &Cuts::Whole).counts;
    assert_eq!((whole.frames, whole.texts, whole.binaries, whole.pings, whole.pongs), (7, 2, 1, 1, 1));
    assert_eq!((whole.payload_bytes, whole.bytes_gathered, whole.close), (306, 0, Some(Some(1000))));
    for at in 0..stream.len() {
        let mut cut = feed(&default_settings(), &stream, &Cuts::At(at)).counts;
        cut.bytes_gathered = 0;
        assert_eq!(cut, whole, "cut at {at}");
    }
}
