//! Path, query and body → [`Call`], or a [`Problem`]. An unknown or repeated parameter is a problem: nothing is ignored.

#[cfg(test)]
mod tests;

use std::{net::IpAddr, time::Duration};

use serde::Deserialize;

use super::{Route, fields::Fields};
use crate::{
    coordinator::{Act, Ask, Cursor, Filter, Page, Pattern, Saying, StateFilter, Time, Word, author},
    limits,
    sasp::{component, unescape},
    web::Problem,
};

/// Rows of a page that states no limit.
const ROWS: usize = 100;

/// The longest reason and the longest name of a writer, in characters.
const REASON: usize = 256;
const BY: usize = 64;

/// The longest names, in characters: each byte may be written with four.
const GROUP: usize = 4 * 256;
const UID: usize = 4 * limits::LB_UID_BYTES;

/// The longest time of a word that ends by itself.
const EXPIRY: u64 = 365 * 24 * 3600;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A question to the coordinator.
    Ask(Ask),
    /// Checks, which the shards know.
    Checks(Checks),
    /// A write.
    Write(Write),
    /// Changes from now on, or after an event that the client has seen.
    Events(Option<(u64, u64)>),
    /// Members for another program.
    Discover(Filter),
    /// Everything else is known without a question.
    Plain,
}

/// Which checks are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Of these endpoints.
    pub filter: Filter,
    /// `new`, `passing` or `failing`.
    pub state: Option<&'static str>,
    /// The shard and the place in its table.
    pub page: Page,
}

/// A write, with what its audit line needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// What to do.
    pub order: Order,
    /// Why.
    pub reason: String,
    /// Who, if the writer says.
    pub by: Option<String>,
    /// The word ends by itself after this time.
    pub expires_in: Option<Duration>,
}

/// What a write does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// To say something about what matches.
    Say(Saying, Pattern),
    /// To end fixed weights.
    Release(Pattern),
    /// To close a load balancer's connection.
    Drop(Box<[u8]>),
    /// To forget a load balancer.
    Forget(Box<[u8]>),
    /// To read the files again.
    Reload,
}

impl Write {
    /// The act for the coordinator, at this time by a writer from there; `None` for a reload.
    pub fn act(&self, now: Time, from: &str) -> Option<Act> {
        Some(match &self.order {
            Order::Say(saying, pattern) => Act::Say(Word {
                number: 0,
                saying: *saying,
                pattern: pattern.clone(),
                reason: self.reason.as_str().into(),
                by: self.by.as_deref().unwrap_or_default().into(),
                from: from.into(),
                at: now.into(),
                expires: self.expires_in.map(|time| now + time),
            }),
            Order::Release(pattern) => Act::Release {
                pattern: pattern.clone(),
                by: author(self.by.as_deref().unwrap_or_default(), from, &self.reason).into(),
            },
            Order::Drop(lb_uid) => Act::Drop(lb_uid.clone()),
            Order::Forget(lb_uid) => Act::Forget(lb_uid.clone()),
            Order::Reload => return None,
        })
    }
}

type Result<T> = std::result::Result<T, Problem>;

/// The parameters of a query that are allowed, by their place in [`NAMES`].
#[derive(Default)]
struct Query([Option<String>; NAMES.len()]);

const NAMES: [&str; 10] = [
    "group",
    "load_balancer",
    "load_balancer_hex",
    "address",
    "port",
    "protocol",
    "state",
    "limit",
    "after",
    "last_event_id",
];

