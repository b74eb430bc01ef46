//! Blindness and doubts; `coordinator/worlds.rs` and `coordinator/doubts.rs` have the rules in words.

use super::*;

/// This machine's own addresses, or others.
#[derive(Default)]
pub(crate) struct World {
    sight: Sight,
    /// The longest fall window, and the longest time to fall or to rise, of endpoints that lost contact.
    fall_window: u64,
    recovery: u64,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Sight {
    #[default]
    Clear,
    Blind,
    Recovering(u64),
}

/// What is known of a group.
#[derive(Clone, Default)]
pub(crate) struct Doubt {
    /// The group has to be looked at.
    pub(crate) suspect: bool,
    /// The first loss that counts, and the end, while the group is in doubt.
    open: Option<(u64, u64)>,
    /// When the last doubt ended.
    settled: Option<u64>,
}

impl World {
    pub(crate) fn is_blind(&self) -> bool {
        self.sight == Sight::Blind
    }
}

impl Doubt {
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }
}

/// The number of an endpoint's world.
pub(crate) fn world(settings: &Settings, endpoint: &Endpoint) -> usize {
    usize::from(!settings.own_addresses.contains(endpoint.ip()))
}

impl Model {
    pub(crate) fn blind(&self) -> [bool; 2] {
        [0, 1].map(|world| self.worlds[world].is_blind())
    }

    pub(crate) fn set_own_addresses(&mut self, now: u64, own_addresses: Arc<gwm::network::OwnAddresses>) {
        let before: Vec<usize> = self.watched.keys().map(|endpoint| world(&self.settings, endpoint)).collect();
        self.settings.own_addresses = own_addresses;
        for ((endpoint, watched), before) in self.watched.iter_mut().zip(before) {
            watched.pending &= world(&self.settings, endpoint) == before;
        }
        self.everything_changed(now);
        self.decide(now);
    }

    pub(super) fn judge_one(&mut self, now: u64, endpoint: &Endpoint, word: &Word) {
        let world = &mut self.worlds[world(&self.settings, endpoint)];
        let member = self.settings.roster.find(endpoint);
        let watched = self.watched.get_mut(endpoint).expect("it is watched");
        let had = watched.contact;
        let moved = watched.judge(now, word, member);
        watched.pending &= !watched.contact || world.is_blind();
        if had && !watched.contact {
            let times = member.times;
            world.fall_window = world.fall_window.max(nanoseconds(times.fall_window()));
            world.recovery = world.recovery.max(nanoseconds(times.fall_window().max(times.rise_window())));
        }
        if moved && self.settings.panic_percent < 100 {
            for group in self.lbs.values_mut().flat_map(|lb| &mut lb.groups) {
                group.doubt.suspect |= group.members.iter().any(|member| member.endpoint == *endpoint);
            }
        }
    }

    /// These members were registered: groups with members that were lost lately have to be looked at.
    pub(super) fn suspect_lost(&mut self, now: u64, groups: &[Named]) {
        let is_lost = |endpoint: &Endpoint| {
            let Some(watched) = self.watched.get(endpoint) else { return false };
            let world = &self.worlds[world(&self.settings, endpoint)];
            let lately = world.fall_window + nanoseconds(self.settings.panic_time);
            let unsure = watched.pending || world.is_blind();
            watched.been_up && !watched.contact && !unsure && watched.loss.0 + lately > now
        };
        for named in groups.iter().filter(|named| named.items.iter().any(|item| is_lost(&item.endpoint))) {
            let lb = self.lbs.get_mut(&named.uid).expect("it is known");
            let group = lb.groups.iter_mut().find(|group| group.name == named.name).expect("just registered");
            group.doubt.suspect |= self.settings.panic_percent < 100;
        }
    }

    /// Applies the rule of blindness to both worlds.
    pub(super) fn decide(&mut self, now: u64) {
        for number in 0..2 {
            let here = |endpoint: &Endpoint| world(&self.settings, endpoint) == number;
            let there: Vec<_> = self.watched.iter().filter(|(endpoint, _)| here(endpoint)).collect();
            let addresses = |which: fn(&Watched) -> bool| {
                let which = there.iter().filter(|(_, watched)| which(watched));
                which.map(|(endpoint, _)| endpoint.canonical().address).collect::<BTreeSet<_>>().len()
            };
            let (answered, lost) = (addresses(|watched| watched.has_answered), addresses(|watched| !watched.contact));
            let state = &self.worlds[number];
            let reason = match state.is_blind() {
                true => answered + lost > 0,
                false => answered >= 2 || answered == 0 && lost >= 2,
            };
            let blind = reason && there.iter().all(|(_, watched)| !watched.answers);
            let (sight, event) = match state.sight {
                Sight::Blind if blind => continue,
                _ if blind => (Sight::Blind, "blind"),
                Sight::Blind => (Sight::Recovering(now + state.recovery), "blind no more"),
                Sight::Recovering(until) if until <= now => (Sight::Clear, "recovered"),
                _ => continue,
            };
            let lately = state.fall_window + nanoseconds(self.settings.panic_time);
            for (endpoint, watched) in &mut self.watched {
                if world(&self.settings, endpoint) != number {
                    continue;
                }
                if sight == Sight::Blind {
                    watched.lost &= watched.loss.0 + lately > now;
                }
                watched.pending = matches!(sight, Sight::Recovering(_)) && watched.lost;
            }
            self.worlds[number].sight = sight;
            *self.seen.entry(event).or_default() += 1;
            self.everything_changed(now);
        }
    }

