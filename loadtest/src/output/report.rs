//! What a run amounts to, and the JSON object of it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::condition::{Condition, Failed};
use super::figures::{quantile_us, us};
use super::series::Slice;
use crate::cpu::ThreadUsage;
use crate::find_max::FindMax;
use crate::pace::Pace;
use crate::packed::Packed;
use crate::procfs;
use crate::run::{Outcome, Plan, ServerUsage};
use crate::signals;
use crate::tally::Interval;

/// The result of a run. Its fields, in their order, are the JSON object; a figure that is not known is `null`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(crate) struct Report {
    pub(super) target: String,
    pub(super) scheme: &'static str,
    /// The addresses of the target, in the order in which a connection tries them.
    pub(super) addresses: Vec<Address>,
    pub(super) kind: &'static str,
    /// Where all messages have the same.
    pub(super) size_bytes: Option<usize>,
    /// As the user wrote them.
    pub(super) sizes: String,
    /// The file that the messages are from, as the user wrote it; null where they are random.
    pub(super) file: Option<String>,
    /// What is sent, in words.
    #[serde(skip)]
    pub(super) traffic: String,
    /// `closed`, `open`, `churn`, in which a message is a connection as well: connect, upgrade, echo, reset; or `idle`.
    pub(super) pace: &'static str,
    /// Messages that were due in a second, over all connections; null where each was due when another had come back.
    pub(super) rate_target: Option<f64>,
    /// How they were spread over time: `constant` or `poisson`; null without a rate.
    pub(super) arrivals: Option<&'static str>,
    /// At a time.
    pub(super) connections: usize,
    /// Messages in flight on a connection at most; null where nothing bounds them.
    pub(super) depth: Option<usize>,
    pub(super) threads: usize,
    pub(super) pinned_to: Vec<usize>,
    /// How bytes were moved: `ring`, by io_uring, or `epoll`.
    pub(super) engine: String,
    /// Whether the threads looked for echoes without ever sleeping.
    pub(super) spin: bool,
    /// Over what time the connections were opened.
    pub(super) ramp_seconds: f64,
    /// The local addresses they came from, as the user wrote them; null where the system chose.
    pub(super) source: Option<String>,
    pub(super) congestion: String,
    /// When the window began: RFC 3339, UTC.
    pub(super) began: String,
    pub(super) warmup_seconds: f64,
    /// The window in which messages were counted, as long as it was.
    pub(super) duration_seconds: f64,
    /// How long it was to be, where it ended before, because no connection was left, or by a signal; null where it went to
    /// its end.
    pub(super) duration_planned_seconds: Option<f64>,
    /// The signal that ended the run, or the search for a rate; null where there was none.
    pub(super) ended_by_signal: Option<&'static str>,
    /// Messages that came back whole and right in the window.
    pub(super) messages: u64,
    /// Messages that were due in the window, and in a churn connections; null where each was due when another had come
    /// back.
    pub(super) due: Option<u64>,
    /// The same as `messages` over the whole run, with its warm-up and its end.
    pub(super) echoes_checked: u64,
    pub(super) messages_per_second: f64,
    /// In a churn, those that had their echo in the window.
    pub(super) connections_per_second: Option<f64>,
    /// Payload in one direction.
    pub(super) payload_bytes_per_second: f64,
    /// From when a message was due to when its echo was read. In a churn it is due when its connection begins to
    /// connect. Null where nothing came back.
    pub(super) latency_us: Option<Latency>,
    /// Latencies over 60 s, which the percentiles lack.
    pub(super) latency_unrecorded: u64,
    /// By how much the generator itself was late: from when a message was due to when it was handed to its connection.
    /// Null without an arrival rate.
    pub(super) lateness_us: Option<Spread>,
    /// CPU time, user and system, in the window.
    pub(super) server_cpu_us_per_message: Option<f64>,
    /// The same in a churn, where a message is a connection.
    pub(super) server_cpu_us_per_connection: Option<f64>,
    /// As for the server, for this process's threads.
    pub(super) client_cpu_us_per_message: Option<f64>,
    /// What an open connection costs the server in resident memory, where connections were only held.
    pub(super) server_bytes_per_connection: Option<f64>,
    pub(super) server: Option<Server>,
    pub(super) client: Client,
    /// Connections that were opened again in the place of others that had ended; null without --reconnect.
    pub(super) reconnects: Option<u64>,
    /// Why those had ended, by kind, and why attempts to open others again failed. None of it is in `errors`.
    pub(super) reconnect_causes: BTreeMap<String, u64>,
    /// The first few of them in words.
    pub(super) reconnect_examples: Vec<String>,
    /// How many faults of each kind there were, warm-up and end included.
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) errors_total: u64,
    /// The first few in words.
    pub(super) error_examples: Vec<String>,
    /// The conditions of --fail-if that are so.
    pub(super) failed_conditions: Vec<Failed>,
    /// How the highest rate was looked for, where it was; the rest of the object is about the run at that rate.
    pub(super) find_max: Option<FindMax>,
    /// The window, second by second.
    pub(super) series: Vec<Second>,
    pub(super) command_line: Vec<String>,
    pub(super) machine: Machine,
    /// The commit this program was built from, where the build said.
    pub(super) commit: Option<&'static str>,
    pub(super) version: &'static str,
    /// What the figures were made of.
    #[serde(skip)]
    pub(super) raw: Raw,
}

