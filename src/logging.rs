//! The log on standard error. Whoever reads it, or does not, never holds the server up: lines are written by a thread of
//! their own, from a queue that loses what it has no room for.

use std::io::{self, IsTerminal as _, Write};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::cli::LogFormat;

/// How many lines wait to be written at most.
const LINES_MAX: usize = 1024;

/// How long the last lines may take.
const END_TIMEOUT: Duration = Duration::from_millis(500);

/// The log, until it is dropped: then its last lines are written, if somebody takes them.
#[derive(Debug)]
pub struct Log {
    guard: Option<WorkerGuard>,
    lost: ErrorCounter,
    is_writing: Arc<AtomicBool>,
}

impl Log {
    /// Begins to log what RUST_LOG says, or else what is no more detailed than `info`.
    ///
    /// # Panics
    ///
    /// When there is a log already, or no thread can be started.
    #[must_use]
    pub fn start(format: LogFormat) -> Self {
        let is_writing = Arc::new(AtomicBool::new(false));
        let writer = Watched { stderr: io::stderr(), is_writing: Arc::clone(&is_writing) };
        let (queue, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(LINES_MAX)
            .thread_name("ringback-log")
            .finish(writer);
        let lost = queue.error_counter();
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(queue).with_target(false);
        match format {
            LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).init(),
            LogFormat::Json => {
                log.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
            }
        }
        Self { guard: Some(guard), lost, is_writing }
    }

    /// How many lines there was no room for.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.lost.dropped_lines()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let began = Instant::now();
        while self.is_writing.load(Ordering::Relaxed) && began.elapsed() < END_TIMEOUT {
            thread::sleep(Duration::from_millis(1));
        }
        if self.is_writing.load(Ordering::Relaxed) {
            // Nobody reads. The guard would wait for a thread that waits for ever, and say so on standard output.
            mem::forget(self.guard.take());
        }
    }
}

/// Standard error, and whether a write to it is under way.
struct Watched {
    stderr: io::Stderr,
    is_writing: Arc<AtomicBool>,
}

impl Write for Watched {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.is_writing.store(true, Ordering::Relaxed);
        let written = self.stderr.write(bytes);
        self.is_writing.store(false, Ordering::Relaxed);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stderr.flush()
    }
}
