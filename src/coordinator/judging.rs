//! Endpoints: the operator's roster and the monitor's judgements come in, watch orders go out.

use std::sync::Arc;

use super::{
    Coordinator, Time, WatchOrder,
    doubts::{Count, DoubtTurn, Doubted, Standing},
    endpoints::Judged,
    feed::Event,
    ids::{EndpointId, GroupId, Id},
    listing::{Step, Steps},
    outbox::Outbox,
    tables::Tables,
    verdicts::VerdictDelta,
    words::Pattern,
    worlds::World,
};
use crate::{
    judgement::{Judgement, StandingChange, WatchId},
    network::OwnAddresses,
    roster::Roster,
    sasp::Endpoint,
};

/// How many endpoints and groups one [`Coordinator::poll`] goes through at most.
const SWEEP_PER_POLL: usize = 4096;

/// How many members of suspected groups one [`Coordinator::poll`] looks at, about.
const MEMBERS_PER_POLL: usize = 1 << 16;

/// Patterns of the operator's words that one loop over groups applies one by one.
const PATTERNS: usize = 64;

/// How many notes in groups take as long as one endpoint.
const MARKS: usize = 32;

/// Loops over all endpoints or groups, done in pieces: where each loop is.
#[derive(Default)]
pub(super) struct Sweep {
    /// Over endpoints: the roster or the operator's words have changed.
    endpoints: Option<usize>,
    /// Over groups: the policy may have changed.
    policies: Option<usize>,
    /// Over groups: every entry may have changed, because a world became blind or sees again.
    all: Option<usize>,
    /// Over groups: the operator's words about their members have changed, as far as these patterns match.
    words: Option<usize>,
    concerned: Vec<Pattern>,
    /// What words that came during a loop need; see [`Coordinator::go_on`].
    next: NextLoops,
    /// When the last piece was done.
    at: Time,
    /// How many pieces were done since pushes went out last.
    pieces: usize,
}

/// The loops for words that came while such a loop was on its way.
#[derive(Default)]
struct NextLoops {
    endpoints: bool,
    concerned: Vec<Pattern>,
}

impl NextLoops {
    fn is_empty(&self) -> bool {
        !self.endpoints && self.concerned.is_empty()
    }
}

/// Adds a pattern to those that a loop over groups applies.
fn concern(patterns: &mut Vec<Pattern>, pattern: &Pattern) {
    // Many patterns cost more than to look at all groups.
    if patterns.len() >= PATTERNS {
        *patterns = vec![Pattern::default()];
    }
    patterns.push(pattern.clone());
}

impl Coordinator {
    /// When to go on with the loops and the suspected groups: at once, if there is more to do.
    pub(super) fn unfinished(&self) -> Option<Time> {
        let Sweep { endpoints, policies, all, words, at, .. } = self.sweep;
        let more = endpoints.or(policies).or(all).or(words).is_some() || self.tables.doubts.has_suspects();
        more.then_some(at)
    }

    /// When to begin the loops that wait for the end of others.
    pub(super) fn next_loops(&self) -> Option<Time> {
        (!self.sweep.next.is_empty()).then_some(self.sweep.at)
    }

    /// Puts a new roster in force: for new registrations at once, for existing ones in pieces, the first of them now
    /// and the others with [`Coordinator::poll`].
    ///
    /// An endpoint that stays watched keeps its verdicts until its shard, which has the new roster too, sends others.
    pub fn set_roster(&mut self, now: Time, roster: Arc<Roster>) {
        self.unmatched.set_roster(&roster);
        self.settings.roster = roster.clone();
        self.tables.endpoints.set_roster(roster);
        (self.sweep.endpoints, self.sweep.policies) = (Some(0), Some(0));
        self.sweep.next.endpoints = false;
        self.sweep(now);
    }

    /// Takes a shard's judgements. A judgement about an endpoint that is no longer watched, or under a later
    /// generation, changes nothing.
    pub fn judge(&mut self, now: Time, judgements: &[Judgement]) {
        for judgement in judgements {
            if let Some(judged) = self.tables.endpoints.take_judgement(now, judgement) {
                self.pass_on(now, &judged);
            }
        }
        self.decide(now);
    }

