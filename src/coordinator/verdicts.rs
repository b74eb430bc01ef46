//! The verdict on every endpoint by every policy, and what an entry shows of it.

use crate::{
    judgement::{self, Policy, Scale, Share},
    roster::Member,
    sasp::EntryFlags,
};

use super::ids::{Column, EndpointId};

/// The part of an entry that is the same in all groups of one scale: contact, quiesced and confident flags, and weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) flags: EntryFlags,
    pub(super) weight: u16,
}

/// One policy's verdict on an endpoint in four bytes. The encoder reads nothing else of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Word {
    bits: u8,
    /// A weight or a level. Without contact, the last one that the endpoint had with contact.
    value: u16,
}

/// Contact, as on the wire.
const CONTACT: u8 = EntryFlags::CONTACT.0;
/// The operator quiesced the endpoint. The wire has one bit for this and for the membership's own quiesce.
const QUIESCED: u8 = EntryFlags::QUIESCED.0;
/// Confident, as on the wire.
const CONFIDENT: u8 = EntryFlags::CONFIDENT.0;
/// The endpoint's world is blind, or recovers and the endpoint is not up yet. On the wire this bit is the membership's.
const UNSURE: u8 = 0x04;
/// The verdict is the monitor's. Without this bit nothing is judged yet, or nothing watches the endpoint.
const JUDGED: u8 = 0x10;
/// The endpoint lost contact lately: a doubt, or a blind world, shows it with contact.
const LOST: u8 = 0x20;
/// The value is the operator's weight, which no scale changes.
const FIXED: u8 = 0x40;
/// The value is a level.
const RATE: u8 = 0x80;

impl Word {
    /// The verdict before the first judgement.
    pub(super) fn of(member: &Member) -> Word {
        let known = if member.fixed { CONFIDENT | FIXED } else { 0 };
        Word { bits: CONTACT | known, value: member.capacity }.quiesced(member.quiesced)
    }

    fn quiesced(self, quiesced: bool) -> Word {
        self.with(QUIESCED, quiesced)
    }

    fn with(self, bits: u8, on: bool) -> Word {
        Word { bits: if on { self.bits | bits } else { self.bits & !bits }, ..self }
    }

    fn judged(self, verdict: judgement::Verdict) -> Word {
        let flags = verdict.flags.0 & (CONTACT | CONFIDENT);
        let kept = self.bits & (QUIESCED | UNSURE) | JUDGED;
        if flags & CONTACT == 0 {
            return Word { bits: flags | kept | self.bits & (RATE | LOST), value: self.value };
        }
        match verdict.share {
            Share::Weight(value) => Word { bits: flags | kept, value },
            Share::Rate(level) => Word { bits: flags | kept | RATE, value: level.0 },
        }
    }

    fn share(self) -> Share {
        match self.bits & RATE {
            0 => Share::Weight(self.value),
            _ => Share::Rate(judgement::Level(self.value)),
        }
    }

    /// Whether the value is a rate.
    pub(super) fn is_rate(self) -> bool {
        self.bits & RATE != 0
    }
}

/// Verdicts by policy and endpoint. A push reads one column only. All policies have a column, used or not, so a reload
/// that gives a group another policy finds the verdicts here.
pub(super) struct Verdicts {
    columns: [Column<EndpointId, Word>; Policy::ALL.len()],
    /// How many values of each column are rates.
    rates: [u32; Policy::ALL.len()],
}

/// A set of policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Policies(u8);

