//! Who is connected to the admin listener. When all places are taken, the guest whose last request is longest ago gives
//! way: a silent client, or one that does not read, must not keep others from asking.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slab::Slab;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The guests of a listener.
#[derive(Debug)]
pub(super) struct Guests {
    room: Arc<Semaphore>,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    guests: Slab<Guest>,
    /// How many arrivals and requests there were.
    events: u64,
}

#[derive(Debug)]
struct Guest {
    /// The event that was its last one.
    last: u64,
    /// Told once it has to leave.
    leave: Arc<Notify>,
}

/// The place of a guest, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    guests: Arc<Guests>,
    key: usize,
    leave: Arc<Notify>,
    _room: OwnedSemaphorePermit,
}

impl Guests {
    /// A listener that has room for so many.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { room: Arc::new(Semaphore::new(max)), book: Mutex::default() })
    }

    /// Gives a newcomer a place, that of another guest where there is no other.
    pub(super) async fn enter(self: &Arc<Self>) -> Place {
        let free = Arc::clone(&self.room).try_acquire_owned();
        let room = match free {
            Ok(room) => room,
            Err(_) => {
                self.dismiss();
                Arc::clone(&self.room).acquire_owned().await.expect("the semaphore is never closed")
            }
        };
        let leave = Arc::new(Notify::new());
        let mut book = self.book();
        book.events += 1;
        let guest = Guest { last: book.events, leave: Arc::clone(&leave) };
        let key = book.guests.insert(guest);
        Place { guests: Arc::clone(self), key, leave, _room: room }
    }

    /// Has the guest leave whose last event is longest ago.
    fn dismiss(&self) {
        let mut book = self.book();
        if let Some((_, guest)) = book.guests.iter_mut().min_by_key(|(_, guest)| guest.last) {
            // Whoever comes next dismisses another one.
            guest.last = u64::MAX;
            guest.leave.notify_one();
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The guest has asked for something.
    pub(super) fn on_request(&self) {
        let mut book = self.guests.book();
        book.events += 1;
        let now = book.events;
        if let Some(guest) = book.guests.get_mut(self.key).filter(|guest| guest.last != u64::MAX) {
            guest.last = now;
        }
    }

    /// Resolves once the guest has to leave.
    pub(super) async fn dismissed(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.guests.book().guests.remove(self.key);
    }
}
