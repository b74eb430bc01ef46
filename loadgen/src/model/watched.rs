//! Members that the server watches while the ports of some are closed and opened: what each load balancer must be told.

use std::{net::Ipv4Addr, ops::Range};

use gwm::sasp::{Endpoint, EntryFlags, GroupData, MemberData, SenderFlags, WeightEntry, Writer};

use super::{LOCAL, PROTOCOL, group_name, pushed, uid};
use crate::Result;

/// Members of a group: what registers one stays well below the server's default message limit.
const GROUP_MEMBERS: u32 = 10_000;

/// Checks whose good share the server multiplies a weight by.
const HISTORY: u32 = 32;

/// The endpoints, and who lists which.
#[derive(Clone, Debug)]
pub(crate) struct Farm {
    pub(crate) lbs: u32,
    pub(crate) endpoints: u32,
    /// By turns, one endpoint after the other.
    pub(crate) ports: Vec<u16>,
    /// Bad checks after which a member is down.
    pub(crate) fall: u8,
    pub(crate) weight_max: u16,
}

impl Farm {
    /// The endpoints that a load balancer lists.
    pub(crate) fn part(&self, lb: u32) -> Range<u32> {
        let bound = |lb: u32| (u64::from(lb) * u64::from(self.endpoints) / u64::from(self.lbs)) as u32;
        bound(lb)..bound(lb + 1)
    }

    /// Which of the ports an endpoint has.
    fn port(&self, number: u32) -> usize {
        number as usize % self.ports.len()
    }

    fn endpoint(&self, number: u32) -> Endpoint {
        Endpoint::new(Ipv4Addr::from(LOCAL + number).into(), PROTOCOL, self.ports[self.port(number)])
    }

    /// The endpoint that has this address and this one of the ports.
    pub(crate) fn find(&self, address: Ipv4Addr, port: usize) -> Option<u32> {
        let number = u32::from(address).checked_sub(LOCAL)?;
        (number < self.endpoints && self.port(number) == port).then_some(number)
    }

    /// How many groups a load balancer has at most.
    pub(crate) fn groups(&self) -> u32 {
        self.endpoints.div_ceil(self.lbs).div_ceil(GROUP_MEMBERS)
    }

    /// The requests that register a load balancer's groups, one each.
    pub(crate) fn registrations(&self, lb: u32, mut id: impl FnMut() -> u32) -> Vec<Vec<u8>> {
        let part = self.part(lb);
        let starts = part.clone().step_by(GROUP_MEMBERS as usize);
        let requests = (0..).zip(starts).map(|(group, start)| {
            let mut bytes = Vec::new();
            let mut writer = Writer::registration_request(&mut bytes, id(), SenderFlags::LOAD_BALANCER);
            writer.group(GroupData { lb_uid: &uid(lb), name: group_name(group).as_bytes() });
            for number in start..part.end.min(start + GROUP_MEMBERS) {
                writer.entry(&MemberData { endpoint: self.endpoint(number), label: b"" });
            }
            writer.finish().expect("a group's members fit the wire");
            bytes
        });
        requests.collect()
    }

    /// The weight of a member that is up with so many bad checks among the last.
    fn weight(&self, bad: u32) -> u16 {
        let share = f32::from((HISTORY - bad) as u8) / f32::from(HISTORY as u8);
        ((f32::from(self.weight_max) * share).round() as u16).max(1)
    }
}

/// Open and closed ports: in phase 0 all ports are open; then each phase closes the next and opens the one before; the
/// one after the last closes none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Phase {
    number: u64,
    ports: u64,
    last: u64,
}

impl Phase {
    pub(crate) fn new(number: u64, farm: &Farm, last: u64) -> Phase {
        Phase { number, ports: farm.ports.len() as u64, last }
    }

    /// The port that is closed in it.
    pub(crate) fn closed(&self) -> Option<usize> {
        (1..=self.last).contains(&self.number).then(|| ((self.number - 1) % self.ports) as usize)
    }

    /// The port that was closed before, and is open again.
    pub(crate) fn reopened(&self) -> Option<usize> {
        (self.number > 1).then(|| ((self.number - 2) % self.ports) as usize)
    }

    /// How often a port has been closed, this phase included.
    fn closures(&self, port: usize) -> u32 {
        let number = self.number.min(self.last);
        let more = number % self.ports > port as u64;
        (number / self.ports) as u32 + u32::from(more)
    }
}

/// The last told state of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    /// Contact, not confident.
    Unknown,
    Up(u16),
    Down,
}

/// The last told states, by load balancer.
pub(crate) struct Watched {
    lb: u32,
    part: Range<u32>,
    told: Vec<Told>,
    phase: Phase,
    /// Members whose state is not yet the state of the phase's end.
    wrong: u32,
}

impl Watched {
    /// A load balancer in phase 0, which was told nothing.
    pub(crate) fn new(lb: u32, farm: &Farm, phase: Phase) -> Watched {
        let part = farm.part(lb);
        Watched { lb, told: vec![Told::Nothing; part.len()], wrong: part.len() as u32, part, phase }
    }

