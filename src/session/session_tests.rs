//! Sessions without sockets, on a clock that only the test moves.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::config::{Config, KeepAliveConfig};
use crate::counters::{Snapshot, WorkerCounters};
use crate::engine::{ANSWER_TIMEOUT, Alone, Clock, DISCARD_MAX, Lender, SMALL};
use crate::limits::Limits;
use crate::memory::Total;
use crate::proto::frame::{HEADER_MAX, Header, OpCode};
use crate::proto::handshake::Rules;
use ending::{FLUSH_TIMEOUT, closing, pass_at_end};

#[path = "ending_tests.rs"]
mod ending;

const HANDSHAKE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// A session, and a peer that is the test.
type Tested = Alone<Session>;

fn begin(context: &Rc<WorkerWide>) -> Tested {
    Alone::new(Session::new(Start::Handshake { peer: None }, context, None), &context.common)
}

/// A session whose handshake is answered.
fn open() -> Tested {
    open_with(take)
}

fn open_with(take: impl Fn(&Tested) -> Buffer) -> Tested {
    open_by(Config::default(), take)
}

fn open_by(config: Config, take: impl Fn(&Tested) -> Buffer) -> Tested {
    let shared = Arc::new(ProcessWide {
        rules: Rules { paths: config.access.paths.clone(), ..Rules::default() },
        limits: Limits::new(1, 0),
        unsent: Total::new(config.unsent_total),
        config,
    });
    let admission = shared.limits.admit();
    let mut context = WorkerWide::new(&shared, Arc::new(WorkerCounters::default()), true);
    Rc::get_mut(&mut context.common).expect("it is new").clock = Clock::still();
    let context = Rc::new(context);
    let session = Session::new(Start::Handshake { peer: None }, &context, admission);
    let mut session = Alone::new(session, &context.common);
    feed_with(&mut session, HANDSHAKE, take);
    let response = session.next_send().expect("the 101");
    session.sent(response.len(), response);
    session
}

/// A buffer of the worker's.
fn take(session: &Tested) -> Buffer {
    session.take()
}

/// Has the session receive `bytes`, a buffer at a time.
fn feed(session: &mut Tested, bytes: &[u8]) {
    session.receive(bytes, take);
}

fn feed_with(session: &mut Tested, bytes: &[u8], take: impl Fn(&Tested) -> Buffer) {
    session.receive(bytes, take);
}

fn send_all(session: &mut Tested) -> Vec<u8> {
    session.send_all()
}

fn spilled(session: &Tested) -> u64 {
    Snapshot::sum([&*session.handler().presence.context.stats]).engine.bytes_spilled
}

/// A client's frame; a key of zero leaves the payload as it is.
fn frame(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; HEADER_MAX];
    let payload_len = payload.len() as u64;
    let header_len = Header { fin: true, opcode, payload_len, key: Some(crate::mask::Key::new([0; 4])) }
        .encode(&mut header);
    [&header[..header_len], payload].concat()
}

/// The same frame as the server sends it.
fn reply(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; HEADER_MAX];
    let payload_len = payload.len() as u64;
    let header_len = Header { fin: true, opcode, payload_len, key: None }.encode(&mut header);
    [&header[..header_len], payload].concat()
}

fn advance(session: &Tested, by: Duration) {
    session.handler().presence.context.common.clock.advance(by);
}

#[test]
fn a_receive_that_fails_for_a_moment_is_no_end() {
    for stage in ["handshake", "open", "flushing", "lingering"] {
        let mut session = if stage == "open" { open() } else { closing() };
        if stage == "handshake" {
            let context = Rc::clone(&session.handler().presence.context);
            session = begin(&context);
        }
        if stage == "lingering" {
            send_all(&mut session);
            assert!(session.takes_shut_write());
        }
        for kind in [io::ErrorKind::Interrupted, io::ErrorKind::WouldBlock] {
            session.receive_error(kind);
            assert!(!session.is_over() && session.may_receive(), "{kind} {stage}");
        }
        session.receive_error(io::ErrorKind::ConnectionReset);
        assert!(session.is_over(), "{stage}");
    }
}

