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
    /// # Errors
    ///
    /// It answers none that is outstanding.
    pub(crate) fn receive_pong(&mut self, payload: &[u8], messages: u64) -> Result<(), Fault> {
        let outstanding = self.answered + 1..=self.last(messages);
        let [.., a, b, c, d] = *payload else {
            return Err(Fault::WrongPong);
        };
        // Numbers count modulo 2^32 in the payload; fewer than that are outstanding.
        let number = u32::from_be_bytes([a, b, c, d]);
        let behind = number.wrapping_sub(low(*outstanding.start()));
        let number = outstanding.start() + u64::from(behind);
        if !outstanding.contains(&number) || payload != self::payload(self.connection, number) {
            return Err(Fault::WrongPong);
        }
        self.answered = number;
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

/// The payload of the ping with this number of the connection with this index.
pub(crate) fn payload(connection: u64, number: u64) -> [u8; PAYLOAD_LEN] {
    (connection << 32 | u64::from(low(number))).to_be_bytes()
}

/// A ping's payload, in bytes: its frame is no longer than the longest header.
pub(crate) const PAYLOAD_LEN: usize = 8;

#[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
const fn low(number: u64) -> u32 {
    number as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pings() -> Pings {
        Pings::new(NonZeroU32::new(10).expect("not 0"), 3)
    }

    #[test]
    fn payloads_differ_between_pings_and_connections() {
        assert_eq!(payload(3, 1), [0, 0, 0, 3, 0, 0, 0, 1]);
        assert_ne!(payload(3, 2), payload(2, 3));
    }

    #[test]
    fn a_pong_answers_its_ping_and_those_before_it() {
        let mut pings = pings();
        assert_eq!(pings.missing(9), 0);
        assert_eq!(pings.missing(49), 4);
        assert_eq!(pings.receive_pong(&payload(3, 1), 49), Ok(()));
        assert_eq!(pings.receive_pong(&payload(3, 3), 49), Ok(()));
        assert_eq!(pings.missing(49), 1);
        for wrong in [&payload(3, 3)[..], &payload(3, 2), &payload(3, 5), &payload(2, 4), b"", b"\0\0\0\x04"]
        {
            assert_eq!(pings.receive_pong(wrong, 49), Err(Fault::WrongPong), "{wrong:?}");
        }
        assert_eq!(pings.receive_pong(&payload(3, 4), 49), Ok(()));
        assert_eq!(pings.missing(49), 0);
    }

    #[test]
    fn numbers_go_on_beyond_their_bits() {
        let mut pings = pings();
        let many = 1_u64 << 32;
        pings.answered = many - 1;
        assert_eq!(pings.receive_pong(&payload(3, many + 1), 10 * (many + 2)), Ok(()));
        assert_eq!(pings.answered, many + 1);
    }
}
