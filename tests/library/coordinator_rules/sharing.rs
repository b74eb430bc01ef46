//! What load balancers have in common is kept once, and sent from one place: the count of listings, and bodies.

use std::collections::BTreeMap;

use gwm::coordinator::Settings;

use super::rig::{Peer, Rig, WINDOW, settings};

/// Enough members for a body.
const MEMBERS: &str = "a b c d e f g h i j k l m n o p q r s t";

fn rig() -> Rig {
    Rig::with(Settings {
        max_memberships: 100_000,
        max_memberships_per_lb: 10_000,
        max_members_per_group: 1_000,
        ..settings()
    })
}

/// LBs of these flags on connections 0 to 2 that have registered the same members, and whose trust lets members speak.
fn farm(flags: &str) -> Rig {
    let mut rig = rig();
    for uid in ["LB1", "LB2", "LB3"] {
        let lb = rig.lb(uid, &format!("trust {flags}"));
        rig.ok(lb, &format!("lb register {uid}/G {MEMBERS}"));
    }
    rig
}

/// How many bodies the messages since the last call had, and how many of these were different ones.
fn bodies(rig: &mut Rig) -> (usize, usize) {
    let bodies = std::mem::take(&mut rig.outbox.bodies);
    let mut places: Vec<_> = bodies.iter().map(|body| body.as_ptr()).collect();
    places.sort_unstable();
    places.dedup();
    (bodies.len(), places.len())
}

#[test]
fn pushes_of_one_farm_have_one_body() {
    let mut rig = farm("push");
    assert_eq!(rig.after(WINDOW).len(), 3);
    assert_eq!(bodies(&mut rig), (3, 1));
    rig.set_fixed(&[("a", 7)]);
    let pushes = rig.after(WINDOW);
    assert_eq!(bodies(&mut rig), (3, 1));
    for (peer, push) in pushes.iter().enumerate() {
        assert!(push.starts_with(&format!("#{peer} LB{}/G[a 00/0D/7 b 00/05/100 c ", peer + 1)), "{push}");
    }
    // With its own quiesce an LB has its own entries, and shares them with nobody.
    rig.ok(1, "lb set LB2/G b=00q");
    assert_eq!(rig.listings(), 2);
    rig.set_fixed(&[("a", 8)]);
    assert_eq!(rig.after(WINDOW).len(), 3);
    assert_eq!(bodies(&mut rig), (2, 1));
    // Then another LB does the same, and both share.
    rig.ok(2, "lb set LB3/G b=00q");
    assert_eq!(rig.listings(), 2);
    rig.set_fixed(&[("a", 9)]);
    let pushes = rig.after(WINDOW);
    assert_eq!(bodies(&mut rig), (2, 1));
    assert!(pushes[0].contains(" b 00/05/100 ") && pushes[1].contains(" b 00/07/0 "), "{pushes:?}");
    // Back to what all have.
    rig.ok(1, "lb set LB2/G b=00");
    rig.ok(2, "lb set LB3/G b=00");
    assert_eq!(rig.listings(), 1);
    assert_eq!(rig.after(WINDOW).len(), 2);
    assert_eq!(bodies(&mut rig), (2, 1));
}

#[test]
fn changes_are_encoded_once_for_those_that_were_sent_the_same() {
    let mut rig = farm("push nochange");
    rig.after(WINDOW);
    assert_eq!(bodies(&mut rig), (3, 1), "the first time, all is new");
    let changed: Vec<String> = MEMBERS.split(' ').take(17).map(|member| format!("{member}=01")).collect();
    for uid in ["LB1", "LB2", "LB3"] {
        rig.ok(0, &format!("member set {uid}/G {}", changed.join(" ")));
    }
    assert_eq!(rig.listings(), 1, "the members say the same in every group");
    let pushes = rig.after(WINDOW);
    assert_eq!(bodies(&mut rig), (3, 1));
    assert!(pushes.iter().all(|push| push.ends_with("q 01/05/100]")), "{pushes:?}");
    // LB2 asks in between: it was sent something else than the others.
    let weights: Vec<(&str, u16)> = MEMBERS.split(' ').map(|member| (member, 5)).collect();
    rig.set_fixed(&weights);
    rig.ask(1, "get LB2/G");
    rig.set_fixed(&weights.iter().map(|(member, _)| (*member, if *member == "t" { 6 } else { 7 })).collect::<Vec<_>>());
    rig.ask(1, "get LB2/G");
    bodies(&mut rig);
    rig.set_fixed(&weights);
    let pushes = rig.after(WINDOW);
    assert_eq!(pushes.len(), 3);
    assert_eq!(bodies(&mut rig), (3, 2), "entries of LB1 and LB3 differ from those of LB2 by what was sent before");
    // What went away and came back between two sends is unchanged.
    rig.set_fixed(&[]);
    rig.set_fixed(&weights);
    assert_eq!(rig.after(WINDOW), Vec::<String>::new());
}

