//! Every workload, small, against the real daemon: so that none of them rots. Each checks every byte that it
//! receives; what is checked here is that it found nothing wrong and counted what was to be counted.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// Runs the load generator, and gives its JSON.
fn run(line: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_gwm-loadgen"))
        .args(line.split_whitespace())
        .args(["--json", "-"])
        .output()
        .expect("the load generator starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "gwm-loadgen {line}: {}\n{stderr}", output.status);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("gwm-loadgen {line}: {error}\n{stderr}"))
}

/// The numbers of one side's first run.
fn metrics(report: &Value, side: &str) -> HashMap<String, f64> {
    let run = report["runs"].as_array().unwrap().iter().find(|run| run["side"] == side).expect("a run of this side");
    run["metrics"].as_object().unwrap().iter().map(|(name, value)| (name.clone(), value.as_f64().unwrap())).collect()
}

fn temporary(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("gwm-loadgen-test-{}-{name}", std::process::id()))
}

#[test]
fn fanout_by_the_operator_beside_the_floor() {
    let report = run("fanout --lbs 40 --groups 2 --members 10 --ticks 5 --warmup 1 --floor --pairs 2");
    for side in ["server", "floor"] {
        let metrics = metrics(&report, side);
        assert_eq!(metrics["messages"], 200.0, "{side}");
        assert!(metrics["CPU per message"] > 0.0 && metrics["change to receipt p50"] > 0.0, "{side}");
    }
    assert_eq!(metrics(&report, "server")["bytes per message"], metrics(&report, "floor")["bytes per message"]);
    assert!(report["summary"].as_array().unwrap().iter().any(|row| {
        row["name"] == "CPU per message"
            && row["over_floor"]["server"]["median"].as_f64().is_some_and(|ratio| ratio > 0.0)
    }));
}

/// Both sides check every byte, with other members for each load balancer: one body for all would end the run.
#[test]
fn fanout_of_members_of_their_own_beside_the_floor() {
    let line = "fanout --lbs 40 --groups 2 --members 10 --own --ticks 2 --warmup 1 --floor --push-window 1s";
    for (flags, bytes) in [("", 1.0), (" --no-change --share 10 --threads 2", 0.5)] {
        let report = run(&format!("{line}{flags}"));
        assert_eq!((&report["parameters"]["own"], &report["parameters"]["farms"]), (&true.into(), &40.into()));
        let (server, floor) = (metrics(&report, "server"), metrics(&report, "floor"));
        for side in [&server, &floor] {
            assert_eq!(side["messages"], 80.0, "{flags}: {side:?}");
            assert!(side["CPU per message"] > 0.0 && side["change to receipt p50"] > 0.0, "{flags}: {side:?}");
            assert!(side["bytes per message"] <= 20.0 * 40.0 * bytes, "{flags}: {side:?}");
        }
        assert_eq!(server["bytes per message"], floor["bytes per message"]);
        assert!(server["CPU of noting the changes per message"] > 0.0, "{server:?}");
        assert!(!floor.contains_key("CPU of noting the changes per message"), "{floor:?}");
    }
}

/// The ratio over plain of a number of the TLS runs.
fn over_plain(report: &Value, name: &str) -> f64 {
    let row = report["summary"].as_array().unwrap().iter().find(|row| row["name"] == name).expect(name);
    row["over_server"]["tls"]["median"].as_f64().expect(name)
}

#[test]
fn over_tls_beside_plain() {
    for version in ["1.3", "1.2"] {
        let report = run(&format!("fanout --lbs 40 --members 100 --ticks 3 --floor --tls --tls-version {version}"));
        for side in ["tls", "server", "floor"] {
            assert_eq!(metrics(&report, side)["messages"], 120.0, "{side}, {version}");
        }
        assert_eq!(report["parameters"]["tls"], version);
        assert!(over_plain(&report, "CPU per message") > 0.0);
    }
    let report = run("idle --lbs 300 --members 2 --duration 10ms --tls");
    let connection = |side| metrics(&report, side)["anonymous memory per connection"];
    assert!(connection("tls") > connection("server"), "{} {}", connection("tls"), connection("server"));
    let changes = |line: &str| metrics(&run(line), "tls")["changes"];
    assert!(
        changes("propagate --lbs 20 --members 5 --rate 500 --duration 200ms --warmup 50ms --tls --threads 2") > 0.0
    );
}

