//! Who may connect, and what is spoken with them.

use super::values;
use crate::proto::handshake::ANY;
use crate::proto::proxy::Versions;

/// Where WebSocket is spoken by default.
const DEFAULT_PATH: &str = "/ws";

/// Where WebSocket is spoken, and with whom.
#[derive(Clone, Debug, clap::Args)]
pub struct AccessConfig {
    /// Path on which WebSocket is spoken, or * for any; repeatable (comma-separated in the environment); the page uses the first
    #[arg(
        long = "path",
        env = "RINGBACK_PATH",
        value_name = "PATH",
        value_delimiter = ',',
        default_value = DEFAULT_PATH,
        value_parser = values::parse_path
    )]
    pub paths: Vec<String>,

    /// Sub-protocol that is agreed to when a client offers it, the first that fits, or * for the client's first; repeatable
    /// [default: none]
    #[arg(
        long = "subprotocol",
        env = "RINGBACK_SUBPROTOCOL",
        value_name = "NAME",
        value_delimiter = ',',
        value_parser = values::parse_subprotocol
    )]
    pub subprotocols: Vec<String>,

    /// Origin that a browser's page may have, compared exactly; repeatable; others get 403 [default: any]
    #[arg(
        long = "allowed-origin",
        env = "RINGBACK_ALLOWED_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ',',
        value_parser = values::parse_origin
    )]
    pub allowed_origins: Vec<String>,

    /// Most connections of one address, of IPv6 its first 64 bits, 1 to 2147483647; further ones get 503; 0 for no limit
    #[arg(
        long,
        env = "RINGBACK_MAX_CONNECTIONS_PER_IP",
        value_name = "N",
        default_value_t,
        value_parser = values::count_or_zero::<usize>(1..=values::CONNECTIONS_MAX, "for no limit")
    )]
    pub max_connections_per_ip: usize,

    /// PROXY header that each connection has to begin with; its address is the client's
    #[arg(long, env = "RINGBACK_PROXY_PROTOCOL", value_name = "VERSION", value_enum, default_value_t)]
    pub proxy_protocol: ProxyProtocol,
}

/// Which versions of the PROXY protocol a connection may begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ProxyProtocol {
    /// None: it begins with the handshake.
    #[default]
    Off,
    /// The line of text.
    V1,
    /// The binary header.
    V2,
    /// Either.
    Any,
}

impl ProxyProtocol {
    /// The versions; `None` for none.
    #[must_use]
    pub const fn versions(self) -> Option<Versions> {
        match self {
            Self::Off => None,
            Self::V1 => Some(Versions { v1: true, v2: false }),
            Self::V2 => Some(Versions { v1: false, v2: true }),
            Self::Any => Some(Versions { v1: true, v2: true }),
        }
    }
}

impl Default for AccessConfig {
    fn default() -> Self {
        Self {
            paths: vec![DEFAULT_PATH.into()],
            subprotocols: Vec::new(),
            allowed_origins: Vec::new(),
            max_connections_per_ip: 0,
            proxy_protocol: ProxyProtocol::Off,
        }
    }
}

impl AccessConfig {
    /// The path that people are told: the first that is not `*`.
    #[must_use]
    pub fn first_path(&self) -> &str {
        self.paths.iter().find(|path| *path != ANY).map_or(DEFAULT_PATH, String::as_str)
    }

    /// Whether WebSocket is spoken on any path.
    #[must_use]
    pub fn takes_any_path(&self) -> bool {
        self.paths.iter().any(|path| path == ANY)
    }
}
