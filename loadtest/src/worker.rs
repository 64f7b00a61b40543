//! One thread of the generator: its connections and their event loop.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::ops::Range;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::client::Client;
use crate::cpu::{self, ThreadUsage};
use crate::fault::Fault;
use crate::run::{Failure, Plan, Schedule};
use crate::tally::Tally;
use crate::target::Scheme;
use crate::traffic::Traffic;

/// What a thread needs to know of the run it is part of.
pub(crate) struct Context {
    /// What to do.
    pub(crate) plan: Arc<Plan>,
    /// Nanoseconds are counted from here, by every thread.
    pub(crate) origin: Instant,
    /// When the load begins and ends: set, and the thread woken, when every thread has opened its connections.
    pub(crate) schedule: Arc<OnceLock<Schedule>>,
    /// Gets one word when the connections are open or failed; its end is the thread's end.
    pub(crate) opened: mpsc::Sender<Result<(), Failure>>,
    /// The core to stay on.
    pub(crate) core: Option<usize>,
    /// The indices of the thread's connections.
    pub(crate) connections: Range<usize>,
}

/// Opens the connections, sends the load, and ends them.
pub(crate) fn run(context: &Context, poll: Poll) -> Tally {
    let mut worker = Worker {
        poll,
        events: Events::with_capacity(EVENTS_MAX),
        load: Load {
            context,
            connections: Vec::with_capacity(context.connections.len()),
            stage: Stage::Opening,
            live: 0,
            opening: 0,
            failure: None,
            again: Vec::with_capacity(context.connections.len()),
            buffer: vec![0; BUFFER_LEN].into_boxed_slice(),
            tally: Tally::new(),
        },
    };
    let opened = worker.open();
    let is_open = opened.is_ok();
    // The receiver lives as long as this thread, unless the run was given up.
    let _ = context.opened.send(opened);
    if is_open {
        worker.load();
        worker.end();
    }
    worker.load.tally
}

struct Worker<'a> {
    poll: Poll,
    events: Events,
    load: Load<'a>,
}

struct Load<'a> {
    context: &'a Context,
    /// By token; `None` when a connection is over.
    connections: Vec<Option<Connection>>,
    stage: Stage,
    /// Connections that are not over.
    live: usize,
    /// Those of them that are not open yet.
    opening: usize,
    /// Why the run cannot be made at all.
    failure: Option<Failure>,
    /// Connections that have more to do than a turn allows, though the poll will not name them again.
    again: Vec<usize>,
    /// What is read and what is written, a connection at a time.
    buffer: Box<[u8]>,
    tally: Tally,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Connections are opened.
    Opening,
    /// Messages are sent as the pace says.
    Sending,
    /// No more are sent; a connection whose last echo has come is closed.
    Ending,
}

struct Connection {
    socket: TcpStream,
    client: Client,
    /// Its index in the run.
    index: usize,
    is_connected: bool,
    /// It has been counted as open.
    is_open: bool,
    /// The socket may have bytes for us. The poll is edge-triggered: it tells once.
    can_read: bool,
    /// The socket may take bytes.
    can_write: bool,
    /// The peer has ended its direction, so a short read does not mean that there is no more to learn.
    is_read_closed: bool,
    /// It is in [`Load::again`].
    is_again: bool,
    /// When the last read returned, where this turn had one: one look at the clock serves echoes and their successors.
    now: Option<u64>,
}

