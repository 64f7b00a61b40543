//! What is measured, judged and told.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::support::{Bench, first_core};

pub(crate) fn ratios_are_taken_to_the_baseline() {
    let bench = Bench::new();
    let ran = bench.compare(
        "",
        &[&bench.option("--json", "report"), &bench.option("--markdown", "tables.md")],
        &[],
    );
    assert_eq!((ran.code(), ran.started), (0, 2), "{}", ran.stderr);
    let report = bench.json("report");
    assert_eq!((&report["baseline"], &report["also_to"]), (&json!("raw"), &Value::Null));
    assert_eq!((&report["rounds"], &report["slice_seconds"]), (&json!(6), &json!(1.5)));
    assert_eq!(report["servers"][1]["scheme"], "tcp");
    let cells = report["cells"].as_array().expect("a list");
    let names: Vec<_> = cells.iter().map(|cell| &cell["cell"]).collect();
    assert_eq!(names, ["text:3:64:1", "utf8:3:16KiB:2"]);
    for cell in cells {
        assert_eq!(cell["unit"], "message");
        let [ours, raw] = [&cell["rows"][0], &cell["rows"][1]];
        assert_eq!((&ours["name"], &raw["name"]), (&json!("ours"), &json!("raw")));
        assert_eq!(ours["ratios"]["cpu"], json!([{"to": "raw", "median": 2.0, "low": 2.0, "high": 2.0}]));
        assert_eq!(ours["ratios"]["rate"][0]["median"], 0.5);
        assert_eq!(ours["ratios"]["p50"][0]["median"], 2.0);
        assert_eq!(raw["ratios"]["cpu"][0]["median"], 1.0);
        assert_eq!(
            (&ours["figures"]["cpu"]["median"], &raw["figures"]["p50"]["median"]),
            (&json!(2.0), &json!(10.0))
        );
        assert_eq!(ours["counters_per_message"], json!({}));
        assert_eq!(cell["alike"], json!([]));
        let rounds = cell["rounds"].as_array().expect("a list");
        assert_eq!(rounds.len(), 6);
        for round in rounds {
            // What the generator printed, whole.
            assert_eq!(round["visits"]["ours"]["something_new"]["is"], "ignored");
            assert_eq!(round["visits"]["raw"]["server_cpu_us_per_message"], 1.0);
        }
    }
    for told in [
        "| ours | 2.00 µs | **2.000** (2.000–2.000) | 500,000/s | **0.500** (0.500–0.500) | 20 µs |",
        "| **2.000** (2.000–2.000) | 50 µs | 1.25 µs | 3.0 MiB |\n",
        "| raw | 1.00 µs | 1 | 1,000,000/s | 1 | 10 µs | 1 | 50 µs |",
        "\nraw: the load generator was the bottleneck in 6 of 6 slices",
        "- kernel: Linux",
        "- CPU: ",
        "- commit: ",
        "- congestion control of the system: ",
        " compare --rounds 6 --slice 1s500ms --warmup 300ms --cells text:3:64:1,utf8:3:16KiB:2 --baseline raw ",
        " --seed 1 ",
        "the middle 95 %",
    ] {
        assert!(ran.stdout.contains(told), "{told} in {}", ran.stdout);
    }
    for absent in ["tables.md", "enters", "\nours: the load", "told apart in this cell", "!["] {
        assert!(!ran.stdout.contains(absent), "{absent} in {}", ran.stdout);
    }
    assert_eq!(bench.text("tables.md"), ran.stdout);
    assert!(!ran.stderr.contains("SIGTERM"), "no server needs more than that: {}", ran.stderr);
    let lines: Vec<_> = ran.stderr.lines().collect();
    assert_eq!(
        &lines[lines.len() - 12..][..2],
        ["round 1 of 6, text:3:64:1", "round 1 of 6, utf8:3:16KiB:2"]
    );
}

pub(crate) fn ratios_are_taken_to_a_second_reference() {
    let bench = Bench::new();
    let ran = bench.compare("", &["--also-to=ours", "--quiet", &bench.option("--json", "report")], &[]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr);
    let report = bench.json("report");
    assert_eq!((&report["baseline"], &report["also_to"]), (&json!("raw"), &json!("ours")));
    let ratios = report["cells"][0]["rows"][1]["ratios"]["cpu"].as_array().expect("a list");
    let ratios: Vec<_> =
        ratios.iter().map(|ratio| (ratio["to"].as_str(), ratio["median"].as_f64())).collect();
    assert_eq!(ratios, [(Some("raw"), Some(1.0)), (Some("ours"), Some(0.5))]);
    for told in [
        "| server | server CPU a message | to raw (95 %) | to ours (95 %) | rate | rate, to raw (95 %) |",
        "| raw | 1.00 µs | 1 | **0.500** (0.500–0.500) | 1,000,000/s",
    ] {
        assert!(ran.stdout.contains(told), "{told} in {}", ran.stdout);
    }
    assert!(!ran.stderr.contains("round"), "{}", ran.stderr);
}

