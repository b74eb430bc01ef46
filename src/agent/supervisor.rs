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
    time::{Duration, Instant},
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
    leave::{self, Departure, Hurry},
    link::{self, Targets},
    membership::Timing,
    pages::Pages,
    pulse::Pulses,
    quiesced::Store,
    service::{Bell, Checked, Leaving, Service, State},
    services::{Plan, Services},
    settings::ServiceSettings,
    watch,
};
use crate::{
    client::Target,
    notify::{self, Notifier},
};

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
    /// Reads the files again.
    pub read: Read,
}

/// Reads the files that flags name: the services, and how to speak with each GWM. An error is what is wrong, in one line.
pub type Read = Box<dyn FnMut() -> Result<(Vec<ServiceSettings>, Vec<Target>), String>>;

/// How often locks are asked for that another agent has while it deregisters.
const LOCKS_EVERY: Duration = Duration::from_millis(100);

/// Sleeps of the main thread when nothing is to be done.
const IDLE: Duration = Duration::from_secs(3600);

/// From something that happened to the return of the pages that only this has used.
const PAGES_AFTER: Duration = Duration::from_secs(10);

enum Event {
    Signal(i32),
    /// Something about a service has changed.
    Changed,
}

/// The agent's main thread.
struct Agent {
    services: Arc<Services>,
    bell: Arc<Bell>,
    targets: Arc<Targets>,
    answers: Answers,
    read: Read,
    /// Threads that check services so far: their names have the number.
    watchers: usize,
    claims: Arc<Claims>,
    quiesced: Arc<Store>,
    children: Arc<Children>,
    events: Receiver<Event>,
    changed: Arc<AtomicBool>,
    notifier: Notifier,
    pulses: Arc<Pulses>,
    pages: Pages,
    /// When pages are given back next.
    pages_at: Option<Instant>,
    is_ready: bool,
    /// The service that was started, while it lives.
    child: Option<Pid>,
    /// Services that leave: those that the file no longer has, or all.
    departures: Vec<Departure>,
    /// All services leave.
    leaves: bool,
    /// The signal that asked for the end.
    stop: Option<Signal>,
    /// All services have left.
    left: bool,
    /// The exit status of the service.
    status: Option<u8>,
}

/// Runs the agent to its end; gives the exit status.
pub fn run(settings: Settings) -> io::Result<u8> {
    // No thread of the agent has begun.
    let pages = Pages::find();
    let notifier = Notifier::from_environment();
    let pulses = Arc::new(Pulses::new(notifier.watchdog));
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
    let claims = Arc::new(Claims::new(&settings.directory));
    claim(&services, &claims);
    let quiesced = Arc::new(Store::new(&settings.directory));
    services.iter().for_each(|service| stay_quiesced(service, &quiesced));
    let services = Arc::new(Services::new(services, Arc::clone(&bell)));
    // Without its socket the agent does its work.
    let control = control::start(&settings.directory, &services, &quiesced);
    let _control = control.map_err(|error| {
        tracing::warn!(
            "--run-dir {directory}: {error}: `gwm agent status`, `quiesce` and `resume` do not find this agent"
        );
    });
    let answers = Answers::start(&services.all(), &settings.http_listen, settings.load_interval, &pulses)?;
    let children = Arc::new(Children::default());
    let targets = Arc::new(Targets::new(settings.gwms));
    for at in 0..gwms {
        link::start(&targets, at, &services, &claims, settings.timing, &bell, &pulses)?;
    }
    let mut agent = Agent {
        notifier,
        pulses,
        pages,
        pages_at: Some(Instant::now() + PAGES_AFTER),
        is_ready: false,
        child: None,
        departures: Vec::new(),
        leaves: false,
        stop: None,
        left: false,
        status: None,
        services,
        bell,
        targets,
        answers,
        read: settings.read,
        watchers: 0,
        claims,
        quiesced,
        children,
        events,
        changed,
    };
    if let Some(command) = &settings.command {
        agent.start_child(command)?;
    }
    for service in agent.services.all().iter() {
        agent.watch(service)?;
    }
    let status = agent.run();
    agent.answers.stop();
    Ok(status)
}

