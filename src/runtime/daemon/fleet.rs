//! What the main thread does for the fleet: starts its thread, and waits until all is read from etcd.

use std::{
    io,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use signal_hook::consts::{SIGINT, SIGTERM};

use super::{EndNotice, Event};
use crate::{
    config::{self, Config},
    coordinator::Coordinator,
    fleet::{Moment, Replica, Settings, VALUE_BYTES},
    journal::{Date, Epoch, Store, StoreError},
    runtime::{
        Error,
        fleet_thread::{self, Fleet, Parts},
        journal_thread::today,
        machine::clock::Clock,
        mesh::Bell,
    },
};

/// How often the start looks whether all is read from etcd.
const LOOK: Duration = Duration::from_millis(5);

/// The fleet's thread.
pub(super) struct Member {
    pub(super) handle: JoinHandle<Result<(), Error>>,
    pub(super) fleet: Arc<Fleet>,
}

/// The date of time zero.
fn epoch(clock: Clock) -> Epoch {
    Epoch::new(clock.now(), today())
}

/// Makes coordinators that belong to the fleet, if there is one.
pub(super) fn joining(
    settings: Option<config::Fleet>,
    clock: Clock,
    alone: impl Fn() -> Coordinator,
) -> impl Fn() -> Coordinator {
    let Epoch(Date(zero)) = epoch(clock);
    let joins = settings.map(|fleet| (fleet.node, fleet.redundancy));
    move || {
        let mut coordinator = alone();
        if let Some((node, redundancy)) = &joins {
            coordinator.join_fleet(node, *redundancy, zero);
        }
        coordinator
    }
}

/// Gives the state on disk to the replica.
pub(super) fn restoring(replica: &mut Replica, clock: Clock) -> impl FnMut(&Store) -> Result<(), StoreError> {
    let at = Moment { now: clock.now(), epoch: epoch(clock) };
    move |store| {
        replica.restored(store.ahead()?, store.known());
        store.each_row(at.epoch, |row| {
            replica.restore(&row, at);
            Ok(())
        })
    }
}

/// A replica that knows nothing yet.
pub(super) fn replica(settings: &config::Fleet, config: &Config) -> Replica {
    let address = config.listen.first().map(|listen| listen.address.to_string()).unwrap_or_default();
    Replica::new(Settings {
        node: settings.node.as_str().into(),
        // A life of a node begins later than the one before.
        incarnation: today().0,
        address: address.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        hold_time: config.settings.hold_time,
        value_bytes: VALUE_BYTES,
    })
}

impl Member {
    pub(super) fn start(
        settings: &config::Fleet,
        replica: Replica,
        clock: Clock,
        bell: Arc<Bell>,
        events: &mpsc::Sender<Event>,
    ) -> io::Result<Member> {
        let fleet = Arc::new(Fleet::new(bell));
        let parts = Parts { settings: settings.clone(), replica, fleet: fleet.clone(), clock };
        let handle = fleet_thread::start(parts, EndNotice(events.clone()))?;
        Ok(Member { handle, fleet })
    }

    /// Waits until all is read from etcd, or etcd is away; `false` if the daemon has to end before that. Other events wait.
    pub(super) fn wait(&self, inbox: &mpsc::Receiver<Event>, events: &mpsc::Sender<Event>) -> bool {
        let (mut later, mut goes_on) = (Vec::new(), true);
        while goes_on && !self.fleet.is_started() {
            match inbox.recv_timeout(LOOK) {
                Ok(Event::Signal(SIGINT | SIGTERM) | Event::Ended) => goes_on = false,
                Ok(event) => later.push(event),
                Err(_) => {}
            }
        }
        for event in later {
            let _ = events.send(event); // the inbox is there
        }
        goes_on
    }
}
