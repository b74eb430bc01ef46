//! Endpoints: the operator's and the monitor's word.

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
    pub(crate) seen: bool,
    /// When the endpoint lost contact, while it is fresh.
    pub(crate) lost_at: Option<u64>,
    /// By policy, once judged: contact and confident, and the last share with contact.
    judged: Option<[(bool, bool, Share); 4]>,
}

impl Watched {
    pub(crate) fn new(life: u64) -> Watched {
        Watched { life, contact: true, seen: false, lost_at: None, judged: None }
    }

    /// Whether the first verdict is yet to come.
    pub(crate) fn waits(&self) -> bool {
        self.judged.is_none()
    }

    pub(crate) fn judge(&mut self, now: u64, verdicts: &[Verdict; 4], capacity: u16) {
        let before = self.judged.unwrap_or([(true, false, Share::Weight(capacity)); 4]);
        self.judged = Some(std::array::from_fn(|policy| {
            let Verdict { flags, share } = verdicts[policy];
            let contact = flags.contains(EntryFlags::CONTACT);
            (contact, flags.contains(EntryFlags::CONFIDENT), if contact { share } else { before[policy].2 })
        }));
        let contact = verdicts.iter().any(|verdict| verdict.flags.contains(EntryFlags::CONTACT));
        match (self.contact, contact) {
            (true, false) => self.lost_at = Some(now),
            (false, true) => self.lost_at = None,
            _ => {}
        }
        self.contact = contact;
        self.seen |= verdicts.iter().any(|verdict| verdict.flags.contains(EntryFlags::CONTACT | EntryFlags::CONFIDENT));
    }
}

/// One policy's verdict on an endpoint, with the operator's word.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Said {
    contact: bool,
    pub(crate) confident: bool,
    pub(crate) quiesced: bool,
    fixed: bool,
    share: Share,
    /// The endpoint is fresh and the GWM fails open.
    forgiven: bool,
}

impl Said {
    pub(crate) fn of(member: &Member, watched: Option<&Watched>, policy: Policy, open: bool) -> Said {
        let unknown = (true, member.fixed, Share::Weight(member.capacity));
        let judged = watched.and_then(|watched| watched.judged).map(|judged| judged[policy as usize]);
        let (contact, confident, share) = judged.unwrap_or(unknown);
        let forgiven = open && watched.is_some_and(|watched| watched.lost_at.is_some());
        Said { contact, confident, quiesced: member.quiesced, fixed: member.fixed, share, forgiven }
    }

    pub(crate) fn has_contact(&self) -> bool {
        self.contact || self.forgiven
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
