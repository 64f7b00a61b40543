//! Three ways to move a connection's bytes between a socket and [`Connection`](crate::proto::Connection).
//!
//! The engine is chosen once, at the start: [`choose`] says which, and why not a better one.

mod alarms;
mod buffer;
mod clock;
mod context;
mod counters;
mod epoll;
mod keep_alive;
mod notices;
mod outgoing;
mod owned;
mod peer;
mod pool;
pub mod ring;
mod send_queue;
mod session;
mod tokio_uring;
mod wheel;

use std::fmt;
use std::io;
use std::rc::Rc;

use rustix::io::Errno;
use tokio::net::TcpStream;

use crate::config::EngineChoice;
use crate::limits::Admission;
use crate::server::StartError;
use ring::obstacle::Obstacle;

pub(crate) use alarms::watch as watch_alarms;
pub(crate) use context::Context;
pub(crate) use counters::counters;
pub use counters::{Buffers, Counter, EngineCounters, EngineCounts, Gauge};
pub(crate) use session::Start;

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

/// Decides on the engine: the one asked for, or the best that the kernel allows. Falling back takes one log line.
///
/// # Errors
///
/// [`StartError::Engine`] when the engine asked for by name cannot run.
pub fn choose(choice: EngineChoice) -> Result<Engine, StartError> {
    let mut engine = match choice {
        EngineChoice::Auto | EngineChoice::Ring => Engine::Ring,
        EngineChoice::TokioUring => Engine::TokioUring,
        EngineChoice::Epoll => Engine::Epoll,
    };
    loop {
        let probed = match engine {
            Engine::Ring => ring::probe::probe().map(drop).map_err(Hindrance::from),
            Engine::TokioUring => tokio_uring::probe().map_err(Hindrance::from),
            Engine::Epoll => Ok(()),
        };
        match probed {
            Ok(()) => return Ok(engine),
            Err(hindrance) => engine = fall_back(choice, engine, hindrance)?,
        }
    }
}

/// What is taken in place of an `engine` that cannot run; nothing, where it was asked for by name.
///
/// # Errors
///
/// [`StartError::Engine`] then.
pub(crate) fn fall_back(
    choice: EngineChoice,
    engine: Engine,
    Hindrance { errno, reason }: Hindrance,
) -> Result<Engine, StartError> {
    if choice != EngineChoice::Auto {
        return Err(StartError::Engine { engine, reason });
    }
    // What an old kernel lacks for the one it may still have for the other; a refusal goes for both.
    let is_refused = matches!(errno, Some(Errno::PERM | Errno::ACCESS | Errno::NOSYS | Errno::NOMEM));
    let next = if engine == Engine::Ring && !is_refused { Engine::TokioUring } else { Engine::Epoll };
    tracing::warn!(engine = %next, "the {engine} engine is not used: {reason}");
    Ok(next)
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

/// Serves a connection in a task of its own, on the runtime of this kind.
#[derive(Clone, Copy)]
pub(crate) enum Spawner {
    TokioUring,
    Epoll,
}

impl Spawner {
    pub(crate) fn spawn(
        self,
        socket: TcpStream,
        start: Start,
        context: Rc<Context>,
        admission: Option<Admission>,
    ) {
        match self {
            Self::Epoll => {
                tokio::task::spawn_local(owned::serve(epoll::stream(socket), start, context, admission));
            }
            Self::TokioUring => match tokio_uring::stream(socket) {
                Ok(stream) => {
                    tokio::task::spawn_local(owned::serve(stream, start, context, admission));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken over");
                    context.stats.ended.add(1);
                }
            },
        }
    }
}

/// Why an engine cannot run, and what would cure it.
pub(crate) struct Hindrance {
    errno: Option<Errno>,
    reason: String,
}

impl From<Obstacle> for Hindrance {
    fn from(obstacle: Obstacle) -> Self {
        Self { errno: Errno::from_io_error(&obstacle.source), reason: obstacle.to_string() }
    }
}

impl From<io::Error> for Hindrance {
    /// An error of io_uring_setup(2), or of what a ring needs beyond it.
    fn from(error: io::Error) -> Self {
        Obstacle::new("setting up a ring", error).into()
    }
}
