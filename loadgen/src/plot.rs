//! `plot`: draws results (the JSON of other workloads) as SVG, for PERF.md: bars, one group for each result, or lines
//! over a parameter. Text and lines take a dark background's colours where the reader's system is dark.

use std::{fmt::Write, fs, path::PathBuf};

use clap::Args;
use serde_json::Value;

use crate::Result;

/// Flags of `plot`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Plot {
    /// Results, as --json writes them; FILE=LABEL says what to write below the bars of that result
    #[arg(required = true, value_name = "FILE[=LABEL]")]
    results: Vec<String>,

    /// Which number is drawn, as it is called in the results' tables; several make a group of bars for each
    #[arg(long, value_name = "NAME", required = true)]
    metric: Vec<String>,

    /// Draw lines over this parameter of the results, on a logarithmic scale (`lbs`, say), instead of bars
    #[arg(long, value_name = "PARAMETER")]
    over: Option<String>,

    /// What stands above it
    #[arg(long, value_name = "TEXT", default_value = "")]
    title: String,

    /// Where the SVG goes
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 46.0;

/// Colours of sides that read on white and on black, in the order of their appearance.
const COLOURS: [&str; 6] = ["#2f81f7", "#e3702e", "#2da44e", "#a371f7", "#bf8700", "#d1477a"];

/// A number of one side: least, median, most.
#[derive(Clone, Debug, PartialEq)]
struct Point {
    side: String,
    /// Where it stands: the group's label, or the parameter.
    label: String,
    x: f64,
    min: f64,
    median: f64,
    max: f64,
}

/// Draws.
pub(crate) fn run(plot: &Plot) -> Result<()> {
    let mut points = Vec::new();
    let mut unit = String::new();
    for result in &plot.results {
        let (file, label) = result.split_once('=').map_or((result.as_str(), None), |(file, label)| (file, Some(label)));
        let text = fs::read_to_string(file).map_err(|error| format!("can not read {file}: {error}"))?;
        let value: Value = serde_json::from_str(&text).map_err(|error| format!("{file}: {error}"))?;
        for metric in &plot.metric {
            let found = read(&value, metric, label, plot).map_err(|error| format!("{file}: {error}"))?;
            if !unit.is_empty() && unit != found.0 {
                return Err(format!("\"{metric}\" is in {}, others are in {unit}", found.0));
            }
            unit = found.0;
            points.extend(found.1);
        }
    }
    let title = if plot.title.is_empty() { plot.metric.join(", ") } else { plot.title.clone() };
    let svg = draw(&title, &unit, &points, plot.over.as_deref());
    fs::write(&plot.out, svg).map_err(|error| format!("can not write {}: {error}", plot.out.display()))
}

/// The unit of a number in a result, and its points.
fn read(result: &Value, metric: &str, label: Option<&str>, plot: &Plot) -> Result<(String, Vec<Point>)> {
    let rows = result["summary"].as_array().ok_or("this is not what --json writes")?;
    let row = rows.iter().find(|row| row["name"] == metric).ok_or_else(|| {
        let names: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
        format!("there is no \"{metric}\" in it, only {}", names.join(", "))
    })?;
    let x = match &plot.over {
        None => 0.0,
        Some(name) => {
            let x = result["parameters"][name].as_f64().filter(|x| *x > 0.0);
            x.ok_or_else(|| format!("it has no parameter \"{name}\" above 0"))?
        }
    };
    let own = result["workload"].as_str().unwrap_or_default();
    let label = match (label, &plot.over) {
        (_, Some(_)) => x.to_string(),
        (Some(label), None) if plot.metric.len() > 1 => format!("{label}: {metric}"),
        (Some(label), None) => label.to_owned(),
        (None, None) if plot.metric.len() > 1 => metric.to_owned(),
        (None, None) => own.to_owned(),
    };
    let sides = row["sides"].as_object().ok_or("a row without sides")?;
    let points = sides.iter().map(|(side, spread)| {
        let number = |name: &str| spread[name].as_f64().ok_or_else(|| format!("{metric} of {side} has no {name}"));
        let side = if side == crate::report::SERVER { "gwm".to_owned() } else { side.clone() };
        let (min, median, max) = (number("min")?, number("median")?, number("max")?);
        Ok(Point { side, label: label.clone(), x, min, median, max })
    });
    Ok((row["unit"].as_str().unwrap_or_default().to_owned(), points.collect::<Result<_>>()?))
}

