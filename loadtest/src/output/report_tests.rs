//! Tests of the report and its schema.

use schemars::generate::SchemaSettings;

use super::*;
use crate::cli::Args;
use crate::procfs::Memory;
use crate::tally::Totals;

/// The schema that is shipped follows from the types; LOADTEST_SCHEMA=write makes the file anew.
#[test]
fn the_schema_is_that_of_the_report() {
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let schema = generator.into_root_schema_for::<Report>();
    let text = serde_json::to_string_pretty(&schema).expect("JSON") + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/report.schema.json");
    if std::env::var_os("LOADTEST_SCHEMA").is_some() {
        std::fs::write(path, &text).expect("the folder is there");
    }
    let shipped = std::fs::read_to_string(path).unwrap_or_default();
    assert!(shipped == text, "{path} is out of date: run this test with LOADTEST_SCHEMA=write");
}

/// A plan for the default window of 10 s.
fn plan(args: &[&str]) -> Plan {
    let args = [&["ws://127.0.0.1:1/", "--engine", "epoll"], args].concat();
    Args::of(&args).plan().expect("nothing is in its way")
}

/// What a run finds in which one message came back in each millisecond of a window that lasted so long. The server had
/// 10 µs of the CPU for each, and the generator 5.
fn outcome(elapsed: Duration) -> Outcome {
    let second = |second: u64| {
        let mut interval = Interval::new(second);
        interval.messages = elapsed.saturating_sub(Duration::from_secs(second)).as_millis().min(1000) as u64;
        interval.latency.record_n(100_000, interval.messages).expect("in its bounds");
        interval
    };
    let mut window = Interval::new(0);
    for second in (0..10).map(second) {
        window.add(&second);
    }
    let used = |us: u32| Duration::from_micros(1) * us * u32::try_from(elapsed.as_millis()).expect("10 s");
    Outcome {
        window,
        series: (0..10).map(|at| second(at).pack()).collect(),
        totals: Totals {
            threads: vec![ThreadUsage { cpu: used(5), waited: Duration::ZERO }],
            ..Totals::default()
        },
        server: Some(ServerUsage {
            cpu: used(10),
            elapsed: elapsed + Duration::from_millis(300),
            user_share: None,
            memory: Memory { resident: 1, resident_max: 2 },
        }),
        held: None,
        began: SystemTime::UNIX_EPOCH,
        elapsed,
        signal: None,
    }
}

fn is_near(value: f64, expected: f64) -> bool {
    (value - expected).abs() < 1e-9 * expected
}

#[test]
fn a_window_that_was_cut_is_as_long_as_it_was() {
    let report = Report::new(&plan(&[]), outcome(Duration::from_millis(1700)));
    assert_eq!((report.duration_seconds, report.duration_planned_seconds), (1.7, Some(10.0)));
    assert_eq!(report.messages, 1700);
    assert!(is_near(report.messages_per_second, 1000.0), "{report}");
    assert!(is_near(report.payload_bytes_per_second, 64_000.0), "{report}");
    assert!(is_near(report.server_cpu_us_per_message.expect("known"), 10.0), "{report}");
    assert!(is_near(report.client.threads_busy[0], 0.005), "{report}");
    let rates: Vec<_> = report.series.iter().map(|second| second.messages_per_second).collect();
    assert!(rates.len() == 2 && rates.iter().all(|&rate| is_near(rate, 1000.0)), "{rates:?}");
    assert!(report.to_string().contains("the window ended after 1.7 s: no connection was left"), "{report}");
}

#[test]
fn a_window_that_went_to_its_end_does_not_depend_on_when_the_clock_was_read() {
    let report = Report::new(&plan(&[]), outcome(Duration::from_secs(10)));
    assert_eq!((report.duration_seconds, report.duration_planned_seconds), (10.0, None));
    // The server's clock was read 0.3 s late, and it went on working.
    let expected = 10.0 * 10.0 / 10.3;
    assert!(is_near(report.server_cpu_us_per_message.expect("known"), expected), "{report}");
    assert_eq!(report.series.len(), 10);
    assert!(!report.to_string().contains("ended after"), "{report}");
}

#[test]
fn a_window_without_a_moment_has_no_figure_that_is_none() {
    let report = Report::new(&plan(&[]), outcome(Duration::ZERO));
    assert_eq!((report.messages, report.messages_per_second), (0, 0.0));
    let all = [report.client.threads_busy[0], report.duration_seconds, report.payload_bytes_per_second];
    assert!(all.iter().all(|figure| figure.is_finite()), "{report}");
    assert_eq!(report.series.len(), 1);
}

#[test]
fn what_came_back_is_held_against_what_was_due() {
    // At 1,000 a second 10,000 are due in 10 s, more or less.
    let plan = plan(&["--rate", "1k", "--arrivals", "poisson"]);
    let kept_up = |due, messages| {
        let mut outcome = outcome(Duration::from_secs(10));
        outcome.window.messages = messages;
        outcome.totals.due = due;
        outcome.totals.lateness = Some(outcome.window.latency.clone());
        let report = Report::new(&plan, outcome);
        assert_eq!(report.due, Some(due));
        report.has_kept_up()
    };
    assert!(kept_up(9_700, 9_700) && kept_up(9_700, 9_504) && kept_up(3, 1) && kept_up(0, 0));
    assert!(!kept_up(10_300, 10_000) && !kept_up(9_700, 9_503) && !kept_up(4, 1));
    let closed = Report::new(&self::plan(&[]), outcome(Duration::from_secs(10)));
    assert_eq!((closed.due, closed.has_kept_up()), (None, true));
}

