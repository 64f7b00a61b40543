//! The page: one file with everything in it, which no script and no other file is needed for.

use std::time::Duration;

use hdrhistogram::Histogram;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::chart::{self, Axis, Colour, Frame, Line};
use super::figures::{Grouped, Micros, Seconds, capitalised, quantile_us, us};
use super::report::{Latency, Report};
use super::series::{self, Point, Slice};
use super::text::{BOTTLENECK_UNKNOWN, NOTHING_CAME_BACK};

/// What a page is made of.
pub(crate) struct Page<'a> {
    /// What it is about.
    pub(crate) title: String,
    /// When that was, and how long.
    pub(crate) subtitle: String,
    /// What the reader must not miss.
    pub(crate) warnings: Vec<String>,
    /// Figures to see first: what it is, and how much.
    pub(crate) headlines: Vec<(&'static str, String)>,
    /// What a rate over time is of.
    pub(crate) rate: &'static str,
    /// In nanoseconds.
    pub(crate) latency: &'a Histogram<u64>,
    /// Over time.
    pub(crate) slices: &'a [Slice],
    /// How long that was.
    pub(crate) window: Duration,
    /// Further sections.
    pub(crate) sections: Vec<Section>,
}

/// A table of names and values under a heading.
pub(crate) struct Section {
    /// The heading.
    pub(crate) title: &'static str,
    /// Names and values.
    pub(crate) rows: Vec<(String, String)>,
}

/// The page of a run.
pub(crate) fn of_report(report: &Report) -> String {
    let mut warnings: Vec<_> =
        report.failed_conditions.iter().map(|failed| format!("Failed: {failed}")).collect();
    if report.errors_total > 0 {
        warnings.push(format!("{} errors", Grouped(report.errors_total as f64)));
    }
    warnings.extend(report.ended().map(|ended| capitalised(&ended)));
    warnings.extend(report.bottleneck().map(capitalised));
    if report.latency_unrecorded > 0 {
        warnings.push(format!("{} latencies over 60 s are in no figure", report.latency_unrecorded));
    }
    let mut sections =
        vec![errors(report), reconnects(report), search(report), settings(report), machine(report)];
    sections.retain(|section| !section.rows.is_empty());
    Page {
        title: format!("Load of {}", report.target),
        subtitle: format!(
            "{}, {} s after {} s of warm-up",
            report.began,
            Seconds(report.duration_seconds),
            Seconds(report.warmup_seconds)
        ),
        warnings,
        headlines: headlines(report),
        rate: "messages a second",
        latency: &report.raw.latency,
        slices: &report.raw.slices,
        window: Duration::from_secs_f64(report.duration_seconds),
        sections,
    }
    .to_html()
}

impl Page<'_> {
    /// The page's text.
    pub(crate) fn to_html(&self) -> String {
        let points = series::points(self.slices, POINTS_MAX);
        let seconds = self.window.as_secs_f64();
        let rate = format!("{} over time", capitalised(self.rate));
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    // Nothing is fetched, whatever stands in the values.
                    meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) (PreEscaped(chart::style())) }
                }
                body {
                    header { h1 { (self.title) } p { (self.subtitle) } }
                    @for warning in &self.warnings { p.warning role="alert" { (warning) } }
                    dl.headlines {
                        @for (name, value) in &self.headlines { div { dt { (name) } dd { (value) } } }
                    }
                    (figure("Latency by percentile", |title, size| percentile_curve(title, size, self.latency)))
                    (figure("Latency over time", |title, size| latency_over_time(title, size, &points, seconds)))
                    (figure(&rate, |title, size| rate_over_time(title, size, self.rate, &points, seconds)))
                    (percentiles(self.latency))
                    @for section in &self.sections { (section.to_html()) }
                }
            }
        }
        .into_string()
    }
}

impl Section {
    fn to_html(&self) -> Markup {
        html! {
            section {
                h2 { (self.title) }
                table { @for (name, value) in &self.rows { tr { th scope="row" { (name) } td { (value) } } } }
            }
        }
    }
}

