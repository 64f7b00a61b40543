//! Peers that take their last bytes slowly, and such as take none.

use super::*;

pub(super) const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// Lets time pass and the session look, as an engine does that is told `unconfirmed`; gives how long it took until the
/// session was over, if it is.
pub(super) fn pass_at_end(
    session: &mut Tested,
    time: Duration,
    mut unconfirmed: impl FnMut(Duration) -> Option<u32>,
) -> Option<Duration> {
    let step = Duration::from_millis(50);
    let mut passed = Duration::ZERO;
    while passed < time {
        advance(session, step);
        passed += step;
        if session.is_overdue() {
            session.pass_deadline(unconfirmed(passed));
        }
        if session.is_over() {
            return Some(passed);
        }
    }
    None
}

/// A session that has been told to close, behind so many bytes.
pub(super) fn closing() -> Tested {
    let mut session = open();
    for _ in 0..10 {
        feed(&mut session, &frame(OpCode::Binary, &[7; 60_000]));
    }
    feed(&mut session, &frame(OpCode::Close, b""));
    session
}

#[test]
fn a_peer_that_takes_its_last_bytes_slowly_gets_all_of_them() {
    // The kernel sees each byte of them, and each is renewed time.
    let mut session = closing();
    let under_way = session.next_send().expect("an echo");
    let hour = Duration::from_secs(3600);
    let one_by_one = |passed: Duration| Some(10_000 - u32::try_from(passed.as_secs() / 9).expect("an hour"));
    assert_eq!(pass_at_end(&mut session, hour, one_by_one), None);
    session.sent(under_way.len(), under_way);
    // It sees nothing, but something is sent now and then.
    let mut sent = 0;
    while let Some(outgoing) = session.next_send() {
        assert_eq!(pass_at_end(&mut session, FLUSH_TIMEOUT * 9 / 10, |_| None), None, "after {sent} bytes");
        sent += 1;
        session.sent(1, outgoing);
        let rest = session.next_send().expect("the rest");
        assert_eq!(pass_at_end(&mut session, FLUSH_TIMEOUT * 9 / 10, |_| None), None, "after {sent} bytes");
        sent += rest.len();
        session.sent(rest.len(), rest);
    }
    assert!(sent > 500_000 && session.takes_shut_write(), "{sent} bytes");
    assert_eq!(snapshot(&session).cuts, 0);
}

#[test]
fn a_peer_that_takes_nothing_any_more_is_cut() {
    for (unconfirmed, latest) in [(Some(7), FLUSH_TIMEOUT), (None, FLUSH_TIMEOUT * 5 / 4)] {
        let mut session = closing();
        let _under_way = session.next_send().expect("an echo");
        assert_eq!(
            pass_at_end(&mut session, FLUSH_TIMEOUT * 2, |_| unconfirmed),
            Some(latest),
            "{unconfirmed:?}"
        );
        assert_eq!(snapshot(&session).cuts, 1);
    }
    // Bytes that come are no sign that any are taken.
    let mut session = closing();
    let _under_way = session.next_send().expect("an echo");
    let mut ended = None;
    for second in 0..20 {
        feed(&mut session, b"more");
        ended = ended.or(pass_at_end(&mut session, Duration::from_secs(1), |_| Some(7)).map(|_| second));
    }
    assert_eq!(ended, Some(9));
}

#[test]
fn with_a_flush_timeout_of_zero_nobody_is_cut() {
    let config = Config { flush_timeout: Duration::ZERO, ..Config::default() };
    let mut session = open_by(config, take);
    feed(&mut session, &frame(OpCode::Close, b""));
    let close = session.next_send().expect("the Close");
    let day = Duration::from_secs(24 * 60 * 60);
    assert_eq!(pass_at_end(&mut session, day, |_| Some(4)), None);
    session.sent(close.len(), close);
    assert!(session.takes_shut_write());
    assert_eq!(pass_at_end(&mut session, day, |_| Some(4)), None);
    // Its answer is awaited no longer than that of any other.
    let ended = pass_at_end(&mut session, day, |_| Some(0)).expect("it ends");
    assert!(ended <= 2 * ANSWER_TIMEOUT, "{ended:?}");
}

