//! One connection's protocol as a value: no I/O, no clock.
//!
//! Its owner calls, in any order: [`Client::push`] when messages are due, [`Client::fill`] and [`Client::wrote`] when
//! the socket takes bytes, with or without other calls in between, [`Client::receive`] when bytes came,
//! [`Client::receive_end`] at the end of the stream, [`Client::receive_error`] when the socket broke, and at last
//! [`Client::close`]. After a fault or the end it is [`Client::is_done`] and is only dropped.

mod cursor;
pub(crate) mod fault;
pub(crate) mod file;
mod greeting;
pub(crate) mod handshake;
mod incoming;
mod outgoing;
mod ping;
mod refused;
pub(crate) mod request;
pub(crate) mod sizes;
mod stranger;
pub(crate) mod traffic;
mod words;

use std::collections::VecDeque;

use ringback::proto::close;

use crate::target::{Scheme, Target};
use cursor::Cursor;
use fault::Fault;
use greeting::Greeting;
use handshake::Handshake;
use incoming::{Bytes, Event, Incoming, Messages, unasked};
use outgoing::{Filled, Outgoing};
use ping::Pings;
use request::Request;
use traffic::Traffic;

/// A connection's state.
pub(crate) struct Client {
    stage: Stage,
    outgoing: Outgoing,
    incoming: Incoming,
    /// When each message that has not come back was due, oldest first, in nanoseconds of the owner's clock.
    due_at: VecDeque<u64>,
    /// Messages that came back.
    echoed: u64,
    /// The pings among them, where pongs come back.
    pings: Option<Pings>,
    /// For the keys of control frames.
    random: fastrand::Rng,
}

enum Stage {
    /// The answer to the handshake is awaited.
    Handshake(Box<Handshake>),
    /// Messages of the server are read over that it sends before the first echo.
    Greeting(Box<Greeting>),
    /// Messages may be sent.
    Open,
    /// No more messages are sent: our close frame waits for the pongs of our pings.
    Emptying,
    /// Our close frame is sent or queued, or, where bytes are echoed, nothing more will be sent.
    Closing,
    /// The close frames are exchanged: the server ends the connection (RFC 6455 §7.1.1).
    Closed,
    /// It is over.
    Done,
}