/// A chart under its heading, drawn once for a wide page and once for a narrow one: scaled down, its text would be too
/// small to read.
fn figure(title: &str, draw: impl Fn(&str, (u32, u32)) -> String) -> Markup {
    html! {
        section {
            h2 { (title) }
            figure.wide { (PreEscaped(draw(title, WIDE))) }
            figure.narrow { (PreEscaped(draw(title, NARROW))) }
        }
    }
}

fn percentile_curve(title: &str, size: (u32, u32), latency: &Histogram<u64>) -> String {
    let nines = (latency.len().max(10) as f64).log10();
    let steps = (0_u32..).map(|step| f64::from(step) / CURVE_STEPS_A_NINE).take_while(|at| *at < nines);
    let quantiles = steps.map(|at| 1.0 - 10_f64.powf(-at));
    let mut points: Vec<_> = quantiles.map(|quantile| (quantile, quantile_us(latency, quantile))).collect();
    let x = Axis::percentiles(latency.len());
    points.push((x.max(), us(latency.max())));
    if latency.is_empty() {
        points.clear();
    }
    let y = Axis::latency(points.iter().map(|(_, us)| *us));
    chart::lines(&Frame { title, size, x, y }, &[line("latency", Colour::Blue, points)])
}

fn latency_over_time(title: &str, size: (u32, u32), points: &[Point], seconds: f64) -> String {
    let all = points.iter().filter_map(|point| point.latency_us).flatten();
    let curve = |name, colour, which: usize| {
        // A gap is what the chart cannot show.
        let points = points.iter().filter_map(|point| Some((point.at, point.latency_us?[which])));
        line(name, colour, points.collect())
    };
    let lines = [curve("p50", Colour::Blue, 0), curve("p99", Colour::Amber, 1), curve("max", Colour::Red, 2)];
    chart::lines(&Frame { title, size, x: Axis::seconds(seconds), y: Axis::latency(all) }, &lines)
}

fn rate_over_time(
    title: &str,
    size: (u32, u32),
    name: &'static str,
    points: &[Point],
    seconds: f64,
) -> String {
    // The labels are whole numbers.
    let max = points.iter().map(|point| point.rate).fold(RATE_MAX_MIN, f64::max);
    let y = Axis::linear(max, |value| Grouped(value).to_string());
    let mut lines = vec![line(name, Colour::Blue, points.iter().map(|it| (it.at, it.rate)).collect())];
    let wrong: Vec<_> = points.iter().filter(|point| point.errors > 0).map(|it| (it.at, it.rate)).collect();
    if !wrong.is_empty() {
        lines.push(Line { name: "with errors", colour: Colour::Red, points: wrong, is_dots: true });
    }
    chart::lines(&Frame { title, size, x: Axis::seconds(seconds), y }, &lines)
}

fn line(name: &'static str, colour: Colour, points: Vec<(f64, f64)>) -> Line {
    Line { name, colour, points, is_dots: false }
}

fn percentiles(latency: &Histogram<u64>) -> Markup {
    let count = latency.len() as f64;
    let rows = PERCENTILES.iter().filter(|percent| count * (1.0 - **percent / 100.0) >= 1.0);
    html! {
        section {
            h2 { "Percentiles" }
            table.numbers {
                tr { th scope="col" { "percentile" } th scope="col" { "latency" } th scope="col" { "messages above" } }
                @for percent in rows {
                    tr {
                        th scope="row" { (percent) " %" }
                        td { (Micros(quantile_us(latency, percent / 100.0))) }
                        td { (Grouped((count * (1.0 - percent / 100.0)).floor())) }
                    }
                }
                @if latency.is_empty() {
                    tr { th scope="row" { (NOTHING_CAME_BACK) } td { "–" } td { "–" } }
                } @else {
                    tr { th scope="row" { "maximum" } td { (Micros(us(latency.max()))) } td { "0" } }
                    tr { th scope="row" { "mean" } td { (Micros(latency.mean() / 1e3)) } td {} }
                }
            }
        }
    }
}

