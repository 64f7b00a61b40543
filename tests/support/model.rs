//! What an echo server must answer, read off RFC 6455 one octet after the other: slow, and written without a look at
//! the implementation.

use std::rc::Rc;

use ringback::proto::frame::OpCode;
use ringback::proto::{ProtocolError, Settings, Standing};

use super::pair::{Cuts, Pair, feed};
use super::replies::{self, Reply};

/// What must come of a stream of octets from a client.
#[derive(Debug)]
pub(crate) struct Expected {
    /// The answer to each frame that arrived whole.
    pub(crate) replies: Vec<Reply>,
    /// The data frame in which the stream ends or goes wrong.
    pub(crate) partial: Option<Partial>,
    pub(crate) standing: Standing,
    /// How many octets it takes to know that the connection ends.
    pub(crate) ends_at: Option<usize>,
}

/// A data frame that is not wholly here.
#[derive(Debug)]
pub(crate) struct Partial {
    /// With the payload so far, which is good so far.
    pub(crate) reply: Reply,
    pub(crate) announced: u64,
    /// How many of the last octets are of an unfinished code point.
    pub(crate) unfinished: usize,
}

impl Expected {
    /// The end of a connection after `standing` was reached with the octet before `ends_at`.
    fn ended(replies: Vec<Reply>, standing: Standing, ends_at: usize) -> Self {
        Self { replies, partial: None, standing, ends_at: Some(ends_at) }
    }
}

/// A fragmented message under way.
struct Message {
    is_text: bool,
    so_far: Vec<u8>,
    announced: u128,
}

pub(crate) fn expect(stream: &[u8], max_message_size: u64) -> Expected {
    let mut replies = Vec::new();
    let mut message: Option<Message> = None;
    let mut at = 0;
    loop {
        let failed = |replies, error, ends_at| Expected::ended(replies, Standing::Failed(error), ends_at);
        let (fin, opcode, length, key) = match header(&stream[at..], message.is_some()) {
            Ok(Some((header, header_len))) => {
                at += header_len;
                header
            }
            Ok(None) => return Expected { replies, partial: None, standing: Standing::Open, ends_at: None },
            Err((error, octets)) => return failed(replies, error, at + octets),
        };
        if opcode < 8 {
            let message =
                message.get_or_insert(Message { is_text: opcode == 1, so_far: vec![], announced: 0 });
            message.announced += u128::from(length);
            if max_message_size > 0 && message.announced > u128::from(max_message_size) {
                return failed(replies, ProtocolError::MessageTooBig, at);
            }
        }
        let mut payload = Vec::new();
        while (payload.len() as u64) < length {
            let Some(octet) = stream.get(at) else {
                let partial = message.filter(|_| opcode < 8).map(|message| Partial {
                    unfinished: if message.is_text {
                        unfinished(&message.so_far).min(payload.len())
                    } else {
                        0
                    },
                    reply: Reply { fin, opcode: OpCode::from_bits(opcode).unwrap(), payload },
                    announced: length,
                });
                return Expected { replies, partial, standing: Standing::Open, ends_at: None };
            };
            let octet = octet ^ key[payload.len() % 4];
            at += 1;
            if let Some(message) = message.as_mut().filter(|message| opcode < 8 && message.is_text) {
                message.so_far.push(octet);
                if str::from_utf8(&message.so_far).is_err_and(|error| error.error_len().is_some()) {
                    let reply = Reply { fin, opcode: OpCode::from_bits(opcode).unwrap(), payload };
                    return Expected {
                        partial: Some(Partial { reply, announced: length, unfinished: 0 }),
                        ..failed(replies, ProtocolError::InvalidUtf8, at)
                    };
                }
            }
            payload.push(octet);
        }
        let reply = Reply { fin, opcode: OpCode::from_bits(opcode).unwrap(), payload };
        match opcode {
            0..=7 if fin => {
                let whole = message.take().unwrap();
                if whole.is_text && str::from_utf8(&whole.so_far).is_err() {
                    let partial = Some(Partial { reply, announced: length, unfinished: 0 });
                    return Expected { partial, ..failed(replies, ProtocolError::InvalidUtf8, at) };
                }
                replies.push(reply);
            }
            0..=7 => replies.push(reply),
            8 => {
                return match close_error(&reply.payload) {
                    Some(error) => failed(replies, error, at),
                    None => {
                        replies.push(reply);
                        Expected::ended(replies, Standing::Closed, at)
                    }
                };
            }
            9 => replies.push(Reply { opcode: OpCode::Pong, ..reply }),
            _ => {}
        }
    }
}

