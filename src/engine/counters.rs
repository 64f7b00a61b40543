//! Counters and gauges, and those that an engine keeps: each worker writes its own, others only read.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A counter with one writer: adding is a load and a store, not a locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`; only the worker that owns the counter may.
    #[inline]
    pub fn add(&self, n: u64) {
        if n != 0 {
            self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
        }
    }

    /// The count so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What goes up and down, with one writer.
#[derive(Debug, Default)]
pub struct Gauge(AtomicUsize);

impl Gauge {
    /// Says what it is now; only the worker that owns the gauge may.
    #[inline]
    pub fn set(&self, value: usize) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it was last said to be.
    #[must_use]
    #[inline]
    pub fn value(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Receive buffers, small and big ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buffers<T> {
    /// Those that can be received into.
    pub free: [T; 2],
    /// Those that hold what was received.
    pub used: [T; 2],
}

impl Buffers<usize> {
    /// Adds those of one worker.
    pub(crate) fn add(&mut self, gauges: &Buffers<Gauge>) {
        let sums = self.free.iter_mut().chain(&mut self.used);
        for (sum, gauge) in sums.zip(gauges.free.iter().chain(&gauges.used)) {
            *sum += gauge.value();
        }
    }
}

/// The counters of a worker, and what they were at one moment: from one list, with further fields for each of the two.
macro_rules! counters {
    (
        $(#[$of_counters:meta])+ $counters:ident { $($counters_more:tt)* }
        $(#[$of_counts:meta])+ $counts:ident { $($counts_more:tt)* }
        $($(#[doc = $doc:literal])+ $name:ident,)+
    ) => {
        $(#[$of_counters])+
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct $counters {
            $($(#[doc = $doc])+ pub $name: $crate::engine::Counter,)+
            $($counters_more)*
        }

        $(#[$of_counts])+
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $counts {
            $($(#[doc = $doc])+ pub $name: u64,)+
            $($counts_more)*
        }

        impl $counts {
            /// Adds the counts of one worker.
            pub(crate) fn add(&mut self, worker: &$counters) {
                $(self.$name = self.$name.wrapping_add(worker.$name.count());)+
            }

            /// Each counter: its name, what it means, and its count.
            pub(crate) fn list(&self) -> impl IntoIterator<Item = (&'static str, &'static str, u64)> + use<> {
                [$((stringify!($name), concat!($($doc),+).trim_ascii(), self.$name),)+]
            }
        }
    };
}

pub(crate) use counters;

counters! {
    /// What the engine of one worker counts, on cache lines of their own.
    EngineCounters {
        /// The buffers that the ring engine's kernel receives into.
        pub ring_buffers: Buffers<Gauge>,
        /// The buffers of the other engines.
        pub pooled_buffers: Buffers<Gauge>,
    }

    /// The counts of [`EngineCounters`] at one moment.
    EngineCounts {}

    /// Receives that moved bytes, those of handshakes among them.
    receives,
    /// Times that a connection was not read from because too much was unsent.
    read_pauses,
    /// Reply bytes that were copied to the heap because the peer did not take them in time.
    bytes_spilled,
    /// Calls of io_uring_enter(2) by the ring engine.
    enters,
    /// Times that the ring engine's submission queue was full.
    sq_full,
    /// Times that the ring engine's completion queue was full, and completions waited in the kernel.
    cq_overflows,
    /// Completions of the ring engine for a connection that is gone, or for nothing that was asked.
    stale_completions,
    /// Times that there was no buffer to receive into.
    buffers_exhausted,
    /// Sends that the socket took only a part of.
    short_sends,
    /// Receives that were begun, the first of each connection among them.
    rearms,
}
