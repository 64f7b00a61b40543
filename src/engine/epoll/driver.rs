//! The [`Driver`] on epoll(7): it receives and sends as sockets become ready.
//!
//! Each socket is registered once, for all edges. One buffer is hot: a receive takes the buffer that was used last, and the
//! reply leaves it before the next receive, so that the bytes of all connections pass through the same cache lines.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use socket2::{SockAddr, SockRef};

use super::super::Common;
use super::super::buffers::{Class, Group, Plan};
use super::super::driver::{Accepting, Driver, Event, Sent, Sockets};
use super::super::handler::Received;
use super::super::listener::{Listener, PAUSE};
use super::super::outgoing::{Manner, Pieces};
use super::super::slots::Id;
use super::super::unconfirmed::unconfirmed;
use super::acceptor::Acceptors;
use super::socket::{AGAIN, CONNECTING, ENDED, HUNG_UP, READABLE, RESTS, Socket, WAITING, WANTED, WRITABLE};
use crate::engine::EngineCounters;
use crate::memory::HEADROOM;

/// How many buffers there are. One is hot; the others are for what peers do not take at once.
const BUFFERS: u32 = 8;

/// With fewer that are free, no buffer should wait for a slow peer.
const RESERVE: u32 = 2;

/// How many bytes a receive brings at most, unless the options say more: fewer calls for bulk, and the second-level cache
/// holds it.
const RECEIVE_BUFFER_MIN: usize = 256 << 10;

/// Buffers that are larger give their memory back, but for the hot ones.
const KEPT_SIZE_MAX: usize = 1 << 20;

/// How many events one wait brings at most.
const EVENTS_MAX: usize = 1024;

/// A listener has one accept a turn, for the next one would mostly find nobody; and a further one for so many events, so that
/// a busy worker keeps up.
const EVENTS_AN_ACCEPT: usize = 16;

/// How many receives of one socket a turn has.
const RECEIVES_MAX: u8 = 4;

/// The events of what is no connection: their names are beyond those of connections, which have 56 bits.
const WAKE: u64 = 1 << 60;
const TIMER: u64 = WAKE + 1;
const LISTENERS: u64 = WAKE + 2;

/// The driver of a worker on the epoll engine.
pub struct EpollDriver {
    epoll: OwnedFd,
    /// What the last wait has brought, and how many of it were looked at.
    events: Vec<epoll::Event>,
    looked_at: usize,
    /// How many further accepts the turn has.
    accepts_left: usize,
    /// The socket that is received from, and how many receives it has left in this turn.
    current: Option<(Id, u8)>,
    /// Those with more to do, though no event will name them.
    again: VecDeque<Id>,
    /// How many of them are looked at in this turn.
    again_due: usize,
    /// Those that rest in this turn.
    resting: Vec<Id>,
    /// Sends that wait for their peers: what they send, and how many bytes of it are sent.
    waiting: HashMap<Id, (Pieces, usize)>,
    /// Connections that could not be made.
    refused: Vec<(Id, io::Error)>,
    /// The kernel had no memory for something, which is tried again after a while.
    is_short_of_memory: bool,
    acceptors: Acceptors,
    /// Why a listener cannot be watched.
    not_watched: Option<io::Error>,
    timer: OwnedFd,
    wake: Option<Arc<OwnedFd>>,
    group: Group,
    counters: Arc<EngineCounters>,
}

