//! What the kernel is short of for a moment only.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// How long to wait before a ring that there was no memory for is asked for again: the kernel counts the locked memory of a
/// ring that is gone for a while.
const PAUSE: Duration = Duration::from_millis(10);

/// Whether an operation that failed so may succeed when it is begun again: a signal came, or the kernel had no memory at the
/// moment.
pub(super) fn is_momentary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
        || is_for_want_of_memory(error)
}

/// Whether the kernel had no memory for an operation at the moment.
pub(super) fn is_for_want_of_memory(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOBUFS | Errno::NOMEM))
}

/// Asks for something until the kernel has the memory for it, for as long as `patience` at most.
///
/// # Errors
///
/// Those of `ask`; ENOMEM only once `patience` is over.
pub(super) fn wait_for_memory<T>(
    patience: Duration,
    mut ask: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let began = Instant::now();
    loop {
        match ask() {
            Err(error)
                if Errno::from_io_error(&error) == Some(Errno::NOMEM) && began.elapsed() < patience =>
            {
                thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks with this answer until the third time, which succeeds; gives the result and how often it asked.
    fn ask(errno: Errno, patience: Duration) -> (Result<(), Option<Errno>>, usize) {
        let mut asked = 0;
        let result = wait_for_memory(patience, || {
            asked += 1;
            if asked < 3 { Err(errno.into()) } else { Ok(()) }
        });
        (result.map_err(|error| Errno::from_io_error(&error)), asked)
    }

    #[test]
    fn only_a_lack_of_memory_is_waited_out() {
        assert_eq!(ask(Errno::NOMEM, Duration::from_secs(60)), (Ok(()), 3));
        assert_eq!(ask(Errno::NOMEM, Duration::ZERO), (Err(Some(Errno::NOMEM)), 1));
        assert_eq!(ask(Errno::PERM, Duration::from_secs(60)), (Err(Some(Errno::PERM)), 1));
    }
}
