//! Results: the numbers of one run, and the table, JSON and histogram log of all runs.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use hdrhistogram::{
    Histogram,
    serialization::{V2DeflateSerializer, interval_log::IntervalLogWriterBuilder, interval_log::Tag},
};
use serde_json::{Map, Value, json};

use crate::{
    Result,
    options::Common,
    process::{Memory, Used},
};

/// The unit of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Nanoseconds,
    Bytes,
    Count,
    PerSecond,
    Percent,
}

impl Unit {
    fn suffix(self) -> &'static str {
        match self {
            Unit::Nanoseconds => "ns",
            Unit::Bytes => "bytes",
            Unit::Count => "count",
            Unit::PerSecond => "per_second",
            Unit::Percent => "percent",
        }
    }

    /// The number as people read it.
    fn show(self, value: f64) -> String {
        let scaled = |value: f64, steps: &[(f64, &str)]| {
            let (size, unit) = steps.iter().rev().find(|(size, _)| value.abs() >= *size).unwrap_or(&steps[0]);
            let value = value / size;
            let digits = if value.abs() >= 100.0 || value == value.trunc() { 0 } else { 2 };
            format!("{value:.digits$}{unit}")
        };
        match self {
            Unit::Nanoseconds => scaled(value, &[(1.0, " ns"), (1e3, " µs"), (1e6, " ms"), (1e9, " s")]),
            Unit::Bytes => scaled(value, &[(1.0, " B"), (1e3, " kB"), (1e6, " MB"), (1e9, " GB")]),
            Unit::Count => scaled(value, &[(1.0, ""), (1e6, " M")]),
            Unit::PerSecond => scaled(value, &[(1.0, "/s"), (1e3, " k/s"), (1e6, " M/s")]),
            Unit::Percent => format!("{value:.0} %"),
        }
    }
}

/// One measured number.
#[derive(Clone, Debug)]
pub(crate) struct Metric {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: Unit,
}

/// The numbers of one run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) metrics: Vec<Metric>,
    /// Latencies in nanoseconds.
    pub(crate) latencies: Vec<(String, Histogram<u64>)>,
}

/// A histogram for latencies from 1 ns on, three digits exact.
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are in the range of 0 to 5")
}

/// Records a latency in nanoseconds.
pub(crate) fn record(histogram: &mut Histogram<u64>, latency: u64) {
    histogram.record(latency.max(1)).expect("a histogram without an end takes every value");
}

/// Quantiles and their values, closer together the nearer to 1, up to where one value alone is above.
fn curve(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    let quantiles = (0..).map(|step| 1.0 - 10f64.powf(f64::from(step) / -8.0));
    let told = quantiles.take_while(|quantile| (1.0 - quantile) * histogram.len() as f64 >= 1.0);
    told.map(|quantile| (quantile, histogram.value_at_quantile(quantile))).collect()
}

/// Adds up the histograms of several seats.
pub(crate) fn sum<'a>(histograms: impl IntoIterator<Item = &'a Histogram<u64>>) -> Histogram<u64> {
    let mut sum = latencies();
    for histogram in histograms {
        sum.add(histogram).expect("a histogram without an end takes every other");
    }
    sum
}

impl Sample {
    /// Adds a number.
    pub(crate) fn add(&mut self, name: impl Into<String>, value: f64, unit: Unit) {
        self.metrics.push(Metric { name: name.into(), value, unit });
    }

    /// Adds a time.
    pub(crate) fn add_time(&mut self, name: impl Into<String>, time: Duration) {
        self.add(name, time.as_nanos() as f64, Unit::Nanoseconds);
    }

    /// Adds latencies: the histogram, and its usual percentiles as numbers.
    pub(crate) fn add_latencies(&mut self, name: &str, histogram: Histogram<u64>) {
        if histogram.is_empty() {
            return;
        }
        for (label, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
            self.add(format!("{name} {label}"), histogram.value_at_quantile(quantile) as f64, Unit::Nanoseconds);
        }
        self.latencies.push((name.into(), histogram));
    }

