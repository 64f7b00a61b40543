//! The memory that the kernel writes a peer's address to when it accepts.
#![expect(unsafe_code, reason = "the kernel writes here")]

use std::cell::UnsafeCell;
use std::mem;
use std::net::IpAddr;
use std::rc::Rc;

use socket2::{SockAddr, SockAddrStorage};

/// The address of one accept at a time. A clone is the same memory: the ring keeps one as long as it may be written to.
#[derive(Clone, Debug)]
pub(super) struct PeerAddress(Rc<Memory>);

#[derive(Debug)]
struct Memory {
    name: UnsafeCell<libc::sockaddr_storage>,
    len: UnsafeCell<libc::socklen_t>,
}

impl PeerAddress {
    #[expect(clippy::cast_possible_truncation, reason = "it has 128 bytes")]
    const SIZE: libc::socklen_t = size_of::<libc::sockaddr_storage>() as libc::socklen_t;

    pub(super) fn new() -> Self {
        // SAFETY: of zeros it is a valid one, of no family.
        let name = unsafe { mem::zeroed() };
        Self(Rc::new(Memory { name: UnsafeCell::new(name), len: UnsafeCell::new(Self::SIZE) }))
    }

    /// Where the kernel writes an address, and its length. The memory lives as long as any clone of this does.
    ///
    /// # Safety
    ///
    /// The kernel is not writing to it now.
    pub(super) unsafe fn prepare(&self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        // SAFETY: nobody else looks at it now, as the caller says; it never leaves this thread (`Rc`).
        unsafe {
            *self.0.name.get() = mem::zeroed();
            *self.0.len.get() = Self::SIZE;
        }
        (self.0.name.get().cast(), self.0.len.get())
    }

    /// What the kernel has written; `None` where that is no address of the Internet.
    ///
    /// # Safety
    ///
    /// The kernel is not writing to it now.
    pub(super) unsafe fn get(&self) -> Option<IpAddr> {
        // SAFETY: nobody else looks at it now, as the caller says.
        let (name, len) = unsafe { (*self.0.name.get(), *self.0.len.get()) };
        let mut storage = SockAddrStorage::zeroed();
        // SAFETY: it is what the storage is made of.
        *unsafe { storage.view_as::<libc::sockaddr_storage>() } = name;
        // SAFETY: the name is as long as `len` says, and what lies behind is zeros.
        let address = unsafe { SockAddr::new(storage, len.min(Self::SIZE)) };
        address.as_socket().map(|address| address.ip())
    }
}
