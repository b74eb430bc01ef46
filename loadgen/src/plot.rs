//! `plot`: draws results (the JSON of other workloads) as SVG, for PERF.md: bars, one group for each result; lines over
//! a parameter; or the curve of a latency over its percentiles.

mod draw;

use std::{fs, path::PathBuf};

use clap::Args;
use serde_json::Value;

use crate::Result;
use draw::{Kind, Picture, Point};

/// Flags of `plot`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Plot {
    /// Results, as --json writes them; FILE=LABEL gives the result's label or, with --over, its place
    #[arg(required = true, value_name = "FILE[=LABEL]")]
    results: Vec<String>,

    /// The number to draw, by its name in the results' tables; of several names, those that a result has
    #[arg(long, value_name = "NAME", required_unless_present = "latency")]
    metric: Vec<String>,

    /// Draw the number divided by the same number of the base side (the floor)
    #[arg(long, requires = "metric")]
    ratio: bool,

    /// Draw a limit line: one for all results, or one for each
    #[arg(long, value_name = "NUMBER", value_delimiter = ',', requires = "metric")]
    bound: Vec<f64>,

    /// Draw lines over this parameter of the results, on a logarithmic scale (`lbs`, say), instead of bars
    #[arg(long, value_name = "PARAMETER", requires = "metric")]
    over: Option<String>,

    /// Draw a latency's curve over its percentiles, by its name in the results' tables (without the percentile)
    #[arg(long, value_name = "NAME", conflicts_with = "metric")]
    latency: Option<String>,

    /// Sides that are drawn (gwm, floor, nats-server, redis-server) [default: all]
    #[arg(long, value_name = "SIDE", value_delimiter = ',')]
    sides: Vec<String>,

    /// The title
    #[arg(long, value_name = "TEXT", default_value = "")]
    title: String,

    /// The SVG file
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
}

/// Draws.
pub(crate) fn run(plot: &Plot) -> Result<()> {
    if plot.bound.len() > 1 && plot.bound.len() != plot.results.len() {
        return Err(format!("{} --bound for {} results", plot.bound.len(), plot.results.len()));
    }
    let mut points = Vec::new();
    let mut unit = None;
    for (place, result) in plot.results.iter().enumerate() {
        let (file, label) = result.split_once('=').map_or((result.as_str(), None), |(file, label)| (file, Some(label)));
        let text = fs::read_to_string(file).map_err(|error| format!("can not read {file}: {error}"))?;
        let value: Value = serde_json::from_str(&text).map_err(|error| format!("{file}: {error}"))?;
        let found = match &plot.latency {
            Some(latency) => curve(&value, latency, label).map(|points| ("ns".to_owned(), points)),
            None => read(&value, label, plot),
        };
        let (of, mut found) = found.map_err(|error| format!("{file}: {error}"))?;
        if unit.get_or_insert_with(|| of.clone()) != &of {
            return Err(format!("{file} is in {of}, others are not"));
        }
        if let Some(bound) = plot.bound.get(place).or(plot.bound.first()) {
            found.iter_mut().for_each(|point| point.bound = Some(*bound));
        }
        points.extend(found);
    }
    if !plot.sides.is_empty() {
        points.retain(|point| plot.sides.contains(&point.side));
    }
    if points.is_empty() {
        return Err("there is nothing to draw".into());
    }
    let picture = Picture {
        title: match &plot.latency {
            _ if !plot.title.is_empty() => plot.title.clone(),
            Some(latency) => latency.clone(),
            None => plot.metric.join(", "),
        },
        unit: unit.unwrap_or_default(),
        kind: match (&plot.latency, &plot.over) {
            (Some(_), _) => Kind::Curve,
            (None, Some(parameter)) => Kind::Lines(parameter.clone()),
            (None, None) => Kind::Bars,
        },
        points,
    };
    fs::write(&plot.out, picture.draw()).map_err(|error| format!("can not write {}: {error}", plot.out.display()))
}

/// The name of a side in a picture.
fn name(side: &str) -> &str {
    if side == crate::report::SERVER { "gwm" } else { side }
}

/// The unit of a result's numbers, and their points.
fn read(result: &Value, label: Option<&str>, plot: &Plot) -> Result<(String, Vec<Point>)> {
    let rows = result["summary"].as_array().ok_or("this is not what --json writes")?;
    let wanted =
        |row: &&Value| row["name"].as_str().is_some_and(|name| plot.metric.iter().any(|metric| metric == name));
    let found: Vec<&Value> = rows.iter().filter(wanted).collect();
    if found.is_empty() {
        let names: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
        return Err(format!("there is no \"{}\" in it, only {}", plot.metric.join("\" or \""), names.join(", ")));
    }
    let x = match &plot.over {
        None => 0.0,
        Some(name) => {
            let said = label.and_then(|label| label.parse().ok()).or(result["parameters"][name].as_f64());
            said.filter(|x| *x > 0.0).ok_or_else(|| format!("it has no parameter \"{name}\" above 0"))?
        }
    };
    let mut points = Vec::new();
    let mut unit = String::new();
    for row in &found {
        let metric = row["name"].as_str().unwrap_or_default();
        let own = result["workload"].as_str().unwrap_or_default();
        let label = match (label, &plot.over) {
            (_, Some(_)) => thousands(x),
            (Some(label), None) if found.len() > 1 => format!("{label}: {metric}"),
            (None, None) if found.len() > 1 => metric.to_owned(),
            (label, None) => label.unwrap_or(own).to_owned(),
        };
        let mut put = |spread: &Value, side: String| {
            let number = |name: &str| spread[name].as_f64().ok_or_else(|| format!("{metric} of {side} has no {name}"));
            let (min, median, max) = (number("min")?, number("median")?, number("max")?);
            points.push(Point { side, label: label.clone(), x, min, median, max, bound: None });
            Ok::<_, String>(())
        };
        if plot.ratio {
            let ratios =
                row.as_object().and_then(|row| row.iter().find_map(|(key, of)| Some((key.strip_prefix("over_")?, of))));
            let (base, sides) = ratios.ok_or("a row without ratios")?;
            for (side, spread) in sides.as_object().into_iter().flatten() {
                put(spread, format!("{} ÷ {}", name(side), name(base)))?;
            }
        } else {
            unit = row["unit"].as_str().unwrap_or_default().to_owned();
            for (side, spread) in row["sides"].as_object().ok_or("a row without sides")? {
                put(spread, name(side).to_owned())?;
            }
        }
    }
    Ok((unit, points))
}

