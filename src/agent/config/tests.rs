use super::*;

fn read(text: &str) -> Result<Vec<ServiceSettings>, String> {
    let flags = Given { lbs: vec![(*b"EDGE1").into()], drain_time: Some(Duration::from_secs(9)), ..Given::default() };
    parse(text, &flags, || Ok([10, 0, 0, 9].into())).map_err(|mistake| mistake.to_string())
}

#[test]
fn a_service_says_what_differs_from_the_flags() {
    let text = r#"
        [[service]]
        group = "web"
        member = 80

        [[service]]
        name = "api"
        lb = ["EDGE2", '\xFF']
        group = ["a", "b"]
        member = ["10.0.0.1:8080", 9, "53/udp"]
        label = "api-1"
        local = "127.0.0.1:8081"
        check = "http:/health"
        check_interval = "5s"
        check_timeout = "500ms"
        rise = 2
        fall = 5
        on_down = "quiesce"
        opaque_state = 7
        drain_time = "1m"
        quiesce_time = "0s"
        idle_time = "3s"
    "#;
    let services = read(text).unwrap();
    let web = &services[0];
    assert_eq!((&web.name[..], &web.lbs[..], web.drain_time.as_secs()), ("web", &[(*b"EDGE1").into()][..], 9));
    assert_eq!(web.members, [Endpoint::new([10, 0, 0, 9].into(), 6, 80)]);
    assert_eq!((web.check.kind.clone(), web.check.interval.as_secs(), web.check.rise), (Kind::Tcp, 1, 1));
    assert_eq!(web.places(), ["10.0.0.9:80".parse().unwrap()]);
    let api = &services[1];
    let members: Vec<_> = api.members.iter().map(ToString::to_string).collect();
    assert_eq!(members, ["10.0.0.1:8080", "10.0.0.9:9", "10.0.0.9:53/udp"]);
    assert_eq!((api.lbs.len(), api.groups.len(), &*api.lbs[1]), (2, 2, &b"\xFF"[..]));
    assert_eq!((api.check.kind.clone(), api.check.fall), (Kind::Http("/health".into()), 5));
    assert_eq!(api.check.timeout, Duration::from_millis(500));
    assert!(api.quiesce_when_down && api.opaque == Opaque::Number(7) && api.quiesce_time.is_zero());
    assert_eq!((web.idle_time.as_secs(), api.idle_time.as_secs()), (10, 3));
    assert_eq!(api.places(), ["127.0.0.1:8081".parse().unwrap()]);
}

#[test]
fn mistakes_are_told_with_their_line() {
    let web = "[[service]]\ngroup = 'web'\nmember = 80\n";
    for (text, line, words) in [
        ("".into(), 1, "no [[service]]"),
        (format!("{web}weight = 3"), 4, "unknown field `weight`"),
        (format!("{web}check = 'ping'"), 4, "`ping` is not a check"),
        (format!("{web}drain_time = 30"), 4, "expected a string"),
        (format!("{web}drain_time = '2d'"), 4, "must be between"),
        (format!("{web}rise = 0"), 4, "between 1 and 100"),
        (format!("{web}on_down = 'die'"), 4, "keep or quiesce"),
        (format!("{web}local = '127.0.0.1:0'"), 4, "has no port"),
        (format!("{web}opaque_state = 256"), 4, "a number from 0 to 255"),
        ("[[service]]\nmember = 80".into(), 1, "which group"),
        ("[[service]]\ngroup = 'web'".into(), 1, "where does it listen"),
        ("[[service]]\ngroup = 'web'\nmember = '53/udp'\ncheck = 'tcp'".into(), 1, "needs a TCP port"),
        ("[[service]]\ngroup = 'web'\nmember = '53/udp'".into(), 1, "no member has a TCP port"),
        ("[[service]]\ngroup = 'web'\nmember = '10.0.0.1'".into(), 1, "or `none` if it is always up"),
        (format!("{web}{web}"), 4, "two services are called web"),
        (format!("{web}{web}name = 'b'"), 4, "10.0.0.9:80 stands twice"),
    ] {
        let error = read(&text).unwrap_err();
        assert!(error.starts_with(&format!("line {line}: ")) && error.contains(words), "{text}: {error}");
    }
}

#[test]
fn without_a_tcp_port_the_check_must_be_given() {
    for (member, check) in [("'10.0.0.1'", "pid:/run/a"), ("'53/udp'", "exec:true"), ("'[::1]'", "none")] {
        let services = read(&format!("[[service]]\ngroup = 'a'\nmember = {member}\ncheck = '{check}'")).unwrap();
        assert_eq!(services[0].check.kind.to_string(), check);
    }
    // A port of its own counts, and so does one behind address translation.
    for more in ["member = ['10.0.0.1', 80]", "member = '10.0.0.1'\nlocal = '127.0.0.1:80'"] {
        assert_eq!(read(&format!("[[service]]\ngroup = 'a'\n{more}")).unwrap()[0].check.kind, Kind::Tcp, "{more}");
    }
}

#[test]
fn too_many_memberships_are_refused_before_they_are_listed() {
    let names: Vec<_> = (0..20_000).map(|number| format!("'{number}'")).collect();
    let names = names.join(", ");
    let error = read(&format!("[[service]]\nlb = [{names}]\ngroup = [{names}]\nmember = 80\n")).unwrap_err();
    assert_eq!(error, "line 1: an agent has at most 1024 services and 16384 memberships");
    let most: Vec<_> = (1..=16_384).map(|port| port.to_string()).collect();
    let most = format!("[[service]]\ngroup = 'a'\nmember = [{}]\n", most.join(", "));
    assert_eq!(read(&most).unwrap()[0].members.len(), 16_384);
    let error = read(&format!("{most}[[service]]\ngroup = 'b'\nmember = 80\n")).unwrap_err();
    assert!(error.starts_with("line 4: an agent has at most"), "{error}");
}

#[test]
fn the_address_is_that_of_the_way_to_the_gwm() {
    assert_eq!(own_address("127.0.0.1:3860").unwrap(), IpAddr::from([127, 0, 0, 1]));
    assert!(own_address("nonsense").is_err());
}
