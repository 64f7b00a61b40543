//! Where a server listens: ports, unix sockets, and sockets that it is handed.

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use ringback::proto::frame::OpCode;
use rustix::process::Signal;
use socket2::Socket;

use crate::common::{self, Client, DEADLINE, Server, announced, close_payload, command, frame, pattern};
use crate::on_each_engine;

on_each_engine! {
    a_unix_socket_is_served_and_its_file_removed,
    an_abstract_socket_is_served,
    workers_share_a_unix_socket,
    a_unix_socket_is_drained,
    sockets_that_were_handed_over_are_served_and_left_as_they_are,
    what_is_queued_at_a_socket_that_was_handed_over_is_for_the_next_server,
    workers_share_a_socket_that_was_handed_over,
    what_a_slow_reader_holds_in_the_kernel_is_bounded,
    the_backlog_is_the_one_asked_for,
    sockets_that_were_handed_over_keep_their_flags,
    a_server_that_was_killed_leaves_its_address_to_the_next,
}

fn a_unix_socket_is_served_and_its_file_removed(engine: &str) {
    let scratch = Scratch::new(engine, "served");
    let path = scratch.0.join("a.sock");
    let listen = format!("unix:{}", path.display());
    // What a server that was killed leaves.
    drop(UnixListener::bind(&path).expect("a socket"));
    let server = unix_server(engine, &listen, &["--unix-mode", "0640"]);
    assert!(
        server.announcement.starts_with(&format!("listening on {listen}:/ws (")),
        "{}",
        server.announcement
    );
    let file = fs::symlink_metadata(&path).expect("it is there");
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o640);

    let mut client = connect(&path);
    for size in [0, 10, 5000, 100_000, 1 << 20] {
        client.send(OpCode::Binary, &pattern(size));
        assert!(client.read_message() == (OpCode::Binary, pattern(size)), "{size} bytes come back");
    }
    client.send(OpCode::Close, &close_payload(1000, "done"));
    assert_eq!(client.read_close(), 1000);
    client.expect_end();

    let second = run(&["--engine", engine, "--listen", &listen]);
    assert_eq!(second.status.code(), Some(69));
    let said = stderr(&second);
    assert!(said.contains(&listen) && said.contains("stop the server that has the socket"), "{said}");
    connect(&path).echo(OpCode::Text, b"the first one serves on");

    server.signal(Signal::TERM);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log:?}");
    assert!(!path.exists(), "its file is removed");
}

fn an_abstract_socket_is_served(engine: &str) {
    let name = format!("ringback-{engine}-{}", std::process::id());
    let server = unix_server(engine, &format!("unix:@{name}"), &[]);
    assert!(server.announcement.contains(&format!(" unix:@{name}:/ws ")), "{}", server.announcement);
    let address = UnixAddr::from_abstract_name(&name).expect("a name");
    Client::connect_unix(&address).echo(OpCode::Text, b"without a file");
}

/// All accept, whichever comes first: one that has its hands full leaves it to the others.
fn workers_share_a_unix_socket(engine: &str) {
    let scratch = Scratch::new(engine, "shared");
    let path = scratch.0.join("a.sock");
    let listen = format!("unix:{}", path.display());
    let server =
        Server::spawn(command(&["--engine", engine, "--listen", &listen, "--workers", "3", "--no-pin"]));
    expect_to_share_out(&server, || connect(&path));
}

/// That each of three workers gets some of the connections, sooner or later: one that has had a connection has woken.
fn expect_to_share_out(server: &Server, connect: impl Fn() -> Client) {
    let before: Vec<_> = (0..3).map(|worker| voluntary_switches(server, worker)).collect();
    let have_all_woken =
        || (0..3).zip(&before).all(|(worker, before)| voluntary_switches(server, worker) > before + 2);
    let mut clients = Vec::new();
    while !have_all_woken() {
        assert!(clients.len() < 500, "a worker has none of 500 connections");
        clients.push(connect());
        clients.last_mut().expect("the one").echo(OpCode::Text, b"whichever worker has me");
    }
    server.signal(Signal::TERM);
    for client in &mut clients {
        assert_eq!(client.read_close(), 1001);
        client.send(OpCode::Close, &close_payload(1001, ""));
        client.expect_end();
    }
}

