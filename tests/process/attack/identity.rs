//! Peers that claim another identity: the two attacks of RFC 4678 section 10, and similar ones.

use std::net::TcpStream;

use gwm::sasp::{LbFlags, ReturnCode};
use rustls::version::TLS13;

use super::beside::{AWAY, Attack, HOME, Legitimate, OK, REFUSED, Row, Way};
use crate::{
    authority::Subject,
    harness::{Daemon, LB, MEMBER, Peer, TempFile},
    site::{Site, client, from},
};

/// The operator's protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protection {
    Nothing,
    SourceIp,
    Certificate,
}

const PROTECTIONS: [Protection; 3] = [Protection::Nothing, Protection::SourceIp, Protection::Certificate];

/// A daemon with this protection, and how the legitimate peers and a stranger connect.
struct Scene {
    daemon: Daemon,
    way: Way,
    stranger: Box<dyn Fn() -> Peer + Send + Sync>,
    _access: TempFile,
}

impl Scene {
    /// The stranger has another address. Where certificates are used, the stranger has a good one, for LB2 and the
    /// member 127.0.0.3.
    fn new(protection: Protection) -> Scene {
        let access = TempFile::new("access.toml", format!("[[lb]]\nuid = \"LB1\"\naddresses = [\"{HOME}\"]\n"));
        match protection {
            Protection::Nothing => {
                let daemon = Daemon::start_alone(&[]);
                let address = daemon.address();
                let stranger = Box::new(move || Peer::from(from(AWAY, address)));
                Scene { daemon, way: Way::Plain, stranger, _access: access }
            }
            Protection::SourceIp => {
                let flags = ["--lb-identity", "source-ip", "--member-identity", "source-ip", "--access", access.path()];
                let daemon = Daemon::start_alone(&flags);
                let address = daemon.address();
                let stranger = Box::new(move || Peer::from(from(AWAY, address)));
                Scene { daemon, way: Way::Plain, stranger, _access: access }
            }
            Protection::Certificate => {
                let site = Site::new();
                let daemon = site.start_alone(&["--lb-identity", "certificate", "--member-identity", "certificate"]);
                let address = daemon.address();
                let subject = Subject::client().dns("LB2").common_name("LB1").address(AWAY.into());
                let config = client(&site.authority, Some(&site.authority.issue(&subject)), &[&TLS13]);
                let secure = move |stream: TcpStream| Peer::secure(stream, &config).expect("its certificate is good");
                let stranger = Box::new(move || secure(from(AWAY, address)));
                Scene { daemon, way: Way::certified(&site), stranger, _access: access }
            }
        }
    }
}

