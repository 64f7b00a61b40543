//! `raw-tcp-echo`: the yardstick, what the kernel's TCP costs without any protocol.

use anyhow::{Context, ensure};
use baselines::{Options, raw_tcp};
use bytesize::ByteSize;
use clap::{Parser, ValueEnum};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An echo server of raw bytes over TCP, in one pinned thread
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    server: Options,

    /// How the sockets are driven
    #[arg(long, value_enum, default_value_t = Engine::Epoll)]
    engine: Engine,

    /// The most bytes of one read
    #[arg(long, value_name = "SIZE", default_value = "64KiB")]
    buffer_size: ByteSize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Engine {
    /// Edge-triggered epoll, one read and one write for each piece
    Epoll,
    /// io_uring, by ringback's ring engine
    Ring,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let buffer_size =
        usize::try_from(arguments.buffer_size.as_u64()).context("the buffer size is out of range")?;
    ensure!(buffer_size > 0, "the buffer size must not be 0");
    let listener = arguments.server.prepare()?;
    match arguments.engine {
        Engine::Epoll => match raw_tcp::epoll::serve(listener, buffer_size)? {},
        Engine::Ring => match raw_tcp::ring::serve(listener, buffer_size)? {},
    }
}