#[test]
fn replies_share_too_and_a_group_before_the_last_is_copied() {
    let mut rig = farm("");
    for (peer, uid) in ["LB1", "LB2", "LB3"].into_iter().enumerate() {
        rig.ask(peer, &format!("get {uid}/"));
    }
    assert_eq!(bodies(&mut rig), (3, 1));
    for (peer, uid) in ["LB1", "LB2", "LB3"].into_iter().enumerate() {
        rig.ok(peer, &format!("lb register {uid}/H {MEMBERS}"));
        rig.ok(peer, &format!("lb register {uid}/I a"));
    }
    assert_eq!(rig.listings(), 2, "G and H list the same");
    let reply = rig.ask(0, "get LB1/");
    let members: Vec<String> = MEMBERS.split(' ').map(|member| format!("{member} 00/05/100")).collect();
    let members = members.join(" ");
    assert_eq!(reply, format!("00 LB1/G[{members}] LB1/H[{members}] LB1/I[a 00/05/100]"));
    assert_eq!(bodies(&mut rig).0, 0, "the last group is short");
    assert_eq!(rig.ask(0, "get LB1/I + LB1/G"), format!("00 LB1/I[a 00/05/100] LB1/G[{members}]"));
    assert_eq!(bodies(&mut rig).0, 1);
}

/// Brings a group from nothing to these members, each with its state, in some way.
fn bring_about(rig: &mut Rig, rng: &mut fastrand::Rng, lb: Peer, group: &str, content: &[(&str, &str)]) {
    let all: Vec<&str> = content.iter().map(|(member, _)| *member).collect();
    match rng.u8(0..4) {
        0 => rig.ok(lb, &format!("lb register {group} {}", all.join(" "))),
        1 => all.iter().for_each(|member| rig.ok(lb, &format!("lb register {group} {member}"))),
        2 => {
            // Others are there first and in between, and leave.
            rig.ok(lb, &format!("lb register {group} v w"));
            let middle = rng.usize(0..=all.len());
            let mut more = all.clone();
            more.insert(middle, "x");
            rig.ok(lb, &format!("lb register {group} {}", more.join(" ")));
            rig.after(rng.u64(0..2 * WINDOW));
            for part in if rng.bool() { vec!["x v w"] } else { vec!["w", "x", "v"] } {
                rig.ok(lb, &format!("lb deregister {group} {part}"));
            }
        }
        _ => {
            // All is removed and made again.
            rig.ok(lb, &format!("lb register {group} v {}", all.join(" ")));
            rig.after(rng.u64(0..2 * WINDOW));
            rig.ok(lb, &format!("lb deregister {group}"));
            rig.ok(lb, &format!("lb register {group} {}", all.join(" ")));
        }
    }
    let mut states: Vec<&(&str, &str)> = content.iter().filter(|(_, state)| *state != "00").collect();
    rng.shuffle(&mut states);
    let who = if rng.bool() { "lb" } else { "member" };
    for (member, state) in states {
        if rng.bool() {
            rig.ok(lb, &format!("{who} set {group} {member}=05q"));
        }
        rig.ok(lb, &format!("{who} set {group} {member}={state}"));
    }
}

