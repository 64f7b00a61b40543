//! What is printed: a text for people, or one JSON object.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::cpu::ThreadUsage;
use crate::procfs;
use crate::run::{Outcome, Plan, ServerUsage};

/// The result of a run. Its fields, in their order, are the JSON object; a figure that is not known is `null`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    target: String,
    scheme: &'static str,
    kind: &'static str,
    size_bytes: usize,
    /// `closed`, or `churn`, in which a message is a connection as well: connect, upgrade, echo, reset.
    pace: &'static str,
    /// At a time.
    connections: usize,
    depth: Option<usize>,
    threads: usize,
    pinned_to: Vec<usize>,
    congestion: String,
    warmup_seconds: f64,
    /// The window in which messages were counted.
    duration_seconds: f64,
    /// Messages that came back whole and right in the window.
    messages: u64,
    /// The same over the whole run, with its warm-up and its end.
    echoes_checked: u64,
    messages_per_second: f64,
    /// In a churn, those that had their echo in the window.
    connections_per_second: Option<f64>,
    /// Payload in one direction.
    payload_bytes_per_second: f64,
    /// From when a message was due to when its echo was read. In a churn it is due when its connection begins to
    /// connect.
    latency_us: Latency,
    /// Latencies over 60 s, which the percentiles lack.
    latency_unrecorded: u64,
    /// CPU time, user and system, in the window.
    server_cpu_us_per_message: Option<f64>,
    /// The same in a churn, where a message is a connection.
    server_cpu_us_per_connection: Option<f64>,
    /// As for the server, for this process's threads.
    client_cpu_us_per_message: Option<f64>,
    server: Option<Server>,
    client: Client,
    /// How many faults of each kind there were, warm-up and end included.
    errors: BTreeMap<String, u64>,
    errors_total: u64,
    /// The first few in words.
    error_examples: Vec<String>,
    command_line: Vec<String>,
    machine: Machine,
    /// The commit this program was built from, where the build said.
    commit: Option<&'static str>,
    version: &'static str,
}

