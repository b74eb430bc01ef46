use std::time::SystemTime;

use super::{super::rows::reason, *};
use crate::{
    coordinator::{By, EndpointState},
    judgement::{StandingChange, Verdict},
    roster::Times,
    sasp::{Endpoint, WeightEntry},
};

const CALENDAR: Calendar = Calendar { zero: SystemTime::UNIX_EPOCH, words_survive: false };

fn verdict(flags: EntryFlags, weight: u16) -> Verdict {
    Verdict { flags, share: Share::Weight(weight) }
}

/// An endpoint with capacity 100 that stands so, and shows this weight.
fn row(stand: Stand, weight: u16) -> EndpointRow {
    let change = StandingChange { from: Stand::Unknown, to: stand, kind: "test", reason: "because".into() };
    EndpointRow {
        state: EndpointState {
            endpoint: Endpoint::new([10, 0, 0, 1].into(), 6, 80),
            watched: true,
            stand,
            found_by: FoundBy::Own,
            turn: Some((Time(0), change)),
            changed_at: None,
            quiesced_by_file: false,
            quiesced_by_operator: false,
            fixed_by: None,
            blind: false,
        },
        answers: true,
        verdicts: [verdict(EntryFlags::CONTACT | EntryFlags::CONFIDENT, weight); 4],
        capacity: 100,
        capacity_stated: false,
        groups: 1,
        shard: Some(0),
    }
}

/// The same as a member of a group, with this entry.
fn member(row: &EndpointRow, flags: EntryFlags, weight: u16, doubted: Option<Time>) -> MemberRow {
    MemberRow {
        lb_uid: b"LB1"[..].into(),
        group: b"web"[..].into(),
        label: b""[..].into(),
        entry: WeightEntry { state: 0, flags, weight },
        state: row.state.clone(),
        policy: Policy::Static,
        doubted,
        quiesced_by_member: false,
        quiesced_here: false,
    }
}

fn factors(made: u32, good: u32) -> Factors {
    Factors {
        capacity: 100,
        health: (HISTORY - made + good) as f32 / HISTORY as f32,
        made,
        good,
        ramp: None,
        availability: None,
        agent_at: None,
        drained: false,
        rate: None,
        load_at: None,
        lifetime: std::time::Duration::from_secs(6),
        checks: Vec::new(),
    }
}

fn full(quiesces: Vec<Quiesce>) -> Full {
    Full { watch: None, history: Vec::new(), words: Vec::new(), quiesces }
}

fn text(row: &EndpointRow, member: Option<&MemberRow>, quiesces: Vec<Quiesce>, factors: Option<&Factors>) -> String {
    Why::new(row, member, &full(quiesces), factors, &CALENDAR).text
}

#[test]
fn checks_that_were_not_made_are_not_counted_as_made() {
    let source = |made, good| health(&factors(made, good), Stand::Up).source;
    assert_eq!(source(0, 0), "no check was made while it was up");
    let few = "2 of 3 checks while it was up passed; 29 more, which are not made yet, count as passed";
    assert_eq!(source(3, 2), few);
    assert_eq!(source(32, 31), "31 of the last 32 checks while it was up passed");
    assert_eq!(health(&factors(3, 2), Stand::Up).value, 0.9688);
    let Factor { value, source, .. } = health(&factors(3, 0), Stand::Down);
    let down = "0 of 3 checks before the member was down passed; 29 more, which are not made yet, count as passed; the \
                health counts again when the member is up";
    assert_eq!((value, source.as_str()), (0.9063, down));
    let down =
        "29 of the last 32 checks before the member was down passed; the health counts again when the member is up";
    assert_eq!(health(&factors(32, 29), Stand::Down).source, down);
}

