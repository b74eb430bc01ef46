//! The rules of the members file, a test each. They are one file because they share the helpers below.

use std::net::IpAddr;

use super::*;
use crate::roster::{Check, Content, Grpc, Http, ProxyProtocol};

fn defaults() -> Defaults {
    Defaults { monitor: Monitor::auto(), ..Defaults::unwatched(100) }
}

fn parsed(text: &str) -> Result<Roster, Mistake> {
    parse(text, Path::new("/nonexistent"), &defaults())
}

fn roster(text: &str) -> Roster {
    parsed(text).unwrap_or_else(|error| panic!("{error:?} in {text}"))
}

fn endpoint(address: &str, protocol: u8, port: u16) -> Endpoint {
    Endpoint::new(address.parse::<IpAddr>().unwrap(), protocol, port)
}

/// The only member of a file, which has these lines besides its address and port.
fn web(lines: &str) -> Member {
    let roster = roster(&format!("[[member]]\naddress = \"10.0.0.1\"\nport = 80\n{lines}"));
    assert_eq!(roster.entries(), 1);
    Member::clone(roster.find(&endpoint("10.0.0.1", 6, 80)))
}

#[test]
fn reads_applications_systems_and_networks() {
    let text = r#"
        [[member]]
        address = "10.0.0.1"
        protocol = "tcp"
        port = 80
        weight = 40
        monitor = "none"

        [[member]]
        address = "2001:db8::1"
        protocol = 132
        port = 7
        weight = 0
        monitor = "none"

        [[member]]
        address = "10.0.0.9"
        monitor = "icmp"
        quiesced = true

        [[member]]
        cidr = "10.0.0.0/24"
        port = 80
        weight = 7
        monitor = ["tcp", "agent"]
        agent_port = 9777

        [[member]]
        cidr = "10.0.0.0/8"
        protocol = "udp"
        monitor = "off"

        [[member]]
        cidr = "2001:db8::/32"
        rise = 5
    "#;
    let roster = roster(text);
    assert_eq!(roster.entries(), 6);
    let find = |address, protocol, port| roster.find(&endpoint(address, protocol, port));
    let stated = |weight| Member { stated: true, ..Member::fixed(weight) };
    assert_eq!(**find("10.0.0.1", 6, 80), stated(40));
    assert_eq!(**find("2001:db8::1", 132, 7), stated(0));
    let system = find("10.0.0.9", 0, 0);
    assert_eq!((system.capacity, system.stated, system.quiesced, system.fixed), (100, false, true, false));
    assert_eq!(system.monitor, Monitor::of([Check::Icmp]));
    assert_eq!(find("10.0.0.9", 6, 80).capacity, 7);
    assert_eq!(find("10.0.0.9", 6, 80).monitor.checks.len(), 2);
    assert_eq!(find("10.0.0.9", 17, 80).monitor, Monitor::none());
    assert_eq!(find("10.9.0.9", 17, 80).monitor, Monitor::none());
    assert_eq!(find("10.9.0.9", 6, 80), roster.default_member());
    assert_eq!((find("2001:db8::9", 0, 0).times.rise, find("2001:db8::9", 0, 0).times.fall), (5, 3));
    let nothing = parsed("").unwrap();
    assert_eq!(nothing.entries(), 0);
    assert_eq!(nothing.default_member().monitor, Monitor::auto());
}