type Parsed = (bool, u8, u64, [u8; 4]);

/// A header and its length, or the error and with how many octets it is certain.
fn header(octets: &[u8], in_message: bool) -> Result<Option<(Parsed, usize)>, (ProtocolError, usize)> {
    let Some(first) = octets.first() else { return Ok(None) };
    let (fin, rsv, opcode) = (first >= &0x80, (first >> 4) & 7, first & 15);
    match opcode {
        _ if rsv != 0 => return Err((ProtocolError::ReservedBits, 1)),
        3..=7 | 0xB..=0xF => return Err((ProtocolError::ReservedOpcode(opcode), 1)),
        8..=0xF if !fin => return Err((ProtocolError::ControlFragmented, 1)),
        0 if !in_message => return Err((ProtocolError::UnexpectedContinuation, 1)),
        1 | 2 if in_message => return Err((ProtocolError::ExpectedContinuation, 1)),
        _ => {}
    }
    let Some(second) = octets.get(1) else { return Ok(None) };
    if *second < 0x80 {
        return Err((ProtocolError::Unmasked, 2));
    }
    let short = second - 0x80;
    if opcode >= 8 && short > 125 {
        return Err((ProtocolError::ControlTooLong, 2));
    }
    let (mut length, extended) = match short {
        126 => (0, 2),
        127 => (0, 8),
        _ => (u64::from(short), 0),
    };
    for i in 0..extended {
        let Some(octet) = octets.get(2 + i) else { return Ok(None) };
        length = length * 256 + u64::from(*octet);
        if extended == 8 && i == 0 && *octet >= 0x80 {
            return Err((ProtocolError::LengthTopBit, 3));
        }
        // Of eight octets six zeros are enough to know.
        if extended == 8 && i == 5 && length == 0 || extended == 2 && i == 1 && length < 126 {
            return Err((ProtocolError::LengthNotMinimal, 3 + i));
        }
    }
    let Some(key) = octets.get(2 + extended..6 + extended) else { return Ok(None) };
    Ok(Some(((fin, opcode, length, key.try_into().unwrap()), 6 + extended)))
}

/// What is wrong with a close frame (RFC 6455 §5.5.1, §7.4).
fn close_error(payload: &[u8]) -> Option<ProtocolError> {
    match payload {
        [] => None,
        [_] => Some(ProtocolError::CloseTruncated),
        [high, low, reason @ ..] => {
            let code = u16::from(*high) * 256 + u16::from(*low);
            let registered = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014];
            if !registered.contains(&code) && !(3000..5000).contains(&code) {
                return Some(ProtocolError::CloseCode(code));
            }
            str::from_utf8(reason).err().map(|_| ProtocolError::InvalidUtf8)
        }
    }
}

/// How many octets at the end belong to a code point that may yet be finished.
fn unfinished(text: &[u8]) -> usize {
    str::from_utf8(text).map_or_else(|error| text.len() - error.valid_up_to(), |_| 0)
}

/// Feeds `stream` in pieces and holds what comes of it against the model.
///
/// `ample` says that the budget never runs out, so that each frame up to `whole_frame_max` must come back whole.
pub(crate) fn check(settings: &Rc<Settings>, stream: &[u8], cuts: &Cuts, ample: bool) -> Pair {
    let expected = expect(stream, settings.max_message_size);
    let pair = feed(settings, stream, cuts);
    let context = || format!("{stream:02x?} cut {cuts:?}");
    assert_eq!(pair.server.standing(), expected.standing, "{}", context());
    if matches!(cuts, Cuts::Every(1)) {
        assert_eq!(pair.ended_at, expected.ends_at, "judged with its octet: {}", context());
    }

    let mut sent = pair.replies();
    if let Standing::Failed(error) = expected.standing {
        let close = sent.pop().unwrap_or_else(|| panic!("no Close: {}", context()));
        let payload = error.close_code().to_be_bytes().to_vec();
        assert_eq!(close, Reply { fin: true, opcode: OpCode::Close, payload }, "{}", context());
    }
    let data = sent.iter().filter(|reply| !reply.opcode.is_control());
    let payload_bytes: usize = data.map(|reply| reply.payload.len()).sum();
    assert_eq!(pair.counts.payload_bytes, payload_bytes as u64, "what is counted was echoed: {}", context());
    assert_eq!(pair.counts.text_bytes, text_bytes(&sent), "of text: {}", context());
    check_replies(&sent, &expected, settings.whole_frame_max, ample, &context);
    pair
}