/// How often this worker has gone to sleep.
fn voluntary_switches(server: &Server, worker: usize) -> u64 {
    let thread = server.thread(&format!("ringback-{worker}")).as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{thread}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches:")).expect("a line");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

/// What is queued gets an answer, and what was sent comes back.
fn a_unix_socket_is_drained(engine: &str) {
    let scratch = Scratch::new(engine, "drained");
    let path = scratch.0.join("a.sock");
    let server = unix_server(engine, &format!("unix:{}", path.display()), &[]);
    let mut client = connect(&path);
    stop(&server);
    client.send(OpCode::Binary, &pattern(100_000));
    let mut queued = UnixStream::connect(&path).expect("the queue has room");
    queued.write_all(common::handshake("/ws", "").as_bytes()).expect("the socket has room");
    queued.set_read_timeout(Some(DEADLINE)).expect("a duration");
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    assert!(client.read_message() == (OpCode::Binary, pattern(100_000)));
    assert_eq!(client.read_close(), 1001);
    client.send(OpCode::Close, &close_payload(1001, ""));
    client.expect_end();
    let mut head = [0; 12];
    std::io::Read::read_exact(&mut queued, &mut head).expect("an answer");
    assert!([b"HTTP/1.1 503", b"HTTP/1.1 101"].contains(&&head), "{}", head.escape_ascii());
    drop((client, queued));
    assert_eq!(server.wait().0.code(), Some(0));
}

fn sockets_that_were_handed_over_are_served_and_left_as_they_are(engine: &str) {
    let scratch = Scratch::new(engine, "handed");
    let path = scratch.0.join("a.sock");
    let (port, unix) = (listener(), UnixListener::bind(&path).expect("a socket"));
    let address = port.local_addr().expect("it is bound");
    let start = || {
        let command = command(&["--engine", engine, "--workers", "2", "--no-pin"]);
        Server::spawn(activated(&command, &[&port, &unix], "web:local"))
    };
    let server = start();
    assert_eq!(server.address, address);
    let line = server.stdout.recv_timeout(DEADLINE).expect("a line for each");
    assert!(line.starts_with(&format!("listening on unix:{}:/ws", path.display())), "{line}");
    Client::connect(address).echo(OpCode::Text, b"over the port");
    connect(&path).echo(OpCode::Text, b"over the socket");
    for entry in fs::read_dir(format!("/proc/{}/fdinfo", server.pid().as_raw_nonzero())).expect("it runs") {
        let entry = entry.expect("a descriptor");
        if entry.file_name().to_str().is_some_and(|fd| ["3", "4"].contains(&fd)) {
            let info = fs::read_to_string(entry.path()).expect("it is open");
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags").trim();
            let flags = u64::from_str_radix(flags, 8).expect("in octal");
            assert_ne!(flags & 0o2_000_000, 0, "O_CLOEXEC is not among {flags:o}");
        }
    }

    // What comes when it does not accept any more is for the next one.
    server.signal(Signal::TERM);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log:?}");
    assert!(path.exists(), "the file is not the server's");
    let handshake = common::handshake("/ws", "");
    let mut queued = [TcpStream::connect(address).expect("the socket is open here"), {
        let stream = UnixStream::connect(&path).expect("the socket is open here");
        OwnedFd::from(stream).into()
    }];
    for stream in &mut queued {
        stream.write_all(handshake.as_bytes()).expect("the socket has room");
        stream.set_read_timeout(Some(DEADLINE)).expect("a duration");
    }
    let server = start();
    for stream in &mut queued {
        let mut head = [0; 12];
        std::io::Read::read_exact(stream, &mut head).expect("an answer");
        assert_eq!(head.escape_ascii().to_string(), "HTTP/1.1 101");
    }
    drop(queued);

    // Nor does one take it that has begun to end.
    let mut last = Client::connect(address);
    server.signal(Signal::TERM);
    assert_eq!(last.read_close(), 1001);
    let mut queued = TcpStream::connect(address).expect("the socket is open here");
    queued.set_read_timeout(Some(DEADLINE)).expect("a duration");
    queued.write_all(handshake.as_bytes()).expect("the socket has room");
    last.send(OpCode::Close, &close_payload(1001, ""));
    last.expect_end();
    drop(last);
    assert_eq!(server.wait().0.code(), Some(0));
    let _next = start();
    let mut head = [0; 12];
    std::io::Read::read_exact(&mut queued, &mut head).expect("an answer");
    assert_eq!(head.escape_ascii().to_string(), "HTTP/1.1 101");
}

