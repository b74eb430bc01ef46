//! Entries of the operator's files that matched nothing for an hour since they are in force. The names in them may be
//! wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use crate::{
    access::Access,
    roster::Roster,
    sasp::{Endpoint, Escaped},
    time::Time,
};

/// The time in which an entry should match something.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The most names in one line of the log.
const NAMES: usize = 5;

/// Entries that matched nothing for an hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmatched {
    /// The kind of the entries.
    pub kind: Kind,
    /// The first names.
    pub names: Vec<String>,
    /// How many other entries there are.
    pub more: usize,
}

/// A kind of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `[[member]]` of the members file.
    Members,
    /// `[[group]]` of the members file.
    Groups,
    /// `[[lb]]` of the access file.
    Lbs,
}

impl Unmatched {
    /// `None` if there is no entry.
    fn new(kind: Kind, mut entries: impl Iterator<Item = String>) -> Option<Unmatched> {
        let names: Vec<String> = entries.by_ref().take(NAMES).collect();
        (!names.is_empty()).then(|| Unmatched { kind, names, more: entries.count() })
    }
}

impl fmt::Display for Unmatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            Kind::Members => "no member has got its settings from these [[member]] of --members",
            Kind::Groups => "no group has got its policy from these [[group]] of --members",
            Kind::Lbs => "no load balancer has come that these [[lb]] of --access name",
        };
        write!(f, "for an hour {what}: \"{}\"", self.names.join("\", \""))?;
        match self.more {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// The entries that have matched nothing so far. After an hour nothing is noted any more.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// By number, whether each entry has matched.
    members: Waiting<Vec<bool>>,
    groups: Waiting<Vec<bool>>,
    /// The UIDs of entries that have not matched.
    lbs: Waiting<BTreeSet<Box<[u8]>>>,
}

#[derive(Debug, Default)]
struct Waiting<T> {
    entries: T,
    /// Since when the entries are in force.
    since: Option<Time>,
    /// There are entries, and they were not reported yet.
    waits: bool,
}

impl<T: Default> Waiting<T> {
    fn new(entries: T, any: bool) -> Waiting<T> {
        Waiting { entries, since: None, waits: any }
    }

    fn deadline(&self) -> Option<Time> {
        self.since.filter(|_| self.waits).map(|since| since + PATIENCE)
    }

    /// Takes the entries, once, when the hour is over.
    fn take(&mut self, now: Time) -> Option<T> {
        self.since.get_or_insert(now);
        let over = self.deadline().is_some_and(|deadline| now >= deadline);
        self.waits &= !over;
        over.then(|| std::mem::take(&mut self.entries))
    }
}

impl Watch {
    /// Begins anew for `[[member]]` and `[[group]]`.
    pub(super) fn set_roster(&mut self, roster: &Roster) {
        let waiting = |entries: usize| Waiting::new(vec![false; entries], entries > 0);
        (self.members, self.groups) = (waiting(roster.entries()), waiting(roster.groups().len()));
    }

    /// Begins anew for `[[lb]]`.
    pub(super) fn set_access<'a>(&mut self, access: &Access, known: impl Iterator<Item = &'a [u8]>) {
        let mut uids: BTreeSet<Box<[u8]>> = access.lb_uids().map(Box::from).collect();
        let any = !uids.is_empty();
        if any {
            for uid in known {
                uids.remove(uid);
            }
        }
        self.lbs = Waiting::new(uids, any);
    }

    /// An endpoint is registered.
    pub(super) fn has_endpoint(&mut self, endpoint: &Endpoint, roster: &Roster) {
        if self.members.waits
            && let Some(matched) =
                roster.entry_of(endpoint).and_then(|entry| self.members.entries.get_mut(entry as usize))
        {
            *matched = true;
        }
    }

    /// A group has the policy of this entry.
    pub(super) fn has_group(&mut self, entry: Option<usize>) {
        if let Some(matched) = entry.and_then(|entry| self.groups.entries.get_mut(entry)) {
            *matched = true;
        }
    }

    /// A load balancer has come.
    pub(super) fn has_lb(&mut self, uid: &[u8]) {
        if !self.lbs.entries.is_empty() {
            self.lbs.entries.remove(uid);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        [self.members.deadline(), self.groups.deadline(), self.lbs.deadline()].into_iter().flatten().min()
    }

    /// What is to be reported now.
    pub(super) fn take(&mut self, now: Time, roster: &Roster) -> impl Iterator<Item = Unmatched> + use<> {
        let members = self.members.take(now).and_then(|matched| {
            let left = |number: u32| matched.get(number as usize) == Some(&false);
            let names: BTreeMap<u32, _> = roster.numbered().filter(|(number, _)| left(*number)).collect();
            Unmatched::new(Kind::Members, names.values().map(ToString::to_string))
        });
        let groups = self.groups.take(now).and_then(|matched| {
            let left = roster.groups().iter().zip(matched).filter(|(_, matched)| !matched);
            Unmatched::new(Kind::Groups, left.map(|((pattern, _), _)| pattern.to_string()))
        });
        let lbs = self
            .lbs
            .take(now)
            .and_then(|uids| Unmatched::new(Kind::Lbs, uids.iter().map(|uid| Escaped(uid).to_string())));
        [members, groups, lbs].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_a_few_entries() {
        let line = |entries: u32| {
            let entries = (1..=entries).map(|number| format!("LB{number}"));
            Unmatched::new(Kind::Lbs, entries).map(|unmatched| unmatched.to_string())
        };
        let told = "for an hour no load balancer has come that these [[lb]] of --access name: ";
        assert_eq!(line(0), None);
        assert_eq!(line(2), Some(format!("{told}\"LB1\", \"LB2\"")));
        assert_eq!(line(5), Some(format!("{told}\"LB1\", \"LB2\", \"LB3\", \"LB4\", \"LB5\"")));
        assert_eq!(line(7), Some(format!("{told}\"LB1\", \"LB2\", \"LB3\", \"LB4\", \"LB5\" and 2 more")));
    }
}
