//! What the operator orders: it is carried out, answered, and logged for the audit.
//!
//! The audit line tells the truth: done, not done, or not known. So a task of its own carries out each order. The task
//! stays though the peer goes away, and though the coordinator takes longer than the peer is let wait.

use std::sync::Arc;

use tokio::{sync::oneshot, task::spawn_local, time};

use super::Daemon;
use crate::{
    admin::{
        Write,
        pages::{self, Done},
        request::Order,
    },
    coordinator::{Act, Acted, Answer, Ask, Cursor, Filter, Page, Pattern, Saying},
    runtime::daemon::Event,
    sasp::Escaped,
    web::{Problem, Response},
};

/// Pages that are looked at for a member that matches a word.
const MATCH_PAGES: usize = 16;

/// Carries out a write. If the coordinator lets the daemon's patience end, the answer is that nothing is known.
pub(super) async fn carry_out(daemon: &Arc<Daemon>, write: Write, from: String) -> Result<Response, Problem> {
    let (tell, told) = oneshot::channel();
    let daemon = daemon.clone();
    spawn_local(async move {
        let mut audit = Audit { write, from, outcome: Outcome::NotDone(ENDS.into()) };
        match audit.write.act(daemon.now(), &audit.from) {
            Some(act) => order(&daemon, act, &mut audit, tell).await,
            None => drop(tell.send(reload(&daemon, &mut audit))),
        }
    });
    told.await.map_err(|_| Problem::busy())?
}

/// What is known of a write, with words for people.
enum Outcome {
    Done(String),
    Refused(String),
    NotDone(String),
    NotKnown(String),
}

/// Why a write may have no other outcome.
const ENDS: &str = "the admin side ends";

/// A write. Its audit line is written when the value goes, also if the admin side ends before.
struct Audit {
    write: Write,
    from: String,
    outcome: Outcome,
}

