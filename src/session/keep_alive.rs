//! Whether the peer of an open connection is still there, and when to look.
//!
//! A message costs no look at the clock and sets no timer: what comes leaves a mark, a byte. Each connection is looked
//! at four times an interval, and a mark that is found then counts as if it had just been made. So a peer is pinged
//! when it has been silent for the interval at least, and for a quarter of it more at most.

use std::cell::Cell;
use std::time::Duration;

use crate::config::KeepAliveConfig;
use crate::engine::{Signs, Silence};

/// How often a connection is looked at in the shorter one of interval and idle timeout.
const LOOKS: u32 = 4;

/// What the connections of a worker are held to.
#[derive(Debug)]
pub(super) struct Terms {
    /// In milliseconds; 0 for off.
    interval: u32,
    timeout: u32,
    idle: u32,
    /// The time between two looks in milliseconds; 0 for none at all.
    step: u32,
    /// How many watches have begun.
    begun: Cell<u32>,
}

impl Terms {
    pub(super) fn new(config: &KeepAliveConfig) -> Self {
        let [interval, timeout, idle] = [config.interval, config.timeout, config.idle].map(millis);
        let shortest = [interval, idle].into_iter().filter(|&time| time > 0).min();
        let step = shortest.map_or(0, |time| (time / LOOKS).max(1));
        Self { interval, timeout, idle, step, begun: Cell::new(0) }
    }

    /// How long a peer may be silent, or take nothing of what it is owed, before something is done about it.
    const fn patience(&self, is_owed: bool, is_pinged: bool) -> u32 {
        match (is_owed, is_pinged, self.timeout) {
            _ if self.interval == 0 => u32::MAX,
            (true, _, 0) => u32::MAX,
            (true, _, timeout) => self.interval + timeout,
            (false, true, 1..) => self.timeout,
            (false, _, _) => self.interval,
        }
    }

    /// The time to the next look at a peer that was pinged, where it would be `step` else: what it takes meanwhile shows only
    /// from one look to the next.
    fn step_after_ping(&self, step: u32) -> u32 {
        if self.timeout > 0 { step.min((self.timeout / LOOKS).max(1)) } else { step }
    }

    /// After which time to look at a connection for the first time, if at all: within one step, each at another point
    /// of it, so that connections that were opened in the same moment are not pinged in the same one.
    pub(super) fn first_look(&self) -> Option<Duration> {
        let begun = self.begun.get().wrapping_add(1);
        self.begun.set(begun);
        // Multiples of the golden ratio, modulo 1, are never far from evenly spread.
        let part = u64::from(begun.wrapping_mul(0x9E37_79B9));
        let after = (u64::from(self.step) * part) >> 32;
        (self.step > 0).then(|| Duration::from_millis(after))
    }
}

/// What keep-alive knows of a peer. The fields are bytes, so that a session has no gaps.
#[derive(Debug)]
pub(super) struct Watch {
    /// Since when no message came.
    idle_since: Stamp,
    marks: u8,
}

/// Marks: the conversation has just begun, which is a sign of the peer.
const BEGUN: u8 = 1;
/// Some of a message has come since the last look.
const DATA: u8 = 2;
/// A ping has gone out, and nothing has come since.
const PINGED: u8 = 4;

/// What else there is to know of a connection when it is looked at.
#[derive(Debug)]
pub(super) struct Sight<'a> {
    /// Milliseconds by any clock, modulo 2^32.
    pub(super) now: u32,
    /// What the peer has done since the last look.
    pub(super) signs: Signs,
    /// Since when there was no sign of it, or where a ping has gone out since, when that was.
    pub(super) silence: &'a mut Silence,
    /// Something is unsent, for the socket is full. A ping would wait behind it. So what counts is whether the peer takes
    /// anything.
    pub(super) is_owed: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Nothing, but to look again after this time.
    Fine(Duration),
    /// To ping the peer, and to look again after this time.
    Silent(Duration),
    /// To give it up: it did not answer a ping, or has taken nothing for as long as that may take.
    Gone,
    /// To close: it had nothing to say for too long.
    Idle,
}

impl Watch {
    /// That of a connection which has just been opened.
    pub(super) const fn new() -> Self {
        Self { idle_since: Stamp::at(0), marks: BEGUN | DATA }
    }

    /// Bytes have come, and among them was some of a message.
    #[inline]
    pub(super) const fn hear_data(&mut self, is_data: bool) {
        self.marks |= if is_data { DATA } else { 0 };
    }

    pub(super) const fn is_pinged(&self) -> bool {
        self.marks & PINGED != 0
    }

