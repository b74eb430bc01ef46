//! The formulas: the verdict of each policy about an endpoint.
//!
//! *weight = capacity × availability × health × ramp*, and with a load report *rate* in place of *capacity*:
//!
//! | policy | verdict about an endpoint that is up |
//! | --- | --- |
//! | `static` | weight = capacity × health × ramp |
//! | `agent` | weight = capacity × availability × health × ramp; not confident without an agent's answer |
//! | `orca` | rate = rps / (utilisation + eps / rps × penalty) × capacity / weight-max × health × ramp; while no rate is known: the weight of `static`; not confident without a load report |
//! | `auto` | the rate of `orca` × availability where a rate is known, else the weight of `agent`; always confident |
//!
//! - *capacity*: the operator's, by default `--weight-max`.
//! - *availability*: the agent's percentage, smoothed while the agent [swings](super::swing); an absolute weight `N`
//!   counts as N / capacity. 1 without an agent.
//! - *rate*: the requests a second at which the member would be fully used, gRPC's (gRFC A58, weighted round robin),
//!   smoothed. The utilisation is the metric that the operator named (gRFC A114), else the application's own, else that
//!   of the processors. A report without traffic or utilisation gives no rate. If reports state a utilisation and no
//!   rate of requests at all, 1 / utilisation takes the place of the rate, until a report has one. The coordinator turns
//!   the rates of a group into weights.
//! - *health*: the share of good checks among the last 32 checks made while the member was up, as in z/OS'
//!   communications weight.
//! - *ramp*: rises from 0 to 1 in the slow-start time after a member that was down came up; else 1.
//!
//! A member that is up has weight 1 at least. With capacity 0 from the operator, or `drain` or `maint` from its agent, it
//! has weight 0 and contact; so it has with `0%` or `weight:0` from its agent, in the policies that read availability. A
//! member that is down has contact 0 and weight 0. An unknown member has its capacity as
//! weight, and is not confident.
//!
//! Only reports are smoothed, rates exponentially by their logarithms. Small differences of rates count less than large ones.
//! The share of good checks is not smoothed; up and down are immediate. gRPC waits for ten seconds of reports before it
//! uses them; in the simulation this made farms overflow at the start.
//!
//! A verdict changes only if the new share differs from the last one by more than the dead band, or is the full capacity
//! again. The dead band does not count for the statement of a steady agent.

use std::time::Duration;

use super::{health::Standing, outcome::Load};
use crate::{
    judgement::{Level, Policy, Share, Verdict},
    sasp::EntryFlags,
};

/// The constants of the formulas. The defaults are those that did best in the simulation (tests/library/simulator).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tuning {
    /// The highest weight.
    pub weight_max: u16,
    /// The difference between a reported rate and the smoothed rate, as a share, from which the report counts fully. A
    /// smaller difference is more likely noise, and counts by its square.
    pub rate_noise: f32,
    /// Time constant of the smoothing of what takes the place of a rate in reports without one. A utilisation rises with the
    /// weight, so that weights swing with a shorter time, as those by idle shares do.
    pub utilization_smoothing: Duration,
    /// The share of requests that fail, times this factor, is added to the utilisation; gRPC's default.
    pub error_penalty: f32,
    /// The time from when a member comes up until it gets its full weight; 0 for at once.
    pub slow_start: Duration,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            weight_max: 100,
            rate_noise: 0.25,
            utilization_smoothing: Duration::from_secs(20),
            error_penalty: 1.0,
            slow_start: Duration::from_secs(30),
        }
    }
}

/// The least utilisation that counts. Servers with less of it are idle, and their differences are chance.
const LEAST_UTILIZATION: f32 = 0.05;

/// An agent's statement about its member's capacity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Availability {
    /// This share of the capacity.
    Share(f32),
    /// This weight in place of the capacity.
    Absolute(f32),
}

