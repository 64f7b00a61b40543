//! The simulated kernel: what io_uring does with operations, in any order that it may choose.
#![expect(unsafe_code, reason = "operations name memory")]

mod operations;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd as _;
use std::ptr::NonNull;
use std::rc::Rc;
use std::time::Duration;

use rustix::fd::BorrowedFd;
use rustix::io::Errno;

use super::super::WITH_PEER;
use super::super::event::Wait;
use super::super::queues::{Completion, Operation, Queues, Verb};
use super::super::token::{Op, Token};
use super::memory::{Buffers, Sending};
use super::world::{Readable, World};
use crate::engine::Phase;

/// How many enters in a row the worker may make while nothing happens outside.
const IDLE_ENTERS_MAX: u32 = 3000;

/// How many completions a multishot operation makes before others have their turn.
const MULTISHOT_MAX: u32 = 8;

/// How many accepts may be under way, each with a place kept for it.
const ACCEPTS_MAX: usize = 2 * WITH_PEER;

/// After how many turns bytes of a client that owes nothing must have been received, and how many more for each client.
const UNHEARD_MAX: u32 = 200;
const UNHEARD_MAX_EACH: u32 = 60;

/// io_uring, simulated.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) world: Rc<RefCell<World>>,
    submissions: VecDeque<Queued>,
    submissions_max: usize,
    completions: VecDeque<Completion>,
    completions_max: usize,
    /// Completions that the full queue had no room for.
    overflow: VecDeque<Completion>,
    pub(super) running: Vec<Running>,
    /// The sockets in the table of files.
    pub(super) files: Vec<Option<usize>>,
    pub(super) groups: [Buffers; 2],
    /// How many operations there were.
    count: u64,
    idle_enters: u32,
}

/// An operation that was not submitted yet.
#[derive(Debug)]
struct Queued {
    operation: Operation,
    sending: Option<Sending>,
}

/// An operation that was.
#[derive(Debug)]
pub(super) struct Running {
    number: u64,
    pub(super) token: Token,
    pub(super) work: Work,
    is_cancelled: bool,
}

#[derive(Debug)]
pub(super) enum Work {
    Accept(Accept),
    /// A poll of a listener; the accept that is linked to it comes right behind.
    Queued {
        listener: usize,
        then: Option<Accept>,
    },
    Receive {
        socket: usize,
        group: usize,
        is_multi: bool,
    },
    Send {
        socket: usize,
        sending: Sending,
        sent: usize,
        is_tried: bool,
    },
    /// `meant` is the socket that had the place when the operation was submitted.
    Shutdown {
        file: u32,
        meant: Option<usize>,
        how: Shutdown,
        at: Duration,
    },
    Watch {
        seen: u64,
    },
    Alarm {
        at: Duration,
    },
    Connect,
}

/// An accept that was submitted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accept {
    listener: usize,
    is_multi: bool,
    peer: *mut libc::sockaddr,
    len: *mut libc::socklen_t,
}

impl Work {
    /// The socket that it holds.
    pub(super) fn socket(&self) -> Option<usize> {
        match self {
            Self::Receive { socket, .. } | Self::Send { socket, .. } => Some(*socket),
            _ => None,
        }
    }
}

impl Kernel {
    pub(super) fn new(world: Rc<RefCell<World>>, submissions: u32, completions: u32) -> Self {
        Self {
            world,
            submissions: VecDeque::new(),
            submissions_max: submissions as usize,
            completions: VecDeque::new(),
            completions_max: completions as usize,
            overflow: VecDeque::new(),
            running: Vec::new(),
            files: Vec::new(),
            groups: Default::default(),
            count: 0,
            idle_enters: 0,
        }
    }

    fn post(&mut self, world: &mut World, token: Token, result: i32, is_last: bool, buffer: Option<u16>) {
        let parts = [u64::from(result.cast_unsigned()), is_last.into(), buffer.map_or(u64::MAX, u64::from)];
        world.trace.add([token.to_bits(), parts[0], parts[1], parts[2]]);
        world.say(|| format!("< {token:?} {result} {is_last} {buffer:?}"));
        let completion = Completion { token: Some(token), result, is_last, buffer };
        if self.is_full() {
            self.overflow.push_back(completion);
        } else {
            self.completions.push_back(completion);
        }
    }

