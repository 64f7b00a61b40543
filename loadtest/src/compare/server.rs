//! The servers under measurement.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, ExitStatus};
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::Serialize;

use super::End;
use super::process::{Log, Process, check};
use crate::run::Failure;
use crate::signals::Signals;

/// What the command line says of a server: `NAME=[ws:|tcp:]COMMAND`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Spec {
    /// Letters, digits, `_`, `-` and `.`: it also names columns and files.
    pub(crate) name: String,
    /// `ws` or `tcp`, as in the load generator's target.
    pub(crate) scheme: &'static str,
    /// With `{port}` in it, and `{core}` where the server wants to know.
    pub(crate) command: String,
}

/// A running server. Dropping it stops it, and what it has started: SIGTERM to their process group, and SIGKILL when that
/// does not do.
#[derive(Debug)]
pub(super) struct Server {
    /// What it is.
    pub(super) spec: Spec,
    /// Where it listens, on 127.0.0.1.
    pub(super) port: u16,
    process: Process,
    log: Log,
    /// When it is killed, once SIGTERM is on its way.
    stop_by: Option<Instant>,
    /// A second one has it be killed at once.
    signals: Signals,
}

impl Server {
    /// Starts it on a core and waits until it listens; `environment` comes on top of ours.
    ///
    /// # Errors
    ///
    /// It does not start, ends or does not listen: with its last words.
    pub(super) fn start(
        spec: &Spec,
        core: usize,
        environment: &[(&str, &str)],
        signals: &Signals,
    ) -> Result<Self, End> {
        let name = &spec.name;
        let cannot = |error: io::Error| End::failed(format!("{name} does not start: {error}"));
        let port = free_port().map_err(cannot)?;
        let words = spec.words(port, core)?;
        let log = Log::new().map_err(cannot)?;
        let program = &words[0];
        let not_started = |error: io::Error| {
            let cure = match error.kind() {
                io::ErrorKind::NotFound => "; is it built? A path counts from the folder you are in",
                io::ErrorKind::PermissionDenied => "; is it a program?",
                _ => "",
            };
            End::failed(format!("{name} does not start: {program}: {error}{cure}"))
        };
        let mut command = Command::new(program);
        command.args(&words[1..]).envs(environment.iter().copied());
        command.stdout(log.writer().map_err(cannot)?).stderr(log.writer().map_err(cannot)?);
        let process = Process::spawn(&mut command, Some(core)).map_err(not_started)?;
        let mut server =
            Self { spec: spec.clone(), port, process, log, stop_by: None, signals: signals.clone() };
        server.await_listening(signals)?;
        Ok(server)
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Passes while it runs.
    ///
    /// # Errors
    ///
    /// How it has ended, and its last words.
    pub(super) fn check_alive(&mut self) -> Result<(), End> {
        match self.process.status() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                Err(End::failed(format!("{} has ended: {status}{}", self.spec.name, self.last_words())))
            }
            Err(error) => Err(End::failed(format!("{}: {error}", self.spec.name))),
        }
    }

    /// What it logs of its counters when it gets SIGUSR1, as ringback does: `counters: NAME=VALUE …`.
    ///
    /// # Errors
    ///
    /// It ends, or logs no such line in time.
    pub(super) fn counters(&mut self, signals: &Signals) -> Result<BTreeMap<String, u64>, End> {
        let since = self.log.len();
        self.process.signal(Signal::USR1);
        let deadline = Instant::now() + COUNTERS_DEADLINE;
        loop {
            check(signals)?;
            self.check_alive()?;
            if let Some(counters) = parse_counters(&self.log.text(since)) {
                return Ok(counters);
            }
            if Instant::now() > deadline {
                let name = &self.spec.name;
                return Err(End::failed(format!(
                    "{name} logs no line with 'counters: NAME=VALUE …' on SIGUSR1{}",
                    self.last_words()
                )));
            }
            signals.wait(None, Instant::now() + Duration::from_millis(5));
        }
    }

    /// Keeps what it has written from growing: some servers log every connection.
    pub(super) fn trim_log(&self) {
        self.log.trim();
    }

    /// The end of what it has written, each line on one of its own; empty where it is.
    pub(super) fn last_words(&self) -> String {
        let text = self.log.text(0);
        let lines: Vec<_> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_WORDS_LINES)..];
        last.iter().map(|line| format!("\n    {line}")).collect()
    }

    /// Tells it to end, without waiting for that: several are stopped at once, and have the same time for it.
    pub(super) fn begin_stop(&mut self) {
        self.end_by();
    }

    /// Tells it to end, unless it has been told; until when it may take.
    fn end_by(&mut self) -> Instant {
        *self.stop_by.get_or_insert_with(|| {
            self.process.signal_group(Signal::TERM);
            Instant::now() + STOP_DEADLINE
        })
    }

    fn await_listening(&mut self, signals: &Signals) -> Result<(), End> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            check(signals)?;
            self.check_alive()?;
            if let Ok(probe) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
                // Without a listener, a probe that happens to get the port as its own connects to itself.
                if probe.local_addr().ok() != probe.peer_addr().ok() {
                    // It may be another's listener, on whose port the server has just failed.
                    return self.check_alive();
                }
            }
            if Instant::now() > deadline {
                let Self { spec: Spec { name, .. }, port, .. } = &*self;
                return Err(End::failed(format!(
                    "{name} does not listen on port {port}{}",
                    self.last_words()
                )));
            }
            signals.wait(None, Instant::now() + Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let told_by_us = !matches!(self.process.status(), Ok(Some(_)));
        let deadline = self.end_by();
        let name = &self.spec.name;
        match self.process.wait_group(deadline, &self.signals) {
            None if self.signals.is_urgent() => {}
            None => say!("loadtest: {name} does not end on SIGTERM: killed"),
            Some(status) if told_by_us && !is_orderly(status) => {
                say!("loadtest: {name} has ended on SIGTERM with {status}");
            }
            Some(_) => {}
        }
        // What is left is killed by the process's own drop.
    }
}