#[test]
fn without_a_verdict_it_is_said_how_many_checks_failed() {
    let row = row(Stand::Unknown, 100);
    let mut factors = factors(0, 0);
    let told = |factors: &Factors| text(&row, None, Vec::new(), Some(factors));
    let none = "weight = 100 = 100 (capacity); no verdict yet: no check has given a result";
    assert_eq!(told(&factors), none);
    let check = |against| CheckRow {
        endpoint: row.state.endpoint,
        kind: "tcp",
        state: "failing",
        up: true,
        against,
        times: Times::default(),
        last_failure: None,
    };
    factors.checks = vec![check(0), check(1)];
    let one = "weight = 100 = 100 (capacity); no verdict yet: 1 check failed in a row, and 3 make it down";
    assert_eq!(told(&factors), one);
    factors.checks = vec![check(2), check(1)];
    let two = "weight = 100 = 100 (capacity); no verdict yet: 2 checks failed in a row, and 3 make it down";
    assert_eq!(told(&factors), two);
    let source = "0 of 2 checks passed; 30 more, which are not made yet, count as passed; the health does not count without a verdict";
    assert_eq!(health(&Factors { made: 2, good: 0, ..factors }, Stand::Unknown).source, source);
}

#[test]
fn a_quiesce_is_a_factor_with_its_authors() {
    let row = row(Stand::Up, 97);
    let anna = Quiesce { by: By::Operator("operator (anna): fan".into()), since: Some(Time(5_000_000_000).into()) };
    let both = vec![anna, Quiesce { by: By::Sasp, since: None }];
    let factors = factors(32, 31);
    let formula = "100 (capacity) x 1 (availability) x 0.9688 (health) x 1 (ramp)";
    let who =
        "quiesced by operator (anna): fan and SASP (the member or its load balancer) since 1970-01-01T00:00:05.000Z";
    assert_eq!(text(&row, None, both.clone(), Some(&factors)), format!("weight = 0 = {formula} x 0 ({who})"));
    let plain = text(&row, None, Vec::new(), Some(&factors));
    let told = "it is at least 1, and a change within --dead-band is not told";
    assert_eq!(plain, format!("weight = 97 = {formula}; {told}"));
    let down = EndpointRow { state: EndpointState { stand: Stand::Down, ..row.state.clone() }, ..row };
    assert_eq!(text(&down, None, both, Some(&factors)), format!("weight = 0: {who}; besides, it is down"));
}

#[test]
fn what_is_not_watched_has_its_capacity() {
    let mut row = row(Stand::Unknown, 100);
    row.state.watched = false;
    assert_eq!(text(&row, None, Vec::new(), None), "weight = 100 = 100 (capacity); nothing watches the endpoint");
    let file = Quiesce { by: By::File, since: None };
    let quiesced = "weight = 0 = 100 (capacity) x 0 (quiesced by the members file)";
    assert_eq!(text(&row, None, vec![file], None), quiesced);
    row.state.fixed_by = Some(FixedBy::File);
    assert_eq!(text(&row, None, Vec::new(), None), "weight = 100 = 100 (fixed); nothing is checked");
    row.state = EndpointState { watched: true, fixed_by: None, ..row.state };
    let silent = "weight = 100: its shard does not say now what the checks found";
    assert_eq!(text(&row, None, Vec::new(), None), silent);
}

#[test]
fn what_others_found_is_no_product_of_what_this_node_knows() {
    let up = row(Stand::Up, 40);
    let state = |found_by| EndpointState { found_by, turn: None, ..up.state.clone() };
    let fleet = EndpointRow { state: state(FoundBy::Fleet), ..up.clone() };
    let by_fleet = "another node of the fleet found so";
    assert_eq!(text(&fleet, None, Vec::new(), None), format!("weight = 40: {by_fleet}"));
    assert_eq!(reason(&fleet.state, &[], false), format!("up: {by_fleet}"));
    let earlier = EndpointRow { state: state(FoundBy::Earlier), ..up.clone() };
    let as_before = "as before the restart, and no check has a verdict yet";
    assert_eq!(text(&earlier, None, Vec::new(), Some(&factors(0, 0))), format!("weight = 40: {as_before}"));
    assert_eq!(reason(&earlier.state, &[], false), format!("up: {as_before}"));
    assert_eq!(reason(&up.state, &[], false), "up: because");
    let early = EndpointState { stand: Stand::Unknown, ..state(FoundBy::Early) };
    let first = "its first check failed, which counts only after a fall window";
    assert_eq!(reason(&early, &[], false), format!("unknown: {first}"));
    let early = EndpointRow { state: early, ..up };
    assert_eq!(text(&early, None, Vec::new(), Some(&factors(0, 0))), format!("weight = 40: {first}"));
}

