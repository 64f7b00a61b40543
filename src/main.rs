//! The `ringback` binary: options, log, signals, exit code.

use std::fmt;
use std::io::{self, Write as _};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringback::cli::{self, Task};
use ringback::config::{Config, DrainConfig};
use ringback::counters::Snapshot;
use ringback::doctor;
use ringback::logging::Log;
use ringback::mask::Kernel;
use ringback::server::admin::Admin;
use ringback::server::{Inherited, Server, StartError, inherited};
use sd_notify::NotifyState;
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
    // While there is but this thread.
    let inherited = match inherited() {
        Ok(inherited) => inherited,
        Err(error) => return fail(&error),
    };
    let log = Log::start(log_format);
    let ended = run(&config, inherited).map(|end| end.log(log.lost()));
    // What was logged comes before what is said last.
    drop(log);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
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

/// Says why there is no server, or no more, and how to end.
fn fail(error: &StartError) -> ExitCode {
    say(format_args!("{error}"));
    ExitCode::from(error.exit_code())
}

/// Serves until a signal says to end.
fn run(config: &Config, inherited: Vec<Inherited>) -> Result<End, StartError> {
    // One thread, for signals and whoever asks how the server is.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Worker)?;
    runtime.block_on(async {
        // First of all, so that no signal is lost.
        let mut signals = Signals::new().map_err(StartError::Worker)?;
        let began = Instant::now();
        let admin = config.admin.address.map(Admin::bind).transpose()?;
        let server = Arc::new(Server::start_with(config, inherited)?);
        log_start(&server, admin.as_ref(), config);
        announce(&server, admin.as_ref(), config);
        if let Some(admin) = admin {
            tokio::spawn(admin.serve(Arc::clone(&server)));
        }
        tell_manager(NotifyState::Ready);
        let before = run_to_end(&server, &config.drain, &mut signals).await;
        server.stop();
        // Questions are answered until then.
        server.all_ended().await;
        let stats = server.join().map_err(StartError::Worker)?;
        Ok(End { before, stats, uptime: began.elapsed() })
    })
}

/// What runs, and where.
fn log_start(server: &Server, admin: Option<&Admin>, config: &Config) {
    let (version, engines, workers) = (env!("CARGO_PKG_VERSION"), engines(server), server.engines().len());
    tracing::info!(version, engine = engines, workers, "started");
    let path = config.access.first_path();
    for address in server.addresses() {
        tracing::info!(%address, path, "listening");
    }
    if let Some(admin) = admin {
        tracing::info!(address = %admin.address(), "admin listening");
    }
}

/// What there is to say at the end.
struct End {
    /// The counters at the first signal, and the last ones.
    before: Snapshot,
    stats: Snapshot,
    uptime: Duration,
}

impl End {
    /// The last lines: all counters, and a summary.
    fn log(&self, lost: usize) {
        if lost > 0 {
            tracing::warn!(lost, "lines of the log were lost: nobody read it in time");
        }
        let Self { before, stats, uptime } = self;
        tracing::info!("counters: {stats}");
        tracing::info!(
            uptime_ms = u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
            connections = stats.accepted,
            handshakes = stats.handshakes,
            refusals = stats.refusals,
            proxy_errors = stats.proxy_errors,
            protocol_errors = stats.protocol_errors,
            messages = stats.texts + stats.binaries,
            payload_bytes = stats.payload_bytes(),
            drained = stats.drained,
            cut = stats.cuts - before.cuts,
            "ended"
        );
    }
}

/// The engines of the workers by name.
fn engines(server: &Server) -> String {
    let mut engines: Vec<_> = server.engines().iter().map(ToString::to_string).collect();
    engines.dedup();
    engines.join(" and ")
}

/// Serves until there is a reason to end, then gives what there is the time that it has. Gives the counters as they were
/// at the first signal.
async fn run_to_end(server: &Server, times: &DrainConfig, signals: &mut Signals) -> Snapshot {
    let (delay, is_told) = tokio::select! {
        () = signals.until_told_to_end(server) => (times.delay, true),
        () = server.any_ended() => {
            tracing::error!("a worker has ended: the others drain");
            (Duration::ZERO, false)
        }
    };
    let stats = server.stats();
    server.leave();
    tell_manager(NotifyState::Stopping);
    let mut told_again = pin!(async {
        if !is_told {
            signals.until_told_to_end(server).await;
        }
        signals.until_told_again(server).await;
    });
    if !delay.is_zero() {
        tracing::info!(?delay, "not ready any more: the drain begins later");
    }
    let drain = async {
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = server.any_ended() => {}
        }
        let Snapshot { accepted, ended, .. } = server.stats();
        let connections = accepted.saturating_sub(ended);
        tracing::info!(connections, timeout = ?times.timeout, "draining");
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
fn announce(server: &Server, admin: Option<&Admin>, config: &Config) {
    let mut stdout = io::stdout().lock();
    let engines = engines(server);
    for address in server.addresses() {
        // A closed standard output is no reason to stop.
        let _ = writeln!(
            stdout,
            "listening on {} (engine {}, {} workers)",
            address.url(config.access.first_path()),
            engines,
            server.engines().len(),
        );
    }
    if let Some(admin) = admin {
        let _ = writeln!(stdout, "admin on http://{}", admin.address());
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
