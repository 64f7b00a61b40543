//! A worker that makes connections, turn by turn, on each driver.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};
use socket2::{Domain, Socket, Type};

use super::*;
use crate::engine::ring::{self, RingDriver};
use crate::engine::{Bounds, EngineCounters};

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// Says what it is told to, and remembers what it hears.
#[derive(Default)]
pub(in crate::engine) struct Caller {
    pub(in crate::engine) connected: Option<Result<(), io::ErrorKind>>,
    pub(in crate::engine) to_say: Vec<u8>,
    pub(in crate::engine) heard: Vec<u8>,
    pub(in crate::engine) has_ended: bool,
}

impl Handler for Caller {
    fn on_begun(&mut self, wire: &mut Wire<'_>, result: io::Result<()>) {
        assert_eq!(self.connected, None, "it is told once");
        self.connected = Some(result.map_err(|error| error.kind()));
        wire.send_copy(&self.to_say);
    }

    fn on_received(&mut self, _: &mut Wire<'_>, received: Received) -> u32 {
        assert_eq!(self.connected, Some(Ok(())), "nothing comes before there is a connection");
        match received {
            Received::Bytes(buffer, range) => self.heard.extend(&buffer.bytes()[range]),
            Received::End | Received::Failed(_) => self.has_ended = true,
        }
        1
    }
}

/// Has a test run on each driver, where it can.
macro_rules! on_each_driver {
    ($($test:ident,)+) => {
        mod ring_driver {
            $(
                #[test]
                fn $test() {
                    if let Some(worker) = super::on_a_ring() {
                        super::$test(worker);
                    }
                }
            )+
        }

        mod epoll_driver {
            $(
                #[test]
                fn $test() {
                    let worker = crate::engine::epoll::worker(super::PLACES, super::common(), super::wake());
                    super::$test(worker.expect("epoll and memory"));
                }
            )+
        }
    };
}

on_each_driver! {
    connections_are_made_speak_hear_and_leave_their_places,
    a_connection_that_is_refused_says_so_and_leaves_its_place,
    a_connection_that_is_never_made_can_be_given_up,
    whoever_ends_abruptly_resets_the_connection,
    the_write_side_is_shut_behind_the_last_byte_and_the_peer_is_heard,
    a_turn_takes_no_longer_than_it_may,
}

/// How many places each has.
const PLACES: usize = 4;

fn common() -> Rc<Common> {
    Rc::new(Common::new(Bounds::default(), Arc::<EngineCounters>::default()))
}

fn wake() -> Arc<OwnedFd> {
    Arc::new(eventfd(0, EventfdFlags::CLOEXEC).expect("a descriptor"))
}

/// A worker on a ring; `None` where there can be none.
pub(in crate::engine) fn on_a_ring() -> Option<Worker<RingDriver, Caller>> {
    let sizes = ring::Sizes { small_count: 64, ..ring::Sizes::new(64 << 10, PLACES) };
    match ring::worker(&sizes, common(), wake()) {
        Ok(worker) => Some(worker),
        Err(error) => {
            println!("SKIPPED: the ring engine cannot run here: {error}");
            None
        }
    }
}

impl<D: Driver> Worker<D, Caller> {
    /// Calls this address.
    pub(in crate::engine) fn call(&mut self, address: SocketAddr, to_say: &[u8]) -> Id {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        self.call_over(socket, address, to_say)
    }

    fn call_over(&mut self, socket: Socket, address: SocketAddr, to_say: &[u8]) -> Id {
        let caller = Caller { to_say: to_say.to_vec(), ..Caller::default() };
        self.connect(caller, socket.into(), Arc::new(address.into())).expect("there is a place")
    }

    /// Takes turns until `look` finds what it looks for.
    pub(in crate::engine) fn turn_until<R>(&mut self, mut look: impl FnMut(&mut Self) -> Option<R>) -> R {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if let Some(found) = look(self) {
                return found;
            }
            self.turn(Some(Duration::from_millis(10))).expect("a driver of use");
        }
        panic!("it does not come");
    }

    pub(in crate::engine) fn connected(&mut self, id: Id) -> Result<(), io::ErrorKind> {
        self.turn_until(|worker| worker.with(id, |caller, _| caller.connected)?)
    }

    pub(in crate::engine) fn wait_for_end(&mut self, id: Id) -> Vec<u8> {
        self.turn_until(|worker| {
            worker.with(id, |caller, _| caller.has_ended.then(|| caller.heard.clone()))?
        })
    }

    pub(in crate::engine) fn end(&mut self, id: Id) {
        self.with(id, |_, wire| wire.end());
    }

    /// Says something, and has the send fail.
    pub(in crate::engine) fn say_in_vain(&mut self, id: Id, said: &[u8], error: io::Error) {
        self.with(id, |_, wire| wire.send_copy(said));
        let place = self.places.get_mut(id).expect("it is there");
        let context = Context { common: &self.common, id, socket: None };
        let (pieces, _) = place.connection.next_send(1, context).expect("something to send");
        self.on_sent(id, Sent { result: Err(error), pieces });
    }

    pub(in crate::engine) fn wait_until_empty(&mut self) {
        self.turn_until(|worker| worker.is_empty().then_some(()));
    }
}

