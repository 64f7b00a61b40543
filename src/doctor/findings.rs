//! What is made of things seen: a verdict, and a cure where one is needed.

use std::io;

use rustix::io::Errno;

use super::Finding;
use crate::engine::ring::SUBMISSIONS;
use crate::engine::{Engine, Hindrance};
use crate::server::StartError;
use crate::system::{KERNEL_MIN, Release, Seccomp, Status, Sysctl};

/// A limit of open files beyond which the table of a ring does not grow.
const DIRECT_DESCRIPTORS_MAX: u64 = 65_536;

/// The kernel's release; an old one may have had what is needed put into it, so that it is no more than a note.
pub(super) fn kernel(release: &str) -> Finding {
    let found = format!("kernel: Linux {release}");
    let Release { major, minor } = KERNEL_MIN;
    if Release::parse(release).is_some_and(|release| release >= KERNEL_MIN) {
        Finding::ok(found)
    } else {
        Finding::note(
            found,
            format!("the ring engine is made for Linux {major}.{minor} and newer; what was tried counts"),
        )
    }
}

/// The switch of the whole system.
pub(super) fn sysctl(sysctl: Sysctl, status: &Status) -> Finding {
    let found = match sysctl {
        Sysctl::Absent => "sysctl: this kernel has no kernel.io_uring_disabled".to_owned(),
        Sysctl::Open => "sysctl: kernel.io_uring_disabled = 0".to_owned(),
        Sysctl::Group(group) => {
            format!("sysctl: kernel.io_uring_disabled = 1, kernel.io_uring_group = {group}")
        }
        Sysctl::Closed(disabled) => format!("sysctl: kernel.io_uring_disabled = {disabled}"),
    };
    if sysctl.allows(status) { Finding::ok(found) } else { Finding::fail(found, sysctl.cure()) }
}

/// Whether system calls are filtered, beside whether the ring engine `works`.
pub(super) fn seccomp(seccomp: Seccomp, works: bool) -> Finding {
    let found = |what| format!("seccomp: {what}");
    match (seccomp, works) {
        (Seccomp::Off, _) => Finding::ok(found("no filter")),
        (_, true) => Finding::ok(found("io_uring gets through the filter")),
        (Seccomp::Filter, false) => {
            Finding::note(found("a filter is on"), "allow io_uring in it if a ring is refused below")
        }
        (Seccomp::Strict | Seccomp::Unknown, false) => Finding::note(
            found("the kernel does not say"),
            "read /proc/self/status, mount /proc if it is missing",
        ),
    }
}

/// Something that the ring engine can do without, and what it means where it is missing.
pub(super) fn optional(what: &str, is_there: bool, otherwise: &str) -> Finding {
    if is_there {
        Finding::ok(format!("ring, optional: {what}"))
    } else {
        Finding::note(format!("ring, optional: no {what}"), otherwise)
    }
}

/// The limit of locked memory in bytes (`None` for no limit), which the rings of all processes of a user count against,
/// unless it is lifted; and the sizes of the rings that could be had at once.
pub(super) fn memlock(
    limit: Option<u64>,
    is_exempt: bool,
    rings: &io::Result<Vec<u32>>,
    workers: usize,
) -> Finding {
    let limit = match limit {
        _ if is_exempt => "no limit, by CAP_IPC_LOCK".to_owned(),
        None => "no limit".to_owned(),
        Some(bytes) => format!("a limit of {} KiB a user", bytes / 1024),
    };
    let cure = "raise it with `ulimit -l` (LimitMEMLOCK= under systemd), or take fewer --workers";
    match rings {
        Ok(rings) => match rings.iter().min() {
            Some(&smallest) if smallest < SUBMISSIONS => Finding::note(
                format!(
                    "locked memory: {limit}; workers: {workers}, some with a ring of {smallest} entries only"
                ),
                cure,
            ),
            _ => Finding::ok(format!(
                "locked memory: {limit}; workers: {workers}, each with a ring of {SUBMISSIONS} entries"
            )),
        },
        Err(error) if Errno::from_io_error(error) == Some(Errno::NOMEM) => {
            Finding::fail(format!("locked memory: {limit}; workers: {workers}, their rings do not fit"), cure)
        }
        Err(error) => Finding::fail(
            format!("a ring for each of {workers} workers: {error}"),
            "take fewer --workers, or raise the limit of open files with `ulimit -n`",
        ),
    }
}

