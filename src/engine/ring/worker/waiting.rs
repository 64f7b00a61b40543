//! How long a worker waits for its next event, and how it looks for one without sleeping.

use std::io;
use std::time::Duration;

use super::super::super::wheel::TICK;
use super::super::event::Wait;
use super::super::queues::Queues;
use super::{Service, Worker};
use crate::engine::Phase;

impl<S: Service, Q: Queues> Worker<S, Q> {
    /// Submits what there is, and waits until something has come.
    pub(super) fn enter(&mut self, at_most: Option<Duration>) -> io::Result<()> {
        self.turn = self.turn.wrapping_add(1);
        // Not twice in a row: a receive that is begun anew completes when it is submitted, and could keep those from
        // being heard whose bytes came meanwhile.
        self.has_only_submitted = !self.has_only_submitted && self.driver.ring.is_short_of_buffers();
        if self.has_only_submitted {
            return self.driver.ring.enter(Wait::SubmitOnly);
        }
        if !self.late.is_empty() && !planted!(SleepsOnLate) || at_most == Some(Duration::ZERO) {
            return self.driver.ring.enter(Wait::No);
        }
        let patience = self.patience().at_most(at_most);
        if self.busy_poll.is_zero() || patience == Wait::No {
            return self.driver.ring.enter(patience);
        }
        self.poll_busily(patience)
    }

    /// Looks for completions for a while before it sleeps. The kernel says in shared memory that there are some.
    fn poll_busily(&mut self, patience: Wait) -> io::Result<()> {
        if self.driver.ring.has_submissions() {
            self.driver.ring.enter(Wait::No)?;
        }
        let (polls, is_due_then) = match patience {
            Wait::AtMost(due) if due <= self.busy_poll => (due, true),
            _ => (self.busy_poll, false),
        };
        let began = self.driver.ring.time();
        while !self.driver.ring.has_completions() {
            if self.driver.ring.time() - began >= polls {
                return if is_due_then { Ok(()) } else { self.driver.ring.enter(patience) };
            }
            std::hint::spin_loop();
        }
        if self.driver.ring.is_task_work_due() { self.driver.ring.enter(Wait::No) } else { Ok(()) }
    }

    /// How long nothing has to be done.
    fn patience(&self) -> Wait {
        match self.acceptors.paused_until() {
            _ if self.has_more_to_feed => Wait::No,
            _ if self.driver.ring.has_delayed_sends() && !planted!(SleepsOnDelayed) => Wait::No,
            // Buffers that somebody waits for are free already.
            _ if self.driver.ring.has_silent_sends()
                && !(self.starved_small.is_empty() && self.starved_big.is_empty()) =>
            {
                Wait::No
            }
            _ if self.phase == Phase::Stopping => Wait::AtMost(Duration::from_millis(TICK)),
            None => Wait::Forever,
            Some(tick) => {
                let due = (tick * TICK).saturating_sub(self.service.now());
                if due == 0 { Wait::No } else { Wait::AtMost(Duration::from_millis(due)) }
            }
        }
    }
}
