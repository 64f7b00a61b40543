//! A WebSocket client of the simulation: what it does, and what it expects for it.

use std::collections::VecDeque;
use std::time::Duration;

use fastrand::Rng;

use super::world::{Net, Socket};
use crate::engine::Phase;
use crate::mask::{self, Key};
use crate::proto::close;
use crate::proto::frame::{HEADER_MAX, Header, OpCode, Sender};

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    /// Its connection, once it has one.
    pub(super) socket: Option<usize>,
    listener: usize,
    conduct: Conduct,
    /// When it last wrote, and how long after that the server may wait for a client that reads nothing more.
    wrote: Duration,
    patience: Option<Duration>,
    plan: VecDeque<Act>,
    stage: Stage,
    /// Before this time it does nothing further of its plan, and reads nothing.
    wakes: Duration,
    reads: Duration,
    /// What it is about to write, and how many bytes it has written.
    writing: VecDeque<u8>,
    written: u64,
    /// What came and was not understood yet.
    incoming: Vec<u8>,
    frame: Option<Incoming>,
    /// What is to come: a byte of payload, or one of the marks below.
    expected: VecDeque<u16>,
    /// How many of these there were, and how many have come.
    announced: u64,
    arrived: u64,
    /// Once so many bytes are written, so many marks and bytes are due.
    due: VecDeque<(u64, u64)>,
    /// How much of it was due when the drain began.
    due_at_drain: u64,
    handshake_end: u64,
    /// With which code the server has ended the conversation, and which it may have.
    closed_by_server: Option<u16>,
    may_close: Vec<u16>,
    has_sent_close: bool,
    has_half_closed: bool,
    has_close: bool,
    is_mid_message: bool,
}

/// How a client reads, and whether it keeps to the rules.
#[derive(Clone, Debug)]
pub(super) struct Conduct {
    /// How many bytes it reads at a time, and how long it rests then.
    pub(super) reads_at_once: usize,
    pub(super) rests: Duration,
    /// It reads nothing before this time.
    pub(super) deaf_until: Duration,
    /// It answers pings and Closes.
    pub(super) answers: bool,
    /// It does all as a good client does: the server has no reason to cut it.
    pub(super) is_polite: bool,
}

/// A step of a plan.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Pause(Duration),
    /// Bytes that are no frames.
    Raw(Vec<u8>),
    Frame {
        opcode: OpCode,
        fin: bool,
        payload: Vec<u8>,
    },
    /// A frame that breaks the rules; the server ends with this code.
    Break {
        bytes: Vec<u8>,
        code: u16,
    },
    Close(u16),
    AwaitEcho,
    HalfClose,
    Reset,
    /// It waits for the end.
    AwaitEnd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    Handshake,
    Open,
    /// The server said something else than 101.
    Refused,
    Ended,
}

/// A frame of which the header has come.
#[derive(Debug)]
struct Incoming {
    header: Header,
    left: u64,
    control: Vec<u8>,
}

/// After this time a client that has not said all of its request must have an answer.
const HANDSHAKE_MAX: Duration = Duration::from_millis(5100);

// Marks among what is expected.
const START: u16 = 0x100;
const END: u16 = 0x200;
const PONG: u16 = 0x300;
const CLOSE: u16 = 0x400;
const CONTROL_END: u16 = 0x500;

impl Client {
    pub(super) fn new(listener: usize, begins: Duration, conduct: Conduct, plan: VecDeque<Act>) -> Self {
        Self {
            socket: None,
            listener,
            conduct,
            wrote: Duration::ZERO,
            patience: None,
            plan,
            stage: Stage::Waiting,
            wakes: begins,
            reads: Duration::ZERO,
            writing: VecDeque::new(),
            written: 0,
            incoming: Vec::new(),
            frame: None,
            expected: VecDeque::new(),
            announced: 0,
            arrived: 0,
            due: VecDeque::new(),
            due_at_drain: 0,
            handshake_end: u64::MAX,
            closed_by_server: None,
            may_close: Vec::new(),
            has_sent_close: false,
            has_half_closed: false,
            has_close: false,
            is_mid_message: false,
        }
    }