impl Query {
    fn parse(query: &str, allowed: &[&str]) -> Result<Query> {
        let mut values = Query::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let place = NAMES.iter().position(|known| **known == *name && allowed.contains(known));
            let Some((place, slot)) = place.and_then(|place| Some((place, values.0.get_mut(place)?))) else {
                let known = if allowed.is_empty() { "none".into() } else { allowed.join(", ") };
                let name: String = name.chars().take(64).collect();
                let message = format!("there is no parameter {name:?} here; there are: {known}");
                return Err(Problem::new(400, "bad_request", message));
            };
            if value.contains('\u{fffd}') {
                return Err(Problem::field(NAMES[place], "this is not UTF-8"));
            }
            if slot.replace(value.into_owned()).is_some() {
                return Err(Problem::field(NAMES[place], "give it once"));
            }
        }
        Ok(values)
    }

    fn get(&self, name: &str) -> Option<(&'static str, &str)> {
        let place = NAMES.iter().position(|known| *known == name)?;
        Some((NAMES[place], self.0.get(place)?.as_deref()?))
    }

    fn filter(&self) -> Result<Filter> {
        let text = |name| self.get(name);
        Ok(Filter {
            group: text("group").map(|(name, value)| bytes(name, value, GROUP)).transpose()?,
            lb_uid: lb_uid(
                text("load_balancer").map(|(_, value)| value),
                text("load_balancer_hex").map(|(_, value)| value),
            )?,
            address: text("address").map(|(name, value)| address(name, value)).transpose()?,
            port: text("port")
                .map(|(name, value)| number(name, value, 0, u16::MAX.into()))
                .transpose()?
                .map(|port| port as u16),
            protocol: text("protocol").map(|(name, value)| protocol(name, value)).transpose()?,
            state: None,
            connected: None,
        })
    }

    fn page(&self) -> Result<Page> {
        let limit = self.get("limit").map(|(name, value)| number(name, value, 1, limits::ADMIN_ROWS as u64));
        let after = self
            .get("after")
            .map(|(name, value)| cursor(value).ok_or_else(|| Problem::field(name, "this is no `next` of a page")));
        Ok(Page {
            after: after.transpose()?.unwrap_or_default(),
            limit: limit.transpose()?.map_or(ROWS, |limit| limit as usize),
        })
    }

    /// One of these words.
    fn state<T: Copy>(&self, words: &[(&str, T)]) -> Result<Option<T>> {
        let Some((name, value)) = self.get("state") else { return Ok(None) };
        let found = words.iter().find(|(word, _)| *word == value);
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        found
            .map(|(_, state)| Some(*state))
            .ok_or_else(|| Problem::field(name, format!("write one of {}", names.join(", "))))
    }
}

/// The cursor as text.
pub fn cursor_text(Cursor(place, slot): Cursor) -> String {
    format!("{place}.{slot}")
}

fn cursor(text: &str) -> Option<Cursor> {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    match text.split_once('.') {
        Some((place, slot)) => Some(Cursor(digits(place)?, digits(slot)?)),
        None => Some(Cursor(digits(text)?, 0)),
    }
}

fn number(name: &'static str, text: &str, least: u64, most: u64) -> Result<u64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let value = text.parse().ok().filter(|value| plain && (least..=most).contains(value));
    value.ok_or_else(|| Problem::field(name, format!("write a number from {least} to {most}")))
}

/// A name as escaped text of at most so many characters.
fn bytes(name: &'static str, text: &str, most: usize) -> Result<Box<[u8]>> {
    if text.chars().count() > most {
        return Err(Problem::field(name, format!("it is longer than {most} characters")));
    }
    let bytes = unescape(text).map_err(|error| Problem::field(name, error))?;
    if bytes.is_empty() {
        Err(Problem::field(name, "it is empty: leave it out to match all"))
    } else {
        Ok(bytes.into())
    }
}

fn lb_uid(text: Option<&str>, hex: Option<&str>) -> Result<Option<Box<[u8]>>> {
    match (text, hex) {
        (Some(text), Some(hex)) => {
            let (one, other) = (lb_uid(Some(text), None)?, lb_uid(None, Some(hex))?);
            let differ =
                || Problem::new(409, "two_names", "load_balancer and load_balancer_hex name two load balancers");
            if one == other { Ok(one) } else { Err(differ()) }
        }
        (Some(text), None) => bytes("load_balancer", text, UID).map(Some),
        (None, Some(hex)) => {
            let wrong = || Problem::field("load_balancer_hex", "write 1 to 64 bytes in lower-case hexadecimal");
            let digit = |digit: u8| match digit {
                b'0'..=b'9' => Some(digit - b'0'),
                b'a'..=b'f' => Some(digit - b'a' + 10),
                _ => None,
            };
            let pairs = hex.as_bytes().chunks(2).map(|pair| match pair {
                &[high, low] => Some(digit(high)? << 4 | digit(low)?),
                _ => None,
            });
            let bytes: Option<Box<[u8]>> = pairs.collect();
            let bytes = bytes.filter(|bytes| (1..=limits::LB_UID_BYTES).contains(&bytes.len()));
            bytes.ok_or_else(wrong).map(Some)
        }
        (None, None) => Ok(None),
    }
}

fn address(name: &'static str, text: &str) -> Result<IpAddr> {
    let address: std::result::Result<IpAddr, _> = text.parse();
    address.map(|address| address.to_canonical()).map_err(|_| Problem::field(name, "this is no IP address"))
}