/// How a unit's numbers are written: divided by what, and the unit's name.
fn scale(unit: &str, most: f64) -> (f64, &'static str) {
    let steps: &[(f64, &str)] = match unit {
        "ns" => &[(1.0, "ns"), (1e3, "µs"), (1e6, "ms"), (1e9, "s")],
        "bytes" => &[(1.0, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB")],
        "per_second" => &[(1.0, "a second"), (1e3, "thousand a second"), (1e6, "million a second")],
        "percent" => &[(1.0, "%")],
        _ => &[(1.0, "")],
    };
    *steps.iter().rev().find(|(size, _)| most >= *size).unwrap_or(&steps[0])
}

/// A round step that makes four to eight lines up to `most`.
fn step(most: f64) -> f64 {
    let power = 10f64.powf((most / 4.0).log10().floor());
    [5.0, 2.0, 1.0].into_iter().map(|by| by * power).find(|step| most / step >= 4.0).unwrap_or(power)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn short(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 || v == v.trunc() => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

/// Each once, in the order of appearance.
fn distinct<'a>(of: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found = Vec::new();
    of.for_each(|one| {
        if !found.contains(&one) {
            found.push(one)
        }
    });
    found
}

/// The picture.
fn draw(title: &str, unit: &str, points: &[Point], over: Option<&str>) -> String {
    let most = points.iter().map(|point| point.max).fold(f64::MIN_POSITIVE, f64::max);
    let (divisor, unit) = scale(unit, most);
    let line = step(most / divisor);
    let top = (most / divisor / line).ceil() * line;
    let y = |value: f64| HEIGHT - BOTTOM - value / divisor / top * (HEIGHT - TOP - BOTTOM);
    let sides = distinct(points.iter().map(|point| point.side.as_str()));
    let colour = |side: &str| COLOURS[sides.iter().position(|known| *known == side).unwrap_or(0) % COLOURS.len()];

    let mut svg = String::new();
    let mut put = |text: String| {
        svg.push_str(&text);
        svg.push('\n');
    };
    put(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"{}\" font-family=\"system-ui, sans-serif\" font-size=\"13\">",
        escape(title)
    ));
    put("<style>text { fill: #1f2328 } .grid { stroke: #d0d7de } .range { stroke: #57606a; fill: none } \
         @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .grid { stroke: #3d444d } \
         .range { stroke: #9198a1 } }</style>"
        .into());
    put(format!("<text x=\"{LEFT}\" y=\"22\" font-size=\"16\" font-weight=\"600\">{}</text>", escape(title)));
    let mut at = LEFT;
    for side in &sides {
        put(format!("<rect x=\"{at}\" y=\"36\" width=\"12\" height=\"12\" rx=\"2\" fill=\"{}\"/>", colour(side)));
        put(format!("<text x=\"{}\" y=\"47\">{}</text>", at + 17.0, escape(side)));
        at += 40.0 + 8.0 * side.chars().count() as f64;
    }
    let mut value = 0.0;
    while value <= top * 1.0001 {
        let y = y(value * divisor);
        put(format!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>", WIDTH - RIGHT));
        put(format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", LEFT - 8.0, y + 4.5, short(value)));
        value += line;
    }
    let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
    put(format!("<text transform=\"translate(18 {middle}) rotate(-90)\" text-anchor=\"middle\">{unit}</text>"));
    let below = |x: f64, text: &str| {
        format!("<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>", HEIGHT - BOTTOM + 20.0, escape(text))
    };
    let range = |x: f64, point: &Point| {
        let (low, high) = (y(point.min), y(point.max));
        format!(
            "<path class=\"range\" d=\"M{x:.1} {low:.1}V{high:.1}M{:.1} {low:.1}h8M{:.1} {high:.1}h8\"/>",
            x - 4.0,
            x - 4.0
        )
    };
    let width = WIDTH - LEFT - RIGHT;
    match over {
        None => {
            let groups = distinct(points.iter().map(|point| point.label.as_str()));
            let group_width = width / groups.len().max(1) as f64;
            for (place, group) in groups.iter().enumerate() {
                let members: Vec<&Point> = points.iter().filter(|point| point.label == *group).collect();
                let bar = (group_width * 0.8 / members.len() as f64).min(90.0);
                let centre = LEFT + group_width * (place as f64 + 0.5);
                let mut x = centre - bar * members.len() as f64 / 2.0;
                put(below(centre, group));
                for point in members {
                    let (top, bottom) = (y(point.median), y(0.0));
                    put(format!(
                        "<rect x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>",
                        x + 2.0,
                        bar - 4.0,
                        bottom - top,
                        colour(&point.side)
                    ));
                    if point.max > point.min {
                        put(range(x + bar / 2.0, point));
                    }
                    put(format!(
                        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"12\">{}</text>",
                        x + bar / 2.0,
                        y(point.max) - 6.0,
                        short(point.median / divisor)
                    ));
                    x += bar;
                }
            }
        }
        Some(parameter) => {
            let logs = || points.iter().map(|point| point.x.log10());
            let (low, high) = (logs().fold(f64::MAX, f64::min), logs().fold(f64::MIN, f64::max));
            let span = if high > low { high - low } else { 1.0 };
            let x = |value: f64| LEFT + 30.0 + (value.log10() - low) / span * (width - 60.0);
            for label in distinct(points.iter().map(|point| point.label.as_str())) {
                let place = points.iter().find(|point| point.label == label).map_or(1.0, |point| point.x);
                put(below(x(place), label));
            }
            put(format!(
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                LEFT + width / 2.0,
                HEIGHT - 6.0,
                escape(parameter)
            ));
            for side in &sides {
                let mut of: Vec<&Point> = points.iter().filter(|point| point.side == *side).collect();
                of.sort_by(|a, b| a.x.total_cmp(&b.x));
                let mut path = String::new();
                for (place, point) in of.iter().enumerate() {
                    let letter = if place == 0 { 'M' } else { 'L' };
                    write!(path, "{letter}{:.1} {:.1}", x(point.x), y(point.median))
                        .expect("a string takes everything");
                }
                let colour = colour(side);
                put(format!("<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>"));
                for point in of {
                    put(range(x(point.x), point));
                    put(format!(
                        "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"/>",
                        x(point.x),
                        y(point.median)
                    ));
                }
            }
        }
    }
    put("</svg>".into());
    svg
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plot(over: Option<&str>) -> Plot {
        Plot {
            results: vec![],
            metric: vec!["CPU per message".into()],
            over: over.map(str::to_owned),
            title: "a < b".into(),
            out: PathBuf::new(),
        }
    }

    fn result(lbs: u32, median: f64) -> Value {
        let spread = |median: f64| json!({"median": median, "min": median * 0.9, "max": median * 1.2});
        json!({
            "workload": "fanout", "parameters": {"lbs": lbs}, "summary": [
                {"name": "CPU per message", "unit": "ns",
                 "sides": {"server": spread(median), "floor": spread(median / 2.0)}},
            ],
        })
    }

    #[test]
    fn points_are_the_sides_of_a_row() {
        let (unit, points) = read(&result(100, 8000.0), "CPU per message", None, &plot(Some("lbs"))).unwrap();
        assert_eq!(unit, "ns");
        let expected =
            Point { side: "gwm".into(), label: "100".into(), x: 100.0, min: 7200.0, median: 8000.0, max: 9600.0 };
        assert_eq!(points[0], expected);
        assert_eq!((points.len(), points[1].side.as_str()), (2, "floor"));
        assert!(read(&result(1, 1.0), "speed", None, &plot(None)).unwrap_err().contains("only CPU per message"));
        assert!(read(&result(1, 1.0), "CPU per message", None, &plot(Some("threads"))).is_err());
        assert!(read(&json!({}), "CPU per message", None, &plot(None)).is_err());
    }

    #[test]
    fn every_point_is_drawn_inside_the_picture() {
        for over in [None, Some("lbs")] {
            let mut points = Vec::new();
            for (lbs, median) in [(100, 9000.0), (1_000, 8000.0), (10_000, 7000.0)] {
                points.extend(read(&result(lbs, median), "CPU per message", None, &plot(over)).unwrap().1);
            }
            let svg = draw("a < b", "ns", &points, over);
            assert!(svg.contains("a &lt; b") && svg.contains(">µs<") && svg.contains(">gwm<"), "{svg}");
            let marks = if over.is_some() { "<circle" } else { "fill=\"#2f81f7\"" };
            assert!(svg.matches(marks).count() >= 3, "{svg}");
            for number in svg.split(['"', ' ', 'M', 'V', 'L', 'h']).filter_map(|word| word.parse::<f64>().ok()) {
                assert!((0.0..=WIDTH).contains(&number), "{number} in {svg}");
            }
        }
    }

    #[test]
    fn lines_of_the_grid_are_round_and_few() {
        for most in [0.3, 1.0, 4.9, 7.0, 11.1, 99.0, 12_345.0] {
            let step = step(most);
            assert!((4.0..=10.0).contains(&(most / step)), "{most} by {step}");
        }
    }
}
