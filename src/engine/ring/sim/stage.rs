//! Where a script is played: operations on a kernel, the real or the simulated one, and clients on the other side.
#![expect(unsafe_code, reason = "operations name memory")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::SendFlags;
use socket2::{Domain, SockRef, Socket as Socket2, Type};

use super::super::super::slots::Id;
use super::super::Sizes;
use super::super::event::Wait;
use super::super::queues::{Operation, Queues, Uring, Verb};
use super::super::token::{Op, Token};
use super::kernel::Kernel;
use super::world::{Listening, Socket, World};

/// How large everything is.
pub(super) const FILES: u32 = 4;
pub(super) const SMALL: usize = 64;
pub(super) const BIG: usize = 4096;
pub(super) const SUBMISSIONS: u32 = 8;
pub(super) const COMPLETIONS: u32 = 8;

/// More than a socket takes.
pub(super) const MUCH: usize = 4 << 20;

/// How long something that comes may take, and how long nothing is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_millis(60);

/// A kernel, a listener of it and clients that connect to that.
pub(super) trait Rig {
    type Kernel: Queues;

    fn kernel(&mut self) -> &mut Self::Kernel;
    fn descriptors(&self) -> &Descriptors;
    /// A client connects; gives its number.
    fn connect(&mut self) -> usize;
    fn write(&mut self, client: usize, bytes: &[u8]);
    /// A client reads what is there, at most this long waited for.
    fn read(&mut self, client: usize, most: usize, patience: Duration) -> io::Result<usize>;
    fn half_close(&mut self, client: usize);
    fn reset(&mut self, client: usize);
    fn wake(&mut self);
    /// Lets some time pass.
    fn pause(&mut self);

    fn listener(&self) -> RawFd {
        self.descriptors().listener.as_raw_fd()
    }

    fn eventfd(&self) -> RawFd {
        self.descriptors().eventfd.as_raw_fd()
    }

    fn set_nonblocking(&self, is_nonblocking: bool) {
        self.descriptors().listener.set_nonblocking(is_nonblocking).expect("a socket");
    }
}

/// What a kernel is told of by number.
pub(super) struct Descriptors {
    listener: Socket2,
    eventfd: OwnedFd,
}

/// Linux.
pub(super) struct Real {
    kernel: Uring,
    descriptors: Descriptors,
    clients: Vec<Option<TcpStream>>,
}

impl Real {
    pub(super) fn new() -> io::Result<Self> {
        let sizes = Sizes { submissions: SUBMISSIONS, completions: COMPLETIONS, ..Sizes::new(BIG, 1) };
        let listener = Socket2::from(TcpListener::bind("127.0.0.1:0")?);
        listener.set_send_buffer_size(16 << 10)?;
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            kernel: Uring::set_up(&sizes)?,
            descriptors: Descriptors { listener, eventfd },
            clients: Vec::new(),
        })
    }

    fn client(&mut self, client: usize) -> &mut TcpStream {
        self.clients[client].as_mut().expect("it has not gone")
    }
}

impl Rig for Real {
    type Kernel = Uring;

    fn kernel(&mut self) -> &mut Uring {
        &mut self.kernel
    }

    fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    fn connect(&mut self) -> usize {
        let socket = Socket2::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(16 << 10).expect("an option of sockets");
        let address = self.descriptors.listener.local_addr().expect("it is bound");
        socket.connect(&address).expect("it listens");
        self.clients.push(Some(socket.into()));
        self.clients.len() - 1
    }

    fn write(&mut self, client: usize, bytes: &[u8]) {
        self.client(client).write_all(bytes).expect("there is room");
    }

    fn read(&mut self, client: usize, most: usize, patience: Duration) -> io::Result<usize> {
        let stream = self.client(client);
        stream.set_read_timeout(Some(patience)).expect("a duration");
        stream.read(&mut vec![0; most])
    }

    fn half_close(&mut self, client: usize) {
        self.client(client).shutdown(Shutdown::Write).expect("it is connected");
    }

    fn reset(&mut self, client: usize) {
        let stream = self.clients[client].take().expect("it has not gone");
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an option of sockets");
    }

    fn wake(&mut self) {
        rustix::io::write(&self.descriptors.eventfd, &1_u64.to_ne_bytes()).expect("an eventfd");
    }

    fn pause(&mut self) {
        thread::sleep(SILENCE);
    }
}

/// The simulated kernel, which does nothing that it need not do.
pub(super) struct Simulated {
    kernel: Kernel,
    world: Rc<RefCell<World>>,
    descriptors: Descriptors,
    clients: Vec<usize>,
}

