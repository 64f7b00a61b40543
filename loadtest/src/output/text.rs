//! The report as people read it in a terminal.

use std::fmt;

use super::figures::{Micros, Rate, Seconds};
use super::report::{Latency, Report, Spread};
use super::series::Slice;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { traffic, pace, connections, depth, threads, engine, congestion, .. } = self;
        writeln!(f, "target     {}", self.target)?;
        if let [_, _, ..] = self.addresses[..] {
            writeln!(f, "           {}", self.reached().join(", "))?;
        }
        let unit = if self.connections_per_second.is_some() { "connection" } else { "message" };
        writeln!(
            f,
            "load       {connections} connections{}, {traffic}, {pace}",
            depth.map_or(String::new(), |depth| format!(" × {depth} in flight"))
        )?;
        writeln!(
            f,
            "window     {} s after {} s of warm-up, {threads} {} by {engine}, {congestion}",
            Seconds(self.duration_seconds),
            Seconds(self.warmup_seconds),
            if *threads == 1 { "thread" } else { "threads" },
        )?;
        if let Some(ended) = self.ended() {
            writeln!(f, "           {ended}")?;
        }
        let each = if unit == "connection" { ", each on a connection of its own" } else { "" };
        writeln!(f, "messages   {} ({} a second){each}", self.messages, Rate(self.messages_per_second))?;
        if let (Some(rate), Some(arrivals)) = (self.rate_target, self.arrivals) {
            let due = self.due.map_or(String::new(), |due| format!(": {due} in the window"));
            writeln!(f, "           {} a second were due, {arrivals} arrivals{due}", Rate(rate))?;
        }
        writeln!(f, "payload    {:.1} MB/s each way", self.payload_bytes_per_second / 1e6)?;
        if let Some((min, max)) = rates(&self.raw.slices) {
            writeln!(f, "           between {} and {} in each second", Rate(min), Rate(max))?;
        }
        match self.latency_us {
            Some(latency) => write!(f, "{latency}")?,
            None => writeln!(f, "latency    {NOTHING_CAME_BACK}")?,
        }
        if self.latency_unrecorded > 0 {
            writeln!(f, "           and {} over 60 s", self.latency_unrecorded)?;
        }
        if let Some(Spread { p50, p99, max }) = self.lateness_us {
            writeln!(
                f,
                "lateness   p50 {}, p99 {}, max {} of the generator itself",
                Micros(p50),
                Micros(p99),
                Micros(max),
            )?;
        }
        if let Some(bytes) = self.server_bytes_per_connection {
            writeln!(f, "idle       {bytes:.0} bytes of the server's memory a connection")?;
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
        if let Some(why) = self.bottleneck() {
            writeln!(f, "           {why}")?;
        }
        if self.client.is_bottleneck.is_none() {
            writeln!(f, "           spinning: {BOTTLENECK_UNKNOWN}")?;
        }
        if let Some(reconnects) = self.reconnects {
            writeln!(f, "reconnects {reconnects}")?;
        }
        for (kind, count) in &self.reconnect_causes {
            writeln!(f, "           {count:>10} {kind}")?;
        }
        for example in &self.reconnect_examples {
            writeln!(f, "           {example}")?;
        }
        if self.errors_total == 0 {
            writeln!(f, "errors     none in {} echoes, the warm-up's included", self.echoes_checked)?;
        } else {
            writeln!(f, "errors     {}", self.errors_total)?;
        }
        for (kind, count) in &self.errors {
            writeln!(f, "           {count:>10} {kind}")?;
        }
        for example in &self.error_examples {
            writeln!(f, "           {example}")?;
        }
        for failed in &self.failed_conditions {
            writeln!(f, "failed     {failed}")?;
        }
        self.find_max.as_ref().map_or(Ok(()), |search| write!(f, "{search}"))
    }
}

impl Report {
    /// That the window ended early, or the run was ended by hand.
    pub(super) fn ended(&self) -> Option<String> {
        let seconds = Seconds(self.duration_seconds);
        match (self.ended_by_signal, self.duration_planned_seconds.map(Seconds)) {
            (Some(signal), Some(planned)) => {
                Some(format!("{signal} ended the window after {seconds} s of {planned} s"))
            }
            (Some(signal), None) => Some(format!("{signal} ended the run, and not this window")),
            (None, Some(_)) => Some(format!("the window ended after {seconds} s: no connection was left")),
            (None, None) => None,
        }
    }

    /// Which addresses were used, how often.
    pub(super) fn reached(&self) -> Vec<String> {
        let reached = self.addresses.iter().map(|it| match it.failures {
            0 => format!("{} ({} connections)", it.address, it.connections),
            failures => {
                format!("{} ({} connections, {failures} attempts failed)", it.address, it.connections)
            }
        });
        reached.collect()
    }

    /// That the generator was the bottleneck, if it was, and how that is known.
    pub(super) fn bottleneck(&self) -> Option<&'static str> {
        if self.client.is_late {
            Some("the generator was the bottleneck: it was late, and the server may be faster than this")
        } else if self.is_generator_bottleneck() {
            Some("the generator was the bottleneck: the server may be faster than this")
        } else {
            None
        }
    }
}

/// A head and a line below it.
impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mean, p50, p90, p99, p999, p9999, max, count } = self;
        // With fewer it is the maximum by another name.
        let p9999 = if *count < P9999_COUNT_MIN { "–".to_owned() } else { format!("{p9999:.1}") };
        writeln!(
            f,
            "latency    {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"
        )?;
        writeln!(
            f,
            "      µs   {mean:>10.1} {p50:>10.1} {p90:>10.1} {p99:>10.1} {p999:>10.1} {p9999:>10} {max:>10.1}"
        )
    }
}

/// The lowest and the highest rate of a whole second, where there are enough of them to compare.
fn rates(slices: &[Slice]) -> Option<(f64, f64)> {
    let whole: Vec<_> = slices.iter().filter(|slice| slice.is_whole()).map(Slice::rate).collect();
    let enough = whole.len() >= SECONDS_MIN;
    enough.then(|| whole.iter().fold((f64::INFINITY, 0.0_f64), |(min, max), &it| (min.min(it), max.max(it))))
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

/// What is told of threads that are always busy.
pub(super) const BOTTLENECK_UNKNOWN: &str = "whether the generator was the bottleneck is not known";

/// What is told instead of a latency.
pub(crate) const NOTHING_CAME_BACK: &str = "nothing came back";

/// Latencies from which on one in ten thousand is one.
const P9999_COUNT_MIN: u64 = 10_000;

/// Seconds from which on their spread says something.
const SECONDS_MIN: usize = 3;