/// Locks the claims of services, as far as the system lets us.
fn claim(services: &[Arc<Service>], claims: &Claims) {
    let members = services.iter().flat_map(|service| service.settings.members.iter().copied());
    if let Err(error) = claims.add(members) {
        let directory = claims.directory().display();
        tracing::warn!("--run-dir {directory}: {error}: an agent that is killed does not know what it registered");
    }
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
        self.services.all().iter().for_each(|service| service.set_process(number));
        self.child = Some(id);
        Ok(())
    }

    /// Handles events until the end; gives the exit status.
    fn run(&mut self) -> u8 {
        loop {
            self.tell_systemd();
            self.take_locks();
            self.step();
            if self.left && self.child.is_none() {
                return self.status.unwrap_or(0);
            }
            let look = match self.departures.is_empty() {
                false => leave::LOOK_EVERY,
                true if self.claims.waits() => LOCKS_EVERY,
                true => IDLE,
            };
            let look = self.notifier.watchdog.map_or(look, |watchdog| watchdog.min(look));
            let now = Instant::now();
            let wait = self.pages_at.map_or(look, |at| at.saturating_duration_since(now).min(look));
            let mut happened = true;
            match self.events.recv_timeout(wait) {
                Ok(Event::Signal(signal)) => {
                    self.signal(signal);
                    // Each check by a command ends so.
                    happened = signal != SIGCHLD;
                }
                Ok(Event::Changed) => self.changed.store(false, Ordering::Release),
                Err(RecvTimeoutError::Timeout) => happened = false,
                Err(RecvTimeoutError::Disconnected) => return 1, // the threads that send do not end
            }
            self.give_pages_back(happened);
        }
    }

    /// Gives pages back that only the start, or something that happened, has used; a while after that, once.
    fn give_pages_back(&mut self, happened: bool) {
        let now = Instant::now();
        if happened {
            self.pages_at.get_or_insert(now + PAGES_AFTER);
        }
        if self.pages_at.is_some_and(|at| at <= now) {
            self.pages_at = None;
            self.pages.give_back();
        }
    }

    /// Goes on with endpoints that another agent has deregistered meanwhile.
    fn take_locks(&self) {
        let endpoints = if self.claims.waits() { self.claims.retry() } else { Vec::new() };
        let has_one = |service: &&Arc<Service>| service.settings.members.iter().any(|one| endpoints.contains(one));
        self.services.all().iter().filter(has_one).for_each(|service| service.change(|state| state.confirms += 1));
    }

    /// Looks at the services that leave.
    fn step(&mut self) {
        let before = self.departures.len();
        self.departures.retain_mut(|departure| !departure.step(&self.claims));
        if self.leaves && !self.left && self.departures.is_empty() {
            self.left = true;
            self.stop_child();
        } else if !self.leaves && self.departures.len() < before {
            let stays = |service: &&Arc<Service>| {
                service.with(|state| state.leaving == Leaving::No) || self.departures.iter().any(|one| one.has(service))
            };
            self.services.set(self.services.all().iter().filter(stays).cloned().collect());
        }
    }

    fn watch(&mut self, service: &Arc<Service>) -> io::Result<()> {
        self.watchers += 1;
        watch::start(Arc::clone(service), Arc::clone(&self.children), &self.pulses, self.watchers)
    }

    fn signal(&mut self, signal: i32) {
        match signal {
            SIGCHLD => self.reap(),
            SIGUSR1 => {
                let services = self.services.staying();
                services.iter().for_each(|service| control::quiesce(service, &self.quiesced, "SIGUSR1"));
            }
            SIGUSR2 => self.services.staying().iter().for_each(|service| control::resume(service, &self.quiesced)),
            SIGTERM | SIGINT | SIGQUIT => {
                let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
                self.stop(name, Signal::from_named_raw(signal).unwrap_or(Signal::TERM));
            }
            SIGHUP => {
                self.pass(signal);
                self.reload();
            }
            _ => {}
        }
    }

    /// Reads the files again. After a mistake all is as before.
    fn reload(&mut self) {
        if self.leaves {
            return;
        }
        if self.is_ready {
            self.notifier.reloading();
        }
        if let Err(error) = (self.read)().and_then(|(services, targets)| self.change(services, targets)) {
            tracing::error!("SIGHUP: the old settings stay in force: {error}");
        }
        if self.is_ready {
            self.notifier.ready();
        }
    }

    /// Goes on with these services, and speaks so with GWMs from the next connection on.
    fn change(&mut self, wanted: Vec<ServiceSettings>, targets: Vec<Target>) -> Result<(), String> {
        let (gwms, old) = (targets.len(), self.services.staying());
        let make = |settings| Arc::new(Service::new(settings, gwms, Arc::clone(&self.bell)));
        let plan = Plan::new(&old, wanted, make);
        // Of all this, only the sockets can fail.
        self.answers.change(&plan.next).map_err(|error| error.to_string())?;
        self.targets.set(targets);
        let is_new = |service: &&Arc<Service>| old.iter().all(|old| old.settings.name != service.settings.name);
        for service in plan.begin.iter().filter(is_new) {
            stay_quiesced(service, &self.quiesced);
            let process = old.first().filter(|_| self.child.is_some()).and_then(|old| old.process());
            process.into_iter().for_each(|process| service.set_process(process));
        }
        claim(&plan.begin, &self.claims);
        claim(&plan.leave, &self.claims);
        let leaving = self.services.all();
        let leaving = leaving.iter().filter(|service| !old.iter().any(|old| Arc::ptr_eq(old, service)));
        self.services.set(plan.next.iter().chain(&plan.leave).chain(leaving).cloned().collect());
        if !plan.leave.is_empty() {
            self.departures.push(Departure::begin(&plan.leave, &self.claims, false));
        }
        for service in &plan.end {
            // Its thread ends.
            service.change(|state| state.leaving = Leaving::Kept);
            service.check_now();
            service.settings.members.iter().for_each(|member| self.claims.release(*member));
        }
        for service in &plan.begin {
            if let Err(error) = self.watch(service) {
                let name = &service.settings.name;
                tracing::error!(service = name, "no thread for its check: {error}: it stays as it is");
            }
        }
        let (services, new, leave) = (plan.next.len(), plan.begin.len(), plan.leave.len());
        tracing::info!(services, new, leave, "SIGHUP: the files are read again");
        Ok(())
    }

    fn pass(&self, signal: i32) {
        if let (Some(child), Some(signal)) = (self.child, Signal::from_named_raw(signal)) {
            let _ = kill_process(child, signal); // it may have ended just now
        }
    }

    /// The first call lets the services leave, the next ones make this quicker.
    fn stop(&mut self, name: &str, signal: Signal) {
        if self.left {
            self.stop = Some(signal);
            self.stop_child();
        } else if self.leaves {
            tracing::info!("{name} again: connections are not waited for");
            self.departures.iter_mut().for_each(|departure| departure.hurry(Hurry::Asked));
        } else {
            tracing::info!("{name}: the services leave");
            self.stop = Some(signal);
            self.depart();
        }
    }

    fn depart(&mut self) {
        // A service that this agent started ends with it, whoever else keeps it registered.
        let all = self.child.is_some() || self.status.is_some();
        let longest = Departure::longest(&self.services.all());
        self.notifier.stopping(longest + Duration::from_secs(30));
        self.leaves = true;
        self.departures.push(Departure::begin(&self.services.staying(), &self.claims, all));
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
        if !self.leaves {
            self.depart();
        }
        self.departures.iter_mut().for_each(|departure| departure.hurry(Hurry::Ended));
    }

    /// Systemd hears that the agent lives while all of its threads go on.
    fn tell_watchdog(&self) {
        if self.notifier.watchdog.is_none() {
            return;
        }
        match self.pulses.late() {
            None => self.notifier.alive(),
            Some(thread) => tracing::error!("{thread} hangs: systemd is not told that the agent lives"),
        }
    }

    fn tell_systemd(&mut self) {
        self.tell_watchdog();
        let has_answered = |state: &State| state.checked != Checked::Starting;
        // A service that this agent started has started when it answers, and never if it ended before.
        let services = self.services.all();
        let has_started = || services.iter().all(|service| service.with(has_answered));
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
        let lines: Vec<String> = services.iter().take(8).map(line).collect();
        self.notifier.status(lines.join("; "));
    }
}
