//! A run over time.

use std::time::Duration;

use super::figures::{quantile_us, us};
use crate::packed::Packed;
use crate::tally::Interval;

/// A stretch of a run: mostly a second.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    /// When it began, from the beginning of the window.
    pub(crate) start: Duration,
    /// Longer than 0.
    pub(crate) length: Duration,
    /// Messages that came back in it.
    pub(crate) messages: u64,
    /// Everything that was wrong in it.
    pub(crate) errors: u64,
    /// In nanoseconds.
    pub(crate) latency: Packed,
}

/// A slice as a point of each curve over time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    /// The slice's middle, in seconds of the window.
    pub(crate) at: f64,
    /// Messages a second.
    pub(crate) rate: f64,
    /// Everything that was wrong.
    pub(crate) errors: u64,
    /// Median, 99th percentile and maximum in microseconds; `None` where nothing came back.
    pub(crate) latency_us: Option<[f64; 3]>,
}

impl Slice {
    /// A second of a window that is that long.
    pub(crate) fn new(interval: Interval<Packed>, window: Duration) -> Self {
        let start = Duration::from_secs(interval.second);
        Self {
            start,
            length: window.saturating_sub(start).clamp(Duration::from_millis(1), SECOND),
            messages: interval.messages,
            errors: interval.errors,
            latency: interval.latency,
        }
    }

    /// Messages a second.
    pub(crate) fn rate(&self) -> f64 {
        self.messages as f64 / self.length.as_secs_f64()
    }

    /// Whether nothing of a second is missing.
    pub(crate) fn is_whole(&self) -> bool {
        self.length >= SECOND
    }

    fn point(&self) -> Point {
        let latency = &self.latency.unpack();
        Point {
            at: (self.start + self.length / 2).as_secs_f64(),
            rate: self.rate(),
            errors: self.errors,
            latency_us: (!latency.is_empty())
                .then(|| [quantile_us(latency, 0.5), quantile_us(latency, 0.99), us(latency.max())]),
        }
    }
}

/// A point for each slice, or for as many neighbours together as leave `points_max` of them.
pub(crate) fn points(slices: &[Slice], points_max: usize) -> Vec<Point> {
    let together = slices.len().div_ceil(points_max).max(1);
    slices.chunks(together).filter_map(|chunk| joined(chunk).map(|slice| slice.point())).collect()
}

/// The slices as one; `None` of none.
fn joined(slices: &[Slice]) -> Option<Slice> {
    let (first, rest) = slices.split_first()?;
    let mut sum = first.clone();
    let mut latency = sum.latency.unpack();
    latency.auto(true);
    for slice in rest {
        sum.length += slice.length;
        sum.messages += slice.messages;
        sum.errors += slice.errors;
        latency.add(slice.latency.unpack()).expect("it grows as needed");
    }
    sum.latency = Packed::new(&latency);
    Some(sum)
}

const SECOND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::Histogram;

    fn interval(second: u64, latencies_us: &[u64]) -> Interval<Packed> {
        let mut latency = Histogram::new(3).expect("three digits");
        for us in latencies_us {
            latency.record(us * 1000).expect("it grows");
        }
        Interval { second, messages: latencies_us.len() as u64, errors: second, latency }.pack()
    }

    #[test]
    fn the_last_second_may_be_shorter() {
        let window = Duration::from_millis(2500);
        let slices: Vec<_> = (0..3).map(|second| Slice::new(interval(second, &[1; 10]), window)).collect();
        assert_eq!([0, 1, 2].map(|at: usize| slices[at].rate()), [10.0, 10.0, 20.0]);
        assert_eq!([0, 1, 2].map(|at: usize| slices[at].is_whole()), [true, true, false]);
    }

    #[test]
    fn many_slices_are_fewer_points_and_nothing_is_lost() {
        let slices: Vec<_> = (0..10)
            .map(|second| Slice::new(interval(second, &[10, second * 100]), Duration::from_secs(10)))
            .collect();
        let all = points(&slices, 10);
        assert_eq!((all.len(), all[3].at, all[3].rate, all[3].errors), (10, 3.5, 2.0, 3));
        let few = points(&slices, 4);
        assert_eq!((few.len(), few[0].at, few[0].rate, few[0].errors), (4, 1.5, 2.0, 3));
        let max = few[3].latency_us.expect("messages")[2];
        assert!((899.0..901.0).contains(&max), "{max}");
        assert_eq!(points(&[], 4), []);
        let silent = Slice::new(interval(0, &[]), Duration::from_secs(1));
        assert_eq!(points(&[silent], 4)[0].latency_us, None);
    }
}
