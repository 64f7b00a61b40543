//! The log on standard error. Whoever reads it, or does not, never holds the server up: lines are written by a thread of
//! their own, from a queue that loses what it has no room for.

use std::fmt;
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::variables::{self, BadVariable, LOG};

/// How many lines wait to be written at most.
const LINES_MAX: usize = 1024;

/// How long the last lines may take.
const END_TIMEOUT: Duration = Duration::from_millis(500);

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The log, until it is dropped: then its last lines are written, if somebody takes them.
#[derive(Debug)]
pub struct Log {
    queue: Queue,
    /// Disconnected once the last line is written.
    ended: Receiver<()>,
}

impl Log {
    /// Begins to log what `filter` lets through.
    ///
    /// # Errors
    ///
    /// When no thread can be started for it.
    ///
    /// # Panics
    ///
    /// When there is a log already.
    pub fn start(format: LogFormat, filter: EnvFilter) -> io::Result<Self> {
        let (sender, messages) = mpsc::sync_channel(LINES_MAX);
        let (ends, ended) = mpsc::sync_channel(0);
        thread::Builder::new().name("ringback-log".into()).spawn(move || {
            write(&messages);
            drop(ends);
        })?;
        let queue = Queue { sender, lost: Arc::default() };
        let log =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(queue.clone()).with_target(false);
        match format {
            LogFormat::Text => log.with_ansi(is_coloured()).init(),
            LogFormat::Json => {
                log.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
            }
        }
        Ok(Self { queue, ended })
    }

    /// How many lines there was no room for.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.queue.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let began = Instant::now();
        // Behind the last line, as soon as there is room. Nobody may be reading.
        while let Err(TrySendError::Full(_)) = self.queue.sender.try_send(Message::End)
            && began.elapsed() < END_TIMEOUT
        {
            thread::sleep(Duration::from_millis(1));
        }
        let left = END_TIMEOUT.saturating_sub(began.elapsed());
        let _: Result<(), RecvTimeoutError> = self.ended.recv_timeout(left);
    }
}

/// What is logged: what `RUST_LOG` says, or else what is no more detailed than `info`.
///
/// # Errors
///
/// When `RUST_LOG` is no list of levels, or names a part that no program has.
pub fn filter() -> Result<EnvFilter, BadVariable> {
    let Some(value) = variables::read(LOG)? else {
        return Ok(EnvFilter::new("info"));
    };
    let is_level = |word: &str| {
        ["error", "warn", "info", "debug", "trace", "off"]
            .iter()
            .any(|level| level.eq_ignore_ascii_case(word))
    };
    // A word alone is a level or, to the parser, the name of a part whose lines are all logged, and no others.
    let slip = value.split(',').map(str::trim).find(|word| {
        let is_word = word.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_word && !is_level(word) && *word != env!("CARGO_PKG_NAME")
    });
    let cure = "give error, warn, info, debug, trace or off, or PART=LEVEL, such as ringback=debug";
    if let Some(slip) = slip {
        return Err(BadVariable::new(LOG, &value, format!("{slip:?} is no level: {cure}")));
    }
    EnvFilter::builder().parse(&value).map_err(|_| {
        // The parser does not say which part it means.
        let is_wrong = |word: &&str| EnvFilter::builder().parse(word).is_err();
        let wrong = value.split(',').map(str::trim).find(is_wrong).unwrap_or(&value);
        BadVariable::new(LOG, &value, format!("{wrong:?} is no PART=LEVEL: {cure}"))
    })
}

/// Writes one line on standard error, where that is open: why the process ends with this code.
pub fn complain(format: LogFormat, exit_code: u8, message: impl fmt::Display) {
    let message = message.to_string().replace(char::is_control, " ");
    let line = match format {
        LogFormat::Text => format!("ringback: {message}"),
        LogFormat::Json => {
            let timestamp = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
            serde_json::json!({
                "timestamp": timestamp,
                "level": "ERROR",
                "message": message,
                "exit_code": exit_code,
            })
            .to_string()
        }
    };
    if takes_a_line(io::stderr(), END_TIMEOUT) {
        // At once, so that lines of several processes do not mix.
        let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
    }
}

/// Waits until a line can be written without waiting: nobody may be reading from a full pipe.
pub fn takes_a_line(stream: impl AsFd, timeout: Duration) -> bool {
    let timeout = Timespec { tv_sec: 0, tv_nsec: timeout.subsec_nanos().into() };
    let mut streams = [PollFd::new(&stream, PollFlags::OUT)];
    // A signal may come meanwhile. Where the kernel does not say, it is tried.
    !matches!(retry_on_intr(|| poll(&mut streams, Some(&timeout))), Ok(0))
}

/// On a terminal, unless `NO_COLOR` is set (<https://no-color.org>).
fn is_coloured() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The thread that writes: every line that is queued, to the end.
fn write(messages: &Receiver<Message>) {
    while let Ok(Message::Line(line)) = messages.recv() {
        let _ = io::stderr().write_all(&line);
    }
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    End,
}

/// Where lines are queued.
#[derive(Clone, Debug)]
struct Queue {
    sender: SyncSender<Message>,
    lost: Arc<AtomicUsize>,
}

impl MakeWriter<'_> for Queue {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Write for Queue {
    /// Queues a line: an event is written at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(TrySendError::Full(_)) = self.sender.try_send(Message::Line(line.to_vec())) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
