//! A client of etcd's API v3, as much of it as a fleet needs: keys by prefix, transactions, watches, leases.
//!
//! | module | what it owns |
//! | --- | --- |
//! | `messages` | etcd's messages |
//! | `connection` | one HTTP/2 connection, and gRPC on it |

mod connection;
mod messages;

use std::{fmt, io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_lite::StreamExt;
use prost::Message;
use rustls::ClientConfig;
use tokio::time;
use tonic::{Code, Status, Streaming, metadata::MetadataValue};

use connection::Connection;
use messages::{
    AuthenticateRequest, AuthenticateResponse, Compare, DeleteRangeRequest, Done, LeaseGrantRequest,
    LeaseGrantResponse, LeaseKeepAliveResponse, LeaseRequest, PutRequest, RangeRequest, RangeResponse, Request,
    RequestOp, TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest, WatchResponse,
};
pub(super) use messages::{Event, Header, KeyValue};

use crate::config::{Credentials, EtcdEndpoint as Endpoint};

/// How long one request may take. An etcd that takes longer counts as away.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// How long a page of a listing may take: it may have many megabytes.
const PAGE_PATIENCE: Duration = Duration::from_secs(10);

/// The keys of one page.
const PAGE: i64 = 64;

/// How a connection is secured.
#[derive(Clone)]
pub(super) struct Security {
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) credentials: Option<Credentials>,
}

/// Why etcd did not do it.
#[derive(Debug)]
pub(super) enum EtcdError {
    /// There is no connection.
    Connect(io::Error),
    /// No answer in time.
    Late,
    /// The connection or etcd refuses.
    Refused(String),
    /// Name or password is wrong, or the user may not do it. To try again does not help.
    NotPermitted(String),
    /// Etcd has no room for it: its quota is used up, or the request is too large.
    Full(String),
    /// Etcd does not know any more who this is: its tokens end, and all of them when users or roles change.
    TokenEnded,
    /// The revision is compacted away: everything is to be read again.
    Compacted,
}

impl fmt::Display for EtcdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EtcdError::Connect(error) => write!(f, "{error}"),
            EtcdError::Late => write!(f, "no answer in time"),
            EtcdError::Refused(text) | EtcdError::NotPermitted(text) | EtcdError::Full(text) => f.write_str(text),
            EtcdError::TokenEnded => write!(f, "the token has ended"),
            EtcdError::Compacted => write!(f, "the changes since the last one are compacted away"),
        }
    }
}

impl From<Status> for EtcdError {
    fn from(status: Status) -> EtcdError {
        let text = status.message().chars().take(200).collect::<String>().escape_debug().to_string();
        if text.contains("invalid auth token") || text.contains("revision of auth store is old") {
            return EtcdError::TokenEnded;
        }
        match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => EtcdError::NotPermitted(text),
            Code::ResourceExhausted => EtcdError::Full(text),
            Code::OutOfRange => EtcdError::Compacted,
            Code::DeadlineExceeded => EtcdError::Late,
            code => EtcdError::Refused(format!("{code:?}: {text}")),
        }
    }
}

/// A change of one key within a transaction.
pub(super) struct Operation {
    pub(super) key: Bytes,
    /// The revision of the last change that the key must have; 0: there must be no key; `None`: any.
    pub(super) expected: Option<i64>,
    /// `None`: the key goes.
    pub(super) value: Option<Bytes>,
    /// The key goes with this lease; 0: it stays.
    pub(super) lease: i64,
    /// The key is only compared.
    pub(super) check_only: bool,
}

/// A connection with one etcd.
pub(super) struct Client {
    connection: Connection,
    credentials: Option<Credentials>,
}

impl Client {
    /// Connects, and says who is there.
    pub(super) async fn open(endpoint: &Endpoint, security: &Security) -> Result<Client, EtcdError> {
        let opened = time::timeout(PATIENCE, Connection::open(endpoint, security)).await;
        let connection = opened.map_err(|_| EtcdError::Late)??;
        let client = Client { connection, credentials: security.credentials.clone() };
        client.authenticate().await?;
        Ok(client)
    }

    /// Says who is there, if etcd wants to know.
    async fn authenticate(&self) -> Result<(), EtcdError> {
        let Some(Credentials { user, password }) = &self.credentials else { return Ok(()) };
        self.connection.set_token(None);
        let question = AuthenticateRequest { name: user.clone(), password: password.clone() };
        let answer: AuthenticateResponse =
            match self.connection.ask("/etcdserverpb.Auth/Authenticate", question, PATIENCE).await {
                Err(EtcdError::Refused(text)) if text.contains("authentication is not enabled") => {
                    return Err(EtcdError::NotPermitted(
                        "it asks for no name and password: leave --fleet-credentials out".into(),
                    ));
                }
                Err(EtcdError::Refused(text)) if text.contains("authentication failed") => {
                    return Err(EtcdError::NotPermitted("name or password of --fleet-credentials is wrong".into()));
                }
                answer => answer?,
            };
        let token = MetadataValue::try_from(answer.token);
        self.connection.set_token(Some(token.map_err(|error| EtcdError::Refused(error.to_string()))?));
        Ok(())
    }

    /// One request, one answer. If etcd does not know any more who this is, says so, and asks again.
    async fn ask<Q: Message + Clone + 'static, A: Message + Default + 'static>(
        &self,
        path: &'static str,
        question: Q,
        patience: Duration,
    ) -> Result<A, EtcdError> {
        match self.connection.ask(path, question.clone(), patience).await {
            Err(EtcdError::TokenEnded) if self.credentials.is_some() => {
                self.authenticate().await?;
                self.connection.ask(path, question, patience).await
            }
            answer => answer,
        }
    }