#[test]
fn times_follow_the_interval_where_nothing_else_is_said() {
    let ms = Duration::from_millis;
    let times = |text: &str, defaults: &Defaults| {
        let text = format!("[[member]]\naddress = \"10.0.0.1\"\n{text}");
        let roster = parse(&text, Path::new(""), defaults).unwrap();
        roster.find(&endpoint("10.0.0.1", 0, 0)).times
    };
    let all = |interval, fast_interval, timeout| Times { interval, fast_interval, timeout, rise: 2, fall: 3 };
    assert_eq!(times("", &defaults()), all(ms(2000), ms(2000), ms(2000)));
    assert_eq!(times("interval = \"10s\"", &defaults()), all(ms(10_000), ms(10_000), ms(5000)));
    assert_eq!(times("interval = \"500ms\"", &defaults()), all(ms(500), ms(500), ms(500)));
    let fast = Defaults { fast_interval: Some(ms(1000)), timeout: Some(ms(300)), ..defaults() };
    assert_eq!(times("", &fast), all(ms(2000), ms(1000), ms(300)));
    assert_eq!(times("interval = \"500ms\"", &fast), all(ms(500), ms(500), ms(300)), "never slower while in doubt");
    let given = times("interval = \"1m\"\nfast_interval = \"1s\"\ntimeout = \"7s\"\nrise = 1\nfall = 255", &fast);
    assert_eq!(given, Times { rise: 1, fall: 255, ..all(ms(60_000), ms(1000), ms(7000)) });
}

