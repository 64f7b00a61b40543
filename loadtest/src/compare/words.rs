//! What tables, charts and sentences have in common: how figures are written.

use indicatif::HumanCount;

use super::judge::{Alike, Estimate, Figure, RESAMPLES, Summary, confidence_max};

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
pub(crate) fn count(value: f64) -> String {
    // What is measured is far below 2^64, and a saturating cast is no surprise to a reader.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    HumanCount(value.round() as u64).to_string()
}

/// A ratio, and its interval in parentheses.
pub(crate) fn ratio(ratio: &Estimate) -> String {
    let Estimate { median, .. } = ratio;
    format!("{median:.3} {}", interval(ratio))
}

/// The interval alone.
pub(crate) fn interval(Estimate { low, high, .. }: &Estimate) -> String {
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

/// What the intervals are, and what they are not.
pub(crate) fn about_intervals(rounds: u32) -> String {
    let mut text = format!(
        "A ratio is the median over the rounds of a server's figure by the other's in the same round. The interval is the \
         percentile bootstrap's: of {} medians of rounds drawn again with replacement, the middle 95 %. It tells how the \
         median varies from round to round on this machine, with these builds and this load, and nothing of others. \
         Where it contains 1 the two cannot be told apart here (≈); that does not make them equal. Each pair is judged \
         for itself: of twenty pairs of equals, about one is told apart by chance.",
        HumanCount(RESAMPLES as u64)
    );
    text.push_str(&about_rounds(rounds));
    text
}

/// That so few rounds do not make a 95 % interval, with a space before; empty where there are enough.
pub(crate) fn about_rounds(rounds: u32) -> String {
    let most = confidence_max(rounds);
    if most >= CONFIDENCE {
        return String::new();
    }
    format!(
        " {rounds} {} too few for 95 %: even from the least to the greatest ratio it would be {:.0} % at most.",
        if rounds == 1 { "round is" } else { "rounds are" },
        most * 100.0
    )
}

/// What the interval is for.
const CONFIDENCE: f64 = 0.95;

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
        assert_eq!(ratio(&Estimate { median: 1.0144, low: 0.9689, high: 1.125 }), "1.014 (0.969–1.125)");
    }

    #[test]
    fn few_rounds_are_said_to_be_few() {
        assert!(!about_intervals(6).contains("too few"));
        assert!(about_intervals(5).contains("5 rounds are too few for 95 %"));
        assert!(about_intervals(3).contains("75 % at most"));
        assert!(about_intervals(1).contains("1 round is too few"));
    }
}
