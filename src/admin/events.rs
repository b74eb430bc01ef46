//! Changes as server-sent events. The id of an event is the daemon's own number and the number of the event, so that a
//! client that comes back to another daemon reads everything again.

use serde::Serialize;

use super::{
    Calendar,
    rows::{EndpointJson, LbName, text},
};
use crate::coordinator::{Event, EventRow};

/// A comment, which keeps the connection open.
pub const KEEP_ALIVE: &str = ":\n\n";

/// How soon a client comes back.
pub const RETRY: &str = "retry: 1000\n\n";

/// The event that says: read everything again, and go on after this number.
pub fn reset(daemon: u64, last: u64) -> String {
    format!("id: {daemon:x}-{last}\nevent: reset\ndata: {{}}\n\n")
}

/// Events as text; the id of all is that of the last one, so that a client goes on after it. Of equal events the last is
/// told: the last event about a thing says what is so now.
pub fn text_of(rows: &[EventRow], daemon: u64, last: u64, calendar: &Calendar) -> String {
    let mut told: Vec<String> = Vec::new();
    for row in rows {
        let (name, data) = match row {
            EventRow::Endpoint(row) => ("endpoint", json(&EndpointJson::new(row, calendar))),
            EventRow::Blind(own, foreign) => ("blind", format!("{{\"own\":{own},\"foreign\":{foreign}}}")),
            EventRow::Other(Event::LoadBalancer { lb_uid, change }) => {
                #[derive(Serialize)]
                struct Lb<'a> {
                    #[serde(flatten)]
                    name: LbName,
                    change: &'a str,
                }
                ("load_balancer", json(&Lb { name: LbName::new(lb_uid), change }))
            }
            EventRow::Other(Event::Group { lb_uid, group, change }) => {
                #[derive(Serialize)]
                struct Group<'a> {
                    load_balancer: LbName,
                    group: String,
                    change: &'a str,
                }
                ("group", json(&Group { load_balancer: LbName::new(lb_uid), group: text(group), change }))
            }
            EventRow::Other(_) => ("words", "{}".into()),
        };
        told.push(format!("event: {name}\ndata: {data}\n\n"));
    }
    let mut seen = std::collections::HashSet::new();
    let mut events: Vec<&str> = told.iter().rev().map(String::as_str).filter(|event| seen.insert(*event)).collect();
    events.reverse();
    events.iter().map(|event| format!("id: {daemon:x}-{last}\n{event}")).collect()
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("strings, numbers and lists are JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_an_id_a_name_and_data() {
        let calendar = Calendar { zero: std::time::SystemTime::UNIX_EPOCH, words_survive: false };
        let bound = EventRow::Other(Event::LoadBalancer { lb_uid: b"LB\n1"[..].into(), change: "bound" });
        let rows = [EventRow::Blind(true, false), bound, EventRow::Other(Event::Words)];
        let expected = "id: 1f-9\nevent: blind\ndata: {\"own\":true,\"foreign\":false}\n\n\
            id: 1f-9\nevent: load_balancer\n\
            data: {\"uid\":\"LB\\\\n1\",\"uid_hex\":\"4c420a31\",\"change\":\"bound\"}\n\n\
            id: 1f-9\nevent: words\ndata: {}\n\n";
        assert_eq!(text_of(&rows, 0x1f, 9, &calendar), expected);
        assert_eq!(reset(0x1f, 3), "id: 1f-3\nevent: reset\ndata: {}\n\n");
    }

    #[test]
    fn of_equal_events_the_last_is_told() {
        let calendar = Calendar { zero: std::time::SystemTime::UNIX_EPOCH, words_survive: false };
        let lb = |change| EventRow::Other(Event::LoadBalancer { lb_uid: b"LB1"[..].into(), change });
        let text = text_of(&[lb("bound"), lb("unbound"), lb("bound"), EventRow::Blind(true, false)], 1, 4, &calendar);
        let changes: Vec<&str> = text.split("\"change\":").skip(1).filter_map(|rest| rest.split('"').nth(1)).collect();
        assert_eq!(changes, ["unbound", "bound"], "it is bound now");
    }
}
