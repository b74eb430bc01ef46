//! The pictures. Text and lines take a dark background's colours where the reader's system is dark.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 46.0;

/// Colours of sides that read on white and on black, in the order of their appearance.
const COLOURS: [&str; 6] = ["#2f81f7", "#e3702e", "#2da44e", "#a371f7", "#bf8700", "#d1477a"];

const STYLE: &str = "<style>text { fill: #1f2328 } .grid { stroke: #d0d7de } .range { stroke: #57606a; fill: none } \
    .bound { stroke: #cf222e; stroke-width: 2; stroke-dasharray: 6 4 } @media (prefers-color-scheme: dark) { \
    text { fill: #e6edf3 } .grid { stroke: #3d444d } .range { stroke: #9198a1 } .bound { stroke: #ff7b72 } }</style>";

/// A number of one side: least, median, most.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) side: String,
    /// The text at its place.
    pub(super) label: String,
    /// Where it stands, but for bars.
    pub(super) x: f64,
    pub(super) min: f64,
    pub(super) median: f64,
    pub(super) max: f64,
    /// The limit line.
    pub(super) bound: Option<f64>,
}

/// The kind of picture.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// Points of one label are a group of bars.
    Bars,
    /// Over this parameter.
    Lines(String),
    /// A latency over how rare it is.
    Curve,
}

pub(super) struct Picture {
    pub(super) title: String,
    /// As results call it; empty for ratios.
    pub(super) unit: String,
    pub(super) kind: Kind,
    pub(super) points: Vec<Point>,
}

/// The vertical axis.
enum Axis {
    /// From 0 to `top` units of `divisor`, with a line every `step`.
    Linear { divisor: f64, top: f64, step: f64 },
    /// From and to powers of ten, with a line at each.
    Powers { low: i32, high: i32 },
}

impl Axis {
    fn y(&self, value: f64) -> f64 {
        let part = match *self {
            Axis::Linear { divisor, top, .. } => value / divisor / top,
            Axis::Powers { low, high } => (value.log10() - f64::from(low)) / f64::from(high - low),
        };
        HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
    }
}

impl Picture {
    pub(super) fn draw(&self) -> String {
        let most = self.points.iter().map(|point| point.max.max(point.bound.unwrap_or(0.0)));
        let most = most.fold(f64::MIN_POSITIVE, f64::max);
        let (divisor, unit) = scale(&self.unit, most);
        let axis = if self.kind == Kind::Curve {
            let least = self.points.iter().map(|point| point.min).fold(f64::MAX, f64::min).max(1.0);
            let low = least.log10().floor() as i32;
            Axis::Powers { low, high: (most.log10().ceil() as i32).max(low + 1) }
        } else {
            let step = step(most / divisor);
            Axis::Linear { divisor, top: (most / divisor / step).ceil() * step, step }
        };
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{0}\" font-family=\"system-ui, sans-serif\" font-size=\"13\">\n{STYLE}\n\
             <text x=\"{LEFT}\" y=\"22\" font-size=\"16\" font-weight=\"600\">{0}</text>\n",
            escape(&self.title)
        );
        self.legend(&mut svg);
        self.grid(&mut svg, &axis, unit);
        match &self.kind {
            Kind::Bars => self.bars(&mut svg, &axis, divisor),
            Kind::Lines(parameter) => self.lines(&mut svg, &axis, parameter),
            Kind::Curve => self.curve(&mut svg, &axis),
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn sides(&self) -> Vec<&str> {
        distinct(self.points.iter().map(|point| point.side.as_str()))
    }

    fn colour(&self, side: &str) -> &'static str {
        COLOURS[self.sides().iter().position(|known| *known == side).unwrap_or(0) % COLOURS.len()]
    }

    fn of<'a>(&'a self, side: &'a str) -> Vec<&'a Point> {
        let mut of: Vec<&Point> = self.points.iter().filter(|point| point.side == side).collect();
        of.sort_by(|a, b| a.x.total_cmp(&b.x));
        of
    }

    fn legend(&self, svg: &mut String) {
        let mut at = LEFT;
        for side in self.sides() {
            let colour = self.colour(side);
            put(svg, format_args!("<rect x=\"{at}\" y=\"36\" width=\"12\" height=\"12\" rx=\"2\" fill=\"{colour}\"/>"));
            put(svg, format_args!("<text x=\"{}\" y=\"47\">{}</text>", at + 17.0, escape(side)));
            at += 40.0 + 8.0 * side.chars().count() as f64;
        }
        if self.points.iter().any(|point| point.bound.is_some()) {
            put(svg, format_args!("<path class=\"bound\" d=\"M{at} 42h24\" fill=\"none\"/>"));
            put(svg, format_args!("<text x=\"{}\" y=\"47\">target: at most</text>", at + 30.0));
        }
    }

