//! The main thread: it binds listeners, starts the other threads, waits for signals, and stops the daemon.

#[cfg(feature = "admin")]
mod admin;
#[cfg(feature = "fleet")]
mod fleet;
mod giving;
mod keeper;
mod listen;
mod reload;
mod shards;
mod systemd;
mod threads;

use std::{
    io,
    sync::{Arc, atomic::Ordering, mpsc},
    thread,
    time::{Duration, Instant},
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2},
    iterator::Signals,
};

use keeper::Keeper;
use reload::{look_at_addresses, own_addresses};
use shards::{Gate, Shards};
use systemd::Systemd;
use threads::{Threads, joined};

#[cfg(feature = "admin")]
use super::admin_thread::{self, AdminThread};
use super::{
    agent_thread::{AgentMetrics, AgentThread},
    coordinator_thread::{self, CoordinatorControl, CoordinatorMetrics, Keeping},
    error::Error,
    journal_thread::{self, Journal},
    log,
    machine::executor,
    mesh::Bell,
    probe,
    shard::{self, ShardMetrics, Shared},
    takeover::{Giving, Heirs, Takeovers, Taking},
};
#[cfg(feature = "fleet")]
use crate::runtime::fleet_thread::Fleet;
#[cfg(feature = "admin")]
use crate::web;
use crate::{
    config::{Config, Durability},
    coordinator::Coordinator,
    metrics::{Id, Reading},
    notify::Notifier,
};

/// How long the stop may take in all.
const STOP_TIMEOUT: Duration = Duration::from_millis(4500);

