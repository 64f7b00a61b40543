//! A client joined to a [`Connection`] by buffers, without a socket.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use ringback::memory::{Budget, HEADROOM, Total};
use ringback::proto::frame::OpCode;
use ringback::proto::{Connection, Counts, Settings};

use super::client;
use super::replies::{self, Reply};

/// Bytes on both sides of what a connection may write to.
const GUARD: usize = 32;

/// Settings with a budget of their own.
pub(crate) fn settings(whole_frame_max: u64, max_message_size: u64, unsent_total: usize) -> Rc<Settings> {
    settings_of(&Total::new(unsent_total), whole_frame_max, max_message_size)
}

/// Settings whose budget draws from `total`.
pub(crate) fn settings_of(total: &Arc<Total>, whole_frame_max: u64, max_message_size: u64) -> Rc<Settings> {
    Rc::new(Settings { whole_frame_max, max_message_size, budget: Budget::new(Arc::clone(total)) })
}

/// As the server has them by default.
pub(crate) fn default_settings() -> Rc<Settings> {
    settings(64 << 10, 0, 256 << 20)
}

/// A server's connection and what went to it and came from it.
pub(crate) struct Pair {
    pub(crate) server: Connection,
    /// Everything that the server has sent, in order.
    pub(crate) sent: Vec<u8>,
    /// Summed over all pieces.
    pub(crate) counts: Counts,
    /// How many bytes the server was given.
    pub(crate) given: usize,
    /// How many it had been given when it stopped reading.
    pub(crate) ended_at: Option<usize>,
    /// What came of the last piece.
    pub(crate) last: Given,
    /// What the client has yet to send, for [`Pair::drive`].
    to_server: VecDeque<u8>,
    /// How much of `sent` the client has read.
    client_read: usize,
    client_closed: bool,
    buffer: Vec<u8>,
}

/// What one piece led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Given {
    /// The length of `Progress::head`.
    pub(crate) head: Option<usize>,
    /// The length of `Progress::body`.
    pub(crate) body: usize,
    pub(crate) has_tail: bool,
}

impl Pair {
    pub(crate) fn new(settings: &Rc<Settings>) -> Self {
        Self {
            server: Connection::new(Rc::clone(settings)),
            sent: Vec::new(),
            counts: Counts::default(),
            given: 0,
            ended_at: None,
            last: Given::default(),
            to_server: VecDeque::new(),
            client_read: 0,
            client_closed: false,
            buffer: Vec::new(),
        }
    }

    /// Gives the server one piece and takes what it answers.
    ///
    /// # Panics
    ///
    /// When it has written outside the headroom and the piece, or its answer lies elsewhere.
    pub(crate) fn give(&mut self, piece: &[u8]) {
        let guards = 0xA5 ^ self.given.to_le_bytes()[0];
        let start = GUARD + HEADROOM;
        let filled = start..start + piece.len();
        self.buffer.clear();
        self.buffer.resize(start, guards);
        self.buffer.extend_from_slice(piece);
        self.buffer.resize(filled.end + GUARD, guards);

        let progress = self.server.receive(&mut self.buffer, filled.clone());
        let around = self.buffer[..GUARD].iter().chain(&self.buffer[filled.end..]);
        assert!({ around }.all(|&byte| byte == guards), "a byte outside headroom and piece has changed");
        assert!(GUARD <= progress.body.start && progress.body.start <= progress.body.end);
        assert!(progress.body.end <= filled.end, "{:?} in {filled:?}", progress.body);
        assert_eq!(progress.standing, self.server.standing());

        if let Some(head) = &progress.head {
            assert!(head.charge.bytes() >= head.bytes.len(), "what is gathered is charged");
            self.sent.extend_from_slice(&head.bytes);
        }
        self.sent.extend_from_slice(&self.buffer[progress.body.clone()]);
        self.sent.extend_from_slice(progress.tail.as_ref().map_or(&[][..], |tail| tail));
        self.last = Given {
            head: progress.head.as_ref().map(|head| head.bytes.len()),
            body: progress.body.len(),
            has_tail: progress.tail.is_some(),
        };
        add(&mut self.counts, &progress.counts);
        self.given += piece.len();
        if !progress.standing.reads() {
            self.ended_at.get_or_insert(self.given);
        }
    }

