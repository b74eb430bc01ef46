//! The thread that keeps the session with one GWM: it asks what [`Machine`] says, and writes into the services what the
//! GWM has answered.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::{
    claims::{self, Claims},
    machine::{Machine, Step},
    membership::{Membership, News, Request, Timing, Wish, Words},
    pulse::{Pulse, Pulses},
    service::{AtGwm, Bell, Checked, Leaving, Service, State},
    services::{self, Key, List, Services},
    settings::ServiceSettings,
};
use crate::{
    client::{Client, Error, Target},
    sasp::{Endpoint, Escaped, GroupData, MemberData, MemberFlags, MemberState, Reason, ReturnCode, SenderFlags},
    time::Time,
};

/// How long to look for a message of a readable socket.
const MOMENT: Duration = Duration::from_millis(1);

/// The longest sleep; anything else wakes the thread earlier.
const SLEEP: Duration = Duration::from_secs(3600);

/// How long the system may take to find the address of a GWM's name: resolv.conf(5) has five seconds for a try, and some
/// tries.
const NAME_TIME: Duration = Duration::from_secs(60);

/// Where a membership is.
struct Place {
    /// Its service's place in the list.
    service: usize,
    lb: Box<[u8]>,
    group: Box<[u8]>,
    member: Endpoint,
}

impl Place {
    fn key(&self) -> Key {
        (self.lb.clone(), self.group.clone(), self.member)
    }
}

/// How to speak with each GWM; a reload may change this for new connections.
pub(super) struct Targets(Mutex<Vec<Target>>);

impl Targets {
    pub(super) fn new(targets: Vec<Target>) -> Targets {
        Targets(Mutex::new(targets))
    }

    /// These from now on.
    pub(super) fn set(&self, targets: Vec<Target>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = targets;
    }

    fn get(&self, at: usize) -> Target {
        let targets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        targets.get(at).expect("there is a target for each link, and no reload changes their number").clone()
    }
}

/// The memberships at one GWM.
struct Link {
    /// The GWM as the user names it.
    gwm: String,
    targets: Arc<Targets>,
    /// The place of this GWM in [`State::gwms`].
    at: usize,
    shared: Arc<Services>,
    /// The services that `places` is of.
    services: List,
    places: Vec<Place>,
    timing: Timing,
    machine: Machine,
    client: Option<Client>,
    claims: Arc<Claims>,
    /// The orders of each service when it was looked at last, and the confirmations.
    orders: Vec<(u64, u64)>,
    /// The last failure that was logged.
    told: Option<String>,
    wake: Arc<OwnedFd>,
    /// The bell has rung since the services were looked at last.
    rung: Arc<AtomicBool>,
    pulse: Pulse,
    began: Instant,
}

/// Starts the thread, for the GWM at this place of [`State::gwms`]. It ends with the process.
pub(super) fn start(
    targets: &Arc<Targets>,
    at: usize,
    shared: &Arc<Services>,
    claims: &Arc<Claims>,
    timing: Timing,
    bell: &Bell,
    pulses: &Pulses,
) -> io::Result<()> {
    let name = format!("gwm-link-{at}");
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let rung = Arc::new(AtomicBool::new(true));
    let (ring, heard) = (Arc::clone(&wake), Arc::clone(&rung));
    bell.listen(move || {
        heard.store(true, Ordering::Release);
        // It fails only after 2^64 rings that nobody heard.
        let _ = rustix::io::write(&ring, &1u64.to_ne_bytes());
    });
    let mut link = Link {
        gwm: targets.get(at).gwm,
        targets: Arc::clone(targets),
        at,
        shared: Arc::clone(shared),
        // The first look takes the list.
        services: Arc::default(),
        places: Vec::new(),
        timing,
        machine: Machine::new(timing, []),
        client: None,
        claims: Arc::clone(claims),
        orders: Vec::new(),
        told: None,
        wake,
        rung,
        pulse: pulses.add(&name),
        began: Instant::now(),
    };
    thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(move || link.run())?;
    Ok(())
}

/// The stack of each thread: a TLS handshake needs some tens of KiB.
const STACK_BYTES: usize = 512 << 10;

/// The memberships of all services; one that several have is the first one's, which stays while the others leave.
fn places(services: &[Arc<Service>]) -> Vec<Place> {
    let mut known = HashSet::new();
    let mut places = Vec::new();
    for (at, service) in services.iter().enumerate() {
        let new = services::memberships(&service.settings).filter(|key| known.insert(key.clone()));
        places.extend(new.map(|(lb, group, member)| Place { service: at, lb, group, member }));
    }
    places
}