#[test]
fn an_http_check_has_its_defaults_and_its_table() {
    let http = |lines: &str| match &web(lines).monitor.checks[..] {
        [Check::Http(http)] => Http::clone(http),
        other => panic!("{other:?}"),
    };
    let plain = http("monitor = \"http\"");
    assert_eq!((plain.method.as_str(), plain.path.as_str(), plain.host, plain.port), ("GET", "/", None, None));
    assert_eq!((plain.expect, plain.utilization, plain.tls), (vec![200..=399], vec![], None));
    let full = http(
        "monitor = \"http\"\nhttp = { method = \"HEAD\", path = \"/health?x=1\", host = \"web:81\", port = 8080, expect = \
         \"200, 300-304\", utilization = [\"named_metrics.queue\"] }",
    );
    assert_eq!((full.method.as_str(), full.path.as_str()), ("HEAD", "/health?x=1"));
    assert_eq!((full.host.as_deref(), full.port), (Some("web:81"), Some(8080)));
    assert_eq!((full.expect, full.utilization), (vec![200..=200, 300..=304], vec!["named_metrics.queue".to_owned()]));
    for (given, codes) in [
        ("204", vec![204..=204]),
        ("[200, 302]", vec![200..=200, 302..=302]),
        ("[200, \"300-304, 404\"]", vec![200..=200, 300..=304, 404..=404]),
    ] {
        assert_eq!(http(&format!("monitor = \"http\"\nhttp.expect = {given}")).expect, codes);
    }
    assert_eq!((plain.headers, plain.body, plain.content), (vec![], vec![], None));
    let post = http(
        "monitor = \"http\"\n[member.http]\nbody = \"ping\"\nmatch = \"pong\"\n[member.http.headers]\nX-B = \"2\"\nX-A = \"a b\"",
    );
    assert_eq!(
        (post.method.as_str(), post.body, post.content),
        ("POST", b"ping".to_vec(), Some(Content::Text(b"pong".to_vec())))
    );
    assert_eq!(post.headers, [("X-A", "a b"), ("X-B", "2")].map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(http("monitor = \"http\"\nhttp = { body = \"x\", method = \"PUT\" }").method, "PUT");
    let Some(Content::Regex(regex)) = http("monitor = \"http\"\nhttp.match.regex = \"^ok (.)$\"").content else {
        panic!()
    };
    assert!(regex.is_match(b"ok \xFF") && !regex.is_match("ok \u{e9}".as_bytes()), "a dot is a byte");

    let tls = |lines: &str| http(&format!("monitor = \"https\"\n{lines}")).tls.expect("https is TLS");
    let anyone = tls("tls = { verify = false }");
    assert!(!anyone.source.verify && anyone.server_name.is_none());
    assert_eq!(tls("tls.verify = false\nhttp.host = \"web.example:81\"").server_name.as_deref(), Some("web.example"));
    let named = tls("tls = { verify = false, server_name = \"a.example\" }\nhttp.host = \"b.example\"");
    assert_eq!(named.server_name.as_deref(), Some("a.example"));
}

#[test]
fn a_grpc_check_has_its_table_and_tls_if_it_is_wanted() {
    let grpc = |lines: &str| match &web(&format!("monitor = \"grpc\"\n{lines}")).monitor.checks[..] {
        [Check::Grpc(grpc)] => Grpc::clone(grpc),
        other => panic!("{other:?}"),
    };
    assert_eq!(grpc(""), Grpc::default());
    let full = grpc("grpc = { service = \"a.B\", host = \"x:1\", port = 9, utilization = [\"cpu_utilization\"] }");
    assert_eq!((full.service.as_str(), full.host.as_deref(), full.port), ("a.B", Some("x:1"), Some(9)));
    assert_eq!((full.utilization, full.tls), (vec!["cpu_utilization".to_owned()], None));
    for lines in ["tls.verify = false", "tls.verify = false\ngrpc.tls = true\ngrpc.host = \"web.example:81\""] {
        let tls = grpc(lines).tls.expect("it has TLS");
        assert_eq!(tls.config.alpn_protocols, [b"h2".to_vec()]);
        assert_eq!(tls.server_name.as_deref(), lines.contains("host").then_some("web.example"));
    }
    let both = web("monitor = [\"https\", \"grpc\"]\ntls.verify = false\ngrpc.tls = false");
    let [Check::Http(http), Check::Grpc(grpc)] = &both.monitor.checks[..] else { panic!("{both:?}") };
    assert!(http.tls.as_ref().is_some_and(|tls| tls.config.alpn_protocols.is_empty()) && grpc.tls.is_none());
}

#[test]
fn the_proxy_protocol_is_for_checks_that_connect() {
    assert_eq!(web("").proxy_protocol, None);
    assert_eq!(web("proxy_protocol = \"v1\"").proxy_protocol, Some(ProxyProtocol::V1));
    assert_eq!(web("monitor = [\"icmp\", \"http\"]\nproxy_protocol = \"v2\"").proxy_protocol, Some(ProxyProtocol::V2));
}

#[test]
fn groups_have_policies() {
    let roster =
        roster("[[group]]\nname = \"FARM1*\"\npolicy = \"orca\"\n[[group]]\nname = \"FARM*\"\npolicy = \"static\"\n");
    assert_eq!(roster.policy(b"FARM12"), Policy::Orca);
    assert_eq!(roster.policy(b"FARM2"), Policy::Static);
    assert_eq!(roster.policy(b"X"), Policy::Auto);
    let bytes = self::roster("[[group]]\nname = 'c\\x7F\\xFF\\x2A*'\npolicy = \"static\"\n");
    assert_eq!(bytes.policy(b"c\x7F\xFF*\0"), Policy::Static);
    assert_eq!(bytes.policy(b"c\x7F\xFF-\0"), Policy::Auto);
}

/// The warnings about a file, each with its line.
fn warned(defaults: &Defaults, text: &str) -> Vec<String> {
    let (_, warnings) = examine(text, Path::new(""), defaults).unwrap_or_else(|mistake| panic!("{mistake} in {text}"));
    warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn settings_without_effect_are_told_with_their_line() {
    let flags = Defaults { slow_start: Duration::from_secs(30), ..defaults() };
    let at_once = defaults();
    let web = "[[member]]\naddress = \"10.0.0.1\"\nport = 80\n";
    let agent = "[[member]]\naddress = \"10.0.0.2\"\nmonitor = \"agent\"\nagent_port = 9\n";
    let http = "[[member]]\naddress = \"10.0.0.3\"\nport = 80\nmonitor = \"http\"\n";
    let metric = "http.utilization = [\"cpu_utilization\"]\n";
    let group = |name: &str, policy: &str| format!("[[group]]\nname = \"{name}\"\npolicy = \"{policy}\"\n");
    let remedy = "no member in service has a lower one: give the members larger weights, such as 100";
    let starts = |defaults: &Defaults, text: &str, expected: &[&str]| {
        let warnings = warned(defaults, text);
        let fit = warnings.iter().zip(expected).all(|(warning, expected)| warning.starts_with(expected));
        assert!(fit && warnings.len() == expected.len(), "{text}\n{warnings:#?}");
    };

    // Weight 1 leaves no room for the slow start and for an agent.
    let ramp = format!("line 4: weight 1 leaves --slow-start without effect: {remedy}");
    assert_eq!(warned(&flags, &format!("{web}weight = 1\n")), [&*ramp]);
    let two = format!("{web}weight = 1\n{}weight = 1\n", web.replace("10.0.0.1", "10.0.0.9"));
    assert_eq!(warned(&flags, &two), [format!("{ramp} (and so does 1 more entry)")]);
    let three = format!("{two}{}weight = 1\n", web.replace("10.0.0.1", "10.0.0.8"));
    assert_eq!(warned(&flags, &three), [format!("{ramp} (and so do 2 more entries)")]);
    let both = "line 5: weight 1 leaves --slow-start and the agent's percentage without effect";
    starts(&flags, &format!("{agent}weight = 1\n"), &[both]);
    starts(
        &at_once,
        &format!("{agent}weight = 1\n"),
        &["line 5: weight 1 leaves the agent's percentage without effect"],
    );
    for text in [
        format!("{web}weight = 2\n"),
        format!("{web}weight = 1\nmonitor = \"none\"\n"),
        format!("{web}weight = 1\nmonitor = \"off\"\n"),
        format!("{http}weight = 1\n{}", group("*", "orca")),
        agent.into(),
        format!("{http}{metric}"),
    ] {
        assert_eq!(warned(&flags, &text), [""; 0], "{text}");
    }
    assert_eq!(warned(&at_once, &format!("{web}weight = 1\n")), [""; 0]);

    // What no policy uses.
    let fixed = Defaults { policy: Policy::Static, ..flags.clone() };
    let no_agent = "line 4: the agent's percentage has no effect: no group has the policy \"agent\" or \"auto\"";
    starts(&fixed, agent, &[no_agent]);
    starts(&fixed, &format!("{agent}{}", group("A", "auto")), &[]);
    starts(&flags, &format!("{agent}{}", group("*", "static")), &[no_agent]);
    let no_report = "line 5: utilization has no effect: no group has the policy \"orca\" or \"auto\"";
    starts(&fixed, &format!("{http}{metric}"), &[no_report]);
    starts(&fixed, &format!("{http}{metric}{}", group("A", "orca")), &[]);
    let grpc = "[[member]]\naddress = \"10.0.0.4\"\nport = 80\nmonitor = \"grpc\"\n";
    starts(&fixed, &format!("{grpc}grpc.utilization = [\"cpu_utilization\"]\n"), &[no_report]);
    starts(&flags, &format!("{grpc}{}", group("A", "orca")), &[]);

    // What is about reports that the member does not give.
    let useless = |key| format!("{key} has no effect: the member has no ");
    starts(&flags, &format!("{web}agent_smoothing = \"1s\"\n"), &[&useless("line 4: agent_smoothing")]);
    starts(&flags, &format!("{http}agent_smoothing = \"1s\"\n"), &[&useless("line 5: agent_smoothing")]);
    let tcp = format!("{web}monitor = \"tcp\"\n");
    starts(&flags, &format!("{tcp}rate_smoothing = \"1s\"\n"), &[&useless("line 5: rate_smoothing")]);
    starts(&flags, &format!("{tcp}report_lifetime = \"1m\"\n"), &[&useless("line 5: report_lifetime")]);
    starts(&flags, &format!("{http}rate_smoothing = \"1s\"\nreport_lifetime = \"1m\"\n"), &[]);
    starts(&flags, &format!("{agent}agent_smoothing = \"1s\"\nreport_lifetime = \"1m\"\n"), &[]);

    // What a policy needs, and no member has.
    let never = "with the policy \"agent\" no member is ever confident, because no member has an agent";
    starts(&flags, &format!("{web}{}", group("A", "agent")), &[&format!("line 6: {never}")]);
    starts(&Defaults { policy: Policy::Agent, ..flags.clone() }, web, &[&format!("line 1: {never}")]);
    let never = "with the policy \"orca\" no member is ever confident, because no check reads load reports";
    starts(&flags, &format!("{web}{}", group("A", "orca")), &[&format!("line 6: {never}")]);
    let by_flag = Defaults { monitor: Monitor::of([Check::Http(Default::default())]), ..flags.clone() };
    starts(&by_flag, &format!("{web}{}", group("A", "orca")), &[]);
}

#[test]
fn an_entry_that_an_earlier_one_leaves_no_group_is_refused() {
    let groups = |names: &[&str]| {
        let entry = |name: &&str| format!("[[group]]\nname = '{name}'\npolicy = \"auto\"\n");
        names.iter().map(entry).collect::<String>()
    };
    for names in [&["*", "FARM1"][..], &["FARM*", "FARM1*"], &["F?RM", "FARM"], &["*", "**"]] {
        let part = format!("an earlier one has every group that fits, \"{}\"; put this entry before", names[0]);
        refused(&groups(names), 5, &part);
    }
    for names in [&["FARM1", "*"][..], &["FARM1*", "FARM*"], &["FARM*", "*1"], &["FARM", "FARM1"]] {
        roster(&groups(names));
    }
}

fn refused(text: &str, line: usize, part: &str) {
    let mistake = parsed(text).map(|_| ()).expect_err(text);
    assert!(mistake.text.contains(part), "{text}\n{mistake}");
    assert_eq!(mistake.line, line, "{text}\n{mistake}");
    assert!(!mistake.text.contains('\n'), "{mistake}");
}

#[test]
fn errors_name_their_line() {
    let one = "[[member]]\naddress = \"10.0.0.1\"\nport = 80\nweight = 40\nmonitor = \"none\"\n";
    for (text, line, part) in [
        (format!("{one}colour = 1\n"), 6, "colour"),
        (format!("{one}\n[member2]\n"), 7, "member2"),
        (one.replace("40", "101"), 4, "--weight-max 100"),
        (one.replace("40", "65536"), 4, "65536"),
        (one.replace("40", "\"x\""), 4, "invalid type"),
        (one.replace("10.0.0.1", "10.0.0"), 2, "\"10.0.0\" is not an IP address"),
        (one.replace("10.0.0.1", "10.0.0.1:80"), 2, "not an IP address: write address = \"10.0.0.1\" and port = 80"),
        (one.replace("40", "-1"), 4, "integer `-1`, expected a number from 0 to 65535"),
        (one.replace("port = 80", "port = 80\nprotocol = [6]"), 4, "a protocol is \"tcp\""),
        (one.replace("[[member]]", "[member]"), 1, "write [[member]], with two brackets"),
        ("member = [1]".into(), 1, "integer `1`, expected a table"),
        (one.replace("weight = 40", "rise = 300"), 4, "integer `300`, expected a number from 0 to 255"),
        (one.replace("none", "ftp"), 5, "\"ftp\" is not \"none\""),
        (one.replace("port = 80", "protocol = \"tcp\""), 1, "needs a port"),
        (one.replace("port = 80", "port = 80\nprotocol = \"icmp\""), 4, "icmp"),
        (one.replace("port = 80", "port = 80\nprotocol = 256"), 4, "256"),
        (format!("{one}{one}"), 6, "listed twice"),
        (format!("{one}= 3"), 6, ""),
        (one.replace("weight = 40\n", ""), 1, "weight"),
        (one.replace("address = \"10.0.0.1\"\n", ""), 1, "an address, or a cidr"),
        (one.replace("port = 80", "cidr = \"10.0.0.0/8\""), 1, "not both"),
        ("[[group]]\nname = \"*\"\npolicy = \"fast\"\n".into(), 3, "\"fast\""),
        ("[[group]]\nname = \"\"\npolicy = \"auto\"\n".into(), 2, "name"),
        ("[[group]]\npolicy = \"auto\"\n".into(), 1, "name"),
        (format!("[[group]]\nname = \"{}\"\npolicy = \"auto\"\n", "x".repeat(256)), 2, "no name has the 256 bytes"),
        ("[[group]]\nname = 'a\\z'\npolicy = \"auto\"\n".into(), 2, "name: `\\z` does not begin with an escape"),
        ("[[group]]\nname = \"\"\"\na\\\\\nz\"\"\"\npolicy = \"auto\"\n".into(), 2, "name: `"),
        (
            "[[group]]\nname = 'A'\npolicy = 'auto'\n[[group]]\nname = '\\x41'\npolicy = 'auto'\n".into(),
            5,
            "listed twice",
        ),
        ("[[group]]\nname = \"*\"\npolicy = \"auto\"\n".repeat(2), 5, "listed twice"),
        ("[[group]]\nname = \"*\"\npolicy = \"auto\"\nlb = 1\n".into(), 4, "lb"),
    ] {
        refused(&text, line, part);
    }
    for (cidr, part) in [
        ("10.0.0.0", "10.0.0.0/8 or"),
        ("10.0.0.0/33", "not a network"),
        ("2001:db8::/129", "not a network"),
        ("10.0.0.0/-1", "not a network"),
        ("/8", "not a network"),
        ("10.1.0.0/8", "the network is 10.0.0.0/8"),
        ("2001:db8::1/32", "the network is 2001:db8::/32"),
    ] {
        refused(&format!("[[member]]\nweight = 1\ncidr = \"{cidr}\"\n"), 3, part);
    }
    let twice = "[[member]]\ncidr = \"10.0.0.0/8\"\nport = 80\n".repeat(2);
    refused(&twice, 4, "10.0.0.0/8 protocol 6 port 80 is listed twice");
}

#[test]
fn combinations_that_can_not_be_meant_are_explained() {
    for (lines, line, part) in [
        ("monitor = []", 4, "empty list"),
        ("monitor = [\"tcp\", \"tcp\"]", 4, "twice"),
        ("monitor = [\"tcp\", \"off\"]", 4, "stands alone"),
        ("monitor = [\"none\", \"tcp\"]", 4, "stands alone"),
        ("monitor = [\"http\", \"https\"]", 4, "choose one"),
        ("monitor = 7", 4, "a name, or a list of names"),
        ("monitor = \"agent\"", 4, "needs agent_port"),
        ("monitor = \"agent\"\nagent_port = 0", 5, "1 to 65535"),
        ("monitor = \"tcp\"\nagent_port = 9", 5, "agent_port is for monitor = \"agent\""),
        ("agent_send = \"x\"", 4, "agent_send is for monitor = \"agent\""),
        ("http = { path = \"/\" }", 4, "http is for monitor = \"http\" or \"https\""),
        ("monitor = \"http\"\ntls = { verify = false }", 5, "tls is for monitor = \"https\""),
        ("grpc.service = \"x\"", 4, "grpc is for monitor = \"grpc\""),
        ("monitor = \"grpc\"\ngrpc = { path = \"/\" }", 5, "path"),
        ("monitor = \"grpc\"\ngrpc = { port = 0 }", 5, "1 to 65535"),
        ("monitor = \"grpc\"\ngrpc = { tls = false }\ntls.verify = false", 6, "tls = false, so the tls table"),
        ("monitor = \"grpc\"\nhttp.path = \"/\"", 5, "http is for monitor"),
        ("proxy_protocol = \"v3\"", 4, "\"v3\" is not \"v1\" or \"v2\""),
        ("monitor = \"icmp\"\nproxy_protocol = \"v1\"", 5, "and there is none"),
        ("monitor = \"agent\"\nagent_port = 9\nproxy_protocol = \"v1\"", 6, "and there is none"),
        ("monitor = \"off\"\ninterval = \"1s\"", 5, "checks nothing"),
        ("monitor = \"none\"\nweight = 1\nfall = 1", 6, "checks nothing"),
        ("weight = 0", 4, "quiesced = true"),
        ("interval = \"1s\"\nfast_interval = \"2s\"", 5, "longer than the interval, 1s"),
        ("interval = \"1\"", 4, "like 5ms"),
        ("interval = \"9ms\"", 4, "between 10ms"),
        ("timeout = \"61s\"", 4, "between 10ms"),
        ("interval = 5", 4, "string"),
        ("interval = 2000", 4, "interval = 2000 has no unit: a duration is a string such as \"2000s\" or \"2000ms\""),
        ("fast_interval = 1.5", 4, "fast_interval = 1.5 has no unit"),
        ("timeout = 1", 4, "timeout = 1 has no unit"),
        ("timeout = [1]", 4, "a duration is a string"),
        ("interval = \"2000\"", 4, "`2000` has no unit; a duration reads like 5ms"),
        ("rise = 0", 4, "1 to 255"),
        ("fall = 256", 4, "256"),
        ("monitor = \"http\"\nhttp = { method = \"G T\" }", 5, "method"),
        ("monitor = \"http\"\nhttp = { method = \"\" }", 5, "method"),
        ("monitor = \"http\"\nhttp = { path = \"health\" }", 5, "begins with"),
        ("monitor = \"http\"\nhttp = { path = \"/a b\" }", 5, "path"),
        ("monitor = \"http\"\nhttp = { path = \"/a\\r\\nX: y\" }", 5, "path"),
        ("monitor = \"http\"\nhttp = { host = \"a\\n\" }", 5, "host"),
        ("monitor = \"http\"\nhttp = { port = 0 }", 5, "1 to 65535"),
        ("monitor = \"http\"\nhttp = { expect = [] }", 5, "empty list"),
        ("monitor = \"http\"\nhttp = { expect = [200, \"x\"] }", 5, "expect \"x\""),
        ("monitor = \"http\"\nhttp = { expect = [200, [201]] }", 5, "expect is a status code"),
        ("monitor = \"http\"\nhttp = { headers = { \"a b\" = \"x\" } }", 5, "\"a b\" is not the name of a header"),
        ("monitor = \"http\"\nhttp = { headers = { a = \"x\\r\\nb: y\" } }", 5, "header \"a\" has no line break"),
        ("monitor = \"http\"\nhttp = { headers = { a = \" x\" } }", 5, "no blank at its begin"),
        ("monitor = \"http\"\nhttp = { headers = { a = \"x\", A = \"y\" } }", 5, "names \"a\" twice"),
        ("monitor = \"http\"\nhttp = { headers = { Host = \"x\" } }", 5, "itself: use host"),
        ("monitor = \"http\"\nhttp = { headers = { Content-Length = \"1\" } }", 5, "gwm makes the header"),
        ("monitor = \"http\"\nhttp = { match = \"\" }", 5, "match has 1 to 1024 bytes"),
        ("monitor = \"http\"\nhttp = { match = 7 }", 5, "match is a text, or an expression"),
        ("monitor = \"http\"\nhttp = { match = { regexp = \"x\" } }", 5, "match is a text, or an expression"),
        ("monitor = \"http\"\nhttp = { match = { regex = \"(\" } }", 5, "regex \"(\": unclosed group"),
        ("monitor = \"http\"\nhttp = { match = { regex = \"(a{1000}){1000}\" } }", 5, "size limit"),
        ("monitor = \"http\"\nhttp = { method = \"HEAD\", match = \"x\" }", 5, "HEAD asks for no body"),
        ("monitor = \"http\"\nhttp = { expect = \"\" }", 5, "expect"),
        ("monitor = \"http\"\nhttp = { expect = \"300-200\" }", 5, "expect"),
        ("monitor = \"http\"\nhttp = { expect = 99 }", 5, "expect"),
        ("monitor = \"http\"\nhttp = { utilization = [\"queue\"] }", 5, "named_metrics.NAME"),
        ("monitor = \"https\"\ntls = { verify = false, ca = \"x.pem\" }", 5, "leave one of them out"),
        ("monitor = \"https\"\ntls = { ca = \"x.pem\" }", 5, "/nonexistent/x.pem"),
        ("monitor = \"https\"\ntls = { verify = false, key = \"x.pem\" }", 5, "go together"),
        ("monitor = \"https\"\ntls = { verify = false, server_name = \"a b\" }", 5, "no host name"),
        ("monitor = \"https\"\ntls = { ca = \"/dev/null\" }", 5, "no certificate"),
        ("monitor = \"https\"\ntls = { ca = \"/dev/zero\" }", 5, "/dev/zero has more than"),
    ] {
        refused(&format!("[[member]]\naddress = \"10.0.0.1\"\nport = 80\n{lines}\n"), line, part);
    }
    for (monitor, part) in [
        ("tcp", "protocol \"tcp\" and a port"),
        ("http", "http = { port"),
        ("https", "http = { port"),
        ("grpc", "grpc = { port"),
    ] {
        refused(&format!("[[member]]\naddress = \"10.0.0.1\"\nmonitor = \"{monitor}\"\n"), 3, part);
    }
    roster("[[member]]\naddress = \"10.0.0.1\"\nmonitor = \"http\"\nhttp.port = 80\n");
    roster("[[member]]\ncidr = \"10.0.0.0/8\"\nmonitor = [\"tcp\", \"http\"]\n");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = read(Path::new("/nonexistent/members.toml"), &defaults()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/members.toml"), "{error}");
}

#[test]
fn a_file_without_end_is_not_read_without_end() {
    let error = read(Path::new("/dev/zero"), &defaults()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("/dev/zero has more than"), "{error}");
}

/// Files are found beside the members file, and a new content of theirs makes another member.
#[test]
fn certificates_are_read_with_the_file() {
    let folder = std::env::temp_dir().join(format!("gwm-members-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let authority = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["ca.example".into()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    let file = folder.join("members.toml");
    let member = |lines: &str| {
        write("members.toml", &format!("[[member]]\naddress = \"10.0.0.1\"\nport = 443\nmonitor = \"https\"\n{lines}"));
        let roster = read(&file, &defaults()).map_err(|error| error.to_string())?;
        Ok::<_, String>(roster.0.find(&endpoint("10.0.0.1", 6, 443)).clone())
    };
    let (certificate, key) = authority();
    write("ca.pem", &certificate);
    write("key.pem", &key);
    let trusting = "tls.ca = \"ca.pem\"";
    let both = "tls = { ca = \"ca.pem\", certificate = \"ca.pem\", key = \"key.pem\" }";
    let first = member(trusting).unwrap();
    assert_eq!(first, member(trusting).unwrap(), "nothing has changed");
    assert_ne!(first, member(both).unwrap());
    write("ca.pem", &authority().0);
    assert_ne!(first, member(trusting).unwrap(), "another authority is trusted");
    let error = member(both).unwrap_err();
    assert!(error.contains(":5: ") && error.contains("certificate and key"), "{error}");
    write("ca.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let error = member(trusting).unwrap_err();
    assert!(error.contains(":5: ") && error.contains("ca.pem"), "{error}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn reports_count_as_the_flags_or_the_entry_say() {
    let member = web("");
    assert_eq!(member.reports, ReportRules::default());
    let member = web("agent_smoothing = \"0s\"\nrate_smoothing = \"3s\"\ndead_band = 0\nreport_lifetime = \"10s\"\n");
    let rules = ReportRules {
        agent_smoothing: Duration::ZERO,
        rate_smoothing: Duration::from_secs(3),
        dead_band_percent: 0,
        lifetime: Duration::from_secs(10),
    };
    assert_eq!(member.reports, rules);
    assert_eq!(web("interval = \"2m\"").reports.lifetime, Duration::from_secs(360), "three intervals");
    for (lines, line, word) in [
        ("report_lifetime = \"1s\"", 4, "report_lifetime"),
        ("agent_smoothing = \"2h\"", 4, "1h"),
        ("rate_smoothing = \"2h\"", 4, "1h"),
        ("dead_band = 51", 4, "0 to 50"),
    ] {
        let text = format!("[[member]]\naddress = \"10.0.0.1\"\nport = 80\n{lines}");
        let Err(Mistake { line: at, text: error }) = parsed(&text) else { panic!("{lines} is read") };
        assert!(at == line && error.contains(word), "{lines}: {at}, {error}");
    }
}
