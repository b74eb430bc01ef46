//! A metrics page of a service (Prometheus' text form, or OpenMetrics): named series become counts.

use std::borrow::Cow;

use regex::bytes::{Regex, RegexBuilder};

use super::requests::Counts;
use crate::limits;

/// The most labels of a series, and the most conditions of a selector.
const LABELS: usize = 64;

/// The most bounds of a histogram.
const BUCKETS: usize = 512;

/// The most memory that a compiled expression may take.
const REGEX_BYTES: usize = 64 << 10;

/// Which series of a page count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Counters of requests; if there are none, the latencies are counted.
    pub requests: Option<Selector>,
    /// Counters of requests that failed.
    pub errors: Option<Selector>,
    /// A histogram or summary of latencies.
    pub latency: Option<Selector>,
}

/// Series by name and labels: `http_requests_total{code=~"5..",method!="HEAD"}`.
#[derive(Clone, Debug)]
pub struct Selector {
    text: String,
    name: String,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug)]
struct Condition {
    label: String,
    value: Pattern,
    /// The value must be so; else it must be another.
    is: bool,
}

#[derive(Clone, Debug)]
enum Pattern {
    Text(String),
    Regex(Regex),
}

impl PartialEq for Selector {
    fn eq(&self, other: &Selector) -> bool {
        self.text == other.text
    }
}

impl Eq for Selector {}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::str::FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Selector, String> {
        let wrong = || format!("`{text}` is no name of series such as http_requests_total or NAME{{code=~\"5..\"}}");
        if text.len() > limits::AGENT_SELECTOR_BYTES {
            return Err(format!("a name of series has {} bytes at most", limits::AGENT_SELECTOR_BYTES));
        }
        let (name, mut rest) = name(text.trim()).ok_or_else(wrong)?;
        let mut conditions = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside.trim_start();
            while !rest.starts_with('}') {
                let (label, after) = self::name(rest).filter(|_| conditions.len() < LABELS).ok_or_else(wrong)?;
                let after = after.trim_start();
                let operators = ["=~", "!~", "!=", "="];
                let operator = operators.into_iter().find(|known| after.starts_with(known)).ok_or_else(wrong)?;
                let (value, after) = quoted(after[operator.len()..].trim_start()).ok_or_else(wrong)?;
                let value = match operator.ends_with('~') {
                    false => Pattern::Text(value.into_owned()),
                    true => {
                        // As in Prometheus, the expression must match the whole value.
                        let whole = format!("^(?:{value})$");
                        let regex = RegexBuilder::new(&whole).unicode(false).size_limit(REGEX_BYTES).build();
                        Pattern::Regex(regex.map_err(|_| format!("`{value}` is no regular expression"))?)
                    }
                };
                conditions.push(Condition { label: label.into(), value, is: !operator.starts_with('!') });
                rest = after.trim_start();
                rest = match rest.strip_prefix(',') {
                    Some(rest) => rest.trim_start(),
                    None if rest.starts_with('}') => rest,
                    None => return Err(wrong()),
                };
            }
            rest = &rest[1..];
        }
        if !rest.trim().is_empty() {
            return Err(wrong());
        }
        Ok(Selector { text: text.into(), name: name.into(), conditions })
    }
}

impl Selector {
    fn takes(&self, labels: &[(&str, Cow<'_, str>)]) -> bool {
        self.conditions.iter().all(|condition| {
            // A label that is not there is empty, as in Prometheus.
            let value = labels.iter().find(|(name, _)| *name == condition.label).map_or("", |(_, value)| value);
            let is = match &condition.value {
                Pattern::Text(text) => text == value,
                Pattern::Regex(regex) => regex.is_match(value.as_bytes()),
            };
            is == condition.is
        })
    }

    /// Seconds in one unit of the series, by the name's end.
    fn seconds(&self) -> f64 {
        let ends = |ends: [&str; 2]| ends.iter().any(|end| self.name.ends_with(end));
        match () {
            () if ends(["_milliseconds", "_ms"]) => 1e-3,
            () if ends(["_microseconds", "_us"]) => 1e-6,
            () if ends(["_nanoseconds", "_ns"]) => 1e-9,
            () => 1.0,
        }
    }
}

/// The name that a text begins with, and the rest.
fn name(text: &str) -> Option<(&str, &str)> {
    let is_name = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | ':' | '.');
    let end = text.find(|character| !is_name(character)).unwrap_or(text.len());
    let (name, rest) = text.split_at_checked(end)?;
    (!name.is_empty() && !name.starts_with(|first: char| first.is_ascii_digit())).then_some((name, rest))
}

/// The value in quotes that a text begins with, and the rest.
fn quoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let text = text.strip_prefix('"')?;
    let mut escaped = false;
    let mut has_escapes = false;
    let end = text.bytes().position(|byte| {
        let is_end = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        has_escapes |= escaped;
        is_end
    })?;
    let (value, rest) = (text.get(..end)?, text.get(end + 1..)?);
    if !has_escapes {
        return Some((Cow::Borrowed(value), rest));
    }
    let mut plain = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some('n') => plain.push('\n'),
                Some(known @ ('\\' | '"')) => plain.push(known),
                // As in an expression such as `\d`.
                Some(other) => plain.extend(['\\', other]),
                None => plain.push('\\'),
            },
            other => plain.push(other),
        }
    }
    Some((Cow::Owned(plain), rest))
}

