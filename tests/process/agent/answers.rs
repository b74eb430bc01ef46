//! What `gwm agent` tells those who ask: HAProxy, GWMs, Kemp's load balancers, monitoring.

use std::{
    fs::OpenOptions,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
};

use gwm::monitor::{agent_check, orca, outcome::Load};

use super::{Agent, RunDirectory, serve, service};
use crate::{
    connect::{
        proxy::{Proxy, backend},
        real::{free_address, installed},
    },
    harness::{PATIENCE, TempFile, run, until},
};

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the agent listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What the agent sends by itself, until it ends the connection.
fn line(address: SocketAddr) -> String {
    let mut line = String::new();
    connect(address).read_to_string(&mut line).expect("the agent ends the connection");
    line
}

/// Status, load report and body.
fn get(address: SocketAddr, path: &str) -> (u16, Option<String>, String) {
    let mut stream = connect(address);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the agent ends the connection");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let report = head.lines().find_map(|line| line.strip_prefix("endpoint-load-metrics: "));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, report.map(str::to_owned), body.to_owned())
}

fn load(address: SocketAddr, path: &str) -> Load {
    let (_, report, _) = get(address, path);
    orca::parse(report.expect("a load report").as_bytes(), &[]).expect("a GWM reads it")
}

/// Waits until the agent listens.
fn listens(address: SocketAddr) {
    until("the agent listens", || TcpStream::connect(address).is_ok());
}

#[test]
fn each_form_says_how_the_service_is() {
    let [gwm, member, agent_checks, http] = [(); 4].map(|()| free_address());
    let directory = RunDirectory::new();
    let addresses = [gwm, member, agent_checks, http].map(|address| address.to_string());
    let [gwm, place, agent_listen, http_listen] = addresses.each_ref().map(String::as_str);
    let flags = ["--gwm", gwm, "--member", place, "--agent-listen", agent_listen, "--http-listen", http_listen];
    let agent = Agent::start(&directory, &[&flags[..], &["--load-interval", "100ms"]].concat());
    listens(agent_checks);
    until("it says why it is down", || {
        line(agent_checks).starts_with("down #") && line(agent_checks).contains("refused")
    });
    assert_eq!((get(http, "/load").2.as_str(), get(http, "/orca").0), ("101\n", 503));

    serve(TcpListener::bind(member).unwrap());
    until("it is up, and its capacity is known", || {
        let said = agent_check::read(line(agent_checks).as_bytes(), true).unwrap().unwrap();
        said.up == Some(true) && said.weight.is_some()
    });
    let (status, report, body) = get(http, "/orca");
    assert_eq!((status, report), (200, Some(format!("JSON {}", body.trim_end()))));
    let (status, report, body) = get(http, "/orca/web?form=text");
    assert_eq!((status, report), (200, Some(format!("TEXT {}", body.trim_end()))));
    for path in ["/orca", "/load", "/healthz", "/orca/web?form=text"] {
        until(&format!("{path} has a load report"), || {
            let load = load(http, path);
            load.cpu_utilization.is_some() && load.mem_utilization.is_some() && load.rps.is_none()
        });
    }
    let number: u8 = get(http, "/load").2.trim_end().parse().unwrap();
    assert!(number < 100, "{number}");
    let metric = |name: &str| {
        let page = get(http, "/metrics").2;
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        value.unwrap_or_else(|| panic!("{name} in {page}"))
    };
    if cfg!(feature = "admin") {
        assert_eq!(metric("gwm_agent_service_up{service=\"web\"}"), 1.0);
        assert!(metric("gwm_agent_answers_total{kind=\"agent_check\"}") >= 2.0);
        assert!(metric("gwm_agent_cpu_available_cores{service=\"web\"}") > 0.0);
    }

    directory.tell(&["quiesce", "--reason", "a new disk"]).unwrap();
    until("it is under maintenance", || line(agent_checks) == "maint #a new disk\n");
    assert_eq!((get(http, "/load").2.as_str(), get(http, "/orca").0), ("102\n", 200));
    directory.tell(&["resume"]).unwrap();
    until("it is up again", || line(agent_checks).starts_with("ready up "));
    assert!(agent.stop().success());
}

