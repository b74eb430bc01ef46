//! The daemon as a whole: listeners, executors, signals, and the stop. This is the main thread's work.

use std::{
    io::{self, Write},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use crossbeam_queue::ArrayQueue;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use super::{
    coordinator_thread::{self, Control, Port, Summary},
    log,
    machine::{executor, poller::Poller},
    mesh::{Bell, pipe},
    probe::{self, Prober},
    shard::{self, Cause, Counters, Lateness, Plan, Shared, listener, monitoring},
};
use crate::{
    access::Identity,
    config::{Carries, Config, Listen, tls::Server},
    coordinator::{Refusal, Settings},
    limits,
    monitor::{self, Tuning},
};

/// How long the stop may take in all.
const STOP: Duration = Duration::from_millis(4500);

/// How often it is looked whether log lines were lost.
const LOOK: Duration = Duration::from_secs(5);

/// What the main thread waits for.
enum Event {
    Ready,
    Signal(i32),
    /// A thread has ended, one way or another.
    Ended,
}

/// Tells the main thread that the thread that owns it has ended, also by a panic.
struct Obituary(mpsc::Sender<Event>);

impl Drop for Obituary {
    fn drop(&mut self) {
        // Nobody listens any more if the main thread gave up waiting.
        let _ = self.0.send(Event::Ended);
    }
}

/// The running executors.
struct Threads {
    coordinator: JoinHandle<Result<Summary, String>>,
    shards: Vec<JoinHandle<Result<(), String>>>,
}

/// Serves until a signal asks to stop; an error is one line for the operator.
pub fn serve(mut config: Config) -> Result<(), String> {
    config.settings.icmp = probe::may_echo().is_ok();
    let (events, inbox) = mpsc::channel();
    watch_signals(events.clone()).map_err(|error| format!("can not watch for signals: {error}"))?;

    let shards = config.shard_cpus.len();
    let mut addresses = Vec::new();
    let mut listeners: Vec<Vec<_>> = (0..shards).map(|_| Vec::new()).collect();
    for &Listen { address, carries } in &config.listen {
        let (bound, sockets) = listener::bind(address, shards, &config.connections)
            .map_err(|error| bind_failed(address, carries, &error))?;
        addresses.push(Listen { address: bound, carries });
        listeners.iter_mut().zip(sockets).for_each(|(shard, socket)| shard.push((socket, carries)));
    }

    let shared = Arc::new(Shared::new(&config.connections, config.tls.as_ref().map(|tls| tls.config.clone())));
    let control = Arc::new(Control {
        roster: ArrayQueue::new(1),
        access: ArrayQueue::new(1),
        stop: AtomicBool::new(false),
        bell: Arc::new(Bell::default()),
    });
    let counters: Vec<Arc<Counters>> = (0..shards).map(|_| Arc::default()).collect();
    let bells: Vec<Arc<Bell>> = (0..shards).map(|_| Arc::default()).collect();
    let monitoring: Vec<Arc<monitoring::Control>> = (0..shards).map(|_| Arc::default()).collect();
    let failed = |error: io::Error| format!("can not start a thread: {error}");

    let mut ports = Vec::new();
    let mut handles = Vec::new();
    for (index, listeners) in listeners.into_iter().enumerate() {
        let bell = bells.get(index).expect("there is a bell a shard").clone();
        let (up_sender, up_receiver) = pipe(limits::BATCHES, bell.clone(), control.bell.clone());
        let (down_sender, down_receiver) = pipe(limits::BATCHES, control.bell.clone(), bell.clone());
        ports.push(Port::new(up_receiver, down_sender));
        let plan = Plan {
            index: u16::try_from(index).expect("there are at most 256 shards"),
            shards: u16::try_from(shards).expect("there are at most 256 shards"),
            limits: config.connections.clone(),
            listeners,
            shared: shared.clone(),
            counters: counters.get(index).expect("there are counters for each shard").clone(),
            bell,
            spin: config.spin,
            poller: Poller::new().map_err(|error| format!("can not make an epoll set: {error}"))?,
            up: up_sender,
            down: down_receiver,
            monitoring: plan_monitoring(&config, index, monitoring.get(index).expect("there is one a shard"))?,
        };
        let (cpu, events) = (config.shard_cpus.get(index).copied(), events.clone());
        let obituary = Obituary(events.clone());
        let handle = executor::spawn(&format!("shard-{index}"), cpu, move || async move {
            let _obituary = obituary;
            shard::run(plan, || drop(events.send(Event::Ready))).await;
        });
        handles.push(handle.map_err(failed)?);
    }
    let coordinator = {
        let (settings, control, clock) = (config.settings.clone(), control.clone(), shared.clock);
        let (events, obituary) = (events.clone(), Obituary(events.clone()));
        let spin = config.spin;
        executor::pinned("coordinator", Some(config.coordinator_cpu), move || {
            let _obituary = obituary;
            Ok(coordinator_thread::run(settings, ports, control, clock, spin, || drop(events.send(Event::Ready))))
        })
        .map_err(failed)?
    };
    let threads = Threads { coordinator, shards: handles };

    let mut starting = shards + 1;
    let mut lost = 0;
    loop {
        let Ok(event) = inbox.recv_timeout(LOOK) else {
            log::tell_of_lost(&mut lost);
            continue;
        };
        match event {
            Event::Ready => {
                starting -= 1;
                if starting == 0 {
                    announce(&addresses, &config);
                }
            }
            Event::Signal(SIGHUP) => {
                if config.monitoring.members.is_none() && config.access.file.is_none() && config.tls.is_none() {
                    tracing::info!("SIGHUP: no flag names a file to read again");
                }
                reload_members(&config, &control, &monitoring);
                reload_access(&config, &control);
                reload_tls(&mut config.tls, &shared);
            }
            Event::Signal(_) => break,
            Event::Ended => return Err(threads.autopsy()),
        }
    }
    log::tell_of_lost(&mut lost);
    stop(threads, &inbox, &shared, &control, &bells, &counters)
}

/// Lets the shards drain, then ends the coordinator.
fn stop(
    threads: Threads,
    inbox: &mpsc::Receiver<Event>,
    shared: &Shared,
    control: &Control,
    bells: &[Arc<Bell>],
    counters: &[Arc<Counters>],
) -> Result<(), String> {
    tracing::info!("stopping: listeners are closed, requests under way are answered");
    let deadline = Instant::now() + STOP;
    shared.draining.store(true, Ordering::Release);
    bells.iter().for_each(|bell| bell.ring());
    let mut running = threads.shards.len() + 1;
    while running > 0 {
        match inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Event::Ended) => running -= 1,
            Ok(_) => {}
            Err(_) => return Err(format!("{running} threads did not stop in time")),
        }
        if running == 1 {
            control.stop.store(true, Ordering::Release);
            control.bell.ring();
        }
    }
    for shard in threads.shards {
        joined(shard)?;
    }
    let Summary { totals, refused, deregistrations } = joined(threads.coordinator)?;
    let sum = |read: fn(&Counters) -> u64| counters.iter().map(|counters| read(counters)).sum::<u64>();
    let (full, resumed) =
        (sum(|c| c.handshakes.load(Ordering::Relaxed)), sum(|c| c.resumptions.load(Ordering::Relaxed)));
    if full + resumed > 0 {
        tracing::info!(full, resumed, "TLS handshakes");
    }
    tracing::info!(
        accepted = sum(|c| c.accepted.load(Ordering::Relaxed)),
        requests = sum(|c| c.requests.load(Ordering::Relaxed)),
        refused = sum(|c| c.refused.load(Ordering::Relaxed)),
        throttled = sum(|c| c.throttled.load(Ordering::Relaxed)),
        sent = sum(|c| c.sent.load(Ordering::Relaxed)),
        delayed = sum(|c| c.delayed.load(Ordering::Relaxed)),
        load_balancers = totals.load_balancers,
        groups = totals.groups,
        memberships = totals.memberships,
        "stopped"
    );
    let lateness: Vec<&Lateness> = counters.iter().map(|counters| &counters.lateness).collect();
    if let Some(late_ms_p99) = Lateness::quantile(&lateness, 990) {
        tracing::info!(
            passed = sum(|c| c.checks_passed.load(Ordering::Relaxed)),
            failed = sum(|c| c.checks_failed.load(Ordering::Relaxed)),
            inconclusive = sum(|c| c.checks_inconclusive.load(Ordering::Relaxed)),
            late_ms_p99,
            "checks"
        );
    }
    for (cause, requests) in Refusal::ALL.iter().zip(refused).filter(|(_, requests)| *requests > 0) {
        tracing::info!(requests, "not accepted (0x11): {}", cause.text());
    }
    for (reason, requests) in deregistrations {
        tracing::info!(requests, "deregistered, reason: {reason}");
    }
    for (at, cause) in Cause::ALL.iter().enumerate() {
        let closed: u64 = counters.iter().filter_map(|c| c.closed.get(at)).map(|c| c.load(Ordering::Relaxed)).sum();
        if closed > 0 {
            tracing::info!(connections = closed, "closed: {}", cause.text());
        }
    }
    Ok(())
}

