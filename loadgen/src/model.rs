//! The expected messages: names and members of a run, their weights tick by tick, and the check of every
//! byte that arrives against them.

mod deltas;
mod tables;
mod ticks;
mod versions;
mod watched;

use std::net::Ipv4Addr;

use gwm::sasp::{
    Endpoint, GroupData, Health, LbFlags, MemberData, Message, SenderFlags, Writer, message::SendWeights,
    writer::set_lb_state_request,
};

pub(crate) use tables::{Groups, Membership, Tables};
pub(crate) use ticks::{Change, Template, Ticks, Told};
pub(crate) use versions::{Shown, Versions};
pub(crate) use watched::{Farm, Phase, Watched};

use crate::options::Shape;

/// Checks that a frame is a push; else says what is wrong.
fn pushed(frame: &[u8]) -> Result<SendWeights<'_>, String> {
    match Message::decode(frame).map_err(|error| error.to_string())? {
        (header, Message::SendWeights(push)) if header.id == 0 => Ok(push),
        (header, Message::SendWeights(_)) => Err(format!("its id is {}, not 0", header.id)),
        (_, other) => Err(format!("it is {other:?}")),
    }
}

/// The port of every member.
const PORT: u16 = 80;
/// The network of members that are on this machine: 127.1.0.0 and above.
const LOCAL: u32 = 0x7F01_0000;
/// TCP.
const PROTOCOL: u8 = 6;

/// Bytes of every UID of a run: with one length, messages differ between load balancers in the UID's bytes only.
pub(crate) const UID_BYTES: usize = 9;

/// The UID of a load balancer.
pub(crate) fn uid(lb: u32) -> [u8; UID_BYTES] {
    let mut uid = *b"LB0000000";
    let mut rest = lb;
    for digit in uid.iter_mut().skip(2).rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    uid
}

/// The load balancer that has this UID.
pub(crate) fn uid_number(uid: &[u8]) -> Option<u32> {
    std::str::from_utf8(uid.strip_prefix(b"LB")?).ok()?.parse().ok()
}

/// The name of a load balancer's group.
pub(crate) fn group_name(group: u32) -> String {
    format!("FARM{group:03}")
}

impl Shape {
    /// The farm of a load balancer.
    pub(crate) fn farm(&self, lb: u32) -> u32 {
        lb % self.farms
    }

    /// Members of a farm, group by group.
    pub(crate) fn farm_members(&self) -> u32 {
        self.groups * self.members
    }

    /// The `member`th member of a farm.
    pub(crate) fn endpoint(&self, farm: u32, member: u32) -> Endpoint {
        // Up to 16 million members in 10.0.0.0/8; limits keep the product below.
        let first = if self.own { member << self.farm_bits() } else { self.first_member + member + 1 };
        let number = first + farm * self.farm_step();
        let network = if self.local { LOCAL } else { 0x0A00_0000 };
        Endpoint::new(Ipv4Addr::from(network + number).into(), PROTOCOL, PORT)
    }

    /// By how much addresses of the same member differ from one farm to the next.
    fn farm_step(&self) -> u32 {
        if self.own { 1 } else { self.farm_members() }
    }

    /// With members of one network for the same member of all farms: the bits of an address that tell the farms apart.
    fn farm_bits(&self) -> u32 {
        self.farms.next_power_of_two().trailing_zeros()
    }

    /// Which of its farm's members has this address, of members that are on this machine.
    pub(crate) fn find_local(&self, address: Ipv4Addr) -> Option<u32> {
        let number = u32::from(address).checked_sub(LOCAL + self.first_member + 1)?;
        (u64::from(number) < self.all_members()).then(|| number % self.farm_members())
    }

    /// Members of all farms.
    pub(crate) fn all_members(&self) -> u64 {
        u64::from(self.farms) * u64::from(self.farm_members())
    }

    /// Memberships of all load balancers.
    pub(crate) fn memberships(&self) -> u64 {
        u64::from(self.lbs) * u64::from(self.farm_members())
    }

