//! Runs of the simulation: a seed makes a server, its clients and a kernel; then what must hold is looked at.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::env;
use std::io;
use std::ops::RangeFrom;
use std::os::fd::AsRawFd as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::event::{EventfdFlags, eventfd};
use socket2::{Domain, Socket, Type};
use strum::VariantArray as _;

use super::super::super::planted::{Fault, plant};
use super::super::driver::RingDriver;
use super::client::Client;
use super::faults::Faulty;
use super::kernel::Kernel;
use super::plan::Setting;
use super::world::{Listening, Trace, World};
use crate::counters::{Snapshot, WorkerCounters};
use crate::engine::{Clock, Listener, PhaseCell, Server};
use crate::limits::Limits;
use crate::memory::Total;
use crate::proto::handshake::Rules;
use crate::session::{ProcessWide, Serving, WorkerWide};

/// How many seeds `cargo test` runs, and which of the environment says otherwise.
const SEEDS: u64 = 500;
const SEEDS_VARIABLE: &str = "RINGBACK_SIM_SEEDS";

/// By so many seeds every planted fault is found.
const SEEDS_FOR_ALL: u64 = 10_000;

/// Names the one seed to run.
const SEED_VARIABLE: &str = "RINGBACK_SIM_SEED";

/// Names the fault that is planted in that run.
const FAULT_VARIABLE: &str = "RINGBACK_SIM_FAULT";

/// If it is set, a run prints everything that happens.
const ALOUD_VARIABLE: &str = "RINGBACK_SIM_ALOUD";

/// How many seeds are run twice.
const TWICE: u64 = 100;

/// How many failures are told at most.
const FAILURES_MAX: usize = 10;

/// How many turns a run may take.
const TURNS_MAX: u64 = 300_000;

/// Runs one seed.
///
/// # Errors
///
/// What went wrong.
fn run(seed: u64, fault: Option<Fault>) -> Result<Done, String> {
    plant(fault);
    let run = AssertUnwindSafe(|| Run::new(seed, fault).and_then(Run::finish));
    let result = catch_unwind(run);
    plant(None);
    match result {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Err(format!("a panic: {}", text.unwrap_or_default()))
        }
    }
}

/// A run that has gone well.
#[derive(Debug)]
pub(super) struct Done {
    trace: Trace,
    stats: Arc<WorkerCounters>,
}

/// A server in its world.
pub(super) struct Run {
    server: Server<RingDriver<Faulty>, Serving>,
    world: Rc<RefCell<World>>,
    stats: Arc<WorkerCounters>,
    listeners: Vec<Listener>,
    shared: Arc<ProcessWide>,
    /// How many connections there may be.
    places: usize,
}

impl Run {
    fn new(seed: u64, fault: Option<Fault>) -> Result<Self, String> {
        let mut rng = Rng::with_seed(seed);
        let setting = Setting::choose(&mut rng);
        let clients = (0..setting.clients).map(|_| setting.client(&mut rng)).collect();
        Self::of(&setting, clients, rng, fault)
    }

