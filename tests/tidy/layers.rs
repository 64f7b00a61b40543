//! Which module may use which: a module uses only what lies below it.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Names, names, tokens};

/// A file as path from the root, and its text.
pub(crate) type File = (String, String);

/// The modules of the crate, lower ones first, and which of those above in this list each may use.
pub(crate) const LAYERS: [(&str, &[&str]); 15] = [
    ("mask", &[]),
    ("memory", &[]),
    ("allocator", &[]),
    ("system", &[]),
    ("variables", &["mask"]),
    ("logging", &["variables"]),
    ("limits", &[]),
    ("proto", &["mask", "memory"]),
    ("engine", &["memory", "system"]),
    ("options", &["mask", "system", "variables", "logging", "proto"]),
    ("counters", &["memory", "proto", "engine"]),
    ("session", &["memory", "limits", "proto", "engine", "options", "counters"]),
    (
        "server",
        &[
            "mask",
            "memory",
            "system",
            "variables",
            "limits",
            "proto",
            "engine",
            "options",
            "counters",
            "session",
        ],
    ),
    ("doctor", &["system", "engine", "options", "server"]),
    // The library's and the program's own files name every module.
    ("root", &[]),
];

/// Files that are one layer together.
const TOGETHER: [(&str, &str); 6] = [
    ("cli", "options"),
    ("config", "options"),
    ("documents", "options"),
    ("settings", "options"),
    ("lib", "root"),
    ("main", "root"),
];

/// Within a module: which of its parts may not name which others.
struct Inner {
    module: &'static str,
    parts: Parts,
    may_not_name: &'static [&'static str],
}

enum Parts {
    These(&'static [&'static str]),
    AllBut(&'static [&'static str]),
}

const INNER: [Inner; 11] = [
    // What the engines share knows none of them. `choice` picks one, and the module's own file names them all.
    Inner {
        module: "engine",
        parts: Parts::AllBut(&["mod", "choice", "ring", "epoll", "tokio_uring"]),
        may_not_name: &["choice", "ring", "epoll", "tokio_uring"],
    },
    Inner {
        module: "engine",
        parts: Parts::These(&["ring"]),
        may_not_name: &["choice", "epoll", "tokio_uring"],
    },
    Inner {
        module: "engine",
        parts: Parts::These(&["epoll"]),
        may_not_name: &["choice", "ring", "tokio_uring"],
    },
    Inner {
        module: "engine",
        parts: Parts::These(&["tokio_uring"]),
        may_not_name: &["choice", "ring", "epoll", "driver", "worker"],
    },
    // Buffers, and what is queued in them, know nothing of the ones who send and receive.
    Inner {
        module: "engine",
        parts: Parts::These(&["buffers", "outgoing", "outbox", "line"]),
        may_not_name: &["handler", "wire", "connection", "driver", "worker", "serve"],
    },
    // A connection knows neither its worker nor what moves its bytes, and a worker not where connections come from.
    Inner {
        module: "engine",
        parts: Parts::These(&["connection", "handler", "wire"]),
        may_not_name: &["driver", "worker", "serve"],
    },
    Inner {
        module: "engine",
        parts: Parts::These(&["driver"]),
        may_not_name: &["connection", "wire", "line", "worker", "serve"],
    },
    // The clock and what is counted stand alone.
    Inner {
        module: "engine",
        parts: Parts::These(&["clock", "counters", "phase", "shortage", "slots", "unconfirmed", "wheel"]),
        may_not_name: &[
            "buffers",
            "common",
            "connection",
            "driver",
            "handler",
            "line",
            "outbox",
            "outgoing",
            "wire",
            "worker",
            "serve",
        ],
    },
    // HTTP and PROXY come before WebSocket, and know nothing of it; nor does it of them.
    Inner {
        module: "proto",
        parts: Parts::These(&["excerpt", "fields", "handshake", "page"]),
        may_not_name: &["close", "connection", "error", "frame", "pieces", "progress", "utf8"],
    },
    Inner {
        module: "proto",
        parts: Parts::These(&["proxy"]),
        may_not_name: &["close", "connection", "error", "frame", "pieces", "progress", "utf8"],
    },
    Inner {
        module: "proto",
        parts: Parts::These(&["close", "connection", "error", "frame", "pieces", "progress", "utf8"]),
        may_not_name: &["excerpt", "fields", "handshake", "page", "proxy"],
    },
];

