//! What the visits amount to: medians, ratios within a round, and what cannot be told apart.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cell::Cell;
use super::measure::{Measured, Plan, Round};
use super::visit::Visit;

/// What servers are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figure {
    /// The server's CPU time a message, in µs.
    Cpu,
    /// Messages a second.
    Rate,
    /// The median of the latency, in µs.
    P50,
    /// The 99th percentile of the latency, in µs.
    P99,
    /// The server's memory a connection, in bytes.
    Memory,
}

impl Figure {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [Self::Cpu, Self::Rate, Self::P50, Self::P99, Self::Memory];

    /// Where it is in the load generator's JSON.
    pub(crate) const fn field(self) -> &'static str {
        match self {
            Self::Cpu => "server_cpu_us_per_message",
            Self::Rate => "messages_per_second",
            Self::P50 => "latency_us.p50",
            Self::P99 => "latency_us.p99",
            Self::Memory => "server_bytes_per_connection",
        }
    }

    /// What it is counted in.
    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::Cpu | Self::P50 | Self::P99 => "µs",
            Self::Rate => "a second",
            Self::Memory => "bytes",
        }
    }

    /// In words, for a cell whose costs are counted by that unit.
    pub(crate) fn title(self, unit: &str) -> String {
        match self {
            Self::Cpu => format!("server CPU a {unit}"),
            Self::Rate => "rate".into(),
            Self::P50 => "p50".into(),
            Self::P99 => "p99".into(),
            Self::Memory => "server memory a connection".into(),
        }
    }
}

/// A median and where it would have been with other rounds: see [`Estimate::of`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Estimate {
    /// The median.
    pub(crate) median: f64,
    /// Its 95 % interval; `None`, and not in the JSON, where so few values do not make one.
    #[serde(flatten)]
    pub(crate) interval: Option<Interval>,
}

/// Where a median would have been with other rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Interval {
    /// The lower end: the median or below.
    pub(crate) low: f64,
    /// The upper end: the median or above.
    pub(crate) high: f64,
}

impl Estimate {
    /// The median of `values`, and, where they are [enough](are_enough), its 95 % interval by the percentile bootstrap:
    /// drawn again with replacement [`RESAMPLES`] times, the middle 95 % of the medians lie in it.
    pub(crate) fn of(values: &[f64], seed: u64) -> Self {
        let interval = are_enough(values.len()).then(|| Interval::resampled(values, seed, RESAMPLES));
        Self { median: median(&mut values.to_vec()), interval }
    }

    /// Whether a ratio may as well be 1. Nothing is known of that where there is no interval.
    pub(crate) fn may_be_one(&self) -> bool {
        self.interval.is_some_and(|interval| interval.contains_one())
    }
}

impl Interval {
    fn resampled(values: &[f64], seed: u64, resamples: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut drawn = vec![0.0; values.len()];
        let mut medians: Vec<_> = (0..resamples)
            .map(|_| {
                drawn.fill_with(|| values[random.usize(..values.len())]);
                median(&mut drawn)
            })
            .collect();
        medians.sort_by(f64::total_cmp);
        let outside = resamples / OUTSIDE_ONE_IN / 2;
        Self { low: medians[outside], high: medians[resamples - 1 - outside] }
    }

    fn contains_one(&self) -> bool {
        (self.low..=self.high).contains(&1.0)
    }
}

/// Whether so many rounds make a 95 % interval: from 6 on. Fewer tell no servers apart.
pub(crate) fn are_enough(rounds: usize) -> bool {
    confidence_max(rounds) >= CONFIDENCE
}

/// How sure an interval from the least to the greatest of `count` values can be at most of holding the median, 0 to 1:
/// all lie on one side of it with a probability of `2 · 0.5^count`.
pub(crate) fn confidence_max(count: usize) -> f64 {
    1.0 - 2.0 * 0.5_f64.powf(count as f64)
}

/// What a cell has shown.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    /// The load.
    pub(crate) cell: Cell,
    /// What costs are counted by.
    pub(crate) unit: &'static str,
    /// What decides whether servers can be told apart.
    pub(crate) judged_by: Figure,
    /// A row for each server, in the order of [`Plan::servers`].
    pub(crate) rows: Vec<Row>,
    /// Pairs that cannot be told apart: each server and a reference, and neighbours in the order of cost. None where the
    /// rounds are too few to tell.
    pub(crate) alike: Vec<Alike>,
}

/// A server in a cell.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// The server.
    pub(crate) name: String,
    /// The medians over the rounds, of what was measured.
    pub(crate) figures: BTreeMap<Figure, Estimate>,
    /// The medians of the ratios in each round, for the cell's figures, in the order of [`Plan::references`].
    pub(crate) ratios: BTreeMap<Figure, Vec<Ratio>>,
    /// The median.
    pub(crate) client_cpu_us_per_message: Option<f64>,
    /// The median.
    pub(crate) rss_bytes: Option<f64>,
    /// Visits.
    pub(crate) slices: usize,
    /// Those in which the generator, and not the server, set the rate.
    pub(crate) slices_bound_by_client: usize,
    /// The medians of what the server counted, by its echoes: over whole visits, for nobody tells it of the window.
    pub(crate) counters_per_message: BTreeMap<String, f64>,
}

/// How a server is to a reference.
#[derive(Debug, Serialize)]
pub(crate) struct Ratio {
    /// The reference.
    pub(crate) to: String,
    /// The ratio.
    #[serde(flatten)]
    pub(crate) estimate: Estimate,
}

