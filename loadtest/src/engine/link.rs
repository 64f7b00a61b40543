//! A connection without its socket: its protocol, and what becomes of what that finds.

use std::io;
use std::rc::Rc;

use super::RunStage;
use super::load::{Attempt, Load, Next, Over};
use crate::client::Client;
use crate::client::fault::{Fault, Words};
use crate::connect;
use crate::target::Scheme;

/// A connection as every engine has it. Its owner tells what the socket says, sends what [`Client::fill`] makes, and
/// gives the socket up when it [`Self::is_over`].
pub(crate) struct Link {
    /// Its protocol.
    pub(super) client: Client,
    pub(super) load: Rc<Load>,
    /// Which attempt at it this is.
    attempt: Attempt,
    /// The connect(2) has come to a good end.
    is_connected: bool,
    /// It has been counted as open.
    is_open: bool,
    /// When that was, where it is opened again when it ends.
    opened_at: u64,
    is_over: bool,
    /// Nothing more will be sent, where bytes are echoed: the socket is to be told so, once.
    is_to_shut: bool,
}

impl Link {
    /// A connection that begins to connect.
    pub(super) fn new(load: &Rc<Load>, attempt: Attempt) -> Self {
        let plan = &load.plan;
        let index = attempt.index;
        let seed = plan.seed.wrapping_add(index as u64);
        let in_flight_max = plan.pace.in_flight_max().unwrap_or_default();
        load.live.update(|live| live + 1);
        load.opening.update(|opening| opening + 1);
        Self {
            client: Client::new(&plan.target, &plan.request, &plan.traffic, index, seed, in_flight_max),
            load: Rc::clone(load),
            attempt,
            is_connected: false,
            is_open: false,
            opened_at: 0,
            is_over: false,
            is_to_shut: false,
        }
    }

    /// Whether the socket can be given up.
    #[inline]
    pub(super) const fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether there is a connection.
    #[inline]
    pub(super) const fn is_connected(&self) -> bool {
        self.is_connected
    }

    /// Whether there is anything to send.
    #[inline]
    pub(super) fn has_output(&self) -> bool {
        self.is_connected && !self.is_over && self.client.has_output()
    }

    /// Whether the socket's direction to the server is to be shut: true once.
    #[inline]
    pub(super) fn take_shut(&mut self) -> bool {
        std::mem::take(&mut self.is_to_shut)
    }

    /// connect(2) has come to its end.
    pub(super) fn on_connected(&mut self, result: io::Result<()>) {
        if self.is_over {
            return;
        }
        match result {
            Ok(()) => {
                self.is_connected = true;
                self.load.reached(self.attempt.address);
                self.advance(None);
            }
            Err(error) => {
                let address = self.load.plan.addresses.get(self.attempt.address);
                let why = connect::explain(error, address).to_string();
                self.on_not_reached(&why);
            }
        }
    }

    /// The address has not answered, and there is another one.
    pub(super) fn on_silence(&mut self) {
        if !self.is_over {
            self.on_not_reached("it does not answer");
        }
    }

    fn on_not_reached(&mut self, why: &str) {
        let next = self.load.not_reached(self.attempt, why);
        self.end(next);
    }

    /// Whether it is this attempt.
    pub(super) fn is_attempt(&self, attempt: Attempt) -> bool {
        self.attempt == attempt
    }

    /// Whether the run cannot begin for it: it is no connection yet, and none in the place of another one.
    pub(super) const fn is_first_in_need(&self) -> bool {
        !self.is_connected && !self.attempt.is_reopened
    }

    /// Leaves it as it is: nobody needs it any more.
    pub(super) fn leave(&mut self) {
        self.end(None);
    }

    /// As [`Self::leave`], of a connection in the place of another one that is not open yet.
    pub(super) fn leave_if_reopening(&mut self) {
        if self.attempt.is_reopened && !self.is_open {
            self.leave();
        }
    }

    /// Bytes have come; they may be changed.
    #[inline]
    pub(super) fn on_bytes(&mut self, bytes: &mut [u8]) {
        if self.is_over {
            return;
        }
        let load = &*self.load;
        let now = load.now();
        let before = self.client.in_flight();
        let result = {
            let mut tally = load.tally.borrow_mut();
            self.client.receive(bytes, &load.plan.traffic, |due_at| tally.echo(due_at, now))
        };
        load.in_flight.update(|in_flight| in_flight + self.client.in_flight() - before);
        match result {
            Ok(()) if self.client.is_done() || load.plan.pace.is_over(self.client.echoed()) => self.end(None),
            Ok(()) => self.advance(Some(now)),
            Err(fault) => self.fail(&fault, 1),
        }
    }

    /// The stream has ended.
    pub(super) fn on_end(&mut self) {
        if self.is_over {
            return;
        }
        match self.client.receive_end() {
            Ok(()) => self.end(None),
            Err(fault) => self.fail(&fault, 1),
        }
    }