#[test]
fn reconnect_with_sessions_and_without() {
    for (flags, resumed) in [("", 100.0), ("--anew", 0.0), ("--tls-version 1.2", 100.0)] {
        let report = run(&format!("reconnect --lbs 100 --members 10 --tls --threads 2 {flags}"));
        let tls = metrics(&report, "tls");
        assert_eq!((tls["LBs served again"], tls["sessions resumed"]), (100.0, resumed), "{flags}: {tls:?}");
        assert!(tls["cut to bound again p99"] <= tls["until all are served again"], "{tls:?}");
        assert_eq!(metrics(&report, "server")["LBs served again"], 100.0);
    }
}

#[test]
fn a_takeover_refuses_nobody() {
    let report = run("takeover --lbs 60 --members 5 --threads 2");
    let seen = metrics(&report, "server");
    assert_eq!((seen["LBs served again"], seen["attempts refused"]), (60.0, 0.0), "{seen:?}");
    assert!(seen["attempts to connect"] > 0.0, "{seen:?}");
}

#[test]
fn handshakes_of_a_stranger() {
    for flags in ["--kind half --open 20", "--kind whole --threads 2", "--kind half --flood-rate 200"] {
        let report = run(&format!("handshakes --lbs 4 --members 5 --duration 500ms --newcomers 50 --tls {flags}"));
        for side in ["tls", "server"] {
            let seen = metrics(&report, side);
            assert!(seen["flood: connections per second"] > 0.0, "{flags}, {side}: {seen:?}");
            for when in ["calm", "flooded"] {
                assert!(seen[&format!("{when}: request to reply p99")] > 0.0, "{flags}, {side}: {seen:?}");
                assert_eq!(seen[&format!("{when}: newcomers turned away")], 0.0, "{flags}, {side}: {seen:?}");
            }
        }
    }
}

#[test]
fn fanout_of_deltas_by_members() {
    let report = run("fanout --lbs 30 --members 50 --share 4 --no-change --change-by member --ticks 4 --threads 2");
    let metrics = metrics(&report, "server");
    // Two members change, one after the other: one message tells both, or two messages one each.
    assert!((120.0..=240.0).contains(&metrics["messages"]), "{metrics:?}");
    assert_eq!(metrics["Set Member State requests"], 4.0 * 2.0 * 2.0, "two members speak to each seat's");
}

#[test]
fn fanout_by_agents() {
    let report = run("fanout --lbs 20 --members 30 --change-by agent --agent-interval 50ms --ticks 3 --threads 2");
    let all = metrics(&report, "server");
    // Agents are asked one after the other, so a tick makes up to a message for each member.
    assert!((60.0..=1800.0).contains(&all["messages"]), "{all:?}");
    let report =
        run("fanout --lbs 20 --groups 2 --members 20 --farms 2 --change-by agent --agent-interval 50ms --ticks 3 \
         --share 10 --no-change");
    let some = metrics(&report, "server");
    assert!((60.0..=240.0).contains(&some["messages"]), "four of each load balancer's members change: {some:?}");
}

