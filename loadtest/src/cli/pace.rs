//! When it is sent.

use std::time::Duration;

use clap::ArgGroup;

use super::value;
use crate::pace::{Arrivals, Pace};

/// The options of which there has to be one for messages to be due at times of their own.
pub(super) const RATES: &str = "rates";

/// The options that say when what is sent is due.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Pace", group = ArgGroup::new(RATES).multiple(true))]
pub(crate) struct PaceArgs {
    /// Closed loop: messages in flight on each connection, 1 to 65536, the next one due when an echo has come
    #[arg(long, value_name = "COUNT", default_value_t = 1, conflicts_with_all = ["rate", "churn", "idle"],
        allow_hyphen_values = true, value_parser = value::count(DEPTH_MAX))]
    depth: u32,

    /// Open loop: messages a second over all connections, 0.001 to 10M, for example 1000, 20k or 1.5M. Each is due at a time of its own
    /// and its latency counts from then, so a server that stalls is not asked less. With --churn: connections a second
    #[arg(long, value_name = "RATE", group = RATES, allow_hyphen_values = true, value_parser = parse_rate)]
    pub(super) rate: Option<f64>,

    /// How the arrivals of an open loop lie in time
    #[arg(long, value_enum, default_value_t = Arrivals::Constant, requires = RATES)]
    arrivals: Arrivals,

    /// In turn: connect, upgrade with a browser's headers, send one message, check its echo, reset. As many at a time as
    /// -c says, each followed by the next one; at a --rate, no more than that
    #[arg(long)]
    churn: bool,

    /// Hold the connections, ping each once, and report what one costs in the memory of --server-pid
    #[arg(long, conflicts_with_all = ["rate", "churn", "kind", "size", "sizes", "fragments", "ping_every", "messages", "payload", "spin"])]
    pub(super) idle: bool,

    /// Over what time the connections are opened, evenly [default: as fast as they are accepted]
    #[arg(long, value_name = "TIME", default_value = "0s", hide_default_value = true,
        allow_hyphen_values = true, value_parser = value::time)]
    pub(super) ramp: Duration,
}

impl PaceArgs {
    /// When messages are due.
    pub(super) fn pace(&self) -> Pace {
        let rate = self.rate.map(|rate| (rate, self.arrivals));
        match rate {
            _ if self.idle => Pace::Idle,
            _ if self.churn => Pace::Churn { rate },
            Some((rate, arrivals)) => Pace::Open { rate, arrivals },
            None => Pace::Closed { depth: self.depth },
        }
    }
}

/// A number a second, with k or M for thousands or millions.
pub(crate) fn parse_rate(text: &str) -> Result<f64, String> {
    let (number, unit) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1e3),
        Some((at, 'M')) => (&text[..at], 1e6),
        _ => (text, 1.0),
    };
    match number.parse::<f64>().map(|number| number * unit) {
        Ok(rate) if (RATE_MIN..=RATE_MAX).contains(&rate) => Ok(rate),
        _ => Err("a number from 0.001 to 10M is needed, such as 1000, 20k or 1.5M".into()),
    }
}

/// The most messages in flight on a connection.
pub(crate) const DEPTH_MAX: u32 = 65_536;

/// Arrivals a second.
const RATE_MIN: f64 = 1e-3;
const RATE_MAX: f64 = 1e7;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (text, rate) in [("1000", 1e3), ("0.5", 0.5), ("20k", 2e4), ("1.5M", 1.5e6), ("2K", 2e3)] {
            assert_eq!(parse_rate(text), Ok(rate), "{text}");
        }
        for text in ["", "k", "0", "-1", "many", "20M", "NaN", "inf", "5m"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
