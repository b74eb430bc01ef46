//! `gwm connect xds`, with a real gRPC client.

use std::{
    io::{BufRead, BufReader, Lines, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use super::{
    Connector, Gwm,
    admin::{admin, metric},
    real::free_address,
    scenarios::{Real, Weights, outlives},
    xds::{Xds, group, with},
};
use crate::harness::{Daemon, python, until};

/// gRPC servers and a gRPC client, until the value is dropped.
struct Grpc {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    servers: Vec<SocketAddr>,
}

impl Grpc {
    fn start(servers: usize, xds: SocketAddr, tls: &[&str]) -> Grpc {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/grpc_shares.py");
        let mut child = Command::new(python("python"))
            .args([script, &servers.to_string(), &xds.port().to_string()])
            .args(tls)
            .env("GRPC_VERBOSITY", "NONE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("python: {error}: tests/run makes it"));
        let input = child.stdin.take().expect("it is piped");
        let mut output = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let line = output.next().expect("it prints the ports").expect("text");
        let servers = line.split(' ').map(|port| ([127, 0, 0, 1], port.parse().expect("a port")).into()).collect();
        Grpc { child, input, output, servers }
    }

    /// Does what a line says that is no question.
    fn order(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("it reads");
        assert_eq!(self.output.next().expect("it answers").expect("text"), "done");
    }

    /// How many of `calls` calls each server answered.
    fn shares(&mut self, group: &str, calls: usize) -> Result<Vec<usize>, String> {
        writeln!(self.input, "{group} {calls}").expect("it reads");
        let line = self.output.next().expect("it answers").expect("text");
        if line.starts_with("error") {
            return Err(line);
        }
        Ok(line.split(' ').map(|count| count.parse().expect("a count")).collect())
    }

    /// Waits for these shares of 1,200 calls. gRPC chooses at random: 51 calls are about three standard deviations.
    fn balances(&mut self, group: &str, wanted: &[usize]) {
        until(&format!("gRPC shares of {wanted:?} in 1200 calls"), || {
            self.shares(group, 1200).is_ok_and(|shares| about(&shares, wanted))
        });
    }
}

fn about(shares: &[usize], wanted: &[usize]) -> bool {
    shares.iter().zip(wanted).all(|(share, wanted)| share.abs_diff(*wanted) <= 51 && (*share > 0) == (*wanted > 0))
}

impl Drop for Grpc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn grpc_clients_without_a_proxy_follow_the_weights() {
    let daemon = Daemon::start(&["--push-window", "10ms"]);
    // The servers' ports are not known before the xDS server's port, so the servers register themselves.
    let xds = Xds::start(&daemon.address().to_string(), &["--group", "web", "--group", "other", "--trust"]);
    let mut grpc = Grpc::start(3, xds.address, &[]);
    let servers: Vec<String> = grpc.servers.iter().map(SocketAddr::to_string).collect();
    let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
    let mut member = daemon.connect();
    until("the connector has registered the group", || {
        let code = member.register(crate::harness::MEMBER, "LB1", "web", &servers);
        code == gwm::sasp::ReturnCode::SUCCESSFUL
    });
    grpc.balances("web", &[400, 400, 400]);
    member.deregister(crate::harness::MEMBER, "LB1", "web", &servers[..1]);
    grpc.balances("web", &[0, 600, 600]);
    // The connector is killed: the client keeps what it has. Started again, it serves what the GWM says.
    let listen = xds.address.to_string();
    xds.connector.kill();
    let shares = grpc.shares("web", 1200).expect("calls without the connector");
    assert!(shares[0] == 0 && shares[1] > 400, "{shares:?}");
    let code = member.register(crate::harness::MEMBER, "LB1", "web", &servers[..1]);
    assert_eq!(code, gwm::sasp::ReturnCode::SUCCESSFUL);
    let _xds = Xds::start(
        &daemon.address().to_string(),
        &["--group", "web", "--group", "other", "--trust", "--listen", &listen],
    );
    grpc.balances("web", &[400, 400, 400]);
    let error = grpc.shares("nothing", 1).expect_err("no such group");
    assert!(error.contains("UNAVAILABLE"), "{error}");
}

#[test]
fn grpc_weights_are_exact() {
    let xds_port = free_address();
    let mut grpc = Grpc::start(2, xds_port, &[]);
    let servers = grpc.servers.clone();
    let gwm = Gwm::start(&with(&servers, &[Some(30), Some(10)]));
    let _xds = Xds::start(&gwm.address(), &["--group", &group(&servers), "--listen", &xds_port.to_string()]);
    grpc.balances("web", &[900, 300]);
    gwm.set(&with(&servers, &[Some(10), Some(20)]));
    grpc.balances("web", &[400, 800]);
    gwm.set(&with(&servers, &[None, Some(20)]));
    grpc.balances("web", &[0, 1200]);
}

/// A gRPC client with one group.
struct Client {
    grpc: Grpc,
    listen: SocketAddr,
}

impl Real for Client {
    fn connect(&self, gwm: &str) -> Connector {
        let (listen, group) = (self.listen.to_string(), group(&self.grpc.servers));
        Xds::start(gwm, &["--listen", &listen, "--group", &group]).connector
    }

    /// 82 of 1,200 calls are five standard deviations.
    fn has(&mut self, (first, second): Weights) -> bool {
        let wanted = 1200 * usize::from(first) / usize::from(first + second);
        self.grpc.shares("web", 1200).is_ok_and(|shares| shares[0].abs_diff(wanted) <= 82)
    }

    /// Its channels are closed, and other ones are opened.
    fn restart(&mut self) {
        self.grpc.order("forget 0");
    }
}

#[test]
fn a_client_outlives_all() {
    let listen = free_address();
    let grpc = Grpc::start(2, listen, &[]);
    let members = [grpc.servers[0], grpc.servers[1]];
    outlives(&mut Client { grpc, listen }, members);
}

#[test]
fn no_call_fails_while_a_server_drains_and_leaves() {
    let listen = free_address();
    let mut grpc = Grpc::start(3, listen, &[]);
    let servers = grpc.servers.clone();
    let gwm = Gwm::start(&with(&servers, &[Some(10), Some(20), Some(30)]));
    let _xds = Xds::start(&gwm.address(), &["--group", &group(&servers), "--listen", &listen.to_string()]);
    grpc.balances("web", &[200, 400, 600]);
    // From here on each call must succeed. Calls go on, four at a time, while the weights change.
    let calls = |grpc: &mut Grpc| grpc.shares("web", 200).expect("no call fails");
    gwm.set(&with(&servers, &[Some(10), Some(20), None]));
    until("the server gets no call", || calls(&mut grpc)[2] == 0);
    grpc.order("stop 2");
    (0..5).for_each(|_| assert_eq!(calls(&mut grpc)[2], 0));
    gwm.set(&with(&servers, &[Some(30), Some(10), None]));
    until("the shares have changed", || {
        let shares = calls(&mut grpc);
        shares[2] == 0 && shares[0] > 2 * shares[1]
    });
}

#[test]
fn what_a_client_reports_of_servers_is_shown() {
    let listen = free_address();
    let mut grpc = Grpc::start(2, listen, &[]);
    let servers = grpc.servers.clone();
    let gwm = Gwm::start(&with(&servers, &[Some(10), Some(20)]));
    let flags = ["--group", &group(&servers), "--listen", &listen.to_string(), "--admin-listen", "127.0.0.1:0"];
    let xds = Xds::start(&gwm.address(), &flags);
    let at = admin(&xds.connector);
    let mut made = [0; 2];
    until("both serve", || {
        let shares = grpc.shares("web", 100).unwrap_or(vec![0, 0]);
        made = [made[0] + shares[0], made[1] + shares[1]];
        shares.iter().all(|share| *share > 0)
    });
    until(&format!("the client has reported {made:?} calls"), || {
        let series = |server| format!("gwm_connect_member_new_connections_total{{pool=\"web\",member=\"{server}\"}}");
        [0, 1].into_iter().all(|at_server| metric(&at, &series(servers[at_server])) == Some(made[at_server] as f64))
    });
}
