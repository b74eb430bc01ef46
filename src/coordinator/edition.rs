//! The editions of a listing: values, which groups remember by reference as sent, and encoded entries, which are made
//! once for all groups.

use std::sync::Arc;

use bytes::Bytes;

use crate::{judgement::Scale, sasp::image::VALUE_BYTES};

/// The value of an entry: state, flags and weight, as on the wire.
pub(super) type Value = [u8; VALUE_BYTES];

/// The value of an entry that was never sent: no entry has these flags.
pub(super) const UNSENT: Value = [0, 0xFF, 0, 0];

/// Values by slot. If there are more slots than values, the last ones were never sent.
pub(super) type Values = Arc<[Value]>;

/// What groups that are (not) in doubt and have this scale show of one version of a listing.
pub(super) struct Edition {
    pub(super) version: u32,
    pub(super) doubted: bool,
    /// The scale that the groups had before.
    pub(super) before: Option<Scale>,
    pub(super) scale: Option<Scale>,
    pub(super) values: Values,
    /// The values that these were made from, and the slots that differ, in order.
    pub(super) from: Option<(Values, Vec<u32>)>,
    /// All entries, encoded for those who share them.
    pub(super) body: Option<Bytes>,
    /// The entries that differ from other values, encoded, and how many these are.
    pub(super) deltas: Vec<(Option<Values>, Bytes, u32)>,
}

/// Which values may differ from those of the newest edition.
pub(super) struct Touched {
    /// The version of that edition.
    since: u32,
    /// Slots, some more than once.
    slots: Vec<u32>,
    /// All slots; `slots` is empty.
    all: bool,
}

/// In a listing with fewer slots, to look at all values costs less than to find the slots that changed.
const FEW_SLOTS: usize = 256;

impl Touched {
    pub(super) const ALL: Touched = Touched { since: 0, slots: Vec::new(), all: true };

    /// A value may have changed; `slot` finds it among so many slots.
    pub(super) fn add(&mut self, of: usize, slot: impl FnOnce() -> Option<usize>) {
        if self.all {
            return;
        }
        match slot() {
            Some(slot) if of >= FEW_SLOTS && self.slots.len() < of / 8 => self.slots.push(slot as u32),
            _ => self.add_all(),
        }
    }

    /// All values may have changed.
    pub(super) fn add_all(&mut self) {
        (self.slots, self.all) = (Vec::new(), true);
    }

    /// The version from which on changes are known, unless all values may have changed.
    pub(super) fn since(&self) -> Option<u32> {
        (!self.all).then_some(self.since)
    }

    /// Takes the slots, in order; from now on, changes count from this version.
    pub(super) fn take(&mut self, version: u32) -> Vec<u32> {
        (self.since, self.all) = (version, false);
        let mut slots = std::mem::take(&mut self.slots);
        slots.sort_unstable();
        slots.dedup();
        slots
    }
}