#[test]
fn the_same_content_is_shared_however_it_came_about() {
    for seed in 0..60 {
        let rng = &mut fastrand::Rng::with_seed(seed);
        let mut rig = rig();
        // Some contents, which differ in members, their order, or a state.
        let mut names: Vec<&str> = MEMBERS.split(' ').collect();
        let contents: Vec<Vec<(&str, &str)>> = (0..rng.usize(1..4))
            .map(|_| {
                rng.shuffle(&mut names);
                let count = rng.usize(1..=names.len());
                names[..count].iter().map(|name| (*name, ["00", "00", "01", "01q", "00q"][rng.usize(0..5)])).collect()
            })
            .collect();
        let flags = ["trust push", "trust push nochange", "trust"];
        let mut lbs = Vec::new();
        for number in 0..12 {
            let uid = format!("LB{number}");
            let lb = rig.lb(&uid, flags[rng.usize(0..3)]);
            let content = rng.usize(0..contents.len());
            lbs.push((lb, uid, content));
        }
        for (lb, uid, content) in &mut lbs {
            bring_about(&mut rig, rng, *lb, &format!("{uid}/G"), &contents[*content]);
            if rng.u8(0..4) == 0 {
                *lb = rig.lb(uid, "trust"); // a takeover
            }
            if rng.bool() {
                rig.after(rng.u64(0..2 * WINDOW));
            }
        }
        let mut used: Vec<&Vec<(&str, &str)>> = lbs.iter().map(|(_, _, content)| &contents[*content]).collect();
        used.sort();
        used.dedup();
        assert_eq!(rig.listings(), used.len(), "seed {seed}");
        rig.after(2 * WINDOW);
        bodies(&mut rig);
        // Everybody is told what is in its own group.
        for (lb, uid, content) in &lbs {
            rig.ok(*lb, &format!("state {uid} 7F trust"));
            let entries: Vec<String> = contents[*content]
                .iter()
                .map(|(member, state)| match state.strip_suffix('q') {
                    Some(state) => format!("{member} {state}/07/0"),
                    None => format!("{member} {state}/05/100"),
                })
                .collect();
            assert_eq!(rig.ask(*lb, &format!("get {uid}/")), format!("00 {uid}/G[{}]", entries.join(" ")));
        }
        let shared = |content: usize| {
            contents[content].len() * 32 >= 512 && lbs.iter().filter(|(.., other)| *other == content).count() > 1
        };
        let with_body = lbs.iter().filter(|(.., content)| shared(*content)).count();
        let mut different: Vec<_> =
            lbs.iter().filter(|(.., content)| shared(*content)).map(|(.., c)| &contents[*c]).collect();
        different.sort();
        different.dedup();
        if used.len() == contents.len() {
            assert_eq!(bodies(&mut rig), (with_body, different.len()), "seed {seed}");
        }
        for (lb, uid, _) in &lbs {
            rig.ok(*lb, &format!("lb deregister {uid}/"));
        }
        assert_eq!(rig.listings(), 0);
    }
}

#[test]
fn sharing_that_costs_too_much_waits() {
    const MEMBERS: u32 = 20_000;
    let large = Settings { max_members_per_group: MEMBERS, max_memberships: 100_000, ..settings() };
    let mut rig = Rig::with(Settings { max_memberships_per_lb: MEMBERS, ..large });
    let members: Vec<String> = (1..=MEMBERS).map(|port| format!("a/{port}")).collect();
    for uid in ["LB1", "LB2"] {
        let lb = rig.lb(uid, "nochange");
        rig.ok(lb, &format!("lb register {uid}/G {}", members.join(" ")));
        rig.ask(lb, &format!("get {uid}/"));
    }
    assert_eq!(rig.listings(), 1);
    // The load balancers leave the listing in turns, which costs all members each time, for one that is named.
    let mut states = (0..=u8::MAX).cycle();
    let mut set = |rig: &mut Rig| {
        let state = states.next().expect("it repeats");
        for (lb, uid) in ["LB1", "LB2"].into_iter().enumerate() {
            rig.ok(lb, &format!("lb set {uid}/G a/7={state:02X} a/9={:02X}", state ^ 0xFF));
        }
        state
    };
    let rounds = (0..1000).take_while(|_| (set(&mut rig), rig.listings()).1 == 1).count();
    assert!((20..100).contains(&rounds), "{rounds}");
    let state = set(&mut rig);
    assert_eq!(rig.listings(), 2, "each changes its own");
    // Some time later both have the same again, and what each was sent is still known.
    let said = |lb: usize| format!("00 LB{0}/G[a/7 {state:02X}/05/100 a/9 {1:02X}/05/100]", lb + 1, state ^ 0xFF);
    assert_eq!(rig.ask(0, "get LB1/"), said(0));
    let wait = rig.deadline().expect("there is something to do");
    assert!(wait < 100_000_000, "{wait}");
    rig.after(wait);
    assert_eq!(rig.listings(), 1);
    assert_eq!(rig.ask(0, "get LB1/"), "00 LB1/G[]");
    assert_eq!(rig.ask(1, "get LB2/"), said(1));
    rig.after(1_000_000_000);
    set(&mut rig);
    assert_eq!(rig.listings(), 1, "the debt is paid");
}

