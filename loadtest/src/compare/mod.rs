//! `loadtest compare`: servers side by side, visited in turn.

use crate::run::Failure;

/// The options of `loadtest compare`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {}

/// Compares.
///
/// # Errors
///
/// No figure of the run is to be believed: why.
pub(crate) fn run(_args: &Args) -> Result<bool, Failure> {
    Err(Failure::Usage("compare is not there yet".into()))
}
