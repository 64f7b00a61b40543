//! The driver of a ring under a worker, where the kernel fails for a moment.

use std::io::{Read as _, Write as _};

use super::*;
use crate::engine::worker::tests::{listener, on_a_ring};

#[test]
fn what_fails_for_a_moment_is_begun_again() {
    let Some(mut worker) = on_a_ring() else { return };
    let (listener, address) = listener();
    for errno in [Errno::INTR, Errno::AGAIN, Errno::NOMEM, Errno::NOBUFS] {
        let id = worker.call(address, b"");
        worker.connected(id).expect("it is made");
        let (mut peer, _) = listener.accept().expect("a connection");
        // A receive has failed: as if the kernel had said so of the one that is under way, which it then ends.
        worker.turn(Some(Duration::ZERO)).expect("a ring of use");
        worker.driver.ring.cancel_receive(id, Class::Small);
        let failed = RingEvent::Received { id, result: Err(errno.into()), is_last: true };
        assert!(worker.driver.event(failed, &mut worker.places).is_none());
        // So has a send.
        worker.say_in_vain(id, b"said", errno.into());
        peer.write_all(b"heard").expect("it is connected");
        worker.turn_until(|worker| worker.with(id, |caller, _| caller.heard == b"heard")?.then_some(()));
        let mut said = [0; 4];
        peer.set_read_timeout(Some(Duration::from_secs(20))).expect("a duration");
        worker.turn(Some(Duration::ZERO)).expect("a ring of use");
        peer.read_exact(&mut said).expect("it is sent");
        assert_eq!(&said, b"said", "{errno}");
        drop(peer);
        worker.wait_for_end(id);
        worker.end(id);
        worker.wait_until_empty();
    }
}
