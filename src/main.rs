//! The `ringback` binary: options, log, signals, exit code.

use std::io::{self, IsTerminal as _, Write as _};
use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ringback::cli::{self, LogFormat, Task};
use ringback::config::{Config, DrainConfig};
use ringback::doctor;
use ringback::mask::Kernel;
use ringback::server::{Inherited, Server, Snapshot, StartError, inherited};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

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
    log_to_stderr(log_format);
    if let Err(error) = Kernel::requested() {
        eprintln!("ringback: {}: {error}", Kernel::VARIABLE);
        return ExitCode::from(cli::USAGE);
    }
    // While there is but this thread.
    match inherited().and_then(|inherited| run(&config, inherited)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringback: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Says what stands in the way of the best engine, and ends.
fn diagnose(config: &Config) -> ExitCode {
    let diagnosis = doctor::diagnose(config);
    // A closed standard output is no reason for another exit code.
    let _ = write!(io::stdout().lock(), "{diagnosis}");
    ExitCode::from(diagnosis.exit_code())
}

/// Serves until a signal says to end.
fn run(config: &Config, inherited: Vec<Inherited>) -> Result<(), StartError> {
    // One thread, for signals only.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Worker)?;
    runtime.block_on(async {
        // First of all, so that no signal is lost.
        let mut signals = Signals::new().map_err(StartError::Worker)?;
        let began = Instant::now();
        let server = Server::start_with(config, inherited)?;
        announce(&server, config);
        tell_manager(NotifyState::Ready);
        let at_end = run_to_end(&server, &config.drain, &mut signals).await;
        server.stop();
        let stats = server.join().map_err(StartError::Worker)?;
        tracing::info!("ended: {stats}");
        tracing::info!(
            uptime = ?began.elapsed(),
            connections = stats.accepted,
            messages = stats.texts + stats.binaries,
            bytes = stats.payload_bytes,
            drained = stats.drained,
            cut = stats.cuts - at_end.cuts,
            "ended"
        );
        Ok(())
    })
}

/// Serves until there is a reason to end, then gives what there is the time that it has. Gives the counters as they were
/// at the first signal.
async fn run_to_end(server: &Server, times: &DrainConfig, signals: &mut Signals) -> Snapshot {
    let delay = tokio::select! {
        () = signals.until_told_to_end(server) => times.delay,
        () = server.any_ended() => {
            tracing::error!("a worker has ended: the others drain");
            Duration::ZERO
        }
    };
    let stats = server.stats();
    server.leave();
    tell_manager(NotifyState::Stopping);
    let mut told_again = pin!(signals.until_told_again(server));
    if !delay.is_zero() {
        tracing::info!(?delay, "not ready any more: the drain begins later");
    }
    let drain = async {
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = server.any_ended() => {}
        }
        tracing::info!(timeout = ?times.timeout, "draining");
        server.drain();
        tokio::select! {
            () = server.all_ended() => {}
            () = tokio::time::sleep(times.timeout) => {
                tracing::warn!("the drain timeout has passed: what is left is cut");
            }
        }
    };
    tokio::select! {
        () = drain => {}
        () = &mut told_again => tracing::warn!("a second signal: what is left is cut"),
    }
    stats
}

/// Tells a service manager that wants to know, one that has set `NOTIFY_SOCKET` (sd_notify(3)).
fn tell_manager(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

/// One line on standard output for each address; whoever started the server may wait for it.
fn announce(server: &Server, config: &Config) {
    let mut stdout = io::stdout().lock();
    let mut engines: Vec<_> = server.engines().iter().map(ToString::to_string).collect();
    engines.dedup();
    for address in server.addresses() {
        // A closed standard output is no reason to stop.
        let _ = writeln!(
            stdout,
            "listening on {} (engine {}, {} workers)",
            address.url(&config.path),
            engines.join(" and "),
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
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            stats: signal(SignalKind::user_defined1())?,
            hangup: signal(SignalKind::hangup())?,
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

    /// Waits for SIGTERM or SIGINT; SIGUSR1 logs the counters meanwhile, and SIGHUP, which would end a process that does
    /// not take it, does nothing.
    async fn until_told_to_end(&mut self, server: &Server) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.stats.recv() => tracing::info!("counters: {}", server.stats()),
                _ = self.hangup.recv() => {
                    tracing::info!("SIGHUP: there is nothing to reload, options are read at the start only");
                }
            }
        }
    }
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => log.json().flatten_event(true).with_target(false).init(),
    }
}
