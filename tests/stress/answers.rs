//! The last answer on a connection reaches a client that is still sending.

use std::io::{ErrorKind, Write as _};
use std::thread;
use std::time::{Duration, Instant};

use ringback::proto::frame::OpCode;

use crate::common::{Client, DEADLINE, Server, header, read_some, volume};
use crate::on_each_engine;

on_each_engine! {
    #[ignore = "volume: 600 answers while 20 MiB are still coming"]
    an_answer_reaches_a_client_that_is_sending,
}

/// How much is still coming.
const COMING: usize = 20 << 20;

fn an_answer_reaches_a_client_that_is_sending(engine: &str) {
    let server = Server::start(engine, &["--max-message-size", "1MiB"]);
    let reserved_bit = {
        let mut bytes = header(true, OpCode::Binary, COMING as u64);
        bytes[0] |= 0x40;
        bytes
    };
    let too_big = header(true, OpCode::Binary, COMING as u64);
    let rounds = volume(100);
    let mut cut = 0;
    for _ in 0..rounds {
        for (opening, code) in [(&too_big, 1009), (&reserved_bit, 1002)] {
            let expected = close_frame(code);
            let open = || {
                let mut client = server.connect();
                client.send_bytes(opening);
                client
            };
            let answer = send_and_look(open(), &expected);
            assert_eq!(answer.escape_ascii().to_string(), expected.escape_ascii().to_string());
            let (answer, was_cut) = send_all_then_look(open());
            assert_eq!(answer.escape_ascii().to_string(), expected.escape_ascii().to_string());
            cut += usize::from(was_cut);
        }
        let open = || {
            let mut client = server.connect_raw();
            client.send_bytes(b"GET /ws HTTP/1.1\r\nX-Long: ");
            client
        };
        let answer = send_and_look(open(), b"--max-head-size\n");
        assert!(answer.starts_with(b"HTTP/1.1 431 "), "{}", answer.escape_ascii());
        let (answer, was_cut) = send_all_then_look(open());
        assert!(answer.starts_with(b"HTTP/1.1 431 "), "{}", answer.escape_ascii());
        cut += usize::from(was_cut);
    }
    println!("{engine}: 0 of {} answers lost; {cut} of those who did not look were cut", 6 * rounds);
}

fn close_frame(code: u16) -> Vec<u8> {
    let [high, low] = code.to_be_bytes();
    vec![0x88, 2, high, low]
}

/// A client that looks for an answer between writes, and gives up when it cannot write. Gives what it read, which ends
/// with `ending`.
fn send_and_look(mut client: Client, ending: &[u8]) -> Vec<u8> {
    client.stream.set_nonblocking(true).expect("a socket");
    let deadline = Instant::now() + DEADLINE;
    let (chunk, mut sent) = ([b'a'; 16 << 10], 0);
    let (mut read, mut answer) = ([0; 4 << 10], Vec::new());
    while !answer.ends_with(ending) {
        assert!(Instant::now() < deadline, "no answer in time");
        let rest = chunk.len().min(COMING - sent);
        let mut waits = true;
        match client.stream.write(&chunk[..rest]) {
            Ok(written) => (sent, waits) = (sent + written, written == 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("the answer is lost after {sent} bytes: {error}"),
        }
        match read_some(&mut client.stream, &mut read) {
            Ok(0) => panic!("the answer is lost after {sent} bytes: it ends after {}", answer.escape_ascii()),
            Ok(len) => answer.extend_from_slice(&read[..len]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if waits {
                    thread::sleep(Duration::from_micros(100));
                }
            }
            Err(error) => panic!("the answer is lost after {sent} bytes: {error}"),
        }
    }
    answer
}

/// A client that sends everything, or as much as it can, before it reads. Gives what it read, and whether it could not
/// send everything.
fn send_all_then_look(mut client: Client) -> (Vec<u8>, bool) {
    let chunk = vec![b'a'; 1 << 20];
    let was_cut = (0..COMING / chunk.len()).any(|_| client.stream.write_all(&chunk).is_err());
    let (mut answer, mut read) = (Vec::new(), [0; 4 << 10]);
    // A reset may stand behind the answer.
    while let Ok(len @ 1..) = read_some(&mut client.stream, &mut read) {
        answer.extend_from_slice(&read[..len]);
    }
    (answer, was_cut)
}
