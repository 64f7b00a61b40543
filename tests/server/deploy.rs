//! The files in `deploy/`: they parse, agree with each other and with the server, and the server runs under them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ringback::config::Config;
use ringback::proto::frame::OpCode;
use rustix::process::Signal;
use seccompiler::{
    SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition as Condition, SeccompRule,
};
use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

use crate::common::{self, DEADLINE, Server, admin, command, filter};

const IO_URING: [&str; 3] = ["io_uring_setup", "io_uring_enter", "io_uring_register"];

#[test]
fn the_seccomp_profile_names_system_calls() {
    let profile = profile();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let allowed = allowed_by(&profile);
    for name in IO_URING {
        assert!(allowed.contains(name), "{name}");
    }
    for name in &allowed {
        let is_known = name.parse::<syscalls::x86_64::Sysno>().is_ok()
            || name.parse::<syscalls::aarch64::Sysno>().is_ok();
        assert!(is_known, "there is no system call {name}");
    }
    for name in ["mount", "ptrace", "bpf", "unshare", "init_module", "keyctl"] {
        assert!(!allowed.contains(name), "{name} is not for a server");
    }
}

/// As a container runtime applies it. The kernel, not the list of names, says whether it is complete.
#[test]
fn the_server_runs_under_the_seccomp_profile() {
    for engine in ["auto", "ring", "tokio-uring", "epoll"] {
        if engine.ends_with("ring") && !common::is_runnable(engine) {
            continue;
        }
        let start = move || admin::start(engine, &["--workers", "2"]);
        let (server, admin) = filter::under(filters(&profile()), start);
        server.connect().echo(OpCode::Text, b"through the filter");
        let metrics = admin::get(admin, "/metrics").body;
        for name in ["resident_memory_bytes", "open_fds", "start_time_seconds"] {
            assert!(metrics.contains(&format!("\nprocess_{name} ")), "{name} in {metrics}");
        }
        server.signal(Signal::TERM);
        let (status, log) = server.wait();
        assert_eq!(status.code(), Some(0), "{log:?}");
        // Where there is no io_uring at all, that is what `auto` warns of.
        if engine != "auto" || common::is_runnable("tokio-uring") {
            assert!(!log.iter().any(|line| line.contains("WARN")), "nothing was refused: {log:?}");
        }
    }
}

/// Without those three names it is what Docker has from the start.
#[test]
fn the_doctor_finds_nothing_under_the_seccomp_profile_but_without_io_uring() {
    let unfiltered = command(&["doctor"]).output().expect("the binary runs").status.code();
    let doctor = || command(&["doctor"]).output().expect("the binary runs");
    let under = filter::under(filters(&profile()), doctor);
    assert_eq!(under.status.code(), unfiltered, "{}", String::from_utf8_lossy(&under.stdout));

    let mut without = profile();
    for entry in without["syscalls"].as_array_mut().expect("a list") {
        let names = entry["names"].as_array_mut().expect("a list");
        names.retain(|name| !IO_URING.contains(&name.as_str().expect("a name")));
    }
    let refused = filter::under(filters(&without), doctor);
    assert_eq!(refused.status.code(), Some(69), "{}", String::from_utf8_lossy(&refused.stdout));
    assert!(String::from_utf8_lossy(&refused.stdout).contains("deploy/seccomp-io_uring.json"));
}

#[test]
fn what_the_server_calls_is_allowed() {
    let Some(called) = traced() else { return };
    for name in ["accept4", "exit_group", "fchmod", "flock"] {
        assert!(called.contains(name), "{name} of {called:?}");
    }
    // The profile answers clone3 by ENOSYS, and the C library takes clone.
    let allowed = allowed_by(&profile());
    let mut refused: Vec<_> = called.difference(&allowed).collect();
    refused.retain(|name| *name != "clone3");
    assert!(refused.is_empty(), "the seccomp profile refuses {refused:?}");

    let Some(sets) = systemd_sets() else { return };
    let mut allowed = BTreeSet::new();
    for (key, value) in settings(&unit()).filter(|(key, _)| *key == "SystemCallFilter") {
        let removed = value.strip_prefix('~');
        let names = removed.unwrap_or(value).split_whitespace().flat_map(|name| expand(name, &sets));
        match removed {
            Some(_) => {
                let removed: BTreeSet<_> = names.collect();
                allowed.retain(|name| !removed.contains(name));
            }
            None => allowed.extend(names),
        }
        assert!(!allowed.is_empty(), "{key}={value}");
    }
    let refused: Vec<_> = called.difference(&allowed).collect();
    assert!(refused.is_empty(), "the unit refuses {refused:?}");
}

