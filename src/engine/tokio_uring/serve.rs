//! A server whose connections are tasks: it accepts, as long as there are places, and follows the phase to the end.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::super::Common;
use super::super::listener::{Listener, PAUSE, is_the_peers};
use super::super::phase::Phase;
use super::super::serve::Service;
use super::super::slots::Id;
use super::alarms::Alarms;
use super::pool::Pool;
use super::task;
use super::waiters::Waiters;

/// How long connections that were cut may take to give their buffers back.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

/// What the tasks of a worker share.
pub(super) struct Shared {
    pub(super) common: Rc<Common>,
    pub(super) waiters: Waiters,
    pub(super) alarms: Alarms,
    pub(super) pool: Pool,
    /// The tasks, and whether another one has nudged them.
    tasks: RefCell<HashMap<Id, bool>>,
    /// How many nudges were not heard yet, and how many tasks there were.
    nudges: Cell<usize>,
    begun: Cell<u32>,
    /// How many connections there are.
    connections: Cell<usize>,
}

impl Shared {
    fn enter_phase(&self, phase: Phase) {
        self.common.enter_phase(phase);
        self.waiters.wake_all();
    }

    /// Names the task of this key among the waiters.
    pub(super) fn name(&self, key: usize) -> Id {
        self.begun.set(self.begun.get().wrapping_add(1));
        let id = Id { slot: u32::try_from(key).unwrap_or(u32::MAX), generation: self.begun.get() };
        self.tasks.borrow_mut().insert(id, false);
        id
    }

    /// The task has ended.
    pub(super) fn forget(&self, id: Id) {
        self.takes_nudge(id);
        self.tasks.borrow_mut().remove(&id);
    }

    /// Wakes the tasks that a handler has nudged.
    pub(super) fn pass_nudges(&self) {
        for id in self.common.nudged.take() {
            if let Some(is_nudged) = self.tasks.borrow_mut().get_mut(&id)
                && !std::mem::replace(is_nudged, true)
            {
                self.nudges.set(self.nudges.get() + 1);
                self.waiters.wake(id.slot as usize);
            }
        }
    }

    /// Whether this task was nudged since it last asked.
    pub(super) fn takes_nudge(&self, id: Id) -> bool {
        let is_nudged =
            self.nudges.get() > 0 && self.tasks.borrow_mut().get_mut(&id).is_some_and(std::mem::take);
        self.nudges.set(self.nudges.get() - usize::from(is_nudged));
        is_nudged
    }

