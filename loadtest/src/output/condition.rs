//! Conditions on what a run found, such as `p99>5ms`.

use std::fmt;
use std::str::FromStr;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::figures::{Grouped, Micros, quantile_us, us};
use super::report::Report;

/// A figure of a report and the bound that it is on one side of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Condition {
    /// As it was asked for.
    text: String,
    figure: Figure,
    relation: Relation,
    /// In the figure's unit.
    bound: f64,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Figure {
    Latency(Statistic),
    Lateness(Statistic),
    Rate,
    Errors,
    ServerCpu,
    ClientCpu,
}

/// What can be asked of a histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Statistic {
    Mean,
    Max,
    /// 0 to 1.
    Quantile(f64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Relation {
    Less,
    AtMost,
    More,
    AtLeast,
}

/// A condition that a run was to fail on, and does.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(crate) struct Failed {
    /// As it was asked for.
    condition: String,
    /// The figure that it is about, in `unit`; null where it could not be known, which fails as well.
    value: Option<f64>,
    unit: Unit,
}

/// What a figure is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    /// Microseconds.
    Us,
    /// Messages a second.
    PerSecond,
    /// Errors.
    Count,
}

impl Condition {
    /// Whether the report is so; `None` where it does not have the figure.
    pub(crate) fn evaluate(&self, report: &Report) -> Option<bool> {
        self.value(report).map(|value| match self.relation {
            Relation::Less => value < self.bound,
            Relation::AtMost => value <= self.bound,
            Relation::More => value > self.bound,
            Relation::AtLeast => value >= self.bound,
        })
    }

    /// What a run is told that was to fail on this condition; `None` when it is not so.
    pub(crate) fn failed(&self, report: &Report) -> Option<Failed> {
        self.evaluate(report).unwrap_or(true).then(|| Failed {
            condition: self.text.clone(),
            value: self.value(report),
            unit: self.figure.unit(),
        })
    }

    /// The figure in words, with its unit.
    pub(crate) fn shown(&self, report: &Report) -> String {
        Shown(self.value(report), self.figure.unit()).to_string()
    }

    /// Whether it is about the server's process.
    pub(crate) const fn needs_server(&self) -> bool {
        matches!(self.figure, Figure::ServerCpu)
    }

    /// Whether it begins to be so as the rate grows, and is not so before: the wrong way round for a search of the rate up to
    /// which it is so.
    pub(crate) const fn begins_with_load(&self) -> bool {
        matches!(self.figure, Figure::Latency(_) | Figure::Lateness(_) | Figure::Errors)
            && matches!(self.relation, Relation::More | Relation::AtLeast)
    }

    /// The same with the relation turned round.
    pub(crate) fn reversed(&self) -> String {
        self.text.replace(['<', '>'], if self.text.contains('>') { "<" } else { ">" })
    }

    /// Whether it is about messages that are due at a time of their own.
    pub(crate) const fn needs_rate(&self) -> bool {
        matches!(self.figure, Figure::Lateness(_))
    }

    fn value(&self, report: &Report) -> Option<f64> {
        match self.figure {
            Figure::Latency(statistic) => statistic.of(&report.raw.latency),
            Figure::Lateness(statistic) => statistic.of(report.raw.lateness.as_ref()?),
            Figure::Rate => Some(report.messages_per_second),
            Figure::Errors => Some(report.errors_total as f64),
            Figure::ServerCpu => report.server_cpu_us_per_message,
            Figure::ClientCpu => report.client_cpu_us_per_message,
        }
    }
}

impl Figure {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "rate" => Self::Rate,
            "errors" => Self::Errors,
            "server_cpu" => Self::ServerCpu,
            "client_cpu" => Self::ClientCpu,
            name => match name.strip_prefix("lateness_") {
                Some(statistic) => Self::Lateness(Statistic::parse(statistic)?),
                None => Self::Latency(Statistic::parse(name)?),
            },
        })
    }

    const fn unit(self) -> Unit {
        match self {
            Self::Latency(_) | Self::Lateness(_) | Self::ServerCpu | Self::ClientCpu => Unit::Us,
            Self::Rate => Unit::PerSecond,
            Self::Errors => Unit::Count,
        }
    }
}

impl Statistic {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "mean" => Some(Self::Mean),
            "max" => Some(Self::Max),
            name => parse_percent(name.strip_prefix('p')?).map(|percent| Self::Quantile(percent / 100.0)),
        }
    }

    /// In microseconds, of nanoseconds; `None` of nothing.
    fn of(self, histogram: &Histogram<u64>) -> Option<f64> {
        (!histogram.is_empty()).then(|| match self {
            Self::Mean => histogram.mean() / 1e3,
            Self::Max => us(histogram.max()),
            Self::Quantile(quantile) => quantile_us(histogram, quantile),
        })
    }
}