    /// The same, but it connects at this time.
    pub(super) fn beginning(self, begins: Duration) -> Self {
        Self { wakes: begins, ..self }
    }

    /// The same, but it reads so many bytes at a time, and rests then.
    pub(super) fn reading(self, reads_at_once: usize, rests: Duration) -> Self {
        Self { conduct: Conduct { reads_at_once, rests, ..self.conduct }, ..self }
    }

    /// The same, and the server may wait so long for it once it reads nothing more.
    pub(super) fn given(self, patience: Option<Duration>) -> Self {
        Self { patience, ..self }
    }

    pub(super) fn is_ready(&self, net: &Net, now: Duration) -> bool {
        match self.socket.map(|socket| &net.sockets[socket]) {
            None => self.stage == Stage::Waiting && now >= self.wakes && self.has_room(net),
            Some(_) if self.stage == Stage::Ended => false,
            Some(socket) => self.can_read(socket, now) || self.can_write(socket) || self.can_act(now),
        }
    }

    /// When it is ready by itself, at a time to come.
    pub(super) fn next_time(&self, net: &Net) -> Option<Duration> {
        if self.stage == Stage::Ended {
            return None;
        }
        let Some(socket) = self.socket.map(|socket| &net.sockets[socket]) else {
            return self.has_room(net).then_some(self.wakes);
        };
        let acts = (self.writing.is_empty() && self.can_act(Duration::MAX)).then_some(self.wakes);
        let reads = self.can_read(socket, Duration::MAX).then_some(self.reads.max(self.conduct.deaf_until));
        acts.into_iter().chain(reads).min()
    }

    /// Does one thing.
    ///
    /// # Errors
    ///
    /// What the server did wrong.
    pub(super) fn act(
        &mut self,
        net: &mut Net,
        rng: &mut Rng,
        now: Duration,
        phase: Phase,
    ) -> Result<(), String> {
        let Some(at) = self.socket else {
            let socket = Socket::new(1 << rng.usize(6..14), 1 << rng.usize(5..14));
            net.sockets.push(socket);
            let socket = net.sockets.len() - 1;
            net.listeners[self.listener].queue.push_back(socket);
            net.listeners[self.listener].arrived += 1;
            (self.socket, self.stage) = (Some(socket), Stage::Handshake);
            return Ok(());
        };
        let socket = &mut net.sockets[at];
        let (can_read, can_write) = (self.can_read(socket, now), self.can_write(socket));
        if can_read && (!can_write || rng.bool()) {
            return self.read(socket, rng, now, phase);
        }
        if can_write {
            let count = rng.usize(1..=self.writing.len().min(2048));
            let bytes: Vec<u8> = self.writing.iter().take(count).copied().collect();
            let taken = socket.write(&bytes);
            self.wrote = now;
            self.writing.drain(..taken);
            self.written += taken as u64;
            return Ok(());
        }
        self.follow_plan(socket, rng, now);
        Ok(())
    }

    /// The server begins to drain: what it has by now it must answer.
    pub(super) fn on_drain(&mut self, net: &Net) {
        // Now it may wait as long as the drain lasts.
        self.patience = None;
        // A connection that was not accepted yet is refused, and a slow reader is told before all it has sent is read.
        if self.stage == Stage::Open
            && self.conduct.is_polite
            && self.socket.is_some_and(|socket| !net.sockets[socket].is_reset)
        {
            self.due_at_drain = self.due_now();
        }
    }

