//! Two nodes changed the same row: three versions of it (what both began with, this node's, the store's) → one.
//!
//! Of a load balancer, the later session counts, and a connection that this node has is a fact. Of a group, what either
//! side added stays, and what either removed is gone: a load balancer that moved to a node that was behind finds what it
//! told the node before. A node that tried to write a member, and got no answer, has removed the member if the store has it
//! and the node has not. And what a load balancer has deregistered in a later session is gone (`gone`), though the other
//! side has it from an earlier session, which the side that removed it did not know of. If both sides changed the state of a
//! member, the side counts in whose session the load balancer spoke last, else the store's.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    clock::{is_of, is_same, last_session},
    gone::{both_gone, forget_gone, later_gone},
    rows::{Group, Lb, Member, Stamp},
};
use crate::{
    coordinator::{GroupChange, Membership},
    limits,
    sasp::Endpoint,
};

/// The load balancer that becomes of three versions. `is_here` says whether a version's connection is one that this node
/// has now. Its life is the one that the store knows.
pub(super) fn merge_lb(
    base: Option<&Lb>,
    mine: Option<&Lb>,
    theirs: Option<&Lb>,
    is_here: impl Fn(&Lb) -> bool,
) -> Option<Lb> {
    let merged = merge_sessions(base, mine, theirs, is_here)?;
    let born = theirs.map_or_else(|| merged.born.clone(), |theirs| theirs.born.clone());
    Some(Lb { born, ..merged })
}

