//! The scatter list of a sendmsg(2).
#![expect(unsafe_code, reason = "a message header is plain pointers")]

use std::ptr;

use super::super::outgoing::Pieces;

/// A message header and the list of pieces that it points at. They stay where they are when it is moved.
pub(super) struct Gather(Box<Inner>);

struct Inner {
    message: libc::msghdr,
    pieces: [libc::iovec; Gather::MAX],
}

impl Gather {
    /// How many pieces go into one message.
    pub(super) const MAX: usize = Pieces::MAX;

    /// Lists `pieces`; further ones than [`Self::MAX`] are left out.
    pub(super) fn fill<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>) {
        let Inner { message, pieces: list } = &mut *self.0;
        let mut len = 0;
        for (to, bytes) in list.iter_mut().zip(pieces) {
            *to = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            len += 1;
        }
        message.msg_iov = list.as_mut_ptr();
        message.msg_iovlen = len;
    }

    /// What a submission names.
    pub(super) fn message(&self) -> *const libc::msghdr {
        &raw const self.0.message
    }
}

impl Default for Gather {
    fn default() -> Self {
        let piece = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        // SAFETY: zeros are a header without address, pieces, control data and flags.
        let message = unsafe { std::mem::zeroed() };
        Self(Box::new(Inner { message, pieces: [piece; Self::MAX] }))
    }
}
