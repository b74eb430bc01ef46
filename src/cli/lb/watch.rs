//! `gwm lb watch`: keeps a session and shows the weights.

use std::{
    io::{self, IsTerminal, Write},
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;

use super::{GroupArgs, Wanted};
use crate::{
    cli::{
        table::{self, JsonGroup, Screen},
        target::{Failure, HOUR},
    },
    client::{
        Error, ErrorKind, Target, Weights,
        session::{Session, Wishes, with_jitter},
    },
    config::duration,
    sasp::{Escaped, Health},
};

/// The text below the flags in `--help`.
pub(super) const HELP: &str = "\
On a terminal the weights are a table, redrawn in place, until Ctrl-C (exit status 0). SHARE is the part of new \
work that weights and flags mean within the group; \"-\" when the GWM is confident of no member, for then an LB \
uses its own means.

Otherwise, or with --json, one JSON object a line:
  {event: \"connected\", time, gwm, lb}
  {event: \"weights\", time, gwm, lb, source: \"push\" or \"get-weights\", groups}
  {event: \"lost\", time, gwm, lb, error, retry_seconds}, without retry_seconds if the watch ends
time is RFC 3339 in UTC. groups is the whole picture, not the change: a list of {group: text, members: list}; each \
member is {member: text as in --group, address: text, protocol: number, port: number, label: text, weight: 0-65535, \
share_percent: 0-100 or null, contact, confident, quiesced, registered_by_lb: true or false, state: 0-255}. In lb, group \
and label, bytes that are not printable UTF-8 and some others are escaped (\\xFF, \\n, \\\\); flags and files take \
this form.

The table belongs to the connection: when the connection is lost, the table is dropped, and a new connection begins \
with Get Weights. Groups that the GWM still has are kept; missing groups and members are registered; nothing is \
deregistered.

The watch begins with a takeover: the GWM ends the session that a live LB with this UID has. If the GWM closes the \
connection of the watch and still serves, another connection has become this LB, an operator has dropped its session, or \
a new process serves for the GWM. The protocol does not tell which: the watch says so and ends \
(exit status 1). The watch takes the session back if --take-over is given.";

/// Flags of `gwm lb watch`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    groups: GroupArgs,
    #[command(flatten)]
    wanted: Wanted,
    /// Ask with Get Weights, at the Interval of the GWM's replies, instead of using push
    #[arg(long, env = "GWM_POLL", value_parser = clap::builder::FalseyValueParser::new())]
    poll: bool,
    /// Wait before connecting again, plus up to a tenth at random: 1s to 1h. RFC 4678 (section 9.2) asks for at least
    /// 20 s, so that not all LBs connect at once to a GWM that comes back
    #[arg(long, env = "GWM_RETRY", value_name = "DURATION", default_value = "20s",
          value_parser = duration(Duration::from_secs(1)..=HOUR))]
    retry: Duration,
    /// End after showing weights so many times: 1 to 4294967295 [default: never]
    #[arg(long, env = "GWM_UPDATES", value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    updates: Option<u32>,
    /// Print JSON lines on a terminal too
    #[arg(long, env = "GWM_JSON", value_parser = clap::builder::FalseyValueParser::new())]
    json: bool,
}

/// The JSON line with weights.
#[derive(Serialize)]
pub(super) struct WeightsEvent<'a> {
    pub(super) event: &'static str,
    pub(super) time: String,
    pub(super) gwm: &'a str,
    pub(super) lb: String,
    pub(super) source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) interval_seconds: Option<u16>,
    pub(super) groups: Vec<JsonGroup>,
}

/// The JSON lines without weights.
#[derive(Serialize)]
struct Event<'a> {
    event: &'static str,
    time: String,
    gwm: &'a str,
    lb: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_seconds: Option<f64>,
}

/// The time of an event.
pub(super) fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// One line of JSON.
pub(super) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("these types have only text keys and plain values")
}

pub(super) fn run(gwms: &[Target], uid: Box<[u8]>, args: Args, take_over: bool) -> Result<(), Failure> {
    let wishes = Wishes {
        groups: args.groups.read()?,
        health: Health(args.wanted.health),
        flags: args.wanted.flags(!args.poll),
        uid,
    };
    let live = !args.json && io::stdout().is_terminal();
    table::end_on_signal(live)?;
    let screen = if live { Some(Screen::enter()?) } else { None };
    let mut view = View {
        target: gwms.first().expect("at least one GWM"),
        uid: Escaped(&wishes.uid).to_string(),
        mode: if args.poll { "polled" } else { "pushed" },
        screen,
        has_session: false,
        updates: 0,
        stop_after: args.updates,
        last: Instant::now(),
    };
    // Tries since the last session.
    let mut tries = 0;
    for target in gwms.iter().cycle() {
        view.target = target;
        let error = match session(target, &wishes, args.poll, &mut view) {
            Ok(()) => return Ok(()),
            Err(End::Output(error)) => return Err(error.into()),
            Err(End::Session(error)) if error.is_transient() => error,
            Err(End::Session(error)) => return Err(error.into()),
        };
        // The protocol does not tell why the GWM closes. A GWM that stops does not serve any more.
        let closed = matches!(error.kind, ErrorKind::Closed { unfinished_bytes: 0 });
        let had_session = std::mem::take(&mut view.has_session);
        tries = if had_session { 1 } else { tries + 1 };
        if had_session && closed && !take_over && target.serves() {
            view.lost(&error, None)?;
            return Err(Failure::Failed(format!(
                "{error} and still serves: another connection has become {uid}, an operator has dropped the session of {uid}, \
                 the GWM's rules do not let this one be {uid} any more, or a new process serves for the GWM (a \
                 takeover); this watch does not fight for the session (with --take-over it does)",
                uid = view.uid
            )));
        }
        // The next GWM is tried at once, as long as there is one that has not failed.
        let wait = if tries % gwms.len() == 0 { with_jitter(args.retry) } else { Duration::ZERO };
        view.wait(&error, wait)?;
    }
    unreachable!("there is always a next one")
}

