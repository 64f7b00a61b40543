//! A server that is killed in the midst of its work, and started again at its address.

use std::io::Write as _;
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use ringback::proto::frame::OpCode;
use socket2::{Domain, Socket, Type};

use super::{Client, DEADLINE, Server, command, frame, pattern, read_some};

/// Connections that send when the server is killed, and as many that are silent.
const CONNECTIONS: usize = 8;

/// Kills the server under load by SIGKILL and starts it again at once at the same address, so many times in a row. Gives
/// how long after each start the first echo came to a new client.
pub(crate) fn first_echoes_after_kills(engine: &str, times: usize) -> Vec<Duration> {
    let mut server = Server::start(engine, &[]);
    let address = server.address;
    let mut took = Vec::new();
    for _ in 0..times {
        let mut silent: Vec<_> = (0..CONNECTIONS).map(|_| server.connect()).collect();
        for client in &mut silent {
            client.echo(OpCode::Text, b"nothing is under way any more");
        }
        thread::scope(|scope| {
            let busy: Vec<_> = (0..CONNECTIONS).map(|_| server.connect()).collect();
            let senders: Vec<_> = busy
                .iter()
                .map(|client| client.stream.try_clone().expect("a second handle"))
                .map(|mut stream| {
                    let bytes = frame(true, OpCode::Binary, &pattern(10_000));
                    scope.spawn(move || while stream.write_all(&bytes).is_ok() {})
                })
                .collect();
            for client in &busy {
                let mut stream = client.stream.try_clone().expect("a second handle");
                scope.spawn(move || {
                    let mut chunk = vec![0; 64 << 10];
                    while read_some(&mut stream, &mut chunk).is_ok_and(|read| read > 0) {}
                    // Whoever is still writing to a server that is no more ends too.
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
            server.wait_for_counter("binaries", 10 * CONNECTIONS as u64);
            assert!(senders.iter().all(|sender| !sender.is_finished()), "they send until the end");
            server.kill();
        });
        // The server's side of each was the first to end, and the client's ends now: TIME_WAIT, at the server's port.
        for mut client in silent {
            client.expect_end();
        }
        wait_for_time_wait(address);

        let began = Instant::now();
        let listen = address.to_string();
        server = Server::spawn(command(&["--listen", &listen, "--workers", "1", "--engine", engine]));
        assert_eq!(server.address, address);
        Client::connect(address).echo(OpCode::Text, b"back again");
        took.push(began.elapsed());
    }
    took
}

/// As [`first_echoes_after_kills`], of a server that has something to send on each of many connections, whose clients never
/// read: on the ring engine a send is under way on each, which the kernel has to end once the process is gone.
pub(crate) fn first_echoes_after_kills_with_unread(
    engine: &str,
    connections: usize,
    times: usize,
) -> Vec<Duration> {
    const LITTLE: usize = 4 << 10;
    let more = ["--socket-send-buffer", "16KiB"];
    let mut server = Server::start(engine, &more);
    let listen = server.address.to_string();
    let bytes = frame(true, OpCode::Binary, &pattern(150_000));
    (0..times)
        .map(|_| {
            let _clients: Vec<_> = (0..connections)
                .map(|_| {
                    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
                    socket.set_recv_buffer_size(LITTLE).expect("a size");
                    let mut client = server.connect_over(socket);
                    client.send_bytes(&bytes);
                    client
                })
                .collect();
            server.wait_for_counter("binaries", connections as u64);
            server.kill();
            let began = Instant::now();
            let mut command = command(&["--listen", &listen, "--workers", "1", "--engine", engine]);
            command.args(more);
            server = Server::spawn(command);
            server.connect().echo(OpCode::Text, b"back again");
            began.elapsed()
        })
        .collect()
}

/// Waits until connections are in TIME_WAIT whose local address is the server's (proc_net(5)).
fn wait_for_time_wait(address: SocketAddr) {
    let (port, deadline) = (format!(":{:04X}", address.port()), Instant::now() + DEADLINE);
    loop {
        let table = std::fs::read_to_string("/proc/net/tcp").expect("a table of sockets");
        let waiting = table.lines().filter(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields.get(1).is_some_and(|local| local.ends_with(&port)) && fields.get(3) == Some(&"06")
        });
        if waiting.count() > 0 {
            return;
        }
        assert!(Instant::now() < deadline, "no connection is in TIME_WAIT");
        thread::sleep(Duration::from_millis(1));
    }
}
