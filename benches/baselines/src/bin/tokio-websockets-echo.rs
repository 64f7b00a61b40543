//! `tokio-websockets-echo`: a WebSocket echo that ringback is compared with.

use baselines::{Options, tokio_websockets_echo};
use clap::Parser;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A WebSocket echo server on tokio-websockets, in one pinned thread
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    server: Options,
}

fn main() -> anyhow::Result<()> {
    match tokio_websockets_echo::serve(Arguments::parse().server.prepare()?)? {}
}
