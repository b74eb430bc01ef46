//! Two nodes changed the same row: three versions of it (what both began with, this node's, the store's) → one.
//!
//! Of a load balancer, the later session counts, and a connection that this node has is a fact. Of a group, what both
//! sides added stays, and what either removed is gone; but of the members that the load balancer registered, and of their
//! states, the side counts in whose session the load balancer spoke last.

use std::{cmp::Ordering, collections::BTreeMap};

use super::rows::{Group, Lb, Stamp};
use crate::{
    coordinator::{GroupChange, Membership},
    limits,
    sasp::Endpoint,
};

/// The load balancer that becomes of three versions. `is_here` says whether a version's connection is one that this node
/// has now.
pub(super) fn merge_lb(
    base: Option<&Lb>,
    mine: Option<&Lb>,
    theirs: Option<&Lb>,
    is_here: impl Fn(&Lb) -> bool,
) -> Option<Lb> {
    if let Some(here) = mine.filter(|mine| is_here(mine)) {
        let taken_over = theirs.is_some_and(|theirs| theirs.session > here.session);
        return if taken_over { theirs.cloned() } else { Some(here.clone()) };
    }
    if mine == base {
        return theirs.cloned();
    }
    if theirs == base {
        return mine.cloned();
    }
    match (mine, theirs) {
        (None, theirs) => theirs.cloned(), // not to forget is the safe side
        // The other side has forgotten it; does it know of the last session?
        (Some(mine), None) => base.is_none_or(|base| mine.session > base.session).then(|| mine.clone()),
        (Some(mine), Some(theirs)) => match mine.session.cmp(&theirs.session) {
            Ordering::Greater => Some(mine.clone()),
            Ordering::Less => Some(theirs.clone()),
            Ordering::Equal => {
                let same = |get: &dyn Fn(&Lb) -> u8| base.is_some_and(|base| get(base) == get(theirs));
                let mut merged = theirs.clone();
                if same(&|lb| lb.health.0) {
                    merged.health = mine.health;
                }
                if same(&|lb| lb.flags.0) {
                    merged.flags = mine.flags;
                }
                Some(merged)
            }
        },
    }
}

/// What becomes of three versions of a group, and how many members of each side did not stay.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) group: Option<Group>,
    /// Members of this node's version that the load balancer's later word dropped.
    pub(super) dropped_mine: usize,
    /// The same of the store's version.
    pub(super) dropped_theirs: usize,
}

/// The group that becomes of three versions. `born` is the present life of the load balancer: a version in the store of
/// another life is void.
pub(super) fn merge_group(
    born: &Stamp,
    base: Option<&Group>,
    mine: Option<&Group>,
    theirs: Option<&Group>,
) -> Merged {
    let theirs = theirs.filter(|theirs| theirs.born == *born);
    let base = base.filter(|base| base.born == *mine.map_or(born, |mine| &mine.born));
    let settled = |group: Option<&Group>| Merged {
        group: group.map(|group| Group { born: born.clone(), ..group.clone() }),
        ..Merged::default()
    };
    if mine == base {
        return settled(theirs);
    }
    if theirs == base {
        return settled(mine);
    }
    let mut merged = Merged::default();
    let index = |group: Option<&Group>| -> BTreeMap<Endpoint, Membership> {
        let members = group.iter().flat_map(|group| &group.members);
        members.map(|member| (member.endpoint, member.clone())).collect()
    };
    let (in_base, in_mine, in_theirs) = (index(base), index(mine), index(theirs));
    // Who spoke last with the load balancer; a side that does not know counts as the other one.
    let last = match (mine, theirs) {
        (Some(mine), Some(theirs)) if mine.session != Stamp::default() && theirs.session != Stamp::default() => {
            mine.session.cmp(&theirs.session)
        }
        _ => Ordering::Equal,
    };
    let mut members = Vec::new();
    for theirs in theirs.iter().flat_map(|theirs| &theirs.members) {
        let base = in_base.get(&theirs.endpoint);
        match (base, in_mine.get(&theirs.endpoint)) {
            (_, Some(mine)) => members.push(merge_member(base, mine, theirs, last)),
            // Removed here, unless the load balancer has registered the member elsewhere in a later session.
            (Some(_), None) if !(last == Ordering::Less && theirs.by_lb) => {}
            (None, None) if last == Ordering::Greater && theirs.by_lb => merged.dropped_theirs += 1,
            (_, None) => members.push(theirs.clone()),
        }
    }
    for mine in mine.iter().flat_map(|mine| &mine.members) {
        match (in_base.get(&mine.endpoint), in_theirs.get(&mine.endpoint)) {
            (_, Some(_)) => {}
            (Some(_), None) if !(last == Ordering::Greater && mine.by_lb) => {}
            (None, None) if last == Ordering::Less && mine.by_lb => merged.dropped_mine += 1,
            (_, None) => members.push(mine.clone()),
        }
    }
    merged.dropped_mine += members.len().saturating_sub(limits::MEMBERS_PER_GROUP as usize);
    members.truncate(limits::MEMBERS_PER_GROUP as usize);
    // A group that one side ended lives on if the other side has put somebody into it, or has begun it.
    let one_sided = mine.is_none() || theirs.is_none();
    if one_sided && members.is_empty() && (base.is_some() || mine.or(theirs).is_none()) {
        return merged;
    }
    let session = [mine, theirs].into_iter().flatten().map(|group| &group.session).max();
    let order = theirs.or(mine).map_or(0, |group| group.order);
    merged.group = Some(Group { born: born.clone(), session: session.cloned().unwrap_or_default(), order, members });
    merged
}

