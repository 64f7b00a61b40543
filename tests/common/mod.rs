//! The `ringback` binary as a child process, and a plain blocking client that does exactly what a test says.

#![expect(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod admin;
pub(crate) mod filter;
pub(crate) mod restart;

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use ringback::engine::Engine;
use ringback::mask::{self, Key};
use ringback::proto::frame::{HEADER_MAX, Header, OpCode, Sender};

/// Longer than anything here takes, so that a test fails instead of hanging.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Defines a test for each engine from functions that take its name, with the attributes that stand before it.
#[macro_export]
macro_rules! on_each_engine {
    ($($(#[$attribute:meta])* $test:ident,)+) => {
        mod ring {
            $(#[test] $(#[$attribute])* fn $test() {
                if $crate::common::is_runnable("ring") {
                    super::$test("ring");
                }
            })+
        }
        mod epoll {
            $(#[test] $(#[$attribute])* fn $test() { super::$test("epoll"); })+
        }
        mod tokio_uring {
            $(#[test] $(#[$attribute])* fn $test() {
                if $crate::common::is_runnable("tokio-uring") {
                    super::$test("tokio-uring");
                }
            })+
        }
    };
}

/// Whether the kernel lets this engine run; says why when it does not.
pub(crate) fn is_runnable(engine: &str) -> bool {
    let engines = [Engine::Ring, Engine::TokioUring, Engine::Epoll];
    let wanted = engines.into_iter().find(|known| known.to_string() == engine).expect("an engine");
    match ringback::engine::choose(Some(wanted)) {
        Ok(_) => true,
        Err(error) => {
            println!("SKIPPED: {error}");
            false
        }
    }
}

/// A command for the binary with nothing of RINGBACK_* around it.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringback"));
    command.args(arguments).env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    command
}

/// The same command, started by a shell that has done `before`: `ulimit`, say.
pub(crate) fn limited(before: &str, command: &Command) -> Command {
    let mut limited = Command::new("sh");
    limited.arg("-c").arg(format!("{before} && exec \"$0\" \"$@\"")).arg(command.get_program());
    limited.args(command.get_args()).stdin(Stdio::null());
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited
}

/// A running server. It is killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Receiver<String>,
    /// What it said when it listened.
    pub(crate) announcement: String,
    pub(crate) stdout: Receiver<String>,
}

/// Waits until this is so.
#[track_caller]
pub(crate) fn wait_until(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it does not come to that");
        thread::sleep(Duration::from_millis(5));
    }
}

impl Server {
    /// Starts a server of one worker on a free port of 127.0.0.1, and waits until it listens.
    pub(crate) fn start(engine: &str, more: &[&str]) -> Self {
        let mut command = command(&["--listen", "127.0.0.1:0", "--workers", "1", "--engine", engine]);
        command.args(more);
        Self::spawn(command)
    }

    /// Waits until the server of this command listens.
    pub(crate) fn spawn(command: Command) -> Self {
        Self::try_spawn(command)
            .unwrap_or_else(|(status, log)| panic!("it does not listen: {status} {log:?}"))
    }

    /// As [`Self::spawn`]; gives the status and the log of a server that ends instead.
    pub(crate) fn try_spawn(mut command: Command) -> Result<Self, (ExitStatus, Vec<String>)> {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let stdout = lines(child.stdout.take().expect("piped"));
        let log = lines(child.stderr.take().expect("piped"));
        let Ok(announcement) = stdout.recv_timeout(DEADLINE) else {
            let _ = child.kill();
            return Err((child.wait().expect("a child can be waited for"), log.iter().collect()));
        };
        // One that listens at a unix socket first has none.
        let address = announced(&announcement).unwrap_or(SocketAddr::from(([0; 4], 0)));
        Ok(Self { child, address, log, announcement, stdout })
    }

    /// Where it listens further: the next line says so.
    pub(crate) fn next_address(&self) -> SocketAddr {
        let line = self.stdout.recv_timeout(DEADLINE).expect("a line for each address");
        announced(&line).expect("a port")
    }

