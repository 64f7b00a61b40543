//! Where the server tells how it is.

use std::net::SocketAddr;

use super::values;

/// Health checks and metrics.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct AdminConfig {
    /// Address of health checks and metrics, over HTTP for whoever can reach it; port 0 takes a free port [default: none]
    #[arg(long = "admin", env = "RINGBACK_ADMIN", value_name = "IP:PORT", value_parser = values::parse_ip_address)]
    pub address: Option<SocketAddr>,
}