impl Policies {
    pub(super) fn contains(self, policy: Policy) -> bool {
        self.0 & 1 << policy as u8 != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The policies whose verdict on an endpoint has changed, and those among them where a rate came, went or changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct VerdictDelta {
    pub(super) words: Policies,
    pub(super) rates: Policies,
}

impl std::ops::BitOr for VerdictDelta {
    type Output = VerdictDelta;

    fn bitor(self, other: VerdictDelta) -> VerdictDelta {
        let both = |one: Policies, other: Policies| Policies(one.0 | other.0);
        VerdictDelta { words: both(self.words, other.words), rates: both(self.rates, other.rates) }
    }
}

impl Verdicts {
    pub(super) fn new() -> Verdicts {
        Verdicts { columns: std::array::from_fn(|_| Column::new()), rates: Default::default() }
    }

    /// A new endpoint, or one that is no longer watched: nothing is judged. `unsure`: its world is blind.
    pub(super) fn reset(&mut self, id: EndpointId, member: &Member, unsure: bool) -> VerdictDelta {
        let word = Word::of(member).with(UNSURE, unsure);
        if self.columns[0].get(id).is_none() {
            self.columns.iter_mut().for_each(|column| column.set(id, word));
        }
        self.change(id, |_, _| word)
    }

    /// The roster has changed for an endpoint that stays watched: its judged verdicts stay until the monitor sends
    /// others.
    pub(super) fn reassess(&mut self, id: EndpointId, member: &Member) -> VerdictDelta {
        self.change(id, |_, word| match word.bits & JUDGED {
            0 => Word::of(member).with(UNSURE, word.bits & UNSURE != 0),
            _ => word.quiesced(member.quiesced),
        })
    }

    /// Whether the monitor has judged the endpoint.
    pub(super) fn is_judged(&self, id: EndpointId) -> bool {
        self.columns[0][id].bits & JUDGED != 0
    }

    /// Takes the monitor's verdicts.
    pub(super) fn set(&mut self, id: EndpointId, verdicts: &[judgement::Verdict; Policy::ALL.len()]) -> VerdictDelta {
        self.change(id, |policy, word| word.judged(verdicts[policy]))
    }

    /// The monitor's verdicts, to give them to [`Verdicts::restore`] of a later process; `None` if there are none.
    pub(super) fn judged(&self, id: EndpointId) -> Option<[judgement::Verdict; Policy::ALL.len()]> {
        let judged = |policy| {
            let word: Word = self.columns[policy as usize][id];
            judgement::Verdict { flags: EntryFlags(word.bits & (CONTACT | CONFIDENT)), share: word.share() }
        };
        self.is_judged(id).then(|| Policy::ALL.map(judged))
    }

    /// Takes the verdicts of an earlier process.
    pub(super) fn restore(
        &mut self,
        id: EndpointId,
        verdicts: &[judgement::Verdict; Policy::ALL.len()],
    ) -> VerdictDelta {
        self.change(id, |policy, word| {
            let judgement::Verdict { flags, share } = verdicts[policy];
            let (rate, value) = match share {
                Share::Weight(value) => (0, value),
                Share::Rate(level) => (RATE, level.0),
            };
            let kept = word.bits & (QUIESCED | UNSURE);
            Word { bits: flags.0 & (CONTACT | CONFIDENT) | kept | JUDGED | rate, value }
        })
    }

    /// Verdicts are too old to count: the endpoint has contact and its last weight, and nobody is confident.
    pub(super) fn outlive(&mut self, id: EndpointId) -> VerdictDelta {
        self.change(id, |_, word| match word.bits & JUDGED {
            0 => word, // the operator has ended the watch, or fixed the weight
            _ => word.with(CONFIDENT | JUDGED, false).with(CONTACT, true),
        })
    }

    /// Sets whether the endpoint lost contact lately; an endpoint with contact did not.
    pub(super) fn set_lost(&mut self, id: EndpointId, lost: bool) -> VerdictDelta {
        self.change(id, |_, word| word.with(LOST, lost && word.bits & CONTACT == 0))
    }

    /// Sets whether the endpoint is shown as in a blind world.
    pub(super) fn set_unsure(&mut self, id: EndpointId, unsure: bool) -> VerdictDelta {
        self.change(id, |_, word| word.with(UNSURE, unsure))
    }

    /// Whether the operator quiesced the endpoint, by file or word, and whether its weight is fixed.
    pub(super) fn settled(&self, id: EndpointId) -> (bool, bool) {
        let bits = self.columns[0][id].bits;
        (bits & QUIESCED != 0, bits & FIXED != 0)
    }

    /// The verdicts on an endpoint, as groups without doubt show them.
    pub(super) fn of(&self, id: EndpointId) -> [judgement::Verdict; Policy::ALL.len()] {
        Policy::ALL.map(|policy| {
            let view = self.view(policy, false, 0);
            let word = view.words[id];
            let flags = EntryFlags(view.seen(word) & (CONTACT | QUIESCED | CONFIDENT));
            let share = if flags.contains(EntryFlags::CONTACT) { word.share() } else { Share::Weight(0) };
            judgement::Verdict { flags, share }
        })
    }

    /// Whether the endpoint is shown as in a blind world.
    pub(super) fn is_unsure(&self, id: EndpointId) -> bool {
        self.columns[0][id].bits & UNSURE != 0
    }

    /// Whether the endpoint lost contact lately by some policy.
    pub(super) fn is_lost(&self, id: EndpointId) -> bool {
        self.columns.iter().any(|column| column[id].bits & LOST != 0)
    }

    fn change(&mut self, id: EndpointId, to: impl Fn(usize, Word) -> Word) -> VerdictDelta {
        let mut change = VerdictDelta::default();
        for (policy, (column, rates)) in self.columns.iter_mut().zip(&mut self.rates).enumerate() {
            let word = &mut column[id];
            let (before, after) = (*word, to(policy, *word));
            *word = after;
            // No entry shows this bit.
            if before.with(JUDGED, false) == after.with(JUDGED, false) {
                continue;
            }
            change.words.0 |= 1 << policy;
            if before.is_rate() || after.is_rate() {
                change.rates.0 |= 1 << policy;
                *rates = *rates + u32::from(after.is_rate()) - u32::from(before.is_rate());
            }
        }
        change
    }

    /// One policy's view of all endpoints, by a group that is in doubt or not.
    pub(super) fn view(&self, policy: Policy, doubted: bool, weight_max: u16) -> View<'_> {
        View { words: &self.columns[policy as usize], has_rates: self.rates[policy as usize] > 0, doubted, weight_max }
    }
}

/// One policy's verdicts on all endpoints.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    words: &'a Column<EndpointId, Word>,
    has_rates: bool,
    doubted: bool,
    weight_max: u16,
}

