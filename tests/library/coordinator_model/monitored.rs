//! Endpoints: the operator's and the monitor's word.

use super::model::nanoseconds;
use gwm::{
    coordinator::Settings,
    judgement::{Level, Policy, Scale, Share, Verdict},
    roster::Member,
    sasp::{Endpoint, EntryFlags},
};

/// Whether the GWM watches an endpoint: the operator did not fix its weight, and there is a check for it.
pub(crate) fn watchable(settings: &Settings, endpoint: &Endpoint) -> bool {
    let member = settings.roster.find(endpoint);
    let tcp = endpoint.protocol == 6 && endpoint.port != 0;
    !member.fixed && member.monitor.auto && (tcp || settings.icmp)
}

/// A watched endpoint.
#[derive(Clone)]
pub(crate) struct Watched {
    /// The number of the watch: another watch of the same endpoint has another number.
    pub(crate) life: u64,
    /// The endpoint has contact by some policy, or is not judged yet.
    pub(crate) contact: bool,
    /// The endpoint has been up: by some policy it had contact and was confident.
    pub(crate) been_up: bool,
    pub(crate) answers: bool,
    pub(crate) has_answered: bool,
    /// When the endpoint lost contact last, and when it was still up.
    pub(crate) loss: (u64, u64),
    /// The endpoint has no contact, and lost it lately.
    pub(crate) lost: bool,
    /// The endpoint's world was blind, and recovers; the endpoint is not up yet.
    pub(crate) pending: bool,
    /// By policy, once judged: contact and confident, and the last share with contact.
    judged: Option<[(bool, bool, Share); 4]>,
}

impl Watched {
    pub(crate) fn new(life: u64) -> Watched {
        Watched {
            life,
            contact: true,
            been_up: false,
            answers: false,
            has_answered: false,
            loss: (0, 0),
            lost: false,
            pending: false,
            judged: None,
        }
    }

    /// Whether the first verdict is yet to come.
    pub(crate) fn waits(&self) -> bool {
        self.judged.is_none()
    }

    /// Takes the monitor's word; says whether an endpoint that has been up lost contact or has contact again.
    pub(crate) fn judge(&mut self, now: u64, (verdicts, answers): &Word, member: &Member) -> bool {
        let before = self.judged.unwrap_or([(true, false, Share::Weight(member.capacity)); 4]);
        self.judged = Some(std::array::from_fn(|policy| {
            let Verdict { flags, share } = verdicts[policy];
            let contact = flags.contains(EntryFlags::CONTACT);
            (contact, flags.contains(EntryFlags::CONFIDENT), if contact { share } else { before[policy].2 })
        }));
        let had = self.contact;
        self.contact = verdicts.iter().any(|verdict| verdict.flags.contains(EntryFlags::CONTACT));
        if had && !self.contact {
            let window = nanoseconds(member.times.fall_window());
            (self.loss, self.lost) = ((now, now.saturating_sub(window)), true);
        }
        self.lost &= !self.contact;
        self.been_up |=
            verdicts.iter().any(|verdict| verdict.flags.contains(EntryFlags::CONTACT | EntryFlags::CONFIDENT));
        self.answers = *answers;
        self.has_answered |= answers;
        had != self.contact && self.been_up
    }
}

/// The monitor's word about an endpoint: verdicts by policy, and whether the endpoint answers.
pub(crate) type Word = ([Verdict; 4], bool);

/// One policy's verdict on an endpoint, with the operator's word.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Said {
    contact: bool,
    confident: bool,
    pub(crate) quiesced: bool,
    fixed: bool,
    share: Share,
    /// The endpoint's world is blind, or recovers.
    unsure: bool,
    /// The endpoint has no contact by this policy, and lost it lately.
    lost: bool,
}

impl Said {
    pub(crate) fn of(member: &Member, watched: Option<&Watched>, policy: Policy, blind: bool) -> Said {
        let unknown = (true, member.fixed, Share::Weight(member.capacity));
        let judged = watched.and_then(|watched| watched.judged).map(|judged| judged[policy as usize]);
        let (contact, confident, share) = judged.unwrap_or(unknown);
        let unsure = blind || watched.is_some_and(|watched| watched.pending);
        let lost = !contact && watched.is_some_and(|watched| watched.lost);
        Said { contact, confident, quiesced: member.quiesced, fixed: member.fixed, share, unsure, lost }
    }

    pub(crate) fn has_contact(&self, doubted: bool) -> bool {
        self.contact || self.lost && (self.unsure || doubted)
    }

    pub(crate) fn is_confident(&self, doubted: bool) -> bool {
        self.confident && !self.unsure && !doubted
    }

    pub(crate) fn rate(&self) -> Option<Level> {
        match self.share {
            Share::Rate(level) => Some(level),
            Share::Weight(_) => None,
        }
    }

    /// The weight of an endpoint with contact.
    pub(crate) fn weight(&self, scale: Option<Scale>, weight_max: u16) -> u16 {
        match (scale, self.share) {
            (Some(scale), share) if !self.fixed => scale.weight(share, weight_max),
            (_, Share::Weight(weight)) => weight,
            (_, Share::Rate(_)) => panic!("a rate without a scale"),
        }
    }
}
