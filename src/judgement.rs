//! Conclusions of monitoring about an endpoint. [`monitor`](crate::monitor) makes these types and
//! [`coordinator`](crate::coordinator) reads them; neither knows the other.

use std::fmt;

use crate::{sasp::EntryFlags, time::Time};

/// The id of one watch of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WatchId {
    /// The coordinator's number of the endpoint. Used again after the endpoint has left all groups.
    pub index: u32,
    /// Differs between endpoints that used the same index. Judgements with an old generation are ignored.
    pub generation: u32,
}

/// How weights are made; `src/monitor/policy.rs` has the formulas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Policy {
    /// Configured capacity times health.
    Static,
    /// `Static` times the percentage that the member's agent states.
    Agent,
    /// The request rate that the member can take by its own load report.
    Orca,
    /// `Orca` if the member reports its load, else `Static`; times the agent's percentage if an agent answers.
    Auto,
}

impl Policy {
    /// Every policy; the index is `Policy as usize`.
    pub const ALL: [Policy; 4] = [Policy::Static, Policy::Agent, Policy::Orca, Policy::Auto];
}

/// A request rate on a logarithmic scale of 1,024 steps an octave, from 2⁻³² to 2³² a second. Two bytes, exact to 0.07 %.
/// A ratio of rates is a difference of levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(pub u16);

impl Level {
    const PER_OCTAVE: f64 = 1024.0;

    /// The nearest level to a rate. NaN becomes the lowest level.
    pub fn of(rate: f64) -> Level {
        // `as` saturates, and makes NaN 0.
        Level(((rate.log2() + 32.0) * Level::PER_OCTAVE).round() as u16)
    }

    /// The rate.
    pub fn rate(self) -> f64 {
        (f64::from(self.0) / Level::PER_OCTAVE - 32.0).exp2()
    }

    /// The ratio of this rate to `other`.
    pub fn over(self, other: Level) -> f64 {
        ((f64::from(self.0) - f64::from(other.0)) / Level::PER_OCTAVE).exp2()
    }
}

/// How much work an endpoint can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// A weight, 0 to `--weight-max`. Does not depend on the other members of the group.
    Weight(u16),
    /// A rate, to compare with the rates of the group's other members.
    Rate(Level),
}

/// The verdict of one policy about an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The contact and confident flags; no others.
    pub flags: EntryFlags,
    /// How much work the endpoint can take. A member that is up has weight 1 at least; a drained member has `Weight(0)`.
    pub share: Share,
}

/// The verdicts of all policies about an endpoint, by `Policy as usize`.
pub type Verdicts = [Verdict; Policy::ALL.len()];

/// How a member stands, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Stand {
    /// Not judged yet, or not known any more.
    #[default]
    Unknown,
    /// Up.
    Up,
    /// Up, and its agent wants no new work for it.
    Drained,
    /// Down.
    Down,
}

impl fmt::Display for Stand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stand::Unknown => "unknown",
            Stand::Up => "up",
            Stand::Drained => "drained",
            Stand::Down => "down",
        })
    }
}

/// Who found how an endpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundBy {
    /// This node's own checks, if anybody.
    Own,
    /// The checks of another node of the fleet.
    Fleet,
    /// An earlier process: no check has judged the endpoint since then.
    Earlier,
    /// This node's own first check, which failed and does not count yet.
    Early,
}

/// A change of a member's standing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingChange {
    /// How the member stood.
    pub from: Stand,
    /// How it stands.
    pub to: Stand,
    /// The kind of the reason; the log limits the lines of each kind.
    pub kind: &'static str,
    /// The reason, in words that a person can act on.
    pub reason: Box<str>,
}

