//! A WebSocket load generator that checks every echoed byte.

mod cli;
mod client;
mod compare;
mod connect;
mod cpu;
mod demo;
mod engine;
mod merge;
mod output;
mod pace;
mod procfs;
mod run;
mod series;
mod tally;
mod target;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use cli::{Args, Command};
use output::report::Report;
use run::Failure;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command = match Command::read() {
        Ok(command) => command,
        Err(code) => return code,
    };
    let done = match command {
        Command::Load(args) => load(&args),
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
            })
        }
    }
}

/// Runs the load and prints the report; whether every echo was right.
fn load(args: &Args) -> Result<bool, Failure> {
    let plan = Arc::new(args.plan()?);
    let outcome = run::run(&plan, |_| {})?;
    let report = Report::new(&plan, &outcome);
    let text = if args.output.json { report.to_json() } else { report.to_string() };
    // Who closes the pipe has read enough; the exit code still tells.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(report.is_fine())
}

/// An echo was wrong or missing, or a connection did not do as it should.
const EXIT_WRONG: u8 = 1;

/// The command line is wrong: EX_USAGE of sysexits(3).
const EXIT_USAGE: u8 = 64;

/// The server cannot be reached: EX_UNAVAILABLE of sysexits(3).
const EXIT_UNAVAILABLE: u8 = 69;