#[test]
fn watch_members_whose_ports_close_and_open() {
    let line = "watch --lbs 3 --endpoints 300 --ports 3 --interval 300ms --phases";
    let once = metrics(&run(&format!("{line} 4")), "server");
    // A hundred members in each of four phases go down, and in each of the last three a hundred come up.
    assert_eq!(once["changes of state"], 700.0);
    // Each is told in a message of its own, or together with others.
    assert!((6.0..=700.0).contains(&once["messages"]) && once["entries in messages"] == 700.0, "{once:?}");
    assert!(once["checks answered"] > 0.0 && once["CPU per check"] > 0.0 && once["most file descriptors"] > 0.0);
    assert!(once.contains_key("lateness of checks p99") && once.contains_key("check to receipt of up p99"));
    // Before it goes down, what fails its checks has less weight.
    let slowly = metrics(&run(&format!("{line} 2 --fall 3 --rise 2 --threads 2 --push-window 20ms")), "server");
    assert_eq!(slowly["changes of state"], 300.0);
    assert!(slowly["entries in messages"] > 300.0, "{slowly:?}");
}

#[test]
fn connectors_command_played_load_balancers() {
    for (kind, flags, receivers) in [
        ("haproxy", "--members 20", 1.0),
        ("pen", "--members 10 --share 10", 1.0),
        ("dns", "--members 10 --duration 200ms", 1.0),
        ("xds", "--members 20 --streams 30", 30.0),
    ] {
        let report = run(&format!("connect {kind} --ticks 5 {flags}"));
        let seen = metrics(&report, "server");
        assert_eq!(seen["updates"], 5.0 * receivers, "{kind}: {seen:?}");
        assert!(seen["CPU per update"] > 0.0 && seen["change to use p99"] > 0.0, "{kind}: {seen:?}");
        assert_eq!(seen.get("CPU per query").is_some_and(|cpu| *cpu > 0.0), kind == "dns", "{kind}: {seen:?}");
    }
}

#[test]
fn fanout_in_an_open_loop_with_farms() {
    let report = run("fanout --lbs 20 --members 5 --farms 4 --ticks 20 --rate 200 --floor");
    let messages = metrics(&report, "server")["messages"];
    assert!((20.0..=400.0).contains(&messages), "{messages}: ticks may merge, all arrive");
}

#[test]
fn propagate_beside_the_floor() {
    let line = "propagate --lbs 20 --members 5 --rate 500 --senders 4 --duration 300ms --warmup 50ms --floor";
    for line in [line.to_owned(), format!("{line} --no-change --threads 2")] {
        let report = run(&line);
        for side in ["server", "floor"] {
            let metrics = metrics(&report, side);
            assert!(metrics["changes"] > 0.0 && metrics["change due to receipt p99"] > 0.0, "{line}: {metrics:?}");
        }
    }
}

#[test]
fn poll_beside_the_floor() {
    for what in ["", "--no-change", "--rate 500", "--request set-member-state"] {
        let report =
            run(&format!("poll --lbs 20 --groups 2 --members 5 --duration 200ms --warmup 50ms --floor {what}"));
        for side in ["server", "floor"] {
            let metrics = metrics(&report, side);
            assert!(metrics["requests"] > 0.0 && metrics["request to reply p50"] > 0.0, "{what}: {metrics:?}");
        }
    }
}

#[test]
fn register_beside_the_floor_and_the_histogram_log() {
    let log = temporary("register.hdr");
    let report = run(&format!("register --lbs 50 --groups 3 --members 4 --floor --hdr-out {}", log.display()));
    let metrics = metrics(&report, "server");
    assert_eq!(metrics["memberships"], 600.0);
    assert!(metrics["until all are acknowledged"] <= metrics["until all weights are right"]);
    let text = fs::read_to_string(&log).unwrap();
    fs::remove_file(&log).unwrap();
    let intervals: Vec<&str> = text.lines().filter(|line| line.starts_with("Tag=")).collect();
    assert!(intervals.iter().any(|line| line.starts_with("Tag=server:start_to_right_weights,")), "{text}");
    assert!(intervals.iter().any(|line| line.starts_with("Tag=floor:")), "{text}");
}