#[test]
fn what_comes_before_the_close_is_sent_does_not_cost_the_peer_its_close() {
    let mut session = open();
    feed(&mut session, &frame(OpCode::Binary, &[7; 60_000]));
    let echo = session.next_send().expect("the echo");
    feed(&mut session, &[0x82, 0x01, b'u']);
    let garbage = vec![0; 1 << 20];
    let mut taken = 0;
    while session.may_receive() {
        feed(&mut session, &garbage);
        taken += garbage.len();
        assert!(taken < 3 * DISCARD_MAX as usize, "it is not read for ever");
    }
    assert!(!session.is_over(), "the echo and the Close are still to be sent");
    session.sent(echo.len(), echo);
    let close = session.next_send().expect("the Close");
    assert_eq!(close.bytes(), [0x88, 2, 0x03, 0xEA]);
    session.sent(close.len(), close);
    assert!(session.takes_shut_write());
    feed(&mut session, &garbage);
    assert!(!session.is_over() && session.may_receive(), "the peer's end is awaited");
}

/// Each of them takes far more memory than it has bytes.
#[test]
fn tiny_gathered_frames_are_put_together_behind_a_slow_peer() {
    let mut session = open();
    feed(&mut session, &frame(OpCode::Binary, &[7; 60_000]));
    let _under_way = session.next_send().expect("the echo");
    let tiny = frame(OpCode::Binary, b"ab");
    for _ in 0..10_000 {
        let (first, last) = tiny.split_at(tiny.len() - 1);
        feed(&mut session, first);
        feed(&mut session, last);
    }
    let queued = session.queued();
    assert!(queued < 10, "{queued} pieces for 40,000 bytes");
}

#[test]
fn what_did_not_go_out_is_sent_next() {
    let lender = Lender::new(0);
    let mut session = open_with(|_| lender.lend());
    let payloads = [[1; 2000], [2; 2000], [3; 2000], [4; 2000]];
    for payload in payloads {
        feed_with(&mut session, &frame(OpCode::Binary, &payload), |_| lender.lend());
    }
    let mut sent = Vec::new();
    for part in [500, 4] {
        let send = session.next_send().expect("the first, or its rest");
        sent.extend_from_slice(&send.bytes()[..part]);
        session.sent(part, send);
        assert_eq!((lender.lent(), spilled(&session)), (4, 0), "each waits where it was received");
    }
    assert_eq!(session.queued(), 4);
    let expected = payloads.map(|payload| reply(OpCode::Binary, &payload)).concat();
    assert_eq!(session.unsent(), expected.len() - sent.len());

    sent.extend_from_slice(&send_all(&mut session));
    assert!(sent == expected, "everything in its order");
    assert_eq!((session.unsent(), lender.lent()), (0, 0));
}

#[test]
fn what_did_not_go_out_of_a_scarce_buffer_is_copied_once() {
    let lender = Lender::new(u32::MAX);
    let mut session = open_with(|_| lender.lend());
    feed_with(&mut session, &frame(OpCode::Binary, &[7; 2000]), |_| lender.lend());
    for part in [500, 4] {
        let send = session.next_send().expect("the echo, or its rest");
        session.sent(part, send);
        assert_eq!((lender.lent(), spilled(&session)), (0, 2004 - 500));
    }
    assert!(send_all(&mut session) == reply(OpCode::Binary, &[7; 2000])[504..]);
}

#[test]
fn more_is_put_behind_a_rest_on_the_heap() {
    let mut session = open();
    feed(&mut session, &frame(OpCode::Binary, &[1; 2000]));
    let mut sent = Vec::new();
    for _ in 0..2 {
        let outgoing = session.next_send().expect("the echo or its rest");
        sent.extend_from_slice(&outgoing.bytes()[..500]);
        session.sent(500, outgoing);
    }
    feed(&mut session, &frame(OpCode::Binary, b"ab"));
    assert_eq!((session.queued(), session.unsent()), (1, 1004 + 4));
    sent.extend_from_slice(&send_all(&mut session));
    assert!(sent == [reply(OpCode::Binary, &[1; 2000]), reply(OpCode::Binary, b"ab")].concat());
}

#[test]
fn a_spilled_rest_is_charged_until_it_is_sent() {
    let lender = Lender::new(u32::MAX);
    let mut session = open_with(|_| lender.lend());
    let budget = Rc::clone(&session.handler().presence.context.settings.budget);
    let all = session.handler().presence.context.shared.config.unsent_total;
    assert!(!budget.is_exhausted_for(all));
    feed_with(&mut session, &frame(OpCode::Binary, &[7; 2000]), |_| lender.lend());
    let outgoing = session.next_send().expect("the echo");
    session.sent(1, outgoing);
    assert!(budget.is_exhausted_for(all) && !budget.is_exhausted_for(all - SMALL));
    send_all(&mut session);
    assert!(!budget.is_exhausted_for(all));
}

