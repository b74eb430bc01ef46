//! Three etcds and three GWMs, members and load balancers, each on a machine of its own: network namespaces that one bridge
//! joins. Machines die, and the network between two of them can be cut, in one direction or both.

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::FileExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    admin::{exchange, request},
    connect::real::{Entrance, Namespace, installed},
    harness::{Daemon, Permit, until},
};

/// A machine of the bed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    Etcd(usize),
    Gwm(usize),
    Members,
    LoadBalancers,
}

use Machine::{Etcd, Gwm, LoadBalancers, Members};

/// How many there are of GWMs, and of etcds.
pub(super) const EACH: usize = 3;

impl Machine {
    fn all() -> Vec<Machine> {
        let each = |of: fn(usize) -> Machine| (0..EACH).map(of);
        each(Etcd).chain(each(Gwm)).chain([Members, LoadBalancers]).collect()
    }

    pub(super) fn address(self) -> String {
        let host = match self {
            Etcd(number) => 11 + number,
            Gwm(number) => 21 + number,
            Members => 31,
            LoadBalancers => 41,
        };
        format!("10.77.0.{host}")
    }

    /// All its addresses. Members have several: one address alone that is silent is a dead server.
    fn addresses(self) -> Vec<String> {
        match self {
            Members => (31..34).map(|host| format!("10.77.0.{host}")).collect(),
            other => vec![other.address()],
        }
    }
}

/// A directory of the test, removed with this value.
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn new() -> Directory {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{}-fleet", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).expect("the target directory can be written to");
        Directory(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An etcd, killed with this value.
pub(super) struct EtcdProcess(Child);

impl EtcdProcess {
    /// `name` of all `members`, each with an address for peers; clients come to `client`.
    pub(super) fn start(directory: &Path, name: &str, client: &str, members: &[(String, String)]) -> EtcdProcess {
        EtcdProcess::start_with(directory, name, &format!("http://{client}"), members, &[])
    }

    /// As [`EtcdProcess::start`], with the URL for clients, and more flags.
    pub(super) fn start_with(
        directory: &Path,
        name: &str,
        client: &str,
        members: &[(String, String)],
        flags: &[&str],
    ) -> EtcdProcess {
        let url = |address: &str| format!("http://{address}");
        let (_, peer) = members.iter().find(|(other, _)| other == name).expect("one of the members");
        let cluster: Vec<String> = members.iter().map(|(name, peer)| format!("{name}=http://{peer}")).collect();
        let mut command = Command::new("etcd");
        command.args([
            "--name",
            name,
            "--log-level",
            "error",
            "--heartbeat-interval",
            "50",
            "--election-timeout",
            "500",
        ]);
        command.arg("--data-dir").arg(directory.join(name));
        command.args(["--listen-client-urls", client, "--advertise-client-urls", client]);
        command.args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)]);
        command.args(["--initial-cluster", &cluster.join(",")]);
        command.args(flags);
        let log = fs::File::create(directory.join(format!("{name}.log"))).expect("a file");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        EtcdProcess(child.expect("etcd is there"))
    }
}

impl Drop for EtcdProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The members' ports.
pub(super) const PORTS: [u16; 8] = [8001, 8002, 8003, 8004, 8005, 8006, 8007, 8008];

/// The address of the member with this port.
pub(super) fn host(port: u16) -> String {
    let addresses = Members.addresses();
    addresses[usize::from(port) % addresses.len()].clone()
}

/// A member that takes connections while it is open.
struct Member {
    open: Arc<AtomicBool>,
    listener: Option<TcpListener>,
    port: u16,
}

/// All of it.
pub(super) struct Bed {
    machines: Vec<(Machine, Namespace)>,
    _switch: Namespace,
    directory: Directory,
    etcds: Vec<Option<EtcdProcess>>,
    gwms: Vec<Option<Daemon>>,
    /// What sets the clocks of the GWMs.
    clock: PathBuf,
    members: Vec<Member>,
    permit: Permit,
}

/// Whether the tests can be made here. In CI they must.
pub(super) fn is_possible() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "network namespaces need root");
    let tools = [("etcd", "etcd-server"), ("nft", "nftables"), ("ip", "iproute2"), ("tc", "iproute2"), ("cc", "gcc")];
    let there = tools.into_iter().all(|(program, package)| installed(program, package));
    if !root {
        eprintln!("left out: this test needs root");
    }
    root && there
}

