//! A load balancer's session with a GWM: registers, then keeps the table of weights up to date.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use super::{
    Client, Error, ErrorKind, GroupWeights, Source, Weights,
    spec::{GroupSpec, MemberSpec},
};
use crate::sasp::{
    ComponentType, EncodeError, EntryFlags, GroupData, Health, LbFlags, Message, Reason, ReturnCode, SenderFlags,
    Writer, message::SetLbStateRequest,
};

/// What a load balancer tells its GWM at the beginning of a session.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// The load balancer's UID.
    pub uid: Box<[u8]>,
    /// Groups to register.
    pub groups: Vec<GroupSpec>,
    /// Its health.
    pub health: Health,
    /// Push, trust, no-change/no-send.
    pub flags: LbFlags,
}

/// How many times a registration is tried, if others register the same members meanwhile.
const REGISTRATIONS: usize = 5;

/// A bound connection and its table.
pub struct Session {
    client: Client,
    uid: Box<[u8]>,
    timeout: Duration,
    /// Whether an entry that the GWM leaves out is unchanged.
    no_change: bool,
    weights: Weights,
    interval: Duration,
}

impl Session {
    /// Sets the LB's state on a new connection, registers the groups and members that are not registered yet, and asks
    /// for all weights. `timeout` bounds each reply.
    ///
    /// The state comes first: it binds the connection, and its reply decides how pushes are read. (A GWM that still holds
    /// this LB's earlier state may push before that.)
    pub fn open(client: Client, timeout: Duration, wishes: &Wishes) -> Result<Session, Error> {
        let mut session = Session {
            client,
            uid: wishes.uid.clone(),
            timeout,
            no_change: true, // the flags may be another session's: this reading loses nothing
            weights: Weights::default(),
            interval: Duration::from_secs(1),
        };
        let state = SetLbStateRequest { lb_uid: &wishes.uid, health: wishes.health, flags: wishes.flags };
        session
            .ask(ComponentType::SET_LB_STATE_REQUEST, |out, id| Message::SetLbStateRequest(state).encode(id, out))?;
        session.no_change = wishes.flags.contains(LbFlags::NO_CHANGE_NO_SEND);
        session.register(&wishes.groups)?;
        session.refresh()?;
        Ok(session)
    }

    /// Asks for the weights of all groups. Earlier pushes are applied first, so the table never becomes older.
    pub fn refresh(&mut self) -> Result<(), Error> {
        let uid = self.uid.clone();
        self.ask(ComponentType::GET_WEIGHTS_REQUEST, |out, id| {
            let mut writer = Writer::get_weights_request(out, id);
            writer.name(GroupData { lb_uid: &uid, name: b"" });
            writer.finish()
        })
    }

