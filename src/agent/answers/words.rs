//! How a service is, in the words of those who ask.

use std::{fmt::Write, str::FromStr};

use serde::Serialize;

use crate::agent::{load::Figures, service::Condition};

/// The most bytes of a reason: a GWM keeps as many (`AgentText`).
const REASON_BYTES: usize = 95;

/// The highest percentage, as in HAProxy.
const PERCENT_MAX: f64 = 25_600.0;

/// What the weight of an agent-check says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weight {
    /// Percent of the nominal cores; `None`: of the machine's.
    Capacity(Option<f64>),
    /// The capacity itself.
    Absolute,
    /// The idle share in percent.
    Idle,
    /// Nothing.
    None,
}

impl Default for Weight {
    fn default() -> Weight {
        Weight::Capacity(None)
    }
}

impl FromStr for Weight {
    type Err = String;

    fn from_str(text: &str) -> Result<Weight, String> {
        match text {
            "capacity" => Ok(Weight::Capacity(None)),
            "absolute" => Ok(Weight::Absolute),
            "idle" => Ok(Weight::Idle),
            "none" => Ok(Weight::None),
            _ => Err(format!("`{text}` is not capacity, absolute, idle or none")),
        }
    }
}

impl Weight {
    /// The word that says it; `None` if it is not known.
    fn word(self, figures: Option<&Figures>) -> Option<String> {
        let figures = figures?;
        let percent = |share: f64| format!("{}%", (share * 100.0).round().clamp(1.0, PERCENT_MAX));
        match self {
            Weight::None => None,
            Weight::Absolute => figures.capacity().map(|capacity| format!("weight:{capacity}")),
            Weight::Idle => figures.cpu.map(|cpu| percent(1.0 - cpu.utilization())),
            Weight::Capacity(nominal) => {
                let nominal = nominal.unwrap_or(figures.cores);
                figures.cpu.filter(|_| nominal > 0.0).map(|cpu| percent(cpu.available / nominal))
            }
        }
    }
}

/// The line that answers an agent-check.
pub fn agent_line(condition: Condition, reason: &str, weight: Weight, figures: Option<&Figures>) -> String {
    let mut line = String::from(match condition {
        Condition::Starting | Condition::Down => "down",
        // `ready` and `up` end what an earlier answer said.
        Condition::Up => "ready up",
        Condition::Maint => "maint",
        Condition::Drain | Condition::Gone => "drain",
    });
    if condition == Condition::Up
        && let Some(word) = weight.word(figures)
    {
        line.extend([" ", word.as_str()]);
    }
    // Of a text that a person or a check gave, one line is left.
    let mut kept = String::new();
    for word in reason.split(|character: char| character.is_whitespace() || character.is_control()) {
        if !word.is_empty() {
            kept.extend([if kept.is_empty() { "" } else { " " }, word]);
        }
    }
    kept.truncate(kept.floor_char_boundary(REASON_BYTES));
    if !kept.is_empty() {
        line.extend([" #", &kept]);
    }
    line.push('\n');
    line
}

/// The number of Kemp's load balancers; `None` while the load is not known.
pub fn kemp_number(condition: Condition, figures: Option<&Figures>) -> Option<u8> {
    match condition {
        Condition::Starting | Condition::Down => Some(101),
        Condition::Maint | Condition::Drain | Condition::Gone => Some(102),
        // 100 would mean no new work.
        Condition::Up => Some((figures?.cpu?.utilization() * 100.0).round().min(99.0) as u8),
    }
}

/// Whether the service works: the status of HTTP.
pub fn works(condition: Condition) -> bool {
    !matches!(condition, Condition::Starting | Condition::Down)
}

/// The form of a load report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// `JSON {…}`.
    #[default]
    Json,
    /// `TEXT name=value,…`.
    Text,
}

