//! What is told of it.

/// The options that say what is told, and where.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// Print one JSON object instead of the report
    #[arg(long)]
    pub(crate) json: bool,
}
