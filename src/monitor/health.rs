//! Whether an endpoint is up, from the results of its checks.
//!
//! Rise and fall are HAProxy's: an endpoint that is up goes down after `fall` bad checks in a row, and an endpoint that is
//! down comes up after `rise` good checks in a row. Unlike in HAProxy, an endpoint can be *unknown*:
//!
//! - A new endpoint is unknown and counts as up. One good check makes it up, `fall` bad checks in a row make it down. So
//!   neither one lost packet nor a GWM that starts without its network takes a member out of service.
//! - A check that fails by this machine's fault is inconclusive. After `fall` inconclusive checks in a row the endpoint is
//!   unknown again, and keeps its contact flag. It is known again after one check that agrees with the flag, or after
//!   `rise` good or `fall` bad checks that do not.
//!
//! An endpoint is up if all its checks pass. The state of its agent is separate ([`AgentState`]): an agent can take the
//! endpoint down or out of service, but proves nothing about the checks. An agent that does not answer changes nothing.

use super::outcome::{Administration, Report};
use crate::roster::Times;

/// How many of the last checks [`History::share`] counts.
pub const HISTORY: u32 = u32::BITS;

/// The conclusion from the results of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckHealth {
    up: bool,
    known: bool,
    /// The number of last results in a row that contradict `up`.
    against: u8,
    /// The number of last results in a row that were inconclusive.
    blind: u8,
}

/// The result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The check passed.
    Good,
    /// The check failed.
    Bad,
    /// The check was inconclusive.
    Nothing,
}

impl CheckHealth {
    /// A check without a result.
    pub const NEW: CheckHealth = CheckHealth { up: true, known: false, against: 0, blind: 0 };

    /// A new check of an endpoint that had other checks, with this conclusion from them.
    pub fn inherited(standing: Standing) -> CheckHealth {
        CheckHealth { up: standing.up, known: standing.known, ..CheckHealth::NEW }
    }

    /// Whether the member is up by the last conclusion.
    pub fn up(self) -> bool {
        self.up
    }

    /// Whether the last conclusion still holds.
    pub fn known(self) -> bool {
        self.known
    }

    /// How many last results in a row contradict the conclusion.
    pub fn against(self) -> u8 {
        self.against
    }

    /// Whether the next result may change the conclusion: then the next check comes sooner.
    pub fn in_doubt(self) -> bool {
        !self.known || self.against > 0 || self.blind > 0
    }

    /// Takes the next result.
    pub fn note(&mut self, finding: Finding, times: &Times) {
        let good = match finding {
            Finding::Nothing => {
                self.blind = self.blind.saturating_add(1);
                self.known &= self.blind < times.fall;
                return;
            }
            Finding::Good => true,
            Finding::Bad => false,
        };
        self.blind = 0;
        if good == self.up {
            self.against = 0;
            self.known = true;
            return;
        }
        self.against = self.against.saturating_add(1);
        if self.against >= if good { times.rise } else { times.fall } {
            *self = CheckHealth { up: good, known: true, ..CheckHealth::NEW };
        }
    }
}

/// The last words of an agent; they hold until the agent says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentState {
    /// The agent said `down`, `fail` or `stopped`, and not `up` after that.
    pub down: bool,
    /// The wish of the member's administrator.
    pub administration: Administration,
}

impl AgentState {
    /// Takes the next answer.
    pub fn note(&mut self, report: &Report) {
        self.down = report.up.map_or(self.down, |up| !up);
        self.administration = report.administration.unwrap_or(self.administration);
    }

    /// Whether the member gets no new work, even if it is up.
    pub fn drained(&self) -> bool {
        self.administration != Administration::Ready
    }
}

/// The conclusion from all checks of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The endpoint is up, or counts as up while it is unknown.
    pub up: bool,
    /// `up` is known, not assumed.
    pub known: bool,
}

impl Standing {
    /// The standing from all checks without the agent's, from the state of the agent, and from whether the agent answered
    /// lately. Without other checks, an agent that answers makes the endpoint known.
    pub fn of(checks: impl Iterator<Item = CheckHealth>, agent: AgentState, agent_heard: bool) -> Standing {
        let (mut any, mut all_up, mut all_known, mut proved_down) = (false, true, true, agent.down && agent_heard);
        for check in checks {
            any = true;
            all_up &= check.up;
            all_known &= check.known;
            proved_down |= check.known && !check.up;
        }
        let known = proved_down || if any { all_known } else { agent_heard };
        Standing { up: all_up && !agent.down, known }
    }
}

/// One bit for each of the last [`HISTORY`] checks, 1 for a good one; the lowest bit is the newest check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History(u32);

impl History {
    /// No bad check.
    pub const NEW: History = History(u32::MAX);

    /// Takes the next result.
    pub fn note(&mut self, good: bool) {
        self.0 = self.0 << 1 | u32::from(good);
    }

    /// How many of the last [`HISTORY`] checks were bad.
    pub fn bad(self) -> u32 {
        self.0.count_zeros()
    }

    /// The share of good checks, 0 to 1.
    pub fn share(self) -> f32 {
        self.0.count_ones() as f32 / HISTORY as f32
    }
}

#[cfg(test)]
mod tests {
    use super::{Finding::*, *};

    /// HAProxy's own counter, as its documentation and source have it: 0 to rise + fall - 1, up from `rise` on.
    struct HaProxy(u16);

    impl HaProxy {
        fn note(&mut self, good: bool, times: &Times) {
            let (rise, top) = (u16::from(times.rise), u16::from(times.rise) + u16::from(times.fall) - 1);
            self.0 = match good {
                true if self.0 + 1 >= rise => top,
                true => self.0 + 1,
                false if self.0 > rise => self.0 - 1,
                false => 0,
            };
        }
    }