pub(crate) fn equals_are_said_to_be_alike() {
    let bench = Bench::new();
    let [report, page] = [bench.option("--json", "report"), bench.option("--html", "page.html")];
    let ran = bench.compare("", &[&report, &page], &[("EQUAL", "")]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr);
    let sentence =
        "ours and raw cannot be told apart in this cell by server CPU a message: 1.000 (1.000–1.000).";
    assert_eq!(ran.stdout.matches(sentence).count(), 2, "{}", ran.stdout);
    assert!(ran.stdout.contains("| ours | 1.00 µs | **1.000** (1.000–1.000) ≈ |"), "{}", ran.stdout);
    assert!(bench.text("page.html").contains(sentence));
    assert_eq!(bench.json("report")["cells"][0]["alike"][0]["name"], "ours");
}

pub(crate) fn few_rounds_tell_nothing_apart() {
    for (rounds, few) in [("1", "1 round is too few to tell"), ("5", "5 rounds are too few to tell")] {
        let bench = Bench::new();
        let report = bench.option("--json", "report");
        let [page, tables] = [bench.option("--html", "page.html"), bench.option("--markdown", "tables.md")];
        let arguments = ["--rounds", rounds, &report, &page, &tables, &bench.option("--svg", "charts")];
        let ran = bench.compare("", &arguments, &[]);
        assert_eq!(ran.code(), 0, "{}", ran.stderr);
        for told in
            ["| server | server CPU a message | to raw | rate |", "| ours | 2.00 µs | **2.000** | 5", few]
        {
            assert!(ran.stdout.contains(told), "{told} in {}", ran.stdout);
        }
        let told = [ran.stdout, bench.text("page.html"), bench.text("charts/text-3-64-1.svg")];
        for text in &told {
            let text = text.replace("and not a 95 % one", "");
            for claim in ["≈", "(95 %)", "95 % interval", "2.000–", "told apart in this cell"] {
                assert!(!text.contains(claim), "{claim} in {text}");
            }
        }
        assert!(told[1].contains(few) && told[2].contains("2.00 µs · 2.000\n"), "{few} in {}", told[2]);
        let cell = &bench.json("report")["cells"][0];
        assert_eq!(cell["rows"][0]["ratios"]["cpu"], json!([{"to": "raw", "median": 2.0}]));
        assert_eq!(cell["alike"], json!([]));
    }
}

pub(crate) fn a_churn_is_counted_by_connections() {
    let bench = Bench::new();
    let ran = bench.compare("", &["--cells=churn:3", &bench.option("--json", "report")], &[]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr);
    let report = bench.json("report");
    assert_eq!(
        (&report["cells"][0]["cell"], &report["cells"][0]["unit"]),
        (&json!("churn:3"), &json!("connection"))
    );
    for told in
        ["### churn, 3 connections at a time\n", "| server | server CPU a connection | to raw (95 %) |"]
    {
        assert!(ran.stdout.contains(told), "{told} in {}", ran.stdout);
    }
}

pub(crate) fn an_open_loop_is_judged_by_its_latency() {
    let bench = Bench::new();
    let ran = bench.compare("", &["--cells=open:3:64:1000", &bench.option("--json", "report")], &[]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr);
    let cell = &bench.json("report")["cells"][0];
    assert_eq!(cell["judged_by"], "p99");
    assert_eq!(cell["rows"][0]["ratios"]["p50"][0]["median"], 2.0);
    for told in [
        "### open loop, 3 connections, 64 B, 1000 a second\n",
        "| ours | 50 µs | **1.000** (1.000–1.000) ≈ | 2.00 µs |",
        "ours and raw cannot be told apart in this cell by p99: ",
    ] {
        assert!(ran.stdout.contains(told), "{told} in {}", ran.stdout);
    }
}

pub(crate) fn idle_connections_are_held_at_a_fresh_server() {
    let bench = Bench::new();
    let ran = bench.compare("", &["--cells=idle:3", &bench.option("--json", "report")], &[]);
    assert_eq!((ran.code(), ran.started), (0, 12), "{}", ran.stderr);
    let row = &bench.json("report")["cells"][0]["rows"][0];
    assert_eq!(
        (&row["figures"]["memory"]["median"], &row["ratios"]["memory"][0]["median"]),
        (&json!(360.0), &json!(2.0))
    );
    for told in [
        "| server | server memory a connection | to raw (95 %) | generator CPU a connection | server RSS |\n",
        "| ours | 360 B | **2.000** (2.000–2.000) | 1.25 µs | 3.0 MiB |\n",
    ] {
        assert!(ran.stdout.contains(told), "{told} in {}", ran.stdout);
    }
}

