//! Accepting on epoll, as long as there are places.
//!
//! A listener is looked at while there is room. Its readiness is no edge: it is told again as long as connections wait, so a
//! listener for which there is no room is taken out, or the worker would spin.

use std::io;
use std::net::{IpAddr, TcpStream};
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use super::super::driver::{Accepting, Event};
use super::super::listener::{Listener, is_the_peers};
use super::socket::Socket;

/// The listeners of a worker.
#[derive(Debug, Default)]
pub(super) struct Acceptors {
    listeners: Vec<Acceptor>,
    /// How many connections there is room for in this turn.
    places: usize,
    /// Whether what is queued now is taken, and then no more.
    are_last: bool,
}

#[derive(Debug)]
struct Acceptor {
    /// Nothing once what was queued at the end has been taken.
    socket: Option<Listener>,
    /// The name of its events.
    data: u64,
    is_watched: bool,
    /// How many of those that were queued when the drain began were taken.
    last_ones: usize,
}

impl Acceptors {
    /// Those of a worker. The events of the first one are named `data`, of the next one `data + 1`, and so on.
    pub(super) fn new(sockets: Vec<Listener>, data: u64) -> io::Result<Self> {
        let mut listeners = Vec::new();
        for (socket, data) in sockets.into_iter().zip(data..) {
            socket.set_nonblocking(true)?;
            listeners.push(Acceptor { socket: Some(socket), data, is_watched: false, last_ones: 0 });
        }
        Ok(Self { listeners, ..Self::default() })
    }

    /// Whether nothing more will be accepted.
    pub(super) fn are_done(&self) -> bool {
        self.listeners.iter().all(|listener| listener.socket.is_none())
    }

    /// Whether there is something to accept that no event will tell of.
    pub(super) fn have_more(&self) -> bool {
        self.are_last && self.places > 0 && !self.are_done()
    }

    /// Looks at the listeners, or does not, as the worker has it.
    pub(super) fn manage(&mut self, epoll: &OwnedFd, accepting: Accepting) -> io::Result<()> {
        let Accepting { places, is_paused, are_last } = accepting;
        self.places = if is_paused { 0 } else { places };
        self.are_last = are_last;
        for listener in &mut self.listeners {
            let Some(socket) = &listener.socket else {
                continue;
            };
            let is_wanted = self.places > 0 && !are_last;
            if is_wanted != listener.is_watched {
                if is_wanted {
                    // A connection wakes one of those who share the socket.
                    let exclusive =
                        if socket.is_shared() { EventFlags::EXCLUSIVE } else { EventFlags::empty() };
                    let data = EventData::new_u64(listener.data);
                    epoll::add(epoll, socket, data, EventFlags::IN | exclusive)?;
                } else {
                    epoll::delete(epoll, socket)?;
                }
                listener.is_watched = is_wanted;
            }
            // What is queued is taken: closing a listener would reset it, unless it is open elsewhere.
            if are_last && socket.is_inherited() {
                listener.socket = None;
            }
        }
        Ok(())
    }

    /// Accepts a connection from the listener whose events have this name. Gives whether to accept another one of it.
    pub(super) fn accept(&mut self, data: u64, epoll: &OwnedFd) -> Option<(Event<Socket>, bool)> {
        if self.places == 0 {
            return None;
        }
        let listener = self.listeners.iter_mut().find(|listener| listener.data == data)?;
        let accepted = listener.accept()?;
        let is_shared = listener.let_others_be_first(epoll);
        self.places -= usize::from(accepted.is_ok());
        let may_go_on = accepted.is_ok() && !is_shared;
        Some((event(accepted), may_go_on))
    }

    /// Accepts one of those that were queued when the drain began.
    pub(super) fn accept_last(&mut self) -> Option<Event<Socket>> {
        if !self.are_last {
            return None;
        }
        for listener in &mut self.listeners {
            while self.places > 0
                && let Some(socket) = &listener.socket
            {
                // Linux has one more in the queue than it was told.
                if listener.last_ones > socket.queue_max() {
                    listener.socket = None;
                    break;
                }
                match socket.accept() {
                    Ok(accepted) => {
                        listener.last_ones += 1;
                        self.places -= 1;
                        return Some(event(Ok(accepted)));
                    }
                    Err(error) if is_the_peers(&error) => {}
                    Err(error) => {
                        listener.socket = None;
                        if error.kind() != io::ErrorKind::WouldBlock {
                            return Some(Event::AcceptFailed(error));
                        }
                    }
                }
            }
        }
        None
    }
}

/// A connection and its peer's address.
type Accepted = (TcpStream, Option<IpAddr>);

impl Acceptor {
    /// The kernel wakes the first of those who wait for a shared socket and sleep. So whoever has accepted goes to the end of
    /// the list: it is watched anew from the next turn on. Gives whether the socket is shared.
    fn let_others_be_first(&mut self, epoll: &OwnedFd) -> bool {
        let shared = self.socket.as_ref().filter(|socket| socket.is_shared());
        if let Some(socket) = shared
            && self.is_watched
            && epoll::delete(epoll, socket).is_ok()
        {
            self.is_watched = false;
        }
        shared.is_some()
    }

    /// Accepts a connection, if there is one.
    fn accept(&self) -> Option<io::Result<Accepted>> {
        match self.socket.as_ref()?.accept() {
            // Another worker was first.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::AGAIN) => None,
            Err(error) if is_the_peers(&error) => None,
            accepted => Some(accepted),
        }
    }
}

fn event(accepted: io::Result<Accepted>) -> Event<Socket> {
    match accepted {
        Ok((socket, peer)) => Event::Accepted { socket: Socket::new(socket.into()), peer },
        Err(error) => Event::AcceptFailed(error),
    }
}
