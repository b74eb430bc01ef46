//! What is known of an endpoint: from the operator, and from the monitor.

use gwm::{
    coordinator::Settings,
    judgement::{Level, Policy, Scale, Share, Verdict},
    roster::Member,
    sasp::{Endpoint, EntryFlags},
};

/// Whether the GWM watches such an endpoint: the operator does not know better, and there is a way to.
pub(crate) fn watchable(settings: &Settings, endpoint: &Endpoint) -> bool {
    let member = settings.roster.find(endpoint);
    let tcp = endpoint.protocol == 6 && endpoint.port != 0;
    !member.fixed && member.monitor.auto && (tcp || settings.icmp)
}

/// An endpoint that is watched.
#[derive(Clone)]
pub(crate) struct Watched {
    /// Tells this watch from others of the same endpoint.
    pub(crate) life: u64,
    /// Some policy believes in it, or nothing was judged yet.
    pub(crate) contact: bool,
    /// It was ever judged to be up: some policy was confident that it has contact.
    pub(crate) seen: bool,
    /// When it lost contact, while that is a question of failing open.
    pub(crate) lost_at: Option<u64>,
    /// By policy, once something was judged: contact and confident, and the share while there was contact.
    judged: Option<[(bool, bool, Share); 4]>,
}

impl Watched {
    pub(crate) fn new(life: u64) -> Watched {
        Watched { life, contact: true, seen: false, lost_at: None, judged: None }
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

/// What one policy says of an endpoint, the operator's word included.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Said {
    contact: bool,
    pub(crate) confident: bool,
    pub(crate) quiesced: bool,
    fixed: bool,
    share: Share,
    /// It lost contact lately and the GWM fails open.
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

    /// The weight of one that has contact.
    pub(crate) fn weight(&self, scale: Option<Scale>, weight_max: u16) -> u16 {
        match (scale, self.share) {
            (Some(scale), share) if !self.fixed => scale.weight(share, weight_max),
            (_, Share::Weight(weight)) => weight,
            (_, Share::Rate(_)) => panic!("a rate without a scale"),
        }
    }
}