fn protocol(name: &'static str, text: &str) -> Result<u8> {
    match text {
        "tcp" => Ok(component::TCP),
        "udp" => Ok(component::UDP),
        _ => number(name, text, 0, u8::MAX.into())
            .map(|protocol| protocol as u8)
            .map_err(|_| Problem::field(name, "write tcp, udp or a number from 0 to 255")),
    }
}

/// The state of a member or an endpoint.
const STATES: [(&str, StateFilter); 6] = [
    ("up", StateFilter::Up),
    ("down", StateFilter::Down),
    ("drained", StateFilter::Drained),
    ("unknown", StateFilter::Unknown),
    ("quiesced", StateFilter::Quiesced),
    ("unwatched", StateFilter::Unwatched),
];

/// What a GET asks for; `last_event_id` is the header.
pub fn get(route: Route, query: &str, last_event_id: Option<&str>) -> Result<Call> {
    const LB: [&str; 2] = ["load_balancer", "load_balancer_hex"];
    const ENDPOINT: [&str; 3] = ["address", "port", "protocol"];
    const PAGE: [&str; 2] = ["limit", "after"];
    let parse = |lists: &[&[&str]]| Query::parse(query, &lists.concat());
    let of_group = || parse(&[&["group"], &LB]);
    Ok(match route {
        Route::LoadBalancers => {
            let query = parse(&[&LB, &["state"], &PAGE])?;
            let connected = query.state(&[("connected", true), ("held", false)])?;
            Call::Ask(Ask::LoadBalancers(Filter { connected, ..query.filter()? }, query.page()?))
        }
        Route::Groups => {
            let query = parse(&[&["group"], &LB, &PAGE])?;
            Call::Ask(Ask::Groups(query.filter()?, query.page()?))
        }
        Route::Members => {
            let query = parse(&[&["group"], &LB, &ENDPOINT, &["state"], &PAGE])?;
            let state = query.state(&STATES[..5])?;
            Call::Ask(Ask::Members(Filter { state, ..query.filter()? }, query.page()?))
        }
        Route::Endpoints => {
            let query = parse(&[&ENDPOINT, &["state"], &PAGE])?;
            let state = query.state(&STATES)?;
            Call::Ask(Ask::Endpoints(Filter { state, ..query.filter()? }, query.page()?))
        }
        Route::Member => {
            let query = parse(&[&["group"], &LB, &ENDPOINT])?;
            let filter = one(query.filter()?)?;
            if filter.group.is_none() {
                return Err(Problem::field("group", "say which group"));
            }
            Call::Ask(Ask::Member(filter))
        }
        Route::Endpoint => Call::Ask(Ask::Endpoint(one(parse(&[&ENDPOINT])?.filter()?)?)),
        Route::Checks => {
            let query = parse(&[&ENDPOINT, &["state"], &PAGE])?;
            let state = query.state(&[("new", "new"), ("passing", "passing"), ("failing", "failing")])?;
            Call::Checks(Checks { filter: query.filter()?, state, page: query.page()? })
        }
        Route::Events => {
            let query = parse(&[&["last_event_id"]])?;
            let id = query.get("last_event_id").map(|(_, id)| id).or(last_event_id);
            Call::Events(
                id.map(|id| event_id(id).ok_or_else(|| Problem::field("last_event_id", "this is no id of an event")))
                    .transpose()?,
            )
        }
        Route::SdPrometheus | Route::SdTraefik => Call::Discover(of_group()?.filter()?),
        Route::Words => {
            parse(&[])?;
            Call::Ask(Ask::Words)
        }
        Route::Totals => {
            parse(&[])?;
            Call::Ask(Ask::Totals)
        }
        _ => {
            parse(&[])?;
            Call::Plain
        }
    })
}

/// Completes the name of one endpoint: without a port a whole system, with a port TCP unless another protocol is stated.
fn one(filter: Filter) -> Result<Filter> {
    if filter.address.is_none() {
        return Err(Problem::field("address", "say which address"));
    }
    let port = filter.port.unwrap_or(0);
    let protocol = filter.protocol.unwrap_or(if port == 0 { 0 } else { component::TCP });
    Ok(Filter { port: Some(port), protocol: Some(protocol), ..filter })
}

