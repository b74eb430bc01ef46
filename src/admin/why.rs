//! The factors of a weight, in numbers and words.

use serde::Serialize;

use super::{Calendar, rows::Place};
use crate::{
    coordinator::{EndpointRow, FixedBy},
    judgement::{Policy, Share, Stand},
    monitor::table::{CheckRow, Factors, Stated},
};

/// A factor.
#[derive(Debug, Serialize)]
struct Factor {
    value: f64,
    source: String,
    at: Option<String>,
}

#[derive(Debug, Serialize)]
struct Failure {
    at: String,
    check: &'static str,
    text: String,
}

/// One check.
#[derive(Debug, Serialize)]
pub struct CheckJson {
    #[serde(flatten)]
    place: Place,
    check: &'static str,
    state: &'static str,
    up: bool,
    in_a_row: u8,
    interval_seconds: f64,
    timeout_seconds: f64,
    rise: u8,
    fall: u8,
    last_failure: Option<Failure>,
    shard: u16,
}

impl CheckJson {
    /// Of this row of a shard's table.
    pub fn new(row: &CheckRow, shard: u16, calendar: &Calendar) -> CheckJson {
        CheckJson {
            place: Place::new(&row.endpoint),
            check: row.kind,
            state: row.state,
            up: row.up,
            in_a_row: row.against,
            interval_seconds: row.times.interval.as_secs_f64(),
            timeout_seconds: row.times.timeout.as_secs_f64(),
            rise: row.times.rise,
            fall: row.times.fall,
            last_failure: failure(row, calendar),
            shard,
        }
    }
}

fn failure(row: &CheckRow, calendar: &Calendar) -> Option<Failure> {
    let (at, text) = row.last_failure.as_ref()?;
    Some(Failure { at: calendar.text(*at), check: row.kind, text: text.clone() })
}

/// Why an endpoint has its weight.
#[derive(Debug, Serialize)]
pub struct Why {
    capacity: Factor,
    availability: Option<Factor>,
    health: Option<Factor>,
    ramp: Option<Factor>,
    rate: Option<Factor>,
    text: String,
    last_failure: Option<Failure>,
    checks: Vec<CheckJson>,
}

fn rounded(value: f32) -> f64 {
    (f64::from(value) * 1e4).round() / 1e4
}

impl Why {
    /// Of an endpoint by one policy; `factors` are its shard's, if it is watched.
    pub fn new(row: &EndpointRow, policy: Policy, factors: Option<&Factors>, calendar: &Calendar) -> Why {
        let shard = row.shard.unwrap_or(0);
        let source = match row.state.fixed_by {
            Some(FixedBy::Operator) => "the weight that the operator fixed",
            Some(FixedBy::File) => "the weight of the members file",
            None => "the capacity of the members file, else --weight-max",
        };
        let capacity = Factor { value: row.capacity.into(), source: source.into(), at: None };
        let Some(factors) = factors else {
            let text = match row.state.fixed_by {
                Some(_) => format!("weight = {}: it is fixed, and nothing is checked", row.capacity),
                None => format!("weight = capacity = {}: nothing watches the endpoint", row.capacity),
            };
            return Why {
                capacity,
                availability: None,
                health: None,
                ramp: None,
                rate: None,
                text,
                last_failure: None,
                checks: Vec::new(),
            };
        };
        let reads_agent = matches!(policy, Policy::Agent | Policy::Auto);
        let reads_rate = matches!(policy, Policy::Orca | Policy::Auto);
        let counts = |counts: bool, fresh: bool| match (counts, fresh) {
            (false, _) => "; this policy does not count it",
            (true, false) => "; too old to count (--report-lifetime)",
            (true, true) => "",
        };
        let availability = factors.availability.map(|stated| {
            let Stated { value, special: percent, smoothed, fresh, at } = stated;
            let share = if percent { value / 100.0 } else { value / f32::from(factors.capacity.max(1)) };
            let how = if smoothed { ", smoothed because the statements swing" } else { "" };
            let unit = if percent { "%" } else { " as a weight" };
            Factor {
                value: rounded(share),
                source: format!("the agent states {value:.0}{unit}{how}{}", counts(reads_agent, fresh)),
                at: Some(calendar.text(at)),
            }
        });
        let health = Factor {
            value: rounded(factors.good as f32 / factors.of as f32),
            source: format!("{} of the last {} checks while it was up passed", factors.good, factors.of),
            at: None,
        };
        let ramp = Factor {
            value: rounded(factors.ramp.unwrap_or(1.0)),
            source: match factors.ramp {
                Some(_) => "slow start after it came up again (--slow-start)".into(),
                None => "no slow start goes on".into(),
            },
            at: None,
        };
        let rate = factors.rate.map(|stated| Factor {
            value: rounded(stated.value),
            source: format!(
                "{}{}",
                match stated.special {
                    true => "1 / utilisation of load reports, which state no rate",
                    false => "rps / (utilisation + errors) of load reports, smoothed",
                },
                counts(reads_rate, stated.fresh)
            ),
            at: Some(calendar.text(stated.at)),
        });
        let text = text(row, policy, factors, [availability.as_ref(), Some(&health), Some(&ramp), rate.as_ref()]);
        let newest = factors.checks.iter().max_by_key(|check| check.last_failure.as_ref().map(|(at, _)| *at));
        Why {
            capacity,
            availability,
            health: Some(health),
            ramp: Some(ramp),
            rate,
            text,
            last_failure: newest.and_then(|check| failure(check, calendar)),
            checks: factors.checks.iter().map(|check| CheckJson::new(check, shard, calendar)).collect(),
        }
    }
}

/// The formula with its values.
fn text(row: &EndpointRow, policy: Policy, factors: &Factors, all: [Option<&Factor>; 4]) -> String {
    let [availability, health, ramp, rate] = all;
    let value = |factor: Option<&Factor>| factor.map_or(1.0, |factor| factor.value);
    let reads_agent = matches!(policy, Policy::Agent | Policy::Auto) && factors.availability.is_some_and(|it| it.fresh);
    let verdict = row.verdicts.get(policy as usize).map(|verdict| verdict.share);
    match row.state.stand {
        Stand::Down => return "weight = 0: it is down".into(),
        Stand::Drained => return "weight = 0: its agent wants no new work for it".into(),
        Stand::Unknown => return format!("weight = capacity = {}: no check has given a result yet", factors.capacity),
        Stand::Up => {}
    }
    let available = if reads_agent { value(availability) } else { 1.0 };
    let product = format!(
        "{} (capacity) x {available} (availability) x {} (health) x {} (ramp)",
        factors.capacity,
        value(health),
        value(ramp)
    );
    match (verdict, rate) {
        (Some(Share::Rate(level)), Some(rate)) => format!(
            "rate = {:.4} requests a second = {} (rate) x {product} / --weight-max; the rates of the group make the weight",
            level.rate(),
            rate.value
        ),
        (Some(Share::Weight(weight)), _) => {
            format!("weight = {weight} = {product}, at least 1; a change within --dead-band is not told")
        }
        _ => product,
    }
}
