//! What moves a worker's bytes: one [`Driver`] for each kernel interface.
//!
//! The worker says what a socket should be doing: receive, send this, rest, end. The driver sees to it in its own way, and
//! says what has come.

use std::io;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockAddr;

use super::buffers::Class;
use super::handler::Received;
use super::listener::Listener;
use super::outgoing::{Manner, Pieces};
use super::slots::Id;

/// Moves a worker's bytes.
pub trait Driver: Sized {
    /// What the driver keeps of a socket, in the worker's table.
    type Socket;

    /// Whether a reply has to leave before the next event is asked for: its buffer is the one that is received into next.
    const ANSWERS_AT_ONCE: bool;

    /// Accepts from these sockets from now on, as [`Self::set_accepting`] has it. With `asks_for_peers` each connection comes
    /// with the address of its peer.
    ///
    /// # Errors
    ///
    /// What the kernel says to a socket.
    fn listen(&mut self, listeners: Vec<Listener>, asks_for_peers: bool) -> io::Result<()>;

    /// What to accept from now on. The worker says it before each turn.
    fn set_accepting(&mut self, accepting: Accepting);

    /// Whether there is a socket left that listens.
    fn is_listening(&self) -> bool;

    /// Begins to make a connection over this socket; `Event::Begun` says what came of it.
    ///
    /// # Errors
    ///
    /// What the kernel says to the socket.
    fn connect(&mut self, id: Id, socket: OwnedFd, to: Arc<SockAddr>) -> io::Result<Self::Socket>;

    /// The name of a socket that was accepted. It comes before anything else is asked of the socket.
    ///
    /// # Errors
    ///
    /// What the kernel says to the socket.
    fn adopt(&mut self, id: Id, socket: &mut Self::Socket) -> io::Result<()>;

    /// Into buffers of which class to receive from now on, or not to receive. The worker says it whenever it has looked at a
    /// connection.
    fn set_receiving(&mut self, id: Id, socket: &mut Self::Socket, class: Option<Class>);

    /// Hands out nothing more of this socket in this turn. What has come waits, in its order.
    fn rest(&mut self, id: Id, socket: &mut Self::Socket);

    /// Sends bytes that the worker keeps, as far as the socket takes them at once. Gives how many, unless the driver cannot do so
    /// or fails: then the worker asks for [`Self::send`]. Only of a driver that answers at once.
    fn send_now(&mut self, _socket: &mut Self::Socket, _bytes: &[u8]) -> Option<usize> {
        None
    }

    /// Sends these pieces. The worker never asks while another send of the socket is under way. Gives how the send ended, if
    /// it has; otherwise `Event::Sent` says so.
    fn send(&mut self, id: Id, socket: &mut Self::Socket, pieces: Pieces, manner: Manner) -> Option<Sent>;

    /// Shuts the write side.
    fn shut_write(&mut self, id: Id, socket: &mut Self::Socket);

    /// Asks what the peer has not confirmed. Gives the answer, or `Event::Unconfirmed` does: how many bytes that are, or
    /// nothing where the kernel cannot tell.
    fn ask_unconfirmed(&mut self, id: Id, socket: &mut Self::Socket) -> Option<Option<u32>>;

    /// Whether everything that the peer sent until now was handed out, or is not wanted.
    fn has_heard(&mut self, id: Id, socket: &mut Self::Socket) -> bool;

    /// Ends the socket: nothing more is received or sent. With `is_abrupt` it must not be shut before it is closed. Gives whether
    /// the socket is gone; otherwise `Event::Closed` says so. The worker asks again whenever something of the socket ends.
    fn give_up(&mut self, id: Id, socket: &mut Self::Socket, is_abrupt: bool) -> bool;

    /// The socket's descriptor, where it has one.
    fn descriptor(socket: &Self::Socket) -> Option<BorrowedFd<'_>>;

    /// Has `Event::Woken` come whenever this eventfd(2) is written to, and once for what was written before.
    ///
    /// # Errors
    ///
    /// What the kernel says to it.
    fn watch(&mut self, eventfd: Arc<OwnedFd>) -> io::Result<()>;

    /// Has `Event::Elapsed` come after so long. Of several alarms the last one counts.
    fn set_alarm(&mut self, after: Duration);

    /// Does what was asked for, and waits until something has come, no longer than `at_most`.
    ///
    /// # Errors
    ///
    /// When the driver is of no more use.
    fn enter(
        &mut self,
        sockets: &mut impl Sockets<Self::Socket>,
        at_most: Option<Duration>,
    ) -> io::Result<()>;

    /// The next of what has come; `None` when there is nothing more before [`Self::enter`].
    ///
    /// # Errors
    ///
    /// When the driver is of no more use.
    fn next_event(
        &mut self,
        sockets: &mut impl Sockets<Self::Socket>,
    ) -> io::Result<Option<Event<Self::Socket>>>;
}

/// The sockets of a worker.
pub trait Sockets<S> {
    /// The socket of this name, if it is there still.
    fn socket(&mut self, id: Id) -> Option<&mut S>;
}

/// What has come.
#[derive(Debug)]
pub enum Event<S> {
    /// A connection was accepted; its peer's address, where it was asked for or costs nothing, and there is one.
    Accepted {
        /// Its socket.
        socket: S,
        /// Whose it is.
        peer: Option<IpAddr>,
    },
    /// Accepting has failed, for want of something.
    AcceptFailed(io::Error),
    /// A connection that was asked for is there, or will not be.
    Begun {
        /// Which.
        id: Id,
        /// What came of it.
        result: io::Result<()>,
    },
    /// A socket has received something.
    Received {
        /// Which.
        id: Id,
        /// What.
        received: Received,
    },
    /// A send is over.
    Sent {
        /// Of which socket.
        id: Id,
        /// How it ended.
        sent: Sent,
    },
    /// What the peer has not confirmed.
    Unconfirmed {
        /// Of which socket.
        id: Id,
        /// How many bytes.
        bytes: Option<u32>,
    },
    /// A socket that was given up is closed.
    Closed {
        /// Which.
        id: Id,
    },
    /// The time of the alarm has passed.
    Elapsed,
    /// The eventfd was written to.
    Woken,
}

/// The worker moves an event for each receive.
const _: () = assert!(size_of::<Event<u64>>() <= 80);

/// How a send ended: how many bytes of the pieces went out, from the first one on.
#[derive(Debug)]
pub struct Sent {
    pub(super) result: io::Result<usize>,
    pub(super) pieces: Pieces,
}

/// What is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepting {
    /// How many connections there is room for.
    pub(super) places: usize,
    /// The driver begins no further accept for now.
    pub(super) is_paused: bool,
    /// The driver accepts the connections that are queued, and then closes the listeners.
    pub(super) are_last: bool,
}
