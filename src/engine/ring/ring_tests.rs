//! A ring and one connection of it, without a server.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::thread;
use std::time::Instant;

use bytes::BytesMut;
use rustix::fd::AsFd as _;
use rustix::io::Errno;

use super::super::event::AcceptKind;
use super::super::probe::next_event;
use super::*;
use crate::memory::{Budget, Charged, HEADROOM, Total};

/// More than the buffers of both sockets take.
const BULK: usize = 32 << 20;

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

const ID: Id = Id { slot: 7, generation: 3 };

impl<Q: Queues> Ring<Q> {
    /// Whether nothing is under way, and no buffer out.
    ///
    /// # Errors
    ///
    /// What is.
    pub(in crate::engine::ring) fn check_end(&self) -> Result<(), String> {
        let buffers = [&self.small, &self.big].map(Group::lent);
        match (self.sends.len(), self.connects.len(), buffers) {
            (0, 0, [0, 0]) => Ok(()),
            left => Err(format!("sends, connects and small and big buffers are out: {left:?}")),
        }
    }

    /// How many buffers of each class the kernel has.
    pub(in crate::engine::ring) fn given(&self) -> [usize; 2] {
        [&self.small, &self.big].map(Group::given)
    }

    pub(in crate::engine::ring) const fn queues(&self) -> &Q {
        &self.queues
    }
}

/// A connection of a ring.
struct Pair {
    ring: Ring,
    descriptor: Descriptor,
    peer: TcpStream,
    stats: Arc<EngineCounters>,
    budget: Rc<Budget>,
}

impl Pair {
    /// On a ring of these queues; `None` where there can be none.
    fn new(submissions: u32, completions: u32) -> Option<Self> {
        let sizes = Sizes { submissions, completions, small_count: 64, ..Sizes::new(64 << 10, 16) };
        let stats = Arc::<EngineCounters>::default();
        let mut ring =
            match Uring::set_up(&sizes).and_then(|queues| Ring::over(queues, &sizes, Arc::clone(&stats))) {
                Ok(ring) => ring,
                Err(error) => {
                    println!("SKIPPED: the ring engine cannot run here: {error}");
                    return None;
                }
            };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let peer = TcpStream::connect(listener.local_addr().expect("an address")).expect("it listens");
        peer.set_read_timeout(Some(DEADLINE)).expect("a duration");
        peer.set_write_timeout(Some(DEADLINE)).expect("a duration");
        ring.accept(0, listener.as_fd(), AcceptKind::One);
        let budget = Budget::new(Total::new(usize::MAX));
        let RingEvent::Accepted { listener: 0, result: Ok(descriptor), is_last: true, .. } = next(&mut ring)
        else {
            panic!("one connection is accepted");
        };
        Some(Self { ring, descriptor, peer, stats, budget })
    }

    fn send(&mut self, bytes: &[u8], manner: Manner) {
        let charge = self.budget.charge(0);
        let bytes = BytesMut::from(bytes);
        let first = Outgoing::heap(Box::new(Charged { bytes, charge })).expect("something");
        self.ring.send(ID, self.descriptor, Pieces::one(first), manner);
    }

    fn receive(&mut self) {
        self.ring.receive(ID, self.descriptor, Class::Small, false);
    }

    /// Bytes that were received; nothing at an error. And whether the operation has ended.
    fn next_received(&mut self) -> (io::Result<Vec<u8>>, bool) {
        match next(&mut self.ring) {
            RingEvent::Received { id: ID, result, is_last } => {
                let bytes = result.map(|received| {
                    received.map_or_else(Vec::new, |(buffer, len)| buffer.bytes()[HEADROOM..][..len].to_vec())
                });
                (bytes, is_last)
            }
            other => panic!("{other:?} is no receive"),
        }
    }

    fn next_sent(&mut self) -> io::Result<usize> {
        match next(&mut self.ring) {
            RingEvent::Sent { id: ID, result, .. } => result,
            other => panic!("{other:?} is no send"),
        }
    }
}

/// The next event, waited for.
fn next(ring: &mut Ring) -> RingEvent {
    next_event(ring, Instant::now() + DEADLINE).expect("a ring of use")
}

fn pattern(size: usize) -> Vec<u8> {
    let mut pattern = (0..251).collect::<Vec<u8>>().repeat(size.div_ceil(251));
    pattern.truncate(size);
    pattern
}

#[test]
fn a_silent_send_is_over_with_its_enter() {
    let Some(mut pair) = Pair::new(16, 64) else { return };
    pair.send(b"all at once", Manner::AtOnce { tells: false });
    assert!(
        pair.ring.next_event().expect("a ring of use").is_none(),
        "before it is submitted nothing is known"
    );
    let enters = pair.stats.enters.count();
    assert_eq!(pair.next_sent().expect("it is sent"), 11);
    assert_eq!(pair.stats.enters.count(), enters + 1, "no completion is waited for");
    let mut got = [0; 11];
    pair.peer.read_exact(&mut got).expect("it has come");
    assert_eq!(&got, b"all at once");
}

#[test]
fn a_silent_send_that_falls_short_says_how_far_it_came() {
    let Some(mut pair) = Pair::new(16, 64) else { return };
    let bytes = pattern(BULK);
    pair.send(&bytes, Manner::AtOnce { tells: false });
    let sent = pair.next_sent().expect("a part is sent");
    assert!((1..BULK).contains(&sent), "{sent} bytes are sent to a peer that does not read");
    // The rest waits for the peer.
    pair.send(&bytes[sent..], Manner::Waiting);
    let reading = thread::spawn({
        let mut peer = pair.peer.try_clone().expect("a second handle");
        move || {
            let mut got = vec![0; BULK];
            peer.read_exact(&mut got).expect("all of it comes");
            got
        }
    });
    assert_eq!(pair.next_sent().expect("the rest is sent"), BULK - sent);
    assert!(reading.join().expect("no panic") == bytes, "the bytes come in their order");
}

