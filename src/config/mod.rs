//! What a server is told: the options, whatever they came from.

mod access;
mod address;
mod admin;
mod contradictions;
mod cpus;
mod drain;
mod head;
mod keep_alive;
mod listening;
mod ring;
pub(crate) mod values;

use std::time::Duration;

pub use access::{AccessConfig, ProxyProtocol};
pub use address::Address;
pub use admin::AdminConfig;
pub(crate) use contradictions::Contradiction;
pub use cpus::CpuList;
pub use drain::DrainConfig;
pub use head::HeadConfig;
pub use keep_alive::KeepAliveConfig;
pub use listening::ListeningConfig;
pub use ring::RingConfig;

/// The options of a server. `--help` says what each means to a user.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen, and with what sockets.
    pub listening: ListeningConfig,
    /// Where WebSocket is spoken, and with whom.
    pub access: AccessConfig,
    /// How long the head of a request may be.
    pub head: HeadConfig,
    /// How bytes are moved.
    pub engine: EngineChoice,
    /// How long a worker of the ring engine looks for completions before it sleeps.
    pub busy_poll: Duration,
    /// How many workers; `None` for as many as the process has CPUs.
    pub workers: Option<usize>,
    /// The CPUs that workers are kept on; `None` for those of the process.
    pub cpus: Option<CpuList>,
    /// Whether each worker is pinned to a CPU of its own, where they fill the process's affinity mask.
    pub pin: bool,
    /// The size in bytes of the buffer that bulk is received into; on epoll it is 256 KiB at least.
    pub receive_buffer_size: usize,
    /// The longest payload, in bytes, that is sure to be echoed as one frame.
    pub whole_frame_max: u64,
    /// The longest message in bytes; 0 for no limit.
    pub max_message_size: u64,
    /// The most connections of the process; `None` for as many as the limit of descriptors allows.
    pub max_connections: Option<usize>,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// How many bytes may wait to be sent on one connection before it is no longer read from.
    pub unsent_limit: usize,
    /// How many bytes may wait to be sent in the whole process.
    pub unsent_total: usize,
    /// How long a peer may take nothing of the last bytes that it is sent; 0 for ever.
    pub flush_timeout: Duration,
    /// How much time there is for the end.
    pub drain: DrainConfig,
    /// Where health checks and metrics are.
    pub admin: AdminConfig,
    /// How long a peer may be silent, and idle.
    pub keep_alive: KeepAliveConfig,
    /// How large the rings of the ring engine are.
    pub ring: RingConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listening: ListeningConfig::default(),
            access: AccessConfig::default(),
            head: HeadConfig::default(),
            engine: EngineChoice::Auto,
            busy_poll: Duration::ZERO,
            workers: None,
            cpus: None,
            pin: true,
            receive_buffer_size: 64 << 10,
            whole_frame_max: 64 << 10,
            max_message_size: 0,
            max_connections: None,
            handshake_timeout: Duration::from_secs(5),
            unsent_limit: 16 << 20,
            unsent_total: 256 << 20,
            flush_timeout: Duration::from_secs(10),
            drain: DrainConfig::default(),
            admin: AdminConfig::default(),
            keep_alive: KeepAliveConfig::default(),
            ring: RingConfig::default(),
        }
    }
}

/// Which engine is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum EngineChoice {
    /// The best one that the kernel allows.
    #[default]
    Auto,
    /// io_uring, by itself.
    Ring,
    /// io_uring by the tokio-uring crate.
    TokioUring,
    /// Readiness by epoll.
    Epoll,
}
