//! Rules of the repository that no compiler checks.

#[path = "tidy/layers.rs"]
mod layers;
#[path = "tidy/source.rs"]
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use source::code;

/// Longest source file, in lines. Near 500 is the aim; a test table may go a little beyond.
const LINES_MAX: usize = 600;
/// Where `unsafe` may stand.
const UNSAFE_HOMES: [&str; 5] = [
    "src/mask",
    "src/engine/buffers",
    "src/engine/ring",
    "src/engine/tokio_uring",
    "src/engine/unconfirmed.rs",
];
/// What a protocol core that does no I/O and reads no clock has no use for.
const PROTO_FORBIDDEN: [&str; 4] = ["tokio", "rustix", "socket2", "libc"];
/// As [`PROTO_FORBIDDEN`], of the modules of `std` and `core`.
const PROTO_FORBIDDEN_STD: [&str; 6] = ["net", "fs", "time", "io", "thread", "process"];
/// A word in the documents that begins so is the path of a file or folder of this repository.
const PATH_PREFIXES: [&str; 9] =
    ["src/", "tests/", "docs/", "benches/", "examples/", "loadtest/", "fuzz/", "deploy/", ".ci/"];
/// What the README promises to someone who has just cloned the repository.
const README_COMMANDS: [&str; 2] = ["cargo run --release", "cargo test --workspace"];

#[test]
fn source_files_are_short() {
    let long: Vec<_> = sources(&["src", "loadtest/src"])
        .filter_map(|(path, text)| {
            let lines = text.lines().count();
            (lines > LINES_MAX).then(|| format!("{path}: {lines} lines"))
        })
        .collect();
    assert_none(&long, "files longer than 600 lines");
}

#[test]
fn unsafe_stays_in_its_folders() {
    let strays: Vec<_> = sources(&["src", "loadtest/src", "benches", "examples", "tests"])
        .filter(|(path, _)| !UNSAFE_HOMES.iter().any(|home| path.starts_with(home)))
        .filter(|(_, text)| words(&code(text)).any(|word| word == "unsafe"))
        .map(|(path, _)| path)
        .collect();
    assert_none(&strays, "`unsafe` outside of its homes");
}

#[test]
fn the_protocol_core_does_no_io() {
    let breaches: Vec<_> = sources(&["src/proto"])
        .flat_map(|(path, text)| forbidden_in_proto(&text).map(move |name| format!("{path}: {name}")))
        .collect();
    assert_none(&breaches, "what `proto` may not use");
}

/// What `src` may use of itself, what the crates beside it may use of it, and which crates have one home.
#[test]
fn modules_use_only_what_lies_below() {
    let all = |folders: &[&str]| sources(folders).collect::<Vec<_>>();
    let outside = all(&["loadtest/src", "benches", "examples", "fuzz/fuzz_targets"]);
    let library = all(&["src"]);
    let mut breaches = layers::breaches(&library);
    breaches.extend(layers::reaches(&outside));
    breaches.extend(layers::strays(&[library, outside].concat()));
    let breaches: Vec<_> =
        breaches.iter().map(|breach| format!("{}: {}", breach.file, breach.names)).collect();
    assert_none(&breaches, "modules that use what does not lie below them");
}

#[test]
fn the_document_has_the_list_of_layers() {
    let text = read("docs/ARCHITECTURE.md");
    let section = text.split("## Boundaries").nth(1).and_then(|rest| rest.split("\n## ").next());
    let rows = section.unwrap_or_default().lines().filter_map(|line| line.strip_prefix("| `"));
    let rows: Vec<_> = rows.map(|row| row.split(" | ").take(2).collect::<Vec<_>>().join(" | ")).collect();
    assert_eq!(rows, layers::rows().collect::<Vec<_>>(), "the table of docs/ARCHITECTURE.md");
}

#[test]
fn layers_are_of_modules_that_exist() {
    let missing: Vec<_> = layers::modules()
        .chain(layers::parts())
        .filter(|path| !root().join(path).is_dir() && !root().join(path).with_extension("rs").is_file())
        .collect();
    assert_none(&missing, "modules of the rules that do not exist");
}

#[test]
fn unfinished_work_has_an_owner() {
    let orphans: Vec<_> = sources(&["src", "loadtest", "benches", "examples", "tests", "fuzz"])
        .flat_map(|(path, text)| {
            let lines: Vec<_> = text.lines().enumerate().filter(|(_, line)| is_orphan(line)).collect();
            lines.into_iter().map(|(at, line)| format!("{path}:{}: {line}", at + 1)).collect::<Vec<_>>()
        })
        .collect();
    assert_none(&orphans, "a mark of unfinished work without an owner in parentheses");
}

