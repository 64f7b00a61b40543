//! The `ringback` binary: options, log, signals, exit code.

use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use ringback::cli::{self, LogFormat, Task};
use ringback::config::Config;
use ringback::doctor;
use ringback::logging::Log;
use ringback::mask::Kernel;
use ringback::server::{Server, Snapshot, StartError};
use tokio::signal::unix::{Signal, SignalKind, signal};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Within this time a second signal to end counts as the first one.
const ECHO_TIME: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let (task, config, log_format) = match cli::parse() {
        Ok(parsed) => parsed,
        Err(code) => return code,
    };
    if task == Task::Doctor {
        return diagnose(&config);
    }
    if let Err(error) = Kernel::requested() {
        say(format_args!("{}: {error}", Kernel::VARIABLE));
        return ExitCode::from(cli::USAGE);
    }
    let log = Log::start(log_format);
    let ended = run(&config).map(|stats| log_end(&stats, log_format, log.lost()));
    // What was logged comes before what is said last.
    drop(log);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("{error}"));
            ExitCode::from(error.exit_code())
        }
    }
}

/// One line on standard error, where that is open.
fn say(message: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "ringback: {message}");
}

/// Says what stands in the way of the best engine, and ends.
fn diagnose(config: &Config) -> ExitCode {
    let diagnosis = doctor::diagnose(config);
    // A closed standard output is no reason for another exit code.
    let _ = write!(io::stdout().lock(), "{diagnosis}");
    ExitCode::from(diagnosis.exit_code())
}

/// Serves until a signal says to end. Gives the last counters.
fn run(config: &Config) -> Result<Snapshot, StartError> {
    // One thread, for signals only.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Worker)?;
    runtime.block_on(async {
        // First of all, so that no signal is lost.
        let mut signals = Signals::new().map_err(StartError::Worker)?;
        let server = Server::start(config)?;
        log_start(&server, config);
        announce(&server, config);
        tokio::select! {
            () = signals.until_told_to_end(&server) => {
                let Snapshot { accepted, ended, .. } = server.stats();
                let connections = accepted.saturating_sub(ended);
                tracing::info!(connections, timeout = ?config.drain_timeout, "draining");
            }
            () = server.any_ended() => tracing::error!("a worker has ended: the others drain"),
        }
        server.drain();
        tokio::select! {
            () = server.all_ended() => {}
            () = tokio::time::sleep(config.drain_timeout) => {
                tracing::warn!("the drain timeout has passed: what is left is cut");
            }
            () = signals.until_told_again(&server) => tracing::warn!("a second signal: what is left is cut"),
        }
        server.stop();
        server.join().map_err(StartError::Worker)
    })
}

/// What runs, and where.
fn log_start(server: &Server, config: &Config) {
    let (version, engines, workers) = (env!("CARGO_PKG_VERSION"), engines(server), server.engines().len());
    tracing::info!(version, engine = engines, workers, "started");
    let path = config.access.first_path();
    for address in server.addresses() {
        tracing::info!(%address, path, "listening");
    }
}

/// The last line: the counters, all of them for people, totals by name for programs.
fn log_end(stats: &Snapshot, format: LogFormat, lost: usize) {
    if lost > 0 {
        tracing::warn!(lost, "lines of the log were lost: nobody read it in time");
    }
    match format {
        LogFormat::Text => tracing::info!("ended: {stats}"),
        LogFormat::Json => tracing::info!(
            accepted = stats.accepted,
            handshakes = stats.handshakes,
            refusals = stats.refusals,
            proxy_errors = stats.proxy_errors,
            protocol_errors = stats.protocol_errors,
            cuts = stats.cuts,
            texts = stats.texts,
            binaries = stats.binaries,
            payload_bytes = stats.payload_bytes,
            "ended"
        ),
    }
}

/// The engines of the workers by name.
fn engines(server: &Server) -> String {
    let mut engines: Vec<_> = server.engines().iter().map(ToString::to_string).collect();
    engines.dedup();
    engines.join(" and ")
}

/// One line on standard output for each address; whoever started the server may wait for it.
fn announce(server: &Server, config: &Config) {
    let mut stdout = io::stdout().lock();
    let engines = engines(server);
    for address in server.addresses() {
        // A closed standard output is no reason to stop.
        let _ = writeln!(
            stdout,
            "listening on ws://{address}{} (engine {}, {} workers)",
            config.access.first_path(),
            engines,
            server.engines().len(),
        );
    }
    let _ = stdout.flush();
}

/// The signals that a server listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    stats: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            stats: signal(SignalKind::user_defined1())?,
        })
    }

    /// Waits for a further one. What comes right behind the first is the same one, sent to the group too.
    async fn until_told_again(&mut self, server: &Server) {
        let echoes = async {
            loop {
                self.until_told_to_end(server).await;
            }
        };
        let _: Result<(), _> = tokio::time::timeout(ECHO_TIME, echoes).await;
        self.until_told_to_end(server).await;
    }

    /// Waits for SIGTERM or SIGINT; SIGUSR1 logs the counters meanwhile.
    async fn until_told_to_end(&mut self, server: &Server) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.stats.recv() => tracing::info!("counters: {}", server.stats()),
            }
        }
    }
}