/// A command in the namespace of the thread that calls this.
fn run(program: &str, arguments: &str) {
    let output = Command::new(program).args(arguments.split(' ')).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Bed {
    pub(super) fn new() -> Bed {
        let switch = Namespace::new();
        switch.ip("link add br0 type bridge");
        switch.ip("link set br0 up");
        let mut machines = Vec::new();
        for (number, machine) in Machine::all().into_iter().enumerate() {
            let namespace = Namespace::new();
            switch.ip(&format!("link add p{number} type veth peer name eth0 netns {}", namespace.id()));
            switch.ip(&format!("link set p{number} master br0 up"));
            for address in machine.addresses() {
                namespace.ip(&format!("addr add {address}/24 dev eth0"));
            }
            namespace.ip("link set eth0 up");
            namespace.run(|| {
                run("nft", "add table ip cut");
                run("nft", "add chain ip cut in { type filter hook input priority 0 ; }");
            });
            machines.push((machine, namespace));
        }
        let directory = Directory::new();
        let clock = directory.path().join("clock.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/process/fleet/clock.c");
        run("cc", &format!("-shared -fPIC -O1 -o {} {}", clock.display(), source.display()));
        let mut bed = Bed {
            machines,
            _switch: switch,
            directory,
            clock,
            etcds: (0..EACH).map(|_| None).collect(),
            gwms: (0..EACH).map(|_| None).collect(),
            members: Vec::new(),
            permit: Permit::take(EACH as u32),
        };
        for port in PORTS {
            let open = Arc::new(AtomicBool::new(true));
            bed.members.push(Member { open, listener: None, port });
        }
        (0..EACH).for_each(|number| bed.set_clock(number, 0));
        (0..PORTS.len()).for_each(|member| bed.open_member(member));
        (0..EACH).for_each(|number| bed.start_etcd(number));
        (0..EACH).for_each(|number| bed.start_gwm(number));
        bed
    }

    fn namespace(&self, machine: Machine) -> &Namespace {
        let found = self.machines.iter().find(|(other, _)| *other == machine);
        &found.expect("every machine has one").1
    }

    /// A way to a machine that does not borrow the bed.
    pub(super) fn entrance(&self, machine: Machine) -> Entrance {
        self.namespace(machine).entrance()
    }

    /// Calls a function on a machine.
    pub(super) fn on<T: Send>(&self, machine: Machine, function: impl FnOnce() -> T + Send) -> T {
        self.namespace(machine).run(function)
    }

    pub(super) fn start_etcd(&mut self, number: usize) {
        let peers: Vec<_> =
            (0..EACH).map(|peer| (format!("e{peer}"), format!("{}:2380", Etcd(peer).address()))).collect();
        let (directory, client) = (&self.directory.0, format!("{}:2379", Etcd(number).address()));
        let etcd = self.on(Etcd(number), || EtcdProcess::start(directory, &format!("e{number}"), &client, &peers));
        self.etcds[number] = Some(etcd);
    }

    pub(super) fn kill_etcd(&mut self, number: usize) {
        self.etcds[number] = None;
    }

    fn socket(&self, number: usize) -> PathBuf {
        // Short, because the kernel takes 107 bytes.
        std::env::temp_dir().join(format!("gwm-fleet-{}-{number}.sock", self.directory_number()))
    }

    fn directory_number(&self) -> String {
        self.directory.0.file_name().expect("a name").to_string_lossy().into_owned()
    }

    pub(super) fn start_gwm(&mut self, number: usize) {
        let etcds: Vec<_> = (0..EACH).map(|etcd| format!("{}:2379", Etcd(etcd).address())).collect();
        let (url, listen) = (format!("etcd://{}", etcds.join(",")), format!("{}:3860", Gwm(number).address()));
        let (node, state) = (format!("g{number}"), self.directory.0.join(format!("g{number}")));
        let admin = format!("unix:{}", self.socket(number).display());
        let state = state.to_str().expect("the target directory's name is UTF-8");
        let flags = [
            "--listen",
            &listen,
            "--fleet",
            &url,
            "--node",
            &node,
            "--fleet-lease",
            "2s",
            "--state",
            state,
            "--admin-listen",
            &admin,
            "--probe",
            "tcp",
            "--probe-interval",
            "100ms",
            "--probe-timeout",
            "700ms",
            "--push-window",
            "10ms",
            "--slow-start",
            "0s",
        ];
        let date = self.date(number);
        let variables = [("LD_PRELOAD", &*self.clock), ("TEST_CLOCK_FILE", &*date)];
        let gwm = self.on(Gwm(number), || Daemon::start_permitted_with(&flags, &self.permit, &variables));
        self.gwms[number] = Some(gwm);
    }

    /// The file that says how far ahead a GWM's clock is.
    fn date(&self, number: usize) -> PathBuf {
        self.directory.0.join(format!("g{number}.date"))
    }

    /// Sets a GWM's clock ahead by so many seconds, or back.
    pub(super) fn set_clock(&self, number: usize, ahead: i64) {
        let file = fs::File::options().create(true).truncate(false).write(true).open(self.date(number));
        let written = file.and_then(|file| file.write_all_at(&ahead.to_ne_bytes(), 0));
        written.expect("the target directory can be written to");
    }

    /// Ends a GWM as a crash does.
    pub(super) fn kill_gwm(&mut self, number: usize) {
        if let Some(mut gwm) = self.gwms[number].take() {
            gwm.signal(Signal::KILL);
            gwm.wait();
        }
    }

    /// The GWMs that run.
    pub(super) fn running(&self) -> Vec<usize> {
        (0..EACH).filter(|number| self.gwms[*number].is_some()).collect()
    }

    /// What a GWM says; `None` if it does not run, or does not answer with 200.
    pub(super) fn ask(&self, number: usize, path: &str) -> Option<Value> {
        self.gwms[number].as_ref()?;
        let stream = UnixStream::connect(self.socket(number)).ok()?;
        let answer = exchange(stream, request("GET", path, "", "").as_bytes());
        (answer.status == 200).then(|| answer.json())
    }

    /// Has a GWM do something.
    pub(super) fn tell(&self, number: usize, path: &str, body: &str) -> Option<Value> {
        self.gwms[number].as_ref()?;
        let stream = UnixStream::connect(self.socket(number)).ok()?;
        let headers = "Content-Type: application/json\r\n";
        let answer = exchange(stream, request("POST", path, headers, body).as_bytes());
        (answer.status == 200).then(|| answer.json())
    }

    /// All rows of a list.
    pub(super) fn list(&self, number: usize, path: &str, field: &str) -> Option<Vec<Value>> {
        let (mut rows, mut after) = (Vec::new(), String::new());
        let mark = if path.contains('?') { '&' } else { '?' };
        loop {
            let page = self.ask(number, &format!("{path}{mark}limit=1000{after}"))?;
            rows.extend(page[field].as_array()?.iter().cloned());
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return Some(rows),
            }
        }
    }

    /// Loses what `from` sends to `to`.
    pub(super) fn cut(&self, from: Machine, to: Machine) {
        for address in from.addresses() {
            self.on(to, || run("nft", &format!("add rule ip cut in ip saddr {address} drop")));
        }
    }

    /// Makes what a machine sends slow.
    pub(super) fn slow(&self, machine: Machine) {
        // netem where the kernel has it, else a bucket: 1 Mbit/s delays each kilobyte by 8 ms.
        self.on(machine, || {
            let netem = "qdisc replace dev eth0 root netem delay 60ms 20ms";
            let done = Command::new("tc").args(netem.split(' ')).output().is_ok_and(|output| output.status.success());
            if !done {
                run("tc", "qdisc replace dev eth0 root tbf rate 1mbit burst 2kb latency 2s");
            }
        });
    }

    /// Makes the network whole again.
    pub(super) fn heal(&self) {
        for (machine, _) in &self.machines {
            self.on(*machine, || {
                run("nft", "flush chain ip cut in");
                // It fails where the network is not slow.
                let _ = Command::new("tc").args(["qdisc", "del", "dev", "eth0", "root"]).output();
            });
        }
    }

    /// Starts what does not run.
    pub(super) fn start_all(&mut self) {
        for number in 0..EACH {
            if self.etcds[number].is_none() {
                self.start_etcd(number);
            }
        }
        for number in 0..EACH {
            if self.gwms[number].is_none() {
                self.start_gwm(number);
            }
        }
    }

    pub(super) fn open_member(&mut self, number: usize) {
        let port = self.members[number].port;
        let listener = self.on(Members, || {
            let mut bound = None;
            until("the member's port is free", || {
                bound = TcpListener::bind((host(port), port)).ok();
                bound.is_some()
            });
            bound.expect("it is bound")
        });
        let (taken, open) = (listener.try_clone().expect("a descriptor"), Arc::new(AtomicBool::new(true)));
        let flag = open.clone();
        thread::spawn(move || {
            // Checks only connect.
            while taken.accept().is_ok() && flag.load(Ordering::Relaxed) {}
        });
        self.members[number] = Member { open, listener: Some(listener), port };
    }

    /// Ends a member: its port refuses connections.
    pub(super) fn close_member(&mut self, number: usize) {
        let member = &mut self.members[number];
        member.open.store(false, Ordering::Relaxed);
        if let Some(listener) = member.listener.take() {
            rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).expect("it listens");
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for number in 0..EACH {
            if !thread::panicking() {
                self.kill_gwm(number);
            }
            let _ = fs::remove_file(self.socket(number));
        }
        (0..self.members.len()).for_each(|member| self.close_member(member));
    }
}
