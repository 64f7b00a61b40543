//! What lies around the simulated kernel: sockets, listeners, clients, the time, and chance.

use std::cell::Cell;
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::client::Client;
use crate::engine::{Phase, PhaseCell};

/// A simulated world. It is what the seed makes it: no clock, address or hash map of this process has a part in it.
#[derive(Debug)]
pub(super) struct World {
    /// How much time has passed; the clock of the worker shows it.
    pub(super) time: Rc<Cell<Duration>>,
    pub(super) rng: Rng,
    pub(super) odds: Odds,
    pub(super) net: Net,
    pub(super) clients: Vec<Client>,
    /// When the server goes on to which phase.
    pub(super) timetable: VecDeque<(Duration, Phase)>,
    pub(super) announcer: Arc<PhaseCell>,
    /// What was written to the eventfd and not read yet, and how often it was written to.
    pub(super) eventfd: u64,
    pub(super) wakes: u64,
    /// When an accept last failed.
    pub(super) accept_failed: Duration,
    pub(super) trace: Trace,
    /// Nothing is wrong: whoever uses the kernel may do with it what he likes.
    pub(super) is_lenient: bool,
    /// Everything is printed.
    pub(super) is_aloud: bool,
    /// The first thing that was wrong.
    pub(super) violation: Option<String>,
}

/// How often the kernel does what it may do but seldom does: in so many of a thousand times.
#[derive(Clone, Debug, Default)]
pub(super) struct Odds {
    /// A receive gets less than there is.
    pub(super) short_receive: u32,
    /// A send takes less than there is room for.
    pub(super) short_send: u32,
    /// An operation that could go on is left for another time.
    pub(super) postponed: u32,
    /// A multishot operation ends with a completion that has brought something.
    pub(super) multishot_ends: u32,
    /// The kernel takes only some of the submissions.
    pub(super) partial_submit: u32,
    /// A wait ends without a completion, as by a signal.
    pub(super) interrupted: u32,
    /// An accept fails.
    pub(super) accept_fails: u32,
    /// Another process takes a connection from the queue of a shared listener.
    pub(super) theft: u32,
    /// An operation that could go on at once waits for task work first.
    pub(super) deferred: u32,
    /// How long a thread of the kernel may take to get to a shutdown, in microseconds.
    pub(super) shutdown_delay: u64,
    /// The kernel knows no SIOCOUTQ.
    pub(super) is_old: bool,
    /// An accept fails where the listener does not block and nothing is queued, in place of waiting.
    pub(super) is_impatient: bool,
    /// Other processes that share a listener set O_NONBLOCK.
    pub(super) is_nonblocking: bool,
}

impl World {
    pub(super) fn new(rng: Rng, announcer: Arc<PhaseCell>) -> Self {
        Self {
            time: Rc::default(),
            rng,
            odds: Odds::default(),
            net: Net::default(),
            clients: Vec::new(),
            timetable: VecDeque::new(),
            announcer,
            eventfd: 0,
            wakes: 0,
            accept_failed: Duration::ZERO,
            trace: Trace::default(),
            is_lenient: false,
            is_aloud: false,
            violation: None,
        }
    }

