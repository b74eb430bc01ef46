//! ORCA load reports in the `endpoint-load-metrics` header of an HTTP answer: `TEXT name=value, …` or `JSON {…}`.
//!
//! The fields are those of xDS `OrcaLoadReport`. Unknown fields are ignored, because later versions may have more. If a known
//! field can not be right, the whole report is refused.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Deserializer, de};

use super::outcome::Load;

/// The header's name.
pub const HEADER: &str = "endpoint-load-metrics";

/// The longest value of the header that is read, in bytes.
pub const BYTES: usize = 8 << 10;

/// The header is not a load report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads the value of the header. `utilization` names metrics, as in `named_metrics.queue`; the highest of their values
/// becomes [`Load::named_utilization`].
pub fn parse(value: &[u8], utilization: &[String]) -> Result<Load, Malformed> {
    let value = std::str::from_utf8(value.get(..value.len().min(BYTES + 1)).unwrap_or_default());
    let value = value.map_err(|_| Malformed)?.trim();
    if value.len() > BYTES {
        return Err(Malformed);
    }
    match value.split_once(' ') {
        Some((format, rest)) if format.eq_ignore_ascii_case("TEXT") => text(rest, utilization),
        Some((format, rest)) if format.eq_ignore_ascii_case("JSON") => json(rest, utilization),
        // Envoy's first form had no format word, and a colon as separator. Both separators are read in both forms.
        _ => match value.split(' ').next() {
            Some(first) if first.contains([':', '=']) && !first.starts_with('{') => text(value, utilization),
            _ => Err(Malformed),
        },
    }
}

/// The fields read so far; `None` is a field that the report does not have.
#[derive(Default)]
struct Draft {
    cpu: Option<f64>,
    application: Option<f64>,
    memory: Option<f64>,
    rps: Option<f64>,
    rps_fractional: Option<f64>,
    eps: Option<f64>,
    named: f64,
}

impl Draft {
    fn finish(self) -> Result<Load, Malformed> {
        let all = [self.cpu, self.application, self.memory, self.rps, self.rps_fractional, self.eps, Some(self.named)];
        if !all.into_iter().flatten().all(|value| value.is_finite() && value >= 0.0) {
            return Err(Malformed);
        }
        let or_zero = |value: Option<f64>| value.unwrap_or(0.0);
        Ok(Load {
            cpu_utilization: or_zero(self.cpu),
            application_utilization: or_zero(self.application),
            mem_utilization: or_zero(self.memory),
            named_utilization: self.named,
            // `rps` is the older field, a whole number.
            rps: self.rps_fractional.filter(|rps| *rps > 0.0).unwrap_or(or_zero(self.rps)),
            eps: or_zero(self.eps),
        })
    }

    /// Takes the value of a metric that the operator named. Keeps NaN, so that `finish` refuses the report.
    fn name(&mut self, value: f64) {
        if value > self.named || value.is_nan() {
            self.named = value;
        }
    }
}

fn text(list: &str, utilization: &[String]) -> Result<Load, Malformed> {
    let mut draft = Draft::default();
    for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        // The last separator: the application chooses the names of metrics, which may contain others.
        let (name, value) = entry.rsplit_once(['=', ':']).ok_or(Malformed)?;
        let (name, value) = (name.trim(), value.trim());
        let number = || value.parse::<f64>().map_err(|_| Malformed);
        if utilization.iter().any(|wanted| wanted == name) {
            draft.name(number()?);
        }
        let field = match name {
            "cpu_utilization" => &mut draft.cpu,
            "application_utilization" => &mut draft.application,
            "mem_utilization" => &mut draft.memory,
            "rps" => &mut draft.rps,
            "rps_fractional" => &mut draft.rps_fractional,
            "eps" => &mut draft.eps,
            _ => continue,
        };
        if field.replace(number()?).is_some() {
            return Err(Malformed);
        }
    }
    draft.finish()
}

/// The report in protobuf's JSON. Names have either style; a number may be a string.
#[derive(Deserialize)]
struct Json<'a> {
    #[serde(default, alias = "cpuUtilization")]
    cpu_utilization: Number,
    #[serde(default, alias = "applicationUtilization")]
    application_utilization: Number,
    #[serde(default, alias = "memUtilization")]
    mem_utilization: Number,
    #[serde(default)]
    rps: Number,
    #[serde(default, alias = "rpsFractional")]
    rps_fractional: Number,
    #[serde(default)]
    eps: Number,
    #[serde(default, alias = "namedMetrics", borrow)]
    named_metrics: Option<BTreeMap<Cow<'a, str>, Number>>,
    #[serde(default, borrow)]
    utilization: Option<BTreeMap<Cow<'a, str>, Number>>,
}

/// A number, or nothing for `null`.
#[derive(Clone, Copy, Default)]
struct Number(Option<f64>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form<'a> {
            Number(f64),
            Text(#[serde(borrow)] Cow<'a, str>),
        }
        let number = match Option::<Form<'de>>::deserialize(deserializer)? {
            None => None,
            Some(Form::Number(number)) => Some(number),
            Some(Form::Text(text)) => Some(text.parse().map_err(|_| de::Error::custom("a string that is no number"))?),
        };
        Ok(Number(number))
    }
}