    #[test]
    fn conclusions_are_haproxys() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let times = Times { rise: random.u8(1..6), fall: random.u8(1..6), ..Times::default() };
            let mut ours = CheckHealth::NEW;
            ours.note(Good, &times);
            let mut theirs = HaProxy(u16::from(times.rise) + u16::from(times.fall) - 1);
            for step in 0..200 {
                let good = random.f32() < 0.6;
                ours.note(if good { Good } else { Bad }, &times);
                theirs.note(good, &times);
                assert_eq!(ours.up(), theirs.0 >= u16::from(times.rise), "seed {seed} step {step}");
                let top = u16::from(times.rise) + u16::from(times.fall) - 1;
                assert_eq!(ours.in_doubt(), theirs.0 != 0 && theirs.0 != top, "seed {seed} step {step}");
                assert!(ours.known());
            }
        }
    }

    /// The state after findings written as `+` good, `-` bad, `.` nothing: `U` up, `D` down, lower case if unknown.
    fn after(findings: &str) -> char {
        let times = Times { rise: 2, fall: 3, ..Times::default() };
        let mut health = CheckHealth::NEW;
        for finding in findings.chars() {
            let finding = match finding {
                '+' => Good,
                '-' => Bad,
                _ => Nothing,
            };
            health.note(finding, &times);
        }
        match (health.up(), health.known()) {
            (true, true) => 'U',
            (true, false) => 'u',
            (false, true) => 'D',
            (false, false) => 'd',
        }
    }

    #[test]
    fn what_is_new_is_unknown_until_something_is_concluded() {
        for (findings, state) in [
            ("", 'u'),
            ("+", 'U'),
            ("-", 'u'),
            ("--", 'u'),
            ("---", 'D'),
            ("-+", 'U'),
            ("...", 'u'),
            ("-.-.-", 'D'),
            ("---+", 'D'),
            ("---++", 'U'),
            ("---+-+", 'D'),
        ] {
            assert_eq!(after(findings), state, "{findings}");
        }
    }

    #[test]
    fn what_is_not_seen_any_more_is_unknown_as_it_was() {
        for (findings, state) in [
            ("+..", 'U'),
            ("+...", 'u'),
            ("+...+", 'U'),
            ("+...--", 'u'),
            ("+...---", 'D'),
            ("---..", 'D'),
            ("---...", 'd'),
            ("---...-", 'D'),
            ("---...+", 'd'),
            ("---...++", 'U'),
            ("+..+..", 'U'),
        ] {
            assert_eq!(after(findings), state, "{findings}");
        }
    }

    const UP: CheckHealth = CheckHealth { up: true, known: true, against: 0, blind: 0 };
    const DOWN: CheckHealth = CheckHealth { up: false, ..UP };
    const READY: AgentState = AgentState { down: false, administration: Administration::Ready };

    #[test]
    fn all_checks_must_pass() {
        let of = |checks: &[CheckHealth]| {
            let standing = Standing::of(checks.iter().copied(), READY, false);
            (standing.up, standing.known)
        };
        assert_eq!(of(&[UP, UP]), (true, true));
        assert_eq!(of(&[UP, DOWN]), (false, true));
        assert_eq!(of(&[UP, CheckHealth::NEW]), (true, false));
        assert_eq!(of(&[CheckHealth::NEW, DOWN]), (false, true), "one that fails is enough");
        assert_eq!(of(&[UP, CheckHealth { known: false, ..DOWN }]), (false, false), "contact stays what it was");
        assert_eq!(of(&[]), (true, false));
    }

    #[test]
    fn an_agent_takes_down_and_proves_only_where_nothing_else_does() {
        let of = |checks: &[CheckHealth], down, heard| {
            let standing = Standing::of(checks.iter().copied(), AgentState { down, ..READY }, heard);
            (standing.up, standing.known)
        };
        assert_eq!(of(&[UP], false, false), (true, true), "an agent that is not there changes nothing");
        assert_eq!(of(&[UP], true, true), (false, true));
        assert_eq!(of(&[UP], true, false), (false, true), "its word counts until it says otherwise");
        assert_eq!(of(&[DOWN], false, true), (false, true), "its `up` does not outweigh the checks");
        assert_eq!(of(&[CheckHealth::NEW], false, true), (true, false));
        assert_eq!(of(&[], false, true), (true, true));
        assert_eq!(of(&[], false, false), (true, false));
        assert_eq!(of(&[], true, false), (false, false));
    }

    #[test]
    fn an_agents_silence_about_something_leaves_it() {
        let mut agent = READY;
        agent.note(&Report { administration: Some(Administration::Maint), ..Report::default() });
        agent.note(&Report { up: Some(false), ..Report::default() });
        agent.note(&Report::default());
        assert!(agent.down && agent.drained());
        agent.note(&Report { up: Some(true), ..Report::default() });
        assert!(!agent.down && agent.drained(), "`up` does not end maintenance");
        agent.note(&Report { administration: Some(Administration::Ready), ..Report::default() });
        assert_eq!(agent, READY);
    }

    #[test]
    fn the_share_of_good_checks_is_of_the_last_ones() {
        let mut history = History::NEW;
        assert_eq!((history.share(), history.bad()), (1.0, 0));
        (0..8).for_each(|_| history.note(false));
        assert_eq!((history.share(), history.bad()), (0.75, 8));
        (0..24).for_each(|_| history.note(true));
        assert_eq!((history.share(), history.bad()), (0.75, 8));
        (0..8).for_each(|_| history.note(true));
        assert_eq!(history.share(), 1.0);
    }
}