#[test]
fn slots_of_members_that_left_are_not_shown() {
    // Many leave one by one, from the front, the back and the middle, so that slots are vacant and then go.
    let mut rig = rig();
    let (one, other) = (rig.lb("LB1", "nochange push"), rig.lb("LB2", "trust"));
    let names: Vec<String> = (1..=60).map(|port| format!("a/{port}")).collect();
    rig.ok(one, &format!("lb register LB1/G {}", names.join(" ")));
    rig.after(WINDOW);
    let mut left: Vec<&String> = names.iter().collect();
    let rng = &mut fastrand::Rng::with_seed(5);
    while left.len() > 1 {
        let at = [0, left.len() - 1, left.len() / 2, rng.usize(..left.len())][rng.usize(..4)];
        rig.ok(one, &format!("lb deregister LB1/G {}", left.remove(at)));
        if rng.u8(..8) == 0 {
            assert_eq!(rig.after(WINDOW), Vec::<String>::new(), "of what the LB itself removed it need not hear");
        }
        let first = rng.usize(..left.len());
        rig.ok(one, &format!("lb set LB1/G {}=07", left[first]));
        assert_eq!(rig.after(WINDOW), [format!("#0 LB1/G[{} 07/05/100]", left[first])]);
        rig.ok(one, &format!("lb set LB1/G {}=00", left[first]));
        rig.after(WINDOW);
        // Another LB that registers the same at once shares it.
        let now: Vec<&str> = left.iter().map(|name| name.as_str()).collect();
        rig.ok(other, &format!("lb register LB2/G {}", now.join(" ")));
        assert_eq!(rig.listings(), 1);
        let entries: Vec<String> = now.iter().map(|name| format!("{name} 00/05/100")).collect();
        assert_eq!(rig.ask(other, "get LB2/G"), format!("00 LB2/G[{}]", entries.join(" ")));
        rig.ok(other, "lb deregister LB2/G");
    }
}

/// A large listing makes only the values anew that may have changed. Whatever changes and leaves, the sum of all pushes of
/// changes is what a Get Weights without no-change shows.
#[test]
fn changes_of_a_large_listing_add_up_to_what_it_shows() {
    let members: Vec<String> = (1000..1300).map(|port| format!("a/{port}")).collect();
    for (seed, lbs) in [(1, 1), (2, 2), (3, 2)] {
        let mut rig = rig();
        let mut random = fastrand::Rng::with_seed(seed);
        let peers: Vec<Peer> = (1..=lbs).map(|uid| rig.lb(&format!("LB{uid}"), "trust push nochange")).collect();
        let full = rig.lb("LB9", "trust");
        for (peer, uid) in peers.iter().zip(1..=lbs).chain([(&full, 9)]) {
            let mut members = members.clone();
            if lbs == 1 && uid == 9 {
                members.reverse(); // each LB has a listing of its own, which changes in place
            }
            rig.ok(*peer, &format!("lb register LB{uid}/G {}", members.join(" ")));
        }
        let (mut fixed, mut states) = (BTreeMap::<String, u16>::new(), BTreeMap::<String, u8>::new());
        let mut shown = vec![BTreeMap::new(); peers.len()];
        let mut least = usize::MAX;
        for round in 0..200 {
            for _ in 0..random.usize(1..4) {
                let member = &members[random.usize(..members.len())];
                let all = (1..=lbs).chain([9]);
                match random.u8(..8) {
                    0 => {
                        let state = random.u8(..4);
                        states.insert(member.clone(), state);
                        all.for_each(|uid| drop(rig.ask(full, &format!("member set LB{uid}/G {member}={state:02X}"))));
                    }
                    1 if round % 20 == 0 => {
                        all.for_each(|uid| drop(rig.ask(full, &format!("member deregister LB{uid}/G {member}"))));
                    }
                    2 => drop(fixed.remove(member)),
                    _ => drop(fixed.insert(member.clone(), random.u16(..5))),
                }
            }
            rig.set_fixed(&fixed.iter().map(|(member, weight)| (member.as_str(), *weight)).collect::<Vec<_>>());
            for push in rig.after(WINDOW) {
                let (peer, entries) = push.split_once(' ').expect("a push names its connection");
                let at = peers.iter().position(|known| format!("#{known}") == peer).expect("an LB with push");
                let entries = entries_of(entries);
                least = least.min(entries.len());
                shown[at].extend(entries);
            }
            let reply = rig.ask(full, "get LB9/");
            let wanted: BTreeMap<String, String> =
                entries_of(reply.split_once(' ').expect("a group").1).into_iter().collect();
            for (member, entry) in &wanted {
                let state = states.get(member).unwrap_or(&0);
                let verdict = fixed.get(member).map_or("05/100".to_owned(), |weight| format!("0D/{weight}"));
                assert_eq!(*entry, format!("{state:02X}/{verdict}"), "seed {seed}, round {round}: {member}");
            }
            for shown in &shown {
                let shown: BTreeMap<_, _> = shown.iter().filter(|(member, _)| wanted.contains_key(*member)).collect();
                assert!(shown.into_iter().eq(&wanted), "seed {seed}, round {round}");
            }
        }
        assert!(least < 5, "a push has few entries");
    }
}

/// The entries of a message with one group: members, and what the message says of each.
fn entries_of(group: &str) -> Vec<(String, String)> {
    let entries = group.split_once("/G[").and_then(|(_, rest)| rest.strip_suffix(']')).expect("one group");
    let words: Vec<&str> = entries.split(' ').filter(|word| !word.is_empty()).collect();
    words.chunks(2).map(|entry| (entry[0].to_owned(), entry[1].to_owned())).collect()
}
