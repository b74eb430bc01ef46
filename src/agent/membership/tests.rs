//! Exact sequences, and a random farm with what must always hold.

use super::*;

const TIMING: Timing =
    Timing { first_wait: Duration::from_millis(500), retry: Duration::from_secs(20), refresh: Duration::from_secs(30) };

const OK: ReturnCode = ReturnCode::SUCCESSFUL;
const SERVES: Words = Words { quiesce: false, opaque: 0 };
const QUIESCED: Words = Words { quiesce: true, opaque: 7 };

fn at(millis: u64) -> Time {
    Time(millis * 1_000_000)
}

/// The request that is due at this time.
#[track_caller]
fn ask(membership: &mut Membership, millis: u64) -> Request {
    let (due, request) = membership.due().expect("a request is due");
    assert!(due <= at(millis), "not before {due:?}");
    membership.ask(request);
    request
}

/// Answers the request that is due, with no randomness.
#[track_caller]
fn answer(membership: &mut Membership, millis: u64, request: Request, code: ReturnCode) -> Option<News> {
    assert_eq!(ask(membership, millis), request);
    membership.answered(at(millis), code, 0.0)
}

fn due_at(membership: &Membership) -> Option<u64> {
    membership.due().map(|(time, _)| time.0 / 1_000_000)
}

#[test]
fn a_service_that_has_not_answered_is_not_registered() {
    let mut membership = Membership::new(TIMING, false);
    assert_eq!(membership.due(), None);
    membership.wish(at(5), Wish::Leave(QUIESCED));
    assert_eq!(membership.due(), None, "what was never registered needs no quiesce");
    membership.wish(at(6), Wish::Gone);
    assert_eq!(membership.due(), None);
}

#[test]
fn from_registration_to_deregistration() {
    let mut membership = Membership::new(TIMING, false);
    membership.wish(at(0), Wish::Stay(SERVES));
    assert_eq!(answer(&mut membership, 0, Request::Register, OK), Some(News::Registered));
    assert!(membership.is_registered() && membership.is_told() && membership.is_own());
    // The registration is confirmed; an LB's own words are not overwritten by that.
    assert_eq!(due_at(&membership), Some(30_000));
    assert_eq!(answer(&mut membership, 30_000, Request::Register, ReturnCode::ALREADY_REGISTERED), None);
    assert_eq!(due_at(&membership), Some(60_000));
    membership.wish(at(31_000), Wish::Leave(QUIESCED));
    assert!(!membership.is_told());
    assert_eq!(answer(&mut membership, 31_000, Request::Say(QUIESCED), OK), None);
    assert!(membership.is_told());
    assert_eq!(membership.due(), None);
    membership.wish(at(32_000), Wish::Gone);
    assert_eq!(answer(&mut membership, 32_000, Request::Deregister, OK), Some(News::Deregistered));
    assert_eq!((membership.due(), membership.is_registered(), membership.is_told()), (None, false, true));
}

#[test]
fn who_found_it_registered_says_its_words_and_does_not_deregister() {
    let mut membership = Membership::new(TIMING, false);
    membership.wish(at(0), Wish::Stay(SERVES));
    let known = ReturnCode::ALREADY_REGISTERED;
    assert_eq!(answer(&mut membership, 0, Request::Register, known), Some(News::Found));
    // It may be quiesced from an earlier life.
    assert_eq!(answer(&mut membership, 0, Request::Say(SERVES), OK), None);
    membership.wish(at(1), Wish::Leave(QUIESCED));
    assert_eq!(answer(&mut membership, 1, Request::Say(QUIESCED), OK), None);
    membership.wish(at(2), Wish::Gone);
    assert_eq!((membership.due(), membership.is_told()), (None, true));
    // An earlier life of this agent registered it.
    let mut membership = Membership::new(TIMING, true);
    membership.wish(at(0), Wish::Stay(SERVES));
    answer(&mut membership, 0, Request::Register, known);
    answer(&mut membership, 0, Request::Say(SERVES), OK);
    membership.wish(at(2), Wish::Gone);
    assert_eq!(answer(&mut membership, 2, Request::Deregister, OK), Some(News::Deregistered));
}

