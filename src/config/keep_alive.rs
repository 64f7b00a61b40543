//! How it is found out that a peer is gone, and how long one may have nothing to say.

use std::time::Duration;

use super::values;

const OFF: &str = "to turn it off";

/// What an open connection is held to. Zero turns each of them off.
#[derive(Clone, Debug, clap::Args)]
pub struct KeepAliveConfig {
    /// Silence of a client after which it is pinged, 10ms to 7days; 0s for no pings
    #[arg(
        long = "keep-alive-interval",
        env = "RINGBACK_KEEP_ALIVE_INTERVAL",
        value_name = "TIME",
        default_value = "25s",
        value_parser = values::time_or_zero(values::SILENCE, OFF)
    )]
    pub interval: Duration,

    /// Time that a pinged client has to say anything before it gets Close(1001) and is cut, 10ms to 7days; 0s for ever
    #[arg(
        long = "keep-alive-timeout",
        env = "RINGBACK_KEEP_ALIVE_TIMEOUT",
        value_name = "TIME",
        default_value = "20s",
        value_parser = values::time_or_zero(values::SILENCE, OFF)
    )]
    pub timeout: Duration,

    /// Time without a message, however many pongs come, after which a client gets Close(1001), 10ms to 7days; 0s for any
    #[arg(
        long = "idle-timeout",
        env = "RINGBACK_IDLE_TIMEOUT",
        value_name = "TIME",
        default_value = "0s",
        value_parser = values::time_or_zero(values::SILENCE, OFF)
    )]
    pub idle: Duration,
}

impl Default for KeepAliveConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(25), timeout: Duration::from_secs(20), idle: Duration::ZERO }
    }
}