fn headlines(report: &Report) -> Vec<(&'static str, String)> {
    let time = |us: f64| Micros(us).to_string();
    let mut figures = vec![("messages a second", Grouped(report.messages_per_second).to_string())];
    match report.latency_us {
        Some(Latency { p50, p99, p999, max, .. }) => {
            let named = [("p50", p50), ("p99", p99), ("p99.9", p999), ("maximum", max)];
            figures.extend(named.map(|(name, us)| (name, time(us))));
        }
        None => figures.push(("latency", NOTHING_CAME_BACK.to_owned())),
    }
    // In a churn a message is a connection, with all that makes and ends it.
    let [server, client] = match report.connections_per_second {
        Some(_) => ["server CPU a connection", "generator CPU a connection"],
        None => ["server CPU a message", "generator CPU a message"],
    };
    figures.extend(report.server_cpu_us_per_message.map(|us| (server, time(us))));
    figures.extend(report.client_cpu_us_per_message.map(|us| (client, time(us))));
    figures.extend(
        report
            .server_bytes_per_connection
            .map(|bytes| ("server bytes a connection", Grouped(bytes).to_string())),
    );
    figures.push(("errors", Grouped(report.errors_total as f64).to_string()));
    figures.push(("echoes checked", Grouped(report.echoes_checked as f64).to_string()));
    figures
}

fn errors(report: &Report) -> Section {
    let counts = report.errors.iter().map(|(kind, count)| (kind.clone(), Grouped(*count as f64).to_string()));
    Section { title: "Errors", rows: counts.chain(examples(&report.error_examples)).collect() }
}

fn examples(examples: &[String]) -> impl Iterator<Item = (String, String)> {
    examples.iter().map(|example| ("for example".to_owned(), example.clone()))
}

fn reconnects(report: &Report) -> Section {
    let counts = report.reconnects.map(|count| ("connections opened again".to_owned(), count));
    let causes = report.reconnect_causes.iter().map(|(kind, count)| (kind.clone(), *count));
    let rows =
        counts.into_iter().chain(causes).map(|(name, count)| (name, Grouped(count as f64).to_string()));
    Section { title: "Reconnects", rows: rows.chain(examples(&report.reconnect_examples)).collect() }
}

fn search(report: &Report) -> Section {
    let rows = report.find_max.as_ref().map(|search| {
        let verdict = std::iter::once(("found".to_owned(), search.verdict()));
        verdict.chain(search.rows()).collect()
    });
    Section { title: "Search for the highest rate", rows: rows.unwrap_or_default() }
}

fn settings(report: &Report) -> Section {
    let pace = match (report.rate_target, report.arrivals) {
        (Some(rate), Some(arrivals)) => {
            format!("{}, {} a second, {arrivals} arrivals", report.pace, Grouped(rate))
        }
        _ => report.pace.to_owned(),
    };
    let cores: Vec<_> = report.pinned_to.iter().map(usize::to_string).collect();
    let spinning = match (report.spin, report.client.is_bottleneck) {
        (false, _) => "no".to_owned(),
        (true, Some(_)) => "yes".to_owned(),
        (true, None) => format!("yes: {BOTTLENECK_UNKNOWN}"),
    };
    let mut rows = vec![
        ("target", report.target.clone()),
        ("addresses", report.reached().join(", ")),
        ("messages", report.traffic.clone()),
        ("file", report.file.clone().unwrap_or_else(|| "none".into())),
        ("pace", pace),
        ("connections", report.connections.to_string()),
        (
            "in flight on each",
            report.depth.map_or_else(|| "as many as are due".to_owned(), |depth| depth.to_string()),
        ),
        ("threads", report.threads.to_string()),
        ("engine", report.engine.clone()),
        ("cores", if cores.is_empty() { "any".into() } else { cores.join(", ") }),
        ("opened over", format!("{} s", Seconds(report.ramp_seconds))),
        ("local addresses", report.source.clone().unwrap_or_else(|| "the system's choice".into())),
        ("spinning", spinning),
        ("congestion control", report.congestion.clone()),
        ("command line", shell_words::join(&report.command_line)),
    ];
    if let Some(lateness) = report.lateness_us {
        let [p50, p99, max] = [lateness.p50, lateness.p99, lateness.max].map(Micros);
        rows.push(("lateness of the generator", format!("p50 {p50}, p99 {p99}, max {max}")));
    }
    Section { title: "Settings", rows: named(rows) }
}