fn json(text: &str, utilization: &[String]) -> Result<Load, Malformed> {
    // Without this check, serde would also read the fields, in order, from a list.
    if !text.trim_start().starts_with('{') {
        return Err(Malformed);
    }
    let report: Json<'_> = serde_json::from_str(text).map_err(|_| Malformed)?;
    let mut draft = Draft {
        cpu: report.cpu_utilization.0,
        application: report.application_utilization.0,
        memory: report.mem_utilization.0,
        rps: report.rps.0,
        rps_fractional: report.rps_fractional.0,
        eps: report.eps.0,
        named: 0.0,
    };
    for wanted in utilization {
        let found = match wanted.split_once('.') {
            Some(("named_metrics", name)) => report.named_metrics.as_ref().and_then(|map| map.get(name)),
            Some(("utilization", name)) => report.utilization.as_ref().and_then(|map| map.get(name)),
            _ if wanted == "cpu_utilization" => Some(&report.cpu_utilization),
            _ if wanted == "mem_utilization" => Some(&report.mem_utilization),
            _ => None,
        };
        if let Some(Number(Some(value))) = found {
            draft.name(*value);
        }
    }
    draft.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<Load, Malformed> {
        parse(value.as_bytes(), &["named_metrics.queue".into(), "utilization.disk".into(), "named_metrics.a.b".into()])
    }

    #[test]
    fn both_forms_say_the_same() {
        let load = Load {
            cpu_utilization: 0.3,
            application_utilization: 1.25,
            mem_utilization: 0.5,
            named_utilization: 0.7,
            rps: 120.5,
            eps: 2.0,
        };
        for value in [
            "TEXT cpu_utilization=0.3, application_utilization=1.25, mem_utilization=0.5, rps_fractional=120.5, eps=2, \
             named_metrics.queue=0.7, named_metrics.other=9, request_cost.x=-1, rps=7",
            "TEXT eps=2.0,rps_fractional=1205e-1,cpu_utilization=0.3,mem_utilization=.5,application_utilization=1.25,\
             named_metrics.queue=0.2,utilization.disk=0.7",
            "text cpu_utilization:0.3,application_utilization:1.25,mem_utilization:0.5,rps_fractional:120.5,eps:2,\
             named_metrics.a.b:0.7",
            "cpu_utilization:0.3,application_utilization:1.25,mem_utilization:0.5,rps_fractional:120.5,eps:2,\
             named_metrics.queue:0.7",
            r#"JSON {"cpu_utilization": 0.3, "application_utilization": 1.25, "mem_utilization": 0.5, "rps": "7",
               "rps_fractional": 120.5, "eps": 2, "named_metrics": {"queue": 0.7, "other": 9}, "later": [{}]}"#,
            r#"JSON {"cpuUtilization":"0.3","applicationUtilization":1.25,"memUtilization":0.5,"rpsFractional":120.5,
               "eps":2,"namedMetrics":{"a.b":0.7,"queue":null},"utilization":{"disk":"0.1"},"rps":null}"#,
        ] {
            assert_eq!(read(value), Ok(load), "{value}");
        }
    }

    #[test]
    fn what_is_not_said_is_zero() {
        for value in ["TEXT ,", "JSON {}", "TEXT  named_metrics.other=3", "JSON {\"named_metrics\":null}"] {
            assert_eq!(read(value), Ok(Load::default()), "{value}");
        }
        let older = Load { rps: 7.0, ..Load::default() };
        assert_eq!(read("TEXT rps=7"), Ok(older));
        assert_eq!(read("TEXT rps=7,rps_fractional=0"), Ok(older));
        assert_eq!(read("JSON {\"rps\":\"7\"}"), Ok(older), "64-bit numbers are strings in protobuf's JSON");
    }

    #[test]
    fn a_report_that_can_not_be_right_is_refused_as_a_whole() {
        for value in [
            "",
            "TEXT",
            "JSON",
            "JSON ",
            "BIN CgQ=",
            "hello",
            "{\"eps\":1}",
            "TEXT cpu_utilization",
            "TEXT cpu_utilization=",
            "TEXT cpu_utilization=x",
            "TEXT cpu_utilization=NaN",
            "TEXT cpu_utilization=inf",
            "TEXT cpu_utilization=1e999",
            "TEXT cpu_utilization=-0.1",
            "TEXT cpu_utilization=0.1,cpu_utilization=0.2",
            "TEXT named_metrics.queue=NaN",
            "JSON {",
            "JSON []",
            "JSON {} {}",
            "JSON {\"eps\":-1}",
            "JSON {\"eps\":\"NaN\"}",
            "JSON {\"eps\":true}",
            "JSON {\"eps\":1,\"eps\":2}",
            "JSON {\"cpuUtilization\":1,\"cpu_utilization\":2}",
            "JSON {\"named_metrics\":{\"queue\":\"Infinity\"}}",
            "JSON {\"named_metrics\":7}",
        ] {
            assert_eq!(read(value), Err(Malformed), "{value}");
        }
        assert_eq!(parse(b"TEXT eps=1\xFF", &[]), Err(Malformed));
    }

    #[test]
    fn a_report_has_a_longest_and_a_deepest() {
        let padded = |length: usize| format!("{:<length$}x=1", "TEXT eps=1,");
        assert!(read(&padded(BYTES - 3)).is_ok());
        assert_eq!(read(&padded(BYTES - 2)), Err(Malformed));
        let deep = format!("JSON {{\"later\":{}", "[".repeat(BYTES - 100));
        assert_eq!(read(&deep), Err(Malformed));
    }
}
