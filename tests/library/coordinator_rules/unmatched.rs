//! Entries of the operator's files that matched nothing for an hour are reported, once.

use std::sync::Arc;

use gwm::{
    access::{Access, Identity},
    config::{
        access::{self, Rules},
        members::{self, Defaults},
    },
    roster::Roster,
};

use super::rig::{Rig, WINDOW, settings};

const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3600 * SECOND;

fn roster(patterns: &[&str]) -> Arc<Roster> {
    let file: String = patterns.iter().map(|name| format!("[[group]]\nname = '{name}'\npolicy = 'static'\n")).collect();
    Arc::new(members::parse(&file, "".as_ref(), &Defaults::unwatched(100)).expect("the file is valid"))
}

fn access(uids: &[&str]) -> Access {
    let rules = Rules { lb_identity: Identity::SourceIp, member_identity: Identity::Any, common_name: false };
    let file: String = uids.iter().map(|uid| format!("[[lb]]\nuid = '{uid}'\naddresses = ['127.0.0.1']\n")).collect();
    access::parse(&file, &rules).expect("the file is valid")
}

fn told(rig: &mut Rig) -> Vec<String> {
    std::mem::take(&mut rig.outbox.unmatched)
}

#[test]
fn a_group_entry_that_matched_nothing_for_an_hour_is_reported() {
    let mut settings = settings();
    settings.roster = roster(&["FARM1*", "FARM2", "c\\xFF", "FARM3*"]);
    let mut rig = Rig::with(settings);
    rig.after(0);
    let lb = rig.lb("LB1", "");
    rig.ok(lb, "lb register LB1/FARM2 a + LB1/OTHER a + LB1/FARM35");
    // A group that has ended has matched, too.
    rig.ok(lb, "lb deregister LB1/FARM35");
    assert_eq!(rig.deadline().map(|at| at <= HOUR), Some(true), "somebody calls in time");
    rig.after(HOUR - 1);
    assert_eq!(told(&mut rig), [""; 0]);
    rig.after(1);
    let line = "for an hour no group has got its policy from these [[group]] of --members: ";
    assert_eq!(told(&mut rig), [format!("{line}\"FARM1*\", \"c\\xFF\"")]);
    rig.after(HOUR);
    assert_eq!(told(&mut rig), [""; 0], "once");

    // A new file has an hour of its own, and the groups that are there match.
    rig.set_roster(roster(&["FARM2", "FARM9"]));
    rig.after(WINDOW);
    rig.after(HOUR - 1);
    assert_eq!(told(&mut rig), [""; 0]);
    rig.after(1);
    assert_eq!(told(&mut rig), [format!("{line}\"FARM9\"")]);
    // An entry that an earlier entry leaves nothing has no effect either.
    rig.set_roster(roster(&["FARM*", "*2"]));
    rig.after(WINDOW);
    rig.after(HOUR);
    assert_eq!(told(&mut rig), [format!("{line}\"*2\"")]);
    rig.set_roster(roster(&[]));
    rig.after(WINDOW);
    rig.after(HOUR);
    assert_eq!(told(&mut rig), [""; 0]);
}

#[test]
fn a_member_entry_that_matched_nothing_for_an_hour_is_reported() {
    let roster = |subjects: &[&str]| {
        let file: String = subjects.iter().map(|subject| format!("[[member]]\n{subject}\n")).collect();
        Arc::new(members::parse(&file, "".as_ref(), &Defaults::unwatched(100)).expect("the file is valid"))
    };
    let mut settings = settings();
    settings.roster = roster(&[
        "cidr = '10.0.0.0/8'",
        "address = '10.0.0.1'\nport = 8080",
        "address = '10.0.0.1'",
        "cidr = '10.0.0.0/16'\nport = 80",
        "address = '::ffff:10.0.0.2'\nport = 80",
    ]);
    let mut rig = Rig::with(settings);
    rig.after(0);
    let lb = rig.lb("LB1", "");
    // 10.0.0.1:80, which has left again, and 10.0.0.2:80
    rig.ok(lb, "lb register LB1/G a b");
    rig.ok(lb, "lb deregister LB1/G a");
    rig.after(HOUR - 1);
    assert_eq!(told(&mut rig), [""; 0]);
    rig.after(1);
    let line = "for an hour no member has got its settings from these [[member]] of --members: ";
    assert_eq!(told(&mut rig), [format!("{line}\"10.0.0.0/8\", \"10.0.0.1:8080\", \"10.0.0.1\"")]);
    rig.set_roster(roster(&["address = '10.0.0.2'\nport = 80", "address = '10.0.0.1'\nport = 80"]));
    rig.after(WINDOW);
    rig.after(HOUR);
    assert_eq!(told(&mut rig), [format!("{line}\"10.0.0.1:80\"")], "members that are there match a new file");
    rig.after(HOUR);
    assert_eq!(told(&mut rig), [""; 0], "once");
}

#[test]
fn a_load_balancer_entry_that_matched_nothing_for_an_hour_is_reported() {
    let mut settings = settings();
    settings.access = Arc::new(access(&["LB1", "LB2", "c\\x7F\\xFF\\x17\\\\"]));
    let mut rig = Rig::with(settings);
    rig.after(0);
    let lb = rig.lb("LB1", "");
    assert!(rig.ask(lb, "state LB2 7F") == "11", "another UID on this connection is no load balancer");
    rig.closed(lb);
    rig.after(HOUR - 1);
    assert_eq!(told(&mut rig), [""; 0]);
    rig.after(1);
    let line = "for an hour no load balancer has come that these [[lb]] of --access name: ";
    assert_eq!(told(&mut rig), [format!("{line}\"LB2\", \"c\\u{{7f}}\\xFF\\u{{17}}\\\\\"")]);

    // A new file has an hour of its own, and the load balancers that are there match.
    rig.lb("LB2", "");
    rig.refused();
    assert_eq!(rig.set_access(access(&["LB2", "LB3"])), [0; 0]);
    rig.after(0);
    rig.after(HOUR);
    assert_eq!(told(&mut rig), [format!("{line}\"LB3\"")]);
    rig.after(HOUR);
    assert_eq!(told(&mut rig), [""; 0], "once");
}
