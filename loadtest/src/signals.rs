//! The signals by which a run is ended by hand: what is under way ends early, and what there is gets told.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use libc::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXCPU};
use ringback::system::stray_signals;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionread};
use signal_hook::{flag, low_level};

use crate::run::Word;

/// Takes the signals that ask for nothing here and would end the process without a report. Those that are ignored stay so.
/// SIGPIPE is ignored by Rust.
pub(crate) fn take_stray() {
    let ignored = ignored();
    for signal in stray_signals() {
        if ignored >> (signal - 1) & 1 == 0 {
            // Where the kernel refuses that, the signal does what it always does.
            let _ = flag::register(signal, Arc::default());
        }
    }
}

/// The signals that end a run, for as long as this process lives.
#[derive(Clone, Debug)]
pub(crate) struct Signals {
    /// The number of the latest one; 0 while there was none.
    latest: Arc<AtomicUsize>,
    /// Has a byte for each signal. Nobody reads them, so that it stays readable after the first one.
    wakes: Arc<UnixStream>,
    /// Whether the next one ends the process at once.
    ends_at_once: Arc<AtomicBool>,
}

/// What a second signal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Second {
    /// It ends the process at once.
    Ends,
    /// It is counted: there are children to be ended first.
    Counts,
}

impl Signals {
    /// Takes them from now on, but for those that are ignored: under nohup(1) a hangup is to end nothing. Until
    /// [`Self::hold`] they end the process as ever, with the exit code that a shell would show.
    ///
    /// # Errors
    ///
    /// What sigaction(2) or socketpair(2) says.
    pub(crate) fn take(second: Second) -> io::Result<Self> {
        let latest = Arc::new(AtomicUsize::new(0));
        let ends_at_once = Arc::new(AtomicBool::new(true));
        let (wakes, writer) = UnixStream::pair()?;
        let ignored = ignored();
        let taken = [SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGXCPU];
        for signal in taken.into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0) {
            // The order matters: the first signal does not end the process, and its number is there before the wake-up.
            flag::register_conditional_shutdown(signal, exit_code(signal).into(), Arc::clone(&ends_at_once))?;
            // SIGXCPU, which comes at the limit of `ulimit -t`, comes again with each second of CPU time.
            if second == Second::Ends && signal != SIGXCPU {
                flag::register(signal, Arc::clone(&ends_at_once))?;
            }
            flag::register_usize(signal, Arc::clone(&latest), usize::try_from(signal).unwrap_or_default())?;
            low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        Ok(Self { latest, wakes: Arc::new(wakes), ends_at_once })
    }

    /// From now on there is something to be told, or to be stopped: a signal does not end the process at once.
    pub(crate) fn hold(&self) {
        self.ends_at_once.store(false, Ordering::SeqCst);
    }

    /// From now on the next signal ends the process.
    pub(crate) fn release(&self) {
        self.ends_at_once.store(true, Ordering::SeqCst);
    }

    /// The latest one.
    pub(crate) fn latest(&self) -> Option<i32> {
        i32::try_from(self.latest.load(Ordering::SeqCst)).ok().filter(|&signal| signal != 0)
    }

    /// Whether there was more than one: nothing is to be waited for.
    pub(crate) fn is_urgent(&self) -> bool {
        ioctl_fionread(&*self.wakes).is_ok_and(|count| count > 1)
    }

    /// Waits until `fd` is readable, a signal comes or the deadline is there; the caller looks which.
    pub(crate) fn wait(&self, fd: Option<BorrowedFd<'_>>, deadline: Instant) {
        wait_readable(&[Some(self.wakes.as_fd()), fd], deadline);
    }
}

/// Tells the run that is under way of the first signal.
#[derive(Debug)]
pub(crate) struct Interrupts {
    signals: Signals,
    listener: Arc<Mutex<Option<mpsc::Sender<Word>>>>,
}

impl Interrupts {
    /// Takes the signals. A second one ends the process at once.
    ///
    /// # Errors
    ///
    /// The system refuses what is needed, a thread among that.
    pub(crate) fn take() -> io::Result<Self> {
        let signals = Signals::take(Second::Ends)?;
        let listener = Arc::<Mutex<Option<mpsc::Sender<Word>>>>::default();
        let (wakes, to) = (Arc::clone(&signals.wakes), Arc::clone(&listener));
        let latest = Arc::clone(&signals.latest);
        thread::Builder::new().name("signals".into()).stack_size(STACK).spawn(move || {
            // Any other signal may end the wait as well.
            while latest.load(Ordering::SeqCst) == 0 {
                wait_readable(&[Some(wakes.as_fd())], Instant::now() + FOR_EVER);
            }
            if let Some(to) = &*to.lock().unwrap_or_else(PoisonError::into_inner) {
                // The run may just have ended.
                let _ = to.send(Word::Stop);
            }
        })?;
        Ok(Self { signals, listener })
    }

    /// Those of a process in which no signal is taken.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        let (wakes, _) = UnixStream::pair().expect("a pair");
        let signals =
            Signals { latest: Arc::default(), wakes: Arc::new(wakes), ends_at_once: Arc::default() };
        Self { signals, listener: Arc::default() }
    }

    /// The run that listens at `to` begins.
    pub(crate) fn begin(&self, to: mpsc::Sender<Word>) {
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        self.signals.hold();
        if self.signals.latest().is_some() {
            // The receiver lives as long as the run.
            let _ = to.send(Word::Stop);
        }
        *listener = Some(to);
    }

    /// The signal that has come.
    pub(crate) fn signal(&self) -> Option<i32> {
        self.signals.latest()
    }
}

/// What a process ends with that a signal has ended, as a shell would show it.
pub(crate) fn exit_code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// A signal's name.
pub(crate) fn name(signal: i32) -> &'static str {
    low_level::signal_name(signal).unwrap_or("a signal")
}

/// Of the thread that waits.
const STACK: usize = 64 << 10;

/// A year: poll(2) is asked again by nobody.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The signals that are ignored, the lowest bit for number 1; none where proc(5) does not say.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Waits until one of them is readable or the deadline is there.
pub(crate) fn wait_readable(fds: &[Option<BorrowedFd<'_>>], deadline: Instant) {
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