/// `xds.data.orca.v3.OrcaLoadReport`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_utilization: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mem_utilization: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rps_fractional: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eps: Option<f64>,
    #[serde(skip_serializing_if = "Named::is_empty")]
    named_metrics: Named,
}

/// Further metrics, by name.
type Named = std::collections::BTreeMap<&'static str, f64>;

impl Report {
    /// Of these figures.
    pub fn new(figures: &Figures) -> Report {
        // More digits would only make the header longer.
        let short = |value: f64| (value * 1e6).round() / 1e6;
        let (pressure, requests) = (figures.pressure, figures.requests);
        let named = [
            ("available_cores", figures.cpu.map(|cpu| cpu.available)),
            ("capacity", figures.capacity().map(f64::from)),
            ("cpu_pressure", pressure.cpu),
            ("io_pressure", pressure.io),
            ("latency_mean", requests.mean),
            ("latency_p99", requests.p99),
            ("memory_pressure", pressure.memory),
        ];
        Report {
            cpu_utilization: figures.cpu.map(|cpu| short(cpu.utilization())),
            mem_utilization: figures.memory.map(short),
            rps_fractional: requests.rate.map(short),
            eps: requests.errors.map(short),
            named_metrics: named.into_iter().filter_map(|(name, value)| Some((name, short(value?)))).collect(),
        }
    }

    /// The report alone: a JSON document, or `name=value` with commas.
    pub fn body(&self, form: Form) -> String {
        match form {
            Form::Json => serde_json::to_string(self).unwrap_or_else(|_| "{}".into()),
            Form::Text => {
                let mut text = String::new();
                let mut add = |map: &str, name: &str, value: f64| {
                    let comma = if text.is_empty() { "" } else { "," };
                    write!(text, "{comma}{map}{name}={value}").expect("a string takes any text");
                };
                for (name, value) in [
                    ("cpu_utilization", self.cpu_utilization),
                    ("mem_utilization", self.mem_utilization),
                    ("rps_fractional", self.rps_fractional),
                    ("eps", self.eps),
                ] {
                    if let Some(value) = value {
                        add("", name, value);
                    }
                }
                self.named_metrics.iter().for_each(|(name, value)| add("named_metrics.", name, *value));
                text
            }
        }
    }

