//! `ringback doctor`: what stands in the way of a server with these options, of the ring engine on this machine, and of
//! many connections, and what would cure it.
//!
//! Looking at things is done here; `findings` judges what was seen.

mod findings;

use std::fmt;
use std::io;
use std::sync::{Mutex, mpsc};
use std::thread;

use clap::ValueEnum as _;
use rustix::process::{Resource, getrlimit};

use crate::config::{Config, EngineChoice};
use crate::engine::ring::obstacle::Obstacle;
use crate::engine::ring::probe::{self, Support};
use crate::engine::ring::{PATIENCE, SUBMISSIONS, set_up};
use crate::engine::{self, Engine};
use crate::server::{
    Descriptors, Inherited, Placement, StartError, admin, bind_listeners, check_resources,
    direct_connections_max, wanted,
};
use crate::system::{self, CAP_IPC_LOCK, Status, Sysctl};

/// What was found, in the order in which things depend on each other.
#[derive(Debug)]
pub struct Diagnosis {
    findings: Vec<Finding>,
    /// The exit code of a server that cannot start.
    refusal: Option<u8>,
    ring_runs: bool,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How it is.
    pub verdict: Verdict,
    /// What was looked at, and what was seen; one line.
    pub found: String,
    /// What to do about it; one line.
    pub cure: Option<String>,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// In nobody's way, and good to know.
    Note,
    /// The server cannot start with these options, or not with the ring engine where nobody has asked for another.
    Fail,
}

/// Looks at everything that the ring engine, or any other one with these options, depends on, and tries what a server does
/// at its start. It takes the sockets that the process was handed.
#[must_use]
pub fn diagnose(config: &Config, inherited: Vec<Inherited>) -> Diagnosis {
    let status = Status::of_this_process();
    let placement = Placement::find(config);
    let workers = placement.as_ref().map_or(1, |placement| placement.workers);
    // Before rings are set up for every worker: their locked memory is counted for a while after they are gone.
    let mut works = Vec::new();
    let support = probe::probe_aloud(&mut |what| works.push(what));
    let (engine, asked) = (engine::choose(None), engine::choose(wanted(config.engine)));
    let rings = support.is_ok().then(|| rings_for(workers));

    let mut findings = vec![
        findings::kernel(&system::release()),
        findings::sysctl(Sysctl::read(), &status),
        findings::seccomp(status.seccomp, support.is_ok()),
    ];
    findings.extend(works.into_iter().map(|what| Finding::ok(format!("ring: {what}"))));
    findings.extend(ring(&support));
    if let Some(rings) = &rings {
        let limit = getrlimit(Resource::Memlock).current;
        findings.push(findings::memlock(limit, status.may(CAP_IPC_LOCK), rings, workers));
    }
    // How many connections it may have depends on the options too.
    let ring_runs = findings.iter().all(|finding| finding.verdict != Verdict::Fail);
    let direct = direct_connections_max(config.max_connections, workers);
    let others = Descriptors { workers, inherited: inherited.len() }.connections_max(config);
    findings.extend([
        // Raised to the hard limit meanwhile, as the server raises it.
        findings::open_files(getrlimit(Resource::Nofile).current, workers, &direct, &others),
        findings::backlog(system::sysctl_number("net.core.somaxconn"), config.listening.backlog),
        findings::congestion_control(
            config.listening.congestion_control.as_deref(),
            system::sysctl("net.ipv4.tcp_congestion_control").as_deref(),
            system::sysctl("net.ipv4.tcp_available_congestion_control").as_deref(),
        ),
        findings::engine(&engine),
    ]);
    if matches!(config.engine, EngineChoice::TokioUring | EngineChoice::Epoll) {
        // What that engine cannot do without is tried below.
        for finding in &mut findings {
            finding.verdict = if finding.verdict == Verdict::Fail { Verdict::Note } else { finding.verdict };
        }
    }
    // In the order of the server's start, so that the first failure is the one that would end it.
    let mut start =
        vec![check_resources().map(|()| "there are descriptors and memory to begin with".to_owned())];
    start.push(
        try_threads(workers + 1)
            .map(|()| format!("threads: one for each of {workers} workers, and the log's")),
    );
    start.extend(
        config
            .admin
            .address
            .map(|address| admin::listen(address).map(|_| format!("`--admin {address}` can be listened on"))),
    );
    let room = match &asked {
        Ok(Engine::Ring) => direct.map(drop),
        _ => others.map(drop),
    };
    start.push(asked.map_err(StartError::from).and_then(|engine| {
        room.map(|()| format!("`--engine {}` can run, as {engine}", name(config.engine)))
    }));
    start.extend(placement.err().map(Err));
    start.push(bind_listeners(&config.listening, inherited, workers).map(|bound| {
        let addresses: Vec<_> = bound.addresses.iter().map(ToString::to_string).collect();
        format!("can be listened on: {}", addresses.join(", "))
    }));
    let refusal = start.iter().find_map(|tried| tried.as_ref().err()).map(StartError::exit_code);
    findings.extend(
        start.into_iter().map(|tried| tried.map_or_else(|error| findings::start(&error), Finding::ok)),
    );
    Diagnosis { findings, refusal, ring_runs }
}