/// A member that both sides have.
fn merge_member(base: Option<&Membership>, mine: &Membership, theirs: &Membership, last: Ordering) -> Membership {
    let mut merged = if last == Ordering::Greater && mine.by_lb { mine.clone() } else { theirs.clone() };
    let of = |member: &Membership| (member.state, member.quiesced);
    let unchanged = |member| base.is_some_and(|base| of(base) == of(member));
    let chosen = match (unchanged(mine), unchanged(theirs)) {
        (false, true) => mine,
        (false, false) if last == Ordering::Greater => mine,
        _ => theirs,
    };
    (merged.state, merged.quiesced) = of(chosen);
    merged
}

/// What turns the members of one version of a group into those of another, if anything has to be done.
pub(super) fn difference(from: Option<&Group>, to: Option<&Group>) -> Option<GroupChange> {
    let (from, to) = match (from, to) {
        (None, None) => return None,
        (None, Some(to)) => return Some(GroupChange::Begun(to.members.clone())),
        (Some(from), None) => {
            return Some(GroupChange::Ended(from.members.iter().map(|member| member.endpoint).collect()));
        }
        (Some(from), Some(to)) => (from, to),
    };
    let mut wanted = to.members.iter().peekable();
    let (mut removed, mut states) = (Vec::new(), Vec::new());
    for member in &from.members {
        // Members join at the end: one that has another place leaves first.
        let stays = wanted.next_if(|wanted| {
            (wanted.endpoint, wanted.by_lb, &wanted.label) == (member.endpoint, member.by_lb, &member.label)
        });
        match stays {
            None => removed.push(member.endpoint),
            Some(to) if (to.state, to.quiesced) != (member.state, member.quiesced) => {
                states.push((to.endpoint, to.state, to.quiesced));
            }
            Some(_) => {}
        }
    }
    let added: Vec<Membership> = wanted.cloned().collect();
    let nothing = removed.is_empty() && added.is_empty() && states.is_empty();
    (!nothing).then_some(GroupChange::Members { removed, added, states })
}

/// Does to a list of members what a coordinator does to a group's.
pub(super) fn change(members: &mut Vec<Membership>, change: &GroupChange) {
    match change {
        GroupChange::Begun(begun) => members.clone_from(begun),
        GroupChange::Ended(_) => members.clear(),
        GroupChange::Members { removed, added, states } => {
            remove(members, removed.iter().copied());
            members.extend(added.iter().cloned());
            set_states(members, states.iter().copied());
        }
    }
}

/// Takes members out of a list.
pub(super) fn remove(members: &mut Vec<Membership>, leaving: impl Iterator<Item = Endpoint>) {
    let leaving: std::collections::BTreeSet<Endpoint> = leaving.collect();
    if !leaving.is_empty() {
        members.retain(|member| !leaving.contains(&member.endpoint));
    }
}

/// Sets states of members of a list.
pub(super) fn set_states(members: &mut [Membership], states: impl Iterator<Item = (Endpoint, u8, bool)>) {
    let states: BTreeMap<Endpoint, (u8, bool)> =
        states.map(|(endpoint, state, quiesced)| (endpoint, (state, quiesced))).collect();
    if !states.is_empty() {
        for member in members {
            if let Some(&given) = states.get(&member.endpoint) {
                (member.state, member.quiesced) = given;
            }
        }
    }
}