/// What a stranger says, and the answers without and with protection.
type Act = (&'static str, fn(&mut Peer) -> ReturnCode);

/// Requests that must be refused to all but LB1.
const AS_LB: [Act; 6] = [
    ("takes the session over", |peer| peer.set_lb("LB1", LbFlags::NONE)),
    ("asks for its weights", |peer| match &peer.get_weights("LB1", &[""])[..] {
        text if text.starts_with("LB1/") => OK,
        text => {
            assert_eq!(text, format!("{REFUSED:?} "));
            REFUSED
        }
    }),
    ("registers a member of its group", |peer| peer.register(LB, "LB1", "G", &["10.66.6.6:80"])),
    ("takes a member out of service", |peer| peer.set_member(LB, ("LB1", "G", "127.0.0.2:80"), 0, true)),
    ("removes a member", |peer| peer.deregister(LB, "LB1", "G", &["127.0.0.2:80"])),
    ("removes everything", |peer| peer.deregister(LB, "LB1", "", &[])),
];

/// Requests that must be refused to all but the member in question.
const AS_MEMBER: [Act; 5] = [
    ("registers a counterfeit", |peer| peer.register(MEMBER, "LB1", "G", &["10.66.6.6:80"])),
    ("takes another out of service", |peer| peer.set_member(MEMBER, ("LB1", "G", "127.0.0.2:80"), 0, true)),
    ("removes another", |peer| peer.deregister(MEMBER, "LB1", "G", &["127.0.0.2:80"])),
    ("removes a whole group", |peer| peer.deregister(MEMBER, "LB1", "G", &[])),
    ("removes all groups", |peer| peer.deregister(MEMBER, "LB1", "", &[])),
];

const GROUPS: &str = "LB1/G [127.0.0.2:80 00/05/100] LB1/H [10.0.0.7:80 00/05/100]";

#[test]
fn strangers_succeed_without_protection_and_fail_with_it() {
    let mut answers = vec![String::new(); AS_LB.len() + AS_MEMBER.len()];
    for protection in PROTECTIONS {
        let scene = Scene::new(protection);
        let expected = if protection == Protection::Nothing { OK } else { REFUSED };
        for (at, (act, play)) in AS_LB.iter().chain(&AS_MEMBER).enumerate() {
            let mut lb = begin(&scene);
            let mut stranger = (scene.stranger)();
            let code = play(&mut stranger);
            assert_eq!(code, expected, "{protection:?}: a stranger {act}");
            if code == REFUSED {
                assert_eq!(lb.get_weights("LB1", &[""]), GROUPS, "{protection:?}: a stranger {act}");
                answers[at] += " refused (0x11) |";
                continue;
            }
            answers[at] += " done |";
            if at < AS_LB.len() {
                lb.expect_end(); // the stranger has taken over
                continue;
            }
            let changed = match *act {
                // The harm: the GWM now tells the load balancer about 10.66.6.6.
                "registers a counterfeit" => {
                    "LB1/G [127.0.0.2:80 00/05/100, 10.66.6.6:80 00/01/100] LB1/H [10.0.0.7:80 00/05/100]"
                }
                "takes another out of service" => "LB1/G [127.0.0.2:80 00/07/0] LB1/H [10.0.0.7:80 00/05/100]",
                "removes another" => "LB1/G [] LB1/H [10.0.0.7:80 00/05/100]",
                "removes a whole group" => "LB1/H [10.0.0.7:80 00/05/100]",
                _ => "",
            };
            assert_eq!(lb.get_weights("LB1", &[""]), changed, "a stranger {act}");
        }
        scene.daemon.stop();
    }
    println!("| a stranger | no identities | `source-ip` | `certificate` |\n| --- | --- | --- | --- |");
    for (at, (act, _)) in AS_LB.iter().chain(&AS_MEMBER).enumerate() {
        let whom = if at < AS_LB.len() { "as LB1" } else { "as a member" };
        println!("| {whom} {act} |{}", answers[at]);
    }
}

/// A new load balancer with two groups.
fn begin(scene: &Scene) -> Peer {
    let mut lb = Legitimate::begin(scene.daemon.address(), scene.way.clone()).lb;
    assert_eq!(lb.deregister(LB, "LB1", "", &[]), OK);
    assert_eq!(lb.register(LB, "LB1", "G", &["127.0.0.2:80"]), OK);
    assert_eq!(lb.register(LB, "LB1", "H", &["10.0.0.7:80"]), OK);
    lb
}

/// Both identities are needed: the check of members does not see who claims to be the load balancer.
#[test]
fn one_identity_alone_is_half_a_protection() {
    let daemon = Daemon::start(&["--member-identity", "source-ip"]);
    let mut lb = Legitimate::begin(daemon.address(), Way::Plain).lb;
    let mut stranger = Peer::from(from(AWAY, daemon.address()));
    assert_eq!(stranger.register(MEMBER, "LB1", "G", &["10.66.6.6:80"]), REFUSED);
    assert_eq!(stranger.register(LB, "LB1", "G", &["10.66.6.6:80"]), OK);
    lb.expect_end();
    daemon.stop();

    let access = TempFile::new("half.toml", format!("[[lb]]\nuid = \"LB1\"\naddresses = [\"{HOME}\"]\n"));
    let daemon = Daemon::start(&["--lb-identity", "source-ip", "--access", access.path()]);
    let mut lb = Legitimate::begin(daemon.address(), Way::Plain).lb;
    let mut stranger = Peer::from(from(AWAY, daemon.address()));
    assert_eq!(stranger.register(LB, "LB1", "G", &["10.66.6.6:80"]), REFUSED);
    assert_eq!(stranger.register(MEMBER, "LB1", "G", &["10.66.6.6:80"]), OK);
    assert_eq!(lb.get_weights("LB1", &["G"]), "LB1/G [10.66.6.6:80 00/01/100]");
    // Without trust, members can not speak for themselves: then the load balancer's identity is enough.
    assert_eq!(lb.set_lb("LB1", LbFlags::NONE), OK);
    assert_eq!(stranger.register(MEMBER, "LB1", "G", &["10.66.6.7:80"]), REFUSED);
    daemon.stop();
}

/// A stranger may speak for itself. `--access` keeps strangers out of groups.
#[test]
fn a_stranger_speaks_for_its_own_address_unless_the_file_says_otherwise() {
    for (groups, code) in [("", OK), ("[[member]]\nsources = [\"127.0.0.0/8\"]\nlbs = [\"OTHER\"]\n", REFUSED)] {
        let lb = format!("[[lb]]\nuid = \"LB1\"\naddresses = [\"{HOME}\"]\n");
        let access = TempFile::new("own.toml", lb + groups);
        let identities = ["--lb-identity", "source-ip", "--member-identity", "source-ip"];
        let daemon = Daemon::start(&[&identities[..], &["--access", access.path()]].concat());
        let _lb = Legitimate::begin(daemon.address(), Way::Plain);
        let mut stranger = Peer::from(from(AWAY, daemon.address()));
        assert_eq!(stranger.register(MEMBER, "LB1", "G", &[&format!("{AWAY}:80")]), code);
        daemon.stop();
    }
}

/// The refused requests, again and again.
fn storm(protection: Protection, name: &str, acts: &'static [Act]) -> Row {
    let Scene { daemon, way, stranger, _access } = Scene::new(protection);
    let attack = Attack { name: name.into(), threads: 2, attempts: 200, ..Attack::default() };
    let row = attack.play(
        &daemon,
        way,
        move |stage| {
            let mut peer = stranger();
            while !stage.is_over() {
                for (act, play) in acts {
                    assert_eq!(play(&mut peer), REFUSED, "a stranger {act}");
                }
                stage.attempted(acts.len());
            }
        },
        |attempts| format!("all {attempts} answered 0x11"),
    );
    daemon.stop();
    row
}

fn takeovers() -> Row {
    storm(Protection::Certificate, "takeover by UID, again and again", &AS_LB)
}

fn counterfeits() -> Row {
    storm(Protection::Certificate, "counterfeit members, others' removed", &AS_MEMBER)
}

fn by_address() -> Row {
    storm(Protection::SourceIp, "the same, known by address (plain)", &AS_LB)
}

pub(crate) fn rows() -> Vec<Row> {
    vec![takeovers(), counterfeits(), by_address()]
}

#[test]
fn takeovers_again_and_again() {
    takeovers();
}

#[test]
fn counterfeits_again_and_again() {
    counterfeits();
}

#[test]
fn strangers_by_address_again_and_again() {
    by_address();
}
