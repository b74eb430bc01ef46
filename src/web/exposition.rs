//! Metrics as text: OpenMetrics or Prometheus' own format, from a table of metrics.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet, prometheus_text, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use crate::metrics::{Kind, Label, Metric, Reading, Sample, Value};

/// The Content-Types.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Prometheus' own format.
pub const PLAIN: &str = prometheus_text::CONTENT_TYPE;

/// Whether the Accept header prefers OpenMetrics.
pub fn wants_openmetrics(accept: Option<&str>) -> bool {
    let quality = |kind: &str| {
        let ranges = accept.unwrap_or_default().split(',');
        let quality = ranges.filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            (parts.next()?.eq_ignore_ascii_case(kind)).then_some(())?;
            let stated = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
            Some(stated.unwrap_or(1.0))
        });
        quality.fold(0.0, f32::max)
    };
    let open = quality("application/openmetrics-text");
    open > 0.0 && open >= quality("text/plain")
}

/// The metrics of a table as text.
pub fn expose(table: impl IntoIterator<Item = &'static Metric>, reading: Reading, openmetrics: bool) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Exposed(table.into_iter().collect(), reading)));
    let mut out = String::new();
    let written = match openmetrics {
        true => text::encode(&mut out, &registry),
        false => prometheus_text::encode(&mut out, &registry),
    };
    written.expect("a string takes any text");
    out
}

#[derive(Debug)]
struct Exposed(Vec<&'static Metric>, Reading);

/// The labels of a series.
struct Labels<'a>(Vec<(&'static str, &'a str)>);

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.0.as_slice().encode(encoder)
    }
}

impl Collector for Exposed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut told: Vec<&str> = Vec::new();
        for metric in &self.0 {
            if told.contains(&metric.name) {
                continue; // rows of one name are one family
            }
            told.push(metric.name);
            // The encoder adds these to the name.
            let unit = metric.unit.map(|unit| Unit::Other(unit.into()));
            let name = metric.name.strip_suffix("_total").unwrap_or(metric.name);
            let name = match metric.unit {
                Some(unit) => name.strip_suffix(unit).and_then(|name| name.strip_suffix('_')).unwrap_or(name),
                None => name,
            };
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let help = metric.help.strip_suffix('.').unwrap_or(metric.help);
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
            let samples = self.1.samples.iter().filter(|sample| sample.metric.name == metric.name);
            samples.into_iter().try_for_each(|sample| series(&mut family, sample))?;
        }
        Ok(())
    }
}

fn series(family: &mut MetricEncoder<'_>, sample: &Sample) -> fmt::Result {
    let metric = sample.metric;
    let shard = sample.shard.map(|shard| shard.to_string());
    let mut labels = Vec::new();
    labels.extend(shard.as_deref().map(|shard| ("shard", shard)));
    match (&metric.label, &sample.label) {
        (Label::Fixed(name, value), _) => labels.push((name, value)),
        (Label::Each(name), Some(value)) => labels.push((name, &value.name)),
        _ => {}
    }
    labels.extend(sample.labels.iter().map(|(name, value)| (*name, &**value)));
    if labels.is_empty() { value(family, sample) } else { value(&mut family.encode_family(&Labels(labels))?, sample) }
}

fn value(encoder: &mut MetricEncoder<'_>, sample: &Sample) -> fmt::Result {
    match (&sample.value, sample.metric.kind) {
        (Value::Number(number), Kind::Counter) => encoder.encode_counter::<NoLabelSet, u64, f64>(number, None),
        (Value::Number(number), _) => encoder.encode_gauge(&(*number as f64)),
        (Value::Real(number), _) => encoder.encode_gauge(number),
        (Value::Distribution(distribution), _) => {
            let buckets: Vec<(f64, u64)> =
                distribution.buckets().map(|(end, count)| (end.unwrap_or(f64::INFINITY), count)).collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            encoder.encode_histogram::<NoLabelSet>(distribution.sum(), count, &buckets, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Distribution, Id, LabelValue, TABLE, Values};

    fn reading() -> Reading {
        let values = Values::default();
        values.add(Id::HandshakesFull);
        let mut reading = Reading::default();
        reading.add_values(Some(0), &values);
        reading.add_values(Some(1), &Values::default());
        reading.add_values(None, &Values::default());
        let kind = LabelValue { name: "tcp".into(), text: "tcp".into() };
        reading.add_labelled_distribution(Some(0), Id::CheckLateness, kind, Distribution::default());
        let label = LabelValue { name: "other_lb".into(), text: "".into() };
        reading.add_labelled(None, Id::RequestsRefused, label, 3);
        reading
    }

    #[test]
    fn both_formats_have_the_same_series() {
        let plain = expose(&TABLE, reading(), false);
        for line in [
            "# TYPE gwm_tls_handshakes_total counter",
            "gwm_tls_handshakes_total{shard=\"0\",kind=\"full\"} 1",
            "gwm_tls_handshakes_total{shard=\"1\",kind=\"resumed\"} 0",
            "gwm_requests_refused_total{cause=\"other_lb\"} 3",
            "# TYPE gwm_load_balancers gauge",
            "# TYPE gwm_check_lateness_seconds histogram",
            "gwm_check_lateness_seconds_bucket{shard=\"0\",kind=\"tcp\",le=\"+Inf\"} 0",
        ] {
            assert!(plain.lines().any(|shown| shown == line), "{line}\n{plain}");
        }
        let open = expose(&TABLE, reading(), true);
        assert!(open.ends_with("# EOF\n"));
        // The formats write numbers in labels, and the order of labels, each in their own way.
        let series = |text: &str| {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            let mut series: Vec<_> = lines.map(|line| line.split(['{', ' ']).next().unwrap().to_owned()).collect();
            series.sort();
            series
        };
        assert_eq!(series(&plain), series(&open));
        assert!(open.contains("# UNIT gwm_check_lateness_seconds seconds\n"));
    }

    #[test]
    fn the_reader_chooses_the_format() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1";
        for (accept, open) in [
            (None, false),
            (Some("*/*"), false),
            (Some("text/plain"), false),
            (Some(prometheus), true),
            (Some("application/openmetrics-text; q=0.1, text/plain"), false),
            (Some("application/openmetrics-text;q=0"), false),
        ] {
            assert_eq!(wants_openmetrics(accept), open, "{accept:?}");
        }
    }
}
