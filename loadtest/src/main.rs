//! A WebSocket load generator that checks every echoed byte.

mod cli;
mod client;
mod compare;
mod connect;
mod cpu;
mod demo;
mod engine;
mod find_max;
mod merge;
mod output;
mod pace;
mod packed;
mod procfs;
mod run;
mod series;
mod source;
mod tally;
mod target;

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use cli::{Args, Command};
use output::progress::Progress;
use output::report::Report;
use run::{Failure, Plan};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command = match Command::read() {
        Ok(command) => command,
        Err(code) => return code,
    };
    let done = match command {
        Command::Load(args) => {
            // Only here: the servers that a comparison starts would inherit it.
            ringback::memory::avoid_huge_pages();
            load(&args)
        }
        Command::Compare(args) => compare::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Merge(args) => merge::run(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_WRONG),
        Err(failure) => {
            eprintln!("loadtest: {failure}");
            ExitCode::from(match failure {
                Failure::Usage(_) => EXIT_USAGE,
                Failure::Unavailable(_) => EXIT_UNAVAILABLE,
                Failure::Output(_) => EXIT_IO,
            })
        }
    }
}

/// Runs the load, once or in search of a rate, and tells what was found; whether all was as it should be.
fn load(args: &Args) -> Result<bool, Failure> {
    let output = &args.output;
    let plan = args.plan()?;
    let files = output.prepare(&plan)?;
    let mut report = match &output.find_max {
        None => load_once(plan, "", output.quiet)?,
        Some(condition) => {
            let start = plan.pace.rate().map_or(find_max::RATE_START, |(rate, _)| rate);
            find_max::run(condition, start, |rate| {
                load_once(args.plan_at(rate)?, &format!("{rate:.0}/s were due: "), output.quiet)
            })?
        }
    };
    report.fail_if(&output.fail_if);
    let printed = print(&if output.json { report.to_json() } else { report.to_string() });
    // What cannot be printed may still be written.
    printed.and(files.write(&report))?;
    Ok(report.is_fine())
}

fn load_once(plan: Plan, title: &str, is_quiet: bool) -> Result<Report, Failure> {
    let plan = Arc::new(plan);
    let mut progress = Progress::new(plan.duration, title, is_quiet);
    let outcome = run::run(&plan, |interval| progress.on_second(interval))?;
    Ok(Report::new(&plan, outcome))
}

/// Prints to standard output. Who closes the pipe has read enough; the exit code still tells.
///
/// # Errors
///
/// It cannot be written: the disk may be full.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::Output(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// An echo was wrong or missing, a connection did not do as it should, or a condition to fail on is so.
const EXIT_WRONG: u8 = 1;

/// The command line is wrong: EX_USAGE of sysexits(3).
const EXIT_USAGE: u8 = 64;

/// The server cannot be reached: EX_UNAVAILABLE of sysexits(3).
const EXIT_UNAVAILABLE: u8 = 69;

/// What was found cannot be written: EX_IOERR of sysexits(3).
const EXIT_IO: u8 = 74;