impl Worker<'_> {
    fn open(&mut self) -> Result<(), Failure> {
        let context = self.load.context;
        let plan = &*context.plan;
        if let Some(core) = context.core {
            cpu::pin(core).map_err(|error| Failure::Usage(format!("cannot pin to core {core}: {error}")))?;
        }
        for index in context.connections.clone() {
            let unavailable =
                |error| Failure::Unavailable(format!("cannot connect to {}: {error}", plan.target));
            let mut socket = connect(plan.address, &plan.congestion).map_err(unavailable)?;
            // Both once and for all: edge-triggered, an event for WRITABLE alone comes only after a short write.
            self.poll
                .registry()
                .register(
                    &mut socket,
                    Token(self.load.connections.len()),
                    Interest::READABLE | Interest::WRITABLE,
                )
                .map_err(unavailable)?;
            let seed = plan.seed.wrapping_add(index as u64);
            let client = Client::new(&plan.target, index, seed, plan.pace.in_flight_max());
            self.load.connections.push(Some(Connection::new(socket, client, index)));
            self.load.live += 1;
            self.load.opening += 1;
        }
        let deadline = self.load.now() + nanos(plan.connect_timeout);
        while self.load.opening > 0 && self.load.failure.is_none() && self.load.now() < deadline {
            self.turn(Some(deadline));
        }
        self.load.give_up_opening();
        self.load.failure.take().map_or(Ok(()), Err)
    }

    fn load(&mut self) {
        let Schedule { from, to } = loop {
            match self.load.context.schedule.get() {
                Some(schedule) => break *schedule,
                None => self.turn(None),
            }
        };
        self.load.tally.measure(from..to);
        self.load.enter(Stage::Sending);
        self.turn_until(from, |load| load.live == 0);
        let before = ThreadUsage::now();
        self.turn_until(to, |load| load.live == 0);
        self.load.tally.threads.push(ThreadUsage::now().since(before));
    }

    fn end(&mut self) {
        let plan = &*self.load.context.plan;
        self.load.enter(Stage::Ending);
        let grace = self.load.now() + nanos(plan.grace);
        self.turn_until(grace, |load| !load.is_awaiting_echoes());
        self.load.give_up(|client| client.in_flight() > 0);
        let grace = self.load.now() + nanos(plan.grace);
        self.turn_until(grace, |load| load.live == 0);
        self.load.give_up(|_| true);
    }

    fn turn_until(&mut self, until: u64, is_done: impl Fn(&Load<'_>) -> bool) {
        while !is_done(&self.load) && self.load.now() < until {
            self.turn(Some(until));
        }
    }

    /// Waits for something to do, until then at most, and does it.
    fn turn(&mut self, until: Option<u64>) {
        let timeout = if self.load.again.is_empty() {
            until.map(|until| Duration::from_nanos(until.saturating_sub(self.load.now())))
        } else {
            Some(Duration::ZERO)
        };
        if let Err(error) = self.poll.poll(&mut self.events, timeout) {
            // An interrupted wait is an empty one (epoll_wait(2)); no other error can come of what we pass.
            assert!(error.kind() == io::ErrorKind::Interrupted, "the poll failed: {error}");
            return;
        }
        self.load.pump_again();
        for event in &self.events {
            self.load.on_event(event);
        }
    }
}

impl Load<'_> {
    #[inline]
    fn now(&self) -> u64 {
        nanos(self.context.origin.elapsed())
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        for slot in 0..self.connections.len() {
            self.pump(slot);
        }
    }

    fn is_awaiting_echoes(&self) -> bool {
        self.connections.iter().flatten().any(|connection| connection.client.in_flight() > 0)
    }

    fn on_event(&mut self, event: &Event) {
        let slot = event.token().0;
        // The waker has a token of its own and nothing else to say.
        let Some(Some(connection)) = self.connections.get_mut(slot) else {
            return;
        };
        connection.can_read |= event.is_readable() || event.is_error();
        connection.can_write |= event.is_writable();
        connection.is_read_closed |= event.is_read_closed() || event.is_error();
        if !connection.is_connected
            && let Err(error) = connection.check_connect()
        {
            let target = &self.context.plan.target;
            self.failure = Some(Failure::Unavailable(format!("cannot connect to {target}: {error}")));
            return;
        }
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
        let plan = &*self.context.plan;
        let origin = self.context.origin;
        let mut read = connection.read(&mut self.buffer, &plan.traffic, origin, &mut self.tally);
        if read.is_ok() && !connection.client.is_done() {
            if !connection.is_open && connection.is_connected && !connection.client.is_opening() {
                connection.is_open = true;
                self.opening -= 1;
            }
            connection.advance(self.stage, plan, origin);
            if let Err(error) = connection.write(&mut self.buffer, &plan.traffic) {
                // What the server sent before it went tells more than that it went.
                connection.can_read = true;
                connection.is_read_closed = true;
                while read.is_ok() && connection.can_read && !connection.client.is_done() {
                    read = connection.read(&mut self.buffer, &plan.traffic, origin, &mut self.tally);
                }
                read = read.and(Err(Fault::ConnectionLost(error.kind())));
            }
        }
        if let Err(fault) = read {
            let message = connection.client.echoed();
            self.tally.faults.add(fault, 1, connection.index, message);
            self.remove(slot);
        } else if connection.client.is_done() {
            self.remove(slot);
        } else if connection.has_more() && !connection.is_again {
            connection.is_again = true;
            self.again.push(slot);
        }
    }

    fn remove(&mut self, slot: usize) {
        if let Some(connection) = self.connections[slot].take() {
            self.live -= 1;
            self.opening -= usize::from(!connection.is_open);
        }
    }

    /// Gives up the connections that are not open in time.
    fn give_up_opening(&mut self) {
        let late = self.connections.iter().flatten().filter(|connection| !connection.is_connected).count();
        if late > 0 && self.failure.is_none() {
            let plan = &self.context.plan;
            let timeout = humantime::format_duration(plan.connect_timeout);
            let of = self.connections.len();
            self.failure = Some(Failure::Unavailable(format!(
                "cannot connect to {}: {late} of {of} connections had no answer within {timeout}",
                plan.target,
            )));
        }
        self.give_up(Client::is_opening);
    }

    /// Gives up the connections of which this is true: their time is over.
    fn give_up(&mut self, is_late: impl Fn(&Client) -> bool) {
        for slot in 0..self.connections.len() {
            let Some(connection) = self.connections[slot].as_mut().filter(|it| is_late(&it.client)) else {
                continue;
            };
            let message = connection.client.echoed();
            if let Some((fault, count)) = connection.client.give_up() {
                self.tally.faults.add(fault, count, connection.index, message);
            }
            self.remove(slot);
        }
    }
}