    /// Whether every member has the state of the phase's end.
    pub(crate) fn right(&self) -> bool {
        self.wrong == 0
    }

    /// The next phase begins: to be called before its ports are opened and closed.
    pub(crate) fn begin(&mut self, farm: &Farm, phase: Phase) {
        self.phase = phase;
        let told = self.part.clone().zip(&self.told);
        self.wrong = told.filter(|(number, told)| !self.is_right(farm, *number, **told)).count() as u32;
    }

    fn is_right(&self, farm: &Farm, number: u32, told: Told) -> bool {
        match told {
            Told::Nothing | Told::Unknown => false,
            Told::Down => self.phase.closed() == Some(farm.port(number)),
            Told::Up(_) => self.phase.closed() != Some(farm.port(number)),
        }
    }

    /// Checks what is told of a member after `before`.
    fn check_entry(&self, farm: &Farm, number: u32, before: Told, entry: &WeightEntry) -> Result<Told> {
        let port = farm.port(number);
        let flags = EntryFlags::REGISTERED_BY_LB;
        let says = |contact, confident, weight| {
            let flags = flags.with(EntryFlags::CONTACT, contact).with(EntryFlags::CONFIDENT, confident);
            *entry == WeightEntry { state: 0, flags, weight }
        };
        if says(false, true, 0) {
            return if self.phase.closed() == Some(port) { Ok(Told::Down) } else { Err("its port is open".into()) };
        }
        if says(true, false, farm.weight_max) {
            let may = before == Told::Nothing && self.phase.number == 0;
            return if may { Ok(Told::Unknown) } else { Err("it was known before".into()) };
        }
        // Of bad checks a member has those of every time that its port was closed, as far as they are among the last;
        // right after that, all of one time.
        let fall = u32::from(farm.fall);
        let most = (fall * self.phase.closures(port)).min(HISTORY);
        let least = if self.phase.reopened() == Some(port) { fall.min(HISTORY) } else { 0 };
        if !(least..=most).any(|bad| says(true, true, farm.weight(bad))) {
            return Err(format!("{least} to {most} of its last {HISTORY} checks were bad"));
        }
        if self.phase.closed() == Some(port) && before == Told::Down {
            return Err("its port is closed".into());
        }
        Ok(Told::Up(entry.weight))
    }

    /// Checks a push; `news` sees each member that comes up or goes down, and how many entries it has.
    pub(crate) fn push(&mut self, farm: &Farm, frame: &[u8], mut news: impl FnMut(u32, bool)) -> Result<u64> {
        let lb = self.lb;
        let wrong = |what: String| format!("push to LB {lb}: {what}");
        let push = pushed(frame).map_err(wrong)?;
        let own = uid(lb);
        let (mut next_group, mut entries) = (0, 0);
        for group in push.groups {
            let number = (next_group..farm.groups()).find(|&number| group.data.name == group_name(number).as_bytes());
            let Some(number) = number.filter(|_| group.data.lb_uid == own && group.count() > 0) else {
                return Err(wrong(format!("group {:?} is not its own, not in order, or empty", group.data)));
            };
            next_group = number + 1;
            let start = self.part.start + number * GROUP_MEMBERS;
            let mut members = start..self.part.end.min(start + GROUP_MEMBERS);
            for weighted in group.entries() {
                let member = weighted.member;
                let found = members.find(|&number| farm.endpoint(number) == member.endpoint);
                let Some(number) = found.filter(|_| member.label.is_empty()) else {
                    return Err(wrong(format!("{member:?} is not its member, or not in order")));
                };
                let at = (number - self.part.start) as usize;
                let before = self.told[at];
                let phase = self.phase;
                let told = self.check_entry(farm, number, before, &weighted.entry).map_err(|why| {
                    wrong(format!("{member:?} {:?} in {phase:?}, after {before:?}: {why}", weighted.entry))
                })?;
                if told == before {
                    return Err(wrong(format!("{member:?} {told:?} has not changed")));
                }
                self.told[at] = told;
                let (was, is) = (self.is_right(farm, number, before), self.is_right(farm, number, told));
                self.wrong = self.wrong + u32::from(was) - u32::from(is);
                if !was && is {
                    news(number, told != Told::Down);
                }
                entries += 1;
            }
        }
        if entries == 0 { Err(wrong("it says nothing".into())) } else { Ok(entries) }
    }
}

#[cfg(test)]
mod tests {
    use gwm::sasp::WeightedMember;

    use gwm::sasp::Message;

    use super::*;

    fn farm() -> Farm {
        Farm { lbs: 2, endpoints: 14, ports: vec![81, 82, 83], fall: 2, weight_max: 100 }
    }

    /// Contact, confident, weight.
    type Entry = (bool, bool, u16);
    const UNKNOWN: Entry = (true, false, 100);
    const UP: Entry = (true, true, 100);
    const DOWN: Entry = (false, true, 0);