    /// Looks at what has come since the last time. The peer is in the middle of a message, or not.
    pub(super) fn look(&mut self, sight: Sight<'_>, is_mid_message: bool, terms: &Terms) -> Finding {
        let Sight { now, signs, silence, is_owed } = sight;
        let marks = std::mem::take(&mut self.marks);
        let [has_begun, has_data, was_pinged] = [BEGUN, DATA, PINGED].map(|mark| marks & mark != 0);
        let has_heard = has_begun || signs.has_heard();
        let is_pinged = was_pinged && !is_owed && !has_heard;
        // A ping that has gone out is no sign of the peer. But much may be on its way before the ping, so bytes that the peer
        // confirms count.
        if has_heard || (signs.has_taken() && !is_pinged) || signs.has_confirmed() {
            silence.begin(now);
        }
        // A message on its way, in either direction, counts.
        let takes = (signs.has_taken() || signs.has_confirmed()) && is_owed;
        if has_data || (has_heard && is_mid_message) || takes {
            self.idle_since = Stamp::at(now);
        }
        let (silent, idle) = (silence.lasts(now), self.idle_since.age(now));
        if terms.idle > 0 && idle >= terms.idle {
            return Finding::Idle;
        }
        let step = if terms.idle > 0 { terms.step.min(terms.idle - idle) } else { terms.step };
        let patience = terms.patience(is_owed, is_pinged);
        if silent < patience {
            self.marks = if is_pinged { PINGED } else { 0 };
            let step = if is_pinged { terms.step_after_ping(step) } else { step };
            return Finding::Fine(wait(step.min(patience - silent)));
        }
        if is_owed || (is_pinged && terms.timeout > 0) {
            return Finding::Gone;
        }
        silence.begin(now);
        self.marks = PINGED;
        Finding::Silent(wait(terms.step_after_ping(step)))
    }
}

/// A moment in milliseconds modulo 2^32, anywhere in memory.
#[derive(Clone, Copy, Debug)]
struct Stamp([u8; 4]);

impl Stamp {
    const fn at(millis: u32) -> Self {
        Self(millis.to_ne_bytes())
    }

    const fn age(self, now: u32) -> u32 {
        now.wrapping_sub(u32::from_ne_bytes(self.0))
    }
}

/// Milliseconds, of a time that is below the modulus by far.
fn millis(time: Duration) -> u32 {
    const MAX: u32 = u32::MAX / 4;
    u32::try_from(time.as_millis()).map_or(MAX, |millis| millis.min(MAX))
}

fn wait(millis: u32) -> Duration {
    Duration::from_millis(millis.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(interval: u64, timeout: u64) -> Terms {
        let [interval, timeout] = [interval, timeout].map(Duration::from_secs);
        Terms::new(&KeepAliveConfig { interval, timeout, idle: Duration::ZERO })
    }

    const NONE: Signs = Signs::of(false, false, false);
    const TAKEN: Signs = Signs::of(false, true, false);

    /// A watch and since when there was no sign.
    struct Watched(Watch, Silence);

    impl Watched {
        fn new() -> Self {
            Self(Watch::new(), Silence::default())
        }

        fn look(&mut self, now: u32, signs: Signs, is_owed: bool, terms: &Terms) -> Finding {
            let sight = Sight { now, signs, silence: &mut self.1, is_owed };
            self.0.look(sight, false, terms)
        }
    }

    /// Looks as often as it is asked to, until something is found or ten minutes have passed; gives what and when.
    fn watch(
        watched: &mut Watched,
        terms: &Terms,
        is_owed: bool,
        mut signs: impl FnMut(u32) -> Signs,
    ) -> (Finding, u32) {
        let mut now = 0;
        loop {
            let found = watched.look(now, signs(now), is_owed, terms);
            match found {
                Finding::Fine(next) if now < 600_000 => now += millis(next),
                _ => return (found, now),
            }
        }
    }

    #[test]
    fn who_takes_something_now_and_then_is_not_gone() {
        let terms = terms(8, 5);
        let sometimes = |now: u32| Signs::of(false, false, now.is_multiple_of(12_000));
        let (found, _) = watch(&mut Watched::new(), &terms, true, sometimes);
        assert!(matches!(found, Finding::Fine(_)), "{found:?}");
        let (found, at) = watch(&mut Watched::new(), &terms, true, |_| NONE);
        assert_eq!((found, at), (Finding::Gone, 13_000));
    }

    #[test]
    fn a_ping_behind_much_is_given_its_time() {
        let terms = terms(8, 5);
        let mut watched = Watched::new();
        let (found, at) = watch(&mut watched, &terms, false, |_| NONE);
        assert!(matches!(found, Finding::Silent(_)) && at == 8000 && watched.0.is_pinged());
        // It takes something for a minute; a send of our own says nothing.
        let on_its_way = |now: u32| if now < 60_000 { Signs::of(false, true, true) } else { TAKEN };
        let (found, at) = watch(&mut watched, &terms, false, on_its_way);
        assert!(found == Finding::Gone && (63_000..=65_000).contains(&at), "{found:?} at {at}");
    }

    #[test]
    fn time_goes_on_where_its_count_begins_anew() {
        let terms = terms(8, 5);
        let mut watched = Watched::new();
        let mut now = u32::MAX - 3000;
        let mut looks = 0;
        while let Finding::Fine(next) = watched.look(now, NONE, false, &terms) {
            now = now.wrapping_add(millis(next));
            looks += 1;
        }
        assert_eq!((now, looks), (4999, LOOKS));
    }
}