#[test]
fn a_refusal_is_told_once_and_waits_double() {
    let mut membership = Membership::new(TIMING, false);
    membership.wish(at(0), Wish::Stay(SERVES));
    let (unknown, distrusted) = (ReturnCode::LB_NOT_CONTACTED, ReturnCode::NOT_ACCEPTED);
    let told = |code| Some(News::Refused(Request::Register, code));
    assert_eq!(answer(&mut membership, 0, Request::Register, unknown), told(unknown));
    let mut now = 0;
    for wait in [500, 1000, 2000, 4000, 8000, 16_000, 20_000, 20_000] {
        assert_eq!(due_at(&membership), Some(now + wait));
        now += wait;
        assert_eq!(answer(&mut membership, now, Request::Register, unknown), None);
    }
    now += 20_000;
    assert_eq!(answer(&mut membership, now, Request::Register, distrusted), told(distrusted));
    assert_eq!(membership.waits(), Some((Request::Register, distrusted)));
    now += 20_000;
    assert_eq!(answer(&mut membership, now, Request::Register, OK), Some(News::Registered));
    assert_eq!(membership.waits(), None);
    // A wait is up to half shorter, at random.
    membership.wish(at(now), Wish::Stay(QUIESCED));
    assert_eq!(ask(&mut membership, now), Request::Say(QUIESCED));
    membership.answered(at(now), distrusted, 1.0);
    assert_eq!(due_at(&membership), Some(now + 250));
    assert!(membership.is_registered());
}

#[test]
fn a_gwm_that_forgot_it_hears_everything_again() {
    let mut membership = Membership::new(TIMING, false);
    membership.wish(at(0), Wish::Stay(QUIESCED));
    answer(&mut membership, 0, Request::Register, OK);
    answer(&mut membership, 0, Request::Say(QUIESCED), OK);
    // The GWM was restarted.
    membership.session_ended();
    assert!(!membership.is_registered());
    assert_eq!(answer(&mut membership, 1, Request::Register, OK), Some(News::Registered));
    assert_eq!(answer(&mut membership, 1, Request::Say(QUIESCED), OK), None);
    // Only the connection ended: the GWM has the words.
    membership.session_ended();
    assert_eq!(answer(&mut membership, 2, Request::Register, ReturnCode::ALREADY_REGISTERED), None);
    assert!(membership.is_told());
    // The hold time has passed, and the LB is there again.
    assert_eq!(answer(&mut membership, 40_000, Request::Register, OK), Some(News::Lost));
    assert_eq!(answer(&mut membership, 40_000, Request::Say(QUIESCED), OK), None);
    // The answer to its words is lost: nobody knows whether they arrived.
    membership.wish(at(40_001), Wish::Stay(SERVES));
    assert_eq!(ask(&mut membership, 40_001), Request::Say(SERVES));
    membership.session_ended();
    answer(&mut membership, 40_002, Request::Register, ReturnCode::ALREADY_REGISTERED);
    assert_eq!(answer(&mut membership, 40_002, Request::Say(SERVES), OK), None);
}

#[test]
fn what_another_agent_may_have_deregistered_is_confirmed_at_once() {
    let mut membership = Membership::new(TIMING, false);
    membership.wish(at(0), Wish::Stay(SERVES));
    answer(&mut membership, 0, Request::Register, ReturnCode::ALREADY_REGISTERED);
    answer(&mut membership, 0, Request::Say(SERVES), OK);
    assert!(membership.due().is_some_and(|(due, _)| due > at(10)) && !membership.is_own());
    membership.confirm(false);
    assert_eq!(answer(&mut membership, 1, Request::Register, OK), Some(News::Lost));
    assert!(membership.is_own());
    // What it leaves to this agent, this agent deregisters.
    let mut left = Membership::new(TIMING, false);
    left.confirm(true);
    left.wish(at(0), Wish::Gone);
    assert_eq!(answer(&mut left, 0, Request::Deregister, OK), Some(News::Deregistered));
}

