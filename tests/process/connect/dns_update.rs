//! `gwm connect dns --update`, with a real Knot.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use super::{
    Connector, Gwm, Member,
    admin::{admin, get},
    dns::{dig, near, services},
    real::free_address,
    resolved,
    scenarios::{Real, Weights, drains, outlives},
};
use crate::harness::{TempFile, run, until};

const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// What the zone has of its own.
const ZONE: &str = "@ 60 SOA ns hostmaster 1 3600 600 86400 5\n@ 60 NS ns\nns 60 A 127.0.0.1\n\
                    mail 60 A 127.0.0.25\n_web._udp 60 SRV 0 1 53 mail\n";

/// knotd with the zone `lb.example`, until it is dropped. Its files stay when it is stopped and started.
struct Knot {
    child: Option<Child>,
    address: SocketAddr,
    directory: PathBuf,
}

impl Knot {
    /// The key `gwm` may update names that `rule` (of Knot's `acl` section) allows.
    fn start(rule: &str) -> Knot {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("knot-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&directory).expect("the target directory can be written to");
        let address: SocketAddr = free_address();
        fs::write(directory.join("lb.example.zone"), ZONE).expect("the target directory can be written to");
        let at = directory.display();
        let configuration = format!(
            "server:\n    listen: 127.0.0.1@{port}\n    rundir: {at}\ndatabase:\n    storage: {at}\n\
             key:\n  - id: gwm\n    algorithm: hmac-sha256\n    secret: {SECRET}\n\
             acl:\n  - id: gwm\n    key: gwm\n    action: update\n{rule}\
             zone:\n  - domain: lb.example\n    storage: {at}\n    file: lb.example.zone\n    acl: gwm\n    \
             zonefile-sync: 0\n    zonefile-load: whole\n    journal-content: none\n",
            port = address.port()
        );
        fs::write(directory.join("knot.conf"), configuration).expect("the target directory can be written to");
        let mut knot = Knot { child: None, address, directory };
        knot.run();
        knot
    }

    fn run(&mut self) {
        let child = Command::new("knotd")
            .arg("-c")
            .arg(self.directory.join("knot.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.expect("knotd runs (Debian package knot)"));
        until("knotd answers", || dig(self.address, &["lb.example", "SOA"]).contains("status: NOERROR"));
    }

    /// Ends it as SIGKILL does.
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it runs");
            child.wait().expect("it was killed");
        }
    }

    fn short(&self, name: &str, rtype: &str) -> String {
        dig(self.address, &["+short", "+tcp", name, rtype])
    }

    /// Waits for the ports and weights of `_web._tcp`.
    fn shows(&self, wanted: &[(u16, u16)]) {
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        until(&format!("{wanted:?} in Knot"), || near(&services(&self.short("_web._tcp.lb.example", "SRV")), &wanted));
    }

    fn serial(&self) -> String {
        self.short("lb.example", "SOA").split_whitespace().nth(2).expect("a serial number").to_owned()
    }

    /// An update by hand, as an operator would make it.
    fn by_hand(&self, commands: &str) {
        let script = format!("server 127.0.0.1 {}\nzone lb.example\n{commands}\nsend\n", self.address.port());
        let file = TempFile::new("nsupdate", script);
        let key = format!("hmac-sha256:gwm:{SECRET}");
        let output = Command::new("nsupdate").args(["-v", "-y", &key, file.path()]).output();
        let output = output.expect("nsupdate runs (Debian package bind9-dnsutils)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Knot {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn key_file() -> TempFile {
    let text = format!("key \"gwm\" {{\n\talgorithm hmac-sha256;\n\tsecret \"{SECRET}\";\n}};\n");
    TempFile::new("gwm.key", text)
}

fn start(gwm: &Gwm, knot: &Knot, key: &TempFile, group: &str, flags: &[&str]) -> Connector {
    let (gwm, server) = (gwm.address(), knot.address.to_string());
    let first = ["--gwm", &gwm, "dns", "--zone", "lb.example", "--update", &server, "--group", group];
    Connector::start(&[&first[..], &["--tsig-key", key.path()], flags].concat())
}

#[test]
fn another_servers_zone_follows_the_weights_and_heals() {
    let mut knot = Knot::start("");
    let (one, two) = (Member::start().address, Member::start().address);
    let gwm = Gwm::start(&[(one, Some(40)), (two, Some(20))]);
    let key = key_file();
    let group = format!("web={one},{two}");
    let connector = start(&gwm, &knot, &key, &group, &["--address", "www=web", "--service", "_web._tcp=web"]);
    knot.shows(&[(one.port(), 65535), (two.port(), 32768)]);
    until("addresses", || knot.short("www.lb.example", "A") == "127.0.0.1\n");
    assert_eq!(knot.short("ip-127-0-0-1.lb.example", "A"), "127.0.0.1\n");
    gwm.set(&[(one, Some(10)), (two, Some(40))]);
    knot.shows(&[(one.port(), 16384), (two.port(), 65535)]);
    gwm.set(&[(one, None), (two, Some(40))]);
    knot.shows(&[(two.port(), 65535)]);

    // Nothing is sent without need, and what others have stays.
    let serial = knot.serial();
    let looks = connector.log().lines().count();
    gwm.set(&[(one, None), (two, Some(39))]);
    until("the push was looked at, or a look passed", || {
        connector.log().lines().count() > looks || knot.serial() == serial
    });
    assert_eq!(knot.serial(), serial, "the same records need no update");
    assert_eq!(knot.short("mail.lb.example", "A"), "127.0.0.25\n");
    assert_eq!(services(&knot.short("_web._udp.lb.example", "SRV")), [(53, 1)]);

    // Changes by others heal: a record, all records, the host, the server's whole memory.
    knot.by_hand("update add _web._tcp.lb.example 5 SRV 0 7 7 mail.lb.example.");
    knot.shows(&[(two.port(), 65535)]);
    knot.by_hand("update delete _web._tcp.lb.example SRV");
    knot.shows(&[(two.port(), 65535)]);
    knot.by_hand("update delete ip-127-0-0-1.lb.example A");
    until("the host's address", || knot.short("ip-127-0-0-1.lb.example", "A") == "127.0.0.1\n");
    knot.kill();
    let zone = fs::read_to_string(knot.directory.join("lb.example.zone")).expect("Knot keeps its zone there");
    let without: String = zone.lines().filter(|line| !line.contains("_tcp")).map(|line| format!("{line}\n")).collect();
    fs::write(knot.directory.join("lb.example.zone"), without).expect("it can be written");
    connector.wait_for_log(&["WARN", "the DNS server 127.0.0.1:", "Connection refused"]);
    knot.run();
    knot.shows(&[(two.port(), 65535)]);
    connector.wait_for_log(&["INFO", "the load balancer answers again"]);

    // Killed amid updates, and started again.
    for weight in 1..20 {
        gwm.set(&[(one, Some(weight)), (two, Some(20))]);
    }
    connector.kill();
    gwm.set(&[(one, Some(20)), (two, Some(20))]);
    let connector = start(&gwm, &knot, &key, &group, &["--on-exit", "restore"]);
    knot.shows(&[(one.port(), 65535), (two.port(), 65535)]);
    gwm.set(&[(one, None), (two, None)]);
    knot.shows(&[]);
    assert!(connector.stop().success());
    knot.shows(&[(one.port(), 65535), (two.port(), 65535)]);
}

#[test]
fn hosts_that_left_lose_their_records_later() {
    let knot = Knot::start("");
    let one = Member::start().address;
    let other: SocketAddr = ([127, 0, 0, 2], one.port()).into();
    let daemon = crate::harness::Daemon::start(&["--push-window", "10ms"]);
    let key = key_file();
    let (gwm, server) = (daemon.address().to_string(), knot.address.to_string());
    let _connector = Connector::start(&[
        "--gwm",
        &gwm,
        "--trust",
        "dns",
        "--zone",
        "lb.example",
        "--update",
        &server,
        "--group",
        "web",
        "--tsig-key",
        key.path(),
        "--ttl",
        "0s",
    ]);
    let own = |port: &SocketAddr| port.to_string();
    let mut member = daemon.connect();
    until("the connector has registered the group", || {
        let code = member.register(crate::harness::MEMBER, "LB1", "web", &[&own(&one), &own(&other)]);
        code == gwm::sasp::ReturnCode::SUCCESSFUL
    });
    knot.shows(&[(one.port(), 65535), (one.port(), 65535)]);
    assert_eq!(knot.short("ip-127-0-0-2.lb.example", "A"), "127.0.0.2\n");
    member.deregister(crate::harness::MEMBER, "LB1", "web", &[&own(&other)]);
    knot.shows(&[(one.port(), 65535)]);
    until("the host has left", || knot.short("ip-127-0-0-2.lb.example", "A").is_empty());
    assert_eq!(knot.short("ip-127-0-0-1.lb.example", "A"), "127.0.0.1\n");
}

#[test]
fn a_server_that_refuses_is_told_and_asked_again() {
    let knot = Knot::start("    update-owner: name\n    update-owner-match: equal\n    update-owner-name: [other]\n");
    let one = Member::start().address;
    let gwm = Gwm::start(&[(one, Some(40))]);
    let group = format!("web={one}");
    let right = key_file();
    let connector = start(&gwm, &knot, &right, &group, &[]);
    connector.wait_for_log(&["WARN", "DNS server 127.0.0.1:", "it does not know the key gwm, or its rules"]);

    let lines = [
        ("hmac-sha256:other:AAEC", "it does not know the key other,"),
        ("hmac-sha256:gwm:AAECAwQFBgcICQoLDA0ODw==", "its key gwm has another secret"),
        ("hmac-sha512:gwm:AAECAwQFBgcICQoLDA0ODw==", "it does not know the key gwm, or its rules"),
    ];
    for (line, says) in lines {
        let key = TempFile::new("other.key", line);
        let connector = start(&gwm, &knot, &key, &group, &["--uid", "LB2"]);
        connector.wait_for_log(&["WARN", "DNS server 127.0.0.1:", says]);
        assert_eq!(connector.log().matches(says).count(), 1, "told once");
    }
    assert_eq!(knot.short("_web._tcp.lb.example", "SRV"), "");

    // A zone that the server does not have, and no key at all.
    let (address, server) = (gwm.address(), knot.address.to_string());
    let flags =
        ["--uid", "LB3", "--gwm", &address, "dns", "--zone", "none.example", "--update", &server, "--group", &group];
    Connector::start(&flags).wait_for_log(&["WARN", "none.example SOA: the server says REFUSED"]);
    let flags =
        ["--uid", "LB3", "--gwm", &address, "dns", "--zone", "lb.example", "--update", &server, "--group", &group];
    Connector::start(&flags).wait_for_log(&["WARN", "the DNS server", "says NOTAUTH"]);
}

/// Knot with a hundred names.
struct Updated {
    knot: Knot,
    key: TempFile,
    members: [SocketAddr; 2],
}

impl Real for Updated {
    fn connect(&self, gwm: &str) -> Connector {
        let (server, groups) = (self.knot.address.to_string(), resolved::groups(self.members));
        let mut flags = vec!["--gwm", gwm, "dns", "--zone", "lb.example", "--update", &server];
        flags.extend(["--tsig-key", self.key.path()]);
        groups.iter().for_each(|group| flags.extend(["--group", group]));
        Connector::start(&flags)
    }

    fn has(&mut self, (first, second): Weights) -> bool {
        let names: Vec<String> = resolved::names().map(|name| format!("_{name}._tcp.lb.example")).collect();
        let queries = names.iter().flat_map(|name| [name, "SRV"]);
        let shown =
            services(&dig(self.knot.address, &["+short", "+tcp"].into_iter().chain(queries).collect::<Vec<_>>()));
        let scaled = |weight: u16| u16::try_from(u32::from(weight) * 65535 / u32::from(first.max(second))).unwrap();
        let of = |at: usize, weight| (self.members[at].port(), scaled(weight));
        let mut wanted: Vec<_> = (0..100).flat_map(|_| [of(0, first), of(1, second)]).collect();
        wanted.sort_unstable();
        near(&shown, &wanted)
    }

    /// Its zone is the first one again.
    fn restart(&mut self) {
        self.knot.kill();
        fs::write(self.knot.directory.join("lb.example.zone"), ZONE).expect("it can be written");
        self.knot.run();
    }
}

#[test]
fn a_hundred_groups_in_another_servers_zone_outlive_all() {
    let members = [(); 2].map(|()| Member::start().address);
    outlives(&mut Updated { knot: Knot::start(""), key: key_file(), members }, members);
}

#[test]
fn no_request_through_haproxy_fails_while_a_member_drains_and_leaves() {
    let knot = Knot::start("");
    let members = [(); 3].map(|()| Member::start());
    let gwm = Gwm::start(&members.each_ref().map(|member| (member.address, Some(20))));
    let list = members.each_ref().map(|member| member.address.to_string()).join(",");
    let key = key_file();
    let _connector = start(&gwm, &knot, &key, &format!("web={list}"), &["--ttl", "0s"]);
    let proxy = resolved::start(knot.address, ["web".to_owned()].into_iter());
    until("HAProxy has its servers", || resolved::ask(&proxy).is_ok());
    drains(|| resolved::ask(&proxy), &gwm, &members);
}

#[test]
fn a_dry_run_changes_no_zone() {
    let knot = Knot::start("");
    let one = Member::start().address;
    let gwm = Gwm::start(&[(one, Some(40))]);
    let (key, group, serial) = (key_file(), format!("web={one}"), knot.serial());
    let connector = start(&gwm, &knot, &key, &group, &["--dry-run", "--admin-listen", "127.0.0.1:0"]);
    until("the step is printed", || connector.output().contains("would do: _web._tcp.lb.example SRV: 1 records"));
    assert_eq!(knot.serial(), serial);
    // Such a server tells nothing of members, which is said.
    let pools = get(&admin(&connector), "/api/v1/pools").json();
    assert!(pools["nothing_to_observe"].as_str().is_some_and(|why| why.contains("does not tell who asks")), "{pools}");
    let server = knot.address.to_string();
    let check =
        ["connect", "--uid", "L", "--check", "dns", "--zone", "lb.example", "--update", &server, "--group", &group];
    let output = run(&check);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("\nnothing to observe: a DNS server that takes updates"),
        "{output:?}"
    );
}