    /// Adds the subject's use while `count` things named `per` were done.
    pub(crate) fn add_usage(&mut self, used: &Used, wall: Duration, per: &str, count: u64) {
        self.add(format!("CPU per {per}"), used.cpu_ns as f64 / count.max(1) as f64, Unit::Nanoseconds);
        self.add("CPU", used.cpu_ns as f64, Unit::Nanoseconds);
        self.add("CPU in the kernel", used.system_part * 100.0, Unit::Percent);
        self.add("cores in use", used.cpu().as_secs_f64() / wall.as_secs_f64().max(1e-9) * 100.0, Unit::Percent);
        for (name, cpu) in used.threads.iter().filter(|(_, cpu)| **cpu > used.cpu_ns / 100) {
            let each = *cpu as f64 / count.max(1) as f64;
            self.add(format!("CPU per {per}, thread {name}"), each, Unit::Nanoseconds);
        }
        self.add("voluntary switches", used.voluntary_switches as f64, Unit::Count);
        self.add("involuntary switches", used.involuntary_switches as f64, Unit::Count);
    }

    /// Adds the subject's memory, if it is known.
    pub(crate) fn add_memory(&mut self, memory: Option<Memory>) {
        let Some(memory) = memory else { return };
        self.add("memory, resident", memory.rss as f64, Unit::Bytes);
        self.add("memory, proportional", memory.pss as f64, Unit::Bytes);
        self.add("memory, anonymous", memory.anonymous as f64, Unit::Bytes);
    }
}

/// All runs of a workload.
pub(crate) struct Report {
    /// The workload's name.
    pub(crate) workload: &'static str,
    /// Its parameters, for people.
    pub(crate) title: String,
    /// Its parameters, for programs.
    pub(crate) parameters: Value,
    /// The side that the others are divided by.
    pub(crate) base: &'static str,
    /// Runs in the order in which they were made: side and numbers.
    pub(crate) runs: Vec<(&'static str, Sample)>,
}

/// The runs of the measured server.
pub(crate) const SERVER: &str = "server";
/// The runs of the same over TLS.
pub(crate) const TLS: &str = "tls";
/// The runs of the same under load of the admin side, or of agent-checks.
pub(crate) const ADMIN: &str = "admin";
pub(crate) const AGENT_CHECKS: &str = "agent-checks";
/// The runs of the bare loops.
pub(crate) const FLOOR: &str = "floor";

/// Median and range.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Spread { median, min, max })
    }
}

