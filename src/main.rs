//! The `ringback` binary: options, log, signals, exit code.

use std::io::{self, Write as _};
use std::panic;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringback::allocator;
use ringback::cli::{self, Task};
use ringback::config::{Address, Config, DrainConfig};
use ringback::counters::Snapshot;
use ringback::doctor;
use ringback::logging::{self, Log, LogFormat, complain};
use ringback::proto::handshake::ANY;
use ringback::server::admin::Admin;
use ringback::server::{Inherited, Server, StartError, check_resources, inherited};
use ringback::{system, variables};
use sd_notify::NotifyState;
use signal_hook::flag;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `EX_SOFTWARE` of sysexits.h: the code of a bug.
const SOFTWARE: u8 = 70;

/// How long a line on standard output is waited with, where nobody takes it.
const STDOUT_TIMEOUT: Duration = Duration::from_millis(200);

/// Within this time a second signal to end counts as the first one.
const ECHO_TIME: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    allocator::avoid_huge_pages();
    take_stray_signals();
    let (task, config, log_format) = match cli::parse() {
        Ok(parsed) => parsed,
        Err(code) => return code,
    };
    let ended = panic::catch_unwind(|| match task {
        Task::Doctor => diagnose(&config, log_format),
        _ => serve(&config, log_format).map(|()| ExitCode::SUCCESS),
    });
    // A panic has said itself what it is.
    ended.unwrap_or(Ok(ExitCode::from(SOFTWARE))).unwrap_or_else(|error| {
        complain(log_format, error.exit_code(), &error);
        ExitCode::from(error.exit_code())
    })
}

/// Takes the signals that end nothing here, from the first moment on. SIGPIPE is ignored by Rust.
fn take_stray_signals() {
    for signal in system::stray_signals().chain([libc::SIGHUP]) {
        // Where the kernel refuses that, the signal does what it always does.
        let _ = flag::register(signal, Arc::default());
    }
}

/// What the environment says beside the options.
struct Environment {
    filter: EnvFilter,
    inherited: Vec<Inherited>,
    has_manager: bool,
}

impl Environment {
    /// Reads it, while there is but this thread.
    fn read() -> Result<Self, StartError> {
        variables::mask()?;
        let (filter, has_manager) = (logging::filter()?, variables::has_manager()?);
        Ok(Self { filter, has_manager, inherited: inherited()? })
    }
}

/// Says what stands in the way of a server with these options, and of the best engine.
fn diagnose(config: &Config, log_format: LogFormat) -> Result<ExitCode, StartError> {
    let diagnosis = doctor::diagnose(config, Environment::read()?.inherited);
    let code = ExitCode::from(diagnosis.exit_code());
    let written = write!(io::stdout().lock(), "{diagnosis}");
    Ok(if written.is_err() { cli::written(written, log_format) } else { code })
}

/// Serves, and logs what there is to say at the end.
fn serve(config: &Config, log_format: LogFormat) -> Result<(), StartError> {
    let Environment { filter, inherited, has_manager } = Environment::read()?;
    if log_format == LogFormat::Json {
        panic::set_hook(Box::new(|panic| complain(LogFormat::Json, SOFTWARE, panic)));
    }
    check_resources()?;
    let log = Log::start(log_format, filter).map_err(StartError::refused("a thread for the log"))?;
    // The log is dropped here: its lines come before what is said last.
    run(config, inherited, has_manager).map(|end| end.log(log.lost()))
}