/// Whether a server that got SIGTERM went as one does: by itself, or by the signal.
fn is_orderly(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt as _;
    status.success() || status.signal() == Some(Signal::TERM.as_raw())
}

impl Spec {
    /// The program and its arguments, split as a shell would do it, which it is not.
    ///
    /// # Errors
    ///
    /// A quote is not closed, or there is no program.
    pub(crate) fn words(&self, port: u16, core: usize) -> Result<Vec<String>, Failure> {
        let command = self.command.replace("{port}", &port.to_string()).replace("{core}", &core.to_string());
        match shell_words::split(&command) {
            Ok(words) if !words.is_empty() => Ok(words),
            Ok(_) => Err(Failure::Usage(format!("the command of {} is empty", self.name))),
            Err(error) => Err(Failure::Usage(format!("the command of {}: {error}", self.name))),
        }
    }
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, command) = text.split_once('=').ok_or("it is not NAME=COMMAND")?;
        let may_name = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if name.is_empty() || !name.chars().all(may_name) {
            return Err(format!("the name '{name}' is not of letters, digits, '_', '-' and '.'"));
        }
        let (scheme, command) = match (command.strip_prefix("tcp:"), command.strip_prefix("ws:")) {
            (Some(command), _) => ("tcp", command),
            (None, Some(command)) => ("ws", command),
            (None, None) => ("ws", command),
        };
        if !command.contains("{port}") {
            return Err(format!("the command of {name} has no {{port}}"));
        }
        let spec = Self { name: name.to_owned(), scheme, command: command.to_owned() };
        spec.words(0, 0).map_err(|failure| failure.to_string())?;
        Ok(spec)
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.scheme == "ws" { "" } else { "tcp:" };
        write!(f, "{}={scheme}{}", self.name, self.command)
    }
}

/// A port that nobody listens on, as long as nobody else takes it.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// The pairs behind `counters:` in the first whole line that has them.
fn parse_counters(text: &str) -> Option<BTreeMap<String, u64>> {
    let whole = &text[..=text.rfind('\n')?];
    whole.lines().find_map(|line| {
        let (_, pairs) = line.split_once("counters: ")?;
        let pair = |word: &str| {
            let (name, value) = word.split_once('=')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        // What follows the pairs is of no matter.
        let counters: BTreeMap<_, _> = pairs.split_ascii_whitespace().map_while(pair).collect();
        (!counters.is_empty()).then_some(counters)
    })
}

const START_DEADLINE: Duration = Duration::from_secs(10);
const STOP_DEADLINE: Duration = Duration::from_secs(10);
const COUNTERS_DEADLINE: Duration = Duration::from_secs(10);
const LAST_WORDS_LINES: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_read_with_its_scheme() {
        let spec: Spec = "raw=tcp:echo --port={port}".parse().expect("well formed");
        assert_eq!(
            (spec.name.as_str(), spec.scheme, spec.command.as_str()),
            ("raw", "tcp", "echo --port={port}")
        );
        assert_eq!(spec.to_string(), "raw=tcp:echo --port={port}");
        assert_eq!("a.b-1=b {port}".parse::<Spec>().expect("well formed").scheme, "ws");
        assert_eq!("a=ws:b {port}".parse::<Spec>().expect("well formed").command, "b {port}");
    }

    #[test]
    fn the_command_is_split_as_a_shell_would() {
        let spec: Spec =
            "a='/a b/c' --at 127.0.0.1:{port} --core={core} \"x y\"".parse().expect("well formed");
        assert_eq!(
            spec.words(80, 3),
            Ok(["/a b/c", "--at", "127.0.0.1:80", "--core=3", "x y"].map(str::to_owned).into())
        );
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for (text, why) in [
            ("ringback", "not NAME=COMMAND"),
            ("a=", "no {port}"),
            ("a=program", "no {port}"),
            ("=program {port}", "name ''"),
            ("a b=program {port}", "name 'a b'"),
            ("a='program {port}", "quote"),
        ] {
            let told = text.parse::<Spec>().expect_err(text);
            assert!(told.contains(why), "{text}: {told}");
        }
    }

    #[test]
    fn counters_are_read_from_a_whole_line() {
        let pairs = |found: &[(&str, u64)]| Some(found.iter().map(|&(n, v)| (n.to_owned(), v)).collect());
        let line = "12:00 INFO counters: accepted=4 enters=12 (since the start)\n";
        assert_eq!(parse_counters(line), pairs(&[("accepted", 4), ("enters", 12)]));
        assert_eq!(
            parse_counters(&format!("counters: none\n{line}")),
            pairs(&[("accepted", 4), ("enters", 12)])
        );
        assert_eq!(parse_counters(line.trim_end()), None);
        assert_eq!(parse_counters("listening\n"), None);
    }
}
