//! The command line of `loadtest compare`.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::thread::CpuSet;

use super::End;
use super::cell::Cell;
use super::measure::Plan;
use super::server::Spec;
use crate::EXIT_WRONG;
use crate::cli::value;
use crate::cpu;
use crate::failure::error_json;
use crate::run::Failure;

/// The options of `loadtest compare`.
#[derive(Clone, Debug, clap::Args)]
// A script has options of its own, and passes those of its user on behind them.
#[command(args_override_self = true, after_help = EXAMPLE)]
pub(crate) struct Args {
    /// A server: `NAME=COMMAND`, or `NAME=tcp:COMMAND` for one that echoes bytes; `{port}` and `{core}` are filled in.
    /// There is no shell, so that its pid is the server's
    #[arg(required = true, value_name = "NAME=COMMAND")]
    servers: Vec<Spec>,

    /// The loads: KIND:CONNECTIONS:SIZE:DEPTH, KIND text, utf8, binary or mixed; open:CONNECTIONS:SIZE:RATE in an open
    /// loop; churn:CONNECTIONS, each for one message; idle:CONNECTIONS, whose memory is told
    #[arg(long, value_name = "CELL,…", value_delimiter = ',', default_value = CELLS)]
    cells: Vec<Cell>,

    /// How often each server is visited in each cell; 1 to 1000000; fewer than 6 tell no servers apart
    #[arg(long, value_name = "N", default_value_t = 10, allow_hyphen_values = true,
        value_parser = value::count(ROUNDS_MAX))]
    rounds: u32,

    /// What is measured in each visit, 1ms to 365days
    #[arg(long, value_name = "TIME", default_value = "2s", allow_hyphen_values = true,
        value_parser = value::time_above_zero)]
    slice: Duration,

    /// Load before each slice
    #[arg(long, value_name = "TIME", default_value = "300ms", allow_hyphen_values = true, value_parser = value::time)]
    warmup: Duration,

    /// The server that ratios are taken to [default: the first]
    #[arg(long, value_name = "NAME")]
    baseline: Option<String>,

    /// A second server that ratios are taken to
    #[arg(long, value_name = "NAME")]
    also_to: Option<String>,

    /// Servers that log `counters: NAME=VALUE …` on SIGUSR1, as ringback does (others it ends): what they count a
    /// message, opening and closing included, is told too
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    counters: Vec<String>,

    /// Where the servers run [default: the first core that there is]
    #[arg(long, value_name = "CORE")]
    server_core: Option<usize>,

    /// Where the load generator runs [default: the second one]
    #[arg(long, value_name = "CORE")]
    client_core: Option<usize>,

    /// The request target of `ws` servers
    #[arg(long, value_name = "PATH", default_value = PATH)]
    path: String,

    /// What the order and the intervals follow from [default: random]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// More for the load generator, as one word: `--loadtest-args='--spin'`
    #[arg(
        long,
        value_name = "ARGUMENTS",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    loadtest_args: String,

    /// Another load generator than this program
    #[arg(long, value_name = "FILE")]
    loadtest: Option<PathBuf>,

    #[command(flatten)]
    pub(super) output: Output,
}

/// Where it is told, beside the tables on standard output.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub(super) struct Output {
    /// Every visit and what they amount to, as one JSON object
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,

    /// The tables, as they are printed; with --svg, the charts as well
    #[arg(long, value_name = "FILE")]
    pub(super) markdown: Option<PathBuf>,

    /// A page with charts and tables that needs nothing else
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,

    /// A chart for each cell, for documents
    #[arg(long, value_name = "FOLDER")]
    pub(super) svg: Option<PathBuf>,

    /// Do not tell how far it is
    #[arg(long)]
    pub(super) quiet: bool,
}