#[test]
fn doubt_and_blindness_say_why_a_member_that_is_down_has_weight() {
    let mut row = row(Stand::Down, 0);
    let factors = factors(3, 0);
    let began = Some(Time(7_000_000_000));
    let of = |row: &EndpointRow, flags, weight, doubted| {
        text(row, Some(&member(row, flags, weight, doubted)), Vec::new(), Some(&factors))
    };
    let effect = "members that were lost lately keep contact and weight, and no member is confident";
    let doubt = format!("the group is in doubt since 1970-01-01T00:00:07.000Z: {effect}");
    let kept = format!("weight = 40: it is down, and keeps the last weight that it had; {doubt}");
    assert_eq!(of(&row, EntryFlags::CONTACT, 40, began), kept);
    assert_eq!(of(&row, EntryFlags::NONE, 0, began), format!("weight = 0: it is down; {doubt}"), "lost before");
    assert_eq!(of(&row, EntryFlags::CONFIDENT, 0, None), "weight = 0: it is down");
    row.state.blind = true;
    let blind = format!("the daemon is blind, or recovers, where it is: {effect}");
    let kept = format!("weight = 40: it is down, and keeps the last weight that it had; {blind}");
    assert_eq!(of(&row, EntryFlags::CONTACT, 40, None), kept);
}

#[test]
fn a_capacity_says_who_stated_it() {
    let mut row = row(Stand::Up, 100);
    let source = |row: &EndpointRow| capacity_source(row, &full(Vec::new()));
    assert_eq!(source(&row), "--weight-max, because no members file states a weight for it");
    row.capacity_stated = true;
    assert_eq!(source(&row), "the weight in the members file");
    row.state.fixed_by = Some(FixedBy::File);
    assert_eq!(source(&row), "the fixed weight in the members file");
}

#[test]
fn what_an_agent_and_load_reports_state_says_whether_it_counts() {
    let at = Time(5_000_000_000);
    let stated = |value, special, smoothed, fresh| Some(Stated { value, at, special, smoothed, fresh });
    let agent = |stated, policy| {
        let factors = Factors { availability: stated, ..factors(0, 0) };
        let factor = availability(&factors, policy, &CALENDAR).expect("it was stated");
        (factor.value, factor.source, factor.at)
    };
    let when = Some("1970-01-01T00:00:05.000Z".to_owned());
    let half = |words: &str| (0.5, words.to_owned(), when.clone());
    assert_eq!(agent(stated(50.0, true, false, true), Policy::Auto), half("the agent states 50%"));
    assert_eq!(agent(stated(50.0, false, false, true), Policy::Agent), half("the agent states 50 as a weight"));
    let swings = "the agent states 50%, smoothed because the statements swing; too old to count (--report-lifetime)";
    assert_eq!(agent(stated(50.0, true, true, false), Policy::Auto), half(swings));
    let other = "the agent states 50%; this policy does not count it";
    assert_eq!(agent(stated(50.0, true, false, true), Policy::Static), half(other));
    let load = |stated, policy| {
        let factors = Factors { rate: stated, ..factors(0, 0) };
        let factor = rate(&factors, policy, &CALENDAR).expect("it was stated");
        (factor.value, factor.source, factor.at)
    };
    let reports = "rps / (utilisation + errors) of load reports, smoothed";
    assert_eq!(load(stated(0.5, false, true, true), Policy::Orca), half(reports));
    let alone = "1 / utilisation of load reports, which state no rate; this policy does not count it";
    assert_eq!(load(stated(0.5, true, true, true), Policy::Agent), half(alone));
    assert!(availability(&factors(0, 0), Policy::Auto, &CALENDAR).is_none());
    assert!(rate(&factors(0, 0), Policy::Auto, &CALENDAR).is_none());
}