    /// What is known of an endpoint has changed: groups show it, or come to be in doubt.
    pub(super) fn pass_on(&mut self, now: Time, &Judged { endpoint, delta, moved }: &Judged) {
        self.spread(now, endpoint, delta);
        if moved {
            let Tables { endpoints, listings, doubts, .. } = &mut self.tables;
            let groups = endpoints.listings(endpoint).iter().flat_map(|&listing| &listings.get(listing).groups);
            groups.for_each(|&group| doubts.suspect(group));
        }
    }

    /// The endpoint that has this watch now, and how many groups list it.
    pub fn watched_as(&self, watch: WatchId) -> Option<(Endpoint, usize)> {
        let endpoint = self.tables.endpoints.watched_as(watch)?;
        Some((self.tables.endpoints.endpoint(endpoint), self.tables.groups_of(endpoint)))
    }

    /// When and why the standing of an endpoint changed last; `None` if no group lists the endpoint, or if it never
    /// changed.
    pub fn last_turn(&self, endpoint: &Endpoint) -> Option<&(Time, StandingChange)> {
        self.tables.endpoints.last_turn(self.tables.endpoints.find(endpoint)?)
    }

    /// Goes through all endpoints again: the nodes of the fleet, or what their checks are worth, have changed.
    pub(super) fn join_again(&mut self, now: Time) {
        self.sweep.endpoints = Some(0);
        self.sweep(now);
    }

    /// Replaces the addresses of this machine: their members are judged apart from others.
    pub fn set_own_addresses(&mut self, now: Time, own_addresses: Arc<OwnAddresses>) {
        self.tables.endpoints.set_own_addresses(own_addresses);
        self.sweep.all = Some(0);
        if self.tables.endpoints.shares.is_some() {
            self.sweep.endpoints = Some(0);
        }
        self.decide(now);
        self.sweep(now);
    }

    /// Whether the GWM is blind in a world: it shows no member there as confident, and members that lost contact lately
    /// with contact.
    pub fn is_blind(&self, world: World) -> bool {
        self.tables.endpoints.is_blind(world)
    }

    /// Whether [`Coordinator::take_watch_orders`] has orders.
    pub fn has_watch_orders(&self) -> bool {
        self.tables.endpoints.has_orders()
    }

    /// Takes the watch orders of one endpoint: the end of an old watch, the begin of a new watch, or both, in this
    /// order. Orders that cancel each other before they are taken are never given.
    pub fn take_watch_orders(&mut self) -> impl Iterator<Item = WatchOrder> + use<> {
        let shards = u16::try_from(self.connections.len()).expect("as many as the coordinator was made for");
        self.tables.endpoints.take_orders(shards).into_iter().flatten()
    }

    /// Does what is due by time: blindness, doubts, and the next piece of the loops.
    pub(super) fn reconsider(&mut self, now: Time, out: &mut impl Outbox) {
        self.decide(now);
        self.sweep(now);
        while let Some(id) = self.tables.endpoints.remembered.expire(now) {
            if self.tables.endpoints.get(id).is_some() {
                let delta = self.tables.endpoints.outlive(id);
                self.spread(now, id, delta);
            }
        }
        while let Some(judged) = self.tables.endpoints.next_in_time(now) {
            judged.iter().for_each(|judged| self.pass_on(now, judged));
        }
        while let Some(group) = self.tables.doubts.expire(now) {
            self.turn_doubt(now, group, DoubtTurn::TimeOver, None, out);
        }
        let mut left = MEMBERS_PER_POLL;
        while left > 0
            && let Some(group) = self.tables.doubts.next_suspect()
        {
            left = left.saturating_sub(1 + self.weigh(now, group, out));
        }
        self.sweep.at = now;
    }

    /// Applies the rule of blindness.
    fn decide(&mut self, now: Time) {
        for world in World::ALL {
            if self.tables.endpoints.decide(now, world) {
                self.tables.endpoints.feed.note(|| Event::Blind);
                self.sweep.all = Some(0);
                if self.tables.endpoints.shares.is_some() {
                    self.sweep.endpoints = Some(0);
                }
                self.sweep(now);
            }
        }
    }

