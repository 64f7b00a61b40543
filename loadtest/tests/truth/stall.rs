//! A server that stalls for a moment. Who sends at times of their own sees every message that was due meanwhile; who waits
//! for each echo sees one.

use std::net::SocketAddr;
use std::sync::{Arc, Once, OnceLock, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Measured;
use crate::support::{Peer, serve};

/// Messages a second.
const RATE: u32 = 1000;

/// What no echo takes that is not held up.
const SLOW: Duration = Duration::from_millis(20);

#[test]
fn an_open_loop_sees_all_messages_that_are_due_in_a_stall() {
    let stall = Stall::serve();
    let rate = RATE.to_string();
    let args = ["-c", "20", "--rate", &rate, "--arrivals", "constant"];
    let measured = Measured::new("stall-open", stall.address, &[&args[..], &WINDOW].concat());
    let took = stall.took();

    // The k-th message of the stall waits for what is left of it: all but the last 20 ms of them are slow. Others may be
    // slow on a busy machine, too.
    let due = (took - SLOW).as_secs_f64() * f64::from(RATE);
    let slow = measured.count_from(SLOW) as f64;
    assert!(
        (0.9 * due..3.0 * due).contains(&slow),
        "{slow} slow of {due} that were due: {}",
        measured.ran.stdout
    );
    // The 3 longest of 3,000 are those that were due first.
    for name in ["p999", "max"] {
        assert!(measured.latency(name) >= took.mul_f64(0.95), "{name} of {took:?}: {}", measured.ran.stdout);
    }
    assert!(measured.latency("p50") < SLOW, "{}", measured.ran.stdout);
    // Of all that were due in the 3 s none is left out, and by how much the generator itself was late is told.
    let all = measured.latencies.len();
    assert!((2_990..=3_010).contains(&all), "{all}: {}", measured.ran.stdout);
    let json = measured.ran.json();
    assert!(json["lateness_us"]["p50"].as_f64().is_some_and(|us| us >= 0.0), "{json}");
}

#[test]
fn a_closed_loop_sees_the_one_message_in_flight() {
    let stall = Stall::serve();
    let args = ["-c", "1", "--depth", "1"];
    let measured = Measured::new("stall-closed", stall.address, &[&args[..], &WINDOW].concat());
    let took = stall.took();
    // It may have become due a moment after the stall began: when the echo before it was read.
    assert!(measured.latency("max") >= took.mul_f64(0.75), "{took:?}: {}", measured.ran.stdout);
    // A busy machine holds up a few by itself; in an open loop there are a hundred.
    let slow = measured.count_from(took / 2);
    assert!((1..=10).contains(&slow), "{slow}: {}", measured.ran.stdout);
    assert_eq!(measured.ran.json()["lateness_us"], Value::Null);
}

/// How long messages are counted, with the stall in the middle.
const WINDOW: [&str; 2] = ["--duration", "3s"];

/// A server that stalls once, on all connections.
struct Stall {
    address: SocketAddr,
    took: Arc<OnceLock<Duration>>,
}

impl Stall {
    /// When it begins, from the first message.
    const BEGIN: Duration = Duration::from_millis(1500);
    const LENGTH: Duration = Duration::from_millis(200);

    fn serve() -> Self {
        let took = Arc::<OnceLock<_>>::default();
        // Every echo goes through it.
        let door = Arc::<RwLock<()>>::default();
        let is_told = Arc::clone(&took);
        let first = Once::new();
        let address = serve(move |stream| {
            let mut peer = Peer::accept(stream).expect("a handshake");
            // Ends with the connection, which is not to be judged here.
            let _ = peer.echo(|_, _, _| {
                first.call_once(|| Self::begin(Arc::clone(&door), Arc::clone(&is_told)));
                drop(door.read());
                None
            });
        });
        Self { address, took }
    }

    fn begin(door: Arc<RwLock<()>>, took: Arc<OnceLock<Duration>>) {
        thread::spawn(move || {
            thread::sleep(Self::BEGIN);
            let closed = door.write().expect("no reader panics");
            let began = Instant::now();
            thread::sleep(Self::LENGTH);
            took.set(began.elapsed()).expect("there is one stall");
            drop(closed);
        });
    }

    /// How long it was, at least: no sleep ends early.
    fn took(&self) -> Duration {
        *self.took.get().expect("it is over before the run is")
    }
}