/// The input of the formulas about one endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Facts {
    /// Up or not, known or not.
    pub standing: Standing,
    /// The agent says `drain` or `maint`.
    pub drained: bool,
    /// The weight is fixed: `capacity`. Nothing watches the endpoint, and the other fields do not count.
    pub fixed: bool,
    /// The capacity, as the module's documentation says.
    pub capacity: u16,
    /// The health, as the module's documentation says.
    pub health: f32,
    /// The ramp, as the module's documentation says.
    pub ramp: f32,
    /// The statement of an agent that answered lately.
    pub availability: Option<Availability>,
    /// The rate from recent load reports, in requests a second.
    pub rate: Option<f32>,
    /// Whether a load report came lately, with or without a rate. If reports without traffic did not count, LBs would avoid
    /// the member, and it would never get traffic.
    pub load_heard: bool,
    /// The agent is steady: the dead band does not count for its statement.
    pub steady: bool,
    /// A change of less than this share of the value does not change the verdict.
    pub dead_band: f32,
}

/// A share before it is rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Exact {
    Weight(f32),
    Rate(f32),
}

/// The verdict of `policy`; `before` is its last verdict.
pub fn verdict(policy: Policy, facts: &Facts, tuning: &Tuning, before: &Verdict) -> Verdict {
    let Standing { up, known } = facts.standing;
    let flags = |confident| EntryFlags::default().with(EntryFlags::CONTACT, up).with(EntryFlags::CONFIDENT, confident);
    if facts.fixed {
        let flags = EntryFlags::CONTACT.with(EntryFlags::CONFIDENT, true);
        return Verdict { flags, share: Share::Weight(facts.capacity) };
    }
    let read = matches!(policy, Policy::Agent | Policy::Auto);
    let zero = matches!(facts.availability, Some(Availability::Share(0.0) | Availability::Absolute(0.0)));
    if !up || facts.drained || facts.capacity == 0 || read && zero {
        return Verdict { flags: flags(known), share: Share::Weight(0) };
    }
    if !known {
        return Verdict { flags: flags(false), share: Share::Weight(facts.capacity) };
    }
    let capacity = f32::from(facts.capacity);
    let held = facts.health * facts.ramp;
    let available = match facts.availability {
        Some(Availability::Share(share)) => share,
        Some(Availability::Absolute(weight)) => weight / capacity,
        None => 1.0,
    };
    let weight = |available| Exact::Weight(capacity * available * held);
    let rate = |available: f32| {
        let bias = capacity / f32::from(tuning.weight_max);
        facts.rate.map(|rate| Exact::Rate(rate * bias * available * held))
    };
    let (exact, confident) = match policy {
        Policy::Static => (weight(1.0), true),
        Policy::Agent => (weight(available), facts.availability.is_some()),
        Policy::Orca => (rate(1.0).unwrap_or(weight(1.0)), facts.load_heard),
        Policy::Auto => (rate(available).unwrap_or(weight(available)), true),
    };
    let verdict = Verdict { flags: flags(confident), share: exact.rounded(tuning.weight_max) };
    let full = verdict.share == Share::Weight(facts.capacity);
    let stated = facts.steady && read && matches!(exact, Exact::Weight(_));
    if verdict.flags == before.flags && !full && !stated && exact.is_near(before.share, facts.dead_band) {
        return *before;
    }
    verdict
}

impl Exact {
    fn rounded(self, weight_max: u16) -> Share {
        match self {
            // `as` saturates, and makes NaN 0.
            Exact::Weight(weight) => Share::Weight((weight.round() as u16).clamp(1, weight_max)),
            Exact::Rate(rate) => Share::Rate(Level::of(rate.into())),
        }
    }

    /// Whether the last share can stay: it is of the same kind, and differs by less than the dead band.
    fn is_near(self, last: Share, dead_band: f32) -> bool {
        let ratio = match (self, last) {
            (Exact::Weight(weight), Share::Weight(last)) => weight.max(1.0) / f32::from(last), // infinite for 0
            (Exact::Rate(rate), Share::Rate(last)) => Level::of(rate.into()).over(last) as f32,
            _ => return false,
        };
        ratio < 1.0 + dead_band && ratio > 1.0 / (1.0 + dead_band)
    }
}

