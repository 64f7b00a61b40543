//! `loadtest demo`: ringback beside a common server, in one command.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::cli::value;
use crate::compare::{
    self, Cell, End, Estimate, Figure, Measurement, Plan, Progress, Row, Spec, Summary, conclude, ended,
    measure, ratio, take_signals, too_few,
};
use crate::run::Failure;

/// The options of `loadtest demo`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// How long it may take, building aside, 3s to 365days: longer is surer
    #[arg(long, value_name = "TIME", default_value = "20s", allow_hyphen_values = true,
        value_parser = value::time_above_zero)]
    duration: Duration,
}

/// Compares the two and says what came out.
///
/// # Errors
///
/// A server cannot be started, or no figure is to be believed: why.
pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    conclude(demonstrate(args))
}

fn demonstrate(args: &Args) -> Result<Option<i32>, End> {
    let (rounds, slice) = split(args.duration)?;
    let [ringback, tungstenite] = servers(&programs()?)?;
    let (server_core, client_core) = compare::cores(None, None)?;
    let plan = Plan {
        servers: vec![ringback, tungstenite],
        cells: CELLS.iter().map(|(cell, _)| cell.parse().expect("a cell")).collect(),
        references: vec![1],
        counts: vec![false; 2],
        rounds,
        slice,
        warmup: WARMUP,
        server_core,
        client_core,
        path: "/ws".into(),
        seed: fastrand::u64(..),
        loadtest: compare::this_program()?,
        loadtest_args: Vec::new(),
    };
    let signals = take_signals()?;
    tell(&opening(&plan, args.duration));
    let progress = Progress::new(&plan, false);
    let Measurement { cells, signal } = measure(&plan, &signals, &progress)?;
    if let Some(signal) = signal {
        tell(&format!("{}\n", ended(signal, &plan, &cells)));
    }
    if !cells.is_empty() {
        let summaries: Vec<_> = cells.iter().map(|measured| Summary::new(&plan, measured)).collect();
        tell(&result(&plan, &summaries, compare::rounds(&cells)));
    }
    Ok(signal)
}

fn tell(text: &str) {
    // Who closes the pipe has read enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// How many rounds there are in that time, and how long each visit measures.
fn split(duration: Duration) -> Result<(u32, Duration), Failure> {
    let visits_a_round = u32::try_from(CELLS.len() * 2).unwrap_or(u32::MAX);
    let round_min = VISIT_MIN * visits_a_round;
    if duration < round_min {
        let least = humantime::format_duration(round_min);
        return Err(Failure::Usage(format!("--duration must be {least} or more")));
    }
    let rounds =
        u32::try_from(duration.as_millis() / round_min.as_millis()).unwrap_or(u32::MAX).min(ROUNDS_MAX);
    let visit = duration / (rounds * visits_a_round);
    Ok((rounds, visit - WARMUP - OVERHEAD))
}

/// The servers' programs, which lie beside this one. Run by cargo, it has them built first: else they might be those of
/// an older state.
fn programs() -> Result<[PathBuf; 2], Failure> {
    let own = compare::this_program()?;
    let folder = own.parent().unwrap_or(Path::new("/"));
    let profile = folder.file_name().unwrap_or_default().to_string_lossy();
    if let (Some(cargo), Some(package)) = (variable("CARGO"), variable("CARGO_MANIFEST_DIR")) {
        let manifest = Path::new(&package).join("../Cargo.toml");
        // The folder of the profile named dev is an exception.
        let profile = if profile == "debug" { "dev" } else { &profile };
        let mut command = Command::new(cargo);
        command.args([
            "build",
            "--profile",
            profile,
            "-p",
            "ringback",
            "-p",
            "baselines",
            "--bin",
            PROGRAMS[0],
            "--bin",
            PROGRAMS[1],
            "--manifest-path",
        ]);
        let status = command.arg(manifest).status();
        if !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
            let why = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            return Err(Failure::Unavailable(format!("the servers cannot be built: {why}")));
        }
    }
    if profile == "debug" {
        say!("loadtest: these are debug builds, whose figures mean nothing: use --release");
    }
    let programs = PROGRAMS.map(|name| folder.join(name));
    match programs.iter().find(|program| !program.is_file()) {
        None => Ok(programs),
        Some(missing) => Err(Failure::Unavailable(format!(
            "there is no {}: `cargo run --release -p loadtest -- demo` in ringback's repository makes it",
            missing.display()
        ))),
    }
}

