//! How an agent's statements are smoothed: a steady agent's not at all, and a swinging agent's the longer the more the
//! agent swings.
//!
//! Many agents state the idle share of their server. That share falls as the weight rises, so at high load such
//! statements swing, and weights that follow at once make them swing more (tests/library/simulator/README.md).
//!
//! - A *turn* is a statement that moves against the moves before. Moves of less than 10 % do not count.
//! - The size of a turn is the smaller of the two moves that meet there, as a logarithm.
//! - Time constant = 20 s × sum of the sizes × (1 − 2 / number of turns), at most `--agent-smoothing`. Sum and number
//!   fade with a time constant of 60 s. So two turns smooth nothing.
//! - Falls are smoothed as logarithms, rises as they are: so one bad moment does not keep a server low.
//! - An agent that repeats itself is steady: five equal statements in a row end the swing.
//! - A statement of 0 always counts at once: the server wants no new work.

use std::time::Duration;

use super::policy::{approach, gain};

/// Time constant for turns of size 1.
const SECONDS_PER_SIZE: f32 = 20.0;

/// Time constant of forgetting turns, in seconds.
const FADE_SECONDS: f32 = 60.0;

/// So many turns smooth nothing.
const FREE_TURNS: f32 = 2.0;

/// The smallest move that counts, as a logarithm.
const LEAST_MOVE: f32 = 0.1;

/// The shortest time constant that counts, in seconds; below this, the agent is steady.
const LEAST_SECONDS: f32 = 2.0;

/// Equal statements in a row that end a swing.
const REPEATS: u8 = 5;

/// The statements of one agent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Swing {
    /// What counts now.
    value: f32,
    /// The smoothed statements; above 0.
    mean: f32,
    /// The last statement, and where the moves are counted from.
    stated: f32,
    from: f32,
    /// How far the statements have moved since the last turn, as a logarithm with a sign.
    moved: f32,
    /// Sum and number of the turns.
    sizes: f32,
    turns: f32,
    repeats: u8,
    smoothed: bool,
}

impl Swing {
    /// After the first statement. Where a mean is made, `least` counts in place of 0.
    pub fn new(stated: f32, least: f32) -> Swing {
        let from = stated.max(least);
        Swing {
            value: stated,
            mean: from,
            stated,
            from,
            moved: 0.0,
            sizes: 0.0,
            turns: 0.0,
            repeats: 0,
            smoothed: false,
        }
    }

    /// The next statement, `elapsed` after the one before.
    pub fn next(&mut self, stated: f32, least: f32, elapsed: Duration, longest: Duration) {
        let floored = stated.max(least);
        let fade = (-elapsed.as_secs_f32() / FADE_SECONDS).exp();
        self.sizes *= fade;
        self.turns *= fade;
        self.repeats = if stated == self.stated { self.repeats.saturating_add(1) } else { 0 };
        self.stated = stated;
        if self.repeats >= REPEATS {
            (self.sizes, self.turns, self.moved) = (0.0, 0.0, 0.0);
        }
        let step = (floored / self.from).ln();
        if step.abs() >= LEAST_MOVE {
            self.from = floored;
            if step * self.moved < 0.0 {
                self.sizes += step.abs().min(self.moved.abs());
                self.turns += 1.0;
                self.moved = step;
            } else {
                self.moved += step;
            }
        }
        let beyond = (1.0 - FREE_TURNS / self.turns.max(FREE_TURNS)) * SECONDS_PER_SIZE * self.sizes;
        let seconds = beyond.min(longest.as_secs_f32());
        self.smoothed = seconds > LEAST_SECONDS;
        if !self.smoothed {
            (self.mean, self.value) = (floored, stated);
            return;
        }
        let gain = gain(elapsed, Duration::from_secs_f32(seconds));
        let rises = floored > self.mean;
        self.mean = if rises { self.mean + (floored - self.mean) * gain } else { approach(self.mean, floored, gain) };
        self.value = if stated == 0.0 { 0.0 } else { self.mean };
    }