#[test]
fn nothing_that_must_wait_keeps_a_scarce_buffer() {
    let lender = Lender::new(u32::MAX);
    let mut session = open_with(|_| lender.lend());
    for _ in 0..3 {
        feed_with(&mut session, &frame(OpCode::Binary, &[7; 2000]), |_| lender.lend());
    }
    assert_eq!(lender.lent(), 1, "the first need not wait");
    assert_eq!(spilled(&session), 2 * 2004);
    assert!(send_all(&mut session) == reply(OpCode::Binary, &[7; 2000]).repeat(3));
    assert_eq!(lender.lent(), 0);
}

#[test]
fn a_session_that_ends_gives_its_buffers_back() {
    let lender = Lender::new(0);
    let mut session = open_with(|_| lender.lend());
    for _ in 0..6 {
        feed_with(&mut session, &frame(OpCode::Binary, &[7; 2000]), |_| lender.lend());
    }
    assert_eq!(lender.lent(), 4, "the connection's share");
    drop(session);
    assert_eq!(lender.lent(), 0);
}

const INTERVAL: Duration = Duration::from_secs(8);
const TIMEOUT: Duration = Duration::from_secs(5);
const PING: [u8; 2] = [0x89, 0];
const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xE9];

/// A session that is held to these times, in seconds.
fn watched(interval: u64, timeout: u64, idle: u64) -> Tested {
    let [interval, timeout, idle] = [interval, timeout, idle].map(Duration::from_secs);
    let keep_alive = KeepAliveConfig { interval, timeout, idle };
    open_by(Config { keep_alive, ..Config::default() }, take)
}

/// Lets time pass, a tenth of a second after the other, as an engine does; gives what is sent meanwhile and when, in
/// tenths of a second from now.
fn pass(session: &mut Tested, time: Duration) -> Vec<(u128, Vec<u8>)> {
    let mut said = Vec::new();
    for tenth in 1..=time.as_millis() / 100 {
        advance(session, Duration::from_millis(100));
        if session.is_overdue() {
            session.pass_deadline(Some(0));
            let sent = send_all(session);
            if !sent.is_empty() {
                said.push((tenth, sent));
            }
        }
    }
    said
}

fn snapshot(session: &Tested) -> Snapshot {
    Snapshot::sum([&*session.handler().presence.context.stats])
}

const PONG: &[u8] = &[0x8A, 0x80, 0, 0, 0, 0];

#[test]
fn a_silent_peer_is_pinged_when_it_is_due() {
    let mut session = watched(8, 5, 0);
    let said = pass(&mut session, INTERVAL * 5 / 4);
    let [(first, ping)] = &said[..] else { panic!("{said:?}") };
    assert_eq!(ping[..], PING);
    assert!((80..=100).contains(first), "at {first} tenths of a second");
    // Whatever comes counts from then on: a pong that does not match, any other byte.
    for sign in [PONG, b"\x8A\x82\0\0\0\0no", &frame(OpCode::Text, b"a"), &[0x82]] {
        feed(&mut session, sign);
        send_all(&mut session);
        let said = pass(&mut session, INTERVAL * 5 / 4);
        let [(at, ping)] = &said[..] else { panic!("after {sign:?}: {said:?}") };
        assert_eq!(ping[..], PING);
        assert!((80..=100).contains(at), "after {sign:?} at {at} tenths of a second");
    }
    let Snapshot { pings_sent, keep_alive_timeouts, .. } = snapshot(&session);
    assert_eq!((pings_sent, keep_alive_timeouts), (5, 0));
}

#[test]
fn a_peer_from_which_anything_comes_is_never_pinged() {
    let mut session = watched(8, 5, 0);
    for _ in 0..100 {
        feed(&mut session, PONG);
        assert!(pass(&mut session, INTERVAL - Duration::from_millis(100)).is_empty());
    }
    // Byte by byte, a frame is signs of life too.
    let bytes = frame(OpCode::Binary, &[7; 20]);
    let (last, bytes) = bytes.split_last().expect("a frame");
    for byte in bytes {
        feed(&mut session, &[*byte]);
        assert!(pass(&mut session, INTERVAL - Duration::from_millis(100)).is_empty());
    }
    feed(&mut session, &[*last]);
    assert_eq!(send_all(&mut session), reply(OpCode::Binary, &[7; 20]));
}