/// Crates with one home: where they are looked for, and where they may be named.
const CRATES: [(&str, &[&str], &[&str]); 2] = [
    ("io_uring", &["src", "loadtest/src", "benches"], &["src/engine/ring"]),
    ("tokio", &["src/engine", "src/session", "src/proto"], &["src/engine/tokio_uring"]),
];

/// What others than the library's own files may use of it: paths that begin so.
const OUTSIDE: [(&str, &[&str]); 4] = [
    // `frame` answers with a `ProtocolError`.
    (
        "loadtest/src",
        &[
            "allocator",
            "system",
            "engine",
            "memory",
            "mask",
            "variables",
            "proto::close",
            "proto::frame",
            "proto::ProtocolError",
        ],
    ),
    ("benches", &["engine", "memory", "mask", "proto"]),
    ("examples", &["engine", "memory", "mask", "proto"]),
    ("fuzz/fuzz_targets", &["mask::fuzz", "proto::fuzz"]),
];

/// A file that names what it may not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Breach {
    pub(crate) file: String,
    pub(crate) names: String,
}

/// What modules name of such as do not lie below them, and parts of a module of others.
pub(crate) fn breaches(files: &[File]) -> Vec<Breach> {
    let read = read(files);
    let tests = test_files(&read);
    let imports: BTreeMap<&str, &BTreeMap<String, String>> = read
        .iter()
        .filter(|(file, module, _)| module.len() == 1 && file.ends_with("/mod.rs"))
        .map(|(_, module, names)| (module[0], &names.imports))
        .collect();
    let mut found = BTreeSet::new();
    for (file, module, names) in read.iter().filter(|(file, ..)| !tests.contains(*file)) {
        let own = module.first().map_or_else(|| stem(file), |first| *first);
        let mut add = |names: String| found.insert(Breach { file: (*file).to_owned(), names });
        let Some(layer) = LAYERS.iter().find(|(name, _)| *name == layer(own)) else {
            add(format!("`{own}` is in no layer"));
            continue;
        };
        for path in &names.paths {
            if layer.0 != "root" && !may_use(layer, path.first().map(String::as_str)) {
                add(format!("crate::{}", path.first().map_or("", String::as_str)));
            }
            let part = module.get(1).copied().unwrap_or("mod");
            if path.first().is_some_and(|first| first == own) {
                // All of the module could be any part of it.
                let other = path.get(1).map_or("*", String::as_str);
                let other =
                    imports.get(own).and_then(|imports| imports.get(other)).map_or(other, String::as_str);
                if part != other && INNER.iter().any(|inner| inner.forbids(own, part, other)) {
                    add(format!("crate::{own}::{other}"));
                }
            }
        }
    }
    found.into_iter().collect()
}

/// Crates that are named outside of their homes. The files of tests may name each of them.
pub(crate) fn strays(files: &[File]) -> Vec<Breach> {
    let read = read(files);
    let tests = test_files(&read);
    let mut found = Vec::new();
    for (file, text) in files.iter().filter(|(file, _)| !tests.contains(file.as_str())) {
        for (name, places, homes) in CRATES {
            let is_in = |folders: &[&str]| folders.iter().any(|folder| is_within(file, folder));
            if is_in(places) && !is_in(homes) && tokens(text).iter().any(|token| token == name) {
                found.push(Breach { file: file.clone(), names: name.to_owned() });
            }
        }
    }
    found
}

/// What the load generator, benchmarks, examples and fuzz targets name of the library beyond what they may.
pub(crate) fn reaches(files: &[File]) -> Vec<Breach> {
    let mut found = BTreeSet::new();
    for (file, text) in files {
        let Some((_, allowed)) = OUTSIDE.iter().find(|(folder, _)| is_within(file, folder)) else { continue };
        for path in names(&[], text).relative.iter().filter(|path| path[0] == "ringback") {
            let path = path[1..].join("::");
            if !allowed.iter().any(|prefix| path == *prefix || is_below(&path, prefix)) {
                found.insert(Breach { file: file.clone(), names: format!("ringback::{path}") });
            }
        }
    }
    found.into_iter().collect()
}

impl Inner {
    fn forbids(&self, module: &str, part: &str, other: &str) -> bool {
        let is_held = match self.parts {
            Parts::These(parts) => parts.contains(&part),
            Parts::AllBut(parts) => !parts.contains(&part),
        };
        self.module == module && is_held && (other == "*" || self.may_not_name.contains(&other))
    }