    /// What counts: the last statement of a steady agent, the smoothed ones of an agent that swings.
    pub fn value(&self) -> f32 {
        self.value
    }

    /// Whether the agent swings.
    pub fn is_smoothed(&self) -> bool {
        self.smoothed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECK: Duration = Duration::from_secs(2);
    const LONGEST: Duration = Duration::from_secs(60);

    /// After the first of these percentages, one each check; the swing and what counted after each.
    fn run(stated: &[f32]) -> (Swing, Vec<f32>) {
        let mut swing = Swing::new(stated[0], 1.0);
        let mut values = vec![swing.value()];
        for &next in &stated[1..] {
            swing.next(next, 1.0, CHECK, LONGEST);
            values.push(swing.value());
        }
        (swing, values)
    }

    #[test]
    fn a_steady_agents_step_counts_at_once() {
        let steps = [100.0, 100.0, 10.0, 10.0, 100.0, 100.0, 0.0, 0.0, 55.0, 3.0];
        let (_, values) = run(&steps[..7]);
        assert_eq!(values, steps[..7], "two turns");
        let noisy = [50.0, 52.0, 49.0, 51.0, 50.0, 52.0, 49.0, 51.0, 5.0, 0.0];
        assert_eq!(run(&noisy).1, noisy, "small moves are no turns");
        let falls: Vec<f32> = (0..=100).rev().map(|percent| percent as f32).collect();
        assert_eq!(run(&falls).1, falls, "a slope is no swing");
    }

    #[test]
    fn an_agent_that_swings_is_smoothed_the_more_the_more_it_swings() {
        let spread = |low: f32| {
            let stated: Vec<f32> = (0..40).map(|at| if at % 2 == 0 { 60.0 } else { low }).collect();
            let (swing, values) = run(&stated);
            assert!(swing.is_smoothed());
            (values[38] / values[39], values[39])
        };
        let (little, middle) = spread(40.0);
        assert!(little < 1.1 && (40.0..60.0).contains(&middle), "{little} {middle}");
        let (much, middle) = spread(2.0);
        assert!(much < 1.2 && (5.0..40.0).contains(&middle), "from 2 to 60: {much} {middle}");
    }

    #[test]
    fn a_swing_is_forgotten() {
        let swinging: Vec<f32> = (0..20).map(|at| if at % 2 == 0 { 80.0 } else { 20.0 }).collect();
        let (mut swing, _) = run(&swinging);
        swing.next(30.0, 1.0, CHECK, LONGEST);
        assert!(swing.value() != 30.0);
        swing.next(31.0, 1.0, Duration::from_secs(600), LONGEST);
        assert_eq!(swing.value(), 31.0, "ten minutes without a turn");

        let (mut swing, _) = run(&swinging);
        for repeat in 0..=5 {
            assert!(swing.value() != 75.0);
            swing.next(75.0, 1.0, CHECK, LONGEST);
            assert_eq!(swing.value() == 75.0, repeat == 5, "{repeat}");
        }
        swing.next(10.0, 1.0, CHECK, LONGEST);
        assert_eq!(swing.value(), 10.0, "it is steady");
    }

    #[test]
    fn a_swinging_agents_0_counts_at_once_and_the_mean_goes_on() {
        let swinging: Vec<f32> = (0..20).map(|at| if at % 2 == 0 { 80.0 } else { 20.0 }).collect();
        let (mut swing, values) = run(&swinging);
        swing.next(0.0, 1.0, CHECK, LONGEST);
        assert_eq!(swing.value(), 0.0);
        swing.next(80.0, 1.0, CHECK, LONGEST);
        let before = *values.last().expect("it has values");
        assert!((before * 0.7..before * 1.3).contains(&swing.value()), "{before} {}", swing.value());
    }

    #[test]
    fn without_smoothing_all_counts_at_once() {
        let mut swing = Swing::new(80.0, 1.0);
        for at in 0..40 {
            let stated = if at % 2 == 0 { 0.0 } else { 80.0 };
            swing.next(stated, 1.0, CHECK, Duration::ZERO);
            assert_eq!(swing.value(), stated);
        }
    }
}
