//! Tests of what is sent.

use super::*;
use std::collections::HashSet;

const KINDS: [Kind; 5] = [Kind::Text, Kind::Utf8, Kind::Binary, Kind::Mixed, Kind::Ping];

fn traffic(kind: Kind, size: usize) -> Traffic {
    Traffic::new(Settings::fixed(kind, size), 7)
}

#[test]
fn payloads_have_the_size_and_the_kind() {
    for size in (0..=300).chain([4095, 4096, 4097, 65_535, 65_536]) {
        for kind in KINDS {
            let traffic = traffic(kind, size);
            for ahead in (0..VARIANTS).step_by(if size > 300 { 97 } else { 5 }) {
                let payload = traffic.payload(traffic.plus(Variant(0), ahead));
                assert_eq!(payload.len(), size);
                match kind {
                    Kind::Text => assert!(payload.iter().all(|byte| (b' '..=b'~').contains(byte))),
                    Kind::Utf8 => assert!(std::str::from_utf8(payload).is_ok(), "{size} {ahead}"),
                    Kind::Mixed if ahead % 3 == 0 => assert!(payload.is_ascii()),
                    Kind::Mixed if ahead % 3 == 1 => assert!(std::str::from_utf8(payload).is_ok()),
                    Kind::Binary | Kind::Mixed | Kind::Ping => {}
                }
            }
        }
    }
}

#[test]
fn multibyte_text_has_code_points_of_every_length() {
    let traffic = traffic(Kind::Utf8, 1000);
    let text = std::str::from_utf8(traffic.payload(Variant(3))).expect("valid");
    for len in 1..=4 {
        let count = text.chars().filter(|c| c.len_utf8() == len).count();
        assert!((99..=101).contains(&count), "{count} code points of {len} bytes");
    }
}

#[test]
fn the_messages_of_a_round_all_differ() {
    for kind in KINDS {
        let traffic = traffic(kind, 16);
        let mut variant = Variant::of_connection(5);
        let mut seen = HashSet::new();
        for ahead in 0..VARIANTS {
            assert_eq!(variant, traffic.plus(traffic.first(5), ahead));
            assert!(seen.insert(traffic.payload(variant).to_vec()));
            variant = traffic.next(variant);
        }
        assert_eq!(variant, Variant::of_connection(5));
    }
}

#[test]
fn connections_begin_differently_next_to_each_other_and_in_steps() {
    for index in 0..VARIANTS - 1 {
        assert_ne!(Variant::of_connection(index), Variant::of_connection(index + 1));
    }
    for step in [1, 64, VARIANTS - 1, VARIANTS, VARIANTS + 1, 2 * VARIANTS, VARIANTS * VARIANTS] {
        let variants: Vec<_> = (0..1000).map(|count| Variant::of_connection(5 + count * step).0).collect();
        let alike = variants.windows(2).filter(|two| two[0] == two[1]).count();
        let different = variants.iter().collect::<HashSet<_>>().len();
        // Drawn at random, some 620 are different, and one in 1,021 is like the one before it.
        assert!(alike < 10 && different > 500, "in steps of {step}: {alike} alike, {different} different");
    }
}

#[test]
fn kinds_and_sizes_vary_within_a_round_and_text_stays_valid() {
    let sizes = "0-40:9,1k:1".parse().expect("valid");
    let settings = Settings { kind: Kind::Mixed, sizes, fragments: 1..=4, ping_every: None };
    let traffic = Traffic::new(settings, 7);
    assert!(traffic.is_varied() && traffic.plain().is_none() && traffic.size().is_none());
    let mut total = 0;
    for variant in (0..VARIANTS).map(Variant) {
        let shape = traffic.shape(variant);
        let payload = traffic.payload(variant);
        assert_eq!(payload.len(), shape.size);
        assert!(shape.size <= 40 || shape.size == 1000);
        assert!((1..=4).contains(&shape.fragments));
        match shape.opcode {
            OpCode::Text => assert!(std::str::from_utf8(payload).is_ok()),
            opcode => assert_eq!((opcode, variant.0 % 3), (OpCode::Binary, 2)),
        }
        total += shape.size;
    }
    assert!((traffic.mean_size() - total as f64 / VARIANTS as f64).abs() < 1e-6);
    assert!((traffic.mean_size() - 118.0).abs() < 2.0, "{}", traffic.mean_size());
    for fragments in 1..=4 {
        assert!((0..VARIANTS).any(|variant| traffic.shape(Variant(variant)).fragments == fragments));
    }
}