/// What the environment says; an empty variable says nothing.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn servers([ringback, tungstenite]: &[PathBuf; 2]) -> Result<[Spec; 2], Failure> {
    let quoted = |program: &Path| {
        let program = shown(program);
        shell_words::quote(&program).into_owned()
    };
    let (ringback, tungstenite) = (quoted(ringback), quoted(tungstenite));
    // BBR, where it is the default, paces on loopback too.
    let [to_ringback, to_tungstenite] =
        if has_cubic() { [" --congestion-control cubic", " --congestion cubic"] } else { ["", ""] };
    let spec = |text: String| text.parse::<Spec>().map_err(Failure::Unavailable);
    Ok([
        spec(format!("ringback={ringback} --listen 127.0.0.1:{{port}} --workers 1{to_ringback}"))?,
        spec(format!("tungstenite={tungstenite} --listen 127.0.0.1:{{port}}{to_tungstenite}"))?,
    ])
}

/// Relative to the current folder where it is below.
fn shown(program: &Path) -> String {
    let below =
        std::env::current_dir().ok().and_then(|here| program.strip_prefix(here).ok().map(Path::to_owned));
    below.as_deref().unwrap_or(program).display().to_string()
}

fn has_cubic() -> bool {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP));
    socket.is_ok_and(|socket| socket.set_tcp_congestion(b"cubic").is_ok())
}

fn opening(plan: &Plan, duration: Duration) -> String {
    let Plan { server_core, client_core, rounds, .. } = plan;
    let duration = humantime::format_duration(duration);
    let mut text = format!(
        "ringback and tokio-tungstenite side by side, for about {duration}: {} loads, {rounds} {}\n",
        plan.cells.len(),
        if *rounds == 1 { "round" } else { "rounds" },
    );
    if server_core == client_core {
        let _ = writeln!(
            text,
            "There is one core for the servers and the load generator: rates and latencies are those of both."
        );
    } else {
        let _ = writeln!(
            text,
            "The servers run on core {server_core}, the load generator on core {client_core}."
        );
    }
    text.push_str("Every byte of every echo is compared.\n\n");
    text
}

fn result(plan: &Plan, summaries: &[Summary], rounds: u32) -> String {
    let mut text = format!(
        "{:14}{:BAR_CHARS$}{:>COLUMN$}{:>COLUMN$}{:>COLUMN$}\n",
        "", "", "CPU/message", "messages", "latency p50"
    );
    for (summary, (_, words)) in summaries.iter().zip(CELLS) {
        let cpu = |row: &Row| median(row, Figure::Cpu);
        let longest = summary.rows.iter().map(cpu).fold(0.0, f64::max);
        let _ = writeln!(text, "\n{words}");
        for row in &summary.rows {
            let _ = writeln!(
                text,
                "  {:12}{:BAR_CHARS$}{:>COLUMN$}{:>COLUMN$}{:>COLUMN$}",
                row.name,
                bar(cpu(row) / longest),
                compare::value(Figure::Cpu, cpu(row)),
                compare::value(Figure::Rate, median(row, Figure::Rate)),
                compare::value(Figure::P50, median(row, Figure::P50)),
            );
        }
        text.push_str(&sentence(summary, rounds));
    }
    let _ = match too_few(rounds) {
        Some(few) => writeln!(text, "\n{few}: a longer --duration has more."),
        None => writeln!(
            text,
            "\nIn parentheses: the 95 % bootstrap interval of the median over {rounds} rounds."
        ),
    };
    let _ = writeln!(
        text,
        "Microseconds are other ones tomorrow, or elsewhere; such ratios repeat better. All of it in full, with a page\n\
         of charts to keep:\n\n{}",
        command_in_full(plan)
    );
    text
}

/// What the two are to each other in a cell.
fn sentence(summary: &Summary, rounds: u32) -> String {
    let Some(estimate) = summary.rows[0].ratio(Figure::Cpu, 0) else {
        return String::new();
    };
    let told = ratio(estimate);
    let mut text = if let Some(few) = too_few(rounds) {
        format!("  By CPU time a message ringback is to tungstenite as {told} to 1; {few}.\n")
    } else if estimate.may_be_one() {
        format!("  The two cannot be told apart here by the server's CPU time a message: {told}.\n")
    } else {
        format!("  A message costs ringback {told} of the CPU time that it costs tungstenite.\n")
    };
    if summary.rows.iter().any(|row| row.slices_bound_by_client > 0) {
        text.push_str("  The load generator was at its limit: a server could go faster than these rates.\n");
    }
    text
}

