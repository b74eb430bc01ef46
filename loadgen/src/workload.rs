//! The workloads, one file each, and how each is run: a server's run, the floor's run, and so on in turn.

pub(crate) mod agent;
mod agents;
pub(crate) mod churn;
pub(crate) mod connect;
pub(crate) mod failover;
pub(crate) mod fanout;
pub(crate) mod handshakes;
pub(crate) mod idle;
pub(crate) mod mixed;
pub(crate) mod poll;
pub(crate) mod propagate;
pub(crate) mod reconnect;
pub(crate) mod register;
pub(crate) mod stalled;
pub(crate) mod sync;
pub(crate) mod takeover;
pub(crate) mod watch;

use std::{
    cell::{Cell, RefCell},
    io::{IsTerminal, Write},
    sync::Arc,
};

use glommio::task::JoinHandle;
use gwm::sasp::{ComponentType, ReturnCode, writer};
use serde_json::Value;

use crate::{
    Result,
    actor::{Actor, Incoming, sort},
    crowd::{Crowd, register},
    floor,
    model::{Change, Ticks, difference, get_weights},
    options::{Common, Load, Shape},
    player::{Received, Stage},
    report::{ADMIN, AGENT_CHECKS, FLOOR, Report, SERVER, Sample, TLS},
    subject::Subject,
    tls::Tls,
};

/// The Interval that a server is told to reply, in seconds.
pub(crate) const INTERVAL: u16 = 60;

/// Who takes the workload in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The GWM.
    Server,
    /// The bare loops.
    Floor,
}

/// One workload with its parameters.
pub(crate) trait Workload {
    /// Its name.
    const NAME: &'static str;

    /// Its parameters, in a line for people.
    fn title(&self) -> String;

    /// Its parameters, for programs.
    fn parameters(&self) -> Value;

    /// Whether each pair has a run under this load, too, just before the run without.
    fn load(&self) -> Option<Load> {
        None
    }

    /// One run, from starting what is measured to its end. Anything wrong in what was received is an error.
    fn run(&self, common: &Common, side: Side, progress: &Progress) -> Result<Sample>;
}

/// Runs a workload against one side, with `--tls` over TLS and under the load that it asks for before, and with
/// `--floor` against the floor too, as often as the flags ask for, and writes the report.
pub(crate) fn run<W: Workload>(workload: &W, common: &Common, of: Side) -> Result<()> {
    let tls = common.server.tls.tls;
    if tls && of == Side::Floor {
        return Err("the floor speaks no TLS".into());
    }
    let mut sides = Vec::new();
    if of == Side::Server {
        sides.extend(tls.then_some((Side::Server, TLS)));
        sides.extend(workload.load().map(|load| (Side::Server, named(load))));
        sides.push((Side::Server, SERVER));
    }
    if of == Side::Floor || common.floor {
        sides.push((Side::Floor, FLOOR));
    }
    let mut parameters = workload.parameters();
    parameters["tls"] = tls.then(|| common.server.tls.tls_version.number()).into();
    let mut report = Report {
        workload: W::NAME,
        title: workload.title() + &common.server.tls.title(),
        parameters,
        base: if tls || workload.load().is_some() { SERVER } else { FLOOR },
        runs: Vec::new(),
    };
    for pair in 1..=common.pairs {
        for &(side, name) in &sides {
            let mut common = common.clone();
            if name == TLS {
                common.server.tls.speaks = Some(Arc::new(Tls::new(common.server.tls.tls_version)?));
            }
            common.server.load = workload.load().filter(|load| named(*load) == name);
            let progress = Progress::new(&common, format!("{} {name} {pair}/{}", W::NAME, common.pairs));
            let sample = workload.run(&common, side, &progress).map_err(|error| format!("{name}: {error}"))?;
            report.runs.push((name, sample));
        }
    }
    report.write(common)
}

/// The side of runs under a load.
fn named(load: Load) -> &'static str {
    match load {
        Load::Admin => ADMIN,
        Load::AgentChecks(_) => AGENT_CHECKS,
    }
}

/// How far a run is, on a terminal.
pub(crate) struct Progress {
    label: String,
    shown: bool,
}

impl Progress {
    /// Shows nothing unless standard error is a terminal.
    pub(crate) fn new(common: &Common, label: String) -> Progress {
        Progress { label, shown: !common.quiet && std::io::stderr().is_terminal() }
    }

