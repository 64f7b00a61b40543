//! Which metrics there are: each is written down once, with its name, help, type, and what it reads.
//!
//! A counter of [`WorkerCounters`](crate::counters::WorkerCounters) that is not named here is exported by its own name. Names and
//! units are as Prometheus has them (<https://prometheus.io/docs/practices/naming/>); the encoder puts the unit, and `_total`
//! for a counter, behind the name.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::process::Process;
use super::{Life, Server, WorkerView};
use crate::counters::Snapshot;
use crate::counters::families::{Label, Tally};
use crate::engine::Buffers;
use crate::proto::handshake::Refusal;

/// Counters without a label that go out by another name than the log's, or in a unit that is part of the name.
const RENAMED: [(&str, &str, Option<Unit>); 11] = [
    ("accepted", "connections_accepted", None),
    ("ended", "connections_ended", None),
    ("bytes_gathered", "gathered", Some(Unit::Bytes)),
    ("bytes_spilled", "spilled", Some(Unit::Bytes)),
    ("enters", "ring_enters", None),
    ("sq_full", "ring_sq_full", None),
    ("cq_overflows", "ring_cq_overflows", None),
    ("stale_completions", "ring_stale_completions", None),
    ("buffers_exhausted", "ring_buffers_exhausted", None),
    ("short_sends", "ring_short_sends", None),
    ("rearms", "ring_rearms", None),
];

/// Counters that go out as one value of a label, or as the sum over one.
const EXPORTED_BY_LABEL: [&str; 13] = [
    "handshakes",
    "pages",
    "options",
    "refusals",
    "proxy_errors",
    "texts",
    "binaries",
    "text_bytes",
    "binary_bytes",
    "pings",
    "pongs",
    "closes",
    "protocol_errors",
];

/// A metric with all its series.
#[derive(Debug)]
pub(super) struct Metric {
    /// Without what the encoder puts behind it.
    pub(super) name: Cow<'static, str>,
    pub(super) help: &'static str,
    pub(super) unit: Option<Unit>,
    pub(super) kind: MetricType,
    pub(super) series: Vec<Series>,
}

#[derive(Debug)]
pub(super) struct Series {
    pub(super) labels: Labels,
    pub(super) value: Number,
}

pub(super) type Labels = Vec<(&'static str, Cow<'static, str>)>;

#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<usize> for Number {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

/// Every metric, in the order in which it is exported.
pub(super) fn metrics(server: &Server) -> Vec<Metric> {
    let mut list = List { workers: server.workers(), metrics: Vec::new() };
    list.server(server);
    list.handshakes();
    list.traffic();
    list.counters();
    list.memory(server);
    list.process(&Process::now());
    list.metrics
}

struct List {
    workers: Vec<WorkerView>,
    metrics: Vec<Metric>,
}

impl List {
    /// The server as a whole, and who works in it.
    fn server(&mut self, server: &Server) {
        let engines: BTreeSet<_> = self.workers.iter().map(|worker| worker.engine.to_string()).collect();
        let engines: Vec<_> = engines.into_iter().collect();
        let build: Labels =
            vec![("version", env!("CARGO_PKG_VERSION").into()), ("engine", engines.join("+").into())];
        let build = vec![Series { labels: build, value: 1_u64.into() }];
        self.push(
            "ringback_build_info",
            "Version and engine of the server; always 1.",
            None,
            MetricType::Gauge,
            build,
        );
        self.gauge(
            "ringback_ready",
            "1 while new connections are welcome, as /readyz says it.",
            None,
            u64::from(server.is_ready()),
        );
        let max = server.connections_max();
        self.gauge("ringback_connections_max", "The most connections that may have a place.", None, max);
        let series = self.of_each(|worker| {
            let engine = vec![("engine", worker.engine.to_string().into())];
            vec![(engine, u64::from(worker.life == Life::Running))]
        });
        self.push("ringback_worker_up", "1 while the worker's thread runs.", None, MetricType::Gauge, series);
        let series = self.of_each(|worker| vec![(vec![], worker.stats.levels.connections)]);
        let help = "Connections that have a place among those of --max-connections.";
        self.push("ringback_connections", help, None, MetricType::Gauge, series);
        let series = self.of_each(|worker| vec![(vec![], worker.stats.levels.refusals)]);
        let help = "Connections that are being told that there is no place for them.";
        self.push("ringback_connections_refused", help, None, MetricType::Gauge, series);
        let series = self.of_each(|worker| vec![(vec![], worker.stats.levels.accept_paused)]);
        let help = "1 while the worker accepts nothing, for want of something.";
        self.push("ringback_accept_paused", help, None, MetricType::Gauge, series);
    }

