//! Scripts about what is received, how that ends, and what is sent.

use std::net::Shutdown;
use std::time::Duration;

use super::super::super::event::Wait;
use super::super::super::queues::{Queues as _, Verb};
use super::super::super::token::Op;
use super::super::stage::{BIG, MUCH, Manner, Play, Rig, SMALL};
use super::Script;

pub(super) fn receives<R: Rig>() -> Vec<Script<R>> {
    vec![
        ("a receive goes on", |play| {
            let (client, file) = play.open();
            play.provide(0, 4);
            play.receive(1, file, true);
            play.settle();
            for _ in 0..2 {
                play.rig.write(client, b"hello");
                play.wait(1);
            }
        }),
        ("a receive that goes on takes more than a buffer holds, in the order of the buffers", |play| {
            let (client, file) = play.open();
            play.provide(0, 4);
            play.rig.write(client, &[1; 2 * SMALL + 3]);
            play.receive(1, file, true);
            play.wait(3);
        }),
        ("a single receive is over with its first bytes", |play| {
            let (client, file) = play.open();
            play.provide(0, 4);
            play.rig.write(client, &[1; SMALL + 1]);
            play.receive(1, file, false);
            play.settle();
            play.receive(2, file, false);
            play.wait(1);
        }),
        ("buffers of the other group are larger", |play| {
            let (client, file) = play.open();
            play.provide(1, 2);
            play.rig.write(client, &[1; BIG + 1]);
            play.push(Op::ReceiveBig, 1, Verb::Receive { file, group: 1, is_multi: true });
            play.wait(2);
        }),
        ("without a buffer a receive fails at once, though nothing has come", |play| {
            let (_client, file) = play.open();
            play.receive(1, file, true);
            play.settle();
        }),
        ("when the buffers are used up the receive ends and nothing is lost", |play| {
            let (client, file) = play.open();
            play.provide(0, 2);
            play.rig.write(client, &[1; 3 * SMALL]);
            play.receive(1, file, true);
            play.wait(3);
            play.give(0, 1);
            play.receive(2, file, true);
            play.wait(1);
        }),
        ("the last buffer is used up, and the receive ends when more comes", |play| {
            let (client, file) = play.open();
            play.provide(0, 1);
            play.receive(1, file, true);
            play.rig.write(client, b"one");
            play.wait(1);
            play.settle();
            play.rig.write(client, b"two");
            play.settle();
        }),
        ("a buffer that is given back goes behind the others", |play| {
            let (client, file) = play.open();
            play.provide(0, 2);
            play.receive(1, file, true);
            for index in [0, 1, 0] {
                play.rig.write(client, b"a");
                play.wait(1);
                play.give(0, index);
            }
        }),
        ("what is there is received while it is submitted", |play| {
            let (client, file) = play.open();
            play.provide(0, 4);
            play.rig.write(client, b"hello");
            play.receive(1, file, true);
            play.enter(Wait::SubmitOnly);
            play.take();
        }),
        ("what comes later takes task work", |play| {
            let (client, file) = play.open();
            play.provide(0, 4);
            play.receive(1, file, true);
            play.enter(Wait::No);
            play.rig.write(client, b"hello");
            let is_due = play.rig.kernel().is_task_work_due();
            play.say(format!("task work is due: {is_due}"));
            play.enter(Wait::SubmitOnly);
            play.take();
            play.say("submitted");
            play.wait(1);
        }),
        ("a place without a socket cannot be received from", |play| {
            play.provide(0, 4);
            play.receive(1, 2, true);
            play.wait(1);
        }),
    ]
}