    fn fail(&mut self, world: &mut World, token: Token, errno: Errno) {
        self.post(world, token, -errno.raw_os_error(), true, None);
    }

    /// Whether a further completion would overflow.
    fn is_full(&self) -> bool {
        !self.overflow.is_empty() || self.completions.len() >= self.completions_max
    }

    fn flush(&mut self) {
        while self.completions.len() < self.completions_max
            && let Some(completion) = self.overflow.pop_front()
        {
            self.completions.push_back(completion);
        }
    }

    /// Takes the submissions; `false` if it takes only some of them. The real one does not wait then.
    fn submit(&mut self, world: &mut World) -> bool {
        let is_partial = world.chance(world.odds.partial_submit);
        let count = self.submissions.len();
        let mut count = if is_partial && count > 0 { world.rng.usize(0..count) } else { count };
        // What is linked is taken together.
        let is_link = |queued: &Queued| matches!(queued.operation.verb, Verb::AwaitQueued { .. });
        if count > 0 && self.submissions.get(count - 1).is_some_and(is_link) {
            count += 1;
        }
        if self.submissions.back().is_some_and(is_link) {
            world.blame(|| "a linked operation is submitted without the next one".to_owned());
            return true;
        }
        for _ in 0..count {
            if let Some(queued) = self.submissions.pop_front() {
                self.begin(world, queued);
            }
        }
        self.submissions.is_empty()
    }

    /// Whether anything would become of an operation now.
    fn can_go_on(&self, world: &World, at: usize) -> bool {
        let running = &self.running[at];
        running.is_cancelled
            || match &running.work {
                Work::Accept(Accept { listener, .. }) | Work::Queued { listener, .. } => {
                    !world.net.listeners[*listener].queue.is_empty()
                }
                Work::Receive { socket, .. } => world.net.sockets[*socket].readable() != Readable::Nothing,
                Work::Send { socket, is_tried, .. } => {
                    let socket = &world.net.sockets[*socket];
                    // Once it waits, it waits for a third of the socket's buffer.
                    let least = if *is_tried { (socket.tx_max / 3).max(1) } else { 1 };
                    socket.room().is_none_or(|room| room >= least)
                }
                Work::Shutdown { at, .. } | Work::Alarm { at } => *at <= world.now(),
                Work::Watch { seen } => *seen < world.wakes,
                Work::Connect => true,
            }
    }

    /// Does the task work, in any order; some of it perhaps another time.
    fn work(&mut self, world: &mut World, is_all: bool) {
        let mut numbers: Vec<u64> = (0..self.running.len())
            .filter(|&at| self.can_go_on(world, at))
            .map(|at| self.running[at].number)
            .collect();
        world.rng.shuffle(&mut numbers);
        for number in numbers {
            if !is_all && world.chance(world.odds.postponed) {
                continue;
            }
            if let Some(at) = self.running.iter().position(|running| running.number == number)
                && self.can_go_on(world, at)
            {
                self.go_on(world, at);
            }
        }
    }

    /// Whether nothing is left at the end of a run but what goes on for ever.
    ///
    /// # Errors
    ///
    /// What is left.
    pub(super) fn check_end(&self) -> Result<(), String> {
        let goes_on = |work: &Work| matches!(work, Work::Watch { .. } | Work::Alarm { .. });
        if let Some(left) = self.running.iter().find(|running| !goes_on(&running.work)) {
            return Err(format!("{left:?} is left"));
        }
        let files = self.files.iter().flatten().count();
        if files > 0 { Err(format!("{files} files are left")) } else { Ok(()) }
    }

    /// How many buffers of each group it has, or has filled with what the ring has not seen yet.
    pub(super) fn buffers(&self) -> [usize; 2] {
        [Op::ReceiveSmall, Op::ReceiveBig].map(|op| {
            let unseen = self.completions.iter().chain(&self.overflow).filter(|completion| {
                completion.buffer.is_some() && completion.token.is_some_and(|token| token.op == op)
            });
            self.groups[usize::from(op == Op::ReceiveBig)].len() + unseen.count()
        })
    }

