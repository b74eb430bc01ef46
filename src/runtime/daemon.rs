//! The main thread: it binds listeners, starts the other threads, waits for signals, and stops the daemon.

#[cfg(feature = "admin")]
mod admin;
#[cfg(feature = "fleet")]
mod fleet;
mod keeper;
mod listen;
mod reload;
mod systemd;

use std::{
    io,
    sync::{Arc, atomic::Ordering, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use keeper::Keeper;
use reload::{look_at_addresses, own_addresses};
use systemd::Systemd;

#[cfg(feature = "admin")]
use super::admin_thread::{self, AdminThread};
use super::{
    agent_thread::{AgentMetrics, AgentThread},
    coordinator_thread::{self, CoordinatorControl, CoordinatorMetrics, Keeping, Port},
    error::Error,
    journal_thread::{self, Journal},
    log,
    machine::{executor, poller::Poller},
    mesh::{Bell, pipe},
    probe::{self, Prober},
    shard::{self, MonitoringControl, MonitoringSetup, ShardMetrics, ShardSetup, Shared, listener::Listener},
};
#[cfg(feature = "fleet")]
use crate::runtime::fleet_thread::Fleet;
#[cfg(feature = "admin")]
use crate::web::Gate;
use crate::{
    config::{Config, Durability, Listen},
    coordinator::{Coordinator, Settings},
    limits,
    metrics::{Id, Reading},
    monitor::{self, Tuning},
    notify::Notifier,
};

/// How long the stop may take in all.
const STOP_TIMEOUT: Duration = Duration::from_millis(4500);

/// How often the main thread looks whether log lines were lost, and whether this machine has other addresses.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// An event that the main thread waits for.
pub(super) enum Event {
    Ready,
    Signal(i32),
    /// The operator wants the files to be read again, by the admin side.
    #[cfg_attr(not(feature = "admin"), allow(dead_code))]
    Reload,
    /// A thread has ended, also by a panic.
    Ended,
}

/// Tells the main thread that the thread that owns this value has ended, also by a panic.
struct EndNotice(mpsc::Sender<Event>);

impl Drop for EndNotice {
    fn drop(&mut self) {
        // The main thread does not listen any more if it gave up waiting.
        let _ = self.0.send(Event::Ended);
    }
}

/// The running threads.
struct Threads {
    coordinator: JoinHandle<Result<(), Error>>,
    keeper: Option<Keeper>,
    #[cfg(feature = "fleet")]
    member: Option<fleet::Member>,
    shards: Vec<JoinHandle<Result<(), Error>>>,
    #[cfg(feature = "admin")]
    admin: Option<AdminThread>,
    agent: Option<AgentThread>,
}

/// The signals since [`watch_signals`], and later the events of the daemon's threads.
pub struct Inbox {
    events: mpsc::Sender<Event>,
    inbox: mpsc::Receiver<Event>,
}

/// Keeps the signals that come from now on for [`serve`].
pub fn watch_signals() -> Result<Inbox, Error> {
    let (events, inbox) = mpsc::channel();
    forward_signals(events.clone()).map_err(|error| Error::Start { what: "watch for signals", error })?;
    Ok(Inbox { events, inbox })
}

/// Serves until a signal asks to stop.
pub fn serve(mut config: Config, Inbox { events, inbox }: Inbox) -> Result<(), Error> {
    config.settings.icmp = probe::may_echo().is_ok();
    config.settings.own_addresses = Arc::new(own_addresses());
    let shards = config.shard_cpus.len();
    let shared = Arc::new(Shared::new(&config.connections, config.tls.as_ref().map(|tls| tls.config.clone())));
    let control = Arc::new(CoordinatorControl::new());
    let (settings, count) = (config.settings.clone(), u16::try_from(shards).expect("there are at most 256 shards"));
    let alone = move || Coordinator::new(settings.clone(), count);
    #[cfg(feature = "fleet")]
    let empty = fleet::joining(config.fleet.clone(), shared.clock, alone);
    #[cfg(not(feature = "fleet"))]
    let empty = alone;
    #[cfg(feature = "fleet")]
    let mut replica = config.fleet.as_ref().map(|settings| fleet::replica(settings, &config));
    // Before the listeners: nobody asks a GWM that knows nothing yet.
    let loaded = config.state.as_ref().map(|state| {
        #[cfg(feature = "fleet")]
        let mut each = replica.as_mut().map(|replica| fleet::restoring(replica, shared.clock));
        #[cfg(feature = "fleet")]
        let each = each.as_mut().map(|each| each as _);
        #[cfg(not(feature = "fleet"))]
        let each = None;
        journal_thread::load(state, shared.clock, &empty, each)
    });
    let (kept, restored) = loaded.transpose()?.unzip();
    #[cfg(feature = "fleet")]
    let member = match config.fleet.as_ref().zip(replica) {
        None => None,
        Some((settings, replica)) => {
            let member = fleet::Member::start(settings, replica, shared.clock, control.bell.clone(), &events);
            let member = member.map_err(|error| Error::Start { what: "start a thread", error })?;
            if !member.wait(&inbox, &events) {
                member.fleet.stop();
                return joined(member.handle);
            }
            Some(member)
        }
    };
    let mut listening = Vec::new();
    let mut listeners: Vec<Vec<_>> = (0..shards).map(|_| Vec::new()).collect();
    for &Listen { address, carries } in &config.listen {
        let (bound, sockets) =
            listen::bind(address, shards, &config).map_err(|error| Error::Bind { address, carries, error })?;
        listening.push(Listen { address: bound, carries });
        listeners.iter_mut().zip(sockets).for_each(|(shard, socket)| shard.push(Listener::new(socket, carries)));
    }

    #[cfg(feature = "admin")]
    let (admin_addresses, admin_listeners) = admin::bind(&config)?;
    let (agent_addresses, agent_listeners) = listen::bind_agent(&config)?;
    let journal = kept.as_ref().map(|_| Arc::new(Journal::new(control.bell.clone())));
    let metrics = Arc::new(Metrics {
        journal: journal.clone(),
        #[cfg(feature = "fleet")]
        fleet: member.as_ref().map(|member| member.fleet.clone()),
        ..Metrics::new(shards)
    });
    let bells: Vec<Arc<Bell>> = (0..shards).map(|_| Arc::default()).collect();
    let monitoring: Vec<Arc<MonitoringControl>> = (0..shards).map(|_| Arc::default()).collect();
    let failed = |error| Error::Start { what: "start a thread", error };

    let mut ports = Vec::new();
    let mut handles = Vec::new();
    for (index, listeners) in listeners.into_iter().enumerate() {
        let bell = bells.get(index).expect("each shard has a bell").clone();
        let (up_sender, up_receiver) = pipe(limits::BATCHES, bell.clone(), control.bell.clone());
        let (down_sender, down_receiver) = pipe(limits::BATCHES, control.bell.clone(), bell.clone());
        ports.push(Port::new(up_receiver, down_sender));
        let poller = Poller::new().map_err(|error| Error::Start { what: "make an epoll set", error })?;
        for (index, listener) in listeners.iter().enumerate() {
            let watched = listener.watch(index, &poller);
            watched.map_err(|error| Error::Start { what: "watch a listening socket", error })?;
        }
        let setup = ShardSetup {
            index: u16::try_from(index).expect("there are at most 256 shards"),
            shards: count,
            limits: config.connections.clone(),
            listeners,
            shared: shared.clone(),
            metrics: metrics.shards.get(index).expect("each shard has metrics").clone(),
            bell,
            spin: config.spin,
            apart: config.shard_cpus.get(index) != Some(&config.coordinator_cpu),
            poller,
            up: up_sender,
            down: down_receiver,
            monitoring: monitoring_setup(&config, index, monitoring.get(index).expect("each shard has one"))?,
        };
        let (cpu, events) = (config.shard_cpus.get(index).copied(), events.clone());
        let end_notice = EndNotice(events.clone());
        let handle = executor::spawn(&format!("shard-{index}"), cpu, move || async move {
            let _end_notice = end_notice;
            shard::run(setup, || drop(events.send(Event::Ready))).await;
        });
        handles.push(handle.map_err(failed)?);
    }
    let waits = config.durability == Durability::Reply;
    let keeping = Keeping::new(journal.clone(), waits, config.settings.hold_time);
    #[cfg(feature = "fleet")]
    let keeping = match &member {
        Some(member) => {
            let ahead = kept.as_ref().is_none_or(|kept| kept.store.is_ahead());
            keeping.with_fleet(member.fleet.clone(), ahead)
        }
        None => keeping,
    };
    let keeping = keeping.is_needed().then_some(keeping);
    let keeper = kept.zip(journal).map(|(kept, journal)| Keeper::start(kept, journal, &config, &shared, &events));
    let keeper = keeper.transpose().map_err(failed)?;
    let coordinator = {
        let (control, clock) = (control.clone(), shared.clock);
        let metrics = metrics.coordinator.clone();
        let (events, end_notice) = (events.clone(), EndNotice(events.clone()));
        let (spin, history) = (config.spin, !config.admin.listen.is_empty());
        executor::pinned("coordinator", Some(config.coordinator_cpu), move || {
            let _end_notice = end_notice;
            let ready = || drop(events.send(Event::Ready));
            let coordinator = || restored.unwrap_or_else(empty);
            coordinator_thread::run((coordinator, keeping), ports, control, metrics, clock, (spin, history), ready);
            Ok(())
        })
        .map_err(failed)?
    };
    #[cfg(feature = "admin")]
    let admin = match admin_listeners {
        listeners if listeners.is_empty() => None,
        listeners => {
            let parts = admin_thread::Parts {
                control: control.clone(),
                monitoring: monitoring.clone(),
                bells: bells.clone(),
                metrics: metrics.clone(),
                shared: shared.clone(),
                calendar: admin::calendar(&shared, &config),
                settings: config.settings.clone(),
                max_probes: config.monitoring.max_probes,
                flags: admin::shown_flags(&config),
                warnings: config.warnings.clone(),
                metrics_members: config.metrics_members,
                #[cfg(feature = "fleet")]
                fleet: config.fleet.clone(),
                events: events.clone(),
                gate: Gate::new(&config.admin),
            };
            let ended = EndNotice(events.clone());
            Some(AdminThread::start(listeners, admin_thread::Daemon::new(parts), ended).map_err(failed)?)
        }
    };
    let agent = match agent_listeners {
        listeners if listeners.is_empty() => None,
        listeners => {
            let ended = EndNotice(events.clone());
            let (lb, metrics) = (config.agent_lb.clone(), metrics.agent.clone());
            Some(AgentThread::start(listeners, lb, control.clone(), metrics, ended).map_err(failed)?)
        }
    };
    let mut threads = Threads {
        coordinator,
        keeper,
        #[cfg(feature = "fleet")]
        member,
        shards: handles,
        #[cfg(feature = "admin")]
        admin,
        agent,
    };

    let mut starting = shards + 1;
    let mut lost = 0;
    let mut addresses = config.settings.own_addresses.clone();
    let mut systemd = Systemd::new(Notifier::from_environment(), metrics.clone());
    let mut look_at = Instant::now() + LOOK_INTERVAL;
    loop {
        let now = Instant::now();
        if now >= look_at {
            look_at = now + LOOK_INTERVAL;
            log::report_lost(&mut lost);
            look_at_addresses(&mut addresses, &control);
            threads.keeper.iter_mut().for_each(Keeper::report_slow_disk);
        }
        let wait = systemd.look(now).into_iter().fold(look_at - now, Duration::min);
        let Ok(event) = inbox.recv_timeout(wait) else { continue };
        match event {
            Event::Ready => {
                starting -= 1;
                if starting == 0 {
                    listen::announce(&listening, &config);
                    #[cfg(feature = "admin")]
                    listen::announce_each("admin", &admin_addresses);
                    listen::announce_each("agent-checks", &agent_addresses);
                    systemd.ready(now, &listening);
                }
            }
            Event::Signal(SIGHUP) | Event::Reload => {
                // What the log says about the files begins with who wanted them to be read.
                let by = if matches!(event, Event::Reload) { "reload by the admin side" } else { "SIGHUP" };
                if config.monitoring.members.is_none()
                    && config.access.file.is_none()
                    && config.tls.is_none()
                    && config.admin.tls.is_none()
                    && config.admin.token_file.is_none()
                    && config.given.file().is_none()
                {
                    tracing::info!("{by}: no flag names a file to read again");
                }
                systemd.reload(|| {
                    reload::look_at_config(by, &config);
                    look_at_addresses(&mut addresses, &control);
                    reload::read_members(by, &config, &control, &monitoring);
                    reload::read_access(by, &config, &control);
                    reload::read_tls(by, &mut config.tls, &shared);
                    #[cfg(feature = "admin")]
                    if let Some(admin) = &threads.admin {
                        admin.daemon.reload(by, &mut config.admin);
                    }
                });
            }
            Event::Signal(_) => break,
            Event::Ended => return Err(threads.cause_of_end()),
        }
    }
    log::report_lost(&mut lost);
    systemd.stopping(STOP_TIMEOUT);
    stop(threads, &inbox, &shared, &control, &bells, &metrics)
}

/// Lets the shards drain, then ends the coordinator.
fn stop(
    threads: Threads,
    inbox: &mpsc::Receiver<Event>,
    shared: &Shared,
    control: &CoordinatorControl,
    bells: &[Arc<Bell>],
    metrics: &Metrics,
) -> Result<(), Error> {
    tracing::info!("stopping: listeners are closed, requests under way are answered");
    let deadline = Instant::now() + STOP_TIMEOUT;
    shared.draining.store(true, Ordering::Release);
    bells.iter().for_each(|bell| bell.ring());
    let mut running = threads.shards.len() + 1;
    if let Some(agent) = &threads.agent {
        agent.stop();
        running += 1;
    }
    #[cfg(feature = "admin")]
    if let Some(admin) = &threads.admin {
        admin.thread.stop();
        running += 1;
    }
    // The shards need the coordinator, and the coordinator the journal and the fleet.
    let journal = threads.keeper.as_ref().map(|keeper| &keeper.journal);
    let mut behind = usize::from(journal.is_some());
    #[cfg(feature = "fleet")]
    {
        behind += usize::from(threads.member.is_some());
    }
    let last = 1 + behind;
    running += behind;
    while running > 0 {
        match inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Event::Ended) => running -= 1,
            Ok(_) => {}
            Err(_) => return Err(Error::StopTimeout { running }),
        }
        if running == last {
            control.stop.store(true, Ordering::Release);
            control.bell.ring();
        }
        if running == behind {
            if let Some(journal) = journal {
                journal.stop();
            }
            #[cfg(feature = "fleet")]
            if let Some(member) = &threads.member {
                member.fleet.stop();
            }
        }
    }
    threads.into_handles().try_for_each(joined)?;
    metrics.read().log();
    Ok(())
}

