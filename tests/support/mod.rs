//! What the in-memory tests of the protocol core share.
//!
//! * [`client`] writes frames as a client does, the wrong ones too;
//! * [`replies`] reads what the server sends, strictly;
//! * [`pair`] joins a client to a [`Connection`](ringback::proto::Connection), with cuts where a test wants them;
//! * [`handshakes`] has requests and what comes of them;
//! * [`model`] says slowly and naively what must come out.

pub(crate) mod client;
pub(crate) mod handshakes;
pub(crate) mod model;
pub(crate) mod pair;
pub(crate) mod replies;

/// How many of `full` rounds a volume test runs: RINGBACK_STRESS_PERCENT of them, all by default.
pub(crate) fn stress_rounds(full: u64) -> u64 {
    let percent = std::env::var("RINGBACK_STRESS_PERCENT")
        .map_or(100, |percent| percent.parse().expect("RINGBACK_STRESS_PERCENT is a whole number"));
    (full * percent / 100).max(1)
}