/// The rate by a load report; `None` for a report without traffic or utilisation.
pub fn rate(load: &Load, error_penalty: f32) -> Option<f32> {
    let stated = [load.named_utilization, load.application_utilization, load.cpu_utilization];
    let utilization = stated.into_iter().flatten().find(|utilization| *utilization > 0.0)?;
    let rps = load.rps?;
    // A comparison with NaN is false.
    let says = utilization > 0.0 && utilization.is_finite() && rps > 0.0 && rps.is_finite();
    let errors = if load.eps > 0.0 { (load.eps / rps).min(1.0) } else { 0.0 };
    let rate = (rps / (utilization + errors * f64::from(error_penalty))) as f32;
    (says && rate.is_normal()).then_some(rate)
}

/// What takes the place of the rate if a load report has no rate of requests at all, as those of vLLM and Triton: the
/// reciprocal of the utilisation. Compares members that all report so.
pub fn estimate(load: &Load) -> Option<f32> {
    let stated = [load.named_utilization, load.application_utilization, load.cpu_utilization];
    let utilization = stated.into_iter().flatten().next().filter(|_| load.rps.is_none())?;
    utilization.is_finite().then_some(1.0 / (utilization as f32).max(LEAST_UTILIZATION))
}

/// The gain for a new value, 0 to 1; `elapsed` is the time since the last value.
pub fn gain(elapsed: Duration, smoothing: Duration) -> f32 {
    if smoothing.is_zero() { 1.0 } else { -(-elapsed.as_secs_f32() / smoothing.as_secs_f32()).exp_m1() }
}

/// How much a new value counts beside the smoothed one, 0 to 1; fully from a difference of `noise` on.
pub fn trust(smoothed: f32, new: f32, noise: f32) -> f32 {
    let distance = (new / smoothed).ln() / noise.ln_1p();
    (distance * distance).min(1.0)
}

