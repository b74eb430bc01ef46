//! Ids of load balancers, groups and endpoints, each a type of its own, and tables indexed by such ids.

use std::{
    marker::PhantomData,
    ops::{Index, IndexMut},
};

use slab::Slab;

/// One connection, named by the shard that owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// The owning shard, from 0.
    pub shard: u16,
    /// The shard's slot, reused after [`Coordinator::closed`](super::Coordinator::closed).
    pub slot: u32,
    /// Tells apart the connections that used the same slot.
    pub generation: u32,
}

/// An id: the place in a table.
pub(super) trait Id: Copy {
    fn at(place: usize) -> Self;
    fn place(self) -> usize;
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(super) struct $name(u32);

        impl Id for $name {
            #[inline]
            fn at(place: usize) -> $name {
                $name(place as u32) // the limits keep every table below 2^32 entries
            }

            #[inline]
            fn place(self) -> usize {
                self.0 as usize
            }
        }
    )*};
}

ids! {
    /// Names a load balancer while it is known.
    LbId
    /// Names a group while it exists.
    GroupId
    /// Names a listing while a group has it.
    ListingId
    /// Names an endpoint while a group lists it.
    EndpointId
}

impl EndpointId {
    /// Names no endpoint.
    pub(super) const NONE: EndpointId = EndpointId(u32::MAX);

    /// The number that the monitor knows the endpoint's watch by.
    pub(super) fn number(self) -> u32 {
        self.0
    }
}

/// Entries by id; an id is used again after its entry has been removed.
pub(super) struct Table<I, T> {
    entries: Slab<T>,
    names: PhantomData<I>,
}

impl<I: Id, T> Table<I, T> {
    pub(super) fn new() -> Table<I, T> {
        Table { entries: Slab::new(), names: PhantomData }
    }

    pub(super) fn insert(&mut self, entry: T) -> I {
        I::at(self.entries.insert(entry))
    }

    pub(super) fn remove(&mut self, id: I) -> T {
        self.entries.remove(id.place())
    }

    pub(super) fn get(&self, id: I) -> Option<&T> {
        self.entries.get(id.place())
    }

    pub(super) fn get_mut(&mut self, id: I) -> Option<&mut T> {
        self.entries.get_mut(id.place())
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All places are below this number.
    pub(super) fn end(&self) -> usize {
        self.entries.capacity()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (I, &T)> {
        self.entries.iter().map(|(place, entry)| (I::at(place), entry))
    }
}

impl<I: Id, T> Index<I> for Table<I, T> {
    type Output = T;

    #[inline]
    fn index(&self, id: I) -> &T {
        &self.entries[id.place()]
    }
}

impl<I: Id, T> IndexMut<I> for Table<I, T> {
    #[inline]
    fn index_mut(&mut self, id: I) -> &mut T {
        &mut self.entries[id.place()]
    }
}

/// One value for each entry of a [`Table`], in memory of its own, for loops that read nothing else.
pub(super) struct Column<I, T> {
    values: Vec<T>,
    names: PhantomData<I>,
}

impl<I, T> Default for Column<I, T> {
    fn default() -> Column<I, T> {
        Column { values: Vec::new(), names: PhantomData }
    }
}

impl<I: Id, T: Default> Column<I, T> {
    pub(super) fn new() -> Column<I, T> {
        Column { values: Vec::new(), names: PhantomData }
    }

    /// Sets the value of an entry; entries before it that have none get the default.
    pub(super) fn set(&mut self, id: I, value: T) {
        if id.place() >= self.values.len() {
            self.values.resize_with(id.place() + 1, T::default);
        }
        self.values[id.place()] = value;
    }

    pub(super) fn get(&self, id: I) -> Option<&T> {
        self.values.get(id.place())
    }

    pub(super) fn get_mut(&mut self, id: I) -> Option<&mut T> {
        self.values.get_mut(id.place())
    }

    /// All ids with a value are below this number.
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }
}

impl<I: Id, T> Index<I> for Column<I, T> {
    type Output = T;

    #[inline]
    fn index(&self, id: I) -> &T {
        &self.values[id.place()]
    }
}

impl<I: Id, T> IndexMut<I> for Column<I, T> {
    #[inline]
    fn index_mut(&mut self, id: I) -> &mut T {
        &mut self.values[id.place()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_the_value_of_one_entry() {
        let mut column = Column::new();
        column.set(EndpointId(2), Some("down"));
        assert_eq!(
            [0, 1, 2, 3].map(|id| column.get(EndpointId(id)).copied()),
            [Some(None), Some(None), Some(Some("down")), None]
        );
        column.set(EndpointId(0), Some("up"));
        assert_eq!([0, 1, 2].map(|id| column[EndpointId(id)]), [Some("up"), None, Some("down")]);
    }
}
