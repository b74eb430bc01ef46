//! The thread that keeps a session with a GWM: it registers the groups, follows the weights, and connects again when the
//! session ends. What it knows lies in one place, of which only the newest is kept.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    client::{
        Error, ErrorKind, Target, Weights,
        session::{Session, Wishes, with_jitter},
        spec::GroupSpec,
    },
    sasp::{Escaped, Health, LbFlags},
};

/// How a connector presents itself to its GWMs.
#[derive(Clone, Debug)]
pub struct Identity {
    /// GWMs, tried in turn.
    pub gwms: Vec<Target>,
    /// The load balancer's UID.
    pub uid: Box<[u8]>,
    /// Its health.
    pub health: Health,
    /// Whether members may register themselves.
    pub trust: bool,
    /// How long to wait after all GWMs have failed, plus up to a tenth at random.
    pub retry: Duration,
}

/// What is known of the GWM's weights.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// Grows with each change.
    pub version: u64,
    /// The newest table, of this or an earlier session; `None` before the first.
    pub weights: Option<Arc<Weights>>,
    /// Whether a session exists now, and with which GWM.
    pub gwm: Option<String>,
    /// When the newest session began.
    pub since: Option<Instant>,
    /// Since when there is no session, if there was one before.
    pub lost_since: Option<Instant>,
    /// Someone asked to stop.
    pub stopped: bool,
}

/// The thread, and what it shares.
pub struct Follower {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    news: News,
    /// Groups to register; `None` until they are known.
    groups: Option<Arc<Vec<GroupSpec>>>,
    /// Someone ended the next wait.
    woken: bool,
}

/// How soon the thread sees that other groups are wanted, or that it must stop.
const TICK: Duration = Duration::from_millis(100);

/// A session that the GWM ends so soon may have been taken over.
const SOON: Duration = Duration::from_secs(30);

/// Ends the wait of [`Follower::wait`] once; for the thread of the admin side.
#[derive(Clone)]
pub struct Waker(Arc<Shared>);

impl Waker {
    /// Ends the wait that is, or the next one.
    pub fn wake(&self) {
        self.0.lock().woken = true;
        self.0.changed.notify_all();
    }
}

/// Ends the wait of [`Follower::wait`]; for signal handlers' threads.
#[derive(Clone)]
pub struct Stop(Arc<Shared>);

impl Stop {
    /// Asks for a stop.
    pub fn stop(&self) {
        self.0.update(|state| state.news.stopped = true);
    }
}

impl Follower {
    /// Starts the thread. It connects as soon as [`Follower::register`] has told which groups there are.
    pub fn start(identity: Identity) -> std::io::Result<Follower> {
        let shared = Arc::new(Shared::default());
        let mine = Arc::clone(&shared);
        let thread = thread::Builder::new().name("gwm-follower".into()).spawn(move || follow(&mine, &identity))?;
        Ok(Follower { shared, thread: Some(thread) })
    }

    /// Says which groups and members the load balancer has now.
    pub fn register(&self, groups: Vec<GroupSpec>) {
        self.shared.lock().groups = Some(Arc::new(groups));
        self.shared.changed.notify_all();
    }

    /// Waits until there is something newer than `seen` or a [`Waker`] wakes, at most until then.
    pub fn wait(&self, seen: u64, until: Instant) -> News {
        let left = until.saturating_duration_since(Instant::now());
        let state = self.shared.lock();
        let idle = |state: &mut State| state.news.version <= seen && !state.news.stopped && !state.woken;
        let waited = self.shared.changed.wait_timeout_while(state, left, idle);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.woken = false;
        state.news.clone()
    }

    /// A handle that ends a wait.
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.shared))
    }

    /// A handle that asks for a stop.
    pub fn stop_handle(&self) -> Stop {
        Stop(Arc::clone(&self.shared))
    }
}

impl Drop for Follower {
    /// Waits for the thread: at most as long as connecting may take.
    fn drop(&mut self) {
        self.stop_handle().stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its panic was logged
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        state.news.version += 1;
        self.changed.notify_all();
    }