impl Args {
    /// Settles what is compared.
    ///
    /// # Errors
    ///
    /// What cannot be, in one line.
    pub(super) fn plan(&self) -> Result<Plan, Failure> {
        let usage = |text: String| Err(Failure::Usage(text));
        if !self.path.starts_with('/') {
            return usage(format!("--path {}: it must begin with '/'", self.path));
        }
        let names: Vec<_> = self.servers.iter().map(|spec| spec.name.as_str()).collect();
        if let Some(name) = first_repeated(&names) {
            return usage(format!("two servers are named {name}"));
        }
        let place = |option: &str, name: &str| {
            let found = names.iter().position(|&other| other == name);
            found.ok_or_else(|| Failure::Usage(format!("{option} {name} is none of {}", names.join(", "))))
        };
        let mut references = vec![self.baseline.as_deref().map_or(Ok(0), |name| place("--baseline", name))?];
        if let Some(name) = &self.also_to {
            references.push(place("--also-to", name)?);
            references.dedup();
        }
        let mut counts = vec![false; names.len()];
        for name in &self.counters {
            counts[place("--counters", name)?] = true;
        }
        let mut cells = Vec::new();
        for cell in &self.cells {
            if !cells.contains(cell) {
                cells.push(cell.clone());
            }
        }
        let loadtest_args = shell_words::split(&self.loadtest_args)
            .map_err(|error| Failure::Usage(format!("--loadtest-args: {error}")))?;
        let (server_core, client_core) = cores(self.server_core, self.client_core)?;
        Ok(Plan {
            servers: self.servers.clone(),
            cells,
            references,
            counts,
            rounds: self.rounds,
            slice: self.slice,
            warmup: self.warmup,
            server_core,
            client_core,
            path: self.path.clone(),
            seed: self.seed.unwrap_or_else(|| fastrand::u64(..=SEED_MAX)),
            loadtest: self.loadtest.clone().map_or_else(this_program, Ok)?,
            loadtest_args,
        })
    }

    /// What to type to do this again, as a shell reads it, each server on a line of its own.
    ///
    /// Each option is there once, those that the figures depend on even where they were not given; where the result was
    /// written is not, nor are overridden options.
    pub(super) fn command_line(&self, plan: &Plan) -> String {
        let duration = |duration| humantime::format_duration(duration).to_string().replace(' ', "");
        let cells: Vec<_> = plan.cells.iter().map(Cell::to_string).collect();
        let core = |core: Option<usize>| core.map(|core| core.to_string());
        let is_not_empty = |text: &String| !text.is_empty();
        let options = [
            ("--rounds", Some(plan.rounds.to_string())),
            ("--slice", Some(duration(plan.slice))),
            ("--warmup", Some(duration(plan.warmup))),
            ("--cells", Some(cells.join(","))),
            ("--baseline", self.baseline.clone()),
            ("--also-to", self.also_to.clone()),
            ("--counters", Some(self.counters.join(",")).filter(is_not_empty)),
            ("--server-core", core(self.server_core)),
            ("--client-core", core(self.client_core)),
            ("--path", Some(self.path.clone()).filter(|path| path != PATH)),
            ("--seed", Some(plan.seed.to_string())),
            ("--loadtest-args", Some(self.loadtest_args.clone()).filter(is_not_empty)),
            ("--loadtest", self.loadtest.as_ref().map(|path| path.display().to_string())),
        ];
        let program = std::env::args_os().next().unwrap_or_else(|| "loadtest".into());
        let mut line = format!("{} compare", shell_words::quote(&program.to_string_lossy()));
        for (option, value) in options {
            if let Some(value) = value {
                let _ = write!(line, " {option} {}", shell_words::quote(&value));
            }
        }
        for spec in &self.servers {
            let _ = write!(line, " \\\n    {}", shell_words::quote(&spec.to_string()));
        }
        line
    }
}