/// An address of the target.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(crate) struct Address {
    pub(super) address: String,
    /// Connections that were made to it, over the whole run.
    pub(super) connections: u64,
    /// Attempts to connect to it that failed.
    pub(super) failures: u64,
}

/// What the figures of a report were made of.
#[derive(Debug)]
pub(crate) struct Raw {
    /// When the window began.
    pub(super) began: SystemTime,
    /// In nanoseconds.
    pub(super) latency: Histogram<u64>,
    /// In nanoseconds.
    pub(super) lateness: Option<Histogram<u64>>,
    /// The window, second by second.
    pub(super) slices: Vec<Slice>,
    /// The signal that has come meanwhile.
    pub(super) signal: Option<i32>,
}

/// One second of the window; the last may be shorter.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(crate) struct Second {
    /// Whole seconds of the window before it.
    second: u64,
    messages_per_second: f64,
    /// Of the echoes that came in it; null where none did.
    latency_us: Option<Spread>,
    /// Everything that was wrong in it.
    errors: u64,
}

/// A distribution in short, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(crate) struct Spread {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

/// A distribution in microseconds. A percentile of fewer latencies than have one above it is their maximum.
#[derive(Clone, Copy, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(crate) struct Latency {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) p9999: f64,
    pub(super) max: f64,
    /// Of how many latencies.
    #[serde(skip)]
    pub(super) count: u64,
}

/// What the server's process used in the window.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(crate) struct Server {
    /// CPU time over wall time: 1 is one core.
    pub(super) cpu_cores: f64,
    /// The part of its CPU time in user mode, 0 to 1.
    pub(super) cpu_user_share: Option<f64>,
    pub(super) rss_bytes: u64,
    pub(super) rss_max_bytes: u64,
}

/// What this program used in the window.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(crate) struct Client {
    /// For each thread, CPU time over wall time: 1 is all of it.
    pub(super) threads_busy: Vec<f64>,
    /// For each thread, the part of the time in which it had work and no core, others using it.
    pub(super) threads_waiting: Vec<f64>,
    /// A thread was busy or waiting for 90 % of its time or more, or `is_late`: the server may be faster than was seen.
    /// Threads that spin are always busy, so with them only `is_late` counts; null where it cannot, without an arrival
    /// rate.
    pub(super) is_bottleneck: Option<bool>,
    /// One message in a hundred was handed to its connection 1 ms or more after it was due.
    pub(super) is_late: bool,
}

/// Where this program ran.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(crate) struct Machine {
    pub(super) cpu: Option<String>,
    pub(super) cores: usize,
    pub(super) system: String,
    pub(super) kernel: String,
}

