//! The counters of the server: each worker writes its own, whoever asks sums them.

pub mod families;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::engine::{Buffers, EngineCounters, EngineCounts, Gauge, counters};
use crate::memory::Usage;
use crate::proto::handshake::Refusal;
use crate::proto::proxy::ProxyError;
use crate::proto::{Counts, ProtocolError, ProtocolErrorKind};
use families::{CloseCode, Family, Tally};

/// Whether a worker lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Life {
    /// Its thread runs.
    #[default]
    Running,
    /// It has ended because it was told to.
    Ended,
    /// It has failed, or ended untold.
    Failed,
}

/// Where a worker says that it has ended.
#[derive(Debug, Default)]
pub struct Lifeline(AtomicU8);

impl Lifeline {
    /// The worker has ended.
    pub fn end(&self, has_failed: bool) {
        self.0.store(1 + u8::from(has_failed), Ordering::Release);
    }

    /// Whether it has.
    #[must_use]
    pub fn life(&self) -> Life {
        match self.0.load(Ordering::Acquire) {
            0 => Life::Running,
            1 => Life::Ended,
            _ => Life::Failed,
        }
    }
}

macro_rules! families {
    ($($(#[doc = $doc:literal])+ $name:ident: $label:ty,)+) => {
        /// The counters of one worker that are kept by a label.
        #[derive(Debug, Default)]
        pub struct Families {
            $($(#[doc = $doc])+ pub $name: Family<$label>,)+
        }

        /// The counts of [`Families`] at one moment.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Tallies {
            $($(#[doc = $doc])+ pub $name: Tally<$label>,)+
        }

        impl Tallies {
            fn add(&mut self, families: &Families) {
                $(self.$name.add(&families.$name);)+
            }
        }
    };
}

counters! {
    /// The counters of one worker, on cache lines of their own.
    WorkerCounters {
        /// Those that its engine keeps.
        pub engine: Arc<EngineCounters>,
        /// Those that are kept by a label.
        pub by: Families,
        /// What goes up and down.
        pub gauges: Gauges,
        /// Whether the worker lives.
        pub life: Lifeline,
    }

    /// The counters of one worker, or of all summed, at one moment.
    Snapshot {
        /// Those that the engines keep.
        pub engine: EngineCounts,
        /// Those that are kept by a label.
        pub by: Tallies,
        /// What went up and down.
        pub levels: Levels,
    }

    /// Connections accepted.
    accepted,
    /// Connections that have ended.
    ended,
    /// Handshakes answered with 101.
    handshakes,
    /// Requests refused; the page is no refusal.
    refusals,
    /// Connections that ended without having sent anything, such as a browser's spare one or a check of the port.
    silent,
    /// Connections that ended in the middle of their request's head, without an answer.
    abandoned,
    /// Connections that ended for want of a valid PROXY header.
    proxy_errors,
    /// Connections of an address that had too many, ended without being told.
    dropped,
    /// Frames taken, control frames among them.
    frames,
    /// Text messages echoed.
    texts,
    /// Binary messages echoed.
    binaries,
    /// Payload bytes that were copied in user space because their frame came in pieces.
    bytes_gathered,
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
    /// Peers told Close(1008) because they were not read from any more and took nothing of what was sent to them.
    unread_timeouts,
    /// Closes taken from peers.
    closes,
    /// Connections failed for breaking the protocol.
    protocol_errors,
    /// Times that accepting paused: no descriptors, no memory, or no room for connections.
    accept_pauses,
    /// WebSocket connections cut at a deadline, for sending on after the end, or because the drain was over.
    cuts,
    /// Connections that were told Close(1001) by a drain.
    drained,
    /// Requests answered with the page.
    pages,
    /// OPTIONS requests answered with the methods that are served.
    options,
    /// Payload bytes of data frames of text messages echoed.
    text_bytes,
    /// Payload bytes of data frames of binary messages echoed.
    binary_bytes,
}

families! {
    /// Requests refused, by cause.
    refusals: Refusal,
    /// Connections failed, by what the peer did wrong.
    protocol_errors: ProtocolErrorKind,
    /// Closes taken from peers, by code.
    closes_received: CloseCode,
    /// Closes given out, by code.
    closes_sent: CloseCode,
    /// PROXY headers refused, by cause.
    proxy_errors: ProxyError,
}

/// What goes up and down on one worker, beside the buffers of its engine.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Connections that have a place among those of `--max-connections`.
    pub connections: Gauge,
    /// Connections that are being told that there is no place for them.
    pub refusals: Gauge,
    /// 1 while nothing is accepted, for want of something.
    pub accept_paused: Gauge,
    /// Bytes charged to `--unsent-total`.
    pub unsent_bytes: Arc<Usage>,
}

/// What goes up and down, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// Connections that have a place among those of `--max-connections`.
    pub connections: usize,
    /// Connections that are being told that there is no place for them.
    pub refusals: usize,
    /// Workers on which nothing is accepted, for want of something.
    pub accept_paused: usize,
    /// Bytes charged to `--unsent-total`.
    pub unsent_bytes: usize,
    /// The buffers that the ring engine's kernel receives into.
    pub ring_buffers: Buffers<usize>,
    /// The buffers of the other engines.
    pub pooled_buffers: Buffers<usize>,
}

impl Levels {
    fn add(&mut self, worker: &WorkerCounters) {
        let (gauges, engine) = (&worker.gauges, &worker.engine);
        self.connections += gauges.connections.value();
        self.refusals += gauges.refusals.value();
        self.accept_paused += gauges.accept_paused.value();
        self.unsent_bytes += gauges.unsent_bytes.get();
        self.ring_buffers.add(&engine.ring_buffers);
        self.pooled_buffers.add(&engine.pooled_buffers);
    }
}

impl Snapshot {
    /// Sums the counters of `workers`.
    pub fn sum<'a>(workers: impl IntoIterator<Item = &'a WorkerCounters>) -> Self {
        let mut sum = Self::default();
        for worker in workers {
            sum.levels.add(worker);
            sum.add(worker);
            sum.engine.add(&worker.engine);
            sum.by.add(&worker.by);
        }
        sum
    }

    /// Each counter without a label: its name, what it means, and its count.
    pub fn counters(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        self.list().into_iter().chain(self.engine.list())
    }

    /// Payload bytes of data frames echoed.
    #[must_use]
    pub const fn payload_bytes(&self) -> u64 {
        self.text_bytes + self.binary_bytes
    }
}

impl fmt::Display for Snapshot {
    /// One line of `name=count`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, _, count)) in self.counters().enumerate() {
            let space = if i == 0 { "" } else { " " };
            if name == "bytes_gathered" {
                // Beside what it is a part of.
                write!(f, "{space}payload_bytes={}", self.payload_bytes())?;
            }
            write!(f, "{space}{name}={count}")?;
        }
        Ok(())
    }
}