type Labels<'a> = Vec<(&'a str, Cow<'a, str>)>;

/// The labels and the value after a series' name.
fn series(rest: &str) -> Option<(Labels<'_>, f64)> {
    let mut labels = Vec::new();
    let mut rest = rest.trim_start();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside.trim_start();
        while !rest.starts_with('}') {
            let (label, after) = name(rest).filter(|_| labels.len() < LABELS)?;
            let (value, after) = quoted(after.trim_start().strip_prefix('=')?.trim_start())?;
            labels.push((label, value));
            rest = after.trim_start();
            rest = match rest.strip_prefix(',') {
                Some(rest) => rest.trim_start(),
                None => rest.starts_with('}').then_some(rest)?,
            };
        }
        rest = rest.get(1..)?;
    }
    // A time and an exemplar may follow.
    Some((labels, rest.split_whitespace().next()?.parse().ok()?))
}

fn add(sum: &mut Option<f64>, value: f64) {
    *sum = Some(sum.unwrap_or(0.0) + value);
}

/// What a page counts. Series that have the same name and are taken by the same selector are added; lines that are none
/// are left out.
pub fn counts(page: &str, wanted: &Wanted) -> Counts {
    let mut counts = Counts::default();
    let (mut observed, mut sum) = (None, None);
    for line in page.lines() {
        let Some((name, rest)) = name(line) else { continue };
        let is = |selector: &&Selector| selector.name == name;
        let requests = wanted.requests.as_ref().filter(is);
        let errors = wanted.errors.as_ref().filter(is);
        let latency = wanted.latency.as_ref().and_then(|selector| {
            let part = name.strip_prefix(selector.name.as_str())?;
            ["", "_sum", "_count", "_bucket"].contains(&part).then_some((selector, part))
        });
        if requests.is_none() && errors.is_none() && latency.is_none() {
            continue;
        }
        let Some((labels, value)) = series(rest) else { continue };
        for (selector, into) in [(requests, &mut counts.requests), (errors, &mut counts.errors)] {
            if selector.is_some_and(|selector| selector.takes(&labels)) {
                add(into, value);
            }
        }
        let Some((selector, part)) = latency.filter(|(selector, _)| selector.takes(&labels)) else { continue };
        let label = |wanted: &str| labels.iter().find(|(name, _)| *name == wanted)?.1.parse::<f64>().ok();
        match part {
            "_sum" => add(&mut sum, value * selector.seconds()),
            "_count" => add(&mut observed, value),
            "_bucket" => {
                if let Some(end) = label("le").filter(|end| !end.is_nan()) {
                    bucket(&mut counts.buckets, end * selector.seconds(), value);
                }
            }
            _ if label("quantile") == Some(0.99) && value.is_finite() => {
                let value = value * selector.seconds();
                counts.quantile = Some(counts.quantile.map_or(value, |known: f64| known.max(value)));
            }
            _ => {}
        }
    }
    counts.latencies = observed.zip(sum);
    if wanted.requests.is_none() {
        counts.requests = observed;
    }
    // A selector of errors without a series: no error yet, as long as requests are counted.
    if wanted.errors.is_some() && counts.errors.is_none() && counts.requests.is_some() {
        counts.errors = Some(0.0);
    }
    counts
}