#[test]
fn who_says_nothing_or_nonsense_keeps_nobody_out() {
    let [gwm, agent_checks, http] = [(); 3].map(|()| free_address());
    let member = service();
    let directory = RunDirectory::new();
    let addresses = [gwm, member, agent_checks, http].map(|address| address.to_string());
    let [gwm, place, agent_listen, http_listen] = addresses.each_ref().map(String::as_str);
    let flags = ["--gwm", gwm, "--member", place, "--agent-listen", agent_listen, "--http-listen", http_listen];
    let _agent = Agent::start(&directory, &flags);
    listens(http);
    let silent: Vec<TcpStream> = (0..200).map(|_| connect(http)).collect();
    assert_eq!(get(http, "/healthz").0, 200);
    let mut half = connect(http);
    half.write_all(b"GET /healthz HTTP/1.1\r\nHost:").unwrap();
    until("it is up", || line(agent_checks).starts_with("ready up"));
    half.write_all(b" x\r\n\r\n").unwrap();
    let mut answer = String::new();
    half.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    drop(silent);
    for (request, status) in [
        (b"POST / HTTP/1.1\r\n\r\n".to_vec(), "405"),
        (b"\x16\x03\x01\x02\x00".to_vec(), "400"),
        ([&b"GET /"[..], &[b'a'; 8000], b" HTTP/1.1\r\n\r\n"].concat(), "431"),
        (b"GET /orca/other HTTP/1.1\r\n\r\n".to_vec(), "404"),
    ] {
        let mut stream = connect(http);
        let _ = stream.write_all(&request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer); // it may be reset after the answer
        assert!(String::from_utf8_lossy(&answer).starts_with(&format!("HTTP/1.1 {status} ")), "{status}");
    }
    // A text that HAProxy sends, and a half-closed connection.
    let mut stream = connect(agent_checks);
    stream.write_all(b"web/s1\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("ready up"), "{said}");
}

#[test]
fn haproxy_asks_the_agent() {
    if !installed("haproxy", "haproxy") {
        return;
    }
    let [gwm, agent_checks] = [(); 2].map(|()| free_address());
    let member = service();
    let directory = RunDirectory::new();
    let [gwm, place, listen] = [gwm, member, agent_checks].map(|address| address.to_string());
    // Half of the machine's cores would be 200 %: HAProxy takes percentages of the server's own weight, up to 256.
    let flags = ["--gwm", &gwm, "--member", &place, "--agent-listen", &listen, "--nominal-cores", "65536"];
    let agent = Agent::start(&directory, &[&flags[..], &["--load-interval", "100ms"]].concat());
    let words =
        format!("weight 100 agent-check agent-inter 100ms agent-addr 127.0.0.1 agent-port {}", agent_checks.port());
    let proxy = Proxy::start(&backend("web", "", &[("s1", member, &words)]));
    // 1 % is the least that is told of a service that works.
    proxy.wait_for(&[("web/s1", 1)]);
    directory.tell(&["quiesce", "--reason", "a new disk"]).unwrap();
    until("HAProxy has it under maintenance", || proxy.servers()["web/s1"].is_in_maintenance());
    directory.tell(&["resume"]).unwrap();
    until("HAProxy uses it again", || !proxy.servers()["web/s1"].is_in_maintenance());
    proxy.wait_for(&[("web/s1", 1)]);
    assert!(agent.stop().success());
}

#[test]
fn services_of_a_file_have_names_and_logs() {
    let [gwm, first, second, http] = [(); 4].map(|()| free_address());
    let log = TempFile::new("access.log", "");
    let (web, api) = (service(), service());
    let file = TempFile::new(
        "agent.toml",
        format!(
            "[[service]]\nlb = 'LB1'\ngroup = 'web'\nmember = '{web}'\nagent_listen = '{first}'\nagent_weight = 'none'\n\
             [service.load]\nof = 'machine'\nlog = '{}'\nlog_time = 'ms'\n\
             [[service]]\nlb = 'LB1'\ngroup = 'api'\nname = 'my api'\nmember = '{api}'\nagent_listen = '{second}'\n\
             agent_weight = 'idle'\n",
            log.path()
        ),
    );
    let (gwm, http_listen) = (gwm.to_string(), http.to_string());
    let directory = RunDirectory::new();
    let flags = ["--gwm", &gwm, "--config", file.path(), "--http-listen", &http_listen, "--load-interval", "200ms"];
    let _agent = Agent::start(&directory, &flags);
    listens(http);
    until("both are up", || line(first) == "ready up\n" && line(second).starts_with("ready up "));
    assert_eq!((get(http, "/load").0, get(http, "/orca").0, get(http, "/orca/x").0), (404, 404, 404));
    assert!(get(http, "/").2.contains("/orca/my%20api\n"));
    let mut lines = OpenOptions::new().append(true).open(log.path()).unwrap();
    let mut told = Load::default();
    until("the requests in the log are told", || {
        lines
            .write_all(b"10.0.0.9 - - [x] \"GET / HTTP/1.1\" 200 5 30\n10.0.0.9 - - [x] \"GET / HTTP/1.1\" 503 5 30\n")
            .unwrap();
        let (_, report, body) = get(http, "/orca/web");
        told = orca::parse(report.expect("a load report").as_bytes(), &[]).expect("a GWM reads it");
        told.rps.is_some_and(|rps| rps > 0.0) && body.contains("\"latency_mean\":0.03,")
    });
    assert!(told.eps > 0.0 && told.eps < told.rps.unwrap(), "{told:?}");
    assert_eq!(load(http, "/orca/my%20api").rps, None);

    let wrong = |words: &[&str], text: &str| {
        let output =
            run(&[&["agent", "--check", "--lb", "LB1", "--group", "web", "--member", "127.0.0.1:80"], words].concat());
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && told.contains(text), "{words:?}: {told}");
    };
    wrong(&["--load-requests", "a_total"], "--load-metrics");
    wrong(&["--agent-weight", "idle", "--nominal-cores", "4"], "nominal cores");
    wrong(&["--agent-listen", "127.0.0.1:9,127.0.0.1:9"], "twice");
    wrong(&["--load-of", "what"], "unit:NAME.service");
}
