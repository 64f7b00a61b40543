//! `raw-tcp-echo` as its clients see it.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use support::{PATIENCE, Server};

const PROGRAM: &str = env!("CARGO_BIN_EXE_raw-tcp-echo");

#[test]
fn small_pieces_come_back_to_whom_they_belong() {
    let server = Server::start(PROGRAM, &[]);
    let mut clients: Vec<TcpStream> = (0..100).map(|_| connect(&server)).collect();
    for round in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.write_all(format!("round {round}, client {number:3}").as_bytes()).unwrap();
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let expected = format!("round {round}, client {number:3}");
            let mut echo = vec![0; expected.len()];
            client.read_exact(&mut echo).unwrap();
            assert_eq!(echo, expected.as_bytes());
        }
    }
}

#[test]
fn a_blob_written_while_it_is_read_comes_back() {
    for buffer_size in ["1", "4KiB", "64KiB", "256KiB"] {
        let server = Server::start(PROGRAM, &["--buffer-size", buffer_size]);
        let blob = random_bytes(if buffer_size == "1" { 64 << 10 } else { 8 << 20 });
        let client = connect(&server);
        exchange(&client, &blob, 0);
    }
}

#[test]
fn what_a_slow_reader_is_owed_is_kept_and_no_more_is_read() {
    let server = Server::start(PROGRAM, &[]);
    // More than the kernel's buffers of both directions hold: 4 MB + 6 MB each by default.
    let blob = random_bytes(48 << 20);
    let client = connect(&server);
    client.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut written = 0;
    let stopped = loop {
        match (&client).write(&blob[written..]) {
            Ok(0) => panic!("the server has ended the connection"),
            Ok(more) => written += more,
            Err(error) => break error,
        }
    };
    assert_eq!(stopped.kind(), ErrorKind::WouldBlock);
    // Nobody else is held up meanwhile.
    exchange(&connect(&server), &blob[..1 << 20], 0);
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    exchange(&client, &blob, written);
}

#[test]
fn a_half_closed_connection_is_sent_everything_and_then_ended() {
    let server = Server::start(PROGRAM, &[]);
    for len in [0, 1, 65535, 65536, 65537, 4 << 20] {
        let blob = random_bytes(len);
        let client = connect(&server);
        let mut echo = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                (&client).write_all(&blob).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
            });
            (&client).read_to_end(&mut echo).unwrap();
        });
        assert!(echo == blob, "{len} bytes, {} came back", echo.len());
    }
}

#[test]
fn an_end_that_comes_with_the_last_bytes_is_seen() {
    let server = Server::start(PROGRAM, &[]);
    let client = connect(&server);
    exchange(&client, b"before", 0);
    // The server finds both at once, and a single edge for them.
    server.signal(Signal::STOP);
    (&client).write_all(b"last").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    server.signal(Signal::CONT);
    let mut echo = Vec::new();
    (&client).read_to_end(&mut echo).unwrap();
    assert_eq!(echo, b"last");
}

#[test]
fn reset_connections_leave_the_others_alone() {
    let server = Server::start(PROGRAM, &[]);
    let steady = connect(&server);
    for _ in 0..50 {
        let client = connect(&server);
        (&client).write_all(&[7; 100_000]).unwrap();
        // Closing with unread bytes makes the kernel send RST.
        (&client).read_exact(&mut [0]).unwrap();
        drop(client);
        exchange(&steady, b"still there", 0);
    }
}

#[test]
fn signals_end_it_with_status_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let server = Server::start(PROGRAM, &[]);
        let client = connect(&server);
        exchange(&client, b"before", 0);
        assert_eq!(server.end_by(signal).code(), Some(0), "{signal:?}");
    }
}

fn connect(server: &Server) -> TcpStream {
    let client = TcpStream::connect(server.address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    client
}

/// Writes `blob`, of which `written` bytes are written already, while reading all of its echo.
fn exchange(client: &TcpStream, blob: &[u8], written: usize) {
    let mut echo = vec![0; blob.len()];
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = client;
            client.write_all(&blob[written..]).unwrap();
        });
        let mut client = client;
        client.read_exact(&mut echo).unwrap();
    });
    assert!(echo == blob, "the echo of {} bytes differs", blob.len());
}

fn random_bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(9).fill(&mut bytes);
    bytes
}
