//! When a message is due.

/// How the messages of a run follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// The next message of a connection is due when an echo has come: `depth` are in flight on each, always. A server
    /// that stalls is asked less.
    Closed {
        /// Messages in flight on a connection, at least 1.
        depth: u32,
    },
    /// Messages are due at times of their own, whatever the server does, on one connection after the other.
    Open {
        /// Messages a second, over all connections.
        rate: f64,
        /// How they lie in time.
        arrivals: Arrivals,
    },
    /// One message a connection, due as soon as that begins to connect; when its echo has come the connection is reset.
    Churn {
        /// Connections a second, the first of them due at times of their own; without it, each is followed by the next.
        rate: Option<(f64, Arrivals)>,
    },
    /// Connections are held, and each is pinged once in the window.
    Idle,
}

/// How arrivals at a rate lie in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arrivals {
    /// Equal gaps.
    Constant,
    /// Gaps that know nothing of each other (exponential), as of many independent clients.
    Poisson,
}

impl Arrivals {
    /// The name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Poisson => "poisson",
        }
    }
}

impl Pace {
    /// The pace's name in a report.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Closed { .. } => "closed",
            Self::Open { .. } => "open",
            Self::Churn { .. } => "churn",
            Self::Idle => "idle",
        }
    }

    /// Whether a connection is for one message.
    pub(crate) const fn is_churn(self) -> bool {
        matches!(self, Self::Churn { .. })
    }

    /// How many messages are due now on a connection with so many in flight, for no other reason than that.
    pub(crate) fn due(self, in_flight: usize) -> usize {
        match self {
            Self::Closed { depth } => (depth as usize).saturating_sub(in_flight),
            Self::Churn { .. } => 1_usize.saturating_sub(in_flight),
            Self::Open { .. } | Self::Idle => 0,
        }
    }

    /// The most messages in flight on a connection, where there is one.
    pub(crate) fn in_flight_max(self) -> Option<usize> {
        match self {
            Self::Closed { depth } => Some(depth as usize),
            Self::Churn { .. } => Some(1),
            Self::Open { .. } | Self::Idle => None,
        }
    }

    /// Whether a connection has served its purpose with so many messages echoed.
    pub(crate) const fn is_over(self, echoed: u64) -> bool {
        self.is_churn() && echoed > 0
    }

    /// The rate that was asked for, a second, and how arrivals lie in time.
    pub(crate) const fn rate(self) -> Option<(f64, Arrivals)> {
        match self {
            Self::Open { rate, arrivals } => Some((rate, arrivals)),
            Self::Churn { rate } => rate,
            Self::Closed { .. } | Self::Idle => None,
        }
    }
}

/// The times at which something is due on one thread, one after the other, in nanoseconds of the run's clock.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    arrivals: Arrivals,
    /// The mean gap in nanoseconds.
    gap: f64,
    from: f64,
    /// How many were taken.
    count: u64,
    next: f64,
    random: fastrand::Rng,
}

impl Schedule {
    /// A `share` of so many arrivals a second, from `from` on. `offset`, 0 to 1, is where in a constant gap the first one
    /// lies: threads take turns.
    pub(crate) fn new(
        (rate, arrivals): (f64, Arrivals),
        share: f64,
        offset: f64,
        from: u64,
        seed: u64,
    ) -> Self {
        let gap = 1e9 / (rate * share);
        let mut schedule = Self {
            arrivals,
            gap,
            from: from as f64 + gap * offset,
            count: 0,
            next: from as f64,
            random: fastrand::Rng::with_seed(seed),
        };
        schedule.advance();
        schedule
    }

    /// The next one.
    #[inline]
    pub(crate) const fn next(&self) -> u64 {
        whole(self.next)
    }

    /// Takes the next one, if it is due at `now`.
    #[inline]
    pub(crate) fn take(&mut self, now: u64) -> Option<u64> {
        let due_at = self.next();
        if due_at > now {
            return None;
        }
        self.advance();
        Some(due_at)
    }

    #[inline]
    fn advance(&mut self) {
        match self.arrivals {
            // Not by adding: rounding errors would.
            Arrivals::Constant => self.next = self.gap.mul_add(self.count as f64, self.from),
            // 1 - f64() is not 0.
            Arrivals::Poisson => self.next -= self.gap * (1.0 - self.random.f64()).ln(),
        }
        self.count += 1;
    }
}

/// Times are not negative, and 2^63 nanoseconds are 292 years.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
const fn whole(nanos: f64) -> u64 {
    nanos as u64
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
        let churn = Pace::Churn { rate: None };
        assert_eq!([0, 1].map(|in_flight| churn.due(in_flight)), [1, 0]);
        assert_eq!([0, 1].map(|echoed| churn.is_over(echoed)), [false, true]);
    }

    #[test]
    fn constant_arrivals_keep_their_distance_and_do_not_drift() {
        const RATE: f64 = 3000.0;
        let mut schedule = Schedule::new((RATE, Arrivals::Constant), 1.0, 0.5, 1_000, 1);
        for count in 0..3_000_000_u32 {
            let due_at = schedule.take(u64::MAX).expect("there is always one");
            let expected = 1_000.0 + (f64::from(count) + 0.5) * 1e9 / RATE;
            assert!((due_at as f64 - expected).abs() < 2.0, "{count}: {due_at} {expected}");
        }
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        let mut schedule = Schedule::new((1_000.0, Arrivals::Constant), 0.5, 0.0, 5, 1);
        assert_eq!(schedule.take(4), None);
        assert_eq!(schedule.take(5), Some(5));
        assert_eq!(schedule.take(2_000_004), None);
        assert_eq!(schedule.next(), 2_000_005);
        assert_eq!(schedule.take(9_000_000), Some(2_000_005));
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_their_name() {
        let mut schedule = Schedule::new((1e6, Arrivals::Poisson), 1.0, 0.0, 0, 7);
        let times: Vec<_> = (0..200_001).map(|_| schedule.take(u64::MAX).expect("always one")).collect();
        let gaps: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((990.0..1010.0).contains(&mean), "{mean}");
        assert!((0.98..1.02).contains(&(variance.sqrt() / mean)), "{variance}");
        let short = gaps.iter().filter(|&&gap| gap < 1000.0).count() as f64 / gaps.len() as f64;
        assert!((short - (1.0 - (-1.0_f64).exp())).abs() < 0.01, "{short}");
    }
}
