//! How a server ends.

use std::time::Duration;

/// How much time there is for the end.
#[derive(Clone, Debug, clap::Args)]
pub struct DrainConfig {
    /// Time from SIGTERM or SIGINT to the drain, for load balancers to notice; until then everything goes on
    #[arg(
        id = "drain_delay",
        long = "drain-delay",
        env = "RINGBACK_DRAIN_DELAY",
        value_name = "TIME",
        default_value = "0s",
        value_parser = humantime::parse_duration
    )]
    pub delay: Duration,

    /// Time that open connections have to end once the drain has begun
    #[arg(
        id = "drain_timeout",
        long = "drain-timeout",
        env = "RINGBACK_DRAIN_TIMEOUT",
        value_name = "TIME",
        default_value = "10s",
        value_parser = humantime::parse_duration
    )]
    pub timeout: Duration,
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self { delay: Duration::ZERO, timeout: Duration::from_secs(10) }
    }
}
