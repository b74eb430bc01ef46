//! What monitoring concludes of an endpoint: the words that [`monitor`](crate::monitor) speaks and
//! [`coordinator`](crate::coordinator) understands, neither of which knows the other.

use crate::sasp::EntryFlags;

/// One watch of one endpoint: the coordinator's number for the endpoint, and which of the watches under that number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WatchId {
    /// Reused after the endpoint has left all groups.
    pub index: u32,
    /// Tells apart the endpoints that used the same index; what is said of an earlier one is ignored.
    pub generation: u32,
}

/// A formula by which weights are made; `src/monitor/policy.rs` has the formulas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Policy {
    /// Configured capacity and health.
    Static,
    /// The same times the percentage that the member's agent states.
    Agent,
    /// The request rate that the member's own load report says it could bear.
    Orca,
    /// `Orca` where the member reports its load, times `Agent` where an agent speaks, else `Static`.
    Auto,
}

impl Policy {
    /// Every policy, each at its own number.
    pub const ALL: [Policy; 4] = [Policy::Static, Policy::Agent, Policy::Orca, Policy::Auto];
}

/// A request rate on a logarithmic scale of 1,024 steps an octave, from 2⁻³² to 2³² a second: two bytes that are
/// exact to 0.07 %, so that a dead band is a difference and a ratio is one, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(pub u16);

impl Level {
    const PER_OCTAVE: f64 = 1024.0;

    /// The level next to a rate; rates off the scale, and NaN, become its nearest end (NaN the lowest).
    pub fn of(rate: f64) -> Level {
        // `as` saturates, and makes NaN 0.
        Level(((rate.log2() + 32.0) * Level::PER_OCTAVE).round() as u16)
    }

    /// How many times `other`'s rate this one is.
    pub fn over(self, other: Level) -> f64 {
        ((f64::from(self.0) - f64::from(other.0)) / Level::PER_OCTAVE).exp2()
    }
}

/// How much work an endpoint can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// A weight, 0 to `--weight-max`, whatever the other members of the group have.
    Weight(u16),
    /// A rate to compare with those of the group's other members.
    Rate(Level),
}

/// What one policy says of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Contact and confident; no other flags.
    pub flags: EntryFlags,
    /// How much work it can take. A member that is up has 1 at least, whatever comes of the arithmetic, unless it
    /// is drained: that is `Weight(0)`.
    pub share: Share,
}

/// What is said of an endpoint now, by [`Policy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Of whom.
    pub watch: WatchId,
    /// By `Policy as usize`.
    pub verdicts: [Verdict; Policy::ALL.len()],
}

/// By what the rates of one group become weights: the rate that would get `--weight-max`, and the mean of the rates,
/// which a member that reports none is taken to have. Both stay as they are while the members' noise is small, so that
/// it does not change every weight of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    top: Level,
    /// Of the top, in units of 2⁻³².
    mean: u64,
}

impl Scale {
    /// Steps that the top is above the highest rate when it is set: 1.125 times, so that no weight is cut off when
    /// the highest rate grows a little.
    const HEADROOM: u16 = 174;

    /// The highest rate may fall so many steps below the top, an octave, until the top follows.
    const SLACK: u16 = 1024;

    /// The scale for these rates, where `before` has been in force until now; none without a rate.
    ///
    /// The top stays while the highest rate is from half of it up to it, and else becomes 1.125 times that. The mean
    /// stays while the top does and it is less than a sixteenth off, and else becomes the arithmetic mean.
    pub fn follow(before: Option<Scale>, rates: impl Iterator<Item = Level> + Clone) -> Option<Scale> {
        let highest = rates.clone().max()?.0;
        let kept = before.filter(|scale| highest <= scale.top.0 && scale.top.0 - highest <= Scale::SLACK);
        let top = kept.map_or(Level(highest.saturating_add(Scale::HEADROOM)), |scale| scale.top);
        let (sum, count) = rates.fold((0u64, 0u64), |(sum, count), rate| (sum + rate.part(top), count + 1));
        let mean = sum / count.max(1);
        let kept = kept.filter(|scale| scale.mean.abs_diff(mean) < scale.mean / 16);
        kept.or(Some(Scale { top, mean }))
    }

    /// What a share comes to in the group. A rate makes 1 at least; so does a weight, unless it is 0.
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
    /// How much of `top` this rate is, at most all of it, in units of 2⁻³².
    fn part(self, top: Level) -> u64 {
        let below = top.0.saturating_sub(self.0);
        u64::from(PARTS[usize::from(below % 1024)]) >> (below / 1024)
    }
}

/// 2^(32 - step/1024), less what does not fit into 32 bits. Whole numbers, so that a weight is the same everywhere,
/// and quick: a push asks for one a member.
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
