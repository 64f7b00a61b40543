//! The forms in which the numbers go out: the two texts that Prometheus reads, and JSON.

use std::fmt;

use hyper::HeaderMap;
use hyper::header::ACCEPT;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use serde_json::{Map, Value, json};

use super::list::{Metric, Number, Series, metrics};
use super::process::Process;
use super::{Life, Server};
use crate::counters::Snapshot;
use crate::counters::families::{Label, Tally};
use crate::engine::Buffers;

/// The forms of a text of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus' own, version 0.0.4: for whoever does not ask for the other.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// OpenMetrics, if `Accept` names it with a weight other than 0.
    pub(super) fn asked_for(headers: &HeaderMap) -> Self {
        let mut ranges = headers
            .get_all(ACCEPT)
            .iter()
            .filter_map(|list| list.to_str().ok())
            .flat_map(|list| list.split(','));
        let is_wanted = ranges.any(|range| {
            let mut parts = range.split(';').map(str::trim);
            parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"))
                && !parts.any(|part| part.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0)))
        });
        if is_wanted { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// All metrics as text.
pub(super) fn text(server: &Server, format: Format) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Exported(metrics(server))));
    let mut text = String::new();
    let encoded = match format {
        Format::Prometheus => prometheus_text::encode(&mut text, &registry),
        Format::OpenMetrics => text::encode(&mut text, &registry),
    };
    debug_assert!(encoded.is_ok(), "writing to a String does not fail");
    text
}

/// The same numbers as one JSON object: by the names of the log's counters, summed and for each worker.
pub(super) fn json(server: &Server) -> String {
    let workers = server.workers();
    let process = Process::now();
    let each: Vec<_> = workers
        .iter()
        .enumerate()
        .map(|(index, worker)| {
            let mut object = numbers(&worker.stats);
            object.insert("worker".into(), index.into());
            object.insert("engine".into(), worker.engine.to_string().into());
            object.insert("up".into(), (worker.life == Life::Running).into());
            object
        })
        .collect();
    let object = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ready": server.is_ready(),
        "connections_max": server.connections_max(),
        "unsent_max_bytes": server.unsent_max(),
        "process": {
            "cpu_seconds": process.cpu_seconds,
            "resident_memory_bytes": process.resident,
            "virtual_memory_bytes": process.mapped,
            "open_fds": process.open_fds,
            "max_fds": process.max_fds,
            "start_time_seconds": process.start_seconds,
        },
        "total": numbers(&server.stats()),
        "workers": each,
    });
    format!("{object:#}\n")
}

fn numbers(stats: &Snapshot) -> Map<String, Value> {
    fn counts<L: Label>(tally: &Tally<L>) -> Value {
        tally.iter().map(|(label, count)| (label.name().to_owned(), Value::from(count))).collect()
    }
    fn buffers(Buffers { free, used }: &Buffers<usize>) -> Value {
        let size = |class: usize| json!({ "free": free[class], "used": used[class] });
        json!({ "small": size(0), "big": size(1) })
    }
    let mut object: Map<_, _> =
        stats.counters().map(|(name, _, count)| (name.to_owned(), Value::from(count))).collect();
    let (by, levels) = (&stats.by, &stats.levels);
    let more = [
        ("payload_bytes", stats.payload_bytes().into()),
        ("refusals_by_cause", counts(&by.refusals)),
        ("proxy_errors_by_cause", counts(&by.proxy_errors)),
        ("protocol_errors_by_kind", counts(&by.protocol_errors)),
        ("closes_received_by_code", counts(&by.closes_received)),
        ("closes_sent_by_code", counts(&by.closes_sent)),
        ("connections", levels.connections.into()),
        ("connections_refused", levels.refusals.into()),
        ("accept_paused", levels.accept_paused.into()),
        ("unsent_bytes", levels.unsent_bytes.into()),
        ("ring_buffers", buffers(&levels.ring_buffers)),
        ("pooled_buffers", buffers(&levels.pooled_buffers)),
    ];
    object.extend(more.map(|(name, value)| (name.to_owned(), value)));
    object
}

/// Hands ready metrics to an encoder.
#[derive(Debug)]
struct Exported(Vec<Metric>);

impl Collector for Exported {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in &self.0 {
            let Metric { name, help, unit, kind, series } = metric;
            let mut encoder = encoder.encode_descriptor(name, help, unit.as_ref(), *kind)?;
            for Series { labels, value } in series {
                let mut encoder = encoder.encode_family(labels)?;
                match (kind, value) {
                    (MetricType::Counter, Number::Whole(value)) => {
                        encoder.encode_counter::<NoLabelSet, _, f64>(value, None)?;
                    }
                    (MetricType::Counter, Number::Real(value)) => {
                        encoder.encode_counter::<NoLabelSet, _, f64>(value, None)?;
                    }
                    (_, Number::Whole(value)) => encoder.encode_gauge(value)?,
                    (_, Number::Real(value)) => encoder.encode_gauge(value)?,
                }
            }
        }
        Ok(())
    }
}