impl Report {
    /// What the outcome amounts to.
    pub(crate) fn new(plan: &Plan, outcome: Outcome) -> Self {
        let (window, totals) = (outcome.window, outcome.totals);
        let is_cut = outcome.elapsed < plan.duration;
        // Nothing is divided by nothing: connections may all be gone when it begins.
        let elapsed = outcome.elapsed.max(WINDOW_MIN);
        let has_been = |second: &Interval<Packed>| {
            Duration::from_secs(second.second) < elapsed || second.messages + second.errors > 0
        };
        let series = outcome.series.into_iter().filter(has_been);
        let slices: Vec<_> = series.map(|interval| Slice::new(interval, elapsed)).collect();
        let is_late = totals.lateness.as_ref().is_some_and(is_late);
        let seconds = elapsed.as_secs_f64();
        let messages_per_second = window.messages as f64 / seconds;
        let client_cpu: Duration = totals.threads.iter().map(|thread| thread.cpu).sum();
        let shares = |share: fn(&ThreadUsage) -> Duration| {
            totals.threads.iter().map(|thread| share(thread).as_secs_f64() / seconds).collect::<Vec<_>>()
        };
        let server_cpu = |server: &ServerUsage| server.cpu.as_secs_f64() / server.elapsed.as_secs_f64();
        let has_messages = window.messages > 0;
        let server_cpu_us = outcome.server.as_ref().filter(|_| has_messages).map(|server| {
            // Its clock was read a little late, but behind a window that was cut it has had nothing to do.
            let used = if is_cut { server.cpu.as_secs_f64() } else { server_cpu(server) * seconds };
            used / window.messages as f64 * 1e6
        });
        let is_churn = plan.pace.is_churn();
        let addresses = totals.addresses.iter().enumerate().map(|(number, reached)| Address {
            address: plan.addresses.shown(number),
            connections: reached.connections,
            failures: reached.failures,
        });
        Self {
            target: plan.target.to_string(),
            scheme: plan.target.scheme.name(),
            addresses: addresses.collect(),
            file: plan.file.clone(),
            kind: plan.traffic.kind().name(),
            size_bytes: plan.traffic.size(),
            sizes: plan.traffic.sizes().to_string(),
            traffic: plan.traffic.describe(),
            pace: plan.pace.name(),
            rate_target: plan.pace.rate().map(|(rate, _)| rate),
            arrivals: plan.pace.rate().map(|(_, arrivals)| arrivals.name()),
            connections: plan.connections,
            depth: plan.pace.in_flight_max(),
            threads: plan.threads,
            pinned_to: plan.cores.clone(),
            engine: plan.engine.to_string(),
            spin: plan.spin,
            ramp_seconds: plan.ramp.as_secs_f64(),
            source: plan.sources.as_ref().map(ToString::to_string),
            congestion: plan.congestion.clone(),
            began: humantime::format_rfc3339_millis(outcome.began).to_string(),
            warmup_seconds: plan.warmup.as_secs_f64(),
            duration_seconds: seconds,
            duration_planned_seconds: is_cut.then_some(plan.duration.as_secs_f64()),
            ended_by_signal: outcome.signal.map(signals::name),
            messages: window.messages,
            due: (plan.pace.rate().is_some() || plan.pace == Pace::Idle).then_some(totals.due),
            echoes_checked: totals.checked,
            messages_per_second,
            connections_per_second: is_churn.then_some(messages_per_second),
            payload_bytes_per_second: messages_per_second * plan.traffic.mean_size(),
            latency_us: Latency::new(&window.latency),
            latency_unrecorded: totals.unrecorded,
            lateness_us: totals.lateness.as_ref().and_then(Spread::new),
            server_cpu_us_per_message: server_cpu_us,
            server_cpu_us_per_connection: server_cpu_us.filter(|_| is_churn),
            client_cpu_us_per_message: has_messages
                .then(|| client_cpu.as_secs_f64() / window.messages as f64 * 1e6),
            server_bytes_per_connection: outcome.held.map(|held| {
                (held.after_bytes as f64 - held.before_bytes as f64) / held.connections.max(1) as f64
            }),
            server: outcome.server.as_ref().map(|server| Server {
                cpu_cores: server_cpu(server),
                cpu_user_share: server.user_share,
                rss_bytes: server.memory.resident,
                rss_max_bytes: server.memory.resident_max,
            }),
            client: Client {
                threads_busy: shares(|thread| thread.cpu),
                threads_waiting: shares(|thread| thread.waited),
                is_bottleneck: is_bottleneck(
                    is_late,
                    plan.spin,
                    plan.pace.rate().is_some(),
                    &shares(|thread| thread.cpu + thread.waited),
                ),
                is_late,
            },
            reconnects: plan.reconnect.then_some(totals.reconnects),
            reconnect_causes: totals.reconnect_causes.counts().clone(),
            reconnect_examples: totals.reconnect_causes.examples().to_vec(),
            errors: totals.faults.counts().clone(),
            errors_total: totals.faults.total(),
            error_examples: totals.faults.examples().to_vec(),
            failed_conditions: Vec::new(),
            find_max: None,
            series: slices.iter().map(Second::new).collect(),
            command_line: std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect(),
            machine: Machine::new(),
            commit: option_env!("RINGBACK_COMMIT"),
            version: env!("CARGO_PKG_VERSION"),
            raw: Raw {
                began: outcome.began,
                latency: window.latency,
                lateness: totals.lateness,
                slices,
                signal: outcome.signal,
            },
        }
    }

