//! A table whose places are used again, each time under another generation.

/// Names a value of a table: its place, and which user of the place it is. A value that comes to the place later has another
/// name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    pub(super) slot: u32,
    /// Under [`GENERATIONS`].
    pub(super) generation: u32,
}

impl Id {
    /// It in 56 bits, by which the kernel names it.
    pub(super) const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.slot as u64
    }

    /// The one that [`Self::to_bits`] made these bits of.
    #[expect(clippy::cast_possible_truncation, reason = "each part is cut out on purpose")]
    pub(super) const fn from_bits(bits: u64) -> Self {
        Self { slot: bits as u32, generation: (bits >> 32) as u32 % GENERATIONS }
    }
}

/// Generations count modulo this.
pub(super) const GENERATIONS: u32 = 1 << 24;

/// A table of `T`s, found by [`Id`]; an id of an earlier user of the place finds nothing.
#[derive(Debug)]
pub(super) struct Slots<T> {
    places: Vec<Place<T>>,
    /// The place that is taken next, the head of a list of those that are free.
    first_free: Option<u32>,
    len: usize,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    state: State<T>,
}

#[derive(Debug)]
enum State<T> {
    Used(T),
    Free { next: Option<u32> },
}

impl<T> Slots<T> {
    /// An empty table.
    pub(super) const fn new() -> Self {
        Self { places: Vec::new(), first_free: None, len: 0 }
    }

    /// An empty table with room for `count` values. The room takes addresses, and memory only where it is used: a table
    /// that grows would be copied, and its old memory stay with the allocator.
    pub(super) fn with_room(count: usize) -> Self {
        Self { places: Vec::with_capacity(count), first_free: None, len: 0 }
    }

    /// The memory that a value takes in the table, in bytes.
    pub(super) const PLACE: usize = size_of::<Place<T>>();

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// The id of the value that is put in next.
    ///
    /// # Panics
    ///
    /// When there are 2^32 places.
    pub(super) fn next_id(&self) -> Id {
        match self.first_free {
            Some(slot) => Id { slot, generation: self.places[slot as usize].generation },
            None => {
                Id { slot: u32::try_from(self.places.len()).expect("fewer than 2^32 places"), generation: 0 }
            }
        }
    }

    /// Puts `make(id)` into a free place.
    ///
    /// # Panics
    ///
    /// As [`Self::next_id`].
    pub(super) fn insert(&mut self, make: impl FnOnce(Id) -> T) -> Id {
        self.len += 1;
        let id = self.next_id();
        let state = State::Used(make(id));
        if self.first_free.is_none() {
            self.places.push(Place { generation: 0, state });
            return id;
        }
        let place = &mut self.places[id.slot as usize];
        let State::Free { next } = std::mem::replace(&mut place.state, state) else {
            unreachable!("the list of free places has a used one");
        };
        self.first_free = next;
        id
    }

    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        match self.places.get_mut(id.slot as usize) {
            Some(Place { generation, state: State::Used(value) }) if *generation == id.generation => {
                Some(value)
            }
            _ => None,
        }
    }

    /// Whoever has this place now, and its id.
    pub(super) fn at_mut(&mut self, slot: u32) -> Option<(Id, &mut T)> {
        match self.places.get_mut(slot as usize) {
            Some(Place { generation, state: State::Used(value) }) => {
                Some((Id { slot, generation: *generation }, value))
            }
            _ => None,
        }
    }

    /// Takes a value out; its id finds nothing from now on.
    pub(super) fn remove(&mut self, id: Id) -> Option<T> {
        self.get_mut(id)?;
        let place = &mut self.places[id.slot as usize];
        place.generation = (place.generation + 1) % GENERATIONS;
        let state = std::mem::replace(&mut place.state, State::Free { next: self.first_free });
        self.first_free = Some(id.slot);
        self.len -= 1;
        match state {
            State::Used(value) => Some(value),
            State::Free { .. } => None,
        }
    }

    /// All that are in use.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.places.iter().filter_map(|place| match &place.state {
            State::Used(value) => Some(value),
            State::Free { .. } => None,
        })
    }

    /// The ids of all that are in use.
    pub(super) fn ids(&self) -> impl Iterator<Item = Id> {
        self.places.iter().zip(0..).filter_map(|(place, slot)| {
            matches!(place.state, State::Used(_)).then_some(Id { slot, generation: place.generation })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_outlives_its_value_in_vain() {
        let mut slots = Slots::new();
        let first = slots.insert(|_| "first");
        let other = slots.insert(|_| "other");
        assert_eq!(slots.remove(first), Some("first"));
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.next_id(), Id { slot: first.slot, generation: first.generation + 1 });
        let second = slots.insert(|id| {
            assert_eq!((id.slot, id.generation), (first.slot, first.generation + 1));
            "second"
        });
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.get_mut(second), Some(&mut "second"));
        assert_eq!(slots.at_mut(first.slot), Some((second, &mut "second")));
        assert_eq!(slots.at_mut(2), None);
        assert_eq!(slots.ids().collect::<Vec<_>>(), [second, other]);
        assert_eq!(slots.len(), 2);
    }
}
