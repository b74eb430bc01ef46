//! The agent's main thread: starts everything, waits for signals, lets the services leave.

use std::{
    ffi::OsString,
    io,
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitStatus, kill_process};
use signal_hook::{
    consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2},
    iterator::Signals,
};

use super::{
    answers::Answers,
    children::{Children, shell_status},
    claims::Claims,
    control,
    leave::{self, Departure},
    link,
    membership::Timing,
    notify::{self, Notifier},
    quiesced::Store,
    service::{Bell, Checked, Service, State},
    settings::ServiceSettings,
    watch,
};
use crate::client::Target;

/// What an agent does.
pub struct Settings {
    /// The services.
    pub services: Vec<ServiceSettings>,
    /// The GWMs; each has a session of its own.
    pub gwms: Vec<Target>,
    /// How long the memberships wait.
    pub timing: Timing,
    /// Where HTTP is answered.
    pub http_listen: Vec<SocketAddr>,
    /// From one reading of each service's load to the next.
    pub load_interval: Duration,
    /// The directory of the agent's socket and claims.
    pub directory: PathBuf,
    /// The service to run.
    pub command: Option<Vec<OsString>>,
}

/// The signals that the service gets at once.
const PASSED: [i32; 1] = [SIGHUP];

/// How often locks are asked for that another agent has while it deregisters.
const LOCKS_EVERY: Duration = Duration::from_millis(100);

/// Sleeps of the main thread when nothing is to be done.
const IDLE: Duration = Duration::from_secs(3600);

enum Event {
    Signal(i32),
    /// Something about a service has changed.
    Changed,
}

/// The agent's main thread.
struct Agent {
    services: Vec<Arc<Service>>,
    claims: Arc<Claims>,
    quiesced: Arc<Store>,
    children: Arc<Children>,
    events: Receiver<Event>,
    changed: Arc<AtomicBool>,
    notifier: Notifier,
    is_ready: bool,
    /// The service that was started, while it lives.
    child: Option<Pid>,
    departure: Option<Departure>,
    /// The signal that asked for the end.
    stop: Option<Signal>,
    /// Those of `services` have left.
    left: bool,
    /// The exit status of the service.
    status: Option<u8>,
}

/// Runs the agent to its end; gives the exit status.
pub fn run(settings: Settings) -> io::Result<u8> {
    let (sender, events) = mpsc::channel();
    // First of all: a signal before this would end the process at once.
    start_signals(sender.clone())?;
    let bell = Arc::new(Bell::default());
    let changed = Arc::new(AtomicBool::new(false));
    listen(&bell, &changed, sender);
    let gwms = settings.gwms.len();
    let service = |settings: ServiceSettings| Arc::new(Service::new(settings, gwms, Arc::clone(&bell)));
    let services: Vec<_> = settings.services.into_iter().map(service).collect();
    let directory = settings.directory.display();
    let members = services.iter().flat_map(|service| service.settings.members.iter().copied());
    let claims = Arc::new(Claims::new(&settings.directory));
    if let Err(error) = claims.add(members) {
        tracing::warn!("--run-dir {directory}: {error}: an agent that is killed does not know what it registered");
    }
    let quiesced = Arc::new(Store::new(&settings.directory));
    services.iter().for_each(|service| stay_quiesced(service, &quiesced));
    // Without its socket the agent does its work.
    let control = control::start(&settings.directory, &services, Arc::clone(&quiesced));
    let _control = control.map_err(|error| {
        tracing::warn!(
            "--run-dir {directory}: {error}: `gwm agent status`, `quiesce` and `resume` do not find this agent"
        );
    });
    let answers = Answers::start(&services, &settings.http_listen, settings.load_interval)?;
    let children = Arc::new(Children::default());
    for (at, target) in settings.gwms.into_iter().enumerate() {
        link::start(target, at, &services, &claims, settings.timing, &bell)?;
    }
    let mut agent = Agent {
        notifier: Notifier::from_environment(),
        is_ready: false,
        child: None,
        departure: None,
        stop: None,
        left: false,
        status: None,
        services,
        claims,
        quiesced,
        children,
        events,
        changed,
    };
    if let Some(command) = &settings.command {
        agent.start_child(command)?;
    }
    for (at, service) in agent.services.iter().enumerate() {
        watch::start(Arc::clone(service), Arc::clone(&agent.children), at)?;
    }
    let status = agent.run();
    answers.into_iter().for_each(Answers::stop);
    Ok(status)
}

/// A service that a person has quiesced stays so when its agent is started again.
fn stay_quiesced(service: &Service, quiesced: &Store) {
    if let Some(by_hand) = quiesced.find(&service.settings.name) {
        let since = humantime::format_rfc3339_seconds(by_hand.since);
        tracing::warn!(service = service.settings.name, reason = by_hand.reason, "quiesced by hand since {since}");
        service.order(|state| state.by_hand = Some(by_hand));
    }
}

fn start_signals(sender: Sender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD])?;
    thread::Builder::new().name("signals".into()).stack_size(128 << 10).spawn(move || {
        for signal in signals.forever() {
            let _ = sender.send(Event::Signal(signal)); // the main thread ends with the process
        }
    })?;
    Ok(())
}

/// Sends one event for all changes that the main thread has not yet looked at.
fn listen(bell: &Bell, changed: &Arc<AtomicBool>, sender: Sender<Event>) {
    let changed = Arc::clone(changed);
    bell.listen(move || {
        if !changed.swap(true, Ordering::AcqRel) {
            let _ = sender.send(Event::Changed);
        }
    });
}

