//! What is sent.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use ringback::proto::frame::CONTROL_PAYLOAD_MAX;

use super::value;
use crate::client::file::FileMessages;
use crate::client::sizes::{Sizes, parse_size};
use crate::client::traffic::{Kind, Settings, Traffic};
use crate::run::Failure;

/// The options that say what is sent.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Traffic")]
pub(crate) struct TrafficArgs {
    /// Payload of a message, 0 to 1GiB, for example 125, 1k (1,000), 16KiB (16,384) or 1MiB
    #[arg(long, value_name = "BYTES", default_value = "64", allow_hyphen_values = true, value_parser = parse_size,
        conflicts_with = "sizes")]
    size: usize,

    /// Payloads of messages that differ: a range, or a list with weights: 64-4KiB or 64:80,1k:15,64k:5
    ///
    /// Each entry of the list may be a range, all sizes of which come alike. The sizes of a connection come again, in
    /// the same random order, after 1,021 messages, and have their shares of those. As everywhere, k is 1,000 and KiB
    /// is 1,024.
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    sizes: Option<Sizes>,

    /// What the messages are made of
    #[arg(long, value_enum, default_value_t = Kind::Text)]
    kind: Kind,

    /// Frames of a message, 1 to 65536, or a range of which each message has one: 3 or 1-4
    #[arg(long, value_name = "COUNT", default_value = "1", allow_hyphen_values = true, value_parser = parse_fragments)]
    fragments: RangeInclusive<u32>,

    /// Messages of a connection, 1 to 1000000000, after which a ping is sent, whose pong is checked; between fragments
    /// where there are
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true, value_parser = value::count(PING_EVERY_MAX))]
    ping_every: Option<u32>,

    /// Send the lines of this file, each as a text message, in their order and again from the first, on every connection
    ///
    /// LF or CR LF ends a line and is not sent; an empty line is an empty message. The file is UTF-8, of 1GiB and 1048576
    /// lines at most.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kind", "size", "sizes", "payload"])]
    messages: Option<PathBuf>,

    /// Send this file, of 1GiB at most, as one binary message, again and again
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kind", "size", "sizes"])]
    payload: Option<PathBuf>,
}

impl TrafficArgs {
    /// Pings and nothing else: what connections are held by.
    pub(super) fn pings(seed: u64) -> Traffic {
        let sizes = Sizes::fixed(PING_LEN);
        Traffic::new(Settings { kind: Kind::Ping, sizes, fragments: 1..=1, ping_every: None }, seed)
    }

    /// The file that the messages are from.
    pub(super) fn file(&self) -> Option<String> {
        self.messages.as_ref().or(self.payload.as_ref()).map(|path| path.display().to_string())
    }

    /// About how many bytes the messages are cut from, where they are random.
    pub(super) fn bytes(&self) -> usize {
        let size = self.sizes.as_ref().map_or(self.size, Sizes::max);
        if self.kind == Kind::Mixed { size * 3 } else { size }
    }

    /// The messages, all that is random in them following from `seed`.
    ///
    /// # Errors
    ///
    /// What cannot be sent together, in one line.
    pub(crate) fn traffic(&self, seed: u64) -> Result<Traffic, Failure> {
        let ping_every = self.ping_every.and_then(NonZeroU32::new);
        let named = [
            ("--messages", &self.messages, FileMessages::lines as fn(&Path) -> _),
            ("--payload", &self.payload, FileMessages::payload),
        ];
        for (option, path, read) in named {
            if let Some(path) = path {
                let messages = read(path)
                    .map_err(|error| Failure::Usage(format!("{option} {}: {error}", path.display())))?;
                return Ok(Traffic::of_file(messages, &self.fragments, ping_every, seed));
            }
        }
        let sizes = self.sizes.clone().unwrap_or_else(|| Sizes::fixed(self.size));
        if self.kind == Kind::Ping {
            let told = if sizes.max() > CONTROL_PAYLOAD_MAX {
                Some("--kind ping: a ping has at most 125 bytes of payload (RFC 6455 §5.5)")
            } else if self.fragments != (1..=1) {
                Some("--kind ping: a ping has no fragments (RFC 6455 §5.5)")
            } else if self.ping_every.is_some() {
                Some("--kind ping sends nothing but pings: leave --ping-every out")
            } else {
                None
            };
            if let Some(told) = told {
                return Err(Failure::Usage(told.into()));
            }
        }
        let Self { kind, ref fragments, .. } = *self;
        Ok(Traffic::new(Settings { kind, sizes, fragments: fragments.clone(), ping_every }, seed))
    }
}

const PING_EVERY_MAX: u32 = 1_000_000_000;

/// The payload of a ping by which a connection is held, in bytes.
const PING_LEN: usize = 8;

/// The most frames of a message.
const FRAGMENTS_MAX: u32 = 65_536;

fn parse_fragments(text: &str) -> Result<RangeInclusive<u32>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let parse = |text: &str| text.trim().parse().ok().filter(|count| (1..=FRAGMENTS_MAX).contains(count));
    match (parse(first), parse(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => Err(format!("a number of frames like 3, or a range like 1-4, of 1 to {FRAGMENTS_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments() {
        assert_eq!(parse_fragments("1"), Ok(1..=1));
        assert_eq!(parse_fragments("1-4"), Ok(1..=4));
        assert_eq!(parse_fragments("65536"), Ok(65_536..=65_536));
        for text in ["", "0", "0-2", "4-1", "65537", "x", "-3", "1-"] {
            assert!(parse_fragments(text).is_err(), "{text}");
        }
    }
}
