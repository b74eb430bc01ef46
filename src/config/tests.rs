use clap::{CommandFactory, FromArgMatches, Parser};

use super::*;
use crate::roster::ReportRules;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: Flags,
}

fn flags(line: &str) -> Result<Flags, clap::Error> {
    let matches = Line::command().try_get_matches_from(std::iter::once("serve").chain(line.split_whitespace()))?;
    let flags = Line::from_arg_matches(&matches)?.flags;
    Ok(Flags { given: Given::of(&matches, None), ..flags })
}

fn host(cpus: usize, descriptors: u64) -> Host {
    Host { cpus: (0..cpus).collect(), descriptors }
}

fn config(line: &str, host: &Host) -> Result<Config, ConfigError> {
    Config::new(&flags(line).expect("each flag is fine by itself"), host)
}

#[test]
fn defaults_are_valid_on_any_machine() {
    for cpus in [1, 2, 8, 300] {
        let config = config("", &host(cpus, 1 << 20)).unwrap();
        assert_eq!(config.coordinator_cpu, 0);
        assert_eq!(config.shard_cpus.len(), (cpus - 1).clamp(1, 256));
        assert_eq!((config.connections.max, config.connections.max_per_source), (16384, 8192));
        assert_eq!(config.settings.poll_interval_seconds, 60);
    }
    assert_eq!(config("", &host(1, 1024)).unwrap().shard_cpus, [0], "one CPU is shared");
}

#[test]
fn shards_take_the_cpus_after_the_first_in_turn() {
    let config = config("--cpus 6,1,3-4 --shards 5", &host(8, 1024)).unwrap();
    assert_eq!((config.coordinator_cpu, config.shard_cpus), (6, vec![1, 3, 4, 1, 3]));
}

#[test]
fn many_shards_do_without_huge_pages_unless_a_flag_says_otherwise() {
    let huge = |line: &str| config(line, &host(2, 1 << 20)).unwrap().huge_pages;
    assert!(huge("--shards 8") && !huge("--shards 9"));
    assert!(huge("--shards 9 --huge-pages on") && !huge("--shards 1 --huge-pages off"));
}

#[test]
fn connections_follow_the_descriptor_limit() {
    let limited = config("--probe off --shards 1", &host(2, 1024)).unwrap();
    assert_eq!(u64::from(limited.connections.max), 1024 - 64 - 2 * 16 - 1);
    assert_eq!(limited.descriptors, 1024);
    let Err(ConfigError::Failure(text)) = config("--probe off --shards 1 --max-connections 1000", &host(2, 1024))
    else {
        panic!("1000 connections fit into no 1024 descriptors")
    };
    assert!(text.contains("1097") && text.contains("the limit is 1024") && text.contains("to 927"), "{text}");
    assert!(matches!(config("", &host(2, 64)), Err(ConfigError::Failure(_))));
}

#[test]
fn one_source_has_half_of_the_connections_unless_a_flag_says_otherwise() {
    let per_source = |line: &str| config(line, &host(2, 1 << 20)).unwrap().connections.max_per_source;
    assert_eq!(per_source("--max-connections 10"), 5);
    assert_eq!(per_source("--max-connections 3"), 2);
    assert_eq!(per_source("--max-connections 1"), 1);
    assert_eq!(per_source("--max-connections 3 --max-connections-per-source 3"), 3);
    assert_eq!(per_source("--max-connections-per-source 1000000"), 1_000_000, "which turns it off");
}

