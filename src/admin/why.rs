//! The factors of a weight, in numbers and words.

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde::Serialize;

use super::{
    Calendar,
    rows::{Place, found_by},
};
use crate::{
    coordinator::{EndpointRow, FixedBy, Full, MemberRow, Quiesce, Saying},
    judgement::{FoundBy, Policy, Share, Stand},
    monitor::{
        health::HISTORY,
        table::{CheckRow, Factors, Stated},
    },
    sasp::EntryFlags,
    time::Time,
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
    quiesce: Option<Factor>,
    doubt: Option<String>,
    text: String,
    last_failure: Option<Failure>,
    checks: Vec<CheckJson>,
}

impl Why {
    /// Of an endpoint in the group of `member`, or in all, by the policy `auto`; `factors` are its shard's, if it is watched.
    pub fn new(
        row: &EndpointRow,
        member: Option<&MemberRow>,
        full: &Full,
        factors: Option<&Factors>,
        calendar: &Calendar,
    ) -> Why {
        let policy = member.map_or(Policy::Auto, |member| member.policy);
        let mut why = Why {
            capacity: Factor { value: row.capacity.into(), source: capacity_source(row, full), at: None },
            availability: factors.and_then(|factors| availability(factors, policy, calendar)),
            health: factors.map(|factors| health(factors, row.state.stand)),
            ramp: factors.map(ramp),
            rate: factors.and_then(|factors| rate(factors, policy, calendar)),
            quiesce: quiesce(&full.quiesces, calendar),
            doubt: doubt(row, member, calendar),
            text: String::new(),
            last_failure: None,
            checks: Vec::new(),
        };
        why.text = why.sentence(row, member, policy, factors);
        if let Some(factors) = factors {
            let newest = factors.checks.iter().max_by_key(|check| check.last_failure.as_ref().map(|(at, _)| *at));
            why.last_failure = newest.and_then(|check| failure(check, calendar));
            let shard = row.shard.unwrap_or(0);
            why.checks = factors.checks.iter().map(|check| CheckJson::new(check, shard, calendar)).collect();
        }
        why
    }

    /// The formula with its values. What a person says counts before all, and doubt and blindness before checks.
    fn sentence(
        &self,
        row: &EndpointRow,
        member: Option<&MemberRow>,
        policy: Policy,
        factors: Option<&Factors>,
    ) -> String {
        let share = row.verdicts.get(policy as usize).map(|verdict| verdict.share);
        let shown = member.map(|member| member.entry);
        let is_kept = row.state.stand == Stand::Down
            && shown.is_some_and(|entry| entry.flags.contains(EntryFlags::CONTACT))
            && self.doubt.is_some();
        let (product, remark) = self.product(row, policy, factors, is_kept);
        if let Some(quiesce) = &self.quiesce {
            let since = quiesce.at.as_ref().map(|at| format!(" since {at}")).unwrap_or_default();
            let who = format!("{}{since}", quiesce.source);
            return match product {
                Some(product) => format!("weight = 0 = {product} x 0 ({who})"),
                None => format!("weight = 0: {who}; besides, {remark}"),
            };
        }
        let doubt = self.doubt.as_ref().map(|doubt| format!("; {doubt}")).unwrap_or_default();
        let own = match share {
            Some(Share::Weight(weight)) => weight,
            _ => 0,
        };
        match (product, share) {
            (None, _) => {
                let is_known = is_kept || factors.is_none() || row.state.found_by != FoundBy::Own;
                let weight = if is_known { shown.map_or(own, |entry| entry.weight) } else { 0 };
                format!("weight = {weight}: {remark}{doubt}")
            }
            (Some(product), Some(Share::Rate(level))) => {
                let weight = shown.map(|entry| format!(" {}", entry.weight)).unwrap_or_default();
                let rate = level.rate();
                format!(
                    "rate = {rate:.4} requests a second = {product} / --weight-max; the rates of the group make the \
                     weight{weight} of it{doubt}"
                )
            }
            (Some(product), _) => {
                let scaled = shown.filter(|entry| entry.weight != own).map(|entry| entry.weight);
                let scaled = scaled.map(|weight| format!("; the rates of the group make {weight} of it"));
                format!("weight = {own} = {product}; {remark}{}{doubt}", scaled.unwrap_or_default())
            }
        }
    }

    /// The weight or rate as a product, if it is one, and a remark.
    fn product(
        &self,
        row: &EndpointRow,
        policy: Policy,
        factors: Option<&Factors>,
        is_kept: bool,
    ) -> (Option<String>, Cow<'static, str>) {
        let capacity = row.capacity;
        if row.state.found_by != FoundBy::Own && !is_kept {
            return (None, found_by(row.state.found_by).into());
        }
        let Some(factors) = factors else {
            return match (row.state.fixed_by, row.state.watched) {
                (Some(_), _) => (Some(format!("{capacity} (fixed)")), "nothing is checked".into()),
                (None, false) => (Some(format!("{capacity} (capacity)")), "nothing watches the endpoint".into()),
                (None, true) => (None, SILENT.into()),
            };
        };
        match row.state.stand {
            Stand::Down if is_kept => return (None, "it is down, and keeps the last weight that it had".into()),
            Stand::Down => return (None, "it is down".into()),
            Stand::Drained => return (None, "its agent wants no new work for it".into()),
            Stand::Unknown => return (Some(format!("{capacity} (capacity)")), no_verdict(&factors.checks)),
            Stand::Up => {}
        }
        let value = |factor: &Option<Factor>| factor.as_ref().map_or(1.0, |factor| factor.value);
        let reads_agent = reads_agent(policy) && factors.availability.is_some_and(|stated| stated.fresh);
        let product = format!(
            "{} (capacity) x {} (availability) x {} (health) x {} (ramp)",
            factors.capacity,
            if reads_agent { value(&self.availability) } else { 1.0 },
            value(&self.health),
            value(&self.ramp)
        );
        match (row.verdicts.get(policy as usize).map(|verdict| verdict.share), &self.rate) {
            (Some(Share::Rate(_)), Some(rate)) => (Some(format!("{} (rate) x {product}", rate.value)), "".into()),
            _ => (Some(product), "it is at least 1, and a change within --dead-band is not told".into()),
        }
    }
}

