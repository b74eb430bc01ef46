//! One connection of a load balancer: what it says first, and the table that it keeps up to date from then on.

use std::time::{Duration, Instant};

use super::groups::{GroupSpec, MemberSpec};
use super::target::Target;
use crate::{
    client::{Client, Error, ErrorKind, Source, Weights},
    sasp::{
        ComponentType, EncodeError, GroupData, Health, LbFlags, Message, ReturnCode, SenderFlags, Writer,
        message::SetLbStateRequest,
    },
};

/// What an LB wants of its GWM.
#[derive(Clone, Debug)]
pub(crate) struct Wishes {
    /// Its UID.
    pub(crate) uid: String,
    /// Groups to register.
    pub(crate) groups: Vec<GroupSpec>,
    /// Its health.
    pub(crate) health: Health,
    /// Push, trust, no-change/no-send.
    pub(crate) flags: LbFlags,
}

/// How often a registration that others disturb is tried again.
const REGISTRATIONS: usize = 5;

/// A bound connection and its table.
pub(crate) struct Session {
    client: Client,
    uid: String,
    timeout: Duration,
    /// Whether what is not mentioned is unchanged.
    no_change: bool,
    weights: Weights,
    interval: Duration,
}

impl Session {
    /// Connects, sets the LB's state, registers what is not registered yet, and asks for all weights.
    ///
    /// The state comes first: it binds the connection, and from its reply on it is known how pushes are to be
    /// read. (A GWM that still holds this LB's earlier state may push from the first moment.)
    pub(crate) fn open(target: &Target, wishes: &Wishes) -> Result<Session, Error> {
        let client = target.connect()?;
        let mut session = Session {
            client,
            uid: wishes.uid.clone(),
            timeout: target.timeout,
            no_change: true, // under flags set by someone else, losing nothing is the safe reading
            weights: Weights::default(),
            interval: Duration::from_secs(1),
        };
        let uid = wishes.uid.as_bytes();
        let state = SetLbStateRequest { lb_uid: uid, health: wishes.health, flags: wishes.flags };
        session
            .ask(ComponentType::SET_LB_STATE_REQUEST, |out, id| Message::SetLbStateRequest(state).encode(id, out))?;
        session.no_change = wishes.flags.contains(LbFlags::NO_CHANGE_NO_SEND);
        session.register(&wishes.groups)?;
        session.refresh()?;
        Ok(session)
    }

    /// Asks for the weights of all groups; earlier pushes are applied first, so that the table is never older than it was.
    pub(crate) fn refresh(&mut self) -> Result<(), Error> {
        let uid = self.uid.clone();
        self.ask(ComponentType::GET_WEIGHTS_REQUEST, |out, id| {
            let mut writer = Writer::get_weights_request(out, id);
            writer.name(GroupData { lb_uid: uid.as_bytes(), name: b"" });
            writer.finish()
        })
    }

    /// Waits for a push, at most so long; whether one came.
    pub(crate) fn next_push(&mut self, timeout: Duration) -> Result<bool, Error> {
        match self.client.next_push(timeout)? {
            None => Ok(false),
            Some(push) => {
                self.weights.apply(push.groups, Source::Push, self.no_change);
                Ok(true)
            }
        }
    }

    /// What is known now.
    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }

    /// How long the GWM wants to be left alone between two Get Weights; at least a second.
    pub(crate) fn interval(&self) -> Duration {
        self.interval.max(Duration::from_secs(1))
    }

    /// Registers what is not there yet. "Already registered" means that nothing was done: the GWM held some of
    /// it over a lost connection, or members registered themselves. So see what it has and register the rest.
    fn register(&mut self, groups: &[GroupSpec]) -> Result<(), Error> {
        for attempt in 1.. {
            let missing: Vec<_> = groups.iter().filter_map(|group| self.missing(group)).collect();
            if missing.is_empty() {
                break;
            }
            let uid = self.uid.as_str();
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

    /// What of a group the table does not show.
    fn missing<'g>(&self, group: &'g GroupSpec) -> Option<(&'g GroupSpec, Vec<&'g MemberSpec>)> {
        let Some(known) = self.weights.group(group.name.as_bytes()) else {
            return Some((group, group.members.iter().collect()));
        };
        let members: Vec<_> = group.members.iter().filter(|member| known.member(&member.endpoint).is_none()).collect();
        (!members.is_empty()).then_some((group, members))
    }

    /// Sends a request and takes what comes, in its order, up to the reply.
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
