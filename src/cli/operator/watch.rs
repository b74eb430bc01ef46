//! `gwm status --watch`: follows the daemon's events, and asks again for what they say has changed.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};
use tokio::runtime;

use super::{
    ask::{Daemon, LIVE},
    status::{self, What},
};
use crate::cli::{table::Screen, target::Failure};

/// The shortest time from one question to the next.
const PACE: Duration = Duration::from_secs(1);

/// How often the watch asks for what no event tells, such as bytes that wait and checks that fail.
const UNTOLD: Duration = Duration::from_secs(10);

/// The wait before the stream of events is opened again.
const RETRY: Duration = Duration::from_secs(1);

/// Of more endpoints the whole list is asked for.
const ENDPOINTS: usize = 50;

/// What the stream of events says.
enum News {
    /// The kind of an event, and its data.
    Event(String, Value),
    /// The daemon is gone.
    Gone(String),
}

/// Follows the events on a thread of its own, for ever.
fn follow(daemon: Daemon) -> Result<mpsc::Receiver<News>, Failure> {
    let (news, inbox) = mpsc::channel();
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("events".into()).spawn(move || {
        runtime.block_on(async {
            let mut last = None;
            loop {
                let take = |kind: &str, data| news.send(News::Event(kind.to_owned(), data)).is_ok();
                let why = daemon.follow(&mut last, take).await;
                if news.send(News::Gone(why)).is_err() {
                    return;
                }
                tokio::time::sleep(RETRY).await;
            }
        });
    })?;
    Ok(inbox)
}

/// What has to be asked for again.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stale {
    all: bool,
    /// Parts of the overview.
    parts: BTreeSet<&'static str>,
    /// Endpoints of a list of members: address, port, protocol.
    endpoints: BTreeSet<[String; 3]>,
}

impl Stale {
    fn is_empty(&self) -> bool {
        !self.all && self.parts.is_empty() && self.endpoints.is_empty()
    }

    /// Takes an event into account.
    fn note(&mut self, what: Option<&What>, kind: &str, data: &Value) {
        let is_lb_gone = data["change"] == "forgotten";
        match (what, kind) {
            (_, "reset") => self.all = true,
            (None, "endpoint" | "group") => self.parts.extend(["totals", "groups"]),
            (None, "load_balancer") => self.parts.extend(["totals", "limits", "groups"]),
            (None, "blind") => self.parts.extend(["totals", "groups"]),
            (None, "words") => self.parts.extend(["totals", "words", "groups"]),
            (Some(What::Lbs), "load_balancer" | "group") => self.all = true,
            (Some(What::Members { .. }), "endpoint") => {
                self.endpoints.insert(["address", "port", "protocol"].map(|field| show(&data[field])));
                self.all |= self.endpoints.len() > ENDPOINTS;
            }
            (Some(What::Member { member, .. }), "endpoint") => self.all |= data["address"] == *member.address,
            (Some(What::Groups(_)), "endpoint") => self.all = true,
            (Some(What::Groups(_) | What::Members { .. } | What::Member { .. }), kind) => {
                self.all |= matches!(kind, "group" | "blind" | "words") || is_lb_gone;
            }
            _ => {}
        }
    }
}

