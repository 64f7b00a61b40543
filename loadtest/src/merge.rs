//! `loadtest merge`: the histograms of several runs as one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::output::figures::{Grouped, Micros, Rate, Seconds};
use crate::output::file::OutputFile;
use crate::output::hdr::{self, Dated, Log};
use crate::output::html::{Page, Section};
use crate::output::report::{Latency, Spread};
use crate::output::series::Slice;
use crate::output::text::NOTHING_CAME_BACK;
use crate::packed::Packed;
use crate::run::Failure;

/// The options of `loadtest merge`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// HdrHistogram interval logs of nanoseconds, such as --hdr writes; intervals with tags are left out
    #[arg(required = true, value_name = "LOG")]
    logs: Vec<PathBuf>,

    /// Write the merged log
    #[arg(long, value_name = "FILE")]
    hdr: Option<PathBuf>,

    /// Write a page with charts
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// Merges, and prints the percentiles.
///
/// # Errors
///
/// A file cannot be read or written, or is no log of histograms.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut logs = Vec::new();
    for path in &args.logs {
        let log = std::fs::read(path).map_err(|error| error.to_string()).and_then(|bytes| hdr::read(&bytes));
        logs.push((path.as_path(), log.map_err(|error| usage(path, &error))?));
    }
    check_units(&logs)?;
    let open = |path: &Option<PathBuf>| path.as_deref().map(OutputFile::open).transpose();
    let (hdr_file, html_file) = (open(&args.hdr)?, open(&args.html)?);
    let merged = Merged::new(logs);
    for note in &merged.notes {
        say!("loadtest: {note}");
    }
    let printed = crate::print(&if args.json { merged.to_json() } else { merged.to_text() });
    let log = || hdr::to_log(&merged.slices, merged.began, &merged.about());
    let hdr = hdr_file.map_or(Ok(()), |file| file.write(log().as_bytes()));
    let html = html_file.map_or(Ok(()), |file| file.write(merged.to_html().as_bytes()));
    printed.and(hdr).and(html)
}

/// All logs together.
struct Merged {
    logs: Vec<String>,
    /// What was left out or assumed.
    notes: Vec<String>,
    /// The earliest beginning.
    began: SystemTime,
    /// From there to the latest end.
    window: Duration,
    /// Without those in which nobody counted.
    slices: Vec<Slice>,
    /// In nanoseconds.
    latency: Histogram<u64>,
    /// Latencies that are in none of the histograms.
    missing: u64,
}

/// The JSON object.
#[derive(Serialize)]
struct Summary<'a> {
    logs: &'a [String],
    notes: &'a [String],
    began: String,
    /// From the earliest beginning to the latest end.
    duration_seconds: f64,
    /// How many the logs have. A log of a closed loop has those of the messages that came back in its window, one of an
    /// open loop those of the messages that were due in it.
    latencies: u64,
    latencies_per_second: f64,
    /// Null where nothing came back.
    latency_us: Option<Latency>,
    /// Null: no log has them.
    errors: (),
    series: Vec<Stretch>,
}

/// A stretch of time, mostly a second.
#[derive(Serialize)]
struct Stretch {
    /// Whole seconds before it.
    second: u64,
    latencies_per_second: f64,
    /// Null where there are none.
    latency_us: Option<Spread>,
    errors: (),
}

