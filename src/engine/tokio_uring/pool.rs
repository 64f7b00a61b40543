//! What the tasks of a worker receive into: as many small buffers as they need, and some big ones.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use super::super::EngineCounters;
use super::super::buffers::{Buffer, Class, Group, Plan, SMALL};
use crate::memory::HEADROOM;

/// How many small buffers a group has. Further groups are made as they are needed.
const SMALL_COUNT: u32 = 4096;

/// How many free buffers of a group keep their memory, and how many bytes of them; one keeps it whatever its size.
const KEPT_MAX: usize = 64;
const KEPT_BYTES_MAX: usize = 8 << 20;

/// How many bytes of big buffers are lent at once; beyond them the small ones have to do. Where the kernel owns a buffer
/// for each read, it keeps a big one for every peer that sent bulk and then fell silent.
const BIG_BYTES_MAX: usize = 16 << 20;

/// The buffers of a worker.
#[derive(Debug)]
pub(super) struct Pool {
    /// The size of a big buffer in bytes, its headroom included.
    big: usize,
    /// Small ones and big ones.
    groups: [RefCell<Vec<Group>>; 2],
    counters: Arc<EngineCounters>,
}

impl Pool {
    /// A pool whose big buffers receive up to `big` bytes.
    pub(super) fn new(big: usize, counters: Arc<EngineCounters>) -> Self {
        Self { big: big + HEADROOM, groups: Default::default(), counters }
    }

    /// A buffer of this class, or a small one when all big ones are lent.
    ///
    /// # Errors
    ///
    /// Those of mmap(2), when another group is needed.
    pub(super) fn take(&self, class: Class) -> io::Result<Buffer> {
        let mut groups = self.groups[class as usize].borrow_mut();
        if let Some(buffer) = groups.iter().find_map(Group::lend) {
            return Ok(buffer);
        }
        if class == Class::Big && !groups.is_empty() {
            return self.take(Class::Small);
        }
        let group = Group::new(self.plan(class))?;
        let free = &self.counters.pooled_buffers.free[class as usize];
        free.set(free.value() + group.count());
        let buffer = group.lend();
        groups.push(group);
        buffer.ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    fn plan(&self, class: Class) -> Plan {
        let (count, size, reserve) = match class {
            // A small one is copied to the heap, where it is charged to the budget, rather than waits for a slow peer.
            Class::Small => (SMALL_COUNT, SMALL.min(self.big), u32::MAX),
            Class::Big => {
                let count = u32::try_from((BIG_BYTES_MAX / self.big).max(1)).unwrap_or(u32::MAX);
                (count, self.big, count / 4)
            }
        };
        let kept = (KEPT_BYTES_MAX / size).clamp(1, KEPT_MAX);
        Plan {
            class,
            count,
            size,
            window: 0,
            reserve,
            kept: u32::try_from(kept).unwrap_or(u32::MAX),
            has_quarantine: true,
            pooled: Some(Arc::clone(&self.counters)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::counters::{Buffers, Gauge};

    #[test]
    fn big_buffers_are_bounded_whatever_their_size() {
        for (big, out) in [(1 << 10, 1000), (64 << 10, 255), (1 << 20, 15), (16 << 20, 1)] {
            let pool = Pool::new(big, Arc::default());
            for round in 0..2 {
                let taken: Vec<_> =
                    (0..1000).map(|_| pool.take(Class::Big).expect("there is memory")).collect();
                let got = taken.iter().filter(|buffer| buffer.class() == Class::Big).count();
                // A debug build has an eighth of them in quarantine by now.
                assert!(got == out || (round > 0 && got == out - out / 8), "{got} of {big} bytes");
                let Buffers { used, .. } = &pool.counters.pooled_buffers;
                assert_eq!([&used[0], &used[1]].map(Gauge::value), [1000 - got, got], "{big} bytes");
            }
            assert_eq!(pool.counters.pooled_buffers.used[1].value(), 0);
        }
    }

    #[test]
    fn memory_of_buffers_that_are_given_back_goes_to_the_system() {
        const BUFFERS: usize = 10_000;
        let pool = Pool::new(64 << 10, Arc::default());
        let take = || -> Vec<_> {
            (0..BUFFERS).map(|_| pool.take(Class::Small).expect("there is memory")).collect()
        };
        let mut taken = take();
        for buffer in &mut taken {
            buffer.bytes_mut().fill(7);
        }
        drop(taken);
        // Memory that the system has again is found full of zeros.
        let zeros = take().iter().filter(|buffer| buffer.bytes().iter().all(|&byte| byte == 0)).count();
        assert!((BUFFERS * 3 / 4..BUFFERS).contains(&zeros), "{zeros} of {BUFFERS}");
    }
}