#[test]
fn the_unit_is_valid_and_gives_a_drain_its_time() {
    let unit = unit();
    let setting = |name: &str| {
        let value = settings(&unit).find(|(key, _)| *key == name).map(|(_, value)| value);
        value.unwrap_or_else(|| panic!("no {name}=")).to_owned()
    };
    let stop = humantime::parse_duration(&setting("TimeoutStopSec")).expect("a time");
    let drain = Config::default().drain;
    assert!(stop > drain.delay + drain.timeout);
    // Both are what the service manager is told by, and where a unix socket is.
    assert_eq!(setting("Type"), "notify");
    assert!(setting("RestrictAddressFamilies").split(' ').any(|family| family == "AF_UNIX"));
    assert!(settings(&unit).any(|(key, value)| key == "SystemCallFilter" && value == IO_URING.join(" ")));

    verify("ringback.service");
}

/// Its sockets are such as the server takes, which is told of them as systemd would.
#[test]
fn the_socket_unit_is_valid_and_the_servers() {
    let unit = deploy("ringback.socket");
    let values = |name: &str| {
        let of_name = settings(&unit).filter(|(key, _)| *key == name);
        of_name.map(|(_, value)| value.to_owned()).collect::<Vec<_>>()
    };
    let [ip, path] = &values("ListenStream")[..] else { panic!("a port and a socket in {unit}") };
    let default = Config::default().listening;
    assert_eq!(*ip, default.addresses[0].to_string(), "the service's own address");
    let unix = format!("unix:{path}").parse::<ringback::config::Address>().expect("an address");
    assert_eq!(unix.ip(), None);
    assert_eq!(values("Backlog"), [default.backlog.to_string()]);
    assert_eq!(values("Accept"), ["no"]);
    // By its name it belongs to the service.
    assert!(values("Service").is_empty());
    verify("ringback.socket");
}

/// Has systemd look at a unit, with the binary of this build in place of the one that is not installed here.
fn verify(name: &str) {
    let folder = scratch(name);
    for unit in ["ringback.service", "ringback.socket"] {
        let text = deploy(unit).replace("/usr/local/bin/ringback", env!("CARGO_BIN_EXE_ringback"));
        fs::write(folder.join(unit), text).expect("a file");
    }
    match Command::new("systemd-analyze").arg("verify").arg(folder.join(name)).output() {
        Ok(verified) => {
            let said = String::from_utf8_lossy(&verified.stderr);
            assert!(verified.status.success() && !said.contains("ringback."), "{said}");
        }
        Err(error) => println!("SKIPPED: systemd-analyze: {error}"),
    }
    fs::remove_dir_all(folder).expect("a folder of this test");
}