/// The daemon and the number of an event.
fn event_id(text: &str) -> Option<(u64, u64)> {
    let (daemon, number) = text.split_once('-')?;
    let hex = daemon.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    (hex && digits && !daemon.is_empty()).then_some(())?;
    Some((u64::from_str_radix(daemon, 16).ok()?, number.parse().ok()?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    group: Option<String>,
    load_balancer: Option<String>,
    load_balancer_hex: Option<String>,
    address: Option<String>,
    port: Option<u16>,
    protocol: Option<String>,
    weight: Option<u16>,
    reason: Option<String>,
    by: Option<String>,
    expires_in_seconds: Option<u64>,
}

/// What a POST asks for.
pub fn post(route: Route, query: &str, body: &[u8]) -> Result<Call> {
    Query::parse(query, &[])?;
    // A null is not the same as what is left out: the document has no null.
    let Fields(mut fields) = serde_json::from_slice(body).map_err(malformed)?;
    if let Some((name, _)) = fields.iter().find(|(_, value)| value.is_null()) {
        let name: String = name.chars().take(64).collect();
        return Err(Problem::new(400, "bad_request", format!("{name:?} is null: leave it out")));
    }
    // 80.0 is the whole number 80.
    for value in fields.values_mut() {
        if let Some(number) = value.as_f64().filter(|number| !value.is_u64() && number.fract() == 0.0 && *number >= 0.0)
        {
            *value = (number as u64).into();
        }
    }
    let body: Body = serde_json::from_value(fields.into()).map_err(malformed)?;
    body.call(route)
}

fn malformed(error: serde_json::Error) -> Problem {
    let text: String = error.to_string().chars().take(300).collect();
    Problem::new(400, "bad_request", format!("the body can not be read: {text}"))
}

impl Body {
    fn call(self, route: Route) -> Result<Call> {
        let say = matches!(route, Route::Quiesce | Route::Resume);
        let fix = matches!(route, Route::FixWeight | Route::ReleaseWeight);
        let lb = matches!(route, Route::DropLb | Route::ForgetLb);
        let expires = matches!(route, Route::Quiesce | Route::FixWeight);
        for (name, given, taken) in [
            ("group", self.group.is_some(), say),
            ("load_balancer", self.load_balancer.is_some(), say || lb),
            ("load_balancer_hex", self.load_balancer_hex.is_some(), say || lb),
            ("address", self.address.is_some(), say || fix),
            ("port", self.port.is_some(), say || fix),
            ("protocol", self.protocol.is_some(), say || fix),
            ("weight", self.weight.is_some(), route == Route::FixWeight),
            ("expires_in_seconds", self.expires_in_seconds.is_some(), expires),
        ] {
            if given && !taken {
                return Err(Problem::field(name, "this has no meaning here: leave it out"));
            }
        }
        let reason = words("reason", self.reason, REASON)?.ok_or_else(|| Problem::field("reason", "say why"))?;
        let by = words("by", self.by, BY)?;
        let expires_in = self.expires_in_seconds.map(|seconds| match seconds {
            1..=EXPIRY => Ok(Duration::from_secs(seconds)),
            _ => Err(Problem::field("expires_in_seconds", format!("write a number from 1 to {EXPIRY}"))),
        });
        let uid = lb_uid(self.load_balancer.as_deref(), self.load_balancer_hex.as_deref())?;
        let pattern = Pattern {
            group: self.group.map(|group| bytes("group", &group, GROUP)).transpose()?,
            lb_uid: uid.clone(),
            address: self.address.map(|text| address("address", &text)).transpose()?,
            port: self.port,
            protocol: self.protocol.map(|text| protocol("protocol", &text)).transpose()?,
        };
        let uid = || uid.ok_or_else(|| Problem::field("load_balancer", "say which load balancer"));
        let order = match route {
            Route::Quiesce => Order::Say(Saying::Quiesce, pattern),
            Route::Resume => Order::Say(Saying::Resume, pattern),
            Route::FixWeight => {
                if pattern.address.is_none() {
                    return Err(Problem::field("address", "say which address"));
                }
                let weight = self.weight.ok_or_else(|| Problem::field("weight", "say which weight"))?;
                Order::Say(Saying::Weight(weight), pattern)
            }
            Route::ReleaseWeight => Order::Release(pattern),
            Route::DropLb => Order::Drop(uid()?),
            Route::ForgetLb => Order::Forget(uid()?),
            _ => Order::Reload,
        };
        Ok(Call::Write(Write { order, reason, by, expires_in: expires_in.transpose()? }))
    }
}

/// A text of 1 to so many characters, not all of them white space.
fn words(name: &'static str, text: Option<String>, most: usize) -> Result<Option<String>> {
    match text {
        Some(text) if text.trim().is_empty() => Err(Problem::field(name, "it is blank")),
        Some(text) if text.chars().count() > most => Err(Problem::field(name, format!("write 1 to {most} characters"))),
        text => Ok(text),
    }
}