    /// Applies the rule of doubt to a group; gives the number of members that were looked at.
    pub(super) fn weigh(&mut self, now: Time, group: GroupId, out: &mut impl Outbox) -> usize {
        let tables = &mut self.tables;
        let Some(known) = tables.groups.get(group) else { return 0 };
        let listing = tables.listings.get(known.listing);
        let members = listing.members().map(|endpoint| tables.endpoints.standing(endpoint));
        let lost = tables.endpoints.lost();
        let (certain, looked_at) = tables.doubts.is_certain(group, lost, listing.len(), members.clone());
        if certain {
            return looked_at;
        }
        let looked_at = looked_at + listing.len() as usize;
        if let Some((turn, count)) = tables.doubts.weigh(now, group, members) {
            self.turn_doubt(now, group, turn, Some(count), out);
        }
        looked_at
    }

    /// A doubt about a group has begun or ended.
    fn turn_doubt(&mut self, now: Time, group: GroupId, turn: DoubtTurn, count: Option<Count>, out: &mut impl Outbox) {
        self.tables.doubted[group] = turn == DoubtTurn::Began;
        if turn == DoubtTurn::Began {
            for endpoint in self.tables.listing(group).members().collect::<Vec<_>>() {
                let delta = self.tables.endpoints.forget_old_loss(now, endpoint);
                self.spread(now, endpoint, delta);
            }
        }
        let tables = &self.tables;
        let known = &tables.groups[group];
        let Count { lost, of } = count.unwrap_or_else(|| {
            tables.listing(group).members().fold(Count::default(), |count, endpoint| {
                match tables.endpoints.standing(endpoint) {
                    Standing::Up => Count { of: count.of + 1, ..count },
                    Standing::Lost(..) => Count { lost: count.lost + 1, of: count.of + 1 },
                    Standing::Unknown => count,
                }
            })
        });
        out.doubted(&Doubted { turn, lb_uid: &tables.lbs[known.lb].uid, group: known.name(), lost, of });
        let Tables { lbs, groups, endpoints, .. } = &mut self.tables;
        let known = &groups[group];
        endpoints.feed.note(|| Event::Group {
            lb_uid: lbs[known.lb].uid.clone(),
            group: known.name().into(),
            change: "doubt",
        });
        self.mark(now, group);
    }

    /// Notes a turn of the verdicts in every listing that has the endpoint, under a concerned policy.
    pub(super) fn spread(&mut self, now: Time, endpoint: EndpointId, change: VerdictDelta) {
        if change.words.is_empty() {
            return;
        }
        for at in 0..self.tables.endpoints.listings(endpoint).len() {
            let listing = self.tables.endpoints.listings(endpoint)[at];
            if change.words.contains(self.tables.listings.get(listing).policy) {
                self.mark_listing(now, listing, Some(endpoint));
            }
        }
    }

    /// The operator's words about endpoints have changed, as far as this pattern matches. A loop over all of them begins
    /// with the next [`Coordinator::sweep`]: many words that change together take one loop. If a loop is on its way, it
    /// ends first, so that it ends however many words come.
    pub(super) fn review_endpoints(&mut self, now: Time, pattern: &Pattern) {
        let Sweep { endpoints, next, .. } = &mut self.sweep;
        match pattern.endpoints() {
            Some(spellings) => spellings.iter().for_each(|endpoint| self.review_endpoint(now, endpoint)),
            None if endpoints.is_none_or(|at| at == 0) => *endpoints = Some(0),
            None => next.endpoints = true,
        }
    }

    fn review_endpoint(&mut self, now: Time, endpoint: &Endpoint) {
        let Some(id) = self.tables.endpoints.find(endpoint) else { return };
        if let Some(judged) = self.tables.endpoints.reassess(now, id) {
            self.pass_on(now, &judged);
        }
    }

    /// The same about memberships.
    pub(super) fn review_memberships(&mut self, pattern: &Pattern) {
        let Sweep { words, concerned, next, .. } = &mut self.sweep;
        if words.is_none_or(|at| at == 0) {
            *words = Some(0);
            concern(concerned, pattern);
        } else {
            concern(&mut next.concerned, pattern);
        }
    }

    /// Begins the loops that wait for the end of others, after a call of [`Coordinator::flush`]. While pushes are ready,
    /// they have as many calls as the loops before had pieces: words that come steadily hold no push up for long. A push
    /// between two loops may show a part of a newer word.
    pub(super) fn go_on(&mut self) {
        let Sweep { endpoints, words, concerned, next, pieces, .. } = &mut self.sweep;
        if *pieces > 0 && self.ready.iter().any(|ready| !ready.is_empty()) {
            *pieces -= 1;
            return;
        }
        *pieces = 0;
        if std::mem::take(&mut next.endpoints) {
            *endpoints = Some(0);
        }
        if !next.concerned.is_empty() {
            *words = Some(0);
            *concerned = std::mem::take(&mut next.concerned);
        }
    }

