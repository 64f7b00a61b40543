//! Which engine runs here, and why not a better one.

use std::io;

use rustix::io::Errno;

use super::Engine;
use super::ring::obstacle::Obstacle;
use super::{ring, tokio_uring};

/// Decides on the engine: the one asked for, or the best that the kernel allows. Falling back takes one log line.
///
/// # Errors
///
/// What is in the way of the engine that was asked for.
pub fn choose(wanted: Option<Engine>) -> Result<Engine, Hindrance> {
    let mut engine = wanted.unwrap_or(Engine::Ring);
    loop {
        let probed = match engine {
            Engine::Ring => ring::probe::probe().map(drop),
            Engine::TokioUring => tokio_uring::probe().map_err(Obstacle::setting_up),
            Engine::Epoll => Ok(()),
        };
        match probed {
            Ok(()) => return Ok(engine),
            Err(obstacle) => engine = fall_back(wanted, Hindrance::new(engine, &obstacle))?,
        }
    }
}

/// What is taken in place of an engine that cannot run; nothing, where it was asked for by name.
///
/// # Errors
///
/// The hindrance then.
pub(crate) fn fall_back(wanted: Option<Engine>, hindrance: Hindrance) -> Result<Engine, Hindrance> {
    if wanted.is_some() {
        return Err(hindrance);
    }
    let Hindrance { engine, errno, reason } = hindrance;
    // What an old kernel lacks for the one it may still have for the other; a refusal goes for both.
    let is_refused = matches!(errno, Some(Errno::PERM | Errno::ACCESS | Errno::NOSYS | Errno::NOMEM));
    let next = if engine == Engine::Ring && !is_refused { Engine::TokioUring } else { Engine::Epoll };
    tracing::warn!(engine = %next, "the {engine} engine is not used: {reason}");
    Ok(next)
}

/// Why an engine cannot run, and what would cure it.
#[derive(Debug, thiserror::Error)]
#[error("the engine {engine} cannot run here: {reason}")]
pub struct Hindrance {
    /// Which.
    pub engine: Engine,
    errno: Option<Errno>,
    /// Why not, and what would cure it, in one line.
    pub reason: String,
}

impl Hindrance {
    fn new(engine: Engine, obstacle: &Obstacle) -> Self {
        Self { engine, errno: Errno::from_io_error(&obstacle.source), reason: obstacle.to_string() }
    }

    /// An error of io_uring_setup(2), or of what a ring needs beyond it.
    pub(crate) fn of_setup(engine: Engine, error: io::Error) -> Self {
        Self::new(engine, &Obstacle::setting_up(error))
    }
}