/// A row of the summary: a number of one or more sides, and the ratio of each to the base.
struct Row {
    name: String,
    unit: Unit,
    sides: Vec<(&'static str, Spread)>,
    /// From runs made one after the other.
    ratios: Vec<(&'static str, Spread)>,
}

impl Report {
    /// The sides in order of appearance.
    fn sides(&self) -> Vec<&'static str> {
        let mut sides = Vec::new();
        for (side, _) in &self.runs {
            if !sides.contains(side) {
                sides.push(*side);
            }
        }
        sides
    }

    fn values(&self, side: &str, name: &str) -> Vec<f64> {
        let samples = self.runs.iter().filter(|(of, _)| *of == side);
        samples.filter_map(|(_, sample)| sample.metrics.iter().find(|m| m.name == name)).map(|m| m.value).collect()
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        let sides = self.sides();
        for metric in self.runs.iter().flat_map(|(_, sample)| &sample.metrics) {
            if rows.iter().any(|row| row.name == metric.name) {
                continue;
            }
            let base = self.values(self.base, &metric.name);
            let mut row = Row { name: metric.name.clone(), unit: metric.unit, sides: vec![], ratios: vec![] };
            for &side in &sides {
                let values = self.values(side, &metric.name);
                if side != self.base && metric.unit != Unit::Percent && values.len() == base.len() {
                    let pairs = values.iter().zip(&base).filter(|(_, base)| **base > 0.0);
                    let ratio = Spread::of(pairs.map(|(value, base)| value / base).collect());
                    row.ratios.extend(ratio.map(|ratio| (side, ratio)));
                }
                row.sides.extend(Spread::of(values).map(|spread| (side, spread)));
            }
            rows.push(row);
        }
        rows
    }

    /// Writes the results as the flags say.
    pub(crate) fn write(&self, common: &Common) -> Result<()> {
        if let Some(path) = &common.hdr_out {
            self.histogram_log(path)?;
        }
        let to_stdout = common.json.as_deref() == Some(Path::new("-"));
        if !to_stdout {
            self.table(&mut io::stdout().lock()).map_err(|error| format!("can not write the table: {error}"))?;
        }
        if let Some(path) = &common.json {
            let text = format!("{:#}\n", self.json());
            let written = if to_stdout { io::stdout().write_all(text.as_bytes()) } else { fs::write(path, text) };
            written.map_err(|error| format!("can not write {}: {error}", path.display()))?;
        }
        Ok(())
    }

    fn table(&self, out: &mut impl Write) -> io::Result<()> {
        let sides = self.sides();
        let runs = self.runs.len() / sides.len().max(1);
        let spread = if runs > 1 { format!("{runs} runs each: median (least–most)") } else { "1 run".into() };
        writeln!(out, "{}: {}; {spread}", self.workload, self.title)?;
        let mut lines = vec![vec![String::new()]];
        lines[0].extend(sides.iter().map(|side| side.to_string()));
        let rows = self.rows();
        for side in sides.iter().filter(|side| rows.iter().any(|row| row.ratios.iter().any(|(of, _)| of == *side))) {
            lines[0].push(format!("{side} ÷ {}", self.base));
        }
        for row in &rows {
            let mut line = vec![row.name.clone()];
            let show = |spread: &Spread, show: &dyn Fn(f64) -> String| match runs {
                0 | 1 => show(spread.median),
                _ => format!("{} ({}–{})", show(spread.median), show(spread.min), show(spread.max)),
            };
            for side in &sides {
                let found = row.sides.iter().find(|(of, _)| of == side);
                line.push(found.map_or(String::new(), |(_, spread)| show(spread, &|value| row.unit.show(value))));
            }
            for (_, ratio) in &row.ratios {
                line.push(show(ratio, &|value| format!("{value:.2}")));
            }
            lines.push(line);
        }
        let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|at| lines.iter().filter_map(|line| line.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0))
            .collect();
        for line in &lines {
            let cells = line.iter().zip(&widths).enumerate().map(|(at, (cell, width))| match at {
                0 => format!("  {cell:<width$}"),
                _ => format!("  {cell:>width$}"),
            });
            writeln!(out, "{}", cells.collect::<String>().trim_end())?;
        }
        Ok(())
    }

    /// Everything, for programs.
    pub(crate) fn json(&self) -> Value {
        let spread = |spread: &Spread| json!({"median": spread.median, "min": spread.min, "max": spread.max});
        let rows: Vec<Value> = self
            .rows()
            .iter()
            .map(|row| {
                let mut sides: Map<String, Value> = Map::new();
                sides.extend(row.sides.iter().map(|(side, values)| (side.to_string(), spread(values))));
                let mut ratios: Map<String, Value> = Map::new();
                ratios.extend(row.ratios.iter().map(|(side, values)| (side.to_string(), spread(values))));
                json!({"name": row.name, "unit": row.unit.suffix(), "sides": sides, format!("over_{}", self.base): ratios})
            })
            .collect();
        let runs: Vec<Value> = self
            .runs
            .iter()
            .map(|(side, sample)| {
                let mut metrics: Map<String, Value> = Map::new();
                metrics.extend(sample.metrics.iter().map(|m| (m.name.clone(), json!(m.value))));
                json!({"side": side, "metrics": metrics})
            })
            .collect();
        json!({
            "workload": self.workload,
            "title": self.title,
            "parameters": self.parameters,
            "command": std::env::args().collect::<Vec<_>>(),
            "version": env!("CARGO_PKG_VERSION"),
            "commit": commit(),
            "machine": machine(),
            "summary": rows,
            "latencies": self.curves(),
            "runs": runs,
        })
    }

    /// Each latency's curve by side, of all runs together.
    fn curves(&self) -> Value {
        let mut sums: Vec<(&str, &str, Histogram<u64>)> = Vec::new();
        for (side, (name, histogram)) in
            self.runs.iter().flat_map(|(side, run)| run.latencies.iter().map(|of| (*side, of)))
        {
            match sums.iter_mut().find(|(of, by, _)| of == name && *by == side) {
                Some((.., sum)) => sum.add(histogram).expect("a histogram without an end takes every other"),
                None => sums.push((name, side, histogram.clone())),
            }
        }
        let mut curves: Map<String, Value> = Map::new();
        for (name, side, histogram) in sums {
            curves.entry(name).or_insert_with(|| json!({}))[side] = json!(curve(&histogram));
        }
        curves.into()
    }