    /// Any entry of any group may have changed.
    fn everything_changed(&mut self, now: u64) {
        let groups = |lb: &Lb| lb.groups.iter().map(|group| group.id).collect::<Vec<_>>();
        for lb in self.lbs.values_mut() {
            for group in groups(lb) {
                lb.group_changed(now, group, &self.settings);
            }
        }
    }

    /// Ends the doubts whose time is over.
    pub(super) fn end_doubts(&mut self, now: u64) {
        for lb in self.lbs.values_mut() {
            for at in 0..lb.groups.len() {
                let group = &mut lb.groups[at];
                if group.doubt.open.is_some_and(|(_, until)| until <= now) {
                    (group.doubt.open, group.doubt.settled) = (None, Some(now));
                    *self.seen.entry("doubt over").or_default() += 1;
                    let id = group.id;
                    lb.group_changed(now, id, &self.settings);
                }
            }
        }
    }

    /// Applies the rule of doubt to those suspected groups that are wanted by UID and name.
    pub(super) fn weigh_suspects(&mut self, now: u64, wanted: impl Fn(&[u8], &[u8]) -> bool) {
        let before = self.view();
        for (uid, lb) in &mut self.lbs {
            for at in 0..lb.groups.len() {
                let group = &mut lb.groups[at];
                if !wanted(uid, &group.name) || !std::mem::take(&mut group.doubt.suspect) {
                    continue;
                }
                let mut up = 0;
                let mut losses = Vec::new();
                for Membership { endpoint, .. } in &group.members {
                    let Some(watched) = self.watched.get(endpoint).filter(|watched| watched.been_up) else { continue };
                    match () {
                        () if watched.pending || self.worlds[world(&self.settings, endpoint)].is_blind() => {}
                        () if watched.contact => up += 1,
                        () => losses.push((watched.loss, endpoint.canonical().address)),
                    }
                }
                let doubt = &mut group.doubt;
                losses.retain(|((at, _), _)| doubt.open.is_some() || doubt.settled.is_none_or(|settled| *at > settled));
                let from = match doubt.open {
                    Some((from, _)) => from,
                    None => {
                        let since = losses.iter().map(|((_, since), _)| *since).max().unwrap_or(0);
                        since.max(doubt.settled.map_or(0, |settled| settled + 1))
                    }
                };
                losses.retain(|((at, _), _)| *at >= from);
                let addresses: BTreeSet<_> = losses.iter().map(|(_, address)| address).collect();
                let share = 100.0 * losses.len() as f64 / (losses.len() + up).max(1) as f64;
                let many = share > f64::from(self.settings.panic_percent);
                let event = match doubt.open {
                    None if many && addresses.len() >= 2 && !self.settings.panic_time.is_zero() => {
                        doubt.open = Some((from, now + nanoseconds(self.settings.panic_time)));
                        for Membership { endpoint, .. } in &group.members {
                            let lately = self.worlds[world(&self.settings, endpoint)].fall_window
                                + nanoseconds(self.settings.panic_time);
                            if let Some(watched) = self.watched.get_mut(endpoint) {
                                watched.lost &= watched.loss.0 + lately > now;
                            }
                        }
                        "doubt"
                    }
                    Some(_) if !many => {
                        (doubt.open, doubt.settled) = (None, Some(now));
                        "members are back"
                    }
                    _ => continue,
                };
                *self.seen.entry(event).or_default() += 1;
                let id = group.id;
                lb.group_changed(now, id, &self.settings);
            }
        }
        self.open_windows(now, &before, false);
    }

    /// When blindness or a doubt ends though nothing happens.
    pub(super) fn next_turn(&self) -> Option<u64> {
        let recoveries = self.worlds.iter().filter_map(|world| match world.sight {
            Sight::Recovering(until) => Some(until),
            _ => None,
        });
        let groups = self.lbs.values().flat_map(|lb| &lb.groups);
        recoveries.chain(groups.filter_map(|group| group.doubt.open.map(|(_, until)| until))).min()
    }
}

impl Lb {
    /// Any entry of the group may have changed.
    fn group_changed(&mut self, now: u64, group: u64, settings: &Settings) {
        if let Some(session) = self.session.as_mut().filter(|_| self.flags & wire::PUSH != 0) {
            session.window.get_or_insert(now + nanoseconds(settings.push_window));
            session.changed.insert(group);
        }
    }
}