impl Merged {
    /// Adds the intervals of all logs that were at the same time. Logs without a date begin with the earliest other
    /// one.
    fn new(logs: Vec<(&Path, Log)>) -> Self {
        let mut notes = Vec::new();
        let dated = logs.iter().filter(|(_, log)| !log.is_undated);
        let earliest = dated.filter_map(|(_, log)| log.start()).min().unwrap_or_default();
        let names = logs.iter().map(|(path, _)| path.display().to_string()).collect();
        // Slices are as long as the intervals, which mostly are of a second, and as those of the log with the longest.
        let lengths = logs.iter().filter_map(|(_, log)| log.length());
        let grid = lengths.max().unwrap_or_default().max(GRID_MIN);
        notes.extend(foreign_unit(&logs));
        // The finest of all: no value is told less precisely than its log has it.
        let low = logs.iter().map(|(_, log)| log.low).min().unwrap_or(1);
        let digits = logs.iter().map(|(_, log)| log.digits).max().unwrap_or(0);
        let mut none = Histogram::new_with_bounds(low, low * 2, digits).expect("a log has such a histogram");
        none.auto(true);
        let mut missing = 0_u64;
        let mut spans = Vec::new();
        let mut intervals = Vec::new();
        for (path, log) in logs {
            if log.missing > 0 {
                notes.push(format!("{}: {} latencies over 60 s are missing", path.display(), log.missing));
                missing = missing.saturating_add(log.missing);
            }
            if log.tagged > 0 {
                notes.push(format!("{}: {} intervals with tags are left out", path.display(), log.tagged));
            }
            let mut shift = Duration::ZERO;
            if log.is_undated {
                notes.push(format!("{} has no date: it is taken to begin with the others", path.display()));
                shift = earliest.saturating_sub(log.start().unwrap_or_default());
            }
            spans.extend(log.start().zip(log.end()).map(|(start, end)| (start + shift, end + shift, path)));
            intervals.extend(log.intervals.into_iter().map(|mut interval| {
                interval.start += shift;
                interval
            }));
        }
        notes.extend(gaps(spans));
        let origin = intervals.iter().map(|interval| interval.start).min().unwrap_or_default();
        let end = intervals.iter().map(Dated::end).max().unwrap_or_default();
        let mut slots: BTreeMap<u128, Vec<Dated>> = BTreeMap::new();
        for interval in intervals {
            // The interval is where its middle is: clocks of several machines never start at the same instant.
            let middle = interval.start - origin + interval.length / 2;
            slots.entry(middle.as_nanos() / grid.as_nanos()).or_default().push(interval);
        }
        let mut latency = none.clone();
        let slices = slots.into_iter().map(|(slot, together)| {
            let start = together.iter().map(|interval| interval.start).min().unwrap_or_default();
            let end = together.iter().map(Dated::end).max().unwrap_or_default();
            let mut sum = none.clone();
            for interval in together {
                sum.add(interval.histogram.unpack()).expect("it grows as needed");
            }
            latency.add(&sum).expect("it grows as needed");
            Slice {
                start: grid * u32::try_from(slot).unwrap_or(u32::MAX),
                length: (end - start).clamp(GRID_MIN, grid),
                messages: sum.len(),
                errors: 0,
                latency: Packed::new(&sum),
            }
        });
        let slices = slices.collect();
        let began = SystemTime::UNIX_EPOCH + origin;
        Self { logs: names, notes, began, window: (end - origin).max(GRID_MIN), slices, latency, missing }
    }

    /// The comments at the top of its log.
    fn about(&self) -> String {
        let mut about = "[Merged by loadtest]".to_owned();
        if self.missing > 0 {
            about.push('\n');
            about.push_str(&hdr::missing_comment(self.missing));
        }
        about
    }

    fn latencies_per_second(&self) -> f64 {
        self.latency.len() as f64 / self.window.as_secs_f64().max(1e-9)
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        let count = self.logs.len();
        let logs = if count == 1 { "log" } else { "logs" };
        let began = humantime::format_rfc3339_millis(self.began);
        let _ = writeln!(
            text,
            "merged     {count} {logs}, {} s from {began}",
            Seconds(self.window.as_secs_f64())
        );
        let _ = writeln!(
            text,
            "latencies  {} ({} a second)",
            self.latency.len(),
            Rate(self.latencies_per_second())
        );
        match Latency::new(&self.latency) {
            Some(latency) => drop(write!(text, "{latency}")),
            None => drop(writeln!(text, "latency    {NOTHING_CAME_BACK}")),
        }
        text
    }

    fn to_json(&self) -> String {
        let summary = Summary {
            logs: &self.logs,
            notes: &self.notes,
            began: humantime::format_rfc3339_millis(self.began).to_string(),
            duration_seconds: self.window.as_secs_f64(),
            latencies: self.latency.len(),
            latencies_per_second: self.latencies_per_second(),
            latency_us: Latency::new(&self.latency),
            errors: (),
            series: self.slices.iter().map(Stretch::new).collect(),
        };
        serde_json::to_string(&summary).expect("strings, numbers and lists of them") + "\n"
    }

