//! Answers of the admin side as lines. The fields are those of openapi.json; one that is missing shows as `-`.

use serde_json::Value;

use crate::cli::table::{Column, aligned};

/// A column of a list: its title and how a row fills it.
type Cell = (Column, fn(&Value) -> String);

const LEFT: fn(&'static str) -> Column = Column::left;
const RIGHT: fn(&'static str) -> Column = Column::right;

/// A list: the first field that is an array decides which one.
pub(super) fn list(value: &Value, width: usize) -> Vec<String> {
    let tables: [(&str, &[Cell]); 5] = [
        ("load_balancers", &load_balancers()),
        ("groups", &groups()),
        ("members", &members()),
        ("checks", &checks()),
        ("limits", &limits()),
    ];
    match tables.iter().find_map(|(field, cells)| Some((value[*field].as_array()?, cells))) {
        Some((rows, _)) if rows.is_empty() => vec!["none".into()],
        Some((rows, cells)) => table(rows, cells, width),
        None => vec![value.to_string()],
    }
}

fn table(rows: &[Value], cells: &[Cell], width: usize) -> Vec<String> {
    let columns: Vec<Column> = cells.iter().map(|(column, _)| *column).collect();
    let rows = rows.iter().map(|row| cells.iter().map(|(_, cell)| cell(row)).collect()).collect();
    aligned(&columns, rows, width)
}

fn load_balancers() -> Vec<Cell> {
    vec![
        (Column::cut("LB"), |row| text(&row["uid"])),
        (LEFT("SESSION"), |row| match (&row["node"], &row["connected"]) {
            (Value::String(_), _) => format!("at {}", text(&row["node"])),
            (_, Value::Bool(true)) => "connected".into(),
            _ => "held".into(),
        }),
        (LEFT("PEER"), |row| text(&row["peer"])),
        (LEFT("SINCE"), |row| text(&row["bound_at"])),
        (LEFT("LAST PUSH"), |row| text(&row["last_push_at"])),
        (LEFT("FLAGS"), |row| {
            let names = [("push", "push"), ("trust", "trust"), ("no_change", "no-change")];
            join(names.into_iter().filter(|(field, _)| row[*field] == true).map(|(_, name)| name.to_owned()))
        }),
        (RIGHT("HEALTH"), |row| text(&row["health"])),
        (RIGHT("GROUPS"), |row| text(&row["groups"])),
        (RIGHT("MEMBERS"), |row| text(&row["members"])),
        (RIGHT("WAITING"), |row| text(&row["bytes_waiting"])),
    ]
}

fn groups() -> Vec<Cell> {
    vec![
        (Column::cut("GROUP"), |row| text(&row["group"])),
        (LEFT("LB"), |row| text(&row["load_balancer"]["uid"])),
        (LEFT("POLICY"), |row| text(&row["policy"])),
        (RIGHT("MEMBERS"), |row| text(&row["members"])),
        (RIGHT("UP"), |row| text(&row["up"])),
        (RIGHT("DOWN"), |row| text(&row["down"])),
        (RIGHT("DRAINED"), |row| text(&row["drained"])),
        (RIGHT("UNKNOWN"), |row| text(&row["unknown"])),
        (RIGHT("QUIESCED"), |row| text(&row["quiesced"])),
        (RIGHT("WEIGHT"), |row| text(&row["weight"])),
        (LEFT("DOUBT"), |row| if row["in_doubt"] == true { "yes" } else { "no" }.into()),
    ]
}

fn members() -> Vec<Cell> {
    vec![
        (LEFT("MEMBER"), endpoint),
        (Column::cut("LABEL"), |row| text(&row["label"])),
        (LEFT("GROUP"), |row| text(&row["group"])),
        (LEFT("LB"), |row| text(&row["load_balancer"]["uid"])),
        (RIGHT("WEIGHT"), |row| text(&row["weight"])),
        (LEFT("STATE"), |row| state(row).into()),
        (Column::cut("REASON"), |row| text(&row["reason"])),
    ]
}

fn checks() -> Vec<Cell> {
    vec![
        (LEFT("MEMBER"), endpoint),
        (LEFT("CHECK"), |row| text(&row["check"])),
        (LEFT("STATE"), |row| text(&row["state"])),
        (RIGHT("EVERY S"), |row| text(&row["interval_seconds"])),
        (Column::cut("LAST FAILURE"), |row| text(&row["last_failure"]["text"])),
    ]
}

fn limits() -> Vec<Cell> {
    vec![
        (Column::cut("LIMIT"), |row| text(&row["name"])),
        (LEFT("FLAG"), |row| text(&row["flag"])),
        (RIGHT("USED"), |row| text(&row["used"])),
        (RIGHT("OF"), |row| text(&row["max"])),
        (RIGHT("PART"), |row| format!("{:.0} %", 100.0 * part(row))),
    ]
}

fn nodes() -> Vec<Cell> {
    vec![
        (LEFT("NODE"), |row| text(&row["name"])),
        (LEFT("ADDRESS"), |row| text(&row["address"])),
        (LEFT("VERSION"), |row| text(&row["version"])),
        (LEFT("STARTED"), |row| text(&row["started_at"])),
        (RIGHT("LBS"), |row| text(&row["load_balancers"])),
        (RIGHT("CHECKS"), |row| text(&row["checks"])),
        (LEFT("BLIND"), |row| if row["blind"] == true { "yes" } else { "no" }.into()),
    ]
}

/// The fleet: how this node keeps up with etcd, and the nodes.
pub(super) fn fleet(fleet: &Value, width: usize) -> Vec<String> {
    if fleet.is_null() {
        return vec!["This daemon belongs to no fleet (gwm serve --fleet).".into()];
    }
    let field = |name: &str| text(&fleet[name]);
    let etcd = match fleet["trouble"].is_null() {
        true => format!("{}, revision {}, lease {}", field("etcd"), field("revision"), field("lease")),
        false => format!("out of reach: {}", field("trouble")),
    };
    let checks = match fleet["redundancy"].as_u64() {
        Some(1) => "1 node checks".to_owned(),
        _ => format!("{} nodes check", field("redundancy")),
    };
    let mut lines = vec![
        format!("fleet           {}, this node is {}", field("name"), field("node")),
        format!("etcd            {etcd}"),
        format!("rows            {}, not yet written {}", field("rows"), field("rows_ahead")),
        format!("waiting         {} changes for etcd, {} from etcd", field("changes_waiting"), field("orders_waiting")),
        format!("checks          {checks} each member"),
    ];
    if fleet["rows_unknown"].as_u64().is_some_and(|rows| rows > 0) {
        lines.push(format!("                {} rows of etcd are not understood", field("rows_unknown")));
    }
    lines.push(String::new());
    let rows = fleet["nodes"].as_array().cloned().unwrap_or_default();
    lines.extend(table(&rows, &nodes(), width));
    lines
}

/// How much of a limit is used: 0 to 1.
fn part(limit: &Value) -> f64 {
    limit["used"].as_f64().unwrap_or(0.0) / limit["max"].as_f64().unwrap_or(1.0).max(1.0)
}

/// Whether a limit may be the nearest one. Those of the admin side are used by whoever looks, so they count when they are
/// near.
fn is_notable(limit: &Value) -> bool {
    let is_own = limit["name"].as_str().is_some_and(|name| name.starts_with("admin_"));
    !is_own || part(limit) >= 0.8
}

/// The most groups in trouble that the overview names.
const TROUBLED: usize = 20;

/// Whether all is well, how much there is, and which groups are in trouble.
pub(super) fn overview(value: &Value, width: usize) -> Vec<String> {
    let totals = &value["totals"];
    let count = |field: &str| text(&totals[field]);
    let blind = [("own", "at this machine's own addresses"), ("foreign", "at other addresses")];
    let blind =
        join(blind.into_iter().filter(|(world, _)| totals["blind"][*world] == true).map(|(_, name)| name.into()));
    let nobody = Vec::new();
    let array = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let limits = array(&value["limits"]["limits"]);
    let nearest =
        limits.iter().filter(|limit| is_notable(limit)).max_by(|one, other| part(one).total_cmp(&part(other)));
    let version = &value["version"];
    let mut lines = vec![
        format!("{} {}, started {}", text(&version["name"]), text(&version["version"]), text(&version["started_at"])),
        String::new(),
        format!("load balancers  {}, connected {}", count("load_balancers"), count("load_balancers_connected")),
        format!("groups          {}, in doubt {}", count("groups"), count("groups_in_doubt")),
        format!("memberships     {}", count("memberships")),
        format!(
            "endpoints       {}, watched {}, answering {}",
            count("endpoints"),
            count("watched"),
            count("answering")
        ),
        format!("blind           {}", if blind == "-" { "no" } else { &blind }),
    ];
    lines.extend(nearest.map(|limit| {
        let percent = 100.0 * part(limit);
        let (name, used, max) = (text(&limit["name"]), text(&limit["used"]), text(&limit["max"]));
        format!("nearest limit   {name}: {used} of {max} ({percent:.0} %)")
    }));
    let words = array(&value["words"]["words"]);
    if !words.is_empty() {
        lines.extend([String::new(), "What operators said here:".into()]);
        lines.extend(words.iter().map(|said| format!("  {}", word(said))));
    }
    let groups_known = value["groups"]["groups"].as_array().unwrap_or(&nobody);
    let troubled: Vec<Value> = groups_known.iter().filter(|group| is_troubled(group)).cloned().collect();
    let unconfirmed = groups_known.iter().filter(|group| is_unconfirmed(group)).count();
    lines.push(String::new());
    if troubled.is_empty() {
        lines.push(match (groups_known.len(), unconfirmed) {
            (0, _) => "There are no groups. A load balancer registers them.".into(),
            (_, 0) => "No group is in trouble.".into(),
            _ => "No group is known to be in trouble.".into(),
        });
    } else {
        lines.push(format!("Groups in trouble: {}", troubled.len()));
        lines.extend(table(&troubled[..troubled.len().min(TROUBLED)], &groups(), width));
    }
    if unconfirmed > 0 {
        lines.push(format!(
            "Groups of which no check confirms a member: {unconfirmed}; gwm status members --state unknown says why"
        ));
    }
    lines
}

/// Nothing confirms the weight of any member that could get work: no check has a verdict yet, or nothing watches them.
fn is_unconfirmed(group: &Value) -> bool {
    group["up"] == 0 && group["unknown"].as_u64() > Some(0)
}

/// As the page has it: a member is down, failures are in doubt, or nobody is up though somebody should be.
fn is_troubled(group: &Value) -> bool {
    let count = |field: &str| group[field].as_u64().unwrap_or(0);
    let works = count("up") + count("unknown");
    let is_lost = count("members") > 0 && works == 0 && count("quiesced") < count("members");
    is_lost || count("down") > 0 || group["in_doubt"] == true
}

/// An operator's word, in one line.
pub(super) fn word(word: &Value) -> String {
    let kind = match word["kind"].as_str() {
        Some("weight") => format!("weight {}", text(&word["weight"])),
        _ => text(&word["kind"]),
    };
    let places = [
        ("address", &word["address"]),
        ("port", &word["port"]),
        ("protocol", &word["protocol"]),
        ("group", &word["group"]),
        ("load balancer", &word["load_balancer"]["uid"]),
    ];
    let places: Vec<String> = places
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| format!("{name} {}", text(value)))
        .collect();
    let place = if places.is_empty() { "everything".into() } else { places.join(", ") };
    let end =
        if word["expires_at"].is_null() { String::new() } else { format!(", until {}", text(&word["expires_at"])) };
    let who = if text(&word["by"]) == "-" { text(&word["from"]) } else { text(&word["by"]) };
    format!("{kind}: {place}; {} ({who}, {}{end})", text(&word["reason"]), text(&word["at"]))
}

/// The newest changes of a member that are shown.
const CHANGES: usize = 10;

/// Memberships of one endpoint in full, one after the other.
pub(super) fn memberships(value: &Value, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for member in value.as_array().into_iter().flatten() {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        let (group, uid) = (text(&member["group"]), text(&member["load_balancer"]["uid"]));
        lines.push(format!(
            "{} in {group} of {uid}: weight {}, {}",
            endpoint(member),
            text(&member["weight"]),
            state(member)
        ));
        lines.push(format!("  {}", text(&member["reason"])));
        let why = &member["why"];
        lines.push(format!("  {}", text(&why["text"])));
        let names = ["capacity", "availability", "health", "ramp", "rate", "quiesce"];
        let factors: Vec<Vec<String>> = names
            .into_iter()
            .filter(|name| !why[*name].is_null())
            .map(|name| {
                vec![format!("  {name}"), text(&why[name]["value"]), text(&why[name]["source"]), text(&why[name]["at"])]
            })
            .collect();
        if !factors.is_empty() {
            lines.extend(aligned(
                &[LEFT("  FACTOR"), RIGHT("VALUE"), Column::cut("SOURCE"), LEFT("SINCE")],
                factors,
                width,
            ));
        }
        let failure = &why["last_failure"];
        if !failure.is_null() {
            let (check, at, words) = (text(&failure["check"]), text(&failure["at"]), text(&failure["text"]));
            lines.push(format!("  last failure: {check} at {at}: {words}"));
        }
        let said = member["words"].as_array().into_iter().flatten();
        lines.extend(said.map(|said| format!("  an operator said: {}", word(said))));
        let changes = member["history"].as_array().into_iter().flatten().take(CHANGES);
        let changes: Vec<Vec<String>> = changes
            .map(|change| vec![format!("  {}", text(&change["at"])), text(&change["kind"]), text(&change["text"])])
            .collect();
        if !changes.is_empty() {
            lines.extend(aligned(&[LEFT("  CHANGED"), LEFT("WHAT"), Column::cut("WORDS")], changes, width));
        }
    }
    lines
}

/// The state that a member is shown with: what a person said counts before what checks found.
fn state(member: &Value) -> &'static str {
    let is = |field: &str| member[field] == true;
    if is("quiesced") {
        "quiesced"
    } else if !is("contact") {
        "down"
    } else if !is("confident") {
        "unknown"
    } else if member["weight"] == 0 {
        "drained"
    } else {
        "up"
    }
}