    /// Applies the operator's words to the members of a group; gives the number of members that were looked at.
    fn apply_words(&mut self, now: Time, id: GroupId) -> usize {
        let tables = &self.tables;
        let group = &tables.groups[id];
        let (uid, name) = (&*tables.lbs[group.lb].uid, group.name());
        let concerned: Vec<&Pattern> =
            self.sweep.concerned.iter().filter(|pattern| pattern.fits_group(uid, name)).collect();
        if concerned.is_empty() {
            return 0;
        }
        let listing = tables.listing(id);
        let mut steps = Steps::default();
        for (_, slot) in listing.live() {
            let endpoint = tables.endpoints.endpoint(slot.endpoint);
            if !concerned.iter().any(|pattern| pattern.fits_endpoint(&endpoint)) {
                continue;
            }
            let quiesce = tables.endpoints.words.quiesce(uid, name, &endpoint);
            if quiesce != slot.is_quiesced_by_operator() {
                steps.list.push(Step::Word { endpoint: slot.endpoint, quiesce });
            }
        }
        let looked_at = listing.len() as usize;
        if !steps.list.is_empty() {
            self.remember_quiesces(now, id, &steps.list);
            self.tables.change_members(id, &steps);
            self.mark(now, id);
        }
        looked_at
    }

    /// Does the next piece of the loops.
    pub(super) fn sweep(&mut self, now: Time) {
        self.sweep.at = now;
        self.sweep.pieces += usize::from(self.unfinished().is_some());
        let mut left = SWEEP_PER_POLL;
        let ends = (self.tables.endpoints.ids(), self.tables.groups.end());
        while let Some(id) = next(&mut self.sweep.endpoints, ends.0, &mut left) {
            let id = EndpointId::at(id);
            if let Some(judged) = self.tables.endpoints.reassess(now, id) {
                self.unmatched.has_endpoint(&self.tables.endpoints.endpoint(id), &self.settings.roster);
                left = left.saturating_sub(self.tables.groups_of(id) / MARKS);
                self.pass_on(now, &judged);
            }
        }
        while let Some(group) = next(&mut self.sweep.policies, ends.1, &mut left) {
            let group = GroupId::at(group);
            let Some(known) = self.tables.groups.get(group) else { continue };
            let (policy, entry) = self.settings.roster.policy_and_entry(known.name());
            self.unmatched.has_group(entry);
            if self.tables.set_policy(group, policy) {
                self.mark(now, group);
            }
        }
        while let Some(group) = next(&mut self.sweep.words, ends.1, &mut left) {
            let group = GroupId::at(group);
            if self.tables.groups.get(group).is_some_and(|group| !group.removed) {
                left = left.saturating_sub(self.apply_words(now, group));
            }
        }
        if self.sweep.words.is_none() {
            self.sweep.concerned.clear();
            if self.sweep.endpoints.is_none() && self.sweep.next.is_empty() {
                self.tables.endpoints.authors.settle();
            }
        }
        while let Some(group) = next(&mut self.sweep.all, ends.1, &mut left) {
            let group = GroupId::at(group);
            if let Some(known) = self.tables.groups.get(group) {
                self.mark_listing(now, known.listing, None);
            }
        }
    }
}

