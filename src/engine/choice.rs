//! Which engine runs here, and why not a better one.

use std::io;

use super::Engine;
use super::ring::obstacle::Obstacle;
use super::{ring, tokio_uring};

/// Decides on the engine: the one asked for, or the best that the kernel allows. Falling back takes one log line.
///
/// # Errors
///
/// What is in the way of the engine that was asked for.
pub fn choose(wanted: Option<Engine>) -> Result<Engine, Hindrance> {
    let engine = wanted.unwrap_or(Engine::Ring);
    let probed = match engine {
        Engine::Ring => ring::probe::probe().map(drop),
        Engine::TokioUring => tokio_uring::probe().map_err(Obstacle::setting_up),
        Engine::Epoll => Ok(()),
    };
    match probed {
        Ok(()) => Ok(engine),
        Err(obstacle) => fall_back(wanted, Hindrance::new(engine, &obstacle)),
    }
}

/// What is taken in place of an engine that cannot run: epoll, which runs everywhere. Nothing, where the engine was asked for
/// by name.
///
/// # Errors
///
/// The hindrance then.
pub(crate) fn fall_back(wanted: Option<Engine>, hindrance: Hindrance) -> Result<Engine, Hindrance> {
    if wanted.is_some() {
        return Err(hindrance);
    }
    let Hindrance { engine, reason } = hindrance;
    tracing::warn!(engine = %Engine::Epoll, "the {engine} engine is not used: {reason}");
    Ok(Engine::Epoll)
}

/// Why an engine cannot run, and what would cure it.
#[derive(Debug, thiserror::Error)]
#[error("the engine {engine} cannot run here: {reason}")]
pub struct Hindrance {
    /// Which.
    pub engine: Engine,
    /// Why not, and what would cure it, in one line.
    pub reason: String,
}

impl Hindrance {
    fn new(engine: Engine, obstacle: &Obstacle) -> Self {
        Self { engine, reason: obstacle.to_string() }
    }

    /// An error of io_uring_setup(2), or of what a ring needs beyond it.
    pub(crate) fn of_setup(engine: Engine, error: io::Error) -> Self {
        Self::new(engine, &Obstacle::setting_up(error))
    }
}
