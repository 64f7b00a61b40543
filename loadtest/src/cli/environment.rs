//! The environment: a mistake in it ends the program, whatever the command line says.

use std::ffi::OsString;

use ringback::variables::{self, is_of_a_service};

use super::run::{ENGINE_VARIABLE, engine_of_environment};
use crate::run::Failure;

/// Judges every variable of ours, also one that the command line overrides.
///
/// # Errors
///
/// The first wrong variable, in one line.
pub(crate) fn check_environment() -> Result<(), Failure> {
    check_names(std::env::vars_os())?;
    engine_of_environment()?;
    variables::mask().map(drop).map_err(|error| Failure::Usage(error.to_string()))
}

/// Finds a variable that begins as ours do and that no option has: a slip would be a default that nobody asked for.
fn check_names(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<(), Failure> {
    let strays = variables.into_iter().filter_map(|(name, value)| {
        let (name, value) = (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned());
        let is_stray = name.starts_with(PREFIX)
            && ![ENGINE_VARIABLE, SCHEMA_VARIABLE].contains(&name.as_str())
            && !is_of_a_service(&name, &value);
        is_stray.then_some(name)
    });
    let Some(stray) = strays.min() else { return Ok(()) };
    let stray = stray.replace(char::is_control, "?");
    Err(Failure::Usage(format!(
        "{stray}: no option has this variable; the only one is {ENGINE_VARIABLE}: correct the name, or unset it"
    )))
}

/// What the variables of options begin with.
const PREFIX: &str = "LOADTEST_";

/// A variable of our own tests.
const SCHEMA_VARIABLE: &str = "LOADTEST_SCHEMA";

#[cfg(test)]
mod tests {
    use super::*;

    fn told(variables: &[(&str, &str)]) -> Result<(), String> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        check_names(variables).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_slip_is_told_with_the_name_that_is_meant() {
        for name in ["LOADTEST_ENGIN", "LOADTEST_ENGINES", "LOADTEST_", "LOADTEST_PORT", "LOADTEST_engine"] {
            let told = told(&[("HOME", "/"), (name, "1")]).expect_err(name);
            let expected = format!("{name}: no option has this variable; the only one is LOADTEST_ENGINE: ");
            assert!(told.starts_with(&expected), "{told}");
        }
        assert!(told(&[("LOADTEST_B", ""), ("LOADTEST_A", "")]).unwrap_err().starts_with("LOADTEST_A: "));
        assert!(told(&[("LOADTEST_\x1b[2J", "")]).unwrap_err().starts_with("LOADTEST_?[2J: "));
    }

    #[test]
    fn what_others_set_is_theirs() {
        for (name, value) in [
            (ENGINE_VARIABLE, "whatever"),
            (SCHEMA_VARIABLE, "write"),
            ("LOADTEST", "1"),
            ("LOADTESTER_X", "1"),
            ("loadtest_x", "1"),
            // As Kubernetes sets them for a Service of that name.
            ("LOADTEST_SERVICE_HOST", "10.0.0.11"),
            ("LOADTEST_PORT", "tcp://10.0.0.11:80"),
            ("LOADTEST_PORT_80_TCP_ADDR", "10.0.0.11"),
        ] {
            assert_eq!(told(&[(name, value)]), Ok(()), "{name}");
        }
    }
}