impl Simulated {
    /// As an older kernel does it, if it `is_impatient`.
    pub(super) fn new(is_impatient: bool) -> io::Result<Self> {
        let mut world = World::new(Rng::with_seed(0), Arc::default());
        // A script does what the worker must not.
        world.is_lenient = true;
        world.odds.is_impatient = is_impatient;
        let listener = Socket2::new(Domain::UNIX, Type::STREAM, None)?;
        let fd = listener.as_raw_fd();
        let (queue, queue_max) = (VecDeque::new(), 16);
        let flags = listener.try_clone()?;
        world.net.listeners.push(Listening { fd, flags, queue, queue_max, arrived: 0, is_shared: false });
        let world = Rc::new(RefCell::new(world));
        Ok(Self {
            kernel: Kernel::new(Rc::clone(&world), SUBMISSIONS, COMPLETIONS),
            world,
            descriptors: Descriptors { listener, eventfd: eventfd(0, EventfdFlags::CLOEXEC)? },
            clients: Vec::new(),
        })
    }

    fn with<T>(&mut self, client: usize, look: impl FnOnce(&mut Socket) -> T) -> T {
        look(&mut self.world.borrow_mut().net.sockets[self.clients[client]])
    }
}

impl Rig for Simulated {
    type Kernel = Kernel;

    fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    fn connect(&mut self) -> usize {
        let net = &mut self.world.borrow_mut().net;
        net.sockets.push(Socket::new(1 << 20, 200 << 10));
        net.listeners[0].queue.push_back(net.sockets.len() - 1);
        self.clients.push(net.sockets.len() - 1);
        self.clients.len() - 1
    }

    fn write(&mut self, client: usize, bytes: &[u8]) {
        assert_eq!(self.with(client, |socket| socket.write(bytes)), bytes.len());
    }

    fn read(&mut self, client: usize, most: usize, _: Duration) -> io::Result<usize> {
        self.with(client, |socket| match socket {
            Socket { client_reset: true, .. } => Err(ErrorKind::ConnectionReset.into()),
            Socket { tx, tx_end: true, .. } if tx.is_empty() => Ok(0),
            Socket { tx, .. } if tx.is_empty() => Err(ErrorKind::WouldBlock.into()),
            Socket { tx, .. } => Ok(tx.drain(..most.min(tx.len())).count()),
        })
    }

    fn half_close(&mut self, client: usize) {
        self.with(client, |socket| socket.rx_end = true);
    }

    fn reset(&mut self, client: usize) {
        self.with(client, |socket| socket.is_reset = true);
    }

    fn wake(&mut self) {
        let mut world = self.world.borrow_mut();
        world.eventfd += 1;
        world.wakes += 1;
    }

    fn pause(&mut self) {
        let time = Rc::clone(&self.world.borrow().time);
        time.set(time.get() + SILENCE);
    }
}

/// A script under way, and what has come of it.
pub(super) struct Play<R: Rig> {
    pub(super) rig: R,
    log: Vec<String>,
    /// What the kernel receives into; dropped after the kernel.
    buffers: [Vec<u8>; 2],
    /// What it sends.
    sends: Vec<Vec<u8>>,
    messages: Vec<(Box<libc::msghdr>, Vec<libc::iovec>)>,
    peer: Box<(libc::sockaddr_storage, libc::socklen_t)>,
    /// How many shutdowns are under way: threads of the kernel do them, in their own time.
    shutdowns: u32,
}

impl<R: Rig> Play<R> {
    /// No buffer is given yet.
    pub(super) fn new(mut rig: R) -> io::Result<Self> {
        rig.kernel().register(FILES, [4, 2])?;
        // SAFETY: zeros are an address of no family.
        let peer = Box::new((unsafe { std::mem::zeroed() }, 128));
        Ok(Self {
            rig,
            log: Vec::new(),
            buffers: [vec![0; 4 * SMALL], vec![0; 2 * BIG]],
            sends: Vec::new(),
            messages: Vec::new(),
            peer,
            shutdowns: 0,
        })
    }

    /// Everything that was said.
    pub(super) fn finish(mut self) -> Vec<String> {
        // The memory is used until all operations have ended.
        self.rig.kernel().cancel_all(PATIENCE).expect("they end");
        std::mem::take(&mut self.log)
    }

    pub(super) fn say(&mut self, what: impl Into<String>) {
        self.log.push(what.into());
    }

    /// Gives the kernel the first `count` buffers of a group.
    pub(super) fn provide(&mut self, group: u16, count: u16) {
        for index in 0..count {
            self.give(group, index);
        }
    }

