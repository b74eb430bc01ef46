//! Which judgement an endpoint gets, and how soon.

use std::{cell::Cell, sync::Arc, time::Duration};

use gwm::{
    judgement::{Earlier, Level, Policy, Share},
    monitor::{
        Outcome, Reason,
        outcome::{Administration, AgentWeight, Load, Report},
        policy::Tuning,
        table::MonitorSettings,
    },
    roster::{Check, Http, Member, Monitor, ReportRules, Roster},
    sasp::Endpoint,
};

use Share::Weight;

use super::rig::*;

const UP: Option<Said> = Some((true, true, Weight(100)));
/// The share after a time of being down: three of the last 32 checks were bad.
const BACK: Option<Said> = Some((true, true, Weight(91)));
/// How long each check takes.
const SLACK: Duration = Duration::from_millis(20);
const DOWN: Option<Said> = Some((false, true, Weight(0)));
const UNKNOWN: Option<Said> = Some((true, false, Weight(100)));

fn one(monitor: Monitor) -> Rig {
    let mut rig = Rig::new(roster(monitor), settings(), 1);
    rig.watch(0);
    rig
}

#[test]
fn one_good_check_settles_a_new_endpoint_and_fall_bad_ones_do() {
    let mut rig = one(Monitor::auto());
    rig.run(SECOND + SLACK, |_, _| pass());
    assert_eq!(rig.auto(), UP);

    let mut rig = one(Monitor::auto());
    while rig.starts.len() < 3 {
        assert_eq!(rig.auto(), None, "not judged yet");
        rig.run(SECOND / 100, |_, _| refuse());
    }
    rig.run(SLACK, |_, _| refuse());
    assert_eq!(rig.auto(), DOWN);
}

/// From the first bad check on, `fall` and `rise` checks at the fast interval.
#[test]
fn down_within_fall_and_up_within_rise() {
    for seed in 0..20 {
        let mut rig = Rig::new(roster(Monitor::auto()), settings(), seed);
        rig.watch(0);
        rig.run(SECOND * 5, |_, _| pass());
        rig.run(SECOND + SECOND / 10 * 2 + SLACK, |_, _| refuse());
        assert_eq!(rig.auto(), DOWN, "seed {seed}");
        rig.run(SECOND * 5, |_, _| refuse());
        rig.run(SECOND + SECOND / 10 + SLACK, |_, _| pass());
        assert_eq!(rig.auto(), BACK, "seed {seed}");
    }
}

#[test]
fn a_fault_of_this_machine_leaves_contact_and_takes_confidence() {
    let blind = |_, _: &_| (Duration::ZERO, Outcome::Inconclusive(Reason::NoNetwork));
    let mut rig = one(Monitor::auto());
    rig.run(SECOND, |_, _| pass());
    rig.run(SECOND * 3, blind);
    assert_eq!(rig.auto(), UNKNOWN);
    rig.run(SECOND, |_, _| pass());
    assert_eq!(rig.auto(), UP);
    rig.run(SECOND * 3, |_, _| refuse());
    rig.run(SECOND * 3, blind);
    assert_eq!(rig.auto(), Some((false, false, Weight(0))));
    rig.run(SECOND, |_, _| pass());
    assert_eq!(rig.auto(), BACK);
}

#[test]
fn a_flapping_endpoint_changes_no_faster_than_rise_and_fall_allow() {
    for (period, most) in [(1, 0), (2, 0), (3, 2), (10, 2), (30, 2)] {
        let mut rig = one(Monitor::auto());
        rig.run(SECOND * 2, |_, _| pass());
        rig.changes.set(0);
        let checks = Cell::new(0u32);
        rig.run(SECOND * 60, |_, _| {
            checks.set(checks.get() + 1);
            if (checks.get() / period).is_multiple_of(2) { pass() } else { refuse() }
        });
        let cycles = checks.get() / period / 2 + 1;
        // The share of good checks falls, and the judgement follows in steps of the dead band.
        let limit = cycles * most + 40;
        assert!(rig.changes.get() <= limit, "{period}: {} changes in {cycles} cycles", rig.changes.get());
        assert!(rig.auto().is_none_or(|(_, confident, _)| confident));
    }
}