    fn handshakes(&mut self) {
        self.counter("ringback_handshakes", "Requests answered, by HTTP status.", None, |stats| {
            let mut by_status =
                BTreeMap::from([(101, stats.handshakes), (200, stats.pages), (204, stats.options)]);
            for (refusal, count) in stats.by.refusals.iter() {
                *by_status.entry(Refusal::status(refusal)).or_default() += count;
            }
            by_status.into_iter().map(|(status, count)| label("status", status.to_string(), count)).collect()
        });
        self.counter(
            "ringback_refusals",
            "Requests refused, by cause; the page and the answer to OPTIONS are none.",
            None,
            |stats| tally("cause", &stats.by.refusals),
        );
        let help = "Connections that ended for want of a valid PROXY header, by cause.";
        self.counter("ringback_proxy_errors", help, None, |stats| tally("cause", &stats.by.proxy_errors));
    }

    fn traffic(&mut self) {
        self.counter("ringback_messages", "Messages echoed, by type.", None, |stats| {
            vec![label("type", "text", stats.texts), label("type", "binary", stats.binaries)]
        });
        let help = "Payload of messages echoed, by type.";
        self.counter("ringback_payload", help, Some(Unit::Bytes), |stats| {
            vec![label("type", "text", stats.text_bytes), label("type", "binary", stats.binary_bytes)]
        });
        self.counter("ringback_control_frames", "Control frames taken, by opcode.", None, |stats| {
            let opcodes = [("ping", stats.pings), ("pong", stats.pongs), ("close", stats.closes)];
            opcodes.map(|(opcode, count)| label("opcode", opcode, count)).into()
        });
        self.counter("ringback_closes_received", "Closes taken from peers, by code.", None, |stats| {
            tally("code", &stats.by.closes_received)
        });
        self.counter("ringback_closes_sent", "Closes given out, by code.", None, |stats| {
            tally("code", &stats.by.closes_sent)
        });
        let help = "Connections failed, by what the peer did wrong.";
        self.counter("ringback_protocol_errors", help, None, |stats| {
            tally("kind", &stats.by.protocol_errors)
        });
    }

    /// The counters that have no label.
    fn counters(&mut self) {
        for (index, (counter, help, _)) in Snapshot::default().counters().enumerate() {
            if EXPORTED_BY_LABEL.contains(&counter) {
                continue;
            }
            let renamed = RENAMED.iter().find(|(from, ..)| *from == counter);
            let (name, unit) = renamed.map_or((counter, None), |(_, name, unit)| (*name, unit.clone()));
            self.counter(format!("ringback_{name}"), help, unit, |stats| {
                stats.counters().nth(index).map(|(_, _, count)| (vec![], count)).into_iter().collect()
            });
        }
    }

