//! Identities and rights: which peer may be which LB, which members a peer speaks for, and what the operator allows.
//! Rules are written as in the access file.

use std::sync::Arc;

use gwm::{
    access::{Access, Certificate, Identity, Peer},
    config::access::{Rules, parse},
    coordinator::Refusal,
};

use Identity::{Any, Certificate as Cert, SourceIp};

use super::rig::{HOLD, NOTHING, Rig, WINDOW};

fn access(lb_identity: Identity, member_identity: Identity, file: &str) -> Access {
    let rules = Rules { lb_identity, member_identity, common_name: false };
    parse(file, &rules).unwrap_or_else(|error| panic!("{error:?} in {file}"))
}

/// No connections: a change of rules that ends none.
const NOBODY: [usize; 0] = [];

/// A coordinator with these rules.
fn rig(lb_identity: Identity, member_identity: Identity, file: &str) -> Rig {
    let mut rig = Rig::new();
    assert_eq!(rig.set_access(access(lb_identity, member_identity, file)), NOBODY);
    rig
}

fn from(address: &str) -> Peer {
    Peer { address: address.parse().expect("an address"), certificate: None }
}

/// A peer with a certificate of these names: URIs have a colon, addresses are such, all others are host names.
fn with(names: &str) -> Peer {
    let mut certificate = Certificate::default();
    for name in names.split_whitespace() {
        match name.parse() {
            Ok(address) => certificate.addresses.push(address),
            Err(_) if name.contains(':') => certificate.uris.push(name.into()),
            Err(_) => certificate.dns_names.push(name.into()),
        }
    }
    Peer { certificate: Some(Arc::new(certificate)), ..from("192.0.2.9") }
}

/// There was one refusal since the last call, with this cause and these details.
#[track_caller]
fn refused(rig: &mut Rig, cause: Refusal, shown: &str) {
    assert_eq!(rig.refused(), [(cause, shown.to_owned())]);
}

/// An LB with trust and with a group of `a` (10.0.0.1) and `b`.
fn trusting(rig: &mut Rig) -> usize {
    let lb = rig.lb("LB1", "push trust");
    rig.ok(lb, "lb register LB1/G a b");
    rig.after(WINDOW);
    lb
}

#[test]
fn every_refusal_has_its_cause() {
    let mut settings = super::rig::settings();
    settings.max_load_balancers = 2;
    let mut rig = Rig::with(settings);
    let old = rig.lb("LB1", "");
    rig.lb("LB2", "");
    let peer = rig.open();
    for (request, cause) in [
        ("lb register LB1/G a + LB2/G a", Refusal::SeveralLbs),
        ("state LB3 7F", Refusal::TooManyLbs),
        ("member register LB1/G a", Refusal::NoTrust),
    ] {
        assert_eq!(rig.ask(peer, request), "11", "{request}");
        refused(&mut rig, cause, if cause == Refusal::TooManyLbs { "127.0.0.1 LB3" } else { "127.0.0.1 LB1" });
    }
    rig.ok(peer, "state LB1 7F");
    assert_eq!(rig.closes(), [old]);
    assert_eq!(rig.ask(old, "get LB1/"), "11");
    refused(&mut rig, Refusal::TakenOver, "127.0.0.1 LB1");
    assert_eq!(rig.ask(peer, "get LB2/"), "11");
    refused(&mut rig, Refusal::OtherLb, "127.0.0.1 LB2");
}

#[test]
fn without_identities_anyone_is_anyone() {
    let mut rig = Rig::new();
    trusting(&mut rig);
    let stranger = rig.open_as(from("198.51.100.1"));
    rig.ok(stranger, "member register LB1/H c");
    rig.ok(stranger, "member set LB1/G a=01q");
    rig.ok(stranger, "member deregister LB1/");
    rig.ok(stranger, "state LB1 7F");
    assert_eq!(rig.closes(), [0]);
}