#[test]
fn a_server_that_is_killed_has_what_it_acknowledged() {
    let report = run("churn --lbs 20 --groups 3 --members 6 --duration 1s --kills 3 --threads 2");
    let seen = metrics(&report, "server");
    assert_eq!((seen["kills"], seen["LBs that found what was acknowledged"]), (3.0, 60.0), "{seen:?}");
    assert_eq!(seen["LBs with right tables in the end"], 20.0, "{seen:?}");
}

#[test]
fn churn_ends_with_right_tables() {
    for flags in ["--push-window 0s", "--push-window 5ms", "--push-window 5ms --no-change"] {
        let line = "churn --lbs 20 --groups 3 --members 6 --duration 1s --lb-crashes 20 --member-crashes 20";
        let mut missing = vec!["members came or went", "states set", "LBs crashed", "LBs restarted", "LBs taken over"];
        // On a machine that is busy with other things a second may be too short for the rare ones.
        for seed in 1..=10 {
            let line = format!("{line} --lb-restarts 20 --takeovers 20 {flags} --seed {seed}");
            let metrics = metrics(&run(&line), "server");
            assert_eq!(metrics["LBs with right tables in the end"], 20.0);
            missing.retain(|what| metrics[*what] == 0.0);
            if missing.is_empty() {
                break;
            }
        }
        assert!(missing.is_empty(), "never in ten runs: {missing:?}");
    }
}

#[test]
fn failover_finds_what_was_acknowledged() {
    // Two names of one server: load balancers go from one to the other.
    let server = Running::start(&[]);
    let gwm = format!("{},{}", server.address, server.address.replace("127.0.0.1", "localhost"));
    let line = format!("failover --gwm {gwm} --lbs 4 --changes 200 --moves 20 --duration 1s");
    let metrics = metrics(&run(&line), "server");
    assert_eq!(metrics["LBs with all that was acknowledged in the end"], 4.0);
    assert!(metrics["changes acknowledged"] > 4.0 && metrics["moves"] > 0.0, "{metrics:?}");
    // It starts one itself, too.
    run("failover --lbs 2 --duration 100ms");
}

#[test]
fn a_gwm_joins_a_fleet() {
    if !installed("etcd") {
        eprintln!("left out: etcd is not there (Debian package etcd-server)");
        return;
    }
    let (client, peer) = (free(), free());
    let directory = temporary("etcd");
    let url = |address: &str| format!("http://{address}");
    let mut etcd = Command::new("etcd");
    etcd.args(["--name", "e", "--log-level", "error", "--unsafe-no-fsync"]).arg("--data-dir").arg(&directory);
    etcd.args(["--listen-client-urls", &url(&client), "--advertise-client-urls", &url(&client)]);
    etcd.args(["--listen-peer-urls", &url(&peer), "--initial-advertise-peer-urls", &url(&peer)]);
    etcd.args(["--initial-cluster", &format!("e=http://{peer}")]);
    let mut etcd = Other(etcd.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("etcd is there"));
    let deadline = Instant::now() + Duration::from_secs(30);
    while std::net::TcpStream::connect(&client).is_err() {
        assert!(Instant::now() < deadline && etcd.0.try_wait().unwrap().is_none(), "etcd takes connections");
        std::thread::yield_now();
    }
    let report = run(&format!("sync --fleet etcd://{client} --lbs 20 --groups 2 --members 5 --farms 20"));
    let metrics = metrics(&report, "server");
    assert_eq!(metrics["memberships"], 200.0);
    assert!(metrics["start to all weights"] >= metrics["start to listening"], "{metrics:?}");
    drop(etcd);
    let _ = fs::remove_dir_all(directory);
}

/// A free address.
fn free() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").to_string()
}

/// Another process, killed when dropped.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn all_at_the_same_time() {
    let metrics = metrics(&run("mixed --lbs 10 --members 5 --duration 1s"), "server");
    for what in ["fanout by the operator: messages", "poll: requests", "propagate: changes", "churn: pushes checked"] {
        assert!(metrics[what] > 0.0, "{what}: {metrics:?}");
    }
}

