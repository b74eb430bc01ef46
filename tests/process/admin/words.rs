//! What the operator says, and does.

use std::io::Write;

use gwm::sasp::{LbFlags, ReturnCode};
use serde_json::json;

use super::{connect, post, read, request, start, write};
use crate::harness::{Daemon, LB, TempFile, until};

/// Weights and flags of the members of `group`, as the load balancer of `peer` gets them.
fn member<'a>(rows: &'a serde_json::Value, address: &str) -> &'a serde_json::Value {
    let rows = rows["members"].as_array().expect("a list");
    rows.iter().find(|row| row["address"] == address).unwrap_or_else(|| panic!("no {address}"))
}

fn quiesced(daemon: &Daemon, query: &str) -> Vec<String> {
    let rows = read(daemon, &format!("/api/v1/members?state=quiesced&limit=1000{query}"));
    let rows = rows["members"].as_array().expect("a list");
    let name = |row: &serde_json::Value| {
        format!(
            "{} {} {}",
            row["load_balancer"]["uid"].as_str().unwrap(),
            row["group"].as_str().unwrap(),
            row["address"].as_str().unwrap()
        )
    };
    rows.iter().map(name).collect()
}

#[test]
fn a_member_that_is_quiesced_here_gets_no_work() {
    let daemon = start(&["--push-window", "1ms"]);
    let mut lb = daemon.connect();
    lb.register(LB, "LB1", "web", &["10.0.0.1:80", "10.0.0.2:80"]);
    lb.set_lb("LB1", LbFlags::PUSH);
    lb.push();
    let body = r#"{"group":"web","load_balancer":"LB1","address":"10.0.0.1","port":80,"protocol":"tcp","reason":"new disk","by":"ann"}"#;
    let done = write(&daemon, "/api/v1/members/quiesce", body);
    assert_eq!((&done["matches_now"], &done["survives_restart"]), (&json!(true), &json!(false)));
    assert!(done["done"].as_str().unwrap().ends_with("until it is resumed or the daemon stops"));
    let pushed = lb.push();
    assert!(pushed.contains("10.0.0.1"), "{pushed}");
    let row = read(&daemon, "/api/v1/member?group=web&address=10.0.0.1&port=80");
    assert_eq!(
        (&row["weight"], &row["quiesced_by"], &row["reason"]),
        (&json!(0), &json!(["operator"]), &json!("quiesced by the operator"))
    );
    assert_eq!((&row["words"][0]["reason"], &row["words"][0]["by"]), (&json!("new disk"), &json!("ann")));
    assert_eq!(row["why"]["quiesce"]["source"], "quiesced by operator (ann): new disk");
    assert_eq!((&row["why"]["quiesce"]["at"], &row["changed_at"]), (&row["words"][0]["at"], &row["words"][0]["at"]));
    assert!(row["words"][0]["from"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(row["history"][0]["kind"], "quiesced");
    daemon.wait_for_log(&[
        "INFO",
        "operator: quiesce members with address 10.0.0.1, port 80, protocol tcp, group \"web\"",
        "by=ann",
        "reason=new disk",
        "from=127.0.0.1:",
    ]);

    // The member's own word is another one: it neither ends nor is ended by the operator's.
    lb.set_member(LB, ("LB1", "web", "10.0.0.1:80"), 0, true);
    let row = read(&daemon, "/api/v1/member?group=web&address=10.0.0.1&port=80");
    assert_eq!(row["quiesced_by"], json!(["member", "operator"]));
    lb.set_member(LB, ("LB1", "web", "10.0.0.1:80"), 0, false);
    assert_eq!(quiesced(&daemon, ""), ["LB1 web 10.0.0.1"]);
    write(&daemon, "/api/v1/members/resume", r#"{"group":"web","address":"10.0.0.1","reason":"done"}"#);
    assert!(quiesced(&daemon, "").is_empty());
    assert!(read(&daemon, "/api/v1/words")["words"].as_array().unwrap().is_empty());
    let answer = post(&daemon, "/api/v1/members/resume", r#"{"group":"web","reason":"again"}"#);
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (409, Some("nothing_said")));
    daemon.wait_for_log(&["WARN", "operator: resume members with group \"web\": refused"]);
}

#[test]
fn what_is_left_out_matches_all_now_and_later() {
    let daemon = start(&[]);
    let mut peers: Vec<_> = ["LB1", "LB2"].map(|uid| (uid, daemon.connect())).into();
    for (uid, peer) in &mut peers {
        peer.register(LB, uid, "web", &["10.0.0.1:80", "10.0.0.2:80"]);
        peer.register(LB, uid, "db", &["10.0.0.1:80"]);
    }
    write(&daemon, "/api/v1/members/quiesce", r#"{"group":"web","reason":"r"}"#);
    assert_eq!(quiesced(&daemon, ""), ["LB1 web 10.0.0.1", "LB1 web 10.0.0.2", "LB2 web 10.0.0.1", "LB2 web 10.0.0.2"]);
    // Who comes later is meant, too.
    assert_eq!(peers[0].1.register(LB, "LB1", "web", &["10.0.0.3:80"]), ReturnCode::SUCCESSFUL);
    assert_eq!(quiesced(&daemon, "&load_balancer=LB1").len(), 3);
    // One of them is an exception.
    let done = write(
        &daemon,
        "/api/v1/members/resume",
        r#"{"group":"web","load_balancer":"LB2","address":"10.0.0.2","reason":"r"}"#,
    );
    assert_eq!(done["done"], "resumed; a wider quiesce stays in force, and this exception ends with that quiesce");
    assert_eq!(quiesced(&daemon, "&load_balancer=LB2"), ["LB2 web 10.0.0.1"]);
    write(&daemon, "/api/v1/members/resume", r#"{"reason":"all"}"#);
    assert!(quiesced(&daemon, "").is_empty());

    // An endpoint, in all groups and under any port.
    write(&daemon, "/api/v1/members/quiesce", r#"{"address":"10.0.0.1","reason":"r"}"#);
    assert_eq!(quiesced(&daemon, ""), ["LB1 web 10.0.0.1", "LB1 db 10.0.0.1", "LB2 web 10.0.0.1", "LB2 db 10.0.0.1"]);
    let endpoint = read(&daemon, "/api/v1/endpoint?address=10.0.0.1&port=80");
    assert_eq!((&endpoint["quiesced_by"], &endpoint["history"][0]["kind"]), (&json!(["operator"]), &json!("quiesced")));
    let answer = post(&daemon, "/api/v1/members/resume", r#"{"group":"web","address":"10.0.0.1","reason":"r"}"#);
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (409, Some("wider_word")));
    write(&daemon, "/api/v1/members/resume", r#"{"address":"10.0.0.1","port":80,"protocol":"tcp","reason":"r"}"#);
    assert!(quiesced(&daemon, "").is_empty(), "an exception for the one port that is there");
    write(&daemon, "/api/v1/members/quiesce", r#"{"load_balancer":"LB2","reason":"r"}"#);
    assert_eq!(quiesced(&daemon, "").len(), 3);
    let none = write(&daemon, "/api/v1/members/quiesce", r#"{"address":"10.9.9.9","reason":"typo"}"#);
    let told =
        "quiesced until it is resumed or the daemon stops; no member matches now, and those count that come later";
    assert_eq!((&none["matches_now"], &none["done"]), (&json!(false), &json!(told)));
}

#[test]
fn a_fixed_weight_is_the_weight_until_it_is_released() {
    let daemon = start(&["--probe", "tcp", "--probe-interval", "20ms"]);
    let mut lb = daemon.connect();
    lb.register(LB, "LB1", "web", &["127.0.0.1:1", "10.0.0.2:80"]);
    let weight = || read(&daemon, "/api/v1/member?group=web&address=127.0.0.1&port=1");
    until("it is down", || weight()["standing"] == "down");
    write(
        &daemon,
        "/api/v1/members/fix-weight",
        r#"{"address":"127.0.0.1","port":1,"protocol":"tcp","weight":42,"reason":"r"}"#,
    );
    let row = weight();
    assert_eq!((&row["weight"], &row["contact"], &row["confident"]), (&json!(42), &json!(true), &json!(true)));
    assert_eq!((&row["fixed_by"], &row["standing"]), (&json!("operator"), &json!("unwatched")));
    assert_eq!(row["why"]["text"], "weight = 42 = 42 (fixed); nothing is checked");
    assert!(row["why"]["capacity"]["source"].as_str().unwrap().starts_with("fixed by operator (127.0.0.1:"));
    let answer = post(&daemon, "/api/v1/members/fix-weight", r#"{"address":"127.0.0.1","weight":101,"reason":"r"}"#);
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (409, Some("weight")));
    let done = write(&daemon, "/api/v1/members/release-weight", r#"{"address":"127.0.0.1","reason":"r"}"#);
    assert_eq!(done["withdrawn"], json!([1]));
    until("it is checked again", || weight()["standing"] == "down");
    assert!(weight()["history"].as_array().unwrap().iter().any(|change| change["kind"] == "fixed"));
    let answer = post(&daemon, "/api/v1/members/release-weight", r#"{"reason":"r"}"#);
    assert_eq!(answer.status, 409);
}

#[test]
fn a_word_ends_by_itself() {
    let daemon = start(&[]);
    let mut lb = daemon.connect();
    lb.register(LB, "LB1", "web", &["10.0.0.1:80"]);
    let done = write(&daemon, "/api/v1/members/quiesce", r#"{"group":"web","reason":"r","expires_in_seconds":1}"#);
    let end = done["word"]["expires_at"].as_str().expect("a time");
    let told = done["done"].as_str().expect("a text");
    assert_eq!(told, format!("quiesced until {end}, or until the daemon stops"));
    daemon.wait_for_log(&["operator: quiesce members with group \"web\": quiesced until ", end]);
    until("the word ends", || quiesced(&daemon, "").is_empty());
    daemon.wait_for_log(&[
        "INFO",
        "operator: quiesce members with group \"web\": the time is over: word 1 has ended",
        "reason=r",
        "from=127.0.0.1:",
    ]);
    assert!(read(&daemon, "/api/v1/words")["words"].as_array().unwrap().is_empty());
}

#[test]
fn load_balancers_are_dropped_and_forgotten() {
    let daemon = start(&[]);
    let mut lb = daemon.connect();
    lb.register(LB, "LB1", "web", &["10.0.0.1:80"]);
    let body = r#"{"load_balancer":"LB1","reason":"r","by":"bob"}"#;
    let connected = post(&daemon, "/api/v1/load-balancers/forget", body);
    assert_eq!((connected.status, connected.json()["error"]["code"].as_str()), (409, Some("connected")));
    write(&daemon, "/api/v1/load-balancers/drop", body);
    lb.expect_end();
    assert_eq!(read(&daemon, "/api/v1/totals")["load_balancers"], 1, "it is held");
    daemon.wait_for_log(&["closed: the operator dropped its load balancer"]);
    let again = post(&daemon, "/api/v1/load-balancers/drop", body);
    assert_eq!((again.status, again.json()["error"]["code"].as_str()), (409, Some("not_connected")));
    write(&daemon, "/api/v1/load-balancers/forget", body);
    assert_eq!(read(&daemon, "/api/v1/totals")["load_balancers"], 0);
    assert_eq!(post(&daemon, "/api/v1/load-balancers/forget", body).status, 404);
    daemon.wait_for_log(&["operator: forget load balancer \"LB1\": forgotten", "by=bob"]);
}

#[test]
fn files_are_read_again() {
    let member = |more: &str| format!("[[member]]\naddress = \"10.0.0.1\"\nport = 80\n{more}\n");
    let file = TempFile::new("members.toml", member("weight = 7"));
    let daemon = start(&["--members", file.path()]);
    let mut lb = daemon.connect();
    lb.register(LB, "LB1", "web", &["10.0.0.1:80"]);
    let rows = || read(&daemon, "/api/v1/members");
    assert_eq!(member_of(&rows())["weight"], 7);
    file.write(member("weight = 9\nmonitor = \"none\""));
    write(&daemon, "/api/v1/reload", r#"{"reason":"new file"}"#);
    until("the new file is in force", || member_of(&rows())["weight"] == 9);
    assert_eq!(member_of(&rows())["fixed_by"], "file");
    daemon.wait_for_log(&["operator: reload", "reason=new file"]);
    daemon.wait_for_log(&["reload by the admin side: ", "is in force"]);
    assert!(!daemon.log().contains("SIGHUP"), "{}", daemon.log());
}

fn member_of(rows: &serde_json::Value) -> serde_json::Value {
    member(rows, "10.0.0.1").clone()
}

#[test]
fn a_write_is_logged_though_its_peer_goes_away() {
    let daemon = start(&[]);
    for number in 0..20 {
        let body = format!(r#"{{"address":"10.0.0.1","port":{},"reason":"gone {number}"}}"#, 8000 + number);
        let headers = "Content-Type: application/json\r\n";
        let request = request("POST", "/api/v1/members/quiesce", headers, &body);
        connect(&daemon).write_all(request.as_bytes()).expect("a new connection takes it");
    }
    let words = || read(&daemon, "/api/v1/words")["words"].as_array().expect("a list").len();
    let logged = || daemon.log().lines().filter(|line| line.contains("operator: quiesce")).count();
    until("each word that is in force is logged", || words() > 0 && words() == logged());
}