pub(crate) fn what_a_server_counts_is_told_a_message() {
    let bench = Bench::new();
    let ran = bench.compare("counts", &["--counters=ours", &bench.option("--json", "report")], &[]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr);
    let cell = &bench.json("report")["cells"][1];
    assert_eq!(cell["rows"][0]["counters_per_message"], json!({"accepted": 0.25, "enters": 0.75}));
    assert_eq!(cell["rows"][1]["counters_per_message"], json!({}));
    for round in cell["rounds"].as_array().expect("a list") {
        assert_eq!(round["visits"]["ours"]["server_counters"], json!({"accepted": 1, "enters": 3}));
    }
    for told in [" | server RSS | enters a message |\n", " | 3.0 MiB | 0.750 |\n", " | 3.0 MiB | – |\n"] {
        assert!(ran.stdout.contains(told), "{told} in {}", ran.stdout);
    }
}

pub(crate) fn what_the_generator_complains_of_is_told_once() {
    let bench = Bench::new();
    let complaints = "loadtest: no ring here\n\nloadtest: slow";
    let ran = bench.compare("", &["--quiet"], &[("COMPLAINTS", complaints)]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr);
    let told: Vec<_> = ran.stderr.lines().filter(|line| !line.contains("share a core")).collect();
    assert_eq!(told, ["loadtest: no ring here", "loadtest: slow"]);
}

pub(crate) fn the_order_follows_from_the_seed() {
    let orders = || {
        let bench = Bench::new();
        let report = bench.option("--json", "report");
        let ran = bench.compare("", &["--rounds=12", "--cells=text:3:64:1", &report], &[]);
        assert_eq!(ran.code(), 0, "{}", ran.stderr);
        let rounds = bench.json("report")["cells"][0]["rounds"].clone();
        let rounds: Vec<_> =
            rounds.as_array().expect("a list").iter().map(|round| round["order"].clone()).collect();
        assert_eq!(rounds.len(), 12);
        rounds
    };
    let first = orders();
    assert_eq!(first, orders());
    let different: HashSet<_> = first.iter().map(Value::to_string).collect();
    assert_eq!(different, HashSet::from([r#"["ours","raw"]"#.to_owned(), r#"["raw","ours"]"#.to_owned()]));
}

pub(crate) fn the_page_and_the_charts_need_nothing_else() {
    let bench = Bench::new();
    let [page, tables] = [bench.option("--html", "page.html"), bench.option("--markdown", "tables.md")];
    let ran = bench.compare("", &[&page, &tables, &bench.option("--svg", "charts")], &[]);
    assert_eq!(ran.code(), 0, "{}", ran.stderr);
    let page = bench.text("page.html");
    for part in [
        "<!DOCTYPE html>",
        "prefers-color-scheme: dark",
        "text, 3 connections, 64 B, 1 in flight",
        "(2.000–2.000)",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
    // Two charts a cell.
    assert_eq!(page.matches("<svg ").count(), 4);
    let charts = ["charts/text-3-64-1.svg", "charts/utf8-3-16KiB-2.svg"].map(|name| bench.text(name));
    for text in charts.iter().chain([&page]) {
        let text = text.replace("http://www.w3.org/2000/svg", "");
        for outside in ["<script", "http://", "https://", "@import", "url("] {
            assert!(!text.contains(outside), "{outside} in {text}");
        }
    }
    assert!(charts[0].contains("2.00 µs · 2.000 (2.000–2.000)"), "{}", charts[0]);
    let tables = bench.text("tables.md");
    assert!(tables.contains("](charts/text-3-64-1.svg)"), "{tables}");
}

pub(crate) fn a_run_with_the_generator_itself() {
    let bench = Bench::new();
    let core = first_core().to_string();
    let arguments = [
        "compare",
        "--slice=200ms",
        "--warmup=50ms",
        "--rounds=6",
        "--cells=text:2:64:1,binary:1:1KiB:3",
        "--server-core",
        &core,
        "--loadtest-args=--spin",
    ];
    let mut command = crate::support::loadtest();
    command.args(arguments).arg(format!("a=tcp:{}", bench.server("")));
    command.arg(format!("b=tcp:{}", bench.server(""))).arg(bench.option("--json", "report"));
    let output = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let ran = bench.finish(output.spawn().expect("it is built"));
    assert_eq!((ran.code(), ran.started), (0, 2), "{}{}", ran.stdout, ran.stderr);
    for cell in bench.json("report")["cells"].as_array().expect("a list") {
        for row in cell["rows"].as_array().expect("a list") {
            for figure in ["cpu", "rate", "p50", "p99"] {
                let estimate = &row["figures"][figure];
                let [low, median, high] =
                    ["low", "median", "high"].map(|end| estimate[end].as_f64().expect("a number"));
                assert!(0.0 < low && low <= median && median <= high, "{row}");
            }
            assert!(
                row["client_cpu_us_per_message"].as_f64() > Some(0.0)
                    && row["rss_bytes"].as_f64() > Some(1e5),
                "{row}"
            );
        }
        let line = cell["rounds"][0]["visits"]["a"]["command_line"].to_string();
        assert!(line.contains("--spin"), "{line}");
    }
}
