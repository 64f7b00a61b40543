//! Small servers in this process, right and wrong ones, and the program that is loaded on them.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use ringback::mask::{self, Key};
use ringback::proto::frame::{HEADER_MAX, Header, OpCode, Sender};
use serde_json::Value;
use sha1::{Digest as _, Sha1};

/// Serves each connection in a thread of its own, for as long as the tests run.
pub(crate) fn serve(connection: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let connection = Arc::new(connection);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let connection = Arc::clone(&connection);
            thread::spawn(move || {
                // No connection outlives its test by much, whatever the other side does.
                let timeout = Some(Duration::from_secs(20));
                stream.set_read_timeout(timeout).expect("a valid timeout");
                stream.set_write_timeout(timeout).expect("a valid timeout");
                // A pong and an echo are two writes; the second would wait for the first to be acknowledged.
                stream.set_nodelay(true).expect("an open connection");
                connection(stream);
            });
        }
    });
    address
}

/// A stream whose reads and writes go on after EINTR, which a socket with a timeout says where its process was stopped for
/// a while (signal(7)).
#[derive(Debug)]
pub(crate) struct Patient<S>(pub(crate) S);

impl<S: Read> Read for Patient<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

impl<S: Write> Write for Patient<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A correct echo of messages, by another implementation.
pub(crate) fn serve_tungstenite() -> SocketAddr {
    serve(|stream| {
        let mut socket = tungstenite::accept(Patient(stream)).expect("a good handshake");
        while let Ok(message) = socket.read() {
            if (message.is_text() || message.is_binary()) && socket.send(message).is_err() {
                break;
            }
        }
    })
}

/// A correct echo of bytes.
pub(crate) fn serve_bytes() -> SocketAddr {
    serve(|mut stream| {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(len @ 1..) = Patient(&stream).read(&mut buffer) {
            if stream.write_all(&buffer[..len]).is_err() {
                break;
            }
        }
    })
}

/// What the program did.
pub(crate) struct Ran {
    /// Its exit code.
    pub(crate) code: i32,
    /// What it printed.
    pub(crate) stdout: String,
    /// What it complained of.
    pub(crate) stderr: String,
}

impl Ran {
    /// The JSON object that it printed.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }

    /// How many echoes were checked and right.
    pub(crate) fn echoes(&self) -> u64 {
        self.json()["echoes_checked"].as_u64().expect("a count")
    }

    /// The number of errors of one kind in that object.
    pub(crate) fn errors(&self, kind: &str) -> u64 {
        self.json()["errors"][kind].as_u64().unwrap_or(0)
    }
}

/// Runs the program to its end.
pub(crate) fn loadtest(args: &[&str]) -> Ran {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_loadtest")).args(args).output().expect("it is built");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ran { code: status.code().expect("no signal"), stdout: text(stdout), stderr: text(stderr) }
}

/// The engines by which the program moves bytes.
pub(crate) const ENGINES: [&str; 2] = ["auto", "epoll"];

/// Loads a WebSocket server for a moment and prints JSON.
pub(crate) fn load_ws(address: SocketAddr, args: &[&str]) -> Ran {
    load(&format!("ws://{address}/ws"), args)
}

/// Loads a server for a moment and prints JSON. What is in flight at the end gets the time that the slowest machine
/// needs for it, unless the arguments say otherwise; as to how long it lasts.
pub(crate) fn load(url: &str, args: &[&str]) -> Ran {
    let mut all = vec![url, "--json"];
    for (option, value) in [("-d", "400ms"), ("--warmup", "100ms"), ("--grace", "60s")] {
        if !args.contains(&option) {
            all.extend([option, value]);
        }
    }
    all.extend(args);
    loadtest(&all)
}

/// A client's frame.
pub(crate) struct Received {
    /// Whether it is its message's last.
    pub(crate) fin: bool,
    /// What it is.
    pub(crate) opcode: OpCode,
    /// Its masking key.
    pub(crate) key: Key,
    /// Without the mask.
    pub(crate) payload: Vec<u8>,
}

/// The server's side of a WebSocket connection, which does as it is told.
pub(crate) struct Peer {
    /// The head of the handshake's request.
    pub(crate) request: String,
    stream: TcpStream,
    received: Vec<u8>,
}

impl Peer {
    /// Takes the handshake and answers it with `answer(accept)`.
    pub(crate) fn handshake(stream: TcpStream, answer: impl Fn(&str) -> String) -> io::Result<Self> {
        let mut peer = Self { request: String::new(), stream, received: Vec::new() };
        let end = loop {
            if let Some(at) = peer.received.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            peer.more()?;
        };
        let head: Vec<_> = peer.received.drain(..end).collect();
        peer.request = String::from_utf8(head).expect("text");
        let key =
            peer.request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
        let digest = Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
        let accept = base64::engine::general_purpose::STANDARD.encode(digest);
        peer.send(answer(&accept).as_bytes())?;
        Ok(peer)
    }

    /// Takes the handshake and answers it well.
    pub(crate) fn accept(stream: TcpStream) -> io::Result<Self> {
        Self::handshake(stream, good_answer)
    }

    /// The next frame: its opcode and its payload without the mask.
    pub(crate) fn frame(&mut self) -> io::Result<(OpCode, Vec<u8>)> {
        self.receive().map(|frame| (frame.opcode, frame.payload))
    }

    /// The next frame.
    pub(crate) fn receive(&mut self) -> io::Result<Received> {
        loop {
            if let Some((header, len)) = Header::parse(&self.received, Sender::Client).expect("a valid frame")
            {
                let end = len + usize::try_from(header.payload_len).expect("not that long");
                if self.received.len() >= end {
                    let mut payload: Vec<_> = self.received.drain(..end).skip(len).collect();
                    let key = header.key.expect("masked");
                    mask::apply(&mut payload, key);
                    return Ok(Received { fin: header.fin, opcode: header.opcode, key, payload });
                }
            }
            self.more()?;
        }
    }

    /// Sends bytes.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Echoes, all messages but those that `reply` answers otherwise; it is told how many came before. Ends as the
    /// RFC says.
    pub(crate) fn echo(
        &mut self,
        mut reply: impl FnMut(usize, OpCode, &[u8]) -> Option<Vec<u8>>,
    ) -> io::Result<()> {
        let mut count = 0;
        loop {
            let (opcode, payload) = self.frame()?;
            match opcode {
                OpCode::Close => {
                    self.send(&frame(true, opcode, &payload))?;
                    return self.stream.shutdown(Shutdown::Both);
                }
                OpCode::Pong => {}
                _ => {
                    let answer = reply(count, opcode, &payload);
                    self.send(&answer.unwrap_or_else(|| frame(true, opcode, &payload)))?;
                    count += 1;
                }
            }
        }
    }

    fn more(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        let len = Patient(&self.stream).read(&mut buffer)?;
        self.received.extend_from_slice(&buffer[..len]);
        if len == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

/// A server's frame.
pub(crate) fn frame(fin: bool, opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; HEADER_MAX];
    let len = Header { fin, opcode, payload_len: payload.len() as u64, key: None }.encode(&mut header);
    [&header[..len], payload].concat()
}

/// The answer to a handshake that is accepted.
pub(crate) fn good_answer(accept: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}
