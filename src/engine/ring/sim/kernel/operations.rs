//! What the simulated kernel does with each operation.
#![expect(unsafe_code, reason = "operations name memory")]

use std::net::Shutdown;
use std::os::fd::RawFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::SendFlags;

use super::super::super::queues::{Operation, Verb};
use super::super::super::token::Token;
use super::super::memory::Sending;
use super::super::world::{Readable, World};
use super::{Accept, Kernel, MULTISHOT_MAX, Queued, Running, Work};

/// What became of an operation that was looked at.
#[derive(PartialEq, Eq)]
enum Fate {
    GoesOn,
    Over,
}

impl Kernel {
    pub(super) fn begin(
        &mut self,
        world: &mut World,
        Queued { operation: Operation { token, verb }, sending }: Queued,
    ) {
        let kind = token.op as u64;
        world.say(|| format!("> {token:?} {verb:?}"));
        world.trace.add([kind, token.to_bits(), sending.as_ref().map_or(0, |sending| sending.len as u64), 0]);
        let work = match verb {
            Verb::Accept { listener, is_multi, peer, len } => {
                let Some(listener) = self.listener(world, listener, token) else { return };
                let accept = Accept { listener, is_multi, peer, len };
                if let Some(Work::Queued { then, .. }) = self.running.last_mut().map(|last| &mut last.work)
                    && then.is_none()
                {
                    // It is linked to what was submitted just before.
                    *then = Some(accept);
                    return;
                }
                return self.begin_accept(world, token, accept);
            }
            Verb::AwaitQueued { listener } => {
                let Some(listener) = self.listener(world, listener, token) else { return };
                Work::Queued { listener, then: None }
            }
            Verb::Connect { .. } => Work::Connect,
            Verb::Receive { file, group, is_multi } => {
                let Some(socket) = self.socket(world, file, token) else { return };
                if self.is_busy(socket, |work| matches!(work, Work::Receive { .. })) {
                    world.blame(|| format!("a second receive is begun on the socket at {file}"));
                }
                Work::Receive { socket, group: usize::from(group), is_multi }
            }
            Verb::Send { file, flags, is_silent, .. } | Verb::SendMessage { file, flags, is_silent, .. } => {
                let Some(socket) = self.socket(world, file, token) else { return };
                return self.begin_send(world, token, verb, socket, flags, is_silent, sending);
            }
            Verb::Shutdown { file, how } => {
                let delay = world.rng.u64(0..=world.odds.shutdown_delay);
                let at = world.now() + Duration::from_micros(delay);
                Work::Shutdown { file, meant: self.files[file as usize], how, at }
            }
            Verb::AskUnconfirmed { file } => {
                let Some(socket) = self.socket(world, file, token) else { return };
                if world.odds.is_old {
                    return self.fail(world, token, Errno::OPNOTSUPP);
                }
                // Half of the room is the peer's, which confirms what comes there.
                let own = &world.net.sockets[socket];
                let untaken = own.tx.len().saturating_sub(own.tx_max / 2);
                let untaken = i32::try_from(untaken).unwrap_or(i32::MAX);
                return self.post(world, token, untaken, true, None);
            }
            Verb::Close { file } => return self.close(world, token, file),
            Verb::Watch { .. } => Work::Watch { seen: world.wakes - u64::from(world.eventfd > 0) },
            Verb::Alarm { after } => Work::Alarm { at: world.now() + after },
            Verb::Cancel { token: of } => {
                return self.cancel(world, token, |running| running.token == of);
            }
            Verb::CancelFile { file } => {
                let socket = self.files[file as usize];
                return self.cancel(world, token, |running| running.work.socket() == socket);
            }
        };
        self.start(world, token, work);
    }

    /// Puts an operation among those that run. It may be over at once.
    fn start(&mut self, world: &mut World, token: Token, work: Work) {
        if let Work::Receive { group, .. } = work
            && self.groups[group].len() == 0
        {
            // It takes a buffer before it looks whether there is anything to receive.
            return self.fail(world, token, Errno::NOBUFS);
        }
        if let Some(socket) = work.socket() {
            world.net.sockets[socket].holders += 1;
        }
        self.count += 1;
        self.running.push(Running { number: self.count, token, work, is_cancelled: false });
        let at = self.running.len() - 1;
        if !self.can_go_on(world, at) {
            // It has been tried, and waits.
            if let Work::Send { is_tried, .. } = &mut self.running[at].work {
                *is_tried = true;
            }
        } else if !world.chance(world.odds.deferred) {
            self.go_on(world, at);
        }
    }

