//! The thread: the replica, what goes to and comes from it, and when etcd is tried again.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, atomic::Ordering},
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use futures_lite::future;
use tokio::time::{self, Instant};

use super::{
    Fleet, Happened, Shown,
    etcd::{Client, EtcdError, Event, KeyValue, Operation, Security},
    link::{Failure, Link, News, Plan},
};
use crate::{
    config,
    fleet::{Batch, Moment, Replica},
    journal::Epoch,
    limits,
    runtime::{error::Error, journal_thread::today, machine::clock::Clock},
};

/// How often the thread looks at what no news tells.
const TICK: Duration = Duration::from_millis(250);

/// The pause before etcd is tried again, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How long the start waits for etcd. Without etcd the node serves what it knows.
const START_PATIENCE: Duration = Duration::from_secs(3);

/// How much longer than a lease the start waits for the end of the lease of the process before this one.
const NAME_PATIENCE: Duration = Duration::from_secs(5);

/// How long the stop waits until etcd has all.
const STOP_PATIENCE: Duration = Duration::from_millis(1500);

/// How often what the checks found is written.
const VERDICT_WINDOW: Duration = Duration::from_millis(100);

/// The pause after a transaction that etcd refused, if etcd tells no change: what was changed is on its way.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);

/// A link that has followed etcd's changes for so long is steady: the next trouble is a new one.
const STEADY: Duration = Duration::from_secs(1);

/// Transactions that are refused after so long are a new trouble.
const NEW_TROUBLE: Duration = Duration::from_secs(60);

/// Reasons of one trouble that have a line in the log each.
const REASONS: usize = 32;

/// Lines about conflicts in one turn.
const CONFLICT_LINES: usize = 20;

/// News in one turn.
const NEWS_PER_TURN: usize = 16;

/// What the thread begins with.
pub(in crate::runtime) struct Parts {
    pub(in crate::runtime) settings: config::Fleet,
    pub(in crate::runtime) replica: Replica,
    pub(in crate::runtime) fleet: Arc<Fleet>,
    pub(in crate::runtime) clock: Clock,
}

/// Starts the thread; `ended` is dropped at its end.
pub(in crate::runtime) fn start(parts: Parts, ended: impl Send + 'static) -> io::Result<JoinHandle<Result<(), Error>>> {
    thread::Builder::new().name("fleet".into()).spawn(move || {
        let _ended = ended;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.map_err(|error| Error::Start { what: "start the fleet", error })?;
        let done = runtime.block_on(async { FleetThread::new(parts).run().await });
        // A look-up of a name may hang in a thread of its own.
        runtime.shutdown_background();
        done
    })
}

/// A transaction that is under way.
struct UnderWay {
    batch: Batch,
    since: Instant,
}

struct FleetThread {
    settings: config::Fleet,
    plan: Plan,
    replica: Replica,
    fleet: Arc<Fleet>,
    clock: Clock,
    /// The etcd of the list that is tried next.
    next_endpoint: usize,
    link: Option<Link>,
    client: Option<Arc<Client>>,
    /// All keys are known, and their changes are followed.
    following: bool,
    /// Since when the changes are followed.
    followed_since: Instant,
    /// A listing is under way, and tells keys.
    listing: bool,
    /// Further changes of the newest revision are to come.
    within_revision: bool,
    under_way: Option<UnderWay>,
    /// After a refusal: when the next transaction begins, unless etcd tells a change before.
    write_at: Instant,
    /// When what the checks found is written next.
    verdicts_at: Instant,
    /// When the last renewal of the lease that was answered was asked for.
    renewed: Instant,
    /// The replica counts as connected.
    connected: bool,
    /// When etcd is tried again, and the pause after that.
    try_at: Instant,
    pause: Duration,
    start: Instant,
    trouble: Option<String>,
    /// The reasons for trouble that are in the log.
    reasons: BTreeSet<String>,
    /// Etcd takes no transaction: the pause before the next one.
    refusing: Option<Duration>,
    /// When etcd refused a transaction last.
    refused_at: Option<Instant>,
    /// The end of a stop.
    stop_at: Option<Instant>,
    kept: u64,
    /// Changes up to this one may have been acknowledged without etcd, since etcd is back.
    ahead_until: Option<u64>,
}