    fn grid(&self, svg: &mut String, axis: &Axis, unit: &str) {
        let mut line = |value: f64, text: String| {
            let y = axis.y(value);
            let right = WIDTH - RIGHT;
            put(svg, format_args!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"));
            put(svg, format_args!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", LEFT - 8.0, y + 4.5));
        };
        match *axis {
            Axis::Linear { divisor, top, step } => {
                let lines = (top / step).round() as u32;
                let digits = (-step.log10().floor()).max(0.0) as usize;
                for value in (0..=lines).map(|at| f64::from(at) * step) {
                    line(value * divisor, format!("{value:.digits$}"));
                }
                let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
                let place = format!("translate(18 {middle}) rotate(-90)");
                put(svg, format_args!("<text transform=\"{place}\" text-anchor=\"middle\">{unit}</text>"));
            }
            Axis::Powers { low, high } => {
                for value in (low..=high).map(|power| 10f64.powi(power)) {
                    let (divisor, unit) = scale(&self.unit, value);
                    line(value, format!("{} {unit}", short(value / divisor)));
                }
            }
        }
    }

    fn bars(&self, svg: &mut String, axis: &Axis, divisor: f64) {
        let groups = distinct(self.points.iter().map(|point| point.label.as_str()));
        let width = (WIDTH - LEFT - RIGHT) / groups.len().max(1) as f64;
        for (place, group) in groups.iter().enumerate() {
            let members: Vec<&Point> = self.points.iter().filter(|point| point.label == *group).collect();
            let bar = (width * 0.8 / members.len() as f64).min(90.0);
            let centre = LEFT + width * (place as f64 + 0.5);
            let left = centre - bar * members.len() as f64 / 2.0;
            below(svg, centre, group);
            for (point, x) in members.iter().zip((0..).map(|at| left + bar * f64::from(at))) {
                let (top, colour) = (axis.y(point.median), self.colour(&point.side));
                let (wide, high) = (bar - 4.0, axis.y(0.0) - top);
                put(
                    svg,
                    format_args!(
                        "<rect x=\"{:.1}\" y=\"{top:.1}\" width=\"{wide:.1}\" height=\"{high:.1}\" fill=\"{colour}\"/>",
                        x + 2.0
                    ),
                );
                range(svg, x + bar / 2.0, point, axis);
                put(
                    svg,
                    format_args!(
                        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"12\">{}</text>",
                        x + bar / 2.0,
                        axis.y(point.max) - 6.0,
                        short(point.median / divisor)
                    ),
                );
            }
            if let Some(limit) = members.iter().find_map(|point| point.bound) {
                bound(svg, centre - width * 0.45, centre + width * 0.45, limit, divisor, axis);
            }
        }
    }

    fn lines(&self, svg: &mut String, axis: &Axis, parameter: &str) {
        let logs = || self.points.iter().map(|point| point.x.log10());
        let (low, high) = (logs().fold(f64::MAX, f64::min), logs().fold(f64::MIN, f64::max));
        let span = if high > low { high - low } else { 1.0 };
        let width = WIDTH - LEFT - RIGHT;
        let x = |value: f64| LEFT + 30.0 + (value.log10() - low) / span * (width - 60.0);
        for label in distinct(self.points.iter().map(|point| point.label.as_str())) {
            let place = self.points.iter().find(|point| point.label == label).map_or(1.0, |point| point.x);
            below(svg, x(place), label);
        }
        under(svg, parameter);
        for side in self.sides() {
            let (of, colour) = (self.of(side), self.colour(side));
            path(svg, of.iter().map(|point| (x(point.x), axis.y(point.median))), colour);
            for point in of {
                let (x, y) = (x(point.x), axis.y(point.median));
                range(svg, x, point, axis);
                put(svg, format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>"));
            }
        }
        if let Some(limit) = self.points.iter().find_map(|point| point.bound) {
            bound(svg, LEFT, WIDTH - RIGHT, limit, scale(&self.unit, limit).0, axis);
        }
    }

    fn curve(&self, svg: &mut String, axis: &Axis) {
        let rarest = self.points.iter().map(|point| point.x).fold(10.0, f64::max);
        let x = |rarity: f64| LEFT + rarity.log10() / rarest.log10() * (WIDTH - LEFT - RIGHT - 20.0);
        for (rarity, text) in
            [(1.0, "0 %"), (2.0, "50 %"), (10.0, "90 %"), (1e2, "99 %"), (1e3, "99.9 %"), (1e4, "99.99 %")]
        {
            if rarity <= rarest {
                let (x, bottom) = (x(rarity), HEIGHT - BOTTOM);
                put(svg, format_args!("<path class=\"grid\" d=\"M{x:.1} {TOP}V{bottom}\" fill=\"none\"/>"));
                below(svg, x, text);
            }
        }
        under(svg, "of all are not slower");
        for side in self.sides() {
            path(svg, self.of(side).iter().map(|point| (x(point.x), axis.y(point.median.max(1.0)))), self.colour(side));
        }
    }
}

fn put(svg: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(svg, "{text}").expect("a string takes everything");
}

/// The label at a place of the horizontal axis.
fn below(svg: &mut String, x: f64, text: &str) {
    let (y, text) = (HEIGHT - BOTTOM + 20.0, escape(text));
    put(svg, format_args!("<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{text}</text>"));
}

/// The horizontal axis.
fn under(svg: &mut String, text: &str) {
    let (x, y) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 6.0);
    put(svg, format_args!("<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{}</text>", escape(text)));
}

fn path(svg: &mut String, places: impl Iterator<Item = (f64, f64)>, colour: &str) {
    let mut d = String::new();
    for (place, (x, y)) in places.enumerate() {
        let letter = if place == 0 { 'M' } else { 'L' };
        write!(d, "{letter}{x:.1} {y:.1}").expect("a string takes everything");
    }
    put(svg, format_args!("<path d=\"{d}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>"));
}

/// From the least to the most.
fn range(svg: &mut String, x: f64, point: &Point, axis: &Axis) {
    if point.max > point.min {
        let (low, high, left) = (axis.y(point.min), axis.y(point.max), x - 4.0);
        let d = format!("M{x:.1} {low:.1}V{high:.1}M{left:.1} {low:.1}h8M{left:.1} {high:.1}h8");
        put(svg, format_args!("<path class=\"range\" d=\"{d}\"/>"));
    }
}

fn bound(svg: &mut String, left: f64, right: f64, limit: f64, divisor: f64, axis: &Axis) {
    let y = axis.y(limit);
    put(svg, format_args!("<path class=\"bound\" d=\"M{left:.1} {y:.1}H{right:.1}\" fill=\"none\"/>"));
    let (y, text) = (y - 5.0, short(limit / divisor));
    put(svg, format_args!("<text x=\"{right:.1}\" y=\"{y:.1}\" text-anchor=\"end\" font-size=\"12\">{text}</text>"));
}

/// How a unit's numbers are written: divided by what, and the unit's name.
fn scale(unit: &str, most: f64) -> (f64, &'static str) {
    let steps: &[(f64, &str)] = match unit {
        "ns" => &[(1.0, "ns"), (1e3, "µs"), (1e6, "ms"), (1e9, "s")],
        "bytes" => &[(1.0, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB")],
        "per_second" => &[(1.0, "a second"), (1e3, "thousand a second"), (1e6, "million a second")],
        "percent" => &[(1.0, "%")],
        "" => &[(1.0, "ratio")],
        _ => &[(1.0, "")],
    };
    *steps.iter().rev().find(|(size, _)| most >= *size).unwrap_or(&steps[0])
}

/// A round step that makes four to ten lines up to `most`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_drawn_inside_the_picture() {
        for kind in [Kind::Bars, Kind::Lines("lbs".into()), Kind::Curve] {
            let mut points = Vec::new();
            for (x, median) in [(1.0, 9_000.0), (100.0, 80_000.0), (10_000.0, 7_000_000.0)] {
                for (side, by) in [("gwm", 1.0), ("floor", 0.5)] {
                    let (min, median, max) = (median * by, median * by * 1.1, median * by * 1.2);
                    let bound = Some(10_000_000.0).filter(|_| kind != Kind::Curve);
                    points.push(Point { side: side.into(), label: x.to_string(), x, min, median, max, bound });
                }
            }
            let picture = Picture { title: "a < b".into(), unit: "ns".into(), kind: kind.clone(), points };
            let svg = picture.draw();
            assert!(svg.contains("a &lt; b") && svg.contains("ms<") && svg.contains(">gwm<"), "{svg}");
            let (marks, least) = match kind {
                Kind::Bars => ("fill=\"#2f81f7\"", 4), // and one in the legend
                Kind::Lines(_) => ("<circle", 6),
                Kind::Curve => ("stroke-width=\"2.5\"", 2),
            };
            assert!(svg.matches(marks).count() >= least, "{svg}");
            assert_eq!(svg.contains("target: at most"), kind != Kind::Curve);
            for number in svg.split(['"', ' ', 'M', 'V', 'L', 'H', 'h']).filter_map(|word| word.parse::<f64>().ok()) {
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
