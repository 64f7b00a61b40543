//! Receive buffers of two sizes, shared by the connections of a worker.

use std::cell::RefCell;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;

use super::buffer::{Class, ReceiveBuffer, SMALL};
use crate::engine::EngineCounters;
use crate::memory::{Budget, Charge, HEADROOM};

/// How many free buffers of a size are kept, and how many bytes of them; one is kept whatever its size.
const FREE_MAX: usize = 64;
const FREE_BYTES_MAX: usize = 8 << 20;

/// How many bytes of big buffers are out at once; beyond them the small ones have to do. Where the kernel owns a buffer
/// for each read, it keeps a big one for every peer that sent bulk and then fell silent.
const BIG_BYTES_MAX: usize = 16 << 20;

/// Free buffers of one size: boxed, since one that is taken is moved often.
type Free = RefCell<Vec<Box<Memory>>>;

/// The free buffers of a worker, last used first: these are in the cache.
#[derive(Debug)]
pub(crate) struct Pool {
    big: usize,
    free: [Free; 2],
    /// Where it says how many buffers are out, which of big ones it counts itself, and how many are free.
    stats: Arc<EngineCounters>,
}

impl Pool {
    /// A pool whose big buffers receive up to `big` bytes.
    pub(crate) fn new(big: usize, stats: Arc<EngineCounters>) -> Rc<Self> {
        Rc::new(Self { big: big + HEADROOM, free: Default::default(), stats })
    }

    /// A buffer of this class, or a small one when as many big ones as may be are out.
    pub(crate) fn take(self: &Rc<Self>, mut class: Class) -> PooledBuffer {
        let gauges = &self.stats.pooled_buffers;
        if class == Class::Big
            && (gauges.used[class as usize].value() + 1) * self.big > BIG_BYTES_MAX.max(self.big)
        {
            class = Class::Small;
        }
        let size = match class {
            Class::Small => SMALL.min(self.big),
            Class::Big => self.big,
        };
        let mut free = self.free[class as usize].borrow_mut();
        let memory = free.pop();
        gauges.free[class as usize].set(free.len());
        let used = &gauges.used[class as usize];
        used.set(used.value() + 1);
        let memory = memory.unwrap_or_else(|| Box::new(Memory { bytes: vec![0; size], class, charge: None }));
        PooledBuffer { memory: Some(memory), pool: Rc::clone(self) }
    }

    /// Takes a buffer's memory back, and the buffer out of the count even where its bytes were lost.
    fn give(&self, mut memory: Box<Memory>) {
        memory.charge = None;
        let gauges = &self.stats.pooled_buffers;
        let class = memory.class as usize;
        gauges.used[class].set(gauges.used[class].value() - 1);
        if memory.bytes.is_empty() {
            return;
        }
        let mut free = self.free[class].borrow_mut();
        if free.len() < (FREE_BYTES_MAX / memory.bytes.len()).clamp(1, FREE_MAX) {
            free.push(memory);
            gauges.free[class].set(free.len());
        }
    }
}

/// A buffer to receive into, at [`HEADROOM`]. An idle task has room for several of these, so they are small.
#[derive(Debug)]
pub(crate) struct PooledBuffer {
    /// `None` only while it is dropped.
    memory: Option<Box<Memory>>,
    pool: Rc<Pool>,
}

/// What the pool keeps of a buffer.
#[derive(Debug)]
struct Memory {
    /// As long as its size: every byte is initialised. Empty while the kernel owns them.
    bytes: Vec<u8>,
    class: Class,
    /// Held while the buffer waits to be sent.
    charge: Option<Charge>,
}

impl PooledBuffer {
    /// Takes the bytes out, for the kernel to own them. A buffer that is dropped without them has lost them.
    pub(crate) fn take_bytes(&mut self) -> Vec<u8> {
        self.memory.as_mut().map(|memory| mem::take(&mut memory.bytes)).unwrap_or_default()
    }

    /// Puts the bytes back that were taken out.
    pub(crate) fn put_bytes(&mut self, bytes: Vec<u8>) {
        if let Some(memory) = &mut self.memory {
            memory.bytes = bytes;
        }
    }
}

impl ReceiveBuffer for PooledBuffer {
    #[inline]
    fn bytes(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], |memory| &memory.bytes)
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.as_mut().map_or(&mut [], |memory| &mut memory.bytes)
    }

    fn charge(&mut self, budget: &Rc<Budget>) {
        if let Some(memory) = &mut self.memory {
            memory.charge = Some(budget.charge(memory.bytes.len()));
        }
    }

    fn is_scarce(&self) -> bool {
        false
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.pool.give(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(buffer: &PooledBuffer) -> Class {
        buffer.memory.as_ref().expect("it is not dropped").class
    }

    #[test]
    fn what_is_kept_is_bounded_whatever_the_size() {
        for (big, out, kept) in
            [(1 << 10, 1000, FREE_MAX), (64 << 10, 255, FREE_MAX), (1 << 20, 15, 7), (16 << 20, 1, 1)]
        {
            let pool = Pool::new(big, Arc::default());
            for _ in 0..2 {
                let taken: Vec<_> = (0..1000).map(|_| pool.take(Class::Big)).collect();
                assert_eq!(taken.iter().filter(|buffer| class(buffer) == Class::Big).count(), out);
                drop(taken);
                assert_eq!(pool.free[Class::Big as usize].borrow().len(), kept, "{big} bytes");
            }
        }
    }

    #[test]
    fn a_buffer_whose_memory_is_lost_counts_no_longer() {
        let pool = Pool::new(BIG_BYTES_MAX, Arc::default());
        let mut buffer = pool.take(Class::Big);
        assert_eq!(class(&pool.take(Class::Big)), Class::Small, "the one big buffer is out");
        drop(buffer.take_bytes());
        drop(buffer);
        assert!(pool.free[Class::Big as usize].borrow().is_empty());
        let next = pool.take(Class::Big);
        assert_eq!((class(&next), next.bytes().len()), (Class::Big, BIG_BYTES_MAX + HEADROOM));
    }
}
