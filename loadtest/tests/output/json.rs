//! The JSON object, its schema, and the conditions that a run may fail on.

use std::time::Duration;

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::{Value, json};

use crate::support::{Peer, frame, load, load_ws, loadtest, serve, serve_bytes, serve_tungstenite};

#[test]
fn the_object_is_as_its_schema_says_in_every_mode() {
    let schema = schema();
    let echo = serve_tungstenite();
    let one_message = serve(|stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        let (opcode, payload) = peer.frame().expect("a message");
        peer.send(&frame(true, opcode, &payload)).expect("it is awaited");
        let _ = peer.frame();
    });
    let wrong = serve(|stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        let _ = peer.echo(|count, opcode, payload| {
            (count == 3)
                .then(|| frame(true, opcode, &payload.iter().map(|byte| byte ^ 1).collect::<Vec<_>>()))
        });
    });
    let pid = std::process::id().to_string();
    let runs = [
        load_ws(echo, &["-c", "3", "--threads", "2", "--depth", "4", "--server-pid", &pid, "--pin", "0"]),
        load_ws(echo, &["-c", "1", "--kind", "binary", "--fail-if", "p50>0ns", "--fail-if", "errors>0"]),
        load_ws(one_message, &["-c", "2", "--churn", "--server-pid", &pid]),
        load(&format!("tcp://{}", serve_bytes()), &["-c", "2"]),
        load_ws(wrong, &["-c", "1"]),
        load_ws(echo, &["-c", "2", "--rate", "200", "--ramp", "10ms", "--source", "127.0.0.1,127.0.0.2"]),
        load_ws(one_message, &["-c", "100", "--churn", "--rate", "50", "--arrivals", "poisson"]),
        load_ws(echo, &["-c", "5", "--idle", "--server-pid", &pid]),
        load_ws(echo, &["-c", "1", "--spin", "-d", "100ms"]),
        load_ws(echo, &["-c", "1", "--reconnect"]),
    ];
    assert_eq!(runs.each_ref().map(|ran| ran.code), [0, 1, 0, 0, 1, 0, 0, 0, 0, 0]);
    for ran in &runs {
        let object = ran.json();
        schema.check(&object).unwrap_or_else(|error| panic!("{error} in {object}"));
        assert!(!object["began"].as_str().expect("a date").is_empty());
        let series = object["series"].as_array().expect("a list");
        let counted: f64 =
            series.iter().map(|second| second["messages_per_second"].as_f64().expect("a rate")).sum();
        let expected = object["messages_per_second"].as_f64().expect("a rate");
        assert!((counted - expected).abs() <= 1e-6 * expected, "{object}");
    }
}

#[test]
fn what_is_not_known_is_null() {
    let echo = serve_tungstenite();
    let rate = load_ws(echo, &["-c", "2", "--rate", "200"]).json();
    let due = rate["due"].as_u64().expect("a count");
    assert!((79..=81).contains(&due), "200 a second for 0.4 s: {rate}");
    assert!(rate["client"]["is_bottleneck"].is_boolean(), "{rate}");
    let spin = load_ws(echo, &["-c", "1", "--spin", "-d", "100ms"]).json();
    for (object, place) in [
        (&rate, "/depth"),
        (&rate, "/duration_planned_seconds"),
        (&rate, "/source"),
        (&spin, "/due"),
        (&spin, "/client/is_bottleneck"),
        (&spin, "/rate_target"),
    ] {
        assert_eq!(object.pointer(place), Some(&Value::Null), "{place} in {object}");
    }
    let silent = serve(|stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        let _ = peer.echo(|_, _, _| Some(Vec::new()));
    });
    let nothing = load_ws(silent, &["-c", "1", "--grace", "100ms"]).json();
    assert!(schema().is_valid(&nothing), "{nothing}");
    assert_eq!(nothing["latency_us"], Value::Null);
}

#[test]
fn the_schema_forbids_what_it_does_not_name_and_misses_what_it_does() {
    let schema = schema();
    let object =
        load_ws(serve_tungstenite(), &["-c", "1", "--server-pid", &std::process::id().to_string()]).json();
    assert!(schema.is_valid(&object), "{object}");
    for place in ["", "/latency_us", "/server", "/client", "/machine", "/series/0", "/series/0/latency_us"] {
        let mut more = object.clone();
        let fields = more.pointer_mut(place).and_then(Value::as_object_mut).expect("an object");
        fields.insert("something".into(), json!(1));
        assert!(!schema.is_valid(&more), "{place} may have anything");
        let mut less = object.clone();
        let fields = less.pointer_mut(place).and_then(Value::as_object_mut).expect("an object");
        let name = fields.keys().next().expect("a field").clone();
        fields.remove(&name);
        assert!(!schema.is_valid(&less), "{place} may lack {name}");
    }
    let mut other = object;
    other["messages_per_second"] = json!("many");
    assert!(!schema.is_valid(&other));
}

