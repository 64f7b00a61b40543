//! What stands in the way of the ring engine, and what would help.

use std::io;

use rustix::io::Errno;

use crate::system::{self, KERNEL_MIN, Release, Seccomp, Status, Sysctl};

/// Why the ring engine cannot run here.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}; {cure}")]
pub(crate) struct Obstacle {
    /// What was tried.
    pub(crate) what: &'static str,
    /// What the kernel said to it.
    pub(crate) source: io::Error,
    /// What would help, in one line.
    pub(crate) cure: String,
}

impl Obstacle {
    pub(crate) fn new(what: &'static str, source: io::Error) -> Self {
        let is_short = matches!(Errno::from_io_error(&source), Some(Errno::MFILE | Errno::NFILE));
        let cure = if what == LOOPBACK && !is_short {
            "bring the loopback interface up with `ip link set lo up`".to_owned()
        } else {
            cure(&source, Sysctl::read(), &Status::of_this_process(), &system::release())
        };
        Self { what, source, cure }
    }

    /// A ring could not be set up.
    pub(crate) fn setting_up(source: io::Error) -> Self {
        Self::new("setting up a ring", source)
    }
}

const ALLOW: &str = "a seccomp filter refuses it: allow io_uring_setup, io_uring_enter and io_uring_register in the \
                     profile, as deploy/seccomp-io_uring.json does";

/// What would help against this error of the ring, to a process of this status, on this kernel.
fn cure(error: &io::Error, sysctl: Sysctl, status: &Status, release: &str) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::PERM | Errno::ACCESS) if !sysctl.allows(status) => {
            format!("kernel.io_uring_disabled forbids it: {}", sysctl.cure())
        }
        Some(Errno::PERM | Errno::ACCESS | Errno::NOSYS) if status.seccomp == Seccomp::Filter => {
            ALLOW.to_owned()
        }
        Some(Errno::PERM | Errno::ACCESS) => {
            "a security module (SELinux, AppArmor) refuses it: its log names the rule, see `dmesg`".to_owned()
        }
        Some(Errno::NOSYS) => {
            format!(
                "Linux {release} was built without io_uring, or a sandbox such as gVisor stands in for it"
            )
        }
        Some(Errno::NOMEM) => {
            "raise the limit of locked memory with `ulimit -l` (LimitMEMLOCK= under systemd), or of all memory with \
             `ulimit -v`"
                .to_owned()
        }
        Some(Errno::MFILE | Errno::NFILE) => {
            "raise the limit of open files with `ulimit -n` (LimitNOFILE= under systemd)".to_owned()
        }
        Some(Errno::AGAIN) => {
            "raise the limit of threads with `ulimit -u` (TasksMax= under systemd, --pids-limit of a container)".to_owned()
        }
        _ if Release::parse(release).is_none_or(|release| release < KERNEL_MIN) => {
            format!("Linux 6.1 or newer is needed, this is {release}")
        }
        _ => format!("Linux 6.1 and newer do this, but not this {release}; `--engine epoll` runs everywhere"),
    }
}

/// The step that has nothing to do with io_uring.
pub(super) const LOOPBACK: &str = "a TCP connection over 127.0.0.1, to try with";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::CAP_SYS_ADMIN;

    #[test]
    fn each_refusal_has_its_cure() {
        let filtered = Status { seccomp: Seccomp::Filter, ..Status::default() };
        let free = Status { seccomp: Seccomp::Off, ..Status::default() };
        let admin = Status { capabilities: 1 << CAP_SYS_ADMIN, ..filtered.clone() };
        for (errno, sysctl, status, says) in [
            (libc::EPERM, Sysctl::Closed(2), &free, "kernel.io_uring_disabled"),
            (libc::EPERM, Sysctl::Closed(2), &filtered, "kernel.io_uring_disabled"),
            (libc::EPERM, Sysctl::Group(100), &free, "kernel.io_uring_group"),
            (libc::EPERM, Sysctl::Group(100), &admin, "seccomp"),
            (libc::EPERM, Sysctl::Open, &filtered, "seccomp"),
            (libc::EACCES, Sysctl::Absent, &free, "SELinux"),
            (libc::ENOSYS, Sysctl::Absent, &filtered, "seccomp"),
            (libc::ENOSYS, Sysctl::Absent, &free, "gVisor"),
            (libc::ENOMEM, Sysctl::Open, &filtered, "ulimit -l"),
            (libc::EMFILE, Sysctl::Open, &free, "ulimit -n"),
            (libc::EINVAL, Sysctl::Open, &free, "Linux 6.1 or newer is needed, this is 6.0.19"),
            (libc::ETIME, Sysctl::Open, &free, "Linux 6.1 or newer is needed, this is 6.0.19"),
        ] {
            let cure = cure(&io::Error::from_raw_os_error(errno), sysctl, status, "6.0.19");
            assert!(cure.contains(says) && !cure.contains('\n'), "{errno} {sysctl:?} {status:?}: {cure}");
        }
        let on_a_new_kernel = cure(&io::Error::other("odd"), Sysctl::Open, &free, "6.1.0");
        assert!(on_a_new_kernel.contains("--engine epoll"), "{on_a_new_kernel}");
    }
}
