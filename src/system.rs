//! What the kernel says about itself and about this process, in `/proc` and by uname(2), and the signals that it sends.

use std::fs;

/// The oldest kernel release on which everything that the ring engine uses is there and works.
pub(crate) const KERNEL_MIN: Release = Release { major: 6, minor: 1 };

/// `CAP_IPC_LOCK`, which exempts from RLIMIT_MEMLOCK (capabilities(7)).
pub(crate) const CAP_IPC_LOCK: u32 = 14;
/// `CAP_SYS_ADMIN`, which `kernel.io_uring_disabled = 1` exempts.
pub(crate) const CAP_SYS_ADMIN: u32 = 21;

/// The signals that end a process which does not take them, and that ask a server or a load generator for nothing
/// (signal(7)). Behind SIGXFSZ, which comes at the limit of `ulimit -f`, the write itself fails.
pub fn stray_signals() -> impl Iterator<Item = i32> {
    let named = [
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGALRM,
        libc::SIGVTALRM,
        libc::SIGPROF,
        libc::SIGIO,
        libc::SIGPWR,
        libc::SIGSTKFLT,
        libc::SIGXFSZ,
    ];
    named.into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
}

/// A kernel's release, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Release {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl Release {
    /// The first two numbers of what `uname -r` says; `None` when it does not begin with two numbers.
    pub(crate) fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some(Self { major: numbers.next()?.ok()?, minor: numbers.next()?.ok()? })
    }
}

/// What `uname -r` says.
pub(crate) fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// A file below `/proc/sys` without the line end, by its sysctl(8) name; `None` when this kernel has none such.
pub(crate) fn sysctl(name: &str) -> Option<String> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    Some(fs::read_to_string(path).ok()?.trim_end().to_owned())
}

/// As [`sysctl`], of one number.
pub(crate) fn sysctl_number(name: &str) -> Option<i64> {
    sysctl(name)?.parse().ok()
}

/// What the kernel cuts accept queues to, where it does not say.
const SOMAXCONN: usize = 4096;

/// What the kernel cuts accept queues to.
pub(crate) fn somaxconn() -> usize {
    let limit = sysctl_number("net.core.somaxconn");
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(SOMAXCONN)
}

/// Those lines of `/proc/self/status` that decide what a process may do (proc_pid_status(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    /// The effective capabilities, a bit each.
    pub(crate) capabilities: u64,
    /// The effective group and the supplementary ones.
    pub(crate) groups: Vec<i64>,
    /// How system calls are restricted.
    pub(crate) seccomp: Seccomp,
}

/// The mode of seccomp(2) that a process is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Seccomp {
    /// The kernel does not say.
    #[default]
    Unknown,
    /// Every system call gets through.
    Off,
    /// `read`, `write`, `_exit` and `sigreturn` only.
    Strict,
    /// Filters decide.
    Filter,
}

impl Status {
    /// That of this process; what cannot be read stays at its default.
    pub(crate) fn of_this_process() -> Self {
        fs::read_to_string("/proc/self/status").map(|text| Self::parse(&text)).unwrap_or_default()
    }

    fn parse(text: &str) -> Self {
        let value = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        // Real, effective, saved and file system GID.
        let effective = value("Gid").and_then(|ids| ids.split_whitespace().nth(1));
        let supplementary = value("Groups").into_iter().flat_map(str::split_whitespace);
        Self {
            capabilities: value("CapEff").and_then(|bits| u64::from_str_radix(bits, 16).ok()).unwrap_or(0),
            groups: effective.into_iter().chain(supplementary).filter_map(|id| id.parse().ok()).collect(),
            seccomp: match value("Seccomp") {
                Some("0") => Seccomp::Off,
                Some("1") => Seccomp::Strict,
                Some("2") => Seccomp::Filter,
                _ => Seccomp::Unknown,
            },
        }
    }

    /// Whether the process has this capability, a bit number of capabilities(7).
    pub(crate) fn may(&self, capability: u32) -> bool {
        self.capabilities >> capability & 1 == 1
    }
}

