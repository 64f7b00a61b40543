//! What a connection receives into, whichever engine's memory it is.

use std::rc::Rc;

use crate::memory::Budget;

/// The size in bytes of a small buffer, its headroom included: what a connection begins with.
pub(crate) const SMALL: usize = 4 << 10;

/// Which of the two sizes of buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// What a connection begins with.
    Small,
    /// For bulk.
    Big,
}

/// A receive buffer, whoever's memory it is. Dropped, it can be received into again.
///
/// A session holds up to five of them for a slow peer, and one lies in each connection that sends: 16 bytes do well.
pub trait ReceiveBuffer {
    /// The whole buffer: what was received begins at [`HEADROOM`](crate::memory::HEADROOM).
    fn bytes(&self) -> &[u8];

    /// As [`Self::bytes`]: a reply is made where its request lies.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// Its reply begins to wait to be sent: a buffer on the heap is charged to the budget from now on, one that was
    /// allocated once and for all is not.
    fn charge(&mut self, budget: &Rc<Budget>);

    /// Whether so few like it are left that none should wait for a slow peer.
    fn is_scarce(&self) -> bool;
}
