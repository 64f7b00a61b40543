//! A child process whose output is kept in memory, and which does not outlive its owner.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Instant;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::End;
use super::signals::{Signals, wait_readable};
use crate::cpu;

/// A child, killed and reaped when it is dropped, if it has not ended by then.
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
                let thread = scope.spawn(|| cpu::pin(core).and_then(|()| command.spawn()));
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

    /// Its id: nobody else's for as long as it is not reaped, which only this type does.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it has ended, if it has.
    ///
    /// # Errors
    ///
    /// What wait(2) says.
    pub(super) fn status(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Sends it a signal, if it has not ended.
    pub(super) fn signal(&mut self, signal: Signal) {
        if let Ok(None) = self.child.try_wait() {
            // It is there, if only as a zombie, and ours.
            let _ = kill_process(Pid::from_child(&self.child), signal);
        }
    }

    /// Waits for its end; `None` when that has not come by the deadline.
    ///
    /// # Errors
    ///
    /// [`End::Signalled`].
    pub(super) fn wait(&mut self, deadline: Instant, signals: &Signals) -> Result<Option<ExitStatus>, End> {
        loop {
            signals.check()?;
            match self.child.try_wait() {
                Ok(None) if Instant::now() < deadline => signals.wait(Some(self.ended.as_fd()), deadline),
                Ok(status) => return Ok(status),
                Err(error) => return Err(End::failed(format!("cannot wait for a child: {error}"))),
            }
        }
    }

    /// As [`wait`](Self::wait), whatever signals come.
    pub(super) fn wait_regardless(&mut self, deadline: Instant) -> Option<ExitStatus> {
        loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < deadline => {
                    wait_readable(&[Some(self.ended.as_fd())], deadline);
                }
                Ok(status) => return status,
                Err(_) => return None,
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // SIGKILL is not refused to a child of ours, and it ends.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

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

    /// What was written from that offset on, [`LOG_MAX`] of it at most. The writers' offset stays where it is.
    pub(super) fn text(&self, since: u64) -> String {
        let wanted = self.len().saturating_sub(since).min(LOG_MAX);
        let mut bytes = vec![0; usize::try_from(wanted).unwrap_or_default()];
        match self.0.read_exact_at(&mut bytes, since) {
            Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("(its output cannot be read: {error})"),
        }
    }
}

/// The most of an output that is read at once.
const LOG_MAX: u64 = 16 << 20;