enum End {
    Session(Error),
    Output(io::Error),
}

impl From<Error> for End {
    fn from(error: Error) -> End {
        End::Session(error)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Output(error)
    }
}

/// One connection; `Ok` when enough was shown.
fn session(target: &Target, wishes: &Wishes, poll: bool, view: &mut View<'_>) -> Result<(), End> {
    let mut session = Session::open(target.connect()?, target.timeout, wishes)?;
    view.connected()?;
    let mut enough = view.show(session.weights(), "get-weights")?;
    let mut asked = Instant::now();
    while !enough {
        let until_poll = (asked + session.interval()).saturating_duration_since(Instant::now());
        // A poller also reads, so it notices a close at once.
        if session.next_push(if poll { TICK.min(until_poll) } else { TICK })? {
            enough = view.show(session.weights(), "push")?;
        } else if poll && asked.elapsed() >= session.interval() {
            session.refresh()?;
            asked = Instant::now();
            enough = view.show(session.weights(), "get-weights")?;
        } else {
            view.tick(session.weights())?;
        }
    }
    Ok(())
}

/// How often the live view updates its clock.
const TICK: Duration = Duration::from_secs(1);

struct View<'a> {
    target: &'a Target,
    /// The load balancer's UID, as shown.
    uid: String,
    mode: &'static str,
    screen: Option<Screen>,
    /// The present or last connection has become a session.
    has_session: bool,
    updates: u32,
    stop_after: Option<u32>,
    last: Instant,
}

impl View<'_> {
    fn event(&self, event: &'static str, error: Option<String>, retry_seconds: Option<f64>) -> io::Result<()> {
        let event = Event { event, time: now(), gwm: &self.target.gwm, lb: &self.uid, error, retry_seconds };
        line(&to_json(&event))
    }

    fn connected(&mut self) -> io::Result<()> {
        self.has_session = true;
        match self.screen {
            Some(_) => Ok(()),
            None => self.event("connected", None, None),
        }
    }

    /// Shows new weights; says whether that was enough.
    fn show(&mut self, weights: &Weights, source: &'static str) -> io::Result<bool> {
        self.updates = self.updates.saturating_add(1);
        self.last = Instant::now();
        if self.screen.is_some() {
            self.tick(weights)?;
        } else {
            line(&to_json(&WeightsEvent {
                event: "weights",
                time: now(),
                gwm: &self.target.gwm,
                lb: self.uid.clone(),
                source,
                interval_seconds: None,
                groups: table::json(weights),
            }))?;
        }
        Ok(self.stop_after.is_some_and(|enough| self.updates >= enough))
    }

    /// Draws the live view with the present time.
    fn tick(&mut self, weights: &Weights) -> io::Result<()> {
        let age = self.last.elapsed().as_secs();
        let (mode, updates) = (self.mode, self.updates);
        self.draw(format!("{mode}, update {updates}, {age} s ago"), weights)
    }

    fn draw(&mut self, status: String, weights: &Weights) -> io::Result<()> {
        let Some(screen) = &mut self.screen else { return Ok(()) };
        let mut lines = vec![format!("{} at {}: {status}  (Ctrl-C ends)", self.uid, self.target.gwm), String::new()];
        lines.extend(table::lines(weights, screen.size().0));
        screen.draw(&lines)
    }

    /// Tells why there is no session, and when the next try is, if there is one.
    fn lost(&self, error: &Error, retry: Option<Duration>) -> io::Result<()> {
        let retry_seconds = retry.map(|retry| (retry.as_secs_f64() * 10.0).round() / 10.0);
        match self.screen {
            Some(_) => Ok(()),
            None => self.event("lost", Some(error.to_string()), retry_seconds),
        }
    }

    /// Shows why there is no session, and waits.
    fn wait(&mut self, error: &Error, wait: Duration) -> io::Result<()> {
        let until = Instant::now() + wait;
        self.lost(error, Some(wait))?;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.draw(format!("{}; next try in {} s", error.kind, left.as_secs() + 1), &Weights::default())?;
            thread::sleep(left.min(TICK));
        }
    }
}

fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}