impl Output {
    /// Makes sure, before anything is measured, that the files can be written, each cell's chart among them.
    ///
    /// # Errors
    ///
    /// One that cannot.
    pub(super) fn check(&self, cells: &[Cell]) -> Result<(), Failure> {
        let cannot = |path: &Path, error: io::Error| {
            Failure::Usage(format!("cannot write {}: {error}", path.display()))
        };
        let mut paths: Vec<_> =
            [&self.json, &self.markdown, &self.html].into_iter().flatten().cloned().collect();
        if let Some(folder) = &self.svg {
            fs::create_dir_all(folder).map_err(|error| cannot(folder, error))?;
            paths.extend(cells.iter().map(|cell| folder.join(cell.chart_name())));
        }
        for path in paths {
            let is_new = !path.exists();
            File::options().create(true).append(true).open(&path).map_err(|error| cannot(&path, error))?;
            if is_new {
                fs::remove_file(&path).map_err(|error| cannot(&path, error))?;
            }
        }
        Ok(())
    }

    /// Writes the error to the file of --json, where there is no result.
    pub(super) fn write_error(&self, end: &End) {
        let (told, code) = match end {
            End::Failed(failure) => (failure.to_string(), failure.exit_code()),
            End::Wrong(why) => (why.clone(), EXIT_WRONG),
            End::Signalled(_) => return,
        };
        if let Some(path) = &self.json
            && let Err(error) = fs::write(path, error_json(&told, code))
        {
            say!("loadtest: cannot write {}: {error}", path.display());
        }
    }
}

/// The cores of the servers and of the load generator: those asked for, or the first two that we may run on, or the
/// only one for both.
///
/// # Errors
///
/// A core that we may not run on.
pub(crate) fn cores(server: Option<usize>, client: Option<usize>) -> Result<(usize, usize), Failure> {
    let mut allowed = Vec::new();
    for core in 0..CpuSet::MAX_CPU {
        if cpu::may_run_on(core)
            .map_err(|error| Failure::Unavailable(format!("cannot see the cores: {error}")))?
        {
            allowed.push(core);
        }
    }
    for core in [server, client].into_iter().flatten() {
        if !allowed.contains(&core) {
            return Err(Failure::Usage(format!(
                "core {core} is none of those that we may run on: {allowed:?}"
            )));
        }
    }
    let first = allowed[0];
    let second = allowed.get(1).copied().unwrap_or(first);
    Ok((server.unwrap_or(first), client.unwrap_or(second)))
}

/// This very program, even when its file has been replaced meanwhile.
///
/// # Errors
///
/// There is no proc(5).
pub(crate) fn this_program() -> Result<PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|error| Failure::Unavailable(format!("cannot find this program: {error}")))
}

fn first_repeated<'a>(names: &[&'a str]) -> Option<&'a str> {
    names.iter().enumerate().find(|&(at, name)| names[..at].contains(name)).map(|(_, &name)| name)
}

const EXAMPLE: &str = "\
All servers are up together, pinned to one core; the load generator, this program on another core, visits them in random
order in short slices, many rounds over. What repeats on a machine that others use too is the ratio of two servers in the
same round: its median is told, with a 95 % bootstrap interval, and which servers it cannot tell apart. A wrong echo, or a
server that ends, ends it all. The servers' process groups are ended with it, however it ends, but by SIGKILL: then they go
on running.

    loadtest compare --rounds 10 --slice 1s --cells text:64:64:1,text:64:64:16,churn:64 --baseline raw \\
        ours='target/release/ringback --listen 127.0.0.1:{port} --workers 1' \\
        raw='tcp:target/release/raw-tcp-echo --listen 127.0.0.1:{port}'

The messages of 10,000 connections go round in some 100 ms, or much more: give them --slice 2s --warmup 1s.

SIGINT, SIGTERM, SIGQUIT or SIGHUP ends it early: the rounds that are complete are told, in every form that was asked for.
A second one kills the servers and ends it at once.

Exit status: 0 there is a result, 1 an echo was wrong, 64 usage, 69 a server or a visit failed, 71 the system refuses what
is needed, 74 a file cannot be written; 129, 130, 131, 143 or 152 where SIGHUP, SIGINT, SIGQUIT, SIGTERM or SIGXCPU has
ended it.";

const CELLS: &str = "text:64:64:1,text:64:64:16,text:16:16KiB:1,utf8:16:16KiB:1,binary:4:1MiB:1";

