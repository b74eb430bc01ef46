//! Members that a load balancer has deregistered: a node that was cut off may have them from an earlier session.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    clock::is_later,
    rows::{GONE, Gone, Group, Stamp},
};
use crate::sasp::Endpoint;

/// What the load balancer has deregistered on one side after its last word on the other side, for certain; `last` is the
/// session in which it spoke there last.
pub(super) fn later_gone(one: Option<&Group>, last: &Stamp) -> BTreeSet<Endpoint> {
    let gone = one.iter().flat_map(|group| &group.gone);
    gone.filter(|gone| is_later(&gone.session, last)).map(|gone| gone.endpoint).collect()
}

/// The load balancer has deregistered members of the group in this session.
pub(super) fn note_gone(group: &mut Group, session: &Stamp, leaving: impl Iterator<Item = Endpoint>) {
    let now = leaving.map(|endpoint| Gone { session: session.clone(), endpoint });
    group.gone = both_gone(&group.gone, &now.collect::<Vec<_>>());
}

/// What is gone by two lists: of each member the later one counts, and of all the last ones.
pub(super) fn both_gone(one: &[Gone], other: &[Gone]) -> Vec<Gone> {
    let mut last: BTreeMap<Endpoint, &Gone> = BTreeMap::new();
    for gone in one.iter().chain(other) {
        let known = last.entry(gone.endpoint).or_insert(gone);
        if gone > *known {
            *known = gone;
        }
    }
    let mut gone: Vec<Gone> = last.into_values().cloned().collect();
    gone.sort_unstable();
    gone.drain(..gone.len().saturating_sub(GONE));
    gone
}

/// What the load balancer has registered again is not gone.
pub(super) fn forget_gone(group: &mut Group) {
    if !group.gone.is_empty() {
        let by_lb = group.members.iter().filter(|member| member.membership.by_lb);
        let there: BTreeSet<Endpoint> = by_lb.map(|member| member.membership.endpoint).collect();
        group.gone.retain(|gone| !there.contains(&gone.endpoint));
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::rows::{Content, RowKey},
        *,
    };
    use crate::journal::{Date, Epoch};

    #[test]
    fn only_so_many_are_known_to_be_gone_and_they_are_read_as_they_were_written() {
        let session = |date| Stamp { date: Date(date), node: "a:1:0".into() };
        let mut group = Group { born: session(1), session: session(3), members: Vec::new(), gone: Vec::new() };
        for (date, ports) in [(2, 0..200), (3, 100..400)] {
            note_gone(&mut group, &session(date), ports.map(|port| Endpoint::new([10, 0, 0, 1].into(), 6, port)));
        }
        assert_eq!(group.gone.len(), GONE);
        assert!(group.gone.iter().all(|gone| gone.session == session(3)), "the last ones");
        let content = Content::Group(group);
        let key = RowKey::Group([1].into(), [1].into());
        assert_eq!(Content::read(&key, &content.write(), Epoch::default()), Ok(content));
    }
}
