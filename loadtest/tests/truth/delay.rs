//! Servers that are late by known times.

use std::io::Write as _;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use ringback::proto::frame::OpCode;

use crate::support::serve;
use crate::support::{Peer, frame};
use crate::{Measured, assert_is};

const MS: Duration = Duration::from_millis(1);

#[test]
fn latency_is_the_delay_of_the_server() {
    for delay in [5 * MS, 20 * MS] {
        let server = serve_late(move |_| delay);
        let loads: [(&str, &[&str]); 3] = [
            ("alone", &["-c", "4", "--depth", "1"]),
            // Each message is late by the delay: delays do not add up while several are in flight.
            ("deep", &["-c", "4", "--depth", "8"]),
            ("open", &["-c", "4", "--rate", "400"]),
        ];
        for (name, load) in loads {
            let file = format!("delay-{name}-{}", delay.as_millis());
            let measured = Measured::new(&file, server, &[load, &["--duration", "1s"]].concat());
            for (what, told) in [("p50", measured.latency("p50")), ("min", measured.min())] {
                assert_is(&format!("{name}: {what}"), told, delay, 20 * MS);
            }
            assert!(measured.latency("p9999") >= measured.latency("p50"), "{}", measured.ran.stdout);
        }
    }
}

#[test]
fn each_quantile_is_that_of_the_delays() {
    /// Of 50 messages 40 are late by the first, 9 by the second, 1 by the third.
    const DELAYS: [Duration; 3] =
        [Duration::from_millis(10), Duration::from_millis(40), Duration::from_millis(160)];
    let server = serve_late(|count| match count % 50 {
        49 => DELAYS[2],
        count if count % 5 == 4 => DELAYS[1],
        _ => DELAYS[0],
    });
    let args = ["-c", "8", "--depth", "1", "--duration", "3s"];
    let measured = Measured::new("delay-quantiles", server, &args);
    assert_is("min", measured.min(), DELAYS[0], 20 * MS);
    for (name, delay) in ["p50", "p90", "p99"].into_iter().zip(DELAYS) {
        // Short of the next one.
        assert_is(name, measured.latency(name), delay, 2 * delay);
    }
    assert!(measured.latency("max") >= DELAYS[2], "{}", measured.ran.stdout);
}

/// Echoes each message so long after it came as `delay` says to the number of those before it on its connection, in their
/// order. Messages that come together wait together.
fn serve_late(delay: impl Fn(usize) -> Duration + Send + Sync + 'static) -> SocketAddr {
    serve(move |stream| {
        let mut peer = Peer::accept(stream.try_clone().expect("a descriptor")).expect("a handshake");
        let (waiting, due) = mpsc::channel();
        thread::spawn(move || write_when_due(stream, &due));
        let mut count = 0;
        while let Ok((opcode, payload)) = peer.frame() {
            let at = Instant::now() + delay(count);
            // It ends before this only with the connection.
            if waiting.send((at, frame(true, opcode, &payload))).is_err() || opcode == OpCode::Close {
                break;
            }
            count += 1;
        }
    })
}

fn write_when_due(mut stream: TcpStream, due: &Receiver<(Instant, Vec<u8>)>) {
    for (at, bytes) in due {
        thread::sleep(at.saturating_duration_since(Instant::now()));
        if stream.write_all(&bytes).is_err() {
            break;
        }
    }
    // The client may have gone before.
    let _ = stream.shutdown(Shutdown::Both);
}
