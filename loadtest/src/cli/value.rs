//! Values of options, with bounds on both sides.

use std::time::Duration;

use humantime::DurationError;

/// A whole number from 1 to `max`.
pub(crate) fn count(max: u32) -> impl Fn(&str) -> Result<u32, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| (1..=max).contains(number));
        number.ok_or_else(|| format!("a whole number from 1 to {max} is needed"))
    }
}

/// A time from 0 to a year.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    bounded(text, Duration::ZERO)
}

/// A time from a millisecond to a year.
pub(crate) fn time_above_zero(text: &str) -> Result<Duration, String> {
    bounded(text, TIME_MIN)
}

fn bounded(text: &str, min: Duration) -> Result<Duration, String> {
    let min_text = if min.is_zero() { "0s" } else { "1ms" };
    let needed = format!("a time from {min_text} to 365days is needed, such as 10s or 500ms");
    match humantime::parse_duration(text) {
        Ok(time) if (min..=TIME_MAX).contains(&time) => Ok(time),
        Err(DurationError::UnknownUnit { unit, .. }) if unit.is_empty() => {
            Err(format!("it has no time unit; {needed}"))
        }
        Ok(_) | Err(_) => Err(needed),
    }
}

const TIME_MIN: Duration = Duration::from_millis(1);

/// A year. Sums of such times do not overflow.
const TIME_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_bounds() {
        let count = count(100);
        assert_eq!((count("1"), count("100")), (Ok(1), Ok(100)));
        for text in ["0", "101", "-1", "x", "", "1.5", "99999999999999999999"] {
            assert_eq!(count(text).expect_err(text), "a whole number from 1 to 100 is needed");
        }
    }

    #[test]
    fn times_have_bounds() {
        assert_eq!((time("0s"), time("365days")), (Ok(Duration::ZERO), Ok(TIME_MAX)));
        assert_eq!(time_above_zero("1ms"), Ok(TIME_MIN));
        for text in ["0s", "1ns", "999us", "10000years", "-5s", "", "x", "99999999999999999999s"] {
            let told = time_above_zero(text).expect_err(text);
            assert_eq!(told, "a time from 1ms to 365days is needed, such as 10s or 500ms");
        }
        assert!(time("10").expect_err("no unit").starts_with("it has no time unit; a time from 0s to "));
    }
}
