//! Answers as JSON documents.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    Calendar, not_found,
    request::cursor_text,
    rows::{ChecksPage, EndpointJson, Group, Lb, Member, PastJson, WordJson},
    why::Why,
};
use crate::{
    coordinator::{ActRefused, Acted, Answer, Cursor, Full, Saying, TotalsRow, Word, WordRefused},
    judgement::Scale,
    monitor::table::Factors,
    time::Time,
    web::{Problem, Response},
};

/// A limit, and how much of it is used.
#[derive(Clone, Debug, Serialize)]
pub struct Limit {
    /// For programs.
    pub name: &'static str,
    /// The flag that sets the limit.
    pub flag: Option<&'static str>,
    /// How much is used.
    pub used: u64,
    /// The limit.
    pub max: u64,
    /// For people.
    pub text: &'static str,
}

/// A flag with its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// As in `--hold-time`.
    pub flag: String,
    /// The value as a person writes it.
    pub value: Option<String>,
    /// `flag`, `environment`, `file` or `default`.
    pub source: &'static str,
    /// The file and its line.
    pub at: Option<String>,
}

/// The optional parts, and whether this build has them.
const FEATURES: [(&str, bool); 4] = [
    ("admin", cfg!(feature = "admin")),
    ("dns", cfg!(feature = "dns")),
    ("fleet", cfg!(feature = "fleet")),
    ("xds", cfg!(feature = "xds")),
];

/// Which daemon this is.
#[derive(Clone, Debug, Serialize)]
pub struct Version {
    /// `gwm`.
    pub name: &'static str,
    /// The version.
    pub version: &'static str,
    /// The start as a time of day.
    pub started_at: String,
    /// The time since the start.
    pub uptime_seconds: f64,
    /// The number of shards.
    pub shards: usize,
    /// The optional parts.
    pub features: Vec<&'static str>,
    /// Whether words survive a restart.
    pub writes_survive_restart: bool,
}

impl Version {
    /// Of this build, at this time.
    pub fn new(now: Time, shards: usize, calendar: &Calendar) -> Version {
        Version {
            name: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            started_at: calendar.text(Time::default()),
            uptime_seconds: Duration::from_nanos(now.0).as_secs_f64(),
            shards,
            features: FEATURES.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect(),
            writes_survive_restart: calendar.words_survive,
        }
    }
}

/// The limits.
pub fn limits(limits: &[Limit]) -> Response {
    #[derive(Serialize)]
    struct Limits<'a> {
        limits: &'a [Limit],
    }
    Response::json(200, &Limits { limits })
}

/// The effective configuration.
pub fn config(settings: &[Setting], warnings: &[String]) -> Response {
    #[derive(Serialize)]
    struct Config<'a> {
        settings: &'a [Setting],
        warnings: &'a [String],
    }
    Response::json(200, &Config { settings, warnings })
}

/// How much there is.
pub fn totals(row: &TotalsRow, connections: u64) -> Response {
    #[derive(Serialize)]
    struct Blind {
        own: bool,
        foreign: bool,
    }
    #[derive(Serialize)]
    struct Totals {
        load_balancers: usize,
        load_balancers_connected: usize,
        groups: usize,
        memberships: usize,
        listings: usize,
        endpoints: usize,
        watched: usize,
        answering: usize,
        groups_in_doubt: usize,
        connections: u64,
        words: usize,
        blind: Blind,
    }
    let totals = row.totals;
    let body = Totals {
        load_balancers: totals.load_balancers,
        load_balancers_connected: row.connected,
        groups: totals.groups,
        memberships: totals.memberships,
        listings: totals.listings,
        endpoints: totals.endpoints,
        watched: totals.watched,
        answering: totals.answering,
        groups_in_doubt: totals.doubted,
        connections,
        words: row.words,
        blind: Blind { own: row.blind.0, foreign: row.blind.1 },
    };
    Response::json(200, &body)
}

fn next(cursor: Option<Cursor>) -> Option<String> {
    cursor.map(cursor_text)
}

