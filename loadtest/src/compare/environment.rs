//! What a figure depends on beside the servers: the machine, the moment, and what was asked for.

use std::fs;
use std::process::Command;
use std::time::SystemTime;

use serde::Serialize;

use super::measure::Plan;
use crate::procfs;

/// The machine and the moment. Its fields, in their order, are told.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Environment {
    /// UTC.
    date: String,
    kernel: String,
    cpu: String,
    /// Those that this process may use.
    cores: usize,
    server_core: usize,
    client_core: usize,
    congestion_control_of_the_system: String,
    /// Over the minute before.
    load_average: String,
    /// Of the repository in whose folder it ran.
    commit: String,
    loadtest: String,
    seed: u64,
    /// The command line that repeats it, as a shell reads it.
    pub(super) command: String,
}

impl Environment {
    /// As it is now, for that plan and its command line.
    pub(crate) fn describe(plan: &Plan, command: String) -> Self {
        let system = rustix::system::uname();
        let [name, release, machine] = [system.sysname(), system.release(), system.machine()]
            .map(|part| part.to_string_lossy().into_owned());
        let unknown = || "unknown".to_owned();
        Self {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            kernel: format!("{name} {release} {machine}"),
            cpu: procfs::cpu_model().unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            server_core: plan.server_core,
            client_core: plan.client_core,
            congestion_control_of_the_system: first_word("/proc/sys/net/ipv4/tcp_congestion_control")
                .unwrap_or_else(unknown),
            load_average: first_word("/proc/loadavg").unwrap_or_else(unknown),
            commit: commit().unwrap_or_else(unknown),
            loadtest: env!("CARGO_PKG_VERSION").to_owned(),
            seed: plan.seed,
            command,
        }
    }

    /// Each field but the command, in words.
    pub(crate) fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("date", self.date.clone()),
            ("kernel", self.kernel.clone()),
            ("CPU", self.cpu.clone()),
            ("cores", self.cores.to_string()),
            ("core of the servers", self.server_core.to_string()),
            ("core of the load generator", self.client_core.to_string()),
            ("congestion control of the system", self.congestion_control_of_the_system.clone()),
            ("load average before", self.load_average.clone()),
            ("commit", self.commit.clone()),
            ("loadtest", self.loadtest.clone()),
            ("seed", self.seed.to_string()),
        ]
    }
}

fn commit() -> Option<String> {
    let head = git(&["rev-parse", "HEAD"])?;
    let is_changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
    Some(if is_changed { format!("{head} (with changes)") } else { head })
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn first_word(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.split_ascii_whitespace().next()?.to_owned())
}