fn what_is_queued_at_a_socket_that_was_handed_over_is_for_the_next_server(engine: &str) {
    // On a machine that is slow for two seconds on end there is room again too early.
    assert!((0..5).any(|_| is_left_to_the_next(engine)), "the server has emptied the queue at its end");
}

fn is_left_to_the_next(engine: &str) -> bool {
    let port = listener();
    let handshake = common::handshake("/ws", "");
    let start = || {
        let command = command(&["--engine", engine, "--workers", "1", "--max-connections", "1"]);
        Server::spawn(activated(&command, &[&port], ""))
    };
    let server = start();
    let mut client = server.connect();
    // As many as are told at a time that there is no room. They are slow to leave.
    let refused: Vec<_> = (0..16)
        .map(|_| {
            let mut client = server.connect_raw();
            client.send_bytes(handshake.as_bytes());
            let head = client.read_head();
            assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
            client
        })
        .collect();
    let mut queued = server.connect_raw();
    queued.send_bytes(handshake.as_bytes());
    server.signal(Signal::TERM);
    assert_eq!(client.read_close(), 1001);
    client.send(OpCode::Close, &close_payload(1001, ""));
    client.expect_end();
    drop((client, refused));
    assert_eq!(server.wait().0.code(), Some(0));
    let _next = start();
    queued.read_head().starts_with("HTTP/1.1 101 ")
}

fn workers_share_a_socket_that_was_handed_over(engine: &str) {
    let port = listener();
    let command = command(&["--engine", engine, "--workers", "3", "--no-pin"]);
    let server = Server::spawn(activated(&command, &[&port], ""));
    expect_to_share_out(&server, || server.connect());
}

/// A peer that does not read leaves more behind, the larger the buffer is.
fn what_a_slow_reader_holds_in_the_kernel_is_bounded(engine: &str) {
    let held = |size: &str| {
        let server = Server::start(engine, &["--socket-send-buffer", size, "--unsent-limit", "64KiB"]);
        let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a size");
        let mut client = server.connect_over(socket);
        client.stream.set_write_timeout(Some(Duration::from_millis(200))).expect("a duration");
        let bytes = frame(true, OpCode::Binary, &pattern(60_000));
        while client.stream.write_all(&bytes).is_ok() {}
        send_queue(server.address.port(), client.stream.local_addr().expect("it is connected").port())
    };
    let (small, large) = (held("16KiB"), held("2MiB"));
    println!("{engine}: {small} and {large} bytes wait in the kernel");
    // The kernel counts what it needs for itself too, and takes a segment beyond the limit.
    assert!(small <= 256 << 10, "{small} bytes wait in a buffer of 16 KiB");
    assert!(large > 2 * small, "{large} bytes wait in a buffer of 2 MiB, {small} in one of 16 KiB");
}

/// Bytes that were sent over a connection on loopback and not taken yet (proc_net_tcp: tx_queue).
fn send_queue(from: u16, to: u16) -> u64 {
    let table = fs::read_to_string("/proc/net/tcp").expect("/proc");
    let line = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|fields| {
        fields[1].ends_with(&format!(":{from:04X}")) && fields[2].ends_with(&format!(":{to:04X}"))
    });
    let line = line.expect("the connection");
    u64::from_str_radix(line[4].split(':').next().expect("split gives one"), 16).expect("in hexadecimal")
}

