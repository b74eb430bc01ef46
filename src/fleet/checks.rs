//! What the nodes' checks found, in buckets: this node's for the store, other nodes' for the coordinator.

use std::collections::{BTreeMap, BTreeSet};

use super::buckets;
use crate::{judgement::Verdicts, sasp::Endpoint};

/// News of other nodes that go to the coordinator together, at most.
const NEWS: usize = 4096;

/// What has changed on endpoints.
type News = Vec<(Endpoint, Option<Verdicts>)>;

/// Buckets by number.
type Buckets = BTreeMap<u16, BTreeMap<Endpoint, Verdicts>>;

/// All verdicts.
#[derive(Default)]
pub(super) struct Checks {
    own: Buckets,
    /// Buckets of this node that the store has, or had until lately, in another form.
    dirty: BTreeSet<u16>,
    remote: BTreeMap<Box<str>, Buckets>,
    /// What the coordinator has yet to hear of other nodes.
    news: BTreeMap<Box<str>, BTreeMap<Endpoint, Option<Verdicts>>>,
}

impl Checks {
    /// This node's own checks found this; `None`: the node does not check the endpoint any more.
    pub(super) fn judged(&mut self, endpoint: Endpoint, verdicts: Option<Verdicts>) {
        let number = buckets::of(&endpoint);
        let bucket = self.own.entry(number).or_default();
        let before = match verdicts {
            Some(verdicts) => bucket.insert(endpoint, verdicts),
            None => bucket.remove(&endpoint),
        };
        if bucket.is_empty() {
            self.own.remove(&number);
        }
        if before != verdicts {
            self.dirty.insert(number);
        }
    }

    /// The store has lost all buckets of this node.
    pub(super) fn lost(&mut self) {
        self.dirty.extend(self.own.keys());
    }

    /// The store has lost a bucket of this node.
    pub(super) fn lost_one(&mut self, number: u16) {
        if self.own.contains_key(&number) {
            self.dirty.insert(number);
        }
    }

    /// A bucket of this node has to be written after all.
    pub(super) fn again(&mut self, number: u16) {
        self.dirty.insert(number);
    }

    /// The next bucket to write; without a value it is to be deleted.
    pub(super) fn next_dirty(&mut self) -> Option<(u16, Option<Vec<u8>>)> {
        let number = self.dirty.pop_first()?;
        Some((number, self.own.get(&number).map(|bucket| buckets::write(bucket.iter()))))
    }

    /// The store has this bucket of another node.
    pub(super) fn put(&mut self, node: &str, number: u16, list: Vec<(Endpoint, Verdicts)>) {
        let buckets = self.remote.entry(node.into()).or_default();
        let before = buckets.remove(&number).unwrap_or_default();
        let after: BTreeMap<Endpoint, Verdicts> = list.into_iter().collect();
        let news = self.news.entry(node.into()).or_default();
        news.extend(before.keys().filter(|endpoint| !after.contains_key(endpoint)).map(|endpoint| (*endpoint, None)));
        let new = after.iter().filter(|(endpoint, verdicts)| before.get(endpoint) != Some(verdicts));
        news.extend(new.map(|(endpoint, verdicts)| (*endpoint, Some(*verdicts))));
        if news.is_empty() {
            self.news.remove(node);
        }
        if !after.is_empty() {
            buckets.insert(number, after);
        } else if buckets.is_empty() {
            self.remote.remove(node);
        }
    }

    /// Other nodes' buckets that the store has, as far as is known.
    pub(super) fn remote(&self) -> impl Iterator<Item = (Box<str>, u16)> {
        self.remote.iter().flat_map(|(node, buckets)| buckets.keys().map(|number| (node.clone(), *number)))
    }

    /// The next news of one of those nodes.
    pub(super) fn next_news(&mut self, of: impl Fn(&str) -> bool) -> Option<(Box<str>, News)> {
        let node = self.news.keys().find(|node| of(node))?.clone();
        let mut news = self.news.remove(&node)?;
        if let Some(end) = news.keys().nth(NEWS).copied() {
            self.news.insert(node.clone(), news.split_off(&end));
        }
        Some((node, news.into_iter().collect()))
    }

    /// How many endpoints this node, or another one, has verdicts on.
    pub(super) fn count(&self, node: Option<&str>) -> usize {
        let buckets = node.map_or(Some(&self.own), |node| self.remote.get(node));
        buckets.map_or(0, |buckets| buckets.values().map(BTreeMap::len).sum())
    }
}
