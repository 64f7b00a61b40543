//! One slice on one server, by the load generator: this very program, as a child.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use super::End;
use super::cell::Cell;
use super::judge::Figure;
use super::measure::Plan;
use super::process::{Log, Process};
use super::progress::Progress;
use super::server::Server;
use crate::run::Failure;
use crate::signals::Signals;

/// What the load generator measured in one slice, in which every echo was right.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Visit {
    messages_per_second: Option<f64>,
    server_cpu_us_per_message: Option<f64>,
    server_bytes_per_connection: Option<f64>,
    latency_us: Option<Latency>,
    server: Option<Memory>,
    client: Client,
    /// CPU time, user and system, of the generator itself.
    pub(super) client_cpu_us_per_message: Option<f64>,
    /// Over the whole visit, with its warm-up and its end.
    #[serde(default)]
    pub(super) echoes_checked: u64,
    errors_total: u64,
    #[serde(default)]
    errors: Value,
    #[serde(default)]
    error_examples: Vec<String>,
    /// By how much each counter of the server has grown, where it was asked.
    #[serde(skip)]
    pub(super) counters: BTreeMap<String, u64>,
    /// What it wrote to standard error.
    #[serde(skip)]
    pub(super) complaints: String,
    /// The whole object, as it came.
    #[serde(skip)]
    pub(super) object: Value,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Latency {
    p50: Option<f64>,
    p99: Option<f64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Memory {
    rss_bytes: Option<f64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Client {
    /// `None` where it is not known.
    is_bottleneck: Option<bool>,
}

impl Visit {
    /// A figure, where it was measured.
    pub(super) fn figure(&self, figure: Figure) -> Option<f64> {
        match figure {
            Figure::Cpu => self.server_cpu_us_per_message,
            Figure::Rate => self.messages_per_second,
            Figure::P50 => self.latency_us?.p50,
            Figure::P99 => self.latency_us?.p99,
            Figure::Memory => self.server_bytes_per_connection,
        }
    }

    /// The server's resident memory.
    pub(super) fn rss_bytes(&self) -> Option<f64> {
        self.server?.rss_bytes
    }

    /// Whether the generator is known to have set the rate, and not the server.
    pub(super) const fn is_bound_by_client(&self) -> bool {
        matches!(self.client.is_bottleneck, Some(true))
    }

    /// One with these figures and nothing else.
    #[cfg(test)]
    pub(super) fn with(cpu: f64, rate: f64, p50: f64) -> Self {
        let object = serde_json::json!({
            "messages_per_second": rate, "server_cpu_us_per_message": cpu, "client_cpu_us_per_message": 1.5,
            "latency_us": {"p50": p50, "p99": 2.0 * p50}, "server": {"rss_bytes": 3 << 20},
            "client": {"is_bottleneck": false}, "errors_total": 0, "echoes_checked": 1000,
        });
        Self { object: object.clone(), ..serde_json::from_value(object).expect("it fits") }
    }
}

/// Visits the server once.
///
/// # Errors
///
/// [`End::Wrong`] where the server echoed wrongly; otherwise why there are no figures, or none to be believed.
pub(super) fn visit(
    plan: &Plan,
    cell: &Cell,
    server: &mut Server,
    counts: bool,
    signals: &Signals,
    progress: &Progress,
) -> Result<Visit, End> {
    let before = if counts { server.counters(signals)? } else { BTreeMap::new() };
    let mut visit = load(plan, cell, server, signals, progress)?;
    server.check_alive()?;
    if counts {
        visit.counters = server.counters(signals)?;
        for (name, value) in &mut visit.counters {
            *value = value.saturating_sub(before.get(name).copied().unwrap_or(0));
        }
    }
    Ok(visit)
}

/// Runs the load generator to its end and reads what it prints.
fn load(
    plan: &Plan,
    cell: &Cell,
    server: &Server,
    signals: &Signals,
    progress: &Progress,
) -> Result<Visit, End> {
    let arguments = arguments(plan, cell, server);
    let name = &server.spec.name;
    let generator = plan.loadtest.to_string_lossy();
    let line =
        shell_words::join(std::iter::once(generator.as_ref()).chain(arguments.iter().map(String::as_str)));
    let what = format!("{name}, {cell}: {line}");
    let cannot = |error: std::io::Error| End::failed(format!("{what}\n    does not start: {error}"));

    let (output, complaints) = (Log::new().map_err(cannot)?, Log::new().map_err(cannot)?);
    let mut command = Command::new(&plan.loadtest);
    command.args(&arguments);
    command.stdout(output.writer().map_err(cannot)?).stderr(complaints.writer().map_err(cannot)?);
    let process = Process::spawn(&mut command, None).map_err(cannot)?;
    let deadline = Instant::now() + plan.slice + plan.warmup + SLICE_GRACE;
    let status = loop {
        server.trim_log();
        progress.tick();
        let now = Instant::now();
        match process.wait(deadline.min(now + TRIM_INTERVAL), signals)? {
            Some(status) => break status,
            None if now < deadline => {}
            None => return Err(End::failed(format!("{what}\n    does not end{}", server.last_words()))),
        }
    };

    let (output, complaints) = (output.text(0), complaints.text(0));
    let told = if complaints.trim().is_empty() { excerpt(&output) } else { excerpt(&complaints) };
    let unreadable =
        |why: &str| End::failed(format!("{what}\n    {status}, {why}: {told}{}", server.last_words()));
    match status.code() {
        Some(0 | EXIT_WRONG) => {}
        Some(EXIT_USAGE) => return Err(End::Failed(Failure::Usage(format!("{what}\n    {told}")))),
        _ => return Err(unreadable("it has failed")),
    }
    let object: Value = serde_json::from_str(&output)
        .map_err(|error| unreadable(&format!("its JSON does not fit ({error})")))?;
    let mut visit = Visit::deserialize(&object)
        .map_err(|error| unreadable(&format!("its JSON does not fit ({error})")))?;
    if visit.errors_total > 0 {
        let examples: String = visit.error_examples.iter().map(|line| format!("\n    {line}")).collect();
        let (total, kinds) = (visit.errors_total, &visit.errors);
        return Err(End::Wrong(format!(
            "{what}\n    errors: {total}, {kinds}{examples}{}",
            server.last_words()
        )));
    }
    if !status.success() {
        return Err(unreadable("it has failed"));
    }
    for &figure in cell.figures() {
        if !visit.figure(figure).is_some_and(|value| value.is_finite() && value > 0.0) {
            if let Some(why) = elsewhere(figure, &visit, server) {
                return Err(End::failed(format!("{name}, {cell}: {why}{}", server.last_words())));
            }
            if visit.messages_per_second == Some(0.0) {
                return Err(End::failed(stood_still(&what, plan, &visit) + &server.last_words()));
            }
            return Err(unreadable(&format!("nothing was measured: no {} above 0", figure.field())));
        }
    }
    visit.object = object;
    visit.complaints = complaints;
    Ok(visit)
}

/// That the process that was started is not the one that does the work, where it looks like that.
fn elsewhere(figure: Figure, visit: &Visit, server: &Server) -> Option<String> {
    let pid = server.pid();
    let what = match figure {
        Figure::Cpu if visit.messages_per_second > Some(0.0) => {
            format!("its pid {pid} used no CPU time that could be seen, and messages came back: is")
        }
        Figure::Memory => {
            format!("the memory of its pid {pid} did not grow: are the connections too few to be seen, or is")
        }
        _ => return None,
    };
    Some(format!("{what} the command a wrapper that starts the server as another process? Then use exec"))
}

/// That no message came back in a slice without an error: not to be believed, and not to be left out either.
fn stood_still(what: &str, plan: &Plan, visit: &Visit) -> String {
    let (slice, echoes) = (humantime::format_duration(plan.slice), visit.echoes_checked);
    format!(
        "{what}\n    no message came back within the slice of {slice}, and {echoes} before and after it: the server or the \
         machine stood still. If others keep the machine busy, a longer slice helps"
    )
}

fn arguments(plan: &Plan, cell: &Cell, server: &Server) -> Vec<String> {
    let scheme = server.spec.scheme;
    let path = if scheme == "ws" { plan.path.as_str() } else { "" };
    let mut arguments = vec![format!("{scheme}://127.0.0.1:{}{path}", server.port)];
    arguments.extend(cell.arguments());
    for (option, value) in [
        ("--connect-timeout", CONNECT_TIMEOUT.to_owned()),
        ("--grace", GRACE.to_owned()),
        ("--duration", format!("{}ms", plan.slice.as_millis())),
        ("--warmup", format!("{}ms", plan.warmup.as_millis())),
        ("--server-pid", server.pid().to_string()),
        ("--pin", plan.client_core.to_string()),
    ] {
        arguments.extend([option.to_owned(), value]);
    }
    arguments.push("--json".to_owned());
    arguments.extend(plan.loadtest_args.iter().cloned());
    arguments
}

fn excerpt(text: &str) -> &str {
    let text = text.trim();
    text.char_indices().nth(EXCERPT_CHARS).map_or(text, |(at, _)| &text[..at])
}

/// How long the generator's connections may take to open, and the last echoes to come, and the connections to end: for
/// ten thousand connections a second is not enough where others use the machine too.
const CONNECT_TIMEOUT: &str = "30s";
const GRACE: &str = "10s";

/// Beyond the slice and its warm-up: connecting, draining, printing.
const SLICE_GRACE: Duration = Duration::from_secs(60);

/// How often what a server logs meanwhile is cut.
const TRIM_INTERVAL: Duration = Duration::from_secs(1);

/// The load generator's exit codes, as its `--help` has them.
const EXIT_WRONG: i32 = 1;
const EXIT_USAGE: i32 = 64;

const EXCERPT_CHARS: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generator_of_which_it_is_not_known_has_bound_nothing() {
        let mut visit = Visit::with(1.0, 1.0, 1.0);
        for (is_bottleneck, is_bound) in [("null", false), ("false", false), ("true", true)] {
            let client = format!(r#"{{"is_bottleneck": {is_bottleneck}}}"#);
            visit.client = serde_json::from_str(&client).expect("it fits");
            assert_eq!(visit.is_bound_by_client(), is_bound, "{is_bottleneck}");
        }
    }
}