#[test]
fn nothing_is_no_latency_of_zero() {
    let report = Report::new(&plan(&[]), outcome(Duration::ZERO));
    assert!(report.latency_us.is_none());
    assert!(report.to_json().contains(r#""latency_us":null"#), "{}", report.to_json());
    assert!(report.to_string().contains("latency    nothing came back\n"), "{report}");
    let page = crate::output::html::of_report(&report);
    assert!(page.contains("nothing came back") && !page.contains(">0 µs<"), "{page}");
}

#[test]
fn one_in_ten_thousand_is_told_of_ten_thousand() {
    let told = |elapsed| Report::new(&plan(&[]), outcome(Duration::from_millis(elapsed)));
    let [few, enough] = [9_999, 10_000].map(told);
    let shown = |report: &Report| report.to_string().lines().filter(|line| line.contains('–')).count();
    assert_eq!([&few, &enough].map(shown), [1, 0], "{few}{enough}");
    let latency = few.latency_us.expect("some");
    assert!(is_near(latency.p9999, latency.max), "{latency:?}");
}

#[test]
fn a_generator_that_is_always_busy_or_late_was_the_bottleneck() {
    let judged = |is_late, shares: &[f64]| is_bottleneck(is_late, false, true, shares);
    assert_eq!([0.0, 0.5, 0.89].map(|share| judged(false, &[0.1, share])), [Some(false); 3]);
    assert_eq!([0.9, 1.0].map(|share| judged(false, &[0.1, share])), [Some(true); 2]);
    assert_eq!((judged(true, &[0.1]), judged(false, &[])), (Some(true), Some(false)));

    let late = |us: u64, count| {
        let mut lateness = crate::tally::histogram();
        lateness.record_n(1_000, 1000 - count).expect("in its bounds");
        lateness.record_n(us * 1000, count).expect("in its bounds");
        is_late(&lateness)
    };
    assert_eq!([(990, 1000), (2000, 9), (1010, 11)].map(|(us, count)| late(us, count)), [false, false, true]);
    assert!(!is_late(&crate::tally::histogram()));
}

#[test]
fn busy_says_nothing_of_a_generator_that_spins() {
    let judged = |is_late, has_rate| is_bottleneck(is_late, true, has_rate, &[1.0]);
    assert_eq!(
        (judged(false, true), judged(true, true), judged(false, false)),
        (Some(false), Some(true), None)
    );

    let busy = |args: &[&str]| {
        let mut outcome = outcome(Duration::from_secs(10));
        outcome.totals.threads[0].cpu = Duration::from_secs(10);
        Report::new(&plan(args), outcome)
    };
    let (spinning, sleeping) = (busy(&["--spin"]), busy(&[]));
    assert!(spinning.to_json().contains(r#""is_bottleneck":null"#) && !spinning.is_generator_bottleneck());
    let unknown = "spinning: whether the generator was the bottleneck is not known";
    assert!(spinning.to_string().contains(unknown), "{spinning}");
    assert!(sleeping.is_generator_bottleneck() && !sleeping.to_string().contains(unknown), "{sleeping}");
    assert!(sleeping.to_string().contains("the generator was the bottleneck: "), "{sleeping}");
}

#[test]
fn the_settings_are_told() {
    let source = "127.0.0.1, 127.0.0.4/30";
    let args = ["--spin", "--ramp", "1500ms", "--source", source];
    let report = Report::new(&plan(&args), outcome(Duration::from_secs(10)));
    let object: serde_json::Value = serde_json::from_str(&report.to_json()).expect("JSON");
    let told = ["engine", "spin", "ramp_seconds", "source"].map(|name| &object[name]);
    assert_eq!(serde_json::json!(told), serde_json::json!(["epoll", true, 1.5, source]));
    assert!(report.to_string().contains("1 thread by epoll, "), "{report}");
    let page = crate::output::html::of_report(&report);
    for shown in ["<td>epoll</td>", "<td>1.5 s</td>", source, "<td>yes: whether the generator was"] {
        assert!(page.contains(shown), "{shown} in {page}");
    }
    let report = Report::new(&plan(&[]), outcome(Duration::from_secs(10)));
    assert_eq!((report.spin, report.source), (false, None));
}

#[test]
fn the_page_of_a_churn_is_about_connections() {
    let page = |args: &[&str]| {
        crate::output::html::of_report(&Report::new(&plan(args), outcome(Duration::from_secs(10))))
    };
    for (args, unit, other) in [(&["--churn"][..], "connection", "message"), (&[], "message", "connection")] {
        let page = page(args);
        for whose in ["server", "generator"] {
            assert!(page.contains(&format!("{whose} CPU a {unit}<")), "{page}");
            assert!(!page.contains(&format!("{whose} CPU a {other}<")), "{page}");
        }
    }
}
