//! SIGINT, SIGTERM, SIGQUIT and SIGHUP: what is under way ends, and the servers are stopped, before this process goes.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::{flag, low_level};

use super::End;

/// The signals that end a comparison, for as long as this process lives.
#[derive(Debug)]
pub(crate) struct Signals {
    /// The number of the latest one; 0 while there was none.
    latest: Arc<AtomicUsize>,
    /// Readable once there was one, and for good: nobody reads it.
    wakes: UnixStream,
}

impl Signals {
    /// Takes them from now on, but for those that are ignored: whoever runs us under nohup(1) wants that.
    ///
    /// # Errors
    ///
    /// What sigaction(2) or socketpair(2) says.
    pub(crate) fn take() -> io::Result<Self> {
        let latest = Arc::new(AtomicUsize::new(0));
        let (wakes, writer) = UnixStream::pair()?;
        let ignored = ignored();
        let taken = [SIGINT, SIGTERM, SIGQUIT, SIGHUP];
        for signal in taken.into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0) {
            // In this order, so that whoever is woken finds the number.
            flag::register_usize(signal, Arc::clone(&latest), usize::try_from(signal).unwrap_or_default())?;
            low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        Ok(Self { latest, wakes })
    }

    /// Passes while there was none.
    ///
    /// # Errors
    ///
    /// [`End::Signalled`].
    pub(crate) fn check(&self) -> Result<(), End> {
        match self.latest.load(Ordering::SeqCst) {
            0 => Ok(()),
            signal => Err(End::Signalled(i32::try_from(signal).unwrap_or_default())),
        }
    }

    /// Waits until `fd` is readable, a signal comes or the deadline is there; the caller looks which.
    pub(super) fn wait(&self, fd: Option<BorrowedFd<'_>>, deadline: Instant) {
        wait_readable(&[Some(self.wakes.as_fd()), fd], deadline);
    }
}

/// The signals that are ignored, the lowest bit for number 1; none where proc(5) does not say.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Waits until one of them is readable or the deadline is there.
pub(super) fn wait_readable(fds: &[Option<BorrowedFd<'_>>], deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    };
    let mut fds: Vec<_> =
        fds.iter().flatten().map(|&fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    // Whatever ends the wait, the caller looks at what it waits for, and at the clock.
    let ended = poll(&mut fds, Some(&timeout));
    debug_assert!(matches!(ended, Ok(_) | Err(Errno::INTR)), "{ended:?}");
}
