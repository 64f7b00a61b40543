//! The result as a page that needs nothing else: no script, no request.

use maud::{DOCTYPE, PreEscaped, html};

use super::Comparison;
use super::chart::{self, Bar, Chart};
use super::judge::{Estimate, Interval, Row, Summary};
use super::markdown::{Told, columns};
use super::words;
use crate::output::figures::capitalised;

/// The page.
pub(crate) fn page(comparison: &Comparison) -> String {
    let names: Vec<_> = comparison.plan.servers.iter().map(|spec| spec.name.as_str()).collect();
    let title = match names.len() {
        1..=4 => format!("{} compared", names.join(", ")),
        count => format!("{count} servers compared"),
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                @if let Some(ended) = comparison.ended() { p { strong { (ended) } } }
                @if !comparison.cells.is_empty() { p { (words::about_intervals(comparison.rounds())) } }
                nav { @for summary in &comparison.cells {
                    a href={ "#" (summary.cell.file_name()) } { (summary.cell) } " "
                } }
                @for summary in &comparison.cells { (section(comparison, summary)) }
                h2 { "How it was measured" }
                table.plain { @for (name, value) in comparison.environment.fields() {
                    tr { th { (name) } td { (value) } }
                } }
                pre { (comparison.environment.command) }
            }
        }
    };
    page.into_string()
}

/// The chart of a cell for documents: absolute, with the ratios in words.
pub(crate) fn chart_for_documents(comparison: &Comparison, summary: &Summary) -> Chart {
    let mut chart = absolute(comparison, summary);
    let baseline = comparison.baseline();
    let interval = if is_sure(comparison) { " (95 % interval)" } else { "" };
    chart.axis = format!("{}; at the right, by {baseline}'s in the same round{interval}", chart.axis);
    for (bar, row) in chart.bars.iter_mut().zip(&summary.rows) {
        if let Some(ratio) = row.ratio(summary.judged_by, 0)
            && row.name != baseline
        {
            bar.note = format!("{} · {}", bar.note, noted(ratio));
        }
    }
    chart
}

fn section(comparison: &Comparison, summary: &Summary) -> PreEscaped<String> {
    let columns = columns(comparison, summary);
    html! {
        section id=(summary.cell.file_name()) {
            h2 { (summary.cell.title()) }
            @for chart in [relative(comparison, summary), absolute(comparison, summary)] {
                figure aria-label=(chart.title) { (PreEscaped(chart::draw(&chart))) }
            }
            ul {
                @for alike in &summary.alike { li { (words::alike(summary, alike)) "." } }
                @for bottleneck in words::bottlenecks(summary) { li { (bottleneck) "." } }
            }
            .scroll { table {
                thead { tr { th { "server" } @for column in &columns { th { (column.title) } } } }
                tbody { @for row in &summary.rows { tr {
                    th { (row.name) }
                    @for column in &columns { td { @match (column.tell)(row) {
                        Told::Nothing => "–",
                        Told::Plain(text) => (text),
                        Told::Ratio { median, interval, is_alike } => {
                            b { (median) } @if let Some(interval) = interval { " " (interval) }
                            @if is_alike { " ≈" }
                        }
                    } } }
                } } }
            } }
        }
    }
}

/// The ratios to the baseline.
fn relative(comparison: &Comparison, summary: &Summary) -> Chart {
    let baseline = comparison.baseline();
    let bars = summary.rows.iter().filter_map(|row| {
        let ratio = row.ratio(summary.judged_by, 0)?;
        let is_reference = row.name == baseline;
        let note = if is_reference { "1".into() } else { noted(ratio) };
        Some(bar(row, ratio, note, is_reference))
    });
    Chart {
        title: format!("{}, to {baseline}", capitalised(&summary.judged_by.title(summary.unit))),
        axis: if is_sure(comparison) {
            "median of the ratios in the same round, and its 95 % interval".into()
        } else {
            "median of the ratios in the same round".into()
        },
        bars: bars.collect(),
        is_ratio: true,
    }
}

/// The figure itself.
fn absolute(comparison: &Comparison, summary: &Summary) -> Chart {
    let figure = summary.judged_by;
    let bars = summary.rows.iter().filter_map(|row| {
        let estimate = row.figures.get(&figure)?;
        let note = words::value(figure, estimate.median);
        let is_reference = row.name == comparison.baseline();
        Some(bar(row, estimate, note, is_reference))
    });
    Chart {
        title: format!("{}: {}", capitalised(&figure.title(summary.unit)), summary.cell.title()),
        axis: format!(
            "{}, median of the slices{}",
            figure.unit(),
            if is_sure(comparison) { " and its 95 % interval" } else { "" }
        ),
        bars: bars.collect(),
        is_ratio: false,
    }
}

fn noted(ratio: &Estimate) -> String {
    format!("{}{}", words::ratio(ratio), if ratio.may_be_one() { " ≈" } else { "" })
}

fn bar(row: &Row, estimate: &Estimate, note: String, is_reference: bool) -> Bar {
    let interval = estimate.interval.map(|Interval { low, high }| [low, high]);
    Bar { name: row.name.clone(), value: estimate.median, interval, note, is_reference }
}

/// Whether there are intervals.
fn is_sure(comparison: &Comparison) -> bool {
    words::too_few(comparison.rounds()).is_none()
}

/// In the dark, the colours of `chart.rs` are replaced.
const STYLE: &str = "
:root { --ground: #fff; --ink: #1f2328; --muted: #59636e; --grid: #d8dee4; --bar: #4c8bd6; --reference: #9aa4af; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14181d; --ink: #e6e9ee; --muted: #9aa4af; --grid: #333a43; --bar: #4c8bd6; --reference: #6b7580; }
}
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--ground); }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; } a { color: var(--bar); }
figure { margin: 1rem 0; } figure svg { width: 100%; height: auto; border: 1px solid var(--grid); border-radius: 6px; }
[fill='#FFFFFF'] { fill: var(--ground); }
[fill='#1F2328'] { fill: var(--ink); } [stroke='#1F2328'] { stroke: var(--ink); }
[fill='#59636E'] { fill: var(--muted); } [stroke='#D8DEE4'] { stroke: var(--grid); }
[fill='#9AA4AF'] { fill: var(--reference); } [stroke='#9AA4AF'] { stroke: var(--reference); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--grid); text-align: right; white-space: nowrap; }
thead th { white-space: normal; vertical-align: bottom; color: var(--muted); font-weight: 600; }
th:first-child { position: sticky; left: 0; background: var(--ground); }
th:first-child, .plain td { text-align: left; } .plain th { color: var(--muted); font-weight: 400; }
pre { overflow-x: auto; padding: .8rem; border: 1px solid var(--grid); border-radius: 6px; font-size: .8rem; }
";