/// The limit of open files (`None` for no limit), and how many connections there can be under it: on the ring engine, in
/// all and on a worker, and on the `others`.
pub(super) fn open_files(
    limit: Option<u64>,
    workers: usize,
    ring: &Result<(usize, usize), StartError>,
    others: &Result<usize, StartError>,
) -> Finding {
    let limit_text = limit.map_or_else(|| "no limit".to_owned(), |limit| limit.to_string());
    let (connections, per_worker) = match ring {
        Ok(connections) => connections,
        Err(StartError::Descriptors { needed, wanted, .. }) => {
            let what =
                wanted.map_or_else(|| "one connection".to_owned(), |wanted| format!("{wanted} connections"));
            return Finding::fail(
                format!("open files: {limit_text}; {needed} are needed for {what} on {workers} workers"),
                "raise the hard limit (`ulimit -Hn`, LimitNOFILE=), or lower --max-connections",
            );
        }
        Err(error) => {
            return Finding::fail(format!("open files: {error}"), "raise the limit with `ulimit -n`");
        }
    };
    let others = others.as_ref().map_or_else(|_| "too few".to_owned(), ToString::to_string);
    let found = format!(
        "open files: {limit_text}; connections on the ring engine: {connections} (workers: {workers}, at most \
         {per_worker} on each), on the others: {others}"
    );
    match limit {
        Some(limit) if limit < DIRECT_DESCRIPTORS_MAX => Finding::note(
            found,
            format!(
                "for more, raise the hard limit (`ulimit -Hn`, LimitNOFILE=); a ring uses {DIRECT_DESCRIPTORS_MAX}"
            ),
        ),
        _ => Finding::ok(found),
    }
}

/// How long the queue of connections that are not accepted yet can be, and what is asked for.
pub(super) fn backlog(somaxconn: Option<i64>, asked: i32) -> Finding {
    match somaxconn {
        Some(value) if value < i64::from(asked) => Finding::note(
            format!("accept queue: net.core.somaxconn = {value} cuts the {asked} asked for"),
            format!("`sysctl -w net.core.somaxconn={asked}`, or a burst of connections waits for retries"),
        ),
        Some(value) => Finding::ok(format!("accept queue: {asked}, within net.core.somaxconn = {value}")),
        None => Finding::note(
            format!("accept queue: {asked} asked for, net.core.somaxconn cannot be read"),
            "mount /proc",
        ),
    }
}

/// The congestion control that connections will have: the one asked for, else the system's.
pub(super) fn congestion_control(
    asked: Option<&str>,
    system: Option<&str>,
    available: Option<&str>,
) -> Finding {
    let Some(name) = asked.or(system) else {
        return Finding::note("congestion control: cannot be read".to_owned(), "mount /proc");
    };
    let available = available.unwrap_or_default();
    let found = format!("congestion control: {name} (there are: {available})");
    let has = |name: &str| available.split_whitespace().any(|one| one == name);
    if asked.is_some() && !has(name) {
        // The kernel may load it on demand, where it is a module and the process is privileged.
        Finding::note(found, format!("`modprobe tcp_{name}`, or ask for one that is there"))
    } else if name == "bbr" {
        let load = if has("cubic") { "" } else { " (after `modprobe tcp_cubic`)" };
        let found = format!("{found}; it paces by timers, on loopback too");
        Finding::note(found, format!("for measuring, `--congestion-control cubic` on both sides{load}"))
    } else {
        Finding::ok(found)
    }
}

/// Why a server would not start.
pub(super) fn start(error: &StartError) -> Finding {
    let error = error.to_string();
    let (found, cure) = error.split_once("; ").unwrap_or((&error, "the line says what the kernel refuses"));
    Finding::fail(found.to_owned(), cure)
}

