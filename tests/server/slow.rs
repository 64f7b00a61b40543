//! Peers that take their last bytes slowly and get all of them, and such as take none; clients that send before they read;
//! and calls that a signal interrupts.

use std::io::Write as _;
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::SocketAddr as UnixAddress;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringback::proto::frame::{Header, OpCode, Sender};
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::common::{self, Client, Server, close_payload, command, frame, pattern, read_some};
use crate::on_each_engine;

on_each_engine! {
    slow_peers,
    peers_that_take_nothing,
    clients_that_send_before_they_read,
    signals_interrupt_nothing,
}

/// A test of one engine, and its name.
type Test = (&'static str, fn(&str));

/// All at once, for most of it is waiting. A thread that panics says its name.
fn beside_each_other(engine: &str, tests: &[Test]) {
    thread::scope(|scope| {
        for &(name, test) in tests {
            let thread = thread::Builder::new().name(name.into());
            thread.spawn_scoped(scope, move || test(engine)).expect("a thread");
        }
    });
}

fn slow_peers(engine: &str) {
    beside_each_other(
        engine,
        &[
            ("behind_its_own_close", |engine| behind_its_own_close(&Place::tcp(engine, &OPTIONS))),
            ("by_a_unix_socket", |engine| behind_its_own_close(&Place::unix(engine, &OPTIONS))),
            ("behind_an_error", behind_an_error),
            ("behind_a_drain", behind_a_drain),
            ("behind_its_end", behind_its_end),
        ],
    );
}

fn peers_that_take_nothing(engine: &str) {
    beside_each_other(
        engine,
        &[
            ("by_tcp", |engine| who_takes_nothing_is_cut(&Place::tcp(engine, &OPTIONS))),
            ("by_a_unix_socket", |engine| who_takes_nothing_is_cut(&Place::unix(engine, &OPTIONS))),
            ("at_a_drain", what_a_drain_has_no_time_for_is_cut),
        ],
    );
}

fn clients_that_send_before_they_read(engine: &str) {
    beside_each_other(
        engine,
        &[
            ("by_tcp", |engine| who_sends_on_and_reads_nothing_is_told(&Place::tcp(engine, &UNREAD))),
            ("by_a_unix_socket", |engine| {
                who_sends_on_and_reads_nothing_is_told(&Place::unix(engine, &UNREAD));
            }),
        ],
    );
}

const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// With a small send buffer a wait for a third of it is longer than the timeout for a client of [`RATE`].
const OPTIONS: [&str; 4] = ["--flush-timeout", "1s", "--socket-send-buffer", "200KiB"];

/// How many bytes a second a slow client takes. By a Unix socket the kernel waits until three quarters of 208 KiB are free.
const RATE: usize = 90_000;

/// More than fits in the kernel's buffers; it takes seven times the timeout.
const VOLUME: usize = 7 * RATE;

/// A server, and what its clients connect by.
struct Place {
    server: Server,
    unix: Option<UnixAddress>,
}

impl Place {
    fn tcp(engine: &str, options: &[&str]) -> Self {
        Self { server: Server::start(engine, options), unix: None }
    }

    fn unix(engine: &str, options: &[&str]) -> Self {
        static NAMES: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NAMES.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringback-slow-{}-{number}", std::process::id());
        let mut command = command(&["--workers", "1", "--engine", engine, "--listen"]);
        command.arg(format!("unix:@{name}")).args(options);
        let address = UnixAddress::from_abstract_name(name).expect("a name");
        Self { server: Server::spawn(command), unix: Some(address) }
    }

    /// A client whose socket takes little: by TCP segments as on an Ethernet and a small buffer.
    fn connect(&self) -> Client {
        if let Some(address) = &self.unix {
            return Client::connect_unix(address);
        }
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_tcp_mss(1460).expect("a TCP option");
        socket.set_recv_buffer_size(16 << 10).expect("a size");
        self.server.connect_over(socket)
    }
}

/// What a slow client has got.
#[derive(Debug, Default, PartialEq, Eq)]
struct Got {
    /// The payloads of data frames, one behind the other.
    data: Vec<u8>,
    /// The code of the Close.
    close: Option<u16>,
}

/// Reads at [`RATE`], up to the server's Close or its end. `None` where this machine was too busy for that.
fn read_slowly(client: &mut Client) -> Option<Got> {
    let (began, mut gap) = (Instant::now(), Duration::ZERO);
    let (mut received, mut got, mut parsed) = (Vec::new(), Got::default(), 0);
    let mut chunk = vec![0; 64 << 10];
    while got.close.is_none() {
        let due = began.elapsed().as_millis() as usize * RATE / 1000;
        let want = due.saturating_sub(received.len()).clamp(1, chunk.len());
        match read_some(&mut client.stream, &mut chunk[..want]) {
            Ok(0) => break,
            Ok(read) => received.extend_from_slice(&chunk[..read]),
            Err(_) if gap > FLUSH_TIMEOUT / 2 => {
                println!("SKIPPED: this machine was too busy for a client to read: {gap:?}");
                return None;
            }
            Err(error) => panic!("after {} bytes and {:?}: {error}", received.len(), began.elapsed()),
        }
        while let Some((header, len)) = Header::parse(&received[parsed..], Sender::Server).expect("a header")
        {
            let payload =
                parsed + len..parsed + len + usize::try_from(header.payload_len).expect("in memory");
            let Some(payload_bytes) = received.get(payload.clone()) else { break };
            match header.opcode {
                OpCode::Close => {
                    got.close = payload_bytes.first_chunk().map(|code| u16::from_be_bytes(*code));
                }
                OpCode::Ping | OpCode::Pong => {}
                _ => got.data.extend_from_slice(payload_bytes),
            }
            parsed = payload.end;
        }
        let read_at = Instant::now();
        thread::sleep(Duration::from_millis(30));
        gap = gap.max(read_at.elapsed());
    }
    if gap > FLUSH_TIMEOUT / 2 && got.close.is_none() {
        println!("SKIPPED: this machine was too busy for a client to read: {gap:?}");
        return None;
    }
    Some(got)
}

fn behind_its_own_close(place: &Place) {
    let mut client = place.connect();
    client.send(OpCode::Binary, &pattern(VOLUME));
    client.send(OpCode::Close, &close_payload(1000, "enough"));
    let Some(got) = read_slowly(&mut client) else { return };
    assert!(got.data == pattern(VOLUME), "{} of {VOLUME} bytes", got.data.len());
    assert_eq!(got.close, Some(1000));
    client.expect_end();
    drop(client);
    place.server.wait_for_counter("ended", 1);
    // What has been sent by a Unix socket is the peer's already, and a ring is not told how much of it is read.
    assert!(place.server.counter("cuts") == 0 || place.unix.is_some());
}

/// And it sends on meanwhile, which is dropped: more than a peer may that has taken all.
fn behind_an_error(engine: &str) {
    let place = Place::tcp(engine, &OPTIONS);
    let mut client = place.connect();
    client.send(OpCode::Binary, &pattern(VOLUME));
    client.send_bytes(&[0x82, 0x01, b'u']);
    let mut writer = client.stream.try_clone().expect("a second handle");
    let ends = AtomicBool::new(false);
    let got = thread::scope(|scope| {
        // A socket that is closed under these bytes answers them with a reset, and what it still had to send is lost.
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) && writer.write_all(&[0; 64 << 10]).is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
        let got = read_slowly(&mut client);
        ends.store(true, Ordering::Relaxed);
        got
    });
    let Some(got) = got else { return };
    assert!(got.data == pattern(VOLUME), "{} of {VOLUME} bytes", got.data.len());
    assert_eq!(got.close, Some(1002));
    drop((client, writer));
    place.server.wait_for_counter("ended", 1);
}

