//! Services leave: each is quiesced, drained, and deregistered; each at its own pace.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    claims::Claims,
    connections,
    drain::{Drain, Drained},
    service::{Leaving, Service},
};
use crate::time::Time;

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
    /// Nobody waits for connections any more.
    hurried: bool,
}

struct Leaver {
    service: Arc<Service>,
    /// `None` as soon as it is to be deregistered.
    drain: Option<Drain>,
    /// Why the last count failed.
    fault: Option<String>,
}

impl Departure {
    /// Begins to drain all services. One that another agent of this user keeps registered stays as it is, unless `all`.
    pub(super) fn begin(services: &[Arc<Service>], claims: &Claims, all: bool) -> Departure {
        let goes = |service: &&Arc<Service>| {
            let goes = all || service.settings.members.iter().all(|member| claims.is_alone(*member));
            if !goes {
                tracing::info!(service = service.settings.name, "another agent keeps it registered: it stays");
            }
            goes
        };
        let leaver = |service: &Arc<Service>| {
            service.order(|state| state.leaving = Leaving::Draining);
            Leaver { service: Arc::clone(service), drain: Some(Drain::new(Time::default())), fault: None }
        };
        let services = services.iter().filter(goes).map(leaver).collect();
        let now = Instant::now();
        Departure { services, began: now, gone_at: now, hurried: false }
    }

    /// Deregisters all services without a wait for their connections.
    pub(super) fn hurry(&mut self) {
        self.hurried = true;
    }

    /// Looks at each service; whether all have left.
    pub(super) fn step(&mut self) -> bool {
        let now = Time::default() + self.began.elapsed();
        for leaver in &mut self.services {
            let Some(drain) = &mut leaver.drain else { continue };
            let service = &leaver.service;
            let places = service.settings.places();
            if drain.counts(now, &service.settings) && !places.is_empty() {
                let open = connections::count(&places);
                leaver.fault = open.as_ref().err().map(ToString::to_string);
                service.change(|state| state.connections = open.ok());
            }
            let (told, registered, open) =
                service.with(|state| (state.is_told(), state.may_be_registered(), state.connections));
            let drained = drain.step(now, &service.settings, told, open);
            // A service that is registered nowhere gets no work through this agent. One that has not answered yet may be
            // registered: an earlier life of this agent did so.
            let idle = told && !registered;
            if !(self.hurried || idle || drained.is_some()) {
                continue;
            }
            let seconds = (drain.lasts(now).as_secs_f64() * 10.0).round() / 10.0;
            let name = &service.settings.name;
            match (drained, open) {
                _ if idle => tracing::info!(service = name, "it is registered nowhere"),
                (Some(Drained::Empty), _) => tracing::info!(service = name, seconds, "its connections are gone"),
                (Some(Drained::Uncounted), _) => {
                    let fault = leaver.fault.as_deref().unwrap_or("they are not TCP");
                    tracing::info!(service = name, seconds, "its connections can not be counted: {fault}");
                }
                (_, open) => {
                    tracing::warn!(service = name, seconds, open, "its connections are not waited for any more")
                }
            }
            leaver.drain = None;
            service.order(|state| state.leaving = Leaving::Gone);
            self.gone_at = Instant::now();
        }
        let told = self.services.iter().all(|leaver| {
            leaver.drain.is_none() && leaver.service.with(|state| state.leaving == Leaving::Gone && state.is_told())
        });
        let late = self.services.iter().all(|leaver| leaver.drain.is_none()) && self.gone_at.elapsed() >= ANSWER_TIME;
        if late && !told {
            tracing::warn!("a GWM has not answered the deregistration");
        }
        told || late
    }

    /// The most that a departure can last.
    pub(super) fn longest(services: &[Arc<Service>]) -> Duration {
        let drain = services.iter().map(|service| service.settings.drain_time.max(service.settings.quiesce_time)).max();
        drain.unwrap_or_default() + ANSWER_TIME
    }
}