#[test]
fn the_manifest_agrees_with_itself_and_with_the_server() {
    let documents = YamlLoader::load_from_str(&deploy("kubernetes.yaml")).expect("YAML");
    let kinds: Vec<_> = documents.iter().map(|document| document["kind"].as_str()).collect();
    assert_eq!(kinds, [Some("Deployment"), Some("Service")]);
    let (deployment, service) = (&documents[0], &documents[1]);
    let template = &deployment["spec"]["template"];
    let (pod, container) = (&template["spec"], &template["spec"]["containers"][0]);

    assert_eq!(service["spec"]["selector"], template["metadata"]["labels"]);
    assert_eq!(deployment["spec"]["selector"]["matchLabels"], template["metadata"]["labels"]);
    let port = &container["ports"][0];
    assert_eq!(service["spec"]["ports"][0]["targetPort"], port["name"]);
    let admin_port = &container["ports"][1];
    for (probe, path) in [("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")] {
        let asks = &container[probe]["httpGet"];
        assert_eq!((asks["path"].as_str(), &asks["port"]), (Some(path), &admin_port["name"]));
    }
    let admin_port = admin_port["containerPort"].as_i64().expect("a number");
    let annotated = template["metadata"]["annotations"]["prometheus.io/port"].as_str().expect("a text");
    assert_eq!(annotated, admin_port.to_string());
    assert_eq!(service["spec"]["ports"].as_vec().map(Vec::len), Some(1), "the Service does not lead to it");
    let listens = format!("listen = [\"0.0.0.0:{}\"]", port["containerPort"].as_i64().expect("a number"));
    let image = in_the_image(&["--print-config"]).output().expect("the binary runs");
    let image = String::from_utf8_lossy(&image.stdout);
    assert!(image.contains(&listens), "{listens} in {image}");

    let seccomp = &pod["securityContext"]["seccompProfile"];
    assert_eq!(seccomp["type"].as_str(), Some("Localhost"));
    let file = Path::new(seccomp["localhostProfile"].as_str().expect("a path")).file_name().expect("a file");
    assert!(root().join("deploy").join(file).is_file(), "{file:?}");
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], Yaml::Boolean(true));

    let environment: BTreeMap<_, _> = container["env"]
        .as_vec()
        .expect("a list")
        .iter()
        .map(|entry| (entry["name"].as_str().expect("a name"), entry["value"].as_str().expect("a text")))
        .collect();
    let drain = humantime::parse_duration(environment["RINGBACK_DRAIN_TIMEOUT"]).expect("a time");
    let pause = container["lifecycle"]["preStop"]["exec"]["command"][1].as_str().expect("seconds");
    let grace = pod["terminationGracePeriodSeconds"].as_i64().expect("a number").cast_unsigned();
    assert!(Duration::from_secs(grace) > drain + Duration::from_secs(pause.parse().expect("a number")));

    assert_eq!(environment["RINGBACK_ADMIN"], format!("0.0.0.0:{admin_port}"));

    // The server takes these variables; this machine may not have the descriptors of a node, nor its ports.
    let mut server = command(&["--listen", "127.0.0.1:0", "--workers", "1", "--max-connections", "10"]);
    server.envs(&environment).args(["--admin", "127.0.0.1:0"]);
    let server = Server::spawn(server);
    server.connect().echo(OpCode::Text, b"as in the pod");
    let address = admin::address(&server);
    for path in ["/readyz", "/healthz"] {
        assert_eq!(admin::get(address, path).status, 200, "{path}");
    }
}

/// Arguments stand above RINGBACK_LISTEN, that above PORT, and each above what the image has by itself.
#[test]
fn the_image_listens_where_it_is_told_to() {
    let all = "(all IPv4 addresses, ";
    for (variables, arguments, listens) in [
        (&[("PORT", "0")][..], &[][..], ("ws://127.0.0.1:", all)),
        (&[("PORT", "0"), ("RINGBACK_LISTEN", "127.0.0.2:0")], &[], ("ws://127.0.0.2:", "/ws (engine ")),
        (
            &[("PORT", "1"), ("RINGBACK_LISTEN", "")],
            &["--listen", "127.0.0.3:0"],
            ("ws://127.0.0.3:", "/ws ("),
        ),
    ] {
        let mut image = in_the_image(arguments);
        image.envs(variables.iter().copied()).env("RINGBACK_WORKERS", "1");
        let server = filter::under(filters(&profile()), move || Server::spawn(image));
        let said = &server.announcement;
        assert!(said.contains(listens.0) && said.contains(listens.1), "{said}");
        server.connect().echo(OpCode::Text, b"out of the container");
        // The process is the server's, not a shell's.
        server.signal(Signal::TERM);
        assert_eq!(server.wait().0.code(), Some(0));
    }
    for port in ["tcp://10.0.0.1:80", "abc", "65536", "-1", "123456", "80 "] {
        let wrong = in_the_image(&[]).env("PORT", port).output().expect("the binary runs");
        let said = String::from_utf8_lossy(&wrong.stderr);
        assert_eq!(wrong.status.code(), Some(64), "{said}");
        assert_eq!(said, format!("ringback: PORT={port}: a port is 0 to 65535\n"));
        // It is not asked for where the address is given.
        let mut given = in_the_image(&["--print-config"]);
        let given = given.env("PORT", port).env("RINGBACK_LISTEN", "127.0.0.1:0").output().expect("it runs");
        assert_eq!(given.status.code(), Some(0), "{port}");
    }
}

