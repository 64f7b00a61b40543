//! Accepting connections.

use std::io;
use std::net::{IpAddr, TcpStream as StdStream};
use std::rc::Rc;
use std::time::Instant;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;

use crate::engine::{Listener, PAUSE, Phase, Spawner, is_the_peers};
use crate::session::{LOG_INTERVAL, REFUSALS_MAX, Session, WorkerWide};

/// Accepts until the drain begins, then takes what is queued: closing a listener would reset it. An inherited one is
/// not ours to empty: it stays open elsewhere, and whoever has it next finds what is queued.
pub(super) async fn accept(
    listener: AsyncFd<Listener>,
    spawner: Spawner,
    context: Rc<WorkerWide>,
) -> io::Result<()> {
    let mut logged = None;
    while context.common.drain.phase() == Phase::Running {
        let accepted = tokio::select! {
            biased;
            () = context.phase_changed() => break,
            accepted = listener.async_io(Interest::READABLE, Listener::accept) => accepted.and_then(from_std),
        };
        match accepted {
            Ok((socket, peer)) => begin(socket, peer, spawner, &context).await,
            Err(error) => recover(&error, &context, &mut logged).await,
        }
    }
    let listener = listener.into_inner();
    if listener.is_inherited() {
        return Ok(());
    }
    // Linux has one more in the queue than it was told.
    for _ in 0..=listener.queue_max() {
        match listener.accept().and_then(from_std) {
            Ok((socket, peer)) => {
                let (start, admission) = context.receive(peer);
                let session = Session::new(start, &context, admission);
                spawner.spawn(socket, session, Rc::clone(&context.common));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if is_the_peers(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "queued connections are left behind");
                break;
            }
        }
    }
    Ok(())
}

/// Has the runtime watch a listener: what may fail of accepting before it has begun.
#[expect(
    deprecated,
    reason = "unsound only for what gives away another's descriptor; a `Listener` owns its own"
)]
pub(super) fn watch(listener: Listener) -> io::Result<AsyncFd<Listener>> {
    listener.set_nonblocking(true)?;
    AsyncFd::with_interest(listener, Interest::READABLE)
}

fn from_std((socket, peer): (StdStream, Option<IpAddr>)) -> io::Result<(TcpStream, Option<IpAddr>)> {
    Ok((TcpStream::from_std(socket)?, peer))
}

/// Serves a connection, or tells it that there are too many.
async fn begin(socket: TcpStream, peer: Option<IpAddr>, spawner: Spawner, context: &Rc<WorkerWide>) {
    let (start, admission) = context.receive(peer);
    let is_full = admission.is_none();
    let session = Session::new(start, context, admission);
    spawner.spawn(socket, session, Rc::clone(&context.common));
    if is_full && context.refusals_under_way() >= REFUSALS_MAX {
        context.stats.accept_pauses.add(1);
        context.stats.gauges.accept_paused.set(1);
        while context.refusals_under_way() >= REFUSALS_MAX && context.common.drain.phase() == Phase::Running {
            tokio::time::sleep(PAUSE).await;
        }
        context.stats.gauges.accept_paused.set(0);
    }
}

/// A connection that ended in the queue is none of our business; running out of something is waited out.
async fn recover(error: &io::Error, context: &WorkerWide, logged: &mut Option<Instant>) {
    if is_the_peers(error) {
        return;
    }
    if logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
        *logged = Some(Instant::now());
        tracing::warn!(%error, pause = ?PAUSE, "accepting pauses");
    }
    context.stats.accept_pauses.add(1);
    context.stats.gauges.accept_paused.set(1);
    tokio::time::sleep(PAUSE).await;
    context.stats.gauges.accept_paused.set(0);
}
