//! What all connections of the process share.

use std::sync::Arc;

use crate::config::Config;
use crate::limits::Limits;
use crate::memory::Total;
use crate::proto::handshake::Rules;

/// What every worker is told.
#[derive(Debug)]
pub(crate) struct ProcessWide {
    pub(crate) config: Config,
    pub(crate) rules: Rules,
    pub(crate) limits: Arc<Limits>,
    pub(crate) unsent: Arc<Total>,
}
