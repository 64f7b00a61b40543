//! When a message is due.

/// How the messages of a connection follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// The next message is due when an echo has come: `depth` are in flight on a connection, always.
    Closed {
        /// Messages in flight on a connection, at least 1.
        depth: u32,
    },
}

impl Pace {
    /// How many messages are due now on a connection with so many in flight.
    pub(crate) fn due(self, in_flight: usize) -> usize {
        match self {
            Self::Closed { depth } => (depth as usize).saturating_sub(in_flight),
        }
    }

    /// The most messages in flight on a connection.
    pub(crate) fn in_flight_max(self) -> usize {
        match self {
            Self::Closed { depth } => depth as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_loop_fills_up_to_its_depth() {
        let pace = Pace::Closed { depth: 4 };
        assert_eq!((0..6).map(|in_flight| pace.due(in_flight)).collect::<Vec<_>>(), [4, 3, 2, 1, 0, 0]);
    }
}