impl Threads {
    /// Why a thread ended that should not have: the first one that has something to say.
    fn autopsy(self) -> String {
        // The others run on, and end with the process.
        let mut ended = Vec::new();
        while ended.is_empty() {
            // The obituary comes a moment before the thread's end.
            std::thread::yield_now();
            ended.extend(self.shards.iter().filter(|shard| shard.is_finished()).map(|shard| shard.thread().id()));
            if self.coordinator.is_finished() {
                return joined(self.coordinator).err().unwrap_or_else(|| "the coordinator ended".into());
            }
        }
        let first = self.shards.into_iter().find(|shard| ended.contains(&shard.thread().id()));
        first.and_then(|shard| joined(shard).err()).unwrap_or_else(|| "a shard ended".into())
    }
}

/// A thread's result; a panic becomes an error.
fn joined<T>(thread: JoinHandle<Result<T, String>>) -> Result<T, String> {
    let name = thread.thread().name().unwrap_or("a thread").to_owned();
    match thread.join() {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            Err(format!("{name} failed, which is a fault of gwm itself (please report it): {text}"))
        }
    }
}

fn announce(listeners: &[Listen], config: &Config) {
    let mut out = io::stdout().lock();
    let asks = config.tls.as_ref().is_some_and(|tls| tls.files.client_ca.is_some());
    for Listen { address, carries } in listeners {
        let certificates = if asks && *carries != Carries::Plain { ", client certificates required" } else { "" };
        // Nobody has to read this.
        let _ = writeln!(out, "gwm: listening on {address} ({carries}{certificates})");
    }
    let _ = out.flush();
    config.tls.iter().for_each(warn_of_expiry);
    for Listen { address, .. } in listeners.iter().filter(|listen| listen.is_open()) {
        tracing::warn!(
            "{address} is without TLS and not loopback: whoever reaches it can speak for any load balancer or member \
             that --lb-identity and --member-identity let it; use --tls-listen, or --require-tls to have this refused"
        );
    }
    let rules = &config.access.rules;
    if rules.lb_identity == Identity::Any && rules.member_identity != Identity::Any {
        tracing::warn!(
            "--member-identity without --lb-identity keeps nobody out: whoever states a load balancer's UID is it, and \
             speaks for any member"
        );
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        coordinator_core = config.coordinator_cpu,
        shard_cores = ?config.shard_cpus,
        max_connections = config.connections.max,
        listed_members = config.settings.roster.entries(),
        "serving"
    );
}

