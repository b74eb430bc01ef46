//! Checks by gRPC's health protocol, of a real gRPC server (grpcio for Python).

use std::{
    io::{BufRead, BufReader, Lines, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use gwm::sasp::{LbFlags, ReturnCode};

use crate::{
    authority::{Authority, Folder},
    harness::{Daemon, LB, TempFile, python},
};

/// The server, until it is dropped.
struct Server {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// Cleartext, TLS, and a server without the health service.
    ports: [u16; 3],
}

impl Server {
    fn start(certificate: &str, key: &str) -> Server {
        let python = python("python");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/grpc_server.py");
        let mut child = Command::new(&python)
            .args([script, certificate, key])
            .env("GRPC_VERBOSITY", "NONE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}: tests/run makes it", python.display()));
        let input = child.stdin.take().expect("it is piped");
        let mut output = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let line = output.next().expect("the server prints its ports").expect("text");
        let ports: Vec<u16> = line.split(' ').map(|port| port.parse().expect("a port")).collect();
        Server { child, input, output, ports: ports.try_into().expect("three ports") }
    }

    fn set(&mut self, service: &str, state: &str) {
        writeln!(self.input, "{service} {state}").expect("the server reads its input");
        assert_eq!(self.output.next().expect("the server answers").expect("text"), "set");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_grpc_server_is_as_it_says() {
    let (authority, folder) = (Authority::new("root"), Folder::new());
    let (certificate, key) = folder.identity("server", &authority.server());
    let ca = folder.write("ca.pem", authority.pem());
    let mut server = Server::start(&certificate, &key);
    server.set("-", "SERVING");
    server.set("shop.Cart", "SERVING");
    server.set("shop.Old", "NOT_SERVING");
    let [plain, secure, bare] = server.ports;
    // Members of one address and other ports: the check has the port of the server.
    let rows = [
        (1, format!("grpc.port = {plain}"), true),
        (2, format!("grpc = {{ port = {plain}, service = \"shop.Cart\" }}"), true),
        (3, format!("grpc = {{ port = {plain}, service = \"shop.Old\" }}"), false),
        (4, format!("grpc = {{ port = {plain}, service = \"shop.New\" }}"), false),
        (5, format!("grpc.port = {bare}"), false),
        (6, format!("grpc.port = {secure}\ntls.ca = \"{ca}\""), true),
        (
            7,
            format!("grpc = {{ port = {secure}, host = \"localhost\", service = \"shop.Cart\" }}\ntls.ca = \"{ca}\""),
            true,
        ),
        (8, format!("grpc = {{ port = {secure}, host = \"mail.example\" }}\ntls.ca = \"{ca}\""), false),
        (9, format!("grpc = {{ port = {secure}, tls = true }}\ntls.verify = false"), true),
        (10, format!("grpc.port = {secure}"), false),
        (11, format!("grpc = {{ port = {plain}, tls = true }}\ntls.verify = false"), false),
    ];
    let entry = |(port, lines, _): &(u16, String, bool)| {
        format!("[[member]]\naddress = \"127.0.0.1\"\nport = {port}\nmonitor = \"grpc\"\n{lines}\n")
    };
    let file = TempFile::new("grpc.toml", rows.iter().map(entry).collect::<String>());
    let flags = ["--probe-interval", "50ms", "--probe-timeout", "20s", "--push-window", "1ms", "--slow-start", "0s"];
    let daemon = Daemon::start(&[&flags[..], &["--members", file.path(), "--panic-percent", "100"]].concat());
    let mut lb = daemon.connect();
    let names: Vec<String> = rows.iter().map(|(port, ..)| format!("127.0.0.1:{port}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(lb.register(LB, "LB1", "G", &names), ReturnCode::SUCCESSFUL);
    assert_eq!(lb.set_lb("LB1", LbFlags::PUSH), ReturnCode::SUCCESSFUL);
    let expected = |ups: &[bool]| {
        let entry = |(name, up): (&&str, &bool)| format!("{name} {}", if *up { "00/0D/100" } else { "00/0C/0" });
        format!("LB1/G [{}]", names.iter().zip(ups).map(entry).collect::<Vec<_>>().join(", "))
    };
    let mut ups = rows.each_ref().map(|(.., up)| *up);
    lb.push_until(&expected(&ups));
    // Each service by itself, and the server as a whole.
    server.set("shop.Cart", "NOT_SERVING");
    (ups[1], ups[6]) = (false, false);
    lb.push_until(&expected(&ups));
    server.set("-", "NOT_SERVING");
    server.set("shop.Old", "SERVING");
    (ups[0], ups[2], ups[5], ups[8]) = (false, true, false, false);
    lb.push_until(&expected(&ups));
    daemon.stop();
}
