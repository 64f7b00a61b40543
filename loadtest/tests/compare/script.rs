//! `benches/compare.sh`, in a checkout of its own where all that it starts are scripts of a few lines.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

pub(crate) fn the_result_replaces_what_was_there() {
    let checkout = Checkout::new();
    let ran = checkout.run(&["--rounds", "7", "--markdown=elsewhere.md", "--svg", "elsewhere"]);
    assert!(ran.status.success(), "{ran:?}");
    let page = checkout.text("docs/BENCHMARKS.md");
    assert!(page.starts_with("# Benchmarks\n") && page.ends_with("\n![a](benchmarks/a.svg)\n"), "{page}");
    assert_eq!((checkout.text("docs/benchmarks/a.svg").as_str(), checkout.charts()), ("<svg>\n", 1));
    let line = checkout.text("line");
    for option in ["--rounds", "--slice", "--cells", "--baseline", "--also-to", "--counters"] {
        assert_eq!(line.matches(&format!(" {option} ")).count(), 1, "{option} in {line}");
    }
    assert!(line.contains(" --rounds 7 ") && line.contains(" ring=target/release/ringback "), "{line}");
    assert!(!checkout.path("elsewhere").exists() && !checkout.path("elsewhere.md").exists());
}

pub(crate) fn help_is_shown_and_nothing_else_is_done() {
    for option in ["--help", "-h"] {
        let checkout = Checkout::new();
        let ran = checkout.run(&["--rounds=6", option]);
        assert!(ran.status.success(), "{ran:?}");
        let told = String::from_utf8(ran.stdout).expect("text");
        assert!(told.starts_with("Compares ringback "), "{told}");
        assert!(told.ends_with("cargo run --quiet --release -p loadtest -- compare --help\n"), "{told}");
        assert!(!checkout.path("line").exists());
        checkout.assert_as_before();
    }
}

pub(crate) fn without_a_result_what_was_there_stays() {
    // Nothing is written, as by an option that only tells something; a chart is missing; it fails.
    for (does, is_told) in [
        ("nothing", "there is no result"),
        ("no-chart", "there is no target/benchmarks/benchmarks/a.svg"),
        ("fail", ""),
    ] {
        let checkout = Checkout::new();
        // An earlier run was as it should be.
        assert!(checkout.run(&[]).status.success());
        checkout.write_old();
        fs::write(checkout.path("does"), does).expect("a file");
        let ran = checkout.run(&[]);
        assert_eq!(ran.status.code(), Some(if does == "fail" { 64 } else { 1 }), "{does}: {ran:?}");
        assert!(String::from_utf8_lossy(&ran.stderr).contains(is_told), "{does}: {ran:?}");
        checkout.assert_as_before();
    }
}

/// A checkout with the script, something in `docs`, and what a build would have made.
struct Checkout(TempDir);

impl Checkout {
    fn new() -> Self {
        let checkout = Self(TempDir::new().expect("a folder"));
        for folder in ["benches", "docs/benchmarks", "target/release", "bin"] {
            fs::create_dir_all(checkout.path(folder)).expect("a folder");
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/compare.sh");
        fs::copy(script, checkout.path("benches/compare.sh")).expect("it is there");
        checkout.program("bin/cargo", CARGO);
        checkout.program("target/release/loadtest", LOADTEST);
        for server in
            ["ringback", "raw-tcp-echo", "tungstenite-echo", "fastwebsockets-echo", "tokio-websockets-echo"]
        {
            checkout.program(&format!("target/release/{server}"), SERVER);
        }
        checkout.write_old();
        checkout
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Written by a shell: what this process has open to write, a child of another thread may have for a moment longer, and
    /// then it cannot be run (ETXTBSY).
    fn program(&self, name: &str, text: &str) {
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"printf %s "$2" >"$1" && chmod 755 "$1""#, "sh"]).arg(self.path(name)).arg(text);
        assert!(shell.status().expect("there is a shell").success());
    }

    fn write_old(&self) {
        fs::write(self.path("docs/BENCHMARKS.md"), "old").expect("a file");
        fs::remove_dir_all(self.path("docs/benchmarks")).expect("a folder");
        fs::create_dir(self.path("docs/benchmarks")).expect("a folder");
        fs::write(self.path("docs/benchmarks/old.svg"), "old").expect("a file");
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command.arg(self.path("benches/compare.sh")).args(arguments).env_remove("CARGO_TARGET_DIR");
        command.env("PATH", format!("{}:{path}", self.path("bin").display()));
        command.output().expect("there is a bash")
    }

    fn charts(&self) -> usize {
        fs::read_dir(self.path("docs/benchmarks")).expect("a folder").count()
    }

    fn assert_as_before(&self) {
        assert_eq!(self.text("docs/BENCHMARKS.md"), "old");
        assert_eq!((self.text("docs/benchmarks/old.svg").as_str(), self.charts()), ("old", 1));
        assert_eq!(fs::read_dir(self.path("docs")).expect("a folder").count(), 2);
    }
}

/// Says what it is asked for.
const CARGO: &str = "#!/bin/sh\necho cargo \"$@\"\n";

/// Listens to nobody, until it is told to end.
const SERVER: &str = "#!/bin/sh\necho listening on nothing\nexec sleep 100\n";

/// Keeps its command line, and writes what it is told to where the last of each option says, but for what `does` says.
const LOADTEST: &str = r#"#!/bin/sh
echo " $*" >line
while [ $# -gt 0 ]; do
    case $1 in
    --markdown | --svg | --html | --json) eval "${1#--}=\$2"; shift ;;
    --markdown=* | --svg=* | --html=* | --json=*) name=${1%%=*}; eval "${name#--}=\${1#*=}" ;;
    esac
    shift
done
does=$(cat does 2>/dev/null)
case $does in
nothing) exit 0 ;;
fail) exit 64 ;;
esac
mkdir -p "$svg"
if [ "$does" != no-chart ]; then echo "<svg>" >"$svg/a.svg"; fi
printf '### a\n\n![a](benchmarks/a.svg)\n' >"$markdown"
echo "{}" >"$json"
echo "<html>" >"$html"
"#;
