//! Ten thousand load balancers on one shard. The test knows every byte that each one must get.

use std::io::{Read, Write};

use gwm::sasp::{
    ComponentType, EntryFlags, GroupData, LbFlags, MemberFlags, MemberState, ReturnCode, WeightEntry, WeightedMember,
    Writer, writer,
};
use rustix::process::{Resource, Signal, getrlimit, setrlimit};

use crate::{
    harness::{Daemon, LB, Peer, TempFile},
    wire,
};

const LBS: usize = 10_000;
const MEMBERS: usize = 20;

/// This many members of an LB are in its group `A`, the others in `B`.
const IN_A: usize = 12;

/// Endpoints, shared by the LBs: each is in about a hundred groups.
const ENDPOINTS: usize = 2000;

/// Endpoints whose weight changes: about a third of the LBs has such an endpoint.
const CHANGED: usize = 40;

/// The weight of an endpoint in the members file, before and after the change.
fn weight(endpoint: usize, changed: bool) -> u16 {
    let weight = 1 + (endpoint % 50) as u16;
    if changed && endpoint < CHANGED { weight + 50 } else { weight }
}

fn members_file(changed: bool) -> String {
    let member = |endpoint: usize| {
        let weight = weight(endpoint, changed);
        let (high, low) = (endpoint / 256, endpoint % 256);
        format!("[[member]]\naddress = \"10.2.{high}.{low}\"\nport = 80\nweight = {weight}\nmonitor = \"none\"\n")
    };
    (0..ENDPOINTS).map(member).collect()
}

/// One LB, and the daemon's state about it.
struct Balancer {
    peer: Peer,
    uid: String,
    endpoints: Vec<usize>,
    names: Vec<String>,
    states: Vec<u8>,
}

impl Balancer {
    fn new(number: usize, peer: Peer) -> Balancer {
        let endpoints: Vec<usize> = (0..MEMBERS).map(|member| (number * 7 + member * 97) % ENDPOINTS).collect();
        let names = endpoints.iter().map(|endpoint| format!("10.2.{}.{}:80", endpoint / 256, endpoint % 256)).collect();
        Balancer { peer, uid: format!("LB-{number:05}"), endpoints, names, states: vec![0; MEMBERS] }
    }

    /// The members of a group, as ranges of the LB's members.
    fn members(group: &str) -> std::ops::Range<usize> {
        if group == "A" { 0..IN_A } else { IN_A..MEMBERS }
    }

    fn register(&mut self) {
        let group = |name| Balancer::members(name).map(|at| self.names[at].as_str()).collect::<Vec<_>>();
        let (a, b) = (group("A"), group("B"));
        let mut requests = wire::registration(1, LB, &[(&self.uid, "A", &a), (&self.uid, "B", &b)]);
        requests.extend(wire::lb_state(2, &self.uid, 0x7F, LbFlags::PUSH | LbFlags::TRUST));
        self.peer.send(&requests);
    }

    /// Sets the state of one member of each group.
    fn set_states(&mut self, number: usize) {
        let mut request = Vec::new();
        let mut writer = Writer::set_member_state_request(&mut request, 3, LB);
        for group in ["A", "B"] {
            let members = Balancer::members(group);
            let at = members.start + number % members.len();
            self.states[at] = 1 + (number % 255) as u8;
            writer.group(GroupData { lb_uid: self.uid.as_bytes(), name: group.as_bytes() });
            let (state, flags) = (self.states[at], MemberFlags::NONE);
            writer.entry(&MemberState { member: wire::member(&self.names[at]), state, flags });
        }
        writer.finish().expect("a test's message fits");
        self.peer.send(&request);
    }

