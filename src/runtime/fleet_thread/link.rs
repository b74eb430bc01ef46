//! The link with etcd: a task that connects, holds the lease, reads all keys of the fleet, and follows their changes.
//!
//! The task tells its news by a bounded channel, in order. It ends with its first failure; a new link goes on where the old
//! one was, with the same lease if that lives, and without reading everything again if etcd still has the changes since.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_lite::future;
use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    task::AbortHandle,
    time::{self, Instant},
};

use super::etcd::{Client, EtcdError, Event, KeyValue, Operation, Security};
use crate::{
    config::EtcdEndpoint,
    fleet::{STORE_KEY, store_number},
};

/// News that wait for the fleet's thread.
const NEWS: usize = 8;

/// The longest time between two renewals of the lease. Each answer shows that etcd is there.
const RENEWAL_MAX: Duration = Duration::from_millis(500);

/// What a link begins with.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) endpoint: EtcdEndpoint,
    pub(super) security: Security,
    /// What all keys of the fleet begin with.
    pub(super) prefix: Bytes,
    /// The first key behind them.
    pub(super) end: Bytes,
    /// The key of this node.
    pub(super) node: Bytes,
    /// How long a lease lasts.
    pub(super) lease_time: Duration,
    /// The lease of the last link.
    pub(super) lease: Option<i64>,
    /// The store that was read, what its own key says, and the revision up to which all its changes are known.
    pub(super) store: u64,
    pub(super) identity: Option<u64>,
    pub(super) revision: Option<i64>,
}

/// Why a link has ended.
#[derive(Debug)]
pub(super) enum Failure {
    Etcd(EtcdError),
    /// The node's key belongs to a lease of another process.
    NameTaken,
    LeaseLost,
}

impl From<EtcdError> for Failure {
    fn from(error: EtcdError) -> Failure {
        Failure::Etcd(error)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Etcd(error) => write!(f, "{error}"),
            Failure::NameTaken => f.write_str("another GWM of the fleet has this node's name (--node)"),
            Failure::LeaseLost => f.write_str("the lease has ended"),
        }
    }
}

/// What the task tells.
pub(super) enum News {
    /// There is a connection, and a lease.
    Open(Arc<Client>, i64),
    /// All keys of this store are read from the beginning.
    Listing(u64),
    Page(Vec<KeyValue>),
    /// All keys are read, as of this revision.
    Listed(i64),
    /// Changes are followed.
    Following,
    /// Changes; and the revision up to which all are told.
    Changed(Vec<Event>, Option<i64>),
    /// The lease is renewed; when that was asked for.
    Renewed(Instant),
    /// What became of the transaction that was given last.
    Committed(Result<Option<i64>, EtcdError>),
    /// The link has ended.
    Ended(Failure),
}

/// A link; its task ends with this value.
pub(super) struct Link {
    pub(super) news: Receiver<News>,
    pub(super) endpoint: EtcdEndpoint,
    sender: Sender<News>,
    task: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    pub(super) fn open(plan: Plan) -> Link {
        let (sender, news) = mpsc::channel(NEWS);
        let (endpoint, to) = (plan.endpoint.clone(), sender.clone());
        let task = tokio::spawn(async move {
            let Err(failure) = attend(plan, &to).await;
            let _ = to.send(News::Ended(failure)).await;
        });
        Link { news, endpoint, sender, task: task.abort_handle() }
    }

    /// Begins a transaction; its end is news of the link.
    pub(super) fn commit(&self, client: &Arc<Client>, operations: Vec<Operation>) {
        let (client, to) = (client.clone(), self.sender.clone());
        tokio::spawn(async move {
            let outcome = client.commit(&operations).await;
            let _ = to.send(News::Committed(outcome)).await;
        });
    }
}

/// A send fails only when the link is dropped.
async fn tell(to: &Sender<News>, news: News) -> Result<(), Failure> {
    to.send(news).await.map_err(|_| Failure::Etcd(EtcdError::Refused("nobody listens".into())))
}

async fn attend(plan: Plan, to: &Sender<News>) -> Result<Infallible, Failure> {
    let client = Arc::new(Client::open(&plan.endpoint, &plan.security).await?);
    let (found, head) = client.get(plan.node.clone()).await?;
    if found.is_some_and(|key| Some(key.lease) != plan.lease) {
        return Err(Failure::NameTaken);
    }
    let kept = match plan.lease {
        Some(lease) if client.renew(lease).await? => Some(lease),
        _ => None,
    };
    let lease = match kept {
        Some(lease) => lease,
        None => client.grant(plan.lease_time.as_secs().cast_signed()).await?,
    };
    tell(to, News::Open(client.clone(), lease)).await?;
    let renewal = RENEWAL_MAX.min(plan.lease_time / 4);
    let hold = async {
        loop {
            time::sleep(renewal).await;
            let asked = Instant::now();
            if !client.renew(lease).await? {
                return Err(Failure::LeaseLost);
            }
            tell(to, News::Renewed(asked)).await?;
        }
    };
    // What is known counts for the same store only, and not for an older state of that store. Stores that are made anew, or
    // from a backup, may have one id.
    let resumes = |revision: &i64| plan.store == head.cluster_id && *revision <= head.revision;
    let known = match plan.revision.filter(resumes) {
        Some(revision) => {
            let (named, _) = client.get([&plan.prefix[..], STORE_KEY.as_bytes()].concat().into()).await?;
            let identity = named.map(|key| store_number(&key.value));
            Some(revision).filter(|_| identity.is_some() && identity == plan.identity)
        }
        None => None,
    };
    future::or(hold, follow(&plan, known, head.cluster_id, &client, to)).await
}

/// Tells all keys, if need be, then all changes.
async fn follow(
    plan: &Plan,
    mut known: Option<i64>,
    store: u64,
    client: &Client,
    to: &Sender<News>,
) -> Result<Infallible, Failure> {
    loop {
        let revision = match known {
            Some(revision) => revision,
            None => match list(plan, store, client, to).await {
                Err(Failure::Etcd(EtcdError::Compacted)) => continue,
                listed => listed?,
            },
        };
        let watched = async {
            let mut watch = client.watch(plan.prefix.clone(), plan.end.clone(), revision + 1).await?;
            tell(to, News::Following).await?;
            loop {
                let (events, upto) = watch.next().await?;
                if !events.is_empty() {
                    tell(to, News::Changed(events, upto)).await?;
                }
            }
        };
        match watched.await {
            Err(Failure::Etcd(EtcdError::Compacted)) => known = None,
            other => return other,
        }
    }
}

async fn list(plan: &Plan, store: u64, client: &Client, to: &Sender<News>) -> Result<i64, Failure> {
    tell(to, News::Listing(store)).await?;
    let (mut from, mut revision) = (plan.prefix.clone(), 0);
    loop {
        let (page, at, more) = client.page(from, plan.end.clone(), revision).await?;
        revision = at;
        let last = page.last().map(|key| key.key.clone());
        tell(to, News::Page(page)).await?;
        match last.filter(|_| more) {
            // The next key after it.
            Some(last) => from = [&last[..], &[0]].concat().into(),
            None => break,
        }
    }
    tell(to, News::Listed(revision)).await?;
    Ok(revision)
}