/// What to type for all of it with more rounds.
fn command_in_full(plan: &Plan) -> String {
    let cells: Vec<_> = plan.cells.iter().map(Cell::to_string).collect();
    let mut line = format!(
        "  {} compare --baseline tungstenite --rounds 20 --slice 1s \\\n    --cells {} --html comparison.html",
        shell_words::quote(&shown(&plan.loadtest)),
        cells.join(",")
    );
    for spec in &plan.servers {
        let _ = write!(line, " \\\n    {}", shell_words::quote(&spec.to_string()));
    }
    line
}

/// A line of blocks for a share of the longest one, 0 to 1, to an eighth of a block.
fn bar(share: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most a few hundred eighths"
    )]
    let eighths = (share.clamp(0.0, 1.0) * ((BAR_CHARS - 2) * 8) as f64).round() as usize;
    let mut text = "█".repeat(eighths / 8);
    text.extend([' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'].get(eighths % 8).filter(|&&c| c != ' '));
    text
}

fn median(row: &Row, figure: Figure) -> f64 {
    row.figures.get(&figure).map_or(0.0, |Estimate { median, .. }| *median)
}

/// What is tried, and what it is in words: a round trip each, many messages in one read, and bulk that is not ASCII.
const CELLS: [(&str, &str); 3] = [
    ("text:64:64:1", "64 connections, 64-byte text, one message in flight on each"),
    ("text:64:64:16", "64 connections, 64-byte text, sixteen messages in flight on each"),
    ("utf8:16:16KiB:1", "16 connections, 16 KiB of text in many alphabets, one message in flight on each"),
];

const PROGRAMS: [&str; 2] = ["ringback", "tungstenite-echo"];

const WARMUP: Duration = Duration::from_millis(100);

/// What a visit takes beside its slice and warm-up: a process, connecting, draining.
const OVERHEAD: Duration = Duration::from_millis(50);

/// Shorter ones would be more overhead than measuring.
const VISIT_MIN: Duration = Duration::from_millis(500);

/// From there on, longer slices.
const ROUNDS_MAX: u32 = 20;

/// In characters.
const BAR_CHARS: usize = 32;
const COLUMN: usize = 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_kept() {
        for seconds in [3, 5, 20, 60, 600] {
            let (rounds, slice) = split(Duration::from_secs(seconds)).expect("long enough");
            let visits = f64::from(rounds * 6);
            let total = visits * (slice + WARMUP + OVERHEAD).as_secs_f64();
            assert!((total - seconds as f64).abs() < 0.01, "{seconds}: {total}");
            assert!(
                (1..=ROUNDS_MAX).contains(&rounds) && slice >= Duration::from_millis(350),
                "{rounds}, {slice:?}"
            );
        }
        assert!(matches!(split(Duration::from_secs(2)), Err(Failure::Usage(_))));
        // Enough for an interval of 95 %.
        assert!(split(Duration::from_secs(20)).expect("long enough").0 >= 6);
    }

    #[test]
    fn bars_are_as_long_as_their_share() {
        assert_eq!(bar(1.0), "█".repeat(BAR_CHARS - 2));
        assert_eq!(bar(0.5), "█".repeat(BAR_CHARS / 2 - 1));
        assert_eq!(bar(1.0 / 240.0), "▏");
        assert_eq!(bar(0.0), "");
        assert_eq!(bar(f64::NAN), "");
    }

    #[test]
    fn the_cells_and_servers_are_well_formed() {
        assert!(CELLS.iter().all(|(cell, _)| cell.parse::<Cell>().is_ok()));
        let [ringback, tungstenite] =
            servers(&["/a b/ringback".into(), "/a b/tungstenite-echo".into()]).expect("well formed");
        assert_eq!(ringback.words(1, 0).expect("a command")[0], "/a b/ringback");
        assert_eq!(tungstenite.words(1, 0).expect("a command")[2], "127.0.0.1:1");
    }
}
