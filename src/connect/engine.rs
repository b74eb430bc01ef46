//! The loop that is the same for all connectors: look at the real LB, register what it balances, follow the weights, and
//! change what differs.

use std::{
    collections::HashSet,
    io::{self, Write},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    Connector, Fault, Pool, Wanted, WantedMember,
    follower::{Follower, News},
    mapping::Mapping,
    status::{Mapped, Status, changes},
};
use crate::client::{Weights, spec::GroupSpec};

/// How often the engine looks at the real LB: a restarted one has its weights again within a second.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What the user wants of the loop.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Pools ↔ groups.
    pub mapping: Mapping,
    /// Print the steps instead of taking them.
    pub dry_run: bool,
    /// How long the last weights stay after the GWM was lost; then the real LB gets its own back. `None`: for ever.
    pub keep: Option<Duration>,
    /// Whether the real LB gets its own weights back at the end.
    pub restore_at_exit: bool,
}

/// Runs until someone asks the follower to stop. An error is one of the output of `--dry-run`.
pub fn run(connector: impl Connector, follower: &Follower, options: &Options, status: &Status) -> io::Result<()> {
    let (pools, wanted, complaints, printed) = (None, Arc::default(), Complaints::default(), None);
    let mut engine = Engine { connector, options, status, pools, wanted, complaints, printed };
    let mut news = News::default();
    let mut next_look = Instant::now();
    loop {
        if Instant::now() >= next_look {
            if engine.look() {
                follower.register(engine.groups());
            }
            next_look = Instant::now() + LOOK_EVERY;
            engine.settle(&news)?;
        }
        let newer = follower.wait(news.version, next_look);
        if newer.stopped {
            return engine.end();
        }
        if newer.version > news.version {
            news = newer;
            status.tell(|told| (told.gwm, told.lost_since) = (news.gwm.clone(), news.lost_since));
            engine.settle(&news)?;
        }
        engine.answer();
    }
}

struct Engine<'o, C> {
    connector: C,
    options: &'o Options,
    status: &'o Status,
    /// What the real LB balances; `None` before the first look that succeeded.
    pools: Option<Vec<Pool>>,
    /// What the members may get, as far as the GWM has told.
    wanted: Arc<Vec<Wanted>>,
    complaints: Complaints,
    /// Steps that `--dry-run` has printed last.
    printed: Option<Vec<String>>,
}

