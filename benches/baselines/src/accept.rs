//! What the servers on tokio share: a runtime of one thread, and a task for each connection.

use std::convert::Infallible;
use std::io::{self, ErrorKind};

use tokio::net::{TcpListener, TcpStream};

/// Accepts from `listener` on a runtime of the calling thread alone, and gives each connection to `serve` in a task of
/// its own.
///
/// # Errors
///
/// The runtime cannot be made, or accepting fails, for want of descriptors for example: a load of which a part is
/// missing is not worth measuring.
pub(crate) fn each<F>(
    listener: std::net::TcpListener,
    serve: impl Fn(TcpStream) -> F,
) -> io::Result<Infallible>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let connection = serve(stream);
                    tokio::spawn(async move {
                        // What went wrong is the client's to report: its echo is missing.
                        drop(connection.await);
                    });
                }
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    })
}