/// A queue takes one more than it was told (listen(2) of Linux), and then no more.
fn the_backlog_is_the_one_asked_for(engine: &str) {
    let server = Server::start(engine, &["--backlog", "5"]);
    server.connect().echo(OpCode::Text, b"served");
    stop(&server);
    let address = server.address.into();
    let mut clients = Vec::new();
    let connected = (0..20).take_while(|_| {
        let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let is_connected = socket.connect_timeout(&address, Duration::from_millis(300)).is_ok();
        clients.push(socket);
        is_connected
    });
    let connected = connected.count();
    println!("{engine}: {connected} connections are queued");
    server.signal(Signal::CONT);
    assert!((6..=8).contains(&connected), "{connected} connections are queued");
}

/// Stops the server, and waits until each of its threads has stopped.
fn stop(server: &Server) {
    server.signal(Signal::STOP);
    let threads = format!("/proc/{}/task", server.pid().as_raw_nonzero());
    let is_stopped = |thread: std::io::Result<fs::DirEntry>| {
        let status =
            fs::read_to_string(thread.expect("a thread").path().join("status")).expect("it is there");
        status.lines().any(|line| line.starts_with("State:") && line.contains("stopped"))
    };
    while !fs::read_dir(&threads).expect("it is there").all(is_stopped) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// O_NONBLOCK belongs to the socket, which this process has too. The ring engine leaves it as it is; the others cannot do
/// without, and put it back.
fn sockets_that_were_handed_over_keep_their_flags(engine: &str) {
    for (is_nonblocking, workers) in [(false, "1"), (false, "3"), (true, "1"), (true, "3")] {
        let port = Socket::from(listener());
        port.set_nonblocking(is_nonblocking).expect("a socket");
        let command = command(&["--engine", engine, "--workers", workers, "--no-pin"]);
        let start = || Server::spawn(activated(&command, &[&port], ""));
        let server = start();
        let mut clients: Vec<_> = (0..12).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.echo(OpCode::Text, b"whichever worker has it");
        }
        let now = || port.nonblocking().expect("a socket");
        assert!(
            engine != "ring" || now() == is_nonblocking,
            "{workers} workers have changed it to {}",
            now()
        );
        server.signal(Signal::TERM);
        drop(clients);
        let (status, log) = server.wait();
        assert_eq!(status.code(), Some(0), "{log:?}");
        assert_eq!(now(), is_nonblocking, "at the end, of {workers} workers");

        // Somebody else may change it at any time.
        let server = start();
        for other in [true, false, true, false] {
            port.set_nonblocking(other).expect("a socket");
            for _ in 0..4 {
                server.connect().echo(OpCode::Text, b"as well as before");
            }
        }
    }
}

/// While the kernel takes the rings of the killed process apart its sockets still listen, for nobody.
fn a_server_that_was_killed_leaves_its_address_to_the_next(engine: &str) {
    let took = common::restart::first_echoes_after_kills_with_unread(engine, 60, 3);
    println!("{engine}: the first echo came after {took:?}");
    let scratch = Scratch::new(engine, "killed");
    let path = format!("unix:{}", scratch.0.join("a b.sock").display());
    let name = format!("unix:@ringback-killed-{engine}-{}", std::process::id());
    for listen in [path, name] {
        let address = match listen.strip_prefix("unix:@") {
            Some(name) => UnixAddr::from_abstract_name(name),
            None => UnixAddr::from_pathname(listen.trim_start_matches("unix:")),
        };
        let address = address.expect("a short name");
        for _ in 0..5 {
            let mut server = unix_server(engine, &listen, &[]);
            let _clients: Vec<_> = (0..60)
                .map(|_| {
                    let mut client = Client::connect_unix(&address);
                    client.send(OpCode::Binary, &pattern(150_000));
                    client
                })
                .collect();
            server.wait_for_counter("binaries", 60);
            server.kill();
        }
    }
}