impl Agent {
    fn start_child(&mut self, command: &[OsString]) -> io::Result<()> {
        let [program, arguments @ ..] = command else { return Ok(()) };
        let mut child = Command::new(program);
        // A process group of its own: Ctrl-C must not end the service before it is drained.
        child.args(arguments).process_group(0);
        for name in notify::VARIABLES {
            child.env_remove(name);
        }
        let (id, _) = self
            .children
            .spawn(&mut child)
            .map_err(|error| io::Error::new(error.kind(), format!("can not run {}: {error}", program.display())))?;
        tracing::info!(process = id.as_raw_nonzero().get(), program = %program.display(), "started the service");
        let number = id.as_raw_nonzero().get().unsigned_abs();
        self.services.iter().for_each(|service| service.set_process(number));
        self.child = Some(id);
        Ok(())
    }

    /// Handles events until the end; gives the exit status.
    fn run(&mut self) -> u8 {
        loop {
            self.tell_systemd();
            self.take_locks();
            if self.departure.as_mut().is_some_and(|departure| departure.step(&self.claims)) {
                self.departure = None;
                self.left = true;
                self.stop_child();
            }
            if self.left && self.child.is_none() {
                return self.status.unwrap_or(0);
            }
            let wait = match (&self.departure, self.notifier.watchdog) {
                (Some(_), _) => leave::LOOK_EVERY,
                (None, watchdog) if self.claims.waits() => LOCKS_EVERY.min(watchdog.unwrap_or(LOCKS_EVERY)),
                (None, Some(watchdog)) => watchdog,
                (None, None) => IDLE,
            };
            match self.events.recv_timeout(wait) {
                Ok(Event::Signal(signal)) => self.signal(signal),
                Ok(Event::Changed) => self.changed.store(false, Ordering::Release),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return 1, // the threads that send do not end
            }
        }
    }

    /// Goes on with endpoints that another agent has deregistered meanwhile.
    fn take_locks(&self) {
        let endpoints = if self.claims.waits() { self.claims.retry() } else { Vec::new() };
        let has_one = |service: &&Arc<Service>| service.settings.members.iter().any(|one| endpoints.contains(one));
        self.services.iter().filter(has_one).for_each(|service| service.change(|state| state.confirms += 1));
    }

    fn signal(&mut self, signal: i32) {
        match signal {
            SIGCHLD => self.reap(),
            SIGUSR1 => {
                self.services.iter().for_each(|service| control::quiesce(service, &self.quiesced, "SIGUSR1"));
            }
            SIGUSR2 => self.services.iter().for_each(|service| control::resume(service, &self.quiesced)),
            SIGTERM | SIGINT | SIGQUIT => {
                let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
                self.stop(name, Signal::from_named_raw(signal).unwrap_or(Signal::TERM));
            }
            _ if PASSED.contains(&signal) => self.pass(signal),
            _ => {}
        }
    }

    fn pass(&self, signal: i32) {
        if let (Some(child), Some(signal)) = (self.child, Signal::from_named_raw(signal)) {
            let _ = kill_process(child, signal); // it may have ended just now
        }
    }

    /// The first call lets the services leave, the next ones make this quicker.
    fn stop(&mut self, name: &str, signal: Signal) {
        match (&mut self.departure, self.stop) {
            (None, None) => {
                tracing::info!("{name}: the services leave");
                self.stop = Some(signal);
                self.depart();
            }
            (Some(departure), _) => {
                tracing::info!("{name} again: connections are not waited for");
                departure.hurry();
            }
            (None, Some(_)) => {
                self.stop = Some(signal);
                self.stop_child();
            }
        }
    }

    fn depart(&mut self) {
        // A service that this agent started ends with it, whoever else keeps it registered.
        let all = self.child.is_some() || self.status.is_some();
        let longest = Departure::longest(&self.services);
        self.notifier.stopping(longest + Duration::from_secs(30));
        self.departure = Some(Departure::begin(&self.services, &self.claims, all));
    }

    /// The services have left: now the one that was started may end.
    fn stop_child(&mut self) {
        if let (Some(child), Some(signal)) = (self.child, self.stop) {
            let _ = kill_process(child, signal); // it may have ended just now
        }
    }

    fn reap(&mut self) {
        self.children.reap();
        let Some(status) = self.child.and_then(|child| self.children.status(child)) else { return };
        self.child = None;
        self.child_ended(status);
    }

    fn child_ended(&mut self, status: WaitStatus) {
        let status = shell_status(status);
        self.status = Some(status);
        if self.left {
            return;
        }
        tracing::warn!(status, "the service has ended");
        // There is nothing left to drain.
        if self.departure.is_none() {
            self.depart();
        }
        if let Some(departure) = &mut self.departure {
            departure.hurry();
        }
    }

    fn tell_systemd(&mut self) {
        if self.notifier.watchdog.is_some() {
            self.notifier.alive();
        }
        let has_answered = |state: &State| state.checked != Checked::Starting;
        // A service that this agent started has started when it answers, and never if it ended before.
        let has_started = || self.services.iter().all(|service| service.with(has_answered));
        let is_ready = self.status.is_none() && (self.child.is_none() || has_started());
        if is_ready && !self.is_ready {
            self.is_ready = true;
            self.notifier.ready();
        }
        let line = |service: &Arc<Service>| {
            service.with(|state| {
                let at =
                    state.gwms.iter().filter(|gwm| gwm.memberships > 0 && gwm.registered == gwm.memberships).count();
                format!(
                    "{}: {}, registered at {at} of {} GWMs",
                    service.settings.name,
                    state.condition(),
                    state.gwms.len()
                )
            })
        };
        // The line is for a person: some services are enough.
        let lines: Vec<String> = self.services.iter().take(8).map(line).collect();
        self.notifier.status(lines.join("; "));
    }
}
