//! What Linux does with operations, as scripts that are played on the simulated kernel and on the real one: both must say
//! the same. A simulation that nobody compares with Linux tests its author.

mod streams;

use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use super::super::event::Wait;
use super::super::queues::{Queues as _, Verb};
use super::super::token::Op;
use super::stage::{COMPLETIONS, FILES, MUCH, Manner, Play, Real, Rig, SMALL, SUBMISSIONS, Simulated};
use streams::{ends, receives, sends};

type Script<R> = (&'static str, fn(&mut Play<R>));

#[test]
fn the_simulated_kernel_does_what_the_real_one_does() {
    if let Err(obstacle) = super::super::check() {
        return println!("SKIPPED: the ring engine cannot run here: {obstacle}");
    }
    let scripts: Vec<_> = scripts::<Simulated>().into_iter().zip(scripts::<Real>()).collect();
    // Several at a time, for playing is mostly waiting.
    let differ: String = thread::scope(|scope| {
        let players: Vec<_> = scripts
            .chunks(scripts.len().div_ceil(PLAYERS))
            .map(|part| scope.spawn(|| part.iter().map(difference).collect::<String>()))
            .collect();
        players.into_iter().map(|player| player.join().expect("a script runs to its end")).collect()
    });
    assert!(differ.is_empty(), "{differ}");
    println!("{} scripts", scripts.len());
}

/// How many scripts are played at the same time.
const PLAYERS: usize = 8;

/// Plays a script on both kernels; returns what they say where that is not the same.
fn difference((simulated, real): &(Script<Simulated>, Script<Real>)) -> String {
    let (name, on_simulated) = *simulated;
    // Kernels differ in one thing, which the simulated one does either way.
    let said = [false, true]
        .map(|is_impatient| play(Simulated::new(is_impatient).expect("descriptors"), on_simulated));
    let really = play(Real::new().expect("a ring"), real.1);
    if said.contains(&really) {
        return String::new();
    }
    format!("{name}:\n    simulated {said:?}\n    real      {really:?}\n")
}

fn play<R: Rig>(rig: R, script: fn(&mut Play<R>)) -> Vec<String> {
    let mut play = Play::new(rig).expect("a table of files and groups of buffers");
    script(&mut play);
    play.finish()
}

fn scripts<R: Rig>() -> Vec<Script<R>> {
    let groups = [receives(), ends(), sends(), accepts(), closes(), cancels(), queues()];
    groups.into_iter().flatten().collect()
}

fn accepts<R: Rig>() -> Vec<Script<R>> {
    vec![
        ("an accept goes on, and takes the first free places", |play| {
            play.accept(1, true);
            for _ in 0..2 {
                let _client = play.rig.connect();
                play.wait(1);
            }
        }),
        ("a single accept takes one", |play| {
            let _clients = [play.rig.connect(), play.rig.connect()];
            play.accept(1, false);
            play.settle();
        }),
        ("into a full table the kernel accepts a connection and destroys it", |play| {
            for _ in 0..FILES {
                let _open = play.open();
            }
            let client = play.rig.connect();
            play.accept(1, true);
            play.settle();
            play.read(client);
        }),
        ("a single accept into a full table destroys as well", |play| {
            for _ in 0..FILES {
                let _open = play.open();
            }
            let client = play.rig.connect();
            play.accept(1, false);
            play.settle();
            play.read(client);
        }),
        ("an accept is cancelled", |play| {
            play.accept(1, true);
            play.settle();
            play.cancel(2, Op::Accept, 1);
            play.settle_sorted();
            let _client = play.rig.connect();
            play.settle();
        }),
        ("an accept of a listener that does not block waits all the same, or fails at once", |play| {
            play.rig.set_nonblocking(true);
            play.accept(1, false);
            play.settle();
            let _client = play.rig.connect();
            play.accept(2, false);
            play.settle();
        }),
        ("an accept behind a poll waits for a connection", |play| {
            play.rig.set_nonblocking(true);
            play.accept_when_ready(1);
            play.settle();
            let _clients = [play.rig.connect(), play.rig.connect()];
            play.wait(1);
            play.accept_when_ready(2);
            play.wait(1);
            play.accept_when_ready(3);
            play.settle();
        }),
        ("of a poll and the accept behind it one completion says that they are cancelled", |play| {
            play.rig.set_nonblocking(true);
            play.accept_when_ready(1);
            play.settle();
            play.cancel(2, Op::Accept, 1);
            play.settle_sorted();
            let _client = play.rig.connect();
            play.settle();
            play.accept_when_ready(3);
            play.wait(1);
        }),
        ("a poll and the accept behind it take the room of two", |play| {
            let before = play.rig.kernel().room();
            play.accept_when_ready(1);
            let after = play.rig.kernel().room();
            play.say(format!("{before} {after}"));
        }),
        ("a single accept gives the address of its peer", |play| {
            let _client = play.rig.connect();
            play.accept_with_peer(1);
            play.wait(1);
            play.say_peer();
        }),
        ("an accept that is cancelled at once takes what is queued", |play| {
            let _client = play.rig.connect();
            for number in 1..3 {
                play.accept(number, false);
                play.cancel(number, Op::Accept, number);
                play.settle_sorted();
            }
        }),
        ("whether a connection is queued can be seen", |play| {
            play.say_queued();
            let _client = play.rig.connect();
            play.say_queued();
        }),
    ]
}

fn closes<R: Rig>() -> Vec<Script<R>> {
    vec![
        ("a close ends the connection and frees the place", |play| {
            let (client, file) = play.open();
            play.close(1, file);
            play.wait(1);
            play.read(client);
            let (_client, again) = play.open();
            play.say(format!("the place is used again: {}", again == file));
        }),
        ("a place without a socket cannot be closed", |play| {
            play.close(1, 0);
            play.wait(1);
        }),
        ("a close over unread bytes resets", |play| {
            let (client, file) = play.open();
            play.rig.write(client, b"hello");
            play.close(1, file);
            play.settle();
            play.read(client);
        }),
        ("a close under a receive sends no end, and the socket lives on", |play| {
            let (client, file) = play.open();
            play.provide(0, 4);
            play.receive(1, file, true);
            play.settle();
            play.close(2, file);
            play.settle();
            play.read(client);
            play.rig.write(client, b"hello");
            play.settle();
            play.cancel(3, Op::ReceiveSmall, 1);
            play.settle_sorted();
            play.read(client);
        }),
        ("the place of a socket that lives on is used again", |play| {
            let (client, file) = play.open();
            play.provide(0, 4);
            play.receive(1, file, true);
            play.settle();
            play.close(2, file);
            play.wait(1);
            let (other, again) = play.open();
            play.say(format!("the place is used again: {}", again == file));
            play.receive(3, again, true);
            play.settle();
            play.rig.write(client, b"one");
            play.wait(1);
            play.rig.write(other, b"two");
            play.wait(1);
        }),
        ("a place without a socket cannot be shut", |play| {
            play.shut(1, 1, Shutdown::Both);
            play.settle();
        }),
        ("shut, then cancelled, then closed, a connection ends in order", |play| {
            let (client, file) = play.open();
            play.provide(0, 4);
            play.receive(1, file, true);
            play.settle();
            play.shut(2, file, Shutdown::Both);
            play.settle_sorted();
            play.close(3, file);
            play.settle();
            play.read(client);
        }),
    ]
}

fn cancels<R: Rig>() -> Vec<Script<R>> {
    vec![
        ("a cancelled receive has a last completion", |play| {
            let (client, file) = play.open();
            play.provide(0, 4);
            play.receive(1, file, true);
            play.settle();
            play.cancel(2, Op::ReceiveSmall, 1);
            play.settle_sorted();
            play.rig.write(client, b"hello");
            play.settle();
            play.receive(3, file, true);
            play.wait(1);
        }),
        ("there may be nothing to cancel", |play| {
            play.cancel(1, Op::ReceiveSmall, 1);
            play.wait(1);
        }),
        ("a receive that is over cannot be cancelled", |play| {
            let (client, file) = play.open();
            play.provide(0, 4);
            play.rig.write(client, b"hello");
            play.receive(1, file, false);
            play.cancel(2, Op::ReceiveSmall, 1);
            play.settle();
        }),
        ("all operations on a socket are cancelled by its place", |play| {
            let (_client, file) = play.open();
            play.provide(0, 4);
            play.receive(1, file, true);
            play.settle();
            play.push(Op::Cancel, 2, Verb::CancelFile { file });
            play.wait(2);
            play.drop_cancels();
        }),
        ("a cancelled send may have sent a part", |play| {
            let (_client, file) = play.open();
            play.send(1, file, MUCH, Manner::Waiting);
            play.settle();
            play.cancel(2, Op::Send, 1);
            play.settle_sorted();
        }),
    ]
}

fn queues<R: Rig>() -> Vec<Script<R>> {
    vec![
        ("a full queue takes nothing before it is submitted", |play| {
            for number in 0..SUBMISSIONS {
                play.cancel(number, Op::Send, 1);
            }
            let is_taken = play.try_push(Op::Close, 1, Verb::Close { file: 0 });
            play.say(format!("taken: {is_taken}"));
            play.enter(Wait::SubmitOnly);
            let is_taken = play.try_push(Op::Close, 1, Verb::Close { file: 0 });
            play.say(format!("taken: {is_taken}"));
        }),
        ("completions that overflow are kept, and come in order", |play| {
            for number in 0..2 * COMPLETIONS {
                if !play.try_push(Op::Close, number, Verb::Close { file: 0 }) {
                    play.enter(Wait::SubmitOnly);
                    play.push(Op::Close, number, Verb::Close { file: 0 });
                }
            }
            play.enter(Wait::SubmitOnly);
            let has_overflowed = play.rig.kernel().has_overflowed();
            play.say(format!("overflow: {has_overflowed}"));
            play.take();
            play.enter(Wait::No);
            play.take();
            let has_overflowed = play.rig.kernel().has_overflowed();
            play.say(format!("overflow: {has_overflowed}"));
        }),
        ("where the queue of completions is full, a receive ends with bytes", |play| {
            let (client, file) = play.open();
            play.provide(0, 4);
            for number in 0..COMPLETIONS {
                play.close(number, 3);
            }
            play.enter(Wait::SubmitOnly);
            play.rig.write(client, &[1; 2 * SMALL]);
            play.receive(1, file, true);
            play.enter(Wait::SubmitOnly);
            play.settle();
        }),
        ("an alarm comes after its time", |play| {
            play.push(Op::Alarm, 1, Verb::Alarm { after: Duration::from_millis(20) });
            play.enter(Wait::No);
            play.take();
            play.say("not yet");
            play.wait(1);
        }),
        ("the eventfd is heard whenever it is written to", |play| {
            let eventfd = play.eventfd();
            play.push(Op::Wake, 1, Verb::Watch { eventfd });
            play.settle();
            for _ in 0..2 {
                play.rig.wake();
                play.wait(1);
            }
        }),
        ("an eventfd that was written to before is heard", |play| {
            play.rig.wake();
            let eventfd = play.eventfd();
            play.push(Op::Wake, 1, Verb::Watch { eventfd });
            play.wait(1);
        }),
        ("a wait without anything to come ends in time", |play| {
            play.enter(Wait::AtMost(Duration::from_millis(5)));
            play.take();
            play.say("it has ended");
        }),
        ("what a client's kernel has is confirmed", |play| {
            let (_client, file) = play.open();
            play.send(1, file, 100, Manner::Telling);
            play.wait(1);
            play.rig.pause();
            play.push(Op::Unconfirmed, 2, Verb::AskUnconfirmed { file });
            play.wait(1);
        }),
    ]
}
