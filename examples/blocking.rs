//! An echo server with blocking sockets and one thread for each connection: `ringback::proto` without an engine.
//!
//! `proto` does no I/O, so this file does it: it reads bytes, hands them over, and sends what comes back.
//! `cargo run --example blocking -- 127.0.0.1:9001` runs it.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ringback::memory::{Budget, HEADROOM, Total};
use ringback::proto::handshake::{Handshake, Refusal, Rules, Step, options_response, page_response};
use ringback::proto::{Connection, Progress, Settings, Standing};

/// How long a request may take, and how long a client may send or read nothing.
const TIMEOUT: Duration = Duration::from_secs(60);

fn main() -> io::Result<()> {
    let listener = TcpListener::bind(std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".into()))?;
    println!("listening on ws://{}/ws", listener.local_addr()?);
    let memory = Total::new(256 << 20); // for unfinished frames and requests of all connections
    loop {
        let started = listener.accept().and_then(|(stream, peer)| {
            let memory = Arc::clone(&memory);
            let work = move || serve(stream, memory).unwrap_or_else(|error| eprintln!("{peer}: {error}"));
            std::thread::Builder::new().spawn(work)
        });
        if let Err(error) = started {
            eprintln!("cannot serve a connection: {error}; the next one is tried in a moment");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Serves one connection to its end.
fn serve(mut stream: TcpStream, memory: Arc<Total>) -> io::Result<()> {
    let budget = Budget::new(memory);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // The protocol may use the first bytes of the buffer, for a header that is longer than the client's.
    let mut buffer = vec![0; HEADROOM + (64 << 10)];
    let Some(mut filled) = open(&mut stream, &mut buffer, &budget)? else { return end(stream) };
    let settings = Settings { whole_frame_max: 64 << 10, max_message_size: 0, budget };
    let mut connection = Connection::new(Rc::new(settings));
    loop {
        // `head` and `body` have the echoes, the pongs and the answer to a Close. `tail` is a Close after an error.
        let Progress { head, body, tail, standing, .. } = connection.receive(&mut buffer, filled);
        stream.write_all(head.as_ref().map_or(&[], |head| &head.bytes))?;
        stream.write_all(&buffer[body])?;
        stream.write_all(tail.as_ref().map_or(&[], |tail| tail))?;
        match standing {
            Standing::Open | Standing::Closing => filled = receive(&mut stream, &mut buffer)?,
            Standing::Closed => return end(stream),
            Standing::Failed(error) => return end(stream).and(Err(io::Error::other(error))),
        }
    }
}

/// Reads a request and answers it. Returns where the first frames lie, or `None` if the request was no handshake.
fn open(stream: &mut TcpStream, buffer: &mut [u8], budget: &Rc<Budget>) -> io::Result<Option<Range<usize>>> {
    let (mut handshake, rules, began) = (Handshake::new(), Rules::default(), Instant::now());
    let date = httpdate::fmt_http_date(SystemTime::now());
    let response = loop {
        let filled = receive(stream, buffer)?;
        match handshake.receive(&buffer[filled.clone()], &rules, budget) {
            Step::More if began.elapsed() < TIMEOUT => {}
            Step::More => break Refusal::Timeout.of(&[]).response(&date),
            Step::Accepted { response, consumed } => {
                stream.write_all(&response)?;
                return Ok(Some(filled.start + consumed..filled.end));
            }
            Step::Page { html, is_head } => break page_response(&rules.page, html, is_head, &date),
            Step::Options => break options_response(&date),
            Step::Refused(refused) => break refused.response(&date),
        }
    };
    stream.write_all(&response).map(|()| None)
}

/// Reads what has arrived, and returns where it lies.
fn receive(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<Range<usize>> {
    match stream.read(&mut buffer[HEADROOM..]) {
        Ok(0) => Err(io::Error::new(ErrorKind::UnexpectedEof, "the client left without a word")),
        Err(error) if error.kind() == ErrorKind::Interrupted => receive(stream, buffer),
        received => received.map(|len| HEADROOM..HEADROOM + len),
    }
}

/// Ends the connection once the client does. It drops what still comes: otherwise the kernel would reset the connection,
/// and the client could lose the last bytes.
fn end(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    let (began, mut dropped) = (Instant::now(), [0; 4096]);
    while began.elapsed() < TIMEOUT && matches!(stream.read(&mut dropped), Ok(1..)) {}
    Ok(())
}
