//! The rules of one stream (versions, nonces, subscriptions), without I/O: requests and snapshots in, responses out.
//!
//! Of each kind one response at most waits for its answer. So a slow client skips snapshots and costs no memory.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;

use super::{
    messages::{DeltaDiscoveryRequest, DiscoveryRequest, Status},
    snapshot::{KINDS, Kind, Snapshot, Wish},
};

/// The most names of one kind that a stream may ask for, and their bytes.
const NAMES: (usize, usize) = (1000, 64 << 10);
/// The most characters of a client's reason that are logged.
const REASON: usize = 500;
/// Stands for all resources of a kind.
const ALL: &str = "*";

/// Why the stream must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The stream asks for more names than allowed.
    TooManyNames,
    /// A request says no kind on a stream of all kinds.
    NoKind,
}

/// What a request was, for the log.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// The client refuses a response: the kind, and its reason in printable characters. The same reason is told once.
    pub refused: Option<(&'static str, String)>,
}

/// What a client has of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The kind.
    pub kind: Kind,
    /// The version of the last response.
    pub version: u64,
    /// The version of the last response that the client has acknowledged.
    pub acknowledged: Option<u64>,
    /// Why the client refuses the last response.
    pub refused: Option<String>,
    /// How many responses it has refused.
    pub refusals: u64,
}

/// One stream.
pub struct Stream {
    delta: bool,
    /// The kind of requests that say none: the stream has only this one.
    only: Option<Kind>,
    nonces: u64,
    kinds: HashMap<Kind, Subscription>,
    last_reason: String,
}

#[derive(Default)]
struct Subscription {
    all: bool,
    names: BTreeSet<String>,
    /// The stream has asked by name: no name means no resource from then on, and not all.
    named: bool,
    /// Version of each resource that was sent; `None`: the client knows that there is no such resource.
    sent: HashMap<String, Option<u64>>,
    nonce: String,
    /// A response waits for its answer.
    waits: bool,
    /// The next response of a whole kind is due although no resource has changed.
    due: bool,
    /// The version of the last response.
    told: Option<u64>,
    acknowledged: Option<u64>,
    refused: Option<String>,
    refusals: u64,
}

impl Stream {
    /// A stream without a request yet; `only`: of this kind, not of all.
    pub fn new(delta: bool, only: Option<Kind>) -> Stream {
        Stream { delta, only, nonces: 0, kinds: HashMap::new(), last_reason: String::new() }
    }

    /// The kind that a request is about; `None` if it is none that this control plane has.
    fn kind(&self, type_url: &str) -> Result<Option<Kind>, Wrong> {
        match type_url {
            "" => self.only.map(Some).ok_or(Wrong::NoKind),
            url => Ok(Kind::of(url)),
        }
    }

    /// Takes a request of the state of the world.
    pub fn request(&mut self, request: DiscoveryRequest) -> Result<Taken, Wrong> {
        let Some(kind) = self.kind(&request.type_url)? else { return Ok(Taken::default()) };
        fits(&request.resource_names)?;
        let first = !self.kinds.contains_key(&kind);
        let subscription = self.kinds.entry(kind).or_default();
        if !first && request.response_nonce != subscription.nonce {
            return Ok(Taken::default()); // answers an older response: the answer to the last one comes
        }
        if std::mem::take(&mut subscription.waits) {
            subscription.answered(request.error_detail.as_ref());
        }
        let mut names: BTreeSet<String> = request.resource_names.into_iter().collect();
        subscription.named |= !names.is_empty();
        let all = names.remove(ALL) || kind.whole() && !subscription.named;
        if first || all != subscription.all || names != subscription.names {
            subscription.due = true;
        }
        (subscription.all, subscription.names) = (all, names);
        let Subscription { all, names, sent, .. } = subscription;
        sent.retain(|name, _| *all || names.contains(name));
        Ok(self.refusal(kind, request.error_detail))
    }

    /// Takes a delta request.
    pub fn delta_request(&mut self, request: DeltaDiscoveryRequest) -> Result<Taken, Wrong> {
        let Some(kind) = self.kind(&request.type_url)? else { return Ok(Taken::default()) };
        let first = !self.kinds.contains_key(&kind);
        let subscription = self.kinds.entry(kind).or_default();
        if request.response_nonce == subscription.nonce && std::mem::take(&mut subscription.waits) {
            subscription.answered(request.error_detail.as_ref());
        }
        if first && request.resource_names_subscribe.is_empty() && kind.whole() {
            subscription.all = true;
        }
        for name in request.resource_names_unsubscribe {
            if name == ALL {
                // What came only by this is forgotten: neither its changes nor its end are told any more.
                let Subscription { all, names, sent, .. } = &mut *subscription;
                *all = false;
                sent.retain(|name, _| names.contains(name));
            }
            subscription.names.remove(&name);
            subscription.sent.remove(&name);
        }
        for name in request.resource_names_subscribe {
            if name == ALL {
                subscription.all = true;
                continue;
            }
            subscription.sent.remove(&name); // asked again: sent again
            subscription.names.insert(name);
        }
        fits(&subscription.names)?;
        if first {
            let known = request.initial_resource_versions.into_iter();
            let known = known.filter(|(name, _)| subscription.all || subscription.names.contains(name));
            // What is beyond the limit is sent again.
            let mut bytes = 0;
            let known = known.take(NAMES.0).take_while(|(name, _)| {
                bytes += name.len();
                bytes <= NAMES.1
            });
            subscription.sent.extend(known.map(|(name, version)| (name, Some(version.parse().unwrap_or(0)))));
        }
        Ok(self.refusal(kind, request.error_detail))
    }

