//! How long a ring's driver waits for the next event, and how it looks for one without sleeping.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use super::driver::RingDriver;
use super::event::Wait;
use super::queues::Queues;

impl<Q: Queues> RingDriver<Q> {
    /// Submits what there is, and waits until something has come.
    pub(super) fn wait(&mut self, at_most: Option<Duration>) -> io::Result<()> {
        // Not twice in a row: a receive that is begun anew completes when it is submitted, and could keep those from
        // being heard whose bytes came meanwhile.
        self.has_only_submitted = !self.has_only_submitted && self.ring.is_short_of_buffers();
        if self.has_only_submitted {
            return self.ring.enter(Wait::SubmitOnly);
        }
        if !self.late.is_empty() && !planted!(SleepsOnLate) || at_most == Some(Duration::ZERO) {
            return self.ring.enter(Wait::No);
        }
        let patience = self.patience().at_most(at_most);
        if self.busy_poll.is_zero() || patience == Wait::No {
            return self.ring.enter(patience);
        }
        self.poll_busily(patience)
    }

    /// Looks for completions for a while before it sleeps. The kernel says in shared memory that there are some.
    fn poll_busily(&mut self, patience: Wait) -> io::Result<()> {
        if self.ring.has_submissions() {
            self.ring.enter(Wait::No)?;
        }
        let (polls, is_due_then) = match patience {
            Wait::AtMost(due) if due <= self.busy_poll => (due, true),
            _ => (self.busy_poll, false),
        };
        let began = self.ring.time();
        while !self.ring.has_completions() {
            if self.ring.time() - began >= polls {
                return if is_due_then { Ok(()) } else { self.ring.enter(patience) };
            }
            std::hint::spin_loop();
        }
        if self.ring.is_task_work_due() { self.ring.enter(Wait::No) } else { Ok(()) }
    }

    /// How long nothing has to be done.
    fn patience(&self) -> Wait {
        // Buffers that somebody waits for are free already, and only the end of silent sends says so.
        let is_short = self.ring.has_silent_sends() && !self.starved.iter().all(VecDeque::is_empty);
        let is_delayed = self.ring.has_delayed_sends() && !planted!(SleepsOnDelayed);
        if self.has_more_to_feed || is_delayed || is_short { Wait::No } else { Wait::Forever }
    }
}