/// Whoever listens, accepts or not: the second server does not wait for it to end.
#[test]
fn a_server_that_lives_is_told_from_one_that_was_killed() {
    let scratch = Scratch::new("any", "alive");
    let path = format!("unix:{}", scratch.0.join("a.sock").display());
    let name = format!("unix:@ringback-alive-{}", std::process::id());
    let engine = if common::is_runnable("ring") { "ring" } else { "epoll" };
    for listen in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0", &path, &name] {
        if listen.starts_with('[') && TcpListener::bind("[::1]:0").is_err() {
            println!("SKIPPED: IPv6, which this machine does not have");
            continue;
        }
        let server = unix_server(engine, listen, &["--backlog", "1"]);
        let taken = if listen.starts_with("unix:") {
            listen.to_owned()
        } else {
            format!("{}:{}", listen.trim_end_matches(":0"), server.address.port())
        };
        expect_taken(&taken);
        // Its queue is full, and it does not accept.
        stop(&server);
        let _queued: Vec<_> = (0..4)
            .map(|_| match listen.starts_with("unix:") {
                true => None,
                false => TcpStream::connect_timeout(&server.address, Duration::from_millis(50)).ok(),
            })
            .collect();
        expect_taken(&taken);
    }
    // One of another kind, whose workers share the port, and one that is not for everybody.
    let shared = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    shared.set_reuse_port(true).expect("a socket");
    shared.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    shared.listen(1).expect("it is bound");
    let port = shared.local_addr().expect("it is bound").as_socket().expect("a port").port();
    expect_taken(&format!("127.0.0.1:{port}"));
    expect_taken(&format!("0.0.0.0:{port}"));
}

/// A second server ends at once, and says why. A machine may be slow once.
fn expect_taken(listen: &str) {
    let took = (0..3).map(|_| {
        let began = std::time::Instant::now();
        let second = run(&["--engine", "epoll", "--workers", "1", "--listen", listen]);
        assert_eq!(second.status.code(), Some(69), "{listen}: {}", stderr(&second));
        assert!(stderr(&second).contains("stop the server that has the "), "{}", stderr(&second));
        began.elapsed()
    });
    let took: Vec<_> = took.collect();
    assert!(took.iter().any(|took| *took < Duration::from_secs(2)), "{listen}: it took {took:?}");
}

#[test]
fn all_addresses_of_ipv6_are_those_of_ipv4_too() {
    if TcpListener::bind("[::1]:0").is_err() {
        return println!("SKIPPED: IPv6, which this machine does not have");
    }
    for engine in ["ring", "epoll"].into_iter().filter(|engine| common::is_runnable(engine)) {
        let options = ["--listen", "[::]:0", "--engine", engine, "--max-connections-per-ip", "9"];
        let server = Server::spawn(command(&options));
        let said = format!("listening on ws://127.0.0.1:{}/ws (all addresses, ", server.address.port());
        assert!(server.announcement.starts_with(&said), "{}", server.announcement);
        server.connect().echo(OpCode::Text, b"over IPv4");
        let mut refused = server.connect_raw();
        refused.send_bytes(common::handshake("/nowhere", "").as_bytes());
        assert!(refused.read_head().starts_with("HTTP/1.1 404 "));
        assert!(server.log_until("not_found").concat().contains("peer=127.0.0.1"), "as IPv4 has it");
        Client::connect((std::net::Ipv6Addr::LOCALHOST, server.address.port()).into())
            .echo(OpCode::Text, b"over IPv6");
        let port = server.address.port();
        drop(server);

        // Both of them, in whichever order.
        let (four, six) = (format!("0.0.0.0:{port}"), format!("[::]:{port}"));
        for listen in [[&four, &six], [&six, &four]] {
            let mut command = command(&["--listen", listen[0], "--listen", listen[1], "--workers", "2"]);
            command.args(["--engine", engine]);
            let server = Server::spawn(command);
            let lines = [server.announcement.clone(), server.stdout.recv_timeout(DEADLINE).expect("a line")];
            let has = |url: &str, scope| lines.iter().any(|line| line.contains(url) && line.contains(scope));
            assert!(has(&format!("ws://127.0.0.1:{port}/ws"), "(all IPv4 addresses, "), "{lines:?}");
            assert!(has(&format!("ws://[::1]:{port}/ws"), "(all IPv6 addresses, "), "{lines:?}");
            for address in ["127.0.0.1", "[::1]"] {
                let address = format!("{address}:{port}").parse().expect("an address");
                Client::connect(address).echo(OpCode::Text, b"each has its own");
            }
        }
    }
}

