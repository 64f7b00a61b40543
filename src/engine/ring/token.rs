//! What a completion is about: the `user_data` of its submission.

use super::super::slots::Id;
use super::Class;

/// Which operation a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// accept(2).
    Accept = 1,
    /// A receive into small buffers.
    ReceiveSmall,
    /// A receive into big buffers.
    ReceiveBig,
    /// send(2) or sendmsg(2).
    Send,
    /// The end of another operation.
    Cancel,
    /// shutdown(2).
    Shutdown,
    /// close(2).
    Close,
    /// The poll of the eventfd.
    Wake,
    /// connect(2).
    Connect,
    /// The next deadlines.
    Alarm,
    /// SIOCOUTQ.
    Unconfirmed,
    /// A send that waits for the peer: its id is the connection's, which has no other.
    SendWaiting,
}

impl Op {
    const ALL: [Self; 12] = [
        Self::Accept,
        Self::ReceiveSmall,
        Self::ReceiveBig,
        Self::Send,
        Self::Cancel,
        Self::Shutdown,
        Self::Close,
        Self::Wake,
        Self::Connect,
        Self::Alarm,
        Self::Unconfirmed,
        Self::SendWaiting,
    ];

    pub(super) const fn receive(class: Class) -> Self {
        match class {
            Class::Small => Self::ReceiveSmall,
            Class::Big => Self::ReceiveBig,
        }
    }

    fn from_bits(bits: u8) -> Option<Self> {
        Self::ALL.get(usize::from(bits).checked_sub(1)?).copied()
    }
}

/// `op:8 | generation:24 | slot:32`. A slot is used again and again; the generation tells whose completion it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Which operation.
    pub op: Op,
    /// Whose.
    pub id: Id,
}

impl Token {
    /// That of an accept: its slot is the number of the listener.
    pub(super) const fn accept(listener: u32) -> Self {
        Self { op: Op::Accept, id: Id { slot: listener, generation: 0 } }
    }

    pub(super) const fn to_bits(self) -> u64 {
        (self.op as u64) << 56 | self.id.to_bits()
    }

    /// The token of a completion; `None` for what was never submitted here.
    pub(super) fn from_bits(bits: u64) -> Option<Self> {
        Some(Self { op: Op::from_bits((bits >> 56) as u8)?, id: Id::from_bits(bits) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::slots::GENERATIONS;

    #[test]
    fn a_token_comes_back_as_it_was() {
        for op in Op::ALL {
            for (slot, generation) in [(0, 0), (u32::MAX, GENERATIONS - 1), (7, 1), (1 << 31, 1 << 23)] {
                let token = Token { op, id: Id { slot, generation } };
                assert_eq!(Token::from_bits(token.to_bits()), Some(token));
            }
        }
        assert_eq!(Token::from_bits(0), None);
        assert_eq!(Token::from_bits(u64::MAX), None);
    }
}
