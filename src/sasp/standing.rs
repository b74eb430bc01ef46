//! What weight entries mean to a load balancer.

use super::{EntryFlags, WeightEntry};

/// What a member may get of new work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A share in proportion to this weight, at least 1.
    Serving(u16),
    /// The share that the LB would give the member without a GWM: the GWM is confident of no member of the group.
    Usual,
    /// None, though the member is up: its weight is 0, or the GWM is not confident of it while it is of others.
    Idle,
    /// None: the member is quiesced. What it has goes on.
    Quiesced,
    /// None: the member does not answer the GWM.
    Down,
}

impl Standing {
    /// Whether the member may get new work.
    pub fn serves(self) -> bool {
        matches!(self, Standing::Serving(_) | Standing::Usual)
    }

    /// What each member of a group may get of new work (RFC 4678 section 4.8).
    pub fn of_group(entries: impl Iterator<Item = WeightEntry> + Clone) -> Vec<Standing> {
        let has = |entry: WeightEntry, flag| entry.flags.contains(flag);
        let valid = |entry| has(entry, EntryFlags::CONTACT) && !has(entry, EntryFlags::QUIESCED);
        let is_confident = entries.clone().any(|entry| valid(entry) && has(entry, EntryFlags::CONFIDENT));
        let standing = |entry: WeightEntry| match entry {
            entry if has(entry, EntryFlags::QUIESCED) => Standing::Quiesced,
            entry if !has(entry, EntryFlags::CONTACT) => Standing::Down,
            _ if !is_confident => Standing::Usual,
            entry if !has(entry, EntryFlags::CONFIDENT) || entry.weight == 0 => Standing::Idle,
            entry => Standing::Serving(entry.weight),
        };
        entries.map(standing).collect()
    }
}
