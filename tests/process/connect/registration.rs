//! What a session registers and deregisters, at a real daemon.

use std::time::Duration;

use gwm::{
    client::{
        Client,
        session::{Session, Wishes},
        spec::{self, GroupSpec},
    },
    sasp::{Health, LbFlags, SenderFlags},
};

use crate::harness::Daemon;

const LONG: Duration = Duration::from_secs(30);

fn groups(texts: &[&str]) -> Vec<GroupSpec> {
    texts.iter().map(|text| spec::group(text).unwrap()).collect()
}

fn shown(session: &Session) -> Vec<String> {
    let groups = session.weights().groups().iter();
    let group = groups.map(|group| {
        let mut members: Vec<_> = group.members().iter().map(|member| member.endpoint.to_string()).collect();
        members.sort();
        format!("{}={}", String::from_utf8_lossy(group.name()), members.join(","))
    });
    group.collect()
}

#[test]
fn only_what_is_wanted_stays_registered_and_what_members_did_themselves() {
    let daemon = Daemon::start(&[]);
    let connect = || Client::connect(&daemon.address().to_string(), LONG).unwrap();
    let flags = LbFlags::PUSH.with(LbFlags::TRUST, true).with(LbFlags::NO_CHANGE_NO_SEND, true);
    let first = groups(&["web=10.0.0.1:80,10.0.0.2:80", "old=10.0.0.3:80"]);
    let wishes = Wishes { uid: (*b"LB1").into(), groups: first, health: Health::BEST, flags };
    let mut session = Session::open(connect(), LONG, &wishes).unwrap();
    assert_eq!(shown(&session), ["web=10.0.0.1:80,10.0.0.2:80", "old=10.0.0.3:80"]);
    let own = groups(&["web=10.0.0.9:80"]);
    let own = own.iter().map(|group| (group.data(b"LB1"), group.members.iter().map(|member| member.data())));
    connect().register(SenderFlags::NONE, own).unwrap();
    session.refresh().unwrap();

    session.keep_only(&groups(&["web=10.0.0.2:80,10.0.0.4:80", "new=10.0.0.5:80"])).unwrap();
    assert_eq!(shown(&session), ["web=10.0.0.2:80,10.0.0.4:80,10.0.0.9:80", "new=10.0.0.5:80"]);
    session.keep_only(&[]).unwrap();
    assert_eq!(shown(&session), [""; 0]);
}
