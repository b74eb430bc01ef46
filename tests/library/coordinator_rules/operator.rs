//! What the operator sees and says by the admin side.

use gwm::{
    coordinator::{
        Act, ActRefused, Acted, Answer, Ask, Cursor, Event, EventRow, Filter, Page, Pattern, Saying, Since,
        StateFilter, Time, What, Word, WordRefused,
    },
    judgement::Share,
    sasp::EntryFlags,
};

use super::{
    rig::{HOLD, NOTHING, Rig, WINDOW},
    watched::{DOWN, rate, roster, told, weight, with},
};
use crate::wire::endpoint;

fn word(saying: Saying, pattern: Pattern) -> Act {
    let (reason, by, from) = ("r".into(), "b".into(), "f".into());
    Act::Say(Word { number: 0, saying, pattern, reason, by, from, at: Since::default(), expires: None })
}

fn release(pattern: Pattern) -> Act {
    Act::Release { pattern, by: "operator (b): r".into() }
}

fn group(name: &str) -> Pattern {
    Pattern { group: Some(name.as_bytes().into()), ..Pattern::default() }
}

/// The endpoint with this short name.
fn at(name: &str) -> Pattern {
    let endpoint = endpoint(name);
    Pattern {
        address: Some(endpoint.ip()),
        port: Some(endpoint.port),
        protocol: Some(endpoint.protocol),
        ..Pattern::default()
    }
}

fn act(rig: &mut Rig, act: Act) -> Result<Acted, ActRefused> {
    match rig.admin(Ask::Act(act)) {
        Answer::Acted(done) => done,
        other => panic!("{other:?}"),
    }
}