#[test]
fn stalled_tells_memory() {
    let metrics = metrics(&run("stalled --lbs 20 --members 5 --ticks 3"), "server");
    assert!(metrics.contains_key("growth of anonymous memory per LB"), "{metrics:?}");
}

#[test]
fn idle_tells_memory() {
    let metrics = metrics(&run("idle --lbs 50 --members 20 --duration 100ms"), "server");
    assert!(metrics["memory, resident"] > metrics["memory, anonymous"]);
    assert!(metrics.contains_key("anonymous memory per membership"));
}

#[test]
fn agent_tells_memory_and_cpu() {
    for asked in ["", "--asked"] {
        let metrics = metrics(&run(&format!("agent {asked} --settle 10ms --duration 300ms")), "server");
        assert!(metrics["memory, resident"] > metrics["memory, anonymous"]);
        assert!(metrics.contains_key("CPU in a second, gwm-check-1"), "{metrics:?}");
    }
}

/// Each pair is a run under the load, and the same without an admin side.
#[test]
fn fanout_under_load_of_the_admin_side() {
    let report = run("fanout --lbs 20 --members 10 --ticks 5 --warmup 1 --admin-load --pairs 2 --floor");
    let sides: Vec<&str> = report["runs"].as_array().unwrap().iter().map(|run| run["side"].as_str().unwrap()).collect();
    assert_eq!(sides, ["admin", "server", "floor", "admin", "server", "floor"]);
    let (loaded, alone) = (metrics(&report, "admin"), metrics(&report, "server"));
    assert_eq!((loaded["messages"], alone["messages"]), (100.0, 100.0));
    assert!(loaded["admin side: pages listed"] > 0.0 && loaded["admin side: bytes listed"] > 100.0, "{loaded:?}");
    assert!(loaded["admin side: bytes of events, all streams"] > 0.0, "each tick changes endpoints: {loaded:?}");
    assert!(!alone.contains_key("admin side: pages listed"), "{alone:?}");
    for name in ["CPU per message", "change to receipt p99"] {
        let row = report["summary"].as_array().unwrap().iter().find(|row| row["name"] == name).unwrap();
        assert!(row["over_server"]["admin"]["median"].as_f64().is_some_and(|ratio| ratio > 0.0), "{row}");
    }
}

#[test]
fn fanout_beside_agent_checks() {
    let report = run("fanout --lbs 20 --members 10 --ticks 5 --warmup 1 --rate 20 --agent-checks 500");
    let (loaded, alone) = (metrics(&report, "agent-checks"), metrics(&report, "server"));
    assert_eq!((loaded["messages"], alone["messages"]), (100.0, 100.0));
    assert!(loaded["agent-checks answered"] > 0.0 && loaded["agent-check p99"] > 0.0, "{loaded:?}");
    assert!(!alone.contains_key("agent-checks answered"), "{alone:?}");
}

#[test]
fn the_floor_alone() {
    let report = run("floor fanout --lbs 10 --members 3 --ticks 2");
    assert_eq!(report["runs"].as_array().unwrap().len(), 1);
    assert_eq!(metrics(&report, "floor")["messages"], 20.0);
}

/// Whether a program is where the load generator looks for it.
fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]);
    folders.into_iter().any(|folder| folder.join(program).is_file())
}