    pub(super) fn say(&self, what: impl FnOnce() -> String) {
        if self.is_aloud {
            println!("{:?} {}", self.now(), what());
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.time.get()
    }

    pub(super) fn chance(&mut self, per_thousand: u32) -> bool {
        per_thousand > 0 && self.rng.u32(0..1000) < per_thousand
    }

    pub(super) fn pass_time(&mut self, micros_max: u64) {
        let micros = self.rng.u64(0..=micros_max);
        self.time.set(self.time.get() + Duration::from_micros(micros));
    }

    /// Notes what is wrong. The first one counts.
    pub(super) fn blame(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() && !self.is_lenient {
            self.violation = Some(what());
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.announcer.phase()
    }

    /// Something happens outside of the kernel; `false` if nothing can before more time has passed.
    pub(super) fn step(&mut self) -> bool {
        let now = self.now();
        if self.timetable.front().is_some_and(|&(at, _)| at <= now) {
            self.advance_phase();
            return true;
        }
        let ready: Vec<usize> =
            (0..self.clients.len()).filter(|&at| self.clients[at].is_ready(&self.net, now)).collect();
        if ready.is_empty() {
            return false;
        }
        let at = ready[self.rng.usize(0..ready.len())];
        let phase = self.phase();
        self.say(|| format!("client {at}: {:?}", self.clients[at]));
        let said = self.clients[at].act(&mut self.net, &mut self.rng, now, phase);
        if let Err(what) = said {
            self.blame(|| format!("client {at}: {what}"));
        }
        self.pass_time(50);
        true
    }

    /// When the next thing happens by itself.
    pub(super) fn next_time(&self) -> Option<Duration> {
        let clients = self.clients.iter().filter_map(|client| client.next_time(&self.net));
        clients.chain(self.timetable.front().map(|&(at, _)| at)).min()
    }

    fn advance_phase(&mut self) {
        if let Some((_, phase)) = self.timetable.pop_front() {
            if phase == Phase::Draining {
                for client in &mut self.clients {
                    client.on_drain(&self.net);
                }
            }
            self.say(|| format!("{phase:?}"));
            self.announcer.enter(phase);
            self.eventfd += 1;
            self.wakes += 1;
        }
    }
}

/// Sockets and listeners.
#[derive(Debug, Default)]
pub(super) struct Net {
    pub(super) sockets: Vec<Socket>,
    pub(super) listeners: Vec<Listening>,
}

impl Net {
    /// The worker counts its free places again.
    pub(super) fn forget_arrivals(&mut self) {
        for listener in &mut self.listeners {
            listener.arrived = 0;
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listening {
    /// What the worker knows it by; never part of the trace.
    pub(super) fd: RawFd,
    /// The same socket, for its O_NONBLOCK: the worker may have closed the number, and another thread have it.
    pub(super) flags: socket2::Socket,
    pub(super) queue: VecDeque<usize>,
    pub(super) queue_max: usize,
    /// How many have come in this turn, or since the worker sleeps: no more than the queue has room for.
    pub(super) arrived: usize,
    pub(super) is_shared: bool,
}

/// A connected socket of the server, and what its client sees.
#[derive(Debug, Default)]
pub(super) struct Socket {
    /// What has come from the client and was not received yet, and how much of it there may be.
    pub(super) rx: VecDeque<u8>,
    pub(super) rx_max: usize,
    /// The client has ended its side.
    pub(super) rx_end: bool,
    /// The server has.
    pub(super) rx_shut: bool,
    /// What was sent and not read by the client yet, and how much of it there may be.
    pub(super) tx: VecDeque<u8>,
    pub(super) tx_max: usize,
    pub(super) tx_end: bool,
    /// The client has reset the connection, and whether the server was told so.
    pub(super) is_reset: bool,
    pub(super) told_reset: bool,
    /// The client finds the connection reset.
    pub(super) client_reset: bool,
    /// When the server has accepted it.
    pub(super) accepted: Option<Duration>,
    /// Another process has taken it from the queue of a shared listener.
    pub(super) is_stolen: bool,
    /// How many hold it: the queue or the table of files, and operations.
    pub(super) holders: u32,
    /// In how many turns nobody has received what is there.
    pub(super) unheard: u32,
}

/// What a receive finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readable {
    Nothing,
    Bytes,
    End,
    Reset,
}

impl Socket {
    /// One that waits in a queue.
    pub(super) fn new(rx_max: usize, tx_max: usize) -> Self {
        Self { rx_max, tx_max, holders: 1, ..Self::default() }
    }

    /// What the server finds when it receives.
    pub(super) fn readable(&self) -> Readable {
        match self {
            _ if !self.rx.is_empty() => Readable::Bytes,
            Self { is_reset: true, told_reset: false, .. } => Readable::Reset,
            Self { is_reset: true, .. } | Self { rx_end: true, .. } | Self { rx_shut: true, .. } => {
                Readable::End
            }
            _ => Readable::Nothing,
        }
    }

    pub(super) fn receive(&mut self, to: &mut [u8]) {
        self.unheard = 0;
        let count = to.len();
        for (to, byte) in to.iter_mut().zip(self.rx.drain(..count)) {
            *to = byte;
        }
    }

    /// How many bytes a send can take; `None` if there will never be any more.
    pub(super) fn room(&self) -> Option<usize> {
        if self.tx_end || self.is_reset || self.client_reset {
            return None;
        }
        Some(self.tx_max.saturating_sub(self.tx.len()))
    }

    /// One less holds it. When nobody does, the kernel closes it: bytes that nobody has received make that a reset.
    pub(super) fn release(&mut self) {
        self.holders -= 1;
        if self.holders == 0 {
            if self.rx.is_empty() {
                self.tx_end = true;
            } else {
                self.client_reset = true;
            }
        }
    }

    /// The client writes; gives how many bytes there was room for.
    pub(super) fn write(&mut self, bytes: &[u8]) -> usize {
        if self.holders == 0 {
            self.client_reset = true;
            return bytes.len();
        }
        let room = self.rx_max.saturating_sub(self.rx.len()).min(bytes.len());
        self.rx.extend(&bytes[..room]);
        room
    }
}

/// A hash of all operations and completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trace {
    pub(super) hash: u64,
    pub(super) len: u64,
}

impl Default for Trace {
    fn default() -> Self {
        Self { hash: 0xCBF2_9CE4_8422_2325, len: 0 }
    }
}

impl Trace {
    pub(super) fn add(&mut self, values: [u64; 4]) {
        for value in values {
            self.hash = (self.hash ^ value).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
        }
        self.len += 1;
    }
}