impl EpollDriver {
    pub(super) fn new(common: &Rc<Common>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        // Nobody has to read what is an edge.
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN | EventFlags::ET)?;
        // Where little may be unsent, a receive must not bring more.
        let least = if common.is_careful { 0 } else { RECEIVE_BUFFER_MIN };
        let size = common.bounds.receive_buffer_size.max(least);
        common.receive_size.set(size);
        let group = Group::new(Plan {
            class: Class::Big,
            count: BUFFERS,
            size: size + HEADROOM,
            window: 0,
            reserve: RESERVE,
            kept: if size > KEPT_SIZE_MAX { RESERVE } else { BUFFERS },
            has_quarantine: true,
            pooled: None,
        })?;
        Ok(Self {
            epoll,
            events: Vec::with_capacity(EVENTS_MAX),
            looked_at: 0,
            accepts_left: 0,
            current: None,
            again: VecDeque::new(),
            again_due: 0,
            resting: Vec::new(),
            waiting: HashMap::new(),
            refused: Vec::new(),
            is_short_of_memory: false,
            acceptors: Acceptors::default(),
            not_watched: None,
            timer,
            wake: None,
            group,
            counters: Arc::clone(&common.counters),
        })
    }

    /// Waits for events, and no longer than that: epoll_wait(2) counts in milliseconds, ppoll(2) in nanoseconds.
    fn wait(&mut self, at_most: Option<Duration>) -> io::Result<()> {
        self.events.clear();
        self.looked_at = 0;
        let mut timeout = at_most.map(timespec);
        if let Some(time) = timeout.as_ref().filter(|_| at_most != Some(Duration::ZERO)) {
            let mut polled = [PollFd::new(&self.epoll, PollFlags::IN)];
            match poll(&mut polled, Some(time)) {
                // The time is over, or a signal has come: nothing is there.
                Ok(0) | Err(Errno::INTR) => return Ok(()),
                Ok(_) => timeout = Some(timespec(Duration::ZERO)),
                Err(error) => return Err(error.into()),
            }
        }
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.accepts_left = self.events.len() / EVENTS_AN_ACCEPT;
        Ok(())
    }

    /// What an event says.
    #[inline]
    fn on_event(&mut self, event: epoll::Event, sockets: &mut impl Sockets<Socket>) -> Option<Event<Socket>> {
        let (flags, data) = (event.flags, event.data.u64());
        if data >= WAKE {
            return match data {
                WAKE => Some(Event::Woken),
                TIMER => Some(Event::Elapsed),
                listener => self.accept(listener),
            };
        }
        let id = Id::from_bits(data);
        // It may have ended in this very turn.
        let socket = sockets.socket(id)?;
        let is_error = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        // A receive ends at the mark of urgent data (tcp(7)): a short one is not the last one either.
        if is_error || flags.intersects(EventFlags::RDHUP | EventFlags::PRI) {
            socket.set(READABLE | HUNG_UP);
        }
        if flags.contains(EventFlags::IN) {
            socket.set(READABLE);
        }
        self.current = Some((id, RECEIVES_MAX));
        if is_error || flags.contains(EventFlags::OUT) {
            socket.set(WRITABLE);
            if socket.has(CONNECTING) {
                socket.clear(CONNECTING);
                let result = socket.connected();
                if result.is_err() {
                    socket.set(ENDED);
                }
                return Some(Event::Begun { id, result });
            }
        }
        if socket.has(WAITING) { self.send_waiting(id, socket) } else { None }
    }

    /// Accepts from the listener whose event is looked at.
    fn accept(&mut self, listener: u64) -> Option<Event<Socket>> {
        let (event, may_go_on) = self.acceptors.accept(listener, &self.epoll)?;
        if may_go_on && self.accepts_left > 0 {
            // Its event is looked at again.
            self.accepts_left -= 1;
            self.looked_at -= 1;
        }
        Some(event)
    }

    /// The next receive of the current socket.
    #[inline]
    fn receive(&mut self, sockets: &mut impl Sockets<Socket>) -> Option<Event<Socket>> {
        let (id, left) = self.current?;
        self.current = None;
        let socket = sockets.socket(id).filter(|socket| socket.can_receive())?;
        if left == 0 || socket.has(RESTS) {
            self.look_again(id, socket);
            return None;
        }
        let Some(mut buffer) = self.group.lend() else {
            self.counters.buffers_exhausted.add(1);
            self.is_short_of_memory = true;
            self.look_again(id, socket);
            return None;
        };
        let received = match socket.receive(&mut buffer.bytes_mut()[HEADROOM..]) {
            Ok(0) => Received::End,
            Ok(len) => {
                self.current = Some((id, left - 1));
                return Some(Event::Received {
                    id,
                    received: Received::Bytes(buffer, HEADROOM..HEADROOM + len),
                });
            }
            Err(Errno::AGAIN) => return None,
            Err(Errno::NOBUFS | Errno::NOMEM) => {
                self.is_short_of_memory = true;
                self.look_again(id, socket);
                return None;
            }
            Err(error) => Received::Failed(error.into()),
        };
        socket.set(ENDED);
        Some(Event::Received { id, received })
    }

    /// Goes on with a send that waits for its peer.
    #[cold]
    fn send_waiting(&mut self, id: Id, socket: &mut Socket) -> Option<Event<Socket>> {
        let (pieces, sent) = self.waiting.remove(&id)?;
        socket.clear(WAITING);
        let sent = self.send_on(id, socket, pieces, sent)?;
        Some(Event::Sent { id, sent })
    }

    /// Sends all but the first `from` bytes of what waits for its peer, or has it wait on.
    fn send_on(&mut self, id: Id, socket: &mut Socket, pieces: Pieces, from: usize) -> Option<Sent> {
        match socket.send(&pieces, from) {
            Ok(sent) if sent < pieces.len() => {
                if socket.has(WRITABLE) {
                    self.is_short_of_memory = true;
                    self.look_again(id, socket);
                }
                socket.set(WAITING);
                self.waiting.insert(id, (pieces, sent));
                None
            }
            result => Some(Sent { result, pieces }),
        }
    }

    /// Has the socket looked at in the next turn.
    fn look_again(&mut self, id: Id, socket: &mut Socket) {
        if !socket.has(AGAIN) {
            socket.set(AGAIN);
            self.again.push_back(id);
        }
    }

    /// Whether there is something to hand out that the kernel does not tell of.
    fn has_news(&self) -> bool {
        !self.refused.is_empty() || self.not_watched.is_some() || self.acceptors.have_more()
    }

    /// Looks at the next of those that had more to do when the turn began.
    fn next_again(&mut self, sockets: &mut impl Sockets<Socket>) -> Option<Event<Socket>> {
        self.again_due -= 1;
        let id = self.again.pop_front()?;
        let socket = sockets.socket(id)?;
        socket.clear(AGAIN);
        self.current = Some((id, RECEIVES_MAX));
        if socket.has(WAITING) { self.send_waiting(id, socket) } else { None }
    }
}