    /// The socket is of no more use.
    pub(super) fn on_error(&mut self, kind: io::ErrorKind) {
        if self.is_over {
            return;
        }
        match self.client.receive_error(kind) {
            Ok(()) => self.end(None),
            Err(fault) => self.fail(&fault, 1),
        }
    }

    /// Has sent what the stage and the pace ask for. `now`, where somebody has just looked.
    #[inline]
    pub(super) fn advance(&mut self, now: Option<u64>) {
        if self.is_over || !self.is_connected {
            return;
        }
        if !self.is_open && !self.client.is_opening() {
            self.on_open();
        }
        let plan = &self.load.plan;
        match self.load.stage.get() {
            RunStage::Opening => {}
            RunStage::Ending if !plan.pace.is_churn() => {
                if self.client.is_open() && self.client.in_flight() == 0 {
                    self.client.close();
                    self.is_to_shut = plan.target.scheme == Scheme::Raw;
                }
            }
            RunStage::Sending | RunStage::Ending => {
                let due = plan.pace.due(self.client.in_flight());
                if due > 0 && self.client.is_open() {
                    let due_at = self.attempt.begun_at.or(now).unwrap_or_else(|| self.load.now());
                    self.push(due, due_at);
                }
            }
        }
    }

    /// A message is due at `due_at`. Whether it could be taken: the connection is open.
    #[inline]
    pub(super) fn push_due(&mut self, due_at: u64) -> bool {
        let is_taken = !self.is_over && self.client.is_open();
        if is_taken {
            self.push(1, due_at);
        }
        is_taken
    }

    /// Its time is over: whatever is missing is missing.
    pub(super) fn give_up(&mut self) {
        if self.is_over {
            return;
        }
        let missing =
            if self.is_connected { self.client.give_up() } else { Some((self.connect_timeout(), 1)) };
        match missing {
            Some((fault, count)) => self.fail(&fault, count),
            None => self.end(None),
        }
    }

    #[inline]
    fn push(&mut self, messages: usize, due_at: u64) {
        self.client.push(messages, due_at);
        self.load.in_flight.update(|in_flight| in_flight + messages);
    }

    fn on_open(&mut self) {
        self.is_open = true;
        self.load.opening.update(|opening| opening - 1);
        if self.load.plan.reconnect {
            self.opened_at = self.load.now();
            self.load.tally.borrow_mut().totals.reconnects += u64::from(self.attempt.is_reopened);
        }
    }

    fn connect_timeout(&self) -> Fault {
        let place = self.load.plan.addresses.shown_with_name(self.attempt.address);
        Fault::ConnectTimeout(Box::new(Words(place)))
    }

    fn fail(&mut self, fault: &Fault, count: u64) {
        let now = self.load.now();
        let plan = &self.load.plan;
        // With --reconnect the end of a connection is no fault by itself. Nor is a later attempt that fails.
        let is_end =
            plan.reconnect && (fault.is_end() || (self.attempt.is_reopened && fault.is_of_opening()));
        let (index, echoed) = (self.attempt.index, self.client.echoed());
        let mut tally = self.load.tally.borrow_mut();
        if is_end {
            tally.ended(fault, index, echoed);
        } else {
            tally.fault(fault, count, index, echoed, now);
        }
        // At a rate every message that was due is accounted for, and so it is where the end itself is no fault. In a closed
        // loop the fault of the connection stands for its messages.
        let told = if fault.is_of_an_echo() { count } else { 0 };
        let lost = (self.client.in_flight() as u64).saturating_sub(told);
        if lost > 0 && (is_end || plan.pace.rate().is_some()) {
            tally.fault(&Fault::Missing, lost, index, echoed + told, now);
        }
        drop(tally);
        let was_good = echoed > 0 || (self.is_open && now - self.opened_at >= GOOD_NS);
        let next = self.load.attempt_again(self.attempt, was_good);
        self.end(next);
    }

    fn end(&mut self, next: Option<Next>) {
        if self.settle() {
            let over = Over { place: self.attempt.place, was_reached: self.is_connected, next };
            self.load.over.borrow_mut().push(over);
        }
    }

    /// Takes it out of what the thread counts, once.
    fn settle(&mut self) -> bool {
        if std::mem::replace(&mut self.is_over, true) {
            return false;
        }
        let load = &*self.load;
        load.live.update(|live| live - 1);
        load.in_flight.update(|in_flight| in_flight - self.client.in_flight());
        if !self.is_open {
            load.opening.update(|opening| opening - 1);
        }
        true
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.settle();
    }
}

/// A connection without an echo was a good one if it was open for so long. In nanoseconds.
const GOOD_NS: u64 = 1_000_000_000;
