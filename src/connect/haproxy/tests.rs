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
    let mut haproxy = HaProxy::new(Socket::parse("/run/none.sock").unwrap(), Vec::new(), drain_by_state);
    haproxy.servers = servers;
    haproxy
}

fn wanted(standings: &[(u8, Standing)]) -> Vec<Wanted> {
    let member = |(host, standing): &(u8, Standing)| WantedMember {
        endpoint: endpoint(*host),
        label: Box::default(),
        standing: *standing,
    };
    vec![Wanted { pool: (*b"web").into(), members: standings.iter().map(member).collect() }]
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