pub(super) fn ends<R: Rig>() -> Vec<Script<R>> {
    vec![
        ("a receive ends with the stream", |play| {
            let (client, file) = play.open();
            play.provide(0, 4);
            play.rig.write(client, b"hello");
            play.receive(1, file, true);
            play.wait(1);
            play.rig.half_close(client);
            play.enter(Wait::AtMost(Duration::from_secs(1)));
            say_without_buffer(play);
        }),
        ("after the end there is the end again", |play| {
            let (client, file) = play.open();
            play.provide(0, 4);
            play.rig.half_close(client);
            for number in 0..2 {
                play.receive(number, file, true);
                play.enter(Wait::AtMost(Duration::from_secs(1)));
                say_without_buffer(play);
            }
        }),
        ("a reset fails a receive", |play| {
            let (client, file) = play.open();
            play.provide(0, 4);
            play.receive(1, file, true);
            play.settle();
            play.rig.reset(client);
            play.wait(1);
        }),
        ("after a reset was told there is the end", |play| {
            let (client, file) = play.open();
            play.provide(0, 4);
            play.rig.reset(client);
            play.receive(1, file, true);
            play.wait(1);
            play.receive(2, file, true);
            play.enter(Wait::AtMost(Duration::from_secs(1)));
            say_without_buffer(play);
        }),
        ("shutting the read side ends a receive", |play| {
            let (_client, file) = play.open();
            play.provide(0, 4);
            play.receive(1, file, true);
            play.settle();
            play.shut(2, file, Shutdown::Read);
            play.settle_sorted();
        }),
        ("shutting the write side leaves the receive alone", |play| {
            let (client, file) = play.open();
            play.provide(0, 4);
            play.receive(1, file, true);
            play.shut(2, file, Shutdown::Write);
            play.wait(1);
            play.read(client);
            play.rig.write(client, b"hello");
            play.wait(1);
        }),
        ("a client that has ended its side can be sent to", |play| {
            let (client, file) = play.open();
            play.rig.half_close(client);
            play.send(1, file, 100, Manner::Telling);
            play.wait(1);
            play.read(client);
        }),
    ]
}

pub(super) fn sends<R: Rig>() -> Vec<Script<R>> {
    vec![
        ("a silent send says nothing", |play| {
            let (client, file) = play.open();
            play.send(1, file, 100, Manner::Silent);
            play.settle();
            play.read(client);
        }),
        ("a telling send says how much", |play| {
            let (client, file) = play.open();
            play.send(1, file, 100, Manner::Telling);
            play.enter(Wait::SubmitOnly);
            play.take();
            play.read(client);
        }),
        ("a silent send that falls short tells", |play| {
            let (_client, file) = play.open();
            play.send(1, file, MUCH, Manner::Silent);
            play.enter(Wait::SubmitOnly);
            play.take();
        }),
        ("a silent send to a full socket fails", |play| {
            let (_client, file) = play.open();
            play.fill(file);
            play.send(2, file, MUCH, Manner::Silent);
            play.settle();
            play.send(3, file, MUCH, Manner::Telling);
            play.settle();
        }),
        ("a send that waits is whole in the end", |play| {
            let (client, file) = play.open();
            play.send(1, file, MUCH, Manner::Waiting);
            play.settle();
            play.read_all(client);
        }),
        ("several pieces are sent as one", |play| {
            let (client, file) = play.open();
            play.send_pieces(1, file, 3, 100, Manner::Telling);
            play.wait(1);
            play.read(client);
            play.send_pieces(2, file, 16, 10, Manner::Silent);
            play.settle();
            play.read(client);
        }),
        ("several pieces fall short together", |play| {
            let (_client, file) = play.open();
            play.send_pieces(1, file, 4, MUCH / 4, Manner::Silent);
            play.settle();
        }),
        ("several pieces wait together", |play| {
            let (client, file) = play.open();
            play.send_pieces(1, file, 4, MUCH / 4, Manner::Waiting);
            play.settle();
            play.read_all(client);
        }),
        ("behind the end of the write side nothing is sent, and a silent send tells", |play| {
            let (_client, file) = play.open();
            play.shut(1, file, Shutdown::Write);
            play.wait(1);
            play.send(2, file, 10, Manner::Silent);
            play.settle();
            play.send(3, file, 10, Manner::Waiting);
            play.settle();
        }),
        ("to a client that is gone nothing is sent", |play| {
            let (client, file) = play.open();
            play.provide(0, 4);
            play.rig.reset(client);
            play.receive(1, file, true);
            play.wait(1);
            play.send(2, file, 10, Manner::Silent);
            play.settle();
        }),
        ("a shutdown ends a send that waits, which has sent a part", |play| {
            let (_client, file) = play.open();
            play.send(1, file, MUCH, Manner::Waiting);
            play.settle();
            play.shut(2, file, Shutdown::Both);
            play.settle_sorted();
        }),
        ("a place without a socket cannot be sent to, and a silent send tells", |play| {
            play.send(1, 3, 10, Manner::Silent);
            play.settle();
        }),
        ("completions of one submission come in its order", |play| {
            let (client, file) = play.open();
            play.provide(0, 4);
            play.rig.write(client, b"hello");
            play.send(1, file, 10, Manner::Telling);
            play.receive(2, file, false);
            play.send(3, file, 20, Manner::Telling);
            play.enter(Wait::SubmitOnly);
            play.take();
        }),
    ]
}

/// At the end of a stream there may be a buffer with nothing in it, or none.
fn say_without_buffer<R: Rig>(play: &mut Play<R>) {
    play.take();
    play.strip_buffer();
}
