//! The files of a run: the log of histograms, read by us and by others, and the page.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;

use crate::support::{Peer, Ran, load_ws, loadtest, serve, serve_tungstenite};

#[test]
fn the_log_has_every_latency_that_the_report_has() {
    let folder = Folder::new("log");
    let (ran, path) = logged(&folder, "a.hdr");
    let object = ran.json();
    let (sum, times) = read_log(&path);
    assert_eq!(object["messages"], sum.len());
    assert_eq!(object["latency_us"]["max"], sum.max() as f64 / 1e3);
    assert_eq!(object["latency_us"]["p99"], sum.value_at_quantile(0.99) as f64 / 1e3);
    let began = humantime::parse_rfc3339(object["began"].as_str().expect("a date")).expect("a date");
    let began = began.duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    assert_eq!(times.len(), 2, "a base time and a start time");
    assert!(times.iter().all(|time| time.abs_diff(began).as_millis() <= 1), "{times:?} {began:?}");
}

#[test]
fn another_implementation_reads_the_log() {
    let folder = Folder::new("python");
    let Some(python) = python_with_hdrhistogram() else {
        eprintln!("skipped: the Python package hdrhistogram cannot be installed here");
        return;
    };
    let (_, path) = logged(&folder, "a.hdr");
    let script = "
import sys
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
total = HdrHistogram(1, 60 * 10**9, 3)
reader = HistogramLogReader(sys.argv[1], HdrHistogram(1, 60 * 10**9, 3))
while (interval := reader.get_next_interval_histogram()) is not None:
    total.add(interval)
for item in total.get_recorded_iterator():
    print(item.value_iterated_to, item.count_at_value_iterated_to)
";
    let output = Command::new(python).args(["-c", script]).arg(&path).output().expect("it is there");
    let theirs = String::from_utf8(output.stdout).expect("text");
    let (sum, _) = read_log(&path);
    let ours: Vec<_> = sum
        .iter_recorded()
        .map(|value| format!("{} {}\n", value.value_iterated_to(), value.count_at_value()))
        .collect();
    assert!(!ours.is_empty());
    assert_eq!(ours.concat(), theirs, "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn merged_logs_are_the_sum_of_their_runs() {
    let folder = Folder::new("merge");
    let ((first, a), (second, b)) = (logged(&folder, "a.hdr"), logged(&folder, "b.hdr"));
    let (sum, page) = (folder.path("sum.hdr"), folder.path("sum.html"));
    let (a, b, sum, page) = (text(&a), text(&b), text(&sum), text(&page));
    let ran = loadtest(&["merge", a, b, "--hdr", sum, "--html", page, "--json"]);
    // One after the other.
    assert_eq!((ran.code, ran.stderr.lines().count()), (0, 1), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("b.hdr begins ") && ran.stderr.contains(" after those"), "{}", ran.stderr);
    let object = ran.json();
    let of = |ran: &Ran, field: &str| ran.json()[field].as_f64().expect("a number");
    assert_eq!(object["latencies"].as_f64(), Some(of(&first, "messages") + of(&second, "messages")));
    let max = |object: &Value| object["latency_us"]["max"].as_f64().expect("a number");
    assert!((max(&object) - max(&first.json()).max(max(&second.json()))).abs() < 1e-9 * max(&object));
    assert_eq!(object["logs"], serde_json::json!([a, b]));
    check_page(
        &fs::read_to_string(page).expect("a page"),
        &["Merged runs", "Logs", "Latencies a second over time", a],
    );

    // What was merged can be merged.
    let again = loadtest(&["merge", sum, "--json"]).json();
    assert_eq!((&again["latencies"], &again["latency_us"]), (&object["latencies"], &object["latency_us"]));
    let ran = loadtest(&["merge", a, b]);
    assert!(ran.stdout.starts_with("merged     2 logs, ") && ran.stdout.contains("p99.99"), "{}", ran.stdout);

    // Those of another series are told and left out.
    let log = fs::read_to_string(a).expect("text");
    let tagged: Vec<_> =
        log.lines().filter(|line| line.contains("HISTF")).map(|line| format!("Tag=x,{line}\n")).collect();
    fs::write(b, log + &tagged.concat()).expect("written");
    let ran = loadtest(&["merge", b, "--json"]);
    assert_eq!(ran.json()["latencies"], first.json()["messages"]);
    assert!(ran.stderr.contains("b.hdr: 1 intervals with tags"), "{}", ran.stderr);
}

#[test]
fn what_cannot_be_merged_is_told_in_a_line() {
    let folder = Folder::new("no-merge");
    let (_, a) = logged(&folder, "a.hdr");
    let log = fs::read_to_string(&a).expect("text");
    let page = folder.file("page.hdr", "<html>\n");
    // As if the maxima were in microseconds.
    let line = log.lines().find(|line| line.contains("HISTF")).expect("an interval");
    let fields: Vec<_> = line.split(',').collect();
    let max: f64 = fields[2].parse().expect("a number");
    let other = format!("{},{},{},{}\n", fields[0], fields[1], max * 1e3, fields[3]);
    let micros = folder.file("micros.hdr", &other);
    let missing = folder.path("missing.hdr");
    let out = folder.path("no/folder/out.hdr");
    for (args, word) in [
        (&[text(&missing)][..], "missing.hdr: No such file"),
        (&[text(&a), text(&page)], "page.hdr: line 1"),
        (&[text(&a), text(&micros)], "micros.hdr: its unit is not that of"),
        (&[text(&a), "--hdr", text(&out)], "cannot write"),
        (&[], "LOG"),
    ] {
        let ran = loadtest(&[&["merge"], args].concat());
        assert_eq!((ran.code, ran.stderr.lines().count()), (64, 1), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(word), "{word} in {}", ran.stderr);
    }
}

#[test]
fn the_page_needs_nothing_else_and_escapes_what_it_shows() {
    let folder = Folder::new("page");
    let path = folder.path("<i>&'.html");
    // No library takes such a path.
    let address = serve(|stream| {
        let _ = Peer::accept(stream).and_then(|mut peer| peer.echo(|_, _, _| None));
    });
    let url = format!("ws://{address}/a<b>&c=\"d");
    // A condition that is so is told at the top.
    let args =
        [&url, "-c", "2", "-d", "300ms", "--warmup", "0s", "--html", text(&path), "--fail-if", "p99<59s"];
    let ran = loadtest(&args);
    assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
    let page = fs::read_to_string(&path).expect("a page");
    check_page(
        &page,
        &[
            "Settings",
            "Machine",
            "command line",
            "kernel",
            "commit",
            "Failed: p99&lt;59s",
            "-c 2 -d 300ms",
            "--fail-if 'p99&lt;59s'",
        ],
    );
    assert!(page.contains("/a&lt;b&gt;&amp;c=&quot;d"), "{page}");
    for raw in ["<b>", "<i>", "&c=", "p99<59s"] {
        assert!(!page.contains(raw), "{raw} in {page}");
    }
}

#[test]
fn a_file_that_cannot_be_written_is_told_before_the_load() {
    for option in ["--hdr", "--html"] {
        // Nobody listens there: a load would end with 69.
        let ran = loadtest(&["ws://127.0.0.1:1/", option, "/no/such/folder/file"]);
        assert_eq!((ran.code, ran.stderr.lines().count()), (64, 1), "{}", ran.stderr);
        assert!(ran.stderr.contains("cannot write /no/such/folder/file"), "{}", ran.stderr);
    }
    // The disk is full at the end: the report is printed nevertheless.
    let ran = load_ws(serve_tungstenite(), &["-c", "1", "--hdr", "/dev/full"]);
    assert_eq!((ran.code, ran.stderr.lines().count()), (74, 1), "{}", ran.stderr);
    assert!(ran.stderr.contains("cannot write /dev/full") && ran.echoes() > 0, "{}", ran.stderr);
}

#[test]
fn a_full_disk_is_told_and_takes_nothing() {
    let folder = Folder::new("full");
    let url = format!("ws://{}/", serve_tungstenite());
    let program = env!("CARGO_BIN_EXE_loadtest");
    let load = ["-c", "1", "-d", "100ms", "--warmup", "0s", "--grace", "60s", "--json"];
    let with = |script: &str, args: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", program, &url]).args(load).args(args);
        let output = command.output().expect("there is a shell");
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };

    // Standard output is on a full disk: the files are written nevertheless.
    let page = folder.path("page.html");
    let (code, told) = with("exec \"$@\" > /dev/full", &["--html", text(&page)]);
    assert_eq!((code, told.lines().count()), (Some(74), 1), "{told}");
    assert!(told.contains("cannot write to standard output"), "{told}");
    assert!(fs::read_to_string(&page).expect("a page").ends_with("</html>"));
    // Nobody reads it to its end: that is no failure.
    let (code, told) = with("\"$@\" | true; exit 0", &[]);
    assert_eq!((code, told.as_str()), (Some(0), ""));

    // No file may have more than 16 KiB: a page keeps what it had, and the other one is written.
    let (log, blocked) = (folder.path("a.hdr"), folder.file("old.html", "what was there"));
    let script = "trap '' XFSZ; ulimit -f 32; exec \"$@\"";
    let (code, told) = with(script, &["--hdr", text(&log), "--html", text(&blocked)]);
    assert_eq!((code, told.lines().count()), (Some(74), 1), "{told}");
    assert!(told.contains("old.html: File too large"), "{told}");
    assert_eq!(fs::read_to_string(&blocked).expect("it is there"), "what was there");
    read_log(&log);
    assert_eq!(fs::read_dir(&folder.0).expect("a folder").count(), 3, "nothing else is left");
}

