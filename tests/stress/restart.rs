//! A server that is killed and started again.

use std::time::Duration;

use crate::common::{restart, volume};
use crate::on_each_engine;

on_each_engine! {
    #[ignore = "volume: killed under load and started again 30 times, 10 s"]
    killed_under_load_it_soon_serves_again,
}

/// From the start of the new process to the first echo to a new client.
const BACK_MAX: Duration = Duration::from_millis(300);

fn killed_under_load_it_soon_serves_again(engine: &str) {
    let mut took = restart::first_echoes_after_kills(engine, volume(30).max(5));
    took.sort_unstable();
    let (median, most) = (took[took.len() / 2], took[took.len() - 1]);
    println!(
        "{engine}: {} times, the first echo came {median:?} after the start, {most:?} at most",
        took.len()
    );
    assert!(most <= BACK_MAX, "the first echo came after {most:?}");
}