    /// Waits until then, or for a stop; says whether to go on.
    fn sleep(&self, wait: Duration) -> bool {
        let state = self.lock();
        let waited = self.changed.wait_timeout_while(state, wait, |state| !state.news.stopped);
        !waited.unwrap_or_else(PoisonError::into_inner).0.news.stopped
    }

    /// The groups to register, as soon as they are known; `None` at a stop.
    fn first_groups(&self) -> Option<Arc<Vec<GroupSpec>>> {
        let state = self.lock();
        let waited = self.changed.wait_while(state, |state| state.groups.is_none() && !state.news.stopped);
        let state = waited.unwrap_or_else(PoisonError::into_inner);
        state.groups.clone().filter(|_| !state.news.stopped)
    }
}

/// Sessions with one GWM after the other, until the stop.
fn follow(shared: &Shared, identity: &Identity) {
    // Of each GWM, the last reason that is in the log.
    let mut told = vec![None; identity.gwms.len()];
    let mut failed_in_turn = 0;
    for (at, target) in identity.gwms.iter().enumerate().cycle() {
        let Some(groups) = shared.first_groups() else { return };
        let mut began = None;
        let error = match session(shared, identity, target, groups, &mut began) {
            Ok(()) => return,
            Err(error) => error,
        };
        if began.is_some() {
            told.fill(None);
            failed_in_turn = 0;
        }
        failed_in_turn += 1;
        let all_failed = failed_in_turn >= identity.gwms.len();
        let wait = if all_failed { with_jitter(identity.retry) } else { Duration::ZERO };
        shared.update(|state| {
            state.news.gwm = None;
            if state.news.weights.is_some() {
                state.news.lost_since.get_or_insert_with(Instant::now);
            }
        });
        let mut text = error.to_string();
        let is_soon = began.is_some_and(|began: Instant| began.elapsed() < SOON);
        if is_soon && matches!(error.kind, ErrorKind::Closed { .. }) {
            let uid = Escaped(&identity.uid);
            text +=
                &format!(": the GWM ended, or another connector runs with --uid {uid} (give each a UID of its own)");
        }
        if told[at].as_ref() != Some(&text) {
            let retry_seconds = (wait.as_secs_f64() * 10.0).round() / 10.0;
            tracing::warn!(retry_seconds, "{text}");
            told[at] = Some(text);
        }
        if all_failed {
            failed_in_turn = 0;
            if !shared.sleep(wait) {
                return;
            }
        }
    }
}

/// One session; `Ok` at a stop.
fn session(
    shared: &Shared,
    identity: &Identity,
    target: &Target,
    mut groups: Arc<Vec<GroupSpec>>,
    begins: &mut Option<Instant>,
) -> Result<(), Error> {
    let flags = LbFlags::PUSH.with(LbFlags::NO_CHANGE_NO_SEND, true).with(LbFlags::TRUST, identity.trust);
    let wishes = Wishes { uid: identity.uid.clone(), groups: groups.to_vec(), health: identity.health, flags };
    let mut session = Session::open(target.connect()?, target.timeout, &wishes)?;
    session.keep_only(&groups)?;
    let began = Instant::now();
    *begins = Some(began);
    tracing::info!(gwm = target.gwm, uid = %Escaped(&identity.uid), groups = groups.len(), "registered with the GWM");
    let publish = |session: &Session| {
        let weights = Some(Arc::new(session.weights().clone()));
        shared.update(|state| {
            let news = &mut state.news;
            (news.weights, news.gwm, news.lost_since) = (weights, Some(target.gwm.clone()), None);
            news.since = Some(began);
        });
    };
    publish(&session);
    loop {
        let wanted = {
            let state = shared.lock();
            if state.news.stopped {
                return Ok(());
            }
            state.groups.clone().expect("it was there when the session began")
        };
        if !Arc::ptr_eq(&wanted, &groups) {
            session.keep_only(&wanted)?;
            groups = wanted;
            publish(&session);
        }
        if session.next_push(TICK)? {
            publish(&session);
        }
    }
}
