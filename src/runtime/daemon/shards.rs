//! The shards' threads: they make their executors, which can fail, before they may serve.

use std::sync::{Arc, mpsc};

use super::{
    EndNotice, Event, Metrics,
    threads::{Handle, cause_of_end},
};
use crate::{
    config::Config,
    coordinator::Settings,
    limits,
    monitor::{self, Tuning},
    runtime::{
        Error,
        coordinator_thread::Port,
        machine::{executor, poller::Poller},
        mesh::{Bell, pipe},
        probe::Prober,
        shard::{self, MonitoringControl, MonitoringSetup, ShardSetup, Shared, listener::Listener},
    },
};

/// Keeps a shard from serving until it is opened.
pub(super) struct Gate(mpsc::Sender<()>);

impl Gate {
    pub(super) fn open(&self) {
        // A shard that has ended has said so.
        let _ = self.0.send(());
    }
}

/// The threads, and the ways to them.
pub(super) struct Shards {
    pub(super) handles: Vec<Handle>,
    pub(super) ports: Vec<Port>,
    pub(super) gates: Vec<Gate>,
    pub(super) bells: Vec<Arc<Bell>>,
    pub(super) monitoring: Vec<Arc<MonitoringControl>>,
}

/// Starts a shard for each list of listeners.
pub(super) fn start(
    listeners: Vec<Vec<Listener>>,
    config: &Config,
    shared: &Arc<Shared>,
    coordinator_bell: &Arc<Bell>,
    metrics: &Metrics,
    events: &mpsc::Sender<Event>,
) -> Result<Shards, Error> {
    let shards = u16::try_from(listeners.len()).expect("there are at most 256 shards");
    let (handles, ports, gates, bells, monitoring) = Default::default();
    let mut all = Shards { handles, ports, gates, bells, monitoring };
    for (index, listeners) in listeners.into_iter().enumerate() {
        let (bell, control): (Arc<Bell>, Arc<MonitoringControl>) = Default::default();
        let (up_sender, up_receiver) = pipe(limits::BATCHES, bell.clone(), coordinator_bell.clone());
        let (down_sender, down_receiver) = pipe(limits::BATCHES, coordinator_bell.clone(), bell.clone());
        let poller = Poller::new().map_err(|error| Error::Start { what: "make an epoll set", error })?;
        for (index, listener) in listeners.iter().enumerate() {
            let watched = listener.watch(index, &poller);
            watched.map_err(|error| Error::Start { what: "watch a listening socket", error })?;
        }
        let setup = ShardSetup {
            index: u16::try_from(index).expect("there are at most 256 shards"),
            shards,
            limits: config.connections.clone(),
            listeners,
            shared: shared.clone(),
            metrics: metrics.shards.get(index).expect("each shard has metrics").clone(),
            bell: bell.clone(),
            spin: config.spin,
            apart: config.shard_cpus.get(index) != Some(&config.coordinator_cpu),
            poller,
            up: up_sender,
            down: down_receiver,
            monitoring: monitoring_setup(config, index, &control)?,
        };
        let (cpu, events) = (config.shard_cpus.get(index).copied(), events.clone());
        let end_notice = EndNotice(events.clone());
        let (gate, opened) = mpsc::channel();
        let handle = executor::spawn(&format!("shard-{index}"), cpu, move || async move {
            let _end_notice = end_notice;
            let _ = events.send(Event::Built);
            // Nothing else runs on this executor yet.
            if opened.recv().is_ok() {
                shard::run(setup, || drop(events.send(Event::Ready))).await;
            }
        });
        all.handles.push(handle.map_err(|error| Error::Start { what: "start a thread", error })?);
        all.ports.push(Port::new(up_receiver, down_sender));
        all.gates.push(Gate(gate));
        all.bells.push(bell);
        all.monitoring.push(control);
    }
    Ok(all)
}

/// Waits until all shards have their executors.
pub(super) fn wait(handles: &mut Vec<Handle>, inbox: &mpsc::Receiver<Event>) -> Result<(), Error> {
    let mut built = 0;
    while built < handles.len() {
        match inbox.recv() {
            Ok(Event::Built) => built += 1,
            Ok(Event::Signal(signal)) if signal != signal_hook::consts::SIGHUP => {
                return Err(Error::Takeover { why: "a signal has stopped this process".into() });
            }
            Ok(Event::Ended) => return Err(cause_of_end(std::mem::take(handles))),
            _ => {}
        }
    }
    Ok(())
}

/// The parts of one shard's monitoring.
fn monitoring_setup(config: &Config, shard: usize, control: &Arc<MonitoringControl>) -> Result<MonitoringSetup, Error> {
    let Settings { icmp, weight_max, hash_seed, .. } = config.settings;
    let tuning = Tuning { weight_max, slow_start: config.monitoring.slow_start, ..Tuning::default() };
    // A shard that has no share of the descriptors checks one member at a time.
    let checks_under_way = (config.monitoring.max_probes as usize / config.shard_cpus.len()).max(1);
    Ok(MonitoringSetup {
        control: control.clone(),
        roster: config.settings.roster.clone(),
        settings: monitor::MonitorSettings { tuning, checks_under_way, icmp },
        seed: hash_seed ^ shard as u64,
        prober: Prober::new(icmp).map_err(|error| Error::Start { what: "make sockets for checks", error })?,
    })
}
