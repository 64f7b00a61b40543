//! What a seed makes: a server's configuration, a kernel's temper and the plans of clients.

use std::collections::VecDeque;
use std::time::Duration;

use fastrand::Rng;

use super::super::Sizes;
use super::client::{Act, Client, Conduct};
use super::world::Odds;
use crate::config::{AccessConfig, Config, KeepAliveConfig};
use crate::engine::Phase;
use crate::memory::HEADROOM;
use crate::proto::frame::OpCode;

/// A request that is accepted.
pub(super) const REQUEST: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// What one run is made of.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) config: Config,
    pub(super) sizes: Sizes,
    pub(super) odds: Odds,
    pub(super) connections_max: usize,
    pub(super) clients: usize,
    /// How long the queue of each listener is, and whether it is shared.
    pub(super) listeners: Vec<(usize, bool)>,
    pub(super) timetable: Vec<(Duration, Phase)>,
    /// The longest messages are so long.
    pub(super) message_max: usize,
    pub(super) messages_max: usize,
}

impl Setting {
    pub(super) fn choose(rng: &mut Rng) -> Self {
        let submissions = one_of(rng, &[2, 4, 8, 32, 256]);
        let completions = submissions * one_of(rng, &[1, 2, 4, 16]);
        let big = one_of(rng, &[256, 700, 4096]);
        let config = Config {
            receive_buffer_size: big,
            whole_frame_max: one_of(rng, &[0, 100, 1000, 64 << 10]),
            unsent_limit: one_of(rng, &[100, 2000, 20_000, 16 << 20, 16 << 20, 16 << 20]),
            unsent_total: one_of(rng, &[10_000, 256 << 20, 256 << 20]),
            keep_alive: keep_alive(rng),
            flush_timeout: Duration::from_secs(one_of(rng, &[2, 10])),
            // So many that nobody is refused: but the accepts ask for addresses.
            access: AccessConfig {
                max_connections_per_ip: one_of(rng, &[0, 0, 0, 100]),
                ..AccessConfig::default()
            },
            ..Config::default()
        };
        let sizes = Sizes {
            submissions,
            completions,
            small_count: one_of(rng, &[4, 8, 32]),
            small_size: HEADROOM + one_of(rng, &[40, 128, 256]).min(big),
            big_count: one_of(rng, &[4, 8, 16]),
            big_size: HEADROOM + big,
            files: one_of(rng, &[2, 4, 12, 40]),
            busy_poll: one_of(rng, &[Duration::ZERO, Duration::ZERO, Duration::from_micros(50)]),
            ..Sizes::new(big, 1)
        };
        let drains = one_of(rng, &[20_000, 400_000, 40_000_000]);
        let drains = Duration::from_micros(rng.u64(100..=drains));
        let stops = drains + Duration::from_millis(rng.u64(500..20_000));
        Self {
            connections_max: if rng.bool() { 1000 } else { sizes.files as usize },
            odds: odds(rng),
            clients: one_of(rng, &[1, 1, 1, 2, 3, 5, 8, 12]),
            listeners: (0..rng.usize(1..=2)).map(|_| (rng.usize(1..4), rng.u8(0..4) == 0)).collect(),
            timetable: vec![(drains, Phase::Draining), (stops, Phase::Stopping)],
            message_max: one_of(rng, &[50, 300, 3000, 20_000]),
            messages_max: one_of(rng, &[2, 6, 20]),
            config,
            sizes,
        }
    }

    /// Nothing odd, and places for so many connections.
    pub(super) fn plain(files: u32) -> Self {
        Self {
            config: Config::default(),
            sizes: Sizes {
                small_count: 8,
                small_size: HEADROOM + 256,
                big_count: 4,
                files,
                ..Sizes::new(4096, 1)
            },
            odds: Odds::default(),
            connections_max: 1000,
            clients: 0,
            listeners: vec![(2, false)],
            timetable: vec![
                (Duration::from_secs(5), Phase::Draining),
                (Duration::from_secs(15), Phase::Stopping),
            ],
            message_max: 0,
            messages_max: 0,
        }
    }

    pub(super) fn client(&self, rng: &mut Rng) -> Client {
        let is_polite = rng.u8(0..4) > 0;
        let is_slow = !is_polite && rng.bool();
        let conduct = Conduct {
            reads_at_once: if is_slow { rng.usize(1..300) } else { one_of(rng, &[64, 1000, 1 << 20]) },
            rests: if is_slow { Duration::from_millis(rng.u64(0..400)) } else { Duration::ZERO },
            deaf_until: match rng.u8(0..6) {
                0 if is_slow => Duration::from_secs(rng.u64(1..60)),
                1 if is_slow => Duration::MAX,
                _ => Duration::ZERO,
            },
            answers: is_polite || rng.bool(),
            is_polite,
        };
        let begins = Duration::from_micros(if rng.bool() { 0 } else { rng.u64(0..300_000) });
        let listener = rng.usize(0..self.listeners.len());
        Client::new(listener, begins, conduct, self.plan(rng, is_polite)).given(self.patience())
    }

    /// How long a client may take nothing, where that is bounded: it is pinged, its last bytes are waited for, and more.
    fn patience(&self) -> Option<Duration> {
        let KeepAliveConfig { interval, timeout, .. } = self.config.keep_alive;
        let once = interval + timeout + self.config.flush_timeout;
        (!interval.is_zero()).then_some(2 * once + Duration::from_secs(2))
    }