/// The smoothed value after a new one. Logarithms are smoothed, so that half and double count the same, and a fall shows
/// sooner than a rise.
pub fn approach(old: f32, new: f32, gain: f32) -> f32 {
    old * (new / old).powf(gain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Standing = Standing { up: true, known: true };

    fn facts() -> Facts {
        Facts {
            standing: UP,
            drained: false,
            fixed: false,
            capacity: 80,
            health: 1.0,
            ramp: 1.0,
            availability: None,
            rate: None,
            load_heard: false,
            steady: false,
            dead_band: 0.05,
        }
    }

    const NOTHING: Verdict = Verdict { flags: EntryFlags::NONE, share: Share::Weight(0) };

    /// Contact, confident and share by policy, without a verdict before.
    fn all(facts: Facts) -> [(bool, bool, Share); 4] {
        Policy::ALL.map(|policy| {
            let verdict = verdict(policy, &facts, &Tuning::default(), &NOTHING);
            let has = |flag| verdict.flags.contains(flag);
            (has(EntryFlags::CONTACT), has(EntryFlags::CONFIDENT), verdict.share)
        })
    }

    use Share::Weight;

    fn rate_of(rate: f64) -> Share {
        Share::Rate(Level::of(rate))
    }

    #[test]
    fn a_plain_member_has_its_capacity_times_health_and_ramp() {
        let [fixed, agent, orca, auto] = all(facts());
        assert_eq!(fixed, (true, true, Weight(80)));
        assert_eq!(agent, (true, false, Weight(80)));
        assert_eq!(orca, (true, false, Weight(80)));
        assert_eq!(auto, (true, true, Weight(80)));
        for (_, _, share) in all(Facts { health: 0.5, ramp: 0.25, ..facts() }) {
            assert_eq!(share, Weight(10));
        }
        for (_, _, share) in all(Facts { health: 0.01, ramp: 0.01, ..facts() }) {
            assert_eq!(share, Weight(1), "what is up has 1");
        }
    }

    #[test]
    fn an_agents_percentage_scales_and_its_number_replaces_capacity() {
        for (availability, weight) in [
            (Availability::Share(0.5), 40),
            (Availability::Share(0.0), 0),
            (Availability::Share(0.001), 1),
            (Availability::Absolute(0.0), 0),
            (Availability::Absolute(0.1), 1),
            (Availability::Share(3.0), 100),
            (Availability::Absolute(30.0), 30),
            (Availability::Absolute(256.0), 100),
        ] {
            let [fixed, agent, orca, auto] = all(Facts { availability: Some(availability), ..facts() });
            assert_eq!((fixed.2, orca.2), (Weight(80), Weight(80)));
            assert_eq!(agent, (true, true, Weight(weight)), "{availability:?}");
            assert_eq!(auto, (true, true, Weight(weight)), "{availability:?}");
        }
    }

    #[test]
    fn a_rate_counts_where_a_load_report_is_asked_for() {
        let with_rate = Facts { rate: Some(400.0), load_heard: true, health: 0.5, ..facts() };
        let [fixed, agent, orca, auto] = all(with_rate);
        assert_eq!((fixed.2, agent.2), (Weight(40), Weight(40)));
        assert_eq!(orca, (true, true, rate_of(400.0 * 0.8 * 0.5)));
        assert_eq!(auto, (true, true, rate_of(400.0 * 0.8 * 0.5)));
        let both = Facts { availability: Some(Availability::Share(0.25)), ..with_rate };
        assert_eq!(all(both)[2].2, rate_of(400.0 * 0.8 * 0.5));
        assert_eq!(all(both)[3].2, rate_of(400.0 * 0.8 * 0.5 * 0.25));
        let idle = Facts { load_heard: true, ..facts() };
        assert_eq!(all(idle)[2], (true, true, Weight(80)), "a member without traffic must get some");
    }

    #[test]
    fn down_drained_unknown_and_fixed_need_no_formula() {
        let full = Facts { rate: Some(1.0), load_heard: true, availability: Some(Availability::Share(1.0)), ..facts() };
        let standing = |up, known| Facts { standing: Standing { up, known }, ..full };
        for (facts, said) in [
            (standing(false, true), (false, true, Weight(0))),
            (standing(false, false), (false, false, Weight(0))),
            (standing(true, false), (true, false, Weight(80))),
            (Facts { drained: true, ..full }, (true, true, Weight(0))),
            (Facts { drained: true, ..standing(true, false) }, (true, false, Weight(0))),
            (Facts { drained: true, ..standing(false, true) }, (false, true, Weight(0))),
            (Facts { capacity: 0, ..full }, (true, true, Weight(0))),
            (Facts { fixed: true, ..standing(true, false) }, (true, true, Weight(80))),
        ] {
            assert_eq!(all(facts), [said; 4], "{facts:?}");
        }
    }

    #[test]
    fn small_changes_are_not_said_and_full_capacity_always_is() {
        let said = |before: u16, health: f32| {
            let flags = EntryFlags::CONTACT.with(EntryFlags::CONFIDENT, true);
            let before = Verdict { flags, share: Weight(before) };
            let facts = Facts { capacity: 100, health, ..facts() };
            let after = verdict(Policy::Static, &facts, &Tuning::default(), &before);
            let Weight(weight) = after.share else { panic!("{after:?}") };
            weight
        };
        assert_eq!(said(60, 0.58), 60);
        assert_eq!(said(60, 0.62), 60);
        assert_eq!(said(60, 0.56), 56);
        assert_eq!(said(60, 0.64), 64);
        assert_eq!(said(97, 1.0), 100, "nothing holds it back any more");
        assert_eq!(said(100, 0.97), 100);
        assert_eq!(said(0, 0.5), 50);
        assert_eq!(said(1, 0.001), 1);
        assert_eq!(said(1, 0.02), 2);
    }

    #[test]
    fn a_steady_agents_small_changes_are_told() {
        let flags = EntryFlags::CONTACT.with(EntryFlags::CONFIDENT, true);
        let before = Verdict { flags, share: Weight(60) };
        let told = |policy, steady| {
            let facts = Facts { capacity: 100, availability: Some(Availability::Share(0.59)), steady, ..facts() };
            verdict(policy, &facts, &Tuning::default(), &before).share
        };
        for policy in [Policy::Agent, Policy::Auto] {
            assert_eq!((told(policy, true), told(policy, false)), (Weight(59), Weight(60)));
        }
    }

    #[test]
    fn small_changes_of_a_rate_are_not_said() {
        let say = |before: &Verdict, rate| {
            let facts = Facts { rate: Some(rate), load_heard: true, capacity: 100, ..facts() };
            verdict(Policy::Orca, &facts, &Tuning::default(), before)
        };
        let first = say(&NOTHING, 100.0);
        for (rate, same) in [(104.0, true), (96.0, true), (106.0, false), (94.0, false)] {
            assert_eq!(say(&first, rate) == first, same, "{rate}");
        }
    }

    #[test]
    fn the_rate_is_grpcs() {
        let load = Load { cpu_utilization: Some(0.5), rps: Some(100.0), ..Load::default() };
        let of = |load: Load| rate(&load, 1.0);
        assert_eq!(of(load), Some(200.0));
        assert_eq!(
            of(Load { application_utilization: Some(0.25), ..load }),
            Some(400.0),
            "the application's own is better"
        );
        let named = Load { application_utilization: Some(0.25), named_utilization: Some(0.4), ..load };
        assert_eq!(of(named), Some(250.0));
        assert_eq!(of(Load { eps: 50.0, ..load }), Some(100.0));
        assert_eq!(rate(&Load { eps: 50.0, ..load }, 3.0), Some(50.0));
        assert_eq!(of(Load { eps: 1e9, ..load }), of(Load { eps: 100.0, ..load }), "no more than all can fail");
        for nothing in [
            Load { cpu_utilization: None, ..load },
            Load { cpu_utilization: Some(0.0), ..load },
            Load { rps: None, ..load },
            Load { rps: Some(0.0), ..load },
            Load { rps: Some(-1.0), ..load },
            Load { rps: Some(f64::NAN), ..load },
            Load { rps: Some(f64::INFINITY), ..load },
            Load { rps: Some(1e300), ..load },
            Load { rps: Some(1e-300), ..load },
            Load { cpu_utilization: Some(f64::NAN), ..load },
            Load { cpu_utilization: Some(f64::INFINITY), ..load },
            Load { cpu_utilization: Some(-0.5), ..load },
        ] {
            assert_eq!(of(nothing), None, "{nothing:?}");
        }
        assert_eq!(of(Load { eps: f64::NAN, ..load }), Some(200.0));
    }

    #[test]
    fn a_utilisation_alone_gives_an_estimate() {
        let of = |cpu, named, rps| {
            estimate(&Load { cpu_utilization: cpu, named_utilization: named, rps, ..Load::default() })
        };
        assert_eq!(of(None, Some(0.25), None), Some(4.0));
        assert_eq!(of(Some(0.5), None, None), Some(2.0));
        assert_eq!(of(Some(0.5), Some(2.0), None), Some(0.5), "a backlog");
        assert_eq!(of(None, Some(0.0), None), of(None, Some(0.05), None), "an idle server");
        assert_eq!(of(None, None, None), None);
        assert_eq!(of(None, Some(0.25), Some(0.0)), None, "a member without traffic that reports rates");
        assert_eq!(of(Some(f64::NAN), None, None), None);
        assert_eq!(of(Some(f64::INFINITY), None, None), None);
    }

    #[test]
    fn noise_counts_less_than_a_step() {
        assert_eq!(trust(100.0, 100.0, 0.25), 0.0);
        assert_eq!([125.0, 80.0, 500.0, 1.0].map(|new| trust(100.0, new, 0.25) > 0.999), [true; 4]);
        for new in [111.8, 89.44] {
            assert!((trust(100.0, new, 0.25) - 0.25).abs() < 0.001, "half of the way, a quarter of the trust");
        }
        assert_eq!(trust(100.0, 101.0, 0.0), 1.0, "no noise is expected");
    }

    #[test]
    fn a_step_is_passed_on_to_63_percent_after_the_time_constant() {
        let second = Duration::from_secs(1);
        for steps in [1, 2, 10, 100] {
            let mut value = 1.0;
            for _ in 0..steps {
                value = approach(value, 10.0, gain(second * 10 / steps, second * 10));
            }
            assert!((value.log10() - 0.632).abs() < 0.001, "{steps}: {value}");
        }
        assert_eq!(gain(second, Duration::ZERO), 1.0);
        assert_eq!(gain(Duration::ZERO, second), 0.0);
    }
}