    fn push(lb: u32, entries: &[(u32, Entry)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::send_weights(&mut bytes);
        writer.group(GroupData { lb_uid: &uid(lb), name: b"FARM000" });
        for &(number, (contact, confident, weight)) in entries {
            let flags = EntryFlags::REGISTERED_BY_LB.with(EntryFlags::CONTACT, contact);
            let entry = WeightEntry { state: 0, flags: flags.with(EntryFlags::CONFIDENT, confident), weight };
            let member = MemberData { endpoint: farm().endpoint(number), label: b"" };
            writer.entry(&WeightedMember { member, entry });
        }
        writer.finish().unwrap();
        bytes
    }

    #[test]
    fn parts_are_all_endpoints_and_requests_list_them() {
        let farm = farm();
        assert_eq!((farm.part(0), farm.part(1)), (0..7, 7..14));
        let requests = farm.registrations(1, || 5);
        let (header, Message::RegistrationRequest(request)) = Message::decode(&requests[0]).unwrap() else { panic!() };
        assert_eq!((requests.len(), header.id, request.groups.count()), (1, 5, 1));
        assert_eq!(request.groups.into_iter().map(|group| group.count()).collect::<Vec<_>>(), [7]);
        let large = Farm { endpoints: 50_001, ..farm.clone() };
        assert_eq!((large.groups(), large.registrations(0, || 1).len(), large.registrations(1, || 1).len()), (3, 3, 3));
        assert_eq!(farm.find("127.1.0.4".parse().unwrap(), 1), Some(4));
        assert_eq!(farm.find("127.1.0.4".parse().unwrap(), 0), None, "not its port");
        assert_eq!(farm.find("127.1.0.14".parse().unwrap(), 2), None, "not there");
    }

    #[test]
    fn phases_close_one_port_after_the_other() {
        let phase = |number| Phase::new(number, &farm(), 4);
        let ports: Vec<_> = (0..=5).map(|number| (phase(number).closed(), phase(number).reopened())).collect();
        let expected = [(None, None), (Some(0), None), (Some(1), Some(0)), (Some(2), Some(1)), (Some(0), Some(2))];
        assert_eq!(ports[..5], expected);
        assert_eq!(ports[5], (None, Some(0)));
        for port in 0..3 {
            let mut closures = 0;
            for number in 0..=5 {
                closures += u32::from(phase(number).closed() == Some(port));
                assert_eq!(phase(number).closures(port), closures, "{number} {port}");
            }
        }
    }

    #[test]
    fn a_push_must_fit_what_is_open_and_closed() {
        let farm = farm();
        let phase = |number| Phase::new(number, &farm, 4);
        let mut watched = Watched::new(1, &farm, phase(0));
        watched.push(&farm, &push(1, &[7, 8, 9, 10, 11, 12].map(|number| (number, UP))), |_, _| {}).unwrap();
        let mut judge = |entries: &[(u32, Entry)]| {
            let mut news = Vec::new();
            let result = watched.push(&farm, &push(1, entries), |number, up| news.push((number, up)));
            result.map(|_| (news, watched.right()))
        };
        assert!(judge(&[(7, UP)]).is_err(), "no news");
        assert!(judge(&[(6, UP)]).is_err(), "another LB's");
        assert!(judge(&[(13, DOWN)]).is_err(), "all ports are open");
        assert_eq!(judge(&[(13, UNKNOWN)]), Ok((vec![], false)));
        assert!(judge(&[(13, (true, true, 99))]).is_err());
        assert_eq!(judge(&[(13, UP)]), Ok((vec![(13, true)], true)));
        assert!(judge(&[(13, UNKNOWN)]).is_err(), "the server panics");

        watched.begin(&farm, phase(1)); // 9 and 12 have the port that closes
        let judge = |watched: &mut Watched, entries: &[(u32, Entry)]| {
            watched.push(&farm, &push(1, entries), |_, _| {}).map(|_| watched.right())
        };
        assert!(!watched.right());
        assert!(judge(&mut watched, &[(10, DOWN)]).is_err(), "its port is open");
        assert_eq!(judge(&mut watched, &[(9, (true, true, 94))]), Ok(false), "two of the last checks were bad");
        assert_eq!(judge(&mut watched, &[(9, DOWN), (12, DOWN)]), Ok(true));
        assert!(judge(&mut watched, &[(9, UP)]).is_err(), "its port is closed");
        watched.begin(&farm, phase(2));
        assert_eq!(judge(&mut watched, &[(7, DOWN), (10, DOWN), (13, DOWN)]), Ok(false));
        assert!(judge(&mut watched, &[(9, UP)]).is_err(), "its last checks were bad");
        assert_eq!(judge(&mut watched, &[(9, (true, true, 94)), (12, (true, true, 94))]), Ok(true));
        assert!(judge(&mut watched, &[(9, DOWN)]).is_err(), "its port is open again");
        assert!(judge(&mut watched, &[(12, UP), (11, DOWN)]).is_err(), "not in order");
    }
}
