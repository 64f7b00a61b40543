//! What the kernel says about this process, by the names that Prometheus has for it.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// This process at one moment; `None` is what cannot be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process {
    /// CPU time of all threads, in user and in system mode.
    pub(super) cpu_seconds: f64,
    /// Memory that is resident, and addresses that are mapped, in bytes.
    pub(super) resident: Option<u64>,
    pub(super) mapped: Option<u64>,
    /// Descriptors that are open, and that may be; `None` for as many as it likes.
    pub(super) open_fds: Option<u64>,
    pub(super) max_fds: Option<u64>,
    /// When it began, since 1970.
    pub(super) start_seconds: Option<f64>,
}

impl Process {
    /// This one, now.
    pub(super) fn now() -> Self {
        let memory = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let mut pages = memory.split_whitespace().map(str::parse::<u64>);
        let mut bytes = || Some(pages.next()?.ok()? * page_size() as u64);
        // In this order (proc_pid_statm(5)).
        let (mapped, resident) = (bytes(), bytes());
        Self {
            cpu_seconds: seconds(clock_gettime(ClockId::ProcessCPUTime)),
            resident,
            mapped,
            // One of them is what they are counted by.
            open_fds: fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count().saturating_sub(1) as u64),
            max_fds: getrlimit(Resource::Nofile).current,
            start_seconds: start(),
        }
    }
}

/// The kernel says how long after the boot it was.
fn start() -> Option<f64> {
    let ticks = start_ticks(&fs::read_to_string("/proc/self/stat").ok()?)?;
    let age = seconds(clock_gettime(ClockId::Boottime)) - ticks as f64 / clock_ticks_per_second() as f64;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    // To the tick: the two clocks are not read at the same moment.
    let ticks_per_second = clock_ticks_per_second() as f64;
    Some(((now.as_secs_f64() - age) * ticks_per_second).round() / ticks_per_second)
}

/// `starttime`, field 22 of `/proc/PID/stat` (proc_pid_stat(5)); the name, field 2, may contain anything.
fn start_ticks(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn seconds(time: Timespec) -> f64 {
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_is_found_behind_any_name() {
        let stat = "7 (a) R (b)) S 1 7 7 0 -1 4194560 100 0 0 0 3 4 0 0 20 0 1 0 1234 10 20 30";
        assert_eq!(start_ticks(stat), Some(1234));
        assert_eq!(start_ticks("7 (a"), None);
    }

    #[test]
    fn this_process_is_read() {
        let process = Process::now();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let start = process.start_seconds.unwrap();
        assert!(start <= now + 0.1 && start > now - 24.0 * 3600.0, "{start} is not just before {now}");
        assert!(process.resident.unwrap() > 1 << 20 && process.mapped > process.resident);
        assert!(process.cpu_seconds > 0.0 && process.open_fds.unwrap() >= 3);
    }
}
