//! `loadtest demo`: ringback beside a common server, in one command.

use crate::run::Failure;

/// The options of `loadtest demo`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {}

/// Compares the two and says what came out.
///
/// # Errors
///
/// A server cannot be started, or no figure is to be believed: why.
pub(crate) fn run(_args: &Args) -> Result<bool, Failure> {
    Err(Failure::Usage("demo is not there yet".into()))
}
