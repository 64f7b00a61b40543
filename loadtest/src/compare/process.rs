//! A child process whose output is kept in memory, and which does not outlive its owner, nor do those that it starts.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process, kill_process_group,
    pidfd_open, waitid,
};

use super::End;
use crate::cpu;
use crate::signals::{Signals, wait_readable};

/// A child, killed with its process group and reaped when it is dropped.
///
/// Until then it is not reaped, even when it has ended: as long as it is there, if only as a zombie, its id and its
/// group's are nobody else's. Those that leave the group, as daemons do, are out of reach.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    /// Readable once it has ended.
    ended: OwnedFd,
}

impl Process {
    /// Starts it, on one core if one is given, without standard input.
    ///
    /// It gets a process group of its own, out of reach of the terminal's Ctrl-C: it is its owner's to end, in order.
    ///
    /// # Errors
    ///
    /// The program cannot be started, or the core is not there.
    pub(super) fn spawn(command: &mut Command, core: Option<usize>) -> io::Result<Self> {
        command.stdin(Stdio::null()).process_group(0);
        let mut child = match core {
            None => command.spawn()?,
            // A child inherits the core of the thread that starts it.
            Some(core) => thread::scope(|scope| {
                let start = || cpu::pin(core).and_then(|()| command.spawn());
                let thread = thread::Builder::new().spawn_scoped(scope, start)?;
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })?,
        };
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(ended) => Ok(Self { child, ended }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error.into())
            }
        }
    }

    /// Its id, and its group's.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it has ended, if it has.
    ///
    /// # Errors
    ///
    /// What waitid(2) says.
    pub(super) fn status(&self) -> io::Result<Option<ExitStatus>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(waitid(WaitId::Pid(self.pid()), options)?.as_ref().map(exit_status))
    }

    /// Sends it a signal, if it has not ended.
    pub(super) fn signal(&self, signal: Signal) {
        // It is there, if only as a zombie, and ours.
        let _ = kill_process(self.pid(), signal);
    }

    /// Sends a signal to it and to those that it has started, even when it has ended itself.
    pub(super) fn signal_group(&self, signal: Signal) {
        let _ = kill_process_group(self.pid(), signal);
    }

    /// Waits for its end; `None` when that has not come by the deadline.
    ///
    /// # Errors
    ///
    /// [`End::Signalled`].
    pub(super) fn wait(&self, deadline: Instant, signals: &Signals) -> Result<Option<ExitStatus>, End> {
        loop {
            check(signals)?;
            match self.status() {
                Ok(None) if Instant::now() < deadline => signals.wait(Some(self.ended.as_fd()), deadline),
                Ok(status) => return Ok(status),
                Err(error) => return Err(End::failed(format!("cannot wait for a child: {error}"))),
            }
        }
    }

    /// Waits for its end and for that of its group; `None` when they have not come by the deadline, or when a second signal
    /// came.
    pub(super) fn wait_group(&self, deadline: Instant, signals: &Signals) -> Option<ExitStatus> {
        loop {
            let now = Instant::now();
            let (status, is_late) = (self.status(), now >= deadline || signals.is_urgent());
            match status {
                Ok(Some(status)) if !is_group_running(self.id()) => return Some(status),
                Ok(_) if is_late => return None,
                Ok(None) => wait_readable(&[Some(self.ended.as_fd())], deadline.min(now + URGENT_PAUSE)),
                // Nothing wakes us when those end that are not our children.
                Ok(Some(_)) => thread::sleep(GROUP_PAUSE),
                Err(_) => return None,
            }
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal_group(Signal::KILL);
        // SIGKILL is not refused to a child of ours, and it ends.
        let _ = self.child.wait();
        // Those that it has started end as well, in a moment.
        let deadline = Instant::now() + KILL_DEADLINE;
        while is_group_running(self.id()) && Instant::now() < deadline {
            thread::sleep(GROUP_PAUSE);
        }
    }
}

/// As wait(2) has it, from what waitid(2) says.
fn exit_status(status: &WaitIdStatus) -> ExitStatus {
    let dumped = if status.dumped() { 0x80 } else { 0 };
    let signal = status.terminating_signal().map_or(0, |signal| signal | dumped);
    ExitStatus::from_raw(status.exit_status().unwrap_or(0) << 8 | signal)
}

/// Whether there is a process of that group, zombies apart; no where proc(5) does not say.
fn is_group_running(group: u32) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    processes.filter_map(Result::ok).any(|process| {
        let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        // The name, in parentheses, may have any character in it; behind it come the state, the parent and the group.
        let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
        let is_running = fields.next().is_some_and(|state| !["Z", "X"].contains(&state));
        is_running && fields.nth(1).and_then(|id| id.parse().ok()) == Some(group)
    })
}

/// Passes while there was no signal.
///
/// # Errors
///
/// [`End::Signalled`].
pub(super) fn check(signals: &Signals) -> Result<(), End> {
    signals.latest().map_or(Ok(()), |signal| Err(End::Signalled(signal)))
}

/// Between two looks whether a second signal has come.
const URGENT_PAUSE: Duration = Duration::from_millis(100);

/// Between two looks at a group.
const GROUP_PAUSE: Duration = Duration::from_millis(10);

/// How long what is killed may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(2);

/// What a child writes, in memory.
#[derive(Debug)]
pub(super) struct Log(File);

impl Log {
    /// An empty one.
    ///
    /// # Errors
    ///
    /// What memfd_create(2) says.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(memfd_create("log", MemfdFlags::CLOEXEC)?.into()))
    }

    /// Where a child writes to; those of several share one offset.
    ///
    /// # Errors
    ///
    /// What dup(2) says.
    pub(super) fn writer(&self) -> io::Result<Stdio> {
        Ok(self.0.try_clone()?.into())
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.0.metadata().map_or(0, |metadata| metadata.len())
    }

    /// What was written from that offset on, the last [`LOG_MAX`] of it at most. The writers' offset stays where it is.
    pub(super) fn text(&self, since: u64) -> String {
        let len = self.len();
        let from = since.max(len.saturating_sub(LOG_MAX));
        let mut bytes = vec![0; usize::try_from(len.saturating_sub(from)).unwrap_or_default()];
        match self.0.read_exact_at(&mut bytes, from) {
            Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("(its output cannot be read: {error})"),
        }
    }

    /// Gives back the memory of all but the last [`LOG_MAX`]; offsets stay as they are.
    pub(super) fn trim(&self) {
        if let Some(old @ 1..) = self.len().checked_sub(LOG_MAX) {
            // Where it is not possible the memory is used, and nothing else is lost.
            let _ = fallocate(&self.0, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, old);
        }
    }
}

/// The most of an output that is read, and kept.
const LOG_MAX: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn of_a_long_log_the_end_is_kept() {
        let log = Log::new().expect("a memfd");
        let mut writer = log.0.try_clone().expect("a descriptor");
        let line = "a connection, and another one\n".repeat(1 << 15);
        for _ in 0..40 {
            writer.write_all(line.as_bytes()).expect("memory");
            log.trim();
        }
        writer.write_all(b"the last words\n").expect("memory");
        assert!(log.len() > 2 * LOG_MAX);
        let blocks = log.0.metadata().expect("it is there").blocks();
        assert!(blocks * 512 < LOG_MAX + (1 << 20), "{blocks} blocks");
        let text = log.text(0);
        assert!(text.ends_with("\nthe last words\n") && !text.contains('\0'));
        assert_eq!(text.len() as u64, LOG_MAX);
        assert_eq!(log.text(log.len() - 6), "words\n");
    }
}