impl WorkerCounters {
    /// Adds what happened in one call of [`crate::proto::Connection::receive`].
    #[inline]
    pub fn add(&self, counts: &Counts) {
        self.frames.add(counts.frames.into());
        self.texts.add(counts.texts.into());
        self.binaries.add(counts.binaries.into());
        self.text_bytes.add(counts.text_bytes);
        self.binary_bytes.add(counts.payload_bytes - counts.text_bytes);
        // Most receives bring nothing but whole messages: one look says so.
        let rest = u64::from(counts.pings | counts.pongs | counts.fragments_streamed) | counts.bytes_gathered;
        if rest != 0 || counts.close.is_some() {
            self.add_rest(counts);
        }
    }

    /// Adds what is rare.
    #[inline(never)]
    fn add_rest(&self, counts: &Counts) {
        self.bytes_gathered.add(counts.bytes_gathered);
        self.fragments_streamed.add(counts.fragments_streamed.into());
        self.pings.add(counts.pings.into());
        self.pongs.add(counts.pongs.into());
        if let Some(code) = counts.close {
            self.on_close(code, counts.is_answer);
        }
    }

    /// A Close was taken from a peer, and answered with the same code unless it `is_answer` itself.
    fn on_close(&self, code: Option<u16>, is_answer: bool) {
        self.closes.add(1);
        self.by.closes_received.add(code.into(), 1);
        if !is_answer {
            self.by.closes_sent.add(code.into(), 1);
        }
    }

    /// A Close of our own was given out.
    pub fn on_close_sent(&self, code: u16) {
        self.by.closes_sent.add(Some(code).into(), 1);
    }

    /// A request was refused.
    pub fn on_refusal(&self, refusal: Refusal) {
        self.refusals.add(1);
        self.by.refusals.add(refusal, 1);
    }

    /// A connection has ended for want of a valid PROXY header.
    pub fn on_proxy_error(&self, error: ProxyError) {
        self.proxy_errors.add(1);
        self.by.proxy_errors.add(error, 1);
    }

    /// A peer broke the protocol, and was told so by a Close if it could be.
    pub fn on_protocol_error(&self, error: ProtocolError, is_told: bool) {
        self.protocol_errors.add(1);
        self.by.protocol_errors.add(error.into(), 1);
        if is_told {
            self.on_close_sent(error.close_code());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_summed() {
        let (a, b) = (WorkerCounters::default(), WorkerCounters::default());
        a.texts.add(2);
        b.texts.add(3);
        b.add(&Counts { close: Some(None), bytes_gathered: 7, ..Counts::default() });
        let sum = Snapshot::sum([&a, &b]);
        assert_eq!((sum.texts, sum.closes, sum.bytes_gathered), (5, 1, 7));
        assert!(sum.to_string().contains(" texts=5 "), "{sum}");
        assert!(sum.to_string().contains(" payload_bytes=0 bytes_gathered=7 "), "{sum}");
        assert_eq!(sum.by.closes_received.iter().map(|(_, count)| count).sum::<u64>(), 1);
    }
}