/// What wakes the thread.
enum Wake {
    Inbox,
    News(News),
    Tick,
}

impl FleetThread {
    fn new(Parts { settings, replica, fleet, clock }: Parts) -> FleetThread {
        let prefix = format!("/gwm/{}/", settings.name);
        let end = format!("/gwm/{}0", settings.name); // 0 comes after /
        let plan = Plan {
            endpoint: settings.endpoints.first().expect("at least one etcd").clone(),
            security: Security { tls: settings.tls.clone(), credentials: settings.credentials.clone() },
            node: format!("{prefix}node/{}", settings.node).into(),
            prefix: prefix.into(),
            end: end.into(),
            lease_time: settings.lease,
            lease: None,
            store: 0,
            identity: None,
            revision: None,
        };
        let now = Instant::now();
        FleetThread {
            settings,
            plan,
            replica,
            fleet,
            clock,
            next_endpoint: 0,
            link: None,
            client: None,
            following: false,
            followed_since: now,
            listing: false,
            within_revision: false,
            under_way: None,
            write_at: now,
            verdicts_at: now,
            renewed: now,
            connected: false,
            try_at: now,
            pause: PAUSES.0,
            start: now,
            trouble: None,
            reasons: BTreeSet::new(),
            refusing: None,
            refused_at: None,
            stop_at: None,
            kept: 0,
            ahead_until: None,
        }
    }

    fn moment(&self) -> Moment {
        let now = self.clock.now();
        Moment { now, epoch: Epoch::new(now, today()) }
    }

    async fn run(mut self) -> Result<(), Error> {
        let mut tick_at = Instant::now();
        loop {
            let now = Instant::now();
            if self.link.is_none() && now >= self.try_at {
                self.connect();
            }
            if now >= tick_at {
                tick_at = now + TICK;
                self.look_at_the_lease();
                self.show();
            }
            match self.wake(self.wake_at(tick_at)).await {
                Wake::Inbox | Wake::Tick => {}
                Wake::News(news) => self.take(news)?,
            }
            for _ in 0..NEWS_PER_TURN {
                let Some(news) = self.link.as_mut().and_then(|link| link.news.try_recv().ok()) else { break };
                self.take(news)?;
            }
            self.take_given();
            self.give_orders(); // merges first
            self.write();
            self.tell_kept();
            self.look_at_the_start();
            if self.is_done() {
                break;
            }
        }
        if let (Some(client), Some(lease)) = (&self.client, self.plan.lease) {
            // The others need not wait for its end.
            let _ = client.revoke(lease).await;
        }
        Ok(())
    }

    /// When there is something to do though nothing happens.
    fn wake_at(&self, tick_at: Instant) -> Instant {
        let now = Instant::now();
        let soon = [self.write_at, self.verdicts_at].into_iter().filter(|at| *at > now);
        let retry = self.link.is_none().then_some(self.try_at);
        soon.chain(retry).fold(tick_at, Instant::min)
    }

    async fn wake(&mut self, until: Instant) -> Wake {
        let inbox = async {
            self.fleet.news.notified().await;
            Wake::Inbox
        };
        let news = async {
            match &mut self.link {
                Some(link) => Wake::News(link.news.recv().await.expect("the link has a sender")),
                None => future::pending().await,
            }
        };
        let tick = async {
            time::sleep_until(until).await;
            Wake::Tick
        };
        future::or(inbox, future::or(news, tick)).await
    }

    fn connect(&mut self) {
        let endpoints = &self.settings.endpoints;
        let endpoint = endpoints.get(self.next_endpoint % endpoints.len()).expect("at least one etcd");
        self.next_endpoint += 1;
        let identity = self.replica.identity();
        self.link = Some(Link::open(Plan { endpoint: endpoint.clone(), identity, ..self.plan.clone() }));
    }