#[test]
fn tcp_and_the_agent_are_kept_apart() {
    let mut rig = one(Monitor { auto: true, checks: [agent()].into() });
    let run = |rig: &mut Rig, tcp: bool, report: Option<Report>| {
        rig.run(SECOND * 4, |_, job| match (&job.check, report) {
            (Check::Agent(_), Some(report)) => say(report),
            (Check::Agent(_), None) => refuse(),
            _ if tcp => pass(),
            _ => refuse(),
        });
        rig.auto().unwrap()
    };
    let nothing = Report::default();
    let administration = |word| Some(Report { administration: Some(word), ..nothing });
    let up = |up| Some(Report { up: Some(up), ..nothing });
    assert_eq!(run(&mut rig, true, None), UP.unwrap(), "an agent that can not be reached changes nothing");
    assert_eq!(run(&mut rig, true, administration(Administration::Drain)), (true, true, Weight(0)));
    assert_eq!(run(&mut rig, true, None), (true, true, Weight(0)), "the last weight stays");
    assert_eq!(run(&mut rig, true, up(true)), (true, true, Weight(0)), "an agent that says up does not end a drain");
    assert_eq!(run(&mut rig, true, administration(Administration::Ready)), UP.unwrap());
    assert_eq!(run(&mut rig, true, up(false)), DOWN.unwrap());
    assert_eq!(run(&mut rig, true, up(true)), UP.unwrap());
    assert_eq!(run(&mut rig, false, up(true)), DOWN.unwrap(), "its `up` does not open the port");
    assert_eq!(run(&mut rig, true, None), BACK.unwrap());
}

#[test]
fn an_agent_alone_is_proof_until_its_answers_expire() {
    let mut rig = one(Monitor::of([agent()]));
    rig.run(SECOND * 10, |_, _| refuse());
    assert_eq!(rig.auto(), None, "nothing is known");
    rig.run(SECOND * 2, |_, _| say(Report { weight: Some(AgentWeight::Percent(50)), ..Report::default() }));
    assert_eq!(rig.auto(), Some((true, true, Weight(50))));
    rig.run(SECOND * 170, |_, _| refuse());
    assert_eq!(rig.auto(), Some((true, true, Weight(50))));
    rig.run(SECOND * 20, |_, _| refuse());
    assert_eq!(rig.auto(), UNKNOWN);
}

fn percent(percent: u16) -> Report {
    Report { weight: Some(AgentWeight::Percent(percent)), ..Report::default() }
}

fn weight(weight: u16) -> Report {
    Report { weight: Some(AgentWeight::Absolute(weight)), ..Report::default() }
}

/// What is said after the next check of the agent.
fn next(rig: &mut Rig, report: Report) -> Said {
    rig.run(SECOND + SLACK, |_, job| if matches!(job.check, Check::Agent(_)) { say(report) } else { pass() });
    rig.auto().unwrap()
}

#[test]
fn an_agents_word_is_said_after_its_next_check() {
    let mut rig = one(Monitor { auto: true, checks: [agent()].into() });
    for (report, said) in [
        (percent(100), 100),
        (percent(10), 10),
        (percent(9), 9),
        (percent(0), 0),
        (percent(1), 1),
        (weight(70), 70),
        (weight(0), 0),
        (weight(1), 1),
        (percent(75), 75),
    ] {
        assert_eq!(next(&mut rig, report), (true, true, Weight(said)), "{report:?}");
        let fixed = rig.said(0, Policy::Static).unwrap();
        assert_eq!(fixed, (true, true, Weight(100)), "no agent counts there");
    }
}