    fn histogram_log(&self, path: &Path) -> Result<()> {
        let failed = |error: &dyn std::fmt::Debug| format!("can not write {}: {error:?}", path.display());
        let mut bytes = Vec::new();
        let mut serializer = V2DeflateSerializer::new();
        let mut log = IntervalLogWriterBuilder::new()
            .add_comment(&format!("gwm-loadgen {}: {}", self.workload, self.title))
            .add_comment("one interval a run, tagged side:latency; values in nanoseconds")
            .with_start_time(SystemTime::now())
            .begin_log_with(&mut bytes, &mut serializer)
            .map_err(|error| failed(&error))?;
        for (number, (side, sample)) in self.runs.iter().enumerate() {
            for (name, histogram) in &sample.latencies {
                let tag: String = format!("{side}:{name}")
                    .chars()
                    .map(|character| if character.is_whitespace() || character == ',' { '_' } else { character })
                    .collect();
                let start = Duration::from_secs(number as u64);
                log.write_histogram(histogram, start, Duration::from_secs(1), Tag::new(&tag))
                    .map_err(|error| failed(&error))?;
            }
        }
        drop(log);
        fs::write(path, bytes).map_err(|error| failed(&error))
    }
}

/// The commit that the current folder is at, if it is a clone.
fn commit() -> Option<String> {
    let output = Command::new("git").args(["describe", "--always", "--dirty"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The machine of the measurement.
fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")).map(|rest| rest.trim_matches([' ', '\t', ':']));
    let load: BTreeMap<&str, f64> = ["1min", "5min", "15min"]
        .into_iter()
        .zip(read("/proc/loadavg").split_whitespace().filter_map(|word| word.parse().ok()))
        .collect();
    json!({
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu": model,
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_at_end": load,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(values: &[(&'static str, f64)]) -> Report {
        let run = |&(side, value): &(&'static str, f64)| {
            let mut sample = Sample::default();
            sample.add("CPU per message", value, Unit::Nanoseconds);
            let mut histogram = latencies();
            histogram.record(value as u64).unwrap();
            sample.add_latencies("receipt", histogram);
            (side, sample)
        };
        Report {
            workload: "fanout",
            title: "t".into(),
            parameters: json!({}),
            base: FLOOR,
            runs: values.iter().map(run).collect(),
        }
    }

    #[test]
    fn ratios_are_of_pairs_and_medians_of_ratios() {
        let report =
            report(&[(SERVER, 10.0), (FLOOR, 5.0), (SERVER, 30.0), (FLOOR, 10.0), (SERVER, 8.0), (FLOOR, 8.0)]);
        let row = &report.rows()[0];
        assert_eq!(row.sides[0], (SERVER, Spread { median: 10.0, min: 8.0, max: 30.0 }));
        assert_eq!(row.ratios, [(SERVER, Spread { median: 2.0, min: 1.0, max: 3.0 })]);
        let json = report.json();
        assert_eq!(json["summary"][0]["over_floor"]["server"]["median"], 2.0);
        assert_eq!(json["runs"].as_array().unwrap().len(), 6);
        assert_eq!(json["latencies"]["receipt"]["floor"][0], json!([0.0, 5]));
    }

    #[test]
    fn a_curve_ends_where_values_are_single() {
        let mut histogram = latencies();
        (1..=1000).for_each(|value| histogram.record(value).unwrap());
        let curve = curve(&histogram);
        assert_eq!(curve.first(), Some(&(0.0, 1)));
        assert_eq!(curve.iter().find(|(quantile, _)| (quantile - 0.99).abs() < 1e-9).map(|point| point.1), Some(990));
        assert!(curve.last().is_some_and(|(quantile, value)| *quantile > 0.998 && *value >= 998), "{curve:?}");
        assert!(super::curve(&latencies()).is_empty());
    }

    #[test]
    fn the_table_has_a_line_for_every_number() {
        let mut out = Vec::new();
        report(&[(SERVER, 1500.0), (FLOOR, 1000.0)]).table(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let line = text.lines().find(|line| line.contains("CPU per message")).unwrap();
        assert!(line.contains("1.50 µs") && line.contains("1 µs") && line.ends_with("1.50"), "{text}");
    }
}
