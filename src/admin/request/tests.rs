use super::*;

fn asked(route: Route, query: &str) -> Call {
    get(route, query, None).unwrap_or_else(|problem| panic!("{query}: {}", problem.message))
}

fn refused(route: Route, query: &str) -> Option<&'static str> {
    let problem = get(route, query, None).expect_err(query);
    assert_eq!(problem.status, 400);
    problem.field
}

#[test]
fn filters_are_read() {
    let query = "group=w%C3%A9b&load_balancer=LB%5CxFF&address=::ffff:10.0.0.1&port=80&protocol=tcp&state=down&limit=7&after=3.9";
    let Call::Ask(Ask::Members(filter, page)) = asked(Route::Members, query) else { panic!() };
    assert_eq!(filter.group.as_deref(), Some("wéb".as_bytes()));
    assert_eq!(filter.lb_uid.as_deref(), Some(&b"LB\xFF"[..]));
    assert_eq!(filter.address, Some([10, 0, 0, 1].into()));
    assert_eq!((filter.port, filter.protocol, filter.state), (Some(80), Some(6), Some(StateFilter::Down)));
    assert_eq!(page, Page { after: Cursor(3, 9), limit: 7 });
    let Call::Ask(Ask::LoadBalancers(filter, page)) =
        asked(Route::LoadBalancers, "load_balancer_hex=4c4231&state=held")
    else {
        panic!()
    };
    assert_eq!((filter.lb_uid.as_deref(), filter.connected), (Some(&b"LB1"[..]), Some(false)));
    assert_eq!(page, Page { after: Cursor(0, 0), limit: 100 });
}

#[test]
fn one_member_has_a_whole_name() {
    let Call::Ask(Ask::Endpoint(filter)) = asked(Route::Endpoint, "address=10.0.0.1&port=80") else { panic!() };
    assert_eq!((filter.port, filter.protocol), (Some(80), Some(6)));
    let Call::Ask(Ask::Endpoint(filter)) = asked(Route::Endpoint, "address=10.0.0.1") else { panic!() };
    assert_eq!((filter.port, filter.protocol), (Some(0), Some(0)), "a whole system");
    assert_eq!(refused(Route::Endpoint, ""), Some("address"));
    assert_eq!(refused(Route::Member, "address=10.0.0.1"), Some("group"));
}

#[test]
fn nothing_is_ignored() {
    assert_eq!(refused(Route::Members, "grup=web"), None);
    assert_eq!(refused(Route::Version, "x=1"), None);
    assert_eq!(refused(Route::Members, "port=80&port=81"), Some("port"));
    assert_eq!(refused(Route::Endpoints, "group=web"), None, "endpoints have no group");
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=%2B1", "limit"),
        ("after=x", "after"),
        ("after=1.2.3", "after"),
        ("port=65536", "port"),
        ("protocol=256", "protocol"),
        ("address=10.0.0", "address"),
        ("group=", "group"),
        ("group=%FF", "group"),
        ("group=%5Cz", "group"),
        ("state=new", "state"),
        ("load_balancer_hex=6", "load_balancer_hex"),
        ("load_balancer_hex=", "load_balancer_hex"),
    ] {
        assert_eq!(refused(Route::Members, query), Some(field), "{query}");
    }
}

#[test]
fn two_names_of_a_load_balancer_are_the_same() {
    let Call::Ask(Ask::Members(filter, _)) = asked(Route::Members, "load_balancer=a&load_balancer_hex=61") else {
        panic!()
    };
    assert_eq!(filter.lb_uid.as_deref(), Some(&b"a"[..]));
    let two = get(Route::Members, "load_balancer=a&load_balancer_hex=62", None).expect_err("two");
    assert_eq!((two.status, two.code), (409, "two_names"));
}