fn show(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What a watch has to show.
#[derive(Debug)]
enum Seen {
    /// The answer has changed, or the daemon is back.
    Value(Value),
    /// The daemon is gone, or does not answer.
    Why(String),
}

/// What was shown last.
#[derive(PartialEq, Eq)]
enum Shown {
    Nothing,
    Value,
    Why(String),
}

/// One watch.
struct Watch {
    daemon: Daemon,
    what: Option<What>,
    most: usize,
    inbox: mpsc::Receiver<News>,
    stale: Stale,
    /// The last answer.
    value: Value,
    shown: Shown,
    /// The stream of events is open.
    is_live: bool,
    asked_at: Option<Instant>,
    /// How often what no event tells is asked for.
    untold: Duration,
}

impl Watch {
    fn new(daemon: Daemon, what: Option<What>, most: usize, untold: Duration) -> Result<Watch, Failure> {
        let inbox = follow(daemon.clone())?;
        let (stale, value) = (Stale { all: true, ..Stale::default() }, Value::Null);
        let shown = Shown::Nothing;
        Ok(Watch { daemon, what, most, inbox, stale, value, shown, is_live: false, asked_at: None, untold })
    }

    /// Waits for something to show, at most so long.
    fn next(&mut self, patience: Duration) -> Result<Option<Seen>, Failure> {
        let end = Instant::now() + patience;
        loop {
            let now = Instant::now();
            if self.is_live && self.stale.is_empty() && self.shown != Shown::Value {
                self.shown = Shown::Value; // the daemon is back, and has told all that has changed
                return Ok(Some(Seen::Value(self.value.clone())));
            }
            let due = self.asked_at.map_or(now, |at| at + if self.stale.is_empty() { self.untold } else { PACE });
            if self.is_live && due <= now {
                if let Some(seen) = self.ask()? {
                    return Ok(Some(seen));
                }
                continue;
            }
            let until = if self.is_live { due.min(end) } else { end };
            match self.inbox.recv_timeout(until.saturating_duration_since(now)) {
                Ok(News::Event(kind, _)) if kind == LIVE => {
                    (self.is_live, self.shown) = (true, Shown::Nothing);
                }
                Ok(News::Event(kind, data)) => self.stale.note(self.what.as_ref(), &kind, &data),
                Ok(News::Gone(why)) => {
                    if std::mem::take(&mut self.is_live) || self.shown == Shown::Nothing {
                        self.shown = Shown::Why(why.clone());
                        return Ok(Some(Seen::Why(why)));
                    }
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() >= end => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::Failed("the watch has ended".into())),
            }
        }
    }

    /// Asks for what is stale; gives what is to be shown, if that is news.
    fn ask(&mut self) -> Result<Option<Seen>, Failure> {
        self.asked_at = Some(Instant::now());
        if self.stale.is_empty() {
            match self.what {
                None => self.stale.parts.extend(["totals", "limits"]),
                Some(_) => self.stale.all = true,
            }
        }
        match self.read() {
            Ok(value) => {
                self.stale = Stale::default();
                if value == self.value && self.shown == Shown::Value {
                    return Ok(None);
                }
                (self.value, self.shown) = (value, Shown::Value);
                Ok(Some(Seen::Value(self.value.clone())))
            }
            Err(Failure::Failed(why)) => {
                self.stale.all = true;
                let why = Shown::Why(why);
                if why == self.shown {
                    return Ok(None);
                }
                self.shown = why;
                match &self.shown {
                    Shown::Why(why) => Ok(Some(Seen::Why(why.clone()))),
                    _ => Ok(None),
                }
            }
            Err(other) => Err(other),
        }
    }

    fn read(&self) -> Result<Value, Failure> {
        let Watch { daemon, what, most, stale, .. } = self;
        if stale.all || self.value.is_null() {
            return status::look(daemon, what.as_ref(), *most);
        }
        let mut value = self.value.clone();
        for part in &stale.parts {
            value[*part] = status::part(daemon, part, *most)?;
        }
        if let Some(What::Members { which, state }) = what {
            for endpoint @ [address, port, protocol] in &stale.endpoints {
                let place = [("address", &**address), ("port", port), ("protocol", protocol)];
                let query = [&which.members(state.as_deref())[..], &place].concat();
                let (rows, _) = daemon.list("members", "members", &query, *most)?;
                replace(&mut value, endpoint, rows);
            }
        }
        Ok(value)
    }
}

/// Replaces the rows of one endpoint in a list of members, at their place.
fn replace(list: &mut Value, endpoint: &[String; 3], news: Vec<Value>) {
    let is_whole = list["more"] != true;
    let Some(rows) = list["members"].as_array_mut() else { return };
    let is_of = |row: &Value| ["address", "port", "protocol"].map(|field| show(&row[field])) == *endpoint;
    let first = rows.iter().position(is_of);
    rows.retain(|row| !is_of(row));
    // Of a list that is cut, nobody knows whether a row that was not there belongs to it.
    if let Some(at) = first.or(is_whole.then_some(rows.len())) {
        rows.splice(at..at, news);
    }
}

/// Shows what the command asks for until a signal ends the process.
pub(super) fn run(daemon: Daemon, what: Option<What>, most: usize, live: bool) -> Result<(), Failure> {
    let address = daemon.address.clone();
    let mut watch = Watch::new(daemon, what, most, UNTOLD)?;
    let Some(mut screen) = live.then(Screen::enter).transpose()? else {
        loop {
            let line = match watch.next(UNTOLD)? {
                Some(Seen::Value(value)) => value,
                Some(Seen::Why(why)) => json!({ "error": why }),
                None => continue,
            };
            let mut out = io::stdout().lock();
            writeln!(out, "{line}")?;
            out.flush()?;
        }
    };
    let mut title = format!("{address}: waiting for the daemon  (Ctrl-C ends)");
    loop {
        // Drawn again each second, too, because the terminal may have another size.
        let now = || humantime::format_rfc3339_seconds(SystemTime::now());
        match watch.next(PACE)? {
            Some(Seen::Value(_)) => title = format!("{address} at {}  (Ctrl-C ends)", now()),
            Some(Seen::Why(why)) => title = format!("{why}, since {}; trying again  (Ctrl-C ends)", now()),
            None => {}
        }
        let text = if watch.value.is_null() { Vec::new() } else { status::lines(&watch.value, screen.size().0) };
        screen.draw(&[vec![title.clone(), String::new()], text].concat())?;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        os::unix::net::{UnixListener, UnixStream},
    };

    use super::*;
    use crate::{cli::target::HOUR, config::AdminAddress};

    /// How long a test waits for what must happen.
    const DEADLINE: Duration = Duration::from_secs(60);

    /// A daemon that answers as the test says.
    struct Fake {
        listener: UnixListener,
        asked: Vec<String>,
        stream: Option<UnixStream>,
    }

    impl Fake {
        /// Takes one request, and answers with this; gives what was asked for. A stream of events stays open.
        fn serve(&mut self, answer: &str) -> String {
            let (mut stream, _) = self.listener.accept().expect("a client connects");
            let mut head = BufReader::new(stream.try_clone().expect("a descriptor")).lines();
            let first = head.next().expect("a request").expect("text");
            let rest: Vec<String> = head.map(|line| line.expect("text")).take_while(|line| !line.is_empty()).collect();
            let id = rest.iter().find_map(|line| line.strip_prefix("last-event-id: "));
            let path = first.split(' ').nth(1).expect("a path").trim_end_matches('?');
            let asked = format!("{path}{}", id.map(|id| format!(" after {id}")).unwrap_or_default());
            self.asked.push(asked.clone());
            write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{answer}").expect("it reads");
            if path.ends_with("/events") {
                self.stream = Some(stream);
            }
            asked
        }

        fn tell(&mut self, event: &str) {
            self.stream.as_mut().expect("a stream").write_all(event.as_bytes()).expect("it reads");
        }
    }

    fn row(address: &str, weight: u16) -> Value {
        json!({"address": address, "port": 80, "protocol": "tcp", "weight": weight})
    }

    fn page(rows: &[Value]) -> String {
        json!({"members": rows, "next": null}).to_string()
    }

    #[test]
    fn only_what_has_changed_is_asked_for_again() {
        let path = std::env::temp_dir().join(format!("gwm-watch-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("a free path");
        let mut fake = Fake { listener, asked: Vec::new(), stream: None };
        let daemon = Daemon {
            address: AdminAddress::Socket(path.clone()),
            token: None,
            timeout: DEADLINE,
            act_timeout: DEADLINE,
        };
        let (show, shown) = mpsc::channel();
        thread::spawn(move || {
            let which = Default::default();
            let mut watch =
                Watch::new(daemon, Some(What::Members { which, state: None }), 1000, HOUR).expect("it starts");
            while let Ok(seen) = watch.next(DEADLINE) {
                let text = match seen {
                    Some(Seen::Value(value)) => value["members"].to_string(),
                    Some(Seen::Why(why)) => why,
                    None => continue,
                };
                if show.send(text).is_err() {
                    return;
                }
            }
        });
        let next = || shown.recv_timeout(DEADLINE).expect("the watch shows something");
        let whole = "/api/v1/members?limit=1000";
        let one = "/api/v1/members?address=10.0.0.2&port=80&protocol=tcp&limit=1000";
        assert_eq!(fake.serve("retry: 1000\n\nid: 1f-7\n: from here on\n\n"), "/api/v1/events");
        assert_eq!(fake.serve(&page(&[row("10.0.0.1", 1), row("10.0.0.2", 2), row("10.0.0.3", 3)])), whole);
        assert!(next().contains(r#""10.0.0.2","port":80,"protocol":"tcp","weight":2"#));
        fake.tell("id: 1f-8\nevent: load_balancer\ndata: {\"change\":\"bound\"}\n\n");
        fake.tell("id: 1f-9\nevent: endpoint\ndata: {\"address\":\"10.0.0.2\",\"port\":80,\"protocol\":\"tcp\"}\n\n");
        assert_eq!(fake.serve(&page(&[row("10.0.0.2", 9)])), one);
        let weights = |text: &str| -> Vec<u64> {
            let rows: Vec<Value> = serde_json::from_str(text).expect("a list");
            rows.iter().map(|row| row["weight"].as_u64().expect("a number")).collect()
        };
        assert_eq!(weights(&next()), [1, 9, 3]);

        // The stream ends and goes on: nothing has changed, and nothing is asked for.
        fake.stream = None;
        assert!(next().contains("ended the stream"));
        assert_eq!(fake.serve("retry: 1000\n\n"), "/api/v1/events after 1f-9");
        assert_eq!(weights(&next()), [1, 9, 3]);
        // Another daemon is there.
        fake.stream = None;
        assert!(next().contains("ended the stream"));
        let reset = "retry: 1000\n\nid: 2e-1\nevent: reset\ndata: {}\n\n";
        assert_eq!(fake.serve(reset), "/api/v1/events after 1f-9");
        assert_eq!(fake.serve(&page(&[row("10.0.0.1", 5)])), whole);
        assert_eq!(weights(&next()), [5]);
        std::fs::remove_file(&path).expect("it is there");
    }
}