#[test]
fn an_agent_that_swings_is_smoothed_if_its_member_says_so() {
    for (smoothing, smoothed) in [(SECOND * 60, true), (Duration::ZERO, false)] {
        let member = Member::watched(100, Monitor { auto: true, checks: [agent()].into() }, times());
        let reports = ReportRules { agent_smoothing: smoothing, ..member.reports };
        let mut rig = Rig::new(Arc::new(Roster::new(Member { reports, ..member }, Policy::Auto)), settings(), 1);
        rig.watch(0);
        let mut weights = Vec::new();
        for turn in 0..20 {
            weights.push(next(&mut rig, percent(if turn % 2 == 0 { 80 } else { 20 })).2);
        }
        assert_eq!(weights[..4], [80, 20, 80, 20].map(Weight), "two turns are no swing");
        assert_eq!(weights[18..] != [80, 20].map(Weight), smoothed, "{weights:?}");
        assert_eq!(next(&mut rig, percent(0)), (true, true, Weight(0)), "0 is no new work, at once");
        assert_ne!(next(&mut rig, percent(80)).2, Weight(0));
    }
}

#[test]
fn a_statement_over_the_highest_weight_is_clamped_and_reported_once() {
    let mut rig = one(Monitor { auto: true, checks: [agent()].into() });
    let over = "the agent says weight:256; it counts as --weight-max, 100".to_owned();
    for (report, clamped) in [
        (weight(100), None),
        (percent(100), None),
        (weight(256), Some(over)),
        (weight(256), None),
        (percent(300), None),
    ] {
        assert_eq!(next(&mut rig, report), UP.unwrap());
        assert_eq!(std::mem::take(&mut rig.vain), Vec::from_iter(clamped), "{report:?}");
    }
    let mut rig = one(Monitor { auto: true, checks: [agent()].into() });
    next(&mut rig, percent(101));
    assert_eq!(rig.vain, ["the agent says 101%; it counts as --weight-max, 100"]);
}

#[test]
fn the_dead_band_and_the_lifetime_of_reports_are_the_members() {
    let monitor = Monitor { auto: true, checks: [agent()].into() };
    let run = |dead_band_percent, lifetime| {
        let member = Member::watched(100, monitor.clone(), times());
        let reports = ReportRules { dead_band_percent, lifetime, ..member.reports };
        let mut rig = Rig::new(Arc::new(Roster::new(Member { reports, ..member }, Policy::Auto)), settings(), 1);
        rig.watch(0);
        next(&mut rig, percent(50));
        rig
    };
    let mut rig = run(5, SECOND * 10);
    let silent =
        |_, job: &gwm::monitor::table::Job| if matches!(job.check, Check::Agent(_)) { refuse() } else { pass() };
    rig.run(SECOND * 8, silent);
    assert_eq!(rig.auto(), Some((true, true, Weight(50))));
    rig.run(SECOND * 3, silent);
    assert_eq!(rig.auto(), UP);
    // One check of 32 was bad: 3 % less.
    for (dead_band, said) in [(5, 100), (2, 97)] {
        let member = Member::watched(100, Monitor::auto(), times());
        let reports = ReportRules { dead_band_percent: dead_band, ..member.reports };
        let mut rig = Rig::new(Arc::new(Roster::new(Member { reports, ..member }, Policy::Auto)), settings(), 1);
        rig.watch(0);
        rig.run(SECOND * 3, |_, _| pass());
        let failed = Cell::new(false);
        rig.run(SECOND * 3, |_, _| if failed.replace(true) { pass() } else { refuse() });
        assert_eq!(rig.auto(), Some((true, true, Weight(said))), "{dead_band}");
    }
}