    /// Replaces the line.
    pub(crate) fn show(&self, what: &str, done: u64, of: u64) {
        if self.shown {
            // A terminal that is gone is no reason to stop measuring.
            let _ = write!(std::io::stderr(), "\r\x1b[K{}: {what} {done} of {of}", self.label);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// Starts, or finds, what a run is measured on, and says how load balancers of this shape get there. The floor answers
/// a Set LB State, by which a connection shows that it is accepted. Nothing is watched but what the operator's file says.
pub(crate) fn open(
    common: &Common,
    side: Side,
    shape: Shape,
    operator_file: Option<String>,
) -> Result<(Subject, Crowd)> {
    open_watching(common, side, shape, operator_file, vec![("--probe", "off".into())])
}

/// The same with flags that say what is watched.
pub(crate) fn open_watching(
    common: &Common,
    side: Side,
    shape: Shape,
    operator_file: Option<String>,
    watching: Vec<(&'static str, String)>,
) -> Result<(Subject, Crowd)> {
    let mut flags = [room_for(&shape, common), watching].concat();
    flags.extend(common.server.load.map(|load| match load {
        Load::Admin => ("--admin-listen", "127.0.0.1:0".into()),
        Load::AgentChecks(_) => ("--agent-listen", "127.0.0.1:0".into()),
    }));
    let subject = match side {
        Side::Server => Subject::server(&common.server, &flags, operator_file.as_deref())?,
        Side::Floor => {
            let mut floor = Subject::floor(common)?;
            floor.tell(floor::Order::Answer, &success(0, ComponentType::SET_LB_STATE_REPLY))?;
            floor
        }
    };
    let crowd = Crowd::new(&subject, common, shape, side);
    Ok((subject, crowd))
}

/// Weights by the operator's file alone: how they are made, and the file if the server has one of our making.
pub(crate) fn by_operator(common: &Common, shape: Shape) -> Result<(Change, Option<String>)> {
    let listed = common.server.lists_members();
    let change = Change { share: 1.0, weight_max: fanout::WEIGHT_MAX, seed: common.seed, listed };
    let file = listed.then(|| Ticks::new(shape, change, false).operator_file(0)).transpose()?;
    Ok((change, file))
}

/// Flags that give a server room for these load balancers.
fn room_for(shape: &Shape, common: &Common) -> Vec<(&'static str, String)> {
    vec![
        ("--poll-interval", format!("{INTERVAL}s")),
        ("--push-window", common.server.push_window.clone()),
        ("--max-memberships", shape.memberships().clamp(1_000_000, 7_000_000).to_string()),
        ("--max-memberships-per-lb", shape.memberships().clamp(1_000_000, 7_000_000).to_string()),
        ("--max-groups-per-lb", shape.groups.max(1024).to_string()),
        // Members of a workload may have nothing to say for long.
        ("--first-message-timeout", "1h".into()),
    ]
}

/// A reply of this type that says success.
pub(crate) fn success(id: u32, kind: ComponentType) -> Vec<u8> {
    let mut reply = Vec::new();
    writer::reply(&mut reply, id, kind, ReturnCode::SUCCESSFUL);
    reply
}

/// For those who are sent what they ask for and nothing else.
pub(crate) fn unwanted(_: &[u8]) -> Result<()> {
    Err("a push that nobody wanted".into())
}

/// Runs a part of a load balancer's life; an error before the end of the run ends it.
pub(crate) fn spawn(
    stage: &Arc<Stage>,
    number: u32,
    life: impl Future<Output = Result<()>> + 'static,
) -> JoinHandle<()> {
    let stage = stage.clone();
    glommio::spawn_local(async move {
        if let Err(error) = life.await
            && !stage.ended()
        {
            stage.fail(format!("LB {number}: {error}"));
        }
    })
    .detach()
}

/// Registers all groups of a load balancer, and asks for their weights.
pub(crate) async fn register_and_ask(actor: &Actor, shape: &Shape, lb: u32, ticks: &RefCell<Ticks>) -> Result<()> {
    register(actor, shape, lb, unwanted).await?;
    ask_weights(actor, lb, ticks).await
}

/// Asks for all weights of a load balancer and checks every byte of the reply, which is due as before the first tick.
pub(crate) async fn ask_weights(actor: &Actor, lb: u32, ticks: &RefCell<Ticks>) -> Result<()> {
    let (mut request, id) = (Vec::new(), actor.id());
    get_weights(lb, id, &mut request);
    actor.connection.send(&request).await?;
    let done = Cell::new(false);
    while !done.get() {
        let received = actor.connection.receive(|frame| match sort(frame)? {
            Incoming::Push(_) => unwanted(frame),
            Incoming::Reply(..) if done.replace(true) => Err("a second reply".into()),
            Incoming::Reply(_, _, frame) => {
                let mut ticks = ticks.borrow_mut();
                let expected = ticks.reply(lb, id, INTERVAL, None, 0)?;
                if frame == expected { Ok(()) } else { Err(format!("reply {id}: {}", difference(frame, expected))) }
            }
        });
        if received.await? == Received::Closed {
            return Err("closed by the server".into());
        }
    }
    Ok(())
}