/// What a service's memberships are to become.
pub(super) fn wish(settings: &ServiceSettings, state: &State) -> Wish {
    let words = |quiesce| Words { quiesce, opaque: state.opaque };
    match (state.leaving, state.checked) {
        (Leaving::Gone, _) => Wish::Gone,
        (Leaving::Draining, _) => Wish::Leave(words(true)),
        (Leaving::Kept, _) | (Leaving::No, Checked::Starting) => Wish::Wait,
        (Leaving::No, Checked::Up) => Wish::Stay(words(state.by_hand.is_some() || state.resumes)),
        (Leaving::No, Checked::Down) => {
            Wish::Stay(words(state.by_hand.is_some() || state.resumes || settings.quiesce_when_down))
        }
    }
}

/// A number from 0 to 1.
fn random() -> f64 {
    // The standard library's hasher has random keys.
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}

impl Link {
    fn run(&mut self) {
        loop {
            self.take_wishes();
            match self.machine.next(self.now()) {
                Step::Connect => self.connect(),
                Step::Ask(at, request) => self.ask(at, request),
                Step::Wait(until) => {
                    self.publish();
                    self.wait(until);
                }
            }
        }
    }

    fn now(&self) -> Time {
        Time::default() + self.began.elapsed()
    }

    /// Takes another list of services; the memberships that stay go on as they are.
    fn follow(&mut self, services: List) {
        let orders = |service: &Arc<Service>| {
            let before = self.services.iter().position(|before| Arc::ptr_eq(before, service));
            before.and_then(|at| self.orders.get(at).copied()).unwrap_or_default()
        };
        self.orders = services.iter().map(orders).collect();
        let old = std::mem::replace(&mut self.places, places(&services));
        let mut known: HashMap<Key, Membership> = old.iter().map(Place::key).zip(self.machine.take()).collect();
        let membership = |place: &Place| {
            let own = || self.claims.has(place.member, &self.claim(place));
            known.remove(&place.key()).unwrap_or_else(|| Membership::new(self.timing, own()))
        };
        let memberships = self.places.iter().map(membership).collect();
        self.machine.put(memberships);
        self.services = services;
    }

    fn claim(&self, place: &Place) -> String {
        claims::line(&self.gwm, &place.lb, &place.group)
    }

    fn take_wishes(&mut self) {
        if !self.rung.swap(false, Ordering::AcqRel) {
            return;
        }
        let services = self.shared.all();
        if !Arc::ptr_eq(&services, &self.services) {
            self.follow(services);
        }
        let now = self.now();
        let mut wishes = Vec::with_capacity(self.services.len());
        for (service, (orders, confirms)) in self.services.iter().zip(&mut self.orders) {
            let (wish, ordered, confirmed) =
                service.with(|state| (wish(&service.settings, state), state.orders, state.confirms));
            if std::mem::replace(orders, ordered) != ordered {
                // Someone waits for this.
                self.machine.hurry();
            }
            wishes.push((wish, std::mem::replace(confirms, confirmed) != confirmed));
        }
        for (at, place) in self.places.iter().enumerate() {
            let (wish, confirm) = wishes[place.service];
            self.machine.wish(now, at, wish);
            if confirm {
                let own = self.claims.has(place.member, &claims::line(&self.gwm, &place.lb, &place.group));
                self.machine.confirm(at, own);
            }
        }
    }

    fn connect(&mut self) {
        let target = self.targets.get(self.at);
        self.pulse.works(NAME_TIME + target.timeout);
        match target.connect() {
            Ok(client) => {
                self.client = Some(client);
                self.machine.connected();
            }
            Err(error) => self.lost(&error),
        }
    }

    fn lost(&mut self, error: &Error) {
        self.client = None;
        let now = self.now();
        self.machine.lost(now, random());
        let text = error.to_string();
        let retry_seconds = (self.machine.connects_in(now).as_secs_f64() * 10.0).round() / 10.0;
        if self.told.as_ref() != Some(&text) {
            tracing::warn!(retry_seconds, "{text}");
            self.told = Some(text);
        } else {
            tracing::debug!(retry_seconds, "{text}");
        }
        self.publish();
    }

    fn ask(&mut self, at: usize, request: Request) {
        let (Some(client), Some(place)) = (&mut self.client, self.places.get(at)) else { return };
        // To send, and to get the answer.
        self.pulse.works(2 * self.targets.get(self.at).timeout);
        let label = &self.services[place.service].settings.label;
        match exchange(client, place, label, request) {
            Ok(code) => {
                let now = self.now();
                let was_own = self.machine.memberships()[at].is_own();
                let news = self.machine.answered(now, code, random());
                let is_own = self.machine.memberships()[at].is_own();
                if was_own != is_own {
                    self.claims.set(self.places[at].member, self.claim(&self.places[at]), is_own);
                }
                self.told = None;
                match news {
                    Some(news) => self.tell(at, news),
                    None => {
                        let is_refused = !matches!(code, ReturnCode::SUCCESSFUL | ReturnCode::ALREADY_REGISTERED);
                        let what = if is_refused { "the GWM refuses again" } else { "the GWM confirms" };
                        tracing::debug!(member = %self.places[at].member, ?request, code = code.0, "{what}");
                    }
                }
            }
            Err(error) => self.lost(&error),
        }
    }

