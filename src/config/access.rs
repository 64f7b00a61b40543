//! Who may connect, and what is spoken with them.

use super::values;

/// Where WebSocket is spoken, and with whom.
#[derive(Clone, Debug, clap::Args)]
pub struct AccessConfig {
    /// Path on which WebSocket is spoken; repeatable (comma-separated in the environment); the page uses the first
    #[arg(
        long = "path",
        env = "RINGBACK_PATH",
        value_name = "PATH",
        value_delimiter = ',',
        default_value = "/ws",
        value_parser = values::parse_path
    )]
    pub paths: Vec<String>,

    /// Sub-protocol that is agreed to when a client offers it, the first that fits; repeatable [default: none]
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
}

impl Default for AccessConfig {
    fn default() -> Self {
        Self { paths: vec!["/ws".into()], subprotocols: Vec::new(), allowed_origins: Vec::new() }
    }
}

impl AccessConfig {
    /// Checks what no option can say by itself. `Err` says what is wrong.
    pub(crate) fn check(&self) -> Result<(), String> {
        // RFC 6455 §4.1: the names that a client may offer are all different.
        for (index, name) in self.subprotocols.iter().enumerate() {
            if self.subprotocols.iter().take(index).any(|earlier| earlier == name) {
                return Err(format!(
                    "--subprotocol {name} is given twice: each name once, the preferred first"
                ));
            }
        }
        Ok(())
    }

    /// The path that people are told.
    #[must_use]
    pub fn first_path(&self) -> &str {
        self.paths.first().map_or("/", String::as_str)
    }
}