    pub(super) fn give(&mut self, group: u16, index: u16) {
        let size = if group == 0 { SMALL } else { BIG };
        let start = &mut self.buffers[usize::from(group)][usize::from(index) * size..][..size];
        let start = NonNull::from(start).cast();
        let len = u32::try_from(size).expect("a small number");
        // SAFETY: the memory lives until all operations have ended.
        unsafe { self.rig.kernel().provide(group, index, start, len) };
    }

    pub(super) fn try_push(&mut self, op: Op, number: u32, verb: Verb) -> bool {
        let operation = Operation { token: token(op, number), verb };
        // SAFETY: the memory lives until all operations have ended.
        unsafe { self.rig.kernel().push(&operation) }
    }

    pub(super) fn push(&mut self, op: Op, number: u32, verb: Verb) {
        assert!(self.try_push(op, number, verb), "the queue has room");
    }

    pub(super) fn enter(&mut self, wait: Wait) {
        self.rig.kernel().enter(wait).expect("queues of use");
    }

    /// Says what has come, with nothing entered.
    pub(super) fn take(&mut self) -> usize {
        let mut count = 0;
        while let Some(completion) = self.rig.kernel().next() {
            let Token { op, id } = completion.token.expect("a token of ours");
            let (last, buffer) = (if completion.is_last { "last" } else { "more" }, completion.buffer);
            // How much a send takes is up to the kernel.
            let result = match (op, completion.result) {
                (Op::Send, 1_000..=4_194_303) => "some".to_owned(),
                (_, result) => result.to_string(),
            };
            let buffer = buffer.map_or(String::new(), |buffer| format!(" in {buffer}"));
            self.log.push(format!("{op:?} {} {result} {last}{buffer}", id.slot));
            self.shutdowns -= u32::from(op == Op::Shutdown);
            count += 1;
        }
        count
    }

    /// Waits for so many completions and says what they are.
    pub(super) fn wait(&mut self, count: usize) {
        let (mut left, mut turns) = (count, 0);
        loop {
            left = left.saturating_sub(self.take());
            if left == 0 || turns == 100 {
                break;
            }
            turns += 1;
            self.enter(Wait::AtMost(PATIENCE / 100));
        }
        if left > 0 {
            self.say(format!("{left} do not come"));
        }
    }

    /// Submits, and says what comes of it before long.
    pub(super) fn settle(&mut self) {
        for turn in 0..100 {
            self.enter(Wait::No);
            self.take();
            let is_due = self.shutdowns > 0;
            self.rig.pause();
            if turn >= 2 && !is_due {
                break;
            }
        }
        self.enter(Wait::No);
        self.take();
        self.say("-");
    }

    /// A client that is accepted; gives its number and its place in the table.
    pub(super) fn open(&mut self) -> (usize, u32) {
        let client = self.rig.connect();
        self.accept(90, false);
        self.wait(1);
        let file = self.log.pop().expect("it is accepted");
        let file = file.split(' ').nth(2).expect("a result").parse().expect("a place");
        (client, file)
    }

    pub(super) fn accept(&mut self, number: u32, is_multi: bool) {
        let listener = self.rig.listener();
        let verb = Verb::Accept { listener, is_multi, peer: ptr::null_mut(), len: ptr::null_mut() };
        self.push(Op::Accept, number, verb);
    }

    /// An accept behind a poll that it is linked to.
    pub(super) fn accept_when_ready(&mut self, number: u32) {
        let listener = self.rig.listener();
        self.push(Op::Accept, number, Verb::AwaitQueued { listener });
        self.accept(number, false);
    }

    pub(super) fn accept_with_peer(&mut self, number: u32) {
        let (peer, len) = (&raw mut self.peer.0, &raw mut self.peer.1);
        let listener = self.rig.listener();
        self.push(Op::Accept, number, Verb::Accept { listener, is_multi: false, peer: peer.cast(), len });
    }

    pub(super) fn say_peer(&mut self) {
        let said = format!("an address of family {} and {} bytes", self.peer.0.ss_family, self.peer.1);
        self.say(said);
    }

    pub(super) fn receive(&mut self, number: u32, file: u32, is_multi: bool) {
        self.push(Op::ReceiveSmall, number, Verb::Receive { file, group: 0, is_multi });
    }

