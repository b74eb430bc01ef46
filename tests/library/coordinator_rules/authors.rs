//! Who quiesced, resumed and fixed, and when, as the history and the why have it.

use gwm::{
    coordinator::{
        Act, Answer, Ask, By, EndpointRow, Filter, Full, MemberRow, Pattern, Quiesce, Saying, Since, StateFilter, Time,
        What, Word,
    },
    roster::Member,
};

use super::{
    rig::{Rig, WINDOW, settings},
    watched::{DOWN, roster, told, watched, weight, with},
};
use crate::wire::endpoint;

/// A word of this operator. Its reason is the first letter of the name.
fn word(by: &str, saying: Saying, pattern: Pattern) -> Word {
    let (reason, by, from) = (by[..1].into(), by.into(), "there".into());
    Word { number: 0, saying, pattern, reason, by, from, at: Since::default(), expires: None }
}

fn say(rig: &mut Rig, word: Word) {
    let done = rig.admin(Ask::Act(Act::Say(word)));
    assert!(matches!(done, Answer::Acted(Ok(_))), "{done:?}");
}

fn group(name: &str) -> Pattern {
    Pattern { group: Some(name.as_bytes().into()), ..Pattern::default() }
}

fn at(name: &str) -> Pattern {
    let endpoint = endpoint(name);
    let (port, protocol) = (Some(endpoint.port), Some(endpoint.protocol));
    Pattern { address: Some(endpoint.ip()), port, protocol, ..Pattern::default() }
}

fn filter(name: &str, group: Option<&str>) -> Filter {
    let Pattern { address, port, protocol, .. } = at(name);
    let group = group.map(|group| group.as_bytes().into());
    Filter { address, port, protocol, group, ..Filter::default() }
}

fn in_full(rig: &mut Rig, name: &str) -> (EndpointRow, Full) {
    let Answer::Endpoint(found) = rig.admin(Ask::Endpoint(filter(name, None))) else { panic!("no {name}") };
    *found
}

fn member(rig: &mut Rig, name: &str, group: &str) -> (MemberRow, Full) {
    let Answer::Member(found) = rig.admin(Ask::Member(filter(name, Some(group)))) else { panic!("no {name}") };
    (found.0, found.3)
}

/// What happened last to the endpoint, and by whom.
fn last(rig: &mut Rig, name: &str) -> String {
    match &in_full(rig, name).1.history.first().expect("something happened").what {
        What::Quiesced(who) => format!("quiesced by {who}"),
        What::Resumed(who) => format!("resumed by {who}"),
        What::Fixed(who) => format!("fixed by {who}"),
        What::Released(who) => format!("released by {who}"),
        other => format!("{other:?}"),
    }
}

/// Groups G and H of LB1, which have the members a and b.
fn two_groups(settings: gwm::coordinator::Settings) -> Rig {
    let mut rig = Rig::with(settings);
    rig.keep_history();
    let lb = rig.lb("LB1", "");
    rig.ok(lb, "lb register LB1/G a b");
    rig.ok(lb, "lb register LB1/H a b");
    rig
}

