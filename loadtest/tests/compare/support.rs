//! A folder with the fakes in it, and runs of the program there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity};
use serde_json::Value;
use tempfile::TempDir;

/// A folder for one test.
pub(crate) struct Bench {
    folder: TempDir,
}

/// A run that has ended.
pub(crate) struct Ran {
    /// How.
    pub(crate) status: ExitStatus,
    /// What it printed.
    pub(crate) stdout: String,
    /// What it complained of.
    pub(crate) stderr: String,
    /// How many servers were started; none of them runs any more.
    pub(crate) started: usize,
}

impl Ran {
    /// Its exit code.
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("{}: {}", self.status, self.stderr))
    }
}

impl Bench {
    /// An empty one, but for the fakes.
    pub(crate) fn new() -> Self {
        // Where the programs are, so that they can be linked to.
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let bench = Self { folder };
        let this = std::env::current_exe().expect("a path");
        for name in ["fake-server", "fake-loadtest"] {
            symlink(&this, bench.path(name)).expect("a link");
        }
        fs::create_dir(bench.path("pids")).expect("a folder");
        bench
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An option whose value is a path in the folder.
    pub(crate) fn option(&self, option: &str, name: &str) -> String {
        format!("{option}={}", self.path(name).display())
    }

    /// The command of a fake server that `does` something.
    pub(crate) fn server(&self, does: &str) -> String {
        format!("{} {{port}} {} {does}", self.path("fake-server").display(), self.path("pids").display())
    }

    /// Compares `ours`, a `ws` server that `does` something, and `raw`, a `tcp` server, by the fake load generator in
    /// six rounds, unless the arguments say otherwise.
    pub(crate) fn compare(&self, does: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
        let child = self.start(does, arguments, environment);
        self.finish(child)
    }

    /// As [`compare`](Self::compare), without waiting for its end.
    pub(crate) fn start(&self, does: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Child {
        self.start_under(&[], does, arguments, environment)
    }

    /// As [`start`](Self::start), by another program.
    pub(crate) fn start_under(
        &self,
        by: &[&str],
        does: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Child {
        let core = first_core().to_string();
        let mut words = by.iter().chain([&env!("CARGO_BIN_EXE_loadtest")]);
        let mut command = without_cargo(Path::new(words.next().expect("one")));
        command.args(words).args([
            "compare",
            "--slice=1500ms",
            "--seed=1",
            "--baseline=raw",
            "--server-core",
            &core,
        ]);
        for (option, value) in [("--rounds", "6"), ("--cells", "text:3:64:1,utf8:3:16KiB:2")] {
            if !arguments.iter().any(|argument| argument.starts_with(option)) {
                command.args([option, value]);
            }
        }
        command.arg(self.option("--loadtest", "fake-loadtest"));
        command.arg(format!("ours={}", self.server(does)));
        command.arg(format!("raw=tcp:{}", self.server("")));
        command.args(arguments).env("SERVER_CORE", core).envs(environment.iter().copied());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it is built")
    }

    /// Waits for the end and makes sure that no server is left.
    pub(crate) fn finish(&self, child: Child) -> Ran {
        let output = child.wait_with_output().expect("it ends");
        let pids = self.pids();
        let left: Vec<_> = pids.iter().copied().filter(|&pid| is_running(pid)).collect();
        for &pid in &left {
            let _ = kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL);
        }
        let text = |bytes| String::from_utf8(bytes).expect("text");
        let stderr = text(output.stderr);
        assert!(left.is_empty(), "servers were left behind: {left:?}, {stderr}");
        Ran { status: output.status, stdout: text(output.stdout), stderr, started: pids.len() }
    }

    /// The servers that were started.
    pub(crate) fn pids(&self) -> Vec<i32> {
        let names = fs::read_dir(self.path("pids"))
            .expect("a folder")
            .map(|entry| entry.expect("a file").file_name());
        names.map(|name| name.to_str().and_then(|name| name.parse().ok()).expect("a pid")).collect()
    }

    /// Waits until so many servers were started.
    pub(crate) fn await_servers(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.pids().len() < count {
            assert!(Instant::now() < deadline, "{:?}", self.pids());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// A JSON file in the folder.
    pub(crate) fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.text(name)).expect("JSON")
    }

    /// A file in the folder.
    pub(crate) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

/// The program, as it is without cargo around it.
pub(crate) fn loadtest() -> Command {
    without_cargo(Path::new(env!("CARGO_BIN_EXE_loadtest")))
}

/// A command that finds nothing of cargo in its environment.
pub(crate) fn without_cargo(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_remove("CARGO").env_remove("CARGO_MANIFEST_DIR");
    command
}

/// The first core that this process may use.
pub(crate) fn first_core() -> usize {
    let allowed = sched_getaffinity(None).expect("asked");
    (0..CpuSet::MAX_CPU).find(|&core| allowed.is_set(core)).expect("one core")
}

/// Whether there is such a process, zombies apart.
fn is_running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}