/// `10.0.0.1:80`, `[2001:db8::5]:53/udp`, or the address of a whole system.
pub(super) fn endpoint(row: &Value) -> String {
    let (address, port, protocol) = (text(&row["address"]), text(&row["port"]), text(&row["protocol"]));
    if (&*port, &*protocol) == ("0", "0") {
        return address;
    }
    let host = if address.contains(':') { format!("[{address}]") } else { address };
    if protocol == "tcp" { format!("{host}:{port}") } else { format!("{host}:{port}/{protocol}") }
}

/// A value for people. Nothing in it steers the terminal, whoever wrote it.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) if text.is_empty() => "-".into(),
        Value::String(text) => text.chars().fold(String::new(), |mut clean, character| {
            match character.is_control() {
                true => clean.extend(character.escape_default()),
                false => clean.push(character),
            }
            clean
        }),
        Value::Number(number) => number.as_f64().map_or(number.to_string(), |number| number.to_string()),
        other => other.to_string(),
    }
}

fn join(parts: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = parts.collect();
    if all.is_empty() { "-".into() } else { all.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn member(weight: u16) -> Value {
        json!({
            "address": "10.0.0.1", "port": 80, "protocol": "tcp", "label": "web-1", "group": "web",
            "load_balancer": {"uid": "LB1", "uid_hex": "4c4231"}, "weight": weight, "contact": true, "confident": true,
            "quiesced": false, "reason": "All checks pass.",
        })
    }

    #[test]
    fn one_node_checks_and_two_nodes_check() {
        let line = |redundancy: u8| fleet(&json!({"redundancy": redundancy, "nodes": []}), 80)[4].clone();
        assert_eq!(line(1), "checks          1 node checks each member");
        assert_eq!(line(2), "checks          2 nodes check each member");
    }

    #[test]
    fn a_fleet_has_its_nodes_in_rows() {
        assert_eq!(fleet(&Value::Null, 80), ["This daemon belongs to no fleet (gwm serve --fleet)."]);
        let node = json!({"name": "a", "is_self": true, "address": "10.0.0.1:3860", "version": "0.1.0",
            "started_at": "2026-01-01T00:00:00Z", "blind": false, "checks": 20, "load_balancers": 2});
        let value = json!({"name": "main", "node": "a", "connected": true, "etcd": "10.0.0.9:2379", "trouble": null,
            "lease": "1f", "revision": 7, "rows": 3, "rows_ahead": 0, "rows_unknown": 1,
            "changes_waiting": 0, "orders_waiting": 0, "redundancy": 2, "nodes": [node]});
        let expected = [
            "fleet           main, this node is a",
            "etcd            10.0.0.9:2379, revision 7, lease 1f",
            "rows            3, not yet written 0",
            "waiting         0 changes for etcd, 0 from etcd",
            "checks          2 nodes check each member",
            "                1 rows of etcd are not understood",
            "",
            "NODE  ADDRESS        VERSION  STARTED               LBS  CHECKS  BLIND",
            "a     10.0.0.1:3860  0.1.0    2026-01-01T00:00:00Z    2      20  no",
        ];
        assert_eq!(fleet(&value, usize::MAX), expected);
    }

    #[test]
    fn no_value_steers_the_terminal() {
        assert_eq!(text(&json!("a\u{1b}[31mb\nc\u{9b}é")), "a\\u{1b}[31mb\\nc\\u{9b}é");
    }

    #[test]
    fn members_are_rows_and_the_label_gives_way() {
        let value = json!({"members": [member(40), member(0)], "more": false});
        let expected = [
            "MEMBER       LABEL  GROUP  LB   WEIGHT  STATE    REASON",
            "10.0.0.1:80  web-1  web    LB1      40  up       All checks pass.",
            "10.0.0.1:80  web-1  web    LB1       0  drained  All checks pass.",
        ];
        assert_eq!(list(&value, usize::MAX), expected);
        assert_eq!(list(&json!({"members": []}), 80), ["none"]);
    }

    #[test]
    fn a_member_in_full_says_why() {
        let mut row = member(40);
        row["why"] = json!({
            "text": "40 = 100 x 1 x 0.4 x 1", "capacity": {"value": 100, "source": "the members file", "at": null},
            "last_failure": {"at": "2026-01-01T00:00:00Z", "check": "tcp", "text": "refused"},
        });
        row["history"] = json!([{"at": "2026-01-01T00:00:01Z", "kind": "standing", "text": "up"}]);
        let expected = [
            "10.0.0.1:80 in web of LB1: weight 40, up",
            "  All checks pass.",
            "  40 = 100 x 1 x 0.4 x 1",
            "  FACTOR    VALUE  SOURCE            SINCE",
            "  capacity    100  the members file  -",
            "  last failure: tcp at 2026-01-01T00:00:00Z: refused",
            "  CHANGED               WHAT      WORDS",
            "  2026-01-01T00:00:01Z  standing  up",
        ];
        assert_eq!(memberships(&json!([row]), usize::MAX), expected);
    }

    #[test]
    fn the_reason_gives_way_before_the_label() {
        let value = json!({"members": [member(40)], "more": false});
        assert_eq!(list(&value, 60)[1], "10.0.0.1:80 web-1 web   LB1     40 up    All checks pass.");
        assert_eq!(list(&value, 54)[1], "10.0.0.1:80 web-1 web   LB1     40 up    All checks p…");
    }

    #[test]
    fn who_looks_is_not_the_nearest_limit() {
        let limit = |name: &str, used: u64| json!({"name": name, "used": used, "max": 100, "flag": null});
        let nearest = |limits: Vec<Value>| {
            let lines = overview(&json!({"limits": {"limits": limits}}), usize::MAX);
            lines.into_iter().find(|line| line.starts_with("nearest limit")).expect("a limit")
        };
        let quiet = nearest(vec![limit("groups", 1), limit("admin_connections", 50)]);
        assert_eq!(quiet, "nearest limit   groups: 1 of 100 (1 %)");
        let crowd = nearest(vec![limit("groups", 1), limit("admin_connections", 80)]);
        assert_eq!(crowd, "nearest limit   admin_connections: 80 of 100 (80 %)");
    }

    #[test]
    fn a_group_that_nothing_confirms_is_in_no_trouble() {
        let group =
            |up: u64, unknown: u64| json!({"members": 2, "up": up, "unknown": unknown, "quiesced": 0, "down": 0});
        assert!(!is_troubled(&group(0, 2)) && !is_troubled(&group(1, 0)) && is_troubled(&group(0, 0)));
    }

    #[test]
    fn what_no_check_confirms_is_not_said_to_be_well() {
        let group = |up: u64, unknown: u64, down: u64| json!({"members": 2, "up": up, "unknown": unknown, "quiesced": 0, "down": down, "group": "web"});
        let end = |groups: Vec<Value>| {
            let lines = overview(&json!({"groups": {"groups": groups}}), usize::MAX);
            lines.rsplit(|line| line.is_empty()).next().expect("an end").to_vec()
        };
        assert_eq!(end(vec![]), ["There are no groups. A load balancer registers them."]);
        assert_eq!(end(vec![group(1, 1, 0)]), ["No group is in trouble."]);
        let note = "Groups of which no check confirms a member: 1; gwm status members --state unknown says why";
        assert_eq!(end(vec![group(0, 2, 0), group(2, 0, 0)]), ["No group is known to be in trouble.", note]);
        let both = end(vec![group(0, 1, 1)]);
        assert_eq!((both[0].as_str(), both.last().map(String::as_str)), ("Groups in trouble: 1", Some(note)));
    }

    #[test]
    fn endpoints_are_written_as_flags_take_them() {
        let of = |address, port, protocol| endpoint(&json!({"address": address, "port": port, "protocol": protocol}));
        assert_eq!(of("2001:db8::5", 53, "udp"), "[2001:db8::5]:53/udp");
        assert_eq!(of("10.0.0.1", 0, "0"), "10.0.0.1");
    }
}
