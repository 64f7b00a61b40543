//! Tests of runs on names with several addresses, which no file of this machine has to know.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use socket2::{Domain, SockAddr, Socket, Type};

use super::*;
use crate::cli::Args;

/// An echo server on a port of its own.
fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                // A connection may be left before it is open.
                let Ok(mut socket) = tungstenite::accept(stream) else { return };
                while let Ok(message) = socket.read() {
                    if (message.is_text() || message.is_binary()) && socket.send(message).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

/// An address on which nobody listens.
fn refused() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// A run against a name that has these addresses.
fn run_on(addresses: &[SocketAddr], is_spread: bool, args: &[&str]) -> Result<Outcome, Failure> {
    let line = ["ws://127.0.0.1:1/", "-d", "200ms", "--warmup", "0s", "--grace", "60s"];
    let mut plan = Args::of(&[&line[..], args].concat()).plan().expect("nothing is in its way");
    plan.target = "ws://name:1/".parse().expect("valid");
    let list = addresses.iter().copied().map(SockAddr::from).collect();
    plan.addresses = Addresses::new(&plan.target, list, is_spread);
    run(&Arc::new(plan), &Interrupts::none(), |_| {})
}

/// Of each address, the connections and the failures.
fn reached(outcome: &Outcome) -> Vec<(u64, u64)> {
    assert_eq!(outcome.totals.faults.total(), 0, "{:?}", outcome.totals.faults);
    outcome.totals.addresses.iter().map(|it| (it.connections, it.failures)).collect()
}

const ENGINES: [&[&str]; 2] = [&["--engine", "auto"], &["--engine", "epoll"]];

#[test]
fn an_address_that_refuses_is_passed_over() {
    for engine in ENGINES {
        let outcome = run_on(&[refused(), serve()], false, &[engine, &["-c", "5"]].concat()).expect("a run");
        let [(0, failures), (5, 0)] = reached(&outcome)[..] else {
            panic!("{:?}", reached(&outcome));
        };
        assert!((1..=5).contains(&failures) && outcome.totals.checked > 0, "{failures}");
    }
}

#[test]
fn an_address_that_is_silent_is_passed_over() {
    let silent = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    silent.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    silent.listen(0).expect("it is bound");
    let address = silent.local_addr().expect("it is bound").as_socket().expect("TCP");
    // They fill its queue: to the others it does not answer.
    let queued: Vec<_> = (0..2)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_nonblocking(true).expect("an option");
            let _ = socket.connect(&address.into());
            socket
        })
        .collect();
    thread::sleep(Duration::from_millis(50));
    for engine in ENGINES {
        let args = [engine, &["-c", "3", "--connect-timeout", "4s"]].concat();
        let outcome = run_on(&[address, serve()], false, &args).expect("a run");
        assert_eq!(reached(&outcome), [(0, 3), (3, 0)]);
    }
    drop(queued);
}

#[test]
fn connections_are_spread_over_all_addresses_and_over_those_that_are_there() {
    for engine in ENGINES {
        let args = [engine, &["-c", "6", "--threads", "2"]].concat();
        let outcome = run_on(&[serve(), serve(), serve()], true, &args).expect("a run");
        assert_eq!(reached(&outcome), [(2, 0), (2, 0), (2, 0)]);
        let outcome = run_on(&[serve(), refused()], true, &args).expect("a run");
        assert_eq!(reached(&outcome), [(6, 0), (0, 3)]);
    }
}

#[test]
fn a_name_of_which_no_address_is_there_is_told_with_all_of_them() {
    for engine in ENGINES {
        let addresses = [refused(), refused()];
        let Err(Failure::Unavailable(told)) = run_on(&addresses, false, engine) else {
            panic!("there is nobody");
        };
        let why = addresses.map(|address| format!("{address}: Connection refused (os error 111)")).join("; ");
        assert_eq!(told, format!("cannot connect to ws://name:1/: {why}"));
    }
}

#[test]
fn in_a_churn_a_connection_that_fails_names_its_address() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        let (stream, _): (TcpStream, _) = listener.accept().expect("a connection");
        // Whoever comes next is refused.
        drop(listener);
        let mut socket = tungstenite::accept(stream).expect("a good handshake");
        let message = socket.read().expect("a message");
        socket.send(message).expect("it is awaited");
        let _ = socket.read();
    });
    let other = refused();
    let outcome = run_on(&[other, address], false, &["-c", "1", "--churn"]).expect("a run");
    let counts = outcome.totals.faults.counts();
    assert_eq!(counts.get("connect_failed"), Some(&1), "{counts:?}");
    let examples = outcome.totals.faults.examples().join("\n");
    let named = [other, address].map(|it| format!("cannot connect to {it} (name): Connection refused"));
    assert!(named.iter().any(|named| examples.contains(named)), "{examples}");
}