#[test]
fn the_smoothing_of_rates_is_the_members() {
    for (smoothing, at_once) in [(Duration::ZERO, true), (SECOND * 60, false)] {
        let member = http().default_member().as_ref().clone();
        let reports = ReportRules { rate_smoothing: smoothing, ..member.reports };
        let mut rig = Rig::new(Arc::new(Roster::new(Member { reports, ..member }, Policy::Auto)), settings(), 1);
        rig.watch(0);
        for rps in [100.0, 10.0] {
            let load = Load { cpu_utilization: Some(0.5), rps: Some(rps), ..Load::default() };
            rig.run(SECOND + SLACK, |_, _| (Duration::ZERO, Outcome::Load(load)));
        }
        let (.., Share::Rate(level)) = rig.auto().unwrap() else { panic!("no rate") };
        assert_eq!(level == Level::of(20.0), at_once, "{level:?}");
    }
}

#[test]
fn old_reports_are_forgotten_where_other_checks_go_on() {
    let mut rig = one(Monitor { auto: true, checks: [agent()].into() });
    let mut step = |report: Option<Report>, seconds| {
        rig.run(SECOND * seconds, |_, job| match (&job.check, report) {
            (Check::Agent(_), Some(report)) => say(report),
            (Check::Agent(_), None) => refuse(),
            _ => pass(),
        });
        (rig.said(0, Policy::Agent).unwrap(), rig.auto().unwrap())
    };
    let half = Report { weight: Some(AgentWeight::Percent(50)), ..Report::default() };
    assert_eq!(step(Some(half), 3), ((true, true, Weight(50)), (true, true, Weight(50))));
    assert_eq!(step(None, 185), ((true, false, Weight(100)), (true, true, Weight(100))));
}

/// Slow starts that an earlier process has begun, and members that it left down.
#[test]
fn a_slow_start_of_an_earlier_process_goes_on() {
    let tuning = Tuning { slow_start: SECOND * 10, ..Tuning::default() };
    let begin = |earlier| {
        let mut rig = Rig::new(roster(Monitor::auto()), MonitorSettings { tuning, ..settings() }, 1);
        rig.watch_after(0, Some(earlier));
        rig
    };
    let weight = |rig: &Rig| match rig.auto() {
        Some((true, true, Weight(weight))) => weight,
        other => panic!("{other:?}"),
    };
    // 4 s are left of 10 s.
    let now = begin(Earlier { down: false, ramp_until: None }).now;
    let mut rig = begin(Earlier { down: false, ramp_until: Some(now + SECOND * 4) });
    rig.run(SECOND + SLACK, |_, _| pass());
    assert!((60..=72).contains(&weight(&rig)), "{}", weight(&rig));
    assert_eq!(rig.said[&0].ramp_until, Some(now + SECOND * 4));
    rig.run(SECOND * 4, |_, _| pass());
    assert_eq!((weight(&rig), rig.said[&0].ramp_until), (100, None));

    // This process's slow start is shorter than what is left.
    let mut rig = begin(Earlier { down: false, ramp_until: Some(now + SECOND * 3600) });
    rig.run(SECOND + SLACK, |_, _| pass());
    assert!((1..=12).contains(&weight(&rig)), "{}", weight(&rig));
    rig.run(SECOND * 10, |_, _| pass());
    assert_eq!(weight(&rig), 100);

    // A member that was down is down, without three failures in a row.
    let mut rig = begin(Earlier { down: true, ramp_until: None });
    rig.run(SECOND + SLACK, |_, _| refuse());
    assert_eq!(rig.auto(), DOWN, "said by this process");
    assert!(rig.said[&0].turn.is_none(), "it is no news");
    // It comes up after two checks, and begins slowly.
    rig.run(SECOND * 3, |_, _| pass());
    assert!((1..=31).contains(&weight(&rig)), "{}", weight(&rig));
    assert!(rig.said[&0].ramp_until.is_some());

    // Without an earlier process, there is no slow start.
    let mut rig = Rig::new(roster(Monitor::auto()), MonitorSettings { tuning, ..settings() }, 1);
    rig.watch(0);
    rig.run(SECOND + SLACK, |_, _| pass());
    assert_eq!(rig.auto(), UP);
}

