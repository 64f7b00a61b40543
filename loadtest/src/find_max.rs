//! The search for the highest rate at which a condition holds.

use std::fmt;

use serde::Serialize;

use crate::output::condition::Condition;
use crate::output::figures::Rate;
use crate::output::report::Report;
use crate::run::Failure;

/// How the highest rate was looked for.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(crate) struct FindMax {
    /// What had to hold.
    condition: String,
    /// The highest rate that was seen to hold, in messages a second; null where none did.
    rate: Option<f64>,
    /// The lowest rate that was seen not to; null where all held.
    rate_failed: Option<f64>,
    /// Why it did not.
    limit: Option<Limit>,
    /// What was tried, in this order.
    probes: Vec<Probe>,
}

/// One run of the search.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(crate) struct Probe {
    /// Messages that were due in a second.
    rate: f64,
    /// Messages that came back in a second.
    messages_per_second: f64,
    /// The condition's figure in words.
    figure: String,
    /// Why it did not hold; null where it did.
    limit: Option<Limit>,
}

/// Why a rate does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum Limit {
    /// The generator was late or out of CPU time: nothing is known of the server.
    Generator,
    /// Echoes were wrong or missing.
    Errors,
    /// Fewer messages came back in the window than 98 % of those that were due in it, and 2 fewer still.
    Rate,
    /// The condition is not so.
    Condition,
}

/// Looks for the highest rate at which the condition holds, from `start` on, and reports on the run at that rate, or on
/// the last one where none held. `run` makes a run at a rate.
///
/// # Errors
///
/// Those of `run`.
pub(crate) fn run(
    condition: &Condition,
    start: f64,
    mut run: impl FnMut(f64) -> Result<Report, Failure>,
) -> Result<Report, Failure> {
    let mut probes = Vec::new();
    let mut best = None;
    let mut last = None;
    let mut ended = None;
    let mut bracket = Bracket { held: None, failed: None };
    let searched = search(&mut bracket, start, |rate| {
        let report = run(rate).map_err(Some)?;
        if report.signal().is_some() {
            // It tells nothing of its rate.
            ended = Some(report);
            return Err(None);
        }
        let limit = limit(condition, &report);
        probes.push(Probe {
            rate,
            messages_per_second: report.messages_per_second(),
            figure: condition.shown(&report),
            limit,
        });
        // Each that holds is higher than those before.
        let slot = if limit.is_none() { &mut best } else { &mut last };
        *slot = Some(report);
        Ok(limit)
    });
    if let Err(Some(failure)) = searched {
        return Err(failure);
    }
    let signal = ended.as_ref().and_then(Report::signal);
    let mut report = best.or(last).or(ended).expect("at least one run is made");
    report.end_by(signal);
    report.found_by(FindMax {
        condition: condition.to_string(),
        rate: bracket.held,
        rate_failed: bracket.failed.map(|(rate, _)| rate),
        limit: bracket.failed.map(|(_, limit)| limit),
        probes,
    });
    Ok(report)
}

impl FindMax {
    /// Whether a rate was found that holds.
    pub(crate) const fn has_found(&self) -> bool {
        self.rate.is_some()
    }
}

/// Why the rate does not hold; the first of the reasons in the order of [`Limit`], each of which makes the later ones
/// hard to judge.
fn limit(condition: &Condition, report: &Report) -> Option<Limit> {
    if report.is_generator_bottleneck() {
        Some(Limit::Generator)
    } else if report.has_errors() {
        Some(Limit::Errors)
    } else if !report.has_kept_up() {
        Some(Limit::Rate)
    } else if condition.evaluate(report) != Some(true) {
        Some(Limit::Condition)
    } else {
        None
    }
}

/// Between which rates the highest lies.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bracket {
    /// The highest that held.
    held: Option<f64>,
    /// The lowest that did not, and why.
    failed: Option<(f64, Limit)>,
}

/// Doubles the rate until it fails, or halves it until it holds, and then halves the distance between the two until
/// it is within [`PRECISION`] of the lower one. A rate has failed when it fails twice: a hiccup of the machine does so
/// once. [`PROBES_MAX`] bounds the effort.
fn search<E>(
    bracket: &mut Bracket,
    start: f64,
    mut probe: impl FnMut(f64) -> Result<Option<Limit>, E>,
) -> Result<(), E> {
    let mut left = PROBES_MAX;
    while let Some(rate) = bracket.next(start) {
        let mut failed = None;
        for _ in 0..TRIES {
            if left == 0 {
                return Ok(());
            }
            left -= 1;
            failed = probe(rate)?;
            if failed.is_none() {
                break;
            }
        }
        match failed {
            None => bracket.held = Some(rate),
            Some(limit) => bracket.failed = Some((rate, limit)),
        }
    }
    Ok(())
}

impl Bracket {
    /// The rate to try; `None` when the two ends are close enough.
    fn next(self, start: f64) -> Option<f64> {
        match (self.held, self.failed) {
            (None, None) => Some(start),
            (Some(held), None) => Some(held * 2.0),
            (None, Some((failed, _))) => Some(failed / 2.0).filter(|&rate| rate >= RATE_MIN),
            (Some(held), Some((failed, _))) => {
                (failed > held * (1.0 + PRECISION)).then_some(f64::midpoint(held, failed))
            }
        }
    }
}

impl fmt::Display for FindMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "find-max   {}", self.verdict())?;
        for (rate, found) in self.rows() {
            writeln!(f, "           {rate}: {found}")?;
        }
        Ok(())
    }
}