/// A file that no `main.rs` declares is not compiled, and its tests do not run.
#[test]
fn every_file_of_tests_is_declared() {
    let folders =
        ["tests", "loadtest/tests"].map(|folder| fs::read_dir(root().join(folder)).expect("a folder"));
    let folders = folders.into_iter().flatten().map(|entry| entry.expect("a folder's entry").path());
    let strays: Vec<_> = folders
        .filter_map(|folder| Some((fs::read_to_string(folder.join("main.rs")).ok()?, folder)))
        .flat_map(|(main, folder)| {
            let others = files(&folder).into_iter().filter(move |file| file.parent() == Some(&folder));
            others.filter(move |file| is_stray(file, &main)).map(|file| relative(&file))
        })
        .collect();
    assert_none(&strays, "files of tests that their main.rs does not declare");
}

#[test]
fn documents_name_paths_that_exist() {
    let missing: Vec<_> = documents()
        .flat_map(|document| {
            let text = read(&document);
            let paths = paths_named(&text).into_iter().filter(|path| !root().join(path).exists());
            paths.map(|path| format!("{document}: {path}")).collect::<Vec<_>>()
        })
        .collect();
    assert_none(&missing, "paths in the documents that do not exist");
}

#[test]
fn documents_name_tests_that_exist() {
    let missing: Vec<_> = documents()
        .flat_map(|document| {
            let names = tests_named(&read(&document));
            let strays = names.into_iter().filter(|(file, test)| {
                !fs::read_to_string(root().join(file)).is_ok_and(|text| has_test(&text, test))
            });
            strays.map(|(file, test)| format!("{document}: {file}::{test}")).collect::<Vec<_>>()
        })
        .collect();
    assert_none(&missing, "tests in the documents that do not exist");
}

/// What is the same elsewhere, or better, is shown by a test; only what is not done at all has none.
#[test]
fn the_comparison_shows_what_it_says() {
    let text = read("docs/ASPNET.md");
    let rows: Vec<_> = text.lines().filter(|line| line.contains(" **")).collect();
    assert!(rows.len() > 20, "{} rows", rows.len());
    let bare: Vec<_> = rows
        .into_iter()
        .filter(|row| row.starts_with('|'))
        .filter(|row| {
            let shown = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap_or_default();
            let is_shown = !tests_named(shown).is_empty();
            let is_not_done = shown.trim() == "–" && row.contains("**not**");
            !is_shown && !is_not_done
        })
        .map(str::to_owned)
        .collect();
    assert_none(&bare, "rows of docs/ASPNET.md without a test");
}

#[test]
fn the_readme_says_how_to_run_and_test() {
    let readme = read("README.md");
    for command in README_COMMANDS {
        assert!(readme.contains(command), "README.md does not contain `{command}`");
    }
}

/// The documents of the repository whose paths are checked; the README must be among them.
fn documents() -> impl Iterator<Item = String> {
    let docs = files(&root().join("docs")).into_iter().map(|path| relative(&path));
    let top = ["README.md".to_owned(), "CONTRIBUTING.md".to_owned()];
    top.into_iter().chain(docs.filter(|path| path.ends_with(".md")))
}