    fn listener(&mut self, world: &mut World, fd: RawFd, token: Token) -> Option<usize> {
        let listener = world.net.listeners.iter().position(|own| own.fd == fd);
        if listener.is_none() {
            self.fail(world, token, Errno::BADF);
        }
        listener
    }

    fn begin_accept(&mut self, world: &mut World, token: Token, accept: Accept) {
        let listener = &world.net.listeners[accept.listener];
        // An older kernel does not wait where the listener does not block.
        if world.odds.is_impatient
            && listener.queue.is_empty()
            && listener.flags.nonblocking().expect("a socket")
        {
            return self.fail(world, token, Errno::AGAIN);
        }
        self.start(world, token, Work::Accept(accept));
    }

    /// The socket at a place of the table, which must have one.
    fn socket(&mut self, world: &mut World, file: u32, token: Token) -> Option<usize> {
        let socket = self.files.get(file as usize).copied().flatten();
        if socket.is_none() {
            world.blame(|| format!("{token:?} is for a place in the table of files that is free"));
            self.fail(world, token, Errno::BADF);
        }
        socket
    }

    pub(super) fn is_busy(&self, socket: usize, is_so: impl Fn(&Work) -> bool) -> bool {
        self.running.iter().any(|running| running.work.socket() == Some(socket) && is_so(&running.work))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one operation")]
    fn begin_send(
        &mut self,
        world: &mut World,
        token: Token,
        verb: Verb,
        socket: usize,
        flags: SendFlags,
        is_silent: bool,
        sending: Option<Sending>,
    ) {
        if self.is_busy(socket, |work| matches!(work, Work::Send { .. })) {
            world.blame(|| "a second send is begun on a socket".to_owned());
        }
        // SAFETY: the memory is good until the submission is over.
        let now = unsafe { Sending::of(&verb) };
        let (Some(sending), Some(now)) = (sending, now) else { return };
        // SAFETY: as above.
        if !sending.is_of_same(&now) || !unsafe { sending.is_unchanged() } {
            world.blame(|| format!("what {token:?} sends was changed before it was submitted"));
        }
        if !flags.contains(SendFlags::DONTWAIT) {
            return self.start(world, token, Work::Send { socket, sending, sent: 0, is_tried: false });
        }
        match self.take(world, socket, &sending, 0) {
            Err(errno) => self.fail(world, token, errno),
            Ok(0) => self.fail(world, token, Errno::AGAIN),
            Ok(sent) if sent == sending.len && is_silent => {}
            Ok(sent) => self.post(world, token, i32::try_from(sent).unwrap_or(i32::MAX), true, None),
        }
    }

    /// Has a socket take some of what is sent.
    fn take(
        &mut self,
        world: &mut World,
        socket: usize,
        sending: &Sending,
        from: usize,
    ) -> Result<usize, Errno> {
        let room = world.net.sockets[socket].room().ok_or(Errno::PIPE)?.min(sending.len - from);
        let is_short = world.chance(world.odds.short_send);
        let count = if is_short && room > 0 { world.rng.usize(0..room) } else { room };
        // SAFETY: the memory is good until the send is over.
        let bytes = unsafe { sending.bytes(from, count) };
        world.net.sockets[socket].tx.extend(bytes);
        Ok(count)
    }

    fn close(&mut self, world: &mut World, token: Token, file: u32) {
        let Some(socket) = self.files[file as usize].take() else {
            world.blame(|| format!("the place {file} is freed twice"));
            return self.fail(world, token, Errno::BADF);
        };
        if self.is_busy(socket, |_| true) {
            world.blame(|| format!("the socket at {file} is closed with something under way on it"));
        }
        world.net.sockets[socket].release();
        self.post(world, token, 0, true, None);
    }

    fn cancel(&mut self, world: &mut World, token: Token, is_it: impl Fn(&Running) -> bool) {
        let mut found = 0;
        for running in &mut self.running {
            let can_be = !matches!(running.work, Work::Shutdown { .. });
            if can_be && !running.is_cancelled && is_it(running) {
                running.is_cancelled = true;
                found += 1;
            }
        }
        if found == 0 {
            self.fail(world, token, Errno::NOENT);
        } else {
            self.post(world, token, 0, true, None);
        }
    }

    /// Goes on with an operation.
    pub(super) fn go_on(&mut self, world: &mut World, at: usize) {
        let mut running = self.running.swap_remove(at);
        let fate = self.advance(world, &mut running);
        if fate == Fate::GoesOn {
            self.running.push(running);
        } else if let Some(socket) = running.work.socket() {
            world.net.sockets[socket].release();
        }
    }

    fn advance(&mut self, world: &mut World, running: &mut Running) -> Fate {
        let Running { token, is_cancelled, .. } = *running;
        match &mut running.work {
            Work::Accept(accept) => {
                if is_cancelled {
                    self.fail(world, token, Errno::CANCELED);
                    return Fate::Over;
                }
                let accept = *accept;
                self.accept(world, token, accept)
            }
            // One completion speaks of both, if the first one fails.
            Work::Queued { .. } if is_cancelled => {
                self.fail(world, token, Errno::CANCELED);
                Fate::Over
            }
            Work::Queued { then, .. } => {
                if let Some(accept) = then.take() {
                    self.begin_accept(world, token, accept);
                }
                Fate::Over
            }
            Work::Receive { socket, group, is_multi } => {
                let (socket, group, is_multi) = (*socket, *group, *is_multi);
                if is_cancelled {
                    return self.end_receive(world, token, socket, group, is_multi);
                }
                self.receive(world, token, socket, group, is_multi)
            }
            Work::Send { socket, sending, sent, is_tried } => {
                // SAFETY: the memory is good until the send is over.
                if !unsafe { sending.is_unchanged() } {
                    world.blame(|| format!("what {token:?} sends was changed under way"));
                }
                let taken = if is_cancelled {
                    Err(Errno::CANCELED)
                } else {
                    self.take(world, *socket, sending, *sent)
                };
                match taken {
                    Ok(more) => {
                        *sent += more;
                        *is_tried = true;
                        if *sent < sending.len {
                            return Fate::GoesOn;
                        }
                        self.post(world, token, i32::try_from(*sent).unwrap_or(i32::MAX), true, None);
                    }
                    // A part of it has gone out.
                    Err(_) if *sent > 0 => {
                        self.post(world, token, i32::try_from(*sent).unwrap_or(i32::MAX), true, None);
                    }
                    Err(errno) => self.fail(world, token, errno),
                }
                Fate::Over
            }
            Work::Shutdown { file, meant, how, .. } => {
                let found = self.files[*file as usize];
                if found != *meant {
                    world.blame(|| format!("a late shutdown has hit who has the place {file} now"));
                }
                if let Some(socket) = found {
                    let socket = &mut world.net.sockets[socket];
                    socket.tx_end |= *how != Shutdown::Read;
                    socket.rx_shut |= *how != Shutdown::Write;
                    self.post(world, token, 0, true, None);
                } else {
                    self.fail(world, token, Errno::BADF);
                }
                Fate::Over
            }
            Work::Watch { seen } => {
                *seen = world.wakes;
                let is_last = world.chance(world.odds.multishot_ends) || self.is_full();
                self.post(world, token, 1, is_last, None);
                if is_last { Fate::Over } else { Fate::GoesOn }
            }
            Work::Alarm { .. } => {
                self.fail(world, token, Errno::TIME);
                Fate::Over
            }
            Work::Connect => {
                self.fail(world, token, Errno::CONNREFUSED);
                Fate::Over
            }
        }
    }

    fn accept(
        &mut self,
        world: &mut World,
        token: Token,
        Accept { listener, is_multi, peer, len }: Accept,
    ) -> Fate {
        for _ in 0..MULTISHOT_MAX {
            if world.chance(world.odds.accept_fails) {
                const ERRORS: [Errno; 4] = [Errno::CONNABORTED, Errno::MFILE, Errno::NOBUFS, Errno::NOMEM];
                let errno = ERRORS[world.rng.usize(0..ERRORS.len())];
                world.accept_failed = world.now();
                self.fail(world, token, errno);
                return Fate::Over;
            }
            let Some(socket) = world.net.listeners[listener].queue.pop_front() else {
                break;
            };
            let Some(file) = self.files.iter().position(Option::is_none) else {
                world.blame(|| "a connection is accepted without a place for it, and destroyed".to_owned());
                world.net.sockets[socket].release();
                self.fail(world, token, Errno::NFILE);
                return Fate::Over;
            };
            self.files[file] = Some(socket);
            world.net.sockets[socket].accepted = Some(world.now());
            if !peer.is_null() {
                // SAFETY: the memory is good until the accept is over, and large enough for any address.
                unsafe { write_address(peer, len, socket) };
            }
            let is_last = !is_multi || self.is_full() || world.chance(world.odds.multishot_ends);
            self.post(world, token, i32::try_from(file).unwrap_or(i32::MAX), is_last, None);
            if is_last {
                return Fate::Over;
            }
        }
        Fate::GoesOn
    }

    fn receive(
        &mut self,
        world: &mut World,
        token: Token,
        socket: usize,
        group: usize,
        is_multi: bool,
    ) -> Fate {
        for _ in 0..MULTISHOT_MAX {
            match world.net.sockets[socket].readable() {
                Readable::Nothing => break,
                _ if self.groups[group].len() == 0 => {
                    self.fail(world, token, Errno::NOBUFS);
                    return Fate::Over;
                }
                Readable::Reset => {
                    world.net.sockets[socket].told_reset = true;
                    self.fail(world, token, Errno::CONNRESET);
                    return Fate::Over;
                }
                Readable::End => {
                    // A buffer may come back with nothing in it.
                    let buffer = if world.rng.bool() {
                        self.fill(world, socket, group, true).map(|(index, _)| index)
                    } else {
                        None
                    };
                    self.post(world, token, 0, true, buffer);
                    return Fate::Over;
                }
                Readable::Bytes => {
                    let is_last = !is_multi || self.is_full() || world.chance(world.odds.multishot_ends);
                    let Some((index, count)) = self.fill(world, socket, group, false) else {
                        return Fate::Over;
                    };
                    self.post(world, token, i32::try_from(count).unwrap_or(i32::MAX), is_last, Some(index));
                    if is_last {
                        return Fate::Over;
                    }
                }
            }
        }
        Fate::GoesOn
    }

    /// A receive that was cancelled. It may have been about to bring something.
    fn end_receive(
        &mut self,
        world: &mut World,
        token: Token,
        socket: usize,
        group: usize,
        is_multi: bool,
    ) -> Fate {
        let can_bring =
            world.net.sockets[socket].readable() == Readable::Bytes && self.groups[group].len() > 0;
        if can_bring && world.chance(300) {
            let Some((index, count)) = self.fill(world, socket, group, false) else {
                return Fate::Over;
            };
            let is_last = !is_multi || self.is_full() || world.chance(300);
            self.post(world, token, i32::try_from(count).unwrap_or(i32::MAX), is_last, Some(index));
            if is_last {
                return Fate::Over;
            }
        }
        self.fail(world, token, Errno::CANCELED);
        Fate::Over
    }

    /// Receives into the next buffer of a group.
    fn fill(
        &mut self,
        world: &mut World,
        socket: usize,
        group: usize,
        is_empty: bool,
    ) -> Option<(u16, usize)> {
        let is_short = world.chance(world.odds.short_receive);
        let part = world.rng.usize(1..=64);
        let from = &mut world.net.sockets[socket];
        let fill = |to: &mut [u8]| {
            let there = if is_empty { 0 } else { from.rx.len().min(to.len()) };
            let count = if is_short { there.min(part) } else { there };
            from.receive(&mut to[..count]);
            count
        };
        // SAFETY: the kernel has the buffer, and its memory lives as long as the ring.
        match unsafe { self.groups[group].take(fill) } {
            Ok(filled) => filled,
            Err(what) => {
                world.blame(|| what);
                None
            }
        }
    }
}

/// Writes the address of the client that has this socket.
///
/// # Safety
///
/// The memory is as long as `len` says, and so long as any address.
unsafe fn write_address(peer: *mut libc::sockaddr, len: *mut libc::socklen_t, socket: usize) {
    let host = u8::try_from(socket % 4).unwrap_or(0);
    let address = libc::sockaddr_in {
        sin_family: 2,
        sin_port: 1,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([10, 0, 0, host]) },
        sin_zero: [0; 8],
    };
    // SAFETY: as the caller says.
    unsafe {
        peer.cast::<libc::sockaddr_in>().write_unaligned(address);
        *len = 16;
    }
}
