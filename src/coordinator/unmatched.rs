//! Entries of the operator's files that matched nothing for an hour since they are in force. The names in them may be
//! wrong.

use std::{collections::BTreeSet, fmt, time::Duration};

use crate::{
    access::Access,
    roster::{Pattern, Roster},
    sasp::Escaped,
    time::Time,
};

/// The time in which an entry should match something.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Names in one line of the log.
const NAMES: usize = 5;

/// Entries that matched nothing for an hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unmatched {
    /// `[[group]]` of the members file.
    Groups(Vec<Pattern>),
    /// `[[lb]]` of the access file.
    Lbs(Vec<Box<[u8]>>),
}

impl fmt::Display for Unmatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, mut names): (_, Vec<String>) = match self {
            Unmatched::Groups(patterns) => (
                "no group has got its policy from these [[group]] of --members",
                patterns.iter().map(Pattern::to_string).collect(),
            ),
            Unmatched::Lbs(uids) => (
                "no load balancer has come that these [[lb]] of --access name",
                uids.iter().map(|uid| Escaped(uid).to_string()).collect(),
            ),
        };
        names.sort_unstable();
        let more = names.len().saturating_sub(NAMES);
        names.truncate(NAMES);
        write!(f, "for an hour {what}: \"{}\"", names.join("\", \""))?;
        if more > 0 {
            write!(f, " and {more} more")?;
        }
        Ok(())
    }
}

/// The entries that have matched nothing so far. After an hour nothing is noted any more.
#[derive(Debug, Default)]
pub(super) struct Watch {
    groups: Waiting<Vec<bool>>,
    lbs: Waiting<BTreeSet<Box<[u8]>>>,
}

#[derive(Debug, Default)]
struct Waiting<T> {
    /// Groups: whether each entry has matched. Load balancers: the UIDs of entries that have not matched.
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
    /// Begins anew for `[[group]]`.
    pub(super) fn set_roster(&mut self, roster: &Roster) {
        let entries = vec![false; roster.groups().len()];
        self.groups = Waiting::new(entries, !roster.groups().is_empty());
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
        [self.groups.deadline(), self.lbs.deadline()].into_iter().flatten().min()
    }

    /// What is to be reported now.
    pub(super) fn take(&mut self, now: Time, roster: &Roster) -> impl Iterator<Item = Unmatched> + use<> {
        let groups = self.groups.take(now).map(|matched| {
            let groups = roster.groups().iter().zip(matched).filter(|(_, matched)| !matched);
            groups.map(|((pattern, _), _)| pattern.clone()).collect::<Vec<_>>()
        });
        let lbs = self.lbs.take(now).map(|uids| uids.into_iter().collect::<Vec<_>>());
        let groups = groups.filter(|groups| !groups.is_empty()).map(Unmatched::Groups);
        groups.into_iter().chain(lbs.filter(|lbs| !lbs.is_empty()).map(Unmatched::Lbs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_a_few_entries() {
        let lbs = |uids: &[&[u8]]| Unmatched::Lbs(uids.iter().map(|uid| Box::from(*uid)).collect()).to_string();
        let told = "for an hour no load balancer has come that these [[lb]] of --access name: ";
        assert_eq!(lbs(&[b"LB2", b"LB\xFF1"]), format!("{told}\"LB2\", \"LB\\xFF1\""));
        assert_eq!(
            lbs(&[b"7", b"6", b"5", b"4", b"3", b"2", b"1"]),
            format!("{told}\"1\", \"2\", \"3\", \"4\", \"5\" and 2 more")
        );
        let groups = Unmatched::Groups(vec![Pattern::parse("FARM*").unwrap()]);
        let told = "for an hour no group has got its policy from these [[group]] of --members: \"FARM*\"";
        assert_eq!(groups.to_string(), told);
    }
}