#[test]
fn events_go_on_after_an_id() {
    assert_eq!(asked(Route::Events, ""), Call::Events(None));
    assert_eq!(get(Route::Events, "", Some("1f-7")), Ok(Call::Events(Some((0x1f, 7)))));
    assert_eq!(get(Route::Events, "last_event_id=2-8", Some("1f-7")), Ok(Call::Events(Some((2, 8)))));
    for bad in ["", "7", "-7", "x-7", "1f-", "1f--7", "1f-+7"] {
        assert!(get(Route::Events, "", Some(bad)).is_err(), "{bad}");
    }
}

fn posted(route: Route, body: &str) -> Result<Call> {
    post(route, "", body.as_bytes())
}

#[test]
fn writes_are_read() {
    let body = r#"{"group":"web","load_balancer":"LB1","address":"10.0.0.1","port":80,"protocol":"tcp","reason":"r",
        "by":"me","expires_in_seconds":60}"#;
    let Ok(Call::Write(write)) = posted(Route::Quiesce, body) else { panic!() };
    let Order::Say(Saying::Quiesce, pattern) = &write.order else { panic!() };
    assert_eq!((pattern.group.as_deref(), pattern.lb_uid.as_deref()), (Some(&b"web"[..]), Some(&b"LB1"[..])));
    let Some(Act::Say(word)) = write.act(Time(5), "there") else { panic!() };
    assert_eq!((&*word.reason, &*word.by, &*word.from), ("r", "me", "there"));
    assert_eq!(word.expires, Some(Time(60_000_000_005)));
    let all = posted(Route::Quiesce, r#"{"reason":"all"}"#);
    assert!(
        matches!(all, Ok(Call::Write(Write { order: Order::Say(_, pattern), .. })) if pattern == Pattern::default())
    );
    assert!(posted(Route::FixWeight, r#"{"address":"::1","weight":7,"reason":"r"}"#).is_ok());
    assert!(posted(Route::ReleaseWeight, r#"{"address":"::1","reason":"r"}"#).is_ok());
    assert!(posted(Route::DropLb, r#"{"load_balancer":"LB1","reason":"r"}"#).is_ok());
    assert!(posted(Route::Reload, r#"{"reason":"r"}"#).is_ok());
}

#[test]
fn a_write_that_is_not_understood_does_nothing() {
    for (route, body) in [
        (Route::Quiesce, ""),
        (Route::Quiesce, "[]"),
        (Route::Quiesce, "{}"),
        (Route::Quiesce, r#"{"reason":""}"#),
        (Route::Quiesce, "{\"reason\":\" \\t\u{a0}\"}"),
        (Route::Quiesce, r#"{"reason":"r","by":" "}"#),
        (Route::Quiesce, r#"{"reason":"r","group":"a","group":"b"}"#),
        (Route::Quiesce, r#"{"reason":"r","grup":"web"}"#),
        (Route::Quiesce, r#"{"reason":"r","group":null}"#),
        (Route::Quiesce, r#"{"reason":"r","port":"80"}"#),
        (Route::Quiesce, r#"{"reason":"r","port":80.5}"#),
        (Route::Quiesce, r#"{"reason":"r","port":-1.0}"#),
        (Route::Quiesce, r#"{"reason":"r","port":1e99}"#),
        (Route::Quiesce, r#"{"reason":"r","weight":1}"#),
        (Route::Quiesce, r#"{"reason":"r","expires_in_seconds":0}"#),
        (Route::Resume, r#"{"reason":"r","expires_in_seconds":1}"#),
        (Route::FixWeight, r#"{"reason":"r","weight":1}"#),
        (Route::FixWeight, r#"{"reason":"r","address":"::1"}"#),
        (Route::FixWeight, r#"{"reason":"r","address":"::1","weight":1,"group":"web"}"#),
        (Route::DropLb, r#"{"reason":"r"}"#),
        (Route::Reload, r#"{"reason":"r","group":"web"}"#),
    ] {
        assert_eq!(posted(route, body).expect_err(body).status, 400, "{body}");
    }
    assert!(posted(Route::Quiesce, r#"{"reason":"r","port":80.0}"#).is_ok());
    let long = format!(r#"{{"reason":"{}"}}"#, "x".repeat(257));
    assert!(posted(Route::Quiesce, &long).is_err());
}