/// The new verdicts about an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The watch of the endpoint.
    pub watch: WatchId,
    /// The verdicts of all policies, by `Policy as usize`.
    pub verdicts: [Verdict; Policy::ALL.len()],
    /// The endpoint is up, or answered one of its last checks, however badly.
    pub answers: bool,
    /// The end of the endpoint's slow start, if it is in one.
    pub ramp_until: Option<Time>,
    /// The change of the standing, if there is one.
    pub turn: Option<Box<StandingChange>>,
}

/// What a later process needs of the last judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    /// The verdicts of all policies, by `Policy as usize`.
    pub verdicts: Verdicts,
    /// The end of the endpoint's slow start, if it was in one.
    pub ramp_until: Option<Time>,
}

/// How an earlier process, or an earlier watch, left an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Earlier {
    /// It was down.
    pub down: bool,
    /// The end of its slow start, if it was in one.
    pub ramp_until: Option<Time>,
}

impl Last {
    /// What monitoring goes on from. An endpoint is down if no policy shows contact.
    pub fn earlier(&self) -> Earlier {
        let down = self.verdicts.iter().all(|verdict| !verdict.flags.contains(EntryFlags::CONTACT));
        Earlier { down, ramp_until: self.ramp_until }
    }
}

/// Turns the rates of one group into weights: the top is the rate that gets `--weight-max`, and a member without a rate
/// counts with the mean rate. Both stay while the rates change little, so that noise does not change every weight of the
/// group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    top: Level,
    /// The mean rate as a share of the top, in units of 2⁻³².
    mean: u64,
}

impl Scale {
    /// The rate that gets `--weight-max`, and the mean rate as a share of it.
    pub fn parts(self) -> (f64, f64) {
        (self.top.rate(), self.mean as f64 / f64::from(1u32 << 16) / f64::from(1u32 << 16))
    }

    /// Steps from the highest rate to a new top: 1.125 times the rate, so that the highest rate can grow a little before its
    /// weight is cut off.
    const HEADROOM: u16 = 174;

    /// Steps that the highest rate may fall below the top before the top follows: an octave.
    const SLACK: u16 = 1024;

    /// The scale for these rates; `before` is the last scale. `None` without a rate.
    ///
    /// The top stays while the highest rate is between half of the top and the top. Else it becomes 1.125 times the highest
    /// rate. The mean stays while the top stays and the mean differs by less than a sixteenth. Else it becomes the
    /// arithmetic mean.
    pub fn follow(before: Option<Scale>, rates: impl Iterator<Item = Level> + Clone) -> Option<Scale> {
        let highest = rates.clone().max()?.0;
        let kept = before.filter(|scale| highest <= scale.top.0 && scale.top.0 - highest <= Scale::SLACK);
        let top = kept.map_or(Level(highest.saturating_add(Scale::HEADROOM)), |scale| scale.top);
        let (sum, count) = rates.fold((0u64, 0u64), |(sum, count), rate| (sum + rate.part(top), count + 1));
        let mean = sum / count.max(1);
        let kept = kept.filter(|scale| scale.mean.abs_diff(mean) < scale.mean / 16);
        kept.or(Some(Scale { top, mean }))
    }

    /// The weight of a share in the group: at least 1, or 0 for `Weight(0)`.
    pub fn weight(self, share: Share, weight_max: u16) -> u16 {
        let (part, of) = match share {
            Share::Rate(rate) => (rate.part(self.top), weight_max),
            Share::Weight(0) => return 0,
            Share::Weight(weight) => (self.mean, weight),
        };
        // Both factors are below 2³³ and 2¹⁶; the product is rounded.
        (((part * u64::from(of) + (1 << 31)) >> 32) as u16).max(1)
    }
}

impl Level {
    /// This rate as a share of `top`, at most 1, in units of 2⁻³².
    fn part(self, top: Level) -> u64 {
        let below = top.0.saturating_sub(self.0);
        u64::from(PARTS[usize::from(below % 1024)]) >> (below / 1024)
    }
}

