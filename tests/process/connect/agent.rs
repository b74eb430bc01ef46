//! `gwm serve --agent-listen`: agent-checks, by hand and by a real HAProxy.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
};

use gwm::{
    client::{
        Client,
        session::{Session, Wishes},
        spec,
    },
    sasp::{Health, LbFlags},
};
use rustix::process::Signal;

use super::{
    Gwm, Member,
    proxy::{Proxy, backend, request},
    real::{free_address, installed, without_right},
    scenarios::drains,
    weights,
};
use crate::harness::{PATIENCE, run, until};

/// Registers a group whose members have the labels s1, s2 and so on.
fn register(gwm: &Gwm, uid: &str, group: &str, members: &[SocketAddr]) -> Session {
    register_all(gwm, uid, &[group], members)
}

/// The same, with several groups.
fn register_all(gwm: &Gwm, uid: &str, groups: &[&str], members: &[SocketAddr]) -> Session {
    let labelled = |(at, member): (usize, &SocketAddr)| spec::MemberSpec {
        endpoint: spec::endpoint(&member.to_string()).unwrap(),
        label: format!("s{}", at + 1).into_bytes().into(),
    };
    let group = |group: &&str| spec::GroupSpec {
        members: members.iter().enumerate().map(labelled).collect(),
        ..spec::group(group).unwrap()
    };
    let groups = groups.iter().map(group).collect();
    let wishes = Wishes { uid: uid.as_bytes().into(), groups, health: Health::BEST, flags: LbFlags::PUSH };
    Session::open(Client::connect(&gwm.address(), PATIENCE).unwrap(), PATIENCE, &wishes).unwrap()
}

fn send(agent: SocketAddr, request: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(agent).expect("agent-checks are answered");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    stream
}