impl Client {
    /// The connection with this index, whose handshake is the first thing to be sent. Indices and seeds differ among
    /// connections; at most `in_flight_max` messages will be in flight.
    pub(crate) fn new(
        target: &Target,
        request: &Request,
        traffic: &Traffic,
        index: usize,
        seed: u64,
        in_flight_max: usize,
    ) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let first = traffic.first(index);
        let cursor = Cursor::new(random.fork(), first, index);
        let (stage, incoming, pings, bytes) = match target.scheme {
            Scheme::WebSocket => {
                let (handshake, bytes) = Handshake::new(request, &mut random);
                let incoming = Incoming::Messages(Messages::new(first));
                let pings = traffic.ping_every().map(|every| Pings::new(every, index as u64));
                (Stage::Handshake(Box::new(handshake)), incoming, pings, bytes)
            }
            Scheme::Raw => (Stage::Open, Incoming::Bytes(Bytes::new(cursor.clone())), None, Vec::new()),
        };
        Self {
            stage,
            outgoing: Outgoing::new(cursor, bytes),
            incoming,
            due_at: VecDeque::with_capacity(in_flight_max),
            echoed: 0,
            pings,
            random,
        }
    }

    /// Whether messages may be due.
    #[inline]
    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }

    /// Whether the handshake, or what the server sends first behind it, is still under way.
    pub(crate) const fn is_opening(&self) -> bool {
        matches!(self.stage, Stage::Handshake(_) | Stage::Greeting(_))
    }

    /// Whether it is over, well or not.
    #[inline]
    pub(crate) const fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    /// How many messages are due or sent and have not come back.
    #[inline]
    pub(crate) fn in_flight(&self) -> usize {
        self.due_at.len()
    }

    /// How many messages have come back.
    pub(crate) const fn echoed(&self) -> u64 {
        self.echoed
    }

    /// So many messages are due at `now`. Nothing happens unless the connection is open.
    #[inline]
    pub(crate) fn push(&mut self, messages: usize, now: u64) {
        if self.is_open() {
            self.due_at.extend(std::iter::repeat_n(now, messages));
            self.outgoing.push(messages);
        }
    }

    /// Whether there is anything to send.
    #[inline]
    pub(crate) fn has_output(&self) -> bool {
        !self.is_done() && self.outgoing.is_pending()
    }

    /// Makes the next bytes to send.
    #[inline]
    pub(crate) fn fill(&self, traffic: &Traffic, to: &mut [u8]) -> Filled {
        self.outgoing.fill(traffic, to)
    }

    /// The first `written` of the bytes that [`Self::fill`] made last are sent.
    #[inline]
    pub(crate) fn wrote(&mut self, filled: Filled, written: usize, traffic: &Traffic) {
        self.outgoing.wrote(filled, written, traffic, &mut self.random);
    }

    /// Takes all of `bytes`, changing them, and calls `on_echo` with the time at which each message that came back
    /// was due.
    ///
    /// # Errors
    ///
    /// The first fault; the connection is then over.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        mut bytes: &mut [u8],
        traffic: &Traffic,
        mut on_echo: impl FnMut(u64),
    ) -> Result<(), Fault> {
        while !bytes.is_empty() && !self.is_done() {
            match self.step(bytes, traffic, &mut on_echo) {
                Ok(taken) => bytes = &mut bytes[taken..],
                Err(fault) => {
                    self.stage = Stage::Done;
                    return Err(fault);
                }
            }
        }
        Ok(())
    }

    /// The stream has ended: no byte will come. The connection is then over.
    ///
    /// # Errors
    ///
    /// When it should not have.
    pub(crate) fn receive_end(&mut self) -> Result<(), Fault> {
        let known = self.known_fault();
        let stage = std::mem::replace(&mut self.stage, Stage::Done);
        match (stage, &self.incoming) {
            _ if known.is_some() => known.map_or(Ok(()), Err),
            (Stage::Closed | Stage::Done, _) | (Stage::Closing, Incoming::Bytes(_)) => Ok(()),
            _ => Err(Fault::ConnectionLost(std::io::ErrorKind::UnexpectedEof)),
        }
    }

    /// The socket is of no more use: the connection is then over.
    ///
    /// # Errors
    ///
    /// When it should not have been. Behind the close frames a server *should* close cleanly (RFC 6455 §7.1.1) and need
    /// not: one that resets the connection has ended it.
    pub(crate) fn receive_error(&mut self, kind: std::io::ErrorKind) -> Result<(), Fault> {
        let known = self.known_fault();
        match std::mem::replace(&mut self.stage, Stage::Done) {
            _ if known.is_some() => known.map_or(Ok(()), Err),
            Stage::Closed | Stage::Done => Ok(()),
            _ => Err(Fault::ConnectionLost(kind)),
        }
    }

    /// Ends the connection, which is open and has nothing in flight: a close frame with 1000 is queued, as soon as our
    /// pings are answered. Where bytes are echoed there is none; the owner then shuts its direction down.
    pub(crate) fn close(&mut self) {
        debug_assert!(self.is_open() && self.due_at.is_empty());
        self.stage = match self.incoming {
            Incoming::Messages(_) => Stage::Emptying,
            Incoming::Bytes(_) => Stage::Closing,
        };
        self.close_when_empty();
    }

    /// Gives the connection up when the time for it is over, and says what was missing and how many of it.
    pub(crate) fn give_up(&mut self) -> Option<(Fault, u64)> {
        let missing =
            [(Fault::Missing, self.due_at.len() as u64), (Fault::MissingPong, self.missing_pongs())];
        let known = self.known_fault();
        let stage = std::mem::replace(&mut self.stage, Stage::Done);
        match (stage, &self.incoming) {
            _ if known.is_some() => known.map(|fault| (fault, 1)),
            (Stage::Handshake(_), _) => Some((Fault::HandshakeTimeout, 1)),
            (Stage::Greeting(greeting), _) => Some((greeting.missing(), 1)),
            (Stage::Open | Stage::Emptying, _) => missing.into_iter().find(|(_, count)| *count > 0),
            (Stage::Closing, Incoming::Messages(_)) => Some((Fault::CloseMissing, 1)),
            (Stage::Closed, _) => Some((Fault::NotEnded, 1)),
            (Stage::Closing, Incoming::Bytes(_)) | (Stage::Done, _) => None,
        }
    }

    /// The fault that is known, though its last words have not come.
    fn known_fault(&self) -> Option<Fault> {
        match &self.stage {
            Stage::Handshake(handshake) => handshake.known_fault(),
            Stage::Done => None,
            _ => self.incoming.pending_fault(),
        }
    }

    /// How many messages were ever due.
    fn messages(&self) -> u64 {
        self.echoed + self.due_at.len() as u64
    }

    /// How many of our pings are not answered.
    fn missing_pongs(&self) -> u64 {
        self.pings.as_ref().map_or(0, |pings| pings.missing(self.messages()))
    }

    /// Queues the close frame if that is all that is left to do.
    fn close_when_empty(&mut self) {
        if matches!(self.stage, Stage::Emptying) && self.missing_pongs() == 0 {
            self.stage = Stage::Closing;
            self.outgoing.push_close(&close::NORMAL.to_be_bytes(), &mut self.random);
        }
    }

    /// Takes some bytes and says how many.
    #[inline]
    fn step(
        &mut self,
        bytes: &mut [u8],
        traffic: &Traffic,
        on_echo: &mut impl FnMut(u64),
    ) -> Result<usize, Fault> {
        match &mut self.stage {
            Stage::Open | Stage::Emptying | Stage::Closing => {}
            Stage::Handshake(handshake) => {
                let Some(taken) = handshake.receive(bytes)? else {
                    return Ok(bytes.len());
                };
                if self.outgoing.is_pending() {
                    return Err(Fault::HandshakeInvalid("it came before the request was sent"));
                }
                self.stage = handshake.greeting().map_or(Stage::Open, |it| Stage::Greeting(Box::new(it)));
                return Ok(taken);
            }
            Stage::Greeting(greeting) => {
                let (taken, event) = greeting.receive(bytes)?;
                if greeting.is_over() {
                    self.stage = Stage::Open;
                }
                return match event {
                    Some(Event::Close(code, reason)) => Err(Fault::UnexpectedClose(code, reason)),
                    Some(Event::Ping(payload)) => {
                        self.outgoing.push_pong(payload, &mut self.random);
                        Ok(taken)
                    }
                    _ => Ok(taken),
                };
            }
            Stage::Closed | Stage::Done => {
                return Err(unasked("bytes behind the close frame", bytes.len() as u64, bytes));
            }
        }
        let (taken, event) = self.incoming.receive(bytes, self.due_at.len(), traffic)?;
        match event {
            None => {}
            Some(Event::Echo) => self.echo(on_echo)?,
            Some(Event::Echoes(count)) => (0..count).try_for_each(|_| self.echo(on_echo))?,
            Some(Event::Pong(payload)) => self.receive_pong(&payload)?,
            // After our close frame nothing may be sent (RFC 6455 §5.5.1).
            Some(Event::Ping(payload)) if matches!(self.stage, Stage::Open | Stage::Emptying) => {
                self.outgoing.push_pong(payload, &mut self.random);
            }
            Some(Event::Ping(_)) => {}
            Some(Event::Close(None | Some(close::NORMAL), _)) if matches!(self.stage, Stage::Closing) => {
                self.stage = Stage::Closed;
            }
            Some(Event::Close(code, reason)) => return Err(Fault::UnexpectedClose(code, reason)),
        }
        Ok(taken)
    }

    /// The oldest message in flight has come back.
    #[inline]
    fn echo(&mut self, on_echo: &mut impl FnMut(u64)) -> Result<(), Fault> {
        let due_at = self.due_at.pop_front().ok_or(Fault::Unasked(None))?;
        self.echoed += 1;
        on_echo(due_at);
        Ok(())
    }

    fn receive_pong(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let messages = self.messages();
        // A pong that nobody asked for is allowed (RFC 6455 §5.5.3); where we do not ping, each is.
        if let Some(pings) = &mut self.pings {
            pings.receive_pong(payload, messages)?;
            self.close_when_empty();
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
