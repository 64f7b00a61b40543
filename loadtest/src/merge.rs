//! `loadtest merge`: the histograms of several runs as one.

use crate::run::Failure;

/// The options of `loadtest merge`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {}

/// Merges, and prints the percentiles.
///
/// # Errors
///
/// A file cannot be read or written, or is no log of histograms.
pub(crate) fn run(_args: &Args) -> Result<bool, Failure> {
    Err(Failure::Usage("merge is not there yet".into()))
}
