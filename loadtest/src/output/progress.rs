//! What is told on a terminal while the load runs.

use std::io::{IsTerminal as _, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::figures::{Grouped, Micros, quantile_us};
use super::text::NOTHING_CAME_BACK;
use crate::series;
use crate::tally::Interval;

/// A line that shows how far a run is and how its last second was, and is gone at the end.
///
/// It is drawn when a second is over and not in between: a line that moves by itself would need a thread, which would
/// take its time from the load.
pub(crate) struct Progress {
    bar: ProgressBar,
    seconds: u64,
    /// What stands before the rest.
    title: String,
    errors: u64,
}

impl Progress {
    /// Shows nothing when standard error is no terminal, or when it is to be quiet.
    pub(crate) fn new(window: Duration, title: impl Into<String>, is_quiet: bool) -> Self {
        let seconds = series::seconds(window);
        let target = if is_quiet || !stderr().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let style = ProgressStyle::with_template(TEMPLATE).expect("a constant that it takes");
        let bar =
            ProgressBar::with_draw_target(Some(seconds), target).with_style(style.progress_chars("━╸─"));
        let title = title.into();
        bar.set_message(format!("{title}connecting and warming up"));
        bar.tick();
        Self { bar, seconds, title, errors: 0 }
    }

    /// A second of the window is over.
    pub(crate) fn on_second(&mut self, interval: &Interval) {
        if self.bar.is_hidden() {
            return;
        }
        self.errors += interval.errors;
        let latency = &interval.latency;
        let quantiles = match latency.is_empty() {
            true => NOTHING_CAME_BACK.to_owned(),
            false => {
                let [p50, p99] = [0.5, 0.99].map(|quantile| Micros(quantile_us(latency, quantile)));
                format!("p50 {p50}  p99 {p99}")
            }
        };
        let messages = Grouped(interval.messages as f64);
        let errors = match (interval.errors, self.errors) {
            (now, all) if now == all => format!("errors {now}"),
            (now, all) => format!("errors {now}, {all} in all"),
        };
        self.bar.set_message(format!("{}{messages}/s  {quantiles}  {errors}", self.title));
        self.bar.set_position((interval.second + 1).min(self.seconds));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

const TEMPLATE: &str = "{bar:12} {pos}/{len} s  {wide_msg}";
