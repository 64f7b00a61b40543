//! Random streams of frames, some of them spoilt, cut at random, against the model.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::support::client::{BINARY, CLOSE, CONT, FIN, PING, PONG, TEXT, frame};
use crate::support::model::check;
use crate::support::pair::{Cuts, settings};

/// A message or control frame as the peer may send it.
#[derive(Clone, Debug)]
enum Item {
    /// Cut into frames at these places, with a ping before each but the first.
    Message {
        is_text: bool,
        payload: Vec<u8>,
        borders: Vec<Index>,
        pings: bool,
    },
    Control {
        opcode: u8,
        payload: Vec<u8>,
    },
}

impl Item {
    fn write(&self, stream: &mut Vec<u8>) {
        match self {
            Self::Control { opcode, payload } => stream.extend(frame(FIN | opcode, payload)),
            Self::Message { is_text, payload, borders, pings } => {
                let mut borders: Vec<usize> =
                    borders.iter().map(|border| border.index(payload.len() + 1)).collect();
                borders.sort_unstable();
                borders.push(payload.len());
                let mut begun = 0;
                for (i, &border) in borders.iter().enumerate() {
                    let opcode = match i {
                        0 if *is_text => TEXT,
                        0 => BINARY,
                        _ => CONT,
                    };
                    if *pings && i > 0 {
                        stream.extend(frame(FIN | PING, &[0xFE; 3]));
                    }
                    let fin = if i + 1 == borders.len() { FIN } else { 0 };
                    stream.extend(frame(fin | opcode, &payload[begun..border]));
                    begun = border;
                }
            }
        }
    }
}

fn item() -> impl Strategy<Value = Item> {
    let text = vec(prop_oneof![any::<char>(), proptest::char::range(' ', '~')], 0..60)
        .prop_map(|chars| (true, chars.into_iter().collect::<String>().into_bytes()));
    let long_text = (0..300_usize, any::<char>()).prop_map(|(len, end)| {
        let mut text = "x".repeat(len);
        text.push(end);
        (true, text.repeat(2).into_bytes())
    });
    let binary = vec(any::<u8>(), 0..200).prop_map(|octets| (false, octets));
    let message =
        (prop_oneof![3 => text, 1 => long_text, 2 => binary], vec(any::<Index>(), 0..4), any::<bool>())
            .prop_map(|((is_text, payload), borders, pings)| Item::Message {
                is_text,
                payload,
                borders,
                pings,
            });
    let control = (prop_oneof![Just(PING), Just(PONG)], vec(any::<u8>(), 0..126))
        .prop_map(|(opcode, payload)| Item::Control { opcode, payload });
    let code = prop_oneof![Just(1000_u16), 990..1020_u16, any::<u16>()];
    let close = (code, "[a-z\u{E4}]{0,20}").prop_map(|(code, reason)| {
        let payload = [&code.to_be_bytes()[..], reason.as_bytes()].concat();
        Item::Control { opcode: CLOSE, payload }
    });
    prop_oneof![12 => message, 4 => control, 1 => close]
}

/// Octets that are replaced, at these places.
fn spoilt() -> impl Strategy<Value = Vec<(Index, u8)>> {
    let octet = prop_oneof![any::<u8>(), Just(0x80), Just(0xFF), Just(0)];
    prop_oneof![1 => Just(Vec::new()), 2 => vec((any::<Index>(), octet), 1..3)]
}

fn cuts() -> impl Strategy<Value = Cuts> {
    prop_oneof![
        Just(Cuts::Whole),
        (1..20_usize).prop_map(Cuts::Every),
        vec(prop_oneof![1..5_usize, 1..200_usize], 1..8).prop_map(Cuts::Lengths),
    ]
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_streams_are_echoed_as_the_model_says(
        items in vec(item(), 1..6),
        spoilt in spoilt(),
        cuts in vec(cuts(), 3),
        whole_frame_max in prop_oneof![Just(64_u64 << 10), 0..40_u64, 0..300_u64],
        max_message_size in prop_oneof![4 => Just(0_u64), 1 => 1..400_u64],
        unsent_total in prop_oneof![2 => Just(1_usize << 20), 1 => 0..400_usize],
    ) {
        let mut stream = Vec::new();
        for item in &items {
            item.write(&mut stream);
        }
        for (at, octet) in &spoilt {
            let at = at.index(stream.len());
            stream[at] = *octet;
        }
        for cuts in cuts {
            let settings = settings(whole_frame_max, max_message_size, unsent_total);
            check(&settings, &stream, &cuts, unsent_total == 1 << 20);
        }
    }

    #[test]
    fn random_octets_are_judged_as_the_model_says(
        stream in vec(prop_oneof![any::<u8>(), 0x80..0x84_u8, Just(0x81), Just(0)], 0..60),
        cuts in vec(cuts(), 3),
        whole_frame_max in prop_oneof![Just(64_u64 << 10), 0..10_u64],
    ) {
        for cuts in cuts {
            check(&settings(whole_frame_max, 0, 1 << 20), &stream, &cuts, true);
        }
    }
}