/// Starts so many threads, which are there at the same time.
fn try_threads(count: usize) -> Result<(), StartError> {
    let (end, ended) = mpsc::channel::<()>();
    let ended = &Mutex::new(ended);
    thread::scope(move |scope| {
        // Dropped on each way out, which ends the threads.
        let _end = end;
        for _ in 0..count {
            let wait = move || drop(ended.lock().map(|ended| ended.recv()));
            let thread = thread::Builder::new().spawn_scoped(scope, wait);
            thread.map_err(StartError::refused(format!("{count} threads")))?;
        }
        Ok(())
    })
}

/// The name of an engine as the option has it.
fn name(engine: EngineChoice) -> String {
    engine.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// What has no place among the things that work.
fn ring(support: &Result<Support, Obstacle>) -> Vec<Finding> {
    match support {
        Ok(support) => vec![
            findings::optional(
                "NO_SQARRAY",
                support.no_sqarray,
                "none is needed; Linux 6.6 has it, and is a little faster for it",
            ),
            findings::optional(
                "NO_IOWAIT",
                support.no_iowait,
                "Linux 6.15 has it; before, `top` and /proc/pressure/io count a worker that waits for clients as \
                 waiting for a disk: it costs nothing, and `--engine epoll` does not show it",
            ),
        ],
        Err(Obstacle { what, source, cure }) => {
            vec![Finding::fail(format!("ring: {what}: {source}"), cure.clone())]
        }
    }
}

/// Sets up a ring for each worker, all at the same time, and gives their sizes in entries.
fn rings_for(workers: usize) -> io::Result<Vec<u32>> {
    let rings: Vec<_> = (0..workers)
        .map(|_| set_up(SUBMISSIONS, 4 * SUBMISSIONS, PATIENCE).map(|(ring, _)| ring))
        .collect::<io::Result<_>>()?;
    Ok(rings.iter().map(|ring| ring.params().sq_entries()).collect())
}

impl Diagnosis {
    /// Whether the ring engine can run here.
    #[must_use]
    pub const fn ring_runs(&self) -> bool {
        self.ring_runs
    }

    /// The code that a server with these options would end with at its start; else 0 when the engine asked for can run, the
    /// ring engine where none is, or `EX_UNAVAILABLE` of sysexits.h.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        const UNAVAILABLE: u8 = 69;
        let has_failed = self.findings.iter().any(|finding| finding.verdict == Verdict::Fail);
        self.refusal.unwrap_or(if has_failed { UNAVAILABLE } else { 0 })
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let can = |can| if can { "can" } else { "cannot" };
        writeln!(f, "A server {} start with these options.", can(self.refusal.is_none()))?;
        writeln!(f, "The ring engine {} run here.", can(self.ring_runs))
    }
}

impl Finding {
    fn ok(found: String) -> Self {
        Self { verdict: Verdict::Ok, found, cure: None }
    }

    fn note(found: String, cure: impl Into<String>) -> Self {
        Self { verdict: Verdict::Note, found, cure: Some(cure.into()) }
    }

    fn fail(found: String, cure: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, found, cure: Some(cure.into()) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Fail => "FAIL",
        };
        write!(f, "{verdict:<4}  {}", self.found)?;
        match &self.cure {
            Some(cure) => write!(f, "\n      cure: {cure}"),
            None => Ok(()),
        }
    }
}
