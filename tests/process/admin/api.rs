//! What can be read.

use std::{
    io::Write,
    net::{SocketAddr, TcpListener},
};

use gwm::sasp::{LbFlags, ReturnCode};
use serde_json::{Value, json};

use super::{get, read, start};
use crate::harness::{LB, MEMBER, TempFile, until};

fn strings<'a>(rows: &'a Value, field: &str) -> Vec<&'a str> {
    let rows = rows.as_array().expect("a list");
    rows.iter().map(|row| row[field].as_str().expect("a text")).collect()
}

#[test]
fn lists_show_load_balancers_groups_and_members() {
    let daemon = start(&[]);
    let mut lb = daemon.connect();
    assert_eq!(lb.register(LB, "LB1", "web", &["10.0.0.1:80 one", "10.0.0.2:80"]), ReturnCode::SUCCESSFUL);
    assert_eq!(
        lb.register(LB, "LB1", "dns", &["10.0.0.1:53/udp", "[2001:db8::1]:53/udp", "10.0.0.9"]),
        ReturnCode::SUCCESSFUL
    );
    lb.set_lb("LB1", LbFlags::PUSH | LbFlags::TRUST);
    let mut other = daemon.connect();
    other.register(LB, "LB\u{e9}", "web", &["10.0.0.1:80"]);

    let members = read(&daemon, "/api/v1/members?group=web");
    assert_eq!(members["next"], Value::Null);
    let first = &members["members"][0];
    let expected = json!({
        "address": "10.0.0.1", "port": 80, "protocol": "tcp", "label": "one", "group": "web",
        "load_balancer": {"uid": "LB1", "uid_hex": "4c4231"},
        "weight": 100, "contact": true, "confident": false, "quiesced": false, "state": 0,
        "registered_by_load_balancer": true, "standing": "unwatched", "policy": "auto", "quiesced_by": [],
        "fixed_by": null, "in_doubt": false, "blind": false,
        "reason": "nothing watches it: its capacity is its weight, and it is not confident",
        "changed_at": read(&daemon, "/api/v1/member?group=web&address=10.0.0.1&port=80")["history"][0]["at"]
    });
    assert_eq!(*first, expected);
    assert!(first["changed_at"].is_string(), "when it was registered");
    assert_eq!(strings(&members["members"], "address"), ["10.0.0.1", "10.0.0.2", "10.0.0.1"]);

    let lbs = read(&daemon, "/api/v1/load-balancers");
    let [lb1, lb2] = lbs["load_balancers"].as_array().expect("a list").as_slice() else { panic!("{lbs}") };
    assert_eq!((&lb1["uid"], &lb2["uid"], &lb2["uid_hex"]), (&json!("LB1"), &json!("LB\u{e9}"), &json!("4c42c3a9")));
    for (field, value) in [
        ("connected", json!(true)),
        ("peer", json!("127.0.0.1")),
        ("certificate", Value::Null),
        ("shard", json!(0)),
        ("health", json!(127)),
        ("push", json!(true)),
        ("trust", json!(true)),
        ("no_change", json!(false)),
        ("held_until", Value::Null),
        ("groups", json!(2)),
        ("members", json!(5)),
        ("bytes_waiting", json!(0)),
    ] {
        assert_eq!(lb1[field], value, "{field}");
    }
    assert!(lb1["bound_at"].as_str().is_some_and(|time| time.ends_with('Z')));
    until("a push is seen", || !read(&daemon, "/api/v1/load-balancers")["load_balancers"][0]["last_push_at"].is_null());

    let groups = read(&daemon, "/api/v1/groups?load_balancer=LB1");
    assert_eq!(strings(&groups["groups"], "group"), ["web", "dns"]);
    assert_eq!(groups["groups"][0]["members"], 2);
    assert_eq!((&groups["groups"][0]["unknown"], &groups["groups"][0]["weight"]), (&json!(2), &json!(200)));

    let endpoints = read(&daemon, "/api/v1/endpoints");
    assert_eq!(endpoints["endpoints"].as_array().map(Vec::len), Some(5), "each once");
    let one = read(&daemon, "/api/v1/endpoints?address=10.0.0.1&port=80&protocol=tcp");
    assert_eq!(one["endpoints"][0]["groups"], 2);

    let totals = read(&daemon, "/api/v1/totals");
    assert_eq!(
        (&totals["load_balancers"], &totals["memberships"], &totals["connections"]),
        (&json!(2), &json!(6), &json!(2))
    );

    drop(other);
    until("the load balancer is held", || {
        let held = read(&daemon, "/api/v1/load-balancers?state=held");
        held["load_balancers"].as_array().is_some_and(|rows| rows.len() == 1 && rows[0]["held_until"].is_string())
    });
}