/// All is written and the write side is shut, but megabytes of it lie in the kernel.
#[test]
fn the_end_of_a_peer_is_awaited_from_when_it_has_taken_everything() {
    let mut session = closing();
    send_all(&mut session);
    assert!(session.takes_shut_write());
    let minutes = Duration::from_secs(600);
    let slowly =
        |passed: Duration| Some(600_u32.saturating_sub(u32::try_from(passed.as_secs()).expect("minutes")));
    assert_eq!(pass_at_end(&mut session, minutes, slowly), None);
    let ended = pass_at_end(&mut session, minutes, |_| Some(0)).expect("it ends");
    assert!((ANSWER_TIMEOUT..=FLUSH_TIMEOUT / 4 + ANSWER_TIMEOUT).contains(&ended), "{ended:?}");

    // One that takes no more is cut, and so is one of which nothing is known.
    for (unconfirmed, after) in [(Some(7), FLUSH_TIMEOUT), (Some(0), ANSWER_TIMEOUT), (None, FLUSH_TIMEOUT)] {
        let mut session = closing();
        send_all(&mut session);
        assert!(session.takes_shut_write());
        assert_eq!(pass_at_end(&mut session, minutes, |_| unconfirmed), Some(after), "{unconfirmed:?}");
        assert_eq!(snapshot(&session).cuts, 1);
    }
}

/// A peer that has nothing to say for long, and reads slowly what it was sent before.
#[test]
fn a_farewell_is_read_by_a_slow_peer_too() {
    let mut session = watched(0, 0, 60);
    feed(&mut session, &frame(OpCode::Binary, &[7; 60_000]));
    let under_way = session.next_send().expect("the echo");
    let minutes = Duration::from_secs(600);
    let slowly =
        |passed: Duration| Some(600_u32.saturating_sub(u32::try_from(passed.as_secs()).expect("minutes")));
    while snapshot(&session).idle_timeouts == 0 {
        assert_eq!(pass_at_end(&mut session, Duration::from_secs(1), |_| Some(7)), None);
    }
    assert_eq!(pass_at_end(&mut session, minutes, slowly), None);
    session.sent(under_way.len(), under_way);
    assert_eq!(send_all(&mut session), GOING_AWAY);
    let ended = pass_at_end(&mut session, minutes, |_| Some(0)).expect("it ends");
    assert!((ANSWER_TIMEOUT..=FLUSH_TIMEOUT / 4 + ANSWER_TIMEOUT).contains(&ended), "{ended:?}");
}

/// It has sent more than its connection may hold, and has not begun to read: a client that sends first.
#[test]
fn a_peer_that_sends_on_and_reads_nothing_is_told_1008() {
    let [interval, timeout] = [INTERVAL, TIMEOUT];
    let keep_alive = KeepAliveConfig { interval, timeout, idle: Duration::ZERO };
    let config = Config { keep_alive, unsent_limit: 100_000, ..Config::default() };
    let mut session = open_by(config, take);
    // In the middle of a message that streams: a Close may stand between its fragments.
    let message = frame(OpCode::Binary, &[7; 300_000]);
    let mut unsent = message.chunks(10_000);
    while session.may_receive() {
        feed(&mut session, unsent.next().expect("more than the limit"));
    }
    let mut under_way = session.next_send().expect("the first fragment");
    // As long as it takes anything it is slow, and no more than that.
    for _ in 0..3 {
        assert_eq!(pass_at_end(&mut session, INTERVAL + TIMEOUT / 2, |_| Some(9)), None);
        session.sent(1, under_way);
        under_way = session.next_send().expect("the rest");
    }
    assert_eq!(snapshot(&session).unread_timeouts, 0);
    assert_eq!(pass_at_end(&mut session, (INTERVAL + TIMEOUT) * 5 / 4, |_| Some(9)), None);
    let Snapshot { unread_timeouts, keep_alive_timeouts, by, .. } = snapshot(&session);
    assert_eq!((unread_timeouts, keep_alive_timeouts), (1, 0));
    assert!(by.closes_sent.iter().any(|(code, count)| code == Some(1008).into() && count == 1));

    // It can send the rest, which is dropped, and then reads all that was echoed, and why there is no more.
    let queued = session.unsent();
    for chunk in unsent {
        assert!(session.may_receive());
        feed(&mut session, chunk);
    }
    feed(&mut session, &frame(OpCode::Text, b"another"));
    assert_eq!(session.unsent(), queued);
    session.sent(under_way.len(), under_way);
    assert!(send_all(&mut session).ends_with(&[0x88, 2, 0x03, 0xF0]));
    feed(&mut session, &frame(OpCode::Close, b"\x03\xF0"));
    assert!(session.takes_shut_write());

    // With nobody looked at nobody is told.
    let keep_alive = KeepAliveConfig { interval: Duration::ZERO, timeout, idle: Duration::ZERO };
    let config = Config { keep_alive, unsent_limit: 100_000, ..Config::default() };
    let mut session = open_by(config, take);
    feed(&mut session, &message);
    let _under_way = session.next_send().expect("the first fragment");
    assert_eq!((session.may_receive(), session.deadline()), (false, None));
}