fn http() -> Roster {
    let mut member = Member::watched(100, Monitor::none(), times());
    member.monitor = Monitor::of([Check::Http(Arc::new(Http::default()))]);
    Roster::new(member, Policy::Auto)
}

#[test]
fn load_reports_make_a_rate_until_they_expire() {
    let mut rig = Rig::new(Arc::new(http()), settings(), 1);
    rig.watch(0);
    let busy = Load { cpu_utilization: Some(0.5), rps: Some(100.0), ..Load::default() };
    let mut step = |load: Option<Load>, time| {
        rig.run(time, |_, _| (Duration::ZERO, load.map_or(Outcome::Passed, Outcome::Load)));
        [Policy::Orca, Policy::Auto].map(|policy| rig.said(0, policy).unwrap())
    };
    let rate = Share::Rate(Level::of(200.0));
    assert_eq!(step(Some(busy), SECOND + SLACK), [(true, true, rate); 2]);
    let idle = Load { cpu_utilization: Some(0.01), rps: Some(0.0), ..Load::default() };
    assert_eq!(step(Some(idle), SECOND * 100), [(true, true, rate); 2], "an idle member is as it was");
    assert_eq!(step(Some(idle), SECOND * 100), [(true, true, Weight(100)); 2], "until that is too old");
    assert_eq!(step(None, SECOND * 200), [(true, false, Weight(100)), (true, true, Weight(100))]);
}

#[test]
fn a_utilisation_alone_makes_a_rate_until_there_is_one() {
    let mut rig = Rig::new(Arc::new(http()), settings(), 1);
    rig.watch(0);
    let mut step = |used, rps, time| {
        let load = Load { named_utilization: Some(used), rps, ..Load::default() };
        rig.run(time, |_, _| (Duration::ZERO, Outcome::Load(load)));
        match rig.said(0, Policy::Orca).unwrap() {
            (true, true, Share::Rate(level)) => level.over(Level::of(1.0)),
            other => panic!("{other:?}"),
        }
    };
    assert!((step(0.5, None, SECOND + SLACK) - 2.0).abs() < 0.01, "at once");
    let smoothed = step(0.25, None, SECOND * 10);
    assert!((2.2..3.8).contains(&smoothed), "{smoothed}");
    let settled = step(0.25, None, SECOND * 100);
    assert!((3.8..4.1).contains(&settled), "{settled}");
    assert!((step(0.5, Some(100.0), SECOND) - 200.0).abs() < 1.0, "a rate takes its place");
    assert!((step(0.25, None, SECOND * 100) - 200.0).abs() < 1.0, "and stays as long as it is known");
    assert!((step(0.25, None, SECOND * 100) - 4.0).abs() < 0.1);
}

#[test]
fn noise_is_smoothed_and_not_said() {
    let mut rig = Rig::new(Arc::new(http()), settings(), 1);
    rig.watch(0);
    let mut random = fastrand::Rng::with_seed(1);
    let mut noisy = |_, _: &_| {
        let noise = 1.0 + 0.1 * (random.f64() - 0.5);
        let rps = Some(100.0 * noise);
        (Duration::ZERO, Outcome::Load(Load { cpu_utilization: Some(0.5), rps, ..Load::default() }))
    };
    rig.run(SECOND * 30, &mut noisy);
    rig.changes.set(0);
    rig.run(SECOND * 1000, &mut noisy);
    // The reports differ by a tenth at most.
    assert!(rig.changes.get() <= 5, "{} changes from 1000 noisy reports", rig.changes.get());
    let (.., Share::Rate(level)) = rig.auto().unwrap() else { panic!("no rate") };
    assert!((level.over(Level::of(200.0)) - 1.0).abs() < 0.06);
}