fn behind_a_drain(engine: &str) {
    let place = Place::tcp(engine, &[&OPTIONS[..], &["--drain-timeout", "50s"]].concat());
    let mut client = place.connect();
    client.send(OpCode::Binary, &pattern(VOLUME));
    place.server.wait_for_counter("binaries", 1);
    place.server.signal(Signal::TERM);
    let Some(got) = read_slowly(&mut client) else { return };
    assert!(got.data == pattern(VOLUME), "{} of {VOLUME} bytes", got.data.len());
    assert_eq!(got.close, Some(1001));
    client.send(OpCode::Close, &close_payload(1001, ""));
    client.expect_end();
    drop(client);
    let (status, log) = place.server.wait();
    assert_eq!(status.code(), Some(0));
    assert_eq!(common::counter_in(common::last_counters(&log), "cuts"), 0);
}

/// It has ended its side and reads on.
fn behind_its_end(engine: &str) {
    let place = Place::tcp(engine, &OPTIONS);
    let mut client = place.connect();
    client.send(OpCode::Binary, &pattern(VOLUME));
    client.stream.shutdown(Shutdown::Write).expect("connected");
    let Some(got) = read_slowly(&mut client) else { return };
    assert!(got.data == pattern(VOLUME), "{} of {VOLUME} bytes", got.data.len());
    assert_eq!((got.close, place.server.counter("cuts")), (None, 0));
}