#[test]
fn filters_choose_rows() {
    let daemon = start(&[]);
    let mut lb = daemon.connect();
    lb.register(
        LB,
        "LB1",
        "web",
        &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.2:81", "10.0.0.3:80/udp", "[::ffff:10.0.0.1]:80"],
    );
    lb.register(LB, "LB1", "db", &["10.0.0.1:80"]);
    lb.set_member(LB, ("LB1", "web", "10.0.0.2:81"), 7, true);
    let count = |query: &str| read(&daemon, &format!("/api/v1/members?{query}"))["members"].as_array().unwrap().len();
    for (query, rows) in [
        ("", 6),
        ("group=db", 1),
        ("group=none", 0),
        ("load_balancer=LB1", 6),
        ("load_balancer_hex=4c4231&group=web", 5),
        ("address=10.0.0.2", 2),
        ("address=10.0.0.1&port=80&protocol=tcp", 3),
        ("address=::ffff:10.0.0.1", 3),
        ("port=81", 1),
        ("protocol=udp", 1),
        ("state=quiesced", 1),
        ("state=up", 0),
        ("state=unknown", 5),
        ("state=down", 0),
        ("state=drained", 0),
        ("group=web&address=10.0.0.1&port=80&protocol=6", 2),
    ] {
        assert_eq!(count(query), rows, "{query}");
    }
    let quiesced = read(&daemon, "/api/v1/members?state=quiesced");
    assert_eq!(
        (&quiesced["members"][0]["quiesced_by"], &quiesced["members"][0]["state"]),
        (&json!(["member"]), &json!(7))
    );
    for path in [
        "members?load_balancer=LB2",
        "members?load_balancer=LB1&group=x",
        "groups?load_balancer=LB2",
        "load-balancers?load_balancer=LB2",
        "member?group=web&address=10.0.0.77&port=80",
        "endpoint?address=10.0.0.77",
    ] {
        let answer = get(&daemon, &format!("/api/v1/{path}"));
        assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (404, Some("not_found")), "{path}");
    }
}

#[test]
fn pages_go_on_where_the_last_one_ended() {
    let daemon = start(&[]);
    let members: Vec<String> = (0..50).map(|n| format!("10.0.{}.{}:80", n / 10, n % 10 + 1)).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    for uid in ["LB1", "LB2", "LB3"] {
        let mut lb = daemon.connect();
        lb.register(LB, uid, "a", &members);
        lb.register(LB, uid, "b", &members[..7]);
    }
    let walk = |path: &str, list: &str, limit: usize| {
        let (mut rows, mut after, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = read(&daemon, &format!("/api/v1/{path}limit={limit}{after}"));
            let here = page[list].as_array().expect("a list");
            assert!(here.len() <= limit);
            rows.extend(here.clone());
            pages += 1;
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return (rows, pages),
            }
        }
    };
    for (path, list, rows) in [
        ("members?", "members", 171),
        ("members?group=b&", "members", 21),
        ("members?load_balancer=LB2&", "members", 57),
        ("members?load_balancer=LB2&group=a&", "members", 50),
        ("members?address=10.0.0.1&port=80&protocol=tcp&", "members", 6),
        ("members?address=10.0.0.1&", "members", 6),
        ("groups?", "groups", 6),
        ("load-balancers?", "load_balancers", 3),
        ("endpoints?", "endpoints", 50),
    ] {
        let (whole, _) = walk(path, list, 1000);
        assert_eq!(whole.len(), rows, "{path}");
        for limit in [1, 7] {
            let (pieces, pages) = walk(path, list, limit);
            // What shards know changes from page to page: only the names count here.
            let names = |rows: &[Value]| -> Vec<String> {
                rows.iter()
                    .map(|row| {
                        format!("{} {} {} {}", row["address"], row["group"], row["load_balancer"]["uid"], row["uid"])
                    })
                    .collect()
            };
            assert_eq!(names(&pieces), names(&whole), "{path}");
            assert!(pages >= rows.div_ceil(limit), "{path}");
        }
    }
}

