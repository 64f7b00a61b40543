//! A WebSocket load generator that checks every echoed byte.

/// Tells a line on standard error. Nobody is left to tell when that is closed.
macro_rules! say {
    ($($words:tt)*) => {
        drop(std::io::Write::write_all(&mut std::io::stderr(), format!("{}\n", format_args!($($words)*)).as_bytes()))
    };
}

mod address;
mod cli;
mod client;
mod compare;
mod connect;
mod control;
mod cpu;
mod demo;
mod engine;
mod failure;
mod find_max;
mod merge;
mod output;
mod pace;
mod packed;
mod procfs;
mod run;
mod series;
mod signals;
mod source;
mod tally;
mod target;

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use cli::{Args, Command, check_environment};
use output::figures::Rate;
use output::progress::Progress;
use output::report::Report;
use run::{Failure, Plan};
use signals::Interrupts;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    signals::take_stray();
    let command = match Command::read() {
        Ok(command) => command,
        Err(code) => return code,
    };
    let wants_json = match &command {
        Command::Load(args) => args.output.json,
        Command::Merge(args) => args.json,
        Command::Compare(_) | Command::Demo(_) => false,
    };
    let done = check_environment().and_then(|()| match command {
        Command::Load(args) => {
            // Only here: the servers that a comparison starts would inherit it.
            ringback::allocator::avoid_huge_pages();
            load(&args)
        }
        Command::Compare(args) => compare::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Merge(args) => merge::run(&args).map(|()| 0),
    });
    ExitCode::from(done.unwrap_or_else(|failure| {
        say!("loadtest: {failure}");
        if wants_json && !matches!(failure, Failure::Output(_)) {
            // Nobody is left to tell when it cannot be printed.
            let _ = print(&failure.to_json());
        }
        failure.exit_code()
    }))
}

/// Runs the load, once or in search of a rate, and tells what was found; gives the exit code.
fn load(args: &Args) -> Result<u8, Failure> {
    let output = &args.output;
    let interrupts = Interrupts::take().map_err(|error| {
        Failure::refused("handle signals", &error, "raise the limit of processes (ulimit -u)")
    })?;
    let plan = args.plan()?;
    let files = output.prepare(&plan)?;
    let run = |plan, title: &str| load_once(plan, title, &interrupts, output.quiet);
    let mut report = match &output.find_max {
        None => run(plan, "")?,
        Some(condition) => {
            let start = plan.pace.rate().map_or(find_max::RATE_START, |(rate, _)| rate);
            find_max::run(condition, start, |rate| {
                run(args.plan_at(rate)?, &format!("{}/s were due: ", Rate(rate)))
            })?
        }
    };
    report.fail_if(&output.fail_if);
    let printed = print(&if output.json { report.to_json() } else { report.to_string() });
    // What cannot be printed may still be written.
    printed.and(files.write(&report))?;
    Ok(match interrupts.signal() {
        Some(signal) => signals::exit_code(signal),
        None if report.is_fine() => 0,
        None => EXIT_WRONG,
    })
}

fn load_once(plan: Plan, title: &str, interrupts: &Interrupts, is_quiet: bool) -> Result<Report, Failure> {
    let plan = Arc::new(plan);
    let mut progress = Progress::new(plan.duration, title, is_quiet);
    let outcome = run::run(&plan, interrupts, |interval| progress.on_second(interval))?;
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
pub(crate) const EXIT_WRONG: u8 = 1;