    /// Takes what the coordinator gives.
    fn take_given(&mut self) {
        let (happened, judged, blind, stop) = {
            let mut inbox = self.fleet.inbox();
            (std::mem::take(&mut inbox.happened), std::mem::take(&mut inbox.judged), inbox.blind, inbox.stop)
        };
        let at = self.moment();
        let mut size = 0;
        for happened in happened {
            match happened {
                Happened::Changed(entry, now) => {
                    size += entry.size();
                    self.replica.local(&entry, Moment { now, ..at });
                }
                Happened::Done(number, fits) => self.replica.done(number, fits),
            }
        }
        self.fleet.waiting.fetch_sub(size, Ordering::Relaxed);
        for (endpoint, verdicts) in judged {
            self.replica.judged(endpoint, verdicts);
        }
        self.replica.set_blind(blind);
        if stop && self.stop_at.is_none() {
            self.stop_at = Some(Instant::now() + STOP_PATIENCE);
        }
    }

    fn take(&mut self, news: News) -> Result<(), Error> {
        match news {
            News::Open(client, lease) => {
                self.client = Some(client);
                if self.plan.lease.replace(lease).is_some_and(|old| old != lease) {
                    // What went with the old lease is to be written again.
                    self.connected = false;
                    self.replica.set_connected(false);
                }
            }
            News::Listing(store) => {
                (self.listing, self.following) = (true, false);
                self.plan.store = store;
                self.replica.begin_listing(store);
            }
            News::Page(keys) => keys.into_iter().for_each(|key| self.put(&key)),
            News::Listed(revision) => {
                (self.listing, self.within_revision) = (false, false);
                let at = self.moment();
                self.replica.end_listing(revision, at);
                self.plan.revision = Some(revision);
            }
            News::Following => {
                let now = Instant::now();
                (self.following, self.followed_since) = (true, now);
                (self.connected, self.renewed) = (true, now);
                self.replica.set_connected(true);
                if self.refusing.is_none() {
                    self.end_trouble();
                }
                self.show();
                self.begin();
            }
            News::Changed(events, upto) => {
                events.into_iter().for_each(|event| self.change(event));
                self.within_revision = upto.is_none();
                self.plan.revision = upto.or(self.plan.revision);
                if self.refusing.is_none() {
                    self.write_at = Instant::now();
                }
            }
            News::Renewed(asked) => self.renewed = asked,
            News::Committed(outcome) => self.settle(outcome)?,
            News::Ended(failure) => self.lose(failure)?,
        }
        Ok(())
    }

    /// A key as it is.
    fn put(&mut self, found: &KeyValue) {
        if let Some(key) = found.key.strip_prefix(&self.plan.prefix[..]) {
            let at = self.moment();
            self.replica.put(key, &found.value, found.mod_revision, at);
        }
    }

    /// A change that the watch tells.
    fn change(&mut self, event: Event) {
        let Some(found) = event.kv else { return };
        if event.kind == 0 {
            return self.put(&found);
        }
        if let Some(key) = found.key.strip_prefix(&self.plan.prefix[..]) {
            self.replica.delete(key, found.mod_revision);
        }
    }

    /// Begins a transaction, if none is under way and there is something to write.
    fn write(&mut self) {
        let (Some(link), Some(client), Some(lease)) = (&self.link, &self.client, self.plan.lease) else { return };
        let now = Instant::now();
        if !self.following || self.under_way.is_some() || now < self.write_at {
            return;
        }
        let verdicts = now >= self.verdicts_at;
        let at = self.moment();
        let Some(batch) = self.replica.next_batch(verdicts, at) else { return };
        if verdicts {
            self.verdicts_at = now + VERDICT_WINDOW;
        }
        let operations = batch.ops.iter().map(|op| Operation {
            key: [&self.plan.prefix[..], &op.key[..]].concat().into(),
            expected: op.expected,
            value: op.value.as_deref().map(Bytes::copy_from_slice),
            lease: if op.leased { lease } else { 0 },
            check_only: op.check_only,
        });
        link.commit(client, operations.collect());
        self.under_way = Some(UnderWay { batch, since: now });
    }

