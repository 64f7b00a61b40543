//! `loadtest compare`: servers side by side, visited in turn.

mod args;
mod cell;
mod chart;
mod environment;
mod html;
mod judge;
mod markdown;
mod measure;
mod process;
mod progress;
mod report;
mod server;
mod signals;
mod visit;
mod words;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::run::Failure;
pub(crate) use args::{Args, cores, this_program};
pub(crate) use cell::Cell;
use environment::Environment;
pub(crate) use judge::{Estimate, Figure, Row, Summary};
use measure::Measured;
pub(crate) use measure::{Plan, measure};
pub(crate) use progress::Progress;
pub(crate) use server::Spec;
pub(crate) use signals::Signals;
pub(crate) use words::{ratio, too_few, value};

/// Compares; whether every echo was right.
///
/// # Errors
///
/// No figure of the run is to be believed: why.
pub(crate) fn run(args: &Args) -> Result<bool, Failure> {
    conclude(compare(args))
}

fn compare(args: &Args) -> Result<(), End> {
    let plan = args.plan()?;
    args.output.check(&plan.cells)?;
    if plan.server_core == plan.client_core {
        eprintln!("loadtest: the servers and the load generator share a core");
    }
    let signals = Signals::take().map_err(|error| End::failed(format!("cannot handle signals: {error}")))?;
    let environment = Environment::describe(&plan, args.command_line(&plan));
    let progress = Progress::new(&plan, args.output.quiet);
    let measured = measure(&plan, &signals, &progress)?;
    let comparison = Comparison::new(plan, environment, measured);
    // Who closes the pipe has read enough; the files are still wanted.
    let _ = std::io::stdout().write_all(markdown::document(&comparison, None).as_bytes());
    write_files(&comparison, &args.output)
}

/// A comparison that is over.
#[derive(Debug)]
pub(crate) struct Comparison {
    /// What was compared.
    plan: Plan,
    environment: Environment,
    measured: Vec<Measured>,
    /// What each cell has shown, in the order of `measured`.
    cells: Vec<Summary>,
}

impl Comparison {
    fn new(plan: Plan, environment: Environment, measured: Vec<Measured>) -> Self {
        let cells = measured.iter().map(|measured| Summary::new(&plan, measured)).collect();
        Self { plan, environment, measured, cells }
    }

    /// The server that ratios are taken to first.
    fn baseline(&self) -> &str {
        &self.plan.servers[self.plan.references[0]].name
    }
}

/// Why there is no result.
#[derive(Debug)]
pub(crate) enum End {
    /// Something cannot be, or no figure is to be believed.
    Failed(Failure),
    /// An echo was wrong: which.
    Wrong(String),
    /// This signal came.
    Signalled(i32),
}

impl End {
    fn failed(why: String) -> Self {
        Self::Failed(Failure::Unavailable(why))
    }
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What `main` makes of an end. After a signal this process ends as if it had never been handled: the servers are
/// stopped by now.
pub(crate) fn conclude(ended: Result<(), End>) -> Result<bool, Failure> {
    match ended {
        Ok(()) => Ok(true),
        Err(End::Failed(failure)) => Err(failure),
        Err(End::Wrong(why)) => {
            eprintln!("loadtest: {why}");
            Ok(false)
        }
        Err(End::Signalled(signal)) => {
            let why = format!("ended by signal {signal}; the servers are stopped");
            eprintln!("loadtest: {why}");
            // It returns when the signal's own effect is not to end.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
            Err(Failure::Unavailable(why))
        }
    }
}

fn write_files(comparison: &Comparison, output: &args::Output) -> Result<(), End> {
    let write = |path: &Path, text: String| {
        fs::write(path, text)
            .map_err(|error| Failure::Output(format!("cannot write {}: {error}", path.display())).into())
    };
    // The measuring took long: what can be written is written, and the first that cannot be is told.
    let mut files: Vec<(PathBuf, String)> = Vec::new();
    if let Some(path) = &output.json {
        files.push((path.clone(), report::to_json(comparison)));
    }
    if let Some(path) = &output.markdown {
        let charts = output.svg.as_deref().map(|folder| link(path, folder));
        files.push((path.clone(), markdown::document(comparison, charts.as_deref())));
    }
    if let Some(path) = &output.html {
        files.push((path.clone(), html::page(comparison)));
    }
    if let Some(folder) = &output.svg {
        for summary in &comparison.cells {
            let chart = html::chart_for_documents(comparison, summary);
            files.push((folder.join(summary.cell.chart_name()), chart::draw(&chart)));
        }
    }
    let written: Vec<_> = files.into_iter().map(|(path, text)| write(&path, text)).collect();
    written.into_iter().collect()
}

/// The folder as a link from the document: relative where it is beside or below.
fn link(document: &Path, folder: &Path) -> String {
    let beside = document.parent().unwrap_or(Path::new(""));
    folder.strip_prefix(beside).unwrap_or(folder).display().to_string()
}
