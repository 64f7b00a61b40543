//! A worker that makes connections, turn by turn.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::thread;
use std::time::Instant;

use bytes::BytesMut;
use rustix::event::{EventfdFlags, eventfd};
use socket2::{Domain, Socket, Type};

use super::super::super::outgoing::Outgoing;
use super::*;
use crate::memory::{Budget, Charged, HEADROOM, Total};

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

impl<S: Service, Q: Queues> Worker<S, Q> {
    /// Whether nothing is left of any connection.
    ///
    /// # Errors
    ///
    /// What is left.
    pub(in crate::engine::ring) fn check_end(&self) -> Result<(), String> {
        match self.connections.len() {
            0 => self.driver.ring.check_end(),
            left => Err(format!("{left} connections are left")),
        }
    }

    /// Whether something that was received is left for the next turn.
    pub(in crate::engine::ring) fn has_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// How many buffers of each class the kernel has, as the ring has it.
    pub(in crate::engine::ring) fn given(&self) -> [usize; 2] {
        self.driver.ring.given()
    }

    pub(in crate::engine::ring) fn queues(&self) -> &Q {
        self.driver.ring.queues()
    }
}

/// Nobody listens.
struct Nobody;

impl Service for Nobody {
    type Handler = Caller;

    fn accepted(&mut self, _: Option<IpAddr>) -> Caller {
        unreachable!("nobody listens")
    }

    fn may_accept(&self) -> bool {
        false
    }

    fn on_accept_paused(&mut self, _: Option<&io::Error>) {}

    fn phase(&mut self) -> Phase {
        Phase::Running
    }

    fn now(&self) -> u64 {
        0
    }
}

/// Says what it is told to, and remembers what it hears.
#[derive(Default)]
struct Caller {
    connected: Option<Result<(), io::ErrorKind>>,
    to_say: Vec<u8>,
    heard: Vec<u8>,
    has_ended: bool,
    is_over: bool,
    ends_abruptly: bool,
}

impl Handler for Caller {
    fn on_connected(&mut self, result: io::Result<()>) {
        assert_eq!(self.connected, None, "it is told once");
        self.is_over |= result.is_err();
        self.connected = Some(result.map_err(|error| error.kind()));
    }

    fn on_received(&mut self, received: Received) -> usize {
        assert_eq!(self.connected, Some(Ok(())), "nothing comes before there is a connection");
        match received {
            Ok(Some((buffer, len))) => self.heard.extend(&buffer.bytes()[HEADROOM..][..len]),
            Ok(None) | Err(_) => self.has_ended = true,
        }
        1
    }

    fn may_receive(&mut self) -> bool {
        true
    }

    fn class(&self) -> Class {
        Class::Small
    }

    fn next_outgoing(&mut self) -> Option<Outgoing> {
        assert_eq!(self.connected, Some(Ok(())), "nothing is sent before there is a connection");
        let bytes = BytesMut::from(&std::mem::take(&mut self.to_say)[..]);
        let charge = Budget::new(Total::new(usize::MAX)).charge(0);
        Outgoing::heap(Box::new(Charged { bytes, charge }))
    }

    fn on_sent(&mut self, result: io::Result<()>, _: Outgoing) {
        result.expect("the peer takes it");
    }

    fn on_sent_in_part(&mut self, outgoing: Outgoing, sent: usize, _: bool) {
        assert_eq!(sent, 0, "so little is taken at once");
        self.to_say = outgoing.bytes().to_vec();
    }

    fn on_behind(&mut self) {}

    fn awaits_sent(&self) -> bool {
        false
    }

    fn ends_writing(&mut self) -> bool {
        false
    }

    fn deadline(&self) -> Option<u64> {
        None
    }

    fn on_deadline(&mut self, _: impl FnOnce() -> Option<IpAddr>) {}

    fn on_phase(&mut self, _: Phase) {}

    fn is_over(&self) -> bool {
        self.is_over
    }

    fn ends_abruptly(&self) -> bool {
        self.ends_abruptly
    }
}

/// A worker with room for four connections; `None` where there can be no ring.
fn worker() -> Option<Worker<Nobody>> {
    let sizes = Sizes { small_count: 64, ..Sizes::new(64 << 10, 4) };
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).expect("a descriptor"));
    let mut worker = match Worker::new(&sizes, Nobody, wake, Arc::default()) {
        Ok(worker) => worker,
        Err(error) => {
            println!("SKIPPED: the ring engine cannot run here: {error}");
            return None;
        }
    };
    worker.watch().expect("a ring of use");
    Some(worker)
}

impl Worker<Nobody> {
    /// Calls this address; the socket's own descriptor is closed at once.
    fn call(&mut self, address: SocketAddr, caller: Caller) -> Key {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        if caller.ends_abruptly {
            socket.set_linger(Some(Duration::ZERO)).expect("an option of sockets");
        }
        self.connect(caller, socket.as_fd(), Arc::new(address.into())).expect("there is a place")
    }

    /// Takes turns until `look` finds what it looks for.
    fn turn_until<R>(&mut self, mut look: impl FnMut(&mut Self) -> Option<R>) -> R {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if let Some(found) = look(self) {
                return found;
            }
            self.turn(Some(Duration::from_millis(10))).expect("a ring of use");
        }
        panic!("it does not come");
    }

    fn has_ended(&mut self, key: Key) -> Option<Vec<u8>> {
        self.with(key, |caller| caller.has_ended.then(|| caller.heard.clone()))?
    }

    fn is_empty(&self) -> bool {
        self.free_places() == 4
    }
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

