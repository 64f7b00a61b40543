//! When a message is due.

/// How the messages of a connection follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// The next message is due when an echo has come: `depth` are in flight on a connection, always.
    Closed {
        /// Messages in flight on a connection, at least 1.
        depth: u32,
    },
    /// One message a connection, due as soon as that begins to connect; when its echo has come the connection is reset
    /// and the next one begins.
    Churn,
}

impl Pace {
    /// The pace's name in a report.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Closed { .. } => "closed",
            Self::Churn => "churn",
        }
    }

    /// How many messages are due now on a connection with so many in flight.
    pub(crate) fn due(self, in_flight: usize) -> usize {
        self.in_flight_max().saturating_sub(in_flight)
    }

    /// The most messages in flight on a connection.
    pub(crate) fn in_flight_max(self) -> usize {
        match self {
            Self::Closed { depth } => depth as usize,
            Self::Churn => 1,
        }
    }

    /// Whether a connection has served its purpose with so many messages echoed.
    pub(crate) fn is_over(self, echoed: u64) -> bool {
        self == Self::Churn && echoed > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_loop_fills_up_to_its_depth() {
        let pace = Pace::Closed { depth: 4 };
        assert_eq!((0..6).map(|in_flight| pace.due(in_flight)).collect::<Vec<_>>(), [4, 3, 2, 1, 0, 0]);
        assert!(!pace.is_over(u64::MAX));
    }

    #[test]
    fn a_connection_of_a_churn_is_for_one_message() {
        assert_eq!([0, 1].map(|in_flight| Pace::Churn.due(in_flight)), [1, 0]);
        assert_eq!([0, 1].map(|echoed| Pace::Churn.is_over(echoed)), [false, true]);
    }
}
