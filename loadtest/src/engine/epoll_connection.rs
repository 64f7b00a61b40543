//! One connection: its socket, its protocol, and what the event loop knows of both.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::client::Client;
use crate::client::fault::Fault;
use crate::client::handshake::Headers;
use crate::client::traffic::Traffic;
use crate::pace::Pace;
use crate::run::Plan;
use crate::tally::Tally;
use crate::target::Scheme;

/// What a thread does with its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Connections are opened.
    Opening,
    /// Messages are sent as the pace says.
    Sending,
    /// No more are sent; a connection whose last echo has come is closed. A churn's connections go on to their end, and
    /// no more begin.
    Ending,
}

/// A connection and its place in the event loop.
pub(crate) struct Connection {
    /// Non-blocking.
    pub(crate) socket: TcpStream,
    /// Its protocol.
    pub(crate) client: Client,
    /// Its index in the run. Those of a churn follow one another in steps of the connections at a time.
    pub(crate) index: usize,
    /// The connect(2) has come to a good end.
    pub(crate) is_connected: bool,
    /// It has been counted as open.
    pub(crate) is_open: bool,
    /// The socket may have bytes for us. The poll is edge-triggered: it tells once.
    pub(crate) can_read: bool,
    /// The socket may take bytes.
    pub(crate) can_write: bool,
    /// The peer has ended its direction, so a short read does not mean that there is no more to learn.
    pub(crate) is_read_closed: bool,
    /// Its thread comes back to it, though the poll will not name it again.
    pub(crate) is_again: bool,
    /// When the last read returned, where this turn had one: one look at the clock serves echoes and their successors.
    now: Option<u64>,
    /// When it began to connect, where that is part of what is measured.
    begun_at: Option<u64>,
}

impl Connection {
    /// Begins to connect, at `begun_at` where that counts for the latency of its first message.
    ///
    /// # Errors
    ///
    /// What socket(2), its options and connect(2) say.
    pub(crate) fn begin(plan: &Plan, index: usize, begun_at: Option<u64>) -> io::Result<Self> {
        let headers = if plan.pace == Pace::Churn { Headers::Browser } else { Headers::Required };
        let seed = plan.seed.wrapping_add(index as u64);
        Ok(Self {
            socket: connect(plan)?,
            client: Client::new(&plan.target, headers, index, seed, plan.pace.in_flight_max()),
            index,
            is_connected: false,
            is_open: false,
            can_read: false,
            can_write: false,
            is_read_closed: false,
            is_again: false,
            now: None,
            begun_at,
        })
    }

    /// Looks whether the connect(2) has come to its end.
    ///
    /// # Errors
    ///
    /// A bad one.
    #[inline]
    pub(crate) fn check_connect(&mut self) -> io::Result<()> {
        if self.is_connected {
            return Ok(());
        }
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
    pub(crate) fn advance(&mut self, stage: Stage, plan: &Plan, origin: Instant) {
        match stage {
            Stage::Opening => {}
            Stage::Ending if plan.pace != Pace::Churn => {
                if self.client.is_open() && self.client.in_flight() == 0 {
                    self.client.close();
                    if plan.target.scheme == Scheme::Raw {
                        // A connection that is gone already shows in the next read.
                        let _ = self.socket.shutdown(Shutdown::Write);
                    }
                }
            }
            Stage::Sending | Stage::Ending => {
                let due = plan.pace.due(self.client.in_flight());
                if due > 0 {
                    let due_at = self.begun_at.or(self.now).unwrap_or_else(|| nanos(origin.elapsed()));
                    self.client.push(due, due_at);
                }
            }
        }
    }

    /// Takes what has come, or a portion of it.
    ///
    /// # Errors
    ///
    /// The first fault in it; the connection is then over.
    #[inline]
    pub(crate) fn read(
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

    /// Sends what is due, or a portion of it.
    ///
    /// # Errors
    ///
    /// What write(2) says; the connection is then over, but for what can still be read.
    #[inline]
    pub(crate) fn write(&mut self, buffer: &mut [u8], traffic: &Traffic) -> io::Result<()> {
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
    pub(crate) fn has_more(&self) -> bool {
        self.is_connected && (self.can_read || (self.can_write && self.client.has_output()))
    }
}

fn connect(plan: &Plan) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(plan.address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_congestion(plan.congestion.as_bytes())?;
    if plan.pace == Pace::Churn {
        // To close it is then to reset it, and no TIME_WAIT uses the ports up.
        socket.set_linger(Some(Duration::ZERO))?;
    }
    match socket.connect(&plan.address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

/// Whole nanoseconds; 2^64 of them are 584 years.
#[inline]
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
/// Reads, and writes, of a connection in a turn: a bulky one does not keep the others waiting for long.
const PORTIONS_MAX: usize = 4;
