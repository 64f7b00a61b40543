//! This process's own threads: where they run and what they cost.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// What a thread has had of the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ThreadUsage {
    /// Time on a core, user and system.
    pub(crate) cpu: Duration,
    /// Time in which it could have run and had no core; 0 where the kernel does not say.
    pub(crate) waited: Duration,
}

impl ThreadUsage {
    /// What the calling thread has had since it began.
    pub(crate) fn now() -> Self {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        // The clock counts up from 0, and its nanoseconds stay below 10^9.
        let cpu = Duration::new(
            u64::try_from(time.tv_sec).unwrap_or_default(),
            u32::try_from(time.tv_nsec).unwrap_or_default(),
        );
        // Its second field is the time on the run queue (the kernel's sched-stats.rst).
        let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let waited = schedstat.split_ascii_whitespace().nth(1).and_then(|field| field.parse().ok());
        Self { cpu, waited: Duration::from_nanos(waited.unwrap_or_default()) }
    }

    /// What it has had since that earlier moment.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self { cpu: self.cpu.saturating_sub(earlier.cpu), waited: self.waited.saturating_sub(earlier.waited) }
    }
}

/// Whether the calling thread may run on this core.
///
/// # Errors
///
/// What sched_getaffinity(2) says.
pub(crate) fn may_run_on(core: usize) -> io::Result<bool> {
    Ok(core < CpuSet::MAX_CPU && sched_getaffinity(None)?.is_set(core))
}

/// Keeps the calling thread on one core, which [`may_run_on`] has allowed.
///
/// # Errors
///
/// What sched_setaffinity(2) says.
pub(crate) fn pin(core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_thread_grows_with_its_own_work() {
        let before = ThreadUsage::now();
        while ThreadUsage::now().since(before).cpu < Duration::from_millis(5) {}
        let fresh = std::thread::spawn(ThreadUsage::now).join().expect("it ends");
        assert!(fresh.cpu < ThreadUsage::now().cpu);
    }

    #[test]
    fn threads_that_share_a_core_wait_for_it() {
        if !fs::exists("/proc/thread-self/schedstat").expect("asked") {
            say!("skipped: the kernel has no schedstat");
            return;
        }
        let core = (0..CpuSet::MAX_CPU).find(|&core| may_run_on(core).expect("asked")).expect("one core");
        let work = move || {
            pin(core).expect("pinned");
            let before = ThreadUsage::now();
            while ThreadUsage::now().since(before).cpu < Duration::from_millis(50) {}
            ThreadUsage::now().since(before).waited
        };
        let threads = [std::thread::spawn(work), std::thread::spawn(work)];
        let waited: Duration = threads.map(|thread| thread.join().expect("no panic")).iter().sum();
        assert!(waited > Duration::from_millis(5), "{waited:?}");
    }

    #[test]
    fn a_pinned_thread_may_run_on_its_core_only() {
        std::thread::spawn(|| {
            let core = (0..CpuSet::MAX_CPU).find(|&core| may_run_on(core).expect("asked")).expect("one core");
            pin(core).expect("pinned");
            let left: Vec<_> =
                (0..CpuSet::MAX_CPU).filter(|&core| may_run_on(core).expect("asked")).collect();
            assert_eq!(left, [core]);
        })
        .join()
        .expect("no panic");
    }

    #[test]
    fn a_core_that_cannot_exist_is_refused() {
        assert!(!may_run_on(CpuSet::MAX_CPU).expect("asked"));
        assert!(!may_run_on(usize::MAX).expect("asked"));
    }
}