/// Serves until a signal says to end.
fn run(config: &Config, inherited: Vec<Inherited>, has_manager: bool) -> Result<End, StartError> {
    let refused = || StartError::refused("what signals need");
    // One thread, for signals and whoever asks how the server is.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused())?;
    runtime.block_on(async {
        // First of all, so that no signal is lost.
        let mut signals = Signals::new().map_err(refused())?;
        let manager = Manager { is_there: has_manager };
        let began = Instant::now();
        let admin = config.admin.address.map(Admin::bind).transpose()?;
        let server = Arc::new(Server::start_with(config, inherited)?);
        log_start(&server, admin.as_ref(), config);
        announce(&server, admin.as_ref(), config);
        if let Some(admin) = admin {
            tokio::spawn(admin.serve(Arc::clone(&server)));
        }
        manager.tell(NotifyState::Ready);
        let before = run_to_end(&server, &config.drain, manager, &mut signals).await;
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
    let cpus = server.cpus().map(tracing::field::display);
    tracing::info!(version, engine = engines, workers, cpus, "started");
    let path = if config.access.takes_any_path() { ANY } else { config.access.first_path() };
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
async fn run_to_end(
    server: &Server,
    times: &DrainConfig,
    manager: Manager,
    signals: &mut Signals,
) -> Snapshot {
    let (delay, is_told) = tokio::select! {
        told = signals.until_told_to_end(server) => match told {
            Told::Drain => (times.delay, true),
            Told::End => {
                tracing::warn!("SIGQUIT: all connections are cut");
                manager.tell(NotifyState::Stopping);
                return server.stats();
            }
        },
        () = server.any_ended() => {
            tracing::error!("a worker has ended: the others drain");
            (Duration::ZERO, false)
        }
    };
    let stats = server.stats();
    server.leave();
    manager.tell(NotifyState::Stopping);
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
        let connections = server.stats().levels.connections;
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

/// A service manager, which may have set `NOTIFY_SOCKET` (sd_notify(3)).
#[derive(Clone, Copy)]
struct Manager {
    is_there: bool,
}

impl Manager {
    /// Tells it, if it is there.
    fn tell(self, state: NotifyState<'_>) {
        if !self.is_there {
            return;
        }
        if let Err(error) = sd_notify::notify(&[state]) {
            tracing::warn!(%error, "the service manager cannot be told");
        }
    }
}

/// One line on standard output for each address; whoever started the server may wait for it.
fn announce(server: &Server, admin: Option<&Admin>, config: &Config) {
    let (engines, workers) = (engines(server), server.engines().len());
    let listening =
        server.addresses().iter().zip(server.client_addresses()).map(|(address, client_address)| {
            let url = client_address.url(config.access.first_path());
            let (scope, cpus) = (scope(address, client_address), on_cpus(server));
            let paths = if config.access.takes_any_path() { "any path, " } else { "" };
            format!("listening on {url} ({scope}{paths}engine {engines}, {workers} workers{cpus})\n")
        });
    let admin = admin.map(|admin| format!("admin on http://{}\n", admin.address()));
    let mut stdout = io::stdout();
    for line in listening.chain(admin) {
        if !logging::takes_a_line(&stdout, STDOUT_TIMEOUT) {
            return tracing::warn!(
                "nobody reads standard output: where the server listens is not said there"
            );
        }
        // A closed standard output is no reason to stop.
        let _ = stdout.write_all(line.as_bytes());
    }
}

/// What a signal asks for.
enum Told {
    /// To drain.
    Drain,
    /// To end at once.
    End,
}

/// Which further addresses a listener has beside the one that is said.
fn scope(address: &Address, client_address: &Address) -> &'static str {
    match (address.ip(), client_address.ip()) {
        (Some(address), Some(client_address)) if address.ip().is_unspecified() => {
            match (address.is_ipv6(), client_address.is_ipv6()) {
                (false, _) => "all IPv4 addresses, ",
                (true, true) => "all IPv6 addresses, ",
                (true, false) => "all addresses, ",
            }
        }
        _ => "",
    }
}

/// On which CPUs the workers are kept.
fn on_cpus(server: &Server) -> String {
    server.cpus().map(|cpus| format!(" on CPUs {cpus}")).unwrap_or_default()
}

/// The signals that a server listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    stats: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            stats: signal(SignalKind::user_defined1())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a further one. What comes right behind the first is the same one, sent to the group too; not SIGQUIT.
    async fn until_told_again(&mut self, server: &Server) {
        let echoes = async { while let Told::Drain = self.until_told_to_end(server).await {} };
        if tokio::time::timeout(ECHO_TIME, echoes).await.is_ok() {
            return;
        }
        self.until_told_to_end(server).await;
    }

    /// Waits for SIGTERM, SIGINT or SIGQUIT; SIGUSR1 logs the counters meanwhile, and SIGHUP does nothing.
    async fn until_told_to_end(&mut self, server: &Server) -> Told {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Told::Drain,
                _ = self.interrupt.recv() => return Told::Drain,
                _ = self.quit.recv() => return Told::End,
                _ = self.stats.recv() => tracing::info!("counters: {}", server.stats()),
                _ = self.hangup.recv() => {
                    tracing::info!("SIGHUP: there is nothing to reload, options are read at the start only");
                }
            }
        }
    }
}