/// 2^(32 - step/1024), at most `u32::MAX`. Whole numbers make the same weight on every machine, and are fast: a push needs
/// one for each member.
static PARTS: [u32; 1024] = {
    /// 2^(-1/1024) in units of 2⁻⁶³.
    const STEP: u128 = 9_217_130_834_664_616_069;
    let mut parts = [u32::MAX; 1024];
    let mut part: u128 = 1 << 63;
    let mut step = 1;
    while step < 1024 {
        part = (part * STEP) >> 63;
        parts[step] = (part >> 31) as u32;
        step += 1;
    }
    parts
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_keep_ratios() {
        for (one, other) in [(1.0, 1.0), (1000.0, 250.0), (0.001, 4e9), (3.7, 3.6)] {
            let ratio = Level::of(one).over(Level::of(other));
            assert!((ratio / (one / other) - 1.0).abs() < 1e-3, "{one} {other} {ratio}");
        }
    }

    #[test]
    fn rates_off_the_scale_become_its_ends() {
        assert_eq!(Level::of(f64::NAN), Level(0));
        assert_eq!(Level::of(-1.0), Level(0));
        assert_eq!(Level::of(0.0), Level(0));
        assert_eq!(Level::of(f64::INFINITY), Level(u16::MAX));
    }

    fn rates(rates: &[f64]) -> Vec<Level> {
        rates.iter().map(|&rate| Level::of(rate)).collect()
    }

    fn follow(before: Option<Scale>, list: &[f64]) -> Option<Scale> {
        Scale::follow(before, rates(list).into_iter())
    }

    #[test]
    fn parts_are_powers_of_two() {
        for step in 0..4096u16 {
            let part = Level(10_000 - step).part(Level(10_000)) as f64;
            let exact = (32.0 - f64::from(step) / 1024.0).exp2();
            assert!((part - exact).abs() <= 2.0, "{step}: {part} {exact}");
        }
        assert_eq!(Level(10).part(Level(9)), u64::from(u32::MAX), "more than all is all");
    }

    #[test]
    fn weights_are_in_the_ratio_of_the_rates() {
        let scale = follow(None, &[100.0, 50.0, 1.0]).unwrap();
        let weight = |rate| scale.weight(Share::Rate(Level::of(rate)), 10_000);
        assert_eq!([weight(100.0), weight(50.0), weight(1.0)], [8889, 4444, 89]);
        assert_eq!(weight(0.0001), 1, "what is up has 1");
        // The mean of the three is 50.33, of a top of 112.5.
        assert_eq!(scale.weight(Share::Weight(10_000), 10_000), 4474);
        assert_eq!(scale.weight(Share::Weight(5_000), 10_000), 2237);
        assert_eq!(scale.weight(Share::Weight(1), 10_000), 1);
        assert_eq!(scale.weight(Share::Weight(0), 10_000), 0, "drained");
        assert_eq!(follow(None, &[]), None);
    }

    #[test]
    fn noise_leaves_the_scale_alone() {
        let scale = follow(None, &[100.0, 80.0]);
        assert_eq!(follow(scale, &[110.0, 78.0]), scale);
        assert_eq!(follow(scale, &[93.0, 85.0]), scale);
        let mean = follow(scale, &[60.0, 80.0]).unwrap();
        assert_eq!(Some(mean.top), scale.map(|scale| scale.top), "only the mean has moved");
        assert_ne!(Some(mean), scale);
        assert_ne!(follow(scale, &[113.0, 80.0]).unwrap().top, mean.top, "the highest is over the top");
        assert_ne!(follow(scale, &[50.0, 40.0]).unwrap().top, mean.top, "the highest is under half of the top");
    }

    #[test]
    fn to_follow_twice_is_to_follow_once() {
        let mut before = None;
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..1000 {
            let list: Vec<f64> = (0..rng.usize(1..5)).map(|_| rng.f64() * 300.0).collect();
            before = follow(before, &list);
            assert_eq!(follow(before, &list), before);
        }
    }
}
