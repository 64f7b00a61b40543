//! Volume and time over real sockets: what holds for one connection, message or second holds for many.
//!
//! `.ci/stress` runs these; `cargo test` leaves them out. Each prints what it measured.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/hazards.rs"]
mod hazards;

mod answers;
mod connections;
mod handshakes;
mod memory;
mod resets;
mod restart;
mod ring;
mod slow;
mod traffic;
mod unsent;

use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::sync::mpsc::{self, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use common::Server;
use ringback::proto::frame::{Header, OpCode, Sender};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Descriptors that are not connections, in the test's process and in the server's.
const DESCRIPTORS_OTHER: usize = 100;

/// How many of `wanted` connections the limit of open files allows on both sides, once this process has raised it.
fn connections(wanted: usize) -> usize {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the soft limit may be raised");
    let files = maximum.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let allowed = wanted.min(files.saturating_sub(DESCRIPTORS_OTHER));
    if allowed < wanted {
        println!("SCALED DOWN: {allowed} connections instead of {wanted}, for {files} files may be open");
    }
    allowed
}

/// Does `work` while an honest client's messages are echoed; gives what came of it and how long each echo took.
fn beside_echoes<T>(server: &Server, work: impl FnOnce() -> T) -> (T, Vec<Duration>) {
    let mut client = server.connect();
    let (working, is_working) = mpsc::channel::<()>();
    let echoes = thread::spawn(move || {
        let mut took = Vec::new();
        // The other end is dropped when the work is done, and when it panics.
        while is_working.try_recv() == Err(TryRecvError::Empty) {
            let began = Instant::now();
            client.echo(OpCode::Text, b"an honest client's");
            took.push(began.elapsed());
            thread::sleep(Duration::from_millis(2));
        }
        took
    });
    let result = work();
    drop(working);
    (result, echoes.join().expect("the honest client is echoed"))
}

/// Of sorted durations the one that `percent` of them do not exceed.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// The server's frames, read one by one; fast for tiny ones too.
struct Replies<R> {
    source: R,
    buffer: Vec<u8>,
    unread: Range<usize>,
}

impl<R: Read> Replies<R> {
    /// Reads up to `chunk` bytes at a time.
    fn new(source: R) -> Self {
        Self { source, buffer: vec![0; 512 << 10], unread: 0..0 }
    }

    /// The next frame's header and payload; `None` at the end of the stream.
    fn next_frame(&mut self) -> Option<(Header, &[u8])> {
        loop {
            let bytes = &self.buffer[self.unread.clone()];
            if let Some((header, len)) = Header::parse(bytes, Sender::Server).expect("a valid header") {
                let payload_len = usize::try_from(header.payload_len).expect("a frame in memory");
                if bytes.len() >= len + payload_len {
                    let payload = self.unread.start + len..self.unread.start + len + payload_len;
                    self.unread.start = payload.end;
                    return Some((header, &self.buffer[payload]));
                }
            }
            self.buffer.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
            assert!(self.unread.end < self.buffer.len(), "a frame of the server is longer than 512 KiB");
            match self.source.read(&mut self.buffer[self.unread.end..]) {
                Ok(0) => {
                    assert!(self.unread.is_empty(), "the stream ends within a frame");
                    return None;
                }
                Ok(read) => self.unread.end += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("the server answers or ends: {error}"),
            }
        }
    }
}