    /// Whether it waits for nothing that the server could do now. The worker sleeps, and nothing else can happen.
    ///
    /// # Errors
    ///
    /// What it waits for.
    pub(super) fn check_quiet(&self, socket: &Socket, now: Duration) -> Result<(), String> {
        let is_deaf = self.conduct.deaf_until == Duration::MAX && !socket.tx.is_empty() && !socket.tx_end;
        let since = socket.accepted.unwrap_or_default().max(self.wrote);
        let is_forgotten = self.patience.is_some_and(|patience| now > since + patience);
        if is_deaf && is_forgotten && !socket.is_reset && !socket.client_reset {
            return Err("it takes nothing and is not given up".to_owned());
        }
        if self.stage == Stage::Ended || !socket.tx.is_empty() || socket.is_reset || socket.client_reset {
            return Ok(());
        }
        if self.stage == Stage::Handshake && self.written >= self.handshake_end {
            return Err("it has asked for its handshake".to_owned());
        }
        let is_late = socket.accepted.is_some_and(|accepted| now > accepted + HANDSHAKE_MAX);
        if self.stage == Stage::Handshake && is_late && self.incoming.is_empty() {
            return Err("its time for the handshake is over".to_owned());
        }
        if self.stage != Stage::Open || self.closed_by_server.is_some() || socket.tx_end {
            return Ok(());
        }
        if self.arrived < self.due_now() && self.may_close.is_empty() {
            return Err(format!("{} of {} have come", self.arrived, self.due_now()));
        }
        if self.has_close {
            return Err("the Close was answered and the connection is not ended".to_owned());
        }
        Ok(())
    }

    fn has_room(&self, net: &Net) -> bool {
        let listener = &net.listeners[self.listener];
        listener.queue.len() <= listener.queue_max && listener.arrived <= listener.queue_max
    }

    fn can_read(&self, socket: &Socket, now: Duration) -> bool {
        let is_awake = now >= self.reads && now >= self.conduct.deaf_until;
        is_awake && (!socket.tx.is_empty() || socket.tx_end || socket.client_reset)
    }

    fn can_write(&self, socket: &Socket) -> bool {
        !self.writing.is_empty() && (socket.rx.len() < socket.rx_max || socket.holders == 0)
    }

    fn can_act(&self, now: Duration) -> bool {
        if !self.writing.is_empty() || now < self.wakes {
            return false;
        }
        match self.plan.front() {
            None | Some(Act::AwaitEnd) => false,
            Some(Act::AwaitEcho) => self.expected.is_empty(),
            Some(Act::Raw(_) | Act::Reset | Act::Pause(_)) => true,
            Some(_) => self.stage == Stage::Open,
        }
    }

    fn follow_plan(&mut self, socket: &mut Socket, rng: &mut Rng, now: Duration) {
        match self.plan.pop_front() {
            None | Some(Act::AwaitEnd | Act::AwaitEcho) => {}
            Some(Act::Pause(time)) => self.wakes = now + time,
            Some(Act::Raw(bytes)) => {
                if bytes.ends_with(b"\r\n\r\n") {
                    self.handshake_end = self.written + bytes.len() as u64;
                }
                self.writing.extend(bytes);
            }
            Some(Act::Frame { opcode, fin, payload }) => self.write_frame(rng, opcode, fin, &payload),
            Some(Act::Break { bytes, code }) => {
                self.writing.extend(bytes);
                self.may_close.push(code);
            }
            Some(Act::Close(code)) => {
                self.has_sent_close = true;
                self.write_frame(rng, OpCode::Close, true, &code.to_be_bytes());
            }
            Some(Act::HalfClose) => {
                self.has_half_closed = true;
                socket.rx_end = true;
            }
            Some(Act::Reset) => {
                socket.is_reset = true;
                socket.tx.clear();
                if rng.bool() {
                    socket.rx.clear();
                }
                self.stage = Stage::Ended;
            }
        }
    }

