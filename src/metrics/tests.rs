use std::{
    collections::BTreeMap,
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::*;

#[test]
fn durations_are_known_to_a_factor_of_two() {
    let (one, other) = (Histogram::default(), Histogram::default());
    assert_eq!(one.read().quantile_ms(990), None);
    (0..985).for_each(|_| one.add(Duration::from_micros(999)));
    (0..14).for_each(|_| other.add(Duration::from_millis(5)));
    other.add(Duration::from_secs(100_000_000));
    let mut reading = Reading::default();
    reading.add_distribution(Some(0), Id::CheckLateness, one.read());
    reading.add_distribution(Some(1), Id::CheckLateness, other.read());
    let all = reading.distribution(Id::CheckLateness);
    assert_eq!([500, 990, 1000].map(|part| all.quantile_ms(part)), [Some(1), Some(8), Some(274_878)]);
    let buckets: Vec<_> = all.buckets().filter(|(_, count)| *count > 0).collect();
    assert_eq!(buckets, [(Some(0.001_048_576), 985), (Some(0.008_388_608), 14), (None, 1)]);
    assert_eq!(all.buckets().next(), Some((Some(0.000_016_384), 0)));
    let sum = (985 * 999 + 14 * 5000) as f64 / 1e6 + 1e8;
    assert!((all.sum() - sum).abs() < 1e-6, "{}", all.sum());
}

#[test]
fn sizes_are_known_to_a_factor_of_two() {
    let sizes = Histogram::of_bytes();
    [0, 63, 64, 127, 128, 3253, u64::MAX / 2].iter().for_each(|size| sizes.add_value(*size));
    let buckets: Vec<_> = sizes.read().buckets().filter(|(_, count)| *count > 0).collect();
    assert_eq!(buckets, [(Some(64.0), 2), (Some(128.0), 2), (Some(256.0), 1), (Some(4096.0), 1), (None, 1)]);
}

#[test]
fn names_follow_the_rules_and_each_series_stands_once() {
    let mut helps = BTreeMap::new();
    for (at, (id, metric)) in ROWS.iter().enumerate() {
        assert_eq!((*id as usize, id.metric()), (at, metric));
        let Metric { name, help, unit, kind, owner: _, label } = *metric;
        let word = |character: char| character.is_ascii_lowercase() || character == '_';
        assert!(name.starts_with("gwm_") && name.chars().all(word), "{name}");
        assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
        assert!(unit.is_none_or(|unit| name.ends_with(unit)), "{name}");
        assert!(help.ends_with('.'), "{name}");
        assert_eq!(*helps.entry(name).or_insert(help), help, "{name} has one help text");
        let same = ROWS.iter().filter(|(_, other)| (other.name, other.label) == (name, label)).count();
        assert_eq!(same, 1, "{name}");
    }
}

/// The log of a reading, as JSON lines.
fn log(reading: &Reading) -> Vec<serde_json::Map<String, serde_json::Value>> {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let log = tracing_subscriber::fmt().json().flatten_event(true).with_target(false);
    let log = log.without_time().with_level(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(log, || reading.log());
    let bytes = lines.0.lock().unwrap().clone();
    serde_json::Deserializer::from_slice(&bytes).into_iter().map(|line| line.expect("JSON")).collect()
}

#[test]
fn the_log_at_the_stop_has_every_counter_and_nothing_else() {
    let mut reading = Reading::default();
    let values = Values::default();
    for (at, id) in Id::all().enumerate() {
        let value = 1_000_003 * (at as u64 + 1); // no power of two, as the histogram's is
        let metric = id.metric();
        match (metric.kind, metric.label) {
            (Kind::Histogram, _) if id != Id::CheckLateness => {} // only this one is in the log
            (Kind::Histogram, _) => {
                let histogram = Histogram::default();
                histogram.add(Duration::from_micros(value * 700));
                let label = LabelValue::of_variant(&id, "a kind");
                reading.add_labelled_distribution(Some(0), id, label, histogram.read());
            }
            (_, Label::Each(_)) => {
                let label = LabelValue::of_variant(&id, "a cause");
                reading.add_labelled(Some(0), id, label.clone(), value - 1);
                reading.add_labelled(Some(1), id, label, 1);
            }
            _ => values.set(id, value),
        }
    }
    reading.add_values(Some(0), &values);
    reading.add_values(None, &values);
    reading.add_values_of(Owner::AgentChecks, None, &values);
    let mut expected: BTreeMap<_, _> = Id::all()
        .filter(|id| reading.of(*id).count() > 0)
        .map(|id| (reading.logged(id), (id, id.metric().kind)))
        .collect();
    let mut numbers = Vec::new();
    for mut line in log(&reading) {
        assert!(line.remove("message").is_some_and(|text| !text.as_str().unwrap_or_default().is_empty()));
        numbers.extend(line.values().map(|value| value.as_u64().expect("a number")));
    }
    let logged: Vec<_> = numbers.iter().map(|number| expected.remove(number).expect("a metric, once")).collect();
    assert!(logged.len() > 10, "{logged:?}");
    let missing: Vec<_> = expected.values().filter(|(_, kind)| *kind == Kind::Counter).collect();
    assert!(missing.is_empty(), "not in the log at the stop: {missing:?}");
}

#[test]
fn lines_without_values_are_left_out() {
    let lines = log(&Reading::default());
    let texts: Vec<_> = lines.iter().map(|line| &line["message"]).collect();
    assert_eq!(texts, ["stopped"]);
    let mut reading = Reading::default();
    let label = |text: &'static str| LabelValue { name: "x".into(), text: text.into() };
    reading.add_labelled(Some(0), Id::ConnectionsClosed, label("the server stops"), 3);
    reading.add_labelled(Some(0), Id::ConnectionsClosed, label("it broke"), 0);
    let lines = log(&reading);
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["message"], "closed: the server stops");
    assert_eq!(lines[1]["connections"], 3);
}

#[test]
fn variants_become_label_values() {
    assert_eq!(LabelValue::of_variant(&Id::ConnectionsOpen, "").name, "connections_open");
}
