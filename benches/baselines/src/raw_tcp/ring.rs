//! The raw echo on ringback's ring engine: the same ring, buffers, worker and turns, and nothing of WebSocket.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Context;
use ringback::engine::ring::{self, Sizes};
use ringback::engine::{Bounds, Common, Handler, Received, Service, Wire};
use rustix::event::{EventfdFlags, eventfd};

/// How many connections there is room for; the limit of descriptors bounds it further.
const CONNECTIONS_MAX: usize = 16 << 10;

/// Accepts from `listener` and sends back what comes, from the buffer that it came into.
///
/// # Errors
///
/// The ring cannot be set up, or is of no more use.
pub fn serve(listener: TcpListener, buffer_size: usize) -> anyhow::Result<Infallible> {
    let sizes = Sizes::new(buffer_size, CONNECTIONS_MAX);
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
    let bounds = Bounds { receive_buffer_size: buffer_size, ..Bounds::default() };
    let common = Rc::new(Common::new(bounds, Arc::default()));
    let server = ring::server(&sizes, common, RawTcp, wake).context("the ring cannot be set up")?;
    server.serve(vec![listener.into()])?;
    anyhow::bail!("the worker has ended")
}

struct RawTcp;

impl Service for RawTcp {
    type Handler = Echo;

    fn accepted(&mut self, _: Option<IpAddr>) -> Echo {
        Echo
    }

    fn on_accept_paused(&mut self, error: Option<&io::Error>) {
        eprintln!("accepting pauses: {error:?}");
    }
}

struct Echo;

impl Handler for Echo {
    fn on_received(&mut self, wire: &mut Wire<'_>, received: Received) -> u32 {
        match received {
            Received::Bytes(buffer, range) => wire.send(buffer, range),
            Received::End | Received::Failed(_) => wire.end(),
        }
        0
    }
}
