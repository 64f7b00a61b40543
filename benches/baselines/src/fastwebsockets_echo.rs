//! A WebSocket echo on fastwebsockets, as its own example has it: hyper answers the handshake, a `FragmentCollector`
//! gives whole messages, each echo is written at once.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;

use fastwebsockets::upgrade::{UpgradeFut, upgrade};
use fastwebsockets::{FragmentCollector, OpCode, WebSocketError};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::unconstrained;

use crate::accept;

/// Accepts from `listener` on a runtime of the calling thread alone, and sends each text and binary message back.
///
/// # Errors
///
/// The runtime cannot be made, or accepting fails, for want of descriptors for example: a load of which a part is
/// missing is not worth measuring.
pub fn serve(listener: TcpListener) -> io::Result<Infallible> {
    accept::each(listener, handshake)
}

async fn handshake(stream: TcpStream) -> hyper::Result<()> {
    http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(switch_protocols))
        .with_upgrades()
        .await
}

async fn switch_protocols(request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, WebSocketError> {
    let (response, upgraded) = upgrade(request)?;
    // Without a budget, as in the example: no message waits for another turn of the runtime.
    tokio::spawn(unconstrained(async {
        // What went wrong is the client's to report: its echo is missing.
        drop(echo(upgraded).await);
    }));
    Ok(response)
}

async fn echo(upgraded: UpgradeFut) -> Result<(), WebSocketError> {
    let mut socket = FragmentCollector::new(upgraded.await?);
    loop {
        let message = socket.read_frame().await?;
        match message.opcode {
            OpCode::Text | OpCode::Binary => socket.write_frame(message).await?,
            // It is answered already.
            OpCode::Close => return Ok(()),
            OpCode::Ping | OpCode::Pong | OpCode::Continuation => {}
        }
    }
}