#[derive(Debug, Serialize)]
struct Latency {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    p9999: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct Server {
    /// CPU time over wall time: 1 is one core.
    cpu_cores: f64,
    /// The part of its CPU time in user mode, 0 to 1.
    cpu_user_share: Option<f64>,
    rss_bytes: u64,
    rss_max_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Client {
    /// For each thread, CPU time over wall time: 1 is all of it.
    threads_busy: Vec<f64>,
    /// For each thread, the part of the time in which it had work and no core, others using it.
    threads_waiting: Vec<f64>,
    /// A thread was busy or waiting for [`BOTTLENECK`] of its time or more: the server may be faster than was seen.
    is_bottleneck: bool,
}

#[derive(Debug, Serialize)]
struct Machine {
    cpu: Option<String>,
    cores: usize,
    system: String,
    kernel: String,
}

impl Report {
    /// What the outcome amounts to.
    pub(crate) fn new(plan: &Plan, outcome: &Outcome) -> Self {
        let (window, totals) = (&outcome.window, &outcome.totals);
        let seconds = plan.duration.as_secs_f64();
        let messages_per_second = window.messages as f64 / seconds;
        let client_cpu: Duration = totals.threads.iter().map(|thread| thread.cpu).sum();
        let shares = |share: fn(&ThreadUsage) -> Duration| {
            totals.threads.iter().map(|thread| share(thread).as_secs_f64() / seconds).collect::<Vec<_>>()
        };
        let server_cpu = |server: &ServerUsage| server.cpu.as_secs_f64() / server.elapsed.as_secs_f64();
        let has_messages = window.messages > 0;
        let server_cpu_us = outcome
            .server
            .as_ref()
            .filter(|_| has_messages)
            .map(|server| server_cpu(server) / messages_per_second * 1e6);
        let is_churn = plan.pace.is_churn();
        Self {
            target: plan.target.to_string(),
            scheme: plan.target.scheme.name(),
            kind: plan.traffic.kind().name(),
            size_bytes: plan.traffic.size(),
            pace: plan.pace.name(),
            connections: plan.connections,
            depth: plan.pace.in_flight_max(),
            threads: plan.threads,
            pinned_to: plan.cores.clone(),
            congestion: plan.congestion.clone(),
            warmup_seconds: plan.warmup.as_secs_f64(),
            duration_seconds: seconds,
            messages: window.messages,
            echoes_checked: totals.checked,
            messages_per_second,
            connections_per_second: is_churn.then_some(messages_per_second),
            payload_bytes_per_second: messages_per_second * plan.traffic.size() as f64,
            latency_us: Latency::new(&window.latency),
            latency_unrecorded: totals.unrecorded,
            server_cpu_us_per_message: server_cpu_us,
            server_cpu_us_per_connection: server_cpu_us.filter(|_| is_churn),
            client_cpu_us_per_message: has_messages
                .then(|| client_cpu.as_secs_f64() / window.messages as f64 * 1e6),
            server: outcome.server.as_ref().map(|server| Server {
                cpu_cores: server_cpu(server),
                cpu_user_share: server.user_share,
                rss_bytes: server.memory.resident,
                rss_max_bytes: server.memory.resident_max,
            }),
            client: Client {
                threads_busy: shares(|thread| thread.cpu),
                threads_waiting: shares(|thread| thread.waited),
                is_bottleneck: shares(|thread| thread.cpu + thread.waited)
                    .iter()
                    .any(|&share| share >= BOTTLENECK),
            },
            errors: totals.faults.counts().clone(),
            errors_total: totals.faults.total(),
            error_examples: totals.faults.examples().to_vec(),
            command_line: std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect(),
            machine: Machine::new(),
            commit: option_env!("RINGBACK_COMMIT"),
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// Whether every echo was right and every connection did as it should.
    pub(crate) const fn is_fine(&self) -> bool {
        self.errors_total == 0
    }

    /// One object on one line.
    pub(crate) fn to_json(&self) -> String {
        let mut text = serde_json::to_string(self).expect("strings, numbers and maps with string keys");
        text.push('\n');
        text
    }
}

impl Latency {
    fn new(histogram: &hdrhistogram::Histogram<u64>) -> Self {
        let us = |ns: u64| ns as f64 / 1e3;
        let at = |quantile| us(histogram.value_at_quantile(quantile));
        Self {
            mean: histogram.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: us(histogram.max()),
        }
    }
}

impl Machine {
    fn new() -> Self {
        let system = rustix::system::uname();
        Self {
            cpu: procfs::cpu_model(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            system: system.sysname().to_string_lossy().into_owned(),
            kernel: system.release().to_string_lossy().into_owned(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, size_bytes: size, pace, connections, depth, threads, congestion, .. } = self;
        writeln!(f, "target     {}", self.target)?;
        let unit = if self.connections_per_second.is_some() { "connection" } else { "message" };
        writeln!(
            f,
            "load       {connections} connections{}, {kind} of {size} bytes, {pace}",
            depth.map_or(String::new(), |depth| format!(" × {depth} in flight"))
        )?;
        writeln!(
            f,
            "window     {} s after {} s of warm-up, {threads} {}, {congestion}",
            self.duration_seconds,
            self.warmup_seconds,
            if *threads == 1 { "thread" } else { "threads" },
        )?;
        let each = if unit == "connection" { ", each on a connection of its own" } else { "" };
        writeln!(f, "messages   {} ({:.0} a second){each}", self.messages, self.messages_per_second)?;
        writeln!(f, "payload    {:.1} MB/s each way", self.payload_bytes_per_second / 1e6)?;
        let Latency { mean, p50, p90, p99, p999, p9999, max } = self.latency_us;
        writeln!(
            f,
            "latency    {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"
        )?;
        writeln!(
            f,
            "      µs   {mean:>10.1} {p50:>10.1} {p90:>10.1} {p99:>10.1} {p999:>10.1} {p9999:>10.1} {max:>10.1}"
        )?;
        if self.latency_unrecorded > 0 {
            writeln!(f, "           and {} over 60 s", self.latency_unrecorded)?;
        }
        if let Some(server) = &self.server {
            write!(
                f,
                "server     {} CPU a {unit}, {:.2} cores",
                Us(self.server_cpu_us_per_message),
                server.cpu_cores
            )?;
            if let Some(share) = server.cpu_user_share {
                write!(f, " ({:.0} % user)", share * 100.0)?;
            }
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            writeln!(f, ", RSS {:.1} MiB (max {:.1})", mib(server.rss_bytes), mib(server.rss_max_bytes))?;
        }
        let threads = self.client.threads_busy.iter().zip(&self.client.threads_waiting);
        let threads = threads.map(|(busy, waiting)| {
            let [busy, waiting] = [busy, waiting].map(|share| share * 100.0);
            format!("busy {busy:.0} % (waiting for a core {waiting:.0} %)")
        });
        writeln!(
            f,
            "generator  {} CPU a {unit}, {}",
            Us(self.client_cpu_us_per_message),
            threads.collect::<Vec<_>>().join(", ")
        )?;
        if self.client.is_bottleneck {
            writeln!(f, "           the generator was the bottleneck: the server may be faster than this")?;
        }
        if self.is_fine() {
            return writeln!(f, "errors     none in {} echoes", self.echoes_checked);
        }
        writeln!(f, "errors     {}", self.errors_total)?;
        for (kind, count) in &self.errors {
            writeln!(f, "           {count:>10} {kind}")?;
        }
        for example in &self.error_examples {
            writeln!(f, "           {example}")?;
        }
        Ok(())
    }
}

/// A time in microseconds, where it is known.
struct Us(Option<f64>);

impl fmt::Display for Us {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(us) => write!(f, "{us:.3} µs"),
            None => f.write_str("unknown"),
        }
    }
}

/// The part of its time from which on a thread counts as always at work.
const BOTTLENECK: f64 = 0.9;