const PATH: &str = "/ws";

const ROUNDS_MAX: u32 = 1_000_000;

/// Seeds that JavaScript, which some read the JSON with, holds exactly.
const SEED_MAX: u64 = (1 << 32) - 1;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(options: &[&str]) -> Result<Args, String> {
        let line = ["compare", "ours=a {port}", "raw=tcp:b {port}"];
        let line = Line::try_parse_from(line.iter().chain(options)).map_err(|error| error.to_string())?;
        Ok(line.args)
    }

    fn plan(options: &[&str]) -> Result<Plan, String> {
        args(options)?.plan().map_err(|failure| failure.to_string())
    }

    #[test]
    fn the_command_line_repeats_the_comparison() {
        let core = format!("--client-core={}", plan(&[]).expect("a plan").client_core);
        let options = [
            &core,
            "--rounds=20",
            "--rounds=7",
            "--slice=1500ms",
            "--cells=churn:1,text:1:64:1,churn:1",
            "--also-to=raw",
            "--counters=ours,raw",
            "--path=/a b",
            "--loadtest-args=--spin --x 'a b'",
            "--json=/tmp/scratch/report",
            "--svg=/tmp/scratch/charts",
            "--quiet",
        ];
        let asked = args(&options).expect("well formed");
        let plan = asked.plan().expect("a plan");
        let line = asked.command_line(&plan);
        assert_eq!(line.matches("--rounds").count(), 1, "{line}");
        assert!(!line.contains("scratch") && line.ends_with(" \\\n    'raw=tcp:b {port}'"), "{line}");
        // The words after `loadtest compare`, as a shell splits them.
        let words = shell_words::split(&line).expect("well formed");
        let again = Line::try_parse_from(&words[1..]).expect("well formed").args;
        let again_plan = again.plan().expect("a plan");
        assert_eq!(format!("{again_plan:?}"), format!("{plan:?}"));
        assert_eq!(again.command_line(&again_plan), line);
    }

    #[test]
    fn the_defaults() {
        let plan = plan(&[]).expect("a plan");
        assert_eq!((plan.references, plan.counts, plan.rounds), (vec![0], vec![false, false], 10));
        assert_eq!(plan.cells.len(), 5);
        assert!(plan.seed <= SEED_MAX);
    }

    #[test]
    fn servers_are_named_in_options() {
        let plan = plan(&[
            "--baseline=raw",
            "--also-to=ours",
            "--counters=ours",
            "--loadtest-args=--spin --x 'a b'",
        ])
        .expect("a plan");
        assert_eq!((plan.references, plan.counts), (vec![1, 0], vec![true, false]));
        assert_eq!(plan.loadtest_args, ["--spin", "--x", "a b"]);
    }

    #[test]
    fn a_reference_and_a_cell_count_once() {
        let plan =
            plan(&["--baseline=raw", "--also-to=raw", "--cells=churn:1,churn:2,churn:1"]).expect("a plan");
        assert_eq!((plan.references, plan.cells.len()), (vec![1], 2));
    }

    #[test]
    fn mistakes_are_refused() {
        for (option, why) in [
            ("--baseline=none", "--baseline none is none of ours, raw"),
            ("--also-to=none", "--also-to none is none of ours, raw"),
            ("--counters=raw,none", "--counters none is none of ours, raw"),
            ("raw=c {port}", "two servers are named raw"),
            ("--rounds=0", "rounds"),
            ("--slice=0s", "a time from 1ms"),
            ("--slice=500us", "a time from 1ms"),
            ("--slice=2", "slice"),
            ("--path=ws", "--path ws"),
            ("--cells=json:1:64:1", "'json' is none of text"),
            ("--server-core=100000", "core 100000 is none of"),
            ("--loadtest-args='", "--loadtest-args"),
        ] {
            let told = plan(&[option]).expect_err(option);
            assert!(told.contains(why), "{option}: {told}");
        }
    }
}
