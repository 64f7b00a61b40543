//! Faults that are planted to see that the simulation finds them: most at the seam, where the kernel and the ring are
//! told something else than was said; the rest are switches in the code.
#![expect(unsafe_code, reason = "operations name memory")]

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::ptr::NonNull;
use std::time::Duration;

use fastrand::Rng;
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::net::SendFlags;

use super::super::super::planted::Fault;
use super::super::super::slots::Id;
use super::super::event::Wait;
use super::super::queues::{Completion, Operation, Queues, Verb};
use super::super::token::{Op, Token};
use super::kernel::Kernel;

/// The simulated kernel, and a fault between it and the ring.
#[derive(Debug)]
pub(super) struct Faulty {
    pub(super) kernel: Kernel,
    fault: Option<Fault>,
    rng: Rng,
    /// What the ring is told, beside what the kernel says.
    invented: VecDeque<Completion>,
    /// A completion that waits for another one to take its place.
    held: Option<Completion>,
    is_held_back: bool,
    /// Shutdowns whose completions the ring has had.
    early: Vec<Token>,
}

impl Faulty {
    pub(super) fn new(kernel: Kernel, fault: Option<Fault>, rng: Rng) -> Self {
        let (invented, early) = (VecDeque::new(), Vec::new());
        Self { kernel, fault, rng, invented, held: None, is_held_back: false, early }
    }

    /// Whether the fault shows this time.
    fn is(&mut self, fault: Fault) -> bool {
        self.fault == Some(fault) && self.rng.u8(0..3) == 0
    }

    fn invent(&mut self, token: Token) {
        self.invented.push_back(Completion { token: Some(token), result: 0, is_last: true, buffer: None });
    }

    /// What the ring is told in place of a completion.
    fn twist(&mut self, mut completion: Completion) -> Option<Completion> {
        let Some(token) = completion.token else { return Some(completion) };
        let is_receive = matches!(token.op, Op::ReceiveSmall | Op::ReceiveBig);
        let has_bytes = is_receive && completion.result > 0;
        let is_errno = |errno: Errno| completion.result == -errno.raw_os_error();
        match token.op {
            _ if is_receive && completion.is_last && has_bytes && self.is(Fault::EndIsHidden) => {
                completion.is_last = false;
            }
            _ if has_bytes && !completion.is_last && self.is(Fault::EndIsInvented) => {
                completion.is_last = true;
            }
            _ if is_receive && is_errno(Errno::NOBUFS) && self.is(Fault::NoBufferIsEnd) => {
                completion.result = 0;
            }
            _ if is_receive && is_errno(Errno::NOBUFS) && self.is(Fault::NoBufferIsLost) => return None,
            _ if is_receive && is_errno(Errno::CANCELED) && self.is(Fault::CancelledIsReset) => {
                completion.result = -Errno::CONNRESET.raw_os_error();
            }
            Op::Accept if completion.result >= 0 && completion.is_last && self.is(Fault::AcceptIsLost) => {
                completion.is_last = false;
            }
            Op::Send | Op::SendWaiting if self.is(Fault::SentIsLost) => return None,
            Op::Send | Op::SendWaiting if completion.result > 0 && self.is(Fault::ShortIsWhole) => {
                completion.result = i32::MAX;
            }
            Op::Wake if self.fault == Some(Fault::WakeIsLost) => return None,
            Op::Unconfirmed if self.fault == Some(Fault::AnswerIsLost) => return None,
            Op::Alarm if self.fault == Some(Fault::AlarmIsLost) => return None,
            Op::Shutdown => {
                if let Some(at) = self.early.iter().position(|early| *early == token) {
                    self.early.swap_remove(at);
                    return None;
                }
            }
            _ => {}
        }
        if token.op == Op::Send && self.is(Fault::TokenIsWrong) {
            let id = Id { generation: token.id.generation ^ 1, ..token.id };
            completion.token = Some(Token { id, ..token });
        }
        let is_swapped = match self.fault {
            Some(Fault::ReceivesAreSwapped | Fault::BuffersAreSwapped) => has_bytes && !completion.is_last,
            _ => false,
        };
        if is_swapped && self.held.is_none() {
            self.held = Some(completion);
            return None;
        }
        if let Some(mut held) = self.held.take() {
            let is_same = held.token == completion.token && is_swapped;
            if is_same && self.is(Fault::BuffersAreSwapped) {
                std::mem::swap(&mut held.buffer, &mut completion.buffer);
            }
            if !is_same || !self.is(Fault::ReceivesAreSwapped) {
                std::mem::swap(&mut held, &mut completion);
            }
            self.invented.push_front(held);
        }
        Some(completion)
    }
}

