//! Three ways to move bytes between sockets and what a connection does with them, a [`Handler`].
//!
//! The engine is chosen once, at the start: [`choose`] says which, and why not a better one.

/// Whether a test has planted this fault in the code (see `planted::Fault`): in a server never.
#[cfg(test)]
macro_rules! planted {
    ($fault:ident) => {
        $crate::engine::planted::is_planted($crate::engine::planted::Fault::$fault)
    };
}
#[cfg(not(test))]
macro_rules! planted {
    ($fault:ident) => {
        false
    };
}

mod buffers;
mod choice;
mod clock;
mod common;
mod connection;
mod counters;
mod driver;
pub mod epoll;
mod handler;
mod line;
mod listener;
mod outbox;
mod outgoing;
mod phase;
#[cfg(test)]
mod planted;
pub mod ring;
mod serve;
mod shortage;
mod slots;
pub(crate) mod tokio_uring;
mod unconfirmed;
mod wheel;
mod wire;
mod worker;

use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

pub use buffers::{Buffer, Class};
#[cfg(test)]
pub(crate) use buffers::{Lender, SMALL};
pub(crate) use choice::fall_back;
pub use choice::{Hindrance, choose};
#[cfg(test)]
pub(crate) use clock::Clock;
pub use common::{Bounds, Common};
#[cfg(test)]
pub(crate) use connection::tests::Alone;
pub(crate) use counters::counters;
pub use counters::{Buffers, Counter, EngineCounters, EngineCounts, Gauge};
pub use driver::Driver;
pub use handler::{Handler, Received};
pub use line::Signs;
#[cfg(test)]
pub(crate) use line::{ANSWER_TIMEOUT, DISCARD_MAX};
pub(crate) use line::{Pause, Silence};
pub use listener::Listener;
pub(crate) use listener::{Lent, PAUSE};
pub use phase::Phase;
pub(crate) use phase::PhaseCell;
pub use serve::{Server, Service};
pub use slots::Id;
pub use wire::Wire;
pub use worker::Worker;

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

/// Serves the connections that come to these sockets, on this thread and by this engine, at most so many at a time; tokio-uring
/// bounds them by its descriptors alone. The service is asked for its phase at the beginning only: [`ring::server`] and
/// [`epoll::server`] ask whenever an eventfd(2) is written to.
///
/// # Errors
///
/// When the engine cannot be set up, or is of no more use.
pub fn serve<S>(engine: Engine, connections: usize, service: S, listeners: Vec<Listener>) -> io::Result<()>
where
    S: Service + 'static,
    S::Handler: 'static,
{
    let bounds = Bounds::default();
    let sizes = ring::Sizes::new(bounds.receive_buffer_size, connections);
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
    let mut common = Common::new(bounds, Arc::default());
    match engine {
        Engine::Ring => ring::server(&sizes, Rc::new(common), service, wake)?.serve(listeners),
        Engine::Epoll => epoll::server(connections, Rc::new(common), service, wake)?.serve(listeners),
        Engine::TokioUring => {
            common.receive_singly();
            tokio_uring::Runtime::new()?.serve(Rc::new(common), service, listeners, wake, || ())
        }
    }
}
