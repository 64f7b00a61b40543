//! `ringback doctor`: what stands in the way of the ring engine on this machine, and of many connections, and what
//! would cure it.
//!
//! Looking at things is done here; `findings` judges what was seen.

mod findings;

use std::fmt;
use std::io;

use rustix::process::{Resource, getrlimit};

use crate::config::Config;
use crate::engine;
use crate::engine::ring::obstacle::Obstacle;
use crate::engine::ring::probe::{self, Support};
use crate::engine::ring::{PATIENCE, SUBMISSIONS, set_up};
use crate::server::{Placement, connections_max, direct_connections_max};
use crate::system::{self, CAP_IPC_LOCK, Status, Sysctl};

/// What was found, in the order in which things depend on each other.
#[derive(Debug)]
pub struct Diagnosis {
    findings: Vec<Finding>,
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
    /// The ring engine cannot run with these options.
    Fail,
}

/// Looks at everything that the ring engine, or any other one with these options, depends on.
#[must_use]
pub fn diagnose(config: &Config) -> Diagnosis {
    let status = Status::of_this_process();
    let workers = Placement::find(config.workers, config.pin).workers;
    // Before rings are set up for every worker: their locked memory is counted for a while after they are gone.
    let mut works = Vec::new();
    let support = probe::probe_aloud(&mut |what| works.push(what));
    let engine = engine::choose(None);
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
    let direct = direct_connections_max(config.max_connections, workers);
    let others = connections_max(config, workers, 0);
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
    Diagnosis { findings }
}

/// What has no place among the things that work.
fn ring(support: &Result<Support, Obstacle>) -> Vec<Finding> {
    match support {
        Ok(support) => vec![findings::optional("NO_SQARRAY", support.no_sqarray, "6.6")],
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
    /// Whether the ring engine can run with these options.
    #[must_use]
    pub fn ring_runs(&self) -> bool {
        self.findings.iter().all(|finding| finding.verdict != Verdict::Fail)
    }

    /// 0 when the ring engine can run, else `EX_UNAVAILABLE` of sysexits.h.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        const UNAVAILABLE: u8 = 69;
        if self.ring_runs() { 0 } else { UNAVAILABLE }
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let can = if self.ring_runs() { "can" } else { "cannot" };
        writeln!(f, "The ring engine {can} run here.")
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