    /// Whether a socket is at a place of the table.
    pub(super) fn has_file(&self, socket: usize) -> bool {
        self.files.contains(&Some(socket))
    }

    /// Whether a shutdown of this socket has not been done yet.
    pub(super) fn is_shutting(&self, socket: usize) -> bool {
        self.running
            .iter()
            .any(|running| matches!(running.work, Work::Shutdown { meant, .. } if meant == Some(socket)))
    }

    fn step(&mut self, world: &mut World) -> bool {
        if world.chance(world.odds.theft)
            && let Some(listener) = world.net.listeners.iter_mut().find(|listener| listener.is_shared)
            && let Some(socket) = listener.queue.pop_front()
        {
            // Another process has it now, and ends it. It may want the listener not to block.
            if world.odds.is_nonblocking {
                listener.flags.set_nonblocking(true).expect("a socket");
            }
            world.net.sockets[socket].is_stolen = true;
            world.net.sockets[socket].client_reset = true;
            world.net.sockets[socket].release();
        }
        let has_happened = world.step();
        if has_happened {
            self.idle_enters = 0;
        }
        has_happened
    }

    fn next_time(&self, world: &World) -> Option<Duration> {
        let own = self.running.iter().filter_map(|running| match running.work {
            Work::Shutdown { at, .. } | Work::Alarm { at } => Some(at),
            _ => None,
        });
        own.chain(world.next_time()).min()
    }

    fn enter_world(&mut self, world: &mut World, wait: Wait) {
        self.idle_enters += 1;
        if self.idle_enters > IDLE_ENTERS_MAX {
            return world.blame(|| format!("the worker spins: {wait:?}"));
        }
        world.say(|| format!("enter {wait:?}"));
        world.pass_time(20);
        for _ in 0..world.rng.u32(0..3) {
            self.step(world);
        }
        let is_all = self.submit(world);
        self.count_unheard(world);
        if wait == Wait::SubmitOnly || !is_all {
            return;
        }
        for _ in 0..world.rng.u32(0..3) {
            self.step(world);
        }
        self.flush();
        self.work(world, false);
        let until = match wait {
            Wait::SubmitOnly | Wait::No => return,
            Wait::AtMost(duration) => Some(world.now() + duration),
            Wait::Forever => None,
        };
        while self.completions.is_empty()
            && world.violation.is_none()
            && !world.chance(world.odds.interrupted)
        {
            world.net.forget_arrivals();
            if !self.step(world) && !(0..self.running.len()).any(|at| self.can_go_on(world, at)) {
                self.check_quiet(world);
                let next = [until, self.next_time(world)].into_iter().flatten().min();
                let Some(next) = next else {
                    return world.blame(|| "the worker sleeps for ever".to_owned());
                };
                world.time.set(next.max(world.now()));
                self.idle_enters = 0;
            }
            if until.is_some_and(|until| until <= world.now()) {
                break;
            }
            self.work(world, false);
        }
    }

    fn count_unheard(&self, world: &mut World) {
        let max = UNHEARD_MAX + UNHEARD_MAX_EACH * u32::try_from(world.clients.len()).unwrap_or(u32::MAX);
        for at in self.files.iter().flatten() {
            let is_owed = self.is_busy(*at, |work| matches!(work, Work::Send { .. }));
            let socket = &mut world.net.sockets[*at];
            let is_done = socket.tx_end || socket.is_reset;
            let is_waiting = !socket.rx.is_empty() && socket.tx.is_empty() && !is_owed && !is_done;
            socket.unheard = if is_waiting { socket.unheard + 1 } else { 0 };
            if socket.unheard > max {
                let turns = socket.unheard;
                world.blame(|| format!("socket {at} is not heard for {turns} turns"));
                return;
            }
        }
    }