/// With more to send than the kernel takes, and with all of it in the kernel.
fn who_takes_nothing_is_cut(place: &Place) {
    for (index, size) in (1..).zip([VOLUME, 100_000]) {
        let mut client = place.connect();
        client.send(OpCode::Binary, &pattern(size));
        let began = Instant::now();
        client.send(OpCode::Close, b"");
        place.server.wait_for_counter("ended", index);
        let took = began.elapsed();
        assert!((FLUSH_TIMEOUT..20 * FLUSH_TIMEOUT).contains(&took), "{size} bytes: {took:?}");
        assert_eq!(place.server.counter("cuts"), index, "{size} bytes");
    }
}

fn what_a_drain_has_no_time_for_is_cut(engine: &str) {
    let options = ["--flush-timeout", "0s", "--drain-timeout", "500ms", "--socket-send-buffer", "200KiB"];
    let place = Place::tcp(engine, &options);
    let mut client = place.connect();
    client.send(OpCode::Binary, &pattern(VOLUME));
    client.send(OpCode::Close, b"");
    place.server.wait_for_counter("closes", 1);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(place.server.counter("ended"), 0, "a timeout of 0 is none");
    place.server.signal(Signal::TERM);
    let (status, log) = place.server.wait();
    assert_eq!(status.code(), Some(0));
    assert_eq!(common::counter_in(common::last_counters(&log), "cuts"), 1);
}

/// Times in which a client that sends first is found, and one in which it can read then.
const UNREAD: [&str; 12] = [
    "--unsent-limit",
    "256KiB",
    "--keep-alive-interval",
    "500ms",
    "--keep-alive-timeout",
    "500ms",
    "--flush-timeout",
    "40s",
    "--max-connections-per-ip",
    "9",
    "--socket-send-buffer",
    "200KiB",
];

fn who_sends_on_and_reads_nothing_is_told(place: &Place) {
    // Before it connects: to make them takes a busy machine longer than a silent client may stay.
    let payload = pattern(12 << 20);
    let bytes = frame(true, OpCode::Binary, &payload);
    let mut client = place.connect();
    let mut writer = client.stream.try_clone().expect("a second handle");
    let log = thread::scope(|scope| {
        // It comes to its end once the server has made up its mind to drop what comes.
        scope.spawn(move || writer.write_all(&bytes).expect("the server takes it"));
        place.server.log_until("peer does not read")
    });
    let line = log.last().expect("a line");
    assert!(line.contains("unsent_limit") && line.contains("unsent="), "{line}");
    assert_eq!(line.contains("peer=127.0.0.1"), place.unix.is_none(), "{line}");
    let mut echoed = Vec::new();
    loop {
        let said = client.read_frame().expect("a Close");
        match said.opcode {
            OpCode::Close => {
                assert_eq!(said.payload, close_payload(1008, ""));
                break;
            }
            OpCode::Ping => {}
            _ => echoed.extend_from_slice(&said.payload),
        }
    }
    assert!(echoed.len() >= 256 << 10 && payload.starts_with(&echoed), "{} bytes came back", echoed.len());
    client.send(OpCode::Close, &close_payload(1008, ""));
    client.expect_end();
    drop(client);
    place.server.wait_for_counter("ended", 1);
    let counters = ["unread_timeouts", "keep_alive_timeouts", "cuts"].map(|name| place.server.counter(name));
    assert_eq!(counters, [1, 0, 0]);
}

/// SIGHUP has a handler, which does nothing: what the threads wait in ends with EINTR.
fn signals_interrupt_nothing(engine: &str) {
    let server = Server::start(engine, &[]);
    let mut client = server.connect();
    let worker = server.thread("ringback-0");
    let ends = AtomicBool::new(false);
    let signals = thread::scope(|scope| {
        let storm = scope.spawn(|| {
            let mut signals = 0;
            while !ends.load(Ordering::Relaxed) {
                // kill(2) prefers the thread whose number it is given.
                rustix::process::kill_process(worker, Signal::HUP).expect("it runs");
                signals += 1;
                thread::sleep(Duration::from_micros(500));
            }
            signals
        });
        let payload = pattern(2 << 20);
        for round in 0..60 {
            let size = [1, 5000, 100_000, 2 << 20][round % 4];
            let mut reader = client.stream.try_clone().expect("a second handle");
            let bytes = frame(true, OpCode::Binary, &payload[..size]);
            let writing = scope.spawn(move || reader.write_all(&bytes).expect("the server takes it"));
            assert!(client.read_message() == (OpCode::Binary, payload[..size].to_vec()), "{size} bytes");
            writing.join().expect("all of it was sent");
            server.connect().echo(OpCode::Text, b"accepted");
        }
        ends.store(true, Ordering::Relaxed);
        storm.join().expect("signals were sent")
    });
    println!("{engine}: {signals} signals");
    assert!(signals > 100);
    assert_eq!((server.counter("cuts"), server.counter("protocol_errors")), (0, 0));
}
