//! Interval logs of HdrHistogram: a histogram for each second, which plotters read and which can be added up.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{
    IntervalLogIterator, IntervalLogWriterBuilder, LogEntry, LogIteratorError,
};
use hdrhistogram::serialization::{Deserializer, V2DeflateSerializer};

use super::report::Report;
use super::series::Slice;
use crate::packed::Packed;

/// The log of a run.
pub(crate) fn of_report(report: &Report) -> String {
    let mut about = format!("[Latencies of echoes by loadtest {} from {}]", report.version, report.target);
    if report.latency_unrecorded > 0 {
        about.push('\n');
        about.push_str(&missing_comment(report.latency_unrecorded));
    }
    to_log(&report.raw.slices, report.raw.began, &about)
}

/// The comment that so many latencies are in no histogram.
pub(crate) fn missing_comment(count: u64) -> String {
    format!("[{count}{MISSING}")
}

/// The log of slices that are counted from `began`.
pub(crate) fn to_log(slices: &[Slice], began: SystemTime, about: &str) -> String {
    let mut log = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    // A line end would end the comment, and the target is the user's.
    let about: Vec<_> = about.lines().map(|line| line.replace(char::is_control, " ")).collect();
    let header = IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment(&about.join("\n"))
        .add_comment("[Values are in nanoseconds, the column Interval_Max is in milliseconds]")
        .with_base_time(began)
        .with_start_time(began)
        .begin_log_with(&mut log, &mut serializer)
        .map(drop);
    header.expect(MEMORY_TAKES_IT);
    // What HdrHistogram's own writer puts above the intervals, and the crate's does not.
    log.extend_from_slice(LEGEND);
    let mut writer = IntervalLogWriterBuilder::new()
        .with_max_value_divisor(NS_PER_MS)
        .begin_log_with(&mut log, &mut serializer)
        .expect(MEMORY_TAKES_IT);
    for slice in slices {
        writer
            .write_histogram(&slice.latency.unpack(), slice.start, slice.length, None)
            .expect(MEMORY_TAKES_IT);
    }
    String::from_utf8(log).expect("it is all ASCII but for the comments, which are text")
}

/// A log that was read.
pub(crate) struct Log {
    /// Its intervals, each with when it began; since 1970 unless `is_undated`.
    pub(crate) intervals: Vec<Dated>,
    /// Whether it does not say when its intervals were.
    pub(crate) is_undated: bool,
    /// Intervals of another series, which are left out.
    pub(crate) tagged: usize,
    /// How many of the histograms' units are one of the column of maxima, as a power of ten; `None` where no interval
    /// tells.
    pub(crate) divisor: Option<f64>,
    /// Latencies that were too long for it, as far as it says.
    pub(crate) missing: u64,
    /// The lowest value that any of its histograms tells from 0.
    pub(crate) low: u64,
    /// The most digits that any of them keeps.
    pub(crate) digits: u8,
}

impl Log {
    /// When its first interval began.
    pub(crate) fn start(&self) -> Option<Duration> {
        self.intervals.iter().map(|interval| interval.start).min()
    }

    /// When its last interval ended.
    pub(crate) fn end(&self) -> Option<Duration> {
        self.intervals.iter().map(Dated::end).max()
    }

    /// How long its intervals mostly are.
    pub(crate) fn length(&self) -> Option<Duration> {
        let mut lengths: Vec<_> = self.intervals.iter().map(|interval| interval.length).collect();
        lengths.sort_unstable();
        lengths.get(lengths.len() / 2).copied()
    }
}

impl Dated {
    /// When it ended.
    pub(crate) fn end(&self) -> Duration {
        self.start.saturating_add(self.length)
    }
}

/// An interval of a log.
pub(crate) struct Dated {
    /// When it began.
    pub(crate) start: Duration,
    /// How long it was.
    pub(crate) length: Duration,
    /// What came in it: an hour has 3,600 of them.
    pub(crate) histogram: Packed,
}

/// Reads a log.
///
/// # Errors
///
/// It is none: what is wrong, and where.
pub(crate) fn read(bytes: &[u8]) -> Result<Log, String> {
    let mut deserializer = Deserializer::new();
    let (mut base, mut started) = (None, None);
    let mut log = Log {
        intervals: Vec::new(),
        is_undated: false,
        tagged: 0,
        divisor: None,
        missing: 0,
        low: u64::MAX,
        digits: 0,
    };
    let mut divisors = Vec::new();
    for (at, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
        log.missing = log.missing.saturating_add(missing(line).unwrap_or(0));
        // Nothing of a comment, one entry of another line.
        match IntervalLogIterator::new(line).next() {
            None => {}
            Some(Err(LogIteratorError::ParseError { .. })) => {
                return Err(format!("line {} is not that of an interval log", at + 1));
            }
            Some(Ok(LogEntry::BaseTime(time))) => base = Some(time),
            Some(Ok(LogEntry::StartTime(time))) => started = Some(time),
            Some(Ok(LogEntry::Interval(interval))) if interval.tag().is_some() => log.tagged += 1,
            Some(Ok(LogEntry::Interval(interval))) => {
                let histogram = decode(interval.encoded_histogram(), &mut deserializer)
                    .map_err(|error| format!("line {} has no histogram: {error}", at + 1))?;
                if interval.max() > 0.0 && !histogram.is_empty() {
                    divisors.push((histogram.max() as f64 / interval.max()).log10().round());
                }
                let start = begun(interval.start_timestamp(), base, started);
                log.is_undated |= start < A_YEAR;
                log.low = log.low.min(histogram.low());
                log.digits = log.digits.max(histogram.sigfig());
                let histogram = Packed::new(&histogram);
                let dated = Dated { start, length: interval.duration(), histogram };
                if dated.end() > YEAR_10000 {
                    return Err(format!("line {} ends after the year 9999", at + 1));
                }
                log.intervals.push(dated);
            }
        }
    }
    if log.intervals.is_empty() {
        return Err(match log.tagged {
            0 => "it has no intervals".into(),
            tagged => format!("its {tagged} intervals all have tags"),
        });
    }
    divisors.sort_by(f64::total_cmp);
    log.divisor = divisors.get(divisors.len() / 2).map(|exponent| 10_f64.powf(*exponent));
    Ok(log)
}