    fn memory(&mut self, server: &Server) {
        let bytes = Some(Unit::Bytes);
        let help =
            "Memory charged to --unsent-total: what waits to be sent, and frames that are put together.";
        let series = self.of_each(|worker| vec![(vec![], worker.stats.levels.unsent_bytes)]);
        self.push("ringback_unsent", help, bytes.clone(), MetricType::Gauge, series);
        let help = "The most memory that may wait to be sent: --unsent-total.";
        self.gauge("ringback_unsent_max", help, bytes, server.unsent_max());
        let series = self.of_each(|worker| buffers(&worker.stats.levels.ring_buffers));
        let help = "Receive buffers of the ring engine, as it last entered the kernel.";
        self.push("ringback_ring_buffers", help, None, MetricType::Gauge, series);
        let series = self.of_each(|worker| buffers(&worker.stats.levels.pooled_buffers));
        let help = "Receive buffers of the epoll and tokio-uring engines.";
        self.push("ringback_pooled_buffers", help, None, MetricType::Gauge, series);
    }

    /// The names are Prometheus' own (<https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>).
    fn process(&mut self, process: &Process) {
        let cpu = vec![Series { labels: vec![], value: process.cpu_seconds.into() }];
        let help = "CPU time of the process, in user and in system mode.";
        self.push("process_cpu", help, Some(Unit::Seconds), MetricType::Counter, cpu);
        for (name, help, unit, value) in [
            ("process_resident_memory", "Resident memory.", Some(Unit::Bytes), process.resident),
            ("process_virtual_memory", "Virtual memory.", Some(Unit::Bytes), process.mapped),
            ("process_open_fds", "Open file descriptors.", None, process.open_fds),
            ("process_max_fds", "The most open file descriptors.", None, process.max_fds),
        ] {
            if let Some(value) = value {
                self.gauge(name, help, unit, value);
            }
        }
        if let Some(start) = process.start_seconds {
            let help = "When the process began, since the Unix epoch.";
            self.gauge("process_start_time", help, Some(Unit::Seconds), start);
        }
    }

    /// A counter of every worker.
    fn counter(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        help: &'static str,
        unit: Option<Unit>,
        read: impl Fn(&Snapshot) -> Vec<(Labels, u64)>,
    ) {
        let series = self.of_each(|worker| read(&worker.stats));
        self.push(name, help, unit, MetricType::Counter, series);
    }

    /// A gauge of the whole server.
    fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        unit: Option<Unit>,
        value: impl Into<Number>,
    ) {
        let series = vec![Series { labels: vec![], value: value.into() }];
        self.push(name, help, unit, MetricType::Gauge, series);
    }

    /// What each worker has to say, with its number.
    fn of_each<V: Into<Number>>(&self, read: impl Fn(&WorkerView) -> Vec<(Labels, V)>) -> Vec<Series> {
        let of_one = |(index, worker): (usize, _)| {
            read(worker).into_iter().map(move |(mut labels, value)| {
                labels.insert(0, ("worker", index.to_string().into()));
                Series { labels, value: value.into() }
            })
        };
        self.workers.iter().enumerate().flat_map(of_one).collect()
    }

    fn push(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        help: &'static str,
        unit: Option<Unit>,
        kind: MetricType,
        series: Vec<Series>,
    ) {
        self.metrics.push(Metric { name: name.into(), help, unit, kind, series });
    }
}

fn label<V>(name: &'static str, value: impl Into<Cow<'static, str>>, number: V) -> (Labels, V) {
    (vec![(name, value.into())], number)
}

fn tally<L: Label>(name: &'static str, tally: &Tally<L>) -> Vec<(Labels, u64)> {
    tally.iter().map(|(value, count)| label(name, value.name(), count)).collect()
}

fn buffers(Buffers { free, used }: &Buffers<usize>) -> Vec<(Labels, usize)> {
    let of_state = |state: &'static str, counts: &[usize; 2]| {
        let of_size = |(size, count): (&'static str, &usize)| {
            (vec![("size", size.into()), ("state", state.into())], *count)
        };
        ["small", "big"].into_iter().zip(counts).map(of_size).collect::<Vec<_>>()
    };
    [of_state("free", free), of_state("used", used)].concat()
}
