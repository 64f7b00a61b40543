//! The bootstrap is tried on samples whose median is known, the judgement on rounds that are made up.

use std::path::PathBuf;
use std::time::Duration;

use super::*;

/// A sample around 1, skewed as ratios are: the median of `exp(x)` is 1 where that of `x` is 0.
fn noise(random: &mut fastrand::Rng) -> f64 {
    // Of twelve uniform ones the sum is nearly normal.
    let normal = (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
    (0.1 * normal).exp()
}

#[test]
fn the_interval_contains_the_truth_in_about_95_of_100_samples() {
    let mut random = fastrand::Rng::with_seed(1);
    for rounds in [10, 25] {
        let samples = 1000;
        let held = (0..samples).filter(|&seed| {
            let values: Vec<_> = (0..rounds).map(|_| noise(&mut random)).collect();
            Interval::resampled(&values, seed, 400).contains_one()
        });
        let share = held.count() as f64 / samples as f64;
        assert!((0.92..=0.98).contains(&share), "{share} with {rounds} rounds");
    }
}

#[test]
fn the_interval_holds_the_median_and_narrows_with_more_rounds() {
    let mut random = fastrand::Rng::with_seed(2);
    let widths = [10, 1000].map(|rounds| {
        let values: Vec<_> = (0..rounds).map(|_| noise(&mut random)).collect();
        let (median, Interval { low, high }) = parts(Estimate::of(&values, 3));
        assert!(low <= median && median <= high && low < 1.05 && high > 0.95, "{low} {median} {high}");
        high - low
    });
    assert!(widths[1] < widths[0] / 3.0, "{widths:?}");
}

#[test]
fn the_same_seed_gives_the_same_interval() {
    let values = [1.0, 1.1, 0.9, 1.3, 0.8, 1.2];
    assert_eq!(Estimate::of(&values, 7), Estimate::of(&values, 7));
}

/// The median and the interval.
fn parts(estimate: Estimate) -> (f64, Interval) {
    (estimate.median, estimate.interval.expect("enough values"))
}

#[test]
fn medians() {
    assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
    assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
    assert_eq!(median(&mut [4.0]), 4.0);
    assert_eq!(median(&mut [4.0, 2.0]), 3.0);
}

#[test]
fn five_rounds_are_less_sure_than_95_of_100_and_six_are_not() {
    assert!((confidence_max(3) - 0.75).abs() < 1e-9);
    assert!(confidence_max(5) < 0.95 && confidence_max(6) > 0.95);
    assert!(confidence_max(1).abs() < 1e-9);
    assert!(!are_enough(5) && are_enough(6));
}

#[test]
fn with_few_rounds_nothing_is_told_apart_and_nothing_is_called_alike() {
    for rounds in 1..=6 {
        let mut plan = plan(&["raw", "same", "twice"]);
        plan.rounds = rounds;
        let mut measured = measured(&plan, &[1.0, 1.0, 2.0], 1);
        for round in &mut measured.rounds {
            round.visits[1] = round.visits[0].clone();
        }
        let summary = Summary::new(&plan, &measured);
        let ratios: Vec<_> = summary.rows.iter().flat_map(|row| row.ratios.values().flatten()).collect();
        let judged = ratios.iter().filter(|ratio| ratio.estimate.interval.is_some()).count();
        assert_eq!((judged, summary.alike.len()), if rounds < 6 { (0, 0) } else { (ratios.len(), 1) });
        assert_eq!(summary.rows[1].ratio(Figure::Cpu, 0).expect("a ratio").median, 1.0);
    }
}

/// A plan of these servers, all ratios to the first.
fn plan(names: &[&str]) -> Plan {
    let servers: Vec<_> =
        names.iter().map(|name| format!("{name}=x {{port}}").parse().expect("one")).collect();
    Plan {
        counts: vec![false; servers.len()],
        servers,
        cells: vec!["text:1:64:1".parse().expect("a cell")],
        references: vec![0],
        rounds: 11,
        slice: Duration::from_secs(1),
        warmup: Duration::ZERO,
        server_core: 0,
        client_core: 0,
        path: "/ws".into(),
        seed: 5,
        loadtest: PathBuf::new(),
        loadtest_args: Vec::new(),
    }
}

/// Rounds in which the servers cost that, each with noise of its own and a round's noise, far greater, for all.
fn measured(plan: &Plan, costs: &[f64], seed: u64) -> Measured {
    let mut random = fastrand::Rng::with_seed(seed);
    let rounds = (0..plan.rounds).map(|_| {
        let slow = 1.0 + 3.0 * random.f64();
        let visits = costs.iter().map(|cost| {
            let cpu = cost * slow * noise(&mut random).powf(0.3);
            Visit::with(cpu, 1e6 / cpu, 10.0 * cpu)
        });
        Round { order: (0..costs.len()).collect(), visits: visits.collect() }
    });
    Measured { cell: plan.cells[0].clone(), rounds: rounds.collect() }
}

#[test]
fn equals_cannot_be_told_apart_and_others_can() {
    let plan = plan(&["raw", "same", "twice"]);
    // Of twenty, one is told apart by chance on the average, and more than four are in one of 400 runs of this test,
    // whose seeds are fixed.
    let mut alike = 0;
    for seed in 0..20 {
        let summary = Summary::new(&plan, &measured(&plan, &[1.0, 1.0, 2.0], seed));
        let pairs: Vec<_> =
            summary.alike.iter().map(|alike| [alike.name.as_str(), alike.other.as_str()]).collect();
        assert!(pairs.is_empty() || pairs == [["same", "raw"]], "{pairs:?}");
        alike += pairs.len();
        let twice = summary.rows[2].ratio(Figure::Cpu, 0).expect("a ratio");
        let (median, Interval { low, high }) = parts(*twice);
        assert!((median - 2.0).abs() < 0.2 && low > 1.7 && high < 2.3, "{twice:?}");
        let rate = summary.rows[2].ratio(Figure::Rate, 0).expect("a ratio");
        assert!((rate.median - 0.5).abs() < 0.1, "{rate:?}");
    }
    assert!(alike >= 16, "{alike} of 20 pairs of equals");
}

#[test]
fn neighbours_in_the_order_of_cost_are_judged_too() {
    let plan = plan(&["raw", "a", "far", "b"]);
    let summary = Summary::new(&plan, &measured(&plan, &[1.0, 3.0, 9.0, 3.0], 1));
    let alike: Vec<_> =
        summary.alike.iter().map(|alike| [alike.name.as_str(), alike.other.as_str()]).collect();
    assert!(matches!(alike[..], [["a", "b"] | ["b", "a"]]), "{alike:?}");
}

#[test]
fn no_pair_is_judged_twice() {
    let mut plan = plan(&["raw", "a", "b"]);
    plan.references = vec![0, 1];
    let measured = measured(&plan, &[1.0, 1.0, 1.0], 1);
    let summary = Summary::new(&plan, &measured);
    let rows = &summary.rows;
    assert_eq!(rows[2].ratios[&Figure::Cpu].len(), 2);
    assert_eq!(pairs(&plan, rows, Figure::Cpu), [(1, 0), (2, 0), (2, 1)]);
}
