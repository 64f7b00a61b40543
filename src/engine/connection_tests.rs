//! A connection alone, for tests of handlers.

use std::rc::Rc;

use super::*;
use crate::engine::{Buffer, Id, Lender, Phase};
use crate::memory::HEADROOM;

/// A connection without a socket: the test is the peer, and the kernel.
pub(crate) struct Alone<H> {
    connection: Connection<H>,
    common: Rc<Common>,
    /// Small buffers, and big ones.
    lenders: [Lender; 2],
}

/// What its worker would name it.
const ID: Id = Id { slot: 0, generation: 0 };

/// A send that is under way.
pub(crate) struct UnderWay(Pieces);

impl UnderWay {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|piece| piece.bytes().to_vec()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl<H: Handler> Alone<H> {
    /// One that has begun well.
    pub(crate) fn new(handler: H, common: &Rc<Common>) -> Self {
        let lenders = [Lender::new(u32::MAX), Lender::of(Class::Big, common.bounds.receive_buffer_size, 0)];
        let connection = Connection::new(handler, common);
        let mut alone = Self { connection, common: Rc::clone(common), lenders };
        alone.connection.begin(Ok(()), Context { common, id: ID, socket: None });
        alone
    }

    pub(crate) fn handler(&self) -> &H {
        &self.connection.handler
    }

    /// A buffer as it would be received into. It is scarce.
    pub(crate) fn take(&self) -> Buffer {
        let lenders = match self.connection.class() {
            Class::Small => &self.lenders[0],
            Class::Big => &self.lenders[1],
        };
        lenders.lend()
    }

    /// The peer sends `bytes`, which come a buffer at a time.
    pub(crate) fn receive(&mut self, bytes: &[u8], take: impl Fn(&Self) -> Buffer) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let mut buffer = take(self);
            let room = &mut buffer.bytes_mut()[HEADROOM..];
            let (piece, behind) = rest.split_at(rest.len().min(room.len()));
            room[..piece.len()].copy_from_slice(piece);
            let received = Received::Bytes(buffer, HEADROOM..HEADROOM + piece.len());
            self.connection.received(received, Context { common: &self.common, id: ID, socket: None });
            rest = behind;
        }
    }

    /// The peer ends its side.
    pub(crate) fn receive_end(&mut self) {
        self.connection.received(Received::End, Context { common: &self.common, id: ID, socket: None });
    }

    /// A receive fails.
    pub(crate) fn receive_error(&mut self, kind: io::ErrorKind) {
        let context = Context { common: &self.common, id: ID, socket: None };
        self.connection.received(Received::Failed(kind.into()), context);
    }

    /// What is sent next, a piece.
    pub(crate) fn next_send(&mut self) -> Option<UnderWay> {
        let context = Context { common: &self.common, id: ID, socket: None };
        self.connection.next_send(1, context).map(|(pieces, _)| UnderWay(pieces))
    }

    /// So many bytes of a send went out.
    pub(crate) fn sent(&mut self, sent: usize, send: UnderWay) {
        let context = Context { common: &self.common, id: ID, socket: None };
        self.connection.sent(Ok(sent), send.0, context);
    }

    /// Sends all there is, as to a peer that takes everything.
    pub(crate) fn send_all(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(send) = self.next_send() {
            all.extend_from_slice(&send.bytes());
            self.sent(send.len(), send);
        }
        all
    }

    pub(crate) fn unsent(&self) -> usize {
        self.connection.line.outbox.unsent()
    }

    /// How many pieces wait to be sent.
    pub(crate) fn queued(&self) -> usize {
        self.connection.line.outbox.len()
    }

    pub(crate) fn may_receive(&mut self) -> bool {
        self.connection.may_receive(&self.common)
    }

    pub(crate) fn takes_shut_write(&mut self) -> bool {
        self.connection.takes_shut_write(&self.common)
    }

    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.connection.deadline()
    }

    pub(crate) fn is_overdue(&self) -> bool {
        self.deadline().is_some_and(|due| due <= self.common.clock.now())
    }

    /// The deadline has passed; gives whether what the peer has not confirmed would be asked for first. It is `unconfirmed`.
    pub(crate) fn pass_deadline(&mut self, unconfirmed: Option<u32>) {
        if self.connection.asks_unconfirmed() {
            self.connection.on_unconfirmed(unconfirmed);
        }
        self.connection.on_deadline(Context { common: &self.common, id: ID, socket: None });
    }

    pub(crate) fn on_phase(&mut self, phase: Phase) {
        self.connection.on_phase(phase, Context { common: &self.common, id: ID, socket: None });
    }

    pub(crate) fn is_over(&self) -> bool {
        self.connection.is_over()
    }
}