#[test]
fn a_condition_that_is_so_fails_the_run_and_names_its_value() {
    let address = serve_tungstenite();
    let url = format!("ws://{address}/");
    let args = [&url, "-c", "2", "-d", "200ms", "--warmup", "0s"];
    let with = |conditions: &[&'static str]| {
        let conditions = conditions.iter().flat_map(|condition| ["--fail-if", condition]);
        conditions.chain(args).collect::<Vec<_>>()
    };

    let ran = loadtest(&with(&["p99>59s", "max>=60s", "mean>59s", "rate<1", "errors>0", "client_cpu>1s"]));
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert!(!ran.stdout.contains("failed"), "{}", ran.stdout);

    let ran = loadtest(&with(&["p99.9<59s", "rate>1000000000", "rate>=1"]));
    assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
    let failed: Vec<_> = ran.stdout.lines().filter(|line| line.starts_with("failed ")).collect();
    assert_eq!(failed.len(), 2, "{}", ran.stdout);
    assert!(failed[0].contains("p99.9<59s: it was ") && failed[0].ends_with('s'), "{failed:?}");
    assert!(failed[1].contains("rate>=1: it was ") && failed[1].ends_with(" a second"), "{failed:?}");

    let ran = loadtest(&[&with(&["p50>0ns", "max<0ns"])[..], &["--json"]].concat());
    assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
    let object = ran.json();
    let failed = object["failed_conditions"].as_array().expect("a list");
    assert_eq!(failed.len(), 1, "{object}");
    assert_eq!((&failed[0]["condition"], &failed[0]["unit"]), (&json!("p50>0ns"), &json!("us")));
    assert_eq!(failed[0]["value"], object["latency_us"]["p50"]);
}

#[test]
fn a_condition_on_nothing_fails() {
    // It takes messages and answers none.
    let address = serve(|stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        let _ = peer.echo(|_, _, _| Some(Vec::new()));
    });
    let ran = load_ws(address, &["-c", "1", "--fail-if", "p99>5s", "--grace", "100ms"]);
    assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
    assert_eq!(
        ran.json()["failed_conditions"],
        json!([{ "condition": "p99>5s", "value": null, "unit": "us" }])
    );
}

#[test]
fn conditions_that_cannot_be_are_told_before_the_load() {
    for (args, words) in [
        (&["--fail-if", "p99~5ms"][..], &["--fail-if", "p99>5ms"][..]),
        (&["--fail-if", "speed>5ms"], &["speed", "server_cpu", "lateness_p99"]),
        (&["--find-max", "p99<5"], &["--find-max", "5ms"]),
        (&["--fail-if", "server_cpu>5us"], &["server_cpu>5us", "--server-pid"]),
        (&["--fail-if", "lateness_p99>5us"], &["lateness_p99>5us", "--rate"]),
        (&["--find-max", "p99<5ms", "--spin"], &["--find-max", "--spin"]),
        (&["--find-max", "p99>5ms"], &["--find-max p99>5ms is so only", "--find-max p99<5ms"]),
        (&["--find-max", "errors >= 1"], &["--find-max errors<=1"]),
    ] {
        // Nobody listens there: a load would end with 69.
        let ran = loadtest(&[args, &["ws://127.0.0.1:1/"]].concat());
        assert_eq!((ran.code, ran.stderr.lines().count()), (64, 1), "{args:?}: {}", ran.stderr);
        assert!(words.iter().all(|word| ran.stderr.contains(word)), "{words:?} in {}", ran.stderr);
        assert_eq!(ran.stdout, "");
    }
}

/// A server that takes 5 ms a message on each of two connections cannot do more than 400 a second.
#[test]
fn the_highest_rate_of_a_slow_server_is_found() {
    let address = serve(|stream| {
        let mut peer = Peer::accept(stream).expect("a handshake");
        let _ = peer.echo(|_, _, _| {
            std::thread::sleep(Duration::from_millis(5));
            None
        });
    });
    let ran = load_ws(address, &["-c", "2", "--find-max", "p99<2s", "--arrivals", "poisson"]);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    let object = ran.json();
    assert_eq!(object["arrivals"], "poisson");
    assert!(schema().is_valid(&object), "{object}");
    let search = &object["find_max"];
    let rate = search["rate"].as_f64().expect("one holds");
    assert!(rate > 20.0 && rate < 800.0, "{object}");
    assert_eq!(object["rate_target"], search["rate"]);
    let probes = search["probes"].as_array().expect("a list");
    assert!(probes.len() > 2 && probes.iter().any(|probe| probe["limit"] == Value::Null), "{object}");
}

#[test]
fn an_error_is_as_its_schema_says() {
    let schema = Schema::new(include_str!("../../error.schema.json"));
    for (args, code) in [
        (&["ws://127.0.0.1:1/", "--json"][..], 69),
        (&["ws://127.0.0.1:1/", "--json", "-c", "0"], 64),
        (&["ws://no-such-name.invalid/", "--json"], 69),
        (&["ws://127.0.0.1:1/", "--json", "--html", "/no/such/folder"], 64),
        (&["ws://127.0.0.1:1/", "--json", "--fail-if", "server_cpu>5us"], 64),
        (&["merge", "--json", "/no/such/log"], 64),
        (&["--json"], 64),
    ] {
        let ran = loadtest(args);
        let object = ran.json();
        assert!(schema.is_valid(&object), "{args:?}: {object}");
        assert_eq!((ran.code, &object["error"]["exit_code"]), (code, &json!(code)), "{args:?}");
        let message = object["error"]["message"].as_str().expect("words");
        assert!(ran.stderr.starts_with(&format!("loadtest: {message}")), "{args:?}: {}", ran.stderr);
    }
}

fn schema() -> Schema {
    Schema::new(include_str!("../../report.schema.json"))
}

/// A JSON Schema, and whether an object is as it says.
struct Schema {
    all: Schemas,
    own: SchemaIndex,
}

impl Schema {
    fn new(text: &str) -> Self {
        const PLACE: &str = "/schema.json";
        let (mut all, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource(PLACE, serde_json::from_str(text).expect("JSON")).expect("a schema");
        let own = compiler.compile(PLACE, &mut all).expect("a schema");
        Self { all, own }
    }

    fn check(&self, object: &Value) -> Result<(), String> {
        self.all.validate(object, self.own).map_err(|error| error.to_string())
    }

    fn is_valid(&self, object: &Value) -> bool {
        self.check(object).is_ok()
    }
}