/// What one shard's monitoring needs.
fn plan_monitoring(
    config: &Config,
    shard: usize,
    control: &Arc<monitoring::Control>,
) -> Result<monitoring::Plan, String> {
    let Settings { icmp, weight_max, hash_seed, .. } = config.settings;
    let tuning = Tuning { weight_max, slow_start: config.monitoring.slow_start, ..Tuning::default() };
    // A shard that has no share of the descriptors checks one member at a time.
    let checks_under_way = (config.monitoring.max_probes as usize / config.shard_cpus.len()).max(1);
    Ok(monitoring::Plan {
        control: control.clone(),
        roster: config.settings.roster.clone(),
        settings: monitor::Settings { tuning, checks_under_way, icmp },
        seed: hash_seed ^ shard as u64,
        prober: Prober::new(icmp).map_err(|error| format!("can not make sockets for checks: {error}"))?,
    })
}

fn reload_members(config: &Config, control: &Control, monitoring: &[Arc<monitoring::Control>]) {
    let Some(path) = &config.monitoring.members else { return };
    let roster = config.monitoring.read().and_then(|roster| match roster {
        Some(roster) if roster.names_icmp() => probe::may_echo().map(|()| Some(roster)),
        other => Ok(other),
    });
    match roster {
        Ok(Some(roster)) => {
            tracing::info!(members = roster.entries(), "SIGHUP: {} is in force", path.display());
            let roster = Arc::new(roster);
            monitoring.iter().for_each(|shard| shard.reload(roster.clone()));
            control.roster.force_push(roster);
            control.bell.ring();
        }
        Ok(None) => {}
        Err(error) => tracing::error!("SIGHUP: the old members stay in force: {error}"),
    }
}