const SILENT: &str = "its shard does not say now what the checks found";

/// What is missing until an endpoint is known to be up or down.
fn no_verdict(checks: &[CheckRow]) -> Cow<'static, str> {
    match checks.iter().filter(|check| check.up && check.against > 0).max_by_key(|check| check.against) {
        Some(CheckRow { against, times, .. }) => {
            let failed = if *against == 1 { "1 check".to_owned() } else { format!("{against} checks") };
            format!("no verdict yet: {failed} failed in a row, and {} make it down", times.fall).into()
        }
        None => "no verdict yet: no check has given a result".into(),
    }
}

fn rounded(value: f32) -> f64 {
    (f64::from(value) * 1e4).round() / 1e4
}

fn reads_agent(policy: Policy) -> bool {
    matches!(policy, Policy::Agent | Policy::Auto)
}

/// A remark about a value that somebody stated.
fn counts(counts: bool, fresh: bool) -> &'static str {
    match (counts, fresh) {
        (false, _) => "; this policy does not count it",
        (true, false) => "; too old to count (--report-lifetime)",
        (true, true) => "",
    }
}

fn capacity_source(row: &EndpointRow, full: &Full) -> String {
    let fixing = full.words.iter().rev().find(|word| matches!(word.saying, Saying::Weight(_)));
    match (row.state.fixed_by, fixing) {
        (Some(FixedBy::Operator), Some(word)) => format!("fixed by {}", word.author()),
        (Some(FixedBy::Operator), None) => "fixed by an operator".into(),
        (Some(FixedBy::File), _) => "the fixed weight in the members file".into(),
        (None, _) if row.capacity_stated => "the weight in the members file".into(),
        (None, _) => "--weight-max, because no members file states a weight for it".into(),
    }
}

fn availability(factors: &Factors, policy: Policy, calendar: &Calendar) -> Option<Factor> {
    let Stated { value, special: percent, smoothed, fresh, at } = factors.availability?;
    let share = if percent { value / 100.0 } else { value / f32::from(factors.capacity.max(1)) };
    let how = if smoothed { ", smoothed because the statements swing" } else { "" };
    let unit = if percent { "%" } else { " as a weight" };
    Some(Factor {
        value: rounded(share),
        source: format!("the agent states {value:.0}{unit}{how}{}", counts(reads_agent(policy), fresh)),
        at: Some(calendar.text(at)),
    })
}

fn health(factors: &Factors, stand: Stand) -> Factor {
    let Factors { made, good, .. } = *factors;
    let (when, remark) = match stand {
        Stand::Unknown => ("", "; the health does not count without a verdict"),
        // The checks count until the verdict, also of a member that never was up.
        Stand::Down => (" before the member was down", "; the health counts again when the member is up"),
        Stand::Up | Stand::Drained => (" while it was up", ""),
    };
    let source = match made {
        0 => "no check was made while it was up".into(),
        HISTORY => format!("{good} of the last {HISTORY} checks{when} passed{remark}"),
        _ => format!(
            "{good} of {made} checks{when} passed; {} more, which are not made yet, count as passed{remark}",
            HISTORY - made
        ),
    };
    Factor { value: rounded(factors.health), source, at: None }
}

fn ramp(factors: &Factors) -> Factor {
    Factor {
        value: rounded(factors.ramp.unwrap_or(1.0)),
        source: match factors.ramp {
            Some(_) => "slow start after it came up again (--slow-start)".into(),
            None => "no slow start goes on".into(),
        },
        at: None,
    }
}

fn rate(factors: &Factors, policy: Policy, calendar: &Calendar) -> Option<Factor> {
    let stated = factors.rate?;
    let how = match stated.special {
        true => "1 / utilisation of load reports, which state no rate",
        false => "rps / (utilisation + errors) of load reports, smoothed",
    };
    let counts = counts(matches!(policy, Policy::Orca | Policy::Auto), stated.fresh);
    Some(Factor { value: rounded(stated.value), source: format!("{how}{counts}"), at: Some(calendar.text(stated.at)) })
}

/// All quiesces that are in force as one factor, 0, which holds since the first of them.
fn quiesce(quiesces: &[Quiesce], calendar: &Calendar) -> Option<Factor> {
    if quiesces.is_empty() {
        return None;
    }
    let names: Vec<String> = quiesces.iter().map(|quiesce| quiesce.by.to_string()).collect();
    let first = quiesces.iter().filter_map(|quiesce| quiesce.since).min();
    Some(Factor {
        value: 0.0,
        source: format!("quiesced by {}", names.join(" and ")),
        at: first.map(|at| calendar.text(at)),
    })
}

/// The doubt or the blindness that is in force.
fn doubt(row: &EndpointRow, member: Option<&MemberRow>, calendar: &Calendar) -> Option<String> {
    let effect = "members that were lost lately keep contact and weight, and no member is confident";
    if row.state.blind {
        return Some(format!("the daemon is blind, or recovers, where it is: {effect}"));
    }
    let since: Time = member?.doubted?;
    Some(format!("the group is in doubt since {}: {effect}", calendar.text(since)))
}