    /// Makes these groups and members the only ones that the load balancer has registered: deregisters other groups, and
    /// other members but those that registered themselves; registers what is missing. Asks for all weights if it did
    /// anything.
    pub fn keep_only(&mut self, groups: &[GroupSpec]) -> Result<(), Error> {
        let wanted = |name: &[u8]| groups.iter().find(|group| &*group.name == name);
        let surplus: Vec<GroupSpec> =
            self.weights.groups().iter().filter_map(|known| surplus(known, wanted(known.name()))).collect();
        let missing = groups.iter().any(|group| self.missing(group).is_some());
        if !surplus.is_empty() {
            let uid = &self.uid;
            let request =
                surplus.iter().map(|group| (group.data(uid), group.members.iter().map(|member| member.data())));
            match self.client.deregister(SenderFlags::LOAD_BALANCER, Reason::PURPOSEFUL, request) {
                // Someone else was faster: the next Get Weights tells.
                Err(error) if error.refusal().is_some() => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    for group in &surplus {
                        let left = group.members.iter().map(|member| member.endpoint).collect();
                        self.weights.remove(&group.name, &left);
                    }
                }
            }
        }
        if surplus.is_empty() && !missing {
            return Ok(());
        }
        self.refresh()?;
        self.register(groups)?;
        self.refresh()
    }

    /// Waits for a push, at most for `timeout`; says whether one came.
    pub fn next_push(&mut self, timeout: Duration) -> Result<bool, Error> {
        match self.client.next_push(timeout)? {
            None => Ok(false),
            Some(push) => {
                self.weights.apply(push.groups, Source::Push, self.no_change);
                Ok(true)
            }
        }
    }

    /// The table.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// How long to wait between two Get Weights, as the GWM says; at least a second.
    pub fn interval(&self) -> Duration {
        self.interval.max(Duration::from_secs(1))
    }

    /// Registers the groups and members that the table does not show. "Already registered" means that the GWM did
    /// nothing: it still had members from an earlier connection, or members registered themselves. Then this asks for
    /// the GWM's groups and registers the missing rest.
    fn register(&mut self, groups: &[GroupSpec]) -> Result<(), Error> {
        for attempt in 1.. {
            let missing: Vec<_> = groups.iter().filter_map(|group| self.missing(group)).collect();
            if missing.is_empty() {
                break;
            }
            let uid = &self.uid;
            let request =
                missing.iter().map(|(group, members)| (group.data(uid), members.iter().map(|member| member.data())));
            match self.client.register(SenderFlags::LOAD_BALANCER, request) {
                Ok(()) => break,
                Err(error) if error.refusal() == Some(ReturnCode::ALREADY_REGISTERED) && attempt < REGISTRATIONS => {
                    self.refresh()?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The members of a group that the table does not show; `None` if it shows all.
    fn missing<'g>(&self, group: &'g GroupSpec) -> Option<(&'g GroupSpec, Vec<&'g MemberSpec>)> {
        let Some(known) = self.weights.group(&group.name) else {
            return Some((group, group.members.iter().collect()));
        };
        let members: Vec<_> = group.members.iter().filter(|member| known.member(&member.endpoint).is_none()).collect();
        (!members.is_empty()).then_some((group, members))
    }

    /// Sends a request and applies all pushes that come before the reply.
    fn ask(
        &mut self,
        request: ComponentType,
        encode: impl FnOnce(&mut Vec<u8>, u32) -> Result<(), EncodeError>,
    ) -> Result<(), Error> {
        let awaited = self.client.send_with(encode)?;
        let deadline = Instant::now() + self.timeout;
        let code = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let unexpected = match self.client.receive(left)? {
                None => {
                    let kind = ErrorKind::TimedOut { doing: "get its reply", after: self.timeout };
                    return Err(self.client.error(kind));
                }
                Some((_, Message::SendWeights(push))) => {
                    self.weights.apply(push.groups, Source::Push, self.no_change);
                    continue;
                }
                Some((id, reply)) if id == awaited && request.reply() == Some(reply.component_type()) => match reply {
                    Message::GetWeightsReply(reply) => {
                        if reply.code == ReturnCode::SUCCESSFUL {
                            self.weights.apply(reply.groups, Source::AllGroups, self.no_change);
                            self.interval = Duration::from_secs(reply.interval_seconds.into());
                        }
                        break reply.code;
                    }
                    Message::SetLbStateReply(code) => break code,
                    other => ErrorKind::Unexpected { message: other.component_type(), id },
                },
                Some((id, other)) => ErrorKind::Unexpected { message: other.component_type(), id },
            };
            return Err(self.client.error(unexpected));
        };
        if code == ReturnCode::SUCCESSFUL {
            return Ok(());
        }
        Err(self.client.error(ErrorKind::Refused { request, code }))
    }
}

/// What of a known group is not wanted: the whole group, which then has no members here, or some members.
fn surplus(known: &GroupWeights, wanted: Option<&GroupSpec>) -> Option<GroupSpec> {
    let name = known.name().into();
    let Some(wanted) = wanted else { return Some(GroupSpec { lb: None, name, members: Vec::new() }) };
    let stays: HashSet<_> = wanted.members.iter().map(|member| member.endpoint).collect();
    let own = known.members().iter().filter(|member| member.entry.flags.contains(EntryFlags::REGISTERED_BY_LB));
    let leave = own.filter(|member| !stays.contains(&member.endpoint));
    let members: Vec<_> =
        leave.map(|member| MemberSpec { endpoint: member.endpoint, label: member.label.as_slice().into() }).collect();
    (!members.is_empty()).then_some(GroupSpec { lb: None, name, members })
}

/// The wait and up to a tenth more, at random: so that clients of one GWM do not come back together.
pub fn with_jitter(wait: Duration) -> Duration {
    // The standard library's hasher has random keys.
    let random = RandomState::new().hash_one(0) as f64 / u64::MAX as f64;
    wait.mul_f64(1.0 + random * 0.1)
}