#[test]
fn who_leaves_does_not_come_back_to_a_gwm_that_forgot_it() {
    let mut membership = Membership::new(TIMING, false);
    membership.wish(at(0), Wish::Stay(SERVES));
    answer(&mut membership, 0, Request::Register, OK);
    membership.wish(at(1), Wish::Leave(QUIESCED));
    membership.session_ended();
    let forgotten = ReturnCode::LB_NOT_CONTACTED;
    assert_eq!(answer(&mut membership, 2, Request::Say(QUIESCED), forgotten), Some(News::Lost));
    assert_eq!((membership.due(), membership.is_told()), (None, true));
    membership.wish(at(3), Wish::Gone);
    assert_eq!(membership.due(), None);
}

#[test]
fn who_leaves_before_an_answer_tells_what_the_load_balancer_may_have_registered() {
    let leaves = || {
        let mut membership = Membership::new(TIMING, false);
        membership.wish(at(0), Wish::Stay(SERVES));
        membership.session_began();
        membership.wish(at(1), Wish::Leave(QUIESCED));
        assert!(!membership.is_told());
        membership
    };
    let mut known = leaves();
    assert_eq!(answer(&mut known, 1, Request::Say(QUIESCED), OK), None);
    known.wish(at(2), Wish::Gone);
    assert_eq!((known.due(), known.is_told()), (None, true), "it may be the load balancer's");
    // A refusal is enough, and the GWM has forgotten nothing.
    let mut unknown = leaves();
    assert_eq!(answer(&mut unknown, 1, Request::Say(QUIESCED), ReturnCode::NOT_REGISTERED), None);
    assert_eq!((unknown.due(), unknown.is_told()), (None, true));
    let mut distrusted = leaves();
    answer(&mut distrusted, 1, Request::Say(QUIESCED), ReturnCode::NOT_ACCEPTED);
    assert_eq!((distrusted.due(), distrusted.is_told()), (None, true));
    // No session is begun for this.
    let mut alone = leaves();
    alone.session_ended();
    assert_eq!((alone.due(), alone.is_told()), (None, true));
    // The refused registration has said already that nothing is heard.
    let mut refused = Membership::new(TIMING, false);
    refused.session_began();
    refused.wish(at(0), Wish::Stay(SERVES));
    answer(&mut refused, 0, Request::Register, ReturnCode::NOT_ACCEPTED);
    refused.wish(at(1), Wish::Leave(QUIESCED));
    assert_eq!((refused.due(), refused.is_told()), (None, true));
}

#[test]
fn contradictory_answers_cause_no_storm() {
    let mut membership = Membership::new(TIMING, false);
    membership.wish(at(0), Wish::Stay(QUIESCED));
    let mut now = 0;
    let mut requests = 0;
    while now < 600_000 {
        let Some((due, request)) = membership.due() else { panic!("it gives up") };
        now = now.max(due.0 / 1_000_000);
        membership.ask(request);
        let code = match request {
            Request::Register => ReturnCode::ALREADY_REGISTERED,
            _ => ReturnCode::NOT_REGISTERED,
        };
        membership.answered(at(now), code, 0.5);
        requests += 1;
    }
    assert!(requests < 200, "{requests} requests in ten minutes");
}

/// A GWM of one membership that may forget everything and close the connection at any time.
#[derive(Default)]
struct Gwm {
    knows_lb: bool,
    member: Option<Words>,
    registered_by_lb: bool,
    /// It was restarted: an agent can not tell who registered the member after that.
    restarted: bool,
}

