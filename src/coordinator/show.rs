//! What a group shows of its listing: an edition, and messages made from it.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    edition::{Edition, UNSENT, Values},
    listing::Listing,
    verdicts::View,
};
use crate::{judgement::Scale, sasp::image::VALUE_BYTES};

/// Editions of one version, and deltas to one edition, that a listing keeps.
const KEPT: usize = 4;

impl Listing {
    /// What a group shows now, if the group had the scale `before`.
    pub(super) fn show(&mut self, before: Option<Scale>, doubted: bool, verdicts: View<'_>) -> Show<'_> {
        let edition = self.edition(before, doubted, verdicts);
        Show { listing: self, edition }
    }

    /// The place of the edition that a group shows now.
    fn edition(&mut self, before: Option<Scale>, doubted: bool, verdicts: View<'_>) -> usize {
        let version = self.version;
        let is_same = |known: &Edition| known.version == version && known.doubted == doubted;
        let has_scale = |known: &Edition| known.before == before || known.scale == before;
        if let Some(found) = self.editions.iter().position(|known| is_same(known) && has_scale(known)) {
            return found;
        }
        let scale = verdicts.scale(before, self.members());
        if let Some(found) = self.editions.iter().position(|known| is_same(known) && known.scale == scale) {
            return found;
        }
        if let Some(found) = self.next_edition(before, doubted, scale, verdicts) {
            return found;
        }
        self.touched.take(version);
        // An older edition is of no use, but values that no group was sent give their memory to the new ones.
        let mut reused = None;
        self.editions.retain_mut(|known| {
            if known.version != version && Arc::get_mut(&mut known.values).is_some() {
                reused = Some(known.values.clone());
            }
            known.version == version
        });
        let mut values = reused.unwrap_or_else(|| std::iter::repeat_n(UNSENT, self.slots.len()).collect());
        let room = Arc::get_mut(&mut values).expect("nobody else has it");
        for (value, slot) in room.iter_mut().zip(&self.slots) {
            if !slot.is_vacant() {
                *value = slot.value(verdicts.shown(slot.endpoint, scale));
            }
        }
        let mut body = None;
        if let Some(same) = self.editions.iter().find(|known| known.values == values) {
            (values, body) = (same.values.clone(), same.body.clone());
        }
        if self.editions.len() >= KEPT {
            self.editions.remove(0);
        }
        self.editions.push(Edition { version, doubted, before, scale, values, from: None, body, deltas: Vec::new() });
        self.editions.len() - 1
    }

    /// The edition that follows the one before, if it is known which values differ: only these are made.
    fn next_edition(
        &mut self,
        before: Option<Scale>,
        doubted: bool,
        scale: Option<Scale>,
        verdicts: View<'_>,
    ) -> Option<usize> {
        let (version, since) = (self.version, self.touched.since()?);
        let is_base = |known: &Edition| known.version == since && known.doubted == doubted && known.scale == scale;
        let base = self.editions.iter().position(is_base).filter(|_| since != version)?;
        let base = self.editions.swap_remove(base);
        let mut differing = self.touched.take(version);
        let value = |at: &u32| {
            let slot = &self.slots[*at as usize];
            (!slot.is_vacant()).then(|| slot.value(verdicts.shown(slot.endpoint, scale)))
        };
        differing.retain(|at| value(at).is_some_and(|value| value != base.values[*at as usize]));
        let edition = if differing.is_empty() {
            Edition { version, before, ..base }
        } else {
            let mut values = Values::from(&*base.values);
            let room = Arc::get_mut(&mut values).expect("nobody else has it");
            for at in &differing {
                room[*at as usize] = value(at).expect("its slot is not vacant");
            }
            let from = Some((base.values, differing));
            Edition { version, doubted, before, scale, values, from, body: None, deltas: Vec::new() }
        };
        self.editions.clear();
        self.editions.push(edition);
        Some(0)
    }
}

/// An edition of a listing.
pub(super) struct Show<'l> {
    listing: &'l mut Listing,
    edition: usize,
}