/// Connections that may not be their LB any more end.
fn reload_access(config: &Config, control: &Control) {
    let Some(path) = &config.access.file else { return };
    match config.access.read() {
        Ok(access) => {
            tracing::info!(entries = access.entries(), "SIGHUP: {} is in force", path.display());
            control.access.force_push(Arc::new(access));
            control.bell.ring();
        }
        Err(error) => tracing::error!("SIGHUP: the old access rules stay in force: {error}"),
    }
}

/// Sessions go on as they are; later ones get the new files.
fn reload_tls(tls: &mut Option<Server>, shared: &Shared) {
    let Some(server) = tls else { return };
    match server.read_again() {
        Ok(Some(new)) => {
            tracing::info!("SIGHUP: new TLS files are in force, for new sessions: {}", new.files);
            shared.set_tls(new.config.clone());
            warn_of_expiry(&new);
            *server = new;
        }
        Ok(None) => tracing::info!("SIGHUP: the TLS files are as they were: {}", server.files),
        Err(error) => tracing::error!("SIGHUP: the old TLS files stay in force: {error}"),
    }
}

fn warn_of_expiry(server: &Server) {
    if let Some(line) = server.expiry(SystemTime::now()) {
        tracing::warn!("{line}");
    }
}

/// Forwards signals. The second one that asks to stop ends the process here and now, whatever the others do.
fn watch_signals(events: mpsc::Sender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
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

fn bind_failed(address: SocketAddr, carries: Carries, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => {
            let port = address.port();
            format!("another process has the port: stop it (`ss -ltnp sport = {port}` shows it), or choose another")
        }
        io::ErrorKind::PermissionDenied => {
            "a port under 1024 takes the capability CAP_NET_BIND_SERVICE: give it, or choose another".into()
        }
        io::ErrorKind::AddrNotAvailable => "this machine does not have the address: choose one that it has".into(),
        _ => "choose another".into(),
    };
    let flag = if carries == Carries::Tls { "--tls-listen" } else { "--listen" };
    format!("can not listen on {address} ({error}): {remedy} with {flag}")
}
