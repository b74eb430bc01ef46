use bytes::Bytes;

use super::*;
use crate::{
    agent_checks::{self, Request},
    coordinator::{CloseReason, ConnectionId, Coordinator, Kind, Outbox, Settings},
    runtime::coordinator_thread::tests::settings,
    sasp::{GroupData, MemberData, Message, Reason, SenderFlags, Writer, component::TCP},
    time::Time,
};

/// Takes the coordinator's messages, and forgets them.
#[derive(Default)]
struct Nobody(Vec<u8>);

impl Outbox for Nobody {
    fn has_room(&self, _shard: u16) -> bool {
        true
    }
    fn buffer(&mut self, _shard: u16) -> &mut Vec<u8> {
        &mut self.0
    }
    fn commit(&mut self, _connection: ConnectionId, start: usize, _body: Option<&Bytes>, _kind: Kind) {
        self.0.truncate(start);
    }
    fn close(&mut self, _connection: ConnectionId, _reason: CloseReason) {}
}

/// Places, and a real coordinator.
struct Rig {
    coordinator: Coordinator,
    places: Places,
    now: Instant,
    /// The load balancers; each has the connection of its place.
    lbs: Vec<String>,
    /// Questions to the coordinator: searches, pages of readings.
    asked: [usize; 2],
}

impl Rig {
    fn new(lb: Option<&str>) -> Rig {
        let control = Arc::new(CoordinatorControl::new());
        let lb = lb.map(|uid| uid.as_bytes().into());
        let (max_members_per_group, max_memberships_per_lb, max_memberships) = (5000, 5000, 5000);
        let settings = Settings { max_members_per_group, max_memberships_per_lb, max_memberships, ..settings() };
        Rig {
            coordinator: Coordinator::new(settings, 1),
            places: Places::new(control, lb, Arc::default(), Waker::noop().clone()),
            now: Instant::now(),
            lbs: Vec::new(),
            asked: [0; 2],
        }
    }

    /// A load balancer registers a group whose members have these ports and labels.
    fn register(&mut self, uid: &str, name: &str, members: &[(u16, &str)]) {
        let mut bytes = Vec::new();
        let mut request = Writer::registration_request(&mut bytes, 1, SenderFlags::LOAD_BALANCER);
        request.group(GroupData { lb_uid: uid.as_bytes(), name: name.as_bytes() });
        for (port, label) in members {
            let endpoint = Endpoint::new([10, 0, 0, 1].into(), TCP, *port);
            request.entry(&MemberData { endpoint, label: label.as_bytes() });
        }
        request.finish().unwrap();
        self.request(uid, &bytes);
    }

    /// LB1 deregisters a member of a group, or all of the group.
    fn deregister(&mut self, name: &str, port: Option<u16>) {
        let mut bytes = Vec::new();
        let mut request = Writer::deregistration_request(&mut bytes, 1, SenderFlags::LOAD_BALANCER, Reason(0));
        request.group(GroupData { lb_uid: b"LB1", name: name.as_bytes() });
        if let Some(port) = port {
            let endpoint = Endpoint::new([10, 0, 0, 1].into(), TCP, port);
            request.entry(&MemberData { endpoint, label: b"" });
        }
        request.finish().unwrap();
        self.request("LB1", &bytes);
    }

    fn request(&mut self, uid: &str, bytes: &[u8]) {
        let known = self.lbs.iter().position(|known| known == uid);
        let slot = known.unwrap_or(self.lbs.len()) as u32;
        let connection = ConnectionId { shard: 0, slot, generation: 0 };
        if known.is_none() {
            self.lbs.push(uid.into());
            self.coordinator.opened(connection, std::net::IpAddr::from([127, 0, 0, 1]).into());
        }
        let (header, message) = Message::decode(bytes).unwrap();
        self.coordinator.request(Time::default(), connection, header.id, &message, &mut Nobody::default());
    }