#[test]
fn ipv6_has_a_port_too() {
    if TcpListener::bind("[::1]:0").is_err() {
        return println!("SKIPPED: IPv6, which this machine does not have");
    }
    let server = Server::spawn(command(&["--listen", "[::1]:0", "--workers", "2", "--no-pin"]));
    assert!(server.announcement.contains(" ws://[::1]:"), "{}", server.announcement);
    assert!(server.address.is_ipv6() && server.address.port() != 0);
    server.connect().echo(OpCode::Text, b"over IPv6");
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let scratch = Scratch::new("any", "other");
    let path = scratch.0.join("precious");
    fs::write(&path, "precious").expect("a file");
    let datagram = scratch.0.join("datagram");
    let _datagram = UnixDatagram::bind(&datagram).expect("a socket");
    for (listen, says) in [
        (format!("unix:{}", path.display()), "no socket; it is left alone"),
        (format!("unix:{}", datagram.display()), "stop the server that has the socket"),
        (format!("unix:{}/none/a.sock", scratch.0.display()), "its directory has to be there"),
    ] {
        let output = run(&["--engine", "epoll", "--listen", &listen]);
        assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
        assert!(stderr(&output).contains(says) && stderr(&output).contains(&listen), "{}", stderr(&output));
        assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    }
    assert_eq!(fs::read_to_string(&path).expect("it is there"), "precious");
}

/// The umask takes bits away; the option gives them back.
#[test]
fn without_a_mode_the_umask_decides() {
    let scratch = Scratch::new("any", "umask");
    for (mode, expected) in [(None, 0o750), (Some("0666"), 0o666)] {
        let path = scratch.0.join("a.sock");
        let listen = format!("--listen=unix:{}", path.display());
        let mut server = command(&["--engine=epoll", "--workers=1", &listen]);
        server.args(mode.map(|mode| format!("--unix-mode={mode}")));
        let _server = Server::spawn(common::limited("umask 027", &server));
        let mode = fs::symlink_metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, expected, "{mode:o}");
        fs::remove_file(path).expect("it is there");
    }
}

#[test]
fn a_successors_file_is_left_there() {
    let scratch = Scratch::new("any", "successor");
    let path = scratch.0.join("a.sock");
    let server = unix_server("epoll", &format!("unix:{}", path.display()), &[]);
    fs::remove_file(&path).expect("it is there");
    let _successor = UnixListener::bind(&path).expect("a free path");
    server.signal(Signal::TERM);
    assert_eq!(server.wait().0.code(), Some(0));
    UnixStream::connect(&path).expect("the successor's is there");
}

/// Whoever gives addresses beside has both.
#[test]
fn addresses_that_were_asked_for_are_served_beside_sockets_that_were_handed_over() {
    let port = listener();
    let with = |set: &dyn Fn(&mut Command)| {
        let mut command = command(&["--engine=epoll", "--workers=1"]);
        set(&mut command);
        let server = Server::spawn(activated(&command, &[&port], ""));
        assert_eq!(server.address, port.local_addr().expect("it is bound"));
        let second = server.stdout.recv_timeout(Duration::from_millis(200)).ok();
        server.connect().echo(OpCode::Text, b"over the one that was handed over");
        second
    };
    assert_eq!(with(&|_| {}), None, "the default address is not listened at");
    let scratch = Scratch::new("any", "beside");
    let file = scratch.0.join("a.toml");
    let printed = command(&["--engine=epoll", "--print-config"]).output().expect("the binary runs").stdout;
    fs::write(&file, printed).expect("a file");
    let reads_what_was_printed = |command: &mut Command| {
        command.arg("--config").arg(&file);
    };
    assert_eq!(with(&reads_what_was_printed), None, "a printed default is no choice");
    fs::write(&file, "listen = ['127.0.0.1:0']").expect("a file");
    for set in [
        &(|command: &mut Command| {
            command.arg("--listen=127.0.0.1:0");
        }) as &dyn Fn(&mut Command),
        &|command| {
            command.env("RINGBACK_LISTEN", "127.0.0.1:0");
        },
        &|command| {
            command.arg("--config").arg(&file);
        },
    ] {
        let second = with(set).expect("a line for each address");
        assert_ne!(announced(&second).expect("a port").port(), 0);
    }
}