impl Show<'_> {
    fn edition(&mut self) -> &mut Edition {
        &mut self.listing.editions[self.edition]
    }

    pub(super) fn scale(&self) -> Option<Scale> {
        self.listing.editions[self.edition].scale
    }

    pub(super) fn values(&self) -> &Values {
        &self.listing.editions[self.edition].values
    }

    pub(super) fn len(&self) -> u32 {
        self.listing.len()
    }

    /// Whether an LB that was sent this was sent what the edition shows.
    pub(super) fn is_as_sent(&self, sent: &Values) -> bool {
        let values = self.values();
        Arc::ptr_eq(sent, values)
            || sent == values
            || !self.listing.is_dense() && self.listing.live().all(|(at, _)| sent.get(at) == Some(&values[at]))
    }

    /// Whether groups of other LBs may show the same.
    pub(super) fn is_shared(&self) -> bool {
        self.listing.groups.len() > 1
    }

    /// All entries, made once for all groups.
    pub(super) fn body(&mut self) -> Bytes {
        if let Some(body) = &self.edition().body {
            return body.clone();
        }
        let mut entries = Vec::with_capacity(self.listing.entries.len());
        self.write(&mut entries);
        self.edition().body.insert(entries.into()).clone()
    }

    /// Appends all entries.
    pub(super) fn write(&mut self, out: &mut Vec<u8>) {
        let dense = self.listing.is_dense();
        let Listing { slots, entries, editions, .. } = &mut *self.listing;
        for (slot, value) in slots.iter().zip(&*editions[self.edition].values) {
            // An equal value is not written: clean memory costs half.
            let written = &mut entries[slot.value_range()];
            if written != value {
                written.copy_from_slice(value);
            }
        }
        if dense {
            return out.extend_from_slice(entries);
        }
        for (at, _) in self.listing.live() {
            out.extend_from_slice(self.listing.entry(at));
        }
    }

    /// Appends the entries that differ from what was `sent`; gives their number.
    fn write_delta(&self, sent: Option<&Values>, out: &mut Vec<u8>) -> u32 {
        let values = self.values();
        let mut count = 0;
        let mut write = |at: usize| {
            let entry = self.listing.entry(at);
            out.extend_from_slice(&entry[..entry.len() - VALUE_BYTES]);
            out.extend_from_slice(&values[at]);
            count += 1;
        };
        match (&self.listing.editions[self.edition].from, sent) {
            (Some((from, differing)), Some(sent)) if Arc::ptr_eq(from, sent) => {
                differing.iter().for_each(|at| write(*at as usize));
            }
            _ => {
                let sent = sent.map_or(&[][..], |sent| sent);
                let live = self.listing.live().filter(|(at, _)| sent.get(*at) != Some(&values[*at]));
                live.for_each(|(at, _)| write(at));
            }
        }
        count
    }

    /// The entries that differ from what was `sent`, made once for all groups that were sent the same, and their
    /// number. Without a body they are in `out`, which is empty before.
    pub(super) fn delta(&mut self, sent: Option<&Values>, out: &mut Vec<u8>) -> (Option<Bytes>, u32) {
        if sent.is_some_and(|sent| Arc::ptr_eq(sent, self.values())) {
            return (None, 0);
        }
        if !self.is_shared() {
            return (None, self.write_delta(sent, out));
        }
        let is_same = |known: &Option<Values>| match (known, sent) {
            (Some(known), Some(sent)) => Arc::ptr_eq(known, sent),
            (None, None) => true,
            _ => false,
        };
        if let Some((_, body, count)) = self.edition().deltas.iter().find(|(known, ..)| is_same(known)) {
            return (Some(body.clone()), *count);
        }
        let count = self.write_delta(sent, out);
        let body = Bytes::copy_from_slice(out);
        out.clear();
        let deltas = &mut self.edition().deltas;
        if deltas.len() >= KEPT {
            deltas.remove(0);
        }
        deltas.push((sent.cloned(), body.clone(), count));
        (Some(body), count)
    }
}
