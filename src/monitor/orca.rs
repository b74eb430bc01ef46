//! ORCA load reports in the headers of an answer: `endpoint-load-metrics: TEXT name=value, …`, `JSON {…}` or `BIN …`, and
//! `endpoint-load-metrics-bin`, which has the same bytes as `BIN`: a protobuf message in base64.
//!
//! The fields are those of xDS `OrcaLoadReport`. Unknown fields are ignored, because later versions may have more. If a known
//! field can not be right, the whole report is refused.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Deserializer, de};

use super::{
    outcome::Load,
    protobuf::{Fields, Value},
};

/// The header's name.
pub const HEADER: &str = "endpoint-load-metrics";

/// The name of the header that always has the binary form.
pub const BINARY_HEADER: &str = "endpoint-load-metrics-bin";

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
        Some((format, rest)) if format.eq_ignore_ascii_case("BIN") => binary(rest.as_bytes(), utilization),
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
    named: Option<f64>,
    lacks: u32,
}

impl Draft {
    /// No field is read yet.
    fn new(utilization: &[String]) -> Draft {
        let names = utilization.len().min(32) as u32; // fits
        Draft { lacks: u32::MAX.checked_shr(32 - names).unwrap_or(0), ..Draft::default() }
    }

    fn finish(self) -> Result<Load, Malformed> {
        let all = [self.cpu, self.application, self.memory, self.rps, self.rps_fractional, self.eps, self.named];
        if !all.into_iter().flatten().all(|value| value.is_finite() && value >= 0.0) {
            return Err(Malformed);
        }
        Ok(Load {
            cpu_utilization: self.cpu,
            application_utilization: self.application,
            mem_utilization: self.memory,
            named_utilization: self.named,
            lacks: self.lacks,
            // `rps` is the older field, a whole number.
            rps: self.rps_fractional.filter(|rps| *rps > 0.0).or(self.rps).or(self.rps_fractional),
            eps: self.eps.unwrap_or(0.0),
        })
    }

    /// Takes the value of the metric that the operator named at this place. Keeps NaN, so that `finish` refuses the report.
    fn name(&mut self, place: usize, value: f64) {
        self.lacks &= u32::try_from(place).ok().and_then(|place| 1_u32.checked_shl(place)).map_or(u32::MAX, |bit| !bit);
        if self.named.is_none_or(|named| value > named) || value.is_nan() {
            self.named = Some(value);
        }
    }
}

fn text(list: &str, utilization: &[String]) -> Result<Load, Malformed> {
    let mut draft = Draft::new(utilization);
    for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        // The last separator: the application chooses the names of metrics, which may contain others.
        let (name, value) = entry.rsplit_once(['=', ':']).ok_or(Malformed)?;
        let (name, value) = (name.trim(), value.trim());
        let number = || value.parse::<f64>().map_err(|_| Malformed);
        if let Some(place) = utilization.iter().position(|wanted| wanted == name) {
            draft.name(place, number()?);
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
        ..Draft::new(utilization)
    };
    for (place, wanted) in utilization.iter().enumerate() {
        let found = match wanted.split_once('.') {
            Some(("named_metrics", name)) => report.named_metrics.as_ref().and_then(|map| map.get(name)),
            Some(("utilization", name)) => report.utilization.as_ref().and_then(|map| map.get(name)),
            _ if wanted == "cpu_utilization" => Some(&report.cpu_utilization),
            _ if wanted == "mem_utilization" => Some(&report.mem_utilization),
            _ => None,
        };
        if let Some(Number(Some(value))) = found {
            draft.name(place, *value);
        }
    }
    draft.finish()
}

/// Reads the binary form: `xds.data.orca.v3.OrcaLoadReport` in base64.
pub fn binary(value: &[u8], utilization: &[String]) -> Result<Load, Malformed> {
    let value = value.trim_ascii();
    if value.len() > BYTES {
        return Err(Malformed);
    }
    let message = base64(value).ok_or(Malformed)?;
    let mut draft = Draft::new(utilization);
    let place = |name: &str| utilization.iter().position(|wanted| wanted == name);
    for field in Fields::new(&message) {
        let (number, value) = field.map_err(|_| Malformed)?;
        // The last value of a field counts, as protobuf says. A number of another type is malformed.
        let double = || value.double().map(Some).ok_or(Malformed);
        match number {
            1 => draft.cpu = double()?,
            2 => draft.memory = double()?,
            3 => match value {
                Value::Varint(rps) => draft.rps = Some(rps as f64),
                _ => return Err(Malformed),
            },
            6 => draft.rps_fractional = double()?,
            7 => draft.eps = double()?,
            9 => draft.application = double()?,
            5 | 8 => {
                let Value::Bytes(entry) = value else { return Err(Malformed) };
                let map = if number == 5 { "utilization" } else { "named_metrics" };
                let (name, value) = entry_of_map(entry)?;
                if let Some(place) = place(&format!("{map}.{name}")) {
                    draft.name(place, value);
                }
            }
            _ => {}
        }
    }
    for (name, value) in [("cpu_utilization", draft.cpu), ("mem_utilization", draft.memory)] {
        if let Some((place, value)) = place(name).zip(value) {
            draft.name(place, value);
        }
    }
    draft.finish()
}

/// An entry of a map from names to numbers; what is not there is empty or 0.
fn entry_of_map(entry: &[u8]) -> Result<(Cow<'_, str>, f64), Malformed> {
    let (mut name, mut number) = (Cow::Borrowed(""), 0.0);
    for field in Fields::new(entry) {
        match field.map_err(|_| Malformed)? {
            (1, Value::Bytes(bytes)) => name = String::from_utf8_lossy(bytes),
            (2, value) => number = value.double().ok_or(Malformed)?,
            _ => {}
        }
    }
    Ok((name, number))
}