    fn write_frame(&mut self, rng: &mut Rng, opcode: OpCode, fin: bool, payload: &[u8]) {
        let key = Key::new(rng.u32(..).to_be_bytes());
        let mut header = [0; HEADER_MAX];
        let frame = Header { fin, opcode, payload_len: payload.len() as u64, key: Some(key) };
        let len = frame.encode(&mut header);
        let mut masked = payload.to_vec();
        mask::apply(&mut masked, key);
        self.writing.extend(&header[..len]);
        self.writing.extend(masked);
        match opcode {
            OpCode::Pong => return,
            OpCode::Ping => self.expect([PONG]),
            OpCode::Close => self.expect([CLOSE]),
            OpCode::Continuation => {}
            OpCode::Text | OpCode::Binary => self.expect([START + u16::from(opcode.bits())]),
        }
        self.expect(payload.iter().map(|&byte| u16::from(byte)));
        match opcode {
            OpCode::Ping | OpCode::Close => self.expect([CONTROL_END]),
            _ if fin => self.expect([END]),
            _ => {}
        }
        self.due.push_back((self.written + self.writing.len() as u64, self.announced));
    }

    fn expect(&mut self, more: impl IntoIterator<Item = u16>) {
        let before = self.expected.len();
        self.expected.extend(more);
        self.announced += (self.expected.len() - before) as u64;
    }

    /// How much must have come, of what was written as a whole.
    fn due_now(&self) -> u64 {
        let due = self.due.iter().take_while(|(written, _)| *written <= self.written);
        due.last().map_or(0, |&(_, due)| due)
    }

    fn read(
        &mut self,
        socket: &mut Socket,
        rng: &mut Rng,
        now: Duration,
        phase: Phase,
    ) -> Result<(), String> {
        if socket.client_reset {
            self.stage = Stage::Ended;
            let is_fault = self.conduct.is_polite && phase != Phase::Stopping && !socket.is_stolen;
            return if is_fault { Err("a good client's connection is reset".to_owned()) } else { Ok(()) };
        }
        if socket.tx.is_empty() {
            return self.on_end(socket, phase);
        }
        let count = socket.tx.len().min(self.conduct.reads_at_once);
        self.incoming.extend(socket.tx.drain(..count));
        self.reads = now + self.conduct.rests;
        if self.stage == Stage::Handshake {
            self.read_response();
        }
        while self.stage == Stage::Open && self.read_frame(rng)? {}
        Ok(())
    }

    fn read_response(&mut self) {
        let Some(end) = self.incoming.windows(4).position(|four| four == b"\r\n\r\n") else {
            return;
        };
        let is_open = self.incoming.starts_with(b"HTTP/1.1 101");
        self.incoming.drain(..end + 4);
        self.stage = if is_open { Stage::Open } else { Stage::Refused };
    }

    /// Reads one frame, or what there is of it; `false` if more is needed.
    fn read_frame(&mut self, rng: &mut Rng) -> Result<bool, String> {
        if self.frame.is_none() {
            let parsed = Header::parse(&self.incoming, Sender::Server);
            let Some((header, len)) = parsed.map_err(|error| format!("no frame came: {error}"))? else {
                return Ok(false);
            };
            self.incoming.drain(..len);
            self.begin_frame(header)?;
            self.frame = Some(Incoming { header, left: header.payload_len, control: Vec::new() });
        }
        let Some(mut frame) = self.frame.take() else { return Ok(false) };
        let count = self.incoming.len().min(usize::try_from(frame.left).unwrap_or(usize::MAX));
        let bytes: Vec<u8> = self.incoming.drain(..count).collect();
        frame.left -= count as u64;
        if frame.header.opcode.is_control() {
            frame.control.extend(bytes);
        } else {
            for byte in bytes {
                self.compare(byte.into())?;
            }
        }
        if frame.left > 0 {
            self.frame = Some(frame);
            return Ok(false);
        }
        self.end_frame(rng, &frame)?;
        Ok(true)
    }

    fn begin_frame(&mut self, header: Header) -> Result<(), String> {
        match header.opcode {
            OpCode::Text | OpCode::Binary if self.is_mid_message => {
                Err("a message begins in another".to_owned())
            }
            OpCode::Text | OpCode::Binary => {
                self.is_mid_message = true;
                self.compare(START + u16::from(header.opcode.bits()))
            }
            OpCode::Continuation if !self.is_mid_message => Err("a fragment is of no message".to_owned()),
            _ => Ok(()),
        }
    }