/// The metrics of all threads.
pub(super) struct Metrics {
    shards: Vec<Arc<ShardMetrics>>,
    coordinator: Arc<CoordinatorMetrics>,
    pub(super) journal: Option<Arc<Journal>>,
    #[cfg(feature = "fleet")]
    pub(super) fleet: Option<Arc<Fleet>>,
    agent: Arc<AgentMetrics>,
}

impl Metrics {
    pub(super) fn new(shards: usize) -> Metrics {
        let shards = (0..shards).map(|_| Arc::default()).collect();
        let (coordinator, agent) = Default::default();
        Metrics {
            shards,
            coordinator,
            agent,
            journal: None,
            #[cfg(feature = "fleet")]
            fleet: None,
        }
    }

    /// All metrics now; the threads may run on.
    pub(super) fn read(&self) -> Reading {
        let mut reading = Reading::default();
        for (shard, metrics) in (0..).zip(&self.shards) {
            metrics.read(shard, &mut reading);
        }
        self.coordinator.read(&mut reading);
        if let Some(journal) = &self.journal {
            reading.add_distribution(None, Id::StateTransaction, journal.transactions.read());
        }
        #[cfg(feature = "fleet")]
        if let Some(fleet) = &self.fleet {
            reading.add_distribution(None, Id::FleetTransaction, fleet.transactions.read());
        }
        self.agent.read(&mut reading);
        reading
    }
}