/// The next number of a loop up to `end`; `None` when the loop is over or nothing is `left` for this call.
fn next(walk: &mut Option<usize>, end: usize, left: &mut usize) -> Option<usize> {
    let at = (*walk)?;
    *left = left.checked_sub(1)?;
    *walk = (at < end).then_some(at + 1);
    walk.map(|_| at)
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use bytes::Bytes;

    use super::*;
    use crate::{
        coordinator::{Act, Acted, CloseReason, ConnectionId, Kind, Saying, Settings, Word},
        judgement::Policy,
        roster::Member,
        sasp::{GroupData, MemberData, Message, SenderFlags, Writer, component},
    };

    /// An outbox of which nothing is read.
    #[derive(Default)]
    struct Ignored(Vec<u8>);

    impl Outbox for Ignored {
        fn has_room(&self, _: u16) -> bool {
            true
        }
        fn buffer(&mut self, _: u16) -> &mut Vec<u8> {
            &mut self.0
        }
        fn commit(&mut self, _: ConnectionId, _: usize, _: Option<&Bytes>, _: Kind) {}
        fn close(&mut self, _: ConnectionId, _: CloseReason) {}
    }

    /// A coordinator that knows so many endpoints: ports of 10.0.0.0, 10.0.0.1 and so on, a hundred each.
    fn coordinator(endpoints: u32, out: &mut Ignored) -> Coordinator {
        let settings = Settings {
            hold_time: Duration::from_secs(60),
            poll_interval_seconds: 64,
            push_window: Duration::ZERO,
            push_refresh: Duration::from_secs(60),
            max_load_balancers: 10,
            max_groups: 1000,
            max_groups_per_lb: 1000,
            max_members_per_group: 1000,
            max_memberships_per_lb: 100_000,
            max_memberships: 100_000,
            weight_max: 100,
            roster: Arc::new(Roster::new(Member::unknown(100), Policy::Auto)),
            access: Arc::default(),
            icmp: false,
            panic_percent: 50,
            panic_time: Duration::from_secs(30),
            own_addresses: Arc::default(),
            hash_seed: 1,
        };
        let mut coordinator = Coordinator::new(settings, 1);
        let connection = ConnectionId { shard: 0, slot: 0, generation: 0 };
        coordinator.opened(connection, std::net::IpAddr::from(Ipv4Addr::LOCALHOST).into());
        for group in 0..endpoints / 100 {
            let mut bytes = Vec::new();
            let mut request = Writer::registration_request(&mut bytes, 1, SenderFlags::LOAD_BALANCER);
            request.group(GroupData { lb_uid: b"LB1", name: format!("G{group}").as_bytes() });
            for port in 1..=100 {
                let endpoint = Endpoint::new(address(group).into(), component::TCP, port);
                request.entry(&MemberData { endpoint, label: b"" });
            }
            request.finish().expect("a short message");
            let (header, message) = Message::decode(&bytes).expect("well-formed");
            coordinator.request(Time::default(), connection, header.id, &message, out);
        }
        assert_eq!(coordinator.totals().endpoints, endpoints as usize);
        coordinator
    }

    fn address(number: u32) -> Ipv4Addr {
        Ipv4Addr::from(0x0A00_0000 + number)
    }

    fn act(coordinator: &mut Coordinator, saying: Saying, pattern: Pattern, out: &mut Ignored) -> Acted {
        let (reason, by, from) = ("r".into(), "b".into(), "f".into());
        let word = Word { number: 0, saying, pattern, reason, by, from, at: Time::default().into(), expires: None };
        coordinator.act(Time::default(), Act::Say(word), out).expect("the word is taken")
    }

    #[test]
    fn many_words_that_end_together_take_one_loop() {
        let mut out = Ignored::default();
        let endpoints = 2 * SWEEP_PER_POLL as u32 / 100 * 100;
        let mut coordinator = coordinator(endpoints, &mut out);
        for number in 0..50 {
            let of_address = Pattern { address: Some(address(number).into()), ..Pattern::default() };
            act(&mut coordinator, Saying::Quiesce, of_address, &mut out);
            let of_group = Pattern { group: Some(format!("G{number}").as_bytes().into()), ..Pattern::default() };
            act(&mut coordinator, Saying::Quiesce, of_group, &mut out);
        }
        while coordinator.next_loops().or(coordinator.unfinished()).is_some() {
            coordinator.poll(Time::default(), &mut out);
        }
        assert_eq!(act(&mut coordinator, Saying::Resume, Pattern::default(), &mut out).unsaid.len(), 100);
        // One piece is done, as for one word: the loop over endpoints comes first.
        let Sweep { endpoints, words, ref next, .. } = coordinator.sweep;
        assert_eq!((endpoints, words, next.is_empty()), (Some(SWEEP_PER_POLL), Some(0), true));
        let mut polls = 0;
        while coordinator.unfinished().is_some() {
            coordinator.poll(Time::default(), &mut out);
            polls += 1;
        }
        // The rest of the endpoints, then a hundred members of each of the 50 groups.
        assert!((2..=4).contains(&polls), "{polls}");
        assert!(coordinator.next_loops().is_none());
    }
}
