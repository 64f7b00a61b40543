//! The measuring: rounds over cells, and in each the servers in random order.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::End;
use super::cell::Cell;
use super::progress::Progress;
use super::server::{Server, Spec};
use super::visit::{Visit, visit};
use crate::signals::Signals;

/// What is compared, settled before any server is started.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// At least one; no two of one name.
    pub(crate) servers: Vec<Spec>,
    /// The loads, none of them twice.
    pub(crate) cells: Vec<Cell>,
    /// Those that ratios are taken to, by their places in `servers`: the baseline, and maybe another.
    pub(crate) references: Vec<usize>,
    /// For each server, whether it is asked for its counters.
    pub(crate) counts: Vec<bool>,
    /// At least 1.
    pub(crate) rounds: u32,
    /// What is measured in each visit.
    pub(crate) slice: Duration,
    /// Load before each slice.
    pub(crate) warmup: Duration,
    /// Where every server runs.
    pub(crate) server_core: usize,
    /// Where the load generator runs.
    pub(crate) client_core: usize,
    /// The request target of `ws` servers.
    pub(crate) path: String,
    /// What the order and the intervals follow from.
    pub(crate) seed: u64,
    /// The load generator.
    pub(crate) loadtest: PathBuf,
    /// More arguments for it.
    pub(crate) loadtest_args: Vec<String>,
}

impl Plan {
    /// How many visits there are in all.
    pub(crate) fn visits(&self) -> u64 {
        u64::from(self.rounds) * (self.cells.len() * self.servers.len()) as u64
    }
}

/// What one cell gave: for each round, the servers' visits.
#[derive(Debug)]
pub(crate) struct Measured {
    /// The load.
    pub(crate) cell: Cell,
    /// In the order of time.
    pub(crate) rounds: Vec<Round>,
}

/// What was measured.
#[derive(Debug)]
pub(crate) struct Measurement {
    /// Of each cell that was gone through at least once, the rounds that are complete.
    pub(crate) cells: Vec<Measured>,
    /// The signal that has ended it early.
    pub(crate) signal: Option<i32>,
}

/// One round of a cell.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    /// In which order the servers were visited, by their places.
    pub(crate) order: Vec<usize>,
    /// A visit for each server, in the order of [`Plan::servers`].
    pub(crate) visits: Vec<Visit>,
}

/// Starts all servers, visits them in every round and cell, and stops them, however it ends. A signal ends it early.
///
/// # Errors
///
/// No figure is to be believed: a server or a visit failed, or a second signal came.
pub(crate) fn measure(plan: &Plan, signals: &Signals, progress: &Progress) -> Result<Measurement, End> {
    allow_files();
    signals.hold();
    let mut cells: Vec<_> =
        plan.cells.iter().map(|cell| Measured { cell: cell.clone(), rounds: Vec::new() }).collect();
    let ended = go_round(plan, signals, progress, &mut cells);
    // The servers are stopped.
    signals.release();
    progress.finish();
    let signal = match ended {
        Ok(()) => None,
        Err(End::Signalled(signal)) if !signals.is_urgent() => Some(signal),
        Err(end) => return Err(end),
    };
    cells.retain(|measured| !measured.rounds.is_empty());
    Ok(Measurement { cells, signal })
}

fn go_round(plan: &Plan, signals: &Signals, progress: &Progress, cells: &mut [Measured]) -> Result<(), End> {
    let mut servers = Servers(Vec::new());
    if plan.cells.iter().any(|cell| !cell.wants_fresh_server()) {
        for spec in &plan.servers {
            progress.starting(&spec.name);
            servers.0.push(Server::start(spec, plan.server_core, &[], signals)?);
        }
    }
    let mut shuffler = fastrand::Rng::with_seed(plan.seed);
    for number in 1..=plan.rounds {
        for Measured { cell, rounds } in &mut *cells {
            let mut order: Vec<_> = (0..plan.servers.len()).collect();
            shuffler.shuffle(&mut order);
            let mut visits = Vec::new();
            for &place in &order {
                progress.visiting(number, cell, &plan.servers[place].name);
                let visit = if cell.wants_fresh_server() {
                    let mut server =
                        Server::start(&plan.servers[place], plan.server_core, &FRESH_ENVIRONMENT, signals)?;
                    visit(plan, cell, &mut server, plan.counts[place], signals, progress)?
                } else {
                    visit(plan, cell, &mut servers.0[place], plan.counts[place], signals, progress)?
                };
                progress.pass_on(&visit.complaints);
                visits.push((place, visit));
            }
            visits.sort_by_key(|&(place, _)| place);
            let visits = visits.into_iter().map(|(_, visit)| visit).collect();
            rounds.push(Round { order, visits });
        }
    }
    Ok(())
}

/// Running servers. They are told to end all at once, and then awaited.
struct Servers(Vec<Server>);

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.0 {
            server.begin_stop();
        }
    }
}

/// Lets this process, and those that it starts, open as many files as it may.
fn allow_files() {
    let limit = getrlimit(Resource::Nofile);
    // Up to the hard limit it is not refused; a child that needs more says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// With mimalloc, memory would come in huge pages, each of which counts as 2 MiB, whatever of it is used.
const FRESH_ENVIRONMENT: [(&str, &str); 1] = [("MIMALLOC_ALLOW_THP", "0")];