    /// The responses that are due; to be called after each request, and with each new snapshot.
    pub fn responses(&mut self, snapshot: &Snapshot) -> Vec<Bytes> {
        KINDS.into_iter().filter_map(|kind| self.response(kind, snapshot)).collect()
    }

    fn response(&mut self, kind: Kind, snapshot: &Snapshot) -> Option<Bytes> {
        let subscription = self.kinds.get_mut(&kind).filter(|subscription| !subscription.waits)?;
        let (mut groups, removed) = subscription.differences(kind, snapshot);
        if self.delta {
            if groups.is_empty() && removed.is_empty() {
                return None;
            }
        } else if kind.whole() {
            if groups.is_empty() && !subscription.due {
                return None;
            }
            groups = subscription.groups(snapshot);
        } else if groups.is_empty() {
            return None;
        }
        subscription.due = false;
        subscription.waits = true;
        subscription.told = Some(snapshot.version());
        for place in &groups {
            let name = snapshot.groups()[*place].name.clone();
            subscription.sent.insert(name, Some(snapshot.version_of(kind, *place)));
        }
        subscription.sent.extend(removed.iter().map(|name| (name.clone(), None)));
        // Streams that ask the same have the same nonces, so they share the bytes of a response.
        let version = snapshot.version().to_string();
        let again = subscription.nonce.split('.').next() == Some(version.as_str());
        self.nonces += 1;
        subscription.nonce = if again { format!("{version}.{}", self.nonces) } else { version };
        Some(snapshot.response(Wish { kind, delta: self.delta, nonce: subscription.nonce.clone(), groups, removed }))
    }

    /// What the client has of each kind that it was told.
    pub fn told(&self) -> Vec<Told> {
        let told = |kind: Kind| {
            let subscription = self.kinds.get(&kind)?;
            let Subscription { acknowledged, refusals, .. } = *subscription;
            Some(Told {
                kind,
                version: subscription.told?,
                acknowledged,
                refused: subscription.refused.clone(),
                refusals,
            })
        };
        KINDS.into_iter().filter_map(told).collect()
    }

    fn refusal(&mut self, kind: Kind, error: Option<Status>) -> Taken {
        let Some(error) = error else { return Taken::default() };
        let reason = reason(&error);
        if reason == self.last_reason {
            return Taken::default();
        }
        self.last_reason.clone_from(&reason);
        Taken { refused: Some((kind.type_url(), reason)) }
    }
}

fn fits<'n>(names: impl IntoIterator<Item = &'n String>) -> Result<(), Wrong> {
    let (mut count, mut bytes) = (0, 0);
    for name in names {
        (count, bytes) = (count + 1, bytes + name.len());
    }
    if count > NAMES.0 || bytes > NAMES.1 { Err(Wrong::TooManyNames) } else { Ok(()) }
}

/// The client's words, in printable characters.
fn reason(error: &Status) -> String {
    error.message.escape_debug().take(REASON).collect()
}

impl Subscription {
    /// The client has answered the last response.
    fn answered(&mut self, error: Option<&Status>) {
        match error {
            None => (self.acknowledged, self.refused) = (self.told, None),
            Some(error) => (self.refused, self.refusals) = (Some(reason(error)), self.refusals + 1),
        }
    }

    /// The places of all groups that the stream asks for.
    fn groups(&self, snapshot: &Snapshot) -> Vec<usize> {
        if self.all {
            return (0..snapshot.groups().len()).collect();
        }
        self.names.iter().filter_map(|name| snapshot.place(name)).collect()
    }

    /// What the client has not in its present version; names that it does not know to be absent.
    fn differences(&self, kind: Kind, snapshot: &Snapshot) -> (Vec<usize>, Vec<String>) {
        let mut groups = self.groups(snapshot);
        groups.retain(|place| {
            let sent = self.sent.get(&snapshot.groups()[*place].name);
            sent != Some(&Some(snapshot.version_of(kind, *place)))
        });
        let asked = self.names.iter().chain(self.sent.keys().filter(|name| !self.names.contains(*name)));
        let absent = asked.filter(|name| snapshot.place(name).is_none() && self.sent.get(*name) != Some(&None));
        (groups, absent.cloned().collect())
    }
}
