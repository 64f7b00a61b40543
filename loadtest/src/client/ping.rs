//! The pings among the messages of a connection, and their pongs.

use std::num::NonZeroU32;

use crate::client::fault::Fault;

/// The pings of one connection: one after so many messages. Each has a payload of its own.
pub(crate) struct Pings {
    every: NonZeroU32,
    connection: u64,
    /// The number of the last ping that was answered; they count from 1.
    answered: u64,
}

impl Pings {
    /// No ping is answered yet. `connection` is the connection's index.
    pub(crate) const fn new(every: NonZeroU32, connection: u64) -> Self {
        Self { every, connection, answered: 0 }
    }

    /// Takes a pong, when so many messages are sent or due: it answers its ping and those before it (RFC 6455 §5.5.3).
    ///
    /// One that has nothing of ours in it is the server's own, and allowed.
    ///
    /// # Errors
    ///
    /// Its payload is one of ours, or a part of one, and answers none that is outstanding: it came twice, or on the wrong
    /// connection, or bytes of it are wrong. Where the mark and the rest both are, it looks like the server's own, and its
    /// ping stays unanswered.
    pub(crate) fn receive_pong(&mut self, payload: &[u8], messages: u64) -> Result<(), Fault> {
        let outstanding = self.answered + 1..=self.last(messages);
        let [.., a, b, c] = *payload else {
            return Ok(());
        };
        // Numbers count modulo 2^24 in the payload; fewer than that are outstanding.
        let number = u64::from(u32::from_be_bytes([0, a, b, c])) ^ MARK;
        let number = outstanding.start() + (number.wrapping_sub(*outstanding.start()) & NUMBER_MAX);
        let ours = self::payload(self.connection, number);
        let is_outstanding = outstanding.contains(&number);
        if is_outstanding && payload == ours {
            self.answered = number;
            return Ok(());
        }
        let (mark, rest) = ours.split_at(MARK_LEN);
        if payload.starts_with(mark) || (is_outstanding && payload.ends_with(rest)) {
            return Err(Fault::WrongPong);
        }
        Ok(())
    }

    /// How many pings are not answered when so many messages are sent.
    pub(crate) fn missing(&self, messages: u64) -> u64 {
        self.last(messages) - self.answered
    }

    fn last(&self, messages: u64) -> u64 {
        messages / u64::from(self.every.get())
    }
}

/// The payload of the ping with this number of the connection with this index: 3 bytes that mark it as ours, 2 of the
/// connection, 3 of the number.
pub(crate) const fn payload(connection: u64, number: u64) -> [u8; PAYLOAD_LEN] {
    let rest = (connection & CONNECTION_MAX) << NUMBER_BITS | (number & NUMBER_MAX);
    (rest ^ MARK).to_be_bytes()
}

/// A ping's payload, in bytes: its frame is no longer than the longest header.
pub(crate) const PAYLOAD_LEN: usize = 8;

/// Goes over all of a payload, so that neither a counter nor a time of a server's own looks like one: digits of *e*.
const MARK: u64 = 0xB7E1_5162_8AED_2A6A;

/// The bytes of a payload that are the same in all of them.
const MARK_LEN: usize = 3;

const NUMBER_BITS: u32 = 24;
const NUMBER_MAX: u64 = (1 << NUMBER_BITS) - 1;
const CONNECTION_MAX: u64 = (1 << 16) - 1;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn pings() -> Pings {
        Pings::new(NonZeroU32::new(10).expect("not 0"), 3)
    }

    #[test]
    fn payloads_differ_between_pings_and_connections() {
        let all = [(3, 1), (3, 2), (2, 3), (0, 0), (0, NUMBER_MAX), (CONNECTION_MAX, 0)];
        let distinct: HashSet<_> = all.map(|(connection, number)| payload(connection, number)).into();
        assert_eq!(distinct.len(), all.len());
        assert!(distinct.iter().all(|payload| payload[..MARK_LEN] == [0xB7, 0xE1, 0x51]));
    }

    #[test]
    fn a_pong_answers_its_ping_and_those_before_it() {
        let mut pings = pings();
        assert_eq!(pings.missing(9), 0);
        assert_eq!(pings.missing(49), 4);
        assert_eq!(pings.receive_pong(&payload(3, 1), 49), Ok(()));
        assert_eq!(pings.receive_pong(&payload(3, 3), 49), Ok(()));
        assert_eq!(pings.missing(49), 1);
        for wrong in [payload(3, 3), payload(3, 2), payload(3, 5), payload(2, 4)] {
            assert_eq!(pings.receive_pong(&wrong, 49), Err(Fault::WrongPong), "{wrong:?}");
        }
        assert_eq!(pings.receive_pong(&payload(3, 4), 49), Ok(()));
        assert_eq!(pings.missing(49), 0);
    }

    #[test]
    fn a_pong_of_ours_is_known_by_what_is_left_of_it() {
        // No other that is outstanding is a bit away; a pong that became one would show when that one's own comes.
        let right = payload(3, 2);
        for at in 0..8 * PAYLOAD_LEN {
            let mut wrong = right;
            wrong[at / 8] ^= 1 << (at % 8);
            assert_eq!(pings().receive_pong(&wrong, 29), Err(Fault::WrongPong), "bit {at}");
        }
        let longer = [&right[..], b"x"].concat();
        for wrong in [&right[..7], &right[..MARK_LEN], &right[1..], &right[MARK_LEN..], &longer] {
            assert_eq!(pings().receive_pong(wrong, 29), Err(Fault::WrongPong), "{wrong:?}");
        }
    }

    #[test]
    fn a_pong_of_the_servers_own_answers_nothing() {
        let mut pings = pings();
        let counters = (0..100_u64).chain([1_764_000_000_000]).map(|count| count.to_be_bytes().to_vec());
        let texts = ["", "x", "ping", "heartbeat", "12345678"].map(|text| text.as_bytes().to_vec());
        for own in counters.chain(texts) {
            assert_eq!(pings.receive_pong(&own, 49), Ok(()), "{own:?}");
        }
        assert_eq!(pings.missing(49), 4);
    }

    #[test]
    fn numbers_go_on_beyond_their_bits() {
        let mut pings = pings();
        let many = NUMBER_MAX + 1;
        pings.answered = many - 1;
        assert_eq!(pings.receive_pong(&payload(3, many + 1), 10 * (many + 2)), Ok(()));
        assert_eq!(pings.answered, many + 1);
    }
}