    fn look(&mut self, token: u64, key: &str) -> Option<Known> {
        let Request::Question(question) = agent_checks::read(key.as_bytes(), true) else { panic!("{key}") };
        self.places.look(Check::new(token, question), self.now).map(|(_, known)| known)
    }

    /// One round of questions to the coordinator and answers.
    fn round(&mut self) -> Vec<(u64, Known)> {
        self.places.ask(self.now);
        while let Some(call) = self.places.control.calls.pop() {
            (call.answer)(self.coordinator.answer(Time::default(), call.ask, &mut Nobody::default()));
        }
        let mail = std::mem::take(&mut *self.places.mail.lock().unwrap());
        let mut answered = Vec::new();
        for (asked, answer) in mail {
            self.asked[usize::from(matches!(asked, Asked::Reading(_)))] += 1;
            let checks = self.places.take(asked, answer, self.now);
            answered.extend(checks.into_iter().map(|(check, known)| (check.token, known)));
        }
        answered
    }

    /// The answers to keys that are asked for at the same time.
    fn ask(&mut self, keys: &[&str]) -> Vec<Known> {
        let mut answers: HashMap<u64, Known> = HashMap::new();
        for (token, key) in (0..).zip(keys) {
            answers.extend(self.look(token, key).map(|known| (token, known)));
        }
        for _ in 0..1000 {
            if answers.len() == keys.len() {
                return (0..keys.len() as u64).map(|token| answers[&token]).collect();
            }
            answers.extend(self.round());
        }
        panic!("{keys:?}: {answers:?}");
    }

    fn later(&mut self, time: Duration) {
        self.now += time;
        self.places.forget(self.now);
    }
}

const FULL: Known = Known::State(State::Percent(100));

#[test]
fn all_keys_of_a_group_share_one_reading() {
    let mut rig = Rig::new(None);
    rig.register("LB1", "web", &[(1, "s1"), (2, "s2"), (3, "s3")]);
    let keys = ["web/s1", "web/s2", "web/10.0.0.1:3", "10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3", "web/s9"];
    let expected = [FULL, FULL, FULL, FULL, FULL, FULL, Known::Unknown];
    assert_eq!(rig.ask(&keys), expected);
    // The name, and each endpoint; the group once.
    assert_eq!(rig.asked, [4, 1]);
    assert_eq!(rig.ask(&keys), expected);
    assert_eq!(rig.asked, [4, 1], "a fresh group is not read again");
    rig.later(FRESH);
    assert_eq!(rig.ask(&keys), expected);
    rig.round();
    assert_eq!(rig.asked, [4, 2]);
    rig.later(STALE);
    assert_eq!(rig.look(0, "web/s1"), None, "a stale group is read before it answers");
    assert_eq!(rig.round(), [(0, FULL)]);
}

#[test]
fn the_first_load_balancer_answers_unless_one_is_named() {
    for (lb, expected) in [(None, [FULL, FULL]), (Some("LB2"), [FULL, Known::Unknown])] {
        let mut rig = Rig::new(lb);
        rig.register("LB1", "web", &[(1, "s1"), (2, "s2")]);
        rig.register("LB2", "web", &[(1, "s1")]);
        assert_eq!(rig.ask(&["web/s1", "web/s2"]), expected, "{lb:?}");
        assert_eq!(rig.ask(&["10.0.0.1:1", "10.0.0.1:2"]), expected, "{lb:?}");
    }
}

#[test]
fn a_group_that_ended_is_searched_again() {
    let mut rig = Rig::new(None);
    rig.register("LB1", "web", &[(1, "s1")]);
    rig.register("LB2", "web", &[(2, "s2")]);
    assert_eq!(rig.ask(&["web/s1", "10.0.0.1:1", "10.0.0.1:2"]), [FULL; 3]);
    rig.deregister("web", None);
    rig.later(STALE);
    assert_eq!(
        rig.ask(&["web/s1", "web/s2", "10.0.0.1:1", "10.0.0.1:2"]),
        [Known::Unknown, FULL, Known::Unknown, FULL]
    );
}

