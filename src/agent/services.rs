//! The services of an agent, as all its threads share them. A reload of the file makes another list.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    service::{Bell, Leaving, Service},
    settings::ServiceSettings,
};
use crate::sasp::Endpoint;

/// A list of services.
pub type List = Arc<[Arc<Service>]>;

/// The services: those that the user wants, then those that leave. Only the main thread changes the list.
pub struct Services {
    list: Mutex<List>,
    bell: Arc<Bell>,
}

impl Services {
    /// These services. `bell` rings after each change of the list.
    pub fn new(list: Vec<Arc<Service>>, bell: Arc<Bell>) -> Services {
        Services { list: Mutex::new(list.into()), bell }
    }

    /// The services now.
    pub fn all(&self) -> List {
        Arc::clone(&self.list.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Those that stay.
    pub fn staying(&self) -> Vec<Arc<Service>> {
        let stays = |service: &&Arc<Service>| service.with(|state| state.leaving == Leaving::No);
        self.all().iter().filter(stays).cloned().collect()
    }

    /// Other services from now on.
    pub fn set(&self, list: Vec<Arc<Service>>) {
        *self.list.lock().unwrap_or_else(PoisonError::into_inner) = list.into();
        self.bell.ring();
    }
}

/// A membership: load balancer, group, member.
pub(super) type Key = (Box<[u8]>, Box<[u8]>, Endpoint);

/// The memberships of a service.
pub(super) fn memberships(settings: &ServiceSettings) -> impl Iterator<Item = Key> {
    let groups = settings.lbs.iter().flat_map(|lb| settings.groups.iter().map(move |group| (lb, group)));
    groups.flat_map(move |(lb, group)| settings.members.iter().map(move |member| (lb.clone(), group.clone(), *member)))
}

/// What a reload changes.
pub(super) struct Plan {
    /// The services from now on.
    pub(super) next: Vec<Arc<Service>>,
    /// Those of them that are new, or have other settings.
    pub(super) begin: Vec<Arc<Service>>,
    /// Those that are replaced or no longer wanted.
    pub(super) end: Vec<Arc<Service>>,
    /// Those that have the memberships that are no longer wanted, to let them leave.
    pub(super) leave: Vec<Arc<Service>>,
}

impl Plan {
    /// From the services that stay so far to the settings of the services to come; both have one service of a name.
    pub(super) fn new(
        old: &[Arc<Service>],
        wanted: Vec<ServiceSettings>,
        make: impl Fn(ServiceSettings) -> Arc<Service>,
    ) -> Plan {
        let kept: HashSet<Key> = wanted.iter().flat_map(memberships).collect();
        let mut plan = Plan { next: Vec::new(), begin: Vec::new(), end: Vec::new(), leave: Vec::new() };
        for settings in wanted {
            let before = old.iter().find(|service| service.settings.name == settings.name);
            if let Some(same) = before.filter(|service| service.settings == settings) {
                plan.next.push(Arc::clone(same));
                continue;
            }
            let service = make(settings);
            if let Some(before) = before {
                service.go_on(before);
            }
            plan.next.push(Arc::clone(&service));
            plan.begin.push(service);
        }
        for service in old {
            if plan.next.iter().any(|next| Arc::ptr_eq(next, service)) {
                continue;
            }
            plan.end.push(Arc::clone(service));
            let gone: HashSet<Endpoint> =
                memberships(&service.settings).filter(|key| !kept.contains(key)).map(|(.., member)| member).collect();
            if !gone.is_empty() {
                let mut settings = service.settings.clone();
                settings.members.retain(|member| gone.contains(member));
                let leaver = make(settings);
                leaver.go_on(service);
                plan.leave.push(leaver);
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{
        config::{self, Given},
        service::{ByHand, Checked},
    };

    fn settings(text: &str) -> Vec<ServiceSettings> {
        let flags = Given { lbs: vec![(*b"LB1").into()], ..Given::default() };
        config::parse(text, &flags, || Ok([10, 0, 0, 1].into())).unwrap()
    }

    fn make(settings: ServiceSettings) -> Arc<Service> {
        Arc::new(Service::new(settings, 1, Arc::default()))
    }

    fn names(services: &[Arc<Service>]) -> Vec<String> {
        services
            .iter()
            .map(|service| {
                let members: Vec<_> = service.settings.members.iter().map(ToString::to_string).collect();
                format!("{} {}", service.settings.name, members.join(","))
            })
            .collect()
    }

    #[test]
    fn a_plan_keeps_what_is_as_it_was_and_lets_the_rest_leave() {
        let web = "[[service]]\ngroup = 'web'\nmember = 80\n";
        let api = "[[service]]\ngroup = ['api', 'all']\nmember = [81, 82]\n";
        let old: Vec<_> = settings(&format!("{web}{api}")).into_iter().map(make).collect();
        old[1].change(|state| {
            state.checked = Checked::Up;
            state.by_hand = Some(ByHand { reason: "disk".into(), since: std::time::SystemTime::UNIX_EPOCH });
        });
        let plan = |text: &str| Plan::new(&old, settings(text), make);

        let same = plan(&format!("{api}{web}"));
        assert!(same.begin.is_empty() && same.end.is_empty() && same.leave.is_empty());
        assert!(Arc::ptr_eq(&same.next[0], &old[1]) && Arc::ptr_eq(&same.next[1], &old[0]));

        let added = plan(&format!("{web}{api}[[service]]\ngroup = 'dns'\nmember = 53\n"));
        assert_eq!((names(&added.begin), added.end.len(), added.leave.len()), (vec!["dns 10.0.0.1:53".into()], 0, 0));

        let removed = plan(web);
        assert_eq!((names(&removed.end), names(&removed.leave)), (names(&old[1..]), names(&old[1..])));
        assert_eq!(removed.leave[0].state().checked, Checked::Up);

        // Another drain time: it goes on, and nothing leaves.
        let changed = plan(&format!("{web}{api}drain_time = '1s'\n"));
        assert_eq!((names(&changed.begin), changed.leave.len()), (names(&old[1..]), 0));
        let state = changed.begin[0].state();
        assert!(state.checked == Checked::Up && state.by_hand.is_some() && state.orders > old[1].state().orders);

        // Another member: what is gone leaves, and the new one must answer first.
        let moved = plan(&format!("{web}{}", api.replace("82", "83")));
        assert_eq!(names(&moved.leave), ["api 10.0.0.1:82"]);
        let state = moved.begin[0].state();
        assert!(state.checked == Checked::Starting && state.by_hand.is_some());

        // A group less: both members leave that group.
        let less = plan(&format!("{web}{}", api.replace("['api', 'all']", "'api'")));
        assert_eq!(names(&less.leave), ["api 10.0.0.1:81,10.0.0.1:82"]);

        // Another name has no effect on the memberships.
        let renamed = plan(&format!("{web}{api}name = 'other'\n"));
        assert_eq!((renamed.begin.len(), renamed.end.len(), renamed.leave.len()), (1, 1, 0));
        assert_eq!(renamed.begin[0].state().checked, Checked::Starting);
    }
}