#[test]
fn an_lb_connects_from_its_addresses() {
    let file = "[[lb]]\nuid = \"LB1\"\naddresses = [\"192.0.2.1\", \"2001:db8::/64\"]\n";
    for (address, is) in [
        ("192.0.2.1", true),
        ("2001:db8::77", true),
        ("::ffff:192.0.2.1", true), // an IPv6 socket shows IPv4 addresses so
        ("192.0.2.2", false),
        ("2001:db8:1::77", false),
        ("::c000:201", false),
    ] {
        let mut rig = rig(SourceIp, Any, file);
        let peer = rig.open_as(from(address));
        for request in ["state LB1 7F", "lb register LB1/G a"] {
            assert_eq!(rig.ask(peer, request), if is { "00" } else { "11" }, "{address} {request}");
        }
        let code = rig.ask(peer, "get LB1/");
        assert_eq!(code, if is { "00 LB1/G[a 00/05/100]" } else { "11" });
        for request in ["lb set LB1/G a=01", "lb deregister LB1/G a"] {
            assert_eq!(rig.ask(peer, request), if is { "00" } else { "11" }, "{address} {request}");
        }
        assert!(rig.refused().iter().all(|(cause, _)| *cause == Refusal::LbIdentity));
        assert_eq!(rig.totals()[0], usize::from(is), "a refusal creates nothing");
        assert_eq!(rig.ask(peer, "state LB2 7F"), "11", "nothing says who LB2 is");
    }
}

#[test]
fn an_lb_shows_a_certificate_with_its_name() {
    for (shown, uid, is) in [
        (with("LB1"), "LB1", true),
        (with("other.example LB1"), "LB1", true),
        (with("sasp:lb:LB1"), "LB1", true),
        (with("sasp:lb:L%421"), "LB1", true),
        (with("lb1"), "LB1", false), // LB UIDs are bytes: lb1 is another LB
        (with("LB11"), "LB1", false),
        (with("*"), "LB1", false),
        (with("LB?"), "LB1", false),
        (with("10.0.0.1"), "10.0.0.1", false),
        (with("mapped.example"), "LB9", true),
        (with("mapped.example"), "LB1", false),
    ] {
        let mut rig = rig(Cert, Any, "[[lb]]\nuid = \"LB9\"\ncertificates = [\"mapped.example\"]\n");
        let text = format!("{shown:?} {uid}");
        let peer = rig.open_as(shown);
        assert_eq!(rig.ask(peer, &format!("state {uid} 7F")), if is { "00" } else { "11" }, "{text}");
        assert_eq!(rig.refused().len(), usize::from(!is));
    }
    let mut rig = rig(Cert, Any, "");
    let peer = rig.open_as(from("192.0.2.1"));
    assert_eq!(rig.ask(peer, "get LB1/"), "11", "rights come before an unknown LB");
    refused(&mut rig, Refusal::NoCertificate, "192.0.2.1 LB1");
}

/// The first attack of RFC 4678 section 10.
#[test]
fn a_stranger_takes_no_lb_over() {
    let mut rig = rig(Cert, Any, "");
    let lb = rig.open_as(with("LB1"));
    rig.ok(lb, "state LB1 7F push");
    rig.ok(lb, "lb register LB1/G a");
    for stranger in [from("192.0.2.1"), with("LB2"), with("")] {
        let stranger = rig.open_as(stranger);
        for request in
            ["state LB1 7F", "get LB1/", "lb register LB1/H a", "lb deregister LB1/", "lb set LB1/G a=01", "get LB1/X"]
        {
            assert_eq!(rig.ask(stranger, request), "11", "{request}");
        }
    }
    assert!(rig.closes().is_empty());
    assert_eq!(rig.after(WINDOW), ["#0 LB1/G[a 00/05/100]"]);
    // The LB itself may do this.
    let again = rig.open_as(with("LB1"));
    rig.ok(again, "state LB1 7F");
    assert_eq!(rig.closes(), [lb]);
}