    /// One key; and the head of the answer.
    pub(super) async fn get(&self, key: Bytes) -> Result<(Option<KeyValue>, Header), EtcdError> {
        let question = RangeRequest { key, ..RangeRequest::default() };
        let answer: RangeResponse = self.ask("/etcdserverpb.KV/Range", question, PATIENCE).await?;
        Ok((answer.kvs.into_iter().next(), answer.header.unwrap_or_default()))
    }

    /// The keys from `from` to before `end`, as of a revision (0: now), one page of them; the revision, and whether there
    /// are more.
    pub(super) async fn page(
        &self,
        from: Bytes,
        end: Bytes,
        revision: i64,
    ) -> Result<(Vec<KeyValue>, i64, bool), EtcdError> {
        let question = RangeRequest { key: from, range_end: end, limit: PAGE, revision };
        let answer: RangeResponse = self.ask("/etcdserverpb.KV/Range", question, PAGE_PATIENCE).await?;
        let at = if revision == 0 { answer.header.map_or(0, |header| header.revision) } else { revision };
        Ok((answer.kvs, at, answer.more))
    }

    /// Does all operations, or none; the revision, or `None` if a key is not as expected.
    pub(super) async fn commit(&self, operations: &[Operation]) -> Result<Option<i64>, EtcdError> {
        let compare = operations.iter().filter_map(|operation| {
            let revision = operation.expected?;
            Some(Compare { result: 0, target: 2, key: operation.key.clone(), mod_revision: Some(revision) })
        });
        let change = |operation: &Operation| {
            let key = operation.key.clone();
            let request = match &operation.value {
                Some(value) => Request::Put(PutRequest { key, value: value.clone(), lease: operation.lease }),
                None => Request::Delete(DeleteRangeRequest { key }),
            };
            RequestOp { request: Some(request) }
        };
        let changes = operations.iter().filter(|operation| !operation.check_only);
        let question = TxnRequest { compare: compare.collect(), success: changes.map(change).collect() };
        let answer: TxnResponse = self.ask("/etcdserverpb.KV/Txn", question, PATIENCE).await?;
        Ok(answer.succeeded.then(|| answer.header.map_or(0, |header| header.revision)))
    }

    /// A lease of so many seconds.
    pub(super) async fn grant(&self, seconds: i64) -> Result<i64, EtcdError> {
        let question = LeaseGrantRequest { ttl: seconds };
        let answer: LeaseGrantResponse = self.ask("/etcdserverpb.Lease/LeaseGrant", question, PATIENCE).await?;
        match (answer.id, answer.error) {
            (id, error) if id != 0 && error.is_empty() => Ok(id),
            (_, error) => Err(EtcdError::Refused(format!("no lease: {}", error.escape_debug()))),
        }
    }

    /// Ends a lease; its keys go.
    pub(super) async fn revoke(&self, lease: i64) -> Result<(), EtcdError> {
        let question = LeaseRequest { id: lease };
        self.ask("/etcdserverpb.Lease/LeaseRevoke", question, PATIENCE).await.map(|_: Done| ())
    }

    /// Renews a lease; whether the lease still was there.
    pub(super) async fn renew(&self, lease: i64) -> Result<bool, EtcdError> {
        match self.renew_known(lease).await {
            Err(EtcdError::TokenEnded) if self.credentials.is_some() => {
                self.authenticate().await?;
                self.renew_known(lease).await
            }
            answer => answer,
        }
    }

    async fn renew_known(&self, lease: i64) -> Result<bool, EtcdError> {
        let renewed = async {
            let question = LeaseRequest { id: lease };
            let mut answers: Streaming<LeaseKeepAliveResponse> =
                self.connection.follow("/etcdserverpb.Lease/LeaseKeepAlive", question, false, PATIENCE).await?;
            match answers.next().await {
                Some(answer) => Ok(answer?.ttl > 0),
                None => Err(EtcdError::Refused("no answer".into())),
            }
        };
        time::timeout(PATIENCE, renewed).await.map_err(|_| EtcdError::Late)?
    }

    /// The changes of the keys from `from` to before `end`, from this revision on.
    pub(super) async fn watch(&self, from: Bytes, end: Bytes, revision: i64) -> Result<Watch, EtcdError> {
        let create = WatchCreateRequest { key: from, range_end: end, start_revision: revision, fragment: true };
        let question = WatchRequest { create: Some(create) };
        // Whether the token is good, the listing before has found out.
        Ok(Watch(self.connection.follow("/etcdserverpb.Watch/Watch", question, true, PATIENCE).await?))
    }
}

/// Changes as they happen.
pub(super) struct Watch(Streaming<WatchResponse>);

impl Watch {
    /// The next changes, in the order of their revisions, and the revision up to which all are told now; `None` while
    /// further changes of the last revision are to come.
    pub(super) async fn next(&mut self) -> Result<(Vec<Event>, Option<i64>), EtcdError> {
        let Some(answer) = self.0.next().await else { return Err(EtcdError::Refused("the watch has ended".into())) };
        let answer = answer?;
        if answer.compact_revision > 0 {
            return Err(EtcdError::Compacted);
        }
        if answer.canceled {
            return Err(EtcdError::Refused(format!("the watch has ended: {}", answer.cancel_reason.escape_debug())));
        }
        // The head's revision may be beyond the events of an answer, and more events of before may be on their way.
        let last = answer.events.iter().filter_map(|event| Some(event.kv.as_ref()?.mod_revision)).max();
        Ok((answer.events, if answer.fragment { None } else { last }))
    }
}

#[cfg(test)]
mod tests;
