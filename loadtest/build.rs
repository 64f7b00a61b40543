//! Tells the program which commit it was built from: RINGBACK_COMMIT where that is set, else what git says, else nothing.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed={NAME}");
    if env::var_os(NAME).is_some() {
        // rustc sees it as it is.
        return;
    }
    let Some(commit) = git(&["rev-parse", "HEAD"]) else {
        return;
    };
    println!("cargo:rustc-env={NAME}={commit}");
    // HEAD changes with the branch, and the log of it with each commit as well.
    for name in ["HEAD", "logs/HEAD"] {
        // A path that is not there would have this run again for every build.
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
}

/// What git says in a line; `None` where there is no git or no repository.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let line = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| line.trim().to_owned())
}

const NAME: &str = "RINGBACK_COMMIT";