    /// The value of the header `endpoint-load-metrics`; `None` if nothing is known.
    pub fn header(&self, form: Form) -> Option<String> {
        let word = match form {
            Form::Json => "JSON",
            Form::Text => "TEXT",
        };
        (*self != Report::default()).then(|| format!("{word} {}", self.body(form)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::load::{cpu::Cpu, memory::Pressure, requests::Requests},
        monitor::{
            agent_check, orca,
            outcome::{Administration, AgentWeight, Load},
        },
    };

    fn figures() -> Figures {
        Figures {
            cpu: Some(Cpu { limit: 0.5, used: 0.125, available: 0.5 }),
            memory: Some(0.4),
            pressure: Pressure { cpu: Some(0.01), memory: None, io: Some(0.0) },
            requests: Requests { rate: Some(120.5), errors: Some(2.0), mean: Some(0.012_345_678), p99: None },
            ghz: Some(2.6),
            cores: 4.0,
        }
    }

    fn up(weight: Weight) -> String {
        agent_line(Condition::Up, "", weight, Some(&figures()))
    }

    #[test]
    fn an_agent_check_says_the_condition_and_the_weight() {
        assert_eq!(up(Weight::None), "ready up\n");
        assert_eq!(up(Weight::Capacity(None)), "ready up 13%\n");
        assert_eq!(up(Weight::Capacity(Some(0.25))), "ready up 200%\n");
        assert_eq!(up(Weight::Absolute), "ready up weight:13\n");
        assert_eq!(up(Weight::Idle), "ready up 75%\n");
        assert_eq!(agent_line(Condition::Up, "", Weight::Idle, None), "ready up\n");
        let busy = Figures { cpu: Some(Cpu { limit: 1.0, used: 0.0, available: 0.0 }), ..figures() };
        for weight in [Weight::Capacity(None), Weight::Idle] {
            assert_eq!(agent_line(Condition::Up, "", weight, Some(&busy)), "ready up 1%\n", "0 would mean no work");
        }
        assert_eq!(agent_line(Condition::Up, "", Weight::Absolute, Some(&busy)), "ready up weight:1\n");
        let down = |reason| agent_line(Condition::Down, reason, Weight::Idle, Some(&figures()));
        assert_eq!(down("connection\r\n  refused\n"), "down #connection refused\n");
        assert_eq!(down(""), "down\n");
        assert_eq!(down(&"é".repeat(90)).trim_end().len(), "down #".len() + 94);
        assert_eq!(agent_line(Condition::Starting, "", Weight::None, None), "down\n");
        assert_eq!(agent_line(Condition::Maint, "disk", Weight::Idle, Some(&figures())), "maint #disk\n");
        assert_eq!(agent_line(Condition::Drain, "", Weight::Idle, Some(&figures())), "drain\n");
        assert_eq!(agent_line(Condition::Gone, "", Weight::Idle, None), "drain\n");
    }

    #[test]
    fn a_gwm_reads_what_is_said() {
        let read = |line: &str| agent_check::read(line.as_bytes(), false).unwrap().unwrap();
        let said = read(&up(Weight::Capacity(None)));
        assert_eq!((said.up, said.weight), (Some(true), Some(AgentWeight::Percent(13))));
        assert_eq!(read(&up(Weight::Absolute)).weight, Some(AgentWeight::Absolute(13)));
        let maint = read(&agent_line(Condition::Maint, "a disk is full", Weight::None, None));
        assert_eq!((maint.administration, maint.text.bytes()), (Some(Administration::Maint), &b"a disk is full"[..]));
        let report = Report::new(&figures());
        let names = ["named_metrics.latency_mean".to_owned()];
        let load = Load {
            cpu_utilization: Some(0.25),
            mem_utilization: Some(0.4),
            named_utilization: Some(0.012_346),
            rps: Some(120.5),
            eps: 2.0,
            ..Load::default()
        };
        for form in [Form::Json, Form::Text] {
            let header = report.header(form).unwrap();
            assert_eq!(orca::parse(header.as_bytes(), &names), Ok(load));
            assert_eq!(Report::new(&Figures::default()).header(form), None);
        }
    }

    #[test]
    fn literal_reports() {
        let report = Report::new(&figures());
        assert_eq!(
            report.header(Form::Json).unwrap(),
            r#"JSON {"cpu_utilization":0.25,"mem_utilization":0.4,"rps_fractional":120.5,"eps":2.0,"named_metrics":{"available_cores":0.5,"capacity":13.0,"cpu_pressure":0.01,"io_pressure":0.0,"latency_mean":0.012346}}"#
        );
        assert_eq!(
            report.header(Form::Text).unwrap(),
            "TEXT cpu_utilization=0.25,mem_utilization=0.4,rps_fractional=120.5,eps=2,named_metrics.available_cores=0.5,\
             named_metrics.capacity=13,named_metrics.cpu_pressure=0.01,named_metrics.io_pressure=0,\
             named_metrics.latency_mean=0.012346"
        );
    }

    #[test]
    fn kemps_numbers() {
        let number = |condition| kemp_number(condition, Some(&figures()));
        assert_eq!(number(Condition::Up), Some(25));
        assert_eq!((number(Condition::Down), number(Condition::Starting)), (Some(101), Some(101)));
        assert_eq!((number(Condition::Maint), number(Condition::Gone)), (Some(102), Some(102)));
        assert_eq!(kemp_number(Condition::Up, None), None);
        let full = Figures { cpu: Some(Cpu { limit: 1.0, used: 1.0, available: 1.0 }), ..figures() };
        assert_eq!(kemp_number(Condition::Up, Some(&full)), Some(99));
    }
}