#[test]
fn a_peer_that_does_not_answer_gets_1001_and_is_cut() {
    let mut session = watched(8, 5, 0);
    let said = pass(&mut session, INTERVAL * 5 / 4 + TIMEOUT + ANSWER_TIMEOUT * 5 / 4);
    let [(ping_at, ping), (close_at, close)] = &said[..] else { panic!("{said:?}") };
    assert_eq!((&ping[..], &close[..]), (&PING[..], &GOING_AWAY[..]));
    assert_eq!(close_at - ping_at, 50);
    assert!(session.is_over());
    let Snapshot { pings_sent, keep_alive_timeouts, cuts, .. } = snapshot(&session);
    assert_eq!((pings_sent, keep_alive_timeouts, cuts), (1, 1, 1));
}

#[test]
fn a_peer_that_answers_that_close_ends_as_any_other() {
    let mut session = watched(8, 5, 0);
    while snapshot(&session).keep_alive_timeouts == 0 {
        pass(&mut session, Duration::from_millis(100));
    }
    // Too late, and no reason for another ping.
    feed(&mut session, PONG);
    feed(&mut session, &frame(OpCode::Close, b"\x03\xE9"));
    assert!(send_all(&mut session).is_empty() && session.takes_shut_write());
    session.receive_end();
    assert!(session.is_over());
    assert_eq!(snapshot(&session).cuts, 0);
}

#[test]
fn zero_turns_it_off() {
    let day = Duration::from_secs(24 * 60 * 60);
    let mut session = watched(0, 5, 0);
    assert_eq!(session.deadline(), None);
    assert!(pass(&mut session, day).is_empty());
    let mut session = watched(8, 0, 0);
    let said = pass(&mut session, day);
    assert!(
        said.len() > 24 * 60 * 6 && said.iter().all(|(_, ping)| ping[..] == PING),
        "{} pings",
        said.len()
    );
    assert!(!session.is_over());
}

#[test]
fn pongs_do_not_keep_an_idle_peer() {
    let mut session = watched(8, 5, 60);
    let mut pinged = 0;
    let mut ended = None;
    for tenth in 0..700 {
        for (_, sent) in pass(&mut session, Duration::from_millis(100)) {
            if sent == PING {
                pinged += 1;
                feed(&mut session, PONG);
            } else {
                assert_eq!(sent, GOING_AWAY);
                ended = Some(tenth);
            }
        }
    }
    assert!(pinged >= 4 && ended.is_some_and(|tenth| (599..=620).contains(&tenth)), "{pinged}, {ended:?}");
    let Snapshot { idle_timeouts, keep_alive_timeouts, cuts, .. } = snapshot(&session);
    assert_eq!((idle_timeouts, keep_alive_timeouts, cuts, session.is_over()), (1, 0, 1, true));
    session.on_phase(Phase::Stopping);
    assert_eq!(snapshot(&session).cuts, 1, "what is over is not cut again");
}

#[test]
fn messages_keep_an_idle_peer_and_so_does_a_long_one() {
    let mut session = watched(0, 0, 60);
    for message in [frame(OpCode::Text, b""), frame(OpCode::Binary, b"ab")] {
        assert!(pass(&mut session, Duration::from_secs(59)).is_empty());
        feed(&mut session, &message);
        send_all(&mut session);
    }
    for byte in &frame(OpCode::Binary, &[7; 9])[..14] {
        assert!(pass(&mut session, Duration::from_secs(59)).is_empty());
        feed(&mut session, &[*byte]);
    }
    let said = pass(&mut session, Duration::from_secs(76));
    assert!(matches!(&said[..], [(600..=750, close)] if close[..] == GOING_AWAY), "{said:?}");
}

#[test]
fn a_ping_goes_between_the_fragments_of_a_message() {
    let mut session = watched(8, 5, 0);
    let mut begun = frame(OpCode::Text, b"half");
    begun[0] &= 0x7F;
    feed(&mut session, &begun);
    assert_eq!(send_all(&mut session)[1..], reply(OpCode::Text, b"half")[1..]);
    let said = pass(&mut session, INTERVAL * 5 / 4);
    assert!(matches!(&said[..], [(_, ping)] if ping[..] == PING), "{said:?}");
    // In the middle of a frame of theirs, which is not in the middle of one of ours.
    let rest = frame(OpCode::Continuation, b" a text");
    let (first, last) = rest.split_at(9);
    feed(&mut session, first);
    assert_eq!(pass(&mut session, INTERVAL * 5 / 4)[0].1, PING);
    feed(&mut session, last);
    assert_eq!(send_all(&mut session), reply(OpCode::Continuation, b" a text"));
}