    /// The node is one with the fleet.
    fn end_trouble(&mut self) {
        if self.trouble.take().is_some() || !self.fleet.is_started() {
            let etcd = self.etcd();
            tracing::info!(etcd, fleet = self.settings.name, node = self.settings.node, "one with the fleet");
        }
        self.refusing = None;
        self.fleet.away.store(false, Ordering::Release);
    }

    fn etcd(&self) -> String {
        self.link.as_ref().map(|link| link.endpoint.to_string()).unwrap_or_default()
    }

    /// Whether this reason has no line in the log yet.
    fn is_news(&mut self, reason: &str) -> bool {
        self.reasons.len() < REASONS && self.reasons.insert(reason.to_owned())
    }

    /// Etcd is there, and has not done the transaction.
    fn is_refused(&mut self, batch: &Batch, error: &EtcdError) {
        self.replica.refused(batch);
        let (now, pause) = (Instant::now(), self.refusing.unwrap_or(PAUSES.0));
        if self.refused_at.replace(now).is_none_or(|before| now - before >= NEW_TROUBLE) {
            self.reasons.clear();
        }
        self.write_at = now + pause;
        self.refusing = Some((pause * 2).min(PAUSES.1));
        let etcd = self.etcd();
        let text = format!("etcd {etcd} takes no changes: {error}");
        if self.is_news(&text) {
            tracing::warn!("etcd {etcd} takes no changes: {error}; what changes here goes there later");
        }
        self.trouble = Some(text);
        self.fleet.away.store(true, Ordering::Release);
        self.show();
        self.fleet.bell.ring();
    }

    /// The transaction that was under way has ended.
    fn settle(&mut self, outcome: Result<Option<i64>, EtcdError>) -> Result<(), Error> {
        let Some(UnderWay { batch, since }) = self.under_way.take() else { return Ok(()) };
        if outcome.is_ok() && self.refusing.is_some() {
            self.end_trouble();
            self.show();
        }
        match outcome {
            Ok(Some(revision)) => {
                self.fleet.transactions.add(since.elapsed());
                self.replica.committed(&batch, revision);
            }
            Ok(None) => {
                self.replica.refused(&batch);
                self.write_at = Instant::now() + REFUSED_PAUSE;
            }
            Err(error @ (EtcdError::NotPermitted(_) | EtcdError::Full(_))) => self.is_refused(&batch, &error),
            Err(error) => {
                // Whether it was done shows when the changes are followed again.
                self.replica.lost(&batch);
                return self.lose(Failure::Etcd(error));
            }
        }
        Ok(())
    }

    /// The link has ended, or is of no use any more.
    fn lose(&mut self, failure: Failure) -> Result<(), Error> {
        let now = Instant::now();
        let etcd = self.etcd();
        (self.link, self.client) = (None, None);
        if std::mem::take(&mut self.following) && self.refusing.is_none() && self.followed_since.elapsed() >= STEADY {
            self.pause = PAUSES.0;
            self.reasons.clear();
        }
        if let Some(UnderWay { batch, .. }) = self.under_way.take() {
            self.replica.lost(&batch);
        }
        if std::mem::take(&mut self.listing) {
            self.plan.revision = None;
        }
        self.fleet.away.store(true, Ordering::Release);
        self.try_at = now + self.pause;
        self.pause = (self.pause * 2).min(PAUSES.1);
        let text = format!("etcd {etcd}: {failure}");
        let is_late = now >= self.start + self.settings.lease + NAME_PATIENCE;
        if matches!(failure, Failure::NameTaken) && is_late && !self.fleet.is_started() {
            return Err(Error::FleetName { node: self.settings.node.clone() });
        }
        if self.is_news(&text) {
            match &failure {
                Failure::NameTaken if !self.fleet.is_started() => {
                    tracing::info!("{text}: waiting for the end of its lease");
                }
                _ => tracing::warn!("the fleet is out of reach: {text}; what changes here goes there later"),
            }
        }
        self.trouble = Some(text);
        self.show();
        self.fleet.bell.ring();
        Ok(())
    }

