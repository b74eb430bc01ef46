//! Services leave: each is quiesced, drained, and deregistered; each at its own pace. One that another agent of this user
//! keeps registered, or goes on with meanwhile, stays as it is.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    claims::Claims,
    connections::{self, Open},
    drain::{Drain, Drained},
    service::{Leaving, Service},
};
use crate::{sasp::Endpoint, time::Time};

/// How often connections are counted.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long GWMs may take to answer the deregistration.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// All services on their way out.
pub(super) struct Departure {
    services: Vec<Leaver>,
    began: Instant,
    /// When the last service began to deregister.
    gone_at: Instant,
    /// Why nobody waits for connections any more.
    hurry: Option<Hurry>,
    /// The services end with this agent, whoever else keeps them registered.
    all: bool,
}

/// Why connections are not waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hurry {
    /// Someone wants the agent to end now.
    Asked,
    /// The service has ended, and its connections with it.
    Ended,
}

struct Leaver {
    service: Arc<Service>,
    /// `None` as soon as it is to be deregistered.
    drain: Option<Drain>,
    /// Why the last count failed.
    fault: Option<String>,
    /// Its claims are given up.
    released: bool,
}

impl Departure {
    /// Begins to drain all services. One that another agent of this user keeps registered stays as it is, unless `all`.
    pub(super) fn begin(services: &[Arc<Service>], claims: &Claims, all: bool) -> Departure {
        let leaver = |service: &Arc<Service>| {
            let mut leaver = Leaver { service: Arc::clone(service), drain: None, fault: None, released: false };
            if all || leaver.each_member(|member| claims.is_alone(member)) {
                service.order(|state| state.leaving = Leaving::Draining);
                leaver.drain = Some(Drain::new(Time::default()));
            } else {
                leaver.keep();
            }
            leaver
        };
        let services = services.iter().map(leaver).collect();
        let now = Instant::now();
        Departure { services, began: now, gone_at: now, hurry: None, all }
    }

    /// Deregisters all services without a wait for their connections.
    pub(super) fn hurry(&mut self, why: Hurry) {
        self.hurry.get_or_insert(why);
    }

    /// Looks at each service; whether all have left.
    pub(super) fn step(&mut self, claims: &Claims) -> bool {
        let now = Time::default() + self.began.elapsed();
        self.count(now);
        for leaver in &mut self.services {
            // Another agent may have come meanwhile.
            if leaver.drain.is_some() && !self.all && !leaver.each_member(|member| claims.is_alone(member)) {
                leaver.keep();
            }
            let Some(drain) = &mut leaver.drain else { continue };
            let service = Arc::clone(&leaver.service);
            let (told, registered, open) =
                service.with(|state| (state.is_told(), state.may_be_registered(), state.connections));
            let drained = drain.step(now, &service.settings, told, open.map(Open::busy));
            // A service that is registered nowhere gets no work through this agent. One that has not answered yet may be
            // registered: an earlier life of this agent did so.
            let idle = told && !registered;
            if self.hurry.is_none() && !idle && drained.is_none() {
                continue;
            }
            let seconds = (drain.lasts(now).as_secs_f64() * 10.0).round() / 10.0;
            let name = &service.settings.name;
            match (drained, open) {
                _ if self.hurry == Some(Hurry::Ended) => {} // that it has ended was logged
                _ if idle => tracing::info!(service = name, "it is registered nowhere"),
                (Some(Drained::Empty), Some(Open { idle: idle @ 1.., .. })) => {
                    tracing::info!(service = name, seconds, idle, "its connections are gone or idle");
                }
                (Some(Drained::Empty), _) => tracing::info!(service = name, seconds, "its connections are gone"),
                (Some(Drained::Uncounted), _) => {
                    let fault = leaver.fault.as_deref().unwrap_or("they are not TCP");
                    tracing::info!(service = name, seconds, "its connections can not be counted: {fault}");
                }
                (_, open) => {
                    let busy = open.map(Open::busy);
                    tracing::warn!(service = name, seconds, busy, "its connections are not waited for any more");
                }
            }
            if leaver.each_member(|member| claims.take(member)) || self.all {
                leaver.drain = None;
                service.order(|state| state.leaving = Leaving::Gone);
                self.gone_at = Instant::now();
            } else {
                leaver.keep();
            }
        }
        let late = self.services.iter().all(|leaver| leaver.drain.is_none()) && self.gone_at.elapsed() >= ANSWER_TIME;
        let mut done = true;
        for leaver in &mut self.services {
            let has_left = leaver.service.with(|state| match state.leaving {
                Leaving::No | Leaving::Draining => false,
                Leaving::Gone => state.is_told(),
                Leaving::Kept => true,
            });
            if has_left || late {
                leaver.release(claims);
            }
            done &= has_left;
        }
        if late && !done {
            tracing::warn!("a GWM has not answered the deregistration");
        }
        done || late
    }

    /// Whether the service is on its way.
    pub(super) fn has(&self, service: &Arc<Service>) -> bool {
        self.services.iter().any(|leaver| Arc::ptr_eq(&leaver.service, service))
    }

    /// Counts the connections of all services that wait for their end.
    fn count(&mut self, now: Time) {
        let waits = |leaver: &&mut Leaver| {
            let Leaver { service, drain, .. } = leaver;
            drain.is_some_and(|drain| drain.counts(now, &service.settings)) && !service.settings.places().is_empty()
        };
        let mut leavers: Vec<_> = self.services.iter_mut().filter(waits).collect();
        let wanted: Vec<_> = leavers.iter().map(|leaver| leaver.service.settings.connections()).collect();
        let counted = connections::count(&wanted);
        for (at, leaver) in leavers.iter_mut().enumerate() {
            leaver.fault = counted.as_ref().err().map(ToString::to_string);
            let open = counted.as_ref().ok().and_then(|counted| counted.get(at).copied());
            leaver.service.change(|state| state.connections = open);
        }
    }

    /// The most that a departure can last.
    pub(super) fn longest(services: &[Arc<Service>]) -> Duration {
        let drain = services.iter().map(|service| service.settings.drain_time.max(service.settings.quiesce_time)).max();
        drain.unwrap_or_default() + ANSWER_TIME
    }
}

impl Leaver {
    /// Whether all members of the service are so; each one is asked, because the question may take or give up a lock.
    fn each_member(&self, is_so: impl Fn(Endpoint) -> bool) -> bool {
        self.service.settings.members.iter().filter(|member| !is_so(**member)).count() == 0
    }

    /// Another agent goes on with the service.
    fn keep(&mut self) {
        tracing::info!(service = self.service.settings.name, "another agent keeps it registered: it stays");
        self.drain = None;
        self.service.order(|state| state.leaving = Leaving::Kept);
    }

    /// Lets other agents have the endpoints.
    fn release(&mut self, claims: &Claims) {
        if !std::mem::replace(&mut self.released, true) {
            self.service.settings.members.iter().for_each(|member| claims.release(*member));
        }
    }
}
