//! A client of the admin listener.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use super::{DEADLINE, Server};

/// A server with an admin listener on a free port, and where that is.
pub(crate) fn start(engine: &str, more: &[&str]) -> (Server, SocketAddr) {
    let server = Server::start(engine, &[&["--admin", "127.0.0.1:0"], more].concat());
    let address = address(&server);
    (server, address)
}

/// Where the admin listener is, by its line, which is read once.
pub(crate) fn address(server: &Server) -> SocketAddr {
    loop {
        let line = server.stdout.recv_timeout(DEADLINE).expect("a line for the admin listener");
        if let Some(address) = line.strip_prefix("admin on http://") {
            return address.parse().expect("an address");
        }
        // That of a further listener.
        assert!(line.starts_with("listening on "), "{line}");
    }
}

/// What was answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn status_and_body(&self) -> (u16, &str) {
        (self.status, &self.body)
    }

    /// The value of a header field, whose name is in lower case here and there.
    pub(crate) fn field(&self, name: &str) -> &str {
        let field = |line| str::strip_prefix(line, name)?.strip_prefix(": ");
        self.head.lines().find_map(field).unwrap_or_else(|| panic!("no {name} in {}", self.head))
    }
}

pub(crate) fn get(admin: SocketAddr, path: &str) -> Answer {
    ask(admin, "GET", path, "")
}

pub(crate) fn ask(admin: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    let mut stream = TcpStream::connect(admin).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a duration");
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n")
        .expect("it listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers and ends");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}