    pub(super) fn of(
        setting: &Setting,
        clients: Vec<Client>,
        rng: Rng,
        fault: Option<Fault>,
    ) -> Result<Self, String> {
        let phase = Arc::<PhaseCell>::default();
        let mut world = World::new(rng, Arc::clone(&phase));
        world.odds = setting.odds.clone();
        world.is_aloud = env::var_os(ALOUD_VARIABLE).is_some();
        world.say(|| format!("{setting:?}"));
        world.timetable = setting.timetable.clone().into();
        world.clients = clients;
        let mut listeners = Vec::new();
        for &(queue_max, is_shared) in &setting.listeners {
            // It lends its number to a listener of the simulation.
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(|error| error.to_string())?;
            let fd = socket.as_raw_fd();
            world.net.listeners.push(Listening {
                fd,
                flags: socket.try_clone().map_err(|error| error.to_string())?,
                queue: VecDeque::new(),
                queue_max,
                arrived: 0,
                is_shared,
            });
            let begins_nonblocking = is_shared && setting.odds.is_nonblocking && world.rng.bool();
            socket.set_nonblocking(begins_nonblocking).map_err(|error| error.to_string())?;
            listeners.push(Listener::new(socket, queue_max, is_shared, None));
        }
        let shared = Arc::new(ProcessWide {
            rules: Rules { paths: setting.config.access.paths.clone(), ..Rules::default() },
            limits: Limits::new(setting.connections_max, setting.config.access.max_connections_per_ip),
            unsent: Total::new(setting.config.unsent_total),
            config: setting.config.clone(),
        });
        let stats = Arc::<WorkerCounters>::default();
        let mut context = WorkerWide::new(&shared, Arc::clone(&stats), false);
        let common = Rc::get_mut(&mut context.common).expect("nobody else has it yet");
        common.clock = Clock::showing(Rc::clone(&world.time));
        let context = Rc::new(context);
        let world = Rc::new(RefCell::new(world));
        let chance = world.borrow_mut().rng.fork();
        let kernel = Kernel::new(Rc::clone(&world), setting.sizes.submissions, setting.sizes.completions);
        let kernel = Faulty::new(kernel, fault, chance);
        let wake = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| error.to_string())?;
        let driver = RingDriver::over(kernel, &setting.sizes, &context.common);
        let driver = driver.map_err(|error| error.to_string())?;
        let (room, common) = (setting.sizes.files as usize, Rc::clone(&context.common));
        let service = Serving::new(context, phase);
        let server = Server::over(driver, common, room, service, Arc::new(wake));
        let server = server.map_err(|error| error.to_string())?;
        Ok(Self { server, world, stats, listeners, shared, places: setting.connections_max })
    }

    pub(super) fn finish(mut self) -> Result<Done, String> {
        self.turn_to_the_end().map_err(|error| error.to_string())?;
        self.check_end()?;
        let trace = self.world.borrow().trace;
        Ok(Done { trace, stats: self.stats })
    }

    fn turn_to_the_end(&mut self) -> io::Result<()> {
        self.server.listen(std::mem::take(&mut self.listeners))?;
        let mut turns = 0;
        while self.server.goes_on() {
            turns += 1;
            if turns > TURNS_MAX {
                return Err(io::Error::other("it does not come to its end"));
            }
            self.world.borrow_mut().net.forget_arrivals();
            self.server.turn()?;
            self.check_turn().map_err(io::Error::other)?;
        }
        let world = self.world.borrow();
        world.violation.clone().map_or(Ok(()), |violation| Err(io::Error::other(violation)))
    }

    /// Each buffer is somebody's, and the ring and the kernel agree whose.
    fn check_turn(&self) -> Result<(), String> {
        let ring = &self.server.worker.driver.ring;
        let (given, has) = (ring.given(), ring.queues().kernel.buffers());
        if given == has { Ok(()) } else { Err(format!("the kernel has {has:?} buffers and not {given:?}")) }
    }

    /// Everything must have come back.
    fn check_end(&self) -> Result<(), String> {
        let driver = &self.server.worker.driver;
        if !self.server.worker.is_empty() {
            return Err("connections are left".to_owned());
        }
        driver.ring.check_end()?;
        driver.ring.queues().kernel.check_end()?;
        let unsent = self.stats.gauges.unsent_bytes.get();
        if unsent > 0 {
            return Err(format!("{unsent} bytes of the budget did not come back"));
        }
        let snapshot = Snapshot::sum([&*self.stats]);
        let counted = snapshot.levels.connections + snapshot.levels.refusals;
        let free: Vec<_> = (0..self.places).map_while(|_| self.shared.limits.admit()).collect();
        if counted > 0 || free.len() < self.places {
            let taken = self.places - free.len();
            return Err(format!("{counted} connections are still counted, and {taken} places taken"));
        }
        if snapshot.engine.stale_completions > 0 {
            return Err(format!("{} completions found nobody", snapshot.engine.stale_completions));
        }
        Ok(())
    }
}

fn from_environment(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|error| panic!("{name}={value}: {error}")))
}

