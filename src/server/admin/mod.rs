//! How the server is, over HTTP: whether it lives, whether it takes connections, and all its counters.
//!
//! It runs on the runtime of `main`'s thread and only reads what the workers write, so it answers while they are busy and
//! while they drain, and whoever asks, in whatever way, costs them nothing.

mod guests;
mod list;
mod metrics;
mod process;

use std::convert::Infallible;
use std::net::{self, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_io_timeout::TimeoutStream;

use super::{Life, Server, StartError, WorkerView};
use crate::config::Address;
use crate::engine::PAUSE;
use guests::{Guests, Place};
use metrics::Format;

/// How many connections there are at once; a further one takes the place of another.
const CONNECTIONS_MAX: usize = 64;

/// What it opens at most: its listener, its connections, one that is about to take a place, and what is read of `/proc`.
pub(super) const DESCRIPTORS_MAX: usize = CONNECTIONS_MAX + 4;

/// How long a request's head may take, and how long a connection may be silent before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take nothing of a response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection is kept; what is under way then is finished first.
const KEPT_FOR: Duration = Duration::from_secs(300);

/// The longest head in bytes.
const HEAD_MAX: usize = 8 << 10;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// What can be asked for.
const PATHS: [&str; 4] = ["/healthz", "/readyz", "/metrics", "/stats.json"];

/// A listener for those who ask how the server is.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

impl Admin {
    /// Listens at `address`.
    ///
    /// # Errors
    ///
    /// [`StartError::Bind`] when it is in use, not this machine's, or not allowed.
    ///
    /// # Panics
    ///
    /// Outside of a runtime of tokio.
    pub fn bind(address: SocketAddr) -> Result<Self, StartError> {
        let bind = |listener: net::TcpListener| {
            listener.set_nonblocking(true)?;
            Ok(Self { address: listener.local_addr()?, listener: TcpListener::from_std(listener)? })
        };
        bind(listen(address)?).map_err(StartError::refused("the admin listener"))
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers for `server`, as long as it is polled.
    pub async fn serve(self, server: Arc<Server>) {
        let guests = Guests::new(CONNECTIONS_MAX);
        loop {
            match self.listener.accept().await {
                Ok((socket, _)) => {
                    let (place, server) = (guests.enter().await, Arc::clone(&server));
                    tokio::spawn(async move { converse(socket, &server, &place).await });
                }
                // What the peer did is over at once; what ran out comes back, perhaps.
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

/// The socket of an admin listener.
///
/// # Errors
///
/// As [`Admin::bind`].
pub(crate) fn listen(address: SocketAddr) -> Result<net::TcpListener, StartError> {
    let fail = |source| StartError::Bind { address: Address::Ip(address), option: "--admin", source };
    net::TcpListener::bind(address).map_err(fail)
}

/// One connection, to its end.
async fn converse(socket: TcpStream, server: &Server, place: &Place) {
    let mut socket = TimeoutStream::new(socket);
    socket.set_write_timeout(Some(WRITE_TIMEOUT));
    let mut socket = Box::pin(socket);
    let answer = service_fn(|request| async move {
        place.on_request();
        // Others come between the requests that one client has sent at once.
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(answer(&request, server))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(socket.as_mut()), answer);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        biased;
        () = place.dismissed() => return tracing::debug!("an admin connection gave its place to another"),
        ended = connection.as_mut() => ended,
        () = tokio::time::sleep(KEPT_FOR) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an admin connection broke off");
    }
}

fn answer(request: &Request<Incoming>, server: &Server) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if !PATHS.contains(&path) {
        let text = format!("there is nothing here but {}\n", PATHS.join(", "));
        return response(StatusCode::NOT_FOUND, TEXT, text);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET and HEAD only\n".into());
        refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match path {
        "/healthz" => healthz(&server.workers()),
        "/readyz" => match server.readiness() {
            Ok(()) => response(StatusCode::OK, TEXT, "ready\n".into()),
            Err(unready) => {
                response(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("not ready: {unready}\n"))
            }
        },
        "/metrics" => {
            let format = Format::asked_for(request.headers());
            response(StatusCode::OK, format.content_type(), metrics::text(server, format))
        }
        _ => response(StatusCode::OK, JSON, metrics::json(server)),
    }
}

/// Whether every worker lives, or has ended because it was told to.
fn healthz(workers: &[WorkerView]) -> Response<Full<Bytes>> {
    let failed = workers.iter().enumerate().filter(|(_, worker)| worker.life == Life::Failed);
    let failed: String = failed.map(|(index, _)| format!("worker {index} has ended\n")).collect();
    if failed.is_empty() {
        response(StatusCode::OK, TEXT, "ok\n".into())
    } else {
        response(StatusCode::SERVICE_UNAVAILABLE, TEXT, failed)
    }
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpSocket;
    use tokio::time::Instant;

    use super::*;
    use crate::config::{Config, EngineChoice, ListeningConfig};

    /// An admin listener of a small server. The clock goes on to the next timer whenever nothing can be done.
    fn start() -> SocketAddr {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config {
            listening: ListeningConfig {
                addresses: vec![Address::Ip(anywhere)],
                ..ListeningConfig::default()
            },
            engine: EngineChoice::Epoll,
            workers: Some(1),
            pin: false,
            ..Config::default()
        };
        let server = Server::start(&config).expect("a free port");
        let admin = Admin::bind(anywhere).expect("a free port");
        let address = admin.address();
        tokio::spawn(admin.serve(Arc::new(server)));
        address
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_slow_to_ask_is_cut_off() {
        let address = start();
        let request = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
        for (before, answers) in [(&b""[..], 0), (&request[..20], 0), (request, 1)] {
            let began = Instant::now();
            let mut client = TcpStream::connect(address).await.expect("it listens");
            client.write_all(before).await.expect("it listens");
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.expect("an end");
            assert_eq!(answer.matches("200 OK").count(), answers, "{answer}");
            assert!((HEAD_TIMEOUT..KEPT_FOR).contains(&began.elapsed()), "{:?}", began.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_no_answers_is_cut_off() {
        let address = start();
        let socket = TcpSocket::new_v4().expect("IPv4");
        socket.set_recv_buffer_size(4096).expect("a size");
        let mut client = socket.connect(address).await.expect("it listens");
        // More than the sockets and the server hold.
        let requests = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(5000);
        let (mut reading, mut writing) = client.split();
        let began = Instant::now();
        // It stops to read them too, and then it ends.
        let written = tokio::time::timeout(KEPT_FOR, writing.write_all(requests.as_bytes())).await;
        tokio::time::sleep(2 * WRITE_TIMEOUT).await;
        let mut answers = Vec::new();
        let _ = reading.read_to_end(&mut answers).await;
        let answers = String::from_utf8_lossy(&answers).matches("HTTP/1.1 200 OK").count();
        assert!(answers < 5000, "{written:?}");
        assert!(began.elapsed() < KEPT_FOR, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_stays_for_ever() {
        let address = start();
        let mut client = TcpStream::connect(address).await.expect("it listens");
        let began = Instant::now();
        let mut answers = 0;
        // A request every 5 s, until the connection ends.
        loop {
            let asked = client.write_all(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let mut answer = [0; 1024];
            match client.read(&mut answer).await {
                Ok(read) if read > 0 && asked.is_ok() => answers += 1,
                _ => break,
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        let kept_for = KEPT_FOR..KEPT_FOR + HEAD_TIMEOUT;
        assert!(answers > 10 && kept_for.contains(&began.elapsed()), "{answers} in {:?}", began.elapsed());
    }
}