/// A peer does what the GWM does, byte for byte; one that is not installed is named with its package.
#[test]
fn peers_as_far_as_installed() {
    let contests = [
        ("nats-server", "peers fanout --peers nats --lbs 30 --members 10 --ticks 4 --threads 2 --pairs 2"),
        ("redis-server", "peers fanout --peers redis --lbs 30 --members 10 --ticks 4 --share 20 --no-change --floor"),
        ("redis-server", "peers poll --lbs 20 --members 10 --requests 30 --warmup 3 --threads 2 --floor"),
        ("redis-server", "peers state --lbs 20 --members 10 --requests 30 --warmup 3 --floor"),
    ];
    for (program, line) in contests {
        if !installed(program) {
            let output =
                Command::new(env!("CARGO_BIN_EXE_gwm-loadgen")).args(line.split_whitespace()).output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            let peer = program.trim_end_matches("-server");
            let expected = if line.contains(peer) { format!("apt-get install {program}") } else { "no peer".into() };
            assert!(!output.status.success() && stderr.contains(&expected), "{line}: {stderr}");
            continue;
        }
        let report = run(line);
        let (own, other) = (metrics(&report, "server"), metrics(&report, program));
        let (per, count) = if line.contains("fanout") { ("message", 120.0) } else { ("request", 600.0) };
        for side in [&own, &other] {
            assert!(side[&format!("CPU per {per}")] > 0.0, "{line}: {side:?}");
            assert!(side[&format!("{per}s")] <= count && side[&format!("{per}s")] > 0.0, "{line}: {side:?}");
        }
        if per == "message" {
            assert_eq!((own["messages"], other["messages"]), (count, count), "{line}");
            assert_eq!(own["bytes per message"], other["bytes per message"], "{line}");
        }
        assert!(report["summary"].as_array().unwrap().iter().any(|row| {
            row["name"] == format!("CPU per {per}").as_str()
                && row["over_server"][program]["median"].as_f64().is_some_and(|ratio| ratio > 0.0)
        }));
    }
}

#[test]
fn plots_are_drawn_from_results() {
    let files = [temporary("10.json"), temporary("20.json")];
    for (file, lbs) in files.iter().zip([10, 20]) {
        let report = run(&format!("fanout --lbs {lbs} --members 3 --ticks 2 --floor"));
        fs::write(file, report.to_string()).unwrap();
    }
    let of = ["--metric", "CPU per message"];
    let pictures = [
        (&of[..], &[][..], ["\">gwm<", "\">floor<"]),
        (&of, &["--over", "lbs"], ["\">gwm<", ">20<"]),
        (&of, &["--ratio", "--bound", "1.2,1.3"], [">gwm ÷ floor<", "target: at most"]),
        (&["--latency", "change to receipt"], &["--sides", "floor"], ["\">floor<", ">50 %<"]),
    ];
    for (what, how, parts) in pictures {
        let svg = temporary("plot.svg");
        let output = Command::new(env!("CARGO_BIN_EXE_gwm-loadgen"))
            .args(["plot", "--out"])
            .arg(&svg)
            .args(what)
            .args(how)
            .args(&files)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = fs::read_to_string(&svg).unwrap();
        assert!(text.starts_with("<svg") && parts.iter().all(|part| text.contains(part)), "{how:?}: {text}");
        fs::remove_file(&svg).unwrap();
    }
    files.iter().for_each(|file| fs::remove_file(file).unwrap());
}

#[test]
fn what_is_wrong_is_said() {
    let fails = |line: &str, status: i32, part: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_gwm-loadgen")).args(line.split_whitespace()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{line}: {stderr}");
        assert!(stderr.contains(part), "{line}: {stderr}");
    };
    fails("fanout --spawn false", 1, "ended before it said where it listens");
    fails("fanout --share 0", 2, "not above 0");
    fails("watch --lbs 4 --ports 3 --endpoints 11", 1, "more --endpoints");
    fails("watch --connect 127.0.0.1:1", 1, "needs --spawn");
    fails("connect haproxy --connect 127.0.0.1:1", 1, "starts the server itself");
    fails("connect haproxy --share 0", 2, "not above 0");
    fails("fanout --change-by agent --rate 5", 1, "no --rate");
    fails("fanout --tls --connect 127.0.0.1:1", 2, "cannot be used with");
    fails("fanout --own --change-by member", 1, "by the operator only");
    fails("fanout --own --connect 127.0.0.1:1", 2, "cannot be used with");
    fails("fanout --own --lbs 40 --members 10 --push-window 1us", 1, "a longer --push-window");
    fails("fanout --own --farms 2", 2, "cannot be used with");
    fails("fanout --own --lbs 1000000 --members 100", 1, "at most 16");
    fails("floor fanout --tls", 1, "speaks no TLS");
    fails("handshakes --kind most", 2, "half");
    fails("reconnect --anew", 2, "--tls");
    fails("fanout --spawn x --connect 127.0.0.1:1", 2, "cannot be used with");
    fails("register --lbs 1 --members 1 --connect 127.0.0.1:1", 1, "refused");
}