/// What the admin side says.
fn admin(gwm: &Gwm, path: &str) -> String {
    let mut stream = TcpStream::connect(gwm.daemon.admin()[0].trim_start_matches("http://").trim_end_matches('/'))
        .expect("the admin side listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    answer(stream)
}

/// The whole answer; it ends with the connection.
fn answer(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the daemon closes the connection");
    answer
}

fn ask(agent: SocketAddr, request: &str) -> String {
    answer(send(agent, request.as_bytes()))
}

#[test]
fn each_form_of_a_question_is_answered_with_what_is_so_now() {
    let members = [(); 4].map(|()| Member::start().address);
    let [_, two, three, other] = members;
    let of = |one| [(members[0], one), (two, Some(30)), (three, None), (other, Some(7))];
    let gwm = Gwm::start_with(&of(Some(40)), &["--agent-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    let agent = gwm.daemon.agent()[0];
    let _lb = register(&gwm, "LB1", "web", &members[..3]);
    let _other = register(&gwm, "LB2", "a/b", &[other]);
    let becomes = |question: &str, expected: &str| {
        until(&format!("{question:?} is answered with {expected:?}"), || ask(agent, question) == expected);
    };
    becomes("web/s1\n", "ready up 100%\n");
    becomes("web/s2\r\n", "ready up 75%\n");
    becomes("web/s3\n", "drain\n");
    becomes(&format!("web/{two}\n"), "ready up 75%\n");
    becomes(&format!("{two}\n"), "ready up 75%\n");
    becomes("a/b/s1\n", "ready up 100%\n");
    // HAProxy's command line can not send a line feed.
    becomes("web/s2", "ready up 75%\n");
    let http = |path: &str| ask(agent, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert!(http("/load/web/s2").ends_with("\r\n\r\n25\n"), "{}", http("/load/web/s2"));
    assert!(http(&format!("/load?{three}")).ends_with("\r\n\r\n102\n"));
    assert!(http("/load/web/s9").starts_with("HTTP/1.1 404 "));
    assert!(http("/").starts_with("HTTP/1.1 404 "));
    // What is not known is not answered.
    for unknown in ["web/s9\n", "nothing/s1\n", "web\n", "\n", "10.9.9.9:1\n", &"x".repeat(5000)] {
        let mut stream = TcpStream::connect(agent).unwrap();
        let _ = stream.write_all(unknown.as_bytes());
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes); // it may be reset: the daemon has not read all
        assert_eq!(bytes, b"", "{unknown:?}");
    }
    let half = send(agent, b"web/s1");
    half.shutdown(Shutdown::Write).unwrap();
    assert_eq!(answer(half), "ready up 100%\n");

    // More than the daemon looks at at a time, with some that say nothing; all others are answered.
    let silent: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(agent).unwrap()).collect();
    let clients: Vec<_> = (0..400).map(|_| send(agent, b"web/s2\n")).collect();
    assert!(clients.into_iter().all(|client| answer(client) == "ready up 75%\n"));
    drop(silent);
    let metrics = admin(&gwm, "/metrics");
    let count = |series: &str| -> u64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{series}\n{metrics}")).parse().expect("a number")
    };
    assert!(count("gwm_agent_checks_total{answer=\"percent\"}") > 400);
    assert!(count("gwm_agent_checks_total{answer=\"drain\"}") >= 2);
    assert!(count("gwm_agent_checks_total{answer=\"unknown\"}") >= 3);
    assert_eq!(count("gwm_agent_checks_total{answer=\"wrong\"}"), 4);
    assert!(count("gwm_agent_connections_accepted_total") > 600);
    assert!(admin(&gwm, "/api/v1/limits").contains("\"agent_connections\""));

    gwm.set(&of(Some(20)));
    becomes("web/s1\n", "ready up 67%\n");
    becomes("web/s2\n", "ready up 100%\n");
    let output = run(&["serve", "--agent-listen", "127.0.0.1:1,127.0.0.1:1", "--check"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let output = run(&["serve", "--listen", "127.0.0.1:0", "--agent-listen", &agent.to_string()]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && text.contains("--agent-listen"), "{output:?}");
}

#[test]
fn one_load_balancers_groups_answer_if_it_is_named() {
    let [one, two] = [(); 2].map(|()| Member::start().address);
    let flags = ["--agent-listen", "127.0.0.1:0", "--agent-lb", "LB2"];
    let gwm = Gwm::start_with(&[(one, Some(10)), (two, Some(20))], &flags);
    let agent = gwm.daemon.agent()[0];
    let _first = register(&gwm, "LB1", "web", &[one, two]);
    let _second = register(&gwm, "LB2", "web", &[one]);
    until("s1 is the heaviest of LB2's group", || ask(agent, "web/s1\n") == "ready up 100%\n");
    assert_eq!(ask(agent, "web/s2\n"), "");
    assert_eq!(ask(agent, &format!("{two}\n")), "");
    gwm.daemon.wait_for_log(&["\"web/s2\": no group of load balancer \"LB2\"", "gwm lb register"]);
}

#[test]
fn haproxy_follows_the_answers() {
    if !installed("haproxy", "haproxy") {
        return;
    }
    let [one, two] = [(); 2].map(|()| Member::start());
    let members = [one.address, two.address];
    let flags = ["--agent-listen", "127.0.0.1:0"];
    let gwm = Gwm::start_with(&[(members[0], Some(40)), (members[1], Some(30))], &flags);
    let agent = gwm.daemon.agent()[0];
    let _lb = register(&gwm, "LB1", "web", &members);
    let words = |key: &str| {
        let port = agent.port();
        format!(
            "weight 100 agent-check agent-inter 100ms agent-addr 127.0.0.1 agent-port {port} agent-send \"{key}\\n\""
        )
    };
    let (first, second) = (words("web/s1"), words(&members[1].to_string()));
    let proxy = Proxy::start(&backend("web", "", &[("s1", members[0], &first), ("s2", members[1], &second)]));
    proxy.wait_for(&[("web/s1", 100), ("web/s2", 75)]);
    gwm.set(&[(members[0], Some(10)), (members[1], Some(40))]);
    proxy.wait_for(&[("web/s1", 25), ("web/s2", 100)]);
    proxy.reload();
    proxy.wait_for(&[("web/s1", 25), ("web/s2", 100)]);
    let drains = |drains: bool| until("s1 drains", || proxy.servers()["web/s1"].is_drained() == drains);
    gwm.set(&[(members[0], None), (members[1], Some(40))]);
    drains(true);
    let before = one.served();
    assert!((0..20).all(|_| request(proxy.listen)));
    assert_eq!(one.served(), before);
    gwm.set(&[(members[0], Some(40)), (members[1], Some(40))]);
    drains(false);
    proxy.wait_for(&[("web/s1", 100), ("web/s2", 100)]);
    let before = one.served();
    until("s1 serves again", || request(proxy.listen) && one.served() > before);
    // A quiesced member that is gone is in maintenance, and comes back from there.
    gwm.set(&[(members[0], Some(40)), (members[1], None)]);
    until("s2 drains", || proxy.servers()["web/s2"].is_drained());
    two.close();
    until("s2 is in maintenance", || proxy.servers()["web/s2"].is_in_maintenance());
    let unchecked = weights(&[(members[0], Some(40)), (members[1], Some(40))]);
    gwm.file.write(unchecked.replace("monitor = \"tcp\"", "monitor = \"none\""));
    gwm.daemon.signal(Signal::HUP);
    until("s2 is ready", || !proxy.servers()["web/s2"].is_in_maintenance());
}

/// The words of a server that asks there.
fn asks(agent: SocketAddr, key: &str) -> String {
    let (ip, port) = (agent.ip(), agent.port());
    format!("weight 100 agent-check agent-inter 200ms agent-addr {ip} agent-port {port} agent-send \"{key}\\n\"")
}

#[test]
fn a_hundred_backends_outlive_the_gwm_and_a_restart() {
    if !installed("haproxy", "haproxy") {
        return;
    }
    let members = [(); 2].map(|()| Member::start().address);
    let (agent, nobody) = (free_address(), free_address());
    let names: Vec<String> = (0..100).map(|at| format!("g{at}")).collect();
    let of_group = |name: &String| {
        let [first, second] = ["s1", "s2"].map(|server| asks(agent, &format!("{name}/{server}")));
        backend(name, "", &[("s1", members[0], &first), ("s2", members[1], &second)])
    };
    // One asks where nobody answers, and one what nobody knows: both stay as they are.
    let (lost, unknown) = (asks(nobody, "web/s1"), asks(agent, "nothing/s1"));
    let web = backend("web", "", &[("lost", members[0], &lost), ("unknown", members[0], &unknown)]);
    let mut proxy = Proxy::start(&format!("{web}{}", names.iter().map(of_group).collect::<String>()));
    let has = |proxy: &Proxy, [first, second]: [u32; 2]| {
        let servers = proxy.servers();
        let is = |server: String, weight| servers.get(&server).is_some_and(|server| server.weight == weight);
        names.iter().all(|name| is(format!("{name}/s1"), first) && is(format!("{name}/s2"), second))
            && ["lost", "unknown"].iter().all(|name| is(format!("web/{name}"), 100))
    };
    let groups: Vec<&str> = names.iter().map(String::as_str).collect();
    let listen = agent.to_string();
    let flags = ["--agent-listen", &listen, "--log-level", "info"];
    let start = |[first, second]: [u16; 2]| {
        let gwm = Gwm::start_with(&[(members[0], Some(first)), (members[1], Some(second))], &flags);
        let lb = register_all(&gwm, "LB1", &groups, &members);
        (gwm, lb)
    };
    let mut running = start([40, 20]);
    until("the first weights", || has(&proxy, [100, 50]));
    proxy.restart();
    until("the weights after a restart of HAProxy", || has(&proxy, [100, 50]));
    let mut last = [100, 50];
    for (weights, shown) in [([10, 40], [25, 100]), ([40, 30], [100, 75]), ([30, 40], [75, 100])] {
        drop(running);
        until("HAProxy asks in vain", || {
            let table = proxy.ask("show stat");
            table.lines().any(|line| line.starts_with("g99,s1,") && line.contains(",L4CON,"))
        });
        assert!(has(&proxy, last), "{last:?} stay without a GWM");
        running = start(weights);
        until(&format!("{shown:?} of a new GWM"), || has(&proxy, shown));
        last = shown;
    }
    // Without a pause, and without groups at first.
    for weights in [[40, 10], [20, 40]] {
        drop(running);
        running = start(weights);
    }
    until("the weights of the last GWM", || has(&proxy, [50, 100]));
}

#[test]
fn requests_go_on_while_agent_checks_drain_a_member() {
    if !installed("haproxy", "haproxy") {
        return;
    }
    let members = [(); 3].map(|()| Member::start());
    let addresses = members.each_ref().map(|member| member.address);
    let gwm = Gwm::start_with(&addresses.map(|address| (address, Some(20))), &["--agent-listen", "127.0.0.1:0"]);
    let _lb = register(&gwm, "LB1", "web", &addresses);
    let words = ["web/s1", "web/s2", "web/s3"].map(|key| asks(gwm.daemon.agent()[0], key));
    let [first, second, third] = [0, 1, 2].map(|at| (["s1", "s2", "s3"][at], addresses[at], &*words[at]));
    let proxy = Proxy::start(&backend("web", "", &[first, second, third]));
    let ask = || request(proxy.listen).then_some(()).ok_or_else(|| "HAProxy has no good answer".to_owned());
    drains(ask, &gwm, &members);
}

#[test]
fn a_port_that_needs_a_right_is_told() {
    let flags = ["serve", "--listen", "127.0.0.1:0", "--agent-listen", "127.0.0.1:80"];
    let Some((status, text)) = without_right("net_bind_service", &flags) else { return };
    assert!(status == Some(1) && text.contains("127.0.0.1:80") && text.contains("CAP_NET_BIND_SERVICE"), "{text}");
}