    /// Nothing happens any more before more time passes, and the worker sleeps: so nobody may wait for it.
    fn check_quiet(&self, world: &mut World) {
        // It pauses for 48 ms after an error, and each accept keeps a place.
        let is_paused = world.now() < world.accept_failed + Duration::from_millis(60);
        let free = self.files.iter().filter(|file| file.is_none()).count();
        let is_queued = world.net.listeners.iter().any(|listener| !listener.queue.is_empty());
        if is_queued && !is_paused && free > ACCEPTS_MAX && world.phase() == Phase::Running {
            world.blame(|| "a connection is not accepted, but the worker sleeps".to_owned());
        }
        if !is_queued && !is_paused && free == self.files.len() && world.phase() != Phase::Running {
            world.blame(|| "the drain is over, but the worker sleeps".to_owned());
        }
        for at in 0..world.clients.len() {
            let client = &world.clients[at];
            let Some(socket) = client.socket else { continue };
            if self.has_file(socket)
                && !self.is_shutting(socket)
                && let Err(what) = client.check_quiet(&world.net.sockets[socket], world.now())
            {
                world.blame(|| format!("client {at}: {what}, but the worker sleeps"));
            }
        }
    }
}

impl Queues for Kernel {
    const FAULTS: bool = false;

    fn register(&mut self, files: u32, groups: [u16; 2]) -> io::Result<()> {
        self.files = vec![None; files as usize];
        self.groups = groups.map(Buffers::new);
        Ok(())
    }

    unsafe fn push(&mut self, operation: &Operation) -> bool {
        if self.submissions.len() >= self.submissions_max {
            return false;
        }
        // SAFETY: as the caller says.
        let sending = unsafe { Sending::of(&operation.verb) };
        self.submissions.push_back(Queued { operation: *operation, sending });
        true
    }

    fn room(&mut self) -> usize {
        self.submissions_max - self.submissions.len()
    }

    fn has_submissions(&mut self) -> bool {
        !self.submissions.is_empty()
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let world = Rc::clone(&self.world);
        let world = &mut *world.borrow_mut();
        self.enter_world(world, wait);
        match &world.violation {
            Some(violation) => Err(io::Error::other(violation.clone())),
            None => Ok(()),
        }
    }

    fn next(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    fn has_completions(&mut self) -> bool {
        !self.completions.is_empty()
    }

    fn has_overflowed(&mut self) -> bool {
        !self.overflow.is_empty()
    }

    fn is_task_work_due(&mut self) -> bool {
        let world = Rc::clone(&self.world);
        let world = &mut *world.borrow_mut();
        // It is asked while the worker looks for completions.
        world.pass_time(5);
        self.step(world);
        (0..self.running.len()).any(|at| self.can_go_on(world, at))
    }

    unsafe fn provide(&mut self, group: u16, index: u16, start: NonNull<u8>, len: u32) {
        let queued = self.submissions.iter().filter_map(|queued| queued.sending.as_ref());
        let running = self.running.iter().filter_map(|running| match &running.work {
            Work::Send { sending, .. } => Some(sending),
            _ => None,
        });
        let is_sent =
            queued.chain(running).any(|sending| sending.touches(start.as_ptr().addr(), len as usize));
        // SAFETY: as the caller says.
        let given = unsafe { self.groups[usize::from(group)].give(index, start, len) };
        if is_sent {
            self.world.borrow_mut().blame(|| format!("buffer {index} is given while a send reads it"));
        }
        if let Err(what) = given {
            self.world.borrow_mut().blame(|| what);
        }
    }

    fn install(&self, _: u32, _: BorrowedFd<'_>) -> io::Result<()> {
        Err(Errno::OPNOTSUPP.into())
    }

    fn cancel_all(&self, _: Duration) -> io::Result<()> {
        Ok(())
    }

    fn is_queued(&self, listener: BorrowedFd<'_>) -> bool {
        let world = self.world.borrow();
        let found = world.net.listeners.iter().find(|own| own.fd == listener.as_raw_fd());
        found.is_some_and(|own| !own.queue.is_empty())
    }

    fn empty(&self, _: BorrowedFd<'_>) {
        self.world.borrow_mut().eventfd = 0;
    }

    fn time(&self) -> Duration {
        self.world.borrow().now()
    }
}