    fn end_frame(&mut self, rng: &mut Rng, frame: &Incoming) -> Result<(), String> {
        let control = frame.control.iter().map(|&byte| u16::from(byte));
        match frame.header.opcode {
            OpCode::Ping if self.conduct.answers && !self.has_sent_close && !self.has_half_closed => {
                self.answer(rng, OpCode::Pong, &frame.control);
            }
            OpCode::Ping => {}
            OpCode::Pong => {
                for mark in [PONG].into_iter().chain(control).chain([CONTROL_END]) {
                    self.compare(mark)?;
                }
            }
            OpCode::Close => return self.on_close(rng, &frame.control),
            _ if frame.header.fin => {
                self.is_mid_message = false;
                self.compare(END)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn on_close(&mut self, rng: &mut Rng, payload: &[u8]) -> Result<(), String> {
        if self.has_close || self.closed_by_server.is_some() {
            return Err("a second Close came".to_owned());
        }
        let code = payload.first_chunk::<2>().map(|&code| u16::from_be_bytes(code));
        let bytes = payload.iter().map(|&byte| u16::from(byte));
        let answer: Vec<u16> = [CLOSE].into_iter().chain(bytes).chain([CONTROL_END]).collect();
        // Both may have sent one at a time.
        if self.has_sent_close && self.expected.iter().eq(&answer) {
            for mark in answer {
                self.compare(mark)?;
            }
            self.has_close = true;
            return Ok(());
        }
        let code = code.ok_or("an empty Close came")?;
        // A peer that leaves too much unread for too long is told so.
        let is_unread = code == close::POLICY_VIOLATION && !self.conduct.is_polite;
        if code != close::GOING_AWAY && !is_unread && !self.may_close.contains(&code) {
            return Err(format!("Close({code}) came"));
        }
        if code == close::GOING_AWAY && self.arrived < self.due_at_drain && !self.may_close.contains(&code) {
            return Err(format!("the drain has lost {} bytes and marks", self.due_at_drain - self.arrived));
        }
        self.closed_by_server = Some(code);
        if self.conduct.answers && !self.has_sent_close && !self.has_half_closed {
            self.plan.clear();
            self.has_sent_close = true;
            self.answer(rng, OpCode::Close, payload);
        }
        Ok(())
    }

    /// Puts a frame behind what it writes.
    fn answer(&mut self, rng: &mut Rng, opcode: OpCode, payload: &[u8]) {
        let expected = self.expected.len();
        let announced = self.announced;
        self.write_frame(rng, opcode, true, payload);
        // An answer is not answered.
        self.expected.truncate(expected);
        if opcode == OpCode::Close {
            (self.announced, _) = (announced, self.due.pop_back());
        }
    }

    fn compare(&mut self, mark: u16) -> Result<(), String> {
        match self.expected.pop_front() {
            Some(expected) if expected == mark => {
                self.arrived += 1;
                Ok(())
            }
            expected => Err(format!("{mark:#x} came in place of {expected:x?}, after {}", self.arrived)),
        }
    }

    /// The server has ended its side.
    fn on_end(&mut self, socket: &mut Socket, phase: Phase) -> Result<(), String> {
        let (was, due) = (self.stage, self.due_now());
        self.stage = Stage::Ended;
        if !socket.rx_end && socket.holders > 0 {
            socket.rx_end = true;
        }
        if !self.conduct.is_polite || phase == Phase::Stopping || was != Stage::Open {
            return Ok(());
        }
        if self.has_half_closed {
            return if self.arrived < due { Err(format!("{} of {due} came", self.arrived)) } else { Ok(()) };
        }
        match self.has_close || self.closed_by_server.is_some() {
            true => Ok(()),
            false => Err("the connection has ended without a Close".to_owned()),
        }
    }
}
