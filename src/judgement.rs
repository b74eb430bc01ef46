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
}
