//! What is started: servers, and a load generator that is told what to find.

pub(crate) mod server;

use std::env;
use std::net::TcpStream;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity};
use serde_json::{Value, json};

/// Checks what it is asked for and reports figures: a `ws` server costs twice what a `tcp` server costs. It obeys
/// `COMPLAINTS`, `ERRORS` (a number), `GARBLED`, `SLEEP_MS`, `EQUAL` and `STILL` in the environment.
pub(crate) fn generate() -> ExitCode {
    let arguments: Vec<_> = env::args().collect();
    let url = &arguments[1];
    let has = |option: &str| arguments.iter().any(|argument| argument == option);
    let value = |option: &str| {
        let at = arguments.iter().position(|argument| argument == option);
        at.and_then(|at| arguments.get(at + 1))
            .unwrap_or_else(|| panic!("{option} in {arguments:?}"))
            .as_str()
    };
    let pid = Pid::from_raw(value("--server-pid").parse().expect("a pid")).expect("a pid");
    let cores = sched_getaffinity(Some(pid)).expect("it runs");
    let cores: Vec<_> = (0..CpuSet::MAX_CPU).filter(|&core| cores.is_set(core)).collect();
    assert_eq!(cores, [env::var("SERVER_CORE").expect("set").parse::<usize>().expect("a core")]);
    assert_eq!((value("--duration"), value("--warmup"), value("-c")), ("1500ms", "300ms", "3"));
    assert!(has("--json") && value("--pin").parse::<usize>().is_ok());
    let kinds = [has("--churn"), has("--idle"), has("--rate"), has("--depth") && has("--kind")];
    assert_eq!(kinds.into_iter().filter(|&is| is).count(), 1, "{arguments:?}");

    let (scheme, rest) = url.split_once("://").expect("a URL");
    assert_eq!(rest.ends_with("/ws"), scheme == "ws");
    TcpStream::connect(rest.trim_end_matches("/ws")).expect("it listens");
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse().ok());
    thread::sleep(Duration::from_millis(number("SLEEP_MS").unwrap_or(20)));
    if let Ok(complaints) = env::var("COMPLAINTS") {
        eprintln!("{complaints}");
    }
    if env::var_os("GARBLED").is_some() {
        println!("not a report");
        return ExitCode::SUCCESS;
    }
    let errors = number("ERRORS").unwrap_or(0);
    let cost = if scheme == "ws" && env::var_os("EQUAL").is_none() { 2.0 } else { 1.0 };
    // Holding connections makes no messages.
    let is_still = has("--idle") || env::var_os("STILL").is_some();
    let report = json!({
        "messages_per_second": if is_still { 0.0 } else { 1e6 / cost },
        "server_cpu_us_per_message": if is_still { Value::Null } else { cost.into() },
        "client_cpu_us_per_message": 1.25,
        "server_bytes_per_connection": if has("--idle") { (180.0 * cost).into() } else { Value::Null },
        "latency_us": {"p50": 10.0 * cost, "p99": 50.0},
        "server": {"rss_bytes": 3 << 20},
        "client": {"is_bottleneck": scheme == "tcp"},
        "errors": {"mismatch": errors},
        "errors_total": errors,
        "error_examples": if errors > 0 { vec!["byte 3 is 4"] } else { vec![] },
        "echoes_checked": 4,
        "something_new": {"is": "ignored"},
    });
    println!("{report}");
    ExitCode::from(u8::from(errors > 0))
}
