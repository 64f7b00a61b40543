//! Peers that read slowly behind their own Close.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use ringback::proto::frame::OpCode;
use socket2::{Domain, Socket, Type};

use crate::common::{Client, Server, close_payload, command, pattern, read_some, volume};
use crate::{Replies, on_each_engine};

on_each_engine! {
    #[ignore = "volume: 12 MiB read at 50 kB/s"]
    a_slow_reader_gets_all_that_is_before_its_close,
}

/// Bytes a second: a browser on a bad line.
const RATE: usize = 50_000;

/// By sockets as they are, by such as take little, and by a Unix socket, all at once.
fn a_slow_reader_gets_all_that_is_before_its_close(engine: &str) {
    let name = format!("ringback-stress-slow-{}-{engine}", std::process::id());
    let unix = SocketAddr::from_abstract_name(&name).expect("a name");
    let listen = format!("127.0.0.1:0,unix:@{name}");
    let server = Server::spawn(command(&["--workers", "1", "--engine", engine, "--listen", &listen]));
    let narrow = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    narrow.set_tcp_mss(1460).expect("a TCP option");
    narrow.set_recv_buffer_size(16 << 10).expect("a size");
    let clients = [
        ("TCP", server.connect()),
        ("TCP with a small buffer", server.connect_over(narrow)),
        ("a Unix socket", Client::connect_unix(&unix)),
    ];
    thread::scope(|scope| {
        for (by, client) in clients {
            scope.spawn(move || read_slowly(engine, by, client));
        }
    });
    server.wait_for_counter("ended", 3);
    assert_eq!(server.counter("handshakes"), 3);
}

fn read_slowly(engine: &str, by: &str, mut client: Client) {
    let payload = pattern(volume(12 << 20));
    client.send(OpCode::Binary, &payload);
    client.send(OpCode::Close, &close_payload(1000, ""));
    let began = Instant::now();
    let mut read = 0;
    let mut replies = Replies::new(Paced { client: &mut client, began, read: &mut read });
    let mut echoed = 0;
    while let Some((header, bytes)) = replies.next_frame() {
        match header.opcode {
            OpCode::Close => assert_eq!(bytes, close_payload(1000, "")),
            OpCode::Ping => {}
            _ => {
                assert!(payload[echoed..].starts_with(bytes), "{by}: the same bytes come back");
                echoed += bytes.len();
            }
        }
        if header.opcode == OpCode::Close {
            break;
        }
    }
    assert_eq!(echoed, payload.len(), "{by}");
    println!("{engine}: {echoed} bytes and the Close by {by} in {:?}", began.elapsed());
}

/// A reader of [`RATE`].
struct Paced<'a> {
    client: &'a mut Client,
    began: Instant,
    read: &'a mut usize,
}

impl std::io::Read for Paced<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        thread::sleep(Duration::from_millis(50));
        let due = usize::try_from(self.began.elapsed().as_millis()).expect("minutes") * RATE / 1000;
        let want = due.saturating_sub(*self.read).clamp(1, buffer.len());
        let read = read_some(&mut self.client.stream, &mut buffer[..want])?;
        *self.read += read;
        Ok(read)
    }
}
