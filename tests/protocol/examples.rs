//! The examples, as their own processes: each does what it promises.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use ringback::proto::frame::{Header, Sender};

use crate::support::client::{BINARY, CLOSE, CONT, FIN, PING, PONG, TEXT, close, frame, text};

/// A running example, which is killed in the end.
struct Example {
    child: Child,
    /// Where it listens: HOST:PORT.
    address: String,
}

impl Example {
    /// Starts an example that listens on the address it is given, and prints a URL.
    fn start(name: &str) -> Self {
        let own = std::env::current_exe().expect("a test has a file");
        let program = own.ancestors().nth(2).expect("target/PROFILE/deps").join("examples").join(name);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name).with_extension("rs");
        let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
        assert!(
            changed(&program) > changed(&source),
            "{} is missing or older than its source: `cargo build --examples` makes it, and so does `cargo test`",
            program.display()
        );
        let mut command = Command::new(program);
        let mut child = command
            .arg("127.0.0.1:0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on ws://").and_then(|url| url.strip_suffix("/ws"));
        let address = address.unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Self { child, address }
    }

    /// Sends a request, in two pieces, with `behind` in the same write as its end; and reads the head of the answer.
    fn request(&self, line: &str, behind: &[u8]) -> Client {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
        let request = format!(
            "{line} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            self.address
        );
        let (first, rest) = request.as_bytes().split_at(20);
        stream.write_all(first).expect("it reads");
        thread::sleep(Duration::from_millis(20));
        stream.write_all(&[rest, behind].concat()).expect("it reads");
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).expect("an answer") > 0, "{head:?}");
        }
        Client { stream, head }
    }

    /// A connection whose handshake is answered, with what was sent behind the request.
    fn open(&self, behind: &[u8]) -> Client {
        let client = self.request("GET /ws", behind);
        let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
        assert!(client.head.starts_with("HTTP/1.1 101 ") && client.head.contains(accept), "{}", client.head);
        client
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // Until it is waited for, its id is nobody else's.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The client's side of a connection.
struct Client {
    stream: BufReader<TcpStream>,
    /// Of the answer to its request.
    head: String,
}

impl Client {
    fn send(&self, bytes: &[u8]) {
        self.stream.get_ref().write_all(bytes).expect("it reads");
    }

    /// The next frame: its first byte and its payload.
    fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut bytes = Vec::new();
        loop {
            bytes.push(0);
            let last = bytes.len() - 1;
            self.stream.read_exact(&mut bytes[last..]).expect("a frame");
            let Some((header, _)) = Header::parse(&bytes, Sender::Server).expect("a good one") else {
                continue;
            };
            let mut payload = vec![0; usize::try_from(header.payload_len).expect("it fits")];
            self.stream.read_exact(&mut payload).expect("a payload");
            return (bytes[0], payload);
        }
    }

    /// The next message: its opcode, and its payload from all of its frames.
    fn message(&mut self) -> (u8, Vec<u8>) {
        let (first, mut message) = self.frame();
        let mut is_last = first & FIN != 0;
        while !is_last {
            let (next, payload) = self.frame();
            assert_eq!(next & !FIN, CONT);
            message.extend(payload);
            is_last = next & FIN != 0;
        }
        (first & !FIN, message)
    }

    /// Expects a Close with this code, and the end of the connection behind it.
    fn expect_close(&mut self, code: u16) {
        assert_eq!(self.frame(), (FIN | CLOSE, code.to_be_bytes().to_vec()));
        self.expect_end();
    }

    /// Expects that no more comes, and that the server ends the connection.
    fn expect_end(&mut self) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("no reset");
        assert_eq!(rest, b"");
    }
}

