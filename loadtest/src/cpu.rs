//! This process's own threads: where they run and what they cost.

use std::io;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// CPU time that the calling thread has used, user and system.
pub(crate) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // The clock counts up from 0, and its nanoseconds stay below 10^9.
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
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
    fn the_time_of_a_thread_grows_with_its_work() {
        let before = thread_time();
        while thread_time() - before < Duration::from_millis(5) {}
        assert!(std::thread::spawn(thread_time).join().expect("it ends") < thread_time());
    }

    #[test]
    fn a_pinned_thread_may_run_on_its_core_only() {
        std::thread::spawn(|| {
            let core = (0..CpuSet::MAX_CPU)
                .find(|&core| may_run_on(core).expect("asked"))
                .expect("one core");
            pin(core).expect("pinned");
            let left: Vec<_> = (0..CpuSet::MAX_CPU)
                .filter(|&core| may_run_on(core).expect("asked"))
                .collect();
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