#[test]
fn an_lb_does_what_it_may() {
    let all = [
        ("lb register LB1/H c", "register"),
        ("lb set LB1/G a=01", "state"),
        ("state LB1 7F trust", "trust"),
        ("lb deregister LB1/G a", "deregister"),
    ];
    for (_, may) in all.iter().chain(&[("", "")]) {
        let mut rig = Rig::new();
        let before = rig.open_as(from("192.0.2.1"));
        rig.ok(before, "lb register LB1/G a b");
        let list = if may.is_empty() { String::new() } else { format!("\"{may}\"") };
        let file = format!("[[lb]]\nuid = \"LB1\"\naddresses = [\"192.0.2.1\"]\nmay = [{list}]\n");
        assert_eq!(rig.set_access(access(SourceIp, Any, &file)), NOBODY, "it stays who it is");
        for (request, takes) in all {
            let allowed = takes == *may;
            assert_eq!(rig.ask(before, request), if allowed { "00" } else { "11" }, "{request} with {list}");
            if !allowed {
                refused(&mut rig, Refusal::LbRight, "192.0.2.1 LB1");
            }
        }
        rig.ok(before, "state LB1 7F push nochange");
        assert!(rig.ask(before, "get LB1/").starts_with("00"));
        // A refused request binds no connection.
        let new = rig.open_as(from("192.0.2.1"));
        if *may != "register" {
            assert_eq!(rig.ask(new, "lb register LB1/X a"), "11");
            assert!(rig.closes().is_empty());
        }
    }
}

#[test]
fn trust_that_was_taken_away_counts_no_more() {
    let file = |may: &str| format!("[[lb]]\nuid = \"LB1\"\naddresses = [\"127.0.0.1\"]\nmay = [{may}]\n");
    let mut rig = Rig::new();
    trusting(&mut rig);
    let member = rig.open_as(from("10.0.0.3"));
    rig.ok(member, "member register LB1/G c");
    rig.set_access(access(SourceIp, Any, &file("")));
    assert_eq!(rig.ask(member, "member deregister LB1/G c"), "11");
    refused(&mut rig, Refusal::NoTrust, "10.0.0.3 LB1");
    rig.set_access(access(SourceIp, Any, &file("\"trust\"")));
    rig.ok(member, "member deregister LB1/G c");
}

#[test]
fn new_rules_end_sessions_that_they_do_not_allow() {
    let file = |address: &str| format!("[[lb]]\nuid = \"LB1\"\naddresses = [\"{address}\"]\n");
    let mut rig = rig(SourceIp, Any, &file("192.0.2.1"));
    let lb = rig.open_as(from("192.0.2.1"));
    rig.ok(lb, "state LB1 7F push");
    rig.ok(lb, "lb register LB1/G a");
    assert_eq!(rig.set_access(access(SourceIp, Any, &file("192.0.2.0"))), [lb]);
    assert_eq!(rig.after(WINDOW), NOTHING, "no push to whom it does not concern any more");
    assert_eq!(rig.ask(lb, "get LB1/"), "11", "until it is closed");
    refused(&mut rig, Refusal::LbIdentity, "192.0.2.1 LB1");
    rig.closed(lb);
    // The LB's state is held: the peer that is the LB now gets it.
    let new = rig.open_as(from("192.0.2.0"));
    assert_eq!(rig.ask(new, "get LB1/"), "00 LB1/G[a 00/05/100]");
    assert_eq!(rig.set_access(access(SourceIp, Any, &file("192.0.2.1"))), [new]);
    rig.after(HOLD);
    assert_eq!(rig.totals(), [0; 4], "the hold time began when the rules changed");
    rig.closed(new);
    assert_eq!(rig.set_access(Access::default()), NOBODY);
}

#[test]
fn a_stolen_certificate_is_shut_out_at_once() {
    let mut rig = rig(Cert, Any, "");
    let thief = rig.open_as(with("LB1"));
    rig.ok(thief, "state LB1 7F");
    let only = "[[lb]]\nuid = \"LB1\"\ncertificates = [\"new.example\"]\n";
    assert_eq!(rig.set_access(access(Cert, Any, only)), [thief]);
    let again = rig.open_as(with("LB1"));
    assert_eq!(rig.ask(again, "state LB1 7F"), "11");
    let lb = rig.open_as(with("new.example"));
    rig.ok(lb, "state LB1 7F");
}

