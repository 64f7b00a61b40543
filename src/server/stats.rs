//! Counters: each worker writes its own, whoever asks sums them.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::proto::Counts;

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

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// The counters of one worker, on cache lines of their own.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct WorkerStats {
            $($(#[doc = $doc])+ pub $name: Counter,)+
        }

        /// The counters of all workers, summed at one moment.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Snapshot {
            /// Sums the counters of `workers`.
            pub fn sum<'a>(workers: impl IntoIterator<Item = &'a WorkerStats>) -> Self {
                let mut sum = Self::default();
                for worker in workers {
                    $(sum.$name = sum.$name.wrapping_add(worker.$name.count());)+
                }
                sum
            }
        }

        impl fmt::Display for Snapshot {
            /// One line of `name=count`.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let fields = [$((stringify!($name), self.$name),)+];
                for (i, (name, count)) in fields.into_iter().enumerate() {
                    let space = if i == 0 { "" } else { " " };
                    write!(f, "{space}{name}={count}")?;
                }
                Ok(())
            }
        }
    };
}

counters! {
    /// Connections accepted.
    accepted,
    /// Connections that have ended.
    ended,
    /// Handshakes answered with 101.
    handshakes,
    /// Requests answered with anything but 101.
    refusals,
    /// Frames taken, control frames among them.
    frames,
    /// Text messages echoed.
    texts,
    /// Binary messages echoed.
    binaries,
    /// Payload bytes of data frames echoed.
    payload_bytes,
    /// Payload bytes that were copied in user space because their frame came in pieces.
    bytes_gathered,
    /// Reply bytes that were copied to the heap because the peer did not take them in time.
    bytes_spilled,
    /// Fragments sent of frames too long to be echoed whole.
    fragments_streamed,
    /// Pings answered.
    pings,
    /// Pongs taken.
    pongs,
    /// Pings sent to peers that were silent.
    pings_sent,
    /// Peers given up because they said nothing after a ping, or took nothing of what was sent to them.
    keep_alive_timeouts,
    /// Connections closed because no message came for the idle timeout.
    idle_timeouts,
    /// Closes taken from peers.
    closes,
    /// Connections failed for breaking the protocol.
    protocol_errors,
    /// Receives that moved bytes.
    receives,
    /// Times that a connection was not read from because too much was unsent.
    read_pauses,
    /// Times that accepting paused: no descriptors, no memory, or no room for connections.
    accept_pauses,
    /// Connections cut at a deadline or for sending on after the end.
    cuts,
    /// Calls of io_uring_enter(2) by the ring engine.
    enters,
    /// Times that the ring engine's submission queue was full.
    sq_full,
    /// Times that the ring engine's completion queue was full, and completions waited in the kernel.
    cq_overflows,
    /// Completions of the ring engine for a connection that is gone, or for nothing that was asked.
    stale_completions,
    /// Times that there was no buffer to receive into (ENOBUFS).
    buffers_exhausted,
    /// Sends that the socket took only a part of.
    short_sends,
    /// Receives that were begun, the first of each connection among them.
    rearms,
}

impl WorkerStats {
    /// Adds what happened in one call of [`crate::proto::Connection::receive`].
    #[inline]
    pub fn add(&self, counts: &Counts) {
        self.receives.add(1);
        self.frames.add(counts.frames.into());
        self.texts.add(counts.texts.into());
        self.binaries.add(counts.binaries.into());
        self.payload_bytes.add(counts.payload_bytes);
        self.bytes_gathered.add(counts.bytes_gathered);
        self.fragments_streamed.add(counts.fragments_streamed.into());
        self.pings.add(counts.pings.into());
        self.pongs.add(counts.pongs.into());
        self.closes.add(counts.close.is_some().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_summed() {
        let (a, b) = (WorkerStats::default(), WorkerStats::default());
        a.texts.add(2);
        b.texts.add(3);
        b.add(&Counts { close: Some(None), bytes_gathered: 7, ..Counts::default() });
        let sum = Snapshot::sum([&a, &b]);
        assert_eq!((sum.texts, sum.closes, sum.bytes_gathered, sum.receives), (5, 1, 7, 1));
        assert!(sum.to_string().contains(" texts=5 "), "{sum}");
    }
}
