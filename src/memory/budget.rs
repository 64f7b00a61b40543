//! The bytes that may wait in memory to be sent, all over the process.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many bytes a [`Budget`] takes from the [`Total`] at once, so that workers seldom meet there; and at most this
/// part of the limit, so that many workers do not hold much of it idle.
const SHARE: usize = 256 << 10;
const SHARE_PART: usize = 1024;

/// The bytes of the whole process: what every worker's [`Budget`] draws from.
#[derive(Debug)]
pub struct Total {
    limit: usize,
    taken: AtomicUsize,
}

impl Total {
    /// A total of `limit` bytes, none of them taken.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, taken: AtomicUsize::new(0) })
    }

    /// How many bytes the workers have drawn; more than the limit where bytes came that could not be refused.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether a worker that has drawn nothing could charge `bytes` now.
    #[must_use]
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.taken().saturating_add(bytes) <= self.limit
    }

    fn share(&self) -> usize {
        SHARE.min(self.limit / SHARE_PART)
    }

    fn try_take(&self, bytes: usize) -> bool {
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                taken.checked_add(bytes).filter(|&sum| sum <= self.limit)
            })
            .is_ok()
    }
}

/// One worker's part of the [`Total`]. It never leaves its thread, so that charging costs no shared write.
#[derive(Debug)]
pub struct Budget {
    total: Arc<Total>,
    /// Drawn from the total; `used <= drawn`.
    drawn: Cell<usize>,
    used: Arc<Usage>,
}

/// How many bytes of a [`Budget`] are in use: written by its thread, read by any.
#[derive(Debug, Default)]
pub struct Usage(AtomicUsize);

impl Usage {
    /// The bytes.
    #[inline]
    #[must_use]
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    #[inline]
    fn set(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }
}

impl Budget {
    /// A worker's part of `total`.
    #[must_use]
    pub fn new(total: Arc<Total>) -> Rc<Self> {
        Self::told(total, Arc::default())
    }

    /// As [`Self::new`]; others see by `used` how many bytes are charged.
    #[must_use]
    pub fn told(total: Arc<Total>, used: Arc<Usage>) -> Rc<Self> {
        Rc::new(Self { total, drawn: Cell::new(0), used })
    }

    /// Charges `bytes`, or says that the total has no room for them.
    #[must_use]
    pub fn try_charge(self: &Rc<Self>, bytes: usize) -> Option<Charge> {
        let mut charge = Charge { budget: Rc::clone(self), bytes: 0 };
        charge.try_grow(bytes).then_some(charge)
    }

    /// Charges `bytes` that are in memory already and cannot be refused, over the limit if need be.
    #[must_use]
    pub fn charge(self: &Rc<Self>, bytes: usize) -> Charge {
        let mut charge = Charge { budget: Rc::clone(self), bytes: 0 };
        charge.grow(bytes);
        charge
    }

    /// Whether `bytes` more would be refused now.
    #[must_use]
    pub fn is_exhausted_for(&self, bytes: usize) -> bool {
        let free = self.drawn.get() - self.used.get();
        free < bytes && !self.total.has_room_for(bytes - free)
    }

    fn try_use(&self, bytes: usize) -> bool {
        let used = self.used.get() + bytes;
        if let Some(lacking) = used.checked_sub(self.drawn.get()).filter(|&lacking| lacking > 0) {
            let share = lacking.max(self.total.share());
            let drawn = [share, lacking].into_iter().find(|&bytes| self.total.try_take(bytes));
            let Some(drawn) = drawn else {
                return false;
            };
            self.drawn.set(self.drawn.get() + drawn);
        }
        self.used.set(used);
        true
    }

    fn force_use(&self, bytes: usize) {
        if !self.try_use(bytes) {
            let used = self.used.get() + bytes;
            let lacking = used.saturating_sub(self.drawn.get());
            self.total.taken.fetch_add(lacking, Ordering::Relaxed);
            self.drawn.set(self.drawn.get() + lacking);
            self.used.set(used);
        }
    }

    fn give_back(&self, bytes: usize) {
        self.used.set(self.used.get() - bytes);
        let spare = self.drawn.get() - self.used.get();
        let keep = self.total.share();
        if spare > 2 * keep {
            self.total.taken.fetch_sub(spare - keep, Ordering::Relaxed);
            self.drawn.set(self.drawn.get() - (spare - keep));
        }
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        self.total.taken.fetch_sub(self.drawn.get(), Ordering::Relaxed);
    }
}

/// Bytes charged to a [`Budget`], given back when dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Rc<Budget>,
    bytes: usize,
}

impl Charge {
    /// Charges `bytes` more, or says that there is no room for them.
    #[must_use]
    pub fn try_grow(&mut self, bytes: usize) -> bool {
        let grown = self.budget.try_use(bytes);
        if grown {
            self.bytes += bytes;
        }
        grown
    }

    /// Charges `bytes` more, over the limit if need be.
    pub fn grow(&mut self, bytes: usize) {
        self.budget.force_use(bytes);
        self.bytes += bytes;
    }

    /// How many bytes are charged.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_past_the_limit_and_gives_back() {
        let total = Total::new(1000);
        let budget = Budget::new(Arc::clone(&total));
        let other = Budget::new(Arc::clone(&total));
        let first = budget.try_charge(600).expect("room");
        assert!(budget.try_charge(500).is_none());
        assert!(other.is_exhausted_for(500));
        assert!(!other.is_exhausted_for(300));
        let second = other.try_charge(300).expect("what is left");
        drop(first);
        assert!(total.has_room_for(600) && !total.has_room_for(701));
        let third = other.charge(2000);
        assert!(!total.has_room_for(0), "more was taken than there is");
        assert!(total.taken() >= 2300, "bytes that came anyway are counted");
        assert!(budget.try_charge(600).is_none());
        drop((second, third));
        assert!(budget.try_charge(600).is_some());
        drop((budget, other));
        assert_eq!(total.taken(), 0);
    }
}