    /// Every part that the rule names.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &'static str> {
        let (Parts::These(parts) | Parts::AllBut(parts)) = self.parts;
        parts.iter().chain(self.may_not_name).copied()
    }
}

/// The list of layers as the first two columns of a table, without its first mark of code.
pub(crate) fn rows() -> impl Iterator<Item = String> {
    LAYERS.iter().filter(|(name, _)| *name != "root").map(|(name, below)| {
        let below: Vec<_> = below.iter().map(|below| format!("`{below}`")).collect();
        format!("{name}` | {}", if below.is_empty() { "–".to_owned() } else { below.join(" ") })
    })
}

/// The modules that the list of layers names, as [`parts`] are.
pub(crate) fn modules() -> impl Iterator<Item = String> {
    let together = |layer: &str| TOGETHER.iter().any(|(_, of)| *of == layer);
    let alone = LAYERS.iter().map(|(layer, _)| *layer).filter(move |layer| !together(layer));
    alone.chain(TOGETHER.iter().map(|(module, _)| *module)).map(|module| format!("src/{module}"))
}

/// The files of parts that the rules within modules name: paths from the root, without `.rs` or `/mod.rs`.
pub(crate) fn parts() -> impl Iterator<Item = String> {
    INNER.iter().flat_map(|inner| inner.parts().map(move |part| format!("src/{}/{part}", inner.module)))
}

/// Whether a module of this layer may use the first segment of a path from the root.
fn may_use((own, below): &(&str, &[&str]), first: Option<&str>) -> bool {
    first.is_some_and(|first| layer(first) == *own || below.contains(&layer(first)))
}

/// The layer that a module of the crate belongs to.
fn layer(module: &str) -> &str {
    TOGETHER.iter().find(|(name, _)| *name == module).map_or(module, |(_, layer)| layer)
}

/// The module that a file below `src` is, from the root of the crate.
fn module(file: &str) -> Vec<&str> {
    let path = file.trim_start_matches("src/").trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    path.split('/').filter(|name| !matches!(*name, "lib" | "main")).collect()
}

/// Each file, the module that it is, and what it names.
fn read(files: &[File]) -> Vec<(&str, Vec<&str>, Names)> {
    let read = files.iter().map(|(file, text)| {
        let module = module(file);
        let names = names(&module, text);
        (file.as_str(), module, names)
    });
    read.collect()
}

/// The files of modules that are compiled for tests only, and of their parts.
fn test_files<'a>(read: &[(&'a str, Vec<&str>, Names)]) -> BTreeSet<&'a str> {
    let mut tests = BTreeSet::new();
    for (file, _, names) in read {
        let (folder, _) = file.rsplit_once('/').unwrap_or_default();
        let of_parts = if matches!(stem(file), "mod" | "lib" | "main") {
            folder.to_owned()
        } else {
            file.trim_end_matches(".rs").to_owned()
        };
        for test in &names.test_files {
            let inside = test.trim_end_matches(".rs");
            for (candidate, ..) in read {
                // With `#[path]` a file stands beside the one that names it.
                let is_meant = [folder, of_parts.as_str()].iter().any(|folder| {
                    *candidate == format!("{folder}/{test}")
                        || is_within(candidate, &format!("{folder}/{inside}"))
                });
                if is_meant {
                    tests.insert(*candidate);
                }
            }
        }
    }
    tests
}

/// A file's name without its ending.
fn stem(file: &str) -> &str {
    file.rsplit('/').next().unwrap_or(file).trim_end_matches(".rs")
}

fn is_within(file: &str, folder: &str) -> bool {
    file == folder || file.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with("::"))
}