#[test]
fn a_member_that_came_up_starts_slowly() {
    let tuning = Tuning { slow_start: SECOND * 10, ..Tuning::default() };
    let mut rig = Rig::new(roster(Monitor::auto()), MonitorSettings { tuning, ..settings() }, 1);
    rig.watch(0);
    rig.run(SECOND + SLACK, |_, _| pass());
    assert_eq!(rig.auto(), UP, "a member that was never down does not");
    rig.run(SECOND * 5, |_, _| refuse());
    let weight = |rig: &Rig| match rig.auto() {
        Some((true, true, Weight(weight))) => f32::from(weight),
        other => panic!("{other:?}"),
    };
    // Up after the second good check: within a second and a fast interval.
    while !rig.auto().is_some_and(|(contact, ..)| contact) {
        rig.run(SECOND / 100, |_, _| pass());
    }
    assert_eq!(weight(&rig), 1.0);
    // Three of the last 32 checks were bad when it went down.
    for (tenths, share) in [(50, 0.5), (30, 0.8)] {
        rig.run(SECOND / 10 * tenths, |_, _| pass());
        let expected = 100.0 * share * (29.0 / 32.0);
        assert!((weight(&rig) / expected - 1.0).abs() < 0.06, "{} for {expected}", weight(&rig));
    }
    rig.run(SECOND * 32, |_, _| pass());
    assert_eq!(rig.auto(), UP);
}

#[test]
fn a_reload_keeps_what_is_checked_as_before() {
    let member = |monitor| Member::watched(100, monitor, times());
    let mut rig = one(Monitor::auto());
    rig.watch(1);
    let first = endpoint(0);
    let answers = move |_, job: &gwm::monitor::table::Job| if job.endpoint == first { refuse() } else { pass() };
    rig.run(SECOND * 5, answers);
    let pace = |rig: &Rig, of: Endpoint| {
        let starts: Vec<_> =
            rig.starts.iter().filter(|(.., endpoint)| *endpoint == of).map(|(at, ..)| at.0 % 1_000_000_000).collect();
        starts.last().copied().unwrap()
    };
    let before = pace(&rig, endpoint(1));
    rig.changes.set(0);
    // Both are the same, except for the capacity of one.
    let mut roster = Roster::new(member(Monitor::auto()), Policy::Auto);
    roster.add(endpoint(1), Member { capacity: 40, ..member(Monitor::auto()) });
    rig.table.replan(rig.now, Arc::new(roster));
    rig.run(SECOND * 3, answers);
    assert_eq!((rig.auto(), rig.said(1, Policy::Auto)), (DOWN, Some((true, true, Weight(40)))));
    assert_eq!(rig.changes.get(), 1);
    assert_eq!(pace(&rig, endpoint(1)), before);
    // One more kind of check: the old judgement stays until the new check has a result.
    let more = Roster::new(
        member(Monitor { auto: true, checks: http().default_member().monitor.checks.clone() }),
        Policy::Auto,
    );
    rig.table.replan(rig.now, Arc::new(more));
    rig.run(Duration::ZERO, answers);
    assert_eq!((rig.auto(), rig.said(1, Policy::Auto)), (DOWN, UP));
    // A fixed weight needs no checks. Without any check the endpoint is unknown again.
    let fixed = Roster::new(Member::fixed(7), Policy::Auto);
    rig.table.replan(rig.now, Arc::new(fixed));
    rig.run(SECOND, answers);
    assert_eq!(rig.auto(), Some((true, true, Weight(7))));
    assert_eq!(rig.table.totals().checks, 0);
    rig.table.replan(rig.now, Arc::new(Roster::new(Member::unknown(100), Policy::Auto)));
    rig.run(SECOND, answers);
    assert_eq!(rig.auto(), UNKNOWN);
}

#[test]
fn what_is_watched_before_its_checks_say_anything_is_not_spoken_of() {
    let mut rig = Rig::new(Arc::new(Roster::new(Member::fixed(7), Policy::Auto)), settings(), 1);
    rig.watch(0);
    rig.run(SECOND * 10, |_, _| pass());
    assert_eq!((rig.said.len(), rig.starts.len(), rig.table.next_due()), (0, 0, None));
}