impl FindMax {
    /// What was found, in a sentence.
    pub(crate) fn verdict(&self) -> String {
        let Self { condition, rate, rate_failed, limit, .. } = self;
        if self.probes.is_empty() {
            return "no rate was tried to its end".to_owned();
        }
        let held = match rate {
            Some(rate) => format!("{condition} holds at {} messages a second", Rate(*rate)),
            None => format!("{condition} holds at no rate that was tried"),
        };
        let failed = match (rate_failed, limit) {
            (Some(rate), Some(Limit::Generator)) => {
                format!("at {} the generator gave up first: the server may do more", Rate(*rate))
            }
            (Some(rate), Some(limit)) => format!("not at {}: {}", Rate(*rate), limit.name()),
            _ => "no higher one was tried".to_owned(),
        };
        format!("{held}; {failed}")
    }

    /// What was tried: the rate, and what came of it.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (String, String)> {
        self.probes.iter().map(|Probe { rate, messages_per_second, figure, limit }| {
            let verdict = limit.map_or("it holds", Limit::name);
            let found = format!(
                "{} came back, {} {figure}: {verdict}",
                Rate(*messages_per_second),
                self.figure_name()
            );
            (format!("{} a second", Rate(*rate)), found)
        })
    }

    /// The figure that the condition is about.
    fn figure_name(&self) -> &str {
        self.condition.split(['<', '>']).next().unwrap_or_default()
    }
}

impl Limit {
    /// The reason in words.
    const fn name(self) -> &'static str {
        match self {
            Self::Generator => "the generator was the bottleneck",
            Self::Errors => "there were errors",
            Self::Rate => "fewer came back than were due",
            Self::Condition => "the condition does not hold",
        }
    }
}

/// The rate to begin with where the user names none, in messages a second.
pub(crate) const RATE_START: f64 = 1_000.0;

/// Below one message in two seconds there is nothing to look for.
const RATE_MIN: f64 = 0.5;

/// How near the rates that hold and that fail have to be.
const PRECISION: f64 = 0.05;

/// How often a rate has to fail.
const TRIES: u32 = 2;

/// The most runs of a search: 16 doublings, the bisection, and second tries of what fails.
const PROBES_MAX: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    const NONE: Bracket = Bracket { held: None, failed: None };

    /// A server that holds up to `capacity`, the rates it was asked for, and what was found.
    fn found(start: f64, capacity: f64) -> (Bracket, Vec<f64>) {
        let mut rates = Vec::new();
        let mut bracket = NONE;
        let searched = search(&mut bracket, start, |rate| {
            rates.push(rate);
            Ok::<_, Infallible>((rate > capacity).then_some(Limit::Condition))
        });
        searched.expect("infallible");
        (bracket, rates)
    }

    #[test]
    fn the_highest_rate_is_found_from_below_and_from_above() {
        for (start, capacity) in [(1_000.0, 123_456.0), (1_000_000.0, 777.0), (1_000.0, 1_000.0), (8.0, 1.0)]
        {
            let (bracket, rates) = found(start, capacity);
            let (held, (failed, limit)) = (bracket.held.expect("one"), bracket.failed.expect("one"));
            assert!(held <= capacity && capacity < failed, "{bracket:?}");
            assert!(failed <= held * 1.05, "{bracket:?}");
            assert_eq!(limit, Limit::Condition);
            assert!(rates.len() <= 32, "{} probes", rates.len());
        }
    }

    #[test]
    fn a_search_ends_where_nothing_holds_or_everything_does() {
        let (bracket, rates) = found(1_000.0, 0.0);
        assert_eq!(bracket.held, None);
        assert!(rates.iter().all(|&rate| rate >= 0.5) && rates.len() <= 32);
        let (bracket, rates) = found(1_000.0, f64::INFINITY);
        assert_eq!((bracket.failed, rates.len()), (None, 32));
    }

    #[test]
    fn one_hiccup_is_no_failure() {
        let mut count = 0;
        let mut bracket = NONE;
        let searched = search(&mut bracket, 1_000.0, |rate| {
            count += 1;
            Ok::<_, Infallible>((count % 5 == 2 || rate > 60_000.0).then_some(Limit::Rate))
        });
        searched.expect("infallible");
        let held = bracket.held.expect("one");
        assert!((57_000.0..=60_000.0).contains(&held), "{held}");
    }

    #[test]
    fn what_prevents_a_run_ends_the_search() {
        let mut bracket = NONE;
        assert_eq!(search(&mut bracket, 1_000.0, |_| Err::<Option<Limit>, _>("gone")), Err("gone"));
    }

    #[test]
    fn it_is_told_who_gave_up() {
        let told = |rate, rate_failed: Option<f64>, limit| {
            let probe = Probe { rate: 1.0, messages_per_second: 1.0, figure: String::new(), limit: None };
            FindMax { condition: "p99<5ms".into(), rate, rate_failed, limit, probes: vec![probe] }.verdict()
        };
        assert_eq!(
            told(Some(2000.0), Some(2100.0), Some(Limit::Generator)),
            "p99<5ms holds at 2000 messages a second; at 2100 the generator gave up first: the server may do more"
        );
        assert!(
            told(None, Some(0.7), Some(Limit::Errors))
                .contains("no rate that was tried; not at 0.7: there were")
        );
        assert!(told(Some(1.0), None, None).contains("no higher one was tried"));
    }
}
