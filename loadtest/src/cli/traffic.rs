//! What is sent.

use bytesize::ByteSize;

use crate::client::traffic::{Kind, Traffic};

/// The options that say what is sent.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Traffic")]
pub(crate) struct TrafficArgs {
    /// Payload of a message, for example 125, 16KiB or 1MiB
    #[arg(long, value_name = "BYTES", default_value = "64", value_parser = parse_size)]
    size: usize,

    /// What the messages are made of
    #[arg(long, value_enum, default_value_t = Kind::Text)]
    kind: Kind,
}

impl TrafficArgs {
    /// The messages, all that is random in them following from `seed`.
    pub(crate) fn traffic(&self, seed: u64) -> Traffic {
        Traffic::new(self.kind, self.size, seed)
    }
}

/// The largest message: the block it is cut from lies in memory.
const SIZE_MAX: u64 = 1 << 30;

fn parse_size(text: &str) -> Result<usize, String> {
    let ByteSize(size) = text.parse()?;
    match usize::try_from(size) {
        Ok(len) if size <= SIZE_MAX => Ok(len),
        _ => Err("at most 1GiB".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("64"), Ok(64));
        assert_eq!(parse_size("16KiB"), Ok(16_384));
        assert_eq!(parse_size("1MiB"), Ok(1 << 20));
        assert_eq!(parse_size("1GiB"), Ok(1 << 30));
        assert!(parse_size("2GiB").is_err());
        assert!(parse_size("many").is_err());
    }
}
