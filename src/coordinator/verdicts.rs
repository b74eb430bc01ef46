//! What is judged of every endpoint, by policy, and what a group's entries show of it.

use crate::{
    judgement::{self, Policy, Scale, Share},
    roster::Member,
    sasp::EntryFlags,
};

use super::ids::{Column, EndpointId};

/// What an entry shows of an endpoint, whoever lists it: the contact, quiesced and confident flags, and the weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) flags: EntryFlags,
    pub(super) weight: u16,
}

/// What one policy says of an endpoint, in four bytes: all that encoding a push reads of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    bits: u8,
    /// A weight or a level. Of an endpoint without contact it is the last one that it had with it.
    value: u16,
}

/// Contact, as on the wire.
const CONTACT: u8 = EntryFlags::CONTACT.0;
/// The operator quiesced it; on the wire that is the same bit as the membership's own.
const QUIESCED: u8 = EntryFlags::QUIESCED.0;
/// Confident, as on the wire.
const CONFIDENT: u8 = EntryFlags::CONFIDENT.0;
/// The monitor has said it; else nothing is judged yet, or nobody monitors.
const JUDGED: u8 = 0x10;
/// It lost contact so short a time ago that failing open gives it back.
const FRESH: u8 = 0x20;
/// The value is the operator's weight, which no scale changes.
const FIXED: u8 = 0x40;
/// The value is a level.
const RATE: u8 = 0x80;

impl Word {
    /// What is said of an endpoint of which nothing is judged.
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
        let kept = self.bits & QUIESCED | JUDGED;
        if flags & CONTACT == 0 {
            return Word { bits: flags | kept | self.bits & (RATE | FRESH), value: self.value };
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

    /// Whether it says a rate.
    pub(super) fn is_rate(self) -> bool {
        self.bits & RATE != 0
    }
}

/// Everything that is judged, by policy and endpoint. All policies, whether a group is of them or not: so a reload
/// that gives a group another policy has its verdicts at hand. A push reads one column only.
pub(super) struct Verdicts {
    columns: [Column<EndpointId, Word>; Policy::ALL.len()],
    /// How many words of each column say a rate.
    rates: [u32; Policy::ALL.len()],
    /// Nothing is confident, and what lost contact lately has it back.
    open: bool,
}

/// Policies by number, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Policies(u8);

impl Policies {
    pub(super) const ALL: Policies = Policies((1 << Policy::ALL.len()) - 1);

    pub(super) fn contains(self, policy: Policy) -> bool {
        self.0 & 1 << policy as u8 != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// By which policies a word has changed, and for which of them a rate came, went or changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) words: Policies,
    pub(super) rates: Policies,
}

impl std::ops::BitOr for Turn {
    type Output = Turn;

    fn bitor(self, other: Turn) -> Turn {
        let both = |one: Policies, other: Policies| Policies(one.0 | other.0);
        Turn { words: both(self.words, other.words), rates: both(self.rates, other.rates) }
    }
}

impl Verdicts {
    pub(super) fn new() -> Verdicts {
        Verdicts { columns: std::array::from_fn(|_| Column::new()), rates: Default::default(), open: false }
    }

    /// Nothing is judged of the endpoint, whatever was said of its predecessor under this id.
    pub(super) fn reset(&mut self, id: EndpointId, member: &Member) -> Turn {
        let word = Word::of(member);
        if self.columns[0].get(id).is_none() {
            self.columns.iter_mut().for_each(|column| column.set(id, word));
        }
        self.change(id, |_, _| word)
    }

    /// The operator says something else of an endpoint that is watched as before: what is judged of it stays, until
    /// the monitor has thought about it.
    pub(super) fn reassess(&mut self, id: EndpointId, member: &Member) -> Turn {
        self.change(id, |_, word| match word.bits & JUDGED {
            0 => Word::of(member),
            _ => word.quiesced(member.quiesced),
        })
    }

    /// The monitor's word.
    pub(super) fn judge(&mut self, id: EndpointId, verdicts: &[judgement::Verdict; Policy::ALL.len()]) -> Turn {
        self.change(id, |policy, word| word.judged(verdicts[policy]))
    }

    /// Whether its contact was lost lately; where there is contact, that is no question.
    pub(super) fn set_fresh(&mut self, id: EndpointId, fresh: bool) -> Turn {
        self.change(id, |_, word| word.with(FRESH, fresh && word.bits & CONTACT == 0))
    }

    fn change(&mut self, id: EndpointId, to: impl Fn(usize, Word) -> Word) -> Turn {
        let mut change = Turn::default();
        // No entry shows the difference.
        let unseen = if self.open { JUDGED } else { JUDGED | FRESH };
        for (policy, (column, rates)) in self.columns.iter_mut().zip(&mut self.rates).enumerate() {
            let word = &mut column[id];
            let (before, after) = (*word, to(policy, *word));
            *word = after;
            if before.with(unseen, false) == after.with(unseen, false) {
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

    pub(super) fn set_open(&mut self, open: bool) {
        self.open = open;
    }

    /// What a group of this policy shows.
    pub(super) fn view(&self, policy: Policy, weight_max: u16) -> View<'_> {
        View {
            words: &self.columns[policy as usize],
            has_rates: self.rates[policy as usize] > 0,
            open: self.open,
            weight_max,
        }
    }
}

/// What one policy says of all endpoints.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    words: &'a Column<EndpointId, Word>,
    has_rates: bool,
    open: bool,
    weight_max: u16,
}

impl View<'_> {
    /// What an entry shows of the endpoint in a group of this scale.
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

    /// The scale of a group with these members.
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

    /// A word's bits, or what failing open makes of them.
    fn seen(&self, word: Word) -> u8 {
        match self.open {
            false => word.bits,
            true if word.bits & FRESH != 0 => (word.bits | CONTACT) & !CONFIDENT,
            true => word.bits & !CONFIDENT,
        }
    }
}