/// What it has said may lie in our socket unread, and a ping would wait behind what it is owed.
#[test]
fn a_peer_that_is_owed_something_is_neither_pinged_nor_given_up() {
    let mut session = watched(8, 5, 60);
    for pinged_first in [false, true] {
        while pinged_first && snapshot(&session).pings_sent == 0 {
            pass(&mut session, Duration::from_millis(100));
        }
        feed(&mut session, &frame(OpCode::Binary, &[7; 60_000]));
        // A byte now and then, none of them from the peer.
        for _ in 0..60 {
            let under_way = session.next_send().expect("the echo");
            assert!(pass(&mut session, INTERVAL + TIMEOUT - Duration::from_millis(100)).is_empty());
            session.sent(1, under_way);
        }
        assert!(!session.is_over() && !send_all(&mut session).is_empty());
        assert!(pass(&mut session, INTERVAL - Duration::from_secs(2)).is_empty(), "its time begins anew");
    }
    assert!(pass(&mut session, TIMEOUT)[0].1 == PING);
    assert_eq!(snapshot(&session).keep_alive_timeouts, 0);
}

/// TCP would go on for ever to ask for a window that stays closed.
#[test]
fn a_peer_that_takes_nothing_of_what_it_is_owed_is_given_up() {
    let mut session = watched(8, 5, 0);
    feed(&mut session, &frame(OpCode::Binary, &[7; 60_000]));
    let _under_way = session.next_send().expect("the echo");
    let (mut tenths, step) = (0, Duration::from_millis(100));
    while snapshot(&session).keep_alive_timeouts == 0 {
        advance(&session, step);
        if session.is_overdue() {
            session.pass_deadline(None);
        }
        tenths += 1;
    }
    assert!((130..=151).contains(&tenths), "{tenths} tenths of a second");
    assert_eq!(session.queued(), 1, "a Close");
    assert_eq!(snapshot(&session).unread_timeouts, 0, "it was read from");
    let ended = pass_at_end(&mut session, FLUSH_TIMEOUT * 2, |_| Some(60_000));
    assert_eq!(ended, Some(FLUSH_TIMEOUT), "it might still read");
}

#[test]
fn a_drain_and_keep_alive_do_not_get_into_each_others_way() {
    // The drain comes while a pong is awaited: one Close, no ping, and no end before that of the drain.
    let mut session = watched(8, 5, 10);
    assert_eq!(pass(&mut session, INTERVAL * 5 / 4)[0].1, PING);
    session.on_phase(Phase::Draining);
    let said = pass(&mut session, Duration::from_secs(600));
    assert!(matches!(&said[..], [(1, close)] if close[..] == GOING_AWAY), "{said:?}");
    assert!(!session.is_over(), "its Close is awaited as long as the drain lasts");
    feed(&mut session, &frame(OpCode::Close, b""));
    assert!(session.takes_shut_write());

    // It comes when the Close is given out already: no second one, and no longer wait.
    let mut session = watched(8, 5, 0);
    while snapshot(&session).keep_alive_timeouts == 0 {
        pass(&mut session, Duration::from_millis(100));
    }
    session.on_phase(Phase::Draining);
    feed(&mut session, PONG);
    assert!(pass(&mut session, ANSWER_TIMEOUT * 5 / 4).is_empty() && session.is_over());
}

#[test]
fn nothing_is_pinged_before_its_handshake_is_answered_and_sent() {
    let mut session = watched(1, 5, 0);
    let context = Rc::clone(&session.handler().presence.context);
    session = begin(&context);
    assert!(pass(&mut session, Duration::from_secs(4)).is_empty(), "the handshake's time has not passed");
    feed(&mut session, HANDSHAKE);
    let response = session.next_send().expect("the 101");
    assert!(pass(&mut session, TIMEOUT).is_empty());
    session.sent(response.len(), response);
    assert_eq!(pass(&mut session, INTERVAL)[0].1, PING);
}

#[test]
fn connections_of_one_moment_are_not_pinged_in_one() {
    let first = watched(8, 5, 0);
    let context = Rc::clone(&first.handler().presence.context);
    let mut buckets = [0; 10];
    for _ in 0..1000 {
        let mut session = begin(&context);
        feed(&mut session, HANDSHAKE);
        let look = context.common.clock.now().until(session.deadline().expect("a first look"));
        buckets[usize::try_from(look.as_millis() / 200).expect("within 2 s")] += 1;
    }
    assert!(buckets.iter().all(|&count| (90..=110).contains(&count)), "{buckets:?}");
}