/// Every Rust file below the folders, as path from the root and text; the first folder must be there.
fn sources<'a>(folders: &'a [&'a str]) -> impl Iterator<Item = (String, String)> + 'a {
    assert!(root().join(folders[0]).is_dir(), "{} is no folder", folders[0]);
    folders
        .iter()
        .flat_map(|folder| files(&root().join(folder)))
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| (relative(&path), fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"))))
}

/// Every file below the folder, `target` folders aside; none where there is no such folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a folder's entry").path()).collect();
    paths.sort();
    paths
        .into_iter()
        .filter(|path| !path.ends_with("target"))
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}

fn forbidden_in_proto(text: &str) -> impl Iterator<Item = String> + use<> {
    // Types of addresses, with which nothing can be opened.
    let addresses = ["std::net::IpAddr", "std::net::Ipv4Addr", "std::net::Ipv6Addr"];
    let code = addresses.iter().fold(code(text), |code, address| code.replace(address, ""));
    let mut found: Vec<String> = PROTO_FORBIDDEN
        .iter()
        .filter(|name| words(&code).any(|word| word == **name))
        .map(<_>::to_string)
        .collect();
    let dense: String = code.split_whitespace().collect();
    for name in PROTO_FORBIDDEN_STD {
        let direct = ["std::", "core::"].iter().any(|of| {
            dense.match_indices(of).any(|(at, _)| words(&dense[at + of.len()..]).next() == Some(name))
        });
        let grouped = ["std::{", "core::{"].iter().any(|of| {
            let mut groups = dense.split(of).skip(1).map(|rest| rest.split(';').next().unwrap_or(rest));
            groups.any(|group| words(group).any(|word| word == name))
        });
        if direct || grouped {
            found.push(format!("std::{name}"));
        }
    }
    found.into_iter()
}

/// Whether the line has a mark of unfinished work that no `(owner or reason)` follows.
fn is_orphan(line: &str) -> bool {
    // Put together so that this file does not find itself.
    [concat!("TO", "DO"), concat!("FIX", "ME")].iter().any(|mark| {
        line.match_indices(mark).any(|(at, _)| {
            let owner = line[at + mark.len()..].strip_prefix('(').and_then(|rest| rest.split_once(')'));
            owner.is_none_or(|(owner, _)| owner.trim().is_empty())
        })
    })
}

/// Whether this is a Rust file that the text of a `main.rs` does not declare.
fn is_stray(file: &Path, main: &str) -> bool {
    let name = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let is_rust = file.extension().is_some_and(|extension| extension == "rs");
    is_rust && name != "main" && !main.lines().any(|line| line == format!("mod {name};"))
}

/// The repository's paths that a document has in code spans, in code blocks or as the target of a link.
fn paths_named(document: &str) -> Vec<String> {
    // Of the pieces between backticks every second one is code; a fence of three leaves two empty pieces and keeps count.
    let spans = document.split('`').skip(1).step_by(2).flat_map(str::split_whitespace);
    let links = document.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    spans
        .chain(links)
        .map(|word| word.trim_start_matches("./").trim_end_matches([',', '.', ';', ':', ')']))
        .map(|word| word.split([':', '#']).next().unwrap_or(word))
        .filter(|word| PATH_PREFIXES.iter().any(|prefix| word.starts_with(prefix)))
        .filter(|word| !word.contains(['*', '{', '<', '…']))
        .map(str::to_owned)
        .collect()
}

/// The tests that a document has in code spans as `tests/file.rs::name`.
fn tests_named(document: &str) -> Vec<(String, String)> {
    let spans = document.split('`').skip(1).step_by(2);
    spans
        .filter_map(|span| span.split_once(".rs::"))
        .map(|(file, test)| (format!("{file}.rs"), test.to_owned()))
        .collect()
}

/// Whether the text of a Rust file has a test of this name: by attribute, or in a list as `on_each_engine!` has.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let is_defined = |line: &str| {
        let line = line.trim_start_matches("pub(crate) ").trim_start_matches("async ");
        line.strip_prefix("fn ").and_then(|rest| rest.split(['(', '<']).next()) == Some(name)
    };
    let Some(at) = lines.iter().position(|line| is_defined(line)) else { return false };
    let attributes = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
    attributes.into_iter().any(|line| line.ends_with("test]")) || lines.contains(&format!("{name},").as_str())
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path} cannot be read: {e}"))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("a path below the root").display().to_string()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn assert_none(found: &[String], what: &str) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn rules_find_what_they_look_for() {
    let has_unsafe = |text| words(&code(text)).any(|word| word == "unsafe");
    assert!(has_unsafe("let c = '\"'; unsafe { f(\"//\") }"));
    assert!(has_unsafe("f(\"http://\"); unsafe {}"));
    assert!(!has_unsafe("/// no `unsafe` here\n#![deny(unsafe_code)]\nf(\"unsafe \\\" unsafe\"); // unsafe"));

    let forbidden = |text| forbidden_in_proto(text).collect::<Vec<_>>();
    assert_eq!(forbidden("use std::net::TcpStream;"), ["std::net"]);
    assert!(forbidden("use std::net::IpAddr;").is_empty());
    assert_eq!(forbidden("use std::{fmt,\n    time::Instant};"), ["std::time"]);
    assert_eq!(forbidden("let file = std::fs::File::open(path);"), ["std::fs"]);
    assert_eq!(forbidden("use tokio::net::TcpStream;"), ["tokio"]);
    assert!(forbidden("use std::fmt;\n// std::net and tokio\nlet time = network;").is_empty());

    let mark = concat!("TO", "DO");
    assert!(is_orphan(&format!("// {mark}: later")));
    assert!(is_orphan(&format!("// {mark}() later")));
    assert!(!is_orphan(&format!("// {mark}(when rustc 1.95 is old): use it")));

    assert!(is_stray(Path::new("a/b.rs"), "mod a;\n// mod b;"));
    assert!(!is_stray(Path::new("a/b.rs"), "mod b;") && !is_stray(Path::new("a/b.py"), ""));

    let document = "`src/a.rs`, `src/b.rs:12` and `cargo test`\n```sh\n./.ci/run --all # src/*.rs\n```\n\
        [c](docs/c.md#top) src/not-code.rs `tests/d e`";
    assert_eq!(tests_named("`tests/a.rs::b` tests/c.rs::d `e::f`"), [("tests/a.rs".into(), "b".into())]);
    let text = "on_each_engine! {\n    #[ignore]\n    a,\n}\nfn a(engine: &str) {}\n#[test]\n#[ignore]\nfn b() {}\nfn c() {}";
    assert!(has_test(text, "a") && has_test(text, "b"));
    assert!(!has_test(text, "c") && !has_test(text, "d") && !has_test(text, "ignore"));
    assert_eq!(paths_named(document), ["src/a.rs", "src/b.rs", ".ci/run", "tests/d", "docs/c.md"]);
}
