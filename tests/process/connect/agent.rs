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
    haproxy::{Proxy, backend, request},
    real::installed,
    weights,
};
use crate::harness::{PATIENCE, run, until};

/// Registers a group whose members have the labels s1, s2 and so on.
fn register(gwm: &Gwm, uid: &str, group: &str, members: &[SocketAddr]) -> Session {
    let mut group = spec::group(group).unwrap();
    group.members = members
        .iter()
        .enumerate()
        .map(|(at, member)| spec::MemberSpec {
            endpoint: spec::endpoint(&member.to_string()).unwrap(),
            label: format!("s{}", at + 1).into_bytes().into(),
        })
        .collect();
    let wishes = Wishes { uid: uid.as_bytes().into(), groups: vec![group], health: Health::BEST, flags: LbFlags::PUSH };
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
