//! Variables that look like options and are none: a slip there would be a default that nobody asked for.

use std::ffi::OsString;

use clap::Command;

use super::file::Mistake;
use super::nearest;
use crate::mask::Kernel;
use crate::variables::is_of_a_service;

/// What the variables of options begin with.
const PREFIX: &str = "RINGBACK_";

/// The command as it is parsed: without the variables that are empty, which are unset. `--help` shows them all the same.
pub(super) fn without_empty(command: Command) -> Command {
    command.mut_args(|argument| {
        let value = argument.get_env().and_then(std::env::var_os);
        if value.is_some_and(|value| value.is_empty()) { argument.env(None::<&str>) } else { argument }
    })
}

/// Variables that begin so and are not the server's: those of its tests, its builds and its measurements.
const OF_TOOLS: [&str; 4] =
    ["RINGBACK_COMMIT", "RINGBACK_FOREIGN", "RINGBACK_STRESS_PERCENT", "RINGBACK_TEST_IS_CROWD_SERVER"];

/// Finds a variable that no option has among those of the environment.
///
/// # Errors
///
/// The first such one by name, with the nearest that there is.
pub(super) fn check(
    command: &Command,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(), Mistake> {
    let known: Vec<_> = command
        .get_arguments()
        .filter_map(|argument| argument.get_env()?.to_str())
        .chain([Kernel::VARIABLE])
        .collect();
    let strays = variables.into_iter().filter_map(|(name, value)| {
        let (name, value) = (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned());
        let is_ours = name.starts_with(PREFIX)
            && !known.contains(&name.as_str())
            && !OF_TOOLS.contains(&name.as_str())
            && !is_of_a_service(&name, &value);
        is_ours.then_some(name)
    });
    let Some(stray) = strays.min() else { return Ok(()) };
    // They all begin alike.
    let known = known.iter().map(|name| name.trim_start_matches(PREFIX));
    let cure = match nearest(stray.trim_start_matches(PREFIX), known) {
        Some(nearest) => format!("the nearest is {PREFIX}{nearest}"),
        None => "`ringback --help` has them all".to_owned(),
    };
    Err(Mistake::new(stray.replace(char::is_control, "?"), format!("no option has this variable; {cure}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    fn said(variables: &[(&str, &str)]) -> Result<(), String> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        check(&cli::command(), variables).map_err(|mistake| mistake.to_string())
    }

    #[test]
    fn a_slip_is_told_with_the_nearest() {
        for (name, nearest) in [
            ("RINGBACK_WORKRES", "RINGBACK_WORKERS"),
            ("RINGBACK_WORKER", "RINGBACK_WORKERS"),
            ("RINGBACK_DRAIN-TIMEOUT", "RINGBACK_DRAIN_TIMEOUT"),
            ("RINGBACK_ALLOWED_ORIGINS", "RINGBACK_ALLOWED_ORIGIN"),
            ("RINGBACK_MASKS", "RINGBACK_MASK"),
        ] {
            let told = format!("{name}: no option has this variable; the nearest is {nearest}");
            assert_eq!(said(&[("HOME", "/"), (name, "1")]), Err(told));
        }
        for name in ["RINGBACK_HELP", "RINGBACK_PORT", "RINGBACK_", "RINGBACK_FOO"] {
            let told = format!("{name}: no option has this variable; `ringback --help` has them all");
            assert_eq!(said(&[(name, "1")]), Err(told));
        }
        assert!(said(&[("RINGBACK_B", ""), ("RINGBACK_A", "")]).unwrap_err().starts_with("RINGBACK_A: "));
        assert!(said(&[("RINGBACK_PORT", "9001")]).is_err(), "what a person would write");
        assert!(said(&[("RINGBACK_PORTS_A", "1")]).is_err());
    }

    #[test]
    fn what_others_set_is_theirs() {
        for name in
            OF_TOOLS.into_iter().chain(["RINGBACK", "RINGBACKUP_PATH", "ringback_x", Kernel::VARIABLE])
        {
            assert_eq!(said(&[(name, "")]), Ok(()), "{name}");
        }
        // As Kubernetes sets them for the Services `ringback` and `ringback-admin`.
        assert_eq!(
            said(&[
                ("RINGBACK_SERVICE_HOST", "10.0.0.11"),
                ("RINGBACK_SERVICE_PORT", "9001"),
                ("RINGBACK_SERVICE_PORT_WS", "9001"),
                ("RINGBACK_PORT", "tcp://10.0.0.11:9001"),
                ("RINGBACK_PORT_9001_TCP", "tcp://10.0.0.11:9001"),
                ("RINGBACK_PORT_9001_TCP_PROTO", "tcp"),
                ("RINGBACK_PORT_9001_TCP_PORT", "9001"),
                ("RINGBACK_PORT_9001_TCP_ADDR", "10.0.0.11"),
                ("RINGBACK_ADMIN_SERVICE_HOST", "10.0.0.12"),
                ("RINGBACK_ADMIN_PORT", "tcp://10.0.0.12:9002"),
            ]),
            Ok(())
        );
    }
}