    fn to_html(&self) -> String {
        let time =
            |quantile| Micros(crate::output::figures::quantile_us(&self.latency, quantile)).to_string();
        let logs = self.logs.iter().map(|log| ("log".to_owned(), log.clone()));
        Page {
            title: "Merged runs".into(),
            subtitle: format!(
                "{}, {} s",
                humantime::format_rfc3339_millis(self.began),
                Seconds(self.window.as_secs_f64())
            ),
            warnings: self.notes.clone(),
            headlines: vec![
                ("latencies a second", Grouped(self.latencies_per_second()).to_string()),
                ("p50", time(0.5)),
                ("p99", time(0.99)),
                ("p99.9", time(0.999)),
                ("maximum", time(1.0)),
                ("latencies", Grouped(self.latency.len() as f64).to_string()),
            ],
            rate: "latencies a second",
            latency: &self.latency,
            slices: &self.slices,
            window: self.window,
            sections: vec![Section { title: "Logs", rows: logs.collect() }],
        }
        .to_html()
    }
}

impl Stretch {
    fn new(slice: &Slice) -> Self {
        Self {
            second: slice.start.as_secs(),
            latencies_per_second: slice.rate(),
            latency_us: Spread::new(&slice.latency.unpack()),
            errors: (),
        }
    }
}

/// Where logs do not overlap in time: they are of runs that were not together, and no rate is that of one of them.
fn gaps(mut spans: Vec<(Duration, Duration, &Path)>) -> Vec<String> {
    spans.sort();
    let mut gaps = Vec::new();
    let mut ended: Option<Duration> = None;
    for (start, end, path) in spans {
        if let Some(gap) = ended.and_then(|ended| start.checked_sub(ended)) {
            let (path, gap) = (path.display(), Seconds(gap.as_secs_f64()));
            gaps.push(format!(
                "{path} begins {gap} s after those before it have ended: rates are of the whole time"
            ));
        }
        ended = ended.max(Some(end));
    }
    gaps
}

/// That the values are in another unit than they are taken to be in, where it looks so; [`check_units`] has seen that
/// they agree.
fn foreign_unit(logs: &[(&Path, Log)]) -> Option<String> {
    let (path, divisor) = logs.iter().find_map(|(path, log)| Some((path, log.divisor?)))?;
    (divisor != hdr::NS_PER_MS).then(|| {
        let path = path.display();
        format!(
            "{path}: its values do not look like nanoseconds: {divisor} of them are one of its maxima's column, which \
             is usually of milliseconds"
        )
    })
}

/// Refuses to add what was not counted in the same unit.
fn check_units(logs: &[(&Path, Log)]) -> Result<(), Failure> {
    let mut known = logs.iter().filter_map(|(path, log)| Some((*path, log.divisor?)));
    let Some((first, divisor)) = known.next() else {
        return Ok(());
    };
    match known.find(|(_, other)| *other != divisor) {
        None => Ok(()),
        Some((path, other)) => {
            let first = first.display();
            let error = format!(
                "its unit is not that of {first}: {other} of its values are one of its maxima's column, there {divisor}"
            );
            Err(usage(path, &error))
        }
    }
}

fn usage(path: &Path, error: &str) -> Failure {
    Failure::Usage(format!("{}: {error}", path.display()))
}