/// What the shards know beside the coordinator's answer.
#[derive(Default)]
pub struct Beside {
    /// The bytes that wait, for each load balancer of the page.
    pub bytes_waiting: Vec<Option<u64>>,
    /// The factors of the one endpoint.
    pub factors: Option<Factors>,
}

/// The coordinator's answer as a document.
pub fn answer(answer: &Answer, beside: &Beside, calendar: &Calendar) -> Response {
    #[derive(Serialize)]
    struct Lbs {
        load_balancers: Vec<Lb>,
        next: Option<String>,
    }
    #[derive(Serialize)]
    struct Groups {
        groups: Vec<Group>,
        next: Option<String>,
    }
    #[derive(Serialize)]
    struct Members {
        members: Vec<Member>,
        next: Option<String>,
    }
    #[derive(Serialize)]
    struct Endpoints {
        endpoints: Vec<EndpointJson>,
        next: Option<String>,
    }
    #[derive(Serialize)]
    struct Words {
        words: Vec<WordJson>,
    }
    match answer {
        Answer::LoadBalancers(page) => {
            let waiting = beside.bytes_waiting.iter().copied().chain(std::iter::repeat(None));
            let load_balancers = page.rows.iter().zip(waiting).map(|(row, waiting)| Lb::new(row, waiting, calendar));
            Response::json(200, &Lbs { load_balancers: load_balancers.collect(), next: next(page.next) })
        }
        Answer::Groups(page) => {
            Response::json(200, &Groups { groups: page.rows.iter().map(Group::new).collect(), next: next(page.next) })
        }
        Answer::Members(page) => {
            let members = page.rows.iter().map(|row| Member::new(row, calendar)).collect();
            Response::json(200, &Members { members, next: next(page.next) })
        }
        Answer::Endpoints(page) => {
            let endpoints = page.rows.iter().map(|row| EndpointJson::new(row, calendar)).collect();
            Response::json(200, &Endpoints { endpoints, next: next(page.next) })
        }
        Answer::Member(found) => {
            let (row, scale, endpoint, full) = &**found;
            let why = Why::new(endpoint, Some(row), full, beside.factors.as_ref(), calendar);
            let (words, history) = besides(full, calendar);
            let scale = scale.map(ScaleJson::new);
            Response::json(200, &MemberInFull { row: Member::new(row, calendar), why, scale, words, history })
        }
        Answer::Endpoint(found) => {
            let (row, full) = &**found;
            let why = Why::new(row, None, full, beside.factors.as_ref(), calendar);
            let (words, history) = besides(full, calendar);
            Response::json(200, &EndpointInFull { row: EndpointJson::new(row, calendar), why, words, history })
        }
        Answer::Words(words) => {
            Response::json(200, &Words { words: words.iter().map(|word| WordJson::new(word, calendar)).collect() })
        }
        Answer::NotFound => not_found().response(),
        Answer::TooMany => {
            let text = "the member is in too many groups to look for one of this name: say which load balancer";
            Problem { field: Some("load_balancer"), ..Problem::new(409, "too_many", text) }.response()
        }
        Answer::Totals(_) | Answer::Events { .. } | Answer::Acted(_) | Answer::NotKept => Problem::busy().response(),
    }
}

#[derive(Serialize)]
struct ScaleJson {
    top_rate: f64,
    mean_share: f64,
}

impl ScaleJson {
    fn new(scale: Scale) -> ScaleJson {
        let (top_rate, mean_share) = scale.parts();
        ScaleJson { top_rate, mean_share }
    }
}

#[derive(Serialize)]
struct MemberInFull {
    #[serde(flatten)]
    row: Member,
    why: Why,
    scale: Option<ScaleJson>,
    words: Vec<WordJson>,
    history: Vec<PastJson>,
}

#[derive(Serialize)]
struct EndpointInFull {
    #[serde(flatten)]
    row: EndpointJson,
    why: Why,
    words: Vec<WordJson>,
    history: Vec<PastJson>,
}

fn besides(full: &Full, calendar: &Calendar) -> (Vec<WordJson>, Vec<PastJson>) {
    let words = full.words.iter().map(|word| WordJson::new(word, calendar)).collect();
    (words, full.history.iter().map(|past| PastJson::new(past, calendar)).collect())
}

