use std::{net::IpAddr, sync::Arc};

use super::*;
use crate::access::{Certificate, Peer};

const SOURCES: Rules =
    Rules { lb_identity: Identity::SourceIp, member_identity: Identity::SourceIp, common_name: false };
const CERTIFICATES: Rules =
    Rules { lb_identity: Identity::Certificate, member_identity: Identity::Certificate, common_name: false };

fn read_as(rules: &Rules, text: &str) -> Access {
    parse(text, rules).unwrap_or_else(|error| panic!("{error:?} in {text}"))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn from(address: &str) -> Peer {
    ip(address).into()
}

fn with(name: &str) -> Peer {
    let certificate = Certificate {
        dns_names: [name.into()].into(),
        common_names: ["front".into()].into(),
        addresses: [ip("10.0.0.1")].into(),
        fingerprint: [0xAB; 32],
        ..Certificate::default()
    };
    Peer { certificate: Some(Arc::new(certificate)), ..from("192.0.2.9") }
}

/// The error, which is one line, is in this line of the file and says this.
fn refused(rules: &Rules, text: &str, line: usize, part: &str) {
    let Err(mistake) = parse(text, rules) else { panic!("nothing is wrong with {text}") };
    assert!(mistake.text.contains(part), "{mistake}: {text}");
    assert_eq!(mistake.line, line, "{mistake}: {text}");
    assert!(!mistake.text.contains('\n'), "{mistake}");
}

#[test]
fn an_empty_file_says_nothing() {
    for rules in [SOURCES, CERTIFICATES] {
        assert_eq!(read_as(&rules, ""), rules.access());
        assert_eq!(read_as(&rules, "# nobody yet\n").entries(), 0);
    }
}

#[test]
fn reads_who_is_where() {
    let text = r#"
        [[lb]]
        uid = "LB1"
        addresses = ["192.0.2.1", "2001:db8::/32"]

        [[lb]]
        uid = "lb1"
        addresses = ["192.0.2.2"]
        may = ["register", "deregister", "state"]

        [[member]]
        sources = ["10.0.0.0/24"]
        addresses = ["10.1.0.1", "10.2.0.0/16"]
        lbs = ["LB*"]
        groups = ["WEB", "DB?"]
        may = ["register", "state"]
    "#;
    let access = read_as(&SOURCES, text);
    assert_eq!(access.entries(), 3);
    assert!(access.is_lb(&from("192.0.2.1"), b"LB1") && access.is_lb(&from("2001:db8::1"), b"LB1"));
    assert!(!access.is_lb(&from("192.0.2.2"), b"LB1") && access.is_lb(&from("192.0.2.2"), b"lb1"));
    assert!(access.lb_may(b"LB1", Act::Trust) && !access.lb_may(b"lb1", Act::Trust));
    assert!(access.lb_may(b"lb1", Act::SetState));

    let listed = from("10.0.0.7");
    let speaker = access.speaker(&listed).unwrap();
    let register = |lb: &[u8], group: &[u8], address| speaker.speaks_for(Act::Register, lb, group, ip(address));
    for address in ["10.0.0.7", "10.1.0.1", "10.2.3.4"] {
        assert!(register(b"LB1", b"WEB", address) && register(b"LB2", b"DB1", address), "{address}");
        assert!(!register(b"X", b"WEB", address) && !register(b"LB1", b"DB", address), "{address}");
        assert!(!speaker.speaks_for(Act::Deregister, b"LB1", b"WEB", ip(address)), "{address}");
    }
    assert!(!register(b"LB1", b"WEB", "10.0.0.8") && !register(b"LB1", b"WEB", "10.3.0.1"));
    let unlisted = from("10.9.9.9");
    let speaker = access.speaker(&unlisted).unwrap();
    assert!(speaker.speaks_for(Act::Deregister, b"X", b"Y", ip("10.9.9.9")));
    assert!(!speaker.speaks_for(Act::Deregister, b"X", b"Y", ip("10.9.9.8")));
}

#[test]
fn reads_who_shows_what() {
    let fingerprint = "ab".repeat(32);
    let text = format!(
        "[[lb]]\nuid = \"LB1\"\ncertificates = [\"lb1.example\", \"sha256:{fingerprint}\"]\n\
         [[lb]]\nuid = \"LB2\"\nmay = []\n\
         [[member]]\ncertificates = [\"web.example\"]\naddresses = [\"10.0.0.2\"]\n"
    );
    let access = read_as(&CERTIFICATES, &text);
    let mut other = with("other.example");
    assert!(access.is_lb(&with("lb1.example"), b"LB1"));
    assert!(access.is_lb(&other, b"LB1"), "by its fingerprint");
    other.certificate = Some(Arc::new(Certificate {
        fingerprint: [0; 32],
        ..Certificate::clone(other.certificate.as_deref().unwrap())
    }));
    assert!(!access.is_lb(&other, b"LB1") && !access.is_lb(&from("10.0.0.1"), b"LB1"));
    let mut named = with("LB1");
    assert!(access.is_lb(&named, b"LB1"), "by its fingerprint");
    named.certificate = Some(Arc::new(Certificate {
        fingerprint: [0; 32],
        ..Certificate::clone(named.certificate.as_deref().unwrap())
    }));
    assert!(!access.is_lb(&named, b"LB1"), "where the file names certificates, a name does not suffice");
    assert!(access.is_lb(&with("LB2"), b"LB2") && !access.lb_may(b"LB2", Act::Register));
    assert!(!access.is_lb(&with("x"), b"front"), "the common name is not a name");
    let common_name = Rules { common_name: true, ..CERTIFICATES };
    assert!(read_as(&common_name, &text).is_lb(&with("x"), b"front"));
    let mapped = "[[lb]]\nuid = \"LB1\"\ncertificates = [\"front\"]\n";
    assert!(read_as(&common_name, mapped).is_lb(&with("x"), b"LB1"));
    assert!(!read_as(&CERTIFICATES, mapped).is_lb(&with("x"), b"LB1"));

    let (web, nobody) = (with("web.example"), from("10.0.0.1"));
    let speaker = access.speaker(&web).unwrap();
    assert!(speaker.speaks_for(Act::Register, b"X", b"Y", ip("10.0.0.1")), "what is in its certificate");
    assert!(speaker.speaks_for(Act::Register, b"X", b"Y", ip("10.0.0.2")), "what the file adds");
    assert!(!speaker.speaks_for(Act::Register, b"X", b"Y", ip("192.0.2.9")), "where it connects from says nothing");
    assert!(access.speaker(&nobody).is_none());
    // The common name is for load balancers.
    let by_common_name = "[[member]]\ncertificates = [\"front\"]\nmay = []\n";
    let access = read_as(&common_name, by_common_name);
    assert!(access.speaker(&web).unwrap().may(Act::Register, b"X", None));
}

#[test]
fn an_address_is_the_same_in_every_spelling() {
    let lb = |address: &str| format!("[[lb]]\nuid = \"LB1\"\naddresses = [\"{address}\"]\n");
    for spelling in
        ["10.0.0.1", "::ffff:10.0.0.1", "::10.0.0.1", "::ffff:a00:1", "::ffff:10.0.0.0/104", "::10.0.0.0/104"]
    {
        let access = read_as(&SOURCES, &lb(spelling));
        assert!(access.is_lb(&from("10.0.0.1"), b"LB1"), "{spelling}");
        assert!(!access.is_lb(&from("::10.0.0.1"), b"LB1"), "{spelling}: no peer has an IPv4 address in this form");
        let member = format!("[[member]]\nsources = [\"{spelling}\"]\naddresses = [\"10.1.0.1\"]\n");
        let (access, peer) = (read_as(&SOURCES, &member), from("10.0.0.1"));
        assert!(access.speaker(&peer).unwrap().speaks_for(Act::Register, b"X", b"Y", ip("10.1.0.1")), "{spelling}");
        let member = format!("[[member]]\nsources = [\"10.9.0.1\"]\naddresses = [\"{spelling}\"]\n");
        let (access, peer) = (read_as(&SOURCES, &member), from("10.9.0.1"));
        assert!(access.speaker(&peer).unwrap().speaks_for(Act::Register, b"X", b"Y", ip("10.0.0.1")), "{spelling}");
    }
}

#[test]
fn uids_names_and_certificates_are_bytes() {
    let text = "[[lb]]\nuid = 'c\\x7F\\xFF\\x17\\\\'\ncertificates = ['DOMAIN\\\\c', \"\\\\x41\"]\n";
    let access = read_as(&CERTIFICATES, text);
    assert!(access.is_lb(&with("DOMAIN\\c"), b"c\x7F\xFF\x17\\") && access.is_lb(&with("A"), b"c\x7F\xFF\x17\\"));
    assert!(!access.is_lb(&with("B"), b"c\x7F\xFF\x17\\"));
    let text = "[[member]]\nsources = ['10.0.0.1']\nlbs = ['c\\x7F*']\ngroups = ['\\xFE\\x2A']\n";
    let (access, peer) = (read_as(&SOURCES, text), from("10.0.0.1"));
    let speaker = access.speaker(&peer).unwrap();
    assert!(speaker.may(Act::Register, b"c\x7F\xFF\x17\\", Some(b"\xFE*")));
    assert!(!speaker.may(Act::Register, b"c\x7F\xFF\x17\\", Some(b"\xFE-")));
    assert!(!speaker.may(Act::Register, b"LB1", Some(b"\xFE*")));
    let twice = "[[lb]]\nuid = 'A\\xFF'\naddresses = []\n[[lb]]\nuid = '\\x41\\xff'\naddresses = []\n";
    refused(&SOURCES, twice, 5, "uid \"A\\xFF\" is listed twice");
    for (key, line) in [("uid = 'a\\z'\naddresses = []", 2), ("addresses = []\nuid = 'a\\z'", 3)] {
        refused(&SOURCES, &format!("[[lb]]\n{key}\n"), line, "uid: `\\z` does not begin with an escape");
    }
    for key in ["lbs", "groups"] {
        refused(
            &SOURCES,
            &format!("[[member]]\nsources = ['10.0.0.1']\n{key} = ['a\\z']\n"),
            3,
            "`\\z` does not begin",
        );
    }
    refused(&CERTIFICATES, "[[member]]\ncertificates = ['a\\z']\n", 2, "`\\z` does not begin");
}

#[test]
fn an_empty_list_shuts_a_load_balancer_out() {
    let nobody = "[[lb]]\nuid = \"LB1\"\ncertificates = []\n";
    assert!(read_as(&CERTIFICATES, "").is_lb(&with("LB1"), b"LB1"));
    assert!(!read_as(&CERTIFICATES, nobody).is_lb(&with("LB1"), b"LB1"));
    let nobody = "[[lb]]\nuid = \"LB1\"\naddresses = []\n";
    assert!(!read_as(&SOURCES, nobody).is_lb(&from("10.0.0.1"), b"LB1"));
}

#[test]
fn errors_name_their_line() {
    let lb = |lines: &str| format!("[[lb]]\nuid = \"LB1\"\naddresses = [\"10.0.0.1\"]\n{lines}\n");
    for (lines, part) in [
        ("port = 80", "port"),
        ("may = \"register\"", "a list"),
        ("may = [\"read\"]", "\"trust\""),
        ("may = [\"Register\"]", "may \"Register\" is not"),
        ("may = [\"state\", \"state\"]", "twice"),
        ("certificates = [\"x\"]", "use addresses"),
        ("uid = \"LB2\"", "duplicate"),
        ("may = [", ""),
        ("[lb]", ""),
        ("[[lbs]]", "lbs"),
    ] {
        refused(&SOURCES, &lb(lines), 4, part);
    }
    for text in ["sources = []", "sources = [\"10.0.0.1\"]\naddresses = []"] {
        let line = 1 + text.lines().count();
        refused(&SOURCES, &format!("[[member]]\n{text}\n"), line, "an empty list");
    }
    for (addresses, part) in [
        ("\"10.0.0.1\"", "a list"),
        ("[7]", "string"),
        ("[\"10.0.0\"]", "not an address such as"),
        ("[\"web1\"]", "not an address such as"),
        ("[\"\"]", "not an address such as"),
        ("[\"10.0.0.1/8\"]", "the network is 10.0.0.0/8"),
        ("[\"10.0.0.0/33\"]", "not a network such as"),
        ("[\"::/96\"]", "write 0.0.0.0/0"),
    ] {
        refused(&SOURCES, &format!("[[lb]]\nuid = \"LB1\"\naddresses = {addresses}\n"), 3, part);
        refused(&SOURCES, &format!("[[member]]\nmay = []\nsources = {addresses}\n"), 3, part);
        refused(&SOURCES, &format!("[[member]]\nsources = [\"10.0.0.1\"]\naddresses = {addresses}\n"), 3, part);
    }
    // In a list over several lines, the line of the one that is wrong.
    refused(&SOURCES, "[[lb]]\nuid = \"LB1\"\naddresses = [\n\"10.0.0.1\",\n\"10.0.0.256\",\n]\n", 5, "10.0.0.256");

    let twice = "[[lb]]\nuid = \"LB1\"\naddresses = [\"10.0.0.1\"]\n";
    refused(&SOURCES, &format!("{twice}{twice}"), 5, "listed twice");
    refused(&SOURCES, "[[lb]]\nuid = \"\"\naddresses = [\"10.0.0.1\"]\n", 2, "1 to 64");
    let long = "x".repeat(65);
    refused(&SOURCES, &format!("[[lb]]\naddresses = [\"10.0.0.1\"]\nuid = \"{long}\"\n"), 3, "has 65 bytes");
    refused(&SOURCES, "[[lb]]\naddresses = [\"10.0.0.1\"]\n", 1, "uid");
    refused(&SOURCES, "\n[[lb]]\nuid = \"LB1\"\n", 2, "needs addresses");

    refused(&SOURCES, "\n[[member]]\nmay = []\n", 2, "needs sources");
    read_as(&SOURCES, &format!("[[member]]\nsources = [\"::1\"]\nlbs = [\"{}\"]\n", "?".repeat(64)));
    let member = |lines: &str| format!("[[member]]\nsources = [\"10.0.0.1\"]\n{lines}\n");
    for (lines, part) in [
        ("may = [\"trust\"]", "\"deregister\" or \"state\""),
        ("certificates = [\"x\"]", "use sources"),
        ("lbs = []", "an empty list"),
        ("groups = []", "an empty list"),
        ("groups = \"*\"", "a list"),
        ("lbs = [\"\"]", "fits no name"),
        ("groups = [\"\"]", "fits no name"),
        (&format!("lbs = [\"{}*\"]", "x".repeat(65)), "no name has the 65 bytes that fit this: 64 are the most"),
        (&format!("groups = [\"{}*\"]", "x".repeat(256)), "no name has the 256 bytes that fit this: 255 are the most"),
        ("uid = \"LB1\"", "uid"),
    ] {
        refused(&SOURCES, &member(lines), 3, part);
    }
}

#[test]
fn errors_of_certificates_name_their_line() {
    refused(&CERTIFICATES, "[[member]]\ncertificates = []\n", 2, "an empty list");
    for (certificates, part) in
        [("[\"\"]", "no certificate's name"), ("[\"*.example\"]", "names nobody"), ("[\"sha256:12\"]", "64 digits")]
    {
        refused(&CERTIFICATES, &format!("[[lb]]\nuid = \"LB1\"\ncertificates = {certificates}\n"), 3, part);
        refused(&CERTIFICATES, &format!("[[member]]\nmay = []\ncertificates = {certificates}\n"), 3, part);
    }
    refused(&CERTIFICATES, "[[lb]]\nuid = \"LB1\"\naddresses = [\"10.0.0.1\"]\n", 3, "use certificates");
    refused(&CERTIFICATES, "[[member]]\nsources = [\"10.0.0.1\"]\n", 2, "use certificates");
    refused(&CERTIFICATES, "[[member]]\naddresses = [\"10.0.0.1\"]\n", 1, "needs the certificates");
}

#[test]
fn entries_that_could_not_count_are_refused() {
    let lbs = Rules { member_identity: Identity::Any, ..SOURCES };
    let members = Rules { lb_identity: Identity::Any, ..SOURCES };
    refused(&members, "\n[[lb]]\nuid = \"LB1\"\naddresses = [\"10.0.0.1\"]\n", 2, "--lb-identity is any");
    refused(&lbs, "\n[[member]]\nsources = [\"10.0.0.1\"]\n", 2, "--member-identity is any");
}

#[test]
fn a_file_that_can_not_be_read_is_named() {
    for (path, part) in [("/nonexistent/access.toml", "can not read the access file"), ("/dev/zero", "has more than")] {
        let error = read(Path::new(path), &SOURCES).unwrap_err().to_string();
        assert!(error.contains(path) && error.contains(part), "{error}");
    }
}
