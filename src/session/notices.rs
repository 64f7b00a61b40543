//! How often a worker logs what peers can make happen as often as they like.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use tracing::field::display;
use tracing::{info, warn};

use super::WorkerWide;
use super::peer::Peer;
use crate::proto::handshake::{Refusal, Refused};
use crate::proto::proxy::ProxyError;
use crate::proto::{ProtocolError, ProtocolErrorKind, excerpt};

/// Of what happens for one cause, one line is logged in this time.
const INTERVAL: Duration = Duration::from_secs(10);

/// What a worker has logged lately: an entry for each event and cause, of which there are some dozens.
#[derive(Debug, Default)]
pub(super) struct Notices(RefCell<HashMap<(&'static str, &'static str), Notice>>);

#[derive(Debug)]
struct Notice {
    logged: Instant,
    /// How many there were since.
    suppressed: u64,
}

/// A line that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// How many there were since the last one; `None` where there were none.
    pub(super) suppressed: Option<u64>,
}

impl Notices {
    /// Whether to log that `event` has happened for this `cause`; else it is counted.
    pub(super) fn due(&self, event: &'static str, cause: &'static str) -> Option<Due> {
        self.due_at(Instant::now(), event, cause)
    }

    fn due_at(&self, now: Instant, event: &'static str, cause: &'static str) -> Option<Due> {
        let mut notices = self.0.borrow_mut();
        let Some(notice) = notices.get_mut(&(event, cause)) else {
            notices.insert((event, cause), Notice { logged: now, suppressed: 0 });
            return Some(Due { suppressed: None });
        };
        if now.duration_since(notice.logged) < INTERVAL {
            notice.suppressed += 1;
            return None;
        }
        notice.logged = now;
        let suppressed = std::mem::take(&mut notice.suppressed);
        Some(Due { suppressed: (suppressed > 0).then_some(suppressed) })
    }
}

impl Drop for Notices {
    /// Says what was not logged.
    fn drop(&mut self) {
        for (&(event, cause), notice) in &*self.0.borrow() {
            if notice.suppressed > 0 {
                info!(event, cause, suppressed = notice.suppressed, "lines were suppressed");
            }
        }
    }
}

/// What peers do wrong. Levels are `warn` where it may be the server's settings that are too small, else `info`.
impl WorkerWide {
    /// A request was refused, of whose head this much has come.
    #[cold]
    pub(super) fn log_refusal(&self, refused: &Refused, head: &[u8], peer: Peer) {
        const EVENT: &str = "request refused";
        let refusal = refused.cause();
        let cause: &str = refusal.into();
        let Some(Due { suppressed }) = self.notices.due(EVENT, cause) else {
            return;
        };
        let (error, status, peer) = (refused.why(), refusal.status(), peer.address().map(display));
        let request = excerpt::request_line(head);
        let request = request.as_deref();
        match refusal {
            Refusal::Full | Refusal::TooManyFromAddress | Refusal::Memory => {
                warn!(cause, error, status, peer, request, suppressed, "{EVENT}");
            }
            Refusal::Origin => {
                let origin = excerpt::origin(head);
                info!(cause, error, status, peer, request, origin = origin.as_deref(), suppressed, "{EVENT}");
            }
            _ => info!(cause, error, status, peer, request, suppressed, "{EVENT}"),
        }
    }

    /// A connection of an address that has too many was ended, without telling its peer.
    #[cold]
    pub(super) fn log_drop(&self, peer: Peer) {
        const EVENT: &str = "connection dropped";
        let cause: &str = Refusal::TooManyFromAddress.into();
        if let Some(Due { suppressed }) = self.notices.due(EVENT, cause) {
            warn!(cause, peer = peer.address().map(display), suppressed, "{EVENT}");
        }
    }

    /// A connection does not begin with a valid PROXY header.
    #[cold]
    pub(super) fn log_proxy_error(&self, error: ProxyError, peer: Peer) {
        const EVENT: &str = "PROXY header refused";
        let cause: &str = error.into();
        if let Some(Due { suppressed }) = self.notices.due(EVENT, cause) {
            warn!(cause, peer = peer.address().map(display), %error, suppressed, "{EVENT}");
        }
    }

    /// An open connection is not read from any more, and its peer takes nothing of what is sent to it.
    #[cold]
    pub(super) fn log_unread(&self, cause: &'static str, unsent: usize, peer: Peer) {
        const EVENT: &str = "peer does not read";
        if let Some(Due { suppressed }) = self.notices.due(EVENT, cause) {
            warn!(cause, unsent, peer = peer.address().map(display), suppressed, "{EVENT}");
        }
    }

    /// An open connection broke RFC 6455.
    #[cold]
    pub(super) fn log_protocol_error(&self, error: ProtocolError) {
        const EVENT: &str = "protocol broken";
        let cause: &str = ProtocolErrorKind::from(error).into();
        if let Some(Due { suppressed }) = self.notices.due(EVENT, cause) {
            info!(cause, close_code = error.close_code(), %error, suppressed, "{EVENT}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_logged_once_in_its_time_with_how_many_there_were() {
        let notices = Notices::default();
        let began = Instant::now();
        let due = |seconds, cause| notices.due_at(began + Duration::from_secs(seconds), "refused", cause);
        assert_eq!(due(0, "origin"), Some(Due { suppressed: None }));
        assert_eq!(due(0, "not_found"), Some(Due { suppressed: None }));
        for second in 0..10 {
            assert_eq!(due(second, "origin"), None);
        }
        assert_eq!(due(10, "origin"), Some(Due { suppressed: Some(10) }));
        assert_eq!(due(19, "origin"), None);
        assert_eq!(due(60, "not_found"), Some(Due { suppressed: None }));
        assert_eq!(due(61, "origin"), Some(Due { suppressed: Some(1) }));
    }
}