/// The percentile in a name, which may lack its point, as those of the JSON object do: `99.9` or `999`.
fn parse_percent(digits: &str) -> Option<f64> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let has_no_point = digits.len() > 2 && digits.starts_with('9') && !digits.contains('.');
    let number = if has_no_point { format!("{}.{}", &digits[..2], &digits[2..]) } else { digits.to_owned() };
    number.parse().ok().filter(|percent| is_number && (0.0..=100.0).contains(percent))
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text: String = text.split_whitespace().collect();
        let at = text.find(['<', '>']).ok_or(HOW)?;
        let (name, rest) = text.split_at(at);
        let (relation, bound) = RELATIONS
            .iter()
            .find_map(|(sign, relation)| Some((*relation, rest.strip_prefix(sign)?)))
            .ok_or(HOW)?;
        let figure = Figure::parse(name).ok_or_else(|| {
            format!("{name:?} is not known: {FIGURES}, and of how late the generator was {LATENESS}")
        })?;
        let bound = match figure.unit() {
            Unit::Us => {
                parse_us(bound).ok_or_else(|| format!("{bound:?} is no time such as 5ms or 200us"))?
            }
            Unit::PerSecond => parse_rate(bound)
                .ok_or_else(|| format!("{bound:?} is no number such as 1000, 20k or 1.5M"))?,
            Unit::Count => {
                parse_number(bound).ok_or_else(|| format!("{bound:?} is no number such as 1000"))?
            }
        };
        Ok(Self { text, figure, relation, bound })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value {
            Some(_) => write!(f, "{}: it was {}", self.condition, Shown(self.value, self.unit)),
            None => write!(f, "{}: it is not known", self.condition),
        }
    }
}

/// A figure in words, where it is known.
struct Shown(Option<f64>, Unit);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self(None, _) => f.write_str("unknown"),
            Self(Some(value), Unit::Us) => write!(f, "{}", Micros(value)),
            Self(Some(value), Unit::PerSecond) => write!(f, "{} a second", Grouped(value)),
            Self(Some(value), Unit::Count) => write!(f, "{}", Grouped(value)),
        }
    }
}

fn parse_us(text: &str) -> Option<f64> {
    let at = text.find(|char: char| !char.is_ascii_digit() && char != '.')?;
    let (number, unit) = text.split_at(at);
    let factor = match unit {
        "ns" => 1e-3,
        "us" | "µs" | "μs" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return None,
    };
    parse_number(number).map(|number| number * factor)
}

/// A number a second, with k or M as --rate has them.
fn parse_rate(text: &str) -> Option<f64> {
    let (number, factor) = match text.char_indices().next_back()? {
        (at, 'k' | 'K') => (&text[..at], 1e3),
        (at, 'M') => (&text[..at], 1e6),
        _ => (text, 1.0),
    };
    parse_number(number).map(|number| number * factor)
}

/// A number of decimal digits, perhaps with a point.
fn parse_number(text: &str) -> Option<f64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.parse().ok().filter(|_| is_plain)
}

/// The longer signs first: the shorter ones begin them.
const RELATIONS: [(&str, Relation); 4] =
    [("<=", Relation::AtMost), (">=", Relation::AtLeast), ("<", Relation::Less), (">", Relation::More)];

const HOW: &str = "a condition is a figure, one of < <= > >=, and a bound: p99>5ms";

const FIGURES: &str = "of the latency there are p50, p99.9 (any percentile), mean and max, further rate, errors, \
                       server_cpu and client_cpu (a message)";

const LATENESS: &str = "lateness_p99 (any percentile), lateness_mean and lateness_max";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(Figure, Relation, f64), String> {
        text.parse().map(|it: Condition| (it.figure, it.relation, it.bound))
    }

    #[test]
    fn conditions_are_read() {
        use {Figure::*, Relation::*, Statistic::*};
        for (text, figure, relation, bound) in [
            ("p99>5ms", Latency(Quantile(0.99)), More, 5_000.0),
            (" p50 >= 1.5 us", Latency(Quantile(0.5)), AtLeast, 1.5),
            ("max>200ms", Latency(Max), More, 200_000.0),
            ("mean<1s", Latency(Mean), Less, 1_000_000.0),
            ("rate<10000", Rate, Less, 10_000.0),
            ("rate<20k", Rate, Less, 20_000.0),
            ("rate>=1.5M", Rate, AtLeast, 1_500_000.0),
            ("errors>0", Errors, More, 0.0),
            ("lateness_p99>1ms", Lateness(Quantile(0.99)), More, 1_000.0),
            ("lateness_max<=500ns", Lateness(Max), AtMost, 0.5),
            ("server_cpu>5µs", ServerCpu, More, 5.0),
            ("client_cpu>5us", ClientCpu, More, 5.0),
            ("p100<1s", Latency(Quantile(1.0)), Less, 1_000_000.0),
        ] {
            assert_eq!(parse(text), Ok((figure, relation, bound)), "{text}");
        }
        for (text, percent) in [("p99.9<1s", 99.9), ("p999<1s", 99.9), ("p9999<1s", 99.99), ("p9<1s", 9.0)] {
            let Ok((Latency(Quantile(quantile)), ..)) = parse(text) else { panic!("{text}") };
            assert!((quantile * 100.0 - percent).abs() < 1e-9, "{text}");
        }
    }

    #[test]
    fn mistakes_say_what_is_known() {
        for (text, word) in [
            ("", "p99>5ms"),
            ("p99", "p99>5ms"),
            ("p99=5ms", "p99>5ms"),
            ("p101>5ms", "server_cpu"),
            ("p-1>5ms", "server_cpu"),
            ("p>5ms", "server_cpu"),
            ("pinf>5ms", "server_cpu"),
            ("latency>5ms", "lateness_p99"),
            ("lateness>5ms", "lateness_max"),
            ("p99>5", "5ms"),
            ("p99>ms", "5ms"),
            ("p99>5min", "5ms"),
            ("p99>>5ms", "5ms"),
            ("p99>-5ms", "5ms"),
            ("rate<k", "20k"),
            ("rate<1kk", "20k"),
            ("rate<5m", "20k"),
            ("rate<nan", "20k"),
            ("rate<", "20k"),
            ("errors>1k", "1000"),
            ("errors>0ms", "1000"),
        ] {
            let error = text.parse::<Condition>().expect_err(text);
            assert!(error.contains(word) && !error.contains('\n'), "{text}: {error}");
        }
    }
}