/// For whatever a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn blocking_echoes_and_keeps_the_rules() {
    let example = Example::start("blocking");

    // The first frame comes with the request.
    let mut client = example.open(&text("first"));
    assert_eq!(client.message(), (TEXT, b"first".to_vec()));
    client.send(&text("Grüße"));
    assert_eq!(client.message(), (TEXT, "Grüße".into()));
    client.send(&frame(FIN | PING, b"are you there?"));
    assert_eq!(client.frame(), (FIN | PONG, b"are you there?".to_vec()));
    // A pong answers nothing, and is not answered.
    client.send(&frame(FIN | PONG, b""));

    // In fragments, with a ping in between, and cut inside a code point.
    let (one, two) = "a€b".as_bytes().split_at(2);
    client.send(&frame(TEXT, one));
    client.send(&frame(FIN | PING, b""));
    client.send(&frame(FIN | CONT, two));
    let mut frames = vec![client.frame(), client.frame(), client.frame()];
    frames.retain(|frame| *frame != (FIN | PONG, Vec::new()));
    let [(first, a), (last, b)] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!((*first, *last, [&a[..], b].concat()), (TEXT, FIN | CONT, "a€b".into()));

    // It is long beyond what sockets hold: somebody has to read meanwhile.
    let big: Vec<u8> = (0..20_000_000_u32).map(|at| (at % 251) as u8).collect();
    let bytes = frame(FIN | BINARY, &big);
    thread::scope(|scope| {
        let writer = client.stream.get_ref().try_clone().expect("a descriptor");
        scope.spawn(move || (&writer).write_all(&bytes).expect("it reads"));
        let (opcode, echo) = client.message();
        assert!(opcode == BINARY && echo == big, "{opcode}, {} bytes", echo.len());
    });

    client.send(&close(1000, b"enough"));
    assert_eq!(client.frame().0, FIN | CLOSE);
    client.expect_end();
}

#[test]
fn blocking_refuses_what_is_wrong_and_goes_on() {
    let example = Example::start("blocking");
    let mut other = example.open(b"");

    // More comes behind the fault, and the client is slow to read: the echo and the Close arrive all the same.
    let mut client = example.open(b"");
    let echoed = vec![7; 3_000_000];
    let bytes = [frame(FIN | BINARY, &echoed), frame(FIN | TEXT, b"a\xFFb"), vec![0; 1 << 20]].concat();
    thread::scope(|scope| {
        let writer = client.stream.get_ref().try_clone().expect("a descriptor");
        scope.spawn(move || (&writer).write_all(&bytes).expect("it reads"));
        thread::sleep(Duration::from_millis(300));
        assert!(client.message() == (BINARY, echoed));
        assert_eq!(client.frame(), (FIN | CLOSE, 1007_u16.to_be_bytes().to_vec()));
    });
    client.expect_end();
    let mut client = example.open(b"");
    client.send(&[FIN | TEXT, 1, b'a']);
    client.expect_close(1002);

    for (line, status) in [("GET /elsewhere", "404"), ("POST /ws", "405"), ("GET  /ws", "400")] {
        let client = example.request(line, b"");
        assert!(client.head.starts_with(&format!("HTTP/1.1 {status} ")), "{}", client.head);
    }
    // One that leaves in the middle of its request, and one in the middle of a frame.
    drop(TcpStream::connect(&example.address).expect("it listens").write_all(b"GET /"));
    example.open(b"").send(&[FIN | TEXT]);

    other.send(&text("still here"));
    assert_eq!(other.message(), (TEXT, b"still here".to_vec()));
}

#[test]
fn ticker_tells_everybody_each_second() {
    let example = Example::start("ticker");
    let mut first = example.open(b"");
    assert_eq!(first.message(), (TEXT, b"1 here".to_vec()));
    let mut second = example.open(b"");
    for _ in 0..2 {
        assert_eq!(second.message(), (TEXT, b"2 here".to_vec()));
        assert_eq!(first.message(), (TEXT, b"2 here".to_vec()));
    }
    second.send(&text("goodbye"));
    while second.frame() != (FIN | CLOSE, Vec::new()) {}
    drop(second);
    while first.message() != (TEXT, b"1 here".to_vec()) {}
    // Somebody else's request ends its connection, and nobody else's.
    let mut stranger = TcpStream::connect(&example.address).expect("it listens");
    stranger.write_all(b"GET /elsewhere HTTP/1.1\r\nHost: a\r\n\r\n").expect("it reads");
    stranger.set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
    assert_eq!(stranger.read(&mut [0; 8]).expect("an end"), 0);
    while first.message() != (TEXT, b"1 here".to_vec()) {}
}

#[test]
fn examples_are_short() {
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")).expect("a folder") {
        let path = file.expect("a file").path();
        let lines = fs::read_to_string(&path).expect("text").lines().count();
        let bound = if path.ends_with("ticker.rs") { 60 } else { 100 };
        assert!(lines < bound, "{}: {lines} lines", path.display());
    }
}
