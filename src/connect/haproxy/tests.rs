//! Plans, without a HAProxy.

use super::*;
use crate::{connect::WantedMember, sasp::component::TCP};

fn endpoint(host: u8) -> Endpoint {
    Endpoint::new([10, 0, 0, host].into(), TCP, 80)
}

fn server(host: u8, admin_state: u32, weight: u32, own_weight: u32) -> Server {
    let name = format!("s{host}");
    Server { backend: "web".into(), name, endpoint: Some(endpoint(host)), admin_state, weight, own_weight }
}

fn haproxy(drain_by_state: bool, servers: Vec<Server>) -> HaProxy {
    let settings = Settings { drain_by_state, ..Settings::default() };
    let mut haproxy = HaProxy::new(Socket::parse("/run/none.sock").unwrap(), settings);
    haproxy.servers = servers;
    haproxy
}

fn wanted(standings: &[(u8, Standing)]) -> Vec<Wanted> {
    let member = |(host, standing): &(u8, Standing)| WantedMember {
        endpoint: endpoint(*host),
        label: Box::default(),
        standing: *standing,
    };
    let members = standings.iter().map(member).collect();
    vec![Wanted { pool: (*b"web").into(), members, session_age: Duration::ZERO }]
}

fn commands(steps: &[Step]) -> Vec<String> {
    let commands = steps.iter().flat_map(Step::commands);
    commands.map(|command| command.replace("set server web/", "")).collect()
}

#[test]
fn weights_rise_before_others_fall_and_unknown_servers_stay() {
    let haproxy = haproxy(false, vec![server(1, 0, 256, 10), server(2, 0, 1, 10), server(3, 0, 7, 7)]);
    let steps = haproxy.plan(&wanted(&[(1, Standing::Serving(10)), (2, Standing::Serving(20)), (9, Standing::Down)]));
    assert_eq!(commands(&steps), ["s2 weight 256", "s1 weight 128"]);
    assert_eq!(steps[0].to_string(), "web/s2: weight 1 -> 256");
    assert_eq!(
        commands(&haproxy.plan(&wanted(&[(1, Standing::Usual), (2, Standing::Usual)]))),
        ["s2 weight 10", "s1 weight 10"]
    );
    assert_eq!(haproxy.plan(&[]), []);
    assert_eq!(commands(&haproxy.restore(&[(*b"web").into()])), ["s2 weight 100%", "s1 weight 100%"]);
    assert_eq!(haproxy.restore(&[(*b"other").into()]), []);
}

#[test]
fn few_names_of_backends_are_listed() {
    assert_eq!(listed(&BTreeSet::new()), "none");
    assert_eq!(listed(&BTreeSet::from(["web", "db"])), "db, web");
    let long = "x".repeat(101);
    assert_eq!(listed(&BTreeSet::from([&*long])), long[1..]);
    assert_eq!(listed(&BTreeSet::from(["\x1b[31m"])), "\\u{1b}[31m");
    let names: Vec<String> = (10..=10 + NAMES).map(|number| number.to_string()).collect();
    assert_eq!(
        listed(&names.iter().map(String::as_str).collect()),
        "10, 11, 12, 13, 14, 15, 16, 17, 18, 19 and 1 more"
    );
}

#[test]
fn a_state_that_an_operator_set_stays() {
    const MAINTENANCE: u32 = 1;
    const DRAIN: u32 = 8;
    let servers =
        || vec![server(1, 0, 9, 9), server(2, DRAIN, 0, 9), server(3, DRAIN, 9, 9), server(4, MAINTENANCE, 9, 9)];
    let all = |standing| wanted(&[(1, standing), (2, standing), (3, standing), (4, standing)]);
    let by_state = haproxy(true, servers());
    assert_eq!(commands(&by_state.plan(&all(Standing::Quiesced))), ["s1 weight 0", "s1 state drain"]);
    assert_eq!(commands(&by_state.plan(&all(Standing::Usual))), ["s2 state ready", "s2 weight 9"]);
    assert_eq!(commands(&by_state.restore(&[(*b"web").into()])), ["s2 state ready", "s2 weight 100%"]);
    let by_weight = haproxy(false, servers());
    let quiesced = by_weight.plan(&all(Standing::Quiesced));
    assert_eq!(commands(&quiesced), ["s1 weight 0", "s3 weight 0", "s4 weight 0"]);
}