/// Whom `kernel.io_uring_disabled` keeps from io_uring (Linux 6.6; before, nobody).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sysctl {
    /// This kernel has no such switch.
    Absent,
    /// 0: anybody may use io_uring.
    Open,
    /// 1: those may who have CAP_SYS_ADMIN or are in the group of `kernel.io_uring_group` (-1: none).
    Group(i64),
    /// 2, or what a later kernel may add: nobody may.
    Closed(i64),
}

impl Sysctl {
    /// That of this kernel.
    pub(crate) fn read() -> Self {
        Self::from_values(sysctl_number("kernel.io_uring_disabled"), sysctl_number("kernel.io_uring_group"))
    }

    fn from_values(disabled: Option<i64>, group: Option<i64>) -> Self {
        match disabled {
            None => Self::Absent,
            Some(0) => Self::Open,
            Some(1) => Self::Group(group.unwrap_or(-1)),
            Some(other) => Self::Closed(other),
        }
    }

    /// Whether a process of this status may set a ring up, as far as this switch goes.
    pub(crate) fn allows(self, status: &Status) -> bool {
        match self {
            Self::Absent | Self::Open => true,
            Self::Group(group) => status.may(CAP_SYS_ADMIN) || status.groups.contains(&group),
            Self::Closed(_) => false,
        }
    }

    /// What to do where it does not allow.
    pub(crate) fn cure(self) -> &'static str {
        match self {
            Self::Group(_) => {
                "`sysctl -w kernel.io_uring_disabled=0`, or set kernel.io_uring_group to a group of the server's"
            }
            _ => "`sysctl -w kernel.io_uring_disabled=0`",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        for (text, major, minor) in
            [("6.18.44-fc-v595", 6, 18), ("5.14.0-503.el9.x86_64", 5, 14), ("6.1-rc3", 6, 1), ("10.0", 10, 0)]
        {
            assert_eq!(Release::parse(text), Some(Release { major, minor }), "{text}");
        }
        for text in ["", "six", "6", "6.", "-6.1"] {
            assert_eq!(Release::parse(text), None, "{text}");
        }
        assert!(Release::parse("6.0.19").unwrap() < KERNEL_MIN);
        assert!(Release::parse("6.10.1").unwrap() > KERNEL_MIN);
    }

    #[test]
    fn a_status_is_read_by_its_names() {
        let text = "Name:\tGroups: 7\nGid:\t1\t100\t2\t3\nGroups:\t4 27 \nCapPrm:\tffffffffffffffff\n\
                    CapEff:\t0000000000204000\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        let status = Status::parse(text);
        assert_eq!((status.groups.as_slice(), status.seccomp), (&[100, 4, 27][..], Seccomp::Filter));
        assert!(status.may(CAP_IPC_LOCK) && status.may(CAP_SYS_ADMIN) && !status.may(0) && !status.may(63));
        assert_eq!(Status::parse("Seccomp:\t0").seccomp, Seccomp::Off);
        assert_eq!(Status::parse("Seccomp:\t1").seccomp, Seccomp::Strict);
        assert_eq!(Status::parse(""), Status::default());
        assert!(!Status::of_this_process().groups.is_empty());
    }

    #[test]
    fn the_sysctl_closes_to_whom_it_says() {
        let nobody = Status { groups: vec![100], ..Status::default() };
        let admin = Status { capabilities: 1 << CAP_SYS_ADMIN, ..Status::default() };
        for (disabled, group, admits_nobody, admits_admin) in [
            (None, None, true, true),
            (Some(0), Some(-1), true, true),
            (Some(1), Some(-1), false, true),
            (Some(1), Some(100), true, true),
            (Some(1), None, false, true),
            (Some(2), Some(100), false, false),
            (Some(3), Some(100), false, false),
        ] {
            let sysctl = Sysctl::from_values(disabled, group);
            assert_eq!(sysctl.allows(&nobody), admits_nobody, "{sysctl:?}");
            assert_eq!(sysctl.allows(&admin), admits_admin, "{sysctl:?}");
        }
    }
}