#[test]
fn checks_have_their_share_of_the_descriptors() {
    let off = config("--probe off --shards 1", &host(2, 1 << 20)).unwrap();
    assert_eq!((off.monitoring.max_probes, off.connections.max), (0, 16384));
    let wide = config("--probe tcp --shards 1", &host(2, 1 << 20)).unwrap();
    assert_eq!((wide.monitoring.max_probes, wide.connections.max), (4096, 16384));
    assert_eq!(wide.descriptors, 64 + 2 * 16 + 1 + 4096 + 16384);
    let narrow = config("--probe tcp --shards 1", &host(2, 1024)).unwrap();
    assert_eq!((narrow.monitoring.max_probes, narrow.connections.max), (231, 696));
    assert_eq!(narrow.descriptors, 1024);
    let Err(ConfigError::Failure(text)) =
        config("--probe tcp --shards 1 --max-connections 900 --max-probes 100", &host(2, 1024))
    else {
        panic!("1000 sockets fit into no 1024 descriptors")
    };
    assert!(text.contains("1097") && text.contains("--max-probes") && text.contains("to 827"), "{text}");
    // If only the checks are too many, the error names only the checks.
    for probes in ["927", "5000"] {
        let Err(ConfigError::Failure(text)) =
            config(&format!("--probe tcp --shards 1 --max-probes {probes}"), &host(2, 1024))
        else {
            panic!("{probes} checks leave no connection")
        };
        assert!(!text.contains("--max-connections") && text.contains("to 926 at most"), "{text}");
    }
    let most = config("--probe tcp --shards 1 --max-probes 926", &host(2, 1024)).unwrap();
    assert_eq!((most.connections.max, most.descriptors), (1, 1024));
    for line in ["--max-probes 1", ""] {
        let Err(ConfigError::Failure(text)) = config(line, &host(2, 97)) else { panic!("no room at all") };
        assert!(text.contains("before the first connection"), "{line}: {text}");
    }
}

#[test]
fn flags_say_how_members_are_watched_that_no_file_lists() {
    let member = |line: &str| {
        let config = config(line, &host(2, 1 << 20)).unwrap();
        crate::roster::Member::clone(config.settings.roster.default_member())
    };
    let seconds = Duration::from_secs;
    let plain = member("--probe auto --weight-max 7");
    assert_eq!((plain.capacity, plain.fixed, plain.quiesced), (7, false, false));
    assert_eq!(plain.monitor, Monitor::auto());
    assert_eq!(
        (plain.times.interval, plain.times.fast_interval, plain.times.timeout),
        (seconds(2), seconds(2), seconds(2))
    );
    assert_eq!((plain.times.rise, plain.times.fall), (2, 3));
    assert_eq!(member("--probe off").monitor, Monitor::none());
    assert_eq!(member("--probe tcp").monitor, Monitor::of([Check::Tcp]));
    assert_eq!(member("--probe icmp").monitor, Monitor::of([Check::Icmp]));
    assert!(matches!(&member("--probe http").monitor.checks[..], [Check::Http(_)]));
    let times = member("--probe-interval 1m --probe-fast-interval 3s --probe-rise 1 --probe-fall 9").times;
    assert_eq!((times.interval, times.fast_interval, times.timeout), (seconds(60), seconds(3), seconds(5)));
    assert_eq!((times.rise, times.fall), (1, 9));
}

#[test]
fn impossible_combinations_say_what_to_change() {
    let cases = [
        ("--cpus 0,9", "--cpus names CPU 9"),
        ("--spin --cpus 0", "fewer --shards"),
        ("--spin=10us --shards 2", "fewer --shards"),
        ("--max-buffered-bytes 65536 --max-message-bytes 65537", "raise the first"),
        ("--push-refresh 1s --push-window 2s", "--push-refresh 1s"),
        ("--poll-interval 1500ms", "whole number of seconds"),
        ("--probe-interval 1s --probe-fast-interval 2s", "--probe-fast-interval 2s is longer"),
        ("--keepalive 1500ms", "whole number of seconds"),
        ("--lb-identity certificate", "--lb-identity certificate needs --tls-client-ca"),
        ("--member-identity certificate", "--member-identity certificate needs --tls-client-ca"),
        ("--lb-identity source-ip", "needs an --access file"),
        ("--lb-identity-common-name", "is for --lb-identity certificate"),
        ("--access /dev/null", "set --lb-identity or --member-identity"),
        ("--listen 127.0.0.1:1,127.0.0.1:1", "given twice"),
        ("--listen 127.0.0.1:1,0.0.0.0:1", "0.0.0.0:1 stands for every address, 127.0.0.1:1 too"),
        ("--listen 127.0.0.1:1,[::ffff:127.0.0.1]:1", "given twice"),
        ("--listen [::]:1,[::1]:1", "[::]:1 stands for every address, [::1]:1 too"),
    ];
    for (line, expected) in cases {
        match config(line, &host(2, 1 << 20)) {
            Err(ConfigError::Usage(text)) => assert!(text.contains(expected), "{line}: {text}"),
            other => panic!("{line}: {other:?}"),
        }
    }
    assert!(config("--listen 127.0.0.1:0 --listen 127.0.0.1:0", &host(2, 1 << 20)).is_ok(), "two free ports");
    assert!(config("--listen 0.0.0.0:1,[::]:1,127.0.0.1:2", &host(2, 1 << 20)).is_ok(), "nothing is meant twice");
    assert!(config("--spin --shards 1", &host(2, 1 << 20)).is_ok());
    assert!(config("--member-identity source-ip", &host(2, 1 << 20)).is_ok(), "no file: its own address");
    assert!(config("--lb-identity source-ip --access /dev/null", &host(2, 1 << 20)).is_ok());
}