#[test]
fn an_endpoint_is_found_in_the_group_that_has_it_now() {
    let mut rig = Rig::new(None);
    rig.register("LB1", "old", &[(1, "s1"), (2, "s2")]);
    assert_eq!(rig.ask(&["10.0.0.1:1"]), [FULL]);
    rig.deregister("old", Some(1));
    rig.register("LB1", "new", &[(1, "s1")]);
    rig.later(STALE);
    assert_eq!(rig.ask(&["10.0.0.1:1", "10.0.0.1:2"]), [FULL; 2]);
}

#[test]
fn unknown_names_keep_nobody_waiting() {
    let mut rig = Rig::new(None);
    rig.register("LB1", "web", &[(1, "s1")]);
    assert_eq!(rig.ask(&["web/s1"]), [FULL]);
    rig.later(STALE);
    let unknown = |at: usize| format!("unknown-{at}/s1");
    for at in 0..limits::AGENT_SEARCHES {
        assert_eq!(rig.look(1000 + at as u64, &unknown(at)), None);
    }
    assert_eq!(rig.look(1, &unknown(limits::AGENT_SEARCHES)), Some(Known::Busy));
    assert_eq!(rig.look(2, &unknown(0)), Some(Known::Busy), "nor may more wait for the same name");
    assert_eq!(rig.look(3, "web/s1"), None);
    assert_eq!(rig.round(), [(3, FULL), (1000, Known::Unknown)], "one search a round, after the reading");
    assert_eq!(rig.look(4, &unknown(0)), Some(Known::Unknown), "not searched again at once");
    for at in 1..limits::AGENT_SEARCHES {
        assert_eq!(rig.round(), [(1000 + at as u64, Known::Unknown)]);
    }
    assert_eq!((rig.places.searching, rig.places.locations.len()), (0, limits::AGENT_SEARCHES + 1));
    rig.later(STALE);
    assert_eq!(rig.places.locations.len(), 1, "unknown names are forgotten at once");
    assert_eq!(rig.ask(&["unknown-0/s1"]), [Known::Unknown]);
}

#[test]
fn what_is_not_used_is_forgotten() {
    let mut rig = Rig::new(None);
    rig.register("LB1", "web", &[(1, "s1")]);
    rig.register("LB1", "other", &[(2, "s2")]);
    assert_eq!(rig.ask(&["web/s1", "10.0.0.1:1", "other/s2"]), [FULL; 3]);
    rig.later(UNUSED / 2);
    assert_eq!(rig.ask(&["web/s1"]), [FULL]);
    rig.later(UNUSED / 2);
    assert_eq!((rig.places.locations.len(), rig.places.groups.len()), (1, 1));
    rig.later(UNUSED);
    assert_eq!((rig.places.locations.len(), rig.places.groups.len()), (0, 0));
}

#[test]
fn a_large_group_is_read_in_turns_with_others() {
    let mut rig = Rig::new(None);
    let members: Vec<(u16, &str)> = (1..=2500).map(|port| (port, "")).collect();
    rig.register("LB1", "large", &members);
    rig.register("LB1", "small", &[(3000, "s1")]);
    assert_eq!(rig.ask(&["small/s1"]), [FULL]);
    rig.later(STALE);
    assert_eq!(rig.look(1, "large/10.0.0.1:2500"), None);
    assert_eq!(rig.round(), [], "found");
    assert_eq!(rig.round(), [], "the first page");
    assert_eq!(rig.look(2, "small/s1"), None);
    assert_eq!(rig.round(), [(2, FULL)]);
    assert_eq!(rig.round(), [(1, FULL)]);
    assert_eq!(rig.asked[1], 1 + 3 + 1);
}