/// Checks of one or more shards.
pub fn checks(page: &ChecksPage) -> Response {
    Response::json(200, page)
}

/// What a write did.
#[derive(Serialize)]
pub struct Done {
    /// For people.
    pub done: String,
    /// The word that is in force now.
    pub word: Option<WordJson>,
    /// The numbers of the words that ended.
    pub withdrawn: Vec<u64>,
    /// Whether a member matches now.
    pub matches_now: Option<bool>,
    /// Whether this survives a restart of the daemon.
    pub survives_restart: bool,
}

impl Done {
    /// Of an act; `words` are those in force after it.
    pub fn new(what: &str, acted: &Acted, words: &[Arc<Word>], matches_now: Option<bool>, calendar: &Calendar) -> Done {
        let said = words.iter().find(|word| Some(word.number) == acted.said);
        let until = said.and_then(|word| word.expires).map(|at| format!(" until {}", calendar.text(at)));
        let ends = match (&until, said.map(|word| word.saying)) {
            (None, Some(Saying::Quiesce)) => " until it is resumed or the daemon stops",
            (None, Some(Saying::Weight(_))) => " until it is released or the daemon stops",
            (Some(_), _) => ", or until the daemon stops",
            (None, Some(Saying::Resume) | None) => "",
        };
        let ends = if calendar.words_survive { "" } else { ends };
        // A resume is a word of its own only beside a quiesce that is about more.
        let exception = match said.map(|word| word.saying) {
            Some(Saying::Resume) => "; a wider quiesce stays in force, and this exception ends with that quiesce",
            _ => "",
        };
        let none = match (matches_now, said) {
            (Some(false), Some(_)) => "; no member matches now, and those count that come later",
            (Some(false), None) => "; no member matches now",
            _ => "",
        };
        Done {
            done: format!("{what}{}{ends}{exception}{none}", until.unwrap_or_default()),
            word: said.map(|word| WordJson::new(word, calendar)),
            withdrawn: acted.unsaid.clone(),
            matches_now,
            survives_restart: calendar.words_survive,
        }
    }
}

/// Why an act is refused.
pub fn refused(refused: ActRefused) -> Problem {
    let conflict = |code, message: String| Problem::new(409, code, message);
    match refused {
        ActRefused::UnknownLb => not_found(),
        ActRefused::NotConnected => {
            conflict("not_connected", "the load balancer is not connected: forget it, or wait".into())
        }
        ActRefused::Disk => {
            Problem::new(503, "disk", "the disk takes no changes, so nothing is changed: /readyz has more")
        }
        ActRefused::Connected => conflict("connected", "the load balancer is connected: drop it first".into()),
        ActRefused::Word(WordRefused::TooMany) => {
            let most = crate::limits::OPERATOR_WORDS;
            conflict("too_many_words", format!("{most} words are in force: end some of them first"))
        }
        ActRefused::Word(WordRefused::Nothing) => {
            conflict("nothing_said", "no word of the operator about this is in force".into())
        }
        ActRefused::Word(WordRefused::OfEndpoints(number)) => conflict(
            "wider_word",
            format!("word {number} quiesces in all groups: resume without group and load balancer"),
        ),
        ActRefused::Word(WordRefused::Wider(number)) => {
            conflict("wider_word", format!("word {number} fixes more weights than this: release all of them"))
        }
        ActRefused::Word(WordRefused::Weight(most)) => {
            conflict("weight", format!("the highest weight is {most} (--weight-max)"))
        }
    }
}

/// Whether every thread answers.
pub fn alive(alive: bool) -> Response {
    #[derive(Serialize)]
    struct Alive {
        alive: bool,
    }
    Response::json(if alive { 200 } else { 503 }, &Alive { alive })
}

/// Whether the daemon serves, or why not.
pub fn ready(reasons: Vec<&'static str>) -> Response {
    #[derive(Serialize)]
    struct Ready {
        ready: bool,
        reasons: Vec<&'static str>,
    }
    let ready = reasons.is_empty();
    Response::json(if ready { 200 } else { 503 }, &Ready { ready, reasons })
}
