//! What proc(5) and the clocks say about the server's process and the machine.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;

/// A process whose CPU time and memory are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pid: u32,
    clock: ClockId,
}

/// What a process has used up to a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// The moment.
    pub(crate) at: Instant,
    /// CPU time of all its threads, ended ones and those of io_uring included, to the nanosecond.
    pub(crate) cpu: Duration,
    /// Its part in user mode, in ticks of the same unit as `system_ticks`.
    pub(crate) user_ticks: u64,
    /// Its part in the kernel.
    pub(crate) system_ticks: u64,
}

/// A process's memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Resident now, in bytes.
    pub(crate) resident: u64,
    /// Resident at most so far, in bytes.
    pub(crate) resident_max: u64,
}

impl Process {
    /// The process with this id.
    ///
    /// # Errors
    ///
    /// There is none.
    pub(crate) fn new(pid: u32) -> io::Result<Self> {
        let id = i32::try_from(pid)
            .ok()
            .filter(|id| (1..=PID_MAX).contains(id))
            .ok_or_else(|| io::Error::from(rustix::io::Errno::SRCH))?;
        let clock = clock_getcpuclockid(Pid::from_raw(id))?;
        Ok(Self { pid, clock })
    }

    /// What it has used so far.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
        let cpu = self.clock.now()?.into();
        let at = Instant::now();
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        let (user_ticks, system_ticks) = parse_ticks(&stat).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Usage { at, cpu, user_ticks, system_ticks })
    }

    /// What memory it has.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub(crate) fn memory(&self) -> io::Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let field = |name| parse_kib(&status, name).ok_or(io::ErrorKind::InvalidData);
        Ok(Memory { resident: field("VmRSS:")?, resident_max: field("VmHWM:")? })
    }
}

/// The CPU's name, where the kernel tells it.
pub(crate) fn cpu_model() -> Option<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The kernel's PID_MAX_LIMIT. The clock of an id far beyond it, or of 0, would be that of another process: ours.
const PID_MAX: i32 = 1 << 22;

/// User and system time in clock ticks: fields 14 and 15 of /proc/PID/stat. The second field, the name, may contain
/// anything, so counting begins at its end.
fn parse_ticks(stat: &str) -> Option<(u64, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// A field of /proc/PID/status that is given in kB, in bytes.
fn parse_kib(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194560 1 2 3 4 1234 567 0 0 20 0 1 0 99 1 2";
        assert_eq!(parse_ticks(stat), Some((1234, 567)));
        assert_eq!(parse_ticks("7 (a) S 1"), None);
    }

    #[test]
    fn kib_fields() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(parse_kib(status, "VmRSS:"), Some(1 << 20));
        assert_eq!(parse_kib(status, "VmSwap:"), None);
    }

    #[test]
    fn our_own_process_uses_time_and_memory() {
        let process = Process::new(std::process::id()).expect("it is there");
        let before = process.usage().expect("it runs");
        while process.usage().expect("it runs").cpu - before.cpu < Duration::from_millis(3) {}
        let memory = process.memory().expect("it runs");
        assert!(memory.resident > 100_000 && memory.resident <= memory.resident_max);
    }

    #[test]
    fn a_process_that_is_not_there() {
        for pid in [0, 1 << 22, (1 << 22) + 1, 0x7FFF_FFFF, u32::MAX] {
            assert!(Process::new(pid).is_err(), "{pid}");
        }
    }
}
