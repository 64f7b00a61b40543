//! A server that is killed and started again.

use std::time::Duration;

use crate::common::{restart, volume};
use crate::on_each_engine;

on_each_engine! {
    #[ignore = "volume: killed under load and started again 30 times, 10 s"]
    killed_under_load_it_soon_serves_again,
    #[ignore = "volume: killed with 400 clients that never read and started again 30 times, 30 s"]
    killed_with_much_to_send_it_soon_serves_again,
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

/// From the start of the new process to the first echo, where the kernel has much to end first: half of the time, and always.
const BACK_MEDIAN: Duration = Duration::from_millis(300);
const BACK_ALWAYS: Duration = Duration::from_secs(2);

fn killed_with_much_to_send_it_soon_serves_again(engine: &str) {
    let mut took = restart::first_echoes_after_kills_with_unread(engine, 400, volume(30).max(5));
    took.sort_unstable();
    let (median, most) = (took[took.len() / 2], took[took.len() - 1]);
    println!(
        "{engine}: {} times, the first echo came {median:?} after the start, {most:?} at most",
        took.len()
    );
    assert!(median <= BACK_MEDIAN, "the first echo came after {median:?}");
    assert!(most <= BACK_ALWAYS, "the first echo came after {most:?}");
}