/// What a container of the image runs, with these arguments behind its name.
fn in_the_image(arguments: &[&str]) -> Command {
    let file = read("Dockerfile");
    let entry_point = file.lines().find_map(|line| line.strip_prefix("ENTRYPOINT ")).expect("an entry point");
    let words: Vec<String> = serde_json::from_str(entry_point).expect("a JSON array");
    let binaries = Path::new(env!("CARGO_BIN_EXE_ringback")).parent().expect("a folder");
    let mut image = Command::new(&words[0]);
    image.args(&words[1..]).args(arguments).env("PATH", binaries).env_remove("PORT");
    image
}

#[test]
fn the_system_settings_are_those_that_the_doctor_looks_at() {
    let settings = deploy("sysctl.conf");
    let settings: BTreeMap<_, _> = settings.lines().filter_map(|line| line.split_once(" = ")).collect();
    assert_eq!(settings["net.core.somaxconn"], "4096");
    assert_eq!(settings["-kernel.io_uring_disabled"], "0");
    // Those with a `-` are not on every kernel.
    for name in settings.keys().filter(|name| !name.starts_with(['-', '#'])) {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        assert!(path.exists(), "there is no {name}");
    }
}

fn profile() -> Value {
    serde_json::from_str(&deploy("seccomp-io_uring.json")).expect("JSON")
}

/// Every name that is allowed, with whatever arguments.
fn allowed_by(profile: &Value) -> BTreeSet<String> {
    entries(profile)
        .filter(|entry| entry["action"] == "SCMP_ACT_ALLOW")
        .flat_map(names)
        .map(str::to_owned)
        .collect()
}

/// The profile as filters of the kernel: one for what is allowed, and one for each other answer.
fn filters(profile: &Value) -> Vec<seccompiler::SeccompFilter> {
    let mut allowed = filter::Rules::new();
    let mut filters = Vec::new();
    for entry in entries(profile) {
        let rule = conditions(entry).map(|conditions| SeccompRule::new(conditions).expect("conditions"));
        let numbers = names(entry).filter_map(number);
        match entry["action"].as_str().expect("an action") {
            "SCMP_ACT_ALLOW" => {
                for number in numbers {
                    allowed.entry(number).or_default().extend(rule.clone());
                }
            }
            "SCMP_ACT_ERRNO" => {
                let errno = i32::try_from(entry["errnoRet"].as_i64().expect("an errno")).expect("an errno");
                let rules: filter::Rules = numbers.map(|number| (number, Vec::new())).collect();
                // The strictest answer of all filters counts, and this one must not be the default error.
                allowed.extend(rules.clone());
                filters.push(filter::filter(rules, SeccompAction::Allow, filter::error(errno)));
            }
            other => panic!("an action that is not known: {other}"),
        }
    }
    let errno = i32::try_from(profile["defaultErrnoRet"].as_i64().expect("an errno")).expect("an errno");
    // The last one, for a process under it sets no further one.
    filters.push(filter::filter(allowed, filter::error(errno), SeccompAction::Allow));
    filters
}

/// What an entry asks of the arguments.
fn conditions(entry: &Value) -> Option<Vec<Condition>> {
    let condition = |argument: &Value| {
        let index = u8::try_from(argument["index"].as_u64().expect("a number")).expect("0 to 5");
        let value = argument["value"].as_u64().expect("a number");
        let (op, value) = match argument["op"].as_str().expect("an operator") {
            "SCMP_CMP_EQ" => (Op::Eq, value),
            "SCMP_CMP_MASKED_EQ" => (Op::MaskedEq(value), argument["valueTwo"].as_u64().expect("a number")),
            other => panic!("an operator that is not known: {other}"),
        };
        Condition::new(index, Len::Qword, op, value).expect("a condition")
    };
    Some(entry.get("args")?.as_array().expect("a list").iter().map(condition).collect())
}

fn entries(profile: &Value) -> impl Iterator<Item = &Value> {
    profile["syscalls"].as_array().expect("a list").iter()
}

fn names(entry: &Value) -> impl Iterator<Item = &str> {
    entry["names"].as_array().expect("a list").iter().map(|name| name.as_str().expect("a name"))
}

/// The number of a system call; the other architecture's have none here.
fn number(name: &str) -> Option<i64> {
    Some(i64::from(name.parse::<syscalls::Sysno>().ok()?.id()))
}