#[test]
fn a_static_backend_gets_all_or_nothing() {
    let mut haproxy = haproxy(false, vec![server(1, 0, 9, 9), server(2, 0, 9, 9), server(3, 0, 0, 4)]);
    let wanted = wanted(&[(1, Standing::Serving(10)), (2, Standing::Idle), (3, Standing::Serving(1))]);
    let step = haproxy.plan(&wanted).remove(0);
    let says = "Backend is using a static LB algorithm and only accepts weights '0%' and '100%'.".to_owned();
    let mut applied = Applied::default();
    let says = [says];
    haproxy.judge(&step, &says, &mut applied).unwrap();
    haproxy.judge(&step, &says, &mut applied).unwrap();
    assert_eq!((applied.done, applied.refused.len()), (0, 1), "said once");
    assert_eq!(commands(&haproxy.plan(&wanted)), ["s3 weight 100%", "s2 weight 0%"]);
}

#[test]
fn members_that_register_themselves_become_servers_until_they_leave() {
    let dynamic = Dynamic { words: "check inter 1s".into(), leave_after: Duration::from_secs(60) };
    let own = |host, weight| Server { name: own_name(endpoint(host)), ..server(host, 0, weight, 9) };
    let with = |servers| {
        let mut haproxy = haproxy(false, servers);
        haproxy.settings.dynamic = Some(dynamic.clone());
        haproxy
    };
    let new = with(vec![server(1, 0, 256, 9)]);
    let members = [(1, Standing::Serving(10)), (2, Standing::Serving(5)), (3, Standing::Quiesced), (4, Standing::Down)];
    let steps = new.plan(&wanted(&members));
    assert_eq!(
        steps[0].commands(),
        [
            "add server web/gwm-10.0.0.2:80 10.0.0.2:80 weight 9 check inter 1s",
            "set server web/gwm-10.0.0.2:80 weight 128",
            "enable health web/gwm-10.0.0.2:80",
            "set server web/gwm-10.0.0.2:80 state ready",
        ]
    );
    assert_eq!(steps[0].to_string(), "web/gwm-10.0.0.2:80: add with weight 128");
    assert_eq!(steps.len(), 1, "{steps:?}");

    // A member that left is shown as one that is down. Members that an old session does not list have left, too.
    let mut haproxy = with(vec![server(1, 0, 256, 9), own(2, 256), own(3, 256)]);
    let texts = |haproxy: &HaProxy, wanted: &[Wanted]| -> Vec<String> {
        haproxy.plan(wanted).iter().map(Step::to_string).collect()
    };
    let mut wanted = wanted(&[(1, Standing::Serving(10)), (2, Standing::Down)]);
    assert_eq!(texts(&haproxy, &wanted), ["web/gwm-10.0.0.2:80: remove"]);
    wanted[0].session_age = dynamic.leave_after;
    assert_eq!(texts(&haproxy, &wanted), ["web/gwm-10.0.0.2:80: remove", "web/gwm-10.0.0.3:80: remove"]);
    let step = haproxy.plan(&wanted).remove(0);
    assert_eq!(step.commands()[1..], ["set server web/gwm-10.0.0.2:80 state maint", "del server web/gwm-10.0.0.2:80"]);

    // Connections that are left are no refusal.
    let mut applied = Applied::default();
    let mut judge = |answer: &str| {
        haproxy.judge(&step, &[answer.into()], &mut applied).unwrap();
        (applied.done, applied.refused.concat())
    };
    assert_eq!(judge("Server still has connections attached to it, cannot remove it."), (0, String::new()));
    assert_eq!(judge("Server deleted."), (1, String::new()));
    assert_eq!(judge("No such server.").1, "web/gwm-10.0.0.2:80: remove: HAProxy says: No such server.");
    let without = super::tests::haproxy(false, vec![own(2, 256)]);
    assert_eq!(texts(&without, &wanted), ["web/gwm-10.0.0.2:80: weight 256 -> 0"]);
}