/// The shortest slice.
const GRID_MIN: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    /// A log with one message a given number of milliseconds after 2023 in each interval.
    fn log(starts_ms: &[u64], length_ms: u64, is_undated: bool) -> Log {
        let day = if is_undated { 0 } else { 1_700_000_000_000 };
        let intervals = starts_ms.iter().map(|start| {
            let mut histogram = Histogram::new(3).expect("three digits");
            histogram.record(1_000_000).expect("it grows");
            let [start, length] = [day + start, length_ms].map(Duration::from_millis);
            Dated { start, length, histogram: Packed::new(&histogram) }
        });
        Log {
            intervals: intervals.collect(),
            is_undated,
            tagged: 0,
            divisor: Some(1e6),
            missing: 0,
            low: 1,
            digits: 3,
        }
    }

    fn merged(logs: Vec<Log>) -> Merged {
        Merged::new(logs.into_iter().map(|log| (Path::new("x.hdr"), log)).collect())
    }

    fn starts(merged: &Merged) -> Vec<(u64, u64)> {
        merged.slices.iter().map(|slice| (slice.start.as_secs(), slice.messages)).collect()
    }

    #[test]
    fn intervals_are_added_where_they_were_at_the_same_time() {
        let together =
            merged(vec![log(&[300, 1300, 2300], 1000, false), log(&[700, 1700, 2700], 1000, false)]);
        assert_eq!(starts(&together), [(0, 2), (1, 2), (2, 2)]);
        assert_eq!(together.window, Duration::from_millis(3400));
        assert_eq!(together.latency.len(), 6);
        let apart = merged(vec![log(&[0, 1000], 1000, false), log(&[60_000, 61_000], 1000, false)]);
        assert_eq!(starts(&apart), [(0, 1), (1, 1), (60, 1), (61, 1)]);
        assert_eq!(apart.window, Duration::from_secs(62));
        assert!(together.notes.is_empty(), "{:?}", together.notes);
        assert!(apart.notes.len() == 1 && apart.notes[0].contains("begins 58 s after"), "{:?}", apart.notes);
    }

    #[test]
    fn rates_are_right_where_intervals_differ_in_length() {
        let seconds: Vec<_> = (0..15).map(|second| second * 1000).collect();
        let mixed = merged(vec![log(&seconds, 1000, false), log(&[0], 10_000, false)]);
        let rates: Vec<_> = mixed.slices.iter().map(|slice| (slice.start.as_secs(), slice.rate())).collect();
        assert_eq!(rates, [(0, 1.1), (10, 1.0)]);
    }

    #[test]
    fn a_log_without_a_date_begins_with_the_others() {
        let both = merged(vec![log(&[0, 1000], 1000, true), log(&[300, 1300], 1000, false)]);
        assert_eq!(starts(&both), [(0, 2), (1, 2)]);
        assert_eq!(both.began, SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_300));
        assert!(both.notes[0].contains("no date"), "{:?}", both.notes);
        assert_eq!(starts(&merged(vec![log(&[0, 1000], 1000, true)])), [(0, 1), (1, 1)]);
    }

    #[test]
    fn units_have_to_agree() {
        let path = Path::new("x.hdr");
        let with = |divisor| (path, Log { divisor, ..log(&[0], 1000, false) });
        assert_eq!(check_units(&[with(Some(1e6)), with(None), with(Some(1e6))]), Ok(()));
        assert!(check_units(&[with(None), with(Some(1e6)), with(Some(1e3))]).is_err());
    }

    #[test]
    fn what_the_logs_lack_is_told_and_handed_on() {
        let lacks = |missing| Log { missing, ..log(&[0], 1000, false) };
        let merged = merged(vec![lacks(2), lacks(0), lacks(5)]);
        assert_eq!(
            merged.notes,
            [2, 5].map(|count| format!("x.hdr: {count} latencies over 60 s are missing"))
        );
        assert!(merged.about().ends_with("\n[7 latencies over 60 s are missing]"), "{}", merged.about());
        let object: serde_json::Value = serde_json::from_str(&merged.to_json()).expect("JSON");
        assert!(object["errors"].is_null() && object["series"][0]["errors"].is_null(), "{object}");
        assert_eq!(object["latencies"], 3);
    }

    #[test]
    fn the_finest_log_is_told_as_it_is() {
        let of_digits = |digits: u8, value: u64| {
            let mut histogram =
                Histogram::new_with_bounds(10_u64.pow(5 - u32::from(digits)), 1 << 30, digits)
                    .expect("bounds");
            histogram.record(value).expect("in bounds");
            let mut log = log(&[0], 1000, false);
            (log.low, log.digits) = (histogram.low(), digits);
            log.intervals[0].histogram = Packed::new(&histogram);
            log
        };
        let merged = merged(vec![of_digits(1, 1_000_000), of_digits(4, 123_456_789)]);
        assert_eq!((merged.latency.sigfig(), merged.latency.low()), (4, 10));
        assert!(merged.latency.max().abs_diff(123_456_789) < 12_345, "{}", merged.latency.max());
        let slice = merged.slices[0].latency.unpack();
        assert_eq!((slice.len(), slice.max()), (2, merged.latency.max()));
    }

    #[test]
    fn another_unit_is_told_of_a_log_alone() {
        let of_micros = merged(vec![Log { divisor: Some(1e3), ..log(&[0], 1000, false) }]);
        assert!(
            of_micros.notes[0].contains("do not look like nanoseconds: 1000 of"),
            "{:?}",
            of_micros.notes
        );
        let unknown = merged(vec![Log { divisor: None, ..log(&[0], 1000, false) }]);
        assert!(unknown.notes.is_empty(), "{:?}", unknown.notes);
    }
}
