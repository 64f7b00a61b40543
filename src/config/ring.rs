//! How large the rings are.

use super::values;

/// How large the ring of each worker is; `None` for what suits the connections.
///
/// Nobody who serves has to say it, so `--help` does not tell: it is there to see what the engine does when it runs
/// out of something, and to measure.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RingConfig {
    /// Entries of the submission queue
    #[arg(
        long = "ring-submissions",
        env = "RINGBACK_RING_SUBMISSIONS",
        value_name = "N",
        hide = true,
        value_parser = values::parse_power_of_two
    )]
    pub submissions: Option<u16>,

    /// Entries of the completion queue, no fewer than of the submission queue
    #[arg(
        long = "ring-completions",
        env = "RINGBACK_RING_COMPLETIONS",
        value_name = "N",
        hide = true,
        value_parser = values::parse_power_of_two
    )]
    pub completions: Option<u16>,

    /// Number of small receive buffers
    #[arg(
        long = "ring-buffers",
        env = "RINGBACK_RING_BUFFERS",
        value_name = "N",
        hide = true,
        value_parser = values::parse_power_of_two
    )]
    pub buffers: Option<u16>,

    /// Size of a small receive buffer, its headroom included
    #[arg(
        long = "ring-buffer-size",
        env = "RINGBACK_RING_BUFFER_SIZE",
        value_name = "SIZE",
        hide = true,
        value_parser = values::memory(128..=values::MIB)
    )]
    pub buffer_size: Option<usize>,

    /// Number of big receive buffers
    #[arg(
        long = "ring-big-buffers",
        env = "RINGBACK_RING_BIG_BUFFERS",
        value_name = "N",
        hide = true,
        value_parser = values::parse_power_of_two
    )]
    pub big_buffers: Option<u16>,

    /// Connections that a worker has room for
    #[arg(
        long = "ring-files",
        env = "RINGBACK_RING_FILES",
        value_name = "N",
        hide = true,
        value_parser = clap::value_parser!(u32).range(1..=65_536)
    )]
    pub files: Option<u32>,
}
