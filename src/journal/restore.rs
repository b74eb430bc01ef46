//! Rows → the tables of a coordinator that has none.

use std::time::Duration;

use bytes::Bytes;

use super::{
    date::Epoch,
    entry::Entry,
    rows::Row,
    store::{Result, Store, StoreError},
};
use crate::{
    coordinator::{CloseReason, ConnectionId, Coordinator, Held, Kind, Outbox},
    judgement::Last,
    limits,
    sasp::{GroupData, MemberData},
    time::Time,
};

/// How much was restored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Restored {
    /// Load balancers.
    pub load_balancers: usize,
    /// Their groups.
    pub groups: usize,
    /// The members of these groups.
    pub memberships: usize,
    /// Words of the operator.
    pub words: usize,
    /// Verdicts on endpoints that are watched.
    pub verdicts: usize,
    /// Entries to write first: they remove what is of no use any more, and bound the hold time of load balancers that do not
    /// come back, so that no further restart gives them another one.
    pub first: Vec<Entry>,
}

/// Nobody is connected while tables are restored: nothing is sent.
#[derive(Default)]
struct Nowhere(Vec<u8>);

impl Outbox for Nowhere {
    fn has_room(&self, _: u16) -> bool {
        false
    }

    fn buffer(&mut self, _: u16) -> &mut Vec<u8> {
        &mut self.0
    }

    fn commit(&mut self, _: ConnectionId, _: usize, _: Option<&Bytes>, _: Kind) {}

    fn close(&mut self, _: ConnectionId, _: CloseReason) {}
}

/// Gives an empty coordinator everything that is kept. Load balancers are held: those that had a connection for the whole
/// hold time from now on, others until the hold time that they had is over.
pub fn restore(store: &Store, coordinator: &mut Coordinator, now: Time, epoch: Epoch) -> Result<Restored> {
    let mut restored = Restored::default();
    let mut out = Nowhere::default();
    let age = Duration::from_millis(epoch.date(now).0.saturating_sub(store.past().alive_at.0));
    store.each_row(epoch, |row| {
        let fits = match row {
            Row::Word(word) => {
                restored.words += 1;
                restored.words <= limits::OPERATOR_WORDS && coordinator.restore_word(now, word, &mut out)
            }
            Row::LoadBalancer { uid, health, flags, held_until } => {
                restored.load_balancers += 1;
                if held_until.is_none() {
                    restored
                        .first
                        .push(Entry::Unbound { lb_uid: uid.clone(), held_until: now + coordinator.hold_time() });
                }
                let until = held_until.map(|date| epoch.time(date));
                coordinator.restore_load_balancer(now, &uid, health, flags, until)
            }
            Row::Group { lb_uid, name, members } => {
                restored.groups += 1;
                restored.memberships += members.len();
                let data = GroupData { lb_uid: &lb_uid, name: &name };
                let held = members.iter().map(|member| Held {
                    member: MemberData { endpoint: member.endpoint, label: &member.label },
                    by_lb: member.by_lb,
                    state: member.state,
                    quiesced: member.quiesced,
                });
                coordinator.restore_group(now, data, held)
            }
            Row::Verdicts { endpoint, verdicts, ramp_until } => {
                let ramp_until = ramp_until.map(|date| epoch.time(date)).filter(|until| *until > now);
                match coordinator.restore_verdicts(now, &endpoint, &Last { verdicts, ramp_until }, age) {
                    true => restored.verdicts += 1,
                    false => restored.first.push(Entry::Gone(endpoint)),
                }
                true
            }
        };
        if fits { Ok(()) } else { Err(StoreError::Damaged("a row contradicts another row".into())) }
    })?;
    coordinator.restore_word_number(store.past().last_word);
    Ok(restored)
}