impl Driver for EpollDriver {
    type Socket = Socket;

    /// The one hot buffer is received into next.
    const ANSWERS_AT_ONCE: bool = true;

    fn listen(&mut self, listeners: Vec<Listener>, _: bool) -> io::Result<()> {
        self.acceptors = Acceptors::new(listeners, LISTENERS)?;
        Ok(())
    }

    fn set_accepting(&mut self, accepting: Accepting) {
        if let Err(error) = self.acceptors.manage(&self.epoll, accepting) {
            self.not_watched = Some(error);
        }
    }

    fn is_listening(&self) -> bool {
        !self.acceptors.are_done()
    }

    /// A socket of the unix family is connected at once, within its SO_SNDTIMEO: while the server's queue is full, one that
    /// does not block gets an error (connect(2), EAGAIN) and no event.
    fn connect(&mut self, id: Id, socket: OwnedFd, to: Arc<SockAddr>) -> io::Result<Socket> {
        rustix::io::ioctl_fionbio(&socket, !to.is_unix())?;
        let result = SockRef::from(&socket).connect(&to);
        rustix::io::ioctl_fionbio(&socket, true)?;
        let mut socket = Socket::new(socket);
        socket.set(CONNECTING);
        match result {
            Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => {
                self.refused.push((id, error));
            }
            _ => self.adopt(id, &mut socket)?,
        }
        Ok(socket)
    }

