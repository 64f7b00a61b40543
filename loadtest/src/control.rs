//! The dialogue with the threads of a run: what they are told, and what they say.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::engine::nanos;
use crate::failure::Failure;
use crate::run::{Orders, Word};
use crate::series::Series;
use crate::tally::Interval;

/// What tells the threads.
#[derive(Debug)]
pub(crate) struct Control {
    /// What they are told.
    pub(crate) orders: Arc<Orders>,
    /// What wakes them.
    pub(crate) wakes: Vec<Arc<OwnedFd>>,
    /// Nanoseconds are counted from here.
    pub(crate) origin: Instant,
}

impl Control {
    /// Has all threads look at their orders.
    ///
    /// # Errors
    ///
    /// What write(2) says.
    pub(crate) fn wake_all(&self) -> Result<(), Failure> {
        self.wakes.iter().try_for_each(|wake| {
            rustix::io::write(wake, &1_u64.to_ne_bytes())
                .map(drop)
                .map_err(|error| Failure::System(format!("cannot wake a thread: {error}")))
        })
    }

    /// Ends the window, in a moment, so that all threads end it at the same time; gives when.
    fn stop(&self) -> Instant {
        let at = Instant::now() + STOP_LEAD;
        self.orders.stop.get_or_init(|| nanos(at - self.origin));
        // Those that are not woken look at their orders when the next second is over.
        let _ = self.wake_all();
        at
    }
}

/// What the threads say.
pub(crate) struct Words<'a, F> {
    words: mpsc::Receiver<Word>,
    /// The seconds of the window.
    pub(crate) series: Series<F>,
    /// Why the run is not to be believed, though it had begun.
    pub(crate) failure: Option<Failure>,
    control: &'a Control,
    /// Threads that have not ended.
    running: usize,
    /// When the window ends early.
    stop: Option<Instant>,
}

impl<'a, F: FnMut(Interval)> Words<'a, F> {
    /// Those of the threads of `series`.
    pub(crate) fn new(words: mpsc::Receiver<Word>, series: Series<F>, control: &'a Control) -> Self {
        let running = series.threads();
        Self { words, series, failure: None, control, running, stop: None }
    }

    /// Waits for the connections of each thread.
    ///
    /// # Errors
    ///
    /// A thread cannot open its connections.
    pub(crate) fn await_opened(&mut self) -> Result<(), Failure> {
        let mut left = self.series.threads();
        while left > 0 {
            match self.words.recv() {
                Ok(Word::Opened(result)) => {
                    result?;
                    left -= 1;
                }
                // A thread that cannot open says so, or panics.
                Ok(Word::Ended(_)) | Err(mpsc::RecvError) => {
                    return Err(Failure::System("a thread has panicked".into()));
                }
                Ok(word) => self.take(word),
            }
        }
        Ok(())
    }

    /// Listens until then; whether that time has come: a thread is left that could say more, and the run goes on.
    pub(crate) fn listen_until(&mut self, at: Instant) -> bool {
        while self.running > 0 {
            let until = self.stop.map_or(at, |stop| stop.min(at));
            match self.words.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(word) => self.take(word),
                Err(RecvTimeoutError::Timeout) => return until == at,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        false
    }

    /// Listens until all threads have ended.
    pub(crate) fn listen_to_the_end(&mut self) {
        while self.running > 0
            && let Ok(word) = self.words.recv()
        {
            self.take(word);
        }
    }

    /// How long it is since then, or was when the window ended early.
    pub(crate) fn since(&self, from: Instant) -> Duration {
        let elapsed = from.elapsed();
        self.stop.map_or(elapsed, |stop| stop.saturating_duration_since(from).min(elapsed))
    }

    /// Whether the run was ended by hand.
    pub(crate) const fn is_stopped(&self) -> bool {
        self.stop.is_some()
    }

    fn take(&mut self, word: Word) {
        match word {
            Word::Second(thread, interval) => self.series.add(thread, &interval),
            Word::Ended(thread) => {
                self.running -= 1;
                self.series.end(thread);
            }
            Word::Stop => {
                self.stop.get_or_insert_with(|| self.control.stop());
            }
            Word::Opened(Ok(())) => {}
            Word::Opened(Err(failure)) => drop(self.failure.get_or_insert(failure)),
        }
    }
}

/// How long before its end the threads are told of it.
const STOP_LEAD: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn control() -> Control {
        Control { orders: Arc::default(), wakes: Vec::new(), origin: Instant::now() }
    }

    /// What a run listens to, when its threads have said this.
    fn heard(control: &Control, said: Vec<Word>) -> Words<'_, impl FnMut(Interval)> {
        let (to, words) = mpsc::channel();
        for word in said {
            to.send(word).expect("somebody listens");
        }
        Words::new(words, Series::new(2, |_| {}), control)
    }

    #[test]
    fn a_thread_that_fails_in_the_middle_is_no_good_run() {
        let failure = Failure::Unavailable("the engine has ended".into());
        let control = control();
        let said = vec![
            Word::Opened(Ok(())),
            Word::Opened(Ok(())),
            Word::Second(0, Interval::new(0)),
            Word::Opened(Err(failure.clone())),
            Word::Ended(0),
            Word::Ended(1),
        ];
        let mut words = heard(&control, said);
        assert_eq!(words.await_opened(), Ok(()));
        assert!(!words.listen_until(Instant::now() + Duration::from_secs(20)), "nobody is left");
        words.listen_to_the_end();
        assert_eq!(words.failure, Some(failure));
    }

    #[test]
    fn a_thread_that_cannot_open_ends_the_run_at_once() {
        let failure = Failure::Unavailable("refused".into());
        let control = control();
        let mut words = heard(&control, vec![Word::Opened(Ok(())), Word::Opened(Err(failure.clone()))]);
        assert_eq!(words.await_opened(), Err(failure));
        let mut words = heard(&control, vec![Word::Opened(Ok(())), Word::Ended(1)]);
        assert!(words.await_opened().is_err(), "it has panicked");
    }

    #[test]
    fn a_stop_ends_the_wait_and_the_threads_know_when() {
        let control = control();
        let (to, words) = mpsc::channel();
        let mut words = Words::new(words, Series::new(1, |_| {}), &control);
        to.send(Word::Opened(Ok(()))).expect("somebody listens");
        to.send(Word::Stop).expect("somebody listens");
        assert_eq!(words.await_opened(), Ok(()));
        let from = Instant::now();
        assert!(!words.listen_until(from + Duration::from_secs(3600)));
        assert!(words.is_stopped() && control.orders.stop.get().is_some());
        assert!(words.since(from) < Duration::from_secs(3600));
    }
}