pub(in crate::engine) fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

fn connections_are_made_speak_hear_and_leave_their_places<D: Driver>(mut worker: Worker<D, Caller>) {
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
            let to_say = [b'0' + round, b'.', b'0' + number, b'!', b'\n'];
            (worker.call(address, &to_say), to_say)
        });
        assert_eq!(worker.free_places(), 0);
        for (id, said) in callers {
            assert_eq!(worker.wait_for_end(id), said);
            worker.end(id);
        }
        worker.wait_until_empty();
    }
    echoing.join().expect("no panic");
}

fn a_connection_that_is_refused_says_so_and_leaves_its_place<D: Driver>(mut worker: Worker<D, Caller>) {
    let (listener, address) = listener();
    drop(listener);
    let id = worker.call(address, b"hello");
    assert_eq!(worker.connected(id), Err(io::ErrorKind::ConnectionRefused));
    worker.wait_until_empty();
}

/// A full queue leaves a SYN without an answer.
fn a_connection_that_is_never_made_can_be_given_up<D: Driver>(mut worker: Worker<D, Caller>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    listener.listen(0).expect("a listener");
    let address = listener.local_addr().expect("it is bound").as_socket().expect("of IP");
    let _queued = TcpStream::connect(address).expect("the queue has room for one");
    let ids = [(); 3].map(|()| worker.call(address, b""));
    for _ in 0..20 {
        worker.turn(Some(Duration::from_millis(10))).expect("a driver of use");
    }
    let made = |worker: &mut Worker<D, Caller>, id| worker.with(id, |caller, _| caller.connected.is_some());
    assert!(ids.iter().any(|&id| made(&mut worker, id) == Some(false)), "some have no answer");
    for id in ids {
        worker.end(id);
    }
    worker.wait_until_empty();
}

fn whoever_ends_abruptly_resets_the_connection<D: Driver>(mut worker: Worker<D, Caller>) {
    let (listener, address) = listener();
    for is_abrupt in [true, false] {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        if is_abrupt {
            socket.set_linger(Some(Duration::ZERO)).expect("an option of sockets");
        }
        let id = worker.call_over(socket, address, b"");
        worker.connected(id).expect("it is made");
        let (mut peer, _) = listener.accept().expect("a connection");
        peer.set_read_timeout(Some(DEADLINE)).expect("a duration");
        worker.with(id, |_, wire| if is_abrupt { wire.reset() } else { wire.end() });
        worker.wait_until_empty();
        let read = peer.read(&mut [0; 8]).map_err(|error| error.kind());
        assert_eq!(read, if is_abrupt { Err(io::ErrorKind::ConnectionReset) } else { Ok(0) });
    }
}

fn the_write_side_is_shut_behind_the_last_byte_and_the_peer_is_heard<D: Driver>(
    mut worker: Worker<D, Caller>,
) {
    let (listener, address) = listener();
    // More than the sockets take at once.
    let said: Vec<u8> = (0..4 << 20).map(|at: u32| at.to_le_bytes()[1]).collect();
    let id = worker.call(address, &said);
    worker.connected(id).expect("it is made");
    worker.with(id, |_, wire| wire.shut_write());
    let (mut peer, _) = listener.accept().expect("a connection");
    let answering = thread::spawn(move || {
        let mut heard = Vec::new();
        peer.read_to_end(&mut heard).expect("an end behind the last byte");
        peer.write_all(b"heard").expect("it is read from still");
        heard
    });
    assert_eq!(worker.wait_for_end(id), b"heard");
    assert!(answering.join().expect("no panic") == said);
    worker.end(id);
    worker.wait_until_empty();
}

fn a_turn_takes_no_longer_than_it_may<D: Driver>(mut worker: Worker<D, Caller>) {
    for at_most in [Duration::ZERO, Duration::from_millis(20)] {
        let began = Instant::now();
        worker.turn(Some(at_most)).expect("a driver of use");
        let took = began.elapsed();
        assert!((at_most..DEADLINE).contains(&took), "{took:?}");
    }
}
