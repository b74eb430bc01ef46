//! A node's state on disk.

use gwm::journal::{Date, Entry, Epoch, FleetDate, Known, Store};
use redb::backends::InMemoryBackend;

/// The state on disk. What is written becomes rows only when somebody reads it: at the next start.
#[derive(Default)]
pub(super) struct Disk {
    store: Option<Store>,
    written: Vec<(Vec<Entry>, Epoch, Date)>,
    /// Since when the state is ahead of the store.
    pub(super) ahead: Option<u64>,
    /// What it says of the store, and of the fleet's date.
    pub(super) known: Known,
    pub(super) date: FleetDate,
    /// The store has had all of it once: since then the disk knows what the store lacks.
    pub(super) is_known: bool,
}

impl Disk {
    /// Whether nothing was ever written.
    pub(super) fn is_new(&self) -> bool {
        self.store.is_none() && self.written.is_empty()
    }

    pub(super) fn write(&mut self, entries: &[Entry], epoch: Epoch, date: Date) {
        match self.written.last_mut() {
            Some((earlier, of, last)) if *of == epoch => {
                earlier.extend_from_slice(entries);
                *last = date;
            }
            _ => self.written.push((entries.to_vec(), epoch, date)),
        }
    }

    /// `None`: nothing was ever written.
    pub(super) fn read(&mut self) -> Option<&mut Store> {
        if self.store.is_none() && !self.is_new() {
            let mut store = Store::open_on(InMemoryBackend::new()).expect("memory is a disk");
            store.begin(&[], Epoch::default(), false).expect("memory is a disk");
            self.store = Some(store);
        }
        let store = self.store.as_mut()?;
        for (entries, epoch, date) in self.written.drain(..) {
            store.apply(&entries, epoch, date).expect("memory is a disk");
        }
        Some(store)
    }
}