    fn adopt(&mut self, id: Id, socket: &mut Socket) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::PRI | EventFlags::ET;
        epoll::add(&self.epoll, socket.fd(), EventData::new_u64(id.to_bits()), flags)?;
        if !socket.has(CONNECTING) {
            socket.set(WRITABLE);
        }
        Ok(())
    }

    #[inline]
    fn set_receiving(&mut self, id: Id, socket: &mut Socket, class: Option<Class>) {
        if class.is_none() {
            socket.clear(WANTED);
            return;
        }
        if !socket.has(WANTED) {
            socket.set(WANTED);
            // Bytes that came meanwhile had their event already.
            if socket.can_receive() && self.current.is_none_or(|(current, _)| current != id) {
                self.look_again(id, socket);
            }
        }
    }

    fn rest(&mut self, id: Id, socket: &mut Socket) {
        if !socket.has(RESTS) {
            socket.set(RESTS);
            self.resting.push(id);
            self.look_again(id, socket);
        }
    }

    #[inline]
    fn send_now(&mut self, socket: &mut Socket, bytes: &[u8]) -> Option<usize> {
        socket.send_piece(bytes)
    }

    #[inline]
    fn send(&mut self, id: Id, socket: &mut Socket, pieces: Pieces, manner: Manner) -> Option<Sent> {
        debug_assert!(!socket.has(WAITING), "the bytes of two sends would mingle");
        if manner == Manner::Waiting {
            return self.send_on(id, socket, pieces, 0);
        }
        Some(Sent { result: socket.send(&pieces, 0), pieces })
    }

    fn shut_write(&mut self, _: Id, socket: &mut Socket) {
        // The peer may be gone already.
        let _ = SockRef::from(&socket.fd()).shutdown(Shutdown::Write);
    }

    fn ask_unconfirmed(&mut self, _: Id, socket: &mut Socket) -> Option<Option<u32>> {
        Some(unconfirmed(&socket.fd()).ok())
    }

    /// A wait brings so many events at most: a socket without an event may have bytes all the same.
    fn has_heard(&mut self, id: Id, socket: &mut Socket) -> bool {
        if !socket.has(WANTED) || socket.has(ENDED) || socket.is_empty() {
            return true;
        }
        socket.set(READABLE);
        self.look_again(id, socket);
        false
    }

    /// To close the socket is to take it out of the epoll. Where something was received that nobody has read, closing sends
    /// RST (RFC 9293 §3.6.1).
    fn give_up(&mut self, id: Id, socket: &mut Socket, _: bool) -> bool {
        if socket.has(WAITING) {
            self.waiting.remove(&id);
        }
        true
    }

    #[inline]
    fn descriptor(socket: &Socket) -> Option<BorrowedFd<'_>> {
        Some(socket.fd())
    }

    fn watch(&mut self, eventfd: Arc<OwnedFd>) -> io::Result<()> {
        // Nobody has to read what is an edge.
        epoll::add(&self.epoll, &eventfd, EventData::new_u64(WAKE), EventFlags::IN | EventFlags::ET)?;
        self.wake = Some(eventfd);
        Ok(())
    }

    fn set_alarm(&mut self, after: Duration) {
        let once = Itimerspec {
            it_interval: timespec(Duration::ZERO),
            // No time at all would stop the timer.
            it_value: timespec(after.max(Duration::from_nanos(1))),
        };
        let set = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once);
        debug_assert!(set.is_ok(), "a timer takes any time");
    }

    fn enter(&mut self, sockets: &mut impl Sockets<Socket>, at_most: Option<Duration>) -> io::Result<()> {
        while let Some(id) = self.resting.pop() {
            if let Some(socket) = sockets.socket(id) {
                socket.clear(RESTS);
            }
        }
        self.again_due = self.again.len();
        self.group.gauge(&self.counters.pooled_buffers);
        let is_short = std::mem::take(&mut self.is_short_of_memory);
        let at_most = match at_most {
            _ if self.has_news() => Some(Duration::ZERO),
            _ if self.again_due == 0 => at_most,
            at_most if is_short => Some(at_most.map_or(PAUSE, |at_most| at_most.min(PAUSE))),
            _ => Some(Duration::ZERO),
        };
        self.wait(at_most)
    }

    #[inline]
    fn next_event(&mut self, sockets: &mut impl Sockets<Socket>) -> io::Result<Option<Event<Socket>>> {
        loop {
            if self.current.is_some() {
                if let Some(event) = self.receive(sockets) {
                    return Ok(Some(event));
                }
            } else if let Some(&event) = self.events.get(self.looked_at) {
                self.looked_at += 1;
                if let Some(event) = self.on_event(event, sockets) {
                    return Ok(Some(event));
                }
            } else if self.again_due > 0 {
                if let Some(event) = self.next_again(sockets) {
                    return Ok(Some(event));
                }
            } else if let Some((id, error)) = self.refused.pop() {
                return Ok(Some(Event::Begun { id, result: Err(error) }));
            } else if let Some(error) = self.not_watched.take() {
                return Ok(Some(Event::AcceptFailed(error)));
            } else {
                return Ok(self.acceptors.accept_last());
            }
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
