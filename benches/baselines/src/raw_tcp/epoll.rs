//! The cheapest raw echo on epoll: edge-triggered, one read and one write for each piece that arrives.

use std::convert::Infallible;
use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

/// Accepts from `listener` and sends back what comes, read by read in pieces of at most `buffer_size` bytes.
///
/// A connection whose peer does not read is not read from until everything it is owed has been sent. A connection
/// that has more to read is read from until it has not: nobody starves while the load is bounded by its echoes.
///
/// # Errors
///
/// epoll or accepting fails, the latter for want of descriptors for example: a load of which a part is missing is not
/// worth measuring.
///
/// # Panics
///
/// If `buffer_size` is 0.
pub fn serve(listener: std::net::TcpListener, buffer_size: usize) -> io::Result<Infallible> {
    /// Events taken from the kernel at once.
    const EVENTS_MAX: usize = 1024;

    assert!(buffer_size > 0, "nothing can be read into no buffer");
    listener.set_nonblocking(true)?;
    let mut listener = TcpListener::from_std(listener);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(EVENTS_MAX);
    let mut connections = Slab::new();
    let mut buffers = Buffers { buffer_size, spare: Vec::new() };
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            let token = event.token();
            if token == LISTENER {
                accept(&listener, &poll, &mut connections)?;
                continue;
            }
            // The kernel names a socket once in a batch, so its connection has not been replaced within it.
            let connection: &mut Connection = &mut connections[token.0];
            // An error is the peer's reset; the connection ends like after its FIN.
            if connection.on_event(event, &mut buffers).unwrap_or(After::Closed) == After::Closed {
                connections.remove(token.0);
            }
        }
    }
}

/// The listener's token; a connection's is its place in the slab.
const LISTENER: Token = Token(usize::MAX);

/// Accepts all who wait, since no further edge will tell of them.
fn accept(listener: &TcpListener, poll: &Poll, connections: &mut Slab<Connection>) -> io::Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {
                continue;
            }
            Err(error) => return Err(error),
        };
        let entry = connections.vacant_entry();
        // Both once and for all: a socket with room to write makes no further edges of it, so it costs nothing.
        poll.registry().register(&mut stream, Token(entry.key()), Interest::READABLE | Interest::WRITABLE)?;
        entry.insert(Connection { stream, unsent: None, peer_finished: false });
    }
}

struct Connection {
    stream: TcpStream,
    /// What the socket did not take.
    unsent: Option<Unsent>,
    /// The peer's FIN is here or before us in the queue: no edge will tell of it again.
    peer_finished: bool,
}

/// Received bytes still to be sent, and the buffer they were received into.
struct Unsent {
    buffer: Vec<u8>,
    /// Never empty.
    range: Range<usize>,
}

/// Whether a connection goes on.
#[derive(PartialEq, Eq)]
enum After {
    Open,
    /// The peer has ended its half, and was sent everything.
    Closed,
}

impl Connection {
    /// Sends what is owed, then echoes until the socket has no more to read or does not take more.
    fn on_event(&mut self, event: &Event, buffers: &mut Buffers) -> io::Result<After> {
        self.peer_finished |= event.is_read_closed();
        if let Some(unsent) = self.unsent.take() {
            if !event.is_writable() {
                self.unsent = Some(unsent);
                return Ok(After::Open);
            }
            self.send(unsent.buffer, unsent.range, buffers)?;
        }
        while self.unsent.is_none() {
            let mut buffer = buffers.take();
            let received = match self.stream.read(&mut buffer) {
                Ok(received) => received,
                Err(error) => {
                    buffers.give_back(buffer);
                    match error.kind() {
                        ErrorKind::WouldBlock => return Ok(After::Open),
                        ErrorKind::Interrupted => continue,
                        _ => return Err(error),
                    }
                }
            };
            if received == 0 {
                buffers.give_back(buffer);
                return Ok(After::Closed);
            }
            // A short read has drained the socket (epoll(7)): the next byte makes an edge, and so does a FIN that was
            // not there at this one.
            let drained = received < buffer.len() && !self.peer_finished;
            self.send(buffer, 0..received, buffers)?;
            if drained {
                return Ok(After::Open);
            }
        }
        Ok(After::Open)
    }

    /// Sends `buffer[range]`, as far as the socket takes it. The rest is kept; a short write has filled the socket
    /// (epoll(7)), so an edge tells when there is room again.
    fn send(&mut self, buffer: Vec<u8>, range: Range<usize>, buffers: &mut Buffers) -> io::Result<()> {
        let sent = loop {
            match self.stream.write(&buffer[range.clone()]) {
                Ok(sent) => break sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break 0,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        let range = range.start + sent..range.end;
        if range.is_empty() {
            buffers.give_back(buffer);
        } else {
            self.unsent = Some(Unsent { buffer, range });
        }
        Ok(())
    }
}

/// The buffers of the thread: the one that everybody reads into, and one for each connection that is owed bytes.
struct Buffers {
    buffer_size: usize,
    spare: Vec<Vec<u8>>,
}

impl Buffers {
    /// A buffer of `buffer_size` bytes, allocated only if none is spare.
    fn take(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_else(|| vec![0; self.buffer_size])
    }

    fn give_back(&mut self, buffer: Vec<u8>) {
        self.spare.push(buffer);
    }
}