impl Threads {
    fn into_handles(self) -> impl Iterator<Item = JoinHandle<Result<(), Error>>> {
        let handles = self.shards.into_iter().chain([self.coordinator]).chain(self.keeper.map(|keeper| keeper.handle));
        #[cfg(feature = "fleet")]
        let handles = handles.chain(self.member.map(|member| member.handle));
        #[cfg(feature = "admin")]
        let handles = handles.chain(self.admin.map(|admin| admin.thread.handle));
        handles.chain(self.agent.map(|agent| agent.handle))
    }

    /// Why a thread has ended that should run: the first one found.
    fn cause_of_end(self) -> Error {
        // The other threads run on, and end with the process.
        let mut threads: Vec<_> = self.into_handles().collect();
        loop {
            // A thread reports its end a moment before its handle shows the end.
            thread::yield_now();
            if let Some(at) = threads.iter().position(JoinHandle::is_finished) {
                let thread = threads.swap_remove(at);
                let name = name(&thread);
                return joined(thread).err().unwrap_or(Error::Ended { thread: name });
            }
        }
    }
}

fn name<T>(thread: &JoinHandle<T>) -> String {
    thread.thread().name().unwrap_or("a thread").to_owned()
}

/// A thread's result; a panic becomes an error.
fn joined<T>(thread: JoinHandle<Result<T, Error>>) -> Result<T, Error> {
    let name = name(&thread);
    thread.join().unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(Error::Panicked { thread: name, text })
    })
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

/// Forwards signals. The second one that asks to stop ends the process at once, whatever the other threads do.
fn forward_signals(events: mpsc::Sender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut stopping = false;
        for signal in signals.forever() {
            if signal != SIGHUP && std::mem::replace(&mut stopping, true) {
                log::last_words("second signal: stopped at once".into());
                std::process::exit(1);
            }
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}
