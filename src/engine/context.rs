//! What all connections of a worker share. It never leaves the worker's thread.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::alarms::Alarms;
use super::clock::Clock;
use super::keep_alive::Terms;
use super::pool::Pool;
use crate::proto::Settings;
use crate::proto::budget::Budget;
use crate::server::drain::Drain;
use crate::server::{Admission, Shared, WorkerStats};

/// What all connections of a worker share.
pub(crate) struct Context {
    pub(crate) shared: Arc<Shared>,
    pub(crate) stats: Arc<WorkerStats>,
    pub(crate) drain: Drain,
    pub(super) clock: Clock,
    /// What wakes the tasks of connections, on the engines that have such.
    pub(super) alarms: Alarms,
    pub(super) terms: Terms,
    pub(super) pool: Rc<Pool>,
    pub(super) settings: Rc<Settings>,
    connections: Cell<usize>,
    refusals: Cell<usize>,
    /// Who waits for the last connection to end.
    last_ended: RefCell<Option<Waker>>,
}

impl Context {
    /// The context of a worker that has no connections yet.
    pub(crate) fn new(shared: &Arc<Shared>, stats: Arc<WorkerStats>) -> Self {
        let config = &shared.config;
        Self {
            shared: Arc::clone(shared),
            stats,
            drain: Drain::default(),
            clock: Clock::new(),
            alarms: Alarms::default(),
            terms: Terms::new(&config.keep_alive),
            pool: Pool::new(config.receive_buffer_size),
            settings: Rc::new(Settings {
                whole_frame_max: config.whole_frame_max,
                max_message_size: config.max_message_size,
                budget: Budget::new(Arc::clone(&shared.unsent)),
            }),
            connections: Cell::new(0),
            refusals: Cell::new(0),
            last_ended: RefCell::new(None),
        }
    }

    /// Resolves when the phase of the server changes.
    pub(crate) async fn phase_changed(&self) {
        let before = self.drain.phase();
        let mut listener = None;
        poll_fn(|task| {
            if self.drain.phase() != before {
                return Poll::Ready(());
            }
            listener.get_or_insert_with(|| self.drain.listen(task.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Resolves once this worker has no connections.
    pub(crate) async fn all_ended(&self) {
        poll_fn(|task| {
            if self.connections.get() == 0 {
                return Poll::Ready(());
            }
            *self.last_ended.borrow_mut() = Some(task.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// How many connections are being told that there is no room for them.
    pub(crate) fn refusals_under_way(&self) -> usize {
        self.refusals.get()
    }

    /// Counts a connection until the presence is dropped. One that was not admitted is about to be refused.
    pub(super) fn enter(self: &Rc<Self>, admission: Option<Admission>) -> Presence {
        self.connections.set(self.connections.get() + 1);
        self.refusals.set(self.refusals.get() + usize::from(admission.is_none()));
        Presence { context: Rc::clone(self), admission }
    }
}

/// A connection of this worker.
pub(super) struct Presence {
    pub(super) context: Rc<Context>,
    admission: Option<Admission>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        let context = &self.context;
        context.stats.ended.add(1);
        context.refusals.set(context.refusals.get() - usize::from(self.admission.is_none()));
        context.connections.set(context.connections.get() - 1);
        if context.connections.get() == 0
            && let Some(waker) = context.last_ended.borrow_mut().take()
        {
            waker.wake();
        }
    }
}