/// The second attack of RFC 4678 section 10.
#[test]
fn a_member_speaks_for_its_own_address() {
    let own = ["member register LB1/H a", "member set LB1/G a=01q a/udp=01", "member deregister LB1/G a"];
    let foreign = ["member register LB1/H b", "member set LB1/G b=01q", "member deregister LB1/G b"];
    for (identity, peer) in [(SourceIp, from("10.0.0.1")), (Cert, with("2001:db8::1 10.0.0.1"))] {
        let mut rig = Rig::new();
        let lb = trusting(&mut rig);
        rig.ok(lb, "lb register LB1/G a/udp");
        rig.set_access(access(Any, identity, ""));
        let address = peer.address;
        let member = rig.open_as(peer);
        for request in foreign {
            assert_eq!(rig.ask(member, request), "11", "{request}");
            refused(&mut rig, Refusal::MemberIdentity, &format!("{address} LB1 10.0.0.2:80"));
        }
        // All or nothing, whether its own member comes first or last.
        for request in ["member register LB1/H a b", "member register LB1/H b a", "member register LB1/H a + LB1/I b"] {
            assert_eq!(rig.ask(member, request), "11", "{request}");
        }
        assert_eq!(rig.totals(), [1, 1, 3, 3]);
        for request in own {
            rig.ok(member, request);
        }
        rig.ok(member, "member register LB1/EMPTY");
        // The LB speaks for all members, but not in a message that it sends as a member.
        rig.ok(lb, "lb set LB1/G b=02");
        assert_eq!(rig.ask(lb, "member set LB1/G b=03"), "11");
    }
}

#[test]
fn without_a_certificate_a_member_says_nothing_at_all() {
    let mut rig = Rig::new();
    trusting(&mut rig);
    rig.set_access(access(Any, Cert, ""));
    let member = rig.open_as(from("10.0.0.1"));
    for request in
        ["member register LB1/H a", "member register LB1/EMPTY", "member set LB1/G", "member deregister LB1/X"]
    {
        assert_eq!(rig.ask(member, request), "11", "{request}");
        refused(&mut rig, Refusal::NoCertificate, "10.0.0.1 LB1");
    }
    rig.ok(member, "member register");
}

#[test]
fn unknown_lbs_and_missing_trust_come_first() {
    let mut rig = rig(Any, SourceIp, "");
    rig.lb("LB1", "");
    let member = rig.open_as(from("10.0.0.1"));
    for verb in ["register", "deregister", "set"] {
        assert_eq!(rig.ask(member, &format!("member {verb} LB1/G b + LB9/G b")), "61", "{verb}");
        assert_eq!(rig.ask(member, &format!("member {verb} LB1/G b")), "11", "{verb}");
        refused(&mut rig, Refusal::NoTrust, "10.0.0.1 LB1");
    }
    let lb = rig.open();
    rig.ok(lb, "state LB1 7F trust");
    // Rights are checked before the content.
    for request in ["member deregister LB1/X b", "member register LB1/G b b", "member set LB1/X b=01"] {
        assert_eq!(rig.ask(member, request), "11", "{request}");
    }
    for (request, code) in [
        ("member deregister LB1/X a", "42"),
        ("member deregister LB1/X", "42"),
        ("member register LB1/G a a", "44"),
        ("member set LB1/X a=01", "42"),
    ] {
        assert_eq!(rig.ask(member, request), code, "{request}");
    }
}

#[test]
fn a_member_removes_whole_groups_where_all_in_them_is_its_own() {
    let mut rig = Rig::new();
    let lb = rig.lb("LB1", "trust");
    rig.ok(lb, "lb register LB1/MIXED a b + LB1/OWN a a/udp + LB1/EMPTY");
    rig.set_access(access(Any, SourceIp, ""));
    let member = rig.open_as(from("10.0.0.1"));
    for request in ["member deregister LB1/MIXED", "member deregister LB1/OWN + LB1/MIXED", "member deregister LB1/"] {
        assert_eq!(rig.ask(member, request), "11", "{request}");
        refused(&mut rig, Refusal::MemberIdentity, "10.0.0.1 LB1 10.0.0.2:80");
        assert_eq!(rig.totals()[1], 3);
    }
    rig.ok(member, "member deregister LB1/OWN + LB1/EMPTY");
    assert_eq!(rig.ask(lb, "get LB1/"), "00 LB1/MIXED[a 00/05/100 b 00/05/100]");
    rig.ok(lb, "lb deregister LB1/MIXED b");
    rig.ok(member, "member deregister LB1/");
    assert_eq!(rig.totals(), [1, 0, 0, 0]);
    rig.ok(member, "member deregister LB1/"); // all members are its own
}