    /// The start ends without etcd, if etcd takes too long.
    fn look_at_the_start(&mut self) {
        let late = self.start.elapsed() >= START_PATIENCE && !self.listing && !self.waits_for_name();
        if !self.fleet.is_started() && late {
            tracing::warn!("etcd is away at the start: this node serves what it knows");
            self.begin();
        }
    }

    fn waits_for_name(&self) -> bool {
        self.trouble.as_ref().is_some_and(|text| text.ends_with(&Failure::NameTaken.to_string()))
    }

    /// The coordinator may begin.
    fn begin(&mut self) {
        if !self.fleet.is_started() {
            self.give_orders();
            self.fleet.started.store(true, Ordering::Release);
        }
        self.fleet.bell.ring();
    }

    /// A node that has not renewed its lease for as long as a lease lasts is alone: the others say so, too.
    fn look_at_the_lease(&mut self) {
        if self.connected && !self.following && self.renewed.elapsed() >= self.settings.lease {
            self.connected = false;
            self.replica.set_connected(false);
        }
    }

    fn give_orders(&mut self) {
        // At the start there is no coordinator yet that takes them.
        if self.fleet.queued.load(Ordering::Acquire) >= limits::FLEET_ORDERS && self.fleet.is_started() {
            return;
        }
        let at = self.moment();
        let mut orders = self.fleet.orders();
        let before = orders.len();
        while orders.len() < limits::FLEET_ORDERS || !self.fleet.is_started() {
            let Some(order) = self.replica.next_order(at) else { break };
            orders.push_back(order);
        }
        let after = orders.len();
        self.fleet.queued.store(after, Ordering::Release);
        drop(orders);
        if after > before {
            self.fleet.bell.ring();
        }
        let conflicts = self.replica.take_conflicts();
        self.fleet.conflicts.fetch_add(conflicts.len() as u64, Ordering::Relaxed);
        for conflict in conflicts.iter().take(CONFLICT_LINES) {
            tracing::warn!("fleet: {}", conflict.0);
        }
        if conflicts.len() > CONFLICT_LINES {
            tracing::warn!("fleet: and {} more conflicts", conflicts.len() - CONFLICT_LINES);
        }
    }

    fn tell_kept(&mut self) {
        let (away, kept) = (self.fleet.is_away(), self.replica.kept());
        let until = *self.ahead_until.get_or_insert(self.replica.given());
        if away {
            self.ahead_until = None;
        }
        let ahead = away || (self.fleet.is_ahead() && (kept < until || self.replica.is_reconciling()));
        if self.fleet.ahead.swap(ahead, Ordering::AcqRel) != ahead {
            self.fleet.bell.ring();
        }
        let settled = self.replica.is_settled() && !self.fleet.has_orders();
        self.fleet.settled.store(settled, Ordering::Release);
        if let Some(known) = self.replica.known().filter(|_| !self.within_revision) {
            *self.fleet.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = known;
        }
        let date = self.replica.fleet_date(self.moment());
        *self.fleet.date.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = date;
        if kept != self.kept {
            self.kept = kept;
            self.fleet.kept.store(kept, Ordering::Release);
            self.fleet.bell.ring();
        }
    }

    fn show(&self) {
        let etcd = self.link.as_ref().filter(|_| self.following).map(|link| link.endpoint.to_string());
        let shown = Shown {
            etcd,
            trouble: self.trouble.clone(),
            lease: self.plan.lease.filter(|_| self.following).map(|lease| format!("{lease:x}")),
            revision: self.plan.revision.unwrap_or(0),
            status: self.replica.status(),
        };
        *self.fleet.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(shown);
    }

    /// Whether a stop is over: etcd has all, or takes too long.
    fn is_done(&self) -> bool {
        let Some(stop_at) = self.stop_at else { return false };
        let idle = self.under_way.is_none() && !self.replica.is_ahead();
        idle || !self.following || Instant::now() >= stop_at
    }
}
