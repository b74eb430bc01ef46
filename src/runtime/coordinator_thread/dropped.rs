//! What was changed while the disk took nothing for too long. The changes themselves are dropped, because they would need
//! ever more memory. When the disk takes something again, what they are about is written as it is then.

use std::{collections::BTreeSet, mem};

use crate::{
    coordinator::Coordinator,
    journal::{Entry, Whole},
};

/// After so many load balancers and members, the rest of the load balancers waits for the next part.
const PART: usize = 8192;

/// What is to be written anew.
#[derive(Default)]
pub(super) struct Dropped {
    lbs: BTreeSet<Box<[u8]>>,
    words: bool,
    /// The disk takes something again: only what is left of these is to be written anew.
    begun: bool,
    /// So many changes have to be on the disk before the next part.
    wait_for: u64,
}

impl Dropped {
    /// The disk takes nothing any more: from now on all changes are dropped.
    pub(super) fn begin_anew(&mut self) {
        self.begun = false;
    }

    /// The next part waits until so many changes are on the disk.
    pub(super) fn wait_for(&mut self, changes: u64) {
        self.wait_for = changes;
    }

    /// Whether the next part waits, as so many changes are on the disk.
    pub(super) fn is_waiting(&self, kept: u64) -> bool {
        kept < self.wait_for
    }

    /// Whether an entry need not be written, because all that it is about will be.
    pub(super) fn takes(&mut self, entry: &Entry) -> bool {
        match entry {
            // Nothing else says this again. The coordinator gives few of them, and none while the disk is behind.
            Entry::Judged(..) | Entry::Gone(_) | Entry::Fleet { .. } | Entry::Date(_) => false,
            Entry::Own { entry, .. } => self.takes(entry),
            Entry::Said(_) | Entry::Unsaid(_) | Entry::Words(_) => {
                self.words |= !self.begun;
                self.words
            }
            entry => {
                let lbs = entry.load_balancers();
                let takes = !self.begun || lbs.iter().any(|lb| self.lbs.contains(*lb));
                if takes {
                    self.lbs.extend(lbs.into_iter().map(Box::<[u8]>::from));
                }
                takes
            }
        }
    }

    /// Appends a part of what is to be written anew, as it is now; gives how many entries that are. After the last part
    /// there are none. What comes before in `entries` is of no load balancer of this part.
    pub(super) fn next_part(&mut self, coordinator: &Coordinator, entries: &mut Vec<Entry>) -> u64 {
        let before = entries.len();
        self.begun = true;
        if mem::take(&mut self.words) {
            entries.push(Entry::Words(coordinator.words().cloned().collect()));
        }
        let mut size = 0;
        while size < PART
            && let Some(lb) = self.lbs.pop_first()
        {
            let whole = Whole::of(coordinator, &lb);
            size += 1 + whole.as_ref().map_or(0, Whole::members);
            entries.push(Entry::Whole(lb, whole.map(Box::new)));
        }
        (entries.len() - before) as u64
    }
}