#[test]
fn an_entry_gives_a_member_more_addresses_and_takes_what_it_does_not_name() {
    let file = "[[member]]\nsources = [\"10.0.0.1\"]\naddresses = [\"10.0.0.2\"]\nlbs = [\"LB1\"]\n\
                groups = [\"WEB*\"]\nmay = [\"register\", \"state\"]\n";
    let mut rig = rig(Any, SourceIp, file);
    rig.lb("LB1", "trust");
    rig.lb("LB2", "trust");
    let member = rig.open_as(from("10.0.0.1"));
    rig.ok(member, "member register LB1/WEB1 a b");
    rig.ok(member, "member set LB1/WEB1 b=01 a=02");
    for (request, cause, shown) in [
        ("member register LB1/WEB1 c", Refusal::MemberIdentity, "10.0.0.1 LB1 10.0.0.3:80"),
        ("member register LB1/DB a", Refusal::MemberRight, "10.0.0.1 LB1"),
        ("member register LB2/WEB1 a", Refusal::MemberRight, "10.0.0.1 LB2"),
        ("member deregister LB1/WEB1 a", Refusal::MemberRight, "10.0.0.1 LB1"),
        ("member deregister LB1/WEB1", Refusal::MemberRight, "10.0.0.1 LB1"),
        ("member deregister LB1/", Refusal::MemberRight, "10.0.0.1 LB1"),
        ("member register LB1/DB", Refusal::MemberRight, "10.0.0.1 LB1"),
    ] {
        assert_eq!(rig.ask(member, request), "11", "{request}");
        refused(&mut rig, cause, shown);
    }
    // No other peer is concerned.
    let other = rig.open_as(from("10.0.0.2"));
    rig.ok(other, "member register LB2/DB b");
    rig.ok(other, "member deregister LB2/DB");
}

#[test]
fn entries_of_one_peer_add_up_each_by_itself() {
    let file = "[[member]]\nsources = [\"10.0.0.0/8\"]\nmay = []\n\
                [[member]]\nsources = [\"10.0.0.1\"]\ngroups = [\"WEB\"]\nmay = [\"register\", \"deregister\"]\n\
                [[member]]\nsources = [\"10.0.0.1\"]\naddresses = [\"10.0.0.2\"]\ngroups = [\"DB\"]\n";
    let mut rig = rig(Any, SourceIp, file);
    let lb = rig.lb("LB1", "trust");
    let member = rig.open_as(from("10.0.0.1"));
    rig.ok(member, "member register LB1/WEB a + LB1/DB a b");
    for request in ["member register LB1/WEB b", "member set LB1/WEB a=01", "member register LB1/X a"] {
        assert_eq!(rig.ask(member, request), "11", "{request}");
    }
    let nobody = rig.open_as(from("10.0.0.3"));
    assert_eq!(rig.ask(nobody, "member register LB1/WEB c"), "11", "an entry for all that lets nobody do anything");
    let outside = rig.open_as(from("192.0.2.1"));
    assert_eq!(rig.ask(outside, "member register LB1/WEB"), "00");
    // All groups: the entries that name a group decide about that group, also if the group has no members.
    rig.refused();
    for group in ["LB1/X a", "LB1/X"] {
        rig.ok(lb, &format!("lb register {group}"));
        assert_eq!(rig.ask(member, "member deregister LB1/"), "11", "{group}");
        refused(&mut rig, Refusal::MemberRight, "10.0.0.1 LB1");
        rig.ok(lb, "lb deregister LB1/X");
    }
    rig.ok(member, "member deregister LB1/");
}

#[test]
fn an_entry_names_members_by_certificate() {
    let file = "[[member]]\ncertificates = [\"web.example\"]\naddresses = [\"10.0.0.0/30\"]\ngroups = [\"WEB\"]\n";
    let mut rig = rig(Any, Cert, file);
    rig.lb("LB1", "trust");
    let named = rig.open_as(with("web.example 10.0.0.9"));
    rig.ok(named, "member register LB1/WEB a b i");
    assert_eq!(rig.ask(named, "member register LB1/WEB d"), "11");
    assert_eq!(rig.ask(named, "member register LB1/DB a"), "11");
    let other = rig.open_as(with("db.example 10.0.0.9"));
    rig.ok(other, "member register LB1/DB i");
    assert_eq!(rig.ask(other, "member register LB1/DB a"), "11");
    let wildcard = rig.open_as(with("*.example"));
    assert_eq!(rig.ask(wildcard, "member register LB1/WEB a"), "11");
}
