//! The connections of a thread in an event loop over epoll(7), for where io_uring is refused.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::Socket;

use super::Mover;
use super::link::Link;
use super::load::{Attempt, Load};
use crate::connect;

/// The event loop of a thread.
pub(super) struct Epoll {
    epoll: OwnedFd,
    /// Whoever writes to it ends the wait: every write is an event, so nobody has to read.
    _wake: Arc<OwnedFd>,
    events: Vec<epoll::Event>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Connections that have more to do than a turn allows, though no event will name them again.
    again: Vec<usize>,
    /// What is read and what is written, a connection at a time.
    buffer: Box<[u8]>,
    load: Rc<Load>,
}

/// A connection, and what the event loop knows of it.
struct Connection {
    /// Non-blocking.
    socket: Socket,
    link: Link,
    /// The socket may have bytes for us. An event tells once.
    can_read: bool,
    /// The socket may take bytes.
    can_write: bool,
    /// The peer has ended its direction, so a short read does not mean that there is no more to learn.
    is_read_closed: bool,
    /// It is on the list of those who have more to do.
    is_again: bool,
}

impl Epoll {
    /// An event loop for so many connections, which is woken by `wake`.
    ///
    /// # Errors
    ///
    /// Those of epoll_create(2) and epoll_ctl(2).
    pub(super) fn new(load: &Rc<Load>, connections: usize, wake: Arc<OwnedFd>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN | EventFlags::ET)?;
        Ok(Self {
            epoll,
            _wake: wake,
            events: Vec::with_capacity(EVENTS_MAX),
            connections: Vec::with_capacity(connections),
            free: Vec::new(),
            again: Vec::with_capacity(connections),
            buffer: vec![0; BUFFER_LEN].into_boxed_slice(),
            load: Rc::clone(load),
        })
    }

    /// Waits for events, and no longer than that: epoll_wait(2) counts in milliseconds, ppoll(2) in nanoseconds.
    fn wait(&mut self, at_most: Option<Duration>) -> io::Result<()> {
        self.events.clear();
        let to_timespec = |duration: Duration| Timespec {
            tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: duration.subsec_nanos().into(),
        };
        let mut timeout = at_most;
        if let Some(at_most) = at_most.filter(|at_most| !at_most.is_zero()) {
            let mut polled = [PollFd::new(&self.epoll, PollFlags::IN)];
            match poll(&mut polled, Some(&to_timespec(at_most))) {
                // The time is over, or a signal has come: an empty wait.
                Ok(0) | Err(Errno::INTR) => return Ok(()),
                Ok(_) => timeout = Some(Duration::ZERO),
                Err(error) => return Err(error.into()),
            }
        }
        let timeout = timeout.map(to_timespec);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn on_event(&mut self, event: epoll::Event) {
        let (flags, data) = (event.flags, event.data.u64());
        let Some(slot) = usize::try_from(data).ok().filter(|_| data != WAKE) else {
            return;
        };
        let Some(Some(connection)) = self.connections.get_mut(slot) else {
            return;
        };
        let is_error = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        connection.can_read |= flags.contains(EventFlags::IN) || is_error;
        connection.can_write |= flags.contains(EventFlags::OUT);
        connection.is_read_closed |= flags.contains(EventFlags::RDHUP) || is_error;
        connection.check_connect();
        self.pump(slot);
    }

    /// Goes over the connections that the last turn has left with more to do.
    fn pump_again(&mut self) {
        let count = self.again.len();
        for at in 0..count {
            let slot = self.again[at];
            if let Some(Some(connection)) = self.connections.get_mut(slot) {
                connection.is_again = false;
            }
            self.pump(slot);
        }
        self.again.drain(..count);
    }

    /// Reads what there is, then sends what is due: both in bounded portions, and neither waits for the other.
    fn pump(&mut self, slot: usize) {
        let Some(Some(connection)) = self.connections.get_mut(slot) else {
            return;
        };
        connection.read(&mut self.buffer, PORTIONS_MAX);
        if let Err(error) = connection.write(&mut self.buffer) {
            // What the server sent before it went tells more than that it went.
            connection.can_read = true;
            connection.is_read_closed = true;
            connection.read(&mut self.buffer, usize::MAX);
            connection.link.on_error(error.kind());
        }
        if connection.link.is_over() {
            // To close it is to take it out of the epoll.
            self.connections[slot] = None;
            self.free.push(slot);
        } else if connection.has_more() && !connection.is_again {
            connection.is_again = true;
            self.again.push(slot);
        }
    }
}