#[test]
fn a_run_that_cannot_be_leaves_no_file() {
    let folder = Folder::new("no-run");
    let ran = loadtest(&["ws://127.0.0.1:1/", "--hdr", text(&folder.path("a.hdr"))]);
    assert_eq!(ran.code, 69, "{}", ran.stderr);
    assert_eq!(fs::read_dir(&folder.0).expect("a folder").count(), 0);
}

/// Loads a server for a moment; the report, and the log.
fn logged(folder: &Folder, name: &str) -> (Ran, PathBuf) {
    let path = folder.path(name);
    let ran = load_ws(serve_tungstenite(), &["-c", "2", "--hdr", text(&path)]);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    (ran, path)
}

/// All of a log's intervals together, and the times in its head.
fn read_log(path: &Path) -> (Histogram<u64>, Vec<Duration>) {
    let log = fs::read(path).expect("a log");
    let mut sum = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).expect("those of a run");
    let mut times = Vec::new();
    for entry in IntervalLogIterator::new(&log) {
        match entry.expect("an entry") {
            LogEntry::BaseTime(time) | LogEntry::StartTime(time) => times.push(time),
            LogEntry::Interval(interval) => {
                assert!(interval.duration() <= Duration::from_secs(1) && interval.tag().is_none());
                let bytes = base64_decode(interval.encoded_histogram());
                let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).expect("V2");
                // The column of maxima is in milliseconds, the values are in nanoseconds.
                assert!((interval.max() - histogram.max() as f64 / 1e6).abs() < 1e-3, "{}", interval.max());
                sum.add(&histogram).expect("it has the same bounds");
            }
        }
    }
    (sum, times)
}