impl Audit {
    fn log(&self, outcome: &Outcome) {
        let by = self.write.by.as_deref().map(|by| tracing::field::display(Escaped(by.as_bytes())));
        let (what, from, reason) = (what(&self.write.order), &self.from, Escaped(self.write.reason.as_bytes()));
        match outcome {
            Outcome::Done(text) => tracing::info!(by, %from, %reason, "operator: {what}: {text}"),
            Outcome::Refused(text) => tracing::warn!(by, %from, %reason, "operator: {what}: refused: {text}"),
            Outcome::NotDone(text) => tracing::warn!(by, %from, %reason, "operator: {what}: not done: {text}"),
            Outcome::NotKnown(text) => {
                tracing::warn!(by, %from, %reason, "operator: {what}: not known whether it is done: {text}");
            }
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.log(&self.outcome);
    }
}

/// Tells the main thread to read the files again.
fn reload(daemon: &Daemon, audit: &mut Audit) -> Result<Response, Problem> {
    if daemon.parts.events.send(Event::Reload).is_err() {
        return Err(Problem::busy());
    }
    let text = past(&audit.write.order);
    audit.outcome = Outcome::Done(text.into());
    let done = Done::new(text, &Acted::default(), &[], None, &daemon.parts.calendar);
    Ok(Response::json(200, &done))
}

/// Has the coordinator do it.
async fn order(daemon: &Daemon, act: Act, audit: &mut Audit, tell: oneshot::Sender<Result<Response, Problem>>) {
    let mut asked = match daemon.put(Ask::Act(act)).await {
        Ok(asked) => asked,
        Err(problem) => {
            audit.outcome = Outcome::NotDone(problem.message.clone());
            return drop(tell.send(Err(problem)));
        }
    };
    audit.outcome = Outcome::NotKnown(ENDS.into());
    let mut tell = Some(tell);
    let answer = match time::timeout(daemon.patience, &mut asked).await {
        Ok(answer) => answer,
        Err(_) => {
            audit.log(&Outcome::NotKnown("the coordinator is busy; another line follows".into()));
            let text = "the daemon has not said yet whether it is done: the log will tell";
            tell.take().map(|tell| tell.send(Err(Problem::new(503, "not_known", text))));
            asked.await
        }
    };
    let result = match answer {
        Ok(Answer::Acted(Ok(acted))) => {
            // From here on it is done, whatever else can be found out.
            audit.outcome = Outcome::Done(past(&audit.write.order).into());
            if tell.as_ref().is_none_or(oneshot::Sender::is_closed) {
                return; // nobody waits for more
            }
            let done = described(daemon, &audit.write.order, &acted).await;
            audit.outcome = Outcome::Done(done.done.clone());
            Ok(Response::json(200, &done))
        }
        Ok(Answer::Acted(Err(refused))) => {
            let problem = pages::refused(refused);
            audit.outcome = Outcome::Refused(problem.message.clone());
            Err(problem)
        }
        Ok(Answer::NotKept) => {
            let text = "in memory; the disk has not taken it, and a crash would undo it";
            audit.outcome = Outcome::Done(format!("{}, {text}", past(&audit.write.order)));
            Err(Problem::new(503, "not_kept", format!("it is done {text}: /readyz has more")))
        }
        _ => {
            audit.outcome = Outcome::NotKnown("the coordinator has ended".into());
            Err(Problem::busy())
        }
    };
    tell.map(|tell| tell.send(result));
}

/// What was done, and what is so now. What can not be found out is left out.
async fn described(daemon: &Daemon, order: &Order, acted: &Acted) -> Done {
    let words = match daemon.ask(Ask::Words).await {
        Ok(Answer::Words(words)) => words,
        _ => Vec::new(),
    };
    let mut text = String::from(past(order));
    let pattern = match order {
        Order::Say(_, pattern) | Order::Release(pattern) => Some(pattern),
        _ => None,
    };
    if let Order::Say(Saying::Resume, pattern) = order
        && let Some(word) = words.iter().find(|word| word.stays_beside(pattern))
    {
        text.push_str(&format!("; word {} quiesces in all groups, and stays in force", word.number));
    }
    let matches = match pattern {
        Some(pattern) => matches_now(daemon, pattern).await.unwrap_or(None),
        None => None,
    };
    Done::new(&text, acted, &words, matches, &daemon.parts.calendar)
}

/// What was done, for people.
fn past(order: &Order) -> &'static str {
    match order {
        Order::Say(Saying::Quiesce, _) => "quiesced",
        Order::Say(Saying::Resume, _) => "resumed",
        Order::Say(Saying::Weight(_), _) => "weight fixed",
        Order::Release(_) => "fixed weight ended",
        Order::Drop(_) => "the connection is closed; the load balancer is held, and may connect again",
        Order::Forget(_) => "forgotten",
        Order::Reload => "the files are read again; the log says what is in force",
    }
}

/// Whether any membership matches, if that is found out soon.
async fn matches_now(daemon: &Daemon, pattern: &Pattern) -> Result<Option<bool>, Problem> {
    let filter = Filter {
        lb_uid: pattern.lb_uid.clone(),
        group: pattern.group.clone(),
        address: pattern.address,
        port: pattern.port,
        protocol: pattern.protocol,
        ..Filter::default()
    };
    let mut after = Cursor::default();
    for _ in 0..MATCH_PAGES {
        match daemon.ask(Ask::Members(filter.clone(), Page { after, limit: 1 })).await? {
            Answer::Members(page) if !page.rows.is_empty() => return Ok(Some(true)),
            Answer::Members(page) => match page.next {
                Some(next) => after = next,
                None => return Ok(Some(false)),
            },
            _ => return Ok(Some(false)),
        }
    }
    Ok(None)
}