impl Connection {
    fn new(socket: TcpStream, client: Client, index: usize) -> Self {
        Self {
            socket,
            client,
            index,
            is_connected: false,
            is_open: false,
            can_read: false,
            can_write: false,
            is_read_closed: false,
            is_again: false,
            now: None,
        }
    }

    /// Whether the connect(2) has come to its end, and how.
    fn check_connect(&mut self) -> io::Result<()> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        match self.socket.peer_addr() {
            Ok(_) => self.is_connected = true,
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Has what the stage asks for sent.
    #[inline]
    fn advance(&mut self, stage: Stage, plan: &Plan, origin: Instant) {
        match stage {
            Stage::Opening => {}
            Stage::Sending => {
                let due = plan.pace.due(self.client.in_flight());
                if due > 0 {
                    self.client.push(due, self.now.unwrap_or_else(|| nanos(origin.elapsed())));
                }
            }
            Stage::Ending => {
                if self.client.is_open() && self.client.in_flight() == 0 {
                    self.client.close();
                    if plan.target.scheme == Scheme::Raw {
                        // A connection that is gone already shows in the next read.
                        let _ = self.socket.shutdown(Shutdown::Write);
                    }
                }
            }
        }
    }

    #[inline]
    fn read(
        &mut self,
        buffer: &mut [u8],
        traffic: &Traffic,
        origin: Instant,
        tally: &mut Tally,
    ) -> Result<(), Fault> {
        self.now = None;
        for _ in 0..PORTIONS_MAX {
            if !self.can_read || self.client.is_done() {
                break;
            }
            match self.socket.read(buffer) {
                Ok(0) => {
                    self.can_read = false;
                    return self.client.receive_end();
                }
                Ok(len) => {
                    // A short read has emptied the socket (epoll(7)); what comes later is an event of its own.
                    self.can_read = len == buffer.len() || self.is_read_closed;
                    let now = nanos(origin.elapsed());
                    self.now = Some(now);
                    self.client.receive(&mut buffer[..len], traffic, |due_at| tally.echo(due_at, now))?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.can_read = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::ConnectionLost(error.kind())),
            }
        }
        Ok(())
    }

    #[inline]
    fn write(&mut self, buffer: &mut [u8], traffic: &Traffic) -> io::Result<()> {
        for _ in 0..PORTIONS_MAX {
            if !self.can_write || !self.client.has_output() {
                break;
            }
            let filled = self.client.fill(traffic, buffer);
            match self.socket.write(&buffer[..filled.len]) {
                Ok(written) => {
                    // A short write has filled the socket; that it takes more is an event.
                    self.can_write = written == filled.len;
                    self.client.wrote(filled, written, traffic);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.can_write = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether a portion was not enough, so that no event will come.
    #[inline]
    fn has_more(&self) -> bool {
        self.is_connected && (self.can_read || (self.can_write && self.client.has_output()))
    }
}

/// Begins to connect.
fn connect(address: SocketAddr, congestion: &str) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_congestion(congestion.as_bytes())?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

/// Whole nanoseconds; 2^64 of them are 584 years.
#[inline]
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What one read or write takes at most. It and the block of small messages stay in the second-level cache.
const BUFFER_LEN: usize = 256 << 10;

/// Reads, and writes, of a connection in a turn: a bulky one does not keep the others waiting for long.
const PORTIONS_MAX: usize = 4;

/// Events of one poll.
const EVENTS_MAX: usize = 1024;
