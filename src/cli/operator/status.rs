//! `gwm status`: what a running daemon knows, as tables or JSON, once or again and again.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use serde_json::{Value, json};

use super::{
    Flags, Place,
    ask::{Daemon, Query},
    candidates, place, show, watch,
};
use crate::cli::{
    table,
    target::{self, Failure},
};

/// The text below the flags in `--help`.
const HELP: &str = "\
Without a command: how much there is, the nearest limit, what operators said, and the groups that are in trouble.

The daemon answers by its admin side (gwm serve --admin-listen); no load balancer's session is touched.

As a table, columns move closer and names are cut on a narrow terminal, and stand in full in a pipe. --json prints one \
JSON object with the fields of the daemon's /api/v1/openapi.json. --watch follows the daemon's \
events and asks again for what they say has changed, at most once a second, and every 10 s for what no event tells. On a \
terminal it draws the table again, until Ctrl-C (exit status 0), and says while the daemon is gone; with --json, or when \
the output is no terminal, it prints one JSON line a change, {error: text} when the daemon is gone, and all again when \
the daemon is back.";

/// Flags of `gwm status`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    #[command(flatten)]
    daemon: Flags,
    /// Print JSON
    #[arg(long, env = "GWM_JSON", value_parser = clap::builder::FalseyValueParser::new(), global = true)]
    json: bool,
    /// Show it again when it changes
    #[arg(long, env = "GWM_WATCH", value_parser = clap::builder::FalseyValueParser::new(), global = true)]
    watch: bool,
    /// The most rows: 1 to 1000000
    #[arg(long, env = "GWM_ROWS", value_name = "NUMBER", default_value = "10000", global = true,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rows: u32,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(clap::Subcommand)]
pub(super) enum What {
    /// Load balancers with their sessions
    Lbs,
    /// Groups with how many members are in which state
    Groups(Which),
    /// Members, one row for each load balancer and group
    Members {
        #[command(flatten)]
        which: Which,
        /// Only members in this state: up, down, drained, unknown, quiesced
        #[arg(long, env = "GWM_STATE", value_name = "STATE",
              value_parser = ["up", "down", "drained", "unknown", "quiesced"])]
        state: Option<String>,
    },
    /// One member: why it has its weight, and its last changes
    Member {
        /// The member: IP:PORT (TCP), `[IPv6]:PORT/udp`, IP:PORT/NUMBER; or IP alone: a whole system
        #[arg(value_name = "MEMBER", value_parser = place, add = candidates::members())]
        member: Place,
        #[command(flatten)]
        which: Which,
    },
    /// Checks of members, with their last results
    Checks,
    /// Limits, and how much of each is used
    Limits,
    /// The fleet's nodes, and how this one keeps up with etcd
    Fleet,
}

/// Which load balancer and group.
#[derive(clap::Args, Default)]
pub(super) struct Which {
    /// Only groups with this name
    #[arg(long, env = "GWM_GROUP", value_name = "NAME", add = candidates::groups())]
    group: Option<String>,
    /// Only of this load balancer
    #[arg(long, env = "GWM_LB", value_name = "UID", add = candidates::load_balancers())]
    lb: Option<String>,
}

impl Which {
    fn query(&self) -> Vec<(&'static str, &str)> {
        let fields = [("group", &self.group), ("load_balancer", &self.lb)];
        fields.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect()
    }

    /// Of a list of members.
    pub(super) fn members<'a>(&'a self, state: Option<&'a str>) -> Vec<(&'static str, &'a str)> {
        let mut query = self.query();
        query.extend(state.map(|state| ("state", state)));
        query
    }
}

/// Runs `gwm status`.
pub fn run(args: Args) -> ExitCode {
    target::finish(status(args))
}

fn status(args: Args) -> Result<(), Failure> {
    let daemon = args.daemon.daemon()?;
    let rows = args.rows as usize;
    if !args.watch {
        let value = look(&daemon, args.what.as_ref(), rows)?;
        let text = match args.what.as_ref().and_then(|what| nothing(what, &value)) {
            _ if args.json => value.to_string(),
            Some(nothing) => nothing.into(),
            None => lines(&value, width()).join("\n"),
        };
        return Ok(writeln!(io::stdout(), "{text}")?);
    }
    let live = !args.json && io::stdout().is_terminal();
    table::end_on_signal(live)?;
    watch::run(daemon, args.what, rows, live)
}

/// Why a list that nothing narrows has no rows.
fn nothing(what: &What, value: &Value) -> Option<&'static str> {
    let is_empty = |field: &str| value[field].as_array().is_some_and(Vec::is_empty);
    match what {
        What::Lbs if is_empty("load_balancers") => Some("none: no load balancer has registered"),
        What::Groups(which) if is_empty("groups") && which.query().is_empty() => {
            Some("none: no load balancer has registered a group")
        }
        What::Members { which, state: None } if is_empty("members") && which.query().is_empty() => {
            Some("none: no load balancer has registered a group with members")
        }
        _ => None,
    }
}

/// The columns of the terminal; as many as are needed, if there is none.
fn width() -> usize {
    match crossterm::terminal::size() {
        Ok((columns, _)) if io::stdout().is_terminal() && columns > 0 => columns.into(),
        _ => usize::MAX,
    }
}

/// The rows of a list, and whether there are more.
fn list(daemon: &Daemon, path: &str, field: &str, query: &Query<'_>, most: usize) -> Result<Value, Failure> {
    let (rows, more) = daemon.list(path, field, query, most)?;
    Ok(json!({ field: rows, "more": more }))
}

