//! How many queries there were, by what they asked for. All threads that answer count here; the counters are older than each
//! snapshot of the zone and outlive it.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use domain::base::Rtype;

use super::names::{Shown, ZoneName};
use crate::connect::figures::{DNS_DROPPED, DNS_OTHERS, DNS_QUERIES, Figure};

/// Types with a counter of their own; all others are counted together.
const TYPES: [Rtype; 3] = [Rtype::SRV, Rtype::A, Rtype::AAAA];

/// Queries for one name.
#[derive(Debug, Default)]
pub(super) struct ByType([AtomicU64; TYPES.len() + 1]);

impl ByType {
    pub(super) fn count(&self, rtype: Rtype) {
        let at = TYPES.iter().position(|other| *other == rtype).unwrap_or(TYPES.len());
        add(&self.0[at]);
    }
}

/// All queries.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Names that show groups.
    shown: HashMap<ZoneName, Arc<ByType>>,
    /// Other names of the zone.
    pub(super) known: AtomicU64,
    /// Names that the zone has not.
    pub(super) absent: AtomicU64,
    /// Names that are not in the zone.
    pub(super) foreign: AtomicU64,
    /// Left without an answer by the rate limit.
    pub(super) dropped: AtomicU64,
}

/// Counts one more.
pub(super) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Tally {
    /// With a counter for each of these names.
    pub(super) fn new(shown: &[Shown]) -> Tally {
        let shown = shown.iter().map(|shown| (shown.name.clone(), Arc::default())).collect();
        Tally { shown, ..Tally::default() }
    }

    /// The names that show groups, with their counters.
    pub(super) fn shown(&self) -> impl Iterator<Item = (&ZoneName, &Arc<ByType>)> {
        self.shown.iter()
    }

    /// All counters; a type that nobody has asked a name for is left out.
    pub(super) fn figures(&self) -> Vec<Figure> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut names: Vec<_> = self.shown.iter().collect();
        names.sort_by_key(|(name, _)| *name);
        let of_name = |(name, counters): (&ZoneName, &Arc<ByType>)| {
            let types = TYPES.iter().map(Rtype::to_string).chain(["other".to_owned()]);
            let counted = types.zip(&counters.0).map(|(rtype, counter)| (rtype, read(counter)));
            let name = name.to_string();
            let figure = |(rtype, value)| Figure::new(&DNS_QUERIES, value).with("name", &name).with("type", rtype);
            counted.filter(|(_, value)| *value > 0).map(figure).collect::<Vec<_>>()
        };
        let mut figures: Vec<Figure> = names.into_iter().flat_map(of_name).collect();
        for (name, counter) in [("known", &self.known), ("absent", &self.absent), ("foreign", &self.foreign)] {
            figures.push(Figure::new(&DNS_OTHERS, read(counter)).with("name", name));
        }
        figures.push(Figure::new(&DNS_DROPPED, read(&self.dropped)));
        figures
    }
}