    fn plan(&self, rng: &mut Rng, is_polite: bool) -> VecDeque<Act> {
        let mut plan = VecDeque::new();
        let request = REQUEST.as_bytes();
        if rng.bool() {
            plan.push_back(Act::Raw(request.to_vec()));
        } else {
            let (front, back) = request.split_at(rng.usize(1..request.len() - 4));
            plan.extend([Act::Raw(front.to_vec()), pause(rng, is_polite), Act::Raw(back.to_vec())]);
        }
        let awaits_each = rng.u8(0..4) == 0;
        for _ in 0..rng.usize(0..=self.messages_max) {
            self.message(rng, &mut plan);
            if awaits_each {
                plan.push_back(Act::AwaitEcho);
            }
            match rng.u8(0..8) {
                0 => plan.push_back(Act::AwaitEcho),
                1 => plan.push_back(pause(rng, is_polite)),
                2 => plan.push_back(Act::Frame { opcode: OpCode::Ping, fin: true, payload: bytes(rng, 125) }),
                3 => plan.push_back(Act::Frame { opcode: OpCode::Pong, fin: true, payload: bytes(rng, 20) }),
                _ => {}
            }
        }
        match rng.u8(0..8) {
            0 | 1 => plan.extend([Act::Close(1000), Act::AwaitEnd]),
            2 => plan.extend([Act::AwaitEcho, Act::Close(3000), Act::AwaitEnd]),
            3 => plan.extend([Act::HalfClose, Act::AwaitEnd]),
            4 => plan.extend([breach(rng), Act::AwaitEnd]),
            5 if !is_polite => plan.push_back(Act::Reset),
            6 if !is_polite => {
                plan.truncate(rng.usize(0..plan.len()));
                plan.push_back(Act::Reset);
            }
            _ => plan.push_back(Act::AwaitEnd),
        }
        plan
    }

    /// A message, in one frame or more.
    fn message(&self, rng: &mut Rng, plan: &mut VecDeque<Act>) {
        let is_text = rng.bool();
        let mut payload = bytes(rng, self.message_max);
        if is_text {
            payload = text(rng, payload.len());
        }
        let mut opcode = if is_text { OpCode::Text } else { OpCode::Binary };
        while rng.u8(0..4) == 0 {
            let behind = payload.split_off(rng.usize(0..=payload.len()));
            plan.push_back(Act::Frame { opcode, fin: false, payload });
            (payload, opcode) = (behind, OpCode::Continuation);
            if rng.u8(0..4) == 0 {
                plan.push_back(Act::Frame { opcode: OpCode::Ping, fin: true, payload: bytes(rng, 30) });
            }
        }
        plan.push_back(Act::Frame { opcode, fin: true, payload });
    }
}

fn one_of<T: Copy>(rng: &mut Rng, all: &[T]) -> T {
    all[rng.usize(0..all.len())]
}

fn keep_alive(rng: &mut Rng) -> KeepAliveConfig {
    let [interval, timeout, idle] = match rng.u8(0..4) {
        0 => [2, 2, 0],
        1 => [3, 1, 5],
        2 => [0, 0, 4],
        _ => [25, 20, 0],
    }
    .map(Duration::from_secs);
    KeepAliveConfig { interval, timeout, idle }
}

/// Each run has some oddities often, some seldom and some not at all.
fn odds(rng: &mut Rng) -> Odds {
    let mut odd = || one_of(rng, &[0, 0, 30, 300]);
    Odds {
        short_receive: odd(),
        short_send: odd(),
        postponed: odd(),
        multishot_ends: odd(),
        partial_submit: odd(),
        interrupted: odd() / 4,
        accept_fails: odd() / 2,
        theft: odd() / 8,
        deferred: odd(),
        shutdown_delay: one_of(rng, &[0, 100, 100_000]),
        is_old: rng.u8(0..4) == 0,
        is_impatient: rng.bool(),
        is_nonblocking: rng.bool(),
    }
}

/// Shorter than any timeout, if it has to be.
fn pause(rng: &mut Rng, is_short: bool) -> Act {
    let micros_max = if is_short { 700_000 } else { one_of(rng, &[1000, 300_000, 8_000_000]) };
    Act::Pause(Duration::from_micros(rng.u64(0..micros_max)))
}

fn bytes(rng: &mut Rng, max: usize) -> Vec<u8> {
    let len = match rng.u8(0..8) {
        0 => 0,
        1 => rng.usize(0..=max),
        2 => max,
        3 => 125 + rng.usize(0..3),
        _ => rng.usize(0..=max.min(80)),
    };
    (0..len.min(max)).map(|_| rng.u8(..)).collect()
}

/// Valid text that may be cut at any of its bytes.
fn text(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut text = String::new();
    while text.len() + 4 <= len {
        text.push(one_of(rng, &['a', 'z', ' ', 'ß', '€', '😀']));
    }
    while text.len() < len {
        text.push('.');
    }
    text.into_bytes()
}

/// Something that RFC 6455 forbids, and the code that answers it.
fn breach(rng: &mut Rng) -> Act {
    let (bytes, code): (&[u8], u16) = match rng.u8(0..3) {
        // Not masked.
        0 => (&[0x81, 0x01, b'a'], 1002),
        // A reserved bit.
        1 => (&[0xC1, 0x81, 0, 0, 0, 0, b'a'], 1002),
        // No UTF-8.
        _ => (&[0x81, 0x81, 0, 0, 0, 0, 0xFF], 1007),
    };
    Act::Break { bytes: bytes.to_vec(), code }
}