/// The engine that `--engine auto` takes.
pub(super) fn engine(engine: &Result<Engine, Hindrance>) -> Finding {
    match engine {
        Ok(engine) => Finding::ok(format!("`--engine auto` takes {engine}")),
        Err(error) => Finding::fail(format!("`--engine auto`: {error}"), "ask for one by its name"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::system::CAP_SYS_ADMIN;

    #[track_caller]
    fn check(finding: &Finding, verdict: Verdict, found: &str, cure: &str) {
        assert_eq!(finding.verdict, verdict, "{finding}");
        assert!(finding.found.contains(found), "{finding}");
        assert_eq!(finding.cure.is_some(), verdict != Verdict::Ok, "{finding}");
        assert!(finding.cure.as_deref().unwrap_or_default().contains(cure), "{finding}");
        assert!(finding.to_string().lines().count() <= 2, "{finding}");
    }

    #[test]
    fn old_kernels_are_noted() {
        check(&kernel("6.1.0-13-amd64"), Verdict::Ok, "6.1.0-13-amd64", "");
        check(&kernel("5.14.0-503.el9"), Verdict::Note, "5.14.0", "6.1");
        check(&kernel("?"), Verdict::Note, "?", "6.1");
    }

    #[test]
    fn the_sysctl_fails_those_it_keeps_out() {
        let nobody = Status::default();
        let admin = Status { capabilities: 1 << CAP_SYS_ADMIN, ..Status::default() };
        check(&sysctl(Sysctl::Absent, &nobody), Verdict::Ok, "no kernel.io_uring_disabled", "");
        check(&sysctl(Sysctl::Open, &nobody), Verdict::Ok, "= 0", "");
        check(
            &sysctl(Sysctl::Group(5), &nobody),
            Verdict::Fail,
            "io_uring_group = 5",
            "kernel.io_uring_group",
        );
        check(&sysctl(Sysctl::Group(5), &admin), Verdict::Ok, "io_uring_group = 5", "");
        check(&sysctl(Sysctl::Closed(2), &admin), Verdict::Fail, "= 2", "kernel.io_uring_disabled=0");
    }

    #[test]
    fn a_filter_is_noted_where_the_ring_does_not_work() {
        check(&seccomp(Seccomp::Off, false), Verdict::Ok, "no filter", "");
        check(&seccomp(Seccomp::Filter, true), Verdict::Ok, "through", "");
        check(&seccomp(Seccomp::Filter, false), Verdict::Note, "a filter is on", "io_uring");
        check(&seccomp(Seccomp::Unknown, false), Verdict::Note, "not say", "/proc");
    }

    #[test]
    fn what_can_be_done_without_never_fails() {
        check(&optional("NO_SQARRAY", true, "Linux 6.6 has it"), Verdict::Ok, "NO_SQARRAY", "");
        check(&optional("NO_SQARRAY", false, "Linux 6.6 has it"), Verdict::Note, "no NO_SQARRAY", "6.6");
    }

    #[test]
    fn rings_fit_or_not() {
        let fit = Ok(vec![SUBMISSIONS; 2]);
        check(&memlock(Some(8 << 20), false, &fit, 2), Verdict::Ok, "8192 KiB", "");
        check(&memlock(Some(0), true, &fit, 2), Verdict::Ok, "CAP_IPC_LOCK", "");
        check(&memlock(None, false, &fit, 2), Verdict::Ok, "no limit", "");
        let halved = Ok(vec![SUBMISSIONS, SUBMISSIONS / 4]);
        check(
            &memlock(Some(65536), false, &halved, 2),
            Verdict::Note,
            &format!("{} entries", SUBMISSIONS / 4),
            "ulimit -l",
        );
        let none = Err(io::Error::from_raw_os_error(libc::ENOMEM));
        check(
            &memlock(Some(65536), false, &none, 9),
            Verdict::Fail,
            "workers: 9, their rings do not fit",
            "ulimit -l",
        );
        let files = Err(io::Error::from_raw_os_error(libc::EMFILE));
        check(&memlock(None, false, &files, 999), Verdict::Fail, "999 workers", "ulimit -n");
    }

    #[test]
    fn connections_are_counted_by_engine() {
        let few = open_files(Some(20_000), 2, &Ok((39_000, 19_500)), &Ok(19_800));
        check(
            &few,
            Verdict::Note,
            "on the ring engine: 39000 (workers: 2, at most 19500 on each)",
            "ulimit -Hn",
        );
        check(&few, Verdict::Note, "on the others: 19800", "65536");
        let many = open_files(Some(1 << 20), 2, &Ok((131_000, 65_500)), &Ok(1_000_000));
        check(&many, Verdict::Ok, "on the ring engine: 131000", "");
        check(&open_files(None, 1, &Ok((65_500, 65_500)), &Ok(9)), Verdict::Ok, "no limit", "");
        let too_few = || StartError::Descriptors { limit: 70, needed: 90, wanted: Some(50) };
        check(&open_files(Some(70), 2, &Ok((4, 2)), &Err(too_few())), Verdict::Note, "too few", "ulimit -Hn");
        let none = open_files(Some(70), 2, &Err(too_few()), &Err(too_few()));
        check(&none, Verdict::Fail, "90 are needed for 50 connections", "--max-connections");
    }

    #[test]
    fn a_short_accept_queue_is_noted() {
        check(&backlog(Some(4096), 4096), Verdict::Ok, "4096", "");
        check(&backlog(Some(128), 4096), Verdict::Note, "= 128 cuts", "net.core.somaxconn=4096");
        check(&backlog(None, 4096), Verdict::Note, "cannot be read", "/proc");
    }

    #[test]
    fn bbr_is_noted_and_a_missing_one_too() {
        let of = |asked, system| congestion_control(asked, Some(system), Some("reno bbr"));
        check(&of(None, "reno"), Verdict::Ok, "reno (there are: reno bbr)", "");
        check(&of(None, "bbr"), Verdict::Note, "paces", "modprobe tcp_cubic");
        check(&of(Some("reno"), "bbr"), Verdict::Ok, "reno", "");
        check(&of(Some("cubic"), "bbr"), Verdict::Note, "cubic", "modprobe tcp_cubic");
        check(&congestion_control(None, None, None), Verdict::Note, "cannot be read", "/proc");
    }

    #[test]
    fn the_engine_is_named() {
        check(&engine(&Ok(Engine::Epoll)), Verdict::Ok, "epoll", "");
    }
}
