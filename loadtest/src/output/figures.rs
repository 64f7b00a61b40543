//! Figures as people read them.

use std::fmt;

use hdrhistogram::Histogram;

/// A time in microseconds, shown with three digits that count, in the unit that suits it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Micros(pub(crate) f64);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.0;
        // Halfway between 999 and 1000 the larger unit begins, so that no figure has four digits.
        let (value, unit) = match us {
            us if us < 999.5 => (us, "µs"),
            us if us < 999_500.0 => (us / 1e3, "ms"),
            us => (us / 1e6, "s"),
        };
        let digits = match value {
            value if value == value.trunc() || value >= 99.95 => 0,
            value if value >= 9.995 => 1,
            _ => 2,
        };
        f.pad(&format!("{} {unit}", rounded(value, digits)))
    }
}

/// A time in seconds, rounded to milliseconds, without a unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seconds(pub(crate) f64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Microseconds, where milliseconds would show none of it.
        f.pad(&rounded(self.0, if self.0 < 0.01 { 6 } else { 3 }))
    }
}

/// How many there are in a second: a whole number, but for a few.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate(pub(crate) f64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&rounded(self.0, if self.0 < 9.9995 { 3 } else { 0 }))
    }
}

/// A value with so many digits behind the point at most, without zeros at its end.
fn rounded(value: f64, digits: usize) -> String {
    let mut shown = format!("{value:.digits$}");
    if digits > 0 {
        shown.truncate(shown.trim_end_matches('0').trim_end_matches('.').len());
    }
    shown
}

/// A number of things, or a rate, as [`Rate`] shows it, in groups of three digits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grouped(pub(crate) f64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.0 > 0.0 { Rate(self.0).to_string() } else { format!("{:.0}", self.0) };
        if digits.contains('.') {
            return f.pad(&digits);
        }
        let mut grouped = String::new();
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) && !grouped.ends_with('-') {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        f.pad(&grouped)
    }
}

/// A sentence or a heading with a capital at its beginning.
pub(crate) fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// A quantile of a histogram of nanoseconds, in microseconds.
pub(crate) fn quantile_us(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    us(histogram.value_at_quantile(quantile))
}

/// Nanoseconds in microseconds.
pub(crate) fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_unit() {
        for (us, shown) in [
            (0.0, "0 µs"),
            (0.25, "0.25 µs"),
            (8.0, "8 µs"),
            (12.34, "12.3 µs"),
            (999.4, "999 µs"),
            (999.6, "1 ms"),
            (1_234.0, "1.23 ms"),
            (200_000.0, "200 ms"),
            (999_600.0, "1 s"),
            (61_500_000.0, "61.5 s"),
        ] {
            assert_eq!(Micros(us).to_string(), shown);
        }
        assert_eq!(format!("{:>8}|", Micros(8.0)), "    8 µs|");
    }

    #[test]
    fn seconds_are_rounded_and_so_are_rates() {
        for (seconds, shown) in [
            (0.0, "0"),
            (1.0, "1"),
            (0.499_448_648, "0.499"),
            (0.05, "0.05"),
            (0.000_25, "0.00025"),
            (31_536_000.0, "31536000"),
        ] {
            assert_eq!(Seconds(seconds).to_string(), shown);
        }
        for (rate, shown) in
            [(0.0, "0"), (0.001, "0.001"), (2.5, "2.5"), (9.9996, "10"), (99.5, "100"), (12_345.6, "12346")]
        {
            assert_eq!(Rate(rate).to_string(), shown);
        }
    }

    #[test]
    fn sentences_begin_with_a_capital() {
        assert_eq!(["it is", "µ", "p50", ""].map(capitalised), ["It is", "Μ", "P50", ""]);
    }

    #[test]
    fn digits_are_grouped() {
        for (number, shown) in [
            (0.0, "0"),
            (0.25, "0.25"),
            (999.4, "999"),
            (1000.0, "1,000"),
            (1_234_567.0, "1,234,567"),
            (-100_000.0, "-100,000"),
        ] {
            assert_eq!(Grouped(number).to_string(), shown);
        }
    }
}
