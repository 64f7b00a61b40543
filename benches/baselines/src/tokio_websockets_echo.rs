//! A WebSocket echo on tokio-websockets, as its own example has it, with the library's default limits.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::task::unconstrained;
use tokio_websockets::{Error, ServerBuilder};

use crate::accept;

/// Accepts from `listener` on a runtime of the calling thread alone, and sends each text and binary message back.
///
/// # Errors
///
/// The runtime cannot be made, or accepting fails, for want of descriptors for example: a load of which a part is
/// missing is not worth measuring.
pub fn serve(listener: TcpListener) -> io::Result<Infallible> {
    // Without a budget, as in the example: no message waits for another turn of the runtime.
    accept::each(listener, |stream| unconstrained(echo(stream)))
}

async fn echo(stream: TcpStream) -> Result<(), Error> {
    let (_request, mut socket) = ServerBuilder::new().accept(stream).await?;
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            // To write several at once is not up to us: before it reads, the library writes what waits.
            socket.send(message).await?;
        }
    }
    Ok(())
}
