//! A server above a worker: it accepts, as long as there are places, and follows the phase to the end.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::Common;
use super::clock::Moment;
use super::driver::{Accepting, Driver};
use super::handler::Handler;
use super::listener::{Listener, PAUSE};
use super::phase::Phase;
use super::wheel::TICK;
use super::worker::Worker;

/// How long connections that were cut may take to give their places back.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

/// Where connections come from, and what the worker is to do.
pub trait Service {
    /// What drives a connection.
    type Handler: Handler;

    /// A connection was accepted; its peer's address, where [`Self::asks_for_peers`] says so and there is one.
    fn accepted(&mut self, peer: Option<IpAddr>) -> Self::Handler;

    /// Whether the addresses of peers are worth what they cost: on the ring, connections are accepted one by one then.
    fn asks_for_peers(&self) -> bool {
        false
    }

    /// Whether to accept further ones now.
    fn may_accept(&self) -> bool {
        true
    }

    /// Accepting pauses: for want of something, or because [`Self::may_accept`] says so, or for want of places.
    fn on_accept_paused(&mut self, _error: Option<&io::Error>) {}

    /// Accepting has begun to pause, or goes on.
    fn on_accepting_changed(&mut self, _is_paused: bool) {}

    /// What the server is at. The worker asks when its eventfd was written to.
    fn phase(&mut self) -> Phase {
        Phase::Running
    }
}

/// What came of accepting.
pub(super) enum Arrival<S> {
    Connection(S, Option<IpAddr>),
    Failure(io::Error),
}

/// A worker that serves whoever comes.
pub struct Server<D: Driver, S: Service> {
    pub(super) worker: Worker<D, S::Handler>,
    service: S,
    phase: Phase,
    /// Until when nothing is accepted, after an error.
    paused_until: Option<Moment>,
    /// There is no place, or no more may be accepted.
    is_held: bool,
    /// Nothing is accepted, for either reason.
    was_paused: bool,
    /// When connections were cut.
    cut_at: Option<Moment>,
}

impl<D: Driver, S: Service> Server<D, S> {
    /// A server with room for so many connections, which asks for the phase whenever `wake`, an eventfd(2), is written to.
    /// It has to be made on the thread that runs it.
    ///
    /// # Errors
    ///
    /// What the kernel says to the eventfd.
    pub(super) fn over(
        driver: D,
        common: Rc<Common>,
        room: usize,
        service: S,
        wake: Arc<OwnedFd>,
    ) -> io::Result<Self> {
        Ok(Self {
            worker: Worker::over(driver, common, room, wake)?,
            service,
            phase: Phase::Running,
            paused_until: None,
            is_held: false,
            was_paused: false,
            cut_at: None,
        })
    }

    /// As [`Self::listen`] and [`Self::run`].
    ///
    /// # Errors
    ///
    /// Those of both.
    pub fn serve(mut self, listeners: Vec<Listener>) -> io::Result<()> {
        self.listen(listeners)?;
        self.run()
    }

    /// Serves the connections that come, until the phase says to end.
    ///
    /// # Errors
    ///
    /// When the driver is of no more use.
    pub fn run(mut self) -> io::Result<()> {
        while self.goes_on() {
            self.turn()?;
        }
        Ok(())
    }

    /// Begins to listen on these sockets. It asks the service for the phase, once.
    ///
    /// # Errors
    ///
    /// What the kernel says to a socket.
    pub fn listen(&mut self, listeners: Vec<Listener>) -> io::Result<()> {
        self.worker.driver.listen(listeners, self.service.asks_for_peers())?;
        // What was said before the eventfd was watched.
        self.follow();
        Ok(())
    }

    /// Says what to accept, and whether there is more to do.
    pub(super) fn goes_on(&mut self) -> bool {
        if self.worker.driver.is_listening() {
            self.manage_accepting();
        }
        if self.phase > Phase::Running && !self.worker.driver.is_listening() && self.worker.is_empty() {
            return false;
        }
        if self.phase < Phase::Stopping {
            return true;
        }
        let now = self.worker.common.clock.now();
        self.cut_at.get_or_insert(now).until(now) <= CUT_TIMEOUT
    }