    /// Waits until this is so. It is asked at each change of the phase, and when the last connection ends.
    async fn until(&self, is_so: impl Fn(&Self) -> bool) {
        let mut waiter = None;
        poll_fn(|task| {
            if is_so(self) {
                return Poll::Ready(());
            }
            waiter.get_or_insert_with(|| self.waiters.enter(task.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// A connection that is counted.
pub(super) struct Counted(Rc<Shared>);

impl Counted {
    fn new(shared: &Rc<Shared>) -> Self {
        shared.connections.set(shared.connections.get() + 1);
        Self(Rc::clone(shared))
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        if self.0.connections.get() == 0 {
            self.0.waiters.wake_all();
        }
    }
}

/// Serves the connections that come to `listeners`, until the phase says to end. It asks for the phase whenever `wake`, an
/// eventfd(2), is written to.
///
/// # Errors
///
/// When the runtime can watch no descriptors.
pub(super) async fn serve<S>(
    common: Rc<Common>,
    service: S,
    listeners: Vec<Listener>,
    wake: Arc<OwnedFd>,
    on_ready: impl FnOnce(),
) -> io::Result<()>
where
    S: Service + 'static,
    S::Handler: 'static,
{
    let pool = Pool::new(common.bounds.receive_buffer_size, Arc::clone(&common.counters));
    let shared = Rc::new(Shared {
        common,
        waiters: Waiters::default(),
        alarms: Alarms::default(),
        pool,
        tasks: RefCell::default(),
        nudges: Cell::new(0),
        begun: Cell::new(0),
        connections: Cell::new(0),
    });
    shared.alarms.begin()?;
    let alarms = Rc::clone(&shared);
    tokio::task::spawn_local(async move { alarms.alarms.run(&alarms).await });
    let service = Rc::new(RefCell::new(service));
    let mut accepting = Vec::new();
    for listener in listeners {
        listener.set_nonblocking(true)?;
        let accept = accept(watch(listener)?, Rc::clone(&shared), Rc::clone(&service));
        accepting.push(tokio::task::spawn_local(accept));
    }
    rustix::io::ioctl_fionbio(&wake, true)?;
    let following = tokio::task::spawn_local(follow(watch(wake)?, Rc::clone(&shared), service));
    on_ready();
    for accept in accepting {
        accept.await.map_err(io::Error::other)??;
    }
    shared.until(|shared| shared.common.phase() == Phase::Stopping || shared.connections.get() == 0).await;
    let _ = tokio::time::timeout(CUT_TIMEOUT, shared.until(|shared| shared.connections.get() == 0)).await;
    following.abort();
    Ok(())
}

/// Has the runtime watch a descriptor.
#[expect(deprecated, reason = "unsound only for what gives away another's descriptor; these own their own")]
fn watch<F: std::os::fd::AsRawFd>(descriptor: F) -> io::Result<AsyncFd<F>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

/// Follows the phase.
async fn follow<S: Service>(wake: AsyncFd<Arc<OwnedFd>>, shared: Rc<Shared>, service: Rc<RefCell<S>>) {
    loop {
        let phase = service.borrow_mut().phase();
        if phase != shared.common.phase() {
            shared.enter_phase(phase);
        }
        // An error says that the runtime ends.
        let Ok(mut ready) = wake.readable().await else {
            return;
        };
        let _ = ready.try_io(|wake| Ok(rustix::io::read(wake.get_ref(), &mut [0_u8; 8])?));
    }
}

/// Accepts until the drain begins, then takes what is queued: closing a listener would reset it. An inherited one
/// stays open in another process, which accepts what is queued there.
async fn accept<S>(listener: AsyncFd<Listener>, shared: Rc<Shared>, service: Rc<RefCell<S>>) -> io::Result<()>
where
    S: Service,
    S::Handler: 'static,
{
    let is_draining = |shared: &Shared| shared.common.phase() > Phase::Running;
    while !is_draining(&shared) {
        if !service.borrow().may_accept() {
            service.borrow_mut().on_accept_paused(None);
            pause(&service, || is_draining(&shared) || service.borrow().may_accept()).await;
            continue;
        }
        let accepted = tokio::select! {
            biased;
            () = shared.until(is_draining) => break,
            accepted = listener.async_io(Interest::READABLE, Listener::accept) => accepted,
        };
        match accepted {
            Ok((socket, peer)) => begin(socket, peer, &shared, &service),
            // A connection that ended in the queue is none of our business; running out of something is waited out.
            Err(error) if is_the_peers(&error) => {}
            Err(error) => {
                service.borrow_mut().on_accept_paused(Some(&error));
                pause(&service, || true).await;
            }
        }
    }
    let listener = listener.into_inner();
    if listener.is_inherited() {
        return Ok(());
    }
    // Linux has one more in the queue than it was told.
    for _ in 0..=listener.queue_max() {
        match listener.accept() {
            Ok((socket, peer)) => begin(socket, peer, &shared, &service),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if is_the_peers(&error) => {}
            Err(error) => {
                service.borrow_mut().on_accept_paused(Some(&error));
                break;
            }
        }
    }
    Ok(())
}

/// Accepts nothing for a while, and until `may_go_on`.
async fn pause<S: Service>(service: &RefCell<S>, may_go_on: impl Fn() -> bool) {
    service.borrow_mut().on_accepting_changed(true);
    loop {
        tokio::time::sleep(PAUSE).await;
        if may_go_on() {
            break;
        }
    }
    service.borrow_mut().on_accepting_changed(false);
}

/// Serves a connection in a task of its own.
fn begin<S>(socket: TcpStream, peer: Option<IpAddr>, shared: &Rc<Shared>, service: &RefCell<S>)
where
    S: Service,
    S::Handler: 'static,
{
    // With O_NONBLOCK the kernel would answer EAGAIN instead of waiting.
    if let Err(error) = socket.set_nonblocking(false) {
        tracing::warn!(%error, "a connection could not be taken over");
        return;
    }
    let handler = service.borrow_mut().accepted(peer);
    let stream = tokio_uring::net::TcpStream::from_std(socket);
    tokio::task::spawn_local(task::serve(stream, handler, Counted::new(shared)));
}

/// How many bytes a connection's task takes, without what tokio adds to it.
#[cfg(test)]
pub(crate) fn task_size<H: crate::engine::Handler>() -> usize {
    fn size_of_output<H, F>(_: impl FnOnce(tokio_uring::net::TcpStream, H, Counted) -> F) -> usize {
        size_of::<F>()
    }
    size_of_output(task::serve::<H>)
}