/// The parts of the overview.
const PARTS: [&str; 5] = ["version", "totals", "limits", "words", "groups"];

/// One part of the overview.
pub(super) fn part(daemon: &Daemon, part: &str, most: usize) -> Result<Value, Failure> {
    if part == "groups" { list(daemon, "groups", "groups", &[], most) } else { daemon.get(part, &[]) }
}

/// The answer to the command, with only the fields of the API in it.
pub(super) fn look(daemon: &Daemon, what: Option<&What>, most: usize) -> Result<Value, Failure> {
    match what {
        None => {
            let mut overview = json!({});
            for name in PARTS {
                overview[name] = part(daemon, name, most)?;
            }
            Ok(overview)
        }
        Some(What::Lbs) => list(daemon, "load-balancers", "load_balancers", &[], most),
        Some(What::Groups(which)) => list(daemon, "groups", "groups", &which.query(), most),
        Some(What::Members { which, state }) => {
            list(daemon, "members", "members", &which.members(state.as_deref()), most)
        }
        Some(What::Member { member, which }) => member_in_full(daemon, member, which),
        Some(What::Checks) => list(daemon, "checks", "checks", &[], most),
        Some(What::Limits) => daemon.get("limits", &[]),
        Some(What::Fleet) => daemon.get("fleet", &[]),
    }
}

/// The most memberships of one endpoint that are shown in full.
const MEMBERSHIPS: usize = 50;

fn member_in_full(daemon: &Daemon, member: &Place, which: &Which) -> Result<Value, Failure> {
    let (port, protocol) = member.service.clone().unwrap_or((0, "0".into()));
    let port = port.to_string();
    let place = [("address", &*member.address), ("port", &*port), ("protocol", &*protocol)];
    let query = [&which.query()[..], &place].concat();
    let (rows, more) = daemon.list("members", "members", &query, MEMBERSHIPS)?;
    let mut found = Vec::new();
    for row in &rows {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (lb, group) = (text(&row["load_balancer"]["uid_hex"]), text(&row["group"]));
        let query = [&[("load_balancer_hex", &*lb), ("group", &*group)][..], &place].concat();
        found.extend(daemon.look("member", &query)?.ok()); // it may have left since it was listed
    }
    if found.is_empty() {
        let (others, _) = daemon.list("members", "members", &[("address", &*member.address)], MEMBERSHIPS)?;
        return Err(Failure::Failed(not_listed(member, &others)));
    }
    Ok(json!({ "memberships": found, "more": more }))
}

/// The most other members that [`not_listed`] names.
const OTHERS: usize = 5;

/// That no group lists a member; `others` are the rows of all members at its address.
fn not_listed(member: &Place, others: &[Value]) -> String {
    let mut text = "no group lists this member".to_owned();
    let mut names: Vec<String> = others.iter().map(show::endpoint).collect();
    names.sort();
    names.dedup();
    names.truncate(OTHERS);
    if names.is_empty() {
        return text;
    }
    if member.service.is_none() {
        text.push_str("; without a port this is the whole system");
    }
    text + "; listed at this address: " + &names.join(", ")
}

/// The answer as lines for people.
pub(super) fn lines(value: &Value, width: usize) -> Vec<String> {
    let mut lines = match value.as_object() {
        Some(object) if object.contains_key("totals") => show::overview(value, width),
        Some(object) if object.contains_key("memberships") => show::memberships(&value["memberships"], width),
        Some(object) if object.contains_key("fleet") => show::fleet(&value["fleet"], width),
        _ => show::list(value, width),
    };
    if value["more"] == true {
        lines.push("There are more rows; --rows shows more of them.".into());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_is_not_listed_is_told_with_its_neighbours() {
        let row = |port: u16| json!({"address": "10.0.0.1", "port": port, "protocol": "tcp"});
        let told = |text: &str, others: &[Value]| not_listed(&place(text).expect("it is a place"), others);
        assert_eq!(told("10.0.0.1:80", &[]), "no group lists this member");
        assert_eq!(told("10.0.0.1", &[]), "no group lists this member");
        assert_eq!(
            told("10.0.0.1", &[row(80), row(80)]),
            "no group lists this member; without a port this is the whole system; listed at this address: 10.0.0.1:80"
        );
        let others: Vec<Value> = (11..=20).map(row).collect();
        assert_eq!(
            told("10.0.0.1:80", &others),
            "no group lists this member; listed at this address: 10.0.0.1:11, 10.0.0.1:12, 10.0.0.1:13, 10.0.0.1:14, \
             10.0.0.1:15"
        );
    }

    #[test]
    fn an_empty_list_says_why() {
        let members = |state: Option<&str>, group: Option<&str>| What::Members {
            which: Which { group: group.map(str::to_owned), lb: None },
            state: state.map(str::to_owned),
        };
        let value = json!({"members": [], "more": false});
        let none = Some("none: no load balancer has registered a group with members");
        assert_eq!(nothing(&members(None, None), &value), none);
        assert_eq!(nothing(&members(Some("up"), None), &value), None);
        assert_eq!(nothing(&members(None, Some("web")), &value), None);
        assert_eq!(nothing(&members(None, None), &json!({"members": [1]})), None);
        assert_eq!(nothing(&What::Lbs, &json!({"load_balancers": []})), Some("none: no load balancer has registered"));
    }
}
