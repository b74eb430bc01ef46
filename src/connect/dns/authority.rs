//! The connector that answers queries itself.

use std::{
    collections::BTreeSet,
    fmt, io,
    net::IpAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use arc_swap::ArcSwap;

use super::{
    Settings,
    answer::{self, Transport},
    content::{Content, Hosts, linger},
    names::Kind,
    server::{Bound, Server},
    tally::Tally,
    zone::{Apex, Snapshot},
};
use crate::connect::{Applied, Connector, Fault, Observed, Pool, Wanted};

/// The zone, and the threads that answer from it.
pub struct Authority {
    settings: Settings,
    apex: Apex,
    /// What each of `settings.shown` shows now.
    contents: Vec<Content>,
    hosts: Hosts,
    serial: u32,
    zone: Arc<ArcSwap<Snapshot>>,
    tally: Arc<Tally>,
    /// `None`: nobody is answered, as for `--check`.
    _server: Option<Server>,
}

/// A change of the zone.
pub enum Step {
    /// A name shows something else.
    Show {
        /// Its place in `settings.shown`.
        at: usize,
        /// What it shows, for a person.
        text: String,
        /// What it shows.
        content: Shows,
    },
    /// A group has other hosts.
    Hosts {
        /// The group's pool.
        pool: Box<[u8]>,
        /// All its members' addresses.
        hosts: BTreeSet<IpAddr>,
    },
}

/// What a name shows.
pub struct Shows(Content);

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Show { text, .. } => f.write_str(text),
            Step::Hosts { pool, hosts } => {
                write!(f, "group {}: names for {} hosts", crate::sasp::Escaped(pool), hosts.len())
            }
        }
    }
}

impl Authority {
    /// Begins to answer, with SERVFAIL for groups until their weights are known.
    pub fn start(settings: Settings, apex: Apex, bound: Option<Bound>) -> io::Result<Authority> {
        let contents = vec![Content::Failure; settings.shown.len()];
        let serial = next_serial(0);
        let (snapshot, _) = Snapshot::new(&apex, &settings.shown, &contents, &BTreeSet::new(), serial);
        let tally = Arc::new(Tally::new(&settings.shown));
        let zone = Arc::new(ArcSwap::from_pointee(snapshot.counted_by(&tally)));
        let server = bound.map(|bound| bound.serve(Arc::clone(&zone))).transpose()?;
        Ok(Authority { settings, apex, contents, hosts: Hosts::default(), serial, zone, tally, _server: server })
    }

    /// The answer to a query, if it gets one; `turn` is another number for each query.
    pub fn answer(&self, query: &[u8], transport: Transport, turn: usize) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        answer::answer(&self.zone.load(), query, transport, turn, &mut out).then_some(out)
    }

    /// Lets the serving threads use what is known now; says what can not be shown.
    fn publish(&mut self) -> Vec<String> {
        self.serial = next_serial(self.serial);
        let hosts = self.hosts.all();
        let (snapshot, refused) = Snapshot::new(&self.apex, &self.settings.shown, &self.contents, &hosts, self.serial);
        self.zone.store(Arc::new(snapshot.counted_by(&self.tally)));
        refused
    }

    fn show(&self, at: usize, content: Content, members: usize) -> Option<Step> {
        let shown = &self.settings.shown[at];
        (self.contents[at] != content).then(|| {
            let text = match &content {
                Content::Failure => format!("{shown}: SERVFAIL"),
                Content::Targets(targets) => format!("{shown}: {} of {members} members", targets.len()),
            };
            Step::Show { at, text, content: Shows(content) }
        })
    }

    fn hosts(&self, pool: &[u8], hosts: BTreeSet<IpAddr>) -> Option<Step> {
        // Only SRV records name hosts.
        let named = self.settings.shown.iter().any(|shown| *shown.pool == *pool && shown.kind == Kind::Service);
        (named && self.hosts.differ(pool, &hosts)).then(|| Step::Hosts { pool: pool.into(), hosts })
    }
}

impl Connector for Authority {
    type Step = Step;

    fn look(&mut self) -> Result<Vec<Pool>, Fault> {
        if !self.hosts.take_gone(Instant::now()).is_empty() {
            self.publish();
        }
        Ok(self.settings.pools.clone())
    }

    fn plan(&self, wanted: &[Wanted]) -> Vec<Step> {
        let mut steps = Vec::new();
        for group in wanted {
            let hosts = group.members.iter().map(|member| member.endpoint.ip()).collect();
            steps.extend(self.hosts(&group.pool, hosts));
            for (at, shown) in self.settings.shown.iter().enumerate().filter(|(_, shown)| shown.pool == group.pool) {
                steps.extend(self.show(at, Content::of(shown, group, self.settings.when_none), group.members.len()));
            }
        }
        steps
    }

    fn restore(&self, pools: &[Box<[u8]>]) -> Vec<Step> {
        let mut steps = Vec::new();
        // One step for each pool: several names may show different members of one.
        for pool in self.settings.pools.iter().filter(|pool| pools.contains(&pool.name)) {
            let own = pool.members.iter().map(|member| member.endpoint.ip()).collect();
            steps.extend(self.hosts(&pool.name, own));
            for (at, shown) in self.settings.shown.iter().enumerate().filter(|(_, shown)| shown.pool == pool.name) {
                // Members that registered themselves are not known without a GWM: resolvers shall use what they have.
                let content = Content::usual(shown, &self.settings.pools).unwrap_or(Content::Failure);
                let members = content.ips().count();
                steps.extend(self.show(at, content, members));
            }
        }
        steps
    }

    fn apply(&mut self, steps: Vec<Step>, applied: &mut Applied) -> Result<(), Fault> {
        applied.done += steps.len();
        let until = Instant::now() + linger(self.settings.ttl);
        for step in steps {
            match step {
                Step::Show { at, content, .. } => self.contents[at] = content.0,
                Step::Hosts { pool, hosts } => self.hosts.set(&pool, hosts, until),
            }
        }
        applied.refused.extend(self.publish());
        Ok(())
    }

    fn observe(&mut self) -> Result<Observed, Fault> {
        Ok(Observed { figures: self.tally.figures(), ..Observed::default() })
    }
}

/// Grows with each change, over restarts too, unless there is more than one change a second for a long time.
fn next_serial(last: u32) -> u32 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    last.wrapping_add(1).max(u32::try_from(now & u64::from(u32::MAX)).unwrap_or(0))
}
