//! Sessions without sockets, on a clock that only the test moves.

use std::future::poll_fn;
use std::sync::Arc;

use tokio::time::advance;

use super::*;
use crate::config::Config;
use crate::proto::budget::Total;
use crate::proto::frame::{HEADER_MAX, Header, OpCode};
use crate::proto::handshake::Rules;
use crate::server::{Limits, Shared, WorkerStats};

const HANDSHAKE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// A session whose handshake is answered.
fn open() -> Session {
    let config = Config::default();
    let shared = Arc::new(Shared {
        rules: Rules { path: config.path.clone(), page: String::new(), allowed_origins: Vec::new() },
        limits: Limits::new(1),
        unsent: Total::new(config.unsent_total),
        config,
    });
    let admission = shared.limits.admit();
    let context = Rc::new(Context::new(&shared, Arc::new(WorkerStats::default())));
    let mut session = Session::new(Start::Handshake, &context, admission);
    feed(&mut session, HANDSHAKE);
    let response = session.next_outgoing().expect("the 101");
    session.on_sent(&Ok(()), response);
    session
}

/// Has the session receive `bytes`, a buffer at a time.
fn feed(session: &mut Session, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut buffer = session.presence.context.pool.take(session.class());
        let (piece, behind) = rest.split_at(rest.len().min(buffer.room()));
        buffer.bytes[HEADROOM..HEADROOM + piece.len()].copy_from_slice(piece);
        session.on_received(Ok(piece.len()), Some(buffer));
        rest = behind;
    }
}

/// A client's frame; a key of zero leaves the payload as it is.
fn frame(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; HEADER_MAX];
    let payload_len = payload.len() as u64;
    let header_len = Header { fin: true, opcode, payload_len, key: Some(crate::mask::Key::new([0; 4])) }
        .encode(&mut header);
    [&header[..header_len], payload].concat()
}

async fn is_overdue(session: &mut Session) -> bool {
    poll_fn(|task| Poll::Ready(session.poll_deadline(task).is_ready())).await
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_its_bytes_slowly_gets_all_of_them() {
    let mut session = open();
    for _ in 0..10 {
        feed(&mut session, &frame(OpCode::Binary, &[7; 60_000]));
    }
    feed(&mut session, &frame(OpCode::Close, b""));
    let mut sent = 0;
    while let Some(outgoing) = session.next_outgoing() {
        assert!(!is_overdue(&mut session).await, "{sent} bytes are sent, and more are under way");
        advance(FLUSH_TIMEOUT / 2).await;
        sent += outgoing.len();
        session.on_sent(&Ok(()), outgoing);
    }
    assert!(sent > 600_000 && session.should_end_writing(), "{sent} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_any_more_is_cut() {
    let mut session = open();
    feed(&mut session, &frame(OpCode::Close, b""));
    let _under_way = session.next_outgoing().expect("the Close");
    assert!(!is_overdue(&mut session).await);
    advance(FLUSH_TIMEOUT + Duration::from_millis(1)).await;
    assert!(is_overdue(&mut session).await);
    session.on_deadline();
    assert!(session.is_over());
}

#[tokio::test(start_paused = true)]
async fn what_comes_before_the_close_is_sent_does_not_cost_the_peer_its_close() {
    let mut session = open();
    feed(&mut session, &frame(OpCode::Binary, &[7; 60_000]));
    let echo = session.next_outgoing().expect("the echo");
    feed(&mut session, &[0x82, 0x01, b'u']);
    let garbage = vec![0; 1 << 20];
    let mut taken = 0;
    while session.may_read() {
        feed(&mut session, &garbage);
        taken += garbage.len();
        assert!(taken < 3 * LINGER_BYTES, "it is not read for ever");
    }
    assert!(!session.is_over(), "the echo and the Close are still to be sent");
    session.on_sent(&Ok(()), echo);
    let close = session.next_outgoing().expect("the Close");
    assert_eq!(close.bytes(), [0x88, 2, 0x03, 0xEA]);
    session.on_sent(&Ok(()), close);
    assert!(session.should_end_writing());
    session.on_writing_ended();
    feed(&mut session, &garbage);
    assert!(!session.is_over() && session.may_read(), "the peer's end is awaited");
}

/// Each of them takes far more memory than it has bytes.
#[tokio::test(start_paused = true)]
async fn tiny_gathered_frames_are_put_together_behind_a_slow_peer() {
    let mut session = open();
    feed(&mut session, &frame(OpCode::Binary, &[7; 60_000]));
    let _under_way = session.next_outgoing().expect("the echo");
    let tiny = frame(OpCode::Binary, b"ab");
    for _ in 0..10_000 {
        let (first, last) = tiny.split_at(tiny.len() - 1);
        feed(&mut session, first);
        feed(&mut session, last);
    }
    let queued = usize::from(session.next.is_some()) + session.queue.as_ref().map_or(0, |queue| queue.len());
    assert!(queued < 10, "{queued} pieces for 40,000 bytes");
}