    fn write_groups<'a>(&'a self, mut writer: Writer<'_, WeightedMember<'a>>, groups: &[&str], changed: bool) {
        for group in groups {
            writer.group(GroupData { lb_uid: self.uid.as_bytes(), name: group.as_bytes() });
            for at in Balancer::members(group) {
                let flags = EntryFlags::CONTACT | EntryFlags::REGISTERED_BY_LB | EntryFlags::CONFIDENT;
                let entry = WeightEntry { state: self.states[at], flags, weight: weight(self.endpoints[at], changed) };
                writer.entry(&WeightedMember { member: wire::member(&self.names[at]), entry });
            }
        }
        writer.finish().expect("a test's message fits");
    }

    fn pushed(&self, groups: &[&str], changed: bool) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_groups(Writer::send_weights(&mut out), groups, changed);
        out
    }

    fn pulled(&self, id: u32, groups: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_groups(Writer::get_weights_reply(&mut out, id, ReturnCode::SUCCESSFUL, 60), groups, true);
        out
    }

    /// The groups in which a weight changes.
    fn concerned(&self) -> Vec<&'static str> {
        let concerned = |group: &&str| Balancer::members(group).any(|at| self.endpoints[at] < CHANGED);
        ["A", "B"].into_iter().filter(concerned).collect()
    }

    /// Reads as many bytes as expected, and compares.
    fn expect(&self, expected: &[u8]) {
        let mut received = vec![0; expected.len()];
        let mut length = 0;
        while length < received.len() && received[..length] == expected[..length] {
            match self.peer.stream().read(&mut received[length..]) {
                Ok(0) => panic!("{}: the connection ended after {length} of {} bytes", self.uid, expected.len()),
                Ok(count) => length += count,
                Err(error) => panic!("{}: {length} of {} bytes came, then: {error}", self.uid, expected.len()),
            }
        }
        if received != expected {
            panic!("{}: expected\n{:02X?}\nreceived\n{:02X?}", self.uid, expected, &received[..length]);
        }
    }
}

fn code_reply(id: u32, kind: ComponentType) -> Vec<u8> {
    let mut out = Vec::new();
    writer::reply(&mut out, id, kind, ReturnCode::SUCCESSFUL);
    out
}

#[test]
fn ten_thousand_lbs_are_each_pushed_their_own_groups() {
    let needed = LBS as u64 + 1000;
    let mut limit = getrlimit(Resource::Nofile);
    assert!(
        limit.maximum.is_none_or(|maximum| maximum >= needed),
        "this test needs {needed} file descriptors: ulimit -Hn"
    );
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("a process may use its hard limit");

    let file = TempFile::new("thousands.toml", members_file(false));
    let limits = ["--max-connections", "10100", "--max-connections-per-source", "10100"];
    let flags = ["--shards", "1", "--members", file.path(), "--log-level", "warn"];
    let daemon = Daemon::start_alone(&[&flags[..], &limits].concat());
    let mut lbs: Vec<Balancer> = (0..LBS).map(|number| Balancer::new(number, daemon.connect())).collect();

    // All LBs are registered; the first push has everything.
    lbs.iter_mut().for_each(Balancer::register);
    for lb in &lbs {
        let mut expected = code_reply(1, ComponentType::REGISTRATION_REPLY);
        expected.extend(code_reply(2, ComponentType::SET_LB_STATE_REPLY));
        expected.extend(lb.pushed(&["A", "B"], false));
        lb.expect(&expected);
    }

    // Each LB changes another state: no two LBs get the same push.
    lbs.iter_mut().enumerate().for_each(|(number, lb)| lb.set_states(number));
    for lb in &lbs {
        let mut expected = code_reply(3, ComponentType::SET_MEMBER_STATE_REPLY);
        expected.extend(lb.pushed(&["A", "B"], false));
        lb.expect(&expected);
    }

    // Some weights change: pushes have only the groups with changes, and go only to their LBs.
    file.write(members_file(true));
    daemon.signal(Signal::HUP);
    let mut pushed = 0;
    for lb in &lbs {
        let groups = lb.concerned();
        if !groups.is_empty() {
            lb.expect(&lb.pushed(&groups, true));
            pushed += 1;
        }
    }
    assert!((1000..9000).contains(&pushed), "{pushed} of the LBs have a member whose weight changed");

    // Pipelined requests of all LBs. Any other push would come before the replies, and fail the test.
    for lb in &mut lbs {
        let uid = lb.uid.clone();
        let mut requests = wire::get_weights(4, &[(&uid, "B"), (&uid, "A")]);
        requests.extend(wire::lb_state(5, &uid, 0x40, LbFlags::PUSH | LbFlags::TRUST));
        requests.extend(wire::get_weights(6, &[(&uid, "")]));
        lb.peer.stream().write_all(&requests).expect("the daemon takes bytes");
    }
    for lb in &lbs {
        let mut expected = lb.pulled(4, &["B", "A"]);
        expected.extend(code_reply(5, ComponentType::SET_LB_STATE_REPLY));
        expected.extend(lb.pulled(6, &["A", "B"]));
        lb.expect(&expected);
    }
    for lb in &mut lbs {
        lb.peer.half_close();
    }
    for lb in &mut lbs {
        assert!(lb.peer.try_receive().is_ok_and(|message| message.is_none()), "{}: something came after all", lb.uid);
    }
    drop(lbs);
    daemon.stop();
}