/// The names of all system calls of servers that echo something and end, and of the doctor; `None`, said aloud, where
/// strace(1) cannot be had.
fn traced() -> Option<BTreeSet<String>> {
    let folder = scratch("trace");
    let mut called = BTreeSet::new();
    for arguments in
        [&["--engine=ring"][..], &["--engine=epoll"], &["--engine=tokio-uring"], &["--engine=auto", "doctor"]]
    {
        let engine = arguments[0].trim_start_matches("--engine=");
        if engine.ends_with("ring") && !common::is_runnable(engine) {
            continue;
        }
        let output = folder.join("calls");
        // The tracer is a grandchild, so that signals reach the server.
        let mut strace = Command::new("strace");
        strace.args(["-D", "-f", "-q", "-o"]).arg(&output).arg(env!("CARGO_BIN_EXE_ringback"));
        let unix = folder.join("a.sock");
        // One that nobody listens at any more.
        drop(UnixListener::bind(&unix).expect("a socket"));
        let unix = format!("--listen=unix:{}", unix.display());
        strace
            .args(["--listen=127.0.0.1:0", &unix, "--unix-mode=0600", "--admin=127.0.0.1:0", "--workers=2"])
            .args(arguments);
        let manager = folder.join("notify");
        strace.env("NOTIFY_SOCKET", &manager);
        let _manager = UnixDatagram::bind(&manager).expect("a socket");
        match Command::new("strace").args(["-q", "-o", "/dev/null", "true"]).output() {
            Ok(tried) if tried.status.success() => {}
            other => {
                println!("SKIPPED: nothing can be traced by strace here: {other:?}");
                return None;
            }
        }
        if arguments.contains(&"doctor") {
            strace.output().expect("it has run before");
        } else {
            let server = Server::spawn(strace);
            server.connect().echo(OpCode::Binary, &common::pattern(200_000));
            server.counter("accepted");
            server.signal(Signal::HUP);
            let metrics = admin::get(admin::address(&server), "/metrics").body;
            assert!(metrics.contains("\nprocess_resident_memory_bytes "), "{metrics}");
            server.signal(Signal::TERM);
            assert_eq!(server.wait().0.code(), Some(0));
        }
        called.extend(calls(&output));
        fs::remove_file(&manager).expect("it is there");
    }
    fs::remove_dir_all(folder).expect("a folder of this test");
    Some(called)
}

/// The names in a trace, once the tracer has seen the end.
fn calls(path: &Path) -> BTreeSet<String> {
    let deadline = Instant::now() + DEADLINE;
    let trace = loop {
        let trace = fs::read_to_string(path).unwrap_or_default();
        if trace.lines().last().is_some_and(|line| line.contains("+++ exited with")) {
            break trace;
        }
        assert!(Instant::now() < deadline, "the trace has no end");
        thread::sleep(Duration::from_millis(20));
    };
    // A line is `PID name(arguments...`; what is resumed was named before.
    let names =
        trace.lines().filter_map(|line| Some(line.split_once('(')?.0.split_whitespace().nth(1)?.to_owned()));
    names.filter(|name| !name.starts_with(['<', '+', '-'])).collect()
}

/// The sets of system calls that this systemd has, with what is directly in each; `None`, said aloud, without systemd.
fn systemd_sets() -> Option<BTreeMap<String, Vec<String>>> {
    let output = match Command::new("systemd-analyze").arg("syscall-filter").output() {
        Ok(output) if output.status.success() => output,
        other => {
            println!("SKIPPED: systemd-analyze syscall-filter: {other:?}");
            return None;
        }
    };
    let mut sets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut set = String::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        match (line.strip_prefix("    "), line.starts_with('@')) {
            (Some(member), _) if !member.starts_with('#') => {
                sets.entry(set.clone()).or_default().push(member.trim().to_owned());
            }
            (None, true) => line.clone_into(&mut set),
            _ => {}
        }
    }
    Some(sets)
}

/// The system calls that a name stands for.
fn expand(name: &str, sets: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    if !name.starts_with('@') {
        return vec![name.to_owned()];
    }
    sets[name].iter().flat_map(|member| expand(member, sets)).collect()
}

fn unit() -> String {
    deploy("ringback.service")
}

fn settings(unit: &str) -> impl Iterator<Item = (&str, &str)> {
    unit.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='))
}

fn deploy(name: &str) -> String {
    read(&format!("deploy/{name}"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder of this test alone.
fn scratch(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    folder
}
