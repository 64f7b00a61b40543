//! Why there was no run, or none that could be told of.

use std::io;

use serde_json::json;

/// Why there was no run, or none that could be told of: one line, and an exit code of sysexits(3).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The user asked for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// The server cannot be reached.
    #[error("{0}")]
    Unavailable(String),
    /// The system refuses a thread, a file or memory.
    #[error("{0}")]
    System(String),
    /// There was one, and what it found cannot be written.
    #[error("{0}")]
    Output(String),
}

impl Failure {
    /// The system does not let us do this: why, and what helps.
    pub(crate) fn refused(what: &str, error: &io::Error, cure: &str) -> Self {
        let cure = match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::MFILE) => "raise the limit of open files (ulimit -n)",
            Some(rustix::io::Errno::NOMEM) => {
                "raise the limit of memory (ulimit -v, ulimit -l), or use fewer --connections and --threads"
            }
            _ => cure,
        };
        Self::System(format!("cannot {what}: {error}; {cure}"))
    }

    /// What the process ends with.
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => EXIT_USAGE,
            Self::Unavailable(_) => EXIT_UNAVAILABLE,
            Self::System(_) => EXIT_SYSTEM,
            Self::Output(_) => EXIT_IO,
        }
    }

    /// The failure as a JSON object; loadtest/error.schema.json describes it.
    pub(crate) fn to_json(&self) -> String {
        error_json(&self.to_string(), self.exit_code())
    }
}

/// An error as an object on one line.
pub(crate) fn error_json(message: &str, exit_code: u8) -> String {
    format!("{}\n", json!({ "error": { "message": message, "exit_code": exit_code } }))
}

/// The command line is wrong: EX_USAGE.
pub(crate) const EXIT_USAGE: u8 = 64;

/// The server cannot be reached: EX_UNAVAILABLE.
const EXIT_UNAVAILABLE: u8 = 69;

/// The system refuses what is needed: EX_OSERR.
const EXIT_SYSTEM: u8 = 71;

/// What was found cannot be written: EX_IOERR.
const EXIT_IO: u8 = 74;