impl<C: Connector> Engine<'_, C> {
    /// Looks at the real LB; says whether it balances other members than at the last look.
    fn look(&mut self) -> bool {
        match self.connector.look() {
            Ok(pools) => {
                self.status.tell(|told| (told.looks, told.look_fault) = (told.looks + 1, None));
                if self.complaints.of_look.take().is_some() {
                    tracing::info!("the load balancer answers again");
                }
                if self.pools.as_ref() == Some(&pools) {
                    return false;
                }
                let members: usize = pools.iter().map(|pool| pool.members.len()).sum();
                tracing::info!(pools = pools.len(), members, "found the pools of the load balancer");
                let mapped = |pool: &Pool| Mapped { pool: pool.clone(), group: self.options.mapping.group(&pool.name) };
                let shown = Arc::new(pools.iter().map(mapped).collect());
                self.status.tell(|told| told.pools = shown);
                self.pools = Some(pools);
                true
            }
            Err(fault) => {
                let text = fault.to_string();
                self.status.tell(|told| (told.looks_failed, told.look_fault) = (told.looks_failed + 1, Some(text)));
                complain(&mut self.complaints.of_look, &fault);
                false
            }
        }
    }

    fn groups(&self) -> Vec<GroupSpec> {
        let (groups, left_out) = self.options.mapping.groups(self.pools.as_deref().unwrap_or_default());
        left_out.iter().for_each(|why| tracing::warn!("a pool is left out: {why}"));
        groups
    }

    /// Lets the real LB use the weights, or its own if the GWM is lost for too long.
    fn settle(&mut self, news: &News) -> io::Result<()> {
        let (Some(pools), Some(weights), None) = (&self.pools, &news.weights, &self.complaints.of_look) else {
            return Ok(());
        };
        let lost = news.lost_since.zip(self.options.keep).is_some_and(|(since, keep)| since.elapsed() >= keep);
        let age = news.since.map_or(Duration::ZERO, |since| since.elapsed());
        let wanted = Arc::new(wanted(pools, &self.options.mapping, weights, age));
        let changes = changes(&self.wanted, &wanted);
        self.wanted = Arc::clone(&wanted);
        self.status.tell(|told| (told.weights_changed, told.wanted) = (told.weights_changed + changes, wanted));
        let steps = if lost { self.connector.restore(&self.own_pools()) } else { self.connector.plan(&self.wanted) };
        self.carry_out(steps)
    }

    /// The last steps before the process ends.
    fn end(mut self) -> io::Result<()> {
        if !self.options.restore_at_exit || self.pools.is_none() {
            return Ok(());
        }
        self.look();
        let steps = self.connector.restore(&self.own_pools());
        self.carry_out(steps)
    }

    /// The names of the pools that have a group.
    fn own_pools(&self) -> Vec<Box<[u8]>> {
        let names = self.pools.iter().flatten().map(|pool| pool.name.clone());
        names.filter(|name| self.options.mapping.group(name).is_some()).collect()
    }

    fn carry_out(&mut self, steps: Vec<C::Step>) -> io::Result<()> {
        if self.options.dry_run {
            return self.print(&steps);
        }
        if steps.is_empty() {
            return Ok(());
        }
        steps.iter().for_each(|step| tracing::debug!("{step}"));
        match self.connector.apply(steps) {
            Ok(applied) => {
                tracing::debug!(steps = applied.done, refused = applied.refused.len(), "applied");
                self.complaints.of_apply = None;
                self.complaints.about_steps(&applied.refused);
                self.status.tell(|told| {
                    told.steps_done += applied.done as u64;
                    told.steps_refused += applied.refused.len() as u64;
                    told.changed_at = (applied.done > 0).then(SystemTime::now).or(told.changed_at);
                    (told.apply_fault, told.refused) = (None, applied.refused);
                });
            }
            Err(fault) => {
                complain(&mut self.complaints.of_apply, &fault);
                let text = fault.to_string();
                self.status
                    .tell(|told| (told.applies_failed, told.apply_fault) = (told.applies_failed + 1, Some(text)));
            }
        }
        if self.look() {
            // Others changed its pools meanwhile: the next look registers them.
            self.pools = None;
        }
        Ok(())
    }

    /// Answers those who ask what the real LB tells of its members.
    fn answer(&mut self) {
        let questions = self.status.questions();
        if questions.is_empty() {
            return;
        }
        let observed = self.connector.observe().map_err(|fault| fault.to_string());
        questions.into_iter().for_each(|answer| answer(observed.clone()));
    }

    fn print(&mut self, steps: &[C::Step]) -> io::Result<()> {
        let texts: Vec<String> = steps.iter().map(|step| step.to_string()).collect();
        if self.printed.as_ref() == Some(&texts) {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        texts.iter().try_for_each(|text| writeln!(out, "would do: {text}"))?;
        if texts.is_empty() {
            writeln!(out, "would do nothing: the load balancer uses these weights")?;
        }
        out.flush()?;
        self.printed = Some(texts);
        Ok(())
    }
}

/// What the members of each pool may get. Pools whose group the GWM does not list are left out.
fn wanted(pools: &[Pool], mapping: &Mapping, weights: &Weights, session_age: Duration) -> Vec<Wanted> {
    let wanted = |pool: &Pool| {
        let group = weights.group(&mapping.group(&pool.name)?)?;
        let members = group.members().iter().zip(group.standings()).map(|(member, standing)| WantedMember {
            endpoint: member.endpoint,
            label: member.label.as_slice().into(),
            standing,
        });
        Some(Wanted { pool: pool.name.clone(), members: members.collect(), session_age })
    };
    pools.iter().filter_map(wanted).collect()
}

/// What was logged, so that each cause is logged once.
#[derive(Default)]
struct Complaints {
    /// The last look failed so.
    of_look: Option<String>,
    /// The last steps failed so.
    of_apply: Option<String>,
    /// The last refused steps.
    steps: HashSet<String>,
}

impl Complaints {
    fn about_steps(&mut self, refused: &[String]) {
        let refused: HashSet<String> = refused.iter().cloned().collect();
        refused.difference(&self.steps).for_each(|why| tracing::warn!("{why}"));
        self.steps = refused;
    }
}

/// Logs a fault that differs from the last one.
fn complain(last: &mut Option<String>, fault: &Fault) {
    let text = fault.to_string();
    if last.as_ref() != Some(&text) {
        tracing::warn!("{text}; gwm tries again each {}", humantime::format_duration(LOOK_EVERY));
    }
    *last = Some(text);
}
