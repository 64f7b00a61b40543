//! The result as Markdown: what is printed.

use std::fmt::Write as _;

use super::Comparison;
use super::cell::Load;
use super::judge::{Figure, Row, Summary};
use super::words;

/// All of it. With `charts`, the path of the folder of the charts as a link from the document, each cell has its own.
pub(crate) fn document(comparison: &Comparison, charts: Option<&str>) -> String {
    let mut text = String::new();
    for (name, value) in comparison.environment.fields() {
        let _ = writeln!(text, "- {name}: {value}");
    }
    let _ = writeln!(
        text,
        "- rounds: {} of {}",
        comparison.rounds(),
        humantime::format_duration(comparison.plan.slice)
    );
    if let Some(ended) = comparison.ended() {
        let _ = writeln!(text, "\n{ended}");
    }
    let _ = writeln!(text, "\n```sh\n{}\n```", comparison.environment.command);
    for summary in &comparison.cells {
        let _ = writeln!(text, "\n### {}\n", summary.cell.title());
        if let Some(folder) = charts {
            let alt = format!("{}: {}", summary.cell.title(), summary.judged_by.title(summary.unit));
            let _ = writeln!(text, "![{alt}]({folder}/{})\n", summary.cell.chart_name());
        }
        text.push_str(&table(comparison, summary));
        for alike in &summary.alike {
            let _ = writeln!(text, "\n{}.", words::alike(summary, alike));
        }
        for bottleneck in words::bottlenecks(summary) {
            let _ = writeln!(text, "\n{bottleneck}.");
        }
    }
    if !comparison.cells.is_empty() {
        let _ = writeln!(text, "\n{}", words::about_intervals(comparison.rounds()));
    }
    text
}

/// A column: its title, and what it says of a server.
pub(crate) struct Column<'a> {
    /// The title.
    pub(crate) title: String,
    /// What stands in a row.
    pub(crate) tell: Box<dyn Fn(&Row) -> Told + 'a>,
}

/// What stands in a field of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing is known.
    Nothing,
    /// As it is.
    Plain(String),
    /// A ratio: the median, the interval where there is one, and whether that contains 1.
    Ratio { median: String, interval: Option<String>, is_alike: bool },
}

/// The columns of a cell's table, behind the servers' names.
pub(crate) fn columns<'a>(comparison: &'a Comparison, summary: &'a Summary) -> Vec<Column<'a>> {
    let unit = summary.unit;
    let names: Vec<_> =
        comparison.plan.references.iter().map(|&at| &comparison.plan.servers[at].name).collect();
    let mut columns = Vec::new();
    let mut add = |title: String, tell: Box<dyn Fn(&Row) -> Told + 'a>| columns.push(Column { title, tell });
    let absolute = |figure| -> Box<dyn Fn(&Row) -> Told + 'a> {
        Box::new(move |row: &Row| match row.figures.get(&figure) {
            Some(estimate) => Told::Plain(words::value(figure, estimate.median)),
            None => Told::Nothing,
        })
    };
    let ratio = |figure, reference: usize| -> Box<dyn Fn(&Row) -> Told + 'a> {
        let name = names[reference].clone();
        Box::new(move |row: &Row| match row.ratio(figure, reference) {
            None => Told::Nothing,
            Some(_) if row.name == name => Told::Plain("1".into()),
            Some(estimate) => Told::Ratio {
                median: format!("{:.3}", estimate.median),
                interval: estimate.interval.as_ref().map(words::interval),
                is_alike: estimate.may_be_one(),
            },
        })
    };
    let judged_by = summary.judged_by;
    let sure = if words::too_few(comparison.rounds()).is_none() { " (95 %)" } else { "" };
    add(judged_by.title(unit), absolute(judged_by));
    for (place, name) in names.iter().enumerate() {
        add(format!("to {name}{sure}"), ratio(judged_by, place));
    }
    // What holds connections has no messages.
    let figures: &[_] = match summary.cell.load {
        Load::Idle => &[],
        _ => &[Figure::Cpu, Figure::Rate, Figure::P50, Figure::P99],
    };
    let is_open = matches!(summary.cell.load, Load::Open { .. });
    for &figure in figures {
        if figure == judged_by || !summary.rows.iter().any(|row| row.figures.contains_key(&figure)) {
            continue;
        }
        add(figure.title(unit), absolute(figure));
        // In an open loop the rate is given.
        if summary.cell.figures().contains(&figure) && !(is_open && figure == Figure::Rate) {
            add(format!("{}, to {}{sure}", figure.title(unit), names[0]), ratio(figure, 0));
        }
    }
    if summary.rows.iter().any(|row| row.client_cpu_us_per_message.is_some()) {
        let tell = |row: &Row| {
            row.client_cpu_us_per_message
                .map_or(Told::Nothing, |us| Told::Plain(words::value(Figure::Cpu, us)))
        };
        add(format!("generator CPU a {unit}"), Box::new(tell));
    }
    if summary.rows.iter().any(|row| row.rss_bytes.is_some()) {
        let tell = |row: &Row| row.rss_bytes.map_or(Told::Nothing, |bytes| Told::Plain(words::mib(bytes)));
        add("server RSS".into(), Box::new(tell));
    }
    if summary.rows.iter().any(|row| row.counters_per_message.contains_key(ENTERS)) {
        let tell = |row: &Row| {
            let count = row.counters_per_message.get(ENTERS);
            count.map_or(Told::Nothing, |count| Told::Plain(format!("{count:.3}")))
        };
        add(format!("{ENTERS} a {unit}"), Box::new(tell));
    }
    columns
}

fn table(comparison: &Comparison, summary: &Summary) -> String {
    let columns = columns(comparison, summary);
    let titles: Vec<_> = columns.iter().map(|column| column.title.as_str()).collect();
    let mut text = format!("| server | {} |\n|---|{}\n", titles.join(" | "), "--:|".repeat(columns.len()));
    for row in &summary.rows {
        let fields: Vec<_> = columns
            .iter()
            .map(|column| match (column.tell)(row) {
                Told::Nothing => "–".to_owned(),
                Told::Plain(text) => text,
                Told::Ratio { median, interval, is_alike } => {
                    let interval = interval.map(|interval| format!(" {interval}")).unwrap_or_default();
                    format!("**{median}**{interval}{}", if is_alike { " ≈" } else { "" })
                }
            })
            .collect();
        let _ = writeln!(text, "| {} | {} |", row.name, fields.join(" | "));
    }
    text
}

/// The counter of calls of io_uring_enter(2).
const ENTERS: &str = "enters";