impl Queues for Faulty {
    const FAULTS: bool = Kernel::FAULTS;

    fn register(&mut self, files: u32, groups: [u16; 2]) -> io::Result<()> {
        self.kernel.register(files, groups)
    }

    unsafe fn push(&mut self, operation: &Operation) -> bool {
        let Operation { token, mut verb } = *operation;
        match &mut verb {
            Verb::Cancel { token } if token.op != Op::Accept && self.is(Fault::CancelIsLost) => return true,
            Verb::Receive { .. } if self.is(Fault::ReceiveIsDoubled) => {
                // SAFETY: as the caller says.
                unsafe { self.kernel.push(operation) };
            }
            Verb::Send { .. } | Verb::SendMessage { .. } if self.is(Fault::SendIsDoubled) => {
                // SAFETY: as the caller says.
                unsafe { self.kernel.push(operation) };
            }
            Verb::Send { is_silent, flags, .. } | Verb::SendMessage { is_silent, flags, .. } => {
                if flags.contains(SendFlags::DONTWAIT) {
                    *is_silent |= self.fault == Some(Fault::SendIsSilent);
                } else if self.fault == Some(Fault::SendDoesNotWait) {
                    *flags |= SendFlags::DONTWAIT;
                }
            }
            Verb::AwaitQueued { .. } if self.fault == Some(Fault::AwaitIsLost) => return true,
            Verb::Shutdown { how: Shutdown::Write, .. } if self.is(Fault::ShutdownIsLost) => {
                self.invent(token);
                return true;
            }
            Verb::Shutdown { .. } if self.is(Fault::ShutdownIsLate) => {
                self.invent(token);
                self.early.push(token);
            }
            Verb::Shutdown { file, how: Shutdown::Both } if self.is(Fault::CloseIsEarly) => {
                verb = Verb::Close { file: *file };
            }
            _ => {}
        }
        // SAFETY: as the caller says.
        let is_queued = unsafe { self.kernel.push(&Operation { token, verb }) };
        if let Verb::Send { bytes, .. } = verb
            && self.is(Fault::ContentChanges)
        {
            // SAFETY: the memory is good, and nobody borrows from it now.
            unsafe { *bytes.cast_mut() ^= 1 };
        }
        is_queued
    }

    fn room(&mut self) -> usize {
        self.kernel.room()
    }

    fn has_submissions(&mut self) -> bool {
        self.fault != Some(Fault::SubmissionsAreHidden) && self.kernel.has_submissions()
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        self.is_held_back = self.is(Fault::CompletionsAreLate);
        let is_sleep = matches!(wait, Wait::Forever | Wait::AtMost(_));
        self.kernel.enter(if is_sleep && !self.invented.is_empty() { Wait::No } else { wait })
    }

    fn next(&mut self) -> Option<Completion> {
        loop {
            if let Some(completion) = self.invented.pop_front() {
                return Some(completion);
            }
            if std::mem::take(&mut self.is_held_back) {
                return None;
            }
            let Some(completion) = self.kernel.next() else {
                return self.held.take();
            };
            if let Some(completion) = self.twist(completion) {
                return Some(completion);
            }
        }
    }

    fn has_completions(&mut self) -> bool {
        self.kernel.has_completions()
    }

    fn has_overflowed(&mut self) -> bool {
        self.fault != Some(Fault::OverflowIsHidden) && !self.is_held_back && self.kernel.has_overflowed()
    }

    fn is_task_work_due(&mut self) -> bool {
        self.kernel.is_task_work_due()
    }

    unsafe fn provide(&mut self, group: u16, index: u16, start: NonNull<u8>, len: u32) {
        if !self.is(Fault::BufferIsLost) {
            // SAFETY: as the caller says.
            unsafe { self.kernel.provide(group, index, start, len) };
        }
    }

    fn install(&self, file: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.kernel.install(file, socket)
    }

    fn cancel_all(&self, at_most: Duration) -> io::Result<()> {
        self.kernel.cancel_all(at_most)
    }

    fn is_queued(&self, listener: BorrowedFd<'_>) -> bool {
        self.kernel.is_queued(listener)
    }

    fn empty(&self, eventfd: BorrowedFd<'_>) {
        self.kernel.empty(eventfd);
    }

    fn time(&self) -> Duration {
        self.kernel.time()
    }
}