/// A number with a comma every three digits, as the text around the picture has it.
fn thousands(number: f64) -> String {
    let digits = number.to_string();
    let whole = digits.find('.').unwrap_or(digits.len());
    let comma = |at: usize| if at > 0 && at < whole && (whole - at).is_multiple_of(3) { "," } else { "" };
    digits.char_indices().map(|(at, digit)| format!("{}{digit}", comma(at))).collect()
}

/// A latency's points: how many times rarer than one in one, and how long.
fn curve(result: &Value, latency: &str, label: Option<&str>) -> Result<Vec<Point>> {
    let all = result["latencies"].as_object().ok_or("there are no latencies in it")?;
    let sides = all.get(latency).and_then(Value::as_object).ok_or_else(|| {
        let names: Vec<&str> = all.keys().map(String::as_str).collect();
        format!("there is no latency \"{latency}\" in it, only {}", names.join(", "))
    })?;
    let mut points = Vec::new();
    for (side, curve) in sides {
        let side = label.map_or(name(side).to_owned(), |label| format!("{} {label}", name(side)));
        for point in curve.as_array().into_iter().flatten() {
            let (Some(quantile), Some(value)) = (point[0].as_f64(), point[1].as_f64()) else {
                return Err(format!("{latency} of {side} has a point that is none"));
            };
            let x = 1.0 / (1.0 - quantile).max(1e-12);
            let (min, median, max) = (value, value, value);
            points.push(Point { side: side.clone(), label: String::new(), x, min, median, max, bound: None });
        }
    }
    Ok(points)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plot(over: Option<&str>, ratio: bool) -> Plot {
        Plot {
            results: vec![],
            metric: vec!["CPU per message".into(), "CPU per request".into()],
            ratio,
            bound: vec![],
            over: over.map(str::to_owned),
            latency: None,
            sides: vec![],
            title: String::new(),
            out: PathBuf::new(),
        }
    }

    fn result() -> Value {
        let spread = |median: f64| json!({"median": median, "min": median * 0.5, "max": median * 2.0});
        json!({
            "workload": "fanout", "parameters": {"lbs": 100}, "summary": [
                {"name": "CPU per message", "unit": "ns",
                 "sides": {"server": spread(8000.0), "floor": spread(4000.0)}, "over_floor": {"server": spread(2.0)}},
            ],
            "latencies": {"change to receipt": {"server": [[0.0, 5], [0.9, 50]]}},
        })
    }

    fn point(side: &str, label: &str, x: f64, median: f64) -> Point {
        let (min, max) = (median * 0.5, median * 2.0);
        Point { side: side.into(), label: label.into(), x, min, median, max, bound: None }
    }

    #[test]
    fn points_are_the_sides_of_a_row() {
        let (unit, points) = read(&result(), None, &plot(Some("lbs"), false)).unwrap();
        assert_eq!(unit, "ns");
        assert_eq!(points, [point("gwm", "100", 100.0, 8000.0), point("floor", "100", 100.0, 4000.0)]);
        let (_, points) = read(&result(), Some("3"), &plot(Some("shards"), false)).unwrap();
        assert_eq!((points[0].x, points[0].label.as_str()), (3.0, "3"), "a label says where it stands");
        let (unit, points) = read(&result(), Some("a"), &plot(None, true)).unwrap();
        assert_eq!((unit.as_str(), points), ("", vec![point("gwm ÷ floor", "a", 0.0, 2.0)]));
    }

    #[test]
    fn numbers_have_commas() {
        let shown = [1.0, 100.0, 1000.0, 10_000.0, 1_000_000.0, 1234.5].map(thousands);
        assert_eq!(shown, ["1", "100", "1,000", "10,000", "1,000,000", "1,234.5"]);
    }

    #[test]
    fn a_curve_is_over_rarity() {
        let points = curve(&result(), "change to receipt", None).unwrap();
        let found: Vec<(f64, f64)> = points.iter().map(|point| (point.x.round(), point.median)).collect();
        assert_eq!(found, [(1.0, 5.0), (10.0, 50.0)]);
        assert!(curve(&result(), "none", None).unwrap_err().contains("only change to receipt"));
    }

    #[test]
    fn what_is_not_there_is_said() {
        let other = Plot { metric: vec!["speed".into()], ..plot(None, false) };
        assert!(read(&result(), None, &other).unwrap_err().contains("only CPU per message"));
        assert!(read(&result(), None, &plot(Some("threads"), false)).is_err());
        assert!(read(&json!({}), None, &plot(None, false)).is_err());
    }
}