    /// One turn of the worker, and what came of it.
    pub(super) fn turn(&mut self) -> io::Result<()> {
        let at_most = self.patience();
        self.worker.turn(at_most)?;
        if self.worker.takes_woken() {
            self.follow();
        }
        let mut arrivals = std::mem::take(&mut self.worker.arrivals);
        for arrival in arrivals.drain(..) {
            let adopted = match arrival {
                Arrival::Connection(socket, peer) => {
                    let handler = self.service.accepted(peer);
                    self.worker.adopt(handler, socket, self.phase)
                }
                Arrival::Failure(error) => Err(error),
            };
            if let Err(error) = adopted {
                // Running out of something is waited out.
                self.service.on_accept_paused(Some(&error));
                self.paused_until = Some(self.worker.common.clock.after(PAUSE));
            }
        }
        self.worker.arrivals = arrivals;
        Ok(())
    }

    fn manage_accepting(&mut self) {
        let is_paused = self.paused_until.is_some_and(|until| self.worker.common.clock.now() < until);
        if !is_paused {
            self.paused_until = None;
        }
        let are_last = self.phase > Phase::Running;
        let places = if are_last || self.service.may_accept() { self.worker.free_places() } else { 0 };
        let is_held = places == 0;
        if is_held && !self.is_held {
            self.service.on_accept_paused(None);
        }
        self.is_held = is_held;
        if self.was_paused != (is_paused || is_held) {
            self.was_paused = !self.was_paused;
            self.service.on_accepting_changed(self.was_paused);
        }
        self.worker.driver.set_accepting(Accepting { places, is_paused, are_last });
    }

    /// How long nothing has to be done.
    fn patience(&self) -> Option<Duration> {
        if self.phase == Phase::Stopping {
            return Some(Duration::from_millis(TICK));
        }
        let until = self.paused_until.filter(|_| self.worker.driver.is_listening())?;
        Some(self.worker.common.clock.now().until(until))
    }

    /// Looks at the phase.
    fn follow(&mut self) {
        let phase = self.service.phase();
        if phase != self.phase {
            self.phase = phase;
            self.worker.common.enter_phase(phase);
            self.worker.enter_phase(phase);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;
    use crate::engine::{Bounds, Engine, PhaseCell, Received, Wire, epoll, ring};

    /// Longer than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// Its connections end by themselves after a moment, and no event says so.
    struct Brief(Arc<PhaseCell>);

    struct Moment;

    impl Service for Brief {
        type Handler = Moment;

        fn accepted(&mut self, _: Option<IpAddr>) -> Moment {
            Moment
        }

        fn phase(&mut self) -> Phase {
            self.0.phase()
        }
    }

    impl Handler for Moment {
        fn on_begun(&mut self, wire: &mut Wire<'_>, _: io::Result<()>) {
            wire.wake_after(Duration::from_millis(30));
        }

        fn on_received(&mut self, _: &mut Wire<'_>, _: Received) -> u32 {
            0
        }

        fn on_deadline(&mut self, wire: &mut Wire<'_>) {
            wire.end();
        }
    }

    /// With one place, the next client is accepted once the one before has gone; and a drain is over with the last one.
    fn places_and_a_drain(engine: Engine) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let phase = Arc::<PhaseCell>::default();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).expect("a descriptor"));
        let (service, woken) = (Brief(Arc::clone(&phase)), Arc::clone(&wake));
        let serving = thread::spawn(move || {
            let common = Rc::new(Common::new(Bounds::default(), Arc::default()));
            let listeners = vec![listener.into()];
            match engine {
                Engine::Epoll => epoll::server(1, common, service, wake)?.serve(listeners),
                _ => ring::server(&ring::Sizes::new(64 << 10, 1), common, service, wake)?.serve(listeners),
            }
        });
        let connect = || {
            let client = TcpStream::connect(address).expect("it listens");
            client.set_read_timeout(Some(PATIENCE)).expect("a duration");
            client
        };
        let mut clients = [connect(), connect(), connect()];
        for client in &mut clients {
            assert_eq!(client.read_to_end(&mut Vec::new()).expect("its end"), 0);
        }
        let _last = connect();
        phase.enter(Phase::Draining);
        rustix::io::write(&woken, &1_u64.to_ne_bytes()).expect("it takes a number");
        let began = std::time::Instant::now();
        while !serving.is_finished() {
            assert!(began.elapsed() < PATIENCE, "the drain never ends");
            thread::sleep(Duration::from_millis(5));
        }
        serving.join().expect("no panic").expect("a driver of use");
    }

    #[test]
    fn epoll_has_places_again_and_ends_a_drain() {
        places_and_a_drain(Engine::Epoll);
    }

    #[test]
    fn the_ring_has_places_again_and_ends_a_drain() {
        match ring::check() {
            Ok(()) => places_and_a_drain(Engine::Ring),
            Err(error) => println!("SKIPPED: {error}"),
        }
    }
}
