//! How long the head of a request may be.

use super::values;
use crate::proto::handshake::{HEAD_MAX, HEAD_MAX_RANGE, HEADERS_MAX, HEADERS_MAX_RANGE};

/// How long the head of a request may be.
#[derive(Clone, Debug, clap::Args)]
pub struct HeadConfig {
    /// Longest head of a request, 1KiB to 64KiB; a longer one gets 431
    #[arg(
        long = "max-head-size",
        env = "RINGBACK_MAX_HEAD_SIZE",
        value_name = "SIZE",
        default_value = "8KiB",
        value_parser = values::memory(bound(*HEAD_MAX_RANGE.start())..=bound(*HEAD_MAX_RANGE.end()))
    )]
    pub max_size: usize,

    /// Most header fields of a request, 16 to 512; one with more gets 431
    #[arg(
        long = "max-head-fields",
        env = "RINGBACK_MAX_HEAD_FIELDS",
        value_name = "N",
        default_value_t = HEADERS_MAX,
        value_parser = values::count::<usize>(bound(*HEADERS_MAX_RANGE.start())..=bound(*HEADERS_MAX_RANGE.end()))
    )]
    pub max_fields: usize,
}

const fn bound(bound: usize) -> u64 {
    bound as u64
}

impl Default for HeadConfig {
    fn default() -> Self {
        Self { max_size: HEAD_MAX, max_fields: HEADERS_MAX }
    }
}
