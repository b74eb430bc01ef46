//! What a member may get of new work, from its weight entry and those of its group.

use super::WantedMember;
use crate::{
    client::GroupWeights,
    sasp::{EntryFlags, WeightEntry},
};

/// What a member may get of new work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A share in proportion to this weight, at least 1.
    Serving(u16),
    /// The share that the real LB would give it without a GWM: the GWM is confident of no member of the group.
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
}

/// The members of a group with what they may get (RFC 4678 section 4.8).
pub fn standings(group: &GroupWeights) -> Vec<WantedMember> {
    let has = |entry: WeightEntry, flag| entry.flags.contains(flag);
    let valid = |entry| has(entry, EntryFlags::CONTACT) && !has(entry, EntryFlags::QUIESCED);
    let confident = group.members().iter().any(|m| valid(m.entry) && has(m.entry, EntryFlags::CONFIDENT));
    let standing = |entry: WeightEntry| match entry {
        entry if has(entry, EntryFlags::QUIESCED) => Standing::Quiesced,
        entry if !has(entry, EntryFlags::CONTACT) => Standing::Down,
        _ if !confident => Standing::Usual,
        entry if !has(entry, EntryFlags::CONFIDENT) || entry.weight == 0 => Standing::Idle,
        entry => Standing::Serving(entry.weight),
    };
    let wanted = group.members().iter();
    wanted
        .map(|member| WantedMember {
            endpoint: member.endpoint,
            label: member.label.as_slice().into(),
            standing: standing(member.entry),
        })
        .collect()
}