fn bucket(buckets: &mut Vec<(f64, f64)>, end: f64, count: f64) {
    match buckets.binary_search_by(|(known, _)| known.total_cmp(&end)) {
        Ok(at) => buckets[at].1 += count,
        Err(at) if buckets.len() < BUCKETS => buckets.insert(at, (end, count)),
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(text: &str) -> Option<Selector> {
        Some(text.parse().unwrap_or_else(|error| panic!("{error}")))
    }

    const PAGE: &str = r#"# HELP http_requests_total Requests.
# TYPE http_requests_total counter
http_requests_total{code="200",method="GET"} 1027 1395066363000
http_requests_total{code="500",method="GET"} 3
http_requests_total{ code = "503" , method="POST", } 4 # {trace="x"} 1 1
http_requests_total_other{code="500"} 99
http_requests_total{code="500"
http_requests_total{code="500"} x
http_requests{code="500"} 5
latency_seconds_bucket{le="0.1"} 10
latency_seconds_bucket{le="+Inf"} 20
latency_seconds_bucket{le="0.5",handler="b"} 5
latency_seconds_bucket{le="0.1",handler="b"} 4
latency_seconds_sum 2.5
latency_seconds_count 20
rpc_milliseconds{quantile="0.5"} 4
rpc_milliseconds{quantile="0.99"} 48
rpc_milliseconds{quantile="0.99",path="a\"\\\n"} 2
rpc_milliseconds_sum 2000
rpc_milliseconds_count 100
"#;

    #[test]
    fn series_are_chosen_by_name_and_labels() {
        let sum = |text: &str| counts(PAGE, &Wanted { requests: selector(text), ..Wanted::default() }).requests;
        for (text, expected) in [
            ("http_requests_total", Some(1034.0)),
            ("http_requests_total{}", Some(1034.0)),
            ("http_requests_total{code=\"200\"}", Some(1027.0)),
            ("http_requests_total{code=~\"5..\"}", Some(7.0)),
            ("http_requests_total{code=~\"5\"}", None),
            ("http_requests_total{code!~\"5..\"}", Some(1027.0)),
            ("http_requests_total{code=~\"5\\d+\", method!=\"POST\"}", Some(3.0)),
            ("http_requests_total{zone=\"\"}", Some(1034.0)),
            ("http_requests_total{zone!=\"\"}", None),
            ("http_requests", Some(5.0)),
            ("http", None),
        ] {
            assert_eq!(sum(text), expected, "{text}");
        }
        let errors = Wanted {
            requests: selector("http_requests_total"),
            errors: selector("http_requests_total{code=\"504\"}"),
            latency: None,
        };
        assert_eq!(counts(PAGE, &errors).errors, Some(0.0));
        assert_eq!(counts("", &errors), Counts::default());
    }

    #[test]
    fn histograms_and_summaries() {
        let of = |text: &str| counts(PAGE, &Wanted { latency: selector(text), ..Wanted::default() });
        let all = of("latency_seconds");
        assert_eq!((all.requests, all.latencies, all.quantile), (Some(20.0), Some((20.0, 2.5)), None));
        assert_eq!(all.buckets, [(0.1, 14.0), (0.5, 5.0), (f64::INFINITY, 20.0)]);
        assert_eq!(of("latency_seconds{handler=\"b\"}").buckets, [(0.1, 4.0), (0.5, 5.0)]);
        let summary = of("rpc_milliseconds");
        assert_eq!((summary.latencies, summary.quantile), (Some((100.0, 2.0)), Some(0.048)));
        assert_eq!(of("rpc_milliseconds{path=\"a\\\"\\\\\\n\"}").quantile, Some(0.002), "escapes");
        assert_eq!(of("nothing"), Counts::default());
    }

    #[test]
    fn a_selector_has_one_form() {
        for wrong in [
            "",
            "1a",
            "a b",
            "a{",
            "a{b}",
            "a{b=c}",
            "a{b=\"c}",
            "a{b=\"c\" d=\"e\"}",
            "a{b~\"c\"}",
            "a{b=~\"(\"}",
            "a}",
            "a{} b",
            &"a".repeat(5000),
        ] {
            assert!(wrong.parse::<Selector>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_histogram_has_so_many_bounds() {
        let page: String = (0..1000).map(|end| format!("l_bucket{{le=\"{end}\"}} 1\n")).collect();
        let counts = counts(&page, &Wanted { latency: selector("l"), ..Wanted::default() });
        assert_eq!(counts.buckets.len(), BUCKETS);
    }
}
