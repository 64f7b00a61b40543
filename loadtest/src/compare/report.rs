//! The result as JSON: every visit, and what they amount to.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Comparison;
use super::environment::Environment;
use super::judge::Summary;
use super::measure::{Measured, Round};
use super::server::Spec;
use crate::signals;

/// One object. Names of servers come in the order of the command line.
pub(crate) fn to_json(comparison: &Comparison) -> String {
    let plan = &comparison.plan;
    let name = |place: usize| plan.servers[place].name.as_str();
    let cells = comparison.measured.iter().zip(&comparison.cells);
    let report = Report {
        environment: &comparison.environment,
        servers: &plan.servers,
        baseline: name(plan.references[0]),
        also_to: plan.references.get(1).map(|&place| name(place)),
        rounds: plan.rounds,
        ended_by_signal: comparison.signal.map(signals::name),
        slice_seconds: plan.slice.as_secs_f64(),
        warmup_seconds: plan.warmup.as_secs_f64(),
        cells: cells
            .map(|(Measured { rounds, .. }, summary)| CellReport {
                summary,
                rounds: rounds.iter().map(|round| round_report(&plan.servers, round)).collect(),
            })
            .collect(),
    };
    let mut text = serde_json::to_string_pretty(&report).expect("strings, numbers and maps with string keys");
    text.push('\n');
    text
}

#[derive(Serialize)]
struct Report<'a> {
    environment: &'a Environment,
    servers: &'a [Spec],
    baseline: &'a str,
    also_to: Option<&'a str>,
    /// As planned; each cell has those that were made.
    rounds: u32,
    ended_by_signal: Option<&'static str>,
    slice_seconds: f64,
    warmup_seconds: f64,
    cells: Vec<CellReport<'a>>,
}

#[derive(Serialize)]
struct CellReport<'a> {
    #[serde(flatten)]
    summary: &'a Summary,
    /// For each round the order of the visits, and for each server what the load generator printed.
    rounds: Vec<Value>,
}

fn round_report(servers: &[Spec], round: &Round) -> Value {
    let order: Vec<_> = round.order.iter().map(|&place| servers[place].name.as_str()).collect();
    let mut visits = Map::new();
    for (spec, visit) in servers.iter().zip(&round.visits) {
        let mut object = visit.object.clone();
        if !visit.counters.is_empty() {
            let counters: Map<_, _> =
                visit.counters.iter().map(|(name, value)| (name.clone(), Value::from(*value))).collect();
            object["server_counters"] = counters.into();
        }
        visits.insert(spec.name.clone(), object);
    }
    json!({ "order": order, "visits": visits })
}
