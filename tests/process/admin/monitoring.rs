//! The examples for Prometheus and Grafana in `src/admin/monitoring`.

use std::{collections::BTreeSet, path::Path, process::Command};

use super::{get, start};

fn path(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/monitoring").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).expect("the file is there")
}

/// Every expression of the dashboard.
fn expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(entries) => {
            found.extend(entries.get("expr").and_then(|expr| expr.as_str()).map(str::to_owned));
            entries.values().for_each(|value| expressions(value, found));
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

/// The names of metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("gwm_")).map(|word| word.strip_suffix("_bucket").unwrap_or(word)).collect()
}

/// The labels that a text groups by.
fn labels(text: &str) -> BTreeSet<&str> {
    let lists = text.split(" by (").skip(1).filter_map(|rest| rest.split(')').next());
    lists.flat_map(|list| list.split(',').map(str::trim)).collect()
}

#[test]
fn prometheus_takes_the_examples() {
    for (what, name) in [("config", "prometheus.yml"), ("rules", "alerts.yml")] {
        let output = Command::new("promtool").args(["check", what]).arg(path(name)).output();
        let output = output.unwrap_or_else(|error| panic!("promtool: {error}: tests/run installs it"));
        let words = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
        assert!(output.status.success() && words.contains("SUCCESS"), "{name}: {words}");
    }
}

#[test]
fn alerts_and_dashboard_name_metrics_and_labels_that_exist() {
    let daemon = start(&[]);
    let body = get(&daemon, "/metrics").body;
    let dashboard: serde_json::Value = serde_json::from_str(&read("dashboard.json")).expect("JSON");
    let mut shown = Vec::new();
    expressions(&dashboard, &mut shown);
    let (shown, alerts) = (shown.join("\n"), read("alerts.yml"));
    assert!(names(&shown).len() > 10 && names(&alerts).len() > 5, "the examples name metrics");
    for name in names(&shown).union(&names(&alerts)) {
        assert!(body.contains(&format!("# TYPE {name} ")), "{name} is no metric");
    }
    // `instance` is Prometheus' own.
    for label in labels(&shown).union(&labels(&alerts)).filter(|label| **label != "instance") {
        let is_label = [",", "{"].iter().any(|before| body.contains(&format!("{before}{label}=\"")));
        assert!(is_label, "no metric has the label {label}");
    }
}