    /// Why the run is not possible.
    pub(crate) fn check(&self) -> crate::Result<()> {
        if self.own {
            let (members, room) = (self.farm_members(), (1 << 24) >> self.farm_bits());
            let farms = self.farms;
            return if members <= room {
                Ok(())
            } else {
                Err(format!("{members} members of each of {farms} LBs: at most {room} of each have an address"))
            };
        }
        let room = if self.local { (1 << 24) - (LOCAL & 0xFF_FFFF) - 1 } else { 1 << 24 };
        if u64::from(self.first_member) + self.all_members() >= u64::from(room) {
            return Err(format!("{} members in all: at most {} have an address", self.all_members(), room - 1));
        }
        Ok(())
    }

    /// The load balancer's registration of all its groups.
    pub(crate) fn registration(&self, lb: u32, id: u32, out: &mut Vec<u8>) {
        let mut writer = Writer::registration_request(out, id, SenderFlags::LOAD_BALANCER);
        let (uid, farm) = (uid(lb), self.farm(lb));
        for group in 0..self.groups {
            writer.group(GroupData { lb_uid: &uid, name: group_name(group).as_bytes() });
            for member in group * self.members..(group + 1) * self.members {
                writer.entry(&MemberData { endpoint: self.endpoint(farm, member), label: b"" });
            }
        }
        writer.finish().expect("the flags' ranges fit the wire");
    }
}

/// The load balancer's Set LB State.
pub(crate) fn lb_state(lb: u32, id: u32, flags: LbFlags, out: &mut Vec<u8>) {
    set_lb_state_request(out, id, &uid(lb), Health(0x7F), flags).expect("a UID of 9 bytes fits");
}

/// The load balancer's request for all weights.
pub(crate) fn get_weights(lb: u32, id: u32, out: &mut Vec<u8>) {
    let mut writer = Writer::get_weights_request(out, id);
    writer.name(GroupData { lb_uid: &uid(lb), name: b"" });
    writer.finish().expect("a UID of 9 bytes fits");
}

/// Says how bytes differ from what they should be.
pub(crate) fn difference(found: &[u8], expected: &[u8]) -> String {
    let at = found.iter().zip(expected).position(|(found, expected)| found != expected);
    let at = at.unwrap_or(found.len().min(expected.len()));
    let show = |bytes: &[u8]| match Message::decode(bytes) {
        Ok((header, message)) => {
            let text = format!("id {} {message:?}", header.id);
            let mut short: String = text.chars().take(600).collect();
            if short.len() < text.len() {
                short += " …";
            }
            short
        }
        Err(error) => format!("not a message: {error}"),
    };
    format!(
        "{} bytes, {} expected, the first difference at byte {at}\n  received: {}\n  expected: {}",
        found.len(),
        expected.len(),
        show(found),
        show(expected)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_have_one_length_and_differ() {
        assert_eq!(&uid(0), b"LB0000000");
        assert_eq!(&uid(1_234_567), b"LB1234567");
        assert_ne!(uid(10), uid(100));
        assert_eq!(uid_number(&uid(1_234_567)), Some(1_234_567));
    }

    #[test]
    fn members_of_farms_do_not_meet() {
        let shape =
            Shape { lbs: 4, groups: 2, members: 3, farms: 2, first_lb: 0, first_member: 0, local: false, own: false };
        let mut all: Vec<_> = (0..2).flat_map(|farm| (0..6).map(move |m| shape.endpoint(farm, m))).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 12);
        assert_eq!(shape.endpoint(0, 0).to_string(), "10.0.0.1:80");
        let own = Shape { farms: 5, lbs: 5, own: true, ..shape };
        let mut all: Vec<_> = (0..5).flat_map(|farm| (0..6).map(move |m| own.endpoint(farm, m))).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 30);
        assert_eq!(own.endpoint(4, 5).to_string(), "10.0.0.44:80", "the fifth in the sixth network of eight");
        assert!(Shape { farms: 10_000, groups: 2, members: 512, ..own }.check().is_ok());
        assert!(Shape { farms: 10_000, groups: 2, members: 513, ..own }.check().is_err());
        let mut bytes = Vec::new();
        shape.registration(3, 7, &mut bytes);
        let (_, Message::RegistrationRequest(request)) = Message::decode(&bytes).unwrap() else { panic!() };
        assert_eq!(request.groups.into_iter().map(|group| group.count()).collect::<Vec<_>>(), [3, 3]);
    }
}