/// Runs seeds on as many threads as there are processors, until `may_go_on` says no. Gives how many, and each that
/// fails, with why; of many the first ones.
fn run_seeds(
    seeds: RangeFrom<u64>,
    fault: Option<Fault>,
    failures_max: usize,
    may_go_on: impl Fn(u64) -> bool + Sync,
) -> (u64, BTreeMap<u64, String>) {
    let (next, failed) = (AtomicU64::new(seeds.start), Mutex::new(BTreeMap::new()));
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let work = || {
        while failed.lock().unwrap().len() < failures_max {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !may_go_on(seed) {
                return;
            }
            if let Err(what) = run(seed, fault) {
                failed.lock().unwrap().insert(seed, what);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    (next.into_inner() - seeds.start, failed.into_inner().unwrap())
}

/// Fails with a line for each seed that did: a command that runs it again.
fn assert_none(failed: &BTreeMap<u64, String>) {
    let lines = failed.iter().map(|(seed, what)| {
        format!(
            "{what}\n    {SEED_VARIABLE}={seed} cargo test --lib sim::runs::everything_holds_for_every_seed\n"
        )
    });
    let lines: String = lines.collect();
    assert!(lines.is_empty(), "{lines}");
}

#[test]
fn everything_holds_for_every_seed() {
    if let Some(seed) = from_environment(SEED_VARIABLE) {
        let name = env::var(FAULT_VARIABLE).unwrap_or_default();
        let fault = Fault::VARIANTS.iter().find(|fault| format!("{fault:?}") == name);
        run(seed, fault.copied()).unwrap_or_else(|what| panic!("{what}"));
        return;
    }
    let seeds = from_environment(SEEDS_VARIABLE).unwrap_or(SEEDS);
    let (_, failed) = run_seeds(0.., None, FAILURES_MAX, |seed| seed < seeds);
    assert_none(&failed);
}

/// As many seeds as the time holds, from where `.ci/run` ends.
#[test]
#[ignore = "takes half an hour"]
fn everything_holds_for_as_many_seeds_as_half_an_hour_holds() {
    const FIRST: u64 = 10_000;
    let percent = from_environment("RINGBACK_STRESS_PERCENT").unwrap_or(100);
    let (began, lasts) = (Instant::now(), Duration::from_secs(18 * percent));
    let (count, failed) = run_seeds(FIRST.., None, FAILURES_MAX, |_| began.elapsed() < lasts);
    println!("{count} seeds");
    assert_none(&failed);
}

#[test]
fn a_seed_does_the_same_twice() {
    for seed in 0..TWICE {
        let [once, again] = [(); 2].map(|()| run(seed, None).map(|done| done.trace));
        assert_eq!(once, again, "{SEED_VARIABLE}={seed}");
    }
}

/// A simulation in which nothing ever runs short would find little.
#[test]
fn the_runs_meet_whatever_can_run_short() {
    let runs: Vec<_> = (0..TWICE).filter_map(|seed| run(seed, None).ok()).collect();
    let all = Snapshot::sum(runs.iter().map(|done| &*done.stats));
    let met = [
        ("submissions", all.engine.sq_full),
        ("completions", all.engine.cq_overflows),
        ("buffers", all.engine.buffers_exhausted),
        ("room in a socket", all.engine.short_sends),
        ("a share of the buffers", all.engine.bytes_spilled),
        ("what may be unsent", all.engine.read_pauses),
        ("descriptors or places", all.accept_pauses),
        ("the patience with silence", all.pings_sent),
        ("the patience with idleness", all.idle_timeouts),
        ("the patience with slowness", all.cuts),
        ("time before a drain", all.drained),
        ("good manners", all.protocol_errors),
    ];
    let missed: Vec<_> = met.iter().filter(|(_, count)| *count == 0).collect();
    assert!(missed.is_empty(), "nothing was short of {missed:?}");
}

/// A fault may be found by another seed than the document says as soon as anything changes.
#[test]
fn planted_faults_are_found() {
    let mut missed = Vec::new();
    for &fault in Fault::VARIANTS {
        let listed = seed_of(fault).unwrap_or_else(|| panic!("docs/SIMULATION.md does not list {fault:?}"));
        if run(listed, Some(fault)).is_err() {
            continue;
        }
        match first_found(fault) {
            Some((seed, _)) => println!("{fault:?} is found by the seed {seed}, no longer by {listed}"),
            None => missed.push(fault),
        }
    }
    assert!(missed.is_empty(), "{missed:?} are not found by {SEEDS_FOR_ALL} seeds");
}

/// Prints the seeds of the table in docs/SIMULATION.md.
#[test]
#[ignore = "prints what the document lists"]
fn every_fault_is_found_by_a_seed() {
    for &fault in Fault::VARIANTS {
        let (seed, what) = first_found(fault).unwrap_or_else(|| panic!("{fault:?} is not found"));
        println!("| `{fault:?}` | {seed} | {what} |");
    }
}

fn first_found(fault: Fault) -> Option<(u64, String)> {
    run_seeds(0.., Some(fault), 1, |seed| seed < SEEDS_FOR_ALL).1.pop_first()
}

/// The seed that the document lists for a fault.
fn seed_of(fault: Fault) -> Option<u64> {
    let document = include_str!("../../../../docs/SIMULATION.md");
    let row = document.lines().find_map(|line| line.strip_prefix(&format!("| `{fault:?}` | ")))?;
    row.trim_end_matches(" |").rsplit(" | ").next()?.parse().ok()
}