    fn tell(&self, at: usize, news: News) {
        let place = &self.places[at];
        let (gwm, lb, group, member) = (&self.gwm, Escaped(&place.lb), Escaped(&place.group), place.member);
        match news {
            News::Registered => tracing::info!(gwm, %lb, %group, %member, "registered"),
            News::Found => tracing::info!(gwm, %lb, %group, %member, "the GWM has it registered already"),
            News::Lost => tracing::warn!(gwm, %lb, %group, %member, "the GWM had forgotten it"),
            News::Deregistered => tracing::info!(gwm, %lb, %group, %member, "deregistered"),
            News::Refused(request, code) => {
                tracing::warn!(gwm, %lb, %group, %member, "{}; it tries again", refusal(request, code));
            }
        }
    }

    /// Writes into each service what this GWM has of it.
    fn publish(&self) {
        let mut found = vec![AtGwm::default(); self.services.len()];
        for (place, membership) in self.places.iter().zip(self.machine.memberships()) {
            let found = &mut found[place.service];
            found.memberships += 1;
            found.registered += usize::from(membership.is_registered());
            found.untold += usize::from(!membership.is_told());
            if let (None, Some((request, code))) = (&found.waits, membership.waits()) {
                found.waits = Some(refusal(request, code));
            }
        }
        for ((service, mut found), &(orders, _)) in self.services.iter().zip(found).zip(&self.orders) {
            found.gwm.clone_from(&self.gwm);
            found.orders = orders;
            found.connected = self.machine.is_connected();
            if !found.connected && found.untold > 0 {
                found.waits.clone_from(&self.told);
            }
            service.change(|state| {
                if let Some(place) = state.gwms.get_mut(self.at) {
                    *place = found;
                }
            });
        }
    }

    /// Waits for the time, a change of a service, or a byte or the end of the session.
    fn wait(&mut self, until: Option<Time>) {
        let left = self.pulse.sleeps(until.map_or(SLEEP, |until| until.since(self.now()).min(SLEEP)));
        if self.client.as_ref().is_some_and(|client| client.socket().is_none()) {
            return self.listen(left); // no transport of `Target` is so
        }
        let socket = self.client.as_ref().and_then(Client::socket);
        if wait_for(self.wake.as_fd(), socket, left) {
            self.listen(MOMENT);
        }
    }

    /// A GWM sends nothing to a member on its own: what comes is the end.
    fn listen(&mut self, wait: Duration) {
        if let Some(Err(error)) = self.client.as_mut().map(|client| client.next_push(wait).map(drop)) {
            self.lost(&error);
        }
    }
}

/// Waits for both, at most so long; whether the socket is ready.
fn wait_for(wake: BorrowedFd<'_>, socket: Option<BorrowedFd<'_>>, left: Duration) -> bool {
    let mut waits = vec![PollFd::from_borrowed_fd(wake, PollFlags::IN)];
    waits.extend(socket.map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN)));
    // One millisecond more: a time that is not over yet would be waited for again and again.
    let left = Timespec::try_from(left + MOMENT).ok();
    let _ = poll(&mut waits, left.as_ref()); // after a signal the caller looks again
    let mut count = [0; 8];
    let _ = rustix::io::read(wake, &mut count);
    waits.get(1).is_some_and(|socket| !socket.revents().is_empty())
}

fn exchange(client: &mut Client, place: &Place, label: &[u8], request: Request) -> Result<ReturnCode, Error> {
    let (group, sender) = (GroupData { lb_uid: &place.lb, name: &place.group }, SenderFlags::NONE);
    let member = MemberData { endpoint: place.member, label };
    let done = match request {
        Request::Register => client.register(sender, [(group, [member])]),
        Request::Say(Words { quiesce, opaque }) => {
            let flags = MemberFlags::NONE.with(MemberFlags::QUIESCE, quiesce);
            client.set_member_state(sender, [(group, [MemberState { member, state: opaque, flags }])])
        }
        Request::Deregister => client.deregister(sender, Reason::PURPOSEFUL, [(group, [member])]),
    };
    match done {
        Ok(()) => Ok(ReturnCode::SUCCESSFUL),
        Err(error) => error.refusal().ok_or(error),
    }
}

/// A refusal in words, with what the user can do.
fn refusal(request: Request, code: ReturnCode) -> String {
    let what = match request {
        Request::Register => "the registration",
        Request::Say(_) => "the member's state",
        Request::Deregister => "the deregistration",
    };
    let why = match code {
        ReturnCode::LB_NOT_CONTACTED => "the load balancer has not contacted this GWM".into(),
        ReturnCode::NOT_ACCEPTED => {
            "the load balancer does not let members speak for themselves (trust), or the GWM's --access does not".into()
        }
        ReturnCode::INVALID_GROUP => "a limit of the GWM is reached".into(),
        code => code.to_string(),
    };
    format!("{what} is refused: {why} (0x{:02X})", code.0)
}