/// Decodes base64 of either alphabet, with padding or without.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
    let (digits, padding) = text.split_at_checked(end)?;
    // One digit alone has less than a byte; padding makes the digits a multiple of four, or is not there.
    if digits.len() % 4 == 1 || !padding.is_empty() && (padding.len() > 2 || !text.len().is_multiple_of(4)) {
        return None;
    }
    let mut out = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for group in digits.chunks(4) {
        let mut bits = 0_u32;
        for digit in group {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * (4 - group.len());
        out.extend(bits.to_be_bytes().into_iter().skip(1).take(group.len() * 6 / 8));
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields of the message stand in the order of their numbers.
    const BINARY: &str = "BIN CTMzMzMzM9M/EQAAAAAAAOA/GAciDAoBeBEAAAAAAADwvyoPCgRkaXNrEWZmZmZmZuY/MQAAAAAAIF5AOQAAAAAAAABAQhAKBXF1ZXVlEZqZmZmZmck/QhAKBW90aGVyEQAAAAAAACJASQAAAAAAAPQ/";

    fn read(value: &str) -> Result<Load, Malformed> {
        let names = ["named_metrics.queue".into(), "utilization.disk".into(), "named_metrics.a.b".into()];
        parse(value.as_bytes(), &names).map(|load| Load { lacks: 0, ..load })
    }

    #[test]
    fn a_report_lacks_the_metrics_that_it_does_not_have() {
        let lacks = |value: &str, names: &[&str]| {
            parse(value.as_bytes(), &names.iter().map(|name| (*name).into()).collect::<Vec<_>>()).unwrap().lacks
        };
        let names = ["named_metrics.queue", "cpu_utilization", "utilization.disk", "named_metrics.no"];
        for value in [
            "TEXT named_metrics.queue=0,utilization.disk=0.5",
            "JSON {\"named_metrics\":{\"queue\":0},\"utilization\":{\"disk\":1}}",
            "BIN QgcKBXF1ZXVlKgYKBGRpc2s=",
        ] {
            assert_eq!(lacks(value, &names), 0b1010, "{value}");
        }
        for value in ["TEXT cpu_utilization=0", "JSON {\"cpuUtilization\":0}", "BIN CQAAAAAAAAAA"] {
            assert_eq!(lacks(value, &names), 0b1101, "{value}");
        }
        assert_eq!(lacks("JSON {\"named_metrics\":{\"queue\":null}}", &names), 0b1111);
        assert_eq!(lacks("TEXT eps=1", &[]), 0);
        assert_eq!(lacks("TEXT eps=1", &["named_metrics.no"; 40]), u32::MAX);
        let many: Vec<String> = (0..40).map(|number| format!("named_metrics.{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(lacks("TEXT named_metrics.0=1,named_metrics.31=1,named_metrics.39=1", &many), 0x7FFF_FFFE);
    }

    #[test]
    fn all_forms_say_the_same() {
        let load = Load {
            cpu_utilization: Some(0.3),
            application_utilization: Some(1.25),
            mem_utilization: Some(0.5),
            named_utilization: Some(0.7),
            rps: Some(120.5),
            eps: 2.0,
            lacks: 0,
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
            BINARY,
            &BINARY.replace('/', "_").replace("BIN", "bin"),
        ] {
            assert_eq!(read(value), Ok(load), "{value}");
        }
    }

    #[test]
    fn what_is_not_said_is_not_there() {
        let other = "BIN QhAKBW90aGVyEQAAAAAAAAhA"; // named_metrics = { other: 3 }
        for value in ["TEXT ,", "JSON {}", "TEXT  named_metrics.other=3", "JSON {\"named_metrics\":null}", other] {
            assert_eq!(read(value), Ok(Load::default()), "{value}");
        }
        let older = Load { rps: Some(7.0), ..Load::default() };
        assert_eq!(read("TEXT rps=7"), Ok(older));
        assert_eq!(read("TEXT rps=7,rps_fractional=0"), Ok(older));
        assert_eq!(read("JSON {\"rps\":\"7\"}"), Ok(older), "64-bit numbers are strings in protobuf's JSON");
        assert_eq!(read("BIN GAc="), Ok(older));
        let idle = Load { rps: Some(0.0), named_utilization: Some(0.0), ..Load::default() };
        assert_eq!(read("TEXT rps_fractional=0,named_metrics.queue=0"), Ok(idle));
        let queue = Load { named_utilization: Some(0.0), ..Load::default() };
        assert_eq!(read("BIN QgcKBXF1ZXVl"), Ok(queue), "protobuf leaves zeros out");
    }

    #[test]
    fn base64_is_read_with_padding_or_without() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("Zg==", b"f"),
            ("Zg", b"f"),
            ("Zm8=", b"fo"),
            ("Zm8", b"fo"),
            ("Zm9v", b"foo"),
            ("Zm9vYg==", b"foob"),
            ("+/-_", &[0xFB, 0xFF, 0xBF]),
        ] {
            assert_eq!(base64(text.as_bytes()).as_deref(), Some(bytes), "{text}");
        }
        for text in ["Z", "Zm9vY", "Z===", "Zg=", "Zm8==", "Zm9v====", "====", "Zm 8", "Zm=8", "Z\u{e9}"] {
            assert_eq!(base64(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_report_that_can_not_be_right_is_refused_as_a_whole() {
        for value in [
            "",
            "TEXT",
            "JSON",
            "JSON ",
            "BIN CgQ=",
            "BIN !",
            "BIN CQAAAAAAAPi/", // cpu_utilization = -1.5
            "BIN CQAAAAAAAPh/", // NaN
            "BIN CAE=",         // a number that is not a double
            "BIN QgI=",
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
