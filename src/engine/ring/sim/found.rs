//! What the simulation has found, each as runs of its own: a seed means something else as soon as anything changes.

use std::iter;
use std::time::Duration;

use fastrand::Rng;

use super::super::Sizes;
use super::client::{Act, Client, Conduct};
use super::plan::{REQUEST, Setting};
use super::runs::Run;
use crate::engine::Phase;
use crate::memory::HEADROOM;
use crate::proto::frame::OpCode;

/// In how many orders things happen.
const ORDERS: u64 = 100;

fn assert_holds(setting: &Setting, clients: impl Fn(&mut Rng) -> Vec<Client>) {
    for seed in 0..ORDERS {
        let mut rng = Rng::with_seed(seed);
        let clients = clients(&mut rng);
        let run = Run::of(setting, clients, rng, None).and_then(Run::finish);
        run.unwrap_or_else(|what| panic!("order {seed}: {what}"));
    }
}

fn client(listener: usize, deaf_until: Duration, plan: impl IntoIterator<Item = Act>) -> Client {
    let is_polite = deaf_until.is_zero();
    let conduct =
        Conduct { reads_at_once: 4096, rests: Duration::ZERO, deaf_until, answers: true, is_polite };
    let request = Act::Raw(REQUEST.as_bytes().to_vec());
    let plan = [request].into_iter().chain(plan).collect();
    Client::new(listener, Duration::ZERO, conduct, plan)
}

/// An operation that accepts any number may take all that is queued and all that comes meanwhile, while the shared
/// listeners accept one each: the kernel destroyed those that found no place.
#[test]
fn accepts_of_several_listeners_have_a_place_for_each_connection() {
    for files in 1..12 {
        let listeners = vec![(2, false), (1, true), (1, true), (1, true)];
        let setting = Setting { listeners, ..Setting::plain(files) };
        assert_holds(&setting, |_| {
            let listeners = [0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3];
            listeners.map(|at| client(at, Duration::ZERO, [Act::Close(1000), Act::AwaitEnd])).into()
        });
    }
}

/// The kernel may take only some of the submissions. Behind a silent send that it took late there was more to send, and
/// the worker slept until something else woke it.
#[test]
fn a_silent_send_that_is_submitted_late_is_not_slept_on() {
    let mut setting = Setting::plain(12);
    setting.odds.partial_submit = 500;
    setting.config.whole_frame_max = 0;
    setting.sizes = Sizes { submissions: 2, completions: 64, big_size: HEADROOM + 700, ..setting.sizes };
    let message = Act::Frame { opcode: OpCode::Binary, fin: true, payload: vec![7; 3000] };
    let rounds = iter::repeat_n([message, Act::AwaitEcho], 20).flatten();
    let plan: Vec<Act> = rounds.chain([Act::Close(1000), Act::AwaitEnd]).collect();
    assert_holds(&setting, |_| vec![client(0, Duration::ZERO, plan.clone())]);
}

/// The kernel may have no memory for what is submitted, and some a moment later. What had found no room in the queue
/// meanwhile, a receive or an accept behind a poll, was not begun until something else woke the worker.
#[test]
fn what_finds_no_room_in_the_queue_is_not_slept_on() {
    let mut setting = Setting { listeners: vec![(3, true)], ..Setting::plain(40) };
    setting.odds.partial_submit = 500;
    setting.odds.is_impatient = true;
    setting.odds.is_nonblocking = true;
    setting.sizes = Sizes { submissions: 2, completions: 64, ..setting.sizes };
    let message = Act::Frame { opcode: OpCode::Binary, fin: true, payload: vec![7; 10] };
    assert_holds(&setting, |rng| {
        (0..12)
            .map(|_| {
                let plan = [message.clone(), Act::AwaitEcho, Act::Close(1000), Act::AwaitEnd];
                client(0, Duration::ZERO, plan).beginning(Duration::from_micros(rng.u64(0..20_000)))
            })
            .collect()
    });
}

/// A connection that was queued and got a place only when the others were cut was told that the server drains, at
/// leisure; the worker gave up waiting for it and left it behind.
#[test]
fn a_connection_that_is_accepted_while_the_server_stops_is_cut() {
    let timetable = [(1, Phase::Draining), (500, Phase::Stopping)];
    let timetable = timetable.map(|(millis, phase)| (Duration::from_millis(millis), phase)).into();
    let setting = Setting { timetable, ..Setting::plain(1) };
    assert_holds(&setting, |_| (0..3).map(|_| client(0, Duration::MAX, [Act::AwaitEnd])).collect());
}

/// Another worker may take the last connection from the queue of a shared listener just before this one accepts. The
/// accept then waited, even of a listener that does not block, and the drain with it.
#[test]
fn a_drain_does_not_wait_for_a_connection_that_another_worker_took() {
    let timetable = [(2, Phase::Draining), (5000, Phase::Stopping)];
    let timetable = timetable.map(|(millis, phase)| (Duration::from_millis(millis), phase)).into();
    let mut setting = Setting { timetable, listeners: vec![(3, true)], ..Setting::plain(4) };
    setting.odds.theft = 500;
    assert_holds(&setting, |rng| {
        (0..8)
            .map(|_| {
                let begins = Duration::from_micros(rng.u64(1500..2200));
                client(0, Duration::ZERO, [Act::AwaitEnd]).beginning(begins)
            })
            .collect()
    });
}

/// A send that waits goes on when a third of the socket's buffer is free. A peer that reads slowly may take longer for that
/// than it is given; where the kernel cannot tell what it has confirmed, it was cut.
#[test]
fn a_peer_that_reads_slowly_gets_everything_from_a_kernel_that_cannot_tell() {
    let timetable = [(300, Phase::Draining), (400, Phase::Stopping)];
    let timetable = timetable.map(|(secs, phase)| (Duration::from_secs(secs), phase)).into();
    let mut setting = Setting { timetable, ..Setting::plain(12) };
    setting.odds.is_old = true;
    setting.config.keep_alive.interval = Duration::ZERO;
    let message = Act::Frame { opcode: OpCode::Binary, fin: true, payload: vec![7; 12_000] };
    assert_holds(&setting, |_| {
        let slow = client(0, Duration::ZERO, [message.clone(), Act::Close(1000), Act::AwaitEnd]);
        vec![slow.reading(40, Duration::from_millis(200))]
    });
}