/// How often the main thread looks whether log lines were lost, and whether this machine has other addresses.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// An event that the main thread waits for.
pub(super) enum Event {
    /// A shard can serve as soon as its gate is open.
    Built,
    Ready,
    Signal(i32),
    /// Another process has taken over.
    Over,
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

/// Serves until a signal asks to stop, or another process takes over.
pub fn serve(config: Config, inbox: Inbox) -> Result<(), Error> {
    let wanted = config.state.as_ref().filter(|state| state.takeover);
    let mut taking = wanted.map(|state| Taking::begin(&state.directory)).transpose()?.flatten();
    if taking.is_none() && wanted.is_some() {
        tracing::info!("--takeover: no gwm runs on this state, so this one starts as usual");
    }
    let served = run(config, inbox, &mut taking);
    if let (Some(taking), Err(error)) = (taking, &served) {
        taking.refuse(error);
    }
    served
}

/// Serves. `taking` is taken when the listeners and the state are this process's.
fn run(mut config: Config, Inbox { events, inbox }: Inbox, taking: &mut Option<Taking>) -> Result<(), Error> {
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
    let own_state = config.state.as_ref().filter(|_| taking.is_none());
    let loaded = own_state.map(|state| {
        #[cfg(feature = "fleet")]
        let mut to_fleet = replica.as_mut().map(|replica| fleet::restoring(replica, shared.clock));
        #[cfg(feature = "fleet")]
        let to_fleet = to_fleet.as_mut().map(|to_fleet| to_fleet as _);
        #[cfg(not(feature = "fleet"))]
        let to_fleet = None;
        journal_thread::load(state, shared.clock, &empty, to_fleet)
    });
    let mut loaded = loaded.transpose()?;
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
    let bound = listen::bind(&config, taking.as_mut())?;
    let journal = config.state.as_ref().map(|_| Arc::new(Journal::new(control.bell.clone())));
    let takeovers = Arc::new(Takeovers::default());
    let metrics = Arc::new(Metrics {
        journal: journal.clone(),
        #[cfg(feature = "fleet")]
        fleet: member.as_ref().map(|member| member.fleet.clone()),
        takeovers: takeovers.clone(),
        ..Metrics::new(shards)
    });
    let failed = |error| Error::Start { what: "start a thread", error };
    let started = shards::start(bound.shards, &config, &shared, &control.bell, &metrics, &events)?;
    let Shards { mut handles, ports, gates, bells, monitoring } = started;

    if let Some(under_way) = taking {
        // What can fail fails before the running daemon gives its state away. After an error it is told why.
        shards::wait(&mut handles, &inbox)?;
        under_way.unwanted().for_each(|listener| tracing::warn!("--takeover: nobody listens any more on {listener:?}"));
        let state = config.state.as_ref().expect("a takeover is one of a state");
        under_way.wait_for_state()?;
        let start = Instant::now();
        let (mut kept, coordinator) = journal_thread::load_taken(state, shared.clock, &empty)?;
        under_way.finish()?;
        let id = under_way.id();
        *taking = None;
        // There is no way back. If the disk refuses, the journal's thread tries again, and says so.
        let _ = kept.begin(shared.clock);
        loaded = Some((kept, coordinator));
        let took_ms = start.elapsed().as_millis() as u64;
        takeovers.taken.store(1, Ordering::Relaxed);
        tracing::info!(took_ms, "--takeover: this process serves now instead of process {id}");
    }
    #[cfg(feature = "admin")]
    bound.admin.files.iter().for_each(|stays| stays.store(false, Ordering::Release));
    let (kept, restored) = loaded.unzip();

    let waits = config.durability == Durability::Reply;
    let keeping = Keeping::new(journal.clone(), waits, config.settings.hold_time);
    #[cfg(feature = "fleet")]
    let keeping = match &member {
        Some(member) => {
            let ahead = kept.as_ref().is_none_or(|kept| kept.store.is_ahead());
            let known = kept.as_ref().map(|kept| kept.store.known()).unwrap_or_default();
            keeping.with_fleet(member.fleet.clone(), ahead, known)
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
    gates.iter().for_each(Gate::open);
    #[cfg(feature = "admin")]
    let admin = match bound.admin.bound {
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
                gate: web::Gate::new(&config.admin),
            };
            let ended = EndNotice(events.clone());
            Some(AdminThread::start(listeners, admin_thread::Daemon::new(parts), ended).map_err(failed)?)
        }
    };
    let (agent_addresses, agent_listeners) = bound.agent;
    let agent = match agent_listeners {
        listeners if listeners.is_empty() => None,
        listeners => {
            let ended = EndNotice(events.clone());
            let (lb, metrics) = (config.agent_lb.clone(), metrics.agent.clone());
            let shared = shared.clone();
            Some(AgentThread::start(listeners, lb, control.clone(), (metrics, shared), ended).map_err(failed)?)
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
        giving: None,
    };
    let mut giving = giving::parts(&config, &threads, (&control, &shared, &bells), takeovers, &events);
    if let Some((_, parts)) = &mut giving {
        parts.offered = bound.offered;
        #[cfg(feature = "admin")]
        parts.files.extend(bound.admin.files);
    }
    let (heirs, mut heir_wanted) = (Heirs::new(), false);

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
            Event::Built => {}
            Event::Ready => {
                starting -= 1;
                if starting == 0 {
                    threads.giving = giving.take().and_then(giving::start);
                    listen::announce(&bound.listening, &config);
                    #[cfg(feature = "admin")]
                    listen::announce_each("admin", &bound.admin.addresses);
                    listen::announce_each("agent-checks", &agent_addresses);
                    systemd.ready(now, &bound.listening);
                    if heir_wanted {
                        heirs.start_for(threads.giving.as_ref());
                    }
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
            // During the start it counts after the start.
            Event::Signal(SIGUSR2) if starting > 0 => heir_wanted = true,
            Event::Signal(SIGUSR2) => heirs.start_for(threads.giving.as_ref()),
            Event::Signal(_) => {
                systemd.stopping(STOP_TIMEOUT);
                break;
            }
            // Systemd hears another process from now on.
            Event::Over => break,
            Event::Ended => return Err(threads.cause_of_end()),
        }
    }
    log::report_lost(&mut lost);
    stop(threads, &inbox, &shared, &control, &bells, &metrics)
}

/// Lets the shards drain, then ends the coordinator.
fn stop(
    mut threads: Threads,
    inbox: &mpsc::Receiver<Event>,
    shared: &Shared,
    control: &CoordinatorControl,
    bells: &[Arc<Bell>],
    metrics: &Metrics,
) -> Result<(), Error> {
    // First: a takeover that is under way ends in one way or the other.
    let is_over = threads.giving.take().is_some_and(Giving::stop);
    let mut deadline = Instant::now() + STOP_TIMEOUT;
    if is_over {
        deadline += shard::LEAVING;
    } else {
        tracing::info!("stopping: listeners are closed, requests under way are answered");
        shared.draining.store(true, Ordering::Release);
        bells.iter().for_each(|bell| bell.ring());
    }
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
    #[cfg(feature = "fleet")]
    let member = usize::from(threads.member.is_some());
    #[cfg(not(feature = "fleet"))]
    let member = 0;
    let behind = usize::from(journal.is_some()) + member;
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
            journal.iter().for_each(|journal| journal.stop());
            #[cfg(feature = "fleet")]
            threads.member.iter().for_each(|member| member.fleet.stop());
        }
    }
    let ended = threads.into_handles().map(joined).fold(Ok(()), Result::and);
    metrics.read().log();
    ended
}

/// The metrics of all threads.
pub(super) struct Metrics {
    shards: Vec<Arc<ShardMetrics>>,
    coordinator: Arc<CoordinatorMetrics>,
    pub(super) journal: Option<Arc<Journal>>,
    #[cfg(feature = "fleet")]
    pub(super) fleet: Option<Arc<Fleet>>,
    agent: Arc<AgentMetrics>,
    takeovers: Arc<Takeovers>,
}

impl Metrics {
    pub(super) fn new(shards: usize) -> Metrics {
        let shards = (0..shards).map(|_| Arc::default()).collect();
        let (coordinator, agent, takeovers) = Default::default();
        Metrics {
            shards,
            coordinator,
            agent,
            takeovers,
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
        self.takeovers.read(&mut reading);
        reading
    }
}

/// Forwards signals. The second one that asks to stop ends the process at once, whatever the other threads do.
fn forward_signals(events: mpsc::Sender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM, SIGUSR2])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut stopping = false;
        for signal in signals.forever() {
            if !matches!(signal, SIGHUP | SIGUSR2) && std::mem::replace(&mut stopping, true) {
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
