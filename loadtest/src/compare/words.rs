//! What tables, charts and sentences have in common: how figures are written.

use super::judge::{Alike, Estimate, Figure, Interval, RESAMPLES, Summary, are_enough, confidence_max};
use crate::output::figures::Grouped;

/// A figure with its unit.
pub(crate) fn value(figure: Figure, value: f64) -> String {
    match figure {
        Figure::Cpu if value < 100.0 => format!("{value:.2} µs"),
        Figure::Cpu | Figure::P50 | Figure::P99 => format!("{} µs", count(value)),
        Figure::Rate => format!("{}/s", count(value)),
        Figure::Memory => format!("{} B", count(value)),
    }
}

/// With commas between thousands.
fn count(value: f64) -> String {
    Grouped(value).to_string()
}

/// A ratio, and its interval in parentheses where it has one.
pub(crate) fn ratio(ratio: &Estimate) -> String {
    let median = format!("{:.3}", ratio.median);
    ratio.interval.as_ref().map_or(median.clone(), |ends| format!("{median} {}", interval(ends)))
}

/// The interval alone.
pub(crate) fn interval(Interval { low, high }: &Interval) -> String {
    format!("({low:.3}–{high:.3})")
}

/// Bytes in MiB.
pub(crate) fn mib(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / f64::from(1 << 20))
}

/// That two servers cannot be told apart.
pub(crate) fn alike(summary: &Summary, alike: &Alike) -> String {
    let Alike { name, other, ratio: estimate } = alike;
    let figure = summary.judged_by.title(summary.unit);
    format!("{name} and {other} cannot be told apart in this cell by {figure}: {}", ratio(estimate))
}

/// For each server in whose slices the load generator was the bottleneck, that it was.
pub(crate) fn bottlenecks(summary: &Summary) -> Vec<String> {
    let bound = summary.rows.iter().filter(|row| row.slices_bound_by_client > 0);
    bound
        .map(|row| {
            format!(
                "{}: the load generator was the bottleneck in {} of {} slices; the rate is not the server's",
                row.name, row.slices_bound_by_client, row.slices
            )
        })
        .collect()
}

/// What the ratios and their intervals are, and what they are not.
pub(crate) fn about_intervals(rounds: u32) -> String {
    let ratio =
        "A ratio is the median over the rounds of a server's figure by the other's in the same round.";
    if let Some(few) = too_few(rounds) {
        return format!(
            "{ratio} {few}: even from the least to the greatest ratio an interval would be a {:.0} % one at most, and not \
             a 95 % one. From 6 rounds on there is one.",
            confidence_max(places(rounds)) * 100.0
        );
    }
    format!(
        "{ratio} The interval is the percentile bootstrap's: of {} medians of rounds drawn again with replacement, the \
         middle 95 %. It tells how the median varies from round to round on this machine, with these builds and this \
         load, and nothing of others. Where it contains 1 the two cannot be told apart here (≈); that does not make them \
         equal. Each pair is judged for itself: of twenty pairs of equals, about one is told apart by chance.",
        count(RESAMPLES as f64)
    )
}

/// That so few rounds tell no servers apart, if they do not.
pub(crate) fn too_few(rounds: u32) -> Option<String> {
    let are = if rounds == 1 { "round is" } else { "rounds are" };
    (!are_enough(places(rounds))).then(|| format!("{rounds} {are} too few to tell servers apart"))
}

fn places(rounds: u32) -> usize {
    usize::try_from(rounds).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_units() {
        assert_eq!(value(Figure::Cpu, 4.956), "4.96 µs");
        assert_eq!(value(Figure::Cpu, 393.2), "393 µs");
        assert_eq!(value(Figure::Rate, 1_234_567.8), "1,234,568/s");
        assert_eq!(value(Figure::P99, 1210.4), "1,210 µs");
        assert_eq!(value(Figure::Memory, 180.2), "180 B");
        let interval = Some(Interval { low: 0.9689, high: 1.125 });
        assert_eq!(ratio(&Estimate { median: 1.0144, interval }), "1.014 (0.969–1.125)");
        assert_eq!(ratio(&Estimate { median: 1.0144, interval: None }), "1.014");
    }

    #[test]
    fn few_rounds_are_said_to_be_few() {
        assert!(!about_intervals(6).contains("too few"));
        assert!(about_intervals(5).contains("5 rounds are too few to tell servers apart:"));
        assert!(about_intervals(3).contains("a 75 % one at most"));
        assert!(about_intervals(1).contains("1 round is too few to tell"));
    }
}
