//! The loop that is the same for all connectors: look at the real LB, register what it balances, follow the weights, and
//! change what differs.

use std::{
    collections::HashSet,
    io::{self, Write},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    Applied, Connector, Fault, Pool, Standing, Wanted, WantedMember,
    follower::{Follower, News},
    mapping::Mapping,
    status::{Mapped, Status, changes},
};
use crate::{
    client::{Weights, spec::GroupSpec},
    sasp::EntryFlags,
};

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

    /// The last steps before the process ends: what others changed meanwhile is looked at first.
    fn end(mut self) -> io::Result<()> {
        if !self.options.restore_at_exit {
            return Ok(());
        }
        self.look();
        if self.pools.is_none() {
            return Ok(());
        }
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
            // The real LB has what it shall have: no earlier fault is one now.
            if self.complaints.forget_steps() {
                self.status.tell(|told| (told.apply_fault, told.refused) = Default::default());
            }
            return Ok(());
        }
        steps.iter().for_each(|step| tracing::debug!("{step}"));
        let mut applied = Applied::default();
        let outcome = self.connector.apply(steps, &mut applied);
        tracing::debug!(steps = applied.done, refused = applied.refused.len(), "applied");
        match &outcome {
            Ok(()) => self.complaints.of_apply = None,
            Err(fault) => complain(&mut self.complaints.of_apply, fault),
        }
        self.complaints.about_steps(&applied.refused);
        self.status.tell(|told| {
            told.steps_done += applied.done as u64;
            told.steps_refused += applied.refused.len() as u64;
            told.changed_at = (applied.done > 0).then(SystemTime::now).or(told.changed_at);
            told.applies_failed += u64::from(outcome.is_err());
            (told.apply_fault, told.refused) = (outcome.err().map(|fault| fault.to_string()), applied.refused);
        });
        if self.look() {
            // Others changed its pools meanwhile: the next look registers them.
            self.pools = None;
        }
        Ok(())
    }

    /// Answers those who ask what the real LB tells.
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
            // A quiesced member that has left, or does not answer, has nothing that could go on.
            standing: if member.entry.flags.contains(EntryFlags::CONTACT) { standing } else { Standing::Down },
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
    /// Nothing is wrong with steps any more; says whether something was.
    fn forget_steps(&mut self) -> bool {
        self.of_apply.take().is_some() | !std::mem::take(&mut self.steps).is_empty()
    }

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

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;
    use crate::{connect::MemberSpec, sasp::Endpoint};

    /// A load balancer whose servers have weights; `gwm` wants 5 of all that it registered.
    #[derive(Default)]
    struct Lb {
        /// By port: the weight now, and the weight of its own.
        servers: Vec<(u16, u32, u32)>,
        /// Servers that someone else adds while steps are taken.
        joins: Vec<(u16, u32, u32)>,
        /// The server whose step is refused.
        refuses: Option<u16>,
        /// The server whose step ends in a fault.
        fails: Option<u16>,
    }

    struct Step(u16, u32);

    impl fmt::Display for Step {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{} -> {}", self.0, self.1)
        }
    }

    impl Connector for &mut Lb {
        type Step = Step;

        fn look(&mut self) -> Result<Vec<Pool>, Fault> {
            let endpoint = |port| Endpoint::new([10, 0, 0, 1].into(), 6, port);
            let member = |(port, ..): &(u16, u32, u32)| MemberSpec { endpoint: endpoint(*port), label: Box::default() };
            Ok(vec![Pool { name: (*b"web").into(), members: self.servers.iter().map(member).collect() }])
        }

        fn plan(&self, _: &[Wanted]) -> Vec<Step> {
            self.servers.iter().filter(|(_, now, _)| *now != 5).map(|(port, ..)| Step(*port, 5)).collect()
        }

        fn restore(&self, pools: &[Box<[u8]>]) -> Vec<Step> {
            assert_eq!(pools, [Box::from(*b"web")]);
            let changed = self.servers.iter().filter(|(_, now, own)| now != own);
            changed.map(|(port, _, own)| Step(*port, *own)).collect()
        }

        fn apply(&mut self, steps: Vec<Step>, applied: &mut Applied) -> Result<(), Fault> {
            for Step(port, weight) in steps {
                if self.fails == Some(port) {
                    return Err(Fault::Answer("the connection broke".into()));
                }
                if self.refuses == Some(port) {
                    applied.refused.push(format!("{port}: no"));
                    continue;
                }
                let server = self.servers.iter_mut().find(|server| server.0 == port).expect("it was planned");
                server.1 = weight;
                applied.done += 1;
            }
            let joins = std::mem::take(&mut self.joins);
            self.servers.extend(joins);
            Ok(())
        }
    }

    fn engine<'o>(lb: &'o mut Lb, options: &'o Options, status: &'o Status) -> Engine<'o, &'o mut Lb> {
        let (pools, wanted, complaints, printed) = (None, Arc::default(), Complaints::default(), None);
        let mut engine = Engine { connector: lb, options, status, pools, wanted, complaints, printed };
        engine.look();
        engine
    }

    fn settle(engine: &mut Engine<'_, &mut Lb>) {
        let steps = engine.connector.plan(&[]);
        engine.carry_out(steps).unwrap();
    }

    #[test]
    fn a_restore_at_the_exit_follows_a_change_by_others() {
        let mut lb = Lb { servers: vec![(1, 9, 9), (2, 8, 8)], joins: vec![(3, 7, 7)], ..Lb::default() };
        let (options, status) = (Options { restore_at_exit: true, ..Options::default() }, Status::default());
        let mut engine = engine(&mut lb, &options, &status);
        settle(&mut engine);
        assert!(engine.pools.is_none(), "someone else has added a server");
        engine.end().unwrap();
        assert_eq!(lb.servers, [(1, 9, 9), (2, 8, 8), (3, 7, 7)]);
    }

    #[test]
    fn faults_are_told_as_long_as_they_last_and_lose_no_count() {
        let mut lb = Lb { servers: vec![(1, 9, 9), (2, 8, 8), (3, 7, 7)], ..Lb::default() };
        (lb.refuses, lb.fails) = (Some(1), Some(3));
        let (options, status) = Default::default();
        let mut engine = engine(&mut lb, &options, &status);
        settle(&mut engine);
        let told = status.told();
        assert_eq!((told.steps_done, told.steps_refused, told.applies_failed), (1, 1, 1));
        assert!(told.apply_fault.is_some() && told.refused == ["1: no"] && told.changed_at.is_some());
        // The real LB gets these weights by another hand.
        engine.connector.servers = vec![(1, 5, 9), (2, 5, 8), (3, 5, 7)];
        settle(&mut engine);
        let told = status.told();
        assert!(told.apply_fault.is_none() && told.refused.is_empty());
        assert_eq!((told.steps_done, told.steps_refused, told.applies_failed), (1, 1, 1));
    }
}