    /// Sends so many bytes.
    pub(super) fn send(&mut self, number: u32, file: u32, len: usize, manner: Manner) {
        self.sends.push(vec![7; len]);
        let bytes = self.sends[self.sends.len() - 1].as_ptr();
        let len = u32::try_from(len).expect("a small number");
        let (flags, is_silent) = (manner.flags(), manner == Manner::Silent);
        self.push(Op::Send, number, Verb::Send { file, bytes, len, flags, is_silent });
    }

    /// Sends until the socket takes nothing more.
    pub(super) fn fill(&mut self, file: u32) {
        let mut refused = 0;
        while refused < 4 {
            self.send(99, file, MUCH, Manner::Telling);
            self.wait(1);
            let is_refused = self.log.pop().is_some_and(|said| !said.contains("some"));
            refused = if is_refused { refused + 1 } else { 0 };
            self.rig.pause();
        }
    }

    /// Sends so many pieces of so many bytes.
    pub(super) fn send_pieces(&mut self, number: u32, file: u32, count: usize, len: usize, manner: Manner) {
        self.sends.push(vec![7; len]);
        let start = self.sends[self.sends.len() - 1].as_ptr().cast_mut();
        let mut list = vec![libc::iovec { iov_base: start.cast(), iov_len: len }; count];
        // SAFETY: zeros are a header without address, pieces, control data and flags.
        let mut header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        (header.msg_iov, header.msg_iovlen) = (list.as_mut_ptr(), count);
        let message = &raw const *header;
        self.messages.push((header, list));
        let (flags, is_silent) = (manner.flags(), manner == Manner::Silent);
        self.push(Op::Send, number, Verb::SendMessage { file, message, flags, is_silent });
    }

    pub(super) fn shut(&mut self, number: u32, file: u32, how: Shutdown) {
        self.push(Op::Shutdown, number, Verb::Shutdown { file, how });
        self.shutdowns += 1;
    }

    pub(super) fn close(&mut self, number: u32, file: u32) {
        self.push(Op::Close, number, Verb::Close { file });
    }

    pub(super) fn cancel(&mut self, number: u32, op: Op, of: u32) {
        self.push(Op::Cancel, number, Verb::Cancel { token: token(op, of) });
    }

    /// Says what a client reads.
    pub(super) fn read(&mut self, client: usize) {
        let said = match self.rig.read(client, 1 << 20, SILENCE) {
            Ok(0) => "the client reads its end".to_owned(),
            Ok(count) => format!("the client reads {count}"),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => "the client is reset".to_owned(),
            Err(_) => "the client reads nothing".to_owned(),
        };
        self.say(said);
    }

    /// A client reads until nothing more comes, while the kernel goes on. Says what has come of it.
    pub(super) fn read_all(&mut self, client: usize) {
        let (mut count, mut silent) = (0, 0);
        while silent < 4 {
            match self.rig.read(client, 1 << 20, SILENCE) {
                Ok(read) if read > 0 => (count, silent) = (count + read, 0),
                _ => silent += 1,
            }
            self.enter(Wait::No);
        }
        self.take();
        self.say(if count >= MUCH { "all came" } else { "some came" });
    }

    /// As [`Self::settle`], where the order of what comes is up to the kernel.
    pub(super) fn settle_sorted(&mut self) {
        let before = self.log.len();
        self.settle();
        let end = self.log.len() - 1;
        self.log[before..end].sort();
    }

    /// Forgets how many operations were cancelled: what a cancel of all says differs from kernel to kernel.
    pub(super) fn drop_cancels(&mut self) {
        self.log.retain(|line| !line.starts_with("Cancel"));
    }

    /// The last completion may be with a buffer or without one.
    pub(super) fn strip_buffer(&mut self) {
        if let Some(line) = self.log.last_mut()
            && let Some(at) = line.find(" in ")
        {
            line.truncate(at);
        }
    }

    pub(super) fn say_queued(&mut self) {
        // SAFETY: the rig has the listener open.
        let listener = unsafe { BorrowedFd::borrow_raw(self.rig.listener()) };
        let is_queued = self.rig.kernel().is_queued(listener);
        self.say(format!("queued: {is_queued}"));
    }

    pub(super) fn eventfd(&self) -> RawFd {
        self.rig.eventfd()
    }
}

/// How a send goes about it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Silent,
    Telling,
    Waiting,
}

impl Manner {
    fn flags(self) -> SendFlags {
        let waitall = SendFlags::NOSIGNAL | SendFlags::from_bits_retain(0x100);
        if self == Self::Waiting { waitall } else { waitall | SendFlags::DONTWAIT }
    }
}

const fn token(op: Op, number: u32) -> Token {
    Token { op, id: Id { slot: number, generation: 0 } }
}
