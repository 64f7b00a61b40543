//! io_uring_setup(2): the flags of a worker's ring, and what to do where there is little memory for it.

use std::io;
use std::time::Duration;

use io_uring::IoUring;
use rustix::io::Errno;

use super::super::shortage::wait_for_memory;

/// The least entries of a submission queue to make do with.
const SUBMISSIONS_MIN: u32 = 64;

/// Sets a ring up, with at most so many entries in its queues. Says too whether it is one with NO_SQARRAY. It is to be
/// used by this thread only.
///
/// Where there is no memory for it, a smaller one, or one that is asked for again for a while: the kernel counts the
/// locked memory of a ring that is gone some time longer.
///
/// # Errors
///
/// Those of io_uring_setup(2) and mmap(2).
pub(crate) fn set_up(submissions: u32, completions: u32, patience: Duration) -> io::Result<(IoUring, bool)> {
    wait_for_memory(patience, || {
        let mut part = 1;
        loop {
            match set_up_now(submissions / part, completions / part) {
                Err(error)
                    if Errno::from_io_error(&error) == Some(Errno::NOMEM)
                        && submissions / part > SUBMISSIONS_MIN =>
                {
                    part *= 2;
                }
                result => return result,
            }
        }
    })
}

/// io_uring_setup(2) with the best flags that the kernel has.
fn set_up_now(submissions: u32, completions: u32) -> io::Result<(IoUring, bool)> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(completions);
    match builder.clone().setup_no_sqarray().build(submissions) {
        // The kernel says no more than that one of the flags is new to it.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
            builder.build(submissions).map(|ring| (ring, false))
        }
        result => result.map(|ring| (ring, true)),
    }
}