#[test]
fn connections_are_made_speak_hear_and_leave_their_places() {
    let Some(mut worker) = worker() else { return };
    let (listener, address) = listener();
    let echoing = thread::spawn(move || {
        for stream in listener.incoming().take(20) {
            let mut stream = stream.expect("a connection");
            let mut heard = [0; 5];
            stream.read_exact(&mut heard).expect("five bytes come");
            stream.write_all(&heard).expect("they are taken");
        }
    });
    for round in 0..5_u8 {
        let callers = [0, 1, 2, 3].map(|number| {
            let to_say = vec![b'0' + round, b'.', b'0' + number, b'!', b'\n'];
            (worker.call(address, Caller { to_say: to_say.clone(), ..Caller::default() }), to_say)
        });
        assert_eq!(worker.free_places(), 0);
        for (key, said) in callers {
            assert_eq!(worker.turn_until(|worker| worker.has_ended(key)), said);
            worker.with(key, |caller| caller.is_over = true);
        }
        worker.turn_until(|worker| worker.is_empty().then_some(()));
    }
    echoing.join().expect("no panic");
}

#[test]
fn a_connection_that_is_refused_says_so_and_leaves_its_place() {
    let Some(mut worker) = worker() else { return };
    let (listener, address) = listener();
    drop(listener);
    let key = worker.call(address, Caller { to_say: b"hello".into(), ..Caller::default() });
    let refused = worker.turn_until(|worker| worker.with(key, |caller| caller.connected)?);
    assert_eq!(refused, Err(io::ErrorKind::ConnectionRefused));
    worker.turn_until(|worker| worker.is_empty().then_some(()));
}

#[test]
fn what_fails_for_a_moment_is_begun_again() {
    let Some(mut worker) = worker() else { return };
    let (listener, address) = listener();
    for errno in [Errno::INTR, Errno::AGAIN, Errno::NOMEM, Errno::NOBUFS] {
        let key = worker.call(address, Caller::default());
        worker.turn_until(|worker| worker.with(key, |caller| caller.connected)?).expect("it is made");
        let (mut peer, _) = listener.accept().expect("a connection");
        // A receive has failed: as if the kernel had said so of the one that is under way, which it then ends.
        worker.turn(Some(Duration::ZERO)).expect("a ring of use");
        worker.driver.ring.cancel_receive(key, Class::Small);
        worker.on_receive(key, Err(errno.into()), true);
        // So has a send.
        let charge = Budget::new(Total::new(usize::MAX)).charge(0);
        let bytes = BytesMut::from(&b"said"[..]);
        let first = Outgoing::heap(Box::new(Charged { bytes, charge })).expect("something");
        let pieces = Pieces { first, more: Vec::new() };
        worker.on_sent(key, Err(errno.into()), pieces);
        peer.write_all(b"heard").expect("it is connected");
        worker.turn_until(|worker| worker.with(key, |caller| caller.heard == b"heard")?.then_some(()));
        let mut said = [0; 4];
        peer.set_read_timeout(Some(DEADLINE)).expect("a duration");
        peer.read_exact(&mut said).expect("it is sent");
        assert_eq!(&said, b"said", "{errno}");
        drop(peer);
        worker.turn_until(|worker| worker.has_ended(key));
        worker.with(key, |caller| caller.is_over = true);
        worker.turn_until(|worker| worker.is_empty().then_some(()));
    }
}

/// A full queue leaves a SYN without an answer.
#[test]
fn a_connection_that_is_never_made_can_be_given_up() {
    let Some(mut worker) = worker() else { return };
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    listener.listen(0).expect("a listener");
    let address = listener.local_addr().expect("it is bound").as_socket().expect("of IP");
    let _queued = TcpStream::connect(address).expect("the queue has room for one");
    let keys = [(); 3].map(|()| worker.call(address, Caller::default()));
    for _ in 0..20 {
        worker.turn(Some(Duration::from_millis(10))).expect("a ring of use");
    }
    let made = |worker: &mut Worker<Nobody>, key| worker.with(key, |caller| caller.connected.is_some());
    assert!(keys.iter().any(|&key| made(&mut worker, key) == Some(false)), "some have no answer");
    for key in keys {
        worker.with(key, |caller| caller.is_over = true);
    }
    worker.turn_until(|worker| worker.is_empty().then_some(()));
}

#[test]
fn whoever_ends_abruptly_resets_the_connection() {
    let Some(mut worker) = worker() else { return };
    let (listener, address) = listener();
    for ends_abruptly in [true, false] {
        let key = worker.call(address, Caller { ends_abruptly, ..Caller::default() });
        worker.turn_until(|worker| worker.with(key, |caller| caller.connected)?).expect("it is made");
        let (mut peer, _) = listener.accept().expect("a connection");
        peer.set_read_timeout(Some(DEADLINE)).expect("a duration");
        worker.with(key, |caller| caller.is_over = true);
        worker.turn_until(|worker| worker.is_empty().then_some(()));
        let read = peer.read(&mut [0; 8]).map_err(|error| error.kind());
        assert_eq!(read, if ends_abruptly { Err(io::ErrorKind::ConnectionReset) } else { Ok(0) });
    }
}

#[test]
fn a_turn_takes_no_longer_than_it_may() {
    let Some(mut worker) = worker() else { return };
    for at_most in [Duration::ZERO, Duration::from_millis(20)] {
        let began = Instant::now();
        worker.turn(Some(at_most)).expect("a ring of use");
        let took = began.elapsed();
        assert!((at_most..DEADLINE).contains(&took), "{took:?}");
    }
}