#[test]
fn breaches_are_found() {
    #[track_caller]
    fn check(file: &str, text: &str, expected: &[&str]) {
        let found = breaches(&[(file.to_owned(), text.to_owned())]);
        let found: Vec<_> = found.iter().map(|breach| breach.names.as_str()).collect();
        assert_eq!(found, expected, "{file}: {text}");
    }
    let engine = |text, expected: &[&str]| check("src/engine/common.rs", text, expected);
    engine("use crate::server::Phase;", &["crate::server"]);
    engine("use crate::{memory::Charge, proto};", &["crate::proto"]);
    engine(
        "pub use crate::{\n    memory, // crate::x\n    server::{self, Phase as P}, limits::*\n};",
        &["crate::limits", "crate::server"],
    );
    engine(
        "fn f() -> crate::session::Session { crate::counters::new() }",
        &["crate::counters", "crate::session"],
    );
    engine("impl<T> A for <crate::proto::B as C>::D where T: ::std::fmt::Debug {}", &["crate::proto"]);
    engine("use super::super::proto;", &["crate::proto"]);
    engine("use self::super::super::proto::X;", &["crate::proto"]);
    engine("mod a { mod b {} use super::super::super::proto; } use super::phase;", &["crate::proto"]);
    engine("use super::super::*;", &["crate::*"]);
    engine("use super::super as root;", &["crate::"]);
    engine("use crate as root;", &["crate::"]);
    engine("extern crate self as root;", &["crate::"]);
    engine("macro_rules! m { () => { $crate::server::f() } }", &["crate::server"]);
    engine("use crate::r#proto::X;", &["crate::proto"]);
    engine("use crate::stranger::X;", &["crate::stranger"]);
    engine("/// As a [`Connection`](crate::proto::Connection) has it.\nfn f() {}", &["crate::proto"]);
    engine("let c = '\"'; let d = '\\''; crate::proto::f::<'a>()", &["crate::proto"]);
    check("src/engine/ring/worker.rs", "use super::super::super::proto;", &["crate::proto"]);
    check("src/proto/mod.rs", "use super::engine::X;", &["crate::engine"]);
    check("src/proto/frame.rs", "use crate::engine;", &["crate::engine"]);
    check("src/config/mod.rs", "use crate::{cli, engine::Engine, proto};", &["crate::engine"]);
    check("src/session/mod.rs", "use crate::server::Server;", &["crate::server"]);
    check("src/server/admin/mod.rs", "use crate::doctor;", &["crate::doctor"]);
    check("src/stranger.rs", "", &["`stranger` is in no layer"]);

    engine(
        "use crate::memory::Charge;\nuse crate::{memory, system::{self}};\nuse super::super::memory;",
        &[],
    );
    engine(
        "// crate::proto\n/* use /* crate::proto */ crate::proto; */ f(\"crate::proto\", r#\"crate::\"proto\"#)",
        &[],
    );
    engine("pub(crate) fn f() {}\npub(in crate::engine::wheel) fn g() -> impl A + use<'_> {}", &[]);
    engine("#[cfg(test)]\n#[expect(x)]\nmod tests { use crate::server::A; }\n", &[]);
    engine("#[cfg(test)] use crate::server::A; use crate::proto::B;", &["crate::proto"]);
    engine("struct A { #[cfg(test)] b: crate::server::B, c: crate::proto::C }", &["crate::proto"]);
    engine(
        "#[cfg(all(test, unix))] fn f<A, B>() { crate::server::f() } fn g() { crate::proto::g() }",
        &["crate::proto"],
    );
    engine("#[cfg(not(test))] use crate::server::A;", &["crate::server"]);
    check("src/main.rs", "use crate::server::Server;", &[]);
}

#[test]
fn only_declared_tests_are_exempt() {
    let files = [
        ("src/engine/mod.rs", "#[cfg(test)]\n#[path = \"odd.rs\"]\nmod tests;\nmod near_tests;"),
        ("src/engine/odd.rs", "use crate::server::A;"),
        ("src/engine/near_tests.rs", "use crate::server::A;"),
        ("src/engine/pool.rs", "#[cfg(test)] mod tests;"),
        ("src/engine/pool/tests.rs", "use crate::server::A;"),
        ("src/engine/pool/tests/more.rs", "use crate::server::A;"),
    ];
    let found = breaches(&files.map(|(file, text)| (file.to_owned(), text.to_owned())));
    let found: Vec<_> = found.iter().map(|breach| breach.file.as_str()).collect();
    assert_eq!(found, ["src/engine/near_tests.rs"]);
}

