//! The open streams, for those who ask: what each was told last, and what its client has acknowledged.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::stream::{Stream, Told};
use crate::{
    connect::{
        Observed,
        figures::{Client, Figure, XDS_BEHIND, XDS_REFUSALS, XDS_STREAMS},
    },
    limits,
};

/// All open streams; clones are one.
#[derive(Clone, Default)]
pub struct Clients(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    next: u64,
    open: BTreeMap<u64, Open>,
    /// Refusals of all streams, those that have ended too, by kind.
    refusals: BTreeMap<&'static str, u64>,
}

struct Open {
    node: String,
    told: Vec<Told>,
}

impl Clients {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream is open, until the value is dropped.
    pub(super) fn enter(&self) -> Seat {
        let mut state = self.lock();
        state.next += 1;
        let id = state.next;
        state.open.insert(id, Open { node: String::new(), told: Vec::new() });
        Seat { clients: self.clone(), id }
    }

    /// What is known now.
    pub fn observed(&self) -> Observed {
        let state = self.lock();
        let is_behind = |open: &&Open| open.told.iter().any(|told| told.acknowledged != Some(told.version));
        let mut figures = vec![
            Figure::new(&XDS_STREAMS, state.open.len() as u64),
            Figure::new(&XDS_BEHIND, state.open.values().filter(is_behind).count() as u64),
        ];
        figures
            .extend(state.refusals.iter().map(|(kind, count)| Figure::new(&XDS_REFUSALS, *count).with("kind", *kind)));
        let clients = state.open.values().flat_map(|open| {
            open.told.iter().map(|told| Client {
                name: open.node.clone(),
                kind: told.kind.name(),
                told: told.version.to_string(),
                acknowledged: told.acknowledged.map(|version| version.to_string()),
                refused: told.refused.clone(),
            })
        });
        let clients = clients.take(limits::OBSERVED_MEMBERS).collect();
        Observed { figures, clients, ..Observed::default() }
    }
}

/// The place of one stream among the others.
pub(super) struct Seat {
    clients: Clients,
    id: u64,
}

impl Seat {
    /// Tells what the stream has now.
    pub(super) fn tell(&self, node: &str, stream: &Stream) {
        let told = stream.told();
        let mut state = self.clients.lock();
        let State { open, refusals, .. } = &mut *state;
        let Some(open) = open.get_mut(&self.id) else { return };
        for now in &told {
            let before = open.told.iter().find(|before| before.kind == now.kind).map_or(0, |before| before.refusals);
            if now.refusals > before {
                *refusals.entry(now.kind.name()).or_default() += now.refusals - before;
            }
        }
        open.told = told;
        if open.node != node {
            node.clone_into(&mut open.node);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.clients.lock().open.remove(&self.id);
    }
}

/// A request of a connection that is answered, until the value is dropped.
pub(super) struct Busy(watch::Sender<usize>);

impl Busy {
    /// One more of those that are counted here.
    pub(super) fn of(count: &watch::Sender<usize>) -> Busy {
        count.send_modify(|count| *count += 1);
        Busy(count.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