impl Gwm {
    fn answer(&mut self, request: Request) -> ReturnCode {
        if !self.knows_lb {
            return ReturnCode::LB_NOT_CONTACTED;
        }
        match (request, self.member) {
            (Request::Register, Some(_)) => ReturnCode::ALREADY_REGISTERED,
            (Request::Register, None) => {
                (self.member, self.registered_by_lb) = (Some(Words::default()), false);
                OK
            }
            (_, None) => ReturnCode::NOT_REGISTERED,
            (Request::Say(words), Some(_)) => {
                self.member = Some(words);
                OK
            }
            (Request::Deregister, Some(_)) => {
                assert!(!self.registered_by_lb || self.restarted, "the member of the load balancer was deregistered");
                self.member = None;
                OK
            }
        }
    }
}

#[test]
fn whatever_happens_it_is_right_again_when_nothing_happens_any_more() {
    for seed in 0..2000 {
        play(seed);
    }
}

fn play(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut gwm = Gwm { knows_lb: random.bool(), ..Gwm::default() };
    // Whether the load balancer registers the member itself is the same for the whole play.
    let lb_registers = random.u8(0..4) == 0;
    let mut membership = Membership::new(TIMING, false);
    let mut now = Time::default();
    let mut wish = Wish::Wait;
    for _ in 0..random.u32(1..60) {
        now = now + Duration::from_millis(random.u64(0..40_000));
        let words = Words { quiesce: random.bool(), opaque: random.u8(0..3) };
        match random.u8(0..8) {
            0 => {
                wish = Wish::Stay(words);
                membership.wish(now, wish);
            }
            1 if wish != Wish::Wait => {
                wish = Wish::Leave(words);
                membership.wish(now, wish);
            }
            2 => {
                // A restart.
                gwm = Gwm { restarted: true, ..Gwm::default() };
                membership.session_ended();
            }
            3 => {
                gwm.knows_lb = true;
                if lb_registers && gwm.member.is_none() {
                    (gwm.member, gwm.registered_by_lb) = (Some(Words::default()), true);
                }
            }
            4 => {
                // The answer is lost with the connection; the request may have arrived.
                if let Some((_, request)) = membership.due() {
                    membership.session_began();
                    membership.ask(request);
                    if random.bool() && !lb_registers {
                        gwm.answer(request);
                    }
                }
                membership.session_ended();
            }
            _ => {
                if let Some((due, request)) = membership.due() {
                    now = now.max(due);
                    membership.session_began();
                    membership.ask(request);
                    let code = gwm.answer(request);
                    membership.answered(now, code, random.f64());
                }
            }
        }
    }
    gwm.knows_lb = true;
    let mut settle = |membership: &mut Membership, gwm: &mut Gwm, now: &mut Time| {
        let end = *now + Duration::from_secs(120);
        while let Some((due, request)) = membership.due().filter(|(due, _)| *due < end) {
            *now = (*now).max(due);
            membership.ask(request);
            let code = gwm.answer(request);
            membership.answered(*now, code, random.f64());
        }
        *now = end;
    };
    settle(&mut membership, &mut gwm, &mut now);
    match wish {
        Wish::Wait => assert!(gwm.member.is_none() || gwm.registered_by_lb, "seed {seed}"),
        Wish::Stay(words) => assert_eq!(gwm.member, Some(words), "seed {seed}"),
        Wish::Leave(words) => {
            assert!(gwm.member.is_none_or(|has| has == words || !membership.is_registered()), "seed {seed}")
        }
        Wish::Gone => unreachable!("not in the play"),
    }
    assert!(membership.is_told(), "seed {seed}");
    let own = membership.is_own();
    membership.wish(now, Wish::Gone);
    settle(&mut membership, &mut gwm, &mut now);
    assert!(membership.is_told() && (!own || gwm.member.is_none()), "seed {seed}");
}