/// Quiesced and weight of all members, in their order.
fn shown(rig: &mut Rig, filter: Filter) -> Vec<(bool, u16)> {
    let page = Page { after: Cursor::default(), limit: 1000 };
    match rig.admin(Ask::Members(filter, page)) {
        Answer::Members(rows) => {
            let value =
                |row: &gwm::coordinator::MemberRow| (row.entry.flags.contains(EntryFlags::QUIESCED), row.entry.weight);
            rows.rows.iter().map(value).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_word_about_a_group_is_pushed_and_holds_for_later_members() {
    let mut rig = Rig::new();
    let lb = rig.lb("LB1", "push");
    rig.ok(lb, "lb register LB1/G a b");
    assert_eq!(rig.after(WINDOW).len(), 1);
    assert_eq!(act(&mut rig, word(Saying::Quiesce, group("G"))), Ok(Acted { said: Some(1), unsaid: vec![] }));
    assert_eq!(rig.after(WINDOW).len(), 1, "the load balancer hears of it");
    assert_eq!(shown(&mut rig, Filter::default()), [(true, 0), (true, 0)]);
    rig.ok(lb, "lb register LB1/G c");
    rig.ok(lb, "lb register LB1/H a");
    assert_eq!(shown(&mut rig, Filter::default()), [(true, 0), (true, 0), (true, 0), (false, 100)]);
    let one = Pattern { lb_uid: Some(b"LB1"[..].into()), ..at("b") };
    assert_eq!(act(&mut rig, word(Saying::Resume, one)), Ok(Acted { said: Some(2), unsaid: vec![] }));
    assert_eq!(shown(&mut rig, Filter::default())[1], (false, 100));
    assert_eq!(act(&mut rig, word(Saying::Resume, Pattern::default())), Ok(Acted { said: None, unsaid: vec![1, 2] }));
    assert!(shown(&mut rig, Filter::default()).iter().all(|(quiesced, _)| !quiesced));
    let nothing = ActRefused::Word(WordRefused::Nothing);
    assert_eq!(act(&mut rig, word(Saying::Resume, group("G"))), Err(nothing));
}

#[test]
fn groups_that_the_operator_treats_alike_share_one_listing() {
    let mut rig = Rig::new();
    for uid in ["LB1", "LB2", "LB3"] {
        let lb = rig.lb(uid, "push");
        rig.ok(lb, &format!("lb register {uid}/G a b"));
    }
    assert_eq!(rig.listings(), 1);
    act(&mut rig, word(Saying::Quiesce, group("G"))).unwrap();
    assert_eq!(rig.listings(), 1);
    let of_one = Pattern { lb_uid: Some(b"LB2"[..].into()), ..group("G") };
    act(&mut rig, word(Saying::Resume, of_one)).unwrap();
    assert_eq!(rig.listings(), 2);
    act(&mut rig, word(Saying::Resume, Pattern::default())).unwrap();
    rig.after(WINDOW);
    assert_eq!(rig.listings(), 1, "they list the same again");
}

#[test]
fn a_fixed_weight_ends_the_watch_and_a_word_ends_by_itself() {
    let (mut rig, _) = told(with(roster(&[])), "a b");
    rig.judge(&[("a", weight(70)), ("b", DOWN)]);
    assert_eq!(shown(&mut rig, Filter::default()), [(false, 70), (false, 0)]);
    let Act::Say(fix) = word(Saying::Weight(7), at("b")) else { unreachable!() };
    let now = rig.now();
    act(&mut rig, Act::Say(Word { expires: Some(Time(now + 100)), ..fix })).unwrap();
    assert_eq!(rig.take_orders(), ["unwatch b"]);
    assert_eq!(shown(&mut rig, Filter::default()), [(false, 70), (false, 7)]);
    assert!(rig.deadline().is_some_and(|deadline| deadline <= 100), "the coordinator wakes by itself");
    rig.after(100);
    assert_eq!(rig.take_orders(), ["watch b"]);
    assert_eq!(shown(&mut rig, Filter::default())[1], (false, 100), "it is not judged yet");
    let over = act(&mut rig, word(Saying::Weight(101), at("a")));
    assert_eq!(over, Err(ActRefused::Word(WordRefused::Weight(100))));
    act(&mut rig, word(Saying::Weight(0), Pattern { port: None, ..at("a") })).unwrap();
    assert_eq!(act(&mut rig, release(at("a"))), Err(ActRefused::Word(WordRefused::Wider(2))));
    assert_eq!(act(&mut rig, release(Pattern::default())), Ok(Acted { said: None, unsaid: vec![2] }));
}

#[test]
fn a_dropped_load_balancer_is_held_and_can_be_forgotten() {
    let mut rig = Rig::new();
    let lb = rig.lb("LB1", "");
    rig.ok(lb, "lb register LB1/G a");
    let uid: Box<[u8]> = b"LB1"[..].into();
    assert_eq!(act(&mut rig, Act::Forget(uid.clone())), Err(ActRefused::Connected));
    assert_eq!(act(&mut rig, Act::Drop(uid.clone())), Ok(Acted::default()));
    assert_eq!(rig.closes(), [lb]);
    assert_eq!(rig.ask(lb, "lb register LB1/G b"), "11", "the connection speaks for nobody any more");
    assert_eq!(act(&mut rig, Act::Drop(uid.clone())), Err(ActRefused::NotConnected));
    assert_eq!(rig.totals(), [1, 1, 1, 1]);
    assert_eq!(act(&mut rig, Act::Forget(uid.clone())), Ok(Acted::default()));
    assert_eq!(rig.totals(), [0, 0, 0, 0]);
    assert_eq!(act(&mut rig, Act::Forget(uid)), Err(ActRefused::UnknownLb));
    assert_eq!(rig.after(HOLD), NOTHING);
}

#[test]
fn what_is_shown_is_what_is_sent() {
    let (mut rig, lb) = told(with(roster(&[])), "a b c");
    rig.judge(&[("a", rate(100.0)), ("b", rate(50.0)), ("c", DOWN)]);
    let before = shown(&mut rig, Filter::default());
    let reply = rig.ask(lb, "get LB1/G");
    assert!(before.iter().all(|(_, weight)| reply.contains(&format!("{weight}"))), "{before:?} {reply}");
    assert_eq!(shown(&mut rig, Filter::default()), before);
    let state = |state| Filter { state: Some(state), ..Filter::default() };
    assert_eq!(shown(&mut rig, state(StateFilter::Down)), [(false, 0)]);
    assert_eq!(shown(&mut rig, state(StateFilter::Up)).len(), 2);
}

#[test]
fn a_page_is_a_bounded_piece_of_work_whatever_it_looks_for() {
    let settings = gwm::coordinator::Settings {
        max_members_per_group: 65535,
        max_memberships: 100_000,
        max_memberships_per_lb: 100_000,
        ..super::rig::settings()
    };
    let mut rig = Rig::with(settings);
    let lb = rig.lb("LB1", "");
    for hundred in 0..200u8 {
        let letter = char::from(b'a' + hundred % 20);
        let first = u32::from(hundred / 20) * 100 + 1000;
        let members: Vec<String> = (first..first + 100).map(|port| format!("{letter}/{port}")).collect();
        rig.ok(lb, &format!("lb register LB1/G {}", members.join(" ")));
    }
    let filter = Filter { state: Some(StateFilter::Quiesced), ..Filter::default() };
    let (mut after, mut pages) = (Cursor::default(), 0);
    loop {
        let Answer::Members(page) = rig.admin(Ask::Members(filter.clone(), Page { after, limit: 1000 })) else {
            panic!()
        };
        assert!(page.rows.is_empty());
        pages += 1;
        let Some(next) = page.next else { break };
        after = next;
    }
    assert!(pages > 2, "20,000 rows are too many for {pages} pages");
    let page = Page { after: Cursor::default(), limit: usize::MAX };
    let Answer::Members(page) = rig.admin(Ask::Members(Filter::default(), page)) else { panic!() };
    assert!((1..=gwm::limits::ADMIN_ROWS).contains(&page.rows.len()));
    // A cursor from nowhere is no fault.
    for cursor in [Cursor(u64::MAX, u64::MAX), Cursor(0, u64::MAX), Cursor(7, 3)] {
        let page = Page { after: cursor, limit: 10 };
        for ask in [
            Ask::Members(Filter::default(), page),
            Ask::Groups(Filter::default(), page),
            Ask::LoadBalancers(Filter::default(), page),
            Ask::Endpoints(Filter::default(), page),
        ] {
            assert_ne!(rig.admin(ask), Answer::NotFound);
        }
    }
}

#[test]
fn changes_of_an_endpoint_are_kept_and_followed() {
    let mut rig = Rig::with(with(roster(&[])));
    rig.keep_history();
    let Answer::Events { last, .. } = rig.admin(Ask::Events(u64::MAX, 0)) else { panic!() };
    let lb = rig.lb("LB1", "push");
    rig.ok(lb, "lb register LB1/G a");
    rig.take_orders();
    rig.judge(&[("a", weight(70))]);
    rig.judge(&[("a", weight(60))]);
    act(&mut rig, word(Saying::Quiesce, at("a"))).unwrap();
    rig.ok(lb, "lb set LB1/G a=07q");
    let one = |name: &str| {
        let Pattern { address, port, protocol, .. } = at(name);
        Filter { address, port, protocol, ..Filter::default() }
    };
    let Answer::Endpoint(found) = rig.admin(Ask::Endpoint(one("a"))) else { panic!() };
    let (row, full) = *found;
    assert!(row.state.quiesced_by_operator && row.verdicts[0].share == Share::Weight(60));
    let kinds: Vec<&What> = full.history.iter().map(|past| &past.what).collect();
    assert!(
        matches!(kinds[..], [What::Quiesced(_), What::Quiesced(_), What::Verdicts, What::Verdicts, What::Registered]),
        "{kinds:?}"
    );
    assert_eq!(full.history[2].verdicts[0].share, Share::Weight(60));
    assert_eq!(full.words.len(), 1);
    let Answer::Events { events, lost: false, .. } = rig.admin(Ask::Events(last, 1000)) else { panic!() };
    let endpoints = events.iter().filter(|event| matches!(event, EventRow::Endpoint(_))).count();
    assert_eq!(endpoints, 5);
    let bound = Event::LoadBalancer { lb_uid: b"LB1"[..].into(), change: "bound" };
    assert!(events.contains(&EventRow::Other(bound)));
    assert!(events.contains(&EventRow::Other(Event::Words)));
}

/// A load balancer with so many groups of a hundred members, G0, G1 and so on; the pushes are on.
fn with_groups(groups: u32) -> Rig {
    let settings = gwm::coordinator::Settings {
        max_groups_per_lb: 1000,
        max_memberships: 100_000,
        max_memberships_per_lb: 100_000,
        ..super::rig::settings()
    };
    let mut rig = Rig::with(settings);
    let lb = rig.lb("LB1", "push");
    for group in 0..groups {
        let letter = char::from(b'a' + (group / 10) as u8 % 20);
        let first = group / 200 * 1000 + group % 10 * 100 + 1000;
        let members: Vec<String> = (first..first + 100).map(|port| format!("{letter}/{port}")).collect();
        rig.ok(lb, &format!("lb register LB1/G{group} {}", members.join(" ")));
    }
    rig.after(WINDOW);
    rig
}

#[test]
fn words_that_come_steadily_keep_no_push_back_and_all_are_applied() {
    // One loop over all of them takes more than a word and a poll do.
    for of_groups in [false, true] {
        let mut rig = with_groups(150);
        let mut pushed = 0;
        for number in 0..60 {
            let pattern = match of_groups {
                true => group(&format!("G{number}")),
                false => Pattern { port: Some(1000 + number), ..Pattern::default() },
            };
            act(&mut rig, word(Saying::Quiesce, pattern)).unwrap();
            pushed += rig.after(WINDOW).len();
        }
        assert!(pushed >= 10, "{pushed} pushes while words came, of groups: {of_groups}");
        while rig.deadline().is_some_and(|deadline| deadline == 0) {
            rig.after(0);
        }
        let mut quiesced = 0;
        let (filter, mut after) =
            (Filter { state: Some(StateFilter::Quiesced), ..Filter::default() }, Cursor::default());
        loop {
            let Answer::Members(page) = rig.admin(Ask::Members(filter.clone(), Page { after, limit: 1000 })) else {
                panic!()
            };
            quiesced += page.rows.len();
            let Some(next) = page.next else { break };
            after = next;
        }
        let expected = if of_groups { 60 * 100 } else { 60 * 15 };
        assert_eq!(quiesced, expected, "of groups: {of_groups}");
    }
}

#[test]
fn exceptions_end_when_what_they_are_from_ends_by_itself() {
    let mut rig = Rig::new();
    let lb = rig.lb("LB1", "");
    rig.ok(lb, "lb register LB1/G a b");
    let Act::Say(quiesce) = word(Saying::Quiesce, group("G")) else { unreachable!() };
    let now = rig.now();
    act(&mut rig, Act::Say(Word { expires: Some(Time(now + 100)), ..quiesce })).unwrap();
    act(&mut rig, word(Saying::Resume, at("a"))).unwrap();
    assert_eq!(shown(&mut rig, Filter::default()), [(false, 100), (true, 0)]);
    rig.after(100);
    assert_eq!(rig.admin(Ask::Words), Answer::Words(vec![]));
    assert!(shown(&mut rig, Filter::default()).iter().all(|(quiesced, _)| !quiesced));
}
