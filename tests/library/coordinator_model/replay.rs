//! A coordinator's changes, applied to an empty coordinator, make the same tables. So do the rows on disk that the changes
//! make.

use std::time::Duration;

use fastrand::Rng;
use gwm::{
    coordinator::{Change, CloseReason, ConnectionId, Coordinator, Settings, Time, Word},
    journal::{self, Date, Entry, Epoch, Store},
    sasp::{Endpoint, EntryFlags, GroupData, Message, Writer},
};
use redb::backends::InMemoryBackend;

use super::SHARDS;
use crate::outbox::Recorder;

/// A change that outlives the message that it came from.
pub(crate) enum Recorded {
    Bind(Vec<u8>, ConnectionId),
    Unbind(Vec<u8>, Option<CloseReason>),
    Forget(Vec<u8>),
    Say(Word),
    Unsay(u64, Option<String>),
    /// The request, encoded again.
    Request(Vec<u8>),
}

impl Recorded {
    pub(crate) fn new(change: &Change<'_>) -> Recorded {
        match *change {
            Change::Bind { lb_uid, connection } => Recorded::Bind(lb_uid.to_vec(), connection),
            Change::Unbind { lb_uid, close } => Recorded::Unbind(lb_uid.to_vec(), close),
            Change::Forget { lb_uid } => Recorded::Forget(lb_uid.to_vec()),
            Change::Say(word) => Recorded::Say(word.clone()),
            Change::Unsay { number, by } => Recorded::Unsay(number, by.map(str::to_owned)),
            _ => match Entry::new(Time::default(), change, Duration::ZERO) {
                Entry::Request(bytes) => Recorded::Request(bytes.into()),
                other => panic!("{other:?} is no request"),
            },
        }
    }

    /// The change, as it was.
    pub(crate) fn with<R>(&self, act: impl FnOnce(&Change<'_>) -> R) -> R {
        act(&match self {
            Recorded::Bind(lb_uid, connection) => Change::Bind { lb_uid, connection: *connection },
            Recorded::Unbind(lb_uid, close) => Change::Unbind { lb_uid, close: *close },
            Recorded::Forget(lb_uid) => Change::Forget { lb_uid },
            Recorded::Say(word) => Change::Say(word),
            Recorded::Unsay(number, by) => Change::Unsay { number: *number, by: by.as_deref() },
            Recorded::Request(bytes) => match Message::decode(bytes).expect("it was a message before").1 {
                Message::RegistrationRequest(request) => Change::Register(request),
                Message::DeregistrationRequest(request) => Change::Deregister(request),
                Message::SetLbStateRequest(request) => Change::SetLbState(request),
                Message::SetMemberStateRequest(request) => Change::SetMemberState(request),
                other => panic!("{other:?} changes nothing"),
            },
        })
    }

    fn replay(&self, now: Time, coordinator: &mut Coordinator, out: &mut Recorder) {
        self.with(|change| assert!(coordinator.replay(now, change, out), "{change:?} does not fit"));
    }
}

/// A membership as Get Weights shows it, without the monitor's verdict.
type Shown = (Vec<u8>, Endpoint, Vec<u8>, u8, EntryFlags);

/// The names of an LB's groups, and all memberships in their order, by Get Weights on a new connection.
fn listing(coordinator: &mut Coordinator, now: Time, lb_uid: &[u8], slot: u32) -> (Vec<Vec<u8>>, Vec<Shown>) {
    let connection = ConnectionId { shard: 0, slot: 1_000 + slot, generation: 0 };
    coordinator.opened(connection, std::net::IpAddr::from([127, 0, 0, 1]).into());
    let mut out = Recorder::default();
    let mut bytes = Vec::new();
    let mut request = Writer::get_weights_request(&mut bytes, 1);
    request.name(GroupData { lb_uid, name: b"" });
    request.finish().expect("a UID fits");
    let (_, message) = Message::decode(&bytes).expect("it is well-formed");
    coordinator.request(now, connection, 1, &message, &mut out);
    let (sent, _) = out.take();
    let Message::GetWeightsReply(reply) = Message::decode(&sent[0].bytes).expect("a reply is well-formed").1 else {
        panic!("no reply to Get Weights")
    };
    let mut names = Vec::new();
    let mut members = Vec::new();
    for group in reply.groups {
        names.push(group.data.name.to_vec());
        for entry in group.entries() {
            let flags = EntryFlags(entry.entry.flags.0 & (EntryFlags::QUIESCED.0 | EntryFlags::REGISTERED_BY_LB.0));
            let label = entry.member.label.to_vec();
            members.push((group.data.name.to_vec(), entry.member.endpoint, label, entry.entry.state, flags));
        }
    }
    (names, members)
}

/// Replays all changes on an empty coordinator and compares its tables with those of `real`. So with a coordinator that is
/// made from the state on disk after these changes.
pub(crate) fn check(
    mut real: Coordinator,
    now: Time,
    settings: Settings,
    changes: &[(Time, Recorded)],
    uids: &[Vec<u8>],
    mut rng: Rng,
) {
    // Replay checks no limits: with limits of 0, any check would fail.
    let settings =
        Settings { max_load_balancers: 0, max_groups: 0, max_memberships: 0, max_members_per_group: 0, ..settings };
    let mut replica = Coordinator::new(settings.clone(), SHARDS);
    let mut out = Recorder::default();
    for (at, change) in changes {
        change.replay(*at, &mut replica, &mut out);
    }
    assert_eq!(real.deregistrations(), replica.deregistrations());
    let mut restored = Coordinator::new(settings.clone(), SHARDS);
    let mut store = Store::open_on(InMemoryBackend::new()).expect("memory is a disk");
    let entries: Vec<_> =
        changes.iter().map(|(at, change)| change.with(|change| Entry::new(*at, change, settings.hold_time))).collect();
    let mut rest = &entries[..];
    while !rest.is_empty() {
        let (batch, more) = rest.split_at(rng.usize(1..=rest.len().min(100)));
        store.apply(batch, Epoch::default(), Date::default()).expect("memory is a disk");
        rest = more;
    }
    let found = journal::restore(&store, &mut restored, now, Epoch::default()).expect("the rows fit");
    let totals = real.totals();
    assert_eq!(
        (found.load_balancers, found.groups, found.memberships),
        (totals.load_balancers, totals.groups, totals.memberships)
    );
    for coordinator in [&mut real, &mut replica, &mut restored] {
        coordinator.set_access(now, std::sync::Arc::default(), &mut out);
    }
    for (round, mut other) in (0..).zip([replica, restored]) {
        let again = other.totals();
        assert_eq!(
            (totals.load_balancers, totals.groups, totals.memberships, totals.endpoints),
            (again.load_balancers, again.groups, again.memberships, again.endpoints)
        );
        for (slot, lb_uid) in (0..).zip(uids) {
            let slot = slot + 1_000 * round; // a connection is used once
            assert_eq!(real.lb_state(lb_uid), other.lb_state(lb_uid), "{lb_uid:?}");
            assert_eq!(listing(&mut real, now, lb_uid, slot), listing(&mut other, now, lb_uid, slot), "{lb_uid:?}");
        }
    }
}