#[test]
fn the_history_names_the_one_whose_word_it_was() {
    let mut rig = two_groups(settings());
    let place = |name| format!("in group \"{name}\" of load balancer \"LB1\"");
    say(&mut rig, word("ann", Saying::Quiesce, at("a")));
    assert_eq!(last(&mut rig, "a"), "quiesced by operator (ann): a");
    // A newer word about the same member in one group is not the one that is ended next.
    say(&mut rig, word("bob", Saying::Quiesce, group("H")));
    assert_eq!(last(&mut rig, "a"), format!("quiesced by operator (bob): b, {}", place("H")));
    say(&mut rig, word("carl", Saying::Resume, at("a")));
    let history = in_full(&mut rig, "a").1.history;
    let resumed: Vec<String> = history
        .iter()
        .filter_map(|past| match &past.what {
            What::Resumed(who) => Some(who.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(resumed, [format!("operator (carl): c, {}", place("H")), "operator (carl): c".into()]);
    // A writer without a name is named by the place.
    say(&mut rig, Word { by: "".into(), ..word("dora", Saying::Quiesce, at("b")) });
    assert_eq!(last(&mut rig, "b"), "quiesced by operator (there): d");
}

#[test]
fn fixed_weights_have_authors_too() {
    let mut rig = two_groups(settings());
    say(&mut rig, word("ann", Saying::Weight(7), at("a")));
    assert_eq!(last(&mut rig, "a"), "fixed by operator (ann): a");
    say(&mut rig, word("bob", Saying::Weight(8), at("a")));
    assert_eq!(last(&mut rig, "a"), "fixed by operator (bob): b");
    let by = "operator (carl): enough".into();
    let done = rig.admin(Ask::Act(Act::Release { pattern: at("a"), by }));
    assert!(matches!(done, Answer::Acted(Ok(_))), "{done:?}");
    assert_eq!(last(&mut rig, "a"), "released by operator (carl): enough");
}

#[test]
fn the_members_file_is_the_author_of_what_it_says() {
    let mut rig = two_groups(settings());
    say(&mut rig, word("ann", Saying::Quiesce, group("H"))); // about the member a, too, but in one group
    let mut file = gwm::roster::Roster::new(Member::unknown(100), gwm::judgement::Policy::Auto);
    assert!(file.add(endpoint("a"), Member { quiesced: true, ..Member::unknown(100) }));
    rig.set_roster(std::sync::Arc::new(file));
    assert_eq!(last(&mut rig, "a"), "quiesced by the members file");
    rig.set_fixed(&[("a", 5)]);
    assert_eq!(last(&mut rig, "a"), "resumed by the members file");
    rig.set_fixed(&[]);
    assert_eq!(last(&mut rig, "a"), "released by the members file");
}

#[test]
fn the_end_of_a_word_is_told_and_kept() {
    let mut rig = two_groups(settings());
    let expires = Some(Time(rig.now() + 100));
    say(&mut rig, Word { expires, ..word("ann", Saying::Quiesce, at("a")) });
    say(&mut rig, Word { expires, ..word("bob", Saying::Quiesce, group("H")) });
    assert!(rig.outbox.expired.is_empty());
    rig.after(100);
    let told = std::mem::take(&mut rig.outbox.expired);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("1 quiesce members with address") && told[1] == "2 quiesce members with group \"H\"");
    let history: Vec<String> = in_full(&mut rig, "a").1.history.iter().map(|past| format!("{:?}", past.what)).collect();
    for name in ["ann", "bob"] {
        assert!(
            history.iter().any(|what| what.contains(&format!("the end of the word of operator ({name})"))),
            "{history:?}"
        );
    }
    // A word that an operator ends is no news of this kind.
    say(&mut rig, word("ann", Saying::Quiesce, at("a")));
    say(&mut rig, word("bob", Saying::Resume, at("a")));
    assert!(rig.outbox.expired.is_empty());
}

#[test]
fn every_quiesce_in_force_has_an_author_and_a_time() {
    let mut rig = two_groups(settings());
    let lb = rig.lb("LB1", "");
    rig.after(WINDOW);
    say(&mut rig, word("ann", Saying::Quiesce, at("a")));
    let first = Some(Time(rig.now()));
    rig.after(WINDOW);
    say(&mut rig, word("bob", Saying::Quiesce, group("H")));
    let second = Some(Time(rig.now()));
    rig.after(WINDOW);
    rig.ok(lb, "lb set LB1/H a=07q");
    let third = Some(Time(rig.now()));
    let by = |name: &str| By::Operator(format!("operator ({name}): {}", &name[..1]).into());
    let expected = [
        Quiesce { by: by("ann"), since: first.map(Since::from) },
        Quiesce { by: by("bob"), since: second.map(Since::from) },
        Quiesce { by: By::Sasp, since: third.map(Since::from) },
    ];
    let (row, full) = member(&mut rig, "a", "H");
    assert_eq!((full.quiesces, row.state.changed_at), (expected.to_vec(), third));
    let (row, full) = member(&mut rig, "a", "G");
    assert_eq!((full.quiesces, row.state.changed_at), (expected[..1].to_vec(), first));
    // Nothing watches the endpoint, and still it is known when it changed.
    let (row, full) = in_full(&mut rig, "a");
    assert_eq!((full.quiesces, row.state.changed_at, row.state.turn), (expected[..1].to_vec(), first, None));
}

#[test]
fn a_doubt_has_a_begin() {
    let (mut rig, _) = told(with(roster(&[("x", watched(100))])), "a b c d");
    let other = rig.lb("LB2", "push");
    rig.ok(other, "lb register LB2/H x");
    rig.take_orders();
    rig.judge(&[("a", weight(50)), ("b", weight(50)), ("c", weight(50)), ("d", weight(50)), ("x", weight(1))]);
    rig.after(WINDOW);
    rig.judge(&[("a", DOWN), ("b", DOWN), ("c", DOWN)]);
    rig.after(WINDOW);
    let began = Some(Time(rig.now()));
    rig.after(WINDOW);
    assert_eq!(member(&mut rig, "a", "G").0.doubted, began);
    assert_eq!(member(&mut rig, "x", "H").0.doubted, None);
}

#[test]
fn a_member_that_nothing_confirms_is_unknown_and_not_up() {
    let mut rig = two_groups(with(roster(&[("b", Member::fixed(7))])));
    let count = |rig: &mut Rig, state| {
        let page = gwm::coordinator::Page { after: Default::default(), limit: 10 };
        let filter = Filter { state: Some(state), group: Some(b"G"[..].into()), ..Filter::default() };
        let Answer::Members(rows) = rig.admin(Ask::Members(filter, page)) else { panic!() };
        rows.rows.len()
    };
    assert_eq!((count(&mut rig, StateFilter::Up), count(&mut rig, StateFilter::Unknown)), (1, 1));
    let page = gwm::coordinator::Page { after: Default::default(), limit: 10 };
    let Answer::Groups(groups) = rig.admin(Ask::Groups(Filter::default(), page)) else { panic!() };
    let row = &groups.rows[0];
    assert_eq!((row.up, row.unknown, row.not_confident, row.drained), (1, 1, 1, 0));
}

#[test]
fn a_member_of_too_many_groups_is_asked_for_by_its_load_balancer() {
    let limits = gwm::coordinator::Settings {
        max_groups: 20_000,
        max_groups_per_lb: 20_000,
        max_memberships_per_lb: 20_000,
        max_memberships: 20_000,
        ..settings()
    };
    let mut rig = Rig::with(limits);
    let lb = rig.lb("LB1", "");
    for number in 0..9000 {
        rig.ok(lb, &format!("lb register LB1/g{number} a"));
    }
    let of = |name| filter("a", Some(name));
    assert!(matches!(rig.admin(Ask::Member(of("g0"))), Answer::Member(_)));
    assert_eq!(rig.admin(Ask::Member(of("g8999"))), Answer::TooMany);
    let named = Filter { lb_uid: Some(b"LB1"[..].into()), ..of("g8999") };
    assert!(matches!(rig.admin(Ask::Member(named)), Answer::Member(_)));
    assert_eq!(rig.admin(Ask::Member(filter("b", Some("g0")))), Answer::NotFound);
}
