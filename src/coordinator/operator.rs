//! What the operator does to the running daemon: words, and the end of load balancers. Each act is checked first, and is a
//! [`Change`] then, as a request of a peer is.

use super::{
    Coordinator, Time,
    change::{Change, CloseReason},
    check::Found,
    feed::Event,
    history::{By, InGroup, What, Who},
    ids::GroupId,
    listing::Step,
    outbox::Outbox,
    words::{Pattern, Saying, Word, WordRefused},
};
use crate::sasp::{GroupData, message::SetMemberStateRequest};

/// Something that the operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// To say a word. Its number and time are set when it is taken.
    Say(Word),
    /// To end fixed weights of endpoints that match.
    Release {
        /// Which endpoints.
        pattern: Pattern,
        /// Who ends them and why, as [`author`](super::author) has it.
        by: Box<str>,
    },
    /// To close the connection of this load balancer.
    Drop(Box<[u8]>),
    /// To forget this load balancer, which is not connected.
    Forget(Box<[u8]>),
}

/// What an act did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acted {
    /// The number of the word that is in force now.
    pub said: Option<u64>,
    /// The numbers of the words that ended.
    pub unsaid: Vec<u64>,
}

/// Why an act is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActRefused {
    /// The word is not taken.
    Word(WordRefused),
    /// No load balancer has this UID.
    UnknownLb,
    /// The load balancer is not connected to this node.
    NotConnected,
    /// The load balancer is connected, perhaps to another node of the fleet: it is dropped first, there.
    Connected,
    /// The disk takes no changes, so nothing is changed.
    Disk,
}

impl Coordinator {
    /// Keeps changes and events from now on, for those who ask and those who follow.
    pub fn keep_history(&mut self) {
        self.tables.endpoints.history.turn_on();
        self.tables.endpoints.feed.turn_on();
    }

    /// Does what the operator wants, or refuses it and changes nothing.
    pub fn act(&mut self, now: Time, act: Act, out: &mut impl Outbox) -> Result<Acted, ActRefused> {
        let words = &self.tables.endpoints.words;
        match act {
            Act::Say(word) => {
                if let Saying::Weight(weight) = word.saying
                    && weight > self.settings.weight_max
                {
                    return Err(ActRefused::Word(WordRefused::Weight(self.settings.weight_max)));
                }
                let plan = words.plan(word.saying, &word.pattern).map_err(ActRefused::Word)?;
                let word = Word { number: words.next_number(now), at: now.into(), ..word };
                self.end(now, &plan.unsaid, &word.author(), out);
                if plan.said {
                    self.apply(now, Change::Say(&word), Found::default(), out);
                }
                self.sweep(now);
                Ok(Acted { said: plan.said.then_some(word.number), unsaid: plan.unsaid })
            }
            Act::Release { pattern, by } => {
                let plan = words.plan_release(&pattern).map_err(ActRefused::Word)?;
                self.end(now, &plan.unsaid, &by, out);
                self.sweep(now);
                Ok(Acted { said: None, unsaid: plan.unsaid })
            }
            Act::Drop(lb_uid) => {
                let lb = self.tables.find_lb(&lb_uid).ok_or(ActRefused::UnknownLb)?;
                self.tables.lbs[lb].connection.ok_or(ActRefused::NotConnected)?;
                let change = Change::Unbind { lb_uid: &lb_uid, close: Some(CloseReason::Operator) };
                self.apply(now, change, Found::default(), out);
                Ok(Acted::default())
            }
            Act::Forget(lb_uid) => {
                let lb = self.tables.find_lb(&lb_uid).ok_or(ActRefused::UnknownLb)?;
                if self.tables.lbs[lb].is_connected() {
                    return Err(ActRefused::Connected);
                }
                self.apply(now, Change::Forget { lb_uid: &lb_uid }, Found::default(), out);
                Ok(Acted::default())
            }
        }
    }

    fn end(&mut self, now: Time, numbers: &[u64], by: &str, out: &mut impl Outbox) {
        for &number in numbers {
            self.apply(now, Change::Unsay { number, by: Some(by) }, Found::default(), out);
        }
    }

    /// Ends the words whose time is over, and the exceptions from them.
    pub(super) fn end_words(&mut self, now: Time, out: &mut impl Outbox) {
        let expired = self.tables.endpoints.words.expired(now);
        if expired.is_empty() {
            return;
        }
        let orphans = self.tables.endpoints.words.orphans(&expired);
        for number in expired {
            self.apply(now, Change::Unsay { number, by: None }, Found::default(), out);
        }
        self.end(now, &orphans, "the end of the quiesce that the word was an exception from", out);
    }

