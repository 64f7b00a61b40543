//! `tungstenite-echo`: the WebSocket echo that ringback is compared with.

use baselines::Options;
use baselines::tungstenite_echo::{Flush, serve};
use clap::Parser;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A WebSocket echo server on tokio-tungstenite, in one pinned thread
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    server: Options,

    /// Flush once no further message has come, instead of after each
    #[arg(long)]
    batch: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let flush = if arguments.batch { Flush::WhenIdle } else { Flush::EachMessage };
    match serve(arguments.server.prepare()?, flush)? {}
}