#[test]
fn names_are_bytes() {
    let daemon = start(&[]);
    let mut lb = daemon.connect();
    lb.register(LB, "L\u{202e}B 'x'", "a=b*", &["10.0.0.1:80"]);
    let row = &read(&daemon, "/api/v1/groups")["groups"][0];
    assert_eq!(row["group"], "a\\x3Db\\x2A");
    let uid = row["load_balancer"]["uid"].as_str().expect("a text").to_owned();
    assert_eq!(uid, "L\\u{202e}B \\x27x\\x27");
    // What is shown is what filters read.
    let quoted: String = format!("load_balancer={uid}&group=a\\x3Db\\x2A")
        .bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() || b"&=_".contains(&byte) {
                (byte as char).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect();
    let found = read(&daemon, &format!("/api/v1/members?{quoted}"));
    assert_eq!(found["members"].as_array().map(Vec::len), Some(1));
}

#[test]
fn one_member_says_why_it_has_its_weight() {
    let open = TcpListener::bind("127.0.0.1:0").expect("a port");
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (up, down) = (open.local_addr().unwrap(), closed.local_addr().unwrap());
    drop(closed);
    let flags =
        ["--probe", "tcp", "--probe-interval", "20ms", "--panic-percent", "100", "--shards", "2", "--probe-fall", "2"];
    let daemon = start(&flags);
    let mut lb = daemon.connect();
    let (up_text, down_text) = (up.to_string(), down.to_string());
    assert_eq!(lb.register(LB, "LB1", "web", &[&up_text, &down_text]), ReturnCode::SUCCESSFUL);
    let member = |port: u16| read(&daemon, &format!("/api/v1/member?group=web&address=127.0.0.1&port={port}"));
    until("one is down", || member(down.port())["standing"] == "down");
    until("the other is up", || member(up.port())["standing"] == "up");
    let row = member(down.port());
    assert_eq!((&row["weight"], &row["contact"]), (&json!(0), &json!(false)));
    assert_eq!(row["reason"], "down: connection refused");
    let why = &row["why"];
    assert_eq!(why["text"], "weight = 0: it is down");
    assert_eq!(why["last_failure"]["text"], "connection refused");
    assert_eq!(
        (&why["checks"][0]["check"], &why["checks"][0]["state"], &why["checks"][0]["up"]),
        (&json!("tcp"), &json!("failing"), &json!(false))
    );
    assert_eq!(row["history"][0]["kind"], "standing");
    assert_eq!((&row["history"][0]["from"], &row["history"][0]["to"]), (&json!("unknown"), &json!("down")));
    assert_eq!(row["history"].as_array().unwrap().last().unwrap()["kind"], "registered");

    let why = member(up.port())["why"].clone();
    assert_eq!((&why["capacity"]["value"], &why["ramp"]["value"]), (&json!(100.0), &json!(1.0)));
    assert!(why["text"].as_str().unwrap().contains("(capacity)"), "{why}");
    let endpoint = read(&daemon, &format!("/api/v1/endpoint?address=127.0.0.1&port={}", up.port()));
    assert_eq!((&endpoint["standing"], &endpoint["answers"]), (&json!("up"), &json!(true)));
    assert_eq!(endpoint["verdicts"]["auto"]["contact"], true);

    // Both shards have checks, and one list shows them all.
    let checks = read(&daemon, "/api/v1/checks");
    let mut all: Vec<Value> = checks["checks"].as_array().unwrap().clone();
    let mut next = checks["next"].clone();
    while let Some(after) = next.as_str() {
        let page = read(&daemon, &format!("/api/v1/checks?after={after}"));
        all.extend(page["checks"].as_array().unwrap().clone());
        next = page["next"].clone();
    }
    assert_eq!(all.len(), 2);
    let failing = read(&daemon, &format!("/api/v1/checks?state=failing&address=127.0.0.1&port={}", down.port()));
    let shards = all.iter().map(|check| check["shard"].as_u64().unwrap()).max();
    assert!(failing["checks"].as_array().unwrap().len() == 1 || shards == Some(1), "{failing}");
}

/// A server on a free port that says the same to everyone.
fn speaker(words: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it is bound");
    // The thread ends with the test's process.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.write_all(words.as_bytes());
        }
    });
    address
}

#[test]
fn the_why_names_what_the_agent_stated() {
    let (member, agent) = (speaker(""), speaker("50%\n"));
    let file = TempFile::new(
        "agent.toml",
        format!(
            "[[member]]\naddress = \"127.0.0.1\"\nport = {}\nweight = 80\nmonitor = [\"tcp\", \"agent\"]\nagent_port = {}\n",
            member.port(),
            agent.port()
        ),
    );
    let daemon = start(&["--members", file.path(), "--probe-interval", "20ms"]);
    let mut lb = daemon.connect();
    lb.register(LB, "LB1", "web", &[&member.to_string()]);
    let path = format!("/api/v1/member?group=web&address=127.0.0.1&port={}", member.port());
    until("the agent's word counts", || read(&daemon, &path)["weight"] == 40);
    let why = read(&daemon, &path)["why"].clone();
    assert_eq!(
        (&why["capacity"]["value"], &why["capacity"]["source"]),
        (&json!(80.0), &json!("the weight in the members file"))
    );
    assert_eq!(
        (&why["availability"]["value"], &why["availability"]["source"]),
        (&json!(0.5), &json!("the agent states 50%"))
    );
    assert!(why["availability"]["at"].is_string(), "{why}");
    let text = why["text"].as_str().expect("a text");
    assert!(text.starts_with("weight = 40 = 80 (capacity) x 0.5 (availability) x 1 (health) x 1 (ramp)"), "{text}");
    let mut kinds: Vec<_> = strings(&why["checks"], "check");
    kinds.sort_unstable();
    assert_eq!(kinds, ["agent", "tcp"]);
}