#[test]
fn a_waiting_send_that_is_cancelled_says_how_far_it_came() {
    let Some(mut pair) = Pair::new(16, 64) else { return };
    let bytes = pattern(BULK);
    let mut sent = 0;
    // The second one has no room for a byte.
    for _ in 0..2 {
        pair.send(&bytes[sent..], Manner::Waiting);
        pair.ring.enter(Wait::No).expect("a ring of use");
        thread::sleep(Duration::from_millis(100));
        pair.ring.cancel_send(ID);
        match pair.next_sent() {
            Ok(more) => sent += more,
            Err(error) => assert_eq!(Errno::from_io_error(&error), Some(Errno::CANCELED)),
        }
        assert!((1..BULK).contains(&sent), "{sent} bytes are sent to a peer that does not read");
    }
    pair.ring.shut_down(ID, pair.descriptor, std::net::Shutdown::Write);
    pair.ring.enter(Wait::No).expect("a ring of use");
    let mut got = Vec::new();
    pair.peer.read_to_end(&mut got).expect("it ends");
    assert!(got == bytes[..sent], "{} bytes came, and {sent} were said to be sent", got.len());
    // A cancel that comes too late is nobody's.
    pair.ring.cancel_send(ID);
    assert!(matches!(next(&mut pair.ring), RingEvent::ShutDown { id: ID }));
}

#[test]
#[cfg(debug_assertions)]
fn a_second_send_on_a_socket_is_caught() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let Some(mut pair) = Pair::new(16, 64) else { return };
    pair.send(b"one", Manner::Waiting);
    let second = catch_unwind(AssertUnwindSafe(|| pair.send(b"another", Manner::Waiting)));
    assert!(second.is_err(), "their bytes would mingle");
    assert_eq!(pair.next_sent().expect("the first is sent"), 3);
    pair.send(b"another", Manner::Waiting);
    assert_eq!(pair.next_sent().expect("its turn has come"), 7);
}

/// Where the queue of completions is full, the operation ends by a completion that has brought bytes.
#[test]
fn a_receive_that_ends_with_bytes_is_begun_again_and_nothing_is_lost() {
    let Some(mut pair) = Pair::new(4, 4) else { return };
    let bytes = pattern(1 << 20);
    let sending = thread::spawn({
        let (mut peer, bytes) = (pair.peer.try_clone().expect("a second handle"), bytes.clone());
        move || peer.write_all(&bytes).expect("it is received")
    });
    let (mut got, mut ended_with_bytes) = (Vec::new(), 0);
    pair.receive();
    while got.len() < bytes.len() {
        let (received, is_last) = pair.next_received();
        match received {
            Ok(received) => {
                ended_with_bytes += u32::from(is_last && !received.is_empty());
                got.extend(received);
            }
            Err(error) => assert_eq!(Errno::from_io_error(&error), Some(Errno::NOBUFS)),
        }
        if is_last {
            pair.receive();
        }
    }
    sending.join().expect("no panic");
    assert!(got == bytes, "the bytes come in their order");
    assert!(ended_with_bytes > 0, "4 completions were enough");
}

#[test]
fn a_cancelled_receive_has_a_last_event() {
    let Some(mut pair) = Pair::new(16, 64) else { return };
    pair.receive();
    pair.peer.write_all(b"before").expect("it is connected");
    let (received, is_last) = pair.next_received();
    assert_eq!((received.expect("bytes"), is_last), (b"before".to_vec(), false));
    pair.ring.cancel_receive(ID, Class::Small);
    let (received, is_last) = pair.next_received();
    assert_eq!(received.map_err(|error| Errno::from_io_error(&error)), Err(Some(Errno::CANCELED)));
    assert!(is_last);
    // What comes then is still there for the next one.
    pair.peer.write_all(b"after").expect("it is connected");
    pair.receive();
    assert_eq!(pair.next_received().0.expect("bytes"), b"after");
}

/// The memory of a send outlives the ring, if the kernel is not done with it.
/// The smallest queue that one can ask for would not hold both.
#[test]
fn an_accept_behind_a_poll_finds_room_in_the_smallest_queue() {
    let Some(mut pair) = Pair::new(1, 1) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    pair.ring.accept_when_ready(0, listener.as_fd(), AcceptKind::One);
    let _peer = TcpStream::connect(listener.local_addr().expect("an address")).expect("it listens");
    let event = next(&mut pair.ring);
    assert!(matches!(event, RingEvent::Accepted { listener: 0, result: Ok(_), .. }), "{event:?}");
}

#[test]
fn a_ring_is_dropped_with_operations_under_way() {
    for is_submitted in [true, false] {
        let Some(mut pair) = Pair::new(16, 64) else { return };
        let bytes = pattern(BULK);
        pair.receive();
        pair.send(&bytes, Manner::Waiting);
        if is_submitted {
            pair.ring.enter(Wait::No).expect("a ring of use");
        }
        drop(pair.ring);
        // Whoever gets the memory next writes to it.
        let others: Vec<_> = (0..4).map(|_| vec![0xDB_u8; BULK]).collect();
        let mut got = Vec::new();
        if let Err(error) = pair.peer.read_to_end(&mut got) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        }
        assert_eq!(!got.is_empty(), is_submitted);
        assert!(got.len() < bytes.len(), "all of it was sent");
        assert!(bytes.starts_with(&got), "what was sent is what was to be sent");
        drop(others);
    }
}