/// How many bytes of payload belong to text messages.
fn text_bytes(replies: &[Reply]) -> u64 {
    let (mut is_text, mut bytes) = (false, 0);
    for reply in replies.iter().filter(|reply| !reply.opcode.is_control()) {
        is_text = reply.opcode == OpCode::Text || is_text && reply.opcode == OpCode::Continuation;
        bytes += if is_text { reply.payload.len() as u64 } else { 0 };
    }
    bytes
}

fn check_replies(
    sent: &[Reply],
    expected: &Expected,
    whole_frame_max: u64,
    ample: bool,
    context: &dyn Fn() -> String,
) {
    let mut whole = expected.replies.clone();
    let is_whole = |reply: &Reply| reply.payload.len() as u64 <= whole_frame_max;
    let partial = expected.partial.as_ref();
    if ample && whole.iter().all(is_whole) && partial.is_none_or(|frame| frame.announced <= whole_frame_max) {
        assert_eq!(sent, whole, "{}", context());
        return;
    }

    // Of a frame that is not wholly here, a part may have been echoed.
    let data_len = |replies: &[Reply]| -> usize {
        replies.iter().filter(|reply| !reply.opcode.is_control()).map(|reply| reply.payload.len()).sum()
    };
    // How long each data frame of the client's is, and whether it may be cut.
    let mut frames: Vec<(usize, bool)> = whole
        .iter()
        .filter(|reply| !reply.opcode.is_control())
        .map(|reply| (reply.payload.len(), !ample || !is_whole(reply)))
        .collect();
    let extra = data_len(sent).checked_sub(data_len(&whole)).unwrap_or_else(|| panic!("lost: {}", context()));
    if let Some(Partial { reply, announced, unfinished }) = partial {
        let here = reply.payload.len();
        assert!(extra <= here, "{}", context());
        if expected.standing == Standing::Open && *announced > whole_frame_max {
            assert_eq!(
                extra,
                here - unfinished,
                "all but an unfinished code point is on its way: {}",
                context()
            );
        }
        if extra > 0 {
            frames.push((extra, true));
            whole.push(Reply { fin: false, opcode: reply.opcode, payload: reply.payload[..extra].to_vec() });
        }
    }
    assert_eq!(replies::events(sent), replies::events(&whole), "{}", context());
    check_borders(sent, &frames, context);
}

/// Frames of ours end where the client's did or, where those may be cut, inside; in text at the end of a code point.
fn check_borders(sent: &[Reply], frames: &[(usize, bool)], context: &dyn Fn() -> String) {
    let mut opcode = OpCode::Binary;
    let mut frames = frames.iter();
    let (mut theirs, mut their_len, mut may_be_cut, mut ours) = (0, 0, true, 0);
    for reply in sent.iter().filter(|reply| !reply.opcode.is_control()) {
        if reply.opcode != OpCode::Continuation {
            opcode = reply.opcode;
        }
        // Empty frames of the client's may lie where one of ours begins.
        while ours == theirs {
            let Some(frame) = frames.next() else { break };
            (their_len, may_be_cut) = *frame;
            theirs += their_len;
            if their_len == 0 {
                break;
            }
        }
        let begun = ours;
        ours += reply.payload.len();
        assert!(ours <= theirs, "one of our frames spans two of the client's: {}", context());
        if ours < theirs {
            assert!(may_be_cut, "a short frame is cut at {ours}: {}", context());
        }
        if opcode == OpCode::Text && ours < theirs {
            let fragment = &reply.payload[..];
            let at_frame_start = begun == theirs - their_len;
            let skip = if at_frame_start {
                // The client's own border may cut a code point.
                fragment.iter().take_while(|&&octet| octet & 0xC0 == 0x80).count().min(3)
            } else {
                0
            };
            assert!(
                str::from_utf8(&fragment[skip..]).is_ok(),
                "a code point is cut at {ours}: {}",
                context()
            );
        }
    }
}

/// [`check`] with the stream whole, cut at every octet, and octet by octet.
pub(crate) fn check_everywhere(settings: &Rc<Settings>, stream: &[u8]) {
    for at in 0..stream.len() {
        check(settings, stream, &Cuts::At(at), true);
    }
    for len in [1, 2, 3, 7] {
        check(settings, stream, &Cuts::Every(len), true);
    }
}
