//! Health behind clients of the admin listener that are silent, slow, or many.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{DEADLINE, admin};

/// As long as a silent client may stay where there is room: whoever waits for that waits for longer.
const SILENCE: Duration = Duration::from_secs(9);

/// How long a client tries to send.
const MOMENT: Duration = Duration::from_secs(1);

/// As many as there are places, and many more. Those who give way are closed, and need no descriptor.
#[test]
fn whoever_asks_is_answered_while_others_hang_on() {
    let (_server, admin) = admin::start("epoll", &[]);
    let request = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
    let half = &request[..20];
    let many = request.repeat(20);
    for (what, bytes) in [("silent", ""), ("half a head", half), ("slow to read", &many)] {
        // The answers of these are work for the server.
        for count in if bytes == many { [64, 65] } else { [64, 1000] } {
            let clients: Vec<_> = (0..count)
                .map(|_| {
                    let mut client = connect(admin);
                    // What is taken before it gives way, and no more.
                    let _ = client.write(bytes.as_bytes());
                    client
                })
                .collect();
            expect_health(admin, &format!("{count} clients, {what}"));
            drop(clients);
        }
    }
}

/// While some come all the time, and send a byte now and then.
#[test]
fn whoever_asks_is_answered_while_others_come() {
    let (_server, admin) = admin::start("epoll", &[]);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut clients = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    if clients.len() == 200 {
                        clients.drain(..100);
                    }
                    clients.push(connect(admin));
                    for client in &mut clients {
                        let _ = client.write(b"G");
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            });
        }
        for _ in 0..20 {
            expect_health(admin, "clients that come and send by the byte");
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

/// Those who have asked last stay: a scraper keeps its connection while silent clients come and go.
#[test]
fn who_asks_now_and_then_keeps_its_place() {
    let (_server, admin) = admin::start("epoll", &[]);
    let mut scraper = connect(admin);
    let mut silent = Vec::new();
    // Fewer in a round than places by far: on a busy machine those of some rounds are accepted between two of its requests.
    for _ in 0..40 {
        silent.extend((0..20).map(|_| connect(admin)));
        scraper.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").expect("it is still there");
        let mut answer = [0; 512];
        let read = scraper.read(&mut answer).expect("an answer");
        assert!(answer[..read].starts_with(b"HTTP/1.1 200 OK"), "{}", String::from_utf8_lossy(&answer));
    }
    let mut first = &silent[0];
    assert!(!matches!(first.read(&mut [0; 1]), Ok(1..)), "the one that was silent for longest was closed");
}

/// An answer within a moment. One attempt may give way to a crowd that comes at that very moment.
fn expect_health(admin: SocketAddr, what: &str) {
    let began = Instant::now();
    loop {
        let mut client = connect(admin);
        client.set_read_timeout(Some(DEADLINE)).expect("a duration");
        let mut answer = String::new();
        let asked = client.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let read = client.read_to_string(&mut answer);
        assert!(began.elapsed() < SILENCE, "{what}: {:?} {answer:?}", began.elapsed());
        if asked.is_ok() && read.is_ok() && answer.starts_with("HTTP/1.1 200 OK") {
            return println!("{what}: {:?}", began.elapsed());
        }
    }
}

fn connect(admin: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(admin).expect("it listens");
    client.set_nodelay(true).expect("a socket");
    client.set_write_timeout(Some(MOMENT)).expect("a duration");
    client
}
