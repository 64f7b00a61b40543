//! Filters of system calls (seccomp(2)), which hold for the thread that sets them and for what it starts.

use std::collections::BTreeMap;
use std::thread;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule};

/// What decides on each system call, by its number; a call without rules matches whatever its arguments are.
pub(crate) type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Calls `start` in a thread where the filters hold, one after the other.
pub(crate) fn under<T: Send + 'static>(
    filters: Vec<SeccompFilter>,
    start: impl FnOnce() -> T + Send + 'static,
) -> T {
    let thread = thread::spawn(move || {
        for filter in filters {
            let program: BpfProgram = filter.try_into().expect("a valid filter");
            seccompiler::apply_filter(&program).expect("a process may restrict itself");
        }
        start()
    });
    thread.join().expect("no panic")
}

/// A filter that lets everything through, but for a system call that gets an error.
pub(crate) fn refuse(system_call: i64, errno: i32) -> SeccompFilter {
    filter([(system_call, Vec::new())].into(), SeccompAction::Allow, error(errno))
}

/// A filter with an action for what no rule matches, and one for what does.
pub(crate) fn filter(rules: Rules, otherwise: SeccompAction, on_match: SeccompAction) -> SeccompFilter {
    let arch = std::env::consts::ARCH.try_into().expect("an architecture with seccomp");
    SeccompFilter::new(rules, otherwise, on_match, arch).expect("a valid filter")
}

/// The action that answers a system call with an error.
pub(crate) fn error(errno: i32) -> SeccompAction {
    SeccompAction::Errno(u32::try_from(errno).expect("errors are positive"))
}
