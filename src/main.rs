//! The `ringback` binary: options, log, signals, exit code.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ringback::cli::{self, LogFormat, Task};
use ringback::config::Config;
use ringback::doctor;
use ringback::mask::Kernel;
use ringback::server::admin::Admin;
use ringback::server::{Server, StartError};
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
    match run(&config) {
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
fn run(config: &Config) -> Result<(), StartError> {
    // One thread, for signals and whoever asks how the server is.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Worker)?;
    runtime.block_on(async {
        // First of all, so that no signal is lost.
        let mut signals = Signals::new().map_err(StartError::Worker)?;
        let admin = config.admin.address.map(Admin::bind).transpose()?;
        let server = Arc::new(Server::start(config)?);
        announce(&server, admin.as_ref(), config);
        if let Some(admin) = admin {
            tokio::spawn(admin.serve(Arc::clone(&server)));
        }
        tokio::select! {
            () = signals.until_told_to_end(&server) => {
                tracing::info!(timeout = ?config.drain_timeout, "draining");
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
        // Questions are answered until then.
        server.all_ended().await;
        let stats = server.join().map_err(StartError::Worker)?;
        tracing::info!("ended: {stats}");
        Ok(())
    })
}

/// One line on standard output for each address; whoever started the server may wait for it.
fn announce(server: &Server, admin: Option<&Admin>, config: &Config) {
    let mut stdout = io::stdout().lock();
    let mut engines: Vec<_> = server.engines().iter().map(ToString::to_string).collect();
    engines.dedup();
    for address in server.addresses() {
        // A closed standard output is no reason to stop.
        let _ = writeln!(
            stdout,
            "listening on ws://{address}{} (engine {}, {} workers)",
            config.path,
            engines.join(" and "),
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

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => log.json().flatten_event(true).with_target(false).init(),
    }
}
