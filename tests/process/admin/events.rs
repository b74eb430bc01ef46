//! The stream of changes.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    time::Instant,
};

use gwm::sasp::LbFlags;
use serde_json::Value;

use super::{connect, start, write};
use crate::harness::{Daemon, LB, PATIENCE};

/// A client that follows.
struct Follower(BufReader<TcpStream>);

#[derive(Debug)]
struct Event {
    id: String,
    name: String,
    data: Value,
}

impl Follower {
    fn new(daemon: &Daemon, last_event_id: Option<&str>) -> Follower {
        let mut stream = connect(daemon);
        let id = last_event_id.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let request = format!("GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n{id}\r\n");
        stream.write_all(request.as_bytes()).expect("the daemon takes the request");
        let mut follower = Follower(BufReader::new(stream));
        let mut line = follower.line();
        assert!(line.contains(" 200 "), "{line}");
        while !line.is_empty() {
            line = follower.line();
        }
        follower
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.0.read_line(&mut line).expect("a line") > 0, "the stream ended");
        line.trim_end().to_owned()
    }

    /// The next event; comments and the sizes of chunks are left out.
    fn next(&mut self) -> Event {
        let (mut id, mut name) = (String::new(), String::new());
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < PATIENCE, "only comments come");
            let line = self.line();
            match line.split_once(": ") {
                Some(("id", value)) => id = value.into(),
                Some(("event", value)) => name = value.into(),
                Some(("data", value)) => {
                    let data = serde_json::from_str(value).expect("JSON");
                    return Event { id, name, data };
                }
                _ => {}
            }
        }
    }

    /// The first id that the stream states.
    fn first_id(&mut self) -> String {
        loop {
            if let Some(id) = self.line().strip_prefix("id: ") {
                return id.to_owned();
            }
        }
    }

    fn until(&mut self, name: &str, fits: impl Fn(&Value) -> bool) -> Event {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < PATIENCE, "no event {name}");
            let event = self.next();
            if event.name == name && fits(&event.data) {
                return event;
            }
        }
    }
}

#[test]
fn who_follows_hears_of_changes_and_goes_on_after_a_break() {
    let daemon = start(&[]);
    let mut follower = Follower::new(&daemon, None);
    let before = follower.first_id();
    let mut lb = daemon.connect();
    lb.register(LB, "LB1", "web", &["10.0.0.1:80"]);
    lb.set_lb("LB1", LbFlags::PUSH);
    follower.until("load_balancer", |data| data["change"] == "bound" && data["uid"] == "LB1");
    follower.until("group", |data| {
        data["change"] == "registered" && data["group"] == "web" && data["load_balancer"]["uid"] == "LB1"
    });
    write(&daemon, "/api/v1/members/quiesce", r#"{"address":"10.0.0.1","reason":"r"}"#);
    follower.until("words", |_| true);
    let event = follower.until("endpoint", |data| data["quiesced"] == true);
    assert_eq!(
        (&event.data["address"], &event.data["quiesced_by"][0]),
        (&Value::from("10.0.0.1"), &Value::from("operator"))
    );
    drop(lb);
    let last = follower.until("load_balancer", |data| data["change"] == "unbound");

    // From the beginning, from the end, and from another daemon.
    let mut again = Follower::new(&daemon, Some(&before));
    let first = again.next();
    assert_eq!((first.name.as_str(), &first.data["change"]), ("load_balancer", &Value::from("bound")));
    again.until("load_balancer", |data| data["change"] == "unbound");
    let mut at_end = Follower::new(&daemon, Some(&last.id));
    write(&daemon, "/api/v1/members/resume", r#"{"reason":"r"}"#);
    let next = at_end.next();
    assert!(["words", "endpoint"].contains(&next.name.as_str()), "{next:?}");
    let mut other = Follower::new(&daemon, Some("1-5"));
    let reset = other.next();
    assert_eq!(reset.name, "reset");
    assert_ne!(reset.id, "1-5");
}

#[test]
fn all_who_have_places_follow_and_one_more_takes_the_oldest_place() {
    let daemon = start(&[]);
    let mut followers: Vec<_> = (0..=gwm::limits::ADMIN_STREAMS).map(|_| Follower::new(&daemon, None)).collect();
    followers.remove(0);
    let mut lb = daemon.connect();
    lb.register(LB, "LB1", "web", &["10.0.0.1:80"]);
    for follower in &mut followers {
        follower.until("group", |data| data["group"] == "web");
    }
    daemon.stop();
}
