//! What the kernel knows of a peer, by its socket's descriptor: what it has not confirmed yet, and its address.
#![expect(
    unsafe_code,
    reason = "an ioctl(2) that no crate wraps, and a descriptor of a crate that lends none"
)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use rustix::fd::BorrowedFd;

/// SOCKET_URING_OP_SIOCOUTQ of linux/io_uring.h: the same for a ring, from Linux 6.7 on and of TCP only.
pub(super) const SOCKET_SIOCOUTQ: u32 = 1;

/// How many bytes of what was written to this socket its peer has not confirmed, those among them that were not sent
/// yet: SIOCOUTQ, tcp(7). It falls as long as the peer takes anything, be it ever so slowly, where a full socket takes
/// nothing more before a third of it is free.
///
/// # Errors
///
/// Those of ioctl(2).
pub(super) fn unconfirmed(socket: &impl AsRawFd) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ, which is TIOCOUTQ by another name, writes one `int`, and here is one.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(u32::try_from(bytes).unwrap_or(0)) }
}

/// The descriptor of a socket of a crate that lends none.
pub(super) fn descriptor(socket: &impl AsRawFd) -> BorrowedFd<'_> {
    // SAFETY: a socket that is borrowed is open.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

/// The address of the peer of this socket, where it has one.
pub(super) fn peer(socket: BorrowedFd<'_>) -> Option<IpAddr> {
    let address = rustix::net::getpeername(socket).ok()??;
    SocketAddr::try_from(address).ok().map(|address| address.ip().to_canonical())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn it_falls_to_nothing_when_the_peer_has_read_all() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut near = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (mut far, _) = listener.accept().expect("a connection");
        near.set_nonblocking(true).expect("a socket");
        let mut written = 0;
        while let Ok(more) = near.write(&[7; 64 << 10]) {
            written += more;
        }
        let full = unconfirmed(&near).expect("a socket");
        assert!(full > 0, "{written} bytes are more than the peer's socket takes");
        far.read_exact(&mut vec![0; written]).expect("as much as was written");
        let began = Instant::now();
        while unconfirmed(&near).expect("a socket") > 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "the peer has confirmed all");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