/// The page has its sections and these parts, is for light and dark, and refers to nothing outside of it.
fn check_page(page: &str, parts: &[&str]) {
    let always = ["Latency by percentile", "Latency over time", " a second over time", "Percentiles", "99 %"];
    for part in always.iter().chain(parts) {
        assert!(page.contains(part), "{part} in {page}");
    }
    assert_eq!(
        page.matches("<svg ").count(),
        6,
        "each chart is there twice, for a wide page and for a narrow one"
    );
    assert!(page.contains("prefers-color-scheme: dark") && page.contains("name=\"viewport\""));
    let rest = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for outside in ["http:", "https:", "<script", "<link", "<img", "src=", "href=", "url(", "@import"] {
        assert!(!rest.contains(outside), "{outside} in {page}");
    }
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"));
}

/// An interpreter that has the package, in an environment that is kept.
fn python_with_hdrhistogram() -> Option<PathBuf> {
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-hdrhistogram");
    let python = environment.join("bin/python");
    let succeeds = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    let has_package = || succeeds(Command::new(&python).args(["-c", "import hdrh.log"]));
    let made = has_package()
        || succeeds(Command::new("python3").args(["-m", "venv"]).arg(&environment))
            && succeeds(Command::new(&python).args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "hdrhistogram==0.10.8",
            ]))
            && has_package();
    made.then_some(python)
}

fn base64_decode(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).expect("base64")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// A folder that goes with its test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("loadtest-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("written");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