    pub(crate) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("it runs");
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a VmRSS line");
        let kib: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
        kib * 1024
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it runs").count()
    }

    /// The number of its thread of this name.
    pub(crate) fn thread(&self, name: &str) -> rustix::process::Pid {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        let found = tasks.map(|task| task.expect("a thread")).find(|task| {
            std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        });
        let number = found.expect("a thread of this name").file_name();
        let number = number.to_str().and_then(|number| number.parse().ok()).expect("a number");
        rustix::process::Pid::from_raw(number).expect("not 0")
    }

    /// Reads what is logged, until nothing more is.
    pub(crate) fn forget_log(&self) {
        while self.log.recv_timeout(Duration::from_millis(300)).is_ok() {}
    }

    /// Reads what is logged up to a line with `text` in it.
    pub(crate) fn log_until(&self, text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        while !lines.last().is_some_and(|line: &String| line.contains(text)) {
            lines.push(self.log.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("no {text} in {lines:?}")));
        }
        lines
    }

    /// Processor time that it has used, in user and system mode, in ticks of 10 ms (USER_HZ, proc_pid_stat(5)).
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        // The name of the program, in parentheses, may contain anything; utime and stime are fields 14 and 15.
        let (_, behind_name) = stat.rsplit_once(')').expect("a name in parentheses");
        let ticks = behind_name.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.map(|field| field.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(10 * ticks)
    }

    /// A counter, as SIGUSR1 logs it.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.signal(rustix::process::Signal::USR1);
        loop {
            let line = self.log.recv_timeout(DEADLINE).expect("counters are logged");
            if line.contains("counters") {
                return counter_in(&line, name);
            }
        }
    }

    /// Waits until a counter has reached a value.
    pub(crate) fn wait_for_counter(&self, name: &str, at_least: u64) {
        let deadline = Instant::now() + DEADLINE;
        while self.counter(name) < at_least {
            assert!(Instant::now() < deadline, "{name} does not reach {at_least}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the server has no more than `open` connections. One whose client has left with data on its way may end
    /// only with the next probe of its window, up to two minutes later.
    pub(crate) fn wait_until_open(&self, open: u64) {
        let deadline = Instant::now() + 3 * DEADLINE;
        loop {
            // In this order: what is accepted in between counts as open.
            let ended = self.counter("ended");
            let accepted = self.counter("accepted");
            if accepted - ended <= open {
                return;
            }
            assert!(Instant::now() < deadline, "{accepted} connections were accepted, {ended} have ended");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills it by SIGKILL and waits until the process is no more.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("a child can be waited for");
    }

    /// Waits for the end of the process; gives its status and the log lines not read yet.
    pub(crate) fn wait(mut self) -> (ExitStatus, Vec<String>) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return (status, self.log.iter().collect());
            }
            assert!(Instant::now() < deadline, "the server does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// A client whose handshake has been answered with 101.
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// As [`Self::connect`], over a socket whose options a test has set.
    pub(crate) fn connect_over(&self, socket: socket2::Socket) -> Client {
        let mut client = Client::by(socket, self.address);
        client.open();
        client
    }

    /// A client that has said nothing yet.
    pub(crate) fn connect_raw(&self) -> Client {
        Client::new(TcpStream::connect(self.address).expect("the server listens"))
    }

    /// As [`Self::connect_raw`], from a local address of IPv4: all of 127.0.0.0/8 are there.
    pub(crate) fn connect_raw_from(&self, source: [u8; 4]) -> Client {
        Client::connect_raw_from(source, self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in the line of a server that listens; `None` where that is a unix socket.
pub(crate) fn announced(line: &str) -> Option<SocketAddr> {
    let url = line.strip_prefix("listening on ").expect("the line that scripts wait for");
    let url = url.strip_prefix("ws://")?;
    Some(url.split('/').next().expect("split gives one").parse().expect("an address"))
}

/// The line of the last counters in a log.
pub(crate) fn last_counters(log: &[String]) -> &str {
    log.iter().rfind(|line| line.contains("counters: ")).expect("a line of counters")
}

/// The value of `name=` in a log line.
pub(crate) fn counter_in(line: &str, name: &str) -> u64 {
    let value =
        line.split_whitespace().find_map(|word| word.trim_matches('"').strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {name} in {line}")).parse().expect("a number")
}

fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A good handshake, with further header lines.
pub(crate) fn handshake(path: &str, headers: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
    )
}

/// A client's frame, masked.
pub(crate) fn frame(fin: bool, opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(fin, opcode, payload.len() as u64);
    let start = bytes.len();
    bytes.extend_from_slice(payload);
    mask::apply(&mut bytes[start..], KEY);
    bytes
}

pub(crate) const KEY: Key = Key::new([0x37, 0xFA, 0x21, 0x3D]);

/// A client's header, announcing any length.
pub(crate) fn header(fin: bool, opcode: OpCode, payload_len: u64) -> Vec<u8> {
    let mut header = [0; HEADER_MAX];
    let len = Header { fin, opcode, payload_len, key: Some(KEY) }.encode(&mut header);
    header[..len].to_vec()
}

/// A close frame's payload.
pub(crate) fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.as_bytes());
    payload
}

/// A frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) fin: bool,
    pub(crate) opcode: OpCode,
    pub(crate) payload: Vec<u8>,
}

/// A blocking client.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    /// A client of the server at `address` whose handshake has been answered with 101.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let mut client = Self::new(TcpStream::connect(address).expect("the server listens"));
        client.open();
        client
    }

    /// A client of the server at `address`, from this local address, that has said nothing yet.
    pub(crate) fn connect_raw_from(source: [u8; 4], address: SocketAddr) -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((source, 0)).into()).expect("an address of this machine");
        Self::by(socket, address)
    }

    /// One that has said nothing yet, over a socket whose options a test has set.
    pub(crate) fn by(socket: socket2::Socket, address: SocketAddr) -> Self {
        socket.connect(&address.into()).expect("the server listens");
        Self::new(socket.into())
    }

    /// A client of the server at this unix socket whose handshake has been answered with 101.
    pub(crate) fn connect_unix(address: &std::os::unix::net::SocketAddr) -> Self {
        let stream = UnixStream::connect_addr(address).expect("the server listens");
        // In name only: to read and write it is the same.
        let mut client = Self::over(OwnedFd::from(stream).into());
        client.open();
        client
    }

    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a TCP socket");
        Self::over(stream)
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("a duration");
        stream.set_write_timeout(Some(DEADLINE)).expect("a duration");
        Self { stream, received: Vec::new() }
    }

    /// Does the handshake.
    fn open(&mut self) {
        self.send_bytes(handshake("/ws", "").as_bytes());
        let head = self.read_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server takes it");
    }

    pub(crate) fn send(&mut self, opcode: OpCode, payload: &[u8]) {
        self.send_bytes(&frame(true, opcode, payload));
    }

    /// Reads a head up to its empty line.
    pub(crate) fn read_head(&mut self) -> String {
        loop {
            if let Some(end) = self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                let rest = self.received.split_off(end + 4);
                let head = std::mem::replace(&mut self.received, rest);
                return String::from_utf8(head).expect("a head is ASCII");
            }
            assert!(
                self.fill(),
                "the connection ended within a head: {:?}",
                self.received.escape_ascii().to_string()
            );
        }
    }

    /// Reads a frame; `None` at the end of the stream.
    pub(crate) fn read_frame(&mut self) -> Option<Received> {
        loop {
            if let Some((header, len)) =
                Header::parse(&self.received, Sender::Server).expect("a valid header")
            {
                let payload_len = usize::try_from(header.payload_len).expect("a frame in memory");
                if self.received.len() >= len + payload_len {
                    let rest = self.received.split_off(len + payload_len);
                    let frame = std::mem::replace(&mut self.received, rest);
                    return Some(Received {
                        fin: header.fin,
                        opcode: header.opcode,
                        payload: frame[len..].to_vec(),
                    });
                }
            }
            if !self.fill() {
                assert!(self.received.is_empty(), "the stream ends within a frame");
                return None;
            }
        }
    }

    /// Reads a message, of one frame or of fragments.
    pub(crate) fn read_message(&mut self) -> (OpCode, Vec<u8>) {
        let first = self.read_frame().expect("a message");
        let (opcode, mut payload, mut fin) = (first.opcode, first.payload, first.fin);
        while !fin {
            let next = self.read_frame().expect("a fragment");
            assert_eq!(next.opcode, OpCode::Continuation);
            payload.extend_from_slice(&next.payload);
            fin = next.fin;
        }
        (opcode, payload)
    }

    /// Reads a Close and gives its code.
    pub(crate) fn read_close(&mut self) -> u16 {
        let close = self.read_frame().expect("a Close");
        assert_eq!(close.opcode, OpCode::Close, "{close:?}");
        u16::from_be_bytes(*close.payload.first_chunk().expect("a code"))
    }

    /// Sends a message and expects it back.
    pub(crate) fn echo(&mut self, opcode: OpCode, payload: &[u8]) {
        self.send(opcode, payload);
        assert!(self.read_message() == (opcode, payload.to_vec()), "{} bytes come back", payload.len());
    }

    /// Reads to the end of the stream.
    pub(crate) fn read_to_end(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.received)
    }

    /// Whether the server ends its side now, with nothing more said.
    pub(crate) fn expect_end(&mut self) {
        let rest = self.read_to_end();
        assert_eq!(rest.escape_ascii().to_string(), "");
    }

    fn fill(&mut self) -> bool {
        let mut chunk = [0; 64 << 10];
        let read = read_some(&mut self.stream, &mut chunk).expect("the server answers or ends");
        self.received.extend_from_slice(&chunk[..read]);
        read > 0
    }
}

/// One read. A socket with a timeout says EINTR where its process was stopped and goes on, whatever has happened to the
/// connection (signal(7)): that is no answer.
pub(crate) fn read_some(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// `size` bytes that are not all the same.
pub(crate) fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| u8::try_from(i % 251).expect("under 251")).collect()
}

/// `size` bytes of text of two, three and four bytes a code point, and some ASCII to fill it up.
pub(crate) fn multibyte(size: usize) -> String {
    let mut text = String::new();
    for i in 0.. {
        let next = ['ä', '語', '🦀'][i % 3];
        if text.len() + next.len_utf8() > size {
            break;
        }
        text.push(next);
    }
    while text.len() < size {
        let _ = write!(text, "{}", text.len() % 10);
    }
    text.truncate(size);
    text
}

/// The share of the full volume that an ignored test runs: `RINGBACK_STRESS_PERCENT`, at least 1 of `full`.
pub(crate) fn volume(full: usize) -> usize {
    let percent = std::env::var("RINGBACK_STRESS_PERCENT").ok().and_then(|percent| percent.parse().ok());
    (full * percent.unwrap_or(100) / 100).max(1)
}