#[test]
fn flags_without_effect_are_told() {
    let warnings = |line: &str| config(line, &host(5, 1 << 20)).unwrap().warnings;
    assert_eq!(warnings(""), [""; 0]);
    assert_eq!(warnings("--probe off"), [""; 0]);
    let tls = "it is about TLS, and --tls-listen is not given";
    for (flag, value) in [
        ("--tls-min-version", "1.2"),
        ("--handshake-timeout", "30s"),
        ("--max-handshakes", "4"),
        ("--max-handshakes-per-source", "0"),
    ] {
        assert_eq!(warnings(&format!("{flag} {value}")), [format!("{flag} has no effect: {tls}")]);
    }
    let off = "nothing is checked, because --probe is off and no --members file names checks";
    for (flag, value) in [
        ("--probe-interval", "2s"),
        ("--probe-fast-interval", "1s"),
        ("--probe-timeout", "1s"),
        ("--probe-rise", "2"),
        ("--probe-fall", "3"),
        ("--max-probes", "1"),
        ("--policy", "agent"),
        ("--panic-percent", "50"),
        ("--panic-time", "30s"),
        ("--witness", "10.0.0.1"),
        ("--slow-start", "30s"),
        ("--agent-smoothing", "60s"),
        ("--rate-smoothing", "1s"),
        ("--dead-band", "5"),
        ("--report-lifetime", "3m"),
    ] {
        assert_eq!(warnings(&format!("--probe off {flag} {value}")), [format!("{flag} has no effect: {off}")]);
    }
    for (line, part) in [
        ("--weight-max 1 --slow-start 1s", "--slow-start has no effect: with --weight-max 1"),
        ("--panic-percent 100 --panic-time 1s", "--panic-time has no effect: --panic-percent 100"),
        ("--panic-percent 20 --panic-time 0s", "--panic-percent has no effect: --panic-time 0s"),
        ("--agent-smoothing 0s", "--agent-smoothing has no effect: no member has an agent"),
        ("--probe http --agent-smoothing 0s", "--agent-smoothing has no effect: no member has an agent"),
        ("--rate-smoothing 1s", "--rate-smoothing has no effect: no check reads load reports"),
        ("--report-lifetime 1m", "--report-lifetime has no effect: no check reads load reports"),
        ("--policy agent", "--policy agent, and no member has an agent, so no member is ever confident"),
        ("--policy orca", "--policy orca, and no check reads load reports, so no member is ever confident"),
        ("--max-probes 3", "--max-probes 3 is raised to 4: each of the 4 shards needs one"),
        ("--member-identity source-ip", "--member-identity without --lb-identity keeps nobody out"),
        ("--metrics-members 7", "--metrics-members has no effect: it is about /metrics of the admin side"),
    ] {
        let warnings = warnings(line);
        assert!(warnings.len() == 1 && warnings[0].starts_with(part), "{line}: {warnings:?}");
    }
    for line in [
        "--weight-max 1",
        "--weight-max 2 --slow-start 1s",
        "--policy orca --probe http",
        "--probe http --rate-smoothing 1s --report-lifetime 1m --dead-band 0",
        "--members /dev/null --agent-smoothing 0s --rate-smoothing 1s --report-lifetime 1m --dead-band 0",
        "--max-probes 4",
        "--probe-interval 1s --slow-start 0s --panic-percent 100",
        "--members /dev/null --probe off --probe-interval 1s",
        "--member-identity source-ip --lb-identity source-ip --access /dev/null",
    ] {
        assert_eq!(warnings(line), [""; 0], "{line}");
    }
    let idle = |line: &str, shards| idle::warnings(&flags(line).unwrap(), shards);
    let tls = "--tls-listen [::1]:1 --tls-cert x --tls-key y";
    let raised = "--max-handshakes 15 is raised to 16: each of the 4 shards needs 4";
    assert_eq!(idle(&format!("{tls} --max-handshakes 15"), 4), [raised]);
    assert_eq!(idle(&format!("{tls} --max-handshakes 16 --tls-min-version 1.3"), 4), [""; 0]);
    assert_eq!(idle(tls, 256), [""; 0]);
}