fn merge_sessions(
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

/// What becomes of three versions of a group.
#[derive(Debug, PartialEq)]
pub(super) struct Merged {
    pub(super) group: Option<Group>,
    /// How many members are too many for it.
    pub(super) dropped: usize,
    /// How many members both sides changed, of which the change of one side did not stay.
    pub(super) overruled: usize,
}

/// What this node alone knows of a group.
#[derive(Debug, Default)]
pub(super) struct Ours {
    /// Registrations that it has written since what both sides began with, or has tried to.
    pub(super) written: BTreeSet<(Endpoint, u64)>,
    /// The node's name.
    pub(super) node: Box<str>,
    /// The load balancer's last session here in which it changed the group: what was registered here and is not in the store
    /// is not of a later one.
    pub(super) spoken: Stamp,
}

/// The group that becomes of three versions. `born` is the present life of the load balancer: a version in the store of
/// another life is void.
pub(super) fn merge_group(
    born: &Stamp,
    base: Option<&Group>,
    mine: Option<&Group>,
    theirs: Option<&Group>,
    ours: &Ours,
) -> Merged {
    let theirs = theirs.filter(|theirs| theirs.born == *born);
    let base = base.filter(|base| base.born == *mine.map_or(born, |mine| &mine.born));
    let settled = |group: Option<&Group>| Merged {
        group: group.map(|group| Group { born: born.clone(), ..group.clone() }),
        dropped: 0,
        overruled: 0,
    };
    let is_written = |member: &Member| ours.written.contains(&(member.membership.endpoint, member.id));
    let they_have_written = theirs.iter().flat_map(|theirs| &theirs.members).any(is_written);
    if mine == base && !they_have_written {
        return settled(theirs);
    }
    if theirs == base {
        return settled(mine);
    }
    // In whose session the load balancer spoke last.
    let session = |group: Option<&Group>| group.map(|group| group.session.clone()).unwrap_or_default();
    let last = session(mine).cmp(&session(theirs));
    let index = |group: Option<&Group>| -> BTreeMap<Endpoint, Member> {
        let members = group.iter().flat_map(|group| &group.members);
        members.map(|member| (member.membership.endpoint, member.clone())).collect()
    };
    let (in_base, in_mine, in_theirs) = (index(base), index(mine), index(theirs));
    // A side lacks a member: it has removed this registration of the member, or never heard of it.
    let is_removed =
        |member: &Member| in_base.get(&member.membership.endpoint).is_some_and(|base| base.id == member.id);
    // A side lacks a member that the load balancer registered on the other side before it deregistered the member here.
    let mut gone_in_mine = later_gone(mine, &session(theirs));
    // In a session at this node, the load balancer spoke to no other node: what the store has of that session is older.
    let of_mine = mine.iter().flat_map(|mine| &mine.gone);
    let here = of_mine.filter(|gone| is_same(&gone.session, &session(theirs)) && is_of(&gone.session, &ours.node));
    gone_in_mine.extend(here.map(|gone| gone.endpoint));
    let gone_in_theirs = later_gone(theirs, &ours.spoken);
    let is_gone = |member: &Member, gone: &BTreeSet<Endpoint>| {
        member.membership.by_lb && gone.contains(&member.membership.endpoint)
    };
    let (mut members, mut overruled) = (Vec::new(), 0);
    for theirs in theirs.iter().flat_map(|theirs| &theirs.members) {
        match in_mine.get(&theirs.membership.endpoint) {
            Some(mine) => {
                let base = in_base.get(&theirs.membership.endpoint);
                let merged = merge_member(base, mine, theirs, last, is_written(mine));
                let is_lost = |side: &Member| {
                    let changed = base.is_none_or(|base| base.membership != side.membership);
                    changed && merged.membership != side.membership
                };
                overruled += usize::from(is_lost(mine) || is_lost(theirs));
                members.push(merged);
            }
            None if is_removed(theirs) || is_written(theirs) => {}
            None if is_gone(theirs, &gone_in_mine) => overruled += 1,
            None => members.push(theirs.clone()),
        }
    }
    for mine in mine.iter().flat_map(|mine| &mine.members) {
        if !in_theirs.contains_key(&mine.membership.endpoint) && !is_removed(mine) {
            if is_gone(mine, &gone_in_theirs) {
                overruled += 1;
            } else {
                members.push(mine.clone());
            }
        }
    }
    let dropped = members.len().saturating_sub(limits::MEMBERS_PER_GROUP as usize);
    members.truncate(limits::MEMBERS_PER_GROUP as usize);
    // A group that one side ended lives on if the other side has put somebody into it, or has begun it.
    let one_sided = mine.is_none() || theirs.is_none();
    let was_there = base.is_some() || they_have_written;
    if one_sided && members.is_empty() && (was_there || mine.or(theirs).is_none()) {
        return Merged { group: None, dropped, overruled };
    }
    let session = match (mine, theirs) {
        (Some(mine), Some(theirs)) => last_session(base.map(|base| &base.session), &mine.session, &theirs.session),
        (one, other) => one.or(other).map(|group| group.session.clone()).unwrap_or_default(),
    };
    let gone = |group: Option<&Group>| group.map(|group| group.gone.clone()).unwrap_or_default();
    let gone = both_gone(&gone(mine), &gone(theirs));
    let mut group = Group { born: born.clone(), session, members, gone };
    forget_gone(&mut group);
    Merged { group: Some(group), dropped, overruled }
}

/// A member that both sides have. `is_written`: this node has tried to write its side.
fn merge_member(base: Option<&Member>, mine: &Member, theirs: &Member, last: Ordering, is_written: bool) -> Member {
    let differs = |side: &Member| base.is_none_or(|base| base.id != side.id);
    // If the store has had it, others may have removed it since, and theirs is a later registration.
    let is_new = differs(mine) && !(is_written && differs(theirs));
    let base = base.filter(|base| base.id == mine.id || base.id == theirs.id);
    let mine_counts = last == Ordering::Greater && mine.membership.by_lb;
    let mut merged = if mine_counts { mine.clone() } else { theirs.clone() };
    if mine.id != theirs.id {
        // Who registered itself, too, does not leave when the load balancer takes its own registration back elsewhere.
        merged.membership.by_lb = mine.membership.by_lb && theirs.membership.by_lb;
    }
    let of = |member: &Member| (member.membership.state, member.membership.quiesced);
    let unchanged = |member| base.is_some_and(|base| of(base) == of(member));
    let chosen = match (unchanged(mine), unchanged(theirs)) {
        (false, true) => mine,
        (false, false) if last == Ordering::Greater => mine,
        _ => theirs,
    };
    (merged.membership.state, merged.membership.quiesced) = of(chosen);
    // A third node may have removed the registration that both began with, but knows nothing of the new one.
    merged.id = if is_new { mine.id } else { theirs.id };
    merged
}

/// What turns the members of one version of a group into those of another, if anything has to be done.
pub(super) fn difference(from: Option<&Group>, to: Option<&Group>) -> Option<GroupChange> {
    let (from, to) = match (from, to) {
        (None, None) => return None,
        (None, Some(to)) => return Some(GroupChange::Begun(memberships(&to.members))),
        (Some(from), None) => {
            return Some(GroupChange::Ended(from.members.iter().map(|member| member.membership.endpoint).collect()));
        }
        (Some(from), Some(to)) => (from, to),
    };
    let mut wanted = to.members.iter().map(|member| &member.membership).peekable();
    let (mut removed, mut states) = (Vec::new(), Vec::new());
    for Member { membership: member, .. } in &from.members {
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

fn memberships(members: &[Member]) -> Vec<Membership> {
    members.iter().map(|member| member.membership.clone()).collect()
}

/// Does to a list of members what a coordinator does to those of a group that is there before and after. The change was
/// made from one list to another; meanwhile the list may have changed in another way, too.
pub(super) fn change(members: &mut Vec<Member>, change: &GroupChange, from: &[Member], to: &[Member]) {
    let GroupChange::Members { removed, added, states } = change else { return };
    remove(members, removed.iter().copied());
    let ids = |list: &[Member]| -> BTreeMap<Endpoint, u64> {
        list.iter().map(|member| (member.membership.endpoint, member.id)).collect()
    };
    let (before, after) = (ids(from), ids(to));
    for Member { id, membership } in members.iter_mut() {
        // Only if nobody has registered the member again meanwhile.
        if before.get(&membership.endpoint) == Some(id) {
            *id = after.get(&membership.endpoint).copied().unwrap_or(*id);
        }
    }
    members.extend(added.iter().map(|membership| Member {
        id: after.get(&membership.endpoint).copied().unwrap_or_default(),
        membership: membership.clone(),
    }));
    set_states(members, states.iter().copied());
}

/// Takes members out of a list.
pub(super) fn remove(members: &mut Vec<Member>, leaving: impl Iterator<Item = Endpoint>) {
    let leaving: BTreeSet<Endpoint> = leaving.collect();
    if !leaving.is_empty() {
        members.retain(|member| !leaving.contains(&member.membership.endpoint));
    }
}

/// Sets states of members of a list.
pub(super) fn set_states(members: &mut [Member], states: impl Iterator<Item = (Endpoint, u8, bool)>) {
    let states: BTreeMap<Endpoint, (u8, bool)> =
        states.map(|(endpoint, state, quiesced)| (endpoint, (state, quiesced))).collect();
    if !states.is_empty() {
        for Member { membership, .. } in members {
            if let Some(&given) = states.get(&membership.endpoint) {
                (membership.state, membership.quiesced) = given;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{clock::unknown, gone::note_gone},
        *,
    };
    use crate::{
        journal::Date,
        sasp::{Health, LbFlags},
    };

    fn stamp(date: u64) -> Stamp {
        Stamp { date: Date(date), node: "a".into() }
    }

    /// A session whose date is right.
    fn session(date: u64) -> Stamp {
        Stamp { node: "a:1:0".into(), ..stamp(date) }
    }

    /// Members by letter and id: `a1 b2`; a `q` at the end quiesces.
    fn group(text: &str) -> Group {
        let member = |word: &str| {
            let (word, quiesced) = word.strip_suffix('q').map_or((word, false), |word| (word, true));
            let endpoint = Endpoint::new([10, 0, 0, word.as_bytes()[0]].into(), 6, 80);
            let membership = Membership { endpoint, by_lb: false, label: Box::default(), state: 0, quiesced };
            Member { id: word[1..].parse().expect("a number"), membership }
        };
        let members = text.split_whitespace().map(member).collect();
        Group { born: stamp(1), session: session(2), members, gone: Vec::new() }
    }

    fn show(group: Option<&Group>) -> String {
        let Some(group) = group else { return "-".into() };
        let member = |Member { id, membership }: &Member| {
            let letter = char::from(membership.endpoint.address[15]);
            format!("{letter}{id}{}", if membership.quiesced { "q" } else { "" })
        };
        group.members.iter().map(member).collect::<Vec<_>>().join(" ")
    }

    fn version(text: &str) -> Option<Group> {
        (text != "-").then(|| group(text))
    }

    #[test]
    fn what_either_side_added_stays_and_what_either_removed_is_gone() {
        for (base, mine, theirs, merged) in [
            ("a1", "a1", "a1 b2", "a1 b2"),
            ("a1", "a1 b2", "a1", "a1 b2"),
            ("a1", "a1 x2", "a1 y3", "a1 y3 x2"),
            ("a1 b2 c3", "a1 c3", "a1 b2", "a1"),
            ("a1", "a1q", "a1 b2", "a1q b2"),
            ("a1q", "a1q b2", "a1", "a1 b2"),
            ("-", "a1", "a2 b3", "a1 b3"), // a third node may have removed a2
            ("a1", "a2", "-", "a2"),       // it left and came back, which the other side did not see
            ("a1", "a2", "", "a2"),
            ("a1 b2", "-", "a1 b2 c3", "c3"),
            ("a1", "-", "a1q", "-"),
            ("a1", "-", "-", "-"),
            ("-", "-", "", ""),
            ("-", "", "-", ""),
            ("a1", "", "a1", ""),
        ] {
            let (base, mine, theirs) = (version(base), version(mine), version(theirs));
            let found = merge_group(&stamp(1), base.as_ref(), mine.as_ref(), theirs.as_ref(), &ours(mine.as_ref()));
            let found = (show(found.group.as_ref()), found.dropped, found.overruled);
            assert_eq!(found, (merged.into(), 0, 0), "{base:?} {mine:?} {theirs:?}");
        }
    }

    #[test]
    fn what_was_perhaps_written_and_removed_since_is_gone() {
        for (base, mine, theirs, merged) in [
            ("a1", "a1", "a1 b2 c3", "a1 c3"),
            ("a1", "a1 d4", "a1 b2 c3", "a1 c3 d4"),
            ("a1", "a1 b5", "a1 b2", "a1 b5"),
            ("-", "-", "b2", "-"),
            ("-", "-", "b2 c3", "c3"),
            ("a1", "a1 b2", "a1", "a1 b2"), // perhaps the store never had it
        ] {
            let versions = [base, mine, theirs].map(version);
            let [base, mine, theirs] = versions.each_ref().map(Option::as_ref);
            let written = group("b2").members.into_iter().map(|member| (member.membership.endpoint, member.id));
            let found = merge_group(&stamp(1), base, mine, theirs, &Ours { written: written.collect(), ..ours(mine) });
            assert_eq!(show(found.group.as_ref()), merged, "{base:?} {mine:?} {theirs:?}");
        }
    }

    #[test]
    fn a_change_that_does_not_stay_is_counted() {
        for (base, mine, theirs, overruled) in
            [("a1 b2", "a1q b2", "a1 b2q", 0), ("a1 b2", "a1q b2", "a1q", 0), ("-", "a1q b2q", "a1 b2q", 1)]
        {
            let (base, mine, theirs) = (version(base), version(mine), version(theirs));
            let found = merge_group(&stamp(1), base.as_ref(), mine.as_ref(), theirs.as_ref(), &ours(mine.as_ref()));
            assert_eq!(found.overruled, overruled, "{base:?} {mine:?} {theirs:?} {found:?}");
        }
    }

    /// As [`group`], of members that the load balancer registered; last in this session.
    /// The load balancer spoke here last.
    fn ours(mine: Option<&Group>) -> Ours {
        let spoken = mine.map(|mine| mine.session.clone()).unwrap_or_default();
        Ours { spoken, ..Ours::default() }
    }

    fn group_by_lb(text: &str, date: u64) -> Group {
        let mut group = group(text);
        group.members.iter_mut().for_each(|member| member.membership.by_lb = true);
        group.session = session(date);
        group
    }

    #[test]
    fn what_the_load_balancer_removed_in_a_later_session_is_gone() {
        let base = group_by_lb("a1", 2);
        let earlier = group_by_lb("a1 x2", 2);
        let mut later = group_by_lb("a1 x3", 3);
        let x = later.members.pop().expect("two members");
        note_gone(&mut later, &session(3), [x.membership.endpoint].into_iter());
        for (mine, theirs) in [(&earlier, &later), (&later, &earlier)] {
            let found = merge_group(&stamp(1), Some(&base), Some(mine), Some(theirs), &ours(Some(mine)));
            assert_eq!((show(found.group.as_ref()), found.overruled), ("a1".into(), 1));
            assert_eq!(found.group.expect("a stays").gone, later.gone, "others may have it, too");
        }
        // Not if the load balancer spoke there later, if a member registered itself, or if nobody knows the order of sessions.
        let latest = group_by_lb("a1 x2", 4);
        let by_member = Group { session: session(2), ..group("a1 x2") };
        let of_disk = Group { session: unknown(), ..earlier.clone() };
        let near = Group { session: Stamp { node: "b:1:9".into(), ..stamp(2) }, ..earlier.clone() };
        let of_another_era = Group { session: Stamp { node: "b:2:0".into(), ..stamp(2) }, ..earlier.clone() };
        for other in [&latest, &by_member, &of_disk, &near, &of_another_era] {
            let found = merge_group(&stamp(1), Some(&base), Some(other), Some(&later), &ours(Some(other)));
            assert!(show(found.group.as_ref()).contains("x2"), "{other:?}");
        }
        // Nor if a member has registered itself, too.
        let (one, other) = (group_by_lb("a1 x2", 2), group("a1 x4"));
        for (mine, theirs) in [(&one, &other), (&other, &one)] {
            let both = merge_group(&stamp(1), Some(&base), Some(mine), Some(theirs), &ours(Some(mine))).group;
            let found = merge_group(&stamp(1), Some(&base), Some(&later), both.as_ref(), &ours(Some(&later)));
            assert!(show(found.group.as_ref()).contains('x'), "{both:?}");
        }
        // What is registered again is not gone.
        later.members.push(x);
        forget_gone(&mut later);
        assert_eq!(later.gone, []);
    }

    /// What was written of an earlier session beside a later one, which has just removed it.
    #[test]
    fn what_the_load_balancer_removed_in_its_last_session_is_gone_for_the_node_of_that_session() {
        let base = group_by_lb("a1", 2);
        let theirs = group_by_lb("a1 x2", 4);
        let mut mine = group_by_lb("a1", 4);
        note_gone(&mut mine, &session(4), [theirs.members[1].membership.endpoint].into_iter());
        let merge = |node: &str, mine, theirs| {
            let ours = Ours { node: node.into(), ..ours(Some(mine)) };
            show(merge_group(&stamp(1), Some(&base), Some(mine), Some(theirs), &ours).group.as_ref())
        };
        assert_eq!(merge("a", &mine, &theirs), "a1");
        assert_eq!(merge("b", &mine, &theirs), "a1 x2", "the other node may have registered it again");
        // Here it was registered again.
        assert_eq!(merge("a", &theirs, &mine), "a1 x2");
    }

    /// A third node may have removed the old registration.
    #[test]
    fn the_newer_registration_counts_whose_session_is_later() {
        for dates in [(3, 4), (4, 3)] {
            let base = group_by_lb("a1", 2);
            let (mine, theirs) = (group_by_lb("a1 b1", dates.0), group_by_lb("a2", dates.1));
            let merge =
                |mine, theirs| merge_group(&stamp(1), Some(&base), Some(mine), Some(theirs), &ours(Some(mine))).group;
            assert_eq!(show(merge(&mine, &theirs).as_ref()), "a2 b1");
            assert_eq!(show(merge(&theirs, &mine).as_ref()), "a2 b1");
        }
    }

    /// Others may have removed what the store had, and the store may have had what this node has tried to write.
    #[test]
    fn of_two_new_registrations_the_one_that_the_store_has_counts_if_this_one_was_sent() {
        let (base, mine, theirs) = (group("b1"), group("a2 b1"), group("a3 b1"));
        let known = |of: &Group| of.members.iter().map(|member| (member.membership.endpoint, member.id)).collect();
        for (sent, expected) in [(&base, "a2 b1"), (&mine, "a3 b1")] {
            let ours = Ours { written: known(sent), ..ours(Some(&mine)) };
            let found = merge_group(&stamp(1), Some(&base), Some(&mine), Some(&theirs), &ours).group;
            assert_eq!(show(found.as_ref()), expected);
        }
        // The store has what both began with, so this one is newer.
        let ours = Ours { written: known(&mine), ..ours(Some(&mine)) };
        let (base, theirs) = (group("a1 b1"), group("a1 b1 c1"));
        let found = merge_group(&stamp(1), Some(&base), Some(&mine), Some(&theirs), &ours).group;
        assert_eq!(show(found.as_ref()), "a2 b1 c1");
    }

    #[test]
    fn groups_of_a_former_life_are_void() {
        let old = group("a1");
        let born = stamp(5);
        let mine = Group { born: born.clone(), ..group("a2") };
        let found = merge_group(&born, Some(&old), Some(&mine), Some(&old), &ours(Some(&mine)));
        assert_eq!(found.group, Some(mine));
        assert_eq!(merge_group(&born, Some(&old), None, Some(&old), &ours(None)).group, None);
        // Of a life that others have ended, what this node alone heard stays.
        let mine = group("a1 b2");
        let found =
            merge_group(&born, Some(&old), Some(&mine), None, &ours(Some(&mine))).group.expect("somebody is in it");
        assert_eq!((show(Some(&found)), found.born), ("b2".into(), born));
    }

    #[test]
    fn a_difference_makes_one_version_from_another() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..2000 {
            let some = |random: &mut fastrand::Rng| {
                let mut letters: Vec<char> = ('a'..='g').filter(|_| random.bool()).collect();
                random.shuffle(&mut letters);
                let words = letters
                    .iter()
                    .map(|letter| format!("{letter}{}{}", random.u8(1..4), if random.bool() { "q" } else { "" }));
                group(&words.collect::<Vec<_>>().join(" "))
            };
            let (from, to) = (some(&mut random), some(&mut random));
            let mut members = from.members.clone();
            if let Some(difference) = difference(Some(&from), Some(&to)) {
                change(&mut members, &difference, &from.members, &to.members);
                assert_eq!(show(Some(&Group { members, ..to.clone() })), show(Some(&to)));
            } else {
                let without_ids = |group: &Group| memberships(&group.members);
                assert_eq!(without_ids(&from), without_ids(&to));
            }
        }
    }

    fn lb(session: u64, held_until: Option<u64>, health: u8) -> Lb {
        let (health, flags, held_until) = (Health(health), LbFlags::NONE, held_until.map(Date));
        Lb { born: stamp(1), session: stamp(session), incarnation: 1, held_until, health, flags }
    }

    #[test]
    fn the_later_session_counts_and_a_connection_here_is_a_fact() {
        let merge =
            |base: &Lb, mine: Option<&Lb>, theirs: Option<&Lb>, here| merge_lb(Some(base), mine, theirs, |_| here);
        let (base, later) = (lb(2, None, 1), lb(3, None, 2));
        let held = lb(2, Some(9), 1);
        assert_eq!(merge(&base, Some(&base), Some(&later), false).as_ref(), Some(&later));
        assert_eq!(merge(&base, Some(&base), Some(&later), true).as_ref(), Some(&later), "taken over");
        assert_eq!(merge(&base, Some(&base), Some(&held), true).as_ref(), Some(&base), "it is connected");
        assert_eq!(merge(&base, Some(&base), None, true).as_ref(), Some(&base), "it is connected");
        assert_eq!(merge(&base, Some(&base), None, false), None, "forgotten elsewhere");
        assert_eq!(merge(&base, None, Some(&base), false), None, "forgotten here");
        assert_eq!(merge(&base, None, Some(&later), false).as_ref(), Some(&later), "but it came back there");
        assert_eq!(merge(&base, Some(&later), None, false).as_ref(), Some(&later), "or here");
        assert_eq!(merge(&base, Some(&held), None, false), None);
        let healthy = lb(2, None, 7);
        let both = merge(&base, Some(&healthy), Some(&held), false).expect("nobody forgot it");
        assert_eq!((both.health, both.held_until), (Health(7), Some(Date(9))));
    }
}