    pub(super) fn say(&mut self, now: Time, word: &Word) {
        let known = self.tables.endpoints.words.say(word.clone());
        self.tables.endpoints.authors.said(known);
        self.review(now, word);
    }

    pub(super) fn unsay(&mut self, now: Time, number: u64, by: Option<&str>, out: &mut impl Outbox) {
        if let Some(word) = self.tables.endpoints.words.unsay(number) {
            if by.is_none() {
                out.expired(&word);
            }
            let over = || format!("the end of the word of {}", word.author());
            let end = by.map_or_else(over, str::to_owned);
            self.tables.endpoints.authors.unsaid(word.clone(), &end);
            self.review(now, &word);
        }
    }

    /// A word has come or gone.
    fn review(&mut self, now: Time, word: &Word) {
        if word.pattern.is_of_endpoints() {
            self.review_endpoints(now, &word.pattern);
        }
        // A resume of endpoints is an exception from words about groups, too.
        if !word.pattern.is_of_endpoints() || word.saying == Saying::Resume {
            self.review_memberships(&word.pattern);
        }
    }

    /// Tells those who follow of a change that is applied next.
    pub(super) fn tell(&mut self, change: &Change<'_>) {
        let feed = &mut self.tables.endpoints.feed;
        if !feed.is_on() {
            return;
        }
        let mut of_lb = |lb_uid: &[u8], change| feed.note(|| Event::LoadBalancer { lb_uid: lb_uid.into(), change });
        match change {
            Change::Bind { lb_uid, .. } | Change::Elsewhere { lb_uid, .. } => return of_lb(lb_uid, "bound"),
            Change::Unbind { lb_uid, .. } | Change::Hold { lb_uid, .. } => return of_lb(lb_uid, "unbound"),
            Change::Forget { lb_uid } => return of_lb(lb_uid, "forgotten"),
            Change::SetLbState(request) => return of_lb(request.lb_uid, "stated"),
            Change::Say(_) | Change::Unsay { .. } => return feed.note(|| Event::Words),
            Change::Register(_) | Change::Deregister(_) | Change::SetMemberState(_) => {}
        }
        let mut of_group = |GroupData { lb_uid, name }: GroupData<'_>, change| {
            feed.note(|| Event::Group { lb_uid: lb_uid.into(), group: name.into(), change });
        };
        match change {
            Change::Register(request) => {
                request.groups.into_iter().for_each(|group| of_group(group.data, "registered"))
            }
            Change::Deregister(request) => {
                request.groups.into_iter().for_each(|group| of_group(group.data, "deregistered"));
            }
            Change::SetMemberState(SetMemberStateRequest { groups, .. }) => {
                groups.into_iter().for_each(|group| of_group(group.data, "stated"));
            }
            _ => {}
        }
    }

    /// Keeps who is quiesced or resumed by these steps, which are applied to the group next.
    pub(super) fn remember_quiesces(&mut self, now: Time, group: GroupId, steps: &[Step]) {
        if !self.tables.endpoints.history.is_on() {
            return;
        }
        let known = &self.tables.groups[group];
        let uid = self.tables.lbs[known.lb].uid.clone();
        let name: Box<[u8]> = known.name().into();
        for step in steps {
            let listing = self.tables.listing(group);
            let slot = |endpoint| listing.find(endpoint).map(|slot| *listing.slot(slot));
            let endpoints = &self.tables.endpoints;
            let (id, quiesce, before, by) = match *step {
                Step::State { endpoint, quiesce, .. } => {
                    (endpoint, quiesce, slot(endpoint).is_some_and(|slot| slot.is_quiesced()), By::Sasp)
                }
                Step::Word { endpoint, quiesce } => {
                    let named = endpoints.endpoint(endpoint);
                    let author = match quiesce {
                        true => endpoints.words.quiescing(&uid, &name, &named).map(|word| word.author().into()),
                        false => endpoints.authors.of_resume(Some((&uid, &name)), &named),
                    };
                    let by = By::Operator(author.unwrap_or_else(|| "the operator".into()));
                    (endpoint, quiesce, slot(endpoint).is_some_and(|slot| slot.is_quiesced_by_operator()), by)
                }
                _ => continue,
            };
            let group = || Some(InGroup { lb_uid: uid.clone(), name: name.clone() });
            let who = || Box::new(Who { by, group: group() });
            match (before, quiesce) {
                (false, true) => self.tables.endpoints.remember(now, id, What::Quiesced(who())),
                (true, false) => self.tables.endpoints.remember(now, id, What::Resumed(who())),
                _ => {}
            }
        }
    }
}
