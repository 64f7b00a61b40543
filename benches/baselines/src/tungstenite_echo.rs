//! A WebSocket echo on tokio-tungstenite, as most people write it.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::TcpListener;
use std::task::Poll;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Message, Result};

use crate::accept;

/// When replies leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Each on its own, which is what `send` does.
    EachMessage,
    /// Together, once no further message has come.
    WhenIdle,
}

/// Accepts from `listener` on a runtime of the calling thread alone, and sends each text and binary message back.
///
/// # Errors
///
/// The runtime cannot be made, or accepting fails, for want of descriptors for example: a load of which a part is
/// missing is not worth measuring.
pub fn serve(listener: TcpListener, flush: Flush) -> io::Result<Infallible> {
    accept::each(listener, move |stream| echo(stream, flush))
}

async fn echo(stream: TcpStream, flush: Flush) -> Result<()> {
    let socket = tokio_tungstenite::accept_async(stream).await?;
    match flush {
        Flush::EachMessage => echo_each(socket).await,
        Flush::WhenIdle => echo_batches(socket).await,
    }
}

async fn echo_each(mut socket: WebSocketStream<TcpStream>) -> Result<()> {
    while let Some(message) = socket.next().await {
        let message = message?;
        if is_data(&message) {
            socket.send(message).await?;
        }
    }
    Ok(())
}

async fn echo_batches(mut socket: WebSocketStream<TcpStream>) -> Result<()> {
    while let Some(first) = socket.next().await {
        let mut next = Some(first);
        while let Some(message) = next {
            let message = message?;
            if is_data(&message) {
                socket.feed(message).await?;
            }
            next = poll_fn(|context| match socket.poll_next_unpin(context) {
                Poll::Ready(message) => Poll::Ready(message),
                Poll::Pending => Poll::Ready(None),
            })
            .await;
        }
        socket.flush().await?;
    }
    Ok(())
}

fn is_data(message: &Message) -> bool {
    message.is_text() || message.is_binary()
}