#[test]
fn sockets_for_another_process_are_not_taken() {
    let port = listener();
    let mut other =
        activated(&command(&["--engine=epoll", "--workers=1", "--listen=127.0.0.1:0"]), &[&port], "");
    other.env("OTHER_PID", "1");
    let server = Server::spawn(other);
    assert_ne!(server.address, port.local_addr().expect("it is bound"));
}

#[test]
fn what_cannot_be_served_of_what_was_handed_over_is_named() {
    let (_reader, writer) = std::io::pipe().expect("a pipe");
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let deaf = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    for (descriptor, says) in [
        (&writer as &dyn AsFd, "is no stream socket"),
        (&datagrams, "is no stream socket"),
        (&deaf, "does not listen: set Accept=no"),
    ] {
        let output = activated(&command(&["--engine=epoll"]), &[descriptor], "first")
            .stderr(Stdio::piped())
            .output()
            .expect("the binary runs");
        assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
        let said = stderr(&output);
        assert!(said.contains("descriptor 3 (\"first\")") && said.contains(says), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let mut wrong = activated(&command(&["--engine=epoll"]), &[], "");
    let output = wrong.env("WRONG_COUNT", "many").stderr(Stdio::piped()).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("LISTEN_FDS=\"many\""), "{}", stderr(&output));
}

/// sd_notify(3): whoever waits for the start and the end is told.
#[test]
fn a_service_manager_is_told() {
    let scratch = Scratch::new("any", "notify");
    let path = scratch.0.join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(DEADLINE)).expect("a duration");
    let told = || {
        let mut bytes = [0; 100];
        let len = manager.recv(&mut bytes).expect("something is told");
        String::from_utf8(bytes[..len].to_vec()).expect("text")
    };
    let mut command = command(&["--engine=epoll", "--workers=1", "--listen=127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", &path);
    let server = Server::spawn(command);
    assert_eq!(told(), "READY=1\n");
    server.signal(Signal::TERM);
    assert_eq!(told(), "STOPPING=1\n");
    assert_eq!(server.wait().0.code(), Some(0));
}

/// A listener to hand over.
fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a free port")
}

/// The same command, started as systemd starts a service with sockets: by a process that becomes it.
fn activated(command: &Command, sockets: &[&dyn AsFd], names: &str) -> Command {
    let listen = "LISTEN_PID=${OTHER_PID:-$$} LISTEN_FDS=${WRONG_COUNT:-$HANDED} LISTEN_FDNAMES=$NAMES";
    let mut activated = common::limited(&format!("export {listen}"), command);
    activated.env("HANDED", sockets.len().to_string()).env("NAMES", names);
    let mappings = (3..).zip(sockets).map(|(child_fd, socket)| {
        let parent_fd = socket.as_fd().try_clone_to_owned().expect("a descriptor more");
        FdMapping { parent_fd, child_fd }
    });
    activated.fd_mappings(mappings.collect()).expect("each has a number of its own");
    activated
}

fn unix_server(engine: &str, listen: &str, more: &[&str]) -> Server {
    let mut command = command(&["--engine", engine, "--listen", listen, "--workers", "1"]);
    command.args(more);
    Server::spawn(command)
}

fn connect(path: &Path) -> Client {
    Client::connect_unix(&UnixAddr::from_pathname(path).expect("a short path"))
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output().expect("the binary runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("messages are UTF-8")
}

/// An empty directory, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(engine: &str, name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringback-{engine}-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