#[test]
fn a_message_of_which_one_byte_is_wrong_is_like_one() {
    let traffic = traffic(Kind::Ping, 8);
    let right = traffic.payload(Variant(700));
    for at in 0..right.len() {
        let mut wrong = right.to_vec();
        wrong[at] ^= 1;
        assert!(traffic.has_like(&wrong), "{at}");
    }
    assert!(traffic.has_like(right) && traffic.has_like(&right[..4]) && traffic.has_like(&right[4..]));
    for other in ["", "abc", "heartbeat", "12345678"] {
        assert!(!traffic.has_like(other.as_bytes()), "{other}");
    }
}

#[test]
fn fragments_are_about_as_long_and_leave_nothing_out() {
    for (size, fragments) in [(0, 1), (0, 3), (2, 3), (10, 3), (1 << 30, 65_536)] {
        let shape = Shape { opcode: OpCode::Text, size, fragments, start: 0 };
        let mut end = 0;
        for index in 0..fragments {
            let range = shape.fragment(index);
            assert_eq!(range.start, end);
            assert!(range.len().abs_diff(size / fragments as usize) <= 1);
            end = range.end;
        }
        assert_eq!(end, size);
    }
}

#[test]
fn traffic_is_described() {
    let described = |kind, sizes: &str, fragments, every| {
        let sizes = sizes.parse().expect("valid");
        let ping_every = NonZeroU32::new(every);
        Traffic::new(Settings { kind, sizes, fragments, ping_every }, 7).describe()
    };
    assert_eq!(described(Kind::Text, "64", 1..=1, 0), "text of 64 bytes");
    assert_eq!(described(Kind::Utf8, "1k", 3..=3, 1), "utf8 of 1000 bytes in 3 frames, a ping with each");
    assert_eq!(
        described(Kind::Mixed, "0:1,200:1", 1..=4, 100),
        "mixed of 0:1,200:1 bytes (100 on average) in 1 to 4 frames, a ping every 100"
    );
}

#[test]
fn headers_are_those_of_a_client() {
    for (size, len) in [(0, 6), (125, 6), (126, 8), (65_535, 8), (65_536, 14)] {
        let key = Key::new([1, 2, 3, 4]);
        let head = traffic(Kind::Binary, size).plain().expect("all alike").with_key(key);
        let parsed = Header::parse(&head.bytes[..head.len], ringback::proto::frame::Sender::Client);
        let expected = Header { fin: true, opcode: OpCode::Binary, payload_len: size as u64, key: Some(key) };
        assert_eq!(parsed, Ok(Some((expected, len))));
    }
}

#[test]
fn messages_of_a_file_come_in_their_order() {
    let lines = ["first", "", "a longer line", "ä"];
    let messages = FileMessages::of_lines(&lines.map(str::to_owned));
    let traffic = Traffic::of_file(messages, &(1..=1), None, 7);
    assert_eq!((traffic.size(), traffic.plain().is_none(), traffic.is_varied()), (None, true, true));
    for index in [0, 1, 1021] {
        let mut variant = traffic.first(index);
        for line in lines.iter().cycle().take(9) {
            assert_eq!(
                (traffic.payload(variant), traffic.shape(variant).opcode),
                (line.as_bytes(), OpCode::Text)
            );
            assert_eq!(traffic.minus(traffic.next(variant), 257), traffic.plus(variant, 4));
            variant = traffic.next(variant);
        }
    }
    assert_eq!(traffic.describe(), "4 text messages of a file of 0-13 bytes (5 on average)");
    let one = Traffic::of_file(FileMessages::of_lines(&["only".to_owned()]), &(1..=1), None, 7);
    assert_eq!((one.size(), one.payload(one.next(one.first(3)))), (Some(4), &b"only"[..]));
    assert!(one.plain().is_some() && one.describe() == "a text message of a file of 4 bytes");
}