/// Two servers that cannot be told apart.
#[derive(Debug, Serialize)]
pub(crate) struct Alike {
    /// What is divided.
    pub(crate) name: String,
    /// What by.
    pub(crate) other: String,
    /// The ratio, whose interval contains 1.
    #[serde(flatten)]
    pub(crate) ratio: Estimate,
}

impl Summary {
    /// What the rounds of a cell amount to.
    pub(crate) fn new(plan: &Plan, measured: &Measured) -> Self {
        let Measured { cell, rounds } = measured;
        let judged_by = cell.figures()[0];
        let rows: Vec<_> = (0..plan.servers.len()).map(|place| Row::new(plan, cell, rounds, place)).collect();
        let pairs = pairs(plan, &rows, judged_by);
        let alike = pairs.into_iter().filter_map(|(place, other)| {
            let ratio = ratio(plan, rounds, judged_by, place, other);
            let name = |place: usize| plan.servers[place].name.clone();
            ratio.may_be_one().then(|| Alike { name: name(place), other: name(other), ratio })
        });
        Self { cell: cell.clone(), unit: cell.unit(), judged_by, alike: alike.collect(), rows }
    }
}

impl Row {
    fn new(plan: &Plan, cell: &Cell, rounds: &[Round], place: usize) -> Self {
        let visits: Vec<_> = rounds.iter().map(|round| &round.visits[place]).collect();
        let figures = Figure::ALL.into_iter().filter_map(|figure| {
            let values: Option<Vec<_>> = visits.iter().map(|visit| visit.figure(figure)).collect();
            Some((figure, Estimate::of(&values?, plan.seed)))
        });
        let ratios = cell.figures().iter().map(|&figure| {
            let ratio = |&reference: &usize| Ratio {
                to: plan.servers[reference].name.clone(),
                estimate: ratio(plan, rounds, figure, place, reference),
            };
            (figure, plan.references.iter().map(ratio).collect())
        });
        Self {
            name: plan.servers[place].name.clone(),
            figures: figures.collect(),
            ratios: ratios.collect(),
            client_cpu_us_per_message: median_of(visits.iter().map(|visit| visit.client_cpu_us_per_message)),
            rss_bytes: median_of(visits.iter().map(|visit| visit.rss_bytes())),
            slices: visits.len(),
            slices_bound_by_client: visits.iter().filter(|visit| visit.is_bound_by_client()).count(),
            counters_per_message: counters_per_message(&visits),
        }
    }

    /// The ratio to a reference, by its place in [`Plan::references`].
    pub(crate) fn ratio(&self, figure: Figure, reference: usize) -> Option<&Estimate> {
        Some(&self.ratios.get(&figure)?.get(reference)?.estimate)
    }
}

/// The pairs that are judged, by their places: each server with each reference, and those beside each other when
/// sorted by the figure. None of them is there the other way round as well.
fn pairs(plan: &Plan, rows: &[Row], judged_by: Figure) -> Vec<(usize, usize)> {
    let to_references =
        plan.references.iter().flat_map(|&reference| (0..rows.len()).map(move |place| (place, reference)));
    let cost = |place: usize| rows[place].figures.get(&judged_by).map_or(0.0, |estimate| estimate.median);
    let mut sorted: Vec<_> = (0..rows.len()).collect();
    sorted.sort_by(|&a, &b| cost(a).total_cmp(&cost(b)));
    let neighbours = sorted.windows(2).map(|pair| (pair[0], pair[1]));
    let mut pairs = Vec::new();
    for (place, other) in to_references.chain(neighbours) {
        if place != other && !pairs.contains(&(place, other)) && !pairs.contains(&(other, place)) {
            pairs.push((place, other));
        }
    }
    pairs
}

/// The median of the ratios of two servers in the same round: what is slower than a round meets both alike.
fn ratio(plan: &Plan, rounds: &[Round], figure: Figure, place: usize, other: usize) -> Estimate {
    // Every visit has the figures of its cell, and they are above 0.
    let value = |visit: &Visit| visit.figure(figure).unwrap_or(f64::NAN);
    let ratios: Vec<_> =
        rounds.iter().map(|round| value(&round.visits[place]) / value(&round.visits[other])).collect();
    Estimate::of(&ratios, plan.seed)
}

fn counters_per_message(visits: &[&Visit]) -> BTreeMap<String, f64> {
    let mut counted: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for visit in visits {
        for (name, count) in &visit.counters {
            // A visit with figures has echoes.
            let each = *count as f64 / visit.echoes_checked.max(1) as f64;
            counted.entry(name.clone()).or_default().push(each);
        }
    }
    counted.into_iter().map(|(name, mut values)| (name, median(&mut values))).collect()
}

/// The median of what is there.
fn median_of(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let mut values: Vec<_> = values.flatten().collect();
    (!values.is_empty()).then(|| median(&mut values))
}

/// Of an even number, the middle between the two in the middle. `values` is not empty; its order is lost.
fn median(values: &mut [f64]) -> f64 {
    let middle = values.len() / 2;
    let is_odd = values.len() % 2 == 1;
    let (below, &mut upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    if is_odd {
        return upper;
    }
    let lower = below.iter().copied().max_by(f64::total_cmp).unwrap_or(upper);
    f64::midpoint(lower, upper)
}

/// How often the rounds are drawn again.
pub(crate) const RESAMPLES: usize = 10_000;

/// What the interval is for.
const CONFIDENCE: f64 = 0.95;

/// Of how many resampled medians one lies outside of the interval: 5 %.
const OUTSIDE_ONE_IN: usize = 20;

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
