//! How a server ends.

use std::time::Duration;

use super::values;

/// How much time there is for the end.
#[derive(Clone, Debug, clap::Args)]
pub struct DrainConfig {
    /// Time from SIGTERM or SIGINT to the drain, for load balancers to notice, 1ms to 7days; until then everything goes on; 0s
    /// for none
    #[arg(
        id = "drain_delay",
        long = "drain-delay",
        env = "RINGBACK_DRAIN_DELAY",
        value_name = "TIME",
        default_value = "0s",
        value_parser = values::time_or_zero(values::MILLISECOND..=values::WEEK, "for none")
    )]
    pub delay: Duration,

    /// Time that open connections have to end once the drain has begun, 1ms to 7days; 0s to cut them at once
    #[arg(
        id = "drain_timeout",
        long = "drain-timeout",
        env = "RINGBACK_DRAIN_TIMEOUT",
        value_name = "TIME",
        default_value = "10s",
        value_parser = values::time_or_zero(values::MILLISECOND..=values::WEEK, "to cut them at once")
    )]
    pub timeout: Duration,
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self { delay: Duration::ZERO, timeout: Duration::from_secs(10) }
    }
}