    /// Notes which of the conditions are so: the run fails on each of them.
    pub(crate) fn fail_if(&mut self, conditions: &[Condition]) {
        self.failed_conditions = conditions.iter().filter_map(|condition| condition.failed(self)).collect();
    }

    /// Says that the run is the best that a search has found, or the last where none was good.
    pub(crate) fn found_by(&mut self, search: FindMax) {
        self.find_max = Some(search);
    }

    /// The signal by which the run was ended.
    pub(crate) const fn signal(&self) -> Option<i32> {
        self.raw.signal
    }

    /// Says that the search which the run was part of was ended by a signal.
    pub(crate) fn end_by(&mut self, signal: Option<i32>) {
        self.raw.signal = signal;
        self.ended_by_signal = signal.map(signals::name);
    }

    /// Messages that came back in a second of the window.
    pub(crate) const fn messages_per_second(&self) -> f64 {
        self.messages_per_second
    }

    /// Whether nearly as many messages came back in the window as were due in it; true where none had a time of its own.
    ///
    /// They are not held against the rate: so many are due on the average, and how many of a Poisson stream are due in
    /// a window is a matter of chance, as far as the square root of their number.
    pub(crate) fn has_kept_up(&self) -> bool {
        self.due.is_none_or(|due| (self.messages + DUE_SLACK) as f64 >= due as f64 * DUE_MIN)
    }

    /// Whether anything was wrong with an echo or a connection.
    pub(crate) const fn has_errors(&self) -> bool {
        self.errors_total > 0
    }

    /// Whether the figures may be the generator's rather than the server's.
    pub(crate) const fn is_generator_bottleneck(&self) -> bool {
        matches!(self.client.is_bottleneck, Some(true))
    }

    /// Whether all was as it should be: every echo right, every connection well-behaved, and no condition to fail on.
    pub(crate) fn is_fine(&self) -> bool {
        let has_found = self.find_max.as_ref().is_none_or(FindMax::has_found);
        self.errors_total == 0 && self.failed_conditions.is_empty() && has_found
    }

    /// One object on one line.
    pub(crate) fn to_json(&self) -> String {
        let mut text = serde_json::to_string(self).expect("strings, numbers and maps with string keys");
        text.push('\n');
        text
    }
}

/// Whether messages were so late when they were handed to their connections that the generator was too slow; in
/// nanoseconds.
fn is_late(lateness: &Histogram<u64>) -> bool {
    !lateness.is_empty() && quantile_us(lateness, 0.99) >= LATENESS_BOTTLENECK_US
}

/// Whether the generator was too slow, judged by what its threads had and wanted of the time. Those that spin want all of
/// it, whatever there is to do: then it is known by lateness or not at all.
fn is_bottleneck(is_late: bool, spins: bool, has_rate: bool, shares: &[f64]) -> Option<bool> {
    match (spins, has_rate) {
        _ if is_late => Some(true),
        (false, _) => Some(shares.iter().any(|&share| share >= BOTTLENECK)),
        (true, true) => Some(false),
        (true, false) => None,
    }
}

impl Latency {
    /// Of nanoseconds; `None` of nothing.
    pub(crate) fn new(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| quantile_us(histogram, quantile);
        (!histogram.is_empty()).then(|| Self {
            mean: histogram.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: us(histogram.max()),
            count: histogram.len(),
        })
    }
}

impl Spread {
    /// Of nanoseconds; `None` of nothing.
    pub(crate) fn new(histogram: &Histogram<u64>) -> Option<Self> {
        (!histogram.is_empty()).then(|| Self {
            p50: quantile_us(histogram, 0.5),
            p99: quantile_us(histogram, 0.99),
            max: us(histogram.max()),
        })
    }
}

impl Second {
    /// As it is printed.
    pub(crate) fn new(slice: &Slice) -> Self {
        Self {
            second: slice.start.as_secs(),
            messages_per_second: slice.rate(),
            latency_us: Spread::new(&slice.latency.unpack()),
            errors: slice.errors,
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

/// The part of the messages that were due that has to come back in the window, and how many fewer of them always may:
/// its edges cut a few off.
const DUE_MIN: f64 = 0.98;
const DUE_SLACK: u64 = 2;

/// What a window lasts at least.
const WINDOW_MIN: Duration = Duration::from_millis(1);

/// The part of its time from which on a thread counts as always at work.
const BOTTLENECK: f64 = 0.9;

/// The 99th percentile of its lateness from which on the generator counts as too slow.
const LATENESS_BOTTLENECK_US: f64 = 1_000.0;

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
