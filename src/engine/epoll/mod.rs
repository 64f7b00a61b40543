//! The epoll engine: readiness by epoll(7), for places where io_uring is refused.
//!
//! `driver` is what the worker drives, with `socket`, what is known of one, and `acceptor`, when to accept.

mod acceptor;
mod driver;
mod socket;

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use super::serve::{Server, Service};
use super::worker::Worker;
use super::{Common, Handler};

pub use driver::EpollDriver;

/// A worker on epoll, with room for so many connections, which it makes. It is woken by `wake`, an eventfd(2).
///
/// # Errors
///
/// Those of epoll_create(2), timerfd_create(2) and mmap(2).
pub fn worker<H: Handler>(
    connections: usize,
    common: Rc<Common>,
    wake: Arc<OwnedFd>,
) -> io::Result<Worker<EpollDriver, H>> {
    let driver = EpollDriver::new(&common)?;
    Worker::over(driver, common, connections, wake)
}

/// A server on epoll, with room for so many connections. It asks for the phase whenever `wake`, an eventfd(2), is written
/// to.
///
/// # Errors
///
/// As for [`worker`].
pub fn server<S: Service>(
    connections: usize,
    common: Rc<Common>,
    service: S,
    wake: Arc<OwnedFd>,
) -> io::Result<Server<EpollDriver, S>> {
    let driver = EpollDriver::new(&common)?;
    Server::over(driver, common, connections, service, wake)
}