    /// Begins to close from the server's side.
    pub(crate) fn close(&mut self, code: u16) {
        if let Some(frame) = self.server.close(code) {
            self.sent.extend_from_slice(&frame);
        }
    }

    /// Has the server send a ping.
    pub(crate) fn ping(&mut self, payload: &[u8]) {
        if let Some(frame) = self.server.ping(payload) {
            self.sent.extend_from_slice(frame.as_ref());
        }
    }

    /// The frames that the server has sent.
    pub(crate) fn replies(&self) -> Vec<Reply> {
        replies::parse(&self.sent)
    }

    /// Queues bytes of the client's for [`Pair::drive`].
    pub(crate) fn queue(&mut self, bytes: &[u8]) {
        self.to_server.extend(bytes);
    }

    /// Carries bytes both ways, `piece` at a time to the server, until neither side has anything to say. The client
    /// answers pings and the server's Close.
    ///
    /// # Panics
    ///
    /// When that does not come to an end.
    pub(crate) fn drive(&mut self, piece: usize) {
        let turns_max = 2 * self.to_server.len() / piece + 1000;
        for _ in 0..turns_max {
            self.client_turn();
            if self.to_server.is_empty() {
                return;
            }
            let bytes: Vec<u8> = self.to_server.drain(..piece.min(self.to_server.len())).collect();
            self.give(&bytes);
        }
        panic!("still talking after {turns_max} turns");
    }

    /// Reads what is new from the server.
    fn client_turn(&mut self) {
        let replies = self.replies();
        for reply in &replies[self.client_read..] {
            match reply.opcode {
                OpCode::Ping => {
                    self.to_server.extend(client::frame(client::FIN | client::PONG, &reply.payload));
                }
                OpCode::Close if !self.client_closed => {
                    self.client_closed = true;
                    self.to_server.extend(client::frame(client::FIN | client::CLOSE, &reply.payload));
                }
                _ => {}
            }
        }
        self.client_read = replies.len();
    }
}

/// Where a stream is cut into pieces.
#[derive(Clone, Debug)]
pub(crate) enum Cuts {
    /// It arrives in one piece.
    Whole,
    /// In two, cut here.
    At(usize),
    /// In pieces of this length.
    Every(usize),
    /// In pieces of these lengths, over and over.
    Lengths(Vec<usize>),
}

/// A connection that was fed `bytes` in pieces, and then some more if it no longer reads: nothing may come of that.
pub(crate) fn feed(settings: &Rc<Settings>, bytes: &[u8], cuts: &Cuts) -> Pair {
    let mut pair = Pair::new(settings);
    let mut rest = bytes;
    let mut turn = 0;
    while !rest.is_empty() {
        let len = match cuts {
            Cuts::Whole => rest.len(),
            Cuts::At(at) if turn == 0 => *at,
            Cuts::At(_) => rest.len(),
            Cuts::Every(len) => *len,
            Cuts::Lengths(lengths) => lengths[turn % lengths.len()],
        };
        let (piece, after) = rest.split_at(len.min(rest.len()));
        pair.give(piece);
        rest = after;
        turn += 1;
    }
    if !pair.server.standing().reads() {
        let (standing, sent, given) = (pair.server.standing(), pair.sent.len(), pair.given);
        pair.give(&client::text("more"));
        pair.ping(b"");
        pair.close(1001);
        assert_eq!(pair.server.standing(), standing, "the end stays as it is");
        assert_eq!(pair.sent.len(), sent, "nothing is sent after the end");
        pair.given = given;
    }
    pair
}

fn add(sum: &mut Counts, counts: &Counts) {
    sum.frames += counts.frames;
    sum.texts += counts.texts;
    sum.binaries += counts.binaries;
    sum.pings += counts.pings;
    sum.pongs += counts.pongs;
    sum.payload_bytes += counts.payload_bytes;
    sum.text_bytes += counts.text_bytes;
    sum.bytes_gathered += counts.bytes_gathered;
    sum.fragments_streamed += counts.fragments_streamed;
    sum.close = sum.close.or(counts.close);
}