fn machine(report: &Report) -> Section {
    let machine = &report.machine;
    let rows = vec![
        ("CPU", machine.cpu.clone().unwrap_or_else(|| "unknown".into())),
        ("cores", machine.cores.to_string()),
        ("kernel", format!("{} {}", machine.system, machine.kernel)),
        ("loadtest", report.version.to_owned()),
        ("commit", report.commit.unwrap_or("unknown").to_owned()),
    ];
    Section { title: "Machine", rows: named(rows) }
}

fn named(rows: Vec<(&str, String)>) -> Vec<(String, String)> {
    rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Points of a curve over time: more cannot be told apart on a page.
const POINTS_MAX: usize = 600;

/// The least that the scale of rates ends with.
const RATE_MAX_MIN: f64 = 6.0;

/// Points of the percentile curve from one nine to the next.
const CURVE_STEPS_A_NINE: f64 = 40.0;

/// Of the table; those that no message is above are left out.
const PERCENTILES: [f64; 11] = [1.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99, 99.999];

const WIDE: (u32, u32) = (880, 320);
const NARROW: (u32, u32) = (360, 260);

const STYLE: &str = "
:root { color-scheme: light dark; --back: #F6F7F9; --card: #FFFFFF; --ink: #1B2027; --soft: #5B6470;
  --edge: #E3E6EA; --alarm: #FDECEE; --alarm-ink: #8F1D2C }
@media (prefers-color-scheme: dark) {
  :root { --back: #12161B; --card: #1A2027; --ink: #E8ECF1; --soft: #9AA4B1;
    --edge: #2C333D; --alarm: #3A1B21; --alarm-ink: #FFB3BA }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 3rem; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere }
h2 { font-size: 1.05rem; margin: 0 0 .6rem }
header { margin-bottom: 1.2rem }
header p { margin: .3rem 0 0; color: var(--soft) }
.warning { margin: 0 0 .8rem; padding: .6rem 1rem; border-radius: 8px; background: var(--alarm); color: var(--alarm-ink) }
.headlines { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: .7rem; margin: 0 0 1rem }
.headlines div, section { background: var(--card); border: 1px solid var(--edge); border-radius: 10px }
.headlines div { padding: .7rem 1rem; display: flex; flex-direction: column-reverse;
  justify-content: flex-end }
dt { color: var(--soft); font-size: .85rem }
dd { margin: 0; font-size: 1.4rem; font-weight: 600; font-variant-numeric: tabular-nums }
section { padding: 1rem; margin-bottom: 1rem }
figure { margin: 0 }
figure svg { display: block; width: 100%; height: auto }
.narrow { display: none }
table { border-collapse: collapse; width: 100%; font-size: .95rem; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .5rem; text-align: left; vertical-align: top; font-weight: 400; overflow-wrap: anywhere;
  border-top: 1px solid var(--edge) }
tr:first-child > * { border-top: 0 }
th { color: var(--soft); width: 14rem }
.numbers th[scope=col], .numbers td { text-align: right; width: auto }
.numbers th:first-child { text-align: left }
@media (max-width: 40rem) {
  .wide { display: none }
  .narrow { display: block }
  .headlines { grid-template-columns: repeat(2, 1fr) }
  th { width: 8.5rem }
}
";