/// What a write wants, for the audit line.
fn what(order: &Order) -> String {
    match order {
        Order::Say(Saying::Quiesce, pattern) => format!("quiesce {pattern}"),
        Order::Say(Saying::Resume, pattern) => format!("resume {pattern}"),
        Order::Say(Saying::Weight(weight), pattern) => format!("fix weight {weight} of {pattern}"),
        Order::Release(pattern) => format!("release the weight of {pattern}"),
        Order::Drop(uid) => format!("drop load balancer \"{}\"", Escaped(uid)),
        Order::Forget(uid) => format!("forget load balancer \"{}\"", Escaped(uid)),
        Order::Reload => "reload".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Mutex, mpsc},
        time::{Duration, SystemTime},
    };

    use tokio::task::LocalSet;

    use super::*;
    use crate::{
        admin::Calendar,
        coordinator::{ActRefused, Settings, WordRefused},
        judgement::Policy,
        roster::{Member, Roster},
        runtime::{
            admin_thread::Parts,
            coordinator_thread::CoordinatorControl,
            daemon::Metrics,
            shard::{LIMITS, Shared},
        },
        web::Gate,
    };

    /// A daemon whose coordinator is the test.
    fn daemon(patience: Duration) -> (Arc<Daemon>, Arc<CoordinatorControl>, mpsc::Receiver<Event>) {
        let control = Arc::new(CoordinatorControl::new());
        let (events, inbox) = mpsc::channel();
        let settings = Settings {
            hold_time: Duration::from_secs(60),
            poll_interval_seconds: 64,
            push_window: Duration::ZERO,
            push_refresh: Duration::from_secs(60),
            max_load_balancers: 10,
            max_groups: 10,
            max_groups_per_lb: 10,
            max_members_per_group: 10,
            max_memberships_per_lb: 10,
            max_memberships: 10,
            weight_max: 100,
            roster: Arc::new(Roster::new(Member::unknown(100), Policy::Auto)),
            access: Arc::default(),
            icmp: false,
            panic_percent: 50,
            panic_time: Duration::from_secs(30),
            own_addresses: Arc::default(),
            hash_seed: 1,
        };
        let parts = Parts {
            control: control.clone(),
            monitoring: Vec::new(),
            bells: Vec::new(),
            metrics: Arc::new(Metrics::new(0)),
            shared: Arc::new(Shared::new(&LIMITS, None)),
            calendar: Calendar { zero: SystemTime::UNIX_EPOCH, words_survive: false },
            settings,
            max_probes: 0,
            flags: Vec::new(),
            warnings: Vec::new(),
            metrics_members: 0,
            #[cfg(feature = "fleet")]
            fleet: None,
            events,
            gate: Gate::default(),
        };
        let mut daemon = Daemon::new(parts);
        daemon.patience = patience;
        (Arc::new(daemon), control, inbox)
    }

    fn quiesce() -> Write {
        let order = Order::Say(Saying::Quiesce, Pattern::default());
        Write { order, reason: "why".into(), by: Some("ann".into()), expires_in: None }
    }

    /// The lines that `run` logs, each with its level.
    fn logged(run: impl Future<Output = ()>) -> Vec<String> {
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_target(false).without_time();
        let log = log.with_writer(move || writer.clone()).finish();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        tracing::subscriber::with_default(log, || {
            let tasks = LocalSet::new();
            runtime.block_on(tasks.run_until(run));
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).expect("text").lines().map(|line| line.trim().to_owned()).collect()
    }

    /// The next question to the coordinator, and how to answer it.
    async fn asked(control: &CoordinatorControl) -> (Ask, Box<dyn FnOnce(Answer) + Send>) {
        loop {
            if let Some(call) = control.calls.pop() {
                return (call.ask, call.answer);
            }
            time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Lets all tasks of the thread run until the write has no further line to log: it then has no part of the daemon.
    async fn until_over(daemon: &Arc<Daemon>) {
        while Arc::strong_count(daemon) > 1 {
            time::sleep(Duration::from_millis(1)).await;
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);
    const SOON: Duration = Duration::from_millis(20);

    #[test]
    fn an_act_that_takes_longer_than_the_patience_is_told_when_it_is_done() {
        let (daemon, control, _inbox) = daemon(SOON);
        let lines = logged(async {
            let problem = carry_out(&daemon, quiesce(), "there".into()).await.expect_err("nothing is known");
            assert_eq!((problem.status, problem.code), (503, "not_known"));
            let (ask, answer) = asked(&control).await;
            assert!(matches!(ask, Ask::Act(Act::Say(_))), "{ask:?}");
            answer(Answer::Acted(Ok(Acted { said: Some(1), unsaid: vec![] })));
            until_over(&daemon).await;
        });
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("WARN operator: quiesce all members: not known whether it is done"), "{lines:?}");
        assert!(lines[1].starts_with("INFO operator: quiesce all members: quiesced"), "{lines:?}");
        assert!(lines.iter().all(|line| line.ends_with("by=ann from=there reason=why")), "{lines:?}");
    }

    #[test]
    fn what_is_done_is_told_so_though_questions_after_it_fail() {
        let (daemon, control, _inbox) = daemon(SOON);
        let lines = logged(async {
            let coordinator = async {
                let (_, answer) = asked(&control).await;
                answer(Answer::Acted(Ok(Acted { said: Some(1), unsaid: vec![] })));
                // It answers nothing more.
            };
            let write = async { carry_out(&daemon, quiesce(), "there".into()).await };
            let (response, ()) = futures_lite::future::zip(write, coordinator).await;
            assert_eq!(response.expect("it is done").status, 200);
            until_over(&daemon).await;
        });
        assert!(lines.len() == 1 && lines[0].starts_with("INFO operator: quiesce all members: quiesced"), "{lines:?}");
    }

    #[test]
    fn what_is_done_in_memory_only_is_told_so() {
        let (daemon, control, _inbox) = daemon(HOUR);
        let lines = logged(async {
            let coordinator = async {
                let (_, answer) = asked(&control).await;
                answer(Answer::NotKept);
            };
            let write = async { carry_out(&daemon, quiesce(), "there".into()).await };
            let (response, ()) = futures_lite::future::zip(write, coordinator).await;
            let problem = response.expect_err("a crash would undo it");
            assert_eq!((problem.status, problem.code), (503, "not_kept"));
            until_over(&daemon).await;
        });
        assert!(lines.len() == 1 && lines[0].contains("quiesced, in memory; the disk has not taken it"), "{lines:?}");
    }

    #[test]
    fn an_act_that_the_coordinator_never_sees_is_not_done() {
        let (daemon, control, _inbox) = daemon(SOON);
        let lines = logged(async {
            // The queue is full.
            while daemon.put(Ask::Totals).await.is_ok() {}
            let problem = carry_out(&daemon, quiesce(), "there".into()).await.expect_err("the coordinator is busy");
            assert_eq!((problem.status, problem.code), (503, "busy"));
            until_over(&daemon).await;
        });
        assert!(std::iter::from_fn(|| control.calls.pop()).all(|call| call.ask == Ask::Totals));
        assert!(lines.len() == 1 && lines[0].contains("quiesce all members: not done: "), "{lines:?}");
    }

    #[test]
    fn a_refusal_is_told_and_so_is_an_end_without_an_answer() {
        let (daemon, control, inbox) = daemon(HOUR);
        let lines = logged(async {
            let refusals = [ActRefused::Word(WordRefused::Nothing), ActRefused::Disk].map(|refused| Some(Err(refused)));
            for outcome in refusals.into_iter().chain([None]) {
                let write = async { carry_out(&daemon, quiesce(), "there".into()).await };
                let coordinator = async {
                    let (_, answer) = asked(&control).await;
                    if let Some(outcome) = outcome {
                        answer(Answer::Acted(outcome));
                    }
                };
                let (response, ()) = futures_lite::future::zip(write, coordinator).await;
                assert!(response.is_err());
            }
            let reload = Write { order: Order::Reload, ..quiesce() };
            assert!(carry_out(&daemon, reload.clone(), "there".into()).await.is_ok());
            drop(inbox);
            assert!(carry_out(&daemon, reload, "there".into()).await.is_err(), "nobody reads files any more");
            until_over(&daemon).await;
        });
        assert!(lines.len() == 5 && lines[0].contains("quiesce all members: refused: "), "{lines:?}");
        assert!(lines[1].contains("quiesce all members: refused: the disk takes no changes"), "{lines:?}");
        assert!(lines[2].contains("quiesce all members: not known whether it is done: "), "{lines:?}");
        assert!(
            lines[3].contains("reload: the files are read again") && lines[4].contains("reload: not done"),
            "{lines:?}"
        );
    }

    #[test]
    fn what_the_end_of_the_admin_side_cuts_off_is_logged() {
        let (daemon, control, _inbox) = daemon(HOUR);
        let lines = logged(async {
            let (daemon, control) = (daemon.clone(), control.clone());
            spawn_local(async move { carry_out(&daemon, quiesce(), "there".into()).await });
            let (_, _answer) = asked(&control).await;
        });
        assert!(
            lines.len() == 1 && lines[0].contains("not known whether it is done: the admin side ends"),
            "{lines:?}"
        );
    }
}