/// A `gwm serve` that is not the load generator's; killed when dropped.
struct Running {
    server: Child,
    address: String,
}

impl Running {
    fn start(flags: &[&str]) -> Running {
        let mut server = Command::new(Path::new(env!("CARGO_BIN_EXE_gwm-loadgen")).with_file_name("gwm"))
            .args(["serve", "--listen", "127.0.0.1:0", "--push-window", "0s", "--log-level", "warn", "--probe", "off"])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .expect("gwm is built beside the load generator");
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
        let line = lines.next().expect("the server says where it listens").unwrap();
        let address = line.split_whitespace().find(|word| word.starts_with("127.0.0.1:")).expect(&line).to_owned();
        Running { server, address }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

/// The load balancers leave nothing behind: what comes after them finds the server as they did.
#[test]
fn a_server_that_runs_is_used_again_and_again() {
    let server = Running::start(&["--max-load-balancers", "20", "--max-memberships", "200"]);
    let connect = format!("--connect {} --lbs 20 --members 10", server.address);
    for line in [
        "churn --duration 200ms",
        "poll --duration 100ms --warmup 0s",
        "fanout --change-by member --ticks 3",
        "poll --no-change --duration 100ms",
    ] {
        let metrics = metrics(&run(&format!("{line} {connect}")), "server");
        assert!(!metrics.contains_key("CPU"), "nobody said whose: {metrics:?}");
        assert!(
            ["requests", "messages", "pushes checked"].iter().any(|count| metrics.get(*count) > Some(&0.0)),
            "{metrics:?}"
        );
    }
}

#[test]
fn the_members_file_of_a_server_that_runs() {
    let file = temporary("members.toml");
    fs::write(&file, "").unwrap();
    let server = Running::start(&["--members", file.to_str().unwrap()]);
    let line = format!(
        "fanout --lbs 20 --members 10 --ticks 3 --connect {} --pid {} --operator-file {}",
        server.address,
        server.server.id(),
        file.display()
    );
    for _ in 0..2 {
        let metrics = metrics(&run(&line), "server");
        assert_eq!(metrics["messages"], 60.0);
        assert!(metrics["CPU per message"] > 0.0);
    }
    fs::remove_file(&file).unwrap();
}

/// Whatever it started ends with it.
#[test]
fn killed_outright_it_leaves_no_server() {
    let mut own = Command::new(env!("CARGO_BIN_EXE_gwm-loadgen"))
        .args(["idle", "--lbs", "5", "--members", "5", "--duration", "1h", "--quiet"])
        .spawn()
        .unwrap();
    let children = format!("/proc/{0}/task/{0}/children", own.id());
    let until = |what: &str, mut condition: Box<dyn FnMut() -> bool + '_>| {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !condition() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::yield_now();
        }
    };
    let mut server = String::new();
    let serves = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "gwm");
    until(
        "no server was started",
        Box::new(|| {
            server = fs::read_to_string(&children).unwrap_or_default().trim().to_owned();
            !server.is_empty() && serves(&server)
        }),
    );
    own.kill().unwrap();
    own.wait().unwrap();
    // Gone, or a zombie where nobody waits for orphans.
    let gone = || {
        let stat = fs::read_to_string(format!("/proc/{server}/stat"));
        stat.map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim().starts_with('Z')))
    };
    until("the server is still there", Box::new(gone));
}
