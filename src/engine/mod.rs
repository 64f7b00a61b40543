//! Three ways to move bytes between sockets and what a connection does with them, a [`Handler`].
//!
//! The engine is chosen once, at the start: [`choose`] says which, and why not a better one.

mod alarms;
mod buffers;
mod choice;
mod clock;
mod common;
mod counters;
mod drain;
mod epoll;
mod handler;
mod listener;
mod outgoing;
mod owned;
mod pool;
pub mod ring;
mod send_queue;
mod shortage;
mod tokio_uring;
mod unconfirmed;
mod wheel;

use std::fmt;
use std::io;
use std::rc::Rc;

use tokio::net::TcpStream;

#[cfg(test)]
pub(crate) use buffers::Lender;
pub(crate) use buffers::SMALL;
pub use buffers::{Buffer, Class};
pub(crate) use choice::fall_back;
pub use choice::{Hindrance, choose};
#[cfg(test)]
pub(crate) use clock::Clock;
pub(crate) use clock::Moment;
pub(crate) use common::Common;
pub(crate) use counters::counters;
pub use counters::{Buffers, Counter, EngineCounters, EngineCounts, Gauge};
pub use drain::Phase;
#[cfg(test)]
pub(crate) use epoll::task_size;
pub use handler::{Handler, Received};
pub use listener::Listener;
pub(crate) use listener::{Lent, PAUSE, is_the_peers};
pub use outgoing::Outgoing;
pub(crate) use send_queue::SendQueue;

/// How bytes are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// io_uring, by itself.
    Ring,
    /// io_uring by the tokio-uring crate.
    TokioUring,
    /// Readiness by epoll.
    Epoll,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ring => "ring",
            Self::TokioUring => "tokio-uring",
            Self::Epoll => "epoll",
        })
    }
}

/// What runs the tasks of a worker, on the thread that made it.
pub(crate) enum Runtime {
    TokioUring(::tokio_uring::Runtime),
    Epoll(epoll::Runtime),
}

impl Runtime {
    pub(crate) fn tokio_uring() -> io::Result<Self> {
        tokio_uring::runtime_in_time().map(Self::TokioUring)
    }

    pub(crate) fn epoll() -> io::Result<Self> {
        epoll::Runtime::new().map(Self::Epoll)
    }

    /// Runs `future`, and what it spawns.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        match self {
            Self::TokioUring(runtime) => runtime.block_on(future),
            Self::Epoll(runtime) => runtime.block_on(future),
        }
    }

    /// How its connections are served.
    pub(crate) const fn spawner(&self) -> Spawner {
        match self {
            Self::TokioUring(_) => Spawner::TokioUring,
            Self::Epoll(_) => Spawner::Epoll,
        }
    }
}

/// Serves each connection in a task of its own, on the runtime of this kind.
#[derive(Clone, Copy)]
pub(crate) enum Spawner {
    TokioUring,
    Epoll,
}

impl Spawner {
    pub(crate) fn spawn<H: Handler + 'static>(self, socket: TcpStream, handler: H, common: Rc<Common>) {
        match self {
            Self::Epoll => {
                tokio::task::spawn_local(owned::serve(epoll::stream(socket), handler, common));
            }
            Self::TokioUring => match tokio_uring::stream(socket) {
                Ok(stream) => {
                    tokio::task::spawn_local(owned::serve(stream, handler, common));
                }
                Err(error) => tracing::warn!(%error, "a connection could not be taken over"),
            },
        }
    }
}