#[test]
fn breaches_within_a_module_are_found() {
    let module = "mod epoll; mod ring; pub use ring::{Worker, token::Key as L}; pub use handler::Handler;";
    for (file, text, names) in [
        ("common.rs", "use super::ring::Key;", Some("ring")),
        ("common.rs", "use super::{phase, ring};", Some("ring")),
        ("common.rs", "use super::Worker;", Some("ring")),
        ("common.rs", "use crate::engine::{Clock, L};", Some("ring")),
        ("common.rs", "use super::*;", Some("*")),
        ("common.rs", "use crate::engine;", Some("*")),
        ("common.rs", "/// See [`L`](crate::engine::L).", Some("ring")),
        ("wheel.rs", "use super::line;", Some("line")),
        ("new.rs", "fn f() { super::epoll::f() }", Some("epoll")),
        ("epoll.rs", "use super::ring::probe;", Some("ring")),
        ("ring/driver.rs", "use super::super::epoll::A;", Some("epoll")),
        ("ring/mod.rs", "use super::choice;", Some("choice")),
        ("tokio_uring/mod.rs", "use super::L;", Some("ring")),
        ("outbox.rs", "use super::Handler;", Some("handler")),
        ("ring/driver.rs", "use super::super::Handler; use super::ring::A; use super::*;", None),
        ("epoll/mod.rs", "use super::{Handler, wire, worker};", None),
        ("choice.rs", "use super::{ring, epoll};", None),
    ] {
        let file = format!("src/engine/{file}");
        let found =
            breaches(&[("src/engine/mod.rs".to_owned(), module.to_owned()), (file.clone(), text.to_owned())]);
        let expected = names.map(|name| Breach { file, names: format!("crate::engine::{name}") });
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{text}");
    }
    for (file, text) in [
        ("src/proto/handshake.rs", "use super::ProtocolError;"),
        ("src/proto/proxy.rs", "use super::frame::Header;"),
        ("src/proto/frame.rs", "use super::handshake::HEAD_MAX;"),
        ("src/proto/close.rs", "use super::{error, proxy::Versions};"),
    ] {
        let module = ("src/proto/mod.rs".to_owned(), "pub use error::ProtocolError;".to_owned());
        assert_eq!(breaches(&[module, (file.to_owned(), text.to_owned())]).len(), 1, "{file}: {text}");
    }
}

#[test]
fn crates_beside_the_library_are_held_to_its_parts() {
    for (file, text, expected) in [
        (
            "loadtest/src/a.rs",
            "use ringback::engine::{self, ring};\nuse ringback::proto::frame::Header;",
            vec![],
        ),
        ("loadtest/src/a.rs", "use ringback::{memory, server::Server};", vec!["ringback::server::Server"]),
        ("loadtest/src/a.rs", "fn f() { ::ringback::counters::f() }", vec!["ringback::counters::f"]),
        ("loadtest/src/a.rs", "use ringback::proto::frames;", vec!["ringback::proto::frames"]),
        ("loadtest/src/a.rs", "use ringback::*;", vec!["ringback::*"]),
        ("loadtest/src/a.rs", "use ringback as library;", vec!["ringback::"]),
        ("loadtest/src/a.rs", "#[cfg(test)] use ringback::server::Server;", vec![]),
        ("loadtest/tests/a.rs", "use ringback::server::Server;", vec![]),
        ("benches/a.rs", "use ringback::proto::utf8::Validator;", vec![]),
        ("benches/baselines/src/a.rs", "use ringback::session;", vec!["ringback::session"]),
    ] {
        let found = reaches(&[(file.to_owned(), text.to_owned())]);
        assert_eq!(found.iter().map(|breach| &breach.names).collect::<Vec<_>>(), expected, "{file}: {text}");
    }
}

#[test]
fn crates_with_one_home_are_found_elsewhere() {
    for (file, text, expected) in [
        ("src/doctor/mod.rs", "use io_uring::IoUring;", true),
        ("loadtest/src/a.rs", "fn f() { ::io_uring::f() }", true),
        ("src/engine/ring/setup.rs", "use io_uring::IoUring;", false),
        ("src/engine/ringlet.rs", "use io_uring::IoUring;", true),
        ("src/session/mod.rs", "use tokio::net;", true),
        ("src/engine/phase.rs", "// tokio\nf(\"tokio\"); use tokio_uring::x;", false),
        ("src/engine/tokio_uring/task.rs", "use tokio::net;", false),
        ("src/server/mod.rs", "use tokio::net;", false),
    ] {
        assert_eq!(!strays(&[(file.to_owned(), text.to_owned())]).is_empty(), expected, "{file}: {text}");
    }
}

/// So the list has no circle, whatever is added to it.
#[test]
fn each_layer_uses_layers_before_it() {
    for (index, (name, below)) in LAYERS.iter().enumerate() {
        for used in *below {
            assert!(LAYERS[..index].iter().any(|(lower, _)| lower == used), "{name} uses {used}");
        }
    }
}