#[test]
fn values_out_of_range_are_refused() {
    for line in [
        "--poll-interval 0s",
        "--poll-interval 65536s",
        "--push-window 61s",
        "--hold-time 31d",
        "--hold-time 5",
        "--stall-timeout 99ms",
        "--weight-max 0",
        "--max-groups-per-lb 65536",
        "--max-memberships-per-lb 0",
        "--max-memberships 7000001",
        "--max-message-bytes 1023",
        "--max-connections-per-source 0",
        "--max-new-connections-per-source 1000001",
        "--max-handshakes-per-source -1",
        "--max-requests-per-second 1000001",
        "--shards 0",
        "--probe agent",
        "--probe-interval 9ms",
        "--probe-timeout 61s",
        "--probe-rise 0",
        "--probe-fall 256",
        "--max-probes 0",
        "--panic-percent 101",
        "--policy best",
        "--cpus 3-1",
        "--cpus 1,1",
        "--cpus x",
        "--cpus 0-99999999999",
        "--listen localhost",
    ] {
        assert!(flags(line).is_err(), "{line}");
    }
}

#[test]
fn durations_read_as_people_write_them() {
    let flags = flags("--push-window 5ms --stall-timeout 2s --hold-time 1m --spin").unwrap();
    assert_eq!(flags.push_window, Duration::from_millis(5));
    assert_eq!(flags.stall_timeout, Duration::from_secs(2));
    assert_eq!(flags.hold_time, Duration::from_secs(60));
    assert_eq!(flags.spin, Duration::from_micros(50));
}

#[test]
fn flags_say_how_reports_count() {
    let reports = |line: &str| {
        let config = config(line, &host(2, 1 << 20)).unwrap();
        config.settings.roster.default_member().reports
    };
    assert_eq!(reports(""), ReportRules::default());
    let line = "--agent-smoothing 0s --rate-smoothing 3s --dead-band 0 --report-lifetime 2s";
    let rules = ReportRules {
        agent_smoothing: Duration::ZERO,
        rate_smoothing: Duration::from_secs(3),
        dead_band_percent: 0,
        lifetime: Duration::from_secs(2),
    };
    assert_eq!(reports(line), rules);
    assert_eq!(reports("--probe-interval 2m").lifetime, Duration::from_secs(360));
    let Err(ConfigError::Usage(text)) = config("--report-lifetime 1s", &host(2, 1 << 20)) else {
        panic!("reports would not count from one check to the next")
    };
    assert!(text.contains("--report-lifetime") && text.contains("--probe-interval"), "{text}");
}

#[cfg(feature = "fleet")]
#[test]
fn a_fleet_has_etcds_and_a_name() {
    let fleet = |line: &str| config(line, &host(2, 1 << 20)).map(|config| config.fleet);
    assert!(fleet("").unwrap().is_none());
    let one = fleet("--fleet etcd://10.0.0.1,10.0.0.2:99 --node a").unwrap().unwrap();
    assert_eq!(one.endpoints.iter().map(EtcdEndpoint::to_string).collect::<Vec<_>>(), ["10.0.0.1:2379", "10.0.0.2:99"]);
    assert_eq!((&*one.name, &*one.node, one.lease, one.redundancy), ("main", "a", Duration::from_secs(5), 2));
    for (line, word) in [
        ("--fleet etcd://a,a --node a", "given twice"),
        ("--fleet etcd://a --node a --fleet-lease 2500ms", "whole number of seconds"),
        ("--fleet etcd://a --node a --fleet-credentials /nowhere", "--fleet-credentials"),
        ("--fleet etcd://a --node a --fleet-tls-ca /nowhere", "--fleet-tls-ca"),
    ] {
        let error = fleet(line).unwrap_err().to_string();
        assert!(error.contains(word), "{line}: {error}");
    }
    for line in ["--fleet 10.0.0.1:2379", "--node a/b", "--fleet-lease 1s", "--probe-redundancy 8", "--fleet-tls-ca x"]
    {
        assert!(flags(line).is_err(), "{line}");
    }
    let warnings = config("--node a --fleet-lease 9s", &host(2, 1 << 20)).unwrap().warnings;
    assert_eq!(warnings.iter().filter(|warning| warning.contains("--fleet is not given")).count(), 2, "{warnings:?}");
}