/// How many latencies are missing, in a line that says so.
fn missing(line: &[u8]) -> Option<u64> {
    let comment = str::from_utf8(line).ok()?.trim_end().strip_prefix("#[")?;
    comment.strip_suffix(MISSING)?.parse().ok()
}

fn decode(text: &str, deserializer: &mut Deserializer) -> Result<Histogram<u64>, String> {
    let bytes = STANDARD.decode(text).map_err(|error| error.to_string())?;
    deserializer.deserialize(&mut &bytes[..]).map_err(|error| error.to_string())
}

/// When an interval began, as HdrHistogram's own reader has it: so long after the base time where there is one; else so
/// long after the start time, unless the stamp is at most a year less than that and so must be a date itself.
fn begun(stamp: Duration, base: Option<Duration>, started: Option<Duration>) -> Duration {
    match (base, started) {
        (Some(base), _) => base.saturating_add(stamp),
        (None, Some(started)) if started > stamp.saturating_add(A_YEAR) => started.saturating_add(stamp),
        _ => stamp,
    }
}

/// Ends the comment on latencies that are missing.
const MISSING: &str = " latencies over 60 s are missing]";

const A_YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// No date of more digits can be written down.
const YEAR_10000: Duration = Duration::from_secs(253_402_300_800);

/// The usual unit of values is the nanosecond and that of maxima the millisecond: HdrHistogram's log processor and
/// analyzer take it for granted.
pub(crate) const NS_PER_MS: f64 = 1e6;

const LEGEND: &[u8] =
    b"\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n";

const MEMORY_TAKES_IT: &str = "memory takes every byte, and the histograms' bounds fit the format";

#[cfg(test)]
mod tests {
    use super::*;

    fn slices() -> Vec<Slice> {
        (0..3_u64)
            .map(|second| {
                let mut latency = Histogram::new_with_bounds(1_000, 60_000_000_000, 3).expect("bounds");
                // The last second is empty.
                for value in 1..=100 * (2 - second) {
                    latency.record(value * 10_000).expect("in bounds");
                }
                Slice {
                    start: Duration::from_secs(second),
                    length: Duration::from_secs(1),
                    messages: latency.len(),
                    errors: 0,
                    latency: Packed::new(&latency),
                }
            })
            .collect()
    }

    fn began() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250)
    }

    #[test]
    fn a_log_is_read_as_it_was_written() {
        let text = to_log(&slices(), began(), "about\nws://h/\u{7}");
        for line in [
            "#[Histogram log format version 1.3]",
            "#ws://h/ ",
            "#[StartTime: 1700000000.250 (seconds since epoch)]",
            "#[BaseTime: 1700000000.250 (seconds since epoch)]",
            "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in {text}");
        }
        // Two milliseconds at most, whatever the histogram rounds them to.
        assert!(text.lines().any(|line| line.starts_with("0.000,1.000,2.00")), "{text}");
        let log = read(text.as_bytes()).expect("a log");
        assert_eq!((log.intervals.len(), log.tagged, log.is_undated), (3, 0, false));
        assert_eq!((log.divisor, log.missing, log.low, log.digits), (Some(1e6), 0, 1_000, 3));
        let missing = to_log(&slices(), began(), &format!("about\n{}", missing_comment(12)));
        assert_eq!(read(missing.as_bytes()).expect("a log").missing, 12);
        for (dated, slice) in log.intervals.iter().zip(slices()) {
            assert_eq!(dated.start, Duration::from_millis(1_700_000_000_250) + slice.start);
            assert_eq!(dated.length, slice.length);
            assert_eq!(dated.histogram.unpack(), slice.latency.unpack());
        }
    }

    #[test]
    fn what_is_no_log_is_told_with_its_line() {
        let good = to_log(&slices(), began(), "about");
        let broken = good.replacen("HISTF", "JUSTF", 1);
        let cut = &good[..good.len() - 9];
        let late = good.replace("\n0.000,", "\n18446744073709551615.000,");
        let tagged = good.replace("\n0.000,", "\nTag=a,0.000,").replace("\n1.000,", "\nTag=a,1.000,");
        let tagged = tagged.replace("\n2.000,", "\nTag=b,2.000,");
        for (text, word) in [
            ("", "no intervals"),
            ("# nothing\n", "no intervals"),
            ("<html>\n", "line 1"),
            (&broken, "line 8 has no histogram"),
            (cut, "line 10"),
            (&late, "line 8 ends after the year 9999"),
            (&tagged, "all have tags"),
        ] {
            let error = read(text.as_bytes()).err().unwrap_or_else(|| panic!("no error: {text}"));
            assert!(error.contains(word) && !error.contains('\n'), "{word}: {error}");
        }
    }

    #[test]
    fn times_are_those_of_the_reference() {
        let day = Duration::from_secs(1_700_000_000);
        let second = Duration::from_secs(1);
        assert_eq!(begun(second, Some(day), Some(Duration::ZERO)), day + second);
        assert_eq!(begun(second, None, Some(day)), day + second);
        assert_eq!(begun(day + second, None, Some(day)), day + second);
        assert_eq!(begun(day, None, None), day);
        assert_eq!(begun(second, None, None), second);
    }
}
