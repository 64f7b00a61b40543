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
mod visit;
mod words;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::EXIT_WRONG;
use crate::run::Failure;
use crate::signals::{self, Second, Signals};
pub(crate) use args::{Args, cores, this_program};
pub(crate) use cell::Cell;
use environment::Environment;
pub(crate) use judge::{Estimate, Figure, Row, Summary};
use measure::Measured;
pub(crate) use measure::{Measurement, Plan, measure};
pub(crate) use progress::Progress;
pub(crate) use server::Spec;
pub(crate) use words::{ratio, too_few, value};

/// Compares; gives the exit code.
///
/// # Errors
///
/// No figure of the run is to be believed: why.
pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    conclude(compare(args))
}

fn compare(args: &Args) -> Result<Option<i32>, End> {
    let plan = args.plan()?;
    args.output.check(&plan.cells)?;
    if plan.server_core == plan.client_core {
        say!("loadtest: the servers and the load generator share a core");
    }
    let signals = take_signals()?;
    let environment = Environment::describe(&plan, args.command_line(&plan));
    let progress = Progress::new(&plan, args.output.quiet);
    let measured = measure(&plan, &signals, &progress);
    let Measurement { cells, signal } = measured.inspect_err(|end| args.output.write_error(end))?;
    let comparison = Comparison::new(plan, environment, cells, signal);
    // Who closes the pipe has read enough; the files are still wanted.
    let _ = std::io::stdout().write_all(markdown::document(&comparison, None).as_bytes());
    write_files(&comparison, &args.output)?;
    Ok(signal)
}

/// Takes the signals that end a comparison.
///
/// # Errors
///
/// The system refuses what is needed.
pub(crate) fn take_signals() -> Result<Signals, Failure> {
    Signals::take(Second::Counts).map_err(|error| {
        Failure::refused("handle signals", &error, "raise the limit of open files (ulimit -n)")
    })
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
    /// The signal that has ended it: then cells have fewer rounds than planned, and some of them may be missing.
    signal: Option<i32>,
}

impl Comparison {
    fn new(plan: Plan, environment: Environment, measured: Vec<Measured>, signal: Option<i32>) -> Self {
        let cells = measured.iter().map(|measured| Summary::new(&plan, measured)).collect();
        Self { plan, environment, measured, cells, signal }
    }

    /// How many rounds each cell has at least.
    fn rounds(&self) -> u32 {
        rounds(&self.measured)
    }

    /// That a signal has ended it, where one has.
    fn ended(&self) -> Option<String> {
        self.signal.map(|signal| ended(signal, &self.plan, &self.measured))
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

/// How many rounds each of the cells has at least.
pub(crate) fn rounds(measured: &[Measured]) -> u32 {
    let rounds = measured.iter().map(|measured| measured.rounds.len()).min().unwrap_or(0);
    u32::try_from(rounds).unwrap_or(u32::MAX)
}

/// What a comparison that a signal has ended is told with.
pub(crate) fn ended(signal: i32, plan: &Plan, measured: &[Measured]) -> String {
    let (signal, planned) = (signals::name(signal), plan.rounds);
    match measured.len() {
        0 => format!(
            "{signal} ended the comparison before a round of {planned} was complete: there is nothing to tell."
        ),
        cells if cells < plan.cells.len() => format!(
            "{signal} ended the comparison in its first round of {planned}: this is about {cells} of {} loads.",
            plan.cells.len()
        ),
        _ => format!("{signal} ended the comparison after {} of {planned} rounds.", rounds(measured)),
    }
}

/// What `main` makes of an end: the exit code. After a signal it is the one that a shell would show.
pub(crate) fn conclude(ended: Result<Option<i32>, End>) -> Result<u8, Failure> {
    match ended {
        Ok(None) => Ok(0),
        Ok(Some(signal)) | Err(End::Signalled(signal)) => {
            say!("loadtest: ended by {}; the servers are stopped", signals::name(signal));
            Ok(signals::exit_code(signal))
        }
        Err(End::Failed(failure)) => Err(failure),
        Err(End::Wrong(why)) => {
            say!("loadtest: {why}");
            Ok(EXIT_WRONG)
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