impl View<'_> {
    /// What a group of this scale shows of the endpoint.
    #[inline]
    pub(super) fn shown(&self, id: EndpointId, scale: Option<Scale>) -> Shown {
        let word = self.words[id];
        let bits = self.seen(word);
        let flags = EntryFlags(bits & (CONTACT | QUIESCED | CONFIDENT));
        let weight = match scale {
            _ if bits & CONTACT == 0 => 0,
            Some(scale) if bits & FIXED == 0 => scale.weight(word.share(), self.weight_max),
            _ => word.value, // a group with a rate in it has a scale
        };
        Shown { flags, weight }
    }

    /// Whether an endpoint has a rate.
    pub(super) fn has_rates(&self) -> bool {
        self.has_rates
    }

    /// The scale of a group that has these members.
    pub(super) fn scale(
        &self,
        before: Option<Scale>,
        members: impl Iterator<Item = EndpointId> + Clone,
    ) -> Option<Scale> {
        if !self.has_rates {
            return None;
        }
        let words = members.map(|id| self.words[id]);
        let rates = words.filter(|&word| word.is_rate() && self.seen(word) & CONTACT != 0);
        Scale::follow(before, rates.map(|word| judgement::Level(word.value)))
    }

    /// The bits of a word as shown. Doubt and blindness make what is known unknown again.
    #[inline]
    fn seen(&self, word: Word) -> u8 {
        if !self.doubted && word.bits & UNSURE == 0 {
            return word.bits;
        }
        let contact = if word.bits & LOST != 0 { CONTACT } else { 0 };
        (word.bits | contact) & !CONFIDENT
    }
}