#[test]
fn the_configuration_and_the_limits_are_shown() {
    let file = TempFile::new("members.toml", "[[member]]\naddress = \"10.0.0.1\"\nport = 80\nquiesced = true\n");
    let serve = TempFile::new("serve.toml", "weight-max = 9\n");
    let flags = ["--hold-time", "17m", "--max-groups", "7", "--members", file.path(), "--config", serve.path()];
    let daemon = start(&flags);
    let mut lb = daemon.connect();
    lb.register(LB, "LB1", "web", &["10.0.0.1:80"]);
    let config = read(&daemon, "/api/v1/config");
    let setting = |flag: &str| config["settings"].as_array().unwrap().iter().find(|row| row["flag"] == flag).cloned();
    let hold_time = json!({"flag": "--hold-time", "value": "17m", "source": "flag", "at": null});
    assert_eq!(setting("--hold-time"), Some(hold_time));
    let weight_max = setting("--weight-max").unwrap();
    assert_eq!((&weight_max["source"], &weight_max["at"]), (&json!("file"), &json!(format!("{}:1", serve.path()))));
    assert_eq!(setting("--push-window").unwrap()["source"], "default");
    assert!(setting("--max-connections").unwrap()["value"].is_string(), "what the daemon chose");
    let limits = read(&daemon, "/api/v1/limits");
    let limit = limits["limits"].as_array().unwrap().iter().find(|row| row["name"] == "groups").unwrap();
    assert_eq!((&limit["used"], &limit["max"], &limit["flag"]), (&json!(1), &json!(7), &json!("--max-groups")));
    let version = read(&daemon, "/api/v1/version");
    assert_eq!(
        (&version["version"], &version["writes_survive_restart"]),
        (&json!(env!("CARGO_PKG_VERSION")), &json!(false))
    );
    let features = version["features"].as_array().unwrap();
    let has = |name: &str| features.contains(&json!(name));
    assert_eq!([has("fleet"), has("xds")], [cfg!(feature = "fleet"), cfg!(feature = "xds")], "{version}");
    // The file's word, told apart.
    let member = read(&daemon, "/api/v1/members")["members"][0].clone();
    assert_eq!((&member["quiesced_by"], &member["weight"]), (&json!(["file"]), &json!(0)));
    assert_eq!(read(&daemon, "/healthz"), json!({"alive": true}));
    assert_eq!(read(&daemon, "/readyz"), json!({"ready": true, "reasons": []}));
    daemon.stop();
}

#[test]
fn a_blind_daemon_is_alive_and_not_ready() {
    let daemon = start(&["--probe", "tcp", "--probe-interval", "20ms"]);
    let open = |host: u8| TcpListener::bind(format!("127.0.0.{host}:0")).expect("a port");
    let members: Vec<TcpListener> = (1..=4).map(open).collect();
    let names: Vec<String> = members.iter().map(|member| member.local_addr().unwrap().to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut lb = daemon.connect();
    lb.register(LB, "LB1", "web", &names);
    until("all are up", || read(&daemon, "/api/v1/totals")["answering"] == 4);
    assert_eq!(get(&daemon, "/readyz").status, 200);
    drop(members);
    until("nothing answers", || get(&daemon, "/readyz").status == 503);
    let expected = json!({"ready": false, "reasons": ["blind: no member or witness answers"]});
    assert_eq!(get(&daemon, "/readyz").json(), expected);
    assert_eq!(read(&daemon, "/healthz"), json!({"alive": true}));
}

#[test]
fn other_programs_get_members() {
    let daemon = start(&[]);
    let mut lb = daemon.connect();
    lb.register(LB, "LB1", "web", &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80/udp", "10.0.0.4"]);
    lb.set_member(LB, ("LB1", "web", "10.0.0.2:80"), 0, true);
    let mut other = daemon.connect();
    other.register(LB, "LB2", "web", &["10.0.0.1:80", "10.0.0.5:80"]);
    other.register(LB, "LB2", "db", &["[2001:db8::1]:5432"]);
    let expected = json!([
        {"targets": ["[2001:db8::1]:5432"], "labels": {"__meta_gwm_group": "db"}},
        {"targets": ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.5:80"], "labels": {"__meta_gwm_group": "web"}}
    ]);
    assert_eq!(read(&daemon, "/sd/prometheus"), expected);
    let traefik = read(&daemon, "/sd/traefik?load_balancer=LB1");
    let servers = &traefik["http"]["services"]["web"]["loadBalancer"]["servers"];
    assert_eq!(*servers, json!([{"url": "http://10.0.0.1:80", "weight": 100}]), "a quiesced one gets nothing");
    let _ = MEMBER;
}
