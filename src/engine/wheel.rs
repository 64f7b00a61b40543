//! Deadlines, coarsely: a wheel of buckets, each a tick wide.
//!
//! A deadline that is put off stays where it is: when its bucket is due, whoever asked looks whether it still holds,
//! and enters it again. Those that are further off than the wheel goes round are looked at once a round.

/// The width of a bucket in milliseconds.
pub(super) const TICK: u64 = 8;

/// How many buckets there are: a round takes 8 seconds, and a deadline further off waits in the last one first.
const BUCKETS: u64 = 1024;

/// The deadlines of a worker. Time is counted in ticks.
#[derive(Debug)]
pub(super) struct Wheel<K> {
    buckets: Vec<Vec<K>>,
    /// All buckets before this tick are empty.
    now: u64,
    /// The first tick whose bucket is not empty.
    next: Option<u64>,
}

impl<K> Default for Wheel<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K> Wheel<K> {
    pub(super) fn new() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| Vec::new()).collect(), now: 0, next: None }
    }

    /// All deadlines before this tick were looked at; those in the wheel are fewer than [`BUCKETS`] ticks ahead of it.
    pub(super) const fn now(&self) -> u64 {
        self.now
    }

    /// The tick at which the first deadline is to be looked at.
    pub(super) const fn next(&self) -> Option<u64> {
        self.next
    }

    /// Enters a deadline; gives the tick at which it is looked at, which may be before it.
    pub(super) fn insert(&mut self, tick: u64, key: K) -> u64 {
        let tick = tick.clamp(self.now, self.now + BUCKETS - 1);
        self.bucket(tick).push(key);
        self.next = Some(self.next.map_or(tick, |next| next.min(tick)));
        tick
    }

    /// Moves on to `now` and gives the keys of one bucket that is due, until there are no more.
    pub(super) fn take_due(&mut self, now: u64) -> Option<(u64, Vec<K>)> {
        let due = self.next.filter(|&next| next <= now);
        let Some(tick) = due else {
            self.now = self.now.max(now);
            return None;
        };
        let keys = std::mem::take(self.bucket(tick));
        self.now = tick + 1;
        self.next = (self.now..self.now + BUCKETS - 1).find(|&tick| !self.bucket(tick).is_empty());
        Some((tick, keys))
    }

    fn bucket(&mut self, tick: u64) -> &mut Vec<K> {
        let len = self.buckets.len() as u64;
        let index = usize::try_from(tick % len).expect("there are fewer buckets than addresses");
        &mut self.buckets[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_come_in_order_and_none_is_lost() {
        let mut wheel = Wheel::new();
        assert_eq!(wheel.next(), None);
        assert_eq!(wheel.insert(30, 3), 30);
        assert_eq!(wheel.insert(10, 1), 10);
        assert_eq!(wheel.insert(10, 2), 10);
        assert_eq!(wheel.insert(10_000, 4), BUCKETS - 1, "beyond the wheel");
        assert_eq!(wheel.next(), Some(10));
        assert_eq!(wheel.take_due(9), None);
        assert_eq!(wheel.take_due(30), Some((10, vec![1, 2])));
        assert_eq!(wheel.take_due(30), Some((30, vec![3])));
        assert_eq!(wheel.take_due(30), None);
        assert_eq!(wheel.take_due(5_000), Some((BUCKETS - 1, vec![4])));
        assert_eq!(wheel.next(), None);
        assert_eq!(wheel.insert(3, 5), BUCKETS, "what is overdue is due next");
    }

    #[test]
    fn it_goes_round_and_round() {
        let mut wheel = Wheel::new();
        for round in 0..10 * BUCKETS {
            let tick = round * 7;
            wheel.insert(tick + 5, 9);
            assert_eq!(wheel.take_due(tick + 4), None);
            assert_eq!(wheel.take_due(tick + 5), Some((tick + 5, vec![9])));
        }
    }
}