impl Mover for Epoll {
    type Id = usize;

    fn has_room(&self) -> bool {
        true
    }

    /// A predecessor's events in the same batch make the connection look for what is not there yet, and nothing else.
    fn begin(&mut self, attempt: Attempt) -> io::Result<usize> {
        let plan = &self.load.plan;
        let socket = connect::begin(plan, attempt.index, plan.addresses.get(attempt.address))?;
        let slot = self.free.last().copied().unwrap_or(self.connections.len());
        // All once and for all: edge-triggered, an event for OUT alone comes only after a short write.
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &socket, EventData::new_u64(slot as u64), flags)?;
        let connection = Some(Connection {
            socket,
            link: Link::new(&self.load, attempt),
            can_read: false,
            can_write: false,
            is_read_closed: false,
            is_again: false,
        });
        if self.free.pop().is_some() {
            self.connections[slot] = connection;
        } else {
            self.connections.push(connection);
        }
        Ok(slot)
    }

    fn with<R>(&mut self, id: usize, look: impl FnOnce(&mut Link) -> R) -> Option<R> {
        let connection = self.connections.get_mut(id)?.as_mut()?;
        let found = look(&mut connection.link);
        self.pump(id);
        Some(found)
    }

    fn turn(&mut self, at_most: Option<Duration>) -> io::Result<()> {
        let is_busy = !self.again.is_empty() || (self.load.plan.spin && at_most.is_some());
        self.wait(if is_busy { Some(Duration::ZERO) } else { at_most })?;
        self.pump_again();
        let events = std::mem::take(&mut self.events);
        for event in &events {
            self.on_event(*event);
        }
        self.events = events;
        Ok(())
    }
}

impl Connection {
    /// Looks whether the connect(2) has come to its end.
    #[inline]
    fn check_connect(&mut self) {
        if self.link.is_connected() {
            return;
        }
        let result = match self.socket.take_error() {
            Ok(None) => match self.socket.peer_addr() {
                Ok(_) => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return,
                Err(error) => Err(error),
            },
            Ok(Some(error)) | Err(error) => Err(error),
        };
        self.link.on_connected(result);
    }

    /// Takes what has come, or a portion of it.
    #[inline]
    fn read(&mut self, buffer: &mut [u8], portions: usize) {
        for _ in 0..portions {
            if !self.can_read || self.link.is_over() || !self.link.is_connected() {
                break;
            }
            match self.socket.read(buffer) {
                Ok(0) => {
                    self.can_read = false;
                    self.link.on_end();
                }
                Ok(len) => {
                    // A short read has emptied the socket (epoll(7)); what comes later is an event of its own.
                    self.can_read = len == buffer.len() || self.is_read_closed;
                    self.link.on_bytes(&mut buffer[..len]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.can_read = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.link.on_error(error.kind()),
            }
        }
    }

    /// Sends what is due, or a portion of it.
    ///
    /// # Errors
    ///
    /// What write(2) says; the connection is then over, but for what can still be read.
    #[inline]
    fn write(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        for _ in 0..PORTIONS_MAX {
            if !self.can_write || !self.link.has_output() {
                break;
            }
            let traffic = &self.link.load.plan.traffic;
            let client = &mut self.link.client;
            let filled = client.fill(traffic, buffer);
            match self.socket.write(&buffer[..filled.len]) {
                Ok(written) => {
                    // A short write has filled the socket; that it takes more is an event.
                    self.can_write = written == filled.len;
                    client.wrote(filled, written, traffic);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.can_write = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.link.take_shut() {
            // A connection that is gone already shows in the next read.
            let _ = self.socket.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    /// Whether a portion was not enough, so that no event will come.
    #[inline]
    fn has_more(&self) -> bool {
        self.link.is_connected() && (self.can_read || (self.can_write && self.link.has_output()))
    }
}

/// What one read or write takes at most. It and the block of small messages stay in the second-level cache.
const BUFFER_LEN: usize = 256 << 10;

/// Events of one wait.
const EVENTS_MAX: usize = 1024;

/// Reads, and writes, of a connection in a turn: a bulky one does not keep the others waiting for long.
const PORTIONS_MAX: usize = 4;

/// The wake-up's event; connections are named by their slots.
const WAKE: u64 = u64::MAX;
